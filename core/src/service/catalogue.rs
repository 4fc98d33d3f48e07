//! The catalogue: what this node offers, told to each peer that may use it, and what peers offer us.
//!
//! A node's own services are journaled. On connect and on every change a peer gets the whole list of what it may run
//! (frame 0x03, at most [`SERVICES_MAX`] services, which fits one frame): no deltas, so nothing can get out of step. What
//! a peer does not see it cannot order either; the executor checks the same rule again.
//!
//! With the list goes what the node's machine has, so that whoever plans knows what it could run. A service that its owner has
//! made inactive is kept, and is nobody else's business.
//!
//! A peer's list is kept for [`FORGET_AFTER`] beyond its connection, so that a run planned during a short absence still
//! finds it.

mod edit;

use super::details::Status;
use super::offers::{Home, Offerings, Offers};
use super::{LISTED_MAX, Service, Visibility};
use crate::codec::{DecodeError, Dict, FRAME_BODY_MAX, Frame, Value};
use crate::command::{Reply, ServiceView};
use crate::dht::record::MachineSummary;
use crate::few::Few;
use crate::id::{CommandId, Digest, PublicKey};
use crate::limits::{CONNECTIONS_MAX, SERVICES_MAX};
use crate::machine::{Cx, Machine};
use crate::port::Target;
use crate::store::{Room, StoreOp, StoredRecord};
use crate::time::{Deadline, Duration, Instant};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Frame kind of a catalogue.
pub const KIND: u8 = 0x03;
/// How long the catalogue of a disconnected peer is kept.
pub const FORGET_AFTER: Duration = Duration::from_secs(300);
/// Catalogues of peers kept: one per connection there may be.
pub const CATALOGUES_MAX: usize = CONNECTIONS_MAX;

/// Items of a machine's summary.
const MACHINE_ITEMS: usize = 8;

/// What can happen to the catalogue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// After [`Catalogue::restore`], once.
    Started,
    /// The user offers a service, or changes who may see it.
    Add {
        /// Answered with this id.
        id: CommandId,
        /// What.
        service: Box<Service>,
    },
    /// The user withdraws a service.
    Remove {
        /// Answered with this id.
        id: CommandId,
        /// Which.
        service: Digest,
    },
    /// The user changes a service: what it was is withdrawn, what it is now is offered, in one step.
    Edit {
        /// Answered with this id.
        id: CommandId,
        /// Which.
        old: Digest,
        /// What it is from now on.
        service: Box<Service>,
    },
    /// The user offers a service again, or no more, and keeps it.
    Activate {
        /// Answered with this id.
        id: CommandId,
        /// Which.
        service: Digest,
        /// Whether it is offered from now on.
        active: bool,
    },
    /// A peer's control stream is up.
    PeerUp(PublicKey),
    /// It is gone.
    PeerDown(PublicKey),
    /// A peer's catalogue, as [`read`] read it.
    Received {
        /// Whose.
        peer: PublicKey,
        /// What it offers us.
        told: Told,
    },
}

/// What the catalogue can ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Journal this; later outputs rely on it.
    Persist(StoreOp),
    /// Send this on the peer's control stream.
    Send {
        /// Whom to.
        peer: PublicKey,
        /// What.
        frame: Frame,
    },
    /// What the node offers changed: for the executor and the node's record.
    Own(Vec<Service>),
    /// What a peer says of its machine, for the requester; comes before its [`Output::Offers`].
    Machine {
        /// Whose.
        peer: PublicKey,
        /// What it has, if it says so.
        machine: Option<Box<MachineSummary>>,
    },
    /// A catalogue changed or (`None`) is forgotten: for the requester. The node's own comes under its own key.
    Offers {
        /// Whose.
        peer: PublicKey,
        /// What it offers us.
        services: Option<Arc<[Service]>>,
    },
    /// An own service that gave this dataset is withdrawn, and no other one gives it.
    Withdrawn(Digest),
    /// The answer to a command.
    Reply {
        /// The command.
        id: CommandId,
        /// The answer.
        reply: Reply,
    },
}

/// Own services and those of peers.
#[derive(Clone, Debug)]
pub struct Catalogue {
    me: PublicKey,
    home: Home,
    machine: Option<Box<MachineSummary>>,
    own: Few<Digest, Service>,
    offers: Offerings,
    up: BTreeSet<PublicKey>,
    forget: Few<PublicKey, Instant>,
}

/// A peer's catalogue as it was told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// What it offers us.
    pub services: Vec<Service>,
    /// What its machine has, if it says so.
    pub machine: Option<Box<MachineSummary>>,
}

/// The frame that tells a peer its catalogue.
pub fn encode<'a>(services: impl Iterator<Item = &'a Service>) -> Frame {
    encode_told(services, None)
}

fn encode_told<'a>(services: impl Iterator<Item = &'a Service>, machine: Option<&MachineSummary>) -> Frame {
    let list: Vec<Value> = services.map(|s| Value::from(s.to_dict())).collect();
    Frame::new(KIND, &Dict::new().with_some("m", machine.map(MachineSummary::wire)).with("s", list))
}

/// The services of a peer's catalogue, as [`read`] reads it.
pub fn decode(frame: &Frame) -> Result<Vec<Service>, DecodeError> {
    read(frame).map(|told| told.services)
}

/// Reads a peer's catalogue; every service in it is well-formed. Those of unknown kinds are passed over.
pub fn read(frame: &Frame) -> Result<Told, DecodeError> {
    if frame.kind != KIND {
        return Err(DecodeError::Unknown { what: "catalogue message", number: u64::from(frame.kind) });
    }
    let d = Dict::decode(&frame.body, FRAME_BODY_MAX)?;
    let mut seen = BTreeSet::new();
    let listed = d.list("s", SERVICES_MAX)?;
    let mut out = Vec::with_capacity(listed.len());
    for v in listed {
        let Value::Dict(s) = v else { return Err(DecodeError::invalid("s", "not a dictionary")) };
        let service = match Service::from_dict(s) {
            // What later versions offer is no fault, and nothing for this one.
            Err(DecodeError::Unknown { .. }) => continue,
            read => read?,
        };
        if !seen.insert(service.id()) {
            return Err(DecodeError::invalid("s", "a service is listed twice"));
        }
        out.push(service);
    }
    let machine = match d.get("m") {
        None => None,
        Some(_) => Some(Box::new(MachineSummary::read(d.list("m", MACHINE_ITEMS)?)?)),
    };
    Ok(Told { services: out, machine })
}

fn encode_own(s: &Service) -> Bytes {
    let (number, listed) = match &s.visibility {
        Visibility::Everyone => (0u64, &[][..]),
        Visibility::Listed(peers) => (1, peers.as_slice()),
        Visibility::OnlyMe => (2, &[][..]),
    };
    let listed: Vec<Value> = listed.iter().map(Value::from).collect();
    let off = (!s.is_active()).then_some(1u64);
    let d = Dict::new().with("l", listed).with_some("off", off).with("s", s.to_dict()).with("v", 1u64);
    d.with("vis", number).encode().into()
}

fn decode_own(bytes: &[u8]) -> Result<Service, DecodeError> {
    let d = Dict::decode(bytes, FRAME_BODY_MAX)?;
    match d.u64("v")? {
        1 => {}
        number => return Err(DecodeError::Unknown { what: "service record version", number }),
    }
    let key = |v: &Value| {
        PublicKey::from_slice(v.as_bytes().unwrap_or_default())
            .map_err(|e| DecodeError::invalid("l", e.to_string()))
    };
    let visibility = match d.u64("vis")? {
        0 => Visibility::Everyone,
        1 => Visibility::Listed(d.list("l", LISTED_MAX)?.iter().map(key).collect::<Result<_, _>>()?),
        2 => Visibility::OnlyMe,
        number => return Err(DecodeError::Unknown { what: "visibility", number }),
    };
    let mut service = Service { visibility, ..Service::from_dict(d.dict("s")?)? };
    if d.get("off").is_some() && d.flag("off")? {
        service.details.status = Status::Inactive;
    }
    Ok(service)
}

impl Catalogue {
    /// Folds the records of [`Room::Service`]; others are skipped. Follow with [`Input::Started`]. The error names the
    /// record.
    pub fn restore(me: PublicKey, records: &[StoredRecord]) -> Result<Self, (u64, DecodeError)> {
        let mut own = Few::new();
        for r in records.iter().filter(|r| r.subject.room == Room::Service) {
            let service = decode_own(&r.record).map_err(|e| (r.lsn.0, e))?;
            own.insert(service.id(), service);
        }
        let home = Home { me, native: None };
        let mut offers = Offerings::at(home.clone());
        offers.set(me, Some(own.values().filter(|s| s.is_active()).cloned().collect()));
        Ok(Self { me, home, machine: None, own, offers, up: BTreeSet::new(), forget: Few::new() })
    }

    /// Says which machine code runs here; at first none does. To be called before [`Input::Started`].
    #[must_use]
    pub fn with_native(mut self, native: Option<Target>) -> Self {
        self.home.native = native;
        self.offers.set_home(self.home.clone());
        self
    }

    /// What this node's machine has, from the start on.
    #[must_use]
    pub fn with_machine(mut self, machine: Option<MachineSummary>) -> Self {
        self.machine = machine.map(Box::new);
        self.offers.set_machine(self.me, self.machine.clone());
        self
    }

    /// The node's own services, inactive ones included.
    pub fn own(&self) -> impl Iterator<Item = &Service> {
        self.own.values()
    }

    /// Those of them that their owner offers, on this machine or another.
    fn active(&self) -> impl Iterator<Item = &Service> {
        self.own.values().filter(|s| s.is_active())
    }

    /// Whether peers are told of an own service: it is offered, and this machine can run it.
    fn tells(&self, service: &Service) -> bool {
        service.is_active() && self.home.misfit(service).is_none()
    }

    /// Whether an own service needs `digest` in the local store.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.own.values().any(|s| s.program.object() == Some(*digest))
    }

    /// The directories that own services give, offered or not.
    pub fn datasets(&self) -> impl Iterator<Item = Digest> {
        self.own.values().filter_map(|s| s.program.dataset()).map(|dataset| dataset.manifest)
    }

    /// What everyone may run here, as count and digest for the node's record: who sees a new digest asks again.
    pub fn summary(&self) -> (u32, Digest) {
        let open = |s: &Service| s.visibility == Visibility::Everyone && self.tells(s);
        let public = || self.own.iter().filter(|(_, s)| open(s));
        let ids: Vec<&[u8]> = public().map(|(id, _)| &id.0[..]).collect();
        (u32::try_from(ids.len()).unwrap_or(u32::MAX), Digest::in_domain("rn/catalogue/v1", &ids))
    }

    /// Own services, whether offered or not, then everything that peers offer.
    pub fn views(&self) -> Vec<ServiceView> {
        let own = self.own.values().map(|s| (self.me, s));
        let others = self.offers.all().into_iter().filter(|(owner, _)| *owner != self.me);
        let view = |(owner, s): (PublicKey, &Service)| ServiceView {
            owner,
            local: owner == self.me,
            service: s.clone(),
        };
        own.chain(others).map(view).collect()
    }

    /// What is on offer, for planning.
    pub fn offers(&self) -> &Offerings {
        &self.offers
    }

    fn tell(&self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        let told = self.own.values().filter(|s| self.tells(s) && s.allows(&peer));
        let frame = encode_told(told, self.machine.as_deref());
        cx.emit(Output::Send { peer, frame });
    }

    fn changed(&mut self, cx: &mut Cx<'_, Output>) {
        let own: Vec<Service> = self.active().cloned().collect();
        let offered: Arc<[Service]> = own.as_slice().into();
        self.offers.set(self.me, Some(offered.clone()));
        cx.emit(Output::Own(self.own.values().filter(|s| self.tells(s)).cloned().collect()));
        cx.emit(Output::Offers { peer: self.me, services: Some(offered) });
        for peer in &self.up {
            self.tell(cx, *peer);
        }
    }

    fn received(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey, told: Told) {
        let Told { services, machine } = told;
        if peer == self.me || !self.up.contains(&peer) {
            return;
        }
        if self.offers.len() > CATALOGUES_MAX && !self.offers.knows(&peer) {
            let Some(oldest) = self.forget.iter().min_by_key(|(_, at)| **at).map(|(p, _)| *p) else { return };
            self.forget(cx, oldest);
        }
        let services = self.offers.same(&services).unwrap_or_else(|| services.into());
        if self.offers.machine(&peer) != machine.as_deref() {
            self.offers.set_machine(peer, machine.clone());
            cx.emit(Output::Machine { peer, machine });
        }
        self.offers.set(peer, Some(services.clone()));
        cx.emit(Output::Offers { peer, services: Some(services) });
    }

    fn forget(&mut self, cx: &mut Cx<'_, Output>, peer: PublicKey) {
        self.forget.remove(&peer);
        self.offers.set(peer, None);
        cx.emit(Output::Offers { peer, services: None });
    }
}

impl Machine for Catalogue {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, cx: &mut Cx<'_, Output>, input: Input) {
        match input {
            Input::Started => {
                if let Some(machine) = self.machine.clone() {
                    cx.emit(Output::Machine { peer: self.me, machine: Some(machine) });
                }
                self.changed(cx);
            }
            Input::Add { id, service } => {
                let reply = self.add(cx, *service);
                cx.emit(Output::Reply { id, reply });
            }
            Input::Remove { id, service } => {
                let reply = self.remove(cx, service);
                cx.emit(Output::Reply { id, reply });
            }
            Input::Edit { id, old, service } => {
                let reply = self.edit(cx, old, *service);
                cx.emit(Output::Reply { id, reply });
            }
            Input::Activate { id, service, active } => {
                let reply = self.activate(cx, service, active);
                cx.emit(Output::Reply { id, reply });
            }
            Input::PeerUp(peer) if peer != self.me => {
                self.up.insert(peer);
                self.forget.remove(&peer);
                self.tell(cx, peer);
            }
            Input::PeerDown(peer) if peer != self.me => {
                self.up.remove(&peer);
                if self.offers.knows(&peer) {
                    self.forget.insert(peer, cx.now + FORGET_AFTER);
                }
            }
            Input::PeerUp(_) | Input::PeerDown(_) => {}
            Input::Received { peer, told } => self.received(cx, peer, told),
        }
    }

    fn handle_timeout(&mut self, cx: &mut Cx<'_, Output>) {
        let due: Vec<PublicKey> =
            self.forget.iter().filter(|(_, at)| **at <= cx.now).map(|(p, _)| *p).collect();
        for peer in due {
            self.forget(cx, peer);
        }
    }

    fn poll_timeout(&self) -> Option<Deadline> {
        self.forget.values().min().map(|at| Deadline::new(*at, "forget a catalogue"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CommandError;
    use crate::id::{Keypair, Lsn};
    use crate::laws::{Rig, check_within};
    use crate::port::{EngineLimits, Executable, Image, Layout, Program};
    use crate::service::details::Details;
    use crate::service::{DESCRIPTION_MAX, MOUNTS_MAX, Mount, MountDirection, NAME_MAX};
    use proptest::prelude::*;

    pub(super) fn key(n: u8) -> PublicKey {
        Keypair::from_seed(&[n; 32]).public()
    }

    pub(super) fn service(name: &str, visibility: Visibility) -> Service {
        Service {
            name: name.into(),
            description: String::new(),
            version: "1".into(),
            program: Program::Wasm(Digest::of(name.as_bytes())),
            module_len: 1,
            stdin: true,
            mounts: Vec::new(),
            limits: EngineLimits { memory_bytes: 1, time_ms: 1, output_bytes: 1 },
            visibility,
            details: Details::default(),
        }
    }

    fn received(peer: PublicKey, name: &str) -> Input {
        let machine = Some(Box::new(MachineSummary { cpus: 2, ..MachineSummary::default() }));
        Input::Received { peer, told: Told { services: vec![service(name, Visibility::Everyone)], machine } }
    }

    fn rig() -> Rig<Catalogue> {
        Rig::new(Catalogue::restore(key(1), &[]).unwrap(), [0; 32])
    }

    fn add(rig: &mut Rig<Catalogue>, s: Service) -> Vec<Output> {
        rig.tell(Input::Add { id: CommandId(1), service: Box::new(s) })
    }

    fn told(out: &[Output], to: PublicKey) -> Option<Vec<String>> {
        out.iter().rev().find_map(|o| match o {
            Output::Send { peer, frame } if *peer == to => {
                Some(decode(frame).unwrap().into_iter().map(|s| s.name).collect())
            }
            _ => None,
        })
    }

    #[test]
    fn a_peer_is_told_what_it_may_run_and_nothing_else() {
        let mut r = rig();
        add(&mut r, service("open", Visibility::Everyone));
        add(&mut r, service("for-two", Visibility::Listed(vec![key(2)])));
        add(&mut r, service("mine", Visibility::OnlyMe));
        let two = told(&r.tell(Input::PeerUp(key(2))), key(2)).unwrap();
        assert_eq!(two.len(), 2);
        let three = told(&r.tell(Input::PeerUp(key(3))), key(3)).unwrap();
        assert_eq!(three, ["open"]);
        let out = add(&mut r, service("new", Visibility::Everyone));
        assert_eq!(told(&out, key(3)).unwrap().len(), 2, "told again on change");
        assert_eq!(r.machine.summary().0, 2, "the record counts what everyone may run");
    }

    #[test]
    fn own_services_survive_a_restart_with_their_visibility() {
        let mut r = rig();
        let mut records = Vec::new();
        for s in [service("a", Visibility::Listed(vec![key(2)])), service("b", Visibility::OnlyMe)] {
            for o in add(&mut r, s) {
                if let Output::Persist(StoreOp::Replace { subject, record }) = o {
                    records.push(StoredRecord { lsn: Lsn(1), subject, record });
                }
            }
        }
        let again = Catalogue::restore(key(1), &records).unwrap();
        assert!(again.own().eq(r.machine.own()));
        assert_eq!(again.own().count(), 2);
    }

    #[test]
    fn a_catalogue_outlives_its_connection_for_five_minutes() {
        let mut r = rig();
        r.tell(Input::PeerUp(key(2)));
        r.tell(received(key(2), "a"));
        r.tell(Input::PeerDown(key(2)));
        assert!(r.wait(FORGET_AFTER - Duration::from_millis(1)).is_empty());
        assert!(r.machine.offers().knows(&key(2)));
        let out = r.wait(Duration::from_millis(1));
        assert_eq!(out, vec![Output::Offers { peer: key(2), services: None }]);
    }

    #[test]
    fn a_service_peers_could_not_read_is_refused() {
        let mut r = rig();
        let out = add(&mut r, service("Not A Name", Visibility::Everyone));
        assert!(matches!(
            &out[..],
            [Output::Reply { reply: Reply::Error(CommandError::Invalid(p)), .. }] if p.len() == 1
        ));
        for i in 0..SERVICES_MAX {
            add(&mut r, service(&format!("s{i}"), Visibility::Everyone));
        }
        let out = add(&mut r, service("one-more", Visibility::Everyone));
        assert!(matches!(&out[..], [Output::Reply { reply: Reply::Error(CommandError::Limit(_)), .. }]));
    }

    #[test]
    fn what_later_versions_offer_is_passed_over_and_what_is_wrong_is_a_fault() {
        let known = service("a", Visibility::Everyone);
        let frame = |odd: Dict| {
            Frame::new(KIND, &Dict::new().with("s", vec![Value::from(odd), Value::from(known.to_dict())]))
        };
        assert_eq!(decode(&frame(known.to_dict().with("v", 2u64))), Ok(vec![known.clone()]));
        assert_eq!(decode(&frame(known.to_dict().with("kind", "quantum"))), Ok(vec![known.clone()]));
        assert!(decode(&frame(known.to_dict().with("kind", "docker"))).is_err(), "it runs a module");
        assert!(decode(&frame(known.to_dict().with("name", "No Name"))).is_err());
    }

    #[test]
    fn a_container_has_its_mounts_where_it_wants_them_and_a_module_does_not() {
        let image = Image { name: "tool:1".into(), id: [7; 32], entrypoint: Vec::new(), workdir: None };
        let mount = |path: &str| Mount {
            name: "in".into(),
            direction: MountDirection::In,
            path: Some(path.to_owned()),
            layout: Layout::Files,
        };
        let docker = Service {
            program: Program::Image(Box::new(image)),
            module_len: 0,
            mounts: vec![mount("/data")],
            ..service("tool", Visibility::Everyone)
        };
        assert_eq!(Service::from_dict(&docker.to_dict()), Ok(docker.clone()));
        let elsewhere = Service { mounts: vec![mount("/other")], ..docker.clone() };
        assert_ne!(elsewhere.id(), docker.id(), "where they lie is part of what it is");
        assert!(
            Service::from_dict(&Service { mounts: vec![mount("/proc/x")], ..docker.clone() }.to_dict())
                .is_err()
        );
        let module = service("m", Visibility::Everyone);
        assert!(Service::from_dict(&Service { mounts: docker.mounts.clone(), ..module }.to_dict()).is_err());
        let long = Mount { path: Some(format!("/{}", "x".repeat(250))), ..mount("/") };
        let fat = Service { mounts: vec![long; MOUNTS_MAX], ..docker };
        assert!(Service::from_dict(&fat.to_dict()).is_err(), "64 of them would not fit a frame");
    }

    fn target(arch: &str) -> Target {
        Target { arch: arch.into(), os: "linux".into() }
    }

    fn native(arch: &str) -> Service {
        let executable = Executable { object: Digest([9; 32]), target: target(arch) };
        Service { program: Program::Native(Box::new(executable)), ..service("tool", Visibility::Everyone) }
    }

    #[test]
    fn machine_code_is_offered_only_where_it_runs() {
        let restored = |records: &[StoredRecord]| Catalogue::restore(key(1), records).unwrap();
        let mut r = Rig::new(restored(&[]).with_native(Some(target("x86_64"))), [0; 32]);
        let refused = |out: &[Output], why: &str| match out {
            [Output::Reply { reply: Reply::Error(CommandError::Invalid(problems)), .. }] => {
                assert!(problems[0].reason.contains(why), "{problems:?}");
            }
            other => panic!("{other:?}"),
        };
        refused(&add(&mut r, native("aarch64")), "for linux on aarch64, and this machine is linux on x86_64");
        let out = add(&mut r, native("x86_64"));
        assert!(r.machine.holds(&Digest([9; 32])), "its executable stays in the store");
        let [Output::Persist(StoreOp::Replace { subject, record }), ..] = &out[..] else { panic!("{out:?}") };
        let record = StoredRecord { lsn: Lsn(1), subject: subject.clone(), record: record.clone() };

        // The same journal on another machine, and on one that cannot confine it.
        for (there, why) in [(Some(target("aarch64")), "is linux on aarch64"), (None, "`doctor` says why")] {
            let mut r = Rig::new(restored(std::slice::from_ref(&record)).with_native(there), [0; 32]);
            let out = r.tell(Input::Started);
            assert!(out.contains(&Output::Own(Vec::new())), "the executor takes no job for it");
            assert_eq!(told(&r.tell(Input::PeerUp(key(2))), key(2)).unwrap(), [""; 0]);
            assert_eq!(r.machine.summary().0, 0);
            assert_eq!(r.machine.views().len(), 1, "its owner sees it, and can remove it");
            refused(&add(&mut r, native("x86_64")), why);
            let service = native("x86_64").id();
            refused(&r.tell(Input::Activate { id: CommandId(7), service, active: true }), why);
            let out = r.tell(Input::Activate { id: CommandId(8), service, active: false });
            assert!(out.contains(&Output::Reply { id: CommandId(8), reply: Reply::Done }));
        }
        let r = Rig::new(restored(&[record]).with_native(Some(target("x86_64"))), [0; 32]);
        assert_eq!(r.machine.summary().0, 1);
    }

    #[test]
    fn an_executables_mounts_do_not_hide_what_it_needs() {
        let with = |name: &str| {
            let mount = Mount {
                name: name.into(),
                direction: MountDirection::Out,
                path: None,
                layout: Layout::Files,
            };
            Service { mounts: vec![mount], ..native("x86_64") }
        };
        assert_eq!(Service::from_dict(&with("result").to_dict()), Ok(with("result")));
        for taken in ["usr", "proc", "tmp", "lib64"] {
            assert!(Service::from_dict(&with(taken).to_dict()).is_err(), "{taken}");
        }
        assert!(Service::from_dict(&native("x86_64").to_dict().with("kind", "wasm")).is_err());
    }

    #[test]
    fn a_dataset_is_held_while_any_service_gives_it_offered_or_not() {
        let given = crate::service::dataset::tests::observations();
        let manifest = given.program.object().unwrap();
        let twin = Service { name: "again".into(), ..given.clone() };
        let mut r = rig();
        add(&mut r, given.clone());
        add(&mut r, twin.clone());
        assert_eq!(told(&r.tell(Input::PeerUp(key(2))), key(2)).unwrap().len(), 2);
        r.tell(Input::Activate { id: CommandId(7), service: twin.id(), active: false });
        let out = r.tell(Input::Remove { id: CommandId(7), service: given.id() });
        assert!(!out.contains(&Output::Withdrawn(manifest)) && r.machine.holds(&manifest));
        assert_eq!(r.machine.datasets().collect::<Vec<_>>(), [manifest]);
        let module = Box::new(service("now-a-module", Visibility::Everyone));
        let out = r.tell(Input::Edit { id: CommandId(7), old: twin.id(), service: module });
        assert!(out.contains(&Output::Withdrawn(manifest)) && !r.machine.holds(&manifest));
    }

    #[test]
    fn the_largest_catalogue_fits_a_frame() {
        let mount = Mount {
            name: "m".repeat(NAME_MAX),
            direction: MountDirection::Out,
            path: None,
            layout: Layout::Files,
        };
        let big = |i: usize| Service {
            name: format!("{i:0>64}"),
            description: "d".repeat(DESCRIPTION_MAX),
            version: "v".repeat(NAME_MAX),
            mounts: vec![mount.clone(); MOUNTS_MAX],
            limits: EngineLimits { memory_bytes: 1 << 62, time_ms: 1 << 62, output_bytes: 1 << 62 },
            module_len: 1 << 62,
            ..service("x", Visibility::Everyone)
        };
        let all: Vec<Service> = (0..SERVICES_MAX).map(big).collect();
        let machine = MachineSummary {
            arch: "a".repeat(99),
            os: "o".repeat(99),
            gpu_vendor: "g".repeat(99),
            cpus: u32::MAX,
            ram_mib: u32::MAX,
            disk_gib: u32::MAX,
            gpus: u32::MAX,
            docker: true,
            wasm: true,
        };
        let frame = encode_told(all.iter(), Some(&machine));
        assert!(frame.body.len() <= FRAME_BODY_MAX, "{}", frame.body.len());
        assert_eq!(decode(&frame), Ok(all));
    }

    #[test]
    fn the_catalogue_obeys_the_laws_and_its_bounds() {
        let peer = || (1u8..5).prop_map(key);
        let name = || prop::sample::select(vec!["a", "b", "c"]);
        let input = prop_oneof![
            name().prop_map(|n| Input::Add {
                id: CommandId(7),
                service: Box::new(service(n, Visibility::Everyone))
            }),
            name().prop_map(|n| Input::Remove {
                id: CommandId(7),
                service: service(n, Visibility::Everyone).id()
            }),
            peer().prop_map(Input::PeerUp),
            peer().prop_map(Input::PeerDown),
            (peer(), name()).prop_map(|(peer, n)| received(peer, n)),
            (name(), any::<bool>()).prop_map(|(n, active)| Input::Activate {
                id: CommandId(7),
                service: service(n, Visibility::Everyone).id(),
                active
            }),
            (name(), name()).prop_map(|(old, new)| Input::Edit {
                id: CommandId(7),
                old: service(old, Visibility::Everyone).id(),
                service: Box::new(service(new, Visibility::Everyone))
            }),
        ];
        check_within(
            || Catalogue::restore(key(1), &[]).unwrap(),
            input,
            |c| assert!(c.offers().len() <= CATALOGUES_MAX + 1 && c.own().count() <= SERVICES_MAX),
        );
    }

    proptest! {
        #[test]
        fn hostile_catalogues_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&Frame { kind: KIND, body });
        }
    }
}
