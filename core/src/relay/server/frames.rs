//! Sessions as they are made and end: what peers say on their control streams, the operator, and time.

use super::*;

impl Server {
    /// Says something to a peer, as long as it does not make the relay say too much.
    pub(super) fn say(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, message: &Message) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        if peer.frames.take(cx.now, 1) {
            cx.emit(Output::Send { conn, frame: message.to_frame() });
        }
    }

    pub(super) fn refuse(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, why: Why) {
        self.stats.refused += 1;
        self.say(cx, conn, &Message::Refused { why, words: why.words().to_owned() });
    }

    /// Whether a peer may have a session of this kind; if so it has.
    pub(super) fn make_session(
        &mut self,
        cx: &mut Cx<'_, Output>,
        conn: ConnId,
        kind: Kind,
    ) -> Result<(), Why> {
        if !self.serving {
            return Err(Why::NoRelay);
        }
        if self.closing.is_some() {
            return Err(Why::Closing);
        }
        let Some(peer) = self.peers.get(&conn) else { return Err(Why::NoRelay) };
        let (key, id, addr) = (peer.key, peer.id, peer.addr);
        if let Some(other) = self.by_id.get(&id).copied() {
            // The same peer by an older connection makes room; another key with the same id does not.
            if self.peers.get(&other).is_some_and(|p| p.key != key) {
                return Err(Why::Blocked);
            }
            self.end(cx, other);
        }
        self.admission.admit(&self.config, cx.now, &key, addr, kind)?;
        let session: SessionId = cx.rng.bytes();
        let bucket = byte_bucket(self.config.session_rate, cx.now);
        let session = Session::new(session, kind, bucket, cx.now, cx.wall, self.config.lifetime);
        self.ends.insert((session.ends(), conn));
        self.by_id.insert(id, conn);
        if let Some(peer) = self.peers.get_mut(&conn) {
            peer.session = Some(Box::new(session));
        }
        self.stats.accepted += 1;
        Ok(())
    }

    fn register(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let Some(peer) = self.peers.get(&conn) else { return };
        let key = peer.key;
        let made = match peer.session.as_ref().map(|s| s.kind) {
            None => self.make_session(cx, conn, Kind::Reserved),
            Some(_) if self.closing.is_some() => Err(Why::Closing),
            Some(Kind::Reserved) => Ok(()),
            Some(Kind::Visitor) => self.admission.promote(&self.config, cx.now, &key),
        };
        if let Err(why) = made {
            return self.refuse(cx, conn, why);
        }
        let expires = cx.now + self.config.lifetime;
        let free = self.config.sessions_max.saturating_sub(self.admission.sessions());
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let Some(session) = peer.session.as_mut() else { return };
        session.reserve(expires);
        let registered = super::super::message::Registered {
            session: session.id,
            observed: peer.addr,
            bytes_per_second: self.config.session_rate,
            keepalive: self.config.keepalive,
            lifetime: self.config.lifetime,
            free: u32::try_from(free).unwrap_or(u32::MAX),
        };
        self.say(cx, conn, &Message::Registered(registered));
    }

    fn frame(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, frame: &Frame) {
        if !self.peers.contains_key(&conn) {
            return;
        }
        let Ok(message) = Message::from_frame(frame) else {
            return cx.emit(Output::Refused("relay-frame-malformed"));
        };
        match message {
            Message::Register => self.register(cx, conn),
            Message::Unregister => self.end(cx, conn),
            Message::Ask if !self.serving => self.refuse(cx, conn, Why::NoRelay),
            Message::Ask => {
                let load = self.load();
                self.say(cx, conn, &Message::Load(load));
            }
            Message::Registered(_)
            | Message::Refused { .. }
            | Message::Going { .. }
            | Message::Gone { .. }
            | Message::Load(_) => cx.emit(Output::Refused("relay-frame-of-a-relay")),
        }
    }

    fn peer_up(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, key: PublicKey, addr: SocketAddr) {
        if self.peers.contains_key(&conn) {
            return;
        }
        if self.peers.len() >= self.config.sessions_max + IDLE_PEERS_MAX {
            return cx.emit(Output::Refused("relay-peers-full"));
        }
        let frames = Bucket::new(FRAMES_PER_SECOND, FRAMES_PER_SECOND, cx.now);
        self.peers.insert(conn, Peer { key, id: key.peer_id(), addr, frames, session: None });
    }

    fn moved(&mut self, now: Instant, conn: ConnId, addr: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let from = std::mem::replace(&mut peer.addr, addr);
        if peer.session.is_some() {
            self.admission.moved(&self.config, now, from, addr);
        }
    }

    /// Ends a session, if there is one, and tells what it has cost.
    fn end(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let Some(mut session) = peer.session.take() else { return };
        let (key, id, addr) = (peer.key, peer.id, peer.addr);
        self.by_id.remove(&id);
        self.ends.retain(|(_, c)| *c != conn);
        self.pieces.retain(|(to, _)| *to != conn);
        self.admission.release(addr, session.kind);
        let waiting = self.queues.forget(conn);
        for (from, packets) in waiting {
            self.lose(from, DropReason::NoSession, packets);
        }
        let account = account(key, addr, &mut session, cx.wall, true);
        cx.emit(Output::Account(Box::new(account)));
    }

    fn end_all(&mut self, cx: &mut Cx<'_, Output>) {
        let conns: Vec<ConnId> = self.by_id.values().copied().collect();
        conns.into_iter().for_each(|conn| self.end(cx, conn));
    }

    /// Tells all who have a session. What the relay says by itself is not counted against a peer.
    fn tell_all(&self, cx: &mut Cx<'_, Output>, message: &Message) {
        for conn in self.by_id.values() {
            cx.emit(Output::Send { conn: *conn, frame: message.to_frame() });
        }
    }

    fn serve(&mut self, cx: &mut Cx<'_, Output>, serving: bool) {
        if self.serving && !serving {
            self.tell_all(cx, &Message::Going { ends_in: Duration::ZERO, back_in: BACK_IN });
            self.end_all(cx);
            self.closing = None;
        }
        self.serving = serving;
    }

    /// Sends a peer away.
    fn disconnect(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        let conn = self.by_id.get(&key.peer_id()).copied();
        let conn = conn.filter(|conn| self.peers.get(conn).is_some_and(|p| p.key == key));
        let Some(conn) = conn else { return };
        let going = Message::Going { ends_in: Duration::ZERO, back_in: BACK_IN };
        cx.emit(Output::Send { conn, frame: going.to_frame() });
        self.end(cx, conn);
        self.admission.send_away(cx.now, key, BACK_IN);
    }

    fn block(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, blocked: bool) {
        if !self.admission.block(key, blocked) {
            cx.emit(Output::Refused("relay-blocklist-full"));
        }
        if blocked {
            self.disconnect(cx, key);
        }
    }

    fn close(&mut self, cx: &mut Cx<'_, Output>, ends_in: Duration, back_in: Duration) {
        if self.closing.is_some() || !self.serving {
            return;
        }
        self.tell_all(cx, &Message::Going { ends_in, back_in });
        self.closing = Some(cx.now + ends_in);
        self.close_when_due(cx);
    }

    fn close_when_due(&mut self, cx: &mut Cx<'_, Output>) {
        if self.closing.is_some_and(|at| at <= cx.now) {
            self.closing = None;
            self.end_all(cx);
            self.serving = false;
            cx.emit(Output::Closed);
        }
    }

    fn account_all(&mut self, cx: &mut Cx<'_, Output>) {
        for peer in self.peers.values_mut() {
            if let Some(session) = peer.session.as_mut()
                && !session.usage.is_empty()
            {
                let account = account(peer.key, peer.addr, session, cx.wall, false);
                cx.emit(Output::Account(Box::new(account)));
            }
        }
    }

    /// Ends what has come to its end.
    fn end_due(&mut self, cx: &mut Cx<'_, Output>) {
        while let Some((at, conn)) = self.ends.first().copied().filter(|(at, _)| *at <= cx.now) {
            self.ends.remove(&(at, conn));
            let Some(peer) = self.peers.get(&conn) else { continue };
            let Some(session) = peer.session.as_ref() else { continue };
            if session.ends() > cx.now {
                self.ends.insert((session.ends(), conn));
                continue;
            }
            let (kind, id) = (session.kind, peer.id);
            self.end(cx, conn);
            match kind {
                Kind::Reserved => self.say(cx, conn, &Message::Gone { peer: id }),
                Kind::Visitor => {}
            }
        }
    }
}

fn account(peer: PublicKey, addr: SocketAddr, session: &mut Session, wall: UnixTime, ended: bool) -> Account {
    let (from, usage) = session.account(wall);
    let (id, kind, since) = (session.id, session.kind, session.since);
    Account { peer, session: id, kind, addr, since, from, to: wall, usage, ended }
}

impl Machine for Server {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Serve(serving) => self.serve(cx, serving),
            Input::PeerUp { conn, peer, addr } => self.peer_up(cx, conn, peer, addr),
            Input::Moved { conn, addr } => self.moved(cx.now, conn, addr),
            Input::PeerDown { conn } => {
                self.end(cx, conn);
                self.peers.remove(&conn);
            }
            Input::Frame { conn, frame } => self.frame(cx, conn, &frame),
            Input::Datagram { conn, bytes } => self.datagram(cx, conn, &bytes),
            Input::Disconnect { peer } => self.disconnect(cx, peer),
            Input::Block { peer, blocked } => self.block(cx, peer, blocked),
            Input::Close { ends_in, back_in } => self.close(cx, ends_in, back_in),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        if self.forward_at.is_some_and(|at| at <= cx.now) {
            self.forward_at = None;
        }
        self.close_when_due(cx);
        self.end_due(cx);
        if self.account_at.is_some_and(|at| at <= cx.now) {
            self.account_at = None;
            self.account_all(cx);
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        [
            self.forward_at.map(|at| Deadline::new(at, "relay rate")),
            self.closing.map(|at| Deadline::new(at, "relay closes")),
            self.ends.first().map(|(at, _)| Deadline::new(*at, "relay session ends")),
            self.account_at.map(|at| Deadline::new(at, "relay account")),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }
}
