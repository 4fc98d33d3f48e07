//! The UDP socket: how it is bound, and how batches go in and out of it. Nothing here waits.
//!
//! Both drivers are compiled from this one file, because none of it depends on a runtime. Measured on loopback, segmentation offload in both directions (GSO, GRO) costs a third of the CPU of
//! single datagrams; all the rest of a driver hardly matters beside it.

use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use remote_network_core::drive::{Arrival, Sent};
use remote_network_core::event::Datagram;
use remote_network_core::place::SocketId;
use remote_network_core::transport::Transmit;
use socket2::{Domain, Protocol, Type};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};

/// Largest datagram that is received whole on every system. QUIC here never has larger ones; of a larger one there may
/// be only the beginning, which no protocol of ours accepts.
pub const DATAGRAM_BYTES_MAX: usize = 9_000;
/// Most bytes of datagrams that a system joins.
const JOINED_BYTES_MAX: usize = 65_536;

/// How a socket is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindOptions {
    /// An IPv6 socket also carries IPv4. The core sees IPv4 addresses as such in both directions.
    pub dual_stack: bool,
    /// Wanted size of the system's receive buffer: a pause of the process of 100 ms at 160 Mbit/s.
    pub receive_buffer_bytes: usize,
    /// Wanted size of the system's send buffer.
    pub send_buffer_bytes: usize,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self { dual_stack: true, receive_buffer_bytes: 2 << 20, send_buffer_bytes: 2 << 20 }
    }
}

/// Buffer sizes as the system reports them. Linux reports twice of what it grants, and grants at most
/// `net.core.rmem_max` and `wmem_max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffers {
    /// Bytes of the receive buffer.
    pub receive_bytes: usize,
    /// Bytes of the send buffer.
    pub send_bytes: usize,
}

/// A bound socket with all that QUIC wants of it: ECN, the local address of each datagram, GSO and GRO where the system
/// has them, no fragmentation, never blocking.
#[derive(Debug)]
pub struct Socket {
    pub(crate) io: UdpSocket,
    pub(crate) state: UdpSocketState,
    pub(crate) local: SocketAddr,
    pub(crate) options: BindOptions,
    buffers: Buffers,
}

/// Binds a socket. Needs no runtime.
pub fn bind(addr: SocketAddr, options: BindOptions) -> io::Result<Socket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!options.dual_stack)?;
    }
    // A system that refuses a size keeps its own; what it granted is told by `buffers`.
    let _ = socket.set_recv_buffer_size(options.receive_buffer_bytes);
    let _ = socket.set_send_buffer_size(options.send_buffer_bytes);
    socket.bind(&addr.into())?;
    let buffers =
        Buffers { receive_bytes: socket.recv_buffer_size()?, send_bytes: socket.send_buffer_size()? };
    let io = UdpSocket::from(socket);
    let state = UdpSocketState::new(UdpSockRef::from(&io))?;
    let local = io.local_addr()?;
    tracing::debug!(%local, ?buffers, gso = state.max_gso_segments(), gro = state.gro_segments(), "bound");
    Ok(Socket { io, state, local, options, buffers })
}

impl Socket {
    /// Where it is bound: unspecified if it was bound so.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The same socket, for somebody who sends through it beside the driver. It never blocks; an IPv6 one wants IPv4
    /// addresses dressed as IPv6.
    pub fn sender(&self) -> io::Result<UdpSocket> {
        self.io.try_clone()
    }

    /// What the system granted.
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// The socket for a runtime to watch, and everything else.
    pub(crate) fn into_parts(self) -> (UdpSocket, Batches) {
        let joins = self.state.gro_segments() > 1;
        let message_bytes = if joins { JOINED_BYTES_MAX } else { DATAGRAM_BYTES_MAX };
        let receive_buf = vec![0; BATCH_SIZE * message_bytes];
        (self.io, Batches { state: self.state, v6: self.local.is_ipv6(), receive_buf, message_bytes })
    }
}

/// Batches in and out of a socket that somebody else holds.
pub(crate) struct Batches {
    state: UdpSocketState,
    v6: bool,
    /// `BATCH_SIZE` messages; each holds as many datagrams as the system may join. All sockets of a node share it.
    receive_buf: Vec<u8>,
    message_bytes: usize,
}

/// The socket of a call that is not about the node's own one.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    pub(crate) id: SocketId,
    pub(crate) state: &'a UdpSocketState,
}

impl Batches {
    /// One receive call. `WouldBlock`: the socket is empty.
    pub(crate) fn receive(
        &mut self,
        socket: UdpSockRef<'_>,
        arrived: &mut VecDeque<Datagram>,
    ) -> io::Result<()> {
        self.receive_of(None, socket, arrived)
    }

    /// One receive call of the node's own socket, or of another.
    pub(crate) fn receive_of(
        &mut self,
        beside: Option<Beside<'_>>,
        socket: UdpSockRef<'_>,
        arrived: &mut VecDeque<Datagram>,
    ) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut chunks = self.receive_buf.chunks_exact_mut(self.message_bytes);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let state = beside.map_or(&self.state, |b| b.state);
        let messages = match state.recv(socket, &mut slices, &mut metas) {
            Ok(messages) => messages,
            Err(error) if is_about_a_peer(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        // A thousand peers send single datagrams: memory for each would cost more than to receive it.
        let mut memory = BytesMut::with_capacity(shared_bytes(&metas[..messages]));
        for (meta, slice) in metas.iter().zip(&slices).take(messages) {
            let arrival = Arrival {
                socket: beside.map_or(SocketId::MAIN, |b| b.id),
                from: canonical(meta.addr),
                to: meta.dst_ip.map(|ip| ip.to_canonical()),
                ecn: meta.ecn.map(|ecn| ecn as u8),
                stride: meta.stride,
            };
            arrival.split_into(slice.get(..meta.len).unwrap_or(slice), &mut memory, arrived);
        }
        Ok(())
    }

    /// Datagrams that one send call takes now.
    pub(crate) fn datagrams_per_send(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// One send call. `WouldBlock`: the socket is full. Whatever else hinders a datagram on its way (too large for the
    /// path, as MTU probes are meant to be, or no route) is a loss like any other, and QUIC's to notice.
    pub(crate) fn send(
        &self,
        socket: UdpSockRef<'_>,
        transmit: &Transmit,
        contents: &[u8],
    ) -> io::Result<()> {
        self.send_of(&self.state, socket, transmit, contents)
    }

    /// One send call of the socket that `state` belongs to.
    pub(crate) fn send_of(
        &self,
        state: &UdpSocketState,
        socket: UdpSockRef<'_>,
        transmit: &Transmit,
        contents: &[u8],
    ) -> io::Result<()> {
        state.send(
            socket,
            &quinn_udp::Transmit {
                destination: if self.v6 { mapped(transmit.to) } else { transmit.to },
                ecn: transmit.ecn.and_then(EcnCodepoint::from_bits),
                contents,
                segment_size: transmit.segment_size.filter(|size| *size < contents.len()),
                src_ip: transmit.from.filter(|from| from.is_ipv4() == transmit.to.is_ipv4()),
            },
        )
    }
}

/// Memory for the messages of one receive call, and no more than for a single one that the system joined: one datagram that
/// is kept keeps all that shares its memory.
fn shared_bytes(metas: &[RecvMeta]) -> usize {
    metas.iter().map(|meta| meta.len).sum::<usize>().min(JOINED_BYTES_MAX)
}

/// What [`Batches::send`] returned, in the core's words.
pub(crate) fn sent(result: io::Result<()>) -> io::Result<Sent> {
    match result {
        Ok(()) => Ok(Sent::Gone),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Sent::Blocked),
        Err(error) => Err(error),
    }
}

/// What [`Batches::receive`] returned, in the core's words: whether the socket may have more.
pub(crate) fn received(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Systems report ICMP errors about some earlier datagram on the next receive call. They are unauthenticated and say
/// nothing of the socket.
fn is_about_a_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::Interrupted
    )
}

/// IPv4 as IPv4, also when it came through an IPv6 socket.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// What an IPv6 socket wants to hear of an IPv4 address.
fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn loopback() -> (UdpSocket, Batches, SocketAddr) {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default()).unwrap();
        let addr = socket.local_addr();
        let (io, batches) = socket.into_parts();
        (io, batches, addr)
    }

    fn receive_all(io: &UdpSocket, batches: &mut Batches) -> Vec<Datagram> {
        let mut arrived = VecDeque::new();
        while received(batches.receive(io.into(), &mut arrived)).unwrap() {}
        arrived.into()
    }

    #[test]
    fn one_send_becomes_datagrams_of_the_segment_size_with_ecn_and_addresses() {
        let (a, out, a_addr) = loopback();
        let (b, mut into, b_addr) = loopback();
        let segments = out.datagrams_per_send().min(10);
        let size = (segments - 1) * 1_200 + 700;
        let bytes: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let from = Some(a_addr.ip());
        let transmit = Transmit {
            socket: SocketId::MAIN,
            to: b_addr,
            from,
            size,
            segment_size: Some(1_200),
            ecn: Some(2),
        };
        assert_eq!(sent(out.send((&a).into(), &transmit, &bytes)).unwrap(), Sent::Gone);
        let arrived = receive_all(&b, &mut into);
        assert_eq!(arrived.len(), segments);
        assert!(arrived.iter().all(|d| (d.from, d.to, d.ecn) == (a_addr, Some(b_addr.ip()), Some(2))));
        let joined: Vec<u8> = arrived.iter().flat_map(|d| d.payload.to_vec()).collect();
        assert_eq!(joined, bytes);
    }

    #[test]
    fn a_single_datagram_may_name_a_segment_size_above_its_own() {
        let (a, out, _) = loopback();
        let (b, mut into, b_addr) = loopback();
        let transmit = Transmit {
            socket: SocketId::MAIN,
            to: b_addr,
            from: None,
            size: 3,
            segment_size: Some(1_200),
            ecn: None,
        };
        out.send((&a).into(), &transmit, b"abc").unwrap();
        let arrived = receive_all(&b, &mut into);
        assert_eq!(arrived.len(), 1);
        assert_eq!((&arrived[0].payload[..], arrived[0].ecn), (&b"abc"[..], None));
    }

    #[test]
    fn ipv4_is_ipv4_through_a_dual_stack_socket_both_ways() {
        let socket = bind("[::]:0".parse().unwrap(), BindOptions::default()).unwrap();
        let port = socket.local_addr().port();
        let (both, mut both_batches) = socket.into_parts();
        let (a, mut a_batches, a_addr) = loopback();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let transmit =
            Transmit { socket: SocketId::MAIN, to, from: None, size: 2, segment_size: None, ecn: Some(1) };
        a_batches.send((&a).into(), &transmit, b"hi").unwrap();
        let arrived = receive_all(&both, &mut both_batches);
        assert_eq!(arrived.len(), 1);
        assert_eq!((arrived[0].from, arrived[0].to, arrived[0].ecn), (a_addr, Some(to.ip()), Some(1)));

        let reply = Transmit { socket: SocketId::MAIN, to: a_addr, from: arrived[0].to, ..transmit };
        both_batches.send((&both).into(), &reply, b"yo").unwrap();
        let arrived = receive_all(&a, &mut a_batches);
        assert_eq!(arrived.iter().map(|d| d.from).collect::<Vec<_>>(), [to]);
    }

    #[test]
    fn what_cannot_be_sent_is_lost_and_not_an_error() {
        let (a, out, _) = loopback();
        let (_b, _, b_addr) = loopback();
        let too_large = vec![0; 65_536];
        let v6 = "[2001:db8::1]:9".parse().unwrap();
        for (to, from, bytes) in [
            (b_addr, None, &too_large[..]),
            (v6, None, b"x"),
            (b_addr, Some(v6.ip()), b"x"),
            (b_addr, Some(IpAddr::from([203, 0, 113, 1])), b"x"),
        ] {
            let transmit = Transmit {
                socket: SocketId::MAIN,
                to,
                from,
                size: bytes.len(),
                segment_size: None,
                ecn: None,
            };
            assert_eq!(sent(out.send((&a).into(), &transmit, bytes)).unwrap(), Sent::Gone);
        }
    }

    #[test]
    fn buffers_are_enlarged_as_far_as_the_system_allows_and_reported() {
        let least = BindOptions { receive_buffer_bytes: 0, send_buffer_bytes: 0, ..BindOptions::default() };
        let small = bind((Ipv4Addr::LOCALHOST, 0).into(), least).unwrap().buffers();
        let large = bind((Ipv4Addr::LOCALHOST, 0).into(), BindOptions::default()).unwrap().buffers();
        assert!(small.receive_bytes < large.receive_bytes);
        assert!(small.send_bytes < large.send_bytes);
    }

    #[test]
    fn icmp_is_ignored_and_a_broken_socket_is_not() {
        assert!(is_about_a_peer(&ErrorKind::ConnectionRefused.into()));
        assert!(is_about_a_peer(&ErrorKind::HostUnreachable.into()));
        assert!(!is_about_a_peer(&ErrorKind::WouldBlock.into()));
        assert!(!is_about_a_peer(&ErrorKind::InvalidInput.into()));
        assert!(received(Err(ErrorKind::InvalidInput.into())).is_err());
    }
}
