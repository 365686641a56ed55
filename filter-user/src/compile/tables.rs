// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of one slot as plain ordered collections, entry by entry what the maps hold.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    iter,
    net::IpAddr,
    rc::Rc,
};

use filter_common::{
    address::Number,
    fast_path::is_special,
    flow::{Clock, Flow, FlowState, Load, Way},
    index::Found,
    parse::Address,
    tables::{Class, Known, PortSet, Role, Shortcuts, Tables, is_plain},
    wire::{
        AddressPair, FlowKey, FlowRecord, FragmentKey, Grant, MAX_NICS, NO_PORTS, Permit, Selector,
        SlotSettings, zone_index,
    },
};
use ipnet::{IpNet, Ipv4Net};

use super::runs::Runs;

/// What one slot of the kernel's maps holds. Arrays are zero by default, so zeros aren't stored,
/// and two tables are equal exactly when the maps are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotTables {
    /// The lengths of rows, and the mode.
    pub settings: SlotSettings,
    /// Destination prefix -> grant.
    pub grants: BTreeMap<IpNet, Grant>,
    /// (zone, source prefix) -> class. That the entry is there says that the source is plausible,
    /// unless the class is [`Class::NONE`]: then it isn't, whatever the prefixes around it say.
    pub sources: BTreeMap<(u32, IpNet), u32>,
    /// [`zone_index`] -> zone, from 1.
    pub zones: BTreeMap<u32, u32>,
    /// grant row x classes + class -> row of the port set, from 1; where there is none, that of class
    /// 0 counts, and [`NO_PORTS`] stands for none.
    pub cells: Runs,
    /// Word -> four port classes of 16 bits. Class 0: no rule names the selector.
    pub port_classes: BTreeMap<u32, u64>,
    /// port set row x port classes + port class -> permit.
    pub port_cells: BTreeMap<u32, Permit>,
    /// Counter of a match -> the hosts behind the destination NAT of its services.
    pub service_hosts: BTreeMap<u32, AddressPair>,
}

/// The tables as a packet sees them that enters one NIC.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The slot.
    pub tables: &'a SlotTables,
    /// The NIC's index.
    pub nic: u32,
    /// The flows and fragments that are remembered; without them, none is.
    pub memory: Option<&'a Memory>,
    /// Whether a packet leaves traces in them.
    pub role: Role,
}

/// What packets leave behind for those that come after them.
#[derive(Debug, Default)]
pub struct Memory {
    flows: RefCell<BTreeMap<FlowKey, MemoryFlow>>,
    kept: RefCell<BTreeSet<FlowKey>>,
    fragments: RefCell<BTreeMap<FragmentKey, u64>>,
    used: RefCell<BTreeSet<IpNet>>,
    answers: Cell<bool>,
    now: Cell<u64>,
}

/// A flow in a [`Memory`].
#[derive(Clone, Debug)]
pub struct MemoryFlow(Rc<Cell<FlowRecord>>);

// === impl SlotTables ===

impl SlotTables {
    /// The port class of a selector.
    #[must_use]
    pub fn port_class(&self, selector: Selector) -> u32 {
        let word = self.port_classes.get(&selector.word()).copied().unwrap_or(0);
        u32::try_from(word >> selector.shift() & 0xffff).unwrap_or(0)
    }

    /// The counters that any permit counts at.
    #[must_use]
    pub fn counters(&self) -> BTreeSet<u32> {
        self.port_cells.values().map(|permit| permit.counter()).collect()
    }

    /// The grant rows that any prefix leads to.
    #[must_use]
    pub fn grant_rows(&self) -> BTreeSet<u32> {
        self.grants.values().map(|grant| grant.row()).filter(|row| *row != 0).collect()
    }
}

// === impl Memory ===

impl Memory {
    /// Ticks in a second, as this memory counts them.
    pub const HERTZ: u32 = 100;

    /// Sets the moment, in ticks.
    pub fn set_now(&self, now: u64) {
        self.now.set(now);
    }

    /// Every flow, also those that have expired.
    #[must_use]
    pub fn flows(&self) -> BTreeMap<FlowKey, FlowRecord> {
        self.flows.borrow().iter().map(|(key, flow)| (*key, flow.0.get())).collect()
    }

    /// Cuts a flow.
    pub fn cut(&self, key: &FlowKey) {
        if let Some(MemoryFlow(cell)) = self.flows.borrow().get(key) {
            cell.set(FlowRecord { state: FlowState::Cut.code(), ..cell.get() });
        }
    }

    /// The destination prefixes that are marked as used.
    #[must_use]
    pub fn used(&self) -> BTreeSet<IpNet> {
        self.used.borrow().clone()
    }

    /// Keeps a flow that the policy denies.
    pub fn keep(&self, key: FlowKey) {
        self.kept.borrow_mut().insert(key);
    }
}

impl Flow for MemoryFlow {
    fn state_code(&self) -> u32 {
        self.0.get().state
    }

    fn origin_code(&self) -> u32 {
        self.0.get().origin
    }

    fn seen(&self) -> u64 {
        self.0.get().seen
    }

    fn advance(&self, now: u64, state: FlowState, way: Way, load: Load) {
        let mut record = self.0.get();
        record.seen = now;
        record.state = state.code();
        record.count(way, load);
        self.0.set(record);
    }
}

// === impl View ===

impl<'a> View<'a> {
    /// The tables as a packet sees them that enters a NIC when nothing else happened.
    #[must_use]
    pub fn new(tables: &'a SlotTables, nic: u32) -> Self {
        Self { tables, nic, memory: None, role: Role::Observing }
    }

    fn destination(&self, destination: &Address) -> Option<(IpNet, Grant)> {
        let below = |at| self.tables.grants.range(..=at).next_back();
        covering(ip(destination), below).next().map(|(prefix, grant)| (prefix, *grant))
    }
}

impl Tables for View<'_> {
    type Flow = MemoryFlow;

    fn nic(&self) -> u32 {
        self.nic
    }

    fn settings(&self) -> SlotSettings {
        self.tables.settings
    }

    fn role(&self) -> Role {
        self.role
    }

    fn clock(&self) -> Clock {
        let now = self.memory.map_or(0, |memory| memory.now.get());
        Clock { now, hertz: Memory::HERTZ.into() }
    }

    fn service_host(&self, permit: Permit) -> AddressPair {
        self.tables.service_hosts.get(&permit.counter()).copied().unwrap_or_default()
    }

    fn flow(&self, key: &FlowKey) -> Option<MemoryFlow> {
        self.memory?.flows.borrow().get(key).cloned()
    }

    fn may_have_answers(&self) -> bool {
        self.memory.is_some_and(|memory| memory.answers.get())
    }

    fn expect_answers(&self) {
        if let Some(memory) = self.memory
            && self.role == Role::Enforcing
        {
            memory.answers.set(true);
        }
    }

    fn open_flow(&self, key: &FlowKey, record: &FlowRecord) {
        if let Some(memory) = self.memory
            && self.role == Role::Enforcing
        {
            let flow = MemoryFlow(Rc::new(Cell::new(*record)));
            memory.flows.borrow_mut().insert(*key, flow);
        }
    }

    fn is_kept(&self, key: &FlowKey) -> bool {
        self.memory.is_some_and(|memory| memory.kept.borrow().contains(key))
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<u64> {
        self.memory?.fragments.borrow().get(key).copied()
    }

    fn remember_first_fragment(&self, key: &FragmentKey, now: u64) {
        if let Some(memory) = self.memory
            && self.role == Role::Enforcing
        {
            memory.fragments.borrow_mut().insert(*key, now);
        }
    }

    fn class(&self, vlan: u16, source: &Address) -> Option<Class> {
        if self.nic >= MAX_NICS {
            return None;
        }
        let zone = *self.tables.zones.get(&zone_index(self.nic, vlan))?;
        let sources = &self.tables.sources;
        let first = (zone, IpNet::from(Ipv4Net::default()));
        let below =
            |at| sources.range(first..=(zone, at)).next_back().map(|((_, at), class)| (at, class));
        let (_, class) = covering(ip(source), below).next()?;
        Some(Class(*class)).filter(|class| *class != Class::NONE)
    }

    fn grant(&self, destination: &Address) -> Grant {
        let Some((prefix, grant)) = self.destination(destination) else { return Grant::NONE };
        let used = self.memory.is_some_and(|memory| memory.used.borrow().contains(&prefix));
        if used { grant.used() } else { grant }
    }

    fn mark_used(&self, destination: &Address) {
        if let Some(memory) = self.memory
            && self.role == Role::Enforcing
            && let Some((prefix, _)) = self.destination(destination)
        {
            memory.used.borrow_mut().insert(prefix);
        }
    }

    fn port_set(&self, grant: Grant, class: Class) -> Option<PortSet> {
        let classes = self.tables.settings.classes;
        if class.0 >= classes {
            return None;
        }
        let first = grant.row().checked_mul(classes)?;
        let cells = &self.tables.cells;
        let found = cells.get(first.checked_add(class.0)?).or_else(|| cells.get(first))?;
        (found != NO_PORTS).then_some(PortSet(found))
    }

    fn permit(&self, ports: PortSet, selector: Selector) -> Permit {
        let classes = self.tables.settings.port_classes;
        let class = self.tables.port_class(selector);
        if class >= classes {
            return Permit::DENIED;
        }
        ports
            .0
            .checked_mul(classes)
            .and_then(|row| row.checked_add(class))
            .and_then(|cell| self.tables.port_cells.get(&cell).copied())
            .unwrap_or(Permit::DENIED)
    }
}

/// Short cuts that know everything, and send no samples.
impl Shortcuts for View<'_> {
    type Slot = Self;

    fn tables(&self) -> Option<Self> {
        Some(*self)
    }

    fn known_class(&self, source: Number) -> Option<Class> {
        let source = source.address();
        is_plain(&source).then(|| self.class(0, &source).unwrap_or(Class::NONE))
    }

    type Question = ();

    fn remembered(&self, _: Number, _: (Class, Selector)) -> Known<()> {
        Known::Nothing(())
    }

    fn remember(&self, (): (), _: Number, _: Grant, _: ((Class, Selector), Permit)) {}

    fn permit(&self, (): (), grant: Grant, (class, selector): (Class, Selector)) -> Permit {
        let ports = self.port_set(grant, class);
        ports.map_or(Permit::DENIED, |ports| Tables::permit(self, ports, selector))
    }

    fn indexed(&self, (): (), destination: Number) -> Found {
        if is_special(destination) {
            return Found::UNSURE;
        }
        Found::grant(self.grant(&destination.address()))
    }

    fn mark_indexed(&self, destination: Number) {
        self.mark_used(&destination.address());
    }

    fn sources_stamp(&self) -> u64 {
        0
    }

    fn skips_sample(&self) -> bool {
        true
    }
}

/// The entries around an address, the longest prefix first. `below` finds the last entry that is
/// not behind a prefix, in the order of prefixes: by address, the shorter first.
///
/// If that entry isn't around the address, then whatever is around the address comes before it and
/// begins no later, so it is around the beginning of that entry as well: it is no longer than what
/// the two addresses have in common, and the search goes on from there.
pub(super) fn covering<'a, T: 'a>(
    address: IpAddr,
    mut below: impl FnMut(IpNet) -> Option<(&'a IpNet, &'a T)>,
) -> impl Iterator<Item = (IpNet, &'a T)> {
    let mut from = Some(IpNet::from(address));
    iter::from_fn(move || {
        loop {
            let (prefix, value) = below(from?)?;
            if prefix.contains(&address) {
                from = prefix.supernet();
                return Some((*prefix, value));
            }
            let common = match (prefix.addr(), address) {
                (IpAddr::V4(one), IpAddr::V4(other)) => {
                    (one.to_bits() ^ other.to_bits()).leading_zeros()
                }
                (IpAddr::V6(one), IpAddr::V6(other)) => {
                    (one.to_bits() ^ other.to_bits()).leading_zeros()
                }
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
            };
            from =
                IpNet::new(address, u8::try_from(common).ok()?).ok().map(|common| common.trunc());
        }
    })
}

fn ip(address: &Address) -> IpAddr {
    match address {
        Address::V4(bytes) => IpAddr::from(*bytes),
        Address::V6(bytes) => IpAddr::from(*bytes),
    }
}
