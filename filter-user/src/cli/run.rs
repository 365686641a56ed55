// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice run`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use tracing::Level;

use super::{ConfigArgs, PinArgs, log};
use crate::{
    control::{DEFAULT_SOCKET, GROUP},
    daemon::{
        self, Options,
        privileges::{self, Membership, Outcome},
        state::DEFAULT_STATE_DIRECTORY,
    },
};

const EXAMPLES: &str = "Examples:
  sluice run
  sluice run --config ./etc --log-level debug";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pins: PinArgs,
    /// The control socket to listen on
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// The directory for what outlives the daemon: counters' meanings, addresses of names
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIRECTORY)]
    state_dir: PathBuf,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value_t = Level::INFO)]
    log_level: Level,
}

pub(super) fn run(args: RunArgs) -> Result<ExitCode> {
    log::begin(args.log_level);
    // Before there is a second thread, which would keep what this one gives up.
    let Outcome { kept, group } = privileges::give_up()?;
    tracing::info!(capabilities = kept.join(" "), "all other privileges are given up");
    match group {
        Membership::Member => {}
        Membership::None => tracing::info!(
            "only root may ask the daemon: there is no group {GROUP}, or it can't be joined"
        ),
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the event loop can't be started")?;
    runtime.block_on(daemon::run(Options {
        config: args.config.config,
        pins: args.pins.pin_dir,
        socket: args.socket,
        state: args.state_dir,
    }))?;
    Ok(ExitCode::SUCCESS)
}
