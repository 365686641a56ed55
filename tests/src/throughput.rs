// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many packets a second get through the lab's gateway, and how many denied ones it gets rid of: Sluice
//! beside empty programs and beside other filters with the same 1,000 addresses.
//!
//! Each contender has a lab of its own, and all take turns, so that what else the machine does meets
//! each of them. In every run every packet is accounted for: a wrong verdict ends the benchmark.

mod contender;
mod counters;
pub mod generate;
mod lane;
mod page;
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use nix::{sched::sched_getaffinity, unistd::Pid};
use serde::Serialize;

use self::lane::{Lane, Processors, Sample};
pub use self::{contender::Contender, page::report, tools::Tool};
use crate::{
    generator::live::{Size, Traffic, Transport, Way},
    report::{Better, Goal, Machine},
    topology::{Clients, Topology},
};

/// How many addresses are allowed.
const ALLOWED: usize = 1000;

/// To how many addresses denied packets go.
const DENIED: usize = 16_384;

/// Sources of allowed packets, each with one port: with the destinations, 16,000 flows.
const FEW_SOURCES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 32, 0, 0), 28);

/// Sources of denied packets, and ports of each.
const MANY_SOURCES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 32, 0, 0), 16);
const MANY_PORTS: u16 = 1 << 14;

/// A rate this near to the generator's is the generator's, not the contender's.
const NEAR: f64 = 1.2;

/// A gateway whose processor works for less of the time could have done more: what came in is what
/// the generator sent, or had to leave out while something else had its processor.
const BUSY: f64 = 0.9;

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// How often each contender has its turn with each kind of traffic.
    pub rounds: u32,
    /// How long it is measured then.
    pub time: Duration,
    /// Whether all kinds of traffic are sent, or only the smallest packets.
    pub kinds: Kinds,
}

/// Which kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// All.
    All,
    /// Small UDP packets, denied and allowed.
    Small,
}

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// What the policy says of it.
    pub judgement: Judgement,
    /// What packets carry.
    pub transport: Transport,
    /// How long they are.
    pub size: Size,
}

/// What the policy says of a kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judgement {
    /// None of it is allowed.
    Denied,
    /// All of it is.
    Allowed,
}

/// The middle of several measurements, and their extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

/// What became of one kind of traffic at one contender.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The traffic.
    pub kind: Kind,
    /// Who judged it.
    pub contender: Contender,
    /// Packets a second: judged ones if they are dropped, arrived ones if they pass.
    pub rate: Spread,
    /// Processor time of the gateway for a packet, in nanoseconds.
    pub cost: Spread,
    /// The part of the time in which the gateway's processor worked, at most.
    pub busy: f64,
    /// The part of the packets that passed and then found a queue of the kernel full, at most.
    pub lost: f64,
    /// Whether the generator was what it was limited by, so that the rate is a lower bound.
    pub limited: bool,
}

/// A transfer by somebody else's tool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ToolRow {
    /// The tool.
    pub tool: Tool,
    /// Who judged it.
    pub contender: Contender,
    /// In the tool's unit.
    pub rate: Spread,
    /// Processor time of the gateway for a packet, in nanoseconds, where the gateway's alone is
    /// known.
    pub cost: Option<Spread>,
}

/// A ratio that is aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    /// Of which traffic.
    pub kind: Kind,
    /// Whose rate.
    pub ours: Contender,
    /// In terms of whose.
    pub theirs: Contender,
    /// What it is, and what it should be.
    pub goal: Goal,
    /// The same of the processor time that a packet takes, theirs in terms of ours.
    pub by_cost: Option<f64>,
    /// Whether ours was held up by the generator, so that the ratio of rates is at least this.
    pub limited: bool,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Where, as it was before.
    pub machine: Machine,
    /// How.
    pub effort: Effort,
    /// By the generator.
    pub rows: Vec<Row>,
    /// By the tools.
    pub tools: Vec<ToolRow>,
    /// Sluice against the others.
    pub aims: Vec<Aim>,
    /// Why there is nothing by the tools: one failed, or a packet of theirs met a wrong verdict.
    pub failure: Option<String>,
}

/// Denied traffic: Sluice's rate in terms of another's.
const DENIED_AIMS: [(Contender, f64); 6] = [
    (Contender::Drop, 0.75),
    (Contender::DropReading, 0.75),
    (Contender::XdpFilter, 1.5),
    (Contender::NftIngress, 4.0),
    (Contender::NftForward, 6.0),
    (Contender::Ipset, 6.0),
];

/// Allowed traffic: like against like.
const ALLOWED_AIMS: [(Contender, Contender); 2] =
    [(Contender::Sluice, Contender::NftForward), (Contender::SluiceFlows, Contender::NftState)];

/// Measures everything.
///
/// # Errors
///
/// If a program isn't there, or a packet meets a wrong verdict.
pub fn measure(effort: Effort) -> Result<Measured> {
    contender::find_peers()?;
    let mut machine = Machine::at_hand();
    for (package, _) in contender::PACKAGES {
        machine.peer(package);
    }
    let processors = processors()?;
    let kinds = effort.kinds.list();
    let allowed = allowed();
    let topologies: Vec<_> = Contender::ALL
        .iter()
        .map(|contender| Ok((*contender, Topology::new(Clients::One)?)))
        .collect::<Result<_>>()?;
    let mut lanes = Vec::new();
    for (contender, topology) in &topologies {
        let lane = Lane::new(*contender, topology, &allowed, &kinds, processors)
            .with_context(|| format!("preparing {contender}"))?;
        lanes.push(lane);
    }
    let mut samples: BTreeMap<(Kind, Contender), Vec<Sample>> = BTreeMap::new();
    for round in 1..=effort.rounds {
        for kind in &kinds {
            for lane in lanes.iter().filter(|lane| kind.concerns(lane.contender)) {
                let sample = lane.generate(*kind, effort.time)?;
                samples.entry((*kind, lane.contender)).or_default().push(sample);
            }
        }
        eprintln!("round {round} of {}", effort.rounds);
        // Whoever was first is last in the next round.
        lanes.rotate_left(1);
    }
    let rows = rows(&samples)?;
    let aims = aims(&rows);
    let (tools, failure) = match tools::measure(&mut lanes, &allowed, effort) {
        Ok(tools) => (tools, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    Ok(Measured { machine, effort, rows, tools, aims, failure })
}

/// The processors for generator and gateway: the first and the last of those that may be used.
fn processors() -> Result<Processors> {
    let usable = sched_getaffinity(Pid::from_raw(0)).context("the usable processors")?;
    let usable: Vec<_> =
        (0..nix::sched::CpuSet::count()).filter(|cpu| usable.is_set(*cpu) == Ok(true)).collect();
    let (Some(first), Some(last)) = (usable.first(), usable.last()) else {
        anyhow::bail!("no processor may be used");
    };
    ensure!(first != last, "generator and gateway need a processor each, and there is only one");
    Ok(Processors { generator: *first, gateway: *last })
}

fn rows(samples: &BTreeMap<(Kind, Contender), Vec<Sample>>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for ((kind, contender), samples) in samples {
        let passes = kind.passes(*contender);
        let rate = |sample: &Sample| if passes { sample.arrived } else { sample.judged };
        let most = |value: fn(&Sample) -> f64| samples.iter().map(value).fold(0.0, f64::max);
        rows.push(Row {
            kind: *kind,
            contender: *contender,
            rate: Spread::of(samples.iter().map(rate))?,
            cost: Spread::of(samples.iter().map(|sample| sample.cost))?,
            busy: most(|sample| sample.busy),
            lost: most(|sample| sample.lost),
            limited: false,
        });
    }
    let limits: BTreeMap<_, _> = rows
        .iter()
        .filter(|row| row.contender == Contender::Drop)
        .map(|row| (row.kind, row.rate.median))
        .collect();
    for row in &mut rows {
        let limit = limits.get(&row.kind).copied().unwrap_or(f64::INFINITY);
        row.limited = row.rate.median * NEAR >= limit || row.busy < BUSY;
    }
    Ok(rows)
}

fn aims(rows: &[Row]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for kind in rows.iter().map(|row| row.kind).collect::<BTreeSet<_>>() {
        let pairs: Vec<_> = match kind.judgement {
            Judgement::Denied => [Contender::Sluice, Contender::SluiceFlows]
                .into_iter()
                .flat_map(|ours| DENIED_AIMS.map(|(theirs, target)| (ours, theirs, target)))
                .collect(),
            Judgement::Allowed => {
                ALLOWED_AIMS.into_iter().map(|(ours, theirs)| (ours, theirs, 1.0)).collect()
            }
        };
        for (ours, theirs, target) in pairs {
            let row = |of| rows.iter().find(|row| row.kind == kind && row.contender == of);
            let (Some(our), Some(their)) = (row(ours), row(theirs)) else { continue };
            let measured = our.rate.median / their.rate.median;
            aims.push(Aim {
                kind,
                ours,
                theirs,
                goal: Goal { measured, target, better: Better::Higher },
                by_cost: (our.cost.median > 0.0).then(|| their.cost.median / our.cost.median),
                limited: our.limited,
            });
        }
    }
    aims
}

/// Public addresses in no order, the same in each run.
fn addresses(seed: u64) -> impl Iterator<Item = Ipv4Addr> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let [first, second, third, fourth, ..] = state.to_be_bytes();
        // From 20.0.0.0 to 83.255.255.255 nothing has a special purpose.
        Ipv4Addr::new(20 + first % 64, second, third, 1 + fourth % 254)
    })
}

/// The addresses that are allowed.
fn allowed() -> Vec<Ipv4Addr> {
    let distinct: BTreeSet<_> = addresses(1).take(ALLOWED + ALLOWED / 2).collect();
    distinct.into_iter().take(ALLOWED).collect()
}

/// Addresses that aren't; every fourth is the neighbour of one that is.
fn denied(allowed: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let known: BTreeSet<_> = allowed.iter().copied().collect();
    let neighbours = allowed.iter().cycle().zip(addresses(2)).map(|(address, random)| {
        let [first, second, third, _] = address.octets();
        Ipv4Addr::new(first, second, third, random.octets()[3])
    });
    addresses(3)
        .zip(neighbours)
        .enumerate()
        .map(|(number, (anywhere, near))| if number % 4 == 0 { near } else { anywhere })
        .filter(|address| !known.contains(address))
        .take(DENIED)
        .collect()
}

// === impl Effort ===

impl Effort {
    /// For numbers that are to be shown.
    pub const FULL: Self = Self { rounds: 7, time: Duration::from_secs(1), kinds: Kinds::All };
    /// For a look.
    pub const QUICK: Self = Self { rounds: 3, time: Duration::from_secs(1), kinds: Kinds::Small };
}

impl Kinds {
    fn list(self) -> Vec<Kind> {
        let kind = |judgement, transport, size| Kind { judgement, transport, size };
        let (denied, allowed) = (Judgement::Denied, Judgement::Allowed);
        let (udp, small) = (Transport::Udp, Size::Bytes(60));
        let mut kinds = vec![kind(denied, udp, small), kind(allowed, udp, small)];
        if self == Self::All {
            kinds.extend([
                kind(denied, Transport::Syn, small),
                kind(denied, udp, Size::Mix),
                kind(allowed, udp, Size::Bytes(590)),
                kind(allowed, udp, Size::Bytes(1514)),
                kind(allowed, udp, Size::Mix),
            ]);
        }
        kinds
    }
}

// === impl Kind ===

impl Kind {
    /// What is answered, where flows have to be opened.
    const ANSWERED: Self =
        Self { judgement: Judgement::Allowed, transport: Transport::Udp, size: Size::Bytes(60) };

    /// Whether anything is to be learned from it about a contender. Dropping shows what the generator
    /// can send of any kind.
    fn concerns(self, contender: Contender) -> bool {
        match self.judgement {
            Judgement::Allowed => contender != Contender::DropReading,
            Judgement::Denied => contender.drops(),
        }
    }

    fn passes(self, contender: Contender) -> bool {
        self.judgement == Judgement::Allowed && contender.passes()
    }

    /// How many flows it has.
    fn flows(self) -> u64 {
        self.traffic(&allowed(), Way::There).flows()
    }

    fn traffic(self, allowed: &[Ipv4Addr], way: Way) -> Traffic {
        let (sources, source_ports, destinations) = match self.judgement {
            Judgement::Allowed => (FEW_SOURCES, 1, allowed.to_vec()),
            Judgement::Denied => (MANY_SOURCES, MANY_PORTS, denied(allowed)),
        };
        Traffic {
            transport: self.transport,
            size: self.size,
            sources,
            source_ports,
            destinations,
            port: contender::PORT,
            way,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judgement = match self.judgement {
            Judgement::Denied => "denied",
            Judgement::Allowed => "allowed",
        };
        write!(f, "{judgement} {}, {}", self.transport, self.size)
    }
}

// === impl Spread ===

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let above = *values.get(middle).context("nothing was measured")?;
        let below = values.get(middle.saturating_sub(1)).copied().unwrap_or(above);
        let median = if values.len() % 2 == 0 { (below + above) / 2.0 } else { above };
        let least = values.first().copied().unwrap_or(median);
        let most = values.last().copied().unwrap_or(median);
        Ok(Self { median, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied()).unwrap();
        let expected = Spread { median: 2.0, least: 1.0, most: 9.0 };
        assert_eq!(spread(&[9.0, 1.0, 2.0]), expected);
        assert_eq!(spread(&[4.0, 1.0]).median, 2.5);
        assert!(Spread::of([]).is_err());
    }

    #[test]
    fn what_is_denied_is_not_allowed() {
        let allowed = allowed();
        let distinct: BTreeSet<_> = allowed.iter().collect();
        assert_eq!(distinct.len(), ALLOWED);
        let denied = denied(&allowed);
        assert_eq!(denied.len(), DENIED);
        assert!(denied.iter().all(|address| !distinct.contains(address)));
    }
}
