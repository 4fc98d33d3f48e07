//! A wanted peer that the DHT does not know is asked for among those who are connected.

use super::super::asking::{ASK_FOR, ASKING_MAX, TOLD_MAX};
use super::*;
use crate::identity::budget::DIALS_PER_NETWORK;

const TICK: Duration = Duration::from_nanos(1);

/// Connected to the peers 50, 51, … below `50 + peers`.
fn rig_with(peers: u8) -> Rig<Cascade> {
    let mut rig = rig();
    for n in 50..50 + peers {
        rig.tell(Input::Connected { key: key(n), addr: Some(addr(n)) });
    }
    rig
}

fn not_found(n: u8) -> Input {
    Input::Found { key: key(n), result: Err(LookupFailed::NotFound) }
}

fn seen(by: u8, n: u8, addr: SocketAddr) -> Input {
    Input::Seen { by: key(by), key: key(n), addr }
}

fn asked(out: &[Output]) -> usize {
    out.iter().filter(|o| matches!(o, Output::Seek { .. })).count()
}

fn under_way(rig: &Rig<Cascade>) -> Option<DialId> {
    rig.machine.dials.keys().next().copied()
}

/// Wants peer 1, of which the DHT knows nothing, and asks.
fn asking(peers: u8) -> Rig<Cascade> {
    let mut rig = rig_with(peers);
    rig.tell(connect(1));
    let out = rig.tell(not_found(1));
    assert_eq!((asked(&out), out.len()), (usize::from(peers), usize::from(peers)));
    rig
}

#[test]
fn each_connected_peer_is_asked_once_and_who_is_told_of_is_dialled() {
    let mut rig = asking(3);
    let (dial, at) = dials(&rig.tell(seen(51, 1, addr(7))))[0];
    assert_eq!(at, addr(7));
    assert!(fail(&mut rig, dial).is_empty(), "two may still answer");
    let (dial, at) = dials(&rig.tell(seen(50, 1, addr(8))))[0];
    assert_eq!(at, addr(8));
    rig.tell(Input::Dialled { dial, result: Ok(key(1)) });
    assert_eq!(rig.machine.efforts(), 0);
}

#[test]
fn without_an_answer_it_is_over_in_two_seconds_and_the_reason_says_how_many_were_asked() {
    let mut rig = asking(3);
    assert!(rig.wait(ASK_FOR - TICK).is_empty());
    let (id, result) = answers(&rig.wait(TICK)).remove(0);
    assert_eq!(
        (id, result.unwrap_err().to_string().as_str()),
        (1, "no record in the DHT; 3 connected peers were asked")
    );
    assert_eq!(rig.tell(seen(50, 1, addr(7))), [Output::Refused("seen-unasked")], "too late");
}

#[test]
fn a_lie_costs_one_dial_and_a_liar_has_one_word() {
    let mut rig = asking(2);
    let (dial, _) = dials(&rig.tell(seen(50, 1, addr(7))))[0];
    for n in 8..20 {
        assert_eq!(rig.tell(seen(50, 1, addr(n))), [Output::Refused("seen-unasked")], "it has answered");
    }
    let out = rig.tell(Input::Dialled { dial, result: Ok(key(9)) });
    assert!(out.is_empty(), "somebody else lives there; another may know: {out:?}");
    let out = rig.wait(ASK_FOR);
    let tried = vec![(addr(7).into(), DialFailed::OtherPeer)];
    let lookup = Some(LookupFailed::NotFound);
    let failed = ConnectFailed::Unreachable { lookup, tried, asked: 2, timed_out: false };
    assert_eq!(answers(&out), [(1, Err(failed))]);
}

#[test]
fn an_answer_to_nothing_is_dropped() {
    let mut rig = asking(2);
    let unasked = [Output::Refused("seen-unasked")];
    assert_eq!(rig.tell(seen(60, 1, addr(7))), unasked, "a peer that was not asked");
    assert_eq!(rig.tell(seen(50, 2, addr(7))), unasked, "a peer that is not sought");
    rig.tell(connect(3));
    assert_eq!(rig.tell(seen(50, 3, addr(7))), unasked, "its lookup is under way");
}

#[test]
fn what_may_not_be_dialled_is_no_answer_and_when_all_have_answered_it_is_over() {
    let mut rig = asking(3);
    rig.tell(Input::OwnAddrs(vec![addr(100)]));
    assert!(rig.tell(seen(50, 1, addr(100))).is_empty(), "that is us");
    for (by, at) in [(51, "10.0.0.1:9"), (52, "224.0.0.1:9")] {
        let out = rig.tell(seen(by, 1, at.parse().unwrap()));
        assert_eq!(out[0], Output::Refused("seen-address"));
        assert_eq!(answers(&out).len(), usize::from(by == 52));
    }
}

#[test]
fn nobody_is_asked_when_the_dht_tells_or_nobody_wants_the_peer_or_nobody_is_there() {
    let mut rig = rig_with(3);
    rig.tell(connect(1));
    let mut out = rig.tell(found(1, &[addr(1)]));
    for again in [true, false] {
        assert_eq!((asked(&out), dials(&out).len()), (0, 1));
        let (dial, _) = dials(&out)[0];
        out = fail(&mut rig, dial);
        if again {
            assert_eq!(lookups(&out), 1);
            out = rig.tell(found(1, &[addr(2)]));
        }
    }
    assert_eq!((asked(&out), answers(&out).len()), (0, 1));

    rig.tell(learnt(2));
    assert_eq!(lookups(&rig.wait(START_WITHIN)), 1);
    assert!(rig.tell(not_found(2)).is_empty(), "nobody wants it");

    let mut alone = rig_with(0);
    alone.tell(connect(1));
    assert_eq!(answers(&alone.tell(not_found(1))).len(), 1);
}

#[test]
fn eight_addresses_of_the_answers_are_tried_and_no_more() {
    let mut rig = asking(20);
    let mut tried = 0;
    for n in 0..20 {
        rig.tell(seen(50 + n, 1, addr(n)));
    }
    while let Some(dial) = under_way(&rig) {
        tried += 1;
        fail(&mut rig, dial);
    }
    assert_eq!(tried, TOLD_MAX);
    assert_eq!(rig.machine.efforts.values().filter(|e| e.is_wanted()).count(), 0, "it is over");
}

#[test]
fn a_crowd_of_liars_makes_eight_dials_a_minute_to_a_victim_however_many_are_wanted() {
    let mut rig = rig_with(30);
    let victim = |n: u8| SocketAddr::from(([198, 51, 100, n], 9));
    let mut to_victim = 0;
    for n in 1..=10 {
        rig.tell(connect(n));
        rig.tell(not_found(n));
        for liar in 0..30 {
            rig.tell(seen(50 + liar, n, victim(liar)));
        }
        while let Some(dial) = under_way(&rig) {
            to_victim += 1;
            fail(&mut rig, dial);
        }
    }
    assert_eq!(to_victim, DIALS_PER_NETWORK);
    // An honest answer to another seek is not kept waiting behind them.
    rig.tell(connect(20));
    rig.tell(not_found(20));
    assert!(dials(&rig.tell(seen(50, 20, victim(1)))).is_empty());
    assert_eq!(dials(&rig.tell(seen(51, 20, addr(1))))[0].1, addr(1));
    let out = rig.wait(CONNECT_TIMEOUT - TICK);
    assert!(dials(&out).is_empty(), "a minute is a minute: {out:?}");
    let out = rig.wait(TICK);
    assert!(!dials(&out).is_empty(), "what waits for the budget has its turn: {out:?}");
}

#[test]
fn sixty_four_peers_are_sought_at_once() {
    let mut rig = rig_with(2);
    let mut sought = 0;
    for n in 0..100 {
        let key = far_key(n);
        rig.tell(Input::Connect { id: CommandId(u64::from(n)), key, addr: None });
        sought += asked(&rig.tell(Input::Found { key, result: Err(LookupFailed::NotFound) })) / 2;
    }
    assert_eq!(sought, ASKING_MAX);
    assert_eq!(answers(&rig.wait(ASK_FOR)).len(), ASKING_MAX);
    let key = far_key(200);
    rig.tell(Input::Connect { id: CommandId(200), key, addr: None });
    assert_eq!(asked(&rig.tell(Input::Found { key, result: Err(LookupFailed::NotFound) })), 2);
}

#[test]
fn an_address_of_the_user_does_not_wait_for_the_answers() {
    let mut rig = asking(3);
    let out = rig.tell(Input::Connect { id: CommandId(2), key: key(1), addr: Some(addr(5)) });
    let (dial, at) = dials(&out)[0];
    assert_eq!(at, addr(5));
    assert!(fail(&mut rig, dial).is_empty());
    assert_eq!(answers(&rig.wait(ASK_FOR)).len(), 2);
}
