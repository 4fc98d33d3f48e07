//! What executors say of a task that more than one of them has done.

use crate::id::PublicKey;
use bytes::Bytes;

/// How far executors agree on a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgreementView {
    /// So many must say the same; 1 if the task is only audited.
    pub agree: u32,
    /// So many are asked at once; 1 if the task is only audited.
    pub of: u32,
    /// Executors of open attempts that have pledged a result.
    pub pledged: u32,
    /// Executors that say what counts: who was committed first.
    pub agreed: Vec<PublicKey>,
    /// Executors that say otherwise, and what.
    pub dissent: Vec<(PublicKey, String)>,
    /// Orders and receipts of those who disagree: the file that `receipt verify` reads.
    pub evidence: Option<Bytes>,
}
