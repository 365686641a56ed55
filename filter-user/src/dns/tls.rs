// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS over TLS (RFC 7858): one connection to each server, which questions share.
//!
//! A task of its own serves each connection, so that a question that nobody waits for any more
//! neither breaks it nor holds up the others. Nothing here ever falls back to plain text.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        CertificateError, ClientConfig, Error as TlsError, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::{
    count::{Count, Counters},
    exchange::{Channel, ExchangeError, Question, read_from_stream},
};
use crate::policy::TlsName;

/// The time for a connection, handshake included.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// A connection without questions is closed after this: servers keep few idle ones.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// A connection on which questions wait for this long, and nothing comes, is dead.
const STALL_LIMIT: Duration = Duration::from_secs(3);
/// The time in which a connection is to be closed in order.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Questions under way on one connection. More wait until some are answered.
const MAX_UNDER_WAY: usize = 1024;
/// Questions that wait for their turn.
const MAX_WAITING: usize = 1024;
/// What is read at once, and more than any message needs.
const READ_BUFFER: usize = 16 << 10;

/// A server that is asked over TLS.
#[derive(Debug)]
pub(super) struct Client {
    target: Arc<Target>,
    connection: Mutex<Option<mpsc::Sender<Job>>>,
}

/// What a connection needs.
struct Target {
    server: SocketAddr,
    name: ServerName<'static>,
    settings: Arc<ClientConfig>,
    counters: Arc<Counters>,
}

/// A question on its way to a connection.
struct Job {
    question: Question,
    reply: oneshot::Sender<Result<Message, Broken>>,
}

/// Why there is no response.
#[derive(Clone, Debug)]
enum Broken {
    /// There was never a connection.
    NotConnected(String),
    /// The connection ended, as it may at any time (RFC 7766, section 6.2.4).
    Closed(String),
    /// The response is there, and of no use.
    Unreadable(String),
}

/// One connection, as its task sees it.
struct Connection {
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    received: Vec<u8>,
    to_send: VecDeque<u8>,
    under_way: HashMap<u16, Job>,
    /// When something came in, or when there began to be questions.
    heard: Instant,
    counters: Arc<Counters>,
}

/// What a connection has to do with what it wrote.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsent {
    Nothing,
    Some,
}

/// The settings that all connections share.
///
/// # Errors
///
/// Authorities that can't be read, or of which there are none.
pub(super) fn settings(authorities: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let roots = match authorities {
        Some(path) => roots_of_file(path)?,
        None => roots_of_system()?,
    };
    let settings = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("can't set up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(settings))
}

fn roots_of_file(path: &Path) -> Result<RootCertStore> {
    let shown = path.display();
    let help = "[dns] tls_ca has to name a file with certificates (PEM)";
    let bytes = std::fs::read(path).with_context(|| format!("can't read {shown}; {help}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate =
            certificate.with_context(|| format!("{shown} can't be read as PEM; {help}"))?;
        roots
            .add(certificate)
            .with_context(|| format!("{shown} has a certificate that can't be used; {help}"))?;
    }
    if roots.is_empty() {
        bail!("there is no certificate in {shown}; {help}");
    }
    Ok(roots)
}

fn roots_of_system() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have some that nothing takes any more; without those nobody is trusted too much.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        bail!(
            "the system has no certificates of authorities{why}; install them (Debian: \
             ca-certificates), or name a file with those of the resolvers in [dns] tls_ca"
        );
    }
    Ok(roots)
}

// === impl Client ===

impl Client {
    /// A client without a connection: that is made for the first question.
    ///
    /// # Errors
    ///
    /// A name that no certificate can have.
    pub(super) fn new(
        server: SocketAddr,
        name: &TlsName,
        settings: Arc<ClientConfig>,
        counters: &Arc<Counters>,
    ) -> Result<Self> {
        let name = match name {
            TlsName::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .with_context(|| format!("no certificate can be for {name}"))?,
            TlsName::Address(address) => ServerName::from(*address),
        };
        let target = Arc::new(Target { server, name, settings, counters: Arc::clone(counters) });
        Ok(Self { target, connection: Mutex::default() })
    }

    /// Asks on the connection that is there, and on a new one where there is none or where it
    /// ends before the response.
    pub(super) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        deadline: Instant,
    ) -> Result<Message, ExchangeError> {
        let question = Question::new(name, kind, Channel::Encrypted)?;
        let mut broken = None;
        for _ in 0..2 {
            let exchange = self.exchange(question.clone());
            match timeout_at(deadline, exchange).await {
                Err(_elapsed) => {
                    return Err(broken.map_or(ExchangeError::Timeout, ExchangeError::Tls));
                }
                Ok(Ok(message)) => return Ok(message),
                Ok(Err(Broken::NotConnected(why))) => return Err(ExchangeError::Tls(why)),
                Ok(Err(Broken::Unreadable(why))) => return Err(ExchangeError::Unreadable(why)),
                Ok(Err(Broken::Closed(why))) => broken = Some(why),
            }
        }
        Err(ExchangeError::Tls(broken.unwrap_or_default()))
    }

    async fn exchange(&self, question: Question) -> Result<Message, Broken> {
        let (reply, response) = oneshot::channel();
        let job = Job { question, reply };
        let gone = || Broken::Closed("the connection ended".to_owned());
        self.connection().send(job).await.map_err(|_ended| gone())?;
        response.await.map_err(|_ended| gone())?
    }

    /// The way to the connection; a new one where the last has ended.
    fn connection(&self) -> mpsc::Sender<Job> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match &*connection {
            Some(sender) if !sender.is_closed() => sender.clone(),
            _ => {
                let (sender, jobs) = mpsc::channel(MAX_WAITING);
                tokio::spawn(serve(Arc::clone(&self.target), jobs));
                connection.insert(sender).clone()
            }
        }
    }
}

// === impl Connection ===

/// Makes a connection and answers questions over it until it ends.
async fn serve(target: Arc<Target>, mut jobs: mpsc::Receiver<Job>) {
    let broken = match timeout(CONNECT_LIMIT, target.connect()).await {
        Err(_elapsed) => Broken::NotConnected("no connection in time".to_owned()),
        Ok(Err(error)) => Broken::NotConnected(in_words(&error)),
        Ok(Ok(stream)) => {
            let mut connection = Connection::new(stream, &target.counters);
            let why = connection.run(&mut jobs).await;
            // Whoever asks from here on needs a new connection, and these ask again.
            jobs.close();
            let broken = Broken::Closed(why);
            for (_, job) in connection.under_way.drain() {
                job.fail(&broken);
            }
            // The other side may be gone, and is told out of courtesy alone.
            timeout(CLOSE_LIMIT, connection.writer.shutdown()).await.ok();
            broken
        }
    };
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        job.fail(&broken);
    }
}

impl Target {
    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.server).await?;
        // A question is one small segment, and nobody waits to fill it up.
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.settings));
        connector.connect(self.name.clone(), stream).await
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>, counters: &Arc<Counters>) -> Self {
        let (reader, writer) = split(stream);
        Self {
            reader,
            writer,
            received: Vec::new(),
            to_send: VecDeque::new(),
            under_way: HashMap::new(),
            heard: Instant::now(),
            counters: Arc::clone(counters),
        }
    }

    /// Sends questions and hands out responses until the connection ends; says why it did.
    async fn run(&mut self, jobs: &mut mpsc::Receiver<Job>) -> String {
        let mut unsent = Unsent::Nothing;
        loop {
            let (quiet_limit, quiet) = match self.under_way.is_empty() {
                true => (IDLE_LIMIT, "it was idle"),
                false => (STALL_LIMIT, "the server has stopped answering"),
            };
            let has_room = self.under_way.len() < MAX_UNDER_WAY && self.to_send.len() < READ_BUFFER;
            tokio::select! {
                job = jobs.recv(), if has_room => {
                    let Some(job) = job else { return "it is no longer needed".to_owned() };
                    self.send(job);
                    unsent = Unsent::Some;
                }
                read = self.reader.read_buf(&mut self.received) => match read {
                    Ok(0) => return "the server closed the connection".to_owned(),
                    Ok(_) => {
                        self.heard = Instant::now();
                        self.hand_out();
                    }
                    Err(error) => return in_words(&error),
                },
                sent = send(&mut self.writer, &mut self.to_send), if unsent == Unsent::Some => {
                    match sent {
                        Ok(()) => unsent = Unsent::Nothing,
                        Err(error) => return in_words(&error),
                    }
                }
                () = sleep_until(self.heard + quiet_limit) => return quiet.to_owned(),
            }
        }
    }

    /// Puts a question among those to be sent, under an id that no other one has.
    fn send(&mut self, job: Job) {
        // It may have waited for longer than who asked.
        if job.reply.is_closed() {
            return;
        }
        if self.under_way.is_empty() {
            self.heard = Instant::now();
        }
        let mut id = job.question.id();
        // There are many more ids than questions under way.
        while self.under_way.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        match job.question.framed(id) {
            Ok(framed) => {
                self.to_send.extend(framed);
                self.under_way.insert(id, job);
            }
            Err(error) => job.fail(&Broken::Unreadable(unreadable(error))),
        }
    }

    /// Hands out the responses that have come in whole.
    fn hand_out(&mut self) {
        let mut rest = self.received.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some((response, after)) = after.split_at_checked(length) else { break };
            rest = after;
            let id = response.first_chunk::<2>().map(|id| u16::from_be_bytes(*id));
            let Some((id, job)) = id.and_then(|id| Some((id, self.under_way.remove(&id)?))) else {
                self.counters.add(Count::WrongId);
                continue;
            };
            let result = read_from_stream(response, &job.question, id, &self.counters);
            let result = result.map_err(|error| Broken::Unreadable(unreadable(error)));
            // Who asked may have gone away.
            job.reply.send(result).ok();
        }
        let read = self.received.len() - rest.len();
        self.received.drain(..read);
    }
}

/// Writes all of it. It may be cancelled and called again.
async fn send(
    writer: &mut WriteHalf<TlsStream<TcpStream>>,
    bytes: &mut VecDeque<u8>,
) -> io::Result<()> {
    writer.write_all_buf(bytes).await?;
    writer.flush().await
}

// === impl Job ===

impl Job {
    fn fail(self, why: &Broken) {
        // Who asked may have gone away.
        self.reply.send(Err(why.clone())).ok();
    }
}

// === helpers ===

fn unreadable(error: ExchangeError) -> String {
    match error {
        ExchangeError::Unreadable(why) | ExchangeError::Tls(why) => why,
        ExchangeError::Timeout => "no answer in time".to_owned(),
        ExchangeError::Io(error) => error.to_string(),
    }
}

/// What went wrong with a connection, as an administrator would say it.
fn in_words(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let Some(TlsError::InvalidCertificate(certificate)) = tls else {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            _ => error.to_string(),
        };
    };
    match certificate {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by no authority that is trusted here; see [dns] tls_ca"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name; write the right one behind '#'".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate isn't valid yet; look at the clock".to_owned()
        }
        other => format!("its certificate can't be used: {other}"),
    }
}
