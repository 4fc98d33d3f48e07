//! What a malicious host does, and what it has done and overheard.

use crate::draw::Draw;
use crate::net::HostId;
use bytes::Bytes;
use remote_network_core::id::PublicKey;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a host does that it should not: plain data of a plan. The shares are of the relayed packets that it passes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Malice {
    /// Passed on to nobody.
    pub drop_ppm: u32,
    /// Changed: a bit, the length, or every byte.
    pub tamper_ppm: u32,
    /// Followed by an older one, to whom that was for.
    pub replay_ppm: u32,
    /// Held back until later ones have passed.
    pub reorder_ppm: u32,
    /// Brought to somebody else, half of them to the right one as well.
    pub cross_ppm: u32,
    /// Said to be from somebody else.
    pub misname_ppm: u32,
    /// What it does to the tunnels that end at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelMalice>,
    /// It keeps the mappings of those alive who measure how long theirs live with its help: as dial-back server it makes
    /// them believe in a longer life.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keeps_mappings: bool,
    /// It names this address wherever it may name one: as where it sees others, as where others are, as where it is itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victim: Option<IpAddr>,
}

/// What a host does to the tunnels that end at it. The shares are of the packets in them, in either direction: whoever
/// ends the TLS of a tunnel does with its messages what he likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelMalice {
    /// Taken, and brought to nobody.
    pub drop_ppm: u32,
    /// Changed, cut off or lengthened.
    pub tamper_ppm: u32,
    /// Followed by an older one, of this tunnel or another.
    pub replay_ppm: u32,
    /// Held back until others have passed.
    pub reorder_ppm: u32,
    /// Brought into another tunnel, half of them into the right one as well.
    pub cross_ppm: u32,
    /// Followed by what is no packet, of any length that a message may have.
    pub junk_ppm: u32,
    /// Followed by a message that is longer than any may be.
    pub long_ppm: u32,
    /// The tunnel is reset instead.
    pub reset_ppm: u32,
    /// It takes no tunnel properly at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deaf: Option<Deaf>,
    /// Its tunnels end at this host instead, which has another key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leads_to: Option<HostId>,
}

/// How somebody takes tunnels without any use for those who open them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deaf {
    /// The connection stands, and no handshake follows.
    Handshake,
    /// It stands, and nothing is read from it.
    Reading,
}

/// What was done to tunnels, in packets; but resets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TunnelDeeds {
    /// Packets that passed by.
    pub carried: u64,
    /// Brought to nobody.
    pub dropped: u64,
    /// Changed.
    pub tampered: u64,
    /// Brought once more.
    pub replayed: u64,
    /// Held back.
    pub reordered: u64,
    /// Brought into another tunnel.
    pub crossed: u64,
    /// No packets at all.
    pub junk: u64,
    /// Messages longer than any may be.
    pub long: u64,
    /// Tunnels reset.
    pub reset: u64,
    /// Tunnels not taken properly, or led elsewhere.
    pub refused: u64,
}

/// What a host has done, in relayed packets; but lies in frames and answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deeds {
    /// Relayed packets that it was to pass on.
    pub carried: u64,
    /// Not passed on.
    pub dropped: u64,
    /// Changed.
    pub tampered: u64,
    /// Sent once more.
    pub replayed: u64,
    /// Held back.
    pub reordered: u64,
    /// Brought to somebody else.
    pub crossed: u64,
    /// Said to be from somebody else.
    pub misnamed: u64,
    /// Wrong addresses told.
    pub lies: u64,
    /// Datagrams that keep a mapping alive.
    pub kept: u64,
    /// To tunnels.
    pub tunnel: TunnelDeeds,
}

impl Deeds {
    /// The deeds by the names of reports.
    pub const fn named(&self) -> [(&'static str, u64); 17] {
        let t = self.tunnel;
        [
            ("relay dropped", self.dropped),
            ("relay tampered", self.tampered),
            ("relay replayed", self.replayed),
            ("relay reordered", self.reordered),
            ("relay cross-delivered", self.crossed),
            ("relay misnamed", self.misnamed),
            ("address lie", self.lies),
            ("mapping kept", self.kept),
            ("tunnel dropped", t.dropped),
            ("tunnel tampered", t.tampered),
            ("tunnel replayed", t.replayed),
            ("tunnel reordered", t.reordered),
            ("tunnel cross-delivered", t.crossed),
            ("tunnel junk", t.junk),
            ("tunnel too long", t.long),
            ("tunnel reset", t.reset),
            ("tunnel refused", t.refused),
        ]
    }
}

/// Every so many bytes of a secret a needle begins: a leak of so many and a needle's length is always seen.
const NEEDLE_EVERY: usize = 32;
const NEEDLE_BYTES: usize = 8;

/// Looks for the bytes of secrets in whatever passes.
#[derive(Default)]
struct Ear {
    /// Sorted; no more than one byte string in 2^64 / number of needles is mistaken for one.
    needles: Vec<u64>,
    /// Which first two bytes any needle has: most places need no further look.
    likely: Vec<u64>,
    heard_bytes: u64,
    leaks: u64,
}

impl Ear {
    fn learn(&mut self, secret: &[u8]) {
        let windows = secret.windows(NEEDLE_BYTES).step_by(NEEDLE_EVERY);
        self.needles.extend(windows.filter_map(|w| w.try_into().ok().map(u64::from_be_bytes)));
        self.needles.sort_unstable();
        self.likely = vec![0; (1 << 16) / 64];
        for needle in &self.needles {
            let head = (needle >> 48) as usize;
            self.likely[head / 64] |= 1 << (head % 64);
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard_bytes += bytes.len() as u64;
        if self.needles.is_empty() {
            return;
        }
        for window in bytes.windows(NEEDLE_BYTES) {
            let head = usize::from(window[0]) << 8 | usize::from(window[1]);
            if self.likely[head / 64] >> (head % 64) & 1 == 1
                && let Ok(window) = window.try_into()
                && self.needles.binary_search(&u64::from_be_bytes(window)).is_ok()
            {
                self.leaks += 1;
            }
        }
    }
}

struct State {
    malice: Malice,
    over: bool,
    draw: Draw,
    deeds: Deeds,
    ear: Ear,
    secrets: Vec<([u8; 32], PublicKey)>,
}

/// A malicious host, held by the world: clones are the same one. Outlives restarts of the host.
#[derive(Clone)]
pub struct Mischief(Arc<Mutex<State>>);

impl Mischief {
    /// A host with this malice, whose dice are these.
    pub fn new(malice: Malice, draw: Draw) -> Self {
        let state = State {
            malice,
            over: false,
            draw,
            deeds: Deeds::default(),
            ear: Ear::default(),
            secrets: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does; nothing, once it has been told to stop.
    pub fn malice(&self) -> Malice {
        let state = self.state();
        if state.over { Malice::default() } else { state.malice }
    }

    /// From now on it behaves.
    pub fn end(&self) {
        self.state().over = true;
    }

    /// What it has done.
    pub fn deeds(&self) -> Deeds {
        self.state().deeds
    }

    /// These bytes are none of its business.
    pub fn must_not_see(&self, secret: &[u8]) {
        self.state().ear.learn(secret);
    }

    /// Places in what it has heard where bytes of secrets stood, and how many bytes it has heard.
    pub fn overheard(&self) -> (u64, u64) {
        let state = self.state();
        (state.ear.leaks, state.ear.heard_bytes)
    }

    /// Its core has derived a secret of a connection: what it seals with that can be opened and sealed anew.
    pub(super) fn shares(&self, secret: [u8; 32], peer: PublicKey) {
        self.state().secrets.push((secret, peer));
    }

    /// Such secrets, but the first so many.
    pub(super) fn shared(&self, known: usize) -> Vec<([u8; 32], PublicKey)> {
        self.state().secrets.get(known..).unwrap_or_default().to_vec()
    }

    pub(super) fn hear(&self, bytes: &Bytes) {
        self.state().ear.hear(bytes);
    }

    pub(super) fn does(&self, deed: impl FnOnce(&mut Deeds)) {
        deed(&mut self.state().deeds);
    }

    pub(super) fn with_draw<R>(&self, throw: impl FnOnce(&mut Draw) -> R) -> R {
        throw(&mut self.state().draw)
    }
}
