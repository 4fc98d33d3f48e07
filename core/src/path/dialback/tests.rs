//! Both sides, and what is between them.

use super::*;
use crate::id::{ConnId, Keypair, PublicKey};
use crate::laws::{self, Rig};
use crate::machine::Machine;
use crate::place::{SocketEvent, SocketRequest};
use crate::time::Instant;
use proptest::prelude::*;
use std::net::SocketAddr;

const RTT: Duration = Duration::from_millis(40);
const CONN: ConnId = ConnId(7);
const NONCE: Nonce = Nonce([1, 2, 3, 4, 5, 6, 7, 8]);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn server_at(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 4_433))
}

fn us(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 7], port))
}

mod wire {
    use super::*;

    #[test]
    fn frame_and_datagram_come_out_of_the_wire_as_they_went_in() {
        for (port, wait, elsewhere) in [(1, 0, false), (65_535, 120, true), (4_433, 30, true)] {
            let ask = DialBack { nonce: NONCE, port, wait: secs(wait), elsewhere };
            assert_eq!(DialBack::from_frame(&ask.to_frame()), Ok(ask));
        }
        assert_eq!(parse(&datagram(NONCE)), Some(NONCE));
        assert_eq!(datagram(NONCE)[0] & 0xc0, 0, "no QUIC packet");
        assert!(!crate::path::stun::is_stun(&datagram(NONCE)));
    }

    #[test]
    fn what_cannot_be_met_is_not_read_and_newer_keys_are_ignored() {
        let read = |d: Dict| DialBack::from_frame(&Frame::new(KIND, &d));
        let with =
            |nonce: &[u8], port: u64, wait: u64| Dict::new().with("n", nonce).with("p", port).with("w", wait);
        assert!(read(with(&[0; 8], 1, 120).with("zz", "newer")).is_ok());
        for bad in [
            with(&[0; 7], 1, 0),
            with(&[0; 9], 1, 0),
            with(&[0; 8], 0, 0),
            with(&[0; 8], 65_536, 0),
            with(&[0; 8], 1, 121),
            with(&[0; 8], 1, u64::from(u32::MAX)),
            with(&[0; 8], 1, 0).with("o", 2u64),
            Dict::new().with("n", &[0; 8][..]).with("p", 1u64),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad:?}");
        }
        let other = Frame::new(KIND - 1, &with(&[0; 8], 1, 0));
        assert!(DialBack::from_frame(&other).is_err());
        for at in 0..DATAGRAM_BYTES - 8 {
            let mut bytes = datagram(NONCE);
            bytes[at] ^= 1;
            assert_eq!(parse(&bytes), None, "byte {at}");
        }
        assert_eq!(parse(&[&datagram(NONCE)[..], &[0]].concat()), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (parse(&bytes), DialBack::from_frame(&Frame { kind: KIND, body: bytes }));
        }
    }
}

mod asking {
    use super::super::client::{
        Client, GRACE, IDLE_FIRST, Input, Output, PREPARED_WITHIN, SERVERS_MAX, SETTLE,
    };
    use super::*;

    /// A NAT and a server as the client meets them.
    struct World {
        rig: Rig<Client>,
        /// Whether the filter lets in other ports of a known IP.
        open: bool,
        /// How long a mapping lives.
        life: Duration,
        /// Connections whose server does what it is asked for.
        serving: Vec<ConnId>,
        /// Datagrams to the client that get lost, from the next one on.
        lost: usize,
        coming: Vec<(Instant, Input)>,
        learnt: Vec<Output>,
        open_sockets: Vec<SocketId>,
        asked: Vec<(ConnId, DialBack)>,
    }

    impl World {
        fn new(open: bool, life: u64) -> Self {
            let mut world = Self {
                rig: Rig::new(Client::default(), [3; 32]),
                open,
                life: secs(life),
                serving: vec![CONN],
                lost: 0,
                coming: Vec::new(),
                learnt: Vec::new(),
                open_sockets: Vec::new(),
                asked: Vec::new(),
            };
            world.tell(Input::Server { conn: CONN, addr: server_at(7), rtt: RTT });
            world.tell(Input::Behind(true));
            world
        }

        fn tell(&mut self, input: Input) {
            let out = self.rig.tell(input);
            self.follow(out);
        }

        /// The mapping of a socket is its number above this port.
        fn mapped(socket: SocketId) -> SocketAddr {
            us(40_000 + socket.0)
        }

        fn follow(&mut self, out: Vec<Output>) {
            for o in out {
                match o {
                    Output::Socket(SocketRequest::Open(socket)) => {
                        self.open_sockets.push(socket);
                        assert_eq!(self.open_sockets.len(), 1, "one at a time");
                        let opened = Input::Socket(SocketEvent::Opened(socket, us(1)));
                        self.coming.push((self.rig.now, opened));
                    }
                    Output::Socket(SocketRequest::Close(socket)) => {
                        self.open_sockets.retain(|s| *s != socket);
                    }
                    Output::Stun { socket, to } => {
                        let mapped = Input::Mapped { by: to, socket, mapped: Self::mapped(socket) };
                        self.coming.push((self.rig.now + RTT, mapped));
                    }
                    Output::Ask { conn, request } => self.serve(conn, request),
                    learnt @ (Output::Filter { .. } | Output::Idled { .. } | Output::Refused(_)) => {
                        self.learnt.push(learnt);
                    }
                }
            }
        }

        fn serve(&mut self, conn: ConnId, request: DialBack) {
            self.asked.push((conn, request));
            if !self.serving.contains(&conn) {
                return;
            }
            let socket = SocketId(request.port - 40_000);
            let alive = socket == SocketId::MAIN || request.wait < self.life;
            let lets_in = self.open || !request.elsewhere;
            if self.lost > 0 {
                self.lost -= 1;
            } else if alive && lets_in {
                let mut from = server_at(conn.0 as u8);
                if request.elsewhere {
                    from.set_port(50_000);
                }
                let arrived = Input::Arrived { socket, from, nonce: request.nonce };
                self.coming.push((self.rig.now + request.wait + RTT, arrived));
            }
        }

        fn run(&mut self, span: Duration) {
            let end = self.rig.now + span;
            loop {
                let wake = self.rig.machine.poll_timeout().map(|d| d.at);
                let next = self.coming.iter().map(|(at, _)| *at).chain(wake).min();
                let Some(next) = next.filter(|at| *at <= end) else { break };
                let out = self.rig.wait(next.since(self.rig.now));
                self.follow(out);
                if let Some(at) = self.coming.iter().position(|(at, _)| *at <= next) {
                    let (_, input) = self.coming.remove(at);
                    let still = match &input {
                        Input::Arrived { socket, .. } => {
                            *socket == SocketId::MAIN || self.open_sockets.contains(socket)
                        }
                        _ => true,
                    };
                    if still {
                        self.tell(input);
                    }
                }
            }
            self.rig.wait(end.since(self.rig.now));
        }
    }

    fn idled(idle: u64, alive: bool) -> Output {
        Output::Idled { idle: secs(idle), alive }
    }

    #[test]
    fn a_nat_is_known_after_four_minutes_and_nothing_is_asked_again() {
        let mut world = World::new(true, 300);
        world.run(secs(240));
        let all = [idled(30, true), idled(60, true), idled(120, true)];
        assert_eq!(world.learnt, [vec![Output::Filter { arrived: true }], all.to_vec()].concat());
        assert!(world.rig.machine.is_done() && world.open_sockets.is_empty());
        assert_eq!(world.rig.machine.poll_timeout(), None);
        assert_eq!(world.asked.len(), 8, "a question and its control each");
    }

    #[test]
    fn silence_is_believed_the_second_time_and_ends_the_measurement() {
        let mut world = World::new(false, 45);
        world.run(secs(300));
        let learnt = [Output::Filter { arrived: false }, idled(30, true), idled(60, false)];
        assert_eq!(world.learnt, learnt);
        let waits: Vec<u64> = world.asked.iter().map(|(_, r)| r.wait.as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 30, 30, 60, 60, 60, 60]);
        assert!(world.open_sockets.is_empty());
        assert_eq!(world.rig.machine.poll_timeout(), None);
    }

    #[test]
    fn every_question_about_a_lifetime_has_a_socket_of_its_own() {
        let mut world = World::new(true, 45);
        world.run(secs(300));
        let ports: Vec<u16> = world.asked.iter().map(|(_, r)| r.port).collect();
        assert_eq!(ports, [40_000, 40_000, 40_004, 40_000, 40_005, 40_000, 40_006, 40_000]);
    }

    #[test]
    fn a_datagram_that_got_lost_makes_no_difference() {
        let mut world = World::new(true, 300);
        world.lost = 1;
        world.run(secs(300));
        assert_eq!(world.learnt.first(), Some(&Output::Filter { arrived: true }));
        assert_eq!(world.asked.len(), 10);
    }

    #[test]
    fn a_server_from_which_nothing_comes_proves_nothing_and_the_next_one_is_asked() {
        let mut world = World::new(false, 45);
        world.serving = vec![ConnId(8)];
        world.run(secs(60));
        assert_eq!(world.learnt, []);
        assert_eq!(world.asked.len(), 4);
        assert_eq!(world.rig.machine.poll_timeout(), None, "there is nobody else");
        world.tell(Input::Server { conn: ConnId(8), addr: server_at(8), rtt: RTT });
        world.run(secs(300));
        assert_eq!(world.learnt, [Output::Filter { arrived: false }, idled(30, true), idled(60, false)]);
        assert!(world.asked.iter().skip(4).all(|(conn, _)| *conn == ConnId(8)));
    }

    #[test]
    fn nothing_is_asked_where_there_is_no_nat_or_nobody_to_ask() {
        let mut world = World::new(true, 45);
        world.tell(Input::Behind(false));
        world.run(secs(60));
        assert_eq!((world.asked.len(), world.rig.machine.poll_timeout()), (0, None));
        world.tell(Input::Gone(CONN));
        world.tell(Input::Behind(true));
        world.run(secs(60));
        assert_eq!((world.asked.len(), world.rig.machine.poll_timeout()), (0, None));
    }

    #[test]
    fn a_connection_that_ends_leaves_the_question_to_the_next_server() {
        let mut world = World::new(true, 45);
        world.run(secs(20));
        assert_eq!((world.learnt.len(), world.open_sockets.len()), (1, 1));
        world.tell(Input::Gone(CONN));
        assert!(world.open_sockets.is_empty());
        world.serving.push(ConnId(8));
        world.tell(Input::Server { conn: ConnId(8), addr: server_at(8), rtt: RTT });
        world.run(secs(300));
        assert_eq!(world.learnt[1..], [idled(30, true), idled(60, false)]);
    }

    #[test]
    fn another_network_begins_anew() {
        let mut world = World::new(true, 45);
        world.run(secs(20));
        assert_eq!(world.open_sockets.len(), 1);
        world.tell(Input::NetworkChanged);
        assert!(world.open_sockets.is_empty());
        world.coming.clear();
        world.run(secs(300));
        let anew = [Output::Filter { arrived: true }, idled(30, true), idled(60, false)];
        assert_eq!(world.learnt[1..], anew);
    }

    #[test]
    fn what_comes_early_from_elsewhere_or_unasked_counts_for_nothing() {
        let mut world = World::new(true, 45);
        world.serving.clear();
        let arrived = |socket, from, nonce| Input::Arrived { socket, from, nonce };
        world.tell(arrived(SocketId::MAIN, server_at(7), NONCE));
        world.run(SETTLE + RTT);
        let (test, control) = (world.asked[0].1, world.asked[1].1);
        assert!(test.elsewhere && !control.elsewhere);
        // A filter is not shown by a datagram from where we wrote to, nor by one from somebody else.
        world.tell(arrived(SocketId::MAIN, server_at(7), test.nonce));
        world.tell(arrived(SocketId::MAIN, SocketAddr::from(([198, 51, 100, 8], 9)), test.nonce));
        world.tell(arrived(SocketId(9), SocketAddr::from(([198, 51, 100, 7], 9)), test.nonce));
        assert_eq!(world.learnt, vec![Output::Refused("dialback-unasked"); 4]);
        world.tell(arrived(SocketId::MAIN, SocketAddr::from(([198, 51, 100, 7], 9)), test.nonce));
        assert_eq!(world.learnt.pop(), Some(Output::Filter { arrived: true }));
        // Its control may come behind it.
        world.tell(arrived(SocketId::MAIN, server_at(7), control.nonce));
        assert_eq!(world.learnt.len(), 4);
        world.run(SETTLE + RTT * 2);
        let test = world.asked[2].1;
        let early = arrived(SocketId(4), server_at(7), test.nonce);
        // At once it is no use of the mapping that would matter.
        world.tell(early.clone());
        assert_eq!(world.learnt.pop(), Some(Output::Refused("dialback-early")));
        assert_eq!(world.open_sockets.len(), 1);
        world.run(IDLE_FIRST - secs(1));
        world.tell(early);
        assert_eq!(world.learnt.pop(), Some(Output::Refused("dialback-disturbed")));
        assert_eq!(world.learnt.pop(), Some(Output::Refused("dialback-early")));
        assert!(world.open_sockets.is_empty(), "the attempt is over");
    }

    #[test]
    fn a_server_that_keeps_a_mapping_alive_is_not_believed_and_not_asked_again() {
        let mut world = World::new(true, 45);
        world.run(secs(15));
        assert_eq!(world.learnt, [Output::Filter { arrived: true }]);
        world.learnt.clear();
        for _ in 0..20 {
            world.run(secs(10));
            let kept = world.open_sockets.to_vec();
            kept.into_iter().for_each(|socket| world.tell(Input::Disturbed(socket)));
        }
        let refused = Output::Refused("dialback-disturbed");
        assert_eq!(world.learnt, [refused.clone(), refused], "twice, and nothing was learnt");
        assert_eq!(world.rig.machine.poll_timeout(), None);
        // Another one is.
        world.serving.push(ConnId(8));
        world.tell(Input::Server { conn: ConnId(8), addr: server_at(8), rtt: RTT });
        world.run(secs(300));
        assert_eq!(world.learnt[2..], [idled(30, true), idled(60, false)]);
    }

    #[test]
    fn the_deadlines_are_those_that_are_written() {
        let mut rig = Rig::new(Client::default(), [3; 32]);
        rig.handle(Input::Server { conn: CONN, addr: server_at(7), rtt: RTT });
        assert_eq!(rig.machine.poll_timeout(), None);
        rig.handle(Input::Behind(true));
        assert_eq!(rig.machine.poll_timeout().map(|d| d.at), Some(Instant::ZERO + SETTLE));
        assert_eq!(rig.wait(SETTLE), [Output::Stun { socket: SocketId::MAIN, to: server_at(7) }]);
        assert_eq!(rig.machine.poll_timeout().map(|d| d.at), Some(rig.now + PREPARED_WITHIN));
        let mapped = Input::Mapped { by: server_at(7), socket: SocketId::MAIN, mapped: us(9_999) };
        assert_eq!(rig.tell(mapped).len(), 2);
        assert_eq!(rig.machine.poll_timeout().map(|d| d.at), Some(rig.now + GRACE + RTT * 2));
    }

    fn arb_input() -> impl Strategy<Value = Input> {
        let conn = || (0..12u64).prop_map(ConnId);
        let at = || (0..3u8).prop_map(server_at);
        let socket = || (0..14u16).prop_map(SocketId);
        prop_oneof![
            4 => (conn(), at(), 0..9_000u64).prop_map(|(conn, addr, ms)| Input::Server {
                conn,
                addr,
                rtt: Duration::from_millis(ms)
            }),
            1 => conn().prop_map(Input::Gone),
            2 => any::<bool>().prop_map(Input::Behind),
            4 => (at(), socket()).prop_map(|(by, socket)| Input::Mapped { by, socket, mapped: us(9) }),
            4 => at().prop_map(|by| Input::Mapped { by, socket: SocketId::MAIN, mapped: us(9) }),
            1 => (at(), socket()).prop_map(|(by, socket)| Input::Unanswered { by, socket }),
            4 => socket().prop_map(|s| Input::Socket(SocketEvent::Opened(s, us(9)))),
            1 => socket().prop_map(|s| Input::Socket(SocketEvent::Failed(s, String::new()))),
            2 => (socket(), at(), any::<[u8; 8]>()).prop_map(|(socket, from, nonce)| Input::Arrived {
                socket,
                from,
                nonce: Nonce(nonce)
            }),
            2 => socket().prop_map(Input::Disturbed),
            1 => Just(Input::NetworkChanged),
        ]
    }

    #[test]
    fn the_client_obeys_the_laws() {
        laws::check_within(Client::default, arb_input(), |m| assert!(m.servers() <= SERVERS_MAX));
    }
}

mod answering {
    use super::super::server::{
        Input, LINGER, OPENED_WITHIN, Output, PEERS_MAX, PER_PEER_MAX, Server, WAITING_MAX,
        WAITING_PER_PEER_MAX, WINDOW,
    };
    use super::*;

    fn peer(n: u32) -> PublicKey {
        Keypair::from_seed(&crate::rng::derive_seed(&[0; 32], &n.to_string())).public()
    }

    fn asks(n: u32, wait: u64, elsewhere: bool) -> Input {
        let request = DialBack { nonce: NONCE, port: 40_000, wait: secs(wait), elsewhere };
        let conn = ConnId(n.into());
        Input::Asked { conn, peer: peer(n), ip: us(1).ip(), socket: SocketId::MAIN, request }
    }

    fn sent(n: u64, socket: SocketId) -> Output {
        Output::Send { conn: ConnId(n), socket, to: us(40_000), nonce: NONCE }
    }

    fn rig() -> Rig<Server> {
        Rig::new(Server::default(), [5; 32])
    }

    #[test]
    fn a_datagram_leaves_when_it_was_asked_for() {
        let mut rig = rig();
        assert_eq!(rig.tell(asks(1, 0, false)), [sent(1, SocketId::MAIN)]);
        assert_eq!(rig.tell(asks(1, 30, false)), []);
        assert_eq!(rig.wait(secs(30) - Duration::from_millis(1)), []);
        assert_eq!(rig.wait(Duration::from_millis(1)), [sent(1, SocketId::MAIN)]);
        assert_eq!((rig.machine.waiting(), rig.machine.poll_timeout()), (0, None));
    }

    #[test]
    fn the_further_socket_is_open_while_it_is_needed() {
        let mut rig = rig();
        let (open, close) = (SocketRequest::Open(FURTHER), SocketRequest::Close(FURTHER));
        let opened = || Input::Socket(SocketEvent::Opened(FURTHER, server_at(9)));
        assert_eq!(rig.tell(asks(1, 0, true)), [Output::Socket(open)]);
        assert_eq!(rig.tell(asks(2, 0, true)), []);
        assert_eq!(rig.tell(asks(2, 1, true)), []);
        assert_eq!(rig.tell(opened()), [sent(1, FURTHER), sent(2, FURTHER)]);
        assert_eq!(rig.wait(secs(1)), [sent(2, FURTHER)]);
        assert_eq!(rig.wait(LINGER), [Output::Socket(close)]);
        assert_eq!(rig.machine.poll_timeout(), None);

        // One that does not come is not waited for.
        assert_eq!(rig.tell(asks(1, 0, true)), [Output::Socket(open)]);
        let gone = [Output::Socket(close), Output::Refused("dialback-socket")];
        assert_eq!(rig.wait(OPENED_WITHIN), gone);
        assert_eq!(rig.tell(asks(1, 0, true)), [Output::Socket(open)]);
        let failed = Input::Socket(SocketEvent::Failed(FURTHER, String::new()));
        assert_eq!(rig.tell(failed), [Output::Refused("dialback-socket")]);
        assert_eq!((rig.machine.waiting(), rig.machine.poll_timeout()), (0, None));
    }

    #[test]
    fn four_of_a_peer_wait_and_twelve_of_a_minute_are_heard() {
        let mut rig = rig();
        for _ in 0..WAITING_PER_PEER_MAX {
            assert_eq!(rig.tell(asks(1, 120, false)), []);
        }
        assert_eq!(rig.tell(asks(1, 120, false)), [Output::Refused("dialback-full")]);
        assert_eq!(rig.tell(asks(2, 120, false)), [], "each has its own");
        rig.handle(Input::Down(ConnId(1)));
        for _ in WAITING_PER_PEER_MAX + 1..PER_PEER_MAX {
            assert_eq!(rig.tell(asks(1, 0, false)), [sent(1, SocketId::MAIN)]);
        }
        assert_eq!(rig.tell(asks(1, 0, false)), [Output::Refused("dialback-flood")]);
        rig.advance(WINDOW);
        assert_eq!(rig.tell(asks(1, 0, false)), [sent(1, SocketId::MAIN)]);
    }

    #[test]
    fn everything_is_bounded() {
        let mut rig = rig();
        let n = WAITING_MAX as u32;
        (0..n).for_each(|n| rig.handle(asks(n, 120, false)));
        assert_eq!(rig.tell(asks(n, 120, false)), [Output::Refused("dialback-full")]);
        (n..PEERS_MAX as u32).for_each(|n| rig.handle(asks(n, 0, false)));
        assert_eq!(rig.machine.peers(), PEERS_MAX);
        rig.outputs();
        let newcomer = || asks(PEERS_MAX as u32, 0, false);
        assert_eq!(rig.tell(newcomer()), [Output::Refused("dialback-flood")]);
        assert_eq!(rig.wait(secs(120)).len(), WAITING_MAX);
        assert_eq!(rig.tell(newcomer()).len(), 1);
        assert_eq!(rig.machine.peers(), 1);
    }

    #[test]
    fn a_port_of_the_system_is_nobodys_quic() {
        let Input::Asked { conn, peer, ip, socket, request } = asks(1, 0, false) else { unreachable!() };
        let request = DialBack { port: 53, ..request };
        let asked = Input::Asked { conn, peer, ip, socket, request };
        assert_eq!(rig().tell(asked), [Output::Refused("dialback-port")]);
    }

    #[test]
    fn a_connection_that_ends_is_not_dialled_back() {
        let mut rig = rig();
        rig.handle(asks(1, 30, false));
        rig.handle(Input::Down(ConnId(1)));
        assert_eq!(rig.wait(secs(60)), []);
    }

    #[test]
    fn the_server_obeys_the_laws() {
        let socket = || prop_oneof![3 => Just(FURTHER), 1 => Just(SocketId(9))];
        let input = prop_oneof![
            8 => (0..40u32, 0..=120u64, any::<bool>()).prop_map(|(n, wait, other)| asks(n, wait, other)),
            3 => (0..3u32, any::<bool>()).prop_map(|(n, other)| asks(n, 0, other)),
            1 => (0..40u64).prop_map(|n| Input::Down(ConnId(n))),
            2 => socket().prop_map(|s| Input::Socket(SocketEvent::Opened(s, us(9)))),
            1 => socket().prop_map(|s| Input::Socket(SocketEvent::Failed(s, String::new()))),
        ];
        laws::check_within(Server::default, input, |m| {
            assert!(m.waiting() <= WAITING_MAX && m.peers() <= PEERS_MAX);
        });
    }
}
