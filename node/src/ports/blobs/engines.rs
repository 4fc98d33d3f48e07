//! The store as the engines see it.

use super::BlobStore;
use crate::ports::workdir::EngineBlobs;
use remote_network_core::id::Digest;
use remote_network_core::port::BlobFailed;
use std::fs::File;
use std::io::{self, Read};

impl EngineBlobs for BlobStore {
    fn open(&self, digest: &Digest) -> io::Result<File> {
        self.open_reader(digest).map_err(|e| match e {
            BlobFailed::NotFound => io::Error::new(io::ErrorKind::NotFound, e),
            BlobFailed::Full | BlobFailed::Corrupt | BlobFailed::Io(_) => io::Error::other(e),
        })
    }

    fn import(&self, from: &mut dyn Read) -> io::Result<(Digest, u64)> {
        BlobStore::import(self, from).map(|o| (o.digest, o.len)).map_err(io::Error::other)
    }
}
