//! What QUIC is given of cryptography: the seam between [`super::quic`], which uses it, and who makes it.

use quinn_proto::crypto::{ClientConfig, ServerConfig};
use std::sync::Arc;

/// What cryptography QUIC uses: [`super::tls::crypto`] in production, something cheaper in large simulations. `peer_identity()`
/// of its sessions is a `Vec<CertificateDer>` whose first entry is the peer's 44-byte Ed25519 SubjectPublicKeyInfo.
#[derive(Clone)]
pub struct QuicCrypto {
    /// For dialled connections.
    pub client: Arc<dyn ClientConfig>,
    /// For accepted connections.
    pub server: Arc<dyn ServerConfig>,
    /// Keys reset and retry tokens; persistent across restarts, so that a restarted node resets what it forgot.
    pub secret: [u8; 32],
}
