// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice rules`.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{
    QueryArgs,
    output::{self, Table, bytes, duration, grouped},
    values,
};
use crate::control::{
    client::ask,
    protocol::{Request, RuleStatus, RuleUsage, Usage},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice rules
  sluice rules --unused 30d     rules that let nothing pass for that long")]
pub(super) struct RulesArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Only rules that let nothing pass for this long, such as 30d
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    unused: Option<Duration>,
}

pub(super) fn run(args: &RulesArgs) -> Result<ExitCode> {
    if let Some(time) = args.unused {
        return unused(&args.query, time.as_secs());
    }
    let query = &args.query;
    let rules: Vec<RuleStatus> = ask(&query.socket, &Request::Rules)?;
    if query.json {
        output::json(&rules)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["RULE", "FROM", "TO", "ALLOWS", "PACKETS", "BYTES", "WHERE"]);
    for rule in &rules {
        table.row(vec![
            rule.name.clone(),
            if rule.from.is_empty() { "every client".to_owned() } else { rule.from.join(",") },
            destinations(&rule.to),
            if rule.enabled { allows(rule) } else { "disabled".to_owned() },
            grouped(rule.count.packets),
            bytes(rule.count.bytes),
            place(rule),
        ]);
    }
    output::text(&table.render())?;
    Ok(ExitCode::SUCCESS)
}

/// Where a rule stands; of one that was added by a command, who added it, until when and why.
fn place(rule: &RuleStatus) -> String {
    let Some(allow) = &rule.allow else { return rule.origin.clone() };
    let end = allow
        .left_s
        .map_or_else(|| "until revoked".to_owned(), |left| format!("for {} more", duration(left)));
    let note = allow.request.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
    format!("{} at {}, {end}{note}", allow.by, output::date(allow.since))
}

/// Rules that let nothing pass for some seconds. One that was not watched for so long is told apart.
fn unused(query: &QueryArgs, seconds: u64) -> Result<ExitCode> {
    let usage: Usage = ask(&query.socket, &Request::Usage)?;
    let unused: Vec<&RuleUsage> = usage
        .rules
        .iter()
        .filter(|rule| match rule.used_s_ago {
            Some(ago) => ago >= seconds,
            None => rule.watched_s >= seconds,
        })
        .collect();
    if query.json {
        output::json(&unused)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["RULE", "LAST USED", "WATCHED FOR", "WHERE"]);
    for rule in &unused {
        let last = rule.used_s_ago.map(|ago| format!("{} ago", duration(ago)));
        table.row(vec![
            rule.rule.clone(),
            last.unwrap_or_else(|| "never".to_owned()),
            duration(rule.watched_s),
            rule.origin.clone(),
        ]);
    }
    let mut text = table.render();
    let young = usage
        .rules
        .iter()
        .filter(|rule| rule.used_s_ago.is_none() && rule.watched_s < seconds)
        .count();
    if young > 0 {
        text.push_str(&format!("{young} more were never used, but not watched for so long yet\n"));
    }
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn destinations(to: &[String]) -> String {
    match to {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

fn allows(rule: &RuleStatus) -> String {
    let mut parts = Vec::new();
    for (protocol, ports) in [("tcp", &rule.tcp), ("udp", &rule.udp)] {
        if !ports.is_empty() {
            parts.push(format!("{protocol} {ports}"));
        }
    }
    if rule.icmp {
        parts.push("echo".to_owned());
    }
    parts.extend(rule.proto.iter().cloned());
    parts.join(" ")
}
