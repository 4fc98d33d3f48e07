//! `bench docker`: a container as a job of this node, against the same container by bare calls of the engine.
//!
//! The image is made here, of one file: a program of a few bytes that ends at once, so nothing has to be pulled and
//! nothing but the engine and the node is measured. Both kinds take turns: *bare* is create, start, wait and remove with the same
//! confinement as far as the engine enforces it at creation; *job* is a job of the port, from the request to the told end.

use super::engine::{Rig, channel, order};
use super::figures::Sample;
use crate::cli::Failure;
use crate::ports::blobs::BlobStore;
use crate::ports::docker::client::Client;
use crate::ports::docker::{DockerConfig, DockerPort};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions,
    StartContainerOptions, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use remote_network_core::port::{Image, Program};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The image's name; removed at the end.
const IMAGE: &str = "remote-network-bench";
const PROGRAM: &str = "/end";
const MEMORY_BYTES: u64 = 16 << 20;

/// Runs it and tells the figures.
pub fn run(root: &Path, jobs: u16) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(Client::connect("")).map_err(|e| Failure::work(e.to_string()))?;
    runtime.block_on(import(&client.docker))?;
    let image = runtime.block_on(client.image(IMAGE)).map_err(|e| Failure::work(e.to_string()))?;
    let store = BlobStore::open(root, 1 << 40).map_err(|e| Failure::work(e.to_string()))?;
    let config = DockerConfig {
        node: format!("bench-{}", std::process::id()),
        host: String::new(),
        scratch_dir: root.join("docker"),
        running_max: 1,
    };
    let (to_core, events) = channel();
    let port = DockerPort::start(config, Arc::new(store), to_core)?;
    let mut rig = Rig::new(move |job, request| port.submit(job, request), events);
    let ours = Image { name: IMAGE.into(), id: image.id, entrypoint: vec![PROGRAM.into()], workdir: None };
    let mut order = order(Program::Image(Box::new(ours)), 1 << 20);
    order.limits.memory_bytes = MEMORY_BYTES;

    let (mut job, mut raw) = (Sample::default(), Sample::default());
    // The first of each kind is not counted.
    for n in 0..=jobs {
        let course = rig.run(order.clone())?;
        let took = runtime.block_on(bare(&client.docker))?;
        if n > 0 {
            job.add(course.exited);
            raw.add(took);
        }
    }
    drop(rig);
    // Whatever still uses it keeps it: then it is there for the next time.
    let _kept = runtime.block_on(client.docker.remove_image(IMAGE, None::<RemoveImageOptions>, None));
    let over = job.percentile_us(50).zip(raw.percentile_us(50)).map(|(j, r)| j as i64 - r as i64);
    Ok(json!({
        "bench": "docker",
        "engine": client.about,
        "jobs": jobs,
        "job_p50_us": job.percentile_us(50),
        "job_p99_us": job.percentile_us(99),
        "bare_p50_us": raw.percentile_us(50),
        "bare_p99_us": raw.percentile_us(99),
        "over_bare_p50_us": over,
    }))
}

fn said(e: bollard::errors::Error) -> Failure {
    Failure::work(format!("the Docker engine says: {e}"))
}

/// Create, start, wait, remove.
async fn bare(docker: &Docker) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let host = HostConfig {
        network_mode: Some("none".to_owned()),
        readonly_rootfs: Some(true),
        memory: i64::try_from(MEMORY_BYTES).ok(),
        cap_drop: Some(vec!["ALL".to_owned()]),
        ..HostConfig::default()
    };
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        entrypoint: Some(vec![PROGRAM.to_owned()]),
        network_disabled: Some(true),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let made = docker.create_container(None::<CreateContainerOptions>, body).await.map_err(said)?;
    docker.start_container(&made.id, None::<StartContainerOptions>).await.map_err(said)?;
    let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
    let ended = docker.wait_container(&made.id, Some(options)).next().await;
    ended.ok_or_else(|| Failure::work("the container's end is not told"))?.map_err(said)?;
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    docker.remove_container(&made.id, Some(options)).await.map_err(said)?;
    Ok(begun.elapsed())
}

async fn import(docker: &Docker) -> Result<(), Failure> {
    let program = program().ok_or_else(|| Failure::work("no program is known for this processor"))?;
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(IMAGE).tag("latest").build();
    let tar = bollard::body_full(tar(PROGRAM.trim_start_matches('/'), &program).into());
    let mut steps = std::pin::pin!(docker.create_image(Some(options), Some(tar), None));
    while let Some(step) = steps.next().await {
        step.map_err(said)?;
    }
    Ok(())
}

/// An ELF file that ends with code 0: a header, one segment, three instructions.
fn program() -> Option<Vec<u8>> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let (machine, code): (u16, &[u8]) = match std::env::consts::ARCH {
        // mov eax, 60; xor edi, edi; syscall
        "x86_64" => (62, &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]),
        // mov x8, #93; mov x0, #0; svc #0
        "aarch64" => (183, &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0, 0xd4]),
        _ => return None,
    };
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let words = |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let longs = |elf: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    halves(&mut elf, &[2, machine]);
    words(&mut elf, &[1]);
    longs(&mut elf, &[BASE + HEADERS, 64, 0]);
    words(&mut elf, &[0]);
    halves(&mut elf, &[64, 56, 1, 64, 0, 0]);
    // The one segment: the whole file, to be read and executed.
    words(&mut elf, &[1, 5]);
    let len = HEADERS + code.len() as u64;
    longs(&mut elf, &[0, BASE, BASE, len, len, 0x1000]);
    elf.extend_from_slice(code);
    Some(elf)
}

/// A tar archive (ustar) of one executable file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut head = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = head.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    if let Some(to) = head.get_mut(148..156) {
        to.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let mut tar = head.to_vec();
    tar.extend_from_slice(content);
    // To whole blocks, and two empty ones for the end.
    tar.resize(tar.len().next_multiple_of(512) + 1_024, 0);
    tar
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    #[test]
    fn the_program_runs_and_ends_well() {
        let Some(program) = program() else { return };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("end");
        std::fs::write(&file, program).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(Command::new(&file).status().unwrap().code(), Some(0));
    }

    #[test]
    fn the_archive_is_one_that_tar_reads() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        std::fs::write(&file, tar("end", b"content")).unwrap();
        let listed = Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
        let words = String::from_utf8(listed.stdout).unwrap();
        assert!(words.starts_with("-rwxr-xr-x") && words.trim_end().ends_with("end"), "{words}");
    }
}
