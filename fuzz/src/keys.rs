//! The few keys that every target and every seed of the corpora knows.

use remote_network_core::id::{Keypair, PublicKey};

/// As many keys are known.
pub const COUNT: u8 = 6;

/// The `n`th key, counted around.
pub fn keypair(n: u8) -> Keypair {
    Keypair::from_seed(&[n % COUNT + 1; 32])
}

/// The known keypair behind a public key.
pub fn known(key: &PublicKey) -> Option<Keypair> {
    (0..COUNT).map(keypair).find(|k| k.public() == *key)
}
