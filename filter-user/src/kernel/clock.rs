// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's clock of ticks (jiffies), which costs a program nothing to read, but whose unit only
//! the kernel's configuration tells.

use std::{
    fmt,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, EbpfLoader, TestRun as _, maps::Array, programs::TestRunOptions};
use filter_common::flow::Clock;

use super::{
    object::{IndexPin, explain_load_error, load_object, xdp},
    pins::PinDirectory,
};

/// Ticks in a second that kernels are built with (`CONFIG_HZ`, kernel/Kconfig.hz; 24 to 1200 exist
/// on other architectures).
const KNOWN: [u32; 4] = [100, 250, 300, 1000];

/// How far a measurement may lie from a known value, in thousandths.
const TOLERANCE: u64 = 50;

/// Between the two ticks that are compared.
const SPAN: Duration = Duration::from_millis(60);

/// The programs' own look at both clocks.
struct Moment {
    ticks: u64,
    nanoseconds: u64,
}

/// The clock of the programs, read by one of them.
pub struct TickClock {
    ebpf: Ebpf,
    hertz: u32,
}

// === impl TickClock ===

impl fmt::Debug for TickClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TickClock").field("hertz", &self.hertz).finish_non_exhaustive()
    }
}

impl TickClock {
    /// Loads the program that tells the time.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, or its ticks are of no known length.
    pub fn open(pins: &PinDirectory) -> Result<Self> {
        let hertz = hertz(pins)?;
        Ok(Self { ebpf: load(pins)?, hertz })
    }

    /// The present moment, in the unit in which flows are dated.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run the program.
    pub fn now(&mut self) -> Result<Clock> {
        Ok(Clock { now: now(&mut self.ebpf)?.ticks, hertz: self.hertz.into() })
    }
}

/// Ticks in a second. They are measured once in a process.
///
/// # Errors
///
/// The kernel refuses the program that tells the time, or its ticks are of no known length.
pub(super) fn hertz(pins: &PinDirectory) -> Result<u32> {
    static HERTZ: OnceLock<u32> = OnceLock::new();
    if let Some(hertz) = HERTZ.get() {
        return Ok(*hertz);
    }
    let mut ebpf = load(pins)?;
    // A busy machine may notice ticks late, so a doubtful measurement is made again.
    for _ in 0..5 {
        let measured = measure(&mut ebpf)?;
        let near = |known: &&u32| {
            let known = u64::from(**known);
            measured.abs_diff(known) * 1000 <= known * TOLERANCE
        };
        if let Some(known) = KNOWN.iter().find(near) {
            return Ok(*HERTZ.get_or_init(|| *known));
        }
    }
    bail!(
        "the length of the kernel's ticks can't be told; CONFIG_HZ is none of {KNOWN:?}, or the \
         machine is too busy to measure it: try again"
    )
}

fn load(pins: &PinDirectory) -> Result<Ebpf> {
    let mut ebpf = load_object(&mut EbpfLoader::new(), pins, IndexPin::Usual)?;
    xdp(&mut ebpf, "sluice_clock")?.load().map_err(|error| explain_load_error(&error))?;
    Ok(ebpf)
}

fn measure(ebpf: &mut Ebpf) -> Result<u64> {
    let first = next_tick(ebpf)?;
    thread::sleep(SPAN);
    let second = next_tick(ebpf)?;
    let ticks = second.ticks.saturating_sub(first.ticks);
    let nanoseconds = second.nanoseconds.saturating_sub(first.nanoseconds).max(1);
    Ok((ticks * 1_000_000_000 + nanoseconds / 2) / nanoseconds)
}

/// Waits for a tick.
fn next_tick(ebpf: &mut Ebpf) -> Result<Moment> {
    let before = now(ebpf)?.ticks;
    let start = Instant::now();
    loop {
        let moment = now(ebpf)?;
        if moment.ticks != before {
            return Ok(moment);
        }
        if start.elapsed() > Duration::from_secs(1) {
            bail!("the kernel's ticks stand still");
        }
    }
}

fn now(ebpf: &mut Ebpf) -> Result<Moment> {
    let options = TestRunOptions { data_in: Some(&[0; 14]), ..TestRunOptions::new() };
    xdp(ebpf, "sluice_clock")?
        .test_run(options)
        .context("the kernel refused to run the program that tells the time")?;
    let map = ebpf.map("MOMENT").context("the object has no map MOMENT")?;
    let moment: Array<_, [u64; 2]> = Array::try_from(map)?;
    let [ticks, nanoseconds] = moment.get(&0, 0)?;
    Ok(Moment { ticks, nanoseconds })
}
