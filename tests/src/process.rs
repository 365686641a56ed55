// SPDX-License-Identifier: MIT OR Apache-2.0
//! Child processes: short ones whose output is wanted, and long ones held by a guard.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::cleanup::{self, Leftover, Ticket};

/// How often the end of a process is looked for.
const POLL: Duration = Duration::from_millis(5);

/// A long-running child in a process group of its own; it is killed when this is dropped.
///
/// The group of its own keeps Ctrl-C away from it, so that the lab ends it in the right order.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    ticket: Option<Ticket>,
}

/// Runs a command to its end and returns what it wrote.
///
/// # Errors
///
/// If it can't be started or fails; the error holds what it wrote to its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever its exit status.
///
/// # Errors
///
/// If it can't be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{}` can't be started", line(command)))
}

/// Waits until something holds, looking every 10 ms.
///
/// # Errors
///
/// Those of `holds`, or that the time is over.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        if Instant::now() >= deadline {
            bail!("{what}: not within {} ms", limit.as_millis());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The command line, for messages.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    words.join(" ")
}

// === impl Process ===

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let what = line(command);
        let (child, ticket) = cleanup::track(|| {
            let child = command
                .stdin(Stdio::null())
                .process_group(0)
                .spawn()
                .with_context(|| format!("`{what}` can't be started"))?;
            let leader = pid(&child)?;
            Ok((child, Leftover::Process(leader)))
        })?;
        Ok(Self { child, what, ticket: Some(ticket) })
    }

    /// Its PID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    ///
    /// If the system can't say.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let status =
            self.child.try_wait().with_context(|| format!("waiting for `{}`", self.what))?;
        if status.is_some() {
            self.ticket = None;
        }
        Ok(status)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it goes on beyond `limit`; it is not ended then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("`{}` still runs after {} ms", self.what, limit.as_millis());
            }
            thread::sleep(POLL);
        }
    }

    /// Sends it a signal; nothing happens if it was waited for already.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ticket.is_none() {
            return Ok(());
        }
        kill(pid(&self.child)?, signal).with_context(|| format!("{signal} to `{}`", self.what))
    }

    /// Asks it to end (SIGTERM), and returns its exit status.
    ///
    /// # Errors
    ///
    /// If it goes on beyond `grace`; it is killed then.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let ended = self.wait(grace);
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        if self.ticket.is_some() {
            // Both fail only if it has ended, which is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.ticket = None;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id()).context("a PID beyond i32")?))
}
