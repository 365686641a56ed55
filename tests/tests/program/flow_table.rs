// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where flows stand: in sets, beside them where those are full, and what becomes of places that are left.

use std::{collections::BTreeSet, fs, sync::Barrier, thread, time::Duration};

use filter_common::{
    egress::{Ingress, Side},
    flow::FlowState,
    flow_table::Place,
    wire::{FlowChange, FlowKey, flow_sets},
};
use filter_user::{
    compile::{CounterLedger, SlotTables, compile},
    kernel::{FlowTables, FlowWriter, Instance, Role, clock::TickClock, maps::SlotIndex},
};
use ipnet::IpNet;
use sluice_lab::{
    cases::{Table, directory},
    frames::frame,
    ground::{FLOWS, Ground, TestNic},
};

/// The outside NIC of the policy `edge` in `tests/cases/policies.toml`.
const WAN: TestNic = (2, Side::Outside);
/// More flows than the sets of the tests' small table have on average.
const MANY: u16 = 1_200;
/// The first local port.
const FIRST: u16 = 20_000;
/// From the gateway itself, for `run_egress`.
const OWN: u32 = 0;

fn ground() -> Ground {
    let mut ground = Ground::new([WAN], &[Role::Enforcing]).unwrap();
    ground.swap(&edge(&[])).unwrap();
    ground
}

/// The policy, where these networks don't lie behind the outside NIC.
fn edge(elsewhere: &[&str]) -> SlotTables {
    let table = Table::read(&directory()).unwrap();
    let edge = table.policies.get("edge").unwrap();
    let mut host = edge.host.clone();
    for nic in host.nics.iter_mut().filter(|nic| nic.slot == WAN.0) {
        nic.elsewhere.extend(elsewhere.iter().map(|prefix| prefix.parse::<IpNet>().unwrap()));
    }
    compile(&edge.policy, &edge.names, &host, &mut CounterLedger::default()).unwrap().tables
}

fn question(port: u16) -> Vec<u8> {
    frame(&format!("ip 192.0.2.1 > 203.0.113.9 | tcp {port} > 443 flags=s")).unwrap()
}

fn answer(port: u16) -> Vec<u8> {
    frame(&format!("ip 203.0.113.9 > 192.0.2.1 | tcp 443 > {port} flags=sa")).unwrap()
}

fn key(port: u16) -> FlowKey {
    let (mut local, mut remote) = ([0; 16], [0; 16]);
    local[..4].copy_from_slice(&[192, 0, 2, 1]);
    remote[..4].copy_from_slice(&[203, 0, 113, 9]);
    let (local_port, remote_port, protocol, ip_version) = (port, 443, 6, 4);
    FlowKey { local, remote, local_port, remote_port, protocol, ip_version, reserved: [0; 2] }
}

/// Flows that have no place in their set.
fn spilled(ground: &Ground) -> Vec<FlowKey> {
    FlowTables::open(ground.pins()).unwrap().spilled().unwrap()
}

fn open(ground: &mut Ground, port: u16) {
    assert!(ground.run_egress(WAN, &question(port), Ingress::Own, 1).unwrap(), "{port}");
}

fn is_answered(ground: &mut Ground, port: u16) -> bool {
    ground.run(WAN, &answer(port)).unwrap()
}

#[test]
fn flows_of_full_sets_stand_beside_them() {
    let mut ground = ground();
    let ports = FIRST..FIRST + MANY;
    // The second time, all places were used before.
    for _ in 0..2 {
        for port in ports.clone() {
            assert!(!is_answered(&mut ground, port), "{port} was never opened");
            open(&mut ground, port);
        }
        let beside = spilled(&ground).len();
        assert!((10..200).contains(&beside), "{beside} flows have no place");
        assert!(ports.clone().all(|port| is_answered(&mut ground, port)));
        let flows = ground.maps.flows().unwrap();
        let keys: BTreeSet<FlowKey> = flows.iter().map(|(key, _)| *key).collect();
        assert_eq!((flows.len(), keys), (usize::from(MANY), ports.clone().map(key).collect()));
        for (key, record) in flows {
            assert_eq!(record.state, FlowState::Established.code(), "{key:?}");
            assert_eq!((record.packets_out, record.packets_in), (1, 1), "{key:?}");
        }
        // Those beside their sets are cut as the others are.
        ground.maps.cut_flows(ports.clone().step_by(2).map(key)).unwrap();
        for port in ports.clone() {
            assert_eq!(is_answered(&mut ground, port), (port - FIRST) % 2 == 1, "{port}");
        }
        // Both kinds are opened anew where they stand.
        for port in ports.clone() {
            open(&mut ground, port);
        }
        assert_eq!(spilled(&ground).len(), beside);
        assert!(ports.clone().all(|port| is_answered(&mut ground, port)));
        ground.forget_flows().unwrap();
        assert!(ground.flows().unwrap().is_empty());
    }
}

#[test]
fn a_place_is_used_again_only_once_it_is_freed() {
    let mut ground = ground();
    let tables = FlowTables::open(ground.pins()).unwrap();
    let mut writer = FlowWriter::load(ground.pins()).unwrap();
    let change = |action, value| [FlowChange { key: key(FIRST), action, value }];
    open(&mut ground, FIRST);
    let [(_, record)] = tables.flows().unwrap()[..] else { panic!("one flow was opened") };

    // One that was seen since stays.
    writer.change(&change(FlowChange::FORGET_UNSEEN, record.seen + 1)).unwrap();
    assert!(is_answered(&mut ground, FIRST));
    let [(_, record)] = tables.flows().unwrap()[..] else { panic!("it was forgotten") };
    writer.change(&change(FlowChange::FORGET_UNSEEN, record.seen)).unwrap();
    assert!(!is_answered(&mut ground, FIRST));
    assert_eq!(tables.flows().unwrap(), []);

    // Its place is left to packets that may be reading it, and so the next time it has another.
    for used in 1..=3 {
        assert_eq!(left(&tables), used);
        open(&mut ground, FIRST);
        assert!(is_answered(&mut ground, FIRST));
        assert_eq!((left(&tables), tables.flows().unwrap().len()), (used, 1));
        writer.change(&change(FlowChange::FORGET, 0)).unwrap();
    }
    assert_eq!(spilled(&ground).len(), 0);
    open(&mut ground, FIRST);
    let free = tables.places_left().unwrap();
    writer.change(&free).unwrap();
    assert_eq!((left(&tables), tables.flows().unwrap().len()), (0, 1));
    assert!(is_answered(&mut ground, FIRST));

    // What isn't there needs no change, and a change that isn't known is refused.
    writer.change(&[FlowChange { key: key(1), action: FlowChange::CUT, value: 0 }]).unwrap();
    assert!(writer.change(&change(99, 0)).is_err());
}

fn left(tables: &FlowTables) -> u32 {
    let left = tables.places_left().unwrap();
    left.iter().map(|change| change.key.words()[0].count_ones()).sum()
}

/// An older layout left all of them in one table.
#[test]
fn flows_from_before_there_were_sets_are_found() {
    let mut ground = ground();
    let ports = FIRST..FIRST + MANY;
    ports.clone().for_each(|port| open(&mut ground, port));
    let older: BTreeSet<FlowKey> = spilled(&ground).into_iter().collect();
    assert!(!older.is_empty());
    for name in ["FLOW_TAGS", "FLOW_SPILLS", "FLOW_ENTRIES"] {
        fs::remove_file(ground.pins().map(name)).unwrap();
    }
    let mut ground = ground.reopen().unwrap();
    for port in ports {
        let passes = ground.observe(WAN, &answer(port)).unwrap().passes;
        assert_eq!(passes == 1, older.contains(&key(port)), "{port}");
    }
    let flows: BTreeSet<FlowKey> = ground.flows().unwrap().into_keys().collect();
    assert_eq!(flows, older);
}

/// That a flow's other end lives behind the NIC is found out once for each policy, and no policy has it from another.
#[test]
fn sources_of_answers_are_checked_by_each_policy() {
    let mut ground = ground();
    let near = edge(&[]);
    let elsewhere = edge(&["203.0.113.0/24"]);
    open(&mut ground, FIRST);
    // In both slots, where the other policy was before.
    for _ in 0..4 {
        ground.swap(&elsewhere).unwrap();
        assert!((0..3).all(|_| !is_answered(&mut ground, FIRST)));
    }
    for _ in 0..4 {
        ground.swap(&near).unwrap();
        assert!((0..3).all(|_| is_answered(&mut ground, FIRST)));
    }
    for _ in 0..4 {
        ground.swap(&elsewhere).unwrap();
        assert!((0..3).all(|_| !is_answered(&mut ground, FIRST)));
    }
    // A policy that nobody confirms gives way at its deadline, and the word that says so is nobody's store.
    let mut clock = TickClock::open(ground.pins()).unwrap();
    for (first, second, answered) in [(&elsewhere, &near, true), (&near, &elsewhere, false)] {
        ground.swap(first).unwrap();
        assert_eq!(is_answered(&mut ground, FIRST), !answered);
        ground.swap(second).unwrap();
        assert_eq!(is_answered(&mut ground, FIRST), answered);
        let now = clock.now().unwrap();
        let active = ground.maps.active().unwrap();
        let slot = SlotIndex::of(active);
        let deadline = now.now + now.hertz / 2;
        ground.maps.activate_until(slot, active.generation(), deadline).unwrap();
        assert_eq!(is_answered(&mut ground, FIRST), answered);
        while clock.now().unwrap().now <= deadline {
            thread::sleep(Duration::from_millis(20));
        }
        assert!((0..3).all(|_| is_answered(&mut ground, FIRST) != answered));
    }
}

/// Flows of few sets that two processors open at the same time, the same ones among them.
#[test]
fn processors_open_flows_beside_one_another() {
    const ROUNDS: usize = 400;
    const SETS: u32 = 16;
    const IN_ROUND: usize = 60;
    let mut ground = ground();
    let ports: Vec<u16> = (FIRST..u16::MAX)
        .filter(|port| Place::of(&key(*port), flow_sets(FLOWS)).set < SETS)
        .collect();
    let rounds: Vec<&[u16]> = ports.chunks_exact(IN_ROUND).collect();
    let barrier = Barrier::new(3);
    let mut problems = Vec::new();
    thread::scope(|scope| {
        for own in 0..2 {
            let (rounds, barrier) = (&rounds, &barrier);
            let mut own_programs =
                Instance::load(ground.pins(), WAN.0, WAN.1, Role::Enforcing).unwrap();
            scope.spawn(move || {
                for ports in rounds.iter().cycle().take(ROUNDS) {
                    barrier.wait();
                    for (number, port) in ports.iter().enumerate() {
                        // Of three, one is both threads'.
                        if [own, 2].contains(&(number % 3)) {
                            own_programs.run_egress(&question(*port), OWN, 1).unwrap();
                        }
                    }
                    barrier.wait();
                }
            });
        }
        for (round, ports) in rounds.iter().cycle().take(ROUNDS).enumerate() {
            barrier.wait();
            barrier.wait();
            let unknown = ports.iter().filter(|port| !is_answered(&mut ground, **port)).count();
            let keys: BTreeSet<FlowKey> = ground.flows().unwrap().into_keys().collect();
            // The threads must go on to their end, whatever was found.
            if unknown != 0 || keys != ports.iter().copied().map(key).collect() {
                problems.push(format!("round {round}: {unknown} flows are not known"));
            }
            ground.forget_flows().unwrap();
        }
    });
    assert_eq!(problems, Vec::<String>::new());
}
