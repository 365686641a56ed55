// SPDX-License-Identifier: MIT OR Apache-2.0
//! The filter's steps one by one, as programs of their own (`filter-ebpf/src/bench.rs`).

use std::fs;

use anyhow::{Context as _, Result};
use aya::{EbpfLoader, maps::MapData, programs::Xdp};
use filter_common::wire::SLOTS;
use filter_user::kernel::{PinDirectory, SharedMaps};

use super::feeder::{Kind, Measured};

/// The filter's object with what only a benchmark runs, made by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-ebpf"));

/// The parser, in front of everything.
pub(super) const PARSE: (u32, &str) = (1, "parse");

/// Steps of the first packet to a destination, by their numbers in the program; each does all before it, too.
/// It remembers sources, and no destination.
const ALLOWED: [(u32, &str); 8] = [
    (0, "which slot"),
    PARSE,
    (2, "source"),
    (3, "memory"),
    (4, "index"),
    (5, "port set"),
    (6, "port"),
    (7, "counter"),
];

/// Those of a packet to a destination that nothing is listed for.
const DENIED: [(u32, &str); 8] = [
    (0, "which slot"),
    PARSE,
    (2, "source"),
    (3, "memory"),
    (4, "index"),
    (9, "settings"),
    (10, "sample"),
    (11, "counter"),
];

/// The step of a reply, after the parser.
pub(super) const FLOW: (u32, &str) = (8, "flow");

/// The steps of the packets of a case, if they are measured.
pub(super) fn of(case: &str) -> &'static [(u32, &'static str)] {
    match case {
        "allowed-hot" => &ALLOWED,
        "denied-far" => &DENIED,
        _ => &[],
    }
}

/// Loads the program that stops after a step, over the pinned maps, for the NIC with this index.
pub(super) fn load(pins: &PinDirectory, nic: u8, number: u32) -> Result<Measured> {
    let maps = pins.map("STATE");
    let maps = maps.parent().context("pins lie in no directory")?;
    let mut names = Vec::new();
    for entry in fs::read_dir(maps).context("the pinned maps can't be listed")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let nic = u32::from(nic);
    let mut loader = EbpfLoader::new();
    let index = MapData::from_pin(maps.join("INDEX")).context("the index is not pinned")?;
    let lines = index.info()?.max_entries() / SLOTS;
    let sets = MapData::from_pin(maps.join("FLOW_SPILLS")).context("no flows are pinned")?;
    let sets = sets.info()?.max_entries();
    loader
        .override_global("NIC", &nic, true)
        .override_global("STAGE", &number, true)
        .override_global("LINES", &lines, true)
        .override_global("SETS", &sets, true)
        .map_max_entries("REMEMBERED", SharedMaps::cpus());
    for name in &names {
        loader.map_pin_path(name, maps.join(name));
    }
    let mut ebpf = loader.load(OBJECT).context("the steps can't be loaded")?;
    let program = ebpf.program_mut("bench_steps").context("the object has no steps")?;
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("the kernel refuses step {number}"))?;
    // The program lives on by its handle, and its maps with it.
    Measured::of(program, Kind::Frags)
}
