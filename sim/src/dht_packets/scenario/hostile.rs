//! Networks with malicious nodes in them.

use super::super::actors::{Malice, Malicious};
use super::super::world::{Guest, Reach};
use super::Bound::{Any, AtLeast, AtMost};
use super::Stage;
use remote_network_core::dht::krpc::message::NodeAddr;
use remote_network_core::dht::krpc::node_id::{self, distance};
use remote_network_core::dht::krpc::{Input, Presence};
use remote_network_core::id::DhtId;
use remote_network_core::rng::Rng;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Sybils around a key.
const SYBILS: usize = 20;

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// How Sybils come by their ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ids {
    /// They choose them beside the key, whatever their addresses.
    Chosen,
    /// They choose those of 256 addresses of one network whose ids (BEP 42) come closest to the key.
    Fitting,
}

/// The id nearest to `key` that `ip` may have, out of the eight that BEP 42 leaves it.
fn nearest(ip: IpAddr, key: &DhtId, rng: &mut Rng) -> DhtId {
    let drawn = (0..64).map(|_| node_id::for_address(ip, rng));
    let near = |id: DhtId| {
        let mut near = *key;
        near.0[..2].copy_from_slice(&id.0[..2]);
        near.0[2] = (id.0[2] & 0xf8) | (key.0[2] & 0x07);
        near.0[19] = id.0[19];
        near
    };
    drawn.map(near).min_by_key(|id| distance(id, key)).unwrap_or(*key)
}

fn sybil_nodes(key: &DhtId, ids: Ids, rng: &mut Rng) -> Vec<NodeAddr> {
    let block = u32::from(Ipv4Addr::new(185, 40, rng.bytes::<1>()[0], 0));
    let mut all: Vec<NodeAddr> = (0..=255u32)
        .map(|n| {
            let addr: SocketAddr = match ids {
                // Every one in another network: what helps against blocks of addresses does not help here.
                Ids::Chosen => (Ipv4Addr::from(0xb000_0000 + n * 0x0001_0101), 6881).into(),
                Ids::Fitting => (Ipv4Addr::from(block + n), 6881).into(),
            };
            let mut id = *key;
            id.0[17..].copy_from_slice(&rng.bytes::<3>());
            let id = if ids == Ids::Fitting { nearest(addr.ip(), key, rng) } else { id };
            NodeAddr { id, addr }
        })
        .collect();
    all.sort_by_key(|n| distance(&n.id, key));
    all.truncate(SYBILS);
    all
}

/// Twenty nodes beside one key, who know nothing of it and name only each other.
pub fn sybils(nodes: u32, seed: u64, ids: Ids) -> Stage {
    let mut stage = Stage::grown(nodes, seed);
    let mut rng = Rng::derive(&[seed as u8; 32], "sybils");
    let owner = stage.some(1);
    let Some(owner) = owner.first().copied() else { return stage };
    let stored = stage.publish(&[(0, owner)], 1);
    stage.finds("published_rate", stored, AtLeast(1.0));
    let key = stage.target(0);
    let sybils = sybil_nodes(&key, ids, &mut rng);
    let closest = stage.world.alive().map(|k| distance(k.table(false).own(), &key)).min();
    let nearer = sybils.iter().filter(|s| Some(distance(&s.id, &key)) < closest).count();
    stage.finds("sybils_closer_than_anybody", nearer as f64, Any);
    let bootstrap: Vec<SocketAddr> =
        stage.some(3).iter().filter_map(|n| stage.world.addr_of(*n, false)).collect();
    let at = Duration::from_millis(stage.world.now_ms());
    for sybil in &sybils {
        let malice = Malice { friends: sybils.clone(), ..Malice::default() };
        let actor = Malicious::new(malice, sybil.id, key, bootstrap.clone());
        stage.world.settle_at(at, [Some(sybil.addr), None], false, Guest::Actor(Box::new(actor)));
    }
    stage.pass(secs(120));
    let everybody = stage.world.nodes();
    let known = stage.world.alive();
    let knowing = known.filter(|k| k.table(false).good().any(|n| sybils.contains(n))).count();
    stage.finds("nodes_that_know_a_sybil", knowing as f64, AtLeast(1.0));
    let found = stage.look(&everybody, &[0], 1);
    stage.finds("found_rate", found, AtLeast(0.99));
    // Renewed among Sybils: the new version must not fall into their hands alone.
    let stored = stage.publish(&[(0, owner)], 2);
    stage.finds("renewed_rate", stored, AtLeast(1.0));
    let found = stage.look(&everybody, &[0], 2);
    stage.finds("renewed_found_rate", found, AtLeast(0.99));
    stage
}

/// A newcomer whose bootstraps are in one hand, or nearly.
pub fn eclipse(nodes: u32, seed: u64) -> Stage {
    let mut stage = Stage::grown(nodes, seed);
    let mut rng = Rng::derive(&[seed as u8; 32], "eclipse");
    let values: Vec<u32> = (0..20).collect();
    let from: Vec<(u32, u32)> = values.iter().copied().zip(stage.some(20)).collect();
    stage.publish(&from, 1);
    let honest = stage.some(1);
    let at = Duration::from_millis(stage.world.now_ms());
    let hosts: Vec<u32> = (0..SYBILS)
        .map(|_| {
            stage.world.settle(
                at,
                Reach::V4,
                false,
                Guest::Node { presence: Presence::Open, bootstrap: vec![] },
            )
        })
        .collect();
    let friends: Vec<NodeAddr> = hosts
        .iter()
        .filter_map(|n| stage.world.addr_of(*n, false))
        .map(|addr| NodeAddr { id: node_id::for_address(addr.ip(), &mut rng), addr })
        .collect();
    for (host, node) in hosts.iter().zip(&friends) {
        let malice = Malice { friends: friends.clone(), ..Malice::default() };
        stage.world.replace(*host, Guest::Actor(Box::new(Malicious::new(malice, node.id, node.id, vec![]))));
    }
    let join = |stage: &mut Stage, bootstrap: Vec<u32>| {
        let at = Duration::from_millis(stage.world.now_ms());
        stage.world.settle(at, Reach::V4, false, Guest::Node { presence: Presence::Open, bootstrap })
    };
    let two_of_three = [hosts.get(..2).unwrap_or_default(), &honest].concat();
    let lucky = join(&mut stage, two_of_three);
    let eclipsed = join(&mut stage, hosts.get(..3).unwrap_or_default().to_vec());
    stage.pass(secs(60));
    let found = stage.look(&[lucky], &values, 1);
    stage.finds("found_rate_with_one_honest_bootstrap", found, AtLeast(1.0));
    let found = stage.look(&[eclipsed], &values, 1);
    stage.finds("found_rate_when_eclipsed", found, Any);
    // One honest address, from a known peer or a person, ends it.
    let told = honest.iter().filter_map(|n| stage.world.addr_of(*n, false)).collect();
    stage.world.tell(eclipsed, Input::Bootstrap(told));
    stage.pass(secs(30));
    let found = stage.look(&[eclipsed], &values, 1);
    // The table is still full of attackers; some keys take a while.
    stage.finds("found_rate_after_one_honest_address", found, AtLeast(0.75));
    stage
}

/// One node in ten lies.
pub fn lies(nodes: u32, seed: u64) -> Stage {
    let mut stage = Stage::grown(nodes, seed);
    let mut rng = Rng::derive(&[seed as u8; 32], "lies");
    let victim: SocketAddr = (Ipv4Addr::new(151, 101, 1, 1), 53).into();
    let bootstrap: Vec<SocketAddr> =
        stage.some(3).iter().filter_map(|n| stage.world.addr_of(*n, false)).collect();
    let at = Duration::from_millis(stage.world.now_ms());
    for n in 0..nodes / 10 {
        let empty = Guest::Node { presence: Presence::Open, bootstrap: vec![] };
        let host = stage.world.settle(at, Reach::V4, false, empty);
        let Some(addr) = stage.world.addr_of(host, false) else { continue };
        let id = node_id::for_address(addr.ip(), &mut rng);
        let malice = Malice {
            friends: Vec::new(),
            victim: Some(victim),
            lies_about_values: true,
            refuses_tokens: n % 3 == 0,
        };
        let actor = Malicious::new(malice, id, id, bootstrap.clone());
        stage.world.replace(host, Guest::Actor(Box::new(actor)));
    }
    stage.pass(secs(120));
    stage.world.watch_victim(victim);
    let values: Vec<u32> = (0..20).collect();
    let from: Vec<(u32, u32)> = values.iter().copied().zip(stage.some(20)).collect();
    let stored = stage.publish(&from, 1);
    stage.finds("published_rate", stored, AtLeast(1.0));
    let stored = stage.publish(&from, 2);
    stage.finds("renewed_rate", stored, AtLeast(1.0));
    let readers = stage.some(20);
    let found = stage.look(&readers, &values, 2);
    stage.finds("newest_found_rate", found, AtLeast(0.99));
    let walks = 2 * values.len() + readers.len() * values.len();
    let (datagrams, bytes) = stage.world.victim();
    stage.finds("victim_datagrams_per_lookup", datagrams as f64 / walks as f64, AtMost(4.0));
    stage.finds("victim_bytes_per_lookup", bytes as f64 / walks as f64, Any);
    for (name, why) in
        [("forged_values_refused", "krpc-forged-value"), ("foreign_values_refused", "krpc-foreign-value")]
    {
        let refused = stage.world.refused(why);
        stage.finds(name, refused as f64, AtLeast(1.0));
    }
    let fooled = stage.world.alive().filter(|k| node_id::fits(k.table(false).own(), victim)).count();
    stage.finds("nodes_that_took_an_id_of_the_victims_address", fooled as f64, AtMost(0.0));
    stage
}
