//! How the node is reached, and the relay it is, as its operator asks for them.

use super::*;
use remote_network_core::dht::record::NatType;
use remote_network_core::relay::server::{Account, DropReason, Kind, SessionView, Stats, Usage};
use serde_json::json;

pub fn reach_view() -> ReachView {
    ReachView {
        nat: NatType::PortRestrictedCone,
        nat_words: "port-restricted cone; mapping endpoint-independent".into(),
        mapped: vec!["203.0.113.7:30906".parse().unwrap()],
        relays: vec![RelayUse { relay: key(4), addr: "198.51.100.4:30906".parse().unwrap(), active: true }],
        relay_words: "two relays in use".into(),
        punches: vec![PunchCount {
            ours: NatType::PortRestrictedCone,
            theirs: NatType::Symmetric,
            tried: 5,
            punched: 4,
            first_try: 3,
        }],
    }
}

pub fn path_view() -> PathView {
    PathView {
        place: "relayed by connection 7".into(),
        kind: PathKind::Relayed,
        since: at(1),
        rtt: Some(Duration::from_micros(12_300)),
        tried: vec![("192.0.2.9:30906".into(), "no answer".into(), at(2))],
    }
}

fn usage() -> Usage {
    let mut usage =
        Usage { packets_in: 5, bytes_in: 500, packets_out: 6, bytes_out: 600, ..Usage::default() };
    usage.dropped[DropReason::QueueFull as usize] = 7;
    usage
}

pub fn relay_view() -> RelayView {
    RelayView {
        willing: true,
        proven: true,
        stats: Stats { serving: true, reserved: 1, sessions_max: 1_000, usage: usage(), ..Stats::default() },
        sessions: vec![SessionView {
            peer: key(2),
            session: [0xcd; 8],
            kind: Kind::Reserved,
            addr: "192.0.2.9:4000".parse().unwrap(),
            since: at(1),
            usage: usage(),
            waiting: 9,
        }],
        blocked: vec![key(5)],
    }
}

fn account(n: u8, to: UnixTime) -> Account {
    Account {
        peer: key(n),
        session: [n; 8],
        kind: Kind::Visitor,
        addr: "192.0.2.9:4000".parse().unwrap(),
        since: at(0),
        from: at(0),
        to,
        usage: usage(),
        ended: true,
    }
}

#[test]
fn the_status_says_how_the_node_is_reached() {
    let rig = Rig::start();
    let reach = rig.get("/api/v1/status").json()["reach"].clone();
    assert_eq!(
        (&reach["nat"], &reach["mapped"][0]),
        (&json!("port-restricted cone"), &json!("203.0.113.7:30906"))
    );
    let relay = json!({"relay": key(4).to_string(), "addr": "198.51.100.4:30906", "active": true});
    assert_eq!(reach["relays"], json!([relay]));
    assert_eq!(
        reach["punches"][0],
        json!({"ours": "port-restricted cone", "theirs": "symmetric", "tried": 5, "punched": 4, "first_try": 3})
    );
}

#[test]
fn a_peer_shows_the_way_to_it_and_what_became_of_the_others() {
    let rig = Rig::start();
    let path = rig.get("/api/v1/peers").json()["peers"][0]["path"].clone();
    let tried = json!({"place": "192.0.2.9:30906", "outcome": "no answer", "at": 1_800_000_002_000_u64});
    assert_eq!(
        (&path["kind"], &path["rtt_us"], &path["tried"][0]),
        (&json!("relayed"), &json!(12_300), &tried)
    );
    assert_eq!(
        (&path["place"], &path["since"]),
        (&json!("relayed by connection 7"), &json!(1_800_000_001_000_u64))
    );
}

#[test]
fn a_relay_shows_its_sessions_and_ends_one() {
    let rig = Rig::start();
    let relay = rig.get("/api/v1/relay").json();
    assert_eq!(
        (&relay["willing"], &relay["proven"], &relay["serving"]),
        (&json!(true), &json!(true), &json!(true))
    );
    let session = &relay["sessions"][0];
    assert_eq!((&session["session"], &session["kind"]), (&json!("cdcdcdcdcdcdcdcd"), &json!("reserved")));
    assert_eq!((&session["usage"]["bytes_out"], &session["waiting_bytes"]), (&json!(600), &json!(9)));
    assert_eq!(session["usage"]["dropped"], json!({"queue full": 7}), "only what happened");
    assert_eq!(relay["blocked"], json!([key(5).to_string()]));

    let end = |peer: &str| rig.post("/api/v1/relay/disconnect", &json!({"peer": peer}).to_string());
    assert_eq!(end(&key(2).to_string()).json(), json!({"done": true}));
    let none = end(&key(3).to_string());
    assert_eq!((none.status, &*none.code()), (404, "no_session"));
    assert_eq!(end("bob").status, 400);
}

#[test]
fn the_books_come_in_pages_with_what_the_days_sum_up_to() {
    let rig = Rig::start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = u64::try_from(now.as_millis()).unwrap();
    // The writer takes what waits in the order in which it came: the last row there means that all are.
    for n in 1..=3 {
        rig.books.submit(Box::new(account(n, UnixTime::from_millis(now_ms + u64::from(n)))));
    }
    let books = |query: &str| rig.get(&format!("/api/v1/relay/accounts{query}"));
    let all = loop {
        let all = books("").json();
        if all["rows"].as_array().unwrap().len() == 3 {
            break all;
        }
        std::thread::yield_now();
    };
    assert_eq!((&all["next"], &all["lost"]), (&json!(null), &json!(0)));
    assert_eq!(
        (&all["rows"][0]["peer"], &all["rows"][0]["ended"]),
        (&json!(key(1).to_string()), &json!(true))
    );
    assert_eq!(all["rows"][2]["usage"]["dropped"], json!({"queue full": 7}));
    assert_eq!((&all["days_30"]["sessions_ended"], &all["days_30"]["bytes_in"]), (&json!(3), &json!(1_500)));
    assert_eq!(all["days_30"]["dropped"], 21);

    let first = books("?limit=2").json();
    assert_eq!((first["rows"].as_array().unwrap().len(), &first["next"]), (2, &json!(2)));
    let second = books("?limit=2&after=2").json();
    assert_eq!((&second["rows"][0]["peer"], &second["next"]), (&json!(key(3).to_string()), &json!(null)));
    let later = books(&format!("?since={}", now_ms + 2)).json();
    assert_eq!(later["rows"].as_array().unwrap().len(), 2);
    assert_eq!(books("?limit=0").json()["rows"], json!([]));
    for wrong in ["?since=yesterday", "?sinse=1", "?limit=-1", "?after=1&after=2"] {
        let refused = books(wrong);
        assert_eq!(
            (refused.status, refused.json()["error"]["where"].as_str()),
            (400, Some("query")),
            "{wrong}"
        );
    }
}
