// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice drops`.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{QueryArgs, output};
use crate::control::{
    client::{Follow, follow},
    protocol::{Drop, Request},
};

const EXAMPLES: &str = "Examples:
  sluice drops
  sluice drops --count 20 --json | jq .destination";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DropsArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// End after this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) fn run(args: &DropsArgs) -> Result<ExitCode> {
    let mut left = args.count;
    if left == Some(0) {
        return Ok(ExitCode::SUCCESS);
    }
    follow(&args.query.socket, &Request::Drops, |drop: Drop| {
        if args.query.json {
            output::text(&format!("{}\n", serde_json::to_string(&drop)?))?;
        } else {
            output::text(&describe(&drop))?;
        }
        left = left.map(|left| left - 1);
        Ok(if left == Some(0) { Follow::Enough } else { Follow::On })
    })?;
    Ok(ExitCode::SUCCESS)
}

fn describe(drop: &Drop) -> String {
    let time = drop.time_ms / 1000;
    let clock = format!(
        "{:02}:{:02}:{:02}.{:03}",
        time / 3600 % 24,
        time / 60 % 60,
        time % 60,
        drop.time_ms % 1000
    );
    let what = match (drop.source, drop.destination, &drop.protocol) {
        (Some(source), Some(destination), Some(protocol)) => format!(
            "{} -> {} {protocol}",
            endpoint(source, drop.source_port),
            endpoint(destination, drop.destination_port)
        ),
        _ => format!("ethertype {}", drop.ethertype),
    };
    let name = drop.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let vlan = if drop.vlan == 0 { String::new() } else { format!(" vlan {}", drop.vlan) };
    let audited = if drop.audited { " (audit: passed)" } else { "" };
    format!("{clock}Z {}{vlan} {what}{name}: {}{audited}\n", drop.nic, drop.reason)
}

fn endpoint(address: IpAddr, port: u16) -> String {
    match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}
