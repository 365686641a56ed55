// SPDX-License-Identifier: MIT OR GPL-2.0
//! The table of flows: where a flow stands by its tuple.
//!
//! A tuple leads to one *set*, which has room for [`FLOWS_PER_SET`] flows, and to a *tag* of eight bits. The tags of a set
//! stand side by side in one word, so that a look-up compares all of them at once and then looks at one entry alone; and the
//! words of all sets are so dense that the processor's caches hold many of them. No two flows of a set have the same tag. What
//! its set has no place for stands in the kernel's own hash table `FLOWS`, which costs far more to ask; a set says whether
//! that may be so.

use crate::{
    flow::FlowState,
    index::lower,
    parse::protocol,
    wire::{FLOWS_PER_SET, FlowKey, FlowTags},
};

/// Where a tuple leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the set.
    pub set: u32,
    /// The tag, which is neither 0 nor 1.
    pub tag: u64,
    /// The place that the flow has in the set, unless another flow was first there. It is where a look-up begins: a processor
    /// fetches that entry while it still waits for the tags.
    pub home: u32,
}

/// One of the places of a set: the lowest bit of its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(u64);

/// The lowest bit of each byte of a word.
const LOWEST: u64 = 0x0101_0101_0101_0101;

/// The tag of a place without a flow.
pub const FREE: u64 = 0;
/// The tag of a place whose flow was forgotten, and which packets may still be reading. User space frees it some time later.
pub const LEAVING: u64 = 1;

/// How long a set remembers that a flow of its stands elsewhere, in seconds: longer than any flow lives without packets.
pub const SPILL: u64 = 2 * FlowState::Established.lifetime(protocol::TCP);

impl Place {
    /// Where a tuple leads in a table of so many sets.
    #[inline(always)]
    #[must_use]
    pub const fn of(key: &FlowKey, sets: u32) -> Self {
        let [first, second, third, fourth, fifth] = key.words();
        // A sum of products with odd numbers (multilinear hashing), whose upper half is mixed into the lower one, and back.
        let sum = first
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(second.wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
            .wrapping_add(third.wrapping_mul(0xd6e8_feb8_6659_fd93))
            .wrapping_add(fourth.wrapping_mul(0xff51_afd7_ed55_8ccd))
            .wrapping_add(fifth.wrapping_mul(0xbf58_476d_1ce4_e5b9));
        let mixed = (sum ^ (sum >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let set = ((mixed >> 32) * sets as u64) >> 32;
        // The lowest bits of a product depend on the lowest of its factors alone.
        let rest = mixed ^ (mixed >> 32);
        let tag = ((rest & 0xff) * (256 - 2)) >> 8;
        let home = (((rest >> 8) & 0xff) * FLOWS_PER_SET as u64) >> 8;
        Self { set: lower(set), tag: tag + 2, home: lower(home) }
    }
}

impl FlowTags {
    /// Set while a program puts a flow into the set.
    pub const BUSY: u64 = 1 << 63;
    /// Set once a flow of the set was put into `FLOWS`.
    pub const SPILLED: u64 = 1 << 62;

    /// The places of a set.
    pub const LANES: [Lane; FLOWS_PER_SET as usize] = [
        Lane(1),
        Lane(1 << 8),
        Lane(1 << 16),
        Lane(1 << 24),
        Lane(1 << 32),
        Lane(1 << 40),
        Lane(1 << 48),
    ];

    /// The number of the entry, among those of the set, that the flow has which leads here.
    #[inline(always)]
    #[must_use]
    pub const fn entry(self, place: Place) -> Option<u32> {
        if self.at_home(place) == place.tag {
            return Some(place.home);
        }
        match self.lane(place.tag) {
            Some(lane) => Some(lane.entry()),
            None => None,
        }
    }

    #[inline(always)]
    const fn at_home(self, place: Place) -> u64 {
        (self.0 >> (place.home * 8)) & 0xff
    }

    /// A free place for the flow that leads here; none also where another flow has its tag.
    #[inline(always)]
    #[must_use]
    pub const fn free(self, place: Place) -> Option<Lane> {
        if self.lane(place.tag).is_some() {
            None
        } else if self.at_home(place) == FREE {
            Some(Lane(1 << (place.home * 8)))
        } else {
            self.lane(FREE)
        }
    }

    /// The first place with a tag.
    #[inline(always)]
    #[must_use]
    pub const fn lane(self, tag: u64) -> Option<Lane> {
        let difference = self.0 ^ tag.wrapping_mul(LOWEST);
        // The highest bit of each byte that is 0, and maybe that of others further up, but only then (a borrow).
        let zeros = difference.wrapping_sub(LOWEST) & !difference;
        match (zeros >> 7) & (LOWEST >> 8) {
            0 => None,
            lanes => Some(Lane(lanes & lanes.wrapping_neg())),
        }
    }
}

impl Lane {
    /// The number of its entry among those of the set.
    #[inline(always)]
    #[must_use]
    pub const fn entry(self) -> u32 {
        // Each bit moves another three of these to the top.
        const ENTRIES: u64 = 1 << 53 | 2 << 45 | 3 << 37 | 4 << 29 | 5 << 21 | 6 << 13;
        lower(self.0.wrapping_mul(ENTRIES) >> 61)
    }

    /// A tag where it stands in the word.
    #[inline(always)]
    #[must_use]
    pub const fn placed(self, tag: u64) -> u64 {
        tag.wrapping_mul(self.0)
    }

    /// Its tag.
    #[must_use]
    pub const fn tag(self, tags: FlowTags) -> u64 {
        (tags.0 / self.0) & 0xff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: [u64; 3] = [0, FlowTags::BUSY, FlowTags::SPILLED];

    #[test]
    fn each_place_has_an_entry_and_a_tag_of_its_own() {
        for flags in FLAGS {
            let mut entries = [false; FLOWS_PER_SET as usize];
            let mut tags = FlowTags(flags);
            for (tag, lane) in (2..).zip(FlowTags::LANES) {
                entries[lane.entry() as usize] = true;
                assert_eq!(lane.tag(tags), FREE);
                tags.0 |= lane.placed(tag);
            }
            assert_eq!(entries, [true; FLOWS_PER_SET as usize]);
            for (tag, lane) in (2..).zip(FlowTags::LANES) {
                assert_eq!(lane.tag(tags), tag);
                assert_eq!(tags.lane(tag), Some(lane));
            }
            assert_eq!(tags.lane(FREE), None);
            assert_eq!(tags.lane(10), None);
            // A word's flags are no tag.
            assert_eq!(tags.lane(flags >> 56), None);
        }
    }

    #[test]
    fn a_tag_is_found_beside_any_others() {
        // What borrows from a place further up must not be taken for a match below it.
        for wanted in 0..=255 {
            for other in (0..=255).filter(|other| *other != wanted) {
                let absent =
                    (wanted..=255).chain(0..=255).find(|tag| ![wanted, other].contains(tag));
                for (place, flags) in FlowTags::LANES.into_iter().zip(FLAGS.into_iter().cycle()) {
                    let mut tags = FlowTags(flags);
                    for lane in FlowTags::LANES {
                        tags.0 |= lane.placed(if lane == place { wanted } else { other });
                    }
                    assert_eq!(tags.lane(wanted), Some(place), "{wanted} by {other}");
                    assert_eq!(tags.lane(absent.unwrap()), None, "{wanted} by {other}");
                }
            }
        }
    }

    #[test]
    fn a_flow_is_put_at_home_or_else_where_there_is_room() {
        let place = Place { set: 0, tag: 9, home: 3 };
        let mut tags = FlowTags(FlowTags::SPILLED);
        let at_home = tags.free(place).unwrap();
        assert_eq!((at_home.entry(), tags.entry(place)), (3, None));
        tags.0 |= at_home.placed(place.tag);
        // There is one already.
        assert_eq!((tags.free(place), tags.entry(place)), (None, Some(3)));
        // Others are at home there, too.
        for tag in 10..16 {
            let other = Place { tag, ..place };
            let lane = tags.free(other).unwrap();
            tags.0 |= lane.placed(tag);
            assert_eq!(tags.entry(other), Some(lane.entry()));
            assert_eq!(tags.entry(place), Some(3));
        }
        assert_eq!(tags.free(Place { tag: 20, ..place }), None);
        assert_eq!(tags.entry(Place { tag: 20, ..place }), None);
    }

    /// Flows that differ little fill sets as evenly as if they were drawn.
    #[test]
    fn sets_fill_evenly() {
        const SETS: u32 = 1 << 10;
        let key = |number: u32, way: u32| {
            let mut key = FlowKey { protocol: 6, ip_version: 4, ..FlowKey::default() };
            let [a, b, c, d] = number.to_be_bytes();
            match way {
                // Ports of one client; addresses of one network; a network of IPv6; pairs of both ends.
                0 => key.local_port = u16::from_be_bytes([c, d]),
                1 => key.remote[..4].copy_from_slice(&[10, b, c, d]),
                2 => key.remote[12..].copy_from_slice(&[a, b, c, d]),
                _ => (key.local[3], key.remote[3]) = (c, d),
            }
            key
        };
        for way in 0..4 {
            let mut filled = [0_u32; SETS as usize];
            let mut tags = [0_u32; 1 << 8];
            let mut homes = [0; FLOWS_PER_SET as usize];
            for number in 0..SETS * 4 {
                let Place { set, tag, home } = Place::of(&key(number, way), SETS);
                filled[set as usize] += 1;
                homes[home as usize] += 1;
                tags[lower(tag) as usize] += 1;
                assert!(tag > LEAVING);
            }
            // Of four flows for each set, one in fifty has no place.
            let spilled: u32 = filled.iter().map(|flows| flows.saturating_sub(FLOWS_PER_SET)).sum();
            assert!(spilled < SETS * 4 / 20, "way {way}: {spilled} flows have no place");
            assert!(homes.iter().all(|flows| (400..800).contains(flows)), "way {way}: {homes:?}");
            // Of 256 values, two tags have two each.
            let (least, most) = (tags[2..].iter().min().copied(), tags.iter().max().copied());
            assert!(least > Some(4) && most < Some(64), "way {way}: {least:?} to {most:?}");
        }
    }
}
