//! The receipt: an executor's signed word about one order, and the requester's signed answer to it.
//!
//! A receipt names the order by digest (and with it requester, task, fence, service, inputs and nonce), the module that
//! ran, how it ended and every output by digest. Receipts of an executor are numbered and each names the one before, so
//! an executor that tells two people different stories can be shown to have done so. The commit says what became of the
//! receipt at its requester. Together with the order they are a [`Bundle`], which anyone can check offline.

use super::encoding::{class_number, class_of, code_of, output_of, output_value, usage_of, usage_value};
use super::order::{Order, TASK_OUTPUTS_MAX};
use super::quorum::{EVIDENCE_BYTES_MAX, Said, check_statements, statements_of, statements_value};
use super::signed::{Signed, Statement};
use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, JobId, PublicKey, RunId};
use crate::port::{EngineInput, EngineOutput, ExitClass, Port, Program, Usage};
use crate::service::{NAME_MAX, program};
use crate::time::UnixTime;
use thiserror::Error;

/// Longest words about an exit in bytes.
pub const DETAIL_BYTES_MAX: usize = 500;

/// An executor's word about one order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Who ran it, and signs.
    pub executor: PublicKey,
    /// Its incarnation: changes when it loses its journal.
    pub incarnation: u64,
    /// Number of this receipt among the executor's; starts at 1.
    pub seq: u64,
    /// Digest of its receipt before this one; zeros for the first.
    pub previous: Digest,
    /// The order.
    pub order: Digest,
    /// The job.
    pub job: JobId,
    /// Name and version of the engine.
    pub engine: String,
    /// What ran.
    pub program: Program,
    /// How it ended.
    pub class: ExitClass,
    /// Exit code.
    pub code: i32,
    /// Words about the end.
    pub detail: String,
    /// What it left behind.
    pub outputs: Vec<EngineOutput>,
    /// Digest of exit and outputs: equal results have equal ones.
    pub result: Digest,
    /// What it used.
    pub usage: Usage,
    /// When it started by the executor's clock; for information.
    pub started: UnixTime,
    /// When it ended by the executor's clock; for information.
    pub ended: UnixTime,
}

/// Digest over how it ended and what it left: no times, no usage, no words.
pub fn result_digest(class: ExitClass, code: i32, outputs: &[EngineOutput]) -> Digest {
    let body = Dict::new()
        .with("class", class_number(class))
        .with("code", Value::Int(i64::from(code)))
        .with("out", outputs.iter().map(output_value).collect::<Vec<_>>());
    Digest::in_domain("rn/result/v1", &[&body.encode()])
}

impl Statement for Receipt {
    const DOMAIN: &'static str = "rn/receipt/v1";
    const BODY_BYTES_MAX: usize = 8 * 1024;

    fn signer(&self) -> &PublicKey {
        &self.executor
    }

    fn to_dict(&self) -> Dict {
        program::write(Dict::new(), &self.program)
            .with("class", class_number(self.class))
            .with("code", Value::Int(i64::from(self.code)))
            .with("detail", self.detail.as_str())
            .with("end", self.ended.as_millis())
            .with("engine", self.engine.as_str())
            .with("exec", &self.executor)
            .with("inc", &self.incarnation.to_be_bytes()[..])
            .with("job", &self.job.0[..])
            .with("order", &self.order)
            .with("out", self.outputs.iter().map(output_value).collect::<Vec<_>>())
            .with("prev", &self.previous)
            .with("result", &self.result)
            .with("seq", self.seq)
            .with("start", self.started.as_millis())
            .with("use", usage_value(&self.usage))
            .with("v", 1u64)
    }

    fn from_dict(d: &Dict) -> Result<Self, DecodeError> {
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "receipt version", number }),
        }
        let outputs: Vec<EngineOutput> =
            d.list("out", TASK_OUTPUTS_MAX)?.iter().map(output_of).collect::<Result<_, _>>()?;
        let receipt = Receipt {
            executor: d.key("exec")?,
            incarnation: u64::from_be_bytes(d.array("inc")?),
            seq: d.u64("seq")?,
            previous: d.digest("prev")?,
            order: d.digest("order")?,
            job: JobId(d.array("job")?),
            engine: d.text("engine", NAME_MAX)?,
            program: program::read(d)?,
            class: class_of(d.u64("class")?)?,
            code: code_of(d, "code")?,
            detail: d.text("detail", DETAIL_BYTES_MAX)?,
            outputs,
            result: d.digest("result")?,
            usage: usage_of(d, "use")?,
            started: UnixTime::from_millis(d.u64("start")?),
            ended: UnixTime::from_millis(d.u64("end")?),
        };
        if receipt.result != result_digest(receipt.class, receipt.code, &receipt.outputs) {
            return Err(DecodeError::invalid("result", "not the digest of exit and outputs"));
        }
        Ok(receipt)
    }
}

/// Why a receipt does not answer an order. The executor is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReceiptFault {
    /// It names another order.
    #[error("the receipt is for another order")]
    Order,
    /// Somebody else signed it than was asked.
    #[error("the receipt is by another executor than was ordered from")]
    Executor,
    /// It names another job than the order does.
    #[error("the receipt is for another job")]
    Job,
    /// Something else ran.
    #[error("something else ran than was ordered")]
    Program,
    /// The outputs are not the ordered ones.
    #[error("the receipt's outputs are not the ordered ports")]
    Outputs,
    /// A success without exit code 0, or the like.
    #[error("exit class and code contradict each other")]
    Exit,
}

impl Receipt {
    /// Whether this receipt answers `order`: the order's executor signed it, for this very order (and so for its nonce),
    /// ran its program, and a success has each ordered output once.
    pub fn answers(&self, order: &Signed<Order>) -> Result<(), ReceiptFault> {
        if self.order != order.digest() {
            return Err(ReceiptFault::Order);
        }
        if self.executor != order.executor {
            return Err(ReceiptFault::Executor);
        }
        if self.job != order.job() {
            return Err(ReceiptFault::Job);
        }
        if self.program != order.program {
            return Err(ReceiptFault::Program);
        }
        if self.class == ExitClass::Success && self.code != 0 {
            return Err(ReceiptFault::Exit);
        }
        let given = self.program.dataset().map(|dataset| dataset.output());
        if given.is_some_and(|given| self.outputs.iter().any(|o| *o != given)) {
            return Err(ReceiptFault::Outputs);
        }
        let once = |p: &Port| self.outputs.iter().filter(|o| o.port == *p).count() == 1;
        let ordered = self.outputs.iter().all(|o| order.outputs.contains(&o.port) && once(&o.port));
        let complete = self.class != ExitClass::Success || order.outputs.iter().all(once);
        if ordered && complete { Ok(()) } else { Err(ReceiptFault::Outputs) }
    }

    /// The output of `port`.
    pub fn output(&self, port: &Port) -> Option<&EngineOutput> {
        self.outputs.iter().find(|o| o.port == *port)
    }
}

/// What became of a receipt at its requester.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// It is the task's result.
    Won,
    /// Another attempt's result was taken.
    Superseded,
    /// It was accepted as the account of a failure.
    Failed,
    /// It does not verify.
    Rejected,
}

impl Verdict {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Won => "won",
            Verdict::Superseded => "superseded",
            Verdict::Failed => "failed",
            Verdict::Rejected => "rejected",
        }
    }

    const fn number(self) -> u64 {
        match self {
            Verdict::Won => 0,
            Verdict::Superseded => 1,
            Verdict::Failed => 2,
            Verdict::Rejected => 3,
        }
    }
}

/// A requester's answer to a receipt: the executor's proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Who answers, and signs.
    pub requester: PublicKey,
    /// The job.
    pub job: JobId,
    /// The order.
    pub order: Digest,
    /// The receipt.
    pub receipt: Digest,
    /// What became of it.
    pub verdict: Verdict,
    /// When.
    pub at: UnixTime,
}

impl Statement for Commit {
    const DOMAIN: &'static str = "rn/commit/v1";
    const BODY_BYTES_MAX: usize = 512;

    fn signer(&self) -> &PublicKey {
        &self.requester
    }

    fn to_dict(&self) -> Dict {
        Dict::new()
            .with("at", self.at.as_millis())
            .with("job", &self.job.0[..])
            .with("order", &self.order)
            .with("rcpt", &self.receipt)
            .with("req", &self.requester)
            .with("say", self.verdict.number())
            .with("v", 1u64)
    }

    fn from_dict(d: &Dict) -> Result<Self, DecodeError> {
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "commit version", number }),
        }
        let verdict = match d.u64("say")? {
            0 => Verdict::Won,
            1 => Verdict::Superseded,
            2 => Verdict::Failed,
            3 => Verdict::Rejected,
            number => return Err(DecodeError::Unknown { what: "verdict", number }),
        };
        Ok(Commit {
            requester: d.key("req")?,
            job: JobId(d.array("job")?),
            order: d.digest("order")?,
            receipt: d.digest("rcpt")?,
            verdict,
            at: UnixTime::from_millis(d.u64("at")?),
        })
    }
}

/// Order, receipt and, once the requester answered, commit: what `receipt verify` reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// The signed order.
    pub order: Signed<Order>,
    /// The signed receipt.
    pub receipt: Signed<Receipt>,
    /// The signed commit.
    pub commit: Signed<Commit>,
    /// What other executors say who were asked the same and have the same result.
    pub agreed: Vec<Said>,
}

/// Why a bundle proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BundleError {
    /// The file is no bundle.
    #[error("not a receipt file: {0}")]
    File(DecodeError),
    /// The order does not decode, or its signature does not hold.
    #[error("order: {0}")]
    Order(DecodeError),
    /// The receipt does not decode, or its signature does not hold.
    #[error("receipt: {0}")]
    Receipt(DecodeError),
    /// The commit does not decode, or its signature does not hold.
    #[error("commit: {0}")]
    Commit(DecodeError),
    /// The receipt does not answer the order.
    #[error("{0}")]
    Fault(#[from] ReceiptFault),
    /// The commit is about something else.
    #[error("the commit is not the requester's answer to this receipt")]
    Unrelated,
    /// Statements that are to be compared answer different questions.
    #[error("the orders do not ask the same")]
    OtherQuestion,
    /// One executor is heard twice.
    #[error("{0} speaks twice")]
    SpeaksTwice(PublicKey),
    /// A statement that is said to agree does not.
    #[error("{0} does not say the same")]
    NotAgreed(PublicKey),
    /// Evidence of nothing.
    #[error("nobody says anything that another denies")]
    NoDisagreement,
}

/// What a verified bundle proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Who asked.
    pub requester: PublicKey,
    /// Who ran it.
    pub executor: PublicKey,
    /// In which run.
    pub run: RunId,
    /// Which task.
    pub task: String,
    /// Which attempt.
    pub fence: u32,
    /// Which service.
    pub service: Digest,
    /// What ran.
    pub program: Program,
    /// On which inputs.
    pub inputs: Vec<EngineInput>,
    /// How it ended.
    pub exit: (ExitClass, i32),
    /// What it left.
    pub outputs: Vec<EngineOutput>,
    /// What it used, by the executor's word.
    pub usage: Usage,
    /// Name and version of the engine.
    pub engine: String,
    /// Number of the receipt, and digest of the one before.
    pub chain: (u64, Digest),
    /// Start and end by the executor's clock.
    pub times: (UnixTime, UnixTime),
    /// What the requester made of it, and when.
    pub verdict: (Verdict, UnixTime),
    /// Other executors that say the same. Keys, not people: one may have many.
    pub agreed: Vec<PublicKey>,
}

impl Bundle {
    /// The bytes of a receipt file.
    pub fn encode(&self) -> Vec<u8> {
        let agreed = (!self.agreed.is_empty()).then(|| statements_value(&self.agreed));
        Dict::new()
            .with_some("agreed", agreed)
            .with("commit", self.commit.encode().as_slice())
            .with("order", self.order.encode().as_slice())
            .with("receipt", self.receipt.encode().as_slice())
            .encode()
    }

    /// Whether the three belong together, and who else says the same.
    pub fn verify(&self) -> Result<Report, BundleError> {
        let (order, receipt, commit) = (&self.order, &self.receipt, &self.commit);
        receipt.answers(order)?;
        let related = commit.requester == order.requester
            && commit.job == receipt.job
            && commit.order == receipt.order
            && commit.receipt == receipt.digest();
        if !related {
            return Err(BundleError::Unrelated);
        }
        let own = (order.clone(), receipt.clone());
        check_statements(std::iter::once(&own).chain(&self.agreed))?;
        if let Some((_, other)) = self.agreed.iter().find(|(_, r)| r.result != receipt.result) {
            return Err(BundleError::NotAgreed(other.executor));
        }
        Ok(Report {
            requester: order.requester,
            executor: receipt.executor,
            run: order.run,
            task: order.task.clone(),
            fence: order.fence,
            service: order.service,
            program: order.program.clone(),
            inputs: order.inputs.clone(),
            exit: (receipt.class, receipt.code),
            outputs: receipt.outputs.clone(),
            usage: receipt.usage,
            engine: receipt.engine.clone(),
            chain: (receipt.seq, receipt.previous),
            times: (receipt.started, receipt.ended),
            verdict: (commit.verdict, commit.at),
            agreed: self.agreed.iter().map(|(_, r)| r.executor).collect(),
        })
    }
}

/// Checks three signed statements that are said to belong together.
pub fn verify_bundle(receipt: &[u8], order: &[u8], commit: &[u8]) -> Result<Report, BundleError> {
    bundle_of(receipt, order, commit, Vec::new())?.verify()
}

fn bundle_of(receipt: &[u8], order: &[u8], commit: &[u8], agreed: Vec<Said>) -> Result<Bundle, BundleError> {
    Ok(Bundle {
        order: Signed::decode(order).map_err(BundleError::Order)?,
        receipt: Signed::decode(receipt).map_err(BundleError::Receipt)?,
        commit: Signed::decode(commit).map_err(BundleError::Commit)?,
        agreed,
    })
}

/// Checks a receipt file: one dictionary of `order`, `receipt` and `commit`, and `agreed` if there are more receipts of the same
/// result. Nothing else is consulted.
pub fn verify_file(bytes: &[u8]) -> Result<Report, BundleError> {
    let parts = Dict::decode(bytes, EVIDENCE_BYTES_MAX).map_err(BundleError::File)?;
    let agreed = match parts.get("agreed") {
        None => Vec::new(),
        Some(_) => statements_of(&parts, "agreed")?,
    };
    if parts.0.len() != 3 + usize::from(!agreed.is_empty()) {
        return Err(BundleError::File(DecodeError::invalid("order", "exactly three parts are expected")));
    }
    let part = |key| parts.bytes(key, Order::BODY_BYTES_MAX + 128).map_err(BundleError::File);
    bundle_of(part("receipt")?, part("order")?, part("commit")?, agreed)?.verify()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::id::Keypair;
    use crate::job::order::tests::order;
    use proptest::prelude::*;

    fn keys() -> (Keypair, Keypair) {
        (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]))
    }

    pub(crate) fn receipt_for(o: &Signed<Order>, by: &Keypair) -> Receipt {
        let out = |port: &Port| EngineOutput {
            port: port.clone(),
            digest: Digest::of(b"out"),
            len: 3,
            truncated: false,
        };
        let outputs: Vec<_> = o.outputs.iter().map(out).collect();
        Receipt {
            executor: by.public(),
            incarnation: u64::MAX,
            seq: 1,
            previous: Digest([0; 32]),
            order: o.digest(),
            job: o.job(),
            engine: "wasmtime 48".into(),
            program: o.program.clone(),
            class: ExitClass::Success,
            code: 0,
            detail: String::new(),
            result: result_digest(ExitClass::Success, 0, &outputs),
            outputs,
            usage: Usage::default(),
            started: UnixTime::from_secs(1),
            ended: UnixTime::from_secs(2),
        }
    }

    fn bundle() -> Bundle {
        let (a, b) = keys();
        let order = Signed::sign(order(&a, &b), &a);
        let receipt = Signed::sign(receipt_for(&order, &b), &b);
        let commit = Commit {
            requester: a.public(),
            job: receipt.job,
            order: order.digest(),
            receipt: receipt.digest(),
            verdict: Verdict::Won,
            at: UnixTime::from_secs(3),
        };
        Bundle { order, receipt, commit: Signed::sign(commit, &a), agreed: Vec::new() }
    }

    #[test]
    fn an_honest_bundle_verifies_offline() {
        let report = verify_file(&bundle().encode()).unwrap();
        assert_eq!(report.verdict.0, Verdict::Won);
        assert_eq!(report.task, "count");
        assert_eq!(report.exit, (ExitClass::Success, 0));
    }

    #[test]
    fn a_bundle_says_how_many_others_agree() {
        let plain = bundle();
        let (a, others) = (Keypair::from_seed(&[1; 32]), [3, 4].map(|n| Keypair::from_seed(&[n; 32])));
        let said = |b: &Keypair, fence| {
            let o = Signed::sign(Order { fence, nonce: [7; 16], ..order(&a, b) }, &a);
            let r = Signed::sign(receipt_for(&o, b), b);
            (o, r)
        };
        let agreed = vec![said(&others[0], 2), said(&others[1], 3)];
        let full = Bundle { agreed: agreed.clone(), ..plain.clone() };
        let report = verify_file(&full.encode()).unwrap();
        assert_eq!(report.agreed, others.each_ref().map(Keypair::public));
        assert_eq!(verify_file(&plain.encode()).unwrap().agreed, []);
        let twice = Bundle { agreed: vec![agreed[0].clone(), agreed[0].clone()], ..plain.clone() };
        assert_eq!(twice.verify(), Err(BundleError::SpeaksTwice(others[0].public())));
        let (o, r) = agreed[0].clone();
        let mut other = (*r).clone();
        other.outputs[0].digest = Digest::of(b"other");
        other.result = result_digest(other.class, other.code, &other.outputs);
        let dissent = Bundle { agreed: vec![(o, Signed::sign(other, &others[0]))], ..plain };
        assert_eq!(verify_file(&dissent.encode()), Err(BundleError::NotAgreed(others[0].public())));
    }

    #[test]
    fn a_receipt_answers_its_own_order_only() {
        let (a, b) = keys();
        let first = Signed::sign(order(&a, &b), &a);
        let again = Signed::sign(Order { nonce: [1; 16], ..order(&a, &b) }, &a);
        let receipt = receipt_for(&first, &b);
        assert_eq!(receipt.answers(&first), Ok(()));
        assert_eq!(receipt.answers(&again), Err(ReceiptFault::Order));
        let by_another = Receipt { executor: a.public(), ..receipt.clone() };
        assert_eq!(by_another.answers(&first), Err(ReceiptFault::Executor));
        let other_module = Receipt { program: Program::Wasm(Digest::of(b"evil")), ..receipt.clone() };
        assert_eq!(other_module.answers(&first), Err(ReceiptFault::Program));
        let mut short = receipt.clone();
        short.outputs.pop();
        assert_eq!(short.answers(&first), Err(ReceiptFault::Outputs));
        let mut twice = receipt;
        twice.outputs[1] = twice.outputs[0].clone();
        assert_eq!(twice.answers(&first), Err(ReceiptFault::Outputs));
    }

    #[test]
    fn a_result_digest_that_is_not_of_the_result_is_refused() {
        let (a, b) = keys();
        let o = Signed::sign(order(&a, &b), &a);
        let lie = Receipt { result: Digest::of(b"nice"), ..receipt_for(&o, &b) };
        assert!(Signed::<Receipt>::decode(&Signed::sign(lie, &b).encode()).is_err());
    }

    #[test]
    fn a_commit_of_another_receipt_is_unrelated() {
        let mut b = bundle();
        let (a, executor) = keys();
        let mut other = receipt_for(&b.order, &executor);
        other.seq = 2;
        b.receipt = Signed::sign(other, &executor);
        assert_eq!(b.verify(), Err(BundleError::Unrelated));
        let stranger = Keypair::from_seed(&[9; 32]);
        let mut b = bundle();
        let forged = Commit { requester: stranger.public(), ..(*b.commit).clone() };
        b.commit = Signed::sign(forged, &stranger);
        assert_eq!(b.verify(), Err(BundleError::Unrelated));
        assert_ne!(a.public(), stranger.public());
    }

    proptest! {
        #[test]
        fn changing_any_byte_of_a_bundle_breaks_it(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = bundle().encode();
            let i = at.index(bytes.len());
            bytes[i] ^= 1 << bit;
            prop_assert!(verify_file(&bytes).is_err());
        }
    }
}
