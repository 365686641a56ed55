// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traffic made in the kernel, at the rate of millions of packets a second, and programs for the
//! places where it goes.
//!
//! A program is run on "live frames" (`BPF_F_TEST_XDP_LIVE_FRAMES`): the kernel hands it frames of
//! its own, the program writes headers into them and sends them out of a NIC. No socket and no
//! queue of a driver is in the way. At the other end of a veth pair frames arrive only while
//! there is an XDP program or GRO is on.

use std::{
    fmt,
    net::Ipv4Addr,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, PerCpuArray},
    programs::{Xdp, XdpMode},
};
use ipnet::Ipv4Net;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{netns::Namespace, raw};

/// The programs, as the build script left them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generator-ebpf"));

/// Frames that the kernel hands out at a time.
const BATCH: u32 = 64;

/// Frames of one run of the program: some tenths of a second, so that what a run costs beside the
/// frames (the kernel prepares its pool of pages) doesn't show, and the end comes soon.
const RUN: u32 = 1 << 19;

/// The most destinations, as many as the program's map may get.
const MAX_DESTINATIONS: usize = 1 << 16;

/// The largest frame of a mixture, which is cut to the others' sizes.
const LARGEST: u16 = 1514;

/// The smallest frame: headers of TCP, and what Ethernet fills up.
const SMALLEST: u16 = 60;

/// What packets are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What they carry.
    pub transport: Transport,
    /// How long they are.
    pub size: Size,
    /// Each comes from a random address of these.
    pub sources: Ipv4Net,
    /// Each comes from a random one of so many ports, a power of two, from 32768 on.
    pub source_ports: u16,
    /// Each goes to a random one of these.
    pub destinations: Vec<Ipv4Addr>,
    /// To this port.
    pub port: u16,
    /// Which way they go.
    pub way: Way,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the sources to the destinations.
    There,
    /// As answers: from the destinations and their port to the sources.
    Back,
}

/// What packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// UDP without checksum.
    Udp,
    /// TCP, a SYN.
    Syn,
}

/// How long frames are, without the checksum at their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// All the same.
    Bytes(u16),
    /// Of 48 frames, 28 have 60 bytes, 16 have 590 and 4 have 1514: the mixture that is usually
    /// called IMIX.
    Mix,
}

/// A program with its traffic, ready to run.
pub struct Generator {
    object: Ebpf,
    /// Room for the largest frame.
    frame: Vec<u8>,
}

/// A program that nothing is decided in, on a NIC until this is dropped.
pub struct Attached {
    object: Ebpf,
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// Passes everything.
    Pass,
    /// Drops everything.
    Drop,
    /// Drops everything, having read where it goes.
    DropReading,
    /// Counts everything and drops it.
    Receive,
}

/// What a [`Empty::Receive`] program counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// TCP and UDP over IPv4.
    pub traffic: u64,
    /// Everything else.
    pub other: u64,
}

/// Keeps the calling thread on a processor.
///
/// # Errors
///
/// If the processor isn't there.
pub fn stay_on(processor: usize) -> Result<()> {
    pin(Pid::from_raw(0), processor)
}

/// Keeps a thread on a processor.
///
/// # Errors
///
/// If the processor or the thread isn't there.
pub fn pin(thread: Pid, processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor).with_context(|| format!("processor {processor}"))?;
    sched_setaffinity(thread, &set)
        .with_context(|| format!("thread {thread} can't be kept on processor {processor}"))
}

// === impl Traffic ===

impl Traffic {
    /// How many flows there are at most.
    #[must_use]
    pub fn flows(&self) -> u64 {
        let sources = 1_u64 << (32 - self.sources.prefix_len());
        sources * u64::from(self.source_ports) * self.destinations.len() as u64
    }

    fn check(&self) -> Result<()> {
        ensure!(
            (1..=MAX_DESTINATIONS).contains(&self.destinations.len()),
            "traffic needs 1 to {MAX_DESTINATIONS} destinations"
        );
        ensure!(
            self.source_ports.is_power_of_two() && self.source_ports <= 1 << 15,
            "the number of source ports has to be a power of two of at most 32768"
        );
        Ok(())
    }
}

// === impl Transport ===

impl Transport {
    /// Its number in IP headers.
    fn number(self) -> u8 {
        match self {
            Self::Syn => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Syn => "TCP SYN",
        })
    }
}

// === impl Size ===

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Mix => f.write_str("IMIX"),
        }
    }
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "imix" {
            return Ok(Self::Mix);
        }
        let bytes = text.parse().ok().filter(|bytes| (SMALLEST..=LARGEST).contains(bytes));
        let bytes = bytes.with_context(|| {
            format!("`{text}` is no size: {SMALLEST} to {LARGEST} bytes, or `imix`")
        })?;
        Ok(Self::Bytes(bytes))
    }
}

// === impl Generator ===

impl Generator {
    /// Loads the program for traffic that leaves by `nic` to the host with the MAC address `to`.
    ///
    /// # Errors
    ///
    /// If the traffic can't be made, the NIC isn't there, or the kernel refuses the program.
    pub fn new(
        namespace: &Namespace,
        nic: &str,
        to: [u8; 6],
        seed: u64,
        traffic: &Traffic,
    ) -> Result<Self> {
        traffic.check()?;
        let (interface, from) = raw::identity(namespace, nic)?;
        let mut link = [0; 12];
        for (place, octet) in link.iter_mut().zip(to.into_iter().chain(from)) {
            *place = octet;
        }
        let (largest, fixed) = match traffic.size {
            Size::Bytes(bytes) => (bytes, bytes),
            Size::Mix => (LARGEST, 0),
        };
        let count = u32::try_from(traffic.destinations.len())?;
        let (start, end) = link.split_at(8);
        let source = u32::from(traffic.sources.network());
        let source_random = u32::from(traffic.sources.hostmask());
        let answers = u32::from(traffic.way == Way::Back);
        let port_random = traffic.source_ports - 1;
        let mut object = EbpfLoader::new()
            .map_max_entries("DESTINATIONS", count)
            .override_global("DESTINATION_COUNT", &count, true)
            .override_global("OUT_INTERFACE", &interface, true)
            .override_global("LINK_START", start, true)
            .override_global("LINK_END", end, true)
            .override_global("SOURCE", &source, true)
            .override_global("SOURCE_RANDOM", &source_random, true)
            .override_global("SOURCE_PORT", &(1_u16 << 15), true)
            .override_global("SOURCE_PORT_RANDOM", &port_random, true)
            .override_global("DESTINATION_PORT", &traffic.port, true)
            .override_global("ANSWERS", &answers, true)
            .override_global("PROTOCOL", &traffic.transport.number(), true)
            .override_global("FRAME_BYTES", &fixed, true)
            .override_global("HANDED_IN", &largest, true)
            .override_global("RANDOM", &seed, true)
            .load(OBJECT)
            .context("the generator's object")?;
        let map = object.map_mut("DESTINATIONS").context("the object has no DESTINATIONS")?;
        let mut map: Array<_, [u8; 4]> = map.try_into()?;
        for (index, destination) in (0..).zip(&traffic.destinations) {
            map.set(index, destination.octets(), 0).context("the destinations")?;
        }
        load(&mut object, "generate")?;
        Ok(Self { object, frame: vec![0; usize::from(largest)] })
    }

    /// Sends until it is told to stop, from inside the namespace and on one processor; returns
    /// how many frames were made. What the other end has no room for is lost.
    ///
    /// # Errors
    ///
    /// If the kernel doesn't run the program.
    pub fn run(&self, namespace: &Namespace, processor: usize, stop: &AtomicBool) -> Result<u64> {
        let program: &Xdp =
            self.object.program("generate").context("the object has no `generate`")?.try_into()?;
        namespace.enter(|| {
            stay_on(processor)?;
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                program
                    .test_run(TestRunOptions {
                        data_in: Some(&self.frame),
                        repeat: RUN,
                        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                        ..TestRunOptions::new()
                    })
                    .context("live frames (Linux 5.18 or newer)")?;
                made += u64::from(RUN);
            }
            Ok(made)
        })?
    }
}

impl fmt::Debug for Generator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("largest", &self.frame.len()).finish_non_exhaustive()
    }
}

// === impl Attached ===

impl Attached {
    /// Puts a program on a NIC, in the driver.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it, or another program is there.
    pub fn new(namespace: &Namespace, nic: &str, which: Empty) -> Result<Self> {
        let mut object = EbpfLoader::new().load(OBJECT).context("the lab's object")?;
        let program = load(&mut object, which.name())?;
        namespace
            .enter(|| program.attach(nic, XdpMode::Driver))?
            .with_context(|| format!("the program `{}` on {nic}", which.name()))?;
        Ok(Self { object })
    }

    /// What [`Empty::Receive`] has counted so far.
    ///
    /// # Errors
    ///
    /// If the kernel doesn't say.
    pub fn arrived(&self) -> Result<Arrived> {
        let map = self.object.map("ARRIVED").context("the object has no ARRIVED")?;
        let map: PerCpuArray<_, u64> = map.try_into()?;
        let sum = |kind| -> Result<u64> { Ok(map.get(&kind, 0)?.iter().sum()) };
        Ok(Arrived { traffic: sum(0)?, other: sum(1)? })
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").finish_non_exhaustive()
    }
}

// === impl Empty ===

impl Empty {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::DropReading => "drop_reading",
            Self::Receive => "receive",
        }
    }
}

fn load<'object>(object: &'object mut Ebpf, name: &str) -> Result<&'object mut Xdp> {
    let Some(program) = object.program_mut(name) else { bail!("the object has no `{name}`") };
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| format!("the program `{name}`"))?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_ethernet() {
        assert_eq!("imix".parse::<Size>().unwrap(), Size::Mix);
        assert_eq!("60".parse::<Size>().unwrap(), Size::Bytes(60));
        for wrong in ["59", "1515", "IMIX", ""] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
