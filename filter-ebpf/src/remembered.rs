// SPDX-License-Identifier: MIT OR GPL-2.0
//! What a CPU remembers of the look-ups that it made, so that most packets need none: destinations
//! and their grants, sources and their classes.
//!
//! * What was found holds for one value of the word that names the slot in force. Each CPU counts how
//!   often it saw another one than before: its *epoch*.
//! * Single destinations change while a slot is in force. Each belongs to a stripe, whose counter in `STATE`
//!   goes on after every change of the index that concerns it, also when its mark is taken
//!   (`IndexChange::stripe`). The counter is read *before* the index is: whatever is remembered with a
//!   value of it was true when the counter had reached that value, or became so later.
//!
//! Only grants that the index is sure of are remembered, and only marked ones, so that a packet which finds
//! one has nothing to do but to go on; and with each the permit that the first packet got for its class and its
//! port. Rows, port sets and classes stay what they are as long as anything leads to them, so that a permit holds
//! as long as the grant. Beside them, the gateway's own addresses are remembered, which nobody marks here. What is
//! granted nothing is not, so that whoever tries many addresses doesn't make room for them at the cost of
//! others; and of a destination that is new no more than a tag, so that what comes once costs the others little.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use core::hint::cold_path;
use filter_common::{
    address::Number,
    index::{SPREADER, block_bit, lower, spread, stripe},
    tables::{Class, Known},
    wire::{Active, Grant, Permit, STRIPE_BITS, Selector, State},
};

use crate::{
    events,
    maps::REMEMBERED,
    tables::{resolved, written},
};

/// Pairs of destinations, as powers of two.
const PAIRS4_BITS: u32 = 13;
const PAIRS6_BITS: u32 = 12;
/// Sources, likewise.
const CLASSES_BITS: u32 = 12;

/// All that one CPU remembers.
#[repr(C, align(64))]
pub(crate) struct Remembered {
    /// The word that the epoch belongs to; a provisional one with a bit that user space never sets, so that
    /// it is looked at anew for each packet.
    active: u64,
    /// How many such words were seen, above the bits of a stripe's counter. 0: none.
    epoch: u64,
    /// The last window, as far as is known, in which this CPU has sent enough samples (`events`).
    quiet: u64,
    /// For `Frame::forget`.
    cell: u32,
    /// Up to the end of the processor's line, so that no entry lies in two of them.
    rest: [u32; 9],
    tags4: [Tags; 1 << PAIRS4_BITS],
    tags6: [Tags; 1 << PAIRS6_BITS],
    grants4: [[KnownGrant4; 2]; 1 << PAIRS4_BITS],
    grants6: [[KnownGrant6; 2]; 1 << PAIRS6_BITS],
    blocks4: [KnownBlock; 1 << CLASSES_BITS],
    blocks6: [KnownBlock; 1 << CLASSES_BITS],
    sources: [KnownSource; 1 << CLASSES_BITS],
}

// So that no destination lies in two lines. Were the types themselves aligned to lines, the compiler for the
// target would fail where one is copied.
const _: () = assert!(core::mem::offset_of!(Remembered, grants4) % 64 == 0);
const _: () = assert!(core::mem::offset_of!(Remembered, grants6) % 64 == 0);
const _: () = assert!(size_of::<KnownGrant4>() == 32 && size_of::<KnownGrant6>() == 64);

/// A byte of what each of two destinations is spread to. Most destinations that nothing is remembered of are told
/// by them, in a table that the processor's nearest cache holds half of.
#[derive(Clone, Copy)]
#[repr(C)]
struct Tags {
    first: u8,
    second: u8,
}

/// What was found of a destination, up to the end of half a line or of a whole one.
#[derive(Clone, Copy)]
#[repr(C)]
struct KnownGrant<D, const REST: usize> {
    /// The epoch, and below it the counter of the destination's stripe.
    stamp: u64,
    destination: D,
    grant: u32,
    permit: u32,
    /// What the permit is for.
    class: u32,
    selector: u32,
    /// The port class of the selector that the permit is for.
    ports: u32,
    rest: [u32; REST],
}

/// A pair fills a line.
type KnownGrant4 = KnownGrant<u32, 0>;

/// Each has a line of its own.
type KnownGrant6 = KnownGrant<[u64; 2], 5>;

/// The class of the sources of a block, in frames without a tag.
#[derive(Clone, Copy)]
#[repr(C)]
struct KnownBlock {
    epoch: u64,
    /// What the addresses of the block have in common: all but the last byte, or the first half.
    block: u64,
    class: u32,
    /// Which sources of the block it is not for (`index::mixed_sources`).
    mixed: u32,
    /// Up to a power of two, by which places are told without a multiplication.
    reserved: u64,
}

/// The class of one source, where it isn't its block's.
#[derive(Clone, Copy)]
#[repr(C)]
struct KnownSource {
    epoch: u64,
    /// The address as two numbers; of IPv4 the first has all bits set, as no source's of IPv6 has.
    source: [u64; 2],
    class: u32,
    reserved: u32,
}

/// What all selectors have in common that the same rules name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortClass(pub(crate) u64);

impl PortClass {
    /// It is not known; no port set has so many.
    pub(crate) const NONE: Self = Self(u32::MAX as u64);
}

/// What is asked of a destination.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    spread: u64,
    /// What is known of the selector.
    ports: PortClass,
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

    /// The port class of the selector that was asked for.
    #[inline(always)]
    pub(crate) fn port_class(self) -> PortClass {
        self.ports
    }
}

/// This CPU's memory, for one packet: it has the CPU for itself until its verdict.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    remembered: *mut Remembered,
    epoch: u64,
    /// The first counter of a stripe.
    moves: *const u64,
}

// === impl Memory ===

impl Memory {
    /// This CPU's memory; `None` where it has none.
    #[inline(always)]
    pub(crate) fn of_this_cpu() -> Option<*mut Remembered> {
        // SAFETY: the helper has no conditions.
        REMEMBERED.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
    }

    /// The word that counts now, and the memory as far as it holds with it.
    #[inline(always)]
    pub(crate) fn in_force(
        remembered: *mut Remembered,
        state: *const State,
    ) -> Option<(Active, Self)> {
        // SAFETY: the pointer is to this CPU's value of a map, which belongs to the programs of one NIC; of
        // these only the one on what enters uses it, and a packet has the CPU for itself.
        let header = unsafe { &mut *remembered };
        let mut active = written(state);
        if header.active != active.0 {
            cold_path();
            let known = if active.is_provisional() {
                active = resolved(state, active);
                active.0 | Active::SEEN
            } else {
                active.0
            };
            if header.active != known {
                header.active = known;
                header.epoch = header.epoch.checked_add(1 << STRIPE_BITS)?;
            }
        }
        // Before any policy there is nothing to remember.
        if header.epoch == 0 {
            return None;
        }
        // SAFETY: the pointer is to a whole value.
        let moves = unsafe { (&raw const (*state).moves).cast() };
        Some((active, Self { remembered, epoch: header.epoch, moves }))
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

    /// Whether this CPU has sent enough samples lately, so that none is due.
    #[inline(always)]
    pub(crate) fn skips_sample(&self) -> bool {
        // SAFETY: the helper has no conditions; the rest as in `in_force`.
        let (window, quiet) = unsafe { (events::window(), &mut (*self.remembered).quiet) };
        if *quiet == window {
            return true;
        }
        cold_path();
        if !events::has_sent_enough(window) {
            return false;
        }
        *quiet = window;
        true
    }

    /// What is remembered of a destination: the permit, if it is for what is wanted, or else the grant.
    #[inline(always)]
    pub(crate) fn grant(&self, destination: Number, wanted: (Class, Selector)) -> Known<Question> {
        let spread = spread(destination);
        match destination {
            Number::V4(_) => self.answer(spread, self.pair4(spread).known(), destination, wanted),
            Number::V6(..) => self.answer(spread, self.pair6(spread).known(), destination, wanted),
        }
    }

    #[inline(always)]
    fn answer<D: Destination, const REST: usize>(
        &self,
        spread: u64,
        known: Option<&KnownGrant<D, REST>>,
        destination: Number,
        wanted: (Class, Selector),
    ) -> Known<Question> {
        let ports = PortClass::NONE;
        let Some(known) = known else {
            return Known::Nothing(Question { spread, ports, stamp: 0 });
        };
        // SAFETY: there is a counter for each stripe; volatile, as another CPU writes the aligned word.
        let counter = unsafe { core::ptr::read_volatile(self.moves.add(stripe(spread) as usize)) };
        let question = Question { spread, ports, stamp: self.epoch | counter };
        if !known.destination.is(destination) || known.stamp != question.stamp {
            cold_path();
            return Known::Nothing(question);
        }
        let (class, selector) = wanted;
        if known.selector != selector.index() {
            return Known::Grant(question, Grant(known.grant));
        }
        if known.class == class.0 && known.permit != Permit::DENIED.0 {
            return Known::Permit(Permit(known.permit));
        }
        let ports = PortClass(known.ports.into());
        Known::Grant(Question { ports, ..question }, Grant(known.grant))
    }

    /// Remembers what was found.
    #[inline(always)]
    pub(crate) fn keep(
        &self,
        question: Question,
        destination: Number,
        grant: Grant,
        (wanted, permit, ports): ((Class, Selector), Permit, PortClass),
    ) {
        let Question { spread, stamp, .. } = question;
        if stamp == 0 {
            match destination {
                Number::V4(_) => self.pair4(spread).expect(),
                Number::V6(..) => self.pair6(spread).expect(),
            }
            return;
        }
        let ((class, selector), ports) = (wanted, lower(ports.0));
        let (class, selector) = (class.0, selector.index());
        let (grant, permit) = (grant.0, permit.0);
        match destination {
            Number::V4(destination) => {
                let known = KnownGrant4 {
                    stamp,
                    destination,
                    grant,
                    permit,
                    class,
                    selector,
                    ports,
                    rest: [],
                };
                self.pair4(spread).keep(known, Number::V4(destination));
            }
            Number::V6(high, low) => {
                let (destination, rest) = ([high, low], [0; 5]);
                let known =
                    KnownGrant6 { stamp, destination, grant, permit, class, selector, ports, rest };
                self.pair6(spread).keep(known, Number::V6(high, low));
            }
        }
    }

    /// The class that is remembered of a source.
    #[inline(always)]
    pub(crate) fn class(&self, source: Number) -> Option<Class> {
        let (block, known) = self.known_block(source);
        if known.epoch == self.epoch
            && known.block == block
            && (known.mixed == 0 || known.mixed & block_bit(source) == 0)
        {
            return Some(Class(known.class));
        }
        cold_path();
        let (source, known) = self.known_source(source);
        let ours = known.epoch == self.epoch && known.source == source;
        if ours { Some(Class(known.class)) } else { None }
    }

    /// Remembers the class of a source, of whose block is known what is mixed in it.
    #[inline(always)]
    pub(crate) fn keep_class(&self, source: Number, class: Class, mixed: u32) {
        let (epoch, class) = (self.epoch, class.0);
        if mixed & block_bit(source) == 0 {
            let (block, known) = self.known_block(source);
            *known = KnownBlock { epoch, block, class, mixed, reserved: 0 };
        } else {
            let (source, known) = self.known_source(source);
            *known = KnownSource { epoch, source, class, reserved: 0 };
        }
    }

    #[inline(always)]
    fn pair4(&self, spread: u64) -> Pair<u32, 0> {
        let place = (spread >> (u64::BITS - PAIRS4_BITS)) as usize;
        // SAFETY: a place within the arrays, in memory that this packet has for itself.
        unsafe {
            let tags = (&raw mut (*self.remembered).tags4).cast::<Tags>();
            let pairs = (&raw mut (*self.remembered).grants4).cast::<[KnownGrant4; 2]>();
            Pair { tags: tags.add(place), grants: pairs.add(place).cast(), tag: tag(spread) }
        }
    }

    #[inline(always)]
    fn pair6(&self, spread: u64) -> Pair<[u64; 2], 5> {
        let place = (spread >> (u64::BITS - PAIRS6_BITS)) as usize;
        // SAFETY: as above.
        unsafe {
            let tags = (&raw mut (*self.remembered).tags6).cast::<Tags>();
            let pairs = (&raw mut (*self.remembered).grants6).cast::<[KnownGrant6; 2]>();
            Pair { tags: tags.add(place), grants: pairs.add(place).cast(), tag: tag(spread) }
        }
    }

    /// A source's block, and where its class is remembered.
    #[inline(always)]
    fn known_block(&self, source: Number) -> (u64, &'static mut KnownBlock) {
        // SAFETY: as above.
        unsafe {
            let (block, place, first) = match source {
                Number::V4(address) => {
                    let block = u64::from(address >> 8);
                    (block, place(block), (&raw mut (*self.remembered).blocks4))
                }
                Number::V6(high, _) => (high, place(high), (&raw mut (*self.remembered).blocks6)),
            };
            (block, &mut *first.cast::<KnownBlock>().add(place))
        }
    }

    /// A source's address, and where its class is remembered.
    #[inline(always)]
    fn known_source(&self, source: Number) -> ([u64; 2], &'static mut KnownSource) {
        let (high, low) = match source {
            Number::V4(address) => (u64::MAX, u64::from(address)),
            Number::V6(high, low) => (high, low),
        };
        // SAFETY: as above.
        unsafe {
            let first = (&raw mut (*self.remembered).sources).cast::<KnownSource>();
            ([high, low], &mut *first.add(place(low ^ high.rotate_left(32))))
        }
    }
}

/// The place of a block or of an address among those whose classes are remembered.
#[inline(always)]
const fn place(source: u64) -> usize {
    (source.wrapping_mul(SPREADER) >> (u64::BITS - CLASSES_BITS)) as usize
}

/// A destination as it is remembered.
trait Destination: Copy + 'static {
    fn is(self, destination: Number) -> bool;
}

impl Destination for u32 {
    #[inline(always)]
    fn is(self, destination: Number) -> bool {
        destination == Number::V4(self)
    }
}

impl Destination for [u64; 2] {
    #[inline(always)]
    fn is(self, destination: Number) -> bool {
        let [high, low] = self;
        destination == Number::V6(high, low)
    }
}

/// Where two destinations are remembered, seen from one that belongs there.
struct Pair<D, const REST: usize> {
    tags: *mut Tags,
    /// The first of two.
    grants: *mut KnownGrant<D, REST>,
    tag: u8,
}

// === impl Pair ===

impl<D: Destination, const REST: usize> Pair<D, REST> {
    /// The one that may be of the destination, if any. Most are the first one: where a processor has learned that, it
    /// fetches what is known before it has compared the tags.
    #[inline(always)]
    fn known(&self) -> Option<&'static KnownGrant<D, REST>> {
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
    fn keep(&self, known: KnownGrant<D, REST>, destination: Number) {
        // SAFETY: as above.
        unsafe {
            let mut tags = *self.tags;
            if !(*self.grants).destination.is(destination) {
                *self.grants.add(1) = *self.grants;
                tags.second = tags.first;
            }
            *self.grants = known;
            *self.tags = Tags { first: self.tag, ..tags };
        }
    }
}

/// What of an address stands among the tags. The place is made of higher bits.
#[inline(always)]
const fn tag(spread: u64) -> u8 {
    let [_, _, _, _, tag, ..] = spread.to_le_bytes();
    tag
}
