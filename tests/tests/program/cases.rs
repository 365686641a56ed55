// SPDX-License-Identifier: MIT OR Apache-2.0
//! The case table, on the host and through the program.

use std::collections::{BTreeMap, BTreeSet};

use filter_common::{
    verdict::{DropReason, PassReason, Verdict},
    wire::Counter,
};
use filter_user::{
    compile::{Compiled, CounterLedger, SlotTables, compile},
    kernel::Role,
};

use crate::{
    ground::{Counters, Ground, SHORTEST, Traces, judge, mode, reason_of},
    table::{Case, CaseVerdict, Table},
};

#[test]
fn cases_hold_on_the_host_and_in_the_kernel() {
    let table = Table::read();
    assert!(table.cases.len() >= 80, "only {} cases", table.cases.len());
    let mut ledger = CounterLedger::default();
    let mut ground =
        Ground::new(table.cases.iter().map(|case| case.nic), &[Role::Enforcing, Role::Observing]);
    let (mut left_out, mut seen) = (0, BTreeSet::new());
    let mut counters: BTreeMap<u8, Counters> = BTreeMap::new();
    let (mut host_only, mut failures) = (0, Vec::new());
    for (name, setting) in &table.policies {
        let compiled =
            compile(&setting.policy, &setting.names, &setting.host, &mut ledger).expect("it fits");
        ground.swap(&compiled.tables);
        let cases: Vec<&Case> = table.cases.iter().filter(|case| case.policy == *name).collect();
        assert!(!cases.is_empty(), "no case uses the policy `{name}`");
        for case in cases {
            let code = on_the_host(case, &compiled).and_then(|code| {
                if case.frame.len() < SHORTEST {
                    host_only += 1;
                } else {
                    let counters = counters.entry(case.nic).or_default();
                    in_the_kernel(case, &compiled.tables, &mut ground, counters, &mut left_out)?;
                }
                Ok(code)
            });
            match code {
                Ok(code) => {
                    seen.insert(code);
                }
                Err(what) => failures.push(format!("{}: {what}", case.title)),
            }
        }
    }
    let (instructions, load_time) = ground.verified();
    let instructions = instructions.map_or_else(|| "?".to_owned(), |number| number.to_string());
    println!("verifier: {instructions} instructions, loaded in {} ms", load_time.as_millis());
    println!(
        "cases: {} on the host, {} of them through the program ({host_only} are too short for it)",
        table.cases.len(),
        table.cases.len() - host_only
    );
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
    for reason in PassReason::ALL {
        assert!(seen.contains(&reason.code()), "no case passes by `{}`", reason.name());
    }
    for reason in DropReason::ALL {
        assert!(seen.contains(&reason.code()), "no case is dropped by `{}`", reason.name());
    }
}

#[test]
fn every_frame_is_judged_alike_by_every_policy() {
    let table = Table::read();
    let nics: BTreeSet<u8> = table.cases.iter().map(|case| case.nic).collect();
    let mut ground = Ground::new(nics.iter().copied(), &[Role::Observing]);
    let mut judged = 0;
    // The first are the tables before any policy was loaded: empty, and closed.
    let mut tables = vec![SlotTables::default()];
    for setting in table.policies.values() {
        let mut ledger = CounterLedger::default();
        let compiled = compile(&setting.policy, &setting.names, &setting.host, &mut ledger);
        tables.push(compiled.expect("it fits").tables);
    }
    for tables in tables {
        if tables != SlotTables::default() {
            ground.swap(&tables);
        }
        for case in table.cases.iter().filter(|case| case.frame.len() >= SHORTEST) {
            // Every frame also cut short at each place that a header may end at.
            for length in SHORTEST..=case.frame.len().min(100) {
                let whole = length == case.frame.len() || length == 100;
                let frame = if whole { &case.frame } else { &case.frame[..length] };
                for nic in &nics {
                    let expected = ground.expected(&tables, *nic, frame);
                    let observed = ground.observe(*nic, frame);
                    assert_eq!(observed, expected, "{}, {length} bytes, NIC {nic}", case.title);
                    judged += 1;
                }
            }
        }
    }
    println!("frames judged alike: {judged}");
}

/// Holds the case against what the host decides; the code of the reason.
fn on_the_host(case: &Case, compiled: &Compiled) -> Result<u8, String> {
    let Compiled { tables, meaning } = compiled;
    let verdict = judge(tables, case.nic, &case.frame).verdict;
    let name = match verdict {
        Verdict::Permit(permit) => permit.reason().expect("a permit has a reason").name(),
        Verdict::Pass(reason) => reason.name(),
        Verdict::Drop(reason) => reason.name(),
    };
    let rules: BTreeSet<String> = match verdict {
        Verdict::Permit(permit) => {
            let matched = meaning.counter(permit.counter()).expect("a match has a meaning");
            let rule = |rule| meaning.rule(rule).expect("a rule").name.to_string();
            matched.rules.iter().copied().map(rule).collect()
        }
        Verdict::Pass(_) | Verdict::Drop(_) => BTreeSet::new(),
    };
    let passes = if verdict.passes(mode(tables)) { CaseVerdict::Pass } else { CaseVerdict::Drop };
    if (passes, name, &rules) == (case.verdict, case.reason.as_str(), &case.rules) {
        Ok(verdict.code())
    } else {
        Err(format!("{passes:?} by `{name}` {rules:?} on the host"))
    }
}

/// Holds what the host decides against the program: verdict, samples, and every counter of the NIC,
/// which were `counters` before; and against the program that observes, which leaves no traces.
fn in_the_kernel(
    case: &Case,
    tables: &SlotTables,
    ground: &mut Ground,
    counters: &mut Counters,
    left_out: &mut u64,
) -> Result<(), String> {
    let Case { nic, frame, .. } = case;
    let verdict = judge(tables, *nic, frame).verdict;
    let expected = ground.expected(tables, *nic, frame);
    let observed = ground.observe(*nic, frame);
    if observed != expected {
        return Err(format!("the program observes {observed:?}, the host {expected:?}"));
    }
    let traces = ground.traces(left_out);
    if traces != (Traces { samples: Vec::new(), left_out: 0 }) {
        return Err(format!("observing leaves traces: {traces:?}"));
    }

    // One look at the counters is enough for both runs: had observing counted, they would differ.
    let passes = ground.run(*nic, frame);
    if passes != verdict.passes(mode(tables)) {
        return Err(format!("the program passes it: {passes}; the host: {verdict:?}"));
    }
    let counter = counters.entry(verdict.counter(mode(tables))).or_default();
    let bytes = u64::try_from(frame.len()).unwrap();
    *counter = Counter { packets: counter.packets + 1, bytes: counter.bytes + bytes };
    let counted = ground.counters(*nic);
    if counted != *counters {
        let what = format!("counters are {counted:?}, not {counters:?}");
        *counters = counted;
        return Err(what);
    }
    let Traces { samples, left_out } = ground.traces(left_out);
    let reasons: Vec<u8> = samples.iter().map(|sample| reason_of(sample)).collect();
    match verdict {
        Verdict::Drop(reason) if reasons == [reason.code()] && left_out == 0 => Ok(()),
        Verdict::Drop(_) if reasons.is_empty() && left_out == 1 => Ok(()),
        Verdict::Permit(_) | Verdict::Pass(_) if reasons.is_empty() && left_out == 0 => Ok(()),
        _ => Err(format!("{verdict:?} has samples {reasons:?}, and {left_out} left out")),
    }
}
