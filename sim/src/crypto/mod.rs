//! Cryptography for cores in a simulation, in two strengths behind the transport's one seam.
//!
//! - [`null`]: a session that costs two hashes. Large runs use it.
//! - [`seeded_tls`]: real TLS 1.3 with real signatures, its randomness seeded. A share of the runs uses it, so that the
//!   product's own path is covered too.
//!
//! Both prove a peer's key in the same form (a 44-byte SubjectPublicKeyInfo), so that the core cannot tell them apart.

pub mod null;
pub mod seeded_tls;

#[cfg(test)]
mod tests;
