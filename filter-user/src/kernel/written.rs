// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which parts of a slot's arrays may hold anything, so that only those are read back.
//!
//! A mark stands for a chunk of entries of one array in one slot. It is set before the first entry
//! there is written that isn't zero, and taken away only after all of them were read as zeros. So
//! whenever a process ends, what isn't marked is zero.

use std::ops::Range;

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use filter_common::wire::{
    COUNTERS_PER_NIC, CellWord, MAX_CELLS, MAX_NICS, MAX_PORT_CELLS, PORT_CLASS_WORDS, SLOTS,
    VLANS, WRITTEN_CHUNK, WRITTEN_WORDS,
};

use super::maps::{Provenance, SlotIndex};

/// An array that holds both slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotArray {
    Zones,
    Cells,
    PortClasses,
    PortCells,
    ServiceHosts,
}

/// The marks, with a mirror of what the kernel holds: nobody else writes them.
pub(super) struct Written {
    map: Array<MapData, u64>,
    words: Vec<u64>,
}

/// Entries that one word of marks stands for.
const PER_WORD: u32 = WRITTEN_CHUNK * u64::BITS;

/// The word that says that the marks hold: they don't where a process ended before it had set them
/// for the first time.
const VALID: u32 = WRITTEN_WORDS - 1;
const IS_VALID: u64 = 1;

/// The words of one slot.
const SLOT_WORDS: u32 = words(SlotArray::Zones)
    + words(SlotArray::Cells)
    + words(SlotArray::PortClasses)
    + words(SlotArray::PortCells)
    + words(SlotArray::ServiceHosts);

const _: () = assert!(SLOTS * SLOT_WORDS + 1 == WRITTEN_WORDS);

const fn words(array: SlotArray) -> u32 {
    array.capacity().div_ceil(PER_WORD)
}

// === impl SlotArray ===

impl SlotArray {
    /// The entries that one slot may have.
    pub(super) const fn capacity(self) -> u32 {
        match self {
            Self::Zones => MAX_NICS * VLANS,
            Self::Cells => MAX_CELLS,
            Self::PortClasses => PORT_CLASS_WORDS,
            Self::PortCells => MAX_PORT_CELLS,
            Self::ServiceHosts => COUNTERS_PER_NIC,
        }
    }

    /// Where an entry of a slot stands in the array: one slot behind the other, or, of cells, in a word with others.
    pub(super) const fn place(self, slot: SlotIndex, index: u32) -> u32 {
        match self {
            Self::Cells => index / CellWord::CELLS,
            Self::Zones | Self::PortClasses | Self::PortCells | Self::ServiceHosts => {
                slot.number() * self.capacity() + index
            }
        }
    }

    /// Where its words begin in those of a slot.
    const fn first_word(self) -> u32 {
        match self {
            Self::Zones => 0,
            Self::Cells => Self::Zones.first_word() + words(Self::Zones),
            Self::PortClasses => Self::Cells.first_word() + words(Self::Cells),
            Self::PortCells => Self::PortClasses.first_word() + words(Self::PortClasses),
            Self::ServiceHosts => Self::PortCells.first_word() + words(Self::PortCells),
        }
    }

    /// The word and the bit of an entry's mark.
    fn mark(self, slot: SlotIndex, index: u32) -> (u32, u64) {
        let word = slot.number() * SLOT_WORDS + self.first_word() + index / PER_WORD;
        (word, 1 << (index % PER_WORD / WRITTEN_CHUNK))
    }
}

// === impl Written ===

impl Written {
    /// Reads the marks. Where it isn't known that they hold, everything is marked.
    pub(super) fn open(map: Array<MapData, u64>, provenance: Provenance) -> Result<Self> {
        let words = (0..WRITTEN_WORDS).map(|word| map.get(&word, 0)).collect::<Result<_, _>>()?;
        let mut written = Self { map, words };
        if written.word(VALID) != IS_VALID {
            let marks = match provenance {
                Provenance::Created => 0,
                Provenance::Pinned => u64::MAX,
            };
            for word in 0..VALID {
                written.set(word, marks)?;
            }
            written.set(VALID, IS_VALID)?;
        }
        Ok(written)
    }

    /// Marks the chunk of an entry, before that is written.
    pub(super) fn mark(&mut self, array: SlotArray, slot: SlotIndex, index: u32) -> Result<()> {
        let (word, bit) = array.mark(slot, index);
        let marks = self.word(word);
        if marks & bit == 0 { self.set(word, marks | bit) } else { Ok(()) }
    }

    /// Takes the mark of a chunk away that holds nothing but zeros.
    pub(super) fn unmark(&mut self, array: SlotArray, slot: SlotIndex, index: u32) -> Result<()> {
        let (word, bit) = array.mark(slot, index);
        self.set(word, self.word(word) & !bit)
    }

    /// The chunks of a slot's array that may hold something: their entries, without those of other
    /// slots.
    pub(super) fn chunks(&self, array: SlotArray, slot: SlotIndex) -> Vec<Range<u32>> {
        let firsts = (0..array.capacity()).step_by(WRITTEN_CHUNK as usize);
        let is_marked = |first: &u32| {
            let (word, bit) = array.mark(slot, *first);
            self.word(word) & bit != 0
        };
        let chunk = |first: u32| first..(first + WRITTEN_CHUNK).min(array.capacity());
        firsts.filter(is_marked).map(chunk).collect()
    }

    fn word(&self, word: u32) -> u64 {
        let found = usize::try_from(word).ok().and_then(|word| self.words.get(word));
        // A word that can't be there says that everything has to be read.
        found.copied().unwrap_or(u64::MAX)
    }

    fn set(&mut self, word: u32, value: u64) -> Result<()> {
        let mirror = self.words.get_mut(usize::try_from(word)?);
        let mirror = mirror.context("there are no such marks")?;
        self.map.set(word, value, 0)?;
        *mirror = value;
        Ok(())
    }
}
