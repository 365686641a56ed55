// SPDX-License-Identifier: MIT OR Apache-2.0
//! The maps that programs and the daemon share: writing slots, reading counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    net::IpAddr,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, MapData, MapError, PerCpuArray, RingBuf,
        lpm_trie::Key,
    },
    util::nr_cpus,
};
use filter_common::{
    egress::Side,
    verdict::DropReason,
    wire::{
        self, AUDITED, Active, AddressPair, COUNTERS_PER_NIC, CellWord, Counter, EventWindow,
        FlowChange, FlowKey, FlowRecord, Grant, IndexLayout, MAX_NICS, Permit, RejectBucket,
        SAMPLED, flow_sets, interface,
    },
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    clock::TickClock,
    flows::{self, FlowTables},
    index::{INDEX, Index},
    object::{IndexPin, load_object},
    pins::PinDirectory,
    state::{STATE, State},
    written::{SlotArray, Written},
};
use crate::{
    compile::{SlotTables, Step},
    policy::TableSizes,
};

/// The maps that are pinned and shared by all instances of the program.
pub(super) const SHARED: [&str; 29] = [
    STATE,
    "ZONES",
    "CELLS",
    "PORT_CLASSES",
    "PORT_CELLS",
    "GRANTS4_0",
    "GRANTS4_1",
    "GRANTS6_0",
    "GRANTS6_1",
    "SOURCES4_0",
    "SOURCES4_1",
    "SOURCES6_0",
    "SOURCES6_1",
    "SERVICE_HOSTS",
    INDEX,
    "WRITTEN",
    flows::TAGS,
    flows::SPILLS,
    flows::ENTRIES,
    flows::SPILLED,
    flows::KEPT,
    "NO_ANSWERS",
    "FRAGMENTS",
    "INTERFACES",
    "NIC_ADDRESSES",
    "REJECTED",
    "COUNTERS",
    "EVENTS",
    "EVENT_WINDOW",
];

/// Handles to the shared maps.
pub struct SharedMaps {
    state: State,
    zones: Array<MapData, u32>,
    cells: Array<MapData, u64>,
    port_classes: Array<MapData, u64>,
    port_cells: Array<MapData, u32>,
    service_hosts: Array<MapData, AddressPair>,
    written: Written,
    flows: FlowTables,
    interfaces: HashMap<MapData, u32, u32>,
    nic_addresses: Array<MapData, AddressPair>,
    rejected: HashMap<MapData, [u8; 16], RejectBucket>,
    tries: [Tries; 2],
    counters: PerCpuArray<MapData, Counter>,
    windows: PerCpuArray<MapData, EventWindow>,
    grace: ArrayOfMaps<MapData, Array<MapData, u32>>,
    index: Index,
    sizes: TableSizes,
}

/// Where maps come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// They were created just now, and are empty.
    Created,
    /// They were pinned, and hold what an earlier daemon wrote.
    Pinned,
}

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotIndex {
    /// Slot 0.
    First,
    /// Slot 1.
    Second,
}

/// Samples that were not sent, and that were lost, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventLoss {
    /// Drops left out by sampling.
    pub skipped: u64,
    /// Samples that found the ring buffer full.
    pub lost: u64,
}

struct Tries {
    grants4: LpmTrie<MapData, [u8; 4], u32>,
    grants6: LpmTrie<MapData, [u8; 16], u32>,
    sources4: LpmTrie<MapData, [u8; 8], u32>,
    sources6: LpmTrie<MapData, [u8; 20], u32>,
}

// === impl Tries ===

impl Tries {
    /// Inserts a destination prefix or replaces its grant.
    fn insert(&mut self, prefix: &IpNet, grant: Grant) -> Result<(), MapError> {
        match prefix {
            IpNet::V4(prefix) => self.grants4.insert(&key4(prefix), grant.0, 0),
            IpNet::V6(prefix) => self.grants6.insert(&key6(prefix), grant.0, 0),
        }
    }

    fn remove(&mut self, prefix: &IpNet) -> Result<(), MapError> {
        removed(match prefix {
            IpNet::V4(prefix) => self.grants4.remove(&key4(prefix)),
            IpNet::V6(prefix) => self.grants6.remove(&key6(prefix)),
        })
    }
}

// === impl SlotIndex ===

impl SlotIndex {
    /// The slot that an active word names.
    #[must_use]
    pub fn of(active: Active) -> Self {
        if active.slot() == 0 { Self::First } else { Self::Second }
    }

    /// The other slot.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// Which of two things, one for each slot, is this slot's.
    pub(super) fn of_both<T>(self, first: T, second: T) -> T {
        match self {
            Self::First => first,
            Self::Second => second,
        }
    }

    /// 0 or 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }
}

// === impl SharedMaps ===

impl fmt::Debug for SharedMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMaps").finish_non_exhaustive()
    }
}

impl SharedMaps {
    /// Creates and pins the maps in these sizes, or opens those that are pinned in the sizes that they
    /// have: see [`Self::sizes`].
    ///
    /// # Errors
    ///
    /// The kernel refuses a map.
    pub fn open(
        pins: &PinDirectory,
        wanted: TableSizes,
    ) -> Result<(Self, RingBuf<MapData>, Provenance)> {
        // Others may have been taken over from an older layout, or made by a start that ended before it
        // wrote anything.
        let provenance =
            if pins.map(STATE).exists() { Provenance::Pinned } else { Provenance::Created };
        let sizes = TableSizes {
            flows: flows::sizes(pins, wanted.flows)?,
            grant_cells: pinned_length(pins, "CELLS")?
                .map_or(wanted.grant_cells, |length| length * CellWord::CELLS),
        };
        let (fresh, without_sets) =
            (!pins.map(flows::SPILLED).exists(), !pins.map(flows::TAGS).exists());
        // Those of an older layout, whose samples were counted elsewhere.
        let counted_on = pins.map("COUNTERS").exists() && !pins.map("EVENT_WINDOW").exists();
        let mut loader = EbpfLoader::new();
        flows::size_tables(&mut loader, sizes.flows);
        let sets = flow_sets(sizes.flows);
        loader.override_global("SETS", &sets, true);
        loader.map_max_entries("CELLS", sizes.grant_cells.div_ceil(CellWord::CELLS));
        let mut ebpf = load_object(&mut loader, pins, IndexPin::Usual)?;
        let events = take::<RingBuf<MapData>>(&mut ebpf, "EVENTS")?;
        let mut no_answers: Array<_, u32> = take(&mut ebpf, "NO_ANSWERS")?;
        if fresh {
            no_answers.set(0, 1, 0)?;
        }
        let mut flows = FlowTables::take(&mut ebpf)?;
        let state = take::<Array<_, wire::State>>(&mut ebpf, STATE)?;
        if without_sets && !fresh {
            flows.expect_spilled(TickClock::open(pins)?.now()?)?;
        }
        let mut maps = Self {
            index: Index::open(take(&mut ebpf, INDEX)?, state.get(&0, 0)?.layouts),
            zones: take(&mut ebpf, "ZONES")?,
            cells: take(&mut ebpf, "CELLS")?,
            port_classes: take(&mut ebpf, "PORT_CLASSES")?,
            port_cells: take(&mut ebpf, "PORT_CELLS")?,
            service_hosts: take(&mut ebpf, "SERVICE_HOSTS")?,
            written: Written::open(take(&mut ebpf, "WRITTEN")?, provenance)?,
            flows,
            interfaces: take(&mut ebpf, "INTERFACES")?,
            nic_addresses: take(&mut ebpf, "NIC_ADDRESSES")?,
            rejected: take(&mut ebpf, "REJECTED")?,
            tries: [
                Tries {
                    grants4: take(&mut ebpf, "GRANTS4_0")?,
                    grants6: take(&mut ebpf, "GRANTS6_0")?,
                    sources4: take(&mut ebpf, "SOURCES4_0")?,
                    sources6: take(&mut ebpf, "SOURCES6_0")?,
                },
                Tries {
                    grants4: take(&mut ebpf, "GRANTS4_1")?,
                    grants6: take(&mut ebpf, "GRANTS6_1")?,
                    sources4: take(&mut ebpf, "SOURCES4_1")?,
                    sources6: take(&mut ebpf, "SOURCES6_1")?,
                },
            ],
            counters: take(&mut ebpf, "COUNTERS")?,
            windows: take(&mut ebpf, "EVENT_WINDOW")?,
            grace: take(&mut ebpf, "GRACE")?,
            sizes,
            state: State::open(state, ebpf)?,
        };
        if counted_on {
            maps.begin_to_count_samples()?;
        }
        Ok((maps, events, provenance))
    }

    /// How many CPUs the maps have values for that each CPU has its own of.
    #[must_use]
    pub fn cpus() -> u32 {
        // Where the kernel doesn't tell, there is at least one.
        nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1)
    }

    /// The sizes that the maps have.
    #[must_use]
    pub fn sizes(&self) -> TableSizes {
        self.sizes
    }

    /// The word that says which slot is in force.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn active(&self) -> Result<Active> {
        self.state.active()
    }

    /// Puts a slot in force, by one store.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn activate(&mut self, slot: SlotIndex, generation: u64) -> Result<()> {
        self.state.put_active(Active::new(slot.number(), generation))
    }

    /// Puts a slot in force by one store, until a tick of the programs' clock: from then on the other
    /// slot is in force again, whether anybody is there to see to it or not.
    ///
    /// # Errors
    ///
    /// A map can't be written.
    pub fn activate_until(&mut self, slot: SlotIndex, generation: u64, tick: u64) -> Result<()> {
        // Nobody reads it before the word says so.
        self.state.put_deadline(tick)?;
        self.wait_for_packets()?;
        self.state.put_active(Active::new(slot.number(), generation).provisional())
    }

    /// Waits until every packet that began before has its verdict.
    ///
    /// Replacing an entry of an array of maps does that: the kernel calls `synchronize_rcu`
    /// (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn wait_for_packets(&mut self) -> Result<()> {
        let inner = Array::<MapData, u32>::create(1, 0)?;
        self.grace.set(0, &inner, 0)?;
        self.index.packets_are_through();
        Ok(())
    }

    /// Inserts destination prefixes into the tries of a slot that has no index, those of both families at the
    /// same time: the kernel takes two microseconds and more for each. `grants` gives all of them, twice;
    /// `each` is called for each.
    ///
    /// # Errors
    ///
    /// A map can't be written, or is full, or there is no second thread.
    pub fn insert_grants<I: Iterator<Item = (IpNet, Grant)>>(
        &mut self,
        slot: SlotIndex,
        grants: impl Fn() -> I + Sync,
        each: impl Fn() + Sync,
    ) -> Result<()> {
        let Tries { grants4, grants6, .. } = self.tries_of(slot);
        thread::scope(|scope| {
            let v4 = || {
                grants().try_for_each(|(prefix, grant)| match prefix {
                    IpNet::V4(prefix) => {
                        each();
                        grants4.insert(&key4(&prefix), grant.0, 0)
                    }
                    IpNet::V6(_) => Ok(()),
                })
            };
            let v4 = thread::Builder::new().spawn_scoped(scope, v4)?;
            let v6 = grants().try_for_each(|(prefix, grant)| match prefix {
                IpNet::V6(prefix) => {
                    each();
                    grants6.insert(&key6(&prefix), grant.0, 0)
                }
                IpNet::V4(_) => Ok(()),
            });
            // A panic is none of this thread's, and ends the daemon as one of its own would.
            v4.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(v6?)
        })
    }

    fn tries_of(&mut self, slot: SlotIndex) -> &mut Tries {
        let [first, second] = &mut self.tries;
        slot.of_both(first, second)
    }

    /// Carries out one step in a slot.
    ///
    /// # Errors
    ///
    /// The map can't be written, or is full.
    pub fn apply(&mut self, slot: SlotIndex, step: &Step) -> Result<()> {
        let number = slot.number();
        match step {
            Step::Settings(settings) => self.state.put_settings(slot, *settings)?,
            Step::Zone { index, value } => {
                let place = (SlotArray::Zones, slot, *index);
                store(&mut self.zones, &mut self.written, place, *value)?;
            }
            Step::PortClass { word, value } => {
                let place = (SlotArray::PortClasses, slot, *word);
                store(&mut self.port_classes, &mut self.written, place, *value)?;
            }
            Step::Cell { index, value } => {
                if *value != 0 {
                    self.written.mark(SlotArray::Cells, slot, *index)?;
                }
                // Nobody else writes cells.
                let place = SlotArray::Cells.place(slot, *index);
                let word = CellWord(self.cells.get(&place, 0)?).with(number, *index, *value);
                self.cells.set(place, word.0, 0)?;
            }
            Step::PortCell { index, value } => {
                let place = (SlotArray::PortCells, slot, *index);
                store(&mut self.port_cells, &mut self.written, place, value.0)?;
            }
            Step::ServiceHost { counter, value } => {
                let place = (SlotArray::ServiceHosts, slot, *counter);
                store(&mut self.service_hosts, &mut self.written, place, *value)?;
            }
            Step::InsertGrant(prefix, grant) => {
                self.tries_of(slot).insert(prefix, *grant)?;
                self.index.follow(&mut self.state, slot, prefix, Some(*grant))?;
            }
            Step::RemoveGrant(prefix) => {
                self.tries_of(slot).remove(prefix)?;
                self.index.follow(&mut self.state, slot, prefix, None)?;
            }
            Step::InsertSource((zone, IpNet::V4(prefix)), class) => {
                self.tries_of(slot).sources4.insert(&source_key4(*zone, prefix), class, 0)?;
            }
            Step::InsertSource((zone, IpNet::V6(prefix)), class) => {
                self.tries_of(slot).sources6.insert(&source_key6(*zone, prefix), class, 0)?;
            }
            Step::RemoveSource((zone, IpNet::V4(prefix))) => {
                removed(self.tries_of(slot).sources4.remove(&source_key4(*zone, prefix)))?;
            }
            Step::RemoveSource((zone, IpNet::V6(prefix))) => {
                removed(self.tries_of(slot).sources6.remove(&source_key6(*zone, prefix)))?;
            }
        }
        Ok(())
    }

    /// The tries of a slot are asked for each destination from now on, until its index is built.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn forget_index(&mut self, slot: SlotIndex) -> Result<()> {
        self.index.forget(&mut self.state, slot)
    }

    /// Builds the index of a slot that no packet looks at, from what it holds. What doesn't fit is left
    /// to the tries.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn build_index(&mut self, slot: SlotIndex, tables: &SlotTables) -> Result<()> {
        self.index.build(&mut self.state, slot, tables)
    }

    /// How the index of a slot is laid out.
    #[must_use]
    pub fn index_layout(&self, slot: SlotIndex) -> IndexLayout {
        self.index.layout(slot)
    }

    /// Lines of the index of one slot.
    #[must_use]
    pub fn index_room(&self) -> u32 {
        self.index.lines()
    }

    /// How many addresses the index of a slot had no room for since it was built; they are looked up
    /// in the tries.
    #[must_use]
    pub fn index_crowded(&self, slot: SlotIndex) -> u32 {
        self.index.crowded(slot)
    }

    /// Makes the index longer. Programs that are loaded already must be replaced before the slot in
    /// force changes in any way, as they go on with the old one.
    ///
    /// # Errors
    ///
    /// The kernel refuses the map, or it can't be pinned. The index is as it was then.
    pub fn grow_index(&mut self, pins: &PinDirectory, active: SlotIndex, lines: u32) -> Result<()> {
        self.index.grow(&mut self.state, pins, active, lines)
    }

    /// Reads back all that a slot holds: what is marked as written, and takes the marks away from
    /// what is empty again. Whether a destination is in use is no part of it.
    ///
    /// # Errors
    ///
    /// A map can't be read, or a mark not be taken away.
    pub fn read_slot(&mut self, slot: SlotIndex) -> Result<SlotTables> {
        let number = slot.number();
        let mut tables =
            SlotTables { settings: self.state.settings(slot)?, ..SlotTables::default() };
        let written = &mut self.written;
        tables.zones.extend(load(&self.zones, written, SlotArray::Zones, slot)?);
        let cells = &self.cells;
        let words = cells.len();
        let cell = |place: u32, index| Ok(CellWord(cells.get(&place, 0)?).cell(number, index));
        tables.cells.extend(load_by(words, written, SlotArray::Cells, slot, cell)?);
        let words = load(&self.port_classes, written, SlotArray::PortClasses, slot)?;
        tables.port_classes.extend(words);
        for (index, value) in load(&self.port_cells, written, SlotArray::PortCells, slot)? {
            tables.port_cells.insert(index, Permit(value));
        }
        let hosts = load(&self.service_hosts, written, SlotArray::ServiceHosts, slot)?;
        tables.service_hosts.extend(hosts);
        let [first, second] = &self.tries;
        let tries = match slot {
            SlotIndex::First => first,
            SlotIndex::Second => second,
        };
        for entry in tries.grants4.iter() {
            let (key, value) = entry?;
            let prefix = prefix(IpAddr::from(key.data()), key.prefix_len())?;
            tables.grants.insert(prefix, Grant(value).unmarked());
        }
        for entry in tries.grants6.iter() {
            let (key, value) = entry?;
            let prefix = prefix(IpAddr::from(key.data()), key.prefix_len())?;
            tables.grants.insert(prefix, Grant(value).unmarked());
        }
        for entry in tries.sources4.iter() {
            let (key, value) = entry?;
            let (zone, address) = split_source::<4, 8>(key.data())?;
            let source = prefix(IpAddr::from(address), key.prefix_len() - 32)?;
            tables.sources.insert((zone, source), value);
        }
        for entry in tries.sources6.iter() {
            let (key, value) = entry?;
            let (zone, address) = split_source::<16, 20>(key.data())?;
            let source = prefix(IpAddr::from(address), key.prefix_len() - 32)?;
            tables.sources.insert((zone, source), value);
        }
        Ok(tables)
    }

    /// Which addresses a rule let a client's packet pass to since this was asked last; the mark is
    /// taken from these. `held` is what the slot holds, by which addresses are left out that have no
    /// entry of their own: the kernel would answer for the prefix around them.
    ///
    /// Programs set the mark but write nothing else, and nobody but the daemon replaces an entry,
    /// so that writing it back undoes nothing. A packet that passes between reading and writing is
    /// one that came while the mark was still set, and is told of now. What is lost is the mark of an
    /// entry that another step replaces.
    ///
    /// # Errors
    ///
    /// A map can't be read or written. Marks that were taken before that are lost.
    pub fn take_used(
        &mut self,
        slot: SlotIndex,
        held: &SlotTables,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeSet<IpAddr>> {
        // Programs with short cuts mark the index, those without the tries.
        let is_held = |address: &&IpAddr| held.grants.contains_key(&IpNet::from(**address));
        let mut used =
            self.index.take_used(&mut self.state, slot, addresses.iter().filter(is_held))?;
        for address in addresses {
            let prefix = IpNet::from(*address);
            let Some(grant) = held.grants.get(&prefix) else { continue };
            let [first, second] = &mut self.tries;
            let tries = match slot {
                SlotIndex::First => first,
                SlotIndex::Second => second,
            };
            let found = match prefix {
                IpNet::V4(prefix) => tries.grants4.get(&key4(&prefix), 0),
                IpNet::V6(prefix) => tries.grants6.get(&key6(&prefix), 0),
            };
            let found = Grant(found.context("a destination that was written is gone")?);
            ensure!(found.unmarked() == *grant, "{address} has another grant than was written");
            if found.is_used() {
                tries.insert(&prefix, *grant)?;
                used.insert(*address);
            }
        }
        Ok(used)
    }

    /// Says which interfaces are on which side.
    ///
    /// # Errors
    ///
    /// The map can't be written, or is full.
    pub fn set_interfaces(&mut self, sides: &BTreeMap<u32, Side>) -> Result<()> {
        let known: Vec<u32> = self.interfaces.keys().collect::<Result<_, _>>()?;
        for (index, side) in sides {
            let side = match side {
                Side::Inside => interface::INSIDE,
                Side::Outside => interface::OUTSIDE,
            };
            self.interfaces
                .insert(index, side, 0)
                .context("the map of interfaces takes no more of them")?;
        }
        for index in known.iter().filter(|index| !sides.contains_key(index)) {
            removed(self.interfaces.remove(index))?;
        }
        Ok(())
    }

    /// Says which addresses the gateway has on each NIC, by the NIC's index. NICs that aren't named
    /// have none.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn set_nic_addresses(&mut self, addresses: &BTreeMap<u8, AddressPair>) -> Result<()> {
        for nic in 0..u8::try_from(MAX_NICS)? {
            let value = addresses.get(&nic).copied().unwrap_or_default();
            self.nic_addresses.set(u32::from(nic), value, 0)?;
        }
        Ok(())
    }

    /// Forgets how often clients were told of denied packets.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn forget_rejected(&mut self) -> Result<()> {
        let clients: Vec<[u8; 16]> = self.rejected.keys().collect::<Result<_, _>>()?;
        for client in clients {
            removed(self.rejected.remove(&client))?;
        }
        Ok(())
    }

    /// Every flow that is remembered, as [`FlowTables::flows`].
    ///
    /// # Errors
    ///
    /// A map can't be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, FlowRecord)>> {
        self.flows.flows()
    }

    /// Cuts flows; those that are gone need no cutting.
    ///
    /// # Errors
    ///
    /// The kernel refuses. Some may be cut.
    pub fn cut_flows(&mut self, keys: impl Iterator<Item = FlowKey>) -> Result<()> {
        self.change_flows(keys, FlowChange::CUT)
    }

    /// Forgets flows, as if they had never been: what their local ends send opens them again. Waits until no packet can be
    /// looking at them.
    ///
    /// # Errors
    ///
    /// The kernel refuses. Some may be forgotten.
    pub fn forget_flows(&mut self, keys: impl Iterator<Item = FlowKey>) -> Result<()> {
        self.change_flows(keys, FlowChange::FORGET)?;
        self.wait_for_packets()?;
        flows::change(self.state.programs(), &self.flows.places_left()?)
    }

    fn change_flows(&mut self, keys: impl Iterator<Item = FlowKey>, action: u64) -> Result<()> {
        let changes: Vec<_> = keys.map(|key| FlowChange { key, action, value: 0 }).collect();
        flows::change(self.state.programs(), &changes)
    }

    /// Keeps a flow, as [`FlowTables::keep`].
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn keep_flow(&mut self, key: &FlowKey, since: u64) -> Result<()> {
        self.flows.keep(key, since)
    }

    /// The flows that are kept.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn kept_flows(&self) -> Result<Vec<FlowKey>> {
        Ok(self.flows.kept()?.into_iter().map(|(key, _)| key).collect())
    }

    /// Keeps a flow no longer.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn forget_kept_flow(&mut self, key: &FlowKey) -> Result<()> {
        self.flows.forget_kept(key)
    }

    /// A counter of a NIC, over all CPUs.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn counter(&self, nic: u8, counter: u32) -> Result<Counter> {
        let values = self.counters.get(&(u32::from(nic) * COUNTERS_PER_NIC + counter), 0)?;
        Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
            packets: sum.packets.wrapping_add(value.packets),
            bytes: sum.bytes.wrapping_add(value.bytes),
        }))
    }

    /// Sets a counter of a NIC to zero. No permit may refer to it.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn clear_counter(&mut self, nic: u8, counter: u32) -> Result<()> {
        self.put_counter(nic, counter, Counter::default())
    }

    fn put_counter(&mut self, nic: u8, counter: u32, value: Counter) -> Result<()> {
        let index = u32::from(nic) * COUNTERS_PER_NIC + counter;
        let cpus = self.counters.get(&index, 0)?.len();
        let values = iter::once(value).chain(iter::repeat(Counter::default())).take(cpus);
        let values = aya::maps::PerCpuValues::try_from(values.collect::<Vec<_>>())
            .context("the number of CPUs changed")?;
        Ok(self.counters.set(index, values, 0)?)
    }

    /// What sampling left out and what was lost.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn event_loss(&self) -> Result<EventLoss> {
        let mut loss = EventLoss::default();
        for nic in 0..u8::try_from(MAX_NICS)? {
            // Samples first: packets that come in between are left out for a moment, and none is missing.
            let sampled = self.counter(nic, SAMPLED)?.packets;
            loss.skipped += self.dropped(nic)?.saturating_sub(sampled);
        }
        let windows = self.windows.get(&0, 0)?;
        loss.lost = windows.iter().fold(0, |sum, window| sum.wrapping_add(window.lost));
        Ok(loss)
    }

    /// Packets that a NIC's programs dropped, or would have dropped.
    fn dropped(&self, nic: u8) -> Result<u64> {
        let mut packets = 0_u64;
        for reason in DropReason::ALL {
            let code = u32::from(reason.code());
            for counter in [code, AUDITED + code] {
                packets = packets.wrapping_add(self.counter(nic, counter)?.packets);
            }
        }
        Ok(packets)
    }

    /// Samples are counted from now on: of earlier drops none counts as left out.
    fn begin_to_count_samples(&mut self) -> Result<()> {
        for nic in 0..u8::try_from(MAX_NICS)? {
            let packets = self.dropped(nic)?;
            self.put_counter(nic, SAMPLED, Counter { packets, bytes: 0 })?;
        }
        Ok(())
    }
}

/// How many entries a pinned map has; none where there is no such map.
pub(super) fn pinned_length(pins: &PinDirectory, name: &str) -> Result<Option<u32>> {
    let path = pins.map(name);
    if !path.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(path)
        .with_context(|| format!("the pinned map {name} can't be opened"))?;
    Ok(Some(map.info()?.max_entries()))
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("the pinned map {name} is of another kind"))
}

/// An entry that is already gone is as good as removed: a step may be repeated after a crash.
pub(super) fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

/// Writes an entry of an array, after the mark that says that there may be something.
fn store<V: Pod + Default + PartialEq>(
    array: &mut Array<MapData, V>,
    written: &mut Written,
    (kind, slot, index): (SlotArray, SlotIndex, u32),
    value: V,
) -> Result<()> {
    if value != V::default() {
        written.mark(kind, slot, index)?;
    }
    Ok(array.set(kind.place(slot, index), value, 0)?)
}

/// The entries of a slot's part of an array that are not zero.
fn load<V: Pod + Default + PartialEq>(
    array: &Array<MapData, V>,
    written: &mut Written,
    kind: SlotArray,
    slot: SlotIndex,
) -> Result<Vec<(u32, V)>> {
    load_by(array.len(), written, kind, slot, |place, _| Ok(array.get(&place, 0)?))
}

/// The same of an array of this length, whose entries are read by their place and their index.
fn load_by<V: Default + PartialEq>(
    length: u32,
    written: &mut Written,
    kind: SlotArray,
    slot: SlotIndex,
    read: impl Fn(u32, u32) -> Result<V>,
) -> Result<Vec<(u32, V)>> {
    let mut entries = Vec::new();
    for chunk in written.chunks(kind, slot) {
        let (first, before) = (chunk.start, entries.len());
        // Chunks are marked up to the longest that an array may be.
        for index in chunk.take_while(|index| kind.place(slot, *index) < length) {
            let value = read(kind.place(slot, index), index)?;
            if value != V::default() {
                entries.push((index, value));
            }
        }
        if entries.len() == before {
            written.unmark(kind, slot, first)?;
        }
    }
    Ok(entries)
}

fn prefix(address: IpAddr, length: u32) -> Result<IpNet> {
    let length = u8::try_from(length).context("a prefix in the kernel is too long")?;
    IpNet::new(address, length).context("a prefix in the kernel is too long")
}

fn key4(prefix: &Ipv4Net) -> Key<[u8; 4]> {
    Key::new(u32::from(prefix.prefix_len()), prefix.network().octets())
}

fn key6(prefix: &Ipv6Net) -> Key<[u8; 16]> {
    Key::new(u32::from(prefix.prefix_len()), prefix.network().octets())
}

fn source_key4(zone: u32, prefix: &Ipv4Net) -> Key<[u8; 8]> {
    let data = join_source(zone, prefix.network().octets());
    Key::new(32 + u32::from(prefix.prefix_len()), data)
}

fn source_key6(zone: u32, prefix: &Ipv6Net) -> Key<[u8; 20]> {
    let data = join_source(zone, prefix.network().octets());
    Key::new(32 + u32::from(prefix.prefix_len()), data)
}

/// The zone in network byte order, so that the trie compares it first, then the address.
fn join_source<const A: usize, const N: usize>(zone: u32, address: [u8; A]) -> [u8; N] {
    let mut data = [0; N];
    for (to, from) in data.iter_mut().zip(zone.to_be_bytes().into_iter().chain(address)) {
        *to = from;
    }
    data
}

fn split_source<const A: usize, const N: usize>(data: [u8; N]) -> Result<(u32, [u8; A])> {
    let (zone, address) =
        data.split_first_chunk::<4>().context("a source in the kernel is too short")?;
    let address = address.try_into().context("a source in the kernel is of another length")?;
    Ok((u32::from_be_bytes(*zone), address))
}
