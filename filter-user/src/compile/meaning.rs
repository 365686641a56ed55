// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the numbers in the tables stand for, for `explain`, `status` and the counters' labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use filter_common::verdict::PassReason;
use ipnet::IpNet;

use super::{basis::Basis, destinations::Destinations, rows::Rows, uses::Uses};
use crate::policy::{Fqdn, Label, Origin};

/// A rule by its place in [`Meaning::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleIndex(pub u32);

/// A set of rules, sorted, without repetition; never empty.
pub type RuleSet = Arc<[RuleIndex]>;

/// A rule that takes part: one of the policy, or one that the gateway brings along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// Its name. Names are unique among rules of the same reason.
    pub name: Label,
    /// Where it stands.
    pub origin: Origin,
    /// Why a packet passes that it alone allows.
    pub reason: PassReason,
}

/// A group that a class of clients belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientGroup {
    /// A `[[source]]` group.
    Source(Label),
    /// The clients that the management guard holds for.
    Management,
    /// Everybody behind an outside NIC. Rules for every client don't hold for them.
    Outside,
    /// Those behind outside NICs to whom an `[[inbound]]` rule offers its service.
    Inbound(Label),
}

/// What a counter counts for: the rules that allow the packet, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The reason of the weightiest of them.
    pub reason: PassReason,
    /// The rules.
    pub rules: RuleSet,
}

/// How an address came to be a destination of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// It lies in a prefix that the rule lists; the longest of them.
    Prefix(IpNet),
    /// A name that the rule lists had it in an answer.
    Name {
        /// The name.
        name: Fqdn,
        /// The address.
        address: IpAddr,
    },
    /// The rule lists `self`, and the address is one of the gateway's own.
    SelfAddress,
}

/// What the numbers in the tables of one slot stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    pub(super) basis: Arc<Basis>,
    pub(super) destinations: Destinations,
    /// The addresses that no prefix around them opens.
    pub(super) delivered: BTreeSet<IpAddr>,
    pub(super) grants: Rows,
    pub(super) port_sets: Rows,
    pub(super) matches: BTreeMap<u32, Match>,
    pub(super) uses: Uses,
}

// === impl ClientGroup ===

impl fmt::Display for ClientGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(name) => name.fmt(f),
            Self::Management => f.write_str("[management]"),
            Self::Outside => f.write_str("outside"),
            Self::Inbound(name) => write!(f, "[[inbound]] {name}"),
        }
    }
}

// === impl Meaning ===

impl Meaning {
    /// The rules that take part, those that the gateway brings along first.
    pub fn rules(&self) -> impl Iterator<Item = (RuleIndex, &RuleRef)> {
        (0..).map(RuleIndex).zip(self.basis.book.references())
    }

    /// A rule.
    #[must_use]
    pub fn rule(&self, rule: RuleIndex) -> Option<&RuleRef> {
        self.basis.book.reference(rule)
    }

    /// The rules that name a name or match it, in order.
    #[must_use]
    pub fn rules_of(&self, name: &Fqdn) -> Vec<&RuleRef> {
        let mut rules: Vec<RuleIndex> =
            self.basis.names.matching(name).map(|(rule, _)| *rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules.into_iter().filter_map(|rule| self.rule(rule)).collect()
    }

    /// The groups that the clients of a class are in; empty for class 0.
    #[must_use]
    pub fn class(&self, class: u32) -> Option<&BTreeSet<ClientGroup>> {
        self.basis.classes.get(usize::try_from(class).ok()?)
    }

    /// The classes, from 0.
    #[must_use]
    pub fn classes(&self) -> &[BTreeSet<ClientGroup>] {
        &self.basis.classes
    }

    /// The rules that cover the prefixes of a grant row.
    #[must_use]
    pub fn grant(&self, row: u32) -> Option<&RuleSet> {
        self.grants.set(row)
    }

    /// The rules of a port set: those of a grant that hold for a class.
    #[must_use]
    pub fn port_set(&self, row: u32) -> Option<&RuleSet> {
        self.port_sets.set(row)
    }

    /// What a counter counts for.
    #[must_use]
    pub fn counter(&self, counter: u32) -> Option<&Match> {
        self.matches.get(&counter)
    }

    /// Every counter of these tables.
    #[must_use]
    pub fn matches(&self) -> &BTreeMap<u32, Match> {
        &self.matches
    }

    /// Which destinations brought a prefix into the tables. The gateway's own addresses, and those
    /// that are closed, are in the tables also where none did.
    #[must_use]
    pub fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    /// The names that brought an address into the tables.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &Fqdn> {
        self.destinations.named(address).iter().map(|brought| brought.name.as_ref())
    }

    /// By which of its destinations a rule covers an address: the longest. What the gateway takes
    /// in is covered by nothing but itself.
    #[must_use]
    pub fn via(&self, rule: RuleIndex, address: IpAddr) -> Option<Via> {
        let shortest = if self.delivered.contains(&address) {
            IpNet::from(address).max_prefix_len()
        } else {
            0
        };
        self.destinations.via(rule, address, shortest)
    }
}
