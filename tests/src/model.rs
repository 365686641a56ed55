// SPDX-License-Identifier: MIT OR Apache-2.0
//! A naive model of a policy, and random policies and packets to compare it with the tables.
//!
//! The model walks the rules as they are written and knows neither tables nor classes. Everything
//! random follows from a seed, so that a failure is repeated by its number.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use filter_common::{
    egress::Side,
    verdict::{DropReason, PassReason},
    wire::Selector,
};
use filter_user::{
    compile::{Host, HostNic, MatchKey},
    names::{Changed, Snapshot},
    policy::{
        Clients, DenyAction, Destination, Dns, Echo, Fqdn, Gateway, IpProtocol, Label, Management,
        Mode, NamePattern, NicName, OnChange, OnStop, Origin, Policy, PortRange, PortRanges, Ports,
        Rule, RuleState, SourceGroup, SpecialPurpose, TableSizes, XdpMode,
    },
};
use ipnet::IpNet;

/// A packet that enters an inside NIC, as far as the policy is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The index of the NIC.
    pub nic: u8,
    /// The VLAN id; 0: untagged.
    pub vlan: u16,
    /// The client.
    pub source: IpAddr,
    /// Where it wants to.
    pub destination: IpAddr,
    /// What it wants there.
    pub service: Service,
}

/// A protocol and, where it has one, a destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// An echo request.
    Echo,
    /// Another IP protocol.
    Protocol(u8),
}

/// What the policy says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Whether the source can live behind the NIC.
    pub source: Source,
    /// Whether the destination is one of the gateway's own addresses.
    pub destination: Target,
    /// The `[[source]]` groups that the client is in.
    pub groups: BTreeSet<Label>,
    /// The rules that name the destination.
    pub covering: MatchKey,
    /// Those of them that hold for the client.
    pub holding: MatchKey,
    /// Those of them that allow the service.
    pub allowing: MatchKey,
}

/// Whether a source can live behind a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It can.
    Plausible,
    /// It can, and may only reach the gateway.
    LinkLocal,
    /// It can't.
    Spoofed,
    /// It can't, and only the gateway could be reached from it.
    SpoofedLinkLocal,
}

/// Whose address a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The gateway's.
    Own,
    /// One that the gateway takes in without owning it.
    Closed,
    /// Another's.
    Other,
}

/// A small pseudo-random generator (Marsaglia's xorshift, 64 bits).
#[derive(Clone, Debug)]
pub struct Random(u64);

/// What the policy says of a packet, by walking its rules.
#[must_use]
pub fn model(policy: &Policy, names: &Snapshot, host: &Host, packet: &Packet) -> Expected {
    let nic = host.nics.iter().find(|nic| nic.slot == packet.nic);
    let source = match nic {
        Some(nic) if !host.own.contains(&packet.source) && lives_behind(nic, packet.source) => {
            match is_link_local(packet.source) {
                true => Source::LinkLocal,
                false => Source::Plausible,
            }
        }
        _ if is_link_local(packet.source) => Source::SpoofedLinkLocal,
        _ => Source::Spoofed,
    };
    let own = host.own.contains(&packet.destination);
    let closed = !own && host.closed.contains(&packet.destination);
    let nic_is_in =
        |nics: &[NicName]| nics.is_empty() || nic.is_some_and(|nic| nics.contains(&nic.name));
    let groups: BTreeSet<Label> = policy
        .sources
        .iter()
        .filter(|group| {
            (group.cidr.is_empty() || any_contains(&group.cidr, packet.source))
                && nic_is_in(&group.interface)
                && (group.vlan.is_empty() || group.vlan.contains(&packet.vlan))
        })
        .map(|group| group.name.clone())
        .collect();

    let mut expected = Expected {
        source,
        destination: match (own, closed) {
            (true, _) => Target::Own,
            (false, true) => Target::Closed,
            (false, false) => Target::Other,
        },
        groups: groups.clone(),
        covering: MatchKey::new(),
        holding: MatchKey::new(),
        allowing: MatchKey::new(),
    };
    let mut judge = |key: (PassReason, Label), covers: bool, holds: bool, allows: bool| {
        if covers {
            expected.covering.insert(key.clone());
        }
        if covers && holds {
            expected.holding.insert(key.clone());
        }
        if covers && holds && allows {
            expected.allowing.insert(key);
        }
    };

    let management = &policy.management;
    if !management.from.is_empty() {
        let allows = match packet.service {
            Service::Tcp(port) => management.tcp.contains(port),
            Service::Udp(port) => management.udp.contains(port),
            Service::Echo | Service::Protocol(_) => false,
        };
        let holds = any_contains(&management.from, packet.source) && nic_is_in(&management.nics);
        judge((PassReason::Management, label("management")), own, holds, allows);
    }
    let listens = own && policy.dns.listen.contains(&packet.destination);
    let question = matches!(packet.service, Service::Tcp(53) | Service::Udp(53));
    judge((PassReason::DnsForwarder, label("dns")), listens, true, question);

    for rule in &policy.rules {
        if rule.state == RuleState::Disabled {
            continue;
        }
        let covers = !closed
            && rule.to.iter().any(|(destination, _)| match destination {
                Destination::Prefix(prefix) if own => {
                    prefix.addr() == packet.destination
                        && prefix.prefix_len() == prefix.max_prefix_len()
                }
                Destination::Prefix(prefix) => prefix.contains(&packet.destination),
                Destination::SelfAddresses => own,
                Destination::Name(_) if own => false,
                Destination::Name(pattern) => names.addresses.iter().any(|(name, addresses)| {
                    pattern.matches(name) && addresses.contains(&packet.destination)
                }),
            });
        let holds = match &rule.from {
            Clients::Any => true,
            Clients::Groups(of_rule) => !of_rule.is_disjoint(&groups),
        };
        let allows = match packet.service {
            Service::Tcp(port) => rule.ports.tcp.contains(port),
            Service::Udp(port) => rule.ports.udp.contains(port),
            Service::Echo => rule.ports.echo == Echo::Allowed,
            Service::Protocol(number) => {
                rule.ports.protocols.iter().any(|protocol| protocol.number() == number)
            }
        };
        judge((PassReason::Rule, rule.name.clone()), covers, holds, allows);
    }
    expected
}

/// A random policy with what it is compiled for: overlapping prefixes and names, clients in
/// several groups at once, VLANs, routes to other interfaces, own and closed addresses, a
/// management guard and a forwarder.
#[must_use]
pub fn random_policy(seed: u64) -> (Policy, Snapshot, Host) {
    let mut random = Random::new(seed);
    let host = random.host();
    let names = random.names();
    let sources = random.groups(&host);
    let rules = random.rules(&sources, &host);
    let guarded = random.below(3) > 0;
    let nic_names: Vec<NicName> = host.nics.iter().map(|nic| nic.name.clone()).collect();
    let policy = Policy {
        gateway: Gateway {
            inside: nic_names.clone(),
            outside: Vec::new(),
            ignore: Vec::new(),
            xdp_mode: XdpMode::Auto,
            mode: Mode::Enforce,
            deny: DenyAction::Drop,
            on_change: OnChange::Cut,
            on_stop: OnStop::Keep,
            sizes: TableSizes::default(),
            origin: origin(1),
        },
        dns: Dns {
            listen: if random.below(2) == 0 {
                let foreign = random.destination_address();
                host.own.iter().copied().take(2).chain([foreign]).collect()
            } else {
                Vec::new()
            },
            origin: Some(origin(2)),
            ..Dns::default()
        },
        metrics: filter_user::policy::Metrics::default(),
        management: Management {
            nics: if random.below(2) == 0 {
                nic_names.into_iter().take(1).collect()
            } else {
                Vec::new()
            },
            from: if guarded { random.some(3, Random::source_prefix) } else { Vec::new() },
            tcp: random.port_ranges(),
            udp: random.port_ranges(),
            origin: Some(origin(3)),
        },
        sources,
        rules,
        inbound: Vec::new(),
    };
    (policy, names, host)
}

/// Other addresses for the same names: some stay, some go, some come.
#[must_use]
pub fn random_change(seed: u64, names: &Snapshot) -> Snapshot {
    let mut random = Random::new(seed);
    let fresh = random.names();
    let mut addresses = BTreeMap::new();
    for name in names.addresses.keys().chain(fresh.addresses.keys()) {
        let known = |snapshot: &Snapshot| snapshot.addresses.get(name).cloned().unwrap_or_default();
        let mixed: BTreeSet<IpAddr> = match random.below(5) {
            0 => known(names),
            1 => known(&fresh),
            2 => known(names).union(&known(&fresh)).copied().collect(),
            3 => known(names).into_iter().skip(1).collect(),
            _ => continue,
        };
        addresses.insert(name.clone(), mixed);
    }
    Snapshot { addresses }
}

/// What comes and goes between two states of all names.
#[must_use]
pub fn changed(old: &Snapshot, new: &Snapshot) -> Changed {
    let pairs = |names: &Snapshot| -> BTreeSet<(Fqdn, IpAddr)> {
        let pair = |(name, addresses): (&Fqdn, &BTreeSet<IpAddr>)| {
            addresses.iter().map(|address| (name.clone(), *address)).collect::<Vec<_>>()
        };
        names.addresses.iter().flat_map(pair).collect()
    };
    let (old, new) = (pairs(old), pairs(new));
    Changed {
        added: new.difference(&old).cloned().collect(),
        removed: old.difference(&new).cloned().collect(),
        ..Changed::default()
    }
}

/// A random packet, near enough to the policy that its rules matter.
#[must_use]
pub fn random_packet(seed: u64, policy: &Policy, names: &Snapshot, host: &Host) -> Packet {
    let mut random = Random::new(seed);
    let nic = random.pick(&host.nics).map_or(0, |nic| nic.slot);
    let source = match random.below(12) {
        0 => random.source_address(),
        8 if random.below(2) == 0 => {
            let own: Vec<IpAddr> = host.own.iter().copied().collect();
            random.pick(&own).copied().unwrap_or_else(|| random.source_address())
        }
        8 => {
            let of_nic = host.nics.iter().find(|host_nic| host_nic.slot == nic);
            let prefix = of_nic.and_then(|nic| random.pick(&nic.elsewhere).copied());
            random.source_in(prefix)
        }
        1 if random.below(2) == 0 => Ipv4Addr::new(169, 254, 7, 7).into(),
        1 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7).into(),
        2..=4 => {
            let cidr: Vec<IpNet> = policy
                .sources
                .iter()
                .flat_map(|group| group.cidr.iter())
                .chain(&policy.management.from)
                .copied()
                .collect();
            let prefix = random.pick(&cidr).copied();
            random.source_in(prefix)
        }
        _ => {
            let of_nic = host.nics.iter().find(|host_nic| host_nic.slot == nic);
            let prefix = of_nic.and_then(|nic| random.pick(&nic.plausible).copied());
            random.source_in(prefix)
        }
    };
    let mut destinations: Vec<IpAddr> = match random.below(5) {
        0 => host.own.iter().chain(&host.closed).copied().collect(),
        1 => names.addresses.values().flatten().copied().collect(),
        2 | 3 => {
            let prefixes: Vec<IpNet> = policy
                .rules
                .iter()
                .flat_map(|rule| &rule.to)
                .filter_map(|(destination, _)| match destination {
                    Destination::Prefix(prefix) => Some(*prefix),
                    Destination::Name(_) | Destination::SelfAddresses => None,
                })
                .collect();
            let prefix = random.pick(&prefixes).copied();
            prefix.map(|prefix| random.inside(prefix)).into_iter().collect()
        }
        _ => Vec::new(),
    };
    // Both ends of a packet are of one family, so that it can be made into a frame.
    destinations.retain(|address| address.is_ipv4() == source.is_ipv4());
    let destination = random.pick(&destinations).copied().unwrap_or_else(|| {
        loop {
            let address = random.destination_address();
            if address.is_ipv4() == source.is_ipv4() {
                return address;
            }
        }
    });
    let service = match random.below(8) {
        0 => Service::Echo,
        1 => Service::Protocol(*random.pick(&PROTOCOLS).unwrap_or(&47)),
        2..=4 => Service::Udp(random.port()),
        _ => Service::Tcp(random.port()),
    };
    Packet { nic, vlan: random.vlan(), source, destination, service }
}

/// IP protocols that rules allow and packets have: GRE, ESP, OSPF, SCTP.
const PROTOCOLS: [u8; 4] = [47, 50, 89, 132];
/// Ports around the borders of the ranges that rules have.
const PORTS: [u16; 14] = [1, 22, 53, 79, 80, 81, 443, 444, 3477, 3478, 3480, 3481, 3482, 65_535];
const RANGES: [(u16, u16); 9] = [
    (1, 65_535),
    (22, 22),
    (53, 53),
    (80, 80),
    (443, 443),
    (80, 443),
    (3478, 3481),
    (3480, 3600),
    (1, 79),
];
const PATTERNS: [&str; 9] = [
    "a.example.com",
    "b.example.com",
    "c.sub.example.com",
    "example.com",
    "x1.example.net",
    "*.example.com",
    "*.sub.example.com",
    "x*.example.net",
    "*.*.example.com",
];
const NAMES: [&str; 8] = [
    "a.example.com",
    "b.example.com",
    "c.sub.example.com",
    "d.deep.sub.example.com",
    "example.com",
    "x1.example.net",
    "y1.example.net",
    "other.example.org",
];

// === impl Packet ===

impl Packet {
    /// The packet as an Ethernet frame, tagged if it is in a VLAN, with a source port that no
    /// protocol but the one asked for uses. Checksums are zero, as the filter reads none.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        if self.vlan != 0 {
            frame.extend(0x8100_u16.to_be_bytes());
            frame.extend(self.vlan.to_be_bytes());
        }
        let transport = self.transport();
        let length = u16::try_from(transport.len()).unwrap_or_default();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend((length + 20).to_be_bytes());
                frame.extend([0, 1, 0x40, 0, 64, self.protocol(), 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (source, destination) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.protocol(), 64]);
                frame.extend(to_v6(source).octets());
                frame.extend(to_v6(destination).octets());
            }
        }
        frame.extend(transport);
        frame
    }

    fn protocol(&self) -> u8 {
        match self.service {
            Service::Tcp(_) => 6,
            Service::Udp(_) => 17,
            Service::Echo if self.source.is_ipv4() => 1,
            Service::Echo => 58,
            Service::Protocol(number) => number,
        }
    }

    fn transport(&self) -> Vec<u8> {
        const SOURCE_PORT: [u8; 2] = 40_000_u16.to_be_bytes();
        let mut transport = Vec::new();
        match self.service {
            Service::Tcp(port) => {
                transport.extend(SOURCE_PORT);
                transport.extend(port.to_be_bytes());
                // A SYN without options.
                transport.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
            }
            Service::Udp(port) => {
                transport.extend(SOURCE_PORT);
                transport.extend(port.to_be_bytes());
                transport.extend([0, 12, 0, 0, 1, 2, 3, 4]);
            }
            Service::Echo => {
                transport.push(if self.source.is_ipv4() { 8 } else { 128 });
                transport.extend([0, 0, 0, 0, 1, 0, 1]);
            }
            Service::Protocol(_) => transport.extend([0; 16]),
        }
        transport
    }
}

// === impl Service ===

impl Service {
    /// What the port class is looked up by.
    #[must_use]
    pub fn selector(self) -> Selector {
        match self {
            Self::Tcp(port) => Selector::tcp(port),
            Self::Udp(port) => Selector::udp(port),
            Self::Echo => Selector::ECHO,
            Self::Protocol(number) => Selector::protocol(number),
        }
    }
}

// === impl Source ===

impl Source {
    /// Whether it can live behind the NIC.
    #[must_use]
    pub fn is_plausible(self) -> bool {
        match self {
            Self::Plausible | Self::LinkLocal => true,
            Self::Spoofed | Self::SpoofedLinkLocal => false,
        }
    }
}

// === impl Expected ===

impl Expected {
    /// The reason by which the packet passes or is dropped, for a well-formed packet that is not
    /// always allowed and whose addresses are unicast.
    ///
    /// # Errors
    ///
    /// The packet is dropped.
    pub fn verdict(&self, service: Service) -> Result<PassReason, DropReason> {
        match (self.source, self.destination) {
            (_, Target::Closed) => return Err(DropReason::Broadcast),
            (Source::LinkLocal, Target::Other) => return Err(DropReason::LinkLocalSource),
            (Source::SpoofedLinkLocal, Target::Other) => return Err(DropReason::LinkLocalSource),
            (Source::Spoofed | Source::SpoofedLinkLocal, _) => {
                return Err(DropReason::SpoofedSource);
            }
            (Source::LinkLocal, Target::Own) | (Source::Plausible, _) => {}
        }
        if self.covering.is_empty() {
            return Err(DropReason::NotListed);
        }
        if self.holding.is_empty() {
            return Err(DropReason::SourceNotAllowed);
        }
        let reasons: BTreeSet<PassReason> =
            self.allowing.iter().map(|(reason, _)| *reason).collect();
        [PassReason::Management, PassReason::DnsForwarder, PassReason::Rule]
            .into_iter()
            .find(|reason| reasons.contains(reason))
            .ok_or(match service {
                Service::Tcp(_) | Service::Udp(_) => DropReason::PortNotAllowed,
                Service::Echo | Service::Protocol(_) => DropReason::ProtocolNotAllowed,
            })
    }
}

// === impl Random ===

impl Random {
    /// A generator that follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give similar streams (SplitMix64's finalizer).
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((state ^ state >> 31).max(1))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        u32::try_from((self.number() >> 16) % u64::from(bound.max(1))).unwrap_or_default()
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.below(u32::try_from(of.len()).unwrap_or(u32::MAX));
        of.get(usize::try_from(index).unwrap_or_default())
    }

    fn some<T>(&mut self, most: u32, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..=self.below(most)).map(|_| one(self)).collect()
    }

    fn byte(&mut self, bound: u32) -> u8 {
        u8::try_from(self.below(bound)).unwrap_or_default()
    }

    fn source_address(&mut self) -> IpAddr {
        if self.below(3) == 0 {
            let [subnet, host] = [self.byte(4), self.byte(4)].map(u16::from);
            Ipv6Addr::new(0xfd00, subnet, 0, 0, 0, 0, 0, host).into()
        } else {
            Ipv4Addr::new(10, self.byte(3), self.byte(4), self.byte(8)).into()
        }
    }

    fn source_prefix(&mut self) -> IpNet {
        let lengths = match self.source_address() {
            IpAddr::V4(address) => (IpAddr::from(address), [0, 8, 16, 24, 30, 32]),
            IpAddr::V6(address) => (IpAddr::from(address), [0, 16, 32, 64, 126, 128]),
        };
        self.prefix(lengths.0, lengths.1)
    }

    fn destination_address(&mut self) -> IpAddr {
        if self.below(3) == 0 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, self.byte(2).into(), 0, 0, 0, self.byte(16).into())
                .into()
        } else {
            Ipv4Addr::new(203, 0, 113, self.byte(32)).into()
        }
    }

    fn destination_prefix(&mut self) -> IpNet {
        if self.below(10) == 0 {
            return self.source_prefix();
        }
        match self.destination_address() {
            address @ IpAddr::V4(_) => self.prefix(address, [8, 24, 27, 29, 30, 32]),
            address @ IpAddr::V6(_) => self.prefix(address, [32, 56, 64, 124, 126, 128]),
        }
    }

    fn prefix(&mut self, address: IpAddr, lengths: [u8; 6]) -> IpNet {
        let length = self.pick(&lengths).copied().unwrap_or_default();
        IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address)).trunc()
    }

    /// An address in a prefix, near its start or its end.
    fn inside(&mut self, prefix: IpNet) -> IpAddr {
        let near = self.below(16);
        match prefix {
            IpNet::V4(prefix) => {
                let host = near & u32::from(prefix.hostmask());
                let address = if self.below(4) == 0 && prefix.prefix_len() > 8 {
                    u32::from(prefix.broadcast()) - host
                } else {
                    u32::from(prefix.network()) + host
                };
                match Ipv4Addr::from(address) {
                    // In 0.0.0.0/8 no packet comes from or goes anywhere.
                    address if address.octets().starts_with(&[0]) => self.v4_anywhere().into(),
                    address => address.into(),
                }
            }
            IpNet::V6(prefix) => {
                let host = u128::from(near) & u128::from(prefix.hostmask());
                let address = if self.below(4) == 0 && prefix.prefix_len() > 16 {
                    u128::from(prefix.broadcast()) - host
                } else {
                    u128::from(prefix.network()) + host
                };
                match Ipv6Addr::from(address) {
                    address if address.segments().starts_with(&[0]) => {
                        Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1).into()
                    }
                    address => address.into(),
                }
            }
        }
    }

    fn source_in(&mut self, prefix: Option<IpNet>) -> IpAddr {
        match prefix {
            Some(prefix) => self.inside(prefix),
            None => self.source_address(),
        }
    }

    fn v4_anywhere(&mut self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.byte(255))
    }

    fn port(&mut self) -> u16 {
        self.pick(&PORTS).copied().unwrap_or(80)
    }

    fn vlan(&mut self) -> u16 {
        self.pick(&[0, 0, 10, 20, 30, 4094]).copied().unwrap_or_default()
    }

    fn port_ranges(&mut self) -> PortRanges {
        let ranges = self.below(3);
        let range = |random: &mut Self| {
            random.pick(&RANGES).and_then(|(first, last)| PortRange::new(*first, *last))
        };
        (0..ranges).filter_map(|_| range(self)).collect()
    }

    fn host(&mut self) -> Host {
        let slots: Vec<u8> = match self.below(3) {
            0 => vec![0],
            1 => vec![1, 3],
            _ => vec![0, 2, 15],
        };
        let mut nics = Vec::new();
        for slot in slots {
            let plausible = self.some(4, |random| match random.source_prefix() {
                prefix if prefix.prefix_len() == 0 && random.below(4) > 0 => {
                    IpNet::from(random.source_address())
                }
                prefix => prefix,
            });
            if let Ok(name) = NicName::try_from(format!("in{slot}").as_str()) {
                let elsewhere = match self.below(3) {
                    1.. => Vec::new(),
                    0 => self.some(4, |random| match random.below(12) {
                        0 => IpNet::from(IpAddr::from([169, 254, 7, 7])),
                        1 => random.pick(&plausible).copied().unwrap_or_default(),
                        _ => random.source_prefix(),
                    }),
                };
                nics.push(HostNic { slot, name, side: Side::Inside, plausible, elsewhere });
            }
        }
        let mut own: BTreeSet<IpAddr> = self.some(3, Self::source_address).into_iter().collect();
        own.extend(self.some(2, Self::destination_address));
        own.insert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into());
        let mut closed: BTreeSet<IpAddr> = self.some(2, Self::source_address).into_iter().collect();
        closed.extend(self.some(3, Self::destination_address));
        closed.extend(own.iter().next());
        Host { nics, own, closed }
    }

    fn names(&mut self) -> Snapshot {
        let mut addresses = BTreeMap::new();
        for name in NAMES {
            if let (Ok(name), true) = (Fqdn::try_from(name), self.below(4) > 0) {
                let of_name = self.some(4, Self::destination_address);
                addresses.insert(name, of_name.into_iter().collect());
            }
        }
        Snapshot { addresses }
    }

    fn groups(&mut self, host: &Host) -> Vec<SourceGroup> {
        let mut groups = Vec::new();
        for index in 0..self.below(6) {
            let kinds = self.below(7) + 1;
            let cidr = if kinds & 1 != 0 { self.some(3, Self::source_prefix) } else { Vec::new() };
            let interface = if kinds & 2 != 0 {
                self.pick(&host.nics).map(|nic| nic.name.clone()).into_iter().collect()
            } else {
                Vec::new()
            };
            let vlan = if kinds & 4 != 0 {
                self.some(2, |random| random.vlan().max(10)).into_iter().collect()
            } else {
                BTreeSet::new()
            };
            let name = label(&format!("group-{index}"));
            groups.push(SourceGroup { name, cidr, interface, vlan, origin: origin(10 + index) });
        }
        groups
    }

    fn rules(&mut self, groups: &[SourceGroup], host: &Host) -> Vec<Rule> {
        let count = self.below(9) + 1;
        let delivered: Vec<IpAddr> = host.own.iter().chain(&host.closed).copied().collect();
        (0..count).map(|index| self.rule(index, groups, &delivered)).collect()
    }

    fn rule(&mut self, index: u32, groups: &[SourceGroup], delivered: &[IpAddr]) -> Rule {
        let from = match self.below(3) {
            1.. if !groups.is_empty() => {
                let members = self.some(2, |random| random.pick(groups).map(|g| g.name.clone()));
                Clients::Groups(members.into_iter().flatten().collect())
            }
            _ => Clients::Any,
        };
        let to = self.some(4, |random| {
            let destination = match random.below(9) {
                0 => Destination::SelfAddresses,
                8 => {
                    let address = random.pick(delivered).copied();
                    let address = address.unwrap_or_else(|| random.destination_address());
                    Destination::Prefix(address.into())
                }
                1..=3 => {
                    let pattern = random.pick(&PATTERNS).copied().unwrap_or_default();
                    match NamePattern::try_from(pattern) {
                        Ok(pattern) => Destination::Name(pattern),
                        Err(_) => Destination::SelfAddresses,
                    }
                }
                _ => Destination::Prefix(random.destination_prefix()),
            };
            (destination, 100 + index)
        });
        let protocols = PROTOCOLS.iter().filter(|_| self.below(4) == 0);
        let protocols = protocols.filter_map(|number| IpProtocol::try_from(*number).ok()).collect();
        let ports = Ports {
            tcp: self.port_ranges(),
            udp: self.port_ranges(),
            echo: if self.below(3) == 0 { Echo::Allowed } else { Echo::Denied },
            protocols,
        };
        Rule {
            name: label(&format!("rule-{index}")),
            from,
            to,
            ports,
            state: if self.below(8) == 0 { RuleState::Disabled } else { RuleState::Enabled },
            note: None,
            private: SpecialPurpose::Refused,
            origin: origin(100 + index),
        }
    }
}

/// Whether the best route to an address leads to the NIC.
fn lives_behind(nic: &HostNic, address: IpAddr) -> bool {
    let longest = |prefixes: &[IpNet]| -> Option<u8> {
        let around = prefixes.iter().filter(|prefix| prefix.contains(&address));
        around.map(IpNet::prefix_len).max()
    };
    let here = longest(&nic.plausible);
    is_link_local(address) || (here.is_some() && here >= longest(&nic.elsewhere))
}

fn any_contains(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn label(name: &str) -> Label {
    Label::try_from(name).expect("a valid name")
}

fn origin(line: u32) -> Origin {
    Origin { file: "model.toml".into(), line }
}
