use super::*;
use crate::laws::{self, Rig};
use proptest::prelude::*;

const SERVER: &str = "198.51.100.1:3478";
const US: &str = "203.0.113.7:4433";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

/// RFC 5769 section 2.1.
fn sample_request() -> Vec<u8> {
    hex("00010058 2112a442 b7e7a701 bc34d686 fa87dfae 80220010 5354554e 20746573 7420636c 69656e74
         00240004 6e0001ff 80290008 932ff9b1 51263b36 00060009 6576746a 3a683676 59202020
         00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 80280004 e57a3bcf")
}

/// RFC 5769 section 2.2.
fn sample_ipv4_response() -> Vec<u8> {
    hex("0101003c 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220
         00200008 0001a147 e112a643 00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
         80280004 c07d4c96")
}

/// RFC 5769 section 2.3.
fn sample_ipv6_response() -> Vec<u8> {
    hex("01010048 2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220
         00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
         00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004 c8fb0b4c")
}

fn sample_id() -> TransactionId {
    TransactionId(hex("b7e7a701bc34d686fa87dfae").try_into().unwrap())
}

#[test]
fn the_samples_of_rfc_5769_are_read_as_it_says() {
    let v4 = Response::Mapped(addr("192.0.2.1:32853"));
    assert_eq!(response(&sample_ipv4_response()), Ok((sample_id(), v4)));
    let v6 = Response::Mapped(addr("[2001:db8:1234:5678:11:2233:4455:6677]:32853"));
    assert_eq!(response(&sample_ipv6_response()), Ok((sample_id(), v6)));
    assert!(is_stun(&sample_request()) && header(&sample_request()).unwrap().0 == BINDING_REQUEST);
}

#[test]
fn the_fingerprints_of_rfc_5769_are_right_and_any_changed_byte_is_noticed() {
    for sample in [sample_request(), sample_ipv4_response(), sample_ipv6_response()] {
        assert_eq!(attributes(&sample, |_, _| ()), Ok(()));
        for at in HEADER_BYTES..sample.len() {
            let mut changed = sample.clone();
            changed[at] ^= 1;
            let read = response(&changed).is_ok() || answer(&changed, addr(US)).is_ok_and(|a| a[1] == 1);
            // A fingerprint whose type is changed is one no more: an optional attribute nobody knows.
            let renamed = at == sample.len() - 8 || at == sample.len() - 7;
            assert!(!read || renamed, "byte {at}");
        }
    }
}

#[test]
fn the_samples_request_needs_what_a_plain_server_does_not_know_and_is_told_so() {
    let error = answer(&sample_request(), addr(US)).unwrap();
    assert_eq!(response(&error), Ok((sample_id(), Response::Refused(420))));
    assert_eq!(&error[HEADER_BYTES + 8..HEADER_BYTES + 14], [0, 0x0a, 0, 2, 0, 0x24], "PRIORITY is named");
}

#[test]
fn an_answer_tells_the_asker_its_address_within_its_size() {
    for (from, bytes) in [(US, 40), ("[2001:db8::7]:4433", 52), ("[::ffff:203.0.113.7]:9", 40)] {
        let answer = answer(&request(sample_id()), addr(from)).unwrap();
        let from = SocketAddr::new(addr(from).ip().to_canonical(), addr(from).port());
        assert_eq!(response(&answer), Ok((sample_id(), Response::Mapped(from))));
        assert_eq!(answer.len(), bytes);
        assert!(answer.len() <= AMPLIFICATION_MAX * HEADER_BYTES);
    }
}

#[test]
fn a_server_answers_no_response_no_indication_and_no_other_method() {
    for kind in [BINDING_SUCCESS, BINDING_ERROR, 0x0011, 0x0003] {
        assert_eq!(answer(&message(kind, sample_id()), addr(US)), Err(StunError::Kind));
    }
}

#[test]
fn an_old_servers_mapped_address_is_read_and_the_xored_one_preferred() {
    let mut old = message(BINDING_SUCCESS, sample_id());
    put(&mut old, MAPPED_ADDRESS, &write_addr(addr(US)));
    assert_eq!(response(&old), Ok((sample_id(), Response::Mapped(addr(US)))));
    put(&mut old, XOR_MAPPED_ADDRESS, &write_addr(xored(addr("192.0.2.9:9"), sample_id())));
    assert_eq!(response(&old), Ok((sample_id(), Response::Mapped(addr("192.0.2.9:9")))));
    put(&mut old, 0x7abc, &[]);
    assert_eq!(response(&old), Err(StunError::Unusable), "it must be understood and is not");
}

#[test]
fn lengths_are_strict() {
    let whole = sample_ipv4_response();
    for cut in 0..whole.len() {
        assert_eq!(response(&whole[..cut]), Err(StunError::Header), "cut at {cut}");
    }
    let mut longer = whole.clone();
    longer.extend([0; 4]);
    assert!(!is_stun(&longer));
    let mut overrun = message(BINDING_SUCCESS, sample_id());
    put(&mut overrun, XOR_MAPPED_ADDRESS, &write_addr(addr(US)));
    overrun[HEADER_BYTES + 3] = 200;
    assert_eq!(response(&overrun), Err(StunError::Attribute));
    let mut empty = message(BINDING_SUCCESS, sample_id());
    put(&mut empty, XOR_MAPPED_ADDRESS, &[]);
    assert_eq!(response(&empty), Err(StunError::Address));
}

#[test]
fn packets_of_quic_are_no_stun() {
    for first in [0x40, 0x60, 0xc0, 0xff] {
        let mut packet = request(sample_id());
        packet[0] = first;
        assert!(!is_stun(&packet));
    }
    assert!(!is_stun(b"d1:ad2:id20:abcdefghij01234567896:target") && !is_stun(&[]));
}

fn ask() -> Input {
    Input::Ask { socket: SocketId::MAIN, to: addr(SERVER) }
}

fn sent(outputs: &[Output]) -> Vec<Vec<u8>> {
    let datagrams = outputs.iter().filter_map(|o| match o {
        Output::Send { datagram, .. } => Some(datagram.clone()),
        Output::Mapped { .. } | Output::Failed { .. } | Output::Refused(_) => None,
    });
    datagrams.collect()
}

#[test]
fn a_request_is_repeated_as_the_rfc_says_and_given_up_after_15_5_seconds() {
    let mut rig = Rig::new(StunClient::default(), [1; 32]);
    let first = sent(&rig.tell(ask()));
    for at in [500, 1_500, 3_500, 7_500] {
        rig.advance(Duration::from_millis(at - 1).saturating_sub(rig.now.since(Instant::ZERO)));
        assert_eq!(rig.outputs(), []);
        assert_eq!(sent(&rig.wait(Duration::from_millis(1))), first, "the same request after {at} ms");
    }
    assert_eq!(rig.wait(Duration::from_millis(7_999)), []);
    let failed = Output::Failed { by: addr(SERVER), socket: SocketId::MAIN };
    assert_eq!(rig.wait(Duration::from_millis(1)), [failed]);
    assert_eq!((rig.machine.outstanding(), rig.machine.poll_timeout()), (0, None));
}

#[test]
fn an_answer_counts_once_from_who_was_asked_on_the_socket_that_asked() {
    let mut rig = Rig::new(StunClient::default(), [1; 32]);
    let request = sent(&rig.tell(ask())).remove(0);
    let datagram = answer(&request, addr(US)).unwrap();
    let received = |from, socket| Input::Received { socket, from: addr(from), datagram: datagram.clone() };
    let unasked = [Output::Refused("a STUN response nobody asked for")];
    assert_eq!(rig.tell(received("198.51.100.2:3478", SocketId::MAIN)), unasked);
    assert_eq!(rig.tell(received(SERVER, SocketId(1))), unasked);
    let mapped = Output::Mapped { by: addr(SERVER), socket: SocketId::MAIN, mapped: addr(US) };
    assert_eq!(rig.tell(received(SERVER, SocketId::MAIN)), [mapped]);
    assert_eq!(rig.tell(received(SERVER, SocketId::MAIN)), unasked);
}

#[test]
fn answers_to_what_was_asked_on_another_network_are_not_believed() {
    let mut rig = Rig::new(StunClient::default(), [1; 32]);
    let request = sent(&rig.tell(ask())).remove(0);
    rig.handle(Input::NetworkChanged);
    let datagram = answer(&request, addr(US)).unwrap();
    let late = Input::Received { socket: SocketId::MAIN, from: addr(SERVER), datagram };
    assert_eq!(rig.tell(late), [Output::Refused("a STUN response nobody asked for")]);
}

fn arb_input() -> impl Strategy<Value = Input> {
    let server = |n: u16| SocketAddr::from(([198, 51, 100, 1], 3_000 + n));
    let datagram = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        any::<[u8; 12]>().prop_map(|id| success(TransactionId(id), ([203, 0, 113, 7], 9).into())),
    ];
    prop_oneof![
        4 => (0..3u16, 0..80u16).prop_map(move |(s, n)| Input::Ask { socket: SocketId(s), to: server(n) }),
        2 => (0..3u16, 0..80u16, datagram).prop_map(move |(s, n, datagram)| Input::Received {
            socket: SocketId(s),
            from: server(n),
            datagram,
        }),
        1 => Just(Input::NetworkChanged),
    ]
}

#[test]
fn the_client_obeys_the_laws() {
    laws::check_within(StunClient::default, arb_input(), |m| {
        assert!(m.outstanding() <= TRANSACTIONS_MAX);
    });
}

#[test]
fn transactions_are_bounded() {
    let mut rig = Rig::new(StunClient::default(), [1; 32]);
    for n in 0..=TRANSACTIONS_MAX as u16 {
        rig.handle(Input::Ask { socket: SocketId(n), to: addr(SERVER) });
    }
    assert_eq!(rig.outputs().last(), Some(&Output::Refused("too many STUN requests")));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_never_make_us_shout(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        attributes in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..20)), 0..24),
        v6 in any::<bool>(),
    ) {
        let _ = (is_stun(&bytes), response(&bytes), answer(&bytes, addr(US)));
        let mut whole = message(BINDING_REQUEST, sample_id());
        attributes.iter().for_each(|(kind, value)| put(&mut whole, *kind, value));
        let from = addr(if v6 { "[2001:db8::7]:1" } else { US });
        if let Ok(out) = answer(&whole, from) {
            prop_assert!(out.len() <= AMPLIFICATION_MAX * whole.len(), "{} for {}", out.len(), whole.len());
            prop_assert!(response(&out).is_ok());
        }
    }
}
