// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index in front of the tries (`filter_common::index`): made of a slot's grants, and changed
//! with single addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use filter_common::{
    address::Number,
    fast_path::is_special4,
    index::{
        ALL_MIXED, BASE_LINES, DENSE_LINES, ENTRIES_PER_LINE, Entry, FULL, FULL_WORD,
        HOSTS6_PER_LINE, KEYS_PER_LINE, LineWords, TREE_LINES, block_bit, block_key, block_line,
        first_word, host4_line, host6_grant, host6_line, keyed, lower, mark_of, presence6, spread,
        stripe, top6_line,
    },
    wire::{DEFAULT_INDEX_LINES, Grant, IndexChange, IndexLayout},
};
use ipnet::IpNet;

/// How many hosts each family has room for at least.
const SPARE_HOSTS: usize = 4096;

/// How many tops there is room for at least.
const SPARE_TOPS: usize = 512;

/// How many /16 of IPv4 have a dense node in any case. With more of them, those have a single node of a tree that it is
/// enough for: it is an eighth as long, and it takes longer to fetch what the processor's caches don't hold than
/// to compare keys.
const DENSE_NODES: usize = 2048;

/// Tops for each word of their filter, at most.
const TOPS_PER_WORD: usize = 4;

/// Lines of the table of mixed blocks of sources. Where they don't do, those that have no room in it are
/// taken for mixed.
const BLOCK_LINES: u32 = 1024;

/// Short prefixes whose tops are listed one by one have no more of them than this, each and all
/// together.
const LISTED_TOPS: u64 = 4096;
const LISTED_TOPS_IN_ALL: u64 = 65_536;

/// Lines of the index of a slot at most: 2 GiB.
const MAX_INDEX_LINES: u32 = 1 << 25;

/// Where a key has its place in the table of a slot.
type Place = (u32, u32);

/// How the index follows one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPlan {
    /// What has to be done, in this order. Places are relative to the slot.
    pub changes: Vec<IndexChange>,
    /// The address's stripe.
    pub stripe: u16,
    /// A line had no room: the address is looked up in the trie from now on.
    pub crowded: bool,
    /// A place that must stay free until all packets are through that may be reading it.
    pub retired: Option<Place>,
}

/// Builds the index of a slot of `room` lines from its grants, in their order, and its sources, by zone
/// and prefix. Gives its lines to `write`, a few at a time. What doesn't fit is left out: its family is
/// looked up in the trie. Without any grant there is no index.
///
/// # Errors
///
/// Those of `write`.
pub fn build_index<E>(
    grants: &BTreeMap<IpNet, Grant>,
    sources: &BTreeMap<(u32, IpNet), u32>,
    room: u32,
    mut write: impl FnMut(u32, &[LineWords]) -> Result<(), E>,
) -> Result<IndexLayout, E> {
    let mut layout = IndexLayout::default();
    if grants.is_empty() {
        return Ok(layout);
    }
    let mut builder = Builder { next: 0, room: room.into(), write: &mut write };
    if let Some(with_v4) = builder.v4(grants, layout)? {
        layout = with_v4;
    } else {
        builder.next = 0;
    }
    let before = builder.next;
    match builder.v6(grants, layout)? {
        Some(with_v6) => layout = with_v6,
        None => builder.next = before,
    }
    layout = builder.sources(sources, layout)?;
    layout.lines = u32::try_from(builder.next).unwrap_or(u32::MAX);
    Ok(layout)
}

/// How many lines in each slot an index has that is made for so many, and for some more to come.
#[must_use]
pub fn wanted_index_lines(needed: u32) -> u32 {
    match needed {
        needed if needed <= DEFAULT_INDEX_LINES => DEFAULT_INDEX_LINES,
        needed => needed.saturating_add(needed / 4).next_multiple_of(1024).min(MAX_INDEX_LINES),
    }
}

/// How many lines the index of these grants has. It is laid out whole to know that.
#[must_use]
pub fn index_lines(grants: &BTreeMap<IpNet, Grant>) -> u32 {
    let no_sources = BTreeMap::new();
    let ignore = |_, _: &[LineWords]| Ok::<_, std::convert::Infallible>(());
    let built = build_index(grants, &no_sources, u32::MAX, ignore);
    match built {
        Ok(layout) => layout.lines,
        Err(never) => match never {},
    }
}

/// Plans how the index of a slot follows one address that gets a grant, or loses its entry. `read`
/// gives lines as they are.
///
/// # Errors
///
/// Those of `read`.
pub fn plan_host<E>(
    layout: &IndexLayout,
    address: IpAddr,
    grant: Option<Grant>,
    retired: &BTreeSet<Place>,
    mut read: impl FnMut(u32) -> Result<LineWords, E>,
) -> Result<HostPlan, E> {
    let mut plan = HostPlan { stripe: host_stripe(address), ..HostPlan::default() };
    match address {
        IpAddr::V4(address) if layout.flags & IndexLayout::V4 != 0 => {
            plan.v4(layout, address.to_bits(), grant, &mut read)?;
        }
        IpAddr::V6(address) if layout.flags & IndexLayout::V6 != 0 => {
            plan.v6(layout, halves(address), grant, retired, &mut read)?;
        }
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    if plan.changes.is_empty() {
        plan.change(0, 0, IndexChange::NOTHING, 0);
    }
    Ok(plan)
}

/// The stripe of an address.
#[must_use]
pub fn host_stripe(address: IpAddr) -> u16 {
    // There are far fewer than 2^16.
    u16::try_from(stripe(spread(number(address)))).unwrap_or_default()
}

/// Where an address's grant stands in its line of the index: the word and the grant's lowest bit.
/// `None` where it has no entry there.
#[must_use]
pub fn host_in_line(address: IpAddr, line: &LineWords) -> Option<(u32, u32)> {
    match address {
        IpAddr::V4(address) => {
            let key = address.to_bits();
            let word = (0..KEYS_PER_LINE).find(|word| key != 0 && low(at(line, *word)) == key)?;
            Some((word, 32))
        }
        IpAddr::V6(address) => {
            let (high, low) = halves(address);
            let host = (0..HOSTS6_PER_LINE).find(|host| is_host6(line, *host, high, low))?;
            Some(host6_grant(host))
        }
    }
}

/// The line in which an address's grant stands, if it has an entry in the index; `None` where its
/// family isn't indexed.
#[must_use]
pub fn host_line(layout: &IndexLayout, address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(address) => {
            (layout.flags & IndexLayout::V4 != 0).then(|| host4_line(layout, address.to_bits()))
        }
        IpAddr::V6(address) => (layout.flags & IndexLayout::V6 != 0).then(|| {
            let (high, low) = halves(address);
            host6_line(layout, high, low)
        }),
    }
}

/// What gives lines away.
struct Builder<'a, W> {
    next: u64,
    room: u64,
    write: &'a mut W,
}

/// Prefixes as a sequence of beginnings: from each on, an entry holds, up to the next.
type Beginnings = Vec<(u64, Entry)>;

/// Lines that are being made, and the number of the first.
struct Lines {
    first: u32,
    lines: Vec<LineWords>,
}

// === impl HostPlan ===

impl HostPlan {
    fn v4<E>(
        &mut self,
        layout: &IndexLayout,
        address: u32,
        grant: Option<Grant>,
        read: &mut impl FnMut(u32) -> Result<LineWords, E>,
    ) -> Result<(), E> {
        // Of those the index is always unsure.
        if is_special4(address) {
            return Ok(());
        }
        let number = host4_line(layout, address);
        let line = read(number)?;
        let held = (0..KEYS_PER_LINE).find(|word| low(at(&line, *word)) == address);
        match (grant, held) {
            (Some(grant), Some(word)) => {
                self.change(number, word, IndexChange::STORE_HIGH, grant.0.into());
            }
            (Some(grant), None) => {
                let preferred = first_word(address);
                let mut words = std::iter::once(preferred).chain(0..KEYS_PER_LINE);
                match words.find(|word| at(&line, *word) == 0) {
                    Some(word) => self.insert(number, word, keyed(address, grant.0)),
                    None => self.full(number),
                }
            }
            (None, Some(word)) => self.change(number, word, IndexChange::STORE, 0),
            (None, None) => {}
        }
        if grant.is_some() {
            let (mut first, mut index) = (0, address >> 16);
            let mut above = entry(&read(index / ENTRIES_PER_LINE)?, index);
            if let Some(dense) = above.dense_line() {
                (first, index) = (dense, address >> 8 & 0xff);
                above = entry(&read(first + index / ENTRIES_PER_LINE)?, index);
            }
            let bits = u64::from(above.with_host4(address).0) << (index % 2 * 32);
            let word = index % ENTRIES_PER_LINE / 2;
            self.change(first + index / ENTRIES_PER_LINE, word, IndexChange::SET, bits);
        }
        Ok(())
    }

    fn v6<E>(
        &mut self,
        layout: &IndexLayout,
        (high, low_half): (u64, u64),
        grant: Option<Grant>,
        retired: &BTreeSet<Place>,
        read: &mut impl FnMut(u32) -> Result<LineWords, E>,
    ) -> Result<(), E> {
        let top = top(high);
        // Of these the index is always unsure.
        if top == 0 {
            return Ok(());
        }
        let number = host6_line(layout, high, low_half);
        let line = read(number)?;
        let held = (0..HOSTS6_PER_LINE).find(|host| is_host6(&line, *host, high, low_half));
        match (grant, held) {
            (Some(grant), Some(host)) => self.grant6(number, host, grant),
            (Some(grant), None) => {
                let is_free =
                    |host: &u32| at(&line, host * 2) == 0 && !retired.contains(&(number, *host));
                match (0..HOSTS6_PER_LINE).find(is_free) {
                    Some(host) => {
                        // The first half makes it one, and comes last.
                        self.grant6(number, host, grant);
                        self.change(number, host * 2 + 1, IndexChange::STORE, low_half);
                        self.change(number, host * 2, IndexChange::STORE, high);
                    }
                    None => self.full(number),
                }
            }
            (None, Some(host)) => {
                self.change(number, host * 2, IndexChange::STORE, 0);
                // A packet that has read both halves may be about to read the grant.
                self.retired = Some((number, host));
            }
            (None, None) => {}
        }
        if grant.is_some() {
            let (line, word, bits) = presence6(layout, top);
            self.change(line, word, IndexChange::SET, bits);
            let number = top6_line(layout, top);
            let line = read(number)?;
            let bits = u64::from(Entry::WITH_HOSTS.0) << 32;
            let held = (0..KEYS_PER_LINE).find(|word| low(at(&line, *word)) == top);
            let free = (0..KEYS_PER_LINE).find(|word| at(&line, *word) == 0);
            match (held, free) {
                (Some(word), _) => self.change(number, word, IndexChange::SET, bits),
                (None, Some(word)) => {
                    let around = if layout.flags & IndexLayout::SHORT6 == 0 {
                        Entry::NONE
                    } else {
                        Entry::ASK
                    };
                    self.insert(number, word, keyed(top, around.with_hosts().0));
                }
                (None, None) => self.full(number),
            }
        }
        Ok(())
    }

    fn change(&mut self, line: u32, word: u32, action: u16, value: u64) {
        let stripe = self.stripe;
        self.changes.push(IndexChange { place: line * 8 + word, action, stripe, value });
    }

    /// Stores a key where there was none, after its mark.
    fn insert(&mut self, line: u32, word: u32, value: u64) {
        self.change(line, FULL_WORD, IndexChange::SET, mark_of(lower(value)));
        self.change(line, word, IndexChange::STORE, value);
    }

    fn grant6(&mut self, line: u32, host: u32, grant: Grant) {
        let (word, shift) = host6_grant(host);
        let action = if shift == 0 { IndexChange::STORE_LOW } else { IndexChange::STORE_HIGH };
        // The upper half of the last word is no grant.
        self.change(line, word, action, grant.0.into());
    }

    fn full(&mut self, line: u32) {
        self.change(line, FULL_WORD, IndexChange::SET, FULL);
        self.crowded = true;
    }
}

// === impl Builder ===

impl<W, E> Builder<'_, W>
where
    W: FnMut(u32, &[LineWords]) -> Result<(), E>,
{
    /// Gives lines away; the number of the first, or `None` where there is no room for them.
    fn put(&mut self, lines: &[LineWords]) -> Result<Option<u32>, E> {
        let (first, count) = (self.next, lines.len() as u64);
        if first + count > self.room {
            return Ok(None);
        }
        let Ok(first) = u32::try_from(first) else { return Ok(None) };
        (self.write)(first, lines)?;
        self.next += count;
        Ok(Some(first))
    }

    fn v4(
        &mut self,
        grants: &BTreeMap<IpNet, Grant>,
        layout: IndexLayout,
    ) -> Result<Option<IndexLayout>, E> {
        let of_family = || {
            let prefixes = grants.iter().filter_map(|(prefix, grant)| match prefix {
                IpNet::V4(prefix) => {
                    Some((prefix.network().to_bits(), prefix.prefix_len(), *grant))
                }
                IpNet::V6(_) => None,
            });
            prefixes.filter(|(address, length, _)| *length < 32 || !is_special4(*address))
        };
        let hosts = || of_family().filter(|(_, length, _)| *length == 32);
        let wide =
            of_family().filter(|(_, length, _)| *length < 32).map(|(address, length, grant)| {
                let last = u64::from(address) + (1 << (32 - length)) - 1;
                (u64::from(address), last, Entry::leaf(grant))
            });
        let beginnings = beginnings(wide);
        // The base is known when all nodes have their places.
        self.next = BASE_LINES.into();
        if self.next > self.room {
            return Ok(None);
        }
        let mut base = vec![[0; 8]; BASE_LINES as usize];
        let mut rest = Walk { beginnings: &beginnings, entry: Entry::NONE };
        let mut with_hosts = hosts().map(|(address, ..)| address).peekable();
        let blocks = beginnings.chunk_by(|(one, _), (next, _)| one >> 16 == next >> 16);
        // A node of a tree has a key for where the block begins, too.
        let small = if blocks.count() > DENSE_NODES { ENTRIES_PER_LINE as usize - 1 } else { 0 };
        for number in 0..65_536_u32 {
            let begin = u64::from(number) << 16;
            rest.go_to(begin);
            let Ok(first) = u32::try_from(self.next) else { return Ok(None) };
            let mut node = Lines { first, lines: Vec::new() };
            let entry = if rest.changes_before(begin + 0x1_0000) <= small {
                let mut entry = node.tree(&rest.below(begin, begin + 0x1_0000));
                let last = number << 16 | 0xffff;
                while let Some(host) = with_hosts.next_if(|host| *host <= last) {
                    entry = entry.with_host4(host);
                }
                entry
            } else {
                node.lines = vec![[0; 8]; DENSE_LINES as usize];
                for part in 0..256_u32 {
                    let begin = begin + u64::from(part) * 256;
                    let below = rest.below(begin, begin + 256);
                    let mut entry = node.tree(&below);
                    let last = u32::try_from(begin + 255).unwrap_or(u32::MAX);
                    while let Some(host) = with_hosts.next_if(|host| *host <= last) {
                        entry = entry.with_host4(host);
                    }
                    set_entry(&mut node.lines, part, entry);
                }
                Entry::dense(first)
            };
            if self.put(&node.lines)?.is_none() {
                return Ok(None);
            }
            let entry = if is_special4(number << 16) { Entry::ASK } else { entry };
            set_entry(&mut base, number, entry);
        }
        (self.write)(0, &base)?;

        let count = table_lines(hosts().count(), SPARE_HOSTS, KEYS_PER_LINE);
        let Ok(hosts4) = u32::try_from(self.next) else { return Ok(None) };
        let layout = IndexLayout {
            flags: layout.flags | IndexLayout::V4,
            hosts4,
            hosts4_mask: count - 1,
            ..layout
        };
        let mut table = vec![[0; 8]; count as usize];
        for (address, _, grant) in hosts() {
            let number = host4_line(&layout, address) - hosts4;
            put_keyed(&mut table, number, keyed(address, grant.0));
        }
        Ok(self.put(&table)?.map(|_| layout))
    }

    fn v6(
        &mut self,
        grants: &BTreeMap<IpNet, Grant>,
        layout: IndexLayout,
    ) -> Result<Option<IndexLayout>, E> {
        let of_family = || {
            grants.iter().filter_map(|(prefix, grant)| match prefix {
                IpNet::V4(_) => None,
                IpNet::V6(prefix) => Some((halves(prefix.network()), prefix.prefix_len(), *grant)),
            })
        };
        let hosts =
            || of_family().filter(|((high, _), length, _)| *length == 128 && top(*high) != 0);
        let wide =
            of_family().filter(|(_, length, _)| *length < 128).map(|((high, _), length, grant)| {
                if length > 64 {
                    (high, high, Entry::ASK)
                } else {
                    let last = high | u64::MAX.checked_shr(length.into()).unwrap_or(0);
                    (high, last, Entry::leaf(grant))
                }
            });
        let beginnings = beginnings(wide);
        let Ok(first) = u32::try_from(self.next) else { return Ok(None) };
        let mut trees = Lines { first, lines: Vec::new() };
        let (mut tops, mut flags) = (BTreeMap::new(), layout.flags | IndexLayout::V6);
        let (mut rest, mut listed) = (beginnings.as_slice(), 0);
        let mut entry = Entry::NONE;
        while let Some((begin, _)) = rest.first().copied() {
            let this = top(begin);
            let mut walk = Walk { beginnings: rest, entry };
            let start = u64::from(this) << 32;
            let below = walk.below(start, start.saturating_add(1 << 32));
            let root = trees.tree(&below);
            if this != 0 && (root != Entry::NONE || flags & IndexLayout::SHORT6 != 0) {
                tops.insert(this, root);
            }
            (rest, entry) = (walk.beginnings, walk.entry);
            // What goes on into further tops, up to where something else begins.
            let next = rest.first().map_or(1 << 32, |(begin, _)| u64::from(top(*begin)));
            let count = next.saturating_sub(u64::from(this) + 1);
            if entry == Entry::NONE || count == 0 {
                continue;
            }
            listed += count;
            if count > LISTED_TOPS || listed > LISTED_TOPS_IN_ALL {
                flags |= IndexLayout::SHORT6;
                listed -= count;
            } else {
                let further = (this + 1..).zip(0..count).map(|(top, _)| (top, entry));
                tops.extend(further);
            }
        }
        for ((high, _), ..) in hosts() {
            let around = |top: u32| {
                let at = u64::from(top) << 32;
                let before = beginnings.partition_point(|(begin, _)| *begin <= at);
                before.checked_sub(1).and_then(|index| beginnings.get(index))
            };
            let top = top(high);
            let entry = tops
                .entry(top)
                .or_insert_with(|| around(top).map_or(Entry::NONE, |(_, entry)| *entry));
            *entry = entry.with_hosts();
        }
        drop(beginnings);
        if self.put(&trees.lines)?.is_none() {
            return Ok(None);
        }
        drop(trees);

        let count = table_lines(tops.len(), SPARE_TOPS, KEYS_PER_LINE);
        let Ok(tops6) = u32::try_from(self.next) else { return Ok(None) };
        let layout = IndexLayout { flags, tops6, tops6_mask: count - 1, ..layout };
        let mut table = vec![[0; 8]; count as usize];
        for (top, entry) in &tops {
            let number = top6_line(&layout, *top) - tops6;
            put_keyed(&mut table, number, keyed(*top, entry.0));
        }
        if self.put(&table)?.is_none() {
            return Ok(None);
        }

        let words = tops.len().max(SPARE_TOPS).div_ceil(TOPS_PER_WORD).next_power_of_two();
        let words = u32::try_from(words).unwrap_or(1 << 31);
        let Ok(presence6_first) = u32::try_from(self.next) else { return Ok(None) };
        let layout =
            IndexLayout { presence6: presence6_first, presence6_mask: words - 1, ..layout };
        let mut filter = vec![[0; 8]; words.div_ceil(8) as usize];
        for top in tops.keys() {
            let (number, word, bits) = presence6(&layout, *top);
            if let Some(line) = filter.get_mut((number - presence6_first) as usize) {
                set(line, word, at(line, word) | bits);
            }
        }
        if self.put(&filter)?.is_none() {
            return Ok(None);
        }

        let count = table_lines(hosts().count(), SPARE_HOSTS, HOSTS6_PER_LINE);
        let Ok(hosts6) = u32::try_from(self.next) else { return Ok(None) };
        let layout = IndexLayout { hosts6, hosts6_mask: count - 1, ..layout };
        let mut table = vec![[0; 8]; count as usize];
        for ((high, low), _, grant) in hosts() {
            let number = host6_line(&layout, high, low) - hosts6;
            let Some(line) = table.get_mut(number as usize) else { continue };
            match (0..HOSTS6_PER_LINE).find(|host| at(line, host * 2) == 0) {
                Some(host) => {
                    set(line, host * 2, high);
                    set(line, host * 2 + 1, low);
                    let (word, shift) = host6_grant(host);
                    set(line, word, at(line, word) | u64::from(grant.0) << shift);
                }
                None => set(line, FULL_WORD, at(line, FULL_WORD) | FULL),
            }
        }
        Ok(self.put(&table)?.map(|_| layout))
    }

    /// Which blocks of sources hold prefixes that are longer than they are. Zones don't matter: what is
    /// mixed in one of them counts as mixed in all.
    fn sources(
        &mut self,
        sources: &BTreeMap<(u32, IpNet), u32>,
        layout: IndexLayout,
    ) -> Result<IndexLayout, E> {
        let mut blocks: BTreeMap<u32, u32> = BTreeMap::new();
        for (_, prefix) in sources.keys() {
            let block = match prefix {
                IpNet::V4(_) => 24,
                IpNet::V6(_) => 64,
            };
            if prefix.prefix_len() <= block {
                continue;
            }
            let mixed = if prefix.max_prefix_len() - prefix.prefix_len() >= 5 {
                ALL_MIXED
            } else {
                // Its addresses have bits side by side, and the first one's is the lowest.
                let count = 1_u32 << (prefix.max_prefix_len() - prefix.prefix_len());
                ((1 << count) - 1) * block_bit(number(prefix.network()))
            };
            *blocks.entry(block_key(number(prefix.network()))).or_default() |= mixed;
        }
        let Ok(first) = u32::try_from(self.next) else { return Ok(layout) };
        let with_blocks = IndexLayout {
            flags: layout.flags | IndexLayout::SOURCES,
            blocks: first,
            blocks_mask: BLOCK_LINES - 1,
            ..layout
        };
        let mut table = vec![[0; 8]; BLOCK_LINES as usize];
        for (key, mixed) in blocks {
            let number = block_line(&with_blocks, key) - first;
            put_keyed(&mut table, number, keyed(key, mixed));
        }
        Ok(if self.put(&table)?.is_some() { with_blocks } else { layout })
    }
}

/// Goes along beginnings.
struct Walk<'a> {
    beginnings: &'a [(u64, Entry)],
    /// What holds where the walk is.
    entry: Entry,
}

// === impl Walk ===

impl Walk<'_> {
    fn go_to(&mut self, place: u64) {
        while let Some(((begin, entry), rest)) = self.beginnings.split_first()
            && *begin <= place
        {
            (self.entry, self.beginnings) = (*entry, rest);
        }
    }

    /// How many places there are behind this one, before `end`, from which on something else holds.
    fn changes_before(&self, end: u64) -> usize {
        self.beginnings.iter().take_while(|(begin, _)| *begin < end).count()
    }

    /// What holds from `begin` on, and behind it, before `end`: keys are relative to `begin`.
    fn below(&mut self, begin: u64, end: u64) -> Vec<(u32, Entry)> {
        self.go_to(begin);
        let mut below = vec![(0, self.entry)];
        while let Some(((place, entry), rest)) = self.beginnings.split_first()
            && *place < end
        {
            (self.entry, self.beginnings) = (*entry, rest);
            below.push((u32::try_from(place - begin).unwrap_or(u32::MAX), *entry));
        }
        below
    }
}

// === impl Lines ===

impl Lines {
    /// Adds the tree of some entries by their keys, of which the first is 0, and returns its root.
    fn tree(&mut self, below: &[(u32, Entry)]) -> Entry {
        let mut level = below.to_vec();
        while level.len() > 1 {
            let nodes = level.chunks(ENTRIES_PER_LINE as usize);
            level = nodes
                .map(|node| (node.first().map_or(0, |(key, _)| *key), self.node(node)))
                .collect();
        }
        level.first().map_or(Entry::NONE, |(_, entry)| *entry)
    }

    fn node(&mut self, entries: &[(u32, Entry)]) -> Entry {
        let number = u32::try_from(self.lines.len())
            .map_or(u32::MAX, |lines| self.first.saturating_add(lines));
        // Places that are not used have the last entry, which is what the last key of all leads to.
        let last = entries.last().map_or(Entry::NONE, |(_, entry)| *entry);
        let (mut keys, mut values) = ([[0; 8]], [[0; 8]]);
        for index in 0..ENTRIES_PER_LINE {
            let (key, entry) = entries.get(index as usize).copied().unwrap_or((u32::MAX, last));
            set_entry(&mut keys, index, Entry(key));
            set_entry(&mut values, index, entry);
        }
        let before = self.lines.len();
        self.lines.extend(keys);
        self.lines.extend(values);
        debug_assert_eq!(self.lines.len(), before + TREE_LINES as usize);
        Entry::tree(number)
    }
}

/// From each place of an ordered sequence of prefixes, first and last number, the longest one that
/// holds it.
fn beginnings(prefixes: impl Iterator<Item = (u64, u64, Entry)>) -> Beginnings {
    let mut beginnings = Beginnings::new();
    let mut around = Vec::new();
    for (first, last, entry) in prefixes {
        leave(&mut beginnings, &mut around, Some(first));
        around.push((last, entry));
        begin(&mut beginnings, first, entry);
    }
    leave(&mut beginnings, &mut around, None);
    beginnings
}

/// Leaves the prefixes that end before a place.
fn leave(beginnings: &mut Beginnings, around: &mut Vec<(u64, Entry)>, before: Option<u64>) {
    while let Some((last, _)) = around.last().copied()
        && before.is_none_or(|place| last < place)
    {
        around.pop();
        if let Some(behind) = last.checked_add(1) {
            begin(beginnings, behind, around.last().map_or(Entry::NONE, |(_, entry)| *entry));
        }
    }
}

fn begin(beginnings: &mut Beginnings, place: u64, entry: Entry) {
    match beginnings.last_mut() {
        Some((last, held)) if *last == place => *held = entry,
        Some((_, held)) if *held == entry => {}
        _ => beginnings.push((place, entry)),
    }
}

/// The lines of a table, a power of two: few enough keys come to each that hardly one is full.
fn table_lines(keys: usize, spare: usize, per_line: u32) -> u32 {
    let lines = keys.max(spare).div_ceil((per_line / 2).max(1) as usize);
    u32::try_from(lines).unwrap_or(u32::MAX / 4).next_power_of_two()
}

/// Puts a key into its line, where there is room.
fn put_keyed(table: &mut [LineWords], line: u32, value: u64) {
    let Some(line) = table.get_mut(line as usize) else { return };
    let mut words = std::iter::once(first_word(lower(value))).chain(0..KEYS_PER_LINE);
    let last = at(line, FULL_WORD);
    match words.find(|word| at(line, *word) == 0) {
        Some(word) => {
            set(line, FULL_WORD, last | mark_of(lower(value)));
            set(line, word, value);
        }
        None => set(line, FULL_WORD, last | FULL),
    }
}

/// An address as a number.
fn number(address: IpAddr) -> Number {
    match address {
        IpAddr::V4(address) => Number::V4(address.to_bits()),
        IpAddr::V6(address) => {
            let (high, low) = halves(address);
            Number::V6(high, low)
        }
    }
}

/// An IPv6 address as two numbers.
fn halves(address: Ipv6Addr) -> (u64, u64) {
    let bits = address.to_bits();
    // The lower half, and what is left without it, both of which fit.
    let [a, b, c, d, e, f, g, h, low @ ..] = bits.to_be_bytes();
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(low))
}

fn is_host6(line: &LineWords, host: u32, high: u64, low: u64) -> bool {
    high != 0 && at(line, host * 2) == high && at(line, host * 2 + 1) == low
}

/// The first 32 bits of an IPv6 address whose first half is given.
fn top(high: u64) -> u32 {
    low(high >> 32)
}

fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn at(line: &LineWords, word: u32) -> u64 {
    line.get(word as usize).copied().unwrap_or_default()
}

fn set(line: &mut LineWords, word: u32, value: u64) {
    if let Some(word) = line.get_mut(word as usize) {
        *word = value;
    }
}

/// An entry in its line of the base or a node.
fn entry(line: &LineWords, index: u32) -> Entry {
    Entry(low(at(line, index % ENTRIES_PER_LINE / 2) >> (index % 2 * 32)))
}

fn set_entry(lines: &mut [LineWords], index: u32, entry: Entry) {
    if let Some(line) = lines.get_mut((index / ENTRIES_PER_LINE) as usize) {
        let (word, shift) = (index % ENTRIES_PER_LINE / 2, index % 2 * 32);
        let others = at(line, word) & !(u64::from(u32::MAX) << shift);
        set(line, word, others | u64::from(entry.0) << shift);
    }
}

#[cfg(test)]
mod tests;
