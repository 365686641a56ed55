// SPDX-License-Identifier: MIT OR GPL-2.0
//! Verdicts and their reasons. Codes are stable: a number is never reused or renumbered.

use crate::{
    tables::Mode,
    wire::{AUDITED, Permit},
};

/// Declares a reason enum with its code, its stable name and a sentence for people.
macro_rules! reasons {
    (
        $(#[$meta:meta])* $enum:ident;
        $( $variant:ident = $code:literal, $name:literal, $text:literal; )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $enum {
            $( #[doc = $text] $variant = $code, )*
        }

        impl $enum {
            /// All of them, in the order of their codes.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// The code: the index of its counter, and its number in events.
            #[inline(always)]
            #[must_use]
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The reason with a code.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$variant), )*
                    _ => None,
                }
            }

            /// The stable name: lower case, words joined by `-`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }
        }
    };
}

reasons! {
    /// Why a packet passes. Codes 1 to 63.
    PassReason;
    Rule = 1, "rule", "A rule of the policy allows this destination, protocol and port.";
    Management = 2, "management", "The management guard: to the gateway's own address, from a guarded source, to a guarded port.";
    DnsForwarder = 3, "dns-forwarder", "A question for the forwarder, to one of its addresses, port 53.";
    Arp = 4, "arp", "ARP.";
    NeighbourDiscovery = 5, "neighbour-discovery", "ICMPv6 133 to 137 with hop limit 255, to a link-local or multicast address or to the gateway.";
    Mld = 6, "mld", "Multicast listener discovery, hop limit 1, to a multicast address.";
    Igmp = 7, "igmp", "IGMP, TTL 1, to a multicast address.";
    Lldp = 8, "lldp", "LLDP to one of its link-local group addresses.";
    Lacp = 9, "lacp", "LACP or its marker protocol, to the group address of slow protocols.";
    Eapol = 10, "eapol", "EAPOL (802.1X).";
    PppoeDiscovery = 11, "pppoe-discovery", "PPPoE discovery.";
    PppControl = 12, "ppp-control", "A PPP control protocol in a PPPoE session (LCP, IPCP, IPv6CP, authentication).";
    DhcpV4 = 13, "dhcpv4", "DHCP from a client's port to the server's, to the broadcast address or the gateway.";
    DhcpV6 = 14, "dhcpv6", "DHCPv6 from a client's port to the server's, to ff02::1:2 or the gateway.";
    IcmpError = 15, "icmp-error", "An ICMP error about a packet of a flow, or of an exchange that the policy allows.";
    Reply = 16, "reply", "A packet of a flow that was opened from inside, or by the gateway itself.";
    Inbound = 17, "inbound", "An inbound rule offers this service to this source.";
    Fragment = 18, "fragment", "A later fragment of a packet whose first fragment passed.";
    KeptFlow = 19, "kept-flow", "A flow that the policy no longer allows, kept by on_change = \"keep\".";
    Forwarded = 20, "forwarded", "It leaves through this NIC, and passed the NIC by which it came in.";
    Own = 21, "own", "A packet of the gateway itself leaves through this NIC.";
    DnsIntercepted = 22, "dns-intercepted", "A question to another resolver, which is led to the forwarder.";
}

reasons! {
    /// Why a packet is dropped. Codes 64 to 127.
    DropReason;
    NotListed = 64, "not-listed", "No rule names this destination.";
    PortNotAllowed = 65, "port-not-allowed", "The destination is listed for this client, this protocol and port are not.";
    SourceNotAllowed = 66, "source-not-allowed", "The destination is listed, but for none of the groups this client is in.";
    SpoofedSource = 67, "spoofed-source", "The source address can't live behind this NIC.";
    LinkLocalSource = 68, "link-local-source", "A link-local source may only reach the gateway itself.";
    InvalidSource = 69, "invalid-source", "The source is a multicast, broadcast, loopback, unspecified or IPv4-mapped address.";
    InvalidDestination = 70, "invalid-destination", "The destination is a loopback, unspecified or IPv4-mapped address, which never stands on a wire.";
    Multicast = 71, "multicast", "The destination is a multicast address.";
    Broadcast = 72, "broadcast", "The destination is a broadcast address, or the anycast address of a network's routers.";
    TruncatedEthernet = 73, "truncated-ethernet", "The frame is too short for its Ethernet, VLAN or PPPoE header.";
    TruncatedIp = 74, "truncated-ip", "The frame is too short for its IP header, or for the length the header states.";
    TruncatedTransport = 75, "truncated-transport", "The packet is too short for its TCP, UDP or ICMP header.";
    MalformedIp = 76, "malformed-ip", "The IP header contradicts itself (version, header length, total length, options).";
    MalformedTransport = 77, "malformed-transport", "The TCP or UDP header contradicts itself (data offset, length).";
    UnknownEthertype = 78, "unknown-ethertype", "Neither IP nor anything the gateway lets pass.";
    LlcFrame = 79, "llc-frame", "An 802.3 frame with a length instead of an Ethertype.";
    VlanDepth = 80, "vlan-depth", "More than two VLAN tags.";
    UnknownPpp = 81, "unknown-ppp", "A PPPoE session frame that is not data in the sense of RFC 2516, or carries neither IP nor a PPP control protocol.";
    FragmentTooShort = 82, "fragment-too-short", "The first fragment holds less than the transport header.";
    FragmentOverlap = 83, "fragment-overlap", "A later fragment whose offset lies inside the transport header.";
    FragmentWithoutFirst = 84, "fragment-without-first", "A later fragment whose first was not seen to pass.";
    SourceRoute = 85, "source-route", "An IPv4 source-route option.";
    RoutingHeader = 86, "routing-header", "An IPv6 routing header with segments left.";
    ExtensionHeaders = 87, "extension-headers", "More IPv6 extension headers than the parser follows, or one out of its place.";
    ProtocolNotAllowed = 88, "protocol-not-allowed", "The destination is listed for this client, this IP protocol is not.";
    IcmpType = 89, "icmp-type", "An ICMP type that no rule can allow.";
    IcmpErrorUnrelated = 90, "icmp-error-unrelated", "An ICMP error about a packet that no allowed exchange can have produced.";
    MisplacedControl = 91, "misplaced-control", "A control frame (neighbour discovery, MLD, IGMP, LLDP, LACP) that is not as its standard demands.";
    Unsolicited = 92, "unsolicited", "From outside, and neither of a flow that was opened from inside nor for a service that an inbound rule offers to this source.";
    TcpState = 93, "tcp-state", "A TCP segment that does not fit the state of its flow.";
    FlowCut = 94, "flow-cut", "Of a flow that was cut, by a change of the policy or by `sluice flows kill`.";
    NotFromInside = 95, "not-from-inside", "Forwarded out of an outside NIC, but not from an inside NIC.";
    DnsNotIntercepted = 96, "dns-not-intercepted", "A question to another resolver that should be led to the forwarder and can't be: the forwarder has no address of this family, or the redirection is not in force.";
}

reasons! {
    /// What came of a denied packet whose client is to be told. Codes 128 to 191; the packet itself
    /// counts at its drop reason.
    Answered;
    Reset = 128, "reset", "A TCP reset went back to the client.";
    Unreachable = 129, "unreachable", "An ICMP error, administratively prohibited, went back to the client.";
    Limited = 130, "limited", "No answer: the client has had as many as it gets in this time.";
    Impossible = 131, "impossible", "No answer: the frame could not be turned into one.";
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes, allowed by the rules behind this permit.
    Permit(Permit),
    /// It passes, by what is always allowed.
    Pass(PassReason),
    /// It is dropped.
    Drop(DropReason),
}

// === impl Verdict ===

impl Verdict {
    /// Whether the packet goes on, in this mode.
    #[inline(always)]
    #[must_use]
    pub const fn passes(self, mode: Mode) -> bool {
        match self {
            Self::Permit(_) | Self::Pass(_) => true,
            Self::Drop(_) => matches!(mode, Mode::Audit),
        }
    }

    /// The index of the packet's one counter within its NIC's.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self, mode: Mode) -> u32 {
        match (self, mode) {
            (Self::Permit(permit), _) => permit.counter(),
            (Self::Pass(reason), _) => reason.code() as u32,
            (Self::Drop(reason), Mode::Enforce) => reason.code() as u32,
            (Self::Drop(reason), Mode::Audit) => AUDITED + reason.code() as u32,
        }
    }

    /// The code of the pass or drop reason.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Permit(permit) => permit.reason_code(),
            Self::Pass(reason) => reason.code(),
            Self::Drop(reason) => reason.code(),
        }
    }
}
