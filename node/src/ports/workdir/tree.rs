//! Directories of a job: a manifest becomes files, and files become a manifest.
//!
//! On the way in everything is of our own making: the directory is new, no guest has run, and the paths of a manifest are plain
//! ([`remote_network_core::manifest`]). On the way out nothing is: what a guest has left is walked by descriptors, each
//! name opened below the directory before it without following links (see [`super::seal`]), to a depth and a number of entries
//! that end. A link, a pipe or a device in it spoils the whole output; an empty directory is no file and leaves no trace.

use super::seal::{SealError, open_in};
use super::{EngineBlobs, Refused};
use remote_network_core::id::Digest;
use remote_network_core::manifest::{
    Entry, MANIFEST_BYTES_MAX, MANIFEST_FILES_MAX, Manifest, PATH_DEPTH_MAX,
};
use remote_network_core::port::EngineInput;
use rustix::fs::{Dir, FileType, fstat};
use std::fs::{DirBuilder, File, FileTimes, Permissions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::SystemTime;

/// Entries of an output directory that are looked at, files and directories together.
pub(super) const ENTRIES_MAX: usize = 2 * MANIFEST_FILES_MAX;

/// The manifest that an input is. What is none is the fault of the order.
pub(super) fn manifest(input: &EngineInput, blobs: &dyn EngineBlobs) -> Result<Manifest, Refused> {
    let failed = |e: io::Error| Refused::infra(format!("input {}: {e}", input.digest));
    let none = |why: &str| Refused::permanent(format!("input {} is no directory: {why}", input.digest));
    if input.len > MANIFEST_BYTES_MAX as u64 {
        return Err(none("it is longer than the list of one may be"));
    }
    let mut bytes = Vec::new();
    let file = blobs.open(&input.digest).map_err(failed)?;
    file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if Digest::of(&bytes) != input.digest {
        return Err(Refused::infra(format!("input {} is damaged", input.digest)));
    }
    Manifest::decode(&bytes).map_err(|e| none(&e.to_string()))
}

/// Lays the files of a directory out in `to`, which is there and empty.
pub(super) fn lay_out(
    manifest: &Manifest,
    to: &Path,
    blobs: &dyn EngineBlobs,
    stopped: &dyn Fn() -> bool,
) -> Result<(), Refused> {
    if !has_room(to, manifest.total_len()) {
        let all = manifest.total_len();
        return Err(Refused::infra(format!("the disk has no room for the {all} bytes of a directory")));
    }
    for e in manifest.entries() {
        if stopped() {
            return Err(Refused::cancelled());
        }
        let failed = |error: io::Error| Refused::infra(format!("file {}: {error}", e.digest));
        let path = to.join(&e.path);
        if let Some(dir) = path.parent().filter(|dir| *dir != to) {
            DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
        }
        let from = blobs.open(&e.digest).map_err(failed)?;
        let mut file = File::create_new(&path).map_err(failed)?;
        let copied = io::copy(&mut from.take(e.len.saturating_add(1)), &mut file).map_err(failed)?;
        if copied != e.len {
            return Err(Refused::infra(format!("file {} has not its length of {}", e.digest, e.len)));
        }
        let mode = if e.executable { 0o755 } else { 0o644 };
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
        let times =
            FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH).set_modified(SystemTime::UNIX_EPOCH);
        file.set_times(times).map_err(failed)?;
    }
    Ok(())
}

/// Whether so much can be written there. A short list may name one large file thousands of times, and each is laid out.
fn has_room(dir: &Path, bytes: u64) -> bool {
    rustix::fs::statvfs(dir).map_or(true, |disk| bytes <= disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What is collected of an output directory.
struct Walk<'a> {
    name: &'a str,
    blobs: &'a dyn EngineBlobs,
    files: Vec<Entry>,
    entries: usize,
    bytes_left: u64,
    truncated: bool,
}

/// Imports every file below `dir`, opened without following a link, and the manifest of them. At most `bytes_max` of all files together are kept; a directory
/// with more is cut, and says so.
pub(super) fn collect(
    dir: OwnedFd,
    name: &str,
    bytes_max: u64,
    blobs: &dyn EngineBlobs,
) -> Result<(Digest, u64, bool), SealError> {
    let mut walk =
        Walk { name, blobs, files: Vec::new(), entries: 0, bytes_left: bytes_max, truncated: false };
    let stat = fstat(&dir).map_err(|e| SealError::Io(name.to_owned(), e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(SealError::Hostile(name.to_owned()));
    }
    walk.dir(dir, "", 1)?;
    let manifest =
        Manifest::new(walk.files).map_err(|e| SealError::Directory(name.to_owned(), e.to_string()))?;
    let failed = |e: io::Error| SealError::Io(name.to_owned(), e);
    let (digest, len) = blobs.import(&mut manifest.encode().as_slice()).map_err(failed)?;
    Ok((digest, len, walk.truncated))
}

impl Walk<'_> {
    fn bad(&self, why: impl Into<String>) -> SealError {
        SealError::Directory(self.name.to_owned(), why.into())
    }

    fn dir(&mut self, dir: OwnedFd, below: &str, depth: usize) -> Result<(), SealError> {
        let failed = |name: &str, e: rustix::io::Errno| SealError::Io(name.to_owned(), e.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|e| failed(self.name, e))? {
            let entry = entry.map_err(|e| failed(self.name, e))?;
            let bytes = entry.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(self.bad(format!("more than {ENTRIES_MAX} files and directories")));
            }
            let text = std::str::from_utf8(bytes).map_err(|_| self.bad("a name that is not UTF-8"))?;
            names.push(text.to_owned());
        }
        names.sort_unstable();
        for name in names {
            let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            let opened = open_in(&dir, &name, &format!("{}/{path}", self.name))?;
            let stat = fstat(&opened).map_err(|e| failed(self.name, e))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => self.file(File::from(opened), path, stat.st_mode & 0o111 != 0)?,
                FileType::Directory if depth < PATH_DEPTH_MAX => self.dir(opened, &path, depth + 1)?,
                FileType::Directory => return Err(self.bad(format!("more than {PATH_DEPTH_MAX} levels"))),
                _ => return Err(SealError::Hostile(format!("{}/{path}", self.name))),
            }
        }
        Ok(())
    }

    fn file(&mut self, file: File, path: String, executable: bool) -> Result<(), SealError> {
        let failed = |e: io::Error| SealError::Io(self.name.to_owned(), e);
        if file.metadata().map_err(failed)?.len() > self.bytes_left {
            self.truncated = true;
        }
        let (digest, len) = self.blobs.import(&mut file.take(self.bytes_left)).map_err(failed)?;
        self.bytes_left = self.bytes_left.saturating_sub(len);
        self.files.push(Entry { path, digest, len, executable });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::open_dir;
    use super::*;
    use remote_network_core::port::Port;
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::{Read, Write as _};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[derive(Default)]
    struct Memory(std::sync::Mutex<RefCell<BTreeMap<Digest, Vec<u8>>>>);
    impl EngineBlobs for Memory {
        fn open(&self, digest: &Digest) -> io::Result<File> {
            let bytes =
                self.0.lock().unwrap().borrow().get(digest).cloned().ok_or(io::ErrorKind::NotFound)?;
            let mut file = tempfile::tempfile()?;
            file.write_all(&bytes)?;
            io::Seek::rewind(&mut file)?;
            Ok(file)
        }
        fn import(&self, from: &mut dyn Read) -> io::Result<(Digest, u64)> {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            let (digest, len) = (Digest::of(&bytes), bytes.len() as u64);
            self.0.lock().unwrap().borrow_mut().insert(digest, bytes);
            Ok((digest, len))
        }
    }

    fn input(digest: Digest, len: u64) -> EngineInput {
        EngineInput { port: Port::Mount("m".into()), digest, len }
    }

    fn collect_at(dir: &Path, bytes_max: u64, blobs: &Memory) -> Result<(Digest, u64, bool), SealError> {
        collect(open_dir(dir, "/m")?, "/m", bytes_max, blobs)
    }

    #[test]
    fn a_directory_comes_out_as_it_went_in() {
        let blobs = Memory::default();
        let from = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("a/b/empty")).unwrap();
        for (path, bytes) in [("a/b/c", "deep"), ("z", ""), ("a/same", "deep"), ("run", "#!")] {
            fs::write(from.path().join(path), bytes).unwrap();
        }
        fs::set_permissions(from.path().join("run"), Permissions::from_mode(0o700)).unwrap();
        let (digest, len, cut) = collect_at(from.path(), 100, &blobs).unwrap();
        assert!(!cut);
        let manifest = manifest(&input(digest, len), &blobs).unwrap();
        let paths: Vec<&str> = manifest.entries().iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["a/b/c", "a/same", "run", "z"]);
        let to = tempfile::tempdir().unwrap();
        lay_out(&manifest, to.path(), &blobs, &|| false).unwrap();
        assert_eq!(fs::read(to.path().join("a/same")).unwrap(), b"deep");
        assert_eq!(collect_at(to.path(), 100, &blobs).unwrap(), (digest, len, false), "and in again");
    }

    #[test]
    fn an_empty_directory_is_a_value() {
        let (blobs, dir) = (Memory::default(), tempfile::tempdir().unwrap());
        let (digest, len, _) = collect_at(dir.path(), 0, &blobs).unwrap();
        assert_eq!(digest, Manifest::default().digest());
        assert_eq!(manifest(&input(digest, len), &blobs), Ok(Manifest::default()));
    }

    #[test]
    fn links_pipes_sockets_and_what_is_too_much_are_never_kept() {
        let secret = tempfile::tempdir().unwrap();
        fs::write(secret.path().join("s"), b"secret").unwrap();
        type Maker<'a> = (&'a str, &'a dyn Fn(&Path));
        let makers: [Maker<'_>; 6] = [
            ("a link to a file", &|d| symlink(secret.path().join("s"), d.join("x")).unwrap()),
            ("a link to a directory", &|d| symlink(secret.path(), d.join("x")).unwrap()),
            ("a link within", &|d| symlink("sub", d.join("x")).unwrap()),
            ("a socket", &|d| drop(UnixListener::bind(d.join("x")).unwrap())),
            ("a pipe", &|d| {
                rustix::fs::mknodat(rustix::fs::CWD, d.join("x"), FileType::Fifo, rustix::fs::Mode::RUSR, 0)
                    .unwrap();
            }),
            ("a name of control characters", &|d| fs::write(d.join("a\nb"), b"").unwrap()),
        ];
        for (what, make) in makers {
            let (blobs, dir) = (Memory::default(), tempfile::tempdir().unwrap());
            fs::create_dir(dir.path().join("sub")).unwrap();
            make(&dir.path().join("sub"));
            assert!(collect_at(dir.path(), 100, &blobs).is_err(), "{what}");
        }
        let (blobs, dir) = (Memory::default(), tempfile::tempdir().unwrap());
        let deep = dir.path().join(vec!["d"; PATH_DEPTH_MAX + 1].join("/"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), b"").unwrap();
        assert!(matches!(collect_at(dir.path(), 100, &blobs), Err(SealError::Directory(..))));
    }

    #[test]
    fn all_files_together_have_the_length_of_one_output() {
        let (blobs, dir) = (Memory::default(), tempfile::tempdir().unwrap());
        fs::write(dir.path().join("a"), b"1234").unwrap();
        fs::write(dir.path().join("b"), b"5678").unwrap();
        assert!(!collect_at(dir.path(), 8, &blobs).unwrap().2);
        let (digest, len, cut) = collect_at(dir.path(), 6, &blobs).unwrap();
        assert_eq!((cut, manifest(&input(digest, len), &blobs).unwrap().total_len()), (true, 6));
    }

    #[test]
    fn what_is_no_manifest_is_the_fault_of_the_order() {
        let blobs = Memory::default();
        let (digest, len) = blobs.import(&mut &b"just a file"[..]).unwrap();
        let refused = manifest(&input(digest, len), &blobs).unwrap_err();
        assert_eq!(refused.class, remote_network_core::port::ExitClass::Permanent);
        assert!(manifest(&input(Digest::of(b"absent"), 1), &blobs).is_err());
    }
}
