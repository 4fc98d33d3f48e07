//! Tunnels between hosts: ordered, reliable streams over TCP, as the ports of real nodes keep them.
//!
//! Only what matters above TCP is modelled: that a stream gets out where UDP does not, and gets in nowhere but at a host
//! that has its address to itself; that it opens in one round trip; that what is sent leaves at the rate of the link and
//! arrives in order; that a lost segment costs everything behind it a round trip (head of line); that a way which is cut
//! for a while delays, and one that stays cut or leads elsewhere now ends the stream. A process that ends closes its
//! streams in order. A machine whose power goes says nothing: the other side hears of it when it sends to the machine that
//! has come back, or when its keep-alive has waited in vain.

use crate::draw::Draw;
use crate::evil::tunnels::{Fate, Saboteur, Target};
use crate::evil::{Deaf, Mischief};
use crate::net::{HostId, Net, StreamWay};
use bytes::Bytes;
use remote_network_core::place::{TunnelEvent, TunnelId, TunnelRequest};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

const MS_NS: u64 = 1_000_000;

/// Tunnels of a host at once, opened and accepted: as many as further sockets.
pub const TUNNELS_MAX: usize = 1_024;

/// Bytes on their way in one direction of a tunnel; a sender that keeps to its credit never comes near.
pub const TUNNEL_BYTES_MAX: usize = 4 << 20;

/// How long somebody knocks where nobody answers.
const CONNECT_NS: u64 = 10_000 * MS_NS;

/// How long a tunnel survives a way that is cut, and a machine that has gone without a word.
const DEAD_NS: u64 = 30_000 * MS_NS;

/// A handshake takes no longer, and somebody who takes no packet for so long is left, as real ports have it.
const HANDSHAKE_NS: u64 = 10_000 * MS_NS;
const SLOW_NS: u64 = 10_000 * MS_NS;

/// How often what is stuck is tried again.
const RETRY_NS: u64 = 200 * MS_NS;

/// Something about a tunnel that has fallen due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It opens, or is tried again.
    Open(u64),
    /// Something arrives at that end.
    Deliver(u64, usize),
    /// It ends, for this reason.
    Over(u64, &'static str),
}

/// What follows, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A host's core is told.
    Tell(HostId, TunnelEvent),
    /// To be given back.
    Turn(Turn),
}

enum Parcel {
    Packets(Vec<Bytes>),
    End(&'static str),
}

struct End {
    host: HostId,
    life: u32,
    tunnel: TunnelId,
    /// Whether its core still counts on it.
    open: bool,
    /// What comes to it: when, and what.
    coming: VecDeque<(u64, Parcel)>,
    coming_bytes: usize,
    retrying: bool,
    stuck_since_ns: Option<u64>,
}

struct Pipe {
    to: SocketAddr,
    way: StreamWay,
    began_ns: u64,
    /// The opener, and, once it stands, whoever accepted.
    ends: Vec<End>,
    /// Somebody takes nothing out of it.
    stalled: bool,
}

/// All tunnels.
pub struct Tunnels {
    pipes: BTreeMap<u64, Pipe>,
    ends: BTreeMap<(HostId, TunnelId), (u64, usize)>,
    accepted: BTreeMap<HostId, u64>,
    evil: BTreeMap<HostId, Saboteur>,
    usage: BTreeMap<HostId, Usage>,
    next: u64,
    draw: Draw,
}

/// What a host has had of tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// It wanted to open so many.
    pub opened: u64,
    /// It had so many at once, opened and accepted.
    pub most: usize,
    /// So many bytes came to it.
    pub received_bytes: u64,
    /// It sent so many.
    pub sent_bytes: u64,
}

/// Which life a host is in; `None` when it is down.
pub type Lives<'a> = &'a dyn Fn(HostId) -> Option<u32>;

type Effects = Vec<(u64, Effect)>;

fn closed(host: HostId, tunnel: TunnelId, why: &str) -> Effect {
    Effect::Tell(host, TunnelEvent::Closed { tunnel, why: why.to_owned() })
}

impl End {
    fn new(host: HostId, life: u32, tunnel: TunnelId) -> Self {
        let coming = VecDeque::new();
        Self {
            host,
            life,
            tunnel,
            open: true,
            coming,
            coming_bytes: 0,
            retrying: false,
            stuck_since_ns: None,
        }
    }
}

impl Tunnels {
    /// None yet.
    pub fn new(seed: u64) -> Self {
        let (pipes, ends, accepted, evil, usage) = Default::default();
        Self { pipes, ends, accepted, evil, usage, next: 0, draw: Draw::derive(seed, "tunnels", 0) }
    }

    /// Tunnels there are, those opening included.
    pub fn len(&self) -> usize {
        self.pipes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pipes.is_empty()
    }

    /// Tunnels of a host, opened and accepted.
    pub fn of(&self, host: HostId) -> usize {
        self.of_host(host).count()
    }

    /// What a host has had of tunnels.
    pub fn usage(&self, host: HostId) -> Usage {
        self.usage.get(&host).copied().unwrap_or_default()
    }

    /// From now on a host does with its tunnels what `mischief` says.
    pub fn sabotage(&mut self, host: HostId, mischief: Mischief) {
        self.evil.insert(host, Saboteur::new(mischief));
    }

    /// A host has one more.
    fn counts(&mut self, host: HostId) {
        let now = self.of_host(host).count();
        let usage = self.usage.entry(host).or_default();
        usage.most = usage.most.max(now);
    }

    /// A core wants something.
    pub fn request(
        &mut self,
        now_ns: u64,
        net: &mut Net,
        host: HostId,
        life: u32,
        request: TunnelRequest,
    ) -> Effects {
        match request {
            TunnelRequest::Open { tunnel, to } => self.open(now_ns, net, host, life, tunnel, to),
            TunnelRequest::Send { tunnel, packets } => self.send(now_ns, net, host, tunnel, packets),
            TunnelRequest::Close(tunnel) => self.close(now_ns, net, host, tunnel, "closed here"),
        }
    }

    fn of_host(&self, host: HostId) -> impl Iterator<Item = (TunnelId, u64, usize)> + '_ {
        let all = (host, TunnelId(0))..=(host, TunnelId(u64::MAX));
        self.ends.range(all).map(|((_, tunnel), (pipe, end))| (*tunnel, *pipe, *end))
    }

    fn open(
        &mut self,
        now_ns: u64,
        net: &Net,
        host: HostId,
        life: u32,
        tunnel: TunnelId,
        to: SocketAddr,
    ) -> Effects {
        self.usage.entry(host).or_default().opened += 1;
        if self.ends.contains_key(&(host, tunnel)) || self.of_host(host).count() >= TUNNELS_MAX {
            return vec![(now_ns, closed(host, tunnel, "no room for another connection"))];
        }
        let saboteur = net.stream_way(host, to).and_then(|way| self.evil.get(&way.host));
        let elsewhere = saboteur.and_then(|s| s.malice().leads_to).and_then(|h| net.public_address(h));
        if let Some(saboteur) = saboteur.filter(|_| elsewhere.is_some()) {
            saboteur.refuses();
        }
        let to = elsewhere.unwrap_or(to);
        let Some(way) = net.stream_way(host, to) else {
            return vec![(now_ns + CONNECT_NS, closed(host, tunnel, "connection timed out"))];
        };
        self.next += 1;
        let id = self.next;
        self.ends.insert((host, tunnel), (id, 0));
        let round_ns = 2 * net.stream_latency_ns(host, &way);
        let ends = vec![End::new(host, life, tunnel)];
        self.pipes.insert(id, Pipe { to, way, began_ns: now_ns, ends, stalled: false });
        self.counts(host);
        vec![(now_ns + round_ns, Effect::Turn(Turn::Open(id)))]
    }

    fn send(
        &mut self,
        now_ns: u64,
        net: &mut Net,
        host: HostId,
        tunnel: TunnelId,
        packets: Vec<Bytes>,
    ) -> Effects {
        let Some(&(id, end)) = self.ends.get(&(host, tunnel)) else { return Vec::new() };
        let bytes: usize = packets.iter().map(Bytes::len).sum();
        let Some(pipe) = self.pipes.get_mut(&id).filter(|p| p.ends.len() == 2) else {
            return self.close(now_ns, net, host, tunnel, "sent before it stood");
        };
        let way = pipe.way;
        let Some(other) = pipe.ends.get(1 - end) else { return Vec::new() };
        if other.coming_bytes + bytes > TUNNEL_BYTES_MAX {
            return self.close(now_ns, net, host, tunnel, "send buffer full");
        }
        let there = other.host;
        self.usage.entry(host).or_default().sent_bytes += bytes as u64;
        if self.evil.get(&there).is_some_and(|s| s.malice().deaf == Some(Deaf::Reading)) {
            return self.stall(now_ns, id);
        }
        let left_ns = net.stream_leaves_ns(now_ns, host, &way, bytes);
        let sent = TunnelEvent::Sent { tunnel, bytes: bytes as u64 };
        let mut out = vec![(left_ns, Effect::Tell(host, sent))];
        let to = Target { pipe: id, end: 1 - end };
        let villain = [there, host].into_iter().find(|h| self.evil.contains_key(h));
        let Some(villain) = villain else {
            out.extend(self.bring(left_ns, net, to, packets));
            return out;
        };
        let outward = villain == host;
        let others: Vec<Target> = self
            .of_host(villain)
            .filter(|(_, pipe, _)| *pipe != id)
            .map(|(_, pipe, end)| Target { pipe, end: if outward { 1 - end } else { end } })
            .collect();
        let fates = self.evil.get_mut(&villain).map(|s| s.harm(to, packets, &others)).unwrap_or_default();
        for fate in fates {
            match fate {
                Fate::Bring(to, packet) => out.extend(self.bring(left_ns, net, to, vec![packet])),
                Fate::TooLong(to) => out.extend(self.ends_there(left_ns, net, to, "a message is too long")),
                Fate::Reset => {
                    out.extend(self.sever(now_ns, id, "connection reset by peer"));
                    break;
                }
            }
        }
        out
    }

    /// Somebody takes nothing out of it: no credit comes back, and after a while it is given up.
    fn stall(&mut self, now_ns: u64, id: u64) -> Effects {
        let Some(pipe) = self.pipes.get_mut(&id).filter(|pipe| !pipe.stalled) else { return Vec::new() };
        pipe.stalled = true;
        vec![(now_ns + SLOW_NS, Effect::Turn(Turn::Over(id, "the other side is too slow")))]
    }

    /// Packets that have left one side are on their way to the other.
    fn bring(&mut self, left_ns: u64, net: &Net, to: Target, packets: Vec<Bytes>) -> Option<(u64, Effect)> {
        let Target { pipe: id, end } = to;
        let pipe = self.pipes.get_mut(&id)?;
        let way = pipe.way;
        let opener = pipe.ends.first()?.host;
        let other = pipe.ends.get_mut(end)?;
        let bytes: usize = packets.iter().map(Bytes::len).sum();
        if other.coming_bytes + bytes > TUNNEL_BYTES_MAX {
            return None;
        }
        let latency_ns = net.stream_latency_ns(opener, &way);
        let again_ns = match self.draw.chance_ppm(net.stream_loss_ppm(opener, &way)) {
            true => 2 * latency_ns,
            false => 0,
        };
        let in_order_ns = other.coming.back().map_or(0, |(due_ns, _)| *due_ns);
        let due_ns = (left_ns + latency_ns + again_ns).max(in_order_ns);
        other.coming_bytes += bytes;
        other.coming.push_back((due_ns, Parcel::Packets(packets)));
        Some((due_ns, Effect::Turn(Turn::Deliver(id, end))))
    }

    /// Something is on its way to one side that ends the tunnel there.
    fn ends_there(&mut self, now_ns: u64, net: &Net, to: Target, why: &'static str) -> Option<(u64, Effect)> {
        let pipe = self.pipes.get_mut(&to.pipe)?;
        let way = pipe.way;
        let opener = pipe.ends.first()?.host;
        let end = pipe.ends.get_mut(to.end)?;
        let in_order_ns = end.coming.back().map_or(0, |(due_ns, _)| *due_ns);
        let due_ns = (now_ns + net.stream_latency_ns(opener, &way)).max(in_order_ns);
        end.coming.push_back((due_ns, Parcel::End(why)));
        Some((due_ns, Effect::Turn(Turn::Deliver(to.pipe, to.end))))
    }

    /// One side closes: what it sent before still arrives, then the other hears of it.
    fn close(&mut self, now_ns: u64, net: &Net, host: HostId, tunnel: TunnelId, why: &str) -> Effects {
        let Some((id, end)) = self.ends.remove(&(host, tunnel)) else { return Vec::new() };
        let mut out = vec![(now_ns, closed(host, tunnel, why))];
        let Some(pipe) = self.pipes.get_mut(&id) else { return out };
        if let Some(own) = pipe.ends.get_mut(end) {
            own.open = false;
            own.coming.clear();
        }
        if pipe.ends.get(1 - end).is_some_and(|other| other.open) {
            let to = Target { pipe: id, end: 1 - end };
            out.extend(self.ends_there(now_ns, net, to, "closed by the other side"));
        } else {
            self.pipes.remove(&id);
        }
        out
    }

    /// A process has ended in order: its system closes what it had.
    pub fn ends_of(&mut self, now_ns: u64, net: &Net, host: HostId) -> Effects {
        let all: Vec<TunnelId> = self.of_host(host).map(|(tunnel, ..)| tunnel).collect();
        all.into_iter().flat_map(|tunnel| self.close(now_ns, net, host, tunnel, "stopped")).collect()
    }

    /// The power of a machine has gone: nobody is told anything.
    pub fn crash(&mut self, now_ns: u64, host: HostId) -> Effects {
        let all: Vec<_> = self.of_host(host).collect();
        let mut out = Vec::new();
        for (tunnel, id, end) in all {
            self.ends.remove(&(host, tunnel));
            let Some(pipe) = self.pipes.get_mut(&id) else { continue };
            if let Some(own) = pipe.ends.get_mut(end) {
                own.open = false;
            }
            if pipe.ends.iter().all(|e| !e.open) {
                self.pipes.remove(&id);
            } else {
                out.push((now_ns + DEAD_NS, Effect::Turn(Turn::Over(id, "connection timed out"))));
            }
        }
        out
    }

    /// Something has fallen due.
    pub fn turn(&mut self, now_ns: u64, net: &Net, lives: Lives<'_>, turn: Turn) -> Effects {
        match turn {
            Turn::Open(id) => self.stands(now_ns, net, lives, id),
            Turn::Deliver(id, end) => self.deliver(now_ns, net, lives, id, end),
            Turn::Over(id, why) => self.sever(now_ns, id, why),
        }
    }

    /// Both ends that are left hear that it is over.
    fn sever(&mut self, now_ns: u64, id: u64, why: &str) -> Effects {
        let Some(pipe) = self.pipes.remove(&id) else { return Vec::new() };
        let mut out = Vec::new();
        for end in pipe.ends.iter().filter(|e| e.open) {
            self.ends.remove(&(end.host, end.tunnel));
            out.push((now_ns, closed(end.host, end.tunnel, why)));
        }
        out
    }

    fn stands(&mut self, now_ns: u64, net: &Net, lives: Lives<'_>, id: u64) -> Effects {
        let Some(pipe) = self.pipes.get(&id) else { return Vec::new() };
        let (way, began_ns) = (pipe.way, pipe.began_ns);
        let Some((host, tunnel)) = pipe.ends.first().map(|e| (e.host, e.tunnel)) else { return Vec::new() };
        let passes = net.stream_way(host, pipe.to) == Some(way) && net.stream_passes(host, way.host);
        let Some(life) = lives(way.host).filter(|_| passes) else {
            if now_ns >= began_ns + CONNECT_NS {
                return self.sever(now_ns, id, "connection timed out");
            }
            return vec![(now_ns + 1_000 * MS_NS, Effect::Turn(Turn::Open(id)))];
        };
        if self.of_host(way.host).count() >= TUNNELS_MAX {
            return self.sever(now_ns, id, "connection refused");
        }
        if let Some(saboteur) = self.evil.get(&way.host).filter(|s| s.malice().deaf == Some(Deaf::Handshake))
        {
            saboteur.refuses();
            let over = Turn::Over(id, "the handshake took too long");
            return vec![(now_ns + HANDSHAKE_NS, Effect::Turn(over))];
        }
        let number = self.accepted.entry(way.host).or_insert(1);
        let accepted = TunnelId(*number);
        *number += 2;
        self.ends.insert((way.host, accepted), (id, 1));
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.ends.push(End::new(way.host, life, accepted));
        }
        self.counts(way.host);
        vec![
            (now_ns, Effect::Tell(way.host, TunnelEvent::Accepted { tunnel: accepted, from: way.from })),
            (now_ns, Effect::Tell(host, TunnelEvent::Opened(tunnel))),
        ]
    }

    fn deliver(&mut self, now_ns: u64, net: &Net, lives: Lives<'_>, id: u64, to: usize) -> Effects {
        let Some(pipe) = self.pipes.get_mut(&id) else { return Vec::new() };
        let (way, target) = (pipe.way, pipe.to);
        let Some(opener) = pipe.ends.first().map(|e| e.host) else { return Vec::new() };
        let Some(end) = pipe.ends.get_mut(to) else { return Vec::new() };
        end.retrying = false;
        let sender = if to == 0 { way.host } else { opener };
        let life = lives(end.host);
        if life.is_some_and(|life| life != end.life) {
            return self.sever(now_ns, id, "connection reset by peer");
        }
        let stands = net.stream_way(opener, target) == Some(way) && net.stream_passes(sender, end.host);
        if life.is_none() || !stands {
            let since_ns = *end.stuck_since_ns.get_or_insert(now_ns);
            if now_ns - since_ns >= DEAD_NS {
                return self.sever(now_ns, id, "connection timed out");
            }
            if end.coming.is_empty() || std::mem::replace(&mut end.retrying, true) {
                return Vec::new();
            }
            return vec![(now_ns + RETRY_NS, Effect::Turn(Turn::Deliver(id, to)))];
        }
        end.stuck_since_ns = None;
        if !end.open {
            // Closed on this side; what still came is for nobody.
            end.coming.clear();
            end.coming_bytes = 0;
            return Vec::new();
        }
        let mut out = Vec::new();
        while let Some((_, parcel)) = end.coming.pop_front_if(|(due_ns, _)| *due_ns <= now_ns) {
            match parcel {
                Parcel::Packets(packets) => {
                    let bytes: usize = packets.iter().map(Bytes::len).sum();
                    end.coming_bytes -= bytes;
                    self.usage.entry(end.host).or_default().received_bytes += bytes as u64;
                    let event = TunnelEvent::Received { tunnel: end.tunnel, packets };
                    out.push((now_ns, Effect::Tell(end.host, event)));
                }
                Parcel::End(why) => {
                    out.extend(self.sever(now_ns, id, why));
                    break;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{BoxSpec, Kind};
    use crate::net::{INTERNET, Quality, Site};

    /// A tiny world: tunnels, a network, and what falls due when.
    struct Bench {
        net: Net,
        tunnels: Tunnels,
        due: BTreeMap<(u64, u64), Effect>,
        order: u64,
        now_ns: u64,
        lives: [Option<u32>; 3],
        told: Vec<(u64, HostId, TunnelEvent)>,
    }

    const OURS: TunnelId = TunnelId(2);
    const THEIRS: TunnelId = TunnelId(1);

    impl Bench {
        /// Host 0 behind a box, host 1 on the Internet, host 2 behind a translator.
        fn new(spec: BoxSpec) -> Self {
            let mut net = Net::new(1);
            let inner = net.add_network(INTERNET, 0, spec);
            let other = net.add_chain(INTERNET, 0, &Kind::FullCone.chain());
            for v4 in [inner, INTERNET, other] {
                net.add_at(0, Quality::default(), Site { v4, v6: None });
            }
            let (due, told) = Default::default();
            let lives = [Some(1); 3];
            Self { net, tunnels: Tunnels::new(1), due, order: 0, now_ns: 0, lives, told }
        }

        fn take(&mut self, effects: Effects) {
            for (at_ns, effect) in effects {
                self.order += 1;
                self.due.insert((at_ns.max(self.now_ns), self.order), effect);
            }
        }

        fn ask(&mut self, host: HostId, request: TunnelRequest) {
            let life = self.lives[host as usize].unwrap();
            let effects = self.tunnels.request(self.now_ns, &mut self.net, host, life, request);
            self.take(effects);
        }

        fn run(&mut self, until_ms: u64) -> Vec<(u64, HostId, TunnelEvent)> {
            while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= until_ms * MS_NS) {
                let ((at_ns, _), effect) = entry.remove_entry();
                self.now_ns = at_ns;
                match effect {
                    Effect::Tell(host, event) => self.told.push((at_ns / MS_NS, host, event)),
                    Effect::Turn(turn) => {
                        let lives = self.lives;
                        let effects = self.tunnels.turn(at_ns, &self.net, &|h| lives[h as usize], turn);
                        self.take(effects);
                    }
                }
            }
            self.now_ns = until_ms * MS_NS;
            std::mem::take(&mut self.told)
        }

        fn open(&mut self) {
            let to = self.net.address(1).unwrap();
            self.ask(0, TunnelRequest::Open { tunnel: OURS, to });
            let told = self.run(20);
            assert!(
                matches!(
                    &told[..],
                    [
                        (16, 1, TunnelEvent::Accepted { tunnel: THEIRS, .. }),
                        (16, 0, TunnelEvent::Opened(OURS))
                    ]
                ),
                "{told:?}"
            );
        }

        fn send(&mut self, host: HostId, tunnel: TunnelId, text: &'static [u8]) {
            let packets = vec![Bytes::from_static(text)];
            self.ask(host, TunnelRequest::Send { tunnel, packets });
        }
    }

    fn received(tunnel: TunnelId, text: &'static [u8]) -> TunnelEvent {
        TunnelEvent::Received { tunnel, packets: vec![Bytes::from_static(text)] }
    }

    fn over(told: &[(u64, HostId, TunnelEvent)]) -> Vec<(u64, HostId, &str)> {
        let closed = told.iter().filter_map(|(at_ms, host, event)| match event {
            TunnelEvent::Closed { why, .. } => Some((*at_ms, *host, why.as_str())),
            _ => None,
        });
        closed.collect()
    }

    #[test]
    fn a_tunnel_opens_in_a_round_trip_where_udp_is_blocked_and_carries_both_ways_in_order() {
        let mut b = Bench::new(BoxSpec::UdpBlocked);
        b.open();
        b.send(0, OURS, b"one");
        b.send(0, OURS, b"two");
        b.send(1, THEIRS, b"back");
        let told = b.run(100);
        let got: Vec<_> =
            told.iter().filter(|(.., e)| matches!(e, TunnelEvent::Received { .. })).cloned().collect();
        let expected = [
            (28, 1, received(THEIRS, b"one")),
            (28, 1, received(THEIRS, b"two")),
            (28, 0, received(OURS, b"back")),
        ];
        assert_eq!(got, expected);
        let credit = told.iter().filter(|(.., e)| matches!(e, TunnelEvent::Sent { .. })).count();
        assert_eq!(credit, 3);
        b.send(0, OURS, b"last");
        b.ask(0, TunnelRequest::Close(OURS));
        let told = b.run(200);
        assert_eq!(over(&told), [(100, 0, "closed here"), (108, 1, "closed by the other side")]);
        assert!(told.contains(&(108, 1, received(THEIRS, b"last"))));
        assert!(b.tunnels.is_empty() && b.tunnels.ends.is_empty());
    }

    #[test]
    fn nobody_opens_one_to_a_host_behind_a_translator() {
        let mut b = Bench::new(BoxSpec::UdpBlocked);
        let to = b.net.seen_as(2).unwrap();
        b.ask(0, TunnelRequest::Open { tunnel: OURS, to });
        assert_eq!(over(&b.run(20_000)), [(10_000, 0, "connection timed out")]);
    }

    #[test]
    fn a_cut_delays_and_one_that_lasts_ends_it() {
        let mut b = Bench::new(BoxSpec::UdpBlocked);
        b.open();
        b.net.set_down(1, true);
        b.send(0, OURS, b"late");
        b.run(5_000);
        b.net.set_down(1, false);
        let told = b.run(6_000);
        assert!(matches!(&told[..], [(5_028, 1, TunnelEvent::Received { .. })]), "{told:?}");
        b.net.set_down(1, true);
        b.send(0, OURS, b"never");
        assert_eq!(over(&b.run(60_000)).len(), 2, "both hear of it");
    }

    #[test]
    fn a_machine_without_power_is_missed_and_one_that_is_back_says_so() {
        let mut b = Bench::new(BoxSpec::UdpBlocked);
        b.open();
        b.lives[1] = None;
        let effects = b.tunnels.crash(b.now_ns, 1);
        b.take(effects);
        assert_eq!(over(&b.run(60_000)), [(30_020, 0, "connection timed out")]);
        b.lives[1] = Some(2);
        let to = b.net.address(1).unwrap();
        b.ask(0, TunnelRequest::Open { tunnel: TunnelId(4), to });
        b.run(61_000);
        let effects = b.tunnels.crash(b.now_ns, 1);
        b.take(effects);
        b.lives[1] = Some(3);
        b.send(0, TunnelId(4), b"are you there?");
        assert_eq!(over(&b.run(62_000)), [(61_008, 0, "connection reset by peer")]);
        assert!(b.tunnels.is_empty());
    }

    #[test]
    fn a_box_that_restarts_forgets_tunnels_too() {
        let mut b = Bench::new(Kind::carrier(false));
        b.open();
        b.net.reboot_box(1);
        b.send(0, OURS, b"into nothing");
        assert_eq!(over(&b.run(60_000)).len(), 2);
    }

    #[test]
    fn an_orderly_end_closes_all_and_tunnels_are_bounded() {
        let mut b = Bench::new(BoxSpec::UdpBlocked);
        let to = b.net.address(1).unwrap();
        for n in 1..=TUNNELS_MAX as u64 {
            b.ask(0, TunnelRequest::Open { tunnel: TunnelId(2 * n), to });
        }
        b.run(100);
        assert_eq!(b.tunnels.len(), TUNNELS_MAX);
        b.ask(0, TunnelRequest::Open { tunnel: TunnelId(1 << 40), to });
        assert_eq!(over(&b.run(101)).len(), 1, "no room");
        let effects = b.tunnels.ends_of(b.now_ns, &b.net, 1);
        b.take(effects);
        assert_eq!(over(&b.run(200)).len(), 2 * TUNNELS_MAX);
        assert!(b.tunnels.is_empty());
    }
}
