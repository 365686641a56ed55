// SPDX-License-Identifier: MIT OR GPL-2.0
//! The maps. User space pins them; arrays hold both slots, one behind the other, tries stand
//! twice.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array as BtfArray, ArrayOfMaps},
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use core::cell::UnsafeCell;
use filter_common::flow::Workspace;
use filter_common::index::LineWords;
use filter_common::wire::{
    AddressPair, COUNTERS_PER_NIC, CellWord, Counter, DEFAULT_CELLS, DEFAULT_FLOWS,
    EVENT_RING_BYTES, EventWindow, FLOWS_PER_SET, FlowEntry, FlowKey, FlowRecord, FragmentKey,
    Grant, MAX_FRAGMENTS, MAX_INTERFACES, MAX_KEPT_FLOWS, MAX_NICS, MAX_PORT_CELLS, MAX_PREFIXES,
    MAX_REJECTED, MAX_SOURCES, ManyTags, Observation, PORT_CLASS_WORDS, RejectBucket, SLOTS, State,
    TAGS_IN_ENTRY, VLANS, WRITTEN_WORDS, flow_sets,
};

use crate::remembered::Remembered;

/// What doesn't fit on the stack, or must not be known to the verifier.
pub(crate) struct Scratch {
    /// What the judgement needs beside it.
    pub(crate) workspace: Workspace,
    /// For `Frame::forget`.
    pub(crate) cell: u32,
    /// The client that is told of a denied packet.
    pub(crate) client: [u8; 16],
    /// Its first bucket.
    pub(crate) bucket: RejectBucket,
}

/// The value of a destination prefix (`wire::Grant`), which packets mark in place.
#[repr(transparent)]
pub(crate) struct GrantCell(UnsafeCell<u32>);

// SAFETY: every access is one volatile load or store of the aligned word.
unsafe impl Sync for GrantCell {}

impl GrantCell {
    /// The grant.
    #[inline(always)]
    pub(crate) fn load(&self) -> Grant {
        // SAFETY: a live value of a map, one aligned word; volatile, as other CPUs mark it.
        Grant(unsafe { core::ptr::read_volatile(self.0.get()) })
    }

    /// Marks it as used. User space never changes an entry but puts a new one in its place, so that
    /// nothing that it writes can be lost here; whoever else stores, stores the same.
    #[inline(always)]
    pub(crate) fn mark_used(&self) {
        let grant = self.load().used();
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(self.0.get(), grant.0) };
    }
}

/// What every packet asks for.
#[map]
pub(crate) static STATE: Array<State> = Array::with_max_entries(1, 0);
/// (NIC, VLAN) -> zone.
#[map]
pub(crate) static ZONES: Array<u32> = Array::with_max_entries(SLOTS * MAX_NICS * VLANS, 0);
/// (grant, class) -> port set, several in a word (`wire::CellWord`). User space makes it as long as it is asked
/// to.
#[map]
pub(crate) static CELLS: Array<CellWord> =
    Array::with_max_entries(DEFAULT_CELLS / CellWord::CELLS, 0);
/// Selector -> port class, four in a word.
#[map]
pub(crate) static PORT_CLASSES: Array<u64> = Array::with_max_entries(SLOTS * PORT_CLASS_WORDS, 0);
/// (port set, port class) -> permit.
#[map]
pub(crate) static PORT_CELLS: Array<u32> = Array::with_max_entries(SLOTS * MAX_PORT_CELLS, 0);

/// IPv4 destinations of slot 0.
#[map]
pub(crate) static GRANTS4_0: LpmTrie<[u8; 4], GrantCell> =
    LpmTrie::with_max_entries(MAX_PREFIXES, 0);
/// IPv4 destinations of slot 1.
#[map]
pub(crate) static GRANTS4_1: LpmTrie<[u8; 4], GrantCell> =
    LpmTrie::with_max_entries(MAX_PREFIXES, 0);
/// IPv6 destinations of slot 0.
#[map]
pub(crate) static GRANTS6_0: LpmTrie<[u8; 16], GrantCell> =
    LpmTrie::with_max_entries(MAX_PREFIXES, 0);
/// IPv6 destinations of slot 1.
#[map]
pub(crate) static GRANTS6_1: LpmTrie<[u8; 16], GrantCell> =
    LpmTrie::with_max_entries(MAX_PREFIXES, 0);
/// Zone and IPv4 source of slot 0 -> class.
#[map]
pub(crate) static SOURCES4_0: LpmTrie<[u8; 8], u32> = LpmTrie::with_max_entries(MAX_SOURCES, 0);
/// Zone and IPv4 source of slot 1 -> class.
#[map]
pub(crate) static SOURCES4_1: LpmTrie<[u8; 8], u32> = LpmTrie::with_max_entries(MAX_SOURCES, 0);
/// Zone and IPv6 source of slot 0 -> class.
#[map]
pub(crate) static SOURCES6_0: LpmTrie<[u8; 20], u32> = LpmTrie::with_max_entries(MAX_SOURCES, 0);
/// Zone and IPv6 source of slot 1 -> class.
#[map]
pub(crate) static SOURCES6_1: LpmTrie<[u8; 20], u32> = LpmTrie::with_max_entries(MAX_SOURCES, 0);

/// The index of both slots, one behind the other. User space makes it as long as it must be. Nobody maps
/// it: but the values of an array that could be mapped begin with a page, and so each line of the index is
/// one of the processor's, where those of others begin behind the kernel's own fields.
#[map]
pub(crate) static INDEX: Array<LineWords> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

/// What CPUs remember, by CPU. Each NIC's programs have one of their own, and user space makes it as long
/// as there are CPUs. It begins with a page, as the index does.
#[map]
pub(crate) static REMEMBERED: Array<Remembered> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Counter of a match -> the hosts behind the destination NAT of its services.
#[map]
pub(crate) static SERVICE_HOSTS: Array<AddressPair> =
    Array::with_max_entries(SLOTS * COUNTERS_PER_NIC, 0);

/// Marks of the parts of all these arrays that may hold something. Never looked up: user space
/// knows by it what it needs to read.
#[map]
pub(crate) static WRITTEN: Array<u64> = Array::with_max_entries(WRITTEN_WORDS, 0);

/// The sets of the table of flows (`crate::flow_table`), outside of the slots. User space makes it as large as it is asked
/// to.
#[map]
pub(crate) static FLOW_TAGS: Array<ManyTags> =
    Array::with_max_entries(flow_sets(DEFAULT_FLOWS) / TAGS_IN_ENTRY, 0);
/// Up to which tick there may be flows of a set that stand in `FLOWS`.
#[map]
pub(crate) static FLOW_SPILLS: Array<u64> = Array::with_max_entries(flow_sets(DEFAULT_FLOWS), 0);
/// The flows of all sets, one set behind the other. It begins with a page, as the index does.
#[map]
pub(crate) static FLOW_ENTRIES: Array<FlowEntry> =
    Array::with_max_entries(flow_sets(DEFAULT_FLOWS) * FLOWS_PER_SET, BPF_F_MMAPABLE);
/// Flows that have no place in their set, by their tuples.
#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowRecord> =
    LruHashMap::with_max_entries(DEFAULT_FLOWS, 0);
/// 1 as long as no flow was opened since the table of flows was made in which clients answer
/// (`Tables::expect_answers`), so that such flows need not be looked for. User space says so once, where it makes both; a
/// program takes it back.
#[map]
pub(crate) static NO_ANSWERS: Array<u32> = Array::with_max_entries(1, 0);
/// Flows that are kept though the policy denies them, and since when, in ticks.
#[map]
pub(crate) static KEPT_FLOWS: LruHashMap<FlowKey, u64> =
    LruHashMap::with_max_entries(MAX_KEPT_FLOWS, 0);
/// First fragments that passed, and when, in ticks.
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, u64> =
    LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
/// The kernel's index of an interface -> its side (`wire::interface`).
#[map]
pub(crate) static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_INTERFACES, 0);

/// The gateway's own addresses on a NIC, by the NIC's index.
#[map]
pub(crate) static NIC_ADDRESSES: Array<AddressPair> = Array::with_max_entries(MAX_NICS, 0);
/// Clients that were told of denied packets, and how often they may be told again.
#[map]
pub(crate) static REJECTED: LruHashMap<[u8; 16], RejectBucket> =
    LruHashMap::with_max_entries(MAX_REJECTED, 0);

/// Packets and bytes, by NIC and counter.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(MAX_NICS * COUNTERS_PER_NIC, 0);
/// Samples of dropped packets.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);
/// How many samples were sent lately, and how many were not.
#[map]
pub(crate) static EVENT_WINDOW: PerCpuArray<EventWindow> = PerCpuArray::with_max_entries(1, 0);
/// What a CPU writes down while it judges a packet. Never shared.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// The same for packets that leave: in a real-time kernel, one that comes in may interrupt them.
/// Never shared.
#[map]
pub(crate) static EGRESS_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// What the observing instance decided last. It is the one map that is never shared.
#[map]
pub(crate) static OBSERVATION: Array<Observation> = Array::with_max_entries(1, 0);
/// Ticks and nanoseconds of one moment, for user space to learn the length of a tick. Never shared.
#[map]
pub(crate) static MOMENT: Array<[u64; 2]> = Array::with_max_entries(1, 0);
/// Never looked up. Replacing its entry makes the kernel wait until no program that began before
/// is still running, which is how user space knows that a slot is free again.
#[btf_map]
pub(crate) static GRACE: ArrayOfMaps<BtfArray<u32, 1>, 1> = ArrayOfMaps::new();
