//! Tells of the addresses of the machine's interfaces whenever they change.
//!
//! Linux says that something changed over a netlink socket. What it says is not read: a change comes as a burst of
//! messages of many kinds, and the list that the system gives a moment later is the truth. So a plain socket is enough,
//! and no crate for the messages. Elsewhere the list is fetched at intervals.

use super::interfaces;
use crate::ports::Ending;
use async_channel::Sender;
use remote_network_core::event::Event;
#[cfg(not(target_os = "linux"))]
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;

/// After the first word of a change: the rest of the burst comes within milliseconds, and DHCP sets the address right
/// after the link is up.
const SETTLE: Duration = Duration::from_millis(100);

pub(super) struct Monitor {
    /// What the node's socket is bound to.
    pub(super) socket: SocketAddr,
    pub(super) private_network: bool,
    pub(super) look_every: Duration,
    /// The last list, for the tasks that go by it.
    pub(super) found: watch::Sender<Vec<SocketAddr>>,
    pub(super) on_change: Box<dyn FnMut() + Send>,
}

impl Monitor {
    pub(super) async fn run(mut self, events: &Sender<Event>, mut ending: Ending) {
        let changes = match Changes::watch() {
            Ok(changes) => Some(changes),
            Err(error) => {
                tracing::debug!(%error, every = ?self.look_every, "no word of changes: looking at intervals");
                None
            }
        };
        let mut first = true;
        loop {
            match interfaces::usable_here(self.socket, self.private_network) {
                Ok(now) if first || *self.found.borrow() != now => {
                    tracing::debug!(addrs = ?now, "the addresses of this machine");
                    if events.send(Event::LocalAddrs(now.clone())).await.is_err() {
                        return;
                    }
                    self.found.send_replace(now);
                    if !first {
                        (self.on_change)();
                    }
                    first = false;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the interfaces cannot be listed"),
            }
            tokio::select! {
                () = ending.come() => return,
                () = changed(changes.as_ref(), self.look_every) => {}
            }
        }
    }
}

/// Returns once it is worth looking again.
async fn changed(changes: Option<&Changes>, look_every: Duration) {
    let Some(changes) = changes else { return tokio::time::sleep(look_every).await };
    match changes.next().await {
        Ok(()) => {
            tokio::time::sleep(SETTLE).await;
            changes.clear();
        }
        Err(error) => {
            tracing::warn!(%error, "the system's word of changes failed");
            tokio::time::sleep(look_every).await;
        }
    }
}

#[cfg(target_os = "linux")]
use linux::Changes;

#[cfg(target_os = "linux")]
mod linux {
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
    use smol::Async;
    use std::io;
    use std::os::fd::OwnedFd;

    /// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of rtnetlink(7): links and addresses come and go.
    const GROUPS: u32 = 0x1 | 0x10 | 0x100;

    /// The system's word that links or addresses changed. Watched by async-io, since tokio has no safe way to watch a
    /// socket that it does not know.
    pub(in super::super) struct Changes(Async<OwnedFd>);

    impl Changes {
        pub(in super::super) fn watch() -> io::Result<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // Protocol 0 of netlink is `NETLINK_ROUTE`.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(Self(Async::new_nonblocking(socket)?))
        }

        /// Waits for a change.
        pub(in super::super) async fn next(&self) -> io::Result<()> {
            self.0.read_with(read).await
        }

        /// Forgets what was said until now.
        pub(in super::super) fn clear(&self) {
            while read(self.0.get_ref()).is_ok() {}
        }
    }

    fn read(socket: &OwnedFd) -> io::Result<()> {
        let mut unread = [0; 256];
        match recv(socket, &mut unread, RecvFlags::TRUNC) {
            Ok(_) => Ok(()),
            // More was said than the buffer held: that too is a change.
            Err(rustix::io::Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
struct Changes;

#[cfg(not(target_os = "linux"))]
impl Changes {
    fn watch() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn next(&self) -> io::Result<()> {
        std::future::pending().await
    }

    fn clear(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Set for the process that plays in a network of its own.
    const WITHIN: &str = "REMOTE_NETWORK_TEST_OWN_NETWORK";

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    // A network namespace is a process's: the test starts itself again within one.
    #[test]
    fn an_address_that_comes_or_goes_is_told_at_once() {
        if std::env::var_os(WITHIN).is_some() {
            return within();
        }
        let usable = |c: &mut Command| c.output().is_ok_and(|o| o.status.success());
        if !usable(Command::new("unshare").args(["-rn", "ip", "link"])) {
            println!("SKIPPED: no network namespaces, or no `ip`, on this machine");
            return;
        }
        let name = "ports::net::monitor::tests::an_address_that_comes_or_goes_is_told_at_once";
        let me = std::env::current_exe().unwrap();
        let mut again = Command::new("unshare");
        let output = again.arg("-rn").arg(me).args([name, "--exact"]).env(WITHIN, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    fn within() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (events, told) = async_channel::bounded(16);
            let (end, ending) = watch::channel(false);
            let (found, _keep) = watch::channel(Vec::new());
            let (changed, changes) = std::sync::mpsc::channel();
            let monitor = Monitor {
                socket: "0.0.0.0:9".parse().unwrap(),
                private_network: false,
                look_every: Duration::from_secs(3_600),
                found,
                on_change: Box::new(move || changed.send(()).unwrap()),
            };
            let running = tokio::spawn(async move { monitor.run(&events, Ending(ending)).await });
            let next = async || {
                let event =
                    tokio::time::timeout(Duration::from_secs(60), told.recv()).await.unwrap().unwrap();
                let Event::LocalAddrs(addrs) = event else { panic!("{event:?}") };
                addrs.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            assert_eq!(next().await, [""; 0], "nothing is up");
            ip("link set lo up");
            assert_eq!(next().await, ["127.0.0.1:9"]);
            ip("address add 192.0.2.1/32 dev lo");
            ip("address add 198.51.100.1/32 dev lo");
            assert_eq!(next().await, ["192.0.2.1:9", "198.51.100.1:9"], "both in one event");
            ip("address del 192.0.2.1/32 dev lo");
            assert_eq!(next().await, ["198.51.100.1:9"]);
            end.send(true).unwrap();
            running.await.unwrap();
            assert_eq!(changes.iter().count(), 3);
        });
    }
}
