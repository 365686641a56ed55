// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much of the kernel's memory the tables take, so that it can be said before it is taken.

use filter_common::{
    index::LineWords,
    wire::{
        AddressPair, COUNTERS_PER_NIC, CellWord, Counter, DEFAULT_INDEX_LINES, EVENT_RING_BYTES,
        FLOWS_PER_SET, FlowEntry, FlowKey, FlowRecord, FlowTags, FragmentKey, MAX_FRAGMENTS,
        MAX_KEPT_FLOWS, MAX_NICS, MAX_PORT_CELLS, MAX_REJECTED, PORT_CLASS_WORDS, RejectBucket,
        SLOTS, State, VLANS, WRITTEN_WORDS, flow_sets, spilled_flows,
    },
};
use ipnet::IpNet;

use super::{Compiled, index::wanted_index_lines, tables::SlotTables};
use crate::policy::TableSizes;

/// Bytes of the kernel's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// What is taken with the first start, whatever the policy is: arrays, flows, counters.
    pub fixed: u64,
    /// The prefixes of the policy, in one slot. After the next reload there are those of two policies.
    pub prefixes: u64,
}

/// A node of a trie (`struct lpm_trie_node` in kernel/bpf/lpm_trie.c), with what the kernel's
/// allocator adds to it (kernel/bpf/memalloc.c), without key and value.
const NODE: u64 = 40 + 8;

/// The sizes in which the kernel gives memory out that nodes may need.
const SLABS: [u64; 3] = [64, 96, 128];

/// A line of the index.
const LINE: usize = size_of::<LineWords>();

/// An element of a hash table (`struct htab_elem` in kernel/bpf/hashtab.c), and a bucket of it.
const ELEMENT: u64 = 48;
const BUCKET: u64 = 16;

// === impl Footprint ===

impl Footprint {
    /// What tables of these sizes take on a machine with so many CPUs before there is any policy. What
    /// the programs of each NIC have of their own, 1.4 MiB for each CPU, comes to it.
    #[must_use]
    pub fn fixed(sizes: TableSizes, cpus: u32) -> Self {
        let address = size_of::<AddressPair>();
        let arrays = array(SLOTS * MAX_NICS * VLANS, 4)
            + array(sizes.grant_cells.div_ceil(CellWord::CELLS), size_of::<CellWord>())
            + array(SLOTS * PORT_CLASS_WORDS, 8)
            + array(SLOTS * MAX_PORT_CELLS, 4)
            + array(SLOTS * COUNTERS_PER_NIC, address)
            + array(WRITTEN_WORDS, 8)
            + array(MAX_NICS, address)
            + array(SLOTS * DEFAULT_INDEX_LINES, LINE)
            + array(1, size_of::<State>())
            + array(flow_sets(sizes.flows), size_of::<FlowTags>() + 8)
            + array(flow_sets(sizes.flows) * FLOWS_PER_SET, size_of::<FlowEntry>());
        let spilled = spilled_flows(sizes.flows);
        let hashes = hash(spilled, size_of::<FlowKey>(), size_of::<FlowRecord>())
            + hash(MAX_KEPT_FLOWS, size_of::<FlowKey>(), 8)
            + hash(MAX_FRAGMENTS, size_of::<FragmentKey>(), 8)
            + hash(MAX_REJECTED, 16, size_of::<RejectBucket>());
        // Each has a pointer to its values.
        let counters = u64::from(cpus) * array(MAX_NICS * COUNTERS_PER_NIC, size_of::<Counter>())
            + array(MAX_NICS * COUNTERS_PER_NIC, 8);
        let fixed = arrays + hashes + counters + u64::from(EVENT_RING_BYTES);
        Self { fixed, prefixes: 0 }
    }

    /// The same with the prefixes of a policy, whose index has so many lines.
    #[must_use]
    pub fn with(self, tables: &SlotTables, index_lines: u32) -> Self {
        let destinations = |wanted: fn(&IpNet) -> bool| {
            nodes(tables.grants.keys().filter(|prefix| wanted(prefix)).map(key))
        };
        let sources = |wanted: fn(&IpNet) -> bool| {
            let sources: Vec<(u32, &IpNet)> =
                tables.sources.keys().map(|(zone, prefix)| (*zone, prefix)).collect();
            let zones = sources.chunk_by(|(one, _), (other, _)| one == other);
            let of_zone = zones.map(|zone| {
                nodes(
                    zone.iter().map(|(_, prefix)| *prefix).filter(|prefix| wanted(prefix)).map(key),
                )
            });
            let of_zones: Vec<u64> = of_zone.filter(|nodes| *nodes > 0).collect();
            // The zone stands before the address, so there is a node wherever two zones part.
            of_zones.iter().sum::<u64>() + (of_zones.len() as u64).saturating_sub(1)
        };
        let prefixes = destinations(is_v4) * node(4)
            + destinations(is_v6) * node(16)
            + sources(is_v4) * node(8)
            + sources(is_v6) * node(20)
            + array(index_lines.saturating_sub(DEFAULT_INDEX_LINES), LINE);
        Self { prefixes, ..self }
    }

    /// The same with a compiled policy.
    #[must_use]
    pub fn with_policy(self, compiled: &Compiled) -> Self {
        self.with(&compiled.tables, wanted_index_lines(compiled.index_lines))
    }

    /// What is taken once two policies have been in force.
    #[must_use]
    pub fn total(self) -> u64 {
        self.fixed + self.prefixes * u64::from(SLOTS)
    }
}

fn is_v4(prefix: &IpNet) -> bool {
    prefix.addr().is_ipv4()
}

fn is_v6(prefix: &IpNet) -> bool {
    !is_v4(prefix)
}

/// The bits of a prefix from the left on, and how many count.
fn key(prefix: &IpNet) -> (u128, u32) {
    match prefix {
        IpNet::V4(prefix) => {
            (u128::from(prefix.network().to_bits()) << 96, prefix.prefix_len().into())
        }
        IpNet::V6(prefix) => (prefix.network().to_bits(), prefix.prefix_len().into()),
    }
}

/// The nodes of a trie with these prefixes, which come in their order: one for each, and one
/// wherever two part without a prefix at that very place.
fn nodes(prefixes: impl Iterator<Item = (u128, u32)>) -> u64 {
    let mut count = 0;
    // The lengths of the nodes that lead to the last prefix.
    let mut way: Vec<u32> = Vec::new();
    let mut last: Option<(u128, u32)> = None;
    for (bits, length) in prefixes {
        if let Some((before, shorter)) = last {
            let common = (before ^ bits).leading_zeros().min(shorter).min(length);
            while way.pop_if(|node| *node > common).is_some() {}
            if way.last() != Some(&common) {
                way.push(common);
                count += 1;
            }
        }
        if way.last() != Some(&length) || last.is_none() {
            way.push(length);
            count += 1;
        }
        last = Some((bits, length));
    }
    count
}

/// The memory of a node with a key of so many bytes, and a value of four.
fn node(key: u64) -> u64 {
    let needed = NODE + key + 4;
    SLABS.into_iter().find(|slab| *slab >= needed).unwrap_or(needed)
}

/// The memory of an array.
fn array(entries: u32, value: usize) -> u64 {
    u64::from(entries) * padded(value)
}

/// The memory of a hash table, whose elements are made with it.
fn hash(entries: u32, key: usize, value: usize) -> u64 {
    let element = ELEMENT + padded(key) + padded(value);
    u64::from(entries) * element + u64::from(entries.next_power_of_two()) * BUCKET
}

/// Values stand eight bytes apart, or a multiple of that.
fn padded(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipnet::Ipv4Net;
    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    /// Nodes are where prefixes are, and where any two part.
    fn by_pairs(prefixes: &BTreeSet<IpNet>) -> u64 {
        let mut places = prefixes.clone();
        for one in prefixes {
            for other in prefixes {
                let ((left, shorter), (right, length)) = (key(one), key(other));
                let common = (left ^ right).leading_zeros().min(shorter).min(length);
                let place = IpNet::new(one.addr(), u8::try_from(common).unwrap()).unwrap();
                places.insert(place.trunc());
            }
        }
        places.len() as u64
    }

    proptest! {
        #[test]
        fn nodes_are_counted_as_a_trie_has_them(
            prefixes in btree_set((0..256_u32, 20..=32_u8), 0..24)
        ) {
            let net = |(host, length): (u32, u8)| {
                IpNet::V4(Ipv4Net::new((host << 4).into(), length).unwrap().trunc())
            };
            let prefixes: BTreeSet<IpNet> = prefixes.into_iter().map(net).collect();
            prop_assert_eq!(nodes(prefixes.iter().map(key)), by_pairs(&prefixes));
        }
    }

    #[test]
    fn a_policy_takes_what_its_prefixes_take() {
        let empty = Footprint::fixed(TableSizes::default(), 2);
        assert_eq!(empty.total(), empty.fixed);
        let mut tables = SlotTables::default();
        for prefix in ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "2001:db8::/32"] {
            tables.grants.insert(prefix.parse().unwrap(), filter_common::wire::Grant::new(1));
        }
        // Where 10.1 and 10.2 part there is a node of its own.
        assert_eq!(empty.with(&tables, 1).prefixes, 4 * 64 + 96);
    }
}
