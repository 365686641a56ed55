// SPDX-License-Identifier: MIT OR Apache-2.0
//! The case table, on the host and through the program.

use filter_user::{
    compile::{CounterLedger, SlotTables, View, compile},
    kernel::Role,
};
use sluice_lab::{
    cases::{Table, check::check, directory},
    ground::{Ground, SHORTEST, judge_fast},
};

#[test]
fn cases_hold_on_the_host_and_in_the_kernel() {
    let table = Table::read(&directory()).unwrap();
    assert!(table.cases.len() >= 80, "only {} cases", table.cases.len());
    let report = check(&table).unwrap();
    for program in report.programs.values() {
        let instructions = program.verified_instructions;
        let instructions = instructions.map_or_else(|| "?".to_owned(), |n| n.to_string());
        println!(
            "verifier: {}: {instructions} instructions, loaded in {} ms",
            program.name,
            program.load_time.as_millis()
        );
    }
    println!(
        "cases: {} on the host, {} of them through the program ({} are too short for it)",
        report.host,
        report.program,
        report.host - report.program
    );
    let faults = report.faults;
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(report.host, table.cases.len());
}

#[test]
fn every_frame_is_judged_alike_by_every_policy() {
    let table = Table::read(&directory()).unwrap();
    let nics = table.nics();
    let roles = [Role::Enforcing, Role::Observing];
    let mut ground = Ground::new(nics.iter().copied(), &roles).unwrap();
    let (mut judged, mut fast) = (0, 0);
    // The first are the tables before any policy was loaded: empty, and closed.
    let mut tables = vec![SlotTables::default()];
    for setting in table.policies.values() {
        let mut ledger = CounterLedger::default();
        let compiled = compile(&setting.policy, &setting.names, &setting.host, &mut ledger);
        tables.push(compiled.expect("it fits").tables);
    }
    for tables in tables {
        if tables != SlotTables::default() {
            ground.swap(&tables).unwrap();
        }
        for case in table.cases.iter().filter(|case| case.frame.len() >= SHORTEST) {
            // Every frame also cut short at each place that a header may end at.
            for length in SHORTEST..=case.frame.len().min(100) {
                let whole = length == case.frame.len() || length == 100;
                let frame = if whole { &case.frame } else { &case.frame[..length] };
                for nic in &nics {
                    let view = View::new(&tables, nic.0.into());
                    let expected = ground.expected(view, nic.1, frame);
                    let observed = ground.observe(*nic, frame).unwrap();
                    assert_eq!(observed, expected, "{}, {length} bytes, NIC {nic:?}", case.title);
                    // What the fast path judges leaves nothing behind that another frame meets.
                    if judge_fast(view, nic.1, frame).is_some() {
                        let passes = ground.run(*nic, frame).unwrap();
                        assert_eq!(passes, expected.passes == 1, "{}, NIC {nic:?}", case.title);
                        fast += 1;
                    }
                    judged += 1;
                }
            }
        }
    }
    println!("frames judged alike: {judged}, {fast} of them on the fast path");
    assert!(fast > 1000, "only {fast} on the fast path");
}
