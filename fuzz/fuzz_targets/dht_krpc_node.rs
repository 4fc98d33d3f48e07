//! Our DHT node under sequences of operations: datagrams that were made for it and datagrams that were not, requests,
//! time, changes of the network. Every request is answered exactly once, deadlines move on, replies fit, what is kept
//! stays bounded, and after an hour of silence nothing is under way.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use remote_network_core::dht::item;
use remote_network_core::dht::krpc::call::CALLS_MAX;
use remote_network_core::dht::krpc::client::OPS_MAX;
use remote_network_core::dht::krpc::message::{Answer, Ask, Body, Outgoing, Put, Signed, read, write_query};
use remote_network_core::dht::krpc::server::VALUE_REPLY_MAX;
use remote_network_core::dht::krpc::{Config, Input, Krpc, Output, Presence};
use remote_network_core::id::{DhtId, OpId};
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::port::{AnnouncePort, DhtEvent, DhtRequest, GetMode, MutableItem};
use remote_network_core::rng::Rng;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_fuzz::keys::keypair;
use std::collections::BTreeSet;
use std::net::SocketAddr;

#[derive(Arbitrary, Debug)]
enum Step {
    Start,
    /// Bytes from somebody.
    Noise {
        from: u8,
        bytes: Vec<u8>,
    },
    /// A query from somebody.
    Query {
        from: u8,
        id: u8,
        read_only: bool,
        kind: u8,
        target: u8,
    },
    /// Whoever was asked last answers, perhaps from elsewhere.
    Answer {
        from: Option<u8>,
        id: u8,
        names: Vec<u8>,
        token: bool,
        seq: Option<u8>,
        forged: bool,
    },
    /// Somebody stores with the token that was given last.
    Store {
        key: u8,
        seq: u8,
        forged: bool,
    },
    Request {
        kind: u8,
        key: u8,
        seq: u8,
    },
    Cancel {
        op: u8,
    },
    Bootstrap(Vec<u8>),
    Reachable(bool),
    NetworkChanged,
    Wait {
        ms: u16,
    },
    WaitLong {
        s: u16,
    },
    /// The machine stands still and hears of all deadlines at once.
    Oversleep {
        s: u8,
    },
    Restart,
}

fn addr(n: u8) -> SocketAddr {
    match n % 4 {
        0 => ([203, 0, 113, n], 6881).into(),
        1 => ([127, 0, 0, 1], 1_000 + u16::from(n)).into(),
        2 => ([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)], 6881).into(),
        _ => ([198, 51, n, 1], 6881).into(),
    }
}

fn item(key: u8, seq: u8, forged: bool) -> Option<MutableItem> {
    let mut item = item::sign(&keypair(key % 3), b"", u64::from(seq), Bytes::from_static(b"value")).ok()?;
    item.seq += u64::from(forged);
    Some(item)
}

struct World {
    krpc: Krpc,
    rng: Rng,
    now: Instant,
    asked: Option<(SocketAddr, Vec<u8>)>,
    token: Option<(SocketAddr, Vec<u8>)>,
    open: BTreeSet<OpId>,
    ops: u64,
}

fn config() -> Config {
    Config { private_networks: true, presence: Presence::Auto, bootstrap: vec![addr(0), addr(1), addr(2)] }
}

impl World {
    fn call(&mut self, f: impl FnOnce(&mut Krpc, &mut Cx<'_, Output>)) {
        let mut out = Vec::new();
        let wall = UnixTime::from_secs(1_700_000_000);
        f(&mut self.krpc, &mut Cx::new(self.now, wall, &mut self.rng, &mut out));
        for output in out {
            match output {
                Output::Datagram { to, bytes } => {
                    let message = read(&bytes).expect("what we write we can read");
                    match message.body {
                        Body::Query(_) => self.asked = Some((to, message.tid.to_vec())),
                        Body::Reply(reply) => {
                            assert!(bytes.len() <= VALUE_REPLY_MAX);
                            self.token = reply.token().map(|t| (to, t.to_vec())).or(self.token.take());
                        }
                        Body::Error(_) => assert!(bytes.len() <= 120),
                        Body::Broken(_) => panic!("a broken query of ours"),
                    }
                }
                Output::Event(DhtEvent::Done { op, .. }) => assert!(self.open.remove(&op), "answered twice"),
                Output::Event(DhtEvent::Value { op, item }) => {
                    assert!(self.open.contains(&op));
                    assert_eq!(item::verify(&item), Ok(()));
                }
                Output::Event(DhtEvent::Peers { op, .. } | DhtEvent::Immutable { op, .. }) => {
                    assert!(self.open.contains(&op));
                }
                Output::Event(DhtEvent::Health { .. }) | Output::Observed { .. } | Output::Refused(_) => {}
                Output::Table(bytes) => assert!(Krpc::new(config()).restore(&bytes).is_ok()),
            }
        }
        let (ops, calls) = self.krpc.under_way();
        assert!(ops <= OPS_MAX && calls <= CALLS_MAX && ops == self.open.len());
        assert!(self.krpc.memory_bytes() < 2_000_000);
    }

    fn input(&mut self, input: Input) {
        self.call(|k, cx| k.handle(cx, input));
    }

    fn wait(&mut self, by: Duration) {
        let until = self.now + by;
        let mut wakes = 0;
        while let Some(deadline) = self.krpc.poll_timeout().filter(|d| d.at <= until) {
            self.now = self.now.max(deadline.at);
            self.call(|k, cx| k.handle_timeout(cx));
            assert!(self.krpc.poll_timeout().is_none_or(|d| d.at > self.now), "{deadline:?}");
            wakes += 1;
            // One a second is periodic work; the rest are the deadlines of what was under way.
            assert!(wakes <= by.as_secs() + 3 * CALLS_MAX as u64);
        }
        self.now = until;
    }

    fn datagram(&mut self, from: SocketAddr, bytes: Vec<u8>) {
        self.input(Input::Datagram { from, bytes: bytes.into() });
    }

    fn answer(&mut self, from: Option<u8>, id: u8, names: &[u8], token: bool, held: Option<MutableItem>) {
        let Some((asked, tid)) = self.asked.clone() else { return };
        let mut answer = Answer::new(DhtId([id; 20]), addr(id.wrapping_add(1)), &tid);
        let nodes = names.iter().take(8).map(|n| remote_network_core::dht::krpc::message::NodeAddr {
            id: DhtId([*n; 20]),
            addr: addr(*n),
        });
        (answer.nodes6, answer.nodes4) = nodes.partition(|n| n.addr.is_ipv6());
        answer.token = token.then_some([7; 8]);
        if let Some(item) = &held {
            answer.held.mutable = Some((*item.key.as_bytes(), item.signature, item.seq));
            answer.held.v = Some(b"5:value");
        }
        if let Some(bytes) = answer.fit(1_400) {
            self.datagram(from.map_or(asked, addr), bytes);
        }
    }

    fn request(&mut self, kind: u8, key: u8, seq: u8) {
        let topic = DhtId([key % 3; 20]);
        let public = keypair(key % 3).public();
        let mode = if seq % 2 == 0 { GetMode::First } else { GetMode::MostRecent };
        let request = match (kind % 4, item(key, seq, kind > 250)) {
            (0, _) => DhtRequest::GetPeers { topic },
            (1, _) => DhtRequest::Announce { topic, port: AnnouncePort::Implied },
            (2, Some(item)) => DhtRequest::PutMutable { item, cas: (seq > 200).then(|| u64::from(seq) - 1) },
            _ => DhtRequest::GetMutable { key: public, salt: Bytes::new(), mode },
        };
        self.ops += 1;
        let op = OpId(self.ops);
        self.open.insert(op);
        self.input(Input::Request { op, request });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start => self.input(Input::Start),
            Step::Noise { from, bytes } => self.datagram(addr(from), bytes),
            Step::Query { from, id, read_only, kind, target } => {
                let target = DhtId([target % 3; 20]);
                let ask = match kind % 5 {
                    0 => Ask::Ping,
                    1 => Ask::FindNode(target),
                    2 => Ask::GetPeers(target),
                    3 => Ask::Get {
                        target: item::target(&keypair(target.0[0]).public(), b""),
                        newer_than: None,
                    },
                    _ => Ask::Put(Put { token: b"", v: b"i1e", mutable: None, cas: None, age: None }),
                };
                let out = Outgoing { id: DhtId([id; 20]), read_only, want_both: kind > 127, ask };
                self.datagram(addr(from), write_query(9, &out));
            }
            Step::Answer { from, id, names, token, seq, forged } => {
                self.answer(from, id, &names, token, seq.and_then(|s| item(id, s, forged)));
            }
            Step::Store { key, seq, forged } => {
                let (Some((from, token)), Some(item)) = (self.token.clone(), item(key, seq, forged)) else {
                    return;
                };
                let (key, seq, signature) = (*item.key.as_bytes(), item.seq, item.signature);
                let mutable = Some(Signed { key, seq, signature, salt: b"" });
                let put = Put { token: &token, v: b"5:value", mutable, cas: None, age: None };
                let out =
                    Outgoing { id: DhtId([9; 20]), read_only: true, want_both: false, ask: Ask::Put(put) };
                self.datagram(from, write_query(9, &out));
            }
            Step::Request { kind, key, seq } => self.request(kind, key, seq),
            Step::Cancel { op } => {
                self.input(Input::Request { op: OpId(u64::from(op)), request: DhtRequest::Cancel });
            }
            Step::Bootstrap(addrs) => self.input(Input::Bootstrap(addrs.into_iter().map(addr).collect())),
            Step::Reachable(yes) => self.input(Input::Reachable(yes)),
            Step::NetworkChanged => self.input(Input::NetworkChanged),
            Step::Wait { ms } => self.wait(Duration::from_millis(u64::from(ms))),
            Step::WaitLong { s } => self.wait(Duration::from_secs(u64::from(s % 8_000))),
            Step::Oversleep { s } => {
                self.now = self.now + Duration::from_secs(u64::from(s % 60));
                self.call(|k, cx| k.handle_timeout(cx));
            }
            Step::Restart => {
                let saved = self.krpc.saved();
                self.krpc = Krpc::new(config());
                assert!(self.krpc.restore(&saved).is_ok());
                self.open.clear();
                self.input(Input::Save);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let mut world = World {
        krpc: Krpc::new(config()),
        rng: Rng::from_seed([7; 32]),
        now: Instant::ZERO,
        asked: None,
        token: None,
        open: BTreeSet::new(),
        ops: 0,
    };
    world.input(Input::Start);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        world.step(step);
    }
    world.wait(Duration::from_secs(3_600));
    assert_eq!(world.krpc.under_way().0, 0, "an operation never ends");
    assert!(!world.krpc.hands_over(), "a handover never ends");
    assert!(world.open.is_empty());
});
