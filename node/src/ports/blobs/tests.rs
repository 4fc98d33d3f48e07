use super::*;
use bytes::Bytes;
use remote_network_core::id::Digest;
use remote_network_core::limits::PIECE_BYTES_MIN;
use remote_network_core::port::BlobInfo;
use remote_network_core::transfer::tree::{PieceHasher, piece_count, piece_range};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

const P: usize = PIECE_BYTES_MIN as usize;

struct Store {
    dir: tempfile::TempDir,
    store: BlobStore,
    port: BlobPort,
    events: async_channel::Receiver<Event>,
    next_op: u64,
}

fn store_with(quota: u64) -> Store {
    store_in(tempfile::tempdir().unwrap(), quota)
}

fn store() -> Store {
    store_with(1 << 30)
}

fn store_in(dir: tempfile::TempDir, quota: u64) -> Store {
    let store = BlobStore::open(dir.path(), quota).unwrap();
    let (tx, events) = async_channel::bounded(4096);
    let port = BlobPort::start(&store, &tx).unwrap();
    Store { dir, store, port, events, next_op: 0 }
}

impl Store {
    fn ask(&mut self, request: BlobRequest) -> Result<BlobAnswer, BlobFailed> {
        self.next_op += 1;
        self.port.submit(OpId(self.next_op), request).unwrap();
        match self.events.recv_blocking().unwrap() {
            Event::Blob { op, result } if op == OpId(self.next_op) => result,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the threads as a crash would find them: nothing is sealed.
    fn restart(self, quota: u64) -> Store {
        let Store { dir, store, port, .. } = self;
        drop((store, port));
        store_in(dir, quota)
    }

    fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.path().join("blobs").join(&name[..2]).join(name)
    }

    fn write_piece(&mut self, content: &[u8], digest: Digest, piece: u32) -> Result<BlobAnswer, BlobFailed> {
        let range = piece_range(content.len() as u64, piece);
        let own = &content[range.start as usize..range.end as usize];
        let bytes = Bytes::copy_from_slice(own);
        self.ask(BlobRequest::Write { digest, piece, bytes })
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i / 5) ^ (i.wrapping_mul(2_654_435_761) >> 11)) as u8).collect()
}

fn named(bytes: &[u8]) -> (Digest, BlobInfo) {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish()
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_under(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn an_imported_object_is_found_and_read_at_any_place() {
    let mut s = store();
    for len in [0, 1, 1000, P - 1, P, P + 1, 3 * P + 77] {
        let bytes = content(len);
        let (digest, info) = named(&bytes);
        let stored = s.store.import(&mut &bytes[..]).unwrap();
        assert_eq!((stored.digest, stored.len), (digest, len as u64));
        assert_eq!(s.ask(BlobRequest::Open { digest }), Ok(BlobAnswer::Info(info)), "{len}");
        for (offset, want) in [(0, len.min(100)), (len / 2, len - len / 2), (len, 0)] {
            let read = BlobRequest::Read { digest, offset: offset as u64, len: want as u32 };
            let expected = Bytes::copy_from_slice(&bytes[offset..offset + want]);
            assert_eq!(s.ask(read), Ok(BlobAnswer::Bytes(expected)), "{len} at {offset}");
        }
        let beyond = BlobRequest::Read { digest, offset: len as u64, len: 1 };
        assert!(matches!(s.ask(beyond), Err(BlobFailed::Io(_))));
        let mut reader = s.store.open_reader(&digest).unwrap();
        let mut whole = Vec::new();
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_to_end(&mut whole).unwrap();
        assert_eq!(whole, bytes);
    }
    let stranger = Digest([1; 32]);
    assert_eq!(s.ask(BlobRequest::Open { digest: stranger }), Err(BlobFailed::NotFound));
    assert_eq!(s.ask(BlobRequest::Seal { digest: stranger }), Err(BlobFailed::NotFound));
    let write = BlobRequest::Write { digest: stranger, piece: 0, bytes: Bytes::new() };
    assert_eq!(s.ask(write), Err(BlobFailed::NotFound));
}

#[test]
fn an_object_comes_piece_by_piece_and_only_whole_ones_are_sealed() {
    let mut s = store();
    for len in [1, 5, P, 2 * P + 9] {
        let bytes = content(len);
        let (digest, info) = named(&bytes);
        let begun = s.ask(BlobRequest::Create { digest, info: info.clone() });
        let none = vec![0; (piece_count(len as u64) as usize).div_ceil(8)];
        assert_eq!(begun, Ok(BlobAnswer::Partial { have: none }));
        assert_eq!(s.ask(BlobRequest::Open { digest }), Err(BlobFailed::NotFound), "partial is not whole");
        for piece in (0..piece_count(len as u64)).rev() {
            assert!(matches!(s.ask(BlobRequest::Seal { digest }), Err(BlobFailed::Io(_))));
            let short = BlobRequest::Write { digest, piece, bytes: Bytes::from_static(b"xx") };
            assert!(matches!(s.ask(short), Err(BlobFailed::Io(_))));
            assert_eq!(s.write_piece(&bytes, digest, piece), Ok(BlobAnswer::Written));
        }
        assert_eq!(s.ask(BlobRequest::Seal { digest }), Ok(BlobAnswer::Sealed));
        assert_eq!(s.ask(BlobRequest::Seal { digest }), Ok(BlobAnswer::Sealed), "asked again after a crash");
        assert_eq!(s.ask(BlobRequest::Open { digest }), Ok(BlobAnswer::Info(info.clone())));
        assert_eq!(s.ask(BlobRequest::Create { digest, info: info.clone() }), Ok(BlobAnswer::Info(info)));
        assert_eq!(std::fs::read(s.object(&digest)).unwrap(), bytes);
    }
}

#[test]
fn what_was_written_before_a_crash_is_resumed_and_verified() {
    let mut s = store();
    let bytes = content(4 * P + 3);
    let (digest, info) = named(&bytes);
    s.ask(BlobRequest::Create { digest, info: info.clone() }).unwrap();
    for piece in [0, 2, 4] {
        s.write_piece(&bytes, digest, piece).unwrap();
    }
    let path = s.dir.path().join("partial").join(digest.to_string());
    let mut s = s.restart(1 << 30);
    // One piece did not reach the disk as it was written.
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[2 * P + 10] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let resumed = s.ask(BlobRequest::Create { digest, info: info.clone() });
    assert_eq!(resumed, Ok(BlobAnswer::Partial { have: vec![0b1_0001] }));
    for piece in [1, 2, 3] {
        s.write_piece(&bytes, digest, piece).unwrap();
    }
    assert_eq!(s.ask(BlobRequest::Seal { digest }), Ok(BlobAnswer::Sealed));
    assert_eq!(s.store.verify(&digest), Ok(info));
    assert_eq!(s.store.usage().0, bytes.len() as u64 + 8 + 5 * 32);
    assert_eq!(s.restart(1 << 30).store.usage().0, bytes.len() as u64 + 8 + 5 * 32);
}

#[test]
fn the_quota_holds_and_is_given_back() {
    let mut s = store_with(100_000);
    let bytes = content(60_000);
    let stored = s.store.import(&mut &bytes[..]).unwrap();
    assert_eq!(s.store.usage(), (60_000, 100_000));
    s.store.import(&mut &content(30_000)[..]).unwrap();
    let too_much = s.store.import(&mut &content(20_000)[..]);
    assert!(matches!(too_much, Err(ImportError::Store(BlobFailed::Full))));
    let (digest, info) = named(&content(20_000));
    assert_eq!(s.ask(BlobRequest::Create { digest, info: info.clone() }), Err(BlobFailed::Full));
    assert_eq!(s.store.usage().0, 90_000, "a refused import leaves nothing");
    assert_eq!(s.ask(BlobRequest::Remove { digest: stored.digest }), Ok(BlobAnswer::Removed));
    assert_eq!(s.ask(BlobRequest::Remove { digest: stored.digest }), Ok(BlobAnswer::Removed));
    assert_eq!(s.store.usage().0, 30_000);
    s.ask(BlobRequest::Create { digest, info }).unwrap();
    assert_eq!(s.store.usage().0, 50_000, "a partial object counts in full");
    s.ask(BlobRequest::Remove { digest }).unwrap();
    assert_eq!(s.store.usage().0, 30_000);
    let again = content(30_000);
    s.store.import(&mut &again[..]).unwrap();
    assert_eq!(s.store.usage().0, 30_000, "the same object counts once");
    assert_eq!(s.restart(100_000).store.usage().0, 30_000);
}

#[test]
fn damage_is_found_and_an_import_heals_it() {
    let mut s = store();
    let (short, long) = (content(500), content(2 * P + 5));
    let short_ref = s.store.import(&mut &short[..]).unwrap();
    let long_ref = s.store.import(&mut &long[..]).unwrap();
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&s.object(&short_ref.digest), 499);
    flip(&s.object(&long_ref.digest), P + 1);
    assert_eq!(s.ask(BlobRequest::Open { digest: short_ref.digest }), Err(BlobFailed::Corrupt));
    assert_eq!(s.store.verify(&long_ref.digest), Err(BlobFailed::Corrupt));
    s.store.import(&mut &short[..]).unwrap();
    s.store.import(&mut &long[..]).unwrap();
    assert!(s.store.verify(&short_ref.digest).is_ok() && s.store.verify(&long_ref.digest).is_ok());

    // Cut short: seen at once, and fetched anew.
    let path = s.object(&long_ref.digest);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(P as u64 + 9).unwrap();
    assert_eq!(s.ask(BlobRequest::Open { digest: long_ref.digest }), Err(BlobFailed::Corrupt));
    let (digest, info) = named(&long);
    let begun = s.ask(BlobRequest::Create { digest, info });
    assert!(matches!(begun, Ok(BlobAnswer::Partial { .. })), "{begun:?}");
}

#[test]
fn a_damaged_or_missing_piece_list_is_made_anew() {
    let mut s = store();
    let bytes = content(3 * P);
    let (digest, info) = named(&bytes);
    s.store.import(&mut &bytes[..]).unwrap();
    let list = s.object(&digest).with_extension("pieces");
    let original = std::fs::read(&list).unwrap();
    for damage in [None, Some(vec![]), Some(vec![0; original.len()]), Some(original[..40].to_vec())] {
        match damage {
            None => std::fs::remove_file(&list).unwrap(),
            Some(bytes) => std::fs::write(&list, bytes).unwrap(),
        }
        assert_eq!(s.ask(BlobRequest::Open { digest }), Ok(BlobAnswer::Info(info.clone())));
        assert_eq!(std::fs::read(&list).unwrap(), original);
    }
}

#[test]
fn links_and_other_strangers_in_place_of_objects_are_not_followed() {
    let mut s = store();
    let secret = s.dir.path().join("secret");
    std::fs::write(&secret, "precious").unwrap();
    let digest = Digest::of(b"precious");
    std::fs::create_dir_all(s.object(&digest).parent().unwrap()).unwrap();
    symlink(&secret, s.object(&digest)).unwrap();
    assert_eq!(s.ask(BlobRequest::Open { digest }), Err(BlobFailed::Corrupt));
    assert!(s.store.open_reader(&digest).is_err());
    let partial = s.dir.path().join("partial").join(Digest([2; 32]).to_string());
    let (other, info) = named(b"other");
    symlink(&secret, s.dir.path().join("partial").join(other.to_string())).unwrap();
    assert!(s.ask(BlobRequest::Create { digest: other, info }).is_err());
    symlink(&secret, &partial).unwrap();
    let s = s.restart(1 << 30);
    assert!(std::fs::symlink_metadata(partial).is_err(), "swept");
    assert_eq!(std::fs::read(&secret).unwrap(), b"precious");
    // The object's own bytes take the link's place.
    s.store.import(&mut &b"precious"[..]).unwrap();
    assert!(std::fs::symlink_metadata(s.object(&digest)).unwrap().is_file());
}

#[test]
fn a_start_sweeps_what_a_crash_left_and_keeps_what_can_be_resumed() {
    let mut s = store();
    let bytes = content(2 * P);
    let (digest, info) = named(&bytes);
    s.ask(BlobRequest::Create { digest, info }).unwrap();
    let stale = s.dir.path().join("tmp/import-0");
    std::fs::write(&stale, "half").unwrap();
    let (old, old_info) = named(b"old");
    s.ask(BlobRequest::Create { digest: old, info: old_info }).unwrap();
    let old = s.dir.path().join("partial").join(old.to_string());
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 3600);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
    let s = s.restart(1 << 30);
    assert!(!stale.exists() && !old.exists());
    assert_eq!(s.store.usage().0, 2 * P as u64);
}

#[test]
fn every_file_and_directory_is_the_owners_alone() {
    let mut s = store();
    s.store.import(&mut &content(2 * P)[..]).unwrap();
    let (digest, info) = named(&content(10));
    s.ask(BlobRequest::Create { digest, info }).unwrap();
    let files = files_under(s.dir.path());
    assert_eq!(files.len(), 3, "object, piece list, partial: {files:?}");
    for path in files {
        let folder = path.parent().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700, "{folder:?}");
    }
}

#[test]
fn a_source_that_fails_leaves_nothing() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 { Err(std::io::Error::other("cable cut")) } else { Ok(buf.len()) }
        }
    }
    let s = store();
    assert!(matches!(s.store.import(&mut Broken(0)), Err(ImportError::Source(_))));
    assert_eq!((s.store.usage().0, files_under(s.dir.path()).len()), (0, 0));
}

#[test]
fn a_piece_list_of_another_object_starts_nothing() {
    let mut s = store();
    let (_, info) = named(&content(2 * P));
    let (digest, _) = named(&content(2 * P + 1));
    assert!(matches!(s.ask(BlobRequest::Create { digest, info }), Err(BlobFailed::Io(_))));
    assert!(files_under(s.dir.path()).is_empty());
}

#[test]
fn the_empty_object_is_always_here_and_takes_no_file() {
    let mut s = store_with(0);
    let (digest, info) = named(b"");
    assert_eq!(s.ask(BlobRequest::Open { digest }), Ok(BlobAnswer::Info(info.clone())));
    let stored = s.store.import(&mut io::empty()).unwrap();
    assert_eq!((stored.digest, stored.len), (digest, 0));
    assert_eq!(s.ask(BlobRequest::Create { digest, info: info.clone() }), Ok(BlobAnswer::Info(info.clone())));
    assert_eq!(s.ask(BlobRequest::Read { digest, offset: 0, len: 0 }), Ok(BlobAnswer::Bytes(Bytes::new())));
    assert_eq!(s.ask(BlobRequest::Remove { digest }), Ok(BlobAnswer::Removed));
    assert_eq!(s.store.verify(&digest), Ok(info));
    let mut bytes = Vec::new();
    assert_eq!(s.store.open_reader(&digest).unwrap().read_to_end(&mut bytes).unwrap(), 0);
    assert!(files_under(s.dir.path()).is_empty());
}
