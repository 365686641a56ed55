// SPDX-License-Identifier: MIT OR Apache-2.0
//! xdp-filter, as Debian packages it: its own program over its own maps, with the entries that its command
//! line would make.
//!
//! Its policy is *deny*: what an address or a port in its list matches passes. The port in the list is one
//! that no packet has, so that it is looked for and not found, as in a list for other destinations.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{PerCpuArray, PerCpuHashMap, PerCpuValues},
    programs::Xdp,
    util::nr_cpus,
};

use super::feeder::{Kind, Measured};
use crate::{netns, workdir::PinDir};

/// The Debian package.
pub(super) const PACKAGE: &str = "xdp-tools";

/// The program that can do all that xdp-filter can, and the one that only looks at addresses.
pub(super) const PROGRAMS: [(&str, &str); 2] =
    [("xdp-filter", "xdpfilt_dny_all"), ("xdp-filter-addresses", "xdpfilt_dny_ip")];

/// Flags of an entry (`MAP_FLAG_DST` and `MAP_FLAG_TCP` of xdp-filter/common_kern_user.h).
const DESTINATION: u64 = 1 << 1;
const TCP: u64 = 1 << 2;

/// A port that is listed, and that no packet goes to.
const PORT: u16 = 8443;

/// The program and its maps.
pub(super) struct Peer {
    ebpf: Ebpf,
    _pins: PinDir,
}

// === impl Peer ===

impl Peer {
    /// Loads one of the programs with a list of addresses; `None` where the package isn't installed.
    pub(super) fn load(program: &str, addresses: &[IpAddr]) -> Result<Option<(Self, Measured)>> {
        let Some(object) = object(program) else { return Ok(None) };
        let pins = PinDir::new(&format!("bench-peer-{}", netns::unique()))?;
        fs::create_dir_all(pins.path()).context("no directory for pins can be made")?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.path())
            .load_file(&object)
            .with_context(|| format!("{} can't be loaded", object.display()))?;
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let on_all = |value: u64| PerCpuValues::try_from(vec![value; cpus]);
        let map = ebpf.map_mut("filter_ipv4").context("xdp-filter has no map for addresses")?;
        let mut list: PerCpuHashMap<_, [u8; 4], u64> = map.try_into()?;
        for address in addresses {
            if let IpAddr::V4(address) = address {
                list.insert(address.octets(), on_all(DESTINATION)?, 0)?;
            }
        }
        if let Some(map) = ebpf.map_mut("filter_ports") {
            let mut ports: PerCpuArray<_, u64> = map.try_into()?;
            ports.set(u32::from(PORT.to_be()), on_all(DESTINATION | TCP)?, 0)?;
        }
        let loaded = ebpf.program_mut(program).context("the object has another program")?;
        let loaded: &mut Xdp = loaded.try_into()?;
        loaded.load().with_context(|| format!("the kernel refuses {program}"))?;
        let program = Measured::of(loaded, Kind::Plain)?;
        Ok(Some((Self { ebpf, _pins: pins }, program)))
    }

    /// How many packets it has given each XDP action.
    pub(super) fn counted(&self) -> Result<Vec<u64>> {
        let map = self.ebpf.map("xdp_stats_map").context("xdp-filter doesn't count")?;
        let stats: PerCpuArray<_, [u64; 2]> = map.try_into()?;
        let actions = 0..stats.len();
        let packets = actions.map(|action| {
            let values = stats.get(&action, 0)?;
            Ok(values.iter().map(|[packets, _]| packets).sum())
        });
        packets.collect()
    }
}

/// Where Debian has the object.
fn object(program: &str) -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = directories.map(|entry| entry.path().join(format!("bpf/{program}.o")));
    found.find(|path| path.exists())
}
