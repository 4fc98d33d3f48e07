//! The only door between the API and the core.
//!
//! The core lives in a driver, on whatever runtime that driver uses; the API has a runtime of its own. A [`CoreHandle`]
//! joins them with nothing that belongs to a runtime: commands go in as `Event::Command` over an `async_channel`,
//! answers come back when whoever owns the action sink calls [`CoreHandle::deliver`].
//!
//! Rules. A command is answered once or fails with a word: unknown answers are ignored, a caller that goes away leaves
//! nothing behind, and at most [`COMMANDS_PENDING_MAX`] wait at any time. Notices go to a ring of [`NOTICES_KEPT_MAX`]
//! and are numbered from one; a subscriber is only a position in that ring, so a slow one costs nothing and is told
//! honestly what it missed ([`NoticeItem::Gap`]). Numbers mean something within one [`CoreHandle::epoch`], the life of
//! a process.

use crate::ports::docker::Progress;
use async_channel::{Receiver, Sender, TrySendError};
use remote_network_core::action::Action;
use remote_network_core::command::{Command, Notice, Reply, ServiceCommand};
use remote_network_core::event::Event;
use remote_network_core::id::CommandId;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// Commands without an answer, at most. More means that the core is stuck; callers are told so at once.
pub const COMMANDS_PENDING_MAX: usize = 256;
/// Notices kept for slow or returning subscribers: about 4 KiB each at the very most, usually 200 bytes.
pub const NOTICES_KEPT_MAX: usize = 4_096;
/// Subscribers at once.
pub const SUBSCRIBERS_MAX: usize = 64;
/// How long an ordinary command may take. The core answers those within one turn.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a command may take that reaches out to a peer: the DHT lookup and the handshake have limits below this.
pub const ANSWER_FROM_AFAR_WITHIN: Duration = Duration::from_secs(60);
/// How long an object may take to arrive; it goes on arriving after that.
pub const FETCHED_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// Why a command has no reply.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum HandleError {
    /// The node has stopped, or was never started.
    #[error("the node is not running")]
    Stopped,
    /// Too many commands wait, or the driver does not take events.
    #[error("the node is too busy to take another command")]
    Busy,
    /// No reply in time. What was asked for may still happen.
    #[error("the node did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// A notice and its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Numbered {
    /// Counts from one within an epoch, without holes.
    pub seq: u64,
    /// What happened.
    pub notice: Told,
}

/// What can have happened: most of it in the core, some in parts of the node that the core knows nothing of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The core says so.
    Core(Notice),
    /// An image is being pulled.
    Pull(Progress),
}

/// What a subscriber gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoticeItem {
    /// The next notice.
    Notice(Arc<Numbered>),
    /// These numbers are gone (both inclusive); what they told must be asked for anew.
    Gap {
        /// First number missed.
        from: u64,
        /// Last number missed.
        to: u64,
    },
}

/// Talks to the core of this process. Cloning is cheap; all clones are one.
#[derive(Clone)]
pub struct CoreHandle {
    inner: Arc<Inner>,
}

struct Inner {
    events: Sender<Event>,
    next: AtomicU64,
    epoch: u64,
    pending: Mutex<Pending>,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Pending {
    stopped: bool,
    waiting: BTreeMap<CommandId, Sender<Reply>>,
}

struct Ring {
    closed: bool,
    next_seq: u64,
    kept: VecDeque<Arc<Numbered>>,
    /// One-place channels: a full bell has rung already.
    bells: Vec<Sender<()>>,
}

impl CoreHandle {
    /// A handle that sends its commands to `events`. `epoch` tells one process's notice numbers from another's: any
    /// number that is hardly ever the same twice, such as a random one or the start time.
    pub fn new(events: Sender<Event>, epoch: u64) -> Self {
        let ring = Ring { closed: false, next_seq: 1, kept: VecDeque::new(), bells: Vec::new() };
        Self {
            inner: Arc::new(Inner {
                events,
                next: AtomicU64::new(1),
                epoch,
                pending: Mutex::default(),
                ring: Mutex::new(ring),
            }),
        }
    }

    /// Within which notice numbers are comparable.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// Asks the core and waits for its reply. Works on any async runtime.
    pub async fn command(&self, command: Command) -> Result<Reply, HandleError> {
        let within = answer_within(&command);
        let id = CommandId(self.inner.next.fetch_add(1, Ordering::Relaxed));
        let (tx, rx) = async_channel::bounded(1);
        {
            let mut pending = lock(&self.inner.pending);
            if pending.stopped {
                return Err(HandleError::Stopped);
            }
            if pending.waiting.len() >= COMMANDS_PENDING_MAX {
                return Err(HandleError::Busy);
            }
            pending.waiting.insert(id, tx);
        }
        let _forget = Forget { inner: &self.inner, id };
        self.inner.events.try_send(Event::Command { id, command }).map_err(|e| match e {
            TrySendError::Full(_) => HandleError::Busy,
            TrySendError::Closed(_) => HandleError::Stopped,
        })?;
        let answer = async { rx.recv().await.map_err(|_| HandleError::Stopped) };
        let too_late = async {
            smol::Timer::after(within).await;
            Err(HandleError::Timeout(within))
        };
        smol::future::or(answer, too_late).await
    }

    /// For the owner of the action sink: takes replies and notices, gives every other action back. `Stopped` ends all
    /// waiting and is given back too, since others want to know.
    pub fn deliver(&self, action: Action) -> Option<Action> {
        match action {
            Action::Reply { id, reply } => {
                if let Some(waiting) = lock(&self.inner.pending).waiting.remove(&id) {
                    // A caller that has just left does not matter.
                    let _ = waiting.try_send(reply);
                }
                None
            }
            Action::Notify(notice) => {
                self.publish(Told::Core(notice));
                None
            }
            Action::Stopped { .. } => {
                self.stopped();
                Some(action)
            }
            Action::Persist { .. }
            | Action::Dht { .. }
            | Action::Blob { .. }
            | Action::Engine { .. }
            | Action::Sweep { .. }
            | Action::Socket(_)
            | Action::Tunnel(_)
            | Action::Account(_) => Some(action),
        }
    }

    /// For a driver that ended without `Action::Stopped`: fails what waits and ends all subscriptions.
    pub fn stopped(&self) {
        let mut pending = lock(&self.inner.pending);
        pending.stopped = true;
        pending.waiting.clear();
        drop(pending);
        let mut ring = lock(&self.inner.ring);
        ring.closed = true;
        ring.bells.clear();
    }

    /// The number the next notice will have.
    pub fn next_seq(&self) -> u64 {
        lock(&self.inner.ring).next_seq
    }

    /// Notices from now on.
    pub fn notices(&self) -> Result<Notices, HandleError> {
        self.notices_after(self.next_seq().saturating_sub(1))
    }

    /// Notices after number `seq` of this epoch: first those still kept, then those to come. A number from the future
    /// counts as the latest.
    pub fn notices_after(&self, seq: u64) -> Result<Notices, HandleError> {
        let mut ring = lock(&self.inner.ring);
        if ring.closed {
            return Err(HandleError::Stopped);
        }
        ring.bells.retain(|bell| !bell.is_closed());
        if ring.bells.len() >= SUBSCRIBERS_MAX {
            return Err(HandleError::Busy);
        }
        let (bell, rung) = async_channel::bounded(1);
        ring.bells.push(bell);
        let next = seq.saturating_add(1).min(ring.next_seq);
        Ok(Notices { inner: self.inner.clone(), rung, next })
    }

    /// Tells subscribers, beside what the core has to say.
    pub fn publish(&self, notice: Told) {
        let mut ring = lock(&self.inner.ring);
        let seq = ring.next_seq;
        ring.next_seq += 1;
        if ring.kept.len() == NOTICES_KEPT_MAX {
            ring.kept.pop_front();
        }
        ring.kept.push_back(Arc::new(Numbered { seq, notice }));
        ring.bells.retain(|bell| !matches!(bell.try_send(()), Err(TrySendError::Closed(()))));
    }
}

/// Notices in order, from a position of its own.
pub struct Notices {
    inner: Arc<Inner>,
    rung: Receiver<()>,
    next: u64,
}

impl Notices {
    /// The next notice or gap; `None` once the node has stopped and all is told.
    pub async fn next(&mut self) -> Option<NoticeItem> {
        loop {
            if let Some(item) = self.take() {
                return Some(item);
            }
            if self.rung.recv().await.is_err() {
                return self.take();
            }
        }
    }

    fn take(&mut self) -> Option<NoticeItem> {
        let ring = lock(&self.inner.ring);
        let oldest = ring.kept.front()?.seq;
        if self.next < oldest {
            let gap = NoticeItem::Gap { from: self.next, to: oldest - 1 };
            self.next = oldest;
            return Some(gap);
        }
        let index = usize::try_from(self.next - oldest).ok()?;
        let item = ring.kept.get(index)?.clone();
        self.next += 1;
        Some(NoticeItem::Notice(item))
    }
}

/// Takes a command that nobody waits for any more off the list, also when its caller's future is dropped.
struct Forget<'a> {
    inner: &'a Inner,
    id: CommandId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.inner.pending).waiting.remove(&self.id);
    }
}

fn answer_within(command: &Command) -> Duration {
    match command {
        Command::Fetch { .. } => FETCHED_WITHIN,
        Command::Connect { .. }
        | Command::Plan(_)
        | Command::Service(ServiceCommand::Search { .. })
        | Command::Shutdown => ANSWER_FROM_AFAR_WITHIN,
        Command::Status
        | Command::Peers
        | Command::Peer(_)
        | Command::AddService(_)
        | Command::RemoveService(_)
        | Command::Services
        | Command::Service(_)
        | Command::Block { .. }
        | Command::Keep { .. }
        | Command::Relay
        | Command::RelayDisconnect(_)
        | Command::Share { .. }
        | Command::Submit { .. }
        | Command::Runs
        | Command::Run(_)
        | Command::Cancel(_)
        | Command::Pause { .. } => ANSWER_WITHIN,
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not make them useless.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `command` and `Notices::next` must be usable from any thread of any runtime.
const _: () = {
    const fn sendable<T: Send>() {}
    const fn future_is_sendable<F: Future + Send>(_: fn(&'static CoreHandle, Command) -> F) {}
    sendable::<CoreHandle>();
    sendable::<Notices>();
    future_is_sendable(|handle, command| handle.command(command));
};

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::id::RunId;
    use smol::future::{block_on, poll_once};

    fn handle() -> (CoreHandle, Receiver<Event>) {
        let (tx, rx) = async_channel::bounded(COMMANDS_PENDING_MAX);
        (CoreHandle::new(tx, 7), rx)
    }

    fn command_id(event: Event) -> CommandId {
        match event {
            Event::Command { id, .. } => id,
            other => panic!("only commands are sent, got {other:?}"),
        }
    }

    fn published(seq: u64) -> Action {
        Action::Notify(Notice::Published { seq, stored: 1 })
    }

    fn seq_of(item: Option<NoticeItem>) -> u64 {
        match item {
            Some(NoticeItem::Notice(n)) => n.seq,
            other => panic!("a notice was expected, got {other:?}"),
        }
    }

    #[test]
    fn a_reply_finds_its_caller_in_any_order_on_any_runtime() {
        let (handle, events) = handle();
        let core = std::thread::spawn({
            let handle = handle.clone();
            move || {
                let first = command_id(events.recv_blocking().expect("a command"));
                let second = command_id(events.recv_blocking().expect("a command"));
                for id in [second, first] {
                    assert_eq!(
                        handle
                            .deliver(Action::Reply { id, reply: Reply::Submitted(RunId([id.0 as u8; 16])) }),
                        None
                    );
                }
            }
        });
        let both = smol::future::zip(handle.command(Command::Status), handle.command(Command::Runs));
        let (a, b) = block_on(both);
        assert_eq!(a, Ok(Reply::Submitted(RunId([1; 16]))));
        assert_eq!(b, Ok(Reply::Submitted(RunId([2; 16]))));
        core.join().expect("core ends");
        let rt = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without timers");
        assert_eq!(rt.block_on(handle.command(Command::Status)), Err(HandleError::Stopped));
    }

    #[test]
    fn an_unknown_or_second_reply_is_ignored() {
        let (handle, events) = handle();
        assert_eq!(handle.deliver(Action::Reply { id: CommandId(99), reply: Reply::Done }), None);
        let mut asked = Box::pin(handle.command(Command::Runs));
        assert_eq!(block_on(poll_once(&mut asked)), None);
        let id = command_id(events.try_recv().expect("sent"));
        handle.deliver(Action::Reply { id, reply: Reply::Done });
        handle.deliver(Action::Reply { id, reply: Reply::Runs(Vec::new()) });
        assert_eq!(block_on(asked), Ok(Reply::Done));
    }

    #[test]
    fn a_caller_that_leaves_makes_room() {
        let (handle, events) = handle();
        for _ in 0..3 * COMMANDS_PENDING_MAX {
            let mut asked = Box::pin(handle.command(Command::Status));
            assert_eq!(block_on(poll_once(&mut asked)), None);
            events.try_recv().expect("sent");
        }
    }

    #[test]
    fn too_many_waiting_commands_are_refused_at_once() {
        let (handle, _events) = handle();
        let mut waiting = Vec::new();
        for _ in 0..COMMANDS_PENDING_MAX {
            let mut asked = Box::pin(handle.command(Command::Status));
            assert_eq!(block_on(poll_once(&mut asked)), None);
            waiting.push(asked);
        }
        assert_eq!(block_on(handle.command(Command::Status)), Err(HandleError::Busy));
    }

    #[test]
    fn a_stop_fails_what_waits_and_ends_subscriptions() {
        let (handle, _events) = handle();
        let mut notices = handle.notices().expect("subscribes");
        let mut asked = Box::pin(handle.command(Command::Status));
        assert_eq!(block_on(poll_once(&mut asked)), None);
        let stop = Action::Stopped { fault: None };
        assert_eq!(handle.deliver(stop.clone()), Some(stop));
        assert_eq!(block_on(asked), Err(HandleError::Stopped));
        assert_eq!(block_on(handle.command(Command::Status)), Err(HandleError::Stopped));
        assert_eq!(block_on(notices.next()), None);
    }

    #[test]
    fn actions_for_other_ports_are_given_back() {
        let (handle, _events) = handle();
        let persist = Action::Persist { lsn: Default::default(), ops: Vec::new() };
        assert_eq!(handle.deliver(persist.clone()), Some(persist));
    }

    #[test]
    fn notices_are_numbered_and_a_subscriber_resumes_where_it_was() {
        let (handle, _events) = handle();
        for n in 1..=5 {
            handle.deliver(published(n));
        }
        let mut resumed = handle.notices_after(3).expect("subscribes");
        assert_eq!(block_on(async { [seq_of(resumed.next().await), seq_of(resumed.next().await)] }), [4, 5]);
        assert_eq!(block_on(poll_once(resumed.next())), None);
        handle.deliver(published(6));
        assert_eq!(seq_of(block_on(resumed.next())), 6);
        let mut fresh = handle.notices().expect("subscribes");
        assert_eq!(block_on(poll_once(fresh.next())), None);
        let mut from_the_future = handle.notices_after(u64::MAX).expect("subscribes");
        handle.deliver(published(7));
        assert_eq!(seq_of(block_on(from_the_future.next())), 7);
    }

    #[test]
    fn a_slow_subscriber_is_told_its_gap_and_costs_no_memory() {
        let (handle, _events) = handle();
        let mut slow = handle.notices().expect("subscribes");
        let kept = NOTICES_KEPT_MAX as u64;
        for n in 1..=kept + 10 {
            handle.deliver(published(n));
        }
        assert_eq!(block_on(slow.next()), Some(NoticeItem::Gap { from: 1, to: 10 }));
        assert_eq!(seq_of(block_on(slow.next())), 11);
        assert_eq!(lock(&handle.inner.ring).kept.len(), NOTICES_KEPT_MAX);
    }

    #[test]
    fn subscribers_are_bounded_and_leaving_makes_room() {
        let (handle, _events) = handle();
        let held: Vec<Notices> = (0..SUBSCRIBERS_MAX).map(|_| handle.notices().expect("room")).collect();
        assert!(matches!(handle.notices(), Err(HandleError::Busy)));
        drop(held);
        assert!(handle.notices().is_ok());
    }
}
