//! A QUIC session without cryptography that still cannot be forged inside the simulation.
//!
//! A [`Realm`] stands for mathematics: it can compute the secret that belongs to any public key, and only the simulator
//! holds it. A node is handed its own identity ([`Realm::crypto`]) and the ability to *check* others, never the realm, so
//! a byzantine host can lie about anything but who it is, unless the scenario grants it another's identity by that same
//! call. The handshake has TLS's four messages at TLS's encryption levels:
//!
//! ```text
//! client → Initial    hello  { nonce, transport parameters }
//! server → Initial    hello  { nonce }                                → handshake keys from both nonces
//! server → Handshake  proof  { key, proof, transport parameters }     → 1-RTT keys
//! client → Handshake  proof  { key, proof }
//! ```
//!
//! Packets are not encrypted; a keyed 128-bit tag makes the network's flipped bits and anybody's inventions fail, as an
//! AEAD would.

use crate::fold::Fold;
use bytes::BytesMut;
use quinn_proto::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig,
    Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};
use remote_network_core::id::PublicKey;
use remote_network_core::transport::quic::QuicCrypto;
use remote_network_core::transport::tls::spki;
use rustls::pki_types::CertificateDer;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const TAG_BYTES: usize = 16;
/// Longest handshake message: a hello with transport parameters is far below.
const MESSAGE_BYTES_MAX: usize = 4096;
const HELLO: u8 = 1;
const PROOF: u8 = 2;

/// TLS alert `bad_certificate` and `decode_error`, as codes of the null session's refusals.
const BAD_IDENTITY: u8 = 42;
const BAD_MESSAGE: u8 = 50;

/// What stands for mathematics: whoever holds it can be anybody.
#[derive(Clone)]
pub struct Realm {
    secret: [u8; 32],
}

impl Realm {
    /// The realm of a world.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// What a node with this key needs of cryptography. `seed` feeds its nonces; `reset_secret` outlives restarts.
    pub fn crypto(&self, key: &PublicKey, seed: [u8; 32], reset_secret: [u8; 32]) -> QuicCrypto {
        let config = Arc::new(Config { realm: self.clone(), key: *key, seed, sessions: AtomicU64::new(0) });
        QuicCrypto { client: config.clone(), server: config, secret: reset_secret }
    }

    fn proof(&self, key: &[u8; 32], side: Side, nonces: &Nonces) -> [u8; 32] {
        let mut h = blake3::Hasher::new_keyed(&self.secret);
        h.update(b"proof").update(key).update(&[u8::from(side.is_client())]);
        h.update(&nonces.client).update(&nonces.server);
        *h.finalize().as_bytes()
    }

    fn session_secret(&self, nonces: &Nonces) -> [u8; 32] {
        let mut h = blake3::Hasher::new_keyed(&self.secret);
        h.update(b"session").update(&nonces.client).update(&nonces.server);
        *h.finalize().as_bytes()
    }
}

struct Config {
    realm: Realm,
    key: PublicKey,
    seed: [u8; 32],
    sessions: AtomicU64,
}

impl Config {
    fn session(self: Arc<Self>, side: Side, params: &TransportParameters) -> NullSession {
        let n = self.sessions.fetch_add(1, Ordering::Relaxed);
        let mut h = blake3::Hasher::new_keyed(&self.seed);
        h.update(&n.to_le_bytes());
        let nonce = *h.finalize().as_bytes();
        let mut ours = Vec::new();
        params.write(&mut ours);
        NullSession {
            side,
            peer_params: None,
            peer: None,
            secret: [0; 32],
            state: if side.is_client() { State::SendHello } else { State::AwaitHello },
            talk: Some(Box::new(Talk {
                own_nonce: nonce,
                own_params: ours,
                nonces: Nonces { client: nonce, server: nonce },
                inbox: Vec::new(),
            })),
            generation: 0,
            config: self,
        }
    }
}

impl ClientConfig for Config {
    fn start_session(
        self: Arc<Self>,
        _version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        Ok(Box::new(self.session(Side::Client, params)))
    }
}

impl ServerConfig for Config {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if !quinn_proto::DEFAULT_SUPPORTED_VERSIONS.contains(&version) {
            return Err(UnsupportedVersion);
        }
        Ok(initial_keys(dst_cid, Side::Server))
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, _version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Box::new(self.session(Side::Server, params))
    }
}

#[derive(Clone, Copy)]
struct Nonces {
    client: [u8; 32],
    server: [u8; 32],
}

/// What the session does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Client: say hello.
    SendHello,
    /// Either: wait for the other's hello.
    AwaitHello,
    /// Either: say hello back (server) or nothing (client), and give out handshake keys.
    GiveHandshakeKeys,
    /// Server: prove ourselves, and give out 1-RTT keys.
    ServerProves,
    /// Either: wait for the other's proof.
    AwaitProof,
    /// Client: prove ourselves, and give out 1-RTT keys.
    ClientProves,
    /// All is said.
    Done,
}

struct NullSession {
    config: Arc<Config>,
    side: Side,
    peer_params: Option<Box<[u8]>>,
    peer: Option<PublicKey>,
    secret: [u8; 32],
    state: State,
    /// Gone when all is said: thousands of sessions that are done with their handshake keep nothing of it.
    talk: Option<Box<Talk>>,
    generation: u64,
}

/// What only the handshake needs.
struct Talk {
    own_nonce: [u8; 32],
    own_params: Vec<u8>,
    nonces: Nonces,
    inbox: Vec<u8>,
}

fn refuse(alert: u8, why: &str) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert), frame: None, reason: why.into() }
}

impl NullSession {
    fn say(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        out.push(kind);
        out.extend_from_slice(&(len as u16).to_be_bytes());
        parts.iter().for_each(|p| out.extend_from_slice(p));
    }

    /// Takes one whole message out of what has come.
    fn next_message(&mut self) -> Result<Option<(u8, Vec<u8>)>, TransportError> {
        let Some(talk) = &mut self.talk else { return Ok(None) };
        let Some(&[kind, high, low]) = talk.inbox.first_chunk::<3>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len > MESSAGE_BYTES_MAX {
            return Err(refuse(BAD_MESSAGE, "handshake message too long"));
        }
        if talk.inbox.len() < 3 + len {
            return Ok(None);
        }
        let body = talk.inbox[3..3 + len].to_vec();
        talk.inbox.drain(..3 + len);
        Ok(Some((kind, body)))
    }

    fn hear_hello(&mut self, body: &[u8]) -> Result<(), TransportError> {
        let Some((nonce, params)) = body.split_first_chunk::<32>() else {
            return Err(refuse(BAD_MESSAGE, "hello too short"));
        };
        let Some(talk) = &mut self.talk else { return Err(refuse(BAD_MESSAGE, "all is said")) };
        talk.nonces = match self.side {
            Side::Client => Nonces { client: talk.own_nonce, server: *nonce },
            Side::Server => {
                self.peer_params = Some(params.into());
                Nonces { client: *nonce, server: talk.own_nonce }
            }
        };
        self.secret = self.config.realm.session_secret(&talk.nonces);
        self.state = State::GiveHandshakeKeys;
        Ok(())
    }

    fn hear_proof(&mut self, body: &[u8]) -> Result<(), TransportError> {
        let short = || refuse(BAD_MESSAGE, "proof too short");
        let (key, rest) = body.split_first_chunk::<32>().ok_or_else(short)?;
        let (proof, params) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        let Some(talk) = &self.talk else { return Err(refuse(BAD_MESSAGE, "all is said")) };
        if *proof != self.config.realm.proof(key, !self.side, &talk.nonces) {
            return Err(refuse(BAD_IDENTITY, "identity not proven"));
        }
        let key = PublicKey::from_slice(key).map_err(|_| refuse(BAD_IDENTITY, "not a key"))?;
        self.peer = Some(key);
        self.state = match self.side {
            Side::Client => {
                self.peer_params = Some(params.into());
                State::ClientProves
            }
            Side::Server => {
                self.talk = None;
                State::Done
            }
        };
        Ok(())
    }

    fn keys(&self, level: &str) -> Keys {
        Keys {
            header: KeyPair { local: Box::new(PlainHeader), remote: Box::new(PlainHeader) },
            packet: self.packet_keys(level, 0),
        }
    }

    fn packet_keys(&self, level: &str, generation: u64) -> KeyPair<Box<dyn PacketKey>> {
        let key = |side: Side| -> Box<dyn PacketKey> {
            let mut h = blake3::Hasher::new_keyed(&self.secret);
            h.update(level.as_bytes())
                .update(&[u8::from(side.is_client())])
                .update(&generation.to_le_bytes());
            Box::new(TagKey::from_bytes(h.finalize().as_bytes()))
        };
        KeyPair { local: key(self.side), remote: key(!self.side) }
    }
}

impl Session for NullSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.peer_params.as_ref().map(|_| Box::new(()) as Box<dyn Any>)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let key = self.peer?;
        Some(Box::new(vec![CertificateDer::<'static>::from(spki(&key))]))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        Some(false)
    }

    fn is_handshaking(&self) -> bool {
        self.state != State::Done
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let knew = self.peer_params.is_some();
        match &mut self.talk {
            Some(talk) => talk.inbox.extend_from_slice(buf),
            None => return Err(refuse(BAD_MESSAGE, "unexpected handshake message")),
        }
        while let Some((kind, body)) = self.next_message()? {
            match (kind, self.state) {
                (HELLO, State::AwaitHello) => self.hear_hello(&body)?,
                (PROOF, State::AwaitProof) => self.hear_proof(&body)?,
                _ => return Err(refuse(BAD_MESSAGE, "unexpected handshake message")),
            }
        }
        Ok(!knew && self.peer_params.is_some())
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        match &self.peer_params {
            None => Ok(None),
            Some(raw) => {
                TransportParameters::read(self.side, &mut &raw[..]).map(Some).map_err(TransportError::from)
            }
        }
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let talk = self.talk.as_ref()?;
        match (self.state, self.side) {
            (State::SendHello, _) => {
                Self::say(HELLO, &[&talk.own_nonce, &talk.own_params], buf);
                self.state = State::AwaitHello;
                None
            }
            (State::GiveHandshakeKeys, Side::Server) => {
                Self::say(HELLO, &[&talk.own_nonce], buf);
                self.state = State::ServerProves;
                Some(self.keys("handshake"))
            }
            (State::GiveHandshakeKeys, Side::Client) => {
                self.state = State::AwaitProof;
                Some(self.keys("handshake"))
            }
            (State::ServerProves | State::ClientProves, side) => {
                let key = *self.config.key.as_bytes();
                let proof = self.config.realm.proof(&key, side, &talk.nonces);
                let params: &[u8] = if side.is_server() { &talk.own_params } else { &[] };
                Self::say(PROOF, &[&key, &proof, params], buf);
                if side.is_server() {
                    self.state = State::AwaitProof;
                } else {
                    self.state = State::Done;
                    self.talk = None;
                }
                Some(self.keys("1-rtt"))
            }
            (State::AwaitHello | State::AwaitProof | State::Done, _) => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.generation += 1;
        Some(self.packet_keys("1-rtt", self.generation))
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some(end) = payload.len().checked_sub(TAG_BYTES) else { return false };
        let (body, tag) = payload.split_at(end);
        retry_tag(orig_dst_cid, &[header, body].concat()) == *tag
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let mut h = blake3::Hasher::new_keyed(&self.secret);
        h.update(b"export").update(&(label.len() as u64).to_le_bytes()).update(label).update(context);
        h.finalize_xof().fill(output);
        Ok(())
    }
}

/// The key of the null session's Initial packets. As in QUIC they are protected against accidents only.
fn initial_keys(dst_cid: &ConnectionId, side: Side) -> Keys {
    let key = |side: Side| -> Box<dyn PacketKey> {
        let mut f = Fold::keyed([0x696e_6974, u64::from(side.is_client())]);
        f.bytes(dst_cid);
        let value = f.value();
        Box::new(TagKey([value as u64, (value >> 64) as u64]))
    };
    Keys {
        header: KeyPair { local: Box::new(PlainHeader), remote: Box::new(PlainHeader) },
        packet: KeyPair { local: key(side), remote: key(!side) },
    }
}

fn retry_tag(orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
    let mut f = Fold::keyed([0x7265_7472, 0x79]);
    f.bytes(orig_dst_cid);
    f.bytes(packet);
    f.value().to_be_bytes()
}

struct TagKey([u64; 2]);

impl TagKey {
    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let word = |at: usize| bytes[at..at + 8].iter().fold(0, |w, b| w << 8 | u64::from(*b));
        Self([word(0), word(8)])
    }

    fn tag(&self, packet: u64, header: &[u8], payload: &[u8]) -> [u8; TAG_BYTES] {
        let mut f = Fold::keyed(self.0);
        f.words(packet, header.len() as u64);
        f.bytes(header);
        f.bytes(payload);
        f.value().to_be_bytes()
    }
}

impl PacketKey for TagKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (header, rest) = buf.split_at_mut(header_len);
        let (payload, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        tag.copy_from_slice(&self.tag(packet, header, payload));
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let end = payload.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        if payload[end..] != self.tag(packet, header, &payload[..end]) {
            return Err(CryptoError);
        }
        payload.truncate(end);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        1 << 52
    }
}

/// Header protection that protects nothing.
struct PlainHeader;

impl HeaderKey for PlainHeader {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}
    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}
    fn sample_size(&self) -> usize {
        16
    }
}
