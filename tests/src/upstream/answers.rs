// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the lab's own DNS server answers: computed from the labels of the name that is asked for,
//! so that fresh names need no zone file, and a name says what comes of it.
//!
//! | label | what the answer is like |
//! |---|---|
//! | `n123` | the name's number, by which its addresses are chosen; without it, a hash of the name |
//! | `ttl60` | the TTL in seconds, up to 4294967295; 300 without it |
//! | `many25` | so many addresses, up to 60 |
//! | `chain3` | behind so many aliases |
//! | `backward`, `mixed` | the aliases in another order than one follows them in |
//! | `ip-10-0-0-1`, `ip6-64-ff9b--a00-1` | exactly this address, in place of computed ones |
//! | `cut` | over UDP only cut, so that it has to be asked over TCP |
//! | `delay200` | so many milliseconds late |
//! | `nodata`, `nxdomain`, `servfail`, `refused`, `notimp`, `lame`, `silent` | none |
//!
//! and the words of [`Trick`]s. All other labels mean nothing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::wire::{Labels, Message, Question, Record, code, kind};

/// What a forger or a broken server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// A forged answer with another number comes first.
    WrongId,
    /// A forged answer comes first, from another port of the server.
    WrongPort,
    /// A forged answer comes first, from another address.
    WrongAddress,
    /// A forged answer comes first that repeats the name in another case.
    WrongCase,
    /// A forged answer comes first that repeats the question with another type.
    WrongType,
    /// A forged answer comes first that repeats another name.
    WrongName,
    /// A forged message comes first that is a question itself.
    NotAResponse,
    /// The answer holds addresses of a name that the question doesn't lead to.
    OffChain,
    /// The authority section holds addresses of the name.
    Authority,
    /// The additional section holds addresses of the name.
    Additional,
    /// The aliases lead back to the name.
    Loop,
    /// One name has two aliases.
    Fork,
    /// A record's name is a pointer to itself.
    PointerLoop,
    /// A record's name is a pointer to what comes later.
    PointerForward,
    /// The answer ends in the middle of a record, without saying so.
    CutShort,
    /// A record says that its data are longer than the message.
    BadLength,
    /// The answer comes again half a second later, with forged addresses.
    Replay,
    /// An answer that nobody asked for follows, about a name below the same domain.
    Unsolicited,
    /// The alias' target has a label with a dot in it.
    DotLabel,
    /// The alias' target has a label with a NUL byte in it.
    NulLabel,
    /// The answer is longer than any NIC's packets, so that it comes in fragments.
    Fragmented,
    /// Over UDP the answer says that it was cut, and holds forged addresses.
    CutFull,
}

/// One datagram, or one message over TCP, that answers a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub bytes: Vec<u8>,
    /// How long it waits.
    pub after: Duration,
    /// Who sends it; over TCP it is always the one that was asked.
    pub sender: Sender,
}

/// Who sends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The address and port that were asked.
    Asked,
    /// Another port of the same address.
    OtherPort,
    /// Another address.
    OtherAddress,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What the labels of a name ask for.
#[derive(Clone, Debug)]
struct Wanted {
    number: u32,
    ttl: u32,
    many: u32,
    chain: u32,
    order: Order,
    literal: Vec<IpAddr>,
    cut: bool,
    delay: Duration,
    outcome: Outcome,
    trick: Option<Trick>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Forward,
    Backward,
    Mixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Addresses,
    Code(u8),
    NoData,
    Lame,
    Silent,
}

/// The words that name tricks.
pub const TRICKS: [(&str, Trick); 22] = [
    ("wrong-id", Trick::WrongId),
    ("wrong-port", Trick::WrongPort),
    ("wrong-address", Trick::WrongAddress),
    ("wrong-case", Trick::WrongCase),
    ("wrong-type", Trick::WrongType),
    ("wrong-name", Trick::WrongName),
    ("not-a-response", Trick::NotAResponse),
    ("off-chain", Trick::OffChain),
    ("authority", Trick::Authority),
    ("additional", Trick::Additional),
    ("loop", Trick::Loop),
    ("fork", Trick::Fork),
    ("pointer-loop", Trick::PointerLoop),
    ("pointer-forward", Trick::PointerForward),
    ("cut-short", Trick::CutShort),
    ("bad-length", Trick::BadLength),
    ("replay", Trick::Replay),
    ("unsolicited", Trick::Unsolicited),
    ("dot-label", Trick::DotLabel),
    ("nul-label", Trick::NulLabel),
    ("fragmented", Trick::Fragmented),
    ("cut-full", Trick::CutFull),
];

/// How far an honest answer is behind a forged one.
pub const HONEST: Duration = Duration::from_millis(30);

/// How far a replayed answer is behind the honest one.
pub const REPLAY: Duration = Duration::from_millis(500);

/// Numbers of names with `n123` are below this, those of hashes above.
pub const NUMBERS: u32 = 1 << 16;

/// Addresses for each number; a power of two above the most that an answer has.
const EACH: u32 = 64;
const MOST: u32 = 60;

/// The ranges of honest and of forged addresses: public ones of a vendor, nowhere near anything
/// that has a special purpose. Each has room for 2^23 addresses.
const HONEST_V4: u32 = u32::from_be_bytes([20, 0, 0, 0]);
const FORGED_V4: u32 = u32::from_be_bytes([20, 128, 0, 0]);
const HONEST_V6: [u16; 6] = [0x2a01, 0x111, 0, 0, 0, 0];
const FORGED_V6: [u16; 6] = [0x2a01, 0x111, 0xf0f0, 0, 0, 0];

/// What a datagram may be long, whatever the asker would take (RFC 9715).
const LONGEST: usize = 1232;

/// The honest IPv4 address of a name, the one of this place in its answer.
#[must_use]
pub fn v4(name: &str, place: u32) -> Ipv4Addr {
    (HONEST_V4 + index(Wanted::by(&Labels::of(name)).number, place)).into()
}

/// The honest IPv6 address of a name, the one of this place in its answer.
#[must_use]
pub fn v6(name: &str, place: u32) -> Ipv6Addr {
    address_v6(HONEST_V6, index(Wanted::by(&Labels::of(name)).number, place))
}

/// The IPv4 address that forged answers have for a name.
#[must_use]
pub fn forged_v4(name: &str) -> Ipv4Addr {
    (FORGED_V4 + index(Wanted::by(&Labels::of(name)).number, 0)).into()
}

/// The IPv6 address that forged answers have for a name.
#[must_use]
pub fn forged_v6(name: &str) -> Ipv6Addr {
    address_v6(FORGED_V6, index(Wanted::by(&Labels::of(name)).number, 0))
}

/// A forged answer to a question: what it would be like with the forged addresses.
#[must_use]
pub fn forged(question: &Question) -> Message {
    let mut message = question.answer();
    message.answers = forged_records(&question.name, question.kind);
    message
}

/// All that is sent for a question.
#[must_use]
pub fn deliveries(question: &Question, transport: Transport) -> Vec<Delivery> {
    let wanted = Wanted::by(&question.name);
    if wanted.outcome == Outcome::Silent {
        return Vec::new();
    }
    let honest = honest(question, &wanted);
    let mut bytes = honest.encode();
    let room = question.edns.map_or(512, usize::from).clamp(512, LONGEST);
    let fragmented = wanted.trick == Some(Trick::Fragmented);
    if transport == Transport::Udp && (wanted.cut || (bytes.len() > room && !fragmented)) {
        let cut = Message { truncated: true, ..question.answer() };
        bytes = cut.encode();
    }
    let late = wanted.delay;
    let Some(trick) = wanted.trick else { return vec![Delivery::new(bytes, late)] };
    // Into a connection nobody else can put anything.
    if transport == Transport::Tcp && trick.is_beside() {
        return vec![Delivery::new(bytes, late)];
    }
    let first = |message: Message, sender| {
        vec![
            Delivery { bytes: message.encode(), after: late, sender },
            Delivery::new(bytes.clone(), late + HONEST),
        ]
    };
    let forged = forged(question);
    match trick {
        Trick::WrongId => first(Message { id: forged.id ^ 1, ..forged }, Sender::Asked),
        Trick::WrongPort => first(forged, Sender::OtherPort),
        Trick::WrongAddress => first(forged, Sender::OtherAddress),
        Trick::WrongCase => {
            let name = inverted(&question.name);
            let answers = forged_records(&name, question.kind);
            first(Message { question: (name, question.kind), answers, ..forged }, Sender::Asked)
        }
        Trick::WrongType => {
            let other = if question.kind == kind::A { kind::AAAA } else { kind::A };
            let question = (question.name.clone(), other);
            first(Message { question, ..forged }, Sender::Asked)
        }
        Trick::WrongName => {
            let name = question.name.below("x");
            first(Message { question: (name, question.kind), ..forged }, Sender::Asked)
        }
        Trick::NotAResponse => first(Message { response: false, ..forged }, Sender::Asked),
        Trick::Replay => {
            let again = Delivery::new(forged.encode(), late + REPLAY);
            vec![Delivery::new(bytes.clone(), late), Delivery::new(bytes, late), again]
        }
        Trick::Unsolicited => {
            let name = question.name.below("x");
            let other = Question { id: question.id.wrapping_add(1), name, ..question.clone() };
            let more = Delivery::new(self::forged(&other).encode(), late + HONEST);
            vec![Delivery::new(bytes, late), more]
        }
        Trick::CutFull if transport == Transport::Udp => {
            vec![Delivery::new(Message { truncated: true, ..forged }.encode(), late)]
        }
        Trick::PointerLoop => vec![Delivery::new(with_pointer(&bytes, question, 0), late)],
        Trick::PointerForward => vec![Delivery::new(with_pointer(&bytes, question, 4), late)],
        Trick::CutShort => {
            let whole = Message { edns: false, ..honest }.encode();
            let part = whole.get(..whole.len().saturating_sub(3)).unwrap_or_default();
            vec![Delivery::new(part.to_vec(), late)]
        }
        Trick::BadLength => {
            let mut whole = Message { edns: false, ..honest }.encode();
            // The last record's length stands in front of its data, four bytes or sixteen.
            let data = if question.kind == kind::A { 4 } else { 16 };
            if let Some(place) = whole.len().checked_sub(data + 2) {
                whole.splice(place..place + 2, [0xff, 0xff]);
            }
            vec![Delivery::new(whole, late)]
        }
        Trick::OffChain
        | Trick::Authority
        | Trick::Additional
        | Trick::Loop
        | Trick::Fork
        | Trick::DotLabel
        | Trick::NulLabel
        | Trick::Fragmented
        | Trick::CutFull => vec![Delivery::new(bytes, late)],
    }
}

/// An answer that only says that somebody failed.
#[must_use]
pub fn failure(question: &Question, code: u8) -> Vec<Delivery> {
    vec![Delivery::new(Message { code, ..question.answer() }.encode(), Duration::ZERO)]
}

/// An answer that only names other servers, as a server's that isn't one of the zone's own.
#[must_use]
pub fn lame(question: &Question) -> Message {
    let zone = Labels::of("example");
    let servers = vec![Record::server(&zone, 300, &Labels::of("ns.elsewhere.example"))];
    Message { authority: servers, recursion: false, ..question.answer() }
}

// === impl Trick ===

impl Trick {
    /// Whether others send something beside the honest answer.
    fn is_beside(self) -> bool {
        match self {
            Self::WrongId
            | Self::WrongPort
            | Self::WrongAddress
            | Self::WrongCase
            | Self::WrongType
            | Self::WrongName
            | Self::NotAResponse
            | Self::Replay
            | Self::Unsolicited => true,
            Self::OffChain
            | Self::Authority
            | Self::Additional
            | Self::Loop
            | Self::Fork
            | Self::PointerLoop
            | Self::PointerForward
            | Self::CutShort
            | Self::BadLength
            | Self::DotLabel
            | Self::NulLabel
            | Self::Fragmented
            | Self::CutFull => false,
        }
    }
}

// === impl Wanted ===

impl Wanted {
    fn by(name: &Labels) -> Self {
        let mut wanted = Self {
            number: NUMBERS + hash(&name.text()) % NUMBERS,
            ttl: 300,
            many: 1,
            chain: 0,
            order: Order::Forward,
            literal: Vec::new(),
            cut: false,
            delay: Duration::ZERO,
            outcome: Outcome::Addresses,
            trick: None,
        };
        for label in &name.0 {
            if let Ok(word) = std::str::from_utf8(label) {
                wanted.read(&word.to_ascii_lowercase());
            }
        }
        wanted
    }

    fn read(&mut self, word: &str) {
        match word {
            "backward" => self.order = Order::Backward,
            "mixed" => self.order = Order::Mixed,
            "cut" => self.cut = true,
            "nodata" => self.outcome = Outcome::NoData,
            "nxdomain" => self.outcome = Outcome::Code(code::NO_SUCH_NAME),
            "servfail" => self.outcome = Outcome::Code(code::SERVER_FAILURE),
            "refused" => self.outcome = Outcome::Code(code::REFUSED),
            "notimp" => self.outcome = Outcome::Code(code::NOT_IMPLEMENTED),
            "lame" => self.outcome = Outcome::Lame,
            "silent" => self.outcome = Outcome::Silent,
            _ => self.read_number(word),
        }
        if let Some((_, trick)) = TRICKS.iter().find(|(name, _)| *name == word) {
            self.trick = Some(*trick);
        }
    }

    fn read_number(&mut self, word: &str) {
        let number = |front: &str| word.strip_prefix(front)?.parse::<u32>().ok();
        if let Some(number) = number("n") {
            self.number = number % NUMBERS;
        } else if let Some(ttl) = number("ttl") {
            self.ttl = ttl;
        } else if let Some(many) = number("many") {
            self.many = many.min(MOST);
        } else if let Some(chain) = number("chain") {
            self.chain = chain.min(MOST);
        } else if let Some(delay) = number("delay") {
            self.delay = Duration::from_millis(delay.into());
        } else if let Some(text) = word.strip_prefix("ip6-") {
            self.literal.extend(text.replace('-', ":").parse::<IpAddr>());
        } else if let Some(text) = word.strip_prefix("ip-") {
            self.literal.extend(text.replace('-', ".").parse::<IpAddr>());
        }
    }

    /// The addresses of a type.
    fn addresses(&self, asked: u16) -> Vec<IpAddr> {
        let all = if self.literal.is_empty() {
            (0..self.many)
                .flat_map(|place| {
                    let index = index(self.number, place);
                    [
                        IpAddr::from(Ipv4Addr::from(HONEST_V4 + index)),
                        address_v6(HONEST_V6, index).into(),
                    ]
                })
                .collect()
        } else {
            self.literal.clone()
        };
        all.into_iter()
            .filter(|address| match asked {
                kind::A => address.is_ipv4(),
                kind::AAAA => address.is_ipv6(),
                kind::HTTPS => true,
                _ => false,
            })
            .collect()
    }
}

// === impl Delivery ===

impl Delivery {
    /// A message from whom was asked.
    #[must_use]
    pub fn new(bytes: Vec<u8>, after: Duration) -> Self {
        Self { bytes, after, sender: Sender::Asked }
    }
}

// === helpers ===

/// The answer of a server that means well, but for the tricks that are inside an answer.
fn honest(question: &Question, wanted: &Wanted) -> Message {
    let mut message = question.answer();
    let zone = Labels::of("lab.example");
    match wanted.outcome {
        Outcome::Addresses | Outcome::Silent => {}
        Outcome::Code(code) => {
            message.code = code;
            if code == code::NO_SUCH_NAME {
                message.authority.push(Record::start_of_zone(&zone, wanted.ttl));
            }
            return message;
        }
        Outcome::Lame => return lame(question),
        Outcome::NoData => {
            message.authority.push(Record::start_of_zone(&zone, wanted.ttl));
            return message;
        }
    }
    let ttl = wanted.ttl;
    let mut names = vec![question.name.clone()];
    for link in 1..=wanted.chain {
        names.push(Labels::of(&format!("c{link}.n{}.cdn.example", wanted.number)));
    }
    match wanted.trick {
        Some(Trick::DotLabel) => names.push(odd(&question.name, b'.')),
        Some(Trick::NulLabel) => names.push(odd(&question.name, 0)),
        _ => {}
    }
    let mut records: Vec<_> = names
        .iter()
        .zip(names.iter().skip(1))
        .map(|(owner, target)| Record::alias(owner, ttl, target))
        .collect();
    let last = names.last().cloned().unwrap_or_default();
    match wanted.trick {
        Some(Trick::Loop) => {
            let turn = Labels::of("turn.cdn.example");
            records.push(Record::alias(&last, ttl, &turn));
            records.push(Record::alias(&turn, ttl, &question.name));
            records.extend(forged_records(&turn, question.kind));
        }
        Some(Trick::Fork) => {
            let branches = ["left.cdn.example", "right.cdn.example"].map(Labels::of);
            for branch in &branches {
                records.push(Record::alias(&last, ttl, branch));
            }
            for branch in &branches {
                records.extend(forged_records(branch, question.kind));
            }
        }
        _ => records.extend(address_records(&last, ttl, question.kind, wanted)),
    }
    match wanted.order {
        Order::Forward => {}
        Order::Backward => records.reverse(),
        Order::Mixed => {
            let (even, odd): (Vec<_>, Vec<_>) =
                records.into_iter().enumerate().partition(|(place, _)| place % 2 == 0);
            records = odd.into_iter().chain(even).map(|(_, record)| record).collect();
        }
    }
    message.answers = records;
    let forged = forged_records(&question.name, question.kind);
    match wanted.trick {
        Some(Trick::OffChain) => {
            message.answers.extend(forged_records(&Labels::of("off.cdn.example"), question.kind));
        }
        Some(Trick::Authority) => message.authority = forged,
        Some(Trick::Additional) => message.additional = forged,
        Some(Trick::Fragmented) => {
            // Nobody looks at text, so that the answer is only long.
            let text = [&[250][..], &[b'x'; 250]].concat();
            for _ in 0..12 {
                message.additional.push(Record {
                    owner: question.name.encode(),
                    kind: kind::TXT,
                    ttl,
                    data: text.clone(),
                });
            }
        }
        _ => {}
    }
    if message.answers.is_empty() {
        message.authority.push(Record::start_of_zone(&zone, ttl));
    }
    message
}

fn address_records(owner: &Labels, ttl: u32, asked: u16, wanted: &Wanted) -> Vec<Record> {
    let addresses = wanted.addresses(asked);
    if asked == kind::HTTPS {
        return vec![Record::https(owner, ttl, &addresses)];
    }
    addresses.into_iter().map(|address| Record::address(owner, ttl, address)).collect()
}

/// The forged address of a question, as a record of some name; its number is the name's.
fn forged_records(owner: &Labels, asked: u16) -> Vec<Record> {
    let index = index(Wanted::by(owner).number, 0);
    let address = match asked {
        kind::A => IpAddr::from(Ipv4Addr::from(FORGED_V4 + index)),
        kind::AAAA => address_v6(FORGED_V6, index).into(),
        _ => return Vec::new(),
    };
    vec![Record::address(owner, 300, address)]
}

/// A name that has the question's text if one joins its labels without a look at their bytes.
fn odd(name: &Labels, byte: u8) -> Labels {
    let mut labels = name.0.clone();
    if labels.len() > 1 {
        let second = labels.remove(1);
        if let Some(first) = labels.first_mut() {
            first.insert(0, b'x');
            first.push(byte);
            first.extend(second);
        }
    }
    Labels(labels)
}

/// Every letter in its other case.
fn inverted(name: &Labels) -> Labels {
    let other = |byte: &u8| {
        if byte.is_ascii_lowercase() {
            byte.to_ascii_uppercase()
        } else {
            byte.to_ascii_lowercase()
        }
    };
    Labels(name.0.iter().map(|label| label.iter().map(other).collect()).collect())
}

/// The message with a pointer for its first record's name, which points so far behind itself.
fn with_pointer(bytes: &[u8], question: &Question, ahead: usize) -> Vec<u8> {
    let record = 12 + question.name.encode().len() + 4;
    let owner = Labels::read(bytes, record).map_or(record, |(_, end)| end);
    let to = u16::try_from(record + ahead).unwrap_or_default() | 0xc000;
    let mut message = bytes.to_vec();
    if owner <= message.len() {
        message.splice(record..owner, to.to_be_bytes());
    }
    message
}

fn index(number: u32, place: u32) -> u32 {
    // Not the first address, which might be a network's.
    number % (2 * NUMBERS) * EACH + 1 + place % MOST
}

fn address_v6(prefix: [u16; 6], index: u32) -> Ipv6Addr {
    let [a, b, c, d, e, f] = prefix;
    let [first, second, third, fourth] = index.to_be_bytes();
    let low = [[first, second], [third, fourth]].map(u16::from_be_bytes);
    let [g, h] = low;
    Ipv6Addr::new(a, b, c, d, e, f, g, h)
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::{super::wire::Read, *};

    fn question(name: &str, kind: u16) -> Question {
        Question { id: 7, name: Labels::of(name), kind, edns: Some(1232) }
    }

    fn read(name: &str, kind: u16, transport: Transport) -> Vec<Option<Read>> {
        let sent = deliveries(&question(name, kind), transport);
        sent.iter().map(|delivery| Read::of(&delivery.bytes)).collect()
    }

    fn only(name: &str, kind: u16) -> Read {
        let mut all = read(name, kind, Transport::Udp);
        assert_eq!(all.len(), 1, "{name}");
        all.remove(0).unwrap()
    }

    #[test]
    fn labels_say_what_the_answer_is() {
        let plain = only("n5.w.lab.example", kind::A);
        assert_eq!(plain.addresses(), [(v4("n5.x", 0).into(), 300)]);
        assert_eq!(v4("n5.w.lab.example", 0), Ipv4Addr::new(20, 0, 1, 65));
        assert_eq!(v6("n5.w.lab.example", 0), "2a01:111::141".parse::<Ipv6Addr>().unwrap());
        let many = only("n6.many25.ttl0.w.lab.example", kind::AAAA);
        assert_eq!(many.addresses().len(), 25);
        assert_eq!(many.addresses()[24], (v6("n6.a", 24).into(), 0));
        let chain = only("n7.chain3.backward.ttl2147483648.w.lab.example", kind::A);
        assert_eq!(chain.answers.len(), 4);
        assert_eq!(chain.answers[0].1, kind::A);
        assert_eq!(
            chain.answers[3].0,
            Labels::of("n7.chain3.backward.ttl2147483648.w.lab.example")
        );
        assert_eq!(chain.addresses()[0].1, 1 << 31);
        let literal = only("ip-169-254-169-254.ip6-64-ff9b--a00-1.w.lab.example", kind::AAAA);
        assert_eq!(literal.addresses(), [("64:ff9b::a00:1".parse().unwrap(), 300)]);
        assert_eq!(only("nxdomain.w.lab.example", kind::A).code(), 3);
        assert_eq!(only("nodata.w.lab.example", kind::A).others, [1, 1]);
        assert!(read("silent.w.lab.example", kind::A, Transport::Udp).is_empty());
        assert!(only("n1.cut.w.lab.example", kind::A).truncated());
        let whole = read("n1.cut.w.lab.example", kind::A, Transport::Tcp);
        assert_eq!(whole[0].as_ref().unwrap().addresses().len(), 1);
        assert!(only("n1.many60.w.lab.example", kind::AAAA).truncated(), "too long for UDP");
    }

    #[test]
    fn each_trick_does_what_it_says() {
        for (word, trick) in TRICKS {
            let name = format!("n9.{word}.w.lab.example");
            let all = read(&name, kind::A, Transport::Udp);
            let honest = (IpAddr::from(v4(&name, 0)), 300);
            let forged = (IpAddr::from(forged_v4(&name)), 300);
            let read = |place: usize| all[place].as_ref().unwrap();
            match trick {
                Trick::WrongId
                | Trick::WrongPort
                | Trick::WrongAddress
                | Trick::WrongCase
                | Trick::WrongType
                | Trick::WrongName
                | Trick::NotAResponse => {
                    assert_eq!(read(0).addresses(), [forged], "{word}");
                    assert_eq!(read(1).addresses(), [honest], "{word}");
                    assert_eq!(read(1).id, 7, "{word}");
                }
                Trick::Replay => assert_eq!(read(2).addresses(), [forged]),
                Trick::Unsolicited => assert_eq!(read(1).id, 8),
                Trick::PointerLoop | Trick::CutShort | Trick::BadLength => {
                    assert_eq!(all, [None], "{word}");
                }
                // A pointer forward can be read by those who don't look where it leads.
                Trick::PointerForward => assert_eq!(all.len(), 1),
                Trick::OffChain => {
                    assert_eq!(read(0).addresses().len(), 2);
                    assert_eq!(read(0).addresses()[0], honest);
                }
                Trick::Authority => assert_eq!(read(0).others, [1, 1]),
                Trick::Additional => assert_eq!(read(0).others, [0, 2]),
                Trick::Loop => assert_eq!(read(0).answers.len(), 3),
                Trick::Fork => assert_eq!(read(0).answers.len(), 4),
                Trick::DotLabel | Trick::NulLabel => {
                    assert_eq!(read(0).answers.len(), 2);
                    assert_eq!(read(0).addresses(), [honest]);
                }
                Trick::Fragmented => assert_eq!(read(0).others, [0, 13]),
                Trick::CutFull => {
                    assert!(read(0).truncated());
                    assert_eq!(read(0).addresses(), [forged]);
                }
            }
        }
    }

    #[test]
    fn addresses_of_numbers_are_each_their_own() {
        let mut all = std::collections::BTreeSet::new();
        for number in [0, 1, 2, 9_999, 65_535] {
            for place in 0..MOST {
                assert!(all.insert(v4(&format!("n{number}.w"), place)));
            }
        }
        assert!(all.iter().all(|address| address.octets()[0] == 20 && address.octets()[1] < 128));
    }
}
