// SPDX-License-Identifier: MIT OR GPL-2.0
//! Flows: which packets belong to an exchange that was opened before, and how long.
//!
//! A flow has a *local* end, on the gateway's side of the NIC through which it was opened, and a
//! *remote* one. Packets from the local end are *outgoing*, those from the remote end *incoming*.
//! Nothing here decides on outgoing packets: policy did, before they were forwarded.

use crate::{
    address::Address,
    parse::{Headers, Quoted, protocol},
    verdict::DropReason,
    wire::{FlowKey, FlowRecord, FragmentKey},
};

/// Flags of a TCP header (RFC 9293, section 3.1).
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// The first segment of one side.
    pub const SYN: u8 = 0x02;
    /// The connection is refused or given up.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// The state of a flow. TCP goes through all of them; other protocols are opened, established once
/// the other end has answered, and cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowState {
    /// One end has spoken: a SYN was seen.
    Opening = 1,
    /// Both ends have.
    Established = 2,
    /// The local end has sent its FIN.
    LocalClosing = 3,
    /// The remote end has sent its FIN.
    RemoteClosing = 4,
    /// Both have.
    Closed = 5,
    /// One end has sent a reset.
    Reset = 6,
    /// The flow was cut: it lets nothing through, and is not taken up again in the middle.
    Cut = 7,
}

/// Who opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Origin {
    /// The gateway itself.
    Gateway = 1,
    /// A host behind an inside NIC.
    Inside = 2,
    /// A remote end, to a service that an `[[inbound]]` rule offers.
    Inbound = 3,
    /// The same as [`Self::Inbound`], as the host behind the destination NAT sees it: the local
    /// address is the host's, and the local port is 0 and stands for any.
    InboundHost = 4,
    /// A host behind an inside NIC, to the gateway itself. It opens nothing: that it is known keeps the
    /// gateway's answers from opening a flow of their own, by which the client's packets would go
    /// on as replies after its rule is gone.
    Client = 5,
}

/// The way of a packet, seen from the local end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the local end.
    Outgoing,
    /// From the remote end.
    Incoming,
}

/// Where judging a packet writes what doesn't fit on the kernel's stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workspace {
    /// What was read of the frame.
    pub headers: Headers,
    /// The packet's flow.
    pub key: FlowKey,
    /// A flow that is opened.
    pub record: FlowRecord,
    /// The packet that a fragment belongs to.
    pub fragment: FragmentKey,
    /// What an ICMP error quotes.
    pub quoted: Quoted,
}

/// What a packet adds to a flow's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Packets as they are on the wire.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u32,
}

/// A moment, and the unit that it is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Ticks (jiffies).
    pub now: u64,
    /// Ticks in a second.
    pub hertz: u64,
}

/// A flow that was found in the table. Packets on several CPUs may change it at a time: counters
/// are exact, and of two states that are written at the same moment one wins, as if its packet had
/// come last.
pub trait Flow {
    /// The code of its state.
    fn state_code(&self) -> u32;

    /// The code of its origin, which never changes.
    fn origin_code(&self) -> u32;

    /// When a packet of it was seen last, in ticks.
    fn seen(&self) -> u64;

    /// Notes a packet that passes at the tick `now`.
    fn advance(&self, now: u64, state: FlowState, way: Way, load: Load);

    /// Whether its remote end was found to live behind the NIC, by tables that this stamp stands for
    /// ([`sources_stamp`](crate::wire::sources_stamp)). Where nobody remembers that, it is looked up for each packet.
    #[inline(always)]
    fn is_checked(&self, _stamp: u64) -> bool {
        false
    }

    /// Remembers that it was.
    #[inline(always)]
    fn set_checked(&self, _stamp: u64) {}

    /// Its state, or [`FlowState::Cut`] where it holds none.
    #[inline(always)]
    fn state(&self) -> FlowState {
        match FlowState::from_code(self.state_code()) {
            Some(state) => state,
            None => FlowState::Cut,
        }
    }

    /// Who opened it, or [`Origin::InboundHost`], which opens the least, where that is not known.
    #[inline(always)]
    fn origin(&self) -> Origin {
        match Origin::from_code(self.origin_code()) {
            Some(origin) => origin,
            None => Origin::InboundHost,
        }
    }

    /// Whether it is still remembered.
    #[inline(always)]
    fn is_live(&self, clock: Clock, protocol: u8) -> bool {
        clock.is_within(self.seen(), self.state().lifetime(protocol))
    }
}

// === impl FlowState ===

impl FlowState {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 7] = [
        Self::Opening,
        Self::Established,
        Self::LocalClosing,
        Self::RemoteClosing,
        Self::Closed,
        Self::Reset,
        Self::Cut,
    ];

    /// The state with a code.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Opening),
            2 => Some(Self::Established),
            3 => Some(Self::LocalClosing),
            4 => Some(Self::RemoteClosing),
            5 => Some(Self::Closed),
            6 => Some(Self::Reset),
            7 => Some(Self::Cut),
            _ => None,
        }
    }

    /// Its code.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::LocalClosing => "local-closing",
            Self::RemoteClosing => "remote-closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Cut => "cut",
        }
    }

    /// How long a flow without packets is remembered, in seconds. TCP: RFC 5382, section 5
    /// (REQ-5); UDP: RFC 4787, section 4.3 (REQ-5); ICMP: RFC 5508, section 3.2 (REQ-1).
    #[inline(always)]
    #[must_use]
    pub const fn lifetime(self, protocol: u8) -> u64 {
        match (protocol, self) {
            (protocol::TCP, Self::Established) => 7_440,
            (protocol::TCP, Self::Opening | Self::LocalClosing | Self::RemoteClosing) => 240,
            (protocol::TCP, Self::Closed) => 120,
            (protocol::TCP, Self::Reset) => 10,
            (protocol::TCP, Self::Cut) => 300,
            (protocol::ICMP | protocol::ICMPV6, _) => 60,
            (_, Self::Opening) => 120,
            (_, Self::Cut) => 60,
            (_, _) => 300,
        }
    }
}

// === impl Origin ===

impl Origin {
    /// The origin with a code.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Gateway),
            2 => Some(Self::Inside),
            3 => Some(Self::Inbound),
            4 => Some(Self::InboundHost),
            5 => Some(Self::Client),
            _ => None,
        }
    }

    /// Its code.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Whether the local end opened the flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::Gateway | Self::Inside)
    }
}

// === impl FlowKey ===

impl FlowKey {
    /// Becomes the tuple of the flow that a packet belongs to which goes this way.
    ///
    /// Of ICMP, only echo requests and replies belong to flows: the end that asks has the
    /// identifier in the place of its port, so that a reply never passes for a question.
    ///
    /// Keys are changed in place rather than made, as the kernel's stack has no room for them.
    #[inline(always)]
    pub fn set(&mut self, headers: &Headers, way: Way) {
        let ports = match (headers.protocol, headers.destination_port) {
            (protocol::TCP | protocol::UDP, port) => (headers.source_port, port),
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => (headers.echo, 0),
            (protocol::ICMP | protocol::ICMPV6, _) => (0, headers.echo),
            _ => (0, 0),
        };
        self.ip_version = headers.ip_version;
        self.protocol = headers.protocol;
        self.set_ends((&headers.source, &headers.destination), ports, way);
    }

    /// Becomes the tuple of the flow that a packet belongs to which an ICMP error quotes and which
    /// went this way.
    #[inline(always)]
    pub fn set_quoted(&mut self, quoted: &Quoted, ip_version: u8, way: Way) {
        let ports = match (quoted.protocol, quoted.source_port) {
            (protocol::TCP | protocol::UDP, port) => (port, quoted.destination_port),
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => (quoted.echo, 0),
            (protocol::ICMP | protocol::ICMPV6, _) => (0, quoted.echo),
            _ => (0, 0),
        };
        self.ip_version = ip_version;
        self.protocol = quoted.protocol;
        self.set_ends((&quoted.source, &quoted.destination), ports, way);
    }

    #[inline(always)]
    fn set_ends(
        &mut self,
        (source, destination): (&Address, &Address),
        (source_port, destination_port): (u16, u16),
        way: Way,
    ) {
        self.reserved = [0; 2];
        let (local, remote) = match way {
            Way::Outgoing => {
                (self.local_port, self.remote_port) = (source_port, destination_port);
                (source, destination)
            }
            Way::Incoming => {
                (self.local_port, self.remote_port) = (destination_port, source_port);
                (destination, source)
            }
        };
        set_octets(&mut self.local, local);
        set_octets(&mut self.remote, remote);
    }
}

impl FragmentKey {
    /// Becomes the key of the packet that a fragment belongs to which came in by a NIC.
    #[inline(always)]
    pub fn set(&mut self, headers: &Headers, nic: u32) {
        set_octets(&mut self.source, &headers.source);
        set_octets(&mut self.destination, &headers.destination);
        self.identification = headers.identification;
        self.protocol = headers.protocol;
        self.ip_version = headers.ip_version;
        [self.nic, ..] = nic.to_le_bytes();
        self.reserved = 0;
    }
}

/// Writes an address as keys have it: IPv4 in the first four bytes.
#[inline(always)]
fn set_octets(octets: &mut [u8; 16], address: &Address) {
    match address {
        Address::V4(address) => {
            *octets = [0; 16];
            if let Some(first) = octets.first_chunk_mut::<4>() {
                *first = *address;
            }
        }
        Address::V6(address) => *octets = *address,
    }
}

/// An address as keys have it: IPv4 in the first four bytes.
#[inline(always)]
#[must_use]
pub const fn octets(address: &Address) -> [u8; 16] {
    match *address {
        Address::V4([a, b, c, d]) => [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        Address::V6(octets) => octets,
    }
}

// === impl Clock ===

impl Clock {
    /// Whether at most `seconds` went by since `tick`.
    #[inline(always)]
    #[must_use]
    pub const fn is_within(&self, tick: u64, seconds: u64) -> bool {
        // A packet on another CPU may have been seen a tick later than this one's moment. Ticks of 64 bits don't wrap.
        self.now <= tick.wrapping_add(seconds * self.hertz)
    }
}

// === impl FlowRecord ===

impl FlowRecord {
    /// A flow that is opened now, by its first packet.
    #[inline(always)]
    #[must_use]
    pub const fn open(clock: Clock, state: FlowState, origin: Origin) -> Self {
        Self {
            created: clock.now,
            seen: clock.now,
            packets_out: 0,
            bytes_out: 0,
            packets_in: 0,
            bytes_in: 0,
            state: state.code(),
            origin: origin.code(),
        }
    }

    /// Counts a packet.
    #[inline(always)]
    pub const fn count(&mut self, way: Way, load: Load) {
        let (packets, bytes) = match way {
            Way::Outgoing => (&mut self.packets_out, &mut self.bytes_out),
            Way::Incoming => (&mut self.packets_in, &mut self.bytes_in),
        };
        *packets = packets.wrapping_add(load.packets as u64);
        *bytes = bytes.wrapping_add(load.bytes as u64);
    }
}

/// Whether TCP flags are those of the first segment of a connection.
#[inline(always)]
#[must_use]
pub const fn opens(flags: u8) -> bool {
    flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// Whether TCP's flags are those of a segment in the middle of a connection, from either end: an established flow stays
/// what it is.
#[inline(always)]
#[must_use]
pub const fn carries_on(flags: u8) -> bool {
    flags & (tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK) == tcp::ACK
}

/// The state of a live flow after an incoming packet. `flags` are TCP's, 0 for other protocols.
///
/// # Errors
///
/// The packet doesn't fit the state and must not pass.
#[inline(always)]
pub const fn incoming(
    state: FlowState,
    origin: Origin,
    protocol: u8,
    flags: u8,
) -> Result<FlowState, DropReason> {
    use FlowState::{Closed, Cut, Established, LocalClosing, Opening, RemoteClosing, Reset};
    if matches!(state, Cut) {
        return Err(DropReason::FlowCut);
    }
    if protocol != protocol::TCP {
        return Ok(if origin.is_local() { Established } else { state });
    }
    let control = flags & (tcp::SYN | tcp::FIN | tcp::RST);
    match (control, flags & tcp::ACK) {
        // A reset ends the flow, also once more.
        (tcp::RST, _) => Ok(Reset),
        (tcp::SYN, tcp::ACK) if origin.is_local() => match state {
            Opening | Established => Ok(Established),
            LocalClosing | RemoteClosing | Closed | Reset | Cut => Err(DropReason::TcpState),
        },
        // The remote end's first segment, once more.
        (tcp::SYN, 0) if !origin.is_local() => match state {
            Opening | Established => Ok(state),
            LocalClosing | RemoteClosing | Closed | Reset | Cut => Err(DropReason::TcpState),
        },
        (0, tcp::ACK) => match (state, origin.is_local()) {
            // A server that remembers an older connection answers a SYN so (RFC 5961, section 4).
            (Opening, true) => Ok(Opening),
            (Opening, false) | (Reset | Cut, _) => Err(DropReason::TcpState),
            (Established | LocalClosing | RemoteClosing | Closed, _) => Ok(state),
        },
        (tcp::FIN, tcp::ACK) => match state {
            Established | RemoteClosing => Ok(RemoteClosing),
            LocalClosing | Closed => Ok(Closed),
            Opening | Reset | Cut => Err(DropReason::TcpState),
        },
        // No flags, only FIN, or several that exclude one another.
        (_, _) => Err(DropReason::TcpState),
    }
}

/// The state of a live flow after an outgoing packet, which passes whatever it is; `None` where
/// the packet begins a new flow in the place of this one.
#[inline(always)]
#[must_use]
pub const fn outgoing(
    state: FlowState,
    origin: Origin,
    protocol: u8,
    flags: u8,
) -> Option<FlowState> {
    use FlowState::{Closed, Cut, Established, LocalClosing, Opening, RemoteClosing, Reset};
    if protocol != protocol::TCP {
        return Some(match state {
            Cut => Cut,
            _ if origin.is_local() => state,
            _ => Established,
        });
    }
    if opens(flags) {
        return match state {
            Opening if origin.is_local() => Some(Opening),
            _ => None,
        };
    }
    if matches!(state, Cut) {
        return Some(Cut);
    }
    if flags & tcp::RST != 0 {
        return Some(Reset);
    }
    if flags & tcp::SYN != 0 {
        // The local end's answer to a connection that was opened from outside.
        return Some(match state {
            Opening if !origin.is_local() => Established,
            _ => state,
        });
    }
    if flags & tcp::FIN != 0 {
        return Some(match state {
            RemoteClosing | Closed => Closed,
            Opening | Established | LocalClosing | Reset | Cut => LocalClosing,
        });
    }
    Some(match state {
        // The local end goes on, so it has not taken the reset for one of its own.
        Reset => Established,
        Opening | Established | LocalClosing | RemoteClosing | Closed | Cut => state,
    })
}
