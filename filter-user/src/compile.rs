// SPDX-License-Identifier: MIT OR Apache-2.0
//! From (policy, names, host) to the tables of one slot, and from there to the difference to what
//! the kernel holds. Everything here is pure.
//!
//! Three sets are interned, so that a packet needs no more than a few reads:
//!
//! * The *grant* of a prefix is the set of rules that cover it: its own, and those of all prefixes
//!   around it. So the longest match alone is the union. What the gateway takes in itself stands
//!   apart: an own address has the rules that name it alone, and no rule opens a broadcast address.
//! * The *class* of a source is the set of groups it is in.
//! * The *port set* of a (grant, class) cell is the set of those rules of the grant that hold for
//!   the class; its row says of each port class which of them allow it (the *match*).
//!
//! [`compile`] builds the tables whole, for the idle slot. [`compile_names`] changes tables for
//! other names in such a way that [`diff`] can be carried out on the slot in force.

mod capacity;
mod cover;
mod destinations;
mod difference;
mod host;
mod ledger;
mod meaning;
mod ports;
mod rows;
mod rules;
mod sources;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use filter_common::{
    egress::Side,
    verdict::PassReason,
    wire::{
        AddressPair, Grant, MAX_CELLS, MAX_NICS, MAX_PORT_CELLS, MAX_PREFIXES, Permit, SlotSettings,
    },
};
use ipnet::IpNet;

use self::{
    capacity::Check,
    host::Delivery,
    ports::PortClasses,
    rows::Rows,
    rules::{Holds, RuleBook, RuleDestination},
    sources::Sources,
};
pub use self::{
    capacity::{Capacity, CapacityError, Exceeded},
    difference::{Step, apply, diff, rebuild},
    host::{Host, HostNic},
    ledger::{CounterLedger, InvalidLedger, MATCHES, MatchKey},
    meaning::{Brought, ClientGroup, Match, Meaning, RuleIndex, RuleRef, RuleSet, Via},
    tables::{Memory, SlotTables, View},
};
use crate::{
    names::Snapshot,
    policy::{DenyAction, Mode, OnChange, Policy},
};

/// The tables of one slot, and what their numbers stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What the maps shall hold.
    pub tables: SlotTables,
    /// What it means.
    pub meaning: Meaning,
}

/// Rows that a [`sweep`] took out of the tables, once that is in the kernel.
///
/// When the sweep clears them, every packet must be through that came before their last prefix
/// went. A row that is used again, so that the [`Meaning`] knows it, has to be dropped from here:
/// after the next sweep it waits as any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeRows {
    /// Rows of the (grant, class) matrix.
    pub grants: BTreeSet<u32>,
    /// Rows of the (port set, port class) matrix.
    pub port_sets: BTreeSet<u32>,
}

/// Why new names can't be put into the tables that are in force. Compiling into the other slot is
/// the way out of both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// More changed than names and own addresses, or the tables hold rows of unknown meaning.
    #[error("the tables in force were not built for these rules, source groups, NICs and routes")]
    PolicyChanged,
    /// There is no room for further rows.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
}

/// Compiles a policy into the tables of an empty slot.
///
/// The ledger gets the counters of new matches, and is left alone on an error.
///
/// # Errors
///
/// The policy doesn't fit into the tables. Every table that is too small is named; those whose
/// need can't be told because one before them is far too small are left out.
pub fn compile(
    policy: &Policy,
    names: &Snapshot,
    host: &Host,
    counters: &mut CounterLedger,
) -> Result<Compiled, CapacityError> {
    let mut check = Check::default();
    let skeleton = Skeleton::new(policy, host, &mut check)?;
    skeleton.fill(names, host, counters, &Compiled::default(), &FreeRows::default(), check)
}

/// Compiles other names, or other addresses of the gateway, into tables that are in force.
///
/// An own address that lies among the clients behind an inside NIC changes which sources are
/// plausible, and can't come or go in this way.
///
/// All numbers keep their meaning; new combinations of rules get new rows, those in `free` first.
/// Rows that nothing leads to any more stay until [`sweep`]. Settings, sources and port classes
/// are those of `previous`.
///
/// # Errors
///
/// The numbers can't be kept or there is no room; [`compile`] may still succeed.
pub fn compile_names(
    previous: &Compiled,
    policy: &Policy,
    names: &Snapshot,
    host: &Host,
    counters: &mut CounterLedger,
    free: &FreeRows,
) -> Result<Compiled, NamesError> {
    let mut check = Check::default();
    let skeleton = Skeleton::new(policy, host, &mut check)?;
    if !skeleton.is_of(previous) {
        return Err(NamesError::PolicyChanged);
    }
    Ok(skeleton.fill(names, host, counters, previous, free, check)?)
}

/// Takes rows out that no prefix leads to. The difference may be carried out only when every packet
/// is through that came before those prefixes went; the rows may be used again after it.
#[must_use]
pub fn sweep(compiled: &Compiled) -> (Compiled, FreeRows) {
    let mut swept = compiled.clone();
    let Compiled { tables, meaning } = &mut swept;
    let mut freed = FreeRows::default();
    let SlotSettings { classes, port_classes, .. } = tables.settings;

    let used = tables.grant_rows();
    freed.grants = meaning.grants.keys().filter(|row| !used.contains(row)).copied().collect();
    meaning.grants.retain(|row, _| used.contains(row));
    tables.cells.retain(|cell, _| cell.checked_div(classes).is_some_and(|row| used.contains(&row)));

    let used: BTreeSet<u32> = tables.cells.values().copied().collect();
    freed.port_sets = meaning.port_sets.keys().filter(|row| !used.contains(row)).copied().collect();
    meaning.port_sets.retain(|row, _| used.contains(row));
    tables
        .port_cells
        .retain(|cell, _| cell.checked_div(port_classes).is_some_and(|row| used.contains(&row)));

    let used = tables.counters();
    meaning.matches.retain(|counter, _| used.contains(counter));
    tables.service_hosts.retain(|counter, _| used.contains(counter));
    (swept, freed)
}

impl Compiled {
    /// Whether the meaning knows every row. It doesn't where the tables were read from the kernel.
    fn is_explained(&self) -> bool {
        let Self { tables, meaning } = self;
        let SlotSettings { classes, port_classes, .. } = tables.settings;
        let row = |cell: &u32, columns: u32| cell.checked_div(columns).unwrap_or(0);
        let grant = |row: u32| meaning.grants.contains_key(&row);
        let port_set = |row: u32| meaning.port_sets.contains_key(&row);
        tables.grants.values().all(|value| value.row() == 0 || grant(value.row()))
            && tables.cells.iter().all(|(cell, set)| grant(row(cell, classes)) && port_set(*set))
            && tables.port_cells.iter().all(|(cell, permit)| {
                port_set(row(cell, port_classes)) && meaning.matches.contains_key(&permit.counter())
            })
    }
}

/// Everything that names don't change.
struct Skeleton {
    book: Arc<RuleBook>,
    destinations: Vec<RuleDestination>,
    sources: Sources,
    ports: PortClasses,
    settings: SlotSettings,
}

impl Skeleton {
    fn new(policy: &Policy, host: &Host, check: &mut Check) -> Result<Self, CapacityError> {
        let nics = host.nics.iter().map(|nic| u64::from(nic.slot) + 1).max().unwrap_or(0);
        check.fits(Capacity::Nics, nics, MAX_NICS);
        // Beyond the last NIC there is no index to compute with.
        check.result()?;
        let (book, destinations) = rules::rules(policy);
        let sources = Sources::new(&rules::groups(policy), host, check);
        let ports = match PortClasses::new(book.ports()) {
            Ok(ports) => ports,
            Err(overlaps) => {
                check.fits(Capacity::PortOverlaps, overlaps, ports::MAX_OVERLAPS);
                return Err(check.exceeded());
            }
        };
        check.fits(Capacity::PortClasses, ports.count().into(), 1 << 16);
        let mode = match policy.gateway.mode {
            Mode::Enforce => SlotSettings::ENFORCE,
            Mode::Audit => SlotSettings::AUDIT,
        };
        let settings = SlotSettings {
            classes: sources.count(),
            port_classes: ports.count(),
            mode,
            flags: flags(policy, host),
        };
        Ok(Self { book: Arc::new(book), destinations, sources, ports, settings })
    }

    /// Whether the tables were built on the same skeleton, so that all its numbers are theirs.
    fn is_of(&self, compiled: &Compiled) -> bool {
        let Compiled { tables, meaning } = compiled;
        self.book == meaning.book
            && self.settings == tables.settings
            && self.sources.zones == tables.zones
            && self.sources.sources == tables.sources
            && self.sources.classes == meaning.classes
            && self.ports.words() == tables.port_classes
            && compiled.is_explained()
    }

    /// Adds what names bring to rows that are there already: those of `base`.
    fn fill(
        self,
        names: &Snapshot,
        host: &Host,
        ledger: &mut CounterLedger,
        base: &Compiled,
        free: &FreeRows,
        mut check: Check,
    ) -> Result<Compiled, CapacityError> {
        let destinations = destinations::prefixes(&self.book, &self.destinations, names, host);
        let mut grant_rows = Rows::new(&base.meaning.grants, base.meaning.next_grant, &free.grants);
        let grants = grants(&destinations, host, &mut grant_rows);
        let v4 = grants.keys().filter(|prefix| prefix.addr().is_ipv4()).count() as u64;
        check.fits(Capacity::PrefixesV4, v4, MAX_PREFIXES);
        check.fits(Capacity::PrefixesV6, grants.len() as u64 - v4, MAX_PREFIXES);
        let (rows, classes) = (u64::from(grant_rows.next()), u64::from(self.settings.classes));
        let what = Capacity::GrantCells { grants: rows, classes };
        check.fits(what, rows * classes, MAX_CELLS);
        if rows * classes > COUNTABLE_CELLS {
            check.result()?;
        }

        let mut port_set_rows =
            Rows::new(&base.meaning.port_sets, base.meaning.next_port_set, &free.port_sets);
        let cells = self.cells(&grant_rows, &mut port_set_rows);
        let (rows, classes) = (u64::from(port_set_rows.next()), u64::from(self.ports.count()));
        let what = Capacity::PortCells { port_sets: rows, port_classes: classes };
        check.fits(what, rows * classes, MAX_PORT_CELLS);
        if rows * classes > COUNTABLE_CELLS {
            check.result()?;
        }

        let matched = self.matched(&port_set_rows);
        let (matches, permits) = permits(&self.book, matched, ledger, check)?;
        let hosts = service_hosts(&self.book, &matches);

        let mut meaning = Meaning {
            book: self.book,
            destinations,
            delivered: host.delivered(),
            classes: self.sources.classes,
            grants: base.meaning.grants.clone(),
            port_sets: base.meaning.port_sets.clone(),
            matches: base.meaning.matches.clone(),
            next_grant: grant_rows.next(),
            next_port_set: port_set_rows.next(),
        };
        meaning.grants.extend(grant_rows.added().iter().cloned());
        meaning.port_sets.extend(port_set_rows.added().iter().cloned());
        meaning.matches.extend(matches);
        let mut tables = SlotTables {
            settings: self.settings,
            grants,
            sources: self.sources.sources,
            zones: self.sources.zones,
            cells: base.tables.cells.clone(),
            port_classes: self.ports.words(),
            port_cells: base.tables.port_cells.clone(),
            service_hosts: base.tables.service_hosts.clone(),
        };
        tables.cells.extend(cells);
        tables.port_cells.extend(permits);
        tables.service_hosts.extend(hosts);
        Ok(Compiled { tables, meaning })
    }

    /// The cells of the grant rows that were added.
    fn cells(&self, grant_rows: &Rows, port_set_rows: &mut Rows) -> BTreeMap<u32, u32> {
        let holding: Vec<Vec<Holds>> =
            self.sources.classes.iter().map(|groups| self.book.holding_for(groups)).collect();
        let mut cells = BTreeMap::new();
        for (row, rules) in grant_rows.added() {
            for (class, holding) in (0..).zip(&holding) {
                let set: RuleSet = rules
                    .iter()
                    .filter(|rule| holding.get(rule.0 as usize) == Some(&Holds::Yes))
                    .copied()
                    .collect();
                let port_set = port_set_rows.row(&set);
                if port_set != 0 {
                    cells.insert(row * self.settings.classes + class, port_set);
                }
            }
        }
        cells
    }

    /// The cells of the port set rows that were added, each with the rules that allow it.
    fn matched(&self, port_set_rows: &Rows) -> Vec<(u32, Vec<RuleIndex>)> {
        let mut matched = Vec::new();
        for (row, rules) in port_set_rows.added() {
            for (class, named_by) in self.ports.classes() {
                let allows = |rule: &RuleIndex| {
                    self.book.ports_of(*rule).is_some_and(|ports| named_by.contains(&ports))
                };
                let allowing: Vec<RuleIndex> = rules.iter().copied().filter(allows).collect();
                if !allowing.is_empty() {
                    matched.push((row * self.settings.port_classes + class, allowing));
                }
            }
        }
        matched
    }
}

/// Up to how many cells a matrix that is too large is still computed, so that what comes after it
/// can be counted too.
const COUNTABLE_CELLS: u64 = 1 << 22;

/// The grants of all prefixes, and of every address that the gateway takes in, whether a rule
/// names it or not: those stand outside the union, so that no prefix around them opens the
/// gateway.
fn grants(
    destinations: &BTreeMap<IpNet, Vec<Brought>>,
    host: &Host,
    rows: &mut Rows,
) -> BTreeMap<IpNet, Grant> {
    let delivered: BTreeSet<IpNet> = host.delivered().into_iter().map(IpNet::from).collect();
    let own: BTreeSet<IpNet> = host.own.iter().map(|address| (*address).into()).collect();
    let rules = |brought: &[Brought]| {
        let mut rules: Vec<RuleIndex> = brought.iter().map(|brought| brought.rule).collect();
        rules.dedup();
        rules
    };
    let forwarded = destinations.iter().filter(|(prefix, _)| !delivered.contains(*prefix));
    let forwarded = forwarded.map(|(prefix, brought)| (*prefix, rules(brought))).collect();
    let mut covered: BTreeMap<IpNet, RuleSet> = cover::unions(&forwarded).into_iter().collect();
    for prefix in delivered {
        let brought = destinations.get(&prefix).map_or(&[][..], Vec::as_slice);
        covered.insert(prefix, rules(brought).into());
    }
    // In their order, as rows are numbered by their first use.
    let closed = |prefix: &IpNet| host.delivery(prefix.addr()) == Delivery::Closed;
    let grant = |(prefix, rules): (IpNet, RuleSet)| {
        let grant = Grant::new(rows.row(&rules));
        if own.contains(&prefix) {
            (prefix, grant.own())
        } else if prefix.prefix_len() == prefix.max_prefix_len() && closed(&prefix) {
            (prefix, Grant::CLOSED_ADDRESS)
        } else {
            (prefix, grant)
        }
    };
    covered.into_iter().map(grant).collect()
}

/// What the programs do beside judging by the tables.
///
/// Flows are followed where replies come in by another NIC than the packets that they answer, which
/// is what an outside NIC is for.
fn flags(policy: &Policy, host: &Host) -> u32 {
    let outside = host.nics.iter().any(|nic| nic.side == Side::Outside);
    let follow = if outside || host.nics.len() > 1 { SlotSettings::FOLLOW } else { 0 };
    let keep = match policy.gateway.on_change {
        OnChange::Keep => SlotSettings::KEEP,
        OnChange::Cut => 0,
    };
    let reject = match policy.gateway.deny {
        DenyAction::Reject => SlotSettings::REJECT,
        DenyAction::Drop => 0,
    };
    follow | keep | reject
}

/// The hosts behind the destination NAT of services, by the counter of their match. The policy has
/// at most one host of a family for what a packet may match.
fn service_hosts(book: &RuleBook, matches: &Matches) -> BTreeMap<u32, AddressPair> {
    let mut hosts = BTreeMap::new();
    for (counter, found) in matches {
        for host in found.rules.iter().filter_map(|rule| book.host_of(*rule)) {
            let pair: &mut AddressPair = hosts.entry(*counter).or_default();
            match host {
                IpAddr::V4(host) => pair.v4 = host.octets(),
                IpAddr::V6(host) => pair.v6 = host.octets(),
            }
        }
    }
    hosts
}

/// Counter -> what it counts for.
type Matches = BTreeMap<u32, Match>;

/// Gives each set of rules its counter. The ledger changes only if all of them got one.
fn permits(
    book: &RuleBook,
    matched: Vec<(u32, Vec<RuleIndex>)>,
    ledger: &mut CounterLedger,
    mut check: Check,
) -> Result<(Matches, BTreeMap<u32, Permit>), CapacityError> {
    let mut numbers: HashMap<Vec<RuleIndex>, usize> = HashMap::new();
    let mut keys: Vec<(RuleSet, PassReason, MatchKey)> = Vec::new();
    let mut cells = Vec::with_capacity(matched.len());
    for (cell, rules) in matched {
        let number = *numbers.entry(rules).or_insert_with_key(|rules| {
            let references = rules.iter().filter_map(|rule| book.reference(*rule));
            let key: MatchKey = references.map(|rule| (rule.reason, rule.name.clone())).collect();
            let reason = weightiest(key.iter().map(|(reason, _)| *reason));
            keys.push((rules.as_slice().into(), reason, key));
            keys.len() - 1
        });
        cells.push((cell, number));
    }

    let known = keys.iter().filter(|(_, _, key)| ledger.counter(key).is_some()).count();
    let held = (ledger.len() - known) as u64;
    check.fits(Capacity::Matches { held }, keys.len() as u64 + held, MATCHES);
    check.result()?;

    let mut matches = Matches::new();
    let mut permits = Vec::with_capacity(keys.len());
    for (rules, reason, key) in keys {
        // The check above leaves room for each of them; without a counter nothing would pass.
        let permit = ledger.take(key).map(|counter| {
            matches.insert(counter, Match { reason, rules });
            Permit::new(reason, counter)
        });
        permits.push(permit);
    }
    let permit = |(cell, number): (u32, usize)| Some((cell, (*permits.get(number)?)?));
    Ok((matches, cells.into_iter().filter_map(permit).collect()))
}

/// The reason that is told where rules of several reasons allow a packet.
fn weightiest(reasons: impl Iterator<Item = PassReason>) -> PassReason {
    let mut weightiest = PassReason::Rule;
    for reason in reasons {
        weightiest = match (weightiest, reason) {
            (PassReason::Management, _) | (_, PassReason::Management) => PassReason::Management,
            (PassReason::DnsForwarder, _) | (_, PassReason::DnsForwarder) => {
                PassReason::DnsForwarder
            }
            (_, reason) => reason,
        };
    }
    weightiest
}
