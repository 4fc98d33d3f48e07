//! An engine by itself: its port, a real object store, and the moments at which it says something.

use crate::cli::Failure;
use remote_network_core::event::Event;
use remote_network_core::id::{JobId, Keypair};
use remote_network_core::port::{
    EngineEvent, EngineExit, EngineJob, EngineLimits, EngineRequest, ExitClass, Port, Program,
};
use std::time::{Duration, Instant};

/// What an engine does not say within this it never says.
const PATIENCE: Duration = Duration::from_secs(600);
/// What an engine may have to say before somebody listens.
const EVENTS_MAX: usize = 64;

/// Hands requests to a port, and hears it.
pub struct Rig {
    submit: Box<dyn Fn(JobId, EngineRequest)>,
    events: async_channel::Receiver<Event>,
    jobs: u64,
}

/// One execution as its node sees it, each moment counted from the request.
pub struct Course {
    /// The guest starts.
    pub started: Duration,
    /// The end is told, all outputs durable.
    pub exited: Duration,
    /// How it ended.
    pub exit: EngineExit,
}

/// The channel of a port's words.
pub fn channel() -> (async_channel::Sender<Event>, async_channel::Receiver<Event>) {
    async_channel::bounded(EVENTS_MAX)
}

/// An order without arguments or inputs that keeps what it writes.
pub fn order(program: Program, output_bytes: u64) -> EngineJob {
    EngineJob {
        tenant: Keypair::from_seed(&[1; 32]).public(),
        program,
        paths: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        inputs: Vec::new(),
        outputs: vec![Port::Stdout, Port::Stderr],
        limits: EngineLimits { memory_bytes: 16 << 20, time_ms: 300_000, output_bytes },
        seed: [0; 32],
    }
}

impl Rig {
    /// For a port whose words come to `events`.
    pub fn new(
        submit: impl Fn(JobId, EngineRequest) + 'static,
        events: async_channel::Receiver<Event>,
    ) -> Self {
        Self { submit: Box::new(submit), events, jobs: 0 }
    }

    /// Starts a job without waiting for anything.
    pub fn start(&mut self, order: EngineJob) -> (JobId, Instant) {
        self.jobs += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.jobs.to_be_bytes());
        id[8..12].copy_from_slice(&std::process::id().to_be_bytes());
        let at = Instant::now();
        (self.submit)(JobId(id), EngineRequest::Start(order));
        (JobId(id), at)
    }

    /// Stops a job.
    pub fn stop(&self, job: JobId, grace: Duration) {
        (self.submit)(job, EngineRequest::Stop { grace });
    }

    /// The next word about a job.
    pub fn next(&self, job: JobId) -> Result<EngineEvent, Failure> {
        let heard = smol::block_on(smol::future::or(async { self.events.recv().await.ok() }, async {
            smol::Timer::after(PATIENCE).await;
            None
        }));
        match heard {
            Some(Event::Engine(report)) if report.job == job => Ok(report.event),
            Some(other) => Err(Failure::work(format!("the engine says something else: {other:?}"))),
            None => Err(Failure::work("the engine says nothing")),
        }
    }

    /// One job from its request to its end, which must be a success.
    pub fn run(&mut self, order: EngineJob) -> Result<Course, Failure> {
        let (job, at) = self.start(order);
        let mut started = None;
        loop {
            match self.next(job)? {
                EngineEvent::Started => started = Some(at.elapsed()),
                EngineEvent::Exited(exit) if exit.class == ExitClass::Success => {
                    let exited = at.elapsed();
                    return Ok(Course { started: started.unwrap_or(exited), exited, exit });
                }
                EngineEvent::Exited(exit) => {
                    return Err(Failure::work(format!("a job ended as {:?}: {}", exit.class, exit.detail)));
                }
            }
        }
    }
}
