// SPDX-License-Identifier: MIT OR Apache-2.0
//! One test for each thing that compiling has to get right, seen through look-ups.

mod groups;
mod host;
mod names;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use filter_common::{
    egress::Side,
    parse::Address,
    tables::{Class, Tables as _},
    verdict::PassReason,
    wire::{COUNTERS_PER_NIC, FIRST_MATCH, Grant, MAX_PORT_SETS, Selector, SlotSettings},
};
use ipnet::IpNet;

use super::{
    Capacity, CapacityError, ClientGroup, Compiled, CounterLedger, Host, HostNic, Via, View,
    compile,
};
use crate::{
    names::Snapshot,
    policy::{
        Clients, DenyAction, Destination, Dns, Echo, Fqdn, Gateway, Label, Management, Mode,
        NamePattern, NicName, Origin, Policy, PortRange, PortRanges, Ports, Rule, RuleState,
        SourceGroup, SpecialPurpose, TableSizes, XdpMode,
    },
};

/// A gateway with the NICs `in0` (10.0.0.0/16 and fd00::/32) and `in1` (10.1.0.0/16), and its
/// own addresses 10.0.0.1, 10.1.0.1 and fd00::1.
struct World {
    policy: Policy,
    names: Snapshot,
    host: Host,
    ledger: CounterLedger,
}

impl World {
    fn new() -> Self {
        let policy = Policy {
            gateway: Gateway {
                inside: vec![nic("in0"), nic("in1")],
                outside: Vec::new(),
                ignore: Vec::new(),
                xdp_mode: XdpMode::Auto,
                mode: Mode::Enforce,
                deny: DenyAction::Drop,
                on_change: crate::policy::OnChange::Cut,
                on_stop: crate::policy::OnStop::Keep,
                sizes: TableSizes::default(),
                origin: origin(1),
            },
            dns: Dns::default(),
            metrics: crate::policy::Metrics::default(),
            management: Management::default(),
            sources: Vec::new(),
            rules: Vec::new(),
            inbound: Vec::new(),
        };
        let host = Host {
            nics: vec![
                HostNic {
                    slot: 0,
                    name: nic("in0"),
                    side: Side::Inside,
                    plausible: nets(&["10.0.0.0/16", "fd00::/32"]),
                    elsewhere: Vec::new(),
                },
                HostNic {
                    slot: 5,
                    name: nic("in1"),
                    side: Side::Inside,
                    plausible: nets(&["10.1.0.0/16"]),
                    elsewhere: Vec::new(),
                },
            ],
            own: ["10.0.0.1", "10.1.0.1", "fd00::1"].map(ip).into(),
            closed: BTreeSet::new(),
        };
        Self { policy, names: Snapshot::default(), host, ledger: CounterLedger::default() }
    }

    /// Adds a rule for TCP ports.
    fn rule(mut self, name: &str, from: &[&str], to: &[&str], tcp: &[&str]) -> Self {
        let destination = |text: &&str| match *text {
            "self" => Destination::SelfAddresses,
            text => match text.parse() {
                Ok(prefix) => Destination::Prefix(prefix),
                Err(_) => Destination::Name(NamePattern::try_from(text).unwrap()),
            },
        };
        self.policy.rules.push(Rule {
            name: label(name),
            from: match from {
                [] => Clients::Any,
                groups => Clients::Groups(groups.iter().map(|name| label(name)).collect()),
            },
            to: to.iter().map(destination).map(|to| (to, 100)).collect(),
            ports: Ports { tcp: ports(tcp), ..Ports::default() },
            state: RuleState::Enabled,
            note: None,
            private: SpecialPurpose::Refused,
            origin: origin(100),
        });
        self
    }

    fn group(mut self, name: &str, cidr: &[&str], interface: &[&str], vlan: &[u16]) -> Self {
        self.policy.sources.push(SourceGroup {
            name: label(name),
            cidr: nets(cidr),
            interface: interface.iter().map(|name| nic(name)).collect(),
            vlan: vlan.iter().copied().collect(),
            origin: origin(10),
        });
        self
    }

    fn management(mut self, nics: &[&str], from: &[&str], tcp: &[&str]) -> Self {
        self.policy.management = Management {
            nics: nics.iter().map(|name| nic(name)).collect(),
            from: nets(from),
            tcp: ports(tcp),
            udp: PortRanges::default(),
            origin: Some(origin(3)),
        };
        self
    }

    fn name(mut self, name: &str, addresses: &[&str]) -> Self {
        self.set_name(name, addresses);
        self
    }

    fn set_name(&mut self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| ip(address)).collect();
        self.names.addresses.insert(Fqdn::try_from(name).unwrap(), addresses);
    }

    fn compile(&mut self) -> Compiled {
        self.try_compile().unwrap()
    }

    fn try_compile(&mut self) -> Result<Compiled, CapacityError> {
        compile(&self.policy, &self.names, &self.host, &mut self.ledger)
    }
}

/// A packet: NIC, VLAN, source.
type From<'a> = (u32, u16, &'a str);

/// A client behind `in0`.
const CLIENT: From<'static> = (0, 0, "10.0.7.7");

/// The rules that allow a TCP port, with the reason; or why it is denied.
fn look_up(compiled: &Compiled, from: From<'_>, to: &str, tcp: u16) -> String {
    select(compiled, from, to, Selector::tcp(tcp))
}

fn select(compiled: &Compiled, (nic, vlan, source): From<'_>, to: &str, what: Selector) -> String {
    let Compiled { tables, meaning, .. } = compiled;
    let view = View::new(tables, nic);
    let Some(class) = view.class(vlan, &address(source)) else { return "spoofed".into() };
    let grant = view.grant(&address(to));
    if grant.row() == 0 {
        return "not listed".into();
    }
    let Some(ports) = view.port_set(grant, class) else { return "source".into() };
    let permit = view.permit(ports, what);
    if !permit.is_granted() {
        return "port".into();
    }
    let matched = meaning.counter(permit.counter()).unwrap();
    assert_eq!(permit.reason(), Some(matched.reason));
    let names: Vec<&str> =
        matched.rules.iter().map(|rule| meaning.rule(*rule).unwrap().name.as_str()).collect();
    match matched.reason {
        PassReason::Rule => names.join("+"),
        reason => format!("{}: {}", reason.name(), names.join("+")),
    }
}

fn groups(compiled: &Compiled, (nic, vlan, source): From<'_>) -> String {
    match (View::new(&compiled.tables, nic)).class(vlan, &address(source)) {
        None => "spoofed".into(),
        Some(Class(class)) => {
            let groups = compiled.meaning.class(class).unwrap().iter();
            groups.map(ClientGroup::to_string).collect::<Vec<_>>().join("+")
        }
    }
}

fn grant(compiled: &Compiled, to: &str) -> Grant {
    View::new(&compiled.tables, 0).grant(&address(to))
}

#[test]
fn nested_prefixes_add_up() {
    let compiled = World::new()
        .rule("wide", &[], &["203.0.113.0/24"], &["80"])
        .rule("narrow", &[], &["203.0.113.32/27"], &["443"])
        .rule("host", &[], &["203.0.113.33/32"], &["80", "22"])
        .rule("same", &[], &["203.0.113.32/27"], &["443"])
        .compile();
    for (to, tcp, expected) in [
        ("203.0.113.1", 80, "wide"),
        ("203.0.113.1", 443, "port"),
        ("203.0.113.32", 80, "wide"),
        ("203.0.113.32", 443, "narrow+same"),
        ("203.0.113.33", 22, "host"),
        ("203.0.113.33", 80, "wide+host"),
        ("203.0.113.33", 443, "narrow+same"),
        ("203.0.113.64", 443, "port"),
        ("203.0.112.255", 80, "not listed"),
        ("203.0.114.0", 80, "not listed"),
    ] {
        assert_eq!(look_up(&compiled, CLIENT, to, tcp), expected, "{to} {tcp}");
    }
}

#[test]
fn families_are_apart() {
    let compiled = World::new()
        .rule("v4", &[], &["0.0.0.0/0"], &["80"])
        .rule("v6", &[], &["2001:db8::/32"], &["443"])
        .compile();
    let v6_client = (0, 0, "fd00::7");
    assert_eq!(look_up(&compiled, CLIENT, "198.51.100.1", 80), "v4");
    assert_eq!(look_up(&compiled, v6_client, "2001:db8::1", 443), "v6");
    assert_eq!(look_up(&compiled, v6_client, "2001:db9::1", 443), "not listed");
    assert_eq!(look_up(&compiled, v6_client, "::1", 80), "not listed");
    assert_eq!(look_up(&compiled, (5, 0, "fd00::7"), "2001:db8::1", 443), "spoofed");
}

#[test]
fn a_client_in_two_groups_gets_both() {
    let compiled = World::new()
        .group("wide", &["10.0.0.0/8"], &[], &[])
        .group("narrow", &["10.0.7.0/24"], &[], &[])
        .rule("of-wide", &["wide"], &["203.0.113.0/24"], &["80"])
        .rule("of-narrow", &["narrow"], &["203.0.113.0/24"], &["80", "443"])
        .rule("of-all", &[], &["203.0.113.0/25"], &["22"])
        .compile();
    assert_eq!(groups(&compiled, CLIENT), "narrow+wide");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.1", 80), "of-wide+of-narrow");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.1", 443), "of-narrow");
    assert_eq!(look_up(&compiled, (0, 0, "10.0.8.7"), "203.0.113.1", 80), "of-wide");
    assert_eq!(look_up(&compiled, (0, 0, "10.0.8.7"), "203.0.113.1", 443), "port");
    let v6_client = (0, 0, "fd00::7");
    assert_eq!(groups(&compiled, v6_client), "");
    assert_eq!(look_up(&compiled, v6_client, "203.0.113.1", 22), "of-all");
    assert_eq!(look_up(&compiled, v6_client, "203.0.113.200", 80), "source");
}

#[test]
fn a_group_makes_no_source_plausible() {
    let compiled = World::new()
        .group("all", &["0.0.0.0/0", "::/0"], &[], &[])
        .group("within", &["10.0.7.0/24"], &[], &[])
        .group("elsewhere", &["192.0.2.0/24"], &[], &[])
        .compile();
    for (from, expected) in [
        ((0, 0, "10.0.7.7"), "all+within"),
        ((0, 0, "10.0.8.7"), "all"),
        ((0, 0, "fd00::7"), "all"),
        ((0, 0, "10.1.0.7"), "spoofed"),
        ((0, 0, "192.0.2.7"), "spoofed"),
        ((0, 0, "fd01::7"), "spoofed"),
        ((5, 0, "10.1.0.7"), "all"),
        ((5, 0, "10.0.7.7"), "spoofed"),
        ((1, 0, "10.0.7.7"), "spoofed"),
        ((16, 0, "10.0.7.7"), "spoofed"),
        ((0, 0, "169.254.3.4"), "all"),
        ((5, 4095, "fe80::1"), "all"),
    ] {
        assert_eq!(groups(&compiled, from), expected, "{from:?}");
    }
}

#[test]
fn fields_of_a_group_are_anded_and_lists_ored() {
    let compiled = World::new()
        .group("nic", &[], &["in1"], &[])
        .group("vlans", &[], &[], &[10, 20])
        .group("both", &["10.0.0.0/24", "10.1.0.0/24"], &["in0"], &[20, 30])
        .compile();
    for (from, expected) in [
        ((0, 0, "10.0.0.7"), ""),
        ((0, 10, "10.0.0.7"), "vlans"),
        ((0, 20, "10.0.0.7"), "both+vlans"),
        ((0, 30, "10.0.0.7"), "both"),
        ((0, 30, "10.0.1.7"), ""),
        ((0, 4094, "10.0.0.7"), ""),
        ((5, 0, "10.1.0.7"), "nic"),
        ((5, 20, "10.1.0.7"), "nic+vlans"),
        ((5, 30, "10.1.0.7"), "nic"),
    ] {
        assert_eq!(groups(&compiled, from), expected, "{from:?}");
    }
    // in0: none, 10, 20, 30; in1: none (and 30), 10 and 20.
    let zones: BTreeSet<u32> = compiled.tables.zones.values().copied().collect();
    assert_eq!(zones, (1..=6).collect());
    assert_eq!(compiled.tables.zones.len(), 2 * 4096);
}

#[test]
fn nics_that_don_t_differ_share_a_zone() {
    let mut world = World::new();
    for nic in &mut world.host.nics {
        nic.plausible = nets(&["10.0.0.0/8"]);
    }
    let zones: BTreeSet<u32> = world.compile().tables.zones.into_values().collect();
    assert_eq!(zones, [1].into());
}

#[test]
fn the_management_guard_outweighs_rules() {
    let compiled = World::new()
        .management(&["in0"], &["10.0.9.0/24"], &["22"])
        .rule("me", &[], &["self"], &["22", "80"])
        .compile();
    let admin = (0, 0, "10.0.9.9");
    assert_eq!(look_up(&compiled, admin, "10.0.0.1", 22), "management: management+me");
    assert_eq!(look_up(&compiled, admin, "10.0.0.1", 80), "me");
    assert_eq!(look_up(&compiled, admin, "10.0.0.2", 22), "not listed");
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.1", 22), "me");
    assert_eq!(groups(&compiled, admin), "[management]");
}

#[test]
fn the_management_guard_needs_its_nic_and_its_prefix() {
    let from = ["10.0.9.0/24", "10.1.9.0/24"];
    let compiled = World::new().management(&["in1"], &from, &["22"]).compile();
    assert_eq!(look_up(&compiled, (5, 7, "10.1.9.9"), "10.0.0.1", 22), "management: management");
    assert_eq!(look_up(&compiled, (0, 0, "10.0.9.9"), "10.0.0.1", 22), "source");
    assert_eq!(look_up(&compiled, (5, 0, "10.1.8.9"), "10.0.0.1", 22), "source");
    let everywhere = World::new().management(&[], &from, &["22"]).compile();
    assert_eq!(look_up(&everywhere, (0, 0, "10.0.9.9"), "10.0.0.1", 22), "management: management");
    let (_, rule) = everywhere.meaning.rules().next().unwrap();
    assert_eq!(rule.origin.to_string(), "test.toml:3");
}

#[test]
fn the_forwarder_is_open_to_every_client() {
    let mut world = World::new().management(&[], &["10.0.7.0/24"], &["53"]).rule(
        "dns",
        &[],
        &["self"],
        &["53", "80"],
    );
    world.policy.dns.listen = vec![ip("10.0.0.1")];
    let compiled = world.compile();
    let other = (5, 12, "10.1.7.7");
    assert_eq!(look_up(&compiled, other, "10.0.0.1", 53), "dns-forwarder: dns+dns");
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.1", 53), "management: management+dns+dns");
    assert_eq!(look_up(&compiled, other, "10.0.0.1", 80), "dns");
    assert_eq!(look_up(&compiled, other, "10.1.0.1", 53), "dns");
    let udp = Selector::udp(53);
    assert_eq!(select(&compiled, other, "10.0.0.1", udp), "dns-forwarder: dns");
    assert_eq!(select(&compiled, other, "10.1.0.1", udp), "port");
}

#[test]
fn disabled_rules_grant_nothing() {
    let mut world = World::new().rule("off", &[], &["203.0.113.0/24"], &["80"]);
    world.policy.rules[0].state = RuleState::Disabled;
    let compiled = world.compile();
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.1", 80), "not listed");
    assert_eq!(compiled.meaning.rules().count(), 0);
}

#[test]
fn names_bring_the_addresses_that_they_have() {
    let compiled = World::new()
        .rule("exact", &[], &["www.example.com"], &["80"])
        .rule("below", &[], &["*.example.com"], &["443"])
        .rule("inner", &[], &["cdn*.example.net"], &["22"])
        .rule("prefix", &[], &["203.0.113.0/24"], &["443"])
        .name("www.example.com", &["203.0.113.7", "2001:db8::7"])
        .name("a.b.example.com", &["203.0.113.8"])
        .name("example.com", &["203.0.113.9"])
        .name("badexample.com", &["203.0.113.10"])
        .name("cdn17.example.net", &["203.0.113.8"])
        .name("cdn.evil.example.net", &["203.0.113.9"])
        .compile();
    let v6_client = (0, 0, "fd00::7");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.7", 80), "exact");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.7", 443), "below+prefix");
    assert_eq!(look_up(&compiled, v6_client, "2001:db8::7", 443), "below");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.8", 22), "inner");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.9", 443), "prefix");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.9", 22), "port");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.10", 443), "prefix");
}

#[test]
fn via_tells_how_an_address_came_in() {
    let compiled = World::new()
        .rule("mixed", &[], &["203.0.113.0/24", "203.0.113.0/27", "*.example.com"], &["80"])
        .rule("me", &[], &["self"], &["80"])
        .name("www.example.com", &["203.0.113.7"])
        .compile();
    let rule = |name: &str| {
        let found = compiled.meaning.rules().find(|(_, rule)| rule.name.as_str() == name);
        found.unwrap().0
    };
    let via = |name: &str, to: &str| compiled.meaning.via(rule(name), ip(to));
    assert_eq!(via("mixed", "203.0.113.200"), Some(Via::Prefix(net("203.0.113.0/24"))));
    assert_eq!(via("mixed", "203.0.113.8"), Some(Via::Prefix(net("203.0.113.0/27"))));
    assert_eq!(
        via("mixed", "203.0.113.7"),
        Some(Via::Name {
            name: Fqdn::try_from("www.example.com").unwrap(),
            address: ip("203.0.113.7")
        })
    );
    assert_eq!(via("me", "fd00::1"), Some(Via::SelfAddress));
    assert_eq!(via("me", "203.0.113.7"), None);
    assert_eq!(via("mixed", "198.51.100.1"), None);
}

#[test]
fn ports_are_met_exactly() {
    let mut world = World::new()
        .rule("web", &[], &["203.0.113.0/24"], &["80-90", "443"])
        .rule("all", &[], &["203.0.113.128/25"], &["any"])
        .rule("other", &[], &["203.0.113.0/24"], &[]);
    let ports = &mut world.policy.rules[2].ports;
    ports.udp = self::ports(&["65535", "1-3"]);
    ports.echo = Echo::Allowed;
    ports.protocols = [47, 50, 52].map(|number: u8| number.try_into().unwrap()).into();
    let compiled = world.compile();
    let at = |to: &str, what| select(&compiled, CLIENT, to, what);
    for (port, expected) in [(0, "port"), (79, "port"), (80, "web"), (90, "web"), (91, "port")] {
        assert_eq!(at("203.0.113.1", Selector::tcp(port)), expected, "{port}");
    }
    for (port, expected) in [(0, "port"), (1, "all"), (80, "web+all"), (65_535, "all")] {
        assert_eq!(at("203.0.113.200", Selector::tcp(port)), expected, "{port}");
    }
    for (port, expected) in
        [(0, "port"), (1, "other"), (3, "other"), (4, "port"), (65_535, "other")]
    {
        assert_eq!(at("203.0.113.1", Selector::udp(port)), expected, "{port}");
    }
    for (number, expected) in [
        (0, "port"),
        (46, "port"),
        (47, "other"),
        (48, "port"),
        (50, "other"),
        (51, "port"),
        (52, "other"),
        (255, "port"),
    ] {
        assert_eq!(at("203.0.113.1", Selector::protocol(number)), expected, "{number}");
    }
    assert_eq!(at("203.0.113.1", Selector::ECHO), "other");
    // None, web, web and all, all, other.
    assert_eq!(compiled.tables.settings.port_classes, 4);
    assert_eq!(compiled.tables.port_class(Selector::tcp(0)), 0);
}

#[test]
fn protocols_in_a_row_are_one_run() {
    let mut world = World::new().rule("row", &[], &["203.0.113.0/24"], &[]);
    world.policy.rules[0].ports.protocols =
        [88, 89, 90].map(|number: u8| number.try_into().unwrap()).into();
    let compiled = world.compile();
    for (number, expected) in [(87, "port"), (88, "row"), (89, "row"), (90, "row"), (91, "port")] {
        let what = Selector::protocol(number);
        assert_eq!(select(&compiled, CLIENT, "203.0.113.1", what), expected, "{number}");
    }
}

#[test]
fn a_rule_without_ports_is_listed_and_allows_nothing() {
    let compiled = World::new().rule("bare", &[], &["203.0.113.0/24"], &[]).compile();
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.1", 80), "port");
}

#[test]
fn the_mode_is_in_the_settings() {
    let mut world = World::new();
    assert_eq!(world.compile().tables.settings.mode, SlotSettings::ENFORCE);
    world.policy.gateway.mode = Mode::Audit;
    assert_eq!(world.compile().tables.settings.mode, SlotSettings::AUDIT);
}

#[test]
fn numbers_follow_the_first_use() {
    let compiled = World::new()
        .group("late", &["10.1.0.0/16"], &[], &[])
        .group("early", &["10.0.0.0/16"], &[], &[])
        .rule("high", &[], &["203.0.113.0/24"], &["443"])
        .rule("low", &[], &["198.51.100.0/24"], &["80"])
        .compile();
    assert_eq!(grant(&compiled, "198.51.100.1"), Grant::new(1));
    assert_eq!(grant(&compiled, "203.0.113.1"), Grant::new(2));
    let names: Vec<String> = compiled
        .meaning
        .classes()
        .iter()
        .map(|groups| groups.iter().map(ClientGroup::to_string).collect())
        .collect();
    assert_eq!(names, ["", "early", "late"]);
    assert_eq!(compiled.tables.port_class(Selector::tcp(80)), 1);
    assert_eq!(compiled.tables.port_class(Selector::tcp(443)), 2);
    assert_eq!(compiled.tables.counters(), [FIRST_MATCH, FIRST_MATCH + 1].into());
}

#[test]
fn a_match_keeps_its_counter() {
    let mut world = World::new().rule("b", &[], &["203.0.113.0/24"], &["80"]);
    let first = world.compile();
    let counter = |compiled: &Compiled, tcp| {
        let view = View::new(&compiled.tables, 0);
        let class = view.class(0, &address("10.0.7.7")).unwrap();
        let ports = view.port_set(view.grant(&address("203.0.113.1")), class).unwrap();
        view.permit(ports, Selector::tcp(tcp)).counter()
    };
    assert_eq!(counter(&first, 80), FIRST_MATCH);

    // What sorts before it takes the next one.
    world = world.rule("a", &[], &["203.0.113.0/25"], &["79-80"]);
    world.policy.rules.swap(0, 1);
    let second = world.compile();
    assert_eq!(world.ledger.len(), 3);
    assert_eq!(counter(&second, 79), FIRST_MATCH + 1);
    assert_eq!(counter(&second, 80), FIRST_MATCH + 2);

    // Nobody counts for b alone below a/25, but the rest of its prefix does.
    world.policy.rules.pop();
    let third = world.compile();
    assert_eq!(counter(&third, 80), FIRST_MATCH + 1);
    let mut referenced = third.tables.counters();
    referenced.extend(first.tables.counters());
    assert_eq!(world.ledger.retire(&referenced), [FIRST_MATCH + 2].into());
    assert_eq!(world.ledger.retire(&referenced), [].into());
    assert_eq!(world.ledger.len(), 2);
    world = world.rule("c", &[], &["192.0.2.0/24"], &["80"]);
    world.compile();
    assert_eq!(world.ledger.iter().map(|(_, counter)| counter).max(), Some(FIRST_MATCH + 2));
}

#[test]
fn the_ledger_survives_a_restart() {
    let mut world = World::new()
        .management(&[], &["10.0.0.0/16"], &["22"])
        .rule("a", &[], &["203.0.113.0/24", "self"], &["22", "80"])
        .rule("b", &[], &["203.0.113.0/25"], &["80"]);
    world.compile();
    let text = serde_json::to_string(&world.ledger).unwrap();
    assert_eq!(serde_json::from_str::<CounterLedger>(&text).unwrap(), world.ledger);
    for (text, expected) in [
        (r#"[{"counter":255,"rules":[]}]"#, "counter 255 is not one that a match can have"),
        (r#"[{"counter":4096,"rules":[]}]"#, "counter 4096 is not one that a match can have"),
        (
            r#"[{"counter":256,"rules":[]},{"counter":256,"rules":[{"reason":"rule","name":"a"}]}]"#,
            "counter 256 or its rules stand there twice",
        ),
        (
            r#"[{"counter":256,"rules":[]},{"counter":257,"rules":[]}]"#,
            "counter 257 or its rules stand there twice",
        ),
        (
            r#"[{"counter":256,"rules":[{"reason":"rule","name":"a b"}]}]"#,
            "\"a b\" is no name of a rule",
        ),
        (r#"[{"counter":256,"rules":[{"reason":"why","name":"a"}]}]"#, "\"why\" is no pass reason"),
    ] {
        let error = serde_json::from_str::<CounterLedger>(text).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn too_many_grants_and_classes() {
    let mut world = World::new();
    for group in 0..250 {
        world = world.group(&format!("g{group}"), &[&format!("10.0.{group}.0/24")], &[], &[]);
    }
    for rule in 0..1100 {
        let to = format!("198.18.{}.{}/32", rule / 256, rule % 256);
        world = world.rule(&format!("r{rule}"), &[], &[&to], &["80"]);
    }
    let before = world.ledger.clone();
    let error = world.try_compile().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the policy needs 276351 grant cells (1101 grants x 251 client classes), the tables hold \
         262144: raise [gateway] max_grant_cells, or let fewer rules overlap on a destination, or \
         fewer groups on a client"
    );
    assert_eq!(world.ledger, before);
    world.policy.gateway.sizes.grant_cells = 300_000;
    world.compile();
    world.policy.gateway.sizes = TableSizes::default();
    world.policy.rules.truncate(1000);
    world.compile();
}

#[test]
fn too_many_port_sets() {
    let mut world = World::new();
    // Wide prefixes and addresses below each of them, so that every address has two rules of its own.
    for wide in 0..257_u32 {
        let to = Ipv4Addr::from(0x6440_0000 | wide << 9);
        world = world.rule(&format!("wide-{wide}"), &[], &[&format!("{to}/23")], &["80"]);
    }
    for narrow in 0..257_u32 {
        let to = |wide: u32| format!("{}/32", Ipv4Addr::from(0x6440_0000 | wide << 9 | narrow));
        let to: Vec<String> = (0..257).map(to).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        world = world.rule(&format!("narrow-{narrow}"), &[], &to, &["443"]);
    }
    let error = world.try_compile().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the policy needs 66307 port sets, the tables hold 65535: let fewer rules overlap on a destination, \
         or give them the same ports and ranges"
    );
    world.policy.rules.truncate(257 + 254);
    assert_eq!(world.try_compile().unwrap_err().exceeded[0].needed, 65_536);
    // One less, and the last of them is the highest number that a cell can hold.
    world.policy.rules.last_mut().unwrap().to.pop();
    let compiled = world.compile();
    let highest = compiled.tables.cells.iter().map(|(_, set)| set).max();
    assert_eq!(highest, Some(MAX_PORT_SETS - 1));
}

#[test]
fn too_many_matches() {
    let mut world = World::new();
    let rules = COUNTERS_PER_NIC - FIRST_MATCH + 1;
    for rule in 0..rules {
        let to = format!("198.18.{}.{}/32", rule / 256, rule % 256);
        world = world.rule(&format!("r{rule}"), &[], &[&to], &["80"]);
    }
    let error = world.try_compile().unwrap_err();
    assert_eq!(error.exceeded.len(), 1);
    assert_eq!(error.exceeded[0].what, Capacity::Matches { held: 0 });
    assert_eq!((error.exceeded[0].needed, error.exceeded[0].capacity), (3841, 3840));
    assert!(!error.is_only_held_counters());
    assert!(world.ledger.is_empty());

    // Full, but it fits; then another policy needs counters that are still held.
    world.policy.rules.pop();
    let full = world.compile();
    world.policy.rules.truncate(1);
    world.policy.rules[0].name = label("new");
    let error = world.try_compile().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the policy needs 3841 counters of rule combinations (3840 held by earlier policies), \
         the tables hold 3840: put it in force in two parts, so that the first replaces rules \
         whose counters the second needs"
    );
    assert!(error.is_only_held_counters());
    assert_eq!(full.tables.counters().len(), 3840);
    world.ledger.retire(&BTreeSet::new());
    world.compile();
}

#[test]
fn every_table_that_is_too_small_is_named() {
    let mut world = World::new();
    let cidr: Vec<String> =
        (0..65_536).map(|host| format!("10.0.{}.{}/32", host / 256, host % 256)).collect();
    let cidr: Vec<&str> = cidr.iter().map(String::as_str).collect();
    world = world.group("hosts", &cidr, &[], &[]);
    // 600 rules with their own port each at 600 destinations.
    for rule in 0..600 {
        let to = format!("198.18.{}.{}/32", rule / 256, rule % 256);
        world = world.rule(&format!("r{rule}"), &[], &[&to], &[&format!("{}", rule + 1)]);
    }
    let error = world.try_compile().unwrap_err();
    assert!(!error.is_only_held_counters());
    let what: Vec<Capacity> = error.exceeded.into_iter().map(|table| table.what).collect();
    assert_eq!(
        what,
        [Capacity::SourcesV4, Capacity::PortCells { port_sets: 601, port_classes: 601 }]
    );

    let mut world = World::new();
    world.host.nics[1].slot = 16;
    assert_eq!(
        world.try_compile().unwrap_err().to_string(),
        "the policy needs 17 inside NICs, the tables hold 16: list fewer NICs in `inside`"
    );
}

#[test]
fn many_prefixes_compile() {
    let mut world = World::new()
        .group("a", &["10.0.0.0/24"], &[], &[])
        .group("b", &["10.0.0.0/25"], &[], &[])
        .rule("all", &[], &["198.18.0.0/15"], &["80"]);
    for rule in 0..200 {
        let name = format!("n{rule}.example.com");
        let addresses: BTreeSet<IpAddr> = (0..500_u32)
            .map(|host| IpAddr::from((0xc612_0000 + rule * 500 + host).to_be_bytes()))
            .collect();
        let from: &[&str] = if rule % 2 == 0 { &["a"] } else { &["b"] };
        world = world.rule(&format!("r{rule}"), from, &[&name, "*.example.com"], &["443"]);
        world.names.addresses.insert(Fqdn::try_from(name.as_str()).unwrap(), addresses);
    }
    // Each wildcard covers every name: keep one.
    for rule in world.policy.rules.iter_mut().skip(2) {
        rule.to.pop();
    }
    let compiled = world.compile();
    assert_eq!(compiled.tables.grants.len(), 100_000 + 1 + 3);
    assert_eq!(look_up(&compiled, (0, 0, "10.0.0.7"), "198.18.0.1", 443), "r0");
    assert_eq!(look_up(&compiled, (0, 0, "10.0.0.7"), "198.18.1.250", 443), "r0+r1");
    assert_eq!(look_up(&compiled, (0, 0, "10.0.0.200"), "198.18.1.250", 443), "r0");
}

fn address(text: &str) -> Address {
    match ip(text) {
        IpAddr::V4(address) => Address::V4(address.octets()),
        IpAddr::V6(address) => Address::V6(address.octets()),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn ports(texts: &[&str]) -> PortRanges {
    texts.iter().map(|text| PortRange::try_from(*text).unwrap()).collect()
}

fn label(text: &str) -> Label {
    Label::try_from(text).unwrap()
}

fn nic(text: &str) -> NicName {
    NicName::try_from(text).unwrap()
}

fn origin(line: u32) -> Origin {
    Origin { file: "test.toml".into(), line }
}
