// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice reload`.

use std::{env, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::{QueryArgs, output};
use crate::control::{
    client::ask,
    protocol::{Care, ReloadRequest, Reloaded, Request, Session},
};

/// Where sshd says which connection its user comes by.
const SSH_CONNECTION: &str = "SSH_CONNECTION";

const EXAMPLES: &str = "Examples:
  sluice reload
  sluice reload --force                          also if it cuts the SSH session that it is asked from";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// Also if the new policy cuts the remote login that this command runs in
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &ReloadArgs) -> Result<ExitCode> {
    let session = env::var(SSH_CONNECTION).ok();
    let request = ReloadRequest {
        session: session.as_deref().and_then(Session::from_ssh),
        care: if args.force { Care::Forced } else { Care::Careful },
    };
    let reloaded: Reloaded = ask(&args.query.socket, &Request::Reload(request))?;
    if args.query.json {
        output::json(&reloaded)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text =
        format!("policy {} is in force: {} rules\n", reloaded.generation, reloaded.rules);
    for (count, what) in [(reloaded.cut_flows, "cut"), (reloaded.kept_flows, "kept")] {
        if count > 0 {
            text.push_str(&format!("{what} {count} flows that the policy allows no more\n"));
        }
    }
    for warning in &reloaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for note in &reloaded.not_enforced {
        text.push_str(&format!("not enforced: {note}\n"));
    }
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}
