// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index against the prefixes that it was made of.

use std::{cell::RefCell, convert::Infallible, net::IpAddr};

use filter_common::{
    index::{Line, block_bit, find, mark, mixed_sources},
    tables::{Role, Tables as _, is_plain},
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};

use super::*;
use crate::compile::{SlotTables, View};

/// The index as a program sees it.
struct Memory {
    layout: IndexLayout,
    lines: RefCell<Vec<LineWords>>,
    retired: BTreeSet<Place>,
}

struct MemoryLine<'a>(&'a Memory, usize);

impl Line for MemoryLine<'_> {
    fn word(&self, index: u32) -> u64 {
        at(&self.0.lines.borrow()[self.1], index)
    }

    fn set(&self, index: u32, bits: u64) {
        self.0.lines.borrow_mut()[self.1][index as usize] |= bits;
    }
}

impl<'a> filter_common::index::Lines for &'a Memory {
    type Line = MemoryLine<'a>;

    fn line(&self, number: u32) -> Option<MemoryLine<'a>> {
        let number = number as usize;
        (number < self.lines.borrow().len()).then_some(MemoryLine(self, number))
    }
}

impl Memory {
    fn new(grants: &BTreeMap<IpNet, Grant>, room: u32) -> Self {
        Self::with_sources(grants, &BTreeMap::new(), room)
    }

    fn with_sources(
        grants: &BTreeMap<IpNet, Grant>,
        sources: &BTreeMap<(u32, IpNet), u32>,
        room: u32,
    ) -> Self {
        let mut lines: Vec<LineWords> = Vec::new();
        let layout = build_index(grants, sources, room, |first, new| {
            let end = first as usize + new.len();
            assert!(end <= room as usize, "lines behind the end");
            if lines.len() < end {
                lines.resize(end, [0; 8]);
            }
            lines[first as usize..end].copy_from_slice(new);
            Ok::<_, Infallible>(())
        });
        let Ok(layout) = layout;
        assert!(layout.lines as usize <= lines.len());
        Self { layout, lines: RefCell::new(lines), retired: BTreeSet::new() }
    }

    fn change(&mut self, address: IpAddr, grant: Option<Grant>) {
        let read = |number: u32| Ok::<_, Infallible>(self.lines.borrow()[number as usize]);
        let Ok(plan) = plan_host(&self.layout, address, grant, &self.retired, read);
        for change in &plan.changes {
            let mut lines = self.lines.borrow_mut();
            let word = &mut lines[change.place as usize / 8][change.place as usize % 8];
            let (lower, value) = (u64::from(u32::MAX), change.value);
            *word = match change.action {
                IndexChange::STORE => value,
                IndexChange::STORE_LOW => *word & !lower | value & lower,
                IndexChange::STORE_HIGH => *word & lower | value << 32,
                IndexChange::SET => *word | value,
                IndexChange::CLEAR => *word & !value,
                IndexChange::NOTHING => *word,
                _ => panic!("no such change: {change:?}"),
            };
        }
        self.retired.extend(plan.retired);
    }

    /// Fails where the index is sure of something else than the prefixes say; whether it is sure.
    fn check(&self, tables: &SlotTables, address: IpAddr) -> bool {
        let view = View { tables, nic: 0, memory: None, role: Role::Observing };
        let found = find(&self, &self.layout, number(address));
        if found.is_unsure() {
            return false;
        }
        assert_eq!(found.value().unmarked(), view.grant(&number(address).address()), "{address}");
        true
    }
}

/// Addresses that share much: of few tops, few /16 and few /24, with few hosts in each.
fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..3_u8, 0..3_u8, 0..3_u8, any::<u8>())
        .prop_map(|(a, b, c, d)| IpAddr::from([a.wrapping_sub(1), b * 127, c * 127, d & 0x83]));
    let v6 = (0..4_u16, 0..3_u16, 0..3_u16, any::<u8>(), any::<u8>()).prop_map(
        |(top, site, subnet, middle, host)| {
            let top = [0, 1, 0xdb8, 0xffff][usize::from(top)];
            let middle = u16::from(middle & 1) << 15;
            IpAddr::from([
                0x2001,
                top,
                site * 0x7fff,
                subnet << 8,
                middle,
                0,
                0,
                u16::from(host & 3),
            ])
        },
    );
    prop_oneof![v4, v6]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let length = prop_oneof![0..=128_u8, Just(128_u8), Just(64), Just(24), Just(16), Just(48)];
    (address(), length).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(most)).unwrap().trunc()
    })
}

fn grant(prefix: &IpNet, row: u32) -> Grant {
    let is_host = prefix.prefix_len() == prefix.max_prefix_len();
    match row {
        7 if is_host => Grant::new(3).own(),
        8 if is_host => Grant::CLOSED_ADDRESS,
        row => Grant::new(row % 7 + 1),
    }
}

fn grants() -> impl Strategy<Value = BTreeMap<IpNet, Grant>> {
    vec((prefix(), 0..9_u32), 0..60).prop_map(|entries| {
        entries.into_iter().map(|(prefix, row)| (prefix, grant(&prefix, row))).collect()
    })
}

/// Where something may begin or end, and what is next to it.
fn borders(grants: &BTreeMap<IpNet, Grant>) -> Vec<IpAddr> {
    let mut borders = Vec::new();
    for prefix in grants.keys() {
        match (prefix.network(), prefix.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let around = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                borders.extend(around.map(|bits| IpAddr::from(std::net::Ipv4Addr::from(bits))));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let around: [u128; 4] = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
                borders.extend(around.map(|bits| IpAddr::from(Ipv6Addr::from(bits))));
            }
            _ => {}
        }
    }
    borders
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn it_says_what_the_prefixes_say(grants in grants(), addresses in vec(address(), 0..40)) {
        let memory = Memory::new(&grants, u32::MAX);
        let tables = SlotTables { grants, ..SlotTables::default() };
        for address in addresses.into_iter().chain(borders(&tables.grants)) {
            memory.check(&tables, address);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_trie(grants in grants(), room in 0..9000_u32) {
        let memory = Memory::new(&grants, room);
        let tables = SlotTables { grants, ..SlotTables::default() };
        for address in borders(&tables.grants) {
            memory.check(&tables, address);
        }
    }

    #[test]
    fn it_follows_addresses_that_come_and_go(
        grants in grants(),
        changes in vec((address(), 0..10_u32), 0..30),
        addresses in vec(address(), 0..20),
    ) {
        prop_assume!(!grants.is_empty());
        let mut memory = Memory::new(&grants, u32::MAX);
        let mut tables = SlotTables { grants, ..SlotTables::default() };
        for (address, row) in changes {
            let prefix = IpNet::from(address);
            if row == 9 {
                tables.grants.remove(&prefix);
                memory.change(address, None);
            } else {
                tables.grants.insert(prefix, grant(&prefix, row));
                memory.change(address, Some(grant(&prefix, row)));
            }
            for address in addresses.iter().copied().chain([address]).chain(borders(&tables.grants)) {
                memory.check(&tables, address);
            }
        }
    }

    #[test]
    fn marks_are_of_addresses(grants in grants(), addresses in vec(address(), 0..40)) {
        let memory = Memory::new(&grants, u32::MAX);
        for address in addresses.into_iter().chain(borders(&grants)) {
            let destination = number(address);
            let before = find(&&memory, &memory.layout, destination);
            let marked = mark(&&memory, &memory.layout, destination);
            let after = find(&&memory, &memory.layout, destination);
            prop_assert!(!marked || grants.contains_key(&IpNet::from(address)));
            if marked {
                prop_assert_eq!(after.value(), before.value().used());
                let line = memory.lines.borrow()[host_line(&memory.layout, address).unwrap() as usize];
                let (word, shift) = host_in_line(address, &line).unwrap();
                let grant = Grant(low(at(&line, word) >> shift));
                prop_assert!(grant.is_used());
            } else {
                prop_assert_eq!(after, before);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whoever isn't mixed has the class of all others of the block that aren't.
    #[test]
    fn sources_that_are_not_mixed_have_one_class(
        sources in btree_map((1..3_u32, prefix()), 0..4_u32, 0..20),
        own in vec((1..3_u32, address()), 0..10),
        addresses in vec(address(), 0..10),
        lasts in vec(any::<u8>(), 2..12),
    ) {
        let mut sources = sources;
        sources.extend(own.iter().map(|(zone, own)| ((*zone, IpNet::from(*own)), u32::MAX)));
        let grants = BTreeMap::from([("192.0.2.0/24".parse().unwrap(), Grant::new(1))]);
        let memory = Memory::with_sources(&grants, &sources, u32::MAX);
        prop_assert!(memory.layout.flags & IndexLayout::SOURCES != 0);
        let class = |zone: u32, address: IpAddr| {
            let around = |((of, prefix), _): &(&(u32, IpNet), &u32)| *of == zone && prefix.contains(&address);
            sources.iter().filter(around).max_by_key(|((_, prefix), _)| prefix.prefix_len())
                .map(|(_, class)| *class)
        };
        let borders = sources.keys().map(|(_, prefix)| prefix.addr());
        for address in addresses.into_iter().chain(borders) {
            let of_block = |last: &u8| match address {
                IpAddr::V4(address) => {
                    let [a, b, c, _] = address.octets();
                    IpAddr::from([a, b, c, *last])
                }
                IpAddr::V6(address) => {
                    let mut octets = address.octets();
                    octets[15] = *last;
                    IpAddr::from(octets)
                }
            };
            let together: Vec<IpAddr> = lasts.iter().map(of_block).chain([address]).filter(|address| {
                let source = number(*address);
                mixed_sources(&&memory, &memory.layout, source) & block_bit(source) == 0
            }).collect();
            for zone in 1..3 {
                for pair in together.windows(2) {
                    prop_assert_eq!(class(zone, pair[0]), class(zone, pair[1]), "{:?}", pair);
                    prop_assert_eq!(is_plain(&number(pair[0]).address()), is_plain(&number(pair[1]).address()));
                }
            }
        }
    }
}

/// A list as large as any, of which the index is nearly always sure.
#[test]
fn many_hosts_are_found_without_the_trie() {
    let mut grants: BTreeMap<IpNet, Grant> = BTreeMap::new();
    for number in 0..40_000_u32 {
        let v4 = std::net::Ipv4Addr::from(
            0x1400_0000 + number.wrapping_mul(2_654_435_761) % 0x4000_0000,
        );
        let v6 = 0x2603_1000_u128 << 96 | u128::from(number % 977) << 80 | u128::from(number);
        grants.insert(IpNet::from(IpAddr::from(v4)), Grant::new(number % 50 + 1));
        let v6 = IpAddr::from(Ipv6Addr::from(v6));
        grants.insert(IpNet::from(v6), Grant::new(number % 50 + 1));
    }
    let memory = Memory::new(&grants, u32::MAX);
    let tables = SlotTables { grants: grants.clone(), ..SlotTables::default() };
    assert_eq!(index_lines(&tables.grants), memory.layout.lines);
    let mut unsure = 0;
    for (prefix, grant) in &grants {
        let destination = number(prefix.addr());
        let found = find(&&memory, &memory.layout, destination);
        if found.is_unsure() {
            unsure += 1;
        } else {
            assert_eq!(found.value(), *grant);
        }
    }
    assert!(unsure < grants.len() / 25, "{unsure} of {} are left to the trie", grants.len());
    assert!(memory.layout.lines < 120_000, "{} lines", memory.layout.lines);
}

/// Addresses as they are given out: one after the other, at fixed distances, at random in one range.
#[test]
fn hardly_a_line_is_full_whatever_the_addresses_have_in_common() {
    type Kind = fn(u32, u32) -> IpAddr;
    fn v6(bits: u128) -> IpAddr {
        IpAddr::from(bits.to_be_bytes())
    }
    let spread = |number: u32| number.wrapping_mul(0x9e37_79b1) >> 12;
    let kinds: [(&str, Kind); 6] = [
        ("one after the other", |n, _| IpAddr::from((0x3400_0000 + n).to_be_bytes())),
        ("the fifth of each /24", |n, _| IpAddr::from((0x3400_0005 + n * 256).to_be_bytes())),
        ("at random in a /12", |_, r| IpAddr::from((0x3400_0000 + r).to_be_bytes())),
        ("one of each /32", |n, _| v6(u128::from(0x2600_0000 + n) << 96 | 1)),
        ("one of a few of each /32", |_, r| v6(u128::from(0x2600_0000 + r) << 96 | 1)),
        ("hosts of a /64", |n, _| v6(0x2600_u128 << 112 | u128::from(n))),
    ];
    for (what, address) in kinds {
        let count = 60_000;
        let addresses: BTreeSet<IpAddr> = (0..count).map(|n| address(n, spread(n))).collect();
        let grants: BTreeMap<IpNet, Grant> =
            addresses.iter().map(|address| (IpNet::from(*address), Grant::new(1).used())).collect();
        let memory = Memory::new(&grants, u32::MAX);
        let unsure = addresses
            .iter()
            .filter(|address| find(&&memory, &memory.layout, number(**address)).is_unsure())
            .count();
        assert!(unsure * 20 < addresses.len(), "{what}: {unsure} of {}", addresses.len());
    }
}

/// With many /16 that hold little, each has a small tree; with few, and where there is much, nodes for each /24.
#[test]
fn many_blocks_with_few_prefixes_take_little_room() {
    let block = |number: u32| 0x1400_0000 + number * 0x1_0000;
    let prefix =
        |address: u32, length| IpNet::new(address.to_be_bytes().into(), length).unwrap().trunc();
    let blocks = u32::try_from(DENSE_NODES).unwrap() + 500;
    let mut grants: BTreeMap<IpNet, Grant> = BTreeMap::new();
    for number in 0..blocks {
        let row = number % 50 + 1;
        // Every hundredth holds more than one node of a tree has keys for.
        let count = if number % 100 == 7 { 30 } else { number % 8 };
        for part in 0..count {
            let address = block(number) + part * 0x0841;
            grants.insert(
                prefix(address, 20 + u8::try_from(part % 13).unwrap()),
                Grant::new(row + part),
            );
        }
    }
    let mut memory = Memory::new(&grants, u32::MAX);
    let mut tables = SlotTables { grants, ..SlotTables::default() };
    assert!(memory.layout.lines < 30_000, "{} lines", memory.layout.lines);
    let sure = |memory: &Memory, tables: &SlotTables| {
        let borders = borders(&tables.grants);
        let sure = borders.iter().filter(|address| memory.check(tables, **address)).count();
        assert!(sure * 100 > borders.len() * 99, "{sure} of {}", borders.len());
    };
    sure(&memory, &tables);
    // Single addresses come and go wherever they are, also where a tree was nothing but a prefix.
    for number in (0..blocks).step_by(17) {
        let address = IpAddr::from((block(number) + 0x0a0b).to_be_bytes());
        tables.grants.insert(IpNet::from(address), Grant::new(60));
        memory.change(address, Some(Grant::new(60)));
        assert!(memory.check(&tables, address), "{address}");
        if number % 2 == 0 {
            tables.grants.remove(&IpNet::from(address));
            memory.change(address, None);
            assert!(memory.check(&tables, address), "{address}");
        }
    }
    sure(&memory, &tables);
    tables.grants.retain(|prefix, _| prefix.addr() < IpAddr::from(block(100).to_be_bytes()));
    let few = Memory::new(&tables.grants, u32::MAX);
    sure(&few, &tables);
}
