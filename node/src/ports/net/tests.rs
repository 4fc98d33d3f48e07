use super::*;
use remote_network_core::id::Keypair;
use std::net::Ipv4Addr;

fn start(mdns: Option<bool>) -> (NetPort, Receiver<Event>) {
    let (events, told) = async_channel::bounded(16);
    let config = NetConfig {
        key: Keypair::from_seed(&[1; 32]).public(),
        topics: vec![DhtId([1; 20])],
        private_network: false,
        look_every: Duration::from_secs(3_600),
        port_mapping: true,
        mdns,
        on_change: Box::new(|| {}),
    };
    (NetPort::start(config, events).unwrap(), told)
}

#[test]
fn a_socket_on_loopback_is_told_as_it_is_and_needs_neither_router_nor_link() {
    let (port, told) = start(None);
    assert!(told.is_empty(), "nothing before the socket is bound");
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    port.bound().try_send(addr).unwrap();
    assert_eq!(told.recv_blocking(), Ok(Event::LocalAddrs(vec![addr])));
    drop(port);
    assert!(told.recv_blocking().is_err(), "ended, and said nothing else");
}

#[test]
fn a_node_that_never_binds_ends_it_too() {
    let (port, told) = start(Some(true));
    drop(port);
    assert!(told.recv_blocking().is_err());
}
