//! TLS 1.3 with raw Ed25519 public keys (RFC 7250) on both sides: the peer *is* its key.
//!
//! There is no certificate, no name and no authority to ask: a handshake proves that the other side holds the secret of
//! the key it shows, and [`super::quic`] compares that key with the one that was dialled. SNI is not sent, sessions are
//! not resumed, 0-RTT is off (it would be replayable). The cryptographic provider comes in from outside, because key
//! exchange needs randomness: the operating system's in production, a seeded one in the simulator.

use super::crypto::QuicCrypto;
use crate::id::{IdError, Keypair, PublicKey, Signature};
use crate::rng::derive_seed;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureAlgorithm, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// DER of a SubjectPublicKeyInfo with algorithm Ed25519 (RFC 8410), up to the 32 bytes of the key.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The provider cannot do what the node needs.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("TLS set-up: {0}")]
pub struct TlsError(String);

/// The 44-byte SubjectPublicKeyInfo of a key.
pub fn spki(key: &PublicKey) -> Vec<u8> {
    [&SPKI_PREFIX[..], key.as_bytes()].concat()
}

/// The key in a 44-byte SubjectPublicKeyInfo.
pub fn key_of_spki(der: &[u8]) -> Result<PublicKey, IdError> {
    match der.strip_prefix(&SPKI_PREFIX) {
        Some(raw) => PublicKey::from_slice(raw),
        None => Err(IdError::Length { expected: 44, got: der.len() }),
    }
}

/// Everything QUIC needs of cryptography, for a node with this key.
pub fn crypto(keypair: &Keypair, provider: Arc<CryptoProvider>) -> Result<QuicCrypto, TlsError> {
    let fail = |e: &dyn fmt::Display| TlsError(e.to_string());
    let signing = Arc::new(NodeSigningKey(keypair.clone()));
    let certificate = CertificateDer::from(spki(&keypair.public()));
    let certified = Arc::new(CertifiedKey::new(vec![certificate], signing));
    let verifier = Arc::new(RawKeyVerifier);

    let mut client = rustls::ClientConfig::builder_with_details(provider.clone(), Arc::new(NoTime))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| fail(&e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified.clone())));
    client.enable_sni = false;
    client.resumption = Resumption::disabled();

    let mut server = rustls::ServerConfig::builder_with_details(provider, Arc::new(NoTime))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| fail(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});

    Ok(QuicCrypto {
        client: Arc::new(QuicClientConfig::try_from(client).map_err(|e| fail(&e))?),
        server: Arc::new(QuicServerConfig::try_from(server).map_err(|e| fail(&e))?),
        secret: derive_seed(&keypair.seed(), "quic tokens"),
    })
}

/// Raw keys have no validity period, so TLS is given no clock.
#[derive(Debug)]
struct NoTime;

impl TimeProvider for NoTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
    }
}

#[derive(Debug)]
struct NodeSigningKey(Keypair);

impl SigningKey for NodeSigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(NodeSigner(self.0.clone())) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(spki(&self.0.public())))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

#[derive(Debug)]
struct NodeSigner(Keypair);

impl Signer for NodeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(message).0.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Accepts any usable Ed25519 key that signs the handshake; who that is, is decided above.
#[derive(Debug)]
struct RawKeyVerifier;

impl RawKeyVerifier {
    fn check_key(end_entity: &CertificateDer<'_>, others: usize) -> Result<PublicKey, rustls::Error> {
        if others != 0 {
            return Err(rustls::CertificateError::BadEncoding.into());
        }
        key_of_spki(end_entity).map_err(|_| rustls::CertificateError::BadEncoding.into())
    }

    fn check_signature(
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = Self::check_key(cert, 0)?;
        let valid = dss.scheme == SignatureScheme::ED25519
            && Signature::from_slice(dss.signature()).is_ok_and(|s| key.verify(message, &s));
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(rustls::CertificateError::BadSignature.into())
        }
    }
}

impl ServerCertVerifier for RawKeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check_key(end_entity, intermediates.len()).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check_key(end_entity, intermediates.len()).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
