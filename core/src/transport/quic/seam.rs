//! The calls of the seam ([`Transport`]) on QUIC's connections.

use super::{EVENTS_KEPT, QuicTransport, outgoing, quic_stream};
use crate::id::{ConnId, PublicKey, StreamId};
use crate::place::Place;
use crate::time::Instant;
use crate::transport::setup::{DATAGRAM_BYTES_MAX, is_near};
use crate::transport::silence;
use crate::transport::{
    Chunk, CloseReason, ConnStats, DatagramError, DialError, Outgoing, Packet, ReadError, Transport,
    TransportEvent, WriteError, close_code, joined,
};
use bytes::Bytes;
use quinn_proto::{DatagramEvent, Dir, EcnCodepoint, VarInt};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

impl Transport for QuicTransport {
    fn handle(&mut self, now: Instant, packet: impl Into<Packet>) {
        self.token_clock.store(now.as_nanos(), Ordering::Relaxed);
        let at = self.std(now);
        let Packet { place, to, ecn, payload } = packet.into();
        let named = self.named_by(&payload).and_then(|conn| self.connections.get(&conn));
        let synthetic = match named {
            Some(c) => c.synthetic,
            None => self.addresses.synthetic(now, place),
        };
        let ecn = ecn.and_then(EcnCodepoint::from_bits);
        let bytes = payload.len();
        let mut answer = Vec::new();
        let outcome = self.endpoint.handle(at, synthetic, to, ecn, payload, &mut answer);
        match outcome {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(&conn) = self.by_handle.get(&handle.0) {
                    self.hand(conn, place, bytes, event);
                    self.feed(now, conn);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(now, place, incoming),
            Some(DatagramEvent::Response(transmit)) => self.answer(&transmit, place, &answer),
            None => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.token_clock.store(now.as_nanos(), Ordering::Relaxed);
        self.pump_fed();
        let at = self.std(now);
        while let Some(&(due, conn)) = self.timers.first().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, conn));
            if let Some(c) = self.connections.get_mut(&conn) {
                c.timer = None;
                c.quic.handle_timeout(at);
                if c.silence.due().is_some_and(|at| at <= now) {
                    let frames = c.quic.stats();
                    let (heard, asked) =
                        (silence::heard(&frames.frame_rx), silence::asking(&frames.frame_tx));
                    if c.silence.over(now, heard, asked) && !c.closed {
                        self.events.push_back(TransportEvent::Silent { conn });
                    }
                }
            }
            self.pump(now, conn);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let fed = (!self.fed.is_empty()).then_some(self.fed_at);
        let timer = self.timers.first().map(|(at, _)| *at);
        fed.into_iter().chain(timer).min()
    }

    fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buf: &mut Vec<u8>) -> Option<Outgoing> {
        if let Some((transmit, bytes)) = self.answers.pop_front() {
            buf.extend_from_slice(&bytes);
            return Some(transmit);
        }
        self.pump_fed();
        // Connections whose relay has no room just now; when all that are left are such, nothing can be sent.
        let mut waiting = 0;
        while let Some(&conn) = self.transmit_queue.front().filter(|_| waiting < self.transmit_queue.len()) {
            let max = self.packets_for(conn, max_datagrams);
            if max == 0 {
                waiting += 1;
                self.transmit_queue.rotate_left(1);
                continue;
            }
            if let Some(transmit) = self.transmit_of(now, conn, max, buf) {
                // One batch per connection and turn, so that a bulk transfer does not starve the others.
                self.transmit_queue.rotate_left(1);
                return Some(transmit);
            }
            self.transmit_queue.pop_front();
            if let Some(c) = self.connections.get_mut(&conn) {
                c.queued = true;
                self.pump(now, conn);
                if let Some(c) = self.connections.get_mut(&conn) {
                    c.queued = false;
                }
            }
        }
        None
    }

    fn poll(&mut self) -> Option<TransportEvent> {
        if self.events.is_empty() {
            self.pump_fed();
        }
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > EVENTS_KEPT {
            self.events = VecDeque::new();
        }
        event
    }

    fn dial(&mut self, now: Instant, peer: &PublicKey, place: impl Into<Place>) -> Result<ConnId, DialError> {
        self.start(now, Some(*peer), place.into())
    }

    fn dial_any(&mut self, now: Instant, addr: SocketAddr) -> Result<ConnId, DialError> {
        self.start(now, None, addr.into())
    }

    fn set_place(&mut self, now: Instant, conn: ConnId, place: Place, nudge: bool, worse: bool) {
        let at = self.std(now);
        let Some(c) = self.connections.get_mut(&conn).filter(|c| !c.closed) else { return };
        let moved = c.place != place;
        c.place = place;
        if moved {
            self.addresses.moved(c.synthetic, place);
        }
        // Datagrams of the size that loopback carries would vanish anywhere else.
        if worse || (c.quic.current_mtu() > DATAGRAM_BYTES_MAX && !is_near(place)) {
            c.quic.path_changed(at);
        }
        if nudge && c.connected {
            let mut bytes = Vec::new();
            c.quic.ping();
            self.gate.set(true);
            let transmit = c.quic.poll_transmit(at, 1, &mut bytes);
            self.gate.set(false);
            self.answers.extend(transmit.map(|t| (outgoing(&t, place, false), bytes)));
        }
        self.pump(now, conn);
    }

    fn place(&self, conn: ConnId) -> Option<Place> {
        self.connections.get(&conn).map(|c| c.place)
    }

    fn watch(&mut self, conn: ConnId, watched: bool) {
        if let Some(c) = self.connections.get_mut(&conn) {
            c.silence.watch(watched);
        }
    }

    fn secret(&self, conn: ConnId, label: &[u8]) -> Option<[u8; 32]> {
        let c = self.connections.get(&conn).filter(|c| c.connected)?;
        let mut secret = [0; 32];
        c.quic.crypto_session().export_keying_material(&mut secret, label, b"").ok()?;
        Some(secret)
    }

    fn ping(&mut self, conn: ConnId) {
        self.touch(conn, |q| q.ping());
    }

    fn send_datagram(&mut self, conn: ConnId, message: Bytes) -> Result<(), DatagramError> {
        let sent = self.touch(conn, |q| {
            let mut datagrams = q.datagrams();
            match datagrams.send(message, true) {
                Ok(()) => Ok(()),
                Err(quinn_proto::SendDatagramError::TooLarge) => {
                    Err(DatagramError::TooLarge(datagrams.max_size().unwrap_or_default()))
                }
                Err(
                    quinn_proto::SendDatagramError::UnsupportedByPeer
                    | quinn_proto::SendDatagramError::Disabled
                    | quinn_proto::SendDatagramError::Blocked(_),
                ) => Err(DatagramError::Unsupported),
            }
        });
        sent.unwrap_or(Err(DatagramError::Unsupported))
    }

    fn datagram_room(&mut self, conn: ConnId) -> Option<(usize, usize)> {
        let c = self.connections.get_mut(&conn).filter(|c| c.connected && !c.closed)?;
        let datagrams = c.quic.datagrams();
        Some((datagrams.max_size()?, datagrams.send_buffer_space()))
    }

    fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &str) {
        let at = self.std(now);
        let Some(c) = self.connections.get_mut(&conn).filter(|c| !c.closed) else { return };
        let end = reason.len().min(200);
        c.quic.close(at, code.into(), Bytes::copy_from_slice(&reason.as_bytes()[..end]));
        c.closed = true;
        if !c.connected {
            self.handshakes = self.handshakes.saturating_sub(1);
        }
        self.events.push_back(TransportEvent::Closed { conn, reason: CloseReason::Local });
        self.pump(now, conn);
    }

    fn open(&mut self, conn: ConnId) -> Option<StreamId> {
        self.touch(conn, |q| q.streams().open(Dir::Bi)).flatten().map(|id| StreamId(u64::from(id)))
    }

    fn write(&mut self, conn: ConnId, stream: StreamId, data: &mut Bytes) -> Result<usize, WriteError> {
        let id = quic_stream(stream).ok_or(WriteError::Gone)?;
        self.touch(conn, |q| match q.send_stream(id).write_chunks(std::slice::from_mut(data)) {
            Ok(written) => Ok(written.bytes),
            Err(quinn_proto::WriteError::Blocked) => Err(WriteError::Blocked),
            Err(quinn_proto::WriteError::Stopped(_) | quinn_proto::WriteError::ClosedStream) => {
                Err(WriteError::Gone)
            }
        })
        .unwrap_or(Err(WriteError::Gone))
    }

    fn finish(&mut self, conn: ConnId, stream: StreamId) {
        if let Some(id) = quic_stream(stream) {
            let code = VarInt::from_u32(close_code::DONE);
            self.touch(conn, |q| match q.send_stream(id).finish() {
                Ok(()) => true,
                // The peer wants no more of it. Only a reset frees the direction then.
                Err(quinn_proto::FinishError::Stopped(_)) => q.send_stream(id).reset(code).is_ok(),
                // Finished or gone already.
                Err(quinn_proto::FinishError::ClosedStream) => false,
            });
        }
    }

    fn stop(&mut self, conn: ConnId, stream: StreamId) {
        if let Some(id) = quic_stream(stream) {
            // An error means that the peer finished and all was read.
            self.touch(conn, |q| q.recv_stream(id).stop(VarInt::from_u32(close_code::DONE)).is_ok());
        }
    }

    fn reset(&mut self, conn: ConnId, stream: StreamId) {
        if let Some(id) = quic_stream(stream) {
            let code = VarInt::from_u32(close_code::DONE);
            // Errors mean that the direction is gone already.
            self.touch(conn, |q| {
                (q.send_stream(id).reset(code).is_ok(), q.recv_stream(id).stop(code).is_ok())
            });
        }
    }

    fn read(&mut self, conn: ConnId, stream: StreamId, max: usize) -> Result<Chunk, ReadError> {
        let id = quic_stream(stream).ok_or(ReadError::Gone)?;
        let c = self.connections.get_mut(&conn).filter(|c| !c.closed).ok_or(ReadError::Gone)?;
        let mut recv = c.quic.recv_stream(id);
        let mut chunks = recv.read(true).map_err(|_| ReadError::Gone)?;
        let result = match chunks.next(max) {
            Ok(Some(chunk)) => Ok(Chunk::Bytes(chunk.bytes)),
            Ok(None) => Ok(Chunk::End),
            Err(quinn_proto::ReadError::Blocked) => Err(ReadError::Blocked),
            Err(quinn_proto::ReadError::Reset(_)) => Err(ReadError::Gone),
        };
        let transmit = chunks.finalize().should_transmit();
        if transmit && !c.queued {
            c.queued = true;
            self.transmit_queue.push_back(conn);
        }
        result
    }

    /// As the trait's own, with one look at the stream instead of one per packet.
    fn read_joined(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        max: usize,
    ) -> Result<(Chunk, bool), ReadError> {
        let id = quic_stream(stream).ok_or(ReadError::Gone)?;
        let c = self.connections.get_mut(&conn).filter(|c| !c.closed).ok_or(ReadError::Gone)?;
        let mut recv = c.quic.recv_stream(id);
        let mut chunks = recv.read(true).map_err(|_| ReadError::Gone)?;
        let mut taken = Vec::new();
        let mut left = max;
        let met = loop {
            match chunks.next(left) {
                Ok(Some(chunk)) => {
                    left = left.saturating_sub(chunk.bytes.len());
                    taken.push(chunk.bytes);
                    if left == 0 {
                        break Ok(false);
                    }
                }
                Ok(None) => break Ok(true),
                Err(quinn_proto::ReadError::Blocked) => break Err(ReadError::Blocked),
                Err(quinn_proto::ReadError::Reset(_)) => break Err(ReadError::Gone),
            }
        };
        if chunks.finalize().should_transmit() && !c.queued {
            c.queued = true;
            self.transmit_queue.push_back(conn);
        }
        match (taken.is_empty(), met) {
            (true, Ok(_)) => Ok((Chunk::End, true)),
            (true, Err(why)) => Err(why),
            // A loss is met again by the next read.
            (false, met) => Ok((Chunk::Bytes(joined(taken)), met == Ok(true))),
        }
    }

    fn stats(&self, conn: ConnId) -> Option<ConnStats> {
        self.connections.get(&conn).map(|c| {
            let s = c.quic.stats();
            ConnStats {
                rtt_us: u64::try_from(s.path.rtt.as_micros()).unwrap_or(u64::MAX),
                mtu: s.path.current_mtu,
                cwnd: s.path.cwnd,
                lost_packets: s.path.lost_packets,
                bytes_tx: s.udp_tx.bytes,
                bytes_rx: s.udp_rx.bytes,
            }
        })
    }

    fn connections(&self) -> usize {
        self.connections.len()
    }
}
