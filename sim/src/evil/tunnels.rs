//! What is done to the messages of tunnels by whoever ends them.
//!
//! A tunnel's TLS proves nothing to anybody (docs/PROTOCOL.md, 3.2): the operator of a relay, or whoever stands in for it,
//! reads every message, and makes, changes, holds back and brings elsewhere what he likes. A [`Saboteur`] does so in both
//! directions, at the border of the simulated port ([`crate::tunnel`]), with what a real port would let through: messages
//! of 1 to 65,536 bytes; a longer one ends the tunnel on the side that gets it.

use super::mischief::{Mischief, TunnelMalice};
use super::transport::tampered;
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes of a message at the most, by docs/PROTOCOL.md, 3.2.
pub const MESSAGE_BYTES_MAX: u64 = 65_536;
/// Old packets remembered.
const HISTORY_MAX: usize = 64;
/// Packets held back at once; then the first goes.
const HELD_MAX: usize = 16;

/// An end of a tunnel to which something is brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Which tunnel.
    pub pipe: u64,
    /// Which of its ends: 0 opened it.
    pub end: usize,
}

/// What becomes of packets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// They arrive there.
    Bring(Target, Bytes),
    /// A message arrives there that is too long.
    TooLong(Target),
    /// The tunnel is reset.
    Reset,
}

/// Somebody at whom tunnels end.
pub struct Saboteur {
    mischief: Mischief,
    history: VecDeque<(Target, Bytes)>,
    held: VecDeque<(Target, Bytes)>,
}

impl Saboteur {
    /// The host that `mischief` is of.
    pub fn new(mischief: Mischief) -> Self {
        Self { mischief, history: VecDeque::new(), held: VecDeque::new() }
    }

    /// What it does to tunnels at the moment.
    pub fn malice(&self) -> TunnelMalice {
        self.mischief.malice().tunnel.unwrap_or_default()
    }

    /// A tunnel was not taken as it should be.
    pub fn refuses(&self) {
        self.mischief.does(|d| d.tunnel.refused += 1);
    }

    /// Packets on their way to one end of a tunnel; `others` are those ends of its other tunnels to which they could
    /// be brought instead.
    pub fn harm(&mut self, to: Target, packets: Vec<Bytes>, others: &[Target]) -> Vec<Fate> {
        let malice = self.malice();
        let mut out = Vec::new();
        for packet in packets {
            self.mischief.hear(&packet);
            self.mischief.does(|d| d.tunnel.carried += 1);
            self.harm_one(malice, to, packet, others, &mut out);
            if out.last() == Some(&Fate::Reset) {
                break;
            }
        }
        out
    }

    fn harm_one(
        &mut self,
        malice: TunnelMalice,
        to: Target,
        mut packet: Bytes,
        others: &[Target],
        out: &mut Vec<Fate>,
    ) {
        let mischief = self.mischief.clone();
        // The dice are out of their box while they are thrown: the deeds lie in the same one.
        let mut draw = mischief.with_draw(|draw| crate::draw::Draw::new(draw.next_u64()));
        if self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((to, packet.clone()));
        if draw.chance_ppm(malice.reset_ppm) {
            mischief.does(|d| d.tunnel.reset += 1);
            return out.push(Fate::Reset);
        }
        if draw.chance_ppm(malice.drop_ppm) {
            mischief.does(|d| d.tunnel.dropped += 1);
            return;
        }
        if draw.chance_ppm(malice.tamper_ppm) {
            mischief.does(|d| d.tunnel.tampered += 1);
            packet = tampered(&packet, 0, &mut draw);
        }
        if draw.chance_ppm(malice.cross_ppm)
            && let Some(other) = draw.pick(others).copied()
        {
            mischief.does(|d| d.tunnel.crossed += 1);
            out.push(Fate::Bring(other, packet.clone()));
            if draw.chance_ppm(500_000) {
                return;
            }
        }
        if draw.chance_ppm(malice.reorder_ppm) {
            mischief.does(|d| d.tunnel.reordered += 1);
            self.held.push_back((to, packet));
            if self.held.len() <= HELD_MAX {
                return;
            }
        } else {
            out.push(Fate::Bring(to, packet));
        }
        // What was held back comes behind what it should have come before.
        let release = self.held.len() > HELD_MAX || draw.chance_ppm(300_000);
        if let Some((to, packet)) = self.held.pop_front_if(|_| release) {
            out.push(Fate::Bring(to, packet));
        }
        if draw.chance_ppm(malice.replay_ppm)
            && let Some((to, old)) = self.history.get(draw.below(self.history.len() as u64) as usize)
        {
            mischief.does(|d| d.tunnel.replayed += 1);
            out.push(Fate::Bring(*to, old.clone()));
        }
        if draw.chance_ppm(malice.junk_ppm) {
            mischief.does(|d| d.tunnel.junk += 1);
            out.push(Fate::Bring(to, junk(&mut draw)));
        }
        if draw.chance_ppm(malice.long_ppm) {
            mischief.does(|d| d.tunnel.long += 1);
            out.push(Fate::TooLong(to));
        }
    }
}

/// What is no packet: mostly short, seldom as long as may be; what looks like QUIC of this and of unknown versions,
/// like STUN, like a probe, like anything.
fn junk(draw: &mut crate::draw::Draw) -> Bytes {
    let most = if draw.chance_ppm(50_000) { MESSAGE_BYTES_MAX } else { 1_500 };
    let len = draw.between(1, most) as usize;
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| draw.next_u64().to_le_bytes()).take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    let head: &[u8] = match draw.below(6) {
        0 => &[0xc3, 0, 0, 0, 1, 8],
        1 => &[0xc3, 9, 9, 9, 9, 8],
        2 => &[0x45],
        3 => &[0x32],
        4 => &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42],
        _ => &[],
    };
    bytes.iter_mut().zip(head).for_each(|(byte, wanted)| *byte = *wanted);
    bytes.into()
}
