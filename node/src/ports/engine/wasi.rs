//! The world a guest sees: WASI preview 1 over plain files, virtual time and seeded randomness.
//!
//! wasmtime-wasi brings the calls; replaced here is what would let the machine show through:
//! - **Time.** Both clocks start at 2000-01-01T00:00:00Z and advance by one microsecond at every look, so that a guest
//!   that measures sees time pass, the same in every run.
//! - **Waiting.** `poll_oneoff` costs no real time: virtual time jumps to the earliest deadline, and files are always ready.
//!   Nothing a guest can call waits for the world outside.
//! - **Exit codes** above 125, which wasmtime-wasi takes for traps, are what C programs return for -1.
//! - **Output** beyond its limit ends the guest; what came before is kept.

use super::frame::Spec;
use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use wasmtime::{Caller, Extern, Linker, ResourceLimiter};
use wasmtime_wasi::cli::{InputFile, IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{FsPerms, HostMonotonicClock, HostWallClock, I32Exit, WasiCtxBuilder, async_trait};

/// The name a guest sees as its own.
const PROGRAM: &str = "service";
/// 2000-01-01T00:00:00Z: late enough for programs that take 1970 for "unset".
const EPOCH_SECONDS: u64 = 946_684_800;
/// What one look at a clock costs.
const TICK_NS: u64 = 1_000;
/// Elements of all tables of a module: 100 times what large programs use, 80 MB at most.
const TABLE_ELEMENTS_MAX: usize = 10_000_000;
/// Subscriptions of one `poll_oneoff`.
const SUBSCRIPTIONS_MAX: u32 = 1_024;
/// Largest single answer of the random source.
const RANDOM_BYTES_MAX: u64 = 16 << 20;

/// Why a guest was ended from outside: the first cause wins.
pub(super) struct Cause(AtomicU8);

impl Cause {
    pub(super) const NONE: u8 = 0;
    pub(super) const STOPPED: u8 = 1;
    pub(super) const TIME: u8 = 2;
    pub(super) const OUTPUT: u8 = 3;
    pub(super) const DIRECTORY: u8 = 4;
    pub(super) const DISK: u8 = 5;

    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(Self::NONE))
    }

    pub(super) fn set(&self, cause: u8) {
        let _ = self.0.compare_exchange(Self::NONE, cause, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(super) fn get(&self) -> u8 {
        self.0.load(Ordering::SeqCst)
    }
}

/// All that belongs to one guest.
pub(super) struct Guest {
    pub(super) wasi: WasiP1Ctx,
    pub(super) memory: Memory,
    clock: VirtualClock,
    outputs: [Limited; 2],
}

impl Guest {
    pub(super) fn new(spec: &Spec, cause: &Arc<Cause>) -> wasmtime::Result<Self> {
        let clock = VirtualClock::default();
        let output = |name| -> wasmtime::Result<Limited> {
            let file = OpenOptions::new().write(true).open(spec.written.join(name))?;
            Ok(Limited::new(file, spec.output_bytes, cause))
        };
        let outputs = [output("stdout")?, output("stderr")?];
        let mut builder = WasiCtxBuilder::new();
        builder
            .arg(PROGRAM)
            .args(&spec.args)
            .envs(&spec.env)
            .stdin(InputFile::new(File::open(spec.read.join("stdin"))?))
            .stdout(outputs[0].clone())
            .stderr(outputs[1].clone())
            .wall_clock(clock.clone())
            .monotonic_clock(clock.clone())
            .secure_random(ChaCha20Rng::from_seed(spec.seed))
            .insecure_random(ChaCha20Rng::from_seed(spec.seed))
            .insecure_random_seed(0)
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_blocking_current_thread(true);
        for mount in &spec.mounts {
            let perms = if mount.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            let dir = mount.within(&spec.read, &spec.written);
            builder.preopened_dir(dir, format!("/{}", mount.name), perms)?;
        }
        let memory = Memory { bytes_max: spec.memory_bytes, peak: 0, refused: false };
        Ok(Self { wasi: builder.build_p1(), memory, clock, outputs })
    }

    /// Writes out what is still buffered. Returns whether all writing went well.
    pub(super) fn flush_outputs(&self) -> bool {
        self.outputs.iter().all(Limited::flush_all)
    }
}

/// Replaces the calls of wasmtime-wasi that are not strict.
pub(super) fn make_strict(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    const MODULE: &str = "wasi_snapshot_preview1";
    linker.allow_shadowing(true);
    linker
        .func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) })?;
    linker.func_wrap(MODULE, "poll_oneoff", poll_oneoff)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Limits memory and tables, and remembers.
pub(super) struct Memory {
    bytes_max: u64,
    /// The highest size.
    pub(super) peak: u64,
    /// Whether more was asked for.
    pub(super) refused: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let desired = desired as u64;
        if desired > self.bytes_max {
            self.refused = true;
            return Ok(false);
        }
        self.peak = self.peak.max(desired);
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= TABLE_ELEMENTS_MAX;
        self.refused |= !fits;
        Ok(fits)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        4
    }

    fn memories(&self) -> usize {
        1
    }
}

/// Nanoseconds since the virtual epoch, shared by both clocks.
#[derive(Clone, Default)]
struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    fn look(&self) -> u64 {
        self.0.fetch_add(TICK_NS, Ordering::SeqCst).saturating_add(TICK_NS)
    }

    fn advance_to(&self, ns: u64) {
        self.0.fetch_max(ns, Ordering::SeqCst);
    }
}

impl HostMonotonicClock for VirtualClock {
    fn resolution(&self) -> u64 {
        TICK_NS
    }

    fn now(&self) -> u64 {
        self.look()
    }
}

impl HostWallClock for VirtualClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(TICK_NS)
    }

    fn now(&self) -> Duration {
        Duration::from_secs(EPOCH_SECONDS).saturating_add(Duration::from_nanos(self.look()))
    }
}

// The wire form of `poll_oneoff` (WASI preview 1, `witx/wasi_snapshot_preview1.witx`).
const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: usize = 32;
const ERRNO_SUCCESS: i32 = 0;
const ERRNO_FAULT: i32 = 21;
const ERRNO_INVAL: i32 = 28;
const TAG_CLOCK: u8 = 0;
const CLOCK_REALTIME: u32 = 0;
const CLOCK_MONOTONIC: u32 = 1;

/// One subscription: what it is for, and when it fires (virtual ns; `None` for files, which are ready).
struct Subscription {
    userdata: [u8; 8],
    tag: u8,
    at: Option<u64>,
}

fn poll_oneoff(
    mut caller: Caller<'_, Guest>,
    subscriptions: u32,
    events: u32,
    count: u32,
    fired: u32,
) -> wasmtime::Result<i32> {
    if count == 0 || count > SUBSCRIPTIONS_MAX {
        return Ok(ERRNO_INVAL);
    }
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return Ok(ERRNO_FAULT) };
    let mut bytes = vec![0; count as usize * SUBSCRIPTION_BYTES];
    if memory.read(&caller, subscriptions as usize, &mut bytes).is_err() {
        return Ok(ERRNO_FAULT);
    }
    let clock = caller.data().clock.clone();
    let now = clock.look();
    let Some(waiting) =
        bytes.chunks_exact(SUBSCRIPTION_BYTES).map(|s| subscription(s, now)).collect::<Option<Vec<_>>>()
    else {
        return Ok(ERRNO_INVAL);
    };
    // Files are ready now; without files, now becomes the earliest deadline.
    if waiting.iter().all(|s| s.at.is_some()) {
        clock.advance_to(waiting.iter().filter_map(|s| s.at).min().unwrap_or(now));
    }
    let now = clock.look();
    let mut out = Vec::new();
    for s in waiting.iter().filter(|s| s.at.is_none_or(|at| at <= now)) {
        let mut event = [0; EVENT_BYTES];
        event[..8].copy_from_slice(&s.userdata);
        event[10] = s.tag;
        event[16] = u8::from(s.at.is_none());
        out.extend_from_slice(&event);
    }
    let number = (out.len() / EVENT_BYTES) as u32;
    let written = memory
        .write(&mut caller, events as usize, &out)
        .and_then(|()| memory.write(&mut caller, fired as usize, &number.to_le_bytes()));
    Ok(if written.is_ok() { ERRNO_SUCCESS } else { ERRNO_FAULT })
}

fn subscription(bytes: &[u8], now: u64) -> Option<Subscription> {
    let userdata = *bytes.first_chunk::<8>()?;
    let tag = *bytes.get(8)?;
    if tag != TAG_CLOCK {
        return (tag <= 2).then_some(Subscription { userdata, tag, at: None });
    }
    let clock = u32::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
    let timeout = u64::from_le_bytes(*bytes.get(24..)?.first_chunk()?);
    let absolute = bytes.get(40)? & 1 == 1;
    let at = match (absolute, clock) {
        (false, CLOCK_REALTIME | CLOCK_MONOTONIC) => now.saturating_add(timeout),
        (true, CLOCK_MONOTONIC) => timeout,
        (true, CLOCK_REALTIME) => timeout.saturating_sub(EPOCH_SECONDS * 1_000_000_000),
        _ => return None,
    };
    Some(Subscription { userdata, tag, at: Some(at) })
}

/// Standard output or error: a file that takes so many bytes and then ends the guest.
#[derive(Clone)]
struct Limited {
    /// The buffer spares a system call for each of the 4 KiB pieces in which guests write.
    to: Arc<Mutex<Counted>>,
    cause: Arc<Cause>,
}

struct Counted {
    file: BufWriter<File>,
    /// Bytes it still takes: the limit and one, which shows that there was more.
    left: u64,
}

impl Limited {
    fn new(file: File, bytes_max: u64, cause: &Arc<Cause>) -> Self {
        let counted =
            Counted { file: BufWriter::with_capacity(64 << 10, file), left: bytes_max.saturating_add(1) };
        Self { to: Arc::new(Mutex::new(counted)), cause: Arc::clone(cause) }
    }

    fn put(&self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = bytes.len().min(usize::try_from(to.left).unwrap_or(usize::MAX));
        to.left -= fits as u64;
        if to.file.write_all(bytes.get(..fits).unwrap_or(bytes)).is_err() {
            self.cause.set(Cause::DISK);
        } else if to.left == 0 {
            self.cause.set(Cause::OUTPUT);
        } else {
            return Ok(());
        }
        Err(StreamError::trap("no more output is taken"))
    }

    fn flush_all(&self) -> bool {
        self.to.lock().unwrap_or_else(PoisonError::into_inner).file.flush().is_ok()
    }
}

impl IsTerminal for Limited {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Limited {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Limited {
    async fn ready(&mut self) {}
}

impl OutputStream for Limited {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        // Nobody looks at the file before the guest has ended.
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl tokio::io::AsyncWrite for Limited {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let put = self.put(bytes).map(|()| bytes.len());
        Poll::Ready(put.map_err(|_| std::io::ErrorKind::StorageFull.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
