// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what the kernel holds to what it shall hold, step by step.

use std::collections::BTreeMap;

use filter_common::wire::{AddressPair, Grant, Permit, SlotSettings};
use ipnet::IpNet;

use super::SlotTables;

/// A change of one entry of one map. A value of 0 clears the entry of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The slot's settings.
    Settings(SlotSettings),
    /// An entry of the zone array.
    Zone {
        /// [`zone_index`](filter_common::wire::zone_index).
        index: u32,
        /// The zone.
        value: u32,
    },
    /// A word of the port-class array.
    PortClass {
        /// [`Selector::word`](filter_common::wire::Selector::word).
        word: u32,
        /// Four classes.
        value: u64,
    },
    /// A cell of the (grant, class) matrix.
    Cell {
        /// Grant row x classes + class.
        index: u32,
        /// The row of the port set.
        value: u32,
    },
    /// A cell of the (port set, port class) matrix.
    PortCell {
        /// Port set row x port classes + port class.
        index: u32,
        /// The permit.
        value: Permit,
    },
    /// The hosts behind the services of a match.
    ServiceHost {
        /// The counter of the match.
        counter: u32,
        /// The hosts.
        value: AddressPair,
    },
    /// Inserts a destination prefix or replaces its grant.
    InsertGrant(IpNet, Grant),
    /// Removes a destination prefix.
    RemoveGrant(IpNet),
    /// Inserts a (zone, source prefix) or replaces its class.
    InsertSource((u32, IpNet), u32),
    /// Removes a (zone, source prefix).
    RemoveSource((u32, IpNet)),
}

/// The steps from `old` to `new` for a slot that is not in force: removals come first, so that a
/// trie never holds more than the larger of the two.
///
/// Older kernels refuse to replace an entry of a full trie, as if it were a new one. So an
/// entry that gets another value is removed as well.
#[must_use]
pub fn rebuild(old: &SlotTables, new: &SlotTables) -> Vec<Step> {
    let Plan { written, removed } = Plan::new(old, new);
    let replaced = written.iter().filter_map(|step| match *step {
        Step::InsertGrant(prefix, _) if old.grants.contains_key(&prefix) => {
            Some(Step::RemoveGrant(prefix))
        }
        Step::InsertSource(key, _) if old.sources.contains_key(&key) => {
            Some(Step::RemoveSource(key))
        }
        _ => None,
    });
    replaced.collect::<Vec<_>>().into_iter().chain(removed).chain(written).collect()
}

/// All that has to be done.
struct Plan {
    /// Entries that are new or change.
    written: Vec<Step>,
    /// Entries that go.
    removed: Vec<Step>,
}

impl Plan {
    fn new(old: &SlotTables, new: &SlotTables) -> Self {
        let mut written = Vec::new();
        let mut removed = Vec::new();
        if old.settings != new.settings {
            written.push(Step::Settings(new.settings));
        }
        let port_classes = Changes::between(&old.port_classes, &new.port_classes);
        let port_cells = Changes::between(&old.port_cells, &new.port_cells);
        let hosts = Changes::between(&old.service_hosts, &new.service_hosts);
        let cells = Changes::between(&old.cells, &new.cells);
        let sources = Changes::between(&old.sources, &new.sources);
        let zones = Changes::between(&old.zones, &new.zones);
        let grants = Changes::between(&old.grants, &new.grants);

        let port_class = |(word, value)| Step::PortClass { word, value };
        let port_cell = |(index, value)| Step::PortCell { index, value };
        let cell = |(index, value)| Step::Cell { index, value };
        let zone = |(index, value)| Step::Zone { index, value };
        let host = |(counter, value)| Step::ServiceHost { counter, value };
        written.extend(hosts.written.into_iter().map(host));
        written.extend(port_classes.written.into_iter().map(port_class));
        written.extend(port_cells.written.into_iter().map(port_cell));
        written.extend(cells.written.into_iter().map(cell));
        written
            .extend(sources.written.into_iter().map(|(key, class)| Step::InsertSource(key, class)));
        written.extend(zones.written.into_iter().map(zone));
        written
            .extend(grants.written.into_iter().map(|(key, grant)| Step::InsertGrant(key, grant)));
        removed.extend(grants.removed.into_iter().map(Step::RemoveGrant));
        removed.extend(zones.removed.into_iter().map(|index| zone((index, 0))));
        removed.extend(sources.removed.into_iter().map(Step::RemoveSource));
        removed.extend(cells.removed.into_iter().map(|index| cell((index, 0))));
        removed
            .extend(port_cells.removed.into_iter().map(|index| port_cell((index, Permit::DENIED))));
        removed.extend(port_classes.removed.into_iter().map(|word| port_class((word, 0))));
        removed.extend(
            hosts.removed.into_iter().map(|counter| host((counter, AddressPair::default()))),
        );
        Self { written, removed }
    }
}

/// Carries out one step.
pub fn apply(tables: &mut SlotTables, step: &Step) {
    match *step {
        Step::Settings(settings) => tables.settings = settings,
        Step::Zone { index, value } => store(&mut tables.zones, index, value),
        Step::PortClass { word, value } => store(&mut tables.port_classes, word, value),
        Step::Cell { index, value } => store(&mut tables.cells, index, value),
        Step::PortCell { index, value } => store(&mut tables.port_cells, index, value),
        Step::ServiceHost { counter, value } => store(&mut tables.service_hosts, counter, value),
        Step::InsertGrant(prefix, grant) => {
            tables.grants.insert(prefix, grant);
        }
        Step::RemoveGrant(prefix) => {
            tables.grants.remove(&prefix);
        }
        Step::InsertSource(key, class) => {
            tables.sources.insert(key, class);
        }
        Step::RemoveSource(key) => {
            tables.sources.remove(&key);
        }
    }
}

/// What has to be done to one map.
struct Changes<K, V> {
    /// The entries that are new or have another value.
    written: Vec<(K, V)>,
    /// The keys that are no longer there.
    removed: Vec<K>,
}

impl<K: Ord + Copy, V: PartialEq + Copy> Changes<K, V> {
    /// Walks both maps side by side.
    fn between(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Self {
        let mut changes = Self { written: Vec::new(), removed: Vec::new() };
        let mut old = old.iter().peekable();
        for (key, value) in new {
            while let Some((gone, _)) = old.next_if(|(before, _)| *before < key) {
                changes.removed.push(*gone);
            }
            match old.next_if(|(before, _)| *before == key) {
                Some((_, before)) if before == value => {}
                _ => changes.written.push((*key, *value)),
            }
        }
        changes.removed.extend(old.map(|(gone, _)| *gone));
        changes
    }
}

/// Writes an entry of an array: 0 is what an array holds by default.
fn store<V: PartialEq + Default>(array: &mut BTreeMap<u32, V>, index: u32, value: V) {
    if value == V::default() {
        array.remove(&index);
    } else {
        array.insert(index, value);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use filter_common::tables::Class;
    use ipnet::Ipv4Net;
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    /// Nested prefixes around the addresses 10.0.0.0 to 10.0.0.15.
    fn grants() -> impl Strategy<Value = BTreeMap<IpNet, Grant>> {
        let prefix =
            (0..16_u8, prop_oneof![Just(0), Just(8), 24..=32_u8]).prop_map(|(host, length)| {
                IpNet::V4(Ipv4Net::new(Ipv4Addr::new(10, 0, 0, host), length).unwrap().trunc())
            });
        btree_map(prefix, (0..5_u32).prop_map(Grant::new), 0..12)
    }

    /// Nested sources of two zones, some of them implausible.
    fn sources() -> impl Strategy<Value = BTreeMap<(u32, IpNet), u32>> {
        let key = (1..3_u32, 0..4_u8, 28..=32_u8).prop_map(|(zone, host, length)| {
            let prefix = Ipv4Net::new(Ipv4Addr::new(10, 0, 0, host), length).unwrap().trunc();
            (zone, IpNet::V4(prefix))
        });
        btree_map(key, prop_oneof![0..3_u32, Just(Class::NONE.0)], 0..12)
    }

    /// Tables with the rows that these grants need: row n leads to port set n + 10.
    fn tables(grants: BTreeMap<IpNet, Grant>) -> SlotTables {
        let settings = SlotSettings { classes: 1, port_classes: 2, ..SlotSettings::default() };
        let rows = grants.values().map(|grant| grant.row()).filter(|row| *row != 0);
        let cells: BTreeMap<u32, u32> = rows.map(|row| (row, row + 10)).collect();
        let port_cells =
            cells.values().map(|port_set| (port_set * 2 + 1, Permit(*port_set))).collect();
        SlotTables { settings, grants, cells, port_cells, ..SlotTables::default() }
    }

    proptest! {
        #[test]
        fn an_idle_slot_never_holds_more_than_it_must(
            (old, new) in (grants(), grants()),
            (old_sources, new_sources) in (sources(), sources()),
        ) {
            let old = SlotTables { sources: old_sources, ..tables(old) };
            let new = SlotTables { sources: new_sources, ..tables(new) };
            let grants = old.grants.len().max(new.grants.len());
            let sources = old.sources.len().max(new.sources.len());
            let mut now = old.clone();
            for step in rebuild(&old, &new) {
                // A full trie takes no step that inserts, not even one that replaces.
                match step {
                    Step::InsertGrant(..) => prop_assert!(now.grants.len() < grants),
                    Step::InsertSource(..) => prop_assert!(now.sources.len() < sources),
                    _ => {}
                }
                apply(&mut now, &step);
            }
            prop_assert_eq!(&now, &new);
            prop_assert!(rebuild(&now, &new).is_empty());
        }
    }
}
