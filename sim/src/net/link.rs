//! An access link: rate, buffer, latency, loss, and the wave of its jitter.

use crate::draw::scramble;
use serde::{Deserialize, Serialize};

/// One-way latency between regions in microseconds: half of usual round-trip times between Western Europe, Eastern and
/// Western North America, South America, East Asia and Australia; within a region 8 ms.
pub const REGION_LATENCY_US: [[u32; 6]; 6] = [
    [8_000, 42_000, 70_000, 95_000, 115_000, 140_000],
    [42_000, 8_000, 33_000, 60_000, 85_000, 100_000],
    [70_000, 33_000, 8_000, 85_000, 60_000, 75_000],
    [95_000, 60_000, 85_000, 8_000, 140_000, 150_000],
    [115_000, 85_000, 60_000, 140_000, 8_000, 60_000],
    [140_000, 100_000, 75_000, 150_000, 60_000, 8_000],
];

/// What a link does to datagrams. The default is perfect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quality {
    /// Bytes a second towards the network; 0: without limit.
    pub up_bytes_per_s: u64,
    /// Bytes a second from the network; 0: without limit.
    pub down_bytes_per_s: u64,
    /// Bytes that wait in either direction before the next is dropped.
    pub buffer_bytes: u64,
    /// One-way latency of the link itself.
    pub latency_us: u32,
    /// Height of the jitter wave; below [`JITTER_WAVE_NS`].
    pub jitter_us: u32,
    /// Independent loss, either direction.
    pub loss_ppm: u32,
    /// Loss that comes in bursts: a chance per datagram that a burst begins …
    pub burst_begins_ppm: u32,
    /// … that it ends …
    pub burst_ends_ppm: u32,
    /// … and the loss while it lasts.
    pub burst_loss_ppm: u32,
    /// Datagrams that take a detour …
    pub reorder_ppm: u32,
    /// … of at most this.
    pub reorder_us: u32,
    /// Datagrams that arrive twice.
    pub duplicate_ppm: u32,
    /// Datagrams of which one bit flips on the way.
    pub corrupt_ppm: u32,
    /// Largest UDP payload; larger ones vanish without a word.
    pub mtu: u16,
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            up_bytes_per_s: 0,
            down_bytes_per_s: 0,
            buffer_bytes: 256 * 1024,
            latency_us: 0,
            jitter_us: 0,
            loss_ppm: 0,
            burst_begins_ppm: 0,
            burst_ends_ppm: 0,
            burst_loss_ppm: 0,
            reorder_ppm: 0,
            reorder_us: 0,
            duplicate_ppm: 0,
            corrupt_ppm: 0,
            mtu: 1472,
        }
    }
}

/// Length of a jitter wave. Waves lower than they are long never let a later datagram overtake an earlier one.
pub const JITTER_WAVE_NS: u64 = 1 << 26;

pub(super) const fn serialisation_ns(len: usize, bytes_per_s: u64) -> u64 {
    match (len as u64 * 1_000_000_000).checked_div(bytes_per_s) {
        Some(ns) => ns,
        None => 0,
    }
}

/// Puts `len` bytes through a drop-tail queue; when they have left it, or `None` when it is full.
pub(super) fn queue(
    free_ns: &mut u64,
    now_ns: u64,
    len: usize,
    bytes_per_s: u64,
    buffer_bytes: u64,
) -> Option<u64> {
    if bytes_per_s == 0 {
        return Some(now_ns);
    }
    let waiting_ns = free_ns.saturating_sub(now_ns);
    let waiting_bytes = u128::from(waiting_ns) * u128::from(bytes_per_s) / 1_000_000_000;
    if waiting_bytes + len as u128 > u128::from(buffer_bytes.max(len as u64)) {
        return None;
    }
    *free_ns = now_ns.max(*free_ns) + serialisation_ns(len, bytes_per_s);
    Some(*free_ns)
}

/// A wave through random heights, one a [`JITTER_WAVE_NS`], joined by straight lines.
pub(super) fn jitter_ns(pair: u64, at_ns: u64, height_us: u32) -> u64 {
    if height_us == 0 {
        return 0;
    }
    let height_ns = (u64::from(height_us) * 1000).min(JITTER_WAVE_NS - 1);
    let (wave, within) = (at_ns / JITTER_WAVE_NS, at_ns % JITTER_WAVE_NS);
    let height = |n: u64| ((u128::from(scramble(pair, n)) * u128::from(height_ns)) >> 64) as u64;
    let (here, next) = (height(wave), height(wave + 1));
    (here * (JITTER_WAVE_NS - within) + next * within) / JITTER_WAVE_NS
}
