use super::*;
use futures_util::{SinkExt as _, StreamExt as _};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream as StdStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// Only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    port: TunnelPort,
    events: Receiver<Event>,
}

impl Node {
    fn start(server: bool, times: Times) -> Self {
        let (tell, events) = async_channel::bounded(1_024);
        let listen = server.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Self { port: TunnelPort::start_with(listen, tell, times).unwrap(), events }
    }

    fn server() -> Self {
        Self::start(true, TIMES)
    }

    fn client() -> Self {
        Self::start(false, TIMES)
    }

    fn addr(&self) -> SocketAddr {
        self.port.local_addr().unwrap()
    }

    fn ask(&self, request: TunnelRequest) {
        self.port.submit(request).unwrap();
    }

    fn open(&self, tunnel: u64, to: SocketAddr) {
        self.ask(TunnelRequest::Open { tunnel: TunnelId(tunnel), to });
    }

    fn send(&self, tunnel: TunnelId, packets: &[Bytes]) {
        self.ask(TunnelRequest::Send { tunnel, packets: packets.to_vec() });
    }

    fn next(&self) -> TunnelEvent {
        let event = smol::block_on(smol::future::or(async { self.events.recv().await.ok() }, async {
            smol::Timer::after(PATIENCE).await;
            None
        }));
        let Some(Event::Tunnel(event)) = event else { panic!("the port hangs: {event:?}") };
        event
    }

    fn accepted(&self) -> TunnelId {
        let event = self.next();
        let TunnelEvent::Accepted { tunnel, from } = event else { panic!("{event:?}") };
        assert!(tunnel.0 % 2 == 1 && from.ip().is_loopback());
        tunnel
    }

    fn closed(&self) -> (TunnelId, String) {
        let event = self.next();
        let TunnelEvent::Closed { tunnel, why } = event else { panic!("{event:?}") };
        (tunnel, why)
    }

    /// Packets received and bytes sent until there are so many packets.
    fn exchange(&self, wanted: usize) -> (Vec<Bytes>, u64) {
        let (mut got, mut credit) = (Vec::new(), 0);
        while got.len() < wanted {
            match self.next() {
                TunnelEvent::Received { packets, .. } => got.extend(packets),
                TunnelEvent::Sent { bytes, .. } => credit += bytes,
                other => panic!("{other:?}"),
            }
        }
        (got, credit)
    }

    fn is_silent(&self) -> bool {
        self.events.is_empty()
    }
}

/// A tunnel between two nodes.
fn pair() -> (Node, TunnelId, Node, TunnelId) {
    let (server, client) = (Node::server(), Node::client());
    client.open(2, server.addr());
    let theirs = server.accepted();
    assert_eq!(client.next(), TunnelEvent::Opened(TunnelId(2)));
    (client, TunnelId(2), server, theirs)
}

/// A client of the test's own, to do what no client of ours does.
async fn stranger(to: SocketAddr, path: &str, protocol: &str) -> Result<Socket, String> {
    let stream = TcpStream::connect(to).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(tls::SERVER_NAME).unwrap();
    let stream = tls::connector().unwrap().connect(name, stream).await.map_err(|e| e.to_string())?;
    let mut request = format!("wss://{to}{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let connected = tokio_tungstenite::client_async(request, tokio_rustls::TlsStream::from(stream)).await;
    connected.map(|(socket, _)| socket).map_err(|e| e.to_string())
}

fn on_a_runtime<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run)
}

#[test]
fn packets_of_all_sizes_come_back_whole_and_in_order_and_the_credit_with_them() {
    let (client, ours, server, theirs) = pair();
    let sizes = [1, 1_200, 1_452, PACKET_BYTES_MAX, 2].into_iter().chain([1_200; 100]);
    let packets: Vec<Bytes> = sizes.enumerate().map(|(i, n)| Bytes::from(vec![i as u8; n])).collect();
    assert!(bytes_of(&packets) <= QUEUE_BYTES_MAX);
    let mut credit = 0;
    for some in packets.chunks(10) {
        client.send(ours, some);
    }
    let (there, _) = server.exchange(packets.len());
    assert_eq!(there, packets);
    server.send(theirs, &there);
    let (back, mut sent) = client.exchange(packets.len());
    assert_eq!(back, packets);
    while sent < bytes_of(&packets) as u64 {
        let TunnelEvent::Sent { tunnel, bytes } = client.next() else { panic!("only credit is owed") };
        assert_eq!(tunnel, ours);
        sent += bytes;
    }
    credit += sent;
    assert_eq!(credit, bytes_of(&packets) as u64);
}

#[test]
fn more_than_the_credit_in_turns_goes_through_both_ways_at_once() {
    let (client, ours, server, theirs) = pair();
    let packet = Bytes::from(vec![7; 1_200]);
    let batch = vec![packet; 50];
    let rounds = 40;
    let run = |node: Node, tunnel: TunnelId, batch: Vec<Bytes>| {
        std::thread::spawn(move || {
            let (mut free, mut left, mut got) = (QUEUE_BYTES_MAX as u64, rounds, 0);
            let cost = bytes_of(&batch) as u64;
            while left > 0 || free < QUEUE_BYTES_MAX as u64 || got < rounds * batch.len() {
                while left > 0 && free >= cost {
                    node.send(tunnel, &batch);
                    (free, left) = (free - cost, left - 1);
                }
                match node.next() {
                    TunnelEvent::Received { packets, .. } => got += packets.len(),
                    TunnelEvent::Sent { bytes, .. } => free += bytes,
                    other => panic!("{other:?}"),
                }
            }
            (got, node)
        })
    };
    let there = run(server, theirs, batch.clone());
    let here = run(client, ours, batch.clone());
    let ((a, _client), (b, _server)) = (here.join().unwrap(), there.join().unwrap());
    assert_eq!((a, b), (rounds * batch.len(), rounds * batch.len()));
}

#[test]
fn closing_sends_what_is_queued_and_is_told_once_on_both_sides() {
    let (client, ours, server, theirs) = pair();
    client.send(ours, &[Bytes::from_static(b"last words")]);
    client.ask(TunnelRequest::Close(ours));
    client.ask(TunnelRequest::Close(ours));
    client.send(ours, &[Bytes::from_static(b"too late")]);
    let (words, _) = server.exchange(1);
    assert_eq!(words, [Bytes::from_static(b"last words")]);
    assert_eq!(server.closed().0, theirs);
    assert!(matches!(client.next(), TunnelEvent::Sent { bytes: 10, .. }));
    assert_eq!(client.closed().0, ours);
    // Its number is free again, and nothing else was said between.
    client.open(2, server.addr());
    assert_eq!(server.accepted(), TunnelId(3));
    assert_eq!(client.next(), TunnelEvent::Opened(TunnelId(2)));
    assert!(client.is_silent() && server.is_silent());
}

#[test]
fn the_end_of_a_side_is_told_once_to_the_other() {
    let (client, ours, server, _) = pair();
    drop(server);
    assert_eq!(client.closed().0, ours);
    let (client, _, server, theirs) = pair();
    drop(client);
    assert_eq!(server.closed().0, theirs);
    assert!(server.is_silent());
}

#[test]
fn a_broken_connection_is_told_once() {
    let server = Node::server();
    let theirs = on_a_runtime(async {
        let mut socket = stranger(server.addr(), PATH, SUB_PROTOCOL).await.unwrap();
        let theirs = server.accepted();
        socket.send(Message::Binary(Bytes::from_static(b"packet"))).await.unwrap();
        assert_eq!(server.exchange(1).0, [Bytes::from_static(b"packet")]);
        // Neither WebSocket nor TLS say goodbye.
        drop(socket);
        theirs
    });
    assert_eq!(server.closed().0, theirs);
    server.ask(TunnelRequest::Close(theirs));
    server.open(4, server.addr());
    assert!(matches!(server.next(), TunnelEvent::Accepted { .. } | TunnelEvent::Opened(_)), "no second end");
}

#[test]
fn nobody_there_is_a_tunnel_that_never_came() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Node::client();
    client.open(2, nobody);
    assert_eq!(client.closed().0, TunnelId(2));
    assert!(client.is_silent());
}

#[test]
fn a_handshake_is_given_up_in_time_by_both_sides_and_at_once_when_closed() {
    let short = Times { handshake: Duration::from_millis(200), ..TIMES };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Node::start(false, short);
    client.open(2, silent.local_addr().unwrap());
    assert_eq!(client.closed(), (TunnelId(2), "the handshake took too long".into()));
    let patient = Node::client();
    patient.open(2, silent.local_addr().unwrap());
    patient.ask(TunnelRequest::Close(TunnelId(2)));
    assert_eq!(patient.closed(), (TunnelId(2), "closed here".into()));

    let server = Node::start(true, short);
    let mut half_open = StdStream::connect(server.addr()).unwrap();
    half_open.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(half_open.read(&mut [0; 8]).unwrap(), 0, "closed by the server");
    assert!(server.is_silent(), "the core hears nothing of those who never arrived");
}

#[test]
fn garbage_and_other_requests_get_no_tunnel() {
    let server = Node::server();
    for garbage in [&b"GET /relay HTTP/1.1\r\n\r\n"[..], &[0xff; 5_000], &[0x16, 3, 1, 0xff, 0xff]] {
        let mut stream = StdStream::connect(server.addr()).unwrap();
        stream.write_all(garbage).unwrap();
        // Refused when the server has hung up already.
        let _hung_up = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // An alert and the end, or a reset.
        let _end = stream.read_to_end(&mut Vec::new());
    }
    on_a_runtime(async {
        let elsewhere = stranger(server.addr(), "/", SUB_PROTOCOL).await.unwrap_err();
        assert!(elsewhere.contains("404"), "{elsewhere}");
        let otherwise = stranger(server.addr(), PATH, "chat").await.unwrap_err();
        assert!(otherwise.contains("400"), "{otherwise}");
        assert!(server.is_silent());
        stranger(server.addr(), PATH, &format!("chat, {SUB_PROTOCOL}")).await.unwrap();
    });
    server.accepted();
}

#[test]
fn what_is_no_packet_ends_the_tunnel() {
    let server = Node::server();
    on_a_runtime(async {
        let too_large = Message::Binary(vec![0; PACKET_BYTES_MAX + 1].into());
        for message in [too_large, Message::Text("hello".into()), Message::Close(None)] {
            let mut socket = stranger(server.addr(), PATH, SUB_PROTOCOL).await.unwrap();
            let tunnel = server.accepted();
            socket.send(Message::Ping(Bytes::new())).await.unwrap();
            socket.send(Message::Binary(Bytes::new())).await.unwrap();
            socket.send(message).await.unwrap();
            assert_eq!(server.closed().0, tunnel);
            // The server hangs up.
            while let Some(Ok(_)) = socket.next().await {}
        }
    });
    assert!(server.is_silent());
}

#[test]
fn a_silent_tunnel_is_closed() {
    let server = Node::start(true, Times { idle: Duration::from_millis(200), ..TIMES });
    let client = Node::client();
    client.open(2, server.addr());
    let theirs = server.accepted();
    assert_eq!(server.closed(), (theirs, "nothing came for too long".into()));
    assert_eq!(client.next(), TunnelEvent::Opened(TunnelId(2)));
    assert_eq!(client.closed().0, TunnelId(2));
}

#[test]
fn one_that_takes_nothing_is_closed_and_its_queue_is_bounded() {
    let server = Node::start(true, Times { slow: Duration::from_millis(300), ..TIMES });
    on_a_runtime(async {
        let _deaf = stranger(server.addr(), PATH, SUB_PROTOCOL).await.unwrap();
        let tunnel = server.accepted();
        let packets = vec![Bytes::from(vec![0; PACKET_BYTES_MAX]); 2];
        // The system's buffers take some megabytes.
        let mut free = QUEUE_BYTES_MAX as u64;
        let why = loop {
            while free >= bytes_of(&packets) as u64 {
                server.send(tunnel, &packets);
                free -= bytes_of(&packets) as u64;
            }
            match server.next() {
                TunnelEvent::Sent { bytes, .. } => free += bytes,
                TunnelEvent::Closed { why, .. } => break why,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(why, "the other side is too slow");

        let _deaf = stranger(server.addr(), PATH, SUB_PROTOCOL).await.unwrap();
        let greedy = server.accepted();
        server.send(greedy, &vec![Bytes::from(vec![0; PACKET_BYTES_MAX]); 5]);
        loop {
            match server.next() {
                TunnelEvent::Sent { .. } => {}
                TunnelEvent::Closed { tunnel, .. } => break assert_eq!(tunnel, greedy),
                other => panic!("{other:?}"),
            }
        }
    });
    assert!(server.is_silent());
}

#[test]
fn so_many_from_one_address_and_no_more_and_a_place_that_is_left_is_free() {
    let server = Node::server();
    let held: Vec<StdStream> =
        (0..ACCEPTED_PER_IP_MAX).map(|_| StdStream::connect(server.addr()).unwrap()).collect();
    let client = Node::client();
    client.open(2, server.addr());
    assert_eq!(client.closed().0, TunnelId(2), "all places are taken, by handshakes that do not go on");
    drop(held);
    // The server sees them go one after the other.
    let mut tries = (2..).map(|n| 2 * n);
    let opened = loop {
        let tunnel = tries.next().unwrap();
        client.open(tunnel, server.addr());
        if client.next() == TunnelEvent::Opened(TunnelId(tunnel)) {
            break tunnel;
        }
    };
    assert!(opened > 2);
    server.accepted();
}

#[test]
fn so_many_are_opened_and_no_more() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Node::client();
    for i in 0..=OPENED_MAX as u64 {
        client.open(2 * i, silent.local_addr().unwrap());
    }
    assert_eq!(client.closed(), (TunnelId(2 * OPENED_MAX as u64), format!("{OPENED_MAX} tunnels are open")));
    assert!(client.is_silent());
}

#[test]
fn a_taken_port_is_an_error_with_its_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let (tell, _events) = async_channel::bounded(1);
    let error = TunnelPort::start(Some(addr), tell).unwrap_err();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

#[test]
fn an_end_does_not_wait_for_a_driver_that_listens_no_more() {
    let (tell, events) = async_channel::bounded(1);
    let port = TunnelPort::start(None, tell).unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for i in 0..8 {
        port.submit(TunnelRequest::Open { tunnel: TunnelId(2 * i), to: nobody }).unwrap();
    }
    drop(port);
    assert!(events.len() <= 1);
}

#[test]
fn addresses_count_as_their_customer_does() {
    let same = |a: &str, b: &str| counted(a.parse().unwrap()) == counted(b.parse().unwrap());
    assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
    assert!(same("::ffff:192.0.2.1", "192.0.2.1") && !same("192.0.2.1", "192.0.2.2"));
}
