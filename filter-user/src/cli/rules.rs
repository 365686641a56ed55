// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice rules`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    QueryArgs,
    output::{self, Table, bytes, grouped},
};
use crate::control::{
    client::ask,
    protocol::{Request, RuleStatus},
};

pub(super) fn run(args: &QueryArgs) -> Result<ExitCode> {
    let rules: Vec<RuleStatus> = ask(&args.socket, &Request::Rules)?;
    if args.json {
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
            rule.origin.clone(),
        ]);
    }
    output::text(&table.render())?;
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
