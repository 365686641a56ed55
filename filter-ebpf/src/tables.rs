// SPDX-License-Identifier: MIT OR GPL-2.0
//! The filter's tables over BPF maps.

use aya_ebpf::maps::{LpmTrie, lpm_trie::Key};
use filter_common::{
    parse::Address,
    tables::{Class, Mode, PortSet, Tables},
    wire::{
        Active, Grant, MAX_CELLS, MAX_NICS, MAX_PORT_CELLS, PORT_CLASS_WORDS, Permit, Selector,
        SlotSettings, VLANS, zone_index,
    },
};

use crate::maps::{
    ACTIVE, CELLS, GRANTS4_0, GRANTS4_1, GRANTS6_0, GRANTS6_1, PORT_CELLS, PORT_CLASSES, SETTINGS,
    SOURCES4_0, SOURCES4_1, SOURCES6_0, SOURCES6_1, ZONES,
};

/// The slot that was in force when the packet came, seen from one NIC.
pub(crate) struct Slot {
    active: Active,
    nic: u32,
    settings: SlotSettings,
}

impl Slot {
    /// Reads the active word, once for the packet.
    #[inline(always)]
    pub(crate) fn active(nic: u32) -> Self {
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
        Self { active, nic, settings }
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
    fn longest_match<K>(&self, tries: [&LpmTrie<K, u32>; 2], bits: u32, data: K) -> Option<u32> {
        let [first, second] = tries;
        let trie = if self.active.slot() == 0 { first } else { second };
        trie.get(Key::new(bits, data)).copied()
    }
}

impl Tables for Slot {
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
            Some(class) if class != Class::NONE.0 => Some(Class(class)),
            _ => None,
        }
    }

    #[inline(always)]
    fn grant(&self, destination: &Address) -> Grant {
        let found = match *destination {
            Address::V4(address) => self.longest_match([&GRANTS4_0, &GRANTS4_1], 32, address),
            Address::V6(address) => self.longest_match([&GRANTS6_0, &GRANTS6_1], 128, address),
        };
        match found {
            Some(grant) => Grant(grant),
            None => Grant::NONE,
        }
    }

    #[inline(always)]
    fn port_set(&self, grant: Grant, class: Class) -> Option<PortSet> {
        if class.0 >= self.settings.classes {
            return None;
        }
        let index = u64::from(grant.row()) * u64::from(self.settings.classes) + u64::from(class.0);
        match *CELLS.get(slot_index(self.active, index, MAX_CELLS)?)? {
            0 => None,
            ports => Some(PortSet(ports)),
        }
    }

    #[inline(always)]
    fn permit(&self, ports: PortSet, selector: Selector) -> Permit {
        self.permit_of(ports, selector).unwrap_or(Permit::DENIED)
    }
}

impl Slot {
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
