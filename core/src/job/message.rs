//! What requesters and executors say to each other, as frames of the control stream (kinds 0x10 to 0x1f, 0x50 and 0x51).
//!
//! Every message may be lost with its connection, repeated or late; each is idempotent, keyed by job. The sender is the
//! peer that TLS proved, so messages that only the job's own two ends may send carry no signature; what must convince others
//! later (orders, receipts, commits, tickets) does.
//!
//! An [`Message::Inventory`] is both greeting and heartbeat: it fits one frame, because an executor holds at most
//! [`JOBS_MAX`] jobs.

use super::carried;
use super::encoding::{dict_of, string_of};
use super::order::Order;
use super::quorum::Salt;
use super::receipt::{Commit, Receipt};
use super::signed::{Signed, Statement};
use crate::codec::{DecodeError, Dict, FRAME_BODY_MAX, Frame, Value};
use crate::id::{Digest, JobId, PublicKey};
use crate::limits::{JOBS_MAX, TASK_INPUTS_MAX};
use crate::time::Duration;
use bytes::Bytes;

/// First frame kind of this room.
pub const KIND_FIRST: u8 = 0x10;
/// Last frame kind of this room in this version; up to 0x1f are reserved for later ones.
pub const KIND_LAST: u8 = 0x1a;
/// First frame kind of the second block of this room.
pub const KIND_MORE_FIRST: u8 = 0x50;
/// Last frame kind of the second block.
pub const KIND_MORE_LAST: u8 = 0x51;
/// Largest ticket in bytes.
pub const TICKET_BYTES_MAX: usize = 256;
/// Longest words of a refusal in bytes.
pub const WORDS_BYTES_MAX: usize = 300;

/// Where an object can be fetched, and the requester's leave to do so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Who has it.
    pub holder: PublicKey,
    /// A ticket signed by the requester, opaque here; see [`super::ticket::ticket_for`].
    pub ticket: Bytes,
}

/// State of a job at its executor (SPEC 7.3), as told to the requester.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JobState {
    /// Accepted, waiting for a free slot.
    Admitted,
    /// Inputs are being fetched.
    Staging,
    /// The engine was told to start it.
    Starting,
    /// The guest runs.
    Running,
    /// The guest was told to stop.
    Stopping,
    /// Its receipt is signed and journaled.
    Sealed,
    /// The requester has answered the receipt; outputs are kept for those who need them.
    Retained,
    /// Its requester has not been heard for long; the result is kept for a while.
    Orphaned,
}

impl JobState {
    const ALL: [JobState; 8] = [
        JobState::Admitted,
        JobState::Staging,
        JobState::Starting,
        JobState::Running,
        JobState::Stopping,
        JobState::Sealed,
        JobState::Retained,
        JobState::Orphaned,
    ];

    /// The word for people and for the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            JobState::Admitted => "admitted",
            JobState::Staging => "staging",
            JobState::Starting => "starting",
            JobState::Running => "running",
            JobState::Stopping => "stopping",
            JobState::Sealed => "sealed",
            JobState::Retained => "retained",
            JobState::Orphaned => "orphaned",
        }
    }

    fn of(number: u64) -> Result<Self, DecodeError> {
        JobState::ALL
            .into_iter()
            .find(|s| *s as u64 == number)
            .ok_or(DecodeError::Unknown { what: "job state", number })
    }
}

/// Why an executor refuses an order. It decides what the requester does next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// No room now; the same order may be tried again later.
    Busy,
    /// Its owner does not let this requester run this service.
    NotAllowed,
    /// It does not offer this service, or not with this module.
    UnknownService,
    /// The order is not for it, or wants more than the service allows.
    BadOrder,
    /// This very job was cancelled or released before.
    Dead,
}

impl Refusal {
    const ALL: [Refusal; 5] =
        [Refusal::Busy, Refusal::NotAllowed, Refusal::UnknownService, Refusal::BadOrder, Refusal::Dead];

    fn of(number: u64) -> Result<Self, DecodeError> {
        Refusal::ALL
            .into_iter()
            .find(|s| *s as u64 == number)
            .ok_or(DecodeError::Unknown { what: "refusal", number })
    }
}

/// A job message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Executor: all jobs of this requester that are not released. On connect, and as a heartbeat.
    Inventory {
        /// Changes when the executor loses its journal.
        incarnation: u64,
        /// The jobs and their states.
        jobs: Vec<(JobId, JobState)>,
    },
    /// Requester: do this.
    Dispatch {
        /// What.
        order: Box<Signed<Order>>,
        /// For each input of the order, in order, where it can be fetched.
        sources: Vec<Vec<Source>>,
        /// The inputs themselves, of a light order.
        carried: Option<Vec<Bytes>>,
    },
    /// Executor: the order is journaled and will be done.
    Accepted {
        /// Which.
        job: JobId,
        /// The executor's incarnation.
        incarnation: u64,
    },
    /// Executor: the order will not be done.
    Rejected {
        /// Which.
        job: JobId,
        /// Why, for the requester's machine.
        refusal: Refusal,
        /// Why, for people.
        words: String,
        /// When it may be tried again; zero when there is no use.
        retry_after: Duration,
    },
    /// Requester: heard you. Extends the leases of all its jobs there.
    LeaseAck,
    /// Executor: a result. Repeated until answered.
    SealedOffer {
        /// The receipt.
        receipt: Box<Signed<Receipt>>,
        /// The outputs themselves, in the receipt's order, of a light job.
        carried: Option<Vec<Bytes>>,
        /// What the result was pledged with, of a job that was to be pledged.
        salt: Option<Salt>,
    },
    /// Executor: it has a result, of a job that is to be pledged. Repeated until it is to be shown.
    Pledge {
        /// Which.
        job: JobId,
        /// What it will show; see [`super::quorum::pledge_of`].
        hash: Digest,
    },
    /// Requester: show what you have pledged.
    Reveal {
        /// Which.
        job: JobId,
    },
    /// Requester: the answer to a result.
    ResultAck {
        /// The commit.
        commit: Box<Signed<Commit>>,
    },
    /// Requester: stop this job, and never start it. Repeated until answered.
    Cancel {
        /// Which.
        job: JobId,
    },
    /// Executor: the job does not run and never will.
    CancelAck {
        /// Which.
        job: JobId,
    },
    /// Requester: nothing of this job is needed any more.
    Release {
        /// Which.
        job: JobId,
    },
    /// Requester: it knows nothing of this job of an inventory. The executor may stop and forget it.
    UnknownRun {
        /// Which.
        job: JobId,
    },
}

/// Which machine a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressee {
    /// The requester.
    Requester,
    /// The executor.
    Executor,
}

fn job_dict(job: &JobId) -> Dict {
    Dict::new().with("job", &job.0[..])
}

fn job_in(d: &Dict) -> Result<JobId, DecodeError> {
    Ok(JobId(d.array("job")?))
}

impl Message {
    /// Which machine it is for.
    pub fn addressee(&self) -> Addressee {
        match self {
            Message::Inventory { .. }
            | Message::Accepted { .. }
            | Message::Rejected { .. }
            | Message::SealedOffer { .. }
            | Message::Pledge { .. }
            | Message::CancelAck { .. } => Addressee::Requester,
            Message::Dispatch { .. }
            | Message::Reveal { .. }
            | Message::LeaseAck
            | Message::ResultAck { .. }
            | Message::Cancel { .. }
            | Message::Release { .. }
            | Message::UnknownRun { .. } => Addressee::Executor,
        }
    }

    /// Whether it speaks of a job. The empty inventory that every peer begins with, and its answer, do not.
    pub fn is_about_a_job(&self) -> bool {
        match self {
            Message::Inventory { jobs, .. } => !jobs.is_empty(),
            Message::LeaseAck => false,
            Message::Dispatch { .. }
            | Message::Accepted { .. }
            | Message::Rejected { .. }
            | Message::SealedOffer { .. }
            | Message::Pledge { .. }
            | Message::Reveal { .. }
            | Message::ResultAck { .. }
            | Message::Cancel { .. }
            | Message::CancelAck { .. }
            | Message::Release { .. }
            | Message::UnknownRun { .. } => true,
        }
    }

    /// The frame on the wire.
    pub fn to_frame(&self) -> Frame {
        match self {
            Message::Inventory { incarnation, jobs } => {
                let job = |(id, state): &(JobId, JobState)| {
                    Value::from(vec![Value::from(&id.0[..]), Value::from(*state as u64)])
                };
                let jobs: Vec<Value> = jobs.iter().map(job).collect();
                Frame::new(0x10, &Dict::new().with("inc", &incarnation.to_be_bytes()[..]).with("jobs", jobs))
            }
            Message::Dispatch { order, sources, carried } => {
                let sources: Vec<Value> = sources.iter().map(|s| sources_value(s)).collect();
                let d = Dict::new().with("o", order.encode().as_slice()).with("src", sources);
                Frame::new(0x11, &carried::write(d, "in", carried.as_deref()))
            }
            Message::Accepted { job, incarnation } => {
                Frame::new(0x12, &job_dict(job).with("inc", &incarnation.to_be_bytes()[..]))
            }
            Message::Rejected { job, refusal, words, retry_after } => Frame::new(
                0x13,
                &job_dict(job)
                    .with("again", u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX))
                    .with("say", words.as_str())
                    .with("why", *refusal as u64),
            ),
            Message::LeaseAck => Frame::new(0x14, &Dict::new()),
            Message::SealedOffer { receipt, carried, salt } => {
                let d = Dict::new().with("r", receipt.encode().as_slice());
                let d = d.with_some("salt", salt.as_ref().map(|s| &s[..]));
                Frame::new(0x15, &carried::write(d, "out", carried.as_deref()))
            }
            Message::Pledge { job, hash } => Frame::new(0x50, &job_dict(job).with("h", hash)),
            Message::Reveal { job } => Frame::new(0x51, &job_dict(job)),
            Message::ResultAck { commit } => {
                Frame::new(0x16, &Dict::new().with("c", commit.encode().as_slice()))
            }
            Message::Cancel { job } => Frame::new(0x17, &job_dict(job)),
            Message::CancelAck { job } => Frame::new(0x18, &job_dict(job)),
            Message::Release { job } => Frame::new(0x19, &job_dict(job)),
            Message::UnknownRun { job } => Frame::new(0x1a, &job_dict(job)),
        }
    }

    /// Reads a frame of this room. Signatures inside are verified on the way.
    pub fn from_frame(frame: &Frame) -> Result<Message, DecodeError> {
        let d = Dict::decode(&frame.body, FRAME_BODY_MAX)?;
        Ok(match frame.kind {
            0x10 => {
                let jobs = d.list("jobs", JOBS_MAX)?.iter().map(listed_job);
                Message::Inventory {
                    incarnation: u64::from_be_bytes(d.array("inc")?),
                    jobs: jobs.collect::<Result<_, _>>()?,
                }
            }
            0x11 => {
                let order: Signed<Order> = Signed::decode(d.bytes("o", Order::BODY_BYTES_MAX + 128)?)?;
                let sources: Vec<Vec<Source>> =
                    d.list("src", TASK_INPUTS_MAX)?.iter().map(sources_of).collect::<Result<_, _>>()?;
                if sources.len() != order.inputs.len() {
                    return Err(DecodeError::invalid("src", "one list of sources for each input"));
                }
                let carried = carried::read(&d, "in", order.inputs.len())?;
                if carried.is_some() != order.light {
                    return Err(DecodeError::invalid(
                        "in",
                        "inputs come with a light order, and with no other",
                    ));
                }
                Message::Dispatch { order: Box::new(order), sources, carried }
            }
            0x12 => Message::Accepted { job: job_in(&d)?, incarnation: u64::from_be_bytes(d.array("inc")?) },
            0x13 => Message::Rejected {
                job: job_in(&d)?,
                refusal: Refusal::of(d.u64("why")?)?,
                words: d.text("say", WORDS_BYTES_MAX)?,
                retry_after: Duration::from_millis(d.u64("again")?),
            },
            0x14 => Message::LeaseAck,
            0x15 => {
                let receipt: Signed<Receipt> = Signed::decode(d.bytes("r", Receipt::BODY_BYTES_MAX + 128)?)?;
                let carried = carried::read(&d, "out", receipt.outputs.len())?;
                let salt = match d.get("salt") {
                    None => None,
                    Some(_) => Some(d.array("salt")?),
                };
                Message::SealedOffer { receipt: Box::new(receipt), carried, salt }
            }
            0x16 => Message::ResultAck {
                commit: Box::new(Signed::decode(d.bytes("c", Commit::BODY_BYTES_MAX + 128)?)?),
            },
            0x17 => Message::Cancel { job: job_in(&d)? },
            0x18 => Message::CancelAck { job: job_in(&d)? },
            0x19 => Message::Release { job: job_in(&d)? },
            0x1a => Message::UnknownRun { job: job_in(&d)? },
            0x50 => Message::Pledge { job: job_in(&d)?, hash: d.digest("h")? },
            0x51 => Message::Reveal { job: job_in(&d)? },
            kind => return Err(DecodeError::Unknown { what: "job message", number: u64::from(kind) }),
        })
    }
}

fn listed_job(v: &Value) -> Result<(JobId, JobState), DecodeError> {
    match v {
        Value::List(pair) => match pair.as_slice() {
            [Value::Bytes(id), state] => {
                let id = JobId::from_slice(id).map_err(|e| DecodeError::invalid("jobs", e.to_string()))?;
                Ok((id, JobState::of(state.as_u64().unwrap_or(u64::MAX))?))
            }
            _ => Err(DecodeError::invalid("jobs", "a job is an id and a state")),
        },
        Value::Int(_) | Value::Bytes(_) | Value::Dict(_) => {
            Err(DecodeError::invalid("jobs", "a job is an id and a state"))
        }
    }
}

/// Most sources of one input: one keeps the largest dispatch within a frame.
pub const SOURCES_MAX: usize = 1;

/// Sources of one input as a value.
pub fn sources_value(sources: &[Source]) -> Value {
    let one = |s: &Source| Dict::new().with("at", &s.holder).with("t", &s.ticket[..]).into();
    sources.iter().take(SOURCES_MAX).map(one).collect::<Vec<Value>>().into()
}

/// Reads what [`sources_value`] wrote.
pub fn sources_of(v: &Value) -> Result<Vec<Source>, DecodeError> {
    match v {
        Value::List(items) if items.len() <= SOURCES_MAX => items
            .iter()
            .map(|s| {
                let s = dict_of(s, "src")?;
                let ticket = Bytes::copy_from_slice(s.bytes("t", TICKET_BYTES_MAX)?);
                Ok(Source { holder: s.key("at")?, ticket })
            })
            .collect(),
        Value::List(_) | Value::Int(_) | Value::Bytes(_) | Value::Dict(_) => {
            Err(DecodeError::invalid("src", "not a short list of sources"))
        }
    }
}

/// Words cut to what a refusal may hold, without control characters.
pub fn cut_words(words: &str, max: usize) -> String {
    let mut out: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = out.len().min(max);
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    out.truncate(end);
    debug_assert!(string_of(&Value::from(out.as_str()), "say", max).is_ok());
    out
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::order;
    use super::*;
    use crate::id::{Digest, Keypair};
    use crate::port::{EngineInput, Port};
    use crate::service::NAME_MAX;
    use proptest::prelude::*;

    #[test]
    fn the_largest_messages_fit_a_frame() {
        let (a, b) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let mut o = order(&a, &b);
        let port = Port::Mount("m".repeat(NAME_MAX));
        o.inputs = vec![EngineInput { port, digest: Digest::of(b"x"), len: 1 << 40 }; TASK_INPUTS_MAX];
        let piece = "x".repeat(super::super::order::TASK_TEXT_BYTES_MAX / 256);
        o.args = vec![piece; 256];
        // A ticket has two keys, a digest, an expiry and a signature: about 190 bytes.
        let source = Source { holder: b.public(), ticket: Bytes::from(vec![0; 240]) };
        let m = Message::Dispatch {
            order: Box::new(Signed::sign(o, &a)),
            sources: vec![vec![source]; TASK_INPUTS_MAX],
            carried: None,
        };
        let Message::Dispatch { order, .. } = &m else { unreachable!() };
        let light = Order { light: true, ..Order::clone(order) };
        let mut carried = vec![Bytes::from_static(b"x"); TASK_INPUTS_MAX - 1];
        carried.push(vec![0; carried::CARRIED_BYTES_MAX + 1 - TASK_INPUTS_MAX].into());
        let light = Message::Dispatch {
            order: Box::new(Signed::sign(light, &a)),
            sources: vec![Vec::new(); TASK_INPUTS_MAX],
            carried: Some(carried),
        };
        for m in [m, light] {
            let frame = m.to_frame();
            assert!(frame.body.len() <= FRAME_BODY_MAX, "{}", frame.body.len());
            assert_eq!(Message::from_frame(&frame), Ok(m));
        }
        let jobs = vec![(JobId([255; 16]), JobState::Orphaned); JOBS_MAX];
        let m = Message::Inventory { incarnation: u64::MAX, jobs };
        assert_eq!(Message::from_frame(&m.to_frame()), Ok(m));
    }

    #[test]
    fn inputs_come_with_a_light_order_and_with_no_other() {
        let (a, b) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let message = |light, carried| {
            let order = Box::new(Signed::sign(Order { light, ..order(&a, &b) }, &a));
            Message::Dispatch { order, sources: vec![Vec::new()], carried }
        };
        let bytes = || Some(vec![Bytes::from_static(b"in")]);
        for (light, carried, right) in
            [(true, bytes(), true), (true, None, false), (false, bytes(), false), (false, None, true)]
        {
            let m = message(light, carried);
            assert_eq!(Message::from_frame(&m.to_frame()).is_ok(), right, "{m:?}");
        }
    }

    #[test]
    fn small_messages_survive_their_wire_form() {
        let job = JobId([7; 16]);
        let all = [
            Message::Accepted { job, incarnation: u64::MAX },
            Message::Rejected {
                job,
                refusal: Refusal::Busy,
                words: "queue full".into(),
                retry_after: Duration::from_secs(2),
            },
            Message::LeaseAck,
            Message::Cancel { job },
            Message::CancelAck { job },
            Message::Release { job },
            Message::UnknownRun { job },
            Message::Pledge { job, hash: Digest::of(b"pledge") },
            Message::Reveal { job },
        ];
        for m in all {
            assert_eq!(Message::from_frame(&m.to_frame()), Ok(m));
        }
    }

    #[test]
    fn words_are_cut_at_a_character() {
        assert_eq!(cut_words("aß\nb", 2), "a");
        assert_eq!(cut_words("a\nb", 9), "a b");
    }

    proptest! {
        #[test]
        fn hostile_frames_never_panic(kind in 0x10u8..=0x1f, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::from_frame(&Frame { kind, body });
        }
    }
}
