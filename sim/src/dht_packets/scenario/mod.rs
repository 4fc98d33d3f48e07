//! Scenarios: what happens to the DHT, or who is in it, and what must hold all the same.
//!
//! The plain run measures a healthy network. Each of these has one trouble in it, some figures, and for most figures a
//! bound; a run passes when all bounds hold. Sizes are small enough for tests: the troubles are those of neighbourhoods,
//! which are as small in a network of millions.

mod hostile;
mod mixed;
mod outcome;
mod stage;

pub use outcome::{Bound, Finding, Outcome};
use stage::Stage;

/// A trouble.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// All nodes start within a second, and each publishes at once.
    Young,
    /// Half of all nodes vanish at once.
    Dead,
    /// Twenty nodes choose ids beside a key.
    Sybils,
    /// Twenty nodes choose addresses whose ids (BEP 42) lie beside a key.
    ValidSybils,
    /// Bootstraps that know only each other.
    Eclipse,
    /// One node in ten lies: about nodes, values, tokens, and where it sees others; all name one victim.
    Lies,
    /// Two nodes in three are of other implementations: older ones, with other `k`, with other transaction ids.
    Dialects,
    /// IPv4 only, IPv6 only, and both (BEP 32).
    Families,
    /// Half of all nodes are behind NATs (BEP 43).
    ReadOnly,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Young,
        Self::Dead,
        Self::Sybils,
        Self::ValidSybils,
        Self::Eclipse,
        Self::Lies,
        Self::Dialects,
        Self::Families,
        Self::ReadOnly,
    ];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Young => "young",
            Self::Dead => "dead",
            Self::Sybils => "sybils",
            Self::ValidSybils => "valid-sybils",
            Self::Eclipse => "eclipse",
            Self::Lies => "lies",
            Self::Dialects => "dialects",
            Self::Families => "families",
            Self::ReadOnly => "read-only",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == name)
    }
}

/// Runs one scenario with about so many nodes.
pub fn run(scenario: Scenario, nodes: u32, seed: u64) -> Outcome {
    let stage = match scenario {
        Scenario::Young => mixed::young(nodes, seed),
        Scenario::Dead => mixed::dead(nodes, seed),
        Scenario::Sybils => hostile::sybils(nodes, seed, hostile::Ids::Chosen),
        Scenario::ValidSybils => hostile::sybils(nodes, seed, hostile::Ids::Fitting),
        Scenario::Eclipse => hostile::eclipse(nodes, seed),
        Scenario::Lies => hostile::lies(nodes, seed),
        Scenario::Dialects => mixed::dialects(nodes, seed),
        Scenario::Families => mixed::families(nodes, seed),
        Scenario::ReadOnly => mixed::read_only(nodes, seed),
    };
    stage.outcome(scenario)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(scenario: Scenario, nodes: u32) {
        for seed in 0..3 {
            let outcome = run(scenario, nodes, seed);
            assert!(outcome.passed(), "{}", outcome.to_json());
        }
    }

    #[test]
    fn thirty_nodes_that_start_within_a_second_all_find_each_other() {
        passes(Scenario::Young, 30);
    }

    #[test]
    fn half_the_network_may_vanish() {
        passes(Scenario::Dead, 150);
    }

    #[test]
    fn ids_that_do_not_fit_their_addresses_cannot_hide_a_key() {
        passes(Scenario::Sybils, 150);
    }

    #[test]
    fn one_block_of_addresses_cannot_hide_a_key() {
        passes(Scenario::ValidSybils, 150);
    }

    #[test]
    fn one_honest_bootstrap_is_enough() {
        passes(Scenario::Eclipse, 100);
    }

    #[test]
    fn liars_change_no_value_and_turn_nobody_into_a_weapon() {
        passes(Scenario::Lies, 100);
    }

    #[test]
    fn other_implementations_are_at_home() {
        passes(Scenario::Dialects, 90);
    }

    #[test]
    fn either_address_family_finds_what_those_with_both_store() {
        passes(Scenario::Families, 90);
    }

    #[test]
    fn nodes_behind_nats_use_the_network_and_are_in_no_table() {
        passes(Scenario::ReadOnly, 80);
    }

    #[test]
    fn a_scenario_is_a_function_of_its_seed() {
        let run = |seed| run(Scenario::Lies, 40, seed);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).trace_hash, run(2).trace_hash);
    }

    #[test]
    fn names_are_found_again() {
        assert!(Scenario::ALL.into_iter().all(|s| Scenario::named(s.as_str()) == Some(s)));
        assert_eq!(Scenario::named("calm"), None);
    }
}
