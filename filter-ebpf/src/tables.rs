// SPDX-License-Identifier: MIT OR GPL-2.0
//! The filter's tables over BPF maps.

use aya_ebpf::{
    helpers::generated::bpf_jiffies64,
    maps::{LpmTrie, lpm_trie::Key},
};
use filter_common::{
    flow::{Clock, Flow, FlowState, Load, Way},
    parse::Address,
    tables::{Class, Mode, PortSet, Role, Tables},
    wire::{
        Active, AddressPair, COUNTERS_PER_NIC, FlowKey, FlowRecord, FragmentKey, Grant, MAX_NICS,
        MAX_PORT_CELLS, NO_PORTS, PORT_CLASS_WORDS, Permit, SLOTS, Selector, SlotSettings, VLANS,
        zone_index,
    },
};

use crate::maps::{
    ACTIVE, CELLS, FLOWS, FRAGMENTS, GRANTS4_0, GRANTS4_1, GRANTS6_0, GRANTS6_1, GrantCell,
    KEPT_FLOWS, PORT_CELLS, PORT_CLASSES, SERVICE_HOSTS, SETTINGS, SOURCES4_0, SOURCES4_1,
    SOURCES6_0, SOURCES6_1, ZONES,
};

/// The slot that was in force when the packet came, seen from one NIC.
pub(crate) struct Slot {
    active: Active,
    nic: u32,
    settings: SlotSettings,
    role: Role,
    hertz: u32,
}

/// A flow in the map. The kernel doesn't use its memory for another entry before the program ends
/// that found it, but for flows that are evicted: then a packet may count for a stranger.
pub(crate) struct FoundFlow(*mut FlowRecord);

impl Slot {
    /// Reads the active word, once for the packet.
    #[inline(always)]
    pub(crate) fn active(nic: u32, role: Role, hertz: u32) -> Self {
        let active = match ACTIVE.get_ptr(0) {
            // SAFETY: the value is aligned and always there; volatile, so that the packet sees
            // one word however often it is used.
            Some(word) => Active(unsafe { core::ptr::read_volatile(word) }),
            None => Active::default(),
        };
        let settings = match SETTINGS.get(active.slot()) {
            Some(settings) => *settings,
            None => SlotSettings::default(),
        };
        Self { active, nic, settings, role, hertz }
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

impl Flow for FoundFlow {
    #[inline(always)]
    fn state_code(&self) -> u32 {
        // SAFETY: the pointer came from a look-up in this run of the program, until whose end the
        // entry's memory stays; volatile, as other CPUs may write the aligned word.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).state) }
    }

    #[inline(always)]
    fn origin_code(&self) -> u32 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).origin) }
    }

    #[inline(always)]
    fn seen(&self) -> u64 {
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).seen) }
    }

    #[inline(always)]
    fn advance(&self, now: u64, state: FlowState, way: Way, load: Load) {
        let old = self.state_code();
        // SAFETY: as above; each is one store of an aligned word.
        let (packets, bytes) = unsafe {
            core::ptr::write_volatile(&raw mut (*self.0).seen, now);
            if old != state.code() {
                core::ptr::write_volatile(&raw mut (*self.0).state, state.code());
            }
            match way {
                Way::Outgoing => (&raw mut (*self.0).packets_out, &raw mut (*self.0).bytes_out),
                Way::Incoming => (&raw mut (*self.0).packets_in, &raw mut (*self.0).bytes_in),
            }
        };
        add(packets, load.packets);
        add(bytes, load.bytes);
    }
}

/// Adds to a counter in a map that several CPUs add to.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn add(counter: *mut u64, value: u32) {
    let value = u64::from(value);
    // SAFETY: the pointer is to an aligned word of a map's value. The target has atomic additions,
    // which `core` doesn't offer for it, as it has no other atomic operations.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({0} + 0) += {1}",
            in(reg) counter,
            in(reg) value,
            options(nostack)
        );
    }
}

/// Lints look at the crate as one for the host, which has no such instruction.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn add(counter: *mut u64, value: u32) {
    // SAFETY: as above, on a single CPU.
    unsafe { *counter = (*counter).wrapping_add(u64::from(value)) }
}

impl Tables for Slot {
    type Flow = FoundFlow;

    #[inline(always)]
    fn nic(&self) -> u32 {
        self.nic
    }

    #[inline(always)]
    fn settings(&self) -> SlotSettings {
        self.settings
    }

    #[inline(always)]
    fn role(&self) -> Role {
        self.role
    }

    #[inline(always)]
    fn clock(&self) -> Clock {
        // SAFETY: the helper has no conditions.
        let now = unsafe { bpf_jiffies64() };
        Clock { now, hertz: u64::from(self.hertz) }
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
        Some(FoundFlow(FLOWS.get_ptr_mut(key)?))
    }

    #[inline(always)]
    fn open_flow(&self, key: &FlowKey, record: &FlowRecord) {
        if self.role == Role::Enforcing {
            // Where the kernel has no entry to spare at the moment, the next packet opens it.
            let _full = FLOWS.insert(key, record, 0);
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
            // As above; the later fragments are then dropped, and sent again.
            let _full = FRAGMENTS.insert(key, now, 0);
        }
    }

    #[inline(always)]
    fn class(&self, vlan: u16, source: &Address) -> Option<Class> {
        let base = self.active.slot() * MAX_NICS * VLANS;
        let zone = *ZONES.get(base + zone_index(self.nic, vlan))?;
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
        self.permit_of(ports, selector).unwrap_or(Permit::DENIED)
    }
}

impl Slot {
    /// A cell of the matrix of grants and classes; 0 also where there is no such cell. Those of the
    /// other slot stand beside them.
    #[inline(always)]
    fn cell(&self, index: u64) -> u32 {
        let place = index * u64::from(SLOTS) + u64::from(self.active.slot());
        match CELLS.get(u32::try_from(place).unwrap_or(u32::MAX)) {
            Some(ports) => *ports,
            None => 0,
        }
    }

    #[inline(always)]
    fn permit_of(&self, ports: PortSet, selector: Selector) -> Option<Permit> {
        let word =
            PORT_CLASSES.get(self.active.slot() * PORT_CLASS_WORDS + selector.word()).copied()?;
        let class = (word >> selector.shift()) & 0xffff;
        let stride = u64::from(self.settings.port_classes);
        if class >= stride {
            return None;
        }
        let index = u64::from(ports.0) * stride + class;
        PORT_CELLS.get(slot_index(self.active, index, MAX_PORT_CELLS)?).copied().map(Permit)
    }
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
