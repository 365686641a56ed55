// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice lockdown`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use tracing::Level;

use super::{ConfigArgs, PinArgs, log, output};
use crate::{
    daemon::{
        lockdown::{Locked, SWITCHED_OFF, lock_down},
        privileges,
    },
    kernel::barrier::Barrier,
    policy::NicName,
};

const EXAMPLES: &str = "Examples:
  sluice lockdown
  sluice lockdown --config /etc/sluice --json";

/// Deny everything until the first policy is in force; for the boot.
///
/// It is for the boot, by sluice-lockdown.service, before any NIC has an address. The NICs of gateway.toml
/// that are there deny everything but the management guard and what every link needs (ARP, neighbour
/// discovery, DHCP). Where one is not there yet, or gateway.toml is broken, nothing is forwarded at all.
/// `sluice run` ends it without a gap. Where a policy is in force already, nothing is changed.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct LockdownArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pins: PinArgs,
    /// Print JSON with stable field names
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Answer {
    /// `in-force`, `audit`, `filtered` or `barred`.
    state: &'static str,
    /// The NICs that deny by themselves.
    filtered: Vec<String>,
    /// The NICs that are not there.
    missing: Vec<String>,
}

pub(super) fn run(args: &LockdownArgs) -> Result<ExitCode> {
    log::begin(Level::INFO);
    privileges::give_up()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the kernel can't be asked for NICs")?;
    let locked = runtime.block_on(lock_down(&args.config.config, &args.pins.pin_dir))?;
    if args.json {
        output::json(&Answer::from(&locked))?;
    } else {
        output::text(&text(&locked))?;
    }
    // What somebody has to mend is no success, so that the unit is seen to have failed.
    Ok(match locked {
        Locked::Barred { barrier: Barrier::Switches, .. } => ExitCode::FAILURE,
        Locked::InForce | Locked::Audit | Locked::Filtered(_) | Locked::Barred { .. } => {
            ExitCode::SUCCESS
        }
    })
}

fn names(nics: &[NicName]) -> Vec<String> {
    nics.iter().map(ToString::to_string).collect()
}

fn text(locked: &Locked) -> String {
    match locked {
        Locked::InForce => {
            "a policy is in force already, or about to be; nothing is changed\n".to_owned()
        }
        Locked::Audit => "mode = \"audit\" denies nothing, and so nothing is locked\n".to_owned(),
        Locked::Filtered(nics) => format!(
            "{}: everything is denied but the management guard, until `sluice run` is ready\n",
            names(nics).join(", ")
        ),
        Locked::Barred { missing, barrier, .. } => {
            let how = match barrier {
                Barrier::Table => "nothing is forwarded until `sluice run` is ready",
                Barrier::Switches => SWITCHED_OFF,
            };
            format!("{} not there yet; {how}\n", names(missing).join(", "))
        }
    }
}

// === impl Answer ===

impl From<&Locked> for Answer {
    fn from(locked: &Locked) -> Self {
        let none: &[NicName] = &[];
        let (state, filtered, missing) = match locked {
            Locked::InForce => ("in-force", none, none),
            Locked::Audit => ("audit", none, none),
            Locked::Filtered(nics) => ("filtered", nics.as_slice(), none),
            Locked::Barred { filtered, missing, .. } => {
                ("barred", filtered.as_slice(), missing.as_slice())
            }
        };
        Self { state, filtered: names(filtered), missing: names(missing) }
    }
}
