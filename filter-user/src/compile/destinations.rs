// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rules lead: prefixes, names with the addresses they have, and `self`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use filter_common::verdict::PassReason;
use ipnet::IpNet;

use super::{
    host::{Delivery, Host},
    meaning::Brought,
    rules::{RuleBook, RuleDestination},
};
use crate::{
    names::Snapshot,
    policy::{Destination, Fqdn, NamePattern},
};

/// Every prefix that a destination brings, with all that bring it, sorted.
///
/// To the gateway itself lead only `self` and its address written out; a name never does,
/// whatever address it claims. What the gateway brings along leads nowhere else.
pub(super) fn prefixes(
    book: &RuleBook,
    destinations: &[RuleDestination],
    names: &Snapshot,
    host: &Host,
) -> BTreeMap<IpNet, Vec<Brought>> {
    let mut brought = Vec::new();
    let directory = Directory::new(destinations, names);
    for (rule, destination) in destinations {
        let mut bring = |prefix: IpNet, name: Option<Arc<Fqdn>>| {
            let destination = Arc::clone(destination);
            brought.push((prefix, Brought { rule: *rule, destination, name }));
        };
        match destination.as_ref() {
            Destination::Prefix(prefix) => {
                let reason = book.reference(*rule).map(|rule| rule.reason);
                let leads = match single(prefix).map(|address| host.delivery(address)) {
                    Some(Delivery::Own) => true,
                    Some(Delivery::Closed) => false,
                    Some(Delivery::Forwarded) | None => {
                        matches!(reason, Some(PassReason::Rule | PassReason::Inbound))
                    }
                };
                if leads {
                    bring(prefix.trunc(), None);
                }
            }
            Destination::SelfAddresses => {
                host.own.iter().for_each(|address| bring((*address).into(), None));
            }
            Destination::Name(pattern) => {
                for name in directory.matching(pattern) {
                    let shared = Arc::new(name.clone());
                    let addresses = names.addresses.get(name).into_iter().flatten();
                    for address in
                        addresses.filter(|address| host.delivery(**address) == Delivery::Forwarded)
                    {
                        bring((*address).into(), Some(Arc::clone(&shared)));
                    }
                }
            }
        }
    }
    brought.sort_unstable();
    brought.dedup();
    let mut prefixes: BTreeMap<IpNet, Vec<Brought>> = BTreeMap::new();
    for (prefix, brought) in brought {
        prefixes.entry(prefix).or_default().push(brought);
    }
    prefixes
}

/// The address of a prefix that holds no other.
fn single(prefix: &IpNet) -> Option<IpAddr> {
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
}

/// The names of a snapshot written backwards, in order: what shares an ending stands together, so
/// that a wildcard meets only the names that end like it.
struct Directory<'a> {
    names: &'a Snapshot,
    /// Empty if no rule has a wildcard.
    backwards: Vec<(Vec<u8>, &'a Fqdn)>,
}

impl<'a> Directory<'a> {
    fn new(destinations: &[RuleDestination], names: &'a Snapshot) -> Self {
        let wildcards = destinations.iter().any(|(_, destination)| {
            matches!(destination.as_ref(), Destination::Name(NamePattern::Wildcard(_)))
        });
        let mut backwards: Vec<_> = names
            .addresses
            .keys()
            .filter(|_| wildcards)
            .map(|name| (reversed(name.as_str()), name))
            .collect();
        backwards.sort_unstable();
        Self { names, backwards }
    }

    fn matching(&self, pattern: &NamePattern) -> Vec<&'a Fqdn> {
        match pattern {
            NamePattern::Exact(name) => {
                self.names.addresses.get_key_value(name).map(|(name, _)| name).into_iter().collect()
            }
            NamePattern::Wildcard(pattern) => {
                let ending = pattern.as_str().rsplit('*').next().map(reversed).unwrap_or_default();
                let first = self.backwards.partition_point(|(name, _)| *name < ending);
                self.backwards
                    .iter()
                    .skip(first)
                    .take_while(|(name, _)| name.starts_with(&ending))
                    .map(|(_, name)| *name)
                    .filter(|name| pattern.matches(name))
                    .collect()
            }
        }
    }
}

fn reversed(text: &str) -> Vec<u8> {
    text.bytes().rev().collect()
}
