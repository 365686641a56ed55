// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stays as it is as long as only names change, and what follows from it for new rows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use filter_common::{
    verdict::PassReason,
    wire::{AddressPair, NO_PORTS, Permit},
};

use super::{
    capacity::{Capacity, CapacityError, Check},
    ledger::{CounterLedger, MATCHES, MatchKey},
    meaning::{ClientGroup, Match, RuleIndex, RuleSet},
    ports::PortClasses,
    rows::NewRows,
    rules::{Holds, RuleBook, RuleDestination},
};
use crate::policy::{Destination, index::NameIndex};

/// Rules, classes of clients and classes of ports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) book: RuleBook,
    /// The rules that lead to names, by their names and patterns.
    pub(super) names: NameIndex<RuleDestination>,
    /// Class -> its groups.
    pub(super) classes: Vec<BTreeSet<ClientGroup>>,
    /// Class -> for each rule whether it holds there.
    holding: Vec<Vec<Holds>>,
    pub(super) ports: PortClasses,
    /// How many cells of grants and classes there may be.
    pub(super) grant_cells: u32,
}

/// What new port cells count for.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Counter -> what it counts for.
    pub(super) matches: BTreeMap<u32, Match>,
    /// The cells.
    pub(super) permits: Vec<(u32, Permit)>,
    /// What the ledger doesn't have yet.
    pub(super) added: Vec<(MatchKey, u32)>,
}

impl Basis {
    pub(super) fn new(
        book: RuleBook,
        destinations: &[RuleDestination],
        classes: Vec<BTreeSet<ClientGroup>>,
        ports: PortClasses,
        grant_cells: u32,
    ) -> Self {
        let mut names = NameIndex::default();
        for of_rule in destinations {
            match of_rule.1.as_ref() {
                Destination::Name(pattern) => names.insert(pattern, of_rule.clone()),
                Destination::Prefix(_) | Destination::SelfAddresses => {}
            }
        }
        let holding = classes.iter().map(|groups| book.holding_for(groups)).collect();
        Self { book, names, classes, holding, ports, grant_cells }
    }

    /// The cells of new grant rows, row by row.
    pub(super) fn cells(
        &self,
        grants: &[(u32, RuleSet)],
        port_sets: &mut NewRows<'_>,
        mut cell: impl FnMut(u32, u32),
    ) {
        let columns = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
        // Most classes have the same rules as the one before.
        let (mut last, mut set) = (Vec::new(), Vec::new());
        for (row, rules) in grants {
            // The port set of class 0, which holds where nothing else is written.
            let (mut usual, mut port_set) = (None, 0);
            last.clear();
            for (class, holding) in (0..).zip(&self.holding) {
                let holds = |rule: &&RuleIndex| holding.get(rule.0 as usize) == Some(&Holds::Yes);
                set.clear();
                set.extend(rules.iter().filter(holds).copied());
                if set != last {
                    port_set = port_sets.row(&set);
                    last.clone_from(&set);
                }
                let usual = *usual.get_or_insert(port_set);
                if class == 0 && port_set != 0 {
                    cell(row * columns, port_set);
                } else if port_set != usual {
                    let port_set = if port_set == 0 { NO_PORTS } else { port_set };
                    cell(row * columns + class, port_set);
                }
            }
        }
    }

    /// The cells of new port set rows, each with the rules that allow it.
    fn matched(&self, port_sets: &[(u32, RuleSet)]) -> Vec<(u32, Vec<RuleIndex>)> {
        let mut matched = Vec::new();
        for (row, rules) in port_sets {
            for (class, named_by) in self.ports.classes() {
                let allows = |rule: &RuleIndex| {
                    self.book.ports_of(*rule).is_some_and(|ports| named_by.contains(&ports))
                };
                let allowing: Vec<RuleIndex> = rules.iter().copied().filter(allows).collect();
                if !allowing.is_empty() {
                    matched.push((row * self.ports.count() + class, allowing));
                }
            }
        }
        matched
    }

    /// Gives each set of rules that allows something in new port set rows its counter.
    pub(super) fn count(
        &self,
        port_sets: &[(u32, RuleSet)],
        ledger: &CounterLedger,
        mut check: Check,
    ) -> Result<Counted, CapacityError> {
        let mut numbers: HashMap<Vec<RuleIndex>, usize> = HashMap::new();
        let mut keys: Vec<(RuleSet, PassReason, MatchKey)> = Vec::new();
        let mut cells = Vec::new();
        for (cell, rules) in self.matched(port_sets) {
            let number = *numbers.entry(rules).or_insert_with_key(|rules| {
                let references = rules.iter().filter_map(|rule| self.book.reference(*rule));
                let key: MatchKey =
                    references.map(|rule| (rule.reason, rule.name.clone())).collect();
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

        let mut counted = Counted::default();
        let mut vacant = ledger.vacant();
        let mut permits = Vec::with_capacity(keys.len());
        for (rules, reason, key) in keys {
            // The check above leaves room for each of them; without a counter nothing would pass.
            let counter = ledger.counter(&key).or_else(|| {
                let counter = vacant.next()?;
                counted.added.push((key, counter));
                Some(counter)
            });
            permits.push(counter.map(|counter| {
                counted.matches.insert(counter, Match { reason, rules });
                Permit::new(reason, counter)
            }));
        }
        let permit = |(cell, number): (u32, usize)| Some((cell, (*permits.get(number)?)?));
        counted.permits = cells.into_iter().filter_map(permit).collect();
        Ok(counted)
    }

    /// The hosts behind the destination NAT of services, by the counter of their match. The policy
    /// has at most one host of a family for what a packet may match.
    pub(super) fn service_hosts(
        &self,
        matches: &BTreeMap<u32, Match>,
    ) -> BTreeMap<u32, AddressPair> {
        let mut hosts = BTreeMap::new();
        for (counter, found) in matches {
            for host in found.rules.iter().filter_map(|rule| self.book.host_of(*rule)) {
                let pair: &mut AddressPair = hosts.entry(*counter).or_default();
                match host {
                    IpAddr::V4(host) => pair.v4 = host.octets(),
                    IpAddr::V6(host) => pair.v6 = host.octets(),
                }
            }
        }
        hosts
    }
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
