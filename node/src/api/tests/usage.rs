//! The API as its users use it.

use super::*;
use serde_json::json;

#[test]
fn the_token_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::start();
    let path = rig.dir.path().join(TOKEN_FILE);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn views_come_as_json_with_keys_hex_and_milliseconds() {
    let rig = Rig::start();
    let status = rig.get("/api/v1/status");
    status.assert_hardened("status");
    let status = status.json();
    assert_eq!(status["key"], key(1).to_string());
    assert_eq!(status["record"], json!({"seq": 7, "stored_at": 1_800_000_005_000_u64}));
    assert_eq!(status["observed_addrs"][0], json!({"addr": "192.0.2.7:4000", "peers": 3}));
    assert_eq!(status["refused"]["forged records"], 2);
    let peers = rig.get("/api/v1/peers").json();
    assert_eq!(peers["peers"][0]["state"], "connected");
    assert_eq!(peers["peers"][0]["rtt_us"], 1_234);
    let run = rig.get(&format!("/api/v1/runs/{}", run_id())).json();
    assert_eq!(run["state"], "succeeded");
    assert_eq!(run["tasks"][0]["exit"], json!({"class": "success", "code": 0}));
    assert_eq!(run["results"][0]["href"], format!("/api/v1/runs/{}/results/top/0", run_id()));
    assert_eq!(rig.get("/api/v1/runs").json()["runs"][0]["name"], "top <words>");
}

#[test]
fn refusals_of_the_core_say_what_where_and_how_to_mend() {
    let rig = Rig::start();
    let unknown = rig.get(&format!("/api/v1/peers/{}", key(9)));
    assert_eq!((unknown.status, &*unknown.code()), (404, "unknown_peer"));
    let misnamed = rig.get("/api/v1/peers/bob");
    assert_eq!((misnamed.status, &misnamed.json()["error"]["where"]), (400, &json!("path")));
    let body = json!({"peer": key(3).to_string()}).to_string();
    let unreachable = rig.post("/api/v1/peers/connect", &body);
    assert_eq!((unreachable.status, &*unreachable.code()), (502, "unreachable"));
    let body = json!({"peer": key(3).to_string(), "addr": "192.0.2.1:1"}).to_string();
    assert_eq!(rig.post("/api/v1/peers/connect", &body).status, 200);
}

#[test]
fn a_sign_in_link_works_once_and_its_session_can_be_ended() {
    let rig = Rig::start();
    let link = rig.server.as_ref().unwrap().sign_in_link().unwrap();
    let (page, code) = link.split_once("/#signin=").expect("a code in the fragment");
    assert_eq!(page, format!("http://{}", rig.host()));
    let body = json!({"code": code}).to_string();
    let host = rig.host();
    let exchange = || {
        rig.send(
            "POST",
            "/api/v1/session",
            &[("Host", &host), ("Content-Type", "application/json")],
            body.as_bytes(),
        )
    };
    let session = exchange();
    assert_eq!(session.status, 201);
    let bearer = format!("Bearer {}", session.json()["token"].as_str().unwrap());
    assert_eq!(exchange().status, 401);
    let origin = format!("http://{host}");
    let headers = [
        ("Host", &*host),
        ("Authorization", &*bearer),
        ("Origin", &*origin),
        ("Sec-Fetch-Site", "same-origin"),
    ];
    assert_eq!(rig.send("GET", "/api/v1/status", &headers, b"").status, 200);
    assert_eq!(rig.send("DELETE", "/api/v1/session", &headers, b"").status, 204);
    assert_eq!(rig.send("GET", "/api/v1/status", &headers, b"").status, 401);
    let another = rig.post("/api/v1/sign-in-links", "{}").json();
    assert!(another["link"].as_str().unwrap().contains("/#signin="));
}

#[test]
fn a_result_is_an_attachment_that_can_be_resumed() {
    let rig = Rig::start();
    let path = format!("/api/v1/runs/{}/results/top/0", run_id());
    let whole = rig.get(&path);
    whole.assert_hardened("result");
    assert_eq!((whole.status, &*whole.body), (200, RESULT));
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(whole.header("content-disposition"), "attachment; filename=\"top__words_-top-0\"");
    assert!(whole.header("content-security-policy").contains("sandbox"));
    let etag = whole.header("etag").to_owned();
    let (host, bearer) = (rig.host(), rig.bearer());
    let ranged = |range: &str, if_range: &str| {
        let headers =
            [("Host", &*host), ("Authorization", &*bearer), ("Range", range), ("If-Range", if_range)];
        rig.send("GET", &path, &headers, b"")
    };
    let part = ranged("bytes=4-5", &etag);
    assert_eq!((part.status, &*part.body), (206, &RESULT[4..6]));
    assert_eq!(part.header("content-range"), format!("bytes 4-5/{}", RESULT.len()));
    assert_eq!(ranged("bytes=4-5", "\"another\"").body, RESULT);
    let beyond = ranged("bytes=999-", &etag);
    assert_eq!((beyond.status, &*beyond.code()), (416, "bad_range"));
    assert_eq!(rig.get(&format!("/api/v1/runs/{}/results/top/1", run_id())).status, 404);
    assert_eq!(rig.get(&format!("/api/v1/runs/{}/results/top/x", run_id())).status, 400);
    let log = rig.get(&format!("/api/v1/runs/{}/tasks/count/logs", run_id()));
    assert_eq!((log.status, &*log.body), (200, LOG));
}

#[test]
fn a_receipt_comes_as_one_file() {
    let rig = Rig::start();
    let receipt = rig.get(&format!("/api/v1/runs/{}/tasks/count/receipt", run_id()));
    assert_eq!(receipt.body, b"the receipt");
    assert!(receipt.header("content-disposition").starts_with("attachment"));
    assert_eq!(rig.get(&format!("/api/v1/runs/{}/tasks/cuont/receipt", run_id())).status, 404);
}

#[test]
fn an_upload_becomes_an_object_and_a_broken_one_becomes_nothing() {
    let rig = Rig::start();
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let uploaded = rig.post_as("/api/v1/objects", "application/octet-stream", &big);
    assert_eq!(uploaded.status, 201);
    assert_eq!(uploaded.json(), json!({"digest": Digest::of(&big).to_string(), "len": big.len()}));
    let empty = rig.post_as("/api/v1/objects", "application/octet-stream", b"");
    assert_eq!(empty.json()["len"], 0);
    let stored = rig.blobs.len();
    let mut cut = TcpStream::connect(("127.0.0.1", rig.port())).unwrap();
    let head = format!(
        "POST /api/v1/objects HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 100\r\n\r\nonly this",
        rig.host(),
        rig.bearer()
    );
    cut.write_all(head.as_bytes()).unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = cut.read_to_end(&mut rest);
    assert_eq!(rig.blobs.len(), stored);
}

#[test]
fn a_service_is_registered_in_two_steps() {
    let rig = Rig::start();
    let module = rig.post_as("/api/v1/objects", "application/octet-stream", b"\0asm").json();
    let mut service = json!({
        "name": "count", "description": "counts words", "version": "1.0.0", "module": module["digest"],
        "mounts": [{"name": "stopwords", "direction": "in"}], "visibility": {"listed": [key(2).to_string()]},
    });
    let added = rig.post("/api/v1/services", &service.to_string());
    assert_eq!(added.status, 201, "{added:?}");
    let id = added.json()["id"].as_str().unwrap().to_owned();
    {
        let seen = rig.seen.lock().unwrap();
        let Some(Command::AddService(sent)) = seen.last() else { panic!("{seen:?}") };
        assert_eq!((sent.id().to_string(), sent.module_len, sent.stdin), (id.clone(), 4, true));
    }
    assert_eq!(rig.delete(&format!("/api/v1/services/{id}")).status, 200);
    for (field, value, place) in [
        ("name", json!("Count!"), "name"),
        ("module", json!(Digest::of(b"absent").to_string()), "module"),
        ("mounts", json!([{"name": "../x", "direction": "in"}]), "mounts[0].name"),
        ("visibility", json!({"listed": ["key_1"]}), "visibility.listed[0]"),
    ] {
        let good = service[field].take();
        service[field] = value;
        let refused = rig.post("/api/v1/services", &service.to_string());
        assert!((400..500).contains(&refused.status), "{refused:?}");
        assert_eq!(refused.json()["error"]["where"], place);
        service[field] = good;
    }
}

fn workflow(name: &str) -> serde_json::Value {
    // Written out, since the order of nodes matters and `json!` sorts.
    let text = format!(
        r#"{{"name": "{name}", "nodes": {{"z": {{"source": {{"text": "a b"}}}}, "count": {{"task": {{"service": "count"}}}},
            "a": {{"sink": {{}}}}}}, "edges": ["z.out -> count.stdin", "count.stdout -> a.in"]}}"#
    );
    serde_json::Value::String(text)
}

fn body(name: &str, run: Option<&str>) -> String {
    let text = workflow(name);
    let run = run.map(|r| format!(r#""run": "{r}", "#)).unwrap_or_default();
    format!(r#"{{{run}"workflow": {}}}"#, text.as_str().unwrap())
}

#[test]
fn a_run_is_submitted_in_declared_order_with_its_texts_in_the_store() {
    let rig = Rig::start();
    let run = run_id().to_string();
    for _ in 0..2 {
        let submitted = rig.post("/api/v1/runs", &body("words", Some(&run)));
        assert_eq!((submitted.status, submitted.json()), (202, json!({"run": run})));
    }
    {
        let seen = rig.seen.lock().unwrap();
        let [Command::Submit { workflow: first, .. }, Command::Submit { workflow: second, .. }] = &seen[..]
        else {
            panic!("{seen:?}")
        };
        assert_eq!(first, second);
        let ids: Vec<&str> = first.nodes.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["z", "count", "a"]);
    }
    assert!(rig.blobs.open(&Digest::of(b"a b")).is_ok());
    let conflict = rig.post("/api/v1/runs", &body("other", Some(&run)));
    assert_eq!((conflict.status, &*conflict.code()), (409, "run_conflict"));
    assert_eq!(rig.post("/api/v1/runs", &body("words", Some("12"))).status, 400);
    for what in ["pause", "resume", "cancel"] {
        let done = rig.post(&format!("/api/v1/runs/{run}/{what}"), "{}");
        assert_eq!(done.json(), json!({"done": true}), "{what}");
    }
    let seen = rig.seen.lock().unwrap();
    let pauses = seen.iter().filter_map(|c| match c {
        Command::Pause { paused, .. } => Some(*paused),
        _ => None,
    });
    assert_eq!(pauses.collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_workflow_is_checked_without_leaving_a_trace() {
    let rig = Rig::start();
    let stored = rig.blobs.len();
    assert_eq!(
        rig.post("/api/v1/workflows/validate", &body("words", None)).json(),
        json!({"valid": true, "problems": []})
    );
    let planned = rig.post("/api/v1/workflows/plan", &body("words", None)).json();
    assert_eq!(planned["placements"][0]["peers"][0], key(2).to_string());
    let yaml = "name: cycle\nnodes:\n  count: { task: { service: count } }\n";
    let problems = rig.post("/api/v1/workflows/validate", &json!({"yaml": yaml}).to_string()).json();
    assert_eq!(
        problems["problems"][0],
        json!({"place": "nodes.count.service", "reason": "nobody offers `count`", "line": 3, "column": 3})
    );
    let refused = rig.post("/api/v1/workflows/plan", &json!({"yaml": "name: x\nnods: {}\n"}).to_string());
    assert_eq!((refused.status, &*refused.code()), (422, "invalid_workflow"));
    assert_eq!(refused.json()["error"]["problems"][0]["line"], 2);
    let files = r#"{"workflow": {"name": "f", "nodes": {"s": {"source": {"files": ["/etc/passwd"]}}}}}"#;
    let refused = rig.post("/api/v1/workflows/plan", files);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("does not read files"));
    assert_eq!(rig.blobs.len(), stored);
}

#[test]
fn a_node_that_has_stopped_is_told_as_such() {
    let rig = Rig::start();
    rig.handle.stopped();
    let answer = rig.get("/api/v1/status");
    assert_eq!((answer.status, &*answer.code()), (503, "stopped"));
    answer.assert_hardened("stopped");
}

#[test]
fn the_page_comes_with_its_policy_and_is_cached_by_content() {
    let rig = Rig::start();
    let page = rig.get("/");
    page.assert_hardened("page");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").contains("require-trusted-types-for 'script'"));
    let etag = page.header("etag").to_owned();
    let again = rig.send("GET", "/", &[("Host", &rig.host()), ("If-None-Match", &etag)], b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
    for name in remote_network_web::names() {
        let file = rig.send("GET", &format!("/{name}"), &[("Host", &rig.host())], b"");
        assert_eq!(file.status, 200, "{name}");
        file.assert_hardened(name);
    }
}

#[test]
fn the_server_ends_when_told_and_its_port_is_free_again() {
    let mut rig = Rig::start();
    let addr = rig.server.as_ref().unwrap().addr();
    let idle = TcpStream::connect(addr).unwrap();
    rig.server.take().unwrap().stop();
    drop(idle);
    assert!(TcpStream::connect(addr).is_err());
}
