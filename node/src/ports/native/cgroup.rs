//! Limits of a whole job, where this node may make control groups: memory, processes, processor.
//!
//! Limits of the kernel that count by process (`rlimit`) are no limits of a job, which may start as many as it likes. Control groups
//! count them together. Version 1 has a tree for each kind of limit, version 2 one tree for all; a machine may have both. Whatever of
//! it is there and may be written is used, below this node's own group; for the rest the limits by process take its place
//! ([`Walls`]), and the node's owner is told which it is.

use rustix::process::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Processes and threads of a job; as many as of a container.
pub(super) const PROCESSES_MAX: u64 = 256;
/// Of our own in the same group: `confine`, process 1 and its thread.
const OWN_PROCESSES: u64 = 3;
/// Memory of those, which is no fault of the program's.
const OWN_BYTES: u64 = 16 << 20;
/// Processor time in each [`PERIOD_US`] of real time: one processor.
const QUOTA_US: u64 = 100_000;
/// See [`QUOTA_US`].
const PERIOD_US: u64 = 100_000;
/// A group is not empty at once when its last process has ended.
const REMOVE_TRIES: u32 = 50;
/// Between two of them.
const REMOVE_AGAIN: Duration = Duration::from_millis(10);

/// Kinds of limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Controller {
    Memory,
    Processes,
    Processor,
    /// Counts processor time, in version 1 only.
    Account,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Processes, Self::Processor, Self::Account];

    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "pids",
            Self::Processor => "cpu",
            Self::Account => "cpuacct",
        }
    }
}

/// Where groups of jobs may be made.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Tree {
    controllers: Vec<Controller>,
    dir: PathBuf,
    unified: bool,
}

/// What this machine has of control groups. Dropping it removes the node's own, when those of all jobs are gone.
#[derive(Debug, Default)]
pub(super) struct Groups {
    trees: Vec<Tree>,
}

/// Which limits of a job no control group keeps, so that they have to be kept by process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Walls {
    /// Memory is limited together.
    pub memory: bool,
    /// Processes are.
    pub processes: bool,
    /// The processor is.
    pub processor: bool,
}

impl Walls {
    /// In words, for the node's owner.
    pub(super) fn words(self) -> String {
        let say = |there: bool, yes: &str, no: &str| if there { yes.to_owned() } else { no.to_owned() };
        format!(
            "{}; {}; {}",
            say(
                self.memory,
                "control group: memory",
                "memory only by process (no control group of memory can be written)"
            ),
            say(
                self.processes,
                "control group: processes",
                "processes only by user (no control group of pids can be written)"
            ),
            say(
                self.processor,
                "control group: one processor",
                "processors without a limit (no control group of cpu can be written)"
            ),
        )
    }
}

impl Groups {
    /// Finds the trees that can be written, makes this node's group `name` in each, and removes what an earlier life has left in it.
    pub(super) fn find(name: &str) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut trees = own_trees(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        trees.retain_mut(|tree| tree.prepare(name).is_ok() && !tree.controllers.is_empty());
        Self { trees }
    }

    /// What they limit.
    pub(super) fn walls(&self) -> Walls {
        let has = |c| self.trees.iter().any(|t| t.controllers.contains(&c));
        Walls {
            memory: has(Controller::Memory),
            processes: has(Controller::Processes),
            processor: has(Controller::Processor),
        }
    }

    /// Makes the groups of one job. A limit that cannot be written is an error: the words have been said already.
    pub(super) fn make(&self, job: &str, memory_bytes: u64) -> io::Result<Group> {
        let mut group = Group { dirs: Vec::new() };
        for tree in &self.trees {
            let dir = tree.dir.join(job);
            // What is left of an earlier life of the same job may still be about to end.
            remove(&dir)?;
            fs::create_dir(&dir)?;
            group.dirs.push((tree.clone(), dir.clone()));
            for controller in &tree.controllers {
                tree.limit(*controller, &dir, memory_bytes)?;
            }
        }
        Ok(group)
    }
}

impl Tree {
    fn prepare(&mut self, name: &str) -> io::Result<()> {
        if self.unified {
            self.hand_down()?;
        }
        if self.controllers.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.dir.push(name);
        match fs::create_dir(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Ok(()) | Err(_) => {}
        }
        for left in fs::read_dir(&self.dir)?.flatten() {
            if left.file_type().is_ok_and(|t| t.is_dir()) {
                // One that still has a process is of a node that lives: then neither takes it from the other.
                let _ = fs::remove_dir(left.path());
            }
        }
        if self.unified {
            self.hand_down()?;
        }
        // Whoever may make groups may still not be allowed to put processes into them.
        rustix::fs::access(self.dir.join("cgroup.procs"), rustix::fs::Access::WRITE_OK)?;
        Ok(())
    }

    /// Version 2 lets a group's children be limited only by what the group hands down; one with processes of its own may hand down nothing.
    fn hand_down(&mut self) -> io::Result<()> {
        let file = self.dir.join("cgroup.subtree_control");
        let there = fs::read_to_string(self.dir.join("cgroup.controllers"))?;
        self.controllers.retain(|c| there.split_whitespace().any(|word| word == c.name()));
        for controller in &self.controllers {
            let _ = fs::write(&file, format!("+{}", controller.name()));
        }
        let down = fs::read_to_string(&file)?;
        self.controllers.retain(|c| down.split_whitespace().any(|word| word == c.name()));
        Ok(())
    }

    fn limit(&self, controller: Controller, dir: &Path, memory_bytes: u64) -> io::Result<()> {
        let write = |file: &str, value: String| fs::write(dir.join(file), value);
        let memory = memory_bytes.saturating_add(OWN_BYTES).min(i64::MAX.unsigned_abs());
        match (controller, self.unified) {
            (Controller::Memory, false) => {
                write("memory.limit_in_bytes", memory.to_string())?;
                // Only where swap is counted at all.
                let _ = write("memory.memsw.limit_in_bytes", memory.to_string());
                Ok(())
            }
            (Controller::Memory, true) => {
                write("memory.max", memory.to_string())?;
                let _ = write("memory.swap.max", "0".to_owned());
                Ok(())
            }
            (Controller::Processes, _) => write("pids.max", (PROCESSES_MAX + OWN_PROCESSES).to_string()),
            (Controller::Processor, false) => {
                write("cpu.cfs_period_us", PERIOD_US.to_string())?;
                write("cpu.cfs_quota_us", QUOTA_US.to_string())
            }
            (Controller::Processor, true) => write("cpu.max", format!("{QUOTA_US} {PERIOD_US}")),
            (Controller::Account, _) => Ok(()),
        }
    }
}

/// The groups of one job. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Group {
    dirs: Vec<(Tree, PathBuf)>,
}

impl Group {
    /// Puts a process in, and with it all that come of it.
    pub(super) fn take(&self, process: Pid) -> io::Result<()> {
        let pid = process.as_raw_nonzero().to_string();
        self.dirs.iter().try_for_each(|(_, dir)| fs::write(dir.join("cgroup.procs"), &pid))
    }

    fn read(&self, controller: Controller, old: &str, unified: &str) -> Option<String> {
        let (tree, dir) = self.dirs.iter().find(|(t, _)| t.controllers.contains(&controller))?;
        fs::read_to_string(dir.join(if tree.unified { unified } else { old })).ok()
    }

    /// The most memory that all had together, what they had read and written of files included.
    pub(super) fn memory_peak(&self) -> Option<u64> {
        self.read(Controller::Memory, "memory.max_usage_in_bytes", "memory.peak")?.trim().parse().ok()
    }

    /// Processor time of all, in nanoseconds.
    pub(super) fn processor_ns(&self) -> Option<u64> {
        if let Some(text) = self.read(Controller::Account, "cpuacct.usage", "cpuacct.usage") {
            return text.trim().parse().ok();
        }
        let text = self.read(Controller::Processor, "cpu.stat", "cpu.stat")?;
        Some(number(&text, "usage_usec")?.saturating_mul(1_000))
    }

    /// Whether a process was killed because there was no memory left for all.
    pub(super) fn out_of_memory(&self) -> bool {
        let text = self.read(Controller::Memory, "memory.oom_control", "memory.events");
        text.and_then(|t| number(&t, "oom_kill")).is_some_and(|n| n > 0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for (_, dir) in &self.dirs {
            if let Err(e) = remove(dir) {
                tracing::warn!(dir = %dir.display(), error = %e, "a job's control group stays behind");
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for tree in &self.trees {
            // One with a job in it is removed by the next life.
            let _ = fs::remove_dir(&tree.dir);
        }
    }
}

/// Removes a group, waiting a while for the last of its processes to be gone.
fn remove(dir: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if tries >= REMOVE_TRIES => return Err(e),
            Err(_) => {
                tries += 1;
                std::thread::sleep(REMOVE_AGAIN);
            }
        }
    }
}

/// The number after a word, in lines of a word and a number.
fn number(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Where this process is in each tree, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_trees(mountinfo: &str, cgroup: &str) -> Vec<Tree> {
    let mut trees = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ').skip(3);
        let (Some(root), Some(point)) = (before.next(), before.next()) else { continue };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        let unified = match kind {
            Some("cgroup") => false,
            Some("cgroup2") => true,
            _ => continue,
        };
        let controllers: Vec<Controller> = match unified {
            // What of it is here shows in the tree itself.
            true => Controller::ALL.into_iter().filter(|c| *c != Controller::Account).collect(),
            false => {
                Controller::ALL.into_iter().filter(|c| options.split(',').any(|o| o == c.name())).collect()
            }
        };
        let own = cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
            let here = match unified {
                true => number == "0" && names.is_empty(),
                false => controllers.first().is_some_and(|c| names.split(',').any(|n| n == c.name())),
            };
            here.then_some(path)
        });
        let Some(own) = own else { continue };
        // A mount may show a part of the tree only.
        let below = if root == "/" { Some(own) } else { own.strip_prefix(root) };
        let Some(below) = below.filter(|b| !b.contains("..")) else { continue };
        let dir = Path::new(point).join(below.trim_start_matches('/'));
        if !controllers.is_empty() {
            trees.push(Tree { controllers, dir, unified });
        }
    }
    trees
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
29 23 0:25 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 23 0:27 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
32 23 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 23 8:1 / / rw - ext4 /dev/sda1 rw
";
    const OWN: &str = "9:memory:/a/b\n8:cpu,cpuacct:/\n7:pids:/docker/x/y\n6:freezer:/\n0::/user.slice/z\n";

    #[test]
    fn the_trees_of_both_versions_are_found_at_this_process_own_place() {
        let trees = own_trees(MOUNTS, OWN);
        let found: Vec<(&Path, usize, bool)> =
            trees.iter().map(|t| (t.dir.as_path(), t.controllers.len(), t.unified)).collect();
        let wanted = [
            ("/sys/fs/cgroup/memory/a/b", 1, false),
            ("/sys/fs/cgroup/cpu,cpuacct", 2, false),
            ("/sys/fs/cgroup/pids/y", 1, false),
            ("/sys/fs/cgroup/unified/user.slice/z", 3, true),
        ];
        assert_eq!(found, wanted.map(|(dir, controllers, unified)| (Path::new(dir), controllers, unified)));
        assert!(own_trees(MOUNTS, "").is_empty() && own_trees("rubbish\n - cgroup", OWN).is_empty());
        assert!(own_trees(MOUNTS, "9:memory:/../x\n").is_empty(), "a group outside of what is seen here");
    }

    #[test]
    fn a_tree_that_cannot_be_written_or_hands_nothing_down_limits_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tree = |unified| Tree { controllers: vec![Controller::Memory], dir: dir.path().into(), unified };
        assert!(tree(false).prepare("ours").is_err(), "a directory that is no control group");
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        let mut v2 = tree(true);
        v2.hand_down().unwrap();
        assert!(v2.controllers.is_empty(), "what the group does not show as handed down is not");
        fs::write(dir.path().join("cgroup.controllers"), "cpu").unwrap();
        let mut v2 = tree(true);
        v2.hand_down().unwrap();
        assert!(v2.controllers.is_empty(), "nor is what it does not have");
    }

    #[test]
    fn words_say_what_is_not_limited_together() {
        let all = Walls { memory: true, processes: true, processor: true };
        assert!(!all.words().contains("only"));
        let none = Walls { memory: false, processes: false, processor: false }.words();
        assert!(none.contains("memory only by process") && none.contains("processors without a limit"));
    }

    #[test]
    fn numbers_are_found_by_their_word() {
        assert_eq!(number("low 1\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(number("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(number("", "oom_kill"), None);
    }
}
