//! Light jobs (`core::job::carried`): what they carry goes to the worker behind its order and comes back behind its end.
//!
//! One that has no mounts needs no directory at all: its stdin and its outputs stay in memory, unless an output is too much for
//! that; then the worker puts both into files after all, where those of other jobs would be. One with mounts has files like every job,
//! but nothing of it is ever an object of the store, if it stays small.

use crate::ports::workdir::seal::{SealError, small};
use crate::ports::workdir::{EngineBlobs, fail, refuse_cut};
use bytes::Bytes;
use remote_network_core::id::Digest;
use remote_network_core::job::carried::CARRIED_BYTES_MAX;
use remote_network_core::port::{EngineExit, EngineJob, EngineOutput, ExitClass, Port};
use std::path::Path;

/// Whether a light job has nothing but the three streams.
pub(super) fn needs_no_directory(job: &EngineJob) -> bool {
    let mut ports = job.inputs.iter().map(|i| &i.port).chain(&job.outputs);
    job.carried.is_some() && !ports.any(|port| matches!(port, Port::Mount(_)))
}

/// What it reads: all its inputs, one after the other.
pub(super) fn stdin(job: &EngineJob) -> Bytes {
    match job.carried.as_deref() {
        Some([one]) => one.clone(),
        Some(all) => all.concat().into(),
        None => Bytes::new(),
    }
}

/// What it left in memory.
pub(super) fn collect(job: &EngineJob, stdout_len: u32, carried: Vec<u8>, exit: &mut EngineExit) {
    let mut out = Bytes::from(carried);
    let err = out.split_off(out.len().min(stdout_len as usize));
    let limit = usize::try_from(job.limits.output_bytes).unwrap_or(usize::MAX);
    let mut all = Vec::new();
    for port in &job.outputs {
        let written = match port {
            Port::Stdout => &out,
            Port::Stderr => &err,
            Port::Stdin | Port::Mount(_) => continue,
        };
        let bytes = written.slice(..written.len().min(limit));
        exit.outputs.push(output(port, &bytes, written.len() > limit));
        all.push(bytes);
    }
    exit.carried = Some(all);
    refuse_cut(job, exit);
}

/// What it left in files, if that is little; whether it was.
pub(super) fn collect_files(dir: &Path, job: &EngineJob, exit: &mut EngineExit) -> bool {
    let (mut outputs, mut all) = (Vec::new(), Vec::new());
    let mut room = CARRIED_BYTES_MAX;
    let mut missing = None;
    for port in &job.outputs {
        match small(dir, port, room.min(usize::try_from(job.limits.output_bytes).unwrap_or(usize::MAX))) {
            Ok(Some(bytes)) => {
                room -= bytes.len();
                outputs.push(output(port, &bytes, false));
                all.push(bytes);
            }
            Ok(None) | Err(SealError::Io(..)) => return false,
            Err(e) => missing = missing.or(Some(e)),
        }
    }
    if let (Some(e), ExitClass::Success) = (missing, exit.class) {
        fail(exit, ExitClass::User, &e.to_string());
    }
    exit.outputs = outputs;
    exit.carried = Some(all);
    true
}

fn output(port: &Port, bytes: &Bytes, truncated: bool) -> EngineOutput {
    EngineOutput { port: port.clone(), digest: Digest::of(bytes), len: bytes.len() as u64, truncated }
}

/// It took so long that its outputs are worth a place in the store.
pub(super) fn keep(blobs: &dyn EngineBlobs, exit: &mut EngineExit) {
    for bytes in exit.carried.take().unwrap_or_default() {
        if let Err(e) = blobs.import(&mut &bytes[..]) {
            exit.outputs.clear();
            return fail(exit, ExitClass::Infra, &format!("an output cannot be kept: {e}"));
        }
    }
}
