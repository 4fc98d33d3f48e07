//! The first words of every connection: who we are, and whom we know.
//!
//! TLS has proven the other side's key before anything is said here. Each side then sends its identity on the first
//! bidirectional stream, which stays open as the connection's control stream. What the identity claims must be what TLS
//! proved, else the connection ends: a peer id or key inside a message never counts by itself. When a certain peer was
//! dialled and another one answered (a NAT gave its address to somebody else), the connection ends before any data
//! flows. After the identity each side tells up to fifty peers of a shared topic that it saw most recently.
//!
//! | frame | body |
//! |---|---|
//! | `0x01` identity | `a` our view of the receiver's address (compact; absent when it comes through a relay), `d` DHT node id, `i` peer id, `k` public key, `n` node type, `r` is relay (0, 1), `s` role, `t` list of topics, `v` list of protocol versions |
//! | `0x02` known peers | `p` list of: `a` address hint (compact, optional), `k` public key, `r` is relay, `s` role, `t` topic, `w` last seen (Unix seconds) |
//!
//! Unknown keys are ignored. Five seconds for the identity, ten more for the known peers. All frames of the control
//! stream may be handed to [`Exchange`]; those of other kinds come out again as [`Output::Other`], but never before the
//! peer is identified.

use crate::codec::{DecodeError, Dict, Frame, Value, compact_addr, parse_compact_addr};
use crate::dht::record::{NodeType, Role};
use crate::id::{DhtId, PeerId, PublicKey};
use crate::limits::{IDENTITY_TIMEOUT, KNOWN_PEERS_SHARED_MAX, KNOWN_PEERS_TIMEOUT};
use crate::machine::{Cx, Machine};
use crate::time::{Deadline, Instant, UnixTime};
use std::net::SocketAddr;
use thiserror::Error;

/// Frame kind of the identity.
pub const KIND_IDENTITY: u8 = 0x01;
/// Frame kind of the known peers.
pub const KIND_KNOWN_PEERS: u8 = 0x02;
/// Protocol versions spoken here, best first.
pub const VERSIONS: &[u64] = &[1];
/// Topics in an identity.
pub const TOPICS_MAX: usize = 8;
/// Protocol versions in an identity.
pub const VERSIONS_MAX: usize = 8;
/// Bytes of an identity: everything at its largest is below 500; the rest is room for newer keys.
const IDENTITY_BYTES_MAX: usize = 2_048;
/// Bytes of known peers: fifty entries of about 120 bytes, and room for newer keys.
const KNOWN_PEERS_BYTES_MAX: usize = 16 * 1_024;

/// The peer broke the exchange; the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerFault {
    /// A frame does not decode.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// Which frame.
        what: &'static str,
        /// What is wrong.
        why: DecodeError,
    },
    /// It claims a key that TLS did not prove.
    #[error("claims a key that it has not proven")]
    ClaimedKey,
    /// Its peer id is not SHA-1 of its key.
    #[error("claims a peer id that is not its key's")]
    ClaimedPeerId,
    /// Another peer answered than was dialled.
    #[error("another peer than the one dialled")]
    WrongPeer,
    /// It speaks no protocol version of ours.
    #[error("speaks no common protocol version")]
    Version,
    /// A frame that may come once came again.
    #[error("sent its {0} twice")]
    Twice(&'static str),
    /// A frame came before the identity.
    #[error("sent frame kind {0:#04x} before its identity")]
    NotIdentified(u8),
    /// The identity did not come in time.
    #[error("sent no identity within {} s", IDENTITY_TIMEOUT.as_secs())]
    IdentityTimeout,
    /// The known peers did not come in time.
    #[error("sent no known peers within {} s", KNOWN_PEERS_TIMEOUT.as_secs())]
    KnownPeersTimeout,
}

impl PeerFault {
    /// The reason under which it is counted.
    pub const fn reason(&self) -> &'static str {
        match self {
            PeerFault::Malformed { .. } => "identity-malformed",
            PeerFault::ClaimedKey => "identity-claimed-key",
            PeerFault::ClaimedPeerId => "identity-claimed-peer-id",
            PeerFault::WrongPeer => "identity-wrong-peer",
            PeerFault::Version => "identity-version",
            PeerFault::Twice(_) => "identity-twice",
            PeerFault::NotIdentified(_) => "identity-missing",
            PeerFault::IdentityTimeout => "identity-timeout",
            PeerFault::KnownPeersTimeout => "known-peers-timeout",
        }
    }
}

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its key.
    pub key: PublicKey,
    /// Its replaceable DHT node id.
    pub dht_id: DhtId,
    /// Public or private.
    pub node_type: NodeType,
    /// Server or client.
    pub role: Role,
    /// Whether it relays.
    pub is_relay: bool,
    /// Its topics, at most [`TOPICS_MAX`].
    pub topics: Vec<DhtId>,
    /// Protocol versions, best first, at most [`VERSIONS_MAX`].
    pub versions: Vec<u64>,
}

/// A peer that said who it is, and is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// What it says.
    pub identity: Identity,
    /// Topics it shares with us, in our order.
    pub shared_topics: Vec<DhtId>,
    /// The best version that both speak.
    pub version: u64,
    /// Where it sees us; hearsay until others agree.
    pub observed: Option<SocketAddr>,
}

/// A peer as somebody else knows it: hearsay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownPeerHint {
    /// Who: the bytes of a public key, which nobody has checked yet.
    pub key: [u8; 32],
    /// In this topic.
    pub topic: DhtId,
    /// Its role.
    pub role: Role,
    /// Whether it relays.
    pub is_relay: bool,
    /// When it was last seen.
    pub last_seen: UnixTime,
    /// Where it may be.
    pub addr: Option<SocketAddr>,
}

/// What can happen to an exchange.
#[derive(Clone, Debug)]
pub enum Input {
    /// The control stream is open.
    Start,
    /// A whole frame arrived on it.
    Frame(Frame),
    /// What to tell of whom we know; the answer to `Identified`, at most [`KNOWN_PEERS_SHARED_MAX`] count.
    Share(Vec<KnownPeerHint>),
}

/// What an exchange asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this frame on the control stream.
    Send(Frame),
    /// The peer is who it must be. Answer with `Share`.
    Identified(Box<PeerIdentity>),
    /// Whom the peer knows, of our topics, without us and it.
    Learnt(Vec<KnownPeerHint>),
    /// A frame for somebody else, in order.
    Other(Frame),
    /// The peer broke the exchange: close the connection. Nothing is said after this.
    Fault(PeerFault),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Opening,
    AwaitIdentity(Instant),
    AwaitKnownPeers(Instant),
    Done,
    Faulted,
}

/// The exchange on one connection.
#[derive(Debug)]
pub struct Exchange {
    stage: Stage,
    shared: bool,
    /// Until the peer has said everything: afterwards nothing of it is needed, and most exchanges of a node are over.
    sides: Option<Box<Sides>>,
}

/// Who speaks to whom.
#[derive(Debug)]
struct Sides {
    own: Identity,
    proven: PublicKey,
    dialled: Option<PublicKey>,
    peer_addr: Option<SocketAddr>,
}

impl Exchange {
    /// An exchange with the peer whose key TLS has proven, whose packets come from `peer_addr`, when they come from an address. `dialled`: the peer we
    /// wanted, when we wanted a certain one.
    pub fn new(
        own: Identity,
        proven: PublicKey,
        dialled: Option<PublicKey>,
        peer_addr: impl Into<Option<SocketAddr>>,
    ) -> Self {
        let sides = Some(Box::new(Sides { own, proven, dialled, peer_addr: peer_addr.into() }));
        Self { stage: Stage::Opening, shared: false, sides }
    }

    /// Whether the peer is identified.
    pub fn identified(&self) -> bool {
        matches!(self.stage, Stage::AwaitKnownPeers(_) | Stage::Done)
    }

    /// Whether both sides have said everything.
    pub fn done(&self) -> bool {
        self.stage == Stage::Done && self.shared
    }

    fn fault(&mut self, cx: &mut Cx<'_, Output>, fault: PeerFault) {
        self.stage = Stage::Faulted;
        self.sides = None;
        cx.emit(Output::Fault(fault));
    }

    fn start(&mut self, cx: &mut Cx<'_, Output>) {
        let Some(sides) = self.sides.as_ref().filter(|_| self.stage == Stage::Opening) else { return };
        if sides.dialled.is_some_and(|d| d != sides.proven) {
            return self.fault(cx, PeerFault::WrongPeer);
        }
        self.stage = Stage::AwaitIdentity(cx.now + IDENTITY_TIMEOUT);
        cx.emit(Output::Send(identity_frame(&sides.own, sides.peer_addr)));
    }

    fn frame(&mut self, cx: &mut Cx<'_, Output>, frame: Frame) {
        let identify = |sides: &Option<Box<Sides>>| sides.as_ref().map(|s| s.identify(&frame));
        match (self.stage, frame.kind) {
            (Stage::Faulted, _) => {}
            (Stage::Opening | Stage::AwaitIdentity(_), KIND_IDENTITY) => match identify(&self.sides) {
                None => {}
                Some(Ok(peer)) => {
                    // A frame before our own start is answered by it: the peer's stream is open, so ours is.
                    self.start(cx);
                    if self.stage != Stage::Faulted {
                        self.stage = Stage::AwaitKnownPeers(cx.now + KNOWN_PEERS_TIMEOUT);
                        cx.emit(Output::Identified(Box::new(peer)));
                    }
                }
                Some(Err(fault)) => self.fault(cx, fault),
            },
            (Stage::Opening | Stage::AwaitIdentity(_), kind) => {
                self.fault(cx, PeerFault::NotIdentified(kind))
            }
            (Stage::AwaitKnownPeers(_) | Stage::Done, KIND_IDENTITY) => {
                self.fault(cx, PeerFault::Twice("identity"));
            }
            (Stage::AwaitKnownPeers(_), KIND_KNOWN_PEERS) => match read_known_peers(&frame.body) {
                Ok(hints) => {
                    self.stage = Stage::Done;
                    if let Some(sides) = self.sides.take() {
                        cx.emit(Output::Learnt(sides.relevant(hints)));
                    }
                }
                Err(why) => self.fault(cx, PeerFault::Malformed { what: "known peers", why }),
            },
            (Stage::Done, KIND_KNOWN_PEERS) => self.fault(cx, PeerFault::Twice("known peers")),
            (Stage::AwaitKnownPeers(_) | Stage::Done, _) => cx.emit(Output::Other(frame)),
        }
    }

    fn share(&mut self, cx: &mut Cx<'_, Output>, hints: &[KnownPeerHint]) {
        if self.identified() && !self.shared {
            self.shared = true;
            cx.emit(Output::Send(known_peers_frame(hints)));
        }
    }
}

impl Sides {
    fn identify(&self, frame: &Frame) -> Result<PeerIdentity, PeerFault> {
        let (identity, peer_id, observed) =
            read_identity(&frame.body).map_err(|why| PeerFault::Malformed { what: "identity", why })?;
        if identity.key != self.proven {
            return Err(PeerFault::ClaimedKey);
        }
        if peer_id != identity.key.peer_id() {
            return Err(PeerFault::ClaimedPeerId);
        }
        let version = self.own.versions.iter().copied().find(|v| identity.versions.contains(v));
        let version = version.ok_or(PeerFault::Version)?;
        let mut shared_topics = self.own.topics.clone();
        shared_topics.retain(|t| identity.topics.contains(t));
        Ok(PeerIdentity { identity, shared_topics, version, observed })
    }

    fn relevant(&self, mut hints: Vec<KnownPeerHint>) -> Vec<KnownPeerHint> {
        hints.retain(|h| {
            h.key != *self.own.key.as_bytes()
                && h.key != *self.proven.as_bytes()
                && self.own.topics.contains(&h.topic)
        });
        hints
    }
}

fn identity_frame(own: &Identity, peer_addr: Option<SocketAddr>) -> Frame {
    let topics: Vec<Value> = own.topics.iter().take(TOPICS_MAX).map(|t| Value::from(&t.0[..])).collect();
    let versions: Vec<Value> = own.versions.iter().take(VERSIONS_MAX).map(|v| Value::from(*v)).collect();
    let body = Dict::new()
        .with_some("a", peer_addr.map(compact_addr).as_deref())
        .with("d", &own.dht_id.0[..])
        .with("i", &own.key.peer_id().0[..])
        .with("k", &own.key)
        .with("n", own.node_type.number())
        .with("r", u64::from(own.is_relay))
        .with("s", own.role.number())
        .with("t", topics)
        .with("v", versions);
    Frame::new(KIND_IDENTITY, &body)
}

fn read_identity(body: &[u8]) -> Result<(Identity, PeerId, Option<SocketAddr>), DecodeError> {
    let d = Dict::decode(body, IDENTITY_BYTES_MAX)?;
    let topic = |v: &Value| {
        let bytes = v.as_bytes().ok_or_else(|| DecodeError::invalid("t", "not a byte string"))?;
        DhtId::from_slice(bytes).map_err(|e| DecodeError::invalid("t", e.to_string()))
    };
    let version = |v: &Value| v.as_u64().ok_or_else(|| DecodeError::invalid("v", "not a number"));
    let identity = Identity {
        key: d.key("k")?,
        dht_id: DhtId(d.array("d")?),
        node_type: NodeType::from_number(d.u64("n")?)?,
        role: Role::from_number(d.u64("s")?)?,
        is_relay: d.flag("r")?,
        topics: d.list("t", TOPICS_MAX)?.iter().map(topic).collect::<Result<_, _>>()?,
        versions: d.list("v", VERSIONS_MAX)?.iter().map(version).collect::<Result<_, _>>()?,
    };
    Ok((identity, PeerId(d.array("i")?), read_addr(&d)?))
}

fn known_peers_frame(hints: &[KnownPeerHint]) -> Frame {
    let entry = |h: &KnownPeerHint| {
        let addr = h.addr.map(compact_addr);
        Dict::new()
            .with_some("a", addr.as_deref())
            .with("k", &h.key[..])
            .with("r", u64::from(h.is_relay))
            .with("s", h.role.number())
            .with("t", &h.topic.0[..])
            .with("w", h.last_seen.as_secs())
            .into()
    };
    let list: Vec<Value> = hints.iter().take(KNOWN_PEERS_SHARED_MAX).map(entry).collect();
    Frame::new(KIND_KNOWN_PEERS, &Dict::new().with("p", list))
}

fn read_known_peers(body: &[u8]) -> Result<Vec<KnownPeerHint>, DecodeError> {
    let d = Dict::decode(body, KNOWN_PEERS_BYTES_MAX)?;
    let read = |v: &Value| {
        let Value::Dict(d) = v else { return Err(DecodeError::invalid("p", "not a dictionary")) };
        Ok(KnownPeerHint {
            key: d.array("k")?,
            topic: DhtId(d.array("t")?),
            role: Role::from_number(d.u64("s")?)?,
            is_relay: d.flag("r")?,
            last_seen: UnixTime::from_secs(d.u64("w")?),
            addr: read_addr(d)?,
        })
    };
    d.list("p", KNOWN_PEERS_SHARED_MAX)?.iter().map(read).collect()
}

fn read_addr(d: &Dict) -> Result<Option<SocketAddr>, DecodeError> {
    let read = |_| {
        parse_compact_addr(d.bytes("a", 18)?)
            .ok_or_else(|| DecodeError::invalid("a", "not a compact address"))
    };
    d.get("a").map(read).transpose()
}

impl Machine for Exchange {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Start => self.start(cx),
            Input::Frame(frame) => self.frame(cx, frame),
            Input::Share(hints) => self.share(cx, &hints),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        match self.stage {
            Stage::AwaitIdentity(at) if at <= cx.now => self.fault(cx, PeerFault::IdentityTimeout),
            Stage::AwaitKnownPeers(at) if at <= cx.now => self.fault(cx, PeerFault::KnownPeersTimeout),
            Stage::Opening
            | Stage::AwaitIdentity(_)
            | Stage::AwaitKnownPeers(_)
            | Stage::Done
            | Stage::Faulted => {}
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        match self.stage {
            Stage::AwaitIdentity(at) => Some(Deadline::new(at, "identity")),
            Stage::AwaitKnownPeers(at) => Some(Deadline::new(at, "known peers")),
            Stage::Opening | Stage::Done | Stage::Faulted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FrameReader;
    use crate::id::Keypair;
    use crate::laws::{self, Rig, WALL_AT_START};
    use crate::time::Duration;
    use proptest::prelude::*;

    fn key(n: u8) -> PublicKey {
        Keypair::from_seed(&[n; 32]).public()
    }

    fn topic(n: u8) -> DhtId {
        DhtId([n; 20])
    }

    fn identity(n: u8) -> Identity {
        Identity {
            key: key(n),
            dht_id: topic(n + 100),
            node_type: NodeType::Public,
            role: Role::Server,
            is_relay: n == 2,
            topics: vec![topic(1), topic(n)],
            versions: VERSIONS.to_vec(),
        }
    }

    fn addr(n: u8) -> SocketAddr {
        ([203, 0, 113, n], 30_906).into()
    }

    /// Node `own`'s exchange on a connection with node `peer`, started.
    fn rig(own: u8, peer: u8) -> (Rig<Exchange>, Frame) {
        let mut rig = Rig::new(Exchange::new(identity(own), key(peer), None, addr(peer)), [0; 32]);
        let out = rig.tell(Input::Start);
        let [Output::Send(frame)] = &out[..] else { panic!("{out:?}") };
        let frame = over_the_wire(frame);
        (rig, frame)
    }

    fn over_the_wire(frame: &Frame) -> Frame {
        let mut reader = FrameReader::default();
        reader.push(&frame.encode());
        reader.next_frame().unwrap().unwrap()
    }

    fn hint(n: u8, t: u8) -> KnownPeerHint {
        KnownPeerHint {
            key: *key(n).as_bytes(),
            topic: topic(t),
            role: Role::Client,
            is_relay: false,
            last_seen: WALL_AT_START,
            addr: n.is_multiple_of(2).then(|| addr(n)),
        }
    }

    fn only_fault(out: &[Output]) -> &PeerFault {
        match out {
            [Output::Fault(f)] => f,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn two_peers_tell_who_they_are_where_they_see_each_other_and_whom_they_know() {
        let (mut a, from_a) = rig(1, 2);
        let (mut b, from_b) = rig(2, 1);
        let out = b.tell(Input::Frame(from_a));
        let [Output::Identified(peer)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(peer.identity, identity(1));
        assert_eq!(peer.shared_topics, [topic(1)]);
        assert_eq!((peer.version, peer.observed), (1, Some(addr(2))));
        assert!(matches!(&a.tell(Input::Frame(from_b))[..], [Output::Identified(_)]));

        let told = vec![hint(1, 1), hint(2, 1), hint(3, 1), hint(4, 1), hint(5, 2)];
        let out = b.tell(Input::Share(told));
        let [Output::Send(frame)] = &out[..] else { panic!("{out:?}") };
        let out = a.tell(Input::Frame(over_the_wire(frame)));
        assert_eq!(out, [Output::Learnt(vec![hint(3, 1), hint(4, 1)])], "not us, not it, not another topic");
        assert!(!a.machine.done());
        a.tell(Input::Share(vec![]));
        assert!(a.machine.done());
        assert_eq!(a.machine.poll_timeout(), None);
    }

    #[test]
    fn an_identity_that_is_not_the_proven_key_ends_the_connection() {
        let (mut a, _) = rig(1, 2);
        assert_eq!(
            only_fault(&a.tell(Input::Frame(identity_frame(&identity(3), Some(addr(1)))))),
            &PeerFault::ClaimedKey
        );
        assert!(
            a.tell(Input::Frame(identity_frame(&identity(2), Some(addr(1))))).is_empty(),
            "nothing after a fault"
        );

        let (mut a, from_a) = rig(2, 1);
        let mut d = Dict::decode(&from_a.body, 9_999).unwrap().with("k", &key(1));
        let _ = d.0.insert(b"i".to_vec(), Value::from(&key(3).peer_id().0[..]));
        assert_eq!(only_fault(&a.tell(Input::Frame(Frame::new(1, &d)))), &PeerFault::ClaimedPeerId);
    }

    #[test]
    fn another_peer_than_the_one_dialled_is_told_nothing() {
        let mut a = Rig::new(Exchange::new(identity(1), key(2), Some(key(3)), addr(2)), [0; 32]);
        assert_eq!(only_fault(&a.tell(Input::Start)), &PeerFault::WrongPeer);
        let mut a = Rig::new(Exchange::new(identity(1), key(2), Some(key(3)), addr(2)), [0; 32]);
        let out = a.tell(Input::Frame(identity_frame(&identity(2), Some(addr(1)))));
        assert_eq!(only_fault(&out), &PeerFault::WrongPeer);
    }

    #[test]
    fn five_seconds_for_the_identity_and_ten_for_the_known_peers() {
        let tick = Duration::from_nanos(1);
        let (mut a, _) = rig(1, 2);
        assert!(a.wait(IDENTITY_TIMEOUT - tick).is_empty());
        assert_eq!(only_fault(&a.wait(tick)), &PeerFault::IdentityTimeout);

        let (mut a, _) = rig(1, 2);
        a.wait(IDENTITY_TIMEOUT - tick);
        a.tell(Input::Frame(identity_frame(&identity(2), Some(addr(1)))));
        assert!(a.wait(KNOWN_PEERS_TIMEOUT - tick).is_empty());
        assert_eq!(only_fault(&a.wait(tick)), &PeerFault::KnownPeersTimeout);
    }

    #[test]
    fn other_frames_come_out_again_but_never_before_the_identity() {
        let other = Frame { kind: 0x20, body: b"de".to_vec() };
        let (mut a, _) = rig(1, 2);
        assert_eq!(only_fault(&a.tell(Input::Frame(other.clone()))), &PeerFault::NotIdentified(0x20));
        let (mut a, _) = rig(1, 2);
        a.tell(Input::Frame(identity_frame(&identity(2), Some(addr(1)))));
        assert_eq!(a.tell(Input::Frame(other.clone())), [Output::Other(other)]);
    }

    #[test]
    fn nothing_is_said_twice() {
        let (mut a, _) = rig(1, 2);
        let frame = identity_frame(&identity(2), Some(addr(1)));
        a.tell(Input::Frame(frame.clone()));
        assert_eq!(only_fault(&a.tell(Input::Frame(frame))), &PeerFault::Twice("identity"));
        let (mut a, _) = rig(1, 2);
        a.tell(Input::Frame(identity_frame(&identity(2), Some(addr(1)))));
        a.tell(Input::Frame(known_peers_frame(&[])));
        assert_eq!(
            only_fault(&a.tell(Input::Frame(known_peers_frame(&[])))),
            &PeerFault::Twice("known peers")
        );
    }

    #[test]
    fn without_a_common_version_there_is_no_exchange_and_newer_keys_are_ignored() {
        let (mut a, _) = rig(1, 2);
        let frame = identity_frame(&Identity { versions: vec![7, 9], ..identity(2) }, Some(addr(1)));
        assert_eq!(only_fault(&a.tell(Input::Frame(frame))), &PeerFault::Version);
        let (mut a, _) = rig(1, 2);
        let frame = identity_frame(&Identity { versions: vec![9, 1], ..identity(2) }, Some(addr(1)));
        let newer = Dict::decode(&frame.body, 9_999).unwrap().with("zz", "newer");
        assert!(matches!(a.tell(Input::Frame(Frame::new(1, &newer)))[..], [Output::Identified(_)]));
    }

    #[test]
    fn more_than_fifty_known_peers_are_not_sent_and_not_taken() {
        let many: Vec<_> = (0..60).map(|_| hint(3, 1)).collect();
        assert_eq!(read_known_peers(&known_peers_frame(&many).body).unwrap().len(), KNOWN_PEERS_SHARED_MAX);
        let entry = Value::Dict(Dict::new());
        let body = Dict::new().with("p", vec![entry; 51]);
        let (mut a, _) = rig(1, 2);
        a.tell(Input::Frame(identity_frame(&identity(2), Some(addr(1)))));
        let out = a.tell(Input::Frame(Frame::new(KIND_KNOWN_PEERS, &body)));
        assert!(matches!(only_fault(&out), PeerFault::Malformed { what: "known peers", .. }));
    }

    fn arb_input() -> impl Strategy<Value = Input> {
        let junk = prop::collection::vec(any::<u8>(), 0..80);
        prop_oneof![
            2 => Just(Input::Start),
            3 => (1u8..4).prop_map(|n| Input::Frame(identity_frame(&identity(n), Some(addr(n))))),
            2 => (0u8..5).prop_map(|n| Input::Frame(known_peers_frame(&vec![hint(3, 1); usize::from(n)]))),
            2 => (0u8..4, junk).prop_map(|(kind, body)| Input::Frame(Frame { kind, body })),
            1 => Just(Input::Share(vec![hint(4, 1)])),
        ]
    }

    #[test]
    fn the_exchange_is_a_lawful_machine() {
        laws::check(|| Exchange::new(identity(1), key(2), None, addr(2)), arb_input());
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_identify_somebody_else(at in any::<usize>(), with in any::<u8>()) {
            let (mut a, _) = rig(1, 2);
            let mut frame = identity_frame(&identity(2), Some(addr(1)));
            let at = at % frame.body.len();
            frame.body[at] = with;
            if let [Output::Identified(peer)] = &a.tell(Input::Frame(frame))[..] {
                prop_assert_eq!(peer.identity.key, key(2));
            }
        }
    }
}
