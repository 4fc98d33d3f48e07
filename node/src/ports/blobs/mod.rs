//! The content-addressed object store: outputs, inputs and modules, as plain files named by their BLAKE3 digest.
//!
//! Two ways lead in. A peer's object comes piece by piece ([`BlobRequest::Create`], `Write`, `Seal`), verified by the
//! core before it gets here. Local bytes (an upload, an engine's output) are streamed through [`BlobStore::import`],
//! which finds the digest on the way. Both end alike: sync the file, give it its name, sync the directory; so a name
//! in the store always stands for a whole object, and what a crash leaves is a temporary file to sweep.
//!
//! The port has two threads: one reads, one writes. Sealing a large object waits for the disk for seconds, and peers
//! that are being served must not wait with it. Requests about one object need no order between the two: the core asks
//! the next thing only after the answer to the last.
//!
//! [`BlobStore`] is the same store for threads that need files rather than requests: engine and API.

mod engines;
mod files;
mod folder;

pub use files::{BlobStore, BlobStoreError, ImportError};

use crate::ports::Refused;
use async_channel::Sender;
use files::{Partials, READERS_KEPT, Readers};
use remote_network_core::event::Event;
use remote_network_core::id::OpId;
use remote_network_core::limits;
use remote_network_core::port::{BlobAnswer, BlobFailed, BlobRequest};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Requests that may wait for each thread. The core has at most [`limits::SERVES_MAX`] reads and
/// [`limits::FETCHES_ACTIVE_MAX`] × [`limits::FETCH_PIECES_HELD_MAX`] writes in flight, and one request for each
/// fetch, job input and grant besides.
pub const REQUESTS_WAITING_MAX: usize = 2 * limits::FETCHES_WAITING_MAX;

type Request = (OpId, BlobRequest);

/// Takes the core's requests. Dropping it finishes those that are queued.
#[derive(Debug)]
pub struct BlobPort {
    reads: Option<SyncSender<Request>>,
    writes: Option<SyncSender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

impl BlobPort {
    /// Starts the threads. Each request is answered by exactly one [`Event::Blob`] on `events`.
    pub fn start(store: &BlobStore, events: &Sender<Event>) -> io::Result<Self> {
        let (reads, read_queue) = sync_channel(REQUESTS_WAITING_MAX);
        let (writes, write_queue) = sync_channel(REQUESTS_WAITING_MAX);
        let spawn = |name: &str, queue: Receiver<Request>| {
            let (store, events) = (store.clone(), events.clone());
            std::thread::Builder::new().name(name.into()).spawn(move || serve(&store, &queue, &events))
        };
        let threads = vec![spawn("blob reads", read_queue)?, spawn("blob writes", write_queue)?];
        Ok(Self { reads: Some(reads), writes: Some(writes), threads })
    }

    /// Queues a request.
    pub fn submit(&mut self, op: OpId, request: BlobRequest) -> Result<(), Refused> {
        let queue = match &request {
            BlobRequest::Open { .. } | BlobRequest::Read { .. } => &self.reads,
            BlobRequest::Create { .. }
            | BlobRequest::Write { .. }
            | BlobRequest::Seal { .. }
            | BlobRequest::Remove { .. } => &self.writes,
        };
        let taken = queue.as_ref().is_some_and(|queue| queue.try_send((op, request)).is_ok());
        if taken {
            return Ok(());
        }
        let why = "the object store's queue is full or its thread has ended".to_owned();
        Err(Event::Blob { op, result: Err(BlobFailed::Io(why)) }.into())
    }
}

impl Drop for BlobPort {
    fn drop(&mut self) {
        self.reads = None;
        self.writes = None;
        for thread in self.threads.drain(..) {
            // Panics were caught and answered request by request.
            let _ended = thread.join();
        }
    }
}

/// What a thread keeps open between requests.
#[derive(Default)]
struct Open {
    partials: Partials,
    readers: Readers,
}

/// The next request; `None` when there will be none. A thread that has nothing to do keeps no object open for reading.
fn next(queue: &Receiver<Request>, open: &mut Open) -> Option<Request> {
    match queue.recv_timeout(READERS_KEPT) {
        Ok(request) => return Some(request),
        Err(RecvTimeoutError::Disconnected) => return None,
        Err(RecvTimeoutError::Timeout) => open.readers.forget_all(),
    }
    queue.recv().ok()
}

/// A thread's life: one request, one answer.
fn serve(store: &BlobStore, queue: &Receiver<Request>, events: &Sender<Event>) {
    let mut open = Open::default();
    while let Some((op, request)) = next(queue, &mut open) {
        let result = catch_unwind(AssertUnwindSafe(|| answer(store, &mut open, request)))
            .unwrap_or_else(|_| Err(BlobFailed::Io("the object store panicked".into())));
        if events.send_blocking(Event::Blob { op, result }).is_err() {
            return;
        }
    }
}

fn answer(store: &BlobStore, open: &mut Open, request: BlobRequest) -> Result<BlobAnswer, BlobFailed> {
    let Open { partials, readers } = open;
    match request {
        BlobRequest::Open { digest } => store.info(&digest).map(BlobAnswer::Info),
        BlobRequest::Read { digest, offset, len } => {
            store.read(readers, &digest, offset, len).map(BlobAnswer::Bytes)
        }
        BlobRequest::Create { digest, info } => store.create(partials, digest, info),
        BlobRequest::Write { digest, piece, bytes } => {
            store.write(partials, &digest, piece, &bytes).map(|()| BlobAnswer::Written)
        }
        BlobRequest::Seal { digest } => store.seal(partials, &digest).map(|()| BlobAnswer::Sealed),
        BlobRequest::Remove { digest } => {
            partials.forget(&digest);
            store.remove(&digest).map(|()| BlobAnswer::Removed)
        }
    }
}

#[cfg(test)]
mod tests;
