// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what the kernel holds to what it shall hold, step by step.

use std::{cmp::Ordering, collections::BTreeMap, iter};

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
///
/// Steps are found as they are asked for, since there may be millions.
pub fn rebuild<'a>(old: &'a SlotTables, new: &'a SlotTables) -> impl Iterator<Item = Step> + 'a {
    let grants = new_grants(old, new).map(|(prefix, grant)| Step::InsertGrant(prefix, grant));
    rebuild_for_grants(old, new).chain(grants)
}

/// The same without what comes last, the [`new_grants`].
pub fn rebuild_for_grants<'a>(
    old: &'a SlotTables,
    new: &'a SlotTables,
) -> impl Iterator<Item = Step> + 'a {
    replaced(old, new).chain(removed(old, new)).chain(written(old, new))
}

/// Destination prefixes that are new or get another grant.
pub fn new_grants<'a>(
    old: &'a SlotTables,
    new: &'a SlotTables,
) -> impl Iterator<Item = (IpNet, Grant)> + 'a {
    changes(pairs(&old.grants), pairs(&new.grants)).filter_map(Change::written)
}

/// Entries of tries that get another value.
fn replaced<'a>(old: &'a SlotTables, new: &'a SlotTables) -> impl Iterator<Item = Step> + 'a {
    let sources = changes(pairs(&old.sources), pairs(&new.sources)).filter_map(Change::replaced);
    let grants = changes(pairs(&old.grants), pairs(&new.grants)).filter_map(Change::replaced);
    sources.map(Step::RemoveSource).chain(grants.map(Step::RemoveGrant))
}

/// Entries that go.
fn removed<'a>(old: &'a SlotTables, new: &'a SlotTables) -> impl Iterator<Item = Step> + 'a {
    let grants = changes(pairs(&old.grants), pairs(&new.grants)).filter_map(Change::removed);
    let zones = changes(pairs(&old.zones), pairs(&new.zones)).filter_map(Change::removed);
    let sources = changes(pairs(&old.sources), pairs(&new.sources)).filter_map(Change::removed);
    let cells = changes(old.cells.iter(), new.cells.iter()).filter_map(Change::removed);
    let port_cells = changes(pairs(&old.port_cells), pairs(&new.port_cells));
    let port_classes = changes(pairs(&old.port_classes), pairs(&new.port_classes));
    let hosts = changes(pairs(&old.service_hosts), pairs(&new.service_hosts));
    let port_cells = port_cells.filter_map(Change::removed);
    let port_classes = port_classes.filter_map(Change::removed);
    let hosts = hosts.filter_map(Change::removed);
    let host = |counter| Step::ServiceHost { counter, value: AddressPair::default() };
    grants
        .map(Step::RemoveGrant)
        .chain(zones.map(|index| Step::Zone { index, value: 0 }))
        .chain(sources.map(Step::RemoveSource))
        .chain(cells.map(|index| Step::Cell { index, value: 0 }))
        .chain(port_cells.map(|index| Step::PortCell { index, value: Permit::DENIED }))
        .chain(port_classes.map(|word| Step::PortClass { word, value: 0 }))
        .chain(hosts.map(host))
}

/// Entries that are new or change, but for grants.
fn written<'a>(old: &'a SlotTables, new: &'a SlotTables) -> impl Iterator<Item = Step> + 'a {
    let settings = (old.settings != new.settings).then_some(Step::Settings(new.settings));
    let hosts = changes(pairs(&old.service_hosts), pairs(&new.service_hosts));
    let port_classes = changes(pairs(&old.port_classes), pairs(&new.port_classes));
    let port_cells = changes(pairs(&old.port_cells), pairs(&new.port_cells));
    let hosts = hosts.filter_map(Change::written);
    let port_classes = port_classes.filter_map(Change::written);
    let port_cells = port_cells.filter_map(Change::written);
    let cells = changes(old.cells.iter(), new.cells.iter()).filter_map(Change::written);
    let sources = changes(pairs(&old.sources), pairs(&new.sources)).filter_map(Change::written);
    let zones = changes(pairs(&old.zones), pairs(&new.zones)).filter_map(Change::written);
    settings
        .into_iter()
        .chain(hosts.map(|(counter, value)| Step::ServiceHost { counter, value }))
        .chain(port_classes.map(|(word, value)| Step::PortClass { word, value }))
        .chain(port_cells.map(|(index, value)| Step::PortCell { index, value }))
        .chain(cells.map(|(index, value)| Step::Cell { index, value }))
        .chain(sources.map(|(key, class)| Step::InsertSource(key, class)))
        .chain(zones.map(|(index, value)| Step::Zone { index, value }))
}

/// Carries out one step.
pub fn apply(tables: &mut SlotTables, step: &Step) {
    match *step {
        Step::Settings(settings) => tables.settings = settings,
        Step::Zone { index, value } => store(&mut tables.zones, index, value),
        Step::PortClass { word, value } => store(&mut tables.port_classes, word, value),
        Step::Cell { index, value } => tables.cells.set(index, value),
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

/// What has to be done to one entry of a map.
enum Change<K, V> {
    /// It is new.
    Added(K, V),
    /// It has another value.
    Replaced(K, V),
    /// It goes.
    Removed(K),
}

impl<K, V> Change<K, V> {
    fn written(self) -> Option<(K, V)> {
        match self {
            Self::Added(key, value) | Self::Replaced(key, value) => Some((key, value)),
            Self::Removed(_) => None,
        }
    }

    fn replaced(self) -> Option<K> {
        match self {
            Self::Replaced(key, _) => Some(key),
            Self::Added(..) | Self::Removed(_) => None,
        }
    }

    fn removed(self) -> Option<K> {
        match self {
            Self::Removed(key) => Some(key),
            Self::Added(..) | Self::Replaced(..) => None,
        }
    }
}

/// Walks both maps side by side, in the order of their keys.
fn changes<K: Ord, V: PartialEq>(
    old: impl Iterator<Item = (K, V)>,
    new: impl Iterator<Item = (K, V)>,
) -> impl Iterator<Item = Change<K, V>> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            match order {
                Ordering::Less => return old.next().map(|(key, _)| Change::Removed(key)),
                Ordering::Greater => {
                    return new.next().map(|(key, value)| Change::Added(key, value));
                }
                Ordering::Equal => {
                    let ((_, before), (key, value)) = old.next().zip(new.next())?;
                    if before != value {
                        return Some(Change::Replaced(key, value));
                    }
                }
            }
        }
    })
}

/// The entries of a map.
fn pairs<K: Copy, V: Copy>(map: &BTreeMap<K, V>) -> impl Iterator<Item = (K, V)> + '_ {
    map.iter().map(|(key, value)| (*key, *value))
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
    use crate::compile::runs::Runs;

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
        let cells: Runs = rows.map(|row| (row, row + 10)).collect();
        let port_cells =
            cells.iter().map(|(_, port_set)| (port_set * 2 + 1, Permit(port_set))).collect();
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
            prop_assert_eq!(rebuild(&now, &new).next(), None);
        }
    }
}
