// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client's question, and the response to it.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType, rdata::opt::EdnsOption},
};

use super::super::{name::fqdn, wire};
use crate::policy::Fqdn;

/// What we say that we take over UDP, and send at most: it passes every path without fragments.
pub(super) const UDP_PAYLOAD: u16 = 1232;
/// What every client takes over UDP (RFC 1035, section 4.2.1).
const LEAST_PAYLOAD: u16 = 512;
/// The option of extended errors (RFC 8914, section 2).
const EXTENDED_ERROR: u16 = 15;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// In a datagram: the response is bounded.
    Udp,
    /// In a stream.
    Tcp,
}

/// A question that can be answered.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// What is asked for; `None`: something that is no name that a rule could cover.
    pub(super) name: Option<Fqdn>,
    /// The type of record.
    pub(super) kind: RecordType,
    /// What the response repeats.
    pub(super) asked: Asked,
}

/// What a response repeats of its question.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    query: Query,
    /// How much the client takes in a datagram, where it uses EDNS.
    payload: Option<u16>,
    via: Via,
}

/// What became of a datagram or a message.
#[derive(Debug)]
pub(super) enum Read {
    /// A question.
    Question(Question),
    /// No question, and this says why.
    Refused(Why, Vec<u8>),
    /// Not even worth a response.
    Ignored,
}

/// Why a message is no question that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It can't be read.
    Malformed,
    /// It can, and asks for what a forwarder doesn't do.
    NotSupported,
}

/// What extended errors say (RFC 8914, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtendedError {
    /// Other Error.
    Other,
    /// Stale or withheld for the policy of who runs this server: Blocked.
    Blocked,
    /// The answer was filtered: Filtered.
    Filtered,
    /// Nobody upstream answered: No Reachable Authority.
    NoReachableAuthority,
}

/// REFUSED without a look at the question, for who asks too much.
pub(super) fn refused(bytes: &[u8]) -> Option<Vec<u8>> {
    let [id_high, id_low, flags, _] = bytes.first_chunk::<4>()?;
    if flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([*id_high, *id_low]);
    Message::error_msg(id, OpCode::Query, ResponseCode::Refused).to_vec().ok()
}

/// Whether the counts of the header are those of a question (RFC 1035, section 4.1.1): one, without
/// records but for EDNS and a signature. Whatever else there is isn't worth reading.
fn has_usual_counts(bytes: &[u8]) -> bool {
    let count = |at: usize| {
        let pair = bytes.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*pair))
    };
    count(4) == Some(1)
        && count(6) == Some(0)
        && count(8) == Some(0)
        && count(10).is_some_and(|records| records <= 2)
}

// === impl Question ===

impl Question {
    /// Reads what a client sent.
    pub(super) fn read(bytes: &[u8], via: Via) -> Read {
        let Some([id_high, id_low, flags, _]) = bytes.first_chunk::<4>() else {
            return Read::Ignored;
        };
        // A response, as a forger or a loop would send: to answer it would answer for ever.
        if flags & 0x80 != 0 {
            return Read::Ignored;
        }
        let id = u16::from_be_bytes([*id_high, *id_low]);
        let refuse = |why, op_code, code| match Message::error_msg(id, op_code, code).to_vec() {
            Ok(response) => Read::Refused(why, response),
            Err(_) => Read::Ignored,
        };
        // Another operation may have other sections; it is refused whatever it holds.
        if flags & 0x78 != 0 {
            return refuse(
                Why::NotSupported,
                OpCode::from_u8(flags >> 3 & 0xf),
                ResponseCode::NotImp,
            );
        }
        if !has_usual_counts(bytes) {
            return refuse(Why::Malformed, OpCode::Query, ResponseCode::FormErr);
        }
        let Ok(message) = wire::parse(bytes) else {
            return refuse(Why::Malformed, OpCode::Query, ResponseCode::FormErr);
        };
        let op_code = message.metadata.op_code;
        if message.metadata.message_type != MessageType::Query || op_code != OpCode::Query {
            return refuse(Why::NotSupported, op_code, ResponseCode::NotImp);
        }
        let edns = message.edns.as_ref();
        let payload = edns.map(|edns| edns.max_payload().clamp(LEAST_PAYLOAD, UDP_PAYLOAD));
        let is_other_edns = edns.is_some_and(|edns| edns.version() != 0);
        let metadata = message.metadata;
        let Ok([query]) = <[Query; 1]>::try_from(message.queries) else {
            return refuse(Why::Malformed, OpCode::Query, ResponseCode::FormErr);
        };
        let kind = query.query_type;
        let is_supported = query.query_class == DNSClass::IN && is_plain(kind);
        let asked = Asked {
            id,
            recursion_desired: metadata.recursion_desired,
            checking_disabled: metadata.checking_disabled,
            query,
            payload,
            via,
        };
        if is_other_edns || !is_supported {
            let code = if is_other_edns { ResponseCode::BADVERS } else { ResponseCode::NotImp };
            return match asked.response(code, &[], &[], None) {
                Some(response) => Read::Refused(Why::NotSupported, response),
                None => Read::Ignored,
            };
        }
        Read::Question(Self { name: fqdn(&asked.query.name), kind, asked })
    }
}

// === impl Asked ===

impl Asked {
    /// The response to the question, cut short if it doesn't fit; `None` if it can't be written.
    pub(super) fn response(
        &self,
        code: ResponseCode,
        answers: &[Record],
        authorities: &[Record],
        error: Option<ExtendedError>,
    ) -> Option<Vec<u8>> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message.answers = answers.iter().map(|record| self.named_as_asked(record)).collect();
        message.authorities = authorities.to_vec();
        if self.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_version(0);
            if let Some(error) = error {
                let code = error.code().to_be_bytes().to_vec();
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, code));
            }
            message.set_edns(edns);
        }
        let bytes = message.to_vec().ok()?;
        let most = match self.via {
            Via::Udp => usize::from(self.payload.unwrap_or(LEAST_PAYLOAD)),
            Via::Tcp => usize::from(u16::MAX),
        };
        if bytes.len() <= most {
            return Some(bytes);
        }
        // The client asks again over TCP; half a set of addresses would look whole to some.
        message.metadata.truncation = true;
        message.answers.clear();
        message.authorities.clear();
        message.to_vec().ok()
    }
}

impl Asked {
    /// The client's own letter case lets the name stand in the message once.
    fn named_as_asked(&self, record: &Record) -> Record {
        let mut record = record.clone();
        if record.name == self.query.name {
            record.name = self.query.name.clone();
        }
        record
    }
}

// === impl ExtendedError ===

impl ExtendedError {
    fn code(self) -> u16 {
        match self {
            Self::Other => 0,
            Self::Blocked => 15,
            Self::Filtered => 17,
            Self::NoReachableAuthority => 22,
        }
    }
}

/// Whether records of a type can be asked for as such: neither of all types at once (RFC 8482), nor
/// of whole zones, nor what only stands in messages.
fn is_plain(kind: RecordType) -> bool {
    match kind {
        RecordType::ANY
        | RecordType::AXFR
        | RecordType::IXFR
        | RecordType::OPT
        | RecordType::TSIG
        | RecordType::ZERO => false,
        // QTYPEs and meta types (RFC 6895, section 3.1).
        other => !(128..=255).contains(&u16::from(other)),
    }
}
