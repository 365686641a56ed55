// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice allow` and `sluice revoke`.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{
    QueryArgs,
    output::{self, Table, duration},
    values,
};
use crate::control::{
    client::ask,
    protocol::{AllowRequest, AllowStatus, Request, Revoked},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice allow 203.0.113.0/24 --tcp 443 --for 1h --from managed --note \"ticket 4711\"
  sluice allow '*.example.com' --tcp 80,443
  sluice allow --list")]
pub(super) struct AllowArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// A name, a wildcard, an address or a prefix
    #[arg(value_name = "DESTINATION", required_unless_present = "list")]
    to: Option<String>,
    /// TCP ports and ranges, such as 443 or 8000-8080; any: all of them
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    tcp: Vec<String>,
    /// UDP ports and ranges
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    udp: Vec<String>,
    /// Echo requests (ping)
    #[arg(long)]
    icmp: bool,
    /// Other IP protocols by name or number, such as esp
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    proto: Vec<String>,
    /// Only for the clients in these groups of the policy
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    from: Vec<String>,
    /// For how long, such as 30m, 1h or 7d; until it is revoked if left out
    #[arg(long = "for", value_name = "TIME", value_parser = values::time)]
    time: Option<Duration>,
    /// Why, for those who read `sluice rules` later
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Also if the destination is special-purpose, such as private addresses
    #[arg(long)]
    private: bool,
    /// Also if it holds a whole public suffix, or a quarter of all addresses
    #[arg(long)]
    broad: bool,
    /// List what is allowed in this way
    #[arg(long, conflicts_with = "to")]
    list: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice revoke 3
  sluice revoke 3 --json")]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Its number, as `sluice allow` told it and `sluice rules` shows it (allow-3)
    #[arg(value_parser = id)]
    id: u64,
}

pub(super) fn run(args: AllowArgs) -> Result<ExitCode> {
    let Some(to) = args.to else {
        return list(&args.query);
    };
    let request = AllowRequest {
        to,
        from: args.from,
        tcp: args.tcp,
        udp: args.udp,
        icmp: args.icmp,
        proto: args.proto,
        for_s: args.time.map(|time| time.as_secs()),
        note: args.note,
        private: args.private,
        broad: args.broad,
    };
    let allowed: AllowStatus = ask(&args.query.socket, &Request::Allow(request))?;
    if args.query.json {
        output::json(&allowed)?;
    } else {
        let end = match allowed.left_s {
            Some(left) => format!("for {}", duration(left)),
            None => "until it is revoked".to_owned(),
        };
        output::text(&format!(
            "{} is allowed as {}, {end}; `sluice revoke {}` takes it back\n",
            allowed.request.to, allowed.rule, allowed.id
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn revoke(args: &RevokeArgs) -> Result<ExitCode> {
    let revoked: Revoked = ask(&args.query.socket, &Request::Revoke(args.id))?;
    if args.query.json {
        output::json(&revoked)?;
    } else {
        let allow = &revoked.revoked;
        let mut text = format!("{} is no longer allowed as {}\n", allow.request.to, allow.rule);
        if revoked.cut_flows > 0 {
            text.push_str(&format!("cut {} flows\n", revoked.cut_flows));
        }
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(query: &QueryArgs) -> Result<ExitCode> {
    let allows: Vec<AllowStatus> = ask(&query.socket, &Request::Allows)?;
    if query.json {
        output::json(&allows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["RULE", "TO", "FROM", "LEFT", "BY", "SINCE", "NOTE"]);
    for allow in &allows {
        let request = &allow.request;
        table.row(vec![
            allow.rule.clone(),
            request.to.clone(),
            if request.from.is_empty() {
                "every client".to_owned()
            } else {
                request.from.join(",")
            },
            allow.left_s.map_or_else(|| "-".to_owned(), duration),
            allow.by.clone(),
            output::date(allow.since),
            request.note.clone().unwrap_or_default(),
        ]);
    }
    output::text(&table.render())?;
    Ok(ExitCode::SUCCESS)
}

/// `3`, or `allow-3` as it is shown.
fn id(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("allow-").unwrap_or(text);
    number.parse().map_err(|_no_number| "neither a number nor a rule such as allow-3".to_owned())
}
