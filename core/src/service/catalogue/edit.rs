//! What the owner does with services: offer, change, set aside, withdraw.
//!
//! A service is its content, so a changed one is another service under another id. Changing it is therefore withdrawing the
//! old and offering the new, in one batch of the journal: after a crash there is one of them, never both or none.

use super::{Catalogue, Output, encode_own};
use crate::command::{CommandError, Reply};
use crate::id::Digest;
use crate::limits::SERVICES_MAX;
use crate::machine::Cx;
use crate::problem::Problem;
use crate::service::details::Status;
use crate::service::{LISTED_MAX, Service, Visibility};
use crate::store::{Room, StoreOp, Subject};

impl Catalogue {
    pub(super) fn add(&mut self, cx: &mut Cx<'_, Output>, service: Service) -> Reply {
        let service = match self.checked(service) {
            Ok(service) => service,
            Err(reason) => return invalid(reason),
        };
        if self.own.len() >= SERVICES_MAX && !self.own.contains_key(&service.id()) {
            return Reply::Error(CommandError::Limit("services offered by a node"));
        }
        self.keep(cx, service);
        self.changed(cx);
        Reply::Done
    }

    pub(super) fn remove(&mut self, cx: &mut Cx<'_, Output>, id: Digest) -> Reply {
        let Some(gone) = self.own.remove(&id) else {
            return Reply::Error(CommandError::UnknownService(id));
        };
        cx.emit(Output::Persist(StoreOp::Forget { subject: Subject::new(Room::Service, &id.0) }));
        self.changed(cx);
        self.withdrawn(cx, &gone);
        Reply::Done
    }

    fn withdrawn(&self, cx: &mut Cx<'_, Output>, service: &Service) {
        let given = service.program.dataset().map(|dataset| dataset.manifest);
        if let Some(manifest) = given.filter(|manifest| !self.holds(manifest)) {
            cx.emit(Output::Withdrawn(manifest));
        }
    }

    pub(super) fn edit(&mut self, cx: &mut Cx<'_, Output>, old: Digest, service: Service) -> Reply {
        let Some(before) = self.own.get(&old).cloned() else {
            return Reply::Error(CommandError::UnknownService(old));
        };
        let service = match self.checked(service) {
            Ok(service) => service,
            Err(reason) => return invalid(reason),
        };
        if service.id() != old {
            self.own.remove(&old);
            cx.emit(Output::Persist(StoreOp::Forget { subject: Subject::new(Room::Service, &old.0) }));
        }
        self.keep(cx, service);
        self.changed(cx);
        self.withdrawn(cx, &before);
        Reply::Done
    }

    pub(super) fn activate(&mut self, cx: &mut Cx<'_, Output>, id: Digest, active: bool) -> Reply {
        let Some(service) = self.own.get(&id) else {
            return Reply::Error(CommandError::UnknownService(id));
        };
        if let Some(why) = self.home.misfit(service).filter(|_| active) {
            return invalid(why);
        }
        if service.is_active() != active {
            let mut service = service.clone();
            service.details.status = if active { Status::Active } else { Status::Inactive };
            self.keep(cx, service);
            self.changed(cx);
        }
        Reply::Done
    }

    /// The service as peers will read it: what they could not read, or this machine cannot run, must not be offered.
    fn checked(&self, service: Service) -> Result<Service, String> {
        let read = Service::from_dict(&service.to_dict()).map_err(|e| e.to_string())?;
        if let Visibility::Listed(peers) = &service.visibility
            && peers.len() > LISTED_MAX
        {
            return Err(format!("{} listed peers, at most {LISTED_MAX}", peers.len()));
        }
        let mut own = Service { visibility: service.visibility, ..read };
        own.details.status = service.details.status;
        match self.home.misfit(&own) {
            Some(why) => Err(why),
            None => Ok(own),
        }
    }

    fn keep(&mut self, cx: &mut Cx<'_, Output>, service: Service) {
        let id = service.id();
        let subject = Subject::new(Room::Service, &id.0);
        cx.emit(Output::Persist(StoreOp::Replace { subject, record: encode_own(&service) }));
        self.own.insert(id, service);
    }
}

fn invalid(reason: String) -> Reply {
    Reply::Error(CommandError::Invalid(vec![Problem { place: "service".to_owned(), reason }]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{key, service};
    use super::super::{Input, Told, read};
    use super::*;
    use crate::dht::record::MachineSummary;
    use crate::id::{CommandId, Lsn};
    use crate::laws::Rig;
    use crate::service::offers::Offers;
    use crate::store::StoredRecord;

    fn machine() -> MachineSummary {
        MachineSummary {
            arch: "x86_64".into(),
            os: "linux".into(),
            cpus: 2,
            wasm: true,
            ..Default::default()
        }
    }

    fn rig() -> Rig<Catalogue> {
        let catalogue = Catalogue::restore(key(1), &[]).unwrap().with_machine(Some(machine()));
        Rig::new(catalogue, [0; 32])
    }

    fn told(out: &[Output]) -> Option<Told> {
        out.iter().rev().find_map(|o| match o {
            Output::Send { frame, .. } => Some(read(frame).unwrap()),
            _ => None,
        })
    }

    fn folded(outs: &[Output]) -> Vec<Service> {
        let mut records: Vec<StoredRecord> = Vec::new();
        for o in outs {
            let Output::Persist(op) = o else { continue };
            records.retain(|r| r.subject != *op.subject());
            if let StoreOp::Replace { subject, record } = op {
                let (subject, record) = (subject.clone(), record.clone());
                records.push(StoredRecord { lsn: Lsn(1), subject, record });
            }
        }
        Catalogue::restore(key(1), &records).unwrap().own().cloned().collect()
    }

    #[test]
    fn an_inactive_service_is_kept_and_neither_told_nor_run() {
        let mut r = rig();
        r.tell(Input::PeerUp(key(2)));
        let s = service("a", Visibility::Everyone);
        let mut all = r.tell(Input::Add { id: CommandId(1), service: Box::new(s.clone()) });
        assert_eq!(r.machine.summary().0, 1);
        let out = r.tell(Input::Activate { id: CommandId(2), service: s.id(), active: false });
        assert!(out.contains(&Output::Own(Vec::new())), "the executor has it no more");
        assert_eq!(told(&out).unwrap().services, Vec::new());
        assert_eq!((r.machine.summary().0, r.machine.views().len()), (0, 1), "its owner still sees it");
        assert!(r.machine.holds(&s.program.object().unwrap()), "its module stays");
        all.extend(out);
        assert!(!folded(&all)[0].is_active(), "also after a restart");
        let out = r.tell(Input::Activate { id: CommandId(3), service: s.id(), active: true });
        assert_eq!(told(&out).unwrap().services, vec![s.clone()]);
        let out = r.tell(Input::Activate { id: CommandId(4), service: s.id(), active: true });
        assert_eq!(out, vec![Output::Reply { id: CommandId(4), reply: Reply::Done }], "nothing to do");
    }

    #[test]
    fn a_changed_service_has_another_id_and_the_old_one_is_withdrawn_with_it() {
        let mut r = rig();
        let old = service("a", Visibility::OnlyMe);
        let mut all = r.tell(Input::Add { id: CommandId(1), service: Box::new(old.clone()) });
        let new = Service { description: "better".into(), ..old.clone() };
        let edit = |old: Digest| Input::Edit { id: CommandId(2), old, service: Box::new(new.clone()) };
        all.extend(r.tell(edit(old.id())));
        assert_eq!(folded(&all), vec![new.clone()]);
        let again = r.tell(edit(old.id()));
        assert!(matches!(
            &again[..],
            [Output::Reply { reply: Reply::Error(CommandError::UnknownService(id)), .. }] if *id == old.id()
        ));
        let bad = Box::new(Service { name: "No Name".into(), ..new.clone() });
        let out = r.tell(Input::Edit { id: CommandId(3), old: new.id(), service: bad });
        assert!(matches!(&out[..], [Output::Reply { reply: Reply::Error(CommandError::Invalid(_)), .. }]));
        assert_eq!(r.machine.own().cloned().collect::<Vec<_>>(), vec![new], "nothing was withdrawn");
    }

    #[test]
    fn peers_learn_what_the_machine_has_with_the_catalogue() {
        let mut r = rig();
        let told = told(&r.tell(Input::PeerUp(key(2)))).unwrap();
        assert_eq!(told.machine.as_deref(), Some(&machine()));
        assert_eq!(r.machine.offers().machine(&key(1)), Some(&machine()));
        let out = r.tell(Input::Received { peer: key(2), told: told.clone() });
        assert!(out.contains(&Output::Machine { peer: key(2), machine: told.machine.clone() }));
        let out = r.tell(Input::Received { peer: key(2), told });
        assert_eq!(out.len(), 1, "told again, the same machine is no news");
    }
}
