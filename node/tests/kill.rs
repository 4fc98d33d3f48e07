//! `kill -9` of any process at any moment: requester, executors and seeds of the DHT, one or two at once, also while they
//! start. Started again on their data directories, they bring every run to its right end: nothing acknowledged is lost,
//! and every task is committed exactly once.
//!
//! The moments follow from a seed that is printed; `KILL_SEED` repeats it (the machine's own timing is not repeated).

// A crate of tests, helpers included: here a panic is a finding.
#![allow(clippy::unwrap_used)]

#[path = "docker/busybox.rs"]
mod busybox;
mod network;

use network::words::{Texts, finished, judge, offer_all, summary};
use network::{Node, Plan, free_udp_ports, wait_for};
use remote_network_core::rng::Rng;
use remote_network_node::failpoints::{POINTS, Whose};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Kill points in all.
const KILLS: usize = 100;
const NODES: usize = 4;
const SEEDS: usize = 3;
/// Tasks: two a file, and one.
const FILES: usize = 12;
/// However the processes were killed, after the last time a run ends within this.
const RUN_ENDS_WITHIN: Duration = Duration::from_secs(120);
/// A worker notices the end of its node.
const WORKERS_GONE_WITHIN: Duration = Duration::from_secs(10);

/// The processes, and what has become known of their work.
struct World {
    rng: Rng,
    nodes: Vec<Option<Node>>,
    plans: Vec<Plan>,
    kills: Vec<String>,
    /// Receipts seen, by run and task: acknowledged results.
    receipts: BTreeMap<(String, String), Vec<u8>>,
}

impl World {
    fn start(root: &Path, seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut plans = Plan::network(root, NODES, SEEDS);
        for (plan, port) in plans.iter_mut().zip(free_udp_ports(NODES)) {
            plan.quic_port = port;
        }
        let starting: Vec<_> = plans.iter().map(Plan::spawn).collect();
        let nodes = starting.into_iter().map(|s| Some(s.ready())).collect();
        let rng = Rng::from_seed(bytes);
        Self { rng, nodes, plans, kills: Vec::new(), receipts: BTreeMap::new() }
    }

    fn node(&self, n: usize) -> &Node {
        self.nodes[n].as_ref().unwrap()
    }

    /// The random part of a moment: up to `max_ms`, short ones as likely as long ones.
    fn pause(&mut self, max_ms: u64) {
        let scale = self.rng.below(max_ms).max(1);
        std::thread::sleep(Duration::from_millis(self.rng.below(scale + 1)));
    }

    /// Kills one node, or two at once, and starts them again; now and then one of them is killed while it starts.
    fn strike(&mut self, run: &str) {
        let first = self.rng.below(NODES as u64) as usize;
        let mut victims = vec![first];
        if self.rng.below(4) == 0 {
            victims.push((first + 1 + self.rng.below(NODES as u64 - 1) as usize) % NODES);
        }
        let at = self.node(0).api.get(&format!("/runs/{run}"));
        let at = at
            .map_or_else(|e| e.to_string(), |v| format!("{} of {}", v["tasks_committed"], v["tasks_total"]));
        let mut workers = Vec::new();
        for &n in &victims {
            workers.extend(self.node(n).workers());
        }
        let dying: Vec<Node> = victims.iter().map(|&n| self.nodes[n].take().unwrap()).collect();
        for node in dying {
            node.kill();
        }
        for &n in &victims {
            self.kills.push(format!("node {} at {at}", n + 1));
        }
        if self.rng.below(3) == 0 {
            self.pause(300);
        }
        if self.rng.below(5) == 0 {
            let n = victims[0];
            let starting = self.plans[n].spawn();
            self.pause(120);
            starting.kill();
            self.kills.push(format!("node {} at its start", n + 1));
        }
        let starting: Vec<_> = victims.iter().map(|&n| (n, self.again(n).spawn())).collect();
        for (n, s) in starting {
            self.nodes[n] = Some(s.ready());
        }
        wait_for("end of the workers of killed nodes", WORKERS_GONE_WITHIN, || {
            let left: Vec<&u32> = workers.iter().filter(|p| is_alive(**p)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left")) }
        });
    }

    /// How a node is started again: mostly where it was, as people's nodes are, now and then at another QUIC port.
    fn again(&mut self, n: usize) -> Plan {
        if self.rng.below(12) == 0 {
            self.plans[n].quic_port = free_udp_ports(1)[0];
        }
        self.plans[n].clone()
    }

    /// Looks at the run and remembers the receipts it shows; those seen before must be the very same.
    fn look(&mut self, run: &str) -> Option<Value> {
        let api = self.node(0).api.clone();
        let view = api.get(&format!("/runs/{run}")).ok()?;
        for task in view["tasks"].as_array()? {
            let id = task["id"].as_str()?;
            let seen = self.receipts.get(&(run.to_owned(), id.to_owned()));
            // A task that failed and is tried again shows the receipt of its failure, too.
            if task["state"] == "committed" {
                let receipt = api.bytes(&format!("/runs/{run}/tasks/{id}/receipt")).unwrap();
                assert!(seen.is_none_or(|s| *s == receipt), "{id} of {run} was committed a second time");
                self.receipts.insert((run.to_owned(), id.to_owned()), receipt);
            } else {
                assert!(seen.is_none(), "the receipt of {id} of {run} is lost: {task}");
            }
        }
        Some(view)
    }

    /// Submits the workflow; in every third run the requester is killed while it is asked.
    fn submit(&mut self, run: &str, workflow: &Path) {
        let file = workflow.display().to_string();
        let plan = self.plans[0].clone();
        let args = ["workflow", "run", &file, "--detach", "--run-id", run].map(str::to_owned);
        if self.rng.below(3) == 0 {
            let asking = {
                let (plan, args) = (plan.clone(), args.clone());
                std::thread::spawn(move || plan.cli(&args.each_ref().map(String::as_str)))
            };
            self.pause(150);
            self.nodes[0].take().unwrap().kill();
            self.kills.push("node 1 while it is asked".into());
            let said = asking.join().unwrap();
            self.nodes[0] = Some(plan.start());
            if said.code == 0 {
                // Acknowledged: it is there, without being asked again.
                self.node(0).api.get(&format!("/runs/{run}")).unwrap();
                return;
            }
            assert!(matches!(said.code, 3 | 4), "{said:?}");
        }
        plan.cli(&args.each_ref().map(String::as_str)).ok();
    }
}

fn is_alive(pid: u32) -> bool {
    // A zombie waits for its new parent only.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

fn seed() -> u64 {
    let given = std::env::var("KILL_SEED").ok().map(|s| s.parse().unwrap());
    given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64)
}

#[test]
fn acknowledged_work_survives_kill_9_of_any_node_at_any_moment() {
    let seed = seed();
    eprintln!("KILL_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::start(dir.path(), seed);
    offer_all([world.node(1), world.node(2), world.node(3)]);
    let executors = [1, 2, 3].map(|n| world.node(n).key.clone());
    let texts = Texts::write(&dir.path().join("texts"), FILES, 4_000, &mut world.rng);
    let workflow: PathBuf = dir.path().join("top-words.yaml");
    texts.workflow(&workflow, &executors);

    let mut runs = Vec::new();
    while world.kills.len() < KILLS {
        let run = format!("{:032x}", u128::from(seed) << 64 | runs.len() as u128);
        world.submit(&run, &workflow);
        let started = Instant::now();
        let strikes = 4 + world.rng.below(8);
        let (mut struck, mut done) = (0, 0);
        while struck < strikes {
            // A moment at random: after some more progress, or soon if there is none.
            let (goal, patience) = (done + world.rng.below(7), world.rng.below(1_500));
            let until = Instant::now() + Duration::from_millis(patience);
            let terminal = loop {
                let view = world.look(&run);
                done = view.as_ref().and_then(|v| v["tasks_committed"].as_u64()).unwrap_or(done);
                let terminal = view.is_some_and(|v| v["terminal"] == true);
                if terminal || done >= goal || Instant::now() >= until {
                    break terminal;
                }
            };
            if terminal {
                break;
            }
            world.pause(40);
            world.strike(&run);
            struck += 1;
        }
        let quiet = Instant::now();
        finished(world.node(0), &run, RUN_ENDS_WITHIN);
        let view = world.look(&run).unwrap();
        eprintln!(
            "run {} after {struck} strikes: {:?}, {:?} of it in peace: {}",
            runs.len(),
            started.elapsed(),
            quiet.elapsed(),
            summary(&view)
        );
        judge(world.node(0), &view, &texts);
        runs.push(run);
    }

    // The requester tells of all of it after one more restart, and so do its receipts.
    world.nodes[0].take().unwrap().kill();
    world.nodes[0] = Some(world.plans[0].start());
    for run in &runs {
        let view = world.look(run).unwrap();
        assert_eq!(judge(world.node(0), &view, &texts).len(), texts.tasks());
    }
    let listed = world.node(0).api.get("/runs").unwrap();
    assert_eq!(listed["runs"].as_array().unwrap().len(), runs.len());
    eprintln!("{} kills in {} runs: {}", world.kills.len(), runs.len(), world.kills.join("; "));
}

#[test]
fn a_node_that_dies_at_any_named_point_of_its_work_costs_nothing() {
    let image = busybox::import().inspect_err(|why| busybox::skip(why)).ok();
    let mut args = vec!["bench", "kill", "--kills", "0", "--points"];
    if let Some(id) = &image {
        args.extend(["--image", id.as_str()]);
    }
    let said = network::run(&args).ok();
    eprintln!("{}", said.stderr);
    let figures: Value = serde_json::from_str(said.stdout.lines().last().unwrap()).unwrap();
    let points = POINTS.iter().filter(|p| image.is_some() || p.whose != Whose::Docker).count();
    assert_eq!(figures["points"], points, "{figures}");
    assert_eq!(figures["unreached"], serde_json::json!([]));
    for what in ["lost", "doubled", "orphans"] {
        assert_eq!(figures[what], 0, "{figures}");
    }
}
