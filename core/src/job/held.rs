//! A job as its executor's journal has it: records, and the state they fold to.
//!
//! [`Held::evolve`] is the only mutation of a job. Two more things are journaled beside the jobs: the head of the chain of
//! receipts, and tombstones of jobs that must never start (again).

use super::message::{Source, sources_of, sources_value};
use super::order::Order;
use super::receipt::Receipt;
use super::signed::{Signed, Statement};
use crate::codec::{DecodeError, Dict, FRAME_BODY_MAX, Value};
use crate::id::{Digest, PublicKey};
use crate::limits::TASK_INPUTS_MAX;
use crate::port::{Port, layout_of};
use crate::time::UnixTime;

/// One fact about a job, or about the executor itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobRecord {
    /// The order is accepted.
    Admitted {
        /// What.
        order: Box<Signed<Order>>,
        /// Where its inputs can be fetched.
        sources: Vec<Vec<Source>>,
    },
    /// All inputs are here; the engine is about to be told.
    Starting {
        /// Inputs that were brought here for this job, to be removed with it.
        fetched: Vec<Digest>,
    },
    /// It is to be stopped and never sealed.
    Stopping,
    /// The result, before it is offered.
    Sealed {
        /// The receipt.
        receipt: Box<Signed<Receipt>>,
    },
    /// The requester has answered.
    Acked,
    /// The job is gone and must never start again.
    Tombstone {
        /// Whose job it was.
        requester: PublicKey,
    },
    /// The last receipt: under a subject of its own.
    Chain {
        /// Its number.
        seq: u64,
        /// Its digest.
        digest: Digest,
    },
    /// Receipts up to this number may have been signed for light jobs: the next one after a restart has a higher one. Under a
    /// subject of its own.
    Numbers {
        /// The last of them.
        upto: u64,
    },
}

impl JobRecord {
    /// Canonical bytes for the journal, with the wall time of the fact.
    pub fn encode(&self, at: UnixTime) -> Vec<u8> {
        let d = match self {
            JobRecord::Admitted { order, sources } => {
                let sources: Vec<Value> = sources.iter().map(|s| sources_value(s)).collect();
                Dict::new().with("k", 0u64).with("o", order.encode().as_slice()).with("src", sources)
            }
            JobRecord::Starting { fetched } => {
                let fetched: Vec<Value> = fetched.iter().map(Value::from).collect();
                Dict::new().with("k", 1u64).with("new", fetched)
            }
            JobRecord::Stopping => Dict::new().with("k", 2u64),
            JobRecord::Sealed { receipt } => {
                Dict::new().with("k", 3u64).with("r", receipt.encode().as_slice())
            }
            JobRecord::Acked => Dict::new().with("k", 4u64),
            JobRecord::Tombstone { requester } => Dict::new().with("k", 5u64).with("req", requester),
            JobRecord::Chain { seq, digest } => Dict::new().with("k", 6u64).with("d", digest).with("n", *seq),
            JobRecord::Numbers { upto } => Dict::new().with("k", 7u64).with("n", *upto),
        };
        d.with("at", at.as_millis()).with("v", 1u64).encode()
    }

    /// Reads what [`JobRecord::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<(JobRecord, UnixTime), DecodeError> {
        let d = Dict::decode(bytes, FRAME_BODY_MAX * 2)?;
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "job record version", number }),
        }
        let record = match d.u64("k")? {
            0 => {
                let sources = d.list("src", TASK_INPUTS_MAX)?.iter().map(sources_of);
                JobRecord::Admitted {
                    order: Box::new(Signed::decode(d.bytes("o", Order::BODY_BYTES_MAX + 128)?)?),
                    sources: sources.collect::<Result<_, _>>()?,
                }
            }
            1 => JobRecord::Starting { fetched: super::encoding::digests_of(&d, "new", TASK_INPUTS_MAX)? },
            2 => JobRecord::Stopping,
            3 => JobRecord::Sealed {
                receipt: Box::new(Signed::decode(d.bytes("r", Receipt::BODY_BYTES_MAX + 128)?)?),
            },
            4 => JobRecord::Acked,
            5 => JobRecord::Tombstone { requester: d.key("req")? },
            6 => JobRecord::Chain { seq: d.u64("n")?, digest: d.digest("d")? },
            7 => JobRecord::Numbers { upto: d.u64("n")? },
            number => return Err(DecodeError::Unknown { what: "job record", number }),
        };
        Ok((record, UnixTime::from_millis(d.u64("at")?)))
    }
}

/// A job that is held here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The order.
    pub order: Signed<Order>,
    /// Where its inputs can be fetched.
    pub sources: Vec<Vec<Source>>,
    /// When it was admitted.
    pub admitted: UnixTime,
    /// When the engine was told, and which inputs were brought here for it.
    pub started: Option<(UnixTime, Vec<Digest>)>,
    /// Whether it is to be stopped.
    pub stopping: bool,
    /// Its receipt.
    pub receipt: Option<Signed<Receipt>>,
    /// Whether the requester has answered the receipt.
    pub acked: bool,
}

impl Held {
    /// A job by its first record; `None` for any other record.
    pub fn admit(record: JobRecord, at: UnixTime) -> Option<Held> {
        match record {
            JobRecord::Admitted { order, sources } => Some(Held {
                order: *order,
                sources,
                admitted: at,
                started: None,
                stopping: false,
                receipt: None,
                acked: false,
            }),
            JobRecord::Starting { .. }
            | JobRecord::Stopping
            | JobRecord::Sealed { .. }
            | JobRecord::Acked
            | JobRecord::Tombstone { .. }
            | JobRecord::Chain { .. }
            | JobRecord::Numbers { .. } => None,
        }
    }

    /// Applies a later record: the only mutation.
    pub fn evolve(&mut self, record: &JobRecord, at: UnixTime) {
        match record {
            JobRecord::Starting { fetched } => self.started = Some((at, fetched.clone())),
            JobRecord::Stopping => self.stopping = true,
            JobRecord::Sealed { receipt } => self.receipt = Some((**receipt).clone()),
            JobRecord::Acked => self.acked = true,
            JobRecord::Admitted { .. }
            | JobRecord::Tombstone { .. }
            | JobRecord::Chain { .. }
            | JobRecord::Numbers { .. } => {}
        }
    }

    /// Whose job it is.
    pub fn requester(&self) -> PublicKey {
        self.order.requester
    }

    /// Whether the job gives its requester a right to an object here: it started with it, or left it. A right to a `tree`, with
    /// all files it names, comes only from where it was one: its list alone can be written by anybody who knows digests.
    pub fn has_shown(&self, digest: &Digest, tree: bool) -> bool {
        let counts = |object: &Digest, port: &Port| {
            object == digest && (!tree || layout_of(&self.order.paths, port).is_tree())
        };
        let started = self.started.is_some() && self.order.inputs.iter().any(|i| counts(&i.digest, &i.port));
        started || self.receipt.iter().any(|r| r.outputs.iter().any(|o| counts(&o.digest, &o.port)))
    }

    /// Whether all files of its directories were here: it started, ended, or gives one of this node's own.
    pub fn has_trees(&self) -> bool {
        self.started.is_some() || self.receipt.is_some() || self.gives_data()
    }

    /// Whether it gives a dataset and executes nothing.
    pub fn gives_data(&self) -> bool {
        self.order.program.dataset().is_some()
    }

    /// Directories among what it reads and what it left, and the one that it gives.
    pub fn trees(&self) -> impl Iterator<Item = Digest> {
        let is_tree = |port| layout_of(&self.order.paths, port).is_tree();
        let left = self.receipt.iter().flat_map(|r| &r.outputs).map(|o| (&o.port, o.digest));
        let read = self.order.inputs.iter().map(|i| (&i.port, i.digest));
        let given = self.order.program.dataset().map(|dataset| dataset.manifest);
        read.chain(left).filter(move |(port, _)| is_tree(port)).map(|(_, digest)| digest).chain(given)
    }

    /// Objects in the local store that this job uses.
    pub fn objects(&self) -> impl Iterator<Item = Digest> {
        let outputs = self.receipt.iter().flat_map(|r| r.outputs.iter().map(|o| o.digest));
        self.order.inputs.iter().map(|i| i.digest).chain(self.order.program.object()).chain(outputs)
    }
}
