//! Dial-backs between nodes: what our NAT lets in and how long its mappings live ([`crate::path::dialback`]).
//!
//! A private node asks public ones to which it is connected over UDP; a public node answers whoever is connected to it. What
//! comes of it is the observer's, and through it the paths': mappings are kept alive at half of the measured lifetime.

use super::Node;
use super::wiring::{Inside, drive};
use crate::action::Action;
use crate::dht::record::NodeType;
use crate::few::Few;
use crate::id::{ConnId, PublicKey};
use crate::machine::Machine;
use crate::path::behaviour::observer;
use crate::path::dialback::{self, DialBack, client, server};
use crate::path::stun;
use crate::place::{Place, SocketEvent, SocketId};
use crate::time::Deadline;
use crate::transport::Transport;
use bytes::Bytes;
use std::net::SocketAddr;

/// The two machines, and who may be asked.
#[derive(Debug, Default)]
pub(super) struct DialBacks {
    client: client::Client,
    server: server::Server,
    /// Connections to public nodes.
    public: Few<ConnId, ()>,
}

impl DialBacks {
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        Deadline::earlier(self.client.poll_timeout(), self.server.poll_timeout())
    }
}

impl<T: Transport> Node<T> {
    // ------------------------------------------------------------------------------------ asking

    /// A peer is identified: a public one may be asked.
    pub(super) fn dialback_up(&mut self, conn: ConnId, node_type: NodeType) {
        if !self.config.public && node_type == NodeType::Public {
            self.reach.dialbacks.public.insert(conn, ());
            self.dialback_place(conn);
        }
    }

    /// A connection may have another place: only one on our main socket can be asked.
    pub(super) fn dialback_place(&mut self, conn: ConnId) {
        if !self.reach.dialbacks.public.contains_key(&conn) {
            return;
        }
        let input = match self.transport.place(conn) {
            Some(Place::Direct { socket: SocketId::MAIN, addr }) => {
                client::Input::Server { conn, addr, rtt: self.rtt_of(conn) }
            }
            Some(Place::Direct { .. } | Place::Relayed { .. } | Place::Tunnel(_)) | None => {
                client::Input::Gone(conn)
            }
        };
        self.tell_dialback(input);
    }

    /// A connection ended.
    pub(super) fn dialback_down(&mut self, conn: ConnId) {
        self.tell_dial_backer(server::Input::Down(conn));
        if self.reach.dialbacks.public.remove(&conn).is_some() {
            self.tell_dialback(client::Input::Gone(conn));
        }
    }

    /// What is known of our NAT has changed: whether there is one.
    pub(super) fn dialback_behind(&mut self) {
        let nat = self.reach.observer.behaviour();
        let behind = !self.config.public && !nat.open && !nat.public_ips.is_empty();
        self.tell_dialback(client::Input::Behind(behind));
    }

    pub(super) fn dialback_network_changed(&mut self) {
        self.tell_dialback(client::Input::NetworkChanged);
    }

    /// A server of STUN told where it sees a socket of ours, or nothing.
    pub(super) fn dialback_mapped(&mut self, by: SocketAddr, socket: SocketId, mapped: Option<SocketAddr>) {
        self.tell_dialback(match mapped {
            Some(mapped) => client::Input::Mapped { by, socket, mapped },
            None => client::Input::Unanswered { by, socket },
        });
    }

    /// A datagram that somebody was asked for, it seems.
    pub(super) fn dialled_back(&mut self, socket: SocketId, from: SocketAddr, datagram: &[u8]) {
        match dialback::parse(datagram) {
            Some(nonce) => self.tell_dialback(client::Input::Arrived { socket, from, nonce }),
            None => {
                self.refuse("dialback-malformed");
                self.tell_dialback(client::Input::Disturbed(socket));
            }
        }
    }

    /// Something came in on a socket that is to be left alone.
    pub(super) fn dialback_disturbed(&mut self, socket: SocketId) {
        self.tell_dialback(client::Input::Disturbed(socket));
    }

    /// A socket of these machines was opened, or failed.
    pub(super) fn dialback_socket(&mut self, event: SocketEvent) {
        let (SocketEvent::Opened(socket, _) | SocketEvent::Failed(socket, _)) = &event;
        if *socket == dialback::FURTHER {
            self.tell_dial_backer(server::Input::Socket(event));
        } else {
            self.tell_dialback(client::Input::Socket(event));
        }
    }

    fn tell_dialback(&mut self, input: client::Input) {
        let (now, wall) = (self.now, self.wall);
        let (client, rng) = (&mut self.reach.dialbacks.client, &mut self.rngs.dialback);
        let out = drive(client, rng, now, wall, |m, cx| m.handle(cx, input));
        self.after_dialback(out);
    }

    fn after_dialback(&mut self, out: Vec<client::Output>) {
        for o in out {
            match o {
                client::Output::Socket(request) => self.actions.push_back(Action::Socket(request)),
                client::Output::Stun { socket, to } => {
                    self.inbox.push_back(Inside::Stun(stun::Input::Ask { socket, to }));
                }
                client::Output::Ask { conn, request } => self.send_on(conn, &request.to_frame()),
                client::Output::Filter { arrived } => {
                    let dialled = observer::Input::DialledBack { same_ip: true, arrived };
                    self.inbox.push_back(Inside::Observer(dialled));
                }
                client::Output::Idled { idle, alive } => {
                    self.inbox.push_back(Inside::Observer(observer::Input::Idled { idle, alive }));
                }
                client::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    // ------------------------------------------------------------------------------------ answering

    /// A peer wants to be dialled back.
    pub(super) fn dialback_asked(&mut self, conn: ConnId, peer: PublicKey, request: DialBack) {
        let place = self.transport.place(conn).filter(|_| self.config.public);
        let Some(Place::Direct { socket, addr }) = place else {
            return self.refuse("dialback-not-here");
        };
        let ip = addr.ip().to_canonical();
        self.tell_dial_backer(server::Input::Asked { conn, peer, ip, socket, request });
    }

    fn tell_dial_backer(&mut self, input: server::Input) {
        let (now, wall) = (self.now, self.wall);
        let (server, rng) = (&mut self.reach.dialbacks.server, &mut self.rngs.dialback);
        let out = drive(server, rng, now, wall, |m, cx| m.handle(cx, input));
        self.after_dial_backer(out);
    }

    fn after_dial_backer(&mut self, out: Vec<server::Output>) {
        for o in out {
            match o {
                server::Output::Send { conn, socket, to, nonce } => {
                    let there = self.addr_of(conn).is_some_and(|a| a.ip().to_canonical() == to.ip());
                    let bytes = Bytes::copy_from_slice(&dialback::datagram(nonce));
                    if !there {
                        self.refuse("dialback-moved");
                    } else {
                        self.speaks_to(to);
                        if !self.reach.send(socket, to, bytes) {
                            self.refuse("probes-waiting");
                        }
                    }
                }
                server::Output::Socket(request) => self.actions.push_back(Action::Socket(request)),
                server::Output::Refused(why) => self.refuse(why),
            }
        }
    }

    // ------------------------------------------------------------------------------------ time

    pub(super) fn dialback_timeout(&mut self) {
        let (now, wall) = (self.now, self.wall);
        let due = |d: Option<Deadline>| d.is_some_and(|d| d.at <= now);
        if due(self.reach.dialbacks.client.poll_timeout()) {
            let (client, rng) = (&mut self.reach.dialbacks.client, &mut self.rngs.dialback);
            let out = drive(client, rng, now, wall, Machine::handle_timeout);
            self.after_dialback(out);
        }
        if due(self.reach.dialbacks.server.poll_timeout()) {
            let (server, rng) = (&mut self.reach.dialbacks.server, &mut self.rngs.dialback);
            let out = drive(server, rng, now, wall, Machine::handle_timeout);
            self.after_dial_backer(out);
        }
    }
}
