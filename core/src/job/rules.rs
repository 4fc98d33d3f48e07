//! What a workflow says about failure, waiting and choice: how often a task is tried and with how much memory, how long it may
//! wait, under which conditions it runs, and how long the whole run may take.
//!
//! The same rules stand in a workflow, where a condition names a task by its id, and in a plan, where it names it by its
//! number; hence the parameter. Everything usual is absent from the encoded form: a workflow that says nothing of this has the
//! digest that it always had, and a decoder refuses what is written out although it is usual.

use super::encoding::{code_of, dict_of, port_of, port_value};
use super::plan::RETRIES_MAX;
use crate::codec::{DecodeError, Dict, Value};
use crate::id::Digest;
use crate::port::Port;
use crate::time::Duration;

/// Longest time that a rule may name: a year. Longer is a slip of the pen, and sums of such times cannot overflow.
pub const RULE_TIME_MAX_MS: u64 = 365 * 24 * 3_600_000;
/// Conditions of one task: an eighth of its inputs, and more than anybody can hold in the head.
pub const WHEN_MAX: usize = 32;
/// Executors that a task may be done by at once: each costs the whole task again, and three already need two liars of one mind.
pub const QUORUM_MAX: u32 = 7;
/// A certainty, in millionths.
pub const AUDIT_PPM_MAX: u32 = 1_000_000;

/// What becomes of a run when a task has failed and nothing in the workflow handles that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// It ends at once.
    #[default]
    Stop,
    /// What does not need the failed task goes on; the run ends as failed all the same.
    Continue,
}

/// What must have become of the tasks that a task takes something from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Join {
    /// All have succeeded.
    #[default]
    All,
    /// All are over and at least one has succeeded. What the others would have given is left out.
    Any,
    /// All are over, however. What is not there is left out.
    Always,
}

/// What is asked of a task that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// It was committed.
    Succeeded,
    /// It failed for good.
    Failed,
    /// Its program ended with this exit code.
    Code(i32),
    /// It succeeded, and this output is empty.
    Empty(Port),
    /// It succeeded, and this output is the literal with this digest: no byte of it needs to be read.
    Is(Port, Digest),
}

/// A condition: a test of an earlier task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct When<T> {
    /// Which task.
    pub task: T,
    /// What is asked of it.
    pub test: Test,
}

/// How often and how a task is tried again; what is not said is as usual.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retry {
    /// Attempts after one that hit a limit; not said: they count among those after failures of the task's own making.
    pub resource: Option<u32>,
    /// Attempts after one that machines or the network spoiled; not said:
    /// [`INFRA_RETRIES`](super::requester::INFRA_RETRIES).
    pub infra: Option<u32>,
    /// First pause in milliseconds; it doubles. Not said: [`BACKOFF_MIN`](super::requester::BACKOFF_MIN).
    pub pause_ms: Option<u64>,
    /// Longest pause in milliseconds. Not said: [`BACKOFF_MAX`](super::requester::BACKOFF_MAX).
    pub pause_max_ms: Option<u64>,
    /// After an attempt that hit a limit the next gets twice the memory, up to so many bytes; 0: up to the service's own
    /// limit. Not said: it does not grow. In a plan it is a number above the task's limit.
    pub memory_max: Option<u64>,
}

/// A task is done by several executors, and its result is what enough of them agree on (see [`super::quorum`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorum {
    /// So many executors must have the same result: at least two.
    pub agree: u32,
    /// So many are asked at once: no fewer than must agree, and at most [`QUORUM_MAX`].
    pub of: u32,
}

impl Quorum {
    /// Whether the numbers make sense.
    pub const fn is_sound(&self) -> bool {
        2 <= self.agree && self.agree <= self.of && self.of <= QUORUM_MAX
    }
}

/// What a task's author says of it beside what it computes. `T` is how conditions name tasks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskRules<T> {
    /// How it is tried again.
    pub retry: Retry,
    /// How long it may wait for an executor, in milliseconds; not said:
    /// [`QUEUE_TIMEOUT`](super::requester::QUEUE_TIMEOUT).
    pub queue_ms: Option<u64>,
    /// What must have become of the tasks it takes something from.
    pub join: Join,
    /// All of these must hold, or it is skipped.
    pub when: Vec<When<T>>,
    /// By how many it is done at once, if not by one.
    pub quorum: Option<Quorum>,
    /// The chance, in millionths, that it is done once more elsewhere after it was committed, only to be compared.
    pub audit_ppm: Option<u32>,
}

impl<T> Default for TaskRules<T> {
    fn default() -> Self {
        Self {
            retry: Retry::default(),
            queue_ms: None,
            join: Join::default(),
            when: Vec::new(),
            quorum: None,
            audit_ppm: None,
        }
    }
}

/// What an author says of a whole run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunRules {
    /// How long it may take from its submission to its end, pauses not counted, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What a failed task means for the others.
    pub on_failure: OnFailure,
}

impl RunRules {
    /// How long the run may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }

    /// Writes what is not usual.
    pub(super) fn write(&self, d: Dict) -> Dict {
        let on_failure = (self.on_failure == OnFailure::Continue).then_some(1u64);
        d.with_some("fail", on_failure).with_some("time", self.timeout_ms)
    }

    /// Reads what [`RunRules::write`] wrote.
    pub(super) fn read(d: &Dict) -> Result<RunRules, DecodeError> {
        let on_failure = match d.u64_opt("fail")? {
            None => OnFailure::Stop,
            Some(1) => OnFailure::Continue,
            Some(number) => return Err(DecodeError::Unknown { what: "rule for failures", number }),
        };
        Ok(RunRules { timeout_ms: time_of(d, "time")?, on_failure })
    }
}

/// How the conditions of a workflow or of a plan name a task.
pub trait TaskName: Sized {
    /// As it is encoded.
    fn value(&self) -> Value;
    /// Reads it back.
    fn of(d: &Dict, key: &'static str) -> Result<Self, DecodeError>;
}

impl TaskName for String {
    fn value(&self) -> Value {
        Value::from(self.as_str())
    }

    fn of(d: &Dict, key: &'static str) -> Result<Self, DecodeError> {
        d.text(key, super::workflow::NODE_ID_MAX)
    }
}

impl TaskName for usize {
    fn value(&self) -> Value {
        Value::from(u64::try_from(*self).unwrap_or(u64::MAX))
    }

    fn of(d: &Dict, key: &'static str) -> Result<Self, DecodeError> {
        Ok(d.u32(key)? as usize)
    }
}

impl<T: TaskName> TaskRules<T> {
    /// Writes what is not usual.
    pub(super) fn write(&self, d: Dict) -> Dict {
        let r = &self.retry;
        let again = Dict::new()
            .with_some("i", r.infra)
            .with_some("m", r.memory_max)
            .with_some("p", r.pause_ms)
            .with_some("q", r.pause_max_ms)
            .with_some("r", r.resource);
        let join = match self.join {
            Join::All => None,
            Join::Any => Some(1u64),
            Join::Always => Some(2),
        };
        let when: Vec<Value> = self.when.iter().map(|w| when_dict(w).into()).collect();
        let quorum = self.quorum.map(|q| Dict::new().with("k", q.agree).with("n", q.of));
        d.with_some("again", (*r != Retry::default()).then_some(again))
            .with_some("audit", self.audit_ppm)
            .with_some("join", join)
            .with_some("queue", self.queue_ms)
            .with_some("quorum", quorum)
            .with_some("when", (!when.is_empty()).then_some(when))
    }

    /// Reads what [`TaskRules::write`] wrote.
    pub(super) fn read(d: &Dict) -> Result<Self, DecodeError> {
        let retry = match d.get("again") {
            None => Retry::default(),
            Some(_) => retry_of(d.dict("again")?)?,
        };
        let join = match d.u64_opt("join")? {
            None => Join::All,
            Some(1) => Join::Any,
            Some(2) => Join::Always,
            Some(number) => return Err(DecodeError::Unknown { what: "join", number }),
        };
        let when = match d.get("when") {
            None => Vec::new(),
            Some(_) => {
                let items = d.list("when", WHEN_MAX)?;
                if items.is_empty() {
                    return Err(DecodeError::invalid("when", "an empty list is not written"));
                }
                items.iter().map(|v| when_of(dict_of(v, "when")?)).collect::<Result<_, _>>()?
            }
        };
        let quorum = match d.get("quorum") {
            None => None,
            Some(_) => {
                let q = d.dict("quorum")?;
                let quorum = Quorum { agree: q.u32("k")?, of: q.u32("n")? };
                if !quorum.is_sound() {
                    return Err(DecodeError::invalid("quorum", "at least two of no fewer and at most seven"));
                }
                Some(quorum)
            }
        };
        let audit_ppm = match d.get("audit") {
            None => None,
            Some(_) => match d.u32("audit")? {
                ppm if (1..=AUDIT_PPM_MAX).contains(&ppm) => Some(ppm),
                _ => {
                    return Err(DecodeError::invalid(
                        "audit",
                        "a chance is above zero and at most a million",
                    ));
                }
            },
        };
        Ok(TaskRules { retry, queue_ms: time_of(d, "queue")?, join, when, quorum, audit_ppm })
    }
}

fn retry_of(d: &Dict) -> Result<Retry, DecodeError> {
    let count = |key: &'static str| match d.get(key) {
        None => Ok(None),
        Some(_) => match d.u32(key)? {
            n if n <= RETRIES_MAX => Ok(Some(n)),
            _ => Err(DecodeError::invalid(key, "more attempts than anybody may ask for")),
        },
    };
    let retry = Retry {
        resource: count("r")?,
        infra: count("i")?,
        pause_ms: time_of(d, "p")?,
        pause_max_ms: time_of(d, "q")?,
        memory_max: d.u64_opt("m")?,
    };
    if retry == Retry::default() {
        return Err(DecodeError::invalid("again", "what is usual is not written"));
    }
    Ok(retry)
}

fn time_of(d: &Dict, key: &'static str) -> Result<Option<u64>, DecodeError> {
    match d.u64_opt(key)? {
        Some(ms) if ms == 0 || ms > RULE_TIME_MAX_MS => {
            Err(DecodeError::invalid(key, "a time is above zero and at most a year"))
        }
        other => Ok(other),
    }
}

fn when_dict<T: TaskName>(w: &When<T>) -> Dict {
    let d = Dict::new().with("t", w.task.value());
    match &w.test {
        Test::Succeeded => d.with("k", 0u64),
        Test::Failed => d.with("k", 1u64),
        Test::Code(code) => d.with("k", 2u64).with("c", Value::Int(i64::from(*code))),
        Test::Empty(port) => d.with("k", 3u64).with("p", port_value(port)),
        Test::Is(port, digest) => d.with("k", 4u64).with("p", port_value(port)).with("d", digest),
    }
}

fn when_of<T: TaskName>(d: &Dict) -> Result<When<T>, DecodeError> {
    let port = || port_of(d.need("p")?);
    let test = match d.u64("k")? {
        0 => Test::Succeeded,
        1 => Test::Failed,
        2 => Test::Code(code_of(d, "c")?),
        3 => Test::Empty(port()?),
        4 => Test::Is(port()?, d.digest("d")?),
        number => return Err(DecodeError::Unknown { what: "test of a task", number }),
    };
    Ok(When { task: T::of(d, "t")?, test })
}

/// A time as people say it: `10 minutes`, `90 seconds`, `1500 ms`.
pub(super) fn words_of_ms(ms: u64) -> String {
    for (factor, unit) in [(3_600_000, "hour"), (60_000, "minute"), (1_000, "second")] {
        if ms >= factor && ms.is_multiple_of(factor) {
            let n = ms / factor;
            return format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
        }
    }
    format!("{ms} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> TaskRules<usize> {
        TaskRules {
            retry: Retry {
                resource: Some(0),
                infra: Some(3),
                pause_ms: Some(500),
                pause_max_ms: Some(60_000),
                memory_max: Some(0),
            },
            queue_ms: Some(1),
            join: Join::Always,
            when: vec![
                When { task: 0, test: Test::Succeeded },
                When { task: 1, test: Test::Failed },
                When { task: 2, test: Test::Code(-1) },
                When { task: 3, test: Test::Empty(Port::Stdout) },
                When { task: 4, test: Test::Is(Port::Mount("o".into()), Digest::of(b"x")) },
            ],
            quorum: Some(Quorum { agree: 2, of: 3 }),
            audit_ppm: Some(50_000),
        }
    }

    #[test]
    fn rules_survive_their_encoding_and_usual_ones_are_absent() {
        let rules = all();
        assert_eq!(TaskRules::read(&rules.write(Dict::new())), Ok(rules));
        assert_eq!(TaskRules::<usize>::default().write(Dict::new()), Dict::new());
        assert_eq!(RunRules::default().write(Dict::new()), Dict::new());
        let run = RunRules { timeout_ms: Some(5), on_failure: OnFailure::Continue };
        assert_eq!(RunRules::read(&run.write(Dict::new())), Ok(run));
    }

    #[test]
    fn what_is_usual_is_not_written_out() {
        let empty: Vec<Value> = Vec::new();
        for d in [
            Dict::new().with("join", 0u64),
            Dict::new().with("when", empty),
            Dict::new().with("again", Dict::new()),
            Dict::new().with("queue", 0u64),
            Dict::new().with("queue", RULE_TIME_MAX_MS + 1),
            Dict::new().with("again", Dict::new().with("i", u64::from(RETRIES_MAX) + 1)),
            Dict::new().with("quorum", Dict::new().with("k", 1u64).with("n", 3u64)),
            Dict::new().with("quorum", Dict::new().with("k", 3u64).with("n", 2u64)),
            Dict::new().with("quorum", Dict::new().with("k", 2u64).with("n", u64::from(QUORUM_MAX) + 1)),
            Dict::new().with("audit", 0u64),
            Dict::new().with("audit", u64::from(AUDIT_PPM_MAX) + 1),
        ] {
            assert!(TaskRules::<usize>::read(&d).is_err(), "{d:?}");
        }
        assert!(RunRules::read(&Dict::new().with("fail", 0u64)).is_err());
    }

    #[test]
    fn times_are_said_in_their_largest_whole_unit() {
        let said: Vec<String> =
            [1, 1_500, 1_000, 90_000, 600_000, 7_200_000].into_iter().map(words_of_ms).collect();
        assert_eq!(said, ["1 ms", "1500 ms", "1 second", "90 seconds", "10 minutes", "2 hours"]);
    }
}
