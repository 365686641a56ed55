// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a CPU remembers of its look-ups never outlives what it was true of. Each packet is sent until the
//! program remembers all that it can of it; then the tables change.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use filter_common::{
    egress::Side,
    wire::{Active, Grant},
};
use filter_user::{
    compile::{CounterLedger, Host, HostNic, SlotTables, Step, compile},
    kernel::{Role, maps::SlotIndex},
    names::Snapshot,
    policy::{Fqdn, NicName, load},
};
use ipnet::IpNet;
use sluice_lab::{frames::frame, ground::Ground};

const NIC: (u8, Side) = (0, Side::Inside);

/// The first packet marks the destination, the second finds the mark and leaves a tag, the third is remembered, and the
/// fourth finds that.
const OFTEN: usize = 5;

/// Clients in one block with others, and destinations that one group of them may reach.
const SOURCES: &str = r#"
[[source]]
name = "clients"
cidr = ["10.0.10.0/24", "2001:db8:10::/64"]
[[source]]
name = "few"
cidr = ["10.0.10.64/30", "2001:db8:10::40/126"]
"#;
const RULES: &str = r#"
[[rule]]
name = "names"
from = ["clients"]
to = ["a.example"]
tcp = [443]
[[rule]]
name = "prefix"
from = ["clients"]
to = ["203.0.113.0/24", "2001:db8:e::/48"]
tcp = [443]
[[rule]]
name = "of-few"
from = ["few"]
to = ["198.51.100.0/24", "2001:db8:d::/48"]
tcp = [443]
"#;

const CLIENTS: [&str; 2] = ["10.0.10.7", "2001:db8:10::7"];
const NAMED: [&str; 2] = ["192.0.2.7", "2001:db8:f::7"];
const LISTED: [&str; 2] = ["203.0.113.9", "2001:db8:e::9"];
const OF_FEW: [&str; 2] = ["198.51.100.9", "2001:db8:d::9"];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| address(text)).collect()
}

fn host(text: &str) -> IpNet {
    address(text).into()
}

fn tables() -> SlotTables {
    let gateway = "[gateway]\ninside = [\"eth1\"]\noutside = []\ndeny = \"drop\"\n";
    let files = [
        (Arc::from(load::GATEWAY_FILE), format!("{gateway}{SOURCES}")),
        (Arc::from("policy.d/rules.toml"), RULES.to_owned()),
    ];
    let policy = load::parse(&files).unwrap().policy;
    let mut names = Snapshot::default();
    names.addresses.insert(Fqdn::try_from("a.example").unwrap(), addresses(&NAMED));
    let host = Host {
        nics: vec![HostNic {
            slot: NIC.0,
            name: NicName::try_from("eth1").unwrap(),
            side: NIC.1,
            plausible: vec!["10.0.10.0/24".parse().unwrap(), "2001:db8:10::/64".parse().unwrap()],
            elsewhere: Vec::new(),
        }],
        own: addresses(&["10.0.10.1", "2001:db8:10::1"]),
        closed: BTreeSet::new(),
    };
    compile(&policy, &names, &host, &mut CounterLedger::default()).expect("it fits").tables
}

fn ground(tables: &SlotTables) -> Ground {
    let mut ground = Ground::new([NIC], &[Role::Enforcing]).unwrap();
    ground.swap(tables).unwrap();
    ground
}

/// Whether packets pass, each of them as the first did.
fn passes(ground: &mut Ground, from: &str, to: &str) -> bool {
    let packet = frame(&format!("ip {from} > {to} | tcp 443")).unwrap();
    let first = ground.run(NIC, &packet).unwrap();
    for _ in 1..OFTEN {
        assert_eq!(ground.run(NIC, &packet).unwrap(), first, "{from} to {to}");
    }
    first
}

/// Whether the clients' packets pass to both destinations, or neither's.
fn both_pass(ground: &mut Ground, to: [&str; 2]) -> bool {
    let [first, second] = to;
    let [v4, v6] = CLIENTS;
    let passed = passes(ground, v4, first);
    assert_eq!(passes(ground, v6, second), passed, "{to:?}");
    passed
}

fn active(ground: &Ground) -> SlotIndex {
    SlotIndex::of(ground.active)
}

#[test]
fn a_grant_that_is_taken_back_is_forgotten() {
    let tables = tables();
    let mut ground = ground(&tables);
    let slot = active(&ground);
    for round in 0..3 {
        assert!(both_pass(&mut ground, NAMED), "round {round}");
        for address in NAMED {
            ground.step(slot, &Step::RemoveGrant(host(address))).unwrap();
        }
        assert!(!both_pass(&mut ground, NAMED), "round {round}, removed");
        for address in NAMED {
            let grant = tables.grants[&host(address)];
            ground.step(slot, &Step::InsertGrant(host(address), grant)).unwrap();
        }
        assert!(both_pass(&mut ground, NAMED), "round {round}, back again");
        // Another grant, which allows these clients nothing, in the place of theirs.
        for (address, other) in NAMED.into_iter().zip(["198.51.100.0/24", "2001:db8:d::/48"]) {
            let grant = tables.grants[&other.parse().unwrap()];
            ground.step(slot, &Step::InsertGrant(host(address), grant)).unwrap();
        }
        assert!(!both_pass(&mut ground, NAMED), "round {round}, another grant");
        for address in NAMED {
            let grant = tables.grants[&host(address)];
            ground.step(slot, &Step::InsertGrant(host(address), grant)).unwrap();
        }
    }
}

#[test]
fn an_address_within_a_prefix_is_told_from_it() {
    let tables = tables();
    let mut ground = ground(&tables);
    let slot = active(&ground);
    assert!(both_pass(&mut ground, LISTED));
    for address in LISTED {
        let nothing = Grant::new(tables.grants[&"198.51.100.0/24".parse().unwrap()].row());
        ground.step(slot, &Step::InsertGrant(host(address), nothing)).unwrap();
    }
    assert!(!both_pass(&mut ground, LISTED), "the address has a grant of its own");
    for address in LISTED {
        ground.step(slot, &Step::RemoveGrant(host(address))).unwrap();
    }
    assert!(both_pass(&mut ground, LISTED), "and that of the prefix again");
}

#[test]
fn with_its_index_a_slot_loses_what_is_remembered() {
    let tables = tables();
    let mut ground = ground(&tables);
    let slot = active(&ground);
    assert!(both_pass(&mut ground, LISTED));
    // The index can't follow prefixes: from here on the tries are asked.
    for prefix in ["203.0.113.0/24", "2001:db8:e::/48"] {
        ground.step(slot, &Step::RemoveGrant(prefix.parse().unwrap())).unwrap();
    }
    assert!(!both_pass(&mut ground, LISTED));
    assert!(both_pass(&mut ground, NAMED));
    for address in NAMED {
        ground.step(slot, &Step::RemoveGrant(host(address))).unwrap();
    }
    assert!(!both_pass(&mut ground, NAMED));
}

#[test]
fn a_mark_that_is_taken_is_set_anew() {
    let tables = tables();
    let mut ground = ground(&tables);
    for round in 0..5 {
        assert!(both_pass(&mut ground, NAMED));
        assert_eq!(ground.take_used().unwrap(), addresses(&NAMED), "round {round}");
        assert_eq!(ground.take_used().unwrap(), BTreeSet::new(), "round {round}");
        // A single packet is enough.
        let [from, _] = CLIENTS;
        let [to, _] = NAMED;
        let packet = frame(&format!("ip {from} > {to} | tcp 443")).unwrap();
        assert!(ground.run(NIC, &packet).unwrap());
        assert_eq!(ground.take_used().unwrap(), addresses(&[to]), "round {round}");
    }
}

#[test]
fn each_policy_is_remembered_for_itself() {
    let (tables, empty) = (tables(), SlotTables::default());
    let mut ground = ground(&tables);
    for _ in 0..3 {
        assert!(both_pass(&mut ground, NAMED));
        ground.swap(&empty).unwrap();
        assert!(!both_pass(&mut ground, NAMED));
        ground.swap(&tables).unwrap();
    }
}

/// A word may come into force again, and what its slot holds may be another thing then.
#[test]
fn a_word_that_comes_back_brings_nothing_back() {
    let tables = tables();
    let mut ground = ground(&tables);
    let (first, slot) = (ground.active, active(&ground));
    let put_in_force = |ground: &mut Ground, word: Active| {
        ground.active = word;
        ground.maps.activate(SlotIndex::of(word), word.generation()).unwrap();
        ground.maps.wait_for_packets().unwrap();
    };
    assert!(both_pass(&mut ground, NAMED));
    ground.swap(&tables).unwrap();
    let second = ground.active;
    // With packets while the second is in force, and without.
    for seen in [true, false] {
        if seen {
            assert!(both_pass(&mut ground, NAMED));
        }
        for address in NAMED {
            ground.step(slot, &Step::RemoveGrant(host(address))).unwrap();
        }
        put_in_force(&mut ground, first);
        assert!(!both_pass(&mut ground, NAMED), "seen: {seen}");
        assert!(both_pass(&mut ground, LISTED), "seen: {seen}");
        for address in NAMED {
            let grant = tables.grants[&host(address)];
            ground.step(slot, &Step::InsertGrant(host(address), grant)).unwrap();
        }
        assert!(both_pass(&mut ground, NAMED), "seen: {seen}");
        put_in_force(&mut ground, second);
    }
    assert!(both_pass(&mut ground, NAMED));
}

#[test]
fn a_permit_is_remembered_for_one_class_and_one_port() {
    let mut ground = ground(&tables());
    for _ in 0..2 {
        assert!(both_pass(&mut ground, NAMED));
        for (from, to) in CLIENTS.into_iter().zip(NAMED) {
            for other in ["tcp 80", "tcp 444", "udp 443"] {
                let packet = frame(&format!("ip {from} > {to} | {other}")).unwrap();
                assert!(!ground.run(NIC, &packet).unwrap(), "{from} to {to} {other}");
            }
        }
        // Of what one group has for itself, its packets come first.
        for (few, (from, to)) in
            ["10.0.10.65", "2001:db8:10::41"].into_iter().zip(CLIENTS.into_iter().zip(OF_FEW))
        {
            assert!(passes(&mut ground, few, to), "{few} to {to}");
            assert!(!passes(&mut ground, from, to), "{from} to {to}");
        }
    }
}

#[test]
fn sources_of_one_block_have_each_their_class() {
    let tables = tables();
    let mut ground = ground(&tables);
    let spoofed: [[&str; 2]; 2] =
        [["10.0.10.1", "2001:db8:10::1"], ["10.0.11.7", "2001:db8:11::7"]];
    let few = ["10.0.10.66", "2001:db8:10::42"];
    // The gateway's own address and the few share the last five bits of their addresses with these.
    let others = [["10.0.10.33", "2001:db8:10::21"], ["10.0.10.2", "2001:db8:10::22"], CLIENTS];
    for _ in 0..2 {
        for family in 0..2 {
            for client in others {
                assert!(passes(&mut ground, client[family], NAMED[family]), "{client:?}");
                assert!(!passes(&mut ground, client[family], OF_FEW[family]), "{client:?}");
            }
            for client in spoofed {
                assert!(!passes(&mut ground, client[family], NAMED[family]), "{client:?}");
            }
            assert!(passes(&mut ground, few[family], OF_FEW[family]));
            assert!(passes(&mut ground, few[family], NAMED[family]));
        }
    }
    let layout = ground.maps.index_layout(active(&ground));
    assert_ne!(layout.flags & filter_common::wire::IndexLayout::SOURCES, 0);
}
