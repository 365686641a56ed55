// SPDX-License-Identifier: MIT OR GPL-2.0
//! Bytes to headers: Ethernet, up to two VLAN tags, PPPoE, IPv4, IPv6 with extension headers,
//! TCP, UDP and ICMP.
//!
//! What the parser is not sure of is a [`DropReason`], never a guess.

pub use crate::address::Address;
use crate::{
    frame::Frame,
    verdict::{DropReason, PassReason},
};

/// IPv6 extension headers that are followed; a packet with more is dropped.
pub const MAX_EXTENSION_HEADERS: u32 = 6;
/// IPv4 options that are looked at; a packet with more is dropped.
pub const MAX_IPV4_OPTIONS: u32 = 16;

/// Ethertypes (IEEE 802 numbers).
pub mod ethertype {
    /// Below this the field is a length (IEEE 802.3).
    pub const FIRST: u16 = 0x0600;
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Slow protocols (LACP).
    pub const SLOW: u16 = 0x8809;
    /// PPPoE discovery.
    pub const PPPOE_DISCOVERY: u16 = 0x8863;
    /// PPPoE session.
    pub const PPPOE_SESSION: u16 = 0x8864;
    /// EAPOL.
    pub const EAPOL: u16 = 0x888e;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// LLDP.
    pub const LLDP: u16 = 0x88cc;
}

/// IP protocol numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// What was read of a frame so far. Fields that were not reached are 0 or unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The source address.
    pub source: Address,
    /// The destination address.
    pub destination: Address,
    /// The source port; 0 where the transport has none.
    pub source_port: u16,
    /// The destination port, or the ICMP type; 0 where the transport has neither.
    pub destination_port: u16,
    /// The outermost VLAN id; 0: untagged or priority-tagged.
    pub vlan: u16,
    /// The Ethertype behind the tags.
    pub ethertype: u16,
    /// 4, 6, or 0 where no IP header was read.
    pub ip_version: u8,
    /// The transport protocol.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP's flags (RFC 9293, section 3.1); 0 for other protocols.
    pub tcp_flags: u8,
    /// The identifier of an ICMP echo request or reply; else 0.
    pub echo: u16,
    /// The identification of the packet's fragments; 0 for IPv6 packets that are whole.
    pub identification: u32,
    /// Which part of a packet it is.
    pub fragment: Fragment,
    /// Where the IP header begins, in bytes from the start of the frame.
    pub network: u32,
    /// Where the transport header begins.
    pub transport: u32,
    /// Where what the transport carries begins; TCP and UDP only.
    pub data: u32,
    /// Where the packet ends. What follows in the frame is padding.
    pub end: u32,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A frame of a link protocol that is always allowed.
    Control(PassReason),
    /// TCP, with the ports in [`Headers`].
    Tcp,
    /// UDP, with the ports in [`Headers`].
    Udp,
    /// ICMP or ICMPv6, with the type in [`Headers`].
    Icmp,
    /// Another IP protocol.
    Other,
    /// A later fragment, whose transport header stands in the first one.
    Later,
}

/// The packet that an ICMP error quotes, as far as it says which exchange it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its source.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// Its transport protocol.
    pub protocol: u8,
    /// TCP and UDP: the source port. ICMP: the type.
    pub source_port: u16,
    /// TCP and UDP: the destination port.
    pub destination_port: u16,
    /// The identifier of an ICMP echo request or reply; else 0.
    pub echo: u16,
}

/// Which part of a packet it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    #[default]
    Whole,
    /// The fragment at offset 0 of a packet with more.
    First,
    /// One at a higher offset.
    Later,
}

/// What a PPPoE session carries.
enum PppProtocol {
    /// IP, by its Ethertype.
    Ip(u16),
    /// A control protocol.
    Control,
}

/// An IP packet behind its header. Both families come together here, so that the transport is read
/// in one place, which the kernel's verifier then follows once.
struct IpPacket {
    /// Where its transport header begins.
    transport: u32,
    /// Where it ends.
    end: u32,
    fragment: Fragment,
    /// The fragment's offset in the packet, in bytes; 0 but in later ones.
    fragment_offset: u32,
}

// === impl Payload ===

impl Payload {
    /// The same payload, of which the verifier doesn't know how it was found out.
    #[inline(always)]
    #[must_use]
    pub fn forget<F: Frame + ?Sized>(self, frame: &F) -> Self {
        let code = match self {
            // It is dealt with where it is found.
            Self::Control(_) => return self,
            Self::Tcp => 1,
            Self::Udp => 2,
            Self::Icmp => 3,
            Self::Other => 4,
            Self::Later => 5,
        };
        match frame.forget(code) {
            1 => Self::Tcp,
            2 => Self::Udp,
            3 => Self::Icmp,
            4 => Self::Other,
            _ => Self::Later,
        }
    }
}

// === impl Headers ===

impl Default for Quoted {
    fn default() -> Self {
        let unspecified = Address::V4([0; 4]);
        Self {
            source: unspecified,
            destination: unspecified,
            protocol: 0,
            source_port: 0,
            destination_port: 0,
            echo: 0,
        }
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            source: Address::V4([0; 4]),
            destination: Address::V4([0; 4]),
            source_port: 0,
            destination_port: 0,
            vlan: 0,
            ethertype: 0,
            ip_version: 0,
            protocol: 0,
            hop_limit: 0,
            tcp_flags: 0,
            echo: 0,
            identification: 0,
            fragment: Fragment::Whole,
            network: 0,
            transport: 0,
            data: 0,
            end: 0,
        }
    }
}

/// Reads a frame's headers into `headers`, in order, as far as they go.
///
/// # Errors
///
/// The reason to drop the frame, where it is not one that the filter can judge. `headers` then
/// holds what was read before.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, headers: &mut Headers) -> Result<Payload, DropReason> {
    let destination = frame.read::<6>(0).ok_or(DropReason::TruncatedEthernet)?;
    let mut kind = frame.be16(12).ok_or(DropReason::TruncatedEthernet)?;
    let mut offset = 14;
    if is_vlan_tag(kind) {
        let tag = frame.be16(14).ok_or(DropReason::TruncatedEthernet)?;
        kind = frame.be16(16).ok_or(DropReason::TruncatedEthernet)?;
        headers.vlan = tag & 0x0fff;
        offset = 18;
        if is_vlan_tag(kind) {
            let inner = frame.be16(18).ok_or(DropReason::TruncatedEthernet)?;
            // An outer tag with the id 0 only carries a priority (802.1Q, table 9-2); the stack
            // strips it and goes by the inner one.
            if headers.vlan == 0 {
                headers.vlan = inner & 0x0fff;
            }
            kind = frame.be16(20).ok_or(DropReason::TruncatedEthernet)?;
            offset = 22;
            if is_vlan_tag(kind) {
                return Err(DropReason::VlanDepth);
            }
        }
    }
    headers.ethertype = kind;
    let untagged = offset == 14;
    if kind == ethertype::PPPOE_SESSION {
        kind = match ppp_protocol(frame, offset)? {
            PppProtocol::Ip(kind) => kind,
            PppProtocol::Control => return Ok(Payload::Control(PassReason::PppControl)),
        };
        offset += 8;
    }
    let offset = frame.forget(offset);
    headers.network = offset;
    let packet = match kind {
        ethertype::IPV4 => parse_ipv4(frame, offset, headers)?,
        ethertype::IPV6 => parse_ipv6(frame, offset, headers)?,
        ethertype::ARP => return Ok(Payload::Control(PassReason::Arp)),
        ethertype::PPPOE_DISCOVERY => return Ok(Payload::Control(PassReason::PppoeDiscovery)),
        ethertype::EAPOL => return Ok(Payload::Control(PassReason::Eapol)),
        ethertype::LLDP => {
            return link_control(untagged && is_lldp_group(destination), PassReason::Lldp);
        }
        ethertype::SLOW => {
            // Subtypes 1 and 2 are LACP and its marker protocol (802.3, annex 57A); others, such
            // as OAM, are not what is meant to pass.
            let subtype = frame.byte(offset).ok_or(DropReason::TruncatedEthernet)?;
            let group = destination == [0x01, 0x80, 0xc2, 0, 0, 0x02];
            return link_control(untagged && group && matches!(subtype, 1 | 2), PassReason::Lacp);
        }
        0..ethertype::FIRST => return Err(DropReason::LlcFrame),
        _ => return Err(DropReason::UnknownEthertype),
    };
    parse_transport(frame, packet, headers)
}

/// Reads what an ICMP error quotes, at `offset`, in a packet that ends at `end`; `None` where it
/// can't be told which exchange it belongs to (cut short, a later fragment, IPv6 extension
/// headers).
#[inline(always)]
pub fn parse_quoted<F: Frame + ?Sized>(
    frame: &F,
    offset: u32,
    end: u32,
    version: u8,
    quoted: &mut Quoted,
) -> Option<()> {
    *quoted = Quoted::default();
    let transport = if version == 4 {
        let [version_length] = frame.read::<1>(offset)?;
        let length = u32::from(version_length & 0x0f) * 4;
        let fragment = frame.be16(offset + 6)?;
        if version_length >> 4 != 4 || length < 20 || fragment & 0x1fff != 0 {
            return None;
        }
        quoted.source = Address::V4(frame.read(offset + 12)?);
        quoted.destination = Address::V4(frame.read(offset + 16)?);
        quoted.protocol = frame.byte(offset + 9)?;
        offset + length
    } else {
        if frame.byte(offset)? >> 4 != 6 {
            return None;
        }
        quoted.source = Address::V6(frame.read(offset + 8)?);
        quoted.destination = Address::V6(frame.read(offset + 24)?);
        quoted.protocol = frame.byte(offset + 6)?;
        offset + 40
    };
    // Errors quote eight bytes of the transport header at least (RFC 792), and both ports stand
    // in the first four.
    let length = match quoted.protocol {
        protocol::TCP | protocol::UDP => {
            quoted.source_port = frame.be16(transport)?;
            quoted.destination_port = frame.be16(transport + 2)?;
            4
        }
        protocol::ICMP | protocol::ICMPV6 => {
            quoted.source_port = u16::from(frame.byte(transport)?);
            quoted.echo = frame.be16(transport + 4)?;
            6
        }
        _ => 0,
    };
    if transport + length > end {
        return None;
    }
    Some(())
}

#[inline(always)]
const fn is_vlan_tag(kind: u16) -> bool {
    kind == ethertype::VLAN || kind == ethertype::SERVICE_VLAN
}

/// The nearest bridge, nearest non-TPMR bridge and nearest customer bridge (IEEE 802.1AB,
/// table 7-1).
#[inline(always)]
fn is_lldp_group(destination: [u8; 6]) -> bool {
    let [a, b, c, d, e, f] = destination;
    [a, b, c, d, e] == [0x01, 0x80, 0xc2, 0, 0] && (f == 0x0e || f == 0x03 || f == 0x00)
}

#[inline(always)]
fn link_control(well_formed: bool, reason: PassReason) -> Result<Payload, DropReason> {
    if well_formed { Ok(Payload::Control(reason)) } else { Err(DropReason::MisplacedControl) }
}

/// RFC 2516, section 4, and the PPP protocol numbers of RFC 1661, section 2.
#[inline(always)]
fn ppp_protocol<F: Frame + ?Sized>(frame: &F, offset: u32) -> Result<PppProtocol, DropReason> {
    let version_type_code = frame.be16(offset).ok_or(DropReason::TruncatedEthernet)?;
    let kind = frame.be16(offset + 6).ok_or(DropReason::TruncatedEthernet)?;
    if version_type_code != 0x1100 {
        return Err(DropReason::UnknownPpp);
    }
    match kind {
        0x0021 => Ok(PppProtocol::Ip(ethertype::IPV4)),
        0x0057 => Ok(PppProtocol::Ip(ethertype::IPV6)),
        // Network and link control protocols, and authentication.
        0x8021 | 0x8057 | 0xc021 | 0xc023 | 0xc223 | 0xc227 => Ok(PppProtocol::Control),
        _ => Err(DropReason::UnknownPpp),
    }
}

/// RFC 791, section 3.1.
#[inline(always)]
fn parse_ipv4<F: Frame + ?Sized>(
    frame: &F,
    offset: u32,
    headers: &mut Headers,
) -> Result<IpPacket, DropReason> {
    let [
        version_length,
        _,
        length_high,
        length_low,
        id_high,
        id_low,
        fragment_high,
        fragment_low,
        ttl,
        protocol,
    ] = frame.read::<10>(offset).ok_or(DropReason::TruncatedIp)?;
    headers.source = Address::V4(frame.read(offset + 12).ok_or(DropReason::TruncatedIp)?);
    headers.destination = Address::V4(frame.read(offset + 16).ok_or(DropReason::TruncatedIp)?);
    headers.ip_version = 4;
    headers.protocol = protocol;
    headers.hop_limit = ttl;
    headers.identification = u32::from(u16::from_be_bytes([id_high, id_low]));

    let header_length = u32::from(version_length & 0x0f) * 4;
    let total_length = u32::from(u16::from_be_bytes([length_high, length_low]));
    if version_length >> 4 != 4 || header_length < 20 || total_length < header_length {
        return Err(DropReason::MalformedIp);
    }
    let end = offset + total_length;
    if end > frame.len() {
        return Err(DropReason::TruncatedIp);
    }
    let transport = offset + header_length;
    if header_length > 20 {
        check_ipv4_options(frame, offset + 20, transport)?;
    }
    let fragment = u16::from_be_bytes([fragment_high, fragment_low]);
    let fragment_offset = u32::from(fragment & 0x1fff) * 8;
    let fragment = match (fragment_offset, fragment & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        (_, _) => Fragment::Later,
    };
    if protocol == protocol::ICMPV6 {
        return Err(DropReason::MalformedIp);
    }
    Ok(IpPacket { transport, end, fragment, fragment_offset })
}

/// Walks over the options (RFC 791, section 3.1), only to find a source route and lengths that
/// don't fit.
#[inline(always)]
fn check_ipv4_options<F: Frame + ?Sized>(
    frame: &F,
    start: u32,
    end: u32,
) -> Result<(), DropReason> {
    const END_OF_LIST: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut offset = start;
    for _ in 0..MAX_IPV4_OPTIONS {
        if offset >= end {
            return Ok(());
        }
        let length = match frame.byte(offset).ok_or(DropReason::TruncatedIp)? {
            END_OF_LIST => return Ok(()),
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(DropReason::SourceRoute),
            NO_OPERATION => 1,
            _ => {
                let length = frame.byte(offset + 1).ok_or(DropReason::TruncatedIp)?;
                if length < 2 {
                    return Err(DropReason::MalformedIp);
                }
                u32::from(length)
            }
        };
        offset = frame.forget(offset + length);
        if offset > end {
            return Err(DropReason::MalformedIp);
        }
    }
    if offset == end { Ok(()) } else { Err(DropReason::MalformedIp) }
}

/// RFC 8200, sections 3 and 4.
#[inline(always)]
fn parse_ipv6<F: Frame + ?Sized>(
    frame: &F,
    offset: u32,
    headers: &mut Headers,
) -> Result<IpPacket, DropReason> {
    let [version, _, _, _, length_high, length_low, next, hop_limit] =
        frame.read::<8>(offset).ok_or(DropReason::TruncatedIp)?;
    headers.source = Address::V6(frame.read(offset + 8).ok_or(DropReason::TruncatedIp)?);
    headers.destination = Address::V6(frame.read(offset + 24).ok_or(DropReason::TruncatedIp)?);
    headers.ip_version = 6;
    headers.protocol = next;
    headers.hop_limit = hop_limit;
    if version >> 4 != 6 {
        return Err(DropReason::MalformedIp);
    }
    let end = offset + 40 + u32::from(u16::from_be_bytes([length_high, length_low]));
    if end > frame.len() {
        return Err(DropReason::TruncatedIp);
    }

    let first = offset + 40;
    let mut next = next;
    let mut transport = first;
    let mut fragment = Fragment::Whole;
    let mut fragment_offset = 0;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        match next {
            protocol::HOP_BY_HOP
            | protocol::DESTINATION_OPTIONS
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION => {}
            _ => {
                headers.protocol = next;
                if next == protocol::ICMP {
                    return Err(DropReason::MalformedIp);
                }
                return Ok(IpPacket { transport, end, fragment, fragment_offset });
            }
        }
        // Behind a fragment header they would push the ports to where a later fragment, which
        // doesn't tell how far, can lie over them.
        if fragment != Fragment::Whole {
            return Err(DropReason::ExtensionHeaders);
        }
        // The first four bytes of each of them say what follows, how long they are, and what
        // there is to judge.
        let [following, length, third, fourth] =
            frame.read::<4>(transport).ok_or(DropReason::TruncatedIp)?;
        let mut bytes = u32::from(length) * 8 + 8;
        match next {
            // Hop-by-hop options may only stand first (RFC 8200, section 4.1).
            protocol::HOP_BY_HOP if transport != first => return Err(DropReason::ExtensionHeaders),
            // The fourth byte is the number of segments left.
            protocol::ROUTING if fourth != 0 => return Err(DropReason::RoutingHeader),
            protocol::FRAGMENT => {
                let field = u16::from_be_bytes([third, fourth]);
                fragment_offset = u32::from(field & 0xfff8);
                fragment = match (fragment_offset, field & 1) {
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First,
                    (_, _) => Fragment::Later,
                };
                let id = frame.read::<4>(transport + 4).ok_or(DropReason::TruncatedIp)?;
                headers.identification = u32::from_be_bytes(id);
                bytes = 8;
            }
            // Its length counts words of four bytes (RFC 4302, section 2.2).
            protocol::AUTHENTICATION => bytes = u32::from(length) * 4 + 8,
            _ => {}
        }
        transport = frame.forget(transport + bytes);
        if transport > end {
            return Err(DropReason::TruncatedIp);
        }
        if fragment == Fragment::Later {
            // What follows is the middle of something; the next header names what the first
            // fragment begins with.
            headers.protocol = following;
            return Ok(IpPacket { transport, end, fragment, fragment_offset });
        }
        next = following;
    }
    Err(DropReason::ExtensionHeaders)
}

#[inline(always)]
fn parse_transport<F: Frame + ?Sized>(
    frame: &F,
    packet: IpPacket,
    headers: &mut Headers,
) -> Result<Payload, DropReason> {
    let IpPacket { transport, end, fragment, fragment_offset } = packet;
    let offset = frame.forget(transport);
    headers.transport = offset;
    headers.end = end;
    headers.fragment = fragment;
    let needed = match headers.protocol {
        protocol::TCP => 20,
        protocol::UDP | protocol::ICMP | protocol::ICMPV6 => 8,
        _ => 0,
    };
    let too_short = match fragment {
        Fragment::First => DropReason::FragmentTooShort,
        Fragment::Whole => DropReason::TruncatedTransport,
        Fragment::Later if fragment_offset < needed => return Err(DropReason::FragmentOverlap),
        Fragment::Later => return Ok(Payload::Later),
    };
    let available = end.saturating_sub(offset);
    if available < needed {
        return Err(too_short);
    }
    match headers.protocol {
        protocol::TCP => {
            headers.source_port = frame.be16(offset).ok_or(too_short)?;
            headers.destination_port = frame.be16(offset + 2).ok_or(too_short)?;
            let [words, flags] = frame.read::<2>(offset + 12).ok_or(too_short)?;
            let length = u32::from(words >> 4) * 4;
            if length < 20 {
                return Err(DropReason::MalformedTransport);
            }
            if length > available {
                return Err(too_short);
            }
            headers.tcp_flags = flags;
            headers.data = offset + length;
            Ok(Payload::Tcp)
        }
        protocol::UDP => {
            headers.source_port = frame.be16(offset).ok_or(too_short)?;
            headers.destination_port = frame.be16(offset + 2).ok_or(too_short)?;
            let length = u32::from(frame.be16(offset + 4).ok_or(too_short)?);
            let longer = length > available && fragment == Fragment::Whole;
            if length < 8 || longer {
                return Err(DropReason::MalformedTransport);
            }
            headers.data = offset + 8;
            Ok(Payload::Udp)
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let kind = frame.byte(offset).ok_or(too_short)?;
            headers.destination_port = u16::from(kind);
            // Replies to echo requests have a type of their own.
            if matches!(
                (headers.protocol, kind),
                (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129)
            ) {
                headers.echo = frame.be16(offset + 4).ok_or(too_short)?;
            }
            // Neighbour discovery in fragments is to be ignored (RFC 6980, section 5).
            if headers.protocol == protocol::ICMPV6
                && fragment == Fragment::First
                && matches!(kind, 133..=137)
            {
                return Err(DropReason::MisplacedControl);
            }
            Ok(Payload::Icmp)
        }
        _ => Ok(Payload::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_does_not_reach_beyond_its_packet() {
        let mut quote = [0; 28];
        quote[0] = 0x45;
        quote[9] = protocol::UDP;
        quote[12..16].copy_from_slice(&[192, 0, 2, 1]);
        quote[16..20].copy_from_slice(&[10, 0, 0, 1]);
        quote[20..22].copy_from_slice(&443_u16.to_be_bytes());
        let quoted = Quoted {
            source: Address::V4([192, 0, 2, 1]),
            destination: Address::V4([10, 0, 0, 1]),
            protocol: protocol::UDP,
            source_port: 443,
            destination_port: 0,
            echo: 0,
        };
        let parse = |end| {
            let mut read = Quoted::default();
            parse_quoted(quote.as_slice(), 0, end, 4, &mut read).map(|()| read)
        };
        assert_eq!(parse(28), Some(quoted));
        assert_eq!(parse(24), Some(quoted), "the ports are enough");
        for end in [0, 20, 22, 23] {
            assert_eq!(parse(end), None, "the packet ends at {end}");
        }
    }
}
