//! Running guests inside a worker: settings of the engine, limits, and how an end is told.
//!
//! Always strict (SPEC 6.4): a run depends on the module, its arguments and its inputs, on nothing else. NaNs are canonical,
//! there are no threads and no relaxed SIMD, fuel is counted, clocks are virtual and randomness comes from the order's seed
//! (see [`super::wasi`]). What a guest of *mounts* can still see of the machine is the number and creation time of its files and
//! the order in which a directory lists them: services that must be bit-reproducible over mounts open files by name.
//!
//! Time is limited by epochs: a thread (`watch`) raises a counter every few milliseconds and compiled code looks at it in every loop
//! and call. No host call can block for long, since all are on plain files or on virtual time.

use super::frame::{Class, Ended, Spec};
use super::wasi::{self, Cause, Guest};
use super::watch::{Watch, Watched};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{
    Config, Engine, InstancePre, Linker, Module, OptLevel, Store, Strategy, Trap, UpdateDeadline,
};
use wasmtime_wasi::{I32Exit, p1};

/// The guest's stack of calls. Deeper recursion is a trap.
const STACK_BYTES: usize = 1 << 20;
/// Where guests start in WASI preview 1.
const START: &str = "_start";

/// The engine every worker uses. What is set here is part of the code's version.
pub(super) fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(2 * STACK_BYTES);
    Engine::new(&config)
}

/// Tells apart compiled code that must not be mixed: wasmtime's version, its settings, the processor.
pub(super) fn code_version(engine: &Engine) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{}-{:016x}", env!("CARGO_PKG_VERSION"), hasher.finish())
}

/// Refuses what could never run, before it is said to have started.
pub(super) fn check(module: &Module) -> Result<(), String> {
    match module.get_export(START) {
        Some(wasmtime::ExternType::Func(f)) if f.params().len() == 0 && f.results().len() == 0 => Ok(()),
        Some(_) => Err("the module's `_start` is no function without parameters and results".into()),
        None => Err("the module has no `_start` function: it is no WASI preview 1 command".into()),
    }
}

/// What all guests of a worker have in common: code that is linked, a clock, and a runtime for what is asynchronous.
pub(super) struct House {
    engine: Engine,
    pre: InstancePre<Guest>,
    watch: Watch,
    runtime: tokio::runtime::Runtime,
}

impl House {
    /// Links the module. An import that is not there means that it can never run here.
    pub(super) fn new(engine: Engine, module: &Module) -> Result<Self, Ended> {
        let infra = |e: &dyn std::fmt::Display| Ended::unstarted(Class::Infra, format!("no engine: {e}"));
        let mut linker: Linker<Guest> = Linker::new(&engine);
        p1::add_to_linker_async(&mut linker, |guest| &mut guest.wasi).map_err(|e| infra(&e))?;
        wasi::make_strict(&mut linker).map_err(|e| infra(&e))?;
        let unlinked = |e: wasmtime::Error| Ended::unstarted(Class::Permanent, e.root_cause().to_string());
        let pre = linker.instantiate_pre(module).map_err(unlinked)?;
        let watch = Watch::start(engine.clone()).map_err(|e| infra(&e))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        Ok(Self { engine, pre, watch, runtime: runtime.map_err(|e| infra(&e))? })
    }

    /// Runs a guest to its end, on this thread: processor time is the thread's. Nothing of it is left on return.
    pub(super) fn run(&self, spec: &Spec, cause: &Arc<Cause>) -> Ended {
        let store = match self.store(spec, cause) {
            Ok(store) => store,
            Err(e) => return Ended::unstarted(Class::Infra, format!("{e:#}")),
        };
        let dirs = spec.mounts.iter().filter(|m| m.writable);
        let dirs = dirs.map(|m| (m.within(&spec.read, &spec.written), m.entries_max()));
        self.watch.begin(Watched {
            dirs: dirs.collect(),
            bytes_max: spec.output_bytes,
            cause: Arc::clone(cause),
        });
        let ended = self.execute(spec, cause, store);
        self.watch.end();
        ended
    }

    fn store(&self, spec: &Spec, cause: &Arc<Cause>) -> wasmtime::Result<Store<Guest>> {
        let mut store = Store::new(&self.engine, Guest::new(spec, cause)?);
        store.limiter(|guest| &mut guest.memory);
        store.set_fuel(u64::MAX)?;
        Ok(store)
    }

    fn execute(&self, spec: &Spec, cause: &Arc<Cause>, mut store: Store<Guest>) -> Ended {
        let started = Instant::now();
        let cpu_before = thread_cpu();
        let limit = Duration::from_millis(spec.time_ms);
        interrupt_at(started + limit, &mut store, cause);
        let (result, instantiated) = self.runtime.block_on(async {
            let mut instantiated = false;
            let guest = async {
                let instance = self.pre.instantiate_async(&mut store).await?;
                instantiated = true;
                instance.get_typed_func::<(), ()>(&mut store, START)?.call_async(&mut store, ()).await
            };
            let result = tokio::time::timeout(limit, guest).await;
            (result, instantiated)
        });
        let cpu_ns = thread_cpu().saturating_sub(cpu_before);
        let result = result.unwrap_or_else(|_| {
            cause.set(Cause::TIME);
            Err(wasmtime::Error::msg("timed out"))
        });
        let fuel = store.get_fuel().map_or(0, |left| u64::MAX - left);
        let trapped = matches!(&result, Err(e) if e.downcast_ref::<I32Exit>().is_none());
        let guest = store.into_data();
        // First, since what does not fit into memory is written now.
        let carried = if spec.light { guest.carried() } else { None };
        let (class, code, detail) = judge(result, instantiated, cause, &guest, spec);
        let (stdout_len, carried) = carried.map_or((None, Vec::new()), |(len, bytes)| (Some(len), bytes));
        Ended {
            class,
            code,
            trapped,
            detail,
            cpu_ns: u64::try_from(cpu_ns).unwrap_or(u64::MAX),
            fuel,
            memory_bytes: guest.memory.peak,
            wall_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            stdout_len,
            carried,
        }
    }
}

/// Ends running code at `deadline`, or when there is another cause to.
fn interrupt_at(deadline: Instant, store: &mut Store<Guest>, cause: &Arc<Cause>) {
    let cause = Arc::clone(cause);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        if Instant::now() >= deadline {
            cause.set(Cause::TIME);
        }
        Ok(if cause.get() == Cause::NONE { UpdateDeadline::Continue(1) } else { UpdateDeadline::Interrupt })
    });
}

fn thread_cpu() -> u128 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec.unsigned_abs() as u128 * 1_000_000_000 + t.tv_nsec.unsigned_abs() as u128
}

/// What the end means. A limit explains a failure, but does not make one of a guest that coped with it.
fn judge(
    result: wasmtime::Result<()>,
    instantiated: bool,
    cause: &Cause,
    guest: &Guest,
    spec: &Spec,
) -> (Class, i32, String) {
    let flushed = guest.flush_outputs();
    let code = match &result {
        Ok(()) => Some(0),
        Err(e) => e.downcast_ref::<I32Exit>().map(|exit| exit.0),
    };
    match (cause.get(), code) {
        (Cause::STOPPED, _) => return (Class::Cancelled, 0, "stopped on request".into()),
        (Cause::TIME, _) => {
            return (Class::Resource, 0, format!("it ran longer than its limit of {} ms", spec.time_ms));
        }
        (Cause::OUTPUT, _) => {
            return (
                Class::Resource,
                0,
                format!("an output passed its limit of {} bytes", spec.output_bytes),
            );
        }
        (Cause::DIRECTORY, _) => {
            let why =
                format!("an output directory passed its limit of {} bytes or 1024 files", spec.output_bytes);
            return (Class::Resource, 0, why);
        }
        (Cause::DISK, _) => return (Class::Infra, 0, "writing an output failed".into()),
        (_, Some(0)) if !flushed => return (Class::Infra, 0, "writing an output failed".into()),
        (_, Some(0)) => return (Class::Success, 0, String::new()),
        (_, Some(_) | None) => {}
    }
    let why = match (&result, code) {
        (_, Some(code)) => format!("exit code {code}"),
        (Err(e), None) => match e.downcast_ref::<Trap>() {
            Some(trap) => trap.to_string(),
            None => e.root_cause().to_string(),
        },
        (Ok(()), None) => String::new(),
    };
    if guest.memory.refused {
        let why =
            format!("it asked for more than its limit of {} bytes of memory ({why})", spec.memory_bytes);
        return (Class::Resource, 0, why);
    }
    match code {
        Some(code) => (Class::User, code, why),
        // An import that is not there, or a module no store takes: nothing of the guest has run.
        None if !instantiated && !matches!(&result, Err(e) if e.is::<Trap>()) => (Class::Permanent, 0, why),
        None => (Class::User, 0, why),
    }
}
