// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which wildcards of many cover a name, without trying each.

use std::collections::{BTreeMap, HashMap};

use super::{Fqdn, NamePattern, WildcardPattern};

/// Wildcards, each with something that belongs to it, found by the labels that they end in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wildcards<T> {
    /// The labels behind the last one with a star, and then the text in front of that label's
    /// first star: whatever a pattern covers has both.
    by_tail: HashMap<Box<str>, ByHead<T>>,
    alike: Alike,
}

type ByHead<T> = BTreeMap<Box<str>, Vec<(WildcardPattern, T)>>;

/// How many patterns are kept that only differ behind their star (`*a.example.com`,
/// `*b.example.com`), and are each tried for a name; real lists have a handful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alike {
    /// Each.
    All,
    /// No more than this, so that a name costs little whatever the list: for hints only.
    AtMost(usize),
}

// === impl Alike ===

impl Alike {
    /// Enough for real lists.
    pub const FEW: Self = Self::AtMost(256);
}

// === impl Wildcards ===

impl<T> Wildcards<T> {
    /// An empty set.
    #[must_use]
    pub fn new(alike: Alike) -> Self {
        Self { by_tail: HashMap::new(), alike }
    }

    /// Adds a pattern.
    pub fn insert(&mut self, pattern: &WildcardPattern, of: T) {
        let (head, tail) = ends(pattern.as_str());
        let by_head = self.by_tail.entry(tail.into()).or_default();
        let alike = by_head.entry(head.into()).or_default();
        let most = match self.alike {
            Alike::All => usize::MAX,
            Alike::AtMost(most) => most,
        };
        if alike.len() < most {
            alike.push((pattern.clone(), of));
        }
    }

    /// The patterns that cover a name or pattern, itself among them if it was added.
    pub fn covering<'s>(
        &'s self,
        name: &'s NamePattern,
    ) -> impl Iterator<Item = (&'s WildcardPattern, &'s T)> {
        self.candidates(name.as_str()).filter(|(pattern, _)| pattern.covers(name))
    }

    /// The patterns that a name matches.
    pub fn matching<'s>(
        &'s self,
        name: &'s Fqdn,
    ) -> impl Iterator<Item = (&'s WildcardPattern, &'s T)> {
        self.candidates(name.as_str()).filter(|(pattern, _)| pattern.matches(name))
    }

    /// The patterns that have the right beginning and end.
    fn candidates<'s>(
        &'s self,
        text: &'s str,
    ) -> impl Iterator<Item = (&'s WildcardPattern, &'s T)> {
        let dots = text.match_indices('.').map(|(dot, _)| dot);
        dots.filter_map(move |dot| {
            let heads = self.by_tail.get(text.get(dot + 1..)?)?;
            let label = text.get(..dot)?;
            let label = label.rsplit_once('.').map_or(label, |(_, label)| label);
            Some((heads, label))
        })
        .flat_map(|(heads, label)| {
            (0..=label.len()).filter_map(move |length| heads.get(label.get(..length)?))
        })
        .flatten()
        .map(|(pattern, of)| (pattern, of))
    }
}

// === helpers ===

/// The text in front of the first star of the last label that has one, and the labels behind it.
fn ends(text: &str) -> (&str, &str) {
    let Some((front, behind)) = text.rsplit_once('*') else { return ("", text) };
    let tail = behind.split_once('.').map_or("", |(_, tail)| tail);
    let label = front.rsplit_once('.').map_or(front, |(_, label)| label);
    (label.split_once('*').map_or(label, |(head, _)| head), tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends_of_patterns() {
        let cases = [
            ("*.example.com", ("", "example.com")),
            ("a.*.example.com", ("", "example.com")),
            ("a*b*c.example.com", ("a", "example.com")),
            ("*.eu*.example.com", ("eu", "example.com")),
        ];
        for (text, expected) in cases {
            assert_eq!(ends(text), expected, "{text}");
        }
    }

    proptest! {
        /// The same as trying each.
        #[test]
        fn nothing_is_missed(
            wide in prop::collection::vec("((\\*|[ab]\\*?|\\*[ab]|a\\*b)\\.){1,3}x\\.com", 1..8),
            name in "((\\*|[ab]{1,2}|[ab]\\*|\\*[ab])\\.){1,3}x\\.com",
        ) {
            let patterns: Vec<WildcardPattern> =
                wide.iter().filter_map(|text| WildcardPattern::try_from(&**text).ok()).collect();
            let name = NamePattern::try_from(&*name).unwrap();
            let mut index = Wildcards::new(Alike::All);
            for (place, pattern) in patterns.iter().enumerate() {
                index.insert(pattern, place);
            }
            let mut found: Vec<usize> = index.covering(&name).map(|(_, place)| *place).collect();
            found.sort_unstable();
            let expected: Vec<usize> = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| pattern.covers(&name))
                .map(|(place, _)| place)
                .collect();
            prop_assert_eq!(&found, &expected);
            if let NamePattern::Exact(name) = &name {
                let mut found: Vec<usize> =
                    index.matching(name).map(|(_, place)| *place).collect();
                found.sort_unstable();
                prop_assert_eq!(&found, &expected);
            }
        }
    }
}
