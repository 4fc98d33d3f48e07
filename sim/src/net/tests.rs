//! The network on its own: links, cuts, ills, and ways through boxes.

use super::link::jitter_ns;
use super::*;
use crate::nat::{FirewallSpec, NatSpec};
use proptest::prelude::*;

fn pair(quality: Quality) -> Net {
    let mut net = Net::new(7);
    net.add(0, quality);
    net.add(1, quality);
    net
}

fn send(net: &mut Net, now_ns: u64, payload: &[u8]) -> Vec<(u64, Flight)> {
    let to = net.address(1).unwrap();
    sent(net, now_ns, 0, SocketId::MAIN, to, payload)
}

fn sent(
    net: &mut Net,
    now_ns: u64,
    host: HostId,
    socket: SocketId,
    to: SocketAddr,
    payload: &[u8],
) -> Vec<(u64, Flight)> {
    let mut out = Vec::new();
    net.send(now_ns, host, Outgoing { socket, to, ecn: None, payload }, |at, flight| out.push((at, flight)));
    out
}

#[test]
fn a_datagram_takes_the_latency_of_its_way() {
    let mut net = pair(Quality { latency_us: 1_000, ..Quality::default() });
    let mut out = send(&mut net, 5_000, b"hello");
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].0, 5_000 + 44_000_000);
    assert_eq!((out[0].1.host, Some(out[0].1.from)), (1, net.address(0)));
    assert_eq!(net.arrive(out[0].0, &mut out[0].1), Arrival::Now);
    assert_eq!(net.tally().delivered, 1);
}

#[test]
fn a_cut_stops_one_direction_only() {
    let mut net = pair(Quality::default());
    net.set_group(1, 1);
    net.set_cut(0, 1, true);
    assert!(send(&mut net, 0, b"x").is_empty());
    let to = net.address(0).unwrap();
    assert_eq!(sent(&mut net, 0, 1, SocketId::MAIN, to, b"y").len(), 1);
    net.set_cut(0, 1, false);
    assert_eq!(send(&mut net, 0, b"x").len(), 1);
}

#[test]
fn a_link_carries_its_rate_and_drops_above_its_buffer() {
    // 1 MB/s, 10 kB buffer: of 100 datagrams of 1 kB at once, ten fit.
    let mut net = pair(Quality { up_bytes_per_s: 1_000_000, buffer_bytes: 10_000, ..Quality::default() });
    let times: Vec<u64> = (0..100).flat_map(|_| send(&mut net, 0, &[0; 1000])).map(|(at, _)| at).collect();
    assert_eq!(times.len(), 10);
    assert_eq!(times[9] - times[0], 9_000_000);
    assert_eq!(net.tally().overflowed, 90);
    assert_eq!(send(&mut net, 10_000_000, &[0; 1000]).len(), 1);
}

#[test]
fn the_receivers_link_queues_what_comes_at_once() {
    let mut net = pair(Quality { down_bytes_per_s: 1_000_000, ..Quality::default() });
    let mut flights: Vec<_> = (0..3).flat_map(|_| send(&mut net, 0, &[0; 1000])).collect();
    let verdicts: Vec<_> = flights.iter_mut().map(|(at, f)| net.arrive(*at, f)).collect();
    let at = 43_000_000;
    assert_eq!(verdicts, [Arrival::Now, Arrival::At(at + 1_000_000), Arrival::At(at + 2_000_000)]);
}

#[test]
fn what_is_too_large_or_meant_for_an_old_address_is_lost() {
    let mut net = pair(Quality { mtu: 1200, ..Quality::default() });
    assert!(send(&mut net, 0, &[0; 1201]).is_empty());
    let (at, mut flight) = send(&mut net, 0, &[0; 1200]).remove(0);
    let old = net.address(1).unwrap();
    assert_ne!(net.readdress(1), Some(old));
    assert_eq!(net.arrive(at, &mut flight), Arrival::Lost);
    assert!(sent(&mut net, 0, 0, SocketId::MAIN, old, b"x").is_empty(), "nobody is there");
    assert_eq!(net.tally().unroutable, 1);
}

#[test]
fn every_ill_comes_as_often_as_asked() {
    let mut net = pair(Quality {
        loss_ppm: 10_000,
        reorder_ppm: 20_000,
        reorder_us: 5_000,
        duplicate_ppm: 30_000,
        corrupt_ppm: 40_000,
        burst_begins_ppm: 1_000,
        burst_ends_ppm: 100_000,
        burst_loss_ppm: 500_000,
        ..Quality::default()
    });
    for n in 0..100_000 {
        send(&mut net, n * 1000, &[0; 100]);
    }
    let t = *net.tally();
    // Loss of both links adds up; a burst lasts ten datagrams of which half are lost.
    assert!((1_800..2_200).contains(&t.lost), "{t:?}");
    assert!((300..800).contains(&t.lost_in_burst), "{t:?}");
    assert!((1_700..2_200).contains(&t.reordered), "{t:?}");
    assert!((2_700..3_200).contains(&t.duplicated), "{t:?}");
    assert!((3_600..4_200).contains(&t.corrupted), "{t:?}");
}

proptest! {
    #[test]
    fn jitter_never_overtakes(times in proptest::collection::vec(0..(1u64 << 36), 2..50), height_us in 0..1_000_000u32) {
        let mut times = times;
        times.sort_unstable();
        let arrivals: Vec<u64> = times.iter().map(|t| t + jitter_ns(42, *t, height_us)).collect();
        prop_assert!(arrivals.is_sorted());
    }
}

// ------------------------------------------------------------------------------------ boxes

/// Sends, and lets it go all the way: who hears it, on which socket, and from where it seems to come.
fn heard(
    net: &mut Net,
    now_ns: u64,
    host: HostId,
    socket: SocketId,
    to: SocketAddr,
) -> Option<(HostId, SocketId, SocketAddr)> {
    let (mut at_ns, mut flight) = sent(net, now_ns, host, socket, to, b"hello").pop()?;
    loop {
        match net.arrive(at_ns, &mut flight) {
            Arrival::Now => {
                return Some((flight.host, net.socket_at(flight.host, flight.to.port())?, flight.from));
            }
            Arrival::At(later_ns) => at_ns = later_ns,
            Arrival::Lost => return None,
        }
    }
}

fn home() -> BoxSpec {
    BoxSpec::Nat(NatSpec::default())
}

fn at(net: &mut Net, v4: NetworkId) -> HostId {
    net.add_at(0, Quality::default(), Site { v4, v6: None })
}

#[test]
fn who_hears_a_host_behind_a_box_sees_the_box_and_may_answer() {
    let mut net = Net::new(1);
    let far = net.add(1, Quality::default());
    let stranger = net.add(1, Quality::default());
    let network = net.add_network(INTERNET, 0, home());
    let host = at(&mut net, network);
    assert_eq!(net.address(host).unwrap().to_string(), "192.168.0.10:30906");
    assert_eq!((net.public_address(host), net.host_at(net.address(host).unwrap())), (None, None));
    let to = net.address(far).unwrap();
    let (who, _, from) = heard(&mut net, 0, host, SocketId::MAIN, to).unwrap();
    assert_eq!((who, Some(from.ip())), (far, net.seen_as(host).map(|a| a.ip())));
    assert_ne!(from.ip(), net.address(host).unwrap().ip());
    assert_eq!(heard(&mut net, 0, far, SocketId::MAIN, from), Some((host, SocketId::MAIN, to)));
    assert_eq!(heard(&mut net, 0, stranger, SocketId::MAIN, from), None, "nobody asked for it");
    assert_eq!(net.tally().refused, 1);
    net.readdress_box(network);
    assert_eq!(heard(&mut net, 0, far, SocketId::MAIN, from), None, "nobody has that address any more");
    assert_eq!(net.tally().unroutable, 1);
}

#[test]
fn a_box_judges_when_the_datagram_gets_there_not_when_it_leaves() {
    let mut net = Net::new(1);
    let hosts = [0, 1].map(|region| {
        let network = net.add_network(INTERNET, region, home());
        at(&mut net, network)
    });
    let seen = hosts.map(|h| net.seen_as(h).unwrap());
    // Both send at the same moment: each datagram finds the other's box open.
    let first = sent(&mut net, 0, hosts[0], SocketId::MAIN, seen[1], b"a").pop();
    let second = sent(&mut net, 0, hosts[1], SocketId::MAIN, seen[0], b"b").pop();
    for (at_ns, mut flight) in [first, second].into_iter().flatten() {
        assert!(matches!(net.arrive(at_ns, &mut flight), Arrival::At(_)));
        assert!(hosts.contains(&flight.host) && flight.hop == Hop::Link);
    }
    assert_eq!(net.tally().refused, 0);
}

#[test]
fn one_lan_needs_no_box_and_no_internet() {
    let mut net = Net::new(1);
    let network = net.add_network(INTERNET, 0, home());
    let (one, two) = (at(&mut net, network), at(&mut net, network));
    net.block_udp(network, true);
    let (from, to) = (net.address(one).unwrap(), net.address(two).unwrap());
    let flight = sent(&mut net, 7, one, SocketId::MAIN, to, b"x").pop().unwrap();
    assert_eq!((flight.0, flight.1.from), (7 + NEAR_NS, from), "neither region nor link lies between");
    assert_eq!(heard(&mut net, 0, one, SocketId::MAIN, to), Some((two, SocketId::MAIN, from)));
    net.set_down(two, true);
    assert_eq!(heard(&mut net, 0, one, SocketId::MAIN, to), None);
}

#[test]
fn homes_behind_one_carrier_meet_at_its_hairpin_or_not_at_all() {
    for hairpin in [false, true] {
        let mut net = Net::new(1);
        let server = net.add(0, Quality::default());
        let carrier = BoxSpec::Nat(NatSpec { hairpin, ..NatSpec::default() });
        let carrier = net.add_network(INTERNET, 0, carrier);
        let hosts = [0, 0].map(|_| {
            let network = net.add_network(carrier, 0, home());
            at(&mut net, network)
        });
        let server_at = net.address(server).unwrap();
        let seen = hosts.map(|h| heard(&mut net, 0, h, SocketId::MAIN, server_at).unwrap().2);
        assert_eq!(seen[0].ip(), seen[1].ip(), "one carrier, one address");
        assert_ne!(seen[0].port(), seen[1].port());
        // The first opens the way, the second comes through, as between any two homes.
        assert_eq!(heard(&mut net, 0, hosts[0], SocketId::MAIN, seen[1]), None);
        let second = heard(&mut net, 0, hosts[1], SocketId::MAIN, seen[0]);
        assert_eq!(second, hairpin.then_some((hosts[0], SocketId::MAIN, seen[1])));
    }
}

#[test]
fn a_firewall_translates_nothing_and_ipv6_has_one_of_its_own() {
    let mut net = Net::new(1);
    let wall = BoxSpec::Firewall(FirewallSpec::default());
    let inner = net.add_network(INTERNET, 0, home());
    let six = net.add_network(INTERNET, 0, wall);
    let host = net.add_at(0, Quality::default(), Site { v4: inner, v6: Some(six) });
    let other = net.add_at(1, Quality::default(), Site { v4: INTERNET, v6: Some(INTERNET) });
    let guarded = at(&mut net, six);
    let addresses = net.addresses(host);
    assert_eq!(addresses.len(), 2);
    let (v6, other_v6) = (addresses[1], net.addresses(other)[1]);
    assert_eq!(heard(&mut net, 0, other, SocketId::MAIN, v6), None, "not asked for");
    assert_eq!(heard(&mut net, 0, host, SocketId::MAIN, other_v6), Some((other, SocketId::MAIN, v6)));
    assert_eq!(heard(&mut net, 0, other, SocketId::MAIN, v6), Some((host, SocketId::MAIN, other_v6)));
    let (public, outside) = (net.address(guarded).unwrap(), net.address(other).unwrap());
    assert_eq!((net.public_address(guarded), net.seen_as(guarded)), (None, Some(public)));
    assert_eq!(heard(&mut net, 0, other, SocketId::MAIN, public), None);
    assert_eq!(heard(&mut net, 0, guarded, SocketId::MAIN, outside), Some((other, SocketId::MAIN, public)));
    assert_eq!(heard(&mut net, 0, other, SocketId::MAIN, public), Some((guarded, SocketId::MAIN, outside)));
}

#[test]
fn further_sockets_have_ports_and_mappings_of_their_own() {
    let mut net = Net::new(1);
    let far = net.add(1, Quality::default());
    let network = net.add_network(INTERNET, 0, home());
    let host = at(&mut net, network);
    let (one, two) = (SocketId(1), SocketId(2));
    assert_eq!(net.open_socket(host, one).map(|a| a.port()), Some(EPHEMERAL_PORT_MIN));
    assert_eq!(net.open_socket(host, one), None, "it is open");
    assert_eq!(net.open_socket(host, two).map(|a| a.port()), Some(EPHEMERAL_PORT_MIN + 1));
    let to = net.address(far).unwrap();
    let main = heard(&mut net, 0, host, SocketId::MAIN, to).unwrap().2;
    let first = heard(&mut net, 0, host, one, to).unwrap().2;
    assert_ne!(main, first);
    assert_eq!(heard(&mut net, 0, far, SocketId::MAIN, first), Some((host, one, to)));
    net.close_socket(host, one);
    assert_eq!(heard(&mut net, 0, far, SocketId::MAIN, first), None);
    assert_eq!(heard(&mut net, 0, host, one, to), None);
    for n in 3..=SOCKETS_MAX as u16 + 1 {
        assert!(net.open_socket(host, SocketId(n)).is_some(), "{n}");
    }
    assert_eq!(net.open_socket(host, SocketId(5_000)), None, "bounded");
    net.close_sockets(host);
    assert!(net.open_socket(host, SocketId(5_000)).is_some());
}

#[test]
fn a_host_that_moves_leaves_its_old_network() {
    let mut net = Net::new(1);
    let far = net.add(1, Quality::default());
    let (here, there) = (net.add_network(INTERNET, 0, home()), net.add_network(INTERNET, 0, home()));
    let (host, neighbour) = (at(&mut net, here), at(&mut net, here));
    let (old, to) = (net.address(host).unwrap(), net.address(far).unwrap());
    let seen = heard(&mut net, 0, host, SocketId::MAIN, to).unwrap().2;
    let now_at = net.relocate(host, Site { v4: there, v6: None }).unwrap();
    assert_ne!(now_at, old);
    assert_eq!(heard(&mut net, 0, neighbour, SocketId::MAIN, old), None);
    assert_eq!(heard(&mut net, 0, far, SocketId::MAIN, seen), None);
    let (who, _, fresh) = heard(&mut net, 0, host, SocketId::MAIN, to).unwrap();
    assert!(who == far && fresh.ip() != seen.ip());
}
