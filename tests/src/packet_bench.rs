// SPDX-License-Identifier: MIT OR Apache-2.0
//! What judging one packet costs, in nanoseconds, by the number of prefixes and by what becomes of
//! the packet.
//!
//! The kernel runs the very programs that are attached to NICs (`BPF_PROG_TEST_RUN`), many packets in
//! a row, and takes the time itself. A feeder in front gives each run another packet
//! (`generator-ebpf/src/feed.rs`). All times are *net of the floor*: what the same packets cost where the
//! program behind the feeder only passes is subtracted, of the same round.
//!
//! Other processes share the machine, and can only make it slower. So each case is measured in slices of
//! 65,536 packets, and of the slices of a round the fastest counts; rounds go through all cases in turn, and
//! the median over the rounds is what is reported, beside the least and the most. The kernel tells the
//! time for a packet in whole nanoseconds, so that differences of less than two mean nothing.
//!
//! A case also says what must become of each of its packets. All are counted by the program under
//! measurement, and a single one that isn't counted where it belongs fails the benchmark.

mod feeder;
mod peer;
mod prefixes;
mod results;
mod setting;
mod steps;

use std::{net::IpAddr, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::{
    egress::Side,
    verdict::{DropReason, PassReason},
    wire::{FIRST_MATCH, FlowKey, SAMPLED},
};

use self::{
    feeder::{Feeder, Kind, Measured, Region, Tuple},
    peer::Peer,
    prefixes::{Family, Mixture, Random},
    results::Outcome,
    setting::{INSIDE, OUTSIDE, Setting, Size},
};
use crate::{frames, report::Report};

/// Packets in a slice.
const SLICE: u32 = 1 << 16;

/// Draws from a few destinations, and from the Zipf distribution.
const HOT_DRAWS: usize = 1 << 12;
const ZIPF_DRAWS: usize = 1 << 16;

/// Destinations of those.
const HOT: usize = 64;
const ZIPF: usize = 4096;

/// Where every generator of numbers begins.
const SEED: u64 = 1;

/// XDP actions.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of prefixes of each family.
    pub sizes: Vec<usize>,
    /// How often each case has its turn.
    pub rounds: u32,
    /// Slices of a case in a round; half of them for the floor, which cases with the same packets share.
    pub slices: u32,
    /// Different packets of a case that has many, a power of two.
    pub packets: usize,
    /// Flows to answer to.
    pub flows: Vec<u32>,
    /// Which cases the kernel's own look-up is measured with, too.
    pub bare: Bare,
}

/// Cases of the kernel's own look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bare {
    /// All cases by prefixes.
    All,
    /// Those that it takes longest for.
    Slowest,
}

/// One case: a program, its packets, and what becomes of them.
struct Case {
    outcome: Outcome,
    region: Region,
    program: Measured,
    expected: Expected,
    /// Whose program it is, where it isn't ours.
    peer: Option<Peer>,
}

/// What becomes of every packet of a case.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// A rule lets it pass.
    Permit,
    /// It passes otherwise.
    Pass(PassReason),
    /// It is dropped.
    Drop(DropReason),
    /// It gets this XDP action, and the peer counts it.
    Peer(u32),
    /// It gets this XDP action, and nobody counts; the last packet of a slice stands for all.
    Uncounted(u32),
}

// === impl Options ===

impl Options {
    /// Everything, for a quarter of an hour.
    #[must_use]
    pub fn full() -> Self {
        Self {
            sizes: vec![1_000, 100_000, 1_000_000],
            rounds: 7,
            slices: 16,
            packets: 1 << 20,
            flows: vec![1_000, 1_000_000],
            bare: Bare::All,
        }
    }

    /// Less than a minute's worth.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            sizes: vec![1_000, 100_000],
            rounds: 3,
            slices: 2,
            packets: 1 << 17,
            flows: vec![1_000],
            bare: Bare::Slowest,
        }
    }
}

/// Measures all cases.
///
/// # Errors
///
/// The kernel refuses a program or a map, or a packet had another verdict than it should.
pub fn measure(options: &Options) -> Result<Report> {
    let mut outcomes = Vec::new();
    for size in &options.sizes {
        outcomes.extend(by_prefixes(options, *size)?);
    }
    outcomes.extend(many_groups(options)?);
    outcomes.extend(replies(options)?);
    outcomes.extend(beside_peers(options)?);
    results::report(options, &outcomes)
}

/// What becomes of packets to many kinds of destinations, and what the kernel's own look-up of them costs.
fn by_prefixes(options: &Options, prefixes: usize) -> Result<Vec<Outcome>> {
    let random = &mut Random::new(SEED);
    let size = Size { prefixes, mixture: Mixture::Half, groups: 3, outside: false, flows: 0 };
    let setting = set_up(size, random)?;
    let many = u32::try_from(options.packets)?;
    let few = u32::try_from(HOT_DRAWS + ZIPF_DRAWS)?;
    let mut feeder = Feeder::load(2 * (3 * many + few), u32::try_from(prefixes)? + 1)?;
    let mut cases = Vec::new();
    for family in Family::BOTH {
        let own = setting.prefixes.get(&family).context("no prefixes of a family")?;
        feeder.fill_tries(&own.all()?)?;
        let bare = match family {
            Family::V4 => "trie4",
            Family::V6 => "trie6",
        };
        let hot: Vec<u128> = (0..HOT).map(|_| own.allowed(random)).collect::<Result<_>>()?;
        let zipf: Vec<u128> = (0..ZIPF).map(|_| own.allowed(random)).collect::<Result<_>>()?;
        let ranks = zipf_ranks(ZIPF);
        let hot = draw(HOT_DRAWS, || random_of(&setting, family, random, |r| r.pick(&hot)))?;
        let zipf = draw(ZIPF_DRAWS, || {
            random_of(&setting, family, random, |r| pick_ranked(&zipf, &ranks, r))
        })?;
        let uniform =
            draw(options.packets, || random_of(&setting, family, random, |r| own.allowed(r)))?;
        let near = draw(options.packets, || {
            let destination = own.denied_near(random)?;
            Ok(tuple(setting.client(family, random)?, family.address(destination), random))
        })?;
        let far = draw(options.packets, || {
            let destination = own.denied_far(random);
            Ok(tuple(setting.client(family, random)?, family.address(destination), random))
        })?;
        let denied = Expected::Drop(DropReason::NotListed);
        for (name, tuples, expected) in [
            ("allowed-hot", hot, Expected::Permit),
            ("allowed-zipf", zipf, Expected::Permit),
            ("allowed-uniform", uniform, Expected::Permit),
            ("denied-near", near, denied),
            ("denied-far", far, denied),
        ] {
            let region = feeder.prepare(family, frame(family)?, &tuples)?;
            let program = Measured::by_id(setting.program(Side::Inside)?.id, Kind::Frags)?;
            let outcome = Outcome::new(name, family, &size);
            cases.push(Case::new(outcome, &region, program, expected));
            if options.bare == Bare::All || ["allowed-uniform", "denied-near"].contains(&name) {
                let program = feeder.own(bare, Kind::Frags)?;
                let outcome = Outcome::new(&format!("trie-{name}"), family, &size);
                let action = if let Expected::Permit = expected { XDP_PASS } else { XDP_DROP };
                cases.push(Case::new(outcome, &region, program, Expected::Uncounted(action)));
            }
            if options.sizes.first() == Some(&prefixes) {
                for (number, step) in steps::of(name) {
                    let program = steps::load(&setting.pins, INSIDE, *number)?;
                    let outcome = Outcome::new(&format!("{name}-step-{step}"), family, &size);
                    cases.push(Case::new(outcome, &region, program, Expected::Uncounted(XDP_PASS)));
                }
            }
        }
    }
    run(options, &mut feeder, setting, cases)
}

/// Few prefixes and many source groups.
fn many_groups(options: &Options) -> Result<Vec<Outcome>> {
    let random = &mut Random::new(SEED);
    let size =
        Size { prefixes: 1_000, mixture: Mixture::Half, groups: 1_024, outside: false, flows: 0 };
    let setting = set_up(size, random)?;
    let mut feeder = Feeder::load(2 * u32::try_from(ZIPF_DRAWS)?, 1)?;
    let mut cases = Vec::new();
    for family in Family::BOTH {
        let own = setting.prefixes.get(&family).context("no prefixes of a family")?;
        let hot: Vec<u128> = (0..HOT).map(|_| own.allowed(random)).collect::<Result<_>>()?;
        // Enough packets that clients of all groups come.
        let hot = draw(ZIPF_DRAWS, || random_of(&setting, family, random, |r| r.pick(&hot)))?;
        let region = feeder.prepare(family, frame(family)?, &hot)?;
        let program = Measured::by_id(setting.program(Side::Inside)?.id, Kind::Frags)?;
        let outcome = Outcome::new("groups-allowed-hot", family, &size);
        cases.push(Case::new(outcome, &region, program, Expected::Permit));
    }
    run(options, &mut feeder, setting, cases)
}

/// Replies that enter an outside NIC.
fn replies(options: &Options) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for wanted in &options.flows {
        let flows = *wanted;
        let random = &mut Random::new(SEED);
        let size =
            Size { prefixes: 1_000, mixture: Mixture::Half, groups: 3, outside: true, flows };
        let mut setting = set_up(size, random)?;
        let keys = setting.open_flows(flows, random)?;
        let packets = keys.len().next_power_of_two();
        let mut feeder = Feeder::load(u32::try_from(packets)?, 1)?;
        let tuples = draw(packets, || Ok(reply_to(&random.pick(&keys)?)))?;
        let region = feeder.prepare(Family::V4, frame(Family::V4)?, &tuples)?;
        let program = Measured::by_id(setting.program(Side::Outside)?.id, Kind::Frags)?;
        let there = u32::try_from(keys.len())?;
        let outcome = Outcome::of_flows("reply", (*wanted, there), &size);
        let reply = Expected::Pass(PassReason::Reply);
        let mut cases = vec![Case::new(outcome, &region, program, reply)];
        for (number, step) in [steps::PARSE, steps::FLOW] {
            let program = steps::load(&setting.pins, OUTSIDE, number)?;
            let outcome = Outcome::of_flows(&format!("reply-step-{step}"), (*wanted, there), &size);
            cases.push(Case::new(outcome, &region, program, Expected::Uncounted(XDP_PASS)));
        }
        outcomes.extend(run(options, &mut feeder, setting, cases)?);
    }
    Ok(outcomes)
}

/// The same packets as xdp-filter gets, with the same addresses allowed.
fn beside_peers(options: &Options) -> Result<Vec<Outcome>> {
    let random = &mut Random::new(SEED);
    let size =
        Size { prefixes: 1_000, mixture: Mixture::Addresses, groups: 3, outside: false, flows: 0 };
    let setting = set_up(size, random)?;
    let family = Family::V4;
    let own = setting.prefixes.get(&family).context("no prefixes of a family")?;
    let allowed = draw(ZIPF_DRAWS, || random_of(&setting, family, random, |r| own.allowed(r)))?;
    let denied = draw(ZIPF_DRAWS, || {
        let destination = own.denied_near(random)?;
        Ok(tuple(setting.client(family, random)?, family.address(destination), random))
    })?;
    let mut feeder = Feeder::load(2 * u32::try_from(ZIPF_DRAWS)?, 1)?;
    let addresses: Vec<IpAddr> = own.singles.iter().map(|single| family.address(*single)).collect();
    let drop = Expected::Drop(DropReason::NotListed);
    let mut cases = Vec::new();
    for (what, tuples, expected, action) in
        [("allowed", allowed, Expected::Permit, XDP_PASS), ("denied", denied, drop, XDP_DROP)]
    {
        let region = feeder.prepare(family, frame(family)?, &tuples)?;
        let program = Measured::by_id(setting.program(Side::Inside)?.id, Kind::Frags)?;
        let outcome = Outcome::new(&format!("addresses-{what}"), family, &size);
        cases.push(Case::new(outcome, &region, program, expected));
        for (name, program) in peer::PROGRAMS {
            let Some((peer, program)) = Peer::load(program, &addresses)? else { continue };
            let outcome = Outcome::new(&format!("{name}-{what}"), family, &size);
            let case = Case::new(outcome, &region, program, Expected::Peer(action));
            cases.push(Case { peer: Some(peer), ..case });
        }
    }
    run(options, &mut feeder, setting, cases)
}

fn set_up(size: Size, random: &mut Random) -> Result<Setting> {
    let begin = Instant::now();
    let setting = Setting::new(size, random)?;
    eprintln!(
        "{} prefixes of each family, {} groups: compiled in {:.1} s, written in {:.1} s, {:.1} s in all",
        size.prefixes,
        size.groups,
        setting.build.compile.as_secs_f64(),
        setting.build.write.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    Ok(setting)
}

/// Goes through all cases in turn, round by round.
fn run(
    options: &Options,
    feeder: &mut Feeder,
    mut setting: Setting,
    mut cases: Vec<Case>,
) -> Result<Vec<Outcome>> {
    let plain = feeder.own("pass", Kind::Plain)?;
    let frags = feeder.own("pass_frags", Kind::Frags)?;
    for round in 0..options.rounds {
        let mut last = None;
        for case in &mut cases {
            let kind = case.program.kind();
            let floor = match last {
                Some((region, of, floor)) if (region, of) == (case.region.number(), kind) => floor,
                _ => {
                    let empty = match kind {
                        Kind::Plain => &plain,
                        Kind::Frags => &frags,
                    };
                    let slices = (options.slices / 2).max(2);
                    time(feeder, empty, &case.region, slices, XDP_PASS)?
                }
            };
            last = Some((case.region.number(), kind, floor));
            let gross = case
                .time(feeder, &mut setting, options.slices)
                .with_context(|| format!("{}, round {round}", case.outcome))?;
            case.outcome.rounds.push(gross, floor);
        }
    }
    Ok(cases.into_iter().map(|case| case.outcome).collect())
}

// === impl Case ===

impl Case {
    fn new(outcome: Outcome, region: &Region, program: Measured, expected: Expected) -> Self {
        Self { outcome, region: region.clone(), program, expected, peer: None }
    }

    /// The time for one packet, floor included, in nanoseconds.
    fn time(&self, feeder: &mut Feeder, setting: &mut Setting, slices: u32) -> Result<f64> {
        let (side, action) = match self.expected {
            Expected::Permit => (Side::Inside, XDP_PASS),
            Expected::Pass(_) => (Side::Outside, XDP_PASS),
            Expected::Drop(_) => (Side::Inside, XDP_DROP),
            Expected::Peer(action) => return self.time_of_peer(feeder, slices, action),
            Expected::Uncounted(action) => {
                return time(feeder, &self.program, &self.region, slices, action);
            }
        };
        setting.drain();
        let before = setting.counted(side)?;
        let time = time(feeder, &self.program, &self.region, slices, action)?;
        let counted = setting.counted(side)?.since(&before);
        let packets = u64::from(slices + 1) * u64::from(SLICE);
        let right = |counter: u32| match self.expected {
            Expected::Permit => counter >= FIRST_MATCH,
            Expected::Pass(reason) => counter == u32::from(reason.code()),
            Expected::Drop(reason) => counter == u32::from(reason.code()),
            Expected::Peer(_) | Expected::Uncounted(_) => false,
        };
        let expected: u64 =
            counted.iter().filter(|(counter, _)| right(**counter)).map(|(_, count)| count).sum();
        let others: Vec<String> = counted
            .iter()
            .filter(|(counter, _)| !right(**counter) && **counter != SAMPLED)
            .map(|(counter, count)| format!("{count} at the counter {counter}"))
            .collect();
        if expected != packets || !others.is_empty() {
            bail!(
                "of {packets} packets, {expected} were judged as expected ({:?}): {}",
                self.expected,
                others.join(", ")
            );
        }
        Ok(time)
    }

    fn time_of_peer(&self, feeder: &mut Feeder, slices: u32, action: u32) -> Result<f64> {
        let peer = self.peer.as_ref().context("there is no peer")?;
        let before = peer.counted()?;
        let time = time(feeder, &self.program, &self.region, slices, action)?;
        let packets = u64::from(slices + 1) * u64::from(SLICE);
        for ((number, now), then) in (0..).zip(peer.counted()?).zip(before) {
            let expected = if number == action { packets } else { 0 };
            let counted = now - then;
            ensure!(counted == expected, "the peer gave {counted} packets the action {number}");
        }
        Ok(time)
    }
}

/// The time for one packet, in nanoseconds, in the fastest of some slices.
fn time(
    feeder: &mut Feeder,
    program: &Measured,
    region: &Region,
    slices: u32,
    action: u32,
) -> Result<f64> {
    feeder.aim(program, region)?;
    // The first one also brings everything into the caches that stays there.
    let mut fastest = f64::INFINITY;
    for slice in 0..=slices {
        let (last, time) = feeder.run(program.kind(), region, SLICE)?;
        ensure!(last == action, "the XDP action is {last}, not {action}");
        if slice > 0 {
            fastest = fastest.min(time.as_secs_f64() * 1e9);
        }
    }
    Ok(fastest)
}

/// A frame of the usual form, of which the feeder replaces addresses and ports.
fn frame(family: Family) -> Result<Vec<u8>> {
    frames::frame(match family {
        Family::V4 => "ip 10.0.0.1 > 192.0.2.1 | tcp 40000 > 443 flags=a | data 10",
        Family::V6 => "ip fd00::1 > 2001:db8::1 | tcp 40000 > 443 flags=a",
    })
}

fn draw(count: usize, mut one: impl FnMut() -> Result<Tuple>) -> Result<Vec<Tuple>> {
    (0..count).map(|_| one()).collect()
}

/// A packet that is allowed to a destination that is drawn.
fn random_of(
    setting: &Setting,
    family: Family,
    random: &mut Random,
    destination: impl FnOnce(&mut Random) -> Result<u128>,
) -> Result<Tuple> {
    let destination = destination(random)?;
    let client = setting.client_for(family, destination, random)?;
    Ok(tuple(client, family.address(destination), random))
}

/// A client's packet to port 443.
fn tuple(source: IpAddr, destination: IpAddr, random: &mut Random) -> Tuple {
    let port = u16::try_from(32_768 + random.below(28_000)).unwrap_or(u16::MAX);
    packed(source, destination, [port, 443])
}

/// What comes back in a flow.
fn reply_to(key: &FlowKey) -> Tuple {
    let address = |bytes: &[u8; 16]| {
        let [a, b, c, d, ..] = *bytes;
        IpAddr::from([a, b, c, d])
    };
    packed(address(&key.remote), address(&key.local), [key.remote_port, key.local_port])
}

/// Bytes as they stand in the frame.
fn packed(source: IpAddr, destination: IpAddr, ports: [u16; 2]) -> Tuple {
    let mut bytes = [0; 40];
    let (addresses, rest) = bytes.split_at_mut(32);
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let both = octets(source).into_iter().chain(octets(destination));
    for (to, from) in addresses.iter_mut().zip(both) {
        *to = from;
    }
    for (to, from) in rest.iter_mut().zip(ports.into_iter().flat_map(u16::to_be_bytes)) {
        *to = from;
    }
    let mut tuple = [0; 5];
    for (word, bytes) in tuple.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    tuple
}

/// The sums of 1, 1/2, 1/3 and so on.
fn zipf_ranks(count: usize) -> Vec<f64> {
    let mut sum = 0.0;
    let one = |rank: usize| {
        sum += 1.0 / rank as f64;
        sum
    };
    (1..=count).map(one).collect()
}

fn pick_ranked(from: &[u128], ranks: &[f64], random: &mut Random) -> Result<u128> {
    let most = ranks.last().context("there are no ranks")?;
    let drawn = random.below(1 << 52) as f64 / (1_u64 << 52) as f64 * most;
    let rank = ranks.partition_point(|sum| *sum <= drawn);
    from.get(rank).copied().context("there is no such rank")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_stand_as_in_a_frame() {
        let tuple = packed("10.1.2.3".parse().unwrap(), "9.8.7.6".parse().unwrap(), [0x1234, 443]);
        let bytes: Vec<u8> = tuple.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes[..8], [10, 1, 2, 3, 9, 8, 7, 6]);
        assert_eq!(bytes[32..36], [0x12, 0x34, 443_u16.to_be_bytes()[0], 443_u16.to_be_bytes()[1]]);
    }

    #[test]
    fn first_ranks_are_drawn_most() {
        let (from, ranks): (Vec<u128>, _) = ((0..ZIPF as u128).collect(), zipf_ranks(ZIPF));
        let mut random = Random::new(SEED);
        let drawn: Vec<u128> =
            (0..10_000).map(|_| pick_ranked(&from, &ranks, &mut random).unwrap()).collect();
        let first = drawn.iter().filter(|rank| **rank == 0).count();
        // 1 / (1 + 1/2 + ... + 1/4096) is 0.113.
        assert!((1_000..1_260).contains(&first), "{first}");
    }

    /// Loads programs, and needs root.
    #[test]
    fn a_single_wrong_verdict_is_found() {
        let random = &mut Random::new(SEED);
        let size =
            Size { prefixes: 100, mixture: Mixture::Half, groups: 3, outside: false, flows: 0 };
        let mut setting = set_up(size, random).unwrap();
        let mut feeder = Feeder::load(1 << 10, 1).unwrap();
        let own = &setting.prefixes[&Family::V4];
        let mut tuples =
            draw(1 << 10, || random_of(&setting, Family::V4, random, |random| own.allowed(random)))
                .unwrap();
        let check = |tuples: &[Tuple], setting: &mut Setting, feeder: &mut Feeder| {
            let region = feeder.prepare(Family::V4, frame(Family::V4).unwrap(), tuples).unwrap();
            let id = setting.program(Side::Inside).unwrap().id;
            let program = Measured::by_id(id, Kind::Frags).unwrap();
            let outcome = Outcome::new("allowed-hot", Family::V4, &size);
            Case::new(outcome, &region, program, Expected::Permit).time(feeder, setting, 1)
        };
        assert!(check(&tuples, &mut setting, &mut feeder).unwrap() > 0.0);
        // Not the last of them, whose XDP action is seen.
        let far = setting.prefixes[&Family::V4].denied_far(random);
        tuples[17] = tuple("10.0.0.9".parse().unwrap(), Family::V4.address(far), random);
        let mut feeder = Feeder::load(1 << 10, 1).unwrap();
        let error = check(&tuples, &mut setting, &mut feeder).unwrap_err().to_string();
        // Two slices, the one that warms up included.
        assert!(error.contains("128 at the counter 64"), "{error}");
    }
}
