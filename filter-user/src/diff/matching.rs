// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which set of one side is which of the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ranges::walk,
    view::{Identity, SetView, View},
};

/// Sets that are taken for the same thing, by their places in the two views; one side may be
/// empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) old: Vec<usize>,
    pub(super) new: Vec<usize>,
}

/// What is looked at to find a set on the other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Rule(&'a str),
    Id(u32, Option<&'a str>),
    Words(&'a str, &'a str, Option<&'a str>),
}

/// An endpoint that so many sets of a side list says little about which is which.
const TOO_COMMON: usize = 16;

/// Pairs the sets: rules by name, sets by number (all that have it are one), then by heading,
/// description and group, and last those that have most endpoints in common, at least half as
/// many as they have on average.
pub(super) fn units(old: &View, new: &View) -> Vec<Unit> {
    let mut open = Open {
        old: (0..old.sets.len()).collect(),
        new: (0..new.sets.len()).collect(),
        units: Vec::new(),
    };
    let both_pages = !old.sets.iter().chain(&new.sets).any(SetView::is_rule);
    open.together(old, new, |set| match &set.identity {
        Identity::Rule(name) => Some(Key::Rule(name)),
        Identity::Page { .. } => None,
    });
    open.together(old, new, |set| match &set.identity {
        Identity::Page { id, group, .. } if both_pages => Some(Key::Id((*id)?, group.as_deref())),
        _ => None,
    });
    // Numbers in the names of two rules may well be about different things.
    let both_rules = |side: &View| side.sets.iter().all(SetView::is_rule);
    if !(both_rules(old) && both_rules(new)) {
        open.together(old, new, |set| Some(Key::Id(set.id()?, None)));
    }
    let common = Overlaps::new(old, new, &open);
    open.most_alike(&common, |left, right| {
        let (left, right) = (old.sets.get(left), new.sets.get(right));
        left.and_then(words).is_some_and(|key| Some(key) == right.and_then(words))
    });
    open.by_words(old, new);
    open.most_alike(&common, |left, right| {
        let size =
            |set: Option<&SetView>| set.map_or(0, |set| set.names.len() + set.prefixes.len());
        let sizes = size(old.sets.get(left)) + size(new.sets.get(right));
        common.get(left, right) * 4 >= sizes
    });
    if !(both_rules(old) && both_rules(new)) {
        open.broad(old, new);
    }
    let rest = open.old.into_iter().map(|set| Unit { old: vec![set], new: Vec::new() });
    let mut units = open.units;
    units.extend(rest);
    units.extend(open.new.into_iter().map(|set| Unit { old: Vec::new(), new: vec![set] }));
    units
}

/// The sets that are in no unit yet, and the units.
struct Open {
    old: BTreeSet<usize>,
    new: BTreeSet<usize>,
    units: Vec<Unit>,
}

/// A unit's sets of one side.
type OfUnit = fn(&mut Unit) -> &mut Vec<usize>;

/// How much two sets have in common.
struct Overlaps(BTreeMap<(usize, usize), usize>);

// === impl Open ===

impl Open {
    /// Makes one unit of all sets with the same key, where both sides have it.
    fn together<'a>(
        &mut self,
        old: &'a View,
        new: &'a View,
        key: impl Fn(&'a SetView) -> Option<Key<'a>>,
    ) {
        let mut units: BTreeMap<Key<'a>, Unit> = BTreeMap::new();
        for place in &self.old {
            if let Some(key) = old.sets.get(*place).and_then(&key) {
                units.entry(key).or_default().old.push(*place);
            }
        }
        for place in &self.new {
            if let Some(key) = new.sets.get(*place).and_then(&key) {
                units.entry(key).or_default().new.push(*place);
            }
        }
        for unit in units.into_values() {
            if !unit.old.is_empty() && !unit.new.is_empty() {
                self.take(unit);
            }
        }
    }

    /// Sets of one heading and description that have no endpoint in common: paired in their order
    /// where both sides have as many of them.
    fn by_words(&mut self, old: &View, new: &View) {
        let mut units: BTreeMap<Key<'_>, Unit> = BTreeMap::new();
        for place in &self.old {
            if let Some(key) = old.sets.get(*place).and_then(words) {
                units.entry(key).or_default().old.push(*place);
            }
        }
        for place in &self.new {
            if let Some(key) = new.sets.get(*place).and_then(words) {
                units.entry(key).or_default().new.push(*place);
            }
        }
        for unit in units.into_values() {
            if unit.old.len() == unit.new.len() {
                for (left, right) in unit.old.into_iter().zip(unit.new) {
                    if !numbered(old.sets.get(left), new.sets.get(right)) {
                        self.take(Unit { old: vec![left], new: vec![right] });
                    }
                }
            }
        }
    }

    /// Pairs sets that have endpoints in common, most first.
    fn most_alike(&mut self, common: &Overlaps, fits: impl Fn(usize, usize) -> bool) {
        let mut pairs: Vec<(usize, usize, usize)> = common
            .0
            .iter()
            .filter(|((left, right), _)| self.old.contains(left) && self.new.contains(right))
            .map(|((left, right), common)| (*common, *left, *right))
            .collect();
        // Ties are broken so that swapping the sides swaps the pairs.
        pairs.sort_by_key(|(common, left, right)| {
            (std::cmp::Reverse(*common), left + right, left.abs_diff(*right))
        });
        for (_, left, right) in pairs {
            if self.old.contains(&left) && self.new.contains(&right) && fits(left, right) {
                self.take(Unit { old: vec![left], new: vec![right] });
            }
        }
    }

    /// What the importer wrote into a rule of its own, because a policy has to be told to grant it,
    /// belongs to the same set of the page as the rule beside it.
    fn broad(&mut self, old: &View, new: &View) {
        let sides: [(&View, &mut BTreeSet<usize>, OfUnit); 2] = [
            (old, &mut self.old, |unit| &mut unit.old),
            (new, &mut self.new, |unit| &mut unit.new),
        ];
        for (view, open, of_unit) in sides {
            let name = |place: &usize| match view.sets.get(*place).map(|set| &set.identity) {
                Some(Identity::Rule(name)) => Some(name.as_str()),
                _ => None,
            };
            let mut unit_of: BTreeMap<&str, usize> = BTreeMap::new();
            for (number, unit) in self.units.iter_mut().enumerate() {
                unit_of.extend(of_unit(unit).iter().filter_map(|at| Some((name(at)?, number))));
            }
            open.retain(|place| {
                let beside = name(place).and_then(|name| name.strip_suffix("-broad"));
                let number = beside.and_then(|beside| unit_of.get(beside));
                match number.and_then(|number| self.units.get_mut(*number)) {
                    Some(unit) => {
                        of_unit(unit).push(*place);
                        false
                    }
                    None => true,
                }
            });
        }
    }

    fn take(&mut self, unit: Unit) {
        for place in &unit.old {
            self.old.remove(place);
        }
        for place in &unit.new {
            self.new.remove(place);
        }
        self.units.push(unit);
    }
}

// === impl Overlaps ===

impl Overlaps {
    fn new(old: &View, new: &View, open: &Open) -> Self {
        let mut common: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let mut count = |left: &[usize], right: &[usize]| {
            if left.len() <= TOO_COMMON && right.len() <= TOO_COMMON {
                for left in left {
                    for right in right {
                        *common.entry((*left, *right)).or_insert(0) += 1;
                    }
                }
            }
        };
        let sets = || {
            let old = open.old.iter().filter_map(|place| Some((*place, old.sets.get(*place)?)));
            let new = open.new.iter().filter_map(|place| Some((*place, new.sets.get(*place)?)));
            (old, new)
        };
        let (lefts, rights) = sets();
        let mut names: BTreeMap<&str, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (place, set) in lefts {
            for name in &set.names {
                names.entry(name).or_default().0.push(place);
            }
        }
        for (place, set) in rights {
            for name in &set.names {
                names.entry(name).or_default().1.push(place);
            }
        }
        for (left, right) in names.values() {
            count(left, right);
        }
        let (lefts, rights) = sets();
        // The owners of the second side are numbered behind those of the first.
        let behind = old.sets.len();
        let prefixes = lefts.chain(rights.map(|(place, set)| (place + behind, set)));
        let prefixes = prefixes
            .flat_map(|(place, set)| set.prefixes.iter().map(move |prefix| (prefix, place)));
        walk(prefixes, |_, active| {
            let left: Vec<usize> =
                active.range(..behind).map(|(place, _)| *place).take(TOO_COMMON + 1).collect();
            let right: Vec<usize> = active
                .range(behind..)
                .map(|(place, _)| place - behind)
                .take(TOO_COMMON + 1)
                .collect();
            count(&left, &right);
        });
        common.retain(|(left, right), _| !numbered(old.sets.get(*left), new.sets.get(*right)));
        Self(common)
    }

    fn get(&self, left: usize, right: usize) -> usize {
        self.0.get(&(left, right)).copied().unwrap_or_default()
    }
}

// === helpers ===

/// Whether a vendor gave both a number: it isn't the same one here, and so they aren't the same.
fn numbered(left: Option<&SetView>, right: Option<&SetView>) -> bool {
    let has_number = |set: Option<&SetView>| {
        set.is_some_and(|set| matches!(set.identity, Identity::Page { id: Some(_), .. }))
    };
    has_number(left) && has_number(right)
}

fn words(set: &SetView) -> Option<Key<'_>> {
    match &set.identity {
        Identity::Page { section, description, group, .. } => {
            Some(Key::Words(section, description, group.as_deref()))
        }
        Identity::Rule(_) => None,
    }
}
