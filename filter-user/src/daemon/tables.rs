// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two slots in the kernel and what they mean: swapping policies and editing the slot in
//! force.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use filter_common::wire::{
    Active, COUNTERS_PER_NIC, DEFAULT_INDEX_LINES, FIRST_MATCH, Grant, IndexLayout, MAX_NICS, SLOTS,
};
use ipnet::IpNet;

use super::service;
use crate::{
    compile::{
        Compiled, CounterLedger, Edit, NamesError, SlotTables, Step, apply, index_lines,
        new_grants, plan_names, plan_sweep, rebuild, rebuild_for_grants, wanted_index_lines,
    },
    kernel::{
        PinDirectory, SharedMaps,
        maps::{Provenance, SlotIndex},
    },
    names::Changed,
};

/// Addresses that found no room in the index, after which it is built anew with more.
const CROWDED: u32 = 2048;

/// Steps after which the service manager hears that work goes on; they take some 20 ms.
const STEPS_OF_A_PART: usize = 4096;

/// The slots, with a mirror of what the kernel holds.
#[derive(Debug)]
pub struct TwoSlots {
    /// The maps.
    pub maps: SharedMaps,
    /// The slot that packets see.
    active: SlotIndex,
    generation: u64,
    in_force: Compiled,
    meaning: Meant,
    /// `None` while it isn't known what the slot holds.
    idle: Option<Arc<SlotTables>>,
    /// What is in force again if the policy in force isn't confirmed. It stands in the idle slot and
    /// follows changed addresses, too.
    fallback: Option<Box<Compiled>>,
}

/// Whether the tables in force wait to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They stay.
    Final,
    /// The ones before come back unless somebody confirms them.
    Provisional,
}

/// Whether it is known what the rows of the slot in force stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meant {
    Known,
    /// The tables were read from the kernel, or an edit of them ended in the middle.
    Unknown,
}

/// What was found in the kernel at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Fresh maps.
    Nothing,
    /// A policy in force.
    Policy,
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    /// Every row is in use.
    Nothing,
    /// Rows that are free now.
    Rows,
}

// === impl TwoSlots ===

impl TwoSlots {
    /// Looks at what the maps hold.
    ///
    /// # Errors
    ///
    /// A map can't be read.
    pub fn open(mut maps: SharedMaps, provenance: Provenance) -> Result<(Self, Found)> {
        let mut word = maps.active()?;
        if word.is_provisional() {
            tracing::warn!(
                "a policy waited to be confirmed as the daemon ended; the one before stays"
            );
            word = Active::new(SlotIndex::of(word).other().number(), word.generation() + 1);
            maps.activate(SlotIndex::of(word), word.generation())?;
        }
        let active = SlotIndex::of(word);
        let found = if word == Active::default() { Found::Nothing } else { Found::Policy };
        // Also without a policy in force: an earlier start may have ended in the middle.
        let mut read = |slot| match provenance {
            Provenance::Created => Ok(SlotTables::default()),
            Provenance::Pinned => maps.read_slot(slot),
        };
        let in_force = Compiled { tables: read(active)?, ..Compiled::default() };
        let idle = Some(Arc::new(read(active.other())?));
        let generation = word.generation();
        let meaning = Meant::Unknown;
        Ok((Self { maps, active, generation, in_force, meaning, idle, fallback: None }, found))
    }

    /// The number of the policy in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What is in force.
    #[must_use]
    pub fn in_force(&self) -> &Compiled {
        &self.in_force
    }

    /// How many lines the index of these tables wants in each slot, if it has not as many as it needs.
    #[must_use]
    pub fn wanted_lines(&self, compiled: &Compiled) -> Option<u32> {
        let needed = compiled.index_lines;
        (needed > self.maps.index_room()).then(|| wanted_index_lines(needed))
    }

    /// Whether the index never grew, so that all programs there are look at the same one.
    #[must_use]
    pub fn has_first_index(&self) -> bool {
        self.maps.index_room() == DEFAULT_INDEX_LINES
    }

    /// Makes the index longer. Until programs that were loaded before are replaced, nothing else may be
    /// done with the slots.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for it; then it is as it was.
    pub fn grow_index(&mut self, pins: &PinDirectory, lines: u32) -> Result<()> {
        self.maps.grow_index(pins, self.active, lines).with_context(|| {
            let mebibytes = (u64::from(lines) * u64::from(SLOTS) * 64) >> 20;
            format!("the index of destinations wants {mebibytes} MiB of kernel memory")
        })
    }

    /// Whether packets of the usual kind are judged by the index; else the tries are asked, which takes
    /// several times as long.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        let flags = IndexLayout::V4 | IndexLayout::V6;
        self.maps.index_layout(self.active).flags & flags == flags
    }

    /// What was in force before the last swap; `None` while it isn't known.
    #[must_use]
    pub fn before(&self) -> Option<Arc<SlotTables>> {
        self.idle.clone()
    }

    /// Builds tables in the idle slot and puts them in force by one store, which is the last thing
    /// it does: on an error the slot in force is as it was, without one the new tables are.
    ///
    /// # Errors
    ///
    /// A map can't be written.
    pub fn swap(&mut self, compiled: Compiled) -> Result<()> {
        self.fill_idle(&compiled)?;
        let target = self.active.other();
        self.maps.activate(target, self.generation + 1)?;
        self.idle = Some(Arc::new(self.switched_to(target, compiled).tables));
        Ok(())
    }

    /// As [`Self::swap`], until a tick of the programs' clock: unless [`Self::confirm`] comes before,
    /// the tables in force now are in force again from then on.
    ///
    /// # Errors
    ///
    /// A map can't be written.
    pub fn swap_until(&mut self, compiled: Compiled, tick: u64) -> Result<()> {
        self.fill_idle(&compiled)?;
        let target = self.active.other();
        self.maps.activate_until(target, self.generation + 1, tick)?;
        let before = self.switched_to(target, compiled);
        self.idle = None;
        self.fallback = Some(Box::new(before));
        Ok(())
    }

    /// What is in force is from now on.
    fn switched_to(&mut self, slot: SlotIndex, compiled: Compiled) -> Compiled {
        self.generation += 1;
        self.active = slot;
        self.meaning = Meant::Known;
        std::mem::replace(&mut self.in_force, compiled)
    }

    /// Whether the tables in force wait to be confirmed.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.fallback {
            Some(_) => Standing::Provisional,
            None => Standing::Final,
        }
    }

    /// Keeps what waits to be confirmed.
    ///
    /// # Errors
    ///
    /// A map can't be written.
    pub fn confirm(&mut self) -> Result<()> {
        self.maps.activate(self.active, self.generation)?;
        if let Some(before) = self.fallback.take() {
            self.idle = Some(Arc::new(before.tables));
        }
        Ok(())
    }

    /// Puts what was in force before back in the place of what waits to be confirmed, whether its time
    /// is over or not.
    ///
    /// # Errors
    ///
    /// A map can't be written.
    pub fn revert(&mut self) -> Result<()> {
        let Some(before) = self.fallback.take() else { return Ok(()) };
        let target = self.active.other();
        if let Err(error) = self.maps.activate(target, self.generation + 1) {
            self.fallback = Some(before);
            return Err(error);
        }
        self.idle = Some(Arc::new(self.switched_to(target, *before).tables));
        Ok(())
    }

    /// Writes tables into the idle slot.
    fn fill_idle(&mut self, compiled: &Compiled) -> Result<()> {
        self.keep_fallback()?;
        let target = self.active.other();
        // Packets that still look at this slot, from before the last swap, even if that was
        // another daemon's, are let through first.
        self.maps.wait_for_packets()?;
        let idle = match self.idle.take() {
            Some(idle) => idle,
            None => Arc::new(self.maps.read_slot(target)?),
        };
        self.maps.forget_index(target)?;
        // Until all steps are done it isn't known what the slot holds, so nothing is put back
        // before.
        let (old, new) = (&*idle, &compiled.tables);
        carry_out(&mut self.maps, target, rebuild_for_grants(old, new))
            .and_then(|()| insert_grants(&mut self.maps, target, || new_grants(old, new)))
            .and_then(|()| self.maps.build_index(target, new))
            .context("the new tables can't be written; the old ones stay in force")?;
        // The store that puts the slot in force must not overtake those that fill it.
        self.maps.wait_for_packets()?;
        self.idle = None;
        Ok(())
    }

    /// The idle slot belongs to what comes back if the policy in force isn't confirmed.
    fn keep_fallback(&self) -> Result<()> {
        match self.standing() {
            Standing::Final => Ok(()),
            Standing::Provisional => bail!(
                "a policy waits to be confirmed, and both sets of tables are in use until then; \
                 `sluice confirm` or `sluice rollback` ends that"
            ),
        }
    }

    /// Empties the idle slot, so that nothing in it holds counters any more.
    ///
    /// # Errors
    ///
    /// A map can't be written.
    pub fn clear_idle(&mut self) -> Result<()> {
        self.keep_fallback()?;
        let target = self.active.other();
        self.maps.wait_for_packets()?;
        let idle = match self.idle.take() {
            Some(idle) => idle,
            None => Arc::new(self.maps.read_slot(target)?),
        };
        self.maps.forget_index(target)?;
        carry_out(&mut self.maps, target, rebuild(&idle, &SlotTables::default()))?;
        self.idle = Some(Arc::default());
        Ok(())
    }

    /// Plans how the slot in force follows names that gained or lost addresses.
    ///
    /// # Errors
    ///
    /// There is no room beside what is there, or it isn't known what that means.
    pub fn plan_names(
        &self,
        changed: &Changed,
        ledger: &CounterLedger,
    ) -> Result<Edit, NamesError> {
        match self.meaning {
            Meant::Known => plan_names(&self.in_force, changed, ledger),
            Meant::Unknown => Err(NamesError::Unexplained),
        }
    }

    /// Changes the slot in force as [`Self::plan_names`] planned it, step by step; each destination
    /// sees its old grant or its new one.
    ///
    /// # Errors
    ///
    /// A map can't be written. The steps that were carried out stay, and only a swap puts that
    /// right.
    pub fn edit_names(&mut self, edit: Edit) -> Result<()> {
        let steps = edit.steps();
        for (number, step) in steps.iter().enumerate() {
            if let Err(error) = carry_out(&mut self.maps, self.active, [*step]) {
                let done = steps.iter().take(number);
                done.for_each(|step| apply(&mut self.in_force.tables, step));
                self.meaning = Meant::Unknown;
                return Err(error.context("the tables in force can't be changed"));
            }
        }
        edit.record(&mut self.in_force);
        Ok(())
    }

    /// Plans how what comes back if the policy in force isn't confirmed follows the same names.
    ///
    /// # Errors
    ///
    /// There is no room beside what is there.
    pub fn plan_fallback_names(
        &self,
        changed: &Changed,
        ledger: &CounterLedger,
    ) -> Result<Option<Edit>, NamesError> {
        self.fallback.as_ref().map(|before| plan_names(before, changed, ledger)).transpose()
    }

    /// Changes what comes back if the policy in force isn't confirmed.
    ///
    /// # Errors
    ///
    /// A map can't be written; then it isn't known any more what would come back.
    pub fn edit_fallback_names(&mut self, edit: Edit) -> Result<()> {
        let Some(before) = &mut self.fallback else { return Ok(()) };
        carry_out(&mut self.maps, self.active.other(), edit.steps().iter().copied())
            .context("the tables that may come back can't be changed")?;
        edit.record(before);
        Ok(())
    }

    /// Whether it is known what the tables in force mean.
    #[must_use]
    pub fn is_explained(&self) -> bool {
        self.meaning == Meant::Known
    }

    /// Which addresses are in use, as [`SharedMaps::take_used`]: in the slot in force, and in the one
    /// that was in force before, whose packets nobody has asked for since the swap.
    ///
    /// An entry that [`edit_names`](Self::edit_names) replaces, as the rules for its address change, counts as
    /// not used until the next packet.
    ///
    /// # Errors
    ///
    /// A map can't be read or written.
    pub fn take_used(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>> {
        let held = &self.in_force.tables;
        let mut used = self.maps.take_used(self.active, held, addresses)?;
        let other = self.fallback.as_ref().map(|before| &before.tables).or(self.idle.as_deref());
        if let Some(held) = other {
            used.extend(self.maps.take_used(self.active.other(), held, addresses)?);
        }
        Ok(used)
    }

    /// Whether so many learned addresses found no room in the index that it is worth to build it anew.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.maps.index_crowded(self.active) > CROWDED
            && index_lines(&self.in_force.tables.grants) <= self.maps.index_room()
    }

    /// Clears rows that nothing leads to any more, so that they can be used again.
    ///
    /// # Errors
    ///
    /// As [`Self::edit_names`].
    pub fn sweep(&mut self) -> Result<Swept> {
        let planned = match self.meaning {
            Meant::Known => plan_sweep(&self.in_force),
            Meant::Unknown => None,
        };
        let Some(edit) = planned else { return Ok(Swept::Nothing) };
        // Packets that came before the last prefix went may be on their way to these rows.
        self.maps.wait_for_packets()?;
        self.edit_names(edit)?;
        Ok(Swept::Rows)
    }

    /// Gives counters back that neither slot counts at.
    ///
    /// # Errors
    ///
    /// A counter can't be set to zero.
    pub fn retire_counters(&mut self, ledger: &mut CounterLedger) -> Result<()> {
        let mut referenced = self.in_force.tables.counters();
        let other = self.fallback.as_ref().map(|before| &before.tables).or(self.idle.as_deref());
        match other {
            Some(other) => referenced.extend(other.counters()),
            None => referenced.extend(self.maps.read_slot(self.active.other())?.counters()),
        }
        for counter in ledger.retire(&referenced) {
            for nic in 0..u8::try_from(MAX_NICS)? {
                self.maps.clear_counter(nic, counter)?;
            }
        }
        Ok(())
    }

    /// Sets the counters of all matches to zero, where it isn't known what they counted.
    ///
    /// # Errors
    ///
    /// A counter can't be set to zero.
    pub fn forget_counters(&mut self) -> Result<()> {
        for nic in 0..u8::try_from(MAX_NICS)? {
            for counter in FIRST_MATCH..COUNTERS_PER_NIC {
                self.maps.clear_counter(nic, counter)?;
            }
        }
        Ok(())
    }

    /// Sets all counters of a NIC to zero: its index counted for another one.
    ///
    /// # Errors
    ///
    /// A counter can't be set to zero.
    pub fn forget_nic(&mut self, nic: u8) -> Result<()> {
        for counter in 0..COUNTERS_PER_NIC {
            self.maps.clear_counter(nic, counter)?;
        }
        Ok(())
    }
}

/// Inserts destination prefixes, of which there may be a million.
fn insert_grants<I: Iterator<Item = (IpNet, Grant)>>(
    maps: &mut SharedMaps,
    slot: SlotIndex,
    grants: impl Fn() -> I + Sync,
) -> Result<()> {
    let number = AtomicUsize::new(1);
    let each = || {
        if number.fetch_add(1, Ordering::Relaxed).is_multiple_of(STEPS_OF_A_PART) {
            service::alive();
        }
    };
    maps.insert_grants(slot, grants, each)
        .context("the map of destination prefixes refuses an entry")
}

fn carry_out(
    maps: &mut SharedMaps,
    slot: SlotIndex,
    steps: impl IntoIterator<Item = Step>,
) -> Result<()> {
    for (number, step) in steps.into_iter().enumerate() {
        if number % STEPS_OF_A_PART == STEPS_OF_A_PART - 1 {
            service::alive();
        }
        maps.apply(slot, &step).with_context(|| {
            let kind = match step {
                Step::Settings(_) => "settings",
                Step::Zone { .. } => "zones",
                Step::PortClass { .. } => "port classes",
                Step::Cell { .. } => "grants",
                Step::PortCell { .. } => "port sets",
                Step::ServiceHost { .. } => "services' hosts",
                Step::InsertGrant(..) | Step::RemoveGrant(_) => "destination prefixes",
                Step::InsertSource(..) | Step::RemoveSource(_) => "source prefixes",
            };
            format!("the map of {kind} refuses an entry")
        })?;
    }
    Ok(())
}
