// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line. One file per command; each returns its exit status.

mod allow;
mod apply;
mod check;
mod completions;
mod detach;
mod diff;
mod drops;
#[cfg(test)]
mod examples;
mod explain;
mod flows;
mod import;
mod lockdown;
mod log;
mod man;
mod metrics;
mod names;
mod output;
mod progress;
mod reload;
mod resolve;
mod rules;
mod run;
mod status;
mod values;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{control::DEFAULT_SOCKET, kernel::pins::DEFAULT_PIN_DIRECTORY};

/// Where the configuration is unless the command line says otherwise.
const DEFAULT_CONFIG: &str = "/etc/sluice";

const EXAMPLES: &str = "Examples:
  sluice check                    every error of the configuration, with file and line
  sluice run                      puts the policy in force and keeps it current
  sluice status
  sluice explain --from 10.0.10.7 --to 203.0.113.9 --tcp 443
  sluice help explain";

const STATUS_EXAMPLES: &str = "Examples:
  sluice status
  sluice status --json | jq .drops";

/// An FQDN-aware egress filter for Linux gateways.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the policy in force and keep it current, until stopped
    Run(run::RunArgs),
    /// Check a configuration: no privileges, no network, nothing is changed
    Check(check::CheckArgs),
    /// Turn vendors' pages and feeds into a policy file
    Import(import::ImportArgs),
    /// What differs between two pages, feeds or policies
    Diff(diff::DiffArgs),
    /// One screen about what is in force
    #[command(after_help = STATUS_EXAMPLES)]
    Status(QueryArgs),
    /// The rules, and what each let through
    Rules(rules::RulesArgs),
    /// The names of the policy, and the addresses they have
    Names(names::NamesArgs),
    /// Look a name up now, and tell what would be learned and what not
    Resolve(resolve::ResolveArgs),
    /// Follow dropped packets (a sample; counters are exact)
    Drops(drops::DropsArgs),
    /// What would happen to a packet, and why
    Explain(explain::ExplainArgs),
    /// The flows that go through the gateway, and cutting them
    Flows(flows::FlowsArgs),
    /// Read the configuration again
    Reload(reload::ReloadArgs),
    /// Put the policy of a directory in force, for good or until it is confirmed
    Apply(apply::ApplyArgs),
    /// Keep a policy that waits to be confirmed
    Confirm(apply::ConfirmArgs),
    /// Go back to an earlier policy
    Rollback(apply::RollbackArgs),
    /// Allow something beside the policy, for some time or until it is revoked
    Allow(allow::AllowArgs),
    /// Take back what was allowed beside the policy
    Revoke(allow::RevokeArgs),
    /// Everything that is counted, as OpenMetrics
    Metrics(metrics::MetricsArgs),
    /// Take the filter off every NIC and remove its pins
    Detach(detach::DetachArgs),
    /// Deny everything until the first policy is in force; for the boot
    Lockdown(lockdown::LockdownArgs),
    /// Print what completes commands in a shell
    Completions(completions::CompletionsArgs),
    /// Write the pages of the manual
    Man(man::ManArgs),
}

/// What every command takes that asks the daemon.
#[derive(Args, Clone, Debug)]
struct QueryArgs {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON with stable field names
    #[arg(long)]
    json: bool,
}

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
struct ConfigArgs {
    /// The directory that holds gateway.toml and policy.d/
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Where the pins are.
#[derive(Args, Clone, Debug)]
struct PinArgs {
    /// The directory of pins, in the host's bpffs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIRECTORY)]
    pin_dir: PathBuf,
}

/// The command line as clap knows it.
fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs the command. Errors go to the standard error output as a
/// paragraph; the exit status is 1 for what does not hold or can't be done, and 2 for wrong use.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Import(args) => import::run(args),
        Command::Diff(args) => diff::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Rules(args) => rules::run(&args),
        Command::Names(args) => names::run(&args),
        Command::Resolve(args) => resolve::run(&args),
        Command::Drops(args) => drops::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Flows(args) => flows::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Confirm(args) => apply::confirm(&args),
        Command::Rollback(args) => apply::rollback(&args),
        Command::Allow(args) => allow::run(args),
        Command::Revoke(args) => allow::revoke(&args),
        Command::Metrics(args) => metrics::run(&args),
        Command::Detach(args) => detach::run(&args),
        Command::Lockdown(args) => lockdown::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match result {
        Ok(status) => status,
        Err(error) if error.is::<output::OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}
