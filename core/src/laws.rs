//! The laws of [`crate::machine`], as one suite that every machine passes.
//!
//! A machine's tests call [`check`] with a way to make it and a strategy for its inputs:
//!
//! ```text
//! laws::check(|| Publisher::new(config()), arb_input());
//! laws::check_within(|| Publisher::new(config()), arb_input(), |m| assert!(m.waiting() <= WAITING_MAX));
//! ```
//!
//! The suite drives the machine through random inputs at random times and looks at it from outside only: what it
//! emits, when it wants to be woken. A strategy should draw ids and keys from a small range, so that some inputs meet
//! requests that are outstanding and others are duplicates or unknown.
//!
//! | law of `machine` | how it is checked |
//! |---|---|
//! | 1 spurious timeouts, 6 splitting time | a second run with extra `handle_timeout`s before deadlines must emit the same and want the same |
//! | 2 progress | after every due `handle_timeout` the next deadline is later than `now` |
//! | 3 determinism | a third run from the same seed is equal |
//! | 4 bounds, no panic | the caller's `within` looks at the machine after every step |
//! | 5 unknown ids | they are among the arbitrary inputs; `within` and the absence of panics answer for them |
//! | 7 rest | without inputs, an hour holds at most [`WAKES_PER_HOUR_MAX`] wake-ups |

use crate::machine::{Cx, Machine};
use crate::rng::Rng;
use crate::time::{Deadline, Duration, Instant, UnixTime};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::fmt::Debug;

/// Wake-ups that a machine without inputs may want in an hour: one a second is periodic work, more is a spin.
pub const WAKES_PER_HOUR_MAX: usize = 3_600;
/// The wall clock at the start of every run: 2023-11-14, a whole number of seconds.
pub const WALL_AT_START: UnixTime = UnixTime::from_secs(1_700_000_000);

const CASES: u32 = 48;
const STEPS_MAX: usize = 60;
/// Wake-ups within one wait that can only be a spin.
const SPIN_WAKES: usize = 20_000;

/// One step of a run: time passes (looked at in `splits` extra places), then something happens.
#[derive(Clone, Debug)]
struct Step<I> {
    wait: Duration,
    splits: u32,
    input: I,
}

/// A machine with its clock and generator, and all it emitted. Useful for a machine's own tests as well: time moves
/// only by [`Rig::advance`], which stops at every deadline on the way.
pub struct Rig<M: Machine> {
    /// The machine.
    pub machine: M,
    /// The monotonic clock.
    pub now: Instant,
    rng: Rng,
    out: Vec<M::Output>,
    wakes: usize,
}

impl<M: Machine> Rig<M> {
    /// A machine at the start of the clock.
    pub fn new(machine: M, seed: [u8; 32]) -> Self {
        Self { machine, now: Instant::ZERO, rng: Rng::from_seed(seed), out: Vec::new(), wakes: 0 }
    }

    /// The wall clock, which runs with the monotonic one.
    pub fn wall(&self) -> UnixTime {
        WALL_AT_START.plus(self.now.since(Instant::ZERO))
    }

    /// Something happens now.
    pub fn handle(&mut self, input: M::Input) {
        let wall = self.wall();
        self.machine.handle(&mut Cx::new(self.now, wall, &mut self.rng, &mut self.out), input);
    }

    /// Calls `handle_timeout` now, due or not.
    pub fn timeout(&mut self) {
        let wall = self.wall();
        self.machine.handle_timeout(&mut Cx::new(self.now, wall, &mut self.rng, &mut self.out));
    }

    /// Lets time pass, waking the machine exactly at its deadlines.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let mut woken = 0;
        while let Some(deadline) = self.machine.poll_timeout().filter(|d| d.at <= until) {
            self.now = self.now.max(deadline.at);
            self.timeout();
            self.wakes += 1;
            woken += 1;
            assert!(woken < SPIN_WAKES, "law 7: {woken} wake-ups in {by:?}, now for {deadline:?}");
            if let Some(next) = self.machine.poll_timeout() {
                assert!(
                    next.at > self.now,
                    "law 2: after handle_timeout at {:?} for {:?} it wants {next:?}",
                    self.now,
                    deadline.reason
                );
            }
        }
        self.now = until;
    }

    /// What was emitted since the last call.
    pub fn outputs(&mut self) -> Vec<M::Output> {
        std::mem::take(&mut self.out)
    }

    /// Handles `input` and returns what was emitted since the last call.
    pub fn tell(&mut self, input: M::Input) -> Vec<M::Output> {
        self.handle(input);
        self.outputs()
    }

    /// Lets time pass and returns what was emitted since the last call.
    pub fn wait(&mut self, by: Duration) -> Vec<M::Output> {
        self.advance(by);
        self.outputs()
    }
}

/// Checks the laws for machines made by `make` under inputs drawn from `input`.
pub fn check<M>(make: impl Fn() -> M, input: impl Strategy<Value = M::Input>)
where
    M: Machine,
    M::Input: Clone + Debug,
    M::Output: Debug,
{
    check_within(make, input, |_| ());
}

/// Like [`check`]; `within` asserts the machine's bounds after every step.
pub fn check_within<M>(make: impl Fn() -> M, input: impl Strategy<Value = M::Input>, within: impl Fn(&M))
where
    M: Machine,
    M::Input: Clone + Debug,
    M::Output: Debug,
{
    let wait_ms = prop_oneof![3 => 0u64..50, 3 => 0u64..5_000, 2 => 0u64..120_000, 1 => 0u64..7_200_000];
    let step = (wait_ms, 0u32..4, input).prop_map(|(ms, splits, input)| Step {
        wait: Duration::from_millis(ms),
        splits,
        input,
    });
    let config =
        Config { cases: CASES, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    TestRunner::new(config)
        .run(&(any::<[u8; 32]>(), vec(step, 0..STEPS_MAX)), |(seed, steps)| {
            let plain = run(make(), seed, &steps, false, &within);
            let split = run(make(), seed, &steps, true, &within);
            assert_eq!(plain, split, "laws 1 and 6: a spurious timeout changed something");
            let again = run(make(), seed, &steps, false, &within);
            assert_eq!(plain, again, "law 3: two equal runs differ");
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}

/// What an observer sees of a run: everything emitted and every deadline.
type Trace = Vec<(Instant, Vec<String>, Option<Deadline>)>;

fn run<M>(machine: M, seed: [u8; 32], steps: &[Step<M::Input>], spurious: bool, within: &impl Fn(&M)) -> Trace
where
    M: Machine,
    M::Input: Clone,
    M::Output: Debug,
{
    let mut rig = Rig::new(machine, seed);
    let mut trace = Trace::new();
    let mut note = |rig: &mut Rig<M>| {
        within(&rig.machine);
        let said = rig.outputs().iter().map(|o| format!("{o:?}")).collect();
        trace.push((rig.now, said, rig.machine.poll_timeout()));
    };
    for step in steps {
        let until = rig.now + step.wait;
        for _ in 0..step.splits {
            let piece = step.wait / (step.splits + 1);
            rig.advance(piece);
            let due = rig.machine.poll_timeout().is_some_and(|d| d.at <= rig.now);
            if spurious && !due {
                rig.timeout();
            }
        }
        rig.advance(until.since(rig.now));
        note(&mut rig);
        rig.handle(step.input.clone());
        note(&mut rig);
    }
    rig.advance(Duration::ZERO);
    let before = rig.wakes;
    rig.advance(Duration::from_secs(3_600));
    assert!(
        rig.wakes - before <= WAKES_PER_HOUR_MAX,
        "law 7: {} wake-ups in an hour without inputs, now for {:?}",
        rig.wakes - before,
        rig.machine.poll_timeout()
    );
    note(&mut rig);
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says `tick` every ten seconds once told to; `fault` plants one broken law.
    struct Ticker {
        at: Option<Instant>,
        fault: Fault,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        ActsEarly,
        NeverLater,
        Spins,
    }

    impl Machine for Ticker {
        type Input = ();
        type Output = &'static str;

        fn handle(&mut self, cx: &mut Cx<'_, &'static str>, (): ()) {
            self.at = Some(cx.now + Duration::from_secs(10));
        }

        fn handle_timeout(&mut self, cx: &mut Cx<'_, &'static str>) {
            let Some(at) = self.at else { return };
            if at > cx.now && self.fault != Fault::ActsEarly {
                return;
            }
            cx.emit("tick");
            self.at = match self.fault {
                Fault::None | Fault::ActsEarly => Some(cx.now + Duration::from_secs(10)),
                Fault::NeverLater => Some(cx.now),
                Fault::Spins => Some(cx.now + Duration::from_millis(20)),
            };
        }

        fn poll_timeout(&self) -> Option<Deadline> {
            self.at.map(|at| Deadline::new(at, "tick"))
        }
    }

    #[test]
    fn a_lawful_machine_passes() {
        check(|| Ticker { at: None, fault: Fault::None }, Just(()));
    }

    #[test]
    #[should_panic(expected = "laws 1 and 6")]
    fn a_machine_that_acts_before_its_deadline_is_caught() {
        check(|| Ticker { at: None, fault: Fault::ActsEarly }, Just(()));
    }

    #[test]
    #[should_panic(expected = "law 2")]
    fn a_machine_that_wants_to_be_woken_now_again_is_caught() {
        check(|| Ticker { at: None, fault: Fault::NeverLater }, Just(()));
    }

    #[test]
    #[should_panic(expected = "law 7")]
    fn a_machine_that_never_rests_is_caught() {
        check(|| Ticker { at: None, fault: Fault::Spins }, Just(()));
    }
}
