use super::*;
use crate::laws::{self, Rig};
use crate::machine::Machine;
use crate::place::SocketId;
use proptest::prelude::*;

const LOCAL_PORT: u16 = 4433;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The `n`th observer.
fn observer(n: u8) -> SocketAddr {
    ([198, 51, 100, n], 3478).into()
}

fn us(port: u16) -> SocketAddr {
    ([203, 0, 113, 7], port).into()
}

fn seen(by: SocketAddr, port: u16) -> Input {
    Input::Observed { by, socket: SocketId::MAIN, mapped: us(port) }
}

fn rig() -> Rig<Observer> {
    let mut rig = Rig::new(Observer::default(), [1; 32]);
    rig.handle(Input::LocalAddrs(vec![addr("192.168.1.5:4433")]));
    rig.outputs();
    rig
}

/// What is concluded when observers 1, 2, … see these ports.
fn told(ports: &[u16]) -> Behaviour {
    let mut rig = rig();
    (1..).zip(ports).for_each(|(n, port)| rig.handle(seen(observer(n), *port)));
    rig.machine.behaviour().clone()
}

#[test]
fn one_observer_tells_the_address_but_not_the_mapping() {
    let b = told(&[7000]);
    assert_eq!((b.mapping, b.nat_type()), (Dependence::Unknown, NatType::Unknown));
    assert_eq!(b.public_ips, [us(1).ip()]);
}

#[test]
fn observers_at_two_ips_that_agree_show_an_endpoint_independent_mapping() {
    let b = told(&[7000, 7000]);
    assert_eq!((b.mapping, b.nat_type()), (Dependence::EndpointIndependent, NatType::PortRestrictedCone));
}

#[test]
fn observers_that_disagree_show_a_symmetric_nat_and_one_ip_tells_which_kind() {
    assert_eq!(told(&[7000, 9000]).nat_type(), NatType::Symmetric);
    for (second_port, mapping) in
        [(7000, Dependence::AddressDependent), (7777, Dependence::AddressAndPortDependent)]
    {
        let mut rig = rig();
        rig.handle(seen(observer(1), 7000));
        rig.handle(seen(observer(2), 9000));
        rig.handle(seen(SocketAddr::new(observer(1).ip(), 3479), second_port));
        assert_eq!(rig.machine.behaviour().mapping, mapping);
    }
}

#[test]
fn a_single_liar_decides_nothing_where_there_are_others() {
    let b = told(&[7000, 7000, 666]);
    assert_eq!(b.mapping, Dependence::EndpointIndependent);
    let mut rig = rig();
    (1..=3).for_each(|n| rig.handle(seen(observer(n), 7000)));
    for port in 3000..3060 {
        // Many ports of one IP are one observer.
        rig.handle(seen(SocketAddr::new(observer(9).ip(), port), port));
    }
    let foreign = Input::Observed { by: observer(10), socket: SocketId::MAIN, mapped: addr("192.0.2.66:1") };
    rig.handle(foreign);
    let b = rig.machine.behaviour();
    assert_eq!((b.mapping, b.public_ips.first()), (Dependence::EndpointIndependent, Some(&us(1).ip())));
}

#[test]
fn a_liar_that_alone_has_something_new_to_say_moves_nothing_and_others_are_asked() {
    let mut rig = rig();
    rig.handle(Input::Servers((1..=3).map(observer).collect()));
    assert_eq!(asked(&rig.wait(Duration::from_millis(200))).len(), 3);
    (1..=3).for_each(|n| rig.handle(seen(observer(n), 7000)));
    rig.outputs();
    assert_eq!(rig.machine.poll_timeout(), None);
    // Honest observers have nothing new to say; the liar says something else every ten seconds for twenty minutes.
    let mut rounds = 0;
    for n in 0..120u16 {
        let lie = SocketAddr::new([192, 0, 2, 66].into(), 3000 + n);
        rig.handle(Input::Observed { by: observer(9), socket: SocketId::MAIN, mapped: lie });
        let b = rig.machine.behaviour();
        assert_eq!((b.mapping, &b.public_ips[..]), (Dependence::EndpointIndependent, &[us(1).ip()][..]));
        assert_eq!(rig.machine.mapped(), [us(7000)], "candidates");
        rounds += asked(&rig.wait(Duration::from_secs(10))).len() / ASKED_AT_ONCE;
    }
    assert!((1..=41).contains(&rounds), "{rounds} rounds of questions");
}

#[test]
fn many_ports_of_one_liar_push_nobodys_word_out_and_of_ipv6_a_64_is_one() {
    let mut rig = rig();
    (1..=2).for_each(|n| rig.handle(seen(observer(n), 7000)));
    for port in 3000..3200 {
        rig.handle(seen(SocketAddr::new(observer(9).ip(), port), port));
    }
    let b = rig.machine.behaviour();
    assert_eq!(b.mapping, Dependence::EndpointIndependent);
    assert_eq!(rig.machine.observations(), OBSERVATIONS_MAX);

    let mut rig = self::rig();
    let sees = |by: &str, port: u16| Input::Observed {
        by: addr(by),
        socket: SocketId::MAIN,
        mapped: SocketAddr::new("2001:db8:9::1".parse().unwrap(), port),
    };
    rig.handle(sees("[2600:1::1]:1", 7000));
    rig.handle(sees("[2600:2::1]:1", 7000));
    (1..9).for_each(|n| rig.handle(sees(&format!("[2600:3::{n}]:1"), 666)));
    assert_eq!(rig.machine.behaviour().mapping, Dependence::EndpointIndependent);
}

#[test]
fn a_router_that_got_another_address_is_seen_as_soon_as_most_say_so() {
    let mut rig = rig();
    (1..=3).for_each(|n| rig.handle(seen(observer(n), 7000)));
    rig.advance(Duration::from_secs(1_000));
    let moved =
        |n: u8| Input::Observed { by: observer(n), socket: SocketId::MAIN, mapped: addr("198.18.0.9:7000") };
    (1..=2).for_each(|n| rig.handle(moved(n)));
    let b = rig.machine.behaviour();
    assert_eq!(
        (b.mapping, b.public_ips.first()),
        (Dependence::EndpointIndependent, Some(&addr("198.18.0.9:1").ip()))
    );
}

#[test]
fn a_node_that_is_seen_at_its_own_address_is_open() {
    let mut rig = rig();
    rig.handle(Input::LocalAddrs(vec![us(LOCAL_PORT)]));
    rig.handle(seen(observer(1), LOCAL_PORT));
    assert!(rig.machine.is_public());
    assert_eq!(rig.machine.nat_type(), NatType::Open);
    rig.handle(Input::DialledBack { same_ip: false, arrived: false });
    assert_eq!(rig.machine.nat_type(), NatType::PortRestrictedCone, "a firewall without a NAT");
}

#[test]
fn three_mappings_in_a_row_show_the_step_and_what_comes_next() {
    for (ports, step) in [([7000, 7001, 7002], 1), ([7000, 7002, 7004], 2), ([7004, 7002, 7000], -2)] {
        let b = told(&ports);
        assert_eq!(b.allocation, Allocation::Sequential { step });
        assert_eq!(b.next, Some(us(ports[2].wrapping_add_signed(step))));
    }
    let b = told(&[7000, 7003, 7001, 7002]);
    assert_eq!(b.allocation, Allocation::Sequential { step: 1 }, "answers overtake each other");
    assert_eq!(b.next, Some(us(7004)), "and the last answer need not be of the last mapping");
    let b = told(&[7000, 7001, 50_000, 7002]);
    assert_eq!(b.allocation, Allocation::Sequential { step: 1 }, "one is out of line");
}

#[test]
fn two_mappings_show_no_rule_and_mappings_far_apart_show_that_there_is_none() {
    assert_eq!(told(&[7000, 7001]).allocation, Allocation::Unknown);
    let b = told(&[7000, 17_001, 40_000]);
    assert_eq!((b.allocation, b.next), (Allocation::Random, None));
}

#[test]
fn sockets_that_keep_their_ports_show_a_preserving_nat() {
    let mut rig = rig();
    rig.handle(seen(observer(1), LOCAL_PORT));
    rig.handle(seen(observer(2), LOCAL_PORT));
    for n in 1..=2u16 {
        let socket = SocketId(n);
        rig.handle(Input::Bound { socket, local: SocketAddr::from(([0; 4], 5000 + n)) });
        rig.handle(Input::Observed { by: observer(1), socket, mapped: us(5000 + n) });
    }
    let b = rig.machine.behaviour();
    assert_eq!((b.mapping, b.allocation), (Dependence::EndpointIndependent, Allocation::Preserving));
    assert_eq!(b.next, None, "nothing has to be foretold");
}

#[test]
fn packets_that_nobody_asked_for_show_the_filtering() {
    let mut rig = rig();
    [1, 2].into_iter().for_each(|n| rig.handle(seen(observer(n), 7000)));
    rig.handle(Input::Unsolicited { from: addr("192.168.1.9:9"), ip_written: false });
    assert_eq!(rig.machine.nat_type(), NatType::PortRestrictedCone, "it came from our own network");
    rig.handle(Input::Unsolicited { from: addr("192.0.2.9:9"), ip_written: true });
    assert_eq!(rig.machine.nat_type(), NatType::RestrictedCone);
    rig.handle(Input::Unsolicited { from: addr("192.0.2.9:9"), ip_written: false });
    assert_eq!(rig.machine.nat_type(), NatType::FullCone);
}

#[test]
fn a_dial_back_shows_the_filtering_both_ways() {
    let after = |tests: &[(bool, bool)]| {
        let mut rig = rig();
        for (same_ip, arrived) in tests {
            rig.handle(Input::DialledBack { same_ip: *same_ip, arrived: *arrived });
        }
        rig.machine.behaviour().filtering
    };
    assert_eq!(after(&[(false, true)]), Dependence::EndpointIndependent);
    assert_eq!(after(&[(false, false), (true, true)]), Dependence::AddressDependent);
    assert_eq!(after(&[(true, true), (false, false)]), Dependence::AddressDependent);
    assert_eq!(after(&[(true, false)]), Dependence::AddressAndPortDependent);
}

#[test]
fn mappings_are_kept_alive_at_half_their_measured_life() {
    let mut rig = rig();
    assert_eq!(rig.machine.keepalive(), KEEPALIVE_DEFAULT);
    rig.handle(Input::Idled { idle: Duration::from_secs(40), alive: false });
    assert_eq!(rig.machine.keepalive(), Duration::from_secs(10));
    rig.handle(Input::Idled { idle: Duration::from_secs(24), alive: true });
    assert_eq!(rig.machine.keepalive(), Duration::from_secs(12));
    rig.handle(Input::Idled { idle: Duration::from_secs(600), alive: true });
    assert_eq!(rig.machine.keepalive(), KEEPALIVE_MAX);
}

#[test]
fn another_network_is_another_nat() {
    let mut rig = rig();
    [1, 2].into_iter().for_each(|n| rig.handle(seen(observer(n), 7000)));
    rig.handle(Input::Hairpin(true));
    assert!(rig.tell(Input::NetworkChanged).contains(&Output::Changed));
    assert_eq!(rig.machine.behaviour(), &Behaviour::default());
}

fn asked(outputs: &[Output]) -> Vec<SocketAddr> {
    let to = outputs.iter().filter_map(|o| match o {
        Output::Ask { to, .. } => Some(*to),
        Output::Changed => None,
    });
    to.collect()
}

#[test]
fn what_is_missing_is_asked_of_three_at_once_then_of_others_ever_more_seldom() {
    let mut rig = rig();
    rig.handle(Input::Servers((1..=5).map(observer).collect()));
    assert_eq!(asked(&rig.wait(Duration::from_millis(199))), []);
    assert_eq!(asked(&rig.wait(Duration::from_millis(1))), [1, 2, 3].map(observer));
    assert_eq!(asked(&rig.wait(Duration::from_secs(23))), []);
    assert_eq!(asked(&rig.wait(Duration::from_secs(13))), [4, 5, 1].map(observer));
    let hour = asked(&rig.wait(Duration::from_secs(3600))).len() / ASKED_AT_ONCE;
    assert!((5..=8).contains(&hour), "{hour} rounds in an hour");
}

#[test]
fn what_is_known_is_not_asked_and_a_new_network_is() {
    let mut rig = rig();
    rig.handle(Input::Servers(vec![observer(1), observer(2)]));
    rig.advance(Duration::from_millis(200));
    [1, 2].into_iter().for_each(|n| rig.handle(seen(observer(n), 7000)));
    rig.outputs();
    assert_eq!(rig.machine.poll_timeout(), None);
    rig.handle(Input::NetworkChanged);
    assert_eq!(asked(&rig.wait(Duration::from_millis(200))), [1, 2].map(observer));
}

#[test]
fn observations_are_bounded() {
    let mut rig = rig();
    for n in 0..200u16 {
        rig.handle(Input::Observed { by: observer(1), socket: SocketId(n), mapped: us(n + 1) });
    }
    assert_eq!(rig.machine.observations(), OBSERVATIONS_MAX);
    rig.handle(Input::Observed { by: addr("0.0.0.0:1"), socket: SocketId(999), mapped: us(1) });
    assert_eq!(rig.machine.seen_of(SocketId(999)), 0, "nobody is there");
}

#[test]
fn the_words_name_the_type_and_what_it_is_made_of() {
    let mut b = told(&[7000, 7001, 7002]);
    b.hairpin = Some(false);
    b.lifetime = Some(Duration::from_secs(30));
    assert_eq!(
        b.words(),
        "symmetric; mapping address- and port-dependent, filtering unknown, ports in steps of 1, no hairpin, mappings live 30 s"
    );
}

fn arb_behaviour() -> impl Strategy<Value = Behaviour> {
    let dependence = prop::sample::select(vec![
        Dependence::Unknown,
        Dependence::EndpointIndependent,
        Dependence::AddressDependent,
        Dependence::AddressAndPortDependent,
    ]);
    let allocation = prop_oneof![
        Just(Allocation::Unknown),
        Just(Allocation::Preserving),
        (1..=STEP_MAX as i16).prop_map(|step| Allocation::Sequential { step }),
        (1..=STEP_MAX as i16).prop_map(|step| Allocation::Sequential { step: -step }),
        Just(Allocation::Random),
    ];
    let ips = prop::collection::vec(
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 14]>().prop_map(|b| {
                let mut ip = [0x20; 16];
                ip[2..].copy_from_slice(&b);
                IpAddr::from(ip)
            })
        ],
        0..=PUBLIC_IPS_MAX,
    );
    let next = prop::option::of(any::<u16>().prop_map(us));
    let rest = (any::<Option<bool>>(), prop::option::of(0..10_000u64), ips, next);
    (any::<bool>(), dependence.clone(), dependence, allocation, rest).prop_map(
        |(open, mapping, filtering, allocation, (hairpin, life, public_ips, next))| Behaviour {
            open,
            mapping,
            filtering,
            allocation,
            hairpin,
            lifetime: life.map(Duration::from_secs),
            public_ips,
            next,
        },
    )
}

#[test]
fn numbers_of_newer_peers_are_unknown_and_nonsense_is_refused() {
    let d = || Dict::new().with("i", Vec::<Value>::new());
    assert_eq!(Behaviour::from_dict(&d().with("m", 9u64).with("a", 9u64)), Ok(Behaviour::default()));
    for bad in [
        Dict::new(),
        d().with("a", 2u64),
        d().with("a", 2u64).with("s", 0u64),
        d().with("a", 2u64).with("s", 33u64),
        d().with("o", 2u64),
        d().with("n", &[1, 2, 3][..]),
        d().with("i", vec![Value::Bytes(vec![1; 5])]),
        d().with("i", vec![Value::Bytes(vec![1; 4]); PUBLIC_IPS_MAX + 1]),
    ] {
        assert!(Behaviour::from_dict(&bad).is_err(), "{bad:?}");
    }
}

fn arb_input() -> impl Strategy<Value = Input> {
    let by = || (0..4u8, 0..3u16).prop_map(|(n, port)| SocketAddr::from(([198, 51, 100, n], port)));
    let socket = || (0..3u16).prop_map(SocketId);
    prop_oneof![
        8 => (by(), socket(), 0..60u16).prop_map(|(by, socket, port)| Input::Observed {
            by,
            socket,
            mapped: us(7000 + port % 7 * port)
        }),
        1 => (0..3u16).prop_map(|n| Input::LocalAddrs(vec![us(7000 + n); usize::from(n)])),
        1 => socket().prop_map(|socket| Input::Bound { socket, local: us(7001) }),
        1 => (by(), any::<bool>()).prop_map(|(from, ip_written)| Input::Unsolicited { from, ip_written }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(same_ip, arrived)| Input::DialledBack { same_ip, arrived }),
        1 => any::<bool>().prop_map(Input::Hairpin),
        1 => (any::<u32>(), any::<bool>()).prop_map(|(s, alive)| Input::Idled {
            idle: Duration::from_secs(s.into()),
            alive
        }),
        2 => prop::collection::vec(by(), 0..20).prop_map(Input::Servers),
        1 => Just(Input::NetworkChanged),
    ]
}

#[test]
fn the_observer_obeys_the_laws() {
    laws::check_within(Observer::default, arb_input(), |m| {
        assert!(m.observations() <= OBSERVATIONS_MAX);
        assert!(m.behaviour().public_ips.len() <= PUBLIC_IPS_MAX);
        let wire = m.behaviour().to_dict();
        assert_eq!(Behaviour::from_dict(&wire).unwrap().to_dict(), wire);
    });
}

proptest! {
    #[test]
    fn a_behaviour_comes_out_of_the_wire_as_it_went_in(b in arb_behaviour()) {
        let wire = Dict::decode(&b.to_dict().encode(), 512).unwrap();
        prop_assert_eq!(Behaviour::from_dict(&wire), Ok(b));
    }
}
