// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs ask for with every packet, in the kernel, and the program that writes it and the index: so no packet sees
//! half of a word.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, TestRun as _,
    maps::{Array, MapData},
    programs::TestRunOptions,
};
use filter_common::wire::{self, Active, INDEX_CHANGES, IndexChange, IndexLayout, SlotSettings};

use super::{
    flows,
    maps::SlotIndex,
    object::{explain_load_error, xdp},
};

/// Its name in the object, and of its pin.
pub(super) const STATE: &str = "STATE";

/// The program that writes.
const PROGRAM: &str = "sluice_store";

/// Where the changes begin in a frame: behind an Ethernet header.
const HEADER: usize = 14;

/// The state, and who writes it.
pub(super) struct State {
    map: Array<MapData, wire::State>,
    /// An object without any maps of its own use: its programs write, but for the index once that has grown.
    programs: Ebpf,
    grown: Option<Writer>,
}

/// The program, over one index.
pub(super) struct Writer {
    ebpf: Ebpf,
}

// === impl Writer ===

impl Writer {
    /// Loads the program of an object.
    pub(super) fn load(mut ebpf: Ebpf) -> Result<Self> {
        xdp(&mut ebpf, PROGRAM)?.load().map_err(|error| explain_load_error(&error))?;
        Ok(Self { ebpf })
    }
}

// === impl State ===

impl State {
    /// The state, written by the program of an object that has nothing else to give.
    pub(super) fn open(map: Array<MapData, wire::State>, ebpf: Ebpf) -> Result<Self> {
        let Writer { ebpf: mut programs } = Writer::load(ebpf)?;
        flows::load_program(&mut programs)?;
        Ok(Self { map, programs, grown: None })
    }

    /// From now on another program writes, over another index.
    pub(super) fn write_by(&mut self, writer: Writer) -> Result<()> {
        if self.grown.replace(writer).is_none() {
            // It would keep the older index alive.
            xdp(&mut self.programs, PROGRAM)?.unload()?;
        }
        Ok(())
    }

    /// The programs that were loaded first, of which one changes flows.
    pub(super) fn programs(&mut self) -> &mut Ebpf {
        &mut self.programs
    }

    /// The word that says which slot is in force.
    pub(super) fn active(&self) -> Result<Active> {
        Ok(Active(self.read()?.active))
    }

    /// The settings of a slot.
    pub(super) fn settings(&self, slot: SlotIndex) -> Result<SlotSettings> {
        let [first, second] = self.read()?.settings;
        Ok(slot.of_both(first, second))
    }

    /// Puts a word in force.
    pub(super) fn put_active(&mut self, active: Active) -> Result<()> {
        let activations = self.read()?.activations + 1;
        // The count goes on first: a packet that has the older word and the newer count has what no packet has later.
        self.put(wire::State::ACTIVATIONS, &[activations])?;
        self.put(wire::State::ACTIVE, &[active.0])
    }

    /// Writes the deadline.
    pub(super) fn put_deadline(&mut self, tick: u64) -> Result<()> {
        self.put(wire::State::DEADLINE, &[tick])
    }

    /// Writes the settings of a slot that no packet looks at.
    pub(super) fn put_settings(&mut self, slot: SlotIndex, settings: SlotSettings) -> Result<()> {
        self.put(wire::State::settings_of(slot.number()), &settings.words())
    }

    /// Writes the layout of a slot's index.
    pub(super) fn put_layout(&mut self, slot: SlotIndex, layout: IndexLayout) -> Result<()> {
        self.put(wire::State::layout_of(slot.number()), &layout.words())
    }

    /// Has the program make changes, in their order. Whole frames of them may be made when it fails.
    pub(super) fn change(&mut self, changes: &[IndexChange]) -> Result<()> {
        for part in changes.chunks(INDEX_CHANGES as usize) {
            let mut frame = vec![0; HEADER];
            for IndexChange { place, action, stripe, value } in part {
                frame.extend(place.to_ne_bytes());
                frame.extend(action.to_ne_bytes());
                frame.extend(stripe.to_ne_bytes());
                frame.extend(value.to_ne_bytes());
            }
            let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
            let ebpf = match &mut self.grown {
                Some(writer) => &mut writer.ebpf,
                None => &mut self.programs,
            };
            let made = xdp(ebpf, PROGRAM)?
                .test_run(options)
                .context("the kernel refused to run the program that writes the tables")?;
            ensure!(
                usize::try_from(made.return_value).ok() == Some(part.len()),
                "the tables take no change"
            );
        }
        Ok(())
    }

    fn read(&self) -> Result<wire::State> {
        self.map.get(&0, 0).context("the map STATE can't be read")
    }

    fn put(&mut self, first: u32, words: &[u64]) -> Result<()> {
        let change = |(place, value): (u32, &u64)| IndexChange {
            place,
            action: IndexChange::STATE,
            stripe: 0,
            value: *value,
        };
        self.change(&(first..).zip(words).map(change).collect::<Vec<_>>())
    }
}
