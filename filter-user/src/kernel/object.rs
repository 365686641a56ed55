// SPDX-License-Identifier: MIT OR Apache-2.0
//! The eBPF object that the build embeds, and instances of its programs.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::Array,
    programs::{ProgramError, SchedClassifier, TestRunOptions, Xdp},
    util::KernelVersion,
};
pub use filter_common::tables::Role;
use filter_common::{
    egress::Side,
    wire::{DEFAULT_INDEX_LINES, Observation, SLOTS, interface},
};

use super::{
    clock,
    flows::pinned_sets,
    index::{INDEX, pinned_lines},
    maps::SharedMaps,
    pins::PinDirectory,
};

/// The program on what enters a NIC of a side, in the object and in `bpftool`.
const fn ingress_program(side: Side) -> &'static str {
    match side {
        Side::Inside => "sluice_inside",
        Side::Outside => "sluice_outside",
    }
}

/// The program on what leaves a NIC.
const EGRESS_PROGRAM: &str = "sluice_egress";

/// The oldest kernel that has all that the program uses.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(6, 1, 0);

/// The eBPF object, made by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-ebpf"));

/// Which index an object is over.
#[derive(Clone, Copy, Debug)]
pub(super) enum IndexPin<'a> {
    /// The one in its place. If there is none, one is made.
    Usual,
    /// A new one with `lines` in each slot, pinned at `path` for now.
    Next { lines: u32, path: &'a Path },
}

/// The programs, loaded for one NIC, over the maps of a pin directory. An instance that observes
/// has only the one on what enters.
#[derive(Debug)]
pub struct Instance {
    ebpf: Ebpf,
    side: Side,
    /// The program on what enters the NIC.
    pub ingress: LoadedProgram,
    /// The program on what leaves it.
    pub egress: Option<LoadedProgram>,
}

/// Whether programs look at the index and at what they cached, or at the tries each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortcuts {
    /// They do.
    On,
    /// The tries each time; for tests and measurements.
    Off,
}

/// What is known of a program once it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedProgram {
    /// Its name.
    pub name: &'static str,
    /// The kernel's id of it.
    pub id: u32,
    /// The time that the verifier and the compiler took.
    pub load_time: Duration,
    /// Instructions that the verifier processed; `None` on a kernel that doesn't tell.
    pub verified_instructions: Option<u32>,
}

// === impl Instance ===

impl Instance {
    /// Loads the programs for the NIC with the index `nic`, which is on a side.
    ///
    /// # Errors
    ///
    /// The kernel lacks a feature or the process a capability; the message says which.
    pub fn load(pins: &PinDirectory, nic: u8, side: Side, role: Role) -> Result<Self> {
        Self::load_with(pins, nic, side, role, Shortcuts::On)
    }

    /// As [`Instance::load`], with short cuts or without.
    ///
    /// # Errors
    ///
    /// As [`Instance::load`].
    pub fn load_with(
        pins: &PinDirectory,
        nic: u8,
        side: Side,
        role: Role,
        shortcuts: Shortcuts,
    ) -> Result<Self> {
        let observe = match role {
            Role::Enforcing => 0_u32,
            Role::Observing => 1,
        };
        let index = u32::from(nic);
        let number = match side {
            Side::Inside => interface::INSIDE,
            Side::Outside => interface::OUTSIDE,
        };
        let hertz = clock::hertz(pins)?;
        let sets = pinned_sets(pins)?;
        let lines = match (role, shortcuts) {
            (Role::Enforcing, Shortcuts::On) => pinned_lines(pins)?,
            (Role::Observing, _) | (Role::Enforcing, Shortcuts::Off) => 0,
        };
        let mut loader = EbpfLoader::new();
        loader
            .override_global("NIC", &index, true)
            .override_global("OBSERVE", &observe, true)
            .override_global("SIDE", &number, true)
            .override_global("HERTZ", &hertz, true)
            .override_global("SETS", &sets, true)
            .override_global("LINES", &lines, true);
        if lines != 0 {
            // All others remember nothing.
            loader.map_max_entries("REMEMBERED", SharedMaps::cpus());
        }
        let mut ebpf = load_object(&mut loader, pins, IndexPin::Usual)?;

        let program = xdp(&mut ebpf, ingress_program(side))?;
        let start = Instant::now();
        program.load().map_err(|error| explain_load_error(&error))?;
        let load_time = start.elapsed();
        let info = program.info().context("the kernel doesn't describe its own program")?;
        let ingress = LoadedProgram {
            name: ingress_program(side),
            id: info.id(),
            load_time,
            verified_instructions: info.verified_instruction_count(),
        };
        let egress = match role {
            Role::Observing => None,
            Role::Enforcing => {
                let program = classifier(&mut ebpf)?;
                let start = Instant::now();
                program.load().map_err(|error| explain_load_error(&error))?;
                let load_time = start.elapsed();
                let info = program.info().context("the kernel doesn't describe its own program")?;
                Some(LoadedProgram {
                    name: EGRESS_PROGRAM,
                    id: info.id(),
                    load_time,
                    verified_instructions: info.verified_instruction_count(),
                })
            }
        };
        Ok(Self { ebpf, side, ingress, egress })
    }

    /// The side that it was loaded for.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// The program on what enters, for attaching.
    pub(super) fn program(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.ebpf, ingress_program(self.side))
    }

    /// The program on what leaves, for attaching.
    pub(super) fn egress_program(&mut self) -> Result<&mut SchedClassifier> {
        classifier(&mut self.ebpf)
    }

    /// Runs the program on what enters once on a frame of at least 14 bytes and returns the XDP
    /// action.
    ///
    /// # Errors
    ///
    /// The kernel refuses the frame, as it is too short, or too long for the kernel at hand.
    pub fn run(&mut self, frame: &[u8]) -> Result<u32> {
        self.run_into(frame, &mut []).map(|(action, _)| action)
    }

    /// As [`Instance::run`]; the frame as the program leaves it is written into `out`, and its
    /// length returned.
    ///
    /// # Errors
    ///
    /// As [`Instance::run`]; also where `out` is too short, unless it is empty.
    pub fn run_into(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize)> {
        let data_out = if out.is_empty() { None } else { Some(out) };
        let options = TestRunOptions { data_in: Some(frame), data_out, ..TestRunOptions::new() };
        let result = self
            .program()?
            .test_run(options)
            .context("the kernel refused to run the program on this frame")?;
        Ok((result.return_value, usize::try_from(result.data_size_out)?))
    }

    /// Runs the program on what leaves once on a frame of at least 14 bytes that came in by the
    /// interface with the kernel's index `from` (0: from the gateway itself), and is cut into
    /// `segments` packets (0 and 1: it isn't). Returns the action: -1 passes.
    ///
    /// # Errors
    ///
    /// As [`Instance::run`].
    pub fn run_egress(&mut self, frame: &[u8], from: u32, segments: u32) -> Result<i32> {
        let context = sk_buff(from, segments);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = self
            .egress_program()?
            .test_run(options)
            .context("the kernel refused to run the program on this frame")?;
        Ok(result.return_value.cast_signed())
    }

    /// Asks an observing instance what it would do with a frame.
    ///
    /// # Errors
    ///
    /// As [`Instance::run`].
    pub fn observe(&mut self, frame: &[u8]) -> Result<Observation> {
        self.run(frame)?;
        let map = self.ebpf.map("OBSERVATION").context("the object has no map OBSERVATION")?;
        let observations: Array<_, Observation> = Array::try_from(map)?;
        Ok(observations.get(&0, 0)?)
    }
}

/// The names of all programs in the object.
///
/// # Errors
///
/// The maps can't be opened.
pub fn programs(pins: &PinDirectory) -> Result<BTreeSet<String>> {
    let ebpf = load_object(&mut EbpfLoader::new(), pins, IndexPin::Usual)?;
    Ok(ebpf.programs().map(|(name, _)| name.to_owned()).collect())
}

/// Parses the object, and creates its maps or opens those that are pinned.
pub(super) fn load_object<'a>(
    loader: &mut EbpfLoader<'a>,
    pins: &PinDirectory,
    index: IndexPin<'a>,
) -> Result<Ebpf> {
    for name in super::maps::SHARED {
        loader.map_pin_path(name, pins.map(name));
    }
    match index {
        IndexPin::Usual => {
            // It counts only where the index isn't pinned yet.
            loader.map_max_entries(INDEX, SLOTS * DEFAULT_INDEX_LINES);
        }
        IndexPin::Next { lines, path } => {
            loader.map_max_entries(INDEX, SLOTS * lines).map_pin_path(INDEX, path);
        }
    }
    loader.load(OBJECT).map_err(|error| {
        let error = anyhow::Error::new(error);
        let hint = hint(&error);
        error.context(format!("the maps can't be created in the kernel; {hint}"))
    })
}

pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).context("the object has no program of its name")?;
    Ok(program.try_into()?)
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program =
        ebpf.program_mut(EGRESS_PROGRAM).context("the object has no program of its name")?;
    Ok(program.try_into()?)
}

/// The context of a packet that leaves: `struct __sk_buff` (include/uapi/linux/bpf.h), of which the
/// kernel takes few fields and wants zeros in the rest.
fn sk_buff(from: u32, segments: u32) -> [u8; 192] {
    const INGRESS_IFINDEX: usize = 36;
    const GSO_SEGS: usize = 164;
    let mut context = [0; 192];
    for (offset, value) in [(INGRESS_IFINDEX, from), (GSO_SEGS, segments)] {
        for (to, from) in context.iter_mut().skip(offset).zip(value.to_ne_bytes()) {
            *to = from;
        }
    }
    context
}

pub(super) fn explain_load_error(error: &ProgramError) -> anyhow::Error {
    match error {
        // The verifier's log is thousands of lines; its end holds the reason.
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let tail: Vec<&str> = log.lines().rev().take(6).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            anyhow::anyhow!(
                "the kernel refused the program ({io_error}); Sluice needs Linux 6.1 or newer, \
                 and CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. The verifier said: {}",
                if tail.is_empty() { "nothing".to_owned() } else { tail.join(" / ") }
            )
        }
        other => anyhow::anyhow!("the program can't be loaded: {other}"),
    }
}

/// What helps against an error of the loader.
fn hint(error: &anyhow::Error) -> &'static str {
    let denied = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error)
            == Some(nix::errno::Errno::EPERM as i32)
    });
    if denied {
        "run it as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    } else {
        "Sluice needs Linux 6.1 or newer with BPF and BTF built in, and memory for its tables"
    }
}

/// Fails where the process can't load programs, before anything is touched.
///
/// # Errors
///
/// A message that says what is missing.
pub fn check_privileges() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc can't be read")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .context("/proc/self/status doesn't tell the capabilities")?;
    // Numbers from include/uapi/linux/capability.h.
    for (number, name) in [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")] {
        if effective & (1 << number) == 0 {
            bail!(
                "{name} is missing, so programs can't be loaded and attached; run sluice as root \
                 or give the service CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            );
        }
    }
    let kernel = KernelVersion::current().context("the kernel doesn't tell its version")?;
    if kernel < OLDEST_KERNEL {
        bail!("this kernel is {kernel}; Sluice needs Linux 6.1 or newer");
    }
    Ok(())
}
