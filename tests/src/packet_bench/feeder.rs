// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a program on prepared packets, one after the other, and tells how long it took.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, LpmTrie, MapData, ProgramArray, lpm_trie::Key},
    programs::{ProgramFd, TestRunOptions, Xdp, loaded_programs},
};
use ipnet::IpNet;

use super::prefixes::Family;

/// The lab's programs, made by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generator-ebpf"));

/// Source, destination and ports of a packet, as `generator-ebpf/src/feed.rs` reads them.
pub(super) type Tuple = [u64; 5];

/// The feeders with their maps.
pub(super) struct Feeder {
    ebpf: Ebpf,
    tuples: Array<MapData, Tuple>,
    written: u32,
    capacity: u32,
    walk: Array<MapData, [u32; 4]>,
    plain: ProgramArray<MapData>,
    frags: ProgramArray<MapData>,
}

/// A program that can be measured.
pub(super) struct Measured {
    fd: ProgramFd,
    kind: Kind,
}

/// Which packets a program takes. The kernel lets programs of one kind only go on to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those in one buffer.
    Plain,
    /// Those in several buffers, too.
    Frags,
}

/// Some prepared packets.
#[derive(Clone, Debug)]
pub(super) struct Region {
    first: u32,
    count: u32,
    family: Family,
    frame: Vec<u8>,
}

// === impl Feeder ===

impl Feeder {
    /// Loads the feeders, with room for so many tuples, and so many prefixes of each family in the bare
    /// tries.
    pub(super) fn load(capacity: u32, prefixes: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("TUPLES", capacity)
            .map_max_entries("TRIE4", prefixes)
            .map_max_entries("TRIE6", prefixes)
            .load(OBJECT)
            .context("the lab's programs can't be loaded")?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            program.load().with_context(|| format!("the kernel refuses the lab's {name}"))?;
        }
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        let tuples = Array::try_from(take("TUPLES")?)?;
        let walk = Array::try_from(take("WALK")?)?;
        let plain = ProgramArray::try_from(take("MEASURED")?)?;
        let frags = ProgramArray::try_from(take("MEASURED_FRAGS")?)?;
        Ok(Self { tuples, written: 0, capacity, walk, plain, frags, ebpf })
    }

    /// A program of the lab.
    pub(super) fn own(&self, name: &str, kind: Kind) -> Result<Measured> {
        let program = self.ebpf.program(name).with_context(|| format!("no program {name}"))?;
        let program: &Xdp = program.try_into()?;
        Ok(Measured { fd: program.fd()?.try_clone()?, kind })
    }

    /// Fills the bare tries.
    pub(super) fn fill_tries(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<()> {
        let map = self.ebpf.map_mut("TRIE4").context("no map TRIE4")?;
        let mut trie: LpmTrie<_, [u8; 4], u32> = map.try_into()?;
        for prefix in prefixes {
            if let IpNet::V4(prefix) = prefix {
                let key = Key::new(prefix.prefix_len().into(), prefix.network().octets());
                trie.insert(&key, 1, 0)?;
            }
        }
        let map = self.ebpf.map_mut("TRIE6").context("no map TRIE6")?;
        let mut trie: LpmTrie<_, [u8; 16], u32> = map.try_into()?;
        for prefix in prefixes {
            if let IpNet::V6(prefix) = prefix {
                let key = Key::new(prefix.prefix_len().into(), prefix.network().octets());
                trie.insert(&key, 1, 0)?;
            }
        }
        Ok(())
    }

    /// Takes tuples in, whose number is a power of two; `frame` is the frame that they are written into.
    pub(super) fn prepare(
        &mut self,
        family: Family,
        frame: Vec<u8>,
        tuples: &[Tuple],
    ) -> Result<Region> {
        let count = u32::try_from(tuples.len())?;
        ensure!(count.is_power_of_two(), "{count} tuples are no power of two");
        ensure!(self.written + count <= self.capacity, "no room for {count} more tuples");
        let first = self.written;
        for (index, tuple) in (first..).zip(tuples) {
            self.tuples.set(index, tuple, 0)?;
        }
        self.written += count;
        Ok(Region { first, count, family, frame })
    }

    /// Puts a program behind its feeder and begins with the packets of a region.
    pub(super) fn aim(&mut self, program: &Measured, region: &Region) -> Result<()> {
        let version = match region.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        self.walk.set(0, [region.first, region.count - 1, 0, version], 0)?;
        match program.kind {
            Kind::Plain => self.plain.set(0, &program.fd, 0)?,
            Kind::Frags => self.frags.set(0, &program.fd, 0)?,
        }
        Ok(())
    }

    /// Runs what was aimed at on the next packets. The XDP action on the last of them, and the time for
    /// one, in whole nanoseconds, as the kernel measures it.
    pub(super) fn run(
        &mut self,
        kind: Kind,
        region: &Region,
        packets: u32,
    ) -> Result<(u32, Duration)> {
        let name = match kind {
            Kind::Plain => "feed",
            Kind::Frags => "feed_frags",
        };
        let program = self.ebpf.program_mut(name).context("the object has no feeder")?;
        let program: &mut Xdp = program.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&region.frame),
            repeat: packets,
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).context("the kernel refuses to run the feeder")?;
        Ok((result.return_value, result.duration))
    }
}

// === impl Measured ===

impl Measured {
    /// A program that somebody has loaded, by the kernel's id of it.
    pub(super) fn by_id(id: u32, kind: Kind) -> Result<Self> {
        for program in loaded_programs() {
            let program = program?;
            if program.id() == id {
                return Ok(Self { fd: program.fd()?, kind });
            }
        }
        anyhow::bail!("no program with the id {id} is loaded")
    }

    /// A program that is loaded.
    pub(super) fn of(program: &Xdp, kind: Kind) -> Result<Self> {
        Ok(Self { fd: program.fd()?.try_clone()?, kind })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

// === impl Region ===

impl Region {
    /// What no other region has.
    pub(super) fn number(&self) -> u32 {
        self.first
    }
}
