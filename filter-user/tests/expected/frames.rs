// SPDX-License-Identifier: MIT OR Apache-2.0
//! `docs/frames.md`: a written rule for every kind of frame, with the reasons that count it.
//!
//! With `UPDATE_EXPECTED=1` the page is written anew.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use filter_common::{
    parse::{MAX_EXTENSION_HEADERS, MAX_IPV4_OPTIONS},
    verdict::{
        DropReason::{self, *},
        PassReason::{self, *},
    },
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/frames.md");

/// A kind of frame, what is done with it, and the reasons that count it.
type Row = (&'static str, &'static str, &'static [PassReason], &'static [DropReason]);

const LINK: &[Row] = &[
    ("ARP", "passes on every NIC", &[Arp], &[]),
    (
        "LLDP, LACP and its marker protocol",
        "pass untagged and to their group addresses; other slow protocols are dropped",
        &[Lldp, Lacp],
        &[MisplacedControl],
    ),
    ("EAPOL", "passes", &[Eapol], &[]),
    (
        "PPPoE discovery, PPP control and authentication in a session",
        "pass",
        &[PppoeDiscovery, PppControl],
        &[],
    ),
    (
        "PPPoE session with IPv4 or IPv6",
        "is judged by the packet that it carries; anything else in a session is dropped",
        &[],
        &[UnknownPpp],
    ),
    (
        "one VLAN tag (802.1Q or 802.1ad), or two (QinQ)",
        "is judged by the packet behind the tags; groups go by the outer id, by the inner one where the outer is 0 (a priority tag)",
        &[],
        &[],
    ),
    ("more than two tags", "is dropped", &[], &[VlanDepth]),
    ("another Ethertype, or an 802.3 length", "is dropped", &[], &[UnknownEthertype, LlcFrame]),
    ("shorter than its link header", "is dropped", &[], &[TruncatedEthernet]),
    (
        "jumbo frames and packets in several buffers",
        "are judged like others: headers are read from the first buffer, lengths are those of the whole; bytes count whole",
        &[],
        &[],
    ),
    (
        "packets that the stack put together (GRO) in generic mode",
        "are judged once and counted as one packet with all their bytes; `sluice status` says so",
        &[],
        &[],
    ),
];

const IP: &[Row] = &[
    (
        "IPv4 options",
        "are walked over, up to OPTIONS of them; a loose or strict source route is dropped, lengths that don't fit are malformed",
        &[],
        &[SourceRoute, MalformedIp],
    ),
    (
        "IPv6 hop-by-hop, destination, routing, fragment and authentication headers",
        "are walked over, up to HEADERS of them; hop-by-hop only as the first, a fragment header only once",
        &[],
        &[ExtensionHeaders],
    ),
    ("a routing header with segments left", "is dropped", &[], &[RoutingHeader]),
    (
        "the first fragment (either family)",
        "is judged like a whole packet; it must hold the whole transport header",
        &[],
        &[FragmentTooShort],
    ),
    (
        "a later fragment",
        "passes for 30 seconds after its first passed by the same NIC, with the same addresses, protocol and identification",
        &[Fragment],
        &[FragmentWithoutFirst, FragmentOverlap],
    ),
    (
        "cut short, or in contradiction to itself",
        "is dropped",
        &[],
        &[TruncatedIp, TruncatedTransport, MalformedTransport],
    ),
    (
        "other IP protocols (ESP, GRE, SCTP ...)",
        "pass by rules with `proto`",
        &[],
        &[ProtocolNotAllowed],
    ),
    (
        "IGMP and multicast listener discovery",
        "pass to multicast addresses with TTL 1",
        &[Igmp, Mld],
        &[],
    ),
    (
        "neighbour discovery (ICMPv6 133 to 137)",
        "passes with hop limit 255 to a link-local or multicast address or to the gateway, never in fragments",
        &[NeighbourDiscovery],
        &[],
    ),
    (
        "DHCP",
        "passes between its standard ports: from inside to servers, from outside to clients, and only to the broadcast address, ff02::1:2 or the gateway",
        &[DhcpV4, DhcpV6],
        &[],
    ),
    (
        "other multicast, and broadcast",
        "is dropped, and never answered",
        &[],
        &[Multicast, Broadcast],
    ),
    (
        "addresses that stand on no wire",
        "are dropped: multicast, loopback, unspecified and IPv4-mapped sources, and such destinations",
        &[],
        &[InvalidSource, InvalidDestination],
    ),
    ("a link-local source", "reaches the gateway only", &[], &[LinkLocalSource]),
    (
        "a source that can't live behind the NIC",
        "is dropped, by routes of both families; nobody has the gateway's own addresses",
        &[],
        &[SpoofedSource],
    ),
];

const INSIDE: &[Row] = &[
    ("to what a rule allows", "passes", &[Rule, DnsForwarder, Management], &[]),
    (
        "to port 53 of another address than the gateway's, with `intercept = true`",
        "passes to be led to the forwarder, whatever rules say; is dropped where the forwarder has no address of the family",
        &[DnsIntercepted],
        &[DnsNotIntercepted],
    ),
    (
        "to anything else",
        "is dropped, or rejected where `deny = \"reject\"`",
        &[],
        &[NotListed, SourceNotAllowed, PortNotAllowed],
    ),
    (
        "ICMP",
        "echo requests pass by rules with `icmp`, errors if what they quote belongs to an allowed exchange or a flow; other types don't pass",
        &[IcmpError],
        &[IcmpType, IcmpErrorUnrelated],
    ),
    (
        "an answer in a flow that was opened to the client",
        "passes, but for the first segment of a TCP connection",
        &[Reply],
        &[TcpState],
    ),
    (
        "of a flow that on_change keeps",
        "passes, but for the first segment of a TCP connection",
        &[KeptFlow],
        &[],
    ),
];

const OUTSIDE: &[Row] = &[
    (
        "an answer in a flow that was opened from inside or by the gateway",
        "passes if it fits the flow's state",
        &[Reply],
        &[TcpState],
    ),
    (
        "to a service of an `[[inbound]]` rule",
        "passes; behind the gateway, a TCP connection must have begun in sight",
        &[Inbound, Management],
        &[TcpState],
    ),
    ("of a flow that was cut", "is dropped", &[], &[FlowCut]),
    (
        "an ICMP error",
        "passes if the packet that it quotes left by this NIC in a live flow",
        &[IcmpError],
        &[IcmpErrorUnrelated],
    ),
    ("anything else", "is dropped, and never answered", &[], &[Unsolicited]),
];

const LEAVING: &[Row] = &[
    ("the gateway's own", "passes, and opens a flow", &[Own], &[]),
    (
        "forwarded from an inside NIC",
        "passes, as it was judged there, and opens a flow",
        &[Forwarded],
        &[],
    ),
    (
        "forwarded to port 53 with `intercept = true`, but from an outside NIC to an inside one",
        "is dropped, as it should have been led to the forwarder; so are later fragments whose first did not leave",
        &[],
        &[DnsNotIntercepted, FragmentWithoutFirst],
    ),
    ("forwarded out of an outside NIC from anywhere else", "is dropped", &[], &[NotFromInside]),
];

#[test]
fn the_page_of_frames_says_what_the_filter_counts() {
    let page = page();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(PAGE, &page).unwrap();
    }
    let written = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/frames.md is not what the code says; run UPDATE_EXPECTED=1 cargo test -p filter-user \
         --test expected frames"
    );
}

fn page() -> String {
    let mut page = String::from(
        "# Frames\n\nWhat Sluice does with every kind of frame that a gateway meets, and the reason that counts it.\n\
         Each frame counts at exactly one reason of its NIC, or at the rules that allow it;\n\
         `sluice status` shows the sums, `sluice drops` samples, and `sluice explain` asks the program.\n\
         In audit mode what would be dropped passes, and counts under the same reason as audited.\n\n\
         This page is made from the code's own list of reasons.\n",
    );
    let mut passes = BTreeSet::new();
    let mut drops = BTreeSet::new();
    for (title, rows) in [
        ("The link", LINK),
        ("IP, on every NIC", IP),
        ("Entering an inside NIC", INSIDE),
        ("Entering an outside NIC", OUTSIDE),
        ("Leaving", LEAVING),
    ] {
        write!(page, "\n## {title}\n\n| frame | what is done | counted as |\n|---|---|---|\n")
            .unwrap();
        for (frame, rule, passing, dropping) in rows {
            passes.extend(passing.iter().copied());
            drops.extend(dropping.iter().copied());
            let names = passing.iter().map(|reason| reason.name());
            let names = names.chain(dropping.iter().map(|reason| reason.name()));
            let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
            let rule = rule
                .replace("OPTIONS", &MAX_IPV4_OPTIONS.to_string())
                .replace("HEADERS", &MAX_EXTENSION_HEADERS.to_string());
            writeln!(page, "| {frame} | {rule} | {} |", names.join(", ")).unwrap();
        }
    }
    assert_eq!(passes, PassReason::ALL.iter().copied().collect(), "a reason to pass has no row");
    assert_eq!(drops, DropReason::ALL.iter().copied().collect(), "a reason to drop has no row");
    page.push_str("\n## Reasons to pass\n\n| code | name | meaning |\n|---|---|---|\n");
    for reason in PassReason::ALL {
        writeln!(page, "| {} | `{}` | {} |", reason.code(), reason.name(), reason.text()).unwrap();
    }
    page.push_str("\n## Reasons to drop\n\n| code | name | meaning |\n|---|---|---|\n");
    for reason in DropReason::ALL {
        writeln!(page, "| {} | `{}` | {} |", reason.code(), reason.name(), reason.text()).unwrap();
    }
    page
}
