//! The laws of machines for the relay together with its pulling node.

use super::*;
use crate::laws;
use proptest::prelude::*;

const PEERS: u64 = 6;

#[derive(Clone, Debug)]
enum Step {
    Tell(Input),
    /// These receivers have no room, or are narrow.
    Rooms {
        stuck: u8,
        narrow: u8,
    },
}

#[derive(Debug)]
#[allow(dead_code, reason = "outputs are compared by what they print")]
enum Said {
    Output(Output),
    Forward(ConnId, Bytes),
}

/// A relay whose packets are taken after every input, as the node does.
struct Driven {
    server: Server,
    stuck: u8,
    narrow: u8,
}

impl Driven {
    fn drive(&mut self, cx: &mut Cx<'_, Said>, f: impl FnOnce(&mut Server, &mut Cx<'_, Output>)) {
        let mut out = Vec::new();
        f(&mut self.server, &mut Cx::new(cx.now, cx.wall, cx.rng, &mut out));
        out.into_iter().for_each(|o| cx.emit(Said::Output(o)));
        let (stuck, narrow) = (self.stuck, self.narrow);
        let bit = |set: u8, c: ConnId| set >> (c.0 % 8) & 1 == 1;
        let room = |c: ConnId| {
            let free = if bit(stuck, c) { 0 } else { 1 << 16 };
            Some(Room { datagram_max: if bit(narrow, c) { 1_162 } else { 1_414 }, free })
        };
        while let Some((to, bytes)) = self.server.poll_forward(cx.now, room) {
            cx.emit(Said::Forward(to, bytes));
        }
    }
}

impl Machine for Driven {
    type Input = Step;
    type Output = Said;

    fn handle(&mut self, cx: &mut Cx<'_, Said>, step: Step) {
        match step {
            Step::Tell(input) => self.drive(cx, |server, cx| server.handle(cx, input)),
            Step::Rooms { stuck, narrow } => {
                (self.stuck, self.narrow) = (stuck, narrow);
                self.drive(cx, |_, _| ());
            }
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Said>) {
        self.drive(cx, Server::handle_timeout);
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.server.poll_timeout()
    }
}

fn arb_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        4 => Just(Message::Register.to_frame()),
        1 => Just(Message::Unregister.to_frame()),
        1 => Just(Message::Ask.to_frame()),
        1 => (0x2fu8..0x39, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(kind, body)| Frame { kind, body }),
    ]
}

fn arb_datagram() -> impl Strategy<Value = Bytes> {
    let fragment =
        (0u16..3, 0u8..9, 0u8..10).prop_map(|(id, index, count)| Part::Fragment { id, index, count });
    let part = prop_oneof![4 => Just(Part::Whole), 1 => fragment];
    let direction = prop_oneof![9 => Just(Direction::To), 1 => Just(Direction::From)];
    prop_oneof![
        9 => (direction, 0..PEERS + 1, part, 0usize..1_500).prop_map(|(direction, to, part, len)| {
            Header { direction, peer: key(to).peer_id(), part }.datagram(&vec![7; len])
        }),
        1 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from),
    ]
}

fn arb_step() -> impl Strategy<Value = Step> {
    let conn = || (0..2 * PEERS).prop_map(ConnId);
    let peer = || (0..PEERS).prop_map(key);
    let input = prop_oneof![
        1 => any::<bool>().prop_map(Input::Serve),
        6 => (conn(), 0..3u64).prop_map(|(c, a)| Input::PeerUp { conn: c, peer: key(c.0 % PEERS), addr: addr(a) }),
        1 => (conn(), 0..3u64).prop_map(|(conn, a)| Input::Moved { conn, addr: addr(a) }),
        2 => conn().prop_map(|conn| Input::PeerDown { conn }),
        6 => (conn(), arb_frame()).prop_map(|(conn, frame)| Input::Frame { conn, frame }),
        20 => (conn(), arb_datagram()).prop_map(|(conn, bytes)| Input::Datagram { conn, bytes }),
        1 => peer().prop_map(|peer| Input::Disconnect { peer }),
        1 => (peer(), any::<bool>()).prop_map(|(peer, blocked)| Input::Block { peer, blocked }),
        1 => (0..20u64).prop_map(|s| Input::Close { ends_in: secs(s), back_in: BACK_IN }),
    ];
    prop_oneof![9 => input.prop_map(Step::Tell), 1 => (any::<u8>(), any::<u8>()).prop_map(|(stuck, narrow)| Step::Rooms { stuck, narrow })]
}

#[test]
fn the_relay_is_a_lawful_machine() {
    let config = Config {
        sessions_max: 5,
        sessions_per_address_max: 3,
        session_rate: 20_000,
        total_rate: 30_000,
        lifetime: secs(300),
        ..Config::default()
    };
    let make = || {
        let mut rig = rig(config.clone());
        let server = std::mem::replace(&mut rig.machine, Server::new(config.clone()));
        Driven { server, stuck: 0, narrow: 0 }
    };
    laws::check_within(make, arb_step(), |driven| {
        let stats = driven.server.stats();
        assert!(stats.reserved <= 4 && stats.visitors <= 4 && stats.reserved + stats.visitors <= 5);
        assert!(stats.waiting <= 5 * QUEUE_BYTES_MAX);
        let sessions: Vec<_> = driven.server.sessions().collect();
        assert_eq!(sessions.len(), stats.reserved + stats.visitors);
        let mut keys: Vec<_> = sessions.iter().map(|s| s.peer).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), sessions.len(), "a peer has one session");
        assert!(sessions.iter().all(|s| s.waiting <= QUEUE_BYTES_MAX));
    });
}
