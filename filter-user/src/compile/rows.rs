// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows of a matrix, each standing for a set of rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::meaning::RuleSet;

/// Gives each set of rules its row, from 1. Row 0 is the empty set's and is never stored.
#[derive(Debug)]
pub(super) struct Rows {
    rows: HashMap<RuleSet, u32>,
    /// Rows that may be used again, none of them taken.
    free: BTreeSet<u32>,
    /// The first row that was never used.
    next: u32,
    /// The rows given out here, in order.
    added: Vec<(u32, RuleSet)>,
}

impl Rows {
    /// Continues from the rows that are there already.
    pub(super) fn new(taken: &BTreeMap<u32, RuleSet>, next: u32, free: &BTreeSet<u32>) -> Self {
        let next = next.max(1);
        let reusable = |row: &u32| *row != 0 && *row < next && !taken.contains_key(row);
        Self {
            rows: taken.iter().map(|(row, set)| (set.clone(), *row)).collect(),
            free: free.iter().copied().filter(reusable).collect(),
            next,
            added: Vec::new(),
        }
    }

    /// The row of a set.
    pub(super) fn row(&mut self, set: &RuleSet) -> u32 {
        if set.is_empty() {
            return 0;
        }
        if let Some(row) = self.rows.get(set) {
            return *row;
        }
        let row = self.free.pop_first().unwrap_or_else(|| {
            let row = self.next;
            self.next = self.next.saturating_add(1);
            row
        });
        self.rows.insert(set.clone(), row);
        self.added.push((row, set.clone()));
        row
    }

    /// The rows that were given out.
    pub(super) fn added(&self) -> &[(u32, RuleSet)] {
        &self.added
    }

    /// The first row that was never used: how many rows the matrix needs.
    pub(super) fn next(&self) -> u32 {
        self.next
    }
}
