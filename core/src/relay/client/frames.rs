//! What relays say, and what a reservation that stands is for.

use super::*;
use crate::relay::message::{Registered, Why};

impl Client {
    pub(super) fn frame(&mut self, cx: &mut Cx<'_, Output>, conn: ConnId, frame: &Frame) {
        let Some(key) = self.by_conn(conn) else { return };
        let Ok(message) = Message::from_frame(frame) else {
            return cx.emit(Output::Refused("relay-frame-malformed"));
        };
        if let Some(held) = self.relays.get_mut(&key).and_then(Relay::held_mut) {
            // Whatever it says, it is there.
            held.suspect = None;
        }
        match message {
            Message::Registered(registered) => self.registered(cx, key, &registered),
            Message::Refused { why, .. } => {
                let words = why.words();
                match why {
                    Why::Full | Why::Address => self.pause(cx, &key, FULL_PAUSE, words),
                    Why::Busy | Why::Closing => self.pause(cx, &key, BUSY_PAUSE, words),
                    Why::Blocked | Why::NoRelay | Why::Other(_) => {
                        self.pause(cx, &key, UNWANTED_PAUSE, words)
                    }
                }
                cx.emit(Output::Explain(format!("relay {key} refuses: {words}")));
            }
            Message::Going { back_in, .. } => {
                let time = back_in.clamp(FORGETFUL, UNWANTED_PAUSE);
                self.pause(cx, &key, time, "it sends us away");
            }
            Message::Gone { peer } if peer == self.me => self.forgotten(cx, &key),
            // A peer we wrote to: the business of who did.
            Message::Gone { .. } => {}
            Message::Load(load) => {
                let Some(relay) = self.relays.get_mut(&key) else { return };
                relay.load = Some(load);
                relay.price = load.price;
            }
            Message::Register | Message::Unregister | Message::Ask => {
                cx.emit(Output::Refused("relay-frame-of-a-client"));
            }
        }
    }

    /// The relay has no session of ours: another one took over, or it was not renewed.
    fn forgotten(&mut self, cx: &mut Cx<'_, Output>, key: &PublicKey) {
        let Some(relay) = self.relays.get_mut(key).filter(|r| r.held().is_some()) else { return };
        if relay.forgot_at.is_some_and(|at| at + FORGETFUL > cx.now) {
            return self.fail(cx, key, "it forgets reservations");
        }
        relay.forgot_at = Some(cx.now);
        relay.phase = Phase::Registering { until: cx.now + ANSWER_TIMEOUT };
        self.drop_role(cx, key, "it forgot the reservation");
        self.say(cx, key, &Message::Register);
    }

    fn registered(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey, r: &Registered) {
        let Some(relay) = self.relays.get_mut(&key) else { return };
        let renew_at = cx.now + (r.lifetime / 2).clamp(RENEW_MIN, RENEW_MAX);
        let (session, observed) = (r.session, r.observed);
        let held = Held { session, observed, renew_at, renewing: None, suspect: None };
        let renewed = match &relay.phase {
            Phase::Registering { .. } => false,
            Phase::Held(before) if before.renewing.is_some() => true,
            Phase::Idle | Phase::Connecting { .. } | Phase::Measuring { .. } | Phase::Held(_) => {
                return cx.emit(Output::Refused("relay-registered-unasked"));
            }
        };
        relay.succeed();
        relay.phase = Phase::Held(held);
        if !renewed {
            self.take_role(cx, key);
        }
    }

    /// A new reservation stands: what is it?
    fn take_role(&mut self, cx: &mut Cx<'_, Output>, key: PublicKey) {
        let suspect =
            |k: Option<PublicKey>| k.and_then(|k| self.relays.get(&k)).is_some_and(Relay::is_suspect);
        let (active_weak, standby_weak) = (suspect(self.active), suspect(self.standby));
        let succeeds = self.successor == Some(key);
        if succeeds {
            self.successor = None;
        }
        if self.active.is_none() || active_weak || succeeds {
            let before = self.active.replace(key);
            if let Some(surplus) = before.and_then(|_| std::mem::replace(&mut self.standby, before)) {
                self.leave(cx, &surplus);
            }
            self.tell_active(cx, "a reservation stands");
        } else if self.standby.is_none() || standby_weak {
            if let Some(surplus) = self.standby.replace(key) {
                self.leave(cx, &surplus);
            }
        } else {
            return self.leave(cx, &key);
        }
        if let Some(standby) = self.standby() {
            cx.emit(Output::Standby(standby));
        }
    }
}
