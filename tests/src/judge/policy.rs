// SPDX-License-Identifier: MIT OR Apache-2.0
//! A random policy, written twice: for `sluice`, and as a ruleset for nftables.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use filter_user::policy::Echo;
use ipnet::IpNet;

use crate::model::{Random, Service};

/// The gateway's own addresses.
pub const OWN: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(10, 20, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 21, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x21, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1)),
];

/// The port of the packets that mark the end of a batch; no random rule has it.
pub const SENTINEL_PORT: u16 = 9;
/// Where clients send theirs, out in the internet.
pub const SENTINEL_REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 250));
/// Where those to clients go.
pub const SENTINEL_HOSTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 20, 0, 2)), IpAddr::V4(Ipv4Addr::new(10, 21, 0, 2))];

/// Other protocols than TCP, UDP and ICMP that rules name: those whose headers neither side looks
/// into.
pub const PROTOCOLS: [u8; 5] = [47, 50, 89, 103, 253];

/// How many hosts live behind each inside NIC, from the address 2 on.
pub const HOSTS: u8 = 8;

/// Ranges of ports that rules name. They overlap and touch on purpose.
const RANGES: [(u16, u16); 10] = [
    (22, 22),
    (53, 53),
    (80, 80),
    (80, 90),
    (443, 443),
    (440, 450),
    (1024, 2047),
    (2048, 2048),
    (8000, 8080),
    (65_000, 65_535),
];

/// The inside NICs.
const NICS: [&str; 2] = [crate::topology::INSIDE, crate::topology::SECOND_INSIDE];

/// A random policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    groups: Vec<Group>,
    rules: Vec<Rule>,
    inbound: Vec<Inbound>,
}

/// A group of clients; what is empty is not asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    cidr: Vec<IpNet>,
    interface: BTreeSet<&'static str>,
}

/// What clients may do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// Indices of groups; empty: every client.
    from: BTreeSet<usize>,
    to: Vec<To>,
    services: Services,
}

/// What is offered to the internet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inbound {
    from: Vec<IpNet>,
    to: Vec<To>,
    services: Services,
}

/// What a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// The gateway's NIC by which it comes in.
    pub nic: &'static str,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub service: Service,
}

/// A destination of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Own,
    Net(IpNet),
}

/// Protocols and ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Services {
    tcp: Vec<(u16, u16)>,
    udp: Vec<(u16, u16)>,
    echo: Echo,
    protocols: BTreeSet<u8>,
}

// === impl Case ===

impl Case {
    /// A policy that follows from the generator's state.
    #[must_use]
    pub fn random(random: &mut Random) -> Self {
        let groups: Vec<Group> = (0..random.below(4)).map(|_| group(random)).collect();
        let mut rules: Vec<Rule> =
            (0..=random.below(7)).map(|_| rule(random, groups.len())).collect();
        let mut inbound: Vec<Inbound> = (0..random.below(4)).map(|_| offer(random)).collect();
        let (rule, offered) = sentinels();
        rules.push(rule);
        inbound.push(offered);
        Self { groups, rules, inbound }
    }

    /// A policy of one rule: every client to one prefix, TCP 443.
    #[must_use]
    pub fn one_port(to: IpNet) -> Self {
        let services = Services {
            tcp: vec![(443, 443)],
            udp: Vec::new(),
            echo: Echo::Denied,
            protocols: BTreeSet::new(),
        };
        let one = Rule { from: BTreeSet::new(), to: vec![To::Net(to)], services };
        let (rule, offered) = sentinels();
        Self { groups: Vec::new(), rules: vec![one, rule], inbound: vec![offered] }
    }

    /// Prefixes that packets are aimed at, so that most of them touch a rule.
    pub(super) fn targets(&self) -> Vec<IpNet> {
        let of_rules = self.rules.iter().flat_map(|rule| &rule.to);
        let of_inbound = self.inbound.iter().flat_map(|inbound| &inbound.to);
        let mut targets = Vec::new();
        for to in of_rules.chain(of_inbound) {
            match to {
                To::Own => targets.extend(OWN.map(IpNet::from)),
                To::Net(net) => targets.push(*net),
            }
        }
        targets
    }

    /// Where the internet's packets come from, so that most of them touch an `[[inbound]]` rule.
    pub(super) fn remotes(&self) -> Vec<IpNet> {
        self.inbound.iter().flat_map(|inbound| inbound.from.iter().copied()).collect()
    }

    /// A source, a destination and a service that a random rule or offer names together, and whether
    /// clients or the internet send it.
    pub(super) fn grant(&self, random: &mut Random) -> Option<Granted> {
        let (nets, nics, (to, services)) = if random.below(3) > 0 {
            let rule = random.pick(&self.rules)?;
            let from: Vec<usize> = rule.from.iter().copied().collect();
            let group = random.pick(&from).and_then(|index| self.groups.get(*index));
            let nics: Vec<&'static str> = match group {
                Some(group) if !group.interface.is_empty() => {
                    group.interface.iter().copied().collect()
                }
                _ => NICS.to_vec(),
            };
            (group.map_or(Vec::new(), |group| group.cidr.clone()), nics, (&rule.to, &rule.services))
        } else {
            let inbound = random.pick(&self.inbound)?;
            let offered = (&inbound.to, &inbound.services);
            (inbound.from.clone(), vec![crate::topology::OUTSIDE], offered)
        };
        let nic = random.pick(&nics).copied()?;
        let destination = match random.pick(to)? {
            To::Own => random.pick(&OWN).copied()?,
            To::Net(net) => inside(random, *net),
        };
        let source = (0..50).find_map(|_| {
            let source = match nic {
                crate::topology::INSIDE => host(random, 20),
                crate::topology::SECOND_INSIDE => host(random, 21),
                _ => match random.pick(&nets).copied() {
                    Some(net) => inside(random, net),
                    None => remote(random),
                },
            };
            let named = nets.is_empty() || nets.iter().any(|net| net.contains(&source));
            (named && source.is_ipv4() == destination.is_ipv4()).then_some(source)
        })?;
        let service = services.random(random)?;
        Some(Granted { nic, source, destination, service })
    }

    /// Borders of the ports that rules name.
    pub(super) fn ports(&self) -> Vec<u16> {
        let rules = self.rules.iter().map(|rule| &rule.services);
        let services = rules.chain(self.inbound.iter().map(|inbound| &inbound.services));
        services
            .flat_map(|services| services.tcp.iter().chain(&services.udp))
            .flat_map(|(first, last)| [*first, *last])
            .collect()
    }

    /// The policy as `gateway.toml` and a file of `policy.d`.
    #[must_use]
    pub fn sluice(&self) -> (String, String) {
        let mut gateway = "[gateway]\ninside  = [\"lan0\", \"lan1\"]\noutside = [\"wan0\"]\n\
                           deny    = \"drop\"\n"
            .to_owned();
        for (index, group) in self.groups.iter().enumerate() {
            let _ = writeln!(gateway, "\n[[source]]\nname = \"group-{index}\"");
            if !group.cidr.is_empty() {
                let _ = writeln!(gateway, "cidr = [{}]", quoted(&group.cidr));
            }
            if !group.interface.is_empty() {
                let _ = writeln!(gateway, "interface = [{}]", quoted(&group.interface));
            }
        }
        let mut policy = String::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let _ = writeln!(policy, "[[rule]]\nname = \"rule-{index}\"");
            if !rule.from.is_empty() {
                let from = rule.from.iter().map(|index| format!("group-{index}"));
                let _ = writeln!(policy, "from = [{}]", quoted(from));
            }
            rule.services.sluice(&mut policy, &rule.to);
        }
        for (index, inbound) in self.inbound.iter().enumerate() {
            let _ = writeln!(policy, "[[inbound]]\nname = \"inbound-{index}\"");
            let _ = writeln!(policy, "from = [{}]", quoted(&inbound.from));
            inbound.services.sluice(&mut policy, &inbound.to);
        }
        (gateway, policy)
    }

    /// The policy as the table `inet judge`. Connections are tracked in a zone of their own, so
    /// that nothing is remembered of an earlier policy.
    #[must_use]
    pub fn nftables(&self, zone: u16) -> String {
        let everyone = Group { cidr: Vec::new(), interface: BTreeSet::new() };
        let (mut chains, mut input, mut forward) = (String::new(), String::new(), String::new());
        for (index, rule) in self.rules.iter().enumerate() {
            let name = format!("rule_{index}");
            rule.services.nftables(&mut chains, &name);
            let groups: Vec<&Group> = if rule.from.is_empty() {
                vec![&everyone]
            } else {
                rule.from.iter().filter_map(|index| self.groups.get(*index)).collect()
            };
            for group in groups {
                let nics = if group.interface.is_empty() {
                    quoted(NICS)
                } else {
                    quoted(&group.interface)
                };
                jumps(
                    (&mut input, &mut forward),
                    &format!("iifname {{ {nics} }}"),
                    (&group.cidr, &rule.to),
                    ["", ""],
                    &name,
                );
            }
        }
        for (index, inbound) in self.inbound.iter().enumerate() {
            let name = format!("inbound_{index}");
            inbound.services.nftables(&mut chains, &name);
            jumps(
                (&mut input, &mut forward),
                "iifname \"wan0\"",
                (&inbound.from, &inbound.to),
                // A service of a host is opened by its first segment, as the gateway saw none
                // before; the gateway's own services know their connections themselves.
                ["", "ct state new "],
                &name,
            );
        }
        let spoofed: String = ["lan0", "lan1", "wan0"]
            .iter()
            .map(|nic| {
                // Compared by the best route's NIC. With `iif` as a key, IPv6 would look for any
                // route by that NIC, and the default one holds for every source.
                format!("    iifname \"{nic}\" fib saddr oifname != \"{nic}\" drop\n")
            })
            .collect();
        format!(
            "table inet judge\ndelete table inet judge\ntable inet judge {{\n{chains}\
             \n  chain zone {{\n    type filter hook prerouting priority raw; policy accept;\n    \
             ct zone set {zone}\n  }}\
             \n  chain sources {{\n    type filter hook prerouting priority mangle; policy accept;\n    \
             meta l4proto ipv6-icmp icmpv6 type {{ 133-137 }} accept\n{spoofed}  }}\
             \n  chain input {{\n    type filter hook input priority filter; policy drop;\n    \
             ct state established,related accept\n{input}  }}\
             \n  chain forward {{\n    type filter hook forward priority filter; policy drop;\n    \
             ct state established,related accept\n    \
             iifname \"wan0\" meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn drop\n\
             {forward}  }}\n}}\n"
        )
    }
}

/// A rule and a service for the packets that mark the end of a batch.
fn sentinels() -> (Rule, Inbound) {
    let services = Services {
        tcp: Vec::new(),
        udp: vec![(SENTINEL_PORT, SENTINEL_PORT)],
        echo: Echo::Denied,
        protocols: BTreeSet::new(),
    };
    let hosts: Vec<To> = SENTINEL_HOSTS.map(|host| To::Net(host.into())).to_vec();
    let mut to = hosts.clone();
    to.push(To::Net(SENTINEL_REMOTE.into()));
    let rule = Rule { from: BTreeSet::new(), to, services: services.clone() };
    (rule, Inbound { from: vec![SENTINEL_REMOTE.into()], to: hosts, services })
}

/// Writes the jumps to a rule's services: those to the gateway into one chain, those through it
/// into another.
fn jumps(
    (input, forward): (&mut String, &mut String),
    nics: &str,
    (from, to): (&[IpNet], &[To]),
    [input_state, forward_state]: [&str; 2],
    name: &str,
) {
    for to in to {
        let (chain, destinations, state) = match to {
            To::Own => (&mut *input, OWN.map(IpNet::from).to_vec(), input_state),
            // A prefix doesn't open the gateway, but for one that is an address of its own.
            To::Net(net) if OWN.iter().any(|own| IpNet::from(*own) == *net) => {
                (&mut *input, vec![*net], input_state)
            }
            To::Net(net) => (&mut *forward, vec![*net], forward_state),
        };
        for destination in destinations {
            let to = matched("daddr", destination);
            if from.is_empty() {
                let _ = writeln!(chain, "    {nics} {to} {state}jump {name}");
            }
            for source in from {
                if same_family(*source, destination) {
                    let from = matched("saddr", *source);
                    let _ = writeln!(chain, "    {nics} {from} {to} {state}jump {name}");
                }
            }
        }
    }
}

fn matched(what: &str, net: IpNet) -> String {
    match net {
        // nft writes a prefix of length 0 as a range, which matches everything of its family.
        IpNet::V4(net) => format!("ip {what} {net}"),
        IpNet::V6(net) => format!("ip6 {what} {net}"),
    }
}

fn same_family(one: IpNet, other: IpNet) -> bool {
    matches!((one, other), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}

fn quoted(of: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let quoted: Vec<String> = of.into_iter().map(|one| format!("\"{one}\"")).collect();
    quoted.join(", ")
}

// === impl Services ===

impl Services {
    /// One of the services.
    fn random(&self, random: &mut Random) -> Option<Service> {
        let port = |random: &mut Random, ranges: &[(u16, u16)]| {
            let (first, last) = random.pick(ranges).copied()?;
            let into = random.below(u32::from(last.saturating_sub(first)) + 1);
            Some(first.saturating_add(u16::try_from(into).ok()?))
        };
        for _ in 0..20 {
            let service = match random.below(8) {
                0..=2 => port(random, &self.tcp).map(Service::Tcp),
                3 | 4 => port(random, &self.udp).map(Service::Udp),
                5 | 6 if self.echo == Echo::Allowed => Some(Service::Echo),
                5 | 6 => None,
                _ => {
                    let protocols: Vec<u8> = self.protocols.iter().copied().collect();
                    random.pick(&protocols).copied().map(Service::Protocol)
                }
            };
            if service.is_some_and(|service| service != Service::Udp(SENTINEL_PORT)) {
                return service;
            }
        }
        None
    }

    /// Writes destinations and services as lines of a rule.
    fn sluice(&self, text: &mut String, to: &[To]) {
        let to: Vec<String> = to
            .iter()
            .map(|to| match to {
                To::Own => "self".to_owned(),
                To::Net(net) => net.to_string(),
            })
            .collect();
        let _ = writeln!(text, "to = [{}]", quoted(&to));
        for (protocol, ports) in [("tcp", &self.tcp), ("udp", &self.udp)] {
            if !ports.is_empty() {
                let ports = ports.iter().map(|(first, last)| format!("{first}-{last}"));
                let _ = writeln!(text, "{protocol} = [{}]", quoted(ports));
            }
        }
        match self.echo {
            Echo::Allowed => text.push_str("icmp = true\n"),
            Echo::Denied => {}
        }
        if !self.protocols.is_empty() {
            let _ = writeln!(text, "proto = {:?}", self.protocols.iter().collect::<Vec<_>>());
        }
        text.push('\n');
    }

    /// Writes the services as a chain.
    fn nftables(&self, text: &mut String, name: &str) {
        let _ = writeln!(text, "  chain {name} {{");
        for (protocol, ports) in [("tcp", &self.tcp), ("udp", &self.udp)] {
            for (first, last) in ports {
                let ports =
                    if first == last { format!("{first}") } else { format!("{first}-{last}") };
                let _ = writeln!(text, "    {protocol} dport {ports} accept");
            }
        }
        match self.echo {
            Echo::Allowed => {
                text.push_str("    icmp type echo-request accept\n");
                text.push_str("    icmpv6 type echo-request accept\n");
            }
            Echo::Denied => {}
        }
        for protocol in &self.protocols {
            let _ = writeln!(text, "    meta l4proto {protocol} accept");
        }
        text.push_str("  }\n");
    }
}

fn group(random: &mut Random) -> Group {
    let kinds = random.below(3) + 1;
    let mut group = Group { cidr: Vec::new(), interface: BTreeSet::new() };
    if kinds & 1 != 0 {
        group.cidr = (0..=random.below(3)).map(|_| inside_net(random)).collect();
    }
    if kinds & 2 != 0 {
        group.interface.extend(random.pick(&NICS));
    }
    group
}

fn rule(random: &mut Random, groups: usize) -> Rule {
    let mut from = BTreeSet::new();
    if groups > 0 && random.below(3) > 0 {
        let indices: Vec<usize> = (0..groups).collect();
        from.extend((0..=random.below(2)).filter_map(|_| random.pick(&indices).copied()));
    }
    let to = (0..=random.below(4)).map(|_| match random.below(8) {
        0 => To::Own,
        1 => To::Net(random.pick(&OWN).copied().unwrap_or(SENTINEL_REMOTE).into()),
        2 | 3 => To::Net(inside_net(random)),
        _ => To::Net(outside_net(random)),
    });
    Rule { from, to: to.collect(), services: services(random) }
}

fn offer(random: &mut Random) -> Inbound {
    let from = (0..=random.below(2)).map(|_| outside_net(random)).collect();
    let to = (0..=random.below(3)).map(|_| match random.below(3) {
        0 => To::Own,
        _ => To::Net(inside_net(random)),
    });
    Inbound { from, to: to.collect(), services: services(random) }
}

/// Services of a rule, at least one.
fn services(random: &mut Random) -> Services {
    let ranges = |random: &mut Random| -> Vec<(u16, u16)> {
        (0..random.below(4)).filter_map(|_| random.pick(&RANGES).copied()).collect()
    };
    let mut tcp = ranges(random);
    let udp = ranges(random);
    let protocols: BTreeSet<u8> = PROTOCOLS.into_iter().filter(|_| random.below(5) == 0).collect();
    let echo = if random.below(2) == 0 { Echo::Allowed } else { Echo::Denied };
    if tcp.is_empty() && udp.is_empty() {
        tcp.push((443, 443));
    }
    Services { tcp, udp, echo, protocols }
}

/// A prefix of clients, or around them.
fn inside_net(random: &mut Random) -> IpNet {
    let nic = if random.below(2) == 0 { 20 } else { 21 };
    let address = host(random, nic);
    prefix(random, address, [15, 24, 29, 30, 31, 32], [31, 64, 125, 126, 127, 128])
}

/// A prefix of the internet.
fn outside_net(random: &mut Random) -> IpNet {
    let address = remote(random);
    prefix(random, address, [0, 8, 24, 27, 30, 32], [0, 32, 64, 124, 126, 128])
}

/// A host behind an inside NIC.
pub(super) fn host(random: &mut Random, nic: u8) -> IpAddr {
    let host = 2 + u8::try_from(random.below(u32::from(HOSTS))).unwrap_or_default();
    if random.below(3) == 0 {
        let net = if nic == 20 { 0x20 } else { 0x21 };
        Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(10, nic, 0, host).into()
    }
}

/// A host in the internet, of which there are so few that rules and packets meet.
pub(super) fn remote(random: &mut Random) -> IpAddr {
    let host = u8::try_from(random.below(32)).unwrap_or_default();
    if random.below(3) == 0 {
        Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, host.into()).into()
    } else {
        let net = if random.below(2) == 0 { [203, 0, 113] } else { [198, 51, 100] };
        Ipv4Addr::new(net[0], net[1], net[2], host).into()
    }
}

/// Anything that packets may come from or go to, the gateway included.
pub(super) fn anywhere(random: &mut Random) -> IpAddr {
    match random.below(6) {
        0 => random.pick(&OWN).copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        1 => host(random, 20),
        2 => host(random, 21),
        _ => remote(random),
    }
}

/// An address in a prefix that somebody has; in a wide one, some host that it covers.
pub(super) fn inside(random: &mut Random, net: IpNet) -> IpAddr {
    for _ in 0..20 {
        let address = anywhere(random);
        if net.contains(&address) && !address.is_unspecified() {
            return address;
        }
    }
    let near = random.below(8);
    let address = match net {
        IpNet::V4(net) => IpAddr::from(Ipv4Addr::from(
            u32::from(net.network()) | near & u32::from(net.hostmask()),
        )),
        IpNet::V6(net) => IpAddr::from(Ipv6Addr::from(
            u128::from(net.network()) | u128::from(near) & u128::from(net.hostmask()),
        )),
    };
    let nobody = address.is_unspecified()
        || match address {
            IpAddr::V4(address) => address.octets().starts_with(&[0]),
            IpAddr::V6(address) => address.segments().starts_with(&[0]),
        };
    if nobody { remote(random) } else { address }
}

fn prefix(random: &mut Random, address: IpAddr, v4: [u8; 6], v6: [u8; 6]) -> IpNet {
    let lengths = if address.is_ipv4() { v4 } else { v6 };
    let length = random.pick(&lengths).copied().unwrap_or_default();
    IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address)).trunc()
}
