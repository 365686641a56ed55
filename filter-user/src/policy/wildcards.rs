// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which wildcards of many cover a name, without trying each.

use std::collections::{BTreeMap, HashMap};

use super::{NamePattern, WildcardPattern};

/// Wildcards, each with something that belongs to it, found by the labels that they end in.
#[derive(Clone, Debug)]
pub struct Wildcards<'a, T> {
    /// The labels behind the last one with a star, and then the text in front of that label's
    /// first star: whatever a pattern covers has both.
    by_tail: HashMap<&'a str, ByHead<'a, T>>,
}

type ByHead<'a, T> = BTreeMap<&'a str, Vec<(&'a WildcardPattern, T)>>;

/// Of patterns that only differ behind their star (`*a.example.com`, `*b.example.com`), no more
/// than this many are tried for a name; real lists have a handful.
const MOST_ALIKE: usize = 256;

// === impl Wildcards ===

impl<T> Default for Wildcards<'_, T> {
    fn default() -> Self {
        Self { by_tail: HashMap::new() }
    }
}

impl<'a, T> Wildcards<'a, T> {
    /// Adds a pattern.
    pub fn insert(&mut self, pattern: &'a WildcardPattern, of: T) {
        let (head, tail) = ends(pattern.as_str());
        let alike = self.by_tail.entry(tail).or_default().entry(head).or_default();
        if alike.len() < MOST_ALIKE {
            alike.push((pattern, of));
        }
    }

    /// The patterns that cover a name or pattern, itself among them if it was added.
    pub fn covering<'s>(
        &'s self,
        name: &'s NamePattern,
    ) -> impl Iterator<Item = (&'a WildcardPattern, &'s T)> + use<'s, 'a, T> {
        let text = name.as_str();
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
        .filter(move |(pattern, _)| pattern.covers(name))
        .map(|(pattern, of)| (*pattern, of))
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
            let mut index = Wildcards::default();
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
            prop_assert_eq!(found, expected);
        }
    }
}
