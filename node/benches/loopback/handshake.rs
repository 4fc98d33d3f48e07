//! How many peers can be met in a second, against quinn's own mutual handshakes.
//!
//! Ours counts a connection when the peer is *identified*: TLS has proven its key, and its identity has come and agrees.
//! The callee is a whole node with its journal. The first baseline is quinn's bare handshake with both sides
//! authenticated, which ends for the caller before the callee has looked at its certificate; the second adds a message
//! of the size of an identity there and back, which is what an identity exchange needs at the least.

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
fn meet(callee: &Running, meetings: usize, at_once: usize, first_seed: u8) -> Result<Duration> {
    let each = meetings / at_once;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut drivers = Vec::new();
        for i in 0..at_once {
            let clock = Clock::start();
            let seed = first_seed + i as u8;
            let caller = Caller::new(seed, clock.base(), callee.key, callee.addr, each)?;
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
    let listener = Listener::start()?;
    let callee = Running::start(Runtime::Tokio, dir.path(), 9)?;
    for (at_once, bare, greeted) in [
        (
            1,
            "connections, one at a time: to bare handshakes",
            "connections, one at a time: to a message each way",
        ),
        (
            AT_ONCE,
            "connections, 8 at once: to bare handshakes",
            "connections, 8 at once: to a message each way",
        ),
    ] {
        let total = connections / at_once * at_once;
        let rate = |elapsed: Duration| total as f64 / elapsed.as_secs_f64();
        let [mut ours, mut handshakes, mut messages] = [const { Series::new() }; 3];
        for round in 0..=rounds {
            let met = meet(&callee, total, at_once, 20)?;
            let handshake = raw::connections(listener.addr, total, at_once, false)?;
            let message = raw::connections(listener.addr, total, at_once, true)?;
            // The first round warms up.
            if round > 0 {
                ours.push(rate(met));
                handshakes.push(rate(handshake));
                messages.push(rate(message));
            }
        }
        report.compared(bare, "1/s", Some("≥ 0.8"), ours.clone(), &handshakes);
        report.compared(greeted, "1/s", None, ours, &messages);
    }
    callee.stop()?;
    listener.stop()
}
