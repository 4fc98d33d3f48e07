//! The keystore: the node's only secret, in one file (SPEC 1.3).
//!
//! ```text
//! "RNKEY" version:1 kind:1 public key:32        then, by kind,
//!   0 open    seed:32 check:16                  (BLAKE3, against damage only)
//!   1 sealed  memory KiB:4 passes:4 lanes:4 salt:16 nonce:12 sealed seed:32+16
//! ```
//! Sealed is Argon2id and ChaCha20-Poly1305 with everything before the sealed bytes as associated data: nobody can
//! weaken the parameters or swap the public key without the passphrase noticing. The parameters are stored, so that
//! they can rise later. The public key stands in front in the clear, so that `key info` asks for no passphrase.
//!
//! **The file is never half there.** It is written beside itself with mode 0600 from its first byte, synced, and then
//! given its name: by a link for a new keystore (which refuses to replace one), by a rename for a changed one.
//! A keystore that others may read is refused, because its secret may be theirs already.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use remote_network_core::id::{Keypair, PublicKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

/// The keystore's file within the data directory.
pub const KEYSTORE_FILE: &str = "key";
/// The environment variable that may hold the passphrase.
pub const PASSPHRASE_VARIABLE: &str = "REMOTE_NETWORK_PASSPHRASE";

const MAGIC: &[u8; 5] = b"RNKEY";
const VERSION: u8 = 1;
const KIND_OPEN: u8 = 0;
const KIND_SEALED: u8 = 1;
const HEADER_LEN: usize = MAGIC.len() + 2 + 32;
const OPEN_LEN: usize = HEADER_LEN + 32 + 16;
const KDF_LEN: usize = 4 + 4 + 4 + 16 + 12;
const SEALED_LEN: usize = HEADER_LEN + KDF_LEN + 32 + 16;
/// Longest passphrase in bytes; longer is somebody naming the wrong file.
const PASSPHRASE_MAX: usize = 1024;

/// Argon2id's cost. The floor that OWASP names is 19 MiB and 2 passes; this is above, at some hundred milliseconds.
const MEMORY_KIB: u32 = 32 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// What a file may ask for at the most, so that a damaged one costs no more than a moment.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 32;
const LANES_MAX: u32 = 16;

/// Why the keystore cannot be used.
#[derive(Debug, Error)]
pub enum KeystoreError {
    /// There is none.
    #[error("there is no keystore at {}", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a keystore at {} already; it is not replaced. Move it away first", .0.display())]
    Exists(PathBuf),
    /// Others may read it.
    #[error(
        "{} may be read by others (mode {mode:03o}); if nobody did, mend it with: chmod 600 {}",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a regular file, or not ours.
    #[error("{} is no keystore of remote-network", .0.display())]
    Foreign(PathBuf),
    /// Another format version.
    #[error("{} has format version {found}; this program knows version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// Cut short, or changed where the passphrase plays no part.
    #[error("{} is damaged; restore it from your copy with `key import`", .0.display())]
    Damaged(PathBuf),
    /// It is sealed and no passphrase was given.
    #[error(
        "the keystore is encrypted: give its passphrase by passphrase_file, {PASSPHRASE_VARIABLE}, or at the prompt"
    )]
    Locked,
    /// The passphrase does not open it. A damaged file looks the same, by design of the cipher.
    #[error("wrong passphrase (or the keystore is damaged)")]
    WrongPassphrase,
    /// Not usable as a passphrase.
    #[error("a passphrase has 1 to {PASSPHRASE_MAX} bytes of text without zero bytes")]
    BadPassphrase,
    /// The bytes are no private key.
    #[error("a private key is 32 bytes, or 64 hex digits")]
    NotAKey,
    /// The operating system's words.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// No randomness, or no memory for Argon2id.
    #[error("keystore: {0}")]
    Crypto(&'static str),
}

/// A passphrase: zeroed when dropped, never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// From text; empty and overlong ones are refused.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Result<Self, KeystoreError> {
        let text = text.into();
        if text.is_empty() || text.len() > PASSPHRASE_MAX || text.contains('\0') {
            return Err(KeystoreError::BadPassphrase);
        }
        Ok(Self(text))
    }

    /// From a file of mode 0600; one line break at its end does not count.
    pub fn from_file(path: &Path) -> Result<Self, KeystoreError> {
        let bytes = read_private(path, PASSPHRASE_MAX + 2)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| KeystoreError::BadPassphrase)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        Self::new(Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }

    /// From [`PASSPHRASE_VARIABLE`]; `None` when it is not set.
    pub fn from_env() -> Result<Option<Self>, KeystoreError> {
        match std::env::var(PASSPHRASE_VARIABLE) {
            Ok(text) => Self::new(Zeroizing::new(text)).map(Some),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(KeystoreError::BadPassphrase),
        }
    }

    /// Asks at the terminal, without echo.
    pub fn prompt(question: &str) -> Result<Self, KeystoreError> {
        let text = rpassword::prompt_password(question)
            .map_err(|source| KeystoreError::Io { path: PathBuf::from("terminal"), source })?;
        Self::new(Zeroizing::new(text))
    }

    /// The sources of SPEC 1.3 in their order: file, environment, prompt. `None` when none of them applies, as when there
    /// is nobody at a terminal to be asked.
    pub fn obtain(file: Option<&Path>, question: Option<&str>) -> Result<Option<Self>, KeystoreError> {
        if let Some(path) = file {
            return Self::from_file(path).map(Some);
        }
        match (Self::from_env()?, question) {
            (Some(passphrase), _) => Ok(Some(passphrase)),
            (None, Some(question)) if has_terminal() => Self::prompt(question).map(Some),
            (None, Some(_) | None) => Ok(None),
        }
    }
}

/// Whether somebody can be asked.
fn has_terminal() -> bool {
    OpenOptions::new().read(true).write(true).open("/dev/tty").is_ok()
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// The forms in which a private key leaves and enters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyFormat {
    /// The 32 bytes.
    Binary,
    /// 64 hex digits and a line break.
    Hex,
}

/// A new key pair from the operating system's randomness.
pub fn generate() -> Result<Keypair, KeystoreError> {
    Ok(Keypair::from_seed(&*random::<32>()?))
}

/// The private key in the given form.
pub fn export(keypair: &Keypair, format: KeyFormat) -> Zeroizing<Vec<u8>> {
    let seed = keypair.seed();
    match format {
        KeyFormat::Binary => Zeroizing::new(seed.to_vec()),
        KeyFormat::Hex => {
            // Reserved at once, so that no shorter copy is left behind by growing.
            let mut text = Zeroizing::new(Vec::with_capacity(65));
            for byte in seed.iter() {
                for digit in [byte >> 4, byte & 15] {
                    text.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
                }
            }
            text.push(b'\n');
            text
        }
    }
}

/// A private key from 32 bytes, or from 64 hex digits with white space around them.
pub fn import(bytes: &[u8]) -> Result<Keypair, KeystoreError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    if bytes.len() == seed.len() {
        seed.copy_from_slice(bytes);
        return Ok(Keypair::from_seed(&seed));
    }
    let digits = bytes.trim_ascii();
    if digits.len() != 64 {
        return Err(KeystoreError::NotAKey);
    }
    let digit = |c: &u8| (*c as char).to_digit(16).ok_or(KeystoreError::NotAKey);
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().try_fold(0u8, |sum, c| Ok::<u8, KeystoreError>(sum << 4 | digit(c)? as u8))?;
    }
    Ok(Keypair::from_seed(&seed))
}

/// A keystore file that was read but not yet unlocked.
pub struct Keystore {
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl std::fmt::Debug for Keystore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keystore").field("path", &self.path).field("public", &self.public).finish()
    }
}

impl Keystore {
    /// Makes a new keystore; `None` leaves it unencrypted, which an unattended node may choose. Never replaces a file.
    pub fn create(
        path: &Path,
        keypair: &Keypair,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, KeystoreError> {
        let bytes = encode(keypair, passphrase)?;
        write_atomically(path, &bytes, Naming::New)?;
        Self::open(path)
    }

    /// Stores `keypair` in the place of whatever keystore is there; a crash leaves the old one or the new one.
    pub fn replace(
        path: &Path,
        keypair: &Keypair,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, KeystoreError> {
        let bytes = encode(keypair, passphrase)?;
        write_atomically(path, &bytes, Naming::Replace)?;
        Self::open(path)
    }

    /// Reads a keystore and checks everything that needs no passphrase.
    pub fn open(path: &Path) -> Result<Self, KeystoreError> {
        let bytes = read_private(path, SEALED_LEN + 1)?;
        let (magic, rest) =
            bytes.split_first_chunk::<5>().ok_or_else(|| KeystoreError::Foreign(path.to_owned()))?;
        if magic != MAGIC {
            return Err(KeystoreError::Foreign(path.to_owned()));
        }
        let damaged = || KeystoreError::Damaged(path.to_owned());
        let [version, kind, rest @ ..] = rest else { return Err(damaged()) };
        if *version != VERSION {
            return Err(KeystoreError::Version { path: path.to_owned(), found: *version });
        }
        let expected = match *kind {
            KIND_OPEN => OPEN_LEN,
            KIND_SEALED => SEALED_LEN,
            _ => return Err(damaged()),
        };
        let public = rest.get(..32).and_then(|raw| PublicKey::from_slice(raw).ok()).ok_or_else(damaged)?;
        if bytes.len() != expected {
            return Err(damaged());
        }
        Ok(Self { path: path.to_owned(), bytes, public })
    }

    /// Whose key it is. Proven only by [`Keystore::unlock`].
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Whether a passphrase is needed.
    pub fn is_encrypted(&self) -> bool {
        self.bytes.len() == SEALED_LEN
    }

    /// The key pair. A passphrase that is not needed is ignored.
    pub fn unlock(&self, passphrase: Option<&Passphrase>) -> Result<Keypair, KeystoreError> {
        let seed = if self.is_encrypted() {
            self.unseal(passphrase.ok_or(KeystoreError::Locked)?)?
        } else {
            self.read_open()?
        };
        let keypair = Keypair::from_seed(&seed);
        if keypair.public() != self.public {
            return Err(KeystoreError::Damaged(self.path.clone()));
        }
        Ok(keypair)
    }

    /// Seals the same key anew; `None` leaves it unencrypted. The old file stands until the new one is durable.
    pub fn change_passphrase(
        &mut self,
        old: Option<&Passphrase>,
        new: Option<&Passphrase>,
    ) -> Result<(), KeystoreError> {
        let keypair = self.unlock(old)?;
        let bytes = encode(&keypair, new)?;
        write_atomically(&self.path, &bytes, Naming::Replace)?;
        self.bytes = bytes;
        Ok(())
    }

    fn read_open(&self) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let damaged = || KeystoreError::Damaged(self.path.clone());
        let (body, check) = self.bytes.split_last_chunk::<16>().ok_or_else(damaged)?;
        if open_check(body) != *check {
            return Err(damaged());
        }
        let seed = body.last_chunk::<32>().ok_or_else(damaged)?;
        Ok(Zeroizing::new(*seed))
    }

    fn unseal(&self, passphrase: &Passphrase) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let damaged = || KeystoreError::Damaged(self.path.clone());
        let (front, sealed) = self.bytes.split_last_chunk::<48>().ok_or_else(damaged)?;
        let kdf = front.last_chunk::<KDF_LEN>().and_then(Kdf::from_bytes).ok_or_else(damaged)?;
        let payload = Payload { msg: sealed, aad: front };
        let opened = kdf
            .cipher(passphrase)?
            .decrypt(&Nonce::from(kdf.nonce), payload)
            .map_err(|_| KeystoreError::WrongPassphrase)?;
        let opened = Zeroizing::new(opened);
        let mut seed = Zeroizing::new([0u8; 32]);
        if opened.len() != seed.len() {
            return Err(damaged());
        }
        seed.copy_from_slice(&opened);
        Ok(seed)
    }
}

/// Argon2id's parameters and the nonce, as stored.
struct Kdf {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 16],
    nonce: [u8; 12],
}

impl Kdf {
    fn fresh() -> Result<Self, KeystoreError> {
        Ok(Self {
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
            salt: *random::<16>()?,
            nonce: *random::<12>()?,
        })
    }

    fn to_bytes(&self) -> [u8; KDF_LEN] {
        let mut out = [0; KDF_LEN];
        out[..4].copy_from_slice(&self.memory_kib.to_be_bytes());
        out[4..8].copy_from_slice(&self.passes.to_be_bytes());
        out[8..12].copy_from_slice(&self.lanes.to_be_bytes());
        out[12..28].copy_from_slice(&self.salt);
        out[28..].copy_from_slice(&self.nonce);
        out
    }

    fn from_bytes(bytes: &[u8; KDF_LEN]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let kdf = Self {
            memory_kib: number(0)?,
            passes: number(4)?,
            lanes: number(8)?,
            salt: bytes.get(12..28)?.try_into().ok()?,
            nonce: bytes.get(28..)?.try_into().ok()?,
        };
        let bounded = kdf.memory_kib <= MEMORY_KIB_MAX && kdf.passes <= PASSES_MAX && kdf.lanes <= LANES_MAX;
        bounded.then_some(kdf)
    }

    fn cipher(&self, passphrase: &Passphrase) -> Result<ChaCha20Poly1305, KeystoreError> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| KeystoreError::WrongPassphrase)?;
        let mut key = Zeroizing::new([0u8; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.0.as_bytes(), &self.salt, &mut *key)
            .map_err(|_| KeystoreError::Crypto("Argon2id could not run"))?;
        let mut cipher_key = Key::from(*key);
        let cipher = ChaCha20Poly1305::new(&cipher_key);
        cipher_key.zeroize();
        Ok(cipher)
    }
}

fn encode(keypair: &Keypair, passphrase: Option<&Passphrase>) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let mut out = Zeroizing::new(Vec::with_capacity(SEALED_LEN));
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.push(if passphrase.is_some() { KIND_SEALED } else { KIND_OPEN });
    out.extend_from_slice(keypair.public().as_bytes());
    let seed = keypair.seed();
    match passphrase {
        None => {
            out.extend_from_slice(&*seed);
            let check = open_check(&out);
            out.extend_from_slice(&check);
        }
        Some(passphrase) => {
            let kdf = Kdf::fresh()?;
            out.extend_from_slice(&kdf.to_bytes());
            let sealed = kdf
                .cipher(passphrase)?
                .encrypt(&Nonce::from(kdf.nonce), Payload { msg: &*seed, aad: &out })
                .map_err(|_| KeystoreError::Crypto("sealing failed"))?;
            out.extend_from_slice(&sealed);
        }
    }
    Ok(out)
}

fn open_check(body: &[u8]) -> [u8; 16] {
    let mut check = [0; 16];
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"remote-network keystore\0").update(body);
    hasher.finalize_xof().fill(&mut check);
    check
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeystoreError> {
    let mut bytes = Zeroizing::new([0u8; N]);
    SystemRandom::new()
        .fill(&mut *bytes)
        .map_err(|_| KeystoreError::Crypto("no random bytes from the operating system"))?;
    Ok(bytes)
}

/// The bytes of a regular file that only its owner may read; at most `max` of them.
fn read_private(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeystoreError::Missing(path.to_owned()),
        _ => KeystoreError::Io { path: path.to_owned(), source },
    };
    // Not blocking: a FIFO in the file's place must not hang the node.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeystoreError::Foreign(path.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeystoreError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(max));
    file.take(max as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// How a file that is complete gets its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// Only if nothing has it.
    New,
    /// Whatever has it.
    Replace,
}

fn write_atomically(path: &Path, bytes: &[u8], naming: Naming) -> Result<(), KeystoreError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeystoreError::Exists(path.to_owned()),
        _ => KeystoreError::Io { path: path.to_owned(), source },
    };
    if naming == Naming::New && fs::symlink_metadata(path).is_ok() {
        return Err(KeystoreError::Exists(path.to_owned()));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let suffix = u64::from_be_bytes(*random::<8>()?);
    let partial = folder.join(format!(".key-{suffix:016x}"));
    let named = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match naming {
            Naming::New => fs::hard_link(&partial, path),
            Naming::Replace => fs::rename(&partial, path),
        }
    })();
    // After a rename it is gone already; after a link or an error it must go.
    let _best_effort = fs::remove_file(&partial);
    named.map_err(failed)?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests;
