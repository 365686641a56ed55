// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames of our own, one for each kind of packet and each reason, with what becomes of them over
//! the [`RichPolicy`]. They are what fuzzing begins with, as files in `tests/fuzz/seeds`, which
//! `sluice-frames --seeds` writes and the corpus test compares with this.
//!
//! [`RichPolicy`]: crate::rich_policy::RichPolicy

use std::net::IpAddr;

use crate::rich_policy::RichPolicy;

/// A frame with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The name of its file.
    pub name: &'static str,
    /// The index of the NIC it is meant to enter.
    pub nic: u8,
    /// The name of the reason by which it passes or is dropped there.
    pub reason: &'static str,
    /// The frame.
    pub frame: Vec<u8>,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const PPPOE: u16 = 0x8864;

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;

const CLIENT: &str = "10.0.10.40";
const CLIENT6: &str = "2001:db8:10::aa";
const WEB: &str = "198.51.100.5";
const WEB6: &str = "2001:db8:a::5";

/// All of them.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    [rules(), links(), always(), addresses(), lengths(), fragments(), extensions()].concat()
}

/// Packets that rules decide.
fn rules() -> Vec<Seed> {
    let to = |from: &str, to: &str, protocol, body: Vec<u8>| frame(&ip(from, to, protocol, &body));
    let lab = |seed: Seed| Seed { nic: RichPolicy::LAB, ..seed };
    vec![
        seed("tcp-web", "rule", to(CLIENT, WEB, TCP, tcp(443))),
        seed("tcp-web-v6", "rule", to(CLIENT6, WEB6, TCP, tcp(80))),
        seed("udp-quic", "rule", to(CLIENT, WEB, UDP, udp(50_000, 443))),
        seed("tcp-with-options", "rule", to(CLIENT, WEB, TCP, tcp_with_options(443))),
        seed("tcp-learned-name", "rule", to(CLIENT, "198.51.100.200", TCP, tcp(443))),
        seed("tcp-learned-name-v6", "rule", to(CLIENT6, "2001:db8:d::5", TCP, tcp(443))),
        seed("tcp-vlan", "rule", vlan_frame(20, &ip("10.0.20.9", WEB, TCP, &tcp(443)))),
        seed("udp-vlan-group", "rule", {
            vlan_frame(20, &ip("10.0.20.9", "203.0.113.70", UDP, &udp(50_000, 3480)))
        }),
        seed("udp-vlan-and-prefix", "rule", {
            vlan_frame(30, &ip("192.168.7.9", "203.0.113.123", UDP, &udp(50_000, 123)))
        }),
        seed("tcp-qinq", "rule", qinq_frame(&ip("10.0.20.9", WEB, TCP, &tcp(443)))),
        seed("tcp-pppoe", "rule", pppoe_frame(0x0021, &ip(CLIENT, WEB, TCP, &tcp(443)).1)),
        seed("tcp-pppoe-v6", "rule", pppoe_frame(0x0057, &ip(CLIENT6, WEB6, TCP, &tcp(443)).1)),
        seed("echo", "rule", to(CLIENT, WEB, ICMP, icmp(8))),
        seed("echo-v6", "rule", to(CLIENT6, WEB6, ICMPV6, icmp(128))),
        seed("tcp-gateway-page", "rule", to(CLIENT, "10.0.10.1", TCP, tcp(8080))),
        lab(seed("esp", "rule", to("172.16.0.9", "203.0.113.9", ESP, vec![0; 16]))),
        lab(seed("ip-in-ip", "rule", {
            to("172.16.0.9", "203.0.113.9", 41, ip(CLIENT6, WEB6, TCP, &tcp(443)).1)
        })),
        seed("management", "management", to("10.0.10.5", "10.0.20.1", TCP, tcp(22))),
        seed("dns", "dns-forwarder", to(CLIENT, "10.0.10.1", UDP, udp(50_000, 53))),
        seed("dns-v6", "dns-forwarder", to(CLIENT6, "2001:db8:10::1", UDP, udp(50_000, 53))),
        seed("not-listed", "not-listed", to(CLIENT, "100.128.0.1", TCP, tcp(443))),
        seed("port-not-allowed", "port-not-allowed", to(CLIENT, WEB, TCP, tcp(8443))),
        seed("source-not-allowed", "source-not-allowed", {
            to(CLIENT, "203.0.113.70", UDP, udp(50_000, 3478))
        }),
        seed("protocol-not-allowed", "protocol-not-allowed", to(CLIENT, WEB, ESP, vec![0; 16])),
        seed("icmp-type", "icmp-type", to(CLIENT, WEB, ICMP, icmp(13))),
    ]
}

/// Frames that carry no IP.
fn links() -> Vec<Seed> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 10, 40];
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 10, 1]);
    let lldp = [2, 7, 4, 2, 0, 0, 0, 0, 2, 4, 3, 7, 1, 2, 6, 2, 0, 120, 0, 0];
    let control = |last: u8| [0x01, 0x80, 0xc2, 0, 0, last];
    let discovery = [0x11, 0x09, 0, 0, 0, 4, 1, 1, 0, 0];
    vec![
        seed("arp", "arp", ethernet(BROADCAST, 0x0806, &arp)),
        seed("lldp", "lldp", ethernet(control(0x0e), 0x88cc, &lldp)),
        seed("lacp", "lacp", ethernet(control(2), 0x8809, &[1, 1, 1, 20, 0, 0])),
        seed("eapol", "eapol", ethernet(control(3), 0x888e, &[2, 1, 0, 0])),
        seed("pppoe-discovery", "pppoe-discovery", ethernet(BROADCAST, 0x8863, &discovery)),
        seed("ppp-control", "ppp-control", pppoe_frame(0xc021, &[1, 1, 0, 4])),
        seed("lldp-to-a-host", "misplaced-control", ethernet(GATEWAY, 0x88cc, &lldp)),
        seed("unknown-ethertype", "unknown-ethertype", ethernet(GATEWAY, 0x9000, &[0; 46])),
        seed("llc", "llc-frame", ethernet(control(0), 38, &[0x42, 0x42, 3, 0, 0, 0, 0])),
        seed("three-vlan-tags", "vlan-depth", {
            let inner = tagged(30, VLAN, &tagged(40, IPV4, &[0; 20]));
            ethernet(GATEWAY, VLAN, &tagged(20, VLAN, &inner))
        }),
        seed("unknown-ppp", "unknown-ppp", pppoe_frame(0x0281, &[0; 20])),
    ]
}

/// What passes without a rule, and what only looks like it.
fn always() -> Vec<Seed> {
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &octets("2001:db8:10::1")].concat();
    let neighbour = |hop_limit| {
        frame(&(IPV6, ipv6(CLIENT6, "ff02::1:ff00:1", ICMPV6, hop_limit, &solicitation)))
    };
    let report = [143, 0, 0, 0, 0, 0, 0, 0];
    let dhcp = frame(&ip("0.0.0.0", "255.255.255.255", UDP, &udp(68, 67)));
    let dhcp6 = frame(&ip("fe80::9", "ff02::1:2", UDP, &udp(546, 547)));
    let quote = ip(WEB, CLIENT, UDP, &udp(443, 50_000)).1;
    let quote6 = ip(WEB6, CLIENT6, TCP, &tcp_from(443, 50_000)).1;
    let other = ip(WEB, CLIENT, UDP, &udp(9999, 50_000)).1;
    let error = |quote: &[u8]| frame(&ip(CLIENT, WEB, ICMP, &[&icmp(3), quote].concat()));
    // The quoted packet stands behind the end of the error.
    let mut behind = error(&[]);
    behind.extend(&quote);
    vec![
        seed("neighbour", "neighbour-discovery", neighbour(255)),
        seed("neighbour-from-afar", "misplaced-control", neighbour(64)),
        seed("mld", "mld", frame(&(IPV6, ipv6("fe80::9", "ff02::16", ICMPV6, 1, &report)))),
        seed("igmp", "igmp", {
            frame(&(IPV4, V4 { ttl: 1, ..V4::new(CLIENT, "224.0.0.22", IGMP) }.packet(&[0x22; 8])))
        }),
        seed("dhcp", "dhcpv4", dhcp),
        seed("dhcpv6", "dhcpv6", dhcp6),
        seed("icmp-error", "icmp-error", error(&quote)),
        seed("icmp-error-v6", "icmp-error", {
            frame(&ip(CLIENT6, WEB6, ICMPV6, &[&icmp(1)[..], &quote6].concat()))
        }),
        seed("icmp-error-unrelated", "icmp-error-unrelated", error(&other)),
        seed("icmp-error-cut-short", "icmp-error-unrelated", error(quote.get(..20).unwrap_or(&[]))),
        seed("icmp-error-quotes-padding", "icmp-error-unrelated", behind),
    ]
}

/// Addresses that no rule can make right.
fn addresses() -> Vec<Seed> {
    let syn = |from: &str, to: &str| frame(&ip(from, to, TCP, &tcp(443)));
    vec![
        seed("spoofed", "spoofed-source", syn("10.9.9.9", WEB)),
        seed("gateway-as-source", "spoofed-source", syn("10.0.10.1", WEB)),
        seed("spoofed-v6", "spoofed-source", syn("2001:db8:99::1", WEB6)),
        seed("link-local-source", "link-local-source", syn("fe80::9", WEB6)),
        seed("multicast-source", "invalid-source", syn("224.0.0.9", WEB)),
        seed("loopback-destination", "invalid-destination", syn(CLIENT, "127.0.0.1")),
        seed("multicast", "multicast", syn(CLIENT, "239.255.255.250")),
        seed("multicast-v6", "multicast", syn(CLIENT6, "ff02::fb")),
        seed("broadcast", "broadcast", syn(CLIENT, "255.255.255.255")),
    ]
}

/// Lengths that don't fit, and padding, which is no fault.
fn lengths() -> Vec<Seed> {
    let web = frame(&ip(CLIENT, WEB, TCP, &tcp(443)));
    let first = |bytes: usize| web.get(..bytes).unwrap_or_default().to_owned();
    let mut tcp_header = tcp(443);
    if let Some(offset) = tcp_header.get_mut(12) {
        *offset = 0x40;
    }
    let mut udp_longer = udp(50_000, 443);
    udp_longer.splice(4..6, [0xff, 0xff]);
    let route = V4 { options: vec![131, 7, 4, 192, 0, 2, 1, 0], ..V4::new(CLIENT, WEB, TCP) };
    let alert = V4 { options: vec![148, 4, 0, 0], ..V4::new(CLIENT, WEB, TCP) };
    let option = V4 { options: vec![148, 9, 0, 0], ..V4::new(CLIENT, WEB, TCP) };
    vec![
        seed("empty", "truncated-ethernet", Vec::new()),
        seed("ethernet-cut-short", "truncated-ethernet", first(13)),
        seed("ipv4-cut-short", "truncated-ip", first(30)),
        seed("tcp-cut-short", "truncated-ip", first(40)),
        seed("tcp-padded", "rule", [&web[..], &[0; 6]].concat()),
        seed("tcp-half-a-header", "truncated-transport", {
            frame(&ip(CLIENT, WEB, TCP, tcp(443).get(..12).unwrap_or_default()))
        }),
        seed("tcp-header-too-small", "malformed-transport", {
            frame(&ip(CLIENT, WEB, TCP, &tcp_header))
        }),
        seed("udp-longer-than-packet", "malformed-transport", {
            frame(&ip(CLIENT, WEB, UDP, &udp_longer))
        }),
        seed("ipv4-other-version", "malformed-ip", ethernet(GATEWAY, IPV4, &[0x65; 40])),
        seed("icmpv6-in-ipv4", "malformed-ip", frame(&ip(CLIENT, WEB, ICMPV6, &icmp(128)))),
        seed("source-route", "source-route", frame(&(IPV4, route.packet(&tcp(443))))),
        seed("router-alert", "rule", frame(&(IPV4, alert.packet(&tcp(443))))),
        seed("option-too-long", "malformed-ip", frame(&(IPV4, option.packet(&tcp(443))))),
    ]
}

/// Fragments of both families.
fn fragments() -> Vec<Seed> {
    let part = |field: u16, body: &[u8]| {
        frame(&(IPV4, V4 { fragment: field, ..V4::new(CLIENT, WEB, TCP) }.packet(body)))
    };
    let part6 = |field: u16, body: &[u8]| {
        let [high, low] = field.to_be_bytes();
        let header = [UDP, 0, high, low, 0, 0, 0, 7];
        frame(&ip(CLIENT6, WEB6, 44, &[&header[..], body].concat()))
    };
    vec![
        seed("first-fragment", "rule", part(0x2000, &tcp(443))),
        seed("first-fragment-v6", "rule", part6(1, &udp(50_000, 443))),
        seed("first-fragment-too-short", "fragment-too-short", part(0x2000, &[0xc3; 8])),
        seed("later-fragment", "fragment-without-first", part(185, &[0; 16])),
        seed("later-fragment-v6", "fragment-without-first", part6(0x05c8, &[0; 16])),
        seed("overlapping-fragment", "fragment-overlap", part(1, &[0; 16])),
    ]
}

/// IPv6 extension headers.
fn extensions() -> Vec<Seed> {
    // Each: the next header, its length in further words of eight bytes, and options of padding.
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let routing = |next: u8, left: u8| [next, 0, 0, left, 0, 0, 0, 0];
    let authentication = [TCP, 1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1];
    let chain = |first: u8, parts: &[&[u8]]| frame(&ip(CLIENT6, WEB6, first, &parts.concat()));
    let syn = tcp(443);
    vec![
        seed("hop-by-hop", "rule", chain(0, &[&options(TCP), &syn])),
        seed("destination-options", "rule", chain(60, &[&options(60), &options(TCP), &syn])),
        seed("routing-done", "rule", chain(43, &[&routing(TCP, 0), &syn])),
        seed("routing-header", "routing-header", chain(43, &[&routing(TCP, 1), &syn])),
        seed("authentication", "rule", chain(51, &[&authentication, &syn])),
        seed("hop-by-hop-second", "extension-headers", {
            chain(60, &[&options(0), &options(TCP), &syn])
        }),
        seed("too-many-extensions", "extension-headers", {
            let many = options(60).repeat(7);
            chain(60, &[&many, &options(TCP), &syn])
        }),
        seed("extension-cut-short", "truncated-ip", chain(0, &[&[TCP, 3, 1, 4, 0, 0, 0, 0]])),
    ]
}

const GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

/// An IPv4 header.
struct V4 {
    source: Vec<u8>,
    destination: Vec<u8>,
    protocol: u8,
    ttl: u8,
    fragment: u16,
    options: Vec<u8>,
}

// === impl V4 ===

impl V4 {
    fn new(source: &str, destination: &str, protocol: u8) -> Self {
        let (source, destination) = (octets(source), octets(destination));
        Self { source, destination, protocol, ttl: 64, fragment: 0, options: Vec::new() }
    }

    fn packet(&self, body: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let words = u8::try_from(header / 4).unwrap_or_default();
        let mut packet = vec![0x40 | words, 0];
        packet.extend(length(header + body.len()));
        packet.extend([0, 1]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(&self.source);
        packet.extend(&self.destination);
        packet.extend(&self.options);
        packet.extend(body);
        packet
    }
}

fn seed(name: &'static str, reason: &'static str, frame: Vec<u8>) -> Seed {
    Seed { name, nic: RichPolicy::OFFICE, reason, frame }
}

fn ethernet(destination: [u8; 6], kind: u16, body: &[u8]) -> Vec<u8> {
    let client = [0x02, 0, 0, 0, 0, 2];
    [&destination[..], &client, &kind.to_be_bytes(), body].concat()
}

/// A packet with its Ethertype in a frame.
fn frame((kind, packet): &(u16, Vec<u8>)) -> Vec<u8> {
    ethernet(GATEWAY, *kind, packet)
}

fn vlan_frame(id: u16, (kind, packet): &(u16, Vec<u8>)) -> Vec<u8> {
    ethernet(GATEWAY, VLAN, &tagged(id, *kind, packet))
}

fn qinq_frame((kind, packet): &(u16, Vec<u8>)) -> Vec<u8> {
    ethernet(GATEWAY, SERVICE_VLAN, &tagged(20, VLAN, &tagged(30, *kind, packet)))
}

fn pppoe_frame(protocol: u16, body: &[u8]) -> Vec<u8> {
    let header = [&[0x11, 0, 0, 7][..], &length(body.len() + 2), &protocol.to_be_bytes()].concat();
    ethernet(GATEWAY, PPPOE, &[&header, body].concat())
}

fn tagged(id: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &kind.to_be_bytes(), body].concat()
}

/// A packet between addresses of one family, with its Ethertype.
fn ip(source: &str, destination: &str, protocol: u8, body: &[u8]) -> (u16, Vec<u8>) {
    if source.contains(':') {
        (IPV6, ipv6(source, destination, protocol, 64, body))
    } else {
        (IPV4, V4::new(source, destination, protocol).packet(body))
    }
}

fn ipv6(source: &str, destination: &str, next: u8, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length(body.len()));
    packet.extend([next, hop_limit]);
    packet.extend(octets(source));
    packet.extend(octets(destination));
    packet.extend(body);
    packet
}

/// A SYN.
fn tcp(port: u16) -> Vec<u8> {
    tcp_from(50_000, port)
}

fn tcp_from(source: u16, destination: u16) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn tcp_with_options(port: u16) -> Vec<u8> {
    let mut header = tcp(port);
    if let Some(offset) = header.get_mut(12) {
        *offset = 0x60;
    }
    header.extend([2, 4, 0x05, 0xb4]);
    header
}

/// A datagram of four bytes.
fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut datagram = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    datagram.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    datagram
}

fn icmp(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, 0, 0, 0]
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn octets(address: &str) -> Vec<u8> {
    match address.parse().expect("an address") {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use filter_common::verdict::{DropReason, PassReason};

    use super::*;
    use crate::invariants::{self, Cuts, judge};

    fn reason_name(code: u8) -> &'static str {
        PassReason::from_code(code)
            .map(PassReason::name)
            .or(DropReason::from_code(code).map(DropReason::name))
            .expect("a code with a reason")
    }

    #[test]
    fn each_has_the_reason_that_it_stands_for_and_a_name_of_its_own() {
        let rich = RichPolicy::new();
        let mut names = BTreeSet::new();
        let mut others = Vec::new();
        for seed in seeds() {
            let judged = judge(seed.frame.as_slice(), &rich.view(seed.nic));
            let reason = reason_name(judged.decision.verdict.code());
            if reason != seed.reason {
                others.push(format!("{}: {reason} for {}: {judged:?}", seed.name, seed.reason));
            }
            assert!(names.insert(seed.name), "{} stands there twice", seed.name);
        }
        assert!(others.is_empty(), "{}", others.join("\n"));
    }

    #[test]
    fn what_always_holds_holds_of_each_and_of_its_beginnings() {
        let rich = RichPolicy::new();
        for seed in seeds() {
            invariants::check(&rich, &seed.frame, Cuts::All)
                .unwrap_or_else(|what| panic!("{}: {what}", seed.name));
        }
    }

    /// Reasons that no frame has which enters an inside NIC as the first one: they are of flows, of
    /// outside NICs, of what leaves, and of gateways that intercept questions. The case table has
    /// them.
    const OF_OTHERS: [&str; 12] = [
        "reply",
        "inbound",
        "fragment",
        "kept-flow",
        "forwarded",
        "own",
        "unsolicited",
        "tcp-state",
        "flow-cut",
        "not-from-inside",
        "dns-intercepted",
        "dns-not-intercepted",
    ];

    #[test]
    fn there_is_one_for_each_reason() {
        let found: BTreeSet<&str> = seeds().iter().map(|seed| seed.reason).collect();
        let all = PassReason::ALL.iter().map(|reason| reason.name());
        let all: BTreeSet<&str> =
            all.chain(DropReason::ALL.iter().map(|reason| reason.name())).collect();
        let missing: Vec<&str> = all.difference(&found).copied().collect();
        let others: BTreeSet<&str> = OF_OTHERS.into();
        assert_eq!(missing.into_iter().collect::<BTreeSet<_>>(), others);
    }
}
