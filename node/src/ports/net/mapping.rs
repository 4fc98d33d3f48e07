//! Asks the router to forward a UDP port to us: by PCP (RFC 6887) or NAT-PMP (RFC 6886), else by UPnP-IGD.
//!
//! The first two are one datagram each way with the default gateway (`crab_nat`); UPnP searches by multicast and speaks
//! SOAP (`igd-next`). n0's `portmapper` does all three, but brings forty crates, among them one under a licence that this
//! program does not take. A mapping is renewed at half of its life, asked for again when the addresses of the machine
//! change, and taken back at the end. What the router answers is told to the core as it is; whether anybody gets
//! through there, others must find out.

use crate::ports::Ending;
use async_channel::Sender;
use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use remote_network_core::event::Event;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::sync::watch;

/// Seconds a mapping is asked for: what RFC 6886 recommends.
const LEASE_SECONDS: u32 = 7_200;
/// A router that grants less would be asked all the time.
const RENEW_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// After a failure; doubled each time up to the other.
const RETRY_AFTER: Duration = Duration::from_secs(60);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1_800);
/// Four datagrams in 3.75 seconds; a gateway on the same link answers in milliseconds or never.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(2)),
};
/// An answer of the router that is awaited when the node ends may still take so long.
const ANSWER_AT_END: Duration = Duration::from_secs(1);
/// At the end there is time for one datagram and another.
const PATIENCE_AT_END: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 1, max_retry_timeout: None };
/// For a UPnP router to answer a search; the crate sends once.
const SEARCH_WITHIN: Duration = Duration::from_secs(5);
/// What people see in the router's list.
const DESCRIPTION: &str = "remote-network";

/// Where routers are looked for.
struct Routers {
    /// The default gateway; none: no PCP and NAT-PMP.
    gateway: Box<dyn Fn() -> Option<Ipv4Addr> + Send + Sync>,
    /// How UPnP routers are searched.
    search: Box<dyn Fn() -> SearchOptions + Send + Sync>,
}

pub(super) struct Mapper {
    port: u16,
    /// The address the socket is bound to, when it is one.
    only: Option<Ipv4Addr>,
    routers: Routers,
}

/// A mapping that stands.
enum Lease {
    Pmp { mapping: PortMapping, client: Ipv4Addr, external: SocketAddr },
    Upnp { gateway: Box<Gateway<Tokio>>, local: SocketAddr, external: SocketAddr },
}

impl Mapper {
    pub(super) fn new(socket: SocketAddr) -> Self {
        let search = || {
            let mut options = SearchOptions::default();
            options.timeout = Some(SEARCH_WITHIN);
            options.single_search_timeout = Some(SEARCH_WITHIN);
            options
        };
        Self::at(socket, Routers { gateway: Box::new(default_gateway), search: Box::new(search) })
    }

    fn at(socket: SocketAddr, routers: Routers) -> Self {
        let only = match socket.ip().to_canonical() {
            IpAddr::V4(ip) if !ip.is_unspecified() => Some(ip),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        };
        Self { port: socket.port(), only, routers }
    }

    /// Keeps a mapping until the end. Begins when `addrs` first has some.
    pub(super) async fn run(
        self,
        mut addrs: watch::Receiver<Vec<SocketAddr>>,
        events: &Sender<Event>,
        mut ending: Ending,
    ) {
        let mut lease: Option<Lease> = None;
        let mut told: Option<SocketAddr> = None;
        let mut retry = RETRY_AFTER;
        loop {
            let wanted = addrs.borrow_and_update().iter().any(|a| self.concerns(*a));
            let old = lease.take();
            let renewed = async {
                match old {
                    _ if !wanted => None,
                    Some(old) => self.renew(old).await,
                    None => self.obtain(None).await,
                }
            };
            let mut renewed = std::pin::pin!(renewed);
            lease = tokio::select! {
                lease = &mut renewed => lease,
                () = ending.come() => {
                    // What the router has granted by now is given back; what it is slow to grant lapses by itself.
                    lease = tokio::time::timeout(ANSWER_AT_END, renewed).await.ok().flatten();
                    break;
                }
            };
            let external = lease.as_ref().map(Lease::external);
            if external != told {
                tracing::info!(?external, "port mapping");
                if events.send(Event::Mapped(external.into_iter().collect())).await.is_err() {
                    break;
                }
                told = external;
            }
            let pause = match &lease {
                Some(lease) => {
                    retry = RETRY_AFTER;
                    lease.half_life()
                }
                None => {
                    let longer = (retry * 2).min(RETRY_AFTER_MAX);
                    std::mem::replace(&mut retry, longer)
                }
            };
            tokio::select! {
                () = ending.come() => break,
                () = tokio::time::sleep(pause) => {}
                changed = addrs.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    retry = RETRY_AFTER;
                }
            }
        }
        if let Some(lease) = lease {
            lease.give_back().await;
        }
    }

    /// Whether a mapping could be for this address of ours. One that everybody reaches needs none; which those are, the
    /// router knows better than we do, as long as it is IPv4.
    fn concerns(&self, addr: SocketAddr) -> bool {
        match addr.ip() {
            IpAddr::V4(ip) => !ip.is_loopback() && self.only.is_none_or(|only| only == ip),
            IpAddr::V6(_) => false,
        }
    }

    /// A mapping, with the same port outside as before if that can be had.
    async fn obtain(&self, before: Option<u16>) -> Option<Lease> {
        let port = NonZeroU16::new(self.port)?;
        if let Some(gateway) = (self.routers.gateway)() {
            match self.ask_gateway(gateway, port, before.and_then(NonZeroU16::new)).await {
                Ok(lease) => return Some(lease),
                Err(error) => tracing::debug!(%gateway, error, "no PCP or NAT-PMP"),
            }
        }
        match self.ask_upnp(before).await {
            Ok(lease) => Some(lease),
            Err(error) => {
                tracing::debug!(error, "no UPnP-IGD");
                None
            }
        }
    }

    async fn renew(&self, lease: Lease) -> Option<Lease> {
        let before = lease.external().port();
        match lease {
            // The machine may have another address or router meanwhile, and a mapping leads to the address that asked.
            Lease::Pmp { mut mapping, client, .. } => {
                let now = (self.routers.gateway)().filter(|now| mapping.gateway() == (*now).into());
                let same = now.is_some_and(|ip| self.client(ip).is_ok_and(|now| now == client));
                if same && mapping.renew().await.is_ok() {
                    match external_of(&mapping).await {
                        Ok(external) => return Some(Lease::Pmp { mapping, client, external }),
                        Err(error) => tracing::debug!(error, "the router does not tell its address any more"),
                    }
                }
            }
            Lease::Upnp { gateway, local, external } => {
                let same =
                    self.client_of(gateway.addr).is_ok_and(|now| SocketAddr::from((now, self.port)) == local);
                if same && let Ok(lease) = forward(gateway, local, external.port()).await {
                    return Some(lease);
                }
            }
        }
        self.obtain(Some(before)).await
    }

    async fn ask_gateway(
        &self,
        gateway: Ipv4Addr,
        port: NonZeroU16,
        before: Option<NonZeroU16>,
    ) -> Result<Lease, String> {
        let client = self.client(gateway).map_err(|e| e.to_string())?;
        let options = PortMappingOptions {
            external_port: before.or(Some(port)),
            lifetime_seconds: Some(LEASE_SECONDS),
            timeout_config: Some(PATIENCE),
        };
        let mapping = PortMapping::new(gateway.into(), client.into(), InternetProtocol::Udp, port, options)
            .await
            .map_err(|e| e.to_string())?;
        let external = external_of(&mapping).await?;
        Ok(Lease::Pmp { mapping, client, external })
    }

    async fn ask_upnp(&self, before: Option<u16>) -> Result<Lease, String> {
        let mut options = (self.routers.search)();
        if let Some(only) = self.only {
            options.bind_addr = SocketAddr::from((only, 0));
        }
        let gateway = search_gateway(options).await.map_err(|e| e.to_string())?;
        let local = self.client_of(gateway.addr).map_err(|e| e.to_string())?;
        let local = SocketAddr::from((local, self.port));
        let gateway = Box::new(gateway);
        forward(gateway, local, before.unwrap_or(self.port)).await
    }

    /// The address of ours that packets to the gateway come from.
    fn client(&self, gateway: Ipv4Addr) -> io::Result<Ipv4Addr> {
        if let Some(only) = self.only {
            return Ok(only);
        }
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddrV4::new(gateway, crab_nat::GATEWAY_PORT))?;
        match socket.local_addr()?.ip() {
            IpAddr::V4(ip) => Ok(ip),
            IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    fn client_of(&self, gateway: SocketAddr) -> io::Result<Ipv4Addr> {
        match gateway.ip().to_canonical() {
            IpAddr::V4(ip) => self.client(ip),
            IpAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Lease {
    fn external(&self) -> SocketAddr {
        match self {
            Lease::Pmp { external, .. } | Lease::Upnp { external, .. } => *external,
        }
    }

    fn half_life(&self) -> Duration {
        let seconds = match self {
            Lease::Pmp { mapping, .. } => mapping.lifetime().min(LEASE_SECONDS),
            Lease::Upnp { .. } => LEASE_SECONDS,
        };
        Duration::from_secs(u64::from(seconds / 2)).max(RENEW_AT_MOST_EVERY)
    }

    /// Nothing depends on it: without it the mapping lapses.
    async fn give_back(self) {
        let gone = match self {
            Lease::Pmp { mut mapping, .. } => {
                mapping.timeout_config = PATIENCE_AT_END;
                mapping.try_drop().await.map_err(|(e, _)| e.to_string())
            }
            Lease::Upnp { gateway, external, .. } => gateway
                .remove_port(PortMappingProtocol::UDP, external.port())
                .await
                .map_err(|e| e.to_string()),
        };
        if let Err(error) = gone {
            tracing::debug!(error, "the port mapping could not be taken back");
        }
    }
}

/// Where a mapping of PCP or NAT-PMP is seen from outside.
async fn external_of(mapping: &PortMapping) -> Result<SocketAddr, String> {
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        PortMappingType::NatPmp => natpmp::external_address(mapping.gateway(), Some(PATIENCE))
            .await
            .map_err(|e| e.to_string())?
            .into(),
    };
    external(ip, mapping.external_port().get())
}

/// Has a UPnP router forward a port: the wished one, else any.
async fn forward(gateway: Box<Gateway<Tokio>>, local: SocketAddr, wished: u16) -> Result<Lease, String> {
    let udp = PortMappingProtocol::UDP;
    let mut added = gateway.add_port(udp, wished, local, LEASE_SECONDS, DESCRIPTION).await;
    if matches!(added, Err(AddPortError::OnlyPermanentLeasesSupported)) {
        added = gateway.add_port(udp, wished, local, 0, DESCRIPTION).await;
    }
    let port = match added {
        Ok(()) => wished,
        Err(AddPortError::PortInUse) => {
            gateway.add_any_port(udp, local, LEASE_SECONDS, DESCRIPTION).await.map_err(|e| e.to_string())?
        }
        Err(error) => return Err(error.to_string()),
    };
    let ip = gateway.get_external_ip().await.map_err(|e| e.to_string())?;
    Ok(Lease::Upnp { external: external(ip, port)?, local, gateway })
}

/// An address outside that can be one at all.
fn external(ip: IpAddr, port: u16) -> Result<SocketAddr, String> {
    let never = ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.is_link_local());
    if never || port == 0 {
        return Err(format!("the router names {ip}, port {port}, as its own"));
    }
    Ok(SocketAddr::new(ip, port))
}

/// The gateway of the default route of IPv4, as Linux tells it.
fn default_gateway() -> Option<Ipv4Addr> {
    gateway_of(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Of several default routes, the one with the lowest metric.
fn gateway_of(table: &str) -> Option<Ipv4Addr> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, metric, mask, ..] = fields[..] else { return None };
        // The kernel prints the bytes of the address as one number of the machine's own order.
        let number = u32::from_str_radix(gateway, 16).ok()?;
        let ip = Ipv4Addr::from(number.to_ne_bytes());
        let is_default = destination == "00000000" && mask == "00000000" && !ip.is_unspecified();
        is_default.then_some((metric.parse::<u32>().ok()?, ip))
    };
    table.lines().skip(1).filter_map(route).min().map(|(_, ip)| ip)
}

#[cfg(test)]
mod tests;
