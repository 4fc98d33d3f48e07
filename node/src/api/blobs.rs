//! What the API needs of the object store, and no more. The store's owner implements it.
//!
//! The calls block; the API makes them on threads that may. Digest and length are the store's word: an import is an
//! object only when the reader ended without an error, and then it is durable.

use remote_network_core::id::Digest;
use remote_network_core::job::workflow::ObjectRef;
use std::io::{self, Read, Seek};
use thiserror::Error;

/// Bytes that can be read from any position.
pub trait BlobRead: Read + Seek + Send {}
impl<T: Read + Seek + Send> BlobRead for T {}

/// A whole object, open for reading.
pub struct OpenBlob {
    /// Its length in bytes.
    pub len: u64,
    /// Its bytes.
    pub reader: Box<dyn BlobRead>,
}

/// Why an object could not be opened or imported.
#[derive(Debug, Error)]
pub enum BlobError {
    /// It is not here, or not whole yet.
    #[error("the object is not in this node's store")]
    NotFound,
    /// The quota or the disk is full.
    #[error("no space left for objects")]
    Full,
    /// The reader failed or the disk did.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The object store as the API sees it.
pub trait ApiBlobs: Send + Sync + 'static {
    /// Opens a whole object. Blocks.
    fn open(&self, digest: &Digest) -> Result<OpenBlob, BlobError>;

    /// Reads `reader` to its end into a durable object. When the reader fails nothing is kept. Blocks.
    fn import(&self, reader: &mut dyn Read) -> Result<ObjectRef, BlobError>;
}
