// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice apply`, `sluice confirm` and `sluice rollback`.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{
    QueryArgs, diff,
    output::{self, Table},
    progress,
    reload::{self, wish},
    values,
};
use crate::{
    control::{
        client::ask,
        protocol::{
            Applied, ApplyRequest, Confirmed, Files, PolicyRecord, Preview, Request,
            RollbackRequest,
        },
    },
    policy::load::{GATEWAY_FILE, MAX_FILE, POLICY_FOLDER, policy_files},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice apply /etc/sluice.new --preview              what it would change, and nothing else
  sluice apply /etc/sluice.new --confirm-within 60s   taken back unless `sluice confirm` follows
  sluice apply /etc/sluice --yes                      without a question")]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// The directory that holds gateway.toml and policy.d/
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Only show what would change
    #[arg(long, conflicts_with_all = ["confirm_within", "yes"])]
    preview: bool,
    /// Take it back after this time (5s to 1h) unless `sluice confirm` follows; the filter itself keeps
    /// the time
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    confirm_within: Option<Duration>,
    /// Don't ask before it is put in force
    #[arg(long)]
    yes: bool,
    /// Also if the new policy cuts the remote login that this command runs in
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice confirm
  sluice confirm --json")]
pub(super) struct ConfirmArgs {
    #[command(flatten)]
    query: QueryArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice rollback            to the policy before
  sluice rollback 12
  sluice rollback --list")]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// The number of the policy in the history; the one before if left out
    number: Option<u64>,
    /// List the policies that can be gone back to
    #[arg(long, conflicts_with = "number")]
    list: bool,
    /// Also if that policy cuts the remote login that this command runs in
    #[arg(long)]
    force: bool,
}

/// What takes long where there are many prefixes.
const IN_FORCE: &str = "putting the policy in force";

pub(super) fn run(args: &ApplyArgs) -> Result<ExitCode> {
    let policy = read(&args.directory)?;
    let socket = &args.query.socket;
    let asks = !args.yes && io::stdin().is_terminal() && io::stdout().is_terminal();
    if args.preview || asks {
        let question = Request::Preview(policy.clone());
        let preview: Preview =
            progress::show("comparing with the policy in force", || ask(socket, &question))?;
        if args.query.json && args.preview {
            output::json(&preview)?;
            return Ok(ExitCode::SUCCESS);
        }
        output::text(&describe(&preview))?;
        if args.preview {
            return Ok(ExitCode::SUCCESS);
        }
        if !agreed()? {
            output::text("nothing was changed\n")?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let confirm_within_s = args.confirm_within.map(seconds);
    let request = ApplyRequest { policy, confirm_within_s, reload: wish(args.force) };
    let request = Request::Apply(request);
    let applied: Applied = progress::show(IN_FORCE, || ask(socket, &request))?;
    tell(&args.query, &applied)
}

pub(super) fn confirm(args: &ConfirmArgs) -> Result<ExitCode> {
    let confirmed: Confirmed = ask(&args.query.socket, &Request::Confirm)?;
    if args.query.json {
        output::json(&confirmed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("policy {} stays in force\n", confirmed.generation);
    if confirmed.cut_flows > 0 {
        text.push_str(&format!("cut {} flows that it allows no more\n", confirmed.cut_flows));
    }
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rollback(args: &RollbackArgs) -> Result<ExitCode> {
    if args.list {
        return list(&args.query);
    }
    let request = RollbackRequest { to: args.number, reload: wish(args.force) };
    let request = Request::Rollback(request);
    let applied: Applied = progress::show(IN_FORCE, || ask(&args.query.socket, &request))?;
    tell(&args.query, &applied)
}

fn list(query: &QueryArgs) -> Result<ExitCode> {
    let records: Vec<PolicyRecord> = ask(&query.socket, &Request::Policies)?;
    if query.json {
        output::json(&records)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["POLICY", "SINCE", "HOW", "BY", "RULES", "FROM"]);
    for record in &records {
        let mark = if record.in_force { " (in force)" } else { "" };
        table.row(vec![
            format!("{}{mark}", record.policy),
            output::date(record.since),
            record.how.clone(),
            record.by.clone(),
            record.rules.to_string(),
            record.from.clone(),
        ]);
    }
    output::text(&table.render())?;
    Ok(ExitCode::SUCCESS)
}

fn tell(query: &QueryArgs, applied: &Applied) -> Result<ExitCode> {
    if query.json {
        output::json(applied)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = reload::describe(&applied.reloaded);
    if let Some(seconds) = applied.confirm_within_s {
        text.push_str(&format!(
            "it is taken back in {} unless `sluice confirm` follows\n",
            output::duration(seconds.into())
        ));
    }
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The files of a configuration directory.
fn read(directory: &Path) -> Result<Files> {
    let mut files = BTreeMap::new();
    let mut take = |name: String| -> Result<()> {
        let path = directory.join(&name);
        let found = fs::metadata(&path).with_context(|| path.display().to_string())?;
        if !found.is_file() || found.len() > MAX_FILE {
            bail!("{} is no file of at most {} MiB", path.display(), MAX_FILE >> 20);
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        files.insert(name, text);
        Ok(())
    };
    take(GATEWAY_FILE.to_owned())?;
    let folder = directory.join(POLICY_FOLDER);
    let names = policy_files(&folder).with_context(|| folder.display().to_string())?;
    for name in names {
        let Some(name) = name.to_str() else {
            bail!("{} is no text", folder.join(&name).display())
        };
        take(format!("{POLICY_FOLDER}/{name}"))?;
    }
    let from = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    Ok(Files { files, from: from.display().to_string() })
}

fn describe(preview: &Preview) -> String {
    let mut text = String::from("OLD is the policy in force, NEW this one.\n\n");
    text.push_str(&diff::render(&preview.difference));
    if !preview.settings.is_empty() {
        text.push_str(&format!("\nalso different: {}\n", preview.settings.join(", ")));
    }
    if preview.cut_flows > 0 {
        text.push_str(&format!("\n{} open flows would be cut:\n", preview.cut_flows));
        for flow in &preview.flows {
            text.push_str(&format!("  {flow}\n"));
        }
        let more = preview.cut_flows.saturating_sub(preview.flows.len());
        if more > 0 {
            text.push_str(&format!("  and {more} more\n"));
        }
    }
    for warning in &preview.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn agreed() -> Result<bool> {
    print!("\nput it in force? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
