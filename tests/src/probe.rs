// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client does, and what it notices.

use std::{
    fmt,
    io::{BufRead as _, BufReader, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use simple_dns::{CLASS, Name, Packet, Question, RCODE, TYPE, rdata::RData};

use crate::netns::Namespace;

/// How long silence lasts until it counts as such. It is below the second after which TCP would
/// send its first segment again, so that each attempt is one packet.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// How long an answer of the DNS server is waited for, and how often the question is asked.
const RESOLVE: (Duration, u32) = (Duration::from_millis(700), 2);

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered.
    Answered,
    /// Nothing came back in time: the packet or its answer was dropped.
    Silence,
    /// Something on the way, or the server's host, refused.
    Refused,
    /// Something else, in the system's words.
    Failed(String),
}

/// Opens a TCP connection and reads the server's line.
///
/// # Errors
///
/// If the namespace can't be entered.
pub fn tcp(namespace: &Namespace, to: SocketAddr) -> Result<Outcome> {
    namespace.enter(|| match TcpStream::connect_timeout(&to, PATIENCE) {
        Err(error) => failed(&error),
        Ok(stream) => {
            if let Err(error) = stream.set_read_timeout(Some(PATIENCE)) {
                return failed(&error);
            }
            let mut answer = String::new();
            match BufReader::new(stream).read_line(&mut answer) {
                Ok(_) if answer == format!("tcp {to}\n") => Outcome::Answered,
                Ok(_) => Outcome::Failed(format!("an unexpected answer `{}`", answer.trim_end())),
                Err(error) => failed(&error),
            }
        }
    })
}

/// Sends a datagram of `length` bytes, and waits for it to come back.
///
/// # Errors
///
/// If the namespace can't be entered.
pub fn udp(namespace: &Namespace, to: SocketAddr, length: usize) -> Result<Outcome> {
    namespace.enter(|| match UdpSocket::bind((wildcard(to.ip()), 0)) {
        Ok(socket) => exchange(&socket, to, &vec![0x5a; length], 0),
        Err(error) => failed(&error),
    })
}

/// Sends datagrams of `length` bytes, each a frame of its own, and waits for nothing.
///
/// # Errors
///
/// If one can't be sent.
pub fn send_udp(namespace: &Namespace, to: SocketAddr, length: usize, count: u32) -> Result<()> {
    namespace.enter(|| {
        let socket = UdpSocket::bind((wildcard(to.ip()), 0))?;
        let datagram = vec![0x5a; length];
        for _ in 0..count {
            socket.send_to(&datagram, to).with_context(|| format!("a datagram to {to}"))?;
        }
        Ok(())
    })?
}

/// Sends an ICMP or ICMPv6 echo request, and waits for the reply.
///
/// # Errors
///
/// If the namespace can't be entered.
pub fn echo(namespace: &Namespace, to: IpAddr) -> Result<Outcome> {
    let (family, protocol, kind) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    namespace.enter(|| {
        // The kernel fills in the checksum and the identifier, which differs in the reply's case
        // from what was sent; the header is compared from the sequence number on.
        match socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol) {
            Ok(socket) => {
                let request = [kind, 0, 0, 0, 0, 0, 0, 1, b's', b'l', b'u', b'i', b'c', b'e'];
                exchange(&UdpSocket::from(socket), SocketAddr::new(to, 0), &request, 6)
            }
            Err(errno) => Outcome::Failed(errno.desc().to_owned()),
        }
    })
}

/// Asks a DNS server for a name's addresses, IPv4 first, with their TTL.
///
/// # Errors
///
/// If no answer came, or the server says that the name doesn't exist.
pub fn resolve(namespace: &Namespace, server: IpAddr, name: &str) -> Result<Vec<(IpAddr, u32)>> {
    namespace.enter(|| {
        let mut found = ask(server, name, TYPE::A)?;
        found.extend(ask(server, name, TYPE::AAAA)?);
        Ok(found)
    })?
}

/// Sends `datagram` and waits for an answer that equals it from byte `compared` on.
fn exchange(socket: &UdpSocket, to: SocketAddr, datagram: &[u8], compared: usize) -> Outcome {
    let attempt = || -> std::io::Result<Outcome> {
        socket.set_read_timeout(Some(PATIENCE))?;
        // A connected socket hears of ICMP errors and of nobody else.
        socket.connect(to)?;
        socket.send(datagram)?;
        let mut answer = vec![0; datagram.len() + 1];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(if answer.get(compared..) == datagram.get(compared..) {
            Outcome::Answered
        } else {
            Outcome::Failed(format!("an unexpected answer of {length} bytes"))
        })
    };
    attempt().unwrap_or_else(|error| failed(&error))
}

/// The local address of a socket that sends to `to`.
pub(crate) fn wildcard(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn failed(error: &std::io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::Silence,
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::PermissionDenied => Outcome::Refused,
        _ => Outcome::Failed(error.to_string()),
    }
}

fn ask(server: IpAddr, name: &str, record: TYPE) -> Result<Vec<(IpAddr, u32)>> {
    let id = 0x5153;
    let mut question = Packet::new_query(id);
    question.questions.push(Question::new(
        Name::new(name).with_context(|| format!("`{name}` is no name"))?,
        record.into(),
        CLASS::IN.into(),
        false,
    ));
    let question = question.build_bytes_vec()?;
    let socket = UdpSocket::bind((wildcard(server), 0))?;
    socket.connect((server, 53))?;
    let (patience, attempts) = RESOLVE;
    socket.set_read_timeout(Some(patience))?;
    let mut answer = vec![0; 4096];
    let mut length = Err(ErrorKind::TimedOut.into());
    for _ in 0..attempts {
        length = socket.send(&question).and_then(|_| socket.recv(&mut answer));
        if length.is_ok() {
            break;
        }
    }
    let length = length.with_context(|| format!("no answer from {server} for {name}"))?;
    let answer = Packet::parse(answer.get(..length).unwrap_or_default())
        .with_context(|| format!("the answer from {server} for {name}"))?;
    if answer.id() != id || answer.rcode() != RCODE::NoError {
        bail!("{server} says {:?} for {name}", answer.rcode());
    }
    Ok(answer
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::A(a) => Some((Ipv4Addr::from(a.address).into(), record.ttl)),
            RData::AAAA(aaaa) => Some((Ipv6Addr::from(aaaa.address).into(), record.ttl)),
            _ => None,
        })
        .collect())
}

// === impl Outcome ===

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered => f.write_str("answered"),
            Self::Silence => f.write_str("silence"),
            Self::Refused => f.write_str("refused"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}
