// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measurements: `sluice-bench kill [TIMES]`. It needs root, and a `sluice` built next to it.

#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use sluice_lab::survival;

/// How often the daemon is killed unless the command line says otherwise.
const KILLS: u32 = 20;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["kill"] => kill(KILLS),
        ["kill", times] => times.parse().context("TIMES is no number").and_then(kill),
        _ => {
            eprintln!("usage: sluice-bench kill [TIMES]");
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
