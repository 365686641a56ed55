// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was measured, beside what was aimed at.

use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Options, SLICE, peer, prefixes::Family, setting::Size};
use crate::report::{Bar, BarChart, Better, Goal, Line, LineChart, Report, Scale, Table};

/// A case and its rounds.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// The stable name of the case.
    pub(super) name: String,
    pub(super) family: Family,
    pub(super) prefixes: usize,
    groups: u32,
    /// Flows that were wanted, and that there were.
    flows: Option<(u32, u32)>,
    pub(super) rounds: Rounds,
}

/// Times for one packet in nanoseconds, round by round.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    gross: Vec<f64>,
    floor: Vec<f64>,
}

/// The middle and the ends of some numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

/// What is aimed at: the case, the family, the prefixes, and nanoseconds net of the floor.
const TARGETS: &[(&str, Family, usize, f64)] = &[
    ("allowed-hot", Family::V4, 1_000, 25.0),
    ("allowed-hot", Family::V4, 100_000, 30.0),
    ("allowed-hot", Family::V4, 1_000_000, 40.0),
    ("allowed-zipf", Family::V4, 1_000, 25.0),
    ("allowed-zipf", Family::V4, 100_000, 30.0),
    ("allowed-zipf", Family::V4, 1_000_000, 40.0),
    ("denied-near", Family::V4, 1_000, 35.0),
    ("denied-near", Family::V4, 100_000, 120.0),
    ("denied-near", Family::V4, 1_000_000, 200.0),
    ("denied-far", Family::V4, 1_000, 25.0),
    ("denied-far", Family::V4, 100_000, 25.0),
    ("denied-far", Family::V4, 1_000_000, 30.0),
    ("allowed-hot", Family::V6, 1_000, 35.0),
    ("allowed-hot", Family::V6, 100_000, 45.0),
    ("allowed-hot", Family::V6, 1_000_000, 55.0),
    ("allowed-zipf", Family::V6, 1_000, 35.0),
    ("allowed-zipf", Family::V6, 100_000, 45.0),
    ("allowed-zipf", Family::V6, 1_000_000, 55.0),
    ("denied-near", Family::V6, 1_000, 50.0),
    ("denied-near", Family::V6, 100_000, 350.0),
    ("denied-near", Family::V6, 1_000_000, 350.0),
    ("denied-far", Family::V6, 1_000, 30.0),
    ("denied-far", Family::V6, 100_000, 30.0),
    ("denied-far", Family::V6, 1_000_000, 40.0),
];

/// The same for replies: flows that are wanted, and nanoseconds.
const REPLY_TARGETS: [(u32, f64); 2] = [(1_000, 50.0), (1_000_000, 300.0)];

/// What many groups may cost more than three.
const GROUPS_MORE: f64 = 15.0;

/// The part of the bare look-up that the whole judgement is to take, for destinations that are drawn from
/// all prefixes.
const UNIFORM_PART: f64 = 1.0 / 3.0;

/// The part of xdp-filter's time that ours is to be.
const PEER_ALLOWED_PART: f64 = 1.0 / 3.0;
const PEER_DENIED_PART: f64 = 1.0 / 4.0;

/// The cases by prefixes, and their names for readers.
const CASES: [(&str, &str); 5] = [
    ("allowed-hot", "allowed, 64 destinations"),
    ("allowed-zipf", "allowed, Zipf over 4,096 destinations"),
    ("allowed-uniform", "allowed, drawn from all prefixes"),
    ("denied-near", "denied, beside an allowed address"),
    ("denied-far", "denied, far from any prefix"),
];

// === impl Outcome ===

impl Outcome {
    pub(super) fn new(name: &str, family: Family, size: &Size) -> Self {
        Self {
            name: name.to_owned(),
            family,
            prefixes: size.prefixes,
            groups: size.groups,
            flows: None,
            rounds: Rounds::default(),
        }
    }

    /// One with so many flows: as many as are wanted, and as many as there are.
    pub(super) fn of_flows(name: &str, flows: (u32, u32), size: &Size) -> Self {
        Self { flows: Some(flows), ..Self::new(name, Family::V4, size) }
    }

    /// What is aimed at, where it depends on nothing else that is measured.
    fn target(&self) -> Option<f64> {
        if let ("reply", Some((wanted, _))) = (self.name.as_str(), self.flows) {
            let found = REPLY_TARGETS.iter().find(|(flows, _)| *flows == wanted);
            return found.map(|(_, target)| *target);
        }
        let same = |(name, family, prefixes, _): &&(&str, Family, usize, f64)| {
            self.name == *name && self.family == *family && self.prefixes == *prefixes
        };
        TARGETS.iter().find(same).map(|(.., target)| *target)
    }

    /// What is aimed at, also in terms of other cases.
    fn target_among(&self, all: &[Self]) -> Option<f64> {
        let other = |name: &str| {
            all.iter()
                .find(|other| {
                    other.name == name
                        && other.family == self.family
                        && other.prefixes == self.prefixes
                })
                .map(|other| other.rounds.net().median)
        };
        match self.name.as_str() {
            "allowed-uniform" => Some(other("trie-allowed-uniform")? * UNIFORM_PART),
            "addresses-allowed" => Some(other("xdp-filter-allowed")? * PEER_ALLOWED_PART),
            "addresses-denied" => Some(other("xdp-filter-denied")? * PEER_DENIED_PART),
            "groups-allowed-hot" => Some(other("allowed-hot")? + GROUPS_MORE),
            _ => self.target(),
        }
    }

    fn json(&self, all: &[Self]) -> Value {
        let (net, floor) = (self.rounds.net(), Spread::of(&self.rounds.floor));
        json!({
            "case": self.name,
            "family": self.family.name(),
            "prefixes": self.prefixes,
            "groups": self.groups,
            "flows": self.flows.map(|(_, there)| there),
            "net_ns": { "median": net.median, "min": net.least, "max": net.most },
            "floor_ns": { "median": floor.median, "min": floor.least, "max": floor.most },
            "rounds_gross_ns": self.rounds.gross,
            "rounds_floor_ns": self.rounds.floor,
            "target_ns": self.target_among(all),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} with {} prefixes", self.family.name(), self.name, self.prefixes)
    }
}

// === impl Rounds ===

impl Rounds {
    pub(super) fn push(&mut self, gross: f64, floor: f64) {
        self.gross.push(gross);
        self.floor.push(floor);
    }

    /// What is left without the floor of the same round.
    pub(super) fn net(&self) -> Spread {
        let net: Vec<f64> =
            self.gross.iter().zip(&self.floor).map(|(gross, floor)| gross - floor).collect();
        Spread::of(&net)
    }
}

// === impl Spread ===

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(sorted.len() / 2),
            least: at(0),
            most: at(sorted.len().saturating_sub(1)),
        }
    }
}

/// `12.5 (11.9 to 14.0)`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.1} to {:.1})", self.median, self.least, self.most)
    }
}

pub(super) fn report(options: &Options, outcomes: &[Outcome]) -> Result<Report> {
    let mut report = Report::new("packet", "What judging a packet costs");
    report.machine.peer(peer::PACKAGE);
    report.text(format!(
        "Nanoseconds for one packet, net of the floor: what the same packets cost with a program that only \
         passes is subtracted, of the same round. Median (least to most) of {} rounds; in each, the \
         fastest of {} slices of {SLICE} packets. Every packet's verdict was checked by the \
         counters of its program (the bare trie and the steps have none). Three source groups, one inside NIC, a counter for each rule, spoof check on.",
        options.rounds, options.slices
    ));
    for family in Family::BOTH {
        report.heading(format!("{}, by the number of prefixes", family.name()));
        report.table(by_prefixes(family, options, outcomes));
        report.lines(&family.name().to_lowercase(), chart(family, outcomes));
    }
    report.heading("Other cases");
    report.text(
        "xdp-filter is its own program with all features (and the one that only knows addresses), in its policy \
         of denying what isn't listed, with the same 1,000 addresses and one port.",
    );
    report.table(others(outcomes));
    report.bars("peers", peers(outcomes));
    report.heading("Steps");
    report.text(
        "Programs that stop after a step, on allowed packets to 64 destinations, and on denied ones far from any prefix. They are made of the filter's own \
         parts, but are not the filter: it has checks in between. What a step takes is the difference between the \
         least times.",
    );
    report.table(steps(outcomes));
    report.data = json!({
        "rounds": options.rounds,
        "slices": options.slices,
        "packets_per_slice": SLICE,
        "cases": outcomes.iter().map(|outcome| outcome.json(outcomes)).collect::<Vec<_>>(),
    });
    Ok(report)
}

fn by_prefixes(family: Family, options: &Options, outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(["case", "prefixes", "ns", "aim", "bare trie, ns"]);
    for (name, title) in CASES {
        for size in &options.sizes {
            let find = |name: &str| {
                outcomes.iter().find(|outcome| {
                    outcome.name == name && outcome.family == family && outcome.prefixes == *size
                })
            };
            let Some(outcome) = find(name) else { continue };
            let bare = find(&format!("trie-{name}"));
            let bare =
                bare.map_or(String::new(), |bare| format!("{:.1}", bare.rounds.net().median));
            let net = outcome.rounds.net();
            table.row([
                title.to_owned(),
                size.to_string(),
                net.to_string(),
                aim(outcome, outcomes),
                bare,
            ]);
        }
    }
    table
}

fn others(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(["case", "ns", "aim"]);
    for outcome in outcomes {
        let (family, prefixes) = (outcome.family.name(), outcome.prefixes);
        let title = match (outcome.name.as_str(), outcome.flows) {
            ("groups-allowed-hot", _) => {
                let groups = outcome.groups;
                format!("{family}, allowed, 64 destinations, {prefixes} prefixes, {groups} groups")
            }
            ("reply", Some((wanted, there))) if there < wanted => format!(
                "{family}, reply on the outside NIC, {there} flows (the table has no room for {wanted})"
            ),
            ("reply", Some((_, there))) => {
                format!("{family}, reply on the outside NIC, {there} flows")
            }
            (name, _) => match name.rsplit_once('-') {
                Some(("addresses", what)) => format!("{family}, {what}, {prefixes} addresses"),
                Some((peer @ ("xdp-filter" | "xdp-filter-addresses"), what)) => {
                    format!("{family}, {what}, {prefixes} addresses, {peer}")
                }
                _ => continue,
            },
        };
        table.row([title, outcome.rounds.net().to_string(), aim(outcome, outcomes)]);
    }
    table
}

/// Programs that stop after a step, and what each takes more than the one before it.
fn steps(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(["until", "ns", "step, ns"]);
    let mut before = 0.0;
    for outcome in outcomes {
        let family = outcome.family.name();
        let (first, title) = match (outcome.name.split_once("-step-"), outcome.flows) {
            (Some((case, step)), None) => {
                let what = if case.starts_with("denied") { "denied" } else { "allowed" };
                (step == "which slot", format!("{family}, {what}, {step}"))
            }
            (Some((_, step)), Some((_, there))) => {
                (step == "parse", format!("{family}, reply with {there} flows, {step}"))
            }
            (None, _) => continue,
        };
        let net = outcome.rounds.net();
        // Differences of what others disturbed least.
        let step = net.least - if first { 0.0 } else { before };
        before = net.least;
        table.row([title, net.to_string(), format!("{step:.1}")]);
    }
    table
}

fn aim(outcome: &Outcome, all: &[Outcome]) -> String {
    let measured = outcome.rounds.net().median;
    outcome.target_among(all).map_or(String::new(), |target| {
        Goal { measured, target, better: Better::Lower }.to_string()
    })
}

fn peers(outcomes: &[Outcome]) -> BarChart {
    let bars = outcomes.iter().filter_map(|outcome| {
        let (who, what) = outcome.name.rsplit_once('-')?;
        let (name, kind) = match who {
            "addresses" => ("sluice", 0),
            "xdp-filter" => ("xdp-filter", 1),
            "xdp-filter-addresses" => ("xdp-filter, addresses only", 2),
            _ => return None,
        };
        let net = outcome.rounds.net();
        Some(Bar {
            name: format!("{what}, {name}"),
            value: net.median,
            range: Some((net.least, net.most)),
            target: outcome.target_among(outcomes),
            kind,
        })
    });
    BarChart {
        title: "1,000 addresses: ns for one packet, net of the floor".to_owned(),
        value: "ns (dashed: what is aimed at)".to_owned(),
        bars: bars.collect(),
    }
}

fn chart(family: Family, outcomes: &[Outcome]) -> LineChart {
    let line = |name: &str, title: &str| {
        let of_line: Vec<&Outcome> = outcomes
            .iter()
            .filter(|outcome| outcome.name == name && outcome.family == family)
            .collect();
        // A logarithmic axis has no place for 0.
        let points = of_line
            .iter()
            .map(|outcome| (outcome.prefixes as f64, outcome.rounds.net().median.max(1.0)));
        let targets =
            of_line.iter().filter_map(|outcome| Some((outcome.prefixes as f64, outcome.target()?)));
        Line { name: title.to_owned(), points: points.collect(), targets: targets.collect() }
    };
    let mut lines: Vec<Line> = CASES.iter().map(|(name, title)| line(name, title)).collect();
    lines.push(line("trie-allowed-uniform", "bare trie, drawn from all prefixes"));
    lines.push(line("trie-denied-near", "bare trie, denied beside an address"));
    LineChart {
        title: format!("{}: ns for one packet, net of the floor", family.name()),
        x: "prefixes".to_owned(),
        x_scale: Scale::Logarithmic,
        y: "ns".to_owned(),
        y_scale: Scale::Logarithmic,
        lines,
    }
}
