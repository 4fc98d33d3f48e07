//! Mutation of canonical bencode by its structure.
//!
//! Bytes changed blindly are hardly ever canonical, and changed statements never carry their signature. So a value is
//! read, changed somewhere (also in bencode within byte strings), every signature by a known key is made good again, and
//! the whole is written back. One change in eight stays blind, for what lies before the first valid value.

use crate::keys::{keypair, known};
use libfuzzer_sys::fuzzer_mutate;
use remote_network_core::codec::{Dict, Value};
use remote_network_core::job::order::Order;
use remote_network_core::job::receipt::{Commit, Receipt};
use remote_network_core::job::signed::{Signed, Statement};
use remote_network_core::rng::Rng;
use remote_network_core::ticket::Ticket;
use remote_network_core::time::UnixTime;

/// Numbers at which something changes its meaning.
const EDGES: [i64; 14] =
    [0, 1, 2, 7, 255, 256, 65_535, 65_536, 1 << 31, 1 << 32, 1 << 40, i64::MAX / 1000, i64::MAX, -1];
/// Longest list that repetition makes.
const LIST_MAX: usize = 300;

/// Changes the value behind the first `prefix` bytes of `data[..size]`; the body of a target's `fuzz_mutator!`.
pub fn bencode(data: &mut [u8], size: usize, max_size: usize, seed: u32, prefix: usize) -> usize {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let mut rng = Rng::from_seed(bytes);
    if size > prefix
        && rng.below(8) > 0
        && let Ok(mut value) = Value::decode(&data[prefix..size], size)
    {
        for _ in 0..=rng.below(3) {
            change(&mut value, &mut rng);
        }
        resign(&mut value);
        let bytes = value.encode();
        if !bytes.is_empty() && prefix + bytes.len() <= max_size {
            data[prefix..prefix + bytes.len()].copy_from_slice(&bytes);
            return prefix + bytes.len();
        }
    }
    fuzzer_mutate(data, size, max_size)
}

fn pick(rng: &mut Rng, len: usize) -> usize {
    rng.below(len as u64) as usize
}

fn change(value: &mut Value, rng: &mut Rng) {
    match value {
        Value::Int(n) => {
            *n = match rng.below(3) {
                0 => n.wrapping_add(1),
                1 => n.wrapping_sub(1),
                _ => EDGES[pick(rng, EDGES.len())],
            }
        }
        Value::Bytes(bytes) => change_bytes(bytes, rng),
        Value::List(items) => change_list(items, rng),
        Value::Dict(dict) => {
            if rng.below(12) == 0 || dict.0.is_empty() {
                dict.0.insert(vec![b'a' + rng.below(26) as u8], some_value(rng));
                return;
            }
            let at = pick(rng, dict.0.len());
            let Some(key) = dict.0.keys().nth(at).cloned() else { return };
            match rng.below(16) {
                0 => drop(dict.0.remove(&key)),
                1 => drop(dict.0.insert(key, some_value(rng))),
                _ => dict.0.get_mut(&key).into_iter().for_each(|inner| change(inner, rng)),
            }
        }
    }
}

fn change_list(items: &mut Vec<Value>, rng: &mut Rng) {
    if items.is_empty() {
        return items.push(some_value(rng));
    }
    let at = pick(rng, items.len());
    match rng.below(8) {
        0 => drop(items.remove(at)),
        1 => items.insert(pick(rng, items.len() + 1), items[at].clone()),
        2 => {
            let other = pick(rng, items.len());
            items.swap(at, other);
        }
        3 if rng.below(16) == 0 => {
            let many = vec![items[at].clone(); LIST_MAX];
            items.extend(many);
        }
        _ => change(&mut items[at], rng),
    }
}

fn change_bytes(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if let Ok(mut inner @ (Value::Dict(_) | Value::List(_))) = Value::decode(bytes, bytes.len())
        && rng.below(16) > 0
    {
        change(&mut inner, rng);
        *bytes = inner.encode();
        return;
    }
    match rng.below(8) {
        0 => bytes.clear(),
        1 => bytes.truncate(bytes.len() / 2),
        2 => bytes.push(rng.below(256) as u8),
        3 => *bytes = keypair(rng.below(6) as u8).public().as_bytes().to_vec(),
        4 => bytes.extend(bytes.clone()),
        _ if bytes.is_empty() => bytes.push(0),
        _ => {
            let at = pick(rng, bytes.len());
            bytes[at] = rng.below(256) as u8;
        }
    }
    bytes.truncate(1 << 14);
}

fn some_value(rng: &mut Rng) -> Value {
    match rng.below(5) {
        0 => Value::Int(EDGES[pick(rng, EDGES.len())]),
        1 => Value::Bytes(rng.bytes::<32>().to_vec()),
        2 => Value::Bytes(b"count".to_vec()),
        3 => Value::List(Vec::new()),
        _ => Value::Dict(Dict::new()),
    }
}

/// Makes the signatures of known keys in `value` good again, from the inside out. True when something changed.
pub fn resign(value: &mut Value) -> bool {
    match value {
        Value::Int(_) => false,
        Value::Bytes(bytes) => {
            let Ok(mut inner @ (Value::Dict(_) | Value::List(_))) = Value::decode(bytes, bytes.len()) else {
                return false;
            };
            let changed = resign(&mut inner);
            if changed {
                *bytes = inner.encode();
            }
            changed
        }
        Value::List(items) => items.iter_mut().fold(false, |changed, item| resign(item) | changed),
        Value::Dict(dict) => {
            let changed = dict.0.values_mut().fold(false, |changed, item| resign(item) | changed);
            let signed = signed_again(dict);
            if let Some(signed) = signed
                && signed != *dict
            {
                *dict = signed;
                return true;
            }
            changed
        }
    }
}

fn signed_again(dict: &Dict) -> Option<Dict> {
    if dict.0.len() == 5 {
        let key = known(&dict.key("r").ok()?)?;
        let expires = UnixTime::from_secs(dict.u64("e").ok()?);
        let ticket = Ticket::sign(&key, dict.digest("d").ok()?, dict.key("c").ok()?, expires);
        return Dict::decode(&ticket.encode(), 1 << 16).ok();
    }
    if dict.0.len() != 2 {
        return None;
    }
    let body = Dict::decode(dict.get("b")?.as_bytes()?, 1 << 20).ok()?;
    dict.get("s")?;
    statement::<Order>(&body).or_else(|| statement::<Receipt>(&body)).or_else(|| statement::<Commit>(&body))
}

/// The statement that `body` says, signed, when it says one and its signer is known.
pub fn signed<T: Statement>(body: &Dict) -> Option<Signed<T>> {
    let statement = T::from_dict(body).ok()?;
    let key = known(statement.signer())?;
    (statement.to_dict().encode().len() <= T::BODY_BYTES_MAX).then(|| Signed::sign(statement, &key))
}

fn statement<T: Statement>(body: &Dict) -> Option<Dict> {
    Dict::decode(&signed::<T>(body)?.encode(), 1 << 20).ok()
}
