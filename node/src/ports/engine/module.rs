//! The module of a job: looked at before anything is compiled.

use crate::ports::workdir::{EngineBlobs, Refused};
use remote_network_core::id::Digest;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Largest module: compiling one takes a few seconds and less than 1 GiB.
const MODULE_BYTES_MAX: u64 = 32 << 20;

const CORE_MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Copies the module and looks at it: a core module of WebAssembly 1, whole and the one that was ordered.
pub(super) fn stage_module(module: &Digest, to: &Path, blobs: &dyn EngineBlobs) -> Result<(), Refused> {
    let from = blobs.open(module).map_err(|e| Refused::infra(format!("module {module}: {e}")))?;
    let mut bytes = Vec::new();
    from.take(MODULE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Refused::infra(format!("module {module}: {e}")))?;
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        return Err(Refused::permanent(format!("the module is larger than {} MiB", MODULE_BYTES_MAX >> 20)));
    }
    // Compiled code is kept under this digest, so it must be the digest of what is compiled.
    if Digest::of(&bytes) != *module {
        return Err(Refused::infra(format!("module {module} is damaged in the store")));
    }
    check_header(&bytes)?;
    fs::write(to, &bytes).map_err(|e| Refused::infra(format!("scratch directory: {e}")))
}

fn check_header(bytes: &[u8]) -> Result<(), Refused> {
    match bytes.first_chunk::<8>() {
        Some(&CORE_MODULE) => Ok(()),
        Some(&COMPONENT) => Err(Refused::permanent(
            "this is a WebAssembly component; this version runs core modules with WASI preview 1",
        )),
        Some(head) if head.starts_with(b"\x7fELF") => Err(Refused::permanent(
            "this is machine code (compiled ahead of time or native), which is never run as WebAssembly",
        )),
        Some(_) | None => Err(Refused::permanent("this is no WebAssembly module")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote_network_core::port::ExitClass;

    #[test]
    fn only_core_modules_pass_by_their_header() {
        let detail = |b: &[u8]| check_header(b).map_err(|r| (r.class, r.detail));
        assert_eq!(detail(b"\0asm\x01\0\0\0rest"), Ok(()));
        for (bytes, word) in [
            (&b""[..], "no WebAssembly"),
            (b"\0asm\x01\0\0", "no WebAssembly"),
            (b"\0asm\x02\0\0\0", "no WebAssembly"),
            (b"\0asm\x0d\0\x01\0", "component"),
            (b"\x7fELF\x02\x01\x01\xc8", "machine code"),
        ] {
            let (class, detail) = detail(bytes).unwrap_err();
            assert_eq!(class, ExitClass::Permanent);
            assert!(detail.contains(word), "{detail}");
        }
    }
}
