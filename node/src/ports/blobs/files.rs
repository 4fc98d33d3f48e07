//! The store's files.
//!
//! ```text
//! blobs/ab/abcd…          an object, whole: exactly its bytes
//! blobs/ab/abcd….pieces   its length and piece list, for objects of more than one piece
//! partial/abcd…           an object being fetched, at its full length with holes
//! tmp/…                   imports under way; swept at start
//! ```
//! The piece list proves itself (its root is the digest), so a damaged or missing one is made anew from the object and
//! is never believed. Everything is opened relative to a directory that is held open, without following links, with
//! mode 0600; what is not a regular file is damage.
//!
//! The empty object needs no file: its name says all there is to know of it.

use super::folder::{
    failed, file_len, list_name, names_in, open_file, read_failed, regular_len, shard_name, subdirectory,
};
use crate::failpoints::pass;
use bytes::Bytes;
use remote_network_core::id::Digest;
use remote_network_core::job::workflow::ObjectRef;
use remote_network_core::limits::OBJECT_BYTES_MAX;
use remote_network_core::port::{BlobAnswer, BlobFailed, BlobInfo};
use remote_network_core::transfer::tree::{
    PieceCheck, PieceHasher, PieceState, list_len, piece_count, piece_range, root_of, short_list, verify_info,
};
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, MemfdFlags, OFlags, memfd_create, renameat, statat, unlinkat};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Objects being fetched at once, far above the core's own bound: each holds a file open.
const PARTIALS_OPEN_MAX: usize = 64;
/// An object that nothing was read of for this long is closed.
pub(super) const READERS_KEPT: Duration = Duration::from_secs(1);
/// Whole objects a reader keeps open.
const READERS_OPEN_MAX: usize = 16;
/// A partial object nobody resumed for so long is given up.
const PARTIAL_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest single read: the largest piece.
const READ_BYTES_MAX: u32 = 16 << 20;
const IMPORT_BUFFER_BYTES: usize = 256 * 1024;
/// The object without a byte. Most tasks say nothing to standard error: it is here always, never stored and never removed.
static EMPTY: LazyLock<Digest> = LazyLock::new(|| Digest::of(b""));

/// Why the store cannot be opened.
#[derive(Debug, Error)]
#[error("object store: {what}: {source}")]
pub struct BlobStoreError {
    what: &'static str,
    source: io::Error,
}

/// Why an import failed.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The bytes could not be read from where they come.
    #[error("reading the input: {0}")]
    Source(#[source] io::Error),
    /// They could not be kept.
    #[error(transparent)]
    Store(#[from] BlobFailed),
}

/// The object store of a data directory. Clones are the same store.
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: OwnedFd,
    partial: OwnedFd,
    tmp: OwnedFd,
    quota: u64,
    /// Bytes of objects, lists, partial objects and imports under way.
    used: AtomicU64,
    /// Held while names change, so that `used` is counted once per name.
    naming: Mutex<()>,
    imports: AtomicU64,
}

/// The partial objects one writer has open.
#[derive(Debug, Default)]
pub(super) struct Partials {
    open: BTreeMap<Digest, Partial>,
}

#[derive(Debug)]
struct Partial {
    file: File,
    info: BlobInfo,
    have: Vec<u8>,
}

/// The objects one reader has open: opening one costs as much as reading its next bytes. One that was removed or replaced
/// meanwhile is not read again, but takes up its room until the reader forgets it, a second after its last read.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// The one read last stands last.
    open: Vec<Reader>,
}

#[derive(Debug)]
struct Reader {
    digest: Digest,
    file: File,
    len: u64,
    read_at: Instant,
}

impl Readers {
    fn of(&mut self, store: &BlobStore, digest: &Digest) -> Result<(&File, u64), BlobFailed> {
        let read_at = Instant::now();
        self.open.retain(|reader| read_at.duration_since(reader.read_at) < READERS_KEPT);
        let known = self.open.iter().position(|reader| reader.digest == *digest);
        let known = known.map(|at| self.open.remove(at));
        let known = known.filter(|reader| reader.file.metadata().is_ok_and(|there| there.nlink() > 0));
        let reader = match known {
            Some(reader) => Reader { read_at, ..reader },
            None => {
                let (file, len) = store.inner.object(digest)?;
                Reader { digest: *digest, file, len, read_at }
            }
        };
        if self.open.len() >= READERS_OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(reader);
        self.open.last().map(|reader| (&reader.file, reader.len)).ok_or(BlobFailed::NotFound)
    }

    pub(super) fn forget_all(&mut self) {
        self.open.clear();
    }
}

impl Partials {
    pub(super) fn forget(&mut self, digest: &Digest) {
        self.open.remove(digest);
    }
}

impl BlobStore {
    /// Opens the store below the data directory `dir`, which the caller has locked, and sweeps what a crash left.
    pub fn open(dir: &Path, quota_bytes: u64) -> Result<Self, BlobStoreError> {
        let failed = |what| move |source: io::Error| BlobStoreError { what, source };
        let root = File::open(dir).map_err(failed("opening the data directory"))?;
        let folder = |name| subdirectory(root.as_fd(), name, true).map_err(failed("opening its directories"));
        let inner = Inner {
            blobs: folder("blobs")?,
            partial: folder("partial")?,
            tmp: folder("tmp")?,
            quota: quota_bytes,
            used: AtomicU64::new(0),
            naming: Mutex::new(()),
            imports: AtomicU64::new(0),
        };
        let used = inner.sweep().map_err(failed("sweeping"))?;
        inner.used.store(used, Ordering::Relaxed);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Bytes in use, and the quota.
    pub fn usage(&self) -> (u64, u64) {
        (self.inner.used.load(Ordering::Relaxed), self.inner.quota)
    }

    /// Length and piece list of a whole object. Short objects are hashed on the way; longer ones must have the length
    /// they were stored with.
    pub fn info(&self, digest: &Digest) -> Result<BlobInfo, BlobFailed> {
        let (file, len) = self.inner.object(digest)?;
        if let Some(pieces) = short_list(digest, len) {
            let mut bytes = vec![0; usize::try_from(len).map_err(|_| BlobFailed::Corrupt)?];
            file.read_exact_at(&mut bytes, 0).map_err(|e| read_failed(&e))?;
            return if Digest::of(&bytes) == *digest {
                Ok(BlobInfo { len, pieces })
            } else {
                Err(BlobFailed::Corrupt)
            };
        }
        match self.inner.stored_list(digest, len) {
            Some(pieces) => Ok(BlobInfo { len, pieces }),
            None => {
                let info = hash_whole(&file, digest)?;
                self.inner.keep_list(digest, &info)?;
                Ok(info)
            }
        }
    }

    /// Exactly `len` bytes from `offset` of a whole object. Not verified: whoever receives them does.
    pub(super) fn read(
        &self,
        readers: &mut Readers,
        digest: &Digest,
        offset: u64,
        len: u32,
    ) -> Result<Bytes, BlobFailed> {
        let (file, whole) = readers.of(self, digest)?;
        let end = offset.checked_add(u64::from(len)).filter(|end| *end <= whole);
        if end.is_none() || len > READ_BYTES_MAX {
            return Err(BlobFailed::Io(format!("{len} bytes at {offset} are not within {whole}")));
        }
        read_part(file, offset, len as usize).map(Bytes::from).map_err(|e| read_failed(&e))
    }

    /// A whole object as a file, for reading and seeking. It stays readable when the object is removed meanwhile.
    pub fn open_reader(&self, digest: &Digest) -> Result<File, BlobFailed> {
        self.inner.object(digest).map(|(file, _)| file)
    }

    /// Hashes a whole object again.
    pub fn verify(&self, digest: &Digest) -> Result<BlobInfo, BlobFailed> {
        let (file, _) = self.inner.object(digest)?;
        hash_whole(&file, digest)
    }

    /// Stores a stream and returns its name once it is durable. An object that is there already is replaced by these
    /// bytes, which are known to be right: this heals a damaged one.
    pub fn import(&self, source: &mut dyn Read) -> Result<ObjectRef, ImportError> {
        let number = self.inner.imports.fetch_add(1, Ordering::Relaxed);
        let name = format!("import-{number}");
        let mut reserved = Reserved { inner: &self.inner, bytes: 0 };
        let result = self.stream_in(&name, source, &mut reserved);
        if result.is_err() {
            let _best_effort = unlinkat(&self.inner.tmp, &name, AtFlags::empty());
        }
        result
    }

    fn stream_in(
        &self,
        name: &str,
        source: &mut dyn Read,
        reserved: &mut Reserved<'_>,
    ) -> Result<ObjectRef, ImportError> {
        let mut file = None;
        let mut hasher = PieceHasher::new();
        let mut buffer = vec![0; IMPORT_BUFFER_BYTES];
        loop {
            let n = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(ImportError::Source(e)),
            };
            let Some(bytes) = buffer.get(..n) else {
                return Err(ImportError::Source(io::Error::other(
                    "a reader returned more than it was asked for",
                )));
            };
            reserved.grow(n as u64)?;
            if reserved.bytes > OBJECT_BYTES_MAX {
                return Err(BlobFailed::Full.into());
            }
            hasher.update(bytes);
            let to = match &mut file {
                Some(file) => file,
                None => file.insert(self.inner.temporary(name).map_err(|e| failed(&e))?),
            };
            to.write_all(bytes).map_err(|e| failed(&e))?;
        }
        let (digest, info) = hasher.finish();
        // No byte came: that object is always here.
        let Some(file) = file else { return Ok(ObjectRef { digest, len: info.len }) };
        pass("import.written");
        file.sync_all().map_err(|e| failed(&e))?;
        self.inner.keep_list(&digest, &info)?;
        pass("import.synced");
        self.inner.give_name(self.inner.tmp.as_fd(), name, &digest)?;
        pass("import.named");
        Ok(ObjectRef { digest, len: info.len })
    }

    /// Starts or resumes a partial object.
    pub(super) fn create(
        &self,
        partials: &mut Partials,
        digest: Digest,
        info: BlobInfo,
    ) -> Result<BlobAnswer, BlobFailed> {
        match self.info(&digest) {
            Ok(whole) => return Ok(BlobAnswer::Info(whole)),
            Err(BlobFailed::NotFound) => {}
            // What is damaged gives way to what will be verified piece by piece.
            Err(BlobFailed::Corrupt) => self.inner.remove_object(&digest)?,
            Err(e @ (BlobFailed::Full | BlobFailed::Io(_))) => return Err(e),
        }
        if !verify_info(&digest, &info) {
            return Err(BlobFailed::Io("the piece list is not of this object".into()));
        }
        if let Some(partial) = partials.open.get(&digest)
            && partial.info == info
        {
            return Ok(BlobAnswer::Partial { have: partial.have.clone() });
        }
        partials.open.remove(&digest);
        if partials.open.len() >= PARTIALS_OPEN_MAX {
            return Err(BlobFailed::Io(format!("{PARTIALS_OPEN_MAX} objects are being fetched already")));
        }
        let partial = self.inner.open_partial(&digest, info)?;
        let have = partial.have.clone();
        partials.open.insert(digest, partial);
        pass("fetch.created");
        Ok(BlobAnswer::Partial { have })
    }

    /// Writes one verified piece.
    pub(super) fn write(
        &self,
        partials: &mut Partials,
        digest: &Digest,
        piece: u32,
        bytes: &[u8],
    ) -> Result<(), BlobFailed> {
        let partial = partials.open.get_mut(digest).ok_or(BlobFailed::NotFound)?;
        let range = piece_range(partial.info.len, piece);
        let total = bytes.len() as u64;
        if range.is_empty() || total != range.end - range.start {
            return Err(BlobFailed::Io(format!("piece {piece} has not {total} bytes")));
        }
        partial.file.write_all_at(bytes, range.start).map_err(|e| failed(&e))?;
        set_bit(&mut partial.have, piece);
        pass("fetch.written");
        Ok(())
    }

    /// Makes a complete partial object durable and whole.
    pub(super) fn seal(&self, partials: &mut Partials, digest: &Digest) -> Result<(), BlobFailed> {
        let Some(partial) = partials.open.get(digest) else {
            // Sealed before, and asked again: the answer may have been lost with its asker.
            return self.info(digest).map(|_| ());
        };
        let count = piece_count(partial.info.len);
        if let Some(missing) = (0..count).find(|piece| !bit(&partial.have, *piece)) {
            return Err(BlobFailed::Io(format!("piece {missing} of {count} is missing")));
        }
        partial.file.sync_all().map_err(|e| failed(&e))?;
        self.inner.keep_list(digest, &partial.info)?;
        let len = partial.info.len;
        pass("fetch.synced");
        self.inner.give_name(self.inner.partial.as_fd(), &digest.to_string(), digest)?;
        pass("fetch.named");
        self.inner.release(len); // Counted as partial until here, as an object from here.
        partials.open.remove(digest);
        Ok(())
    }

    /// Removes an object, whole or partial. There is no harm in removing what is not there.
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobFailed> {
        self.inner.remove_object(digest)?;
        pass("object.removed");
        let _naming = self.inner.names();
        self.inner.unlink(self.inner.partial.as_fd(), &digest.to_string())
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, bytes: u64) -> Result<(), BlobFailed> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.quota);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(|_| ())
            .map_err(|_| BlobFailed::Full)
    }

    fn release(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _always = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// The directory an object lives in; `None` when it is not there and not to be made.
    fn shard(&self, digest: &Digest, make: bool) -> Result<Option<OwnedFd>, BlobFailed> {
        let name = shard_name(digest);
        match subdirectory(self.blobs.as_fd(), &name, make) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !make => Ok(None),
            Err(e) => Err(failed(&e)),
        }
    }

    /// A new file for an import.
    fn temporary(&self, name: &str) -> io::Result<File> {
        open_file(self.tmp.as_fd(), name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }

    fn object(&self, digest: &Digest) -> Result<(File, u64), BlobFailed> {
        if *digest == *EMPTY {
            let file = memfd_create("empty", MemfdFlags::CLOEXEC).map_err(|e| failed(&e.into()))?;
            return Ok((File::from(file), 0));
        }
        let shard = self.shard(digest, false)?.ok_or(BlobFailed::NotFound)?;
        let file =
            open_file(shard.as_fd(), &digest.to_string(), OFlags::RDONLY).map_err(|e| read_failed(&e))?;
        let len = regular_len(&file)?;
        Ok((file, len))
    }

    /// The stored piece list, if it is one of an object with this digest and length.
    fn stored_list(&self, digest: &Digest, len: u64) -> Option<Bytes> {
        let shard = self.shard(digest, false).ok()??;
        let file = open_file(shard.as_fd(), &list_name(digest), OFlags::RDONLY).ok()?;
        let expected = 8 + list_len(len);
        if regular_len(&file).ok()? != expected as u64 {
            return None;
        }
        let mut bytes = vec![0; expected];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let (stored_len, list) = bytes.split_first_chunk::<8>()?;
        let whole = u64::from_be_bytes(*stored_len) == len && root_of(len, list).as_ref() == Some(digest);
        whole.then(|| Bytes::from(bytes).slice(8..))
    }

    /// Keeps the piece list of an object of more than one piece, durably and before the object gets its name.
    fn keep_list(&self, digest: &Digest, info: &BlobInfo) -> Result<(), BlobFailed> {
        if short_list(digest, info.len).is_some() {
            return Ok(());
        }
        let number = self.imports.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("list-{number}");
        let bytes = 8 + info.pieces.len() as u64;
        self.reserve(bytes)?;
        let shard = self.shard(digest, true)?.ok_or(BlobFailed::NotFound)?;
        let result = (|| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut file = open_file(self.tmp.as_fd(), &temporary, flags)?;
            file.write_all(&info.len.to_be_bytes())?;
            file.write_all(&info.pieces)?;
            file.sync_all()?;
            let _naming = self.names();
            let before = file_len(shard.as_fd(), &list_name(digest));
            renameat(&self.tmp, &temporary, &shard, list_name(digest))?;
            self.release(before);
            Ok(())
        })();
        result.map_err(|e: io::Error| {
            self.release(bytes);
            let _best_effort = unlinkat(&self.tmp, &temporary, AtFlags::empty());
            failed(&e)
        })
    }

    /// Gives a synced file its name in the store and makes the name durable. Counts the object.
    fn give_name(&self, from: BorrowedFd<'_>, name: &str, digest: &Digest) -> Result<(), BlobFailed> {
        let shard = self.shard(digest, true)?.ok_or(BlobFailed::NotFound)?;
        let object = digest.to_string();
        let _naming = self.names();
        let before = file_len(shard.as_fd(), &object);
        let len = file_len(from, name);
        renameat(from, name, &shard, &object).map_err(|e| failed(&e.into()))?;
        self.release(before);
        // Counted twice for a moment, since the caller still holds its reservation; never too little.
        self.used.fetch_add(len, Ordering::Relaxed);
        rustix::fs::fsync(&shard).and_then(|()| rustix::fs::fsync(&self.blobs)).map_err(|e| failed(&e.into()))
    }

    fn open_partial(&self, digest: &Digest, info: BlobInfo) -> Result<Partial, BlobFailed> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file =
            open_file(self.partial.as_fd(), &digest.to_string(), flags).map_err(|e| read_failed(&e))?;
        let before = regular_len(&file)?;
        let have = pieces_there(&file, before, &info)?;
        self.reserve(info.len.saturating_sub(before))?;
        if let Err(e) = file.set_len(info.len) {
            self.release(info.len.saturating_sub(before));
            return Err(failed(&e));
        }
        self.release(before.saturating_sub(info.len));
        Ok(Partial { file, info, have })
    }

    fn remove_object(&self, digest: &Digest) -> Result<(), BlobFailed> {
        let Some(shard) = self.shard(digest, false)? else { return Ok(()) };
        let _naming = self.names();
        self.unlink(shard.as_fd(), &digest.to_string())?;
        self.unlink(shard.as_fd(), &list_name(digest))
    }

    fn unlink(&self, folder: BorrowedFd<'_>, name: &str) -> Result<(), BlobFailed> {
        let len = file_len(folder, name);
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) => {
                self.release(len);
                Ok(())
            }
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(failed(&e.into())),
        }
    }

    /// Removes what a crash left behind and counts what stays.
    fn sweep(&self) -> io::Result<u64> {
        for name in names_in(self.tmp.as_fd())? {
            unlinkat(&self.tmp, &name, AtFlags::empty())?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut used = 0;
        for name in names_in(self.partial.as_fd())? {
            let stat = statat(&self.partial, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let changed = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            let resumable = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if resumable && now.saturating_sub(changed) < PARTIAL_KEPT {
                used += u64::try_from(stat.st_size).unwrap_or(0);
            } else {
                unlinkat(&self.partial, &name, AtFlags::empty())?;
            }
        }
        for shard in names_in(self.blobs.as_fd())? {
            let Ok(shard) = subdirectory(self.blobs.as_fd(), &shard, false) else { continue };
            for name in names_in(shard.as_fd())? {
                let orphan = name
                    .strip_suffix(".pieces")
                    .is_some_and(|object| statat(&shard, object, AtFlags::SYMLINK_NOFOLLOW).is_err());
                if orphan {
                    unlinkat(&shard, &name, AtFlags::empty())?;
                } else {
                    used += file_len(shard.as_fd(), &name);
                }
            }
        }
        Ok(used)
    }
}

/// Bytes of the quota taken by an import, given back when it does not come to its end.
struct Reserved<'a> {
    inner: &'a Inner,
    bytes: u64,
}

impl Reserved<'_> {
    fn grow(&mut self, bytes: u64) -> Result<(), BlobFailed> {
        self.inner.reserve(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.inner.release(self.bytes);
    }
}

/// Which pieces of a file are right already.
fn pieces_there(file: &File, file_len: u64, info: &BlobInfo) -> Result<Vec<u8>, BlobFailed> {
    let count = piece_count(info.len);
    let mut have = vec![0; (count as usize).div_ceil(8)];
    for piece in 0..count {
        let range = piece_range(info.len, piece);
        let Some(mut check) = PieceCheck::new(info, piece) else { continue };
        if range.end > file_len {
            break;
        }
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(|_| BlobFailed::Corrupt)?];
        file.read_exact_at(&mut bytes, range.start).map_err(|e| read_failed(&e))?;
        if check.update(&bytes) == PieceState::Right {
            set_bit(&mut have, piece);
        }
    }
    Ok(have)
}

/// Exactly `len` bytes from `at`, in memory that is not cleared first: it is written whole in any case.
fn read_part(file: &File, mut at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => at += n as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // An allocator may give more room than was asked for, and the file may have grown.
    bytes.truncate(len);
    Ok(bytes)
}

fn hash_whole(file: &File, digest: &Digest) -> Result<BlobInfo, BlobFailed> {
    let mut hasher = PieceHasher::new();
    let mut buffer = vec![0; IMPORT_BUFFER_BYTES];
    let mut at = 0;
    loop {
        let n = file.read_at(&mut buffer, at).map_err(|e| read_failed(&e))?;
        let bytes = buffer.get(..n).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        at += n as u64;
    }
    let (found, info) = hasher.finish();
    if found == *digest { Ok(info) } else { Err(BlobFailed::Corrupt) }
}

fn bit(bits: &[u8], at: u32) -> bool {
    bits.get(at as usize / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

fn set_bit(bits: &mut [u8], at: u32) {
    if let Some(byte) = bits.get_mut(at as usize / 8) {
        *byte |= 1 << (at % 8);
    }
}
