// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports, port ranges and IP protocols.

use std::fmt;

pub use crate::document::PortRange;

/// A set of ports: sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRanges(Vec<PortRange>);

/// An IP protocol that is neither TCP, UDP, ICMP nor ICMPv6, nor an IPv6 extension header that
/// the parser walks over (IANA's protocol numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProtocol(u8);

/// Why ports or a protocol can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPorts {
    /// Neither a number nor a range.
    #[error("a port is a number from 1 to 65535, a range such as \"3478-3481\", or \"any\"")]
    NotAPort,
    /// A range whose end comes before its start.
    #[error("the range ends before it starts")]
    Reversed,
    /// A protocol that has its own key, or that the parser consumes.
    #[error("use the keys tcp, udp and icmp for TCP, UDP and ICMP")]
    HasItsOwnKey,
    /// An IPv6 extension header, which the parser walks over.
    #[error("this is an IPv6 extension header, not a protocol a rule can allow")]
    ExtensionHeader,
    /// An unknown name or number.
    #[error(
        "a protocol is a number from 0 to 255 or one of esp, gre, igmp, ipip, ipv6, l2tp, ospf, pim, sctp, udplite or vrrp"
    )]
    UnknownProtocol,
}

/// The protocols that are known by name.
const PROTOCOL_NAMES: [(&str, u8); 11] = [
    ("igmp", 2),
    ("ipip", 4),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

// === impl PortRange ===

impl TryFrom<&str> for PortRange {
    type Error = InvalidPorts;

    fn try_from(text: &str) -> Result<Self, InvalidPorts> {
        let port = |text: &str| -> Result<u16, InvalidPorts> {
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(InvalidPorts::NotAPort);
            }
            match text.parse() {
                Ok(0) | Err(_) => Err(InvalidPorts::NotAPort),
                Ok(port) => Ok(port),
            }
        };
        let (first, last) = match text.split_once('-') {
            _ if text == "any" => return Ok(Self::ANY),
            Some((first, last)) => (port(first.trim())?, port(last.trim())?),
            None => (port(text)?, port(text)?),
        };
        Self::new(first, last).ok_or(InvalidPorts::Reversed)
    }
}

// === impl PortRanges ===

impl PortRanges {
    /// The ranges, sorted, without overlap.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Whether no port is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a port is in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.first() <= port && port <= range.last())
    }

    /// Whether every port of others is in it.
    #[must_use]
    pub fn contain(&self, others: &Self) -> bool {
        // Ranges never touch, so that one of them has to hold each of the others whole.
        let mut ranges = self.0.iter();
        let mut current = ranges.next();
        others.0.iter().all(|other| {
            while current.is_some_and(|range| range.last() < other.last()) {
                current = ranges.next();
            }
            current.is_some_and(|range| range.first() <= other.first())
        })
    }
}

impl FromIterator<PortRange> for PortRanges {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::new();
        for range in sorted {
            match merged.last_mut().and_then(|last| last.joined(range).map(|whole| (last, whole))) {
                Some((last, whole)) => *last = whole,
                None => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [PortRange::ANY] {
            return f.write_str("any");
        }
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

// === impl IpProtocol ===

impl IpProtocol {
    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for IpProtocol {
    type Error = InvalidPorts;

    fn try_from(number: u8) -> Result<Self, InvalidPorts> {
        match number {
            1 | 6 | 17 | 58 => Err(InvalidPorts::HasItsOwnKey),
            0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Err(InvalidPorts::ExtensionHeader),
            number => Ok(Self(number)),
        }
    }
}

impl TryFrom<&str> for IpProtocol {
    type Error = InvalidPorts;

    fn try_from(text: &str) -> Result<Self, InvalidPorts> {
        match text {
            "tcp" | "udp" | "icmp" | "icmpv6" | "ipv6-icmp" => Err(InvalidPorts::HasItsOwnKey),
            "ah" => Err(InvalidPorts::ExtensionHeader),
            name => PROTOCOL_NAMES
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, number)| Self(*number))
                .ok_or(InvalidPorts::UnknownProtocol),
        }
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOL_NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
