// SPDX-License-Identifier: MIT OR Apache-2.0
//! One question to one server in plain text, and the response that belongs to it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RecordType, rdata::opt::EdnsOption},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout_at},
};

use super::{
    count::{Count, Counters},
    wire,
};

/// What we say that we take over UDP: it passes every path without fragments.
const UDP_PAYLOAD: u16 = 1232;
/// What we do take: some servers send more than asked for.
const UDP_BUFFER: usize = 4096;
/// Datagrams that don't belong to the question, after which somebody seems to be guessing: then
/// TCP is used, where guessing is of no use.
const MAX_STRAYS: usize = 16;
/// The length of a message's header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;
/// Questions over TLS are this long or a multiple of it (RFC 8467, section 4.1).
const PADDED: usize = 128;
/// The option that fills a message up (RFC 7830, section 3), and what it takes by itself.
const PADDING_OPTION: u16 = 12;
const PADDING_HEADER: usize = 4;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// None came in time.
    Timeout,
    /// One came that is no DNS message, or answers something else.
    Unreadable(String),
    /// The network said no.
    Io(io::Error),
    /// There is no connection over TLS, and why.
    Tls(String),
}

/// A question as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Question {
    id: u16,
    bytes: Vec<u8>,
}

/// What a question is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// UDP, where the name's letters get a random case: a forger has to guess that, too.
    Datagram,
    /// TLS, where the length is evened out: it would tell names apart.
    Encrypted,
}

/// What a message is.
enum Read {
    /// The response.
    Response(Box<Message>),
    /// The response, cut short.
    Truncated,
    /// The response, with letters in another case than we asked with.
    OtherCase(Box<Message>),
    /// Not for us.
    Stray,
    /// For us, and no DNS message.
    Unreadable(String),
}

/// How the question of a response compares to ours.
enum Comparison {
    Same,
    OtherCase,
    Different,
}

/// Asks over UDP, and over TCP where that does not do, all until the deadline.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    deadline: Instant,
    counters: &Counters,
) -> Result<Message, ExchangeError> {
    let question = Question::new(name, kind, Channel::Datagram)?;
    match ask_udp(server, &question, deadline, counters).await? {
        Some(response) => Ok(response),
        None => {
            let exchange = ask_tcp(server, &question, counters);
            timeout_at(deadline, exchange).await.map_err(|_elapsed| ExchangeError::Timeout)?
        }
    }
}

/// The response, or none if TCP is to be used.
async fn ask_udp(
    server: SocketAddr,
    question: &Question,
    deadline: Instant,
    counters: &Counters,
) -> Result<Option<Message>, ExchangeError> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    // A connected socket takes datagrams of that server alone, and hears of ICMP errors.
    socket.connect(server).await?;
    socket.send(&question.bytes).await?;
    let mut buffer = [0; UDP_BUFFER];
    let mut unreadable = None;
    for _ in 0..MAX_STRAYS {
        let Ok(received) = timeout_at(deadline, socket.recv(&mut buffer)).await else {
            return Err(unreadable.map_or(ExchangeError::Timeout, ExchangeError::Unreadable));
        };
        match read(buffer.get(..received?).unwrap_or_default(), question, counters) {
            Read::Response(message) => return Ok(Some(*message)),
            Read::Truncated => {
                counters.add(Count::Truncated);
                return Ok(None);
            }
            Read::OtherCase(_) => return Ok(None),
            Read::Stray => {}
            // A forger may have sent it, so the true one is still waited for.
            Read::Unreadable(why) => unreadable = Some(why),
        }
    }
    counters.add(Count::TooManyStrays);
    Ok(None)
}

async fn ask_tcp(
    server: SocketAddr,
    question: &Question,
    counters: &Counters,
) -> Result<Message, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&question.framed(question.id)?).await?;
    let length = stream.read_u16().await?;
    let mut response = vec![0; usize::from(length)];
    stream.read_exact(&mut response).await?;
    read_from_stream(&response, question, question.id, counters)
}

/// The response out of a stream, where nobody but the server can have sent it: what isn't the
/// response is an error, and letter case doesn't matter.
pub(super) fn read_from_stream(
    bytes: &[u8],
    question: &Question,
    id: u16,
    counters: &Counters,
) -> Result<Message, ExchangeError> {
    let question = Question { id, ..question.clone() };
    match read(bytes, &question, counters) {
        Read::Response(message) | Read::OtherCase(message) => Ok(*message),
        Read::Truncated => {
            Err(ExchangeError::Unreadable("it is cut short even over TCP".to_owned()))
        }
        Read::Stray => Err(ExchangeError::Unreadable("it answers another question".to_owned())),
        Read::Unreadable(why) => Err(ExchangeError::Unreadable(why)),
    }
}

/// What a message is to the one who asked this. Counts whatever is odd about it.
fn read(message: &[u8], question: &Question, counters: &Counters) -> Read {
    // Id, flags and question are read by hand first: the rest of a message that was cut short may
    // be unreadable, and what isn't for us isn't worth reading.
    let Some([id_high, id_low, flags, ..]) = message.first_chunk::<HEADER>() else {
        counters.add(Count::Unreadable);
        return Read::Stray;
    };
    if u16::from_be_bytes([*id_high, *id_low]) != question.id {
        counters.add(Count::WrongId);
        return Read::Stray;
    }
    // QR is 1 in a response, and the operation is 0, a query.
    if flags & 0b1111_1000 != 0b1000_0000 {
        counters.add(Count::NotAResponse);
        return Read::Stray;
    }
    if flags & 0b10 != 0 {
        return Read::Truncated;
    }
    let comparison = question.compare(message);
    if let Comparison::Different = comparison {
        counters.add(Count::WrongQuestion);
        return Read::Stray;
    }
    let parsed = match wire::parse(message) {
        Ok(parsed) => Box::new(parsed),
        Err(why) => {
            counters.add(Count::Unreadable);
            return Read::Unreadable(why);
        }
    };
    match comparison {
        Comparison::Same => Read::Response(parsed),
        Comparison::OtherCase | Comparison::Different => {
            counters.add(Count::WrongCase);
            Read::OtherCase(parsed)
        }
    }
}

/// The name, the type and the class of the one question of a message; `None` where there are
/// more or fewer, or where it can't be read. A pointer has nothing in front of it to point at.
fn question_of(message: &[u8]) -> Option<(&[u8], &[u8])> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
    }
    Some((message.get(HEADER..=at)?, message.get(at + 1..at + 5)?))
}

// === impl Question ===

impl Question {
    /// A question with a random id.
    ///
    /// # Errors
    ///
    /// A name that can't be written.
    pub(super) fn new(
        name: &Name,
        kind: RecordType,
        channel: Channel,
    ) -> Result<Self, ExchangeError> {
        let mut name = name.clone();
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_version(0);
        match channel {
            Channel::Datagram => {
                name.randomize_label_case();
                message.add_query(Query::query(name, kind));
            }
            Channel::Encrypted => {
                message.add_query(Query::query(name, kind));
                message.set_edns(edns.clone());
                let length = encode(&message)?.len() + PADDING_HEADER;
                let padding = length.next_multiple_of(PADDED) - length;
                edns.options_mut().insert(EdnsOption::Unknown(PADDING_OPTION, vec![0; padding]));
            }
        }
        message.set_edns(edns);
        Ok(Self { id: message.metadata.id, bytes: encode(&message)? })
    }

    /// The random id.
    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// The message with its length in front (RFC 1035, section 4.2.2), under an id that may be
    /// another one.
    pub(super) fn framed(&self, id: u16) -> Result<Vec<u8>, ExchangeError> {
        let length = u16::try_from(self.bytes.len()).map_err(|_too_long| {
            ExchangeError::Unreadable("the question is too long".to_owned())
        })?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(id.to_be_bytes());
        framed.extend(self.bytes.get(2..).unwrap_or_default());
        Ok(framed)
    }

    /// Compares byte by byte, so that no two readings of a name can differ.
    fn compare(&self, message: &[u8]) -> Comparison {
        let (Some((our_name, our_rest)), Some((name, rest))) =
            (question_of(&self.bytes), question_of(message))
        else {
            return Comparison::Different;
        };
        if our_rest != rest {
            Comparison::Different
        } else if our_name == name {
            Comparison::Same
        } else if our_name.eq_ignore_ascii_case(name) {
            // The lengths of labels are below any letter, and so compared as they are.
            Comparison::OtherCase
        } else {
            Comparison::Different
        }
    }
}

fn encode(question: &Message) -> Result<Vec<u8>, ExchangeError> {
    question.to_vec().map_err(|error| ExchangeError::Unreadable(error.to_string()))
}

// === impl ExchangeError ===

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
