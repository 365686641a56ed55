// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab whose ends are silent: frames are put onto its veth pairs and taken off them as they are.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket, sockopt,
    },
};

use super::policy::HOSTS;
use crate::{
    frames::frame,
    netns::Namespace,
    process::run,
    topology::{Clients, INSIDE, OUTSIDE, SECOND_INSIDE, Topology},
    workdir::Workdir,
};

/// Bytes of a tap's queue: far more than a batch.
const QUEUE: usize = 8 << 20;

/// Where a frame can be sent and may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Behind `lan0`.
    First,
    /// Behind `lan1`.
    Second,
    /// Behind `wan0`.
    Internet,
}

/// A frame that arrived, as far as it tells which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// The number that its sender wrote into it.
    pub marker: u16,
    /// Its source; frames that the gateway makes itself have another.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
}

/// Client, second client, gateway and internet, with a tap on each end.
#[derive(Debug)]
pub struct World {
    // Closed before the namespaces go.
    taps: Vec<Tap>,
    files: Workdir,
    /// The namespaces.
    pub topology: Topology,
}

/// A raw socket on the NIC of an end.
#[derive(Debug)]
struct Tap {
    end: End,
    socket: OwnedFd,
    /// The NIC's MAC address.
    own: [u8; 6],
    /// The MAC address of the gateway's NIC.
    gateway: [u8; 6],
}

/// What the hosts' own stacks would answer is thrown away; the taps are in front of it.
const QUIET: &str = "table inet quiet {
  chain in { type filter hook prerouting priority raw; policy drop; }
  chain out { type filter hook output priority raw; policy drop; }
}
";

/// Packets to the gateway itself are noted behind every filter, by their number, and go no
/// further, so that the gateway answers nothing.
const OBSERVER: &str = "table inet observer
delete table inet observer
table inet observer {
  set four { typeof ip id; flags dynamic; size 65535; }
  set six { typeof @nh,16,16; flags dynamic; size 65535; }
  chain input {
    type filter hook input priority 300; policy accept;
    meta nfproto ipv4 update @four { ip id } drop
    meta nfproto ipv6 update @six { @nh,16,16 } drop
  }
}
";

// === impl End ===

impl End {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::First, Self::Second, Self::Internet];

    /// The end behind a NIC of the gateway.
    pub(super) fn behind(nic: &str) -> Self {
        Self::ALL.into_iter().find(|end| end.nic() == nic).unwrap_or(Self::Internet)
    }

    const fn nic(self) -> &'static str {
        match self {
            Self::First => INSIDE,
            Self::Second => SECOND_INSIDE,
            Self::Internet => OUTSIDE,
        }
    }
}

// === impl World ===

impl World {
    /// Makes the namespaces, makes their ends silent and taps them.
    ///
    /// # Errors
    ///
    /// As [`Topology::new`], or without `nft`.
    pub fn new() -> Result<Self> {
        let topology = Topology::new(Clients::Two)?;
        let files = Workdir::new("judge")?;
        let second = topology.second_client.as_ref().context("a lab of two clients has two")?;
        let ends = [&topology.client, second, &topology.internet];
        let mut neighbours = String::new();
        let mut taps = Vec::new();
        for (end, namespace) in End::ALL.into_iter().zip(ends) {
            let tap = Tap::new(end, namespace, &topology.gateway)?;
            let mac = tap.own.map(|octet| format!("{octet:02x}")).join(":");
            for address in addresses(end) {
                let nic = end.nic();
                let _ = writeln!(
                    neighbours,
                    "neigh replace {address} lladdr {mac} dev {nic} nud permanent"
                );
            }
            taps.push(tap);
        }
        let world = Self { taps, files, topology };
        for namespace in ends_of(&world.topology) {
            world.ruleset(namespace, QUIET)?;
        }
        // The ends never answer who they are.
        let file = world.files.path().join("neighbours");
        fs::write(&file, neighbours)?;
        run(world.topology.gateway.command("ip").arg("-batch").arg(file))?;
        Ok(world)
    }

    /// Loads a ruleset into the gateway.
    ///
    /// # Errors
    ///
    /// If nft refuses it.
    pub fn load(&self, ruleset: &str) -> Result<()> {
        self.ruleset(&self.topology.gateway, ruleset)
    }

    /// Forgets what arrived, and begins to note what arrives at the gateway.
    ///
    /// # Errors
    ///
    /// If that can't be read or written.
    pub fn observe(&self) -> Result<()> {
        self.load(OBSERVER)?;
        self.arrived_at_ends().map(drop)
    }

    /// Sends a frame that is described without its Ethernet header, with a number in it: the IPv4
    /// identification or the low half of the IPv6 flow label.
    ///
    /// # Errors
    ///
    /// If the description is none, or the frame can't be sent.
    pub fn send(&self, end: End, description: &str, marker: u16) -> Result<()> {
        let tap = self.taps.iter().find(|tap| tap.end == end).context("an end without a tap")?;
        let mac = tap.gateway.map(|octet| format!("{octet:02x}")).join(":");
        let mut frame = frame(&format!("eth {mac} | {description}"))?;
        mark(&mut frame, marker).with_context(|| format!("`{description}` is too short"))?;
        let sent = send(tap.socket.as_raw_fd(), &frame, MsgFlags::empty())
            .with_context(|| format!("`{description}` from {end:?}"))?;
        if sent != frame.len() {
            bail!("of `{description}`, {sent} bytes were sent");
        }
        Ok(())
    }

    /// What has arrived at the ends since this was asked last.
    ///
    /// # Errors
    ///
    /// If a tap can't be read.
    pub fn arrived_at_ends(&self) -> Result<BTreeSet<Arrival>> {
        let mut arrived = BTreeSet::new();
        let mut buffer = [0; 2048];
        for tap in &self.taps {
            loop {
                match recv(tap.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => {
                        let frame = buffer.get(..length).unwrap_or_default();
                        // A tap also sees what is sent through it.
                        if frame.starts_with(&tap.own) {
                            arrived.extend(Arrival::read(frame));
                        }
                    }
                    Err(Errno::EAGAIN) => break,
                    Err(errno) => return Err(errno).context("a tap"),
                }
            }
        }
        Ok(arrived)
    }

    /// The numbers of the packets that came to the gateway itself since the last
    /// [`World::observe`], IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// If nft's answer can't be read.
    pub fn arrived_at_gateway(&self) -> Result<[BTreeSet<u16>; 2]> {
        let nft = |set: &str| -> Result<BTreeSet<u16>> {
            let mut command = self.topology.gateway.command("nft");
            numbers(&run(command.args(["-n", "list", "set", "inet", "observer", set]))?)
        };
        Ok([nft("four")?, nft("six")?])
    }

    fn ruleset(&self, namespace: &Namespace, ruleset: &str) -> Result<()> {
        let file = self.files.path().join("ruleset");
        fs::write(&file, ruleset)?;
        run(namespace.command("nft").arg("-f").arg(file)).map(drop)
    }
}

fn ends_of(topology: &Topology) -> impl Iterator<Item = &Namespace> {
    [&topology.client, &topology.internet].into_iter().chain(&topology.second_client)
}

/// The addresses on the link of an end that packets are forwarded to.
fn addresses(end: End) -> Vec<String> {
    let hosts = |v4: &str, v6: &str| {
        (2..2 + HOSTS).flat_map(|host| [format!("{v4}.{host}"), format!("{v6}::{host}")]).collect()
    };
    match end {
        End::First => hosts("10.20.0", "fd00:20"),
        End::Second => hosts("10.21.0", "fd00:21"),
        End::Internet => vec!["192.0.2.2".to_owned(), "2001:db8:2::2".to_owned()],
    }
}

/// The elements of a set as nft prints it.
fn numbers(listing: &str) -> Result<BTreeSet<u16>> {
    let Some((_, elements)) = listing.split_once("elements = {") else {
        return Ok(BTreeSet::new());
    };
    let (elements, _) = elements.split_once('}').context("nft's list of a set has no end")?;
    elements
        .split(',')
        .map(|word| {
            let word = word.trim();
            match word.strip_prefix("0x") {
                Some(digits) => u16::from_str_radix(digits, 16),
                None => word.parse(),
            }
            .with_context(|| format!("nft's list of a set has an element `{word}`"))
        })
        .collect()
}

/// Writes the number into a frame, and IPv4's checksum, which the kernel looks at.
fn mark(frame: &mut [u8], marker: u16) -> Option<()> {
    let version = frame.get(14)? >> 4;
    let at = if version == 4 { 18 } else { 16 };
    frame.get_mut(at..at + 2)?.copy_from_slice(&marker.to_be_bytes());
    if version == 4 {
        let end = 14 + usize::from(frame.get(14)? & 0x0f) * 4;
        let words = frame.get(14..end)?.chunks(2).map(|pair| match pair {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        });
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let [.., high, low] = (!sum).to_be_bytes();
        frame.get_mut(24..26)?.copy_from_slice(&[high, low]);
    }
    Some(())
}

// === impl Tap ===

impl Tap {
    fn new(end: End, namespace: &Namespace, gateway: &Namespace) -> Result<Self> {
        let (_, gateway) = link(gateway, end.nic())?;
        let (address, own) = link(namespace, "eth0")?;
        let socket = namespace.enter(|| -> Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC;
            let protocol = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)?;
            setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)?;
            bind(socket.as_raw_fd(), &address)?;
            Ok(socket)
        })??;
        Ok(Self { end, socket, own, gateway })
    }
}

/// A NIC's address as sockets know it, and as the wire does.
fn link(namespace: &Namespace, nic: &str) -> Result<(LinkAddr, [u8; 6])> {
    namespace.enter(|| {
        getifaddrs()?
            .filter(|one| one.interface_name == nic)
            .find_map(|one| {
                let address = *one.address?.as_link_addr()?;
                Some((address, address.addr()?))
            })
            .with_context(|| format!("{nic} has no address in {}", namespace.name()))
    })?
}

// === impl Arrival ===

impl Arrival {
    /// What a frame is known by; `None` where it is no IP packet.
    fn read(frame: &[u8]) -> Option<Self> {
        let marker = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let v4 = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<4>()?));
        let v6 = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<16>()?));
        match frame.get(12..14)? {
            [0x08, 0x00] => {
                Some(Self { marker: marker(18)?, source: v4(26)?, destination: v4(30)? })
            }
            [0x86, 0xdd] => {
                Some(Self { marker: marker(16)?, source: v6(22)?, destination: v6(38)? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_frame_is_known_again() {
        for (description, source) in [
            ("ip 10.20.0.2 > 203.0.113.9 | udp 5000 > 53", "10.20.0.2"),
            ("ip fd00:20::2 > 2001:db8:9::1 | tcp 5000 > 443", "fd00:20::2"),
        ] {
            let mut bytes = frame(description).unwrap();
            mark(&mut bytes, 0x1234).unwrap();
            let arrival = Arrival::read(&bytes).unwrap();
            assert_eq!((arrival.marker, arrival.source), (0x1234, source.parse().unwrap()));
        }
    }

    #[test]
    fn sets_are_read_as_nft_prints_them() {
        let check = |listing: &str, expected: &[u16]| {
            assert_eq!(numbers(listing).unwrap(), expected.iter().copied().collect());
        };
        check("set four {\n typeof ip id\n }", &[]);
        check("set four {\n elements = { 1,\n\t\t 515 }\n }", &[1, 515]);
        check("set six {\n elements = { 0x0001, 0xffff }\n }", &[1, 0xffff]);
    }
}
