// SPDX-License-Identifier: MIT OR Apache-2.0
//! An array whose neighbours are mostly the same: what holds for every client stands in a row of the
//! matrix as often as there are classes.

use std::{collections::BTreeMap, ops::Range};

/// An array without its zeros, kept as runs of one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// The first index of a run -> its value. Neighbours differ; before the first run there are
    /// zeros, and the last run is one of zeros.
    runs: BTreeMap<u32, u32>,
    /// How many entries aren't zero.
    filled: usize,
}

impl Runs {
    /// The value at an index, unless it is zero.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<u32> {
        Some(self.value(index)).filter(|value| *value != 0)
    }

    /// Changes the value at an index.
    pub fn set(&mut self, index: u32, value: u32) {
        let old = self.value(index);
        if old == value {
            return;
        }
        self.filled = self.filled + usize::from(value != 0) - usize::from(old != 0);
        let behind = index.saturating_add(1);
        let next = *self.runs.entry(behind).or_insert(old);
        if next == value {
            self.runs.remove(&behind);
        }
        let before = index.checked_sub(1).map_or(0, |before| self.value(before));
        if before == value {
            self.runs.remove(&index);
        } else {
            self.runs.insert(index, value);
        }
    }

    /// The entries that aren't zero, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.filled_runs().flat_map(|(range, value)| range.map(move |index| (index, value)))
    }

    /// The runs of what isn't zero, in their order.
    pub fn filled_runs(&self) -> impl Iterator<Item = (Range<u32>, u32)> + '_ {
        let ends = self.runs.keys().skip(1);
        let runs = self.runs.iter().zip(ends).map(|((first, value), end)| (*first..*end, *value));
        runs.filter(|(_, value)| *value != 0)
    }

    /// How many entries aren't zero.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether all are zeros.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    fn value(&self, index: u32) -> u32 {
        self.runs.range(..=index).next_back().map_or(0, |(_, value)| *value)
    }
}

impl FromIterator<(u32, u32)> for Runs {
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(entries: I) -> Self {
        let mut runs = Self::default();
        runs.extend(entries);
        runs
    }
}

impl Extend<(u32, u32)> for Runs {
    fn extend<I: IntoIterator<Item = (u32, u32)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(index, value)| self.set(index, value));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn an_array_is_what_was_written(writes in vec((0..12_u32, 0..3_u32), 0..60)) {
            let mut runs = Runs::default();
            let mut plain = BTreeMap::new();
            for (index, value) in writes {
                runs.set(index, value);
                if value == 0 {
                    plain.remove(&index);
                } else {
                    plain.insert(index, value);
                }
                prop_assert_eq!(runs.iter().collect::<BTreeMap<_, _>>(), plain.clone());
                prop_assert_eq!(runs.len(), plain.len());
                for index in 0..14 {
                    prop_assert_eq!(runs.get(index), plain.get(&index).copied());
                }
                // Equal arrays are equal, however they came to be.
                let anew: Runs = plain.iter().rev().map(|(index, value)| (*index, *value)).collect();
                prop_assert_eq!(&anew, &runs);
            }
        }
    }
}
