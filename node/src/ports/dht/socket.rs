//! What the DHT node sends and receives through: a socket of its own, or the one that QUIC uses.
//!
//! An own socket that is bound to all addresses of IPv6 carries IPv4 as well, so one port serves both DHTs (BEP 32);
//! a machine without IPv6 gets an IPv4 one instead. Addresses of IPv4 are dressed as IPv6 on their way out of such a
//! socket, and the node undresses them on their way in.
//!
//! The shared socket belongs to the driver. It hands over what is the DHT's
//! ([`remote_network_core::drive::is_krpc`]) through a bounded channel, and we send through a second handle of it.

use async_channel::Receiver;
use bytes::Bytes;
use remote_network_core::event::Datagram;
use smol::Async;
use socket2::{Domain, Protocol, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};

/// Largest datagram read; larger ones are no message of the DHT.
const DATAGRAM_MAX: usize = 2_048;
/// Wanted size of the system's receive buffer: the replies to a burst of operations, which come all at once.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Datagrams of the DHT that wait between driver and port; beyond, they are lost as a full socket loses them.
pub const ASIDE_WAITING_MAX: usize = 1_024;

/// The driver's socket as the DHT sees it.
#[derive(Debug)]
pub struct Shared {
    /// A handle of it to send through.
    pub socket: UdpSocket,
    /// What arrived for the DHT.
    pub arrived: Receiver<Datagram>,
}

/// Where the DHT's datagrams go and come from.
#[derive(Debug)]
pub(super) enum Socket {
    Own { socket: Async<UdpSocket>, local: SocketAddr, buf: Box<[u8; DATAGRAM_MAX]> },
    Shared { shared: Shared, local: SocketAddr },
}

impl Socket {
    /// Binds a socket of our own.
    pub(super) fn bind(ip: IpAddr, port: u16) -> io::Result<Self> {
        let socket = match bind(SocketAddr::new(ip, port)) {
            Err(e) if ip == IpAddr::from([0u16; 8]) && is_without_ipv6(&e) => {
                tracing::info!(error = %e, "no IPv6 here: the DHT's socket is of IPv4 alone");
                bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?
            }
            bound => bound?,
        };
        let local = socket.local_addr()?;
        Ok(Socket::Own { socket: Async::new(socket)?, local, buf: Box::new([0; DATAGRAM_MAX]) })
    }

    /// Uses the driver's.
    pub(super) fn share(shared: Shared) -> io::Result<Self> {
        let local = shared.socket.local_addr()?;
        Ok(Socket::Shared { shared, local })
    }

    /// Where it is bound: unspecified if it was bound so.
    pub(super) fn local_addr(&self) -> SocketAddr {
        match self {
            Socket::Own { local, .. } | Socket::Shared { local, .. } => *local,
        }
    }

    /// Whether it is QUIC's.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Socket::Shared { .. })
    }

    /// Whether it reaches addresses of this family.
    pub(super) fn reaches(&self, addr: &SocketAddr) -> bool {
        let local = self.local_addr();
        local.is_ipv6() == addr.is_ipv6() || (local.is_ipv6() && local.ip().is_unspecified())
    }

    /// The next datagram. Cancelling the future loses none.
    pub(super) async fn receive(&mut self) -> io::Result<(Bytes, SocketAddr)> {
        match self {
            Socket::Own { socket, buf, .. } => {
                let (len, from) = socket.recv_from(&mut buf[..]).await?;
                Ok((Bytes::copy_from_slice(buf.get(..len).unwrap_or_default()), from))
            }
            Socket::Shared { shared, .. } => match shared.arrived.recv().await {
                Ok(datagram) => Ok((datagram.payload.freeze(), datagram.from)),
                // The driver has ended; the port will be dropped.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// A datagram that is there already.
    pub(super) fn receive_now(&mut self) -> Option<(Bytes, SocketAddr)> {
        match self {
            Socket::Own { socket, buf, .. } => {
                let (len, from) = socket.get_ref().recv_from(&mut buf[..]).ok()?;
                Some((Bytes::copy_from_slice(buf.get(..len)?), from))
            }
            Socket::Shared { shared, .. } => {
                shared.arrived.try_recv().ok().map(|d| (d.payload.freeze(), d.from))
            }
        }
    }

    /// Sends. A datagram that cannot be sent is a datagram that was lost: the node asks again.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr) {
        let (socket, local) = match self {
            Socket::Own { socket, local, .. } => (socket.get_ref(), local),
            Socket::Shared { shared, local } => (&shared.socket, local),
        };
        let to = match to {
            SocketAddr::V4(v4) if local.is_ipv6() => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            other => other,
        };
        if let Err(e) = socket.send_to(bytes, to) {
            tracing::trace!(%to, error = %e, "the DHT's socket");
        }
    }
}

fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    // A system that refuses the size keeps its own.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Whether the reason is that the machine has no IPv6, and not that the port is taken or forbidden.
fn is_without_ipv6(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}
