// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the gateway's own addresses and its routes change.

use super::*;

#[test]
fn a_source_lives_where_the_best_route_leads() {
    let mut world = World::new().group("wide", &["10.0.0.0/8"], &[], &[]).group(
        "in-there",
        &["10.0.64.128/25", "10.0.66.0/24"],
        &[],
        &[],
    );
    world.host.nics[0].plausible = nets(&["0.0.0.0/0", "10.0.66.0/24", "10.0.67.0/24"]);
    world.host.nics[0].elsewhere =
        nets(&["10.0.64.0/18", "10.0.64.0/24", "10.0.67.0/24", "10.1.0.0/16", "fd00::/8"]);
    world.host.nics[1].elsewhere = nets(&["0.0.0.0/0", "10.0.0.0/16", "169.254.169.254/32"]);
    world.host.own.extend(["10.0.66.1", "169.254.0.1", "fe80::1"].map(ip));
    let compiled = world.compile();
    for (from, expected) in [
        ((0, 0, "10.0.7.7"), "wide"),
        ((0, 0, "192.0.2.7"), ""),
        // Routed to another interface, and so are the groups inside.
        ((0, 0, "10.0.64.1"), "spoofed"),
        ((0, 0, "10.0.64.129"), "spoofed"),
        ((0, 0, "10.0.65.1"), "spoofed"),
        ((0, 0, "10.1.7.7"), "spoofed"),
        // Routed here by a longer prefix, or an equal one.
        ((0, 0, "10.0.66.7"), "in-there+wide"),
        ((0, 0, "10.0.67.7"), "wide"),
        // Nobody has the gateway's addresses.
        ((0, 0, "10.0.66.1"), "spoofed"),
        ((0, 0, "10.0.0.1"), "spoofed"),
        ((5, 0, "10.1.0.1"), "spoofed"),
        ((5, 0, "10.1.0.2"), "wide"),
        // Link-local addresses are those of the link.
        ((0, 0, "169.254.0.1"), "spoofed"),
        ((0, 0, "169.254.0.2"), ""),
        ((5, 0, "169.254.169.254"), ""),
        ((0, 0, "fe80::1"), "spoofed"),
        ((5, 0, "fe80::2"), ""),
    ] {
        assert_eq!(groups(&compiled, from), expected, "{from:?}");
    }
    // No more entries than are needed.
    let implausible: Vec<String> = compiled
        .tables
        .sources
        .iter()
        .filter(|((zone, _), class)| *zone == 1 && **class == Class::NONE.0)
        .map(|((_, prefix), _)| prefix.to_string())
        .collect();
    let expected = [
        "10.0.0.1/32",
        "10.0.64.0/18",
        "10.0.66.1/32",
        "10.1.0.0/16",
        "169.254.0.1/32",
        "fe80::1/128",
    ];
    assert_eq!(implausible, expected);
}

#[test]
fn routes_that_make_no_difference_make_no_zone() {
    let mut world = World::new();
    for nic in &mut world.host.nics {
        nic.plausible = nets(&["10.0.0.0/8"]);
    }
    world.host.nics[0].elsewhere = nets(&["0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/24"]);
    let compiled = world.compile();
    let zones: BTreeSet<u32> = compiled.tables.zones.values().copied().collect();
    assert_eq!(zones, [1].into());
}

#[test]
fn own_addresses_are_always_marked() {
    let compiled = World::new()
        .rule("lan", &[], &["10.0.0.0/24"], &["80"])
        .rule("me", &[], &["self"], &["22"])
        .compile();
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.1", 80), "port");
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.1", 22), "me");
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.2", 80), "lan");
    assert_eq!(look_up(&compiled, CLIENT, "10.1.0.1", 80), "port");
    assert_eq!(look_up(&compiled, CLIENT, "fd00::1", 22), "me");
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.2", 22), "port");
    assert!(grant(&compiled, "10.0.0.1").is_own());
    assert!(!grant(&compiled, "10.0.0.2").is_own());

    let bare = World::new().compile();
    assert_eq!(grant(&bare, "fd00::1"), Grant::new(0).own());
    assert_eq!(grant(&bare, "fd00::2"), Grant::NONE);
    assert!(bare.tables.cells.is_empty() && bare.tables.port_cells.is_empty());
    assert_eq!(bare.tables.settings.classes, 1);
}

#[test]
fn a_prefix_around_an_own_address_doesn_t_open_the_gateway() {
    let mut world = World::new()
        .rule("everything", &[], &["0.0.0.0/0", "::/0", "10.0.0.0/31"], &["22"])
        .rule("written-out", &[], &["10.1.0.1/32", "10.0.0.9/32"], &["80"])
        .rule("name", &[], &["*.example.com"], &["443"])
        .name("www.example.com", &["10.0.0.1", "fd00::1", "10.0.0.8"]);
    let compiled = world.compile();
    let v6_client = (0, 0, "fd00::7");
    for (from, to, tcp, expected) in [
        (CLIENT, "10.0.0.1", 22, "not listed"),
        (CLIENT, "10.0.0.1", 443, "not listed"),
        (CLIENT, "10.1.0.1", 22, "port"),
        (CLIENT, "10.1.0.1", 80, "written-out"),
        (v6_client, "fd00::1", 22, "not listed"),
        (v6_client, "fd00::2", 22, "everything"),
        // What isn't own takes the union.
        (CLIENT, "10.0.0.0", 22, "everything"),
        (CLIENT, "10.0.0.8", 443, "name"),
        (CLIENT, "10.0.0.8", 22, "everything"),
        (CLIENT, "10.0.0.9", 80, "written-out"),
        (CLIENT, "10.0.0.9", 22, "everything"),
    ] {
        assert_eq!(look_up(&compiled, from, to, tcp), expected, "{to} {tcp}");
    }
    assert!(grant(&compiled, "10.0.0.1").is_own());
    let rule = |name: &str| {
        let found = compiled.meaning.rules().find(|(_, rule)| rule.name.as_str() == name);
        found.unwrap().0
    };
    assert_eq!(compiled.meaning.via(rule("everything"), ip("10.0.0.1")), None);
    assert_eq!(compiled.meaning.via(rule("name"), ip("10.0.0.1")), None);
    let via = compiled.meaning.via(rule("written-out"), ip("10.1.0.1"));
    assert_eq!(via, Some(Via::Prefix(net("10.1.0.1/32"))));

    // An address that becomes the gateway's is closed.
    world.host.own.insert(ip("192.0.2.1"));
    let more = world.compile();
    assert_eq!(look_up(&compiled, CLIENT, "192.0.2.1", 22), "everything");
    assert_eq!(look_up(&more, CLIENT, "192.0.2.1", 22), "not listed");
}

#[test]
fn no_rule_opens_an_address_that_is_closed() {
    let mut world = World::new()
        .rule("wide", &[], &["10.0.0.0/8", "10.0.255.255/32", "fd00::/16"], &["22"])
        .rule("me", &[], &["self"], &["80"])
        .rule("name", &[], &["www.example.com"], &["443"])
        .name("www.example.com", &["10.0.255.255"]);
    world.host.closed = ["10.0.255.255", "10.0.0.1", "fd00::", "192.0.2.255"].map(ip).into();
    let compiled = world.compile();
    let v6_client = (0, 0, "fd00::7");
    for tcp in [22, 80, 443] {
        assert_eq!(look_up(&compiled, CLIENT, "10.0.255.255", tcp), "not listed", "{tcp}");
        assert_eq!(look_up(&compiled, v6_client, "fd00::", tcp), "not listed", "{tcp}");
    }
    // An entry of its own, which hides the prefixes around it.
    assert_eq!(compiled.tables.grants.get(&net("10.0.255.255/32")), Some(&Grant::CLOSED_ADDRESS));
    assert_eq!(compiled.tables.grants.get(&net("192.0.2.255/32")), Some(&Grant::CLOSED_ADDRESS));
    assert_eq!(look_up(&compiled, CLIENT, "10.0.255.254", 22), "wide");
    // What is own as well is own.
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.1", 80), "me");
    assert!(grant(&compiled, "10.0.0.1").is_own());
    let (wide, _) = compiled.meaning.rules().next().unwrap();
    assert_eq!(compiled.meaning.via(wide, ip("10.0.255.255")), None);
}

#[test]
fn the_forwarder_opens_nothing_but_the_gateway() {
    let mut world = World::new().rule("web", &[], &["203.0.113.53/32"], &["80"]);
    world.policy.dns.listen = ["10.0.0.1", "203.0.113.53", "198.51.100.53"].map(ip).into();
    let compiled = world.compile();
    assert_eq!(look_up(&compiled, CLIENT, "10.0.0.1", 53), "dns-forwarder: dns");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.53", 53), "port");
    assert_eq!(look_up(&compiled, CLIENT, "203.0.113.53", 80), "web");
    assert_eq!(look_up(&compiled, CLIENT, "198.51.100.53", 53), "not listed");

    // The address comes up later.
    world.host.own.insert(ip("198.51.100.53"));
    let later = world.compile();
    assert_eq!(look_up(&later, CLIENT, "198.51.100.53", 53), "dns-forwarder: dns");
    world.host.closed.insert(ip("203.0.113.53"));
    let closed = world.compile();
    assert_eq!(look_up(&closed, CLIENT, "203.0.113.53", 80), "not listed");
}
