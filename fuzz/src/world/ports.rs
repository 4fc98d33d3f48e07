//! The ports of a node in memory: how they answer, and in which ways they may fail or lie.

use super::Fate;
use super::host::Host;
use arbitrary::Arbitrary;
use bytes::Bytes;
use remote_network_core::event::Event;
use remote_network_core::id::{DhtId, Digest, JobId, Keypair, OpId, Signature};
use remote_network_core::port::{
    BlobAnswer, BlobFailed, BlobRequest, DhtDone, DhtEvent, DhtFailed, DhtRequest, EngineEvent, EngineExit,
    EngineJob, EngineOutput, EngineReport, ExitClass, MutableItem, Port, Usage,
};
use remote_network_sim::engine::expected_output;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// How the store answers one request.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobFate {
    Honest,
    Twice,
    NotFound,
    Full,
    Corrupt,
    Io,
}

/// How the DHT answers one request.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DhtFate {
    Honest,
    Twice,
    NoNodes,
    Timeout,
    Cas,
    SeqTooOld,
    Offline,
    /// An item whose signature does not hold, with a higher version.
    ForgedItem,
    /// An item that somebody else has signed.
    OthersItem,
    /// Addresses where nobody lives, or nobody may.
    WrongPeers,
}

/// What the engine says of one job.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineFate {
    Started,
    Success,
    Twice,
    User,
    Resource,
    Permanent,
    Infra,
    /// Success without outputs.
    Nothing,
    /// Success with an output that is not in the store.
    Missing,
    /// Success with a port that nobody ordered.
    Unordered,
}

/// What the DHT holds, for all nodes.
#[derive(Default)]
pub struct Dht {
    items: BTreeMap<[u8; 32], MutableItem>,
    topics: BTreeMap<DhtId, BTreeSet<SocketAddr>>,
}

/// The answers to the first thing a node waits for.
pub fn next_answers(host: &mut Host, dht: &mut Dht, fate: Fate) -> Option<Vec<Event>> {
    if !host.blob_ops.is_empty() {
        let fate = if fate == Fate::Honest { BlobFate::Honest } else { BlobFate::NotFound };
        return blob(host, 0, fate);
    }
    if !host.dht_ops.is_empty() {
        let fate = if fate == Fate::Honest { DhtFate::Honest } else { DhtFate::NoNodes };
        return self::dht(host, dht, 0, fate);
    }
    let fate = if fate == Fate::Honest { EngineFate::Success } else { EngineFate::Infra };
    engine(host, 0, fate)
}

/// Answers the `which`th request to the store, counted around.
pub fn blob(host: &mut Host, which: usize, fate: BlobFate) -> Option<Vec<Event>> {
    let at = which.checked_rem(host.blob_ops.len())?;
    let (op, request) = host.blob_ops.remove(at);
    let failed = |e| Event::Blob { op, result: Err(e) };
    Some(match fate {
        BlobFate::Honest => vec![Event::Blob { op, result: host.blobs.answer(request) }],
        BlobFate::Twice => {
            let again = match &request {
                BlobRequest::Write { .. } => Ok(BlobAnswer::Written),
                other => host.blobs.answer(other.clone()),
            };
            vec![Event::Blob { op, result: host.blobs.answer(request) }, Event::Blob { op, result: again }]
        }
        BlobFate::NotFound => vec![failed(BlobFailed::NotFound)],
        BlobFate::Full => vec![failed(BlobFailed::Full)],
        BlobFate::Corrupt => vec![failed(BlobFailed::Corrupt)],
        BlobFate::Io => vec![failed(BlobFailed::Io("the disk is on fire".to_owned()))],
    })
}

/// Ends the `which`th operation of the DHT, counted around.
pub fn dht(host: &mut Host, dht: &mut Dht, which: usize, fate: DhtFate) -> Option<Vec<Event>> {
    let at = which.checked_rem(host.dht_ops.len())?;
    let (op, request) = host.dht_ops.remove(at);
    let failed = |e| Event::Dht(DhtEvent::Done { op, result: Err(e) });
    Some(match fate {
        DhtFate::Honest => dht.answer(host.addr, op, request),
        DhtFate::Twice => {
            let mut events = dht.answer(host.addr, op, request.clone());
            events.extend(dht.answer(host.addr, op, request));
            events
        }
        DhtFate::NoNodes => vec![failed(DhtFailed::NoNodes)],
        DhtFate::Timeout => vec![failed(DhtFailed::Timeout)],
        DhtFate::Cas => vec![failed(DhtFailed::Cas)],
        DhtFate::SeqTooOld => vec![failed(DhtFailed::SeqTooOld)],
        DhtFate::Offline => {
            vec![Event::Dht(DhtEvent::Health { table_len: 0, reachable: false }), failed(DhtFailed::Offline)]
        }
        DhtFate::ForgedItem | DhtFate::OthersItem => {
            let mut events = dht.forged(op, &request, fate);
            events.push(done(op, 1, None));
            events
        }
        DhtFate::WrongPeers => {
            let addrs = ["0.0.0.0:1", "10.0.0.1:0", "224.0.0.1:9", "10.0.0.77:4433", "[::1]:4433"];
            let addrs = addrs.iter().filter_map(|a| a.parse().ok()).collect();
            vec![Event::Dht(DhtEvent::Peers { op, addrs }), done(op, 1, None)]
        }
    })
}

fn done(op: OpId, responded: u32, newest_seq: Option<u64>) -> Event {
    Event::Dht(DhtEvent::Done { op, result: Ok(DhtDone { stored: responded, responded, newest_seq }) })
}

impl Dht {
    fn answer(&mut self, from: SocketAddr, op: OpId, request: DhtRequest) -> Vec<Event> {
        match request {
            DhtRequest::Announce { topic, .. } => {
                self.topics.entry(topic).or_default().insert(from);
                vec![done(op, 3, None)]
            }
            DhtRequest::GetPeers { topic } => {
                let addrs = self.topics.get(&topic).into_iter().flatten().copied().collect();
                vec![Event::Dht(DhtEvent::Peers { op, addrs }), done(op, 3, None)]
            }
            DhtRequest::PutMutable { item, cas } => {
                let stored = self.items.get(item.key.as_bytes()).map(|i| i.seq);
                let failed = |e| vec![Event::Dht(DhtEvent::Done { op, result: Err(e) })];
                if stored.is_some_and(|seq| seq > item.seq) {
                    return failed(DhtFailed::SeqTooOld);
                }
                if cas.is_some() && stored.is_some() && cas != stored {
                    return failed(DhtFailed::Cas);
                }
                let seq = item.seq;
                self.items.insert(*item.key.as_bytes(), item);
                vec![done(op, 3, Some(seq))]
            }
            DhtRequest::GetMutable { key, .. } => {
                let item = self.items.get(key.as_bytes()).cloned();
                let newest = item.as_ref().map(|i| i.seq);
                let value = item.map(|item| Event::Dht(DhtEvent::Value { op, item }));
                value.into_iter().chain([done(op, 3, newest)]).collect()
            }
            DhtRequest::PutImmutable { .. } | DhtRequest::GetImmutable { .. } => vec![done(op, 3, None)],
            DhtRequest::Cancel => Vec::new(),
        }
    }

    fn forged(&self, op: OpId, request: &DhtRequest, fate: DhtFate) -> Vec<Event> {
        let DhtRequest::GetMutable { key, .. } = request else { return Vec::new() };
        let stored = self.items.get(key.as_bytes()).cloned();
        let item = match (fate, stored) {
            (DhtFate::ForgedItem, Some(item)) => MutableItem { seq: item.seq + 1, ..item },
            (_, stored) => {
                let value = stored.map_or_else(|| Bytes::from_static(b"de"), |i| i.value);
                let other = Keypair::from_seed(&[77; 32]);
                let item = remote_network_core::dht::item::sign(&other, b"", 1 << 40, value);
                match item {
                    Ok(item) => MutableItem { key: *key, ..item },
                    Err(_) => return Vec::new(),
                }
            }
        };
        assert_ne!(item.signature, Signature([0; 64]));
        vec![Event::Dht(DhtEvent::Value { op, item })]
    }
}

/// The engine speaks of the `which`th job, counted around. A job that is to be stopped ends so.
pub fn engine(host: &mut Host, which: usize, fate: EngineFate) -> Option<Vec<Event>> {
    let at = which.checked_rem(host.jobs.len())?;
    let id = *host.jobs.keys().nth(at)?;
    let report = |event| Event::Engine(EngineReport { job: id, event });
    if fate == EngineFate::Started {
        return Some(vec![report(EngineEvent::Started)]);
    }
    let (job, stopping) = host.jobs.remove(&id)?;
    let exit = if stopping && fate != EngineFate::Infra {
        end(ExitClass::Cancelled, 0, Vec::new())
    } else {
        exit(host, &job, id, fate)
    };
    let mut events = vec![report(EngineEvent::Started), report(EngineEvent::Exited(exit))];
    if fate == EngineFate::Twice {
        events.push(events[1].clone());
    }
    Some(events)
}

fn end(class: ExitClass, code: i32, outputs: Vec<EngineOutput>) -> EngineExit {
    let usage = Usage { cpu_ns: 1, fuel: 1, memory_bytes: 1, wall_ms: 1 };
    let detail = "words\nof \u{7} the guest".to_owned();
    EngineExit { class, code, detail, usage, outputs, carried: None }
}

fn exit(host: &mut Host, job: &EngineJob, id: JobId, fate: EngineFate) -> EngineExit {
    let missing = job.program.object().is_some_and(|o| host.blobs.get(&o).is_none())
        || job.carried.is_none() && job.inputs.iter().any(|i| host.blobs.get(&i.digest).is_none());
    if missing {
        return end(ExitClass::Infra, 0, Vec::new());
    }
    let (outputs, carried) = outputs(host, job);
    let exit = match fate {
        EngineFate::Started | EngineFate::Success | EngineFate::Twice => end(ExitClass::Success, 0, outputs),
        EngineFate::User => end(ExitClass::User, 3, outputs),
        EngineFate::Resource => end(ExitClass::Resource, 0, outputs),
        EngineFate::Permanent => end(ExitClass::Permanent, 0, Vec::new()),
        EngineFate::Infra => end(ExitClass::Infra, 0, Vec::new()),
        EngineFate::Nothing => end(ExitClass::Success, 0, Vec::new()),
        EngineFate::Missing => {
            let digest = Digest::of(&id.0);
            let gone = |o: EngineOutput| EngineOutput { digest, ..o };
            end(ExitClass::Success, 0, outputs.into_iter().map(gone).collect())
        }
        EngineFate::Unordered => {
            let port = Port::Mount("unordered".to_owned());
            let extra = EngineOutput { port, digest: job.program.digest(), len: 1, truncated: false };
            end(ExitClass::Success, 0, outputs.into_iter().chain([extra]).collect())
        }
    };
    // An engine that names something else than it left leaves nothing beside.
    let carried = carried.filter(|c| c.len() == exit.outputs.len() && fate != EngineFate::Missing);
    EngineExit { carried, ..exit }
}

/// What it leaves: in the store, and of a light job beside its end as well.
fn outputs(host: &mut Host, job: &EngineJob) -> (Vec<EngineOutput>, Option<Vec<Bytes>>) {
    let inputs: Vec<(Port, Digest)> = job.inputs.iter().map(|i| (i.port.clone(), i.digest)).collect();
    let (mut outputs, mut all) = (Vec::new(), Vec::new());
    for port in &job.outputs {
        let bytes = expected_output(&job.program.digest(), &job.args, &inputs, port);
        let len = bytes.len() as u64;
        if let Ok((digest, _)) = host.blobs.put(bytes.clone()) {
            all.push(bytes);
            outputs.push(EngineOutput { port: port.clone(), digest, len, truncated: false });
        }
    }
    (outputs, job.carried.is_some().then_some(all))
}
