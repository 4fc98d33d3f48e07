//! Innocent hosts: those whose address is named by liars, and those in whose name somebody sends.

use crate::stage::{MS_NS, Part, Stage, peer, relay};
use remote_network_core::command::Command;
use remote_network_core::id::PeerName;
use remote_network_core::path::budget::{
    BURST_PER_MINUTE_MAX, BURST_PER_SECOND_MAX, PER_MINUTE_MAX, PER_SECOND_MAX,
};
use remote_network_core::path::probe;
use remote_network_sim::draw::Draw;
use remote_network_sim::evil::Malice;
use remote_network_sim::nat::Kind;
use remote_network_sim::net::{Forger, HostId, Sighting};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Nobody is there, which is the worst: nobody says no.
pub const VICTIM: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
pub const LIES: Malice = Malice {
    drop_ppm: 0,
    tamper_ppm: 0,
    replay_ppm: 0,
    reorder_ppm: 0,
    cross_ppm: 0,
    misname_ppm: 0,
    tunnel: None,
    keeps_mappings: false,
    victim: Some(VICTIM),
};
const SEEDS: u64 = 10;
const SECOND_NS: u64 = 1_000 * MS_NS;

/// The most of these within any `span`.
fn most(sent_ns: &[u64], span_ns: u64) -> u64 {
    let mut from = 0;
    let mut most = 0;
    for (to, at) in sent_ns.iter().enumerate() {
        while at - sent_ns[from] >= span_ns {
            from += 1;
        }
        most = most.max(to - from + 1);
    }
    most as u64
}

/// What each host sent to the victim, of one sort: the most in any second, in any minute, and in all.
fn sent(stage: &Stage, of: impl Fn(&Sighting) -> bool) -> BTreeMap<HostId, [u64; 3]> {
    let mut by_host: BTreeMap<HostId, Vec<u64>> = BTreeMap::new();
    for s in stage.world.net.sightings().iter().filter(|s| !s.forged && of(s)) {
        by_host.entry(s.host).or_default().push(s.at_ns);
    }
    let counts = |sent: Vec<u64>| [most(&sent, SECOND_NS), most(&sent, 60 * SECOND_NS), sent.len() as u64];
    by_host.into_iter().map(|(host, sent)| (host, counts(sent))).collect()
}

fn is_probe(s: &Sighting) -> bool {
    s.first_byte == probe::FIRST_BYTE
}

fn is_quic(s: &Sighting) -> bool {
    s.first_byte & 0xc0 != 0
}

/// Everybody wants everybody, for five minutes.
pub fn mingle(stage: &mut Stage, peers: std::ops::Range<HostId>) {
    for minute in 0..5u64 {
        for a in peers.clone() {
            for b in peers.clone().filter(|b| *b != a) {
                let peer = PeerName::Key(stage.keys[b as usize]);
                stage.world.command(a, Command::Connect { peer, addr: None });
                stage.run(500);
            }
        }
        let spent_ms = u64::from(peers.end - peers.start).pow(2) * 500;
        stage.run(60_000u64.saturating_sub(spent_ms));
        assert!(minute < 5);
    }
}

/// First packets of a dial in vain: QUIC repeats them, ever more seldom, until the dial is given up after 20 s.
const PACKETS_OF_A_DIAL: u64 = 13;
/// Dials into one network in a minute (`identity::budget`).
const DIALS_PER_MINUTE: u64 = 8;

/// Nobody sends the victim more than the documented bounds. What was sent in all, and the most by one host in a minute:
/// probes, packets of QUIC.
pub fn check_bounds(stage: &Stage, seed: u64, bursts: bool, wrong: &mut Vec<String>) -> [[u64; 2]; 2] {
    let burst = [BURST_PER_SECOND_MAX, BURST_PER_MINUTE_MAX].map(|n| u64::from(n) * u64::from(bursts));
    let probes = [u64::from(PER_SECOND_MAX) + burst[0], u64::from(PER_MINUTE_MAX) + burst[1]];
    let dials = DIALS_PER_MINUTE * PACKETS_OF_A_DIAL;
    type Sort = (&'static str, fn(&Sighting) -> bool, [u64; 2]);
    let sorts: [Sort; 2] = [("probes", is_probe, probes), ("packets of QUIC", is_quic, [dials, dials])];
    sorts.map(|(words, sort, bounds)| {
        let mut total = [0; 2];
        for (host, [second, minute, all]) in sent(stage, sort) {
            total = [total[0] + all, total[1].max(minute)];
            if second > bounds[0] || minute > bounds[1] {
                let figures = format!("{second} in a second, {minute} in a minute, {all} in all");
                wrong.push(format!("seed {seed}, host {host}: {words}: {figures}"));
            }
        }
        total
    })
}

/// Worlds of these parts. Somebody must have believed something, or the test shows nothing.
fn flood(parts: &[Part], peers: std::ops::Range<HostId>, bursts: bool) {
    let (mut wrong, mut total) = (Vec::new(), [[0; 2]; 2]);
    for seed in 1..=SEEDS {
        let mut stage = Stage::new(seed, false, parts);
        stage.world.net.watch(VICTIM);
        mingle(&mut stage, peers.clone());
        for (sum, of_seed) in total.iter_mut().zip(check_bounds(&stage, seed, bursts, &mut wrong)) {
            *sum = [sum[0] + of_seed[0], sum[1].max(of_seed[1])];
        }
    }
    println!("in all, and the most of one host in a minute: probes {:?}, QUIC {:?}", total[0], total[1]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(total[0][0] > 0 && total[1][0] > 0, "{total:?}");
}

#[test]
fn a_relay_that_names_a_victim_everywhere_floods_nobody() {
    use Kind::{PortRestricted, SymmetricRandom};
    let kinds = [PortRestricted, SymmetricRandom, PortRestricted, SymmetricRandom];
    let parts: Vec<Part> = [relay(Some(LIES))].into_iter().chain(kinds.map(peer)).collect();
    flood(&parts, 1..5, true);
}

#[test]
fn a_peer_and_a_relay_that_name_a_victim_together_flood_nobody() {
    let liar = Part { malice: Some(LIES), ..peer(Kind::SymmetricRandom) };
    let honest = [Kind::PortRestricted, Kind::PortRestricted, Kind::FullCone].map(peer);
    let parts: Vec<Part> = [relay(Some(LIES)), liar].into_iter().chain(honest).collect();
    flood(&parts, 1..5, true);
}

/// Nobody but the peer vouches for the address: no burst goes there.
#[test]
fn a_peer_that_names_a_victim_through_an_honest_relay_gets_no_burst() {
    let liar = Part { malice: Some(LIES), ..peer(Kind::SymmetricRandom) };
    let honest = [Kind::PortRestricted, Kind::PortRestricted].map(peer);
    let parts: Vec<Part> = [relay(None), liar].into_iter().chain(honest).collect();
    flood(&parts, 1..4, false);
}

// ------------------------------------------------------------------------------------ forged sources

/// For whatever came in the victim's name, nobody ever sends it more than three times as many bytes; how many came.
fn check_amplification(stage: &Stage, words: &str, wrong: &mut Vec<String>) -> u64 {
    let mut seen: Vec<&Sighting> = stage.world.net.sightings().iter().collect();
    // What comes in at the moment at which something is sent may be why.
    seen.sort_by_key(|s| (s.at_ns, !s.forged));
    let mut books: BTreeMap<HostId, (u64, u64)> = BTreeMap::new();
    let mut worst = (0, String::new());
    for s in seen {
        let (came, went) = books.entry(s.host).or_default();
        *(if s.forged { &mut *came } else { &mut *went }) += s.bytes as u64;
        let above = went.saturating_sub(3 * *came);
        if above > worst.0 {
            worst = (above, format!("{words}: host {}: {went} bytes for {came}, last {s:?}", s.host));
        }
    }
    if worst.0 > 0 {
        wrong.push(worst.1);
    }
    books.values().map(|(came, _)| came).sum()
}

/// A STUN request of as many attributes that nobody must know.
fn stun_request(unknown: u16, optional: u16) -> Vec<u8> {
    let mut out = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    out.extend_from_slice(&[7; 12]);
    (0..unknown).for_each(|n| out.extend_from_slice(&[0x7f, n as u8, 0, 0]));
    (0..optional).for_each(|n| out.extend_from_slice(&[0xff, n as u8, 0, 0]));
    let len = (out.len() - 20) as u16;
    out[2..4].copy_from_slice(&len.to_be_bytes());
    out
}

#[test]
fn stun_and_strange_packets_in_the_name_of_a_victim_are_not_amplified() {
    for seed in 1..=SEEDS {
        let mut stage = Stage::new(seed, false, &[relay(None), peer(Kind::PortRestricted)]);
        stage.world.net.watch(VICTIM);
        let from = (VICTIM, 30_906).into();
        let mut draw = Draw::derive(seed, "strange", 0);
        for unknown in 0..40 {
            for optional in [0, 1, 20] {
                stage.world.inject(0, from, &stun_request(unknown, optional));
                stage.run(10);
            }
        }
        for n in 0..2_000u64 {
            let len = draw.between(1, 1_400) as usize;
            let mut payload: Vec<u8> = (0..len).map(|_| draw.next_u64() as u8).collect();
            // Long headers of QUIC 1, of an unknown version, short headers, probes, anything.
            match n % 5 {
                0 => payload.splice(..len.min(6), [0xc3, 0, 0, 0, 1, 8].into_iter().take(len)).count(),
                1 => payload.splice(..len.min(6), [0xc3, 9, 9, 9, 9, 8].into_iter().take(len)).count(),
                2 => payload.splice(..1, [0x40 | payload[0] & 0x3f]).count(),
                3 => payload.splice(..1, [probe::FIRST_BYTE]).count(),
                _ => 0,
            };
            stage.world.inject(0, from, &payload);
            stage.run(5);
        }
        let mut wrong = Vec::new();
        let came = check_amplification(&stage, &format!("seed {seed}"), &mut wrong);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(came > 100_000);
        let answered: usize = stage.world.net.sightings().iter().filter(|s| !s.forged).count();
        assert!(answered >= 120, "only {answered} answers: the test shows nothing");
    }
}

/// Somebody on the way of a peer's packets sends them on in the name of a victim: from the first packet, or of connections
/// that stand; instead of the right ones, or as well.
#[test]
fn packets_sent_on_in_the_name_of_a_victim_are_not_amplified() {
    let (mut wrong, mut came, mut worlds) = (Vec::new(), 0, 0);
    for seed in 1..=2 * SEEDS {
        for share_ppm in [5_000, 50_000, 1_000_000] {
            for copies in [false, true] {
                let parts = [relay(None), relay(None), peer(Kind::Open), peer(Kind::PortRestricted)];
                let mut stage = Stage::new(seed, seed % 4 == 0, &parts);
                let of = 2 + (seed % 2) as HostId;
                let peer = PeerName::Key(stage.keys[5 - of as usize]);
                let connect = Command::Connect { peer, addr: None };
                if seed % 3 != 0 {
                    stage.world.command(of, connect.clone());
                    stage.run(5_000);
                }
                stage.world.net.watch(VICTIM);
                let from = (VICTIM, 40_000).into();
                stage.world.net.forge(Some(Forger { of, from, share_ppm, copies }));
                stage.world.command(of, connect);
                stage.run(60_000);
                let words = format!("seed {seed}, {share_ppm} ppm of host {of}, copies: {copies}");
                came += check_amplification(&stage, &words, &mut wrong);
                worlds += 1;
            }
        }
    }
    println!("{came} bytes in the victim's name in {worlds} worlds");
    assert!(wrong.is_empty(), "{} of {worlds}:\n{}", wrong.len(), wrong.join("\n"));
}
