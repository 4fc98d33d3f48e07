//! The table between two runs: who we were and whom we knew.
//!
//! Canonical bencode: `4`, `6` our ids, `n`, `n6` the nodes in compact form, `o` whether we were found reachable, `v` the
//! version. What is read back are only addresses to ask first: a node enters the table again by answering.

use super::message::{NodeAddr, compact_nodes};
use crate::codec::{DecodeError, Dict, parse_compact_addr};
use crate::id::DhtId;

/// Nodes saved of each family.
pub const SAVED_MAX: usize = 128;
/// Largest saved table.
pub const SAVED_BYTES_MAX: usize = 16 * 1024;
const VERSION: u64 = 1;

/// What is saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Our ids in the IPv4 and the IPv6 DHT.
    pub ids: [DhtId; 2],
    /// Nodes of both families.
    pub nodes: [Vec<NodeAddr>; 2],
    /// Whether others could reach us.
    pub reachable: bool,
}

impl Saved {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let nodes = |n: &[NodeAddr]| compact_nodes(n.get(..SAVED_MAX.min(n.len())).unwrap_or_default());
        Dict::new()
            .with("4", self.ids[0].0.as_slice())
            .with("6", self.ids[1].0.as_slice())
            .with("n", nodes(&self.nodes[0]).as_slice())
            .with("n6", nodes(&self.nodes[1]).as_slice())
            .with("o", u64::from(self.reachable))
            .with("v", VERSION)
            .encode()
    }

    /// Reads them back.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let d = Dict::decode(bytes, SAVED_BYTES_MAX)?;
        match d.u64("v")? {
            VERSION => {}
            number => return Err(DecodeError::Unknown { what: "version of a saved table", number }),
        }
        let ids = [DhtId(d.array("4")?), DhtId(d.array("6")?)];
        let nodes = [read_nodes::<26>(&d, "n")?, read_nodes::<38>(&d, "n6")?];
        Ok(Self { ids, nodes, reachable: d.flag("o")? })
    }
}

fn read_nodes<const LEN: usize>(d: &Dict, key: &'static str) -> Result<Vec<NodeAddr>, DecodeError> {
    let bytes = d.bytes(key, SAVED_MAX * LEN)?;
    if bytes.len() % LEN != 0 {
        return Err(DecodeError::invalid(key, "not a whole number of nodes"));
    }
    let node = |c: &[u8]| {
        let (id, addr) = c.split_first_chunk::<20>()?;
        Some(NodeAddr { id: DhtId(*id), addr: parse_compact_addr(addr)? })
    };
    let nodes = bytes.chunks_exact(LEN).map(|c| node(c).ok_or(DecodeError::invalid(key, "not an address")));
    nodes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let v4 = NodeAddr { id: DhtId([3; 20]), addr: "203.0.113.4:6881".parse().unwrap() };
        let v6 = NodeAddr { id: DhtId([4; 20]), addr: "[2001:db8::4]:6881".parse().unwrap() };
        Saved { ids: [DhtId([1; 20]), DhtId([2; 20])], nodes: [vec![v4; 3], vec![v6]], reachable: true }
    }

    #[test]
    fn a_saved_table_is_read_back_as_it_was() {
        assert_eq!(Saved::decode(&saved().encode()), Ok(saved()));
    }

    #[test]
    fn a_full_table_fits_and_a_damaged_one_is_refused() {
        let mut full = saved();
        full.nodes = [vec![full.nodes[0][0]; 500], vec![full.nodes[1][0]; 500]];
        let read = Saved::decode(&full.encode()).unwrap();
        assert_eq!((read.nodes[0].len(), read.nodes[1].len()), (SAVED_MAX, SAVED_MAX));
        let bytes = saved().encode();
        for cut in 0..bytes.len() {
            assert!(Saved::decode(&bytes[..cut]).is_err());
        }
    }
}
