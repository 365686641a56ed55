// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice reload`.

use std::process::ExitCode;

use anyhow::Result;

use super::{QueryArgs, output};
use crate::control::{
    client::ask,
    protocol::{Reloaded, Request},
};

pub(super) fn run(args: &QueryArgs) -> Result<ExitCode> {
    let reloaded: Reloaded = ask(&args.socket, &Request::Reload)?;
    if args.json {
        output::json(&reloaded)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text =
        format!("policy {} is in force: {} rules\n", reloaded.generation, reloaded.rules);
    for warning in &reloaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for note in &reloaded.not_enforced {
        text.push_str(&format!("not enforced: {note}\n"));
    }
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}
