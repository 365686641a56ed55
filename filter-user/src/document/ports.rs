// SPDX-License-Identifier: MIT OR Apache-2.0
//! Port phrases: `**TCP:** 80, 443`, `HTTPS/443`, `tcp ports 80 and 443`, `UDP 3478-3481`.

use std::{collections::BTreeSet, fmt};

/// Destination ports from `first` to `last`, both in it; `0 < first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The ports that a page gives for endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    /// TCP destination ports.
    pub tcp: BTreeSet<PortRange>,
    /// UDP destination ports.
    pub udp: BTreeSet<PortRange>,
}

/// What was read, and whether the protocol was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Phrase {
    pub(super) ports: PortSet,
    pub(super) protocol: Protocol,
}

/// Whether the text names a protocol for each of its ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    /// It does, by name or by scheme.
    #[default]
    Said,
    /// It doesn't for some port; TCP was assumed.
    Assumed,
}

/// How much of a text is about ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All of it: any number is a port.
    Cell,
    /// Little of it: a number is a port only right behind a word that says so.
    Sentence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Tcp,
    Udp,
    Scheme(u16),
    Port,
    Number(PortRange),
    /// `,`, `/`, "and", "or": what may stand between two ports.
    Joint,
    /// `(` and `/`: what may stand between a port and its protocol.
    Suffix,
    /// "protocol": the number behind it is none of a port.
    Protocol,
    /// What stands behind a number to make it the name of a port.
    Rank,
    Break,
    Other,
}

/// What a number in front of a dash and a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compound {
    Port,
    Other,
}

/// "port" in the languages that pages come in; a prefix of the word is enough.
const PORT_WORDS: [&str; 13] = [
    "port",
    "puert",
    "poort",
    "portti",
    "порт",
    "ポート",
    "端口",
    "連接埠",
    "埠",
    "포트",
    "منفذ",
    "पोर्ट",
    "πόρτ",
];

const JOINT_WORDS: [&str; 33] = [
    "and",
    "or",
    "och",
    "eller",
    "et",
    "ou",
    "und",
    "oder",
    "y",
    "o",
    "e",
    "en",
    "of",
    "i",
    "lub",
    "и",
    "или",
    "og",
    "ja",
    "tai",
    "および",
    "または",
    "と",
    "和",
    "或",
    "或者",
    "及",
    "與",
    "및",
    "또는",
    "와",
    "oraz",
    "ve",
];

/// "protocol", as a prefix of the word.
const PROTOCOL_WORDS: [&str; 6] =
    ["protoc", "protok", "протокол", "プロトコル", "协议", "프로토콜"];

/// Words between the first and the last port of a range.
const RANGE_WORDS: [&str; 10] =
    ["to", "through", "thru", "bis", "till", "à", "tot", "až", "do", "до"];

impl PortRange {
    /// Every port but 0.
    pub const ANY: Self = Self { first: 1, last: u16::MAX };

    /// A range; `None` where it is empty or holds port 0.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// A port, or a range of ports with a dash; `None` where a text is neither.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let text = text.trim();
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
        };
        match text.split_once('-') {
            Some((first, last)) => Self::new(number(first)?, number(last)?),
            None => number(text).and_then(|port| Self::new(port, port)),
        }
    }

    /// Both ranges as one; `None` where there are ports between them.
    #[must_use]
    pub fn joined(self, other: Self) -> Option<Self> {
        let (low, high) = if self.first <= other.first { (self, other) } else { (other, self) };
        (u32::from(high.first) <= u32::from(low.last) + 1)
            .then_some(Self { first: low.first, last: low.last.max(high.last) })
    }

    /// The lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl PortSet {
    /// One TCP port.
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self { tcp: PortRange::new(port, port).into_iter().collect(), udp: BTreeSet::new() }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty()
    }

    /// Adds the ports of another set.
    pub fn extend(&mut self, other: &Self) {
        self.tcp.extend(&other.tcp);
        self.udp.extend(&other.udp);
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (protocol, ports) in [("tcp", &self.tcp), ("udp", &self.udp)] {
            if !ports.is_empty() {
                write!(f, "{between}{protocol}")?;
                for port in ports {
                    write!(f, " {port}")?;
                }
                between = ", ";
            }
        }
        Ok(())
    }
}

/// Reads the ports out of a text.
pub(super) fn read(text: &str, reading: Reading) -> Phrase {
    let words: Vec<Word> = words(text).into_iter().map(|(word, _)| word).collect();
    let mut phrase = Phrase::default();
    for segment in words.split(|word| *word == Word::Break) {
        read_segment(segment, reading, &mut phrase);
    }
    phrase
}

/// The length of what is about ports at the start of a text, with a protocol and a port in it.
pub(super) fn prefix(text: &str) -> Option<usize> {
    let mut length = 0;
    let (mut protocol, mut port) = (false, false);
    for (word, end) in words(text) {
        match word {
            Word::Other | Word::Protocol | Word::Break => break,
            Word::Tcp | Word::Udp | Word::Scheme(_) => protocol = true,
            Word::Number(_) => port = true,
            Word::Port | Word::Rank => {}
            // A joint at the end belongs to what follows.
            Word::Joint | Word::Suffix => continue,
        }
        length = end;
    }
    let rest = text.get(length..)?;
    let closing = rest.len() - rest.trim_start_matches([')', '*', '`', ' ', '.', ';']).len();
    (protocol && port).then_some(length + closing)
}

/// The length of a text that is nothing but several ports, or nothing but protocols.
///
/// One number alone may be anything.
pub(super) fn lone_part(text: &str) -> Option<usize> {
    let words = words(text);
    let only = |test: fn(&Word) -> bool| {
        words.iter().all(|(word, _)| test(word) || matches!(word, Word::Joint | Word::Suffix))
    };
    let numbers = words.iter().filter(|(word, _)| matches!(word, Word::Number(_))).count();
    let ports = numbers > 1 && only(|word| matches!(word, Word::Number(_)));
    let protocols =
        numbers == 0 && !words.is_empty() && only(|word| matches!(word, Word::Tcp | Word::Udp));
    (ports || protocols).then_some(text.len())
}

/// Whether a text has ports and no word that is about anything else.
pub(super) fn is_only_ports(text: &str) -> bool {
    words(text).iter().all(|(word, _)| *word != Word::Other)
        && !read(text, Reading::Cell).ports.is_empty()
}

fn read_segment(words: &[Word], reading: Reading, phrase: &mut Phrase) {
    let mut protocols: Vec<Word> = Vec::new();
    let mut numbers = Vec::new();
    let mut schemes = Vec::new();
    // In a sentence, whether a number here would be a port.
    let mut chained = reading == Reading::Cell;
    let mut last_protocol = usize::MAX;
    let following = following_protocols(words);
    let behind_ports = reading == Reading::Cell && protocols_last(words);
    for (index, word) in words.iter().enumerate() {
        let before = words.get(..index).unwrap_or_default();
        match *word {
            Word::Tcp | Word::Udp => {
                // "TCP/UDP" and "TCP and UDP" are both; "TCP 80 UDP 53" is one after the other.
                let beside =
                    words.get(last_protocol.saturating_add(1)..index).is_some_and(|between| {
                        between.iter().all(|word| matches!(word, Word::Joint | Word::Suffix))
                    });
                // "443 TCP, UDP 53": each has its own number beside it.
                let apart = matches!(words.get(index + 1), Some(Word::Number(_)))
                    && matches!(words.get(..last_protocol.min(index)), Some([.., Word::Number(_)]));
                if !beside || apart {
                    protocols.clear();
                }
                protocols.push(*word);
                last_protocol = index;
                chained = true;
            }
            Word::Port => chained = true,
            Word::Scheme(port) => {
                schemes.push(port);
                chained = true;
            }
            Word::Number(span) if is_version(before, span) => {}
            Word::Number(span)
                if chained || matches!(words.get(index + 1), Some(Word::Rank | Word::Port)) =>
            {
                let behind = words.get(index + 1..).unwrap_or_default();
                let following = following.get(index).map(Vec::as_slice).unwrap_or_default();
                // In a sentence only the nearest protocol is sure.
                let following = match reading {
                    Reading::Cell => following,
                    Reading::Sentence => {
                        following.last().map(std::slice::from_ref).unwrap_or_default()
                    }
                };
                let before = if behind_ports { &[][..] } else { protocols.as_slice() };
                numbers.push((span, protocols_of(behind, before, following)));
            }
            Word::Number(_) => {}
            Word::Joint | Word::Suffix | Word::Rank => {}
            Word::Other | Word::Protocol | Word::Break => {
                chained = reading == Reading::Cell;
                if reading == Reading::Sentence {
                    protocols.clear();
                }
            }
        }
    }
    for (span, protocols) in &numbers {
        if protocols.is_empty() {
            phrase.ports.tcp.insert(*span);
            // A port that a scheme stands beside has said its protocol.
            if schemes.is_empty() {
                phrase.protocol = Protocol::Assumed;
            }
        }
        for protocol in protocols {
            match protocol {
                Word::Udp => phrase.ports.udp.insert(*span),
                _ => phrase.ports.tcp.insert(*span),
            };
        }
    }
    if numbers.is_empty() && reading == Reading::Cell {
        phrase.ports.tcp.extend(schemes.into_iter().filter_map(|port| PortRange::new(port, port)));
    }
}

/// Whether a number belongs to the word before it: "HTTP/2", "SMB 3", "IP protocol 50".
fn is_version(before: &[Word], number: PortRange) -> bool {
    let small = number.last < 10;
    match before {
        [.., Word::Protocol] => true,
        [.., Word::Other] => small,
        _ => false,
    }
}

/// The protocols of a number: those in brackets or behind a slash, those said before, or the
/// ones that follow.
fn protocols_of(behind: &[Word], before: &[Word], following: &[Word]) -> Vec<Word> {
    if let [Word::Suffix, rest @ ..] = behind {
        let attached: Vec<Word> = rest
            .iter()
            .take_while(|word| matches!(word, Word::Tcp | Word::Udp | Word::Suffix | Word::Joint))
            .filter(|word| matches!(word, Word::Tcp | Word::Udp))
            .copied()
            .collect();
        if !attached.is_empty() {
            return attached;
        }
    }
    if !before.is_empty() {
        return before.to_vec();
    }
    following.to_vec()
}

/// For each word, the protocols that come next behind it: "443 TCP/UDP" is both, and "443 TCP,
/// UDP 53" is one for each.
fn following_protocols(words: &[Word]) -> Vec<Vec<Word>> {
    let mut following = vec![Vec::new(); words.len()];
    let mut next: Vec<Word> = Vec::new();
    let mut joins = false;
    let mut number_next = false;
    for (slot, word) in following.iter_mut().zip(words).rev() {
        slot.clone_from(&next);
        match word {
            Word::Tcp | Word::Udp => {
                if !joins {
                    next.clear();
                }
                if !next.contains(word) {
                    next.push(*word);
                }
                // A protocol right in front of a number is that number's alone.
                joins = !number_next;
                number_next = false;
            }
            Word::Joint => number_next = false,
            Word::Suffix => {}
            Word::Port | Word::Rank => joins = false,
            Word::Number(_) => (joins, number_next) = (false, true),
            _ => (joins, number_next) = (false, false),
        }
    }
    following
}

/// Whether the protocols of a cell stand behind their ports: "80, 443 TCP and 1853 UDP".
fn protocols_last(words: &[Word]) -> bool {
    let is_said = |word: &&Word| matches!(word, Word::Tcp | Word::Udp | Word::Number(_));
    matches!(words.iter().find(is_said), Some(Word::Number(_)))
        && matches!(words.iter().rev().find(is_said), Some(Word::Tcp | Word::Udp))
}

/// The words of a text, each with the offset of its end.
fn words(text: &str) -> Vec<(Word, usize)> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let position = text.len() - rest.len();
        let (found, length) = if character.is_ascii_digit()
            && text.get(..position).is_some_and(ends_in_version)
        {
            // "TLSv1.2"
            let length =
                rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
            (Some(Word::Other), length)
        } else if character.is_ascii_digit() {
            // "HTTPS/443-trafik" is a port, "2048-bit" is none.
            let announced = words.last().is_some_and(|(word, _)| {
                matches!(word, Word::Tcp | Word::Udp | Word::Scheme(_) | Word::Port | Word::Suffix)
            });
            let compound = if announced { Compound::Port } else { Compound::Other };
            let (word, length) = number(rest, compound);
            (Some(word), length)
        } else if character.is_alphabetic() {
            // Scripts without blanks between words run into "TCP" and into the numbers.
            let is_wide = |c: char| c >= '\u{2e80}';
            let wide = is_wide(character);
            let ends = |letter: char| {
                !letter.is_alphanumeric()
                    || is_wide(letter) != wide
                    || (wide && letter.is_ascii_digit())
            };
            let length = rest.find(ends).unwrap_or(rest.len());
            let version = version_length(rest.get(length..).unwrap_or_default());
            match word(rest.get(..length).unwrap_or_default()) {
                // "HTTP/2" is a version, not a scheme with its port.
                Some(Word::Scheme(_)) if version > 0 => (None, length + version),
                // A URL says its port by itself.
                Some(_) if rest.get(length..).is_some_and(|rest| rest.starts_with("://")) => {
                    (Some(Word::Other), length)
                }
                found => (found, length),
            }
        } else {
            let tag = ["<br>", "<br/>", "<br />"].iter().find(|tag| {
                rest.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag))
            });
            match (tag, character) {
                (Some(tag), _) => (Some(Word::Break), tag.len()),
                (None, '/' | '(' | '（' | '／') => (Some(Word::Suffix), character.len_utf8()),
                (None, ',' | '、' | '،' | '，' | '&' | '+') => {
                    (Some(Word::Joint), character.len_utf8())
                }
                (None, '\n' | ';' | '；') => (Some(Word::Break), character.len_utf8()),
                // Markup and what ends a label say nothing.
                _ => (None, character.len_utf8()),
            }
        };
        rest = rest.get(length..).unwrap_or_default();
        let end = text.len() - rest.len();
        words.extend(found.map(|word| (word, end)));
    }
    words
}

/// The length of `/2` or `/1.1` at the start of a text.
fn version_length(text: &str) -> usize {
    let Some(behind) = text.strip_prefix('/') else { return 0 };
    let length = behind.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(behind.len());
    let number = behind.get(..length).unwrap_or_default().trim_end_matches('.');
    let major = number.split('.').next().unwrap_or_default();
    if major.len() == 1 { 1 + number.len() } else { 0 }
}

/// Whether a text ends with a dot right behind a letter or a digit.
fn ends_in_version(text: &str) -> bool {
    let mut behind = text.chars().rev();
    behind.next() == Some('.') && behind.next().is_some_and(|c| c.is_ascii_alphanumeric())
}

/// A port at the start of a text, and its length; `50,019` has a mark for the thousands.
fn port(text: &str) -> (Option<u16>, usize) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (first, behind) = text.split_at_checked(digits).unwrap_or_default();
    let group = behind.strip_prefix(',').and_then(|group| group.get(..3));
    let ends = behind.get(4..).is_none_or(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    if let Some(group) =
        group.filter(|group| ends && group.bytes().all(|byte| byte.is_ascii_digit()))
    {
        // "80,443" is a list; no port begins with a zero, and few lists begin with one digit.
        if digits == 1 || (digits == 2 && group.starts_with('0')) {
            return (format!("{first}{group}").parse().ok(), digits + 4);
        }
    }
    (first.parse().ok(), digits)
}

/// A port or a range of ports at the start of a text.
fn number(text: &str, compound: Compound) -> (Word, usize) {
    let (first, first_end) = port(text);
    let rest = text.get(first_end..).unwrap_or_default();
    let dash = range_sign(rest);
    if let Some(behind) = dash.filter(|behind| behind.starts_with(|c: char| c.is_ascii_digit())) {
        let (last, last_end) = port(behind);
        let length = text.len() - behind.len() + last_end;
        let span = first.zip(last).and_then(|(first, last)| PortRange::new(first, last));
        return (span.map_or(Word::Other, Word::Number), length);
    }
    // "21H2", "4.5" and "50%" are no ports.
    let mut behind = rest.chars();
    let glued = match (behind.next(), behind.next()) {
        (Some(next), _) if next.is_alphanumeric() && next.is_ascii() => true,
        (Some('.'), Some(next)) => next.is_ascii_digit(),
        (Some('-'), Some(next)) => next.is_alphabetic() && compound == Compound::Other,
        (Some('%'), _) => true,
        _ => false,
    };
    if glued {
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".%-".contains(c)));
        return (Word::Other, length.map_or(text.len(), |length| first_end + length));
    }
    let span = first.and_then(|port| PortRange::new(port, port));
    (span.map_or(Word::Other, Word::Number), first_end)
}

/// What follows a dash or a word such as "to" between two numbers.
fn range_sign(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let behind = match text.strip_prefix(['-', '–', '—', '‑', '−', '~', '〜', '～']) {
        Some(behind) => behind,
        None => RANGE_WORDS
            .iter()
            .find_map(|word| text.strip_prefix(word).filter(|behind| behind.starts_with(' ')))?,
    };
    Some(behind.trim_start())
}

fn word(text: &str) -> Option<Word> {
    let lower = text.to_lowercase();
    Some(match lower.as_str() {
        "tcp" => Word::Tcp,
        "udp" => Word::Udp,
        "http" | "ws" => Word::Scheme(80),
        "https" | "wss" => Word::Scheme(443),
        // Spoken over UDP alone; the name of the protocol says so as well as "UDP" would.
        "ntp" | "sntp" | "quic" | "stun" | "dtls" | "rtp" | "srtp" => Word::Udp,
        "numaralı" | "nolu" | "号" | "號" => Word::Rank,
        rank if rank.starts_with('番') => Word::Rank,
        protocol if PROTOCOL_WORDS.iter().any(|word| protocol.starts_with(word)) => Word::Protocol,
        joint if JOINT_WORDS.contains(&joint) => Word::Joint,
        other if PORT_WORDS.iter().any(|port| other.starts_with(port)) => Word::Port,
        _ => Word::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reading: Reading, text: &str, expected: &str) {
        assert_eq!(read(text, reading).ports.to_string(), expected, "{text}");
    }

    #[test]
    fn cells() {
        for (text, expected) in [
            ("**TCP:** 80, 443", "tcp 80 443"),
            ("**UDP:** 123", "udp 123"),
            ("**TCP:** 443, 80<BR>**UDP:** 3478-3481", "tcp 80 443, udp 3478-3481"),
            ("TCP : 80, 443 UDP : 3478", "tcp 80 443, udp 3478"),
            ("HTTP/HTTPS", "tcp 80 443"),
            ("HTTPS/443", "tcp 443"),
            ("80 or 443", "tcp 80 443"),
            ("443 (TCP), 3478 (UDP)", "tcp 443, udp 3478"),
            ("443/tcp, 53/udp", "tcp 443, udp 53"),
            ("TCP/UDP 3478", "tcp 3478, udp 3478"),
            ("443, 80 TCP/UDP", "tcp 80 443, udp 80 443"),
            ("443 TCP, 19305-19309 TCP/UDP", "tcp 443 19305-19309, udp 19305-19309"),
            ("80/443/8200 TCP and 1853 UDP", "tcp 80 443 8200, udp 1853"),
            ("443 TCP, UDP 53", "tcp 443, udp 53"),
            ("TCP and UDP: 53", "tcp 53, udp 53"),
            ("TCP 5223 and 443", "tcp 443 5223"),
            ("443 TCP", "tcp 443"),
            ("UDP 50000–50059", "udp 50000-50059"),
            ("", ""),
            ("0, 70000", ""),
            ("443-80", ""),
            ("50000 to 50059 UDP", "udp 50000-50059"),
            ("TCP：80、443", "tcp 80 443"),
        ] {
            check(Reading::Cell, text, expected);
        }
        assert_eq!(read("443, 80", Reading::Cell).protocol, Protocol::Assumed);
        assert_eq!(read("TCP 443", Reading::Cell).protocol, Protocol::Said);
    }

    #[test]
    fn sentences() {
        for (text, expected) in [
            ("allow the following hostnames on tcp port 443 through", "tcp 443"),
            (
                "access to these endpoints on tcp ports 80 and 443 through your firewall",
                "tcp 80 443",
            ),
            ("no firewall rules blocking outbound HTTPS/443 traffic", "tcp 443"),
            ("it uses HTTP or HTTPS over port 80/443.", "tcp 80 443"),
            ("Windows 10, version 21H2 and Windows 11 use HTTPS", ""),
            ("with a value of North America 0501 or similar", ""),
            ("uses TCP 5223 and 443", "tcp 443 5223"),
            ("sur le port TCP 443", "tcp 443"),
            ("tcp-port 443", "tcp 443"),
            ("utgående HTTPS/443-trafik", "tcp 443"),
            ("use port 443, and a 2048-bit key", "tcp 443"),
            ("TCPポート443を許可", "tcp 443"),
        ] {
            check(Reading::Sentence, text, expected);
        }
    }
}
