// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measurements: `sluice-bench kill [TIMES]`, `sluice-bench swap [TIMES]` and
//! `sluice-bench judge [POLICIES [PACKETS [SEED]]]`, which need root, and `sluice-bench import
//! [ROUNDS]`. All need a `sluice` built next to it.

#![forbid(unsafe_code)]

use std::{
    env,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use sluice_lab::{
    import_bench,
    judge::{self, LISTED},
    survival, swap,
};

/// How often the daemon is killed unless the command line says otherwise.
const KILLS: u32 = 20;

/// How often policies are swapped unless the command line says otherwise.
const SWAPS: u32 = 500;

/// How often a file is imported unless the command line says otherwise.
const ROUNDS: u32 = 7;

/// How many policies nftables judges, with how many packets each, from which seed on, unless the
/// command line says otherwise.
const JUDGED: (u32, u16, u64) = (200, 200, 1);

/// What an import of a large file may take.
const IMPORT_TIME: Duration = Duration::from_secs(2);
const IMPORT_KIB: i64 = 200 << 10;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["kill"] => kill(KILLS),
        ["kill", times] => times.parse().context("TIMES is no number").and_then(kill),
        ["swap"] => swap(SWAPS),
        ["swap", times] => times.parse().context("TIMES is no number").and_then(swap),
        ["import"] => import(ROUNDS),
        ["import", rounds] => rounds.parse().context("ROUNDS is no number").and_then(import),
        ["judge", numbers @ ..] if numbers.len() <= 3 => judged(numbers),
        _ => {
            eprintln!(
                "usage: sluice-bench kill [TIMES] | swap [TIMES] | import [ROUNDS] | \
                 judge [POLICIES [PACKETS [SEED]]]"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn kill(times: u32) -> Result<()> {
    let report = survival::kill_repeatedly(times)?;
    println!("sluice killed with SIGKILL {times} times in {report}");
    if report.denied.received != 0 || !report.allowed.missing.is_empty() {
        bail!("the daemon's death opened or closed something");
    }
    Ok(())
}

fn swap(times: u32) -> Result<()> {
    let swaps = swap::swap_repeatedly(times)?;
    println!("{swaps}");
    swaps.check().context("a swap opened or closed something")
}

fn import(rounds: u32) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let measured = import_bench::measure(&root, rounds)?;
    for one in &measured {
        println!("{one}");
    }
    if measured.iter().any(|one| one.median > IMPORT_TIME || one.peak_kib > IMPORT_KIB) {
        bail!("an import takes more than {IMPORT_TIME:?} or {} MiB", IMPORT_KIB / 1024);
    }
    Ok(())
}

fn judged(numbers: &[&str]) -> Result<()> {
    let (mut policies, mut packets, mut seed) = JUDGED;
    if let Some(number) = numbers.first() {
        policies = number.parse().context("POLICIES is no number")?;
    }
    if let Some(number) = numbers.get(1) {
        packets = number.parse().context("PACKETS is no number")?;
    }
    if let Some(number) = numbers.get(2) {
        seed = number.parse().context("SEED is no number")?;
    }
    println!("seeds from {seed} on");
    let begin = Instant::now();
    let progress = |tally: &judge::Tally| println!("a share: {tally}");
    let tally = judge::compare_in_parallel(seed, policies, packets, progress)?;
    for difference in &tally.differ {
        println!("{difference}");
    }
    for (listed, count) in LISTED.iter().zip(tally.listed) {
        println!("{count} times {:?}, sluice {:?}: {}", listed.kind, listed.sluice, listed.reason);
    }
    println!("{:.0} s", begin.elapsed().as_secs_f64());
    println!("{tally}");
    if !tally.differ.is_empty() {
        bail!("sluice and nftables differ");
    }
    Ok(())
}
