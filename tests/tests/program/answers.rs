// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client answers in a flow that was opened towards it is not taken for a denied packet, however fast those are
//! dropped.

use filter_common::{
    egress::{Ingress, Side},
    wire::{EVENTS_PER_WINDOW, SlotSettings},
};
use filter_user::{
    compile::{CounterLedger, SlotTables, compile},
    kernel::Role,
};
use sluice_lab::{
    cases::{Table, directory},
    frames::frame,
    ground::{Ground, TestNic},
};

const LAN: TestNic = (1, Side::Inside);
const WAN: TestNic = (2, Side::Outside);

/// How often an answer is sent, each time after a flood.
const OFTEN: usize = 20;

/// What opens a flow from outside, and what answers in it, maybe from behind destination NAT.
const FROM_OUTSIDE: [(&str, &str); 4] = [
    (
        "ip 203.0.113.9 > 10.0.20.5 | udp 40000 > 443",
        "ip 10.0.20.5 > 203.0.113.9 | udp 443 > 40000",
    ),
    (
        "ip 203.0.113.9 > 10.0.20.5 | tcp 40000 > 443",
        "ip 10.0.20.5 > 203.0.113.9 | tcp 443 > 40000 flags=sa",
    ),
    (
        "ip 198.51.100.7 > 192.0.2.1 | udp 40000 > 5000",
        "ip 10.0.20.6 > 198.51.100.7 | udp 9 > 40000",
    ),
    (
        "ip 2001:db8:cafe::9 > 2001:db8:20::5 | udp 40000 > 443",
        "ip 2001:db8:20::5 > 2001:db8:cafe::9 | udp 443 > 40000",
    ),
];

/// What opens a flow over the inside NIC, where it comes from, and what answers in it.
const OVER_INSIDE: [(Ingress, &str, &str); 4] = [
    (
        Ingress::Inside,
        "ip 10.0.30.5 > 10.0.20.5 | udp 40000 > 9",
        "ip 10.0.20.5 > 10.0.30.5 | udp 9 > 40000",
    ),
    (
        Ingress::Foreign,
        "ip 172.17.0.2 > 10.0.20.5 | tcp 40000 > 9",
        "ip 10.0.20.5 > 172.17.0.2 | tcp 9 > 40000 flags=sa",
    ),
    // From an address that nobody has told the filter of.
    (
        Ingress::Own,
        "ip 172.18.0.1 > 10.0.20.5 | udp 40000 > 9",
        "ip 10.0.20.5 > 172.18.0.1 | udp 9 > 40000",
    ),
    (
        Ingress::Own,
        "ip 192.0.2.1 > 10.0.20.5 | udp 40000 > 9",
        "ip 10.0.20.5 > 192.0.2.1 | udp 9 > 40000",
    ),
];

/// The policy of a gateway with services, which drops and tells nobody.
fn tables() -> SlotTables {
    let table = Table::read(&directory()).unwrap();
    let edge = table.policies.get("edge").unwrap();
    let compiled =
        compile(&edge.policy, &edge.names, &edge.host, &mut CounterLedger::default()).unwrap();
    let mut tables = compiled.tables;
    tables.settings.flags &= !SlotSettings::REJECT;
    tables
}

/// More denied packets than samples are sent of, so that further ones are dropped without one.
fn flood(ground: &mut Ground) {
    let denied = frame("ip 10.0.20.5 > 198.51.100.7 | udp 50000 > 9").unwrap();
    for _ in 0..EVENTS_PER_WINDOW + 16 {
        assert!(!ground.run(LAN, &denied).unwrap());
    }
}

#[test]
fn answers_in_flows_from_outside_pass_while_others_are_dropped_in_haste() {
    let tables = tables();
    for (question, answer) in FROM_OUTSIDE {
        check(&tables, (question, answer), |ground, frame| ground.run(WAN, frame).unwrap());
    }
}

#[test]
fn answers_in_flows_over_the_inside_nic_pass_while_others_are_dropped_in_haste() {
    let tables = tables();
    for (from, question, answer) in OVER_INSIDE {
        check(&tables, (question, answer), |ground, frame| {
            ground.run_egress(LAN, frame, from, 1).unwrap()
        });
    }
}

/// What goes out by the outside NIC has its answers there: nobody inside has any, however long it takes to say so.
#[test]
fn flows_over_the_outside_nic_have_no_answers_from_inside() {
    let mut ground = Ground::new([LAN, WAN], &[Role::Enforcing]).unwrap();
    ground.swap(&tables()).unwrap();
    let [question, answer] =
        ["ip 192.0.2.77 > 10.0.20.5 | udp 40000 > 9", "ip 10.0.20.5 > 192.0.2.77 | udp 9 > 40000"]
            .map(|text| frame(text).unwrap());
    assert!(ground.run_egress(WAN, &question, Ingress::Inside, 1).unwrap());
    assert!(!ground.run(LAN, &answer).unwrap(), "the filter takes its time");
    flood(&mut ground);
    assert!(!ground.run(LAN, &answer).unwrap(), "in haste");
}

/// Checks that an answer passes only once there was a question, and then also amid a flood.
fn check(
    tables: &SlotTables,
    (question, answer): (&str, &str),
    ask: impl Fn(&mut Ground, &[u8]) -> bool,
) {
    let mut ground = Ground::new([LAN, WAN], &[Role::Enforcing]).unwrap();
    ground.swap(tables).unwrap();
    let packets = [question, answer].map(|text| frame(text).unwrap());
    flood(&mut ground);
    assert!(!ground.run(LAN, &packets[1]).unwrap(), "{answer}: nobody asked");
    assert!(ask(&mut ground, &packets[0]), "{question}");
    for _ in 0..OFTEN {
        flood(&mut ground);
        assert!(ground.run(LAN, &packets[1]).unwrap(), "{answer}");
    }
    let left_out = ground.traces(&mut 0).unwrap().left_out;
    assert!(left_out > 100, "{question}: only {left_out} were dropped without a sample");
}
