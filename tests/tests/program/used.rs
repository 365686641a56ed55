// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which packets mark their destination as in use, and that nothing else notices the mark.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use filter_common::egress::Side;
use filter_user::{
    compile::{CounterLedger, Host, HostNic, SlotTables, Step, compile},
    kernel::{Role, maps::SlotIndex},
    names::Snapshot,
    policy::{Fqdn, NicName, load},
};
use sluice_lab::{frames::frame, ground::Ground};

const NIC: (u8, Side) = (0, Side::Inside);

/// Two names, one of whose addresses lies in a listed prefix, and a client group.
const RULES: &str = r#"
[[source]]
name = "clients"
cidr = ["10.0.10.0/24", "2001:db8:10::/64"]
[[rule]]
name = "names"
from = ["clients"]
to = ["a.example", "b.example"]
tcp = [443]
[[rule]]
name = "prefix"
to = ["203.0.113.0/24"]
tcp = [80]
"#;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tables() -> SlotTables {
    let gateway = "[gateway]\ninside = [\"eth1\"]\noutside = []\n";
    let (sources, rules) = RULES.split_at(RULES.find("[[rule]]").unwrap());
    let files = [
        (Arc::from(load::GATEWAY_FILE), format!("{gateway}{sources}")),
        (Arc::from("policy.d/rules.toml"), rules.to_owned()),
    ];
    let policy = load::parse(&files).unwrap().policy;
    let mut names = Snapshot::default();
    for (name, of_name) in [
        ("a.example", ["198.51.100.7", "2001:db8:f::7"]),
        ("b.example", ["203.0.113.9", "2001:db8:f::9"]),
    ] {
        let addresses = of_name.map(address).into();
        names.addresses.insert(Fqdn::try_from(name).unwrap(), addresses);
    }
    let host = Host {
        nics: vec![HostNic {
            slot: NIC.0,
            name: NicName::try_from("eth1").unwrap(),
            side: NIC.1,
            plausible: vec!["10.0.10.0/24".parse().unwrap(), "2001:db8:10::/64".parse().unwrap()],
            elsewhere: Vec::new(),
        }],
        own: [address("10.0.10.1")].into(),
        closed: BTreeSet::new(),
    };
    compile(&policy, &names, &host, &mut CounterLedger::default()).expect("it fits").tables
}

fn tcp(from: &str, to: &str, port: u16) -> Vec<u8> {
    frame(&format!("ip {from} > {to} | tcp {port}")).unwrap()
}

#[test]
fn only_what_a_rule_lets_pass_marks_its_destination() {
    let mut ground = Ground::new([NIC], &[Role::Enforcing, Role::Observing]).unwrap();
    let tables = tables();
    ground.swap(&tables).unwrap();
    let client = "10.0.10.7";
    let used = |addresses: &[&str]| -> BTreeSet<IpAddr> {
        addresses.iter().map(|text| address(text)).collect()
    };

    // A closed port, a source that can't live there, a destination nobody listed.
    for (from, to, port) in [
        (client, "198.51.100.7", 80),
        ("192.0.2.1", "198.51.100.7", 443),
        (client, "198.51.100.8", 443),
        ("2001:db8:11::7", "2001:db8:f::7", 443),
    ] {
        assert!(!ground.run(NIC, &tcp(from, to, port)).unwrap(), "{from} to {to} {port}");
    }
    assert_eq!(ground.take_used().unwrap(), used(&[]));

    // Who only observes leaves no mark.
    let packet = tcp(client, "198.51.100.7", 443);
    let unmarked = ground.observe(NIC, &packet).unwrap();
    assert_eq!(unmarked.passes, 1);
    assert_eq!(ground.take_used().unwrap(), used(&[]));

    assert!(ground.run(NIC, &packet).unwrap());
    assert!(ground.run(NIC, &tcp("2001:db8:10::7", "2001:db8:f::9", 443)).unwrap());
    // It sees what it saw, and so does whoever reads the slot back.
    assert_eq!(ground.observe(NIC, &packet).unwrap(), unmarked);
    let slot = SlotIndex::of(ground.active);
    assert_eq!(ground.maps.read_slot(slot).unwrap(), tables);
    assert!(ground.run(NIC, &packet).unwrap());
    assert_eq!(ground.take_used().unwrap(), used(&["198.51.100.7", "2001:db8:f::9"]));
    assert_eq!(ground.take_used().unwrap(), used(&[]), "the marks were taken");
    assert_eq!(ground.maps.read_slot(slot).unwrap(), tables);

    // The mark is set anew after it was taken, also within a prefix that is marked itself.
    assert!(ground.run(NIC, &tcp(client, "203.0.113.1", 80)).unwrap());
    assert_eq!(ground.take_used().unwrap(), used(&[]));
    assert!(ground.run(NIC, &tcp(client, "203.0.113.9", 80)).unwrap());
    assert_eq!(ground.take_used().unwrap(), used(&["203.0.113.9"]));

    // An address without an entry of its own is not the prefix around it, whose mark stays.
    let prefix = used(&["203.0.113.1"]);
    assert_eq!(ground.maps.take_used(slot, &tables, &prefix).unwrap(), used(&[]));
    assert_eq!(ground.maps.read_slot(slot).unwrap(), tables);
}

#[test]
fn marks_outlive_a_swap_in_their_slot_and_go_with_their_entry() {
    let mut ground = Ground::new([NIC], &[Role::Enforcing]).unwrap();
    let tables = tables();
    ground.swap(&tables).unwrap();
    let packet = tcp("10.0.10.7", "198.51.100.7", 443);
    assert!(ground.run(NIC, &packet).unwrap());
    let old = SlotIndex::of(ground.active);
    ground.swap(&tables).unwrap();
    assert_eq!(ground.take_used().unwrap(), BTreeSet::new());
    let asked = BTreeSet::from([address("198.51.100.7")]);
    assert_eq!(ground.maps.take_used(old, &tables, &asked).unwrap(), asked);

    assert!(ground.run(NIC, &packet).unwrap());
    let prefix = "198.51.100.7/32".parse().unwrap();
    let slot = SlotIndex::of(ground.active);
    ground.step(slot, &Step::InsertGrant(prefix, tables.grants[&prefix])).unwrap();
    assert_eq!(ground.take_used().unwrap(), BTreeSet::new());

    // What the daemon believes to stand there does, or it writes nothing.
    ground.step(slot, &Step::RemoveGrant(prefix)).unwrap();
    assert!(ground.maps.take_used(slot, &tables, &asked).is_err());
}
