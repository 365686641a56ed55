// SPDX-License-Identifier: MIT OR GPL-2.0
//! The layout of the maps: keys, values, capacities and events.
//!
//! One look-up goes: source (NIC, VLAN, address) -> zone -> *class*; destination -> *grant*;
//! (grant, class) -> *port set*; (protocol, port) -> *port class*; (port set, port class) ->
//! [`Permit`], which says whether the packet passes and which counter is its own.
//!
//! Everything above lives twice, once in each slot. [`Active`] says which slot counts.

use core::mem::offset_of;

use crate::verdict::PassReason;

/// The version of this layout: a part of the pin path, so that programs and maps of different
/// versions never meet.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "next-layout") { 9 } else { 8 };

/// Slots: one in force, one idle.
pub const SLOTS: u32 = 2;
/// NICs, inside and outside together.
pub const MAX_NICS: u32 = 16;
/// VLAN ids; 0 stands for untagged and priority-tagged frames.
pub const VLANS: u32 = 4096;
/// Destination prefixes of each family.
pub const MAX_PREFIXES: u32 = 1_100_000;
/// Source prefixes of each family, over all zones.
pub const MAX_SOURCES: u32 = 65_536;
/// The value of a cell of the (grant, class) matrix that stands for no ports at all. 0 stands for what
/// class 0 has: what holds for every client is written once for a grant, not once for each class.
pub const NO_PORTS: u32 = u16::MAX as u32;
/// Rows of the (port set, port class) matrix, the unused row 0 among them: what fits into a cell.
pub const MAX_PORT_SETS: u32 = NO_PORTS;
/// Entries of the (grant, class) matrix of one slot, unless the configuration asks for others. An even number.
pub const DEFAULT_CELLS: u32 = 1 << 18;
/// As many it may ask for.
pub const MAX_CELLS: u32 = 1 << 23;
/// Entries of the (port set, port class) matrix.
pub const MAX_PORT_CELLS: u32 = 1 << 18;
/// (protocol, port) selectors: TCP ports, UDP ports, IP protocols.
pub const SELECTORS: u32 = 65_536 * 2 + 256;
/// Port classes that stand in one word of the port-class array.
pub const SELECTORS_PER_WORD: u32 = 4;
/// Words of the port-class array.
pub const PORT_CLASS_WORDS: u32 = SELECTORS / SELECTORS_PER_WORD;
/// Counters of one NIC: reasons first, then matches.
pub const COUNTERS_PER_NIC: u32 = 4096;
/// The first counter of a NIC that belongs to a match; those below belong to reasons.
pub const FIRST_MATCH: u32 = 256;
/// The counter of a NIC that counts the drops for which a sample was made. All others were left out.
pub const SAMPLED: u32 = 0;
/// Added to a drop reason's code where audit mode let the packet pass.
pub const AUDITED: u32 = 128;
/// Flows that are remembered, unless the configuration asks for others; beyond it, those that were
/// used least lately are forgotten.
pub const DEFAULT_FLOWS: u32 = 1 << 18;
/// As many it may ask for.
pub const MAX_FLOWS: u32 = 1 << 22;
/// Flows that a set of the table of flows has room for ([`flow_table`](crate::flow_table)).
pub const FLOWS_PER_SET: u32 = 7;
/// As many a set has on average where as many flows are remembered as are asked for: one in fifty has no place in its set
/// then.
pub const FLOWS_IN_SET: u32 = 4;
/// Sets of a table of so many flows.
#[must_use]
pub const fn flow_sets(flows: u32) -> u32 {
    flows.div_ceil(FLOWS_IN_SET).next_multiple_of(TAGS_IN_ENTRY)
}
/// Sets whose tags stand in one entry of their map, so that user space can read them with few calls. A power of two.
pub const TAGS_IN_ENTRY: u32 = 32;
/// Flows that there is room for beside the sets of a table of so many flows.
#[must_use]
pub const fn spilled_flows(flows: u32) -> u32 {
    let spilled = flows / 4;
    if spilled < LEAST_SPILLED { LEAST_SPILLED } else { spilled }
}
/// The fewest of them: the kernel gives each CPU some to use (`LOCAL_FREE_TARGET` in kernel/bpf/bpf_lru_list.c).
const LEAST_SPILLED: u32 = 1024;
/// Changes of flows that user space asks for at once: the kernel's verifier goes through the program once for each, some ten
/// milliseconds, and a daemon that starts again waits for it.
pub const FLOW_CHANGES: u32 = 1;
/// Flows that are kept though the policy no longer allows them.
pub const MAX_KEPT_FLOWS: u32 = 1 << 16;
/// First fragments that are remembered.
pub const MAX_FRAGMENTS: u32 = 1 << 13;
/// Clients whose rejected packets are counted, to answer no more than a few of them.
pub const MAX_REJECTED: u32 = 1 << 14;
/// Answers that a client gets in a second for packets that are rejected.
pub const ANSWERS_PER_SECOND: u64 = 100;
/// Answers that it gets at once, after a second without any.
pub const ANSWERS_AT_ONCE: u64 = 100;
/// Interfaces of the kernel that packets may be forwarded from: NICs and what stands on them.
pub const MAX_INTERFACES: u32 = 4096;
/// Bytes of the ring buffer for events.
pub const EVENT_RING_BYTES: u32 = 1 << 18;
/// Entries of an array of a slot that one mark of `WRITTEN` stands for: that they may hold something.
pub const WRITTEN_CHUNK: u32 = 64;
/// Words of marks, those of both slots and one that says that they hold. Only user space reads them.
pub const WRITTEN_WORDS: u32 = 4277;
/// Events that one CPU sends within one window of 2^[`EVENT_WINDOW_SHIFT`] jiffies.
pub const EVENTS_PER_WINDOW: u32 = 64;
/// The length of that window, as a power of two of jiffies.
pub const EVENT_WINDOW_SHIFT: u32 = 4;

/// The word that says which slot is in force: the slot in its lowest byte, the policy's
/// generation above. As the slot stands in a single byte, no store of the word can be seen torn
/// between two slots.
///
/// In that byte stands, too, whether the slot is in force *until* a deadline only: from then on the
/// programs take the other slot, whoever is there to change the word or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active(pub u64);

impl Active {
    /// The word for a slot (0 or 1) and a generation (below 2^56).
    #[must_use]
    pub const fn new(slot: u32, generation: u64) -> Self {
        Self(generation << 8 | (slot & 1) as u64)
    }

    /// The slot in force, 0 or 1.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 & 1) as u32
    }

    /// The generation; 0 before any policy was loaded.
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> 8
    }

    /// The same slot, until the deadline (`DEADLINE`, in ticks).
    #[must_use]
    pub const fn provisional(self) -> Self {
        Self(self.0 | Self::PROVISIONAL)
    }

    /// Whether the deadline counts.
    #[inline(always)]
    #[must_use]
    pub const fn is_provisional(self) -> bool {
        self.0 & Self::PROVISIONAL != 0
    }

    /// The word that counts in the place of a provisional one at some tick. Once the deadline is over, it
    /// names the other slot, and is none that user space ever writes, so that what is cached under a
    /// word is cached for one slot.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, now: u64, deadline: u64) -> Self {
        if now < deadline { self } else { Self((self.0 ^ 1) & !Self::PROVISIONAL | Self::REVERTED) }
    }

    const PROVISIONAL: u64 = 2;
    const REVERTED: u64 = 4;

    /// A bit that is set in no word that counts.
    pub const SEEN: u64 = 8;
}

/// Stands for what a NIC's tables say of sources: another value for other tables, for as long as flows live.
#[inline(always)]
#[must_use]
pub const fn sources_stamp(active: Active, activations: u64, nic: u32) -> u64 {
    // The lowest byte says which slot it is, and whether that came to be by a deadline.
    activations << 24 | (active.0 & 0xff) << 16 | (nic as u64 & 0xff) << 8 | LAYOUT_VERSION as u64
}

/// A word of the (grant, class) matrix: two neighbouring cells of each slot, 16 bits each. The kernel gives each entry of an
/// array 8 bytes at least, and as the slots stand side by side, programs need not know how many cells there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct CellWord(pub u64);

impl CellWord {
    /// Cells of one slot in a word.
    pub const CELLS: u32 = 2;

    /// The cell of a slot, by its index in the whole matrix.
    #[inline(always)]
    #[must_use]
    pub const fn cell(self, slot: u32, index: u32) -> u32 {
        let [low, high, ..] = (self.0 >> Self::shift(slot, index)).to_le_bytes();
        u16::from_le_bytes([low, high]) as u32
    }

    /// The same with another value in a cell; what doesn't fit there is [`NO_PORTS`].
    #[must_use]
    pub const fn with(self, slot: u32, index: u32, value: u32) -> Self {
        let shift = Self::shift(slot, index);
        let value = if value > NO_PORTS { NO_PORTS } else { value };
        Self(self.0 & !((NO_PORTS as u64) << shift) | (value as u64) << shift)
    }

    #[inline(always)]
    const fn shift(slot: u32, index: u32) -> u32 {
        (slot & 1) * 32 + index % Self::CELLS * 16
    }
}

/// What a slot says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotSettings {
    /// Classes: the length of a row of the (grant, class) matrix. 0 in an empty slot.
    pub classes: u32,
    /// Port classes: the length of a row of the (port set, port class) matrix.
    pub port_classes: u32,
    /// [`SlotSettings::ENFORCE`] or [`SlotSettings::AUDIT`].
    pub mode: u32,
    /// The sum of those that hold: [`SlotSettings::FOLLOW`], [`SlotSettings::KEEP`],
    /// [`SlotSettings::REJECT`], [`SlotSettings::INTERCEPT`], [`SlotSettings::FORWARDER_V4`] and
    /// [`SlotSettings::FORWARDER_V6`].
    pub flags: u32,
    /// What makes another layout of this one.
    #[cfg(feature = "next-layout")]
    pub more: u64,
}

impl SlotSettings {
    /// Verdicts are carried out. It is 0, so that an empty slot enforces.
    pub const ENFORCE: u32 = 0;
    /// Everything passes and is counted.
    pub const AUDIT: u32 = 1;

    /// What the policy denies to a client may belong to a flow that was opened towards it.
    pub const FOLLOW: u32 = 1;
    /// Flows that the policy no longer allows may be kept.
    pub const KEEP: u32 = 2;
    /// Denied clients are told.
    pub const REJECT: u32 = 4;
    /// Clients' questions to other resolvers are led to the forwarder, and none is forwarded.
    pub const INTERCEPT: u32 = 8;
    /// The forwarder has an IPv4 address.
    pub const FORWARDER_V4: u32 = 16;
    /// The forwarder has an IPv6 address.
    pub const FORWARDER_V6: u32 = 32;
}

#[cfg(not(feature = "next-layout"))]
const _: () = assert!(size_of::<SlotSettings>() == 16 && align_of::<SlotSettings>() == 4);

/// Where the parts of a slot's index begin, in lines within the slot, and how long its tables are
/// ([`index`](crate::index)). All zeros: there is no index, and the tries are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IndexLayout {
    /// The sum of those that hold: [`IndexLayout::V4`], [`IndexLayout::V6`],
    /// [`IndexLayout::SHORT6`] and [`IndexLayout::SOURCES`].
    pub flags: u32,
    /// The first line of the table of IPv4 hosts.
    pub hosts4: u32,
    /// The number of its lines, a power of two, less one.
    pub hosts4_mask: u32,
    /// The first line of the table of IPv6 tops.
    pub tops6: u32,
    /// The number of its lines, a power of two, less one.
    pub tops6_mask: u32,
    /// The first line of the table of IPv6 hosts.
    pub hosts6: u32,
    /// The number of its lines, a power of two, less one.
    pub hosts6_mask: u32,
    /// Lines in use, from the first on.
    pub lines: u32,
    /// The first line of the filter of IPv6 tops.
    pub presence6: u32,
    /// The number of its words, a power of two, less one.
    pub presence6_mask: u32,
    /// The first line of the table of mixed blocks of sources.
    pub blocks: u32,
    /// The number of its lines, a power of two, less one.
    pub blocks_mask: u32,
}

impl IndexLayout {
    /// IPv4 is indexed; its base begins at line 0.
    pub const V4: u32 = 1;
    /// IPv6 is indexed.
    pub const V6: u32 = 2;
    /// There are IPv6 prefixes shorter than 32 bits, of which the tops say nothing where nothing
    /// longer is below them.
    pub const SHORT6: u32 = 4;
    /// It is known which blocks of sources are mixed.
    pub const SOURCES: u32 = 8;
}

const _: () = assert!(size_of::<IndexLayout>() == 48 && align_of::<IndexLayout>() == 4);

/// Lines of the index of a slot, 64 bytes each, where a policy needs no more.
pub const DEFAULT_INDEX_LINES: u32 = 1 << 15;

/// Counters of changes, by destination: what a CPU remembers of a destination holds as long as the
/// counter of its stripe ([`index::stripe`](crate::index::stripe)) stands where it stood.
pub const STRIPES: u32 = 512;

/// Bits of such a counter that count. No counter gets there; one that did would not go on.
pub const STRIPE_BITS: u32 = 40;

/// Changes of the index that one frame carries to the program that makes them, at most.
pub const INDEX_CHANGES: u32 = 128;

/// What programs ask for with every packet. It is one value, as to look one up takes longer than to read it. Programs alone
/// write it, each word at once ([`IndexChange::STATE`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// Which slot is in force ([`Active`]).
    pub active: u64,
    /// The tick from which a slot that is in force provisionally gives way to the other one.
    pub deadline: u64,
    /// How often a word was put in force. What was found out of sources holds for one value of it, and one slot.
    pub activations: u64,
    /// Settings, by slot.
    pub settings: [SlotSettings; SLOTS as usize],
    /// The layout of the index, by slot.
    pub layouts: [IndexLayout; SLOTS as usize],
    /// How often what the index says of destinations has changed, by stripe.
    pub moves: [u64; STRIPES as usize],
}

impl State {
    /// The word that says which slot is in force.
    pub const ACTIVE: u32 = word_at(offset_of!(Self, active));
    /// The word that counts how often that one was stored.
    pub const ACTIVATIONS: u32 = word_at(offset_of!(Self, activations));
    /// The word of the deadline.
    pub const DEADLINE: u32 = word_at(offset_of!(Self, deadline));
    /// Words that a change may store: all in front of the stripes' counters.
    pub const WORDS: u32 = word_at(offset_of!(Self, moves));

    /// The first word of the settings of a slot (0 or 1).
    #[must_use]
    pub const fn settings_of(slot: u32) -> u32 {
        word_at(offset_of!(Self, settings)) + slot * word_at(size_of::<SlotSettings>())
    }

    /// The first word of the layout of a slot's index.
    #[must_use]
    pub const fn layout_of(slot: u32) -> u32 {
        word_at(offset_of!(Self, layouts)) + slot * word_at(size_of::<IndexLayout>())
    }
}

/// The number of the word that begins at an offset, which is below 2^16.
const fn word_at(offset: usize) -> u32 {
    let [low, high, ..] = (offset / 8).to_le_bytes();
    u16::from_le_bytes([low, high]) as u32
}

const _: () = assert!(size_of::<State>() == 8 * (State::WORDS + STRIPES) as usize);
const _: () = assert!(size_of::<SlotSettings>().is_multiple_of(8));
const _: () = assert!(size_of::<IndexLayout>().is_multiple_of(8));

/// A change of one word of the index, or of [`State`]. In the frame they stand one behind the other, in the
/// processor's byte order, behind an Ethernet header of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IndexChange {
    /// The line, over both slots, times 8, plus the word; or the word of [`State`].
    pub place: u32,
    /// What is done: [`IndexChange::STORE`], [`IndexChange::STORE_LOW`],
    /// [`IndexChange::STORE_HIGH`], [`IndexChange::SET`], [`IndexChange::CLEAR`],
    /// [`IndexChange::NOTHING`] or [`IndexChange::STATE`].
    pub action: u16,
    /// The stripe of the destination whose grant or mark changes: its counter goes on afterwards, and
    /// what CPUs remember of the stripe's destinations no longer holds.
    pub stripe: u16,
    /// The value.
    pub value: u64,
}

impl IndexChange {
    /// The word becomes the value.
    pub const STORE: u16 = 1;
    /// The word's lower half becomes the value's.
    pub const STORE_LOW: u16 = 2;
    /// The word's upper half becomes the value's lower half.
    pub const STORE_HIGH: u16 = 3;
    /// The value's bits are set.
    pub const SET: u16 = 4;
    /// The value's bits are cleared.
    pub const CLEAR: u16 = 5;
    /// The word stays as it is, and only the stripe's counter goes on.
    pub const NOTHING: u16 = 6;
    /// The word of [`State`] becomes the value, and no stripe's counter goes on.
    pub const STATE: u16 = 7;
}

const _: () = assert!(size_of::<IndexChange>() == 16 && align_of::<IndexChange>() == 8);

/// The value of a destination prefix: a row of the (grant, class) matrix, from 1, and whether the
/// prefix is one of the gateway's own addresses. Row 0 allows nothing.
///
/// User space writes it and replaces it whole. The one thing that a program writes is the mark that
/// the prefix is in use: so an address that a name once had is kept while clients go there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant(pub u32);

impl Grant {
    const OWN: u32 = 1 << 31;
    const CLOSED: u32 = 1 << 30;
    const USED: u32 = 1 << 29;

    /// No prefix holds the destination.
    pub const NONE: Self = Self(0);

    /// An address that the gateway takes in without owning it, such as the broadcast address of
    /// one of its networks. No rule leads there.
    pub const CLOSED_ADDRESS: Self = Self(Self::CLOSED);

    /// A grant with the row `row` (below 2^29).
    #[must_use]
    pub const fn new(row: u32) -> Self {
        Self(row & !(Self::OWN | Self::CLOSED | Self::USED))
    }

    /// The same row, for one of the gateway's own addresses.
    #[must_use]
    pub const fn own(self) -> Self {
        Self(self.0 | Self::OWN)
    }

    /// Whether the address is one of the gateway's own.
    #[inline(always)]
    #[must_use]
    pub const fn is_own(self) -> bool {
        self.0 & Self::OWN != 0
    }

    /// Whether the gateway takes in what goes there without owning the address.
    #[inline(always)]
    #[must_use]
    pub const fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    /// The same, marked: a rule let a client's packet pass to an address of the prefix.
    #[inline(always)]
    #[must_use]
    pub const fn used(self) -> Self {
        Self(self.0 | Self::USED)
    }

    /// Whether it is marked.
    #[inline(always)]
    #[must_use]
    pub const fn is_used(self) -> bool {
        self.0 & Self::USED != 0
    }

    /// The same as user space wrote it, without the mark.
    #[inline(always)]
    #[must_use]
    pub const fn unmarked(self) -> Self {
        Self(self.0 & !Self::USED)
    }

    /// The row of the matrix; 0: nothing is allowed.
    #[inline(always)]
    #[must_use]
    pub const fn row(self) -> u32 {
        self.0 & !(Self::OWN | Self::CLOSED | Self::USED)
    }
}

/// An entry of the (port set, port class) matrix: the pass reason in the highest byte, the match
/// (its counter) below. 0 denies.
///
/// A *match* is an interned set of rules: those that allow this client this port of this
/// destination. A packet that two rules allow has one counter, which counts for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permit(pub u32);

impl Permit {
    /// Nothing is allowed.
    pub const DENIED: Self = Self(0);

    /// A permit that counts at `counter`, from [`FIRST_MATCH`] up and below [`COUNTERS_PER_NIC`].
    #[must_use]
    pub const fn new(reason: PassReason, counter: u32) -> Self {
        Self((reason.code() as u32) << 24 | (counter & 0x00ff_ffff))
    }

    /// Whether the packet passes.
    #[inline(always)]
    #[must_use]
    pub const fn is_granted(self) -> bool {
        self.0 != 0
    }

    /// The index of its counter within the NIC's.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        self.0 & 0x00ff_ffff
    }

    /// The code of the pass reason; 0 where nothing is allowed.
    #[inline(always)]
    #[must_use]
    pub const fn reason_code(self) -> u8 {
        let [code, ..] = self.0.to_be_bytes();
        code
    }

    /// Why the packet passes; `None` where it doesn't.
    #[must_use]
    pub const fn reason(self) -> Option<PassReason> {
        PassReason::from_code(self.reason_code())
    }
}

/// What a port class is looked up by: a TCP port, a UDP port or an IP protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector(u32);

impl Selector {
    /// ICMP and ICMPv6 echo requests; it takes the place of protocol 1.
    pub const ECHO: Self = Self::protocol(1);

    /// A TCP destination port.
    #[inline(always)]
    #[must_use]
    pub const fn tcp(port: u16) -> Self {
        Self(port as u32)
    }

    /// A UDP destination port.
    #[inline(always)]
    #[must_use]
    pub const fn udp(port: u16) -> Self {
        Self(65_536 + port as u32)
    }

    /// Another IP protocol.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(number: u8) -> Self {
        Self(131_072 + number as u32)
    }

    /// Whether it is a TCP port.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp(self) -> bool {
        self.0 < 65_536
    }

    /// The port, of TCP or UDP.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> u16 {
        let [low, high, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Its index, below [`SELECTORS`].
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }

    /// The word of the port-class array that holds its class.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0 / SELECTORS_PER_WORD
    }

    /// The lowest bit of its class, 16 bits long, in that word.
    #[inline(always)]
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.0 % SELECTORS_PER_WORD * 16
    }
}

/// The index of a (NIC, VLAN) pair in the zone array. `nic` is below [`MAX_NICS`], `vlan` below
/// [`VLANS`].
#[inline(always)]
#[must_use]
pub const fn zone_index(nic: u32, vlan: u16) -> u32 {
    nic * VLANS + (vlan as u32 & (VLANS - 1))
}

/// Packets and bytes, counted exactly, per CPU. Bytes are those of the frame from the Ethernet
/// header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16 && align_of::<Counter>() == 8);

/// A sample of a dropped packet. Addresses are in network byte order, IPv4 in the first four
/// bytes; ports and lengths are in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// The source address.
    pub source: [u8; 16],
    /// The destination address.
    pub destination: [u8; 16],
    /// The frame's length in bytes.
    pub length: u32,
    /// The source port; 0 where there is none.
    pub source_port: u16,
    /// The destination port, or the ICMP type; 0 where there is none.
    pub destination_port: u16,
    /// The outermost VLAN id; 0: untagged.
    pub vlan: u16,
    /// The Ethertype behind the VLAN tags.
    pub ethertype: u16,
    /// 4, 6, or 0 where no IP header was read.
    pub ip_version: u8,
    /// The transport protocol.
    pub protocol: u8,
    /// The [`DropReason`](crate::verdict::DropReason)'s code.
    pub reason: u8,
    /// The index of the NIC.
    pub nic: u8,
    /// 1 if audit mode let the packet pass.
    pub audited: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}

const _: () = assert!(size_of::<Event>() == 52 && align_of::<Event>() == 4);

/// How far a CPU is in its window of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventWindow {
    /// Jiffies, shifted by [`EVENT_WINDOW_SHIFT`].
    pub window: u64,
    /// Events sent in this window.
    pub sent: u64,
    /// Events that did not fit into the ring buffer (loss).
    pub lost: u64,
}

const _: () = assert!(size_of::<EventWindow>() == 24 && align_of::<EventWindow>() == 8);

/// What a program that only observes says of the one packet it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Observation {
    /// The [`Active`] word that was read.
    pub active: u64,
    /// The [`Permit`], 0 where no rule allowed the packet.
    pub permit: u32,
    /// The [`Grant`] of the destination, without its mark.
    pub grant: u32,
    /// The class of the source.
    pub class: u32,
    /// The pass or drop reason's code.
    pub reason: u8,
    /// 1 if the packet passes.
    pub passes: u8,
    /// The code of the [`Answer`](crate::reject::Answer) that the client would get.
    pub answer: u8,
    /// Always 0.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Observation>() == 24 && align_of::<Observation>() == 8);

/// A flow as the NIC sees it through which it was opened: its local end is on the gateway's side
/// of that NIC, after source NAT and before destination NAT. Addresses are in network byte order,
/// IPv4 in the first four bytes and zeros behind; ports are in host order.
///
/// It lies on whole words, so that it can be written in them: the kernel reads a key in words, and a processor makes
/// whoever reads what several smaller stores have just written wait for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// The address on the gateway's side.
    pub local: [u8; 16],
    /// The address on the other side.
    pub remote: [u8; 16],
    /// The local port; for ICMP echo the identifier, where the local end asks; else 0.
    pub local_port: u16,
    /// The remote port; for ICMP echo the identifier, where the remote end asks; else 0.
    pub remote_port: u16,
    /// The transport protocol.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Always 0.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<FlowKey>() == 40 && align_of::<FlowKey>() == 8);

/// What is known of a flow. Ticks are the kernel's jiffies. Counters are those of whole frames
/// from the Ethernet header on, as they are on the wire: segments that leave as one packet count
/// each with a header of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowRecord {
    /// When it was opened, in ticks.
    pub created: u64,
    /// When a packet of it was seen last, in ticks.
    pub seen: u64,
    /// Packets from the local end.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets from the remote end.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// The code of its state ([`FlowState`](crate::flow::FlowState)).
    pub state: u32,
    /// Who opened it ([`Origin`](crate::flow::Origin)).
    pub origin: u32,
}

const _: () = assert!(size_of::<FlowRecord>() == 56 && align_of::<FlowRecord>() == 8);

/// A set of the table of flows: a tag for each flow in a byte, from the lowest on, and flags in the highest
/// ([`flow_table`](crate::flow_table)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowTags(pub u64);

/// The tags of as many sets.
pub type ManyTags = [FlowTags; TAGS_IN_ENTRY as usize];

/// A flow in the table of flows, in two lines of the processor's caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FlowEntry {
    /// Its tuple.
    pub key: FlowKey,
    /// The value of [`sources_stamp`] that its remote end was last found plausible with, 0 at first.
    pub checked: u64,
    /// Always 0.
    pub reserved: [u64; 2],
    /// What is known of it.
    pub record: FlowRecord,
    /// Always 0.
    pub unused: u64,
}

const _: () = assert!(size_of::<FlowEntry>() == 128);

/// A change of flows that user space asks for, as it stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowChange {
    /// The tuple, or for [`Self::FREE`] in the first word the bits to take from a set's tags.
    pub key: FlowKey,
    /// What is done.
    pub action: u64,
    /// For [`Self::FORGET_UNSEEN`] the tick, for [`Self::FREE`] the number of the set.
    pub value: u64,
}

const _: () = assert!(size_of::<FlowChange>() == 56 && align_of::<FlowChange>() == 8);

impl FlowChange {
    /// The flow is cut.
    pub const CUT: u64 = 1;
    /// It is forgotten.
    pub const FORGET: u64 = 2;
    /// It is forgotten, unless a packet of it was seen since a tick.
    pub const FORGET_UNSEEN: u64 = 3;
    /// Places that forgotten flows left are free again.
    pub const FREE: u64 = 4;
}

/// Which fragments belong to one packet (RFC 791, section 3.2; RFC 8200, section 4.5), and the NIC
/// by which they came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// The source address, as in [`FlowKey`].
    pub source: [u8; 16],
    /// The destination address.
    pub destination: [u8; 16],
    /// The identification: 16 bits for IPv4, 32 for IPv6.
    pub identification: u32,
    /// The transport protocol.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// The index of the NIC.
    pub nic: u8,
    /// Always 0.
    pub reserved: u8,
}

const _: () = assert!(size_of::<FragmentKey>() == 40 && align_of::<FragmentKey>() == 4);

/// An address of each family: of the host behind the destination NAT of an `[[inbound]]` rule, or
/// of the gateway on a NIC. Zeros where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AddressPair {
    /// The IPv4 address, in network byte order.
    pub v4: [u8; 4],
    /// The IPv6 address, in network byte order.
    pub v6: [u8; 16],
}

const _: () = assert!(size_of::<AddressPair>() == 20 && align_of::<AddressPair>() == 1);

/// How many answers a client may still get for packets that are rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RejectBucket {
    /// When credit was last given, in ticks.
    pub given: u64,
    /// Credit; an answer costs as much as there are ticks in a second.
    pub credit: u64,
}

const _: () = assert!(size_of::<RejectBucket>() == 16 && align_of::<RejectBucket>() == 8);

/// The side that an interface of the kernel is on: the value of the table of interfaces.
pub mod interface {
    /// An inside NIC, or a device that stands on one.
    pub const INSIDE: u32 = 1;
    /// An outside NIC, or a device that stands on one.
    pub const OUTSIDE: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_a_word_leave_each_other_alone() {
        let mut word = CellWord::default();
        let cells = [(0, 6, 1), (0, 7, NO_PORTS), (1, 6, 0x1234), (1, 7, MAX_PORT_SETS - 1)];
        for (slot, index, value) in cells {
            word = word.with(slot, index, value);
        }
        for (slot, index, value) in cells {
            assert_eq!(word.cell(slot, index), value);
        }
        let word = word.with(0, 7, 0);
        assert_eq!([word.cell(0, 6), word.cell(0, 7), word.cell(1, 7)], [1, 0, MAX_PORT_SETS - 1]);
        let word = word.with(0, 6, 0x1_0001);
        assert_eq!([word.cell(0, 6), word.cell(0, 7), word.cell(1, 6)], [NO_PORTS, 0, 0x1234]);
    }
}
