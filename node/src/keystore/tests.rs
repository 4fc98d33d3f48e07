use super::*;
use proptest::prelude::*;

fn dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(KEYSTORE_FILE);
    (dir, path)
}

fn keypair() -> Keypair {
    Keypair::from_seed(&[7; 32])
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

/// A file like the keystore's, with other bytes.
fn write_private(path: &Path, bytes: &[u8]) {
    let _absent = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_sealed_key_comes_back_with_its_passphrase_only() {
    let (_dir, path) = dir();
    let made = Keystore::create(&path, &keypair(), Some(&passphrase("open sesame"))).unwrap();
    assert!(made.is_encrypted());
    let store = Keystore::open(&path).unwrap();
    assert_eq!(store.public(), keypair().public());
    assert_eq!(store.unlock(Some(&passphrase("open sesame"))).unwrap().public(), keypair().public());
    let wrong = store.unlock(Some(&passphrase("open Sesame")));
    assert!(matches!(wrong, Err(KeystoreError::WrongPassphrase)));
    assert!(matches!(store.unlock(None), Err(KeystoreError::Locked)));
}

#[test]
fn the_sealed_file_does_not_hold_the_secret_in_the_clear() {
    let (_dir, path) = dir();
    let secret = generate().unwrap();
    Keystore::create(&path, &secret, Some(&passphrase("p"))).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(32).any(|w| w == secret.seed().as_slice()));
}

#[test]
fn an_open_keystore_needs_no_passphrase_and_is_the_owners_alone() {
    let (dir, path) = dir();
    Keystore::create(&path, &keypair(), None).unwrap();
    let store = Keystore::open(&path).unwrap();
    assert!(!store.is_encrypted());
    assert_eq!(*store.unlock(None).unwrap().seed(), [7; 32]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_keystore_is_never_replaced_by_a_new_one() {
    let (dir, path) = dir();
    Keystore::create(&path, &keypair(), None).unwrap();
    let again = Keystore::create(&path, &generate().unwrap(), None);
    assert!(matches!(again, Err(KeystoreError::Exists(_))));
    assert_eq!(Keystore::open(&path).unwrap().public(), keypair().public());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
    assert!(matches!(Keystore::create(&link, &keypair(), None), Err(KeystoreError::Exists(_))));
}

#[test]
fn a_file_that_others_may_read_is_refused_with_its_mend() {
    let (_dir, path) = dir();
    Keystore::create(&path, &keypair(), None).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let refused = Keystore::open(&path).unwrap_err();
        assert!(matches!(refused, KeystoreError::Exposed { .. }));
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    Keystore::open(&path).unwrap();
}

#[test]
fn the_passphrase_can_change_come_and_go() {
    let (dir, path) = dir();
    let (a, b) = (passphrase("a"), passphrase("b"));
    let mut store = Keystore::create(&path, &keypair(), Some(&a)).unwrap();
    assert!(matches!(store.change_passphrase(Some(&b), None), Err(KeystoreError::WrongPassphrase)));
    store.change_passphrase(Some(&a), Some(&b)).unwrap();
    let reread = Keystore::open(&path).unwrap();
    assert!(reread.unlock(Some(&a)).is_err());
    assert_eq!(reread.unlock(Some(&b)).unwrap().public(), keypair().public());
    store.change_passphrase(Some(&b), None).unwrap();
    assert!(!Keystore::open(&path).unwrap().is_encrypted());
    store.change_passphrase(None, Some(&a)).unwrap();
    assert!(Keystore::open(&path).unwrap().unlock(Some(&a)).is_ok());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_crash_before_the_new_file_has_its_name_leaves_the_old_one() {
    let (dir, path) = dir();
    Keystore::create(&path, &keypair(), None).unwrap();
    // What a process leaves that died while it wrote.
    write_private(&dir.path().join(".key-0123456789abcdef"), b"RNKEY\x01\x01half");
    let mut store = Keystore::open(&path).unwrap();
    assert_eq!(store.unlock(None).unwrap().public(), keypair().public());
    store.change_passphrase(None, Some(&passphrase("new"))).unwrap();
}

#[test]
fn truncated_and_flipped_bytes_are_found_wherever_they_are() {
    let (_dir, path) = dir();
    let secret = passphrase("p");
    for sealed in [None, Some(&secret)] {
        let bytes = encode(&keypair(), sealed).unwrap();
        for len in 0..bytes.len() {
            write_private(&path, &bytes[..len]);
            assert!(Keystore::open(&path).is_err(), "cut to {len}");
        }
        write_private(&path, &[&bytes[..], b"x"].concat());
        assert!(Keystore::open(&path).is_err(), "one byte more");
        for at in 0..bytes.len() {
            // The sealed form pays for Argon2id at each try: a third of its bytes must do.
            if sealed.is_some() && at % 3 != 0 {
                continue;
            }
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            write_private(&path, &damaged);
            let opened = Keystore::open(&path).and_then(|store| store.unlock(sealed));
            assert!(opened.is_err(), "bit of byte {at} flipped");
        }
    }
}

#[test]
fn parameters_beyond_reason_are_refused_before_they_cost_anything() {
    let bytes = encode(&keypair(), Some(&passphrase("p"))).unwrap();
    let (_dir, path) = dir();
    for (at, value) in [(0, u32::MAX), (4, u32::MAX), (8, u32::MAX)] {
        let mut greedy = bytes.to_vec();
        greedy[HEADER_LEN + at..HEADER_LEN + at + 4].copy_from_slice(&value.to_be_bytes());
        write_private(&path, &greedy);
        let refused = Keystore::open(&path).unwrap().unlock(Some(&passphrase("p")));
        assert!(matches!(refused, Err(KeystoreError::Damaged(_))));
    }
}

#[test]
fn another_version_and_another_file_are_named_as_such() {
    let (dir, path) = dir();
    for version in [0, 2, 255] {
        let mut bytes = encode(&keypair(), None).unwrap().to_vec();
        bytes[MAGIC.len()] = version;
        write_private(&path, &bytes);
        let refused = Keystore::open(&path).unwrap_err();
        assert!(matches!(refused, KeystoreError::Version { found, .. } if found == version));
    }
    write_private(&path, b"-----BEGIN OPENSSH PRIVATE KEY-----");
    assert!(matches!(Keystore::open(&path), Err(KeystoreError::Foreign(_))));
    assert!(matches!(Keystore::open(&dir.path().join("none")), Err(KeystoreError::Missing(_))));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(Keystore::open(dir.path()), Err(KeystoreError::Foreign(_))));
}

#[test]
fn a_key_leaves_and_enters_in_both_forms() {
    let secret = generate().unwrap();
    for format in [KeyFormat::Binary, KeyFormat::Hex] {
        let out = export(&secret, format);
        assert_eq!(import(&out).unwrap().public(), secret.public());
    }
    assert_eq!(
        export(&keypair(), KeyFormat::Hex).as_slice(),
        ["07".repeat(32), "\n".into()].concat().as_bytes()
    );
    for wrong in [&b""[..], &[0; 31], &[0; 33], "zz".repeat(32).as_bytes(), "07".repeat(31).as_bytes()] {
        assert!(matches!(import(wrong), Err(KeystoreError::NotAKey)));
    }
}

#[test]
fn a_passphrase_file_must_be_private_and_holds_one_line() {
    let (dir, path) = dir();
    let file = dir.path().join("passphrase");
    Keystore::create(&path, &keypair(), Some(&passphrase("two words "))).unwrap();
    for text in ["two words ", "two words \n", "two words \r\n"] {
        write_private(&file, text.as_bytes());
        let read = Passphrase::obtain(Some(&file), None).unwrap().unwrap();
        Keystore::open(&path).unwrap().unlock(Some(&read)).unwrap();
    }
    for bad in [&b""[..], b"\n", b"\xff\xfe", &[b'x'; 2000]] {
        write_private(&file, bad);
        assert!(matches!(Passphrase::from_file(&file), Err(KeystoreError::BadPassphrase)));
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Passphrase::from_file(&file), Err(KeystoreError::Exposed { .. })));
}

#[test]
fn nothing_secret_is_printed() {
    let (_dir, path) = dir();
    let store = Keystore::create(&path, &keypair(), None).unwrap();
    let shown = format!("{store:?} {:?} {:?}", passphrase("hush"), keypair());
    assert!(!shown.contains("hush") && !shown.contains("7, 7") && !shown.contains("0707"), "{shown}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        tail in prop::collection::vec(any::<u8>(), 0..200), honest in 0usize..48,
    ) {
        let (_dir, path) = dir();
        let mut bytes = encode(&keypair(), None).unwrap().to_vec();
        bytes.truncate(honest);
        bytes.extend(tail);
        write_private(&path, &bytes);
        if let Ok(store) = Keystore::open(&path) {
            prop_assert!(store.is_encrypted() || store.unlock(None).is_err());
        }
    }
}
