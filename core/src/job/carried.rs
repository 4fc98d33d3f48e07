//! Light jobs: small enough to travel whole in the messages about them.
//!
//! A job whose inputs are a few kilobytes costs its executor more in files and in waiting for the disk than in computing. So an
//! order may be *light*: its inputs come beside it, its outputs go back beside the receipt, and neither ever is an object of a
//! store on the way. The executor journals nothing of it: an order that it forgets in a crash is not in its inventory, and the
//! requester, whose journal has it, sends it again. The requester's record of the end has the outputs, which it hands on to the
//! tasks that take them, and puts into its own store whatever must be an object: results that are kept, logs, inputs of a job that
//! is not light.
//!
//! An executor that finds at the end that a light job was none (its outputs are too many bytes, or it took so long that losing
//! it would be a pity) keeps the outputs as objects and journals the job as if it had never been light.
//!
//! Carried bytes are a list beside a list of digests and lengths that somebody has signed, in the same order.

use crate::codec::{DecodeError, Dict, Value};
use crate::id::Digest;
use bytes::Bytes;

/// Bytes of all inputs of a light job together, and of all its outputs: with the largest order they fit one frame.
pub const CARRIED_BYTES_MAX: usize = 32 << 10;
/// Bytes of outputs that the journal carries for one run. Beyond them its orders are not light any more.
pub const RUN_CARRIED_BYTES_MAX: usize = 4 << 20;

/// Adds carried bytes to a dictionary; nothing when nothing is carried.
pub fn write(d: Dict, key: &'static str, carried: Option<&[Bytes]>) -> Dict {
    let list = |c: &[Bytes]| c.iter().map(|b| Value::from(&b[..])).collect::<Vec<Value>>();
    d.with_some(key, carried.map(list))
}

/// Reads what [`write()`] wrote: as many as there are digests to compare them with.
pub fn read(d: &Dict, key: &'static str, count: usize) -> Result<Option<Vec<Bytes>>, DecodeError> {
    if d.get(key).is_none() {
        return Ok(None);
    }
    let items = d.list(key, count)?;
    if items.len() != count {
        return Err(DecodeError::invalid(key, "one for each, or none at all"));
    }
    let mut total = 0;
    let mut out = Vec::with_capacity(count);
    for item in items {
        let Value::Bytes(bytes) = item else { return Err(DecodeError::invalid(key, "not bytes")) };
        total += bytes.len();
        if total > CARRIED_BYTES_MAX {
            return Err(DecodeError::TooLong { got: total, max: CARRIED_BYTES_MAX });
        }
        out.push(Bytes::copy_from_slice(bytes));
    }
    Ok(Some(out))
}

/// Whether the bytes are what digests and lengths say.
pub fn is_what_was_said(carried: &[Bytes], said: impl Iterator<Item = (Digest, u64)>) -> bool {
    let mut said = said;
    let all = carried.iter().all(|bytes| {
        said.next().is_some_and(|(digest, len)| len == bytes.len() as u64 && digest == Digest::of(bytes))
    });
    all && said.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().map(|n| Bytes::from(vec![7; *n])).collect()
    }

    #[test]
    fn carried_bytes_come_back_as_they_went_and_nothing_is_not_an_empty_list() {
        for (sizes, count) in [(&[3usize, 0, 5][..], 3), (&[][..], 0), (&[CARRIED_BYTES_MAX][..], 1)] {
            let some = carried(sizes);
            let d = Dict::decode(&write(Dict::new(), "in", Some(&some)).encode(), 1 << 20).unwrap();
            assert_eq!(read(&d, "in", count), Ok(Some(some)));
        }
        let none = write(Dict::new(), "in", None);
        assert_eq!(none, Dict::new());
        assert_eq!(read(&none, "in", 3), Ok(None));
    }

    #[test]
    fn too_many_too_few_and_too_long_are_refused() {
        let d = write(Dict::new(), "in", Some(&carried(&[1, 1])));
        assert!(read(&d, "in", 1).is_err() && read(&d, "in", 3).is_err());
        let d = write(Dict::new(), "in", Some(&carried(&[CARRIED_BYTES_MAX, 1])));
        assert!(matches!(read(&d, "in", 2), Err(DecodeError::TooLong { .. })));
        let d = Dict::new().with("in", vec![Value::from(3u64)]);
        assert!(read(&d, "in", 1).is_err());
    }

    #[test]
    fn bytes_are_held_against_what_was_signed() {
        let some = carried(&[3, 0]);
        let said = |b: &Bytes| (Digest::of(b), b.len() as u64);
        let right: Vec<(Digest, u64)> = some.iter().map(said).collect();
        assert!(is_what_was_said(&some, right.iter().copied()));
        assert!(!is_what_was_said(&some[..1], right.iter().copied()), "one is missing");
        assert!(!is_what_was_said(&some, right[..1].iter().copied()), "one is too many");
        assert!(!is_what_was_said(&some, [(right[0].0, 4), right[1]].into_iter()));
        assert!(!is_what_was_said(&some, [(right[1].0, 3), right[1]].into_iter()));
    }
}
