// SPDX-License-Identifier: MIT OR Apache-2.0
//! Port classes: selectors that the same rules name are one class.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use filter_common::wire::{SELECTORS, SELECTORS_PER_WORD, Selector};

use crate::policy::{Echo, Ports};

/// The classes of selectors under all ports that the rules have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PortClasses {
    /// First selector of a run -> its class. The run ends where the next begins.
    runs: BTreeMap<u32, u32>,
    /// Class -> the places of the ports that name it. Class 0: none does.
    named_by: Vec<BTreeSet<usize>>,
}

/// The most places where lists of ports name a run of selectors, over all runs.
pub(super) const MAX_OVERLAPS: u32 = 1 << 22;

impl PortClasses {
    /// Numbers the classes in the order in which the selectors first show them.
    ///
    /// Where the ports overlap in more places than a policy may have there are none, and the
    /// number of places is the error: each class would hold a list as long as the policy.
    pub(super) fn new(ports: &[Ports]) -> Result<Self, u64> {
        // Where ports begin and cease to name selectors, so that only boundaries are visited.
        let mut boundaries: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::from([(0, BTreeSet::new())]);
        for (place, ports) in ports.iter().enumerate() {
            for (first, last) in selectors(ports) {
                toggle(boundaries.entry(first).or_default(), place);
                toggle(boundaries.entry(last + 1).or_default(), place);
            }
        }
        let mut open = BTreeSet::new();
        let mut overlaps = 0_u64;
        for changed in boundaries.values() {
            changed.iter().for_each(|place| toggle(&mut open, *place));
            overlaps = overlaps.saturating_add(u64::try_from(open.len()).unwrap_or(u64::MAX));
        }
        if overlaps > MAX_OVERLAPS.into() {
            return Err(overlaps);
        }
        let mut classes = HashMap::from([(BTreeSet::new(), 0)]);
        let mut named_by = vec![BTreeSet::new()];
        let mut runs = BTreeMap::new();
        let mut naming = BTreeSet::new();
        for (first, changed) in boundaries {
            for place in changed {
                toggle(&mut naming, place);
            }
            let class = *classes.entry(naming.clone()).or_insert_with(|| {
                named_by.push(naming.clone());
                u32::try_from(named_by.len() - 1).unwrap_or(u32::MAX)
            });
            runs.insert(first, class);
        }
        Ok(Self { runs, named_by })
    }

    /// How many classes there are, class 0 among them.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.named_by.len()).unwrap_or(u32::MAX)
    }

    /// Each class and the places of the ports that name it.
    pub(super) fn classes(&self) -> impl Iterator<Item = (u32, &BTreeSet<usize>)> {
        (0..).zip(&self.named_by)
    }

    /// The port-class array, without its zeros. A class that has more than 16 bits is left at 0,
    /// which allows nothing; the capacity check refuses such a policy anyway.
    pub(super) fn words(&self) -> BTreeMap<u32, u64> {
        let mut words: Vec<(u32, u64)> = Vec::new();
        let ends = self.runs.keys().skip(1).copied().chain([SELECTORS]);
        for ((first, class), end) in self.runs.iter().zip(ends) {
            let class = u64::from(u16::try_from(*class).unwrap_or(0));
            if class == 0 || *first >= end {
                continue;
            }
            // Selectors are numbered without a gap, and words hold as many of them each.
            for word in *first / SELECTORS_PER_WORD..end.div_ceil(SELECTORS_PER_WORD) {
                let start = word * SELECTORS_PER_WORD;
                let from = first.saturating_sub(start).min(SELECTORS_PER_WORD);
                let to = (end - start).min(SELECTORS_PER_WORD);
                let value =
                    (from..to).fold(0, |value, place| value | class << (place * CLASS_BITS));
                match words.last_mut() {
                    Some((last, shared)) if *last == word => *shared |= value,
                    _ => words.push((word, value)),
                }
            }
        }
        words.into_iter().collect()
    }
}

/// The bits of a class in a word.
const CLASS_BITS: u32 = u64::BITS / SELECTORS_PER_WORD;

/// The runs of selectors that ports name, first and last.
fn selectors(ports: &Ports) -> impl Iterator<Item = (u32, u32)> + '_ {
    let tcp = ports.tcp.ranges().iter();
    let tcp = tcp.map(|range| (Selector::tcp(range.first()), Selector::tcp(range.last())));
    let udp = ports.udp.ranges().iter();
    let udp = udp.map(|range| (Selector::udp(range.first()), Selector::udp(range.last())));
    let echo = match ports.echo {
        Echo::Allowed => Some((Selector::ECHO, Selector::ECHO)),
        Echo::Denied => None,
    };
    let protocols = ports.protocols.iter().map(|protocol| {
        let selector = Selector::protocol(protocol.number());
        (selector, selector)
    });
    tcp.chain(udp).chain(echo).chain(protocols).map(|(first, last)| (first.index(), last.index()))
}

/// Adds a member, or takes it out if it is there: two runs of the same ports that touch, such as
/// two protocols in a row, cancel out where one ends and the next begins.
fn toggle(set: &mut BTreeSet<usize>, member: usize) {
    if !set.insert(member) {
        set.remove(&member);
    }
}
