// SPDX-License-Identifier: MIT OR Apache-2.0
//! A DNS client that sends any name, byte by byte, and shows all of the answer.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    netns::Namespace,
    probe::wildcard,
    upstream::wire::{Labels, Question, Read, kind},
};

/// How long a client waits: longer than a forwarder may take to give up.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// A socket by which a client asks one server over UDP.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    id: u16,
    patience: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A message.
    Said(Read),
    /// Nothing in time.
    Silence,
    /// The host said that nobody is there.
    Unreachable,
}

// === impl Client ===

impl Client {
    /// A client in a namespace of a server.
    ///
    /// # Errors
    ///
    /// If a socket can't be made.
    pub fn new(namespace: &Namespace, server: SocketAddr, patience: Duration) -> Result<Self> {
        namespace.enter(|| Self::here(server, patience))?
    }

    /// A client in the namespace that the thread is in.
    ///
    /// # Errors
    ///
    /// As [`Client::new`].
    pub fn here(server: SocketAddr, patience: Duration) -> Result<Self> {
        let socket = UdpSocket::bind((wildcard(server.ip()), 0))?;
        socket.connect(server).with_context(|| format!("no way to {server}"))?;
        Ok(Self { socket, id: 1, patience })
    }

    /// Asks once.
    ///
    /// # Errors
    ///
    /// If the socket fails, or the answer can't be read.
    pub fn ask(&mut self, name: &Labels, kind: u16) -> Result<Reply> {
        self.id = self.id.wrapping_add(1);
        let question = Question { id: self.id, name: name.clone(), kind, edns: Some(1232) };
        self.send(&question.encode())
    }

    /// Sends a message that may be none, and waits for the answer to its number.
    ///
    /// # Errors
    ///
    /// As [`Client::ask`].
    pub fn send(&mut self, message: &[u8]) -> Result<Reply> {
        match self.socket.send(message) {
            Ok(_) => {}
            Err(error) if is_unreachable(error.kind()) => return Ok(Reply::Unreachable),
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + self.patience;
        let mut answer = vec![0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Reply::Silence);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut answer) {
                Ok(length) => {
                    let answer = answer.get(..length).unwrap_or_default();
                    if answer.get(..2) != message.get(..2) {
                        continue;
                    }
                    return Ok(Reply::Said(Read::of(answer).context("the answer can't be read")?));
                }
                Err(error) if is_silence(error.kind()) => return Ok(Reply::Silence),
                Err(error) if is_unreachable(error.kind()) => return Ok(Reply::Unreachable),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

// === impl Reply ===

impl Reply {
    /// The response code, if a message came.
    #[must_use]
    pub fn code(&self) -> Option<u8> {
        self.said().map(Read::code)
    }

    /// The addresses in it.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.said().map(Read::addresses).unwrap_or_default();
        addresses.into_iter().map(|(address, _)| address).collect()
    }

    /// The message.
    #[must_use]
    pub fn said(&self) -> Option<&Read> {
        match self {
            Self::Said(read) => Some(read),
            Self::Silence | Self::Unreachable => None,
        }
    }
}

/// Asks a server once over UDP.
///
/// # Errors
///
/// As [`Client::ask`].
pub fn udp(namespace: &Namespace, server: SocketAddr, name: &str, kind: u16) -> Result<Reply> {
    Client::new(namespace, server, PATIENCE)?.ask(&Labels::of(name), kind)
}

/// Asks a server once over UDP for IPv4 addresses.
///
/// # Errors
///
/// As [`Client::ask`].
pub fn v4(namespace: &Namespace, server: SocketAddr, name: &str) -> Result<Reply> {
    udp(namespace, server, name, kind::A)
}

/// Asks a server over one TCP connection, all questions at once, and waits for as many answers.
///
/// # Errors
///
/// If the connection fails, or an answer can't be read.
pub fn tcp(
    namespace: &Namespace,
    server: SocketAddr,
    questions: &[(&str, u16)],
) -> Result<Vec<Read>> {
    namespace.enter(|| -> Result<_> {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut sent = Vec::new();
        for (id, (name, kind)) in (1..).zip(questions) {
            let question = Question { id, name: Labels::of(name), kind: *kind, edns: None };
            let message = question.encode();
            sent.extend(u16::try_from(message.len())?.to_be_bytes());
            sent.extend(message);
        }
        stream.write_all(&sent)?;
        let mut answers = Vec::new();
        for _ in questions {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut message = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut message)?;
            answers.push(Read::of(&message).context("an answer that can't be read")?);
        }
        // Answers may come in any order.
        answers.sort_by_key(|answer| answer.id);
        ensure!(answers.iter().map(|answer| answer.id).eq(1..=u16::try_from(questions.len())?));
        Ok(answers)
    })?
}

fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn is_unreachable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}
