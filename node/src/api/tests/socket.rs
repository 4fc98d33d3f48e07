//! The event socket from a client's side.

use super::*;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, HandshakeError, Message, WebSocket};

type Socket = WebSocket<TcpStream>;

/// Opens the socket; the HTTP status where that is refused.
fn open(rig: &Rig, origin: Option<&str>) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/api/v1/events", rig.host()).into_client_request().unwrap();
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", origin.parse().unwrap());
    }
    let stream = TcpStream::connect(("127.0.0.1", rig.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response.status().as_u16()),
        Err(e) => panic!("{e}"),
    }
}

fn say(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).unwrap();
}

/// The next message of the server.
fn hear(socket: &mut Socket) -> Value {
    loop {
        match socket.read().expect("a message") {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The code with which the server closes.
fn closed(socket: &mut Socket) -> u16 {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return frame.code.into(),
            Ok(Message::Ping(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn ticket(rig: &Rig) -> String {
    let answer = rig.post("/api/v1/events/ticket", "{}");
    assert_eq!(answer.status, 201);
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

/// A socket that has said its ticket, with the epoch it was told.
fn listen(rig: &Rig, mut hello: Value) -> (Socket, String) {
    let mut socket = open(rig, Some(&format!("http://{}", rig.host()))).expect("opens");
    hello["ticket"] = json!(ticket(rig));
    say(&mut socket, &hello);
    let greeting = hear(&mut socket);
    assert_eq!(greeting["type"], "hello");
    (socket, greeting["epoch"].as_str().unwrap().to_owned())
}

fn publish(rig: &Rig, seq: u64) {
    rig.handle.deliver(Action::Notify(Notice::Published { seq, stored: 20 }));
}

#[test]
fn notices_arrive_numbered_in_the_words_of_the_api() {
    let rig = Rig::start();
    let (mut socket, _) = listen(&rig, json!({}));
    publish(&rig, 7);
    rig.handle.deliver(Action::Notify(Notice::Peer(Box::new(peer_view()))));
    rig.handle.deliver(Action::Notify(Notice::Run(Box::new(run_view()))));
    rig.handle.deliver(Action::Notify(Notice::Task { run: run_id(), task: Box::new(task_view()) }));
    let heard = hear(&mut socket);
    assert_eq!(
        heard,
        json!({"type": "notice", "seq": 1, "event": "record.published", "record_seq": 7, "stored": 20})
    );
    let peer = hear(&mut socket);
    assert_eq!((&peer["seq"], &peer["event"]), (&json!(2), &json!("peer.changed")));
    assert_eq!(peer["peer"]["key"], key(2).to_string());
    assert_eq!(hear(&mut socket)["event"], "workflow.completed");
    let task = hear(&mut socket);
    assert_eq!((&task["event"], &task["run"]), (&json!("job.status.changed"), &json!(run_id().to_string())));
}

#[test]
fn a_client_resumes_where_it_was_and_hears_of_gaps_and_restarts() {
    let rig = Rig::start();
    for n in 1..=3 {
        publish(&rig, n);
    }
    let (mut first, epoch) = listen(&rig, json!({"resume": {"epoch": "0000000000001234", "after": 1}}));
    assert_eq!(epoch, "0000000000001234");
    assert_eq!([hear(&mut first)["seq"].clone(), hear(&mut first)["seq"].clone()], [2, 3]);
    let (mut stranger, _) = listen(&rig, json!({"resume": {"epoch": "another", "after": 900}}));
    assert_eq!(hear(&mut stranger), json!({"type": "gap", "from": 1, "to": 3}));
    for n in 4..=(core_handle::NOTICES_KEPT_MAX as u64 + 5) {
        publish(&rig, n);
    }
    let (mut late, _) = listen(&rig, json!({"resume": {"epoch": epoch, "after": 2}}));
    assert_eq!(hear(&mut late), json!({"type": "gap", "from": 3, "to": 5}));
    assert_eq!(hear(&mut late)["seq"], 6);
}

#[test]
fn topics_choose_what_is_told() {
    let rig = Rig::start();
    let (mut socket, epoch) =
        listen(&rig, json!({"topics": ["peers"], "resume": {"epoch": "0000000000001234", "after": 0}}));
    assert_eq!(epoch.len(), 16);
    publish(&rig, 1);
    rig.handle.deliver(Action::Notify(Notice::Peer(Box::new(peer_view()))));
    assert_eq!(hear(&mut socket)["seq"], 2);
}

#[test]
fn foreign_pages_cannot_open_it() {
    let rig = Rig::start();
    let port = rig.port();
    let same_name_other_port = format!("http://localhost:{}", port ^ 1);
    for origin in ["http://evil.example", "null", "https://localhost", &same_name_other_port, "file://"] {
        assert_eq!(open(&rig, Some(origin)).err(), Some(403), "{origin}");
    }
    assert!(open(&rig, None).is_ok(), "programs send no Origin");
}

#[test]
fn without_a_fresh_ticket_nothing_is_told() {
    let rig = Rig::start();
    for hello in [json!({"ticket": ""}), json!({"ticket": rig.token}), json!({"ticket": "0".repeat(64)})] {
        let mut socket = open(&rig, None).expect("opens");
        say(&mut socket, &hello);
        assert_eq!(closed(&mut socket), 4401, "{hello}");
    }
    let once = ticket(&rig);
    let mut socket = open(&rig, None).expect("opens");
    say(&mut socket, &json!({"ticket": once}));
    assert_eq!(hear(&mut socket)["type"], "hello");
    let mut again = open(&rig, None).expect("opens");
    say(&mut again, &json!({"ticket": once}));
    assert_eq!(closed(&mut again), 4401);
}

#[test]
fn what_is_no_greeting_ends_the_socket() {
    let rig = Rig::start();
    for text in ["", "hello", "[1]", r#"{"ticket": 1}"#, r#"{"ticket": "x", "more": 1}"#, &"[".repeat(10_000)]
    {
        let mut socket = open(&rig, None).expect("opens");
        socket.send(Message::text(text)).unwrap();
        assert_eq!(closed(&mut socket), 4400, "{text:.20}");
    }
    let (mut chatty, _) = listen(&rig, json!({}));
    say(&mut chatty, &json!({"ticket": "again"}));
    assert_eq!(closed(&mut chatty), 4400);
    let mut big = open(&rig, None).expect("opens");
    // The write may fail already, since the server closes at the frame's head.
    let _ = big.send(Message::text("x".repeat(300 << 10)));
    assert!(!matches!(big.read(), Ok(Message::Text(_))));
}

#[test]
fn sockets_are_bounded_and_a_closed_one_makes_room() {
    let rig = Rig::start();
    let mut held = Vec::new();
    let refused = loop {
        match open(&rig, None) {
            Ok(socket) => held.push(socket),
            Err(status) => break status,
        }
        assert!(held.len() <= 16);
    };
    assert_eq!((held.len(), refused), (16, 503));
    drop(held.pop());
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while open(&rig, None).is_err() {
        assert!(std::time::Instant::now() < deadline, "a closed socket must make room");
        std::thread::yield_now();
    }
}

#[test]
fn the_end_of_the_server_is_said() {
    let mut rig = Rig::start();
    let (mut socket, _) = listen(&rig, json!({}));
    rig.server.take().unwrap().stop();
    assert_eq!(closed(&mut socket), 1001);
}

#[test]
fn the_end_of_the_node_is_said() {
    let rig = Rig::start();
    let (mut socket, _) = listen(&rig, json!({}));
    rig.handle.deliver(Action::Stopped { fault: None });
    assert_eq!(closed(&mut socket), 1001);
}
