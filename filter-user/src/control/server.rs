// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's end of the control socket. It holds no decisions: requests go to the daemon's
//! loop, its replies go back.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Take},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot},
    time::timeout,
};

use super::protocol::{Drop, Reply, Request};

/// The longest request.
const MAX_REQUEST: u64 = 64 * 1024;
/// Clients at a time; further ones wait in the listener's queue.
const MAX_CLIENTS: usize = 64;
/// Clients that follow drops, at a time; further ones are refused.
const MAX_FOLLOWERS: usize = 32;
/// How long a client may take to say what it wants, or to take a line.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request on its way to the daemon's loop, and where the reply line goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// The reply, as a line of JSON.
    pub reply: oneshot::Sender<String>,
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

// === impl Server ===

impl Server {
    /// Listens on `path`, for root only.
    ///
    /// # Errors
    ///
    /// Another daemon listens there, or the path can't be used.
    pub async fn bind(path: &Path) -> Result<Self> {
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                bail!("{} is there and is no socket; name another with --socket", path.display());
            }
            if UnixStream::connect(path).await.is_ok() {
                bail!(
                    "another daemon listens on {}; stop it first, or name another socket with \
                     --socket",
                    path.display()
                );
            }
            // It is what a killed daemon left behind.
            fs::remove_file(path)
                .with_context(|| format!("{} can't be removed", path.display()))?;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("{} can't be made", parent.display()))?;
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("{} can't be listened on", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves clients for ever.
    pub async fn serve(self, calls: mpsc::Sender<Call>, drops: broadcast::Sender<Drop>) {
        let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
        let followers = Arc::new(Semaphore::new(MAX_FOLLOWERS));
        loop {
            let Ok(permit) = clients.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a client of the control socket can't be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let calls = calls.clone();
            let drops = drops.clone();
            let followers = Arc::clone(&followers);
            tokio::spawn(async move {
                if let Err(error) = serve_client(stream, permit, calls, drops, &followers).await {
                    tracing::debug!(%error, "a client of the control socket went away");
                }
            });
        }
    }
}

impl core::ops::Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket can't be removed");
        }
    }
}

async fn serve_client(
    stream: UnixStream,
    permit: OwnedSemaphorePermit,
    calls: mpsc::Sender<Call>,
    drops: broadcast::Sender<Drop>,
    followers: &Semaphore,
) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    let mut line = String::new();
    timeout(PATIENCE, reader.read_line(&mut line)).await.context("no request came")??;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let reply: Reply<()> = Reply::Error(format!("this is no request: {error}"));
            return send(&mut writer, &reply).await;
        }
    };
    if request == Request::Drops {
        // Followers stay long, and must not take the places of those who ask.
        drop(permit);
        let Ok(_place) = followers.try_acquire() else {
            let reply: Reply<()> = Reply::Error(format!(
                "{MAX_FOLLOWERS} clients follow drops already; end one of them first"
            ));
            return send(&mut writer, &reply).await;
        };
        return follow(&mut reader, &mut writer, drops.subscribe()).await;
    }
    let (reply, answer) = oneshot::channel();
    calls.send(Call { request, reply }).await.context("the daemon is ending")?;
    let mut answer = answer.await.context("the daemon is ending")?;
    answer.push('\n');
    timeout(PATIENCE, writer.write_all(answer.as_bytes())).await.context("nobody reads")??;
    Ok(())
}

/// Sends samples until the client goes. A client that reads too slowly misses some.
async fn follow(
    reader: &mut BufReader<Take<OwnedReadHalf>>,
    writer: &mut OwnedWriteHalf,
    mut samples: broadcast::Receiver<Drop>,
) -> Result<()> {
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            sample = samples.recv() => match sample {
                Ok(sample) => send(writer, &Reply::Ok(sample)).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "a reader of drops is too slow");
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            // A client that went away is seen at once, not with the next drop.
            read = reader.read(&mut rest) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

async fn send<T: serde::Serialize>(writer: &mut OwnedWriteHalf, reply: &Reply<T>) -> Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    timeout(PATIENCE, writer.write_all(line.as_bytes())).await.context("nobody reads")??;
    Ok(())
}
