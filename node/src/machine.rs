//! What this machine has, in one line: for the node's record and catalogue, so that others know what could run here.
//!
//! Read once, at the start: processors as the system lets this process use them, memory as the kernel counts it, free space
//! where the node keeps its objects, and graphics processors as PCI devices. A machine that cannot be asked has nothing.

use remote_network_core::dht::record::MachineSummary;
use std::path::Path;

/// PCI base class of display controllers.
const DISPLAY: &str = "0x03";
/// Vendors of what computes; the framebuffer of a server's management board is no GPU.
const VENDORS: [(&str, &str); 3] = [("0x10de", "nvidia"), ("0x1002", "amd"), ("0x8086", "intel")];

/// The summary of this machine.
pub fn summary(data_dir: &Path, docker: bool) -> MachineSummary {
    let (gpus, gpu_vendor) = gpus(Path::new("/sys/bus/pci/devices"));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let disk = rustix::fs::statvfs(data_dir).map_or(0, |v| v.f_bavail.saturating_mul(v.f_frsize));
    MachineSummary {
        arch: std::env::consts::ARCH.to_owned(),
        os: std::env::consts::OS.to_owned(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        ram_mib: ram_mib(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        disk_gib: u32::try_from(disk >> 30).unwrap_or(u32::MAX),
        gpus,
        gpu_vendor,
        docker,
        wasm: true,
    }
}

/// `MemTotal` of `/proc/meminfo` in MiB.
fn ram_mib(meminfo: &str) -> u32 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0);
    u32::try_from(kib >> 10).unwrap_or(u32::MAX)
}

/// How many, and of whom: of several vendors the one that [`VENDORS`] names first, for there is one word for it.
fn gpus(devices: &Path) -> (u32, String) {
    let read = |path: &Path, name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    let displays = std::fs::read_dir(devices).into_iter().flatten().flatten().map(|d| d.path());
    let vendors: Vec<String> = displays
        .filter(|d| read(d, "class").starts_with(DISPLAY))
        .map(|d| read(&d, "vendor").trim().to_owned())
        .collect();
    let of = |id: &str| u32::try_from(vendors.iter().filter(|v| *v == id).count()).unwrap_or(u32::MAX);
    let first = VENDORS.into_iter().map(|(id, name)| (of(id), name)).find(|(n, _)| *n > 0);
    first.map_or((0, String::new()), |(n, name)| (n, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        assert_eq!(ram_mib("MemTotal:        8029692 kB\nMemFree: 1 kB\n"), 7_841);
        assert_eq!(ram_mib(""), 0);
        assert_eq!(ram_mib("MemTotal: lots"), 0);
    }

    #[test]
    fn graphics_processors_are_counted_and_management_boards_are_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let device = |name: &str, class: &str, vendor: &str| {
            let at = dir.path().join(name);
            std::fs::create_dir(&at).expect("made");
            std::fs::write(at.join("class"), class).expect("written");
            std::fs::write(at.join("vendor"), vendor).expect("written");
        };
        assert_eq!(gpus(dir.path()), (0, String::new()));
        device("0000:00:02.0", "0x030000\n", "0x8086\n");
        device("0000:01:00.0", "0x030200\n", "0x10de\n");
        device("0000:02:00.0", "0x030200\n", "0x10de\n");
        device("0000:03:00.0", "0x030000\n", "0x1a03\n");
        device("0000:04:00.0", "0x020000\n", "0x10de\n");
        assert_eq!(gpus(dir.path()), (2, "nvidia".to_owned()));
        assert_eq!(gpus(&dir.path().join("none")), (0, String::new()));
    }

    #[test]
    fn this_machine_has_something() {
        let here = summary(Path::new("/"), false);
        assert!(here.cpus > 0 && !here.arch.is_empty() && here.wasm && !here.docker);
    }
}
