//! Fetcher and servers joined by pipes of memory: everything that can happen happens in an order drawn at random, bytes
//! arrive in portions drawn at random, and the bounds are looked at after every step.

mod alone;
mod lanes;
mod world;

use super::fetch::{self, FetchError, SourceFault};
use super::message::RefusedCode;
use super::serve::{self, Server};
use super::tree::piece_count;
use crate::codec::{Dict, Value};
use crate::id::Digest;
use crate::limits::FETCH_STALL_AFTER;
use crate::port::{BlobFailed, BlobInfo, BlobRequest};
use crate::store::{Room, StoreOp, StoredRecord, Subject};
use crate::ticket::Ticket;
use crate::time::{Duration, Instant};
use world::{Matches, PIECE, WALL, World, content, describe, key, waiter};

#[test]
fn objects_of_every_size_arrive_whole() {
    for (seed, len) in
        [0, 1, 1_024, 1_025, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 5, 9 * PIECE - 1]
            .into_iter()
            .zip(0u8..)
            .map(|(len, seed)| (seed, len))
    {
        let mut w = World::new(seed);
        let bytes = content(u64::from(seed), len);
        let h = w.holder_with(&bytes);
        let (digest, _) = describe(&bytes);
        w.want(digest, len, &[h]);
        w.settle();
        w.assert_has(&bytes);
        assert_eq!(w.opened, usize::from(len > 0), "one stream does it; an empty object needs none");
        assert_eq!(w.holders[h].server.serving() + w.holders[h].server.ops_outstanding(), 0);
        assert_eq!(w.store.writes, u64::from(piece_count(len)));
    }
}

#[test]
fn an_object_that_is_here_is_not_fetched() {
    let mut w = World::new(1);
    let bytes = content(1, 3 * PIECE);
    let (digest, len) = w.store.put(&bytes);
    let h = w.holder_with(&bytes);
    w.want(digest, len, &[h]);
    w.settle();
    w.assert_has(&bytes);
    assert_eq!(w.opened, 0);
}

#[test]
fn an_object_that_is_here_is_no_answer_to_a_claim_without_a_source_that_gives_it() {
    let bytes = content(1, 3 * PIECE);
    let mut heard = Vec::new();
    for here in [false, true] {
        let mut w = World::new(1);
        let (digest, info) = describe(&bytes);
        if here {
            w.store.put(&bytes);
        }
        let stranger = w.holder();
        w.claim(digest, info.len, 50, &[stranger]);
        w.settle();
        assert!(!w.fetched(digest));
        w.claim(digest, info.len - 1, 50, &[stranger]);
        w.settle();
        heard.push((w.said.clone(), w.now));
    }
    assert_eq!(heard[0], heard[1], "nor can it be told whether it is here, or how long it is");
}

#[test]
fn a_claim_is_shown_by_every_byte_and_writes_nothing_twice() {
    for len in [1, PIECE, 3 * PIECE + 5] {
        let mut w = World::new(2);
        let bytes = content(1, len);
        let (digest, _) = w.store.put(&bytes);
        let h = w.holder_with(&bytes);
        w.claim(digest, len, 50, &[h]);
        w.settle();
        w.assert_has(&bytes);
        assert_eq!(w.holders[h].server.counts().bytes, len);
        assert_eq!(w.store.writes, 0);
    }
}

#[test]
fn a_source_that_lacks_one_piece_shows_no_claim() {
    let bytes = content(1, 4 * PIECE);
    let mut w = World::new(3);
    let (digest, len) = w.store.put(&bytes);
    let partly = liar(&mut w, &bytes, |content, _, _| content[3 * PIECE as usize] ^= 1);
    w.claim(digest, len, 50, &[partly]);
    w.settle();
    assert!(!w.fetched(digest));
    assert_eq!(w.lies().len(), 1);
}

#[test]
fn what_one_requester_brought_is_no_others_and_both_get_it_by_their_own_sources() {
    let bytes = content(1, 3 * PIECE);
    let (digest, info) = describe(&bytes);
    for seed in 0..8 {
        let mut w = World::new(seed);
        let (good, stranger) = (w.holder_with(&bytes), w.holder());
        w.claim(digest, info.len, 50, &[good]);
        w.claim(digest, info.len, 51, &[stranger]);
        w.settle();
        let told = |w: &World, n: u8| {
            let claim = Some(key(n).public());
            w.said.iter().any(|s| matches!(s, fetch::Output::Fetched { claim: c, .. } if *c == claim))
        };
        assert!(told(&w, 50) && !told(&w, 51));
        w.claim(digest, info.len, 51, &[good]);
        w.settle();
        assert!(told(&w, 51));
        assert_eq!(w.store.writes, 3);
    }
}

#[test]
fn a_claim_to_what_is_here_holds_up_nobody_elses() {
    let bytes = content(1, 3 * PIECE);
    let mut w = World::new(5);
    let (digest, len) = w.store.put(&bytes);
    let (silent, good) = (w.holder_with(&bytes), w.holder_with(&bytes));
    w.holders[silent].silent_after = Some(10);
    w.claim(digest, len, 50, &[silent]);
    w.claim(digest, len, 51, &[good]);
    while w.step() {}
    assert!(w.fetched(digest), "{:?}", w.said);
    assert_eq!((w.now, w.said.len()), (Instant::ZERO, 1));
}

#[test]
fn what_a_claim_has_shown_is_remembered_over_a_failure_but_pieces_from_before_a_restart_are_anybodys() {
    let bytes = content(3, 6 * PIECE);
    let (digest, info) = describe(&bytes);
    for restarts in [false, true] {
        let mut w = World::new(4);
        let h = w.holder_with(&bytes);
        w.claim(digest, info.len, 50, &[h]);
        while w.store.writes < 3 {
            assert!(w.step());
        }
        if restarts {
            w.crash();
        } else {
            w.holders[h].reachable = false;
            let streams: Vec<_> = w.pipes.keys().copied().collect();
            streams.into_iter().for_each(|s| w.break_connection(s));
            w.settle();
            assert!(w.failure().is_some());
            w.holders[h].reachable = true;
        }
        let before = w.holders[h].server.counts().bytes;
        w.claim(digest, info.len, 50, &[h]);
        w.settle();
        w.assert_has(&bytes);
        assert_eq!(w.store.writes, 6, "no piece was written twice");
        let again = w.holders[h].server.counts().bytes - before;
        assert_eq!(again == info.len, restarts, "{again} bytes");
    }
}

#[test]
fn a_claim_ends_although_every_piece_was_written_before_a_restart() {
    for pieces in [1, 2, 5] {
        let bytes = content(3, pieces * PIECE - 7);
        let (digest, info) = describe(&bytes);
        let mut w = World::new(4);
        let h = w.holder_with(&bytes);
        w.claim(digest, info.len, 50, &[h]);
        while w.store.writes < pieces {
            assert!(w.step());
        }
        w.crash();
        assert!(!w.fetched(digest), "it was not sealed");
        w.claim(digest, info.len, 50, &[h]);
        w.settle();
        w.assert_has(&bytes);
        assert_eq!(w.store.writes, pieces);
    }
}

#[test]
fn lost_connections_cost_no_piece_that_was_written() {
    for seed in 0..8 {
        let mut w = World::new(seed);
        let bytes = content(7, 12 * PIECE + 77);
        let (digest, info) = describe(&bytes);
        let from = [w.holder_with(&bytes), w.holder_with(&bytes)];
        w.losses = 150;
        w.window = 40_000;
        w.want(digest, info.len, &from);
        w.settle();
        if !w.fetched(digest) {
            // Five rounds in vain are possible under such losses; the next want goes on from the pieces that are here.
            assert!(matches!(w.failure(), Some(FetchError::NoSource(_))));
            w.losses = 0;
            w.want(digest, info.len, &from);
            w.settle();
        }
        w.assert_has(&bytes);
        assert!(w.opened > 1, "something was lost");
        assert_eq!(w.store.writes, 13, "every piece was written once");
        assert_eq!(w.lies(), [], "a lost connection is no lie");
    }
}

#[test]
fn a_crash_after_every_piece_resumes_from_it() {
    let bytes = content(3, 6 * PIECE + 1);
    let (digest, info) = describe(&bytes);
    for pieces in 0..=7 {
        let mut w = World::new(pieces);
        let h = w.holder_with(&bytes);
        w.want(digest, info.len, &[h]);
        while w.store.writes < u64::from(pieces) {
            assert!(w.step());
        }
        w.crash();
        w.want(digest, info.len, &[h]);
        w.settle();
        w.assert_has(&bytes);
        assert_eq!(w.store.writes, 7, "crash at {pieces}: no piece was fetched twice");
    }
}

/// A lie in what a holder's store says of an object: its list, its content or its length.
fn liar(w: &mut World, bytes: &[u8], lie: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>, &mut u64)) -> usize {
    let h = w.holder_with(bytes);
    let (digest, info) = describe(bytes);
    let (mut content, mut list, mut len) = (bytes.to_vec(), info.pieces.to_vec(), info.len);
    lie(&mut content, &mut list, &mut len);
    w.holders[h].store.whole.insert(digest, (content.into(), BlobInfo { len, pieces: list.into() }));
    h
}

#[test]
fn a_lying_source_is_banned_and_an_honest_one_goes_on() {
    type Lie = fn(&mut Vec<u8>, &mut Vec<u8>, &mut u64);
    let cases: [(Lie, Option<SourceFault>); 5] = [
        (|_, list, _| list[40] ^= 1, Some(SourceFault::WrongList)),
        (|c, _, _| c[0] ^= 1, Some(SourceFault::WrongPiece { piece: 0 })),
        (|c, _, _| c[4 * PIECE as usize] ^= 1, Some(SourceFault::WrongPiece { piece: 4 })),
        (|c, _, _| c.rotate_left(1_024), Some(SourceFault::WrongPiece { piece: 0 })),
        (|_, _, len| *len -= 1, None),
    ];
    let bytes = content(5, 4 * PIECE + 9);
    let (digest, info) = describe(&bytes);
    for (seed, (lie, expected)) in (0u8..).zip(cases) {
        let mut w = World::new(seed);
        let bad = liar(&mut w, &bytes, lie);
        w.want(digest, info.len, &[bad]);
        while w.lies().is_empty() && w.failure().is_none() && w.step() {}
        let good = w.holder_with(&bytes);
        w.said.retain(|s| matches!(s, fetch::Output::Lied { .. }));
        w.want(digest, info.len, &[bad, good]);
        w.settle();
        w.assert_has(&bytes);
        let bad_key = w.holders[bad].key;
        let lies = w.lies();
        assert!(lies.iter().all(|l| Some(l) == expected.clone().map(|f| (bad_key, f)).as_ref()), "{lies:?}");
        assert_eq!(lies.is_empty(), expected.is_none(), "another length may be the want's fault");
        assert_eq!(w.store.writes, 5);
    }
}

#[test]
fn an_answer_that_ends_early_is_a_lie_and_all_liars_are_named() {
    for cut in [0, 3, 20, 100, PIECE as usize + 500] {
        let mut w = World::new(cut as u8);
        let bytes = content(5, 3 * PIECE);
        let (digest, info) = describe(&bytes);
        let from = [w.holder_with(&bytes), w.holder_with(&bytes)];
        from.iter().for_each(|h| w.holders[*h].cut = Some(cut));
        w.want(digest, info.len, &from);
        w.settle();
        let Some(FetchError::NoSource(faults)) = w.failure() else { panic!("{:?}", w.said) };
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().all(|(_, f)| *f == SourceFault::Short), "{faults:?}");
        assert_eq!(w.lies().len(), 2);
    }
}

#[test]
fn a_silent_source_stalls_for_fifteen_seconds_and_no_longer() {
    let mut w = World::new(4);
    let bytes = content(5, 3 * PIECE);
    let (digest, info) = describe(&bytes);
    let silent = w.holder_with(&bytes);
    w.holders[silent].silent_after = Some(1_000);
    w.want(digest, info.len, &[silent]);
    while w.step() {}
    let good = w.holder_with(&bytes);
    w.want(digest, info.len, &[good]);
    w.settle();
    w.assert_has(&bytes);
    assert!(w.now >= Instant::ZERO + FETCH_STALL_AFTER && w.now < Instant::ZERO + FETCH_STALL_AFTER * 3);
    assert_eq!(w.holders[silent].server.serving(), 0, "the reset was heard");
}

#[test]
fn unreachable_sources_are_tried_in_rounds_and_refusing_ones_once_and_then_all_are_named() {
    let mut w = World::new(4);
    let bytes = content(5, PIECE);
    let (digest, info) = describe(&bytes);
    let (gone, without) = (w.holder(), w.holder());
    w.holders[gone].reachable = false;
    w.want(digest, info.len, &[gone, without]);
    w.settle();
    let Some(why @ FetchError::NoSource(faults)) = w.failure() else { panic!("{:?}", w.said) };
    let refused = SourceFault::Refused(RefusedCode::Unavailable, RefusedCode::Unavailable.reason().into());
    assert_eq!(faults[0].1, SourceFault::Unreachable("no path".into()));
    assert_eq!(faults[1].1, refused);
    assert!(!why.is_final(), "the other may come back");
    assert_eq!(w.opened, 1, "what was refused for good is not asked for again");
    assert!(w.now > Instant::from_millis(3_000) && w.now < Instant::from_millis(60_000), "{:?}", w.now);
    assert_eq!(w.lies(), []);
}

#[test]
fn a_refusal_of_the_only_source_ends_the_fetch_at_once_but_another_ticket_is_another_question() {
    let bytes = content(5, PIECE);
    let (digest, info) = describe(&bytes);
    let (requester, me) = (key(50), key(100).public());
    let over = Ticket::sign(&requester, digest, me, WALL);
    let good = Ticket::sign(&requester, digest, me, WALL.plus(Duration::from_secs(60)));
    for tickets in [vec![over.clone()], vec![over, good]] {
        let mut w = World::new(4);
        let h = w.holder();
        w.holders[h].store.put(&bytes);
        w.tell_holder(
            h,
            serve::Input::Grant { digest, requester: requester.public(), reason: serve::Reason::Job },
        );
        let sources = tickets.iter().map(|t| (w.holders[h].key, Some(t.clone()))).collect();
        w.tell(fetch::Input::Want {
            digest,
            len: info.len,
            claim: None,
            under: None,
            sources,
            waiter: waiter(1),
        });
        w.settle();
        assert_eq!(w.fetched(digest), tickets.len() == 2);
        assert!(w.failure().is_none_or(FetchError::is_final));
        assert_eq!(w.now, Instant::ZERO, "nothing was waited for");
    }
}

#[test]
fn a_failing_store_here_ends_the_fetch_with_its_words_or_is_mended() {
    let bytes = content(5, 3 * PIECE);
    let (digest, info) = describe(&bytes);
    let is_open = |r: &BlobRequest| matches!(r, BlobRequest::Open { .. });
    let is_create = |r: &BlobRequest| matches!(r, BlobRequest::Create { .. });
    let is_write = |r: &BlobRequest| matches!(r, BlobRequest::Write { .. });
    let is_seal = |r: &BlobRequest| matches!(r, BlobRequest::Seal { .. });
    let cases: [(Matches, BlobFailed, bool); 7] = [
        (is_open, BlobFailed::Corrupt, true),
        (is_open, BlobFailed::Io("x".into()), false),
        (is_create, BlobFailed::Full, false),
        (is_create, BlobFailed::Corrupt, true),
        (is_write, BlobFailed::Full, false),
        (is_write, BlobFailed::NotFound, false),
        (is_seal, BlobFailed::Corrupt, true),
    ];
    for (matches, failed, mended) in cases {
        let mut w = World::new(1);
        let h = w.holder_with(&bytes);
        w.store.fail.push((matches, failed.clone()));
        w.want(digest, info.len, &[h]);
        w.settle();
        assert_eq!(w.fetched(digest), mended, "{failed:?}: {:?}", w.said);
        if !mended {
            assert_eq!(w.failure(), Some(&FetchError::Store(failed)));
        }
        assert_eq!((w.fetcher.active(), w.holders[h].server.serving()), (0, 0));
    }
}

#[test]
fn a_failing_store_there_is_no_lie() {
    let bytes = content(5, 3 * PIECE);
    let (digest, info) = describe(&bytes);
    for failed in [BlobFailed::NotFound, BlobFailed::Corrupt, BlobFailed::Io("x".into())] {
        for matches in [(|r: &BlobRequest| matches!(r, BlobRequest::Open { .. })) as Matches, |r| {
            matches!(r, BlobRequest::Read { .. })
        }] {
            let mut w = World::new(2);
            let h = w.holder_with(&bytes);
            w.holders[h].store.fail.push((matches, failed.clone()));
            w.want(digest, info.len, &[h]);
            w.settle();
            if w.fetched(digest) {
                w.assert_has(&bytes);
            } else {
                assert_eq!(failed, BlobFailed::NotFound, "only what is gone is refused for good");
                assert!(w.failure().is_some_and(FetchError::is_final));
            }
            assert_eq!(w.lies(), []);
            let counts = w.holders[h].server.counts();
            assert_eq!(counts.store_failed + counts.unavailable, 1);
        }
    }
}

#[test]
fn a_ticket_of_the_requester_opens_what_a_stranger_may_not_have() {
    let bytes = content(5, 2 * PIECE);
    let (digest, info) = describe(&bytes);
    let (requester, other) = (key(50), key(51));
    let later = WALL.plus(Duration::from_secs(60));
    let me = key(100).public();
    let cases = [
        (None, false),
        (Some(Ticket::sign(&requester, digest, me, later)), true),
        (Some(Ticket::sign(&requester, digest, me, WALL)), false),
        (Some(Ticket::sign(&requester, digest, other.public(), later)), false),
        (Some(Ticket::sign(&requester, Digest::of(b"other"), me, later)), false),
        (Some(Ticket::sign(&other, digest, me, later)), false),
    ];
    for (ticket, allowed) in cases {
        let mut w = World::new(3);
        let h = w.holder();
        w.holders[h].store.put(&bytes);
        w.tell_holder(
            h,
            serve::Input::Grant { digest, requester: requester.public(), reason: serve::Reason::Job },
        );
        let sources = vec![(w.holders[h].key, ticket)];
        w.tell(fetch::Input::Want {
            digest,
            len: info.len,
            claim: None,
            under: None,
            sources,
            waiter: waiter(1),
        });
        w.settle();
        assert_eq!(w.fetched(digest), allowed);
        assert_eq!(w.holders[h].server.counts().unavailable > 0, !allowed);
    }
}

#[test]
fn what_a_stranger_hears_does_not_tell_whether_the_object_is_here() {
    let bytes = content(5, 100);
    let mut heard = Vec::new();
    for here in [false, true] {
        let mut w = World::new(3);
        let h = w.holder();
        if here {
            w.holders[h].store.put(&bytes);
            w.tell_holder(
                h,
                serve::Input::Grant {
                    digest: Digest::of(&bytes),
                    requester: key(50).public(),
                    reason: serve::Reason::Job,
                },
            );
        }
        w.want(Digest::of(&bytes), 100, &[h]);
        w.settle();
        heard.push((w.failure().cloned(), w.opened, w.now));
    }
    assert_eq!(heard[0], heard[1]);
}

#[test]
fn many_objects_from_many_sources_arrive_within_the_limits() {
    for seed in 0..3 {
        let mut w = World::new(seed);
        w.losses = 3_000;
        let objects: Vec<Vec<u8>> =
            (0..40).map(|i| content(i, [0, 1, 3_000, PIECE, 3 * PIECE + i][i as usize % 5])).collect();
        let holders: Vec<usize> = (0..5).map(|_| w.holder()).collect();
        for (i, bytes) in objects.iter().enumerate() {
            let from = [holders[i % 5], holders[(i + 1) % 5], holders[(i + 3) % 5]];
            for h in from {
                let (digest, _) = w.holders[h].store.put(bytes);
                w.tell_holder(
                    h,
                    serve::Input::Grant { digest, requester: key(100).public(), reason: serve::Reason::Job },
                );
            }
            w.want(Digest::of(bytes), bytes.len() as u64, &from);
        }
        w.settle();
        objects.iter().for_each(|bytes| w.assert_has(bytes));
        assert_eq!(w.fetcher.active() + w.fetcher.waiting(), 0);
        assert!(w.holders.iter().all(|h| h.server.serving() + h.server.ops_outstanding() == 0));
    }
}

#[test]
fn grants_survive_a_restart_as_they_were() {
    let mut w = World::new(1);
    let h = w.holder();
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let [x, y] = [key(50).public(), key(51).public()];
    for input in [
        serve::Input::Grant { digest: a, requester: x, reason: serve::Reason::Job },
        serve::Input::Grant { digest: a, requester: y, reason: serve::Reason::Job },
        serve::Input::Grant { digest: a, requester: y, reason: serve::Reason::Job },
        serve::Input::Grant { digest: b, requester: x, reason: serve::Reason::Job },
        serve::Input::Revoke { digest: a, requester: x, reason: serve::Reason::Job },
        serve::Input::Revoke { digest: b, requester: x, reason: serve::Reason::Job },
        serve::Input::Revoke { digest: b, requester: y, reason: serve::Reason::Job },
    ] {
        w.tell_holder(h, input);
        let server = Server::restore(8, &fold(&w.journal)).unwrap();
        for (d, k) in [(a, x), (a, y), (b, x), (b, y)] {
            assert_eq!(server.is_granted(&d, &k), w.holders[h].server.is_granted(&d, &k));
        }
    }
    assert_eq!(w.journal.len(), 5, "what changes nothing is not journaled");
    assert!(w.holders[h].server.is_granted(&a, &y) && !w.holders[h].server.is_granted(&a, &x));
}

#[test]
fn each_reason_takes_back_only_what_it_gave() {
    use serve::Reason::{Job, Run, User};
    let mut w = World::new(1);
    let h = w.holder();
    let (digest, requester) = (Digest::of(b"a"), key(50).public());
    for reason in [Run, User, Run, Job] {
        w.tell_holder(h, serve::Input::Grant { digest, requester, reason });
    }
    assert_eq!(w.journal.len(), 3, "what changes nothing is not journaled");
    for (reason, left) in [(Run, true), (Run, true), (Job, true), (User, false)] {
        w.tell_holder(h, serve::Input::Revoke { digest, requester, reason });
        let server = Server::restore(8, &fold(&w.journal)).unwrap();
        for server in [&server, &w.holders[h].server] {
            assert_eq!(server.is_granted(&digest, &requester), left);
            assert_eq!(server.is_granted_for(&digest, &requester, User), left);
            assert!(!server.is_granted_for(&digest, &requester, Run));
        }
    }
    assert!(fold(&w.journal).is_empty());
}

#[test]
fn a_grant_of_before_reasons_were_named_goes_with_the_first_that_is_taken_back() {
    let (digest, requester) = (Digest::of(b"a"), key(50).public());
    let record = Dict::new().with("v", 1u64).with("r", vec![Value::from(&requester)]).encode().into();
    let subject = Subject::new(Room::Grant, digest.as_bytes());
    let mut w = World::new(1);
    let h = w.holder();
    w.journal.push(StoreOp::Append { subject, record });
    w.holders[h].server = Server::restore(8, &fold(&w.journal)).unwrap();
    assert!(w.holders[h].server.is_granted(&digest, &requester));
    assert!(!w.holders[h].server.is_granted_for(&digest, &requester, serve::Reason::User));
    w.tell_holder(h, serve::Input::Revoke { digest, requester, reason: serve::Reason::Run });
    assert!(!w.holders[h].server.is_granted(&digest, &requester));
    assert!(fold(&w.journal).is_empty());
}

/// The journal as a store folds it.
fn fold(ops: &[StoreOp]) -> Vec<StoredRecord> {
    let mut records: Vec<StoredRecord> = Vec::new();
    for op in ops {
        match op {
            StoreOp::Append { .. } => {}
            StoreOp::Replace { subject, .. } | StoreOp::Forget { subject } => {
                records.retain(|r| r.subject != *subject);
            }
        }
        match op {
            StoreOp::Append { subject, record } | StoreOp::Replace { subject, record } => {
                assert_eq!(subject.room, Room::Grant);
                let (subject, record) = (subject.clone(), record.clone());
                records.push(StoredRecord { lsn: Default::default(), subject, record });
            }
            StoreOp::Forget { .. } => {}
        }
    }
    records
}
