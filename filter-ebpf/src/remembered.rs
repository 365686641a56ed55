// SPDX-License-Identifier: MIT OR GPL-2.0
//! What a CPU remembers of the look-ups that it made, so that most packets need none: destinations
//! and their grants, sources and their classes.
//!
//! * What was found holds for one value of the word that names the slot in force. Each CPU counts how
//!   often it saw another one than before: its *epoch*.
//! * Single destinations change while a slot is in force. Each belongs to a stripe, whose counter in `MOVES`
//!   goes on after every change of the index that concerns it, also when its mark is taken
//!   (`IndexChange::MOVE`). The counter is read *before* the index is: whatever is remembered with a
//!   value of it was true when the counter had reached that value, or became so later.
//!
//! Only grants that the index is sure of are remembered, and only marked ones, so that a packet which finds
//! one has nothing to do but to go on; and with each the permit that the first packet got for its class and its
//! port. Rows, port sets and classes stay what they are as long as anything leads to them, so that a permit holds
//! as long as the grant. Beside them, the gateway's own addresses are remembered, which nobody marks here. What is
//! granted nothing is not, so that whoever tries many addresses doesn't make room for them at the cost of
//! others; and of a destination that is new no more than a tag, so that what comes once costs the others little.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use filter_common::{
    address::Number,
    index::{ALL_MIXED, Found, block_bit, hash, stripe},
    tables::Class,
    wire::{Active, Grant, Permit, STRIPE_BITS, Selector},
};

use crate::maps::{MOVES, REMEMBERED};

/// Pairs of destinations, as powers of two.
const PAIRS4_BITS: u32 = 13;
const PAIRS6_BITS: u32 = 12;
/// Sources, likewise.
const CLASSES_BITS: u32 = 12;

/// All that one CPU remembers.
#[repr(C, align(64))]
pub(crate) struct Remembered {
    /// The word that the epoch belongs to.
    active: u64,
    /// How many such words were seen, above the bits of a stripe's counter. 0: none.
    epoch: u64,
    /// For `Frame::forget`.
    cell: u32,
    /// Up to the end of the processor's line, so that no entry lies in two of them.
    rest: [u32; 11],
    tags4: [Tags; 1 << PAIRS4_BITS],
    tags6: [Tags; 1 << PAIRS6_BITS],
    grants4: [[KnownGrant4; 2]; 1 << PAIRS4_BITS],
    grants6: [[KnownGrant6; 2]; 1 << PAIRS6_BITS],
    classes: [KnownClass; 1 << CLASSES_BITS],
}

// So that no destination lies in two lines. Were the types themselves aligned to lines, the compiler for the
// target would fail where one is copied.
const _: () = assert!(core::mem::offset_of!(Remembered, grants4) % 64 == 0);
const _: () = assert!(core::mem::offset_of!(Remembered, grants6) % 64 == 0);
const _: () = assert!(size_of::<KnownGrant4>() == 32 && size_of::<KnownGrant6>() == 64);

/// The lowest bytes of the hashes of two destinations. Most destinations that nothing is remembered of are told
/// by them, in a table that the processor's nearest cache holds half of.
#[derive(Clone, Copy)]
#[repr(C)]
struct Tags {
    first: u8,
    second: u8,
}

/// What was found of an IPv4 destination. A pair fills a line.
#[derive(Clone, Copy)]
#[repr(C)]
struct KnownGrant4 {
    /// The epoch, and below it the counter of the destination's stripe.
    stamp: u64,
    /// What the permit is for.
    wanted: u64,
    destination: u32,
    grant: u32,
    permit: u32,
    reserved: u32,
}

/// What was found of an IPv6 destination, in a line of its own.
#[derive(Clone, Copy)]
#[repr(C)]
struct KnownGrant6 {
    stamp: u64,
    wanted: u64,
    destination: [u64; 2],
    grant: u32,
    permit: u32,
    reserved: [u64; 3],
}

/// The class of a source in frames without a tag, or of most sources of a block.
#[derive(Clone, Copy)]
#[repr(C)]
struct KnownClass {
    epoch: u64,
    /// The address, or the first one of the block, as two numbers; of IPv4 the first has all bits set, as
    /// no source's of IPv6 has.
    source: [u64; 2],
    class: u32,
    /// Which sources of the block it is not for (`index::mixed_sources`); `ALL_MIXED` where it is for
    /// one address.
    mixed: u32,
}

/// What is asked of a destination.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    hash: u32,
    /// What will be remembered holds with it; 0 where nothing will be, as the destination is new.
    stamp: u64,
}

// === impl Question ===

impl Question {
    /// What was read before the index is looked at, if anything.
    #[inline(always)]
    pub(crate) fn stamp(self) -> u64 {
        self.stamp
    }
}

/// This CPU's memory, for one packet: it has the CPU for itself until its verdict.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    remembered: *mut Remembered,
    epoch: u64,
}

// === impl Memory ===

impl Memory {
    /// This CPU's memory; `None` where it has none.
    #[inline(always)]
    pub(crate) fn of_this_cpu() -> Option<*mut Remembered> {
        // SAFETY: the helper has no conditions.
        REMEMBERED.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
    }

    /// The memory as far as it holds with a word in force.
    #[inline(always)]
    pub(crate) fn with(remembered: *mut Remembered, active: Active) -> Option<Self> {
        // SAFETY: the pointer is to this CPU's value of a map, which belongs to the programs of one NIC; of
        // these only the one on what enters uses it, and a packet has the CPU for itself.
        let header = unsafe { &mut *remembered };
        if header.active != active.0 {
            header.active = active.0;
            header.epoch = header.epoch.checked_add(1 << STRIPE_BITS)?;
        }
        // Before any policy there is nothing to remember.
        if header.epoch == 0 {
            return None;
        }
        Some(Self { remembered, epoch: header.epoch })
    }

    /// The cell for what the verifier must forget.
    #[inline(always)]
    pub(crate) fn cell_of(remembered: *mut Remembered) -> *mut u32 {
        // SAFETY: the pointer is to a whole value.
        unsafe { &raw mut (*remembered).cell }
    }

    /// The same, of this memory.
    #[inline(always)]
    pub(crate) fn cell(&self) -> *mut u32 {
        Self::cell_of(self.remembered)
    }

    /// The grant that is remembered, unsure where there is none, and the permit beside it if it is for what
    /// is wanted.
    #[inline(always)]
    pub(crate) fn grant(
        &self,
        destination: Number,
        wanted: (Class, Selector),
    ) -> (Question, Found, Permit) {
        let hash = hash(destination);
        let (known, grant, (of, permit)) = match destination {
            Number::V4(destination) => {
                let Some(known) = self.pair4(hash).known() else { return unknown(hash) };
                let ours = if known.destination == destination { known.stamp } else { 0 };
                (ours, known.grant, (known.wanted, known.permit))
            }
            Number::V6(high, low) => {
                let Some(known) = self.pair6(hash).known() else { return unknown(hash) };
                let ours = if known.destination == [high, low] { known.stamp } else { 0 };
                (ours, known.grant, (known.wanted, known.permit))
            }
        };
        let Some(moves) = MOVES.get_ptr(0) else { return unknown(hash) };
        // SAFETY: there is a counter for each stripe; volatile, as another CPU writes the aligned word.
        let counter =
            unsafe { core::ptr::read_volatile(moves.cast::<u64>().add(stripe(hash) as usize)) };
        let question = Question { hash, stamp: self.epoch | counter };
        if known != question.stamp {
            return (question, Found::UNSURE, Permit::DENIED);
        }
        let permit = if of == joined(wanted) { Permit(permit) } else { Permit::DENIED };
        (question, Found::grant(Grant(grant)), permit)
    }

    /// Remembers what was found.
    #[inline(always)]
    pub(crate) fn keep(
        &self,
        question: Question,
        destination: Number,
        grant: Grant,
        (wanted, permit): ((Class, Selector), Permit),
    ) {
        let Question { hash, stamp } = question;
        if stamp == 0 {
            match destination {
                Number::V4(_) => self.pair4(hash).expect(),
                Number::V6(..) => self.pair6(hash).expect(),
            }
            return;
        }
        let (wanted, grant, permit) = (joined(wanted), grant.0, permit.0);
        match destination {
            Number::V4(destination) => {
                let known = KnownGrant4 { stamp, wanted, destination, grant, permit, reserved: 0 };
                self.pair4(hash).keep(known, |first| first.destination == destination);
            }
            Number::V6(high, low) => {
                let (destination, reserved) = ([high, low], [0; 3]);
                let known = KnownGrant6 { stamp, wanted, destination, grant, permit, reserved };
                self.pair6(hash).keep(known, |first| first.destination == destination);
            }
        }
    }

    /// The class that is remembered of a source.
    #[inline(always)]
    pub(crate) fn class(&self, source: Number) -> Option<Class> {
        let (address, block) = keys(source);
        let known = self.known_class(block);
        let ours = known.epoch == self.epoch && known.source == block;
        if ours && known.mixed & block_bit(source) == 0 {
            return Some(Class(known.class));
        }
        let known = self.known_class(address);
        let ours = known.epoch == self.epoch && known.source == address;
        if ours && known.mixed == ALL_MIXED {
            return Some(Class(known.class));
        }
        None
    }

    /// Remembers the class of a source, of whose block is known what is mixed in it.
    #[inline(always)]
    pub(crate) fn keep_class(&self, source: Number, class: Class, mixed: u32) {
        let (address, block) = keys(source);
        let of_block = mixed & block_bit(source) == 0;
        let (source, mixed) = if of_block { (block, mixed) } else { (address, ALL_MIXED) };
        let epoch = self.epoch;
        *self.known_class(source) = KnownClass { epoch, source, class: class.0, mixed };
    }

    #[inline(always)]
    fn pair4(&self, hash: u32) -> Pair<KnownGrant4> {
        let place = (hash >> (u32::BITS - PAIRS4_BITS)) as usize;
        // SAFETY: a place within the arrays, in memory that this packet has for itself.
        unsafe {
            let tags = (&raw mut (*self.remembered).tags4).cast::<Tags>();
            let pairs = (&raw mut (*self.remembered).grants4).cast::<[KnownGrant4; 2]>();
            Pair { tags: tags.add(place), grants: pairs.add(place).cast(), tag: tag(hash) }
        }
    }

    #[inline(always)]
    fn pair6(&self, hash: u32) -> Pair<KnownGrant6> {
        let place = (hash >> (u32::BITS - PAIRS6_BITS)) as usize;
        // SAFETY: as above.
        unsafe {
            let tags = (&raw mut (*self.remembered).tags6).cast::<Tags>();
            let pairs = (&raw mut (*self.remembered).grants6).cast::<[KnownGrant6; 2]>();
            Pair { tags: tags.add(place), grants: pairs.add(place).cast(), tag: tag(hash) }
        }
    }

    #[inline(always)]
    fn known_class(&self, [high, low]: [u64; 2]) -> &'static mut KnownClass {
        let mixed = (low ^ high.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // SAFETY: as above.
        unsafe {
            let first = (&raw mut (*self.remembered).classes).cast::<KnownClass>();
            &mut *first.add((mixed >> (u64::BITS - CLASSES_BITS)) as usize)
        }
    }
}

/// Nothing is remembered of a destination.
#[inline(always)]
const fn unknown(hash: u32) -> (Question, Found, Permit) {
    (Question { hash, stamp: 0 }, Found::UNSURE, Permit::DENIED)
}

/// Where two destinations are remembered, seen from one that belongs there.
struct Pair<K> {
    tags: *mut Tags,
    /// The first of two.
    grants: *mut K,
    tag: u8,
}

// === impl Pair ===

impl<K: Copy + 'static> Pair<K> {
    /// The one that may be of the destination, if any. Most are the first one: where a processor has learned that, it
    /// fetches what is known before it has compared the tags.
    #[inline(always)]
    fn known(&self) -> Option<&'static K> {
        // SAFETY: the pointers are to values in memory that this packet has for itself.
        unsafe {
            let tags = *self.tags;
            if tags.first == self.tag {
                Some(&*self.grants)
            } else if tags.second == self.tag {
                Some(&*self.grants.add(1))
            } else {
                None
            }
        }
    }

    /// The next packet to the destination will be remembered.
    #[inline(always)]
    fn expect(&self) {
        // SAFETY: as above.
        unsafe { (*self.tags).second = self.tag };
    }

    /// Remembers a destination as the first one. The one that was it becomes the second, if it is another.
    #[inline(always)]
    fn keep(&self, known: K, is_same: impl Fn(&K) -> bool) {
        // SAFETY: as above.
        unsafe {
            let mut tags = *self.tags;
            if !is_same(&*self.grants) {
                *self.grants.add(1) = *self.grants;
                tags.second = tags.first;
            }
            *self.grants = known;
            *self.tags = Tags { first: self.tag, ..tags };
        }
    }
}

/// What of a hash stands among the tags.
#[inline(always)]
const fn tag(hash: u32) -> u8 {
    let [tag, ..] = hash.to_le_bytes();
    tag
}

/// A class and a selector as one number.
#[inline(always)]
fn joined((class, selector): (Class, Selector)) -> u64 {
    u64::from(class.0) << 32 | u64::from(selector.index())
}

/// A source, and the first one of its block.
#[inline(always)]
fn keys(source: Number) -> ([u64; 2], [u64; 2]) {
    match source {
        Number::V4(address) => {
            let address = u64::from(address);
            ([u64::MAX, address], [u64::MAX, address & !0xff])
        }
        Number::V6(high, low) => ([high, low], [high, 0]),
    }
}
