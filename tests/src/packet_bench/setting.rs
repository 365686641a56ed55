// SPDX-License-Identifier: MIT OR Apache-2.0
//! A policy over many prefixes, in force in maps of the benchmark's own, and the programs over them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use filter_common::{
    egress::Side,
    flow::{FlowState, Origin},
    flow_table::{Place, SPILL},
    wire::{
        COUNTERS_PER_NIC, FLOWS_PER_SET, FlowEntry, FlowKey, FlowRecord, FlowTags, ManyTags,
        TAGS_IN_ENTRY,
    },
};
use filter_user::{
    compile::{CounterLedger, Host, HostNic, compile},
    daemon::tables::TwoSlots,
    kernel::{Instance, LoadedProgram, PinDirectory, Role, SharedMaps, clock::TickClock},
    names::Snapshot,
    policy::{Fqdn, NicName, TableSizes, load},
};
use ipnet::IpNet;

use super::prefixes::{Family, Mixture, Prefixes, Random};
use crate::{netns, workdir::PinDir};

/// Rules; a destination belongs to one of them by its block, so that nested prefixes have one rule and
/// rules don't multiply.
const RULES: u64 = 96;

/// Groups that a rule holds for are those whose number is the rule's, by this divisor.
const PARTS: u32 = 3;

/// Addresses of a name.
const ADDRESSES: usize = 4;

/// The NICs' indices in the maps.
pub(super) const INSIDE: u8 = 0;
pub(super) const OUTSIDE: u8 = 1;

/// The gateway's own address on the outside, and the server that answers.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// What a policy is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Prefixes of each family.
    pub(super) prefixes: usize,
    /// What they are.
    pub(super) mixture: Mixture,
    /// Source groups, each one prefix of each family.
    pub(super) groups: u32,
    /// Whether there is an outside NIC, too.
    pub(super) outside: bool,
    /// How many flows there must be room for.
    pub(super) flows: u32,
}

/// The policy in force.
///
/// Fields are dropped in this order: handles first, then the pins.
pub(super) struct Setting {
    pub(super) size: Size,
    pub(super) prefixes: BTreeMap<Family, Prefixes>,
    slots: TwoSlots,
    events: RingBuf<MapData>,
    inside: Instance,
    outside: Option<Instance>,
    /// How long it took to compile the policy and to write it.
    pub(super) build: Build,
    pub(super) pins: PinDirectory,
    _directory: PinDir,
}

/// How long it took to build tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build {
    pub(super) compile: Duration,
    pub(super) write: Duration,
}

/// Packets by counter of one NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted(Vec<u64>);

// === impl Setting ===

impl Setting {
    /// Builds the policy and loads the programs.
    pub(super) fn new(size: Size, random: &mut Random) -> Result<Self> {
        let mut prefixes = BTreeMap::new();
        for family in Family::BOTH {
            prefixes.insert(family, Prefixes::new(family, size.prefixes, size.mixture, random)?);
        }
        let (text, names) = policy(&size, &prefixes)?;
        let files = [
            (Arc::from(load::GATEWAY_FILE), gateway(&size)),
            (Arc::from("policy.d/bench.toml"), text),
        ];
        let policy = load::parse(&files).map_err(|errors| anyhow!("{errors}"))?.policy;
        let begin = Instant::now();
        let compiled = compile(&policy, &names, &host(&size)?, &mut CounterLedger::default())?;
        let compile = begin.elapsed();
        // A table of this kind begins to forget before it is full to the last entry.
        let flows = TableSizes::default().flows.max(size.flows + size.flows / 15);
        let sizes = TableSizes { flows, ..TableSizes::default() };
        let directory = PinDir::new(&format!("bench-{}", netns::unique()))?;
        let pins = PinDirectory::create(directory.path())?;
        let (maps, events, provenance) = SharedMaps::open(&pins, sizes)?;
        let (mut slots, _) = TwoSlots::open(maps, provenance)?;
        let begin = Instant::now();
        if let Some(lines) = slots.wanted_lines(&compiled) {
            slots.grow_index(&pins, lines)?;
        }
        slots.swap(compiled)?;
        let build = Build { compile, write: begin.elapsed() };
        let inside = Instance::load(&pins, INSIDE, Side::Inside, Role::Enforcing)?;
        let outside = match size.outside {
            true => Some(Instance::load(&pins, OUTSIDE, Side::Outside, Role::Enforcing)?),
            false => None,
        };
        Ok(Self {
            size,
            prefixes,
            slots,
            events,
            inside,
            outside,
            build,
            pins,
            _directory: directory,
        })
    }

    /// The program on what enters a NIC of a side.
    pub(super) fn program(&self, side: Side) -> Result<&LoadedProgram> {
        match side {
            Side::Inside => Ok(&self.inside.ingress),
            Side::Outside => Ok(&self.outside.as_ref().context("there is no outside NIC")?.ingress),
        }
    }

    /// A client that the rule for this destination holds for.
    pub(super) fn client_for(
        &self,
        family: Family,
        destination: u128,
        random: &mut Random,
    ) -> Result<IpAddr> {
        let part = u32::try_from(rule_of(family, destination) % u64::from(PARTS))?;
        let same = (self.size.groups - part).div_ceil(PARTS);
        let group = part + PARTS * u32::try_from(random.below(same.into()))?;
        client(family, group, random)
    }

    /// A client of any group.
    pub(super) fn client(&self, family: Family, random: &mut Random) -> Result<IpAddr> {
        client(family, u32::try_from(random.below(self.size.groups.into()))?, random)
    }

    /// All counters of a NIC.
    pub(super) fn counted(&self, side: Side) -> Result<Counted> {
        let nic = match side {
            Side::Inside => INSIDE,
            Side::Outside => OUTSIDE,
        };
        let counters = 0..COUNTERS_PER_NIC;
        let packets = counters.map(|index| Ok(self.slots.maps.counter(nic, index)?.packets));
        Ok(Counted(packets.collect::<Result<_>>()?))
    }

    /// Takes samples of dropped packets out of their ring, as the daemon would.
    pub(super) fn drain(&mut self) {
        while self.events.next().is_some() {}
    }

    /// Opens flows from clients behind the gateway's address to servers outside, until there are so many,
    /// and tells which are there then.
    pub(super) fn open_flows(&mut self, count: u32, random: &mut Random) -> Result<Vec<FlowKey>> {
        let now = TickClock::open(&self.pins)?.now()?;
        let record = FlowRecord::open(now, FlowState::Established, Origin::Inside);
        let open = |name| Ok::<_, anyhow::Error>(MapData::from_pin(self.pins.map(name))?);
        let mut sets: Array<_, ManyTags> =
            Array::try_from(Map::from_map_data(open("FLOW_TAGS")?)?)?;
        let mut spills: Array<_, u64> = Array::try_from(Map::from_map_data(open("FLOW_SPILLS")?)?)?;
        let mut entries: Array<_, FlowEntry> =
            Array::try_from(Map::from_map_data(open("FLOW_ENTRIES")?)?)?;
        let mut spilled: HashMap<_, FlowKey, FlowRecord> =
            HashMap::try_from(Map::from_map_data(open("FLOWS")?)?)?;
        let known = self.slots.maps.flows()?.len();
        // No program runs meanwhile, so that user space may write what only programs write otherwise.
        for _ in known..usize::try_from(count)? {
            let port = u16::try_from(1024 + random.below(60_000))?;
            let key = FlowKey {
                local: padded(GATEWAY),
                remote: padded(server(random)?),
                local_port: port,
                remote_port: 443,
                protocol: 6,
                ip_version: 4,
                reserved: [0; 2],
            };
            let place = Place::of(&key, spills.len());
            let (entry, number) = (place.set / TAGS_IN_ENTRY, place.set % TAGS_IN_ENTRY);
            let mut all = sets.get(&entry, 0)?;
            let tags = all.get_mut(number as usize).context("a set has no tags")?;
            let added = match tags.free(place) {
                Some(lane) => {
                    let entry = FlowEntry { key, record, ..FlowEntry::default() };
                    entries.set(place.set * FLOWS_PER_SET + lane.entry(), entry, 0)?;
                    lane.placed(place.tag)
                }
                None => {
                    spills.set(place.set, now.now + SPILL * now.hertz, 0)?;
                    spilled.insert(key, record, 0)?;
                    FlowTags::SPILLED
                }
            };
            tags.0 |= added;
            sets.set(entry, all, 0)?;
        }
        Ok(self.slots.maps.flows()?.into_iter().map(|(key, _)| key).collect())
    }
}

// === impl Counted ===

impl Counted {
    /// What was counted since an earlier look, by counter, where anything was.
    pub(super) fn since(&self, earlier: &Self) -> BTreeMap<u32, u64> {
        (0..)
            .zip(self.0.iter().zip(&earlier.0))
            .filter(|(_, (now, then))| now != then)
            .map(|(counter, (now, then))| (counter, now.wrapping_sub(*then)))
            .collect()
    }
}

fn padded(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(address.octets()) {
        *to = from;
    }
    bytes
}

/// A server far away, outside of the clients' networks.
fn server(random: &mut Random) -> Result<Ipv4Addr> {
    let address = (11 + random.below(80)) << 24 | random.below(1 << 24);
    Ok(Ipv4Addr::from(u32::try_from(address)?))
}

/// The rule that grants what lies in the block of a destination.
fn rule_of(family: Family, destination: u128) -> u64 {
    Random::new(family.block_of(destination).wrapping_mul(31)).below(RULES)
}

/// A client's address in a group: each has a /24, or a /64.
fn client(family: Family, group: u32, random: &mut Random) -> Result<IpAddr> {
    let host = 1 + u32::try_from(random.below(250))?;
    Ok(match family {
        Family::V4 => Ipv4Addr::from(10 << 24 | group << 8 | host).into(),
        Family::V6 => {
            Ipv6Addr::from(0xfd00 << 112 | u128::from(group) << 64 | u128::from(host)).into()
        }
    })
}

fn gateway(size: &Size) -> String {
    let outside = if size.outside { "[\"wan0\"]" } else { "[]" };
    format!("[gateway]\ninside = [\"lan0\"]\noutside = {outside}\ndeny = \"drop\"\n")
}

/// The policy as text, and the addresses of its names.
fn policy(size: &Size, prefixes: &BTreeMap<Family, Prefixes>) -> Result<(String, Snapshot)> {
    let mut text = String::new();
    for group in 0..size.groups {
        let (v4, v6) = (Ipv4Addr::from(10 << 24 | group << 8), u128::from(group) << 64);
        let v6 = Ipv6Addr::from(0xfd00 << 112 | v6);
        let _ = writeln!(
            text,
            "[[source]]\nname = \"group-{group}\"\ncidr = [\"{v4}/24\", \"{v6}/64\"]"
        );
    }
    let mut listed: BTreeMap<u64, Vec<IpNet>> = BTreeMap::new();
    let mut named: BTreeMap<u64, Vec<IpAddr>> = BTreeMap::new();
    for (family, prefixes) in prefixes {
        for (network, length) in &prefixes.networks {
            let prefix = IpNet::new(family.address(*network), *length)?;
            listed.entry(rule_of(*family, *network)).or_default().push(prefix);
        }
        for single in &prefixes.singles {
            let addresses = named.entry(rule_of(*family, *single)).or_default();
            addresses.push(family.address(*single));
        }
    }
    let mut names = Snapshot::default();
    for rule in 0..RULES {
        let groups =
            (0..size.groups).filter(|group| u64::from(group % PARTS) == rule % u64::from(PARTS));
        let groups: Vec<String> = groups.map(|group| format!("\"group-{group}\"")).collect();
        let _ = write!(
            text,
            "[[rule]]\nname = \"rule-{rule}\"\nfrom = [{}]\ntcp = [443, {}]\nto = [\"*.r{rule}.example.com\"",
            groups.join(", "),
            1000 + rule % 40
        );
        for prefix in listed.get(&rule).into_iter().flatten() {
            let _ = write!(text, ", \"{prefix}\"");
        }
        text.push_str("]\n");
        let addresses = named.get(&rule).map_or(&[][..], Vec::as_slice);
        for (number, addresses) in addresses.chunks(ADDRESSES).enumerate() {
            let name = Fqdn::try_from(format!("n{number}.r{rule}.example.com").as_str())?;
            names.addresses.insert(name, BTreeSet::from_iter(addresses.iter().copied()));
        }
    }
    Ok((text, names))
}

fn host(size: &Size) -> Result<Host> {
    let nic = |slot, name: &str, side, plausible: &[&str], elsewhere: &[&str]| {
        let prefixes = |texts: &[&str]| -> Result<Vec<IpNet>> {
            texts.iter().map(|text| Ok(text.parse()?)).collect()
        };
        Ok::<_, anyhow::Error>(HostNic {
            slot,
            name: NicName::try_from(name).context("the name of a NIC")?,
            side,
            plausible: prefixes(plausible)?,
            elsewhere: prefixes(elsewhere)?,
        })
    };
    let clients = ["10.0.0.0/8", "fd00::/16"];
    let mut host =
        Host { nics: vec![nic(INSIDE, "lan0", Side::Inside, &clients, &[])?], ..Host::default() };
    if size.outside {
        let all = ["0.0.0.0/0", "::/0"];
        host.nics.push(nic(OUTSIDE, "wan0", Side::Outside, &all, &clients)?);
        host.own.insert(GATEWAY.into());
    }
    Ok(host)
}
