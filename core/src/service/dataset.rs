//! Datasets: directories that are offered as they are.
//!
//! Whoever owns files may let others compute on them without a program of the owner's in between. Such a service has no inputs
//! and one output mount, [`PORT`], whose object is the directory. A task that names it ends at once, with a receipt that says
//! what was given and to whom; nothing is executed, and nothing is sent but the word that it is there. The files go to whoever
//! consumes the output, and nowhere at all if that is a job at the owner's own node.
//!
//! Who may have it is decided as for any other service: by its visibility, and by the owner's policy.

use super::{Mount, MountDirection, Service};
use crate::codec::DecodeError;
use crate::port::{Dataset, EngineExit, EngineOutput, ExitClass, Layout, Port, Usage};

/// The mount that has the files.
pub const PORT: &str = "data";

/// The mounts of every dataset.
pub fn mounts() -> Vec<Mount> {
    vec![Mount { name: PORT.to_owned(), direction: MountDirection::Out, path: None, layout: Layout::Tree }]
}

/// Refuses a service that gives a dataset and pretends to do anything else.
pub(super) fn check(service: &Service) -> Result<(), DecodeError> {
    if service.program.dataset().is_none() {
        return Ok(());
    }
    let bad = |key, why: &str| Err(DecodeError::invalid(key, why));
    match () {
        () if service.mounts != mounts() => bad("mounts", "a dataset has one mount, the directory `data`"),
        () if service.stdin => bad("in", "a dataset reads nothing"),
        () if service.module_len > 0 => bad("len", "a dataset has no module"),
        () if !service.details.params.is_empty() => bad("par", "a dataset takes no parameters"),
        () if service.determinism() != super::details::Determinism::Strict => {
            bad("det", "a dataset is always the same")
        }
        () => Ok(()),
    }
}

impl Dataset {
    /// What a job that gives it leaves at its port.
    pub fn output(&self) -> EngineOutput {
        let port = Port::Mount(PORT.to_owned());
        EngineOutput { port, digest: self.manifest, len: self.len, truncated: false }
    }

    /// How a job ends that gives it at those of `outputs` that are its port.
    pub fn given(&self, outputs: &[Port]) -> EngineExit {
        let output = self.output();
        let outputs = outputs.iter().filter(|port| **port == output.port).map(|_| output.clone()).collect();
        EngineExit {
            class: ExitClass::Success,
            code: 0,
            detail: String::new(),
            usage: Usage::default(),
            outputs,
            carried: None,
        }
    }

    /// How it ends where files of it are gone.
    pub fn lost(&self) -> EngineExit {
        EngineExit {
            class: ExitClass::Permanent,
            detail: format!("the files of dataset {} are not all here any more", self.manifest),
            ..self.given(&[])
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::id::Digest;
    use crate::port::Program;
    use crate::service::details::{Details, Determinism, Param};

    pub(crate) fn observations() -> Service {
        let dataset = Dataset { manifest: Digest::of(b"manifest"), len: 8 };
        Service {
            program: Program::Data(dataset),
            module_len: 0,
            mounts: mounts(),
            ..crate::job::validate::tests::service("observations", false, &[])
        }
    }

    #[test]
    fn a_dataset_gives_a_directory_and_does_nothing_else() {
        let good = observations();
        assert_eq!(Service::from_dict(&good.to_dict()), Ok(good.clone()));
        let with = |details| Service { details, ..good.clone() };
        let param = Param { name: "N".into(), ..Param::default() };
        for bad in [
            Service { stdin: true, ..good.clone() },
            Service { module_len: 1, ..good.clone() },
            Service { mounts: Vec::new(), ..good.clone() },
            Service { mounts: [mounts(), mounts()].concat(), ..good.clone() },
            with(Details { params: vec![param], ..Details::default() }),
            with(Details { determinism: Some(Determinism::External), ..Details::default() }),
        ] {
            assert!(Service::from_dict(&bad.to_dict()).is_err(), "{bad:?}");
        }
        let paths = good.paths();
        assert_eq!((paths.len(), paths[0].layout), (1, Layout::Tree), "its files may be fetched");
    }
}
