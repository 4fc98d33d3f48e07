//! What the kernel knows of a process (Linux's `/proc`); zero where it tells nothing.

use std::fs;

/// Ticks in a second of the processor times in `/proc` (`USER_HZ`, fixed in Linux's interface).
const TICKS_PER_SECOND: u64 = 100;

/// A figure in kB of `/proc/PID/status`, in bytes.
fn status_bytes(pid: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

/// The most memory that a process has ever had resident.
pub fn peak_rss(pid: u32) -> u64 {
    status_bytes(&pid.to_string(), "VmHWM")
}

/// The same of this process.
pub fn own_peak_rss() -> u64 {
    status_bytes("self", "VmHWM")
}

/// What this process has resident; its peak is counted from here on.
pub fn begin_own_peak() -> u64 {
    // Without the right to it the peak is an older one, and a growth too large: never too small.
    let _kept = fs::write("/proc/self/clear_refs", "5");
    status_bytes("self", "VmRSS")
}

/// The processes that this one has started and that live.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|t| fs::read_to_string(t.path().join("children")).ok())
        .flat_map(|c| c.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Processor time in milliseconds of a process, of its children that have ended, and of those that live.
pub fn cpu_ms(pid: u32) -> u64 {
    let one = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name before it is in brackets and may hold anything.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        // From the state on: utime is the 12th field, then stime, cutime, cstime (proc(5)).
        let times = rest.split_whitespace().skip(11).take(4);
        times.filter_map(|t| t.parse::<u64>().ok()).sum::<u64>()
    };
    let ticks: u64 = one(pid) + children(pid).into_iter().map(one).sum::<u64>();
    ticks * 1_000 / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_peak_above_it() {
        let now = begin_own_peak();
        let held = std::hint::black_box(vec![1u8; 8 << 20]);
        assert!(now > 0);
        assert!(own_peak_rss() >= now + (4 << 20), "{} of {now}, {}", own_peak_rss(), held.len());
        assert!(peak_rss(std::process::id()) > 0);
    }

    #[test]
    fn processor_time_is_counted() {
        let before = cpu_ms(std::process::id());
        let mut n = 0u64;
        while cpu_ms(std::process::id()) < before + 20 {
            n = std::hint::black_box(n + 1);
        }
        assert_eq!(cpu_ms(u32::MAX), 0, "no such process");
    }
}
