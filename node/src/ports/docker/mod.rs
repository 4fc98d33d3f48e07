//! Containers (SPEC 6.3): the core's orders for images become containers of the machine's Docker engine.
//!
//! The engine is another program, which outlives this node: after `kill -9` of the node a container runs on. So everything about
//! a job is found again by its name, made of the node's key and the job's id, and by the node's label: a start of a job that has its container
//! goes on with it, its output read again from the beginning; one whose input may not have been written to its end is run anew
//! (`run`). What belongs to this node and to no job that goes on is removed ([`DockerPort::sweep`]).
//!
//! The rooms: `client` the way to the engine; `profile` and `seccomp` what a container may do; `run` one job, `usage` what it used;
//! `inspect` what an image says of itself; `image` how one comes that is not here. One thread with a runtime of its
//! own does it all; the engine is looked for when the first job needs it, and again when it was away.
//!
//! **Order.** [`DockerPort::submit`] never blocks. Every accepted start is answered by exactly one `Exited`, with its outputs
//! durable in the store before; a start of a job that waits or runs is ignored, and so is a stop of one that does neither.

pub mod client;
mod image;
pub mod inspect;
mod profile;
mod run;
mod seccomp;
mod usage;

use crate::ports::workdir::{EngineBlobs, exit_of};
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use client::{Client, DockerError, Found};
pub use image::Progress;
use remote_network_core::event::Event;
use remote_network_core::id::JobId;
use remote_network_core::limits::JOBS_MAX;
use remote_network_core::port::{EngineEvent, EngineExit, EngineJob, EngineReport, EngineRequest, ExitClass};
use run::Execution;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Requests that wait for the thread: a start and a stop of every job the core may hold.
const REQUESTS_MAX: usize = 2 * JOBS_MAX + 64;

/// Images that are pulled at once: more only share the same line.
const PULLS_MAX: usize = 2;
/// Pulls that are under way or wait for their turn.
const PULLS_LISTED_MAX: usize = 16;
/// News of a pull that wait for whoever asked; what does not fit is told by the next.
const NEWS_MAX: usize = 8;

/// Where and for whom containers run.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Names the node to the engine, which may serve several: its public key.
    pub node: String,
    /// Where the engine is; empty: by `DOCKER_HOST`, or at its usual place.
    pub host: String,
    /// Files of running jobs; made if missing.
    pub scratch_dir: PathBuf,
    /// Containers at once.
    pub running_max: usize,
}

enum Request {
    Start(JobId, Box<EngineJob>),
    Stop(JobId, Duration),
    Sweep(BTreeSet<JobId>),
    Image(String, oneshot::Sender<Result<Found, DockerError>>),
    About(oneshot::Sender<Result<String, DockerError>>),
    Pull(String, mpsc::Sender<Progress>, oneshot::Sender<Result<String, DockerError>>),
}

/// The port. Dropping it ends the thread; containers that run go on, as after a crash.
#[derive(Debug)]
pub struct DockerPort {
    requests: mpsc::Sender<Request>,
    events: async_channel::Sender<Event>,
    pulls: Pulls,
}

/// Pulls that are under way, by number.
type Pulls = Arc<std::sync::Mutex<BTreeMap<u64, Progress>>>;

/// Asks about images, from anywhere.
#[derive(Clone, Debug)]
pub struct DockerHandle {
    requests: mpsc::Sender<Request>,
    pulls: Pulls,
}

/// Takes a pull off the list, also when its caller's future is dropped.
struct Listed<'a>(&'a Pulls, u64);

impl Listed<'_> {
    fn set(&self, progress: Progress) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(self.1, progress);
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl DockerHandle {
    /// Asks nobody.
    #[cfg(test)]
    pub fn off() -> Self {
        Self { requests: mpsc::channel(1).0, pulls: Pulls::default() }
    }

    /// What the engine knows of an image.
    pub async fn image(&self, name: String) -> Result<Found, DockerError> {
        self.ask(|answer| Request::Image(name, answer)).await
    }

    /// What the engine is, for people.
    pub async fn about(&self) -> Result<String, DockerError> {
        self.ask(Request::About).await
    }

    /// Pulls an image; `tell` hears how far it is. Returns its name with the digest that came. A caller that goes away ends it.
    pub async fn pull(&self, name: String, mut tell: impl FnMut(Progress)) -> Result<String, DockerError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let listed = Listed(&self.pulls, NUMBER.fetch_add(1, Ordering::Relaxed));
        if self.pulls().len() >= PULLS_LISTED_MAX {
            return Err(DockerError::Registry(name, "too many images are pulled already".to_owned()));
        }
        listed.set(Progress { image: name.clone(), ..Progress::default() });
        let (news, mut told) = mpsc::channel(NEWS_MAX);
        let mut asked = std::pin::pin!(self.ask(|answer| Request::Pull(name, news, answer)));
        loop {
            tokio::select! {
                biased;
                Some(progress) = told.recv() => {
                    listed.set(progress.clone());
                    tell(progress);
                }
                answered = &mut asked => return answered,
            }
        }
    }

    /// How far the pulls are that are under way or wait for their turn.
    pub fn pulls(&self) -> Vec<Progress> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, DockerError>>) -> Request,
    ) -> Result<T, DockerError> {
        let (answer, answered) = oneshot::channel();
        let gone = || DockerError::Away("the node is about to stop".to_owned());
        self.requests.send(request(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl DockerPort {
    /// Starts the thread. Nothing is asked of an engine yet.
    pub fn start(
        config: DockerConfig,
        blobs: Arc<dyn EngineBlobs>,
        events: async_channel::Sender<Event>,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&config.scratch_dir)?;
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared {
            slots: Semaphore::new(config.running_max.max(1)),
            pulls: Semaphore::new(PULLS_MAX),
            config,
            blobs,
            events: events.clone(),
            client: Mutex::new(None),
        });
        std::thread::Builder::new()
            .name("docker".into())
            .spawn(move || runtime.block_on(serve(shared, inbox)))?;
        Ok(Self { requests, events, pulls: Pulls::default() })
    }

    /// For questions about images.
    pub fn handle(&self) -> DockerHandle {
        DockerHandle { requests: self.requests.clone(), pulls: self.pulls.clone() }
    }

    /// Takes a request. Never blocks.
    pub fn submit(&self, job: JobId, request: EngineRequest) {
        let (request, is_start) = match request {
            EngineRequest::Start(order) => (Request::Start(job, Box::new(order)), true),
            EngineRequest::Stop { grace } => (Request::Stop(job, grace), false),
        };
        if self.requests.try_send(request).is_err() && is_start {
            let exit = exit_of(ExitClass::Infra, "too many containers are asked for at once");
            let event = Event::Engine(EngineReport { job, event: EngineEvent::Exited(exit) });
            if let Err(async_channel::TrySendError::Full(event)) = self.events.try_send(event) {
                let events = self.events.clone();
                std::thread::spawn(move || drop(events.send_blocking(event)));
            }
        }
    }

    /// Removes what the engine has of other jobs of this node. Without an engine there is nothing to remove.
    pub fn sweep(&self, keep: Vec<JobId>) {
        if self.requests.try_send(Request::Sweep(keep.into_iter().collect())).is_err() {
            tracing::warn!("containers of ended jobs are not looked for: too much is asked for at once");
        }
    }
}

struct Shared {
    config: DockerConfig,
    slots: Semaphore,
    pulls: Semaphore,
    blobs: Arc<dyn EngineBlobs>,
    events: async_channel::Sender<Event>,
    client: Mutex<Option<Client>>,
}

impl Shared {
    /// The engine, looked for anew when it was away.
    async fn client(&self) -> Result<Client, DockerError> {
        let mut known = self.client.lock().await;
        if let Some(client) = &*known
            && client.is_there().await
        {
            return Ok(client.clone());
        }
        let fresh = Client::connect(&self.config.host).await;
        *known = fresh.as_ref().ok().cloned();
        fresh
    }

    async fn pull(&self, name: &str, news: &mpsc::Sender<Progress>) -> Result<String, DockerError> {
        let client = self.client().await?;
        let _turn = self.pulls.acquire().await.map_err(|e| DockerError::Away(e.to_string()))?;
        image::pull(&client, name, |progress| drop(news.try_send(progress))).await
    }

    async fn report(&self, job: JobId, event: EngineEvent) {
        let _core_is_gone = self.events.send(Event::Engine(EngineReport { job, event })).await;
    }

    async fn sweep(&self, keep: BTreeSet<JobId>) -> Result<(), DockerError> {
        self.sweep_files(&keep);
        let client = self.client().await?;
        let label = format!("{}={}", profile::LABEL_NODE, self.config.node);
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        for found in client.docker.list_containers(Some(all)).await? {
            let job = found.labels.as_ref().and_then(|l| l.get(profile::LABEL_JOB));
            let (Some(id), false) = (found.id, job.is_some_and(|j| keep.iter().any(|k| k.to_string() == *j)))
            else {
                continue;
            };
            tracing::info!(container = %id, "a container of an ended job is removed");
            let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            client.docker.remove_container(&id, Some(force)).await?;
        }
        Ok(())
    }

    fn sweep_files(&self, keep: &BTreeSet<JobId>) {
        let kept: BTreeSet<String> = keep.iter().map(|job| format!("job-{job}")).collect();
        for entry in std::fs::read_dir(&self.config.scratch_dir).into_iter().flatten().flatten() {
            if !kept.contains(&*entry.file_name().to_string_lossy())
                && let Err(e) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(dir = %entry.path().display(), error = %e, "a job's directory stays behind");
            }
        }
    }
}

/// The thread's life: ends when the port and all handles are gone.
async fn serve(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Request>) {
    let mut stops: BTreeMap<JobId, watch::Sender<Option<Duration>>> = BTreeMap::new();
    let mut jobs: JoinSet<EngineExit> = JoinSet::new();
    let mut tasks: HashMap<tokio::task::Id, JobId> = HashMap::new();
    let mut asides: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            request = inbox.recv() => match request {
                None => return,
                Some(Request::Start(job, order)) => {
                    if let std::collections::btree_map::Entry::Vacant(free) = stops.entry(job) {
                        let (stop, stopped) = watch::channel(None);
                        free.insert(stop);
                        let task = jobs.spawn(work(shared.clone(), job, *order, stopped));
                        tasks.insert(task.id(), job);
                    }
                }
                Some(Request::Stop(job, grace)) => {
                    if let Some(stop) = stops.get(&job) {
                        stop.send_replace(Some(grace));
                    }
                }
                Some(Request::Sweep(keep)) => {
                    let shared = shared.clone();
                    asides.spawn(async move {
                        if let Err(e) = shared.sweep(keep).await {
                            tracing::debug!(error = %e, "containers of ended jobs are not looked for");
                        }
                    });
                }
                Some(Request::Image(name, answer)) => {
                    let shared = shared.clone();
                    asides.spawn(async move {
                        let found = match shared.client().await {
                            Ok(client) => client.image(&name).await,
                            Err(e) => Err(e),
                        };
                        let _nobody_waits = answer.send(found);
                    });
                }
                Some(Request::Pull(name, news, mut answer)) => {
                    let shared = shared.clone();
                    asides.spawn(async move {
                        tokio::select! {
                            pulled = shared.pull(&name, &news) => drop(answer.send(pulled)),
                            () = answer.closed() => tracing::info!(image = %name, "a pull is given up"),
                        }
                    });
                }
                Some(Request::About(answer)) => {
                    let shared = shared.clone();
                    asides.spawn(async move {
                        let _nobody_waits = answer.send(shared.client().await.map(|c| c.about));
                    });
                }
            },
            Some(ended) = jobs.join_next_with_id() => {
                let (task, exit) = match ended {
                    Ok((task, exit)) => (task, exit),
                    Err(e) => (e.id(), exit_of(ExitClass::Infra, "the way to the Docker engine broke")),
                };
                if let Some(job) = tasks.remove(&task) {
                    stops.remove(&job);
                    shared.report(job, EngineEvent::Exited(exit)).await;
                }
            }
            Some(_) = asides.join_next() => {}
        }
    }
}

/// One job, from its turn to its end.
async fn work(
    shared: Arc<Shared>,
    job: JobId,
    order: EngineJob,
    mut stopped: watch::Receiver<Option<Duration>>,
) -> EngineExit {
    let slot = tokio::select! {
        slot = shared.slots.acquire() => slot,
        _ = stopped.wait_for(Option::is_some) => {
            return exit_of(ExitClass::Cancelled, "stopped before it started");
        }
    };
    match (slot, shared.client().await) {
        (Ok(_slot), Ok(client)) => Execution::new(&shared, client, job, &order, stopped).run().await,
        (Err(_), _) => exit_of(ExitClass::Infra, "the node is about to stop"),
        (Ok(_), Err(e)) => exit_of(ExitClass::Infra, &e.to_string()),
    }
}
