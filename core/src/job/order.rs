//! The order: what a requester asks of an executor, signed by the requester.
//!
//! Everything that decides the result is in it: service and program by digest, arguments, environment, inputs by digest.
//! Where to fetch the inputs is not: sources travel beside the order and may change without changing what was ordered.

use super::encoding::{
    dict_of, limits_of, limits_value, port_of, port_value, ports_of, ports_value, string_of, strings_of,
    strings_value,
};
use super::signed::Statement;
use super::workflow::NODE_ID_MAX;
use crate::codec::{DecodeError, Dict, Value};
use crate::id::{Digest, JobId, PublicKey, RunId};
use crate::limits::{OBJECT_BYTES_MAX, TASK_ARG_BYTES_MAX, TASK_ARGS_MAX, TASK_INPUTS_MAX};
use crate::port::{EngineInput, EngineLimits, MountPath, Port, Program};
use crate::service::{MOUNTS_MAX, NAME_MAX, program};
use crate::time::UnixTime;

/// Bytes of all arguments and environment entries of a task together. An order, its inputs' sources and their tickets
/// travel in one frame of 128 KiB; larger values belong into a port.
pub const TASK_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Output ports of a task: the streams and all mounts.
pub const TASK_OUTPUTS_MAX: usize = MOUNTS_MAX + 2;

/// What a requester asks of an executor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Who asks, and signs.
    pub requester: PublicKey,
    /// Who is asked. An order means nothing to anybody else.
    pub executor: PublicKey,
    /// The run it belongs to.
    pub run: RunId,
    /// Digest of the compiled plan.
    pub spec: Digest,
    /// Node id of the task.
    pub task: String,
    /// Number of the attempt; starts at 1, never used twice for a task.
    pub fence: u32,
    /// The service, by its content-derived id.
    pub service: Digest,
    /// What the service runs.
    pub program: Program,
    /// Where its mounts lie.
    pub paths: Vec<MountPath>,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment, complete.
    pub env: Vec<(String, String)>,
    /// Inputs in declared order.
    pub inputs: Vec<EngineInput>,
    /// Ports to keep.
    pub outputs: Vec<Port>,
    /// Limits of the execution.
    pub limits: EngineLimits,
    /// Whether its inputs come with it, its outputs go back with the receipt, and its executor need not remember it (see
    /// [`super::carried`]).
    pub light: bool,
    /// Whether its executor pledges its result before it shows it (see [`super::quorum`]).
    pub pledge: bool,
    /// Makes every order its own, so that no old receipt answers a new one.
    pub nonce: [u8; 16],
    /// When it was signed.
    pub issued: UnixTime,
}

impl Order {
    /// The job this order names.
    pub fn job(&self) -> JobId {
        job_id(&self.requester, &self.run, &self.task, self.fence)
    }

    /// Seed of the guest's randomness: the same for every attempt, so that a strict task computes the same again.
    pub fn seed(&self) -> [u8; 32] {
        Digest::in_domain("rn/seed/v1", &[self.spec.as_bytes(), self.task.as_bytes()]).0
    }
}

/// The id of a job: what a duplicate dispatch is recognised by.
pub fn job_id(requester: &PublicKey, run: &RunId, task: &str, fence: u32) -> JobId {
    let digest = Digest::in_domain(
        "rn/job/v1",
        &[requester.as_bytes(), run.as_bytes(), &fence.to_be_bytes(), task.as_bytes()],
    );
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    JobId(id)
}

/// An input as a value.
pub fn input_value(i: &EngineInput) -> Value {
    Dict::new().with("d", &i.digest).with("len", i.len).with("p", port_value(&i.port)).into()
}

/// Reads what [`input_value`] wrote.
pub fn input_of(value: &Value) -> Result<EngineInput, DecodeError> {
    let d = dict_of(value, "in")?;
    let len = d.u64("len")?;
    if len > OBJECT_BYTES_MAX {
        return Err(DecodeError::invalid("len", "larger than any object"));
    }
    let port = port_of(d.need("p")?)?;
    match port {
        Port::Stdin | Port::Mount(_) => Ok(EngineInput { port, digest: d.digest("d")?, len }),
        Port::Stdout | Port::Stderr => Err(DecodeError::invalid("p", "not an input port")),
    }
}

/// Environment as a flat list of names and values.
pub fn env_value(env: &[(String, String)]) -> Value {
    strings_value(env.iter().flat_map(|(k, v)| [k, v]))
}

/// Reads what [`env_value`] wrote.
pub fn env_of(d: &Dict, key: &'static str) -> Result<Vec<(String, String)>, DecodeError> {
    let items = d.list(key, TASK_ARGS_MAX * 2)?;
    if items.len() % 2 != 0 {
        return Err(DecodeError::invalid(key, "a name without a value"));
    }
    items
        .chunks_exact(2)
        .map(|pair| {
            let name = string_of(&pair[0], key, NAME_MAX * 4)?;
            if name.is_empty() || name.contains('=') {
                return Err(DecodeError::invalid(key, "not a name of an environment variable"));
            }
            Ok((name, string_of(&pair[1], key, TASK_ARG_BYTES_MAX)?))
        })
        .collect()
}

impl Statement for Order {
    const DOMAIN: &'static str = "rn/order/v1";
    // Text, inputs at 130 bytes each, a kilobyte of fixed fields; a test builds the largest one.
    const BODY_BYTES_MAX: usize = 64 * 1024;

    fn signer(&self) -> &PublicKey {
        &self.requester
    }

    fn to_dict(&self) -> Dict {
        program::write_paths(program::write(Dict::new(), &self.program), &self.paths)
            .with("args", strings_value(&self.args))
            .with("at", self.issued.as_millis())
            .with("env", env_value(&self.env))
            .with("exec", &self.executor)
            .with("fence", self.fence)
            .with("in", self.inputs.iter().map(input_value).collect::<Vec<_>>())
            .with("lim", limits_value(&self.limits))
            .with_some("light", self.light.then_some(1u64))
            .with("nonce", &self.nonce[..])
            .with("out", ports_value(&self.outputs))
            .with_some("pledge", self.pledge.then_some(1u64))
            .with("req", &self.requester)
            .with("run", &self.run.0[..])
            .with("spec", &self.spec)
            .with("svc", &self.service)
            .with("task", self.task.as_str())
            .with("v", 1u64)
    }

    fn from_dict(d: &Dict) -> Result<Self, DecodeError> {
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "order version", number }),
        }
        let fence = d.u32("fence")?;
        if fence == 0 {
            return Err(DecodeError::invalid("fence", "starts at 1"));
        }
        let outputs = ports_of(d, "out", TASK_OUTPUTS_MAX)?;
        if outputs.contains(&Port::Stdin) {
            return Err(DecodeError::invalid("out", "not an output port"));
        }
        let set = |key: &'static str| match d.get(key) {
            None => Ok(false),
            Some(_) if d.flag(key)? => Ok(true),
            Some(_) => Err(DecodeError::invalid(key, "what goes without saying is not written")),
        };
        Ok(Order {
            requester: d.key("req")?,
            executor: d.key("exec")?,
            run: RunId(d.array("run")?),
            spec: d.digest("spec")?,
            task: d.text("task", NODE_ID_MAX)?,
            fence,
            service: d.digest("svc")?,
            program: program::read(d)?,
            paths: program::read_paths(d)?,
            args: strings_of(d, "args", TASK_ARGS_MAX, TASK_ARG_BYTES_MAX)?,
            env: env_of(d, "env")?,
            inputs: d.list("in", TASK_INPUTS_MAX)?.iter().map(input_of).collect::<Result<_, _>>()?,
            outputs,
            limits: limits_of(d, "lim")?,
            light: set("light")?,
            pledge: set("pledge")?,
            nonce: d.array("nonce")?,
            issued: UnixTime::from_millis(d.u64("at")?),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::id::Keypair;
    use crate::job::signed::Signed;

    pub(crate) fn order(requester: &Keypair, executor: &Keypair) -> Order {
        Order {
            requester: requester.public(),
            executor: executor.public(),
            run: RunId([3; 16]),
            spec: Digest::of(b"spec"),
            task: "count".into(),
            fence: 1,
            service: Digest::of(b"service"),
            program: Program::Wasm(Digest::of(b"module")),
            paths: Vec::new(),
            args: vec!["-n".into(), "a\nb".into()],
            env: vec![("LANG".into(), "C".into())],
            inputs: vec![EngineInput { port: Port::Stdin, digest: Digest::of(b"in"), len: 2 }],
            outputs: vec![Port::Stdout, Port::Stderr],
            limits: EngineLimits { memory_bytes: 1 << 20, time_ms: 1000, output_bytes: 1 << 20 },
            light: false,
            pledge: false,
            nonce: [9; 16],
            issued: UnixTime::from_secs(1),
        }
    }

    #[test]
    fn an_order_survives_its_wire_form() {
        let (a, b) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let signed = Signed::sign(order(&a, &b), &a);
        let read = Signed::<Order>::decode(&signed.encode()).unwrap();
        assert_eq!(read, signed);
        assert_eq!(read.digest(), signed.digest());
    }

    #[test]
    fn what_an_order_does_not_ask_for_is_not_in_it() {
        let (a, b) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let plain = order(&a, &b);
        assert!(plain.to_dict().get("pledge").is_none() && plain.to_dict().get("light").is_none());
        let pledged = Order { pledge: true, ..plain.clone() };
        assert_eq!(Order::from_dict(&pledged.to_dict()), Ok(pledged));
        for key in ["light", "pledge"] {
            let written = plain.to_dict().with(key, 0u64);
            assert!(matches!(Order::from_dict(&written), Err(DecodeError::Invalid { .. })), "{key}");
        }
    }

    #[test]
    fn every_attempt_is_a_job_of_its_own_with_the_same_seed() {
        let (a, b) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let first = order(&a, &b);
        let second = Order { fence: 2, nonce: [8; 16], ..first.clone() };
        assert_ne!(first.job(), second.job());
        assert_eq!(first.seed(), second.seed());
    }

    #[test]
    fn the_largest_order_fits_its_bound() {
        let (a, b) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let mut o = order(&a, &b);
        o.task = "t".repeat(NODE_ID_MAX);
        let input = EngineInput {
            port: Port::Mount("m".repeat(NAME_MAX)),
            digest: Digest::of(b"x"),
            len: OBJECT_BYTES_MAX,
        };
        o.inputs = vec![input; TASK_INPUTS_MAX];
        // The text bound spread over as many entries as allowed costs the most punctuation.
        let piece = "x".repeat(TASK_TEXT_BYTES_MAX / (3 * TASK_ARGS_MAX));
        o.args = vec![piece.clone(); TASK_ARGS_MAX];
        o.env = vec![(piece.clone(), piece); TASK_ARGS_MAX];
        let signed = Signed::sign(o, &a);
        assert!(Signed::<Order>::decode(&signed.encode()).is_ok());
    }
}
