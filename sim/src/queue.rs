//! What happens when: a hierarchical timing wheel for things that will happen, and one re-armable timer per host.
//!
//! Virtual time is a `u64` of nanoseconds. A datagram or a port's answer is scheduled once and never changes: such
//! one-shot events go into a wheel of four levels of 256 slots (a slot of the lowest level is 2^18 ns ≈ 262 µs, the
//! wheel spans 13 days, a sorted overflow lies beyond), where putting and taking cost the same however many are
//! waiting. A core's deadline changes with nearly every event: it lives in an indexed heap with one entry per host that
//! moves when it is re-armed, so that no stale entry is ever popped (a third of all heap entries in a naive queue).
//!
//! Order: by time, then by the order in which things were scheduled, over both parts together. Nothing else decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// log2 of a slot of the lowest level in nanoseconds.
const TICK_BITS: u32 = 18;
/// log2 of the slots of a level.
const SLOT_BITS: u32 = 8;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 4;

/// What the queue gives back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Due<E> {
    /// A scheduled event.
    Event(E),
    /// The timer with this index ran out. It is disarmed.
    Timer(u32),
}

/// The queue.
pub struct Queue<E> {
    now_ns: u64,
    order: u64,
    wheel: Wheel<E>,
    timers: Timers,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { now_ns: 0, order: 0, wheel: Wheel::default(), timers: Timers::default() }
    }
}

impl<E> Queue<E> {
    /// The time of the last thing taken out.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Events waiting, timers not counted.
    pub fn len(&self) -> usize {
        self.wheel.len
    }

    /// Whether no event waits, timers not counted.
    pub fn is_empty(&self) -> bool {
        self.wheel.len == 0
    }

    /// Schedules `event`; a time in the past means now.
    pub fn push(&mut self, at_ns: u64, event: E) {
        self.order += 1;
        self.wheel.insert(at_ns.max(self.now_ns), self.order, event);
    }

    /// Arms timer `index` for `at_ns` (`None`: disarms it). Arming it for the time it is armed for changes nothing.
    pub fn arm(&mut self, index: u32, at_ns: Option<u64>) {
        let at_ns = at_ns.map(|at| at.max(self.now_ns));
        if self.timers.armed(index) == at_ns {
            return;
        }
        self.order += 1;
        self.timers.set(index, at_ns.map(|at| (at, self.order)));
    }

    /// When the next thing is due.
    pub fn next_ns(&mut self) -> Option<u64> {
        let event = self.wheel.peek().map(|(at, _)| at);
        let timer = self.timers.peek().map(|(at, ..)| at);
        match (event, timer) {
            (Some(e), Some(t)) => Some(e.min(t)),
            (one, None) | (None, one) => one,
        }
    }

    /// The next thing due, and moves the clock there.
    pub fn pop(&mut self) -> Option<(u64, Due<E>)> {
        let event = self.wheel.peek();
        let timer = self.timers.peek();
        let timer_first = match (event, timer) {
            (None, None) => return None,
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (Some(e), Some((at, order, _))) => (at, order) < e,
        };
        let (at_ns, due) = match timer {
            Some((at, _, index)) if timer_first => {
                self.timers.set(index, None);
                (at, Due::Timer(index))
            }
            _ => {
                let (at_ns, event) = self.wheel.pop()?;
                (at_ns, Due::Event(event))
            }
        };
        self.now_ns = at_ns;
        Some((at_ns, due))
    }
}

/// The slab makes room for an eighth more at once, and at least for so many entries.
const SLAB_GROWTH_MIN: usize = 64;
/// No entry.
const NOTHING: u32 = u32::MAX;

/// A scheduled event, in a list of its slot. Entries live in one slab, so that the room they take is that of the most
/// that ever waited at once, not that of the fullest moment of every slot.
struct Entry<E> {
    at_ns: u64,
    order: u64,
    next: u32,
    event: Option<E>,
}

struct Slab<E> {
    entries: Vec<Entry<E>>,
    free: u32,
}

impl<E> Default for Slab<E> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: NOTHING }
    }
}

impl<E> Slab<E> {
    fn put(&mut self, at_ns: u64, order: u64, event: E) -> u32 {
        let entry = Entry { at_ns, order, next: NOTHING, event: Some(event) };
        match self.entries.get_mut(self.free as usize) {
            Some(place) => {
                let index = self.free;
                self.free = place.next;
                *place = entry;
                index
            }
            None => {
                if self.entries.len() == self.entries.capacity() {
                    self.entries.reserve_exact(self.entries.len() / 8 + SLAB_GROWTH_MIN);
                }
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        }
    }

    fn take(&mut self, index: u32) -> Option<E> {
        let entry = self.entries.get_mut(index as usize)?;
        entry.next = self.free;
        self.free = index;
        entry.event.take()
    }
}

/// 256 lists of entries, and which of them are not empty.
struct Level {
    heads: [u32; SLOTS],
    occupied: [u64; SLOTS / 64],
}

impl Default for Level {
    fn default() -> Self {
        Self { heads: [NOTHING; SLOTS], occupied: [0; SLOTS / 64] }
    }
}

impl Level {
    /// The first occupied slot at or after `from`.
    fn first_from(&self, from: usize) -> Option<usize> {
        let (mut word, bit) = (from / 64, from % 64);
        let mut bits = *self.occupied.get(word)? & (u64::MAX << bit);
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *self.occupied.get(word)?;
        }
    }

    /// Empties a slot; the head of its list.
    fn take(&mut self, slot: usize) -> u32 {
        self.occupied[slot / 64] &= !(1 << (slot % 64));
        std::mem::replace(&mut self.heads[slot], NOTHING)
    }
}

/// The wheel. `tick` is the slot of the lowest level that `due` holds; every event of an earlier or that slot is in
/// `due`, everything later is in a level or in `beyond`.
struct Wheel<E> {
    len: usize,
    tick: u64,
    slab: Slab<E>,
    /// Time, order, place in the slab.
    due: BinaryHeap<Reverse<(u64, u64, u32)>>,
    levels: [Level; LEVELS],
    beyond: BTreeMap<(u64, u64), u32>,
}

impl<E> Default for Wheel<E> {
    fn default() -> Self {
        Self {
            len: 0,
            tick: 0,
            slab: Slab::default(),
            due: BinaryHeap::new(),
            levels: Default::default(),
            beyond: BTreeMap::new(),
        }
    }
}

const fn slot_of(tick: u64, level: usize) -> usize {
    (tick >> (level as u32 * SLOT_BITS)) as usize & (SLOTS - 1)
}

impl<E> Wheel<E> {
    fn insert(&mut self, at_ns: u64, order: u64, event: E) {
        self.len += 1;
        let index = self.slab.put(at_ns, order, event);
        self.place(index, at_ns, order);
    }

    fn place(&mut self, index: u32, at_ns: u64, order: u64) {
        let tick = at_ns >> TICK_BITS;
        if tick <= self.tick {
            return self.due.push(Reverse((at_ns, order, index)));
        }
        // The highest digit in which the event's tick differs from the present one says its level.
        let differ = 63 - (tick ^ self.tick).leading_zeros();
        let level = (differ / SLOT_BITS) as usize;
        let Some(lists) = self.levels.get_mut(level) else {
            self.beyond.insert((at_ns, order), index);
            return;
        };
        let slot = slot_of(tick, level);
        lists.occupied[slot / 64] |= 1 << (slot % 64);
        self.slab.entries[index as usize].next = std::mem::replace(&mut lists.heads[slot], index);
    }

    /// Turns the wheel until `due` has the earliest event.
    fn turn(&mut self) {
        while self.due.is_empty() && self.len > 0 {
            let found = (0..LEVELS).find_map(|level| {
                Some((level, self.levels[level].first_from(slot_of(self.tick, level) + 1)?))
            });
            match found {
                Some((level, slot)) => {
                    let shift = level as u32 * SLOT_BITS;
                    let above = (self.tick >> shift) & !(SLOTS as u64 - 1);
                    self.tick = (above | slot as u64) << shift;
                    let mut index = self.levels[level].take(slot);
                    while let Some(entry) = self.slab.entries.get(index as usize) {
                        let (at_ns, order, next) = (entry.at_ns, entry.order, entry.next);
                        self.place(index, at_ns, order);
                        index = next;
                    }
                }
                None => self.fetch_beyond(),
            }
        }
    }

    /// Nothing is left in the levels: goes to where the earliest of the far events is, and takes its neighbours along.
    fn fetch_beyond(&mut self) {
        let Some((&(at_ns, _), _)) = self.beyond.first_key_value() else { return };
        self.tick = at_ns >> TICK_BITS;
        let span = 1u64 << (LEVELS as u32 * SLOT_BITS);
        let end_tick = (self.tick & !(span - 1)).saturating_add(span);
        let later = match end_tick.checked_mul(1 << TICK_BITS) {
            Some(end_ns) => self.beyond.split_off(&(end_ns, 0)),
            None => BTreeMap::new(),
        };
        for ((at_ns, order), index) in std::mem::replace(&mut self.beyond, later) {
            self.place(index, at_ns, order);
        }
    }

    fn peek(&mut self) -> Option<(u64, u64)> {
        self.turn();
        self.due.peek().map(|Reverse((at_ns, order, _))| (*at_ns, *order))
    }

    fn pop(&mut self) -> Option<(u64, E)> {
        self.turn();
        let Reverse((at_ns, _, index)) = self.due.pop()?;
        self.len -= 1;
        Some((at_ns, self.slab.take(index)?))
    }
}

/// A binary heap of (time, order, index) in which every index has at most one entry and knows where it is.
#[derive(Default)]
struct Timers {
    heap: Vec<(u64, u64, u32)>,
    places: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl Timers {
    fn armed(&self, index: u32) -> Option<u64> {
        match self.places.get(index as usize) {
            Some(&place) if place != NOWHERE => self.heap.get(place as usize).map(|t| t.0),
            _ => None,
        }
    }

    fn peek(&self) -> Option<(u64, u64, u32)> {
        self.heap.first().copied()
    }

    fn set(&mut self, index: u32, to: Option<(u64, u64)>) {
        if self.places.len() <= index as usize {
            self.places.resize(index as usize + 1, NOWHERE);
        }
        let place = self.places[index as usize];
        match to {
            Some((at, order)) if place == NOWHERE => {
                self.heap.push((at, order, index));
                self.up(self.heap.len() - 1);
            }
            Some((at, order)) => {
                self.heap[place as usize] = (at, order, index);
                let place = self.up(place as usize);
                self.down(place);
            }
            None if place == NOWHERE => {}
            None => {
                self.places[index as usize] = NOWHERE;
                self.heap.swap_remove(place as usize);
                if (place as usize) < self.heap.len() {
                    let place = self.up(place as usize);
                    self.down(place);
                }
            }
        }
    }

    fn up(&mut self, mut place: usize) -> usize {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent] <= entry {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
        place
    }

    fn down(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let mut child = 2 * place + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.heap[child + 1] < self.heap[child] {
                child += 1;
            }
            if entry <= self.heap[child] {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (u64, u64, u32)) {
        self.heap[place] = entry;
        self.places[entry.2 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The obvious queue: one sorted heap of everything, stale timers skipped when they come up.
    #[derive(Default)]
    struct Model {
        now_ns: u64,
        order: u64,
        heap: BinaryHeap<Reverse<(u64, u64, bool, u32)>>,
        armed: BTreeMap<u32, (u64, u64)>,
    }

    impl Model {
        fn push(&mut self, at: u64, event: u32) {
            self.order += 1;
            self.heap.push(Reverse((at.max(self.now_ns), self.order, false, event)));
        }

        fn arm(&mut self, index: u32, at: Option<u64>) {
            let at = at.map(|at| at.max(self.now_ns));
            if self.armed.get(&index).map(|a| a.0) == at {
                return;
            }
            self.order += 1;
            match at {
                Some(at) => {
                    self.armed.insert(index, (at, self.order));
                    self.heap.push(Reverse((at, self.order, true, index)));
                }
                None => {
                    self.armed.remove(&index);
                }
            }
        }

        fn pop(&mut self) -> Option<(u64, Due<u32>)> {
            loop {
                let Reverse((at, order, timer, what)) = self.heap.pop()?;
                if timer && self.armed.get(&what) != Some(&(at, order)) {
                    continue;
                }
                self.now_ns = at;
                if timer {
                    self.armed.remove(&what);
                    return Some((at, Due::Timer(what)));
                }
                return Some((at, Due::Event(what)));
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(u64),
        Arm(u32, Option<u64>),
        Pop(u8),
    }

    fn delay() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0u64),
            0..1000u64,
            0..(1u64 << 20),
            0..(1u64 << 28),
            0..(1u64 << 40),
            0..(1u64 << 52),
            Just(u64::MAX),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => delay().prop_map(Op::Push),
            3 => (0..8u32, proptest::option::of(delay())).prop_map(|(i, d)| Op::Arm(i, d)),
            4 => (1..6u8).prop_map(Op::Pop),
        ]
    }

    proptest! {
        #[test]
        fn the_wheel_gives_what_a_sorted_heap_gives(ops in proptest::collection::vec(op(), 1..200)) {
            let (mut queue, mut model) = (Queue::default(), Model::default());
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Push(delay) => {
                        let at = queue.now_ns().saturating_add(delay);
                        queue.push(at, n as u32);
                        model.push(at, n as u32);
                    }
                    Op::Arm(index, delay) => {
                        let at = delay.map(|d| queue.now_ns().saturating_add(d));
                        queue.arm(index, at);
                        model.arm(index, at);
                    }
                    Op::Pop(times) => for _ in 0..times {
                        prop_assert_eq!(queue.pop(), model.pop());
                    }
                }
            }
            loop {
                let next = queue.next_ns();
                let (got, want) = (queue.pop(), model.pop());
                prop_assert_eq!(next, want.as_ref().map(|w| w.0));
                prop_assert_eq!(&got, &want);
                if want.is_none() { break }
            }
            prop_assert!(queue.is_empty());
        }
    }

    #[test]
    fn things_of_the_same_time_come_in_the_order_they_were_scheduled() {
        let mut q = Queue::default();
        q.push(1_000_000, 'a');
        q.arm(3, Some(1_000_000));
        q.push(1_000_000, 'b');
        assert_eq!(q.pop(), Some((1_000_000, Due::Event('a'))));
        assert_eq!(q.pop(), Some((1_000_000, Due::Timer(3))));
        assert_eq!(q.pop(), Some((1_000_000, Due::Event('b'))));
        assert_eq!(q.pop(), None);
    }

    #[test]
    fn a_timer_moves_and_leaves_nothing_behind() {
        let mut q: Queue<()> = Queue::default();
        for at in [50, 10, 90, 20] {
            q.arm(0, Some(at));
        }
        q.arm(1, Some(30));
        q.arm(1, None);
        assert_eq!(q.pop(), Some((20, Due::Timer(0))));
        assert_eq!(q.pop(), None);
    }
}
