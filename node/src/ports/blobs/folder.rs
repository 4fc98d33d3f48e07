//! Files by name within a directory that is held open.
//!
//! Names are ours (digests and numbers), but what stands under them may not be: links are never followed, a FIFO makes
//! nobody wait, and what is not a regular file is told apart.

use remote_network_core::id::Digest;
use remote_network_core::port::BlobFailed;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, statat};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

pub(super) fn shard_name(digest: &Digest) -> String {
    let [first, ..] = digest.as_bytes();
    format!("{first:02x}")
}

pub(super) fn list_name(digest: &Digest) -> String {
    format!("{digest}.pieces")
}

pub(super) fn subdirectory(parent: BorrowedFd<'_>, name: &str, make: bool) -> io::Result<OwnedFd> {
    if make {
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// A file of ours. A link in its place is refused, and a FIFO does not make anybody wait.
pub(super) fn open_file(folder: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?))
}

pub(super) fn regular_len(file: &File) -> Result<u64, BlobFailed> {
    let metadata = file.metadata().map_err(|e| failed(&e))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(BlobFailed::Corrupt) }
}

/// Length of a regular file by name; 0 for anything else.
pub(super) fn file_len(folder: BorrowedFd<'_>, name: &str) -> u64 {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .ok()
        .filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        .and_then(|stat| u64::try_from(stat.st_size).ok())
        .unwrap_or(0)
}

pub(super) fn names_in(folder: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

pub(super) fn failed(e: &io::Error) -> BlobFailed {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            BlobFailed::Full
        }
        _ => BlobFailed::Io(e.to_string()),
    }
}

/// An error while an object is opened or read: absent, damaged (short, or a link in its place), or the disk's.
pub(super) fn read_failed(e: &io::Error) -> BlobFailed {
    if e.raw_os_error() == Some(libc::ELOOP) {
        return BlobFailed::Corrupt;
    }
    match e.kind() {
        io::ErrorKind::NotFound => BlobFailed::NotFound,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::IsADirectory => BlobFailed::Corrupt,
        _ => failed(e),
    }
}
