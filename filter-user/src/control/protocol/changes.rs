// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that change what is in force, and their replies.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ReloadRequest, Reloaded};
use crate::diff::Difference;

/// A wish to allow something beside the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AllowRequest {
    /// A name, a wildcard name, an address, a prefix, or `self`.
    pub to: String,
    /// The groups of clients; empty: every client.
    pub from: Vec<String>,
    /// TCP ports and ranges of ports, such as `443` and `8000-8080`; `any` for all.
    pub tcp: Vec<String>,
    /// UDP ports, likewise.
    pub udp: Vec<String>,
    /// Whether echo requests pass.
    pub icmp: bool,
    /// Other IP protocols, by name or number.
    pub proto: Vec<String>,
    /// For how many seconds; `null`: until it is revoked.
    pub for_s: Option<u64>,
    /// Why.
    pub note: Option<String>,
    /// Whether the destination may have special-purpose addresses.
    pub private: bool,
    /// Whether a wildcard may cover a whole public suffix, and a prefix a quarter of all addresses.
    pub broad: bool,
}

/// Something that is allowed beside the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllowStatus {
    /// Its number, never used again.
    pub id: u64,
    /// The rule's name, as `rules` and `explain` call it.
    pub rule: String,
    /// What was asked for.
    pub request: AllowRequest,
    /// Who asked.
    pub by: String,
    /// When, in seconds since the epoch.
    pub since: u64,
    /// For how many seconds it holds from now on; `null`: until it is revoked.
    pub left_s: Option<u64>,
}

/// The answer to a revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revoked {
    /// What was taken back.
    pub revoked: AllowStatus,
    /// Flows that were cut, as nothing else allows them.
    pub cut_flows: usize,
}

/// The files of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// `gateway.toml`, and `policy.d/NAME.toml` for each of the others, with their texts.
    pub files: BTreeMap<String, String>,
    /// Where they are from, for people.
    #[serde(default)]
    pub from: String,
}

/// A wish for another policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The policy.
    pub policy: Files,
    /// Within how many seconds it has to be confirmed; `null`: it is kept.
    #[serde(default)]
    pub confirm_within_s: Option<u32>,
    /// As with a reload.
    #[serde(default)]
    pub reload: ReloadRequest,
}

/// A wish for an earlier policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackRequest {
    /// Its number in the history; `null`: the one before the one in force.
    pub to: Option<u64>,
    /// As with a reload.
    pub reload: ReloadRequest,
}

/// What another policy would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preview {
    /// What differs in the rules: OLD is the policy in force, with what is allowed beside it.
    pub difference: Difference,
    /// Sections beside the rules that differ.
    pub settings: Vec<String>,
    /// Flows that are open now and would be cut.
    pub cut_flows: usize,
    /// Those flows, for people; the first of them.
    pub flows: Vec<String>,
    /// What the policy makes one wonder about.
    pub warnings: Vec<String>,
}

/// The answer to a wish for another policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// Its number in the history; `null` where it could not be kept there.
    pub policy: Option<u64>,
    /// Within how many seconds it has to be confirmed; `null`: it stays.
    pub confirm_within_s: Option<u32>,
    /// The policy that is in force now.
    #[serde(flatten)]
    pub reloaded: Reloaded,
}

/// The answer to a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Confirmed {
    /// The policy that stays, as `status` counts.
    pub generation: u64,
    /// Its number in the history.
    pub policy: Option<u64>,
    /// Flows that were cut now.
    pub cut_flows: usize,
}

/// A policy that waits to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pending {
    /// Seconds until the policy before it is in force again.
    pub left_s: u64,
}

/// A policy of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRecord {
    /// Its number; it grows with each policy that differs from the one before.
    pub policy: u64,
    /// Whether it is the one in force.
    pub in_force: bool,
    /// When it was first put in force, in seconds since the epoch.
    pub since: u64,
    /// How it came: `start`, `reload`, `apply` or `rollback`.
    pub how: String,
    /// Where it is from.
    pub from: String,
    /// Who wanted it.
    pub by: String,
    /// Its rules.
    pub rules: usize,
}
