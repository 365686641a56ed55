// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows under policies as they are written in files.

use filter_common::{flow::octets, parse::Address};

use super::*;
use crate::{
    compile::{Compiled, CounterLedger, HostNic, compile},
    names::Snapshot,
    policy::{NicName, load},
};

/// The gateway 192.0.2.1 (and 10.0.0.1, 10.1.0.1), clients in 10.0.0.0/16 behind `in0` and in
/// 10.1.0.0/16 behind `in1`, the internet behind `out0`.
const GATEWAY: &str = "[gateway]\ninside = [\"in0\", \"in1\"]\noutside = [\"out0\"]\n";
const WEB: &str =
    "[[rule]]\nname = \"web\"\nto = [\"198.51.100.0/24\"]\ntcp = [443]\nicmp = true\n";
const NOW: Clock = Clock { now: 1_000_000, hertz: 100 };

fn host() -> Host {
    let nic = |slot, name: &str, side, plausible: &[&str], elsewhere: &[&str]| {
        let prefixes =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        HostNic {
            slot,
            name: NicName::try_from(name).unwrap(),
            side,
            plausible: prefixes(plausible),
            elsewhere: prefixes(elsewhere),
        }
    };
    Host {
        nics: vec![
            nic(0, "in0", Side::Inside, &["10.0.0.0/16"], &[]),
            nic(1, "in1", Side::Inside, &["10.1.0.0/16"], &[]),
            nic(2, "out0", Side::Outside, &["0.0.0.0/0"], &["10.0.0.0/15", "172.16.0.0/12"]),
        ],
        own: ["192.0.2.1", "10.0.0.1", "10.1.0.1"].map(|text| text.parse().unwrap()).into(),
        closed: BTreeSet::new(),
    }
}

fn compiled(gateway: &str, rules: &str) -> Compiled {
    let files = [
        (load::GATEWAY_FILE.into(), format!("{GATEWAY}{gateway}")),
        ("policy.d/test.toml".into(), rules.to_owned()),
    ];
    let policy = load::parse(&files).unwrap().policy;
    compile(&policy, &Snapshot::default(), &host(), &mut CounterLedger::default()).unwrap()
}

/// `tcp 10.0.0.2:40000 > 198.51.100.7:443`, the local end first.
fn key(text: &str) -> FlowKey {
    let words: Vec<&str> = text.split(' ').collect();
    let [protocol, local, ">", remote] = words[..] else { panic!("{text}") };
    let end = |text: &str| {
        let (address, port) = text.split_once(':').unwrap();
        let address: Ipv4Addr = address.parse().unwrap();
        (octets(&Address::V4(address.octets())), port.parse().unwrap())
    };
    let ((local, local_port), (remote, remote_port)) = (end(local), end(remote));
    let protocol = match protocol {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "icmp" => protocol::ICMP,
        other => panic!("{other}"),
    };
    FlowKey { local, remote, local_port, remote_port, protocol, ip_version: 4, reserved: [0; 2] }
}

fn record(origin: Origin, state: FlowState, created: u64) -> FlowRecord {
    FlowRecord { created, seen: NOW.now, ..FlowRecord::open(NOW, state, origin) }
}

fn established(flows: &[(&str, Origin)], translated: &[(&str, &str)]) -> Flows {
    let mut connections = Connections::default();
    for (before, after) in translated {
        connections.insert(key(before), key(after));
    }
    let all = (1..)
        .zip(flows)
        .map(|(age, (text, origin))| (key(text), record(*origin, FlowState::Established, age)));
    Flows::new(NOW, all, connections)
}

/// Which flows of a list a change from one policy to another cuts.
#[track_caller]
fn check_cut(flows: &Flows, old: &Compiled, new: &Compiled, expected: &[&str]) {
    let host = host();
    let (old, new) = (Judge::new(&old.tables, &host), Judge::new(&new.tables, &host));
    let mut expected: Vec<FlowKey> = expected.iter().map(|text| key(text)).collect();
    expected.sort();
    assert_eq!(flows.denied(&old, &new), expected);
}

const CLIENT: &str = "tcp 10.0.0.2:40000 > 198.51.100.7:443";
const BEHIND_NAT: &str = "tcp 192.0.2.1:1024 > 198.51.100.7:443";
const UNKNOWN: &str = "tcp 192.0.2.1:1025 > 198.51.100.7:443";
const ECHO: &str = "icmp 10.0.0.2:7 > 198.51.100.7:0";
const OTHER_PORT: &str = "tcp 10.0.0.2:40001 > 198.51.100.7:80";
const OWN: &str = "udp 192.0.2.1:5000 > 198.51.100.7:123";

#[test]
fn a_flow_goes_with_what_allows_it() {
    let flows = established(
        &[
            (CLIENT, Origin::Inside),
            (BEHIND_NAT, Origin::Inside),
            (UNKNOWN, Origin::Inside),
            (ECHO, Origin::Inside),
            (OTHER_PORT, Origin::Inside),
            (OWN, Origin::Gateway),
            ("tcp 10.0.0.9:443 > 198.51.100.9:5000", Origin::InboundHost),
        ],
        &[("tcp 10.1.0.2:40000 > 198.51.100.7:443", BEHIND_NAT)],
    );
    let (web, nothing) = (compiled("", WEB), compiled("", ""));
    // Nobody knows whose the third is; the fifth was never allowed.
    check_cut(&flows, &web, &web, &[UNKNOWN, OTHER_PORT]);
    check_cut(&flows, &web, &nothing, &[CLIENT, BEHIND_NAT, UNKNOWN, ECHO, OTHER_PORT]);
    // The client that counts is the one before source NAT.
    let group = "[[source]]\nname = \"second\"\ncidr = [\"10.1.0.0/24\"]\n";
    let second = compiled(group, &WEB.replace("to =", "from = [\"second\"]\nto ="));
    check_cut(&flows, &web, &second, &[CLIENT, UNKNOWN, ECHO, OTHER_PORT]);
    let audit = compiled("mode = \"audit\"\n", "");
    check_cut(&flows, &web, &audit, &[]);
}

#[test]
fn what_was_cut_is_not_cut_again_and_what_expired_is_gone() {
    let expired = FlowRecord { seen: 1, ..record(Origin::Inside, FlowState::Established, 1) };
    let cut = record(Origin::Inside, FlowState::Cut, 1);
    let flows =
        Flows::new(NOW, [(key(CLIENT), expired), (key(OTHER_PORT), cut)], Connections::default());
    assert_eq!(flows.entries(), 1);
    check_cut(&flows, &compiled("", WEB), &compiled("", ""), &[]);
}

#[test]
fn destinations_count_before_destination_nat() {
    // The client asked 198.51.100.7, and was sent to another server.
    let after = "tcp 10.0.0.2:40000 > 203.0.113.1:8443";
    let flows = established(&[(after, Origin::Inside)], &[(CLIENT, after)]);
    let (web, nothing) = (compiled("", WEB), compiled("", ""));
    check_cut(&flows, &web, &web, &[]);
    check_cut(&flows, &web, &nothing, &[after]);
}

#[test]
fn answers_go_with_what_they_answer() {
    let asked = "tcp 10.0.0.2:40000 > 10.1.0.2:443";
    let answers = "tcp 10.1.0.2:443 > 10.0.0.2:40000";
    let flows = established(&[(asked, Origin::Inside), (answers, Origin::Inside)], &[]);
    let between = compiled("", "[[rule]]\nname = \"between\"\nto = [\"10.1.0.2\"]\ntcp = [443]\n");
    check_cut(&flows, &between, &between, &[]);
    check_cut(&flows, &between, &compiled("", WEB), &[asked]);
    assert_eq!(flows.with_company(&key(asked)), [key(asked), key(answers)]);
    assert_eq!(flows.listed().count(), 1);
}

#[test]
fn a_client_behind_no_inside_nic_is_nobodys_affair() {
    // As of a VPN, which comes in by a device that isn't filtered.
    let foreign = "tcp 172.16.0.2:40000 > 198.51.100.7:443";
    let flows = established(&[(foreign, Origin::Inside)], &[]);
    check_cut(&flows, &compiled("", WEB), &compiled("", ""), &[]);
}

#[test]
fn services_are_judged_from_outside() {
    let asked = "tcp 192.0.2.1:8080 > 198.51.100.9:5000";
    let alias = "tcp 10.0.0.9:0 > 198.51.100.9:5000";
    let other = "tcp 10.0.0.8:0 > 198.51.100.9:5000";
    let flows = established(
        &[(asked, Origin::Inbound), (alias, Origin::InboundHost), (other, Origin::InboundHost)],
        &[("tcp 198.51.100.9:5000 > 192.0.2.1:8080", "tcp 198.51.100.9:5000 > 10.0.0.9:80")],
    );
    let shop = compiled(
        "",
        "[[inbound]]\nname = \"shop\"\nfrom = [\"198.51.100.0/24\"]\nto = [\"self\"]\n\
         host = \"10.0.0.9\"\ntcp = [8080]\n",
    );
    check_cut(&flows, &shop, &shop, &[]);
    check_cut(&flows, &shop, &compiled("", WEB), &[asked]);
    assert_eq!(flows.with_company(&key(asked)), [key(asked), key(alias)]);
    assert_eq!(flows.hosts(&key(asked)), [("10.0.0.9".parse().unwrap(), 80)]);
}

#[test]
fn any_vlan_may_be_the_flows() {
    let group = "[[source]]\nname = \"tagged\"\ninterface = [\"in0\"]\nvlan = [10]\n";
    let tagged = compiled(group, &WEB.replace("to =", "from = [\"tagged\"]\nto ="));
    let second = "tcp 10.1.0.2:40000 > 198.51.100.7:443";
    let flows = established(&[(CLIENT, Origin::Inside), (second, Origin::Inside)], &[]);
    check_cut(&flows, &compiled("", WEB), &tagged, &[second]);
}

#[test]
fn flows_are_kept_as_their_packets_come_in() {
    let original = "tcp 10.1.0.2:40000 > 198.51.100.7:443";
    let asked = "tcp 192.0.2.1:8080 > 198.51.100.9:5000";
    let flows = established(
        &[
            (BEHIND_NAT, Origin::Inside),
            (UNKNOWN, Origin::Inside),
            (OTHER_PORT, Origin::Inside),
            (asked, Origin::Inbound),
            (OWN, Origin::Gateway),
        ],
        &[(original, BEHIND_NAT)],
    );
    let shop = "[[inbound]]\nname = \"shop\"\nfrom = [\"198.51.100.0/24\"]\nto = [\"self\"]\n\
                tcp = [8080]\n";
    let (before, after) = (compiled("", &format!("{WEB}{shop}")), compiled("", ""));
    let host = host();
    let (old, new) = (Judge::new(&before.tables, &host), Judge::new(&after.tables, &host));
    let expected = [(key(original), key(BEHIND_NAT)), (key(asked), key(asked))];
    assert_eq!(flows.kept(&old, &new), BTreeMap::from(expected));
    assert_eq!(flows.kept(&old, &old), BTreeMap::new());
    let keepable = flows.keepable(&host.own);
    assert!(keepable.contains(&key(original)) && !keepable.contains(&key(BEHIND_NAT)));
}

#[test]
fn a_session_with_the_gateway_passes_by_guard_or_service() {
    let guard = "[management]\nfrom = [\"10.0.0.0/24\"]\ntcp = [22]\n";
    let ssh =
        "[[inbound]]\nname = \"ssh\"\nfrom = [\"198.51.100.9\"]\nto = [\"self\"]\ntcp = [22]\n";
    let own = "[[rule]]\nname = \"own\"\nto = [\"self\"]\ntcp = [22]\n";
    let host = host();
    for (gateway, rules, client, server, passes) in [
        (guard, "", "10.0.0.2", "10.0.0.1", true),
        (guard, "", "10.1.0.2", "10.0.0.1", false),
        ("", "", "10.0.0.2", "10.0.0.1", false),
        ("", own, "10.1.0.2", "192.0.2.1", true),
        ("", ssh, "198.51.100.9", "192.0.2.1", true),
        (guard, ssh, "198.51.100.8", "192.0.2.1", false),
        ("mode = \"audit\"\n", "", "10.0.0.2", "10.0.0.1", true),
    ] {
        let compiled = compiled(gateway, rules);
        let judge = Judge::new(&compiled.tables, &host);
        let judgement = judge.session(client.parse().unwrap(), server.parse().unwrap(), 22);
        let passed = matches!(judgement, Judgement::Allowed(_));
        assert_eq!(passed, passes, "{gateway}{rules}{client}: {judgement:?}");
    }
    let compiled = compiled(guard, "");
    let judge = Judge::new(&compiled.tables, &host);
    let elsewhere = judge.session("10.0.0.2".parse().unwrap(), "10.0.0.9".parse().unwrap(), 22);
    assert_eq!(elsewhere, Judgement::Unjudged);
}
