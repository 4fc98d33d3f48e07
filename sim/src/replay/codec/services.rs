//! Services in recordings: what they say of themselves, and what is asked about them.

use super::{Field, Reader, ReplayError};
use bytes::Bytes;
use remote_network_core::command::ServiceCommand;
use remote_network_core::dht::record::MachineSummary;
use remote_network_core::job::workflow::Place;
use remote_network_core::service::details::{Details, Determinism, Needs, Param, Price, Status};
use remote_network_core::service::policy::Policy;
use remote_network_core::service::search::Query;
use std::collections::BTreeSet;

impl Field for BTreeSet<String> {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().cloned().collect::<Vec<String>>().put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Ok(Vec::<String>::take(r)?.into_iter().collect())
    }
}

impl Field for Policy {
    fn put(&self, out: &mut Vec<u8>) {
        Bytes::from(self.encode()).put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        Policy::decode(&Bytes::take(r)?).map_err(|_| ReplayError::Invalid("policy"))
    }
}

impl Field for Query {
    fn put(&self, out: &mut Vec<u8>) {
        (self.words(), self.kind().map(str::to_owned)).put(out);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, ReplayError> {
        let (words, kind) = <(String, Option<String>)>::take(r)?;
        Query::new(&words, kind.as_deref()).map_err(|_| ReplayError::Invalid("query"))
    }
}

record! {
    Needs { arch, os, cpu_milli, memory_bytes, disk_bytes, gpus, gpu_vendor }
    Price { per_job, per_cpu_s, per_gib }
    Param { name, default, secret, description }
    Details { needs, labels, determinism, price, params, status }
    Place { labels, needs }
    MachineSummary { arch, os, cpus, ram_mib, disk_gib, gpus, gpu_vendor, docker, wasm }
}

choice! {
    Determinism { 1 => Strict, 2 => Pure, 3 => External }
    Status { 1 => Active, 2 => Inactive }
    ServiceCommand { 1 => Edit { old, service }, 2 => Activate { service, active }, 3 => Policy, 4 => SetPolicy(policy), 5 => Search { tag, query } }
}
