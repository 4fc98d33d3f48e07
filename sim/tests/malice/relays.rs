//! Malicious relays: whatever they do to what they carry, nobody reads it, nobody gets other bytes, nobody is taken for
//! somebody else; and a second, honest relay is enough for everything to work.

use crate::stage::{Outcome, Stage, peer, relay};
use remote_network_sim::evil::{Deeds, Malice};
use remote_network_sim::nat::Kind;
use remote_network_sim::plan::{Class, Plan};
use remote_network_sim::report::play;
use remote_network_sim::sites::plan_kind;

/// The parts: the relays, two peers that want something of each other, and one more whom packets may be brought to.
const EVIL: u32 = 0;
const BYTES: u64 = 60_000;
/// Until everything that a transfer may wait for is over.
const PATIENCE_MS: u64 = 300_000;
const SEEDS: u64 = 20;

/// Reasons that an honest peer's words never give: what reaches a node's machines went through TLS.
const NEVER: [&str; 8] = [
    "message-malformed",
    "transfer-malformed",
    "identity-malformed",
    "identity-claimed-key",
    "identity-claimed-peer-id",
    "identity-wrong-peer",
    "identity-twice",
    "identity-missing",
];

#[derive(Default, Debug)]
struct Sum {
    done: u64,
    failed: u64,
    worlds: u64,
    heard_bytes: u64,
    deeds: Vec<Deeds>,
}

/// Worlds of all seeds with this relay; with an honest one besides, every transfer must succeed.
fn worlds(malice: Malice, honest_relay: bool) -> Sum {
    use Kind::{PortRestricted, SymmetricRandom};
    let mut sum = Sum::default();
    for seed in 1..=SEEDS {
        // Half of the pairs never find a direct path.
        let kinds = if seed % 2 == 0 { [PortRestricted; 2] } else { [SymmetricRandom; 2] };
        let mut parts = vec![relay(Some(malice))];
        parts.extend(honest_relay.then(|| relay(None)));
        let (a, b) = (parts.len() as u32, parts.len() as u32 + 1);
        parts.extend([peer(kinds[0]), peer(kinds[1]), peer(PortRestricted)]);
        let mut stage = Stage::new(seed, true, &parts);
        let secret = stage.object(BYTES).all();
        stage.mischief(EVIL).must_not_see(&secret);
        let outcome = stage.transfer(b, a, BYTES, PATIENCE_MS);
        stage.run(5_000);
        sum.worlds += 1;
        match outcome {
            Outcome::Done => sum.done += 1,
            Outcome::Failed(why) => {
                assert!(!honest_relay, "seed {seed}: {malice:?}: {why}");
                assert!(!why.to_string().is_empty());
                sum.failed += 1;
            }
            Outcome::Unanswered => panic!("seed {seed}: {malice:?}: no answer"),
        }
        stage.assert_identities();
        for honest in 1..parts.len() as u32 {
            for (reason, count) in stage.refused(honest) {
                assert!(!NEVER.contains(&reason), "seed {seed}: host {honest}: {count} × {reason}");
            }
        }
        let (leaks, heard_bytes) = stage.mischief(EVIL).overheard();
        assert_eq!(leaks, 0, "seed {seed}: the relay reads what it carries");
        sum.heard_bytes += heard_bytes;
        sum.deeds.push(stage.mischief(EVIL).deeds());
        let found = stage.world.checks.violations();
        assert!(found.is_empty(), "seed {seed}: {found:?}");
    }
    println!("{malice:?} honest {honest_relay}: {} of {} done, {} failed", sum.done, sum.worlds, sum.failed);
    assert!(sum.heard_bytes > 100_000, "the relay has nothing to carry: {} bytes", sum.heard_bytes);
    sum
}

/// Alone, and with an honest relay. So many of a hundred transfers must get through the malicious one alone.
fn harmless(malice: Malice, deed: fn(&Deeds) -> u64, at_least_percent: u64) {
    for honest_relay in [false, true] {
        let sum = worlds(malice, honest_relay);
        let deeds: u64 = sum.deeds.iter().map(deed).sum();
        assert!(deeds >= sum.worlds, "only {deeds} in {} worlds", sum.worlds);
        assert!(sum.done * 100 >= sum.worlds * at_least_percent, "{} of {}", sum.done, sum.worlds);
    }
}

#[test]
fn a_relay_that_tampers_harms_nothing_but_speed() {
    harmless(Malice { tamper_ppm: 150_000, ..Malice::default() }, |d| d.tampered, 90);
}

#[test]
fn a_relay_that_replays_harms_nothing() {
    harmless(Malice { replay_ppm: 700_000, ..Malice::default() }, |d| d.replayed, 100);
}

#[test]
fn a_relay_that_reorders_harms_nothing_but_speed() {
    harmless(Malice { reorder_ppm: 300_000, ..Malice::default() }, |d| d.reordered, 100);
}

#[test]
fn a_relay_that_drops_harms_nothing_but_speed() {
    harmless(Malice { drop_ppm: 150_000, ..Malice::default() }, |d| d.dropped, 90);
}

#[test]
fn a_relay_that_brings_packets_to_others_harms_nothing_but_speed() {
    harmless(Malice { cross_ppm: 300_000, ..Malice::default() }, |d| d.crossed, 90);
}

#[test]
fn a_relay_that_names_other_senders_harms_nothing_but_speed() {
    harmless(Malice { misname_ppm: 300_000, ..Malice::default() }, |d| d.misnamed, 90);
}

#[test]
fn a_relay_that_lies_about_addresses_harms_nothing() {
    let victim = Some([203, 0, 113, 7].into());
    harmless(Malice { victim, ..Malice::default() }, |d| d.lies, 100);
}

#[test]
fn a_relay_that_does_all_of_this_at_once_harms_nothing_but_speed() {
    let malice = Malice {
        drop_ppm: 30_000,
        tamper_ppm: 30_000,
        replay_ppm: 100_000,
        reorder_ppm: 100_000,
        cross_ppm: 100_000,
        misname_ppm: 100_000,
        victim: Some([203, 0, 113, 7].into()),
        ..Malice::default()
    };
    harmless(malice, |d| d.crossed, 80);
}

/// What passes nothing on, or nothing whole, ends in an error; with another relay it does not matter.
#[test]
fn a_relay_that_swallows_or_spoils_everything_ends_in_words_or_is_passed_by() {
    for malice in [
        Malice { drop_ppm: 1_000_000, ..Malice::default() },
        Malice { tamper_ppm: 1_000_000, ..Malice::default() },
    ] {
        let alone = worlds(malice, false);
        assert_eq!((alone.done, alone.failed), (0, alone.worlds), "{malice:?}");
        assert_eq!(worlds(malice, true).done, SEEDS, "{malice:?}");
    }
}

/// A name is only a name for a place: under false ones most connections stand all the same, and all are with the right peer.
#[test]
fn a_relay_that_names_somebody_else_each_time_deceives_nobody() {
    let malice = Malice { misname_ppm: 1_000_000, ..Malice::default() };
    let alone = worlds(malice, false);
    assert_eq!(alone.done + alone.failed, SEEDS);
    assert_eq!(worlds(malice, true).done, SEEDS);
}

/// The canary of confidentiality: without encryption the very same relay does read it.
#[test]
fn the_ear_hears_what_is_not_encrypted() {
    let malice = Some(Malice::default());
    let mut stage =
        Stage::new(1, false, &[relay(malice), peer(Kind::SymmetricRandom), peer(Kind::SymmetricRandom)]);
    let secret = stage.object(BYTES).all();
    stage.mischief(EVIL).must_not_see(&secret);
    assert_eq!(stage.transfer(2, 1, BYTES, PATIENCE_MS), Outcome::Done);
    let (leaks, _) = stage.mischief(EVIL).overheard();
    assert!(leaks > 1_000, "{leaks} of {}", BYTES / 32);
}

/// A plan with a malicious relay, an honest one, and everything that peers want of each other.
fn plan(seed: u64) -> Plan {
    let mut plan = Plan::from_seed(Class::Calm, seed, 6, 45_000);
    let malice = Malice {
        drop_ppm: 50_000,
        tamper_ppm: 50_000,
        replay_ppm: 100_000,
        reorder_ppm: 100_000,
        cross_ppm: 100_000,
        misname_ppm: 100_000,
        victim: Some([203, 0, 113, 7].into()),
        ..Malice::default()
    };
    plan.all_succeed = false;
    let kinds = [Kind::PortRestricted, Kind::SymmetricRandom, Kind::SymmetricRandom, Kind::FullCone];
    for (n, host) in plan.hosts.iter_mut().enumerate() {
        host.relay = n < 2;
        host.malice = (n == 0).then_some(malice);
        host.nat = (n >= 2).then(|| plan_kind(&mut plan.networks, kinds[n - 2], None, host.region));
    }
    plan
}

/// Jobs, transfers and connections in a network with a malicious relay: nothing of what must hold is broken, and when it
/// behaves again everything comes to rest.
#[test]
fn plans_with_a_malicious_relay_break_nothing_and_come_to_rest() {
    let mut carried = 0;
    for seed in 1..=SEEDS {
        let report = play(plan(seed));
        assert!(report.violations.is_empty(), "{report}");
        assert!(report.runs.succeeded > 0, "{report}");
        carried += report.faults.get("relay cross-delivered").copied().unwrap_or_default();
        if seed <= 2 {
            assert_eq!(play(plan(seed)).trace_hash, report.trace_hash, "the same plan is the same run");
        }
    }
    assert!(carried > SEEDS, "the relay has carried next to nothing");
}
