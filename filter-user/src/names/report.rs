// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `sluice names` shows.

use std::{net::IpAddr, time::Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    answer::Refusals,
    cache::{Entry, Failing, NameCache},
};
use crate::policy::Fqdn;

/// The whole cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// Every name that is looked up or has addresses, in order.
    pub names: Vec<NameReport>,
    /// Addresses of all names together.
    pub addresses: usize,
    /// Look-ups that run now.
    pub lookups: usize,
    /// Addresses refused since the start, also for names that are not wanted any more.
    pub refused: Refusals,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NameReport {
    /// The name.
    #[schemars(with = "String")]
    pub name: Fqdn,
    /// Whether it is looked up, or learned when a client asks.
    pub kind: NameKind,
    /// How its last look-up went.
    #[serde(flatten)]
    pub state: NameState,
    /// What is missing although the last look-up was answered: one address family failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
    /// What it has, in order.
    pub addresses: Vec<AddressReport>,
    /// Who gave the last answer.
    pub resolver: Option<IpAddr>,
    /// How long ago that was, in seconds.
    pub answered_s_ago: Option<u64>,
    /// The aliases of the last answer, in order.
    #[schemars(with = "Vec<String>")]
    pub chain: Vec<Fqdn>,
    /// How often clients got its addresses.
    pub hits: u64,
    /// Addresses refused to it.
    pub refused: Refusals,
}

/// How a name gets its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NameKind {
    /// A rule names it, and it is looked up.
    Exact,
    /// Wildcards match it, and clients' answers bring its addresses.
    Learned,
}

/// How the last look-up of a name went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum NameState {
    /// The last look-up was answered.
    Resolved,
    /// No look-up has come back yet.
    Pending,
    /// The last look-up failed; an earlier one was answered.
    Failing {
        /// [`super::LookupFailure::code`].
        code: &'static str,
        /// The reason in words.
        why: String,
        /// Since when, in seconds.
        since_s: u64,
        /// Failures in a row.
        attempts: u32,
    },
    /// Every look-up failed.
    NeverResolved {
        /// [`super::LookupFailure::code`].
        code: &'static str,
        /// The reason in words.
        why: String,
        /// Since when, in seconds.
        since_s: u64,
        /// Failures in a row.
        attempts: u32,
    },
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AddressReport {
    /// The address.
    pub address: IpAddr,
    /// Seconds until its TTL ends; 0 in the grace period.
    pub ttl_s: u64,
    /// Seconds until it is no longer allowed.
    pub allowed_s: u64,
}

// === impl NameCache ===

impl NameCache {
    /// Every name with its state and addresses.
    #[must_use]
    pub fn report(&self, now: Instant) -> Report {
        Report {
            names: self.names.iter().map(|(name, entry)| entry.report(name, now)).collect(),
            addresses: self.ends.len(),
            lookups: self.in_flight.len(),
            refused: self.refused,
        }
    }
}

// === impl Entry ===

impl Entry {
    fn report(&self, name: &Fqdn, now: Instant) -> NameReport {
        let addresses = self
            .held
            .iter()
            .filter(|(_, held)| held.end > now)
            .map(|(address, held)| {
                let left = held.left(now);
                AddressReport {
                    address: *address,
                    ttl_s: left.ttl.as_secs(),
                    allowed_s: left.allowed.as_secs(),
                }
            })
            .collect();
        let last = self.last.as_ref();
        NameReport {
            name: name.clone(),
            kind: self.kind(),
            state: self.state(now),
            incomplete: self.half.as_ref().map(|half| half.why.to_string()),
            addresses,
            resolver: last.map(|last| last.resolver),
            answered_s_ago: last.map(|last| now.saturating_duration_since(last.at).as_secs()),
            chain: last.map(|last| last.chain.clone()).unwrap_or_default(),
            hits: self.hits,
            refused: self.refused,
        }
    }

    fn state(&self, now: Instant) -> NameState {
        let parts = |failing: &Failing| {
            let since_s = now.saturating_duration_since(failing.since).as_secs();
            (failing.why.code(), failing.why.to_string(), since_s, failing.attempts)
        };
        match (&self.failing, &self.last) {
            (None, Some(_)) => NameState::Resolved,
            (None, None) => NameState::Pending,
            (Some(failing), Some(_)) => {
                let (code, why, since_s, attempts) = parts(failing);
                NameState::Failing { code, why, since_s, attempts }
            }
            (Some(failing), None) => {
                let (code, why, since_s, attempts) = parts(failing);
                NameState::NeverResolved { code, why, since_s, attempts }
            }
        }
    }
}
