//! What convinces third parties: orders, receipts, commits, tickets and the receipt file. The first byte says which; then
//! comes a body, which is signed by its signer if that key is known, or the bytes of a ticket or file. A statement means
//! the same after every signature and reading, and no byte of it can be changed without being noticed.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use remote_network_core::codec::Dict;
use remote_network_core::job::order::Order;
use remote_network_core::job::receipt::{Commit, Receipt, result_digest, verify_file};
use remote_network_core::job::signed::{Signed, Statement};
use remote_network_core::ticket::Ticket;
use remote_network_core::time::UnixTime;
use remote_network_fuzz::form::assert_within;
use remote_network_fuzz::mutate::signed;
use std::fmt::Debug;

/// Changes one bit, somewhere.
fn spoilt(bytes: &[u8], at: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = bytes.len() * usize::from(at) / 256;
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << (at % 8);
    }
    bytes
}

fn statement<T: Statement + PartialEq + Clone + Debug>(body: &[u8], at: u8) {
    if let Ok(signed) = Signed::<T>::decode(body) {
        assert_eq!(signed.encode(), body, "a signed statement has one form");
    }
    let Ok(dict) = Dict::decode(body, T::BODY_BYTES_MAX) else { return };
    let Ok(value) = T::from_dict(&dict) else { return };
    assert_within(&value.to_dict().encode(), body);
    assert_eq!(T::from_dict(&value.to_dict()).as_ref(), Ok(&value));
    let Some(signed) = signed::<T>(&dict) else { return };
    let bytes = signed.encode();
    let read = Signed::<T>::decode(&bytes).expect("just signed");
    assert_eq!(read, signed);
    assert_eq!(read.digest(), signed.digest());
    assert!(Signed::<T>::decode(&spoilt(&bytes, at)).is_err(), "a changed statement was believed");
}

fn ticket(bytes: &[u8], at: u8) {
    let Ok(ticket) = Ticket::decode(bytes) else { return };
    assert_eq!(ticket.encode(), bytes, "a ticket has one form");
    assert!(Ticket::decode(&spoilt(bytes, at)).is_err(), "a changed ticket was believed");
    assert!(!ticket.allows(ticket.object(), ticket.consumer(), ticket.expires()));
    let in_time = ticket.expires() > UnixTime::from_secs(0);
    assert_eq!(ticket.allows(ticket.object(), ticket.consumer(), UnixTime::from_secs(0)), in_time);
}

fn file(bytes: &[u8], at: u8) {
    let Ok(report) = verify_file(bytes) else { return };
    assert_ne!(report.requester.as_bytes(), &[0; 32]);
    assert!(report.fence > 0);
    let _ = result_digest(report.exit.0, report.exit.1, &report.outputs);
    assert!(verify_file(&spoilt(bytes, at)).is_err(), "a changed receipt file was believed");
}

fuzz_target!(|bytes: &[u8]| {
    let [kind, at, body @ ..] = bytes else { return };
    match kind % 5 {
        0 => statement::<Order>(body, *at),
        1 => statement::<Receipt>(body, *at),
        2 => statement::<Commit>(body, *at),
        3 => ticket(body, *at),
        _ => file(body, *at),
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    remote_network_fuzz::mutate::bencode(data, size, max_size, seed, 2)
});
