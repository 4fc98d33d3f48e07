//! How QUIC is set up: bounds, and determinism.
//!
//! Every source of randomness quinn-proto has (its own generator, connection ids, the initial destination id, reset and token
//! keys, token time) is replaced by a seeded one, so that equal seeds and inputs give equal packets. Every limit is set
//! here, because its defaults are not safe ones (an unlimited receive window, 65,536 pending handshakes).

use super::cids::{Cids, Issuer};
use super::crypto::QuicCrypto;
use super::gate::{Gate, Gated};
use crate::limits::SERVES_PER_PEER_MAX;
use crate::place::Place;
use crate::rng::{Rng, derive_seed};
use crate::time::Duration;
use quinn_proto::crypto::{CryptoError, HmacKey};
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, NoneTokenStore,
    ServerConfig, TimeSource, TransportConfig, VarInt,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration as StdDuration, Instant as StdInstant, SystemTime};

/// The dialling side sends something after this much silence, a default.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A connection on which nothing is heard for this long is gone, a default.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bidirectional streams a peer may have open: its control stream, the `SERVES_PER_PEER_MAX` it fetches by, and two that
/// just ended, because quinn-proto tells of room for new ones by twos. It keeps tables of all that may come and of those we
/// opened; up to 14 together they are half as large as from 15 on, so that this leaves our own control stream and a fetch.
const STREAMS_MAX: u32 = 1 + SERVES_PER_PEER_MAX as u32 + 2;
/// Largest datagram probed for: what Ethernet carries over IPv6.
pub(super) const DATAGRAM_BYTES_MAX: u16 = 1_452;
/// The same between nodes of one machine: loopback carries any, and most of the cost of QUIC is one for each datagram. No
/// larger, so that ten still leave in one call.
pub const NEAR_DATAGRAM_BYTES_MAX: u16 = 6_500;
/// Receive window of a stream. Above 2 MB a burst of losses can exceed quinn-proto's 1,024 gaps and kill the connection.
const STREAM_WINDOW: u32 = 1_250_000;
/// Receive window of a connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes sent but not acknowledged, per connection.
const SEND_WINDOW: u64 = 8 << 20;

/// Packets after which we ask a peer for an acknowledgement (draft-ietf-quic-ack-frequency), where RFC 9000 has two: each costs
/// both ends, and a relay between them, a packet. Fewer would keep a window that losses have made small waiting.
const PACKETS_PER_ACK: u32 = 8;
/// Whoever sent less is acknowledged after this long, where RFC 9000's default is 25 ms.
const ACK_DELAY_MAX: StdDuration = StdDuration::from_millis(5);
/// DATAGRAM frames queued in either direction: enough for a window of 200 Mbit/s over 10 ms; more only adds delay.
const DATAGRAM_QUEUE_BYTES: usize = 256 << 10;

/// How QUIC is set up.
#[derive(Clone)]
pub struct QuicConfig {
    /// Cryptography.
    pub crypto: QuicCrypto,
    /// The moment of the driver's clock that is `Instant::ZERO` here.
    pub base: StdInstant,
    /// Feeds every random choice of QUIC.
    pub seed: [u8; 32],
    /// The dialling side sends something after this much silence.
    pub keep_alive: Duration,
    /// A connection on which nothing is heard for this long is gone.
    pub idle_timeout: Duration,
    /// Whether larger datagrams than 1,200 bytes are probed for.
    pub mtu_discovery: bool,
    /// Connections alive at once.
    pub connections_max: usize,
}

impl QuicConfig {
    /// The usual set-up.
    pub fn new(crypto: QuicCrypto, base: StdInstant, seed: [u8; 32]) -> Self {
        Self {
            crypto,
            base,
            seed,
            keep_alive: KEEP_ALIVE,
            idle_timeout: IDLE_TIMEOUT,
            mtu_discovery: true,
            connections_max: crate::limits::CONNECTIONS_MAX,
        }
    }
}

/// What a transport starts with.
pub(super) struct Setup {
    pub(super) endpoint: Endpoint,
    /// For peers elsewhere, and on this machine.
    pub(super) dial: [ClientConfig; 2],
    /// For peers on this machine; the endpoint has that for others.
    pub(super) accept_near: Arc<ServerConfig>,
    /// Nanoseconds since the start, for the age of retry tokens.
    pub(super) token_clock: Arc<AtomicU64>,
    pub(super) cids: Arc<Cids>,
    pub(super) gate: Gate,
}

impl Setup {
    pub(super) fn new(config: &QuicConfig) -> Self {
        let cids = Cids::new(Rng::derive(&config.seed, "quic connection ids"));
        let gate = Gate::default();
        let token_clock = Arc::new(AtomicU64::new(0));
        let mut endpoint =
            EndpointConfig::new(Arc::new(KeyedHash(derive_seed(&config.crypto.secret, "stateless reset"))));
        let issuer = cids.clone();
        endpoint.cid_generator(move || Box::new(Issuer(issuer.clone())));
        // What has this bit clear is no QUIC packet but STUN or a probe (RFC 7983).
        endpoint.grease_quic_bit(false);
        endpoint.rng_seed(Some(derive_seed(&config.seed, "quic endpoint")));
        // The constant is within what QUIC allows, the only reason for an error.
        let _always = endpoint.max_udp_payload_size(NEAR_DATAGRAM_BYTES_MAX);

        let token_prk = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, b"remote-network retry tokens")
            .extract(&derive_seed(&config.crypto.secret, "retry token"));
        let mut server = ServerConfig::new(config.crypto.server.clone(), Arc::new(token_prk));
        server
            .transport_config(Arc::new(transport_config(config, &gate, DATAGRAM_BYTES_MAX)))
            .migration(false)
            .max_incoming(256)
            .incoming_buffer_size(64 << 10)
            .incoming_buffer_size_total(4 << 20)
            .time_source(Arc::new(TokenClock(token_clock.clone())));
        let mut near_server = server.clone();
        near_server.transport_config(Arc::new(transport_config(config, &gate, NEAR_DATAGRAM_BYTES_MAX)));

        let mut client = ClientConfig::new(config.crypto.client.clone());
        let dialling = |datagram_bytes_max| {
            let mut t = transport_config(config, &gate, datagram_bytes_max);
            t.keep_alive_interval(Some(config.keep_alive));
            Arc::new(t)
        };
        client
            .transport_config(dialling(DATAGRAM_BYTES_MAX))
            .token_store(Arc::new(NoneTokenStore))
            .initial_dst_cid_provider(Arc::new({
                let cids = cids.clone();
                move || cids.random(20)
            }));
        let mut near_client = client.clone();
        near_client.transport_config(dialling(NEAR_DATAGRAM_BYTES_MAX));
        Self {
            endpoint: Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)), config.mtu_discovery, None),
            dial: [client, near_client],
            accept_near: Arc::new(near_server),
            token_clock,
            cids,
            gate,
        }
    }
}

/// Whether a place is on this machine.
pub(super) fn is_near(place: Place) -> bool {
    place.addr().is_some_and(|addr| addr.ip().to_canonical().is_loopback())
}

fn transport_config(config: &QuicConfig, gate: &Gate, datagram_bytes_max: u16) -> TransportConfig {
    let mut t = TransportConfig::default();
    let idle_ms = u32::try_from(config.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let mut acks = AckFrequencyConfig::default();
    // The most that may come *without* an acknowledgement.
    acks.ack_eliciting_threshold((PACKETS_PER_ACK - 1).into()).max_ack_delay(Some(ACK_DELAY_MAX));
    let mtu = config.mtu_discovery.then(|| {
        let mut m = MtuDiscoveryConfig::default();
        m.interval(StdDuration::from_secs(60)).upper_bound(datagram_bytes_max);
        m
    });
    t.max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(VarInt::from_u32(idle_ms).into()))
        .initial_rtt(StdDuration::from_millis(100))
        .initial_mtu(1200)
        .min_mtu(1200)
        .mtu_discovery_config(mtu)
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(Some(DATAGRAM_QUEUE_BYTES))
        .datagram_send_buffer_size(DATAGRAM_QUEUE_BYTES)
        .congestion_controller_factory(Arc::new(Gated(gate.clone())))
        .allow_spin(false)
        .crypto_buffer_size(16 << 10);
    t
}

/// Keyed BLAKE3 as the MAC of stateless reset tokens.
struct KeyedHash([u8; 32]);

impl HmacKey for KeyedHash {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let mac = blake3::keyed_hash(&self.0, data);
        let n = signature_out.len().min(32);
        signature_out[..n].copy_from_slice(&mac.as_bytes()[..n]);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mac = blake3::keyed_hash(&self.0, data);
        // `blake3::Hash` compares in constant time.
        match <[u8; 32]>::try_from(signature) {
            Ok(s) if mac == blake3::Hash::from_bytes(s) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// The clock of retry tokens: time since the node's start, as quinn-proto wants it.
#[derive(Debug)]
struct TokenClock(Arc<AtomicU64>);

impl TimeSource for TokenClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + StdDuration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
