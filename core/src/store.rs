//! The journal: what survives a crash, and in which words.
//!
//! A record belongs to a **subject** (a run, a job, a known peer …) in a **room**. Three operations exist: append a
//! record to a subject, replace all of a subject's records by one, forget a subject. Recovery is a fold over the
//! records that are left, in journal order; so a finished subject costs nothing once it is forgotten, and no snapshot
//! machinery is needed. Payloads are versioned by their rooms: the first key of every payload says the version.
//!
//! Durable before send: operations leave as [`crate::action::Action::Persist`] with a log sequence number, and what
//! depends on them waits in the gate for [`crate::event::Event::Persisted`].

use crate::id::Lsn;
use bytes::Bytes;

/// Which machine a record belongs to. The numbers are stored: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Room {
    /// The node itself: incarnation.
    Node = 1,
    /// The publisher: last `seq` of the node's record.
    Publisher = 2,
    /// Known peers, one subject each (key: public key).
    KnownPeer = 3,
    /// Cached records of other nodes (key: public key).
    CachedRecord = 4,
    /// Services this node offers (key: service id).
    Service = 5,
    /// Runs as their requester (key: run id).
    Run = 6,
    /// Jobs as their executor (key: job id).
    Job = 7,
    /// Who may fetch an object from here (key: digest).
    Grant = 8,
    /// The owner's policy (key: `policy`), and what each requester used today (key: public key).
    Policy = 10,
}

impl Room {
    /// All rooms, in order of their numbers.
    pub const ALL: [Room; 9] = [
        Room::Node,
        Room::Publisher,
        Room::KnownPeer,
        Room::CachedRecord,
        Room::Service,
        Room::Run,
        Room::Job,
        Room::Grant,
        Room::Policy,
    ];

    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Room::Node => "node",
            Room::Publisher => "publisher",
            Room::KnownPeer => "known peers",
            Room::CachedRecord => "cached records",
            Room::Service => "services",
            Room::Run => "runs",
            Room::Job => "jobs",
            Room::Grant => "grants",
            Room::Policy => "policy",
        }
    }

    /// The room with this stored number.
    pub fn from_number(n: u8) -> Option<Room> {
        Room::ALL.into_iter().find(|r| *r as u8 == n)
    }
}

/// What a record is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subject {
    /// The room.
    pub room: Room,
    /// The key within the room, at most [`SUBJECT_KEY_MAX`] bytes.
    pub key: Bytes,
}

/// Longest key of a subject in bytes: a digest or public key and a little.
pub const SUBJECT_KEY_MAX: usize = 64;

impl Subject {
    /// A subject.
    pub fn new(room: Room, key: &[u8]) -> Self {
        debug_assert!(key.len() <= SUBJECT_KEY_MAX);
        Self { room, key: Bytes::copy_from_slice(key) }
    }
}

/// One change of the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreOp {
    /// Adds a record to the subject's others.
    Append {
        /// What it is about.
        subject: Subject,
        /// Canonical bencode, versioned by its room.
        record: Bytes,
    },
    /// Drops all records of the subject and adds this one.
    Replace {
        /// What it is about.
        subject: Subject,
        /// Canonical bencode, versioned by its room.
        record: Bytes,
    },
    /// Drops all records of the subject.
    Forget {
        /// What is forgotten.
        subject: Subject,
    },
}

impl StoreOp {
    /// The subject the operation is about.
    pub fn subject(&self) -> &Subject {
        match self {
            StoreOp::Append { subject, .. }
            | StoreOp::Replace { subject, .. }
            | StoreOp::Forget { subject } => subject,
        }
    }
}

/// A record as the store gives it back at start, in journal order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRecord {
    /// The batch that wrote it.
    pub lsn: Lsn,
    /// What it is about.
    pub subject: Subject,
    /// The payload.
    pub record: Bytes,
}
