// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which counter belongs to which match, over generations and restarts.

use std::collections::{BTreeMap, BTreeSet};

use filter_common::{
    verdict::PassReason,
    wire::{COUNTERS_PER_NIC, FIRST_MATCH},
};
use serde::{Deserialize, Serialize};

use crate::policy::Label;

/// How many matches can be counted.
pub const MATCHES: u32 = COUNTERS_PER_NIC - FIRST_MATCH;

/// A set of rules, told apart by reason and name: what a counter counts for.
pub type MatchKey = BTreeSet<(PassReason, Label)>;

/// Match -> counter, from `FIRST_MATCH` and below `COUNTERS_PER_NIC`. The same set of names keeps
/// its counter as long as it isn't retired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct CounterLedger {
    counters: BTreeMap<MatchKey, u32>,
    taken: BTreeSet<u32>,
}

/// Why a stored ledger can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLedger {
    /// A counter outside the range of matches.
    #[error("counter {0} is not one that a match can have")]
    Counter(u32),
    /// A counter or a set of rules that stands there twice.
    #[error("counter {0} or its rules stand there twice")]
    Duplicate(u32),
    /// A name that can't be a rule's.
    #[error("{0:?} is no name of a rule")]
    Name(String),
    /// An unknown reason.
    #[error("{0:?} is no pass reason")]
    Reason(String),
}

/// An entry as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    counter: u32,
    rules: Vec<EntryRule>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryRule {
    reason: String,
    name: String,
}

// === impl CounterLedger ===

impl CounterLedger {
    /// The counter of a match, if it has one.
    #[must_use]
    pub fn counter(&self, key: &MatchKey) -> Option<u32> {
        self.counters.get(key).copied()
    }

    /// How many counters are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }

    /// Every match and its counter.
    pub fn iter(&self) -> impl Iterator<Item = (&MatchKey, u32)> {
        self.counters.iter().map(|(key, counter)| (key, *counter))
    }

    /// Frees the counters that aren't in `referenced` (the union of
    /// [`SlotTables::counters`](super::SlotTables::counters) of both slots) and returns them, so
    /// that the caller sets them to zero before they count for another match.
    pub fn retire(&mut self, referenced: &BTreeSet<u32>) -> BTreeSet<u32> {
        self.counters.retain(|_, counter| referenced.contains(counter));
        let freed = self.taken.difference(referenced).copied().collect();
        self.taken.retain(|counter| referenced.contains(counter));
        freed
    }

    /// The counters that no match has, in order.
    pub(super) fn vacant(&self) -> impl Iterator<Item = u32> + '_ {
        let mut taken = self.taken.iter().peekable();
        (FIRST_MATCH..COUNTERS_PER_NIC)
            .filter(move |counter| taken.next_if(|taken| *taken == counter).is_none())
    }

    /// Gives matches that have none their counters, out of those that are vacant.
    pub(super) fn extend(&mut self, added: impl IntoIterator<Item = (MatchKey, u32)>) {
        for (key, counter) in added {
            self.taken.insert(counter);
            self.counters.insert(key, counter);
        }
    }
}

impl From<CounterLedger> for Vec<Entry> {
    fn from(ledger: CounterLedger) -> Self {
        let mut entries: Self = ledger
            .counters
            .into_iter()
            .map(|(key, counter)| Entry {
                counter,
                rules: key
                    .into_iter()
                    .map(|(reason, name)| EntryRule {
                        reason: reason.name().to_owned(),
                        name: name.as_str().to_owned(),
                    })
                    .collect(),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.counter);
        entries
    }
}

impl TryFrom<Vec<Entry>> for CounterLedger {
    type Error = InvalidLedger;

    fn try_from(entries: Vec<Entry>) -> Result<Self, InvalidLedger> {
        let mut ledger = Self::default();
        for Entry { counter, rules } in entries {
            if !(FIRST_MATCH..COUNTERS_PER_NIC).contains(&counter) {
                return Err(InvalidLedger::Counter(counter));
            }
            let mut key = MatchKey::new();
            for EntryRule { reason, name } in rules {
                let Some(known) = PassReason::ALL.iter().find(|known| known.name() == reason)
                else {
                    return Err(InvalidLedger::Reason(reason));
                };
                let Ok(label) = Label::try_from(name.as_str()) else {
                    return Err(InvalidLedger::Name(name));
                };
                key.insert((*known, label));
            }
            if !ledger.taken.insert(counter) || ledger.counters.insert(key, counter).is_some() {
                return Err(InvalidLedger::Duplicate(counter));
            }
        }
        Ok(ledger)
    }
}
