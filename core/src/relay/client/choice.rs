//! Which relay: choosing, looking for better ones, trying again.

use super::*;

/// A relay that was never measured is taken for one this far away.
const UNMEASURED_COST_US: u64 = 200_000;

impl Client {
    /// Reservations that stand without suspicion, and those on their way.
    fn reservations(&self) -> usize {
        let counts = |r: &&Relay| match r.phase {
            Phase::Registering { .. } => true,
            Phase::Held(held) => held.suspect.is_none(),
            Phase::Idle | Phase::Connecting { .. } | Phase::Measuring { .. } => false,
        };
        self.relays.values().filter(counts).count()
    }

    /// Reservations that are missing.
    fn missing(&self) -> usize {
        2usize.saturating_sub(self.reservations())
    }

    fn in_phase(&self, wanted: impl Fn(&Phase) -> bool) -> usize {
        self.relays.values().filter(|r| wanted(&r.phase)).count()
    }

    /// The lower the better. Two reservations at one address fall together, so another address is worth twice the way.
    fn rank(&self, key: &PublicKey, relay: &Relay) -> (bool, u64, u64) {
        let used = |(k, r): &(&PublicKey, &Relay)| {
            *k != key && matches!(r.phase, Phase::Held(_) | Phase::Registering { .. })
        };
        let mut same_ip = self.relays.iter().filter(used).filter(|(_, r)| r.addr.ip() == relay.addr.ip());
        let cost = relay.cost_us().unwrap_or(UNMEASURED_COST_US);
        let cost = if same_ip.next().is_some() { cost.saturating_mul(2) } else { cost };
        (!(self.preferred == Some(*key) && relay.is_healthy()), cost, relay.order)
    }

    fn best(&self, wanted: impl Fn(&PublicKey, &Relay) -> bool) -> Option<PublicKey> {
        let wanted = self.relays.iter().filter(|(key, r)| wanted(key, r));
        wanted.min_by_key(|(key, r)| self.rank(key, r)).map(|(key, _)| *key)
    }

    fn register(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey) {
        if let Some(relay) = self.relays.get_mut(key) {
            relay.phase = Phase::Registering { until: cx.now + ANSWER_TIMEOUT };
        }
        self.say(cx, key, &Message::Register);
    }

    fn connect(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        if let Some(relay) = self.relays.get_mut(&key) {
            relay.phase = Phase::Connecting { until: cx.now + CONNECT_TIMEOUT };
            relay.tried_at = Some(cx.now);
            cx.emit(Output::Connect { key, addr: relay.addr });
        }
    }

    fn is_free(relay: &Relay, now: Instant) -> bool {
        relay.phase == Phase::Idle && relay.not_before <= now && !relay.gone
    }

    /// Registers at the best of those that are connected, as many as are missing, when all are there or time is up.
    pub(super) fn choose(&mut self, cx: &mut Cx<'_, Output>) {
        let connecting = self.in_phase(|p| matches!(p, Phase::Connecting { .. }));
        match self.choose_at {
            Some(at) if at > cx.now && connecting > 0 => return,
            Some(_) | None => self.choose_at = None,
        }
        while self.missing() > 0
            && let Some(key) = self.best(|_, r| matches!(r.phase, Phase::Measuring { .. }))
        {
            self.register(cx, &key);
        }
    }

    /// The preferred relay needs no evidence.
    pub(super) fn prefer(&mut self, cx: &mut Cx<'_, Output>) {
        let Some(key) = self.preferred else { return };
        let Some(relay) = self.relays.get(&key).filter(|r| r.is_healthy()) else { return };
        if self.active == Some(key) {
            return;
        }
        match relay.phase {
            Phase::Idle if Self::is_free(relay, cx.now) => self.connect(cx, key),
            Phase::Measuring { .. } if self.active.is_some() => {
                self.successor = Some(key);
                self.register(cx, &key);
            }
            Phase::Held(held) if held.suspect.is_none() && self.standby == Some(key) => {
                self.swap(cx, "the preferred relay is there");
            }
            Phase::Registering { .. } if self.active.is_some() => self.successor = Some(key),
            Phase::Idle
            | Phase::Connecting { .. }
            | Phase::Measuring { .. }
            | Phase::Registering { .. }
            | Phase::Held(_) => {}
        }
    }

    /// Lets those go that were measured and are not needed.
    pub(super) fn release_measured(&mut self, cx: &mut Cx<'_, Output>) {
        if let Some(key) = self.successor
            && matches!(self.relays.get(&key).map(|r| r.phase), Some(Phase::Measuring { .. }))
        {
            self.register(cx, &key);
        }
        if self.missing() > 0 || self.in_phase(|p| matches!(p, Phase::Registering { .. })) > 0 {
            return;
        }
        let measured = |r: &Relay| matches!(r.phase, Phase::Measuring { .. }) && r.load.is_some();
        let keys: Vec<PublicKey> =
            self.relays.iter().filter(|(_, r)| measured(r)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(relay) = self.relays.get_mut(&key) {
                relay.succeed();
            }
            self.release(cx, &key);
        }
    }

    /// Connects to more relays while reservations are missing.
    pub(super) fn connect_more(&mut self, cx: &mut Cx<'_, Output>) {
        let busy = |p: &Phase| matches!(p, Phase::Connecting { .. } | Phase::Measuring { .. });
        while self.missing() > 0
            && self.in_phase(busy) < PARALLEL_MAX
            && let Some(key) = self.best(|_, r| Self::is_free(r, cx.now))
        {
            self.connect(cx, key);
        }
        if self.look_at.is_none() {
            self.look_at = Some(cx.now + LOOK_EVERY);
            self.measure_at = Some(cx.now + MEASURE_EVERY);
        }
    }

    /// Compares relays, and measures some, when it is time.
    pub(super) fn look(&mut self, cx: &mut Cx<'_, Output>) {
        if self.measure_at.is_some_and(|at| at <= cx.now) {
            self.measure_at = Some(cx.now + MEASURE_EVERY);
            self.measure(cx);
        }
        if self.look_at.is_some_and(|at| at <= cx.now) {
            self.look_at = Some(cx.now + LOOK_EVERY);
            self.compare(cx);
        }
    }

    /// Measures the likely ones, and of those nobody knows the one that was not tried for longest.
    fn measure(&mut self, cx: &mut Cx<'_, Output>) {
        // Those in use are tried all the time: as much evidence for them as for the others.
        self.relays.values_mut().filter(|r| r.held().is_some() && !r.is_suspect()).for_each(Relay::succeed);
        for n in 0..MEASURED_MAX {
            let free = |r: &Relay| Self::is_free(r, cx.now) && r.tried_at != Some(cx.now);
            let next = if n == 0 {
                let free = self.relays.iter().filter(|(_, r)| free(r));
                free.min_by_key(|(_, r)| (r.tried_at, r.order)).map(|(key, _)| *key)
            } else {
                self.best(|_, r| free(r))
            };
            let Some(key) = next else { return };
            if let Some(relay) = self.relays.get_mut(&key) {
                relay.load = None;
            }
            self.connect(cx, key);
        }
    }

    fn compare(&mut self, cx: &mut Cx<'_, Output>) {
        let cost = |r: &Relay| r.cost_us().filter(|_| r.rtt_at + RTT_FRESH > cx.now);
        let Some((active, now)) = self.active.and_then(|k| Some((k, cost(self.relays.get(&k)?)?))) else {
            return;
        };
        for (key, relay) in &mut self.relays {
            let better = *key != active
                && relay.is_healthy()
                && !relay.is_suspect()
                && cost(relay)
                    .is_some_and(|c| c.saturating_mul(100 + BETTER_PERCENT) < now.saturating_mul(100));
            relay.better_since = better.then(|| relay.better_since.unwrap_or(cx.now));
        }
        let preferred =
            self.preferred == Some(active) && self.relays.get(&active).is_some_and(Relay::is_healthy);
        if self.successor.is_some() || preferred {
            return;
        }
        let proven = |r: &Relay| r.better_since.is_some_and(|at| at + EVIDENCE_TIME <= cx.now);
        let ready = |r: &Relay| r.held().is_some() || Self::is_free(r, cx.now);
        let Some(key) = self.best(|_, r| proven(r) && ready(r)) else { return };
        if self.standby == Some(key) {
            self.swap(cx, "the standby was better for half an hour");
        } else {
            self.successor = Some(key);
            self.connect(cx, key);
        }
        self.relays.values_mut().for_each(|r| r.better_since = None);
    }

    /// When a relay that is left alone may be tried, if one is wanted.
    pub(super) fn set_retry(&mut self, now: Instant) {
        let missing = self.missing() > 0;
        let wanted = |key: &PublicKey, r: &Relay| {
            let preferred = self.preferred == Some(*key) && r.is_healthy() && self.active != Some(*key);
            r.phase == Phase::Idle && !r.gone && (missing || preferred) && r.not_before > now
        };
        let waiting = self.relays.iter().filter(|(key, r)| wanted(key, r)).map(|(_, r)| r.not_before);
        self.retry_at = if self.wanted { waiting.min() } else { None };
    }
}
