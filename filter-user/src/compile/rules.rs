// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules that take part: those of the policy, and those that the gateway brings along.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use filter_common::{egress::Side, verdict::PassReason};
use ipnet::IpNet;

use super::{
    destinations::{Listed, Listing},
    meaning::{ClientGroup, RuleIndex, RuleRef},
};
use crate::policy::{
    Clients, Destination, Label, NicName, Origin, Policy, PortRange, PortRanges, Ports,
};

/// Everything about the rules that names don't change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RuleBook {
    rules: Vec<ActiveRule>,
    /// The different ports that rules have, and the place of each.
    ports: Vec<Ports>,
    places: BTreeMap<Ports, usize>,
}

/// A rule that takes part.
#[derive(Debug, PartialEq, Eq)]
struct ActiveRule {
    reference: RuleRef,
    clients: ActiveClients,
    /// The place of its ports in the book.
    ports: usize,
    /// The host behind the destination NAT of a service.
    host: Option<IpAddr>,
}

#[derive(Debug, PartialEq, Eq)]
enum ActiveClients {
    Any,
    Groups(BTreeSet<ClientGroup>),
}

/// A destination of a rule.
pub(super) type RuleDestination = (RuleIndex, Arc<Destination>);

/// Where rules lead.
#[derive(Debug, Default)]
pub(super) struct Led {
    /// To prefixes.
    pub(super) prefixes: Vec<Listed>,
    /// To the gateway's own addresses.
    pub(super) own: Vec<RuleIndex>,
    /// To names and patterns.
    pub(super) names: Vec<RuleDestination>,
}

/// A group of clients: fields are ANDed, the entries of a list ORed, an empty list holds for all.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: ClientGroup,
    pub(super) cidr: Vec<IpNet>,
    pub(super) interface: Vec<NicName>,
    pub(super) vlan: BTreeSet<u16>,
    pub(super) sides: Sides,
}

/// Behind which NICs the members of a group are that names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sides {
    /// Behind those of one side.
    Only(Side),
    /// Behind any; the group names its NICs.
    Both,
}

/// Reads the rules of a policy, and where each leads.
pub(super) fn rules(policy: &Policy) -> (RuleBook, Led) {
    let mut book = RuleBook::default();
    let mut led = Led::default();
    // There may be a million of them, and a list that grows takes twice as much.
    led.prefixes.reserve(policy.enabled_rules().map(|rule| rule.to.len()).sum());
    let origin =
        |section: &Option<Origin>| section.as_ref().unwrap_or(&policy.gateway.origin).clone();
    let mut brought_along = |name, section, reason, clients, ports, to: Vec<Destination>| {
        // Both names are valid, and nothing is allowed that has no name.
        if let Ok(name) = Label::try_from(name) {
            let reference = RuleRef { name, origin: origin(section), reason };
            let rule = book.add(reference, clients, ports, None);
            to.iter().for_each(|to| led.add(rule, to));
        }
    };

    let management = &policy.management;
    if !management.from.is_empty() {
        brought_along(
            "management",
            &management.origin,
            PassReason::Management,
            ActiveClients::Groups(BTreeSet::from([ClientGroup::Management])),
            Ports { tcp: management.tcp.clone(), udp: management.udp.clone(), ..Ports::default() },
            vec![Destination::SelfAddresses],
        );
    }
    if !policy.dns.listen.is_empty() {
        let port: PortRanges = PortRange::new(53, 53).into_iter().collect();
        brought_along(
            "dns",
            &policy.dns.origin,
            PassReason::DnsForwarder,
            ActiveClients::Any,
            Ports { tcp: port.clone(), udp: port, ..Ports::default() },
            policy
                .dns
                .listen
                .iter()
                .map(|address| Destination::Prefix((*address).into()))
                .collect(),
        );
    }
    for rule in policy.enabled_rules() {
        let reference = RuleRef {
            name: rule.name.clone(),
            origin: rule.origin.clone(),
            reason: PassReason::Rule,
        };
        let clients = match &rule.from {
            Clients::Any => ActiveClients::Any,
            Clients::Groups(groups) => {
                ActiveClients::Groups(groups.iter().cloned().map(ClientGroup::Source).collect())
            }
        };
        let index = book.add(reference, clients, rule.ports.clone(), None);
        rule.to.iter().for_each(|(to, _)| led.add(index, to));
    }
    for inbound in &policy.inbound {
        let reference = RuleRef {
            name: inbound.name.clone(),
            origin: inbound.origin.clone(),
            reason: PassReason::Inbound,
        };
        let group = ClientGroup::Inbound(inbound.name.clone());
        let clients = ActiveClients::Groups(BTreeSet::from([group]));
        let index = book.add(reference, clients, inbound.ports.clone(), inbound.host);
        inbound.to.iter().for_each(|to| led.add(index, to));
    }
    (book, led)
}

/// The groups of clients that rules may hold for.
pub(super) fn groups(policy: &Policy) -> Vec<Group> {
    let mut groups: Vec<Group> = policy
        .sources
        .iter()
        .map(|group| Group {
            name: ClientGroup::Source(group.name.clone()),
            cidr: group.cidr.clone(),
            interface: group.interface.clone(),
            vlan: group.vlan.clone(),
            sides: Sides::Only(Side::Inside),
        })
        .collect();
    if !policy.management.from.is_empty() {
        groups.push(Group {
            name: ClientGroup::Management,
            cidr: policy.management.from.clone(),
            interface: policy.management.nics.clone(),
            vlan: BTreeSet::new(),
            sides: if policy.management.nics.is_empty() {
                Sides::Only(Side::Inside)
            } else {
                Sides::Both
            },
        });
    }
    let outside = |name, cidr| Group {
        name,
        cidr,
        interface: Vec::new(),
        vlan: BTreeSet::new(),
        sides: Sides::Only(Side::Outside),
    };
    groups.push(outside(ClientGroup::Outside, Vec::new()));
    groups.extend(
        policy.inbound.iter().map(|inbound| {
            outside(ClientGroup::Inbound(inbound.name.clone()), inbound.from.clone())
        }),
    );
    groups
}

// === impl Led ===

impl Led {
    fn add(&mut self, rule: RuleIndex, to: &Destination) {
        match to {
            Destination::Prefix(prefix) => {
                let (prefix, how) = (prefix.trunc(), Listing::Prefix);
                self.prefixes.push(Listed { prefix, rule, how });
            }
            Destination::SelfAddresses => self.own.push(rule),
            Destination::Name(_) => self.names.push((rule, Arc::new(to.clone()))),
        }
    }
}

// === impl RuleBook ===

impl RuleBook {
    pub(super) fn references(&self) -> impl Iterator<Item = &RuleRef> {
        self.rules.iter().map(|rule| &rule.reference)
    }

    pub(super) fn reference(&self, rule: RuleIndex) -> Option<&RuleRef> {
        self.rule(rule).map(|rule| &rule.reference)
    }

    /// The different ports that the rules have.
    pub(super) fn ports(&self) -> &[Ports] {
        &self.ports
    }

    /// The place of a rule's ports in [`Self::ports`].
    pub(super) fn ports_of(&self, rule: RuleIndex) -> Option<usize> {
        self.rule(rule).map(|rule| rule.ports)
    }

    /// The host behind the destination NAT of a service.
    pub(super) fn host_of(&self, rule: RuleIndex) -> Option<IpAddr> {
        self.rule(rule)?.host
    }

    /// For each rule whether it holds for a client that is in these groups.
    pub(super) fn holding_for(&self, groups: &BTreeSet<ClientGroup>) -> Vec<Holds> {
        let holds = |rule: &ActiveRule| match &rule.clients {
            ActiveClients::Any if groups.contains(&ClientGroup::Outside) => Holds::No,
            ActiveClients::Any => Holds::Yes,
            ActiveClients::Groups(of_rule) if of_rule.is_disjoint(groups) => Holds::No,
            ActiveClients::Groups(_) => Holds::Yes,
        };
        self.rules.iter().map(holds).collect()
    }

    fn rule(&self, rule: RuleIndex) -> Option<&ActiveRule> {
        self.rules.get(usize::try_from(rule.0).ok()?)
    }

    fn add(
        &mut self,
        reference: RuleRef,
        clients: ActiveClients,
        ports: Ports,
        host: Option<IpAddr>,
    ) -> RuleIndex {
        let ports = *self.places.entry(ports).or_insert_with_key(|ports| {
            self.ports.push(ports.clone());
            self.ports.len() - 1
        });
        let index = RuleIndex(u32::try_from(self.rules.len()).unwrap_or(u32::MAX));
        self.rules.push(ActiveRule { reference, clients, ports, host });
        index
    }
}

/// Whether a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// It does.
    Yes,
    /// It doesn't.
    No,
}
