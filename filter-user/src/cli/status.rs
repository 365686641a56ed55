// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice status`.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;

use super::{
    QueryArgs,
    output::{self, Table, bytes, duration, grouped},
};
use crate::compile::Footprint;
use crate::control::{
    client::ask,
    protocol::{Count, DnsStatus, KernelMemoryStatus, Request, Status, UpstreamStatus},
};

/// Notes of a kind that the screen has room for.
const NOTES: usize = 3;

/// What is counted of questions as a whole, before the reasons.
const TOTALS: [&str; 5] = ["questions", "answered", "cache-hits", "joined", "failed"];

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
    if let Some(pending) = &status.pending {
        text.push_str(&format!(
            "this policy is taken back in {} unless `sluice confirm` follows\n\n",
            duration(pending.left_s)
        ));
    }
    if status.allows > 0 {
        text.push_str(&format!(
            "{} allowed beside the policy; `sluice allow --list` has all\n\n",
            status.allows
        ));
    }
    let mut nics = Table::new(&["NIC", "SIDE", "XDP", "PASSED", "/S", "DROPPED", "/S", "PROGRAM"]);
    for nic in &status.nics {
        nics.row(vec![
            nic.name.clone(),
            nic.side.clone(),
            match nic.gone_for_s {
                Some(seconds) => format!("{} for {}", nic.attached, duration(seconds)),
                None => nic.attached.clone(),
            },
            packets(nic.passed),
            rate(nic.passed_per_s),
            packets(nic.dropped),
            rate(nic.dropped_per_s),
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
    text.push_str(&format!("\n{}", dns(&status.dns)));
    let mut tables = Table::new(&["TABLE", "USED", "CAPACITY"]);
    for table in status.tables.iter().filter(|table| table.used > 0) {
        tables.row(vec![table.name.clone(), grouped(table.used), grouped(table.capacity)]);
    }
    text.push_str(&format!("\n{}", tables.render()));
    let KernelMemoryStatus { fixed_bytes: fixed, prefix_bytes: prefixes } = status.kernel_memory;
    text.push_str(&format!("{}\n", output::footprint(Footprint { fixed, prefixes })));
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

/// Where clients ask, what was counted, and how the resolvers are.
fn dns(dns: &DnsStatus) -> String {
    let mut text = String::new();
    if !dns.listening.is_empty() {
        let listening: Vec<_> = dns.listening.iter().map(ToString::to_string).collect();
        text.push_str(&format!("forwarder: {}\n", listening.join(", ")));
    }
    let totals = TOTALS.iter().filter_map(|name| dns.counters.get_key_value(*name));
    let reasons = dns.counters.iter().filter(|(name, _)| !TOTALS.contains(&name.as_str()));
    let counted: Vec<_> = totals
        .chain(reasons)
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {}", grouped(*count)))
        .collect();
    if !counted.is_empty() {
        text.push_str(&format!("dns: {}\n", counted.join(", ")));
    }
    for upstream in &dns.upstream {
        text.push_str(&format!("resolver {}: {}\n", upstream.resolver, health(upstream)));
    }
    text
}

/// What a resolver did last, and before.
fn health(upstream: &UpstreamStatus) -> String {
    let answered = upstream.answered_s_ago.map(|ago| format!("answered {} ago", duration(ago)));
    let failed = upstream.failed_s_ago.map(|ago| match &upstream.failure {
        Some(why) => format!("failed {} ago ({why})", duration(ago)),
        None => format!("failed {} ago", duration(ago)),
    });
    match (answered, failed) {
        (None, None) => "not asked yet".to_owned(),
        (Some(answered), None) => answered,
        (None, Some(failed)) => format!("{failed}, never answered"),
        (Some(answered), Some(failed)) if upstream.failed_s_ago < upstream.answered_s_ago => {
            format!("{failed}, {answered}")
        }
        (Some(answered), Some(failed)) => format!("{answered}, {failed}"),
    }
}

fn rate(packets: Option<u64>) -> String {
    packets.map_or_else(|| "-".to_owned(), grouped)
}

fn packets(count: Count) -> String {
    format!("{} ({})", grouped(count.packets), bytes(count.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(answered: Option<u64>, failed: Option<u64>) -> UpstreamStatus {
        UpstreamStatus {
            resolver: "192.0.2.53".to_owned(),
            answered_s_ago: answered,
            failed_s_ago: failed,
            failure: failed.map(|_| "no answer in time".to_owned()),
        }
    }

    #[test]
    fn what_a_resolver_did_last_comes_first() {
        for (answered, failed, expected) in [
            (None, None, "not asked yet"),
            (Some(3), None, "answered 3s ago"),
            (None, Some(61), "failed 1m01s ago (no answer in time), never answered"),
            (Some(9), Some(3), "failed 3s ago (no answer in time), answered 9s ago"),
            (Some(3), Some(9), "answered 3s ago, failed 9s ago (no answer in time)"),
            (Some(3), Some(3), "answered 3s ago, failed 3s ago (no answer in time)"),
        ] {
            assert_eq!(health(&upstream(answered, failed)), expected);
        }
    }

    #[test]
    fn totals_come_before_reasons_and_zeros_are_left_out() {
        let counts = [("answered", 2), ("off-chain", 1), ("own", 0), ("questions", 1234)];
        let status = DnsStatus {
            listening: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            upstream: vec![upstream(Some(1), None)],
            counters: counts.map(|(name, count)| (name.to_owned(), count)).into(),
        };
        assert_eq!(
            dns(&status),
            "forwarder: 10.0.0.1, fd00::1\ndns: questions 1,234, answered 2, off-chain 1\n\
             resolver 192.0.2.53: answered 1s ago\n"
        );
        assert_eq!(dns(&DnsStatus::default()), "");
    }
}
