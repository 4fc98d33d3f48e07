//! Malice over tunnels: peers whose networks let no UDP through, and a relay whose operator does with the messages of its
//! tunnels what he likes. Nobody reads what is inside, nobody gets other bytes, nobody is taken for somebody else, what is held
//! stays bounded; and an honest relay besides is enough for everything to work.

use crate::stage::{Outcome, Part, Stage, peer, relay};
use remote_network_core::relay::tunnels::{CREDIT_BYTES, OURS_MAX};
use remote_network_sim::evil::{Deaf, Malice, TunnelDeeds, TunnelMalice};
use remote_network_sim::nat::Kind;
use remote_network_sim::net::HostId;

const EVIL: HostId = 0;
const BYTES: u64 = 60_000;
/// Until everything that a transfer may wait for is over.
const PATIENCE_MS: u64 = 300_000;
const SEEDS: u64 = 10;
/// What an honest peer's words never give: what reaches a node's machines went through TLS.
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
/// A client that is let down calls again, but it does not hammer: so many tunnels in a minute.
const OPENED_PER_MINUTE_MAX: u64 = 30;

/// The malice of one that is malicious over tunnels only.
const fn over_tunnels(tunnel: TunnelMalice) -> Malice {
    Malice {
        drop_ppm: 0,
        tamper_ppm: 0,
        replay_ppm: 0,
        reorder_ppm: 0,
        cross_ppm: 0,
        misname_ppm: 0,
        tunnel: Some(tunnel),
        keeps_mappings: false,
        victim: None,
    }
}

#[derive(Default, Debug)]
struct Sum {
    done: u64,
    failed: u64,
    worlds: u64,
    heard_bytes: u64,
    deeds: Vec<TunnelDeeds>,
}

/// Who takes part: the malicious relay, an honest one or none, peers that only tunnels reach, one that UDP reaches.
fn parts(malice: Malice, honest_relay: bool) -> (Vec<Part>, HostId, HostId) {
    let mut parts = vec![relay(Some(malice))];
    parts.extend(honest_relay.then(|| relay(None)));
    let a = parts.len() as HostId;
    parts.extend([
        peer(Kind::UdpBlocked),
        peer(Kind::UdpBlocked),
        peer(Kind::UdpBlocked),
        peer(Kind::PortRestricted),
    ]);
    (parts, a, a + 1)
}

/// What must hold of everybody, whatever the operator does.
fn check(stage: &mut Stage, words: &str, parts: &[Part]) {
    stage.assert_identities();
    for (honest, part) in parts.iter().enumerate().filter(|(_, p)| p.malice.is_none()) {
        let honest = honest as HostId;
        for (reason, count) in stage.refused(honest) {
            assert!(!NEVER.contains(&reason), "{words}: host {honest}: {count} × {reason}");
        }
        let usage = stage.world.tunnels().usage(honest);
        let minutes = stage.world.now_ns() / 60_000_000_000 + 1;
        if !part.relay {
            assert!(usage.most <= OURS_MAX, "{words}: host {honest}: {usage:?}");
        }
        assert!(
            usage.opened <= OPENED_PER_MINUTE_MAX * minutes,
            "{words}: host {honest} in {minutes} min: {usage:?}"
        );
    }
    let (leaks, _) = stage.mischief(EVIL).overheard();
    assert_eq!(leaks, 0, "{words}: the operator reads what is inside");
    let found = stage.world.checks.violations();
    assert!(found.is_empty(), "{words}: {found:?}");
}

/// Worlds of all seeds; with an honest relay besides, every transfer must succeed.
fn worlds(tunnel: TunnelMalice, honest_relay: bool) -> Sum {
    let mut sum = Sum::default();
    for seed in 1..=SEEDS {
        let words = format!("seed {seed}: {tunnel:?}");
        let (parts, a, b) = parts(over_tunnels(tunnel), honest_relay);
        let mut stage = Stage::with_reservations(seed, true, &parts, usize::from(honest_relay));
        let secret = stage.object(BYTES).all();
        stage.mischief(EVIL).must_not_see(&secret);
        stage.run(30_000);
        // To one that only a tunnel reaches too, or to one behind an ordinary router.
        let to = if seed % 2 == 0 { a } else { b + 2 };
        let outcome = stage.transfer(b, to, BYTES, PATIENCE_MS);
        stage.run(5_000);
        sum.worlds += 1;
        match outcome {
            Outcome::Done => sum.done += 1,
            Outcome::Failed(why) => {
                assert!(!honest_relay, "{words}: {why}");
                assert!(!why.to_string().is_empty());
                println!("{words}: {why}");
                sum.failed += 1;
            }
            Outcome::Unanswered => panic!("{words}: no answer"),
        }
        check(&mut stage, &words, &parts);
        sum.heard_bytes += stage.mischief(EVIL).overheard().1;
        sum.deeds.push(stage.mischief(EVIL).deeds().tunnel);
    }
    println!("{tunnel:?} honest {honest_relay}: {} of {} done, {} failed", sum.done, sum.worlds, sum.failed);
    sum
}

/// Alone, and with an honest relay. So many of a hundred transfers must get through the malicious one alone.
fn harmless(tunnel: TunnelMalice, deed: fn(&TunnelDeeds) -> u64, at_least_percent: u64) {
    for honest_relay in [false, true] {
        let sum = worlds(tunnel, honest_relay);
        let deeds: u64 = sum.deeds.iter().map(deed).sum();
        assert!(deeds >= sum.worlds, "only {deeds} in {} worlds", sum.worlds);
        assert!(honest_relay || sum.heard_bytes > 100_000, "nothing to carry: {} bytes", sum.heard_bytes);
        assert!(sum.done * 100 >= sum.worlds * at_least_percent, "{} of {}", sum.done, sum.worlds);
    }
}

#[test]
fn an_operator_who_tampers_with_tunnels_harms_nothing_but_speed() {
    harmless(TunnelMalice { tamper_ppm: 100_000, ..TunnelMalice::default() }, |d| d.tampered, 80);
}

#[test]
fn an_operator_who_replays_in_tunnels_harms_nothing() {
    harmless(TunnelMalice { replay_ppm: 700_000, ..TunnelMalice::default() }, |d| d.replayed, 100);
}

#[test]
fn an_operator_who_reorders_in_tunnels_harms_nothing_but_speed() {
    harmless(TunnelMalice { reorder_ppm: 300_000, ..TunnelMalice::default() }, |d| d.reordered, 80);
}

#[test]
fn an_operator_who_drops_in_tunnels_harms_nothing_but_speed() {
    harmless(TunnelMalice { drop_ppm: 100_000, ..TunnelMalice::default() }, |d| d.dropped, 80);
}

#[test]
fn an_operator_who_brings_packets_into_other_tunnels_harms_nothing_but_speed() {
    harmless(TunnelMalice { cross_ppm: 300_000, ..TunnelMalice::default() }, |d| d.crossed, 80);
}

#[test]
fn an_operator_who_fills_tunnels_with_junk_harms_nothing() {
    harmless(TunnelMalice { junk_ppm: 700_000, ..TunnelMalice::default() }, |d| d.junk, 90);
}

#[test]
fn an_operator_who_sends_messages_that_are_too_long_loses_tunnels_and_nothing_else() {
    harmless(TunnelMalice { long_ppm: 10_000, ..TunnelMalice::default() }, |d| d.long, 10);
}

#[test]
fn an_operator_who_resets_tunnels_at_any_moment_harms_nothing_but_speed() {
    harmless(TunnelMalice { reset_ppm: 10_000, ..TunnelMalice::default() }, |d| d.reset, 10);
}

#[test]
fn an_operator_who_does_all_of_this_at_once_harms_nothing_but_speed() {
    let tunnel = TunnelMalice {
        drop_ppm: 20_000,
        tamper_ppm: 20_000,
        replay_ppm: 100_000,
        reorder_ppm: 50_000,
        cross_ppm: 50_000,
        junk_ppm: 100_000,
        long_ppm: 1_000,
        reset_ppm: 1_000,
        ..TunnelMalice::default()
    };
    harmless(tunnel, |d| d.crossed, 10);
}

/// Whoever takes tunnels and is of no use is passed by, and alone it is an error in words.
#[test]
fn a_relay_whose_tunnels_are_of_no_use_ends_in_words_or_is_passed_by() {
    for tunnel in [
        TunnelMalice { deaf: Some(Deaf::Handshake), ..TunnelMalice::default() },
        TunnelMalice { deaf: Some(Deaf::Reading), ..TunnelMalice::default() },
        TunnelMalice { drop_ppm: 1_000_000, ..TunnelMalice::default() },
        TunnelMalice { tamper_ppm: 1_000_000, ..TunnelMalice::default() },
        TunnelMalice { reset_ppm: 1_000_000, ..TunnelMalice::default() },
        TunnelMalice { long_ppm: 1_000_000, ..TunnelMalice::default() },
    ] {
        let alone = worlds(tunnel, false);
        assert_eq!((alone.done, alone.failed), (0, alone.worlds), "{tunnel:?}");
        assert_eq!(worlds(tunnel, true).done, SEEDS, "{tunnel:?}");
    }
}

/// The tunnels of one relay end at another host, whose key is another: nobody takes it for the relay, and nobody needs to.
#[test]
fn a_relay_that_answers_as_another_key_is_not_taken_for_the_one_that_was_called() {
    for seed in 1..=SEEDS {
        let malice = over_tunnels(TunnelMalice { leads_to: Some(1), ..TunnelMalice::default() });
        let (parts, a, b) = parts(malice, true);
        let mut stage = Stage::with_reservations(seed, true, &parts, 1);
        assert_eq!(stage.transfer(b, a, BYTES, PATIENCE_MS), Outcome::Done, "seed {seed}");
        assert!(stage.mischief(EVIL).deeds().tunnel.refused > 0, "seed {seed}: nobody was led astray");
        for blocked in a..a + 3 {
            let evil = (stage.keys[blocked as usize], stage.keys[EVIL as usize]);
            assert!(!stage.claims.contains(&evil), "seed {seed}: taken for the one that was called");
        }
        check(&mut stage, &format!("seed {seed}"), &parts);
    }
}

/// A relay takes tunnels, gives credit for nothing and answers nothing: what waits for it stays within the credit.
#[test]
fn what_a_client_sends_into_a_tunnel_that_is_never_read_stays_within_its_credit() {
    for seed in 1..=SEEDS {
        let malice = over_tunnels(TunnelMalice { deaf: Some(Deaf::Reading), ..TunnelMalice::default() });
        let (parts, a, _) = parts(malice, false);
        let mut stage = Stage::with_reservations(seed, true, &parts, 0);
        stage.run(300_000);
        for host in a..a + 3 {
            let usage = stage.world.tunnels().usage(host);
            assert!(usage.opened > 0 && usage.sent_bytes <= usage.opened * CREDIT_BYTES, "{usage:?}");
            assert!(stage.world.tunnels().of(host) <= OURS_MAX);
        }
        check(&mut stage, &format!("seed {seed}"), &parts);
    }
}

/// A client that fills its tunnel with junk, or resets it, harms neither the relay nor those who share it.
#[test]
fn a_client_that_misuses_its_tunnels_harms_nobody_else() {
    for seed in 1..=SEEDS {
        let all = TunnelMalice {
            junk_ppm: 500_000,
            replay_ppm: 300_000,
            long_ppm: 10_000,
            reset_ppm: 10_000,
            ..TunnelMalice::default()
        };
        let evil = Part { malice: Some(over_tunnels(all)), ..peer(Kind::UdpBlocked) };
        let parts = [evil, relay(None), peer(Kind::UdpBlocked), peer(Kind::UdpBlocked)];
        let mut stage = Stage::with_reservations(seed, true, &parts, 0);
        let secret = stage.object(BYTES).all();
        stage.mischief(EVIL).must_not_see(&secret);
        stage.run(120_000);
        assert_eq!(stage.transfer(3, 2, BYTES, PATIENCE_MS), Outcome::Done, "seed {seed}");
        assert!(stage.mischief(EVIL).deeds().tunnel.junk > 10, "seed {seed}");
        check(&mut stage, &format!("seed {seed}"), &parts);
    }
}

/// The canary of confidentiality: without encryption the very same operator does read it.
#[test]
fn the_operators_ear_hears_what_is_not_encrypted() {
    let (parts, a, b) = parts(over_tunnels(TunnelMalice::default()), false);
    let mut stage = Stage::with_reservations(1, false, &parts, 1);
    let secret = stage.object(BYTES).all();
    stage.mischief(EVIL).must_not_see(&secret);
    assert_eq!(stage.transfer(b, a, BYTES, PATIENCE_MS), Outcome::Done);
    assert!(stage.mischief(EVIL).overheard().0 > 1_000);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let tunnel = TunnelMalice {
            tamper_ppm: 50_000,
            replay_ppm: 100_000,
            reorder_ppm: 50_000,
            cross_ppm: 100_000,
            junk_ppm: 100_000,
            reset_ppm: 5_000,
            ..TunnelMalice::default()
        };
        let (parts, a, b) = parts(over_tunnels(tunnel), true);
        let mut stage = Stage::with_reservations(seed, true, &parts, 1);
        stage.transfer(b, a, BYTES, PATIENCE_MS);
        stage.world.trace().hash().to_string()
    };
    for seed in 1..=3 {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(1), run(2));
}
