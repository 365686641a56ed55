// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tables say of flows that are there already. Everything here is pure.
//!
//! The filter itself judges, over the tables as plain collections, as if the flow's first packet
//! came now. The VLAN of a flow is not known: where a NIC has several zones, the one that allows
//! the flow counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use filter_common::{
    decide::decide,
    egress::Side,
    flow::{Clock, FlowState, Origin, Workspace},
    outside::decide_outside,
    parse::protocol,
    verdict::{DropReason, Verdict},
    wire::{FlowKey, FlowRecord, Permit, SlotSettings, VLANS, zone_index},
};

use crate::{
    compile::{Host, SlotTables, View},
    kernel::{
        conntrack::Connections,
        question::{FragmentPart, Transport, frame},
    },
};

/// Tables, and the NICs that they are for.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    tables: &'a SlotTables,
    own: &'a BTreeSet<IpAddr>,
    gates: Vec<Gate>,
}

/// A NIC, with one VLAN id of each zone that it has.
#[derive(Debug)]
struct Gate {
    nic: u32,
    side: Side,
    vlans: Vec<u16>,
}

/// What tables say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It passes; by which rules, if by any.
    Allowed(Option<Permit>),
    /// It is dropped.
    Denied,
    /// It enters by no NIC of that side, or is of a kind that is never judged.
    Unjudged,
}

/// The flows of one moment.
#[derive(Debug)]
pub(super) struct Flows {
    /// The moment.
    pub(super) clock: Clock,
    live: BTreeMap<FlowKey, FlowRecord>,
    connections: Connections,
}

// === impl Judge ===

impl<'a> Judge<'a> {
    /// Looks up which zones each NIC has.
    pub(super) fn new(tables: &'a SlotTables, host: &'a Host) -> Self {
        let gates = host.nics.iter().map(|nic| {
            let slot = u32::from(nic.slot);
            let mut zones: BTreeMap<u32, u16> = BTreeMap::new();
            for vlan in (0..=u16::MAX).take_while(|vlan| u32::from(*vlan) < VLANS) {
                if let Some(zone) = tables.zones.get(&zone_index(slot, vlan)) {
                    zones.entry(*zone).or_insert(vlan);
                }
            }
            Gate { nic: slot, side: nic.side, vlans: zones.into_values().collect() }
        });
        Self { tables, own: &host.own, gates: gates.collect() }
    }

    /// Whether everything passes, whatever the rules say.
    fn audits(&self) -> bool {
        self.tables.settings.mode == SlotSettings::AUDIT
    }

    /// What becomes of a first packet that comes in on a side.
    pub(super) fn packet(
        &self,
        side: Side,
        from: IpAddr,
        to: IpAddr,
        transport: Transport,
    ) -> Judgement {
        let mut judgement = Judgement::Unjudged;
        let mut workspace = Workspace::default();
        for gate in self.gates.iter().filter(|gate| gate.side == side) {
            let view = View::new(self.tables, gate.nic);
            for vlan in &gate.vlans {
                let Ok(frame) = frame(from, to, *vlan, transport, FragmentPart::Whole) else {
                    return Judgement::Unjudged;
                };
                let decision = match side {
                    Side::Inside => decide(frame.as_slice(), &view, &mut workspace),
                    Side::Outside => decide_outside(frame.as_slice(), &view, &mut workspace),
                };
                match decision.verdict {
                    Verdict::Permit(permit) => return Judgement::Allowed(Some(permit)),
                    Verdict::Pass(_) => return Judgement::Allowed(None),
                    // The source doesn't live behind this NIC.
                    Verdict::Drop(DropReason::SpoofedSource) => {}
                    Verdict::Drop(_) => judgement = Judgement::Denied,
                }
            }
        }
        match judgement {
            Judgement::Denied if self.audits() => Judgement::Allowed(None),
            other => other,
        }
    }

    /// Whether a session with the gateway itself passes, from either side.
    pub(super) fn session(&self, client: IpAddr, server: IpAddr, port: u16) -> Judgement {
        if !self.own.contains(&server) {
            return Judgement::Unjudged;
        }
        let sides = [Side::Inside, Side::Outside]
            .map(|side| self.packet(side, client, server, Transport::Tcp(port)));
        best(sides)
    }
}

/// What a packet is that may be any of several.
fn best(judgements: impl IntoIterator<Item = Judgement>) -> Judgement {
    let mut best = Judgement::Unjudged;
    for judgement in judgements {
        match (best, judgement) {
            (Judgement::Allowed(_), _) => return best,
            (_, Judgement::Unjudged) => {}
            (Judgement::Denied | Judgement::Unjudged, found) => best = found,
        }
    }
    best
}

// === impl Flows ===

impl Flows {
    /// Those of all flows that haven't expired.
    pub(super) fn new(
        clock: Clock,
        all: impl IntoIterator<Item = (FlowKey, FlowRecord)>,
        connections: Connections,
    ) -> Self {
        let live = all.into_iter().filter(|(key, record)| is_live(key, record, clock)).collect();
        Self { clock, live, connections }
    }

    /// The flows themselves: without the entries that only help to find them, and without those of
    /// the answers between two inside NICs.
    pub(super) fn listed(&self) -> impl Iterator<Item = (&FlowKey, &FlowRecord)> {
        self.live.iter().filter(|(key, record)| {
            origin(record) != Origin::InboundHost && !self.is_answer(key, record)
        })
    }

    /// Whether a flow is only the answers of another one, which leave by an inside NIC as well.
    fn is_answer(&self, key: &FlowKey, record: &FlowRecord) -> bool {
        let turned = turned(key);
        origin(record) == Origin::Inside
            && self.live.get(&turned).is_some_and(|asked| {
                origin(asked) == Origin::Inside && (asked.created, turned) < (record.created, *key)
            })
    }

    /// The tuple of a flow of origin Inside as it was before any translation: as the inside NIC
    /// saw it. Of protocols without ports there may be several; none where nobody knows.
    pub(super) fn clients(&self, key: &FlowKey, own: &BTreeSet<IpAddr>) -> Vec<FlowKey> {
        let translated: Vec<FlowKey> = self.connections.before(key).copied().collect();
        if translated.is_empty() && !own.contains(&local(key)) {
            return vec![*key];
        }
        translated
    }

    /// The hosts behind destination NAT that serve a flow of origin Inbound, each with its port.
    pub(super) fn hosts(&self, key: &FlowKey) -> Vec<(IpAddr, u16)> {
        let asked = turned(key);
        self.connections
            .after(&asked)
            .map(|after| (remote(after), after.remote_port))
            .filter(|host| *host != (local(key), key.local_port))
            .collect()
    }

    /// What tables say of a flow.
    pub(super) fn judge(&self, judge: &Judge<'_>, key: &FlowKey, record: &FlowRecord) -> Judgement {
        match origin(record) {
            Origin::Gateway | Origin::InboundHost => Judgement::Unjudged,
            Origin::Client => {
                let transport = transport(key.protocol, key.local_port);
                judge.packet(Side::Inside, remote(key), local(key), transport)
            }
            Origin::Inbound => {
                let transport = transport(key.protocol, key.local_port);
                judge.packet(Side::Outside, remote(key), local(key), transport)
            }
            Origin::Inside => {
                let clients = self.clients(key, judge.own);
                if clients.is_empty() {
                    return if judge.audits() {
                        Judgement::Allowed(None)
                    } else {
                        Judgement::Denied
                    };
                }
                best(clients.iter().map(|client| {
                    let transport = transport(client.protocol, client.remote_port);
                    judge.packet(Side::Inside, local(client), remote(client), transport)
                }))
            }
        }
    }

    /// The flows that pass no more where `old` tables are replaced by `new` ones. What neither
    /// judges, as it comes in by a NIC that is not filtered, is left alone.
    pub(super) fn denied(&self, old: &Judge<'_>, new: &Judge<'_>) -> Vec<FlowKey> {
        if new.audits() {
            return Vec::new();
        }
        let listed = self.listed().filter(|(_, record)| state(record) != FlowState::Cut);
        let denied = listed.filter(|(key, record)| match self.judge(new, key, record) {
            Judgement::Allowed(_) => false,
            Judgement::Denied => true,
            Judgement::Unjudged => self.judge(old, key, record) != Judgement::Unjudged,
        });
        denied.map(|(key, _)| *key).collect()
    }

    /// The tuples to keep so that flows go on which `old` tables allow and `new` ones don't: as
    /// the NIC sees them that their packets come in by, each with the flow itself.
    pub(super) fn kept(&self, old: &Judge<'_>, new: &Judge<'_>) -> BTreeMap<FlowKey, FlowKey> {
        let mut kept = BTreeMap::new();
        for key in self.denied(old, new) {
            let Some(record) = self.live.get(&key) else { continue };
            if matches!(self.judge(old, &key, record), Judgement::Allowed(_)) {
                kept.extend(
                    self.entering(&key, record, old.own).into_iter().map(|tuple| (tuple, key)),
                );
            }
        }
        kept
    }

    /// The tuples that flows which haven't ended are kept by.
    pub(super) fn keepable(&self, own: &BTreeSet<IpAddr>) -> BTreeSet<FlowKey> {
        let going = self.listed().filter(|(_, record)| match state(record) {
            FlowState::Opening
            | FlowState::Established
            | FlowState::LocalClosing
            | FlowState::RemoteClosing => true,
            FlowState::Closed | FlowState::Reset | FlowState::Cut => false,
        });
        going.flat_map(|(key, record)| self.entering(key, record, own)).collect()
    }

    fn entering(&self, key: &FlowKey, record: &FlowRecord, own: &BTreeSet<IpAddr>) -> Vec<FlowKey> {
        match origin(record) {
            Origin::Inside => self.clients(key, own),
            Origin::Inbound => vec![*key],
            Origin::Client => vec![turned(key)],
            Origin::Gateway | Origin::InboundHost => Vec::new(),
        }
    }

    /// A flow and the entries that are there because of it, which have to be cut with it.
    pub(super) fn with_company(&self, key: &FlowKey) -> Vec<FlowKey> {
        let mut all = vec![*key];
        let turned = turned(key);
        if let Some(record) = self.live.get(&turned)
            && self.is_answer(&turned, record)
        {
            all.push(turned);
        }
        if self.live.get(key).map(origin) == Some(Origin::Inbound) {
            let hosts = self.hosts(key);
            let alias = |(found, record): &(&FlowKey, &FlowRecord)| {
                origin(record) == Origin::InboundHost
                    && (found.remote, found.remote_port, found.protocol)
                        == (key.remote, key.remote_port, key.protocol)
                    // Where nobody knows the host, it may be any.
                    && (hosts.is_empty() || hosts.iter().any(|(host, _)| *host == local(found)))
            };
            all.extend(self.live.iter().filter(alias).map(|(key, _)| *key));
        }
        all
    }

    /// How many entries there are, also those that only help.
    pub(super) fn entries(&self) -> usize {
        self.live.len()
    }
}

/// Whether a flow is still remembered.
pub(super) fn is_live(key: &FlowKey, record: &FlowRecord, clock: Clock) -> bool {
    clock.is_within(record.seen, state(record).lifetime(key.protocol))
}

/// The state of a flow, read as the programs do.
pub(super) fn state(record: &FlowRecord) -> FlowState {
    FlowState::from_code(record.state).unwrap_or(FlowState::Cut)
}

/// The origin of a flow, read as the programs do.
pub(super) fn origin(record: &FlowRecord) -> Origin {
    Origin::from_code(record.origin).unwrap_or(Origin::InboundHost)
}

/// The address of the local end.
pub(super) fn local(key: &FlowKey) -> IpAddr {
    address(key.ip_version, key.local)
}

/// The address of the remote end.
pub(super) fn remote(key: &FlowKey) -> IpAddr {
    address(key.ip_version, key.remote)
}

fn address(ip_version: u8, octets: [u8; 16]) -> IpAddr {
    match (ip_version, octets) {
        (4, [a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d).into(),
        (_, octets) => Ipv6Addr::from(octets).into(),
    }
}

/// The same flow, seen from its other end.
pub(super) fn turned(key: &FlowKey) -> FlowKey {
    FlowKey {
        local: key.remote,
        remote: key.local,
        local_port: key.remote_port,
        remote_port: key.local_port,
        ..*key
    }
}

fn transport(protocol: u8, port: u16) -> Transport {
    match protocol {
        protocol::TCP => Transport::Tcp(port),
        protocol::UDP => Transport::Udp(port),
        protocol::ICMP | protocol::ICMPV6 => Transport::Echo,
        other => Transport::Protocol(other),
    }
}

#[cfg(test)]
mod tests;
