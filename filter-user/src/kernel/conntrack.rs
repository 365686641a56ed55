// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's table of connections (ctnetlink), which knows what address translation made of
//! whom. Messages and attributes: include/uapi/linux/netfilter/nfnetlink_conntrack.h.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use filter_common::{
    flow::octets,
    parse::{Address, protocol},
    wire::FlowKey,
};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{
        NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    },
    sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_NETFILTER},
};
use tokio::time::timeout;

/// How long the kernel may take for its whole table.
const ANSWER: Duration = Duration::from_secs(30);
/// What the kernel fills with messages at a time (`netlink_recvmsg` in net/netlink/af_netlink.c).
const BUFFER: usize = 32 * 1024;
/// The length of a netlink header.
const HEADER: usize = 16;
/// The length of the header that netfilter's messages have behind it.
const NETFILTER_HEADER: usize = 4;
/// Netfilter's part that tracks connections.
const CONNTRACK: u16 = 1 << 8;
/// A question for connections.
const GET: u16 = CONNTRACK | 1;
/// A connection.
const NEW: u16 = CONNTRACK;

/// Attributes of a connection.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
/// Attributes of a tuple.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;

/// The connections that the kernel tracks, by both of their tuples.
///
/// Tuples are written as keys of flows whose local end is the one that opened the connection,
/// whichever side of the gateway that is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    before: BTreeMap<FlowKey, BTreeSet<FlowKey>>,
    after: BTreeMap<FlowKey, BTreeSet<FlowKey>>,
}

/// One direction of a connection, as its packets have it.
#[derive(Clone, Copy, Debug, Default)]
struct Tuple {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
    echo: u16,
}

// === impl Connections ===

impl Connections {
    /// Adds a connection: its tuple before any translation, and the one behind it.
    pub fn insert(&mut self, before: FlowKey, after: FlowKey) {
        self.before.entry(after).or_default().insert(before);
        self.after.entry(before).or_default().insert(after);
    }

    /// What connections were before translation made this tuple of them. Of protocols without
    /// ports there may be several.
    pub fn before(&self, after: &FlowKey) -> impl Iterator<Item = &FlowKey> {
        self.before.get(after).into_iter().flatten()
    }

    /// What translation made of a connection with this tuple.
    pub fn after(&self, before: &FlowKey) -> impl Iterator<Item = &FlowKey> {
        self.after.get(before).into_iter().flatten()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    /// Takes up the connections of some messages.
    fn read(&mut self, mut bytes: &[u8]) -> Result<Progress> {
        while bytes.len() >= HEADER {
            let message = NetlinkBuffer::new_checked(bytes)
                .context("a message about connections can't be read")?;
            let length = usize::try_from(message.length())?;
            let body = bytes.get(HEADER..length).unwrap_or_default();
            match message.message_type() {
                NLMSG_DONE => return Ok(Progress::Done),
                NLMSG_ERROR => return refusal(body),
                NEW => {
                    if let Some((before, after)) = connection(body) {
                        self.insert(before, after);
                    }
                }
                _ => {}
            }
            let next = length.next_multiple_of(usize::from(NLMSG_ALIGNTO));
            bytes = bytes.get(next..).unwrap_or_default();
        }
        Ok(Progress::Going)
    }
}

/// Whether the kernel has more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Going,
    Done,
}

/// Reads all connections of the process's network namespace. A kernel that tracks none has none.
///
/// # Errors
///
/// The kernel refuses or doesn't answer.
pub async fn connections() -> Result<Connections> {
    timeout(ANSWER, dump()).await.context("the kernel doesn't answer about its connections")?
}

async fn dump() -> Result<Connections> {
    let mut found = Connections::default();
    let mut socket = match TokioSocket::new(NETLINK_NETFILTER) {
        Ok(socket) => socket,
        Err(error) if tracks_nothing(&error) => return Ok(found),
        Err(error) => return Err(error).context("connections can't be asked for"),
    };
    socket.socket_mut().bind_auto()?;
    let mut buffer = Vec::with_capacity(BUFFER);
    buffer.extend_from_slice(&question());
    socket.send(&buffer).await.context("connections can't be asked for")?;
    loop {
        buffer.clear();
        socket.recv(&mut buffer).await.context("connections can't be read")?;
        if found.read(&buffer)? == Progress::Done {
            return Ok(found);
        }
    }
}

/// Asks for the connections of all families.
fn question() -> [u8; HEADER + NETFILTER_HEADER] {
    let mut message = [0; HEADER + NETFILTER_HEADER];
    // The last attribute of the header is the kernel's to set; the family is 0 for all.
    let mut header = NetlinkBuffer::new(&mut message);
    header.set_length(20);
    header.set_message_type(GET);
    header.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    message
}

/// What the kernel refuses with: an error number below zero, or 0 where it doesn't.
fn refusal(body: &[u8]) -> Result<Progress> {
    let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return Ok(Progress::Going);
    }
    let error = io::Error::from_raw_os_error(code.saturating_neg());
    if tracks_nothing(&error) {
        return Ok(Progress::Done);
    }
    bail!("the kernel refuses to tell its connections: {error}")
}

/// Whether the kernel says that it has no netfilter, or none that tracks connections.
fn tracks_nothing(error: &io::Error) -> bool {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => [Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP, Errno::EINVAL, Errno::ENOENT]
            .contains(&errno),
        None => false,
    }
}

/// The two tuples of a connection, the opener's end as the local one; `None` for one that no flow
/// can stand for.
fn connection(body: &[u8]) -> Option<(FlowKey, FlowKey)> {
    let (mut original, mut reply) = (None, None);
    for (kind, value) in attributes(body.get(NETFILTER_HEADER..)?) {
        match kind {
            ORIGINAL => original = Some(Tuple::read(value)),
            REPLY => reply = Some(Tuple::read(value)),
            _ => {}
        }
    }
    Some((original?.key()?, reply?.turned().key()?))
}

/// Attributes one behind the other, each with a length, a kind and a value; what is cut off is
/// left out.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Bits of the kind that say of what form the value is.
    const FORM: u16 = 0xc000;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<4>()?;
        let [length, kind] = [[header[0], header[1]], [header[2], header[3]]];
        let length = usize::from(u16::from_ne_bytes(length));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(kind) & !FORM, value))
    })
}

// === impl Tuple ===

impl Tuple {
    fn read(bytes: &[u8]) -> Self {
        let mut tuple = Self::default();
        for (kind, value) in attributes(bytes) {
            match kind {
                ADDRESSES => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            1 | 3 => tuple.source = ip(value),
                            2 | 4 => tuple.destination = ip(value),
                            _ => {}
                        }
                    }
                }
                PROTOCOL => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            1 => tuple.protocol = value.first().copied().unwrap_or(0),
                            2 => tuple.source_port = number(value),
                            3 => tuple.destination_port = number(value),
                            // The identifier of ICMP, and of ICMPv6.
                            4 | 7 => tuple.echo = number(value),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        tuple
    }

    /// The same for packets that go the other way.
    fn turned(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    /// The key of the flow whose local end is the source, in the way of [`FlowKey::set`].
    fn key(self) -> Option<FlowKey> {
        let (local, remote) = (address(self.source?), address(self.destination?));
        let ip_version = match (local, remote) {
            (Address::V4(_), Address::V4(_)) => 4,
            (Address::V6(_), Address::V6(_)) => 6,
            (Address::V4(_), Address::V6(_)) | (Address::V6(_), Address::V4(_)) => return None,
        };
        let (local_port, remote_port) = match self.protocol {
            protocol::TCP | protocol::UDP => (self.source_port, self.destination_port),
            protocol::ICMP | protocol::ICMPV6 => (self.echo, 0),
            _ => (0, 0),
        };
        Some(FlowKey {
            local: octets(&local),
            remote: octets(&remote),
            local_port,
            remote_port,
            protocol: self.protocol,
            ip_version,
            reserved: [0; 2],
        })
    }
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::V4(ip.octets()),
        IpAddr::V6(ip) => Address::V6(ip.octets()),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// A number in network byte order.
fn number(bytes: &[u8]) -> u16 {
    bytes.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As the kernel writes it: nested attributes are marked.
    fn tuple(kind: u16, [source, destination]: [&str; 2], protocol: &[(u16, &[u8])]) -> Vec<u8> {
        let bytes = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let first = if source.contains(':') { 3 } else { 1 };
        let addresses =
            [attribute(first, &bytes(source)), attribute(first + 1, &bytes(destination))].concat();
        let protocol: Vec<u8> =
            protocol.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect();
        let nested = 0x8000;
        let parts = [attribute(nested | 1, &addresses), attribute(nested | 2, &protocol)].concat();
        attribute(nested | kind, &parts)
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn entry(tuples: &[Vec<u8>]) -> Vec<u8> {
        message(NEW, &[&[2, 0, 0, 0][..], &tuples.concat()].concat())
    }

    fn key(protocol: u8, local: &str, local_port: u16, remote: &str, remote_port: u16) -> FlowKey {
        let (local, remote): (IpAddr, IpAddr) = (local.parse().unwrap(), remote.parse().unwrap());
        FlowKey {
            local: octets(&address(local)),
            remote: octets(&address(remote)),
            local_port,
            remote_port,
            protocol,
            ip_version: if local.is_ipv4() { 4 } else { 6 },
            reserved: [0; 2],
        }
    }

    #[test]
    fn tuples_become_keys_of_flows() {
        let tcp = |source: u16, destination: u16| {
            [
                (1, vec![6]),
                (2, source.to_be_bytes().to_vec()),
                (3, destination.to_be_bytes().to_vec()),
            ]
        };
        let echo = |protocol: u8, kind: u16, id: u16| {
            [(1, vec![protocol]), (kind, id.to_be_bytes().to_vec()), (kind + 1, vec![8])]
        };
        fn parts(owned: &[(u16, Vec<u8>); 3]) -> Vec<(u16, &[u8])> {
            owned.iter().map(|(kind, value)| (*kind, value.as_slice())).collect()
        }
        let mut bytes = entry(&[
            tuple(ORIGINAL, ["10.0.0.2", "198.51.100.7"], &parts(&tcp(40_000, 443))),
            tuple(REPLY, ["198.51.100.7", "192.0.2.1"], &parts(&tcp(443, 1024))),
            attribute(3, &[0, 0, 0, 8]),
        ]);
        bytes.extend(entry(&[
            tuple(ORIGINAL, ["fd00::2", "2001:db8::7"], &parts(&echo(58, 7, 77))),
            tuple(REPLY, ["2001:db8::7", "2001:db8:2::1"], &parts(&echo(58, 7, 78))),
        ]));
        let mut found = Connections::default();
        assert_eq!(found.read(&bytes).unwrap(), Progress::Going);
        assert_eq!(found.read(&message(NLMSG_DONE, &[0; 4])).unwrap(), Progress::Done);

        let before = key(6, "10.0.0.2", 40_000, "198.51.100.7", 443);
        let after = key(6, "192.0.2.1", 1024, "198.51.100.7", 443);
        assert_eq!(found.before(&after).collect::<Vec<_>>(), [&before]);
        assert_eq!(found.after(&before).collect::<Vec<_>>(), [&after]);
        let before = key(58, "fd00::2", 77, "2001:db8::7", 0);
        let after = key(58, "2001:db8:2::1", 78, "2001:db8::7", 0);
        assert_eq!(found.before(&after).collect::<Vec<_>>(), [&before]);
    }

    #[test]
    fn a_kernel_that_tracks_nothing_has_no_connections() {
        let code = |errno: Errno| message(NLMSG_ERROR, &(-(errno as i32)).to_ne_bytes());
        let mut found = Connections::default();
        assert_eq!(found.read(&code(Errno::EINVAL)).unwrap(), Progress::Done);
        assert!(found.is_empty());
        let error = found.read(&code(Errno::EPERM)).unwrap_err().to_string();
        assert!(error.contains("ermitted"), "{error}");
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = entry(&[tuple(ORIGINAL, ["10.0.0.2", "198.51.100.7"], &[(1, &[17])])]);
        for length in HEADER..whole.len() {
            let mut bytes = whole.get(..length).unwrap().to_vec();
            bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
            let mut found = Connections::default();
            found.read(&bytes).unwrap();
            assert!(found.is_empty(), "{length}");
        }
        assert!(Connections::default().read(&whole[..HEADER + 2]).is_err());
    }
}
