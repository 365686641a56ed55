// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests and replies. Field names are stable: `--json` prints replies as they are.

mod changes;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::changes::{
    AllowRequest, AllowStatus, Applied, ApplyRequest, Confirmed, Files, Pending, PolicyRecord,
    Preview, Revoked, RollbackRequest,
};
use crate::kernel::question::{FragmentPart, Transport};

/// What a client asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// One screen about everything.
    Status,
    /// The rules and what they let through.
    Rules,
    /// The names and their addresses.
    Names,
    /// Forget the addresses of names.
    Flush(FlushRequest),
    /// Look a name up now, and tell what would be learned.
    Resolve(ResolveRequest),
    /// Samples of dropped packets, until the client goes.
    Drops,
    /// What would happen to a packet, and why.
    Explain(Question),
    /// The flows that go through the gateway.
    Flows(FlowQuestion),
    /// Cut flows.
    Kill(FlowFilter),
    /// Read the configuration again.
    Reload(ReloadRequest),
    /// What was allowed beside the policy.
    Allows,
    /// Allow something beside the policy.
    Allow(AllowRequest),
    /// Take back what was allowed beside the policy.
    Revoke(u64),
    /// What another policy would change.
    Preview(Files),
    /// Put another policy in force.
    Apply(ApplyRequest),
    /// Keep the policy that waits to be confirmed.
    Confirm,
    /// Go back to an earlier policy.
    Rollback(RollbackRequest),
    /// The policies that can be gone back to.
    Policies,
    /// When rules and names were last used.
    Usage,
    /// Everything that is counted, as OpenMetrics.
    Metrics,
    /// The description of this interface.
    Description,
}

/// Which names are to be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlushRequest {
    /// As [`FlowFilter::name`]; `null`: all.
    pub pattern: Option<String>,
}

/// What name is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// The name.
    pub name: String,
}

/// Which flows are meant; what is empty fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// Where the client is, before source NAT.
    #[schemars(with = "Option<String>")]
    pub client: Option<IpNet>,
    /// Where the remote end is.
    #[schemars(with = "Option<String>")]
    pub remote: Option<IpNet>,
    /// The port of the service: the remote one, or the local one of a flow from outside.
    pub port: Option<u16>,
    /// The IP protocol, any of these.
    pub protocol: Vec<u8>,
    /// The name of the state.
    pub state: Option<String>,
    /// A text that a name of the remote address contains, in lower case; with a `*`, which stands
    /// for any characters, a text that is the whole name.
    pub name: Option<String>,
}

/// A question for flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowQuestion {
    /// Which.
    pub filter: FlowFilter,
    /// How much about them.
    pub detail: FlowDetail,
}

/// How much is told about flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowDetail {
    /// Each of them.
    #[default]
    List,
    /// How many they are.
    Count,
}

/// A wish for a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReloadRequest {
    /// The session that the wish came through, if it did.
    pub session: Option<Session>,
    /// What is done about it.
    pub care: Care,
}

/// Whether a reload may cut the session that asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Care {
    /// It is refused then.
    #[default]
    Careful,
    /// It is carried out.
    Forced,
}

/// The connection of a remote login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Where the user is.
    pub client: IpAddr,
    /// The user's port.
    pub client_port: u16,
    /// The address that was asked.
    pub server: IpAddr,
    /// The port that was asked.
    pub server_port: u16,
}

impl Session {
    /// Reads what sshd puts into `SSH_CONNECTION` (ssh(1)): two addresses, each with its port.
    #[must_use]
    pub fn from_ssh(text: &str) -> Option<Self> {
        // A link-local address has its NIC behind it.
        let address = |word: &str| word.split('%').next()?.parse::<IpAddr>().ok();
        let mut words = text.split_ascii_whitespace();
        let session = Self {
            client: address(words.next()?)?.to_canonical(),
            client_port: words.next()?.parse().ok()?,
            server: address(words.next()?)?.to_canonical(),
            server_port: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(session)
    }
}

/// A packet that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// The client's address.
    pub from: IpAddr,
    /// The destination.
    pub to: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// The inside NIC that it enters; `None`: the one behind which the client can live.
    pub nic: Option<String>,
    /// The VLAN id; 0: untagged.
    pub vlan: u16,
    /// Which part of the packet it is.
    pub fragment: FragmentPart,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReply {
    /// What is wrong and how to mend it, in a paragraph.
    pub error: String,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Their bytes from the Ethernet header on.
    pub bytes: u64,
}

/// The answer to [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Whether the policy is in force on every inside NIC and every exact name had its first
    /// look-up.
    pub ready: bool,
    /// Sluice's version.
    pub version: String,
    /// The number of the policy in force; it grows with each that is loaded.
    pub generation: u64,
    /// `enforce` or `audit`.
    pub mode: String,
    /// The configuration directory.
    pub config: String,
    /// Why the last reload was refused, if it was.
    pub config_error: Option<String>,
    /// What is wrong and is tried again; empty: nothing.
    pub problems: Vec<String>,
    /// Whether the policy waits to be confirmed, and how long; `null`: it stays.
    pub pending: Option<Pending>,
    /// The number of the policy that stays, in the history; `null`: it is in none.
    pub policy_number: Option<u64>,
    /// How many things are allowed beside the policy.
    pub allows: usize,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// The inside and outside NICs.
    pub nics: Vec<NicStatus>,
    /// What the policy holds.
    pub policy: PolicyStatus,
    /// How full the tables are.
    pub tables: Vec<TableStatus>,
    /// The kernel's memory that they take.
    pub kernel_memory: KernelMemoryStatus,
    /// Packets that passed, by reason.
    pub passes: BTreeMap<String, Count>,
    /// Packets that were dropped, by reason.
    pub drops: BTreeMap<String, Count>,
    /// Packets that passed in audit mode and would have been dropped, by reason.
    pub audited: BTreeMap<String, Count>,
    /// What came of denied packets whose clients are to be told: answers by kind, and why there was
    /// none.
    pub rejected: BTreeMap<String, Count>,
    /// The forwarder and the resolvers.
    pub dns: DnsStatus,
    /// Samples that were left out or lost.
    pub events: EventStatus,
    /// What is accepted in the configuration and not enforced, and what happens instead.
    pub not_enforced: Vec<String>,
    /// What the configuration makes one wonder about.
    pub warnings: Vec<String>,
}

/// The answer to [`Request::Flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flushed {
    /// Addresses of names that are allowed no more for these names.
    pub addresses: usize,
}

/// The answer to [`Request::Resolve`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resolved {
    /// The name that was looked up.
    pub name: String,
    /// The rules that name it or match it; empty: nothing is learned for it.
    pub rules: Vec<NamedRule>,
    /// Why it has no address, in words.
    pub failure: Option<String>,
    /// Why one address family is missing, where that is a failure.
    pub incomplete: Option<String>,
    /// Who answered.
    pub resolver: Option<IpAddr>,
    /// The aliases, in order.
    pub chain: Vec<String>,
    /// Its addresses, in order.
    pub addresses: Vec<ResolvedAddress>,
}

/// An address of a name that was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedAddress {
    /// The address.
    pub address: IpAddr,
    /// Its TTL in seconds, as the resolver gave it.
    pub ttl_s: u32,
    /// For how many seconds it would be allowed; `null`: it would not be learned.
    pub allowed_s: Option<u64>,
    /// Why it would not be learned, in words.
    pub refused: Option<String>,
}

/// The forwarder and the resolvers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsStatus {
    /// The addresses at which clients may ask.
    pub listening: Vec<IpAddr>,
    /// The resolvers in order of preference.
    pub upstream: Vec<UpstreamStatus>,
    /// What was counted since the start, by stable names.
    pub counters: BTreeMap<String, u64>,
}

/// A resolver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamStatus {
    /// As it is configured.
    pub resolver: String,
    /// Seconds since it last said something about a name; `null`: it never did.
    pub answered_s_ago: Option<u64>,
    /// Seconds since it last failed; `null`: it never did.
    pub failed_s_ago: Option<u64>,
    /// How it failed then.
    pub failure: Option<String>,
}

/// An inside or outside NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NicStatus {
    /// Its name.
    pub name: String,
    /// `inside` or `outside`.
    pub side: String,
    /// `native`, `generic`, or `gone`.
    pub attached: String,
    /// Seconds since the NIC went away; `null` while it is there.
    pub gone_for_s: Option<u64>,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// Instructions that the verifier processed.
    pub verified_instructions: Option<u32>,
    /// Packets that passed.
    pub passed: Count,
    /// Packets that were dropped.
    pub dropped: Count,
    /// Packets that passed in a second lately; `null` while that isn't known.
    pub passed_per_s: Option<u64>,
    /// Packets that were dropped in a second lately.
    pub dropped_per_s: Option<u64>,
}

/// Counts of what the policy holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    /// Rules that take part.
    pub rules: usize,
    /// Rules that are switched off.
    pub disabled: usize,
    /// Source groups.
    pub sources: usize,
    /// Exact names.
    pub names: usize,
    /// Exact names that have an address now.
    pub names_with_addresses: usize,
    /// Exact names whose last look-up failed.
    pub names_failing: usize,
    /// Addresses of names.
    pub addresses: usize,
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableStatus {
    /// What it holds.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// Bytes of the kernel's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelMemoryStatus {
    /// What the tables take whatever the policy is.
    pub fixed_bytes: u64,
    /// The prefixes of the policy in force, in one slot. The other slot has those of the policy
    /// before it.
    pub prefix_bytes: u64,
}

/// Samples that did not reach user space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventStatus {
    /// Drops that sampling left out.
    pub skipped: u64,
    /// Samples that found the ring buffer full, or a slow reader.
    pub lost: u64,
}

/// A rule, for [`Request::Rules`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub origin: String,
    /// Whether it takes part.
    pub enabled: bool,
    /// Its groups; empty: every client.
    pub from: Vec<String>,
    /// Its destinations.
    pub to: Vec<String>,
    /// TCP ports.
    pub tcp: String,
    /// UDP ports.
    pub udp: String,
    /// Whether echo requests pass.
    pub icmp: bool,
    /// Other IP protocols.
    pub proto: Vec<String>,
    /// Its note.
    pub note: Option<String>,
    /// Who added it beside the policy, when and until when; `null`: it stands in the policy.
    pub allow: Option<AllowStatus>,
    /// What it let through. A packet that two rules allow counts for both.
    #[serde(flatten)]
    pub count: Count,
}

/// When rules and names were last used, as far as that was watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The rules that take part, in their order.
    pub rules: Vec<RuleUsage>,
    /// The names and wildcards of these rules, in order.
    pub names: Vec<NameUsage>,
}

/// When a rule was last used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleUsage {
    /// Its name.
    pub rule: String,
    /// Where it stands.
    pub origin: String,
    /// For how many seconds it has been watched.
    pub watched_s: u64,
    /// Seconds since it last let a packet pass; `null`: never since it is watched.
    pub used_s_ago: Option<u64>,
}

/// When clients last asked for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NameUsage {
    /// The name, or the wildcard.
    pub name: String,
    /// Whether it is a wildcard.
    pub wildcard: bool,
    /// The rules that list it.
    pub rules: Vec<String>,
    /// For how many seconds it has been watched.
    pub watched_s: u64,
    /// Seconds since the forwarder last gave a client its addresses; `null`: never since it is watched.
    pub seen_s_ago: Option<u64>,
}

/// A dropped packet, for [`Request::Drops`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drop {
    /// Milliseconds since the epoch when the daemon read the sample.
    pub time_ms: u64,
    /// The NIC that the packet entered.
    pub nic: String,
    /// Why.
    pub reason: String,
    /// Whether audit mode let it pass.
    pub audited: bool,
    /// Its source.
    pub source: Option<IpAddr>,
    /// Its destination.
    pub destination: Option<IpAddr>,
    /// `tcp`, `udp`, `icmp` or a number; `null` where no IP header was read.
    pub protocol: Option<String>,
    /// The source port.
    pub source_port: u16,
    /// The destination port, or the ICMP type.
    pub destination_port: u16,
    /// The VLAN id; 0: untagged.
    pub vlan: u16,
    /// The Ethertype, in hexadecimal.
    pub ethertype: String,
    /// The frame's length in bytes.
    pub length: u32,
    /// A name that has the destination's address.
    pub name: Option<String>,
}

/// A rule that has a part in an explanation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct NamedRule {
    /// Its name.
    pub rule: String,
    /// Where it stands.
    pub origin: String,
}

/// The answer that brought an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnswerReply {
    /// Who gave it.
    pub resolver: IpAddr,
    /// The aliases that led from the name to the address, in order.
    pub chain: Vec<String>,
    /// Seconds since it came.
    pub age_s: u64,
}

/// How a destination came to be in the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ViaReply {
    /// A prefix that the rule lists.
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// A name that the rule lists.
    Name {
        /// The name.
        name: String,
        /// Its address.
        address: IpAddr,
        /// Seconds until the address is no longer allowed, unless the name is answered again.
        expires_in_s: u64,
        /// The answer that brought it last; `null` if it went meanwhile.
        answer: Option<AnswerReply>,
    },
    /// The gateway's own addresses.
    Own {
        /// `self`.
        destination: String,
    },
}

/// The answer to [`Request::Explain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// `pass` or `drop`.
    pub verdict: String,
    /// The pass or drop reason.
    pub reason: String,
    /// The rule that lets the packet pass; the first of `rules`.
    pub rule: Option<String>,
    /// Where that rule stands.
    pub origin: Option<String>,
    /// How the destination came to be in that rule.
    pub via: Option<ViaReply>,
    /// The number of the policy that was asked.
    pub generation: u64,
    /// What the reason means.
    pub text: String,
    /// Whether only audit mode lets the packet pass.
    pub audited: bool,
    /// What the client is told: `reset` (TCP) or `unreachable` (ICMP); `null`: nothing.
    pub answer: Option<String>,
    /// The NIC that the packet was taken to enter.
    pub nic: String,
    /// The groups that the client is in.
    pub groups: Vec<String>,
    /// Every rule that lets the packet pass.
    pub rules: Vec<NamedRule>,
    /// The rules that list the destination, for whatever client and port.
    pub listed_by: Vec<NamedRule>,
}

/// The answer to [`Request::Reload`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// The policy in force now.
    pub generation: u64,
    /// Its rules.
    pub rules: usize,
    /// What it makes one wonder about.
    pub warnings: Vec<String>,
    /// What it says and isn't enforced.
    pub not_enforced: Vec<String>,
    /// Flows that were cut, as the policy allows them no more.
    pub cut_flows: usize,
    /// Flows that go on though the policy allows them no more (`on_change = "keep"`).
    pub kept_flows: usize,
}

/// The answer to [`Request::Flows`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowList {
    /// How many flows fit.
    pub count: usize,
    /// They, in a fixed order; empty where only their number was asked for.
    pub flows: Vec<FlowStatus>,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FlowStatus {
    /// The client's address before source NAT; `null` where it isn't known, or there is no client.
    pub client: Option<IpAddr>,
    /// Its port there.
    pub client_port: u16,
    /// The address on the gateway's side of the NIC, after source NAT.
    pub local: IpAddr,
    /// The local port; of ICMP the identifier.
    pub local_port: u16,
    /// The address beyond.
    pub remote: IpAddr,
    /// The remote port.
    pub remote_port: u16,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub protocol: String,
    /// The stable name of its state.
    pub state: String,
    /// Who opened it: `gateway`, `inside` or `inbound`.
    pub origin: String,
    /// The host behind destination NAT that serves it, with its port.
    pub host: Option<String>,
    /// Seconds since it was opened.
    pub age_s: u64,
    /// Seconds since its last packet.
    pub idle_s: u64,
    /// Packets from the local end.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets from the remote end.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// A name that has the remote address.
    pub name: Option<String>,
    /// The rules that allow it now.
    pub rules: Vec<NamedRule>,
}

/// The answer to [`Request::Kill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Killed {
    /// How many flows were cut.
    pub cut: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_says_is_a_session() {
        let session = |text: &str| {
            let found = Session::from_ssh(text)?;
            Some(format!("{} {} {}", found.client, found.server, found.server_port))
        };
        for (text, expected) in [
            ("10.0.0.2 50000 10.0.0.1 22", Some("10.0.0.2 10.0.0.1 22")),
            ("fe80::2%eth1 50000 fe80::1%eth1 22", Some("fe80::2 fe80::1 22")),
            ("::ffff:10.0.0.2 50000 ::ffff:10.0.0.1 22", Some("10.0.0.2 10.0.0.1 22")),
            ("", None),
            ("UNKNOWN 65535 UNKNOWN 65535", None),
            ("10.0.0.2 50000 10.0.0.1", None),
            ("10.0.0.2 50000 10.0.0.1 22 more", None),
        ] {
            assert_eq!(session(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_plain_reload_is_a_careful_one() {
        let request: ReloadRequest = serde_json::from_str("{}").unwrap();
        assert_eq!(request, ReloadRequest::default());
    }
}
