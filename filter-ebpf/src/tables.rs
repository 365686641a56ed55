// SPDX-License-Identifier: MIT OR GPL-2.0
//! The filter's tables over BPF maps.

use aya_ebpf::{
    helpers::generated::bpf_jiffies64,
    maps::{LpmTrie, lpm_trie::Key},
};
use filter_common::{
    address::Number,
    flow::Clock,
    index::{self, Found, Line, LineWords, Lines},
    parse::Address,
    tables::{Class, Known, Mode, PortSet, Role, Shortcuts, Tables, is_plain},
    wire::{
        Active, AddressPair, COUNTERS_PER_NIC, CellWord, FlowKey, FlowRecord, FragmentKey, Grant,
        IndexLayout, MAX_NICS, MAX_PORT_CELLS, NO_PORTS, PORT_CLASS_WORDS, Permit, Selector,
        SlotSettings, State, VLANS, sources_stamp, zone_index,
    },
};

use crate::{
    HERTZ, NIC, atomic,
    branchless::is_less,
    flow_table::{self, FoundFlow},
    frame::forget,
    global,
    maps::{
        CELLS, FRAGMENTS, GRANTS4_0, GRANTS4_1, GRANTS6_0, GRANTS6_1, GrantCell, INDEX, KEPT_FLOWS,
        NO_ANSWERS, PORT_CELLS, PORT_CLASSES, SERVICE_HOSTS, SOURCES4_0, SOURCES4_1, SOURCES6_0,
        SOURCES6_1, STATE, ZONES,
    },
    remembered::{Memory, PortClass, Question, Remembered},
};

/// The slot that was in force when the packet came, seen from one NIC.
pub(crate) struct Slot {
    active: Active,
    settings: &'static SlotSettings,
    role: Role,
}

/// The same for the fast path, which remembers. Most packets need nothing else of the slot.
pub(crate) struct FastSlot {
    state: *const State,
    active: Active,
    /// Lines of the index of one slot.
    lines: u32,
    memory: Memory,
}

/// The index of a slot.
struct SlotLines {
    /// The number of its first line.
    first: u32,
    /// How many lines there are.
    count: u32,
    cell: *mut u32,
}

/// A line of the index.
pub(crate) struct IndexLine(*mut LineWords);

impl Slot {
    /// Reads the active word, once for the packet. There is always such a word, and a slot for it, which
    /// the verifier doesn't know.
    #[inline(always)]
    pub(crate) fn active(role: Role) -> Option<Self> {
        let state = STATE.get_ptr(0)?;
        Some(Self::of(state, in_force(state), role))
    }

    #[inline(always)]
    fn of(state: *const State, active: Active, role: Role) -> Self {
        // SAFETY: there are settings for each slot, which are never written while it is in force.
        let settings = unsafe {
            &*(&raw const (*state).settings).cast::<SlotSettings>().add(active.slot() as usize)
        };
        Self { active, settings, role }
    }

    /// What is done with denied packets; anything but the value for audit enforces.
    #[inline(always)]
    pub(crate) fn mode(&self) -> Mode {
        if self.settings.mode == SlotSettings::AUDIT { Mode::Audit } else { Mode::Enforce }
    }

    /// The active word.
    #[inline(always)]
    pub(crate) fn word(&self) -> Active {
        self.active
    }

    #[inline(always)]
    fn longest_match<K, V>(
        &self,
        tries: [&'static LpmTrie<K, V>; 2],
        bits: u32,
        data: K,
    ) -> Option<&'static V> {
        let [first, second] = tries;
        let trie = if self.active.slot() == 0 { first } else { second };
        trie.get(Key::new(bits, data))
    }

    #[inline(always)]
    fn grant_cell(&self, destination: &Address) -> Option<&'static GrantCell> {
        match *destination {
            Address::V4(address) => self.longest_match([&GRANTS4_0, &GRANTS4_1], 32, address),
            Address::V6(address) => self.longest_match([&GRANTS6_0, &GRANTS6_1], 128, address),
        }
    }
}

impl Tables for Slot {
    type Flow = FoundFlow;

    #[inline(always)]
    fn nic(&self) -> u32 {
        global(&NIC)
    }

    #[inline(always)]
    fn settings(&self) -> SlotSettings {
        *self.settings
    }

    #[inline(always)]
    fn role(&self) -> Role {
        self.role
    }

    #[inline(always)]
    fn clock(&self) -> Clock {
        // SAFETY: the helper has no conditions.
        let now = unsafe { bpf_jiffies64() };
        Clock { now, hertz: u64::from(global(&HERTZ)) }
    }

    #[inline(always)]
    fn service_host(&self, permit: Permit) -> AddressPair {
        match slot_index(self.active, u64::from(permit.counter()), COUNTERS_PER_NIC) {
            Some(index) => SERVICE_HOSTS.get(index).copied().unwrap_or_default(),
            None => AddressPair::default(),
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FoundFlow> {
        flow_table::find(key)
    }

    #[inline(always)]
    fn may_have_answers(&self) -> bool {
        // SAFETY: one aligned word of a map's value; volatile, as other CPUs write it.
        NO_ANSWERS.get_ptr(0).is_none_or(|none| unsafe { core::ptr::read_volatile(none) } == 0)
    }

    #[inline(always)]
    fn expect_answers(&self) {
        if self.role == Role::Enforcing
            && let Some(none) = NO_ANSWERS.get_ptr_mut(0)
        {
            // SAFETY: as above; whoever else stores, stores the same.
            unsafe { core::ptr::write_volatile(none, 0) };
        }
    }

    #[inline(always)]
    fn open_flow(&self, key: &FlowKey, record: &FlowRecord) {
        if self.role == Role::Enforcing {
            flow_table::open(key, record);
        }
    }

    #[inline(always)]
    fn is_kept(&self, key: &FlowKey) -> bool {
        KEPT_FLOWS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn first_fragment(&self, key: &FragmentKey) -> Option<u64> {
        // SAFETY: the value is one aligned word.
        FRAGMENTS.get_ptr(key).map(|passed| unsafe { core::ptr::read_volatile(passed) })
    }

    #[inline(always)]
    fn remember_first_fragment(&self, key: &FragmentKey, now: u64) {
        if self.role == Role::Enforcing {
            // Where the kernel has no entry to spare at the moment, the later fragments are dropped, and sent again.
            let _full = FRAGMENTS.insert(key, now, 0);
        }
    }

    #[inline(always)]
    fn class(&self, vlan: u16, source: &Address) -> Option<Class> {
        let base = self.active.slot() * MAX_NICS * VLANS;
        let zone = *ZONES.get(base + zone_index(self.nic(), vlan))?;
        if zone == 0 {
            return None;
        }
        let [z0, z1, z2, z3] = zone.to_be_bytes();
        let found = match *source {
            Address::V4([a, b, c, d]) => {
                self.longest_match([&SOURCES4_0, &SOURCES4_1], 64, [z0, z1, z2, z3, a, b, c, d])
            }
            Address::V6(address) => {
                let mut data = [0; 20];
                let (head, tail) = data.split_at_mut(4);
                head.copy_from_slice(&[z0, z1, z2, z3]);
                tail.copy_from_slice(&address);
                self.longest_match([&SOURCES6_0, &SOURCES6_1], 160, data)
            }
        };
        match found {
            Some(class) if *class != Class::NONE.0 => Some(Class(*class)),
            _ => None,
        }
    }

    #[inline(always)]
    fn grant(&self, destination: &Address) -> Grant {
        match self.grant_cell(destination) {
            Some(cell) => cell.load(),
            None => Grant::NONE,
        }
    }

    #[inline(always)]
    fn mark_used(&self, destination: &Address) {
        if self.role == Role::Enforcing
            && let Some(cell) = self.grant_cell(destination)
        {
            cell.mark_used();
        }
    }

    #[inline(always)]
    fn port_set(&self, grant: Grant, class: Class) -> Option<PortSet> {
        if class.0 >= self.settings.classes {
            return None;
        }
        let first = u64::from(grant.row()) * u64::from(self.settings.classes);
        let ports = match self.cell(first + u64::from(class.0)) {
            0 => self.cell(first),
            ports => ports,
        };
        if ports == 0 || ports == NO_PORTS { None } else { Some(PortSet(ports)) }
    }

    #[inline(always)]
    fn permit(&self, ports: PortSet, selector: Selector) -> Permit {
        self.permit_of(ports, self.port_class(selector)).unwrap_or(Permit::DENIED)
    }
}

impl Lines for SlotLines {
    type Line = IndexLine;

    #[inline(always)]
    fn line(&self, number: u32) -> Option<IndexLine> {
        if number >= self.count {
            return None;
        }
        Some(IndexLine(INDEX.get_ptr_mut(self.first + number)?))
    }

    #[inline(always)]
    fn forget(&self, value: u32) -> u32 {
        forget(self.cell, value)
    }
}

impl IndexLine {
    #[inline(always)]
    fn place(&self, index: u32) -> *mut u64 {
        // SAFETY: the place lies within the line, whatever the index is.
        unsafe { self.0.cast::<u64>().add((index & 7) as usize) }
    }
}

impl Line for IndexLine {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        // SAFETY: an aligned word of a map's value; volatile, as others write it.
        unsafe { core::ptr::read_volatile(self.place(index)) }
    }

    #[inline(always)]
    fn half(&self, index: u32) -> u32 {
        // Halves stand in the order of the processor.
        let index = if cfg!(target_endian = "big") { index ^ 1 } else { index };
        // SAFETY: as above, of one of the word's halves.
        unsafe { core::ptr::read_volatile(self.0.cast::<u32>().add((index & 15) as usize)) }
    }

    #[inline(always)]
    fn keys_up_to(&self, wanted: u32) -> u32 {
        let behind = u64::from(wanted) + 1;
        let mut count = 0;
        for index in 0..8 {
            let word = self.word(index);
            count += is_less(word & 0xffff_ffff, behind) + is_less(word >> 32, behind);
        }
        count
    }

    #[inline(always)]
    fn set(&self, index: u32, bits: u64) {
        atomic::set(self.place(index), bits);
    }
}

impl FastSlot {
    /// As [`Slot::active`]; `None` where the fast path can't help.
    #[inline(always)]
    pub(crate) fn active(lines: u32, remembered: *mut Remembered) -> Option<Self> {
        let state = STATE.get_ptr(0)?;
        let (active, memory) = Memory::in_force(remembered, state)?;
        Some(Self { state, active, lines, memory })
    }

    /// The index and how it is laid out, looked at after a value was read.
    #[inline(always)]
    fn index(&self, read: u64) -> (SlotLines, &'static IndexLayout) {
        let (slot, count) = (atomic::behind(self.active.slot(), read), self.lines);
        // SAFETY: there is a layout for each slot.
        let layout = unsafe {
            &*(&raw const (*self.state).layouts).cast::<IndexLayout>().add((slot & 1) as usize)
        };
        (SlotLines { first: slot * count, count, cell: self.memory.cell() }, layout)
    }
}

impl Shortcuts for FastSlot {
    type Slot = Slot;
    type Question = Question;

    #[inline(always)]
    fn tables(&self) -> Option<Slot> {
        Some(Slot::of(self.state, self.active, Role::Enforcing))
    }

    #[inline(always)]
    fn known_class(&self, source: Number) -> Option<Class> {
        if let Some(class) = self.memory.class(source) {
            return Some(class);
        }
        // Those are never remembered, so that what is remembered needs no look.
        let address = source.address();
        if !is_plain(&address) {
            return None;
        }
        let class = self.tables()?.class(0, &address).unwrap_or(Class::NONE);
        let (lines, layout) = self.index(0);
        let mixed = index::mixed_sources(&lines, layout, source);
        self.memory.keep_class(source, class, mixed);
        Some(class)
    }

    #[inline(always)]
    fn remembered(&self, destination: Number, wanted: (Class, Selector)) -> Known<Question> {
        self.memory.grant(destination, wanted)
    }

    #[inline(always)]
    fn permit(
        &self,
        question: Question,
        grant: Grant,
        (class, selector): (Class, Selector),
    ) -> Permit {
        let tables = Slot::of(self.state, self.active, Role::Enforcing);
        let Some(ports) = tables.port_set(grant, class) else { return Permit::DENIED };
        let known = question.port_class();
        let class = if known == PortClass::NONE { tables.port_class(selector) } else { known };
        tables.permit_of(ports, class).unwrap_or(Permit::DENIED)
    }

    #[inline(always)]
    fn indexed(&self, question: Question, destination: Number) -> Found {
        let (lines, layout) = self.index(question.stamp());
        index::find(&lines, layout, destination)
    }

    #[inline(always)]
    fn remember(
        &self,
        question: Question,
        destination: Number,
        grant: Grant,
        (wanted, permit): ((Class, Selector), Permit),
    ) {
        let (_, selector) = wanted;
        let tables = Slot::of(self.state, self.active, Role::Enforcing);
        let ports = tables.port_class(selector);
        self.memory.keep(question, destination, grant, (wanted, permit, ports));
    }

    #[inline(always)]
    fn mark_indexed(&self, destination: Number) {
        let (lines, layout) = self.index(0);
        index::mark(&lines, layout, destination);
    }

    #[inline(always)]
    fn sources_stamp(&self) -> u64 {
        // SAFETY: an aligned word of a map's value; volatile, as user space writes it.
        let activations = unsafe { core::ptr::read_volatile(&raw const (*self.state).activations) };
        sources_stamp(self.active, activations, global(&NIC))
    }

    #[inline(always)]
    fn skips_sample(&self) -> bool {
        self.memory.skips_sample()
    }
}

impl Slot {
    /// A cell of the matrix of grants and classes; 0 also where there is no such cell.
    #[inline(always)]
    fn cell(&self, index: u64) -> u32 {
        let Ok(word) = u32::try_from(index / u64::from(CellWord::CELLS)) else { return 0 };
        match CELLS.get(word) {
            Some(word) => word.cell(self.active.slot(), index::lower(index)),
            None => 0,
        }
    }

    /// The port class of a selector.
    #[inline(always)]
    fn port_class(&self, selector: Selector) -> PortClass {
        match PORT_CLASSES.get(self.active.slot() * PORT_CLASS_WORDS + selector.word()) {
            Some(word) => PortClass((*word >> selector.shift()) & 0xffff),
            None => PortClass::NONE,
        }
    }

    #[inline(always)]
    fn permit_of(&self, ports: PortSet, PortClass(class): PortClass) -> Option<Permit> {
        let stride = u64::from(self.settings.port_classes);
        if class >= stride {
            return None;
        }
        let index = u64::from(ports.0) * stride + class;
        PORT_CELLS.get(slot_index(self.active, index, MAX_PORT_CELLS)?).copied().map(Permit)
    }
}

/// The word that counts now. It is read once for a packet.
#[inline(always)]
fn in_force(state: *const State) -> Active {
    let active = written(state);
    if active.is_provisional() { resolved(state, active) } else { active }
}

/// The word that user space wrote.
#[inline(always)]
pub(crate) fn written(state: *const State) -> Active {
    // SAFETY: a word of a map's value; volatile, so that the packet sees one word however often it is used.
    Active(unsafe { core::ptr::read_volatile(&raw const (*state).active) })
}

/// What counts in the place of a provisional word.
#[inline(always)]
pub(crate) fn resolved(state: *const State, active: Active) -> Active {
    // SAFETY: as above.
    let deadline = unsafe { core::ptr::read_volatile(&raw const (*state).deadline) };
    // SAFETY: the helper takes nothing.
    active.at(unsafe { bpf_jiffies64() }, deadline)
}

/// The index of an entry of the active slot in an array that holds both slots; `None` where the
/// entry would lie beyond its slot, so that broken tables never read the other one.
#[inline(always)]
fn slot_index(active: Active, index: u64, capacity: u32) -> Option<u32> {
    if index >= u64::from(capacity) {
        return None;
    }
    Some(active.slot() * capacity + u32::try_from(index).ok()?)
}
