//! The section `[policy]` of the configuration file. It has a form of its own, which the API and `policy set` take as well.

use super::source::{ConfigProblem, Place};
use crate::api::dto::PolicyDto;
use remote_network_core::service::policy::Policy;
use serde::Deserialize;
use std::path::Path;

/// The name of the section.
pub(super) const SECTION: &str = "policy";

#[derive(Deserialize)]
struct File {
    policy: Option<PolicyDto>,
}

/// The section of a file, if it has one.
pub fn policy_in(text: &str) -> Result<Option<PolicyDto>, toml::de::Error> {
    toml::from_str::<File>(text).map(|file| file.policy)
}

/// The same, read and checked. The rest of the file is told of elsewhere.
pub(super) fn from_toml(path: &Path, text: &str, problems: &mut Vec<ConfigProblem>) -> Option<Policy> {
    let line = |at: usize| text.get(..at).map_or(0, |before| before.matches('\n').count() + 1);
    let mut say = |line: usize, what: String| {
        let place = Place::File { path: path.to_owned(), line };
        let mend = "see `[policy]` in what `remote-network config generate` prints".to_owned();
        problems.push(ConfigProblem { place, what, mend });
    };
    match policy_in(text) {
        Ok(None) => None,
        Ok(Some(policy)) => match policy.into_policy() {
            Ok(policy) => Some(policy),
            Err(found) => {
                let at = line(text.find("[policy").or_else(|| text.find("[[policy")).unwrap_or(0));
                found.into_iter().for_each(|p| say(at, format!("policy: {p}")));
                None
            }
        },
        Err(e) => {
            say(line(e.span().map_or(0, |s| s.start)), format!("policy: {}", e.message()));
            None
        }
    }
}

/// Its part of the generated file.
pub(super) const GENERATED: &str = r#"
# Who may run what on this node, with how much, how often and when: the first rule that fits decides, and where none does,
# services say who may run them. Set anew at each start; without this section, what `policy set` said stays in force.
# It comes behind every key. An example:
#
#     [policy]
#     utc_offset_min = 60
#     groups.friends = ["key_..."]
#
#     [[policy.rules]]
#     name = "friends"
#     who = { group = "friends" }
#     allow = { at_once = 8 }
#
#     [[policy.rules]]
#     name = "modules-by-night"
#     kinds = ["wasm"]
#     allow = { hours = "22:00-06:00", memory_bytes = 268435456, time_ms = 60000, jobs_a_day = 100, cpu_s_a_day = 3600 }
#
#     [[policy.rules]]
#     name = "nobody-else"
#     deny = "ask me first"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn uncommented() -> String {
        let key = remote_network_core::id::Keypair::from_seed(&[1; 32]).public().to_string();
        let lines = GENERATED.lines().filter_map(|l| l.strip_prefix("#     "));
        lines.collect::<Vec<_>>().join("\n").replace("key_...", &key)
    }

    #[test]
    fn the_example_in_the_generated_file_is_a_policy() {
        let mut problems = Vec::new();
        let text = format!("quic_port = 1\n{}", uncommented());
        let policy = from_toml(Path::new("c.toml"), &text, &mut problems).expect("a policy");
        assert_eq!((policy.rules.len(), policy.groups.len(), problems.len()), (3, 1, 0));
        assert_eq!(from_toml(Path::new("c.toml"), "quic_port = 1", &mut problems), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let problem = |text: &str| {
            let mut problems = Vec::new();
            assert_eq!(from_toml(Path::new("c.toml"), text, &mut problems), None);
            problems.remove(0).to_string()
        };
        let odd = problem("quic_port = 1\n[[policy.rules]]\nname = \"a\"\nallow = { jobs = 3 }\n");
        assert!(odd.starts_with("c.toml:4: policy: unknown field `jobs`"), "{odd}");
        let empty = problem("\n\n[[policy.rules]]\nname = \"a\"\n");
        assert!(empty.starts_with("c.toml:3: policy: rules[0]: a rule has either"), "{empty}");
    }
}
