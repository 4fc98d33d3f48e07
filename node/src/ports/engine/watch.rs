//! The clock of a worker: a thread that raises the epoch while a guest runs, and looks after its output directories.
//!
//! Without a guest the thread sleeps until there is one: a worker that waits for work costs no processor time.

use super::wasi::Cause;
use crate::ports::workdir::directory_fits;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wasmtime::Engine;

/// How often running code is asked whether it may go on: fine enough to end 100 ms after a deadline on a busy machine.
const EPOCH: Duration = Duration::from_millis(5);
/// How many epochs lie between two looks at the size of output directories.
const EPOCHS_PER_LOOK: u64 = 10;

/// What there is to be looked after.
#[derive(Clone)]
pub(super) struct Watched {
    /// Output directories, and how many files and directories may be in each.
    pub dirs: Arc<[(PathBuf, usize)]>,
    /// What each may hold.
    pub bytes_max: u64,
    /// Whom to tell.
    pub cause: Arc<Cause>,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Option<Watched>>,
    begun: Condvar,
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, Option<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread, which ends with the process.
pub(super) struct Watch(Arc<Shared>);

impl Watch {
    /// Starts it.
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("clock".into()).spawn(move || tick(&engine, &own))?;
        Ok(Self(shared))
    }

    /// A guest runs from now on.
    pub(super) fn begin(&self, watched: Watched) {
        *self.0.watched() = Some(watched);
        self.0.begun.notify_one();
    }

    /// It runs no more.
    pub(super) fn end(&self) {
        *self.0.watched() = None;
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    for epoch in 1u64.. {
        let watched = {
            let guard = shared.watched();
            let idle = |watched: &mut Option<Watched>| watched.is_none();
            let guard = shared.begun.wait_while(guard, idle).unwrap_or_else(PoisonError::into_inner);
            guard.clone()
        };
        std::thread::sleep(EPOCH);
        engine.increment_epoch();
        if let Some(w) = watched
            && epoch.is_multiple_of(EPOCHS_PER_LOOK)
            && w.dirs.iter().any(|(dir, entries_max)| !directory_fits(dir, *entries_max, w.bytes_max))
        {
            w.cause.set(Cause::DIRECTORY);
        }
    }
}
