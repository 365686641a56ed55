// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers to denied frames, and what they must be: read from their bytes without any code of the
//! filter.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::{
    frame::Buffer,
    parse::Headers,
    reject::{self, Answer},
    wire::AddressPair,
};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// An IP packet in a frame.
#[derive(Debug)]
struct Packet<'a> {
    /// The link header.
    link: &'a [u8],
    version: u8,
    /// The IP packet.
    bytes: &'a [u8],
    source: IpAddr,
    destination: IpAddr,
    /// TTL or hop limit.
    hops: u8,
    /// The protocol behind all extension headers.
    protocol: u8,
    /// The IP header with options and extension headers.
    header: usize,
    /// What the IP packet carries.
    payload: &'a [u8],
    /// What follows the IP packet in the frame.
    padding: &'a [u8],
}

/// The room that the host has in front of a frame.
const ROOM: usize = 64;

/// The answer that the filter makes of a frame whose headers are these; ICMP errors come from
/// `gateway`.
///
/// # Errors
///
/// It makes none.
pub fn make(
    frame: &[u8],
    headers: &Headers,
    answer: Answer,
    gateway: &AddressPair,
) -> Result<Vec<u8>> {
    let mut bytes = [&[0xaa; ROOM], frame].concat();
    let mut buffer = Buffer::new(&mut bytes, ROOM).context("the room is behind the frame")?;
    reject::make(&mut buffer, headers, answer, gateway)
        .with_context(|| format!("{answer:?} can't be made"))?;
    Ok(buffer.frame().to_vec())
}

/// Holds an answer against the frame that it is the answer to.
///
/// # Errors
///
/// What is wrong with it: addresses, lengths, numbers, checksums, padding or the quote.
pub fn check(original: &[u8], answer: &[u8], kind: Answer) -> Result<()> {
    let asked = Packet::read(original).context("the frame that is answered")?;
    let told = Packet::read(answer)?;
    check_link(&asked, &told)?;
    ensure!(told.destination == asked.source, "it goes to {}", told.destination);
    ensure!(told.hops == 64, "TTL {}", told.hops);
    ensure!(told.header == if told.version == 4 { 20 } else { 40 }, "it has options");
    if told.version == 4 {
        ensure!(sum(0, part(told.bytes, 0, 20)?) == 0xffff, "the checksum of the header");
    }
    let padded = original.len().min(60).max(answer.len() - told.padding.len());
    ensure!(answer.len() == padded, "{} bytes, not {padded}", answer.len());
    ensure!(told.padding.iter().all(|byte| *byte == 0), "padding {:02x?}", told.padding);
    match kind {
        Answer::None => bail!("there is one"),
        Answer::Reset => check_reset(&asked, &told),
        Answer::Unreachable => check_unreachable(&asked, &told),
    }
}

/// Whether an ICMP error or a reset may be sent about a frame at all (RFC 1122, section 3.2.2;
/// RFC 4443, section 2.4).
///
/// # Errors
///
/// Why not.
pub fn may_be_answered(original: &[u8]) -> Result<()> {
    let asked = Packet::read(original)?;
    for (what, at) in [("destination", 0), ("source", 6)] {
        ensure!(byte(original, at)? & 1 == 0, "its {what} is a group of stations");
    }
    let reaches_many = |address: IpAddr| match address {
        IpAddr::V4(address) => {
            address.is_multicast() || address.is_broadcast() || address.is_unspecified()
        }
        IpAddr::V6(address) => address.is_multicast() || address.is_unspecified(),
    };
    ensure!(!reaches_many(asked.destination), "it goes to {}", asked.destination);
    ensure!(!reaches_many(asked.source), "it comes from {}", asked.source);
    if asked.version == 4 {
        ensure!(be16(asked.bytes, 6)? & 0x3fff == 0, "it is a fragment");
    }
    match (asked.version, asked.protocol) {
        (_, TCP) => ensure!(byte(asked.payload, 13)? & 4 == 0, "it is a reset"),
        (4, ICMP) => ensure!(byte(asked.payload, 0)? == 8, "it may be an ICMP error"),
        (6, ICMPV6) => ensure!(byte(asked.payload, 0)? == 128, "it may be an ICMP error"),
        _ => {}
    }
    Ok(())
}

// === impl Packet ===

impl<'a> Packet<'a> {
    fn read(frame: &'a [u8]) -> Result<Self> {
        let mut kind_at = 12;
        while matches!(be16(frame, kind_at)?, 0x8100 | 0x88a8) {
            kind_at += 4;
        }
        let network = match be16(frame, kind_at)? {
            0x8864 => kind_at + 10,
            0x0800 | 0x86dd => kind_at + 2,
            other => bail!("Ethertype {other:#06x}"),
        };
        let (link, rest) = frame.split_at_checked(network).context("no IP header")?;
        let version = byte(rest, 0)? >> 4;
        let (length, mut header, mut protocol) = if version == 4 {
            (be16(rest, 2)?.into(), usize::from(byte(rest, 0)? & 15) * 4, byte(rest, 9)?)
        } else {
            (40 + usize::from(be16(rest, 4)?), 40, byte(rest, 6)?)
        };
        let (bytes, padding) = rest.split_at_checked(length).context("the IP packet is cut")?;
        while version == 6 && matches!(protocol, 0 | 43 | 44 | 51 | 60) {
            ensure!(protocol != 44 || be16(bytes, header + 2)? & 0xfff9 == 0, "a fragment");
            let length = usize::from(byte(bytes, header + 1)?);
            let next = byte(bytes, header)?;
            header += match protocol {
                44 => 8,
                51 => length * 4 + 8,
                _ => length * 8 + 8,
            };
            protocol = next;
        }
        let (source, destination, hops): (IpAddr, IpAddr, u8) = if version == 4 {
            let address =
                |at| -> Result<IpAddr> { Ok(<[u8; 4]>::try_from(part(bytes, at, 4)?)?.into()) };
            (address(12)?, address(16)?, byte(bytes, 8)?)
        } else {
            let address =
                |at| -> Result<IpAddr> { Ok(<[u8; 16]>::try_from(part(bytes, at, 16)?)?.into()) };
            (address(8)?, address(24)?, byte(bytes, 7)?)
        };
        let payload = bytes.get(header..).context("the IP header is cut")?;
        Ok(Self {
            link,
            version,
            bytes,
            source,
            destination,
            hops,
            protocol,
            header,
            payload,
            padding,
        })
    }

    /// The sum over the pseudo header and what the packet carries.
    fn transport_sum(&self) -> Result<u16> {
        let (at, length) = if self.version == 4 { (12, 8) } else { (8, 32) };
        let pseudo = sum(0, part(self.bytes, at, length)?);
        let length = u16::try_from(self.payload.len())?.to_be_bytes();
        let pseudo = sum(pseudo, &[&length[..], &[0, self.protocol]].concat());
        Ok(sum(pseudo, self.payload))
    }
}

/// The stations change places; everything up to the IP header stays, but for PPPoE's length.
fn check_link(asked: &Packet<'_>, told: &Packet<'_>) -> Result<()> {
    let (ours, theirs) = (part(told.link, 0, 12)?, part(asked.link, 0, 12)?);
    ensure!([part(theirs, 6, 6)?, part(theirs, 0, 6)?].concat() == ours, "stations {ours:02x?}");
    let length = asked.link.len();
    ensure!(told.link.len() == length, "a link header of {} bytes", told.link.len());
    let pppoe = length > 20 && be16(asked.link, length - 10)? == 0x8864;
    let same = if pppoe { length - 4 } else { length };
    ensure!(told.link.get(12..same) == asked.link.get(12..same), "tags {:02x?}", told.link);
    if pppoe {
        let stated = usize::from(be16(told.link, length - 4)?);
        ensure!(stated == told.bytes.len() + 2, "PPPoE states {stated} bytes");
        ensure!(be16(told.link, length - 2)? == be16(asked.link, length - 2)?, "PPP's protocol");
    }
    Ok(())
}

/// RFC 9293, section 3.10.7.1.
fn check_reset(asked: &Packet<'_>, told: &Packet<'_>) -> Result<()> {
    ensure!(told.protocol == TCP && told.payload.len() == 20, "no bare TCP header");
    ensure!(told.source == asked.destination, "it comes from {}", told.source);
    ensure!(told.transport_sum()? == 0xffff, "TCP's checksum");
    let (segment, reset) = (asked.payload, told.payload);
    ensure!(
        (be16(reset, 0)?, be16(reset, 2)?) == (be16(segment, 2)?, be16(segment, 0)?),
        "ports {} and {}",
        be16(reset, 0)?,
        be16(reset, 2)?
    );
    let flags = byte(segment, 13)?;
    let data = segment.len() - usize::from(byte(segment, 12)? >> 4) * 4;
    let counted = u32::try_from(data)? + u32::from(flags >> 1 & 1) + u32::from(flags & 1);
    let expected = if flags & 0x10 == 0 {
        (0, be32(segment, 4)?.wrapping_add(counted), 0x14)
    } else {
        (be32(segment, 8)?, 0, 0x04)
    };
    let found = (be32(reset, 4)?, be32(reset, 8)?, byte(reset, 13)?);
    ensure!(found == expected, "sequence, acknowledgement and flags {found:?}, not {expected:?}");
    ensure!(byte(reset, 12)? == 0x50, "the header is {} words long", byte(reset, 12)? >> 4);
    ensure!(part(reset, 14, 2)? == [0, 0] && part(reset, 18, 2)? == [0, 0], "window or urgent");
    Ok(())
}

fn check_unreachable(asked: &Packet<'_>, told: &Packet<'_>) -> Result<()> {
    let (protocol, kind, longest) =
        if told.version == 4 { (ICMP, [3, 13], 576) } else { (ICMPV6, [1, 1], 1280) };
    ensure!(told.protocol == protocol, "protocol {}", told.protocol);
    let sum = if told.version == 4 { sum(0, told.payload) } else { told.transport_sum()? };
    ensure!(sum == 0xffff, "ICMP's checksum");
    ensure!(part(told.payload, 0, 2)? == kind, "type and code {:?}", part(told.payload, 0, 2)?);
    ensure!(part(told.payload, 4, 4)? == [0; 4], "the unused field");
    let quote = told.payload.get(8..).context("no quote")?;
    let quotable = asked.bytes.len().min(longest - told.header - 8);
    ensure!(asked.bytes.get(..quotable) == Some(quote), "the quote, {} bytes", quote.len());
    Ok(())
}

/// RFC 1071.
fn sum(start: u16, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let mut pair = pair.iter().copied();
        u64::from(pair.next().unwrap_or(0)) << 8 | u64::from(pair.next().unwrap_or(0))
    });
    let mut sum = words.sum::<u64>() + u64::from(start);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

fn part(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    bytes.get(at..at + length).with_context(|| format!("it is cut before {}", at + length))
}

fn byte(bytes: &[u8], at: usize) -> Result<u8> {
    bytes.get(at).copied().with_context(|| format!("it is cut before {}", at + 1))
}

fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_be_bytes(part(bytes, at, 2)?.try_into()?))
}

fn be32(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_be_bytes(part(bytes, at, 4)?.try_into()?))
}
