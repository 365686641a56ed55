// SPDX-License-Identifier: MIT OR GPL-2.0
//! The filter: parse, always allowed, policy, default deny.

use crate::{
    frame::Frame,
    parse::{self, Address, Headers, Payload, parse, protocol},
    tables::{Class, Mode, Tables},
    verdict::{DropReason, PassReason, Verdict},
    wire::{Active, Grant, Observation, Permit, Selector},
};

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
    /// `mode`, from the slot that `active` names.
    #[inline(always)]
    #[must_use]
    pub const fn observation(&self, active: Active, mode: Mode) -> Observation {
        Observation {
            active: active.0,
            permit: match self.verdict {
                Verdict::Permit(permit) => permit.0,
                Verdict::Pass(_) | Verdict::Drop(_) => 0,
            },
            grant: self.grant.0,
            class: self.class.0,
            reason: self.verdict.code(),
            passes: self.verdict.passes(mode) as u8,
            reserved: [0; 2],
        }
    }
}

/// Judges a frame that entered an inside NIC. What was read of it is left in `headers`, which
/// the caller provides because the kernel's stack is too small for it.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    headers: &mut Headers,
) -> Decision {
    *headers = Headers::default();
    let (mut grant, mut class) = (Grant::NONE, Class::NONE);
    let verdict = match judge(frame, tables, headers, &mut grant, &mut class) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    };
    Decision { verdict, grant, class }
}

#[inline(always)]
fn judge<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    headers: &mut Headers,
    grant: &mut Grant,
    class: &mut Class,
) -> Result<Verdict, DropReason> {
    let payload = parse(frame, headers)?;
    let headers = &*headers;
    if let Payload::Control(reason) = payload {
        return Ok(Verdict::Pass(reason));
    }
    *grant = tables.grant(&headers.destination);
    let grant = *grant;
    let own = grant.is_own();
    if let Some(reason) = always_allowed(headers, payload, own)? {
        return Ok(Verdict::Pass(reason));
    }
    check_addresses(headers, own)?;

    *class = tables.class(headers.vlan, &headers.source).ok_or(DropReason::SpoofedSource)?;
    let class = *class;
    if grant.row() == 0 {
        return Err(DropReason::NotListed);
    }
    let selector = match payload {
        Payload::Tcp => Selector::tcp(headers.destination_port),
        Payload::Udp => Selector::udp(headers.destination_port),
        Payload::Icmp { offset, end } => match icmp_kind(headers) {
            IcmpKind::EchoRequest => Selector::ECHO,
            IcmpKind::Error => return icmp_error(frame, tables, headers, (offset, end), grant),
            IcmpKind::Other => return Err(DropReason::IcmpType),
        },
        Payload::Other | Payload::Control(_) => Selector::protocol(headers.protocol),
    };
    match look_up(tables, grant, class, selector)? {
        permit if permit.is_granted() => Ok(Verdict::Permit(permit)),
        _ => match payload {
            Payload::Tcp | Payload::Udp => Err(DropReason::PortNotAllowed),
            Payload::Icmp { .. } | Payload::Other | Payload::Control(_) => {
                Err(DropReason::ProtocolNotAllowed)
            }
        },
    }
}

/// What the tables grant; [`Permit::DENIED`] where only port or protocol is wrong.
#[inline(always)]
fn look_up<T: Tables>(
    tables: &T,
    grant: Grant,
    class: Class,
    selector: Selector,
) -> Result<Permit, DropReason> {
    let ports = tables.port_set(grant, class).ok_or(DropReason::SourceNotAllowed)?;
    Ok(tables.permit(ports, selector))
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
    match payload {
        Payload::Icmp { .. } if headers.ip_version == 6 => match headers.destination_port {
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
        Payload::Udp => match (headers.ip_version, headers.source_port, headers.destination_port) {
            (4, 68, 67) if own || destination.is_broadcast() => Ok(Some(PassReason::DhcpV4)),
            (6, 546, 547) if own || destination.is_dhcp_servers() => Ok(Some(PassReason::DhcpV6)),
            _ => Ok(None),
        },
        Payload::Icmp { .. } | Payload::Tcp | Payload::Other | Payload::Control(_) => Ok(None),
    }
}

/// Addresses that no rule can make right.
#[inline(always)]
fn check_addresses(headers: &Headers, own: bool) -> Result<(), DropReason> {
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
    if destination.is_broadcast() {
        return Err(DropReason::Broadcast);
    }
    if destination.is_loopback() || destination.is_unspecified() || destination.is_ipv4_mapped() {
        return Err(DropReason::InvalidDestination);
    }
    if source.is_link_local() && !own {
        return Err(DropReason::LinkLocalSource);
    }
    Ok(())
}

enum IcmpKind {
    EchoRequest,
    Error,
    Other,
}

/// RFC 792 and RFC 4443, section 2.1.
#[inline(always)]
fn icmp_kind(headers: &Headers) -> IcmpKind {
    match (headers.ip_version, headers.destination_port) {
        (4, 8) | (6, 128) => IcmpKind::EchoRequest,
        (4, 3 | 11 | 12) | (6, 1..=4) => IcmpKind::Error,
        _ => IcmpKind::Other,
    }
}

/// A client may report an error about a packet that it got from a destination it may reach: the
/// quoted packet, turned round, must be one that the policy allows.
#[inline(always)]
fn icmp_error<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    headers: &Headers,
    (offset, end): (u32, u32),
    grant: Grant,
) -> Result<Verdict, DropReason> {
    let quoted = parse::parse_quoted(frame, offset + 8, end, headers.ip_version)
        .ok_or(DropReason::IcmpErrorUnrelated)?;
    // An error goes to the source of what it quotes (RFC 1122, section 3.2.2).
    if quoted.source != headers.destination {
        return Err(DropReason::IcmpErrorUnrelated);
    }
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
