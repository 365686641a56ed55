// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a policy wants to know of names.

use std::collections::BTreeMap;

use crate::policy::{Destination, Fqdn, NamePattern, Policy, SpecialPurpose, index::NameIndex};

/// The names that rules name and those that their wildcards match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    index: NameIndex<WantedBy>,
    exact: BTreeMap<Fqdn, SpecialPurpose>,
}

/// A rule that wants a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WantedBy {
    rule: RuleNumber,
    special: SpecialPurpose,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Named,
    Matched,
}

/// A rule, by its place among those that take part. It means nothing beyond one [`Wanted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RuleNumber(u32);

/// What the policy says of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Whether any rule lets it have special-purpose addresses.
    pub(super) special: SpecialPurpose,
    /// The rules whose wildcards it matches, in order.
    pub(super) matched: Vec<RuleNumber>,
}

// === impl Wanted ===

impl From<&Policy> for Wanted {
    fn from(policy: &Policy) -> Self {
        Self::of(&[policy])
    }
}

impl Wanted {
    /// What any of some policies wants to know.
    #[must_use]
    pub fn of(policies: &[&Policy]) -> Self {
        let mut index = NameIndex::default();
        let rules = policies.iter().flat_map(|policy| policy.enabled_rules());
        for (number, rule) in (0..).zip(rules) {
            for (destination, _) in &rule.to {
                let Destination::Name(pattern) = destination else { continue };
                let how = match pattern {
                    NamePattern::Exact(_) => How::Named,
                    NamePattern::Wildcard(_) => How::Matched,
                };
                let by = WantedBy { rule: RuleNumber(number), special: rule.private, how };
                index.insert(pattern, by);
            }
        }
        let mut exact = BTreeMap::new();
        for (name, special) in policies.iter().flat_map(|policy| policy.exact_names()) {
            let entry = exact.entry(name).or_insert(special);
            if special == SpecialPurpose::Allowed {
                *entry = special;
            }
        }
        Self { index, exact }
    }

    /// The names that are looked up without anybody asking, each with whether a rule that names it
    /// lets it have special-purpose addresses.
    #[must_use]
    pub fn exact(&self) -> &BTreeMap<Fqdn, SpecialPurpose> {
        &self.exact
    }

    /// Whether any rule names this name or matches it.
    #[must_use]
    pub fn covers(&self, name: &Fqdn) -> bool {
        self.index.matching(name).next().is_some()
    }

    /// What the policy says of a name; none if no rule covers it.
    pub(super) fn terms(&self, name: &Fqdn) -> Option<Terms> {
        let mut by = self.index.matching(name).peekable();
        by.peek()?;
        let mut terms = Terms { special: SpecialPurpose::Refused, matched: Vec::new() };
        for WantedBy { rule, special, how } in by {
            if *special == SpecialPurpose::Allowed {
                terms.special = SpecialPurpose::Allowed;
            }
            if *how == How::Matched {
                terms.matched.push(*rule);
            }
        }
        terms.matched.sort_unstable();
        terms.matched.dedup();
        Some(terms)
    }
}

#[cfg(test)]
impl Wanted {
    /// Exact names, as if each stood in a rule of its own.
    pub(crate) fn only_exact(names: &BTreeMap<Fqdn, SpecialPurpose>) -> Self {
        let mut index = NameIndex::default();
        for (number, (name, special)) in (0..).zip(names) {
            let pattern = NamePattern::Exact(name.clone());
            let by = WantedBy { rule: RuleNumber(number), special: *special, how: How::Named };
            index.insert(&pattern, by);
        }
        Self { index, exact: names.clone() }
    }

    /// These, and wildcards, each in a rule of its own.
    pub(crate) fn with_wildcards(mut self, patterns: &[(&str, SpecialPurpose)]) -> Self {
        let first = u32::try_from(self.exact.len()).unwrap();
        for (number, (text, special)) in (first..).zip(patterns) {
            let pattern = NamePattern::try_from(*text).unwrap();
            let by = WantedBy { rule: RuleNumber(number), special: *special, how: How::Matched };
            self.index.insert(&pattern, by);
        }
        self
    }
}
