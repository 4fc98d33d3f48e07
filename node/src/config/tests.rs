use super::*;
use proptest::prelude::*;
use std::fs;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn problems_of(text: &str) -> Vec<String> {
    let (_dir, path) = file(text);
    let shown = path.display().to_string();
    check(&path).unwrap_err().iter().map(|p| p.to_string().replace(&shown, "config.toml")).collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[test]
fn the_generated_file_means_the_defaults_also_with_every_line_made_active() {
    let text = generate();
    let (_dir, path) = file(&text);
    assert_eq!(check(&path).unwrap().settings, Settings::default());
    let active: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let (_dir, path) = file(&active);
    let config = check(&path).unwrap();
    assert_eq!(config.settings, Settings::default());
    assert!(config.effective().iter().all(|e| e.origin.is_some()), "every key stands in the file");
}

#[test]
fn every_key_is_documented_and_shows_what_it_reads() {
    let text = generate();
    for key in KEYS {
        assert!(!key.doc.is_empty() && key.doc.iter().all(|line| line.len() > 10), "{}", key.name);
        assert!(text.contains(&format!("\n#{} = ", key.name)), "{}", key.name);
        assert!(RESERVED.iter().all(|(reserved, _)| *reserved != key.name), "{}", key.name);
    }
}

#[test]
fn the_seeds_names_and_ports_are_the_known_ones() {
    let s = Settings::default();
    assert_eq!((s.quic_port, s.dht_port, s.api_port), (30906, DhtPortKey::Own(30609), 30069));
    assert_eq!((s.quic_idle_timeout, s.metadata_republish_interval, s.discovery_interval), (300, 1800, 30));
    assert_eq!((s.max_peers, s.min_peers), (50, 5));
    assert_eq!((s.relay, s.relay_max_sessions, s.relay_keepalive_interval), (false, 1_000, 5));
}

#[test]
fn the_later_source_wins_and_says_so() {
    let (_dir, path) = file("\nquic_port = 1000\ndht_port = 1001\napi_port = 1002\n");
    let env =
        [pair("REMOTE_NETWORK_DHT_PORT", "2001"), pair("REMOTE_NETWORK_API_PORT", "2002"), pair("PATH", "x")];
    let config = load(Some(&path), env, [pair("--api-port", "3002")]).unwrap();
    let s = &config.settings;
    assert_eq!((s.quic_port, s.dht_port, s.api_port), (1000, DhtPortKey::Own(2001), 3002));
    let origin = |key: &str| {
        let all = config.effective();
        all.iter().find(|e| e.key == key).unwrap().origin.as_ref().map(ToString::to_string)
    };
    assert_eq!(origin("quic_port").unwrap(), format!("{}:2", path.display()));
    assert_eq!(origin("dht_port").unwrap(), "environment variable REMOTE_NETWORK_DHT_PORT");
    assert_eq!(origin("api_port").unwrap(), "--api-port");
    assert_eq!(origin("driver"), None);
}

#[test]
fn an_unknown_key_is_an_error_with_its_line_and_a_suggestion() {
    assert_eq!(
        problems_of("# ports\nquic_prt = 1\n"),
        ["config.toml:2: there is no key `quic_prt`; did you mean `quic_port`?"]
    );
    let far = problems_of("colour = \"blue\"\n");
    assert_eq!(
        far,
        ["config.toml:1: there is no key `colour`; see `remote-network config generate` for all keys"]
    );
    let table = problems_of("[dht]\nmode = \"off\"\n");
    assert!(table[0].starts_with("config.toml:1: there is no key `dht`"), "{table:?}");
}

#[test]
fn a_key_without_effect_is_refused_with_the_reason() {
    assert_eq!(
        problems_of("gossip_fanout = 4\n"),
        ["config.toml:1: `gossip_fanout` would do nothing: this version has no gossip; remove it"]
    );
}

#[test]
fn a_wrong_value_says_what_where_and_how_to_mend() {
    assert_eq!(
        problems_of("quic_port = \"30906\"\n"),
        [
            "config.toml:1: `quic_port` is \"30906\"; it must be a whole number from 0 to 65535, for example `quic_port = 30906`"
        ]
    );
    let many = problems_of(
        "quic_port = 70000\nmax_peers = 0\npublic = 1\ndht_mode = \"both\"\nlisten = \"here\"\ntopics = []\n\
         public_addrs = [\"1.2.3.4\"]\ndht_bootstrap = [\"host\"]\nlog = \"inof\"\nblobs_quota_bytes = 1.5\n",
    );
    assert_eq!(many.len(), 10, "all problems are told at once: {many:#?}");
    let flag = load(None, [], [pair("--max-peers", "many")]).unwrap_err();
    assert!(
        flag[0]
            .to_string()
            .starts_with("--set max_peers: `max_peers` is \"many\"; it must be a whole number")
    );
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    let said = problems_of("quic_port = 1\nquic_port\n");
    assert!(said[0].starts_with("config.toml:2: not TOML:"), "{said:?}");
    let twice = problems_of("quic_port = 1\nquic_port = 2\n");
    assert!(twice[0].starts_with("config.toml:2: not TOML:"), "{twice:?}");
}

#[test]
fn a_misspelt_variable_is_an_error_and_a_strangers_is_not() {
    let said = load(None, [pair("REMOTE_NETWORK_QUIC_PROT", "1")], []).unwrap_err();
    assert!(said[0].to_string().contains("did you mean `quic_port`?"));
    let others =
        [pair("REMOTE_NETWORK_SERVICE_HOST", "10.0.0.1"), pair("REMOTE_NETWORK_PASSPHRASE", "secret")];
    assert_eq!(load(None, others, []).unwrap().settings, Settings::default());
}

#[test]
fn keys_that_contradict_each_other_are_told() {
    assert!(problems_of("min_peers = 60\n")[0].contains("must not be above max_peers"));
    assert!(problems_of("quic_port = 5\ndht_port = 5\n")[0].contains("choose different ports"));
    assert!(problems_of("relay = true\nquic_port = 7\napi_port = 7\n")[0].contains("for TCP too"));
    assert!(problems_of("mdns = \"yes\"\n")[0].contains("true or false, or \"auto\""));
    assert!(problems_of("dht_port = \"shared\"\ndht_backend = \"mainline\"\n")[0].contains("native"));
    assert!(problems_of("dht_port = \"both\"\n")[0].contains("\"shared\""));
    assert!(problems_of("dht_bind = \"::1\"\ndht_backend = \"mainline\"\n")[0].contains("IPv4"));
    assert!(problems_of("dht_mode = \"private\"\n")[0].contains("dht_bootstrap"));
    assert!(problems_of("dht_seed = true\n")[0].contains("a seed needs"));
    assert!(problems_of("topics = [\"a\", \"a\"]\n")[0].contains("twice"));
}

#[test]
fn relays_are_named_by_key_and_place() {
    let key = remote_network_core::id::Keypair::from_seed(&[3; 32]).public().to_string();
    let (_dir, path) =
        file(&format!("relays = [\"{key}@relay.example:30906\"]\nrelay = true\nrelay_total_rate = 0\n"));
    let config = check(&path).unwrap();
    let shown = config.effective().into_iter().find(|e| e.key == "relays").unwrap().value;
    assert_eq!(shown, format!("[\"{key}@relay.example:30906\"]"));
    let by_env =
        load(None, [pair("REMOTE_NETWORK_RELAYS", &format!("{key}@192.0.2.1:1, "))], []).unwrap_err();
    assert!(
        by_env[0].to_string().contains("it must be a list of at most 8 \"key_…@host:port\""),
        "{by_env:?}"
    );

    let twice = problems_of(&format!("relays = [\"{key}@a.example:1\", \"{key}@b.example:1\"]\n"));
    assert!(twice[0].contains("`relays` names one twice"), "{twice:?}");
    for wrong in ["relays = [\"relay.example:30906\"]", "relays = \"relay.example\"", "relays = [7]"] {
        assert!(problems_of(wrong)[0].contains("key_…@host:port"), "{wrong}");
    }
    for wrong in [
        "relay_session_rate = 9999",
        "relay_total_rate = -1",
        "relay_max_sessions = 0",
        "relay_keepalive_interval = 26",
    ] {
        assert!(problems_of(wrong)[0].contains("it must be"), "{wrong}");
    }
}

#[test]
fn a_missing_file_is_a_problem_and_no_file_is_none() {
    let said = check(Path::new("/nonexistent/config.toml")).unwrap_err();
    assert!(said[0].to_string().contains("cannot be read"));
    assert_eq!(load(None, [], []).unwrap().settings, Settings::default());
}

#[test]
fn the_data_directory_follows_the_xdg_rules() {
    let at =
        |xdg: Option<&str>, home: Option<&str>| default_data_dir(xdg.map(Into::into), home.map(Into::into));
    assert_eq!(at(Some("/x"), Some("/h")), PathBuf::from("/x/remote-network"));
    assert_eq!(at(Some("relative"), Some("/h")), PathBuf::from("/h/.local/share/remote-network"));
    assert_eq!(at(None, Some("/h")), PathBuf::from("/h/.local/share/remote-network"));
}

#[test]
fn mdns_is_yes_no_or_as_it_fits() {
    let wanted = |text: &str| {
        let (_dir, path) = file(text);
        check(&path).unwrap().settings.mdns_wanted()
    };
    assert_eq!((wanted(""), wanted("mdns = \"auto\"\n")), (None, None));
    assert_eq!((wanted("mdns = true\n"), wanted("mdns = false\n")), (Some(true), Some(false)));
    let set = load(None, [pair("REMOTE_NETWORK_MDNS", "false")], []).unwrap();
    assert_eq!(set.settings.mdns, MdnsKey::Off);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", tail in any::<Vec<u8>>()) {
        let (_dir, path) = file(&text);
        let _either = check(&path);
        fs::write(&path, tail).unwrap();
        let _either = check(&path);
    }

    #[test]
    fn what_is_shown_reads_back_as_itself(
        port in 1u16..=30_000, public in any::<bool>(), dir in "/[a-z \"'\\\\#]{1,20}",
        topics in prop::collection::btree_set("[a-zA-Z0-9 \"\\\\-]{1,20}", 1..8),
    ) {
        let settings = Settings {
            quic_port: port,
            public,
            data_dir: PathBuf::from(dir),
            topics: topics.into_iter().collect(),
            ..Settings::default()
        };
        let text: String = KEYS.iter().map(|k| format!("{} = {}\n", k.name, (k.show)(&settings))).collect();
        let (_dir, path) = file(&text);
        prop_assert_eq!(check(&path).unwrap().settings, settings);
    }
}

#[test]
fn our_own_node_speaks_in_private_networks_and_where_mainline_cannot() {
    let native = |text: &str| {
        let (_dir, path) = file(text);
        check(&path).unwrap().settings.dht_is_native()
    };
    assert!(!native(""));
    assert!(!native("dht_bootstrap = [\"router.example:6881\"]\n"), "still the public DHT");
    assert!(native("dht_mode = \"private\"\ndht_seed = true\n"));
    assert!(!native("dht_mode = \"private\"\ndht_seed = true\ndht_backend = \"mainline\"\n"));
    assert!(native("dht_port = \"shared\"\n") && native("dht_bind = \"::1\"\n"));
    assert!(native("dht_backend = \"native\"\n"));
}
