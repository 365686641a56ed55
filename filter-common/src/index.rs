// SPDX-License-Identifier: MIT OR GPL-2.0
//! The index in front of the tries: where a destination's grant is found in a few reads, however
//! many prefixes there are.
//!
//! The tries of a slot are the truth. The index is made of them, in lines of 64 bytes, and answers
//! what it is sure of; of everything else it says so ([`Found::UNSURE`]), and the trie is asked.
//!
//! * IPv4: a *base* with an entry for each /16. What a /16 holds stands in a *dense* node with an entry for each
//!   /24, and in *trees* for what is longer; where there are many /16, those that hold little have a tree alone.
//! * IPv6: a table of *tops*, the first 32 bits, and trees over the 32 bits behind. What lies between
//!   /64 and /128 is left to the trie.
//! * Single addresses of both families stand in tables of *hosts*, which change while packets come;
//!   an entry above them says whether there are any to look for. Everything else in the index of a
//!   slot stays as it is until the slot is written anew.
//!
//! A table of tops or hosts is cut into lines, and a key belongs to one of them. A line that has no
//! room for one more says so, and is then unsure of keys that it doesn't hold. In front of the tops there
//! is a filter, so that most destinations far from any prefix are told by a few bits.
//!
//! What stands here is remembered, too, by each CPU for itself (`filter-ebpf/src/remembered.rs`):
//! destinations by their [`stripe`], sources by [`mixed_sources`].

use crate::{
    address::Number,
    fast_path::is_special,
    wire::{Grant, IndexLayout, STRIPES},
};

/// Entries of a line of the base, of a dense node or of a tree's node.
pub const ENTRIES_PER_LINE: u32 = 16;
/// Lines of the base: an entry for each /16.
pub const BASE_LINES: u32 = 65_536 / ENTRIES_PER_LINE;
/// Lines of a dense node: an entry for each /24 of a /16.
pub const DENSE_LINES: u32 = 256 / ENTRIES_PER_LINE;
/// Lines of a tree's node: one of keys, one of entries.
pub const TREE_LINES: u32 = 2;
/// Nodes from the root of a tree to an entry that is no node, at most.
pub const MAX_TREE_DEPTH: u32 = 6;
/// Keys in a line of tops or of IPv4 hosts: all of its words but the last.
pub const KEYS_PER_LINE: u32 = 7;
/// Keys in a line of IPv6 hosts.
pub const HOSTS6_PER_LINE: u32 = 3;
/// The word of a line of tops or hosts that says whether it is full, and which keys may be in it ([`mark_of`]).
pub const FULL_WORD: u32 = 7;
/// In that word: a key had no room in the line. It is in the upper half, as the lower one holds the
/// grant of the third host in a line of IPv6 hosts.
pub const FULL: u64 = 1 << 63;

/// Of a block of sources, that each address has to be looked up for itself.
pub const ALL_MIXED: u32 = u32::MAX;

/// A line, 64 bytes, as the processor fetches them.
pub type LineWords = [u64; 8];

/// Where lines are read. Programs in the kernel write them, too: marks, and what user space has them
/// write.
pub trait Lines {
    /// A line that is there.
    type Line: Line;

    /// The line with a number within the slot.
    fn line(&self, number: u32) -> Option<Self::Line>;

    /// The same value, of which the kernel's verifier doesn't know how it came about.
    #[inline(always)]
    fn forget(&self, value: u32) -> u32 {
        value
    }
}

/// A line of the index.
pub trait Line {
    /// One of its 8 words. It may change from one read to the next.
    fn word(&self, index: u32) -> u64;

    /// One of its 16 half words, the lower half of each word first.
    #[inline(always)]
    fn half(&self, index: u32) -> u32 {
        lower(self.word(index / 2) >> (index % 2 * 32))
    }

    /// How many of the 16 keys of a tree's node are not behind `wanted`. The implementation in the
    /// kernel has no branches: which way one would go can't be foretold.
    #[inline(always)]
    fn keys_up_to(&self, wanted: u32) -> u32 {
        let mut count = 0;
        for index in 0..8 {
            let word = self.word(index);
            count += u32::from(lower(word) <= wanted) + u32::from(upper(word) <= wanted);
        }
        count
    }

    /// Sets bits of a word, without harm to what others write there.
    fn set(&self, index: u32, bits: u64);
}

/// What numbers are multiplied with to be spread: 2^64 by the golden ratio.
pub const SPREADER: u64 = 0x9e37_79b9_7f4a_7c15;
/// The same for keys within a line, 2^32 by it.
const KEY_SPREADER: u32 = 0x9e37_79b1;

/// An entry of the base, a node, or a table of tops: the row of a grant or the number of a line, and
/// what that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry(pub u32);

/// What the index says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found(u64);

// === impl Entry ===

impl Entry {
    const UNSURE: u32 = 1 << 31;
    const HOSTS: u32 = 1 << 30;
    /// With [`Self::HOSTS`], that there are hosts alone, and their marks in the place of a number.
    const DENSE: u32 = 1 << 29;
    const TREE: u32 = 1 << 28;
    const NUMBER: u32 = Self::TREE - 1;

    /// No prefix.
    pub const NONE: Self = Self(0);
    /// Only the trie knows.
    pub const ASK: Self = Self(Self::UNSURE);
    /// There are hosts below.
    pub const WITH_HOSTS: Self = Self(Self::HOSTS);

    /// The grant of a prefix that is no single address: a row and nothing else. What doesn't fit
    /// is left to the trie.
    #[must_use]
    pub const fn leaf(grant: Grant) -> Self {
        let row = grant.unmarked().0;
        if row > Self::NUMBER { Self::ASK } else { Self(row) }
    }

    /// The dense node that begins at a line.
    #[must_use]
    pub const fn dense(line: u32) -> Self {
        if line > Self::NUMBER { Self::ASK } else { Self(Self::DENSE | line) }
    }

    /// The tree whose root begins at a line.
    #[must_use]
    pub const fn tree(line: u32) -> Self {
        if line > Self::NUMBER { Self::ASK } else { Self(Self::TREE | line) }
    }

    /// The same, where hosts are below it.
    #[must_use]
    pub const fn with_hosts(self) -> Self {
        Self(self.0 | Self::HOSTS)
    }

    /// The same, where an IPv4 host is below it. Where nothing else is, it has marks of which hosts these may be, so that
    /// most others need not be looked for.
    #[must_use]
    pub const fn with_host4(self, address: u32) -> Self {
        if self.0 == 0 || self.has_hosts_alone() {
            Self(self.0 | Self::HOSTS | Self::DENSE | Self::marks(address))
        } else {
            self.with_hosts()
        }
    }

    /// The line of a dense node; `None` where it is none.
    #[inline(always)]
    #[must_use]
    pub const fn dense_line(self) -> Option<u32> {
        if self.is_dense() { Some(self.number()) } else { None }
    }

    #[inline(always)]
    const fn is_dense(self) -> bool {
        self.0 & (Self::DENSE | Self::HOSTS) == Self::DENSE
    }

    #[inline(always)]
    const fn has_hosts_alone(self) -> bool {
        self.0 & (Self::DENSE | Self::HOSTS) == Self::DENSE | Self::HOSTS
    }

    /// Whether an address can't be one of those that such an entry has alone.
    #[inline(always)]
    const fn is_without(self, address: u32) -> bool {
        let marks = Self::marks(address);
        self.0 & marks != marks
    }

    /// Of an address, a bit of 16 for the lowest half of its last byte, and one of 8 for the next three bits.
    #[inline(always)]
    const fn marks(address: u32) -> u32 {
        1 << (address & 15) | 1 << 16 << (address >> 4 & 7)
    }

    #[inline(always)]
    const fn is_tree(self) -> bool {
        self.0 & Self::TREE != 0
    }

    #[inline(always)]
    const fn has_hosts(self) -> bool {
        self.0 & Self::HOSTS != 0
    }

    #[inline(always)]
    const fn number(self) -> u32 {
        self.0 & Self::NUMBER
    }

    /// What a destination gets here. Only hosts are marked as used, and only their marks are asked
    /// for; others are said to be marked, so that no packet tries to.
    #[inline(always)]
    const fn found(self) -> Found {
        if self.0 & (Self::UNSURE | Self::DENSE | Self::TREE) != 0 {
            return Found::UNSURE;
        }
        match self.number() {
            0 => Found::NOTHING,
            row => Found::grant(Grant::new(row).used()),
        }
    }
}

// === impl Found ===

impl Found {
    /// Only the trie knows.
    pub const UNSURE: Self = Self(1 << 32);

    /// The index is sure that no prefix holds the destination.
    pub const NOTHING: Self = Self::grant(Grant::NONE);

    /// The index is sure of a grant.
    #[inline(always)]
    #[must_use]
    pub const fn grant(grant: Grant) -> Self {
        Self(grant.0 as u64)
    }

    /// Whether the trie has to be asked.
    #[inline(always)]
    #[must_use]
    pub const fn is_unsure(self) -> bool {
        self.0 & Self::UNSURE.0 != 0
    }

    /// The grant, of no meaning where it is unsure.
    #[inline(always)]
    #[must_use]
    pub const fn value(self) -> Grant {
        Grant(lower(self.0))
    }
}

/// What the index of a slot says of a destination. It is sure of none that is [special](is_special).
#[inline(always)]
#[must_use]
pub fn find<L: Lines>(lines: &L, layout: &IndexLayout, destination: Number) -> Found {
    let above = match destination {
        Number::V4(address) => above4(lines, layout, address),
        Number::V6(high, low) => above6(lines, layout, high, low),
    };
    match above {
        Above::Found(found) => found,
        // Both families go down the same trees, which the verifier then follows once.
        Above::Entry(entry, key) => descend(lines, Entry(lines.forget(entry.0)), key).found(),
    }
}

/// Marks a destination as used where it has an entry of its own in the index; `false` where it has
/// none.
#[inline(always)]
pub fn mark<L: Lines>(lines: &L, layout: &IndexLayout, destination: Number) -> bool {
    let used = Grant::NONE.used().0;
    match destination {
        Number::V4(address) if layout.flags & IndexLayout::V4 != 0 => {
            let Some(line) = lines.line(host4_line(layout, address)) else { return false };
            for index in 0..KEYS_PER_LINE {
                if address != 0 && lower(line.word(index)) == address {
                    line.set(index, (used as u64) << 32);
                    return true;
                }
            }
        }
        Number::V6(high, low) if layout.flags & IndexLayout::V6 != 0 => {
            let Some(line) = lines.line(host6_line(layout, high, low)) else { return false };
            for host in 0..HOSTS6_PER_LINE {
                if high != 0 && line.word(host * 2) == high && line.word(host * 2 + 1) == low {
                    let (word, shift) = host6_grant(host);
                    line.set(word, (used as u64) << shift);
                    return true;
                }
            }
        }
        Number::V4(_) | Number::V6(..) => {}
    }
    false
}

/// A number that depends on all bits of an address, its upper bits most.
#[inline(always)]
#[must_use]
pub const fn hash(address: Number) -> u32 {
    folded(spread(address))
}

/// The same, whose lower half is not as good, at a lower price.
#[inline(always)]
#[must_use]
pub const fn spread(address: Number) -> u64 {
    let number = match address {
        Number::V4(address) => address as u64,
        Number::V6(high, low) => {
            let folded = high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f) ^ low;
            folded ^ folded >> 32
        }
    };
    number.wrapping_mul(SPREADER)
}

/// The stripe of a destination, below [`STRIPES`], by what it is [`spread`] to.
#[inline(always)]
#[must_use]
pub const fn stripe(spread: u64) -> u32 {
    upper(spread) >> (u32::BITS - STRIPES.trailing_zeros())
}

/// Which addresses of a source's block, a /24 or an IPv6 /64, have to be looked up each for itself, as
/// something longer than the block holds them: a bit for each value of the last five bits. All others have
/// one class, and all or none of them are [plain](crate::tables::is_plain).
#[inline(always)]
#[must_use]
pub fn mixed_sources<L: Lines>(lines: &L, layout: &IndexLayout, source: Number) -> u32 {
    let whole = match source {
        Number::V4(address) => matches!(address >> 24, 1..224),
        Number::V6(high, _) => high != 0,
    };
    if !whole || layout.flags & IndexLayout::SOURCES == 0 {
        return ALL_MIXED;
    }
    let key = block_key(source);
    let Some(line) = lines.line(block_line(layout, key)) else { return ALL_MIXED };
    keyed_word(&line, key).map_or(ALL_MIXED, upper)
}

/// What a source's block is known by. Blocks may share it, and then what is mixed in one of them is so in
/// the others.
#[inline(always)]
#[must_use]
pub const fn block_key(source: Number) -> u32 {
    let key = match source {
        Number::V4(address) => address >> 8,
        Number::V6(high, _) => hash(Number::V6(high, 0)),
    };
    // Key 0 is for empty words.
    if key == 0 { 1 } else { key }
}

/// The bit of a source in what [`mixed_sources`] tells of its block.
#[inline(always)]
#[must_use]
pub const fn block_bit(source: Number) -> u32 {
    let last = match source {
        Number::V4(address) => address & 31,
        Number::V6(_, low) => lower(low) & 31,
    };
    1 << last
}

/// The line of a block of sources in their table.
#[inline(always)]
#[must_use]
pub const fn block_line(layout: &IndexLayout, key: u32) -> u32 {
    layout.blocks + (mixed(key as u64) & layout.blocks_mask)
}

/// The line of the filter of IPv6 tops, the word in it, and the bits that are all set where there is such a
/// top.
#[inline(always)]
#[must_use]
pub const fn presence6(layout: &IndexLayout, top: u32) -> (u32, u32, u64) {
    let product = (top as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    let word = upper(product) & layout.presence6_mask;
    let bits = 1 << (product >> 58) | 1 << (product >> 52 & 63) | 1 << (product >> 26 & 63);
    (layout.presence6 + word / 8, word % 8, bits)
}

/// The line of an IPv4 host.
#[inline(always)]
#[must_use]
pub const fn host4_line(layout: &IndexLayout, address: u32) -> u32 {
    layout.hosts4 + (hash(Number::V4(address)) & layout.hosts4_mask)
}

/// The first word in which the entry of an IPv4 host or of a top is looked for; if it is in use, the entry
/// stands in any other. So most are found where they are expected, which a processor learns to foretell.
#[inline(always)]
#[must_use]
pub const fn first_word(key: u32) -> u32 {
    // Seven words, of which one comes first twice as often.
    let word = key.wrapping_mul(KEY_SPREADER) >> 29;
    if word == FULL_WORD { 0 } else { word }
}

/// The bit of a key in the last word of its line. It is set before the key gets there, and stays; where it isn't set, none of
/// the words needs to be compared with the key.
#[inline(always)]
#[must_use]
pub const fn mark_of(key: u32) -> u64 {
    1 << (key.wrapping_mul(KEY_SPREADER) >> 24 & 31)
}

/// The line of an IPv6 host, whose halves are given.
#[inline(always)]
#[must_use]
pub const fn host6_line(layout: &IndexLayout, high: u64, low: u64) -> u32 {
    layout.hosts6 + (hash(Number::V6(high, low)) & layout.hosts6_mask)
}

/// The word of the grant of an IPv6 host at a place in its line, and the grant's lowest bit.
#[inline(always)]
#[must_use]
pub const fn host6_grant(host: u32) -> (u32, u32) {
    (6 + host / 2, host % 2 * 32)
}

/// The line of the first 32 bits of an IPv6 address.
#[inline(always)]
#[must_use]
pub const fn top6_line(layout: &IndexLayout, top: u32) -> u32 {
    layout.tops6 + (mixed(top as u64) & layout.tops6_mask)
}

/// A key and its value as they stand in lines of tops and of IPv4 hosts. Key 0 is for empty words.
#[inline(always)]
#[must_use]
pub const fn keyed(key: u32, value: u32) -> u64 {
    (value as u64) << 32 | key as u64
}

/// Multiplicative hashing: the upper bits of the product depend on all bits of the value. Tables are
/// chosen from by the lower ones, which would lie on a lattice where values follow one another.
#[inline(always)]
const fn mixed(value: u64) -> u32 {
    folded(value.wrapping_mul(SPREADER))
}

/// The upper half, of which the lower bits depend on the upper ones, too.
#[inline(always)]
const fn folded(product: u64) -> u32 {
    upper(product) ^ upper(product) >> 16
}

/// The lower half of a word.
#[inline(always)]
#[must_use]
pub const fn lower(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[inline(always)]
const fn upper(word: u64) -> u32 {
    (word >> 32) as u32
}

/// How far one gets above the trees.
enum Above {
    Found(Found),
    /// An entry, and the key to look for where it is a tree.
    Entry(Entry, u32),
}

#[inline(always)]
fn above4<L: Lines>(lines: &L, layout: &IndexLayout, address: u32) -> Above {
    if layout.flags & IndexLayout::V4 == 0 {
        return Above::Found(Found::UNSURE);
    }
    // The entries of special destinations are unsure.
    let mut entry = entry_at(lines, 0, address >> 16);
    if entry == Entry::NONE {
        return Above::Found(Found::NOTHING);
    }
    let mut key = address & 0xffff;
    if entry.is_dense() {
        entry = entry_at(lines, entry.number(), key >> 8);
        key &= 0xff;
    }
    if entry.has_hosts() {
        let alone = entry.has_hosts_alone();
        if alone && entry.is_without(address) {
            return Above::Found(Found::NOTHING);
        }
        let host = host4(lines, layout, address);
        if alone || host.is_unsure() || host.value() != Grant::NONE {
            return Above::Found(host);
        }
    }
    Above::Entry(entry, key)
}

#[inline(always)]
fn above6<L: Lines>(lines: &L, layout: &IndexLayout, high: u64, low: u64) -> Above {
    let top = (high >> 32) as u32;
    if layout.flags & IndexLayout::V6 == 0 || is_special(Number::V6(high, low)) {
        return Above::Found(Found::UNSURE);
    }
    // Prefixes that are shorter than 32 bits stand nowhere in the table where nothing longer
    // is below them.
    let absent =
        if layout.flags & IndexLayout::SHORT6 != 0 { Found::UNSURE } else { Found::NOTHING };
    let (number, word, bits) = presence6(layout, top);
    let Some(line) = lines.line(number) else { return Above::Found(Found::UNSURE) };
    if line.word(word) & bits != bits {
        return Above::Found(absent);
    }
    let Some(line) = lines.line(top6_line(layout, top)) else {
        return Above::Found(Found::UNSURE);
    };
    let entry = match keyed_word(&line, top) {
        None => return Above::Found(Found::UNSURE),
        Some(0) => return Above::Found(absent),
        Some(word) => Entry(upper(word)),
    };
    if entry.has_hosts() {
        let host = host6(lines, layout, high, low);
        if host.is_unsure() || host.value() != Grant::NONE {
            return Above::Found(host);
        }
    }
    Above::Entry(entry, lower(high))
}

/// An entry of the base or of a dense node that begins at a line.
#[inline(always)]
fn entry_at<L: Lines>(lines: &L, first: u32, index: u32) -> Entry {
    let Some(line) = lines.line(first + index / ENTRIES_PER_LINE) else { return Entry::ASK };
    Entry(line.half(index % ENTRIES_PER_LINE))
}

/// Follows a tree to the entry of a key.
#[inline(always)]
fn descend<L: Lines>(lines: &L, root: Entry, key: u32) -> Entry {
    let mut entry = root;
    for _ in 0..MAX_TREE_DEPTH {
        if !entry.is_tree() {
            return entry;
        }
        let number = entry.number();
        let Some(keys) = lines.line(number) else { return Entry::ASK };
        let count = keys.keys_up_to(key);
        // The first key is 0, so that there is one at least.
        entry = entry_at(lines, number + 1, count.wrapping_sub(1) & (ENTRIES_PER_LINE - 1));
    }
    entry
}

/// The word of a key in its line; 0 where there is none, and `None` where the line is full, so that it may be missing.
#[inline(always)]
fn keyed_word<L: Line>(line: &L, key: u32) -> Option<u64> {
    let first = line.word(first_word(key));
    if lower(first) == key {
        return Some(first);
    }
    let last = line.word(FULL_WORD);
    if last & mark_of(key) != 0 {
        for index in 0..KEYS_PER_LINE {
            let word = line.word(index);
            if lower(word) == key {
                return Some(word);
            }
        }
    }
    if last & FULL != 0 { None } else { Some(0) }
}

/// What stands in the table of hosts: [`Grant::NONE`] where the address isn't there.
#[inline(always)]
fn host4<L: Lines>(lines: &L, layout: &IndexLayout, address: u32) -> Found {
    let Some(line) = lines.line(host4_line(layout, address)) else { return Found::UNSURE };
    match keyed_word(&line, address) {
        None => Found::UNSURE,
        Some(0) => Found::NOTHING,
        Some(word) => host(upper(word)),
    }
}

/// As [`host4`].
#[inline(always)]
fn host6<L: Lines>(lines: &L, layout: &IndexLayout, high: u64, low: u64) -> Found {
    let Some(line) = lines.line(host6_line(layout, high, low)) else { return Found::UNSURE };
    for index in 0..HOSTS6_PER_LINE {
        if line.word(index * 2) == high && line.word(index * 2 + 1) == low {
            let (word, shift) = host6_grant(index);
            return host(lower(line.word(word) >> shift));
        }
    }
    if line.word(FULL_WORD) & FULL != 0 { Found::UNSURE } else { Found::NOTHING }
}

/// A host with a grant of nothing, and without any mark, is left to the trie: here that would look
/// as if it were not there.
#[inline(always)]
const fn host(grant: u32) -> Found {
    if grant == 0 { Found::UNSURE } else { Found::grant(Grant(grant)) }
}
