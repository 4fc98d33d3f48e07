//! Collecting what a guest has written.
//!
//! The node reads here, with its own rights, paths that were made by somebody it does not trust: a symbolic link would be an
//! order to publish `/etc/shadow`, a pipe would hold it up for ever (the CVE-2018-15664 class). So every path is opened below the
//! job's directory with `openat2`, following no link and crossing no mount, without waiting; what was opened is looked
//! at through its descriptor and must be a regular file; and only so many bytes are read as one output may have.

use super::{EngineBlobs, MOUNTS, OUT, WRITTEN, tree};
use bytes::Bytes;
use remote_network_core::port::{EngineOutput, Layout, Port};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use thiserror::Error;

/// Why an output is not there.
#[derive(Debug, Error)]
pub(in crate::ports) enum SealError {
    /// The guest left nothing.
    #[error("the output {0} was not written")]
    Missing(String),
    /// The guest left something else than a file.
    #[error("the output {0} is no regular file")]
    Hostile(String),
    /// The guest left a directory that is none of those that can be kept.
    #[error("the output {0}: {1}")]
    Directory(String, String),
    /// The disk or the store failed.
    #[error("output {0}: {1}")]
    Io(String, io::Error),
}

/// Imports one output into the store. A file of more than `bytes_max` is cut, and says so.
pub(super) fn seal(
    dir: &Path,
    port: &Port,
    layout: Layout,
    bytes_max: u64,
    blobs: &dyn EngineBlobs,
) -> Result<EngineOutput, SealError> {
    if let (Port::Mount(name), true) = (port, layout.is_tree()) {
        let shown = format!("/{name}");
        let mount = open_in(open_dir(&dir.join(WRITTEN), &shown)?, &format!("{MOUNTS}/{name}"), &shown)?;
        let (digest, len, truncated) = tree::collect(mount, &shown, bytes_max, blobs)?;
        return Ok(EngineOutput { port: port.clone(), digest, len, truncated });
    }
    let Some((path, name)) = place(port) else { return Err(SealError::Missing("stdin".into())) };
    let failed = |e: io::Error| SealError::Io(name.clone(), e);
    let file = open_beneath(&dir.join(WRITTEN), &path, &name)?;
    let truncated = file.metadata().map_err(failed)?.len() > bytes_max;
    let (digest, len) = blobs.import(&mut file.take(bytes_max)).map_err(failed)?;
    Ok(EngineOutput { port: port.clone(), digest, len, truncated })
}

/// The bytes of one output, if they are no more than `bytes_max`; `None` if they are.
pub(in crate::ports) fn small(dir: &Path, port: &Port, bytes_max: usize) -> Result<Option<Bytes>, SealError> {
    let Some((path, name)) = place(port) else { return Err(SealError::Missing("stdin".into())) };
    let failed = |e: io::Error| SealError::Io(name.clone(), e);
    let file = open_beneath(&dir.join(WRITTEN), &path, &name)?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes.len() <= bytes_max).then(|| bytes.into()))
}

/// Where an output lies below what is written, and its name for people.
fn place(port: &Port) -> Option<(String, String)> {
    match port {
        Port::Stdout => Some(("stdout".to_owned(), "stdout".to_owned())),
        Port::Stderr => Some(("stderr".to_owned(), "stderr".to_owned())),
        Port::Mount(name) => Some((format!("{MOUNTS}/{name}/{OUT}"), format!("/{name}/{OUT}"))),
        Port::Stdin => None,
    }
}

const NO_WAIT: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A directory of our own making.
pub(super) fn open_dir(dir: &Path, name: &str) -> Result<OwnedFd, SealError> {
    openat2(CWD, dir, OFlags::DIRECTORY | NO_WAIT, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
        .map_err(|e| SealError::Io(name.to_owned(), e.into()))
}

/// Whatever a guest has left at `path` below `dir`, but for what could lead elsewhere.
pub(super) fn open_in(dir: impl AsFd, path: &str, name: &str) -> Result<OwnedFd, SealError> {
    let beneath = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    match openat2(dir, path, NO_WAIT, Mode::empty(), beneath) {
        Ok(file) => Ok(file),
        Err(Errno::NOENT) => Err(SealError::Missing(name.to_owned())),
        // A link, a device on another file system, a file where a directory should be, a socket.
        Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::NXIO | Errno::ACCESS) => {
            Err(SealError::Hostile(name.to_owned()))
        }
        Err(e) => Err(SealError::Io(name.to_owned(), e.into())),
    }
}

pub(in crate::ports) fn open_beneath(dir: &Path, path: &str, name: &str) -> Result<File, SealError> {
    let file = open_in(open_dir(dir, name)?, path, name)?;
    let stat = fstat(&file).map_err(|e| SealError::Io(name.to_owned(), e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(SealError::Hostile(name.to_owned()));
    }
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::id::Digest;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    struct Memory;
    impl EngineBlobs for Memory {
        fn open(&self, _: &Digest) -> io::Result<File> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn import(&self, from: &mut dyn Read) -> io::Result<(Digest, u64)> {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            Ok((Digest::of(&bytes), bytes.len() as u64))
        }
    }

    fn job_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("w/mnt/m")).unwrap();
        dir
    }

    fn seal_m(dir: &Path) -> Result<EngineOutput, SealError> {
        seal_as(dir, Layout::Files)
    }

    fn seal_as(dir: &Path, layout: Layout) -> Result<EngineOutput, SealError> {
        seal(dir, &Port::Mount("m".into()), layout, 4, &Memory)
    }

    #[test]
    fn a_file_is_sealed_and_cut_only_beyond_the_limit() {
        let dir = job_dir();
        assert!(matches!(seal_m(dir.path()), Err(SealError::Missing(_))));
        for (bytes, kept, truncated) in
            [(&b""[..], &b""[..], false), (b"four", b"four", false), (b"fiver", b"five", true)]
        {
            fs::write(dir.path().join("w/mnt/m/out"), bytes).unwrap();
            let o = seal_m(dir.path()).unwrap();
            assert_eq!((o.digest, o.len, o.truncated), (Digest::of(kept), kept.len() as u64, truncated));
        }
    }

    #[test]
    fn links_pipes_sockets_directories_and_swapped_parents_are_never_read() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        type Maker<'a> = (&'a str, &'a dyn Fn(&Path));
        let makers: [Maker<'_>; 5] = [
            ("absolute link", &|out| symlink(secret.path(), out).unwrap()),
            ("relative link", &|out| symlink("../../stdout", out).unwrap()),
            ("directory", &|out| fs::create_dir(out).unwrap()),
            ("socket", &|out| drop(UnixListener::bind(out).unwrap())),
            ("pipe", &|out| {
                rustix::fs::mknodat(CWD, out, FileType::Fifo, Mode::RUSR, 0).unwrap();
            }),
        ];
        for (what, make) in makers {
            let dir = job_dir();
            make(&dir.path().join("w/mnt/m/out"));
            assert!(matches!(seal_m(dir.path()), Err(SealError::Hostile(_))), "{what}");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir(elsewhere.path().join("m")).unwrap();
        for secret in ["out", "m/out"] {
            fs::write(elsewhere.path().join(secret), b"secret").unwrap();
        }
        for (parent, what) in [("w/mnt/m", "a mount that is a link"), ("w/mnt", "a parent that is a link")] {
            let dir = job_dir();
            fs::remove_dir_all(dir.path().join(parent)).unwrap();
            symlink(elsewhere.path(), dir.path().join(parent)).unwrap();
            for layout in [Layout::Files, Layout::Tree] {
                assert!(matches!(seal_as(dir.path(), layout), Err(SealError::Hostile(_))), "{what}");
            }
        }
        let dir = job_dir();
        fs::remove_dir(dir.path().join("w/mnt/m")).unwrap();
        assert!(matches!(seal_as(dir.path(), Layout::Tree), Err(SealError::Missing(_))), "no mount at all");
        fs::write(dir.path().join("w/mnt/m"), b"").unwrap();
        assert!(matches!(seal_as(dir.path(), Layout::Tree), Err(SealError::Hostile(_))), "a file instead");
    }
}
