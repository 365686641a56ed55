// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is granted, whatever set it is in.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    SetView, Sides,
    ranges::{Run, Runs, intersection, minus, others, union, walk},
};
use crate::policy::{
    NamePattern, PortRanges, Ports, RuleState, WildcardPattern,
    wildcards::{Alike, Wildcards},
};

/// Endpoints and the ports that one side grants there and the other doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    #[schemars(with = "Vec<String>")]
    pub prefixes: Vec<IpNet>,
}

/// The ports at each endpoint that only one side grants, by ports.
#[derive(Default)]
struct Found {
    names: BTreeMap<Ports, BTreeSet<String>>,
    runs: BTreeMap<Ports, Runs>,
}

/// Which sides list an address, whatever they grant there.
#[derive(Clone, Copy)]
struct Held {
    old: bool,
    new: bool,
}

/// What only the old and what only the new side grants.
///
/// A name that the other side covers with a wildcard is granted there, with the wildcard's ports.
pub(super) fn difference(sides: &Sides<'_>) -> (Vec<Granted>, Vec<Granted>) {
    let (old_names, new_names) = (ports_of_names(&sides.old), ports_of_names(&sides.new));
    let (mut removed, mut added) = (Found::default(), Found::default());
    removed.names(&old_names, &new_names);
    added.names(&new_names, &old_names);
    walk_ports(sides, |run, _, old, new| {
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
    walk_ports(sides, |run, held, old, new| {
        if held.old && held.new {
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
        let mut index = Wildcards::new(Alike::FEW);
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

/// Goes over the addresses with who lists them and what each side grants there.
///
/// Sets with the same ports count as one, and what the same sets hold is worked out once.
fn walk_ports(sides: &Sides<'_>, mut each: impl FnMut(Run, Held, &Ports, &Ports)) {
    let none = Ports::default();
    let granted = |set: &'_ SetView| match set.state {
        RuleState::Enabled => set.ports.clone(),
        RuleState::Disabled => none.clone(),
    };
    // The old side's kinds are numbered first.
    let mut kinds: Vec<Ports> = Vec::new();
    let mut of_set: Vec<usize> = Vec::new();
    let mut behind = 0;
    for side in [&sides.old, &sides.new] {
        behind = kinds.len();
        let mut numbers: BTreeMap<Ports, usize> = BTreeMap::new();
        for set in side {
            let ports = granted(set);
            let number = *numbers.entry(ports).or_insert_with_key(|ports| {
                kinds.push(ports.clone());
                kinds.len() - 1
            });
            of_set.push(number);
        }
    }
    let prefixes = sides.prefixes().filter_map(|(prefix, set)| Some((prefix, *of_set.get(set)?)));
    let mut known: BTreeMap<Vec<usize>, (Ports, Ports)> = BTreeMap::new();
    walk(prefixes, |run, active| {
        let key: Vec<usize> = active.keys().copied().collect();
        let held = Held {
            old: key.first().is_some_and(|kind| *kind < behind),
            new: key.last().is_some_and(|kind| *kind >= behind),
        };
        let (old, new) = known.entry(key).or_insert_with_key(|key| {
            let sum = |kinds_of: &dyn Fn(usize) -> bool| {
                let held = key.iter().filter(|kind| kinds_of(**kind));
                held.filter_map(|kind| kinds.get(*kind))
                    .fold(none.clone(), |all, ports| union(&all, ports))
            };
            (sum(&|kind| kind < behind), sum(&|kind| kind >= behind))
        });
        each(run, held, old, new);
    });
}
