//! Several streams for one object.

use super::world::{PIECE, World, content, describe};
use crate::limits::{FETCH_LANES_PER_PEER, FETCH_PIECES_HELD_MAX, SERVES_PER_PEER_MAX};
use crate::transfer::fetch::SourceFault;

const LANES_MAX: usize = FETCH_PIECES_HELD_MAX / 2;

/// Lets everything happen; the most streams there were at once.
fn settle_counting(w: &mut World) -> usize {
    let mut most = 0;
    while w.step() {
        most = most.max(w.pipes.values().filter(|pipe| !pipe.up.released).count());
    }
    w.settle();
    most
}

#[test]
fn a_long_object_comes_over_several_streams_of_one_source_and_every_piece_once() {
    for seed in 0..4 {
        let mut w = World::new(seed);
        let bytes = content(7, 40 * PIECE + 77);
        let (digest, info) = describe(&bytes);
        let h = w.holder_with(&bytes);
        w.want(digest, info.len, &[h]);
        let most = settle_counting(&mut w);
        w.assert_has(&bytes);
        assert_eq!(most, LANES_MAX);
        assert_eq!((w.store.writes, w.holders[h].server.counts().busy), (41, 0));
        assert_eq!(w.holders[h].server.counts().bytes, info.len, "nothing was sent twice");
    }
}

#[test]
fn a_short_object_is_one_request() {
    let mut w = World::new(1);
    let bytes = content(7, 15 * PIECE);
    let (digest, info) = describe(&bytes);
    let from = [w.holder_with(&bytes), w.holder_with(&bytes)];
    w.want(digest, info.len, &from);
    w.settle();
    w.assert_has(&bytes);
    assert_eq!(w.opened, 1);
}

#[test]
fn every_source_gives_its_part() {
    let mut w = World::new(1);
    let bytes = content(7, 60 * PIECE);
    let (digest, info) = describe(&bytes);
    let from = [w.holder_with(&bytes), w.holder_with(&bytes), w.holder_with(&bytes)];
    w.want(digest, info.len, &from);
    w.settle();
    w.assert_has(&bytes);
    let given = from.map(|h| w.holders[h].server.counts().bytes);
    assert!(given.iter().all(|bytes| *bytes > 0), "{given:?}");
    assert_eq!(given.iter().sum::<u64>(), info.len);
}

#[test]
fn a_source_that_takes_no_second_stream_is_no_worse_for_it() {
    let mut w = World::new(1);
    let bytes = content(7, 60 * PIECE);
    let (digest, info) = describe(&bytes);
    let h = w.holder_with(&bytes);
    w.holders[h].streams_max = 1;
    w.want(digest, info.len, &[h]);
    assert_eq!(settle_counting(&mut w), 1);
    w.assert_has(&bytes);
    assert_eq!(w.now, crate::time::Instant::ZERO, "nothing was waited for");
}

#[test]
fn a_source_that_lies_on_one_stream_is_asked_over_no_other() {
    for seed in 0..4 {
        let mut w = World::new(seed);
        let bytes = content(7, 60 * PIECE);
        let (digest, info) = describe(&bytes);
        let from = [w.holder_with(&bytes), w.holder_with(&bytes)];
        let mut wrong = bytes.clone();
        wrong.iter_mut().step_by(PIECE as usize).for_each(|b| *b ^= 1);
        w.holders[from[0]].store.whole.insert(digest, (wrong.into(), info.clone()));
        w.want(digest, info.len, &from);
        w.settle();
        w.assert_has(&bytes);
        let lies = w.lies();
        assert_eq!(lies.len(), 1, "{lies:?}");
        assert!(matches!(&lies[0], (who, SourceFault::WrongPiece { .. }) if *who == w.holders[from[0]].key));
        assert_eq!(w.holders[from[0]].server.serving(), 0);
    }
}

#[test]
fn losing_streams_in_the_middle_loses_no_piece_and_fetches_none_twice() {
    for seed in 0..8 {
        let mut w = World::new(seed);
        let bytes = content(7, 60 * PIECE + 1);
        let (digest, info) = describe(&bytes);
        let from = [w.holder_with(&bytes), w.holder_with(&bytes)];
        w.losses = 300;
        w.want(digest, info.len, &from);
        w.settle();
        w.losses = 0;
        if !w.fetched(digest) {
            w.want(digest, info.len, &from);
            w.settle();
        }
        w.assert_has(&bytes);
        assert_eq!(w.store.writes, 61);
        assert_eq!(w.lies(), []);
    }
}

#[test]
fn many_long_objects_of_one_source_stay_within_what_it_serves_to_one_peer() {
    let mut w = World::new(1);
    let h = w.holder();
    let objects: Vec<Vec<u8>> = (0..12).map(|i| content(i, 20 * PIECE + i)).collect();
    let mut wants = Vec::new();
    for bytes in &objects {
        let (digest, len) = w.holders[h].store.put(bytes);
        let requester = w.me.public();
        let reason = crate::transfer::serve::Reason::Job;
        w.tell_holder(h, crate::transfer::serve::Input::Grant { digest, requester, reason });
        wants.push((digest, len));
    }
    for (digest, len) in wants {
        w.want(digest, len, &[h]);
    }
    let most = settle_counting(&mut w);
    objects.iter().for_each(|bytes| w.assert_has(bytes));
    assert!(most > FETCH_LANES_PER_PEER && most <= SERVES_PER_PEER_MAX, "{most}");
    assert_eq!(w.holders[h].server.counts().busy, 0);
}

#[test]
fn a_source_that_was_lost_and_came_back_gives_over_several_streams_again() {
    let mut w = World::new(3);
    let bytes = content(7, 200 * PIECE);
    let (digest, info) = describe(&bytes);
    let h = w.holder_with(&bytes);
    w.want(digest, info.len, &[h]);
    while w.store.writes < 20 {
        assert!(w.step());
    }
    for stream in w.pipes.keys().copied().collect::<Vec<_>>() {
        w.break_connection(stream);
    }
    assert!(w.pipes.is_empty());
    while w.pipes.is_empty() {
        if !w.step() {
            w.pass_time();
        }
    }
    assert_eq!(settle_counting(&mut w), LANES_MAX);
    w.assert_has(&bytes);
}

#[test]
fn one_peer_under_many_tickets_is_still_one_peer() {
    let mut w = World::new(3);
    let bytes = content(7, 100 * PIECE);
    let (digest, info) = describe(&bytes);
    let h = w.holder_with(&bytes);
    let ticket =
        |n| crate::ticket::Ticket::sign(&super::world::key(n), digest, w.me.public(), super::world::WALL);
    let sources = (1..12).map(|n| (w.holders[h].key, Some(ticket(n)))).collect();
    let waiter = super::world::waiter(1);
    w.tell(crate::transfer::fetch::Input::Want {
        digest,
        len: info.len,
        claim: None,
        under: None,
        sources,
        waiter,
    });
    assert!(settle_counting(&mut w) <= FETCH_LANES_PER_PEER);
    w.assert_has(&bytes);
    assert_eq!(w.holders[h].server.counts().busy, 0);
}
