use super::*;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

const PORT: u16 = 30_906;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);

/// An address of this machine's loopback network that no other test process uses.
fn router_ip(of: u8) -> Ipv4Addr {
    let [low, high, ..] = std::process::id().to_le_bytes();
    Ipv4Addr::new(127, 64 | of, high, low | 1)
}

fn mapper(gateway: Option<Ipv4Addr>, upnp: Option<SocketAddr>) -> Mapper {
    let search = move || {
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::from(([127, 0, 0, 1], 0));
        options.broadcast_address = upnp.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9)));
        options.timeout = Some(Duration::from_millis(if upnp.is_some() { 10_000 } else { 50 }));
        options.allowed_gateway_ips = vec![Ipv4Addr::LOCALHOST.into()];
        options
    };
    let routers = Routers { gateway: Box::new(move || gateway), search: Box::new(search) };
    Mapper::at(SocketAddr::from(([0, 0, 0, 0], PORT)), routers)
}

/// What a router was asked, one line each.
type Asked = Arc<Mutex<Vec<String>>>;

/// A router that speaks NAT-PMP and tells a client of PCP so (RFC 6887, appendix A).
async fn nat_pmp(ip: Ipv4Addr, asked: Asked) {
    let socket = UdpSocket::bind((ip, crab_nat::GATEWAY_PORT)).await.unwrap();
    let mut buf = [0; 1_100];
    loop {
        let (len, from) = socket.recv_from(&mut buf).await.unwrap();
        let answer = match buf[..len] {
            [2, ..] => {
                asked.lock().unwrap().push("PCP".into());
                vec![0, 128, 0, 1, 0, 0, 0, 9]
            }
            [0, 0] => [&[0, 128, 0, 0, 0, 0, 0, 9][..], &OUTSIDE.octets()].concat(),
            [0, 1, _, _, i0, i1, e0, e1, l0, l1, l2, l3] => {
                let number = |high, low| u16::from_be_bytes([high, low]);
                let lease = u32::from_be_bytes([l0, l1, l2, l3]);
                asked.lock().unwrap().push(format!(
                    "map {} to {} for {lease}",
                    number(e0, e1),
                    number(i0, i1)
                ));
                let outside = if lease == 0 { [0, 0] } else { 40_000u16.to_be_bytes() };
                [&[0, 129, 0, 0, 0, 0, 0, 9, i0, i1][..], &outside, &lease.to_be_bytes()].concat()
            }
            _ => panic!("{:?}", &buf[..len]),
        };
        socket.send_to(&answer, from).await.unwrap();
    }
}

/// Runs a mapper with these addresses of ours until `then` has seen enough.
async fn live(
    mapper: Mapper,
    then: impl AsyncFnOnce(&watch::Sender<Vec<SocketAddr>>, &async_channel::Receiver<Event>),
) {
    let (events, told) = async_channel::bounded(16);
    let (addrs, known) = watch::channel(Vec::new());
    let (end, ending) = watch::channel(false);
    let running = tokio::spawn(async move { mapper.run(known, &events, Ending(ending)).await });
    then(&addrs, &told).await;
    end.send(true).unwrap();
    running.await.unwrap();
    assert!(told.is_empty(), "{:?}", told.try_recv());
}

async fn next(told: &async_channel::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(60), told.recv()).await.unwrap().unwrap()
}

fn here() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([192, 168, 1, 7], PORT))]
}

#[tokio::test]
async fn a_router_with_nat_pmp_forwards_until_the_end_and_again_after_a_change() {
    let (ip, asked) = (router_ip(1), Asked::default());
    let router = tokio::spawn(nat_pmp(ip, asked.clone()));
    live(mapper(Some(ip), None), async |addrs, told| {
        addrs.send(here()).unwrap();
        assert_eq!(next(told).await, Event::Mapped(vec![SocketAddr::from((OUTSIDE, 40_000))]));
        // Another address of ours: asked again, and nothing told, because nothing changed outside.
        addrs.send(vec![SocketAddr::from(([192, 168, 1, 8], PORT))]).unwrap();
        let twice = async {
            while asked.lock().unwrap().len() < 3 {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(60), twice).await.unwrap();
    })
    .await;
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked[..3], ["PCP", "map 30906 to 30906 for 7200", "map 40000 to 30906 for 7200"]);
    assert_eq!(asked[3..], ["map 0 to 30906 for 0"], "taken back at the end");
    router.abort();
}

#[tokio::test]
async fn a_router_that_falls_silent_is_told_as_no_mapping() {
    let (ip, asked) = (router_ip(2), Asked::default());
    let router = tokio::spawn(nat_pmp(ip, asked.clone()));
    live(mapper(Some(ip), None), async |addrs, told| {
        addrs.send(here()).unwrap();
        assert_eq!(next(told).await, Event::Mapped(vec![SocketAddr::from((OUTSIDE, 40_000))]));
        router.abort();
        let _aborted = router.await;
        addrs.send(vec![SocketAddr::from(([192, 168, 1, 8], PORT))]).unwrap();
        assert_eq!(next(told).await, Event::Mapped(vec![]));
    })
    .await;
}

#[tokio::test]
async fn nothing_is_asked_without_an_address_that_a_router_could_forward_to() {
    let (ip, asked) = (router_ip(3), Asked::default());
    let router = tokio::spawn(nat_pmp(ip, asked.clone()));
    live(mapper(Some(ip), None), async |addrs, told| {
        addrs.send(vec!["[2001:db8::7]:30906".parse().unwrap(), "127.0.0.1:30906".parse().unwrap()]).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(told.is_empty());
    })
    .await;
    assert_eq!(*asked.lock().unwrap(), [""; 0]);
    router.abort();
}

const DEVICE: &str = r#"<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/control</controlURL>
<SCPDURL>/schema</SCPDURL></service></serviceList></device></deviceList></device></deviceList></device></root>"#;

const ADD_ARGUMENTS: &[&str] = &[
    "NewRemoteHost",
    "NewExternalPort",
    "NewProtocol",
    "NewInternalPort",
    "NewInternalClient",
    "NewEnabled",
    "NewPortMappingDescription",
    "NewLeaseDuration",
];

fn schema() -> String {
    let action = |name: &str, arguments: &[&str]| {
        let arguments: String = arguments
            .iter()
            .map(|a| format!("<argument><name>{a}</name><direction>in</direction></argument>"))
            .collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    let add = action("AddPortMapping", ADD_ARGUMENTS);
    let delete = action("DeletePortMapping", &["NewRemoteHost", "NewExternalPort", "NewProtocol"]);
    let address = action("GetExternalIPAddress", &[]);
    format!("<?xml version=\"1.0\"?><scpd><actionList>{add}{delete}{address}</actionList></scpd>")
}

/// What is between the first `<name>` and its end.
fn element<'a>(body: &'a str, name: &str) -> &'a str {
    let (_, rest) = body.split_once(&format!("<{name}>")).unwrap_or_default();
    rest.split('<').next().unwrap_or_default()
}

/// A UPnP router that grants only permanent mappings, as many do.
async fn upnp(search: UdpSocket, asked: Asked) {
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let location = format!("http://{}/device.xml", http.local_addr().unwrap());
    let answer_search = async {
        let mut buf = [0; 2_000];
        loop {
            let (_, from) = search.recv_from(&mut buf).await.unwrap();
            let found = format!(
                "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: {location}\r\n\r\n"
            );
            search.send_to(found.as_bytes(), from).await.unwrap();
        }
    };
    let serve = async {
        loop {
            let (mut stream, _) = http.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut request = String::new();
                let mut buf = [0; 4_096];
                loop {
                    let len = stream.read(&mut buf).await.unwrap();
                    request.push_str(std::str::from_utf8(&buf[..len]).unwrap());
                    let body = request.split_once("\r\n\r\n").map(|(_, body)| body.len());
                    let wanted = request.to_lowercase();
                    let wanted = wanted
                        .split("content-length: ")
                        .nth(1)
                        .and_then(|r| r.split('\r').next()?.parse().ok());
                    if len == 0 || body.is_some_and(|have| have >= wanted.unwrap_or(0)) {
                        break;
                    }
                }
                let (status, body) = answer(&request, &asked);
                let reply = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(reply.as_bytes()).await.unwrap();
            });
        }
    };
    tokio::join!(answer_search, serve);
}

fn answer(request: &str, asked: &Asked) -> (&'static str, String) {
    let said = |name: &str, inner: &str| {
        let urn = "urn:schemas-upnp-org:service:WANIPConnection:1";
        let body = format!("<u:{name}Response xmlns:u=\"{urn}\">{inner}</u:{name}Response>");
        (
            "200 OK",
            format!(
                "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{body}</s:Body></s:Envelope>"
            ),
        )
    };
    if request.starts_with("GET /device.xml") {
        return ("200 OK", DEVICE.into());
    }
    if request.starts_with("GET /schema") {
        return ("200 OK", schema());
    }
    if request.contains("GetExternalIPAddress") {
        return said(
            "GetExternalIPAddress",
            &format!("<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>"),
        );
    }
    let port = element(request, "NewExternalPort");
    if request.contains("DeletePortMapping") {
        asked.lock().unwrap().push(format!("delete {port} {}", element(request, "NewProtocol")));
        return said("DeletePortMapping", "");
    }
    let lease = element(request, "NewLeaseDuration");
    let inside = format!("{}:{}", element(request, "NewInternalClient"), element(request, "NewInternalPort"));
    asked.lock().unwrap().push(format!("add {port} to {inside} for {lease}"));
    if lease != "0" {
        let fault = "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>725</errorCode><errorDescription>OnlyPermanentLeasesSupported</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>";
        return ("500 Internal Server Error", fault.into());
    }
    said("AddPortMapping", "")
}

#[tokio::test]
async fn a_router_with_upnp_forwards_until_the_end() {
    let search = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (at, asked) = (search.local_addr().unwrap(), Asked::default());
    let router = tokio::spawn(upnp(search, asked.clone()));
    live(mapper(None, Some(at)), async |addrs, told| {
        addrs.send(here()).unwrap();
        assert_eq!(next(told).await, Event::Mapped(vec![SocketAddr::from((OUTSIDE, PORT))]));
    })
    .await;
    let inside = format!("127.0.0.1:{PORT}");
    assert_eq!(
        *asked.lock().unwrap(),
        [
            format!("add {PORT} to {inside} for 7200"),
            format!("add {PORT} to {inside} for 0"),
            format!("delete {PORT} UDP"),
        ]
    );
    router.abort();
}

#[test]
fn the_default_gateway_is_read_from_the_system_s_table() {
    let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
    let table = format!(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
         wlan0\t00000000\t{}\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
         eth0\t00000000\t{}\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
         eth0\t{}\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
        hex([192, 168, 2, 1]),
        hex([192, 168, 1, 1]),
        hex([192, 168, 1, 0]),
    );
    assert_eq!(gateway_of(&table), Some(Ipv4Addr::new(192, 168, 1, 1)));
    for nothing in ["", "Iface\n", "x\neth0\t00000000\tZZ\t0\t0\t0\tx\t00000000\n", "x\n\u{0}\n"] {
        assert_eq!(gateway_of(nothing), None);
    }
}

#[test]
fn what_a_router_names_as_its_own_must_be_able_to_be_one() {
    for ip in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "::", "::1", "ff02::1"]
    {
        assert!(external(ip.parse().unwrap(), 9).is_err(), "{ip}");
    }
    assert!(external(OUTSIDE.into(), 0).is_err());
    assert_eq!(external(OUTSIDE.into(), 9), Ok(SocketAddr::from((OUTSIDE, 9))));
}
