// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice detach`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{PinArgs, output};
use crate::kernel::{PinDirectory, barrier, offload, pins::NicPins, redirect};

const EXAMPLES: &str = "Examples:
  sluice detach
  sluice detach --pin-dir /sys/fs/bpf/sluice --json";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
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
    /// NICs that could take VLAN tags off and don't, since the filter has to see them.
    rxvlan_off: Vec<String>,
}

pub(super) fn run(args: &DetachArgs) -> Result<ExitCode> {
    let Some(pins) = PinDirectory::open(&args.pins.pin_dir)? else {
        redirect::remove()?;
        barrier::lift()?;
        if args.json {
            output::json(&Detached { nics: Vec::new(), rxvlan_off: Vec::new() })?;
        } else {
            output::text(&format!(
                "nothing is pinned in {}; nothing to take off\n",
                args.pins.pin_dir.display()
            ))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let pinned = pins.nics()?;
    let nics: Vec<String> = pinned.iter().map(|nic| nic.name.to_string()).collect();
    // A NIC that went away, or whose driver can't be asked, has nothing to be told of.
    let is_off = |nic: &&NicPins| offload::is_switched_off(&nic.name).unwrap_or(false);
    let rxvlan_off: Vec<String> =
        pinned.iter().filter(is_off).map(|nic| nic.name.to_string()).collect();
    // Also where that fails, everything else is taken off.
    let (redirected, lifted) = (redirect::remove(), barrier::lift());
    pins.remove_all()?;
    redirected?;
    lifted?;
    if args.json {
        output::json(&Detached { nics, rxvlan_off })?;
    } else {
        let mut text = format!("taken off {}: packets are no longer filtered\n", nics.join(", "));
        for nic in rxvlan_off {
            text.push_str(&format!(
                "{nic} leaves VLAN tags in its frames; if it took them off before Sluice, \
                 `ethtool -K {nic} rxvlan on` brings that back\n"
            ));
        }
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
