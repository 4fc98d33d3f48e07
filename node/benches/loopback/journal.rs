//! Durable batches per second, against appending the same bytes to a file and syncing it.

use crate::figures::{Report, Series};
use anyhow::{Result, bail};
use bytes::Bytes;
use remote_network_core::event::Event;
use remote_network_core::id::Lsn;
use remote_network_core::store::{Room, StoreOp, Subject};
use remote_network_driver_tokio::event_channel;
use remote_network_node::ports::store::{self, JournalOptions};
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const RECORD_BYTES: usize = 256;
/// One sample takes so long.
const SAMPLE: Duration = Duration::from_millis(1_000);

fn batch(n: u64) -> Vec<StoreOp> {
    let subject = Subject::new(Room::Node, &(n % 1_000).to_be_bytes());
    vec![StoreOp::Replace { subject, record: Bytes::from(vec![n as u8; RECORD_BYTES]) }]
}

fn synced_appends(file: &mut File) -> Result<f64> {
    let (begun, mut done) = (Instant::now(), 0u64);
    while begun.elapsed() < SAMPLE {
        file.write_all(&[7; RECORD_BYTES])?;
        file.sync_data()?;
        done += 1;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

pub fn measure(report: &mut Report, dir: &TempDir, rounds: usize) -> Result<()> {
    let (events, inbox) = event_channel();
    let mut opened = store::open(dir.path(), JournalOptions::default(), events)?;
    let mut file = File::create(dir.path().join("appends"))?;
    let mut next = opened.identity.last_lsn.0;
    let mut durable = next;
    let mut journaled = |in_flight: u64| -> Result<f64> {
        let (begun, from) = (Instant::now(), durable);
        while begun.elapsed() < SAMPLE {
            while next < durable + in_flight {
                next += 1;
                if opened.port.submit(Lsn(next), batch(next)).is_err() {
                    bail!("the journal refused a batch");
                }
            }
            match inbox.recv_blocking()? {
                Event::Persisted { up_to } => durable = up_to.0,
                other => bail!("the journal says {other:?}"),
            }
        }
        let rate = (durable - from) as f64 / begun.elapsed().as_secs_f64();
        while durable < next {
            if let Event::Persisted { up_to } = inbox.recv_blocking()? {
                durable = up_to.0;
            }
        }
        Ok(rate)
    };
    let [mut appends, mut one, mut many] = [const { Series::new() }; 3];
    for _ in 0..rounds {
        appends.push(synced_appends(&mut file)?);
        one.push(journaled(1)?);
        many.push(journaled(64)?);
    }
    report.compared("journal, 1 batch in flight: to synced appends", "1/s", None, one, &appends);
    report.compared("journal, 64 in flight: to synced appends", "1/s", None, many, &appends);
    opened.port.close();
    Ok(())
}
