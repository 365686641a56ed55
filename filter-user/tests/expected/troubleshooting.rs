// SPDX-License-Identifier: MIT OR Apache-2.0
//! `docs/troubleshooting.md`: a section for each reason by which packets are dropped, with what to do.
//!
//! With `UPDATE_EXPECTED=1` the page is written anew.

use std::{fmt::Write as _, fs};

use filter_common::verdict::DropReason::{self, *};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");

const BEGINNING: &str = "# Troubleshooting

Every packet that is dropped has exactly one reason. This page has a section for each, with what usually is behind
it and what to do. It is made from the code's own list of reasons.

## Where to begin

1. `sluice status` shows how many packets were dropped for which reason, what is wrong now (\"problem\"), and what is worth
   knowing (\"warning\"). Under systemd, `systemctl status sluice` has the first problem, and
   `journalctl -u sluice` the log.
2. `sluice drops` follows samples as they happen: client, destination, port, reason, and the name that led to the
   address, if one did.
3. `sluice explain --from CLIENT --to ADDRESS --tcp PORT` says what would happen to a packet, and why. It asks the
   program that is in force, so that it is never wrong about it.
4. `sluice resolve NAME` says what would be learned of a name, and what not. `sluice names NAME` says what is known of it.
5. `sluice check` says what the configuration makes one wonder about, such as names that can't be resolved.

If a client can't reach something that a rule names, these are the usual causes, the most frequent first:

* The client asks another resolver than the gateway, so that the addresses of a wildcard were never learned: the reason is
  `not-listed`. Hand out the gateway's address as DNS server, or set `[dns] intercept = true`.
* The client has kept an address for longer than its TTL and the grace period. It goes away when the client asks anew;
  `[dns] grace` makes the period longer.
* The service has an endpoint that the vendor's page doesn't list. `sluice drops` shows the address; who it is, the
  client's own log says best.

If nothing works at all after a boot: see whether the lock-down is still there (`systemctl status sluice-lockdown
sluice`), and why `sluice run` does not start (`journalctl -u sluice`). `sluice check` says what is wrong with the
configuration. What the management guard covers is reachable meanwhile.

To find out whether Sluice is to blame at all, set `mode = \"audit\"` and reload: everything passes then, and is counted as
if it were enforced. It opens the gateway; set it back.
";

/// What is behind a reason, and what to do.
const fn advice(reason: DropReason) -> &'static str {
    match reason {
        NotListed => {
            "The usual reason: the destination is in no rule. If it should be reachable, find out which name or service \
             it belongs to, and add that to a rule. If a rule has a wildcard for its name, the address was not learned: \
             the client asked another resolver, or kept an old answer (see above). A name that several addresses serve in \
             turn is only open at those that the gateway was told: clients and gateway have to ask the same resolvers, \
             which they do where clients ask the gateway."
        }
        PortNotAllowed => {
            "The destination is right and the port is not. `sluice explain` names the rules that cover it. QUIC is UDP 443: \
             a rule with `tcp = [443]` alone makes browsers fall back to TCP, which with `deny = \"reject\"` takes them no \
             time. If the port is needed, add it to the rule."
        }
        SourceNotAllowed => {
            "A rule covers the destination, for other clients. See in which groups the client is: its address in `cidr`, \
             the NIC and the VLAN by which it comes. Add it to the group, or the group to the rule's `from`. With VLANs, \
             mind that groups go by the outer tag."
        }
        SpoofedSource => {
            "No route leads to the source by the NIC that the packet came in by. A client with a wrong static address, a \
             network behind another router for which the gateway has no route (add the route), asymmetric routing (two \
             uplinks, or a client with two NICs), or a client that forges. The gateway's own addresses are never valid \
             as a source. Where an interface was renumbered, old addresses stop at once."
        }
        LinkLocalSource => {
            "A client that got no address by DHCP (169.254.0.0/16), or uses its fe80:: address beyond its link. See to \
             its address; `dhcpv4` among the passes of `sluice status` says whether it asks for one."
        }
        InvalidSource => {
            "No host sends this on purpose. A faulty device, a loop, or somebody who tries. `sluice drops` has the NIC \
             and the address."
        }
        InvalidDestination => {
            "A program that sends to 127.0.0.1 or 0.0.0.0 by way of the network, usually a faulty configuration of a \
             proxy or a resolver that answers with such addresses in order to block. Nothing to open."
        }
        Multicast => {
            "Discovery of printers, media and the like (mDNS, SSDP, LLMNR), which belongs to the link. It is counted, never \
             forwarded, and needs no rule. A high number is a talkative network and no fault."
        }
        Broadcast => {
            "Discovery again, old Windows networking above all, or wake-on-LAN. Nothing to open. DHCP passes by itself."
        }
        TruncatedEthernet => {
            "A cut frame: a faulty cable, NIC or driver, or a generator. See `ethtool -S NIC`."
        }
        TruncatedIp => {
            "The packet is shorter than its header says. A faulty NIC, a tunnel that cuts, or somebody who tries. Where it \
             comes with jumbo frames, compare the MTU of both ends."
        }
        TruncatedTransport => "As `truncated-ip`, one layer further up.",
        MalformedIp => {
            "A header that no stack makes. A faulty device or somebody who tries; the client in `sluice drops` says which."
        }
        MalformedTransport => "As `malformed-ip`, one layer further up.",
        UnknownEthertype => {
            "Neither IP nor what a link needs: IPX, AppleTalk, PROFINET, a switch's own protocol. It never passed a router \
             anyway. Nothing to open."
        }
        LlcFrame => {
            "Spanning tree, CDP and other talk of switches. It is not for the gateway. Nothing to open."
        }
        VlanDepth => {
            "Three tags or more: a loop of tagging between switches, or an attempt to hop VLANs. Look at the trunk that the \
             NIC is on."
        }
        UnknownPpp => {
            "In a PPPoE session that crosses the gateway, a protocol other than IP and PPP's own control. Compression or \
             multilink may be on; switch it off at the ends."
        }
        FragmentTooShort => {
            "A first fragment without the whole TCP or UDP header. No stack sends that; it is an old way around filters."
        }
        FragmentOverlap => {
            "A later fragment that would overwrite the header that was judged. As `fragment-too-short`."
        }
        FragmentWithoutFirst => {
            "The first fragment was dropped, came later than the others, or took another NIC. Where fragments are usual \
             (large UDP, some VPNs), see why the first was dropped: it has a reason of its own. Better, lower the MTU of \
             the sender so that nothing is fragmented."
        }
        SourceRoute => "Source routing, which nobody should use. Nothing to open.",
        RoutingHeader => "IPv6 source routing, which nobody should use. Nothing to open.",
        ExtensionHeaders => {
            "More extension headers than anything legitimate has. Nothing to open; the client in `sluice drops` is worth a \
             look."
        }
        ProtocolNotAllowed => {
            "The destination is right and the protocol is neither TCP nor UDP: `ping` (needs `icmp = true`), IPsec \
             (`proto = [\"esp\"]`, and UDP 500 and 4500), GRE. Add it to the rule if it is meant."
        }
        IcmpType => {
            "ICMP other than echo and errors: timestamps, address masks, redirects. Nothing needs it."
        }
        IcmpErrorUnrelated => {
            "An error about a packet that never went through here, or about one that is long forgotten. A few are usual, \
             late answers after a timeout; many are an attempt to reset connections."
        }
        MisplacedControl => {
            "A control frame that its standard forbids: neighbour discovery from more than a hop away, LLDP with a tag. A \
             faulty switch, or somebody who tries."
        }
        Unsolicited => {
            "The usual reason on outside NICs: scans. Where it is a service of yours, offer it with `[[inbound]]`, and mind \
             `from`. Where it is an answer, the flow was unknown: it was idle for longer than its timeout, went out by \
             another NIC, or the flow table was full (`sluice status` says how many flows there are; `max_flows` makes \
             room)."
        }
        TcpState => {
            "A segment that doesn't fit: a connection that was opened before the filter was there or by another way, or an \
             attempt. After the first start long-lived connections may have to be opened anew. If it goes on, look for \
             asymmetric routing."
        }
        FlowCut => {
            "A reload took away what allowed the connection, or somebody ran `sluice flows kill`. It is as it should be; \
             with `on_change = \"keep\"` connections end by themselves."
        }
        NotFromInside => {
            "Something is forwarded to the internet that didn't come from an inside NIC: from a NIC that the configuration \
             doesn't name. `sluice status` warns of such NICs. List it in `inside`, so that it is judged; `ignore` only \
             ends the warning."
        }
        DnsNotIntercepted => {
            "With `intercept = true`, a question that could not be led to the forwarder: the forwarder has no address of \
             this family (add one to `listen`), or the nftables table `inet sluice` is missing, because somebody ran \
             `nft flush ruleset`. The daemon puts it back within two seconds. Stop whoever flushes, or let it leave that \
             table alone."
        }
    }
}

#[test]
fn the_page_of_troubles_has_every_reason() {
    let page = page();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(PAGE, &page).unwrap();
    }
    let written = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/troubleshooting.md is not what the code says; run UPDATE_EXPECTED=1 cargo test -p \
         filter-user --test expected troubles"
    );
}

fn page() -> String {
    let mut page = String::from(BEGINNING);
    page.push_str("\n## Reasons\n");
    for reason in DropReason::ALL {
        write!(page, "\n### {}\n\n**{}**\n\n", reason.name(), reason.text()).unwrap();
        page.push_str(&wrapped(advice(*reason)));
    }
    page
}

/// Lines of at most 120 characters.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        if length > 0 && length + 1 + word.len() > 120 {
            lines.push('\n');
            length = 0;
        }
        if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += word.len();
    }
    lines.push('\n');
    lines
}
