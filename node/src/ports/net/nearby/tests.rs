use super::*;
use remote_network_core::id::Keypair;
use std::net::Ipv4Addr;

const TOPIC: DhtId = DhtId([0xab; 20]);
const OTHER: DhtId = DhtId([0xcd; 20]);

fn key(seed: u16) -> PublicKey {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&seed.to_be_bytes());
    Keypair::from_seed(&bytes).public()
}

fn link(seed: u16, topics: &[DhtId], loopback: bool) -> Link {
    Link { key: key(seed), topics: topics.to_vec(), port: 1_000 + seed, loopback }
}

/// What `link` announces, as others hear it.
fn said(link: &Link, addrs: &[&str]) -> ResolvedService {
    let addrs: Vec<SocketAddr> = addrs.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 1)).collect();
    link.announcement(&addrs).unwrap().as_resolved_service()
}

fn hearer(topics: &[DhtId], loopback: bool) -> (Hearsay, Instant) {
    let now = Instant::now();
    (Hearsay::new(key(0), topics, loopback, now), now)
}

#[test]
fn a_peer_of_a_shared_network_is_told_with_its_addresses_and_again_after_a_while() {
    let (mut hearsay, now) = hearer(&[OTHER, TOPIC], false);
    let service = said(&link(1, &[TOPIC], false), &["192.168.1.7", "2001:db8::7"]);
    let told = hearsay.hear(now, &service);
    assert_eq!(
        told,
        [(key(1), "192.168.1.7:1001".parse().unwrap()), (key(1), "[2001:db8::7]:1001".parse().unwrap())]
    );
    assert_eq!(hearsay.hear(now + WINDOW / 2, &service), []);
    assert_eq!(hearsay.hear(now + WINDOW, &service).len(), 2);
}

#[test]
fn strangers_ourselves_and_nonsense_are_not() {
    let (mut hearsay, now) = hearer(&[TOPIC], false);
    assert_eq!(hearsay.hear(now, &said(&link(1, &[OTHER], false), &["192.168.1.7"])), []);
    assert_eq!(hearsay.hear(now, &said(&link(1, &[], false), &["192.168.1.7"])), []);
    assert_eq!(hearsay.hear(now, &said(&link(0, &[TOPIC], false), &["192.168.1.7"])), []);
    let nowhere = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1", "::1"];
    assert_eq!(hearsay.hear(now, &said(&link(1, &[TOPIC], false), &nowhere)), []);
    let mut portless = said(&link(1, &[TOPIC], false), &["192.168.1.7"]);
    portless.port = 0;
    assert_eq!(hearsay.hear(now, &portless), []);
    for txt in
        [&[][..], &[("key", "key_")], &[("key", "nonsense"), ("topic0", "abab")], &[("topic0", "\u{0}")]]
    {
        let service = ServiceInfo::new(SERVICE, "x", "x.local.", "192.168.1.7", 1, txt).unwrap();
        assert_eq!(hearsay.hear(now, &service.as_resolved_service()), []);
    }
    assert!(hearsay.heard.is_empty(), "nothing of it is remembered");
}

#[test]
fn a_flood_is_bounded_in_peers_and_addresses() {
    let (mut hearsay, now) = hearer(&[TOPIC], false);
    let ips = |n: u8| (0..n).map(|i| SocketAddr::from(([192, 168, 1, i + 1], 9)));
    assert_eq!(hearsay.tell(now, key(1), ips(100)).len(), ADDRS_MAX);
    assert_eq!(hearsay.tell(now, key(1), ips(100)), [], "and no more of this peer");
    let told = (2..1_000).map(|seed| hearsay.tell(now, key(seed), ips(1)).len()).sum::<usize>();
    assert_eq!(told, PEERS_MAX - 1);
    assert_eq!(hearsay.tell(now + WINDOW, key(999), ips(1)).len(), 1, "the next window");
}

#[test]
fn an_announcement_names_key_networks_and_addresses_and_has_room_for_eight() {
    let eight: Vec<DhtId> = (0..8).map(|i| DhtId([i; 20])).collect();
    let service = said(&link(1, &eight, false), &["192.168.1.7"]);
    assert_eq!(service.get_port(), 1_001);
    assert_eq!(service.get_property_val_str("key"), Some(&*key(1).to_string()));
    let (mut hearsay, now) = hearer(&[eight[7]], false);
    assert_eq!(hearsay.hear(now, &service).len(), 1);
}

/// Whether datagrams to a group come back on loopback here.
fn has_multicast() -> bool {
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let try_it = || -> std::io::Result<()> {
        let receiver = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        receiver.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)?;
        receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
        let sender = socket2::SockRef::from(&receiver);
        sender.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
        sender.set_multicast_loop_v4(true)?;
        receiver.send_to(b"x", (group, receiver.local_addr()?.port()))?;
        receiver.recv(&mut [0; 8]).map(|_| ())
    };
    try_it().is_ok()
}

#[test]
fn two_on_one_link_hear_of_each_other() {
    if !has_multicast() {
        println!("SKIPPED: no multicast on loopback here");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (end, ending) = watch::channel(false);
        let here = Ipv4Addr::LOCALHOST;
        // A network of this test alone: other nodes of this machine may be on the link.
        let mut topic = DhtId([0; 20]);
        topic.0[..4].copy_from_slice(&std::process::id().to_be_bytes());
        let mut heard = Vec::new();
        let mut running = Vec::new();
        for seed in [1, 2] {
            let link = link(seed, &[topic], true);
            let (keep, addrs) = watch::channel(vec![SocketAddr::from((here, link.port))]);
            let (events, told) = async_channel::bounded(64);
            let ending = Ending(ending.clone());
            running.push(tokio::spawn(async move {
                link.run(addrs, &events, ending).await;
                drop(keep);
            }));
            heard.push(told);
        }
        for (told, other) in heard.iter().zip([2, 1]) {
            let event = tokio::time::timeout(Duration::from_secs(60), told.recv()).await.unwrap().unwrap();
            assert_eq!(
                event,
                Event::Nearby { key: key(other), addr: SocketAddr::from((here, 1_000 + other)) }
            );
        }
        end.send(true).unwrap();
        for task in running {
            task.await.unwrap();
        }
    });
}
