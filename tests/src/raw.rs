// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames sent as they are, and frames as a NIC sees them.
//!
//! Both go by packet sockets. One in the gateway's namespace sees what the filter let through and
//! nothing that it dropped, since XDP comes first; one in another namespace sees all that arrived
//! there, whether or not a socket would have taken it.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use filter_common::{
    address::Address,
    parse::{Fragment, Headers, parse, protocol},
};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
        setsockopt, socket, sockopt,
    },
};

use crate::{frames, netns::Namespace};

/// Frames at one go, and the pause behind them: a veth pair's queue holds 256.
const CHUNK: usize = 64;
const PAUSE: Duration = Duration::from_micros(200);

/// Bytes of a tap's queue.
const QUEUE: usize = 16 << 20;

/// What the kernel says of frames that left (linux/if_packet.h).
const OUTGOING: u8 = 4;

/// Sends frames through a NIC to the host at the other end of its wire.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    from: LinkAddr,
    /// Destination and source, as frames begin with them.
    ends: [u8; 12],
}

/// Listens to all that enters a namespace by its NICs, from when it is made.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    loopback: usize,
}

// === impl Wire ===

impl Wire {
    /// A wire from `nic` of a namespace to `peer` of another.
    ///
    /// # Errors
    ///
    /// If a NIC isn't there.
    pub fn new(
        (namespace, nic): (&Namespace, &str),
        (other, peer): (&Namespace, &str),
    ) -> Result<Self> {
        let (socket, from) =
            namespace.enter(|| -> Result<_> { Ok((packet_socket()?, link(nic)?)) })??;
        let to = other.enter(|| link(peer))??;
        let mut ends = [0; 12];
        for (place, octet) in ends.iter_mut().zip(mac(&to)?.into_iter().chain(mac(&from)?)) {
            *place = octet;
        }
        Ok(Self { socket, from, ends })
    }

    /// A frame for this wire, as [`frames::frame`] describes it; its checksums are made right.
    ///
    /// # Errors
    ///
    /// If the description is none.
    pub fn frame(&self, description: &str) -> Result<Vec<u8>> {
        let mut frame = frames::frame(description)?;
        complete(&mut frame);
        // A group's MAC address belongs to the frame.
        let group = frame.first().is_some_and(|first| first & 1 == 1);
        for (place, octet) in frame.iter_mut().zip(self.ends).skip(if group { 6 } else { 0 }) {
            *place = octet;
        }
        Ok(frame)
    }

    /// Sends a frame, as [`frames::frame`] describes it; its checksums are made right. Returns it
    /// as it was sent.
    ///
    /// # Errors
    ///
    /// If the description is none, or the kernel doesn't take the frame.
    pub fn send(&self, description: &str) -> Result<Vec<u8>> {
        let frame = self.frame(description)?;
        self.send_bytes(&frame).with_context(|| format!("the frame `{description}`"))?;
        Ok(frame)
    }

    /// Sends many frames that differ in a destination port only, with pauses in which they are
    /// taken off the wire.
    ///
    /// # Errors
    ///
    /// As [`Wire::send`]; and if the description has no ports.
    pub fn send_to_ports(
        &self,
        description: &str,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<()> {
        let mut frame = frames::frame(description)?;
        frame.splice(..12, self.ends);
        let mut headers = Headers::default();
        let readable = parse(frame.as_slice(), &mut headers);
        ensure!(
            readable.is_ok() && matches!(headers.protocol, protocol::TCP | protocol::UDP),
            "`{description}` has no ports"
        );
        let place = headers.transport as usize + 2;
        for (index, port) in ports.into_iter().enumerate() {
            frame.splice(place..place + 2, port.to_be_bytes());
            complete(&mut frame);
            self.send_bytes(&frame)?;
            if index % CHUNK == CHUNK - 1 {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Sends a frame byte by byte as it is.
    ///
    /// # Errors
    ///
    /// The kernel doesn't take it.
    pub fn send_bytes(&self, frame: &[u8]) -> Result<()> {
        let sent = sendto(self.socket.as_raw_fd(), frame, &self.from, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "{sent} bytes of {} were sent", frame.len());
        Ok(())
    }
}

// === impl Tap ===

impl Tap {
    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// If a socket can't be made.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        let (socket, loopback) = namespace.enter(|| -> Result<_> {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )?;
            Ok((socket, link("lo")?.ifindex()))
        })??;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).context("the queue of a tap")?;
        Ok(Self { socket, loopback })
    }

    /// The frames that came since the last call.
    ///
    /// # Errors
    ///
    /// If reading fails.
    pub fn take(&self) -> Result<Vec<Vec<u8>>> {
        let mut taken = Vec::new();
        let mut buffer = vec![0; 65_536 + 14];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let from = from.context("a frame from nowhere")?;
                    if from.pkttype() != OUTGOING && from.ifindex() != self.loopback {
                        taken.push(buffer.get(..length).unwrap_or_default().to_vec());
                    }
                }
                Err(Errno::EAGAIN) => return Ok(taken),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("reading from a tap"),
            }
        }
    }
}

fn packet_socket() -> Result<OwnedFd> {
    // Without a protocol it hears nothing, so that its queue stays empty.
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .context("a packet socket")
}

/// The link-level address of a NIC of the namespace that the thread is in.
/// The number and the MAC address of a NIC in a namespace.
///
/// # Errors
///
/// If it isn't there, or has no such address.
pub fn identity(namespace: &Namespace, nic: &str) -> Result<(u32, [u8; 6])> {
    let found = namespace.enter(|| link(nic))??;
    Ok((u32::try_from(found.ifindex())?, mac(&found)?))
}

fn link(nic: &str) -> Result<LinkAddr> {
    getifaddrs()
        .context("the NICs")?
        .filter(|entry| entry.interface_name == nic)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("there is no NIC {nic}"))
}

fn mac(address: &LinkAddr) -> Result<[u8; 6]> {
    address.addr().context("a NIC without MAC address")
}

/// Puts in the checksums of an IPv4 header and of the transport, as far as they can be told: a
/// fragment has none of its transport's.
pub fn complete(frame: &mut [u8]) {
    let mut headers = Headers::default();
    let readable = parse(&*frame, &mut headers).is_ok();
    if headers.ip_version == 4 {
        let network = headers.network as usize;
        let words = frame.get(network).copied().unwrap_or_default() & 0x0f;
        let end = network + usize::from(words) * 4;
        write_sum(frame, network..end, network + 10, 0);
    }
    let offset = match headers.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        protocol::ICMP | protocol::ICMPV6 => 2,
        _ => return,
    };
    if !readable || headers.ip_version == 0 || headers.fragment != Fragment::Whole {
        return;
    }
    let (begin, end) = (headers.transport as usize, headers.end as usize);
    let mut pseudo = 0;
    if headers.protocol != protocol::ICMP {
        pseudo = u32::from(headers.protocol) + headers.end - headers.transport;
        for address in [&headers.source, &headers.destination] {
            pseudo += match address {
                Address::V4(octets) => sum(octets),
                Address::V6(octets) => sum(octets),
            };
        }
    }
    write_sum(frame, begin..end, begin + offset, pseudo);
}

/// Writes the Internet checksum (RFC 1071) of a part of a frame to `place` in it.
fn write_sum(frame: &mut [u8], part: std::ops::Range<usize>, place: usize, seed: u32) {
    let mut write = |value: [u8; 2]| {
        if let Some(field) = frame.get_mut(place..place + 2) {
            field.copy_from_slice(&value);
        }
        frame.get(part.clone()).map(sum)
    };
    let Some(mut total) = write([0; 2]).map(|sum| sum + seed) else { return };
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let [_, _, high, low] = (!total).to_be_bytes();
    // UDP's zero stands for none (RFC 768); to the others both mean the same.
    write(if [high, low] == [0, 0] { [0xff, 0xff] } else { [high, low] });
}

fn sum(octets: &[u8]) -> u32 {
    let word = |pair: &[u8]| {
        let mut octets = pair.iter().copied().chain([0]);
        u32::from(u16::from_be_bytes([
            octets.next().unwrap_or_default(),
            octets.next().unwrap_or_default(),
        ]))
    };
    octets.chunks(2).map(word).sum()
}

/// The addresses and ports of a frame: source, destination, protocol, source port and destination
/// port; `None` where it has none. Of ICMP, the type stands in the place of the destination port.
#[must_use]
pub fn tuple(frame: &[u8]) -> Option<(IpAddr, IpAddr, u8, u16, u16)> {
    let mut headers = Headers::default();
    parse(frame, &mut headers).ok()?;
    if headers.ip_version == 0 {
        return None;
    }
    let ip = |address: &Address| match *address {
        Address::V4(octets) => IpAddr::from(octets),
        Address::V6(octets) => IpAddr::from(octets),
    };
    let (source, destination) = (ip(&headers.source), ip(&headers.destination));
    Some((source, destination, headers.protocol, headers.source_port, headers.destination_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_known_packets() {
        // A question and its packet as tcpdump shows them: 10.0.0.1:1 > 10.0.0.2:53, one byte.
        let mut frame = frames::frame("ip 10.0.0.1 > 10.0.0.2 | udp 1 > 53 | hex ab").unwrap();
        complete(&mut frame);
        // 4500 001d 0001 0000 4011 .... 0a00 0001 0a00 0002 sums to 0x9932.
        assert_eq!(frame[24..26], [0x66, 0xcd]);
        // 0a00 0001 0a00 0002 0011 0009, 0001 0035 0009 .... ab00 sums to 0xbf5c.
        assert_eq!(frame[40..42], [0x40, 0xa3]);
        let mut again = frame.clone();
        complete(&mut again);
        assert_eq!(again, frame);
    }
}
