// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames made to get past the filter, from both sides of the gateway: none arrives, and each is
//! counted under its reason.
//!
//! Every frame ends in eight bytes of its own, by which it is known wherever it turns up. That
//! silence is the filter's doing, and no fault of the frames, is shown first: without the filter,
//! every one of them reaches the gateway.

use std::{
    collections::BTreeSet,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use sluice_lab::{
    gateway::{Configuration, Gateway},
    listener::{Listeners, Transport},
    netns::Namespace,
    probe::{self, Outcome},
    process::wait_until,
    raw::{Tap, Wire, tuple},
    topology::{CLIENT_V4, CLIENT_V6, Clients, INSIDE, OUTSIDE, Topology},
};

use crate::support::{address, ask, check_tcp};

const SETTINGS: &str = r#"
[gateway]
inside  = ["lan0", "lan1"]
outside = ["wan0"]
deny    = "drop"
"#;

/// One host of the internet, one service of the gateway, and one of a client's.
const POLICY: &str = r#"
[[rule]]
name = "host"
to   = ["198.51.100.7", "2001:db8:51::7"]
tcp  = [443]
udp  = [443]

[[rule]]
name = "service-for-clients"
to   = ["self"]
tcp  = [8443]
udp  = [8443]

[[inbound]]
name = "service"
from = ["203.0.113.0/24", "2001:db8:f::/48"]
to   = ["self"]
tcp  = [8443]
udp  = [8443]

[[inbound]]
name = "host"
from = ["203.0.113.0/24", "2001:db8:f::/48"]
to   = ["10.20.0.2", "fd00:20::2"]
tcp  = [9443]
"#;

/// How long a frame may be under way on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands for addresses in the tables, in IPv4 and IPv6.
const NAMES: [(&str, &str, &str); 10] = [
    ("CLIENT", "10.20.0.2", "fd00:20::2"),
    ("SECOND", "10.21.0.2", "fd00:21::2"),
    ("LAN", "10.20.0.1", "fd00:20::1"),
    ("WAN", "192.0.2.1", "2001:db8:2::1"),
    ("ROUTER", "192.0.2.2", "2001:db8:2::2"),
    ("HOST", "198.51.100.7", "2001:db8:51::7"),
    ("OTHER", "198.51.100.9", "2001:db8:51::9"),
    ("UNLISTED", "198.18.0.7", "2001:db8:99::7"),
    ("ADMIN", "203.0.113.9", "2001:db8:f::9"),
    ("LOOPBACK", "127.0.0.1", "::1"),
];

/// Where a frame is sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Internet,
}
use Side::{Client, Internet};

/// How far a frame comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// It is dropped for this reason.
    Dropped(&'static str),
    /// It passes for this reason, and ends at the gateway.
    Gateway(&'static str),
    /// It passes for this reason, and arrives on the other side.
    Through(&'static str),
}
use Reach::{Dropped, Gateway as Stays, Through};

/// A frame, and what becomes of it. `MARK` stands for its eight bytes.
type Step = (Side, &'static str, Reach);

/// Fragments of IPv4: ports can't be rewritten, or hidden, and none goes before its first.
const FRAGMENTS_V4: &[Step] = &[
    (
        Client,
        "ip CLIENT > HOST fragment=0+ id=7 | udp 40001 > 443 length=32 | MARK",
        Through("rule"),
    ),
    (Client, "ip CLIENT > HOST fragment=16 id=7 next=17 | MARK", Through("fragment")),
    (
        Client,
        "ip CLIENT > HOST fragment=0+ id=8 | tcp 40001 > 443 | hex 00000000 | MARK | data 4 | MARK",
        Through("rule"),
    ),
    // They would lie over the flags and the sequence numbers of the header.
    (Client, "ip CLIENT > HOST fragment=8+ id=8 next=6 | MARK", Dropped("fragment-overlap")),
    (Client, "ip CLIENT > HOST fragment=16+ id=8 next=6 | MARK", Dropped("fragment-overlap")),
    // Another first fragment, with other ports, is judged by these.
    (
        Client,
        "ip CLIENT > HOST fragment=0+ id=8 | tcp 40001 > 22 | MARK",
        Dropped("port-not-allowed"),
    ),
    (Client, "ip CLIENT > HOST fragment=32 id=9 next=6 | MARK", Dropped("fragment-without-first")),
    (Client, "ip CLIENT > HOST fragment=32 id=7 next=6 | MARK", Dropped("fragment-without-first")),
    (Client, "ip CLIENT > OTHER fragment=32 id=8 next=6 | MARK", Dropped("fragment-without-first")),
    (Internet, "ip CLIENT > HOST fragment=32 id=8 next=6 | MARK", Dropped("spoofed-source")),
    (
        Internet,
        "ip HOST > CLIENT fragment=32 id=8 next=6 | MARK",
        Dropped("fragment-without-first"),
    ),
    // So short that not even the ports are in it, or nothing but them.
    (Client, "ip CLIENT > HOST fragment=0+ id=10 next=6 | MARK", Dropped("fragment-too-short")),
    (
        Client,
        "ip CLIENT > HOST fragment=0+ id=11 next=6 | hex 9c4101bb00000001 | MARK",
        Dropped("fragment-too-short"),
    ),
    (Internet, "ip ADMIN > CLIENT fragment=0+ id=10 next=6 | MARK", Dropped("fragment-too-short")),
    (
        Internet,
        "ip ADMIN > CLIENT fragment=0+ id=12 | tcp 40001 > 22 | MARK",
        Dropped("unsolicited"),
    ),
    (
        Internet,
        "ip ADMIN > CLIENT fragment=24 id=12 next=6 | MARK",
        Dropped("fragment-without-first"),
    ),
    (Client, "ip CLIENT > HOST options=830704c612000700 | tcp 443 | MARK", Dropped("source-route")),
    (Client, "ip CLIENT > HOST options=890704c612000700 | tcp 443 | MARK", Dropped("source-route")),
    (Client, "ip CLIENT > HOST options=0101010144ff0500 | tcp 443 | MARK", Dropped("malformed-ip")),
    (
        Client,
        "ip CLIENT > HOST options=01010194040000018307040a14000200 | tcp 443 | MARK",
        Dropped("source-route"),
    ),
    (
        Internet,
        "ip ADMIN > WAN options=8307040a14000200 | tcp 8443 | MARK",
        Dropped("source-route"),
    ),
];

/// The same for IPv6, and its other headers.
const FRAGMENTS_V6: &[Step] = &[
    (
        Client,
        "ip CLIENT > HOST | fragment 0+ id=7 | udp 40001 > 443 length=32 | MARK",
        Through("rule"),
    ),
    (Client, "ip CLIENT > HOST | fragment 16 id=7 next=17 | MARK", Through("fragment")),
    (
        Client,
        "ip CLIENT > HOST | fragment 0+ id=8 | tcp 40001 > 443 | hex 00000000 | MARK",
        Through("rule"),
    ),
    (Client, "ip CLIENT > HOST | fragment 8+ id=8 next=6 | MARK", Dropped("fragment-overlap")),
    (Client, "ip CLIENT > HOST | fragment 16+ id=8 next=6 | MARK", Dropped("fragment-overlap")),
    (
        Client,
        "ip CLIENT > HOST | fragment 8+ id=8 next=17 | MARK",
        Dropped("fragment-without-first"),
    ),
    (
        Client,
        "ip CLIENT > HOST | fragment 8+ id=8 next=60 | MARK",
        Dropped("fragment-without-first"),
    ),
    (
        Client,
        "ip CLIENT > HOST | fragment 0+ id=8 | tcp 40001 > 22 | MARK",
        Dropped("port-not-allowed"),
    ),
    (
        Client,
        "ip CLIENT > HOST | fragment 32 id=9 next=6 | MARK",
        Dropped("fragment-without-first"),
    ),
    (
        Internet,
        "ip HOST > CLIENT | fragment 32 id=8 next=6 | MARK",
        Dropped("fragment-without-first"),
    ),
    (Client, "ip CLIENT > HOST | fragment 0+ id=10 next=6 | MARK", Dropped("fragment-too-short")),
    (
        Client,
        "ip CLIENT > HOST | fragment 0+ id=11 next=6 | hex 9c4101bb00000001 | MARK",
        Dropped("fragment-too-short"),
    ),
    (
        Internet,
        "ip ADMIN > CLIENT | fragment 0+ id=10 next=6 | MARK",
        Dropped("fragment-too-short"),
    ),
    (
        Internet,
        "ip ADMIN > CLIENT | fragment 24 id=12 next=6 | MARK",
        Dropped("fragment-without-first"),
    ),
    (
        Client,
        "ip CLIENT > HOST | fragment 0+ id=13 | fragment 0+ id=14 | udp 443 | MARK",
        Dropped("extension-headers"),
    ),
    // Options push the ports to where a later fragment may lie, as 24 is behind a header of TCP.
    (
        Client,
        "ip CLIENT > HOST | fragment 0+ id=16 | destination | destination | destination | tcp 40001 > 443 | hex 00000000 | MARK",
        Dropped("extension-headers"),
    ),
    (
        Client,
        "ip CLIENT > HOST | fragment 24 id=16 next=6 | hex 9c410016 00000001 00000000 5002ffff 00000000 | MARK",
        Dropped("fragment-without-first"),
    ),
    (
        Internet,
        "ip ADMIN > WAN | fragment 0+ id=17 | destination | udp 40001 > 8443 | MARK",
        Dropped("extension-headers"),
    ),
    // Neighbour discovery in fragments.
    (
        Client,
        "ip CLIENT > LAN ttl=255 | fragment 0+ id=15 | icmp6 135 | MARK",
        Dropped("misplaced-control"),
    ),
    // As many headers as the parser follows, and more.
    (
        Client,
        "ip CLIENT > HOST | hop-by-hop | destination | destination | destination | destination | destination | udp 443 | MARK",
        Through("rule"),
    ),
    (
        Client,
        "ip CLIENT > HOST | hop-by-hop | destination | destination | destination | destination | destination | destination | udp 443 | MARK",
        Dropped("extension-headers"),
    ),
    (
        Internet,
        "ip ADMIN > WAN | destination | destination | destination | destination | destination | destination | destination | udp 8443 | MARK",
        Dropped("extension-headers"),
    ),
    (
        Client,
        "ip CLIENT > HOST | destination | hop-by-hop | udp 443 | MARK",
        Dropped("extension-headers"),
    ),
    (Client, "ip CLIENT > HOST | destination length=255 | udp 443 | MARK", Dropped("truncated-ip")),
    (Client, "ip CLIENT > HOST | routing 1 | udp 443 | MARK", Dropped("routing-header")),
    (
        Client,
        "ip CLIENT > HOST | destination | routing 255 | udp 443 | MARK",
        Dropped("routing-header"),
    ),
    (Internet, "ip ADMIN > WAN | routing 1 | udp 8443 | MARK", Dropped("routing-header")),
];

/// Sources that can't be there. What goes for IPv4 goes for IPv6.
const SPOOFED: &[Step] = &[
    (Client, "ip OTHER > HOST | udp 443 | MARK", Dropped("spoofed-source")),
    (Client, "ip HOST > HOST | udp 443 | MARK", Dropped("spoofed-source")),
    (Client, "ip SECOND > HOST | udp 443 | MARK", Dropped("spoofed-source")),
    (Client, "ip ROUTER > HOST | udp 443 | MARK", Dropped("spoofed-source")),
    (Client, "ip LAN > HOST | udp 443 | MARK", Dropped("spoofed-source")),
    (Client, "ip WAN > LAN | udp 8443 | MARK", Dropped("spoofed-source")),
    (Client, "ip LOOPBACK > LAN | udp 8443 | MARK", Dropped("invalid-source")),
    (Client, "ip CLIENT > LOOPBACK | udp 8443 | MARK", Dropped("invalid-destination")),
    (Internet, "ip CLIENT > WAN | udp 8443 | MARK", Dropped("spoofed-source")),
    (Internet, "ip SECOND > CLIENT | tcp 9443 | MARK", Dropped("spoofed-source")),
    (Internet, "ip LAN > CLIENT | tcp 9443 | MARK", Dropped("spoofed-source")),
    (Internet, "ip WAN > WAN | tcp 8443 | MARK", Dropped("spoofed-source")),
    (Internet, "ip LOOPBACK > WAN | tcp 8443 | MARK", Dropped("invalid-source")),
    (Internet, "ip ADMIN > LOOPBACK | tcp 8443 | MARK", Dropped("invalid-destination")),
];

/// Packets of flows that there aren't, beside a UDP flow from CLIENT, port 50000, to HOST, port 443,
/// and a TCP one from PORT.
const FLOWS: &[Step] = &[
    (Internet, "ip HOST > CLIENT | udp 443 > 50000 | MARK", Through("reply")),
    (Internet, "ip HOST > CLIENT | udp 443 > 50001 | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > CLIENT | udp 444 > 50000 | MARK", Dropped("unsolicited")),
    (Internet, "ip OTHER > CLIENT | udp 443 > 50000 | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > SECOND | udp 443 > 50000 | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > WAN | udp 443 > 50000 | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > CLIENT | tcp 443 > 50000 flags=sa | MARK", Dropped("unsolicited")),
    (Internet, "ip OTHER > CLIENT | tcp 443 > PORT flags=sa | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > CLIENT | tcp 444 > PORT flags=a | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > CLIENT | tcp 443 > 50000 flags=a | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > CLIENT | tcp 443 > 50000 flags=r | MARK", Dropped("unsolicited")),
    (Internet, "ip HOST > CLIENT | tcp 443 > PORT flags=s | MARK", Dropped("tcp-state")),
    (Internet, "ip HOST > CLIENT | tcp 443 > PORT flags=none | MARK", Dropped("tcp-state")),
    (Internet, "ip HOST > CLIENT | tcp 443 > PORT flags=fsra | MARK", Dropped("tcp-state")),
    // A client's service: only from whom it is for, and not from the middle on.
    (Internet, "ip UNLISTED > CLIENT | tcp 9443 | MARK", Dropped("unsolicited")),
    (Internet, "ip ADMIN > CLIENT | tcp 9444 | MARK", Dropped("unsolicited")),
    (Internet, "ip ADMIN > CLIENT | tcp 40002 > 9443 flags=a | MARK", Dropped("tcp-state")),
    (Internet, "ip ADMIN > CLIENT | tcp 40002 > 9443 flags=sa | MARK", Dropped("tcp-state")),
    (Internet, "ip ADMIN > CLIENT | tcp 40002 > 9443 flags=fa | MARK", Dropped("tcp-state")),
    (Internet, "ip ADMIN > CLIENT | tcp 40002 > 9443 flags=none | MARK", Dropped("tcp-state")),
];

/// ICMP errors beside the same flow; `ERROR` is each kind of them in turn.
const ERRORS: &[Step] = &[
    (
        Internet,
        "ip OTHER > CLIENT | ERROR | ip CLIENT > HOST | udp 50001 > 443 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (
        Internet,
        "ip OTHER > CLIENT | ERROR | ip CLIENT > HOST | udp 50000 > 444 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (
        Internet,
        "ip OTHER > CLIENT | ERROR | ip CLIENT > OTHER | udp 50000 > 443 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (
        Internet,
        "ip HOST > CLIENT | ERROR | ip CLIENT > HOST | tcp 50000 > 443 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (
        Internet,
        "ip HOST > SECOND | ERROR | ip CLIENT > HOST | udp 50000 > 443 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (
        Internet,
        "ip HOST > WAN | ERROR | ip WAN > HOST | udp 50000 > 443 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (Internet, "ip HOST > CLIENT | ERROR | MARK", Dropped("icmp-error-unrelated")),
    // A client's errors are about what it may be sent.
    (
        Client,
        "ip CLIENT > HOST | ERROR | ip HOST > CLIENT | udp 22 > 50000 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (
        Client,
        "ip CLIENT > HOST | ERROR | ip OTHER > CLIENT | udp 443 > 50000 | MARK",
        Dropped("icmp-error-unrelated"),
    ),
    (
        Client,
        "ip CLIENT > UNLISTED | ERROR | ip UNLISTED > CLIENT | udp 443 > 50000 | MARK",
        Dropped("not-listed"),
    ),
    // The one that is about the flow, from a router on the way.
    (
        Internet,
        "ip OTHER > CLIENT | ERROR | ip CLIENT > HOST | udp 50000 > 443 | MARK",
        Through("icmp-error"),
    ),
];

/// Control of the link as a tunnel, in IPv4.
const CONTROL_V4: &[Step] = &[
    (Client, "ip CLIENT > HOST | udp 68 > 67 | MARK", Dropped("port-not-allowed")),
    (Client, "ip CLIENT > UNLISTED | udp 68 > 67 | MARK", Dropped("not-listed")),
    (Client, "ip CLIENT > UNLISTED | udp 67 > 68 | MARK", Dropped("not-listed")),
    (Client, "ip CLIENT > SECOND | udp 68 > 67 | MARK", Dropped("not-listed")),
    (Client, "ip CLIENT > LAN | udp 67 > 68 | MARK", Dropped("port-not-allowed")),
    (
        Client,
        "eth ff:ff:ff:ff:ff:ff | ip 0.0.0.0 > 255.255.255.255 | udp 68 > 67 | MARK",
        Stays("dhcpv4"),
    ),
    (Client, "ip CLIENT > LAN | udp 68 > 67 | MARK", Stays("dhcpv4")),
    (Client, "ip CLIENT > 10.21.0.255 | udp 68 > 67 | MARK", Dropped("broadcast")),
    (Internet, "ip ADMIN > CLIENT | udp 67 > 68 | MARK", Dropped("unsolicited")),
    (Internet, "ip ADMIN > WAN | udp 68 > 67 | MARK", Dropped("unsolicited")),
    (Internet, "ip ROUTER > WAN | udp 67 > 68 | MARK", Stays("dhcpv4")),
    (Client, "ip CLIENT > HOST | icmp 13 | MARK", Dropped("icmp-type")),
    (Client, "ip CLIENT > HOST next=4 | MARK", Dropped("protocol-not-allowed")),
    (Client, "ip CLIENT > 224.0.0.251 ttl=1 | udp 5353 > 5353 | MARK", Dropped("multicast")),
];

/// The same in IPv6. Neighbour discovery asks for LAN, or for a neighbour of the outside NIC, and
/// has an experimental option full of data.
const CONTROL_V6: &[Step] = &[
    (Client, "ip CLIENT > HOST | udp 546 > 547 | MARK", Dropped("port-not-allowed")),
    (Client, "ip CLIENT > UNLISTED | udp 546 > 547 | MARK", Dropped("not-listed")),
    (Client, "ip CLIENT > ff05::1:3 | udp 546 > 547 | MARK", Dropped("multicast")),
    (Client, "ip CLIENT > LAN | udp 546 > 547 | MARK", Stays("dhcpv6")),
    (Internet, "ip ADMIN > CLIENT | udp 547 > 546 | MARK", Dropped("unsolicited")),
    (Client, "ip CLIENT > HOST ttl=255 | icmp6 135 | ASK | MARK", Dropped("misplaced-control")),
    (Client, "ip CLIENT > UNLISTED ttl=255 | icmp6 136 | ASK | MARK", Dropped("misplaced-control")),
    (Client, "ip CLIENT > SECOND ttl=255 | icmp6 135 | ASK | MARK", Dropped("misplaced-control")),
    (Client, "ip CLIENT > ROUTER ttl=255 | icmp6 135 | ASK | MARK", Dropped("misplaced-control")),
    (Client, "ip CLIENT > LAN ttl=254 | icmp6 135 | ASK | MARK", Dropped("misplaced-control")),
    (Client, "ip CLIENT > LAN ttl=255 | icmp6 135 | ASK | MARK", Stays("neighbour-discovery")),
    (Client, "ip CLIENT > WAN ttl=255 | icmp6 135 | ASK | MARK", Stays("neighbour-discovery")),
    (
        Client,
        "ip CLIENT > LAN ttl=255 | icmp6 133 | hex fd1e | data 230 | MARK",
        Stays("neighbour-discovery"),
    ),
    (Client, "ip CLIENT > fe80::7 ttl=255 | icmp6 135 | ASK | MARK", Stays("neighbour-discovery")),
    (
        Client,
        "eth 33:33:00:00:00:02 | ip CLIENT > ff02::2 ttl=255 | icmp6 136 | ASK | MARK",
        Stays("neighbour-discovery"),
    ),
    (Client, "ip CLIENT > ff05::2 ttl=255 | icmp6 135 | ASK | MARK", Dropped("misplaced-control")),
    (Internet, "ip ROUTER > CLIENT ttl=255 | icmp6 136 | ASK | MARK", Dropped("misplaced-control")),
    (
        Internet,
        "ip ROUTER > CLIENT ttl=255 | icmp6 134 | hex fd1e | data 230 | MARK",
        Dropped("misplaced-control"),
    ),
    (Internet, "ip ROUTER > WAN ttl=255 | icmp6 135 | ASK | MARK", Stays("neighbour-discovery")),
    (Client, "ip fe80::2 > HOST | udp 443 | MARK", Dropped("link-local-source")),
];

/// A question for LAN as a neighbour, with 240 bytes of an option around what follows.
const ASK: &str = "hex fd000020000000000000000000000001 | hex fd1e | data 230";

/// Both families' kinds of errors, as layers: unreachable, too big, time exceeded.
const KINDS: [&[&str]; 2] =
    [&["icmp 3 1", "icmp 3 4", "icmp 11"], &["icmp6 1 4", "icmp6 2", "icmp6 3"]];

/// A step with everything put in.
struct Attack {
    from: Side,
    frame: String,
    mark: [u8; 8],
    reach: Reach,
}

/// A lab with taps, and wires to the gateway from both sides.
struct Scene {
    wires: [Wire; 2],
    gateway: Tap,
    /// Of the client, the second client and the internet.
    others: [Tap; 3],
}

#[test]
fn fragments_and_headers_hide_no_port() {
    carry_out(&attacks(&[(0, FRAGMENTS_V4), (1, FRAGMENTS_V6)], &[]));
}

#[test]
fn sources_that_can_not_be_there_are_dropped() {
    carry_out(&attacks(&[(0, SPOOFED), (1, SPOOFED)], &[]));
}

#[test]
fn control_of_the_link_carries_nothing_through() {
    carry_out(&attacks(&[(0, CONTROL_V4), (1, CONTROL_V6)], &[]));
}

#[test]
fn only_packets_of_a_flow_come_in() {
    let lab = Topology::new(Clients::Two).unwrap();
    let hosts = ["198.51.100.7:443", "[2001:db8:51::7]:443"].map(address);
    let _servers = Listeners::start(&lab.internet, [443], hosts).unwrap();
    let scene = Scene::new(&lab);
    let unknown = [(0, FLOWS), (1, FLOWS), (0, ERRORS), (1, ERRORS)];
    scene.check_all_arrive(&attacks(&unknown, &[1, 1]));

    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let flows = hosts.map(|to| Flows::open(&lab.client, to));
    let ports = flows.each_ref().map(|flows| flows.tcp.local_addr().unwrap().port());
    scene.carry_out(&gateway, &attacks(&unknown, &ports));
    drop(flows);
}

/// Every port of the gateway, from both sides: one service of each protocol answers.
#[test]
fn no_port_of_the_gateway_is_open_that_is_not_offered() {
    let lab = Topology::new(Clients::One).unwrap();
    let sides = [
        (&lab.internet, OUTSIDE, ["203.0.113.9", "2001:db8:f::9"], ["192.0.2.1", "2001:db8:2::1"]),
        (&lab.client, INSIDE, ["10.20.0.2", "fd00:20::2"], ["10.20.0.1", "fd00:20::1"]),
    ];
    let listening = [1, 22, 8443, 9000, 40_000, 65_535];
    let own: Vec<_> = sides.iter().flat_map(|(.., own)| own).collect();
    let udp = own
        .iter()
        .flat_map(|own| listening.iter().map(|&port| SocketAddr::new(own.parse().unwrap(), port)));
    let listeners = Listeners::start(&lab.gateway, listening, udp).unwrap();
    // Without the filter, whoever listens is reached.
    for (from, _, _, own) in &sides {
        for own in own {
            for port in listening {
                let to = SocketAddr::new(own.parse().unwrap(), port);
                check_tcp(from, &to.to_string(), Outcome::Answered);
                assert_eq!(probe::udp(from, to, 8).unwrap(), Outcome::Answered, "udp {to}");
            }
        }
    }

    let mut gateway = Gateway::new(
        &lab,
        &Configuration::new(SETTINGS.replace(", \"lan1\"", "")).policy("test", POLICY),
    )
    .unwrap();
    gateway.start().unwrap();
    for (from, nic, sources, own) in sides {
        let wire = Wire::new((from, "eth0"), (&lab.gateway, nic)).unwrap();
        for (source, own) in sources.into_iter().zip(own) {
            for protocol in ["tcp", "udp"] {
                let tap = Tap::new(&lab.gateway).unwrap();
                let reason = if nic == OUTSIDE { "unsolicited" } else { "port-not-allowed" };
                let before = counted(&gateway, "drops", reason);
                let scan = format!("ip {source} > {own} | {protocol} 39999 > 1");
                wire.send_to_ports(&scan, 1..=u16::MAX).unwrap();
                let what = format!("{protocol} from {source} to {own}");
                // All but the one that is offered.
                let expected = before + 65_534;
                let _ = wait_until("all were counted", PATIENCE, || {
                    Ok(counted(&gateway, "drops", reason) >= expected)
                });
                assert_eq!(counted(&gateway, "drops", reason), expected, "{what}");
                let number = if protocol == "tcp" { 6 } else { 17 };
                let passed: BTreeSet<_> = tap
                    .take()
                    .unwrap()
                    .iter()
                    .filter_map(|frame| tuple(frame))
                    .filter(|&(.., to, next, _, _)| next == number && to == crate::support::ip(own))
                    .map(|(.., port)| port)
                    .collect();
                assert_eq!(passed, BTreeSet::from([8443]), "{what}");
            }
        }
        for own in own {
            for port in listening {
                let to = SocketAddr::new(own.parse().unwrap(), port);
                // Once before the filter was there, and where it is offered once more.
                let expected = if port == 8443 { 2 } else { 1 };
                assert_eq!(listeners.reached(Transport::Udp, to), expected, "udp {to}");
            }
        }
    }
}

/// A UDP flow from port 50000, and a TCP one.
struct Flows {
    _udp: UdpSocket,
    tcp: TcpStream,
}

// === impl Flows ===

impl Flows {
    fn open(client: &Namespace, to: SocketAddr) -> Self {
        let opened = client.enter(|| {
            let own: IpAddr = if to.is_ipv4() { CLIENT_V4.into() } else { CLIENT_V6.into() };
            let udp = UdpSocket::bind((own, 50_000)).unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            udp.send_to(b"flow", to).unwrap();
            assert_eq!(udp.recv_from(&mut [0; 8]).unwrap(), (4, to));
            let mut tcp = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
            assert_eq!(tcp.read(&mut [0; 64]).unwrap(), format!("tcp {to}\n").len());
            Self { _udp: udp, tcp }
        });
        opened.unwrap()
    }
}

// === impl Scene ===

impl Scene {
    fn new(lab: &Topology) -> Self {
        let second = lab.second_client.as_ref().unwrap();
        let wire = |from, nic| Wire::new((from, "eth0"), (&lab.gateway, nic)).unwrap();
        Self {
            wires: [wire(&lab.client, INSIDE), wire(&lab.internet, OUTSIDE)],
            gateway: Tap::new(&lab.gateway).unwrap(),
            others: [&lab.client, second, &lab.internet].map(|other| Tap::new(other).unwrap()),
        }
    }

    fn send(&self, attack: &Attack) -> Vec<u8> {
        let wire = match attack.from {
            Client => &self.wires[0],
            Internet => &self.wires[1],
        };
        let sent = wire.send(&attack.frame).unwrap();
        assert!(sent.ends_with(&attack.mark), "`{}` must end in its mark", attack.frame);
        sent
    }

    /// Without the filter, every frame comes to the gateway.
    fn check_all_arrive(&self, attacks: &[Attack]) {
        for attack in attacks {
            let sent = self.send(attack);
            let mut seen = 0;
            let _ = wait_until("it is there", PATIENCE, || {
                seen += self.arrived(&sent).0;
                Ok(seen > 0)
            });
            assert_eq!(seen, 1, "`{}` without the filter", attack.frame);
        }
        thread::sleep(Duration::from_millis(100));
        self.drain();
    }

    fn drain(&self) {
        for tap in self.others.iter().chain([&self.gateway]) {
            tap.take().unwrap();
        }
    }

    /// How often a frame arrived at the gateway, and at all others. Answers to it, and errors that
    /// quote it, have its mark too, but are no longer the same.
    fn arrived(&self, sent: &[u8]) -> (usize, usize) {
        let count = |tap: &Tap| {
            tap.take().unwrap().iter().filter(|frame| unchanged(frame) == unchanged(sent)).count()
        };
        (count(&self.gateway), self.others.iter().map(count).sum())
    }

    fn carry_out(&self, gateway: &Gateway<'_>, attacks: &[Attack]) {
        for attack in attacks {
            let (kind, reason) = match attack.reach {
                Dropped(reason) => ("drops", reason),
                Stays(reason) | Through(reason) => ("passes", reason),
            };
            let before = counted(gateway, kind, reason);
            self.drain();
            let sent = self.send(attack);
            let _ = wait_until("it is counted", PATIENCE, || {
                Ok(counted(gateway, kind, reason) > before)
            });
            thread::sleep(Duration::from_millis(10));
            let rise = counted(gateway, kind, reason) - before;
            let arrived = self.arrived(&sent);
            let what = format!("`{}` from {:?}: {arrived:?}", attack.frame, attack.from);
            match attack.reach {
                Dropped(_) => {
                    assert_eq!(rise, 1, "{what}, {reason}: {}", ask(gateway, &["status"])["drops"]);
                    assert_eq!(arrived, (0, 0), "{what}");
                }
                Stays(_) => {
                    assert!(rise >= 1, "{what}, {reason}");
                    assert_eq!(arrived, (1, 0), "{what}");
                }
                Through(_) => {
                    assert!(rise >= 1, "{what}, {reason}: {}", ask(gateway, &["status"]));
                    assert_eq!(arrived, (1, 1), "{what}");
                }
            }
        }
    }
}

fn configuration() -> Configuration {
    Configuration::new(SETTINGS).policy("test", POLICY)
}

/// Makes a lab, shows that all frames arrive without a filter, and what becomes of them with it.
fn carry_out(attacks: &[Attack]) {
    let lab = Topology::new(Clients::Two).unwrap();
    let hosts = ["198.51.100.7:443", "[2001:db8:51::7]:443"].map(address);
    let _servers = Listeners::start(&lab.internet, [443], hosts).unwrap();
    let scene = Scene::new(&lab);
    scene.check_all_arrive(attacks);
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    scene.carry_out(&gateway, attacks);
}

/// Puts addresses, ports and marks into tables, each for a family (0 is IPv4).
fn attacks(tables: &[(usize, &[Step])], ports: &[u16]) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for &(family, steps) in tables {
        for &(from, text, reach) in steps {
            let kinds = if text.contains("ERROR") { KINDS[family] } else { &[""] };
            for kind in kinds {
                let mut frame = text.replace("ERROR", kind).replace("ASK", ASK);
                for (name, v4, v6) in NAMES {
                    frame = frame.replace(name, [v4, v6][family]);
                }
                if let Some(port) = ports.get(family) {
                    frame = frame.replace("PORT", &port.to_string());
                }
                let number = u32::try_from(attacks.len()).unwrap();
                let mark = (0x5c1c_e0ff_0000_0000 + u64::from(number)).to_be_bytes();
                let hex: String = mark.iter().map(|octet| format!("{octet:02x}")).collect();
                frame = frame.replace("MARK", &format!("hex {hex}"));
                attacks.push(Attack { from, frame, mark, reach });
            }
        }
    }
    attacks
}

/// What forwarding leaves of a frame as it is: from its addresses on.
fn unchanged(frame: &[u8]) -> Option<&[u8]> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(26..),
        [0x86, 0xdd] => frame.get(22..),
        _ => None,
    }
}

/// How many packets were counted under a reason, on all NICs.
fn counted(gateway: &Gateway<'_>, kind: &str, reason: &str) -> u64 {
    ask(gateway, &["status"])[kind][reason]["packets"].as_u64().unwrap_or_default()
}
