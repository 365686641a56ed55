// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index in front of the tries, in the kernel: written whole for a slot that is not in force, and
//! changed with single addresses by a program ([`State::change`]).

use std::{collections::BTreeSet, fs, net::IpAddr};

use anyhow::{Context as _, Result};
use aya::{
    EbpfLoader,
    maps::{Array, MapData},
};
use filter_common::{
    index::LineWords,
    wire::{Grant, IndexChange, IndexLayout, SLOTS, STRIPES},
};
use ipnet::IpNet;

use super::{
    maps::{SlotIndex, take},
    object::{IndexPin, load_object},
    pins::PinDirectory,
    state::{State, Writer},
};
use crate::compile::{
    HostPlan, SlotTables, build_index, host_in_line, host_line, host_stripe, plan_host,
};

/// Its name in the object, and of its pin.
pub(super) const INDEX: &str = "INDEX";

/// The pin of a longer one that is about to take its place.
const NEXT: &str = "INDEX_NEXT";

/// The index of both slots.
pub(super) struct Index {
    map: Array<MapData, LineWords>,
    parts: [Part; 2],
}

/// What is known of a slot's part.
#[derive(Default)]
struct Part {
    /// What the kernel holds of it: nobody else writes it.
    layout: IndexLayout,
    /// Places that stay free until all packets are through that may be reading them.
    retired: BTreeSet<(u32, u32)>,
    /// Addresses that found no room since the part was written.
    crowded: u32,
}

/// Lines of one slot of the pinned index.
///
/// # Errors
///
/// It is not pinned.
pub(super) fn pinned_lines(pins: &PinDirectory) -> Result<u32> {
    let data =
        MapData::from_pin(pins.map(INDEX)).context("the pinned map INDEX can't be opened")?;
    Ok(data.info()?.max_entries() / SLOTS)
}

// === impl Index ===

impl Index {
    /// An index, and how its parts are laid out.
    pub(super) fn open(map: Array<MapData, LineWords>, layouts: [IndexLayout; 2]) -> Self {
        Self { map, parts: layouts.map(|layout| Part { layout, ..Part::default() }) }
    }

    /// Lines of one slot.
    pub(super) fn lines(&self) -> u32 {
        self.map.len() / SLOTS
    }

    /// How a slot's part is laid out.
    pub(super) fn layout(&self, slot: SlotIndex) -> IndexLayout {
        self.part(slot).layout
    }

    /// How many addresses found no room in a slot since it was written.
    pub(super) fn crowded(&self, slot: SlotIndex) -> u32 {
        self.part(slot).crowded
    }

    /// Makes room for `lines` in each slot. What is in force stays so, for programs that are loaded
    /// from now on; those that are loaded already go on with the index as it was.
    pub(super) fn grow(
        &mut self,
        state: &mut State,
        pins: &PinDirectory,
        active: SlotIndex,
        lines: u32,
    ) -> Result<()> {
        let (path, next) = (pins.map(INDEX), pins.map(NEXT));
        if next.exists() {
            // An earlier process ended in between.
            fs::remove_file(&next).with_context(|| format!("{}", next.display()))?;
        }
        let place = IndexPin::Next { lines, path: &next };
        let mut ebpf = load_object(&mut EbpfLoader::new(), pins, place)?;
        let mut map: Array<MapData, LineWords> = take(&mut ebpf, INDEX)?;
        let writer = Writer::load(ebpf)?;
        let (from, to) = (active.number() * self.lines(), active.number() * lines);
        for line in 0..self.layout(active).lines.min(lines) {
            map.set(to + line, self.map.get(&(from + line), 0)?, 0)?;
        }
        fs::rename(&next, &path).with_context(|| format!("{}", path.display()))?;
        self.map = map;
        state.write_by(writer)?;
        // Nothing is known of the other slot's part.
        self.forget(state, active.other())
    }

    /// The slot has no index from now on: its tries are asked.
    pub(super) fn forget(&mut self, state: &mut State, slot: SlotIndex) -> Result<()> {
        // Packets may be looking at it: whatever they see of the old layout and the new one, it
        // differs in a single byte.
        self.put_layout(state, slot, IndexLayout { flags: 0, ..self.layout(slot) })
    }

    /// Writes the index of a slot that no packet looks at.
    pub(super) fn build(
        &mut self,
        state: &mut State,
        slot: SlotIndex,
        tables: &SlotTables,
    ) -> Result<()> {
        self.forget(state, slot)?;
        let (room, first) = (self.lines(), slot.number() * self.lines());
        let map = &mut self.map;
        let SlotTables { grants, sources, .. } = tables;
        let layout = build_index(grants, sources, room, |number, lines| -> Result<()> {
            for (place, line) in (first + number..).zip(lines) {
                map.set(place, line, 0).context("the index takes no line")?;
            }
            Ok(())
        })?;
        self.put_layout(state, slot, layout)
    }

    /// Follows a prefix that gets a grant or loses its entry, after the trie. Only single addresses
    /// can be followed: for others the slot has no index any more.
    pub(super) fn follow(
        &mut self,
        state: &mut State,
        slot: SlotIndex,
        prefix: &IpNet,
        grant: Option<Grant>,
    ) -> Result<()> {
        let layout = self.layout(slot);
        if layout.flags == 0 {
            return Ok(());
        }
        if prefix.prefix_len() != prefix.max_prefix_len() {
            return self.forget(state, slot);
        }
        let first = slot.number() * self.lines();
        let (map, retired) = (&self.map, &self.part(slot).retired);
        let read = |number: u32| Ok::<_, anyhow::Error>(map.get(&(first + number), 0)?);
        let HostPlan { mut changes, crowded, retired, .. } =
            plan_host(&layout, prefix.addr(), grant, retired, read)?;
        for change in &mut changes {
            change.place += first * 8;
        }
        let part = self.part_mut(slot);
        part.retired.extend(retired);
        part.crowded += u32::from(crowded);
        state.change(&changes)
    }

    /// Takes the marks of addresses; which had one. Those that have no entry of their own are left
    /// out.
    pub(super) fn take_used<'a>(
        &self,
        state: &mut State,
        slot: SlotIndex,
        addresses: impl IntoIterator<Item = &'a IpAddr>,
    ) -> Result<BTreeSet<IpAddr>> {
        let layout = self.layout(slot);
        let first = slot.number() * self.lines();
        let mark = u64::from(Grant::NONE.used().0);
        let (mut used, mut changes) = (BTreeSet::new(), Vec::new());
        for address in addresses {
            let Some(number) = host_line(&layout, *address) else { continue };
            let line = self.map.get(&(first + number), 0)?;
            let Some((word, shift)) = host_in_line(*address, &line) else { continue };
            let held = usize::try_from(word).ok().and_then(|word| line.get(word));
            if held.is_some_and(|held| held & mark << shift != 0) {
                used.insert(*address);
                changes.push(IndexChange {
                    place: (first + number) * 8 + word,
                    action: IndexChange::CLEAR,
                    // Who remembers the mark would set none.
                    stripe: host_stripe(*address),
                    value: mark << shift,
                });
            }
        }
        state.change(&changes)?;
        Ok(used)
    }

    /// Every packet is through that came before now.
    pub(super) fn packets_are_through(&mut self) {
        self.parts.iter_mut().for_each(|part| part.retired.clear());
    }

    fn put_layout(
        &mut self,
        state: &mut State,
        slot: SlotIndex,
        layout: IndexLayout,
    ) -> Result<()> {
        state.put_layout(slot, layout)?;
        // What is remembered of the slot was read where another layout led to.
        let moved = IndexChange { action: IndexChange::NOTHING, ..IndexChange::default() };
        let all = (0..u16::try_from(STRIPES)?).map(|stripe| IndexChange { stripe, ..moved });
        state.change(&all.collect::<Vec<_>>())?;
        // A part that is written anew is one that no packet looks at.
        *self.part_mut(slot) = Part { layout, ..Part::default() };
        Ok(())
    }

    fn part(&self, slot: SlotIndex) -> &Part {
        let [first, second] = &self.parts;
        slot.of_both(first, second)
    }

    fn part_mut(&mut self, slot: SlotIndex) -> &mut Part {
        let [first, second] = &mut self.parts;
        slot.of_both(first, second)
    }
}
