// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many groups, by prefix, NIC and VLAN.

use super::*;

/// The groups of a rule.
const PER_RULE: u16 = 8;

/// The members of a group: a packet of one.
fn member(group: u16) -> (u32, u16, String) {
    match group {
        // A /26 of the 1,024 in 10.0.0.0/16.
        0..700 => (0, 0, format!("10.0.{}.{}", group / 4, group % 4 * 64 + 9)),
        // A VLAN on in1.
        700..1000 => (5, group, "10.1.200.9".to_owned()),
        // A prefix, a NIC and a VLAN.
        _ => (5, group, format!("10.1.{}.9", group - 1000)),
    }
}

#[test]
fn there_may_be_a_thousand_groups() {
    let mut world = World::new();
    for group in 0..1024_u16 {
        let name = format!("g{group}");
        world = match group {
            0..700 => {
                let prefix = format!("10.0.{}.{}/26", group / 4, group % 4 * 64);
                world.group(&name, &[&prefix], &[], &[])
            }
            700..1000 => world.group(&name, &[], &["in1"], &[group]),
            _ => {
                let prefix = format!("10.1.{}.0/24", group - 1000);
                world.group(&name, &[&prefix], &["in1"], &[group])
            }
        };
    }
    for rule in 0..1024 / PER_RULE {
        let from: Vec<String> =
            (rule * PER_RULE..(rule + 1) * PER_RULE).map(|group| format!("g{group}")).collect();
        let from: Vec<&str> = from.iter().map(String::as_str).collect();
        let to = format!("192.0.2.{rule}/32");
        world = world.rule(&format!("r{rule}"), &from, &[&to], &["443"]);
    }
    let compiled = world.compile();
    for group in 0..1024_u16 {
        let (nic, vlan, source) = member(group);
        let from = (nic, vlan, source.as_str());
        assert_eq!(groups(&compiled, from), format!("g{group}"));
        let rule = group / PER_RULE;
        let other = (rule + 1) % (1024 / PER_RULE);
        assert_eq!(look_up(&compiled, from, &format!("192.0.2.{rule}"), 443), format!("r{rule}"));
        assert_eq!(look_up(&compiled, from, &format!("192.0.2.{other}"), 443), "source");
    }
    // Neither the VLAN nor the prefix alone is enough for a group that wants both.
    assert_eq!(groups(&compiled, (5, 1000, "10.1.9.9")), "");
    assert_eq!(groups(&compiled, (5, 0, "10.1.0.9")), "");
}
