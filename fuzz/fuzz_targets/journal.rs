//! What the store gives back at a start: a list of records, each a list of room, key and payload. A record of a job or a
//! run means the same when it is written again; a node that accepts a journal works with it for an hour of its clock,
//! and what it has written by then is accepted again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use remote_network_core::codec::Value;
use remote_network_core::id::Lsn;
use remote_network_core::job::held::JobRecord;
use remote_network_core::job::plan::{Plan, decode_workflow, encode_workflow};
use remote_network_core::job::run::RunRecord;
use remote_network_core::store::{Room, SUBJECT_KEY_MAX, StoreOp, Subject};
use remote_network_core::time::Duration;
use remote_network_fuzz::form::assert_within;
use remote_network_fuzz::world::{Fate, World};

const RECORDS_MAX: usize = 256;

fn laws(room: Room, record: &[u8]) {
    match room {
        Room::Job => {
            let Ok((fact, at)) = JobRecord::decode(record) else { return };
            let written = fact.encode(at);
            assert_within(&written, record);
            assert_eq!(JobRecord::decode(&written), Ok((fact, at)));
        }
        Room::Run => {
            let Ok((fact, at)) = RunRecord::decode(record) else { return };
            let written = fact.encode(at);
            assert_within(&written, record);
            match &fact {
                RunRecord::Submitted { workflow } => {
                    assert_eq!(decode_workflow(&encode_workflow(workflow)).as_ref(), Ok(workflow));
                }
                RunRecord::Planned { plan } => {
                    assert_eq!(Plan::decode(&plan.encode()).as_ref(), Ok(plan));
                }
                _ => {}
            }
            assert_eq!(RunRecord::decode(&written), Ok((fact, at)));
        }
        Room::Node
        | Room::Publisher
        | Room::KnownPeer
        | Room::CachedRecord
        | Room::Service
        | Room::Grant
        | Room::Policy => {}
    }
}

fn read(item: &Value) -> Option<(Room, StoreOp)> {
    let Value::List(parts) = item else { return None };
    let [room, Value::Bytes(key), Value::Bytes(record)] = &parts[..] else { return None };
    let room = Room::from_number(u8::try_from(room.as_u64()?).ok()?)?;
    let key = Bytes::copy_from_slice(&key[..key.len().min(SUBJECT_KEY_MAX)]);
    let record = Bytes::copy_from_slice(record);
    Some((room, StoreOp::Append { subject: Subject { room, key }, record }))
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(Value::List(items)) = Value::decode(bytes, 1 << 18) else { return };
    let mut world = World::new(1);
    for (lsn, (room, op)) in items.iter().take(RECORDS_MAX).filter_map(read).enumerate() {
        if let StoreOp::Append { record, .. } = &op {
            laws(room, record);
        }
        world.hosts[0].journal.apply(Lsn(lsn as u64 + 1), vec![op]);
    }
    if world.rise(0).is_err() {
        return;
    }
    world.settle(Fate::Fails, Duration::from_secs(3_600), 2_000);
    world.crash(0, usize::MAX);
    world.rise(0).expect("what a node wrote is accepted again");
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    remote_network_fuzz::mutate::bencode(data, size, max_size, seed, 0)
});
