// SPDX-License-Identifier: MIT OR Apache-2.0
//! The NICs: which index each has, what can live behind it, and the program on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context as _, Result, bail};
use filter_common::{
    egress::Side,
    wire::{AddressPair, MAX_NICS},
};
use ipnet::IpNet;

use super::service;
use crate::{
    compile::{Host, HostNic},
    kernel::{
        AttachedMode, Attachment, Duty, Following, PinDirectory,
        attach::Adoption,
        netlink::HostState,
        offload::{self, Tags},
        pins::NicPins,
    },
    policy::{Gateway, NicName, Policy},
};

/// Gives each NIC its index: the one of its pins, else the lowest that is free.
///
/// # Errors
///
/// More NICs have pins than there are indexes.
pub fn number(policy: &Policy, pins: &PinDirectory) -> Result<Vec<NicPins>> {
    let mut known: BTreeMap<NicName, u8> =
        pins.nics()?.into_iter().map(|nic| (nic.name, nic.index)).collect();
    for (name, _) in policy.gateway.nics() {
        if !known.contains_key(name) {
            let index = (0..u8::try_from(MAX_NICS)?)
                .find(|index| !known.values().any(|taken| taken == index))
                .with_context(|| {
                    format!("no index is left for {name}; take NICs off that are no longer used")
                })?;
            known.insert(name.clone(), index);
        }
    }
    Ok(policy
        .gateway
        .nics()
        .filter_map(|(name, _)| Some(NicPins { index: *known.get(name)?, name: name.clone() }))
        .collect())
}

/// What the compiler has to know of the host. NICs that the policy doesn't name are left out.
#[must_use]
pub fn host(nics: &[NicPins], gateway: &Gateway, state: &HostState) -> Host {
    let nics = nics
        .iter()
        .filter_map(|nic| Some((nic, gateway.side(&nic.name)?)))
        .map(|(nic, side)| {
            let behind = state
                .nics
                .get(&nic.name)
                .map(|found| devices_above(found.index, state))
                .unwrap_or_default();
            let (here, there): (Vec<_>, Vec<_>) =
                state.routes.iter().partition(|(index, _)| behind.contains(index));
            let prefixes = |routes: Vec<(&u32, &BTreeSet<IpNet>)>| -> BTreeSet<IpNet> {
                routes.into_iter().flat_map(|(_, prefixes)| prefixes).copied().collect()
            };
            let plausible: Vec<IpNet> = prefixes(here).into_iter().collect();
            // Only what lies within a prefix of this NIC makes a difference.
            let elsewhere = prefixes(there)
                .into_iter()
                .filter(|prefix| plausible.iter().any(|wider| wider.contains(prefix)))
                .collect();
            HostNic { slot: nic.index, name: nic.name.clone(), side, plausible, elsewhere }
        })
        .collect();
    Host { nics, own: state.own.clone(), closed: state.closed.clone() }
}

/// The kernel's index of every interface that packets may come in by, and the side that it is on:
/// of the NICs, and of what stands on them. Where both sides claim one, it is on none.
#[must_use]
pub fn interfaces(gateway: &Gateway, state: &HostState) -> BTreeMap<u32, Side> {
    let mut sides: BTreeMap<u32, BTreeSet<Side>> = BTreeMap::new();
    for (name, side) in gateway.nics() {
        let Some(nic) = state.nics.get(name) else { continue };
        for index in devices_above(nic.index, state) {
            sides.entry(index).or_default().insert(side);
        }
    }
    let only = |(index, sides): (u32, BTreeSet<Side>)| match sides.len() {
        1 => Some((index, sides.into_iter().next()?)),
        _ => None,
    };
    sides.into_iter().filter_map(only).collect()
}

/// The addresses that the gateway answers denied clients from, by the NIC's index: one of the NIC
/// itself, else of a device on it; link-local ones only where there is no other.
#[must_use]
pub fn addresses(nics: &[NicPins], state: &HostState) -> BTreeMap<u8, AddressPair> {
    nics.iter()
        .filter_map(|nic| {
            let own = state.nics.get(&nic.name)?.index;
            let mut found: Vec<(bool, bool, u32, IpAddr)> = devices_above(own, state)
                .into_iter()
                .filter_map(|index| Some((index, state.addresses.get(&index)?)))
                .flat_map(|(index, all)| all.iter().map(move |address| (index, *address)))
                .map(|(index, address)| (is_link_local(address), index != own, index, address))
                .collect();
            // The best is the last to be written.
            found.sort();
            let mut pair = AddressPair::default();
            for (_, _, _, address) in found.into_iter().rev() {
                match address {
                    IpAddr::V4(address) => pair.v4 = address.octets(),
                    IpAddr::V6(address) => pair.v6 = address.octets(),
                }
            }
            Some((nic.index, pair))
        })
        .collect()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What the programs on each NIC do. Without an outside NIC or a second inside one, nobody asks for
/// the flows of what leaves.
#[must_use]
pub fn duty(gateway: &Gateway, side: Side) -> Duty {
    let following = if gateway.nics().count() > 1 { Following::Flows } else { Following::Nothing };
    Duty { side, following, mode: gateway.xdp_mode }
}

/// A device and all that stand on it: its VLANs, the bridge or bond that it is a port of, and
/// theirs. Packets that they take in entered the device.
pub(super) fn devices_above(index: u32, state: &HostState) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([index]);
    loop {
        let above: BTreeSet<u32> = state
            .nics
            .values()
            .flat_map(|nic| {
                let stacked = nic.lower.filter(|lower| found.contains(lower)).map(|_| nic.index);
                let controller = nic.controller.filter(|_| found.contains(&nic.index));
                stacked.into_iter().chain(controller)
            })
            .filter(|index| !found.contains(index))
            .collect();
        if above.is_empty() {
            return found;
        }
        found.extend(above);
    }
}

/// Puts the program on every NIC: replaces the one of a pinned link, attaches where there is
/// none.
///
/// # Errors
///
/// One of them can't be attached. Those that were attached newly are taken off again.
pub fn attach(
    pins: &PinDirectory,
    nics: &[NicPins],
    host: &HostState,
    gateway: &Gateway,
) -> Result<Attached> {
    let pinned = pins.nics()?;
    let mut attached = Attached::default();
    for nic in nics {
        // The kernel's verifier takes a second or two for each.
        service::alive();
        match attach_one(pins, nic, pinned.contains(nic), host, gateway, &mut attached.fresh) {
            Ok(attachment) => attached.attachments.push(attachment),
            Err(error) => {
                attached.take_back(pins)?;
                return Err(error);
            }
        }
    }
    Ok(attached)
}

/// Makes NICs leave VLAN tags in their frames, where the filter can see them.
///
/// # Errors
///
/// The policy tells VLANs apart on one that doesn't. Nothing is changed then.
pub fn keep_tags(policy: &Policy, nics: &[NicPins]) -> Result<BTreeMap<NicName, Tags>> {
    let tags = nics.iter().map(|nic| (nic.name.clone(), offload::keep_tags(&nic.name))).collect();
    let problems = hidden_tags(policy, &tags);
    if problems.is_empty() {
        return Ok(tags);
    }
    restore_tags(&tags);
    bail!("{}", problems.join("\n"))
}

/// Undoes [`keep_tags`], where what it was for failed.
pub fn restore_tags(tags: &BTreeMap<NicName, Tags>) {
    for (nic, tags) in tags {
        match tags {
            Tags::SwitchedOff(features) => {
                if let Err(error) = offload::restore(nic, features) {
                    tracing::error!("{nic}: {} stays off: {error:#}", features.join(", "));
                }
            }
            Tags::InFrame | Tags::TakenOff(_) => {}
        }
    }
}

/// Groups with `vlan` that could have no members, as their NIC doesn't show its tags.
#[must_use]
pub fn hidden_tags(policy: &Policy, tags: &BTreeMap<NicName, Tags>) -> Vec<String> {
    let mut problems = Vec::new();
    for (nic, tags) in tags {
        let Tags::TakenOff(why) = tags else { continue };
        for group in policy.sources.iter().filter(|group| !group.vlan.is_empty()) {
            let inside = policy.gateway.side(nic) == Some(Side::Inside);
            if inside && group.interface.is_empty() || group.interface.contains(nic) {
                problems.push(format!(
                    "{}: source \"{}\": its vlan can't be told on {nic}, which takes tags off \
                     before the filter sees the frame, and that can't be switched off ({why}); give \
                     the group other NICs with interface, or remove vlan",
                    group.origin, group.name
                ));
            }
        }
    }
    problems
}

/// The programs that [`attach`] put on NICs.
#[derive(Debug, Default)]
pub struct Attached {
    /// All of them.
    pub attachments: Vec<Attachment>,
    /// The NICs that had none of ours before.
    pub fresh: Vec<NicPins>,
}

impl Attached {
    /// Takes those off again that were attached newly.
    ///
    /// # Errors
    ///
    /// A pin can't be removed.
    pub fn take_back(self, pins: &PinDirectory) -> Result<()> {
        drop(self.attachments);
        for nic in &self.fresh {
            pins.remove_nic(nic)?;
        }
        Ok(())
    }
}

fn attach_one(
    pins: &PinDirectory,
    nic: &NicPins,
    pinned: bool,
    host: &HostState,
    gateway: &Gateway,
    fresh: &mut Vec<NicPins>,
) -> Result<Attachment> {
    let side = gateway
        .side(&nic.name)
        .with_context(|| format!("{} is neither inside nor outside", nic.name))?;
    let duty = duty(gateway, side);
    let found =
        host.nics.get(&nic.name).with_context(|| format!("there is no NIC {}", nic.name))?;
    if pinned {
        match Attachment::adopt(pins, nic.clone(), found, duty)? {
            Adoption::Adopted(attachment) => return Ok(*attachment),
            Adoption::Stale => pins.remove_nic(nic)?,
        }
    }
    fresh.push(nic.clone());
    Attachment::attach(pins, nic.clone(), found.index, duty)
}

/// How a NIC's program is attached now; `None` where it is not, because the NIC went away or
/// somebody took it off.
#[must_use]
pub fn attached_mode(attachment: &Attachment, host: &HostState) -> Option<AttachedMode> {
    let nic = host.nics.get(&attachment.nic.name)?;
    if nic.native_program == Some(attachment.instance.ingress.id) {
        Some(AttachedMode::Native)
    } else if nic.generic_program == Some(attachment.instance.ingress.id) {
        Some(AttachedMode::Generic)
    } else {
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        kernel::netlink::{Controller, LinkLayer, Nic, NicState},
        policy::load,
    };

    /// An Ethernet NIC that is up and stands alone.
    pub(in crate::daemon) fn nic(index: u32) -> Nic {
        stacked(index, None, None)
    }

    fn stacked(index: u32, lower: Option<u32>, controller: Option<u32>) -> Nic {
        Nic {
            index,
            layer: LinkLayer::Ethernet,
            lower,
            controller,
            controller_kind: Controller::None,
            alternatives: Vec::new(),
            state: NicState::Up,
            native_program: None,
            generic_program: None,
        }
    }

    fn gateway(inside: &[&str]) -> Gateway {
        let inside: Vec<String> = inside.iter().map(|nic| format!("{nic:?}")).collect();
        let text = format!("[gateway]\ninside = [{}]\noutside = []\n", inside.join(", "));
        let files = [(load::GATEWAY_FILE.into(), text)];
        load::parse(&files).unwrap().policy.gateway
    }

    #[test]
    fn groups_with_vlan_need_nics_that_show_their_tags() {
        let text = "[gateway]\ninside = [\"eth1\", \"eth2\"]\noutside = []\n\
                    [[source]]\nname = \"any\"\nvlan = [10]\n\
                    [[source]]\nname = \"first\"\nvlan = [10]\ninterface = \"eth1\"\n\
                    [[source]]\nname = \"second\"\nvlan = [10]\ninterface = \"eth2\"\n\
                    [[source]]\nname = \"none\"\ninterface = \"eth2\"\n";
        let loaded = load::parse(&[("gateway.toml".into(), text.to_owned())]);
        let policy = loaded.unwrap().policy;
        let tags = |first: Tags, second: Tags| {
            let nic = |name| NicName::try_from(name).unwrap();
            BTreeMap::from([(nic("eth1"), first), (nic("eth2"), second)])
        };
        let off = Tags::SwitchedOff(vec!["rx-vlan-hw-parse"]);
        assert_eq!(hidden_tags(&policy, &tags(Tags::InFrame, off)), [""; 0]);
        let fixed = Tags::TakenOff("rx-vlan-hw-parse: its driver can't do without".to_owned());
        let expected =
            [("gateway.toml:4", "any"), ("gateway.toml:11", "second")].map(|(at, name)| {
                format!(
                    "{at}: source \"{name}\": its vlan can't be told on eth2, which takes tags off \
                 before the filter sees the frame, and that can't be switched off \
                 (rx-vlan-hw-parse: its driver can't do without); give the group other NICs with \
                 interface, or remove vlan"
                )
            });
        assert_eq!(hidden_tags(&policy, &tags(Tags::InFrame, fixed)), expected);
    }

    fn prefixes(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// eth1 has a VLAN and is a port of br0, on which another VLAN stands; eth2 is on its own.
    #[test]
    fn what_stands_on_a_nic_is_behind_it() {
        let mut state = HostState::default();
        for (name, found) in [
            ("eth1", stacked(1, None, Some(3))),
            ("eth1.10", stacked(2, Some(1), None)),
            ("br0", nic(3)),
            ("br0.20", stacked(4, Some(3), None)),
            ("eth2", nic(5)),
        ] {
            state.nics.insert(NicName::try_from(name).unwrap(), found);
        }
        for (index, routes) in [
            (2, &["10.0.10.0/24"][..]),
            (3, &["10.0.0.0/16"]),
            (4, &["10.0.20.0/24"]),
            (5, &["10.0.30.0/24", "192.168.0.0/24", "0.0.0.0/0"]),
        ] {
            state.routes.insert(index, prefixes(routes).into_iter().collect());
        }
        let pins = |index, name| NicPins { index, name: NicName::try_from(name).unwrap() };
        let host = host(&[pins(0, "eth1"), pins(1, "eth2")], &gateway(&["eth1", "eth2"]), &state);
        let [first, second] = host.nics.as_slice() else { panic!("two NICs") };
        let behind = prefixes(&["10.0.0.0/16", "10.0.10.0/24", "10.0.20.0/24"]);
        assert_eq!(first.plausible, behind);
        assert_eq!(first.elsewhere, prefixes(&["10.0.30.0/24"]));
        assert_eq!(second.plausible, prefixes(&["0.0.0.0/0", "10.0.30.0/24", "192.168.0.0/24"]));
        assert_eq!(second.elsewhere, behind);
    }

    #[test]
    fn answers_come_from_the_best_address() {
        let named = |name: &str| NicName::try_from(name).unwrap();
        let mut state = HostState::default();
        state.nics.insert(named("eth1"), nic(3));
        state.nics.insert(named("eth1.5"), Nic { lower: Some(3), ..nic(9) });
        state.nics.insert(named("eth2"), nic(4));
        let mut own = |index, addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            state.addresses.insert(index, addresses);
        };
        own(3, &["169.254.0.3", "fe80::3", "2001:db8::4", "2001:db8::3"]);
        own(9, &["10.0.5.1", "2001:db8:5::1"]);
        own(4, &["fe80::4"]);
        let pins = |index, name| NicPins { index, name: named(name) };
        let found = addresses(&[pins(0, "eth1"), pins(7, "eth2"), pins(8, "gone")], &state);
        let text = |pair: &AddressPair| {
            let (v4, v6) = (IpAddr::from(pair.v4), IpAddr::from(pair.v6));
            format!("{v4} {v6}")
        };
        let found: Vec<(u8, String)> =
            found.iter().map(|(index, pair)| (*index, text(pair))).collect();
        assert_eq!(
            found,
            [(0, "10.0.5.1 2001:db8::3".to_owned()), (7, "0.0.0.0 fe80::4".to_owned())]
        );
    }
}
