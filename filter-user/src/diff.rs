// SPDX-License-Identifier: MIT OR Apache-2.0
//! What differs between two pages, feeds or policies.
//!
//! Both sides are brought into one form ([`View`]), their sets are paired, and each pair is compared
//! by what it covers: adjacent and nested prefixes are the addresses that they hold, port lists
//! the ports. Names are compared as they are written; one that went away while a wildcard of the
//! same set still covers it is listed all the same, and the wildcard with it.
//!
//! Beside that stands what is granted on one side only, whatever set it is in: a rule that is
//! split, renamed or sorted in another way changes nothing there. Neither side of that knows of
//! clients; who may use a rule is compared rule by rule.
//!
//! What a set is called makes no difference, nor do notes, the gateway's own settings and inbound
//! services.
//!
//! Everything here is pure, and takes n log n steps for n endpoints.

mod grants;
mod matching;
mod ranges;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    grants::Granted,
    view::{Identity, SetView, View},
};
use self::{
    matching::Unit,
    ranges::{Runs, intersection, minus, names_minus, others, union, walk},
};
use crate::{
    document::Stated,
    policy::{
        NamePattern, Ports, RuleState, WildcardPattern,
        wildcards::{Alike, Wildcards},
    },
};

/// What differs. Names and order of fields are stable; `--json` prints it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// Whether nothing differs.
    pub equal: bool,
    /// How much differs.
    pub counts: Counts,
    /// The sets that differ, by number and title.
    pub sets: Vec<SetDifference>,
    /// Endpoints that one set lost and another one got. They stand with both sets too.
    pub moved: Vec<Moved>,
    /// What only OLD grants, over all sets.
    pub granted_only_by_old: Vec<Granted>,
    /// What only NEW grants, over all sets.
    pub granted_only_by_new: Vec<Granted>,
}

/// Sums over all sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Sets of OLD; several with one number count as one.
    pub sets_old: usize,
    /// Sets of NEW.
    pub sets_new: usize,
    /// Sets that only NEW has.
    pub sets_added: usize,
    /// Sets that only OLD has.
    pub sets_removed: usize,
    /// Sets that differ.
    pub sets_changed: usize,
    /// Names that sets got.
    pub names_added: usize,
    /// Names that sets lost.
    pub names_removed: usize,
    /// Prefixes that sets got.
    pub prefixes_added: usize,
    /// Prefixes that sets lost.
    pub prefixes_removed: usize,
    /// Endpoints that went from one set to another.
    pub moved: usize,
}

/// What differs in a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetDifference {
    /// Its number and what it is for, or the rule's name; NEW's where both have it.
    pub set: String,
    /// The vendor's number.
    pub id: Option<u32>,
    /// Whether one side lacks it.
    pub change: Change,
    /// Where it stands in OLD: `page.md:70`.
    pub old: Vec<String>,
    /// Where it stands in NEW.
    pub new: Vec<String>,
    /// Names that only NEW lists; `self` among them.
    pub names_added: Vec<String>,
    /// Names that only OLD lists.
    pub names_removed: Vec<String>,
    /// Addresses that only NEW covers, as the fewest prefixes.
    #[schemars(with = "Vec<String>")]
    pub prefixes_added: Vec<IpNet>,
    /// Addresses that only OLD covers, as the fewest prefixes.
    #[schemars(with = "Vec<String>")]
    pub prefixes_removed: Vec<IpNet>,
    /// TCP ports that only NEW has.
    pub tcp_added: Vec<String>,
    /// TCP ports that only OLD has.
    pub tcp_removed: Vec<String>,
    /// UDP ports that only NEW has.
    pub udp_added: Vec<String>,
    /// UDP ports that only OLD has.
    pub udp_removed: Vec<String>,
    /// `icmp` and IP protocols that only NEW has.
    pub protocols_added: Vec<String>,
    /// `icmp` and IP protocols that only OLD has.
    pub protocols_removed: Vec<String>,
    /// Whether it is required, where that changed or one side lacks the set.
    pub required: Option<Changed<bool>>,
    /// Whether it is used, where that changed or one side lacks the set: a rule can be disabled, a page can lack ports.
    pub enabled: Option<Changed<bool>>,
    /// The vendor's category, where that changed or one side lacks the set.
    pub category: Option<Changed<String>>,
    /// Whether it is reachable over ExpressRoute, where that changed or one side lacks the set.
    pub express_route: Option<Changed<bool>>,
    /// A rule's groups of clients, empty for every client, where that changed.
    pub from: Option<Changed<Vec<String>>>,
    /// Names of `names_added` that a wildcard of OLD's set covers already, and names of
    /// `names_removed` that one of NEW's still covers.
    pub covered: Vec<Covered>,
    /// Of a set in several parts: what a part with other ports lost.
    pub parts_removed: Vec<Granted>,
    /// Of a set in several parts: what a part with other ports got.
    pub parts_added: Vec<Granted>,
}

/// Which side has a set.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only NEW.
    Added,
    /// Only OLD.
    Removed,
    /// Both.
    Changed,
}

/// Two values that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed<T> {
    /// OLD's; `null` where only NEW has the set.
    pub old: Option<T>,
    /// NEW's; `null` where only OLD has the set.
    pub new: Option<T>,
}

/// A name that a wildcard of the same set covers on the other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Covered {
    /// The name that is listed on one side.
    pub name: String,
    /// The wildcard that covers it on the other side.
    pub by: String,
}

/// An endpoint that went from one set to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    /// The name, or the prefix.
    pub endpoint: String,
    /// OLD's set.
    pub from: String,
    /// NEW's set.
    pub to: String,
}

/// An endpoint in more sets than this is not called moved: it is in a list of everything.
const MOST_MOVES: usize = 8;

/// Compares two sides.
#[must_use]
pub fn compare(old: &View, new: &View) -> Difference {
    let units = matching::units(old, new);
    let mut compared: Vec<SetDifference> =
        units.iter().map(|unit| compare_set(&Sides::new(old, new, unit))).collect();
    let mut counts = Counts {
        sets_old: units.iter().filter(|unit| !unit.old.is_empty()).count(),
        sets_new: units.iter().filter(|unit| !unit.new.is_empty()).count(),
        ..Counts::default()
    };
    compared.retain(SetDifference::is_difference);
    compared.sort_by(|a, b| {
        let key = |set: &SetDifference| (set.id.is_none(), set.id);
        key(a)
            .cmp(&key(b))
            .then_with(|| (&a.set, a.change, &a.old).cmp(&(&b.set, b.change, &b.old)))
    });
    for set in &compared {
        match set.change {
            Change::Added => counts.sets_added += 1,
            Change::Removed => counts.sets_removed += 1,
            Change::Changed => counts.sets_changed += 1,
        }
        counts.names_added += set.names_added.len();
        counts.names_removed += set.names_removed.len();
        counts.prefixes_added += set.prefixes_added.len();
        counts.prefixes_removed += set.prefixes_removed.len();
    }
    let moved = moved(&compared);
    counts.moved = moved.len();
    let all = |view: &View| (0..view.sets.len()).collect();
    let all = Unit { old: all(old), new: all(new) };
    let (granted_only_by_old, granted_only_by_new) =
        grants::difference(&Sides::new(old, new, &all));
    Difference {
        equal: compared.is_empty()
            && granted_only_by_old.is_empty()
            && granted_only_by_new.is_empty(),
        counts,
        sets: compared,
        moved,
        granted_only_by_old,
        granted_only_by_new,
    }
}

/// The sets of a unit.
struct Sides<'a> {
    old: Vec<&'a SetView>,
    new: Vec<&'a SetView>,
}

// === impl Sides ===

impl<'a> Sides<'a> {
    fn new(old: &'a View, new: &'a View, unit: &Unit) -> Self {
        Self {
            old: unit.old.iter().filter_map(|place| old.sets.get(*place)).collect(),
            new: unit.new.iter().filter_map(|place| new.sets.get(*place)).collect(),
        }
    }

    /// Each prefix with its set; the sets of the new side are numbered behind those of the old.
    fn prefixes(&self) -> impl Iterator<Item = (&'a IpNet, usize)> {
        let sets = self.old.iter().chain(&self.new).copied();
        sets.enumerate().flat_map(|(place, set)| set.prefixes.iter().map(move |at| (at, place)))
    }

    /// Runs of addresses that only one side has.
    fn coverage(&self) -> (Vec<IpNet>, Vec<IpNet>) {
        let (mut removed, mut added) = (Runs::default(), Runs::default());
        let behind = self.old.len();
        walk(self.prefixes(), |run, active| {
            match (active.range(..behind).next(), active.range(behind..).next()) {
                (Some(_), None) => removed.push(run),
                (None, Some(_)) => added.push(run),
                _ => {}
            }
        });
        (removed.prefixes(), added.prefixes())
    }
}

// === impl SetDifference ===

impl SetDifference {
    fn is_difference(&self) -> bool {
        let texts = [
            &self.names_added,
            &self.names_removed,
            &self.tcp_added,
            &self.tcp_removed,
            &self.udp_added,
            &self.udp_removed,
            &self.protocols_added,
            &self.protocols_removed,
        ];
        self.change != Change::Changed
            || texts.iter().any(|list| !list.is_empty())
            || !self.prefixes_added.is_empty()
            || !self.prefixes_removed.is_empty()
            || self.required.is_some()
            || self.enabled.is_some()
            || self.category.is_some()
            || self.express_route.is_some()
            || self.from.is_some()
            || !self.parts_added.is_empty()
            || !self.parts_removed.is_empty()
    }
}

// === helpers ===

fn compare_set(sides: &Sides<'_>) -> SetDifference {
    let (old, new) = (&sides.old, &sides.new);
    let names = |sets: &[&SetView]| -> BTreeSet<String> {
        sets.iter().flat_map(|set| set.names.iter().cloned()).collect()
    };
    let (old_names, new_names) = (names(old), names(new));
    let (names_removed, names_added) =
        (names_minus(&old_names, &new_names), names_minus(&new_names, &old_names));
    let (prefixes_removed, prefixes_added) = sides.coverage();
    let ports = |sets: &[&SetView]| {
        sets.iter().fold(Ports::default(), |ports, set| union(&ports, &set.ports))
    };
    let (old_ports, new_ports) = (ports(old), ports(new));
    let (ports_removed, ports_added) =
        (minus(&old_ports, &new_ports), minus(&new_ports, &old_ports));
    let first = new.first().or(old.first());
    let change = match (old.is_empty(), new.is_empty()) {
        (true, _) => Change::Added,
        (_, true) => Change::Removed,
        _ => Change::Changed,
    };
    let mut covered = covered(&names_removed, &new_names);
    covered.extend(self::covered(&names_added, &old_names));
    covered.sort();
    let enabled = changed(change, is_enabled(old), is_enabled(new));
    // One part on each side is its endpoints times its ports, and there is nothing more to say.
    let several = change == Change::Changed && (old.len() > 1 || new.len() > 1);
    let (mut parts_removed, mut parts_added) = (Vec::new(), Vec::new());
    if several && enabled.is_none() {
        (parts_removed, parts_added) = grants::within(sides, &intersection(&old_ports, &new_ports));
    }
    let ranges = |ports: &crate::policy::PortRanges| {
        ports.ranges().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    SetDifference {
        set: first.map(|set| set.title.clone()).unwrap_or_default(),
        id: new.iter().chain(old).find_map(|set| set.id()),
        change,
        old: old.iter().map(|set| set.place.clone()).collect(),
        new: new.iter().map(|set| set.place.clone()).collect(),
        names_added,
        names_removed,
        prefixes_added,
        prefixes_removed,
        tcp_added: ranges(&ports_added.tcp),
        tcp_removed: ranges(&ports_removed.tcp),
        udp_added: ranges(&ports_added.udp),
        udp_removed: ranges(&ports_removed.udp),
        protocols_added: others(&ports_added),
        protocols_removed: others(&ports_removed),
        required: changed(change, stated(old, |set| set.required), stated(new, |set| set.required)),
        enabled,
        category: changed(change, category(old), category(new)),
        express_route: changed(
            change,
            stated(old, |set| set.express_route),
            stated(new, |set| set.express_route),
        ),
        from: changed(change, clients(old), clients(new)),
        covered,
        parts_removed,
        parts_added,
    }
}

/// Two values that differ. That a page doesn't say something is no difference to one that does.
fn changed<T: PartialEq>(change: Change, old: Option<T>, new: Option<T>) -> Option<Changed<T>> {
    let known = match change {
        Change::Added => new.is_some(),
        Change::Removed => old.is_some(),
        Change::Changed => old.is_some() && new.is_some() && old != new,
    };
    known.then_some(Changed { old, new })
}

fn is_enabled(sets: &[&SetView]) -> Option<bool> {
    (!sets.is_empty()).then(|| sets.iter().any(|set| set.state == RuleState::Enabled))
}

/// What the sets say: yes where any does.
fn stated(sets: &[&SetView], of: impl Fn(&SetView) -> Stated) -> Option<bool> {
    sets.iter().filter_map(|set| of(set).as_option()).max()
}

fn category(sets: &[&SetView]) -> Option<String> {
    let category = sets.iter().filter_map(|set| set.category).min();
    category.map(|category| category.as_str().to_owned())
}

fn clients(sets: &[&SetView]) -> Option<Vec<String>> {
    let mut all = BTreeSet::new();
    for set in sets {
        let from = set.from.as_ref()?;
        if from.is_empty() {
            return Some(Vec::new());
        }
        all.extend(from.iter().cloned());
    }
    (!sets.is_empty()).then(|| all.into_iter().collect())
}

/// The names that a wildcard among the others covers.
fn covered(names: &[String], others: &BTreeSet<String>) -> Vec<Covered> {
    if names.is_empty() {
        return Vec::new();
    }
    let patterns: Vec<WildcardPattern> =
        others.iter().filter_map(|text| WildcardPattern::try_from(text.as_str()).ok()).collect();
    let mut index = Wildcards::new(Alike::FEW);
    for pattern in &patterns {
        index.insert(pattern, ());
    }
    names
        .iter()
        .filter_map(|name| {
            let pattern = NamePattern::try_from(name.as_str()).ok()?;
            let by = index.covering(&pattern).map(|(by, ())| by.as_str()).min()?;
            Some(Covered { name: name.clone(), by: by.to_owned() })
        })
        .collect()
}

/// Endpoints that one set lost and another got.
fn moved(sets: &[SetDifference]) -> Vec<Moved> {
    let mut moves = BTreeSet::new();
    let mut pair = |endpoint: &str, from: &[usize], to: &[usize]| {
        if from.len().max(to.len()) > MOST_MOVES {
            return;
        }
        let title = |place: usize| sets.get(place).map(|set| set.set.clone()).unwrap_or_default();
        for from in from {
            for to in to {
                let endpoint = endpoint.to_owned();
                moves.insert(Moved { endpoint, from: title(*from), to: title(*to) });
            }
        }
    };
    let mut names: BTreeMap<&str, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (place, set) in sets.iter().enumerate() {
        for name in &set.names_removed {
            names.entry(name).or_default().0.push(place);
        }
        for name in &set.names_added {
            names.entry(name).or_default().1.push(place);
        }
    }
    for (name, (from, to)) in names {
        pair(name, &from, &to);
    }
    let behind = sets.len();
    let lost = sets
        .iter()
        .enumerate()
        .flat_map(|(place, set)| set.prefixes_removed.iter().map(move |prefix| (prefix, place)));
    let got = sets.iter().enumerate().flat_map(|(place, set)| {
        set.prefixes_added.iter().map(move |prefix| (prefix, behind + place))
    });
    let mut prefixes: BTreeMap<(Vec<usize>, Vec<usize>), Runs> = BTreeMap::new();
    walk(lost.chain(got), |run, active| {
        let from: Vec<usize> =
            active.range(..behind).map(|(place, _)| *place).take(MOST_MOVES + 1).collect();
        let to: Vec<usize> =
            active.range(behind..).map(|(place, _)| place - behind).take(MOST_MOVES + 1).collect();
        if !from.is_empty() && !to.is_empty() {
            prefixes.entry((from, to)).or_default().push(run);
        }
    });
    for ((from, to), runs) in &prefixes {
        for prefix in runs.prefixes() {
            pair(&prefix.to_string(), from, to);
        }
    }
    moves.into_iter().collect()
}

#[cfg(test)]
mod tests;
