// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of flows, and the program that changes what programs write there, too.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, HashMap, MapData, MapError},
    programs::TestRunOptions,
};
use filter_common::{
    flow::Clock,
    flow_table::{LEAVING, SPILL},
    wire::{
        FLOW_CHANGES, FLOWS_IN_SET, FLOWS_PER_SET, FlowChange, FlowEntry, FlowKey, FlowRecord,
        FlowTags, ManyTags, TAGS_IN_ENTRY, flow_sets, spilled_flows,
    },
};

use super::{
    maps::{pinned_length, removed, take},
    object::{IndexPin, explain_load_error, load_object, xdp},
    pins::PinDirectory,
};

/// The maps' names in the object, and of their pins.
pub(super) const TAGS: &str = "FLOW_TAGS";
pub(super) const SPILLS: &str = "FLOW_SPILLS";
pub(super) const ENTRIES: &str = "FLOW_ENTRIES";
pub(super) const SPILLED: &str = "FLOWS";
pub(super) const KEPT: &str = "KEPT_FLOWS";

/// The program that changes flows.
const PROGRAM: &str = "sluice_flows";

/// Where the changes begin in a frame: behind an Ethernet header.
const HEADER: usize = 14;

/// The tables of flows. They may be opened more than once, so that another thread than the daemon's can go through them: full
/// ones take a good part of a second.
pub struct FlowTables {
    tags: Array<MapData, ManyTags>,
    spills: Array<MapData, u64>,
    entries: Array<MapData, FlowEntry>,
    spilled: HashMap<MapData, FlowKey, FlowRecord>,
    kept: HashMap<MapData, FlowKey, u64>,
}

/// The program that changes flows. What user space wrote into a map itself would undo what packets write meanwhile.
pub struct FlowWriter {
    ebpf: Ebpf,
}

/// How many flows the pinned tables are for, or those will be that are wanted.
pub(super) fn sizes(pins: &PinDirectory, wanted: u32) -> Result<u32> {
    match pinned_length(pins, SPILLS)? {
        Some(sets) if sets == flow_sets(wanted) => Ok(wanted),
        Some(sets) => Ok(sets * FLOWS_IN_SET),
        // Those of an older layout have all flows in one.
        None => Ok(pinned_length(pins, SPILLED)?.unwrap_or(wanted)),
    }
}

/// How many sets the pinned table of flows has.
pub(super) fn pinned_sets(pins: &PinDirectory) -> Result<u32> {
    pinned_length(pins, SPILLS)?.context("the table of flows isn't pinned")
}

/// Has a loader make tables for so many flows, unless they are pinned.
pub(super) fn size_tables(loader: &mut EbpfLoader<'_>, flows: u32) {
    let sets = flow_sets(flows);
    loader
        .map_max_entries(TAGS, sets / TAGS_IN_ENTRY)
        .map_max_entries(SPILLS, sets)
        .map_max_entries(ENTRIES, sets * FLOWS_PER_SET)
        .map_max_entries(SPILLED, spilled_flows(flows));
}

// === impl FlowTables ===

impl fmt::Debug for FlowTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowTables").finish_non_exhaustive()
    }
}

impl FlowTables {
    /// Opens the pinned tables.
    ///
    /// # Errors
    ///
    /// They are not pinned, or are of another kind.
    pub fn open(pins: &PinDirectory) -> Result<Self> {
        let open = |name| -> Result<aya::maps::Map> {
            let data = MapData::from_pin(pins.map(name))
                .with_context(|| format!("the pinned map {name} can't be opened"))?;
            Ok(aya::maps::Map::from_map_data(data)?)
        };
        Ok(Self {
            tags: open(TAGS)?.try_into()?,
            spills: open(SPILLS)?.try_into()?,
            entries: open(ENTRIES)?.try_into()?,
            spilled: open(SPILLED)?.try_into()?,
            kept: open(KEPT)?.try_into()?,
        })
    }

    /// Those of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            tags: take(ebpf, TAGS)?,
            spills: take(ebpf, SPILLS)?,
            entries: take(ebpf, ENTRIES)?,
            spilled: take(ebpf, SPILLED)?,
            kept: take(ebpf, KEPT)?,
        })
    }

    /// Every flow that is remembered, also those that have expired, in no order. Flows that come or
    /// go meanwhile may be left out. One that two CPUs opened at the very same moment may stand there twice; the later one
    /// counts then.
    ///
    /// # Errors
    ///
    /// A map can't be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, FlowRecord)>> {
        let mut flows = Vec::new();
        for key in self.spilled()? {
            match self.spilled.get(&key, 0) {
                Ok(record) => flows.push((key, record)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for set in self.sets() {
            let (number, tags) = set?;
            for lane in FlowTags::LANES.into_iter().filter(|lane| lane.tag(tags) > LEAVING) {
                let FlowEntry { key, record, .. } =
                    self.entries.get(&(number * FLOWS_PER_SET + lane.entry()), 0)?;
                flows.push((key, record));
            }
        }
        Ok(flows)
    }

    /// The tuples of flows that have no place in their set.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn spilled(&self) -> Result<Vec<FlowKey>> {
        Ok(self.spilled.keys().collect::<Result<_, _>>()?)
    }

    /// What makes the places of forgotten flows free again. No packet may be underway that began before they were forgotten.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn places_left(&self) -> Result<Vec<FlowChange>> {
        let mut changes = Vec::new();
        for set in self.sets() {
            let (number, tags) = set?;
            let left = FlowTags::LANES.into_iter().filter(|lane| lane.tag(tags) == LEAVING);
            let bits = left.fold(0, |bits, lane| bits | lane.placed(LEAVING));
            if bits != 0 {
                let key = FlowKey::from_words([bits, 0, 0, 0, 0]);
                let (action, value) = (FlowChange::FREE, number.into());
                changes.push(FlowChange { key, action, value });
            }
        }
        Ok(changes)
    }

    /// All sets with their tags.
    fn sets(&self) -> impl Iterator<Item = Result<(u32, FlowTags)>> {
        (0..self.tags.len()).flat_map(|entry| match self.tags.get(&entry, 0) {
            Ok(tags) => {
                let sets = (entry * TAGS_IN_ENTRY..).zip(tags).map(Ok);
                sets.collect::<Vec<_>>()
            }
            Err(error) => vec![Err(error.into())],
        })
    }

    /// Any flow may stand elsewhere than in its set, as before there were sets. No program may use them yet.
    pub(super) fn expect_spilled(&mut self, clock: Clock) -> Result<()> {
        let until = clock.now + SPILL * clock.hertz;
        for set in 0..self.spills.len() {
            self.spills.set(set, until, 0)?;
        }
        for entry in 0..self.tags.len() {
            let tags = self.tags.get(&entry, 0)?;
            self.tags.set(
                entry,
                tags.map(|FlowTags(tags)| FlowTags(tags | FlowTags::SPILLED)),
                0,
            )?;
        }
        Ok(())
    }

    /// Keeps a flow though the policy denies it: `key` has the client's own address as the local
    /// end.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn keep(&mut self, key: &FlowKey, since: u64) -> Result<()> {
        Ok(self.kept.insert(key, since, 0)?)
    }

    /// The flows that are kept, each with the tick since when.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn kept(&self) -> Result<Vec<(FlowKey, u64)>> {
        Ok(self.kept.iter().collect::<Result<_, _>>()?)
    }

    /// Keeps a flow no longer.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn forget_kept(&mut self, key: &FlowKey) -> Result<()> {
        Ok(removed(self.kept.remove(key))?)
    }
}

// === impl FlowWriter ===

impl fmt::Debug for FlowWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowWriter").finish_non_exhaustive()
    }
}

impl FlowWriter {
    /// Loads the program, over the pinned tables.
    ///
    /// # Errors
    ///
    /// The tables are not pinned, or the kernel refuses the program.
    pub fn load(pins: &PinDirectory) -> Result<Self> {
        let sets = pinned_sets(pins)?;
        let mut loader = EbpfLoader::new();
        loader.override_global("SETS", &sets, true);
        let mut ebpf = load_object(&mut loader, pins, IndexPin::Usual)?;
        load_program(&mut ebpf)?;
        Ok(Self { ebpf })
    }

    /// Makes changes, in their order. Flows that are gone need none.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run the program. Some of the changes may have been made.
    pub fn change(&mut self, changes: &[FlowChange]) -> Result<()> {
        change(&mut self.ebpf, changes)
    }
}

/// Loads the program of an object that knows how many sets there are.
pub(super) fn load_program(ebpf: &mut Ebpf) -> Result<()> {
    xdp(ebpf, PROGRAM)?.load().map_err(|error| explain_load_error(&error))
}

/// Has the program make changes, as [`FlowWriter::change`].
pub(super) fn change(ebpf: &mut Ebpf, changes: &[FlowChange]) -> Result<()> {
    for part in changes.chunks(FLOW_CHANGES as usize) {
        let mut frame = vec![0; HEADER];
        for word in part.iter().flat_map(|change| change.words()) {
            frame.extend(word.to_ne_bytes());
        }
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
        let made = xdp(ebpf, PROGRAM)?
            .test_run(options)
            .context("the kernel refused to run the program that changes flows")?;
        ensure!(
            usize::try_from(made.return_value).ok() == Some(part.len()),
            "the table of flows takes no change"
        );
    }
    Ok(())
}
