// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab's own DNS server, which also misbehaves: on request, by the labels of a name
//! ([`answers`]), or as a whole ([`Mode`]).

pub mod answers;
pub mod wire;

use std::{
    collections::BinaryHeap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::{
    answers::{Delivery, Sender, Transport, deliveries},
    wire::{Message, Question, code},
};
use crate::netns::Namespace;

/// How soon a thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(20);

/// So many questions are remembered; all are counted.
const REMEMBERED: usize = 50_000;

/// Threads for each address.
const THREADS: usize = 2;

/// How long a client of TCP may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the server does, whatever the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It answers as the name says.
    #[default]
    Honest,
    /// It says nothing.
    Silent,
    /// It says this code and no more.
    Code(u8),
    /// It names other servers.
    Lame,
    /// Over UDP it only says that the answer is too long.
    TcpOnly,
}

/// A question that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What was asked.
    pub question: Question,
    /// Who asked.
    pub from: SocketAddr,
    /// How.
    pub transport: Transport,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    settings: Mutex<Settings>,
    asked: Mutex<Vec<Asked>>,
    count: AtomicU64,
    late: Mutex<BinaryHeap<Late>>,
    wake: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    mode: Mode,
    delay: Duration,
}

/// A datagram that waits; the one with the earliest time is the greatest.
#[derive(Debug)]
struct Late {
    due: Instant,
    bytes: Vec<u8>,
    to: SocketAddr,
    socket: Arc<UdpSocket>,
}

/// The sockets by which one address answers.
#[derive(Clone, Debug)]
struct Sockets {
    asked: Arc<UdpSocket>,
    other_port: Arc<UdpSocket>,
    other_address: Arc<UdpSocket>,
}

// === impl Upstream ===

impl Upstream {
    /// Starts a server at these addresses, over UDP and TCP.
    ///
    /// # Errors
    ///
    /// If a port is taken.
    pub fn start(
        namespace: &Namespace,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut server = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        for address in addresses {
            let (sockets, listener) = namespace
                .enter(|| -> Result<_> { Ok((sockets(address)?, listen(address)?)) })??;
            for _ in 0..THREADS {
                let (shared, sockets) = (Arc::clone(&shared), sockets.clone());
                server.threads.push(thread::spawn(move || shared.serve_udp(&sockets)));
            }
            let shared = Arc::clone(&shared);
            server.threads.push(thread::spawn(move || serve_tcp(&shared, &listener)));
        }
        server.threads.push(thread::spawn(move || shared.deliver_late()));
        Ok(server)
    }

    /// From now on it does this.
    pub fn set_mode(&self, mode: Mode) {
        lock(&self.shared.settings).mode = mode;
    }

    /// From now on every answer is so late.
    pub fn set_delay(&self, delay: Duration) {
        lock(&self.shared.settings).delay = delay;
    }

    /// How many questions came.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// The questions that came, but for those beyond the first 50,000.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// The questions that came about a name, in any case of its letters.
    #[must_use]
    pub fn asked_for(&self, name: &str) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|asked| asked.question.name.text().eq_ignore_ascii_case(name));
        asked
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A panic in it was printed already.
            let _ = thread.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// All that is sent for a question.
    fn answer(&self, message: &[u8], from: SocketAddr, transport: Transport) -> Vec<Delivery> {
        let Some(question) = Question::read(message) else { return Vec::new() };
        self.count.fetch_add(1, Ordering::Relaxed);
        {
            let mut asked = lock(&self.asked);
            if asked.len() < REMEMBERED {
                asked.push(Asked { question: question.clone(), from, transport });
            }
        }
        let Settings { mode, delay } = *lock(&self.settings);
        let only = |message: Message| vec![Delivery::new(message.encode(), Duration::ZERO)];
        let mut sent = match mode {
            Mode::Honest => deliveries(&question, transport),
            Mode::Silent => Vec::new(),
            Mode::Code(code) => only(Message { code, ..question.answer() }),
            Mode::Lame => only(answers::lame(&question)),
            Mode::TcpOnly if transport == Transport::Udp => {
                only(Message { truncated: true, ..question.answer() })
            }
            Mode::TcpOnly => deliveries(&question, transport),
        };
        for delivery in &mut sent {
            delivery.after += delay;
        }
        sent
    }

    fn serve_udp(&self, sockets: &Sockets) {
        let mut buffer = vec![0; 65_536];
        while !self.stopped() {
            // What fails is silence, or what ICMP says of an earlier answer.
            let Ok((length, from)) = sockets.asked.recv_from(&mut buffer) else { continue };
            let message = buffer.get(..length).unwrap_or_default();
            for Delivery { bytes, after, sender } in self.answer(message, from, Transport::Udp) {
                let socket = match sender {
                    Sender::Asked => &sockets.asked,
                    Sender::OtherPort => &sockets.other_port,
                    Sender::OtherAddress => &sockets.other_address,
                };
                if after.is_zero() {
                    // Whoever asked may be gone.
                    let _ = socket.send_to(&bytes, from);
                } else {
                    let due = Instant::now() + after;
                    let late = Late { due, bytes, to: from, socket: Arc::clone(socket) };
                    lock(&self.late).push(late);
                    self.wake.notify_one();
                }
            }
        }
    }

    fn deliver_late(&self) {
        let mut waiting = lock(&self.late);
        while !self.stopped() {
            let now = Instant::now();
            let next = waiting.peek().map_or(LOOK, |late| late.due.duration_since(now).min(LOOK));
            if next.is_zero() {
                if let Some(late) = waiting.pop() {
                    let _ = late.socket.send_to(&late.bytes, late.to);
                }
                continue;
            }
            let woken = self.wake.wait_timeout(waiting, next);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn serve_connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let from = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        let mut heard = Instant::now();
        while !self.stopped() && heard.elapsed() < IDLE {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    received.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    heard = Instant::now();
                }
                Err(error) if is_silence(error.kind()) => {}
                Err(error) => return Err(error),
            }
            while let Some(message) = take_message(&mut received) {
                for Delivery { bytes, after, .. } in self.answer(&message, from, Transport::Tcp) {
                    thread::sleep(after);
                    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
                    stream.write_all(&[&length[..], &bytes].concat())?;
                }
            }
        }
        Ok(())
    }
}

// === impl Late ===

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Late {}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

// === impl Mode ===

impl Mode {
    /// The server fails.
    pub const FAILS: Self = Self::Code(code::SERVER_FAILURE);
    /// The server refuses.
    pub const REFUSES: Self = Self::Code(code::REFUSED);
}

// === helpers ===

fn sockets(address: SocketAddr) -> Result<Sockets> {
    let bind = |address: SocketAddr| -> Result<_> {
        let socket = UdpSocket::bind(address).with_context(|| format!("UDP {address}"))?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(Arc::new(socket))
    };
    let elsewhere: IpAddr = match address {
        SocketAddr::V4(_) => [8, 8, 4, 4].into(),
        SocketAddr::V6(_) => [0x2620, 0xfe, 0, 0, 0, 0, 0, 9].into(),
    };
    Ok(Sockets {
        asked: bind(address)?,
        other_port: bind(SocketAddr::new(address.ip(), 0))?,
        // With the port of a DNS server where it is free, as a forger would have it.
        other_address: bind(SocketAddr::new(elsewhere, address.port()))
            .or_else(|_taken| bind(SocketAddr::new(elsewhere, 0)))?,
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("TCP {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections, each into a thread of its own.
fn serve_tcp(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut connections = Vec::<JoinHandle<()>>::new();
    while !shared.stopped() {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                // Its end is the end of the exchange, whatever the reason.
                connections.push(thread::spawn(move || drop(shared.serve_connection(stream))));
                connections.retain(|connection| !connection.is_finished());
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    for connection in connections {
        let _ = connection.join();
    }
}

/// The first whole message of what came over TCP (RFC 1035, section 4.2.2).
fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u16::from_be_bytes(received.get(..2)?.try_into().ok()?);
    let end = 2 + usize::from(length);
    let message = received.get(2..end)?.to_vec();
    received.drain(..end);
    Some(message)
}

fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
