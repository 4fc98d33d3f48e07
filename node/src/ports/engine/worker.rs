//! The worker: the process in which guests run, one after the other, and nothing else.
//!
//! It is the node's own binary with a hidden first argument, started with an empty environment and three descriptors. It
//! confines itself (see `sandbox`) before it reads its first order, and further before it reads a byte of the module;
//! compiles or loads the code once, and then runs a guest for every order: a store, a world and a cause of their own, dropped
//! before the end is told. All its jobs are of one requester, with one module and the same limits (see `pool`). It holds no key, opens
//! no connection and does not outlive its node: the end of its stdin ends it.

use super::frame::{self, CODE, Class, Ended, FromWorker, MODULE, Spec, TO_WORKER_BYTES_MAX, ToWorker};
use super::guest::{self, House};
use super::sandbox;
use super::wasi::Cause;
use crate::ports::workdir::READ;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use wasmtime::{Engine, Module};

/// Exit code of a worker that was not spoken to as a node would.
const NO_ORDER: u8 = 2;
/// Exit code of a worker that would not run unconfined.
const UNCONFINED: u8 = 3;

/// Characters of the words for people; the node keeps 500 bytes of them.
const DETAIL_CHARS_MAX: usize = 1_000;

/// An order, and what ends its guest from outside.
type Order = (Box<Spec>, Arc<Cause>);

/// The cause of the job that a word of the node is about; none while code is compiled, which cannot be interrupted.
type Current = Mutex<Option<Arc<Cause>>>;

/// Runs a worker to its end. To be called first thing in `main`, before any other thread is started.
pub fn main() -> ExitCode {
    let mut in_force = vec!["own process, empty environment".to_owned()];
    if let Err(e) = sandbox::confine_process(&mut in_force) {
        return give_up(&format!("the worker cannot confine itself: {e}"));
    }
    // Not in the `match`: the lock would be held to its end, and `listen` would never hear.
    let order = frame::read(&mut io::stdin().lock(), TO_WORKER_BYTES_MAX);
    match order {
        Ok(Some(ToWorker::Probe { dir })) => probe(&dir, in_force),
        Ok(Some(ToWorker::Job(spec))) => serve(spec, in_force),
        Ok(Some(ToWorker::Run | ToWorker::Stop) | None) | Err(_) => ExitCode::from(NO_ORDER),
    }
}

fn probe(dir: &Path, mut in_force: Vec<String>) -> ExitCode {
    if let Err(e) = sandbox::confine_to_job(dir, None, 0, &mut in_force) {
        return give_up(&format!("the worker cannot confine itself: {e}"));
    }
    match guest::engine() {
        Ok(engine) => {
            let code_version = guest::code_version(&engine);
            tell(&FromWorker::Ready { confinement: in_force, code_version });
            ExitCode::SUCCESS
        }
        Err(e) => give_up(&format!("no engine: {e:#}")),
    }
}

fn give_up(why: &str) -> ExitCode {
    tell(&FromWorker::Ended(Ended::unstarted(Class::Infra, why)));
    ExitCode::from(UNCONFINED)
}

/// A node that is gone cannot be told; then stdin ends too, and with it this process.
fn tell(frame: &FromWorker) {
    let _ = frame::write(&mut io::stdout().lock(), frame);
}

/// The end of a job. Names chosen by the module's author may be in it; the frame must not outgrow what the node reads.
fn tell_end(mut ended: Ended) {
    ended.detail = ended.detail.chars().take(DETAIL_CHARS_MAX).collect();
    tell(&FromWorker::Ended(ended));
}

fn serve(first: Box<Spec>, in_force: Vec<String>) -> ExitCode {
    let panicked = || Ended::unstarted(Class::Infra, "the worker panicked");
    let begun = catch_unwind(AssertUnwindSafe(|| begin(&first, in_force)));
    let (house, orders, cause) = match begun.unwrap_or_else(|_| Err(panicked())) {
        Ok(begun) => begun,
        Err(ended) => {
            tell_end(ended);
            return ExitCode::SUCCESS;
        }
    };
    let mut next = Some((first, cause));
    while let Some((spec, cause)) = next {
        tell(&FromWorker::Started);
        match catch_unwind(AssertUnwindSafe(|| house.run(&spec, &cause))) {
            Ok(ended) => tell_end(ended),
            Err(_) => {
                tell_end(panicked());
                return ExitCode::SUCCESS;
            }
        }
        // The listener ends the process with stdin.
        next = orders.recv().ok();
    }
    ExitCode::SUCCESS
}

/// All that is done once: confinement, code, and the threads that hear the node and count the time.
fn begin(spec: &Spec, mut in_force: Vec<String>) -> Result<(House, Receiver<Order>, Arc<Cause>), Ended> {
    let unconfined = |e: sandbox::SandboxError| {
        Ended::unstarted(Class::Infra, format!("the worker cannot confine itself: {e}"))
    };
    let infra = |e: wasmtime::Error| Ended::unstarted(Class::Infra, format!("no engine: {e:#}"));
    sandbox::confine_to_job(&spec.root, spec.code.as_deref(), spec.memory_bytes, &mut in_force)
        .map_err(unconfined)?;
    let engine = guest::engine().map_err(infra)?;
    tell(&FromWorker::Ready { confinement: in_force, code_version: guest::code_version(&engine) });
    let current: Arc<Current> = Arc::default();
    let (to_run, may_run) = mpsc::channel();
    let (to_serve, orders) = mpsc::channel();
    let listener = (engine.clone(), Arc::clone(&current));
    std::thread::spawn(move || listen(&listener.0, &listener.1, &to_run, &to_serve));
    let module = load(&engine, spec, &may_run)?;
    guest::check(&module).map_err(|why| Ended::unstarted(Class::Permanent, why))?;
    let house = House::new(engine, &module)?;
    sandbox::confine_outputs(spec.output_bytes).map_err(unconfined)?;
    let cause = Arc::new(Cause::new());
    *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&cause));
    Ok((house, orders, cause))
}

/// Hears the node while guests run. The end of stdin is the end of the node, or its wish that we end.
fn listen(engine: &Engine, current: &Current, run: &Sender<()>, serve: &Sender<Order>) {
    loop {
        let said = frame::read(&mut io::stdin().lock(), TO_WORKER_BYTES_MAX);
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        match (said, &mut *current) {
            // A worker that has stopped waiting needs no word.
            (Ok(Some(ToWorker::Run)), _) => drop(run.send(())),
            (Ok(Some(ToWorker::Stop)), Some(cause)) => {
                cause.set(Cause::STOPPED);
                // Running code looks up at once, not at the clock's next tick.
                engine.increment_epoch();
            }
            // Here, so that a stop that follows finds the cause of this job.
            (Ok(Some(ToWorker::Job(spec))), Some(cause)) => {
                *cause = Arc::new(Cause::new());
                let _serving = serve.send((spec, Arc::clone(cause)));
            }
            (Ok(Some(ToWorker::Stop | ToWorker::Probe { .. } | ToWorker::Job(_)) | None) | Err(_), _) => {
                std::process::exit(0)
            }
        }
    }
}

/// The module from compiled code, or compiled now and offered to the node for its cache.
fn load(engine: &Engine, spec: &Spec, may_run: &Receiver<()>) -> Result<Module, Ended> {
    if let Some(module) = spec.code.as_deref().and_then(|code| load_code(engine, code)) {
        return Ok(module);
    }
    let infra = |e: io::Error| Ended::unstarted(Class::Infra, e.to_string());
    let bytes = fs::read(spec.root.join(READ).join(MODULE)).map_err(infra)?;
    let module = Module::new(engine, &bytes)
        .map_err(|e| Ended::unstarted(Class::Permanent, format!("the module is not valid: {e:#}")))?;
    if let Ok(code) = module.serialize()
        && fs::write(spec.written.join(CODE), code).is_ok()
    {
        tell(&FromWorker::Compiled);
        // The guest must not run before the node has taken the code: it could change it.
        let _ = may_run.recv();
    }
    Ok(module)
}

#[allow(unsafe_code)]
fn load_code(engine: &Engine, code: &Path) -> Option<Module> {
    // SAFETY: the bytes must be what `Module::serialize` of a compatible engine gave, and must not change while mapped. The node
    // has just verified them with a key that only it has (`cache::CodeCache`); it replaces cached files by renaming, never
    // in place, and this process may only read them. wasmtime itself refuses code of another version or other settings.
    unsafe { Module::deserialize_file(engine, code) }.ok()
}
