// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each case of the table on the host, and through the loaded program.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::{
    verdict::{DropReason, PassReason, Verdict},
    wire::Counter,
};
use filter_user::{
    compile::{Compiled, CounterLedger, SlotTables, compile},
    kernel::Role,
};

use super::{Case, CaseVerdict, Table};
use crate::ground::{Counters, Ground, SHORTEST, Traces, judge, mode, reason_of};

/// How a table went.
#[derive(Debug)]
pub struct Report {
    /// Cases that the host judged.
    pub host: usize,
    /// Those of them that the program judged too; the others are too short for it.
    pub program: usize,
    /// Instructions that the verifier processed; `None` on a kernel that doesn't tell.
    pub instructions: Option<u32>,
    /// How long loading the program took, on average.
    pub load_time: Duration,
    /// What is wrong, a text for each case that doesn't hold and each reason that no case has.
    pub faults: Vec<String>,
}

/// The program, and what it has counted so far.
struct Bench {
    ground: Ground,
    counters: BTreeMap<u8, Counters>,
    left_out: u64,
}

/// Runs all cases of a table.
///
/// # Errors
///
/// What keeps cases from being run at all: a policy that doesn't compile, a kernel that refuses
/// the program. A case that doesn't hold is one of the report's faults.
pub fn check(table: &Table) -> Result<Report> {
    let nics = table.cases.iter().map(|case| case.nic);
    let ground = Ground::new(nics, &[Role::Enforcing, Role::Observing])?;
    let mut bench = Bench { ground, counters: BTreeMap::new(), left_out: 0 };
    let (instructions, load_time) = bench.ground.verified();
    let mut report = Report { host: 0, program: 0, instructions, load_time, faults: Vec::new() };
    let mut ledger = CounterLedger::default();
    let mut seen = BTreeSet::new();
    let unknown = table.cases.iter().find(|case| !table.policies.contains_key(&case.policy));
    if let Some(Case { title, policy, .. }) = unknown {
        bail!("`{title}` names the policy `{policy}`, which no file has");
    }
    for (name, setting) in &table.policies {
        let compiled = compile(&setting.policy, &setting.names, &setting.host, &mut ledger)
            .with_context(|| format!("the policy `{name}` doesn't compile"))?;
        bench.ground.swap(&compiled.tables)?;
        let cases: Vec<&Case> = table.cases.iter().filter(|case| case.policy == *name).collect();
        ensure!(!cases.is_empty(), "no case uses the policy `{name}`");
        for case in cases {
            report.host += 1;
            let code = on_the_host(case, &compiled).and_then(|code| {
                if case.frame.len() >= SHORTEST {
                    report.program += 1;
                    bench.in_the_kernel(case, &compiled.tables)?;
                }
                Ok(code)
            });
            match code {
                Ok(code) => {
                    seen.insert(code);
                }
                Err(what) => report.faults.push(format!("{}: {what:#}", case.title)),
            }
        }
    }
    for reason in PassReason::ALL.iter().filter(|reason| !seen.contains(&reason.code())) {
        report.faults.push(format!("no case passes by `{}`", reason.name()));
    }
    for reason in DropReason::ALL.iter().filter(|reason| !seen.contains(&reason.code())) {
        report.faults.push(format!("no case is dropped by `{}`", reason.name()));
    }
    Ok(report)
}

/// Holds the case against what the host decides; the code of the reason.
fn on_the_host(case: &Case, compiled: &Compiled) -> Result<u8> {
    let Compiled { tables, meaning } = compiled;
    let verdict = judge(tables, case.nic, &case.frame).verdict;
    let name = match verdict {
        Verdict::Permit(permit) => permit.reason().context("a permit has no reason")?.name(),
        Verdict::Pass(reason) => reason.name(),
        Verdict::Drop(reason) => reason.name(),
    };
    let mut rules = BTreeSet::new();
    match verdict {
        Verdict::Permit(permit) => {
            let matched = meaning.counter(permit.counter()).context("a match has no meaning")?;
            for rule in matched.rules.iter() {
                let rule = meaning.rule(*rule).context("a match names a rule that is none")?;
                rules.insert(rule.name.to_string());
            }
        }
        Verdict::Pass(_) | Verdict::Drop(_) => {}
    }
    let passes = if verdict.passes(mode(tables)) { CaseVerdict::Pass } else { CaseVerdict::Drop };
    if (passes, name, &rules) != (case.verdict, case.reason.as_str(), &case.rules) {
        bail!("{passes:?} by `{name}` {rules:?} on the host");
    }
    Ok(verdict.code())
}

// === impl Bench ===

impl Bench {
    /// Holds what the host decides against the program: verdict, samples, and every counter of the
    /// NIC; and against the program that observes, which leaves no traces.
    fn in_the_kernel(&mut self, case: &Case, tables: &SlotTables) -> Result<()> {
        let Self { ground, counters, left_out } = self;
        let Case { nic, frame, .. } = case;
        let verdict = judge(tables, *nic, frame).verdict;
        let expected = ground.expected(tables, *nic, frame);
        let observed = ground.observe(*nic, frame)?;
        if observed != expected {
            bail!("the program observes {observed:?}, the host {expected:?}");
        }
        let traces = ground.traces(left_out)?;
        if traces != (Traces { samples: Vec::new(), left_out: 0 }) {
            bail!("observing leaves traces: {traces:?}");
        }

        // One look at the counters is enough for both runs: had observing counted, they would
        // differ.
        let passes = ground.run(*nic, frame)?;
        if passes != verdict.passes(mode(tables)) {
            bail!("the program passes it: {passes}; the host: {verdict:?}");
        }
        let counters = counters.entry(*nic).or_default();
        let counter = counters.entry(verdict.counter(mode(tables))).or_default();
        let bytes = u64::try_from(frame.len())?;
        *counter = Counter { packets: counter.packets + 1, bytes: counter.bytes + bytes };
        let counted = ground.counters(*nic)?;
        if counted != *counters {
            let what = format!("counters are {counted:?}, not {counters:?}");
            *counters = counted;
            bail!(what);
        }
        let Traces { samples, left_out } = ground.traces(left_out)?;
        let reasons: Vec<Option<u8>> = samples.iter().map(|sample| reason_of(sample)).collect();
        match verdict {
            Verdict::Drop(reason) if reasons == [Some(reason.code())] && left_out == 0 => Ok(()),
            Verdict::Drop(_) if reasons.is_empty() && left_out == 1 => Ok(()),
            Verdict::Permit(_) | Verdict::Pass(_) if reasons.is_empty() && left_out == 0 => Ok(()),
            _ => bail!("{verdict:?} has samples {reasons:?}, and {left_out} left out"),
        }
    }
}
