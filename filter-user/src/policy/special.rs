// SPDX-License-Identifier: MIT OR Apache-2.0
//! Special-purpose addresses: what no name in the public DNS has any business pointing at.
//!
//! The ranges are those of IANA's special-purpose registries (RFC 6890) that aren't globally
//! reachable, multicast, and the IPv6 space outside global unicast. Left out are the few that
//! are registered as special and yet ordinary to reach: the AS112 and AMT anycast prefixes of
//! IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range, its short name and the document that sets it aside.
struct Range<N> {
    prefix: N,
    name: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "the source belongs beside the range"))]
    source: &'static str,
}

const fn v4(
    address: [u8; 4],
    length: u8,
    name: &'static str,
    source: &'static str,
) -> Range<Ipv4Net> {
    let [a, b, c, d] = address;
    Range { prefix: Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length), name, source }
}

const fn v6(
    groups: [u16; 8],
    length: u8,
    name: &'static str,
    source: &'static str,
) -> Range<Ipv6Net> {
    let [a, b, c, d, e, f, g, h] = groups;
    let address = Ipv6Addr::new(a, b, c, d, e, f, g, h);
    Range { prefix: Ipv6Net::new_assert(address, length), name, source }
}

/// How much of all unicast addresses prefixes cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Less than a quarter.
    Little,
    /// A quarter or more.
    Much,
    /// All.
    All,
}

/// How much of both families' addresses prefixes cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Of 0.0.0.0 to 223.255.255.255.
    pub ipv4: Share,
    /// Of 2000::/3, outside which there is no global unicast (RFC 4291).
    pub ipv6: Share,
}

/// What can be a host's address: all but multicast and what is reserved behind it.
const UNICAST4: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 1),
    Ipv4Net::new_assert(Ipv4Addr::new(128, 0, 0, 0), 2),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 3),
];
const UNICAST6: [Ipv6Net; 1] = [Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)];

/// The first that matches gives the name: narrow ones stand before what holds them.
const IPV4: [Range<Ipv4Net>; 16] = [
    v4([0, 0, 0, 0], 32, "unspecified", "RFC 1122"),
    v4([0, 0, 0, 0], 8, "this network", "RFC 791"),
    v4([10, 0, 0, 0], 8, "private use", "RFC 1918"),
    v4([100, 64, 0, 0], 10, "carrier-grade NAT", "RFC 6598"),
    v4([127, 0, 0, 0], 8, "loopback", "RFC 1122"),
    v4([169, 254, 0, 0], 16, "link-local", "RFC 3927"),
    v4([172, 16, 0, 0], 12, "private use", "RFC 1918"),
    v4([192, 0, 0, 0], 24, "IETF protocol assignments", "RFC 6890"),
    v4([192, 0, 2, 0], 24, "documentation", "RFC 5737"),
    v4([192, 88, 99, 0], 24, "6to4 relay", "RFC 7526"),
    v4([192, 168, 0, 0], 16, "private use", "RFC 1918"),
    v4([198, 18, 0, 0], 15, "benchmarking", "RFC 2544"),
    v4([198, 51, 100, 0], 24, "documentation", "RFC 5737"),
    v4([203, 0, 113, 0], 24, "documentation", "RFC 5737"),
    v4([224, 0, 0, 0], 4, "multicast", "RFC 5771"),
    // With limited broadcast, 255.255.255.255 (RFC 919).
    v4([240, 0, 0, 0], 4, "reserved", "RFC 1112"),
];

/// The first that matches gives the name: narrow ones stand before what holds them.
const IPV6: [Range<Ipv6Net>; 23] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible", "RFC 4291"),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64", "RFC 6052"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "NAT64", "RFC 8215"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard-only", "RFC 6666"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix", "RFC 9780"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo", "RFC 4380"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking", "RFC 5180"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "ORCHID", "RFC 4843"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "ORCHIDv2", "RFC 7343"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "IETF protocol assignments", "RFC 2928"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation", "RFC 3849"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4", "RFC 3056"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation", "RFC 9637"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing", "RFC 9602"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local", "RFC 4193"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local", "RFC 4291"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast", "RFC 4291"),
    // Everything but 2000::/3, which is global unicast; site-local (RFC 3879) is in the last.
    v6([0, 0, 0, 0, 0, 0, 0, 0], 3, "reserved", "RFC 4291"),
    v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2, "reserved", "RFC 4291"),
    v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1, "reserved", "RFC 4291"),
];

/// The short name of the special-purpose range that an address lies in; `None` for an ordinary
/// public address.
#[must_use]
pub fn special_purpose(address: IpAddr) -> Option<&'static str> {
    special_purpose_prefix(&IpNet::from(address))
}

/// The short name of a special-purpose range that holds the whole prefix.
#[must_use]
pub fn special_purpose_prefix(prefix: &IpNet) -> Option<&'static str> {
    match prefix {
        IpNet::V4(prefix) => {
            IPV4.iter().find(|range| range.prefix.contains(prefix)).map(|range| range.name)
        }
        IpNet::V6(prefix) => {
            IPV6.iter().find(|range| range.prefix.contains(prefix)).map(|range| range.name)
        }
    }
}

/// How much of all unicast addresses prefixes cover together, each address counted once.
#[must_use]
pub fn unicast_shares(prefixes: &[IpNet]) -> Shares {
    Shares {
        ipv4: share(prefixes, &UNICAST4.map(IpNet::from)),
        ipv6: share(prefixes, &UNICAST6.map(IpNet::from)),
    }
}

/// The prefixes of `whole` are disjoint and of one family, and fewer than all of its addresses.
fn share(prefixes: &[IpNet], whole: &[IpNet]) -> Share {
    let all: u128 = whole.iter().map(addresses).sum();
    let common = |a: &IpNet, b: &IpNet| match (a.contains(b), b.contains(a)) {
        (true, _) => addresses(b),
        (false, true) => addresses(a),
        (false, false) => 0,
    };
    let covered: u128 = IpNet::aggregate(&prefixes.to_vec())
        .iter()
        .flat_map(|prefix| whole.iter().map(move |part| common(prefix, part)))
        .sum();
    if covered == all {
        Share::All
    } else if covered >= all / 4 {
        Share::Much
    } else {
        Share::Little
    }
}

/// The number of addresses in a prefix; that of `::/0` doesn't fit and is given as one less.
fn addresses(prefix: &IpNet) -> u128 {
    let bits = prefix.max_prefix_len() - prefix.prefix_len();
    1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX)
}

// === impl Shares ===

impl Shares {
    /// That of the family of which more is covered.
    #[must_use]
    pub fn greater(self) -> Share {
        self.ipv4.max(self.ipv6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        use Share::{All, Little, Much};
        let cases: [(&[&str], Share, Share); 15] = [
            (&[], Little, Little),
            (&["0.0.0.0/0"], All, Little),
            (&["::/0"], Little, All),
            (&["2000::/3"], Little, All),
            (&["::/2"], Little, All),
            (&["0.0.0.0/1", "128.0.0.0/1"], All, Little),
            // Nobody lives in the rest.
            (&["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"], All, Little),
            (&["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/4"], Much, Little),
            (&["128.0.0.0/1"], Much, Little),
            (&["64.0.0.0/2"], Much, Little),
            (&["64.0.0.0/3", "64.0.0.0/4", "80.0.0.0/4"], Little, Little),
            (&["64.0.0.0/3", "96.0.0.0/3"], Much, Little),
            (&["2000::/5"], Little, Much),
            (&["2a00::/12", "fd00::/8", "fe80::/10", "224.0.0.0/3"], Little, Little),
            (&["10.0.0.0/8", "2000::/4", "3000::/4"], Little, All),
        ];
        for (prefixes, ipv4, ipv6) in cases {
            let parsed: Vec<IpNet> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(unicast_shares(&parsed), Shares { ipv4, ipv6 }, "{prefixes:?}");
        }
    }

    #[test]
    fn addresses_of_ranges() {
        let cases = [
            ("0.0.0.0", Some("unspecified")),
            ("0.1.2.3", Some("this network")),
            ("9.255.255.255", None),
            ("10.0.0.0", Some("private use")),
            ("10.255.255.255", Some("private use")),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.1", Some("carrier-grade NAT")),
            ("100.128.0.0", None),
            ("127.0.0.53", Some("loopback")),
            ("169.254.169.254", Some("link-local")),
            ("172.15.255.255", None),
            ("172.31.255.255", Some("private use")),
            ("172.32.0.0", None),
            ("192.0.0.170", Some("IETF protocol assignments")),
            ("192.0.2.1", Some("documentation")),
            ("192.88.99.1", Some("6to4 relay")),
            ("192.168.1.1", Some("private use")),
            ("198.17.255.255", None),
            ("198.19.255.255", Some("benchmarking")),
            ("198.51.100.1", Some("documentation")),
            ("203.0.113.1", Some("documentation")),
            ("223.255.255.255", None),
            ("224.0.0.251", Some("multicast")),
            ("240.0.0.1", Some("reserved")),
            ("255.255.255.255", Some("reserved")),
            ("13.107.219.9", None),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("::2", Some("IPv4-compatible")),
            ("::ffff:13.107.219.9", Some("IPv4-mapped")),
            ("64:ff9b::d6b:db09", Some("NAT64")),
            ("64:ff9b:1::1", Some("NAT64")),
            ("64:ff9b:2::1", Some("reserved")),
            ("100::1", Some("discard-only")),
            ("100:0:0:1::1", Some("dummy prefix")),
            ("2001::1", Some("Teredo")),
            ("2001:2::1", Some("benchmarking")),
            ("2001:10::1", Some("ORCHID")),
            ("2001:20::1", Some("ORCHIDv2")),
            ("2001:1ff::1", Some("IETF protocol assignments")),
            ("2001:200::1", None),
            ("2001:db8::1", Some("documentation")),
            ("2002:a00:1::1", Some("6to4")),
            ("2620:1ec:40::1", None),
            ("2a00:1450::1", None),
            ("3fff:fff::1", Some("documentation")),
            ("3fff:1000::1", None),
            ("4000::1", Some("reserved")),
            ("5f00::1", Some("segment routing")),
            ("fd00::1", Some("unique local")),
            ("fe80::1", Some("link-local")),
            ("fec0::1", Some("reserved")),
            ("ff02::fb", Some("multicast")),
        ];
        for (address, expected) in cases {
            assert_eq!(special_purpose(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn prefixes() {
        let cases = [
            ("10.1.0.0/16", Some("private use")),
            ("10.0.0.0/7", None),
            ("0.0.0.0/0", None),
            ("2001:db8:1::/48", Some("documentation")),
            ("2000::/3", None),
            ("::/0", None),
        ];
        for (prefix, expected) in cases {
            assert_eq!(special_purpose_prefix(&prefix.parse().unwrap()), expected, "{prefix}");
        }
    }

    #[test]
    fn the_tables_are_sound() {
        for range in &IPV4 {
            assert_eq!(range.prefix, range.prefix.trunc(), "{} has host bits", range.name);
            assert!(range.source.starts_with("RFC "), "{}", range.name);
        }
        for range in &IPV6 {
            assert_eq!(range.prefix, range.prefix.trunc(), "{} has host bits", range.name);
            assert!(range.source.starts_with("RFC "), "{}", range.name);
        }
        for (index, range) in IPV6.iter().enumerate() {
            let hidden = IPV6[..index].iter().any(|earlier| earlier.prefix.contains(&range.prefix));
            assert!(!hidden, "{} is never reached", range.prefix);
        }
    }
}
