//! Puts and gets in a private DHT on loopback: our own node against the `mainline` crate, each in a network of its kind.

use crate::figures::{Report, Series};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use remote_network_core::dht::item;
use remote_network_core::id::Keypair;
use remote_network_core::port::{DhtRequest, GetMode, MutableItem};
use remote_network_node::ports::dht::{DhtBackend, DhtConfig, DhtHandle, DhtMode, DhtPort, DhtSocket};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Nodes of a network.
const NODES: usize = 30;
/// Operations one after the other in one sample; the sample is their median.
const IN_A_ROW: u64 = 20;
/// Operations at once.
const AT_ONCE: u64 = 200;
const VALUE_BYTES: usize = 500;
const PATIENCE: Duration = Duration::from_secs(60);

struct Network {
    _ports: Vec<DhtPort>,
    writer: DhtHandle,
    reader: DhtHandle,
    key: Keypair,
    next: u64,
}

impl Network {
    async fn start(backend: DhtBackend, key: u8) -> Result<Self> {
        let (events, inbox) = async_channel::unbounded();
        let start = |bootstrap: Vec<String>| {
            let socket = DhtSocket::Own { bind: Ipv4Addr::LOCALHOST.into(), port: 0 };
            let mode = DhtMode::Private { seed: bootstrap.is_empty() };
            DhtPort::start(DhtConfig { backend, mode, socket, table_file: None, bootstrap }, events.clone())
        };
        // Nobody but us listens; health is told there.
        let _drain = tokio::spawn(async move { while inbox.recv().await.is_ok() {} });
        let mut ports = vec![start(Vec::new())?];
        let until = Instant::now() + PATIENCE;
        let first = loop {
            if let Some(addr) = ports.first().and_then(DhtPort::local_addr) {
                break addr;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        for _ in 1..NODES {
            ports.push(start(vec![first.to_string()])?);
        }
        // Nodes of `mainline` meet few others beside their seed, however long one waits.
        let known = if backend == DhtBackend::Native { 8 } else { 2 };
        for port in &ports {
            let handle = port.handle();
            while handle.status().await.families.iter().map(|f| f.nodes).sum::<usize>() < known {
                if Instant::now() > until {
                    bail!("the {backend:?} network does not come together");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let (writer, reader) =
            (ports.get(1).context("a writer")?.handle(), ports.last().context("a reader")?.handle());
        Ok(Self { _ports: ports, writer, reader, key: Keypair::from_seed(&[key; 32]), next: 0 })
    }

    fn item(&mut self) -> Result<MutableItem> {
        self.next += 1;
        let value = Bytes::from(vec![self.next as u8; VALUE_BYTES]);
        Ok(item::sign(&self.key, format!("bench {}", self.next).as_bytes(), 1, value)?)
    }

    /// Median milliseconds of a put and of a get that ends with the first value.
    async fn in_a_row(&mut self) -> Result<(f64, f64)> {
        let (mut puts, mut gets) = (Series::new(), Series::new());
        for _ in 0..IN_A_ROW {
            let item = self.item()?;
            let begun = Instant::now();
            self.writer.run(put(&item)).await.result?;
            puts.push(begun.elapsed().as_secs_f64() * 1e3);
            let begun = Instant::now();
            if self.reader.run(get(&item)).await.items.is_empty() {
                bail!("a value that was put is not found");
            }
            gets.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok((puts.range().1, gets.range().1))
    }

    /// Operations per second with many at once, puts and then gets of the same; and how many did not succeed.
    async fn at_once(&mut self) -> Result<(f64, f64)> {
        let items: Vec<MutableItem> = (0..AT_ONCE).map(|_| self.item()).collect::<Result<_>>()?;
        let begun = Instant::now();
        let mut lost = 0;
        let mut puts = JoinSet::new();
        for item in &items {
            let (handle, request) = (self.writer.clone(), put(item));
            puts.spawn(async move { handle.run(request).await.result.is_ok() });
        }
        lost += puts.join_all().await.into_iter().filter(|ok| !ok).count();
        let mut gets = JoinSet::new();
        for item in &items {
            let (handle, request) = (self.reader.clone(), get(item));
            gets.spawn(async move { !handle.run(request).await.items.is_empty() });
        }
        lost += gets.join_all().await.into_iter().filter(|ok| !ok).count();
        Ok((2.0 * AT_ONCE as f64 / begun.elapsed().as_secs_f64(), lost as f64))
    }
}

fn put(item: &MutableItem) -> DhtRequest {
    DhtRequest::PutMutable { item: item.clone(), cas: None }
}

fn get(item: &MutableItem) -> DhtRequest {
    DhtRequest::GetMutable { key: item.key, salt: item.salt.clone(), mode: GetMode::First }
}

pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let [mut puts, mut gets, mut rate, mut lost] = [const { Series::new() }; 4];
    let [mut their_puts, mut their_gets, mut their_rate, mut their_lost] = [const { Series::new() }; 4];
    runtime.block_on(async {
        for round in 0..rounds {
            // Networks of one round only: what they keep is bounded.
            let key = u8::try_from(round % 200).unwrap_or_default();
            let mut ours = Network::start(DhtBackend::Native, key).await?;
            let mut theirs = Network::start(DhtBackend::Mainline, key).await?;
            let (put, get) = ours.in_a_row().await?;
            puts.push(put);
            gets.push(get);
            let (put, get) = theirs.in_a_row().await?;
            their_puts.push(put);
            their_gets.push(get);
            let (per_second, failed) = ours.at_once().await?;
            rate.push(per_second);
            lost.push(failed);
            let (per_second, failed) = theirs.at_once().await?;
            their_rate.push(per_second);
            their_lost.push(failed);
        }
        anyhow::Ok(())
    })?;
    report.compared("dht, put: to mainline", "ms", Some("put ≤ 10 ms"), puts, &their_puts);
    report.compared("dht, get to the first value: to mainline", "ms", Some("get ≤ 5 ms"), gets, &their_gets);
    report.compared("dht, 200 puts, then 200 gets at once: to mainline", "1/s", None, rate, &their_rate);
    report.alone("dht, of those 400: failed", "", Some("0"), lost);
    report.alone("dht, of those 400: failed with mainline", "", None, their_lost);
    Ok(())
}
