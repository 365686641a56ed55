// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a look-up brings, and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use schemars::JsonSchema;
use serde::Serialize;

use crate::policy::Fqdn;

/// The addresses of a name, as a resolver gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Each address with its TTL in seconds, the least along its chain of aliases.
    pub records: Vec<(IpAddr, u32)>,
    /// The aliases (CNAME) that led to the addresses, in order, without the name itself.
    pub chain: Vec<Fqdn>,
    /// Who answered.
    pub resolver: IpAddr,
    /// Why one of the two address families is missing, where that is a failure. The addresses
    /// that it had before stay through their grace period.
    pub missing: Option<LookupFailure>,
}

/// Why a look-up gave no address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum LookupFailure {
    /// The name does not exist.
    #[error("the name does not exist (NXDOMAIN)")]
    NxDomain,
    /// The name exists and has no address.
    #[error("the name has no address")]
    NoData,
    /// The resolver failed.
    #[error("the resolver failed (SERVFAIL)")]
    ServFail,
    /// Nobody answered in time.
    #[error("no answer in time")]
    Timeout,
    /// The resolver does not answer us.
    #[error("the resolver refused the question (REFUSED)")]
    Refused,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// What an answer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the name stands now.
    pub standing: Standing,
    /// What the snapshot gained and lost.
    pub changed: Changed,
    /// The addresses that were not taken, each with the reason.
    pub refused: BTreeMap<IpAddr, Refusal>,
}

/// What became of the addresses of a client's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// What the snapshot gained.
    pub changed: Changed,
    /// The addresses that the name has now, each with the time when it goes unless it is renewed.
    pub held: BTreeMap<IpAddr, Instant>,
    /// The addresses that were not taken, each with the reason.
    pub refused: BTreeMap<IpAddr, Refusal>,
}

/// How a name stands after an answer. What deserves a line in a log is told from what is a
/// repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was answered, as before or for the first time.
    Answered,
    /// It was answered after failures.
    Recovered,
    /// It failed, and had not before.
    NewlyFailing,
    /// It failed again.
    StillFailing,
    /// No rule names it any more; the answer was thrown away.
    Unwanted,
}

/// The difference between two snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Addresses that are now allowed.
    pub added: BTreeSet<(Fqdn, IpAddr)>,
    /// Addresses that are no longer allowed.
    pub removed: BTreeSet<(Fqdn, IpAddr)>,
    /// Wanted names that had addresses before and have none now.
    pub emptied: BTreeSet<Fqdn>,
}

/// Why an address was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// It is of a special-purpose block, and no rule of the name says `private = true`.
    #[error("a special-purpose address ({0})")]
    SpecialPurpose(&'static str),
    /// It belongs to the gateway or to the network behind it.
    #[error("an address of the gateway or of the inside network")]
    Own,
    /// The name has as many addresses as `max_addresses_per_name` lets it have.
    #[error("the name has its maximum of addresses")]
    NameFull,
    /// Every rule that matches the name has as many names as it may have.
    #[error("the rules that match the name have their maximum of names")]
    RuleFull,
    /// All names together have as many addresses as there may be.
    #[error("the names have their maximum of addresses")]
    CacheFull,
    /// No rule names the name or matches it.
    #[error("no rule covers the name")]
    NotWanted,
}

/// How often addresses were refused, per reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Refusals {
    /// [`Refusal::SpecialPurpose`].
    pub special_purpose: u64,
    /// [`Refusal::Own`].
    pub own: u64,
    /// [`Refusal::NameFull`].
    pub name_full: u64,
    /// [`Refusal::RuleFull`].
    pub rule_full: u64,
    /// [`Refusal::CacheFull`].
    pub cache_full: u64,
    /// [`Refusal::NotWanted`].
    pub not_wanted: u64,
}

// === impl LookupFailure ===

impl LookupFailure {
    /// A stable word for it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NxDomain => "nxdomain",
            Self::NoData => "no-data",
            Self::ServFail => "servfail",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Other(_) => "other",
        }
    }
}

// === impl Changed ===

impl Changed {
    /// Whether the snapshot is the same as before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Puts a later change on top of this one.
    pub fn merge(&mut self, later: Self) {
        for pair in later.added {
            self.emptied.remove(&pair.0);
            if !self.removed.remove(&pair) {
                self.added.insert(pair);
            }
        }
        for pair in later.removed {
            if !self.added.remove(&pair) {
                self.removed.insert(pair);
            }
        }
        self.emptied.extend(later.emptied);
    }
}

// === impl Refusals ===

impl Refusals {
    /// Counts one.
    pub fn count(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::SpecialPurpose(_) => &mut self.special_purpose,
            Refusal::Own => &mut self.own,
            Refusal::NameFull => &mut self.name_full,
            Refusal::RuleFull => &mut self.rule_full,
            Refusal::CacheFull => &mut self.cache_full,
            Refusal::NotWanted => &mut self.not_wanted,
        };
        *counter = counter.saturating_add(1);
    }

    /// Each reason by its stable word.
    pub fn by_reason(&self) -> [(&'static str, u64); 6] {
        [
            ("special-purpose", self.special_purpose),
            ("own", self.own),
            ("name-full", self.name_full),
            ("rule-full", self.rule_full),
            ("cache-full", self.cache_full),
            ("not-wanted", self.not_wanted),
        ]
    }
}
