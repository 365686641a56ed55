// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arithmetic with addresses and ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::policy::{Echo, PortRange, PortRanges, Ports};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// Addresses from `first` to `last`, both in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    family: Family,
    first: u128,
    last: u128,
}

/// Addresses as runs: sorted, no two of them touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(Vec<Run>);

// === impl Run ===

impl From<&IpNet> for Run {
    fn from(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(prefix) => Self {
                family: Family::V4,
                first: u32::from(prefix.network()).into(),
                last: u32::from(prefix.broadcast()).into(),
            },
            IpNet::V6(prefix) => Self {
                family: Family::V6,
                first: prefix.network().into(),
                last: prefix.broadcast().into(),
            },
        }
    }
}

// === impl Runs ===

impl Runs {
    /// Adds a run that starts behind all that are there.
    pub(super) fn push(&mut self, run: Run) {
        match self.0.last_mut() {
            Some(last)
                if last.family == run.family && last.last.checked_add(1) == Some(run.first) =>
            {
                last.last = run.last;
            }
            _ => self.0.push(run),
        }
    }

    /// The fewest prefixes that make them up, in order.
    pub(super) fn prefixes(&self) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        for run in &self.0 {
            match run.family {
                Family::V4 => {
                    let address = |bits| Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX));
                    let subnets = Ipv4Subnets::new(address(run.first), address(run.last), 0);
                    prefixes.extend(subnets.map(IpNet::V4));
                }
                Family::V6 => {
                    let (first, last) = (Ipv6Addr::from(run.first), Ipv6Addr::from(run.last));
                    prefixes.extend(Ipv6Subnets::new(first, last, 0).map(IpNet::V6));
                }
            }
        }
        prefixes
    }
}

// === addresses ===

/// Goes over the addresses of prefixes from low to high and hands on each run of them that lie in
/// the same prefixes, with whom these belong to. What nobody has is passed over.
pub(super) fn walk<'a>(
    prefixes: impl Iterator<Item = (&'a IpNet, usize)>,
    mut each: impl FnMut(Run, &BTreeMap<usize, usize>),
) {
    // Behind the last IPv6 address nothing begins, so that what ends there needs no edge.
    let mut edges: Vec<(Family, u128, Edge, usize)> = Vec::new();
    for (prefix, owner) in prefixes {
        let run = Run::from(prefix);
        edges.push((run.family, run.first, Edge::Begins, owner));
        if let Some(behind) = run.last.checked_add(1) {
            edges.push((run.family, behind, Edge::Ended, owner));
        }
    }
    edges.sort_unstable();
    // How many prefixes of each owner hold the address.
    let mut active: BTreeMap<usize, usize> = BTreeMap::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((family, at, edge, owner)) = edges.next() {
        match edge {
            Edge::Begins => *active.entry(owner).or_insert(0) += 1,
            Edge::Ended => {
                if let Some(count) = active.get_mut(&owner) {
                    *count -= 1;
                    if *count == 0 {
                        active.remove(&owner);
                    }
                }
            }
        }
        let next = edges.peek().map(|(family, at, _, _)| (*family, *at));
        if next == Some((family, at)) || active.is_empty() {
            continue;
        }
        let last = match next {
            Some((next_family, next)) if next_family == family => next.saturating_sub(1),
            _ => u128::MAX,
        };
        each(Run { family, first: at, last }, &active);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Begins,
    Ended,
}

// === ports ===

/// What either allows.
pub(super) fn union(left: &Ports, right: &Ports) -> Ports {
    let both = |left: &PortRanges, right: &PortRanges| {
        left.ranges().iter().chain(right.ranges()).copied().collect()
    };
    Ports {
        tcp: both(&left.tcp, &right.tcp),
        udp: both(&left.udp, &right.udp),
        echo: if left.echo == Echo::Allowed { Echo::Allowed } else { right.echo },
        protocols: left.protocols.union(&right.protocols).copied().collect(),
    }
}

/// What the first allows and the second doesn't.
pub(super) fn minus(left: &Ports, right: &Ports) -> Ports {
    Ports {
        tcp: ranges_minus(&left.tcp, &right.tcp),
        udp: ranges_minus(&left.udp, &right.udp),
        echo: if right.echo == Echo::Allowed { Echo::Denied } else { left.echo },
        protocols: left.protocols.difference(&right.protocols).copied().collect(),
    }
}

/// What both allow.
pub(super) fn intersection(left: &Ports, right: &Ports) -> Ports {
    minus(left, &minus(left, right))
}

/// What isn't a port, by name.
pub(super) fn others(ports: &Ports) -> Vec<String> {
    let echo = (ports.echo == Echo::Allowed).then(|| "icmp".to_owned());
    echo.into_iter().chain(ports.protocols.iter().map(ToString::to_string)).collect()
}

fn ranges_minus(left: &PortRanges, right: &PortRanges) -> PortRanges {
    let mut rest = Vec::new();
    let mut taken = right.ranges().iter().copied().peekable();
    for range in left.ranges() {
        let mut first = u32::from(range.first());
        let last = u32::from(range.last());
        while let Some(cut) = taken.peek() {
            let (cut_first, cut_last) = (u32::from(cut.first()), u32::from(cut.last()));
            if cut_first > last {
                break;
            }
            if cut_first > first {
                rest.extend(port_range(first, cut_first - 1));
            }
            first = first.max(cut_last + 1);
            if cut_last > last {
                break;
            }
            taken.next();
        }
        rest.extend(port_range(first, last));
    }
    rest.into_iter().collect()
}

fn port_range(first: u32, last: u32) -> Option<PortRange> {
    PortRange::new(u16::try_from(first).ok()?, u16::try_from(last).ok()?)
}

/// Names without those of another set.
pub(super) fn names_minus(left: &BTreeSet<String>, right: &BTreeSet<String>) -> Vec<String> {
    left.difference(right).cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(bits: u16) -> PortRanges {
        (0..16)
            .filter(|bit| bits & (1 << bit) != 0)
            .filter_map(|bit| PortRange::new(bit + 1, bit + 1))
            .collect()
    }

    #[test]
    fn the_ends_of_the_address_space() {
        let all: Vec<IpNet> = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]
            .map(|text| text.parse().unwrap())
            .into();
        let mut runs = Runs::default();
        walk(all.iter().map(|prefix| (prefix, 0)), |run, _| runs.push(run));
        let shown: Vec<String> = runs.prefixes().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["0.0.0.0/0", "::/0"]);
    }

    proptest! {
        #[test]
        fn ports_without_others(left: u16, right: u16) {
            prop_assert_eq!(ranges_minus(&ranges(left), &ranges(right)), ranges(left & !right));
        }
    }
}
