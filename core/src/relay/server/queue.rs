//! Whose packet is next.
//!
//! Every session that sends has a queue of its own, bounded in bytes, and the queues take turns by **deficit round robin**
//! (Shreedhar and Varghese, 1995): each turn adds [`QUANTUM`] bytes to what a session may send, and what it does not use while
//! packets wait it keeps. So everybody gets the same bytes, whatever the sizes of their packets, in constant time; and who sends ten times
//! as much as others fills its own queue and drops its own packets.
//!
//! Within a queue packets wait by receiver, and receivers take turns too. One whose connection has no room is *parked*: it
//! holds up neither other receivers of the same sender nor other senders. When it has room again, those who wait for it
//! come back in the order in which they were parked, no more of them than there is room for.
//!
//! A queue that is full drops the oldest packet of its longest flow; a packet that has waited for [`WAIT_MAX`] is dropped
//! when its turn comes. Both are losses as on any path, and QUIC's ends slow down.

use super::session::DropReason;
use crate::few::Few;
use crate::id::ConnId;
use crate::relay::wire::{DATAGRAM_BYTES_MAX, FRAGMENT_HEADER_BYTES, FRAGMENTS_MAX, Header, Part};
use crate::time::{Duration, Instant};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Bytes a session may have waiting, with what it costs to keep them: 40 packets of usual size, 50 ms at 1 MB/s. With the rest
/// of a session it stays below 64 KiB.
pub const QUEUE_BYTES_MAX: usize = 48 * 1024;
/// Smallest queue: the longest datagram, what keeping it costs, and one of usual size.
pub const QUEUE_BYTES_MIN: usize = 8 * 1024;
/// Bytes of a turn: one datagram of usual size. A thousand sessions come round in the time of 1.5 MB.
pub const QUANTUM: usize = 1_500;
/// After this long a packet is worth nothing: QUIC has sent its content again.
pub const WAIT_MAX: Duration = Duration::from_millis(500);
/// What a packet costs beside its bytes: its places in the queue and with the allocator.
const PACKET_OVERHEAD: usize = 128;
/// What a flow costs beside its packets.
const FLOW_OVERHEAD: usize = 320;
/// Flows without packets that a queue keeps, since a new one costs three allocations.
const IDLE_FLOWS_MAX: usize = 4;
/// Packets that such a flow has room for.
const IDLE_FLOW_PACKETS: usize = 16;
/// Parked receivers looked at when nothing else is to do. Each look asks the transport.
const PARKED_LOOKS: usize = 64;

/// What a receiver's connection takes at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Longest datagram, in bytes.
    pub datagram_max: usize,
    /// Bytes free in its send buffer.
    pub free: usize,
}

#[derive(Debug)]
struct Packet {
    bytes: Bytes,
    arrived: Instant,
}

impl Packet {
    fn cost(&self) -> usize {
        self.bytes.len() + PACKET_OVERHEAD
    }
}

/// What waits from one session for another.
#[derive(Debug, Default)]
struct Flow {
    packets: VecDeque<Packet>,
    cost: usize,
    parked: bool,
}

/// What waits from one session.
#[derive(Debug, Default)]
struct Queue {
    flows: Few<ConnId, Flow>,
    /// Flows that are not parked, in turn.
    turns: VecDeque<ConnId>,
    /// Flows without packets.
    idle: usize,
    cost: usize,
    deficit: usize,
    in_ring: bool,
}

impl Queue {
    /// Puts a packet behind those for `to`; whether it is the first that waits and has to wait with others, since the receiver is
    /// `parked`.
    fn push(&mut self, to: ConnId, packet: Packet, parked: bool) -> bool {
        let cost = packet.cost();
        if self.flows.get(&to).is_some_and(|flow| flow.packets.is_empty()) {
            self.idle -= 1;
        }
        let flow = self.flows.get_or_insert_with(to, Flow::default);
        let first = flow.packets.is_empty();
        if first {
            self.cost += FLOW_OVERHEAD;
            flow.parked = parked;
            if !parked {
                self.turns.push_back(to);
            }
        }
        flow.packets.push_back(packet);
        flow.cost += cost;
        self.cost += cost;
        first && parked
    }

    /// Takes the first packet for `to`, and says whether more follow; if not, whether the flow was parked.
    fn pop(&mut self, to: ConnId) -> Option<(Packet, Option<bool>)> {
        let flow = self.flows.get_mut(&to)?;
        let packet = flow.packets.pop_front()?;
        flow.cost -= packet.cost();
        self.cost -= packet.cost();
        if !flow.packets.is_empty() {
            return Some((packet, None));
        }
        let parked = std::mem::take(&mut flow.parked);
        // Who writes to somebody mostly writes on: the flow's memory is kept, if it is little.
        flow.packets.shrink_to(IDLE_FLOW_PACKETS);
        self.idle += 1;
        self.cost -= FLOW_OVERHEAD;
        if !parked {
            self.turns.retain(|t| *t != to);
        }
        if self.idle > IDLE_FLOWS_MAX {
            self.flows.retain(|_, flow| !flow.packets.is_empty());
            self.idle = 0;
        }
        Some((packet, Some(parked)))
    }

    /// Packets for `to` are not wanted any more; how many there were.
    fn forget(&mut self, to: ConnId) -> u64 {
        let Some(flow) = self.flows.remove(&to) else { return 0 };
        if flow.packets.is_empty() {
            self.idle -= 1;
            return 0;
        }
        self.cost -= flow.cost + FLOW_OVERHEAD;
        if !flow.parked {
            self.turns.retain(|t| *t != to);
        }
        flow.packets.len() as u64
    }

    /// The first in turn has to wait for its receiver.
    fn park(&mut self, to: ConnId) {
        self.turns.pop_front();
        if let Some(flow) = self.flows.get_mut(&to) {
            flow.parked = true;
        }
        // Coming back adds the bytes of another turn, however often nothing was sent in between.
        self.deficit = self.deficit.min(DATAGRAM_BYTES_MAX);
    }

    fn longest(&self) -> Option<ConnId> {
        self.flows.iter().max_by_key(|(_, flow)| flow.cost).map(|(to, _)| *to)
    }
}

/// A packet whose turn it is.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) from: ConnId,
    pub(super) to: ConnId,
    pub(super) bytes: Bytes,
    /// Longest datagram that `to` takes.
    pub(super) datagram_max: usize,
}

/// The queues of all sessions.
#[derive(Debug)]
pub(super) struct Queues {
    of: BTreeMap<ConnId, Queue>,
    /// Senders with flows that are not parked, in turn.
    ring: VecDeque<ConnId>,
    /// Whether the first of the ring has got the bytes of its turn.
    granted: bool,
    /// Receivers without room, and who waits for each.
    parked: BTreeMap<ConnId, VecDeque<ConnId>>,
    looked: ConnId,
    budget: usize,
}

impl Queues {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            of: BTreeMap::new(),
            ring: VecDeque::new(),
            granted: false,
            parked: BTreeMap::new(),
            looked: ConnId(0),
            budget: budget.clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX),
        }
    }

    /// Whether somebody's packet could be next.
    pub(super) fn has_turns(&self) -> bool {
        !self.ring.is_empty()
    }

    /// What `from` has waiting, in bytes, with what it costs to keep them.
    pub(super) fn waiting(&self, from: ConnId) -> usize {
        self.of.get(&from).map_or(0, |q| q.cost)
    }

    /// What all have waiting.
    pub(super) fn waiting_in_all(&self) -> usize {
        self.of.values().map(|q| q.cost).sum()
    }

    /// Puts a datagram into the queue of `from`; how many packets of that queue were dropped for it.
    pub(super) fn push(&mut self, now: Instant, from: ConnId, to: ConnId, bytes: Bytes) -> u64 {
        let packet = Packet { bytes, arrived: now };
        let queue = self.of.entry(from).or_default();
        let mut dropped = 0;
        while queue.cost + packet.cost() + FLOW_OVERHEAD > self.budget
            && let Some(longest) = queue.longest()
            && let Some((_, ended)) = queue.pop(longest)
        {
            dropped += 1;
            if ended == Some(true) {
                unpark(&mut self.parked, from, longest);
            }
        }
        // Who comes while others wait for the receiver goes behind them.
        if queue.push(to, packet, self.parked.contains_key(&to)) {
            self.parked.entry(to).or_default().push_back(from);
        }
        if !queue.in_ring && !queue.turns.is_empty() {
            queue.in_ring = true;
            self.ring.push_back(from);
        }
        dropped
    }

    /// The next packet that there is room for; `lost` is told of packets that are dropped.
    pub(super) fn next(
        &mut self,
        now: Instant,
        room: &impl Fn(ConnId) -> Option<Room>,
        mut lost: impl FnMut(ConnId, DropReason),
    ) -> Option<Taken> {
        let mut looked = false;
        loop {
            let Some(from) = self.ring.front().copied() else {
                if looked || !self.look_at_parked(room) {
                    return None;
                }
                looked = true;
                continue;
            };
            let Some(queue) = self.of.get_mut(&from) else {
                self.leave_ring();
                continue;
            };
            let Some(to) = queue.turns.front().copied() else {
                // All that is left is parked, or nothing is.
                queue.in_ring = false;
                if queue.cost == 0 {
                    queue.deficit = 0;
                }
                self.leave_ring();
                continue;
            };
            if !self.granted {
                queue.deficit += QUANTUM;
                self.granted = true;
            }
            let Some(head) = queue.flows.get(&to).and_then(|flow| flow.packets.front()) else {
                queue.turns.pop_front();
                continue;
            };
            let len = head.bytes.len();
            let there = room(to);
            let needs = match needs(now, head, there) {
                Ok(needs) => needs,
                Err(why) => {
                    queue.pop(to);
                    lost(from, why);
                    continue;
                }
            };
            let Some(there) = there.filter(|there| there.free >= needs) else {
                queue.park(to);
                self.parked.entry(to).or_default().push_back(from);
                continue;
            };
            if len > queue.deficit {
                self.granted = false;
                self.ring.rotate_left(1);
                continue;
            }
            queue.deficit -= len;
            let (packet, ended) = queue.pop(to)?;
            if ended.is_none() {
                queue.turns.rotate_left(1);
            }
            return Some(Taken { from, to, bytes: packet.bytes, datagram_max: there.datagram_max });
        }
    }

    fn leave_ring(&mut self) {
        self.ring.pop_front();
        self.granted = false;
    }

    /// Brings those back who wait for a receiver that has room again; whether there are any.
    fn look_at_parked(&mut self, room: &impl Fn(ConnId) -> Option<Room>) -> bool {
        let (before, after) = (
            self.parked.range(..=self.looked),
            self.parked.range(self.looked..).skip(usize::from(self.parked.contains_key(&self.looked))),
        );
        let looks: Vec<ConnId> = after.chain(before).map(|(to, _)| *to).take(PARKED_LOOKS).collect();
        // The look goes round only where it does not see all: looking changes nothing otherwise.
        if self.parked.len() > PARKED_LOOKS
            && let Some(last) = looks.last()
        {
            self.looked = *last;
        }
        for to in looks {
            let come = match room(to) {
                Some(there) if there.free < QUANTUM => 0,
                Some(there) => there.free / QUANTUM,
                // Their packets are dropped in their turns.
                None => usize::MAX,
            };
            self.bring_back(to, come);
        }
        !self.ring.is_empty()
    }

    fn bring_back(&mut self, to: ConnId, come: usize) {
        let Some(waiting) = self.parked.get_mut(&to) else { return };
        for from in waiting.drain(..come.min(waiting.len())) {
            let Some(queue) = self.of.get_mut(&from) else { continue };
            let Some(flow) = queue.flows.get_mut(&to) else { continue };
            flow.parked = false;
            queue.turns.push_back(to);
            if !queue.in_ring {
                queue.in_ring = true;
                self.ring.push_back(from);
            }
        }
        if waiting.is_empty() {
            self.parked.remove(&to);
        }
    }

    /// A session has ended: what it sent and what was for it is dropped; of whom how many packets.
    pub(super) fn forget(&mut self, conn: ConnId) -> Vec<(ConnId, u64)> {
        if let Some(queue) = self.of.remove(&conn) {
            if self.ring.front() == Some(&conn) {
                self.granted = false;
            }
            if queue.in_ring {
                self.ring.retain(|c| *c != conn);
            }
            for (to, _) in queue.flows.iter().filter(|(_, flow)| flow.parked) {
                unpark(&mut self.parked, conn, *to);
            }
        }
        self.parked.remove(&conn);
        let drops = |(from, queue): (&ConnId, &mut Queue)| (*from, queue.forget(conn));
        self.of.iter_mut().map(drops).filter(|(_, packets)| *packets > 0).collect()
    }
}

fn unpark(parked: &mut BTreeMap<ConnId, VecDeque<ConnId>>, from: ConnId, to: ConnId) {
    if let Some(waiting) = parked.get_mut(&to) {
        waiting.retain(|c| *c != from);
        if waiting.is_empty() {
            parked.remove(&to);
        }
    }
}

/// Bytes that a packet needs in the send buffer of its receiver, or why it never gets there.
fn needs(now: Instant, packet: &Packet, there: Option<Room>) -> Result<usize, DropReason> {
    let there = there.ok_or(DropReason::NoSession)?;
    if packet.arrived + WAIT_MAX <= now {
        return Err(DropReason::TooOld);
    }
    let len = packet.bytes.len();
    if len <= there.datagram_max {
        return Ok(len);
    }
    match Header::parse(&packet.bytes) {
        Ok(Header { part: Part::Whole, .. }) => Ok(len + FRAGMENTS_MAX * FRAGMENT_HEADER_BYTES),
        Ok(Header { part: Part::Fragment { .. }, .. }) | Err(_) => Err(DropReason::TooLong),
    }
}
