//! Redundant execution: a task is done by several executors, and what enough of them agree on is its result.
//!
//! A receipt says who computed something, not that it is right. For a strict task it can be compared: whoever computes the same
//! thing gets the same bytes. So a task may ask for *k of n*: n executors at once, and its result is what k of them have. Three
//! rules keep that honest:
//!
//! - **Nobody copies.** An executor first pledges: a hash over its result, a salt that only it knows, and its own key. Receipts
//!   are shown when n have pledged, or k have and [`REVEAL_AFTER`] has passed. Who shows something else than it pledged has lied.
//! - **Nobody decides alone.** Nothing is committed, and no failure counts, before k receipts say the same. Fewer than k liars of
//!   one mind cannot have their way, whatever else they do; k of them can, and n keys of one owner are one executor.
//! - **Disagreement is kept.** Two receipts of different results for the same question, with their orders, are [`Evidence`] that
//!   anybody can check: at least one of the two is wrong, and both are signed.
//!
//! An *audit* is the same for tasks that are done by one: with some chance a committed task is ordered once more from somebody
//! else, only to be compared. It undoes nothing and holds nobody up; it makes lying in the long run a bad idea.

use super::encoding::dict_of;
use super::order::Order;
use super::receipt::{BundleError, Receipt};
use super::run::CloseClass;
use super::signed::{Signed, Statement};
use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, Keypair, PublicKey, RunId};
use crate::port::ExitClass;
use crate::time::Duration;
use std::collections::BTreeSet;

/// How long the others are waited for once enough have pledged: a slow executor costs the task no more than this.
pub const REVEAL_AFTER: Duration = Duration::from_secs(30);
/// How long an executor that is heard of may take to show what it has pledged: several of its own repetitions.
pub const REVEAL_MAX: Duration = Duration::from_secs(90);
/// Executors that are asked for one audit, one after the other, if the first cannot: it is not worth more.
pub const AUDITS_MAX: usize = 3;
/// Statements that are written into one piece of evidence: each is another opinion, and two are enough.
pub const EVIDENCE_MAX: usize = 4;
/// Statements in one file: as many as there may be executors of a task.
pub const STATEMENTS_MAX: usize = super::plan::CANDIDATES_MAX;

/// What makes a pledge say nothing of the result.
pub type Salt = [u8; 32];

/// The salt of an order's pledge: keyed by the executor's secret, so that it needs no storage and nobody else knows it.
pub fn salt_for(executor: &Keypair, order: &Digest) -> Salt {
    Digest::in_domain("rn/pledge-salt/v1", &[&executor.seed()[..], order.as_bytes()]).0
}

/// What an executor pledges before it shows `result`.
pub fn pledge_of(result: &Digest, salt: &Salt, executor: &PublicKey) -> Digest {
    Digest::in_domain("rn/pledge/v1", &[result.as_bytes(), salt, executor.as_bytes()])
}

/// What a receipt says, as far as it can be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Answer {
    /// A result, or the task's own failure: a function of the order.
    Result(Digest),
    /// A limit was hit: when that is, and what was written until then, depends on the machine.
    Limit,
}

impl Answer {
    /// `None`: it speaks of the machine and not of the task.
    pub fn of(receipt: &Receipt) -> Option<Answer> {
        match receipt.class {
            ExitClass::Success | ExitClass::User | ExitClass::Permanent => {
                Some(Answer::Result(receipt.result))
            }
            ExitClass::Resource => Some(Answer::Limit),
            ExitClass::Infra | ExitClass::Cancelled => None,
        }
    }
}

/// What becomes of a receipt beside the one that decided.
pub fn class_beside(decided: &Receipt, other: &Receipt) -> CloseClass {
    match (Answer::of(decided), Answer::of(other)) {
        (Some(a), Some(b)) if a == b => CloseClass::Agreed,
        (Some(Answer::Result(_)), Some(Answer::Result(_))) => CloseClass::Dissent,
        // A slower machine is no liar.
        (Some(Answer::Limit) | None, _) | (_, Some(Answer::Limit) | None) => CloseClass::Infra,
    }
}

/// Words about a receipt beside the one that decided.
pub fn words_beside(class: CloseClass, other: &Receipt) -> String {
    match class {
        CloseClass::Agreed => "it says the same".to_owned(),
        CloseClass::Dissent => format!("{} says otherwise: {}", other.executor, saying(other)),
        CloseClass::User
        | CloseClass::Resource
        | CloseClass::Permanent
        | CloseClass::Infra
        | CloseClass::Busy
        | CloseClass::Refused
        | CloseClass::Byzantine
        | CloseClass::Cancelled => format!("{} cannot be compared: {}", other.executor, saying(other)),
    }
}

/// What a receipt says, in words.
pub fn saying(receipt: &Receipt) -> String {
    let end = match receipt.class {
        ExitClass::Success => "success".to_owned(),
        ExitClass::User => format!("exit code {}", receipt.code),
        ExitClass::Resource => "a limit was hit".to_owned(),
        ExitClass::Permanent | ExitClass::Infra | ExitClass::Cancelled => receipt.detail.clone(),
    };
    format!("result {} ({end})", receipt.result)
}

/// An order with the receipt that answers it.
pub type Said = (Signed<Order>, Signed<Receipt>);

/// Whether two orders ask the same: only whom, as which attempt, when, and how the bytes travel may differ.
pub fn same_question(a: &Order, b: &Order) -> bool {
    let as_b = Order {
        executor: b.executor,
        fence: b.fence,
        light: b.light,
        pledge: b.pledge,
        nonce: b.nonce,
        issued: b.issued,
        limits: b.limits,
        ..a.clone()
    };
    as_b == *b
}

/// Writes statements for a file.
pub(super) fn statements_value(said: &[Said]) -> Vec<Value> {
    let one = |(o, r): &Said| {
        Dict::new().with("order", o.encode().as_slice()).with("receipt", r.encode().as_slice()).into()
    };
    said.iter().map(one).collect()
}

/// Reads what [`statements_value`] wrote.
pub(super) fn statements_of(d: &Dict, key: &'static str) -> Result<Vec<Said>, BundleError> {
    let items = d.list(key, STATEMENTS_MAX).map_err(BundleError::File)?;
    let one = |v: &Value| {
        let parts = dict_of(v, key).map_err(BundleError::File)?;
        if parts.0.len() != 2 {
            return Err(BundleError::File(DecodeError::invalid(key, "an order and a receipt, no more")));
        }
        let part = |key, max: usize| parts.bytes(key, max + 128).map_err(BundleError::File);
        let order = Signed::decode(part("order", Order::BODY_BYTES_MAX)?).map_err(BundleError::Order)?;
        let receipt =
            Signed::decode(part("receipt", Receipt::BODY_BYTES_MAX)?).map_err(BundleError::Receipt)?;
        Ok((order, receipt))
    };
    items.iter().map(one).collect()
}

/// Whether each receipt answers its order, all orders ask what the first one does, and nobody speaks twice.
pub(super) fn check_statements<'a>(said: impl IntoIterator<Item = &'a Said>) -> Result<(), BundleError> {
    let (mut first, mut speakers) = (None, BTreeSet::new());
    for (order, receipt) in said {
        receipt.answers(order)?;
        if !same_question(first.get_or_insert(order), order) {
            return Err(BundleError::OtherQuestion);
        }
        if !speakers.insert(receipt.executor) {
            return Err(BundleError::SpeaksTwice(receipt.executor));
        }
    }
    Ok(())
}

/// Executors that were asked the same and say different things, each signed: what `receipt verify` reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// Orders with the receipts that answer them; at least two of different results.
    pub said: Vec<Said>,
}

/// What evidence shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disagreement {
    /// Who asked.
    pub requester: PublicKey,
    /// In which run.
    pub run: RunId,
    /// Which task.
    pub task: String,
    /// Results, each with those who say it and with words, most said first.
    pub results: Vec<(Digest, Vec<PublicKey>, String)>,
}

impl Evidence {
    /// The bytes of an evidence file.
    pub fn encode(&self) -> Vec<u8> {
        Dict::new().with("evidence", statements_value(&self.said)).with("v", 1u64).encode()
    }

    /// Reads an evidence file; signatures are verified on the way.
    pub fn decode(bytes: &[u8]) -> Result<Evidence, BundleError> {
        let d = Dict::decode(bytes, EVIDENCE_BYTES_MAX).map_err(BundleError::File)?;
        if d.0.len() != 2 || d.u64("v").map_err(BundleError::File)? != 1 {
            return Err(BundleError::File(DecodeError::invalid("v", "not a piece of evidence of version 1")));
        }
        Ok(Evidence { said: statements_of(&d, "evidence")? })
    }

    /// Whether it shows that executors disagree, and how.
    pub fn verify(&self) -> Result<Disagreement, BundleError> {
        check_statements(&self.said)?;
        let Some((order, _)) = self.said.first() else { return Err(BundleError::NoDisagreement) };
        let mut results: Vec<(Digest, Vec<PublicKey>, String)> = Vec::new();
        for (_, receipt) in &self.said {
            let Some(Answer::Result(result)) = Answer::of(receipt) else { continue };
            match results.iter_mut().find(|(known, ..)| *known == result) {
                Some((_, who, _)) => who.push(receipt.executor),
                None => results.push((result, vec![receipt.executor], saying(receipt))),
            }
        }
        if results.len() < 2 {
            return Err(BundleError::NoDisagreement);
        }
        results.sort_by_key(|(_, who, _)| std::cmp::Reverse(who.len()));
        Ok(Disagreement { requester: order.requester, run: order.run, task: order.task.clone(), results })
    }
}

/// Largest file of statements that is read.
pub const EVIDENCE_BYTES_MAX: usize =
    (STATEMENTS_MAX + 1) * (Order::BODY_BYTES_MAX + Receipt::BODY_BYTES_MAX + 512);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::order::tests::order;
    use crate::job::receipt::tests::receipt_for;
    use crate::job::receipt::{ReceiptFault, result_digest};

    fn key(n: u8) -> Keypair {
        Keypair::from_seed(&[n; 32])
    }

    /// What executor `n` says, asked as attempt `n`.
    fn said(n: u8, text: &[u8]) -> Said {
        let (a, b) = (key(1), key(n));
        let o = Order { fence: u32::from(n), nonce: [n; 16], pledge: true, ..order(&a, &b) };
        let o = Signed::sign(o, &a);
        let mut r = receipt_for(&o, &b);
        r.outputs[0].digest = Digest::of(text);
        r.result = result_digest(r.class, r.code, &r.outputs);
        (o, Signed::sign(r, &b))
    }

    #[test]
    fn a_pledge_is_of_one_result_one_order_and_one_executor() {
        let (a, b) = (key(1), key(2));
        let (o, p) = (Digest::of(b"order"), Digest::of(b"other"));
        let result = Digest::of(b"result");
        let pledge = pledge_of(&result, &salt_for(&a, &o), &a.public());
        assert_eq!(pledge, pledge_of(&result, &salt_for(&a, &o), &a.public()), "needs no storage");
        assert_ne!(pledge, pledge_of(&Digest::of(b"x"), &salt_for(&a, &o), &a.public()));
        assert_ne!(
            pledge,
            pledge_of(&result, &salt_for(&a, &p), &a.public()),
            "says nothing of another order"
        );
        assert_ne!(pledge, pledge_of(&result, &salt_for(&a, &o), &b.public()), "nobody else's");
        assert_ne!(salt_for(&a, &o), salt_for(&b, &o));
    }

    #[test]
    fn evidence_shows_who_said_what_and_survives_its_file() {
        let evidence = Evidence { said: vec![said(2, b"wrong"), said(3, b"right"), said(4, b"right")] };
        let read = Evidence::decode(&evidence.encode()).unwrap();
        assert_eq!(read, evidence);
        let shown = read.verify().unwrap();
        let who: Vec<Vec<PublicKey>> = shown.results.iter().map(|(_, who, _)| who.clone()).collect();
        assert_eq!(who, [vec![key(3).public(), key(4).public()], vec![key(2).public()]]);
        assert_eq!(shown.task, "count");
    }

    #[test]
    fn evidence_that_shows_nothing_is_refused_with_the_reason() {
        let verify = |said: Vec<Said>| Evidence { said }.verify().unwrap_err();
        assert_eq!(verify(vec![]), BundleError::NoDisagreement);
        assert_eq!(verify(vec![said(2, b"same"), said(3, b"same")]), BundleError::NoDisagreement);
        let twice = BundleError::SpeaksTwice(key(2).public());
        assert_eq!(verify(vec![said(2, b"a"), said(2, b"b")]), twice);
        let crossed = vec![said(2, b"a"), (said(3, b"b").0, said(4, b"b").1)];
        assert_eq!(verify(crossed), BundleError::Fault(ReceiptFault::Order));
        let (o, _) = said(3, b"b");
        let other = Signed::sign(Order { args: vec!["other".into()], ..(*o).clone() }, &key(1));
        let answer = Signed::sign(receipt_for(&other, &key(3)), &key(3));
        assert_eq!(verify(vec![said(2, b"a"), (other, answer)]), BundleError::OtherQuestion);
    }

    #[test]
    fn a_limit_that_one_machine_hits_is_no_lie() {
        let (_, right) = said(2, b"right");
        let (_, wrong) = said(3, b"wrong");
        let limit = Receipt { class: ExitClass::Resource, code: 1, ..(*wrong).clone() };
        let spoiled = Receipt { class: ExitClass::Infra, ..limit.clone() };
        assert_eq!(class_beside(&right, &right), CloseClass::Agreed);
        assert_eq!(class_beside(&right, &wrong), CloseClass::Dissent);
        assert_eq!(class_beside(&right, &limit), CloseClass::Infra);
        assert_eq!(class_beside(&limit, &right), CloseClass::Infra);
        assert_eq!(
            class_beside(&limit, &Receipt { detail: "x".into(), ..limit.clone() }),
            CloseClass::Agreed
        );
        assert_eq!(Answer::of(&spoiled), None);
    }
}
