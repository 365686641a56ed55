// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each case of the table on the host, and through the loaded program.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::{
    egress::Side,
    flow::{Way, Workspace},
    parse::{Headers, parse},
    reject::Answer,
    verdict::{Answered, DropReason, PassReason, Verdict},
    wire::{AddressPair, Counter, FIRST_MATCH, FlowKey},
};
use filter_user::{
    compile::{Compiled, CounterLedger, Memory, SlotTables, compile},
    kernel::{LoadedProgram, Role},
};

use super::{Case, CaseVerdict, CaseWay, Event, Table};
use crate::{
    answers,
    ground::{
        Counters, Fate, Ground, SHORTEST, TestNic, Traces, addresses, judge, judge_egress, mode,
        reason_of, timeless, view,
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
    /// The first counter that belongs to no match.
    used: u32,
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
    let mut bench = Bench { ground, counters: BTreeMap::new(), used: FIRST_MATCH, left_out: 0 };
    let programs = bench.ground.programs();
    let mut report = Report { host: 0, program: 0, programs, faults: Vec::new() };
    let mut ledger = CounterLedger::default();
    let mut seen: BTreeMap<u8, Seen> = BTreeMap::new();
    for (name, setting) in &table.policies {
        let compiled = compile(&setting.policy, &setting.names, &setting.host, &mut ledger)
            .with_context(|| format!("the policy `{name}` doesn't compile"))?;
        bench.ground.swap(&compiled.tables)?;
        bench.used = FIRST_MATCH + u32::try_from(ledger.len())?;
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
                Ok(code) => seen.entry(code).or_default().add(&case.frame),
                Err(what) => report.faults.push(format!("{}: {what:#}", case.title)),
            }
        }
    }
    bench.check_unused(&mut report.faults)?;
    let reasons = PassReason::ALL.iter().map(|reason| (reason.code(), reason.name()));
    let drops = DropReason::ALL.iter().map(|reason| (reason.code(), reason.name()));
    for (code, name) in reasons.chain(drops) {
        report.faults.extend(seen.remove(&code).unwrap_or_default().fault(name));
    }
    Ok(report)
}

/// The cases of a reason: how many there are, and the kinds of their frames.
#[derive(Default)]
struct Seen {
    cases: usize,
    kinds: BTreeSet<(Family, Tagging)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
    NoIp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tagging {
    Tagged,
    Untagged,
}

/// Reasons that only one family has.
const ONLY_V4: [&str; 3] = ["igmp", "dhcpv4", "source-route"];
const ONLY_V6: [&str; 5] =
    ["neighbour-discovery", "mld", "dhcpv6", "routing-header", "extension-headers"];
/// Reasons of frames that carry no IP, or that are dropped before it is seen.
const NO_IP: [&str; 10] = [
    "arp",
    "lldp",
    "lacp",
    "eapol",
    "pppoe-discovery",
    "ppp-control",
    "unknown-ethertype",
    "llc-frame",
    "truncated-ethernet",
    "misplaced-control",
];
/// Reasons whose frames have no tag, or always have.
const ONE_TAGGING: [&str; 3] = ["lldp", "lacp", "vlan-depth"];

impl Seen {
    fn add(&mut self, frame: &[u8]) {
        let mut headers = Headers::default();
        // What could be read before the frame was found wanting is enough.
        let _judged = parse(frame, &mut headers);
        let tagged = matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
        let v6 = |kind: &[u8]| kind == [0x86, 0xdd] || kind == [0x00, 0x57];
        let family = match headers.ip_version {
            4 => Family::V4,
            6 => Family::V6,
            // Behind more tags or in a session that is none, by the numbers that stand there.
            _ if frame.chunks(2).take(17).any(v6) => Family::V6,
            _ if frame.chunks(2).take(17).any(|kind| kind == [0x08, 0x00]) => Family::V4,
            _ => Family::NoIp,
        };
        self.cases += 1;
        self.kinds.insert((family, if tagged { Tagging::Tagged } else { Tagging::Untagged }));
    }

    /// What the cases of a reason lack.
    fn fault(&self, name: &str) -> Option<String> {
        let families: &[Family] = if NO_IP.contains(&name) {
            &[]
        } else if ONLY_V4.contains(&name) {
            &[Family::V4]
        } else if ONLY_V6.contains(&name) {
            &[Family::V6]
        } else {
            &[Family::V4, Family::V6]
        };
        if self.cases < 3 {
            return Some(format!("{} cases have the reason `{name}`, not three", self.cases));
        }
        if ONE_TAGGING.contains(&name) {
            return None;
        }
        for tagging in [Tagging::Tagged, Tagging::Untagged] {
            let of_tagging = |family: Option<Family>| {
                self.kinds.iter().any(|(of_case, of_tag)| {
                    *of_tag == tagging && family.is_none_or(|family| family == *of_case)
                })
            };
            if !of_tagging(None) {
                return Some(format!("no {tagging:?} case has the reason `{name}`"));
            }
            for family in families {
                if !of_tagging(Some(*family)) && name != "vlan-depth" && name != "unknown-ppp" {
                    return Some(format!("no {tagging:?} {family:?} case has `{name}`"));
                }
            }
        }
        None
    }
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
    let Compiled { tables, meaning, .. } = compiled;
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
                    let flows = self.ground.maps.flows()?;
                    self.ground.maps.cut_flows(flows.into_iter().map(|(key, _)| key))?;
                }
                Event::Keep { way, frame } => {
                    self.ground.maps.keep_flow(&key(*way, frame)?, 0)?;
                }
            }
        }
        let touched = case.before.iter().filter_map(|event| match event {
            Event::Pass { way, .. } => Some(way.nic()),
            Event::Cut | Event::Keep { .. } => None,
        });
        for nic in touched.collect::<BTreeSet<TestNic>>() {
            self.counters.insert(nic, self.ground.counters_below(nic.0, self.used)?);
        }
        self.ground.traces(&mut self.left_out)?;
        Ok(())
    }

    /// No packet counted where no match has its counter.
    fn check_unused(&self, faults: &mut Vec<String>) -> Result<()> {
        for nic in self.counters.keys() {
            let mut counters = self.ground.counters(nic.0)?;
            counters.retain(|counter, _| *counter >= self.used);
            if !counters.is_empty() {
                faults.push(format!("NIC {}: no match has the counters {counters:?}", nic.0));
            }
        }
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
        let Self { ground, counters, used, left_out } = self;
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
        let counted = ground.counters_below(nic.0, *used)?;
        if counted != *counters {
            let what = format!("counters are {counted:?}, not {counters:?}");
            *counters = counted;
            bail!(what);
        }
        let (flows, expected) = (ground.flows()?, timeless(memory.flows()));
        if flows != expected {
            bail!("flows are {flows:?}, not {expected:?}");
        }
        let (used, expected) = (ground.take_used()?, addresses(&memory.used()));
        if used != expected {
            bail!("in use are {used:?}, not {expected:?}");
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
