//! Services that give a directory are offered once it is known that all its files are here.
//!
//! From the moment its owner says so until the catalogue has the service, nothing else may hold the directory: so it is held
//! here. Afterwards the catalogue does.

use super::Node;
use super::wiring::{Inside, command_waiter};
use crate::command::{CommandError, Reply};
use crate::id::{CommandId, Digest};
use crate::port::Dataset;
use crate::service::catalogue;
use crate::transport::Transport;
use std::collections::BTreeMap;

/// Services that wait for a look at their files, at once: as many as other commands that wait.
const OFFERS_MAX: usize = 64;

/// What the catalogue is to be told, and the directory that is looked at before.
#[derive(Debug, Default)]
pub(super) struct Offering {
    waiting: BTreeMap<CommandId, (Digest, catalogue::Input)>,
}

impl Offering {
    pub(super) fn holds(&self, digest: &Digest) -> bool {
        self.waiting.values().any(|(manifest, _)| manifest == digest)
    }
}

impl<T: Transport> Node<T> {
    /// Tells the catalogue, at once or when the files are seen.
    pub(super) fn offer(&mut self, id: CommandId, dataset: Option<Dataset>, input: catalogue::Input) {
        let Some(Dataset { manifest, len }) = dataset else {
            return self.inbox.push_back(Inside::Catalogue(input));
        };
        if self.sealing.is_removing(&manifest) {
            // Decided before, and perhaps carried out after.
            return self.reply(id, Reply::Error(CommandError::UnknownObject(manifest)));
        }
        if self.offering.waiting.len() >= OFFERS_MAX {
            return self.reply(id, Reply::Error(CommandError::Limit("services to offer")));
        }
        self.offering.waiting.insert(id, (manifest, input));
        self.bring((manifest, len, None), true, Vec::new(), command_waiter(id));
    }

    /// A directory was looked at; false if no service waited for that.
    pub(super) fn dataset_seen(&mut self, id: CommandId, result: &Result<(), String>) -> bool {
        let Some((digest, input)) = self.offering.waiting.remove(&id) else { return false };
        match result {
            // In front of everything else, so that the catalogue holds it before anything can be given up.
            Ok(()) => self.inbox.push_front(Inside::Catalogue(input)),
            Err(why) => {
                self.remove_object(digest);
                let why = why.clone();
                self.reply(id, Reply::Error(CommandError::Fetch { digest, why }));
            }
        }
        true
    }
}
