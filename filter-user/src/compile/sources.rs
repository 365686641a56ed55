// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zones and classes: which groups a source is in, and whether it is plausible at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use filter_common::{
    tables::Class,
    wire::{MAX_SOURCES, VLANS, zone_index},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    capacity::{Capacity, Check},
    cover,
    host::{Host, HostNic},
    meaning::ClientGroup,
    rules::{Group, Sides},
};

/// What the source tables hold, and what their classes stand for.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) zones: BTreeMap<u32, u32>,
    pub(super) sources: BTreeMap<(u32, IpNet), u32>,
    /// Class -> its groups. Class 0 is in none.
    pub(super) classes: Vec<BTreeSet<ClientGroup>>,
}

/// What (NIC, VLAN) pairs of one zone have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Zone {
    map: Arc<Map>,
    /// The places of the groups whose interface and VLAN fit.
    groups: Vec<usize>,
}

/// Where addresses live, as seen from a NIC: the longest prefix around an address tells. Around
/// an address that lives elsewhere there may be none.
type Map = BTreeMap<IpNet, Home>;

/// Where the addresses of a prefix live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Home {
    /// Behind the NIC.
    Here,
    /// Behind another interface, or on the gateway itself.
    Elsewhere,
}

/// What a source entry says.
enum Entry {
    /// The source is plausible, and in these groups.
    Groups(Vec<usize>),
    /// It isn't plausible, though a prefix around it is.
    Implausible,
}

impl Sources {
    /// Makes zones from NICs and VLANs, and refines the plausible prefixes of each by groups.
    pub(super) fn new(groups: &[Group], host: &Host, check: &mut Check) -> Self {
        let (zones, members) = zones(groups, host);
        let mut made = Self { zones, sources: BTreeMap::new(), classes: vec![BTreeSet::new()] };
        let mut classes: HashMap<Vec<usize>, u32> = HashMap::from([(Vec::new(), 0)]);
        let (mut v4, mut v6) = (0, 0);
        for (id, zone) in (1..).zip(&members) {
            for (prefix, entry) in refine(zone, groups) {
                let count = if prefix.addr().is_ipv4() { &mut v4 } else { &mut v6 };
                *count += 1;
                if *count > u64::from(MAX_SOURCES) {
                    // Only counted, for the numbers in the message.
                    continue;
                }
                let class = match entry {
                    Entry::Groups(of_source) => {
                        *classes.entry(of_source).or_insert_with_key(|of_source| {
                            let names = of_source.iter().filter_map(|group| groups.get(*group));
                            made.classes.push(names.map(|group| group.name.clone()).collect());
                            u32::try_from(made.classes.len() - 1).unwrap_or(u32::MAX)
                        })
                    }
                    Entry::Implausible => Class::NONE.0,
                };
                made.sources.insert((id, prefix), class);
            }
        }
        check.fits(Capacity::SourcesV4, v4, MAX_SOURCES);
        check.fits(Capacity::SourcesV6, v6, MAX_SOURCES);
        made
    }
}

/// The zone of each (NIC, VLAN), numbered from 1, and what each is.
fn zones(groups: &[Group], host: &Host) -> (BTreeMap<u32, u32>, Vec<Zone>) {
    let mentioned: BTreeSet<u16> =
        groups.iter().flat_map(|group| group.vlan.iter().copied()).collect();
    let mut nics: Vec<&HostNic> = host.nics.iter().collect();
    nics.sort_by_key(|nic| nic.slot);

    let mut ids: BTreeMap<Zone, u32> = BTreeMap::new();
    let mut zones = Vec::new();
    for nic in nics {
        let map = Arc::new(map(nic, host));
        let mut id_of = |vlan: Option<u16>| {
            let zone = zone(groups, nic, &map, vlan);
            let next = u32::try_from(ids.len() + 1).unwrap_or(u32::MAX);
            *ids.entry(zone).or_insert(next)
        };
        let other = id_of(None);
        for vlan in (0..=u16::MAX).take_while(|vlan| u32::from(*vlan) < VLANS) {
            let id = if mentioned.contains(&vlan) { id_of(Some(vlan)) } else { other };
            zones.push((zone_index(nic.slot.into(), vlan), id));
        }
    }
    let mut members: Vec<(Zone, u32)> = ids.into_iter().collect();
    members.sort_by_key(|(_, id)| *id);
    (zones.into_iter().collect(), members.into_iter().map(|(zone, _)| zone).collect())
}

/// Where addresses live, seen from a NIC: where routes lead, the longest first. What lies outside
/// every prefix that lives here is left out, so that NICs that don't differ share a zone.
fn map(nic: &HostNic, host: &Host) -> Map {
    let link_local = link_local();
    let local = |prefix: &IpNet| link_local.iter().any(|around| around.contains(prefix));
    // Each link has link-local addresses of its own, so routes to others say nothing of them.
    let elsewhere = nic.elsewhere.iter().map(IpNet::trunc).filter(|prefix| !local(prefix));
    let here = nic.plausible.iter().map(IpNet::trunc).chain(link_local);
    let own = host.own.iter().map(|address| IpNet::from(*address));
    let mut map: Map = elsewhere.map(|prefix| (prefix, Home::Elsewhere)).collect();
    // A route of this NIC outweighs an equal one of another, and nobody has our own addresses.
    map.extend(here.map(|prefix| (prefix, Home::Here)));
    map.extend(own.map(|prefix| (prefix, Home::Elsewhere)));

    let mut around = Around::default();
    map.retain(|prefix, home| {
        let outer = around.enter(*prefix, Some(*home));
        *home == Home::Here || outer == Some(Home::Here)
    });
    map
}

/// The zone of a NIC and a VLAN; `None` stands for every VLAN, and no VLAN, that no group names.
fn zone(groups: &[Group], nic: &HostNic, map: &Arc<Map>, vlan: Option<u16>) -> Zone {
    let fits = |group: &Group| {
        let side = match group.sides {
            Sides::Only(side) => side == nic.side,
            Sides::Both => true,
        };
        side && (group.interface.is_empty() || group.interface.contains(&nic.name))
            && (group.vlan.is_empty() || vlan.is_some_and(|vlan| group.vlan.contains(&vlan)))
    };
    Zone {
        map: Arc::clone(map),
        groups: (0..)
            .zip(groups)
            .filter(|(_, group)| fits(group))
            .map(|(place, _)| place)
            .collect(),
    }
}

/// The source prefixes of a zone, each with its groups.
///
/// A group's prefix becomes an entry only where it lies in a plausible one; a wider one only marks
/// the plausible prefixes inside it. So every entry is plausible as a whole but for the entries
/// inside it that say otherwise, and the longest entry around a source lies in the same groups as
/// the source itself.
fn refine<'a>(zone: &'a Zone, groups: &[Group]) -> impl Iterator<Item = (IpNet, Entry)> + use<'a> {
    let mut marked: BTreeMap<IpNet, Vec<usize>> =
        zone.map.keys().map(|prefix| (*prefix, Vec::new())).collect();
    let mut everywhere = Vec::new();
    for place in &zone.groups {
        match groups.get(*place) {
            Some(group) if !group.cidr.is_empty() => {
                let cidr: BTreeSet<IpNet> = group.cidr.iter().map(IpNet::trunc).collect();
                for prefix in cidr {
                    marked.entry(prefix).or_default().push(*place);
                }
            }
            Some(_) => everywhere.push(*place),
            None => {}
        }
    }
    let mut around = Around::default();
    cover::unions(marked).filter_map(move |(prefix, of_prefix)| {
        let home = zone.map.get(&prefix).copied();
        let outer = around.enter(prefix, home);
        match home.or(outer)? {
            Home::Here => {
                let mut of_source = [everywhere.as_slice(), &of_prefix].concat();
                of_source.sort_unstable();
                Some((prefix, Entry::Groups(of_source)))
            }
            // A group's prefix in there makes no difference.
            Home::Elsewhere => home.map(|_| (prefix, Entry::Implausible)),
        }
    })
}

/// The prefixes of a map that are around the one at hand, while prefixes are walked in their
/// order: whatever is around a prefix comes before it.
#[derive(Default)]
struct Around(Vec<(IpNet, Home)>);

impl Around {
    /// Goes on to a prefix, and says where the addresses of the prefix around it live.
    fn enter(&mut self, prefix: IpNet, home: Option<Home>) -> Option<Home> {
        while self.0.pop_if(|(shorter, _)| !shorter.contains(&prefix)).is_some() {}
        let outer = self.0.last().map(|(_, home)| *home);
        self.0.extend(home.map(|home| (prefix, home)));
        outer
    }
}

/// Plausible behind every NIC; the filter lets them reach nothing but the gateway itself.
fn link_local() -> [IpNet; 2] {
    [
        Ipv4Net::new_assert([169, 254, 0, 0].into(), 16).into(),
        Ipv6Net::new_assert([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), 10).into(),
    ]
}
