// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice detach`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{PinArgs, output};
use crate::kernel::PinDirectory;

#[derive(Args, Debug)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    pins: PinArgs,
    /// Print JSON with stable field names
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Detached {
    nics: Vec<String>,
}

pub(super) fn run(args: &DetachArgs) -> Result<ExitCode> {
    let Some(pins) = PinDirectory::open(&args.pins.pin_dir)? else {
        if args.json {
            output::json(&Detached { nics: Vec::new() })?;
        } else {
            output::text(&format!(
                "nothing is pinned in {}; nothing to take off\n",
                args.pins.pin_dir.display()
            ))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let nics: Vec<String> = pins.nics()?.iter().map(|nic| nic.name.to_string()).collect();
    pins.remove_all()?;
    if args.json {
        output::json(&Detached { nics })?;
    } else {
        output::text(&format!("taken off {}: packets are no longer filtered\n", nics.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}
