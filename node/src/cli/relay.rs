//! `remote-network relay …`: what this node does as a relay for others; and how `status` and `peers show` tell people the way
//! packets take.

use super::args::RelayCommand;
use super::output::{ago, bytes, plain, short, table, text};
use super::remote::{Shown, block, items};
use super::{Client, Failure};
use serde_json::{Value, json};

/// Runs one command.
pub async fn run(client: &Client, shown: Shown, command: RelayCommand) -> Result<(), Failure> {
    match command {
        RelayCommand::Sessions => {
            let relay = client.get("/relay").await?;
            shown.value(&relay, |r| {
                table(&SESSION_HEAD, &items(r, "sessions").map(session_row).collect::<Vec<_>>());
            });
            hint(shown, &relay);
        }
        RelayCommand::Disconnect { peer } => {
            let peer = peer.to_string();
            let answer = client.post("/relay/disconnect", &json!({"peer": peer})).await?;
            shown.value(&answer, |_| println!("disconnected {peer}"));
        }
        RelayCommand::Block { peer } => block(client, shown, &peer.to_string(), true).await?,
        RelayCommand::Unblock { peer } => block(client, shown, &peer.to_string(), false).await?,
        RelayCommand::Stats => {
            let relay = client.get("/relay").await?;
            let books = client.get("/relay/accounts?limit=0").await?;
            let mut both = relay.clone();
            if let Some(all) = both.as_object_mut() {
                all.remove("sessions");
                all.insert(
                    "books".into(),
                    json!({"today": books["today"], "days_30": books["days_30"], "lost": books["lost"]}),
                );
            }
            shown.value(&both, |b| stats_words(b).iter().for_each(|line| println!("{line}")));
            hint(shown, &relay);
        }
    }
    Ok(())
}

/// Says to people why nobody uses the relay, if there is a reason.
fn hint(shown: Shown, relay: &Value) {
    if let (false, Some(why)) = (shown.json(), why_idle(relay)) {
        eprintln!("{why}");
    }
}

/// Why a node does not relay, and what to do about it; `None` when it does.
pub fn why_idle(relay: &Value) -> Option<&'static str> {
    let is = |field: &str| relay[field] == json!(true);
    if !is("willing") {
        Some("this node is no relay; `relay = true` in its configuration makes it one")
    } else if !is("proven") {
        Some(
            "this node is willing to relay, but nobody has reached it from outside yet; others must be able to send to \
             its UDP port (`quic_port`) without being asked",
        )
    } else if is("closing") {
        Some("this relay is about to stop; it takes no new sessions")
    } else {
        None
    }
}

const SESSION_HEAD: [&str; 8] = ["PEER", "KIND", "SINCE", "ADDRESS", "IN", "OUT", "WAITING", "DROPPED"];

fn session_row(s: &Value) -> Vec<String> {
    let usage = &s["usage"];
    vec![
        text(s, "peer"),
        text(s, "kind"),
        ago(s["since"].as_u64()),
        text(s, "addr"),
        traffic(usage, "in"),
        traffic(usage, "out"),
        bytes(s["waiting_bytes"].as_u64().unwrap_or(0)),
        drops(&usage["dropped"]),
    ]
}

/// Packets and bytes in one direction.
fn traffic(usage: &Value, direction: &str) -> String {
    let n = |what: &str| usage[format!("{what}_{direction}")].as_u64().unwrap_or(0);
    format!("{} packets, {}", n("packets"), bytes(n("bytes")))
}

/// Drops by reason, or how many if only that is known.
fn drops(dropped: &Value) -> String {
    let reasons = dropped.as_object().into_iter().flatten();
    let named: Vec<String> = reasons.map(|(why, n)| format!("{n} {}", plain(why))).collect();
    match (named.is_empty(), dropped.as_u64().unwrap_or(0)) {
        (true, 0) => "-".to_owned(),
        (true, n) => n.to_string(),
        (false, _) => named.join(", "),
    }
}

fn stats_words(s: &Value) -> Vec<String> {
    let state = match why_idle(s) {
        None => "relaying",
        Some(_) if s["willing"] != json!(true) => "no relay",
        Some(_) if s["proven"] != json!(true) => "willing, not proven reachable",
        Some(_) => "closing",
    };
    let books = &s["books"];
    let days = |name: &str| {
        let t = &books[name];
        let ended = text(t, "sessions_ended");
        format!(
            "in {}; out {}; dropped {}; {ended} sessions ended",
            traffic(t, "in"),
            traffic(t, "out"),
            drops(&t["dropped"])
        )
    };
    let usage = &s["usage"];
    let mut lines = vec![
        format!("state      {state}"),
        format!(
            "sessions   {} reserved, {} visitors, of {} at the most",
            text(s, "reserved"),
            text(s, "visitors"),
            text(s, "sessions_max")
        ),
        format!("since start {} accepted, {} refused", text(s, "accepted"), text(s, "refused")),
        format!("  in       {}", traffic(usage, "in")),
        format!("  out      {}", traffic(usage, "out")),
        format!("  dropped  {}", drops(&usage["dropped"])),
        format!("waiting    {}", bytes(s["waiting_bytes"].as_u64().unwrap_or(0))),
        format!("today      {}", days("today")),
        format!("30 days    {}", days("days_30")),
    ];
    match books["lost"].as_u64().unwrap_or(0) {
        0 => {}
        n => lines.push(format!("missing    {n} rows of the books could not be written since the start")),
    }
    for peer in items(s, "blocked").filter_map(Value::as_str) {
        lines.push(format!("blocked    {}", plain(peer)));
    }
    lines
}

/// How the node is reached, as lines of `status`: a label and its words.
pub fn reach_words(reach: &Value) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    // An older node says nothing of it.
    if reach.is_null() {
        return lines;
    }
    let (nat, words) = (text(reach, "nat"), text(reach, "nat_words"));
    lines.push(("NAT", if words.is_empty() { nat } else { words }));
    for addr in items(reach, "mapped").filter_map(Value::as_str) {
        lines.push(("mapped", plain(addr)));
    }
    for relay in items(reach, "relays") {
        let role = if relay["active"] == json!(true) { "active" } else { "standby" };
        lines.push(("relay", format!("{role}: {} at {}", text(relay, "relay"), text(relay, "addr"))));
    }
    let words = text(reach, "relay_words");
    if !words.is_empty() && words != "-" {
        lines.push(("relays", words));
    }
    for p in items(reach, "punches") {
        let pair = format!("{} to {}", text(p, "ours"), text(p, "theirs"));
        let done = format!(
            "{} of {} direct, {} at once",
            text(p, "punched"),
            text(p, "tried"),
            text(p, "first_try")
        );
        lines.push(("punched", format!("{pair}: {done}")));
    }
    lines
}

/// The way to a peer, for `peers show`: the first line, and what became of the other ways.
pub fn path_words(peer: &Value) -> Vec<String> {
    let path = &peer["path"];
    if path.is_null() {
        return vec![peer["addr"].as_str().map_or("-".into(), |a| format!("direct, {}", plain(a)))];
    }
    let rtt = match path["rtt_us"].as_u64() {
        Some(us) => format!(", rtt {:.1} ms", us as f64 / 1000.0),
        None => String::new(),
    };
    let since = ago(path["since"].as_u64());
    let mut lines = vec![format!("{}, {}, since {since}{rtt}", text(path, "kind"), text(path, "place"))];
    for t in items(path, "tried") {
        lines.push(format!("tried {}: {}, {}", text(t, "place"), text(t, "outcome"), ago(t["at"].as_u64())));
    }
    lines
}

/// The way to a peer in one cell of a table.
pub fn path_cell(peer: &Value) -> String {
    match peer["path"]["kind"].as_str() {
        None | Some("direct") => text(peer, "addr"),
        Some(kind) => format!("{}: {}", plain(kind), short(&text(&peer["path"], "place"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Value {
        json!({
            "packets_in": 5, "bytes_in": 1536, "packets_out": 6, "bytes_out": 600,
            "dropped": {"queue full": 7, "too old": 1},
        })
    }

    #[test]
    fn a_session_is_a_row_with_its_drops_by_reason() {
        let row = session_row(&json!({
            "peer": "key_a", "kind": "visitor", "since": 0, "addr": "192.0.2.1:4", "usage": usage(),
            "waiting_bytes": 9,
        }));
        assert_eq!(row.len(), SESSION_HEAD.len());
        let told = ["key_a", "visitor", "-", "192.0.2.1:4", "5 packets, 1.5 KiB", "6 packets, 600 B"];
        assert_eq!(row[..6], told);
        assert_eq!(row[6..], ["9 B", "7 queue full, 1 too old"]);
        assert_eq!(
            (drops(&json!({})), drops(&json!(3)), drops(&json!(0))),
            ("-".into(), "3".into(), "-".into())
        );
    }

    #[test]
    fn a_node_that_does_not_relay_is_told_why() {
        let relay =
            |willing, proven, closing| json!({"willing": willing, "proven": proven, "closing": closing});
        assert!(why_idle(&relay(false, false, false)).unwrap().contains("relay = true"));
        assert!(why_idle(&relay(true, false, false)).unwrap().contains("quic_port"));
        assert!(why_idle(&relay(true, true, true)).unwrap().contains("no new sessions"));
        assert_eq!(why_idle(&relay(true, true, false)), None);
    }

    #[test]
    fn stats_say_what_was_passed_on_today_and_in_thirty_days() {
        let totals = json!({
            "packets_in": 1, "bytes_in": 10, "packets_out": 2, "bytes_out": 20, "dropped": 3, "sessions_ended": 4,
        });
        let lines = stats_words(&json!({
            "willing": true, "proven": true, "reserved": 1, "visitors": 2, "sessions_max": 1000, "accepted": 3,
            "refused": 0, "usage": usage(), "waiting_bytes": 0, "blocked": ["key_b"],
            "books": {"today": totals, "days_30": totals, "lost": 2},
        }));
        let all = lines.join("\n");
        for line in [
            "state      relaying",
            "sessions   1 reserved, 2 visitors, of 1000 at the most",
            "  dropped  7 queue full, 1 too old",
            "today      in 1 packets, 10 B; out 2 packets, 20 B; dropped 3; 4 sessions ended",
            "missing    2 rows",
            "blocked    key_b",
        ] {
            assert!(all.contains(line), "{line}:\n{all}");
        }
    }

    #[test]
    fn the_way_to_this_node_is_told_in_words() {
        let lines = reach_words(&json!({
            "nat": "symmetric", "nat_words": "symmetric; ports random", "mapped": ["192.0.2.1:30906"],
            "relays": [
                {"relay": "key_r", "addr": "192.0.2.2:1", "active": true},
                {"relay": "key_s", "addr": "192.0.2.3:1", "active": false},
            ],
            "relay_words": "", "punches": [
                {"ours": "symmetric", "theirs": "full cone", "tried": 3, "punched": 2, "first_try": 1},
            ],
        }));
        let told: Vec<String> = lines.iter().map(|(label, words)| format!("{label}: {words}")).collect();
        assert_eq!(
            told,
            [
                "NAT: symmetric; ports random",
                "mapped: 192.0.2.1:30906",
                "relay: active: key_r at 192.0.2.2:1",
                "relay: standby: key_s at 192.0.2.3:1",
                "punched: symmetric to full cone: 2 of 3 direct, 1 at once",
            ]
        );
        let unknown = json!({"nat": "unknown", "nat_words": "", "relay_words": "not needed"});
        assert_eq!(
            reach_words(&unknown),
            [("NAT", "unknown".to_owned()), ("relays", "not needed".to_owned())]
        );
        assert!(reach_words(&Value::Null).is_empty());
    }

    #[test]
    fn the_way_to_a_peer_is_told_with_what_became_of_the_others() {
        let plain_peer = json!({"addr": "192.0.2.1:4"});
        assert_eq!(path_words(&plain_peer), ["direct, 192.0.2.1:4"]);
        assert_eq!(
            (path_words(&json!({"addr": null})), path_cell(&plain_peer)),
            (vec!["-".into()], "192.0.2.1:4".into())
        );
        let peer = json!({"addr": null, "path": {
            "place": "relayed by connection 7", "kind": "relayed", "since": 0, "rtt_us": 12_300,
            "tried": [{"place": "192.0.2.9:1", "outcome": "no answer", "at": 0}],
        }});
        assert_eq!(
            path_words(&peer),
            ["relayed, relayed by connection 7, since -, rtt 12.3 ms", "tried 192.0.2.9:1: no answer, -"]
        );
        assert_eq!(path_cell(&peer), "relayed: relayed by c…");
    }
}
