// SPDX-License-Identifier: MIT OR GPL-2.0
//! Rejecting: which denied packets their clients are told of, and what they are told.
//!
//! TCP gets a reset, which looks as if it came from the destination. Everything else gets an ICMP
//! error, "administratively prohibited", from the gateway. The answer is made of the packet itself,
//! in its place, and goes back by the NIC through which it came.

use crate::{
    flow::{Clock, tcp},
    frame::{Frame, FrameMut},
    parse::{Address, Fragment, Headers, ethertype, protocol},
    tables::Mode,
    verdict::{DropReason, Verdict},
    wire::{ANSWERS_AT_ONCE, ANSWERS_PER_SECOND, AddressPair, RejectBucket, SlotSettings},
};

/// The longest ICMP error over IPv4, from the IP header on (RFC 1812, section 4.3.2.3).
const LONGEST_V4: u32 = 576;
/// The longest ICMP error over IPv6: the least MTU (RFC 4443, section 2.4 c).
const LONGEST_V6: u32 = 1280;
/// The shortest Ethernet frame, without its checksum (IEEE 802.3, section 4.4.2).
const SHORTEST_FRAME: u32 = 60;
/// TTL and hop limit of answers.
const HOPS: u8 = 64;
/// Bytes that are summed up at a time.
const CHUNK: u32 = 16;

/// What a client is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// Nothing.
    #[default]
    None = 0,
    /// The connection is refused or over: a TCP reset.
    Reset = 1,
    /// The destination is administratively prohibited: ICMP type 3 code 13 (RFC 1812, section
    /// 5.2.7.1), ICMPv6 type 1 code 1 (RFC 4443, section 3.1).
    Unreachable = 2,
}

/// What both kinds of answers have behind their link header.
struct Shape {
    /// Where the IP header begins.
    network: u32,
    /// The length of the IP header.
    header: u32,
    /// The length of what it carries.
    payload: u32,
    /// The protocol of what it carries.
    protocol: u8,
}

/// The fields of a reset that depend on the segment it answers.
#[derive(Clone, Copy, Default)]
struct Reset {
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    flags: u8,
}

// === impl Answer ===

impl Answer {
    /// The answer with a code.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Reset),
            2 => Some(Self::Unreachable),
            _ => None,
        }
    }

    /// Its code.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Its stable name; `None` where nothing is told.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Reset => Some("reset"),
            Self::Unreachable => Some("unreachable"),
        }
    }
}

// === impl RejectBucket ===

impl RejectBucket {
    /// The bucket of a client that gets its first answer now.
    #[inline(always)]
    #[must_use]
    pub const fn first(clock: Clock) -> Self {
        Self { given: clock.now, credit: (ANSWERS_AT_ONCE - 1) * clock.hertz }
    }

    /// Takes the price of an answer out of the bucket; whether it was there.
    ///
    /// Two CPUs that do so at a time may both go by the same credit: a client then gets an answer
    /// too many, which harms nobody.
    #[inline(always)]
    #[must_use]
    pub const fn take(&mut self, clock: Clock) -> bool {
        let full = ANSWERS_AT_ONCE * clock.hertz;
        // Another CPU may have looked at the clock a tick later.
        let passed = clock.now.saturating_sub(self.given);
        self.given = clock.now;
        let credit = if passed > full / ANSWERS_PER_SECOND {
            full
        } else {
            let credit = self.credit.wrapping_add(passed * ANSWERS_PER_SECOND);
            if credit < full { credit } else { full }
        };
        if credit < clock.hertz {
            self.credit = credit;
            return false;
        }
        self.credit = credit - clock.hertz;
        true
    }
}

/// What the client is told of a packet that entered an inside NIC and has this verdict.
#[inline(always)]
#[must_use]
pub fn answer_to<F: Frame + ?Sized>(
    frame: &F,
    headers: &Headers,
    verdict: Verdict,
    mode: Mode,
    settings: SlotSettings,
) -> Answer {
    match verdict {
        Verdict::Drop(reason) if tells(mode, settings) => answer_to_drop(frame, headers, reason),
        Verdict::Drop(_) | Verdict::Pass(_) | Verdict::Permit(_) => Answer::None,
    }
}

/// Whether denied clients are told at all.
#[inline(always)]
#[must_use]
pub const fn tells(mode: Mode, settings: SlotSettings) -> bool {
    matches!(mode, Mode::Enforce) && settings.flags & SlotSettings::REJECT != 0
}

/// What the client is told of a packet that is dropped for this reason.
#[inline(always)]
#[must_use]
pub fn answer_to_drop<F: Frame + ?Sized>(
    frame: &F,
    headers: &Headers,
    reason: DropReason,
) -> Answer {
    if !is_denial(reason) {
        return Answer::None;
    }
    // Neither what was sent to a group of stations, nor what no station can have sent (RFC 1122,
    // section 3.2.2). The parser has read both addresses.
    let (Some(to), Some(from)) = (frame.byte(0), frame.byte(6)) else { return Answer::None };
    if to & 1 != 0 || from & 1 != 0 || headers.fragment != Fragment::Whole {
        return Answer::None;
    }
    match (headers.ip_version, headers.protocol) {
        (4 | 6, protocol::TCP) if headers.tcp_flags & tcp::RST != 0 => Answer::None,
        (4 | 6, protocol::TCP) => Answer::Reset,
        (4, protocol::ICMP) if headers.destination_port == 8 => Answer::Unreachable,
        (6, protocol::ICMPV6) if headers.destination_port == 128 => Answer::Unreachable,
        // No ICMP error is answered, nor what may be one (RFC 1122, section 3.2.2; RFC 4443,
        // section 2.4 e).
        (_, protocol::ICMP | protocol::ICMPV6) => Answer::None,
        (4 | 6, _) => Answer::Unreachable,
        (_, _) => Answer::None,
    }
}

/// Whether a drop reason is a decision of the policy on a packet that is well formed, and comes from
/// where it says.
#[inline(always)]
const fn is_denial(reason: DropReason) -> bool {
    match reason {
        DropReason::NotListed
        | DropReason::PortNotAllowed
        | DropReason::SourceNotAllowed
        | DropReason::ProtocolNotAllowed
        | DropReason::DnsNotIntercepted
        // Whoever changed the policy or cut the flow meant it to end, and this end of it is told at
        // once, as the other is by default deny.
        | DropReason::FlowCut => true,
        // Nobody knows who sent these, or whether anybody did.
        DropReason::SpoofedSource
        | DropReason::LinkLocalSource
        | DropReason::InvalidSource
        | DropReason::InvalidDestination
        // These went to many, who would all be answered for.
        | DropReason::Multicast
        | DropReason::Broadcast
        // What can't be read can't be answered.
        | DropReason::TruncatedEthernet
        | DropReason::TruncatedIp
        | DropReason::TruncatedTransport
        | DropReason::MalformedIp
        | DropReason::MalformedTransport
        | DropReason::UnknownEthertype
        | DropReason::LlcFrame
        | DropReason::VlanDepth
        | DropReason::UnknownPpp
        | DropReason::FragmentTooShort
        | DropReason::FragmentOverlap
        | DropReason::FragmentWithoutFirst
        | DropReason::SourceRoute
        | DropReason::RoutingHeader
        | DropReason::ExtensionHeaders
        // Echo requests have a rule to be allowed by; other ICMP is never answered.
        | DropReason::IcmpType
        | DropReason::IcmpErrorUnrelated
        | DropReason::MisplacedControl
        // A segment that is late or was sent twice doesn't fit its flow either: the flow may well
        // live on, and a reset would end it.
        | DropReason::TcpState
        // Reasons of other programs.
        | DropReason::Unsolicited
        | DropReason::NotFromInside => false,
    }
}

/// The client as the table of clients has it: IPv4 addresses mapped into IPv6, which no client has as
/// its own.
#[inline(always)]
#[must_use]
pub const fn client_key(headers: &Headers) -> [u8; 16] {
    match headers.source {
        Address::V4([a, b, c, d]) => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
        Address::V6(octets) => octets,
    }
}

/// Makes a frame, whose headers are these, into the answer to it. ICMP errors come from `gateway`,
/// or from the original destination where the gateway has no address of the family.
///
/// `None` where what is needed of the frame is not at hand; the frame is then of no use any more.
#[inline(always)]
#[must_use]
pub fn make<F: FrameMut>(
    frame: &mut F,
    headers: &Headers,
    answer: Answer,
    gateway: &AddressPair,
) -> Option<()> {
    let network = frame.forget(headers.network);
    let v4 = headers.ip_version == 4;
    let header = if v4 { 20 } else { 40 };
    let mut reset = Reset::default();
    let (shape, room) = match answer {
        Answer::None => return None,
        Answer::Reset => {
            reset = Reset::of(frame, headers)?;
            (Shape { network, header, payload: 20, protocol: protocol::TCP }, 0)
        }
        Answer::Unreachable => {
            let (longest, protocol) =
                if v4 { (LONGEST_V4, protocol::ICMP) } else { (LONGEST_V6, protocol::ICMPV6) };
            let room = header + 8;
            let quote = shorter(headers.end.saturating_sub(network), longest - room);
            (Shape { network, header, payload: 8 + quote, protocol }, room)
        }
    };
    // The header of IP is 20 bytes long at least, so that these are there however long the link
    // header is; what is not of it is written over below.
    let [a, b, c, d, e, f, g, h, i, j, k, l, rest @ ..] = frame.read::<32>(0)?;
    let needed = network + header + shape.payload;
    let padded = shorter(frame.len(), SHORTEST_FRAME);
    let length = if needed < padded { padded } else { needed };
    frame.reshape(room, length)?;

    frame.write(0, [g, h, i, j, k, l, a, b, c, d, e, f])?;
    frame.write::<20>(12, rest)?;
    if headers.ethertype == ethertype::PPPOE_SESSION {
        // The length counts the number of the protocol too (RFC 2516, section 4).
        frame.write(network.wrapping_sub(4), low16(2 + header + shape.payload))?;
    }
    let pseudo = write_ip(frame, headers, &shape, answer, gateway)?;
    let transport = network + header;
    match answer {
        Answer::None => None,
        Answer::Reset => {
            // The padding is six bytes long at most, as headers of IPv4 and TCP are 40.
            frame.write(length.wrapping_sub(6), [0; 6])?;
            frame.write(transport, reset.segment(headers, pseudo))
        }
        Answer::Unreachable => {
            let (kind, code, pseudo) = if v4 { (3, 13, 0) } else { (1, 1, pseudo) };
            let sum = sum_of(frame, transport + 8, shape.payload.saturating_sub(8))?;
            let [high, low] = checksum(sum + pseudo + word(kind, code));
            frame.write(transport, [kind, code, high, low, 0, 0, 0, 0])
        }
    }
}

// === impl Reset ===

impl Reset {
    /// What the sender of a segment takes for the answer to it (RFC 9293, section 3.10.7.1).
    #[inline(always)]
    fn of<F: Frame + ?Sized>(frame: &F, headers: &Headers) -> Option<Self> {
        let [s0, s1, s2, s3, a0, a1, a2, a3] = frame.read::<8>(headers.transport + 4)?;
        let flags = headers.tcp_flags;
        if flags & tcp::ACK != 0 {
            let sequence = [a0, a1, a2, a3];
            return Some(Self { sequence, acknowledgement: [0; 4], flags: tcp::RST });
        }
        // SYN and FIN count as a byte each.
        let length = headers.end.saturating_sub(headers.data)
            + u32::from(flags & tcp::SYN != 0)
            + u32::from(flags & tcp::FIN != 0);
        let next = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(length);
        Some(Self {
            sequence: [0; 4],
            acknowledgement: next.to_be_bytes(),
            flags: tcp::RST | tcp::ACK,
        })
    }

    /// The whole segment; `pseudo` is the sum of its pseudo header.
    #[inline(always)]
    fn segment(self, headers: &Headers, pseudo: u32) -> [u8; 20] {
        const WORDS: u8 = 5 << 4;
        let [d0, d1] = headers.destination_port.to_be_bytes();
        let [c0, c1] = headers.source_port.to_be_bytes();
        let Self { sequence, acknowledgement, flags } = self;
        let [high, low] = checksum(
            pseudo
                + sum4([d0, d1, c0, c1])
                + sum4(sequence)
                + sum4(acknowledgement)
                + word(WORDS, flags),
        );
        let ([s0, s1, s2, s3], [a0, a1, a2, a3]) = (sequence, acknowledgement);
        [d0, d1, c0, c1, s0, s1, s2, s3, a0, a1, a2, a3, WORDS, flags, 0, 0, high, low, 0, 0]
    }
}

/// Writes the answer's IP header, and returns the sum of the pseudo header of what it carries.
#[inline(always)]
fn write_ip<F: FrameMut>(
    frame: &mut F,
    headers: &Headers,
    shape: &Shape,
    answer: Answer,
    gateway: &AddressPair,
) -> Option<u32> {
    let Shape { network, header, payload, protocol } = *shape;
    match (headers.source, headers.destination) {
        (Address::V4(client), Address::V4(destination)) => {
            let (service, source) = match answer {
                // Internetwork control (RFC 1812, section 4.3.2.5).
                Answer::Unreachable if u32::from_ne_bytes(gateway.v4) != 0 => (0xc0, gateway.v4),
                Answer::Unreachable => (0xc0, destination),
                Answer::Reset | Answer::None => (0, destination),
            };
            let addresses = sum4(source) + sum4(client);
            let [length_high, length_low] = low16(header + payload);
            let [high, low] = checksum(
                addresses
                    + word(0x45, service)
                    + word(length_high, length_low)
                    + word(0x40, 0)
                    + word(HOPS, protocol),
            );
            // Not to be fragmented, so that it needs no identification (RFC 6864, section 4.1).
            frame.write(
                network,
                [0x45, service, length_high, length_low, 0, 0, 0x40, 0, HOPS, protocol, high, low],
            )?;
            frame.write(network + 12, source)?;
            frame.write(network + 16, client)?;
            Some(addresses + u32::from(protocol) + payload)
        }
        (Address::V6(client), Address::V6(destination)) => {
            let source = match answer {
                Answer::Unreachable if u128::from_ne_bytes(gateway.v6) != 0 => gateway.v6,
                Answer::Unreachable | Answer::Reset | Answer::None => destination,
            };
            let [high, low] = low16(payload);
            frame.write(network, [0x60, 0, 0, 0, high, low, protocol, HOPS])?;
            frame.write(network + 8, source)?;
            frame.write(network + 24, client)?;
            Some(sum16(source) + sum16(client) + u32::from(protocol) + payload)
        }
        (Address::V4(_), Address::V6(_)) | (Address::V6(_), Address::V4(_)) => None,
    }
}

/// The sum (RFC 1071) of `length` bytes, at most as many as an answer quotes, from `start` on.
#[inline(always)]
fn sum_of<F: Frame + ?Sized>(frame: &F, start: u32, length: u32) -> Option<u32> {
    let (mut sum, mut offset) = (0_u32, start);
    let chunks = length / CHUNK;
    for number in 0..LONGEST_V6 / CHUNK {
        if number >= chunks {
            break;
        }
        sum += sum16(frame.read::<16>(offset)?);
        offset += CHUNK;
    }
    // How many chunks there were makes no difference from here on.
    let (mut sum, mut offset) = (frame.forget(sum), frame.forget(offset));
    let mut rest = frame.forget(length % CHUNK);
    for _ in 0..CHUNK / 2 {
        if rest < 2 {
            break;
        }
        sum = sum.wrapping_add(u32::from(frame.be16(offset)?));
        offset += 2;
        rest -= 2;
    }
    if rest == 1 {
        sum = sum.wrapping_add(word(frame.byte(offset)?, 0));
    }
    Some(sum)
}

#[inline(always)]
const fn shorter(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

/// A number below 2^16 as it stands in packets.
#[inline(always)]
const fn low16(value: u32) -> [u8; 2] {
    let [_, _, high, low] = value.to_be_bytes();
    [high, low]
}

#[inline(always)]
const fn word(high: u8, low: u8) -> u32 {
    (high as u32) << 8 | low as u32
}

#[inline(always)]
const fn sum4([a, b, c, d]: [u8; 4]) -> u32 {
    word(a, b) + word(c, d)
}

#[inline(always)]
const fn sum16(bytes: [u8; 16]) -> u32 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    sum4([a, b, c, d]) + sum4([e, f, g, h]) + sum4([i, j, k, l]) + sum4([m, n, o, p])
}

/// The checksum of what has this sum (RFC 1071), as it stands in packets.
#[inline(always)]
const fn checksum(sum: u32) -> [u8; 2] {
    // Two rounds are enough for any sum of 32 bits.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    low16(!sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_a_hundred_answers_at_once_and_then_a_hundred_in_a_second() {
        for hertz in [100, 250, 1000] {
            let mut bucket = RejectBucket::first(Clock { now: 7, hertz });
            let mut at = |now| (0..1000).filter(|_| bucket.take(Clock { now, hertz })).count();
            assert_eq!(at(7), 99, "and the one that the bucket was made for");
            assert_eq!(at(7 + hertz / 10), 10);
            assert_eq!(at(7), 0, "another CPU's clock may be behind");
            assert_eq!(at(7 + hertz / 10), 10, "which gives a little more, and no debt");
            assert_eq!(at(7 + 2 * hertz), 100);
            assert_eq!(at(u64::MAX), 100, "however long it was quiet");
        }
    }

    #[test]
    fn only_the_policy_is_told_of() {
        let told = DropReason::ALL.iter().filter(|reason| is_denial(**reason));
        assert!(told.eq(&[
            DropReason::NotListed,
            DropReason::PortNotAllowed,
            DropReason::SourceNotAllowed,
            DropReason::ProtocolNotAllowed,
            DropReason::FlowCut,
            DropReason::DnsNotIntercepted,
        ]));
    }

    #[test]
    fn sums() {
        let bytes: [u8; 16] = core::array::from_fn(|number| 0xf0 | number.to_le_bytes()[0]);
        let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        assert_eq!(sum16(bytes), words.sum());
        // RFC 1071, section 3.
        assert_eq!(checksum(sum4([0, 1, 0xf2, 3]) + sum4([0xf4, 0xf5, 0xf6, 0xf7])), [0x22, 0x0d]);
        assert_eq!(checksum(u32::MAX), [0, 0]);
    }
}
