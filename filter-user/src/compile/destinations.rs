// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rules lead: prefixes, names with the addresses they have, and `self`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use filter_common::verdict::PassReason;
use ipnet::IpNet;

use super::{
    basis::Basis,
    host::{Delivery, Host},
    meaning::Brought,
    rules::RuleDestination,
};
use crate::{
    names::Snapshot,
    policy::{Destination, Fqdn},
};

/// Every prefix that a destination brings, with all that bring it, sorted.
///
/// To the gateway itself lead only `self` and its address written out; a name never does,
/// whatever address it claims. What the gateway brings along leads nowhere else.
pub(super) fn prefixes(
    basis: &Basis,
    destinations: &[RuleDestination],
    names: &Snapshot,
    host: &Host,
) -> BTreeMap<IpNet, Vec<Brought>> {
    let mut brought = Vec::new();
    for (rule, destination) in destinations {
        let mut bring = |prefix: IpNet| {
            let destination = Arc::clone(destination);
            brought.push((prefix, Brought { rule: *rule, destination, name: None }));
        };
        match destination.as_ref() {
            Destination::Prefix(prefix) => {
                let reason = basis.book.reference(*rule).map(|rule| rule.reason);
                let leads = match single(prefix).map(|address| host.delivery(address)) {
                    Some(Delivery::Own) => true,
                    Some(Delivery::Closed) => false,
                    Some(Delivery::Forwarded) | None => {
                        matches!(reason, Some(PassReason::Rule | PassReason::Inbound))
                    }
                };
                if leads {
                    bring(prefix.trunc());
                }
            }
            Destination::SelfAddresses => {
                host.own.iter().for_each(|address| bring((*address).into()));
            }
            // Found by the names that have addresses.
            Destination::Name(_) => {}
        }
    }
    for (name, addresses) in &names.addresses {
        let of_name = by_name(basis, name);
        let forwarded =
            addresses.iter().filter(|address| host.delivery(**address) == Delivery::Forwarded);
        for address in forwarded {
            brought.extend(of_name.iter().map(|of_name| ((*address).into(), of_name.clone())));
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

/// What brings each address of a name.
pub(super) fn by_name(basis: &Basis, name: &Fqdn) -> Vec<Brought> {
    let shared = Arc::new(name.clone());
    let bring = |(rule, destination): &RuleDestination| Brought {
        rule: *rule,
        destination: Arc::clone(destination),
        name: Some(Arc::clone(&shared)),
    };
    basis.names.matching(name).map(bring).collect()
}

/// The address of a prefix that holds no other.
fn single(prefix: &IpNet) -> Option<IpAddr> {
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
}
