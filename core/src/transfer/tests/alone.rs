//! Each machine by itself: exact outputs, limits, hostile input, and the laws.

use super::world::{PIECE, World, content, describe, key, waiter};
use crate::codec::Frame;
use crate::id::{ConnId, Digest, OpId, PublicKey, StreamId};
use crate::laws::{self, Rig};
use crate::limits::{
    FETCH_LOOKUPS_MAX, FETCH_PIECES_HELD_MAX, FETCH_READ_BYTES_MAX, FETCHES_ACTIVE_MAX, FETCHES_WAITING_MAX,
    GRANT_REQUESTERS_MAX, OBJECT_BYTES_MAX, REFUSALS_MAX, SERVE_READ_AHEAD_BYTES, SERVE_STALL_AFTER,
    SERVES_MAX, SERVES_PER_PEER_MAX,
};
use crate::machine::Machine as _;
use crate::manifest::{Entry, Manifest};
use crate::port::{BlobAnswer, BlobFailed, BlobInfo, BlobRequest};
use crate::store::{Room, StoredRecord, Subject};
use crate::time::Duration;
use crate::transfer::fetch::{self, FetchError, Fetcher, SourceFault};
use crate::transfer::message::{Fetch, Head, PieceRanges};
use crate::transfer::serve::{self, Server};
use crate::transfer::tree::piece_count;
use crate::transfer::{StreamEvent, StreamKey, StreamOp};
use bytes::Bytes;
use proptest::prelude::*;

const STREAM: StreamKey = (ConnId(1), StreamId(4));

fn op(room: u8, n: u64) -> OpId {
    OpId((u64::from(room) << 56) + n)
}

fn want(digest: Digest, len: u64, w: u8) -> fetch::Input {
    fetch::Input::Want {
        digest,
        len,
        claim: None,
        under: None,
        sources: vec![(key(1).public(), None)],
        waiter: waiter(w),
    }
}

fn not_found(n: u64) -> fetch::Input {
    fetch::Input::Blob { op: op(9, n), result: Err(BlobFailed::NotFound) }
}

/// A fetcher that has looked an object up in vain, and the op of the stream it asks for.
fn fetching(digest: Digest, len: u64) -> (Rig<Fetcher>, OpId) {
    let mut rig = Rig::new(Fetcher::new(9), [1; 32]);
    rig.tell(want(digest, len, 1));
    let out = rig.tell(not_found(1));
    let open = out.iter().find_map(|o| match o {
        fetch::Output::Open { op, .. } => Some(*op),
        _ => None,
    });
    (rig, open.expect("a stream is asked for"))
}

#[test]
fn wants_of_one_object_are_one_fetch_and_all_who_wait_are_told() {
    let digest = Digest::of(b"x");
    let mut rig = Rig::new(Fetcher::new(9), [1; 32]);
    assert_eq!(rig.tell(want(digest, 1, 1)).len(), 1);
    assert_eq!(rig.tell(want(digest, 1, 2)), []);
    assert_eq!(rig.tell(want(digest, 1, 2)), []);
    let info = BlobInfo { len: 1, pieces: Bytes::new() };
    let out = rig.tell(fetch::Input::Blob { op: op(9, 1), result: Ok(BlobAnswer::Info(info)) });
    assert_eq!(
        out,
        [fetch::Output::Fetched { digest, len: 1, claim: None, waiters: vec![waiter(1), waiter(2)] }]
    );
}

#[test]
fn a_fetch_ends_when_the_last_who_waited_cancels_and_late_answers_are_ignored() {
    let digest = Digest::of(b"x");
    let (mut rig, open) = fetching(digest, 3 * PIECE);
    rig.tell(want(digest, 3 * PIECE, 2));
    assert_eq!(rig.tell(fetch::Input::Cancel { digest, waiter: waiter(1) }), []);
    assert_eq!(rig.machine.active(), 1);
    assert_eq!(rig.tell(fetch::Input::Cancel { digest, waiter: waiter(2) }), []);
    assert_eq!((rig.machine.active(), rig.machine.waiting()), (0, 0));
    assert_eq!(rig.machine.poll_timeout(), None);
    let reset = fetch::Output::Stream { stream: STREAM, op: StreamOp::Reset };
    assert_eq!(rig.tell(fetch::Input::Opened { op: open, stream: STREAM }), [reset], "it came too late");
    assert_eq!(rig.tell(fetch::Input::Opened { op: open, stream: STREAM }), []);
    assert_eq!(rig.tell(not_found(1)), []);
}

#[test]
fn another_length_of_one_digest_waits_and_fails_alone() {
    let bytes = content(1, 10);
    let digest = Digest::of(&bytes);
    let mut w = World::new(1);
    let h = w.holder_with(&bytes);
    w.want(digest, 11, &[h]);
    w.want(digest, 10, &[h]);
    w.settle();
    w.assert_has(&bytes);
    let why = w.failure().unwrap();
    let lengths = [SourceFault::WrongLength { said: 10 }];
    let by_source = matches!(why, FetchError::NoSource(f) if f.iter().all(|(_, f)| lengths.contains(f)));
    assert!(by_source || *why == FetchError::WrongLength { actual: 10 }, "{why:?}");
    assert_eq!(w.lies(), [], "the want was wrong, not the source");
}

#[test]
fn no_object_is_empty_but_the_empty_one_and_none_is_longer_than_the_longest() {
    let digest = Digest::of(b"x");
    let mut rig = Rig::new(Fetcher::new(9), [1; 32]);
    rig.tell(want(digest, 0, 1));
    let failed =
        |len, why| fetch::Output::FetchFailed { digest, len, claim: None, waiters: vec![waiter(1)], why };
    assert_eq!(rig.tell(not_found(1)), [failed(0, FetchError::NoSuchObject)]);
    let len = OBJECT_BYTES_MAX + 1;
    assert_eq!(rig.tell(want(digest, len, 1)), [failed(len, FetchError::TooLong)]);
}

#[test]
fn bytes_are_asked_for_only_while_the_store_keeps_up() {
    let bytes = content(2, 9 * PIECE);
    let (digest, info) = describe(&bytes);
    let (mut rig, open) = fetching(digest, info.len);
    rig.tell(fetch::Input::Opened { op: open, stream: STREAM });
    let stream = |event| fetch::Input::Stream { stream: STREAM, event };
    let mut wire = Head { len: info.len }.to_frame().encode();
    wire.extend_from_slice(&info.pieces);
    wire.extend_from_slice(&bytes);
    let mut wire = Bytes::from(wire);
    let mut out = rig.tell(stream(StreamEvent::Sent));
    let (mut writes, mut create) = (Vec::new(), None);
    loop {
        let mut read = None;
        for o in out {
            match o {
                fetch::Output::Stream { op: StreamOp::Read { max }, .. } => read = Some(max),
                fetch::Output::Blob { op, request: BlobRequest::Create { .. } } => create = Some(op),
                fetch::Output::Blob { op, request: BlobRequest::Write { .. } } => writes.push(op),
                _ => {}
            }
        }
        out = match (read, create.take()) {
            (Some(max), None) => rig.tell(stream(StreamEvent::Bytes(wire.split_to(max.min(wire.len()))))),
            (None, Some(op)) => {
                let have = vec![0; 2];
                rig.tell(fetch::Input::Blob { op, result: Ok(BlobAnswer::Partial { have }) })
            }
            (None, None) => break,
            (Some(_), Some(_)) => panic!("reads while the store has not said what it has"),
        };
    }
    assert_eq!(writes.len(), FETCH_PIECES_HELD_MAX);
    assert_eq!(rig.machine.poll_timeout(), None, "waiting for the store is no stall");
    let out = rig.tell(fetch::Input::Blob { op: writes[2], result: Ok(BlobAnswer::Written) });
    assert!(out.contains(&fetch::Output::Progress { digest, len: info.len, done: PIECE }));
    let max = FETCH_READ_BYTES_MAX.min(PIECE as usize);
    assert!(out.contains(&fetch::Output::Stream { stream: STREAM, op: StreamOp::Read { max } }));
}

#[test]
fn wants_over_the_limit_are_refused_and_the_others_wait_in_order() {
    let mut rig = Rig::new(Fetcher::new(9), [1; 32]);
    let mut looked = 0;
    let total = FETCHES_WAITING_MAX as u64 + 5;
    let mut refused = 0;
    for n in 0..total {
        for o in rig.tell(want(Digest::of(&n.to_be_bytes()), 10, 1)) {
            match o {
                fetch::Output::Blob { .. } => looked += 1,
                fetch::Output::FetchFailed { why: FetchError::Full, .. } => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((looked, refused), (FETCH_LOOKUPS_MAX, 5));
    for n in 1..=40 {
        rig.tell(not_found(n));
        assert!(rig.machine.active() <= FETCHES_ACTIVE_MAX);
    }
    assert_eq!(rig.machine.active(), FETCHES_ACTIVE_MAX);
}

fn request(digest: Digest, stream: u64, peer: &PublicKey) -> serve::Input {
    let fetch = Fetch { digest, under: None, ticket: None, list: false, want: PieceRanges::of([0]) };
    serve::Input::Request { stream: (ConnId(1), StreamId(stream)), peer: *peer, frame: fetch.to_frame() }
}

#[test]
fn a_peer_over_its_limit_is_told_to_come_later_and_the_others_are_served() {
    let digest = Digest::of(b"x");
    let mut rig = Rig::new(Server::restore(8, &[]).unwrap(), [1; 32]);
    let (a, b) = (key(1).public(), key(2).public());
    for requester in [a, b] {
        rig.tell(serve::Input::Grant { digest, requester, reason: serve::Reason::Job });
    }
    for n in 0..SERVES_PER_PEER_MAX as u64 {
        assert!(rig.tell(request(digest, n, &a)).iter().any(|o| matches!(o, serve::Output::Blob { .. })));
    }
    assert!(!rig.tell(request(digest, 100, &a)).iter().any(|o| matches!(o, serve::Output::Blob { .. })));
    assert_eq!(rig.machine.counts().busy, 1);
    assert!(rig.tell(request(digest, 101, &b)).iter().any(|o| matches!(o, serve::Output::Blob { .. })));
    // Refusals are bounded too, and leave when nobody takes them.
    for n in 0..2 * REFUSALS_MAX as u64 {
        rig.tell(request(digest, 1_000 + n, &a));
    }
    assert_eq!(rig.machine.serving(), SERVES_PER_PEER_MAX + 1);
    let resets = rig.wait(SERVE_STALL_AFTER);
    assert_eq!(resets.len(), REFUSALS_MAX, "each refusal that nobody took is reset");
    assert_eq!(rig.machine.poll_timeout(), None);
}

#[test]
fn who_may_have_a_directory_may_have_its_files_and_no_others() {
    let (inside, outside) = (Digest::of(b"inside"), Digest::of(b"outside"));
    let entry = Entry { path: "a".into(), digest: inside, len: 6, executable: false };
    let manifest = Bytes::from(Manifest::new(vec![entry]).unwrap().encode());
    let under = Digest::of(&manifest);
    let (friend, stranger, writer) = (key(1).public(), key(2).public(), key(3).public());
    let mut rig = Rig::new(Server::restore(8, &[]).unwrap(), [1; 32]);
    rig.tell(serve::Input::Grant { digest: under, requester: friend, reason: serve::Reason::JobTree });
    // A job of its own has left the same bytes as a file: they are the writer's, and not what they name.
    rig.tell(serve::Input::Grant { digest: under, requester: writer, reason: serve::Reason::Job });
    let ask = |rig: &mut Rig<Server>, n: u64, peer: &PublicKey, digest: Digest, under: Option<Digest>| {
        let fetch = Fetch { digest, under, ticket: None, list: false, want: PieceRanges::of([0]) };
        rig.tell(serve::Input::Request {
            stream: (ConnId(1), StreamId(n)),
            peer: *peer,
            frame: fetch.to_frame(),
        })
    };
    let blob = |out: &[serve::Output]| {
        out.iter().find_map(|o| match o {
            serve::Output::Blob { op, request } => Some((*op, request.clone())),
            _ => None,
        })
    };
    let said = |out: &[serve::Output]| {
        out.iter().find_map(|o| match o {
            serve::Output::Stream { op: StreamOp::Send { bytes }, .. } => Some(bytes.clone()),
            _ => None,
        })
    };
    // Two at once: the manifest is read once, and then both are answered.
    let (op, request) =
        blob(&ask(&mut rig, 1, &friend, inside, Some(under))).expect("the manifest is looked up");
    assert_eq!(request, BlobRequest::Open { digest: under });
    assert_eq!(blob(&ask(&mut rig, 2, &friend, outside, Some(under))), None);
    let info = BlobInfo { len: manifest.len() as u64, pieces: Bytes::new() };
    let out = rig.tell(serve::Input::Blob { op, result: Ok(BlobAnswer::Info(info)) });
    let (op, _) = blob(&out).expect("and read");
    let out = rig.tell(serve::Input::Blob { op, result: Ok(BlobAnswer::Bytes(manifest.clone())) });
    assert_eq!(blob(&out).map(|(_, r)| r), Some(BlobRequest::Open { digest: inside }));
    let refused = said(&out).expect("the other file is refused");
    // In the same words as what nobody has, whoever asks and however.
    for (n, peer, digest, under) in [
        (3, &friend, Digest::of(b"nowhere"), None),
        (4, &friend, Digest::of(b"nowhere"), Some(under)),
        (5, &stranger, inside, Some(under)),
        (6, &friend, inside, None),
        (7, &friend, inside, Some(Digest::of(b"another directory"))),
        (8, &writer, inside, Some(under)),
    ] {
        let out = ask(&mut rig, n, peer, digest, under);
        assert_eq!((said(&out), blob(&out)), (Some(refused.clone()), None), "{n}");
    }
}

#[test]
fn a_second_stream_for_an_object_yields_to_those_who_have_none() {
    let digest = Digest::of(b"x");
    let mut rig = Rig::new(Server::restore(8, &[]).unwrap(), [1; 32]);
    let mut ask = |n: u64, peer: u8| {
        let peer = key(peer).public();
        rig.tell(serve::Input::Grant { digest, requester: peer, reason: serve::Reason::Job });
        rig.tell(request(digest, n, &peer)).iter().any(|o| matches!(o, serve::Output::Blob { .. }))
    };
    for peer in 0..SERVES_MAX as u8 / 2 - 1 {
        assert!(ask(u64::from(peer), peer));
    }
    assert!(ask(100, 0), "there is room for a second stream");
    assert!(!ask(101, 0), "there is room, but not for a third one");
    assert!(ask(102, 200), "a peer that has none gets its first");
}

#[test]
fn hostile_requests_are_counted_reset_and_held_against_the_peer() {
    let mut rig = Rig::new(Server::restore(8, &[]).unwrap(), [1; 32]);
    let peer = key(1).public();
    let digest = Digest::of(b"x");
    rig.tell(serve::Input::Grant { digest, requester: peer, reason: serve::Reason::Job });
    let frame = Frame { kind: 0x20, body: b"d1:wi0ee".to_vec() };
    let out = rig.tell(serve::Input::Request { stream: STREAM, peer, frame });
    assert!(matches!(
        &out[..],
        [serve::Output::Stream { op: StreamOp::Reset, .. }, serve::Output::Fault { .. }]
    ));
    rig.tell(request(digest, 4, &peer));
    let bytes = serve::Input::Stream { stream: STREAM, event: StreamEvent::Bytes(Bytes::from_static(b"x")) };
    let out = rig.tell(bytes);
    assert!(out.contains(&serve::Output::Stream { stream: STREAM, op: StreamOp::Reset }));
    assert_eq!((rig.machine.counts().malformed, rig.machine.serving()), (2, 0));
    // Pieces that the object has not.
    rig.tell(request(digest, 8, &peer));
    let none = BlobInfo { len: 0, pieces: Bytes::new() };
    rig.tell(serve::Input::Blob { op: op(8, 2), result: Ok(BlobAnswer::Info(none)) });
    assert_eq!((rig.machine.counts().malformed, rig.machine.serving()), (3, 0));
}

#[test]
fn a_consumer_that_takes_nothing_is_abandoned_after_thirty_seconds() {
    let bytes = content(1, PIECE);
    let (digest, info) = describe(&bytes);
    let mut rig = Rig::new(Server::restore(8, &[]).unwrap(), [1; 32]);
    let peer = key(1).public();
    rig.tell(serve::Input::Grant { digest, requester: peer, reason: serve::Reason::Job });
    rig.tell(request(digest, 4, &peer));
    rig.tell(serve::Input::Blob { op: op(8, 1), result: Ok(BlobAnswer::Info(info)) });
    assert_eq!(rig.wait(SERVE_STALL_AFTER - Duration::from_millis(1)), []);
    let out = rig.wait(Duration::from_millis(1));
    assert_eq!(out, [serve::Output::Stream { stream: STREAM, op: StreamOp::Reset }]);
    assert_eq!((rig.machine.serving(), rig.machine.ops_outstanding()), (0, 0));
}

#[test]
fn grants_over_the_limit_are_refused_aloud() {
    let mut rig = Rig::new(Server::restore(8, &[]).unwrap(), [1; 32]);
    let digest = Digest::of(b"x");
    for n in 0..GRANT_REQUESTERS_MAX as u8 {
        rig.tell(serve::Input::Grant { digest, requester: key(n).public(), reason: serve::Reason::Job });
    }
    let requester = key(200).public();
    let out = rig.tell(serve::Input::Grant { digest, requester, reason: serve::Reason::Job });
    assert_eq!(out, [serve::Output::GrantFull { digest, requester }]);
}

#[test]
fn a_record_that_is_no_grant_stops_the_restore() {
    let subject = Subject::new(Room::Grant, Digest::of(b"x").as_bytes());
    for record in [
        &b"d1:rle1:vi3ee"[..],
        b"d1:rle1:vi2ee",
        b"d1:rle1:vi2e1:wli1eee",
        b"d1:rl3:abce1:vi1ee",
        b"",
        b"d1:vi1ee",
        b"d1:rl3:abce1:vi2e1:wli1eee",
    ] {
        let (lsn, record) = (Default::default(), Bytes::copy_from_slice(record));
        let stored = StoredRecord { lsn, subject: subject.clone(), record };
        assert!(Server::restore(8, &[stored]).is_err());
    }
}

fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(10), Just(PIECE), Just(2 * PIECE + 1), Just(OBJECT_BYTES_MAX), Just(u64::MAX)]
}

fn digests() -> impl Strategy<Value = Digest> {
    (0u8..3).prop_map(|n| if n == 0 { Digest::of(&[]) } else { Digest::of(&[n]) })
}

fn streams() -> impl Strategy<Value = StreamKey> {
    (0u64..2, 0u64..3).prop_map(|(c, s)| (ConnId(c), StreamId(s)))
}

fn events() -> impl Strategy<Value = StreamEvent> {
    let head = lengths().prop_map(|len| Bytes::from(Head { len }.to_frame().encode()));
    let parts = head.prop_flat_map(|b| (0..=b.len(), Just(b)).prop_map(|(n, b)| b.slice(n.min(4)..)));
    let noise = proptest::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from);
    prop_oneof![
        3 => Just(StreamEvent::Sent),
        1 => Just(StreamEvent::End),
        1 => Just(StreamEvent::Gone),
        3 => parts.prop_map(StreamEvent::Bytes),
        2 => noise.prop_map(StreamEvent::Bytes),
        2 => Just(StreamEvent::Bytes(Bytes::from_static(&[0, 0, 0, 12]))),
        2 => Just(StreamEvent::Bytes(Bytes::from_static(&[0; 10]))),
    ]
}

fn answers() -> impl Strategy<Value = Result<BlobAnswer, BlobFailed>> {
    prop_oneof![
        4 => Just(Err(BlobFailed::NotFound)),
        1 => Just(Err(BlobFailed::Corrupt)),
        1 => Just(Err(BlobFailed::Full)),
        2 => lengths().prop_map(|len| {
            let pieces = vec![7; piece_count(len.min(4 * PIECE)) as usize * 32].into();
            Ok(BlobAnswer::Info(BlobInfo { len, pieces }))
        }),
        2 => proptest::collection::vec(any::<u8>(), 0..3).prop_map(|have| Ok(BlobAnswer::Partial { have })),
        1 => (0usize..12).prop_map(|n| Ok(BlobAnswer::Bytes(vec![0; n].into()))),
        2 => Just(Ok(BlobAnswer::Written)),
        1 => Just(Ok(BlobAnswer::Sealed)),
        1 => Just(Ok(BlobAnswer::Removed)),
    ]
}

#[test]
fn the_fetcher_keeps_the_laws() {
    let ops = || (0u64..12).prop_map(|n| op(9, n));
    let input = prop_oneof![
        4 => (digests(), lengths(), 0u8..3, 0u8..3).prop_map(|(digest, len, w, s)| fetch::Input::Want {
            digest,
            len,
            claim: (w == 2).then(|| key(7).public()),
            under: (w == 1).then(|| Digest::of(b"directory")),
            sources: (0..s).map(|n| (key(n).public(), None)).collect(),
            waiter: waiter(w),
        }),
        1 => (digests(), 0u8..3).prop_map(|(digest, w)| fetch::Input::Cancel { digest, waiter: waiter(w) }),
        4 => (ops(), streams()).prop_map(|(op, stream)| fetch::Input::Opened { op, stream }),
        1 => ops().prop_map(|op| fetch::Input::OpenFailed { op, why: "no".into() }),
        6 => (streams(), events()).prop_map(|(stream, event)| fetch::Input::Stream { stream, event }),
        6 => (ops(), answers()).prop_map(|(op, result)| fetch::Input::Blob { op, result }),
    ];
    laws::check_within(
        || Fetcher::new(9),
        input,
        |m| {
            assert!(m.active() <= FETCHES_ACTIVE_MAX && m.waiting() <= FETCHES_WAITING_MAX);
        },
    );
}

#[test]
fn the_server_keeps_the_laws() {
    let frame = (digests(), any::<bool>(), proptest::collection::btree_set(0u32..5, 0..3)).prop_map(
        |(digest, list, want)| {
            Fetch { digest, under: None, ticket: None, list, want: PieceRanges::of(want) }.to_frame()
        },
    );
    let noise = proptest::collection::vec(any::<u8>(), 0..20).prop_map(|body| Frame { kind: 0x20, body });
    let peers = || (0u8..3).prop_map(|n| key(n).public());
    let input = prop_oneof![
        4 => (digests(), peers()).prop_map(|(digest, requester)| serve::Input::Grant { digest, requester, reason: serve::Reason::Job }),
        1 => (digests(), peers()).prop_map(|(digest, requester)| serve::Input::Revoke { digest, requester, reason: serve::Reason::Job }),
        6 => (streams(), peers(), prop_oneof![6 => frame, 1 => noise])
            .prop_map(|(stream, peer, frame)| serve::Input::Request { stream, peer, frame }),
        6 => (streams(), events()).prop_map(|(stream, event)| serve::Input::Stream { stream, event }),
        6 => ((0u64..12).prop_map(|n| op(8, n)), answers())
            .prop_map(|(op, result)| serve::Input::Blob { op, result }),
    ];
    laws::check_within(
        || Server::restore(8, &[]).unwrap(),
        input,
        |m| {
            assert!(m.serving() <= SERVES_MAX && m.granted() <= 3);
            assert!(m.held_max() <= SERVE_READ_AHEAD_BYTES.max(2 << 20));
        },
    );
}
