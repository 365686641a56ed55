// SPDX-License-Identifier: MIT OR Apache-2.0
//! The client's end of the control socket.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::protocol::{Reply, Request};

/// The daemon answers within this or not at all; a reload of a large policy is the slowest.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks the daemon and returns its answer.
///
/// # Errors
///
/// No daemon listens, or it says why there is no answer.
pub fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T> {
    let mut lines = connect(socket, request)?;
    lines.get_ref().set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    lines.read_line(&mut line).context("the daemon doesn't answer")?;
    parse(&line)
}

/// Asks the daemon for samples, and hands each to `each` until it says that it has enough or the
/// daemon ends.
///
/// # Errors
///
/// No daemon listens, or it refuses.
pub fn follow<T: DeserializeOwned>(
    socket: &Path,
    request: &Request,
    mut each: impl FnMut(T) -> Result<Follow>,
) -> Result<()> {
    for line in connect(socket, request)?.lines() {
        match each(parse(&line.context("the connection to the daemon broke")?)?)? {
            Follow::On => {}
            Follow::Enough => return Ok(()),
        }
    }
    bail!("the daemon ended")
}

/// Whether more is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Yes.
    On,
    /// No.
    Enough,
}

fn connect(socket: &Path, request: &Request) -> Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        let path = socket.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow::anyhow!(
                "no daemon listens on {path}; start it with `sluice run`, or name its socket with \
                 --socket"
            ),
            ErrorKind::PermissionDenied => {
                anyhow::anyhow!("{path} may not be opened by this user; try again as root")
            }
            _ => anyhow::anyhow!("{path} can't be opened: {error}"),
        }
    })?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("the daemon doesn't take the request")?;
    Ok(BufReader::new(stream))
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T> {
    if line.is_empty() {
        bail!("the daemon closed the connection without an answer; its log says why");
    }
    let reply: Reply<T> = serde_json::from_str(line).context(
        "the daemon's answer can't be read; client and daemon are of different versions",
    )?;
    match reply {
        Reply::Ok(answer) => Ok(answer),
        Reply::Error(message) => bail!("{message}"),
    }
}
