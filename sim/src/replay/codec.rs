//! The bytes of a recording: everything that can be said to a core, written plainly.
//!
//! Numbers are big-endian, byte strings and lists carry a 32-bit length, a choice is one byte. The numbers of choices are
//! part of the format and are never reused; a new one needs a new [`super::VERSION`] only when old readers would
//! misunderstand it rather than refuse it.

use super::ReplayError;
use bytes::{Bytes, BytesMut};
use remote_network_core::command::Command;
use remote_network_core::event::{Datagram, Event};
use remote_network_core::id::{
    CommandId, DhtId, Digest, JobId, Keypair, Lsn, OpId, PeerId, PeerName, PublicKey, RunId, Signature,
};
use remote_network_core::job::rules::{Join, OnFailure, Quorum, Retry, RunRules, TaskRules, Test, When};
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::node::{Journal, NodeConfig};
use remote_network_core::place::{SocketEvent, SocketId, TunnelEvent, TunnelId};
use remote_network_core::port::{
    BlobAnswer, BlobFailed, BlobInfo, Dataset, DhtDone, DhtEvent, DhtFailed, EngineEvent, EngineExit,
    EngineLimits, EngineOutput, EngineReport, Executable, ExitClass, Image, Layout, MutableItem, Port,
    Program, Target, Usage,
};
use remote_network_core::relay::server::Config;
use remote_network_core::service::{Mount, MountDirection, Service, Visibility};
use remote_network_core::store::{Room, StoredRecord, Subject};
use remote_network_core::time::{Instant, UnixTime};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Reads fields off the front of bytes.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], ReplayError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(ReplayError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReplayError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(ReplayError::Short)?;
        self.0 = rest;
        Ok(*head)
    }
}

/// Something with a place in a recording.
pub trait Field: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads it.
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError>;
}

macro_rules! number {
    ($($t:ty),*) => {$(
        impl Field for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
                Ok(<$t>::from_be_bytes(r.array()?))
            }
        }
    )*};
}
number!(u8, u16, u32, u64, i32);

macro_rules! record {
    ($($t:ty { $($f:ident),* $(,)? })*) => {$(
        impl Field for $t {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$f.put(out);)*
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
                Ok(Self { $($f: Field::take(r)?),* })
            }
        }
    )*};
}

macro_rules! choice {
    ($($t:ident { $($n:literal => $v:ident $(( $($x:ident),* ))? $({ $($f:ident),* })?),* $(,)? })*) => {$(
        impl Field for $t {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($t::$v $(( $($x),* ))? $({ $($f),* })? => {
                        out.push($n);
                        $($($x.put(out);)*)?
                        $($($f.put(out);)*)?
                    })*
                }
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
                match u8::take(r)? {
                    $($n => Ok($t::$v $(( $({ let $x = Field::take(r)?; $x }),* ))? $({ $($f: Field::take(r)?),* })?),)*
                    number => Err(ReplayError::Unknown { what: stringify!($t), number }),
                }
            }
        }
    )*};
}

macro_rules! array_id {
    ($($t:ident),*) => {$(
        impl Field for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
                Ok($t(r.array()?))
            }
        }
    )*};
}
array_id!(PeerId, Digest, RunId, JobId, DhtId, Signature);

macro_rules! number_id {
    ($($t:ident),*) => {$(
        impl Field for $t {
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
                Ok($t(Field::take(r)?))
            }
        }
    )*};
}
number_id!(OpId, CommandId, Lsn, SocketId, TunnelId);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(u8::take(r)? != 0)
    }
}

impl Field for usize {
    fn put(&self, out: &mut Vec<u8>) {
        (*self as u64).put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(usize::try_from(u64::take(r)?).unwrap_or(usize::MAX))
    }
}

impl<const N: usize> Field for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        r.array()
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u32).put(out);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], ReplayError> {
    let len = u32::take(r)? as usize;
    r.bytes(len)
}

impl Field for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self, out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        take_bytes(r).map(Bytes::copy_from_slice)
    }
}

impl Field for BytesMut {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self, out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        take_bytes(r).map(BytesMut::from)
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        String::from_utf8(take_bytes(r)?.to_vec()).map_err(|_| ReplayError::Invalid("text"))
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        let len = u32::take(r)?;
        // Every item takes at least a byte, so a length that lies runs out of bytes, not of memory.
        (0..len).map(|_| T::take(r)).collect()
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(if bool::take(r)? { Some(T::take(r)?) } else { None })
    }
}

impl<T: Field> Field for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        T::take(r).map(Box::new)
    }
}

impl<T: Field, E: Field> Field for Result<T, E> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(value) => value.put(out),
            Err(error) => error.put(out),
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(if bool::take(r)? { Ok(T::take(r)?) } else { Err(E::take(r)?) })
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok((A::take(r)?, B::take(r)?))
    }
}

impl Field for BTreeMap<String, String> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(Vec::<(String, String)>::take(r)?.into_iter().collect())
    }
}

impl Field for Duration {
    fn put(&self, out: &mut Vec<u8>) {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(Duration::from_nanos(u64::take(r)?))
    }
}

impl Field for Instant {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_nanos().put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(Instant::from_nanos(u64::take(r)?))
    }
}

impl Field for UnixTime {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_millis().put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(UnixTime::from_millis(u64::take(r)?))
    }
}

impl Field for IpAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            IpAddr::V4(ip) => (4u8, ip.octets()).put(out),
            IpAddr::V6(ip) => (6u8, ip.octets()).put(out),
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        match u8::take(r)? {
            4 => Ok(IpAddr::from(r.array::<4>()?)),
            6 => Ok(IpAddr::from(r.array::<16>()?)),
            number => Err(ReplayError::Unknown { what: "address", number }),
        }
    }
}

impl Field for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        (self.ip(), self.port()).put(out);
        if let SocketAddr::V6(v6) = self {
            (v6.flowinfo(), v6.scope_id()).put(out);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        let (ip, port) = Field::take(r)?;
        let mut addr = SocketAddr::new(ip, port);
        if let SocketAddr::V6(v6) = &mut addr {
            let (flow, scope) = Field::take(r)?;
            v6.set_flowinfo(flow);
            v6.set_scope_id(scope);
        }
        Ok(addr)
    }
}

impl Field for PublicKey {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        PublicKey::from_slice(&r.array::<32>()?).map_err(|_| ReplayError::Invalid("public key"))
    }
}

impl Field for Keypair {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&*self.seed());
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(Keypair::from_seed(&r.array()?))
    }
}

impl Field for Room {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        let number = u8::take(r)?;
        Room::from_number(number).ok_or(ReplayError::Unknown { what: "room", number })
    }
}

record! {
    Datagram { socket, from, to, ecn, payload }
    MutableItem { key, salt, seq, value, signature }
    DhtDone { stored, responded, newest_seq }
    BlobInfo { len, pieces }
    Usage { cpu_ns, fuel, memory_bytes, wall_ms }
    EngineLimits { memory_bytes, time_ms, output_bytes }
    EngineOutput { port, digest, len, truncated }
    EngineExit { class, code, detail, usage, outputs, carried }
    EngineReport { job, event }
    Mount { name, direction, path, layout }
    Image { name, id, entrypoint, workdir }
    Service { name, description, version, program, module_len, stdin, mounts, limits, visibility, details }
    ObjectRef { digest, len }
    Retry { resource, infra, pause_ms, pause_max_ms, memory_max }
    When<String> { task, test }
    Quorum { agree, of }
    TaskRules<String> { retry, queue_ms, join, when, quorum, audit_ppm }
    RunRules { timeout_ms, on_failure }
    TaskSpec { service, peers, args, env, retries, timeout_ms, place, memory_bytes, rules }
    End { node, port }
    Edge { from, to }
    Workflow { name, nodes, edges, rules }
    Subject { room, key }
    StoredRecord { lsn, subject, record }
    Journal { id, last, records }
    Config {
        sessions_max, sessions_per_address_max, accepts_per_second, accepts_at_once, session_rate, address_rate, total_rate,
        queue_bytes, keepalive, lifetime, price,
    }
    Target { arch, os }
    Executable { object, target }
    Dataset { manifest, len }
    NodeConfig {
        keypair, topics, max_peers, min_peers, known_peers_max, public, public_addrs, publish_private, private_network,
        jobs_running_max, accept_jobs, native, idle_close_after, relay, relay_limits, relays, birthday_probing, republish_every,
        discover_every, machine, policy,
    }
}

choice! {
    Event {
        1 => Datagram(d), 2 => LocalAddrs(a), 3 => Persisted { up_to }, 4 => PersistFailed { why }, 5 => Dht(e),
        6 => Blob { op, result }, 7 => Engine(r), 8 => Command { id, command }, 9 => Datagrams(all), 10 => Socket(e), 11 => Tunnel(e), 12 => Mapped(addrs),
        13 => Nearby { key, addr },
    }
    SocketEvent { 1 => Opened(socket, addr), 2 => Failed(socket, why) }
    TunnelEvent {
        1 => Opened(tunnel), 2 => Accepted { tunnel, from }, 3 => Received { tunnel, packets }, 4 => Sent { tunnel, bytes },
        5 => Closed { tunnel, why },
    }
    DhtEvent {
        1 => Peers { op, addrs }, 2 => Value { op, item }, 3 => Done { op, result },
        4 => Health { table_len, reachable }, 5 => Immutable { op, value },
    }
    DhtFailed {
        1 => NoNodes, 2 => Timeout, 3 => Cas, 4 => SeqTooOld, 5 => TooBig, 6 => BadSignature, 7 => Offline,
        8 => Cancelled,
    }
    BlobAnswer {
        1 => Info(i), 2 => Bytes(b), 3 => Partial { have }, 4 => Written, 5 => Sealed, 6 => Removed, 7 => Missing(m),
    }
    BlobFailed { 1 => NotFound, 2 => Full, 3 => Corrupt, 4 => Io(why) }
    Port { 1 => Stdin, 2 => Stdout, 3 => Stderr, 4 => Mount(name) }
    ExitClass { 1 => Success, 2 => User, 3 => Resource, 4 => Permanent, 5 => Infra, 6 => Cancelled }
    EngineEvent { 1 => Started, 2 => Exited(exit) }
    PeerName { 1 => Key(key), 2 => Id(id) }
    Program { 1 => Wasm(module), 2 => Image(image), 3 => Native(executable), 4 => Data(dataset) }
    MountDirection { 1 => In, 2 => Out }
    Layout { 1 => Files, 2 => Tree, 3 => Trees }
    Visibility { 1 => Everyone, 2 => Listed(peers), 3 => OnlyMe }
    NodeKind { 1 => Source(objects), 2 => Task(task), 3 => Sink }
    OnFailure { 1 => Stop, 2 => Continue }
    Join { 1 => All, 2 => Any, 3 => Always }
    Test { 1 => Succeeded, 2 => Failed, 3 => Code(code), 4 => Empty(port), 5 => Is(port, digest) }
    Command {
        1 => Status, 2 => Peers, 3 => Peer(name), 4 => Connect { peer, addr }, 5 => AddService(service),
        6 => RemoveService(digest), 7 => Services, 8 => Plan(workflow), 9 => Submit { run, workflow }, 10 => Runs,
        11 => Run(run), 12 => Cancel(run), 13 => Shutdown, 14 => Share { digest, consumer, valid },
        15 => Fetch { digest, len, from, ticket }, 16 => Block { key, blocked }, 17 => Keep { digest, kept }, 18 => Relay,
        19 => RelayDisconnect(key), 20 => Service(command), 21 => Pause { run, paused },
        22 => KeepTree { digest, len },
    }
}

mod services;
