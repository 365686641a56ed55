// SPDX-License-Identifier: MIT OR Apache-2.0
//! The client's end of the control socket.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, runtime, time::timeout};

use super::{
    api::{JSON, send},
    protocol::{ErrorReply, Request},
};

/// The daemon answers within this or not at all; a reload of a large policy is the slowest.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a follower is asked whether it has enough.
const TICK: Duration = Duration::from_millis(200);

/// Asks the daemon and returns its answer.
///
/// # Errors
///
/// No daemon listens, or it says why there is no answer.
pub fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T> {
    let text = ask_text(socket, request)?;
    parse(text.as_bytes())
}

/// As [`ask`], for an answer that isn't JSON, or is passed on as it is.
///
/// # Errors
///
/// As [`ask`].
pub fn ask_text(socket: &Path, request: &Request) -> Result<String> {
    wait(async {
        let response = connect(socket, request).await?;
        let body = response.into_body().collect();
        let body = timeout(PATIENCE, body).await.context(NO_ANSWER)?.context(NO_ANSWER)?;
        String::from_utf8(body.to_bytes().to_vec()).context(OTHER_VERSION)
    })
}

/// Asks the daemon for samples, and hands each to `each` until it says that it has enough or the
/// daemon ends. Where none comes, it is asked every now and then without one.
///
/// # Errors
///
/// No daemon listens, or it refuses.
pub fn follow<T: DeserializeOwned>(
    socket: &Path,
    request: &Request,
    mut each: impl FnMut(Option<T>) -> Result<Follow>,
) -> Result<()> {
    wait(async {
        let mut body = connect(socket, request).await?.into_body();
        let mut rest: Vec<u8> = Vec::new();
        loop {
            let frame = match timeout(TICK, body.frame()).await {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_nothing_came) => match each(None)? {
                    Follow::On => continue,
                    Follow::Enough => return Ok(()),
                },
            };
            let frame = frame.context("the connection to the daemon broke")?;
            let Ok(data) = frame.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match each(Some(parse(&line)?))? {
                    Follow::On => {}
                    Follow::Enough => return Ok(()),
                }
            }
        }
        bail!("the daemon ended")
    })
}

/// Whether more is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Yes.
    On,
    /// No.
    Enough,
}

const NO_ANSWER: &str = "the daemon doesn't answer; its log may say why";
const OTHER_VERSION: &str =
    "the daemon's answer can't be read; client and daemon are of different versions";

/// Runs one exchange; nothing else of a client waits for anything.
fn wait<T>(exchange: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(exchange)
}

/// Sends a request, and gives the answer's head once that is an answer.
async fn connect(socket: &Path, request: &Request) -> Result<Response<Incoming>> {
    let path = socket.display();
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
            "no daemon listens on {path}; start it with `sluice run`, or name its socket with \
             --socket"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "{path} may not be opened by this user; root may, and the members of the group `sluice`"
        ),
        ErrorKind::WouldBlock => anyhow!("too many clients wait at {path}; try again later"),
        _ => anyhow!("{path} can't be opened: {error}"),
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let sent = send(request)?;
    let body = Full::new(Bytes::from(sent.body.unwrap_or_default()));
    let request = hyper::Request::builder()
        .method(sent.method.name())
        .uri(sent.path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, JSON)
        .body(body)?;
    let answered = timeout(PATIENCE, sender.send_request(request)).await.context(NO_ANSWER)?;
    let response = answered.context(NO_ANSWER)?;
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let status = response.status();
    let body = timeout(PATIENCE, response.into_body().collect()).await.context(NO_ANSWER)??;
    match serde_json::from_slice::<ErrorReply>(&body.to_bytes()) {
        Ok(reply) => bail!("{}", reply.error),
        Err(_no_reason) => bail!("{OTHER_VERSION}: HTTP status {status}"),
    }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).context(OTHER_VERSION)
}
