//! The DHT for nodes whose network lets no UDP through: their relay asks it for them ([`crate::relay::errand`]).
//!
//! A node sends what it wants of the DHT to its relay as long as it reaches relays in tunnels only; nothing else of
//! the node knows the difference. A relay runs errands for those who hold a session with it, a bounded number each.

use super::Node;
use super::wiring::Inside;
use crate::action::Action;
use crate::dht;
use crate::few::Few;
use crate::id::{ConnId, OpId, OpIds, PublicKey};
use crate::meter::Meter;
use crate::port::{DhtEvent, DhtFailed, DhtRequest};
use crate::relay::errand::{self, Answer, Ask, PER_CLIENT_MAX, Told, UNDER_WAY_MAX};
use crate::transport::Transport;

/// Errands of ours, and of our clients.
#[derive(Debug)]
pub(super) struct Errands {
    /// Operations of ours that a relay runs, and the connection to it.
    ours: Few<OpId, ConnId>,
    /// Operations for clients: whose, and the client's number.
    theirs: Few<OpId, (ConnId, OpId)>,
    ids: OpIds,
    meter: Meter,
}

impl Errands {
    pub(super) fn new(room: u8) -> Self {
        Self { ours: Few::new(), theirs: Few::new(), ids: OpIds::new(room), meter: errand::meter() }
    }
}

impl<T: Transport> Node<T> {
    /// Something is wanted of the DHT: by the port, or by a relay where UDP does not get through.
    pub(super) fn ask_dht(&mut self, op: OpId, request: DhtRequest) {
        if request == DhtRequest::Cancel && self.errands.ours.remove(&op).is_some() {
            let result = Err(DhtFailed::Cancelled);
            return self.inbox.push_back(Inside::Dht(dht::Input::Dht(DhtEvent::Done { op, result })));
        }
        let errand = if self.tunnelling.in_use() > 0 { Ask::new(op, &request) } else { None };
        match errand.and_then(|ask| Some((ask, self.active_relay()?))) {
            Some((ask, relay)) => {
                self.errands.ours.insert(op, relay);
                self.send_on(relay, &ask.to_frame());
            }
            None => self.actions.push_back(Action::Dht { op, request }),
        }
    }

    /// The connection to the best relay with a session of ours.
    fn active_relay(&self) -> Option<ConnId> {
        let up = |key| self.links.of(key).filter(|(_, l)| l.identified).map(|(conn, _)| conn);
        self.reserving.attachments().iter().find_map(|a| up(&a.relay))
    }

    /// A relay answers an errand of ours.
    pub(super) fn errand_answered(&mut self, conn: ConnId, answer: Answer) {
        if self.errands.ours.get(&answer.op) != Some(&conn) {
            return self.refuse("errand-unasked");
        }
        if matches!(answer.told, Told::Done(_)) {
            self.errands.ours.remove(&answer.op);
        }
        self.inbox.push_back(Inside::Dht(dht::Input::Dht(answer.into_event())));
    }

    /// A client sends us on an errand.
    pub(super) fn errand_asked(&mut self, conn: ConnId, client: PublicKey, ask: Ask) {
        let under_way = self.errands.theirs.values().filter(|(c, _)| *c == conn).count();
        let full = under_way >= PER_CLIENT_MAX || self.errands.theirs.len() >= UNDER_WAY_MAX;
        let serves = self.passing.as_ref().is_some_and(|p| p.holds(&client));
        if !serves || !ask.is_allowed(&client) {
            self.refuse("errand-not-allowed");
        } else if full || !self.errands.meter.hears(self.now, &client) {
            self.refuse("errand-flood");
        } else {
            let op = self.errands.ids.issue();
            self.errands.theirs.insert(op, (conn, ask.op));
            return self.actions.push_back(Action::Dht { op, request: ask.request });
        }
        let told = Told::Done(Err(DhtFailed::Offline));
        self.send_on(conn, &Answer { op: ask.op, told }.to_frame());
    }

    /// The DHT tells something about a client's errand.
    pub(super) fn errand_event(&mut self, op: OpId, told: Told) {
        let done = matches!(told, Told::Done(_));
        let asked =
            if done { self.errands.theirs.remove(&op) } else { self.errands.theirs.get(&op).copied() };
        // Whose connection is gone since then asks again.
        if let Some((conn, theirs)) = asked.filter(|(conn, _)| self.links.get(*conn).is_some()) {
            self.send_on(conn, &Answer { op: theirs, told }.to_frame());
        }
    }

    /// A connection ended: what its relay was to find out for us is not found out.
    pub(super) fn errands_down(&mut self, conn: ConnId) {
        let lost: Vec<OpId> =
            self.errands.ours.iter().filter(|(_, c)| **c == conn).map(|(op, _)| *op).collect();
        for op in lost {
            self.errands.ours.remove(&op);
            let result = Err(DhtFailed::Offline);
            self.inbox.push_back(Inside::Dht(dht::Input::Dht(DhtEvent::Done { op, result })));
        }
    }
}
