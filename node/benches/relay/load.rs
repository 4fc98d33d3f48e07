//! What is sent, and what is made of what arrives. Shared with the benchmark of iroh's relay, so that both are asked the same.

use std::time::Duration;

/// Bytes of a packet: what a QUIC packet has on most paths.
pub const PACKET_BYTES: usize = 1_200;
/// Pair and time of sending.
const HEAD_BYTES: usize = 12;

/// Writes who sends a packet, and when, over the packet's first bytes.
pub fn stamp(packet: &mut [u8], pair: usize, nanos: u64) {
    packet[..4].copy_from_slice(&(pair as u32).to_be_bytes());
    packet[4..HEAD_BYTES].copy_from_slice(&nanos.to_be_bytes());
}

/// Pair and time of a packet.
pub fn read(packet: &[u8]) -> Option<(usize, u64)> {
    let (pair, rest) = packet.split_first_chunk::<4>()?;
    let (nanos, _) = rest.split_first_chunk::<8>()?;
    Some((u32::from_be_bytes(*pair) as usize, u64::from_be_bytes(*nanos)))
}

/// Jain's index of fairness: 1 when all have the same, 1/n when one has all.
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
    if squares == 0.0 { 0.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// The value below which lies this part of all; sorts them.
pub fn quantile(values: &mut [u64], part: f64) -> u64 {
    if values.is_empty() {
        return 0;
    }
    values.sort_unstable();
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// How a measurement is timed: what happens before it began is not counted.
#[derive(Clone, Copy)]
pub struct Span {
    pub warm: Duration,
    pub counted: Duration,
}

/// What came of sending as fast as it goes.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub payload_bytes: u64,
    pub seconds: f64,
    /// Of the relay.
    pub cpu_seconds: f64,
    /// Packets sent again because nothing came for a while.
    pub lost: u64,
}

impl Flow {
    pub fn bytes_per_second(&self) -> f64 {
        self.payload_bytes as f64 / self.seconds
    }

    pub fn bytes_per_cpu_second(&self) -> f64 {
        self.payload_bytes as f64 / self.cpu_seconds.max(0.01)
    }
}
