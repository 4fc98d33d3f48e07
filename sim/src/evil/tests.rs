use super::lies::Liar;
use super::*;
use crate::draw::Draw;
use crate::plan::{Class, Plan};
use remote_network_core::codec::{Dict, Frame, Value, compact_addr};
use remote_network_core::id::{DhtId, PeerId};
use remote_network_core::path::punch::message::{Message as Punch, Nonce, Offer};
use remote_network_core::relay::message::{Message as Relay, Registered};
use remote_network_core::relay::whereabouts::At;
use remote_network_core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const VICTIM: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn liar() -> Liar {
    Liar::new(VICTIM, vec![DhtId([3; 20])], Draw::new(1))
}

#[test]
fn malice_is_plain_data_and_a_plan_without_it_does_not_speak_of_it() {
    let malice = Malice { cross_ppm: 5, victim: Some(VICTIM), ..Malice::default() };
    let mut plan = Plan::from_seed(Class::Calm, 1, 3, 10_000);
    assert!(!plan.is_malicious());
    (plan.hosts[1].relay, plan.hosts[1].malice) = (true, Some(malice));
    let text = serde_json::to_string(&plan).unwrap();
    assert!(text.contains(r#""victim":"203.0.113.7""#), "{text}");
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    assert!(plan.is_malicious() && plan.smaller().iter().any(|p| !p.is_malicious()));
    assert!(serde_json::from_str::<Malice>(r#"{"charm_ppm":1}"#).is_err());
}

#[test]
fn an_ear_finds_secrets_and_nothing_else() {
    let mischief = Mischief::new(Malice::default(), Draw::new(1));
    let mut draw = Draw::new(2);
    let mut noise = |len: usize| (0..len).map(|_| draw.next_u64() as u8).collect::<Vec<u8>>();
    let (secret, other) = (noise(4_000), noise(100_000));
    mischief.hear(&secret.clone().into());
    mischief.must_not_see(&secret);
    mischief.hear(&other.into());
    assert_eq!(mischief.overheard().0, 0, "before it was a secret, and something else");
    // Forty bytes of it, wherever they are cut, in the middle of something.
    for from in [0, 1, 31, 32, 33, 1_000, 3_940] {
        let before = mischief.overheard().0;
        mischief.hear(&[noise(77), secret[from..from + 40].to_vec(), noise(9)].concat().into());
        assert!(mischief.overheard().0 > before, "{from}");
    }
    assert!(mischief.overheard().1 > 104_000);
}

#[test]
fn whoever_is_told_to_stop_does_nothing_any_more() {
    let mischief = Mischief::new(Malice { drop_ppm: 9, ..Malice::default() }, Draw::new(1));
    assert_eq!(mischief.malice().drop_ppm, 9);
    mischief.clone().end();
    assert_eq!(mischief.malice(), Malice::default());
}

#[test]
fn every_frame_that_names_an_address_names_the_victims() {
    let mut liar = liar();
    let honest: SocketAddr = "198.51.100.1:9".parse().unwrap();
    let registered = Relay::Registered(Registered {
        session: [1; 8],
        observed: honest,
        bytes_per_second: 0,
        keepalive: Duration::from_secs(5),
        lifetime: Duration::from_secs(60),
        free: 1,
    });
    let Some(Ok(Relay::Registered(told))) = liar.twist(&registered.to_frame()).map(|f| Relay::from_frame(&f))
    else {
        panic!("no registration any more")
    };
    assert_eq!((told.observed.ip(), told.session), (VICTIM, [1; 8]));

    let at = At { peer: PeerId([4; 20]), ip: honest.ip() };
    let twisted = liar.twist(&at.to_frame()).map(|f| At::from_frame(&f));
    assert_eq!(twisted, Some(Ok(At { ip: VICTIM, ..at })));

    let offer = Offer { candidates: vec![honest], ..Offer::default() };
    let connect = Punch::Connect { nonce: Nonce([5; 8]), attempt: 1, offer };
    let Some(Ok(Punch::Connect { nonce, offer, .. })) =
        liar.twist(&connect.to_frame()).map(|f| Punch::from_frame(&f))
    else {
        panic!("no connect any more")
    };
    assert_eq!((nonce, offer.candidates.len()), (Nonce([5; 8]), 16));
    assert!(offer.candidates.iter().all(|a| a.ip() == VICTIM) && offer.behaviour.is_hard());

    let identity = |d: Dict| Frame::new(0x01, &d.with("v", 1u64));
    let seen = identity(Dict::new().with("a", &compact_addr(honest)[..]));
    let twisted = liar.twist(&seen).map(|f| Dict::decode(&f.body, 1_000).unwrap()).unwrap();
    assert_eq!(twisted.bytes("a", 6).unwrap()[..4], [203, 0, 113, 7]);
    let unasked = liar.twist(&identity(Dict::new())).map(|f| Dict::decode(&f.body, 1_000).unwrap()).unwrap();
    assert!(unasked.get("a").is_some(), "also through a relay, where nobody sees anything");

    let known = Frame::new(0x02, &Dict::new().with("p", Vec::<Value>::new()));
    let twisted = liar.twist(&known).map(|f| Dict::decode(&f.body, 1 << 16).unwrap()).unwrap();
    assert_eq!(twisted.list("p", 50).map(<[Value]>::len), Ok(50));
    assert_eq!(liar.twist(&Frame { kind: 0x10, body: Vec::new() }), None, "what names nothing stays");
}

#[test]
fn a_core_that_cannot_misbehave_says_so() {
    let mut plan = Plan::from_seed(Class::Calm, 1, 2, 5_000);
    plan.work.clear();
    plan.hosts[0].malice = Some(Malice::default());
    let mut scenario = crate::scenario::Scenario::<crate::toy::Toy>::new(plan);
    scenario.run_until(5_000_000_000);
    let found = scenario.world.checks.violations();
    assert!(found.iter().any(|f| f.violation.to_string().contains("do not misbehave")), "{found:?}");
}
