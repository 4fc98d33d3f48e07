//! Every kind against every kind: does a connection come about, and does it become direct?
//!
//! All nodes live in one internet at the same time, two of each kind, and are dialled by key alone, one pair after the
//! other. A pair is held against the verdict on its kinds ([`crate::expected`]). That a path is direct is not only what a
//! node says: the internet, where it is between the two, must have carried what is too big for a probe from each to the other.

use crate::expected::{Verdict, verdict};
use crate::internet::{Home, Internet};
use crate::kind::Kind;
use crate::netns::LabError;
use crate::product::{Node, Product, Way};
use crate::stage::Stage;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Punching has ten seconds in all; this adds time for a loaded machine.
const DIRECT_WITHIN: Duration = Duration::from_secs(15);
/// Who guesses ports may be unlucky and tries again after ten seconds.
const GUESSED_WITHIN: Duration = Duration::from_secs(40);
/// How long a pair that cannot be direct is watched for a miracle.
const WATCHED: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What became of a pair.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// Who dialled.
    pub a: &'static str,
    /// Who was dialled.
    pub b: &'static str,
    /// Whether its kinds allow a direct path, by the simulator's oracle.
    pub expected: bool,
    /// Whether a port must be guessed for it.
    pub guess: bool,
    /// Whether there is a connection.
    pub connected: bool,
    /// Until it was there.
    pub connected_ms: Option<u64>,
    /// Whether its path became direct.
    pub direct: bool,
    /// Until the best path was there: the direct one, else the first.
    pub ms: Option<u64>,
    /// Whether this is what was expected.
    pub ok: bool,
    /// By which way, as who dialled says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// If not: what the nodes say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// All pairs, or the selection for a quick check.
pub fn all(reduced: bool) -> Vec<(Kind, Kind)> {
    use Kind::*;
    if reduced {
        return vec![
            (Open, PortRestricted),
            (PortRestricted, Open),
            (FullCone, SymmetricRandom),
            (RestrictedCone, SymmetricRandom),
            (PortRestricted, PortRestricted),
            (PortRestricted, SymmetricRandom),
            (SymmetricRandom, SymmetricRandom),
            (DoubleNat, PortRestricted),
            (UdpBlocked, PortRestricted),
            (OutboundOnly, OutboundOnly),
            (OutboundOnly, DoubleNat),
            (Ipv6, Ipv6),
            (CarrierHairpin, CarrierHairpin),
            (CarrierPlain, CarrierPlain),
        ];
    }
    let mut pairs = Vec::new();
    for (n, a) in Kind::ALONE.into_iter().enumerate() {
        pairs.extend(Kind::ALONE.into_iter().skip(n).map(|b| (a, b)));
    }
    pairs.extend([(CarrierHairpin, CarrierHairpin), (CarrierPlain, CarrierPlain)]);
    pairs
}

/// The name of a pair's experiment.
pub fn name(pair: (Kind, Kind)) -> String {
    format!("pair/{}+{}", pair.0.as_str(), pair.1.as_str())
}

/// Tries pairs.
pub fn run(
    product: &Product,
    pairs: &[(Kind, Kind)],
    mut done: impl FnMut(&Pair),
) -> Result<Vec<Pair>, LabError> {
    let mut stage = Stage::new(product)?;
    // Two nodes of each kind that is needed: who dials, and who is dialled.
    let mut nodes: BTreeMap<(Kind, bool), (Node, Place)> = BTreeMap::new();
    let mut needed: Vec<(Kind, bool)> = pairs.iter().flat_map(|(a, b)| [(*a, false), (*b, true)]).collect();
    needed.sort_unstable();
    needed.dedup();
    let mut carriers = BTreeMap::new();
    for (kind, dialled) in needed {
        let name = format!("{}-{}", kind.as_str(), if dialled { "b" } else { "a" });
        let internet = &mut stage.internet;
        let home: Home = match kind {
            Kind::CarrierHairpin | Kind::CarrierPlain => {
                let mut carrier = match carriers.remove(&kind) {
                    Some(carrier) => carrier,
                    None => internet.carrier(kind.as_str(), kind)?,
                };
                let home = internet.home_of(&name, &mut carrier)?;
                carriers.insert(kind, carrier);
                home
            }
            _ => internet.home(&name, kind)?,
        };
        // Homes have the same network; machines in them rarely the same address.
        let host = internet.host(&name, &home, if dialled { 23 } else { 42 })?;
        let node = stage.node(&host, &stage.private())?;
        nodes.insert((kind, dialled), (node, Place { home, own6: host.own6 }));
    }
    stage.wait(&nodes.values().map(|(node, _)| node).collect::<Vec<_>>())?;
    let mut tried = Vec::new();
    for (a, b) in pairs {
        let (Some(from), Some(to)) = (nodes.get(&(*a, false)), nodes.get(&(*b, true))) else { continue };
        let mut pair = Pair::new(*a, *b);
        if let Err(e) = pair.attempt(&stage.internet, from, to, verdict(*a, *b)) {
            pair.ok = false;
            pair.why = Some(e.to_string());
        }
        done(&pair);
        tried.push(pair);
    }
    Ok(tried)
}

/// Where a node is.
struct Place {
    home: Home,
    own6: Option<Ipv6Addr>,
}

impl Place {
    /// The addresses that the internet sees.
    fn addrs(&self) -> Vec<IpAddr> {
        [Some(self.home.outer.into()), self.own6.map(IpAddr::from)].into_iter().flatten().collect()
    }
}

impl Pair {
    const fn new(a: Kind, b: Kind) -> Self {
        Self {
            a: a.as_str(),
            b: b.as_str(),
            expected: false,
            guess: false,
            connected: false,
            connected_ms: None,
            direct: false,
            ms: None,
            ok: false,
            by: None,
            why: None,
        }
    }

    fn attempt(
        &mut self,
        internet: &Internet,
        (from, here): &(Node, Place),
        (to, there): &(Node, Place),
        expected: Verdict,
    ) -> Result<(), LabError> {
        self.expected = expected.is_direct();
        self.guess = expected == Verdict::Guess;
        if from.knows(&to.key)? {
            return Err(LabError::strange("they have met before"));
        }
        let started = Instant::now();
        let since = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        from.connect(&to.key)?;
        self.connected = true;
        self.connected_ms = Some(since());
        self.ms = self.connected_ms;
        let limit = match expected {
            Verdict::Direct => DIRECT_WITHIN,
            Verdict::Guess => GUESSED_WITHIN,
            Verdict::Relayed => WATCHED,
        };
        let watch = from.watch(&to.key, LOOK_EVERY)?;
        if watch.until(limit, |s| s.peer.way == Some(Way::Direct))?.is_some() {
            self.direct = true;
            self.ms = Some(since());
        }
        let seen = from.peer(&to.key)?;
        self.by = seen.place;
        let carried = here.home.outer == there.home.outer
            || internet.has_carried(&here.addrs(), &there.addrs())
                && internet.has_carried(&there.addrs(), &here.addrs());
        self.ok = self.direct == self.expected && (carried || !self.direct);
        if !self.ok {
            let back = to.peer(&from.key)?;
            let doubt = if self.direct && !carried { "nothing went directly | " } else { "" };
            self.why = Some(format!("{doubt}{} | {}", seen.words, back.words));
        }
        Ok(())
    }
}
