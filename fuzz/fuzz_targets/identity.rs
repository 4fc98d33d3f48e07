//! The first words of a connection, as a stranger may say them: a list of frames, each a list of kind and body. Nobody
//! is identified whom TLS has not proven, nothing is passed on before that or after a fault, hearsay keeps its limits,
//! and what was understood is understood again when it is said by us.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use remote_network_core::codec::{Frame, Value};
use remote_network_core::dht::record::{NodeType, Role};
use remote_network_core::id::DhtId;
use remote_network_core::identity::exchange::{
    Exchange, Identity, Input, KnownPeerHint, Output, PeerIdentity, VERSIONS,
};
use remote_network_core::limits::KNOWN_PEERS_SHARED_MAX;
use remote_network_core::machine::{Cx, Machine};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_fuzz::keys::keypair;
use std::net::SocketAddr;

const FRAMES_MAX: usize = 16;

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 4433))
}

fn identity(n: u8) -> Identity {
    Identity {
        key: keypair(n).public(),
        dht_id: DhtId([n; 20]),
        node_type: NodeType::Public,
        role: Role::Client,
        is_relay: false,
        topics: vec![DhtId([1; 20]), DhtId([2; 20])],
        versions: VERSIONS.to_vec(),
    }
}

struct Rig {
    exchange: Exchange,
    rng: Rng,
    now: Instant,
}

impl Rig {
    /// Node 0, to whom peer 1 speaks.
    fn listener() -> Self {
        Self::new(Exchange::new(identity(0), keypair(1).public(), None, addr(1)))
    }

    fn new(exchange: Exchange) -> Self {
        Self { exchange, rng: Rng::from_seed([0; 32]), now: Instant::ZERO }
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        let mut cx = Cx::new(self.now, UnixTime::from_secs(1_700_000_000), &mut self.rng, &mut out);
        self.exchange.handle(&mut cx, input);
        out
    }
}

/// The peer says what it was understood to say, in our words.
fn said_again(peer: &PeerIdentity, hints: &[KnownPeerHint]) {
    let own = peer.identity.clone();
    let observed = peer.observed.unwrap_or(addr(0));
    let mut speaker = Rig::new(Exchange::new(own, keypair(0).public(), None, observed));
    let mut listener = Rig::listener();
    let mut outputs = speaker.tell(Input::Start);
    outputs.extend(speaker.tell(Input::Frame(first_words())));
    outputs.extend(speaker.tell(Input::Share(hints.to_vec())));
    let mut understood = (None, None);
    for output in outputs {
        let Output::Send(frame) = output else { continue };
        for output in listener.tell(Input::Frame(frame)) {
            match output {
                Output::Identified(again) => understood.0 = Some(*again),
                Output::Learnt(again) => understood.1 = Some(again),
                Output::Send(_) => {}
                Output::Other(_) | Output::Fault(_) => panic!("our own words are not understood: {output:?}"),
            }
        }
    }
    let expected = PeerIdentity { observed: Some(observed), ..peer.clone() };
    assert_eq!(understood.0.as_ref(), Some(&expected));
    if peer.version == VERSIONS[0] {
        assert_eq!(understood.1.as_deref(), Some(hints));
    }
}

/// What node 0 says first to peer 1.
fn first_words() -> Frame {
    let outputs = Rig::listener().tell(Input::Start);
    outputs
        .into_iter()
        .find_map(|o| match o {
            Output::Send(frame) => Some(frame),
            _ => None,
        })
        .expect("an exchange begins with an identity")
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(Value::List(frames)) = Value::decode(bytes, 1 << 16) else { return };
    let mut rig = Rig::listener();
    let mut outputs = rig.tell(Input::Start);
    for frame in frames.iter().take(FRAMES_MAX) {
        let Value::List(parts) = frame else { return };
        let [kind, Value::Bytes(body)] = &parts[..] else { return };
        let Some(kind) = kind.as_u64().and_then(|n| u8::try_from(n).ok()) else { return };
        outputs.extend(rig.tell(Input::Frame(Frame { kind, body: body.clone() })));
        outputs.extend(rig.tell(Input::Share(Vec::new())));
    }
    let mut peer = None;
    let mut hints = Vec::new();
    for (i, output) in outputs.iter().enumerate() {
        match output {
            Output::Identified(identified) => {
                assert!(peer.is_none(), "identified twice");
                assert_eq!(identified.identity.key, keypair(1).public());
                peer = Some(identified);
            }
            Output::Learnt(learnt) => {
                assert!(peer.is_some() && learnt.len() <= KNOWN_PEERS_SHARED_MAX);
                let parties = [0, 1].map(|n| *keypair(n).public().as_bytes());
                assert!(learnt.iter().all(|h| !parties.contains(&h.key)));
                assert!(learnt.iter().all(|h| identity(0).topics.contains(&h.topic)));
                hints.clone_from(learnt);
            }
            Output::Other(frame) => assert!(peer.is_some() && ![1, 2].contains(&frame.kind)),
            Output::Fault(_) => assert_eq!(i + 1, outputs.len(), "something was said after a fault"),
            Output::Send(_) => {}
        }
    }
    if let Some(peer) = peer {
        said_again(peer, &hints);
    }
    // Whatever was said, it ends: within its limits the exchange is done, or it has failed.
    rig.now = rig.now + Duration::from_secs(60);
    let mut out = Vec::new();
    rig.exchange.handle_timeout(&mut Cx::new(rig.now, UnixTime::default(), &mut rig.rng, &mut out));
    assert_eq!(rig.exchange.poll_timeout(), None);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    remote_network_fuzz::mutate::bencode(data, size, max_size, seed, 0)
});
