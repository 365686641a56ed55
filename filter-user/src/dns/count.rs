// SPDX-License-Identifier: MIT OR Apache-2.0
//! What went wrong with questions and responses, counted.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// Something worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Count {
    /// A response with an id that isn't the question's.
    WrongId,
    /// A response to another question, to several, or to none.
    WrongQuestion,
    /// A response whose question has letters in another case.
    WrongCase,
    /// A message with the right id that is no response to a query.
    NotAResponse,
    /// A message that can't be read.
    Unreadable,
    /// A response that was cut short, so that TCP was used.
    Truncated,
    /// So many datagrams that aren't the response that TCP was used.
    TooManyStrays,
    /// No response in time.
    Timeout,
    /// SERVFAIL, and any other code that says nothing about the name.
    ServFail,
    /// REFUSED.
    Refused,
    /// A referral instead of an answer.
    Lame,
    /// The network said no.
    Unreachable,
    /// No connection over TLS, or one that broke off.
    TlsFailed,
}

/// How often each [`Count`] was seen since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    values: [AtomicU64; Count::ALL.len()],
}

// === impl Count ===

impl Count {
    /// In the order of their numbers.
    const ALL: [Self; 13] = [
        Self::WrongId,
        Self::WrongQuestion,
        Self::WrongCase,
        Self::NotAResponse,
        Self::Unreadable,
        Self::Truncated,
        Self::TooManyStrays,
        Self::Timeout,
        Self::ServFail,
        Self::Refused,
        Self::Lame,
        Self::Unreachable,
        Self::TlsFailed,
    ];

    /// The stable name.
    fn name(self) -> &'static str {
        match self {
            Self::WrongId => "wrong-id",
            Self::WrongQuestion => "wrong-question",
            Self::WrongCase => "wrong-case",
            Self::NotAResponse => "not-a-response",
            Self::Unreadable => "unreadable",
            Self::Truncated => "truncated",
            Self::TooManyStrays => "too-many-strays",
            Self::Timeout => "upstream-timeout",
            Self::ServFail => "upstream-servfail",
            Self::Refused => "upstream-refused",
            Self::Lame => "upstream-lame",
            Self::Unreachable => "upstream-unreachable",
            Self::TlsFailed => "tls-failed",
        }
    }
}

// === impl Counters ===

impl Counters {
    /// Counts one.
    pub(super) fn add(&self, what: Count) {
        // There is a value for each: the array is as long as the list of all.
        if let Some(value) = self.values.get(what as usize) {
            value.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them, those that are 0 too.
    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        let value =
            |(what, value): (&Count, &AtomicU64)| (what.name(), value.load(Ordering::Relaxed));
        Count::ALL.iter().zip(&self.values).map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_place_and_a_name_of_its_own() {
        for (number, what) in Count::ALL.into_iter().enumerate() {
            let counters = Counters::default();
            counters.add(what);
            assert_eq!(what as usize, number);
            assert_eq!(counters.all().len(), Count::ALL.len());
            assert_eq!(counters.all().get(what.name()), Some(&1));
            assert_eq!(counters.all().values().sum::<u64>(), 1);
        }
    }
}
