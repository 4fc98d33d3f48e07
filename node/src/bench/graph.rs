//! The work of `bench workflow`: a guest that is as small as one can be and still depends on all it is given, and graphs of it.
//!
//! Each task hashes its argument, which is its number, and then its input (FNV-1a, 64 bits), and writes the eight bytes. So
//! all outputs differ, no task can be spared, and the results can be worked out here in no time: a run that lost, swapped or
//! invented an output is found out.

use crate::cli::args::Shape;
use remote_network_core::id::{Digest, PublicKey};
use remote_network_core::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use remote_network_core::port::Port;

/// What the guest is called as a service.
pub const SERVICE: &str = "bench-hash";
/// Tasks of one layer.
const LAYER: usize = 100;
/// The layer before is read at the task's own place and so far to the right.
const STRIDE: usize = 7;
/// Results of a wide graph that are kept: enough to see that they are right, too few to measure their transfer.
const WIDE_KEPT: usize = 100;
const SOURCE: &str = "source";
const SINK: &str = "sink";

/// The guest.
pub const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $h (mut i64) (i64.const 0xcbf29ce484222325))
  (func $mix (param $at i32) (param $len i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (global.set $h (i64.mul
        (i64.xor (global.get $h) (i64.load8_u (local.get $at))) (i64.const 0x100000001b3)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next))))
  (func (export "_start")
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 64) (i32.const 1024)))
    (call $mix (i32.const 1024) (i32.load (i32.const 4)))
    (loop $more
      (i32.store (i32.const 16) (i32.const 65536))
      (i32.store (i32.const 20) (i32.const 65536))
      (drop (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
      (call $mix (i32.const 65536) (i32.load (i32.const 24)))
      (br_if $more (i32.load (i32.const 24))))
    (i64.store (i32.const 32) (global.get $h))
    (i32.store (i32.const 16) (i32.const 32))
    (i32.store (i32.const 20) (i32.const 8))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))"#;

/// What the guest writes for an argument and an input.
fn hash(argument: &str, input: &[u8]) -> [u8; 8] {
    let seen = [b"service\0", argument.as_bytes(), b"\0", input].concat();
    let fnv = |h: u64, byte: &u8| (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    seen.iter().fold(0xcbf2_9ce4_8422_2325, fnv).to_le_bytes()
}

/// A graph: which tasks each one reads, in order. Producers come before their consumers.
pub struct Graph {
    inputs: Vec<Vec<usize>>,
    kept: Vec<usize>,
}

impl Graph {
    /// `tasks` tasks, at least one.
    pub fn new(shape: Shape, tasks: usize) -> Self {
        let layer_of = |n: usize| (n / LAYER) * LAYER;
        let inputs: Vec<Vec<usize>> = (0..tasks)
            .map(|n| match shape {
                Shape::Chain => n.checked_sub(1).into_iter().collect(),
                Shape::Wide => Vec::new(),
                Shape::Layered if n < LAYER => Vec::new(),
                Shape::Layered => {
                    let before = layer_of(n) - LAYER;
                    let place = n % LAYER;
                    vec![before + place, before + (place + STRIDE) % LAYER]
                }
            })
            .collect();
        let kept = match shape {
            Shape::Chain => (tasks - 1..tasks).collect(),
            Shape::Wide => (0..tasks.min(WIDE_KEPT)).collect(),
            Shape::Layered => (layer_of(tasks - 1)..tasks).collect(),
        };
        Self { inputs, kept }
    }

    /// What each task reads.
    pub fn inputs(&self) -> &[Vec<usize>] {
        &self.inputs
    }

    /// The workflow, its tasks at these peers in turn. Tasks that read no other read the source.
    pub fn workflow(&self, source: &ObjectRef, peers: &[PublicKey]) -> Workflow {
        let mut workflow = Workflow { name: "bench".to_owned(), ..Workflow::default() };
        let edge = |from: &str, to: &str| Edge {
            from: End { node: from.to_owned(), port: Port::Stdout },
            to: End { node: to.to_owned(), port: Port::Stdin },
        };
        workflow.nodes.push((SOURCE.to_owned(), NodeKind::Source(vec![source.clone()])));
        for ((n, inputs), peer) in self.inputs.iter().enumerate().zip(peers.iter().cycle()) {
            let task = TaskSpec {
                service: SERVICE.to_owned(),
                peers: vec![*peer],
                args: vec![n.to_string()],
                ..TaskSpec::default()
            };
            workflow.nodes.push((name(n), NodeKind::Task(task)));
            if inputs.is_empty() {
                workflow.edges.push(edge(SOURCE, &name(n)));
            }
            workflow.edges.extend(inputs.iter().map(|from| edge(&name(*from), &name(n))));
        }
        workflow.nodes.push((SINK.to_owned(), NodeKind::Sink));
        workflow.edges.extend(self.kept.iter().map(|n| edge(&name(*n), SINK)));
        workflow
    }

    /// The digests of the kept results, in order, worked out here.
    pub fn expected(&self, source: &[u8]) -> Vec<String> {
        let mut outputs: Vec<[u8; 8]> = Vec::with_capacity(self.inputs.len());
        for (n, inputs) in self.inputs.iter().enumerate() {
            let read: Vec<u8> =
                inputs.iter().filter_map(|from| outputs.get(*from)).flatten().copied().collect();
            let input = if inputs.is_empty() { source } else { &read };
            outputs.push(hash(&n.to_string(), input));
        }
        self.kept.iter().filter_map(|n| outputs.get(*n)).map(|o| Digest::of(o).to_string()).collect()
    }
}

/// The name of a task.
pub fn name(n: usize) -> String {
    format!("t{n}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_have_the_tasks_they_should_and_read_only_what_comes_before() {
        for (shape, edges, kept) in [(Shape::Chain, 349, 1), (Shape::Wide, 0, 100), (Shape::Layered, 500, 50)]
        {
            let graph = Graph::new(shape, 350);
            assert_eq!(graph.inputs().len(), 350);
            assert_eq!(graph.inputs().iter().map(Vec::len).sum::<usize>(), edges, "{shape:?}");
            assert!(graph.inputs().iter().enumerate().all(|(n, inputs)| inputs.iter().all(|i| *i < n)));
            let expected = graph.expected(b"x");
            assert_eq!(expected.len(), kept, "{shape:?}");
            assert_ne!(expected, graph.expected(b"y").split_off(0), "{shape:?} depends on the source");
        }
        for shape in [Shape::Chain, Shape::Wide, Shape::Layered] {
            assert_eq!(Graph::new(shape, 1).expected(b"").len(), 1);
        }
    }

    /// The comparison with Dask computes the same (node/benches/dask/test_graph.py has these numbers, too).
    #[test]
    fn the_hash_and_the_layers_are_those_of_the_comparison_with_dask() {
        assert_eq!(hash("7", b"abc"), [0x8d, 0x49, 0xfa, 0xc0, 0x21, 0x09, 0x3f, 0xa5]);
        assert_eq!(Graph::new(Shape::Layered, 350).inputs().get(295), Some(&vec![195, 102]));
    }

    #[test]
    fn the_guest_is_a_module() {
        assert!(wat::parse_str(GUEST).unwrap().starts_with(b"\0asm"));
    }
}
