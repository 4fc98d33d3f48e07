use super::*;
use crate::id::Keypair;
use crate::laws::{self, Rig};
use crate::manifest::Entry;
use crate::port::BlobInfo;
use bytes::Bytes;
use proptest::prelude::*;

const ROOM: u8 = 9;

fn op(n: u64) -> OpId {
    OpId((u64::from(ROOM) << 56) + n)
}

fn waiter(n: u8) -> Waiter {
    Waiter([n; 16])
}

fn holder() -> (PublicKey, Option<Ticket>) {
    (Keypair::from_seed(&[1; 32]).public(), None)
}

/// A directory of so many files, and its leaves.
fn directory(name: &str, files: usize) -> (Bytes, Digest, Vec<(Digest, u64)>) {
    let entry = |i: usize| {
        let bytes = format!("{name} {i}");
        let (digest, len) = (Digest::of(bytes.as_bytes()), bytes.len() as u64);
        Entry { path: format!("d/{i}"), digest, len, executable: false }
    };
    let manifest = Manifest::new((0..files).map(entry).collect()).unwrap();
    let bytes = Bytes::from(manifest.encode());
    (bytes.clone(), Digest::of(&bytes), manifest.leaves())
}

struct World {
    rig: Rig<Trees>,
    manifest: Bytes,
    digest: Digest,
    leaves: Vec<(Digest, u64)>,
}

impl World {
    fn new(files: usize) -> Self {
        let (manifest, digest, leaves) = directory("file", files);
        Self { rig: Rig::new(Trees::new(ROOM), [1; 32]), manifest, digest, leaves }
    }

    fn want(&mut self, claim: Claim, w: u8) -> Vec<Output> {
        let (digest, len) = (self.digest, self.manifest.len() as u64);
        self.rig.tell(Input::Want { digest, len, claim, sources: vec![holder()], waiter: waiter(w) })
    }

    fn fetched(&mut self, digest: Digest, claim: Claim, new: bool) -> Vec<Output> {
        self.rig.tell(Input::Fetched { digest, claim, new })
    }

    fn blob(&mut self, out: &[Output], result: Result<BlobAnswer, BlobFailed>) -> Vec<Output> {
        let op = out.iter().find_map(|o| match o {
            Output::Blob { op, .. } | Output::Look { op, .. } => Some(*op),
            _ => None,
        });
        self.rig.tell(Input::Blob { op: op.expect("the store is asked"), result })
    }

    /// Up to the point where the leaves are looked for or asked for.
    fn read(&mut self, claim: Claim) -> Vec<Output> {
        self.want(claim, 1);
        let out = self.fetched(self.digest, claim, true);
        let bytes = self.manifest.clone();
        self.blob(&out, Ok(BlobAnswer::Bytes(bytes)))
    }

    fn here(&self, claim: Claim, waiters: Vec<Waiter>, new: bool) -> Output {
        Output::Fetched { digest: self.digest, claim, waiters, new }
    }
}

fn asked(out: &[Output]) -> Vec<Digest> {
    let leaf = |o: &Output| match o {
        Output::Want { digest, under: Some(_), .. } => Some(*digest),
        _ => None,
    };
    out.iter().filter_map(leaf).collect()
}

#[test]
fn a_directory_is_here_when_its_manifest_and_all_its_files_are() {
    let mut w = World::new(3);
    let first = w.want(None, 1);
    let (digest, len) = (w.digest, w.manifest.len() as u64);
    assert_eq!(
        first,
        [Output::Want { digest, len, claim: None, under: None, sources: vec![holder()] }],
        "the manifest comes first"
    );
    assert_eq!(w.want(None, 2), [], "one directory, one fetch");
    let read = w.fetched(w.digest, None, true);
    let bytes = w.manifest.clone();
    let look = w.blob(&read, Ok(BlobAnswer::Bytes(bytes)));
    assert!(matches!(&look[..], [Output::Look { objects, .. }] if **objects == w.leaves[..]));
    assert!(w.leaves.iter().all(|(leaf, _)| w.rig.machine.holds(leaf)), "held from now on");
    // One file was here already, as after a crash.
    let missing: Vec<Digest> = w.leaves[1..].iter().map(|(d, _)| *d).collect();
    let wants = w.blob(&look, Ok(BlobAnswer::Missing(missing.clone())));
    assert_eq!(asked(&wants), missing);
    assert_eq!(w.fetched(missing[0], None, true), []);
    let look = w.fetched(missing[1], None, true);
    let end = w.blob(&look, Ok(BlobAnswer::Missing(Vec::new())));
    assert_eq!(end, [w.here(None, vec![waiter(1), waiter(2)], true)]);
    assert_eq!(w.rig.machine.bringing(), 0);
}

#[test]
fn a_directory_without_files_is_here_with_its_manifest() {
    let mut w = World::new(0);
    let look = w.read(None);
    let end = w.blob(&look, Ok(BlobAnswer::Missing(Vec::new())));
    assert_eq!(end, [w.here(None, vec![waiter(1)], true)]);
}

#[test]
fn under_a_claim_every_file_must_be_shown_though_all_are_here() {
    let claim = Some(Keypair::from_seed(&[7; 32]).public());
    let mut w = World::new(2);
    let wants = w.read(claim);
    assert_eq!(asked(&wants).len(), 2, "the store is not enough");
    let under_it = |o: &Output| match o {
        Output::Want { under, claim: c, .. } => (*under, *c) == (Some(w.digest), claim),
        _ => false,
    };
    assert!(wants.iter().all(under_it));
    let (first, second) = (w.leaves[0].0, w.leaves[1].0);
    assert_eq!(w.fetched(first, None, true), [], "on another right");
    assert_eq!(w.fetched(first, claim, false), []);
    let why = "no such object for you here".to_owned();
    let out = w.rig.tell(Input::FetchFailed { digest: second, claim, why, hopeless: true });
    let failed =
        |o: &Output| matches!(o, Output::FetchFailed { why: Failed::Fetch { hopeless: true, .. }, .. });
    assert!(matches!(&out[..], [o] if failed(o)), "{out:?}");
}

#[test]
fn files_are_asked_for_a_few_at_a_time() {
    let mut w = World::new(LEAVES_ASKED_MAX + 10);
    let look = w.read(None);
    let missing: Vec<Digest> = w.leaves.iter().map(|(d, _)| *d).collect();
    let mut under_way = asked(&w.blob(&look, Ok(BlobAnswer::Missing(missing))));
    assert_eq!(under_way.len(), LEAVES_ASKED_MAX);
    let mut came = 0;
    while let Some(leaf) = under_way.pop() {
        came += 1;
        let out = w.fetched(leaf, None, true);
        under_way.extend(asked(&out));
        assert!(under_way.len() <= LEAVES_ASKED_MAX);
    }
    assert_eq!(came, w.leaves.len());
}

#[test]
fn a_file_of_two_directories_is_free_with_the_last_of_them() {
    let mut rig = Rig::new(Trees::new(ROOM), [1; 32]);
    let shared = Entry { path: "s".into(), digest: Digest::of(b"s"), len: 1, executable: false };
    let own = |n: &str| Entry { path: n.into(), digest: Digest::of(n.as_bytes()), len: 1, executable: false };
    let dirs: Vec<Bytes> = ["a", "b"]
        .iter()
        .map(|n| Bytes::from(Manifest::new(vec![shared.clone(), own(n)]).unwrap().encode()))
        .collect();
    let mut op_number = 0;
    for bytes in &dirs {
        let (digest, len) = (Digest::of(bytes), bytes.len() as u64);
        rig.tell(Input::Want { digest, len, claim: None, sources: Vec::new(), waiter: waiter(1) });
        rig.tell(Input::Fetched { digest, claim: None, new: false });
        for answer in [BlobAnswer::Bytes(bytes.clone()), BlobAnswer::Missing(Vec::new())] {
            op_number += 1;
            rig.tell(Input::Blob { op: op(op_number), result: Ok(answer) });
        }
        assert!(rig.machine.knows(&digest));
    }
    assert_eq!(rig.machine.leaves_held(), 4);
    assert_eq!(rig.tell(Input::Forget(Digest::of(&dirs[0]))), [Output::Free(Digest::of(b"a"))]);
    assert!(rig.machine.holds(&Digest::of(b"s")));
    assert_eq!(rig.tell(Input::Forget(Digest::of(&dirs[0]))), [], "once is enough");
    let mut last = rig.tell(Input::Forget(Digest::of(&dirs[1])));
    last.sort_by_key(|o| format!("{o:?}"));
    let mut free = [Output::Free(Digest::of(b"b")), Output::Free(Digest::of(b"s"))];
    free.sort_by_key(|o| format!("{o:?}"));
    assert_eq!(last, free);
    assert_eq!(rig.machine.leaves_held(), 0);
}

#[test]
fn a_directory_that_is_given_up_on_its_way_is_forgotten_when_it_has_ended() {
    let mut w = World::new(1);
    let look = w.read(None);
    assert_eq!(w.rig.tell(Input::Forget(w.digest)), [], "it is under way");
    let end = w.blob(&look, Ok(BlobAnswer::Missing(Vec::new())));
    assert_eq!(end, [w.here(None, vec![waiter(1)], true), Output::Unneeded(w.digest)]);
    assert!(w.rig.machine.holds(&w.leaves[0].0), "somebody may need it by now");
    assert_eq!(w.rig.tell(Input::Forget(w.digest)), [Output::Free(w.leaves[0].0)]);
}

#[test]
fn what_is_no_manifest_is_no_directory_and_a_damaged_one_is_another_matter() {
    for (bytes, no_directory) in [(&b"d1:fle1:vi2ee"[..], true), (b"text", true)] {
        let mut w = World::new(1);
        (w.manifest, w.digest) = (Bytes::copy_from_slice(bytes), Digest::of(bytes));
        let out = w.read(None);
        let is = matches!(&out[..], [Output::FetchFailed { why: Failed::NoDirectory(_), .. }]);
        assert_eq!(is, no_directory, "{out:?}");
    }
    let mut w = World::new(1);
    w.manifest = Bytes::from_static(b"rotten");
    let out = w.read(None);
    assert!(matches!(&out[..], [Output::FetchFailed { why: Failed::Fetch { hopeless: false, .. }, .. }]));
    let mut w = World::new(1);
    let (digest, len) = (w.digest, MANIFEST_BYTES_MAX as u64 + 1);
    let out = w.rig.tell(Input::Want { digest, len, claim: None, sources: Vec::new(), waiter: waiter(1) });
    let unseen =
        |o: &Output| matches!(o, Output::FetchFailed { why: Failed::Fetch { hopeless: true, .. }, .. });
    assert!(matches!(&out[..], [o] if unseen(o)), "nothing was shown: {out:?}");
}

#[test]
fn a_directory_that_is_given_up_and_wanted_again_is_looked_for_from_its_list_on() {
    let mut w = World::new(1);
    let look = w.read(None);
    assert_eq!(w.rig.tell(Input::Forget(w.digest)), []);
    assert_eq!(w.want(None, 2), []);
    let again = w.blob(&look, Ok(BlobAnswer::Missing(Vec::new())));
    let (digest, len) = (w.digest, w.manifest.len() as u64);
    assert_eq!(
        again,
        [Output::Want { digest, len, claim: None, under: None, sources: vec![holder()] }],
        "the list may have been removed"
    );
    let read = w.fetched(w.digest, None, true);
    let bytes = w.manifest.clone();
    let look = w.blob(&read, Ok(BlobAnswer::Bytes(bytes)));
    let end = w.blob(&look, Ok(BlobAnswer::Missing(Vec::new())));
    assert_eq!(end, [w.here(None, vec![waiter(1), waiter(2)], true)]);
}

#[test]
fn many_directories_together_do_not_fill_the_queue_of_fetches() {
    let mut rig = Rig::new(Trees::new(ROOM), [1; 32]);
    let claim = Some(Keypair::from_seed(&[7; 32]).public());
    let mut under_way: Vec<Digest> = Vec::new();
    let mut files = 0;
    for n in 0..2 * ASKED_ALL_MAX / LEAVES_ASKED_MAX {
        let (bytes, digest, leaves) = directory(&format!("of {n}"), LEAVES_ASKED_MAX);
        files += leaves.len();
        let len = bytes.len() as u64;
        rig.tell(Input::Want { digest, len, claim, sources: vec![holder()], waiter: waiter(1) });
        let out = rig.tell(Input::Fetched { digest, claim, new: true });
        let op = out.iter().find_map(|o| match o {
            Output::Blob { op, .. } => Some(*op),
            _ => None,
        });
        let result = Ok(BlobAnswer::Bytes(bytes));
        under_way.extend(asked(&rig.tell(Input::Blob { op: op.unwrap(), result })));
        assert!(under_way.len() <= ASKED_ALL_MAX);
    }
    let mut came = 0;
    while let Some(digest) = under_way.pop() {
        came += 1;
        under_way.extend(asked(&rig.tell(Input::Fetched { digest, claim, new: true })));
        assert!(under_way.len() <= ASKED_ALL_MAX);
    }
    assert_eq!(came, files, "each had its turn");
}

#[test]
fn after_a_restart_all_directories_are_read_before_anything_is_said_to_be_free() {
    let mut w = World::new(2);
    let lost = Digest::of(b"lost");
    let out = w.rig.tell(Input::Restore { held: BTreeSet::from([w.digest]), waited: BTreeSet::from([lost]) });
    assert!(w.rig.machine.is_restoring());
    let mut opened: Vec<(OpId, Digest)> = Vec::new();
    for o in &out {
        if let Output::Blob { op, request: BlobRequest::Open { digest } } = o {
            opened.push((*op, *digest));
        }
    }
    assert_eq!(opened.len(), 2);
    let mut last = Vec::new();
    for (op, digest) in opened {
        if digest == lost {
            last = w.rig.tell(Input::Blob { op, result: Err(BlobFailed::NotFound) });
            continue;
        }
        let info = BlobInfo { len: w.manifest.len() as u64, pieces: Bytes::new() };
        let read = w.rig.tell(Input::Blob { op, result: Ok(BlobAnswer::Info(info)) });
        let bytes = w.manifest.clone();
        last = w.blob(&read, Ok(BlobAnswer::Bytes(bytes)));
    }
    assert_eq!(last, [Output::Restored]);
    assert!(!w.rig.machine.is_restoring() && w.rig.machine.holds(&w.leaves[0].0));
}

#[test]
fn directories_keep_the_laws() {
    let dirs: Vec<_> = (0..3).map(|n| directory("law", n * 2)).collect();
    let object = {
        let all: Vec<Digest> =
            dirs.iter().flat_map(|(_, d, l)| l.iter().map(|(leaf, _)| *leaf).chain([*d])).collect();
        move || proptest::sample::select(all.clone())
    };
    let claim = || any::<bool>().prop_map(|c| c.then(|| Keypair::from_seed(&[7; 32]).public()));
    let bytes = proptest::sample::select(dirs.iter().map(|(b, ..)| b.clone()).collect::<Vec<_>>());
    let lens = proptest::sample::select(dirs.iter().map(|(b, ..)| b.len() as u64).collect::<Vec<_>>());
    let wanted = proptest::sample::select(dirs.iter().map(|(_, d, _)| *d).collect::<Vec<_>>());
    let answer = prop_oneof![
        3 => bytes.prop_map(|b| Ok(BlobAnswer::Bytes(b))),
        2 => proptest::collection::vec(object(), 0..3).prop_map(|m| Ok(BlobAnswer::Missing(m))),
        1 => (0u64..200).prop_map(|len| Ok(BlobAnswer::Info(BlobInfo { len, pieces: Bytes::new() }))),
        1 => Just(Err(BlobFailed::NotFound)),
    ];
    let input = prop_oneof![
        3 => (wanted.clone(), lens, claim(), 0u8..3).prop_map(|(digest, len, claim, w)| Input::Want {
            digest, len, claim, sources: vec![holder()], waiter: waiter(w),
        }),
        4 => (object(), claim(), any::<bool>()).prop_map(|(digest, claim, new)| Input::Fetched { digest, claim, new }),
        1 => (object(), claim(), any::<bool>()).prop_map(|(digest, claim, hopeless)| Input::FetchFailed {
            digest, claim, why: "no".into(), hopeless,
        }),
        4 => (1u64..20, answer).prop_map(|(n, result)| Input::Blob { op: op(n), result }),
        1 => wanted.clone().prop_map(Input::Forget),
        1 => proptest::collection::btree_set(wanted, 0..3)
            .prop_map(|held| Input::Restore { held, waited: BTreeSet::new() }),
    ];
    laws::check_within(
        || Trees::new(ROOM),
        input,
        |m| {
            assert!(
                m.bringing() <= 18
                    && m.leaves_held() <= 6
                    && m.is_restoring() == (m.restoring > 0 || !m.to_restore.is_empty())
            )
        },
    );
}
