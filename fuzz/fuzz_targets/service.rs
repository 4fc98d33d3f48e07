//! Descriptions of services come from peers: whatever is accepted is within its limits and keeps its identity when it
//! is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remote_network_core::codec::Dict;
use remote_network_core::service::{DESCRIPTION_MAX, MOUNTS_MAX, Service, valid_name};

fuzz_target!(|bytes: &[u8]| {
    let Ok(dict) = Dict::decode(bytes, 16 * 1_024) else { return };
    let Ok(service) = Service::from_dict(&dict) else { return };
    assert!(valid_name(&service.name));
    assert!(service.description.len() <= DESCRIPTION_MAX);
    assert!(service.mounts.len() <= MOUNTS_MAX);
    assert!(service.mounts.iter().all(|mount| valid_name(&mount.name)));
    let again = Service::from_dict(&service.to_dict());
    assert_eq!(again.as_ref(), Ok(&service));
    assert_eq!(again.map(|again| again.id()), Ok(service.id()));
});
