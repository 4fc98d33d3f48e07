//! An engine whose programs are a formula.
//!
//! A job's output is a pure function of its module, its arguments and its inputs ([`expected_output`]), so a checker
//! knows the right result of any workflow without running it. How long it takes and whether it fails is the scenario's
//! choice. Arguments steer a program: `bytes=N` sets the length of every output, `ms=N` its running time, `exit=N` its
//! exit code. An engine can fail, hang until its limit, or lie about the result (which no honest network would accept if
//! it could see it: the checkers do). What light jobs bring is not looked for in the store, and what they leave is not put there,
//! as long as it is small.

use crate::blobs::Blobs;
use crate::depot::Formula;
use crate::draw::Draw;
use bytes::Bytes;
use remote_network_core::id::{Digest, JobId};
use remote_network_core::job::carried::CARRIED_BYTES_MAX;
use remote_network_core::port::{EngineExit, EngineInput, EngineJob, EngineOutput, ExitClass, Port, Usage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

const MS_NS: u64 = 1_000_000;

/// Largest output a program makes: a scenario's mistake should not take the machine's memory.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 30;

/// How good an engine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSpec {
    /// Jobs whose worker dies under them.
    pub fail_ppm: u32,
    /// Jobs that hang until their time limit.
    pub hang_ppm: u32,
    /// Jobs whose output is wrong.
    pub lie_ppm: u32,
}

/// What has happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EngineTally {
    /// Jobs started.
    pub started: u64,
    /// Jobs that ended well and truly.
    pub succeeded: u64,
    /// Jobs whose worker died.
    pub failed: u64,
    /// Jobs that hung.
    pub hung: u64,
    /// Jobs that lied.
    pub lied: u64,
}

/// What a program's arguments say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Program {
    bytes: Option<u64>,
    ms: Option<u64>,
    exit: i32,
}

impl Program {
    fn of(args: &[String]) -> Self {
        let mut program = Program::default();
        for arg in args {
            match arg.split_once('=') {
                Some(("bytes", n)) => program.bytes = n.parse().ok(),
                Some(("ms", n)) => program.ms = n.parse().ok(),
                Some(("exit", n)) => program.exit = n.parse().unwrap_or_default(),
                _ => {}
            }
        }
        program
    }
}

fn seed_of(module: &Digest, args: &[String], inputs: &[(Port, Digest)], port: &Port) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    h.update(b"remote-network-sim engine v1").update(&module.0);
    for arg in args {
        h.update(&(arg.len() as u64).to_le_bytes()).update(arg.as_bytes());
    }
    // Port by port, in declared order within each: the order the product promises.
    let mut by_port: BTreeMap<&Port, Vec<&Digest>> = BTreeMap::new();
    inputs.iter().for_each(|(port, digest)| by_port.entry(port).or_default().push(digest));
    for (port, digests) in by_port {
        h.update(format!("{port:?}").as_bytes()).update(&(digests.len() as u64).to_le_bytes());
        digests.iter().for_each(|d| {
            h.update(&d.0);
        });
    }
    h.update(format!("{port:?}").as_bytes());
    *h.finalize().as_bytes()
}

/// What a module gives at `port` for these arguments and inputs, without faults, as the formula it is.
pub fn expected_formula(module: &Digest, args: &[String], inputs: &[(Port, Digest)], port: &Port) -> Formula {
    let key = seed_of(module, args, inputs, port);
    let own = 256 + u64::from(u16::from_le_bytes([key[0], key[1]])) % 4096;
    let len = Program::of(args).bytes.unwrap_or(own).min(OUTPUT_BYTES_MAX);
    Formula { key, from: 0, len }
}

/// What a module gives at `port` for these arguments and inputs, without faults.
pub fn expected_output(module: &Digest, args: &[String], inputs: &[(Port, Digest)], port: &Port) -> Bytes {
    expected_formula(module, args, inputs, port).all()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Ends,
    Dies,
    Hangs,
    Lies,
    Stopped,
}

struct Running {
    serial: u64,
    job: EngineJob,
    began_ns: u64,
    fate: Fate,
}

/// The engine of one host.
pub struct Engine {
    /// How good it is.
    pub spec: EngineSpec,
    running: BTreeMap<JobId, Running>,
    serial: u64,
    draw: Draw,
    tally: EngineTally,
}

/// When a started job will say what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Course {
    /// Tells this start from an earlier one of the same job.
    pub serial: u64,
    /// When it runs; `None` when it never will.
    pub started_ns: Option<u64>,
    /// When it ends.
    pub ends_ns: u64,
}

impl Engine {
    /// An engine with nothing to do.
    pub fn new(spec: EngineSpec, draw: Draw) -> Self {
        Self { spec, running: BTreeMap::new(), serial: 0, draw, tally: EngineTally::default() }
    }

    /// What has happened so far.
    pub fn tally(&self) -> &EngineTally {
        &self.tally
    }

    /// Jobs running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Starts a job. `None` when it runs already.
    pub fn start(&mut self, now_ns: u64, id: JobId, job: EngineJob, blobs: &Blobs) -> Option<Course> {
        if self.running.contains_key(&id) {
            return None;
        }
        self.serial += 1;
        self.tally.started += 1;
        let missing = job.program.object().is_some_and(|o| !blobs.holds(&o)) || lacks(&job, blobs).is_some();
        let limit_ns = job.limits.time_ms.saturating_mul(MS_NS);
        let takes_ns = match Program::of(&job.args).ms {
            Some(ms) => ms.saturating_mul(MS_NS),
            None => self.draw.between(20, 400) * MS_NS,
        };
        let fate = match self.draw.below(1_000_000) as u32 {
            d if d < self.spec.fail_ppm => Fate::Dies,
            d if d < self.spec.fail_ppm + self.spec.hang_ppm => Fate::Hangs,
            d if d < self.spec.fail_ppm + self.spec.hang_ppm + self.spec.lie_ppm => Fate::Lies,
            _ if takes_ns > limit_ns => Fate::Hangs,
            _ => Fate::Ends,
        };
        let course = if missing {
            Course { serial: self.serial, started_ns: None, ends_ns: now_ns + 2 * MS_NS }
        } else {
            let started_ns = now_ns + 5 * MS_NS;
            let ends_ns = match fate {
                Fate::Dies => started_ns + takes_ns / 2,
                Fate::Hangs => started_ns + limit_ns,
                Fate::Ends | Fate::Lies | Fate::Stopped => started_ns + takes_ns,
            };
            Course { serial: self.serial, started_ns: Some(started_ns), ends_ns }
        };
        self.running.insert(id, Running { serial: self.serial, job, began_ns: now_ns, fate });
        Some(course)
    }

    /// Stops a job: when its end will come; `None` when there is none. A hanging program needs the whole grace.
    pub fn stop(&mut self, now_ns: u64, id: JobId, grace: Duration) -> Option<(u64, u64)> {
        let running = self.running.get_mut(&id)?;
        let grace_ns = u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX);
        let takes_ns = if running.fate == Fate::Hangs { grace_ns } else { grace_ns.min(50 * MS_NS) };
        running.fate = Fate::Stopped;
        Some((running.serial, now_ns.saturating_add(takes_ns)))
    }

    /// Whether this start of the job still runs.
    pub fn runs(&self, id: JobId, serial: u64) -> bool {
        self.running.get(&id).is_some_and(|r| r.serial == serial)
    }

    /// Whether the job runs until its limit, or until it is stopped.
    pub fn hangs(&self, id: JobId) -> bool {
        self.running.get(&id).is_some_and(|r| r.fate == Fate::Hangs)
    }

    /// The end of a job has come: its outputs go to the store and its word to the core. `None` when it ended otherwise.
    pub fn finish(&mut self, now_ns: u64, id: JobId, serial: u64, blobs: &mut Blobs) -> Option<EngineExit> {
        if !self.runs(id, serial) {
            return None;
        }
        let running = self.running.remove(&id)?;
        let wall_ms = now_ns.saturating_sub(running.began_ns) / MS_NS;
        let usage = Usage { cpu_ns: wall_ms * MS_NS, fuel: wall_ms * 1000, memory_bytes: 1 << 20, wall_ms };
        let end = |class, code, detail: &str, outputs| EngineExit {
            class,
            code,
            detail: detail.to_owned(),
            usage,
            outputs,
            carried: None,
        };
        let job = &running.job;
        if job.program.object().is_some_and(|o| !blobs.holds(&o)) {
            return Some(end(ExitClass::Permanent, 0, "the module is not in the store", Vec::new()));
        }
        if let Some(missing) = lacks(job, blobs) {
            let detail = format!("input {missing} is not in the store");
            return Some(end(ExitClass::Infra, 0, &detail, Vec::new()));
        }
        match running.fate {
            Fate::Dies => {
                self.tally.failed += 1;
                Some(end(ExitClass::Infra, 0, "the worker died", Vec::new()))
            }
            Fate::Hangs => {
                self.tally.hung += 1;
                Some(end(ExitClass::Resource, 0, "the time limit was reached", Vec::new()))
            }
            Fate::Stopped => Some(end(ExitClass::Cancelled, 0, "stopped", Vec::new())),
            Fate::Ends | Fate::Lies => {
                let lie = running.fate == Fate::Lies;
                match outputs(job, lie, blobs) {
                    None => Some(end(ExitClass::Infra, 0, "no space for outputs", Vec::new())),
                    Some((outputs, carried)) => {
                        let code = Program::of(&job.args).exit;
                        let class = if code == 0 { ExitClass::Success } else { ExitClass::User };
                        self.tally.lied += u64::from(lie);
                        self.tally.succeeded += u64::from(!lie && code == 0);
                        Some(EngineExit { carried, ..end(class, code, "", outputs) })
                    }
                }
            }
        }
    }

    /// The host went down: nothing runs any more, and nobody will hear of it.
    pub fn crash(&mut self) {
        self.running.clear();
    }
}

/// An input that is not there. A light job brings its own.
fn lacks(job: &EngineJob, blobs: &Blobs) -> Option<Digest> {
    match &job.carried {
        Some(all) => {
            let wrong = |(i, bytes): &(&EngineInput, &Bytes)| Digest::of(bytes) != i.digest;
            job.inputs.iter().zip(all).find(wrong).map(|(i, _)| i.digest)
        }
        None => job.inputs.iter().map(|i| i.digest).find(|d| !blobs.holds(d)),
    }
}

/// What a job leaves: in the store, or carried, in the order of its ports.
type Left = (Vec<EngineOutput>, Option<Vec<Bytes>>);

fn outputs(job: &EngineJob, lie: bool, blobs: &mut Blobs) -> Option<Left> {
    let inputs: Vec<(Port, Digest)> = job.inputs.iter().map(|i| (i.port.clone(), i.digest)).collect();
    let (mut out, mut formulas) = (Vec::new(), Vec::new());
    for port in &job.outputs {
        let mut formula = expected_formula(&job.program.digest(), &job.args, &inputs, port);
        let truncated = formula.len > job.limits.output_bytes;
        formula.len = formula.len.min(job.limits.output_bytes);
        formulas.push((port.clone(), formula, truncated));
    }
    let lied = |formula: &Formula| Bytes::from([&formula.all()[..], b" or so"].concat());
    let total: u64 = formulas.iter().map(|(_, formula, _)| formula.len + 6 * u64::from(lie)).sum();
    if job.carried.is_some() && total <= CARRIED_BYTES_MAX as u64 {
        let mut carried = Vec::new();
        for (port, formula, truncated) in formulas {
            let bytes = if lie { lied(&formula) } else { formula.all() };
            out.push(EngineOutput { port, digest: Digest::of(&bytes), len: bytes.len() as u64, truncated });
            carried.push(bytes);
        }
        return Some((out, Some(carried)));
    }
    for (port, formula, truncated) in formulas {
        let stored = if lie { blobs.put(lied(&formula)) } else { blobs.put_formula(formula) };
        let (digest, info) = stored.ok()?;
        out.push(EngineOutput { port, digest, len: info.len, truncated });
    }
    Some((out, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::port::{EngineLimits, Program};

    fn job(args: &[&str], blobs: &mut Blobs) -> EngineJob {
        let (module, _) = blobs.put(Bytes::from_static(b"module")).unwrap();
        let (digest, _) = blobs.put(Bytes::from_static(b"input")).unwrap();
        EngineJob {
            tenant: remote_network_core::id::Keypair::from_seed(&[1; 32]).public(),
            program: Program::Wasm(module),
            paths: Vec::new(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: Vec::new(),
            inputs: vec![EngineInput { port: Port::Stdin, digest, len: 5 }],
            outputs: vec![Port::Stdout],
            limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 10_000, output_bytes: 1 << 20 },
            carried: None,
            seed: [0; 32],
        }
    }

    fn run(spec: EngineSpec, args: &[&str]) -> (EngineExit, Blobs, u64) {
        let mut blobs = Blobs::new(1 << 30);
        let mut engine = Engine::new(spec, Draw::new(1));
        let job = job(args, &mut blobs);
        let id = JobId([1; 16]);
        let course = engine.start(0, id, job.clone(), &blobs).unwrap();
        assert_eq!(engine.start(1, id, job, &blobs), None, "a second start is ignored");
        let exit = engine.finish(course.ends_ns, id, course.serial, &mut blobs).unwrap();
        assert_eq!(engine.finish(course.ends_ns, id, course.serial, &mut blobs), None, "an end comes once");
        (exit, blobs, course.ends_ns)
    }

    #[test]
    fn the_output_is_what_the_formula_says() {
        let (exit, blobs, ends_ns) = run(EngineSpec::default(), &["bytes=1000", "ms=70"]);
        assert_eq!((exit.class, exit.outputs[0].len, ends_ns), (ExitClass::Success, 1000, 75 * MS_NS));
        let args = ["bytes=1000".to_owned(), "ms=70".to_owned()];
        let inputs = [(Port::Stdin, Digest::of(b"input"))];
        let expected = expected_output(&Digest::of(b"module"), &args, &inputs, &Port::Stdout);
        assert_eq!(blobs.get(&exit.outputs[0].digest), Some(expected));
    }

    #[test]
    fn every_part_of_the_order_changes_the_output() {
        let of = |module: &[u8], arg: &str, input: &[u8], port: Port| {
            let args = [arg.to_owned()];
            expected_output(&Digest::of(module), &args, &[(Port::Stdin, Digest::of(input))], &port)
        };
        let base = of(b"m", "a", b"i", Port::Stdout);
        assert_eq!(base, of(b"m", "a", b"i", Port::Stdout));
        assert_ne!(base, of(b"M", "a", b"i", Port::Stdout));
        assert_ne!(base, of(b"m", "A", b"i", Port::Stdout));
        assert_ne!(base, of(b"m", "a", b"I", Port::Stdout));
        assert_ne!(base, of(b"m", "a", b"i", Port::Stderr));
    }

    #[test]
    fn every_way_to_end_has_its_class() {
        let only = |fail_ppm, hang_ppm, lie_ppm| EngineSpec { fail_ppm, hang_ppm, lie_ppm };
        assert_eq!(run(only(1_000_000, 0, 0), &[]).0.class, ExitClass::Infra);
        let (hung, _, ends_ns) = run(only(0, 1_000_000, 0), &[]);
        assert_eq!((hung.class, ends_ns), (ExitClass::Resource, 10_005 * MS_NS));
        assert_eq!(run(only(0, 0, 0), &["ms=20000"]).0.class, ExitClass::Resource);
        let user = run(only(0, 0, 0), &["exit=3"]).0;
        assert_eq!((user.class, user.code), (ExitClass::User, 3));
        let (lie, blobs, _) = run(only(0, 0, 1_000_000), &["bytes=10"]);
        assert_eq!((lie.class, lie.outputs[0].len), (ExitClass::Success, 16));
        assert!(blobs.get(&lie.outputs[0].digest).is_some(), "a lie is a well-formed result");
    }

    #[test]
    fn stopping_and_missing_inputs_are_answered_too() {
        let mut blobs = Blobs::new(1 << 30);
        let mut engine = Engine::new(EngineSpec::default(), Draw::new(1));
        let id = JobId([1; 16]);
        let order = job(&["ms=9000"], &mut blobs);
        engine.start(0, id, order.clone(), &blobs).unwrap();
        let (serial, at_ns) = engine.stop(10, id, Duration::from_secs(10)).unwrap();
        assert_eq!(engine.finish(at_ns, id, serial, &mut blobs).unwrap().class, ExitClass::Cancelled);
        assert_eq!(engine.stop(10, id, Duration::from_secs(10)), None);
        let mut empty = Blobs::new(1 << 30);
        let course = engine.start(0, id, order, &empty).unwrap();
        assert_eq!(course.started_ns, None);
        let exit = engine.finish(course.ends_ns, id, course.serial, &mut empty).unwrap();
        assert_eq!(exit.class, ExitClass::Permanent);
    }
}
