//! The configuration of relays: those that this node uses, and what it gives as one itself.
//!
//! A relay is named by its key and by where it is: TLS is pinned to the key, so whoever answers at the address in its place
//! gets nothing. A host name is looked up when the node starts, once, and not for longer than [`RESOLVE_WITHIN`]: a node
//! whose resolver does not answer starts without that relay and says so, rather than not at all.

use super::Settings;
use remote_network_core::id::PublicKey;
use remote_network_core::relay::server;
use remote_network_core::time::Duration;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::mpsc;

/// Relays that a configuration names at the most; a node uses two at a time.
pub(super) const RELAYS_MAX: usize = 8;
/// Names of hosts that are not found by then are left out.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Longest name of a host (RFC 1035).
const HOST_MAX: usize = 253;
/// Bytes of the system's socket buffers that an ordinary node wants: a pause of 100 ms at 160 Mbit/s.
const BUFFER_BYTES: usize = 2 << 20;
/// Those of a relay, which hears the packets of all its sessions at once: four times as much.
const RELAY_BUFFER_BYTES: usize = 8 << 20;

/// A relay as the configuration names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayAt {
    key: PublicKey,
    host: Host,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Host {
    Addr(SocketAddr),
    Name(String, u16),
}

impl RelayAt {
    /// Who it is.
    pub fn key(&self) -> PublicKey {
        self.key
    }
}

impl FromStr for RelayAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "key_…@host:port".to_owned();
        let (key, place) = text.split_once('@').ok_or_else(wanted)?;
        let key = key.parse().map_err(|_| wanted())?;
        Ok(Self { key, host: place.parse().map_err(|()| wanted())? })
    }
}

impl FromStr for Host {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            let usable = addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast();
            return if usable { Ok(Host::Addr(addr)) } else { Err(()) };
        }
        let (name, port) = text.rsplit_once(':').ok_or(())?;
        let port: u16 = port.parse().map_err(|_| ())?;
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        // A last label of digits alone would be an address that is not one, such as 192.0.2.
        let named = |name: &str| {
            let name = name.strip_suffix('.').unwrap_or(name);
            name.split('.').all(label)
                && !name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
        };
        if port == 0 || name.len() > HOST_MAX || !named(name) {
            return Err(());
        }
        Ok(Host::Name(name.to_owned(), port))
    }
}

impl fmt::Display for RelayAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Addr(addr) => write!(f, "{}@{addr}", self.key),
            Host::Name(name, port) => write!(f, "{}@{name}:{port}", self.key),
        }
    }
}

/// Where the relays are, for a socket that is bound to `listen`. Those that cannot be found or reached from it are left
/// out, and the log says why.
pub fn resolve_relays(relays: &[RelayAt], listen: IpAddr) -> Vec<(PublicKey, SocketAddr)> {
    let until = std::time::Instant::now() + RESOLVE_WITHIN;
    // All at once, each on a thread of its own: the system's resolver knows no deadline.
    let asked: Vec<_> = relays.iter().map(|relay| (relay, ask(&relay.host))).collect();
    let mut found = Vec::new();
    for (relay, answer) in asked {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let addrs = answer.recv_timeout(left).unwrap_or_else(|_| Err("no answer in time".into()));
        match addrs.map(|all| all.into_iter().find(|a| reaches(listen, a.ip()))) {
            Ok(Some(addr)) => found.push((relay.key, addr)),
            Ok(None) => {
                tracing::warn!(%relay, %listen, "this relay has no address that can be reached from `listen`");
            }
            Err(why) => tracing::warn!(%relay, %why, "the address of this relay was not found"),
        }
    }
    found
}

/// Addresses of a host, or why there are none.
type Answer = Result<Vec<SocketAddr>, String>;

fn ask(host: &Host) -> mpsc::Receiver<Answer> {
    let (told, answer) = mpsc::channel();
    // Whoever waited is gone when the answer is too late.
    match host {
        Host::Addr(addr) => drop(told.send(Ok(vec![*addr]))),
        Host::Name(name, port) => {
            let (name, port) = (name.clone(), *port);
            let look = move || {
                let found = (name.as_str(), port).to_socket_addrs();
                drop(told.send(found.map(Iterator::collect).map_err(|e| e.to_string())));
            };
            if let Err(e) = std::thread::Builder::new().name("resolver".into()).spawn(look) {
                tracing::warn!(error = %e, "no thread to look up the address of a relay");
            }
        }
    }
    answer
}

/// Whether a socket bound there can send to that address. One that is bound to all of IPv6 carries IPv4 too.
fn reaches(listen: IpAddr, to: IpAddr) -> bool {
    match listen {
        IpAddr::V4(_) => to.is_ipv4(),
        IpAddr::V6(ip) => to.is_ipv6() || ip.is_unspecified(),
    }
}

impl Settings {
    /// What this node gives as a relay.
    pub fn relay_limits(&self) -> server::Config {
        server::Config {
            sessions_max: self.relay_max_sessions,
            sessions_per_address_max: self.relay_sessions_per_address,
            session_rate: self.relay_session_rate,
            address_rate: self.relay_address_rate,
            total_rate: self.relay_total_rate,
            price: self.relay_price,
            keepalive: Duration::from_secs(self.relay_keepalive_interval),
            ..server::Config::default()
        }
    }

    /// How large the system's buffers of the node's socket should be, in bytes.
    pub fn socket_buffer_bytes(&self) -> usize {
        if self.relay { RELAY_BUFFER_BYTES } else { BUFFER_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::id::Keypair;

    fn key() -> PublicKey {
        Keypair::from_seed(&[7; 32]).public()
    }

    #[test]
    fn a_relay_is_a_key_at_a_host_and_reads_back_as_it_is_shown() {
        let long = "a".repeat(63);
        for place in
            ["192.0.2.1:30906", "[2001:db8::1]:1", "relay.example:65535", "localhost:1", "a_b.c-d.:7"]
        {
            let text = format!("{}@{place}", key());
            let relay: RelayAt = text.parse().unwrap();
            assert_eq!((relay.to_string(), relay.key()), (text, key()));
        }
        let wrong = [
            "",
            "host",
            "host:0",
            "host:70000",
            ":1",
            "192.0.2:1",
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "a..b:1",
            "-a:1",
            "a b:1",
            "2001:db8::1:30906",
            "user@host:1",
            "a.7:1",
            "host:1/x",
            &format!("{long}a.b:1"),
        ];
        for place in wrong {
            assert!(format!("{}@{place}", key()).parse::<RelayAt>().is_err(), "{place}");
        }
        for text in ["relay.example:1", "key_x@relay.example:1", "@relay.example:1"] {
            assert!(text.parse::<RelayAt>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_that_the_socket_cannot_reach_are_left_out() {
        let at = |place: &str| format!("{}@{place}", key()).parse::<RelayAt>().unwrap();
        let relays = [at("192.0.2.1:1"), at("[2001:db8::1]:2"), at("no-such-host.invalid:3")];
        let ports = |listen: &str| -> Vec<u16> {
            resolve_relays(&relays, listen.parse().unwrap()).iter().map(|(_, a)| a.port()).collect()
        };
        assert_eq!(ports("::"), [1, 2]);
        assert_eq!(ports("0.0.0.0"), [1]);
        assert_eq!(ports("2001:db8::7"), [2]);
    }

    #[test]
    fn a_name_is_looked_up() {
        let relay: RelayAt = format!("{}@localhost:9", key()).parse().unwrap();
        let found = resolve_relays(&[relay], IpAddr::from([127, 0, 0, 1]));
        assert_eq!(found, [(key(), "127.0.0.1:9".parse().unwrap())]);
    }

    #[test]
    fn what_a_relay_gives_by_default_is_what_the_core_gives_by_default() {
        let settings = Settings::default();
        assert_eq!(settings.relay_limits(), server::Config::default());
        assert!(!settings.relay && settings.relays.is_empty() && settings.birthday_probing);
    }
}
