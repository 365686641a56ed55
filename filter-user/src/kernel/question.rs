// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet that is asked about, and the frame that stands for it.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Source port of packets that are asked about: one that clients use (RFC 6335, section 6).
const SOURCE_PORT: u16 = 50_000;

/// What the packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The first packet of a TCP connection to a port.
    Tcp(u16),
    /// A UDP datagram to a port.
    Udp(u16),
    /// An ICMP or ICMPv6 echo request.
    Echo,
    /// Another IP protocol.
    Protocol(u8),
}

/// Which part of a packet it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FragmentPart {
    /// All of it.
    #[default]
    Whole,
    /// The first fragment.
    First,
    /// A later fragment.
    Later,
}

/// Why no packet can be made of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("source and destination are of different families; give two IPv4 or two IPv6 addresses")]
pub struct MixedFamilies;

/// The frame of a packet, as a client would send it: an Ethernet header, a VLAN tag unless `vlan`
/// is 0, and an IP packet without data.
///
/// # Errors
///
/// The addresses are of different families.
pub fn frame(
    from: IpAddr,
    to: IpAddr,
    vlan: u16,
    transport: Transport,
    fragment: FragmentPart,
) -> Result<Vec<u8>, MixedFamilies> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02];
    if vlan != 0 {
        frame.extend_from_slice(&[0x81, 0x00]);
        frame.extend_from_slice(&vlan.to_be_bytes());
    }
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (protocol, body) = body(transport, 8, 1);
            let length = u16::try_from(20 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
            let offset: u16 = match fragment {
                FragmentPart::Whole => 0,
                FragmentPart::First => 0x2000,
                FragmentPart::Later => 185,
            };
            frame.extend_from_slice(&[0x08, 0x00, 0x45, 0, length[0], length[1], 0, 1]);
            frame.extend_from_slice(&offset.to_be_bytes());
            frame.extend_from_slice(&[64, protocol, 0, 0]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
            frame.extend_from_slice(&body);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (protocol, body) = body(transport, 128, 58);
            let header: &[u8] = match fragment {
                FragmentPart::Whole => &[],
                FragmentPart::First => &[protocol, 0, 0, 1, 0, 0, 0, 1],
                FragmentPart::Later => &[protocol, 0, 0x05, 0xc8, 0, 0, 0, 1],
            };
            let next = if header.is_empty() { protocol } else { 44 };
            let length = u16::try_from(header.len() + body.len()).unwrap_or(u16::MAX).to_be_bytes();
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], next, 64]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
            frame.extend_from_slice(header);
            frame.extend_from_slice(&body);
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return Err(MixedFamilies);
        }
    }
    Ok(frame)
}

/// The protocol number and the transport header.
fn body(transport: Transport, echo_type: u8, icmp: u8) -> (u8, Vec<u8>) {
    let [source_high, source_low] = SOURCE_PORT.to_be_bytes();
    match transport {
        Transport::Tcp(port) => {
            let [high, low] = port.to_be_bytes();
            let mut header = vec![source_high, source_low, high, low, 0, 0, 0, 1, 0, 0, 0, 0];
            // A header of five words, SYN, a window.
            header.extend_from_slice(&[0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
            (6, header)
        }
        Transport::Udp(port) => {
            let [high, low] = port.to_be_bytes();
            (17, vec![source_high, source_low, high, low, 0, 8, 0, 0])
        }
        Transport::Echo => (icmp, vec![echo_type, 0, 0, 0, 0, 1, 0, 1]),
        Transport::Protocol(number) => (number, vec![0; 8]),
    }
}
