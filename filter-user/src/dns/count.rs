// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of questions and responses, counted.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;

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
    /// A message of a client.
    Questions,
    /// A question that was answered at once, by an answer that is still good.
    CacheHits,
    /// A question that waits for the answer to the same one.
    Joined,
    /// An answer that was got from upstream and given on.
    Answered,
    /// A question that was answered by SERVFAIL.
    Failed,
    /// A question for a name that no rule covers.
    NotListed,
    /// A question of a client that asks too many.
    RateLimited,
    /// A question, or a connection, beyond those that may wait.
    TooManyQuestions,
    /// A message of a client that is no question.
    MalformedQuestion,
    /// A question for what a forwarder doesn't do.
    NotSupported,
    /// A question that no upstream answered.
    UpstreamFailed,
    /// An answer whose addresses were not in force in time.
    LearnTimeout,
    /// An answer whose addresses could not be put in force.
    NotInForce,
    /// An address or alias that the question does not lead to.
    OffChain,
    /// An address in the authority section.
    Authority,
    /// An address in the additional section.
    Additional,
    /// Aliases that run in a circle.
    AliasLoop,
    /// Too many aliases in a row.
    AliasTooLong,
    /// Two aliases for one name.
    AliasForked,
    /// An alias that is no host name.
    AliasNotAName,
    /// A special-purpose address that no rule asks for.
    SpecialPurpose,
    /// An address of the gateway or of the inside network.
    Own,
    /// An address beyond those that a name may have.
    NameFull,
    /// An address of a name beyond those that its rules may have.
    RuleFull,
    /// An address beyond those that all names may have.
    CacheFull,
    /// An address of a name that no rule covers any more.
    NotWanted,
}

/// How often each [`Count`] was seen since the start, and how long upstreams took.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; Count::ALL.len()],
    latency: Histogram,
}

/// Upper bounds of the times that are told apart, in seconds.
const LATENCIES: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

// === impl Count ===

impl Count {
    /// In the order of their numbers.
    const ALL: [Self; 39] = [
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
        Self::Questions,
        Self::CacheHits,
        Self::Joined,
        Self::Answered,
        Self::Failed,
        Self::NotListed,
        Self::RateLimited,
        Self::TooManyQuestions,
        Self::MalformedQuestion,
        Self::NotSupported,
        Self::UpstreamFailed,
        Self::LearnTimeout,
        Self::NotInForce,
        Self::OffChain,
        Self::Authority,
        Self::Additional,
        Self::AliasLoop,
        Self::AliasTooLong,
        Self::AliasForked,
        Self::AliasNotAName,
        Self::SpecialPurpose,
        Self::Own,
        Self::NameFull,
        Self::RuleFull,
        Self::CacheFull,
        Self::NotWanted,
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
            Self::Questions => "questions",
            Self::CacheHits => "cache-hits",
            Self::Joined => "joined",
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::NotListed => "not-listed",
            Self::RateLimited => "rate-limited",
            Self::TooManyQuestions => "too-many-questions",
            Self::MalformedQuestion => "malformed-question",
            Self::NotSupported => "not-supported",
            Self::UpstreamFailed => "upstream-failed",
            Self::LearnTimeout => "learn-timeout",
            Self::NotInForce => "not-in-force",
            Self::OffChain => "off-chain",
            Self::Authority => "authority",
            Self::Additional => "additional",
            Self::AliasLoop => "alias-loop",
            Self::AliasTooLong => "alias-too-long",
            Self::AliasForked => "alias-forked",
            Self::AliasNotAName => "alias-not-a-name",
            Self::SpecialPurpose => "special-purpose",
            Self::Own => "own",
            Self::NameFull => "name-full",
            Self::RuleFull => "rule-full",
            Self::CacheFull => "cache-full",
            Self::NotWanted => "not-wanted",
        }
    }
}

// === impl Counters ===

impl Default for Counters {
    fn default() -> Self {
        let values = [const { AtomicU64::new(0) }; Count::ALL.len()];
        Self { values, latency: Histogram::new(LATENCIES) }
    }
}

impl Counters {
    /// Counts one.
    pub(super) fn add(&self, what: Count) {
        // There is a value for each: the array is as long as the list of all.
        if let Some(value) = self.values.get(what as usize) {
            value.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes how long a question took that an upstream answered.
    pub(super) fn answered_after(&self, time: Duration) {
        self.latency.observe(time.as_secs_f64());
    }

    /// How long questions took that upstreams answered, in seconds.
    #[must_use]
    pub fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// All of them by their stable names, those that are 0 too.
    #[must_use]
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
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
