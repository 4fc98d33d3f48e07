//! The test vectors of docs/PROTOCOL.md, made by the code and compared with the page.
//!
//! The page is the contract with other implementations, so it is what is read here: each block that is fenced as
//! `vector NAME` must be asserted by exactly this name, and whatever is asserted must be on the page. Neither can change
//! without the other. To see what the code says now, run `cargo test -p remote-network-core --test vectors`.
#![allow(clippy::unwrap_used, reason = "clippy takes only functions marked as tests for tests")]

use bytes::Bytes;
use remote_network_core::codec::{Frame, FrameReader};
use remote_network_core::dht::item;
use remote_network_core::dht::record::{NodeRecord, NodeType, RecordContent, Role};
use remote_network_core::id::{DhtId, Digest, Keypair, PublicKey, RunId, Signature};
use remote_network_core::identity::exchange::{Exchange, Identity, Input, Output, VERSIONS};
use remote_network_core::identity::seek::{Seek, Seen};
use remote_network_core::job::order::Order;
use remote_network_core::job::receipt::{Bundle, Commit, Receipt, Verdict, result_digest, verify_file};
use remote_network_core::job::signed::Signed;
use remote_network_core::machine::{Cx, Machine as _};
use remote_network_core::path::dialback::{self, DialBack, Nonce};
use remote_network_core::path::probe::{Probe, ProbeKeys};
use remote_network_core::port::{
    BlobInfo, EngineInput, EngineLimits, EngineOutput, ExitClass, MutableItem, Port, Program, Usage,
};
use remote_network_core::relay::message::{Message, Registered};
use remote_network_core::relay::wire::{Direction, Header, Part};
use remote_network_core::rng::Rng;
use remote_network_core::service::details::Details;
use remote_network_core::service::{Service, Visibility};
use remote_network_core::ticket::Ticket;
use remote_network_core::time::{Duration, Instant, UnixTime};
use remote_network_core::transfer::message::{Fetch, PieceRanges};
use remote_network_core::transfer::tree::{PieceCheck, PieceHasher, PieceState, piece_range, root_of};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const PAGE: &str = include_str!("../../docs/PROTOCOL.md");
/// 2023-11-14T22:13:20Z.
const NOW_SECS: u64 = 1_700_000_000;

/// The vectors of the page by name, their lines joined.
fn page() -> BTreeMap<&'static str, String> {
    let mut out = BTreeMap::new();
    let mut rest = PAGE;
    while let Some((_, after)) = rest.split_once("\n```vector ") {
        let (name, after) = after.split_once('\n').unwrap();
        let (body, after) = after.split_once("```").unwrap();
        let twice = out.insert(name.trim(), body.split_whitespace().collect());
        assert!(twice.is_none(), "the page has two vectors called {name}");
        rest = after;
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

/// Requester, or whoever speaks.
fn alice() -> Keypair {
    Keypair::from_seed(&[1; 32])
}

/// Executor, or whoever is spoken to.
fn bob() -> Keypair {
    Keypair::from_seed(&[2; 32])
}

fn topic() -> DhtId {
    "2894f26f3710bf6b65001d51c0445f81cd48be0a".parse().unwrap()
}

fn identity_frame() -> Frame {
    let own = Identity {
        key: alice().public(),
        dht_id: DhtId([0xdd; 20]),
        node_type: NodeType::Private,
        role: Role::Client,
        is_relay: false,
        topics: vec![topic()],
        versions: VERSIONS.to_vec(),
    };
    let mut exchange =
        Exchange::new(own, bob().public(), None, std::net::SocketAddr::from(([203, 0, 113, 7], 30_906)));
    let (mut rng, mut out) = (Rng::from_seed([0; 32]), Vec::new());
    let mut cx = Cx::new(Instant::ZERO, UnixTime::from_secs(NOW_SECS), &mut rng, &mut out);
    exchange.handle(&mut cx, Input::Start);
    let [Output::Send(frame)] = &out[..] else { panic!("{out:?}") };
    frame.clone()
}

/// Alice asks where bob is, and is told.
fn seek() -> Seek {
    Seek { key: bob().public() }
}

const SECOND_OF_TWO: Part = Part::Fragment { id: 3, index: 1, count: 2 };

fn relayed(direction: Direction, peer: &Keypair, part: Part, carried: &[u8]) -> Bytes {
    Header { direction, peer: peer.public().peer_id(), part }.datagram(carried)
}

fn relay_registered() -> Message {
    Message::Registered(Registered {
        session: [0x55; 8],
        observed: "203.0.113.7:30906".parse().unwrap(),
        bytes_per_second: 12_500_000,
        keepalive: Duration::from_secs(5),
        lifetime: Duration::from_secs(3_600),
        free: 999,
    })
}

fn relay_gone() -> Message {
    Message::Gone { peer: bob().public().peer_id() }
}

fn dial_back() -> DialBack {
    let nonce = Nonce([1, 2, 3, 4, 5, 6, 7, 8]);
    DialBack { nonce, port: 30_906, wait: Duration::from_secs(30), elsewhere: true }
}

fn seen() -> Seen {
    Seen { key: bob().public(), addr: ([203, 0, 113, 7], 30_906).into() }
}

/// What alice sends to bob in order to prove his address, and he answers to.
fn probe(probe: Probe) -> Bytes {
    ProbeKeys::derive(&[5; 32], &alice().public(), &bob().public()).seal(&probe)
}

fn ping() -> Probe {
    Probe::Ping { nonce: [6; 8], count: 1, flags: 0, full: false }
}

fn pong() -> Probe {
    Probe::Pong { nonce: [7; 8], observed: ([203, 0, 113, 7], 30_906).into() }
}

fn record() -> MutableItem {
    let content = RecordContent {
        node_type: NodeType::Public,
        public: vec![([203, 0, 113, 7], 30_906).into()],
        services: 1,
        catalogue: Some(Digest::in_domain("rn/catalogue/v1", &[&service().id().0])),
        ..RecordContent::default()
    };
    let value = NodeRecord::issue(content, UnixTime::from_secs(NOW_SECS)).encode();
    item::sign(&alice(), b"", NOW_SECS * 1000, value).unwrap()
}

fn ticket() -> Ticket {
    let expires = UnixTime::from_secs(NOW_SECS + 86_400);
    Ticket::sign(&alice(), Digest::of(b"hello"), bob().public(), expires)
}

const LIMITS: EngineLimits = EngineLimits { memory_bytes: 64 << 20, time_ms: 30_000, output_bytes: 16 << 20 };

fn service() -> Service {
    Service {
        name: "count".into(),
        description: "counts words".into(),
        version: "1.0.0".into(),
        program: Program::Wasm(Digest::of(b"module")),
        module_len: 6,
        stdin: true,
        mounts: Vec::new(),
        limits: LIMITS,
        visibility: Visibility::Everyone,
        details: Details::default(),
    }
}

fn order() -> Signed<Order> {
    let order = Order {
        requester: alice().public(),
        executor: bob().public(),
        run: RunId([0x11; 16]),
        spec: Digest([0x55; 32]),
        task: "count".into(),
        fence: 1,
        service: service().id(),
        program: Program::Wasm(Digest::of(b"module")),
        paths: Vec::new(),
        args: vec!["-n".into()],
        env: vec![("LANG".into(), "C".into())],
        inputs: vec![EngineInput { port: Port::Stdin, digest: Digest::of(b"hello"), len: 5 }],
        outputs: vec![Port::Stdout, Port::Stderr],
        limits: LIMITS,
        light: false,
        pledge: false,
        nonce: [0x22; 16],
        issued: UnixTime::from_secs(NOW_SECS),
    };
    Signed::sign(order, &alice())
}

fn receipt() -> Signed<Receipt> {
    let output = |port, bytes: &[u8]| EngineOutput {
        port,
        digest: Digest::of(bytes),
        len: bytes.len() as u64,
        truncated: false,
    };
    let outputs = vec![output(Port::Stdout, b"1\n"), output(Port::Stderr, b"")];
    let receipt = Receipt {
        executor: bob().public(),
        incarnation: 7,
        seq: 1,
        previous: Digest([0; 32]),
        order: order().digest(),
        job: order().job(),
        engine: "wasmtime/example".into(),
        program: order().program.clone(),
        class: ExitClass::Success,
        code: 0,
        detail: String::new(),
        result: result_digest(ExitClass::Success, 0, &outputs),
        outputs,
        usage: Usage { cpu_ns: 0, fuel: 1_000, memory_bytes: 65_536, wall_ms: 3 },
        started: UnixTime::from_secs(NOW_SECS + 1),
        ended: UnixTime::from_secs(NOW_SECS + 2),
    };
    Signed::sign(receipt, &bob())
}

fn commit() -> Signed<Commit> {
    let commit = Commit {
        requester: alice().public(),
        job: receipt().job,
        order: receipt().order,
        receipt: receipt().digest(),
        verdict: Verdict::Won,
        at: UnixTime::from_secs(NOW_SECS + 3),
    };
    Signed::sign(commit, &alice())
}

/// The worked example of three pieces.
fn object() -> Vec<u8> {
    (0..600_000u32).map(|i| (i % 251) as u8).collect()
}

fn pieces() -> (Digest, BlobInfo) {
    let mut hasher = PieceHasher::new();
    hasher.update(&object());
    hasher.finish()
}

fn fetch() -> Frame {
    let (digest, _) = pieces();
    Fetch { digest, under: None, ticket: None, list: true, want: PieceRanges::of([0, 2]) }.to_frame()
}

fn made() -> BTreeMap<&'static str, String> {
    let (object_digest, info) = pieces();
    BTreeMap::from([
        ("alice-key", hex(alice().public().as_bytes())),
        ("alice-text", alice().public().to_string()),
        ("alice-peer-id", alice().public().peer_id().to_string()),
        ("bob-key", hex(bob().public().as_bytes())),
        ("identity-frame", hex(&identity_frame().encode())),
        ("seek-frame", hex(&seek().to_frame().encode())),
        ("seen-frame", hex(&seen().to_frame().encode())),
        ("relay-registered-frame", hex(&relay_registered().to_frame().encode())),
        ("relay-gone-frame", hex(&relay_gone().to_frame().encode())),
        ("relay-datagram-to", hex(&relayed(Direction::To, &bob(), Part::Whole, b"packet"))),
        ("relay-datagram-from", hex(&relayed(Direction::From, &alice(), Part::Whole, b"packet"))),
        ("relay-datagram-piece", hex(&relayed(Direction::To, &bob(), SECOND_OF_TWO, b"ket"))),
        ("dial-back-frame", hex(&dial_back().to_frame().encode())),
        ("dial-back-datagram", hex(&dialback::datagram(dial_back().nonce))),
        ("path-ping", hex(&probe(ping()))),
        ("path-pong", hex(&probe(pong()))),
        ("record-value", hex(&record().value)),
        ("record-signed-bytes", hex(&item::signing_bytes(b"", record().seq, &record().value))),
        ("record-signature", record().signature.to_string()),
        ("ticket", hex(&ticket().encode())),
        ("service-id", service().id().to_string()),
        ("order", hex(&order().encode())),
        ("order-digest", order().digest().to_string()),
        ("job-id", order().job().to_string()),
        ("guest-seed", hex(&order().seed())),
        ("receipt", hex(&receipt().encode())),
        ("receipt-digest", receipt().digest().to_string()),
        ("result-digest", receipt().result.to_string()),
        ("commit", hex(&commit().encode())),
        ("object-digest", object_digest.to_string()),
        ("object-piece-list", hex(&info.pieces)),
        ("fetch-frame", hex(&fetch().encode())),
    ])
}

#[test]
fn the_page_has_the_vectors_that_the_code_makes_and_no_others() {
    let (page, made) = (page(), made());
    let mut wrong = String::new();
    for (name, value) in &made {
        if page.get(name) != Some(value) {
            writeln!(wrong, "{name}\n{value}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "the code says otherwise:\n{wrong}");
    let unknown: Vec<_> = page.keys().filter(|name| !made.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "no vectors of the code: {unknown:?}");
}

#[test]
fn the_vectors_are_good_to_those_who_read_them() {
    let page = page();
    let bytes = |name: &str| -> Vec<u8> {
        let digits = page[name].as_bytes();
        digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    };
    assert_eq!(page["alice-text"].parse(), PublicKey::from_slice(&bytes("alice-key")));
    let mut reader = FrameReader::default();
    reader.push(&bytes("identity-frame"));
    assert_eq!(reader.next_frame(), Ok(Some(identity_frame())));

    let mut reader = FrameReader::default();
    reader.push(&[bytes("relay-registered-frame"), bytes("relay-gone-frame")].concat());
    for message in [relay_registered(), relay_gone()] {
        assert_eq!(reader.next_frame().map(|f| Message::from_frame(&f.unwrap())), Ok(Ok(message)));
    }
    let piece = Header::parse(&bytes("relay-datagram-piece")).map(|h| (h.part, h.bytes()));
    assert_eq!(piece, Ok((SECOND_OF_TWO, 24)));
    reader.push(&bytes("dial-back-frame"));
    assert_eq!(reader.next_frame().map(|f| DialBack::from_frame(&f.unwrap())), Ok(Ok(dial_back())));
    assert_eq!(dialback::parse(&bytes("dial-back-datagram")), Some(dial_back().nonce));
    reader.push(&[bytes("seek-frame"), bytes("seen-frame")].concat());
    assert_eq!(reader.next_frame().map(|f| Seek::from_frame(&f.unwrap())), Ok(Ok(seek())));
    assert_eq!(reader.next_frame().map(|f| Seen::from_frame(&f.unwrap())), Ok(Ok(seen())));

    let bobs = ProbeKeys::derive(&[5; 32], &bob().public(), &alice().public());
    assert_eq!(bobs.open(&bytes("path-ping")), Ok(ping()));
    assert_eq!(bobs.open(&bytes("path-pong")), Ok(pong()));

    let signature = Signature::from_slice(&bytes("record-signature")).unwrap();
    assert!(alice().public().verify(&bytes("record-signed-bytes"), &signature));
    let read = NodeRecord::read(&bytes("record-value"), UnixTime::from_secs(NOW_SECS)).unwrap();
    assert_eq!(read.content.services, 1);
    let stored = MutableItem { value: Bytes::from(bytes("record-value")), signature, ..record() };
    assert_eq!(item::verify(&stored), Ok(()));

    let ticket = Ticket::decode(&bytes("ticket")).unwrap();
    let at = |secs| UnixTime::from_secs(NOW_SECS + secs);
    assert!(ticket.allows(&Digest::of(b"hello"), &bob().public(), at(0)));
    assert!(!ticket.allows(&Digest::of(b"hello"), &bob().public(), at(86_400)));
    assert!(!ticket.allows(&Digest::of(b"hello"), &alice().public(), at(0)));

    let bundle = Bundle {
        order: Signed::decode(&bytes("order")).unwrap(),
        receipt: Signed::decode(&bytes("receipt")).unwrap(),
        commit: Signed::decode(&bytes("commit")).unwrap(),
        agreed: Vec::new(),
    };
    let report = verify_file(&bundle.encode()).unwrap();
    assert_eq!((report.requester, report.executor), (alice().public(), bob().public()));
    assert_eq!((report.fence, report.verdict.0), (1, Verdict::Won));
}

#[test]
fn the_worked_example_of_pieces_is_proven_piece_by_piece() {
    let (digest, info) = pieces();
    let object = object();
    assert_eq!(digest, Digest::of(&object), "the digest is plain BLAKE3");
    assert_eq!(root_of(info.len, &info.pieces), Some(digest));
    for piece in 0..3 {
        let range = piece_range(info.len, piece);
        let mut check = PieceCheck::new(&info, piece).unwrap();
        assert_eq!(check.update(&object[range.start as usize..range.end as usize]), PieceState::Right);
    }
    assert!(PieceCheck::new(&info, 3).is_none());
}
