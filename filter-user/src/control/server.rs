// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's end of the control socket. It holds no decisions: requests go to the daemon's
//! loop, its replies go back.
//!
//! It is bounded whatever clients do: places for root are kept apart from those for readers, whoever
//! finds none is refused at once, and bodies, headers and patience have limits.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Extension, RawPathParams, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing,
};
use futures_util::stream;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::unistd::{Group, Uid, User};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixSocket, UnixStream, unix::UCred},
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot},
    time::timeout,
};

use super::{
    GROUP,
    api::{Access, Answers, Endpoint, JSON, JSON_LINES, Method, OPEN_METRICS, document, endpoints},
    protocol::{Drop, ErrorReply, Request},
};

/// Connections at a time of those who may change something.
const ROOTS: usize = 64;
/// Connections at a time of those who may only read.
const READERS: usize = 64;
/// Of these, how many may follow drops.
const FOLLOWERS: usize = 32;
/// Connections at a time of collectors of metrics, at each address.
const COLLECTORS: usize = 16;
/// How long a client may take for the head of a request, for its body, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last, but for those who follow drops; a client that wants more makes
/// another one. The daemon may take this long to put a large policy in force.
const LONGEST: Duration = Duration::from_secs(180);
/// The longest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// Connections that wait to be accepted; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: u32 = 1024;

/// A request on its way to the daemon's loop, and where the reply goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub caller: Caller,
    /// Where the reply goes.
    pub reply: oneshot::Sender<Answer>,
}

/// What the daemon's loop answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A value in JSON, or text where the endpoint gives text.
    Given(String),
    /// Why not, and that nothing was changed.
    Refused(String),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What may be done.
    may: May,
    /// For people: the user, and as whom.
    pub name: String,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Read,
    Write,
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// What the routes need.
#[derive(Clone, Debug)]
struct Shared {
    calls: mpsc::Sender<Call>,
    drops: broadcast::Sender<Drop>,
    followers: Arc<Semaphore>,
}

/// A connection's place among the others.
#[derive(Debug)]
struct Place(Mutex<Held>);

#[derive(Debug)]
struct Held {
    /// Given back with the connection.
    permit: Option<OwnedSemaphorePermit>,
    stay: Stay,
    /// Lines that a follower was to be sent.
    lines: u64,
    /// The line that is being written, if one is.
    writing: Option<u64>,
    /// The line that was being written when that was last looked at.
    seen: Option<u64>,
}

/// How long a connection may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    /// It asks, and is answered.
    Client,
    /// It follows drops, as long as it takes what it is sent.
    Follower,
}

// === impl Server ===

impl Server {
    /// Listens on `path`, for root and the members of the group `sluice`, if there is one.
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
        // Who may open it is settled before anybody can.
        let complaint = || format!("{} can't be listened on", path.display());
        let socket = UnixSocket::new_stream().with_context(complaint)?;
        socket.bind(path).with_context(complaint)?;
        give_to_group(path)?;
        let listener = socket.listen(BACKLOG).with_context(complaint)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves clients for ever.
    pub async fn serve(self, calls: mpsc::Sender<Call>, drops: broadcast::Sender<Drop>) {
        let roots = Arc::new(Semaphore::new(ROOTS));
        let readers = Arc::new(Semaphore::new(READERS));
        let followers = Arc::new(Semaphore::new(FOLLOWERS));
        let router = router(Shared { calls, drops, followers }, |_any| true);
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a client of the control socket can't be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let caller = match stream.peer_cred() {
                Ok(credentials) => Caller::of(&credentials),
                Err(error) => {
                    tracing::warn!(%error, "a client of the control socket has no credentials");
                    continue;
                }
            };
            let places = match caller.may {
                May::Write => &roots,
                May::Read => &readers,
            };
            match Arc::clone(places).try_acquire_owned() {
                Ok(place) => {
                    tokio::spawn(serve_client(stream, caller, place, router.clone()));
                }
                Err(_all_taken) => refuse(stream),
            }
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

/// Gives out metrics to whoever may connect to a listener, and nothing else.
pub async fn serve_metrics(listener: TcpListener, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(COLLECTORS));
    // What nobody follows: of the routes there is but one.
    let (drops, _) = broadcast::channel(1);
    let shared = Shared { calls, drops, followers: Arc::new(Semaphore::new(0)) };
    let router = router(shared, |endpoint| matches!(endpoint.answers, Answers::OpenMetrics));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a collector of metrics can't be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let caller = Caller { may: May::Read, name: peer.ip().to_string() };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(serve_client(stream, caller, place, router.clone()));
            }
            // It is closed, and comes again with its next interval.
            Err(_all_taken) => tracing::debug!(%peer, "too many collectors of metrics at a time"),
        }
    }
}

/// Lets root and the group, if there is one, open the socket, and nobody else.
fn give_to_group(path: &Path) -> Result<()> {
    let complaint = || format!("the permissions of {} can't be set", path.display());
    let group = Group::from_name(GROUP).with_context(complaint)?;
    let mode = match &group {
        Some(group) => {
            chown(path, None, Some(group.gid.as_raw())).with_context(complaint)?;
            0o660
        }
        None => 0o600,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(complaint)
}

/// Says that there are too many, without waiting for anything.
fn refuse(stream: UnixStream) {
    let body =
        text(&ErrorReply { error: "too many clients at a time; try again later".to_owned() });
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    // It is short enough for the socket's buffer; a client that has gone already doesn't want it.
    if let Err(error) = stream.try_write(format!("{head}{body}").as_bytes()) {
        tracing::debug!(%error, "a client that was refused went away");
    }
}

async fn serve_client<S>(stream: S, caller: Caller, place: OwnedSemaphorePermit, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = Arc::new(Place::new(place));
    let router = router.layer(Extension(caller)).layer(Extension(Arc::clone(&place)));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let begun = Instant::now();
    let ended = loop {
        match timeout(PATIENCE, connection.as_mut()).await {
            Ok(ended) => break ended,
            Err(_not_yet) if place.may_go_on(begun) => {}
            Err(_too_long) => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the control socket went away");
    }
}

/// Some of the endpoints as routes.
fn router(shared: Shared, wanted: impl Fn(&Endpoint) -> bool) -> Router {
    let mut router = Router::new();
    for endpoint in endpoints().into_iter().filter(wanted) {
        let handler = move |state: State<Shared>, parts: Extension<Caller>, place, id, body| {
            serve(endpoint, state, parts, place, id, body)
        };
        let method = match endpoint.method {
            Method::Get => routing::get(handler),
            Method::Post => routing::post(handler),
            Method::Delete => routing::delete(handler),
        };
        router = router.route(endpoint.path, method);
    }
    router
        .fallback(|| async {
            let error = "there is nothing here; GET /v1/openapi.json says what there is".to_owned();
            refusal(StatusCode::NOT_FOUND, error)
        })
        .method_not_allowed_fallback(|| async {
            let error = "this is used otherwise; GET /v1/openapi.json says how".to_owned();
            refusal(StatusCode::METHOD_NOT_ALLOWED, error)
        })
        .with_state(shared)
}

async fn serve(
    endpoint: Endpoint,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Extension(place): Extension<Arc<Place>>,
    path: RawPathParams,
    body: Body,
) -> Response {
    if endpoint.access == Access::Write && caller.may != May::Write {
        let error = format!("only root may do this, not {}", caller.name);
        return refusal(StatusCode::FORBIDDEN, error);
    }
    let body = match timeout(PATIENCE, read(body, endpoint.limit)).await {
        Ok(Ok(body)) => body,
        Ok(Err(response)) => return response,
        Err(_too_slow) => {
            return refusal(StatusCode::REQUEST_TIMEOUT, "the body didn't come in time".to_owned());
        }
    };
    let id = path.iter().find(|(name, _)| *name == "id").and_then(|(_, id)| id.parse().ok());
    let request = match endpoint.parse(id, &body) {
        Ok(request) => request,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, error.to_string()),
    };
    drop(body);
    let media = match endpoint.answers {
        Answers::Document => return given(JSON, document().to_string()),
        Answers::Lines(_) => return follow(&shared, &place),
        Answers::Json(_) => JSON,
        Answers::OpenMetrics => OPEN_METRICS,
    };
    let ending = || refusal(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending".to_owned());
    let (reply, answer) = oneshot::channel();
    if shared.calls.send(Call { request, caller, reply }).await.is_err() {
        return ending();
    }
    match answer.await {
        Ok(Answer::Given(text)) => given(media, text),
        Ok(Answer::Refused(error)) => refusal(StatusCode::CONFLICT, error),
        Err(_dropped) => ending(),
    }
}

/// A body as far as it may be.
async fn read(body: Body, limit: usize) -> Result<Bytes, Response> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {limit} bytes"),
        )),
        Err(error) => {
            Err(refusal(StatusCode::BAD_REQUEST, format!("the body can't be read: {error}")))
        }
    }
}

/// Sends samples until the client goes. A client that reads too slowly misses some.
fn follow(shared: &Shared, place: &Arc<Place>) -> Response {
    let Ok(among_followers) = Arc::clone(&shared.followers).try_acquire_owned() else {
        let error = format!("{FOLLOWERS} clients follow drops already; end one of them first");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    // Followers stay long, and must not take the places of those who ask.
    place.take(among_followers, Stay::Follower);
    let samples = shared.drops.subscribe();
    let lines = stream::unfold((samples, Arc::clone(place)), |(mut samples, place)| async move {
        loop {
            place.waits();
            let sample = samples.recv().await;
            place.writes();
            match sample {
                Ok(sample) => {
                    let line = format!("{}\n", text(&sample));
                    return Some((Ok::<_, Infallible>(line), (samples, place)));
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "a reader of drops is too slow");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    ([(CONTENT_TYPE, JSON_LINES)], Body::from_stream(lines)).into_response()
}

fn given(media: &'static str, text: String) -> Response {
    ([(CONTENT_TYPE, media)], text).into_response()
}

fn refusal(status: StatusCode, error: String) -> Response {
    (status, [(CONTENT_TYPE, JSON)], text(&ErrorReply { error })).into_response()
}

fn text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        format!("{{\"error\":\"the answer can't be written as JSON: {error}\"}}")
    })
}

// === impl Answer ===

impl Answer {
    /// A value, or why there is none.
    pub fn new<T: serde::Serialize>(result: Result<T>) -> Self {
        match result {
            Ok(answer) => Self::Given(text(&answer)),
            Err(error) => Self::Refused(format!("{error:#}")),
        }
    }
}

// === impl Caller ===

impl Caller {
    /// The process at the other end. Root, and whom the daemon itself runs as, may change things.
    fn of(credentials: &UCred) -> Self {
        let user = Uid::from_raw(credentials.uid());
        let may = if user.is_root() || user == Uid::effective() { May::Write } else { May::Read };
        let own = user_name(user);
        let login = credentials.pid().and_then(login_of).map(user_name);
        let name = match login {
            Some(login) if login != own => format!("{login} as {own}"),
            Some(_) | None => own,
        };
        Self { may, name }
    }

    /// Whoever sent the daemon a signal, or the daemon itself.
    #[must_use]
    pub fn itself() -> Self {
        Self { may: May::Write, name: "the system".to_owned() }
    }
}

/// As whom the user of a process logged in, which becoming root doesn't change (proc(5), `loginuid`).
fn login_of(process: i32) -> Option<Uid> {
    let text = fs::read_to_string(format!("/proc/{process}/loginuid")).ok()?;
    let user: u32 = text.trim().parse().ok()?;
    (user != u32::MAX).then_some(Uid::from_raw(user))
}

fn user_name(user: Uid) -> String {
    match User::from_uid(user) {
        Ok(Some(found)) => found.name,
        Ok(None) | Err(_) => format!("user {user}"),
    }
}

// === impl Place ===

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Mutex::new(Held {
            permit: Some(permit),
            stay: Stay::Client,
            lines: 0,
            writing: None,
            seen: None,
        }))
    }

    /// What is behind the lock is whole after each change, also where a thread ended that held it.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, permit: OwnedSemaphorePermit, stay: Stay) {
        let mut held = self.held();
        held.permit = Some(permit);
        held.stay = stay;
    }

    /// A follower has nothing to write.
    fn waits(&self) {
        self.held().writing = None;
    }

    /// A follower has another line to write.
    fn writes(&self) {
        let mut held = self.held();
        held.lines += 1;
        held.writing = Some(held.lines);
    }

    /// Whether a connection may last longer: a follower's as long as it takes lines.
    fn may_go_on(&self, begun: Instant) -> bool {
        let mut held = self.held();
        match (held.stay, held.writing) {
            (Stay::Client, _) => begun.elapsed() < LONGEST,
            (Stay::Follower, None) => true,
            (Stay::Follower, Some(line)) => {
                // The line that was being written the last time must be through by now.
                let moved = held.seen != Some(line);
                held.seen = Some(line);
                moved
            }
        }
    }
}
