//! Peers on the same link, by mDNS and DNS-SD (RFC 6762, RFC 6763).
//!
//! We announce a service `_remote-network._udp.local` with our key and the networks that we meet others in, and browse for
//! others. `mdns-sd` speaks the protocol on a thread of its own. Names of networks are announced as their SHA-1, as in the
//! DHT: whoever knows the name recognizes it. Of the private key nothing is used: an announcement is signed by nobody and
//! believed by nobody; it says where to try a handshake.

use crate::ports::Ending;
use async_channel::Sender;
use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use remote_network_core::event::Event;
use remote_network_core::id::{DhtId, PublicKey};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The service, as others browse for it.
const SERVICE: &str = "_remote-network._udp.local.";
/// Peers believed to be here within [`WINDOW`]: more is a flood.
const PEERS_MAX: usize = 256;
/// Addresses of one peer.
const ADDRS_MAX: usize = 8;
/// How long a peer counts, and is not told again.
const WINDOW: Duration = Duration::from_secs(60);
/// For the goodbye to leave.
const GOODBYE_WITHIN: Duration = Duration::from_millis(500);
/// After the protocol's thread has failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);

pub(super) struct Link {
    pub(super) key: PublicKey,
    pub(super) topics: Vec<DhtId>,
    pub(super) port: u16,
    /// Whether the socket is bound to loopback: then that is the link.
    pub(super) loopback: bool,
}

impl Link {
    pub(super) async fn run(
        self,
        mut addrs: watch::Receiver<Vec<SocketAddr>>,
        events: &Sender<Event>,
        mut ending: Ending,
    ) {
        let mut hearsay = Hearsay::new(self.key, &self.topics, self.loopback, Instant::now());
        loop {
            if let Err(error) = self.session(&mut hearsay, &mut addrs, events, ending.clone()).await {
                tracing::debug!(%error, "mDNS");
            }
            tokio::select! {
                () = ending.come() => return,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// Returns at the end, or when the protocol's thread has nothing more to tell.
    async fn session(
        &self,
        hearsay: &mut Hearsay,
        addrs: &mut watch::Receiver<Vec<SocketAddr>>,
        events: &Sender<Event>,
        mut ending: Ending,
    ) -> Result<(), mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        // A daemon takes every interface; the wrong ones would be told of addresses that are not theirs.
        daemon.disable_interface(if self.loopback { IfKind::All } else { IfKind::LoopbackV4 })?;
        daemon.disable_interface(IfKind::LoopbackV6)?;
        if self.loopback {
            daemon.enable_interface(IfKind::LoopbackV4)?;
        }
        let found = daemon.browse(SERVICE)?;
        addrs.mark_changed();
        let told = loop {
            tokio::select! {
                () = ending.come() => break Ok(()),
                changed = addrs.changed() => {
                    if changed.is_err() {
                        break Ok(());
                    }
                    let here = addrs.borrow_and_update().clone();
                    if let Err(error) = daemon.register(self.announcement(&here)?) {
                        break Err(error);
                    }
                }
                event = found.recv_async() => match event {
                    Ok(ServiceEvent::ServiceResolved(service)) => {
                        for (key, addr) in hearsay.hear(Instant::now(), &service) {
                            let _gone = events.send(Event::Nearby { key, addr }).await;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => break Ok(()),
                },
            }
        };
        goodbye(&daemon, &format!("{}.{SERVICE}", self.key.peer_id())).await;
        told
    }

    /// What we say of ourselves. Name and host are made of the key, so that nobody else has them by honest chance.
    fn announcement(&self, addrs: &[SocketAddr]) -> Result<ServiceInfo, mdns_sd::Error> {
        let name = self.key.peer_id().to_string();
        let ips: Vec<IpAddr> = addrs.iter().map(SocketAddr::ip).take(ADDRS_MAX).collect();
        let mut txt = vec![("key".to_owned(), self.key.to_string())];
        txt.extend(self.topics.iter().enumerate().map(|(i, topic)| (format!("topic{i}"), hex(&topic.0))));
        let host = format!("{name}.local.");
        let mut service = ServiceInfo::new(SERVICE, &name, &host, &ips[..], self.port, &txt[..])?;
        service.set_requires_probe(false);
        Ok(service)
    }
}

/// Takes the announcement back and ends the protocol's thread.
async fn goodbye(daemon: &ServiceDaemon, name: &str) {
    let said = async {
        if let Ok(done) = daemon.unregister(name) {
            let _said = done.recv_async().await;
        }
        if let Ok(done) = daemon.shutdown() {
            let _ended = done.recv_async().await;
        }
    };
    if tokio::time::timeout(GOODBYE_WITHIN, said).await.is_err() {
        tracing::debug!("mDNS did not end in time");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ok = write!(out, "{byte:02x}");
        out
    })
}

/// What others say, bounded: any machine on the link may say anything.
struct Hearsay {
    own: PublicKey,
    topics: BTreeSet<String>,
    loopback: bool,
    /// Who was heard within the window, and where.
    heard: BTreeMap<PublicKey, BTreeSet<SocketAddr>>,
    window_ends: Instant,
}

impl Hearsay {
    fn new(own: PublicKey, topics: &[DhtId], loopback: bool, now: Instant) -> Self {
        let topics = topics.iter().map(|topic| hex(&topic.0)).collect();
        Self { own, topics, loopback, heard: BTreeMap::new(), window_ends: now + WINDOW }
    }

    /// What of an answer is worth a try and was not told lately.
    fn hear(&mut self, now: Instant, service: &ResolvedService) -> Vec<(PublicKey, SocketAddr)> {
        let texts = service.get_properties().iter().filter(|p| p.key().starts_with("topic"));
        let shared = texts.take(self.topics.len().max(ADDRS_MAX)).any(|p| self.topics.contains(p.val_str()));
        let key = service.get_properties().get_property_val_str("key").and_then(|key| key.parse().ok());
        let ips = service.get_addresses().iter().map(mdns_sd::ScopedIp::to_ip_addr);
        match key {
            Some(key) if shared => self.tell(now, key, ips.map(|ip| SocketAddr::new(ip, service.get_port()))),
            Some(_) | None => Vec::new(),
        }
    }

    fn tell(
        &mut self,
        now: Instant,
        key: PublicKey,
        addrs: impl Iterator<Item = SocketAddr>,
    ) -> Vec<(PublicKey, SocketAddr)> {
        if now >= self.window_ends {
            self.heard.clear();
            self.window_ends = now + WINDOW;
        }
        if key == self.own || (!self.heard.contains_key(&key) && self.heard.len() >= PEERS_MAX) {
            return Vec::new();
        }
        let loopback = self.loopback;
        let usable: BTreeSet<SocketAddr> = addrs.filter(|addr| is_on_link(addr, loopback)).collect();
        if usable.is_empty() {
            return Vec::new();
        }
        let heard = self.heard.entry(key).or_default();
        let room = ADDRS_MAX.saturating_sub(heard.len());
        let new: Vec<SocketAddr> = usable.difference(heard).copied().take(room).collect();
        heard.extend(&new);
        new.into_iter().map(|addr| (key, addr)).collect()
    }
}

/// Whether somebody on the link can be there. Link-local addresses of IPv6 would need the name of an interface.
fn is_on_link(addr: &SocketAddr, loopback: bool) -> bool {
    let ip = addr.ip();
    let never = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    addr.port() != 0 && !never && !ip.is_unspecified() && !ip.is_multicast() && (ip.is_loopback() == loopback)
}

#[cfg(test)]
mod tests;
