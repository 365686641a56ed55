// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is granted, whatever set it is in.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    SetView, Sides,
    ranges::{Run, Runs, intersection, minus, others, union, walk},
};
use crate::policy::{
    NamePattern, PortRanges, Ports, RuleState, WildcardPattern, wildcards::Wildcards,
};

/// Endpoints and the ports that one side grants there and the other doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Granted {
    /// TCP ports.
    pub tcp: Vec<String>,
    /// UDP ports.
    pub udp: Vec<String>,
    /// `icmp` and IP protocols.
    pub protocols: Vec<String>,
    /// Names and patterns; `self` among them.
    pub names: Vec<String>,
    /// The fewest prefixes that make up the addresses.
    pub prefixes: Vec<IpNet>,
}

/// The ports at each endpoint that only one side grants, by ports.
#[derive(Default)]
struct Found {
    names: BTreeMap<Ports, BTreeSet<String>>,
    runs: BTreeMap<Ports, Runs>,
}

/// What only the old and what only the new side grants.
///
/// A name that the other side covers with a wildcard is granted there, with the wildcard's ports.
pub(super) fn difference(sides: &Sides<'_>) -> (Vec<Granted>, Vec<Granted>) {
    let (old_names, new_names) = (ports_of_names(&sides.old), ports_of_names(&sides.new));
    let (mut removed, mut added) = (Found::default(), Found::default());
    removed.names(&old_names, &new_names);
    added.names(&new_names, &old_names);
    compare_runs(sides, |run, old, new| {
        removed.run(run, minus(old, new));
        added.run(run, minus(new, old));
    });
    (removed.granted(), added.granted())
}

/// The same for endpoints that both sides have, and only for some ports.
pub(super) fn within(sides: &Sides<'_>, only: &Ports) -> (Vec<Granted>, Vec<Granted>) {
    let (old_names, new_names) = (ports_of_names(&sides.old), ports_of_names(&sides.new));
    let (mut removed, mut added) = (Found::default(), Found::default());
    let none = Ports::default();
    let listed = |sets: &[&SetView]| -> BTreeSet<String> {
        sets.iter().flat_map(|set| set.names.iter().cloned()).collect()
    };
    for name in listed(&sides.old).intersection(&listed(&sides.new)) {
        let old = old_names.get(name.as_str()).unwrap_or(&none);
        let new = new_names.get(name.as_str()).unwrap_or(&none);
        removed.name(name, intersection(&minus(old, new), only));
        added.name(name, intersection(&minus(new, old), only));
    }
    let behind = sides.old.len();
    walk_ports(sides, |run, active, old, new| {
        let both =
            active.range(..behind).next().is_some() && active.range(behind..).next().is_some();
        if both {
            removed.run(run, intersection(&minus(old, new), only));
            added.run(run, intersection(&minus(new, old), only));
        }
    });
    (removed.granted(), added.granted())
}

// === impl Found ===

impl Found {
    fn names(&mut self, ours: &BTreeMap<&str, Ports>, theirs: &BTreeMap<&str, Ports>) {
        let patterns: Vec<(WildcardPattern, &Ports)> = theirs
            .iter()
            .filter_map(|(text, ports)| Some((WildcardPattern::try_from(*text).ok()?, ports)))
            .collect();
        let mut index = Wildcards::default();
        for (pattern, ports) in &patterns {
            index.insert(pattern, *ports);
        }
        for (name, ports) in ours {
            let mut rest = match theirs.get(name) {
                Some(theirs) => minus(ports, theirs),
                None => ports.clone(),
            };
            if rest.is_empty() {
                continue;
            }
            if let Ok(pattern) = NamePattern::try_from(*name) {
                for (_, covering) in index.covering(&pattern) {
                    rest = minus(&rest, covering);
                }
            }
            self.name(name, rest);
        }
    }

    fn name(&mut self, name: &str, ports: Ports) {
        if !ports.is_empty() {
            self.names.entry(ports).or_default().insert(name.to_owned());
        }
    }

    fn run(&mut self, run: Run, ports: Ports) {
        if !ports.is_empty() {
            self.runs.entry(ports).or_default().push(run);
        }
    }

    fn granted(self) -> Vec<Granted> {
        let all: BTreeSet<&Ports> = self.names.keys().chain(self.runs.keys()).collect();
        let ranges = |ports: &PortRanges| ports.ranges().iter().map(ToString::to_string).collect();
        all.into_iter()
            .map(|ports| Granted {
                tcp: ranges(&ports.tcp),
                udp: ranges(&ports.udp),
                protocols: others(ports),
                names: self.names.get(ports).into_iter().flatten().cloned().collect(),
                prefixes: self.runs.get(ports).map(Runs::prefixes).unwrap_or_default(),
            })
            .collect()
    }
}

// === helpers ===

/// What sets that take part grant at each name that they list.
fn ports_of_names<'a>(sets: &[&'a SetView]) -> BTreeMap<&'a str, Ports> {
    let mut names: BTreeMap<&str, Ports> = BTreeMap::new();
    for set in sets.iter().filter(|set| set.state == RuleState::Enabled) {
        for name in &set.names {
            match names.get_mut(name.as_str()) {
                Some(ports) => *ports = union(ports, &set.ports),
                None => {
                    names.insert(name, set.ports.clone());
                }
            }
        }
    }
    names
}

fn compare_runs(sides: &Sides<'_>, mut each: impl FnMut(Run, &Ports, &Ports)) {
    walk_ports(sides, |run, _, old, new| each(run, old, new));
}

/// Goes over the addresses with what each side grants there. What the same sets hold is worked
/// out once.
fn walk_ports(
    sides: &Sides<'_>,
    mut each: impl FnMut(Run, &BTreeMap<usize, usize>, &Ports, &Ports),
) {
    let behind = sides.old.len();
    let mut known: BTreeMap<Vec<usize>, (Ports, Ports)> = BTreeMap::new();
    walk(sides.prefixes(), |run, active| {
        let key: Vec<usize> = active.keys().copied().collect();
        let (old, new) = known.entry(key).or_insert_with(|| {
            let ports =
                |places: &mut dyn Iterator<Item = &usize>, sets: &[&SetView], from: usize| {
                    places
                        .filter_map(|place| sets.get(place - from))
                        .filter(|set| set.state == RuleState::Enabled)
                        .fold(Ports::default(), |ports, set| union(&ports, &set.ports))
                };
            (
                ports(&mut active.range(..behind).map(|(place, _)| place), &sides.old, 0),
                ports(&mut active.range(behind..).map(|(place, _)| place), &sides.new, behind),
            )
        });
        each(run, active, old, new);
    });
}
