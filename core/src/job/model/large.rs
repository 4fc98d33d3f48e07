//! A workflow of the largest size, played to its end: what it costs is counted, not timed.

use super::RUN;
use super::world::World;
use crate::command::RunState;
use crate::id::Digest;
use crate::job::plan::PLAN_BYTES_MAX;
use crate::job::workflow::{Edge, End, NodeKind, ObjectRef, TaskSpec, Workflow};
use crate::port::Port;

/// Most looks at tasks, edges, runs and executors for each task.
const WORK_PER_TASK_MAX: u64 = 200;

/// Layers of `width` tasks, each with `parents` in the layer before; the last layer is kept.
fn layers(tasks: usize, width: usize, parents: usize) -> Workflow {
    let end = |node: String, port: &Port| End { node, port: port.clone() };
    let object = ObjectRef { digest: Digest::of(b"in"), len: 2 };
    let mut nodes =
        vec![("in".to_owned(), NodeKind::Source(vec![object])), ("out".to_owned(), NodeKind::Sink)];
    let mut edges = Vec::new();
    for n in 0..tasks {
        let args = vec![n.to_string()];
        let spec = TaskSpec { service: "count".into(), args, ..TaskSpec::default() };
        nodes.push((format!("t{n}"), NodeKind::Task(spec)));
        let to = || end(format!("t{n}"), &Port::Stdin);
        if n < width {
            edges.push(Edge { from: end("in".into(), &Port::Stdout), to: to() });
        } else {
            let before = n / width * width - width;
            let parent = |k: usize| format!("t{}", before + (n + k * 7) % width);
            edges.extend((0..parents).map(|k| Edge { from: end(parent(k), &Port::Stdout), to: to() }));
        }
        if n + width >= tasks {
            edges.push(Edge {
                from: end(format!("t{n}"), &Port::Stdout),
                to: end("out".into(), &Port::Stdin),
            });
        }
    }
    Workflow { name: "layers".into(), nodes, edges, ..Workflow::default() }
}

fn play(tasks: usize, width: usize, parents: usize) {
    let mut w = World::with(1, 4, None);
    w.compared = false;
    w.submit_workflow(&layers(tasks, width, parents));
    w.settle();
    assert_eq!(w.state(), RunState::Succeeded);
    assert!(w.at_rest());
    let run = w.requester.run(&RUN).unwrap();
    assert_eq!(run.committed(), tasks);
    assert!(run.tasks.iter().all(|t| t.attempts.len() == 1), "nobody was asked in vain");
    w.requester.check_derived();
    let work = w.requester.work();
    assert!(work < WORK_PER_TASK_MAX * tasks as u64, "{work} looks for {tasks} tasks");
}

#[test]
fn the_cost_of_a_run_grows_with_its_tasks_and_not_faster() {
    play(1_000, 100, 4);
    play(10_000, 100, 4);
}

#[test]
fn a_workflow_of_the_largest_size_is_planned() {
    let mut w = World::with(1, 4, None);
    w.compared = false;
    w.submit_workflow(&layers(10_000, 500, 10));
    assert_eq!(w.state(), RunState::Running);
    let plan = w.requester.run(&RUN).unwrap().plan.as_ref().unwrap().encode();
    assert!(plan.len() <= PLAN_BYTES_MAX, "{} bytes", plan.len());
}
