//! The sockets beside the node's own one: hundreds for some seconds, to get through a NAT that gives every destination
//! another port, then the one that got through.
//!
//! They must not cost the own socket anything. So a wait does not ask each of them: each has a waker of its own, which
//! writes down whose it is before it wakes the driver, and only those that are written down are read. While there are
//! none, all of this is one comparison. They share the own socket's receive buffer, and one that breaks is told to the
//! node ([`SocketEvent::Failed`]) and is no reason to end.
//!
//! Compiled into both drivers, like the socket itself; [`Watched`] is what differs between their runtimes.

use crate::socket::{Batches, Beside, BindOptions, Socket, bind, received, sent};
use quinn_udp::{UdpSockRef, UdpSocketState};
use remote_network_core::drive::{SOCKETS_MAX, Sent};
use remote_network_core::event::{Datagram, Event};
use remote_network_core::place::{SocketEvent, SocketId, SocketRequest};
use remote_network_core::transport::Transmit;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Sockets read in one receive call of the driver: about what one call on the own socket brings.
const READ_AT_ONCE: usize = 32;

/// A socket that a runtime watches.
pub(crate) trait Watched: Sized {
    /// Begins to watch it.
    fn watch(socket: UdpSocket) -> io::Result<Self>;
    /// Whether reading may find something; else whoever asked last is woken then.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Whether there may be room; else whoever asked last is woken then.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Makes a call that reads.
    fn read(&self, call: impl FnOnce(UdpSockRef<'_>) -> io::Result<()>) -> io::Result<()>;
    /// Makes a call that writes.
    fn write(&self, call: impl FnOnce(UdpSockRef<'_>) -> io::Result<()>) -> io::Result<()>;
}

/// Which sockets have become readable, and whom to wake for it.
#[derive(Default)]
struct Rung {
    readable: VecDeque<SocketId>,
    driver: Option<Waker>,
}

type Board = Arc<Mutex<Rung>>;

fn lock(board: &Board) -> MutexGuard<'_, Rung> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The waker of one socket.
struct Bell {
    id: SocketId,
    board: Board,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let driver = {
            let mut rung = lock(&self.board);
            rung.readable.push_back(self.id);
            rung.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

struct Other<W> {
    io: W,
    state: UdpSocketState,
    local: SocketAddr,
    bell: Waker,
}

/// All sockets of a node but its own.
pub(crate) struct Others<W> {
    /// How the own one is bound: the model of all.
    like: SocketAddr,
    options: BindOptions,
    max: usize,
    open: BTreeMap<SocketId, Other<W>>,
    board: Board,
    /// What the node has to hear.
    told: VecDeque<Event>,
}

impl<W: Watched> Others<W> {
    /// None yet; those to come will be like `own`.
    pub(crate) fn like(own: &Socket) -> Self {
        let (open, board, told) = (BTreeMap::new(), Board::default(), VecDeque::new());
        Self { like: own.local, options: own.options, max: SOCKETS_MAX, open, board, told }
    }

    /// Does what the node asks for.
    pub(crate) fn request(&mut self, request: SocketRequest) {
        match request {
            SocketRequest::Open(id) => {
                let event = match self.open(id) {
                    Ok(local) => SocketEvent::Opened(id, local),
                    Err(why) => SocketEvent::Failed(id, why.to_string()),
                };
                self.told.push_back(Event::Socket(event));
            }
            SocketRequest::Close(id) => {
                self.open.remove(&id);
                if self.open.is_empty() {
                    // Nobody reads the board while there are no sockets.
                    lock(&self.board).readable.clear();
                }
            }
        }
    }

    /// One that is open already is told again.
    fn open(&mut self, id: SocketId) -> io::Result<SocketAddr> {
        if let Some(other) = self.open.get(&id) {
            return Ok(other.local);
        }
        if id == SocketId::MAIN {
            return Err(io::Error::other("this number is the node's own socket"));
        }
        if self.open.len() >= self.max {
            return Err(io::Error::other(format!("{} sockets are open", self.max)));
        }
        let mut addr = self.like;
        addr.set_port(0);
        let Socket { io, state, local, .. } = bind(addr, self.options)?;
        let bell = Waker::from(Arc::new(Bell { id, board: self.board.clone() }));
        // A first look registers it.
        lock(&self.board).readable.push_back(id);
        self.open.insert(id, Other { io: W::watch(io)?, state, local, bell });
        Ok(local)
    }

    fn fail(&mut self, id: SocketId, error: &io::Error) {
        tracing::debug!(socket = id.0, %error, "a socket broke");
        self.open.remove(&id);
        self.told.push_back(Event::Socket(SocketEvent::Failed(id, error.to_string())));
    }

    /// What the node has to hear next.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.told.pop_front()
    }

    /// Whether there may be something to read or to tell; else the driver is woken then.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> bool {
        if !self.told.is_empty() {
            return true;
        }
        if self.open.is_empty() {
            return false;
        }
        let mut rung = lock(&self.board);
        if rung.readable.is_empty() {
            rung.driver = Some(cx.waker().clone());
        }
        !rung.readable.is_empty()
    }

    /// Whether there may be room in this one. There is in one that is gone: what is for it is lost.
    pub(crate) fn poll_writable(&self, id: SocketId, cx: &mut Context<'_>) -> bool {
        // What is wrong with it, sending finds out.
        self.open.get(&id).is_none_or(|other| other.io.poll_writable(cx).is_ready())
    }

    /// Reads from those that may have something; `true`: something came, or may still.
    pub(crate) fn receive(&mut self, batches: &mut Batches, arrived: &mut VecDeque<Datagram>) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let before = arrived.len();
        for _ in 0..READ_AT_ONCE {
            let Some(id) = lock(&self.board).readable.pop_front() else { break };
            let Some(Other { io, state, bell, .. }) = self.open.get(&id) else { continue };
            let beside = Beside { id, state };
            let read = received(io.read(|socket| batches.receive_of(Some(beside), socket, arrived)));
            let again = match read {
                Ok(true) => Ok(true),
                Ok(false) => match io.poll_readable(&mut Context::from_waker(bell)) {
                    Poll::Ready(ready) => ready.map(|()| true),
                    Poll::Pending => Ok(false),
                },
                Err(error) => Err(error),
            };
            match again {
                // Behind the others: none starves.
                Ok(true) => lock(&self.board).readable.push_back(id),
                Ok(false) => {}
                Err(error) => self.fail(id, &error),
            }
        }
        arrived.len() > before || !lock(&self.board).readable.is_empty()
    }

    /// Sends through one of them, in as many calls as its system's segmentation needs. When a later call finds it full,
    /// the batch is sent again from its beginning: QUIC knows what it has seen.
    pub(crate) fn send(&mut self, batches: &Batches, transmit: &Transmit, bytes: &[u8]) -> Sent {
        let Some(Other { io, state, .. }) = self.open.get(&transmit.socket) else { return Sent::Gone };
        let segment = transmit.segment_size.unwrap_or(bytes.len());
        for part in bytes.chunks((segment * state.max_gso_segments()).max(1)) {
            match sent(io.write(|socket| batches.send_of(state, socket, transmit, part))) {
                Ok(Sent::Gone) => {}
                Ok(Sent::Blocked) => return Sent::Blocked,
                Err(error) => {
                    self.fail(transmit.socket, &error);
                    return Sent::Gone;
                }
            }
        }
        Sent::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A socket that becomes readable when the test says so, and fails every call once it is broken.
    struct Told {
        io: UdpSocket,
        broken: bool,
    }

    impl Watched for Told {
        fn watch(io: UdpSocket) -> io::Result<Self> {
            Ok(Self { io, broken: false })
        }
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn read(&self, call: impl FnOnce(UdpSockRef<'_>) -> io::Result<()>) -> io::Result<()> {
            if self.broken { Err(io::Error::other("broken")) } else { call((&self.io).into()) }
        }
        fn write(&self, call: impl FnOnce(UdpSockRef<'_>) -> io::Result<()>) -> io::Result<()> {
            self.read(call)
        }
    }

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn few(max: usize) -> (Others<Told>, Batches) {
        let own = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default()).unwrap();
        let others = Others { max, ..Others::like(&own) };
        (others, own.into_parts().1)
    }

    fn answers(others: &mut Others<Told>) -> Vec<SocketEvent> {
        let told = std::iter::from_fn(|| others.next_event());
        told.map(|event| if let Event::Socket(event) = event { event } else { panic!("{event:?}") }).collect()
    }

    fn transmit(to: SocketAddr, size: usize, segment_size: Option<usize>) -> Transmit {
        Transmit { socket: SocketId(1), to, from: None, size, segment_size, ecn: None }
    }

    #[test]
    fn there_are_so_many_and_no_more_and_the_own_socket_is_none_of_them() {
        let (mut others, _) = few(2);
        for id in [1, 2, 3, 0, 2] {
            others.request(SocketRequest::Open(SocketId(id)));
        }
        let told = answers(&mut others);
        let SocketEvent::Opened(SocketId(2), second) = told[1] else { panic!("{told:?}") };
        assert!(matches!(told[0], SocketEvent::Opened(SocketId(1), first) if first.port() != second.port()));
        assert_eq!(second.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(told[2], SocketEvent::Failed(SocketId(3), "2 sockets are open".into()));
        assert!(matches!(told[3], SocketEvent::Failed(SocketId::MAIN, _)));
        assert_eq!(told[4], SocketEvent::Opened(SocketId(2), second), "said again, not opened again");
        others.request(SocketRequest::Close(SocketId(1)));
        others.request(SocketRequest::Open(SocketId(3)));
        assert!(matches!(answers(&mut others)[..], [SocketEvent::Opened(SocketId(3), _)]));
    }

    #[test]
    fn one_that_breaks_is_told_once_and_the_others_go_on() {
        let (mut others, mut batches) = few(2);
        others.request(SocketRequest::Open(SocketId(1)));
        others.request(SocketRequest::Open(SocketId(2)));
        answers(&mut others);
        others.open.get_mut(&SocketId(1)).unwrap().io.broken = true;
        let mut arrived = VecDeque::new();
        assert!(!others.receive(&mut batches, &mut arrived), "nothing came");
        assert_eq!(answers(&mut others), [SocketEvent::Failed(SocketId(1), "broken".into())]);
        others.open.get_mut(&SocketId(2)).unwrap().io.broken = true;
        let second = Transmit { socket: SocketId(2), ..transmit(others.like, 1, None) };
        assert_eq!(others.send(&batches, &second, b"x"), Sent::Gone);
        assert_eq!(answers(&mut others), [SocketEvent::Failed(SocketId(2), "broken".into())]);
        assert_eq!(others.send(&batches, &second, b"x"), Sent::Gone, "to one that is gone");
    }

    #[test]
    fn only_a_socket_that_rang_is_read_and_it_wakes_the_driver_once() {
        let (mut others, mut batches) = few(2);
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(!others.poll(&mut cx), "there is none");
        others.request(SocketRequest::Open(SocketId(1)));
        assert!(others.poll(&mut cx), "the answer");
        let told = answers(&mut others);
        let [SocketEvent::Opened(_, local)] = told[..] else { panic!("{told:?}") };
        let mut arrived = VecDeque::new();
        assert!(others.poll(&mut cx), "the first look");
        assert!(!others.receive(&mut batches, &mut arrived));
        assert!(!others.poll(&mut cx));
        let friend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        friend.send_to(b"hi", local).unwrap();
        assert!(!others.receive(&mut batches, &mut arrived), "nobody rang");
        let bell = others.open[&SocketId(1)].bell.clone();
        bell.wake_by_ref();
        bell.wake_by_ref();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(others.receive(&mut batches, &mut arrived));
        assert_eq!(
            arrived.iter().map(|d| (d.socket, &d.payload[..])).collect::<Vec<_>>(),
            [(SocketId(1), &b"hi"[..])]
        );
        assert!(!others.receive(&mut batches, &mut arrived));
        assert!(!others.poll(&mut cx));
        others.request(SocketRequest::Close(SocketId(1)));
        bell.wake();
        assert!(!others.poll(&mut cx), "a closed one says nothing");
    }

    #[test]
    fn a_batch_is_cut_to_what_its_socket_can_segment() {
        let (mut others, batches) = few(1);
        others.request(SocketRequest::Open(SocketId(1)));
        let friend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        friend.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let transmit = transmit(friend.local_addr().unwrap(), 100 * 100 + 7, Some(100));
        let bytes: Vec<u8> = (0..transmit.size).map(|i| (i / 100) as u8).collect();
        assert_eq!(others.send(&batches, &transmit, &bytes), Sent::Gone);
        let mut buf = [0; 200];
        for i in 0..=100u8 {
            let (len, _) = friend.recv_from(&mut buf).unwrap();
            assert_eq!((len, buf[0]), (if i == 100 { 7 } else { 100 }, i));
        }
    }
}
