// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often each number of the tables is referred to, so that what nothing leads to any more is
//! known without a search.

use std::collections::{BTreeMap, BTreeSet};

use filter_common::wire::{AddressPair, Grant, NO_PORTS, Permit};
use ipnet::IpNet;

use super::{
    difference::{Step, apply},
    tables::SlotTables,
};

/// Counts over the tables of one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Grant row -> prefixes that lead there.
    grants: Counts,
    /// Port set row -> cells that lead there.
    port_sets: Counts,
    /// Counter of a match -> port cells that count there.
    matches: Counts,
    /// Grant rows that prefixes led to, and none does now.
    unused: BTreeSet<u32>,
    /// IPv4 destination prefixes.
    prefixes_v4: u64,
    /// IPv6 destination prefixes.
    prefixes_v6: u64,
}

/// Number -> how often it is referred to, without those that aren't. Number 0 and [`NO_PORTS`] refer to
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts(BTreeMap<u32, u64>);

/// What is cleared together with grant rows that nothing leads to.
#[derive(Debug, Default)]
pub(super) struct Unused {
    pub(super) grants: BTreeSet<u32>,
    pub(super) port_sets: BTreeSet<u32>,
    pub(super) matches: BTreeSet<u32>,
    pub(super) steps: Vec<Step>,
}

// === impl Uses ===

impl Uses {
    /// Counts everything.
    pub(super) fn of(tables: &SlotTables) -> Self {
        let mut uses = Self::default();
        for (prefix, grant) in &tables.grants {
            uses.grants.add(grant.row());
            *uses.prefixes(prefix) += 1;
        }
        for (run, port_set) in tables.cells.filled_runs() {
            uses.port_sets.add_many(port_set, run.len() as u64);
        }
        tables.port_cells.values().for_each(|permit| uses.matches.add(permit.counter()));
        uses
    }

    /// Carries out one step, and counts on.
    pub(super) fn apply(&mut self, tables: &mut SlotTables, step: &Step) {
        match *step {
            Step::InsertGrant(prefix, grant) => {
                self.lead(prefix, tables.grants.get(&prefix).copied(), Some(grant));
            }
            Step::RemoveGrant(prefix) => {
                self.lead(prefix, tables.grants.get(&prefix).copied(), None);
            }
            Step::Cell { index, value } => {
                self.port_sets.add(value);
                self.port_sets.sub(tables.cells.get(index).unwrap_or(0));
            }
            Step::PortCell { index, value } => {
                self.matches.add(value.counter());
                let before = tables.port_cells.get(&index).copied();
                self.matches.sub(before.map_or(0, |permit| permit.counter()));
            }
            Step::Settings(_)
            | Step::Zone { .. }
            | Step::PortClass { .. }
            | Step::ServiceHost { .. }
            | Step::InsertSource(..)
            | Step::RemoveSource(_) => {}
        }
        apply(tables, step);
    }

    /// How many prefixes there are, IPv4 and IPv6.
    pub(super) fn prefix_counts(&self) -> (u64, u64) {
        (self.prefixes_v4, self.prefixes_v6)
    }

    /// The grant rows that nothing leads to, what only they lead to, and the steps that clear all
    /// of that, in their order. `None` where there are none.
    pub(super) fn unused(&self, tables: &SlotTables) -> Option<Unused> {
        if self.unused.is_empty() {
            return None;
        }
        let mut unused = Unused { grants: self.unused.clone(), ..Unused::default() };
        let mut port_sets = Counts::default();
        for row in &unused.grants {
            let first = row.saturating_mul(tables.settings.classes);
            for index in first..first.saturating_add(tables.settings.classes) {
                if let Some(port_set) = tables.cells.get(index) {
                    unused.steps.push(Step::Cell { index, value: 0 });
                    port_sets.add(port_set);
                }
            }
        }
        unused.port_sets = port_sets.complete(&self.port_sets);
        let mut matches = Counts::default();
        let port_classes = tables.settings.port_classes;
        for (index, permit) in rows(&tables.port_cells, &unused.port_sets, port_classes) {
            unused.steps.push(Step::PortCell { index, value: Permit::DENIED });
            matches.add(permit.counter());
        }
        unused.matches = matches.complete(&self.matches);
        for counter in &unused.matches {
            if tables.service_hosts.contains_key(counter) {
                let value = AddressPair::default();
                unused.steps.push(Step::ServiceHost { counter: *counter, value });
            }
        }
        Some(unused)
    }

    /// A grant row was cleared.
    pub(super) fn cleared(&mut self, row: u32) {
        self.unused.remove(&row);
    }

    /// A prefix leads elsewhere.
    fn lead(&mut self, prefix: IpNet, before: Option<Grant>, after: Option<Grant>) {
        if let Some(after) = after {
            self.grants.add(after.row());
            self.unused.remove(&after.row());
        }
        if let Some(before) = before
            && before.row() != 0
        {
            self.grants.sub(before.row());
            if self.grants.is_zero(before.row()) {
                self.unused.insert(before.row());
            }
        }
        let prefixes = self.prefixes(&prefix);
        match (before, after) {
            (None, Some(_)) => *prefixes += 1,
            (Some(_), None) => *prefixes -= 1,
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    fn prefixes(&mut self, prefix: &IpNet) -> &mut u64 {
        match prefix {
            IpNet::V4(_) => &mut self.prefixes_v4,
            IpNet::V6(_) => &mut self.prefixes_v6,
        }
    }
}

// === impl Counts ===

impl Counts {
    fn add(&mut self, number: u32) {
        self.add_many(number, 1);
    }

    fn add_many(&mut self, number: u32, times: u64) {
        if number != 0 && number != NO_PORTS {
            *self.0.entry(number).or_default() += times;
        }
    }

    fn sub(&mut self, number: u32) {
        if let Some(count) = self.0.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&number);
            }
        }
    }

    fn is_zero(&self, number: u32) -> bool {
        !self.0.contains_key(&number)
    }

    /// The numbers here that are referred to as often as in all.
    fn complete(&self, all: &Self) -> BTreeSet<u32> {
        let complete = self.0.iter().filter(|(number, count)| all.0.get(*number) == Some(*count));
        complete.map(|(number, _)| *number).collect()
    }
}

/// The cells of some rows of a matrix.
fn rows<'a, V>(
    cells: &'a BTreeMap<u32, V>,
    rows: &'a BTreeSet<u32>,
    columns: u32,
) -> impl Iterator<Item = (u32, &'a V)> {
    rows.iter().flat_map(move |row| {
        let first = row.saturating_mul(columns);
        cells.range(first..first.saturating_add(columns)).map(|(index, value)| (*index, value))
    })
}
