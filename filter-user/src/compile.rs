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
//! [`compile`] builds the tables whole, for the idle slot. [`plan_names`] finds the steps by which
//! the slot in force follows names that gained or lost addresses, at the cost of what changes.

mod basis;
mod capacity;
mod cover;
mod destinations;
mod difference;
mod edit;
mod footprint;
mod host;
mod index;
mod ledger;
mod meaning;
mod ports;
mod rows;
mod rules;
mod runs;
mod sources;
mod tables;
#[cfg(test)]
mod tests;
mod uses;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use filter_common::{
    egress::Side,
    wire::{Grant, MAX_NICS, MAX_PORT_CELLS, MAX_PORT_SETS, MAX_PREFIXES, SlotSettings},
};
use ipnet::IpNet;

use self::{
    basis::{Basis, Counted},
    capacity::Check,
    destinations::merged,
    host::Delivery,
    ports::PortClasses,
    rows::{NewRows, Rows},
    rules::Led,
    sources::Sources,
    uses::Uses,
};
pub use self::{
    capacity::{Capacity, CapacityError, Exceeded},
    destinations::{Brought, Destinations},
    difference::{Step, apply, new_grants, rebuild, rebuild_for_grants},
    edit::{Edit, NamesError, plan_names, plan_sweep},
    footprint::Footprint,
    host::{Host, HostNic},
    index::{
        HostPlan, build_index, host_in_line, host_line, host_stripe, index_lines, plan_host,
        wanted_index_lines,
    },
    ledger::{CounterLedger, InvalidLedger, MATCHES, MatchKey},
    meaning::{ClientGroup, Match, Meaning, RuleIndex, RuleRef, RuleSet, Via},
    runs::Runs,
    tables::{Memory, SlotTables, View},
};
use crate::{
    names::Snapshot,
    policy::{DenyAction, Interception, Mode, OnChange, Policy},
};

/// The tables of one slot, and what their numbers stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What the maps shall hold.
    pub tables: SlotTables,
    /// What it means.
    pub meaning: Meaning,
    /// How many lines the index of the tables has; names that change later may bring it some more.
    pub index_lines: u32,
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
    skeleton.fill(names, host, counters, check)
}

/// What doesn't depend on names.
struct Skeleton {
    basis: Basis,
    led: Led,
    zones: BTreeMap<u32, u32>,
    sources: BTreeMap<(u32, IpNet), u32>,
    settings: SlotSettings,
}

impl Skeleton {
    fn new(policy: &Policy, host: &Host, check: &mut Check) -> Result<Self, CapacityError> {
        let nics = host.nics.iter().map(|nic| u64::from(nic.slot) + 1).max().unwrap_or(0);
        check.fits(Capacity::Nics, nics, MAX_NICS);
        // Beyond the last NIC there is no index to compute with.
        check.result()?;
        let (book, led) = rules::rules(policy);
        let Sources { zones, sources, classes } = Sources::new(&rules::groups(policy), host, check);
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
            classes: u32::try_from(classes.len()).unwrap_or(u32::MAX),
            port_classes: ports.count(),
            mode,
            flags: flags(policy, host),
            #[cfg(feature = "next-layout")]
            more: 0,
        };
        let cells = policy.gateway.sizes.grant_cells;
        let basis = Basis::new(book, &led.names, classes, ports, cells);
        Ok(Self { basis, led, zones, sources, settings })
    }

    /// Adds what names bring.
    fn fill(
        self,
        names: &Snapshot,
        host: &Host,
        ledger: &mut CounterLedger,
        mut check: Check,
    ) -> Result<Compiled, CapacityError> {
        let Self { basis, led, zones, sources, settings } = self;
        let destinations = Destinations::new(&basis, led, names, host);
        let none = Rows::default();
        let mut grant_rows = NewRows::new(&none);
        let grants = grants(&destinations, host, &mut grant_rows);
        let v4 = grants.keys().filter(|prefix| prefix.addr().is_ipv4()).count() as u64;
        check.fits(Capacity::PrefixesV4, v4, MAX_PREFIXES);
        check.fits(Capacity::PrefixesV6, grants.len() as u64 - v4, MAX_PREFIXES);
        let (rows, classes) = (u64::from(grant_rows.next()), u64::from(settings.classes));
        let what = Capacity::GrantCells { grants: rows, classes };
        check.fits(what, rows * classes, basis.grant_cells);
        if rows * classes > COUNTABLE_CELLS {
            check.result()?;
        }

        let mut port_set_rows = NewRows::new(&none);
        let mut cells = Runs::default();
        basis.cells(grant_rows.added(), &mut port_set_rows, |cell, set| cells.set(cell, set));
        let (rows, classes) = (u64::from(port_set_rows.next()), u64::from(settings.port_classes));
        let what = Capacity::PortCells { port_sets: rows, port_classes: classes };
        check.fits(what, rows * classes, MAX_PORT_CELLS);
        check.fits(Capacity::PortSets, rows, MAX_PORT_SETS);
        if rows * classes > COUNTABLE_CELLS {
            check.result()?;
        }

        let Counted { matches, permits, added } =
            basis.count(port_set_rows.added(), ledger, check)?;
        ledger.extend(added);
        let tables = SlotTables {
            settings,
            grants,
            sources,
            zones,
            cells,
            port_classes: basis.ports.words(),
            port_cells: permits.into_iter().collect(),
            service_hosts: basis.service_hosts(&matches),
        };
        let meaning = Meaning {
            basis: Arc::new(basis),
            destinations,
            delivered: host.delivered(),
            grants: grant_rows.into_added().into_iter().collect(),
            port_sets: port_set_rows.into_added().into_iter().collect(),
            matches,
            uses: Uses::of(&tables),
        };
        let index_lines = index_lines(&tables.grants);
        Ok(Compiled { tables, meaning, index_lines })
    }
}

/// Up to how many cells a matrix that is too large is still computed, so that what comes after it
/// can be counted too.
const COUNTABLE_CELLS: u64 = 1 << 22;

/// The grants of all prefixes, and of every address that the gateway takes in, whether a rule
/// names it or not: those stand outside the union, so that no prefix around them opens the
/// gateway.
fn grants(
    destinations: &Destinations,
    host: &Host,
    rows: &mut NewRows<'_>,
) -> BTreeMap<IpNet, Grant> {
    let delivered: BTreeSet<IpNet> = host.delivered().into_iter().map(IpNet::from).collect();
    let own: BTreeSet<IpNet> = host.own.iter().map(|address| (*address).into()).collect();
    let forwarded = destinations.walk().filter(|(prefix, _)| !delivered.contains(prefix));
    let apart = delivered.iter().map(|prefix| (*prefix, destinations.rules(*prefix).into()));
    let covered = merged(cover::unions(forwarded), apart, |_, apart| apart);
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
    // A list of unknown length has room for twice as much when it is full.
    let mut sorted = Vec::with_capacity(destinations.len() + delivered.len());
    sorted.extend(covered.map(grant));
    sorted.into_iter().collect()
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
    let intercept = match policy.dns.intercept {
        Interception::On => {
            policy.dns.listen.iter().fold(SlotSettings::INTERCEPT, |flags, listen| {
                flags
                    | match listen {
                        IpAddr::V4(_) => SlotSettings::FORWARDER_V4,
                        IpAddr::V6(_) => SlotSettings::FORWARDER_V6,
                    }
            })
        }
        Interception::Off => 0,
    };
    follow | keep | reject | intercept
}
