//! Services that come with the binary: small, useful WebAssembly programs for a first workflow on a fresh network.
//!
//! `tokenize → count → merge-rank` ranks the words of texts that lie on different peers: the first two run where a text is,
//! only the counts travel, and the last one runs once. Their source is beside the modules in `node/services/`;
//! `node/services/build.sh --check` proves that the modules are what the source builds.

use remote_network_core::id::Digest;

/// A service in the binary: reads stdin, writes stdout, says why it failed on stderr.
///
/// Exit codes of all: 1 = reading or writing failed, 2 = the input or an argument is not what it should be, 3 = out of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bundled {
    /// Its name in catalogues.
    pub name: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// Its version; changes with its bytes.
    pub version: &'static str,
    /// What its arguments may be; empty when it takes none.
    pub arguments: &'static str,
    /// Memory that suffices for usual inputs, in bytes.
    pub memory_bytes: u64,
    /// The module.
    pub wasm: &'static [u8],
}

impl Bundled {
    /// The name of its module in an object store.
    pub fn digest(&self) -> Digest {
        Digest::of(self.wasm)
    }
}

/// All of them, in the order a pipeline uses them.
pub const BUNDLED: [Bundled; 3] = [
    Bundled {
        name: "tokenize",
        description: "Text (UTF-8) in, one lower-case word per line out",
        version: "1.0.0",
        arguments: "",
        memory_bytes: 4 << 20,
        wasm: include_bytes!("../services/tokenize.wasm"),
    },
    Bundled {
        name: "count",
        description: "Words (one per line) in, `count<TAB>word` sorted by word out",
        version: "1.0.0",
        arguments: "",
        memory_bytes: 256 << 20,
        wasm: include_bytes!("../services/count.wasm"),
    },
    Bundled {
        name: "merge-rank",
        description: "Outputs of `count` in, their sums, most frequent first, out",
        version: "1.0.0",
        arguments: "[--top N]",
        memory_bytes: 256 << 20,
        wasm: include_bytes!("../services/merge-rank.wasm"),
    },
];

/// The bundled service of this name.
pub fn bundled(name: &str) -> Option<&'static Bundled> {
    BUNDLED.iter().find(|b| b.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bundled_service_is_a_small_core_module_with_a_name_of_its_own() {
        for b in &BUNDLED {
            assert!(b.wasm.starts_with(b"\0asm\x01\0\0\0") && b.wasm.len() < 64 << 10, "{}", b.name);
            assert_eq!(bundled(b.name), Some(b));
        }
        assert_eq!(bundled("nonesuch"), None);
    }
}
