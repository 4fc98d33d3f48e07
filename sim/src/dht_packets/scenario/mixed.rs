//! Young, dying and mixed networks of honest nodes.

use super::super::actors::{Dialect, Other};
use super::super::world::{Guest, Reach};
use super::Bound::{Any, AtLeast, AtMost};
use super::Stage;
use super::stage::rate;
use remote_network_core::dht::krpc::{Presence, node_id};
use remote_network_core::id::DhtId;
use remote_network_core::port::{AnnouncePort, DhtRequest};
use remote_network_core::rng::Rng;
use std::net::SocketAddr;
use std::time::Duration;

const TOPIC: DhtId = DhtId([0x28; 20]);

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Everybody starts within a second and publishes 50 ms later; then everybody looks for everybody.
pub fn young(nodes: u32, seed: u64) -> Stage {
    let mut stage = Stage::empty(nodes, seed);
    for n in 0..nodes {
        let at = secs(1) / nodes.max(1) * n;
        let bootstrap = vec![u32::from(n == 0)];
        let guest = Guest::Node { presence: Presence::Open, bootstrap };
        let host = stage.world.settle(at, Reach::V4, false, guest);
        if let Some(put) = stage.put(n, 1) {
            stage.world.ask_at(at + Duration::from_millis(50), host, put);
        }
    }
    stage.pass(secs(15));
    let everybody: Vec<u32> = (0..nodes).collect();
    let found = stage.look(&everybody, &everybody, 1);
    stage.finds("found_rate", found, AtLeast(1.0));
    let at_eight: usize = everybody.iter().map(|v| holding(&stage, *v)).sum();
    stage.finds("held_by_the_eight_closest", rate(at_eight, 8 * nodes as usize), Any);
    // Those whom all others began with are gone; the values have moved on from them.
    (0..3.min(nodes / 4)).for_each(|n| stage.world.remove(n));
    let left = stage.world.nodes();
    let found = stage.look(&left, &left, 1);
    stage.finds("found_rate_without_the_first_three", found, AtLeast(0.999));
    stage
}

/// How many of the eight closest hold a value.
fn holding(stage: &Stage, value: u32) -> usize {
    let target = stage.target(value);
    let mut nodes: Vec<_> = stage.world.alive().collect();
    nodes.sort_by_key(|k| node_id::distance(k.table(false).own(), &target));
    nodes.iter().take(8).filter(|k| k.holds(&target)).count()
}

/// Half of all nodes vanish; the others find what was stored at once, and have forgotten the dead half an hour later.
pub fn dead(nodes: u32, seed: u64) -> Stage {
    let mut stage = Stage::grown(nodes, seed);
    let values: Vec<u32> = (0..20).collect();
    let from: Vec<(u32, u32)> = values.iter().copied().zip(stage.some(20)).collect();
    let stored = stage.publish(&from, 1);
    stage.finds("published_rate", stored, AtLeast(1.0));
    stage.world.vanish(u64::from(nodes / 2));
    let some = stage.some(20);
    let found = stage.look(&some, &values, 1);
    stage.finds("found_rate_right_after", found, AtLeast(0.98));
    stage.pass(secs(1_800));
    let alive: Vec<SocketAddr> =
        stage.world.nodes().iter().filter_map(|n| stage.world.addr_of(*n, false)).collect();
    let tables: Vec<SocketAddr> =
        stage.world.alive().flat_map(|k| k.table(false).good().map(|n| n.addr).collect::<Vec<_>>()).collect();
    let dead = tables.iter().filter(|a| !alive.contains(a)).count();
    stage.finds("dead_entries_half_an_hour_later", rate(dead, tables.len()), AtMost(0.01));
    let found = stage.look(&some, &values, 1);
    stage.finds("found_rate_half_an_hour_later", found, AtLeast(0.98));
    stage
}

/// A third of our kind, a third that knows BEP 5 only, and a sixth each that speaks as `mainline` and libtorrent do.
pub fn dialects(nodes: u32, seed: u64) -> Stage {
    let mut stage = Stage::empty(nodes, seed);
    let mut rng = Rng::derive(&[seed as u8; 32], "dialects");
    for n in 0..nodes {
        let at = Duration::from_millis(100) * n;
        let guest = stage.guest(n, Presence::Open);
        let dialect = match n % 6 {
            1 | 4 => Dialect::OLD,
            2 => Dialect::MAINLINE,
            5 => Dialect::LIBTORRENT,
            _ => {
                stage.world.settle(at, Reach::V4, false, guest);
                continue;
            }
        };
        let Guest::Node { bootstrap, .. } = guest else { continue };
        let bootstrap = bootstrap.iter().filter_map(|b| stage.world.addr_of(*b, false)).collect();
        let host = stage.world.settle(
            at,
            Reach::V4,
            false,
            Guest::Node { presence: Presence::Open, bootstrap: vec![] },
        );
        let Some(addr) = stage.world.addr_of(host, false) else { continue };
        let id = if dialect.tells_ip {
            node_id::for_address(addr.ip(), &mut rng)
        } else {
            node_id::random(&mut rng)
        };
        stage.world.replace(host, Guest::Actor(Box::new(Other::new(dialect, id, bootstrap))));
    }
    stage.pass(Duration::from_millis(100) * nodes + secs(90));
    let values: Vec<u32> = (0..15).collect();
    let ours = stage.some(15);
    let from: Vec<(u32, u32)> = values.iter().copied().zip(ours.clone()).collect();
    let stored = stage.publish(&from, 1);
    stage.finds("published_rate", stored, AtLeast(1.0));
    let found = stage.look(&ours, &values, 1);
    stage.finds("found_rate", found, AtLeast(0.99));
    let renewed = stage.publish(&from, 2);
    stage.finds("renewed_rate", renewed, AtLeast(1.0));
    let newest = stage.look(&ours, &values, 2);
    stage.finds("newest_found_rate", newest, AtLeast(0.99));
    let (mut announced, mut seen) = (0, 0);
    for host in &ours {
        let announce = DhtRequest::Announce { topic: TOPIC, port: AnnouncePort::Implied };
        let ended = stage.world.operate(*host, announce, secs(60));
        announced += usize::from(ended.and_then(|e| e.done).is_some_and(|d| d.is_ok()));
    }
    for host in &ours {
        let ended = stage.world.operate(*host, DhtRequest::GetPeers { topic: TOPIC }, secs(60));
        seen += ended.map_or(0, |e| e.peers.len());
    }
    stage.finds("announced_rate", rate(announced, ours.len()), AtLeast(1.0));
    stage.finds("peers_seen_rate", rate(seen, ours.len() * ours.len()), AtLeast(0.99));
    stage
}

/// Of three nodes one has IPv4, one IPv6, one both.
pub fn families(nodes: u32, seed: u64) -> Stage {
    let mut stage = Stage::empty(nodes, seed);
    for n in 0..nodes {
        // Not itself: two who know nobody are two networks.
        let reach = [Reach::Both, Reach::V4, Reach::V6][(n % 3) as usize];
        // Everybody joins by one that has both.
        let bootstrap = vec![stage.world.draw_below(u64::from(n / 3).max(1)) as u32 * 3];
        let guest = Guest::Node { presence: Presence::Open, bootstrap };
        stage.world.settle(Duration::from_millis(100) * n, reach, false, guest);
    }
    stage.pass(Duration::from_millis(100) * nodes + secs(90));
    let of = |kind: u32| -> Vec<u32> { (0..nodes / 3).map(|n| n * 3 + kind).take(10).collect() };
    let [both, four, six] = [of(0), of(1), of(2)];
    let values = |first: u32| -> Vec<u32> { (first..first + 10).collect() };
    for (first, from) in [(0, &both), (100, &four), (200, &six)] {
        let from: Vec<(u32, u32)> = values(first).into_iter().zip(from.iter().copied()).collect();
        let stored = stage.publish(&from, 1);
        stage.finds(
            ["published_by_both", "published_by_ipv4", "published_by_ipv6"][first as usize / 100],
            stored,
            AtLeast(1.0),
        );
    }
    let looks = [
        ("ipv4_finds_what_both_put", &four, 0),
        ("ipv6_finds_what_both_put", &six, 0),
        ("both_find_what_both_put", &both, 0),
        ("both_find_what_ipv4_put", &both, 100),
        ("both_find_what_ipv6_put", &both, 200),
        ("ipv4_finds_what_ipv4_put", &four, 100),
        ("ipv6_finds_what_ipv6_put", &six, 200),
    ];
    for (name, hosts, first) in looks {
        let found = stage.look(hosts, &values(first), 1);
        stage.finds(name, found, AtLeast(1.0));
    }
    let between = stage.look(&six, &values(100), 1);
    stage.finds("ipv6_finds_what_ipv4_put", between, Any);
    stage
}

/// Half of all nodes are behind NATs that let nobody in to whom they did not write.
pub fn read_only(nodes: u32, seed: u64) -> Stage {
    let mut stage = Stage::empty(nodes, seed);
    for n in 0..nodes {
        let natted = n % 2 == 1;
        let bootstrap = vec![stage.world.draw_below(u64::from(n / 2).max(1)) as u32 * 2];
        let presence = if natted { Presence::Auto } else { Presence::Open };
        let guest = Guest::Node { presence, bootstrap };
        stage.world.settle(Duration::from_millis(100) * n, Reach::V4, natted, guest);
    }
    stage.pass(Duration::from_millis(100) * nodes + secs(900));
    let behind: Vec<u32> = (0..nodes / 2).map(|n| 2 * n + 1).take(10).collect();
    let open: Vec<u32> = (0..nodes / 2).map(|n| 2 * n).take(10).collect();
    let values: Vec<u32> = (0..10).collect();
    let from: Vec<(u32, u32)> = values.iter().copied().zip(behind.iter().copied()).collect();
    let stored = stage.publish(&from, 1);
    stage.finds("published_rate", stored, AtLeast(1.0));
    let found = stage.look(&open, &values, 1);
    stage.finds("open_nodes_find", found, AtLeast(0.99));
    let found = stage.look(&behind, &values, 1);
    stage.finds("nodes_behind_nats_find", found, AtLeast(0.99));
    let hidden: Vec<SocketAddr> =
        (0..nodes / 2).filter_map(|n| stage.world.addr_of(2 * n + 1, false)).collect();
    let known = stage.world.alive();
    let entries: usize =
        known.map(|k| k.table(false).good().filter(|n| hidden.contains(&n.addr)).count()).sum();
    stage.finds("table_entries_behind_nats", entries as f64, AtMost(0.0));
    stage
}
