//! How far executors agree on a task, as the API says it.

use remote_network_core::command::AgreementView;
use serde::Serialize;

/// See [`AgreementView`]. The evidence itself is downloaded beside the receipt.
#[derive(Serialize)]
pub struct AgreementDto {
    agree: u32,
    of: u32,
    pledged: u32,
    agreed: Vec<String>,
    dissent: Vec<DissentDto>,
    has_evidence: bool,
}

#[derive(Serialize)]
struct DissentDto {
    peer: String,
    says: String,
}

impl From<&AgreementView> for AgreementDto {
    fn from(v: &AgreementView) -> Self {
        let dissent =
            v.dissent.iter().map(|(p, says)| DissentDto { peer: p.to_string(), says: says.clone() });
        Self {
            agree: v.agree,
            of: v.of,
            pledged: v.pledged,
            agreed: v.agreed.iter().map(ToString::to_string).collect(),
            dissent: dissent.collect(),
            has_evidence: v.evidence.is_some(),
        }
    }
}
