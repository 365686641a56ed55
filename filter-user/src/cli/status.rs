// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice status`.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;

use super::{
    QueryArgs,
    output::{self, Table, bytes, duration, grouped},
};
use crate::control::{
    client::ask,
    protocol::{Count, Request, Status},
};

/// Notes of a kind that the screen has room for.
const NOTES: usize = 3;

pub(super) fn run(args: &QueryArgs) -> Result<ExitCode> {
    let status: Status = ask(&args.socket, &Request::Status)?;
    if args.json {
        output::json(&status)?;
    } else {
        output::text(&describe(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status) -> String {
    let policy = &status.policy;
    let mut text = format!(
        "sluice {}, up {}: policy {} from {}, mode {}{}\n",
        status.version,
        duration(status.uptime_s),
        status.generation,
        status.config,
        status.mode,
        if status.ready { "" } else { ", not ready" }
    );
    text.push_str(&format!(
        "{} rules ({} disabled), {} source groups; {} of {} names have addresses ({} addresses, {} \
         names failing)\n\n",
        policy.rules,
        policy.disabled,
        policy.sources,
        policy.names_with_addresses,
        policy.names,
        policy.addresses,
        policy.names_failing
    ));
    let mut nics = Table::new(&["NIC", "SIDE", "XDP", "PASSED", "DROPPED", "PROGRAM"]);
    for nic in &status.nics {
        nics.row(vec![
            nic.name.clone(),
            nic.side.clone(),
            match nic.gone_for_s {
                Some(seconds) => format!("{} for {}", nic.attached, duration(seconds)),
                None => nic.attached.clone(),
            },
            packets(nic.passed),
            packets(nic.dropped),
            match nic.verified_instructions {
                Some(count) => {
                    format!("{} ({} instructions verified)", nic.program_id, grouped(count.into()))
                }
                None => nic.program_id.to_string(),
            },
        ]);
    }
    text.push_str(&nics.render());
    for (title, counts) in
        [("PASSED", &status.passes), ("DROPPED", &status.drops), ("AUDITED", &status.audited)]
    {
        if !counts.is_empty() {
            text.push_str(&format!("\n{}", by_reason(title, counts)));
        }
    }
    if !status.rejected.is_empty() {
        let counts: Vec<String> = status
            .rejected
            .iter()
            .map(|(what, count)| format!("{} {what}", grouped(count.packets)))
            .collect();
        text.push_str(&format!("\nrejected: {}\n", counts.join(", ")));
    }
    let mut tables = Table::new(&["TABLE", "USED", "CAPACITY"]);
    for table in status.tables.iter().filter(|table| table.used > 0) {
        tables.row(vec![table.name.clone(), grouped(table.used), grouped(table.capacity)]);
    }
    text.push_str(&format!("\n{}", tables.render()));
    let events = status.events;
    if events.skipped + events.lost > 0 {
        text.push_str(&format!(
            "\nsamples of drops: {} left out by sampling, {} lost\n",
            grouped(events.skipped),
            grouped(events.lost)
        ));
    }
    if let Some(error) = &status.config_error {
        text.push_str(&format!("\nthe last reload was refused: {error}\n"));
    }
    for problem in &status.problems {
        text.push_str(&format!("\nproblem: {problem}\n"));
    }
    for (title, lines) in [("not enforced", &status.not_enforced), ("warning", &status.warnings)] {
        if !lines.is_empty() {
            text.push('\n');
        }
        for line in lines.iter().take(NOTES) {
            text.push_str(&format!("{title}: {line}\n"));
        }
        if lines.len() > NOTES {
            text.push_str(&format!(
                "{title}: and {} more; `sluice check` lists them all\n",
                lines.len() - NOTES
            ));
        }
    }
    text
}

fn by_reason(title: &str, counts: &BTreeMap<String, Count>) -> String {
    let mut rows: Vec<(&String, &Count)> = counts.iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.packets));
    let mut table = Table::new(&[title, "PACKETS", "BYTES"]);
    for (reason, count) in rows {
        table.row(vec![reason.clone(), grouped(count.packets), bytes(count.bytes)]);
    }
    table.render()
}

fn packets(count: Count) -> String {
    format!("{} ({})", grouped(count.packets), bytes(count.bytes))
}
