//! Headers, cutting and putting together.

use super::*;
use proptest::prelude::*;

fn peer(n: u8) -> PeerId {
    PeerId([n; 20])
}

fn packet(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 251) as u8).collect()
}

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn cut(fragmenter: &mut Fragmenter, n: u8, packet: &[u8], max: usize) -> Vec<Bytes> {
    fragmenter.split(Direction::From, peer(n), packet, max).unwrap().collect()
}

fn push(reassembler: &mut Reassembler, now: Instant, datagram: &Bytes) -> Option<Bytes> {
    let header = Header::parse(datagram).unwrap();
    reassembler.push(now, &header, datagram.slice(header.bytes()..))
}

fn sizes(datagrams: &[Bytes]) -> Vec<usize> {
    datagrams.iter().map(Bytes::len).collect()
}

#[test]
fn a_packet_of_1200_bytes_passes_where_a_datagram_carries_1162() {
    let (mut fragmenter, mut reassembler) = (Fragmenter::new(Cutter::Peer), Reassembler::default());
    let sent = packet(1_200);
    let datagrams = cut(&mut fragmenter, 1, &sent, 1_162);
    assert_eq!(sizes(&datagrams), [624, 624]);
    assert_eq!(push(&mut reassembler, at(0), &datagrams[1]), None);
    assert_eq!(push(&mut reassembler, at(999), &datagrams[0]).as_deref(), Some(&sent[..]));
    assert_eq!(reassembler.held(), (0, 0));
}

#[test]
fn a_packet_of_6500_bytes_passes_there_too_and_every_piece_passes_everywhere() {
    let mut fragmenter = Fragmenter::new(Cutter::Peer);
    let datagrams = cut(&mut fragmenter, 1, &packet(PACKET_BYTES_MAX), 1_162);
    assert_eq!(datagrams.len(), 7);
    assert!(datagrams.iter().all(|d| d.len() <= FRAGMENT_DATAGRAM_MAX));
    let eight = cut(&mut fragmenter, 1, &packet(PACKET_BYTES_MAX), 837);
    assert_eq!(eight.len(), FRAGMENTS_MAX);
    let err = fragmenter.split(Direction::To, peer(1), &packet(PACKET_BYTES_MAX), 836).unwrap_err();
    assert_eq!(err, WireError::TooLong(PACKET_BYTES_MAX));
}

#[test]
fn what_fits_goes_whole_behind_21_bytes() {
    let mut fragmenter = Fragmenter::new(Cutter::Peer);
    let whole = cut(&mut fragmenter, 7, &packet(1_141), 1_162);
    assert_eq!(sizes(&whole), [1_162]);
    assert_eq!((whole[0][0], &whole[0][1..21]), (0x31, &[7; 20][..]));
    assert_eq!(cut(&mut fragmenter, 7, &packet(1_142), 1_162).len(), 2);
    let to = fragmenter.split(Direction::To, peer(7), b"x", 1_162).unwrap().next().unwrap();
    assert_eq!(to[0], 0x30);
}

#[test]
fn pieces_that_the_relay_cuts_never_meet_those_of_the_sender() {
    let mut reassembler = Reassembler::default();
    let (a, b) = (packet(1_500), packet(1_600));
    let by_peer = cut(&mut Fragmenter::new(Cutter::Peer), 1, &a, 1_000);
    let by_relay = cut(&mut Fragmenter::new(Cutter::Relay), 1, &b, 1_000);
    assert_eq!(push(&mut reassembler, at(0), &by_peer[0]), None);
    assert_eq!(push(&mut reassembler, at(0), &by_relay[0]), None);
    assert_eq!(push(&mut reassembler, at(0), &by_peer[1]).as_deref(), Some(&a[..]));
    assert_eq!(push(&mut reassembler, at(0), &by_relay[1]).as_deref(), Some(&b[..]));
}

#[test]
fn pieces_of_two_senders_are_kept_apart_and_numbers_go_round() {
    let mut reassembler = Reassembler::default();
    let one = cut(&mut Fragmenter::new(Cutter::Peer), 1, &packet(1_500), 1_000);
    let two = cut(&mut Fragmenter::new(Cutter::Peer), 2, &packet(1_500), 1_000);
    assert_eq!(push(&mut reassembler, at(0), &one[0]), None);
    assert_eq!(push(&mut reassembler, at(0), &two[1]), None);
    assert_eq!(reassembler.held().0, 2);
    let mut round = Fragmenter { cutter: Cutter::Relay, next: 0x7fff };
    let last = cut(&mut round, 1, &packet(1_500), 1_000);
    let first = cut(&mut round, 1, &packet(1_500), 1_000);
    let id = |d: &Bytes| u16::from_be_bytes([d[21], d[22]]);
    assert_eq!((id(&last[0]), id(&first[0])), (0xffff, 0x8000));
}

#[test]
fn a_packet_whose_pieces_are_not_here_after_a_second_is_dropped() {
    let mut reassembler = Reassembler::default();
    let pieces = cut(&mut Fragmenter::new(Cutter::Peer), 1, &packet(1_500), 1_000);
    assert_eq!(push(&mut reassembler, at(5), &pieces[0]), None);
    assert_eq!(reassembler.deadline(), Some(at(1_005)));
    assert_eq!(push(&mut reassembler, at(1_005), &pieces[1]), None);
    assert_eq!((reassembler.dropped(), reassembler.held().0), (1, 1));
    reassembler.expire(at(2_005));
    assert_eq!((reassembler.dropped(), reassembler.held(), reassembler.deadline()), (2, (0, 0), None));
}

#[test]
fn a_repeated_piece_begins_its_packet_anew() {
    let mut reassembler = Reassembler::default();
    let mut again = Fragmenter::new(Cutter::Peer);
    let old = cut(&mut again, 1, &packet(1_500), 1_000);
    again.next = 0;
    let new = cut(&mut again, 1, &packet(1_400), 1_000);
    assert_eq!(push(&mut reassembler, at(0), &old[0]), None);
    assert_eq!(push(&mut reassembler, at(1), &new[0]), None);
    assert_eq!(push(&mut reassembler, at(1), &new[1]).as_deref(), Some(&packet(1_400)[..]));
}

#[test]
fn who_sends_pieces_without_end_drives_out_its_own() {
    let mut reassembler = Reassembler::default();
    let mut honest = Fragmenter::new(Cutter::Peer);
    let waiting = cut(&mut honest, 1, &packet(1_500), 1_000);
    assert_eq!(push(&mut reassembler, at(0), &waiting[0]), None);
    let mut hostile = Fragmenter::new(Cutter::Peer);
    for _ in 0..1_000 {
        let pieces = cut(&mut hostile, 2, &packet(2_000), 1_100);
        assert_eq!(push(&mut reassembler, at(0), &pieces[0]), None);
    }
    assert_eq!(reassembler.held().0, 1 + PARTIALS_PER_PEER_MAX);
    assert_eq!(push(&mut reassembler, at(0), &waiting[1]).as_deref(), Some(&packet(1_500)[..]));
}

#[test]
fn what_is_held_is_bounded_in_packets_and_in_bytes_whoever_sends() {
    let mut reassembler = Reassembler::default();
    for n in 0..=255 {
        let mut fragmenter = Fragmenter::new(Cutter::Peer);
        let big = cut(&mut fragmenter, n, &packet(PACKET_BYTES_MAX), 1_100);
        big[1..].iter().for_each(|d| assert_eq!(push(&mut reassembler, at(0), d), None));
        let (partials, bytes) = reassembler.held();
        assert!(partials <= PARTIALS_MAX && bytes <= PARTIAL_BYTES_MAX, "{partials} {bytes}");
    }
}

#[test]
fn pieces_that_are_too_much_for_a_packet_are_dropped() {
    let mut reassembler = Reassembler::default();
    let piece = Bytes::from(packet(FRAGMENT_DATAGRAM_MAX - FRAGMENT_HEADER_BYTES));
    for index in 0..8 {
        let part = Part::Fragment { id: 1, index, count: 8 };
        let header = Header { direction: Direction::From, peer: peer(1), part };
        assert_eq!(reassembler.push(at(0), &header, piece.clone()), None);
    }
    assert!(reassembler.held().1 <= PACKET_BYTES_MAX);
}

#[test]
fn what_is_no_relayed_packet_is_refused_with_its_reason() {
    let whole = |kind: u8, len: usize| [&[kind][..], &[1; 20], &vec![0; len]].concat();
    let piece = |place: u8, len: usize| [&[0x32][..], &[1; 20], &[0, 1, place], &vec![0; len]].concat();
    let parse = |bytes: &[u8]| Header::parse(bytes).unwrap_err();
    assert_eq!(parse(b""), WireError::Short);
    assert_eq!(parse(&whole(0x34, 9)), WireError::Kind(0x34));
    assert_eq!(parse(&whole(0x30, 0)), WireError::Short);
    assert_eq!(parse(&whole(0x30, PACKET_BYTES_MAX + 1)), WireError::TooLong(PACKET_BYTES_MAX + 1));
    assert_eq!(parse(&piece(0x02, 0)), WireError::Short);
    for place in [0x00, 0x01, 0x22, 0x09, 0xf2] {
        assert_eq!(parse(&piece(place, 9)), WireError::Fragment, "{place:#x}");
    }
    assert_eq!(parse(&piece(0x02, 1_077)), WireError::Fragment);
    assert!(Header::parse(&piece(0x02, 1_076)).is_ok());
}

proptest! {
    #[test]
    fn every_packet_comes_out_as_it_went_in(len in 1..=PACKET_BYTES_MAX, max in 837usize..7_000, turn in any::<u64>()) {
        let (mut fragmenter, mut reassembler) = (Fragmenter::new(Cutter::Relay), Reassembler::default());
        let sent = packet(len);
        let mut datagrams = cut(&mut fragmenter, 3, &sent, max);
        prop_assert!(datagrams.iter().all(|d| d.len() <= max));
        prop_assert!(datagrams.len() == 1 || datagrams.iter().all(|d| d.len() <= FRAGMENT_DATAGRAM_MAX));
        let by = (turn % datagrams.len() as u64) as usize;
        datagrams.rotate_left(by);
        let mut got = Vec::new();
        for datagram in &datagrams {
            got.extend(push(&mut reassembler, at(0), datagram));
        }
        prop_assert_eq!(got, [Bytes::from(sent)]);
    }

    #[test]
    fn hostile_bytes_never_panic_and_what_is_read_is_written_the_same(
        datagrams in prop::collection::vec(
            (0u8..6, 0u8..3, prop::collection::vec(any::<u8>(), 0..40), 0u64..3_000), 0..60),
    ) {
        let mut reassembler = Reassembler::default();
        let mut now = Instant::ZERO;
        for (kind, n, tail, wait_ms) in datagrams {
            now = now + Duration::from_millis(wait_ms);
            let bytes = Bytes::from([&[0x2f + kind][..], &[n; 20], &tail].concat());
            let Ok(header) = Header::parse(&bytes) else { continue };
            let carried = bytes.slice(header.bytes()..);
            prop_assert_eq!(&header.datagram(&carried), &bytes);
            if let Some(packet) = reassembler.push(now, &header, carried) {
                prop_assert!(!packet.is_empty() && packet.len() <= PACKET_BYTES_MAX);
            }
            prop_assert!(reassembler.held().0 <= PARTIALS_MAX);
        }
    }
}
