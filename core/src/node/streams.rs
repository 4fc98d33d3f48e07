//! Transfer streams: the plumbing between transport streams and the machines that read and write objects.
//!
//! A machine asks for bytes when it has credit for them, and hands over bytes one batch at a time; this table keeps at
//! most one standing read and one unfinished write per stream and serves them as the transport allows. Not reading is
//! what holds a sender back; not confirming a write is what holds a producer back. The first frame of a stream that a
//! peer opened says what it wants; it must come soon, or the stream is reset: a peer has few, and an idle connection is
//! not closed while one is open.

use crate::codec::{Frame, FrameReader};
use crate::id::{ConnId, StreamId};
use crate::limits::TRANSFER_HEAD_TIMEOUT;
use crate::time::{Deadline, Instant};
use crate::transfer::{StreamEvent, StreamKey};
use crate::transport::{Chunk, ReadError, Transport, WriteError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Largest batch of bytes handed to a machine at once.
const BATCH_MAX: usize = 64 * 1024;

/// Whose stream it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// We fetch.
    Fetch,
    /// A peer fetches.
    Serve,
}

#[derive(Debug)]
enum Role {
    /// The first frame is read, and waited for until then.
    Head(FrameReader, Instant),
    Owned(Owner),
}

#[derive(Debug)]
struct Slot {
    role: Role,
    read: Option<usize>,
    write: Option<Bytes>,
    /// The peer's end was met behind the bytes of the last read, and is still to be told.
    ended: bool,
}

/// What happened on a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamNews {
    /// The first frame of a stream that a peer opened; the stream now belongs to `Serve`.
    Head(Frame),
    /// The first frame is malformed; the stream was reset.
    Malformed,
    /// The first frame did not come in time; the stream was reset.
    Late,
    /// Something for the machine whose stream it is.
    Event(Owner, StreamEvent),
}

/// All transfer streams of a node.
#[derive(Debug, Default)]
pub struct Streams {
    slots: BTreeMap<StreamKey, Slot>,
    /// Until when first frames are waited for.
    heads: BTreeSet<(Instant, StreamKey)>,
    news: VecDeque<(StreamKey, StreamNews)>,
}

impl Streams {
    /// A stream we opened.
    pub fn opened(&mut self, key: StreamKey, owner: Owner) {
        self.slots.insert(key, Slot { role: Role::Owned(owner), read: None, write: None, ended: false });
    }

    /// A stream a peer opened; its head is read first.
    pub fn accepted(&mut self, now: Instant, key: StreamKey) {
        let until = now + TRANSFER_HEAD_TIMEOUT;
        self.heads.insert((until, key));
        let role = Role::Head(FrameReader::default(), until);
        self.slots.insert(key, Slot { role, read: Some(BATCH_MAX), write: None, ended: false });
    }

    /// When the next first frame is overdue.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.heads.first().map(|(at, _)| Deadline::new(*at, "first frame of a transfer stream"))
    }

    /// Resets streams whose first frame is overdue.
    pub fn handle_timeout<T: Transport>(&mut self, transport: &mut T, now: Instant) {
        while let Some((_, key)) = self.heads.first().copied().filter(|(at, _)| *at <= now) {
            self.heads.pop_first();
            self.abandon(transport, key);
            self.news.push_back((key, StreamNews::Late));
        }
    }

    /// Streams open on a connection.
    pub fn on(&self, conn: ConnId) -> usize {
        self.slots.range((conn, StreamId(0))..=(conn, StreamId(u64::MAX))).count()
    }

    /// The next thing that happened.
    pub fn poll(&mut self) -> Option<(StreamKey, StreamNews)> {
        self.news.pop_front()
    }

    /// The owner wants up to `max` bytes.
    pub fn want<T: Transport>(&mut self, transport: &mut T, key: StreamKey, max: usize) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.read = Some(max.clamp(1, BATCH_MAX));
            self.readable(transport, key);
        }
    }

    /// The owner hands over bytes; confirmed by `Sent`.
    pub fn send<T: Transport>(&mut self, transport: &mut T, key: StreamKey, bytes: Bytes) {
        if let Some(slot) = self.slots.get_mut(&key) {
            debug_assert!(slot.write.is_none(), "one unfinished write per stream");
            slot.write = Some(bytes);
            self.writable(transport, key);
        }
    }

    /// The owner will write no more.
    pub fn finish<T: Transport>(&mut self, transport: &mut T, key: StreamKey) {
        if self.slots.contains_key(&key) {
            transport.finish(key.0, key.1);
        }
    }

    /// The owner is done with the stream, and what it wrote and finished still gets there; nothing more is told of it.
    pub fn release<T: Transport>(&mut self, transport: &mut T, key: StreamKey) {
        if self.remove(key).is_some() {
            transport.stop(key.0, key.1);
        }
    }

    /// The owner abandons the stream; nothing more is told of it.
    pub fn abandon<T: Transport>(&mut self, transport: &mut T, key: StreamKey) {
        if self.remove(key).is_some() {
            transport.reset(key.0, key.1);
        }
    }

    /// The transport may have bytes.
    pub fn readable<T: Transport>(&mut self, transport: &mut T, key: StreamKey) {
        while let Some(slot) = self.slots.get_mut(&key) {
            let Some(max) = slot.read else { return };
            let read =
                if slot.ended { Ok((Chunk::End, true)) } else { transport.read_joined(key.0, key.1, max) };
            match read {
                Err(ReadError::Blocked) => return,
                Err(ReadError::Gone) => return self.lost(transport, key),
                Ok((chunk, ended)) => {
                    slot.ended = ended;
                    if !self.deliver(transport, key, chunk) {
                        return;
                    }
                }
            }
        }
    }

    /// The transport may take bytes.
    pub fn writable<T: Transport>(&mut self, transport: &mut T, key: StreamKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Role::Owned(owner) = slot.role else { return };
        let Some(bytes) = slot.write.as_mut() else { return };
        while !bytes.is_empty() {
            match transport.write(key.0, key.1, bytes) {
                Ok(_) => {}
                Err(WriteError::Blocked) => return,
                Err(WriteError::Gone) => return self.lost(transport, key),
            }
        }
        slot.write = None;
        self.news.push_back((key, StreamNews::Event(owner, StreamEvent::Sent)));
    }

    /// The connection is gone, and its streams with it.
    pub fn connection_gone(&mut self, conn: ConnId) {
        let keys: Vec<StreamKey> =
            self.slots.range((conn, StreamId(0))..=(conn, StreamId(u64::MAX))).map(|(k, _)| *k).collect();
        for key in keys {
            self.gone(key);
        }
    }

    /// The peer gave up one direction. The other ends as well: half a stream that nobody closes would hold its place among
    /// the streams the peer may open for as long as the connection lives.
    fn lost<T: Transport>(&mut self, transport: &mut T, key: StreamKey) {
        transport.reset(key.0, key.1);
        self.gone(key);
    }

    /// Forgets a stream.
    fn remove(&mut self, key: StreamKey) -> Option<Slot> {
        let slot = self.slots.remove(&key)?;
        if self.slots.is_empty() {
            // A tree keeps its last node, with room for eleven.
            self.slots = BTreeMap::new();
        }
        if let Role::Head(_, until) = slot.role {
            self.heads.remove(&(until, key));
        }
        Some(slot)
    }

    fn gone(&mut self, key: StreamKey) {
        if let Some(Slot { role: Role::Owned(owner), .. }) = self.remove(key) {
            self.news.push_back((key, StreamNews::Event(owner, StreamEvent::Gone)));
        }
    }

    /// Hands a chunk to whoever reads; true when reading goes on at once.
    fn deliver<T: Transport>(&mut self, transport: &mut T, key: StreamKey, chunk: Chunk) -> bool {
        let Some(slot) = self.slots.get_mut(&key) else { return false };
        match (&mut slot.role, chunk) {
            (Role::Owned(owner), chunk) => {
                slot.read = None;
                let event = match chunk {
                    Chunk::Bytes(b) => StreamEvent::Bytes(b),
                    Chunk::End => StreamEvent::End,
                };
                self.news.push_back((key, StreamNews::Event(*owner, event)));
                false
            }
            (Role::Head(reader, until), Chunk::Bytes(b)) => {
                reader.push(&b);
                match reader.next_frame() {
                    Ok(None) => true,
                    // A request is one frame and nothing after it.
                    Ok(Some(frame)) if reader.buffered() == 0 => {
                        self.heads.remove(&(*until, key));
                        slot.role = Role::Owned(Owner::Serve);
                        slot.read = None;
                        self.news.push_back((key, StreamNews::Head(frame)));
                        false
                    }
                    Ok(Some(_)) | Err(_) => self.malformed(transport, key),
                }
            }
            (Role::Head(..), Chunk::End) => self.malformed(transport, key),
        }
    }

    fn malformed<T: Transport>(&mut self, transport: &mut T, key: StreamKey) -> bool {
        self.remove(key);
        transport.reset(key.0, key.1);
        self.news.push_back((key, StreamNews::Malformed));
        false
    }
}
