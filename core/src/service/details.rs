//! What a service says of itself beyond ports and limits: what it needs, its labels, whether it computes the same twice, what it
//! costs, what its user fills in, and whether it is offered at the moment.
//!
//! | key | value |
//! |---|---|
//! | `need` | requirements `{a?, c?, d?, g?, gv?, m?, o?}`: architectures (sorted), thousandths of a processor, bytes of disk, GPUs, their vendor, bytes of memory, operating system |
//! | `lab` | labels, sorted, each once |
//! | `det` | `strict`, `pure` or `external`, where it is not what the engine gives |
//! | `price` | `{c?, g?, j?}`: millionths per second of processor, per GiB moved, per job |
//! | `par` | parameters `{d?, n, s?, w?}`: default, name, 1 when secret, words for people |
//!
//! Every key is absent when it says nothing, and a reader refuses one that is there and says nothing: else the same service had two
//! ids. The status is nobody's business but the owner's: it is in neither the id nor what peers are told.

use crate::codec::{DecodeError, Dict, Value};
use crate::dht::record::MachineSummary;
use crate::port::Program;
use std::collections::BTreeSet;

/// Most architectures, and most labels, of a service.
pub const LABELS_MAX: usize = 8;
/// Longest label, architecture, operating system or vendor in bytes.
pub const LABEL_MAX: usize = 32;
/// Most parameters of a service. All of it together is bounded by [`super::SERVICE_BYTES_MAX`].
pub const PARAMS_MAX: usize = 16;
/// Longest name of a parameter in bytes.
pub const PARAM_NAME_MAX: usize = 64;
/// Longest default and longest description of a parameter in bytes.
pub const PARAM_TEXT_MAX: usize = 255;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What a machine must have. Zero and empty mean that it does not matter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Needs {
    /// One of these architectures, e.g. `x86_64`, as Rust names them.
    pub arch: BTreeSet<String>,
    /// This operating system, e.g. `linux`.
    pub os: String,
    /// Thousandths of a processor.
    pub cpu_milli: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Graphics processors.
    pub gpus: u32,
    /// Of this vendor.
    pub gpu_vendor: String,
}

impl Needs {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        *self == Needs::default()
    }

    /// What `machine` lacks, each in words for people; empty when it has all of it.
    pub fn unmet_by(&self, machine: &MachineSummary) -> Vec<String> {
        let mut lacks = Vec::new();
        if !self.arch.is_empty() && !self.arch.contains(&machine.arch) {
            let wanted: Vec<&str> = self.arch.iter().map(String::as_str).collect();
            lacks.push(format!("needs {}, is {}", wanted.join(" or "), shown(&machine.arch)));
        }
        if !self.os.is_empty() && self.os != machine.os {
            lacks.push(format!("needs {}, runs {}", self.os, shown(&machine.os)));
        }
        if u64::from(self.cpu_milli) > u64::from(machine.cpus) * 1_000 {
            lacks.push(format!("needs {} processor(s), has {}", thousandths(self.cpu_milli), machine.cpus));
        }
        let ram = u64::from(machine.ram_mib) * MIB;
        if self.memory_bytes > ram {
            let needed = self.memory_bytes.div_ceil(MIB);
            lacks.push(format!("needs {needed} MiB of memory, has {}", machine.ram_mib));
        }
        let disk = u64::from(machine.disk_gib) * GIB;
        if self.disk_bytes > disk {
            let needed = self.disk_bytes.div_ceil(GIB);
            lacks.push(format!("needs {needed} GiB of disk, has {}", machine.disk_gib));
        }
        if self.gpus > machine.gpus {
            lacks.push(format!("needs {} GPU(s), has {}", self.gpus, machine.gpus));
        }
        if !self.gpu_vendor.is_empty() && !self.gpu_vendor.eq_ignore_ascii_case(&machine.gpu_vendor) {
            lacks.push(format!("needs a GPU of {}, has {}", self.gpu_vendor, shown(&machine.gpu_vendor)));
        }
        lacks
    }

    /// The dictionary of what matters; `None` when nothing does.
    pub fn to_dict(&self) -> Option<Dict> {
        let arch: Vec<Value> = self.arch.iter().map(|a| Value::from(a.as_str())).collect();
        let text = |t: &str| (!t.is_empty()).then(|| Value::from(t));
        let d = Dict::new()
            .with_some("a", (!arch.is_empty()).then_some(arch))
            .with_some("c", (self.cpu_milli > 0).then_some(self.cpu_milli))
            .with_some("d", (self.disk_bytes > 0).then_some(self.disk_bytes))
            .with_some("g", (self.gpus > 0).then_some(self.gpus))
            .with_some("gv", text(&self.gpu_vendor))
            .with_some("m", (self.memory_bytes > 0).then_some(self.memory_bytes))
            .with_some("o", text(&self.os));
        (!d.0.is_empty()).then_some(d)
    }

    /// Reads what [`Needs::to_dict`] wrote.
    pub fn from_dict(d: &Dict) -> Result<Needs, DecodeError> {
        let needs = Needs {
            arch: labels_at(d, "a")?,
            os: word_at(d, "o")?,
            cpu_milli: number_at(d, "c")?,
            memory_bytes: amount_at(d, "m")?,
            disk_bytes: amount_at(d, "d")?,
            gpus: number_at(d, "g")?,
            gpu_vendor: word_at(d, "gv")?,
        };
        if needs.is_empty() { Err(DecodeError::invalid("need", "needs nothing")) } else { Ok(needs) }
    }
}

/// Thousandths as a number for people: 2500 is `2.5`.
fn thousandths(n: u32) -> String {
    let written = format!("{}.{:03}", n / 1_000, n % 1_000);
    written.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn shown(name: &str) -> &str {
    if name.is_empty() { "none that it names" } else { name }
}

/// Whether executing it twice is the same as executing it once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Determinism {
    /// Equal inputs give equal outputs, bit for bit.
    Strict,
    /// It may be executed again, and any of its results will do.
    Pure,
    /// It has effects elsewhere.
    External,
}

impl Determinism {
    /// All of them.
    pub const ALL: [Determinism; 3] = [Determinism::Strict, Determinism::Pure, Determinism::External];

    /// The word for people and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Determinism::Strict => "strict",
            Determinism::Pure => "pure",
            Determinism::External => "external",
        }
    }

    /// What the engine of `program` gives if the service says nothing.
    pub const fn of(program: &Program) -> Self {
        match program {
            Program::Wasm(_) | Program::Data(_) => Determinism::Strict,
            Program::Image(_) | Program::Native(_) => Determinism::Pure,
        }
    }
}

/// What an execution costs, in millionths of whatever its owner counts in. For people and for ranking; nothing is charged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Price {
    /// For each job.
    pub per_job: u64,
    /// For each second of processor time.
    pub per_cpu_s: u64,
    /// For each GiB moved in or out.
    pub per_gib: u64,
}

impl Price {
    fn to_dict(self) -> Option<Dict> {
        let some = |n: u64| (n > 0).then_some(n);
        let d = Dict::new()
            .with_some("c", some(self.per_cpu_s))
            .with_some("g", some(self.per_gib))
            .with_some("j", some(self.per_job));
        (!d.0.is_empty()).then_some(d)
    }

    fn from_dict(d: &Dict) -> Result<Price, DecodeError> {
        let price =
            Price { per_job: amount_at(d, "j")?, per_cpu_s: amount_at(d, "c")?, per_gib: amount_at(d, "g")? };
        if price == Price::default() {
            Err(DecodeError::invalid("price", "costs nothing"))
        } else {
            Ok(price)
        }
    }
}

/// An environment variable that the user of a service fills in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Param {
    /// Its name: a letter or `_`, then letters, digits and `_`.
    pub name: String,
    /// What it is when the task does not say; without one, the task must.
    pub default: Option<String>,
    /// Whether its value is not to be shown. It has no default then, because defaults are told to everybody.
    pub secret: bool,
    /// For people.
    pub description: String,
}

impl Param {
    fn to_dict(&self) -> Dict {
        let words = (!self.description.is_empty()).then_some(self.description.as_str());
        Dict::new()
            .with_some("d", self.default.as_deref())
            .with("n", self.name.as_str())
            .with_some("s", self.secret.then_some(1u64))
            .with_some("w", words)
    }

    fn from_dict(d: &Dict) -> Result<Param, DecodeError> {
        let bad = |why: &str| Err(DecodeError::invalid("par", why));
        let name = d.text("n", PARAM_NAME_MAX)?;
        if !valid_param_name(&name) {
            return bad("a name is a letter or `_`, then letters, digits and `_`");
        }
        let default = d.get("d").map(|_| d.text("d", PARAM_TEXT_MAX)).transpose()?;
        let secret = match d.get("s") {
            None => false,
            Some(_) if d.u64("s")? == 1 => true,
            Some(_) => return bad("secret is 1 or absent"),
        };
        if secret && default.is_some() {
            return bad("a secret has no default: it would be told to everybody");
        }
        let description = match d.get("w") {
            None => String::new(),
            Some(_) => match d.text("w", PARAM_TEXT_MAX)? {
                empty if empty.is_empty() => return bad("a description without words"),
                words => words,
            },
        };
        Ok(Param { name, default, secret, description })
    }
}

/// Whether the service is offered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Status {
    /// Told to peers, and run.
    #[default]
    Active,
    /// Kept, but neither told nor run.
    Inactive,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Details {
    /// What a machine must have to run it.
    pub needs: Needs,
    /// Words to be found and chosen by: 1 to [`LABEL_MAX`] of a-z, 0-9, `-`, `_`, `.`, `=`, `:`.
    pub labels: BTreeSet<String>,
    /// Whether executing it twice is the same as once; `None`: what its engine gives.
    pub determinism: Option<Determinism>,
    /// What it costs.
    pub price: Price,
    /// What its user fills in, in the order to be asked; names are unique.
    pub params: Vec<Param>,
    /// Whether it is offered. Not part of the id, and not told to others.
    pub status: Status,
}

/// Adds `details` to the dictionary of a service that runs `program`; the status is not in it.
pub fn write(d: Dict, details: &Details, program: &Program) -> Dict {
    let labels: Vec<Value> = details.labels.iter().map(|l| Value::from(l.as_str())).collect();
    let params: Vec<Value> = details.params.iter().map(|p| Value::from(p.to_dict())).collect();
    let determinism = details.determinism.filter(|d| *d != Determinism::of(program));
    d.with_some("det", determinism.map(Determinism::as_str))
        .with_some("lab", (!labels.is_empty()).then_some(labels))
        .with_some("need", details.needs.to_dict())
        .with_some("par", (!params.is_empty()).then_some(params))
        .with_some("price", details.price.to_dict())
}

/// Reads what [`write()`] added.
pub fn read(d: &Dict, program: &Program) -> Result<Details, DecodeError> {
    let determinism = match d.get("det") {
        None => None,
        Some(_) => {
            let word = d.bytes("det", LABEL_MAX)?;
            let named = Determinism::ALL.into_iter().find(|c| c.as_str().as_bytes() == word);
            match named {
                None => return Err(DecodeError::invalid("det", "`strict`, `pure` or `external`")),
                Some(usual) if usual == Determinism::of(program) => {
                    return Err(DecodeError::invalid("det", "what the engine gives anyway"));
                }
                named => named,
            }
        }
    };
    let mut params: Vec<Param> = Vec::new();
    if d.get("par").is_some() {
        for p in d.list("par", PARAMS_MAX)? {
            let Value::Dict(p) = p else { return Err(DecodeError::invalid("par", "not a dictionary")) };
            let param = Param::from_dict(p)?;
            if params.iter().any(|known| known.name == param.name) {
                return Err(DecodeError::invalid("par", format!("`{}` twice", param.name)));
            }
            params.push(param);
        }
        if params.is_empty() {
            return Err(DecodeError::invalid("par", "an empty list"));
        }
    }
    Ok(Details {
        needs: d.get("need").map(|_| Needs::from_dict(d.dict("need")?)).transpose()?.unwrap_or_default(),
        labels: labels_at(d, "lab")?,
        determinism,
        price: d.get("price").map(|_| Price::from_dict(d.dict("price")?)).transpose()?.unwrap_or_default(),
        params,
        status: Status::Active,
    })
}

/// Whether `label` may be a label: 1 to [`LABEL_MAX`] of a-z, 0-9, `-`, `_`, `.`, `=`, `:`.
pub fn valid_label(label: &str) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.=:".contains(&b))
}

/// Whether `name` may name a parameter.
pub fn valid_param_name(name: &str) -> bool {
    (1..=PARAM_NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Labels under `key`: sorted, each once, at most [`LABELS_MAX`], none only when the key is absent.
pub fn labels_at(d: &Dict, key: &'static str) -> Result<BTreeSet<String>, DecodeError> {
    let mut labels: BTreeSet<String> = BTreeSet::new();
    if d.get(key).is_none() {
        return Ok(labels);
    }
    for v in d.list(key, LABELS_MAX)? {
        let label = v.as_bytes().and_then(|b| std::str::from_utf8(b).ok()).filter(|l| valid_label(l));
        let Some(label) = label else {
            return Err(DecodeError::invalid(
                key,
                "a label has 1 to 32 of a-z, 0-9, `-`, `_`, `.`, `=`, `:`",
            ));
        };
        if labels.last().is_some_and(|last| last.as_str() >= label) {
            return Err(DecodeError::invalid(key, "not sorted, or one twice"));
        }
        labels.insert(label.to_owned());
    }
    if labels.is_empty() { Err(DecodeError::invalid(key, "an empty list")) } else { Ok(labels) }
}

fn word_at(d: &Dict, key: &'static str) -> Result<String, DecodeError> {
    match d.get(key) {
        None => Ok(String::new()),
        Some(_) => match d.text(key, LABEL_MAX)? {
            word if valid_label(&word) => Ok(word),
            _ => Err(DecodeError::invalid(key, "1 to 32 of a-z, 0-9, `-`, `_`, `.`, `=`, `:`")),
        },
    }
}

fn amount_at(d: &Dict, key: &'static str) -> Result<u64, DecodeError> {
    match d.u64_opt(key)? {
        Some(0) => Err(DecodeError::invalid(key, "zero is written by leaving it out")),
        amount => Ok(amount.unwrap_or_default()),
    }
}

fn number_at(d: &Dict, key: &'static str) -> Result<u32, DecodeError> {
    u32::try_from(amount_at(d, key)?).map_err(|_| DecodeError::invalid(key, "larger than 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;
    use proptest::prelude::*;

    const WASM: Program = Program::Wasm(Digest([1; 32]));

    fn full() -> Details {
        Details {
            needs: Needs {
                arch: ["aarch64", "x86_64"].map(str::to_owned).into(),
                os: "linux".into(),
                cpu_milli: 2_500,
                memory_bytes: 3 * GIB,
                disk_bytes: 10 * GIB,
                gpus: 1,
                gpu_vendor: "nvidia".into(),
            },
            labels: ["gpu", "region=eu"].map(str::to_owned).into(),
            determinism: Some(Determinism::External),
            price: Price { per_job: 1, per_cpu_s: 2, per_gib: 3 },
            params: vec![
                Param { name: "LANG_TO".into(), default: Some("en".into()), ..Param::default() },
                Param {
                    name: "API_KEY".into(),
                    secret: true,
                    description: "of the archive".into(),
                    ..Param::default()
                },
            ],
            status: Status::Active,
        }
    }

    fn reads(d: &Dict) -> Result<Details, DecodeError> {
        read(&Dict::decode(&d.encode(), 4_096)?, &WASM)
    }

    #[test]
    fn what_says_nothing_is_absent_and_what_is_said_comes_out_again() {
        assert_eq!(write(Dict::new(), &Details::default(), &WASM), Dict::new());
        assert_eq!(reads(&Dict::new()), Ok(Details::default()));
        assert_eq!(reads(&write(Dict::new(), &full(), &WASM)), Ok(full()));
        let usual = Details { determinism: Some(Determinism::Strict), ..Details::default() };
        assert_eq!(write(Dict::new(), &usual, &WASM), Dict::new(), "what the engine gives is not said");
        let hidden = Details { status: Status::Inactive, ..full() };
        assert_eq!(write(Dict::new(), &hidden, &WASM), write(Dict::new(), &full(), &WASM));
    }

    #[test]
    fn what_could_have_been_left_out_is_refused() {
        let list = |items: &[&str]| items.iter().map(|i| Value::from(*i)).collect::<Vec<_>>();
        let param = |p: Dict| Dict::new().with("par", vec![Value::from(p)]);
        for bad in [
            Dict::new().with("lab", list(&[])),
            Dict::new().with("lab", list(&["b", "a"])),
            Dict::new().with("lab", list(&["a", "a"])),
            Dict::new().with("lab", list(&["No"])),
            Dict::new().with("det", "strict"),
            Dict::new().with("det", "maybe"),
            Dict::new().with("need", Dict::new()),
            Dict::new().with("need", Dict::new().with("c", 0u64)),
            Dict::new().with("need", Dict::new().with("o", "")),
            Dict::new().with("need", Dict::new().with("g", 1u64 << 40)),
            Dict::new().with("price", Dict::new()),
            Dict::new().with("price", Dict::new().with("j", 0u64)),
            Dict::new().with("par", Vec::new()),
            param(Dict::new().with("n", "1A")),
            param(Dict::new().with("n", "A").with("s", 0u64)),
            param(Dict::new().with("n", "A").with("w", "")),
            param(Dict::new().with("n", "A").with("s", 1u64).with("d", "x")),
            Dict::new().with("par", vec![Value::from(Dict::new().with("n", "A")); 2]),
        ] {
            assert!(reads(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_machine_is_told_everything_that_it_lacks() {
        let machine = MachineSummary {
            arch: "x86_64".into(),
            os: "linux".into(),
            cpus: 3,
            ram_mib: 4_096,
            disk_gib: 10,
            gpus: 1,
            gpu_vendor: "NVIDIA".into(),
            ..MachineSummary::default()
        };
        assert_eq!(full().needs.unmet_by(&machine), Vec::<String>::new());
        assert_eq!(Needs::default().unmet_by(&MachineSummary::default()), Vec::<String>::new());
        let poor =
            MachineSummary { arch: "riscv64".into(), os: "freebsd".into(), ..MachineSummary::default() };
        let lacks = full().needs.unmet_by(&poor);
        assert_eq!(lacks.len(), 7, "{lacks:?}");
        assert_eq!(lacks[0], "needs aarch64 or x86_64, is riscv64");
        let short = MachineSummary { cpus: 2, ..machine };
        assert_eq!(full().needs.unmet_by(&short), ["needs 2.5 processor(s), has 2"]);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(
            labels in prop::collection::btree_set("[a-z0-9]{1,8}", 0..LABELS_MAX),
            cpu in 0u32..5, memory in 0u64..3, job in 0u64..3, det in prop::option::of(0usize..3),
            names in prop::collection::btree_set("[A-Z_]{1,6}", 0..PARAMS_MAX), secret in any::<bool>(),
        ) {
            let params = names.into_iter().map(|name| Param { name, secret, ..Param::default() }).collect();
            let details = Details {
                needs: Needs { cpu_milli: cpu, memory_bytes: memory, ..Needs::default() },
                labels,
                determinism: det.map(|i| Determinism::ALL[i]).filter(|d| *d != Determinism::Strict),
                price: Price { per_job: job, ..Price::default() },
                params,
                status: Status::Active,
            };
            prop_assert_eq!(reads(&write(Dict::new(), &details, &WASM)), Ok(details));
        }
    }
}
