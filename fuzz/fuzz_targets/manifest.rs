//! Manifests: whatever is accepted has exactly one form, names plain paths only, and joins with itself to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remote_network_core::manifest::{MANIFEST_FILES_MAX, Manifest, is_plain_path};

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    assert_eq!(manifest.encode(), bytes);
    assert!(manifest.entries().len() <= MANIFEST_FILES_MAX);
    for e in manifest.entries() {
        assert!(is_plain_path(&e.path));
        assert!(!e.path.starts_with('/') && e.path.split('/').all(|part| part != ".."));
        assert_eq!(manifest.entry(&e.path), Some(e));
    }
    assert!(manifest.leaves().len() <= manifest.entries().len());
    assert_eq!(Manifest::union([&manifest, &manifest]), Ok(manifest.clone()));
    assert_eq!(Manifest::new(manifest.entries().iter().rev().cloned().collect()), Ok(manifest));
});
