//! The routing table on the disk, so that a node finds its network again when the bootstrap nodes are gone.
//!
//! A head that names the format, a digest, and the table in the core's own form ([`remote_network_core::dht::krpc::saved`]).
//! It is replaced as a whole: written beside, synced, renamed. The table is a convenience and never a reason not to
//! start: a file that is damaged is said so, passed over, and replaced by the next one.

use remote_network_core::dht::krpc::saved::SAVED_BYTES_MAX;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

const HEAD: &[u8] = b"remote-network DHT table 1\n";
const DIGEST_BYTES: usize = 32;

/// The table as it was written. `None`: there is none that can be believed.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let most = (HEAD.len() + DIGEST_BYTES + SAVED_BYTES_MAX) as u64;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(most + 1).read_to_end(&mut bytes));
    match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            tracing::warn!(file = %path.display(), error = %e, "the saved DHT table cannot be read; joining without it");
            return None;
        }
        Ok(_) => {}
    }
    let table = whole(&bytes);
    if table.is_none() {
        tracing::warn!(file = %path.display(), "the saved DHT table is damaged; joining without it");
    }
    table.map(<[u8]>::to_vec)
}

fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (digest, table) = bytes.strip_prefix(HEAD)?.split_first_chunk::<DIGEST_BYTES>()?;
    (table.len() <= SAVED_BYTES_MAX && blake3::hash(table) == *digest).then_some(table)
}

/// Replaces the file. Blocks.
pub(super) fn write(path: &Path, table: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".dht-table").tempfile_in(dir)?;
    file.write_all(HEAD)?;
    file.write_all(blake3::hash(table).as_bytes())?;
    file.write_all(table)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_back_as_it_was_written_and_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        assert_eq!(read(&path), None);
        for table in [&b"one"[..], b"another", &[7; SAVED_BYTES_MAX]] {
            write(&path, table).unwrap();
            assert_eq!(read(&path).as_deref(), Some(table));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_damaged_cut_or_overlong_file_is_no_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        write(&path, b"a table").unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(whole(&bad), None, "byte {at}");
            assert_eq!(whole(&good[..at]), None, "cut at {at}");
        }
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert_eq!(read(&path), None);
        write(&path, &[7; SAVED_BYTES_MAX + 1]).unwrap();
        assert_eq!(read(&path), None);
    }
}
