// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random packets around a policy: first ones of flows, answers to them, and what follows.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    policy::{Case, Granted, OWN, PROTOCOLS, SENTINEL_PORT, anywhere, host, inside, remote},
    world::End,
};
use crate::model::{Random, Service};

/// The source port, or the echo's identifier, of the first flow; each flow has its own.
const FIRST_PORT: u16 = 20_000;

/// A packet to be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it is sent.
    pub end: End,
    /// What it is in its flow.
    pub kind: Kind,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// The frame without its Ethernet header, in the words of [`crate::frames`].
    pub description: String,
    /// The flow it belongs to.
    pub flow: Flow,
}

/// What a packet is in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first one.
    First,
    /// The first one, and a fragment whose rest never comes.
    LoneFragment,
    /// A TCP segment with ACK where nothing was seen before.
    Midstream,
    /// The usual answer to the first.
    Answer,
    /// A SYN for an answer.
    CrossingSyn,
    /// A reset for an answer.
    Reset,
    /// An ICMP error about the first.
    Error,
    /// A further packet from where the flow was opened.
    Onward,
    /// A further packet from where it was opened to.
    Back,
    /// The same, after a reset.
    BackAfterReset,
    /// An answer to something that was never asked.
    Unasked,
    /// An ICMP error about something that was never sent, from a client.
    UnaskedError,
}

/// A flow, as it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    end: End,
    source: IpAddr,
    destination: IpAddr,
    service: Service,
    /// Its source port, or its echo's identifier.
    port: u16,
    /// The end where the destination is; nothing if that is the gateway itself.
    to: Option<End>,
}

// === impl Flow ===

impl Flow {
    fn random(random: &mut Random, case: &Case, index: u16) -> Self {
        // Two of three are as a rule has them, so that enough pass.
        if random.below(3) > 0
            && let Some(granted) = case.grant(random)
        {
            let Granted { nic, source, destination, service } = granted;
            let end = End::behind(nic);
            let to = end_of(destination);
            if (end, to) != (End::Internet, Some(End::Internet)) {
                let port = FIRST_PORT.saturating_add(index);
                return Self { end, source, destination, service, port, to };
            }
        }
        let end = random.pick(&End::ALL).copied().unwrap_or(End::Internet);
        let destination = match random.below(10) {
            0..=6 => random.pick(&case.targets()).copied().map(|net| inside(random, net)),
            _ => None,
        };
        let mut destination = destination.unwrap_or_else(|| anywhere(random));
        // Nothing stands between the internet and itself.
        while end == End::Internet && end_of(destination) == Some(End::Internet) {
            destination = anywhere(random);
        }
        let mut source = source(random, case, end);
        while source.is_ipv4() != destination.is_ipv4() {
            source = self::source(random, case, end);
        }
        let service = match random.below(10) {
            0..=3 => Service::Tcp(port(random, case)),
            4..=6 => Service::Udp(port(random, case)),
            7 | 8 => Service::Echo,
            _ => Service::Protocol(random.pick(&PROTOCOLS).copied().unwrap_or(47)),
        };
        let to = end_of(destination);
        Self { end, source, destination, service, port: FIRST_PORT.saturating_add(index), to }
    }

    /// One packet of the flow.
    fn packet(self, end: End, kind: Kind, turned: Turned, transport: &str) -> Packet {
        let (source, destination) = match turned {
            Turned::No => (self.source, self.destination),
            Turned::Round => (self.destination, self.source),
        };
        let lone = match kind {
            Kind::LoneFragment if source.is_ipv4() => " fragment=0+",
            _ => "",
        };
        let header = match kind {
            Kind::LoneFragment if !source.is_ipv4() => " | fragment 0+",
            _ => "",
        };
        let description = format!("ip {source} > {destination}{lone}{header}{transport}");
        Packet { end, kind, source, destination, description, flow: self }
    }

    /// What follows the addresses of a packet in the way of the flow; `flags` are TCP's, and its
    /// numbers.
    fn outgoing(self, flags: &str) -> String {
        let Self { port: own, .. } = self;
        match self.service {
            Service::Tcp(port) => format!(" | tcp {own} > {port} {flags} | data 12"),
            Service::Udp(port) => format!(" | udp {own} > {port} | data 16"),
            Service::Echo => format!(" | {} id={own} | data 16", self.echo([8, 128])),
            Service::Protocol(number) => format!(" next={number} | data 24"),
        }
    }

    /// The same against the way of the flow.
    fn incoming(self, flags: &str) -> String {
        let Self { port: own, .. } = self;
        match self.service {
            Service::Tcp(port) => format!(" | tcp {port} > {own} {flags}"),
            Service::Udp(port) => format!(" | udp {port} > {own} | data 16"),
            Service::Echo => format!(" | {} id={own} | data 16", self.echo([0, 129])),
            Service::Protocol(number) => format!(" next={number} | data 24"),
        }
    }

    fn echo(self, [four, six]: [u8; 2]) -> String {
        if self.source.is_ipv4() { format!("icmp {four}") } else { format!("icmp6 {six}") }
    }

    /// An error about the first packet.
    fn error(self) -> String {
        let kind = if self.source.is_ipv4() { "icmp 3 3" } else { "icmp6 1 4" };
        let Self { source, destination, .. } = self;
        format!(" | {kind} | ip {source} > {destination}{}", self.outgoing("flags=s"))
    }

    fn is_tcp(self) -> bool {
        matches!(self.service, Service::Tcp(_))
    }
}

/// Whether a packet goes the way of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turned {
    No,
    Round,
}

/// First packets of flows, and some that only look as if there had been one.
#[must_use]
pub fn firsts(random: &mut Random, case: &Case, count: u16) -> Vec<Packet> {
    (0..count)
        .map(|index| {
            let flow = Flow::random(random, case, index);
            match (random.below(30), flow.is_tcp(), flow.to) {
                (0 | 1, true, _) => flow.packet(
                    flow.end,
                    Kind::Midstream,
                    Turned::No,
                    &flow.outgoing("flags=a seq=2 ack=2"),
                ),
                (2, _, _) => {
                    flow.packet(flow.end, Kind::LoneFragment, Turned::No, &flow.outgoing("flags=s"))
                }
                (3..=5, _, Some(to)) if to != flow.end => {
                    let incoming = flow.incoming("flags=sa ack=2");
                    flow.packet(to, Kind::Unasked, Turned::Round, &incoming)
                }
                (6, _, Some(to)) if to != flow.end => {
                    let kind = match to {
                        End::Internet => Kind::Unasked,
                        End::First | End::Second => Kind::UnaskedError,
                    };
                    flow.packet(to, kind, Turned::Round, &flow.error())
                }
                _ => flow.packet(flow.end, Kind::First, Turned::No, &flow.outgoing("flags=s")),
            }
        })
        .collect()
}

/// Answers to packets that passed.
#[must_use]
pub fn answers(random: &mut Random, passed: &[Packet], count: u16) -> Vec<Packet> {
    let one = |packet: &Packet, kind: u32| {
        let flow = packet.flow;
        // The gateway answers nothing.
        let to = flow.to?;
        let (kind, transport) = match (kind, flow.is_tcp()) {
            (0, _) => (Kind::Error, flow.error()),
            (1, true) => (Kind::CrossingSyn, flow.incoming("flags=s seq=7")),
            (2, true) => (Kind::Reset, flow.incoming("flags=ra seq=0 ack=10")),
            _ => (Kind::Answer, flow.incoming("flags=sa seq=1 ack=10")),
        };
        Some(flow.packet(to, kind, Turned::Round, &transport))
    };
    // One answer to each flow, so that it doesn't matter which of two comes first.
    let mut left: Vec<&Packet> = passed
        .iter()
        .filter(|packet| packet.kind == Kind::First && packet.flow.to.is_some())
        .collect();
    let mut answers = Vec::new();
    while answers.len() < usize::from(count) && !left.is_empty() {
        let index = random.below(u32::try_from(left.len()).unwrap_or(u32::MAX));
        let packet = left.swap_remove(usize::try_from(index).unwrap_or_default());
        answers.extend(one(packet, random.below(10)));
    }
    answers
}

/// What follows in flows that were answered, from either end.
#[must_use]
pub fn onward(random: &mut Random, answers: &[Packet], count: u16) -> Vec<Packet> {
    let mut left: Vec<&Packet> = answers.iter().collect();
    let mut packets = Vec::new();
    while packets.len() < usize::from(count) && !left.is_empty() {
        let index = random.below(u32::try_from(left.len()).unwrap_or(u32::MAX));
        let answer = left.swap_remove(usize::try_from(index).unwrap_or_default());
        let flow = answer.flow;
        let Some(to) = flow.to else { continue };
        packets.push(if random.below(2) == 0 {
            flow.packet(flow.end, Kind::Onward, Turned::No, &flow.outgoing("flags=a seq=10 ack=2"))
        } else {
            let kind = if answer.kind == Kind::Reset { Kind::BackAfterReset } else { Kind::Back };
            flow.packet(to, kind, Turned::Round, &flow.incoming("flags=a seq=2 ack=10"))
        });
    }
    packets
}

/// Which end an address is behind; nothing for the gateway's own.
fn end_of(address: IpAddr) -> Option<End> {
    if OWN.contains(&address) {
        return None;
    }
    let (first, second) =
        (net("10.20.0.0/24", "fd00:20::/64"), net("10.21.0.0/24", "fd00:21::/64"));
    Some(match address {
        _ if first.iter().any(|net| net.contains(&address)) => End::First,
        _ if second.iter().any(|net| net.contains(&address)) => End::Second,
        _ => End::Internet,
    })
}

fn net(four: &str, six: &str) -> Vec<IpNet> {
    [four, six].iter().filter_map(|net| net.parse().ok()).collect()
}

/// A source that lives behind the end, or now and then one that doesn't.
fn source(random: &mut Random, case: &Case, end: End) -> IpAddr {
    match (random.below(12), end) {
        (0, _) => anywhere(random),
        (_, End::First) => host(random, 20),
        (_, End::Second) => host(random, 21),
        (1..=7, End::Internet) => match random.pick(&case.remotes()).copied() {
            Some(net) => inside(random, net),
            None => remote(random),
        },
        (_, End::Internet) => remote(random),
    }
}

/// A port at the border of one that a rule names, or of a range.
fn port(random: &mut Random, case: &Case) -> u16 {
    let border = random.pick(&case.ports()).copied().unwrap_or(443);
    let port = match random.below(6) {
        0 => border.saturating_sub(1),
        1 => border.saturating_add(1),
        2 => u16::try_from(random.below(65_536)).unwrap_or(1),
        _ => border,
    };
    if port == SENTINEL_PORT || port == 0 { 443 } else { port }
}
