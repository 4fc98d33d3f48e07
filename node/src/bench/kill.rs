//! `bench kill`: four nodes work, and are killed.
//!
//! One node wants a workflow of twenty tasks done, three others do it: two run WebAssembly, one containers (or WebAssembly, where there
//! is no image for it). Between its tasks the workflow has chains, fan-out and fan-in, and its results are known from a first run
//! that nobody disturbs. Then nodes are killed with SIGKILL, one or two at once, at random moments; and with `--points`, run by run, each
//! kills itself at one of the named points of [`crate::failpoints`], several nodes in one run. Whoever dies is started again
//! where it was. Every run must end as the undisturbed one did.
//!
//! | figure | counts |
//! |---|---|
//! | `kills`, `points` | deaths at random moments, deaths at named points |
//! | `unreached` | points that no run came to: a list that must be empty, or the other figures say less than they seem to |
//! | `lost` | runs that were acknowledged and are gone, ended in any other way, or have other results |
//! | `doubled` | tasks with another receipt than was seen before, or more than one that was committed |
//! | `orphans` | workers, containers, mounts, and files of jobs that are left when all is over |

mod course;
mod world;

use crate::cli::Failure;
use crate::cli::args::bench::KillArgs;
use crate::failpoints::{Course, POINTS, Point, Whose};
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use world::World;

/// Points are met a few times before they kill, so that not only the first task dies there.
const PASSES_MAX: u64 = 3;

/// Runs it.
pub async fn run(root: &Path, log: Option<&str>, args: &KillArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let mut world = World::start(root, args, log.unwrap_or("error")).await?;
    let outcome = trouble(&mut world, args).await;
    let orphans = match &outcome {
        Ok(_) => world.orphans().await?,
        Err(_) => Vec::new(),
    };
    world.network.stop().await;
    let unreached = outcome?;
    for what in world.lost.iter().chain(&world.doubled).chain(&orphans) {
        eprintln!("{what}");
    }
    let wrong = world.lost.len() + world.doubled.len() + orphans.len() + unreached.len();
    println!(
        "{}",
        json!({
            "kills": world.kills,
            "points": world.points,
            "unreached": unreached,
            "runs": world.runs(),
            "tasks": course::TASKS,
            "docker": args.image.is_some(),
            "lost": world.lost.len(),
            "doubled": world.doubled.len(),
            "orphans": orphans.len(),
            "seed": args.seed,
            "elapsed_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    );
    match wrong {
        0 => Ok(()),
        _ => Err(Failure::work("the network did not survive what it was made for; what went wrong is above")
            .with_hint(format!("--seed {} repeats the moments", args.seed))),
    }
}

/// All deaths; the points that were not come to.
async fn trouble(world: &mut World, args: &KillArgs) -> Result<Vec<&'static str>, Failure> {
    world.undisturbed().await?;
    while world.kills < args.kills {
        world.under_fire(args.kills).await?;
        eprintln!("{} of {} kills, {} runs", world.kills, args.kills, world.runs());
    }
    if !args.points {
        return Ok(Vec::new());
    }
    let mut unreached = Vec::new();
    for round in rounds(args.image.is_some()) {
        let passes = 1 + u64::from(world.random(PASSES_MAX)?);
        let mut missed = world.at_points(&round, passes).await?;
        if !missed.is_empty() && passes > 1 {
            // Fewer of them in a run than were waited for.
            missed = world.at_points(&missed, 1).await?;
        }
        unreached.extend(missed.iter().map(|p| p.name));
        eprintln!("{} points met", world.points);
    }
    Ok(unreached)
}

/// The points, so divided that each round has at most one of each node and one course.
fn rounds(docker: bool) -> Vec<Vec<Point>> {
    let mut rounds: Vec<Vec<Point>> = Vec::new();
    for point in POINTS.iter().filter(|p| docker || p.whose != Whose::Docker) {
        let free = |round: &&mut Vec<Point>| {
            round.iter().all(|other| other.whose != point.whose && other.course == point.course)
        };
        match rounds.iter_mut().find(free) {
            Some(round) => round.push(*point),
            None => rounds.push(vec![*point]),
        }
    }
    rounds
}

/// Whether a run of these points is cancelled on its way.
fn is_cancelled(points: &[Point]) -> bool {
    points.iter().any(|p| p.course == Course::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_its_round_and_no_round_two_points_of_a_node() {
        for docker in [false, true] {
            let rounds = rounds(docker);
            let all: usize = rounds.iter().map(Vec::len).sum();
            let wanted = POINTS.iter().filter(|p| docker || p.whose != Whose::Docker).count();
            assert_eq!(all, wanted);
            for round in rounds {
                for (i, point) in round.iter().enumerate() {
                    assert!(round[..i].iter().all(|p| p.whose != point.whose && p.course == point.course));
                }
            }
        }
    }
}
