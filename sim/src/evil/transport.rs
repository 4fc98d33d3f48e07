//! The transport of a malicious host: QUIC, and what is done to what passes.

use super::lies::Liar;
use super::mischief::{Malice, Mischief};
use crate::draw::Draw;
use bytes::{Bytes, BytesMut};
use remote_network_core::codec::FrameReader;
use remote_network_core::id::{ConnId, PeerId, PublicKey, StreamId};
use remote_network_core::place::Place;
use remote_network_core::relay::wire::{Direction, Header};
use remote_network_core::time::{Duration, Instant};
use remote_network_core::transport::{
    Chunk, ConnStats, DatagramError, DialError, Outgoing, Packet, ReadError, Transport, TransportEvent,
    WriteError,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// Old packets remembered, to be played again.
const HISTORY_MAX: usize = 256;
/// Packets held back at once; the next one makes the first go.
const HELD_MAX: usize = 32;
/// A packet is held back for so long at the most.
const HELD_MS_MAX: u64 = 150;
/// How often a liar tells unasked lies.
const TALK_EVERY: Duration = Duration::from_secs(1);
/// Lies of a kind told at once.
const TALK_MAX: usize = 16;

/// The control stream of a connection, as its frames leave.
#[derive(Default)]
struct Control {
    stream: Option<StreamId>,
    read: FrameReader,
    out: BytesMut,
    /// Frames said: after the second, the greetings are over.
    said: u32,
    broken: bool,
}

/// A transport around another that harms what its host relays, and lies in what its host says.
pub struct Evil<T> {
    inner: T,
    mischief: Mischief,
    liar: Option<Liar>,
    now: Instant,
    peers: BTreeMap<ConnId, PeerId>,
    keys: BTreeMap<ConnId, PublicKey>,
    controls: BTreeMap<ConnId, Control>,
    history: VecDeque<(ConnId, Bytes)>,
    held: VecDeque<(Instant, ConnId, Bytes)>,
    talk_at: Instant,
}

impl<T: Transport> Evil<T> {
    /// Around `inner`, as `mischief` says.
    pub fn new(inner: T, mischief: Mischief, liar: Option<Liar>) -> Self {
        Self {
            inner,
            mischief,
            liar,
            now: Instant::ZERO,
            peers: BTreeMap::new(),
            keys: BTreeMap::new(),
            controls: BTreeMap::new(),
            history: VecDeque::new(),
            held: VecDeque::new(),
            talk_at: Instant::ZERO + TALK_EVERY,
        }
    }

    fn control(&mut self, conn: ConnId, stream: StreamId) -> Option<&mut Control> {
        self.controls.get_mut(&conn).filter(|c| c.stream == Some(stream))
    }

    /// The first stream of a connection is its control stream.
    fn stream_is_there(&mut self, conn: ConnId, stream: StreamId) {
        self.controls.entry(conn).or_default().stream.get_or_insert(stream);
    }

    // ------------------------------------------------------------------------------- packets that are passed on

    /// Somebody with a connection, but one.
    fn other_than(&self, conn: ConnId, draw: &mut Draw) -> Option<(ConnId, PeerId)> {
        let others: Vec<_> = self.peers.iter().filter(|(c, _)| **c != conn).map(|(c, p)| (*c, *p)).collect();
        draw.pick(&others).copied()
    }

    fn remember(&mut self, conn: ConnId, message: &Bytes) {
        if self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back((conn, message.clone()));
    }

    /// A relayed packet, on its way to whom it is for.
    fn harm(&mut self, conn: ConnId, mut message: Bytes, header: Header) -> Result<(), DatagramError> {
        let (malice, mischief) = (self.mischief.malice(), self.mischief.clone());
        // The dice are out of their box while they are thrown: the deeds lie in the same one.
        let mut draw = mischief.with_draw(|draw| Draw::new(draw.next_u64()));
        mischief.does(|d| d.carried += 1);
        let Malice { drop_ppm, tamper_ppm, replay_ppm, reorder_ppm, cross_ppm, misname_ppm, .. } = malice;
        self.remember(conn, &message);
        if draw.chance_ppm(drop_ppm) {
            mischief.does(|d| d.dropped += 1);
            return Ok(());
        }
        if draw.chance_ppm(misname_ppm)
            && let Some(name) = self.false_name(conn, &header, &mut draw)
        {
            mischief.does(|d| d.misnamed += 1);
            message = Header { peer: name, ..header }.datagram(&message[header.bytes()..]);
        }
        if draw.chance_ppm(tamper_ppm) {
            mischief.does(|d| d.tampered += 1);
            message = tampered(&message, header.bytes(), &mut draw);
        }
        if draw.chance_ppm(replay_ppm)
            && let Some((to, old)) = self.history.get(draw.below(self.history.len() as u64) as usize).cloned()
        {
            mischief.does(|d| d.replayed += 1);
            // Whether it gets there is nobody's business.
            let _ = self.inner.send_datagram(to, old);
        }
        if draw.chance_ppm(cross_ppm)
            && let Some((other, _)) = self.other_than(conn, &mut draw)
        {
            mischief.does(|d| d.crossed += 1);
            let crossed = self.inner.send_datagram(other, message.clone());
            if draw.chance_ppm(500_000) {
                return crossed;
            }
        }
        if draw.chance_ppm(reorder_ppm) {
            mischief.does(|d| d.reordered += 1);
            let until = self.now + Duration::from_millis(draw.between(1, HELD_MS_MAX));
            self.held.push_back((until, conn, message));
            if self.held.len() > HELD_MAX {
                self.release(|_, n| n == 0);
            }
            return Ok(());
        }
        self.inner.send_datagram(conn, message)
    }

    /// Another sender: somebody who is here, the receiver itself, or nobody.
    fn false_name(&self, conn: ConnId, header: &Header, draw: &mut Draw) -> Option<PeerId> {
        let name = match draw.below(3) {
            0 => *self.peers.get(&conn)?,
            1 => self.other_than(conn, draw)?.1,
            _ => PeerId(draw.seed()[..20].try_into().ok()?),
        };
        (name != header.peer).then_some(name)
    }

    /// Lets go what is due.
    fn release(&mut self, due: impl Fn(Instant, usize) -> bool) {
        let mut kept = VecDeque::new();
        for (n, (until, conn, message)) in std::mem::take(&mut self.held).into_iter().enumerate() {
            if due(until, n) {
                let _ = self.inner.send_datagram(conn, message);
            } else {
                kept.push_back((until, conn, message));
            }
        }
        self.held = kept;
    }

    // ------------------------------------------------------------------------------- what is said

    fn lies(&self) -> bool {
        self.liar.is_some() && self.mischief.malice().victim.is_some()
    }

    /// Whole frames of a control stream are twisted and wait to be written.
    fn say(&mut self, conn: ConnId, stream: StreamId, data: &[u8]) {
        let lies = self.lies();
        let (Some(control), Some(liar)) = (self.controls.get_mut(&conn), &mut self.liar) else { return };
        control.read.push(data);
        while let Ok(Some(frame)) = control.read.next_frame() {
            control.said += 1;
            let twisted = liar.twist(&frame).filter(|_| lies);
            self.mischief.does(|d| d.lies += u64::from(twisted.is_some()));
            control.out.extend_from_slice(&twisted.unwrap_or(frame).encode());
        }
        self.flush(conn, stream);
    }

    fn flush(&mut self, conn: ConnId, stream: StreamId) {
        let Some(control) = self.controls.get_mut(&conn) else { return };
        let mut data = control.out.split().freeze();
        while !data.is_empty() {
            match self.inner.write(conn, stream, &mut data) {
                Ok(_) => {}
                Err(WriteError::Blocked) => break,
                Err(WriteError::Gone) => {
                    control.broken = true;
                    return;
                }
            }
        }
        control.out = BytesMut::from(&data[..]);
    }

    /// Lies that nobody asked for.
    fn talk(&mut self) {
        self.talk_at = self.now + TALK_EVERY;
        if !self.lies() {
            return;
        }
        let ready: Vec<(ConnId, StreamId)> = self
            .controls
            .iter()
            .filter(|(_, c)| c.said >= 2 && !c.broken)
            .filter_map(|(conn, c)| Some((*conn, c.stream?)))
            .collect();
        for (conn, stream) in ready {
            let others: Vec<PeerId> =
                self.peers.iter().filter(|(c, _)| **c != conn).map(|(_, p)| *p).take(TALK_MAX).collect();
            let relayed = matches!(self.inner.place(conn), Some(Place::Relayed { .. }));
            let Some(liar) = &mut self.liar else { return };
            let frames = match relayed {
                true => vec![liar.ways()],
                false => others.into_iter().map(|peer| liar.at(peer)).collect(),
            };
            if let Some(control) = self.controls.get_mut(&conn) {
                self.mischief.does(|d| d.lies += frames.len() as u64);
                frames.iter().for_each(|frame| control.out.extend_from_slice(&frame.encode()));
            }
            self.flush(conn, stream);
        }
    }
}

/// A relayed packet, harmed behind its header.
pub(super) fn tampered(message: &Bytes, header: usize, draw: &mut Draw) -> Bytes {
    let mut bytes = BytesMut::from(&message[..]);
    let carried = bytes.len().saturating_sub(header).max(1) as u64;
    match draw.below(4) {
        0 => bytes[header..].iter_mut().for_each(|b| *b = draw.next_u64() as u8),
        1 => bytes.truncate(header + 1 + draw.below(carried) as usize),
        2 => bytes.extend_from_slice(&draw.seed()[..1 + draw.below(20) as usize]),
        _ => {
            let at = header + draw.below(carried) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << draw.below(8);
            }
        }
    }
    bytes.freeze()
}

impl<T: Transport> Transport for Evil<T> {
    fn handle(&mut self, now: Instant, packet: impl Into<Packet>) {
        self.now = now;
        self.inner.handle(now, packet);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.inner.handle_timeout(now);
        self.release(|until, _| until <= now);
        if self.liar.is_some() && self.talk_at <= now {
            self.talk();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let held = self.held.iter().map(|(until, _, _)| *until).min();
        let talk = self.liar.is_some().then_some(self.talk_at);
        [self.inner.poll_timeout(), held, talk].into_iter().flatten().min()
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Outgoing> {
        self.inner.poll_transmit(now, max_datagrams, buf)
    }

    fn poll(&mut self) -> Option<TransportEvent> {
        let event = self.inner.poll()?;
        match &event {
            TransportEvent::Connected { conn, peer, .. } => {
                self.peers.insert(*conn, peer.peer_id());
                self.keys.insert(*conn, *peer);
            }
            TransportEvent::Closed { conn, .. } => {
                self.peers.remove(conn);
                self.keys.remove(conn);
                self.controls.remove(conn);
                self.held.retain(|(_, c, _)| c != conn);
                self.history.retain(|(c, _)| c != conn);
            }
            TransportEvent::Opened { conn, stream } => self.stream_is_there(*conn, *stream),
            TransportEvent::Writable { conn, stream } => {
                if self.control(*conn, *stream).is_some_and(|c| !c.out.is_empty()) {
                    self.flush(*conn, *stream);
                }
            }
            TransportEvent::Datagram { bytes, .. } => self.mischief.hear(bytes),
            TransportEvent::Readable { .. }
            | TransportEvent::StreamsAvailable { .. }
            | TransportEvent::Silent { .. }
            | TransportEvent::Moved { .. } => {}
        }
        Some(event)
    }

    fn dial(&mut self, now: Instant, peer: &PublicKey, place: impl Into<Place>) -> Result<ConnId, DialError> {
        self.inner.dial(now, peer, place)
    }

    fn dial_any(&mut self, now: Instant, addr: SocketAddr) -> Result<ConnId, DialError> {
        self.inner.dial_any(now, addr)
    }

    fn set_place(&mut self, now: Instant, conn: ConnId, place: Place, nudge: bool, worse: bool) {
        self.inner.set_place(now, conn, place, nudge, worse);
    }

    fn place(&self, conn: ConnId) -> Option<Place> {
        self.inner.place(conn)
    }

    fn watch(&mut self, conn: ConnId, watched: bool) {
        self.inner.watch(conn, watched);
    }

    fn secret(&self, conn: ConnId, label: &[u8]) -> Option<[u8; 32]> {
        let secret = self.inner.secret(conn, label)?;
        if let Some(peer) = self.keys.get(&conn) {
            self.mischief.shares(secret, *peer);
        }
        Some(secret)
    }

    fn ping(&mut self, conn: ConnId) {
        self.inner.ping(conn);
    }

    fn send_datagram(&mut self, conn: ConnId, message: Bytes) -> Result<(), DatagramError> {
        match Header::parse(&message) {
            Ok(header) if header.direction == Direction::From => self.harm(conn, message, header),
            Ok(_) | Err(_) => self.inner.send_datagram(conn, message),
        }
    }

    fn datagram_room(&mut self, conn: ConnId) -> Option<(usize, usize)> {
        self.inner.datagram_room(conn)
    }

    fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &str) {
        self.inner.close(now, conn, code, reason);
    }

    fn open(&mut self, conn: ConnId) -> Option<StreamId> {
        let stream = self.inner.open(conn)?;
        self.stream_is_there(conn, stream);
        Some(stream)
    }

    fn write(&mut self, conn: ConnId, stream: StreamId, data: &mut Bytes) -> Result<usize, WriteError> {
        let twists = self.liar.is_some();
        match self.control(conn, stream).filter(|_| twists) {
            Some(control) if control.broken => Err(WriteError::Gone),
            Some(_) => {
                let taken = data.split_to(data.len());
                self.say(conn, stream, &taken);
                Ok(taken.len())
            }
            None => self.inner.write(conn, stream, data),
        }
    }

    fn finish(&mut self, conn: ConnId, stream: StreamId) {
        self.inner.finish(conn, stream);
    }

    fn stop(&mut self, conn: ConnId, stream: StreamId) {
        self.inner.stop(conn, stream);
    }

    fn reset(&mut self, conn: ConnId, stream: StreamId) {
        self.inner.reset(conn, stream);
    }

    fn read(&mut self, conn: ConnId, stream: StreamId, max: usize) -> Result<Chunk, ReadError> {
        let chunk = self.inner.read(conn, stream, max)?;
        if let Chunk::Bytes(bytes) = &chunk {
            self.mischief.hear(bytes);
        }
        Ok(chunk)
    }

    fn read_joined(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        max: usize,
    ) -> Result<(Chunk, bool), ReadError> {
        let (chunk, ended) = self.inner.read_joined(conn, stream, max)?;
        if let Chunk::Bytes(bytes) = &chunk {
            self.mischief.hear(bytes);
        }
        Ok((chunk, ended))
    }

    fn stats(&self, conn: ConnId) -> Option<ConnStats> {
        self.inner.stats(conn)
    }

    fn connections(&self) -> usize {
        self.inner.connections()
    }
}
