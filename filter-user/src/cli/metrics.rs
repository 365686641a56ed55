// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice metrics`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::output;
use crate::control::{DEFAULT_SOCKET, client::ask_text, protocol::Request};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice metrics
  sluice metrics | grep sluice_packets_total")]
pub(super) struct MetricsArgs {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

pub(super) fn run(args: &MetricsArgs) -> Result<ExitCode> {
    output::text(&ask_text(&args.socket, &Request::Metrics)?)?;
    Ok(ExitCode::SUCCESS)
}
