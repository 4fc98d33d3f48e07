//! Tunnels alone: when one is opened, what closes it, and its credit.

use super::*;
use crate::id::Keypair;
use crate::laws::{self, Rig};
use proptest::prelude::*;

fn key(n: u8) -> PublicKey {
    Keypair::from_seed(&[n; 32]).public()
}

fn addr(n: u8) -> SocketAddr {
    ([203, 0, 113, n], 30_906).into()
}

fn rig() -> Rig<Tunnels> {
    Rig::new(Tunnels::default(), [7; 32])
}

fn tell(rig: &mut Rig<Tunnels>, input: Input) -> Vec<Output> {
    rig.handle(input);
    rig.outputs()
}

fn dialling(rig: &mut Rig<Tunnels>, n: u8) -> Vec<Output> {
    tell(rig, Input::Dialling { relay: key(n), addr: addr(n) })
}

fn open(n: u64, to: u8) -> Output {
    Output::Request(TunnelRequest::Open { tunnel: TunnelId(n), to: addr(to) })
}

fn close(n: u64) -> Output {
    Output::Request(TunnelRequest::Close(TunnelId(n)))
}

fn closed(n: u64) -> Input {
    Input::Port(TunnelEvent::Closed { tunnel: TunnelId(n), why: "reset".into() })
}

/// A rig with tunnel 2 to relay 1, standing and in use.
fn tunnelled() -> Rig<Tunnels> {
    let mut rig = rig();
    dialling(&mut rig, 1);
    rig.advance(KNOCK_AFTER);
    assert_eq!(rig.outputs(), [open(2, 1)]);
    let out = tell(&mut rig, Input::Port(TunnelEvent::Opened(TunnelId(2))));
    assert_eq!(out, [Output::Dial { tunnel: TunnelId(2), relay: key(1) }]);
    assert!(rig.machine.may_reach(&key(1)));
    tell(&mut rig, Input::Connected { relay: key(1), by: Some(TunnelId(2)) });
    tell(&mut rig, Input::InUse(TunnelId(2)));
    rig
}

#[test]
fn a_relay_that_answers_over_udp_is_not_called_over_tcp() {
    let mut rig = rig();
    assert_eq!(dialling(&mut rig, 1), []);
    rig.advance(Duration::from_millis(999));
    tell(&mut rig, Input::Connected { relay: key(1), by: None });
    rig.advance(Duration::from_secs(10));
    assert_eq!((rig.outputs(), rig.machine.len()), (vec![], 0));
}

#[test]
fn whichever_stands_first_is_used_and_the_other_is_closed() {
    let mut rig = rig();
    dialling(&mut rig, 1);
    rig.advance(KNOCK_AFTER);
    tell(&mut rig, Input::Port(TunnelEvent::Opened(TunnelId(2))));
    rig.outputs();
    let out = tell(&mut rig, Input::Connected { relay: key(1), by: None });
    assert_eq!(out, [close(2)]);
    assert_eq!(tell(&mut rig, closed(2)), [], "what was closed here is no news");
    assert!(rig.machine.is_empty());
}

#[test]
fn where_udp_was_in_vain_both_begin_at_once_until_the_network_changes() {
    let mut rig = tunnelled();
    assert_eq!(dialling(&mut rig, 3), [open(4, 3)]);
    tell(&mut rig, Input::GivenUp(key(3)));
    tell(&mut rig, Input::NetworkChanged);
    rig.outputs();
    assert_eq!(dialling(&mut rig, 5), []);
    rig.advance(KNOCK_AFTER);
    assert_eq!(rig.outputs(), [open(6, 5)]);
}

#[test]
fn a_tunnel_that_breaks_is_told_and_one_that_never_stood_fails_its_relay() {
    let mut rig = tunnelled();
    assert_eq!(rig.machine.ours_in_use(), 1);
    assert_eq!(tell(&mut rig, closed(2)), [Output::Gone(TunnelId(2))]);
    dialling(&mut rig, 1);
    let failed = Output::Failed { relay: key(1), why: "reset".into() };
    assert_eq!(tell(&mut rig, closed(4)), [failed]);
    assert!(!rig.machine.may_reach(&key(1)));
}

#[test]
fn a_stranger_who_says_nothing_is_sent_away() {
    let mut rig = rig();
    let accepted = |n| Input::Port(TunnelEvent::Accepted { tunnel: TunnelId(n), from: addr(9) });
    tell(&mut rig, accepted(1));
    tell(&mut rig, accepted(3));
    tell(&mut rig, Input::InUse(TunnelId(3)));
    rig.advance(SILENT_MAX);
    assert_eq!(rig.outputs(), [close(1)]);
    assert_eq!((rig.machine.addr(TunnelId(1)), rig.machine.addr(TunnelId(3))), (None, Some(addr(9))));
    assert_eq!(tell(&mut rig, Input::Unused(TunnelId(3))), [close(3)]);
    assert_eq!(tell(&mut rig, Input::Unused(TunnelId(3))), [], "once");
}

#[test]
fn what_is_beyond_the_credit_is_dropped_until_something_has_left() {
    let mut rig = tunnelled();
    let packet = Bytes::from(vec![0; 1_000]);
    let all = vec![packet.clone(); 300];
    let Some(TunnelRequest::Send { packets, .. }) = rig.machine.send(TunnelId(2), all) else {
        panic!("sent")
    };
    assert_eq!(packets.len(), 262);
    assert_eq!(rig.machine.send(TunnelId(2), vec![packet.clone()]), None);
    tell(&mut rig, Input::Port(TunnelEvent::Sent { tunnel: TunnelId(2), bytes: 1_000 }));
    assert!(rig.machine.send(TunnelId(2), vec![packet.clone()]).is_some());
    assert_eq!(rig.machine.send(TunnelId(8), vec![packet]), None, "no such tunnel");
}

fn arb_input() -> impl Strategy<Value = Input> {
    let tunnel = || (0u64..12).prop_map(TunnelId);
    prop_oneof![
        3 => (0u8..12).prop_map(|n| Input::Dialling { relay: key(n), addr: addr(n) }),
        1 => (0u8..12, prop::option::of(tunnel())).prop_map(|(n, by)| Input::Connected { relay: key(n), by }),
        1 => (0u8..12).prop_map(|n| Input::GivenUp(key(n))),
        2 => tunnel().prop_map(|t| Input::Port(TunnelEvent::Opened(t))),
        2 => tunnel().prop_map(|tunnel| Input::Port(TunnelEvent::Accepted { tunnel, from: addr(1) })),
        1 => (tunnel(), 0u64..9_000).prop_map(|(tunnel, bytes)| Input::Port(TunnelEvent::Sent { tunnel, bytes })),
        2 => tunnel().prop_map(|tunnel| Input::Port(TunnelEvent::Closed { tunnel, why: "x".into() })),
        1 => tunnel().prop_map(Input::InUse),
        1 => tunnel().prop_map(Input::Unused),
        1 => Just(Input::NetworkChanged),
    ]
}

#[test]
fn tunnels_are_a_lawful_machine() {
    laws::check_within(Tunnels::default, arb_input(), |m| {
        assert!(m.knocks.len() + m.ours() <= OURS_MAX);
        assert!(m.lines.len() - m.ours() <= ACCEPTED_MAX);
        assert!(m.lines.iter().all(|(id, l)| id.0.is_multiple_of(2) == l.relay.is_some()));
        assert!(m.lines.values().all(|l| l.under_way <= CREDIT_BYTES));
    });
}
