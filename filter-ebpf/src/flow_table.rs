// SPDX-License-Identifier: MIT OR GPL-2.0
//! The table of flows over its maps (`filter_common::flow_table`).
//!
//! A packet reads a set without waiting for anybody. Whoever puts a flow into a set has it for itself meanwhile, and writes
//! the tag last; where another CPU has the set, the flow is put into `FLOWS`. Nobody but user space takes a flow out, and its
//! place is used again only when no packet can be reading it any more.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{helpers::generated::bpf_jiffies64, programs::XdpContext};
use filter_common::{
    flow::{Flow, FlowState, Load, Way},
    flow_table::{FREE, LEAVING, Lane, Place, SPILL},
    frame::Frame as _,
    wire::{
        FLOW_CHANGES, FLOWS_PER_SET, FlowChange, FlowEntry, FlowKey, FlowRecord, FlowTags,
        TAGS_IN_ENTRY,
    },
};

use crate::{
    HERTZ, OBSERVE, SETS, atomic,
    frame::PacketFrame,
    global,
    maps::{FLOW_ENTRIES, FLOW_SPILLS, FLOW_TAGS, FLOWS},
};

/// A flow that was found. An entry of the table keeps its flow until the program ends. The kernel doesn't use the memory of
/// one in `FLOWS` for another before that either, but for flows that are evicted: then a packet may count for a stranger.
pub(crate) struct FoundFlow {
    record: *mut FlowRecord,
    /// `FlowEntry::checked`; null in `FLOWS`.
    checked: *mut u64,
}

/// How often a program tries to get a set that another one has, which takes it a few dozen nanoseconds.
const ATTEMPTS: u32 = 8;

/// The set that a tuple leads to.
struct Set {
    tags: *mut FlowTags,
    place: Place,
}

impl Flow for FoundFlow {
    #[inline(always)]
    fn state_code(&self) -> u32 {
        // SAFETY: the pointer came from a look-up in this run of the program, until whose end the
        // entry's memory stays; volatile, as other CPUs may write the aligned word.
        unsafe { read_volatile(&raw const (*self.record).state) }
    }

    #[inline(always)]
    fn origin_code(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.record).origin) }
    }

    #[inline(always)]
    fn seen(&self) -> u64 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.record).seen) }
    }

    #[inline(always)]
    fn is_checked(&self, stamp: u64) -> bool {
        // SAFETY: as above.
        !self.checked.is_null() && unsafe { read_volatile(self.checked) } == stamp
    }

    #[inline(always)]
    fn set_checked(&self, stamp: u64) {
        if !self.checked.is_null() {
            // SAFETY: as above; one store of the aligned word.
            unsafe { write_volatile(self.checked, stamp) };
        }
    }

    #[inline(always)]
    fn advance(&self, now: u64, state: FlowState, way: Way, load: Load) {
        let old = self.state_code();
        // SAFETY: as above; each is one store of an aligned word.
        let (packets, bytes) = unsafe {
            write_volatile(&raw mut (*self.record).seen, now);
            // One that was cut since it was looked at stays cut: only a flow that is opened anew has another state then.
            if old != state.code() && old != FlowState::Cut.code() {
                write_volatile(&raw mut (*self.record).state, state.code());
            }
            match way {
                Way::Outgoing => {
                    (&raw mut (*self.record).packets_out, &raw mut (*self.record).bytes_out)
                }
                Way::Incoming => {
                    (&raw mut (*self.record).packets_in, &raw mut (*self.record).bytes_in)
                }
            }
        };
        atomic::add(packets, u64::from(load.packets));
        atomic::add(bytes, u64::from(load.bytes));
    }
}

/// The flow with this tuple, also one that has expired.
#[inline(always)]
pub(crate) fn find(key: &FlowKey) -> Option<FoundFlow> {
    let set = Set::of(key)?;
    match set.find(key) {
        Some(found) => Some(found),
        None => set.find_spilled(key),
    }
}

/// Remembers a flow, in the place of one with the same tuple.
#[inline(always)]
pub(crate) fn open(key: &FlowKey, record: &FlowRecord) {
    let Some(set) = Set::of(key) else { return };
    let locked = (0..ATTEMPTS).any(|_| set.lock());
    let kept = match set.find(key) {
        Some(old) => {
            write(old.record, record);
            true
        }
        None => locked && !set.is_spilled(key) && set.put(key, record).is_some(),
    };
    if locked {
        set.unlock();
    }
    if !kept {
        set.spill(key, record);
    }
}

impl Set {
    #[inline(always)]
    fn of(key: &FlowKey) -> Option<Self> {
        let place = Place::of(key, global(&SETS));
        Some(Self { tags: tags_of(place.set)?, place })
    }

    #[inline(always)]
    fn tags(&self) -> FlowTags {
        // SAFETY: an aligned word of a map's value; volatile, as other CPUs write it.
        unsafe { read_volatile(self.tags) }
    }

    /// The word itself.
    #[inline(always)]
    fn word(&self) -> *mut u64 {
        self.tags.cast()
    }

    #[inline(always)]
    fn entry(&self, number: u32) -> Option<*mut FlowEntry> {
        FLOW_ENTRIES.get_ptr_mut(self.place.set * FLOWS_PER_SET + number)
    }

    /// The flow, if the set has it.
    #[inline(always)]
    fn find(&self, key: &FlowKey) -> Option<FoundFlow> {
        let entry = self.entry(self.tags().entry(self.place)?)?;
        let mut difference = 0;
        for (word, wanted) in key.words().into_iter().enumerate() {
            // SAFETY: the entry begins with its key, which isn't written while its tag stands.
            difference |= wanted ^ unsafe { read_volatile(entry.cast::<u64>().add(word)) };
        }
        if difference != 0 {
            return None;
        }
        // SAFETY: both lie within the entry.
        let (record, checked) = unsafe { (&raw mut (*entry).record, &raw mut (*entry).checked) };
        Some(FoundFlow { record, checked })
    }

    /// The flow, if it stands where those do for which their sets have no place.
    #[inline(always)]
    fn find_spilled(&self, key: &FlowKey) -> Option<FoundFlow> {
        if self.tags().0 & FlowTags::SPILLED == 0 {
            return None;
        }
        let (now, spill) = (now(), FLOW_SPILLS.get_ptr(self.place.set)?);
        // SAFETY: an aligned word of a map's value; volatile, as other CPUs write it.
        let until = unsafe { read_volatile(spill) };
        if until < now {
            return None;
        }
        let found = FLOWS.get_ptr_mut(key)?;
        // As long as it is found, it is looked for.
        if until < now + spill_ticks() / 2 && global(&OBSERVE) == 0 {
            self.expect_spilled(now);
        }
        Some(FoundFlow::spilled(found))
    }

    #[inline(always)]
    fn is_spilled(&self, key: &FlowKey) -> bool {
        self.find_spilled(key).is_some()
    }

    #[inline(always)]
    fn expect_spilled(&self, now: u64) {
        if let Some(spill) = FLOW_SPILLS.get_ptr_mut(self.place.set) {
            // SAFETY: one store of an aligned word; whoever else stores, stores nearly the same.
            unsafe { write_volatile(spill, now + spill_ticks()) };
            atomic::set_fetching(self.word(), FlowTags::SPILLED);
        }
    }

    /// Whether the set is for this CPU alone to put flows into.
    #[inline(always)]
    fn lock(&self) -> bool {
        atomic::set_fetching(self.word(), FlowTags::BUSY) & FlowTags::BUSY == 0
    }

    /// What was written is there for whoever has the set next.
    #[inline(always)]
    fn unlock(&self) {
        atomic::add_behind(self.word(), FlowTags::BUSY.wrapping_neg());
    }

    /// Puts a flow into the set, which is locked; `None` where it has no place for it.
    #[inline(always)]
    fn put(&self, key: &FlowKey, record: &FlowRecord) -> Option<()> {
        let lane = self.tags().free(self.place)?;
        let entry = self.entry(lane.entry())?;
        for (word, value) in key.words().into_iter().enumerate() {
            // SAFETY: the entry begins with its key, and nobody reads it as long as its place has no tag.
            unsafe { write_volatile(entry.cast::<u64>().add(word), value) };
        }
        // SAFETY: both lie within the entry.
        unsafe {
            write_volatile(&raw mut (*entry).checked, 0);
            write(&raw mut (*entry).record, record);
        }
        self.change_tag(lane, FREE, self.place.tag);
        Some(())
    }

    /// Puts a tag in the place of another, after everything that was written before. By an addition, as other places
    /// have their tags in the same word.
    #[inline(always)]
    fn change_tag(&self, lane: Lane, from: u64, to: u64) {
        atomic::add_behind(self.word(), lane.placed(to).wrapping_sub(lane.placed(from)));
    }

    /// Forgets the flow.
    #[inline(always)]
    fn forget(&self) {
        if let Some(lane) = self.tags().lane(self.place.tag) {
            self.change_tag(lane, self.place.tag, LEAVING);
        }
    }

    /// Puts a flow where those stand for which their sets have no place.
    #[inline(always)]
    fn spill(&self, key: &FlowKey, record: &FlowRecord) {
        self.expect_spilled(now());
        // Where the kernel has no entry to spare at the moment, the next packet opens it.
        let _full = FLOWS.insert(key, record, 0);
    }
}

/// The tags of a set.
#[inline(always)]
fn tags_of(set: u32) -> Option<*mut FlowTags> {
    let tags = FLOW_TAGS.get_ptr_mut(set / TAGS_IN_ENTRY)?;
    // SAFETY: the word lies within the entry.
    Some(unsafe { tags.cast::<FlowTags>().add((set % TAGS_IN_ENTRY) as usize) })
}

/// Writes the record of a flow that is opened. The state goes first and the moment last: whoever finds an older flow of the
/// same tuple never has its state for one that holds now.
#[inline(always)]
fn write(to: *mut FlowRecord, record: &FlowRecord) {
    // SAFETY: each is one store of an aligned word of a map's value.
    unsafe {
        write_volatile(&raw mut (*to).state, record.state);
        write_volatile(&raw mut (*to).origin, record.origin);
        write_volatile(&raw mut (*to).created, record.created);
        write_volatile(&raw mut (*to).packets_out, record.packets_out);
        write_volatile(&raw mut (*to).bytes_out, record.bytes_out);
        write_volatile(&raw mut (*to).packets_in, record.packets_in);
        write_volatile(&raw mut (*to).bytes_in, record.bytes_in);
        write_volatile(&raw mut (*to).seen, record.seen);
    }
}

/// The moment, in ticks.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no conditions.
    unsafe { bpf_jiffies64() }
}

/// [`SPILL`] in ticks.
#[inline(always)]
fn spill_ticks() -> u64 {
    SPILL * u64::from(global(&HERTZ))
}

/// Makes the changes that stand in a frame, in their order; how many they were.
#[inline(always)]
pub(crate) fn change(context: &XdpContext, cell: *mut u32) -> u32 {
    const WORDS: u32 = 7;
    let frame = PacketFrame::of_xdp(context, cell);
    for number in 0..FLOW_CHANGES {
        let first = 14 + number * WORDS * 8;
        let word = |place: u32| frame.read::<8>(first + place * 8).map(u64::from_ne_bytes);
        let (Some(k0), Some(k1), Some(k2), Some(k3), Some(k4), Some(action), Some(value)) =
            (word(0), word(1), word(2), word(3), word(4), word(5), word(6))
        else {
            return number;
        };
        let key = FlowKey::from_words([k0, k1, k2, k3, k4]);
        if make(&FlowChange { key, action, value }).is_none() {
            return number;
        }
    }
    FLOW_CHANGES
}

#[inline(always)]
fn make(FlowChange { key, action, value }: &FlowChange) -> Option<()> {
    if *action == FlowChange::FREE {
        let [bits, ..] = key.words();
        let tags = tags_of(u32::try_from(*value).ok()?)?;
        atomic::keep(tags.cast(), !bits);
        return Some(());
    }
    let set = Set::of(key)?;
    let (placed, spilled) = (set.find(key), FLOWS.get_ptr_mut(key).map(FoundFlow::spilled));
    let is_meant = |found: &FoundFlow| *action == FlowChange::FORGET || found.seen() == *value;
    match *action {
        FlowChange::CUT => {
            placed.iter().chain(&spilled).for_each(FoundFlow::cut);
        }
        FlowChange::FORGET | FlowChange::FORGET_UNSEEN => {
            if placed.as_ref().is_some_and(is_meant) {
                set.forget();
            }
            if spilled.as_ref().is_some_and(is_meant) {
                // Another may have been first.
                let _gone = FLOWS.remove(key);
            }
        }
        _ => return None,
    }
    Some(())
}

impl FoundFlow {
    /// One that has no place in its set.
    #[inline(always)]
    fn spilled(record: *mut FlowRecord) -> Self {
        Self { record, checked: core::ptr::null_mut() }
    }

    #[inline(always)]
    fn cut(&self) {
        // SAFETY: as for all of a flow; one store of an aligned word.
        unsafe { write_volatile(&raw mut (*self.record).state, FlowState::Cut.code()) };
    }
}
