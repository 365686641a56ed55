// SPDX-License-Identifier: MIT OR Apache-2.0
//! DNS messages byte by byte (RFC 1035, section 4), also those that nobody should send.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Record types (RFC 1035, 3596, 9460; OPT: RFC 6891).
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// An alias.
    pub const CNAME: u16 = 5;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// The pseudo-record of EDNS.
    pub const OPT: u16 = 41;
    /// How to reach a web server.
    pub const HTTPS: u16 = 65;
}

/// Response codes (RFC 1035, section 4.1.1).
pub mod code {
    /// No error.
    pub const NO_ERROR: u8 = 0;
    /// The question can't be read.
    pub const FORMAT_ERROR: u8 = 1;
    /// The server failed.
    pub const SERVER_FAILURE: u8 = 2;
    /// There is no such name.
    pub const NO_SUCH_NAME: u8 = 3;
    /// The server doesn't do this.
    pub const NOT_IMPLEMENTED: u8 = 4;
    /// The server won't.
    pub const REFUSED: u8 = 5;
}

/// The class of the internet.
const INTERNET: u16 = 1;

/// How many pointers a name may have until it is taken for endless.
const MOST_JUMPS: usize = 64;

/// A name as it is on the wire: labels of any bytes, in the case in which they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(pub Vec<Vec<u8>>);

/// A record. Its name and its data are on the wire as they are here, without compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name that it belongs to, encoded.
    pub owner: Vec<u8>,
    /// Its type.
    pub kind: u16,
    /// Its TTL in seconds, all 32 bits.
    pub ttl: u32,
    /// Its data.
    pub data: Vec<u8>,
}

/// A question, and who wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The message's number.
    pub id: u16,
    /// The name, in the case in which it was written.
    pub name: Labels,
    /// The type that is asked for.
    pub kind: u16,
    /// The size of answers that the asker takes, if it knows EDNS.
    pub edns: Option<u16>,
}

/// A message that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub id: u16,
    /// Whether it answers at all (the bit QR).
    pub response: bool,
    /// Whether it has been cut (the bit TC).
    pub truncated: bool,
    /// Whether the server is one of the zone's own (the bit AA).
    pub authoritative: bool,
    /// Whether the server would ask others (the bit RA).
    pub recursion: bool,
    /// The response code.
    pub code: u8,
    /// The question that it repeats.
    pub question: (Labels, u16),
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The additional section.
    pub additional: Vec<Record>,
    /// Whether it has a record of EDNS.
    pub edns: bool,
}

/// What an answer says, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The message's number.
    pub id: u16,
    /// The second word of the header.
    pub flags: u16,
    /// The question that it repeats.
    pub question: Option<(Labels, u16)>,
    /// The answer section: owner, type, TTL, and the data.
    pub answers: Vec<(Labels, u16, u32, Vec<u8>)>,
    /// How many records stand in the authority and the additional section.
    pub others: [usize; 2],
}

// === impl Labels ===

impl Labels {
    /// A name as people write it.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let text = text.trim_end_matches('.');
        let labels = text.split('.').filter(|label| !label.is_empty());
        Self(labels.map(|label| label.as_bytes().to_vec()).collect())
    }

    /// The name with other labels in front.
    #[must_use]
    pub fn below(&self, front: &str) -> Self {
        let mut labels = Self::of(front).0;
        labels.extend(self.0.iter().cloned());
        Self(labels)
    }

    /// Its encoding (RFC 1035, section 3.1). Labels are cut at 63 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for label in &self.0 {
            let label = label.get(..63).unwrap_or(label);
            out.push(u8::try_from(label.len()).unwrap_or(63));
            out.extend_from_slice(label);
        }
        out.push(0);
        out
    }

    /// Lower case, labels joined by dots; bytes that aren't ASCII letters, digits, `-` or `_` as
    /// `\DDD`.
    #[must_use]
    pub fn text(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }

    /// Reads a name at a place of a message, and where the next thing is.
    #[must_use]
    pub fn read(message: &[u8], mut at: usize) -> Option<(Self, usize)> {
        let mut labels = Vec::new();
        let mut end = None;
        let mut jumps = 0;
        loop {
            let length = *message.get(at)?;
            match length >> 6 {
                0 if length == 0 => return Some((Self(labels), end.unwrap_or(at + 1))),
                0 => {
                    let next = at + 1 + usize::from(length);
                    labels.push(message.get(at + 1..next)?.to_vec());
                    at = next;
                }
                3 => {
                    jumps += 1;
                    end.get_or_insert(at + 2);
                    at = usize::from(be16(message, at)? & 0x3fff);
                    if jumps > MOST_JUMPS {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, label) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(".")?;
            }
            for &byte in label {
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                    write!(f, "{}", char::from(byte))?;
                } else {
                    write!(f, "\\{byte:03}")?;
                }
            }
        }
        Ok(())
    }
}

// === impl Record ===

impl Record {
    /// An address of a name.
    #[must_use]
    pub fn address(owner: &Labels, ttl: u32, address: IpAddr) -> Self {
        let (kind, data) = match address {
            IpAddr::V4(address) => (kind::A, address.octets().to_vec()),
            IpAddr::V6(address) => (kind::AAAA, address.octets().to_vec()),
        };
        Self { owner: owner.encode(), kind, ttl, data }
    }

    /// An alias of a name.
    #[must_use]
    pub fn alias(owner: &Labels, ttl: u32, target: &Labels) -> Self {
        Self { owner: owner.encode(), kind: kind::CNAME, ttl, data: target.encode() }
    }

    /// The start of the zone that a negative answer is from (RFC 2308).
    #[must_use]
    pub fn start_of_zone(zone: &Labels, ttl: u32) -> Self {
        let mut data = zone.below("ns").encode();
        data.extend(zone.below("hostmaster").encode());
        for number in [1, 3600, 600, 86_400, ttl] {
            data.extend(u32::to_be_bytes(number));
        }
        Self { owner: zone.encode(), kind: kind::SOA, ttl, data }
    }

    /// A name server of a zone.
    #[must_use]
    pub fn server(zone: &Labels, ttl: u32, server: &Labels) -> Self {
        Self { owner: zone.encode(), kind: kind::NS, ttl, data: server.encode() }
    }

    /// How to reach a web server, with hints of its addresses (RFC 9460).
    #[must_use]
    pub fn https(owner: &Labels, ttl: u32, hints: &[IpAddr]) -> Self {
        let v4: Vec<u8> = hints.iter().filter_map(|hint| octets_v4(*hint)).flatten().collect();
        let v6: Vec<u8> = hints.iter().filter_map(|hint| octets_v6(*hint)).flatten().collect();
        // Priority 1, the owner itself as target.
        let mut data = vec![0, 1, 0];
        // alpn, ipv4hint, ipv6hint: in this order, as section 2.2 wants it.
        for (key, value) in [(1, b"\x02h2\x02h3".to_vec()), (4, v4), (6, v6)] {
            if !value.is_empty() {
                data.extend(u16::to_be_bytes(key));
                data.extend(length_of(&value));
                data.extend(value);
            }
        }
        Self { owner: owner.encode(), kind: kind::HTTPS, ttl, data }
    }

    fn encode(&self, owner: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(owner);
        out.extend(self.kind.to_be_bytes());
        out.extend(INTERNET.to_be_bytes());
        out.extend(self.ttl.to_be_bytes());
        out.extend(length_of(&self.data));
        out.extend_from_slice(&self.data);
    }
}

// === impl Question ===

impl Question {
    /// The question in a message; nothing if it isn't one.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let (id, flags) = (be16(message, 0)?, be16(message, 2)?);
        if flags & 0x8000 != 0 || be16(message, 4)? != 1 {
            return None;
        }
        let (name, at) = Labels::read(message, 12)?;
        let kind = be16(message, at)?;
        // A question has no records but the one of EDNS, whose owner is the root.
        let record = at + 4;
        let edns = be16(message, record + 1)
            .filter(|found| *found == kind::OPT && message.get(record) == Some(&0))
            .and_then(|_| be16(message, record + 3));
        Some(Self { id, name, kind, edns })
    }

    /// The message that asks it, with recursion desired.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend(self.id.to_be_bytes());
        out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        out.extend(self.name.encode());
        out.extend(self.kind.to_be_bytes());
        out.extend(INTERNET.to_be_bytes());
        if let Some(size) = self.edns {
            option_record(size, &mut out);
        }
        out
    }

    /// An answer without records.
    #[must_use]
    pub fn answer(&self) -> Message {
        Message {
            id: self.id,
            response: true,
            truncated: false,
            authoritative: false,
            recursion: true,
            code: code::NO_ERROR,
            question: (self.name.clone(), self.kind),
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            edns: self.edns.is_some(),
        }
    }
}

// === impl Message ===

impl Message {
    /// The bytes of it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend(self.id.to_be_bytes());
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(
            bit(self.response, 0x80) | bit(self.authoritative, 4) | bit(self.truncated, 2) | 1,
        );
        out.push(bit(self.recursion, 0x80) | (self.code & 15));
        out.extend([0, 1]);
        for section in [&self.answers, &self.authority] {
            out.extend(u16::try_from(section.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
        let additional = self.additional.len() + usize::from(self.edns);
        out.extend(u16::try_from(additional).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(self.question.0.encode());
        out.extend(self.question.1.to_be_bytes());
        out.extend(INTERNET.to_be_bytes());
        let asked = self.question.0.encode();
        for record in self.answers.iter().chain(&self.authority).chain(&self.additional) {
            // As everybody does, a pointer to the question stands for its name.
            let owner = if record.owner == asked { &[0xc0, 12] } else { record.owner.as_slice() };
            record.encode(owner, &mut out);
        }
        if self.edns {
            option_record(1232, &mut out);
        }
        out
    }
}

// === impl Read ===

impl Read {
    /// What a message says; nothing if it can't be read to its end.
    #[must_use]
    pub fn of(message: &[u8]) -> Option<Self> {
        let mut read = Self { id: be16(message, 0)?, flags: be16(message, 2)?, ..Self::default() };
        let [questions, answers, authority, additional] =
            [4, 6, 8, 10].map(|at| be16(message, at).map_or(0, usize::from));
        let mut at = 12;
        for _ in 0..questions {
            let (name, end) = Labels::read(message, at)?;
            read.question = Some((name, be16(message, end)?));
            at = end + 4;
        }
        for _ in 0..answers {
            let (owner, end) = Labels::read(message, at)?;
            let ttl = u32::from(be16(message, end + 4)?) << 16 | u32::from(be16(message, end + 6)?);
            let length = usize::from(be16(message, end + 8)?);
            let data = message.get(end + 10..end + 10 + length)?.to_vec();
            read.answers.push((owner, be16(message, end)?, ttl, data));
            at = end + 10 + length;
        }
        read.others = [authority, additional];
        Some(read)
    }

    /// The response code.
    #[must_use]
    pub fn code(&self) -> u8 {
        u8::try_from(self.flags & 15).unwrap_or_default()
    }

    /// Whether it was cut.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    /// The addresses in the answer section, with their TTL.
    #[must_use]
    pub fn addresses(&self) -> Vec<(IpAddr, u32)> {
        self.answers
            .iter()
            .filter_map(|(_, kind, ttl, data)| {
                let address = match *kind {
                    kind::A => Ipv4Addr::from(<[u8; 4]>::try_from(data.as_slice()).ok()?).into(),
                    kind::AAAA => {
                        Ipv6Addr::from(<[u8; 16]>::try_from(data.as_slice()).ok()?).into()
                    }
                    _ => return None,
                };
                Some((address, *ttl))
            })
            .collect()
    }
}

// === helpers ===

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn length_of(data: &[u8]) -> [u8; 2] {
    u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes()
}

fn option_record(size: u16, out: &mut Vec<u8>) {
    out.push(0);
    out.extend(kind::OPT.to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend([0; 6]);
}

fn octets_v4(address: IpAddr) -> Option<[u8; 4]> {
    match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    }
}

fn octets_v6(address: IpAddr) -> Option<[u8; 16]> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use simple_dns::{Packet, rdata::RData};

    use super::*;

    #[test]
    fn an_answer_can_be_read_by_other_code() {
        let question = Question {
            id: 7,
            name: Labels::of("N1.w.lab.example"),
            kind: kind::A,
            edns: Some(1232),
        };
        assert_eq!(Question::read(&question.encode()), Some(question.clone()));
        let mut answer = question.answer();
        let target = Labels::of("c1.lab.example");
        answer.answers.push(Record::alias(&question.name, 9, &target));
        answer.answers.push(Record::address(&target, 1 << 31, Ipv4Addr::LOCALHOST.into()));
        answer.authority.push(Record::start_of_zone(&Labels::of("lab.example"), 5));
        let bytes = answer.encode();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.id(), 7);
        assert_eq!(packet.questions[0].qname.to_string(), "N1.w.lab.example");
        assert_eq!(packet.answers.len(), 2);
        assert!(matches!(packet.answers[1].rdata, RData::A(_)));
        assert_eq!(packet.answers[1].ttl, 1 << 31);
        assert!(packet.opt().is_some());
        let read = Read::of(&bytes).unwrap();
        assert_eq!(read.addresses(), [(Ipv4Addr::LOCALHOST.into(), 1 << 31)]);
        assert_eq!((read.code(), read.truncated(), read.others), (0, false, [1, 1]));
        assert_eq!(read.question, Some((question.name, kind::A)));
    }

    #[test]
    fn labels_hold_any_byte_and_pointers_end() {
        let odd = Labels(vec![b"a.b".to_vec(), b"c\0d".to_vec(), b"Example".to_vec()]);
        assert_eq!(Labels::read(&odd.encode(), 0), Some((odd.clone(), odd.encode().len())));
        assert_eq!(odd.text(), "a\\046b.c\\000d.example");
        assert_eq!(Labels::read(&[0xc0, 0], 0), None);
        assert_eq!(Labels::read(&[1, b'a', 0xc0, 9], 0), None);
    }
}
