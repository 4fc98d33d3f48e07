//! What happens next: guests end, wants are answered, messages arrive or do not, time passes, until all is at rest.

use super::world::World;
use super::{FAILS, RUN, keypair, source, written};
use crate::id::{Digest, JobId};
use crate::job::executor;
use crate::job::message::Message;
use crate::job::requester;
use crate::machine::{Cx, Machine};
use crate::port::{EngineEvent, EngineExit, EngineOutput, EngineReport, ExitClass, Port, Usage};
use crate::time::Duration;
use bytes::Bytes;

impl World {
    pub(super) fn exited(
        &mut self,
        n: usize,
        job: JobId,
        class: ExitClass,
        outputs: Vec<EngineOutput>,
        carried: Option<Vec<Bytes>>,
    ) {
        let exit = EngineExit {
            class,
            code: i32::from(class == ExitClass::User),
            detail: String::new(),
            usage: Usage::default(),
            outputs,
            carried,
        };
        let report = EngineReport { job, event: EngineEvent::Exited(exit) };
        self.tell_executor(n, executor::Input::Engine(report));
    }

    /// A guest ends. What it computes is a function of its inputs.
    pub(super) fn finish_a_guest(&mut self, n: usize) {
        let Some((job, guest)) = self.engines[n].pop_first() else { return };
        let inputs: Vec<(&Port, Digest)> = guest.inputs.iter().map(|i| (&i.port, i.digest)).collect();
        let mut args = guest.args.clone();
        args.extend(self.wrong.get(&n).map(|word| (*word).to_owned()));
        let bytes: Vec<Bytes> = guest.outputs.iter().map(|p| written(&args, &inputs, p)).collect();
        let output = |(port, bytes): (&Port, &Bytes)| EngineOutput {
            port: port.clone(),
            digest: Digest::of(bytes),
            len: bytes.len() as u64,
            truncated: false,
        };
        let outputs = guest.outputs.iter().zip(&bytes).map(output).collect();
        // Some take so long that they are kept on disk.
        let carried = guest.carried.is_some() && !self.rng.chance_ppm(self.heavy_ppm);
        let class = if !self.calm && self.rng.chance_ppm(60_000) {
            ExitClass::Infra
        } else if guest.args.iter().any(|a| a == FAILS) {
            ExitClass::User
        } else {
            ExitClass::Success
        };
        self.exited(n, job, class, outputs, carried.then_some(bytes));
    }

    pub(super) fn answer_a_want(&mut self, n: usize) {
        let fails = !self.calm && self.rng.chance_ppm(150_000);
        if let Some((digest, claim)) = self.wants[n].pop_first() {
            self.tell_executor(
                n,
                if fails {
                    executor::Input::FetchFailed {
                        digest,
                        claim,
                        tree: false,
                        why: "lost".into(),
                        hopeless: false,
                    }
                } else {
                    executor::Input::Fetched { digest, claim, tree: false, new: true }
                },
            );
        } else if let Some(digest) = self.requester_reads.pop_first() {
            self.tell_requester(if fails {
                requester::Input::Unread { digest, why: "lost".into() }
            } else {
                requester::Input::Read { digest, bytes: source(&digest) }
            });
        } else if let Some(digest) = self.requester_wants.pop_first() {
            if fails {
                self.tell_requester(requester::Input::FetchFailed { digest, why: "lost".into() });
            } else {
                self.here.insert(digest);
                self.tell_requester(requester::Input::Fetched(digest));
            }
        }
    }

    pub(super) fn answer_reads(&mut self) {
        while let Some(digest) = self.requester_reads.pop_first() {
            self.tell_requester(requester::Input::Read { digest, bytes: source(&digest) });
        }
    }

    pub(super) fn deliver(&mut self, at: usize, keep: bool) {
        let (n, to_executor, frame) = if keep { self.wire[at].clone() } else { self.wire.remove(at) };
        let message = Box::new(Message::from_frame(&frame).unwrap());
        if to_executor {
            let peer = keypair(0).public();
            self.tell_executor(n, executor::Input::Message { peer, message });
        } else {
            self.tell_requester(requester::Input::Message { peer: Self::peer(n), message });
        }
    }

    /// Whether this executor has a guest to end, or somebody an object to wait for.
    pub(super) fn answers_something(&self, n: usize) -> bool {
        let asks = !self.requester_wants.is_empty() || !self.requester_reads.is_empty();
        asks || !self.engines[n].is_empty() || !self.wants[n].is_empty()
    }

    /// All messages arrive, and those that they cause.
    pub(super) fn deliver_all(&mut self) {
        while !self.wire.is_empty() {
            self.deliver(0, false);
        }
    }

    pub(super) fn pass(&mut self, by: Duration) {
        let until = self.now + by;
        loop {
            let machines = self.executors.iter().map(|x| x.poll_timeout());
            let next = machines.chain([self.requester.poll_timeout()]).flatten().map(|d| d.at).min();
            self.now = match next {
                Some(at) if at <= until => at.max(self.now),
                Some(_) | None => {
                    self.now = until;
                    return;
                }
            };
            let (now, wall) = (self.now, self.wall());
            let mut out = Vec::new();
            self.requester.handle_timeout(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out));
            self.requester_said(out);
            for n in 0..self.executors.len() {
                let mut out = Vec::new();
                self.executors[n].handle_timeout(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out));
                self.executor_said(n, out);
            }
        }
    }

    /// One step of a hostile world.
    pub(super) fn step(&mut self) {
        let n = usize::try_from(self.rng.below(self.executors.len() as u64)).unwrap();
        let at = usize::try_from(self.rng.below(self.wire.len() as u64)).unwrap();
        let some = !self.wire.is_empty();
        match self.rng.below(100) {
            0..40 if some => self.deliver(at, false),
            40..46 if some => self.deliver(at, true),
            46..50 if some => drop(self.wire.remove(at)),
            50..62 => self.finish_a_guest(n),
            62..76 => self.answer_a_want(n),
            76..82 => self.disconnect(n),
            82..90 => self.connect(n),
            90 => self.crash_requester(),
            91 => self.crash_executor(n, false),
            92 => {
                let amnesia = self.rng.chance_ppm(300_000);
                self.crash_executor(n, amnesia);
            }
            93 => self.fuse = Some(self.rng.below(4)),
            94 => self.pass(Duration::from_secs(40)),
            _ => {
                let ms = self.rng.below(3_000);
                self.pass(Duration::from_millis(ms));
            }
        }
    }

    /// Faults are over: everything must come to rest.
    pub(super) fn settle(&mut self) {
        self.fuse = None;
        self.calmly();
    }

    /// Without faults but for that of the fuse, until all is at rest.
    pub(super) fn calmly(&mut self) {
        self.calm = true;
        for _ in 0..600 {
            for n in 0..self.executors.len() {
                self.connect(n);
            }
            while !self.wire.is_empty() || self.busy() {
                while !self.wire.is_empty() {
                    self.deliver(0, false);
                }
                for n in 0..self.executors.len() {
                    self.finish_a_guest(n);
                    self.answer_a_want(n);
                }
                // Results come as fast as inputs, or executors hold them for long and look through them at every step.
                while !self.compared
                    && let Some(digest) = self.requester_wants.pop_first()
                {
                    self.here.insert(digest);
                    self.tell_requester(requester::Input::Fetched(digest));
                }
            }
            if self.at_rest() {
                return;
            }
            self.pass(Duration::from_secs(2));
        }
    }

    pub(super) fn busy(&self) -> bool {
        let some = |n: usize| !self.engines[n].is_empty() || !self.wants[n].is_empty();
        let asks = !self.requester_wants.is_empty() || !self.requester_reads.is_empty();
        (0..self.executors.len()).any(some) || asks
    }

    pub(super) fn at_rest(&self) -> bool {
        let over = self.requester.run(&RUN).is_none_or(|r| r.ended.is_some());
        over && self.executors.iter().all(|x| x.held().is_empty())
    }
}
