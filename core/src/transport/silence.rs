//! Whether a connection that speaks is answered.
//!
//! QUIC itself gives a silent peer half a minute, because it knows of one path only. Who knows of others wants to hear much sooner:
//! when packets that ask for an acknowledgement were sent and no packet of the peer was authenticated for three round
//! trips, and at least [`SILENCE_MIN`]. Only a suspicion, which somebody checks with a probe. Acknowledgements alone
//! ask for nothing, so the last one of every exchange is no silence; and only connections that somebody watches are looked at.

use crate::time::{Duration, Instant};
use quinn_proto::FrameStats;

/// Shorter silences mean nothing: acknowledgements are delayed by 25 ms, and schedulers by more.
pub(super) const SILENCE_MIN: Duration = Duration::from_millis(300);

/// What was seen when the watch was set.
#[derive(Clone, Copy, Debug)]
struct Seen {
    due: Instant,
    heard: u64,
    asked: u64,
}

/// The watch over one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    watched: bool,
    seen: Option<Seen>,
    /// Packets that asked for an answer, when the watch last ended.
    asked: u64,
}

impl Silence {
    /// Begins or ends to watch.
    pub(super) fn watch(&mut self, watched: bool) {
        self.watched = watched;
        self.seen = None;
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.seen.map(|s| s.due)
    }

    /// Whether a packet that is sent now should set the watch.
    pub(super) fn is_open(&self) -> bool {
        self.watched && self.seen.is_none()
    }

    /// A packet was sent while the watch was open.
    pub(super) fn sent(&mut self, now: Instant, rtt: Duration, heard: u64) {
        let due = now + rtt.saturating_mul(3).max(SILENCE_MIN);
        self.seen = Some(Seen { due, heard, asked: self.asked });
    }

    /// The time has come: whether what was asked since the watch was set went unanswered. The next packet sets it again.
    pub(super) fn over(&mut self, now: Instant, heard: u64, asked: u64) -> bool {
        let Some(seen) = self.seen.take_if(|s| s.due <= now) else { return false };
        self.asked = asked;
        heard == seen.heard && asked > seen.asked
    }
}

/// Frames of packets that were authenticated. Every packet of the peer has at least one of these.
pub(super) fn heard(f: &FrameStats) -> u64 {
    f.acks + asking(f)
}

/// Frames that ask for an acknowledgement: what a connection says of itself without one is not counted.
pub(super) fn asking(f: &FrameStats) -> u64 {
    [
        f.crypto,
        f.datagram,
        f.max_data,
        f.max_stream_data,
        f.max_streams_bidi,
        f.new_connection_id,
        f.ping,
        f.reset_stream,
        f.retire_connection_id,
        f.stop_sending,
        f.stream,
        f.data_blocked,
        f.stream_data_blocked,
        f.streams_blocked_bidi,
        u64::from(f.handshake_done),
    ]
    .iter()
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(200);

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn silence_is_told_when_what_was_asked_goes_unanswered() {
        let mut s = Silence::default();
        assert!(!s.is_open());
        s.watch(true);
        assert!(s.is_open());
        s.sent(at(0), RTT, 10);
        assert_eq!(s.due(), Some(at(600)));
        assert!(!s.over(at(599), 10, 5), "not before its time");
        assert!(s.over(at(600), 10, 5));
        assert!(s.is_open(), "the next packet sets the watch again");
    }

    #[test]
    fn acknowledgements_alone_ask_for_nothing_and_any_answer_will_do() {
        let mut s = Silence::default();
        s.watch(true);
        s.sent(at(0), RTT, 10);
        assert!(!s.over(at(600), 11, 5), "heard something");
        s.sent(at(700), RTT, 11);
        assert!(!s.over(at(1_300), 11, 5), "asked nothing");
        s.sent(at(1_400), Duration::from_millis(1), 11);
        assert_eq!(s.due(), Some(at(1_700)));
        s.watch(false);
        assert!(!s.over(at(9_000), 11, 9) && !s.is_open());
    }
}
