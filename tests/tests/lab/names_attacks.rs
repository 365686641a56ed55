// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers that nobody should learn from, and names that only look as if a rule covered them. In
//! each test the address stays out of reach, and a counter says why.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use sluice_lab::{
    first_packet::{FORWARDER_V4, FORWARDER_V6},
    gateway::Gateway,
    listener::Listeners,
    process::{run, wait_until},
    query::{self, Client, PATIENCE, Reply},
    raw::Wire,
    topology::{Clients, Topology},
    upstream::{
        Upstream,
        answers::{REPLAY, forged, forged_v4, forged_v6, v4, v6},
        wire::{Labels, Message, Question, code, kind},
    },
};

use crate::{
    names_support::{
        ONE_UPSTREAM, RULES, addresses, check_reachable, check_unknown, check_unlearned,
        configuration, counter, dropped, listeners, named, resolve, started, upstream,
    },
    support::{ask, ip},
};

/// How a client's question ends whose answer was tampered with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It gets the honest addresses.
    Honest,
    /// It gets an error, and neither honest nor forged addresses are learned.
    Fails,
}

/// A lab with a forwarder.
macro_rules! site {
    ($lab:ident, $upstream:ident, $listeners:ident, $gateway:ident, $configuration:expr) => {
        let $lab = Topology::new(Clients::One).unwrap();
        let $upstream = upstream(&$lab);
        let $listeners = listeners(&$lab);
        let $gateway = started(&$lab, &$configuration);
    };
    ($lab:ident, $upstream:ident, $listeners:ident, $gateway:ident) => {
        site!($lab, $upstream, $listeners, $gateway, configuration(ONE_UPSTREAM, RULES));
    };
}

/// One attack by the upstream's own hand, for both address families.
#[track_caller]
fn attack(
    (lab, gateway, listeners): (&Topology, &Gateway<'_>, &Listeners),
    name: &str,
    counted: &str,
    ending: Ending,
) {
    let before = counter(gateway, counted);
    let honest: [IpAddr; 2] = [v4(name, 0).into(), v6(name, 0).into()];
    let false_ones: [IpAddr; 2] = [forged_v4(name).into(), forged_v6(name).into()];
    for (kind, honest) in [kind::A, kind::AAAA].into_iter().zip(honest) {
        let reply = query::udp(&lab.client, FORWARDER_V4, name, kind).unwrap();
        match ending {
            Ending::Honest => {
                assert_eq!(reply.addresses(), [honest], "{name}");
                check_reachable(lab, honest);
            }
            Ending::Fails => {
                assert_eq!(reply.code(), Some(code::SERVER_FAILURE), "{name}: {reply:?}");
                check_unlearned(lab, gateway, listeners, honest);
            }
        }
    }
    for address in false_ones {
        check_unlearned(lab, gateway, listeners, address);
    }
    assert!(counter(gateway, counted) > before, "{name}: {counted} didn't rise");
}

#[test]
fn forged_answers_that_arrive_before_the_honest_one() {
    site!(lab, _upstream, listeners, gateway);
    let site = (&lab, &gateway, &listeners);
    for (number, word, counted) in [
        (1, "wrong-id", "wrong-id"),
        (2, "wrong-case", "wrong-case"),
        (3, "wrong-type", "wrong-question"),
        (4, "wrong-name", "wrong-question"),
        (5, "not-a-response", "not-a-response"),
    ] {
        attack(site, &format!("n{number}.{word}.w.lab.example"), counted, Ending::Honest);
    }
}

/// What comes from elsewhere never reaches the forwarder's socket: no flow leads there.
#[test]
fn forged_answers_from_another_port_or_address() {
    site!(lab, _upstream, listeners, gateway);
    for (number, word) in [(1, "wrong-port"), (2, "wrong-address")] {
        let name = format!("n{number}.{word}.w.lab.example");
        let before = dropped(&gateway, "unsolicited");
        let reply = resolve(&lab, &name);
        assert_eq!(reply.addresses(), [IpAddr::from(v4(&name, 0))], "{name}");
        check_unlearned(&lab, &gateway, &listeners, forged_v4(&name).into());
        assert!(dropped(&gateway, "unsolicited") > before, "{name}");
    }
}

/// The best forgery there is, with the right number, case and type: from an inside NIC, and from
/// outside to other ports than the question came from.
#[test]
fn a_perfect_forgery_at_the_wrong_door() {
    site!(lab, upstream, listeners, gateway);
    for (number, way) in [(1, Door::Inside), (2, Door::OtherPorts)] {
        let name = format!("n{number}.delay200.w.lab.example");
        let forged_address = IpAddr::from(forged_v4(&name));
        let reason = match way {
            Door::Inside => "spoofed-source",
            Door::OtherPorts => "unsolicited",
        };
        let before = dropped(&gateway, reason);
        let reply = thread::scope(|scope| {
            let client = scope.spawn(|| resolve(&lab, &name));
            let (question, port) = overheard(&upstream, &name);
            let bytes: String =
                forged(&question).encode().iter().map(|byte| format!("{byte:02x}")).collect();
            let datagram =
                |port: u16| format!("ip 9.9.9.10 > 192.0.2.1 | udp 53 > {port} | hex {bytes}");
            match way {
                Door::Inside => {
                    let wire = Wire::new((&lab.client, "eth0"), (&lab.gateway, "lan0")).unwrap();
                    wire.send(&datagram(port)).unwrap();
                }
                Door::OtherPorts => {
                    let wire = Wire::new((&lab.internet, "eth0"), (&lab.gateway, "wan0")).unwrap();
                    let ports = (1024..5000).filter(|other| *other != port);
                    wire.send_to_ports(&datagram(1024), ports).unwrap();
                }
            }
            client.join().unwrap()
        });
        assert_eq!(reply.addresses(), [IpAddr::from(v4(&name, 0))], "{name}: {reply:?}");
        check_unlearned(&lab, &gateway, &listeners, forged_address);
        assert!(dropped(&gateway, reason) > before, "{name}: {reason}");
    }
}

/// Where a forgery comes in.
#[derive(Clone, Copy)]
enum Door {
    Inside,
    OtherPorts,
}

/// The question as the forwarder asks it, and the port that it asks from.
fn overheard(upstream: &Upstream, name: &str) -> (Question, u16) {
    wait_until("the question reaches the resolver", Duration::from_secs(2), || {
        Ok(!upstream.asked_for(name).is_empty())
    })
    .unwrap();
    let asked = upstream.asked_for(name).remove(0);
    (asked.question, asked.from.port())
}

#[test]
fn answers_that_come_again_or_that_nobody_asked_for() {
    site!(lab, _upstream, listeners, gateway);
    for (number, word) in [(1, "replay"), (2, "unsolicited")] {
        let name = format!("n{number}.{word}.w.lab.example");
        let before = strays(&lab, &gateway);
        let reply = resolve(&lab, &name);
        assert_eq!(reply.addresses(), [IpAddr::from(v4(&name, 0))], "{name}");
        thread::sleep(REPLAY + Duration::from_millis(200));
        check_unlearned(&lab, &gateway, &listeners, forged_v4(&name).into());
        assert_eq!(named(&gateway, &format!("x.{name}")), None);
        assert!(strays(&lab, &gateway) > before, "{name}: nobody counted the stray answer");
    }
}

/// Datagrams that came when nothing was asked any more: those at a socket of the forwarder's, and
/// those at ports that are closed by then.
fn strays(lab: &Topology, gateway: &Gateway<'_>) -> u64 {
    let text = run(lab.gateway.command("cat").arg("/proc/net/snmp")).unwrap();
    let udp: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("Udp:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let place = udp[0].iter().position(|name| *name == "NoPorts").unwrap();
    let closed: u64 = udp[1][place].parse().unwrap();
    let open = ["wrong-id", "wrong-question", "wrong-case"].map(|name| counter(gateway, name));
    closed + open.iter().sum::<u64>()
}

#[test]
fn records_that_the_question_does_not_lead_to() {
    site!(lab, _upstream, listeners, gateway);
    let site = (&lab, &gateway, &listeners);
    for (number, word, counted, ending) in [
        (1, "off-chain", "off-chain", Ending::Honest),
        (2, "authority", "authority", Ending::Honest),
        (3, "additional", "additional", Ending::Honest),
        (4, "loop", "alias-loop", Ending::Fails),
        (5, "fork", "alias-forked", Ending::Fails),
        (6, "chain20", "alias-too-long", Ending::Fails),
        (7, "dot-label", "alias-not-a-name", Ending::Fails),
        (8, "nul-label", "alias-not-a-name", Ending::Fails),
    ] {
        attack(site, &format!("n{number}.{word}.w.lab.example"), counted, ending);
    }
    // Those behind the loop and the fork have other names, and so other addresses.
    for name in ["turn.cdn.example", "left.cdn.example", "right.cdn.example", "off.cdn.example"] {
        check_unlearned(&lab, &gateway, &listeners, forged_v4(name).into());
    }
}

#[test]
fn messages_that_cannot_be_read() {
    site!(lab, _upstream, listeners, gateway);
    let site = (&lab, &gateway, &listeners);
    for (number, word) in
        [(1, "pointer-loop"), (2, "pointer-forward"), (3, "cut-short"), (4, "bad-length")]
    {
        attack(site, &format!("n{number}.{word}.w.lab.example"), "unreadable", Ending::Fails);
    }
}

/// What a cut answer holds is not learned; it is asked again over TCP.
#[test]
fn answers_that_are_cut_or_come_in_fragments() {
    site!(lab, upstream, listeners, gateway);
    attack((&lab, &gateway, &listeners), "n1.cut-full.w.lab.example", "truncated", Ending::Honest);
    let name = "n2.fragmented.w.lab.example";
    let reply = resolve(&lab, name);
    // Either way, but never halfway: whole and learned, or not at all.
    match reply.code() {
        Some(code::NO_ERROR) => {
            assert_eq!(reply.addresses(), [IpAddr::from(v4(name, 0))]);
            check_reachable(&lab, v4(name, 0).into());
        }
        other => {
            assert_eq!(other, Some(code::SERVER_FAILURE), "{reply:?}");
            check_unlearned(&lab, &gateway, &listeners, v4(name, 0).into());
        }
    }
    // A forged second half, in the hope that it is put together with an honest first one.
    let before = dropped(&gateway, "fragment-without-first");
    let name = "n3.delay200.w.lab.example";
    thread::scope(|scope| {
        let client = scope.spawn(|| resolve(&lab, name));
        overheard(&upstream, name);
        let wire = Wire::new((&lab.internet, "eth0"), (&lab.gateway, "wan0")).unwrap();
        let [a, b, c, d] = forged_v4(name).octets();
        for id in 0..64 {
            let frame = format!(
                "ip 9.9.9.10 > 192.0.2.1 id={id} fragment=48 next=17 | \
                 hex c00c00010001000000ff0004{a:02x}{b:02x}{c:02x}{d:02x}"
            );
            wire.send(&frame).unwrap();
        }
        let reply = client.join().unwrap();
        assert_eq!(reply.addresses(), [IpAddr::from(v4(name, 0))]);
    });
    check_unlearned(&lab, &gateway, &listeners, forged_v4(name).into());
    assert!(dropped(&gateway, "fragment-without-first") >= before + 64);
}

#[test]
fn rebinding_to_addresses_that_are_nobodys_or_ours() {
    site!(lab, _upstream, listeners, gateway);
    let _service = Listeners::start(&lab.gateway, [443], []).unwrap();
    let mut number = 0;
    for (counted, addresses) in [
        (
            "special-purpose",
            &[
                "10.0.0.1",
                "172.16.0.1",
                "192.168.1.1",
                "127.0.0.1",
                "169.254.169.254",
                "100.64.0.1",
                "0.0.0.0",
                "198.18.0.1",
                "224.0.0.1",
                "255.255.255.255",
                "::1",
                "fe80::1",
                "fd12::1",
                "ff02::1",
                "64:ff9b::a00:1",
                "64:ff9b::7f00:1",
                "64:ff9b:1::a00:1",
                "::ffff:10.0.0.1",
                "2001:db8::7",
            ][..],
        ),
        ("own", &["192.0.2.1", "10.20.0.1", "10.20.0.77", "fd00:20::1", "fd00:20::77"][..]),
    ] {
        for address in addresses {
            let address = ip(address);
            number += 1;
            let (word, kind) = match address {
                IpAddr::V4(address) => {
                    (format!("ip-{}", address.to_string().replace('.', "-")), kind::A)
                }
                IpAddr::V6(address) => {
                    let groups = address.segments().map(|group| format!("{group:x}"));
                    (format!("ip6-{}", groups.join("-")), kind::AAAA)
                }
            };
            let name = format!("r{number}.{word}.w.lab.example");
            let refused = || counter(&gateway, "special-purpose") + counter(&gateway, "own");
            let (before, all) = (counter(&gateway, counted), refused());
            let reply = query::udp(&lab.client, FORWARDER_V4, &name, kind).unwrap();
            assert_eq!(reply.code(), Some(code::SERVER_FAILURE), "{name}: {reply:?}");
            // An address that is both counts as one of them.
            assert!(refused() > all, "{address}");
            if counted == "special-purpose" || address.is_ipv6() {
                assert!(refused() > all, "{address}");
            } else {
                assert!(counter(&gateway, counted) > before, "{address}");
            }
            check_unknown(&gateway, address);
        }
    }
    for reachable in ["169.254.169.254", "10.0.0.1", "64:ff9b::a00:1", "192.0.2.1"] {
        check_unlearned(&lab, &gateway, &listeners, ip(reachable));
    }
    // A mixture brings what is good of it.
    let name = "m1.ip-10-0-0-1.ip-20-9-9-9.w.lab.example";
    assert_eq!(resolve(&lab, name).addresses(), [ip("20.9.9.9")]);
    check_reachable(&lab, ip("20.9.9.9"));
    check_unlearned(&lab, &gateway, &listeners, ip("10.0.0.1"));
}

/// RFC 2181, section 8: a TTL with its top bit set counts as 0; then the floor holds.
#[test]
fn ttls_beyond_all_measure() {
    let settings = format!("{ONE_UPSTREAM}\nmin_ttl = \"60s\"\nmax_ttl = \"2h\"");
    site!(lab, _upstream, _listeners, gateway, configuration(&settings, RULES));
    for (ttl, most) in
        [(0_u32, 60), (1 << 31, 60), (u32::MAX, 60), ((1 << 31) - 1, 7200), (600, 600)]
    {
        let name = format!("n{}.ttl{ttl}.w.lab.example", ttl % 1000);
        let address = IpAddr::from(v4(&name, 0));
        assert_eq!(resolve(&lab, &name).addresses(), [address], "{name}");
        check_reachable(&lab, address);
        let held = named(&gateway, &name).unwrap();
        let left = held["addresses"][0]["ttl_s"].as_u64().unwrap();
        assert!((most - 5..=most).contains(&left), "TTL {ttl}: {held}");
    }
}

/// 10,000 names under an allowed wildcard: the bound holds, nothing is pushed out for them, and
/// other rules are not their business.
#[test]
fn ten_thousand_names_to_fill_the_table() {
    let settings = format!("{ONE_UPSTREAM}\nmax_names_per_rule = 1000");
    let rules =
        format!("{RULES}\n[[rule]]\nname = \"others\"\nto = [\"*.o.lab.example\"]\ntcp = [443]\n");
    site!(lab, _upstream, listeners, gateway, configuration(&settings, &rules));
    let first = "n60000.w.lab.example";
    assert_eq!(resolve(&lab, first).addresses(), [IpAddr::from(v4(first, 0))]);
    let before = counter(&gateway, "rule-full");
    let mut client = Client::new(&lab.client, FORWARDER_V4, PATIENCE).unwrap();
    let (mut learned, mut refused) = (0, 0);
    for number in 0..10_000 {
        let reply = client.ask(&Labels::of(&format!("n{number}.w.lab.example")), kind::A).unwrap();
        match reply.code() {
            Some(code::NO_ERROR) => learned += 1,
            Some(code::SERVER_FAILURE) => refused += 1,
            other => panic!("n{number}: {other:?}"),
        }
    }
    assert_eq!((learned, refused), (999, 9001));
    assert!(counter(&gateway, "rule-full") >= before + 9001);
    assert_eq!(addresses(&ask(&gateway, &["names"])).len(), 1000);
    check_reachable(&lab, v4(first, 0).into());
    check_reachable(&lab, v4("n0", 0).into());
    for number in [999, 5000, 9999] {
        let refused = IpAddr::from(v4(&format!("n{number}"), 0));
        check_unlearned(&lab, &gateway, &listeners, refused);
    }
    let other = "n60001.o.lab.example";
    assert_eq!(resolve(&lab, other).addresses(), [IpAddr::from(v4(other, 0))]);
    check_reachable(&lab, v4(other, 0).into());
}

/// More addresses than a name may have, in one answer and over time.
#[test]
fn more_addresses_than_the_bounds_let_in() {
    let settings = format!("{ONE_UPSTREAM}\nmax_addresses_per_name = 10\nmax_addresses = 30");
    site!(lab, _upstream, listeners, gateway, configuration(&settings, RULES));
    let name = "n1.many25.w.lab.example";
    let before = counter(&gateway, "name-full");
    assert_eq!(resolve(&lab, name).addresses().len(), 10);
    assert_eq!(counter(&gateway, "name-full"), before + 15);
    check_reachable(&lab, v4(name, 0).into());
    check_unlearned(&lab, &gateway, &listeners, v4(name, 24).into());
    for number in 2..4 {
        resolve(&lab, &format!("n{number}.many25.w.lab.example"));
    }
    let before = counter(&gateway, "cache-full");
    let name = "n4.w.lab.example";
    assert_eq!(resolve(&lab, name).code(), Some(code::SERVER_FAILURE));
    assert!(counter(&gateway, "cache-full") > before);
    check_unlearned(&lab, &gateway, &listeners, v4(name, 0).into());
}

/// Names that a matcher would take for allowed ones that joins labels, stops at a NUL byte, or
/// folds other letters than those of ASCII. None of them is asked for.
#[test]
fn names_that_only_look_like_allowed_ones() {
    let rules = format!(
        "{RULES}\n[[rule]]\nname = \"kiosk\"\nto = [\"*.kiosk.example\", \"*.mass.example\"]\n\
         tcp = [443]\n"
    );
    site!(lab, upstream, listeners, gateway, configuration(ONE_UPSTREAM, &rules));
    let labels = |labels: &[&[u8]]| Labels(labels.iter().map(|label| label.to_vec()).collect());
    let names = [
        // One label "n1.w.lab.example" below somebody else's domain, and dots elsewhere.
        labels(&[b"n1.w.lab.example"]),
        labels(&[b"n2.w", b"lab", b"example"]),
        labels(&[b"n3", b"w.lab.example"]),
        labels(&[b"n4.w.lab", b"example"]),
        labels(&[b"n5", b"w", b"lab.example"]),
        labels(&[b"a.b", b"w", b"lab", b"example"]),
        // What a string of C ends at.
        labels(&[b"n6.w.lab.example\0", b"evil", b"example"]),
        labels(&[b"n7", b"w", b"lab", b"example\0x"]),
        labels(&[b"n8\0x", b"w", b"lab", b"example"]),
        // KELVIN SIGN folds to k, LONG S to s, and full-width letters to narrow ones.
        labels(&[b"n9", "\u{212a}iosk".as_bytes(), b"example"]),
        labels(&[b"n10", "ma\u{17f}s".as_bytes(), b"example"]),
        labels(&[b"n11", "\u{ff4b}iosk".as_bytes(), b"example"]),
        labels(&[b"n12", b"\xcbiosk", b"example"]),
        labels(&[b"n13", b"*", b"w", b"lab", b"example"]),
        labels(&[b"n14", b"kiosk ", b"example"]),
        // Honest ones of others.
        Labels::of("n15.superw.lab.example"),
        Labels::of("n16.w.lab.example.evil.example"),
        Labels::of("w.lab.example"),
    ];
    let mut client = Client::new(&lab.client, FORWARDER_V4, PATIENCE).unwrap();
    for name in &names {
        let refusals = || {
            ["not-listed", "malformed-question", "not-supported"]
                .map(|name| counter(&gateway, name))
                .iter()
                .sum::<u64>()
        };
        let before = refusals();
        let asked = upstream.count();
        let reply = client.ask(name, kind::A).unwrap();
        assert!(
            matches!(reply.code(), Some(code::REFUSED | code::FORMAT_ERROR)),
            "{name}: {reply:?}"
        );
        assert_eq!(reply.addresses(), [] as [IpAddr; 0], "{name}");
        assert_eq!(upstream.count(), asked, "{name} was asked for");
        assert!(refusals() > before, "{name}: nobody counted it");
        check_unlearned(&lab, &gateway, &listeners, v4(&name.text(), 0).into());
    }
    assert_eq!(addresses(&ask(&gateway, &["names"])), [] as [IpAddr; 0]);
    // Case is no difference, and comes back as it was asked.
    let name = Labels::of("N17.W.Lab.EXAMPLE");
    let reply = client.ask(&name, kind::A).unwrap();
    assert_eq!(reply.addresses(), [IpAddr::from(v4("n17", 0))], "{reply:?}");
    let question = reply.said().unwrap().question.clone().unwrap();
    assert_eq!(question, (name, kind::A));
}

/// Questions that are none, over UDP and TCP: an error or silence, and the forwarder goes on.
#[test]
fn malformed_questions() {
    site!(lab, _upstream, _listeners, gateway);
    let mut client = Client::new(&lab.client, FORWARDER_V6, Duration::from_millis(100)).unwrap();
    let whole = Question { id: 2, name: Labels::of("n1.w.lab.example"), kind: kind::A, edns: None }
        .encode();
    let before = counter(&gateway, "malformed-question");
    for length in 0..whole.len() {
        let reply = client.send(&whole[..length]).unwrap();
        assert!(matches!(reply.code(), None | Some(code::FORMAT_ERROR)), "{length}: {reply:?}");
    }
    // A name that is a pointer to itself, and one that leads on for ever.
    for name in [&[0xc0, 12][..], &[1, b'a', 0xc0, 12], &[0x40, 1], &[63, b'a']] {
        let message = [&whole[..12], name, &[0, 1, 0, 1]].concat();
        let reply = client.send(&message).unwrap();
        assert!(matches!(reply.code(), None | Some(code::FORMAT_ERROR)), "{name:?}: {reply:?}");
    }
    // An answer is no question: to answer it would be a loop.
    let question = Question::read(&whole).unwrap();
    let answer = Message { code: code::NO_ERROR, ..question.answer() }.encode();
    assert_eq!(client.send(&answer).unwrap(), Reply::Silence);
    assert!(counter(&gateway, "malformed-question") > before);
    let mut client = Client::new(&lab.client, FORWARDER_V6, PATIENCE).unwrap();
    let reply = client.ask(&Labels::of("n1.w.lab.example"), kind::A).unwrap();
    assert_eq!(reply.addresses(), [IpAddr::from(v4("n1", 0))]);
    let answers = query::tcp(
        &lab.client,
        SocketAddr::new(FORWARDER_V6.ip(), 53),
        &[("n2.w.lab.example", kind::A), ("n3.w.lab.example", kind::AAAA)],
    )
    .unwrap();
    let found: Vec<_> = answers.iter().map(|answer| answer.addresses()[0].0).collect();
    assert_eq!(found, [IpAddr::from(v4("n2", 0)), v6("n3", 0).into()]);
}
