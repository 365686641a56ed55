// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each case of the table on the host, and through the loaded program.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::{
    egress::Side,
    flow::{Way, Workspace},
    parse::parse,
    reject::Answer,
    verdict::{Answered, DropReason, PassReason, Verdict},
    wire::{AddressPair, Counter, FlowKey},
};
use filter_user::{
    compile::{Compiled, CounterLedger, Memory, SlotTables, compile},
    kernel::{LoadedProgram, Role},
};

use super::{Case, CaseVerdict, CaseWay, Event, Table};
use crate::{
    answers,
    ground::{
        Counters, Fate, Ground, SHORTEST, TestNic, Traces, judge, judge_egress, mode, reason_of,
        timeless, view,
    },
};

/// The gateway's own addresses on each NIC.
const GATEWAY: AddressPair = AddressPair {
    v4: [10, 0, 10, 1],
    v6: [0x20, 0x01, 0x0d, 0xb8, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
};

/// How a table went.
#[derive(Debug)]
pub struct Report {
    /// Cases that the host judged.
    pub host: usize,
    /// Those of them that the program judged too; the others are too short for it.
    pub program: usize,
    /// The programs that were run, by name.
    pub programs: BTreeMap<&'static str, LoadedProgram>,
    /// What is wrong, a text for each case that doesn't hold and each reason that no case has.
    pub faults: Vec<String>,
}

/// The program, and what it has counted so far.
struct Bench {
    ground: Ground,
    counters: BTreeMap<TestNic, Counters>,
    left_out: u64,
}

/// Runs all cases of a table.
///
/// # Errors
///
/// What keeps cases from being run at all: a policy that doesn't compile, a kernel that refuses
/// the program. A case that doesn't hold is one of the report's faults.
pub fn check(table: &Table) -> Result<Report> {
    let nics = table.nics();
    let addresses = nics.iter().map(|(nic, _)| (*nic, GATEWAY)).collect();
    let mut ground = Ground::new(nics, &[Role::Enforcing, Role::Observing])?;
    ground.maps.set_nic_addresses(&addresses)?;
    let mut bench = Bench { ground, counters: BTreeMap::new(), left_out: 0 };
    let programs = bench.ground.programs();
    let mut report = Report { host: 0, program: 0, programs, faults: Vec::new() };
    let mut ledger = CounterLedger::default();
    let mut seen = BTreeSet::new();
    for (name, setting) in &table.policies {
        let compiled = compile(&setting.policy, &setting.names, &setting.host, &mut ledger)
            .with_context(|| format!("the policy `{name}` doesn't compile"))?;
        bench.ground.swap(&compiled.tables)?;
        let cases: Vec<&Case> = table.cases.iter().filter(|case| case.policy == *name).collect();
        ensure!(!cases.is_empty(), "no case uses the policy `{name}`");
        for case in cases {
            report.host += 1;
            let memory = Memory::default();
            let code = before_on_the_host(case, &compiled.tables, &memory).and_then(|()| {
                let in_kernel = case.frame.len() >= SHORTEST;
                if in_kernel {
                    report.program += 1;
                    bench.before(case)?;
                    bench.observe(case, &compiled.tables, &memory)?;
                }
                let outcome = on_the_host(case, &compiled, &memory)?;
                if in_kernel {
                    bench.in_the_kernel(case, &compiled.tables, &outcome, &memory)?;
                }
                Ok(outcome.verdict.code())
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

/// Lets happen what comes before a case.
fn before_on_the_host(case: &Case, tables: &SlotTables, memory: &Memory) -> Result<()> {
    for event in &case.before {
        match event {
            Event::Pass { way, frame } => {
                let verdict = decide_on_the_host(*way, frame, tables, memory)?.verdict;
                ensure!(verdict.passes(mode(tables)), "what comes before it is {verdict:?}");
            }
            Event::Cut => memory.flows().keys().for_each(|key| memory.cut(key)),
            Event::Keep { way, frame } => memory.keep(key(*way, frame)?),
        }
    }
    Ok(())
}

/// What the host decides: the verdict, and of a frame that enters, what becomes of it.
struct Outcome {
    verdict: Verdict,
    answer: Answer,
    fate: Option<Fate>,
}

fn decide_on_the_host(
    way: CaseWay,
    frame: &[u8],
    tables: &SlotTables,
    memory: &Memory,
) -> Result<Outcome> {
    let (nic, side) = way.nic();
    let view = view(tables, memory, nic);
    Ok(match way {
        CaseWay::Enters(_) => {
            let judgement = judge(view, side, frame);
            let fate = Some(judgement.fate(view, frame, &GATEWAY)?);
            Outcome { verdict: judgement.decision.verdict, answer: judgement.answer, fate }
        }
        CaseWay::Leaves { from, segments, .. } => {
            let verdict = judge_egress(view, side, frame, from, segments);
            Outcome { verdict, answer: Answer::None, fate: None }
        }
    })
}

/// The flow of a frame that enters; the client, or the host that serves, is its local end.
fn key(way: CaseWay, frame: &[u8]) -> Result<FlowKey> {
    let Workspace { mut headers, mut key, .. } = Workspace::default();
    let parsed = parse(frame, &mut headers);
    ensure!(parsed.is_ok(), "a frame of no flow: {parsed:?}");
    let (_, side) = way.nic();
    key.set(&headers, if side == Side::Inside { Way::Outgoing } else { Way::Incoming });
    Ok(key)
}

/// Holds the case against what the host decides.
fn on_the_host(case: &Case, compiled: &Compiled, memory: &Memory) -> Result<Outcome> {
    let Compiled { tables, meaning } = compiled;
    let outcome = decide_on_the_host(case.way, &case.frame, tables, memory)?;
    let verdict = outcome.verdict;
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
    if case.answer.is_some_and(|answer| answer.wire() != outcome.answer) {
        bail!("the host answers {:?}", outcome.answer);
    }
    if let Some(Fate::Answered(bytes)) = &outcome.fate {
        answers::check(&case.frame, bytes, outcome.answer)
            .with_context(|| format!("the answer {bytes:02x?}"))?;
    }
    Ok(outcome)
}

// === impl Bench ===

impl Bench {
    /// Lets happen what comes before a case, of which only the flows are left.
    fn before(&mut self, case: &Case) -> Result<()> {
        self.ground.forget_flows()?;
        // However many cases a client has, each of them may be answered.
        self.ground.maps.forget_rejected()?;
        for event in &case.before {
            match event {
                Event::Pass { way, frame } => {
                    ensure!(self.run(*way, frame)?, "what comes before it does not pass");
                }
                Event::Cut => {
                    for (key, _) in self.ground.maps.flows()? {
                        self.ground.maps.cut_flow(&key)?;
                    }
                }
                Event::Keep { way, frame } => {
                    self.ground.maps.keep_flow(&key(*way, frame)?, 0)?;
                }
            }
        }
        if !case.before.is_empty() {
            for (nic, counters) in &mut self.counters {
                *counters = self.ground.counters(nic.0)?;
            }
            let nic = case.way.nic();
            self.counters.insert(nic, self.ground.counters(nic.0)?);
        }
        self.ground.traces(&mut self.left_out)?;
        Ok(())
    }

    fn run(&mut self, way: CaseWay, frame: &[u8]) -> Result<bool> {
        match way {
            CaseWay::Enters(nic) => self.ground.run(nic, frame),
            CaseWay::Leaves { nic, from, segments } => {
                self.ground.run_egress(nic, frame, from, segments)
            }
        }
    }

    /// Holds what the host decides against the program that observes, which leaves no traces.
    fn observe(&mut self, case: &Case, tables: &SlotTables, memory: &Memory) -> Result<()> {
        let CaseWay::Enters(nic) = case.way else { return Ok(()) };
        let Self { ground, left_out, .. } = self;
        let flows = ground.flows()?;
        let expected = ground.expected(view(tables, memory, nic.0), nic.1, &case.frame);
        let observed = ground.observe(nic, &case.frame)?;
        if observed != expected {
            bail!("the program observes {observed:?}, the host {expected:?}");
        }
        let traces = ground.traces(left_out)?;
        if traces != (Traces { samples: Vec::new(), left_out: 0 }) || ground.flows()? != flows {
            bail!("observing leaves traces: {traces:?}");
        }
        Ok(())
    }

    /// Holds what the host decided against the program: verdict, samples, flows, and every counter
    /// of the NIC.
    fn in_the_kernel(
        &mut self,
        case: &Case,
        tables: &SlotTables,
        outcome: &Outcome,
        memory: &Memory,
    ) -> Result<()> {
        let Outcome { verdict, answer, fate } = outcome;
        // One look at the counters is enough for both runs: had observing counted, they would
        // differ.
        let passes = match (case.way, fate) {
            (CaseWay::Enters(nic), Some(expected)) => {
                let fate = self.ground.fate(nic, &case.frame)?;
                if fate != *expected {
                    bail!("the program: {fate:02x?}; the host: {expected:02x?}");
                }
                fate == Fate::Passes
            }
            (way, _) => self.run(way, &case.frame)?,
        };
        let Self { ground, counters, left_out } = self;
        if passes != verdict.passes(mode(tables)) {
            bail!("the program passes it: {passes}; the host: {verdict:?}");
        }
        let nic = case.way.nic();
        let counters = counters.entry(nic).or_default();
        let counter = counters.entry(verdict.counter(mode(tables))).or_default();
        let bytes = u64::try_from(case.frame.len())?;
        *counter = Counter { packets: counter.packets + 1, bytes: counter.bytes + bytes };
        let answered = match answer {
            Answer::None => None,
            Answer::Reset => Some(Answered::Reset),
            Answer::Unreachable => Some(Answered::Unreachable),
        };
        if let (Some(answered), Some(Fate::Answered(bytes))) = (answered, fate) {
            let counter = counters.entry(u32::from(answered.code())).or_default();
            counter.packets += 1;
            counter.bytes += u64::try_from(bytes.len())?;
        }
        let counted = ground.counters(nic.0)?;
        if counted != *counters {
            let what = format!("counters are {counted:?}, not {counters:?}");
            *counters = counted;
            bail!(what);
        }
        let (flows, expected) = (ground.flows()?, timeless(memory.flows()));
        if flows != expected {
            bail!("flows are {flows:?}, not {expected:?}");
        }
        let Traces { samples, left_out } = ground.traces(left_out)?;
        let reasons: Vec<Option<u8>> = samples.iter().map(|sample| reason_of(sample)).collect();
        match *verdict {
            Verdict::Drop(reason) if reasons == [Some(reason.code())] && left_out == 0 => Ok(()),
            Verdict::Drop(_) if reasons.is_empty() && left_out == 1 => Ok(()),
            Verdict::Permit(_) | Verdict::Pass(_) if reasons.is_empty() && left_out == 0 => Ok(()),
            _ => bail!("{verdict:?} has samples {reasons:?}, and {left_out} left out"),
        }
    }
}
