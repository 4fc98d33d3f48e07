//! How many peers can be met in a second, against quinn's own mutual handshakes.
//!
//! Ours is *connected* when TLS has proven the callee's key to the caller, and *identified* when its identity has come, too, and
//! agrees. The callee is a whole node with its journal. The first baseline is quinn's bare handshake with both sides
//! authenticated, which ends for the caller before the callee has looked at its certificate: what *connected* is to us.
//! The second adds a message of the size of an identity there and back, what an identity exchange needs at the least.

use crate::caller::{Caller, Nothing};
use crate::figures::{Report, Series};
use crate::pair::{LOOPBACK, Running, Runtime};
use crate::raw::{self, Listener};
use anyhow::{Result, bail};
use remote_network_driver_tokio::{BindOptions, Clock, Driver, bind, event_channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const AT_ONCE: usize = 8;

/// Lets `at_once` callers, each with a key of its own, meet `callee`; the time until all are done.
fn meet(
    callee: &Running,
    meetings: usize,
    at_once: usize,
    first_seed: u8,
    identify: bool,
) -> Result<Duration> {
    let each = meetings / at_once;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut drivers = Vec::new();
        for i in 0..at_once {
            let clock = Clock::start();
            let seed = first_seed + i as u8;
            let caller = Caller::new(seed, clock.base(), callee.key, callee.addr, each, identify)?;
            let socket = bind(LOOPBACK, BindOptions::default())?;
            let (events, inbox) = event_channel();
            drivers.push((events, Driver::new(caller, socket, Nothing, inbox, clock)));
        }
        let begun = Instant::now();
        let mut callers = tokio::task::JoinSet::new();
        for (events, driver) in drivers {
            callers.spawn(async move {
                let stopped = driver.run().await;
                drop(events);
                stopped
            });
        }
        while let Some(ended) = callers.join_next().await {
            if let Some(fault) = ended??.fault {
                bail!("a caller failed: {fault}");
            }
        }
        Ok(begun.elapsed())
    })
}

pub fn measure(report: &mut Report, dir: &TempDir, rounds: usize, connections: usize) -> Result<()> {
    let listener = Listener::start(raw::USUAL_DATAGRAM_BYTES)?;
    let callee = Running::start(Runtime::Tokio, dir.path(), 9)?;
    for (at_once, how) in [(1, "one at a time"), (AT_ONCE, "8 at once")] {
        let total = connections / at_once * at_once;
        let rate = |elapsed: Duration| total as f64 / elapsed.as_secs_f64();
        let [mut connected, mut identified, mut handshakes, mut messages] = [const { Series::new() }; 4];
        for round in 0..=rounds {
            let proven = meet(&callee, total, at_once, 20, false)?;
            let handshake = raw::connections(listener.addr, total, at_once, false)?;
            let met = meet(&callee, total, at_once, 20, true)?;
            let message = raw::connections(listener.addr, total, at_once, true)?;
            // The first round warms up.
            if round > 0 {
                connected.push(rate(proven));
                identified.push(rate(met));
                handshakes.push(rate(handshake));
                messages.push(rate(message));
            }
        }
        let goal = Some("≥ 0.8");
        let mut add = |figure: &str, goal, ours: &Series, baseline: &Series| {
            report.compared(format!("connections, {how}: {figure}"), "1/s", goal, ours.clone(), baseline);
        };
        add("connected, to bare handshakes", goal, &connected, &handshakes);
        add("identified, to a message each way", goal, &identified, &messages);
        add("identified, to bare handshakes", None, &identified, &handshakes);
    }
    callee.stop()?;
    listener.stop()
}
