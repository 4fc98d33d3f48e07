//! Directories: objects whose bytes name other objects.
//!
//! A directory is a manifest ([`crate::manifest`]) and the files it names, its leaves. To everybody but this room and those who
//! lay files out, it is one object under the digest of the manifest: orders and receipts name it, grants and tickets are for
//! it, jobs and runs hold it. This machine makes that true on both ends of its life:
//!
//! - **Brought here whole.** Who wants a directory is told that it is here when the manifest is and all leaves are. The manifest
//!   is fetched first, then the leaves from the same sources, each [under](Output::Want) the manifest: their holders look into it
//!   and need no word about single files. What is here already is not fetched again, so a directory that a crash cut short goes
//!   on where it stopped. Under a claim (see [`super::fetch`]) every leaf must be shown: a manifest can be written by anybody
//!   and may name files of others that this node happens to have.
//! - **Held and let go as one.** From the moment a manifest has been read its leaves are held ([`Trees::holds`]), one count for
//!   each directory that names them. When nobody needs the directory ([`Input::Forget`]) those that no other one names are to
//!   be removed. After a restart the manifests of all directories that jobs, runs and the user hold are read again, and until
//!   the last of them is ([`Trees::is_restoring`]) nothing may be removed at all.
//!
//! Whether leaves are here is asked with [`Output::Look`], which is answered when no removal of any of them is under way: one that
//! was decided before could otherwise be carried out after the answer.
//!
//! What is no manifest is no directory, and said so ([`Failed::NoDirectory`]): it is the fault of who named it.

use super::fetch::{Claim, Waiter};
use crate::id::{Digest, OpId, OpIds, PublicKey};
use crate::machine::{Cx, Machine};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::port::{BlobAnswer, BlobFailed, BlobRequest};
use crate::ticket::Ticket;
use crate::time::Deadline;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Leaves of all directories that are held, each counted for every directory: about 100 bytes each. Beyond, no further directory
/// is brought here.
pub const LEAVES_HELD_MAX: usize = 500_000;
/// Leaves asked for at once: a sixteenth of the fetches that may wait, so that single files of others have their turn.
pub const LEAVES_ASKED_MAX: usize = 256;
/// The same for all directories together: half of the fetches that may wait. Those beyond take their turn.
pub const ASKED_ALL_MAX: usize = crate::limits::FETCHES_WAITING_MAX / 2;
/// Directories brought here at once; as many as there may be fetches.
pub const BRINGING_MAX: usize = crate::limits::FETCHES_WAITING_MAX;
/// Manifests read at once after a restart: 4 MiB each.
const RESTORING_MAX: usize = 4;
/// Times after a restart that a disk which fails is asked again, for all manifests together.
const RESTORE_AGAIN_MAX: u32 = 64;
/// Times the leaves are looked for. They are held by then, so more than two can only be a store that loses objects.
const LOOKS_MAX: u32 = 4;

/// A directory, the length of its manifest, and on whose right it is wanted.
type Key = (Digest, u64, Claim);
/// The leaves of a directory and their lengths, in the order of their digests.
type Leaves = Arc<[(Digest, u64)]>;

/// Why a directory is not here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failed {
    /// The object is no manifest.
    NoDirectory(String),
    /// Something else; `hopeless`: another try with the same sources must end in the same way.
    Fetch {
        /// Words for people.
        why: String,
        /// Whether another try is of no use.
        hopeless: bool,
    },
}

/// What can happen to directories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Once, before anything else: the directories that this node held when it went down.
    Restore {
        /// Those that were here, whole.
        held: BTreeSet<Digest>,
        /// Those that were perhaps on their way, and that somebody will want again.
        waited: BTreeSet<Digest>,
    },
    /// Somebody wants a directory. Without sources: wants to know whether it is here.
    Want {
        /// Its manifest.
        digest: Digest,
        /// Length of the manifest.
        len: u64,
        /// On whose right.
        claim: Claim,
        /// Who has it, and what to show them.
        sources: Vec<(PublicKey, Option<Ticket>)>,
        /// Who waits.
        waiter: Waiter,
    },
    /// An object that was wanted is here.
    Fetched {
        /// Which.
        digest: Digest,
        /// On whose right.
        claim: Claim,
        /// Whether bytes of it came now.
        new: bool,
    },
    /// An object that was wanted is not to be had now.
    FetchFailed {
        /// Which.
        digest: Digest,
        /// On whose right.
        claim: Claim,
        /// Why.
        why: String,
        /// Whether another try is of no use.
        hopeless: bool,
    },
    /// The store answers.
    Blob {
        /// The request.
        op: OpId,
        /// Its answer.
        result: Result<BlobAnswer, BlobFailed>,
    },
    /// Nobody needs this directory any more. Nothing for what is not known as one.
    Forget(Digest),
}

/// What directories ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Bring this object here. Answered by one `Fetched` or `FetchFailed`.
    Want {
        /// Which.
        digest: Digest,
        /// Its length.
        len: u64,
        /// On whose right.
        claim: Claim,
        /// The directory that it is a file of, unless it is the manifest.
        under: Option<Digest>,
        /// Who has it, and what to show them.
        sources: Vec<(PublicKey, Option<Ticket>)>,
    },
    /// Ask the store; answered exactly once by [`Input::Blob`].
    Blob {
        /// The request.
        op: OpId,
        /// What.
        request: BlobRequest,
    },
    /// Ask the store which of these are missing, as soon as no removal of any of them is under way. Answered by [`Input::Blob`].
    Look {
        /// The request.
        op: OpId,
        /// Objects and lengths, in the order of digests.
        objects: Leaves,
    },
    /// The directory is here, whole.
    Fetched {
        /// Which.
        digest: Digest,
        /// On whose right.
        claim: Claim,
        /// All who waited.
        waiters: Vec<Waiter>,
        /// Whether any of it came now.
        new: bool,
    },
    /// It is not.
    FetchFailed {
        /// Which.
        digest: Digest,
        /// On whose right.
        claim: Claim,
        /// All who waited.
        waiters: Vec<Waiter>,
        /// Why.
        why: Failed,
    },
    /// No directory names this object any more.
    Free(Digest),
    /// It was given up on its way and has ended: to be forgotten, unless somebody needs it by now.
    Unneeded(Digest),
    /// All directories of before the restart are known.
    Restored,
}

#[derive(Debug)]
enum Step {
    /// The manifest is on its way.
    Manifest,
    /// It is being read.
    Reading(OpId),
    /// Leaves are on their way: those not yet asked for, and those that are.
    Leaves { left: VecDeque<(Digest, u64)>, asked: BTreeSet<Digest> },
    /// The store is asked which are missing.
    Looking(OpId),
}

#[derive(Debug)]
struct Bringing {
    waiters: BTreeSet<Waiter>,
    sources: Vec<(PublicKey, Option<Ticket>)>,
    step: Step,
    looks: u32,
    new: bool,
    /// Nobody needs it any more: said so when it has ended.
    unneeded: bool,
    /// It was given up and is wanted again. The manifest may have been removed between.
    again: bool,
}

/// A directory of before the restart: its length is asked for, then its bytes.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Bringing(Key),
    Restoring(Restored),
}

/// A directory, and whether it must be known, however many there are.
type Restored = (Digest, bool);

/// The machine of all directories.
#[derive(Debug)]
pub struct Trees {
    ids: OpIds,
    known: BTreeMap<Digest, Leaves>,
    /// How many known directories name an object.
    named: BTreeMap<Digest, u32>,
    /// The sum of the leaves of all known directories.
    held: usize,
    bringing: BTreeMap<Key, Bringing>,
    ops: BTreeMap<OpId, Asked>,
    /// Directories that wait for an object.
    of_object: BTreeMap<(Digest, Claim), BTreeSet<Key>>,
    /// Those that wait for others to be asked for less.
    starved: BTreeSet<Key>,
    to_restore: VecDeque<Restored>,
    restoring: usize,
    restored_again: u32,
}

impl Trees {
    /// No directories; requests are numbered in the room with this number.
    pub fn new(room: u8) -> Self {
        Self {
            ids: OpIds::new(room),
            known: BTreeMap::new(),
            named: BTreeMap::new(),
            held: 0,
            bringing: BTreeMap::new(),
            ops: BTreeMap::new(),
            of_object: BTreeMap::new(),
            starved: BTreeSet::new(),
            to_restore: VecDeque::new(),
            restoring: 0,
            restored_again: 0,
        }
    }

    /// Whether a known directory names this object.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.named.contains_key(digest)
    }

    /// Whether this is a directory whose files are known.
    pub fn knows(&self, digest: &Digest) -> bool {
        self.known.contains_key(digest)
    }

    /// Whether directories of before the restart are still to be read: nothing may be removed until then.
    pub fn is_restoring(&self) -> bool {
        self.restoring > 0 || !self.to_restore.is_empty()
    }

    /// Leaves held, each counted for every directory.
    pub fn leaves_held(&self) -> usize {
        self.held
    }

    /// Directories on their way.
    pub fn bringing(&self) -> usize {
        self.bringing.len()
    }

    fn issue(&mut self, asked: Asked) -> OpId {
        let op = self.ids.issue();
        self.ops.insert(op, asked);
        op
    }

    fn learn(&mut self, digest: Digest, leaves: &Leaves) {
        if self.known.contains_key(&digest) {
            return;
        }
        self.held += leaves.len();
        for (leaf, _) in leaves.iter() {
            *self.named.entry(*leaf).or_default() += 1;
        }
        self.known.insert(digest, Arc::clone(leaves));
    }

    fn forget(&mut self, cx: &mut Cx<'_, Output>, digest: Digest) {
        let mut under_way = false;
        for (_, b) in self.bringing.range_mut((digest, 0, None)..).take_while(|(key, _)| key.0 == digest) {
            b.unneeded = true;
            under_way = true;
        }
        if under_way {
            return;
        }
        let Some(leaves) = self.known.remove(&digest) else { return };
        self.held -= leaves.len();
        for (leaf, _) in leaves.iter() {
            let Some(count) = self.named.get_mut(leaf) else { continue };
            *count -= 1;
            if *count == 0 {
                self.named.remove(leaf);
                cx.emit(Output::Free(*leaf));
            }
        }
    }

    // ---------------------------------------------------------------------------------------- restart

    fn restore(&mut self, cx: &mut Cx<'_, Output>, held: &BTreeSet<Digest>, waited: &BTreeSet<Digest>) {
        let needed = held.iter().map(|d| (*d, true));
        let others = waited.difference(held).map(|d| (*d, false));
        self.to_restore = needed.chain(others).filter(|(d, _)| !self.knows(d)).collect();
        self.restore_next(cx);
    }

    fn restore_next(&mut self, cx: &mut Cx<'_, Output>) {
        while self.restoring < RESTORING_MAX
            && let Some(next) = self.to_restore.pop_front()
        {
            self.restoring += 1;
            let op = self.issue(Asked::Restoring(next));
            cx.emit(Output::Blob { op, request: BlobRequest::Open { digest: next.0 } });
        }
        if !self.is_restoring() {
            cx.emit(Output::Restored);
        }
    }

    /// What cannot be read is no directory that anybody can use: its files are nobody's.
    fn restored(&mut self, cx: &mut Cx<'_, Output>, asked: Restored, result: Result<BlobAnswer, BlobFailed>) {
        let (digest, needed) = asked;
        match result {
            Ok(BlobAnswer::Info(info)) if info.len <= MANIFEST_BYTES_MAX as u64 => {
                let len = u32::try_from(info.len).unwrap_or(u32::MAX);
                let op = self.issue(Asked::Restoring(asked));
                return cx.emit(Output::Blob { op, request: BlobRequest::Read { digest, offset: 0, len } });
            }
            Ok(BlobAnswer::Bytes(bytes)) => {
                if let Ok(leaves) = read(&digest, &bytes)
                    && (needed || self.held + leaves.len() <= LEAVES_HELD_MAX)
                {
                    self.learn(digest, &leaves);
                }
            }
            // A disk that fails once may not the next time.
            Err(BlobFailed::Io(_) | BlobFailed::Full) if self.restored_again < RESTORE_AGAIN_MAX => {
                self.restored_again += 1;
                self.to_restore.push_back(asked);
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
        self.restoring -= 1;
        self.restore_next(cx);
    }

    // ---------------------------------------------------------------------------------------- bringing

    fn want(
        &mut self,
        cx: &mut Cx<'_, Output>,
        key: Key,
        sources: Vec<(PublicKey, Option<Ticket>)>,
        waiter: Waiter,
    ) {
        let (digest, len, claim) = key;
        if let Some(b) = self.bringing.get_mut(&key) {
            b.waiters.insert(waiter);
            b.again |= std::mem::take(&mut b.unneeded);
            let new: Vec<_> = sources.into_iter().filter(|s| !b.sources.contains(s)).collect();
            b.sources.extend(new.iter().cloned());
            let objects: Vec<Digest> = match &b.step {
                Step::Manifest => vec![digest],
                Step::Leaves { asked, .. } => asked.iter().copied().collect(),
                Step::Reading(_) | Step::Looking(_) => Vec::new(),
            };
            if !new.is_empty() {
                objects.into_iter().for_each(|object| self.ask(cx, key, object, new.clone()));
            }
            return;
        }
        let why = match () {
            // Not `NoDirectory`: that is said only of what was seen, since it counts as shown.
            () if len > MANIFEST_BYTES_MAX as u64 => {
                let why = format!("{len} bytes are more than the list of a directory has");
                Some(Failed::Fetch { why, hopeless: true })
            }
            () if self.bringing.len() >= BRINGING_MAX => {
                Some(Failed::Fetch { why: "too many directories are waited for".to_owned(), hopeless: false })
            }
            () => None,
        };
        if let Some(why) = why {
            return cx.emit(Output::FetchFailed { digest, claim, waiters: vec![waiter], why });
        }
        let waiters = BTreeSet::from([waiter]);
        let step = Step::Manifest;
        let sources_kept = sources.clone();
        let b = Bringing {
            waiters,
            sources: sources_kept,
            step,
            looks: 0,
            new: false,
            unneeded: false,
            again: false,
        };
        self.bringing.insert(key, b);
        self.ask(cx, key, digest, sources);
    }

    /// Wants an object for a directory.
    fn ask(
        &mut self,
        cx: &mut Cx<'_, Output>,
        key: Key,
        object: Digest,
        sources: Vec<(PublicKey, Option<Ticket>)>,
    ) {
        let (digest, manifest_len, claim) = key;
        let is_leaf = self.bringing.get(&key).is_some_and(|b| !matches!(b.step, Step::Manifest));
        let leaf_len = || {
            let leaves = self.known.get(&digest)?;
            let at = leaves.binary_search_by_key(&object, |(leaf, _)| *leaf).ok()?;
            leaves.get(at).map(|(_, len)| *len)
        };
        let (len, under) =
            if is_leaf { (leaf_len().unwrap_or(0), Some(digest)) } else { (manifest_len, None) };
        self.of_object.entry((object, claim)).or_default().insert(key);
        cx.emit(Output::Want { digest: object, len, claim, under, sources });
    }

    /// An object came or did not: what that means for the directories that wait for it.
    fn arrived(
        &mut self,
        cx: &mut Cx<'_, Output>,
        object: Digest,
        claim: Claim,
        result: &Result<bool, (String, bool)>,
    ) {
        for key in self.of_object.remove(&(object, claim)).unwrap_or_default() {
            let Some(b) = self.bringing.get_mut(&key) else { continue };
            match result {
                Ok(new) => b.new |= new,
                Err((why, hopeless)) => {
                    let why = match b.step {
                        Step::Manifest => why.clone(),
                        Step::Reading(_) | Step::Looking(_) | Step::Leaves { .. } => {
                            format!("file {object} of the directory: {why}")
                        }
                    };
                    self.end(cx, key, Err(Failed::Fetch { why, hopeless: *hopeless }));
                    continue;
                }
            }
            match &mut b.step {
                Step::Manifest => self.read_manifest(cx, key),
                Step::Leaves { asked, .. } => {
                    asked.remove(&object);
                    self.ask_leaves(cx, key);
                }
                Step::Reading(_) | Step::Looking(_) => {}
            }
        }
        self.feed(cx);
    }

    /// Those that wait for their turn ask for leaves.
    fn feed(&mut self, cx: &mut Cx<'_, Output>) {
        while self.of_object.len() < ASKED_ALL_MAX
            && let Some(key) = self.starved.pop_first()
        {
            self.ask_leaves(cx, key);
        }
    }

    fn read_manifest(&mut self, cx: &mut Cx<'_, Output>, key: Key) {
        let (digest, len, _) = key;
        let op = self.issue(Asked::Bringing(key));
        if let Some(b) = self.bringing.get_mut(&key) {
            b.step = Step::Reading(op);
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        cx.emit(Output::Blob { op, request: BlobRequest::Read { digest, offset: 0, len } });
    }

    fn answered(
        &mut self,
        cx: &mut Cx<'_, Output>,
        op: OpId,
        key: Key,
        result: Result<BlobAnswer, BlobFailed>,
    ) {
        let Some(b) = self.bringing.get(&key) else { return };
        let (reading, looking) = match b.step {
            Step::Reading(o) => (o == op, false),
            Step::Looking(o) => (false, o == op),
            Step::Manifest | Step::Leaves { .. } => (false, false),
        };
        match result {
            Ok(BlobAnswer::Bytes(bytes)) if reading => self.manifest_read(cx, key, &bytes),
            Ok(BlobAnswer::Missing(missing)) if looking => self.looked(cx, key, &missing),
            Err(e) if reading || looking => {
                self.end(cx, key, Err(Failed::Fetch { why: e.to_string(), hopeless: false }));
            }
            Ok(_) if reading || looking => {
                let why = "the store answered something else".to_owned();
                self.end(cx, key, Err(Failed::Fetch { why, hopeless: false }));
            }
            Ok(_) | Err(_) => {}
        }
    }

    fn manifest_read(&mut self, cx: &mut Cx<'_, Output>, key: Key, bytes: &[u8]) {
        let leaves = match read(&key.0, bytes) {
            Ok(leaves) => leaves,
            Err(why) => return self.end(cx, key, Err(why)),
        };
        if !self.knows(&key.0) && self.held + leaves.len() > LEAVES_HELD_MAX {
            let why = format!("this node holds as many files of directories as it can ({LEAVES_HELD_MAX})");
            return self.end(cx, key, Err(Failed::Fetch { why, hopeless: false }));
        }
        self.learn(key.0, &leaves);
        match key.2 {
            // Whatever is here may be somebody else's: every leaf is to be shown.
            Some(_) => self.begin_leaves(cx, key, leaves.iter().copied().collect()),
            None => self.look(cx, key),
        }
    }

    fn begin_leaves(&mut self, cx: &mut Cx<'_, Output>, key: Key, left: VecDeque<(Digest, u64)>) {
        if let Some(b) = self.bringing.get_mut(&key) {
            b.step = Step::Leaves { left, asked: BTreeSet::new() };
        }
        self.ask_leaves(cx, key);
    }

    fn ask_leaves(&mut self, cx: &mut Cx<'_, Output>, key: Key) {
        loop {
            let Some(b) = self.bringing.get_mut(&key) else { return };
            let Step::Leaves { left, asked } = &mut b.step else { return };
            if asked.len() >= LEAVES_ASKED_MAX {
                return;
            }
            if self.of_object.len() >= ASKED_ALL_MAX && !left.is_empty() {
                self.starved.insert(key);
                return;
            }
            let Some((leaf, _)) = left.pop_front() else {
                if asked.is_empty() {
                    self.look(cx, key);
                }
                return;
            };
            asked.insert(leaf);
            let sources = b.sources.clone();
            self.ask(cx, key, leaf, sources);
        }
    }

    fn look(&mut self, cx: &mut Cx<'_, Output>, key: Key) {
        let Some(objects) = self.known.get(&key.0).map(Arc::clone) else { return };
        let op = self.issue(Asked::Bringing(key));
        if let Some(b) = self.bringing.get_mut(&key) {
            b.step = Step::Looking(op);
            b.looks += 1;
        }
        cx.emit(Output::Look { op, objects });
    }

    fn looked(&mut self, cx: &mut Cx<'_, Output>, key: Key, missing: &[Digest]) {
        let (Some(leaves), Some(b)) = (self.known.get(&key.0), self.bringing.get(&key)) else { return };
        let left: VecDeque<(Digest, u64)> = {
            let missing: BTreeSet<&Digest> = missing.iter().collect();
            leaves.iter().filter(|(leaf, _)| missing.contains(leaf)).copied().collect()
        };
        let count = left.len();
        match count {
            0 => self.end(cx, key, Ok(())),
            _ if b.looks >= LOOKS_MAX => {
                let why = format!("{count} files of the directory are lost as soon as they are here");
                self.end(cx, key, Err(Failed::Fetch { why, hopeless: false }));
            }
            _ => self.begin_leaves(cx, key, left),
        }
    }

    fn end(&mut self, cx: &mut Cx<'_, Output>, key: Key, result: Result<(), Failed>) {
        let Some(mut b) = self.bringing.remove(&key) else { return };
        let (digest, _, claim) = key;
        if b.again && result.is_ok() {
            (b.again, b.looks) = (false, 0);
            b.step = Step::Manifest;
            let sources = b.sources.clone();
            self.bringing.insert(key, b);
            return self.ask(cx, key, digest, sources);
        }
        self.starved.remove(&key);
        let objects = match &b.step {
            Step::Manifest => vec![digest],
            Step::Leaves { asked, .. } => asked.iter().copied().collect(),
            Step::Reading(_) | Step::Looking(_) => Vec::new(),
        };
        for object in objects {
            if let Some(keys) = self.of_object.get_mut(&(object, claim)) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.of_object.remove(&(object, claim));
                }
            }
        }
        self.ops.retain(|_, asked| !matches!(asked, Asked::Bringing(k) if *k == key));
        let waiters = b.waiters.into_iter().collect();
        cx.emit(match result {
            Ok(()) => Output::Fetched { digest, claim, waiters, new: b.new },
            Err(why) => Output::FetchFailed { digest, claim, waiters, why },
        });
        if b.unneeded {
            cx.emit(Output::Unneeded(digest));
        }
    }
}

/// The leaves of the directory with this digest, from its bytes.
fn read(digest: &Digest, bytes: &[u8]) -> Result<Leaves, Failed> {
    if Digest::of(bytes) != *digest {
        let why = BlobFailed::Corrupt.to_string();
        return Err(Failed::Fetch { why, hopeless: false });
    }
    match Manifest::decode(bytes) {
        Ok(manifest) => Ok(manifest.leaves().into()),
        Err(e) => Err(Failed::NoDirectory(e.to_string())),
    }
}

impl Machine for Trees {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Restore { held, waited } => self.restore(cx, &held, &waited),
            Input::Want { digest, len, claim, sources, waiter } => {
                self.want(cx, (digest, len, claim), sources, waiter);
            }
            Input::Fetched { digest, claim, new } => self.arrived(cx, digest, claim, &Ok(new)),
            Input::FetchFailed { digest, claim, why, hopeless } => {
                self.arrived(cx, digest, claim, &Err((why, hopeless)));
            }
            Input::Blob { op, result } => match self.ops.remove(&op) {
                Some(Asked::Bringing(key)) => self.answered(cx, op, key, result),
                Some(Asked::Restoring(digest)) => self.restored(cx, digest, result),
                None => {}
            },
            Input::Forget(digest) => self.forget(cx, digest),
        }
    }

    fn handle_timeout(&mut self, _: &mut Cx<'_, Output>) {}

    fn poll_timeout(&self) -> Option<Deadline> {
        None
    }
}

#[cfg(test)]
mod tests;
