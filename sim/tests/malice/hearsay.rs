//! Lies about where a node is: one liar among honest observers puts no foreign address into anybody's record, does not
//! change what a node knows of its own NAT, floods nobody, and ends no connection.

use crate::flood::{LIES, VICTIM, check_bounds, mingle};
use crate::stage::{Outcome, Part, Stage, peer, relay};
use remote_network_core::command::{Command, Reply, StatusView};
use remote_network_core::dht::item;
use remote_network_core::dht::record::{NatType, NodeRecord};
use remote_network_sim::evil::Malice;
use remote_network_sim::nat::{Kind, NatSpec, Refresh};
use remote_network_sim::net::HostId;

const SEEDS: u64 = 10;
const BYTES: u64 = 60_000;
const PATIENCE_MS: u64 = 300_000;

fn status(stage: &mut Stage, host: HostId) -> Box<StatusView> {
    match stage.ask(host, Command::Status, 1_000) {
        Some(Reply::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// What a host's record tells of where it is, as an omniscient reader finds it.
fn published(stage: &Stage, host: HostId) -> Option<NodeRecord> {
    let key = stage.keys[host as usize];
    let found = stage.world.dht.newest(stage.world.now_ns(), &item::target(&key, b""))?;
    Some(NodeRecord::decode(&found.value).expect("a record that its owner made"))
}

/// Who is behind what, and what it must know of it.
fn expected(kind: Kind) -> Option<bool> {
    match kind {
        Kind::PortRestricted | Kind::FullCone => Some(false),
        Kind::SymmetricRandom => Some(true),
        Kind::Open => Some(false),
        _ => None,
    }
}

/// Everybody wants everybody, and is looked at every ten seconds.
fn observe(stage: &mut Stage, seed: u64, parts: &[Part], wrong: &mut Vec<String>) {
    let private = |p: &Part| expected(p.kind).is_some() && p.malice.is_none();
    for round in 0..30 {
        for (host, part) in parts.iter().enumerate().filter(|(_, p)| private(p)) {
            let host = host as HostId;
            let view = status(stage, host);
            let hard = view.reach.nat == NatType::Symmetric;
            if Some(hard) != expected(part.kind) {
                wrong.push(format!(
                    "seed {seed}, round {round}, host {host} ({:?}): {}",
                    part.kind, view.reach.nat_words
                ));
            }
            if let Some(record) = published(stage, host) {
                let all = record.content.public.iter().chain(&record.content.private);
                if all.into_iter().any(|a| a.ip() == VICTIM) {
                    wrong.push(format!(
                        "seed {seed}, round {round}, host {host}: {:?}",
                        record.content.public
                    ));
                }
            }
        }
        stage.run(10_000);
    }
}

/// Worlds in which these take part; whoever lies is a liar from the first moment.
fn lied_to(parts: &[Part], bursts: bool) {
    let mut wrong = Vec::new();
    let peers = parts.iter().position(|p| !p.relay).expect("peers") as HostId..parts.len() as HostId;
    let (first, last) = (peers.end - 2, peers.end - 1);
    let mut lies = 0;
    for seed in 1..=SEEDS {
        let mut stage = Stage::new(seed, false, parts);
        stage.world.net.watch(VICTIM);
        mingle(&mut stage, peers.clone());
        observe(&mut stage, seed, parts, &mut wrong);
        check_bounds(&stage, seed, bursts, &mut wrong);
        assert_eq!(stage.transfer(first, last, BYTES, PATIENCE_MS), Outcome::Done, "seed {seed}");
        stage.assert_identities();
        for (host, part) in parts.iter().enumerate() {
            lies += part.malice.map_or(0, |_| stage.mischief(host as HostId).deeds().lies);
        }
    }
    println!("{lies} lies");
    assert!(wrong.is_empty(), "{} times:\n{}", wrong.len(), wrong.join("\n"));
    assert!(lies > 1_000, "only {lies} lies");
}

const fn liar(kind: Kind) -> Part {
    Part { malice: Some(LIES), ..peer(kind) }
}

/// One whose record tells where others see it.
const fn teller(kind: Kind) -> Part {
    Part { tells: true, ..peer(kind) }
}

#[test]
fn a_peer_that_lies_in_every_pong_moves_nobody() {
    use Kind::{FullCone, Open, PortRestricted, SymmetricRandom};
    let parts = [
        relay(None),
        relay(None),
        liar(Open),
        teller(Open),
        teller(PortRestricted),
        teller(SymmetricRandom),
        teller(FullCone),
        teller(PortRestricted),
    ];
    lied_to(&parts, false);
}

#[test]
fn a_peer_behind_a_router_that_lies_in_every_pong_moves_nobody() {
    use Kind::{FullCone, PortRestricted, SymmetricRandom};
    let parts = [
        relay(None),
        relay(None),
        liar(FullCone),
        teller(PortRestricted),
        teller(SymmetricRandom),
        teller(FullCone),
    ];
    lied_to(&parts, false);
}

#[test]
fn one_relay_of_three_that_lies_about_addresses_moves_nobody() {
    use Kind::{FullCone, PortRestricted, SymmetricRandom};
    let parts = [
        relay(Some(LIES)),
        relay(None),
        relay(None),
        teller(PortRestricted),
        teller(SymmetricRandom),
        teller(FullCone),
    ];
    lied_to(&parts, true);
}

/// Public nodes that keep the mappings alive whose life is measured with their help, behind translators that count packets
/// from outside as use: nobody believes in a longer life, and a connection that is left alone lives on.
#[test]
fn whoever_keeps_a_mapping_alive_makes_nobody_believe_that_it_lives_long() {
    const KEEPS: Malice = Malice { victim: None, keeps_mappings: true, ..LIES };
    let nat = Some(NatSpec { lifetime_ms: 45_000, refresh: Refresh::Both, ..NatSpec::default() });
    let behind = Part { nat, ..peer(Kind::PortRestricted) };
    for honest in [None, Some(relay(None))] {
        let mut kept = 0;
        for seed in 1..=SEEDS {
            let parts: Vec<Part> =
                [relay(Some(KEEPS)), honest.unwrap_or(relay(Some(KEEPS))), behind, behind].into();
            let mut stage = Stage::new(seed, false, &parts);
            assert_eq!(stage.transfer(2, 3, BYTES, PATIENCE_MS), Outcome::Done, "seed {seed}");
            stage.run(900_000);
            for host in [2, 3] {
                let words = status(&mut stage, host).reach.nat_words;
                let longer = words.contains("live 60 s") || words.contains("live 120 s");
                assert!(!longer, "seed {seed}, host {host}: {words}");
                let measured = words.contains("live 30 s");
                assert!(honest.is_none() || measured, "seed {seed}, host {host}: {words}");
            }
            kept += stage.mischief(0).deeds().kept;
            assert_eq!(stage.transfer(3, 2, BYTES, PATIENCE_MS), Outcome::Done, "seed {seed}");
        }
        assert!(kept >= SEEDS, "only {kept} datagrams");
    }
}
