// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rules lead: prefixes, names with the addresses they have, and `self`.
//!
//! What the policy lists is a sorted list, as there may be a million of it and it stays as it is;
//! what names bring changes all the time.

use std::{cmp::Ordering, collections::BTreeMap, iter, net::IpAddr, sync::Arc};

use filter_common::verdict::PassReason;
use ipnet::IpNet;

use super::{
    basis::Basis,
    host::{Delivery, Host},
    meaning::{RuleIndex, Via},
    rules::{Led, RuleDestination},
    tables::covering,
};
use crate::{
    names::Snapshot,
    policy::{Destination, Fqdn},
};

/// A destination of a rule that brought an address into the tables by a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Brought {
    /// The rule.
    pub rule: RuleIndex,
    /// Its destination, as it stands in the policy.
    pub destination: Arc<Destination>,
    /// The name that had the address.
    pub name: Arc<Fqdn>,
}

/// A prefix that a rule lists itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    pub(super) prefix: IpNet,
    pub(super) rule: RuleIndex,
    pub(super) how: Listing,
}

/// How a rule lists a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Listing {
    /// As it is.
    Prefix,
    /// It is one of the gateway's own addresses, and the rule lists `self`.
    SelfAddress,
}

/// Every prefix that a destination brings, with all that bring it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Sorted, each once.
    listed: Box<[Listed]>,
    /// Each sorted, and never empty.
    named: BTreeMap<IpAddr, Vec<Brought>>,
}

// === impl Destinations ===

impl Destinations {
    /// To the gateway itself lead only `self` and its address written out; a name never does,
    /// whatever address it claims. What the gateway brings along leads nowhere else.
    pub(super) fn new(basis: &Basis, led: Led, names: &Snapshot, host: &Host) -> Self {
        let Led { prefixes: mut listed, own, names: _ } = led;
        listed.retain(|Listed { prefix, rule, .. }| {
            match single(prefix).map(|address| host.delivery(address)) {
                Some(Delivery::Own) => true,
                Some(Delivery::Closed) => false,
                Some(Delivery::Forwarded) | None => {
                    let reason = basis.book.reference(*rule).map(|rule| rule.reason);
                    matches!(reason, Some(PassReason::Rule | PassReason::Inbound))
                }
            }
        });
        for rule in own {
            let how = Listing::SelfAddress;
            let addresses = host.own.iter().map(|address| IpNet::from(*address));
            listed.extend(addresses.map(|prefix| Listed { prefix, rule, how }));
        }
        listed.sort_unstable();
        listed.dedup();

        let mut named: BTreeMap<IpAddr, Vec<Brought>> = BTreeMap::new();
        for (name, addresses) in &names.addresses {
            let of_name = by_name(basis, name);
            let forwarded =
                addresses.iter().filter(|address| host.delivery(**address) == Delivery::Forwarded);
            for address in forwarded.filter(|_| !of_name.is_empty()) {
                named.entry(*address).or_default().extend_from_slice(&of_name);
            }
        }
        for brought in named.values_mut() {
            brought.sort_unstable();
            brought.dedup();
            brought.shrink_to_fit();
        }
        Self { listed: listed.into_boxed_slice(), named }
    }

    /// How many prefixes there are at most.
    pub(super) fn len(&self) -> usize {
        self.listed.len() + self.named.len()
    }

    /// What names bring an address.
    pub(super) fn named(&self, address: IpAddr) -> &[Brought] {
        self.named.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The rules that list a prefix, in their order.
    pub(super) fn listing(&self, prefix: IpNet) -> impl Iterator<Item = RuleIndex> + '_ {
        self.listed(prefix).iter().map(|listed| listed.rule)
    }

    /// The rules that have a prefix as their destination, however, each once and in order.
    pub(super) fn rules(&self, prefix: IpNet) -> Vec<RuleIndex> {
        let named = single(&prefix).map_or(&[][..], |address| self.named(address));
        let mut rules: Vec<RuleIndex> =
            self.listing(prefix).chain(named.iter().map(|brought| brought.rule)).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// Every prefix in order, with its rules.
    pub(super) fn walk(&self) -> impl Iterator<Item = (IpNet, Vec<RuleIndex>)> + '_ {
        let same = |one: &Listed, other: &Listed| one.prefix == other.prefix;
        let listed = self.listed.chunk_by(same).filter_map(|listed| {
            let rules = listed.iter().map(|listed| listed.rule).collect();
            Some((listed.first()?.prefix, rules))
        });
        let named = self.named.iter().map(|(address, brought)| {
            (IpNet::from(*address), brought.iter().map(|brought| brought.rule).collect())
        });
        merged(listed, named, |mut rules: Vec<RuleIndex>, others| {
            rules.extend(others);
            rules
        })
        .map(|(prefix, mut rules)| {
            rules.sort_unstable();
            rules.dedup();
            (prefix, rules)
        })
    }

    /// By which of its destinations, of at least this length, a rule covers an address: the longest.
    pub(super) fn via(&self, rule: RuleIndex, address: IpAddr, shortest: u8) -> Option<Via> {
        if let Some(brought) = self.named(address).iter().find(|brought| brought.rule == rule) {
            return Some(Via::Name { name: brought.name.as_ref().clone(), address });
        }
        let below = |at| {
            let behind = self.listed.partition_point(|listed| listed.prefix <= at);
            let last = self.listed.get(behind.checked_sub(1)?)?;
            Some((&last.prefix, last))
        };
        let mut covering =
            covering(address, below).take_while(|(prefix, _)| prefix.prefix_len() >= shortest);
        covering.find_map(|(prefix, _)| {
            let listed = self.listed(prefix).iter().find(|listed| listed.rule == rule)?;
            Some(match listed.how {
                Listing::Prefix => Via::Prefix(prefix),
                Listing::SelfAddress => Via::SelfAddress,
            })
        })
    }

    /// Names bring an address, or no longer do.
    pub(super) fn change(
        &mut self,
        address: IpAddr,
        added: impl IntoIterator<Item = Brought>,
        removed: impl Fn(&Brought) -> bool,
    ) {
        let named = self.named.entry(address).or_default();
        named.retain(|brought| !removed(brought));
        for brought in added {
            if let Err(place) = named.binary_search(&brought) {
                named.insert(place, brought);
            }
        }
        if named.is_empty() {
            self.named.remove(&address);
        }
    }

    fn listed(&self, prefix: IpNet) -> &[Listed] {
        let first = self.listed.partition_point(|listed| listed.prefix < prefix);
        let from = self.listed.get(first..).unwrap_or_default();
        let length = from.iter().take_while(|listed| listed.prefix == prefix).count();
        from.get(..length).unwrap_or_default()
    }
}

/// Two sorted sequences as one; where both have a key, what they have is joined.
pub(super) fn merged<K: Ord, V>(
    one: impl Iterator<Item = (K, V)>,
    other: impl Iterator<Item = (K, V)>,
    join: impl Fn(V, V) -> V,
) -> impl Iterator<Item = (K, V)> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    iter::from_fn(move || {
        let order = match (one.peek(), other.peek()) {
            (Some((one, _)), Some((other, _))) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => one.next(),
            Ordering::Greater => other.next(),
            Ordering::Equal => {
                let ((key, one), (_, other)) = one.next().zip(other.next())?;
                Some((key, join(one, other)))
            }
        }
    })
}

/// What brings each address of a name.
pub(super) fn by_name(basis: &Basis, name: &Fqdn) -> Vec<Brought> {
    let shared = Arc::new(name.clone());
    let bring = |(rule, destination): &RuleDestination| Brought {
        rule: *rule,
        destination: Arc::clone(destination),
        name: Arc::clone(&shared),
    };
    basis.names.matching(name).map(bring).collect()
}

/// The address of a prefix that holds no other.
fn single(prefix: &IpNet) -> Option<IpAddr> {
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| prefix.addr())
}
