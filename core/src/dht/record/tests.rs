use super::*;
use crate::id::Keypair;
use proptest::prelude::*;

const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn attachment(n: u8, at: &str) -> Attachment {
    Attachment { relay: Keypair::from_seed(&[n; 32]).public(), session: [n; 8], addr: addr(at) }
}

fn minimal() -> RecordContent {
    RecordContent {
        node_type: NodeType::Public,
        public: vec![addr("203.0.113.7:30906")],
        ..RecordContent::default()
    }
}

fn typical() -> RecordContent {
    RecordContent {
        private: vec![],
        public: vec![addr("203.0.113.7:30906")],
        attachments: vec![attachment(1, "198.51.100.9:30906")],
        nat: NatType::PortRestrictedCone,
        protocols: 7,
        machine: Some(MachineSummary {
            arch: "x86_64".into(),
            os: "linux".into(),
            cpus: 16,
            ram_mib: 64_000,
            disk_gib: 900,
            gpus: 1,
            gpu_vendor: "nvidia".into(),
            docker: true,
            wasm: true,
        }),
        services: 3,
        catalogue: Some(Digest::of(b"catalogue")),
        ..RecordContent::default()
    }
}

/// Every list full, every number at its largest, every name at its longest.
fn maximal() -> RecordContent {
    let v4 = |a: u8, b: u8| (1..=4u8).map(move |i| SocketAddr::from(([a, b, 1, i], 65_535)));
    let v6 = |a: u16| (1..=4u16).map(move |i| SocketAddr::from(([a, 0xdb8, 1, 2, 3, 4, 5, i], 65_535)));
    let name = "n".repeat(NAME_MAX);
    RecordContent {
        node_type: NodeType::Public,
        role: Role::Server,
        public: v4(203, 0).chain(v6(0x2001)).collect(),
        private: v4(10, 9).chain(v6(0xfd00)).collect(),
        relay_offer: Some(RelayOffer {
            endpoint: addr("[2001:db8::1]:65535"),
            sessions: u32::MAX,
            price: u32::MAX,
        }),
        attachments: (1..=3).map(|n| attachment(n, "[2001:db8::2]:65535")).collect(),
        nat: NatType::Symmetric,
        protocols: i64::MAX as u64,
        machine: Some(MachineSummary {
            arch: name.clone(),
            os: name.clone(),
            cpus: u32::MAX,
            ram_mib: u32::MAX,
            disk_gib: u32::MAX,
            gpus: u32::MAX,
            gpu_vendor: name,
            docker: true,
            wasm: true,
        }),
        services: u32::MAX,
        catalogue: Some(Digest([255; 32])),
        unknown: Dict::new(),
    }
}

fn issue(content: RecordContent) -> NodeRecord {
    NodeRecord::issue(content, NOW)
}

#[test]
fn the_largest_record_fits_with_nothing_dropped() {
    // The year 2286 has one digit more than today.
    let bytes = NodeRecord::issue(maximal(), UnixTime::from_secs(10_000_000_000)).encode();
    assert!(bytes.len() <= RECORD_MAX, "{} bytes", bytes.len());
    assert_eq!(NodeRecord::decode(&bytes).unwrap().content, maximal(), "{} bytes", bytes.len());
}

#[test]
fn typical_records_are_small() {
    let size = |c| issue(c).encode().len();
    assert_eq!(size(minimal()), 56);
    let typical = size(typical());
    assert!(typical < 300, "{typical} bytes");
}

#[test]
fn a_record_survives_its_wire_form() {
    for content in [minimal(), typical(), maximal(), RecordContent::default()] {
        let record = issue(content);
        assert_eq!(NodeRecord::read(&record.encode(), NOW), Ok(record));
    }
}

#[test]
fn a_node_may_publish_attachments_and_no_address() {
    let anonymous = RecordContent {
        attachments: vec![attachment(1, "198.51.100.9:30906"), attachment(2, "[2001:db8::2]:1")],
        ..RecordContent::default()
    };
    let read = NodeRecord::read(&issue(anonymous.clone()).encode(), NOW).unwrap();
    assert_eq!(read.content, anonymous);
}

#[test]
fn what_does_not_fit_goes_in_the_declared_order() {
    let with_unknown = |bytes: usize| {
        let mut c = maximal();
        c.unknown = Dict::new().with("zz", &vec![7u8; bytes][..]);
        NodeRecord::decode(&issue(c).encode()).unwrap().content
    };
    let (mut seen, mut last) = (Vec::new(), None);
    for bytes in 0..RECORD_MAX {
        let c = with_unknown(bytes);
        let v6 = |l: &[SocketAddr]| l.iter().filter(|a| a.is_ipv6()).count();
        let shape =
            (v6(&c.private), c.private.len(), c.attachments.len(), c.public.len(), !c.unknown.0.is_empty());
        if last != Some(shape) {
            seen.push(shape);
            last = Some(shape);
        }
    }
    assert_eq!(
        seen,
        [
            (4, 8, 3, 8, true),
            (0, 4, 3, 8, true),
            (0, 0, 3, 8, true),
            (0, 0, 2, 8, true),
            (0, 0, 2, 4, true),
            (0, 0, 2, 4, false)
        ]
    );
}

#[test]
fn unknown_keys_are_kept() {
    let mut content = minimal();
    content.unknown = Dict::new().with("new", 5u64).with("zz", "later");
    let bytes = issue(content.clone()).encode();
    let read = NodeRecord::decode(&bytes).unwrap();
    assert_eq!(read.content, content);
    assert_eq!(read.encode(), bytes);
}

#[test]
fn a_reader_looks_at_the_clock() {
    let bytes = issue(minimal()).encode();
    let read = |secs: i64| NodeRecord::read(&bytes, UnixTime::from_secs((1_700_000_000 + secs) as u64));
    assert!(read(0).is_ok());
    assert!(read(-600).is_ok());
    assert_eq!(read(-601), Err(RecordError::Future));
    assert!(read(24 * 3_600 - 1).is_ok());
    assert_eq!(read(24 * 3_600), Err(RecordError::Expired));
}

#[test]
fn no_owner_can_have_a_record_believed_for_longer_than_a_day() {
    let mut record = NodeRecord::issue(RecordContent::default(), UnixTime::from_secs(1_000));
    record.valid = VALIDITY * 1_000;
    let bytes = record.encode();
    assert!(NodeRecord::read(&bytes, UnixTime::from_secs(1_000 + 24 * 3_600 - 1)).is_ok());
    assert_eq!(NodeRecord::read(&bytes, UnixTime::from_secs(1_000 + 24 * 3_600)), Err(RecordError::Expired));
}

#[test]
fn endpoints_nobody_may_use_are_left_out() {
    let dict = Dict::new()
        .with("4", &[compact_addr(addr("127.0.0.1:9")), compact_addr(addr("203.0.113.7:9"))].concat()[..])
        .with("l4", &[compact_addr(addr("224.0.0.1:9")), compact_addr(addr("10.0.0.1:0"))].concat()[..])
        .with("e", 60u64)
        .with("k", 1u64)
        .with("s", 1u64)
        .with("t", 5u64)
        .with("v", 1u64);
    let read = NodeRecord::decode(&dict.encode()).unwrap();
    assert_eq!(read.content.public, [addr("203.0.113.7:9")]);
    assert!(read.content.private.is_empty());
}

#[test]
fn what_is_no_record_of_ours_says_why() {
    let base = Dict::new().with("e", 60u64).with("k", 1u64).with("s", 1u64).with("t", 5u64).with("v", 1u64);
    assert!(NodeRecord::decode(&base.encode()).is_ok());
    let refused = |d: Dict| NodeRecord::decode(&d.encode()).unwrap_err();
    assert_eq!(
        refused(base.clone().with("v", 2u64)),
        DecodeError::Unknown { what: "record version", number: 2 }
    );
    assert_eq!(refused(base.clone().with("k", 9u64)), DecodeError::Unknown { what: "node type", number: 9 });
    assert!(matches!(refused(base.clone().with("4", "12345")), DecodeError::Invalid { key: "4", .. }));
    assert!(matches!(refused(base.clone().with("m", vec![])), DecodeError::Invalid { key: "m", .. }));
    assert!(matches!(
        refused(base.with("r", vec![Value::from("short")])),
        DecodeError::Invalid { key: "r", .. }
    ));
    assert_eq!(NodeRecord::decode(b"d1:vi1eeX").unwrap_err(), NodeRecord::decode(b"d1:vi1eeY").unwrap_err());
    assert!(matches!(NodeRecord::decode(&[b'l'; 701]), Err(DecodeError::TooLong { .. })));
}

#[test]
fn endpoints_are_sorted_by_scope_and_bounded() {
    let mut c = RecordContent::default();
    let mut all: Vec<SocketAddr> = (1..9u8).map(|i| SocketAddr::from(([203, 0, 113, i], 9))).collect();
    all.extend([addr("10.0.0.1:9"), addr("10.0.0.1:9"), addr("[::ffff:10.0.0.1]:9"), addr("127.0.0.1:9")]);
    all.push(addr("0.0.0.0:9"));
    c.set_endpoints(&all, false);
    assert_eq!((c.public.len(), c.private.len()), (4, 0));
    c.set_endpoints(&all, true);
    assert_eq!(c.private, [addr("10.0.0.1:9"), addr("127.0.0.1:9")]);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_what_is_read_can_be_written(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
        if let Ok(record) = NodeRecord::decode(&bytes) {
            prop_assert!(record.encode().len() <= RECORD_MAX);
        }
    }

    #[test]
    fn flipped_bytes_never_panic(at in 0usize..600, with in any::<u8>()) {
        let mut bytes = issue(maximal()).encode().to_vec();
        let at = at % bytes.len();
        bytes[at] = with;
        if let Ok(record) = NodeRecord::decode(&bytes) {
            prop_assert!(record.encode().len() <= RECORD_MAX);
        }
    }
}
