//! Who may use the API: secrets, and nothing that a browser would send by itself (no cookies).
//!
//! - The **node token** is made at every start and written to `api-token` (mode 0600) for the command line of the same
//!   user. A restart revokes it.
//! - A **sign-in code** (one use, ten minutes) travels in the fragment of a link, which browsers send to nobody; the page
//!   exchanges it for a **session token** that it keeps in `sessionStorage`.
//! - A **ticket** (one use, 30 s) opens the event socket, because a WebSocket cannot carry an `Authorization` header and
//!   a token does not belong into a URL.
//!
//! All four are 256 random bits, kept here only as BLAKE3 hashes and compared in constant time. They cannot be guessed;
//! the limit on failures only keeps noise down. It is counted for everybody together, since all callers of a loopback
//! socket look alike, and so it must never refuse a *valid* secret: else any local program could lock the user out.

use remote_network_core::time::Duration;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use subtle::ConstantTimeEq as _;

/// A session unused for this long ends.
pub const SESSION_IDLE: Duration = Duration::from_secs(12 * 3600);
/// A session ends after this long in any case.
pub const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Sessions at once: browser tabs of one person. The least recently used gives way.
pub const SESSIONS_MAX: usize = 32;
/// Life of a sign-in code.
pub const SIGN_IN_LIFE: Duration = Duration::from_secs(600);
/// Sign-in codes outstanding; the oldest gives way.
pub const SIGN_INS_MAX: usize = 8;
/// Life of a ticket.
pub const TICKET_LIFE: Duration = Duration::from_secs(30);
/// Tickets outstanding; the oldest gives way.
pub const TICKETS_MAX: usize = 64;
/// Failures told apart from a flood: so many at once …
pub const FAILURES_BURST: u32 = 10;
/// … and one more every so often.
pub const FAILURE_EVERY: Duration = Duration::from_secs(6);

/// 256 random bits in 64 hex digits. The only type that holds a secret in the clear; it is never printed by `Debug`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A fresh one.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0u8; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random bytes to be had"))?;
        Ok(Self(blake3::Hash::from_bytes(bytes).to_hex().to_string()))
    }

    /// The text to hand out.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a failed attempt gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The secret is missing, wrong, used or too old.
    Wrong,
    /// The same, and there were too many of these lately.
    TooMany,
}

#[derive(Clone)]
struct Hashed([u8; 32]);

impl Hashed {
    fn of(secret: &str) -> Self {
        Self(*blake3::hash(secret.as_bytes()).as_bytes())
    }

    fn matches(&self, other: &Hashed) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

struct Session {
    hash: Hashed,
    made: Instant,
    used: Instant,
}

struct OneTime {
    hash: Hashed,
    ends: Instant,
}

struct State {
    sessions: Vec<Session>,
    sign_ins: Vec<OneTime>,
    tickets: Vec<OneTime>,
    failures_left: u32,
    refilled: Instant,
}

/// Knows every secret that is good at the moment.
pub struct Gatekeeper {
    token: Hashed,
    state: Mutex<State>,
}

impl Gatekeeper {
    /// Accepts `token` and nothing else yet.
    pub fn new(token: &Secret, now: Instant) -> Self {
        let state = State {
            sessions: Vec::new(),
            sign_ins: Vec::new(),
            tickets: Vec::new(),
            failures_left: FAILURES_BURST,
            refilled: now,
        };
        Self { token: Hashed::of(token.reveal()), state: Mutex::new(state) }
    }

    /// Whether `bearer` is the node token or a living session; a session counts as used now.
    pub fn check(&self, bearer: Option<&str>, now: Instant) -> Result<(), Refusal> {
        let mut state = self.lock();
        state.forget_old(now);
        let Some(bearer) = bearer else { return Err(state.refuse(now)) };
        let hash = Hashed::of(bearer);
        let mut good = self.token.matches(&hash);
        for session in &mut state.sessions {
            if session.hash.matches(&hash) {
                session.used = now;
                good = true;
            }
        }
        if good { Ok(()) } else { Err(state.refuse(now)) }
    }

    /// A fresh sign-in code.
    pub fn issue_sign_in(&self, now: Instant) -> io::Result<Secret> {
        let secret = Secret::random()?;
        issue(&mut self.lock().sign_ins, SIGN_INS_MAX, &secret, now + SIGN_IN_LIFE);
        Ok(secret)
    }

    /// Exchanges a sign-in code for a session token. The code is spent.
    pub fn sign_in(&self, code: &str, now: Instant) -> io::Result<Result<Secret, Refusal>> {
        let secret = Secret::random()?;
        let mut state = self.lock();
        state.forget_old(now);
        if !spend(&mut state.sign_ins, code) {
            return Ok(Err(state.refuse(now)));
        }
        if state.sessions.len() >= SESSIONS_MAX {
            let least_used = state.sessions.iter().enumerate().min_by_key(|(_, s)| s.used).map(|(i, _)| i);
            if let Some(i) = least_used {
                state.sessions.swap_remove(i);
            }
        }
        state.sessions.push(Session { hash: Hashed::of(secret.reveal()), made: now, used: now });
        Ok(Ok(secret))
    }

    /// Ends the session of this token; the node token stays.
    pub fn sign_out(&self, bearer: &str) {
        let hash = Hashed::of(bearer);
        self.lock().sessions.retain(|s| !s.hash.matches(&hash));
    }

    /// A fresh ticket for the event socket.
    pub fn issue_ticket(&self, now: Instant) -> io::Result<Secret> {
        let secret = Secret::random()?;
        let mut state = self.lock();
        state.forget_old(now);
        issue(&mut state.tickets, TICKETS_MAX, &secret, now + TICKET_LIFE);
        Ok(secret)
    }

    /// Spends a ticket.
    pub fn use_ticket(&self, ticket: &str, now: Instant) -> Result<(), Refusal> {
        let mut state = self.lock();
        state.forget_old(now);
        if spend(&mut state.tickets, ticket) { Ok(()) } else { Err(state.refuse(now)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        self.sessions.retain(|s| {
            now.saturating_duration_since(s.used) < SESSION_IDLE
                && now.saturating_duration_since(s.made) < SESSION_LIFE
        });
        self.sign_ins.retain(|c| now < c.ends);
        self.tickets.retain(|t| now < t.ends);
    }

    fn refuse(&mut self, now: Instant) -> Refusal {
        while self.failures_left < FAILURES_BURST
            && now.saturating_duration_since(self.refilled) >= FAILURE_EVERY
        {
            self.failures_left += 1;
            self.refilled += FAILURE_EVERY;
        }
        if self.failures_left == FAILURES_BURST {
            self.refilled = now;
        }
        match self.failures_left.checked_sub(1) {
            Some(left) => {
                self.failures_left = left;
                Refusal::Wrong
            }
            None => Refusal::TooMany,
        }
    }
}

fn issue(list: &mut Vec<OneTime>, max: usize, secret: &Secret, ends: Instant) {
    if list.len() >= max {
        list.remove(0);
    }
    list.push(OneTime { hash: Hashed::of(secret.reveal()), ends });
}

/// Compares with all of them, so that time tells nothing.
fn spend(list: &mut Vec<OneTime>, text: &str) -> bool {
    let hash = Hashed::of(text);
    let before = list.len();
    list.retain(|one| !one.hash.matches(&hash));
    list.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> (Gatekeeper, Secret, Instant) {
        let token = Secret::random().expect("random");
        let now = Instant::now();
        (Gatekeeper::new(&token, now), token, now)
    }

    #[test]
    fn only_the_node_token_is_good_at_first() {
        let (keeper, token, now) = keeper();
        assert_eq!(keeper.check(Some(token.reveal()), now), Ok(()));
        assert_eq!(keeper.check(None, now), Err(Refusal::Wrong));
        assert_eq!(keeper.check(Some(""), now), Err(Refusal::Wrong));
        assert_eq!(keeper.check(Some(&token.reveal()[1..]), now), Err(Refusal::Wrong));
    }

    #[test]
    fn a_sign_in_code_works_once_and_not_for_long() {
        let (keeper, _, now) = keeper();
        let code = keeper.issue_sign_in(now).expect("random");
        let session = keeper.sign_in(code.reveal(), now).expect("random").expect("good");
        assert_eq!(keeper.check(Some(session.reveal()), now), Ok(()));
        assert_eq!(keeper.check(Some(code.reveal()), now), Err(Refusal::Wrong), "a code is no token");
        assert!(keeper.sign_in(code.reveal(), now).expect("random").is_err(), "spent");
        let late = keeper.issue_sign_in(now).expect("random");
        assert!(keeper.sign_in(late.reveal(), now + SIGN_IN_LIFE).expect("random").is_err(), "too old");
    }

    #[test]
    fn a_session_ends_by_idleness_by_age_and_by_sign_out() {
        let (keeper, token, now) = keeper();
        let enter = |at| {
            let code = keeper.issue_sign_in(at).expect("random");
            keeper.sign_in(code.reveal(), at).expect("random").expect("good")
        };
        let idle = enter(now);
        assert!(keeper.check(Some(idle.reveal()), now + SESSION_IDLE).is_err());
        let busy = enter(now);
        let mut at = now;
        while at + Duration::from_secs(3600) < now + SESSION_LIFE {
            at += Duration::from_secs(3600);
            assert_eq!(keeper.check(Some(busy.reveal()), at), Ok(()));
        }
        assert!(keeper.check(Some(busy.reveal()), now + SESSION_LIFE).is_err());
        let left = enter(now);
        keeper.sign_out(left.reveal());
        keeper.sign_out(token.reveal());
        assert!(keeper.check(Some(left.reveal()), now).is_err());
        assert_eq!(keeper.check(Some(token.reveal()), now), Ok(()));
    }

    #[test]
    fn a_ticket_opens_one_socket_within_half_a_minute() {
        let (keeper, _, now) = keeper();
        let ticket = keeper.issue_ticket(now).expect("random");
        assert!(keeper.check(Some(ticket.reveal()), now).is_err(), "a ticket is no token");
        assert_eq!(keeper.use_ticket(ticket.reveal(), now), Ok(()));
        assert!(keeper.use_ticket(ticket.reveal(), now).is_err());
        let late = keeper.issue_ticket(now).expect("random");
        assert!(keeper.use_ticket(late.reveal(), now + TICKET_LIFE).is_err());
    }

    #[test]
    fn a_flood_of_failures_is_limited_but_never_locks_the_owner_out() {
        let (keeper, token, now) = keeper();
        for _ in 0..FAILURES_BURST {
            assert_eq!(keeper.check(Some("no"), now), Err(Refusal::Wrong));
        }
        for _ in 0..1_000 {
            assert_eq!(keeper.check(Some("no"), now), Err(Refusal::TooMany));
        }
        assert_eq!(keeper.check(Some(token.reveal()), now), Ok(()));
        assert_eq!(keeper.check(Some("no"), now + FAILURE_EVERY), Err(Refusal::Wrong));
        assert_eq!(keeper.check(Some("no"), now + FAILURE_EVERY), Err(Refusal::TooMany));
    }

    #[test]
    fn everything_outstanding_is_bounded() {
        let (keeper, _, now) = keeper();
        for _ in 0..3 * SESSIONS_MAX {
            let code = keeper.issue_sign_in(now).expect("random");
            keeper.sign_in(code.reveal(), now).expect("random").expect("good");
            keeper.issue_sign_in(now).expect("random");
            keeper.issue_ticket(now).expect("random");
        }
        let state = keeper.lock();
        assert_eq!(state.sessions.len(), SESSIONS_MAX);
        assert!(state.sign_ins.len() <= SIGN_INS_MAX && state.tickets.len() <= TICKETS_MAX);
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::random().expect("random");
        assert_eq!(secret.reveal().len(), 64);
        assert!(!format!("{secret:?}").contains(secret.reveal()));
    }
}
