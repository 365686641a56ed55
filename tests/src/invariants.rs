// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds of the filter's verdict on any bytes whatever, over the [`RichPolicy`].
//!
//! Fuzzing runs this, and so does the corpus test. Each property says what is wrong in words, as
//! the frame alone rarely tells.

use std::net::IpAddr;

use filter_common::{
    decide::{Decision, decide},
    fast_path::fast_inside,
    flow::Workspace,
    frame::Frame,
    parse::{Address, Headers, ethertype, protocol},
    reject::{Answer, answer_to},
    tables::{Mode, Tables as _},
    verdict::{DropReason, PassReason, Verdict},
    wire::{
        AUDITED, AddressPair, COUNTERS_PER_NIC, FIRST_MATCH, FlowKey, Grant, Permit, SlotSettings,
    },
};
use filter_user::compile::{MatchKey, View};
use ipnet::IpNet;

use crate::{
    answers,
    model::{Packet, Service, model},
    rich_policy::RichPolicy,
};

/// The gateway's own addresses on each NIC: of one family only, so that errors of the other come
/// from where the packet was to go.
pub const GATEWAY: AddressPair = AddressPair { v4: [10, 0, 10, 1], v6: [0; 16] };

/// At how many lengths a frame is cut to look at its beginning alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// At a few, for speed.
    Some,
    /// At every one.
    All,
}

/// A decision, with what was read of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The decision.
    pub decision: Decision,
    /// The headers.
    pub headers: Headers,
    /// What the client is told.
    pub answer: Answer,
}

/// Judges a frame.
pub fn judge<F: Frame + ?Sized>(frame: &F, view: &View<'_>) -> Judged {
    let mut workspace = Workspace::default();
    let decision = decide(frame, view, &mut workspace);
    // Afterwards, as it leaves marks, too.
    let mut key = FlowKey::default();
    if let Some(fast) = fast_inside(frame, view, || Some(&mut key), |verdict| verdict) {
        assert_eq!(fast, decision.verdict, "the fast path and the filter differ");
    }
    let headers = workspace.headers;
    let settings = view.settings();
    let mode = if settings.mode == SlotSettings::AUDIT { Mode::Audit } else { Mode::Enforce };
    let answer = answer_to(frame, &headers, decision.verdict, mode, settings);
    Judged { decision, headers, answer }
}

/// Checks everything that holds of a frame, on each NIC of the policy and on none.
///
/// # Errors
///
/// What doesn't hold.
pub fn check(rich: &RichPolicy, frame: &[u8], cuts: Cuts) -> Result<(), String> {
    for nic in RichPolicy::NICS {
        check_on(rich, nic, frame, cuts).map_err(|what| format!("NIC {nic}: {what}"))?;
    }
    let nowhere = judge(frame, &rich.view(RichPolicy::NO_NIC));
    check_codes(nowhere.decision)?;
    match nowhere.decision.verdict {
        Verdict::Permit(_) | Verdict::Pass(PassReason::IcmpError) => {
            Err(format!("passes from a NIC that is none: {nowhere:?}"))
        }
        Verdict::Pass(_) | Verdict::Drop(_) => Ok(()),
    }
}

fn check_on(rich: &RichPolicy, nic: u8, frame: &[u8], cuts: Cuts) -> Result<(), String> {
    let view = rich.view(nic);
    let judged = judge(frame, &view);
    ensure(judge(frame, &view) == judged, || {
        format!("another verdict the second time: {judged:?}")
    })?;
    check_codes(judged.decision)?;
    check_reason(rich, nic, &judged)?;
    check_answer(frame, &judged).map_err(|what| format!("{:?}: {what:#}", judged.answer))?;
    check_empty(&judge(frame, &rich.empty_view(nic)), &judged)?;

    for length in lengths(frame, cuts) {
        let short = judge(frame.get(..length).unwrap_or(frame), &view);
        ensure(follows(&short, &judged), || {
            format!("cut to {length} bytes: {short:?}, whole: {judged:?}")
        })?;
    }
    if let Some(end) = ip_end(frame) {
        let bare = frame.get(..end).map_or(judged, |bare| judge(bare, &view));
        let both_dropped =
            [bare, judged].map(|one| one.decision.verdict.passes(Mode::Enforce)) == [false, false];
        ensure(bare == judged || both_dropped, || {
            format!("without what follows the packet: {bare:?}, with it: {judged:?}")
        })?;
    }
    let padded = judge([frame, &[0; 6]].concat().as_slice(), &view);
    ensure(follows(&judged, &padded), || format!("padded: {padded:?}, whole: {judged:?}"))
}

/// What is answered may be, and gets what it has to get.
fn check_answer(frame: &[u8], judged: &Judged) -> anyhow::Result<()> {
    if judged.answer == Answer::None {
        return Ok(());
    }
    answers::may_be_answered(frame)?;
    let answer = answers::make(frame, &judged.headers, judged.answer, &GATEWAY)?;
    answers::check(frame, &answer, judged.answer)
}

/// Codes and counters lie where each kind of verdict has its own.
fn check_codes(decision: Decision) -> Result<(), String> {
    let verdict = decision.verdict;
    let enforced = verdict.counter(Mode::Enforce);
    let audited = verdict.counter(Mode::Audit);
    let code = u32::from(verdict.code());
    let (codes, counters, passes) = match verdict {
        Verdict::Permit(permit) => {
            ensure(permit.is_granted(), || "a permit that grants nothing".to_owned())?;
            (
                1..64,
                enforced == audited && (FIRST_MATCH..COUNTERS_PER_NIC).contains(&enforced),
                true,
            )
        }
        Verdict::Pass(_) => (1..64, enforced == code && audited == code, true),
        Verdict::Drop(_) => (64..128, enforced == code && audited == AUDITED + code, false),
    };
    ensure(codes.contains(&code), || format!("{verdict:?} has the code {code}"))?;
    ensure(counters, || format!("{verdict:?} counts at {enforced} and {audited}"))?;
    ensure(verdict.passes(Mode::Enforce) == passes && verdict.passes(Mode::Audit), || {
        format!("{verdict:?} is not carried out")
    })
}

/// The reason is the one that the headers and the naive model of the policy give.
fn check_reason(rich: &RichPolicy, nic: u8, judged: &Judged) -> Result<(), String> {
    let Judged { decision, headers, .. } = judged;
    match decision.verdict {
        Verdict::Permit(permit) => check_permit(rich, nic, headers, permit),
        Verdict::Pass(reason) => {
            let own = rich.host.own.contains(&address(&headers.destination));
            ensure(is_always_allowed(reason, headers, own, decision.grant), || {
                format!("passes as {}, which it is not: {headers:?}", reason.name())
            })
        }
        Verdict::Drop(reason) => {
            let of_policy = match reason {
                // Most fuzzed frames end here, and the whole model takes its time.
                DropReason::SpoofedSource => {
                    return ensure(is_spoofed(rich, nic, headers), || {
                        format!("dropped as spoofed: {headers:?}")
                    });
                }
                DropReason::NotListed | DropReason::LinkLocalSource => true,
                // An error of ICMP is judged by what it quotes.
                DropReason::PortNotAllowed
                | DropReason::ProtocolNotAllowed
                | DropReason::SourceNotAllowed => !is_icmp(headers) || is_echo(headers),
                _ => false,
            };
            let packet = packet(nic, headers);
            let expected = || {
                let expected = model(&rich.policy, &rich.names, &rich.host, &packet);
                expected.verdict(packet.service)
            };
            ensure(!of_policy || expected() == Err(reason), || {
                format!("dropped as {}, the rules say {:?}: {packet:?}", reason.name(), expected())
            })
        }
    }
}

/// A permit belongs to a match, and its rules are those that allow the packet as they are written.
fn check_permit(
    rich: &RichPolicy,
    nic: u8,
    headers: &Headers,
    permit: Permit,
) -> Result<(), String> {
    let meaning = &rich.compiled.meaning;
    let matched = meaning
        .counter(permit.counter())
        .ok_or_else(|| format!("{permit:?} counts for no match"))?;
    ensure(permit.reason() == Some(matched.reason), || {
        format!("{permit:?} has another reason than its match: {matched:?}")
    })?;
    let rules = matched.rules.iter().filter_map(|rule| meaning.rule(*rule));
    let found: MatchKey = rules.map(|rule| (rule.reason, rule.name.clone())).collect();
    let packet = packet(nic, headers);
    let expected = model(&rich.policy, &rich.names, &rich.host, &packet);
    ensure(!found.is_empty() && found == expected.allowing, || {
        format!("allowed by {found:?}, the rules say {expected:?}: {packet:?}")
    })?;
    ensure(expected.verdict(packet.service).ok() == permit.reason(), || {
        format!("passes as {:?}, the rules say {expected:?}: {packet:?}", permit.reason())
    })
}

/// Empty tables let through nothing but what is always allowed, and full ones let that through as
/// well.
fn check_empty(empty: &Judged, full: &Judged) -> Result<(), String> {
    match empty.decision.verdict {
        Verdict::Drop(_) => Ok(()),
        Verdict::Permit(_) | Verdict::Pass(PassReason::IcmpError) => {
            Err(format!("passes without a policy: {empty:?}"))
        }
        Verdict::Pass(_) => ensure(empty.decision.verdict == full.decision.verdict, || {
            format!("without a policy: {empty:?}, with one: {full:?}")
        }),
    }
}

/// Whether the headers are such as the reason says; nothing wider passes without a rule.
fn is_always_allowed(reason: PassReason, headers: &Headers, own: bool, grant: Grant) -> bool {
    let Headers { source, destination, .. } = headers;
    let kind = headers.destination_port;
    let link = |expected| headers.ethertype == expected && headers.ip_version == 0;
    let ip = |version, expected| headers.ip_version == version && headers.protocol == expected;
    let ports = (headers.source_port, headers.destination_port);
    match reason {
        PassReason::Rule
        | PassReason::Management
        | PassReason::DnsForwarder
        | PassReason::Inbound => false,
        // The policy has no forwarder that questions are led to.
        PassReason::DnsIntercepted => false,
        // Without a memory there are none, and nothing leaves here.
        PassReason::Reply
        | PassReason::Fragment
        | PassReason::KeptFlow
        | PassReason::Forwarded
        | PassReason::Own => false,
        PassReason::Arp => link(ethertype::ARP),
        PassReason::Lldp => link(ethertype::LLDP),
        PassReason::Lacp => link(ethertype::SLOW),
        PassReason::Eapol => link(ethertype::EAPOL),
        PassReason::PppoeDiscovery => link(ethertype::PPPOE_DISCOVERY),
        PassReason::PppControl => link(ethertype::PPPOE_SESSION),
        PassReason::NeighbourDiscovery => {
            let partner =
                own || destination.is_link_local() || destination.is_link_local_multicast();
            ip(6, protocol::ICMPV6)
                && (133..=137).contains(&kind)
                && headers.hop_limit == 255
                && partner
        }
        PassReason::Mld => {
            let kind = (130..=132).contains(&kind) || kind == 143;
            let source = source.is_link_local() || source.is_unspecified();
            ip(6, protocol::ICMPV6)
                && kind
                && headers.hop_limit == 1
                && destination.is_multicast()
                && source
        }
        PassReason::Igmp => {
            ip(4, protocol::IGMP) && headers.hop_limit == 1 && destination.is_multicast()
        }
        PassReason::DhcpV4 => {
            ip(4, protocol::UDP) && ports == (68, 67) && (own || destination.is_broadcast())
        }
        PassReason::DhcpV6 => {
            ip(6, protocol::UDP) && ports == (546, 547) && (own || destination.is_dhcp_servers())
        }
        PassReason::IcmpError => {
            let four = ip(4, protocol::ICMP) && [3, 11, 12].contains(&kind);
            let six = ip(6, protocol::ICMPV6) && (1..=4).contains(&kind);
            (four || six) && grant.row() != 0
        }
    }
}

/// Whether the verdict on a beginning is either that something is missing, or that on the whole.
fn follows(short: &Judged, whole: &Judged) -> bool {
    match short.decision.verdict {
        Verdict::Drop(
            DropReason::TruncatedEthernet
            | DropReason::TruncatedIp
            | DropReason::IcmpErrorUnrelated,
        ) => true,
        _ => short == whole,
    }
}

fn lengths(frame: &[u8], cuts: Cuts) -> Vec<usize> {
    let length = frame.len();
    match cuts {
        Cuts::All => (0..length).collect(),
        Cuts::Some => vec![length.saturating_sub(1), length.saturating_sub(9), length / 2],
    }
}

/// Where the IP packet in a frame ends, by what it says itself.
fn ip_end(frame: &[u8]) -> Option<usize> {
    let be16 = |at: usize| {
        let bytes = frame.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    let mut at = 12;
    while let ethertype::VLAN | ethertype::SERVICE_VLAN = be16(at)? {
        at += 4;
    }
    let (packet, kind) = match (be16(at)?, be16(at + 8)) {
        (ethertype::PPPOE_SESSION, Some(0x0021)) => (at + 10, ethertype::IPV4),
        (ethertype::PPPOE_SESSION, Some(0x0057)) => (at + 10, ethertype::IPV6),
        (kind, _) => (at + 2, kind),
    };
    let end = match kind {
        ethertype::IPV4 => packet + usize::from(be16(packet + 2)?),
        ethertype::IPV6 => packet + 40 + usize::from(be16(packet + 4)?),
        _ => return None,
    };
    // What is stated to be shorter than its own header is dropped, with or without the rest.
    (end >= packet + 20).then_some(end)
}

fn packet(nic: u8, headers: &Headers) -> Packet {
    let service = match headers.protocol {
        protocol::TCP => Service::Tcp(headers.destination_port),
        protocol::UDP => Service::Udp(headers.destination_port),
        _ if is_echo(headers) => Service::Echo,
        other => Service::Protocol(other),
    };
    Packet {
        nic,
        vlan: headers.vlan,
        source: address(&headers.source),
        destination: address(&headers.destination),
        service,
    }
}

/// As the policy says it: the gateway's own addresses come from nowhere, and others from where the
/// longest route to them leads.
fn is_spoofed(rich: &RichPolicy, nic: u8, headers: &Headers) -> bool {
    let source = address(&headers.source);
    if rich.host.own.contains(&source) {
        return true;
    }
    let longest = |prefixes: &[IpNet]| {
        let around = prefixes.iter().filter(|prefix| prefix.contains(&source));
        around.map(IpNet::prefix_len).max()
    };
    let nic = rich.host.nics.iter().find(|of_host| of_host.slot == nic);
    let plausible = nic.is_some_and(|nic| {
        let here = longest(&nic.plausible);
        here.is_some() && here >= longest(&nic.elsewhere)
    });
    !plausible && !headers.source.is_link_local()
}

fn is_icmp(headers: &Headers) -> bool {
    matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6)
}

fn is_echo(headers: &Headers) -> bool {
    matches!(
        (headers.protocol, headers.destination_port),
        (protocol::ICMP, 8) | (protocol::ICMPV6, 128)
    )
}

fn address(address: &Address) -> IpAddr {
    match *address {
        Address::V4(octets) => octets.into(),
        Address::V6(octets) => octets.into(),
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
