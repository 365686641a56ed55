// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the NICs that a policy names can be filtered, and which it doesn't name.
//!
//! A program sees every frame that enters its device, also those of the VLANs and macvlans on it.
//! So what stands on a named NIC is filtered there, and is not named beside it.

use std::{collections::BTreeSet, iter};

use anyhow::{Result, bail};

use crate::{
    kernel::netlink::{Controller, HostState, LinkLayer, Nic, NicState},
    policy::{Gateway, NicName, Policy},
};

/// What a name of the policy is on this machine.
enum Named<'a> {
    Nic(&'a Nic),
    /// Another name of the NIC of this one.
    Alternative(&'a NicName),
    Nothing,
}

/// Checks that every NIC of the policy can be filtered, and that the inside ones are there. An
/// outside one may come later, as a dialled line does; that it is missing is a problem and is shown.
///
/// # Errors
///
/// All that are not, a line for each.
pub(super) fn check(policy: &Policy, host: &HostState) -> Result<()> {
    let gateway = &policy.gateway;
    let mut problems = Vec::new();
    for (nic, side) in sides(gateway) {
        match named(nic, host) {
            Named::Nic(found) => problems.extend(fault(nic, side, found, gateway, host)),
            Named::Alternative(name) => problems.push(format!(
                "{nic} is another name of {name}; write {name}, by which it is known everywhere"
            )),
            Named::Nothing if side == "outside" => {}
            Named::Nothing => {
                let known: Vec<&str> = host.nics.keys().map(NicName::as_str).collect();
                problems.push(format!(
                    "there is no NIC {nic}; name one that is there ({}), or start Sluice after it \
                     was made",
                    known.join(", ")
                ));
            }
        }
    }
    for nic in &gateway.ignore {
        if let Named::Alternative(name) = named(nic, host)
            && let Some((_, side)) = sides(gateway).find(|(other, _)| *other == name)
        {
            problems.push(format!(
                "ignore has {nic}, which is another name of {name}, and that is {side}; remove one \
                 of the two"
            ));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> =
        problems.iter().map(|problem| format!("{}: {problem}", gateway.origin)).collect();
    bail!("{}", lines.join("\n"))
}

/// NICs that are up, and that the policy neither mentions nor filters where they stand.
pub(super) fn unmentioned(policy: &Policy, host: &HostState) -> Vec<String> {
    let gateway = &policy.gateway;
    let filtered: BTreeSet<u32> = sides(gateway)
        .filter_map(|(name, _)| host.nics.get(name))
        .flat_map(|nic| super::nics::devices_above(nic.index, host))
        .collect();
    let ignored = |name: &NicName, nic: &Nic| {
        gateway.ignore.iter().any(|other| {
            other == name || nic.alternatives.iter().any(|name| name == other.as_str())
        })
    };
    host.nics
        .iter()
        .filter(|(name, nic)| {
            nic.layer != LinkLayer::Loopback
                && nic.state == NicState::Up
                && !filtered.contains(&nic.index)
                && !ignored(name, nic)
        })
        .map(|(name, _)| {
            format!(
                "{}: the NIC {name} is up and neither inside nor outside, so its packets are not \
                 filtered; list it in [gateway] ignore if that is meant",
                gateway.origin
            )
        })
        .collect()
}

fn sides(gateway: &Gateway) -> impl Iterator<Item = (&NicName, &'static str)> {
    let inside = gateway.inside.iter().map(|nic| (nic, "inside"));
    inside.chain(gateway.outside.iter().map(|nic| (nic, "outside")))
}

fn named<'a>(name: &NicName, host: &'a HostState) -> Named<'a> {
    if let Some(nic) = host.nics.get(name) {
        return Named::Nic(nic);
    }
    let has_it = |nic: &Nic| nic.alternatives.iter().any(|other| other == name.as_str());
    match host.nics.iter().find(|(_, nic)| has_it(nic)) {
        Some((real, _)) => Named::Alternative(real),
        None => Named::Nothing,
    }
}

/// What keeps a NIC from being filtered, and what to do.
fn fault(
    name: &NicName,
    side: &str,
    nic: &Nic,
    gateway: &Gateway,
    host: &HostState,
) -> Option<String> {
    match nic.layer {
        LinkLayer::Ethernet => {}
        LinkLayer::Loopback => {
            return Some(format!(
                "{name} is the loopback device, into which only the gateway itself sends; remove it"
            ));
        }
        LinkLayer::Other => {
            return Some(format!(
                "{name} has no Ethernet header (as PPP, WireGuard and tun devices), so that its \
                 frames can't be filtered; name the Ethernet NIC that carries it, or list it in \
                 ignore"
            ));
        }
    }
    let what = match nic.controller_kind {
        Controller::None | Controller::Routing => None,
        Controller::Bridge => Some("bridge"),
        Controller::Bond => Some("bond"),
        Controller::Other => Some("device"),
    };
    if let Some(what) = what {
        let controller = nic.controller.and_then(|index| by_index(index, host));
        let controller = controller.map_or("that", |(name, _)| name.as_str());
        return Some(format!(
            "{name} is a port of the {what} {controller}, whose other ports would not be filtered; \
             name {controller} instead"
        ));
    }
    let (below, other) = devices_below(nic, host)
        .find_map(|below| sides(gateway).find(|(other, _)| *other == below))?;
    Some(if side == other {
        format!(
            "{name} stands on {below}, which is {other} too, so that its frames would be judged \
             twice; remove {name} and tell its clients apart with vlan in a [[source]], or name \
             the devices of the VLANs instead of {below}"
        )
    } else {
        format!(
            "{name} is {side} and stands on {below}, which is {other}: it is one wire, and all that \
             enters {name} enters {below} first; name the devices of the VLANs instead of {below}"
        )
    })
}

fn by_index(index: u32, host: &HostState) -> Option<(&NicName, &Nic)> {
    host.nics.iter().find(|(_, nic)| nic.index == index)
}

/// The devices that a VLAN or macvlan stands on, the nearest first. As many steps as there are
/// NICs are enough, whatever the kernel says.
fn devices_below<'a>(nic: &'a Nic, host: &'a HostState) -> impl Iterator<Item = &'a NicName> {
    let below = |nic: &Nic| by_index(nic.lower?, host);
    iter::successors(below(nic), move |(_, nic)| below(nic))
        .take(host.nics.len())
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::nics::tests::nic, policy::load::parse};

    /// eth0 alone; eth1 with the VLANs 10 and 20, the latter with a macvlan; eth2 and eth3 are
    /// ports of br0, eth4 of bond0, eth5 is in a VRF; tun0 has no Ethernet header.
    fn host() -> HostState {
        let mut host = HostState::default();
        let mut add = |name: &str, nic: Nic| {
            host.nics.insert(NicName::try_from(name).unwrap(), nic);
        };
        let on = |index, lower| Nic { lower: Some(lower), ..nic(index) };
        let port = |index, controller, controller_kind| Nic {
            controller: Some(controller),
            controller_kind,
            ..nic(index)
        };
        let wan = Nic { alternatives: vec!["enp1s0".to_owned()], ..nic(2) };
        add("lo", Nic { layer: LinkLayer::Loopback, ..nic(1) });
        add("eth0", wan);
        add("eth1", nic(3));
        add("eth1.10", on(4, 3));
        add("eth1.20", on(5, 3));
        add("mac0", on(6, 5));
        add("br0", nic(7));
        add("eth2", port(8, 7, Controller::Bridge));
        add("eth3", port(9, 7, Controller::Bridge));
        add("bond0", nic(10));
        add("eth4", port(11, 10, Controller::Bond));
        add("vrf0", Nic { layer: LinkLayer::Other, state: NicState::Down, ..nic(12) });
        add("eth5", port(13, 12, Controller::Routing));
        add("tun0", Nic { layer: LinkLayer::Other, ..nic(14) });
        host
    }

    fn policy(inside: &[&str], outside: &[&str], ignore: &[&str]) -> Policy {
        let text =
            format!("[gateway]\ninside = {inside:?}\noutside = {outside:?}\nignore = {ignore:?}\n");
        parse(&[("gateway.toml".into(), text)]).unwrap_or_else(|error| panic!("{error}")).policy
    }

    #[test]
    fn nics_that_can_be_filtered() {
        for (inside, outside) in [
            (&["eth1"][..], &["eth0"][..]),
            (&["eth1"], &["ppp9"]),
            (&["eth1.10"], &["eth1.20"]),
            (&["eth1.10", "mac0", "br0", "bond0", "eth5"], &[]),
        ] {
            check(&policy(inside, outside, &[]), &host()).unwrap();
        }
    }

    #[test]
    fn nics_that_can_not() {
        type Names = &'static [&'static str];
        let cases: [(Names, Names, Names, &str); 12] = [
            (
                &["eth9"],
                &[],
                &[],
                "there is no NIC eth9; name one that is there (bond0, br0, eth0, ",
            ),
            (&["lo"], &[], &[], "lo is the loopback device, "),
            (&["tun0"], &[], &[], "tun0 has no Ethernet header "),
            (&["eth1"], &["tun0"], &[], "tun0 has no Ethernet header "),
            (&["eth2"], &[], &[], "eth2 is a port of the bridge br0, whose other ports "),
            (&["br0"], &["eth2"], &[], "eth2 is a port of the bridge br0, whose other ports "),
            (&["eth4"], &[], &[], "eth4 is a port of the bond bond0, whose other ports "),
            (&["enp1s0"], &[], &[], "enp1s0 is another name of eth0; write eth0, "),
            (&["eth0"], &["enp1s0"], &[], "enp1s0 is another name of eth0; write eth0, "),
            (
                &["eth0"],
                &[],
                &["enp1s0"],
                "ignore has enp1s0, which is another name of eth0, and that is inside; remove ",
            ),
            (&["eth1", "eth1.10"], &[], &[], "eth1.10 stands on eth1, which is inside too, "),
            (&["eth1"], &["mac0"], &[], "mac0 is outside and stands on eth1, which is inside: "),
        ];
        for (inside, outside, ignore, expected) in cases {
            let error = check(&policy(inside, outside, ignore), &host()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("gateway.toml:1: {expected}")), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(error.contains("; "), "{error}");
        }
        let all = check(&policy(&["lo", "tun0"], &["eth2"], &[]), &host()).unwrap_err().to_string();
        assert_eq!(all.lines().count(), 3, "{all}");
    }

    #[test]
    fn nics_that_nobody_mentions() {
        let names = |policy: &Policy| -> Vec<String> {
            unmentioned(policy, &host())
                .iter()
                .map(|line| line.split(' ').nth(3).unwrap_or_default().to_owned())
                .collect()
        };
        let rest = ["bond0", "br0", "eth2", "eth3", "eth4", "eth5", "tun0"];
        assert_eq!(names(&policy(&["eth1"], &["eth0"], &[])), rest);
        let ignoring = policy(&["eth1"], &[], &["enp1s0", "bond0", "br0", "eth2", "eth3", "eth4"]);
        assert_eq!(names(&ignoring), ["eth5", "tun0"]);
    }
}
