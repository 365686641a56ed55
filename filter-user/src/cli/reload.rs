// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice reload`.

use std::{env, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{QueryArgs, output, progress};
use crate::control::{
    client::ask,
    protocol::{Care, ReloadRequest, Reloaded, Request, Session},
};

/// Where sshd says which connection its user comes by.
const SSH_CONNECTION: &str = "SSH_CONNECTION";

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice reload
  sluice reload --force     also if that cuts this very login")]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Also if the new policy cuts the remote login that this command runs in
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &ReloadArgs) -> Result<ExitCode> {
    let request = Request::Reload(wish(args.force));
    let reloaded: Reloaded =
        progress::show("putting the policy in force", || ask(&args.query.socket, &request))?;
    if args.query.json {
        output::json(&reloaded)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::text(&describe(&reloaded))?;
    Ok(ExitCode::SUCCESS)
}

/// What became of a change of the policy.
pub(super) fn describe(reloaded: &Reloaded) -> String {
    let Reloaded { generation, rules, warnings, not_enforced, cut_flows, kept_flows } = reloaded;
    let mut text = format!("policy {generation} is in force: {rules} rules\n");
    for (count, what) in [(*cut_flows, "cut"), (*kept_flows, "kept")] {
        if count > 0 {
            text.push_str(&format!("{what} {count} flows that the policy allows no more\n"));
        }
    }
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for note in not_enforced {
        text.push_str(&format!("not enforced: {note}\n"));
    }
    text
}

/// A wish for another policy, with the remote login that this command runs in.
pub(super) fn wish(force: bool) -> ReloadRequest {
    let session = env::var(SSH_CONNECTION).ok();
    ReloadRequest {
        session: session.as_deref().and_then(Session::from_ssh),
        care: if force { Care::Forced } else { Care::Careful },
    }
}
