//! The worker: the process in which one guest runs, and nothing else.
//!
//! It is the node's own binary with a hidden first argument, started with an empty environment and three descriptors. It
//! confines itself (see `sandbox`) before it reads its order, and further before it reads a byte of the module;
//! compiles or loads the code, runs the guest, tells how it went and exits. It holds no key, opens no connection and outlives
//! neither its job nor its node: the end of its stdin ends it.

use super::frame::{self, Class, Ended, FromWorker, Spec, TO_WORKER_BYTES_MAX, ToWorker};
use super::wasi::Cause;
use super::{guest, sandbox};
use crate::ports::workdir::{READ, WRITTEN};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use wasmtime::{Engine, Module};

/// Exit code of a worker that was not spoken to as a node would.
const NO_ORDER: u8 = 2;
/// Exit code of a worker that would not run unconfined.
const UNCONFINED: u8 = 3;

/// Characters of the words for people; the node keeps 500 bytes of them.
const DETAIL_CHARS_MAX: usize = 1_000;

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
        Ok(Some(ToWorker::Job(spec))) => {
            let mut ended = catch_unwind(AssertUnwindSafe(|| work(&spec, in_force)))
                .unwrap_or_else(|_| Ended::unstarted(Class::Infra, "the worker panicked"));
            // Names chosen by the module's author may be in it; the frame must not outgrow what the node reads.
            ended.detail = ended.detail.chars().take(DETAIL_CHARS_MAX).collect();
            tell(&FromWorker::Ended(ended));
            ExitCode::SUCCESS
        }
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

fn work(spec: &Spec, mut in_force: Vec<String>) -> Ended {
    if let Err(e) = sandbox::confine_to_job(&spec.dir, spec.code.as_deref(), spec.memory_bytes, &mut in_force)
    {
        return Ended::unstarted(Class::Infra, format!("the worker cannot confine itself: {e}"));
    }
    let engine = match guest::engine() {
        Ok(engine) => engine,
        Err(e) => return Ended::unstarted(Class::Infra, format!("no engine: {e:#}")),
    };
    tell(&FromWorker::Ready { confinement: in_force, code_version: guest::code_version(&engine) });
    let cause = Arc::new(Cause::new());
    let running = Arc::new(AtomicBool::new(false));
    let (run, may_run) = mpsc::channel();
    let listener = (Arc::clone(&cause), Arc::clone(&running));
    std::thread::spawn(move || listen(&listener.0, &listener.1, &run));
    let module = match load(&engine, spec, &may_run) {
        Ok(module) => module,
        Err(ended) => return ended,
    };
    if let Err(why) = guest::check(&module) {
        return Ended::unstarted(Class::Permanent, why);
    }
    if let Err(e) = sandbox::confine_outputs(spec.output_bytes) {
        return Ended::unstarted(Class::Infra, e.to_string());
    }
    running.store(true, Ordering::SeqCst);
    tell(&FromWorker::Started);
    guest::run(&engine, &module, spec, &cause)
}

/// Hears the node while the guest runs. The end of stdin is the end of the node, or its wish that we end.
fn listen(cause: &Cause, running: &AtomicBool, run: &mpsc::Sender<()>) {
    loop {
        let said = frame::read(&mut io::stdin().lock(), TO_WORKER_BYTES_MAX);
        match said {
            // A worker that has stopped waiting needs no word.
            Ok(Some(ToWorker::Run)) => drop(run.send(())),
            Ok(Some(ToWorker::Stop)) if running.load(Ordering::SeqCst) => cause.set(Cause::STOPPED),
            // Compiling cannot be interrupted, and has nothing to tell.
            Ok(Some(ToWorker::Stop | ToWorker::Probe { .. } | ToWorker::Job(_)) | None) | Err(_) => {
                std::process::exit(0)
            }
        }
    }
}

/// The module from compiled code, or compiled now and offered to the node for its cache.
fn load(engine: &Engine, spec: &Spec, may_run: &mpsc::Receiver<()>) -> Result<Module, Ended> {
    if let Some(module) = spec.code.as_deref().and_then(|code| load_code(engine, code)) {
        return Ok(module);
    }
    let infra = |e: io::Error| Ended::unstarted(Class::Infra, e.to_string());
    let bytes = fs::read(spec.dir.join(READ).join("module.wasm")).map_err(infra)?;
    let module = Module::new(engine, &bytes)
        .map_err(|e| Ended::unstarted(Class::Permanent, format!("the module is not valid: {e:#}")))?;
    if let Ok(code) = module.serialize()
        && fs::write(spec.dir.join(WRITTEN).join("code.cwasm"), code).is_ok()
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
