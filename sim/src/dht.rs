//! The DHT as an oracle: one map from targets to a handful of copies, answering as the public network would.
//!
//! A real lookup walks towards a target, meets eight or so nodes that should hold it, some of which are gone, some hold
//! an older version, some lie. What a core sees of that is: partial values in some order, an end after a while, and now
//! and then a failure. So that is what is modelled: every target has [`COPIES`] holders; each keeps its own version
//! under the rules of BEP 44 (signature, `seq`, `cas`, salt and size), forgets it after a while, and is reached or not
//! by an operation. Some holders are stubborn (keep what they first got), some are liars (alter values, replay old ones,
//! hand out invented peers); a liar cannot sign, so whoever verifies sees through it. Latencies come from integer
//! quantile tables with the figures published for the live network.
//!
//! Nothing here shares code with the core's own record and lookup rooms: it is their independent judge.

use crate::draw::{Draw, Quantiles, scramble};
use bytes::Bytes;
use remote_network_core::id::{DhtId, OpId};
use remote_network_core::port::{
    AnnouncePort, DhtDone, DhtEvent, DhtFailed, DhtRequest, GetMode, MutableItem,
};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Holders of a target (`k` of most implementations).
pub const COPIES: usize = 8;
/// Largest value: 1000 bytes of bencode less its length prefix (BEP 44).
pub const VALUE_BYTES_MAX: usize = 996;
/// Longest salt (BEP 44).
pub const SALT_BYTES_MAX: usize = 64;
/// Announced peers live this long: what the implementations of the public network keep.
pub const PEER_LIFE_NS: u64 = 45 * 60 * SECOND_NS;
/// Peers a holder keeps of one topic.
pub const PEERS_MAX: usize = 500;
/// Peers in one answer.
pub const PEERS_PER_ANSWER: usize = 50;
/// Answers to one `GetPeers` at the most.
const PEER_ANSWERS_MAX: u64 = 4;
/// Values live no longer than this without being put again (BEP 44: may expire after two hours).
pub const VALUE_LIFE_NS: u64 = 2 * 3600 * SECOND_NS;

const SECOND_NS: u64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;

/// Milliseconds to the first value: median 250, nine of ten within 800.
const FIRST_MS: Quantiles = Quantiles(&[(0, 60), (500, 250), (900, 800), (990, 2_500), (1000, 4_000)]);
/// Milliseconds from the first value to the end of the lookup.
const REST_MS: Quantiles = Quantiles(&[(0, 200), (500, 1_900), (990, 5_000), (1000, 8_000)]);
/// Milliseconds of a put or an announcement, the lookup before it included.
const PUT_MS: Quantiles = Quantiles(&[(0, 700), (500, 2_500), (900, 4_500), (990, 8_000), (1000, 9_500)]);
/// Seconds a copy survives its holder's churn; [`VALUE_LIFE_NS`] ends it in any case.
const SURVIVAL_S: Quantiles = Quantiles(&[(0, 60), (50, 600), (200, 2_400), (500, 7_200), (1000, 20_000)]);

/// How good the DHT is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DhtSpec {
    /// Operations that end in a time-out.
    pub fail_ppm: u32,
    /// Holders that an operation does not reach.
    pub unreached_ppm: u32,
    /// Holders that keep the first version they got.
    pub stubborn_ppm: u32,
    /// Holders that lie.
    pub liar_ppm: u32,
}

impl Default for DhtSpec {
    /// What the public network is like: one or two failures in a hundred, a tenth of the holders missed.
    fn default() -> Self {
        Self { fail_ppm: 15_000, unreached_ppm: 100_000, stubborn_ppm: 20_000, liar_ppm: 0 }
    }
}

impl DhtSpec {
    /// A DHT that never fails, for tests of other things.
    pub const PERFECT: Self = Self { fail_ppm: 0, unreached_ppm: 0, stubborn_ppm: 0, liar_ppm: 0 };
}

/// What has happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DhtTally {
    /// Operations begun.
    pub operations: u64,
    /// Operations that failed by chance.
    pub failed: u64,
    /// Operations refused while offline.
    pub offline: u64,
    /// Values altered or replayed by liars.
    pub lies: u64,
    /// Invented peers handed out.
    pub fake_peers: u64,
    /// Puts refused by the rules.
    pub refused: u64,
}

#[derive(Clone)]
struct Stored {
    item: Arc<MutableItem>,
    dies_ns: u64,
}

#[derive(Default)]
struct Target {
    copies: [Option<Stored>; COPIES],
    /// The first version ever put: what liars replay.
    oldest: Option<Arc<MutableItem>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Honest,
    Stubborn,
    Liar,
}

/// The DHT.
pub struct Dht {
    spec: DhtSpec,
    seed: u64,
    draw: Draw,
    targets: BTreeMap<DhtId, Target>,
    topics: BTreeMap<DhtId, VecDeque<(SocketAddr, u64)>>,
    /// Immutable items and when they die.
    immutable: BTreeMap<DhtId, (Bytes, u64)>,
    offline: bool,
    hidden: BTreeSet<DhtId>,
    tally: DhtTally,
}

/// The BEP 44 target of a mutable item: SHA-1 of key and salt.
pub fn target_of(key: &[u8; 32], salt: &[u8]) -> DhtId {
    DhtId(Sha1::new().chain_update(key).chain_update(salt).finalize().into())
}

/// The bytes a mutable item's signature is over.
pub fn signed_bytes(item: &MutableItem) -> Vec<u8> {
    let mut out = Vec::with_capacity(item.value.len() + item.salt.len() + 64);
    if !item.salt.is_empty() {
        out.extend_from_slice(format!("4:salt{}:", item.salt.len()).as_bytes());
        out.extend_from_slice(&item.salt);
    }
    out.extend_from_slice(format!("3:seqi{}e1:v{}:", item.seq, item.value.len()).as_bytes());
    out.extend_from_slice(&item.value);
    out
}

impl Dht {
    /// An empty DHT.
    pub fn new(seed: u64, spec: DhtSpec) -> Self {
        Self {
            spec,
            seed,
            draw: Draw::derive(seed, "dht", 0),
            targets: BTreeMap::new(),
            topics: BTreeMap::new(),
            immutable: BTreeMap::new(),
            offline: false,
            hidden: BTreeSet::new(),
            tally: DhtTally::default(),
        }
    }

    /// What has happened so far.
    pub fn tally(&self) -> &DhtTally {
        &self.tally
    }

    /// Changes how good it is.
    pub fn set_spec(&mut self, spec: DhtSpec) {
        self.spec = spec;
    }

    /// How good it is.
    pub fn spec(&self) -> DhtSpec {
        self.spec
    }

    /// Takes it away from everybody, or brings it back.
    pub fn set_offline(&mut self, offline: bool) {
        self.offline = offline;
    }

    /// From now on nobody finds what lies there: those around it are in one hand, say yes to all who store, and know nothing.
    pub fn hide(&mut self, target: DhtId) {
        self.hidden.insert(target);
    }

    /// What a node hears of the DHT's health.
    pub fn health(&self) -> DhtEvent {
        DhtEvent::Health { table_len: if self.offline { 0 } else { 120 }, reachable: !self.offline }
    }

    /// The highest `seq` any holder has of a target: what an omniscient reader would find.
    pub fn newest(&self, now_ns: u64, target: &DhtId) -> Option<&MutableItem> {
        let copies = self.targets.get(target)?.copies.iter().flatten();
        copies.filter(|c| c.dies_ns > now_ns).map(|c| &*c.item).max_by_key(|i| i.seq)
    }

    /// Begins an operation of a host whose DHT socket is seen at `from`; `answer` gets all its events with their times.
    /// [`DhtRequest::Cancel`] is the host's business: it drops what is to come and ends the operation itself.
    pub fn begin(
        &mut self,
        now_ns: u64,
        from: SocketAddr,
        op: OpId,
        request: DhtRequest,
        mut answer: impl FnMut(u64, DhtEvent),
    ) {
        self.tally.operations += 1;
        if self.offline {
            self.tally.offline += 1;
            return answer(now_ns + 10 * MS_NS, DhtEvent::Done { op, result: Err(DhtFailed::Offline) });
        }
        if self.draw.chance_ppm(self.spec.fail_ppm) {
            self.tally.failed += 1;
            let late_ns = now_ns + self.draw.between(4, 10) * SECOND_NS;
            return answer(late_ns, DhtEvent::Done { op, result: Err(DhtFailed::Timeout) });
        }
        match request {
            DhtRequest::Announce { topic, port } => {
                let port = match port {
                    AnnouncePort::Implied => from.port(),
                    AnnouncePort::Explicit(port) => port,
                };
                self.announce(now_ns, topic, SocketAddr::new(from.ip(), port));
                let done = DhtDone { stored: COPIES as u32, responded: COPIES as u32, newest_seq: None };
                answer(now_ns + self.ms(PUT_MS), DhtEvent::Done { op, result: Ok(done) });
            }
            DhtRequest::GetPeers { topic } => self.get_peers(now_ns, op, topic, answer),
            DhtRequest::PutMutable { item, cas } => {
                let result = self.put(now_ns, item, cas);
                // A refusal comes with the first answers; only success waits for all holders.
                let took_ns = if result.is_ok() { self.ms(PUT_MS) } else { self.ms(FIRST_MS) };
                answer(now_ns + took_ns, DhtEvent::Done { op, result });
            }
            DhtRequest::GetMutable { key, salt, mode } => {
                let target = target_of(key.as_bytes(), &salt);
                self.get(now_ns, op, target, mode, answer);
            }
            DhtRequest::PutImmutable { value } => {
                let result = self.put_immutable(now_ns, value);
                answer(now_ns + self.ms(PUT_MS), DhtEvent::Done { op, result });
            }
            DhtRequest::GetImmutable { target } => {
                let at_ns = now_ns + self.ms(FIRST_MS);
                let held = self.immutable.get(&target).filter(|(_, dies_ns)| *dies_ns > now_ns);
                if let Some((value, _)) = held {
                    answer(at_ns, DhtEvent::Immutable { op, value: value.clone() });
                }
                let done = DhtDone { stored: 0, responded: COPIES as u32, newest_seq: None };
                answer(at_ns, DhtEvent::Done { op, result: Ok(done) });
            }
            DhtRequest::Cancel => {
                answer(now_ns, DhtEvent::Done { op, result: Err(DhtFailed::Cancelled) });
            }
        }
    }

    fn ms(&mut self, table: Quantiles) -> u64 {
        table.draw(&mut self.draw) * MS_NS
    }

    /// What kind of holder the `slot`-th of a target is: always the same for the same DHT.
    fn holder(&self, target: &DhtId, slot: usize) -> Holder {
        let mut key = self.seed ^ slot as u64;
        for chunk in target.0.chunks(8) {
            key = scramble(key, chunk.iter().fold(0, |k, b| k << 8 | u64::from(*b)));
        }
        let dice = (key % 1_000_000) as u32;
        if dice < self.spec.liar_ppm {
            Holder::Liar
        } else if dice < self.spec.liar_ppm.saturating_add(self.spec.stubborn_ppm) {
            Holder::Stubborn
        } else {
            Holder::Honest
        }
    }

    fn announce(&mut self, now_ns: u64, topic: DhtId, addr: SocketAddr) {
        let peers = self.topics.entry(topic).or_default();
        peers.retain(|(a, dies_ns)| *a != addr && *dies_ns > now_ns);
        if peers.len() >= PEERS_MAX {
            peers.pop_front();
        }
        peers.push_back((addr, now_ns + PEER_LIFE_NS));
    }

    fn get_peers(&mut self, now_ns: u64, op: OpId, topic: DhtId, mut answer: impl FnMut(u64, DhtEvent)) {
        let first_ns = now_ns + self.ms(FIRST_MS);
        let done_ns = first_ns + self.ms(REST_MS);
        let answers = 1 + self.draw.below(PEER_ANSWERS_MAX);
        for nth in 0..answers {
            let at_ns = first_ns + (done_ns - first_ns) / answers * nth;
            let mut addrs = Vec::new();
            if let Some(peers) = self.topics.get(&topic).filter(|p| !p.is_empty()) {
                // A run of the list from a random place: a different part from every holder.
                let start = self.draw.below(peers.len() as u64) as usize;
                let alive = peers.iter().cycle().skip(start).take(peers.len().min(PEERS_PER_ANSWER));
                addrs.extend(alive.filter(|(_, dies_ns)| *dies_ns > now_ns).map(|(a, _)| *a));
            }
            if self.draw.chance_ppm(self.spec.liar_ppm) {
                for _ in 0..4 {
                    let host = 1 + self.draw.below(254) as u8;
                    self.tally.fake_peers += 1;
                    addrs.push(SocketAddr::new(IpAddr::from([203, 0, 113, host]), crate::net::PORT));
                }
            }
            if !addrs.is_empty() {
                answer(at_ns, DhtEvent::Peers { op, addrs });
            }
        }
        let done = DhtDone { stored: 0, responded: answers as u32, newest_seq: None };
        answer(done_ns, DhtEvent::Done { op, result: Ok(done) });
    }

    fn put(&mut self, now_ns: u64, item: MutableItem, cas: Option<u64>) -> Result<DhtDone, DhtFailed> {
        let target = target_of(item.key.as_bytes(), &item.salt);
        let refusal = if item.value.len() > VALUE_BYTES_MAX {
            Some(DhtFailed::TooBig)
        } else if item.salt.len() > SALT_BYTES_MAX
            || item.seq > i64::MAX as u64
            || !self.known(&target, &item) && !item.key.verify(&signed_bytes(&item), &item.signature)
        {
            Some(DhtFailed::BadSignature)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.tally.refused += 1;
            return Err(refusal);
        }
        let item = Arc::new(item);
        let holders: [Holder; COPIES] = std::array::from_fn(|slot| self.holder(&target, slot));
        let entry = self.targets.entry(target).or_default();
        entry.oldest.get_or_insert_with(|| item.clone());
        let mut done = DhtDone::default();
        let mut refusal = None;
        for (copy, holder) in entry.copies.iter_mut().zip(holders) {
            if self.draw.chance_ppm(self.spec.unreached_ppm) {
                continue;
            }
            done.responded += 1;
            let held = copy.as_ref().filter(|c| c.dies_ns > now_ns);
            if let Some(held) = held {
                done.newest_seq = done.newest_seq.max(Some(held.item.seq));
                let older = item.seq < held.item.seq;
                let other = item.seq == held.item.seq && item.value != held.item.value;
                if cas.is_some_and(|cas| cas != held.item.seq) {
                    refusal = Some(DhtFailed::Cas);
                    continue;
                }
                if older || other {
                    refusal = refusal.or(Some(DhtFailed::SeqTooOld));
                    continue;
                }
            }
            done.stored += 1;
            let life_ns = (SURVIVAL_S.draw(&mut self.draw) * SECOND_NS).min(VALUE_LIFE_NS);
            match copy {
                // A stubborn holder says yes and keeps what it has.
                Some(held) if holder == Holder::Stubborn && held.dies_ns > now_ns => {}
                _ => *copy = Some(Stored { item: item.clone(), dies_ns: now_ns + life_ns }),
            }
        }
        match (done.stored, refusal) {
            (0, Some(refusal)) => {
                self.tally.refused += 1;
                Err(refusal)
            }
            (0, None) => Err(DhtFailed::NoNodes),
            _ => Ok(done),
        }
    }

    /// Whether a holder has this very item, signature included: it was verified when it came.
    fn known(&self, target: &DhtId, item: &MutableItem) -> bool {
        let copies = self.targets.get(target).map(|t| &t.copies[..]).unwrap_or_default();
        copies.iter().flatten().any(|c| *c.item == *item)
    }

    fn put_immutable(&mut self, now_ns: u64, value: Bytes) -> Result<DhtDone, DhtFailed> {
        if value.len() > VALUE_BYTES_MAX {
            self.tally.refused += 1;
            return Err(DhtFailed::TooBig);
        }
        let target = remote_network_core::dht::item::immutable_target(&value);
        self.immutable.insert(target, (value, now_ns + VALUE_LIFE_NS));
        Ok(DhtDone { stored: COPIES as u32, responded: COPIES as u32, newest_seq: None })
    }

    fn get(
        &mut self,
        now_ns: u64,
        op: OpId,
        target: DhtId,
        mode: GetMode,
        mut answer: impl FnMut(u64, DhtEvent),
    ) {
        let mut found: Vec<Arc<MutableItem>> = Vec::new();
        let mut responded = 0;
        for slot in 0..COPIES {
            if self.draw.chance_ppm(self.spec.unreached_ppm) {
                continue;
            }
            responded += 1;
            let visible = !self.hidden.contains(&target);
            let Some(entry) = self.targets.get(&target).filter(|_| visible) else { continue };
            let held = entry.copies[slot].as_ref().filter(|c| c.dies_ns > now_ns).map(|c| c.item.clone());
            let oldest = entry.oldest.clone();
            let item = match self.holder(&target, slot) {
                Holder::Honest | Holder::Stubborn => held,
                Holder::Liar => {
                    self.tally.lies += 1;
                    self.lie(held, oldest)
                }
            };
            // A reader asks with the `seq` it has; the same version twice is not sent twice.
            if let Some(item) = item.filter(|i| !found.contains(i)) {
                found.push(item);
            }
        }
        // Holders answer in no particular order.
        for i in (1..found.len()).rev() {
            found.swap(i, self.draw.below(i as u64 + 1) as usize);
        }
        let first_ns = now_ns + self.ms(FIRST_MS);
        let rest_ns = self.ms(REST_MS);
        let newest_seq = found.iter().map(|i| i.seq).max();
        if mode == GetMode::First {
            found.truncate(1);
        }
        let step_ns = rest_ns / (found.len() as u64 + 1);
        let mut at_ns = first_ns;
        for item in &found {
            answer(at_ns, DhtEvent::Value { op, item: (**item).clone() });
            at_ns += step_ns;
        }
        let done_ns = match mode {
            GetMode::First if !found.is_empty() => first_ns,
            GetMode::First | GetMode::MostRecent => first_ns + rest_ns,
        };
        let done = DhtDone { stored: 0, responded, newest_seq };
        answer(done_ns, DhtEvent::Done { op, result: Ok(done) });
    }

    /// What a liar says: an old version, an altered value, or a version from the future. It cannot sign any but the first.
    fn lie(
        &mut self,
        held: Option<Arc<MutableItem>>,
        oldest: Option<Arc<MutableItem>>,
    ) -> Option<Arc<MutableItem>> {
        let truth = held.or(oldest.clone())?;
        match self.draw.below(3) {
            0 => oldest,
            1 => {
                let mut value = truth.value.to_vec();
                let at = self.draw.below(value.len().max(1) as u64) as usize;
                if let Some(byte) = value.get_mut(at) {
                    *byte ^= 0x20;
                }
                Some(Arc::new(MutableItem { value: Bytes::from(value), ..(*truth).clone() }))
            }
            _ => Some(Arc::new(MutableItem { seq: truth.seq + 1_000, ..(*truth).clone() })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::id::{Keypair, Signature};

    fn item(seed: u8, seq: u64, value: &[u8], salt: &[u8]) -> MutableItem {
        let pair = Keypair::from_seed(&[seed; 32]);
        let mut item = MutableItem {
            key: pair.public(),
            salt: Bytes::copy_from_slice(salt),
            seq,
            value: Bytes::copy_from_slice(value),
            signature: Signature([0; 64]),
        };
        item.signature = pair.sign(&signed_bytes(&item));
        item
    }

    fn run(dht: &mut Dht, now_ns: u64, request: DhtRequest) -> Vec<(u64, DhtEvent)> {
        let mut out = Vec::new();
        dht.begin(now_ns, "45.0.0.9:30609".parse().unwrap(), OpId(1), request, |at, e| out.push((at, e)));
        assert!(out.is_sorted_by_key(|(at, _)| *at), "answers come in order");
        assert_eq!(out.iter().filter(|(_, e)| matches!(e, DhtEvent::Done { .. })).count(), 1);
        assert!(matches!(out.last(), Some((_, DhtEvent::Done { .. }))), "the end comes last");
        out
    }

    fn end(out: &[(u64, DhtEvent)]) -> Result<DhtDone, DhtFailed> {
        match out.last() {
            Some((_, DhtEvent::Done { result, .. })) => *result,
            other => panic!("no end: {other:?}"),
        }
    }

    fn put(dht: &mut Dht, now_ns: u64, item: MutableItem, cas: Option<u64>) -> Result<DhtDone, DhtFailed> {
        end(&run(dht, now_ns, DhtRequest::PutMutable { item, cas }))
    }

    fn values(dht: &mut Dht, now_ns: u64, of: &MutableItem) -> Vec<MutableItem> {
        let request =
            DhtRequest::GetMutable { key: of.key, salt: of.salt.clone(), mode: GetMode::MostRecent };
        let out = run(dht, now_ns, request);
        out.into_iter()
            .filter_map(|(_, e)| match e {
                DhtEvent::Value { item, .. } => Some(item),
                DhtEvent::Peers { .. }
                | DhtEvent::Immutable { .. }
                | DhtEvent::Done { .. }
                | DhtEvent::Health { .. } => None,
            })
            .collect()
    }

    #[test]
    fn the_vectors_of_bep_44_hold() {
        let key = <[u8; 32]>::try_from(
            (0..32)
                .map(|i| {
                    let hex = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";
                    u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()
                })
                .collect::<Vec<u8>>(),
        )
        .unwrap();
        assert_eq!(target_of(&key, b"").to_string(), "4a533d47ec9c7d95b1ad75f576cffc641853b750");
        assert_eq!(target_of(&key, b"foobar").to_string(), "411eba73b6f087ca51a3795d9c8c938d365e32c1");
        let mut i = item(1, 1, b"Hello World!", b"");
        assert_eq!(signed_bytes(&i), b"3:seqi1e1:v12:Hello World!");
        i.salt = Bytes::from_static(b"foobar");
        assert_eq!(signed_bytes(&i), b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
    }

    #[test]
    fn versions_only_go_up_and_the_same_one_is_refreshed() {
        let mut dht = Dht::new(1, DhtSpec::PERFECT);
        assert_eq!(put(&mut dht, 0, item(1, 5, b"five", b""), None).unwrap().stored, 8);
        assert_eq!(put(&mut dht, 1, item(1, 4, b"four", b""), None), Err(DhtFailed::SeqTooOld));
        assert_eq!(put(&mut dht, 2, item(1, 5, b"FIVE", b""), None), Err(DhtFailed::SeqTooOld));
        assert_eq!(put(&mut dht, 3, item(1, 5, b"five", b""), None).unwrap().newest_seq, Some(5));
        assert_eq!(put(&mut dht, 4, item(1, 6, b"six", b""), Some(4)), Err(DhtFailed::Cas));
        assert_eq!(put(&mut dht, 5, item(1, 6, b"six", b""), Some(5)).unwrap().stored, 8);
        assert_eq!(values(&mut dht, 6, &item(1, 6, b"six", b"")), [item(1, 6, b"six", b"")]);
        // Another salt is another target.
        assert_eq!(values(&mut dht, 6, &item(1, 6, b"six", b"salt")), []);
    }

    #[test]
    fn what_is_forged_or_too_large_is_refused() {
        let mut dht = Dht::new(1, DhtSpec::PERFECT);
        let mut forged = item(1, 1, b"mine", b"");
        forged.key = Keypair::from_seed(&[2; 32]).public();
        assert_eq!(put(&mut dht, 0, forged, None), Err(DhtFailed::BadSignature));
        assert_eq!(put(&mut dht, 0, item(1, 1, &[7; 997], b""), None), Err(DhtFailed::TooBig));
        assert!(put(&mut dht, 0, item(1, 1, &[7; 996], b""), None).is_ok());
    }

    #[test]
    fn values_and_peers_are_forgotten_in_the_end() {
        let mut dht = Dht::new(1, DhtSpec::PERFECT);
        let one = item(1, 1, b"v", b"");
        put(&mut dht, 0, one.clone(), None).unwrap();
        assert_eq!(values(&mut dht, SECOND_NS, &one).len(), 1);
        assert_eq!(values(&mut dht, VALUE_LIFE_NS, &one).len(), 0);
        let topic = DhtId([3; 20]);
        run(&mut dht, 0, DhtRequest::Announce { topic, port: AnnouncePort::Explicit(30906) });
        let peers = |out: Vec<(u64, DhtEvent)>| {
            out.into_iter().any(|(_, e)| matches!(e, DhtEvent::Peers { addrs, .. } if addrs == ["45.0.0.9:30906".parse().unwrap()]))
        };
        assert!(peers(run(&mut dht, 1, DhtRequest::GetPeers { topic })));
        assert!(!peers(run(&mut dht, PEER_LIFE_NS, DhtRequest::GetPeers { topic })));
    }

    #[test]
    fn an_immutable_item_is_found_under_its_hash_until_it_expires() {
        let mut dht = Dht::new(4, DhtSpec::PERFECT);
        let value = Bytes::from_static(b"Hello World!");
        let target = remote_network_core::dht::item::immutable_target(&value);
        assert_eq!(target.to_string(), "e5f96f6f38320f0f33959cb4d3d656452117aadb");
        assert!(end(&run(&mut dht, 0, DhtRequest::PutImmutable { value: value.clone() })).is_ok());
        let large = DhtRequest::PutImmutable { value: Bytes::from(vec![7; 997]) };
        assert_eq!(end(&run(&mut dht, 0, large)), Err(DhtFailed::TooBig));
        let mut found = |at_ns| {
            let out = run(&mut dht, at_ns, DhtRequest::GetImmutable { target });
            out.iter().any(|(_, e)| matches!(e, DhtEvent::Immutable { value: v, .. } if *v == value))
        };
        assert!(found(1) && !found(VALUE_LIFE_NS));
    }

    #[test]
    fn holders_that_missed_an_update_still_show_the_old_version() {
        let mut dht = Dht::new(4, DhtSpec { unreached_ppm: 300_000, ..DhtSpec::PERFECT });
        let seen: usize = (0..50u8)
            .map(|n| {
                put(&mut dht, 0, item(n, 1, b"old", b""), None).unwrap();
                put(&mut dht, 1, item(n, 2, b"new", b""), None).unwrap();
                values(&mut dht, 2, &item(n, 2, b"new", b"")).len()
            })
            .sum();
        assert!(seen > 60, "{seen} versions seen of 50 items: some saw both");
    }

    #[test]
    fn liars_lie_but_cannot_sign() {
        let mut dht = Dht::new(4, DhtSpec { liar_ppm: 500_000, ..DhtSpec::PERFECT });
        let truth = item(1, 7, b"the truth", b"");
        put(&mut dht, 0, item(1, 1, b"long ago", b""), None).unwrap();
        put(&mut dht, 0, truth.clone(), None).unwrap();
        let mut forged = 0;
        for now_ns in 1..50 {
            for value in values(&mut dht, now_ns, &truth) {
                if value.key.verify(&signed_bytes(&value), &value.signature) {
                    assert!(value == truth || value.seq == 1, "only true versions verify: {value:?}");
                } else {
                    forged += 1;
                }
            }
        }
        assert!(forged > 20 && dht.tally().lies > 50, "{forged} forged, {:?}", dht.tally());
    }

    #[test]
    fn offline_means_offline_for_everybody() {
        let mut dht = Dht::new(4, DhtSpec::PERFECT);
        dht.set_offline(true);
        assert_eq!(put(&mut dht, 0, item(1, 1, b"v", b""), None), Err(DhtFailed::Offline));
        assert_eq!(dht.health(), DhtEvent::Health { table_len: 0, reachable: false });
        dht.set_offline(false);
        assert!(put(&mut dht, 0, item(1, 1, b"v", b""), None).is_ok());
    }

    #[test]
    fn latencies_are_those_of_the_public_network() {
        let mut dht = Dht::new(9, DhtSpec::PERFECT);
        put(&mut dht, 0, item(1, 1, b"v", b""), None).unwrap();
        let mut firsts: Vec<u64> = (0..999)
            .map(|_| {
                let key = item(1, 1, b"v", b"").key;
                let out = run(
                    &mut dht,
                    0,
                    DhtRequest::GetMutable { key, salt: Bytes::new(), mode: GetMode::First },
                );
                out[0].0 / MS_NS
            })
            .collect();
        firsts.sort_unstable();
        assert!((220..280).contains(&firsts[499]) && (700..900).contains(&firsts[899]), "{}", firsts[499]);
    }
}
