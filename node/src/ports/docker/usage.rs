//! What a container has used, read from its control group while it runs.
//!
//! The engine's own numbers come once a second and are gone with the container; a short job would have used nothing. The kernel's files
//! are read as often as the job is looked at: processor time so far, and the peak of memory. So a receipt says what was seen last,
//! at most a look before the end. Where the engine runs elsewhere, or the files are hidden, the numbers stay 0: unknown.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// Reads the files of one container.
#[derive(Debug)]
pub(super) struct Meter {
    processor: Source,
    memory: PathBuf,
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Peak memory in bytes.
    pub memory_bytes: u64,
}

#[derive(Debug)]
enum Source {
    /// Version 1: one number in nanoseconds.
    Nanoseconds(PathBuf),
    /// Version 2: `usage_usec N` among others.
    Statistics(PathBuf),
}

impl Meter {
    /// The files of the process `pid`, a container's first. `None` when its groups cannot be told apart from the machine's.
    pub fn of(pid: i64) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mut meter = Self::among(&groups, Path::new(GROUPS))?;
        meter.look();
        Some(meter)
    }

    fn among(groups: &str, mounted: &Path) -> Option<Self> {
        let lines = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            Some((parts.next()?, parts.next()?, parts.next()?.strip_prefix('/')?))
        });
        let plain = |path: &str| !path.is_empty() && path.split('/').all(|part| part != "..");
        let (mut processor, mut memory) = (None, None);
        for (_, controllers, path) in lines.filter(|(_, _, path)| plain(path)) {
            let below = |controller: &str, file: &str| mounted.join(controller).join(path).join(file);
            for controller in controllers.split(',') {
                match controller {
                    "cpuacct" => processor = Some(Source::Nanoseconds(below(controller, "cpuacct.usage"))),
                    "memory" => memory = Some(below(controller, "memory.max_usage_in_bytes")),
                    _ => {}
                }
            }
            if controllers.is_empty() && processor.is_none() {
                processor = Some(Source::Statistics(below("", "cpu.stat")));
                memory = memory.or_else(|| Some(below("", "memory.peak")));
            }
        }
        Some(Self { processor: processor?, memory: memory?, cpu_ns: 0, memory_bytes: 0 })
    }

    /// Looks again. What cannot be read any more stays as it was.
    pub fn look(&mut self) {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let cpu_ns = match &self.processor {
            Source::Nanoseconds(path) => number(path),
            Source::Statistics(path) => fs::read_to_string(path).ok().and_then(|text| {
                let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
                micros.trim().parse::<u64>().ok().map(|n| n.saturating_mul(1_000))
            }),
        };
        self.cpu_ns = self.cpu_ns.max(cpu_ns.unwrap_or_default());
        self.memory_bytes = self.memory_bytes.max(number(&self.memory).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_read_and_numbers_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cpuacct/docker/a/cpuacct.usage", "7000\n");
        write("memory/docker/a/memory.max_usage_in_bytes", "4096\n");
        let first = "9:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n";
        let mut meter = Meter::among(first, dir.path()).unwrap();
        meter.look();
        assert_eq!((meter.cpu_ns, meter.memory_bytes), (7_000, 4_096));
        fs::remove_dir_all(dir.path().join("cpuacct")).unwrap();
        write("memory/docker/a/memory.max_usage_in_bytes", "nonsense");
        meter.look();
        assert_eq!((meter.cpu_ns, meter.memory_bytes), (7_000, 4_096), "what was seen last");
        write("system.slice/docker-b.scope/cpu.stat", "nr 1\nusage_usec 12\nuser_usec 3\n");
        write("system.slice/docker-b.scope/memory.peak", "8192\n");
        let mut meter = Meter::among("0::/system.slice/docker-b.scope\n", dir.path()).unwrap();
        meter.look();
        assert_eq!((meter.cpu_ns, meter.memory_bytes), (12_000, 8_192));
    }

    #[test]
    fn the_machines_own_numbers_are_never_taken_for_a_containers() {
        for groups in [
            "",
            "0::/\n",
            "9:memory:/\n4:cpuacct:/\n",
            "0::/../..\n",
            "0::/a/../../b\n",
            "nonsense",
            "9:memory:/a\n",
        ] {
            assert!(Meter::among(groups, Path::new("/nowhere")).is_none(), "{groups:?}");
        }
    }
}
