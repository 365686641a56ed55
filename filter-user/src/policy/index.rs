// SPDX-License-Identifier: MIT OR Apache-2.0
//! What belongs to a name: found by the name, without trying each pattern.

use std::collections::HashMap;

use super::{
    Fqdn, NamePattern,
    wildcards::{Alike, Wildcards},
};

/// Names and patterns, each with something that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameIndex<T> {
    exact: HashMap<Fqdn, Vec<T>>,
    wildcards: Wildcards<T>,
}

// === impl NameIndex ===

impl<T> Default for NameIndex<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: Wildcards::new(Alike::All) }
    }
}

impl<T> NameIndex<T> {
    /// Adds a name or a pattern; the same one may be added several times.
    pub fn insert(&mut self, pattern: &NamePattern, of: T) {
        match pattern {
            NamePattern::Exact(name) => self.exact.entry(name.clone()).or_default().push(of),
            NamePattern::Wildcard(pattern) => self.wildcards.insert(pattern, of),
        }
    }

    /// What belongs to the name itself, and to the patterns that it matches.
    pub fn matching<'s>(&'s self, name: &'s Fqdn) -> impl Iterator<Item = &'s T> {
        self.exact(name).chain(self.wildcards.matching(name).map(|(_, of)| of))
    }

    /// What belongs to the name itself.
    pub fn exact(&self, name: &Fqdn) -> impl Iterator<Item = &T> {
        self.exact.get(name).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_what_belongs_to_it_and_to_its_patterns() {
        let mut index = NameIndex::default();
        let patterns = [
            "a.example.com",
            "*.example.com",
            "a*.example.com",
            "*.*.example.com",
            "a.example.com",
        ];
        for (place, pattern) in patterns.into_iter().enumerate() {
            index.insert(&NamePattern::try_from(pattern).unwrap(), place);
        }
        let check = |name: &str, expected: &[usize]| {
            let name = Fqdn::try_from(name).unwrap();
            let mut found: Vec<usize> = index.matching(&name).copied().collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{name}");
        };
        check("a.example.com", &[0, 1, 2, 4]);
        check("b.example.com", &[1]);
        check("a.b.example.com", &[1, 3]);
        check("example.com", &[]);
        check("a.example.com.evil.net", &[]);
    }
}
