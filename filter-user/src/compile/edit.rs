// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of the tables in force, at the cost of what changes.
//!
//! An edit is planned without touching anything: its steps are for the kernel, and when they are
//! done, it is recorded in the [`Compiled`] that it was planned for.
//!
//! The steps of an edit may be carried out on the slot in force, in their order. The address of a
//! name is a prefix that holds no other, so no destination but that address sees its entry, and
//! one write puts the new grant in the place of the old one or of what covers the address. The
//! rows that the new grant leads to are written before that, where nothing in force refers to
//! them. Rows that nothing leads to any more keep their meaning until they are swept, and may be
//! led to again; they are cleared only when no packet can be on its way to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use filter_common::wire::{Grant, MAX_PORT_CELLS, MAX_PORT_SETS, MAX_PREFIXES};
use ipnet::IpNet;

use super::{
    Compiled,
    basis::Counted,
    capacity::{Capacity, CapacityError, Check},
    destinations::{Brought, by_name},
    difference::Step,
    ledger::{CounterLedger, MatchKey},
    meaning::{Match, RuleIndex, RuleSet},
    rows::NewRows,
    tables::covering,
    uses::Unused,
};
use crate::names::Changed;

/// Steps for the slot in force, and what they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    steps: Vec<Step>,
    destinations: BTreeMap<IpNet, Bringing>,
    grants: Vec<(u32, RuleSet)>,
    port_sets: Vec<(u32, RuleSet)>,
    matches: BTreeMap<u32, Match>,
    counters: Vec<(MatchKey, u32)>,
    /// What is cleared.
    cleared: Cleared,
}

/// What brings a prefix from now on, and what no longer does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bringing {
    added: BTreeSet<Brought>,
    removed: BTreeSet<Brought>,
}

/// Numbers that lose their meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cleared {
    grants: BTreeSet<u32>,
    port_sets: BTreeSet<u32>,
    matches: BTreeSet<u32>,
}

/// Why new names can't be put into the tables that are in force. Compiling into the other slot is
/// the way out of both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// The tables were read from the kernel.
    #[error("the tables in force hold rows of unknown meaning")]
    Unexplained,
    /// There is no room for further rows.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
}

/// Plans how the tables in force follow names that gained or lost addresses.
///
/// All numbers keep their meaning. New combinations of rules get new rows, those that were swept
/// before others, and new counters, which the ledger must get before the steps are carried out
/// ([`Edit::count`]). What a change says that is so already does no harm.
///
/// # Errors
///
/// There is no room, or the meaning of a row isn't known; [`compile`](super::compile) may still
/// succeed.
pub fn plan_names(
    compiled: &Compiled,
    changed: &Changed,
    ledger: &CounterLedger,
) -> Result<Edit, NamesError> {
    let Compiled { tables, meaning, .. } = compiled;
    let basis = &meaning.basis;
    let mut edit = Edit::default();
    // The gateway takes in what goes to these; a name never leads there.
    let forwarded = |address: &IpAddr| !meaning.delivered.contains(address);
    for (name, address) in changed.removed.iter().filter(|(_, address)| forwarded(address)) {
        let bringing = edit.destinations.entry((*address).into()).or_default();
        bringing.removed.extend(by_name(basis, name));
    }
    for (name, address) in changed.added.iter().filter(|(_, address)| forwarded(address)) {
        let bringing = edit.destinations.entry((*address).into()).or_default();
        bringing.added.extend(by_name(basis, name));
    }

    let mut grant_rows = NewRows::new(&meaning.grants);
    let mut grants = Vec::new();
    let (mut v4, mut v6) = meaning.uses.prefix_counts();
    for (prefix, bringing) in &edit.destinations {
        let before = tables.grants.get(prefix);
        let count = if prefix.addr().is_ipv4() { &mut v4 } else { &mut v6 };
        let named = meaning.destinations.named(prefix.addr()).iter();
        let staying = named.filter(|brought| !bringing.removed.contains(*brought));
        let named = staying.chain(&bringing.added).map(|brought| brought.rule);
        let mut own: Vec<RuleIndex> = meaning.destinations.listing(*prefix).chain(named).collect();
        own.sort_unstable();
        own.dedup();
        if own.is_empty() {
            if before.is_some() {
                grants.push(Step::RemoveGrant(*prefix));
                *count -= 1;
            }
            continue;
        }
        let below = |at| tables.grants.range(..=at).next_back();
        let around = covering(prefix.addr(), below).find(|(around, _)| around != prefix);
        if let Some((_, grant)) = around.filter(|(_, grant)| grant.row() != 0) {
            own.extend_from_slice(meaning.grant(grant.row()).ok_or(NamesError::Unexplained)?);
            own.sort_unstable();
            own.dedup();
        }
        let grant = Grant::new(grant_rows.row(&own));
        if before != Some(&grant) {
            grants.push(Step::InsertGrant(*prefix, grant));
        }
        if before.is_none() {
            *count += 1;
        }
    }

    let mut check = Check::default();
    check.fits(Capacity::PrefixesV4, v4, MAX_PREFIXES);
    check.fits(Capacity::PrefixesV6, v6, MAX_PREFIXES);
    let (rows, classes) = (grant_rows.next().into(), tables.settings.classes.into());
    check.fits(Capacity::GrantCells { grants: rows, classes }, rows * classes, basis.grant_cells);
    check.result()?;
    let mut port_set_rows = NewRows::new(&meaning.port_sets);
    let mut cells = Vec::new();
    basis.cells(grant_rows.added(), &mut port_set_rows, |index, value| {
        cells.push(Step::Cell { index, value });
    });
    let (port_sets, port_classes) =
        (port_set_rows.next().into(), tables.settings.port_classes.into());
    let what = Capacity::PortCells { port_sets, port_classes };
    check.fits(what, port_sets * port_classes, MAX_PORT_CELLS);
    check.fits(Capacity::PortSets, port_sets, MAX_PORT_SETS);
    check.result()?;
    let Counted { matches, permits, added } = basis.count(port_set_rows.added(), ledger, check)?;

    let hosts = basis.service_hosts(&matches);
    let host = |(counter, value)| Step::ServiceHost { counter, value };
    edit.steps.extend(hosts.into_iter().map(host));
    let port_cell = |(index, value)| Step::PortCell { index, value };
    edit.steps.extend(permits.into_iter().map(port_cell));
    edit.steps.extend(cells);
    edit.steps.extend(grants);
    edit.grants = grant_rows.into_added();
    edit.port_sets = port_set_rows.into_added();
    edit.matches = matches;
    edit.counters = added;
    Ok(edit)
}

/// Plans to clear the rows that nothing leads to any more, if there are any.
///
/// The steps may be carried out only when every packet is through that came before now; the rows
/// may be used again after them.
#[must_use]
pub fn plan_sweep(compiled: &Compiled) -> Option<Edit> {
    let Compiled { tables, meaning, .. } = compiled;
    let Unused { grants, port_sets, matches, steps } = meaning.uses.unused(tables)?;
    let cleared = Cleared { grants, port_sets, matches };
    Some(Edit { steps, cleared, ..Edit::default() })
}

// === impl Edit ===

impl Edit {
    /// What has to be done in the slot in force, in this order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The ledger with the counters that the edit needs; none if it needs no further ones.
    #[must_use]
    pub fn count(&self, ledger: &CounterLedger) -> Option<CounterLedger> {
        if self.counters.is_empty() {
            return None;
        }
        let mut ledger = ledger.clone();
        ledger.extend(self.counters.iter().cloned());
        Some(ledger)
    }

    /// Changes what the edit was planned for, after all of its steps.
    pub fn record(self, compiled: &mut Compiled) {
        let Compiled { tables, meaning, .. } = compiled;
        for step in &self.steps {
            meaning.uses.apply(tables, step);
        }
        for (prefix, Bringing { added, removed }) in self.destinations {
            meaning.destinations.change(prefix.addr(), added, |brought| removed.contains(brought));
        }
        self.grants.into_iter().for_each(|(row, set)| meaning.grants.insert(row, set));
        self.port_sets.into_iter().for_each(|(row, set)| meaning.port_sets.insert(row, set));
        meaning.matches.extend(self.matches);
        for row in self.cleared.grants {
            meaning.grants.remove(row);
            meaning.uses.cleared(row);
        }
        self.cleared.port_sets.into_iter().for_each(|row| meaning.port_sets.remove(row));
        for counter in &self.cleared.matches {
            meaning.matches.remove(counter);
        }
    }
}
