//! Real TLS 1.3 whose randomness is seeded.
//!
//! rustls asks its provider for random bytes and for key exchanges, both of which take the operating system's
//! randomness. Here both read the generator of the core that is being called: the world lends it to the thread for the
//! length of a call ([`lend`]), so that every core has a stream of its own and worlds in different threads do not meet.
//! Signatures (Ed25519) and AEADs are deterministic already and stay ring's and the product's own.

use remote_network_core::rng::Rng;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::{Error, NamedGroup, PeerMisbehaved};
use std::cell::RefCell;
use std::sync::Arc;
use x25519_dalek::{PublicKey, StaticSecret};

thread_local! {
    static LENT: RefCell<Option<Rng>> = const { RefCell::new(None) };
}

/// Runs `f` with `rng` as the source of TLS's randomness.
pub fn lend<R>(rng: &mut Option<Rng>, f: impl FnOnce() -> R) -> R {
    if rng.is_none() {
        return f();
    }
    LENT.with(|lent| std::mem::swap(&mut *lent.borrow_mut(), rng));
    let result = f();
    LENT.with(|lent| std::mem::swap(&mut *lent.borrow_mut(), rng));
    result
}

fn draw(out: &mut [u8]) -> Result<(), GetRandomFailed> {
    LENT.with(|lent| match &mut *lent.borrow_mut() {
        Some(rng) => {
            rng.fill(out);
            Ok(())
        }
        None => Err(GetRandomFailed),
    })
}

/// ring's provider with the two sources of randomness replaced.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        secure_random: &Seeded,
        kx_groups: vec![&SeededX25519],
        ..rustls::crypto::ring::default_provider()
    })
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        draw(buf)
    }
}

#[derive(Debug)]
struct SeededX25519;

impl SupportedKxGroup for SeededX25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut seed = [0; 32];
        draw(&mut seed)?;
        let secret = StaticSecret::from(seed);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, Error> {
        let theirs = <[u8; 32]>::try_from(peer_pub_key)
            .map_err(|_| Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare))?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(theirs));
        if !shared.was_contributory() {
            return Err(Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare));
        }
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
