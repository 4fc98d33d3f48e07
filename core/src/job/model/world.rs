//! The world: machines, their journals, the wire between them, and what becomes of everything they say.

use super::checks::Seen;
use super::{RUN, diamond, keypair, services};
use crate::codec::Frame;
use crate::command::{Reply, RunState};
use crate::id::{CommandId, Digest, JobId, Lsn, PublicKey, RunId};
use crate::job::carried::is_what_was_said;
use crate::job::executor::{self, Executor, ExecutorConfig};
use crate::job::message::{Addressee, Message};
use crate::job::receipt::Receipt;
use crate::job::requester::{self, Requester};
use crate::job::run::{Run, RunRecord};
use crate::job::signed::Signed;
use crate::job::workflow::Workflow;
use crate::machine::{Cx, Machine};
use crate::port::{EngineJob, EngineRequest, ExitClass, Program};
use crate::rng::Rng;
use crate::store::{Room, StoreOp, StoredRecord};
use crate::time::{Instant, UnixTime};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

const RUNNING_MAX: usize = 2;

#[derive(Default)]
pub(super) struct Journal(pub(super) Vec<StoredRecord>);

impl Journal {
    pub(super) fn apply(&mut self, op: StoreOp) {
        let lsn = Lsn(self.0.len() as u64 + 1);
        match op {
            StoreOp::Append { subject, record } => self.0.push(StoredRecord { lsn, subject, record }),
            StoreOp::Replace { subject, record } => {
                self.0.retain(|r| r.subject != subject);
                self.0.push(StoredRecord { lsn, subject, record });
            }
            StoreOp::Forget { subject } => self.0.retain(|r| r.subject != subject),
        }
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) machine_rng: Rng,
    pub(super) now: Instant,
    pub(super) requester: Requester,
    pub(super) requester_journal: Journal,
    /// What the requester's records fold to, each decoded from its bytes as it was written.
    pub(super) folded: BTreeMap<RunId, Run>,
    /// What the requester's records have said so far.
    pub(super) seen: Seen,
    /// Records written, of all machines.
    pub(super) written: u64,
    /// After how many steps of an executor its journal is replayed and compared.
    pub(super) replay_every: u64,
    pub(super) steps: u64,
    /// Whether everything is compared after every step: its cost is that of the whole state.
    pub(super) compared: bool,
    pub(super) executors: Vec<Executor>,
    pub(super) executor_journals: Vec<Journal>,
    pub(super) incarnations: Vec<u64>,
    pub(super) up: Vec<bool>,
    /// (executor, to the executor?, frame)
    pub(super) wire: Vec<(usize, bool, Frame)>,
    pub(super) engines: Vec<BTreeMap<JobId, EngineJob>>,
    pub(super) wants: Vec<BTreeSet<(Digest, executor::Claim)>>,
    pub(super) requester_wants: BTreeSet<Digest>,
    pub(super) requester_reads: BTreeSet<Digest>,
    /// Guests of light jobs that leave their outputs in the store all the same.
    pub(super) heavy_ppm: u32,
    pub(super) here: BTreeSet<Digest>,
    /// Crash a machine when it has written so many more records.
    pub(super) fuse: Option<u64>,
    pub(super) liar: Option<usize>,
    /// Executors whose guests write something else, signed and well formed: those with the same word collude.
    pub(super) wrong: BTreeMap<usize, &'static str>,
    pub(super) last_receipt: Option<Signed<Receipt>>,
    pub(super) calm: bool,
    pub(super) replies: Vec<Reply>,
    pub(super) disagreements: usize,
}

pub(super) fn restore_requester(journal: &Journal) -> Requester {
    Requester::restore(keypair(0), &journal.0).unwrap()
}

pub(super) fn restore_executor(n: usize, incarnation: u64, journal: &Journal) -> Executor {
    let config = ExecutorConfig {
        keypair: keypair(n + 1),
        incarnation,
        engine: "model 1".into(),
        accept_jobs: true,
        running_max: RUNNING_MAX,
    };
    Executor::restore(config, &journal.0).unwrap()
}

impl World {
    /// Two executors.
    pub(super) fn new(seed: u64, liar: Option<usize>) -> World {
        World::with(seed, 2, liar)
    }

    pub(super) fn with(seed: u64, executors: usize, liar: Option<usize>) -> World {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut w = World {
            rng: Rng::derive(&bytes, "world"),
            machine_rng: Rng::derive(&bytes, "machines"),
            now: Instant::from_millis(1),
            requester: restore_requester(&Journal::default()),
            requester_journal: Journal::default(),
            folded: BTreeMap::new(),
            seen: Seen::default(),
            written: 0,
            replay_every: 1,
            steps: 0,
            compared: true,
            executors: Vec::new(),
            executor_journals: Vec::new(),
            incarnations: vec![1; executors],
            up: vec![false; executors],
            wire: Vec::new(),
            engines: vec![BTreeMap::new(); executors],
            wants: vec![BTreeSet::new(); executors],
            requester_wants: BTreeSet::new(),
            requester_reads: BTreeSet::new(),
            heavy_ppm: if seed.is_multiple_of(4) { 1_000_000 } else { 200_000 },
            here: BTreeSet::new(),
            fuse: None,
            liar,
            wrong: BTreeMap::new(),
            last_receipt: None,
            calm: false,
            replies: Vec::new(),
            disagreements: 0,
        };
        for n in 0..executors {
            w.executors.push(restore_executor(n, 1, &Journal::default()));
            w.executor_journals.push(Journal::default());
        }
        w.wake_requester();
        for n in 0..executors {
            w.wake_executor(n);
            w.connect(n);
        }
        w
    }

    pub(super) fn peer(n: usize) -> PublicKey {
        keypair(n + 1).public()
    }

    pub(super) fn wall(&self) -> UnixTime {
        UnixTime::from_millis(1_700_000_000_000 + self.now.as_millis())
    }

    pub(super) fn wake_requester(&mut self) {
        for n in 0..self.executors.len() {
            let services = Some(services().into());
            self.tell_requester(requester::Input::Offers { peer: Self::peer(n), services });
        }
        self.tell_requester(requester::Input::Started);
    }

    pub(super) fn wake_executor(&mut self, n: usize) {
        self.tell_executor(n, executor::Input::Services(services()));
        self.tell_executor(n, executor::Input::Started);
    }

    pub(super) fn connect(&mut self, n: usize) {
        if !self.up[n] {
            self.up[n] = true;
            self.tell_requester(requester::Input::PeerUp(Self::peer(n)));
            self.tell_executor(n, executor::Input::PeerUp(keypair(0).public()));
        }
    }

    pub(super) fn disconnect(&mut self, n: usize) {
        if self.up[n] {
            self.up[n] = false;
            self.wire.retain(|(at, ..)| *at != n);
            self.tell_requester(requester::Input::PeerDown(Self::peer(n)));
            self.tell_executor(n, executor::Input::PeerDown(keypair(0).public()));
        }
    }

    pub(super) fn tell_requester(&mut self, input: requester::Input) {
        let mut out = Vec::new();
        let (now, wall) = (self.now, self.wall());
        self.requester.handle(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out), input);
        self.requester_said(out);
    }

    pub(super) fn tell_executor(&mut self, n: usize, input: executor::Input) {
        let mut out = Vec::new();
        let (now, wall) = (self.now, self.wall());
        self.executors[n].handle(&mut Cx::new(now, wall, &mut self.machine_rng, &mut out), input);
        self.executor_said(n, out);
    }

    /// Whether the fuse blows at this record.
    pub(super) fn burns(&mut self) -> bool {
        match self.fuse.as_mut() {
            Some(0) => {
                self.fuse = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    pub(super) fn requester_said(&mut self, out: Vec<requester::Output>) {
        for o in out {
            match o {
                requester::Output::Persist(op) => {
                    if let StoreOp::Append { subject, record } = &op {
                        let id = RunId::from_slice(&subject.key).unwrap();
                        let (record, at) = RunRecord::decode(record).unwrap();
                        self.check_record(&record);
                        self.folded.entry(id).or_insert_with(|| Run::new(id)).evolve(record, at);
                    }
                    self.written += 1;
                    self.requester_journal.apply(op);
                    if self.burns() {
                        return self.crash_requester();
                    }
                }
                requester::Output::Send { peer, frame } => {
                    let n = (0..self.executors.len()).find(|n| Self::peer(*n) == peer).unwrap();
                    if self.compared {
                        let message = Message::from_frame(&frame).unwrap();
                        assert_eq!(message.addressee(), Addressee::Executor);
                        self.check_sent(&message);
                    }
                    self.wire.push((n, true, frame));
                }
                requester::Output::Want { digest, .. } => {
                    assert!(self.requester_wants.insert(digest), "asked twice without an answer");
                }
                requester::Output::Keep { digest, bytes } => {
                    assert_eq!(Digest::of(&bytes), digest);
                    assert!(self.requester_wants.insert(digest), "asked twice without an answer");
                }
                requester::Output::Read { digest, .. } => {
                    self.requester_reads.insert(digest);
                }
                requester::Output::Remove { digest } => {
                    assert!(!self.requester.holds(&digest), "given up, but needed");
                    self.here.remove(&digest);
                }
                requester::Output::Reply { reply, .. } => self.replies.push(*reply),
                requester::Output::Disagreement { .. } => self.disagreements += 1,
                requester::Output::NeedPeer(_)
                | requester::Output::Grant { .. }
                | requester::Output::Revoke { .. }
                | requester::Output::RunChanged(_)
                | requester::Output::TaskChanged { .. } => {}
            }
        }
        if self.compared {
            assert_eq!(&self.folded, self.requester.runs(), "replay");
            self.requester.check_derived();
        }
    }

    pub(super) fn executor_said(&mut self, n: usize, out: Vec<executor::Output>) {
        for o in out {
            match o {
                executor::Output::Persist(op) => {
                    assert_eq!(op.subject().room, Room::Job);
                    self.written += 1;
                    if self.compared {
                        self.executor_journals[n].apply(op);
                    }
                    if self.burns() {
                        return self.crash_executor(n, false);
                    }
                }
                executor::Output::Send { frame, .. } => {
                    let frame = self.perhaps_lie(n, frame);
                    self.wire.push((n, false, frame));
                }
                executor::Output::Want { digest, claim, .. } => {
                    assert!(self.wants[n].insert((digest, claim)), "asked twice without an answer");
                }
                executor::Output::Engine { job, request: EngineRequest::Start(engine_job) } => {
                    let durable = self.executors[n].durable();
                    assert!(!durable.tombstones.contains_key(&job), "a job that must not start was started");
                    if let Some(carried) = &engine_job.carried {
                        let said = engine_job.inputs.iter().map(|i| (i.digest, i.len));
                        assert!(is_what_was_said(carried, said), "other inputs than were ordered");
                    }
                    self.engines[n].insert(job, engine_job);
                    assert!(self.engines[n].len() <= RUNNING_MAX, "more guests than may run at once");
                }
                executor::Output::Engine { job, request: EngineRequest::Stop { .. } } => {
                    if self.engines[n].remove(&job).is_some() {
                        self.exited(n, job, ExitClass::Cancelled, Vec::new(), None);
                    }
                }
                executor::Output::Sweep { keep } => {
                    assert!(
                        keep.iter().all(|job| self.engines[n].contains_key(job)),
                        "kept, but not started"
                    );
                }
                // No dataset is offered in this world.
                executor::Output::Ended(_)
                | executor::Output::Grant { .. }
                | executor::Output::Revoke { .. }
                | executor::Output::Remove { .. } => {}
            }
        }
        self.steps += 1;
        if !self.compared || !self.steps.is_multiple_of(self.replay_every) {
            return;
        }
        let replayed = restore_executor(n, self.incarnations[n], &self.executor_journals[n]);
        assert_eq!(replayed.durable(), self.executors[n].durable(), "replay");
    }

    /// The liar answers with somebody's receipt, another order's, another executor's, or a result of its own making
    /// that is not for this order.
    pub(super) fn perhaps_lie(&mut self, n: usize, frame: Frame) -> Frame {
        let Ok(Message::SealedOffer { receipt, carried, salt }) = Message::from_frame(&frame) else {
            return frame;
        };
        let old = self.last_receipt.replace((*receipt).clone());
        if self.liar != Some(n) {
            return frame;
        }
        let honest: Receipt = (**receipt).clone();
        if carried.iter().flatten().next().is_some() && self.rng.chance_ppm(200_000) {
            let carried = carried.map(|c| vec![Bytes::from_static(b"evil"); c.len()]);
            return Message::SealedOffer { receipt, carried, salt }.to_frame();
        }
        if salt.is_some() && self.rng.chance_ppm(300_000) {
            // Another result than was pledged would need another salt.
            return Message::SealedOffer { receipt, carried, salt: Some([7; 32]) }.to_frame();
        }
        let forged = match (self.rng.below(4), old) {
            (0, Some(old)) if old.executor != honest.executor => old,
            (1, _) => {
                let other = keypair(9);
                Signed::sign(Receipt { executor: other.public(), ..honest }, &other)
            }
            (2, _) => Signed::sign(
                Receipt { program: Program::Wasm(Digest::of(b"evil")), ..honest },
                &keypair(n + 1),
            ),
            (..) => Signed::sign(Receipt { order: Digest::of(b"other"), ..honest }, &keypair(n + 1)),
        };
        // An old receipt may have other outputs than those of the frame it is put into.
        let carried = carried.filter(|c| c.len() == forged.outputs.len());
        Message::SealedOffer { receipt: Box::new(forged), carried, salt }.to_frame()
    }

    pub(super) fn crash_requester(&mut self) {
        for n in 0..self.executors.len() {
            if std::mem::take(&mut self.up[n]) {
                self.wire.retain(|(at, ..)| *at != n);
                self.tell_executor(n, executor::Input::PeerDown(keypair(0).public()));
            }
        }
        self.requester_wants.clear();
        self.requester_reads.clear();
        self.requester = restore_requester(&self.requester_journal);
        assert_eq!(&self.folded, self.requester.runs(), "the journal folds to what its records do");
        self.wake_requester();
    }

    pub(super) fn crash_executor(&mut self, n: usize, amnesia: bool) {
        if std::mem::take(&mut self.up[n]) {
            self.wire.retain(|(at, ..)| *at != n);
            self.tell_requester(requester::Input::PeerDown(Self::peer(n)));
        }
        self.engines[n].clear();
        self.wants[n].clear();
        if amnesia {
            self.executor_journals[n] = Journal::default();
            self.incarnations[n] += 1;
        }
        self.executors[n] = restore_executor(n, self.incarnations[n], &self.executor_journals[n]);
        self.wake_executor(n);
    }

    pub(super) fn submit(&mut self, peers: &[PublicKey]) {
        self.submit_workflow(&diamond(peers));
    }

    pub(super) fn submit_workflow(&mut self, workflow: &Workflow) {
        let workflow = Box::new(workflow.clone());
        self.tell_requester(requester::Input::Submit { id: CommandId(1), run: RUN, workflow });
    }

    pub(super) fn pause(&mut self, paused: bool) {
        self.tell_requester(requester::Input::Pause { id: CommandId(3), run: RUN, paused });
    }

    pub(super) fn state(&self) -> RunState {
        self.requester.run(&RUN).unwrap().state()
    }
}
