//! A transfer goes on, whatever becomes of the path beneath it.
//!
//! One node sends a file of many MiB to another, over a link of a known rate; in the middle something happens. The
//! receiver's count of received bytes is looked at every ten milliseconds: the longest time in which no real progress was
//! made is the stall. At the end the receiver's guest has digested every byte, and its digest must be ours; and the
//! connection must be the same as at the start.

use crate::internet::{Home, Host};
use crate::kind::Kind;
use crate::netns::LabError;
use crate::product::{Node, Product, Way};
use crate::sample::Sample;
use crate::stage::Stage;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Shorter times without progress are nothing: the count is looked at every ten milliseconds.
const STALL_US: u64 = 30_000;
/// What belongs to a change of ways: the way is seen to be another a moment before or after packets take it.
const AROUND_SWITCH_US: (u64, u64) = (500_000, 1_000_000);
/// Changes of ways that are told.
const WAYS_MAX: usize = 16;
/// Less than this is keep-alive, probes and acknowledgements, not progress.
const PROGRESS_BYTES: u64 = 16 << 10;
/// What the internet sends to each of the two, so that a transfer lasts long enough for something to happen in it.
const RATE_MBIT: u32 = 100;
/// Where a way must be found in time, a transfer lasts three quarters of a minute at least: who is relayed tries again ten
/// seconds after the connection, thirty, seventy.
const SLOW_MIB_PER_MBIT: u64 = 5;
/// A transfer is dead after so long without progress.
const DEAD_AFTER: Duration = Duration::from_secs(60);
const DIRECT_WITHIN: Duration = Duration::from_secs(15);

/// What happens in the middle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing: what a stall is on this machine anyway.
    Nothing,
    /// The direct path, cut from the beginning, is mended.
    RelayToDirect,
    /// The direct path is cut.
    DirectToRelay,
    /// The relay in use is killed; the direct path is cut throughout.
    RelayDies,
    /// The receiver's machine is plugged into another network.
    Roams,
    /// Both routers forget all their mappings.
    NatReboots,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 6] = [
        Trouble::Nothing,
        Trouble::RelayToDirect,
        Trouble::DirectToRelay,
        Trouble::RelayDies,
        Trouble::Roams,
        Trouble::NatReboots,
    ];

    /// The name of its experiment.
    pub const fn as_str(self) -> &'static str {
        match self {
            Trouble::Nothing => "continuity/undisturbed",
            Trouble::RelayToDirect => "continuity/relay-to-direct",
            Trouble::DirectToRelay => "continuity/direct-to-relay",
            Trouble::RelayDies => "continuity/relay-dies",
            Trouble::Roams => "continuity/roaming",
            Trouble::NatReboots => "continuity/nat-reboots",
        }
    }

    /// How long nothing may come: a change for the better is hardly noticed, and whoever loses a path may need three seconds.
    const fn stall_limit_ms(self) -> Option<u64> {
        match self {
            Trouble::Nothing => None,
            Trouble::RelayToDirect => Some(100),
            Trouble::DirectToRelay | Trouble::RelayDies | Trouble::Roams | Trouble::NatReboots => Some(3_000),
        }
    }

    /// The way that packets go at the end, where there is only one that is right.
    const fn way_after(self) -> Option<Way> {
        match self {
            Trouble::Nothing | Trouble::RelayToDirect => Some(Way::Direct),
            Trouble::DirectToRelay | Trouble::RelayDies => Some(Way::Relayed),
            Trouble::Roams | Trouble::NatReboots => None,
        }
    }

    /// Happens after this tenth of the transfer: the sooner the path is mended, the sooner it is tried again.
    const fn tenth(self) -> u64 {
        match self {
            Trouble::RelayToDirect => 1,
            _ => 4,
        }
    }

    fn rate_mbit(self, mib: u64) -> u32 {
        let slow = u32::try_from(mib / SLOW_MIB_PER_MBIT).unwrap_or(RATE_MBIT).clamp(1, RATE_MBIT);
        if matches!(self, Trouble::RelayToDirect) { slow } else { RATE_MBIT }
    }

    const fn starts_cut(self) -> bool {
        matches!(self, Trouble::RelayToDirect | Trouble::RelayDies)
    }

    /// Whether it can be tried with a binary that has no relays.
    pub const fn needs_relays(self) -> bool {
        !matches!(self, Trouble::Nothing)
    }
}

/// What became of a transfer.
#[derive(Debug, Serialize)]
pub struct Transfer {
    /// The experiment.
    pub name: &'static str,
    /// Size.
    pub mib: u64,
    /// From the first to the last byte.
    pub seconds: f64,
    /// The way at the start.
    pub way_before: String,
    /// The way at the end.
    pub way_after: String,
    /// The longest time without progress.
    pub longest_stall_ms: Option<u64>,
    /// From the trouble to the beginning of that time.
    pub stall_began_ms: Option<i64>,
    /// Where the receiver sent its packets, each with the time after the trouble; the first few.
    pub ways: Vec<(i64, String)>,
    /// The longest time without progress before the trouble: what this machine does to a transfer by itself.
    pub stall_before_ms: u64,
    /// From the trouble to the change to the way that is right then, if only one is.
    pub switched_ms: Option<i64>,
    /// The longest time without progress around that change.
    pub stall_at_switch_ms: Option<u64>,
    /// How long the trouble itself left the machine without a network.
    pub unplugged_ms: u64,
    /// What the longest time without progress may be, beside that: at the change if it is one for the better, else at all.
    pub stall_limit_ms: Option<u64>,
    /// Whether the digest was right.
    pub intact: bool,
    /// Whether the connection at the end is the one of the start.
    pub same_connection: bool,
    /// All of it.
    pub ok: bool,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Tries one. Stalls may be `patience` times as long as they should be.
pub fn run(product: &Product, trouble: Trouble, mib: u64, patience: u64) -> Transfer {
    let mut transfer = Transfer {
        name: trouble.as_str(),
        mib,
        seconds: 0.0,
        way_before: String::new(),
        way_after: String::new(),
        longest_stall_ms: None,
        stall_began_ms: None,
        ways: Vec::new(),
        stall_before_ms: 0,
        switched_ms: None,
        stall_at_switch_ms: None,
        unplugged_ms: 0,
        stall_limit_ms: trouble.stall_limit_ms().map(|ms| ms * patience),
        intact: false,
        same_connection: false,
        ok: false,
        why: None,
    };
    match Scene::set(product, trouble, mib) {
        Ok(mut scene) => {
            if let Err(e) = scene.play(trouble, mib, &mut transfer) {
                let (a, b) = (scene.a.last_words(), scene.b.last_words());
                transfer.why = Some(format!("{e} | a: {a} | b: {b}"));
            }
        }
        Err(e) => transfer.why = Some(e.to_string()),
    }
    transfer.ok = transfer.intact && transfer.same_connection && transfer.why.is_none();
    transfer
}

/// Two nodes in two homes, and what can happen to them. The nodes end before their namespaces.
struct Scene {
    a: Node,
    b: Node,
    homes: (Home, Home),
    other: Option<Home>,
    /// Where `b` is.
    host: Host,
    cut: (IpAddr, IpAddr),
    stage: Stage,
}

impl Scene {
    fn set(product: &Product, trouble: Trouble, mib: u64) -> Result<Self, LabError> {
        let mut stage = Stage::new(product)?;
        let home_a = stage.internet.home("home-a", Kind::PortRestricted)?;
        let home_b = stage.internet.home("home-b", Kind::PortRestricted)?;
        let other = match trouble {
            Trouble::Roams => Some(stage.internet.home("home-c", Kind::PortRestricted)?),
            _ => None,
        };
        let host_a = stage.internet.host("a", &home_a, 42)?;
        let host = stage.internet.host("b", &home_b, 23)?;
        for home in [Some(&home_a), Some(&home_b), other.as_ref()].into_iter().flatten() {
            stage.internet.limit(home.outer, trouble.rate_mbit(mib))?;
        }
        let cut = (IpAddr::from(home_a.outer), IpAddr::from(home_b.outer));
        if trouble.starts_cut() {
            stage.internet.cut(cut.0, cut.1, true)?;
        }
        let a = stage.node(&host_a, &stage.private())?;
        let b = stage.node(&host, &stage.private())?;
        b.offer_digest()?;
        stage.wait(&[&a, &b])?;
        Ok(Self { a, b, homes: (home_a, home_b), other, host, cut, stage })
    }

    fn play(&mut self, trouble: Trouble, mib: u64, transfer: &mut Transfer) -> Result<(), LabError> {
        let file = self.stage.internet.world.dir().join("bulk");
        let digest = write_bulk(&file, mib)?;
        self.a.connect(&self.b.key)?;
        let watch = self.b.watch(&self.a.key, LOOK_EVERY)?;
        let wanted = if trouble.starts_cut() { Way::Relayed } else { Way::Direct };
        let Some(first) = watch.until(DIRECT_WITHIN, |s| s.peer.way == Some(wanted))? else {
            let seen = self.b.peer(&self.a.key)?;
            return Err(LabError::strange(format!(
                "the path is not {wanted:?} before the transfer: {}",
                seen.words
            )));
        };
        transfer.way_before = format!("{wanted:?}").to_lowercase();

        let run = self.a.send(&file, &self.b.key)?;
        // To take the file in has a time of its own.
        let sent_us = unix_us();
        let mut progress = Progress::new(mib << 20);
        let deadline = Instant::now() + DEAD_AFTER + Duration::from_secs(mib);
        let mut happened: Option<u64> = None;
        let mut switched = None;
        let mut last = first.clone();
        while !progress.is_complete() {
            let now = Instant::now();
            let Some(sample) = watch.next((now + DEAD_AFTER).min(deadline))? else {
                return Err(LabError::strange(format!("{} of {} bytes came", progress.done, progress.total)));
            };
            progress.take(&sample);
            if progress.idle(&sample, sent_us) > DEAD_AFTER {
                return Err(LabError::strange(format!(
                    "nothing came any more after {} of {} bytes",
                    progress.done, progress.total
                )));
            }
            if let Some(at) = happened
                && sample.peer.place != last.peer.place
                && transfer.ways.len() < WAYS_MAX
            {
                let after = sample.at_us.cast_signed().saturating_sub(at.cast_signed()) / 1_000;
                transfer.ways.push((after, sample.peer.place.clone().unwrap_or_default()));
            }
            let changed = sample.peer.way != Some(wanted) && sample.peer.way == trouble.way_after();
            if happened.is_some() && switched.is_none() && changed {
                switched = Some(sample.at_us);
            }
            last = sample;
            if happened.is_none() && progress.done > progress.total * trouble.tenth() / 10 {
                happened = Some(unix_us());
                let began = Instant::now();
                self.happen(trouble)?;
                if trouble == Trouble::Roams {
                    transfer.unplugged_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                }
            }
        }
        transfer.longest_stall_ms = Some(progress.longest_us / 1_000);
        if let Some(at) = happened {
            let after = |us: u64| us.cast_signed().saturating_sub(at.cast_signed()) / 1_000;
            transfer.stall_began_ms = Some(after(progress.longest_from_us));
            transfer.stall_before_ms = progress.longest_within(0, at) / 1_000;
            transfer.switched_ms = switched.map(after);
            transfer.stall_at_switch_ms = switched.map(|us| {
                let (before, after) = AROUND_SWITCH_US;
                progress.longest_within(us - before, us + after) / 1_000
            });
        }
        transfer.seconds = progress.seconds();
        transfer.way_after = last.peer.way.map_or("none".to_owned(), |w| format!("{w:?}").to_lowercase());
        transfer.same_connection = last.peer.since == first.peer.since;
        transfer.intact = self.a.digest_of(&run, Duration::from_secs(60 + mib))? == digest;
        if !transfer.intact {
            return Err(LabError::strange("other bytes arrived than were sent"));
        }
        let counts = match trouble {
            Trouble::RelayToDirect => transfer.stall_at_switch_ms,
            _ => transfer.longest_stall_ms,
        };
        if let (Some(ms), Some(limit)) = (counts, transfer.stall_limit_ms)
            // What this machine does anyway is not held against a change.
            && ms > (limit + transfer.unplugged_ms).max(transfer.stall_before_ms)
        {
            return Err(LabError::strange(format!("nothing came for {ms} ms, more than {limit}")));
        }
        if let Some(way) = trouble.way_after().filter(|way| last.peer.way != Some(*way)) {
            return Err(LabError::strange(format!(
                "at the end the path is not {way:?}: {}",
                last.peer.words
            )));
        }
        Ok(())
    }

    fn passed_on(&self) -> Result<[u64; 2], LabError> {
        let [one, two, ..] = self.stage.publics.as_slice() else {
            return Err(LabError::strange("there are two relays"));
        };
        Ok([one.passed_on()?, two.passed_on()?])
    }

    fn happen(&mut self, trouble: Trouble) -> Result<(), LabError> {
        let internet = &mut self.stage.internet;
        match trouble {
            Trouble::Nothing => Ok(()),
            Trouble::RelayToDirect => internet.cut(self.cut.0, self.cut.1, false),
            Trouble::DirectToRelay => internet.cut(self.cut.0, self.cut.1, true),
            Trouble::RelayDies => {
                // The one in use is the one that works.
                let before = self.passed_on()?;
                std::thread::sleep(Duration::from_millis(300));
                let after = self.passed_on()?;
                let in_use = usize::from(after[1] - before[1] > after[0] - before[0]);
                self.stage.publics[in_use].kill();
                Ok(())
            }
            Trouble::Roams => {
                let Some(other) = &self.other else { return Ok(()) };
                self.host = internet.roam(&self.host, other, 24)?;
                Ok(())
            }
            Trouble::NatReboots => {
                self.homes.0.reboot()?;
                self.homes.1.reboot()
            }
        }
    }
}

/// What the samples tell.
struct Progress {
    total: u64,
    done: u64,
    /// The counter at the last progress, and when that was.
    mark: Option<(u64, u64)>,
    started_us: Option<u64>,
    longest_us: u64,
    /// When the longest time without progress began.
    longest_from_us: u64,
    /// Times without progress that are worth a word: from, until.
    stalls: Vec<(u64, u64)>,
    /// The counter starts again with every connection.
    counter: u64,
}

impl Progress {
    const fn new(total: u64) -> Self {
        Self {
            total,
            done: 0,
            mark: None,
            started_us: None,
            longest_us: 0,
            longest_from_us: 0,
            stalls: Vec::new(),
            counter: 0,
        }
    }

    fn take(&mut self, sample: &Sample) {
        let (now, counter) = (sample.at_us, sample.peer.received);
        if counter < self.counter {
            self.mark = self.mark.map(|(_, at)| (counter, at));
        }
        self.counter = counter;
        let Some((marked, at)) = self.mark else {
            self.mark = Some((counter, now));
            return;
        };
        if counter < marked + PROGRESS_BYTES {
            return;
        }
        self.done += counter - marked;
        self.mark = Some((counter, now));
        match self.started_us {
            None => self.started_us = Some(now),
            Some(_) => {
                if now.saturating_sub(at) > STALL_US {
                    self.stalls.push((at, now));
                }
                if now.saturating_sub(at) > self.longest_us {
                    (self.longest_us, self.longest_from_us) = (now.saturating_sub(at), at);
                }
            }
        }
    }

    /// The longest stall that touches a span of time.
    fn longest_within(&self, from: u64, until: u64) -> u64 {
        let touching = self.stalls.iter().filter(|(began, ended)| *ended > from && *began < until);
        touching.map(|(began, ended)| ended - began).max().unwrap_or(0)
    }

    fn idle(&self, sample: &Sample, sent_us: u64) -> Duration {
        Duration::from_micros(self.mark.map_or(0, |(_, at)| sample.at_us.saturating_sub(at.max(sent_us))))
    }

    /// The last bytes may come in packets too few to count.
    const fn is_complete(&self) -> bool {
        self.done + 2 * PROGRESS_BYTES >= self.total
    }

    fn seconds(&self) -> f64 {
        let ended = self.mark.map_or(0, |(_, at)| at);
        ended.saturating_sub(self.started_us.unwrap_or(ended)) as f64 / 1e6
    }
}

fn unix_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Writes a file of pseudo-random bytes; its FNV-1a digest as `digest.wat` computes it.
fn write_bulk(path: &Path, mib: u64) -> Result<[u8; 8], LabError> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut digest: u64 = 0xcbf2_9ce4_8422_2325;
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..mib {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        for byte in &chunk {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        file.write_all(&chunk)?;
    }
    file.flush()?;
    Ok(digest.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::PeerSeen;

    fn sample(at_ms: u64, received: u64) -> Sample {
        let peer = PeerSeen { way: None, since: 0, received, place: None, words: String::new() };
        Sample { at_us: at_ms * 1_000, peer }
    }

    #[test]
    fn a_stall_is_a_time_without_real_progress() {
        let mut progress = Progress::new(1 << 20);
        for (at_ms, received) in [(0, 0), (10, 200_000), (20, 400_000), (300, 401_000), (620, 600_000)] {
            progress.take(&sample(at_ms, received));
        }
        assert_eq!(progress.longest_us, 600_000);
        assert_eq!(progress.done, 600_000);
    }

    #[test]
    fn the_wait_for_the_first_byte_is_no_stall() {
        let mut progress = Progress::new(1 << 20);
        for (at_ms, received) in [(0, 5_000), (5_000, 5_100), (5_010, 100_000), (5_020, 200_000)] {
            progress.take(&sample(at_ms, received));
        }
        assert_eq!(progress.longest_us, 10_000);
    }
}
