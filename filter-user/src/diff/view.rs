// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages, feeds and rules in the form in which they are compared.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    document::{Category, Document, PortSet, SetState, Stated},
    policy::{Clients, Destination, Ports, Rule, RuleState},
};

/// One side of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// What is compared: endpoint sets, or rules.
    pub sets: Vec<SetView>,
}

/// An endpoint set or a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetView {
    /// What it is.
    pub identity: Identity,
    /// How it is called: the vendor's number and words, or the rule's name.
    pub title: String,
    /// Where it stands: `intune-endpoints.md:70`.
    pub place: String,
    /// Names, patterns and `self`.
    pub names: BTreeSet<String>,
    /// Prefixes.
    pub prefixes: Vec<IpNet>,
    /// The ports; none where a page gives none.
    pub ports: Ports,
    /// Whether it grants anything.
    pub state: RuleState,
    /// Whether the vendor says that it is required.
    pub required: Stated,
    /// Whether it is reachable over ExpressRoute.
    pub express_route: Stated,
    /// The vendor's category.
    pub category: Option<Category>,
    /// The groups of clients, empty for every client; `None` where there is no such thing.
    pub from: Option<BTreeSet<String>>,
}

/// What a set is known by on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A set of a page or feed.
    Page {
        /// The vendor's number.
        id: Option<u32>,
        /// The heading.
        section: String,
        /// What it is for.
        description: String,
        /// The region, tenant unit or cloud.
        group: Option<String>,
    },
    /// A rule, with its name.
    Rule(String),
}

// === impl View ===

impl From<&Document> for View {
    fn from(document: &Document) -> Self {
        let sets = document.endpoint_sets.iter().map(|set| {
            let source = document.sources.get(set.source);
            let source = source.map(|source| source.name.as_str()).unwrap_or_default();
            let words = if set.description.is_empty() { &set.section } else { &set.description };
            let mut title = match set.id {
                Some(id) => format!("{id} {words}"),
                None => words.clone(),
            };
            if let Some(group) = &set.group {
                title.push_str(&format!(" ({group})"));
            }
            SetView {
                identity: Identity::Page {
                    id: set.id,
                    section: set.section.clone(),
                    description: set.description.clone(),
                    group: set.group.clone(),
                },
                title: title.trim().to_owned(),
                place: format!("{source}:{}", set.lines.0),
                names: set.names.iter().cloned().collect(),
                prefixes: set.prefixes.clone(),
                ports: page_ports(&set.ports),
                state: match set.state {
                    SetState::Enabled => RuleState::Enabled,
                    SetState::WithoutPorts | SetState::Disabled => RuleState::Disabled,
                },
                required: set.required,
                express_route: set.express_route,
                category: set.category,
                from: None,
            }
        });
        Self { sets: sets.collect() }
    }
}

impl<'a> FromIterator<&'a Rule> for View {
    fn from_iter<I: IntoIterator<Item = &'a Rule>>(rules: I) -> Self {
        let sets = rules.into_iter().map(|rule| {
            let from = match &rule.from {
                Clients::Any => BTreeSet::new(),
                Clients::Groups(groups) => groups.iter().map(ToString::to_string).collect(),
            };
            SetView::rule(
                &rule.name.to_string(),
                rule.origin.to_string(),
                from,
                rule.to.iter().map(|(destination, _)| destination.clone()),
                rule.ports.clone(),
                rule.state,
            )
        });
        Self { sets: sets.collect() }
    }
}

// === impl SetView ===

impl SetView {
    /// A rule in the form in which it is compared.
    pub fn rule(
        name: &str,
        place: String,
        from: BTreeSet<String>,
        to: impl Iterator<Item = Destination>,
        ports: Ports,
        state: RuleState,
    ) -> Self {
        let mut names = BTreeSet::new();
        let mut prefixes = Vec::new();
        for destination in to {
            match destination {
                Destination::Prefix(prefix) => prefixes.push(prefix),
                other => {
                    names.insert(other.to_string());
                }
            }
        }
        Self {
            identity: Identity::Rule(name.to_owned()),
            title: name.to_owned(),
            place,
            names,
            prefixes,
            ports,
            state,
            required: Stated::Unstated,
            express_route: Stated::Unstated,
            category: None,
            from: Some(from),
        }
    }

    /// The vendor's number: the page's own, or the one in the name that the importer gave to the
    /// rule (`intune-163`, `intune-163-tcp-443`, `intune-163-broad`).
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        match &self.identity {
            Identity::Page { id, .. } => *id,
            Identity::Rule(name) => id_in_name(name),
        }
    }

    /// Whether it is a rule.
    #[must_use]
    pub fn is_rule(&self) -> bool {
        matches!(self.identity, Identity::Rule(_))
    }
}

// === helpers ===

fn page_ports(ports: &PortSet) -> Ports {
    let (tcp, udp) = (ports.tcp.iter().copied().collect(), ports.udp.iter().copied().collect());
    Ports { tcp, udp, ..Ports::default() }
}

fn id_in_name(name: &str) -> Option<u32> {
    let name = name.strip_suffix("-broad").unwrap_or(name);
    let name = ["-tcp-", "-udp-", "-no-ports"]
        .iter()
        .filter_map(|ports| name.find(ports))
        .min()
        .and_then(|at| name.get(..at))
        .unwrap_or(name);
    let (_, digits) = name.rsplit_once('-')?;
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_names_of_rules() {
        let cases = [
            ("intune-163", Some(163)),
            ("intune-163-broad", Some(163)),
            ("intune-163-tcp-80-443", Some(163)),
            ("intune-163-tcp-443-udp-443-broad", Some(163)),
            ("intune-163-no-ports", Some(163)),
            ("microsoft-365-163", Some(163)),
            ("intune-apple-devices-tcp-443", None),
            ("intune", None),
            ("163", None),
            ("intune-007", None),
            ("intune-99999999999", None),
        ];
        for (name, expected) in cases {
            assert_eq!(id_in_name(name), expected, "{name}");
        }
    }
}
