// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows of a matrix, each standing for a set of rules.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_set},
    sync::Arc,
};

use super::meaning::{RuleIndex, RuleSet};

/// The rows that have a meaning, from 1. Row 0 is the empty set's and is never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    sets: BTreeMap<u32, RuleSet>,
    numbers: HashMap<RuleSet, u32>,
    /// Rows that were cleared and may be used again.
    free: BTreeSet<u32>,
    /// The first row that was never used.
    next: u32,
}

/// Rows for sets that have none yet, beside those that are there.
#[derive(Debug)]
pub(super) struct NewRows<'a> {
    taken: &'a Rows,
    free: btree_set::Iter<'a, u32>,
    next: u32,
    numbers: HashMap<RuleSet, u32>,
    /// The rows given out here, in order.
    added: Vec<(u32, RuleSet)>,
}

// === impl Rows ===

impl Rows {
    /// The set that a row stands for.
    pub(super) fn set(&self, row: u32) -> Option<&RuleSet> {
        self.sets.get(&row)
    }

    /// Gives a row its meaning. It must have none.
    pub(super) fn insert(&mut self, row: u32, set: RuleSet) {
        self.next = self.next.max(row.saturating_add(1));
        self.free.remove(&row);
        self.numbers.insert(set.clone(), row);
        self.sets.insert(row, set);
    }

    /// A row was cleared, after every packet was through that came before the last prefix went
    /// that led to it.
    pub(super) fn remove(&mut self, row: u32) {
        if let Some(set) = self.sets.remove(&row) {
            self.numbers.remove(&set);
            self.free.insert(row);
        }
    }
}

impl FromIterator<(u32, RuleSet)> for Rows {
    fn from_iter<I: IntoIterator<Item = (u32, RuleSet)>>(rows: I) -> Self {
        let mut all = Self::default();
        rows.into_iter().for_each(|(row, set)| all.insert(row, set));
        all
    }
}

// === impl NewRows ===

impl<'a> NewRows<'a> {
    /// Continues from the rows that are there already. Those that are free are used first.
    pub(super) fn new(taken: &'a Rows) -> Self {
        Self {
            taken,
            free: taken.free.iter(),
            next: taken.next.max(1),
            numbers: HashMap::new(),
            added: Vec::new(),
        }
    }

    /// The row of a set.
    pub(super) fn row(&mut self, set: &[RuleIndex]) -> u32 {
        if set.is_empty() {
            return 0;
        }
        if let Some(row) = self.taken.numbers.get(set).or_else(|| self.numbers.get(set)) {
            return *row;
        }
        let row = self.free.next().copied().unwrap_or_else(|| {
            let row = self.next;
            self.next = self.next.saturating_add(1);
            row
        });
        let set = RuleSet::from(set);
        self.numbers.insert(Arc::clone(&set), row);
        self.added.push((row, set));
        row
    }

    /// The rows that were given out.
    pub(super) fn added(&self) -> &[(u32, RuleSet)] {
        &self.added
    }

    /// The rows that were given out.
    pub(super) fn into_added(self) -> Vec<(u32, RuleSet)> {
        self.added
    }

    /// The first row that was never used: how many rows the matrix needs.
    pub(super) fn next(&self) -> u32 {
        self.next
    }
}
