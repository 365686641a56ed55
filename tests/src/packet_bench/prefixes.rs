// SPDX-License-Identifier: MIT OR Apache-2.0
//! Destination prefixes such as a large policy has, and destinations inside and outside of them.
//!
//! Half of the prefixes are single addresses, as names bring them, four on average to a network of
//! servers (a /24, or a /48 of IPv6). The other half are networks with the lengths of a routing table: of
//! IPv4 60 % are /24, 33 % from /16 to /23 and 7 % from /25 to /30; of IPv6 45 % are /48, 18 % /32, and
//! the rest from /36 to /64. They lie at random in address space that is used, where one block in
//! eight (a /16, or a /32 of IPv6) holds none at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// What prefixes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mixture {
    /// As described above.
    Half,
    /// Single addresses only.
    Addresses,
}

/// The prefixes of one family.
#[derive(Clone, Debug)]
pub(super) struct Prefixes {
    family: Family,
    /// Networks, each with its length.
    pub(super) networks: Vec<(u128, u8)>,
    /// Single addresses.
    pub(super) singles: Vec<u128>,
    by_length: BTreeMap<u8, HashSet<u128>>,
}

/// Numbers that look random and are the same in each run (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

/// Lengths of networks, and how many of 1,000 have them.
const LENGTHS_V4: [(u8, u32); 15] = [
    (16, 10),
    (17, 8),
    (18, 12),
    (19, 25),
    (20, 40),
    (21, 45),
    (22, 100),
    (23, 90),
    (24, 600),
    (25, 20),
    (26, 15),
    (27, 12),
    (28, 10),
    (29, 8),
    (30, 5),
];
const LENGTHS_V6: [(u8, u32); 9] =
    [(32, 180), (36, 60), (40, 80), (44, 90), (46, 30), (47, 30), (48, 450), (56, 40), (64, 40)];

/// First octets in which no network is special in any way (RFC 6890).
const UNUSUAL: [u64; 9] = [0, 10, 100, 127, 169, 172, 192, 198, 203];

// === impl Family ===

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The length of a block that holds prefixes or doesn't.
    fn block(self) -> u8 {
        match self {
            Self::V4 => 16,
            Self::V6 => 32,
        }
    }

    /// The length of a network of servers.
    fn servers(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 48,
        }
    }

    pub(super) fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(bits).into(),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The first `length` bits of an address.
    fn head(self, address: u128, length: u8) -> u128 {
        let shift = u32::from(self.bits() - length);
        // A shift by all bits would not be defined; no prefix is that short.
        (address >> shift) << shift
    }

    /// The number of the block that an address lies in.
    pub(super) fn block_of(self, address: u128) -> u64 {
        u64::try_from(address >> (self.bits() - self.block())).unwrap_or(0)
    }

    /// A block that is used, or one that is left empty.
    fn random_block(self, random: &mut Random, empty: bool) -> u128 {
        loop {
            let block = match self {
                Self::V4 => {
                    let first = random.below(224);
                    if UNUSUAL.contains(&first) {
                        continue;
                    }
                    first << 8 | random.below(256)
                }
                Self::V6 => (0x2600 + random.below(16)) << 16 | random.below(1 << 16),
            };
            if is_empty(block) == empty {
                return u128::from(block) << (self.bits() - self.block());
            }
        }
    }
}

/// Whether a block is one of those without any prefix.
fn is_empty(block: u64) -> bool {
    Random(block).next().is_multiple_of(8)
}

// === impl Random ===

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is small against 2^64.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A number of so many bits.
    fn bits(&mut self, count: u8) -> u128 {
        let wide = u128::from(self.next()) << 64 | u128::from(self.next());
        if count == 0 { 0 } else { wide >> (128 - u32::from(count)) }
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Result<T> {
        let index = usize::try_from(self.below(from.len() as u64))?;
        from.get(index).copied().context("there is nothing to draw from")
    }
}

// === impl Prefixes ===

impl Prefixes {
    /// So many prefixes in all.
    pub(super) fn new(
        family: Family,
        count: usize,
        mixture: Mixture,
        random: &mut Random,
    ) -> Result<Self> {
        let networks_wanted = match mixture {
            Mixture::Half => count / 2,
            Mixture::Addresses => 0,
        };
        let lengths: &[(u8, u32)] = match family {
            Family::V4 => &LENGTHS_V4,
            Family::V6 => &LENGTHS_V6,
        };
        let mut by_length: BTreeMap<u8, HashSet<u128>> = BTreeMap::new();
        let mut networks = Vec::with_capacity(networks_wanted);
        while networks.len() < networks_wanted {
            let length = of_thousand(lengths, random)?;
            let block = family.random_block(random, false);
            let address = block | random.bits(family.bits() - family.block());
            let network = family.head(address, length);
            if by_length.entry(length).or_default().insert(network) {
                networks.push((network, length));
            }
        }
        let mut servers = HashSet::new();
        while servers.len() < count / 8 + 1 {
            let block = family.random_block(random, false);
            let address = block | random.bits(family.bits() - family.block());
            servers.insert(family.head(address, family.servers()));
        }
        // In an order that is the same in each run.
        let mut servers: Vec<u128> = servers.into_iter().collect();
        servers.sort_unstable();
        let mut singles = Vec::with_capacity(count - networks.len());
        let mut known = HashSet::new();
        while singles.len() < count - networks.len() {
            let address = inside(family, random.pick(&servers)?, family.servers(), random);
            if known.insert(address) {
                singles.push(address);
            }
        }
        by_length.insert(family.bits(), known);
        Ok(Self { family, networks, singles, by_length })
    }

    /// All of them.
    pub(super) fn all(&self) -> Result<BTreeSet<IpNet>> {
        let singles = self.singles.iter().map(|address| (*address, self.family.bits()));
        let all = self.networks.iter().copied().chain(singles);
        all.map(|(address, length)| Ok(IpNet::new(self.family.address(address), length)?)).collect()
    }

    /// An address in a prefix that is drawn from all of them.
    pub(super) fn allowed(&self, random: &mut Random) -> Result<u128> {
        let all = self.networks.len() + self.singles.len();
        let index = usize::try_from(random.below(all as u64))?;
        Ok(match self.networks.get(index) {
            Some((network, length)) => inside(self.family, *network, *length, random),
            None => random.pick(&self.singles)?,
        })
    }

    /// An address that no prefix holds, in a network of servers that holds some.
    pub(super) fn denied_near(&self, random: &mut Random) -> Result<u128> {
        for _ in 0..10_000 {
            let length = self.family.servers();
            let network = self.family.head(random.pick(&self.singles)?, length);
            let address = inside(self.family, network, length, random);
            if !self.holds(address) {
                return Ok(address);
            }
        }
        bail!("every network of servers is wholly allowed")
    }

    /// An address in a block without any prefix.
    pub(super) fn denied_far(&self, random: &mut Random) -> u128 {
        let block = self.family.random_block(random, true);
        block | random.bits(self.family.bits() - self.family.block())
    }

    fn holds(&self, address: u128) -> bool {
        let mut by_length = self.by_length.iter();
        by_length.any(|(length, prefixes)| prefixes.contains(&self.family.head(address, *length)))
    }
}

/// An address within a network, unlike its first and last one where there are others.
fn inside(family: Family, network: u128, length: u8, random: &mut Random) -> u128 {
    let free = family.bits() - length;
    if free == 0 {
        return network;
    }
    let (first, last) = (0, (1_u128 << free) - 1);
    loop {
        let host = random.bits(free);
        if free == 1 || (host != first && host != last) {
            return network | host;
        }
    }
}

fn of_thousand(lengths: &[(u8, u32)], random: &mut Random) -> Result<u8> {
    let mut left = u32::try_from(random.below(1000))?;
    for (length, share) in lengths {
        if left < *share {
            return Ok(*length);
        }
        left -= share;
    }
    bail!("the shares of the lengths don't add up to 1,000")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_prefixes(family: Family, count: usize) -> (Prefixes, Random) {
        let mut random = Random::new(7);
        let prefixes = Prefixes::new(family, count, Mixture::Half, &mut random).unwrap();
        (prefixes, random)
    }

    #[test]
    fn half_of_the_prefixes_are_addresses_and_none_is_there_twice() {
        for family in Family::BOTH {
            let (prefixes, _) = random_prefixes(family, 2_000);
            let all = prefixes.all().unwrap();
            assert_eq!(all.len(), 2_000);
            let singles = all.iter().filter(|prefix| prefix.prefix_len() == family.bits()).count();
            assert_eq!(singles, 1_000);
        }
    }

    #[test]
    fn lengths_are_those_of_a_routing_table() {
        for lengths in [&LENGTHS_V4[..], &LENGTHS_V6] {
            assert_eq!(lengths.iter().map(|(_, share)| share).sum::<u32>(), 1_000);
        }
    }

    #[test]
    fn destinations_are_where_they_should_be() {
        for family in Family::BOTH {
            let (prefixes, mut random) = random_prefixes(family, 1_000);
            let all = prefixes.all().unwrap();
            let holds =
                |address: u128| all.iter().any(|prefix| prefix.contains(&family.address(address)));
            let shares = |address: u128, length: u8| {
                let head = |address| family.head(address, length);
                all.iter().any(|prefix| match prefix.addr() {
                    IpAddr::V4(other) => head(u128::from(u32::from(other))) == head(address),
                    IpAddr::V6(other) => head(u128::from(other)) == head(address),
                })
            };
            for _ in 0..200 {
                assert!(holds(prefixes.allowed(&mut random).unwrap()));
                let near = prefixes.denied_near(&mut random).unwrap();
                assert!(!holds(near) && shares(near, family.servers()));
                let far = prefixes.denied_far(&mut random);
                assert!(!holds(far) && !shares(far, family.block()));
            }
        }
    }
}
