// SPDX-License-Identifier: MIT OR Apache-2.0
//! One question to one server, and the response that belongs to it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout_at},
};

/// What we say that we take over UDP: it passes every path without fragments.
const UDP_PAYLOAD: u16 = 1232;
/// What we do take: some servers send more than asked for.
const UDP_BUFFER: usize = 4096;
/// Datagrams that don't belong to the question, after which somebody seems to be guessing: then
/// TCP is used, where guessing is of no use.
const MAX_STRAYS: usize = 16;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// None came in time.
    Timeout,
    /// One came that is no DNS message.
    Unreadable(String),
    /// The network said no.
    Io(io::Error),
}

/// What a datagram is.
enum Datagram {
    /// The response.
    Response(Box<Message>),
    /// The response, cut short, or with letters in another case than we asked with: TCP tells.
    AskOverTcp,
    /// Not for us.
    Stray,
    /// For us, and no DNS message.
    Unreadable(String),
}

/// Asks over UDP, and over TCP where that does not do, all within the limit.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    family: RecordType,
    limit: Duration,
) -> Result<Message, ExchangeError> {
    let deadline = Instant::now() + limit;
    let question = question(name, family);
    match ask_udp(server, &question, deadline).await? {
        Some(response) => Ok(response),
        None => {
            let exchange = ask_tcp(server, &question);
            timeout_at(deadline, exchange).await.map_err(|_elapsed| ExchangeError::Timeout)?
        }
    }
}

/// A question with a random id and random letter case.
fn question(name: &Name, family: RecordType) -> Message {
    let mut name = name.clone();
    name.randomize_label_case();
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, family));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_version(0);
    message.set_edns(edns);
    message
}

/// The response, or none if TCP is to be used.
async fn ask_udp(
    server: SocketAddr,
    question: &Message,
    deadline: Instant,
) -> Result<Option<Message>, ExchangeError> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    // A connected socket takes datagrams of that server alone, and hears of ICMP errors.
    socket.connect(server).await?;
    socket.send(&encode(question)?).await?;
    let mut buffer = [0; UDP_BUFFER];
    let mut unreadable = None;
    for _ in 0..MAX_STRAYS {
        let Ok(received) = timeout_at(deadline, socket.recv(&mut buffer)).await else {
            return Err(unreadable.map_or(ExchangeError::Timeout, ExchangeError::Unreadable));
        };
        match classify(buffer.get(..received?).unwrap_or_default(), question) {
            Datagram::Response(message) => return Ok(Some(*message)),
            Datagram::AskOverTcp => return Ok(None),
            Datagram::Stray => {}
            // A forger may have sent it, so the true one is still waited for.
            Datagram::Unreadable(why) => unreadable = Some(why),
        }
    }
    Ok(None)
}

async fn ask_tcp(server: SocketAddr, question: &Message) -> Result<Message, ExchangeError> {
    let bytes = encode(question)?;
    let length = u16::try_from(bytes.len())
        .map_err(|_too_long| ExchangeError::Unreadable("the question is too long".to_owned()))?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut response = vec![0; usize::from(length)];
    stream.read_exact(&mut response).await?;
    let message = Message::from_vec(&response)
        .map_err(|error| ExchangeError::Unreadable(error.to_string()))?;
    if !answers(&message, question) {
        return Err(ExchangeError::Unreadable("it answers another question".to_owned()));
    }
    if message.metadata.truncation {
        return Err(ExchangeError::Unreadable("it is cut short even over TCP".to_owned()));
    }
    Ok(message)
}

fn encode(question: &Message) -> Result<Vec<u8>, ExchangeError> {
    question.to_vec().map_err(|error| ExchangeError::Unreadable(error.to_string()))
}

fn classify(datagram: &[u8], question: &Message) -> Datagram {
    // Id and flags are read by hand first: the rest of a message that was cut short may be
    // unreadable, and what isn't for us isn't worth reading.
    let Some([id_high, id_low, flags, _]) = datagram.first_chunk::<4>() else {
        return Datagram::Stray;
    };
    let (is_response, is_truncated) = (flags & 0x80 != 0, flags & 0x02 != 0);
    if u16::from_be_bytes([*id_high, *id_low]) != question.metadata.id || !is_response {
        return Datagram::Stray;
    }
    if is_truncated {
        return Datagram::AskOverTcp;
    }
    match Message::from_vec(datagram) {
        Ok(message) if !answers(&message, question) => Datagram::Stray,
        Ok(message) if !same_case(&message, question) => Datagram::AskOverTcp,
        Ok(message) => Datagram::Response(Box::new(message)),
        Err(error) => Datagram::Unreadable(error.to_string()),
    }
}

/// Whether a message is a response to the question, letter case aside.
fn answers(message: &Message, question: &Message) -> bool {
    message.metadata.id == question.metadata.id
        && message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
        && message.queries.len() == 1
        && message.queries.iter().zip(&question.queries).all(|(theirs, ours)| {
            theirs.name == ours.name
                && theirs.query_type == ours.query_type
                && theirs.query_class == DNSClass::IN
        })
}

fn same_case(message: &Message, question: &Message) -> bool {
    let mut pairs = message.queries.iter().zip(&question.queries);
    pairs.all(|(theirs, ours)| theirs.name.eq_case(&ours.name))
}

// === impl ExchangeError ===

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
