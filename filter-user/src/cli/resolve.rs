// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice resolve`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{
    QueryArgs,
    output::{self, Table, duration},
};
use crate::control::{
    client::ask,
    protocol::{Request, ResolveRequest, Resolved},
};

const EXAMPLES: &str = "Examples:
  sluice resolve login.example.com
  sluice resolve login.example.com --json";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ResolveArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// The name to look up, as a client would
    name: String,
}

pub(super) fn run(args: &ResolveArgs) -> Result<ExitCode> {
    let request = Request::Resolve(ResolveRequest { name: args.name.clone() });
    let resolved: Resolved = ask(&args.query.socket, &request)?;
    // What was asked holds where there is an address that clients could reach.
    let learns = resolved.addresses.iter().any(|address| address.allowed_s.is_some());
    let code = if learns { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.query.json {
        output::json(&resolved)?;
        return Ok(code);
    }
    let mut text = String::new();
    match &resolved.failure {
        Some(failure) => text.push_str(&format!("{}: {failure}\n", resolved.name)),
        None => {
            let way = resolved.chain.iter().map(|alias| format!(" -> {alias}")).collect::<String>();
            let resolver =
                resolved.resolver.map_or_else(String::new, |resolver| format!(", by {resolver}"));
            text.push_str(&format!("{}{way}{resolver}\n", resolved.name));
        }
    }
    if let Some(why) = &resolved.incomplete {
        text.push_str(&format!("one address family is missing: {why}\n"));
    }
    if resolved.rules.is_empty() {
        text.push_str("no rule covers the name: clients are refused, and nothing is learned\n");
    }
    for rule in &resolved.rules {
        text.push_str(&format!("covered by {} ({})\n", rule.rule, rule.origin));
    }
    if !resolved.addresses.is_empty() {
        let mut table = Table::new(&["ADDRESS", "TTL", "LEARNED"]);
        for address in &resolved.addresses {
            let learned = match (address.allowed_s, &address.refused) {
                (Some(seconds), _) => format!("yes, for {}", duration(seconds)),
                (None, Some(why)) => format!("no: {why}"),
                (None, None) => "no".to_owned(),
            };
            let ttl = duration(address.ttl_s.into());
            table.row(vec![address.address.to_string(), ttl, learned]);
        }
        text.push_str(&table.render());
    }
    output::text(&text)?;
    Ok(code)
}
