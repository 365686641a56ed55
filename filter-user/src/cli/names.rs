// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice names`.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    QueryArgs,
    output::{self, Table, duration},
};
use crate::control::{client::ask, protocol::Request};

#[derive(Args, Debug)]
pub(super) struct NamesArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Only names that contain this text
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
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    addresses: Vec<Address>,
    resolver: Option<IpAddr>,
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
    let mut report: Report = ask(&args.query.socket, &Request::Names)?;
    if let Some(pattern) = &args.pattern {
        let pattern = pattern.to_ascii_lowercase();
        report.names.retain(|name| name.name.contains(&pattern));
    }
    if args.query.json {
        output::json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAME", "STATE", "ADDRESS", "TTL", "ALLOWED FOR", "RESOLVER"]);
    for name in &report.names {
        let state = match &name.why {
            Some(why) => format!("{}: {why}", name.state),
            None => name.state.clone(),
        };
        let resolver = name.resolver.map_or_else(String::new, |resolver| resolver.to_string());
        if name.addresses.is_empty() {
            let dash = || "-".to_owned();
            table.row(vec![name.name.clone(), state.clone(), dash(), dash(), dash(), resolver]);
            continue;
        }
        for (index, address) in name.addresses.iter().enumerate() {
            let first = |text: &str| if index == 0 { text.to_owned() } else { String::new() };
            table.row(vec![
                first(&name.name),
                first(&state),
                address.address.to_string(),
                duration(address.ttl_s),
                duration(address.allowed_s),
                first(&resolver),
            ]);
        }
    }
    output::text(&table.render())?;
    Ok(ExitCode::SUCCESS)
}
