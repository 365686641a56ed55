// SPDX-License-Identifier: MIT OR GPL-2.0
//! IP addresses as they stand in packets and in the keys of the tables.

/// An address in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

/// The same as numbers, which are compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// IPv4.
    V4(u32),
    /// IPv6: both halves.
    V6(u64, u64),
}

impl Number {
    /// The address of a number.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> Address {
        match self {
            Self::V4(number) => Address::V4(number.to_be_bytes()),
            Self::V6(high, low) => Address::V6(((high as u128) << 64 | low as u128).to_be_bytes()),
        }
    }
}

impl Address {
    /// 224.0.0.0/4 (RFC 5771) and ff00::/8 (RFC 4291, section 2.7).
    #[inline(always)]
    #[must_use]
    pub const fn is_multicast(&self) -> bool {
        match *self {
            Self::V4([a, ..]) => a & 0xf0 == 0xe0,
            Self::V6([a, ..]) => a == 0xff,
        }
    }

    /// Multicast that no router forwards: 224.0.0.0/24 and ff02::/16.
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local_multicast(&self) -> bool {
        match *self {
            Self::V4([a, b, c, _]) => a == 224 && b == 0 && c == 0,
            Self::V6([a, b, ..]) => a == 0xff && b & 0x0f == 0x02,
        }
    }

    /// 255.255.255.255.
    #[inline(always)]
    #[must_use]
    pub const fn is_broadcast(&self) -> bool {
        matches!(*self, Self::V4([255, 255, 255, 255]))
    }

    /// 169.254.0.0/16 (RFC 3927) and fe80::/10 (RFC 4291, section 2.5.6).
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        match *self {
            Self::V4([a, b, ..]) => a == 169 && b == 254,
            Self::V6([a, b, ..]) => a == 0xfe && b & 0xc0 == 0x80,
        }
    }

    /// 0.0.0.0/8 ("this network", RFC 1122) and ::.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        match *self {
            Self::V4([a, ..]) => a == 0,
            Self::V6(octets) => u128::from_be_bytes(octets) == 0,
        }
    }

    /// 127.0.0.0/8 and ::1.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        match *self {
            Self::V4([a, ..]) => a == 127,
            Self::V6(octets) => u128::from_be_bytes(octets) == 1,
        }
    }

    /// ::ffff:0:0/96, which stands for IPv4 within a host and on no wire (RFC 4291, section
    /// 2.5.5.2).
    #[inline(always)]
    #[must_use]
    pub const fn is_ipv4_mapped(&self) -> bool {
        match *self {
            Self::V4(_) => false,
            Self::V6(octets) => u128::from_be_bytes(octets) >> 32 == 0xffff,
        }
    }

    /// ff02::1:2, all DHCPv6 relay agents and servers (RFC 8415, section 7.1).
    #[inline(always)]
    #[must_use]
    pub const fn is_dhcp_servers(&self) -> bool {
        match *self {
            Self::V4(_) => false,
            Self::V6(octets) => {
                u128::from_be_bytes(octets) == 0xff02_0000_0000_0000_0000_0000_0001_0002
            }
        }
    }
}
