// SPDX-License-Identifier: MIT OR Apache-2.0
//! The eBPF object that the build embeds, and instances of its program.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::Array,
    programs::{ProgramError, TestRunOptions, Xdp},
    util::KernelVersion,
};
use filter_common::wire::Observation;

use super::pins::PinDirectory;

/// The name of the program of the inside NICs, in the object and in `bpftool`.
const PROGRAM: &str = "sluice_inside";

/// The oldest kernel that has all that the program uses.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(6, 1, 0);

/// The eBPF object, made by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter-ebpf"));

/// What an instance of the program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It counts and sends events: for attaching, and for tests of counters.
    Enforcing,
    /// It only writes down what it decided: for questions.
    Observing,
}

/// The program, loaded for one NIC, over the maps of a pin directory.
#[derive(Debug)]
pub struct Instance {
    ebpf: Ebpf,
    /// The time that the verifier and the compiler took.
    pub load_time: Duration,
    /// Instructions that the verifier processed; `None` on a kernel that doesn't tell.
    pub verified_instructions: Option<u32>,
    /// The kernel's id of the program.
    pub id: u32,
}

// === impl Instance ===

impl Instance {
    /// Loads the program for the NIC with the index `nic`.
    ///
    /// # Errors
    ///
    /// The kernel lacks a feature or the process a capability; the message says which.
    pub fn load(pins: &PinDirectory, nic: u8, role: Role) -> Result<Self> {
        let observe = match role {
            Role::Enforcing => 0_u32,
            Role::Observing => 1,
        };
        let index = u32::from(nic);
        let mut loader = EbpfLoader::new();
        loader.override_global("NIC", &index, true).override_global("OBSERVE", &observe, true);
        let mut ebpf = load_object(&mut loader, pins)?;
        let program = xdp(&mut ebpf)?;
        let start = Instant::now();
        program.load().map_err(|error| explain_load_error(&error))?;
        let load_time = start.elapsed();
        let info = program.info().context("the kernel doesn't describe its own program")?;
        Ok(Self {
            load_time,
            verified_instructions: info.verified_instruction_count(),
            id: info.id(),
            ebpf,
        })
    }

    /// The program, for attaching.
    pub(super) fn program(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.ebpf)
    }

    /// Runs the program once on a frame of at least 14 bytes and returns the XDP action.
    ///
    /// # Errors
    ///
    /// The kernel refuses the frame, as it is too short, or too long for the kernel at hand.
    pub fn run(&mut self, frame: &[u8]) -> Result<u32> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = self
            .program()?
            .test_run(options)
            .context("the kernel refused to run the program on this frame")?;
        Ok(result.return_value)
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

/// Parses the object, and creates its maps or opens those that are pinned.
pub(super) fn load_object(loader: &mut EbpfLoader<'_>, pins: &PinDirectory) -> Result<Ebpf> {
    for name in super::maps::SHARED {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(OBJECT).map_err(|error| {
        let error = anyhow::Error::new(error);
        let hint = hint(&error);
        error.context(format!("the maps can't be created in the kernel; {hint}"))
    })
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(PROGRAM).context("the object has no program of its name")?;
    Ok(program.try_into()?)
}

fn explain_load_error(error: &ProgramError) -> anyhow::Error {
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
