//! What a container of a job may do: as little as possible, the same on every machine.
//!
//! No network, no capabilities, no new privileges, a root file system that cannot be written, a user of no rights, bounded memory,
//! processes, files and scratch space, of the kernel's calls a list ([`super::seccomp`]), and of the host's files the job's own
//! mounts only. One function, so that a test can show all of it.

use crate::ports::workdir::Staged;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
};
use remote_network_core::id::JobId;
use remote_network_core::port::{EngineJob, Image, MountPath, Port};
use std::collections::HashMap;
use std::path::Path;

/// Who a job is: nobody.
const USER: &str = "65534:65534";
/// Processes and threads of a job.
const PIDS_MAX: i64 = 256;
/// Open files of a process.
const FILES_MAX: i64 = 1_024;
/// Processors of a job, in billionths.
const NANO_CPUS: i64 = 1_000_000_000;
/// Bytes of `/tmp`.
const TMP: &str = "rw,noexec,nosuid,nodev,size=67108864";
/// The node that a container belongs to.
pub(super) const LABEL_NODE: &str = "rn.node";
/// The job that it runs.
pub(super) const LABEL_JOB: &str = "rn.job";

/// What a container of this job is made of; with a list of system calls of our own where the engine takes one.
pub(super) fn body(
    node: &str,
    job: JobId,
    order: &EngineJob,
    image: &Image,
    dir: &Path,
    mounts: &[Staged],
    seccomp: bool,
) -> ContainerCreateBody {
    let stdin = takes_stdin(order);
    ContainerCreateBody {
        user: Some(USER.to_owned()),
        attach_stdin: Some(stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(stdin),
        stdin_once: Some(stdin),
        tty: Some(false),
        env: Some(order.env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
        cmd: (!order.args.is_empty()).then(|| order.args.clone()),
        entrypoint: (!image.entrypoint.is_empty()).then(|| image.entrypoint.clone()),
        working_dir: image.workdir.clone(),
        image: Some(image.id_text()),
        network_disabled: Some(true),
        labels: Some(HashMap::from([
            (LABEL_NODE.to_owned(), node.to_owned()),
            (LABEL_JOB.to_owned(), job.to_string()),
        ])),
        host_config: Some(host(order, dir, mounts, seccomp)),
        ..ContainerCreateBody::default()
    }
}

fn host(order: &EngineJob, dir: &Path, mounts: &[Staged], seccomp: bool) -> HostConfig {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let memory = signed(order.limits.memory_bytes);
    let limit = |name: &str, most: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    };
    let mount = |m: &Staged| Mount {
        target: Some(guest_path(&order.paths, &m.name)),
        source: Some(m.dir(dir).to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(!m.writable),
        ..Mount::default()
    };
    let mut walls = vec!["no-new-privileges:true".to_owned()];
    if seccomp {
        walls.push(format!("seccomp={}", super::seccomp::profile()));
    }
    HostConfig {
        memory: Some(memory),
        memory_swap: Some(memory),
        nano_cpus: Some(NANO_CPUS),
        pids_limit: Some(PIDS_MAX),
        // A file that passes the limit of an output is none that could be kept.
        ulimits: Some(vec![
            limit("nofile", FILES_MAX),
            limit("core", 0),
            limit("fsize", signed(order.limits.output_bytes)),
        ]),
        oom_score_adj: Some(500),
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("none".to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(walls),
        readonly_rootfs: Some(true),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), TMP.to_owned())])),
        mounts: Some(mounts.iter().map(mount).collect()),
        init: Some(true),
        auto_remove: Some(false),
        // The driver that keeps bytes as they are. It never rotates: the job ends at the limit of its outputs.
        log_config: Some(HostConfigLogConfig {
            typ: Some("local".to_owned()),
            config: Some(
                [("max-size", "1000g"), ("max-file", "1"), ("compress", "false")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
            ),
        }),
        ..HostConfig::default()
    }
}

/// Where a mount lies in the guest.
fn guest_path(paths: &[MountPath], name: &str) -> String {
    let elsewhere = paths.iter().find(|m| m.name == name).and_then(|m| m.path.clone());
    elsewhere.unwrap_or_else(|| format!("/{name}"))
}

/// Whether a working directory is a plain place. Below `/proc` it may be a descriptor that the engine's runtime left
/// open, and with it the host's root (CVE-2024-21626); nobody works there.
pub(super) fn plain_workdir(path: &str) -> bool {
    let clean: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    !clean.contains(&"..") && !clean.first().is_some_and(|top| ["proc", "sys", "dev"].contains(top))
}

/// Whether something is written to its standard input.
pub(super) fn takes_stdin(order: &EngineJob) -> bool {
    order.inputs.iter().any(|i| i.port == Port::Stdin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::id::Digest;
    use remote_network_core::port::Layout;
    use remote_network_core::port::{EngineInput, EngineLimits, Program};

    fn order() -> EngineJob {
        EngineJob {
            tenant: remote_network_core::id::Keypair::from_seed(&[1; 32]).public(),
            program: Program::Wasm(Digest([0; 32])),
            paths: vec![MountPath {
                name: "in".into(),
                path: Some("/data/in".into()),
                layout: Layout::Files,
            }],
            args: vec!["-v".into()],
            env: vec![("A".into(), "b=c".into())],
            inputs: vec![EngineInput { port: Port::Stdin, digest: Digest([0; 32]), len: 0 }],
            outputs: vec![Port::Stdout, Port::Mount("out".into())],
            limits: EngineLimits { memory_bytes: 64 << 20, time_ms: 1, output_bytes: 1 << 20 },
            carried: None,
            seed: [0; 32],
        }
    }

    #[test]
    fn a_job_has_no_network_no_rights_and_no_files_but_its_own() {
        let image = Image {
            name: "tool".into(),
            id: [1; 32],
            entrypoint: vec!["/bin/tool".into()],
            workdir: Some("/work".into()),
        };
        let order = EngineJob { program: Program::Image(Box::new(image.clone())), ..order() };
        let mounts =
            [("in", false), ("out", true)].map(|(name, writable)| Staged::new(&order, name.into(), writable));
        let body = body("node", JobId([2; 16]), &order, &image, Path::new("/scratch/job"), &mounts, true);
        let json = serde_json::to_value(&body).unwrap();
        let host = &json["HostConfig"];
        assert_eq!(json["User"], "65534:65534");
        assert_eq!(json["Image"], format!("sha256:{}", "01".repeat(32)));
        assert_eq!(json["Entrypoint"], serde_json::json!(["/bin/tool"]));
        assert_eq!(json["Env"], serde_json::json!(["A=b=c"]));
        assert_eq!(
            (&json["OpenStdin"], &json["StdinOnce"], &json["Tty"]),
            (&true.into(), &true.into(), &false.into())
        );
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        let walls = host["SecurityOpt"].as_array().unwrap();
        assert_eq!(walls[0], "no-new-privileges:true");
        assert!(walls[1].as_str().unwrap().starts_with("seccomp={\"archMap\"") && walls.len() == 2);
        assert_eq!(host["ReadonlyRootfs"], true);
        assert_eq!((&host["Memory"], &host["MemorySwap"]), (&(64 << 20).into(), &(64 << 20).into()));
        assert_eq!(host["PidsLimit"], 256);
        assert_eq!(host["IpcMode"], "none");
        for open in ["Privileged", "CapAdd", "Devices", "Binds", "VolumesFrom", "PidMode", "UsernsMode"] {
            assert!(host[open].is_null(), "{open}");
        }
        let all = host["Mounts"].as_array().unwrap();
        assert_eq!((&all[0]["Target"], &all[0]["ReadOnly"]), (&"/data/in".into(), &true.into()));
        assert_eq!((&all[1]["Target"], &all[1]["ReadOnly"]), (&"/out".into(), &false.into()));
        assert!(all.iter().all(|m| m["Source"].as_str().unwrap().starts_with("/scratch/job/")));
        assert!(!takes_stdin(&EngineJob { inputs: Vec::new(), ..order }));
    }

    /// Guest paths of every odd shape.
    fn odd_path(random: &mut impl FnMut() -> u64) -> String {
        const PARTS: [&str; 24] = [
            "",
            ".",
            "..",
            "...",
            "a",
            "etc",
            "proc",
            "sys",
            "dev",
            "self",
            "fd",
            "root",
            "x y",
            "\u{e4}",
            "\0",
            "\n",
            ":ro",
            ",source=/etc",
            "%2e%2e",
            "\\",
            "~",
            "$HOME",
            "\u{202e}",
            "\u{2025}",
        ];
        let mut path = String::new();
        for _ in 0..random() % 8 {
            path.push_str(if random().is_multiple_of(8) { "" } else { "/" });
            path.push_str(PARTS[(random() % PARTS.len() as u64) as usize]);
        }
        path
    }

    #[test]
    fn whatever_path_a_mount_is_given_its_source_is_in_the_directory_of_its_job() {
        let mut state = 7u64;
        let mut random = move || {
            // Vigna's splitmix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let tries = std::env::var("MOUNT_PATHS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
        let (dir, mut order) = (Path::new("/scratch/job"), order());
        let (mut valid, mut names) = (0, 0);
        for _ in 0..tries {
            let (path, name) = (odd_path(&mut random), odd_path(&mut random));
            // What the core lets through, and what it does not: the source must not depend on either.
            valid += usize::from(remote_network_core::service::program::valid_mount_path(&path));
            order.paths = vec![MountPath { name: "in".into(), path: Some(path), layout: Layout::Files }];
            let staged = Staged::new(&order, "in".into(), random().is_multiple_of(2));
            let mounts = host(&order, dir, std::slice::from_ref(&staged), false).mounts.unwrap();
            let source = Path::new(mounts[0].source.as_ref().unwrap());
            let below = if staged.writable { "/scratch/job/w/mnt" } else { "/scratch/job/r/mnt" };
            assert_eq!((source.parent(), source.file_name()), (Some(Path::new(below)), Some("in".as_ref())));
            // A name is part of the source, so what is laid out takes plain ones only.
            order.outputs = vec![Port::Mount(name.clone())];
            let plain = crate::ports::workdir::stage::names_a_place(&order);
            names += usize::from(plain);
            assert!(!plain || (!name.contains(['/', '\0']) && name != "." && name != ".."), "{name:?}");
        }
        assert!(valid > tries / 100 && names > 0, "{valid} paths and {names} names of {tries} are plain");
    }

    #[test]
    fn nobody_works_below_proc() {
        for good in ["", "/", "/work", "/data/proc", "/process", "relative"] {
            assert!(plain_workdir(good), "{good}");
        }
        for bad in [
            "/proc",
            "/proc/self/fd/7",
            "//proc/1",
            "/./proc",
            "/a/../proc/self/fd/8",
            "proc/self",
            "/dev/fd",
            "/sys/",
        ] {
            assert!(!plain_workdir(bad), "{bad}");
        }
    }
}
