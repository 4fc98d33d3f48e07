//! A directory as one object: the list of its files, in one spelling.
//!
//! A job reads and leaves directories as well as files, and everything in this project that moves, is granted, is sealed or is
//! paid for is an object named by its digest. So a directory is an object too: its *manifest* names every file by path, digest
//! and length, and the digest of the manifest is the digest of the directory. The files are objects of their own, its *leaves*,
//! so equal files of many directories are stored and moved once. A directory without files is a value like any other.
//!
//! Form: canonical bencode `{f: [{d: digest, l: length, n: path, x?: 1}…], v: 1}`, files in the order of their paths' bytes, `x`
//! where the file can be executed. No other mode, owner, time, link or empty directory is kept: two machines that see the same
//! files make the same bytes. There is one spelling, and everything else is refused, so a digest stands for one directory.
//!
//! Paths come from strangers and become files of this machine. They are relative, of plain components (none empty, none `.` or
//! `..`, no NUL, no control characters), and no file stands where another has a directory.

use crate::codec::{DecodeError, Dict, Value};
use crate::id::Digest;
use crate::limits::OBJECT_BYTES_MAX;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Most files of a directory. A set of more belongs into an archive or into several directories.
pub const MANIFEST_FILES_MAX: usize = 10_000;
/// Longest manifest in bytes: it is read and parsed whole, by every holder.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Most components of a path.
pub const PATH_DEPTH_MAX: usize = 32;
/// Longest component of a path in bytes: what file systems allow.
pub const PATH_NAME_MAX: usize = 255;
/// Longest path in bytes: a quarter of what Linux allows, since it lies below a directory of somebody's own.
pub const PATH_BYTES_MAX: usize = 1_024;

/// A file of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where it lies, relative to the directory.
    pub path: String,
    /// Its bytes.
    pub digest: Digest,
    /// How many.
    pub len: u64,
    /// Whether it can be executed.
    pub executable: bool,
}

impl Entry {
    fn is_same_file(&self, other: &Entry) -> bool {
        (self.digest, self.len, self.executable) == (other.digest, other.len, other.executable)
    }
}

/// Why files make no directory.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ManifestError {
    /// Too many of them.
    #[error("{0} files, at most {MANIFEST_FILES_MAX} are allowed in one directory")]
    Files(usize),
    /// Their names are too long together.
    #[error("a list of {0} bytes, at most {MANIFEST_BYTES_MAX} are allowed for one directory")]
    Bytes(usize),
    /// A path that could leave the directory, or that no file system takes.
    #[error("`{}` is no plain relative path", .0.escape_debug())]
    Path(String),
    /// Two files of one path.
    #[error("two different files are named `{}`", .0.escape_debug())]
    Twice(String),
    /// A file where another file has a directory.
    #[error("`{}` is a file and a directory", .0.escape_debug())]
    FileAndDirectory(String),
    /// Longer than an object may be, or two lengths for one digest.
    #[error("`{}` has an impossible length", .0.escape_debug())]
    Length(String),
}

/// The files of a directory: valid by construction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// Whether `path` is relative, of plain components, and within the limits.
pub fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| {
        (1..=PATH_NAME_MAX).contains(&part.len())
            && part != "."
            && part != ".."
            && !part.chars().any(char::is_control)
    };
    path.len() <= PATH_BYTES_MAX && path.split('/').count() <= PATH_DEPTH_MAX && path.split('/').all(plain)
}

/// The directories a path lies in, the outermost first.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}

impl Manifest {
    /// Of these files, in whatever order.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        if entries.len() > MANIFEST_FILES_MAX {
            return Err(ManifestError::Files(entries.len()));
        }
        entries.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        let mut files = BTreeSet::new();
        let mut lengths = BTreeMap::new();
        for e in &entries {
            if !is_plain_path(&e.path) {
                return Err(ManifestError::Path(e.path.clone()));
            }
            if !files.insert(e.path.as_str()) {
                return Err(ManifestError::Twice(e.path.clone()));
            }
            if e.len > OBJECT_BYTES_MAX || *lengths.entry(e.digest).or_insert(e.len) != e.len {
                return Err(ManifestError::Length(e.path.clone()));
            }
        }
        let both = entries.iter().flat_map(|e| parents(&e.path)).find(|dir| files.contains(dir));
        if let Some(dir) = both {
            return Err(ManifestError::FileAndDirectory(dir.to_owned()));
        }
        let manifest = Self { entries };
        match manifest.encode().len() {
            0..=MANIFEST_BYTES_MAX => Ok(manifest),
            len => Err(ManifestError::Bytes(len)),
        }
    }

    /// All files of several directories in one. A file may be in many of them, but not with other bytes.
    pub fn union<'a>(all: impl IntoIterator<Item = &'a Manifest>) -> Result<Self, ManifestError> {
        let mut files: BTreeMap<&str, &Entry> = BTreeMap::new();
        for entry in all.into_iter().flat_map(|m| &m.entries) {
            let first = files.entry(&entry.path).or_insert(entry);
            if !first.is_same_file(entry) {
                return Err(ManifestError::Twice(entry.path.clone()));
            }
        }
        Self::new(files.into_values().cloned().collect())
    }

    /// Its files in the order of their paths.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The file at `path`.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|e| e.path.as_bytes().cmp(path.as_bytes())).ok()?;
        self.entries.get(at)
    }

    /// Bytes of all files together.
    pub fn total_len(&self) -> u64 {
        self.entries.iter().map(|e| e.len).fold(0, u64::saturating_add)
    }

    /// The objects it names and their lengths, each once, in the order of their digests.
    pub fn leaves(&self) -> Vec<(Digest, u64)> {
        let leaves: BTreeMap<Digest, u64> = self.entries.iter().map(|e| (e.digest, e.len)).collect();
        leaves.into_iter().collect()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let file = |e: &Entry| {
            let d = Dict::new().with("d", &e.digest).with("l", e.len).with("n", e.path.as_str());
            Value::from(d.with_some("x", e.executable.then_some(1u64)))
        };
        Dict::new().with("f", self.entries.iter().map(file).collect::<Vec<_>>()).with("v", 1u64).encode()
    }

    /// The name of the directory.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads a manifest in its one spelling.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let d = Dict::decode(bytes, MANIFEST_BYTES_MAX)?;
        match d.u64("v")? {
            1 => {}
            number => return Err(DecodeError::Unknown { what: "manifest version", number }),
        }
        let entry = |v: &Value| {
            let Value::Dict(f) = v else { return Err(DecodeError::invalid("f", "not a dictionary")) };
            let executable = f.get("x").is_some();
            Ok(Entry {
                path: f.text("n", PATH_BYTES_MAX)?,
                digest: f.digest("d")?,
                len: f.u64("l")?,
                executable,
            })
        };
        let entries = d.list("f", MANIFEST_FILES_MAX)?.iter().map(entry).collect::<Result<_, _>>()?;
        let manifest = Self::new(entries).map_err(|e| DecodeError::invalid("f", e.to_string()))?;
        // Order, unknown keys, a zero written out: whatever is not the one spelling shows here.
        if manifest.encode() != bytes {
            return Err(DecodeError::invalid("f", "not the one spelling of this directory"));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn file(path: &str, bytes: &str) -> Entry {
        let (digest, len) = (Digest::of(bytes.as_bytes()), bytes.len() as u64);
        Entry { path: path.into(), digest, len, executable: false }
    }

    fn of(files: &[(&str, &str)]) -> Manifest {
        Manifest::new(files.iter().map(|(p, b)| file(p, b)).collect()).unwrap()
    }

    #[test]
    fn a_directory_has_one_spelling_in_whatever_order_its_files_are_told() {
        let (a, b) =
            (of(&[("x/b", "1"), ("a", "2"), ("x-y", "3")]), of(&[("x-y", "3"), ("x/b", "1"), ("a", "2")]));
        assert_eq!((a.encode(), a.digest()), (b.encode(), b.digest()));
        assert_eq!(Manifest::decode(&a.encode()), Ok(a.clone()));
        assert_eq!(a.entry("x/b").map(|e| e.len), Some(1));
        assert_eq!((a.entry("x"), a.total_len(), a.leaves().len()), (None, 3, 3));
        let mut run = file("run.sh", "4");
        run.executable = true;
        assert_ne!(Manifest::new(vec![run]).unwrap().digest(), of(&[("run.sh", "4")]).digest());
    }

    #[test]
    fn no_files_at_all_are_a_directory() {
        let empty = Manifest::default();
        assert_eq!(Manifest::decode(&empty.encode()), Ok(empty.clone()));
        assert_eq!((empty.encode().as_slice(), empty.total_len()), (&b"d1:fle1:vi1ee"[..], 0));
    }

    #[test]
    fn paths_that_could_leave_the_directory_are_none() {
        let long = "x".repeat(PATH_NAME_MAX + 1);
        let deep = vec!["d"; PATH_DEPTH_MAX + 1].join("/");
        let far = vec!["y".repeat(200); 6].join("/");
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            ".",
            "a/..",
            "../a",
            "a//b",
            "a/",
            "a/./b",
            "a\0b",
            "a\nb",
            "\u{85}",
            &long,
            &deep,
            &far,
        ] {
            assert!(!is_plain_path(bad), "{bad:?}");
            assert!(Manifest::new(vec![file(bad, "1")]).is_err());
        }
        for good in ["a", "...", "a..b", "-rf", "ä/ö", "a b", "a\\b", "C:"] {
            assert!(is_plain_path(good), "{good:?}");
        }
    }

    #[test]
    fn a_file_stands_alone_at_its_path() {
        let twice = Manifest::new(vec![file("a", "1"), file("a", "1")]);
        assert_eq!(twice, Err(ManifestError::Twice("a".into())));
        let both = Manifest::new(vec![file("a/b/c", "1"), file("a-", "2"), file("a/b", "3")]);
        assert_eq!(both, Err(ManifestError::FileAndDirectory("a/b".into())));
        let lengths = Manifest::new(vec![file("a", "1"), Entry { len: 2, ..file("b", "1") }]);
        assert_eq!(lengths, Err(ManifestError::Length("b".into())));
        let huge = Manifest::new(vec![Entry { len: OBJECT_BYTES_MAX + 1, ..file("a", "1") }]);
        assert_eq!(huge, Err(ManifestError::Length("a".into())));
    }

    #[test]
    fn directories_are_joined_unless_they_disagree() {
        let (a, b) = (of(&[("x/1", "1"), ("both", "s")]), of(&[("x/2", "2"), ("both", "s")]));
        assert_eq!(Manifest::union([&a, &b]), Ok(of(&[("both", "s"), ("x/1", "1"), ("x/2", "2")])));
        assert_eq!(Manifest::union([]), Ok(Manifest::default()));
        let other = of(&[("x/1", "other")]);
        assert_eq!(Manifest::union([&a, &other]), Err(ManifestError::Twice("x/1".into())));
        let in_the_way = of(&[("x", "a file")]);
        assert_eq!(Manifest::union([&a, &in_the_way]), Err(ManifestError::FileAndDirectory("x".into())));
    }

    #[test]
    fn the_largest_directory_is_one_and_a_larger_one_is_none() {
        let many = |n: usize| (0..n).map(|i| file(&format!("d{:02}/f{i}", i % 50), &i.to_string())).collect();
        let largest = Manifest::new(many(MANIFEST_FILES_MAX)).unwrap();
        assert_eq!(Manifest::decode(&largest.encode()), Ok(largest));
        assert_eq!(
            Manifest::new(many(MANIFEST_FILES_MAX + 1)),
            Err(ManifestError::Files(MANIFEST_FILES_MAX + 1))
        );
        let dir = vec!["w".repeat(PATH_NAME_MAX); 2].join("/");
        let wordy = (0..MANIFEST_FILES_MAX).map(|i| file(&format!("{dir}/{i}"), "1"));
        assert!(matches!(Manifest::new(wordy.collect()), Err(ManifestError::Bytes(_))));
    }

    #[test]
    fn other_spellings_are_refused() {
        let m = of(&[("a", "1"), ("b", "2")]);
        let d = Dict::decode(&m.encode(), MANIFEST_BYTES_MAX).unwrap();
        assert!(Manifest::decode(&d.clone().with("z", 1u64).encode()).is_err());
        assert!(Manifest::decode(&d.clone().with("v", 2u64).encode()).is_err());
        let mut files = d.list("f", 2).unwrap().to_vec();
        files.reverse();
        assert!(Manifest::decode(&d.clone().with("f", files.clone()).encode()).is_err(), "another order");
        let Value::Dict(first) = files[1].clone() else { panic!() };
        for x in [0u64, 2] {
            let odd: Vec<Value> = vec![first.clone().with("x", x).into(), files[0].clone()];
            assert!(Manifest::decode(&d.clone().with("f", odd).encode()).is_err(), "x = {x}");
        }
    }

    proptest! {
        #[test]
        fn manifests_survive_their_bytes(files in btree_map("[a-c]{1,2}(/[d-f]{1,2}){0,2}", (any::<u8>(), any::<bool>()), 0..12)) {
            let entries = files.into_iter().map(|(path, (n, executable))| Entry { executable, ..file(&path, &n.to_string()) });
            if let Ok(m) = Manifest::new(entries.collect()) {
                prop_assert_eq!(Manifest::decode(&m.encode()), Ok(m));
            }
        }

        #[test]
        fn what_is_read_is_written_again_byte_by_byte(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(m) = Manifest::decode(&bytes) {
                prop_assert_eq!(m.encode(), bytes);
            }
        }
    }
}
