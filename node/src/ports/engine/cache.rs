//! Compiled code on disk, so that a module is compiled once and not at every start.
//!
//! Loading compiled code is as powerful as running a program, so the question is who may put something here. Only the node
//! writes in this directory; a worker hands over the code of *its own* module, before any guest instruction ran, and can read
//! one file of the cache, never write. The name binds code to the module's digest and to everything the code depends on
//! (wasmtime's version, its settings, the processor); a keyed BLAKE3 over name and content, under a key of 0600 that workers
//! never see, refuses what another program, an older disk or a broken one has put there. What a hostile module could do to
//! the compiler it can thus only do to itself, inside the same walls it would run in anyway.

use remote_network_core::id::Digest;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

const KEY_FILE: &str = "mac.key";
const CODE: &str = "cwasm";
const MAC: &str = "mac";

/// The cache. One per node and directory.
pub(super) struct CodeCache {
    dir: PathBuf,
    key: [u8; 32],
    bytes_max: u64,
    /// Writers take turns, so that a code file and its MAC belong together and temporary names never meet.
    writing: Mutex<()>,
}

impl CodeCache {
    /// Opens or makes the directory and its key.
    pub(super) fn open(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let key = open_key(&dir.join(KEY_FILE))?;
        Ok(Self { dir: dir.to_owned(), key, bytes_max, writing: Mutex::new(()) })
    }

    /// As [`CodeCache::get`]; nothing for a worker that has the code already.
    pub(super) fn get_unless(&self, has_it: bool, module: &Digest, version: &str) -> Option<PathBuf> {
        if has_it { None } else { self.get(module, version) }
    }

    /// The code of `module` for `version`, verified. Damaged code is removed.
    pub(super) fn get(&self, module: &Digest, version: &str) -> Option<PathBuf> {
        let name = entry_name(module, version);
        let code = self.dir.join(&name).with_extension(CODE);
        let file = File::open(&code).ok()?;
        let said = fs::read(code.with_extension(MAC)).ok()?;
        let said: [u8; 32] = said.try_into().ok()?;
        // `blake3::Hash` compares in constant time.
        if self.mac(&name, &file).ok()? != said {
            tracing::warn!(module = %module, "compiled code in the cache is damaged; it is compiled anew");
            let _ = fs::remove_file(&code);
            return None;
        }
        // The order of use is the order of eviction.
        let _ = file.set_modified(SystemTime::now());
        Some(code)
    }

    /// Keeps `code`. A crash at any point leaves either the whole entry or one that `get` refuses.
    pub(super) fn insert(&self, module: &Digest, version: &str, mut code: File) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = entry_name(module, version);
        let path = self.dir.join(&name).with_extension(CODE);
        let fresh = self.dir.join("fresh");
        let mut file = create(&fresh)?;
        let len = io::copy(&mut (&mut code).take(self.bytes_max.saturating_add(1)), &mut file)?;
        if len > self.bytes_max {
            return fs::remove_file(&fresh);
        }
        let mac = self.mac(&name, &File::open(&fresh)?)?;
        fs::rename(&fresh, &path)?;
        create(&fresh)?.write_all(mac.as_bytes())?;
        fs::rename(&fresh, path.with_extension(MAC))?;
        self.evict(&path)
    }

    fn mac(&self, name: &str, code: &File) -> io::Result<blake3::Hash> {
        let mut mac = blake3::Hasher::new_keyed(&self.key);
        mac.update(name.as_bytes());
        mac.update_reader(code)?;
        Ok(mac.finalize())
    }

    /// Removes the least recently used entries until the rest fits.
    fn evict(&self, keep: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == CODE)
                && let Ok(meta) = fs::symlink_metadata(&path)
            {
                entries.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in entries {
            if total <= self.bytes_max {
                break;
            }
            if path != keep {
                let _ = fs::remove_file(path.with_extension(MAC));
                fs::remove_file(&path)?;
                total -= len;
            }
        }
        Ok(())
    }
}

fn entry_name(module: &Digest, version: &str) -> String {
    Digest::in_domain("remote-network/compiled-code", &[module.as_bytes(), version.as_bytes()]).to_string()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The key, made at first use. A key of the wrong length is replaced: the cache only has to be filled again.
fn open_key(path: &Path) -> io::Result<[u8; 32]> {
    if let Ok(Ok(key)) = fs::read(path).map(<[u8; 32]>::try_from) {
        return Ok(key);
    }
    let mut key = [0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key)
        .map_err(|_| io::Error::other("the system gave no randomness"))?;
    create(path)?.write_all(&key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn code(bytes: &[u8]) -> File {
        let mut f = tempfile::tempfile().unwrap();
        f.write_all(bytes).unwrap();
        io::Seek::rewind(&mut f).unwrap();
        f
    }

    #[test]
    fn code_is_found_again_only_for_its_module_and_version_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        CodeCache::open(dir.path(), 1000).unwrap().insert(&a, "1", code(b"code of a")).unwrap();
        let cache = CodeCache::open(dir.path(), 1000).unwrap();
        assert_eq!(fs::read(cache.get(&a, "1").unwrap()).unwrap(), b"code of a");
        assert_eq!(cache.get(&a, "2"), None);
        assert_eq!(cache.get(&b, "1"), None);
        assert_eq!(fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn damaged_swapped_or_foreign_code_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(dir.path(), 1000).unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        cache.insert(&a, "1", code(b"code of a")).unwrap();
        cache.insert(&b, "1", code(b"code of b")).unwrap();
        let (pa, pb) = (cache.get(&a, "1").unwrap(), cache.get(&b, "1").unwrap());
        fs::copy(&pb, &pa).unwrap();
        fs::copy(pb.with_extension(MAC), pa.with_extension(MAC)).unwrap();
        assert_eq!(cache.get(&a, "1"), None, "another module's code, with its own MAC");
        fs::write(&pb, b"code of c").unwrap();
        assert_eq!(cache.get(&b, "1"), None, "changed code");
        assert!(!pb.exists());
        fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        cache.insert(&a, "1", code(b"code of a")).unwrap();
        assert_eq!(CodeCache::open(dir.path(), 1000).unwrap().get(&a, "1"), None, "under another key");
    }

    #[test]
    fn the_cache_stays_within_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(dir.path(), 100).unwrap();
        for n in 0u8..5 {
            cache.insert(&Digest::of(&[n]), "1", code(&[n; 40])).unwrap();
        }
        cache.insert(&Digest::of(b"too large"), "1", code(&[0; 101])).unwrap();
        assert_eq!(cache.get(&Digest::of(b"too large"), "1"), None);
        let kept = (0u8..5).filter(|n| cache.get(&Digest::of(&[*n]), "1").is_some()).count();
        assert_eq!(kept, 2);
        assert!(cache.get(&Digest::of(&[4]), "1").is_some(), "the newest stays");
    }
}
