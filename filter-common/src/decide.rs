// SPDX-License-Identifier: MIT OR GPL-2.0
//! The filter: parse, always allowed, then by the NIC's side: policy and flows inside, flows and
//! services outside; default deny.

use crate::{
    egress::Side,
    flow::{self, Flow as _, FlowState, Load, Origin, Way, Workspace},
    frame::Frame,
    outside,
    parse::{Address, Fragment, Headers, Payload, Quoted, parse, parse_quoted, protocol},
    reject::Answer,
    tables::{Class, Mode, Role, Tables},
    verdict::{DropReason, PassReason, Verdict},
    wire::{Active, FlowKey, FlowRecord, Grant, Observation, Permit, Selector, SlotSettings},
};

/// How long a later fragment may come after its first, in seconds: the time that Linux waits for
/// all fragments of a packet (net.ipv4.ipfrag_time).
const FRAGMENT_SECONDS: u64 = 30;

/// RFC 1035, section 4.2.
pub(crate) const DNS_PORT: u16 = 53;

/// A verdict, and what was looked up on the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub verdict: Verdict,
    /// The grant of the destination; [`Grant::NONE`] where it was not looked up or not found.
    ///
    /// It is no `Option`, because the compiler copies what an empty one leaves undefined, which
    /// the kernel's verifier refuses.
    pub grant: Grant,
    /// The class of the source; [`Class::NONE`] where it was not looked up or not found.
    pub class: Class,
}

// === impl Decision ===

impl Decision {
    /// The decision as an observing instance writes it down, and the host expects it: taken in
    /// `mode`, from the slot that `active` names; `answer` is what the client would get.
    #[inline(always)]
    #[must_use]
    pub const fn observation(&self, active: Active, mode: Mode, answer: Answer) -> Observation {
        Observation {
            active: active.0,
            permit: match self.verdict {
                Verdict::Permit(permit) => permit.0,
                Verdict::Pass(_) | Verdict::Drop(_) => 0,
            },
            grant: self.grant.unmarked().0,
            class: self.class.0,
            reason: self.verdict.code(),
            passes: self.verdict.passes(mode) as u8,
            answer: answer.code(),
            reserved: 0,
        }
    }
}

/// Judges a frame that entered an inside NIC. What was read of it is left in `workspace`.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
) -> Decision {
    decide_on(Side::Inside, frame, tables, workspace)
}

/// Judges a frame that entered a NIC of a side.
#[inline(always)]
pub(crate) fn decide_on<F: Frame + ?Sized, T: Tables>(
    side: Side,
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
) -> Decision {
    workspace.headers = Headers::default();
    let (mut grant, mut class) = (Grant::NONE, Class::NONE);
    let verdict = match judge(side, frame, tables, workspace, (&mut grant, &mut class)) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    };
    Decision { verdict, grant, class }
}

#[inline(always)]
fn judge<F: Frame + ?Sized, T: Tables>(
    side: Side,
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    (grant, class): (&mut Grant, &mut Class),
) -> Result<Verdict, DropReason> {
    let payload = parse(frame, &mut workspace.headers)?;
    let headers = &workspace.headers;
    if let Payload::Control(reason) = payload {
        return Ok(Verdict::Pass(reason));
    }
    let payload = payload.forget(frame);
    let frame = &frame.anew();
    *grant = tables.grant(&headers.destination);
    let grant = *grant;
    let allowed = match side {
        Side::Inside => always_allowed(headers, payload, grant.is_own())?,
        Side::Outside => outside::always_allowed(headers, payload, grant.is_own())?,
    };
    if let Some(reason) = allowed {
        return Ok(Verdict::Pass(reason));
    }
    check_addresses(headers, grant)?;
    *class = tables.class(headers.vlan, &headers.source).ok_or(DropReason::SpoofedSource)?;
    if payload == Payload::Later {
        return later_fragment(tables, workspace);
    }
    let verdict = match side {
        Side::Inside => inside(frame, tables, workspace, payload, (grant, *class))?,
        Side::Outside => outside::judge(frame, tables, workspace, payload, (grant, *class))?,
    };
    remember(tables, workspace);
    Ok(verdict)
}

/// What the policy says of a client's packet, and where it denies it, what flows say.
#[inline(always)]
fn inside<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
    (grant, class): (Grant, Class),
) -> Result<Verdict, DropReason> {
    if payload == Payload::Icmp && icmp_kind(&workspace.headers) == IcmpKind::Error {
        let Workspace { headers, quoted, .. } = &mut *workspace;
        read_quoted(frame, headers, quoted)?;
    }
    let settings = tables.settings();
    let to_forwarder = settings.flags & SlotSettings::INTERCEPT != 0
        && !grant.is_own()
        && is_question(&workspace.headers, payload);
    let judged = if to_forwarder {
        Ok(intercept(settings, &workspace.headers)?)
    } else {
        policy(tables, workspace, payload, grant, class)
    };
    match judged {
        Ok(verdict) => {
            // Only what a rule lets pass: whoever may not go there can't keep an address alive.
            // Most packets find the mark set and pay for no more than this test; the first one
            // after user space has taken the mark looks the destination up once more, so that no
            // pointer to the entry has to be carried, and followed by the verifier, from the first
            // look-up to here.
            if let Verdict::Permit(_) = verdict
                && !grant.is_used()
            {
                tables.mark_used(&workspace.headers.destination);
            }
            // Who is led to the forwarder asks the gateway, too: its answer leaves with the address of
            // the resolver that the client meant.
            if (grant.is_own() || to_forwarder) && settings.flags & SlotSettings::FOLLOW != 0 {
                asked(frame, tables, workspace, payload)?;
            }
            Ok(verdict)
        }
        Err(reason) => of_flow(frame, tables, workspace, payload, (grant, reason)),
    }
}

/// Whether a packet goes to the port of DNS, wherever it goes.
#[inline(always)]
pub(crate) fn is_question(headers: &Headers, payload: Payload) -> bool {
    matches!(payload, Payload::Tcp | Payload::Udp) && headers.destination_port == DNS_PORT
}

/// A question to another resolver passes here to be redirected by the kernel, before any rule is
/// asked: one that allows the other resolver would open the way past the forwarder.
#[inline(always)]
fn intercept(settings: SlotSettings, headers: &Headers) -> Result<Verdict, DropReason> {
    let forwarder = match headers.ip_version {
        4 => SlotSettings::FORWARDER_V4,
        _ => SlotSettings::FORWARDER_V6,
    };
    if settings.flags & forwarder == 0 {
        return Err(DropReason::DnsNotIntercepted);
    }
    Ok(Verdict::Pass(PassReason::DnsIntercepted))
}

/// Notes what a client asks the gateway itself, unless that answers the gateway's own question.
#[inline(always)]
fn asked<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
) -> Result<(), DropReason> {
    let Workspace { headers, key, record, .. } = workspace;
    if payload == Payload::Icmp && icmp_kind(headers) != IcmpKind::EchoRequest {
        return Ok(());
    }
    let (protocol, flags) = (headers.protocol, headers.tcp_flags);
    key.set(headers, Way::Incoming);
    if let Some(found) = tables.flow(key)
        && found.is_live(tables.clock(), protocol)
    {
        if found.origin().is_local() {
            return Ok(());
        }
        match flow::incoming(found.state(), found.origin(), protocol, flags) {
            Ok(state) => {
                advance(frame, tables, &found, state);
                return Ok(());
            }
            Err(DropReason::FlowCut) if protocol != protocol::TCP || !flow::opens(flags) => {
                return Err(DropReason::FlowCut);
            }
            // The gateway's own services know their connections themselves.
            Err(_) => {}
        }
    }
    let opening = protocol != protocol::TCP || flow::opens(flags);
    let state = if opening { FlowState::Opening } else { FlowState::Established };
    *record = FlowRecord::open(tables.clock(), state, Origin::Client);
    record.count(Way::Incoming, Load { packets: 1, bytes: frame.len() });
    tables.open_flow(key, record);
    Ok(())
}

/// What the rules say.
#[inline(always)]
fn policy<T: Tables>(
    tables: &T,
    workspace: &Workspace,
    payload: Payload,
    grant: Grant,
    class: Class,
) -> Result<Verdict, DropReason> {
    let headers = &workspace.headers;
    if grant.row() == 0 {
        return Err(DropReason::NotListed);
    }
    let selector = match payload {
        Payload::Icmp if icmp_kind(headers) == IcmpKind::Error => {
            return icmp_error(tables, headers, &workspace.quoted, grant);
        }
        _ => selector(headers, payload).ok_or(DropReason::IcmpType)?,
    };
    match look_up(tables, grant, class, selector)? {
        permit if permit.is_granted() => Ok(Verdict::Permit(permit)),
        _ => match payload {
            Payload::Tcp | Payload::Udp => Err(DropReason::PortNotAllowed),
            Payload::Icmp | Payload::Other | Payload::Control(_) | Payload::Later => {
                Err(DropReason::ProtocolNotAllowed)
            }
        },
    }
}

/// What rules know a packet by; `None` for ICMP that no rule can name.
#[inline(always)]
pub(crate) fn selector(headers: &Headers, payload: Payload) -> Option<Selector> {
    match payload {
        Payload::Tcp => Some(Selector::tcp(headers.destination_port)),
        Payload::Udp => Some(Selector::udp(headers.destination_port)),
        Payload::Icmp => match icmp_kind(headers) {
            IcmpKind::EchoRequest => Some(Selector::ECHO),
            IcmpKind::EchoReply | IcmpKind::Error | IcmpKind::Other => None,
        },
        Payload::Other | Payload::Control(_) | Payload::Later => {
            Some(Selector::protocol(headers.protocol))
        }
    }
}

/// What the tables grant; [`Permit::DENIED`] where only port or protocol is wrong.
#[inline(always)]
pub(crate) fn look_up<T: Tables>(
    tables: &T,
    grant: Grant,
    class: Class,
    selector: Selector,
) -> Result<Permit, DropReason> {
    let ports = tables.port_set(grant, class).ok_or(DropReason::SourceNotAllowed)?;
    Ok(tables.permit(ports, selector))
}

/// A packet that the policy denies for a reason may belong to a flow that was opened towards the
/// client, or that is kept.
#[inline(always)]
fn of_flow<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
    (grant, reason): (Grant, DropReason),
) -> Result<Verdict, DropReason> {
    let Workspace { headers, key, quoted, .. } = workspace;
    let flags = tables.settings().flags;
    let kind = match payload {
        Payload::Icmp => icmp_kind(headers),
        // A connection that a client opens is the policy's affair alone.
        Payload::Tcp if flow::opens(headers.tcp_flags) => return Err(reason),
        _ => IcmpKind::EchoReply,
    };
    if kind == IcmpKind::Other {
        return Err(reason);
    }
    if flags & SlotSettings::FOLLOW != 0 && (grant.is_own() || tables.may_have_answers()) {
        // A packet of a flow that was opened to the client, by the gateway or from behind another
        // inside NIC; or an error about one.
        match kind {
            IcmpKind::Error => key.set_quoted(quoted, headers.ip_version, Way::Outgoing),
            _ => key.set(headers, Way::Incoming),
        }
        if let Some(found) = tables.flow(key)
            && found.origin().is_local()
            && found.is_live(tables.clock(), key.protocol)
        {
            if kind == IcmpKind::Error {
                return quoted_in(&found);
            }
            return reply(frame, tables, headers, &found);
        }
        // A packet of a flow that was opened from outside; or an error about one.
        match kind {
            IcmpKind::Error => key.set_quoted(quoted, headers.ip_version, Way::Incoming),
            _ => key.set(headers, Way::Outgoing),
        }
        let mut serving = serves(tables, key, Origin::Inbound);
        if !serving {
            key.local_port = 0;
            serving = serves(tables, key, Origin::InboundHost);
        }
        if serving {
            return Ok(Verdict::Pass(match kind {
                IcmpKind::Error => PassReason::IcmpError,
                _ => PassReason::Reply,
            }));
        }
    }
    if flags & SlotSettings::KEEP != 0 && kind != IcmpKind::Error {
        key.set(headers, Way::Outgoing);
        if tables.is_kept(key) {
            return Ok(Verdict::Pass(PassReason::KeptFlow));
        }
    }
    Err(reason)
}

/// A packet from the remote end of a live flow that the local end opened.
#[inline(always)]
pub(crate) fn reply<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    headers: &Headers,
    found: &T::Flow,
) -> Result<Verdict, DropReason> {
    let state = flow::incoming(found.state(), found.origin(), headers.protocol, headers.tcp_flags)?;
    advance(frame, tables, found, state);
    Ok(Verdict::Pass(PassReason::Reply))
}

/// Notes an incoming packet of a flow.
#[inline(always)]
pub(crate) fn advance<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    found: &T::Flow,
    state: FlowState,
) {
    if tables.role() == Role::Enforcing {
        let load = Load { packets: 1, bytes: frame.len() };
        found.advance(tables.clock().now, state, Way::Incoming, load);
    }
}

/// Whether a host answers in a flow that was opened from outside. Its packet is counted when it
/// leaves. After a reset, by either end, there is nothing to answer.
#[inline(always)]
fn serves<T: Tables>(tables: &T, key: &FlowKey, origin: Origin) -> bool {
    match tables.flow(key) {
        Some(found) => {
            found.origin() == origin
                && !matches!(found.state(), FlowState::Cut | FlowState::Reset)
                && found.is_live(tables.clock(), key.protocol)
        }
        None => false,
    }
}

/// An ICMP error about a packet of a live flow.
#[inline(always)]
pub(crate) fn quoted_in<F: flow::Flow>(found: &F) -> Result<Verdict, DropReason> {
    match found.state() {
        FlowState::Cut => Err(DropReason::IcmpErrorUnrelated),
        _ => Ok(Verdict::Pass(PassReason::IcmpError)),
    }
}

/// Reads the packet that an ICMP error quotes. An error goes to the source of what it quotes
/// (RFC 1122, section 3.2.2).
#[inline(always)]
pub(crate) fn read_quoted<F: Frame + ?Sized>(
    frame: &F,
    headers: &Headers,
    quoted: &mut Quoted,
) -> Result<(), DropReason> {
    let begin = headers.transport.saturating_add(8);
    match parse_quoted(frame, begin, headers.end, headers.ip_version, quoted) {
        Some(()) if quoted.source == headers.destination => Ok(()),
        Some(()) | None => Err(DropReason::IcmpErrorUnrelated),
    }
}

/// A later fragment goes the way of its first.
#[inline(always)]
pub(crate) fn later_fragment<T: Tables>(
    tables: &T,
    workspace: &mut Workspace,
) -> Result<Verdict, DropReason> {
    let Workspace { headers, fragment, .. } = workspace;
    fragment.set(headers, tables.nic());
    match tables.first_fragment(fragment) {
        Some(passed) if tables.clock().is_within(passed, FRAGMENT_SECONDS) => {
            Ok(Verdict::Pass(PassReason::Fragment))
        }
        Some(_) | None => Err(DropReason::FragmentWithoutFirst),
    }
}

/// Remembers a first fragment that passes.
#[inline(always)]
pub(crate) fn remember<T: Tables>(tables: &T, workspace: &mut Workspace) {
    let Workspace { headers, fragment, .. } = workspace;
    if headers.fragment == Fragment::First {
        fragment.set(headers, tables.nic());
        tables.remember_first_fragment(fragment, tables.clock().now);
    }
}

/// What passes without a rule, because no network works without it. Each is as narrow as its
/// standard allows; what only looks like it is dropped.
#[inline(always)]
fn always_allowed(
    headers: &Headers,
    payload: Payload,
    own: bool,
) -> Result<Option<PassReason>, DropReason> {
    let destination = &headers.destination;
    if payload == Payload::Udp {
        let ports = (headers.ip_version, headers.source_port, headers.destination_port);
        match ports {
            (4, 68, 67) if own || destination.is_broadcast() => {
                return Ok(Some(PassReason::DhcpV4));
            }
            (6, 546, 547) if own || destination.is_dhcp_servers() => {
                return Ok(Some(PassReason::DhcpV6));
            }
            _ => {}
        }
    }
    link_control(headers, payload, own)
}

/// What hosts of a link need to find one another, on inside and outside NICs alike.
#[inline(always)]
pub(crate) fn link_control(
    headers: &Headers,
    payload: Payload,
    own: bool,
) -> Result<Option<PassReason>, DropReason> {
    let destination = &headers.destination;
    match payload {
        Payload::Icmp if headers.ip_version == 6 => match headers.destination_port {
            // Neighbour discovery (RFC 4861, sections 6.1 and 7.1): never forwarded, so the hop
            // limit proves that the sender is on the link.
            133..=137 => {
                let partner =
                    own || destination.is_link_local() || destination.is_link_local_multicast();
                if headers.hop_limit == 255 && partner {
                    Ok(Some(PassReason::NeighbourDiscovery))
                } else {
                    Err(DropReason::MisplacedControl)
                }
            }
            // Multicast listener discovery (RFC 3810, section 5).
            130..=132 | 143 => {
                let source = headers.source.is_link_local() || headers.source.is_unspecified();
                if headers.hop_limit == 1 && destination.is_multicast() && source {
                    Ok(Some(PassReason::Mld))
                } else {
                    Err(DropReason::MisplacedControl)
                }
            }
            _ => Ok(None),
        },
        // RFC 3376, section 4.
        Payload::Other
            if headers.ip_version == 4
                && headers.protocol == protocol::IGMP
                && destination.is_multicast() =>
        {
            if headers.hop_limit == 1 {
                Ok(Some(PassReason::Igmp))
            } else {
                Err(DropReason::MisplacedControl)
            }
        }
        Payload::Icmp
        | Payload::Tcp
        | Payload::Udp
        | Payload::Other
        | Payload::Control(_)
        | Payload::Later => Ok(None),
    }
}

/// Addresses that no rule can make right.
#[inline(always)]
fn check_addresses(headers: &Headers, grant: Grant) -> Result<(), DropReason> {
    let Headers { source, destination, .. } = headers;
    if source.is_multicast()
        || source.is_broadcast()
        || source.is_loopback()
        || source.is_unspecified()
        || source.is_ipv4_mapped()
    {
        return Err(DropReason::InvalidSource);
    }
    if destination.is_multicast() {
        return Err(DropReason::Multicast);
    }
    if destination.is_broadcast() || grant.is_closed() {
        return Err(DropReason::Broadcast);
    }
    if destination.is_loopback() || destination.is_unspecified() || destination.is_ipv4_mapped() {
        return Err(DropReason::InvalidDestination);
    }
    if source.is_link_local() && !grant.is_own() {
        return Err(DropReason::LinkLocalSource);
    }
    Ok(())
}

/// What an ICMP message is, as far as it makes a difference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IcmpKind {
    EchoRequest,
    EchoReply,
    Error,
    Other,
}

/// RFC 792 and RFC 4443, section 2.1.
#[inline(always)]
pub(crate) fn icmp_kind(headers: &Headers) -> IcmpKind {
    match (headers.ip_version, headers.destination_port) {
        (4, 8) | (6, 128) => IcmpKind::EchoRequest,
        (4, 0) | (6, 129) => IcmpKind::EchoReply,
        (4, 3 | 11 | 12) | (6, 1..=4) => IcmpKind::Error,
        _ => IcmpKind::Other,
    }
}

/// A client may report an error about a packet that it got from a destination it may reach: the
/// quoted packet, turned round, must be one that the policy allows.
#[inline(always)]
fn icmp_error<T: Tables>(
    tables: &T,
    headers: &Headers,
    quoted: &Quoted,
    grant: Grant,
) -> Result<Verdict, DropReason> {
    let client: &Address = &quoted.destination;
    let class = tables.class(headers.vlan, client).ok_or(DropReason::IcmpErrorUnrelated)?;
    let selector = match (quoted.protocol, quoted.source_port) {
        (protocol::TCP, port) => Selector::tcp(port),
        (protocol::UDP, port) => Selector::udp(port),
        (protocol::ICMP, 0) if headers.ip_version == 4 => Selector::ECHO,
        (protocol::ICMPV6, 129) if headers.ip_version == 6 => Selector::ECHO,
        (protocol::ICMP | protocol::ICMPV6, _) => return Err(DropReason::IcmpErrorUnrelated),
        (other, _) => Selector::protocol(other),
    };
    match look_up(tables, grant, class, selector)? {
        permit if permit.is_granted() => Ok(Verdict::Pass(PassReason::IcmpError)),
        _ => Err(DropReason::IcmpErrorUnrelated),
    }
}
