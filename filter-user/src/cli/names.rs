// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice names`.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::{
    QueryArgs,
    output::{self, Table, duration},
};
use crate::control::{
    client::ask,
    pattern::fits_name,
    protocol::{Flushed, Request},
};

const EXAMPLES: &str = "Examples:
  sluice names
  sluice names '*.windows.com'
  sluice names flush login.example.com";

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct NamesArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Only names that contain this text, or with a '*' are wholly like it
    pattern: Option<String>,
    #[command(subcommand)]
    command: Option<NamesCommand>,
}

#[derive(Debug, Subcommand)]
enum NamesCommand {
    /// Forget addresses of names; what rules name is looked up again, the rest with the next question
    Flush(FlushArgs),
}

const FLUSH_EXAMPLES: &str = "Examples:
  sluice names flush                             of every name
  sluice names flush '*.example.com'";

#[derive(Args, Debug)]
#[command(after_help = FLUSH_EXAMPLES)]
struct FlushArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Only of names that contain this text, or with a '*' are wholly like it
    pattern: Option<String>,
}

/// The daemon's report, as far as it is shown; the rest is passed on as it is.
#[derive(Deserialize, Serialize)]
struct Report {
    names: Vec<Name>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize, Serialize)]
struct Name {
    name: String,
    kind: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    addresses: Vec<Address>,
    resolver: Option<IpAddr>,
    chain: Vec<String>,
    hits: u64,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize, Serialize)]
struct Address {
    address: IpAddr,
    ttl_s: u64,
    allowed_s: u64,
}

pub(super) fn run(args: &NamesArgs) -> Result<ExitCode> {
    if let Some(NamesCommand::Flush(args)) = &args.command {
        return flush(args);
    }
    let mut report: Report = ask(&args.query.socket, &Request::Names)?;
    if let Some(pattern) = &args.pattern {
        let pattern = pattern.to_ascii_lowercase();
        report.names.retain(|name| fits_name(&pattern, &name.name));
    }
    if args.query.json {
        output::json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table =
        Table::new(&["NAME", "KIND", "STATE", "ADDRESS", "TTL", "ALLOWED FOR", "HITS", "RESOLVER"]);
    for name in &report.names {
        let state = match &name.why {
            Some(why) => format!("{}: {why}", name.state),
            None => name.state.clone(),
        };
        let resolver = name.resolver.map_or_else(String::new, |resolver| resolver.to_string());
        let first = vec![name.name.clone(), name.kind.clone(), state];
        let last = vec![name.hits.to_string(), resolver];
        let dash = || "-".to_owned();
        let mut addresses = name.addresses.iter().map(|address| {
            vec![address.address.to_string(), duration(address.ttl_s), duration(address.allowed_s)]
        });
        let address = addresses.next().unwrap_or_else(|| vec![dash(), dash(), dash()]);
        table.row([first, address, last].concat());
        for address in addresses {
            let none = |columns| vec![String::new(); columns];
            table.row([none(3), address, none(2)].concat());
        }
        for alias in &name.chain {
            let mut row = vec![format!("  -> {alias}")];
            row.resize(8, String::new());
            table.row(row);
        }
    }
    output::text(&table.render())?;
    Ok(ExitCode::SUCCESS)
}

fn flush(args: &FlushArgs) -> Result<ExitCode> {
    let pattern = args.pattern.as_ref().map(|pattern| pattern.to_ascii_lowercase());
    let flushed: Flushed = ask(&args.query.socket, &Request::Flush { pattern })?;
    if args.query.json {
        output::json(&flushed)?;
    } else {
        let addresses = flushed.addresses;
        output::text(&format!("{addresses} addresses of names are forgotten\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
