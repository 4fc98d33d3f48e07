//! Walks the table: whatever is wrong with a request gets a 4xx in the one error shape, with every header, and nothing
//! reaches the core.

use super::*;
use crate::api::routes::{Auth, Body, ROUTES, Route};
use crate::ports::docker::DockerHandle;
use crate::ports::native::NativeHandle;

/// A path that the route's parameters accept.
fn path_of(route: &Route) -> String {
    let run = run_id().to_string();
    let peer = key(2).to_string();
    let id = Digest::of(b"id").to_string();
    [("{peer}", &*peer), ("{id}", &id), ("{run}", &run), ("{sink}", "top"), ("{n}", "0"), ("{task}", "count")]
        .iter()
        .fold(route.path.to_owned(), |path, (name, value)| path.replace(name, value))
}

fn good_body(route: &Route) -> (&'static str, &'static [u8]) {
    match route.body {
        Body::None => ("", b""),
        Body::Json(_) => ("application/json", b"{}"),
        Body::Octets(_) => ("application/octet-stream", b"bytes"),
    }
}

struct Case {
    name: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    expected: &'static [u16],
}

/// A correct request of this route, up to what its body says.
fn correct(rig: &Rig, route: &Route) -> Case {
    let (content_type, body) = good_body(route);
    let mut headers = vec![("Host", rig.host()), ("Authorization", rig.bearer())];
    if !content_type.is_empty() {
        headers.push(("Content-Type", content_type.into()));
    }
    Case { name: "correct", headers, body: body.to_vec(), expected: &[] }
}

fn set(mut case: Case, name: &'static str, value: &str) -> Case {
    case.headers.retain(|(n, _)| *n != name);
    case.headers.push((name, value.to_owned()));
    case
}

fn cases(rig: &Rig, route: &Route) -> Vec<Case> {
    let base = || correct(rig, route);
    let named = |case: Case, name, expected| Case { name, expected, ..case };
    let mut cases = Vec::new();
    let port = rig.port();
    for host in ["evil.example", "localhost", "localhost:1", "127.0.0.1.evil.example", "[::]", "0.0.0.0", ""]
    {
        let host = if host.contains(':') || host.is_empty() || host == "localhost" {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        cases.push(named(set(base(), "Host", &host), "bad Host", &[421, 400]));
    }
    let mut no_host = base();
    no_host.headers.retain(|(n, _)| *n != "Host");
    cases.push(named(no_host, "no Host", &[421]));
    let mut two_hosts = base();
    two_hosts.headers.push(("Host", "evil.example".into()));
    cases.push(named(two_hosts, "two Hosts", &[421, 400]));
    let other_port = format!("http://localhost:{}", port ^ 1);
    let secure = format!("https://localhost:{port}");
    let other_name = format!("http://127.0.0.1:{port}");
    for origin in ["http://evil.example", "null", "", &other_port, &secure, &other_name] {
        cases.push(named(set(base(), "Origin", origin), "bad Origin", &[403]));
    }
    for site in ["cross-site", "same-site", "SAME-ORIGIN"] {
        cases.push(named(set(base(), "Sec-Fetch-Site", site), "bad Sec-Fetch-Site", &[403]));
    }
    if route.auth == Auth::Token {
        let mut none = base();
        none.headers.retain(|(n, _)| *n != "Authorization");
        cases.push(named(none, "no token", &[401, 429]));
        let short = rig.bearer()[..70].to_owned();
        let bare = rig.token.clone();
        let basic = format!("Basic {}", rig.token);
        for token in ["Bearer ", "Bearer garbage", &short, &bare, &basic] {
            cases.push(named(set(base(), "Authorization", token), "garbage token", &[401, 429]));
        }
        let mut twice = base();
        twice.headers.push(("Authorization", rig.bearer()));
        cases.push(named(twice, "two tokens", &[401, 429]));
    }
    cases.extend(body_cases(rig, route));
    cases
}

fn body_cases(rig: &Rig, route: &Route) -> Vec<Case> {
    let base = || correct(rig, route);
    let with_body = |body: &[u8], name, expected| Case { name, expected, body: body.to_vec(), ..base() };
    match route.body {
        Body::None => vec![with_body(b"{}", "a body nobody wants", &[400])],
        Body::Json(max) => {
            let mut cases = Vec::new();
            for wrong in [
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data",
                "application/jsonx",
            ] {
                let case = set(base(), "Content-Type", wrong);
                cases.push(Case { name: "wrong content type", expected: &[415], ..case });
            }
            let oversize = set(base(), "Content-Length", &(max + 1).to_string());
            cases.push(Case { name: "oversize", expected: &[413], ..oversize });
            let mut chunked = set(base(), "Transfer-Encoding", "chunked");
            chunked.headers.push(("Content-Length", "5".into()));
            chunked.body = b"0\r\n\r\n".to_vec();
            cases.push(Case { name: "two lengths", expected: &[400], ..chunked });
            cases.push(with_body(br#"{"run": "#, "truncated JSON", &[400]));
            cases.push(with_body("[".repeat(10_000).as_bytes(), "deep JSON", &[400]));
            cases.push(with_body(b"{\"a\":\"\xff\xfe\"}", "no UTF-8", &[400]));
            cases.push(with_body(br#"{"unknown_field": 1}"#, "unknown field", &[400]));
            cases.push(with_body(b"null", "null", &[400]));
            cases
        }
        Body::Octets(max) => {
            let wrong = set(base(), "Content-Type", "application/json");
            let oversize = set(base(), "Content-Length", &(max + 1).to_string());
            vec![
                Case { name: "wrong content type", expected: &[415], ..wrong },
                Case { name: "oversize", expected: &[413], ..oversize },
            ]
        }
    }
}

#[test]
fn every_wrong_request_to_every_route_gets_a_hardened_4xx_and_reaches_nobody() {
    let rig = Rig::start();
    let stored = rig.blobs.len();
    let mut tried = 0;
    for route in ROUTES {
        let path = path_of(route);
        for case in cases(&rig, route) {
            let headers: Vec<(&str, &str)> = case.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let answer = rig.send(route.method.as_str(), &path, &headers, &case.body);
            let of = format!("{} {path}: {} {headers:?}", route.method, case.name);
            // What is no HTTP at all is refused by the parser itself, below our headers.
            if case.name != "two lengths" {
                answer.assert_hardened(&of);
                assert!(!answer.code().is_empty(), "{of}");
            }
            assert!(case.expected.contains(&answer.status), "{of}: {answer:?}");
            tried += 1;
        }
    }
    assert!(tried > 20 * ROUTES.len(), "{tried}");
    assert_eq!(rig.commands(), 0, "{:?}", rig.seen.lock().unwrap());
    assert_eq!(rig.blobs.len(), stored);
}

#[test]
fn methods_outside_the_table_are_405_on_every_path() {
    let rig = Rig::start();
    for route in ROUTES {
        let path = path_of(route);
        let in_table =
            |method: &str| ROUTES.iter().any(|r| r.path == route.path && r.method.as_str() == method);
        for method in ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if in_table(method) {
                continue;
            }
            let headers = [("Host", &*rig.host()), ("Authorization", &*rig.bearer())];
            let answer = rig.send(method, &path, &headers, b"");
            answer.assert_hardened(&format!("{method} {path}"));
            assert_eq!((answer.status, &*answer.code()), (405, "method_not_allowed"), "{method} {path}");
            assert!(answer.header("allow").contains(route.method.as_str()), "{method} {path}: {answer:?}");
        }
    }
    assert_eq!(rig.commands(), 0);
}

#[test]
fn strange_paths_name_nothing() {
    let rig = Rig::start();
    let long = format!("/api/v1/{}", "a".repeat(2_000));
    for path in [
        "/api/v1/",
        "/api/v2/status",
        "/api/v1/status/",
        "/api/v1//status",
        "/api/v1/runs/..%2f..%2fetc%2fpasswd",
        "/api/v1/runs/%00",
        "/api/v1/runs/%c0%af",
        "/api/v1/peers/%ff%fe",
        "/../../etc/passwd",
        "/assets/..%2f..%2fCargo.toml",
        "/index.html%00",
        &long,
    ] {
        let answer = rig.get(path);
        answer.assert_hardened(path);
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        assert!(!answer.code().is_empty());
    }
    assert_eq!(rig.commands(), 0);
}

#[test]
fn the_page_may_be_opened_by_a_link_but_nothing_else_from_elsewhere() {
    let rig = Rig::start();
    let (host, bearer) = (rig.host(), rig.bearer());
    let open = |path: &str, mode: &str| {
        let headers = [
            ("Host", &*host),
            ("Authorization", &*bearer),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Mode", mode),
            ("Sec-Fetch-Dest", "document"),
        ];
        rig.send("GET", path, &headers, b"").status
    };
    assert_eq!(open("/", "navigate"), 200);
    assert_eq!(open("/", "no-cors"), 403);
    assert_eq!(open("/api/v1/status", "navigate"), 403);
    assert_eq!(rig.commands(), 0);
}

#[test]
fn a_flood_of_wrong_tokens_is_limited_and_does_not_shut_out_the_owner() {
    let rig = Rig::start();
    let statuses: Vec<u16> = (0..30)
        .map(|_| {
            rig.send("GET", "/api/v1/status", &[("Host", &rig.host()), ("Authorization", "Bearer x")], b"")
                .status
        })
        .collect();
    assert_eq!(statuses[0], 401);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(rig.get("/api/v1/status").status, 200);
}

#[test]
fn a_head_that_never_ends_or_is_too_big_is_cut_off() {
    let rig = Rig::start();
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let answer = rig.raw(format!("GET / HTTP/1.1\r\nHost: {}\r\n{many}\r\n", rig.host()).as_bytes());
    assert_eq!(answer.status, 431);
    let mut slow = TcpStream::connect(("127.0.0.1", rig.port())).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut rest = Vec::new();
    let gave_up = slow.read_to_end(&mut rest).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!gave_up, "the server waits for ever");
}

#[test]
fn only_loopback_can_be_listened_on() {
    let rig = Rig::start();
    let dir = tempfile::tempdir().unwrap();
    let config = ApiConfig { listen: "0.0.0.0:0".parse().unwrap(), data_dir: dir.path().to_path_buf() };
    let started = ApiServer::start(
        &config,
        rig.handle.clone(),
        rig.blobs.clone(),
        no_dht(),
        DockerHandle::off(),
        NativeHandle::off(),
        rig.books.book(),
    );
    assert!(matches!(started, Err(ApiStartError::NotLoopback(_))));
    assert!(!dir.path().join(TOKEN_FILE).exists());
}
