// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice check`.

use std::{num::NonZero, process::ExitCode, thread};

use anyhow::Result;
use clap::Args;
use filter_common::wire::NO_PORTS;
use serde::Serialize;

use super::{ConfigArgs, output, progress};
use crate::{
    compile::{CounterLedger, Footprint, Host, HostNic, compile},
    names::Snapshot,
    policy::{
        Destination, NamePattern, Policy,
        load::{Diagnostic, Kind, Loaded, load, not_enforced, summed_up},
    },
};

const EXAMPLES: &str = "Examples:
  sluice check
  sluice check --config ./etc --json";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON with stable field names
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Checked {
    ok: bool,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    // As they are shown to people.
    #[serde(skip)]
    warning_lines: Vec<String>,
    #[serde(skip)]
    not_enforced_lines: Vec<String>,
    not_enforced: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
}

#[derive(Debug, Serialize)]
struct Finding {
    kind: Kind,
    origin: Option<String>,
    message: String,
    help: String,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    rules: usize,
    disabled: usize,
    sources: usize,
    inbound: usize,
    exact_names: usize,
    wildcards: usize,
    ipv4_prefixes: usize,
    ipv6_prefixes: usize,
    grants: usize,
    port_sets: usize,
    /// Bytes of the kernel's memory: what the tables take whatever the policy is, and what its
    /// prefixes take in one of the two slots.
    kernel_fixed_bytes: u64,
    kernel_prefix_bytes: u64,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let checked = progress::show("checking", || check(args));
    if args.json {
        output::json(&checked)?;
    } else {
        output::text(&describe(&checked))?;
    }
    Ok(if checked.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(args: &CheckArgs) -> Checked {
    let Loaded { policy, warnings } = match load(&args.config.config) {
        Ok(loaded) => loaded,
        Err(errors) => {
            let errors = errors.diagnostics().iter().map(Finding::from).collect();
            return Checked { errors, ..Checked::default() };
        }
    };
    let not_enforced = not_enforced(&policy);
    let mut checked = Checked {
        ok: true,
        warnings: warnings.iter().map(Finding::from).collect(),
        warning_lines: summed_up(&warnings),
        not_enforced: not_enforced.iter().map(Finding::from).collect(),
        not_enforced_lines: summed_up(&not_enforced),
        ..Checked::default()
    };
    let mut counts = counts(&policy);
    match compile(&policy, &Snapshot::default(), &host(&policy), &mut CounterLedger::default()) {
        Ok(compiled) => {
            counts.grants = compiled.tables.grant_rows().len();
            let cells = compiled.tables.cells.filled_runs();
            let rows = cells.map(|(_, port_set)| port_set).filter(|row| *row != NO_PORTS);
            counts.port_sets = rows.collect::<std::collections::BTreeSet<_>>().len();
            let cpus = thread::available_parallelism().map_or(1, NonZero::get);
            let sizes = policy.gateway.sizes;
            let fixed = Footprint::fixed(sizes, u32::try_from(cpus).unwrap_or(u32::MAX));
            let footprint = fixed.with_policy(&compiled);
            counts.kernel_fixed_bytes = footprint.fixed;
            counts.kernel_prefix_bytes = footprint.prefixes;
        }
        Err(error) => {
            checked.ok = false;
            checked.errors.push(Finding {
                kind: Kind::Invalid,
                origin: Some(policy.gateway.origin.to_string()),
                message: error.to_string(),
                help: "make the policy smaller".to_owned(),
            });
        }
    }
    checked.counts = Some(counts);
    checked
}

/// The host is not looked at: every source is taken for plausible.
pub(super) fn host(policy: &Policy) -> Host {
    let everything = ["0.0.0.0/0", "::/0"];
    let plausible: Vec<_> = everything.iter().filter_map(|prefix| prefix.parse().ok()).collect();
    let nics = policy.gateway.nics().zip(0..).map(|((name, side), slot)| HostNic {
        slot,
        name: name.clone(),
        side,
        plausible: plausible.clone(),
        elsewhere: Vec::new(),
    });
    Host { nics: nics.collect(), ..Host::default() }
}

fn counts(policy: &Policy) -> Counts {
    let mut prefixes = std::collections::BTreeSet::new();
    let mut wildcards = std::collections::BTreeSet::new();
    for rule in policy.enabled_rules() {
        for (destination, _) in &rule.to {
            match destination {
                Destination::Prefix(prefix) => {
                    prefixes.insert(prefix);
                }
                Destination::Name(NamePattern::Wildcard(pattern)) => {
                    wildcards.insert(pattern);
                }
                Destination::Name(NamePattern::Exact(_)) | Destination::SelfAddresses => {}
            }
        }
    }
    let ipv4_prefixes = prefixes.iter().filter(|prefix| prefix.addr().is_ipv4()).count();
    let rules = policy.enabled_rules().count();
    Counts {
        rules,
        disabled: policy.rules.len() - rules,
        sources: policy.sources.len(),
        inbound: policy.inbound.len(),
        exact_names: policy.exact_names().len(),
        wildcards: wildcards.len(),
        ipv4_prefixes,
        ipv6_prefixes: prefixes.len() - ipv4_prefixes,
        grants: 0,
        port_sets: 0,
        kernel_fixed_bytes: 0,
        kernel_prefix_bytes: 0,
    }
}

fn describe(checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.errors {
        let origin = finding.origin.as_ref().map_or_else(String::new, |at| format!("{at}: "));
        text.push_str(&format!("error: {origin}{}; {}\n", finding.message, finding.help));
    }
    for (title, lines) in
        [("warning", &checked.warning_lines), ("not enforced", &checked.not_enforced_lines)]
    {
        for line in lines {
            text.push_str(&format!("{title}: {line}\n"));
        }
    }
    if let Some(counts) = checked.counts {
        text.push_str(&format!(
            "{} rules ({} disabled), {} source groups, {} inbound services; {} names, {} wildcards, \
             {} IPv4 and {} IPv6 prefixes; compiled to {} grants and {} port sets\n",
            counts.rules,
            counts.disabled,
            counts.sources,
            counts.inbound,
            counts.exact_names,
            counts.wildcards,
            counts.ipv4_prefixes,
            counts.ipv6_prefixes,
            counts.grants,
            counts.port_sets
        ));
        if checked.ok {
            let footprint = Footprint {
                fixed: counts.kernel_fixed_bytes,
                prefixes: counts.kernel_prefix_bytes,
            };
            text.push_str(&format!("{}\n", output::footprint(footprint)));
        }
    }
    let errors = checked.errors.len();
    text.push_str(&match (errors, checked.warnings.len()) {
        (0, 0) => "ok\n".to_owned(),
        (0, 1) => "ok, with 1 warning\n".to_owned(),
        (0, warnings) => format!("ok, with {warnings} warnings\n"),
        (1, _) => "1 error: this configuration would be refused\n".to_owned(),
        (errors, _) => format!("{errors} errors: this configuration would be refused\n"),
    });
    text
}

impl From<&Diagnostic> for Finding {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            kind: diagnostic.kind,
            origin: diagnostic.origin.as_ref().map(ToString::to_string),
            message: diagnostic.message.clone(),
            help: diagnostic.help.clone(),
        }
    }
}
