// SPDX-License-Identifier: MIT OR Apache-2.0
//! What packets see while tables change, and what a process leaves behind that ends in between.

use filter_common::{egress::Side, wire::Observation};
use filter_user::{
    compile::{CounterLedger, SlotTables, Step, View, compile, plan_names, plan_sweep, rebuild},
    kernel::{Instance, Role, maps::SlotIndex},
};
use ipnet::IpNet;
use sluice_lab::{
    ground::{Ground, judge_fast},
    model::{Packet, changed, random_change, random_packet, random_policy},
};

use crate::random::{NICS, inside};

/// `XDP_PASS`.
const XDP_PASS: u32 = 2;

/// Of the steps that write port classes and zones, of which a policy may have thousands, packets
/// are sent after every so many.
const SAMPLE: usize = 512;

/// A packet, and what is observed of it before and after a change.
struct Probe {
    nic: u8,
    frame: Vec<u8>,
    old: Observation,
    new: Observation,
}

#[test]
fn a_swap_shows_nothing_until_it_is_whole() {
    let mut ground = Ground::new(NICS.map(inside), &[Role::Observing]).unwrap();
    let (mut steps, mut judged, mut differing) = (0, 0, 0);
    for seed in 0..8 {
        let (policy, names, host) = random_policy(500 + seed);
        let mut ledger = CounterLedger::default();
        let new = compile(&policy, &names, &host, &mut ledger).expect("it fits").tables;
        let packets = (0..12).map(|number| {
            // Half of the packets are meant for the policy before this one.
            let (policy, names, host) = random_policy(500 + seed - seed.min(number % 2));
            random_packet(seed << 24 | number, &policy, &names, &host)
        });
        let old = ground.tables().clone();
        let mut probes: Vec<Probe> =
            packets.map(|packet| probe(&ground, &packet, &old, &new)).collect();
        differing += probes.iter().filter(|probe| probe.old.reason != probe.new.reason).count();

        let idle = SlotIndex::of(ground.active).other();
        let swap: Vec<Step> = rebuild(ground.slot(idle), &new).collect();
        for (number, step) in swap.iter().enumerate() {
            ground.step(idle, step).unwrap();
            let one_of_many = matches!(step, Step::PortClass { .. } | Step::Zone { .. });
            if !one_of_many || number % SAMPLE == 0 {
                judged += probes.len();
                for Probe { nic, frame, old, .. } in &probes {
                    assert_eq!(
                        ground.observe(inside(*nic), frame).unwrap(),
                        *old,
                        "seed {seed}, {step:?}"
                    );
                }
            }
        }
        steps += swap.len();
        ground.activate(idle, &new).unwrap();
        for Probe { nic, frame, new, .. } in &mut probes {
            new.active = ground.active.0;
            assert_eq!(
                ground.observe(inside(*nic), frame).unwrap(),
                *new,
                "seed {seed}, after the swap"
            );
        }
    }
    println!("swaps: {steps} steps, {judged} packets between them, {differing} judged anew after");
    assert!(differing > 20, "only {differing} packets see a difference");
}

#[test]
fn a_process_that_ends_leaves_one_whole_policy() {
    let mut ground = Ground::new([inside(0)], &[Role::Observing]).unwrap();
    // Policies of gateways with the one NIC that the program is loaded for.
    let policies = (0..).map(random_policy).filter(|(_, _, host)| {
        let nics: Vec<u8> = host.nics.iter().map(|nic| nic.slot).collect();
        nics == [0]
    });
    let mut reopened = 0;
    for (round, (policy, names, host)) in policies.take(2).enumerate() {
        let mut ledger = CounterLedger::default();
        let new = compile(&policy, &names, &host, &mut ledger).expect("it fits").tables;
        let old = ground.tables().clone();
        let probes: Vec<Probe> = (0..20)
            .map(|number| random_packet(number, &policy, &names, &host))
            .map(|packet| probe(&ground, &packet, &old, &new))
            .collect();
        let idle = SlotIndex::of(ground.active).other();
        let swap: Vec<Step> = rebuild(ground.slot(idle), &new).collect();
        for step in &swap[..swap.len() / 3 * (round + 1)] {
            ground.step(idle, step).unwrap();
        }
        ground = ground.reopen().unwrap();
        reopened += 1;
        for Probe { nic, frame, old, .. } in &probes {
            assert_eq!(
                ground.observe(inside(*nic), frame).unwrap(),
                *old,
                "round {round}, between two steps"
            );
        }
        // The next process finishes what it finds, whatever that is.
        let rest: Vec<Step> = rebuild(ground.slot(idle), &new).collect();
        for step in rest {
            ground.step(idle, &step).unwrap();
        }
        ground.activate(idle, &new).unwrap();
        if round == 1 {
            ground = ground.reopen().unwrap();
            reopened += 1;
        }
        for Probe { nic, frame, new, .. } in &probes {
            let expected = Observation { active: ground.active.0, ..*new };
            assert_eq!(
                ground.observe(inside(*nic), frame).unwrap(),
                expected,
                "round {round}, after the swap"
            );
        }
    }
    println!("pins: opened again {reopened} times, both slots as they were written");
}

#[test]
fn names_change_in_the_slot_in_force() {
    let roles = [Role::Enforcing, Role::Observing];
    let mut ground = Ground::new(NICS.map(inside), &roles).unwrap();
    let (mut steps, mut judged, mut differing, mut swept, mut fast) = (0, 0, 0, 0, 0);
    for seed in 0..20 {
        let (policy, mut names, host) = random_policy(700 + seed);
        let mut ledger = CounterLedger::default();
        let mut compiled = compile(&policy, &names, &host, &mut ledger).expect("it fits");
        ground.swap(&compiled.tables).unwrap();
        for round in 0..4 {
            let new_names = random_change(seed << 8 | round, &names);
            let edit = plan_names(&compiled, &changed(&names, &new_names), &ledger);
            let edit = edit.expect("it fits");
            ledger = edit.count(&ledger).unwrap_or(ledger);
            let mut steps_to = vec![edit.steps().to_vec()];
            let old = compiled.tables.clone();
            edit.record(&mut compiled);
            let packets = (0..200).map(|number| {
                let names = if number % 2 == 0 { &names } else { &new_names };
                random_packet(seed << 24 | round << 16 | number, &policy, names, &host)
            });
            let probes = packets.map(|packet| probe(&ground, &packet, &old, &compiled.tables));
            // Few packets see a difference, and they are those that matter.
            let (mut probes, others): (Vec<Probe>, Vec<Probe>) =
                probes.partition(|probe| probe.old.permit != probe.new.permit);
            differing += probes.len();
            probes.extend(others.into_iter().take(16));

            if let Some(sweep) = plan_sweep(&compiled) {
                steps_to.push(sweep.steps().to_vec());
                sweep.record(&mut compiled);
                swept += 1;
            }
            let active = SlotIndex::of(ground.active);
            for steps_to in steps_to {
                // Rows are cleared only when no packet can be on its way to them any more.
                ground.maps.wait_for_packets().unwrap();
                for step in &steps_to {
                    ground.step(active, step).unwrap();
                    steps += 1;
                    judged += probes.len();
                    for Probe { nic, frame, old, new } in &probes {
                        let seen = ground.observe(inside(*nic), frame).unwrap();
                        assert!(
                            seen == *old || seen == *new,
                            "seed {seed}, round {round}, {step:?}: {seen:?} is neither {old:?} \
                             nor {new:?}"
                        );
                        fast += check_fast(&mut ground, *nic, frame, &seen);
                    }
                }
                for Probe { nic, frame, new, .. } in &probes {
                    assert_eq!(
                        ground.observe(inside(*nic), frame).unwrap(),
                        *new,
                        "seed {seed}, round {round}"
                    );
                    fast += check_fast(&mut ground, *nic, frame, new);
                }
            }
            assert!(*ground.tables() == compiled.tables, "seed {seed}, round {round}");
            names = new_names;
        }
    }
    println!("names: {steps} steps in force, {judged} packets between them, {differing} changed");
    println!("names: {fast} of the packets on the fast path");
    assert!(fast > 1000, "only {fast} on the fast path");
    assert!(differing > 20, "only {differing} packets see a difference");
    assert!(swept > 20, "only {swept} sweeps");
}

#[test]
fn every_part_that_is_written_is_read_back() {
    let mut ground = Ground::new([inside(0)], &[]).unwrap();
    let (mut reopened, mut seed) = (0, 0);
    for length in [7, 1] {
        // Larger and smaller policies, so that parts are filled, emptied and filled again.
        let (policy, names, host) = loop {
            seed += 1;
            let (policy, names, host) = random_policy(seed);
            if policy.rules.len() % 8 >= length {
                break (policy, names, host);
            }
        };
        let mut ledger = CounterLedger::default();
        let new = compile(&policy, &names, &host, &mut ledger).expect("it fits").tables;
        for slot in [SlotIndex::First, SlotIndex::Second] {
            for tables in [&new, &SlotTables::default(), &new] {
                let steps: Vec<Step> = rebuild(ground.slot(slot), tables).collect();
                for part in steps.chunks(steps.len() / 4 + 1) {
                    for step in part {
                        ground.step(slot, step).unwrap();
                    }
                    // It compares what is read with what was written.
                    ground = ground.reopen().unwrap();
                    reopened += 1;
                }
            }
        }
    }
    assert!(reopened > 30, "only {reopened} times");
}

#[test]
fn without_its_marks_everything_is_read_back() {
    let mut ground = Ground::new([inside(0)], &[]).unwrap();
    let (policy, names, host) = random_policy(3);
    let mut ledger = CounterLedger::default();
    let new = compile(&policy, &names, &host, &mut ledger).expect("it fits").tables;
    ground.swap(&new).unwrap();
    // As where a process ended between creating the maps and writing its first mark.
    std::fs::remove_file(ground.pins().map("WRITTEN")).unwrap();
    ground = ground.reopen().unwrap();
    // Parts that held nothing when they were read have lost their marks, the others have not.
    ground = ground.reopen().unwrap();
    ground.swap(&SlotTables::default()).unwrap();
    ground.swap(&new).unwrap();
    ground.reopen().unwrap();
}

/// A packet with what the program observes of it by old and by new tables.
fn probe(ground: &Ground, packet: &Packet, old: &SlotTables, new: &SlotTables) -> Probe {
    let frame = packet.frame();
    let old = ground.expected(View::new(old, packet.nic.into()), Side::Inside, &frame);
    let new = ground.expected(View::new(new, packet.nic.into()), Side::Inside, &frame);
    Probe { nic: packet.nic, frame, old, new }
}

/// What the fast path does with a packet is what was observed of it, by the tries; 1 where it does
/// anything. Such a packet leaves nothing behind that others meet.
fn check_fast(ground: &mut Ground, nic: u8, frame: &[u8], observed: &Observation) -> u32 {
    if judge_fast(View::new(ground.tables(), nic.into()), Side::Inside, frame).is_none() {
        return 0;
    }
    // As often as it takes until a packet finds what was remembered, so that the next step does, too.
    for _ in 0..4 {
        let passes = ground.run(inside(nic), frame).unwrap();
        assert_eq!(passes, observed.passes == 1, "{observed:?}, {frame:02x?}");
    }
    1
}

#[test]
fn the_index_grows_and_nothing_changes() {
    let mut ground = Ground::new([inside(0)], &[Role::Enforcing, Role::Observing]).unwrap();
    // Policies of gateways with the one NIC that the program is loaded for.
    let (policy, names, host) = (900..)
        .map(random_policy)
        .find(|(_, _, host)| host.nics.iter().map(|nic| nic.slot).eq([0]))
        .unwrap();
    let mut ledger = CounterLedger::default();
    let tables = compile(&policy, &names, &host, &mut ledger).expect("it fits").tables;
    ground.swap(&tables).unwrap();
    let frames: Vec<Vec<u8>> =
        (0..400).map(|number| random_packet(number, &policy, &names, &host).frame()).collect();
    let room = ground.maps.index_room();
    let active = SlotIndex::of(ground.active);
    let pins = ground.pins().another();
    ground.maps.grow_index(&pins, active, room * 2).unwrap();
    assert_eq!(ground.maps.index_room(), room * 2);
    assert!(ground.maps.index_layout(active).lines > 0, "what is in force is still indexed");
    assert_eq!(ground.maps.index_layout(active.other()).flags, 0, "the rest is not known");

    // Programs that look at the old index, and at the new one.
    let mut grown = Instance::load(&pins, 0, Side::Inside, Role::Enforcing).unwrap();
    let mut passed = 0;
    let mut check = |ground: &mut Ground, frame: &[u8], old: bool| {
        let expected = ground.observe(inside(0), frame).unwrap().passes == 1;
        if judge_fast(View::new(ground.tables(), 0), Side::Inside, frame).is_none() {
            return;
        }
        assert_eq!(grown.run(frame).unwrap() == XDP_PASS, expected, "{frame:02x?}");
        if old {
            assert_eq!(ground.run(inside(0), frame).unwrap(), expected, "{frame:02x?}");
        }
        passed += usize::from(expected);
    };
    for frame in &frames {
        check(&mut ground, frame, true);
    }
    // From now on only the new one is kept.
    let is_host = |prefix: &&IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    let hosts: Vec<IpNet> = tables.grants.keys().filter(is_host).copied().collect();
    assert!(!hosts.is_empty());
    for host in hosts {
        ground.step(active, &Step::RemoveGrant(host)).unwrap();
    }
    for frame in &frames {
        check(&mut ground, frame, false);
    }
    assert!(passed > 10, "only {passed} packets pass");
}
