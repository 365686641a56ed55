// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers to what the control socket asks, from what the daemon and the kernel hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use filter_common::{
    egress::Side,
    reject::Answer,
    verdict::{Answered, DropReason, PassReason},
    wire::{
        AUDITED, Counter, Grant, MAX_PORT_CELLS, MAX_PREFIXES, MAX_SOURCES, Observation, Permit,
    },
};
use ipnet::IpNet;

use super::{Daemon, nics::attached_mode};
use crate::{
    compile::{Footprint, MATCHES, RuleIndex, RuleRef, SlotTables, Via},
    control::protocol::{
        AnswerReply, Count, DnsStatus, Drop, EventStatus, Explanation, KernelMemoryStatus,
        NamedRule, NicStatus, PolicyStatus, Question, RuleStatus, Status, TableStatus,
        UpstreamStatus, ViaReply,
    },
    kernel::{AttachedMode, Instance, Role, events::DropSample, pins::NicPins, question},
    names::NameState,
    policy::{Clients, Echo, Label, Mode, RuleState},
};

/// Packets of one NIC of which the same thing became for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) kind: Kind,
    /// The stable name.
    pub(super) reason: &'static str,
    pub(super) count: Count,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Passed,
    Dropped,
    /// They passed, and would have been dropped.
    Audited,
    /// What came of answering those that were dropped.
    Rejected,
}

/// How a mode is written in replies.
pub(super) fn mode_name(mode: AttachedMode) -> &'static str {
    match mode {
        AttachedMode::Native => "native",
        AttachedMode::Generic => "generic",
    }
}

impl Daemon {
    /// One screen about everything.
    pub(super) async fn status(&mut self) -> Result<Status> {
        let flow_tables = self.flow_tables().await?;
        let names = self.names.report(Instant::now());
        let mut passes = BTreeMap::new();
        let mut drops = BTreeMap::new();
        let mut audited = BTreeMap::new();
        let mut rejected = BTreeMap::new();
        let mut nics = Vec::new();
        for nic in &self.nics {
            let mut passed = Count::default();
            let mut dropped = Count::default();
            for Counted { kind, reason, count } in self.counted(nic.index)? {
                match kind {
                    Kind::Passed => add_to(&mut passes, reason, &mut passed, count),
                    Kind::Dropped => add_to(&mut drops, reason, &mut dropped, count),
                    Kind::Audited => add_to(&mut audited, reason, &mut passed, count),
                    // These packets have their reason among the others.
                    Kind::Rejected => {
                        add_to(&mut rejected, reason, &mut Count::default(), count);
                    }
                }
            }
            nics.push(self.nic_status(nic, passed, dropped));
        }
        let loss = self.slots.maps.event_loss()?;
        Ok(Status {
            ready: names.names.iter().all(|name| name.state != NameState::Pending)
                && self.nics.iter().all(|nic| self.has_program(nic) || self.may_be_missing(nic))
                && self.tables_error.is_none(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.slots.generation(),
            mode: match self.policy.gateway.mode {
                Mode::Enforce => "enforce",
                Mode::Audit => "audit",
            }
            .to_owned(),
            config: self.options.config.display().to_string(),
            config_error: self.config_error.clone(),
            problems: self.problems(),
            pending: self.pending(),
            policy_number: self.history.current(),
            allows: self.live.len(),
            uptime_s: self.started.elapsed().as_secs(),
            nics,
            policy: PolicyStatus {
                rules: self.policy.enabled_rules().count(),
                disabled: self
                    .policy
                    .rules
                    .iter()
                    .filter(|rule| rule.state == RuleState::Disabled)
                    .count(),
                sources: self.policy.sources.len(),
                names: names.names.len(),
                names_with_addresses: names
                    .names
                    .iter()
                    .filter(|name| !name.addresses.is_empty())
                    .count(),
                names_failing: names
                    .names
                    .iter()
                    .filter(|name| match name.state {
                        NameState::Failing { .. } | NameState::NeverResolved { .. } => true,
                        NameState::Resolved | NameState::Pending => false,
                    })
                    .count(),
                addresses: names.addresses,
            },
            tables: {
                let mut tables = self.table_status(&self.slots.in_force().tables);
                tables.extend(flow_tables);
                tables
            },
            kernel_memory: {
                let fixed = self.fixed_footprint();
                let Footprint { fixed, prefixes } = fixed.with_policy(self.slots.in_force());
                KernelMemoryStatus { fixed_bytes: fixed, prefix_bytes: prefixes }
            },
            passes,
            drops,
            audited,
            rejected,
            dns: self.dns_status(),
            events: EventStatus { skipped: loss.skipped, lost: loss.lost + self.drops_missed },
            not_enforced: self.not_enforced(),
            warnings: self.all_warnings(),
        })
    }

    /// What was counted on a NIC, by what became of packets and why. A reason may come several times.
    pub(super) fn counted(&self, nic: u8) -> Result<Vec<Counted>> {
        let maps = &self.slots.maps;
        let mut counted = Vec::new();
        let mut add = |kind, reason, counter| -> Result<()> {
            let count: Count = maps.counter(nic, counter)?.into();
            if count.packets > 0 {
                counted.push(Counted { kind, reason, count });
            }
            Ok(())
        };
        for reason in PassReason::ALL {
            add(Kind::Passed, reason.name(), u32::from(reason.code()))?;
        }
        for (_, counter) in self.ledger.iter() {
            let reason = self.slots.in_force().meaning.counter(counter);
            let reason = reason.map_or(PassReason::Rule, |found| found.reason);
            add(Kind::Passed, reason.name(), counter)?;
        }
        for reason in DropReason::ALL {
            let code = u32::from(reason.code());
            add(Kind::Dropped, reason.name(), code)?;
            add(Kind::Audited, reason.name(), AUDITED + code)?;
        }
        for answered in Answered::ALL {
            add(Kind::Rejected, answered.name(), u32::from(answered.code()))?;
        }
        Ok(counted)
    }

    fn nic_status(&self, nic: &NicPins, passed: Count, dropped: Count) -> NicStatus {
        let attachment = self.attachments.iter().find(|attachment| attachment.nic == *nic);
        let mode = attachment.and_then(|attachment| attached_mode(attachment, &self.host_state));
        let side = self.policy.gateway.side(&nic.name);
        let rates = self.rates.of(nic.index);
        NicStatus {
            name: nic.name.to_string(),
            side: match side {
                Some(Side::Inside) => "inside",
                Some(Side::Outside) => "outside",
                None => "gone",
            }
            .to_owned(),
            attached: mode.map_or("gone", mode_name).to_owned(),
            gone_for_s: self
                .absences
                .gone_for(&nic.name, SystemTime::now())
                .map(|time| time.as_secs()),
            program_id: attachment.map_or(0, |attachment| attachment.instance.ingress.id),
            verified_instructions: attachment
                .and_then(|attachment| attachment.instance.ingress.verified_instructions),
            passed,
            dropped,
            passed_per_s: rates.map(|rates| rates.passed),
            dropped_per_s: rates.map(|rates| rates.dropped),
        }
    }

    fn table_status(&self, tables: &SlotTables) -> Vec<TableStatus> {
        let family = |prefixes: &mut dyn Iterator<Item = &IpNet>| -> (usize, usize) {
            prefixes.fold((0, 0), |(v4, v6), prefix| match prefix {
                IpNet::V4(_) => (v4 + 1, v6),
                IpNet::V6(_) => (v4, v6 + 1),
            })
        };
        let (grants4, grants6) = family(&mut tables.grants.keys());
        let (sources4, sources6) = family(&mut tables.sources.keys().map(|(_, prefix)| prefix));
        [
            ("IPv4 destinations", grants4, MAX_PREFIXES),
            ("IPv6 destinations", grants6, MAX_PREFIXES),
            ("IPv4 sources", sources4, MAX_SOURCES),
            ("IPv6 sources", sources6, MAX_SOURCES),
            ("grants by client class", tables.cells.len(), self.slots.maps.sizes().grant_cells),
            ("port sets by port class", tables.port_cells.len(), MAX_PORT_CELLS),
            ("rule counters", self.ledger.len(), MATCHES),
        ]
        .into_iter()
        .map(|(name, used, capacity)| TableStatus {
            name: name.to_owned(),
            used: u64::try_from(used).unwrap_or(u64::MAX),
            capacity: u64::from(capacity),
        })
        .collect()
    }

    /// The rules in their order, and what each let through.
    pub(super) fn rules(&self) -> Result<Vec<RuleStatus>> {
        let mut counts: BTreeMap<&Label, Count> = BTreeMap::new();
        for (key, counter) in self.ledger.iter() {
            let mut sum = Count::default();
            for nic in &self.nics {
                sum = sum + self.slots.maps.counter(nic.index, counter)?.into();
            }
            for (reason, name) in key {
                if *reason == PassReason::Rule {
                    let count = counts.entry(name).or_default();
                    *count = *count + sum;
                }
            }
        }
        let allows = self.allows()?;
        let rules = self.policy.rules.iter().map(|rule| RuleStatus {
            name: rule.name.to_string(),
            origin: rule.origin.to_string(),
            enabled: rule.state == RuleState::Enabled,
            from: match &rule.from {
                Clients::Any => Vec::new(),
                Clients::Groups(groups) => groups.iter().map(ToString::to_string).collect(),
            },
            to: rule.to.iter().map(|(destination, _)| destination.to_string()).collect(),
            tcp: rule.ports.tcp.to_string(),
            udp: rule.ports.udp.to_string(),
            icmp: rule.ports.echo == Echo::Allowed,
            proto: rule.ports.protocols.iter().map(ToString::to_string).collect(),
            note: rule.note.clone(),
            allow: allows.iter().find(|allow| rule.name.as_str() == allow.rule).cloned(),
            count: counts.get(&rule.name).copied().unwrap_or_default(),
        });
        Ok(rules.collect())
    }

    /// Asks the program itself, and says what its answer means.
    pub(super) fn explain(&mut self, question: &Question) -> Result<Explanation> {
        let nic = self.nic_of(question)?;
        let frame = question::frame(
            question.from,
            question.to,
            question.vlan,
            question.transport,
            question.fragment,
        )?;
        let observer = match self.observers.entry(nic.index) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let side = self.policy.gateway.side(&nic.name);
                let side = side.with_context(|| format!("{} is not filtered", nic.name))?;
                entry.insert(Instance::load(&self.pins, nic.index, side, Role::Observing)?)
            }
        };
        let observation = observer.observe(&frame)?;
        Ok(self.interpret(question, &nic, &observation))
    }

    fn interpret(
        &self,
        question: &Question,
        nic: &NicPins,
        observation: &Observation,
    ) -> Explanation {
        let meaning = &self.slots.in_force().meaning;
        let (reason, text) = match PassReason::from_code(observation.reason) {
            Some(reason) => (reason.name(), reason.text()),
            None => DropReason::from_code(observation.reason)
                .map_or(("unknown", "The program gave no reason."), |reason| {
                    (reason.name(), reason.text())
                }),
        };
        let passes = observation.passes != 0;
        let audited = passes && PassReason::from_code(observation.reason).is_none();
        let matched: Vec<RuleIndex> = meaning
            .counter(Permit(observation.permit).counter())
            .map(|found| found.rules.to_vec())
            .unwrap_or_default();
        let listed: Vec<RuleIndex> = meaning
            .grant(Grant(observation.grant).row())
            .map(|rules| rules.to_vec())
            .unwrap_or_default();
        // The weightiest reason has the first word: the guard before the policy.
        let first = matched
            .iter()
            .find(|rule| {
                meaning.rule(**rule).is_some_and(|rule| rule.reason.code() == observation.reason)
            })
            .copied();
        let named = |rules: &[RuleIndex]| -> Vec<NamedRule> {
            rules.iter().filter_map(|rule| meaning.rule(*rule)).map(named_rule).collect()
        };
        let rule = first.and_then(|rule| meaning.rule(rule));
        Explanation {
            verdict: if passes { "pass" } else { "drop" }.to_owned(),
            reason: reason.to_owned(),
            rule: rule.map(|rule| rule.name.to_string()),
            origin: rule.map(|rule| rule.origin.to_string()),
            via: first.and_then(|rule| self.via(rule, question.to)),
            generation: observation.active >> 8,
            text: text.to_owned(),
            audited,
            answer: Answer::from_code(observation.answer.into())
                .and_then(Answer::name)
                .map(ToOwned::to_owned),
            nic: nic.name.to_string(),
            groups: meaning
                .class(observation.class)
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
            rules: named(&matched),
            listed_by: named(&listed),
        }
    }

    fn dns_status(&self) -> DnsStatus {
        let now = Instant::now();
        let ago = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at).as_secs());
        let resolver = self.forwarding.resolver().unwrap_or(&self.resolver);
        let upstream = resolver.upstreams().into_iter().map(|(upstream, health)| {
            let (failed, failure) = health.last_failure.unzip();
            UpstreamStatus {
                resolver: upstream.to_string(),
                answered_s_ago: ago(health.last_success),
                failed_s_ago: ago(failed),
                failure: failure.map(|failure| failure.to_string()),
            }
        });
        let counters = self.forwarding.counters.all();
        DnsStatus {
            listening: self.forwarding.listening().into_iter().collect(),
            upstream: upstream.collect(),
            counters: counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        }
    }

    fn via(&self, rule: RuleIndex, address: IpAddr) -> Option<ViaReply> {
        Some(match self.slots.in_force().meaning.via(rule, address)? {
            Via::Prefix(prefix) => ViaReply::Prefix { prefix: prefix.to_string() },
            Via::Name { name, address } => {
                let found = self.names.provenance(&name, address, Instant::now());
                ViaReply::Name {
                    name: name.to_string(),
                    address,
                    expires_in_s: found.as_ref().map_or(0, |found| found.left.allowed.as_secs()),
                    answer: found.map(|found| AnswerReply {
                        resolver: found.resolver,
                        chain: found.chain.iter().map(ToString::to_string).collect(),
                        age_s: found.age.as_secs(),
                    }),
                }
            }
            Via::SelfAddress => ViaReply::Own { destination: "self".to_owned() },
        })
    }

    /// The NIC that a packet of this source enters: the one that is named, the only one, or the
    /// one behind which the source can live.
    fn nic_of(&self, question: &Question) -> Result<NicPins> {
        let names: Vec<&str> = self.nics.iter().map(|nic| nic.name.as_str()).collect();
        if let Some(name) = &question.nic {
            let found = self.nics.iter().find(|nic| nic.name.as_str() == name);
            return found.cloned().with_context(|| {
                format!("{name} is not filtered; the NICs that are: {}", names.join(", "))
            });
        }
        if let [only] = self.nics.as_slice() {
            return Ok(only.clone());
        }
        let longest = self
            .host
            .nics
            .iter()
            .flat_map(|nic| nic.plausible.iter().map(move |prefix| (nic, prefix)))
            .filter(|(_, prefix)| prefix.contains(&question.from))
            .max_by_key(|(_, prefix)| prefix.prefix_len());
        match longest {
            Some((nic, _)) => Ok(NicPins { index: nic.slot, name: nic.name.clone() }),
            None => bail!(
                "{} can't live behind any NIC; name the NIC that the packet enters with \
                 --in ({})",
                question.from,
                names.join(", ")
            ),
        }
    }

    /// A sample as people read it.
    pub(super) fn describe(&self, sample: &DropSample) -> Drop {
        let nic = self.nics.iter().find(|nic| nic.index == sample.nic);
        let destination = sample.addresses.map(|(_, destination)| destination);
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Drop {
            time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            nic: nic.map_or_else(|| sample.nic.to_string(), |nic| nic.name.to_string()),
            reason: sample.reason.name().to_owned(),
            audited: sample.audited,
            source: sample.addresses.map(|(source, _)| source),
            destination,
            protocol: sample.addresses.map(|_| protocol_name(sample.protocol)),
            source_port: sample.source_port,
            destination_port: sample.destination_port,
            vlan: sample.vlan,
            ethertype: format!("{:#06x}", sample.ethertype),
            length: sample.length,
            name: destination.and_then(|address| self.name_of(address)),
        }
    }

    /// The names that have an address, the first of them.
    pub(super) fn name_of(&self, address: IpAddr) -> Option<String> {
        let names: BTreeSet<_> = self.slots.in_force().meaning.names_of(address).collect();
        names.first().map(ToString::to_string)
    }
}

pub(super) fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}

/// Adds a count to a view by reason, and to a sum.
fn add_to(view: &mut BTreeMap<String, Count>, reason: &str, sum: &mut Count, count: Count) {
    if count.packets > 0 {
        let entry = view.entry(reason.to_owned()).or_default();
        *entry = *entry + count;
        *sum = *sum + count;
    }
}

impl From<Counter> for Count {
    fn from(counter: Counter) -> Self {
        Self { packets: counter.packets, bytes: counter.bytes }
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// A rule, as replies name it.
pub(super) fn named_rule(rule: &RuleRef) -> NamedRule {
    NamedRule { rule: rule.name.to_string(), origin: rule.origin.to_string() }
}
