//! Which files a directory has: what a holder looks into before it serves a file to somebody who may have the directory.
//!
//! A few manifests are kept as sets of digests, for a consumer asks for one file after the other. Each is read once, however
//! many wait for it, and only a few at a time.

use super::Output;
use crate::id::{Digest, OpId, OpIds};
use crate::machine::Cx;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::port::{BlobAnswer, BlobFailed, BlobRequest};
use crate::transfer::StreamKey;
use std::collections::{BTreeMap, VecDeque};

/// Directories whose files are remembered: at most 320 kB each.
pub(super) const KEPT_MAX: usize = 16;
/// Manifests being read, 4 MiB each.
const READING_MAX: usize = 4;

/// Whether a directory has a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    Yes,
    No,
    /// The manifest is being read.
    Later,
    /// Too many are.
    Busy,
}

/// The files of some directories.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// The one asked for last stands last.
    kept: VecDeque<(Digest, Vec<Digest>)>,
    reading: BTreeMap<Digest, Vec<StreamKey>>,
    ops: BTreeMap<OpId, Digest>,
}

impl Lists {
    fn find(&mut self, manifest: &Digest, leaf: &Digest) -> Option<bool> {
        let at = self.kept.iter().position(|(m, _)| m == manifest)?;
        let list = self.kept.remove(at)?;
        let named = list.1.binary_search(leaf).is_ok();
        self.kept.push_back(list);
        Some(named)
    }

    /// Whether `manifest` names `leaf`; if that is not known, `stream` waits for it.
    pub(super) fn ask(
        &mut self,
        cx: &mut Cx<'_, Output>,
        ids: &mut OpIds,
        manifest: Digest,
        leaf: &Digest,
        stream: StreamKey,
    ) -> Named {
        match self.find(&manifest, leaf) {
            Some(true) => return Named::Yes,
            Some(false) => return Named::No,
            None => {}
        }
        if let Some(waiting) = self.reading.get_mut(&manifest) {
            waiting.push(stream);
            return Named::Later;
        }
        if self.reading.len() >= READING_MAX {
            return Named::Busy;
        }
        self.reading.insert(manifest, vec![stream]);
        self.request(cx, ids, manifest, BlobRequest::Open { digest: manifest });
        Named::Later
    }

    fn request(&mut self, cx: &mut Cx<'_, Output>, ids: &mut OpIds, manifest: Digest, request: BlobRequest) {
        let op = ids.issue();
        self.ops.insert(op, manifest);
        cx.emit(Output::Blob { op, request });
    }

    /// The store answers. `None`: it was asked by somebody else. Else those who wait no more; what the directory has is known
    /// now, or the store does not give it.
    pub(super) fn answered(
        &mut self,
        cx: &mut Cx<'_, Output>,
        ids: &mut OpIds,
        op: OpId,
        result: &Result<BlobAnswer, BlobFailed>,
    ) -> Option<Vec<StreamKey>> {
        let manifest = self.ops.remove(&op)?;
        match result {
            Ok(BlobAnswer::Info(info)) if info.len <= MANIFEST_BYTES_MAX as u64 => {
                let len = u32::try_from(info.len).unwrap_or(u32::MAX);
                self.request(cx, ids, manifest, BlobRequest::Read { digest: manifest, offset: 0, len });
                return Some(Vec::new());
            }
            Ok(BlobAnswer::Bytes(bytes)) => {
                // What is no manifest has no files, and is remembered as that.
                let known = Some(bytes).filter(|b| Digest::of(b) == manifest);
                let known = known.and_then(|b| Manifest::decode(b).ok());
                let leaves =
                    known.map_or_else(Vec::new, |m| m.leaves().into_iter().map(|(d, _)| d).collect());
                self.kept.push_back((manifest, leaves));
                if self.kept.len() > KEPT_MAX {
                    self.kept.pop_front();
                }
            }
            Ok(
                BlobAnswer::Info(_)
                | BlobAnswer::Partial { .. }
                | BlobAnswer::Written
                | BlobAnswer::Sealed
                | BlobAnswer::Removed
                | BlobAnswer::Missing(_),
            )
            | Err(_) => {}
        }
        Some(self.reading.remove(&manifest).unwrap_or_default())
    }

    /// Whether `manifest` is known to name `leaf`.
    pub(super) fn is_named(&mut self, manifest: &Digest, leaf: &Digest) -> bool {
        self.find(manifest, leaf) == Some(true)
    }

    /// Requests to the store not yet answered.
    #[cfg(test)]
    pub(super) fn ops_outstanding(&self) -> usize {
        self.ops.len()
    }
}
