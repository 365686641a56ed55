// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of the configuration, one function each, and what has to hold across files.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

use filter_common::wire::{CellWord, MAX_CELLS, MAX_FLOWS, MAX_NICS};
use toml::de::{DeTable, DeValue};

use super::{
    GATEWAY_FILE,
    dns::{self, Read},
    reader::{Entry, Report, Section, TomlFile, did_you_mean, nearest},
    services,
    values::{
        NIC_HELP, PREFIX_HELP, bound, filled, label, nic, nic_list, nonempty, note, port_list,
        ports, prefix_member, rule_destinations,
    },
};
use crate::policy::{
    Clients, DenyAction, Destination, Dns, Gateway, Inbound, Label, Management, Metrics, Mode,
    NicName, OnChange, OnStop, Origin, Policy, Rule, RuleState, SourceGroup, SpecialPurpose,
    TableSizes, XdpMode,
    special::{Share, Shares, unicast_shares},
};

/// The parts of a policy, as they are found file by file.
#[derive(Default)]
pub(super) struct Collector {
    gateway: Option<Gateway>,
    dns: Option<Dns>,
    management: Option<Management>,
    metrics: Metrics,
    sources: Vec<SourceGroup>,
    rules: Vec<Rule>,
    inbound: Vec<Inbound>,
    source_names: BTreeMap<Label, Origin>,
    rule_names: BTreeMap<Label, Origin>,
    inbound_names: BTreeMap<Label, Origin>,
    /// Groups and NICs that are named somewhere, to be looked up when all files are read.
    wanted_groups: Vec<(Label, Mention)>,
    wanted_nics: Vec<(NicName, Side, Mention)>,
    /// Where `intercept = true` stands.
    interception: Option<Mention>,
    files: Files,
}

/// Whether every file could be read: only then is what is named nowhere known to be missing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Files {
    #[default]
    AllRead,
    SomeBroken,
}

/// A place that names something, or needs something elsewhere.
pub(super) struct Mention {
    pub(super) origin: Origin,
    pub(super) subject: String,
}

const MOST_NICS: usize = MAX_NICS as usize;
const TABLES: [&str; 7] = ["gateway", "dns", "management", "metrics", "source", "rule", "inbound"];
/// Fewer would save no memory worth it.
const LEAST_FLOWS: u32 = 1 << 10;
const LEAST_CELLS: u32 = 1 << 12;
/// Where metrics are given out unless the address says otherwise.
const METRICS_PORT: u16 = 9469;
const GUARD_HELP: &str = "name the prefixes of the administrators";

/// On which side a NIC that something names may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inside,
    Either,
}

// === impl Collector ===

impl Collector {
    /// Notes that a file is missing from what is collected.
    pub(super) fn file_is_broken(&mut self) {
        self.files = Files::SomeBroken;
    }

    /// Reads the tables of one file.
    pub(super) fn file<'a>(
        &mut self,
        file: &'a TomlFile<'a>,
        table: &'a DeTable<'a>,
        report: &mut Report,
    ) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let origin = file.origin(key.span());
            match (name, value.get_ref()) {
                ("gateway" | "dns" | "management" | "metrics", _) if !file.is_gateway_file() => {
                    report.error(
                        &origin,
                        format!("[{name}] can only stand in {GATEWAY_FILE}"),
                        "move it there",
                    )
                }
                ("gateway" | "dns" | "management" | "metrics", DeValue::Table(table)) => {
                    let section = Section::new(file, &format!("[{name}]"), value.span(), table);
                    match name {
                        "gateway" => self.gateway(&section, report),
                        "dns" => self.dns(&section, report),
                        "metrics" => self.metrics(&section, report),
                        _ => self.management(&section, report),
                    }
                }
                ("gateway" | "dns" | "management" | "metrics", _) => report.error(
                    &origin,
                    format!("{name} has to be one table"),
                    format!("write it as [{name}], with single brackets, once"),
                ),
                ("source" | "rule" | "inbound", DeValue::Array(values)) => {
                    for value in values.iter() {
                        if let DeValue::Table(table) = value.get_ref() {
                            self.listed(name, file, value.span(), table, report);
                        } else {
                            let what = format!("{name} has a member that is no table");
                            let help = format!("write each as [[{name}]]");
                            report.error(&file.origin(value.span()), what, help);
                        }
                    }
                }
                ("source" | "rule" | "inbound", _) => report.error(
                    &origin,
                    format!("{name} has to be a list of tables"),
                    format!("write each as [[{name}]], with double brackets"),
                ),
                _ => report.error(
                    &origin,
                    format!("unknown table or key {name:?}"),
                    did_you_mean(name, &TABLES),
                ),
            }
        }
        if file.is_gateway_file() && !table.iter().any(|(key, _)| key.get_ref() == "gateway") {
            report.error(
                &file.origin(0..0),
                "the table [gateway] is missing",
                "add it, with inside = [\"eth1\"] and outside = [\"eth0\"] or outside = []",
            );
        }
    }

    /// The policy, if all of it could be read.
    pub(super) fn finish(self, report: &mut Report) -> Option<Policy> {
        if self.files == Files::AllRead {
            let known: Vec<&str> = self.source_names.keys().map(Label::as_str).collect();
            for (label, mention) in &self.wanted_groups {
                if !self.source_names.contains_key(label) {
                    let what = format!("{}: there is no such source group", mention.subject);
                    let help = match nearest(label.as_str(), &known) {
                        Some(group) => format!("did you mean {group:?}?"),
                        None if known.is_empty() => "define it with [[source]]".to_owned(),
                        None => format!(
                            "define it with [[source]], or name one of these: {}",
                            known.join(", ")
                        ),
                    };
                    report.error(&mention.origin, what, help);
                }
            }
        }
        services::check_hosts(&self.inbound, report);
        let gateway = self.gateway?;
        // An empty list has been complained about.
        if !gateway.inside.is_empty() {
            for (nic, side, mention) in &self.wanted_nics {
                let (outside, what, lists) = match side {
                    Side::Inside => (&[][..], "no inside NIC", "inside"),
                    Side::Either => (
                        &gateway.outside[..],
                        "neither an inside nor an outside NIC",
                        "inside or outside",
                    ),
                };
                let mut known = gateway.inside.iter().chain(outside);
                if known.clone().all(|other| other != nic) {
                    let first = known.next().map(NicName::as_str).unwrap_or_default();
                    let names =
                        known.fold(first.to_owned(), |names, nic| format!("{names}, {nic}"));
                    let what = format!("{}: this is {what}", mention.subject);
                    let help = format!("name one of [gateway] {lists} ({names}), or add it there");
                    report.error(&mention.origin, what, help);
                }
            }
        }
        if let Some(mention) = &self.interception {
            dns::check_interception(mention, &gateway, report);
        }
        Some(Policy {
            gateway,
            dns: self.dns.unwrap_or_default(),
            management: self.management.unwrap_or_default(),
            metrics: self.metrics,
            sources: self.sources,
            rules: self.rules,
            inbound: self.inbound,
        })
    }

    /// The rules, whether or not what they name is defined in the same files.
    pub(super) fn into_rules(self) -> Vec<Rule> {
        self.rules
    }

    fn gateway(&mut self, section: &Section<'_>, report: &mut Report) {
        section.only(
            &[
                "inside",
                "outside",
                "ignore",
                "xdp_mode",
                "mode",
                "deny",
                "on_change",
                "on_stop",
                "max_flows",
                "max_grant_cells",
            ],
            report,
        );
        let mut seen: BTreeMap<NicName, (&str, Origin)> = BTreeMap::new();
        let mut nics = |key: &'static str, entry: Option<Entry<'_>>, report: &mut Report| {
            let mut names = Vec::new();
            for (name, entry) in entry.map(|entry| nic_list(&entry, report)).unwrap_or_default() {
                if let Some((other, origin)) = seen.get(&name) {
                    let what = format!("the NIC already stands in {other} ({origin})");
                    entry.error(&what, "name each NIC once, in one of the lists", report);
                } else {
                    seen.insert(name.clone(), (key, entry.origin()));
                    names.push(name);
                }
            }
            names
        };
        let help = "write inside = [\"eth1\"], the NICs behind which the clients are";
        let inside = section.need("inside", help, report);
        if let Some(entry) = &inside
            && matches!(entry.value(), DeValue::Array(values) if values.is_empty())
        {
            entry.error("without an inside NIC nothing is filtered", help, report);
        }
        let inside = nics("inside", inside, report);
        let outside = section.need(
            "outside",
            "write outside = [\"eth0\"], the NICs towards the internet, or outside = [] to filter \
             only clients' packets",
            report,
        );
        let outside = nics("outside", outside, report);
        let ignore = nics("ignore", section.get("ignore"), report);
        let named = inside.len() + outside.len();
        if named > MOST_NICS {
            report.error(
                &section.origin,
                format!("[gateway]: {named} NICs are inside or outside, and there is room for {MOST_NICS}"),
                "name a bridge or bond instead of several NICs, or a NIC instead of its VLANs",
            );
        }
        let xdp_modes =
            [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
        let modes = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
        let denials = [("drop", DenyAction::Drop), ("reject", DenyAction::Reject)];
        let changes = [("cut", OnChange::Cut), ("keep", OnChange::Keep)];
        let xdp_mode = section.get("xdp_mode").and_then(|entry| entry.choice(&xdp_modes, report));
        let mode = section.get("mode").and_then(|entry| entry.choice(&modes, report));
        let deny = section.get("deny").and_then(|entry| entry.choice(&denials, report));
        let stops = [("keep", OnStop::Keep), ("detach", OnStop::Detach)];
        let on_stop = section.get("on_stop").and_then(|entry| entry.choice(&stops, report));
        let on_change = section.get("on_change").and_then(|entry| entry.choice(&changes, report));
        let mut size = |key, least, most, usual| {
            let entry = section.get(key);
            entry.and_then(|entry| bound(&entry, &(least..=most), report)).unwrap_or(usual)
        };
        let usual = TableSizes::default();
        let sizes = TableSizes {
            flows: size("max_flows", LEAST_FLOWS, MAX_FLOWS, usual.flows),
            // Whole words of them.
            grant_cells: size("max_grant_cells", LEAST_CELLS, MAX_CELLS, usual.grant_cells)
                .next_multiple_of(CellWord::CELLS),
        };
        self.gateway = Some(Gateway {
            inside,
            outside,
            ignore,
            xdp_mode: xdp_mode.unwrap_or_default(),
            mode: mode.unwrap_or_default(),
            deny: deny.unwrap_or_default(),
            on_change: on_change.unwrap_or_default(),
            on_stop: on_stop.unwrap_or_default(),
            sizes,
            origin: section.origin.clone(),
        });
    }

    fn dns(&mut self, section: &Section<'_>, report: &mut Report) {
        let Read { dns, interception } = dns::read(section, report);
        self.dns = Some(dns);
        self.interception = interception;
    }

    fn metrics(&mut self, section: &Section<'_>, report: &mut Report) {
        section.only(&["listen"], report);
        let help = "write addresses of this machine in quotes, such as [\"127.0.0.1:9469\"]";
        let Some(entry) = section.get("listen") else { return };
        for member in entry.members(help, report).unwrap_or_default() {
            let Some(text) = member.string(help, report) else { continue };
            match dns::parse_server(text, METRICS_PORT) {
                Ok(address) if self.metrics.listen.contains(&address) => {
                    member.error("the same address a second time", "remove one", report);
                }
                Ok(address) => self.metrics.listen.push(address),
                Err(why) => member.invalid(&why, report),
            }
        }
    }

    fn management(&mut self, section: &Section<'_>, report: &mut Report) {
        section.only(&["interface", "from", "tcp", "udp"], report);
        let before = report.errors.len();
        let mut management =
            Management { origin: Some(section.origin.clone()), ..Management::default() };
        if let Some(entry) = section.get("interface") {
            management.nics = self.nics(&entry, Side::Either, report);
        }
        let help =
            "write from = [\"192.0.2.0/24\"], the addresses from which the gateway is managed";
        if let Some(entry) = section.need("from", help, report) {
            let members = entry.members(PREFIX_HELP, report);
            if members.as_ref().is_some_and(Vec::is_empty) {
                entry.error("an empty list guards nothing", help, report);
            }
            for member in members.unwrap_or_default() {
                let Some(prefix) = prefix_member(&member, report) else { continue };
                match unicast_shares(&[prefix]).greater() {
                    Share::All => {
                        let what =
                            "the guard would open the gateway to every address, past all rules";
                        member.error(what, GUARD_HELP, report);
                    }
                    Share::Much => {
                        let what = "the guard would open the gateway to a quarter or more of all \
                                    addresses, past all rules";
                        member.error(what, GUARD_HELP, report);
                    }
                    Share::Little => management.from.push(prefix),
                }
            }
            // Parts that make up the whole are as open as the whole.
            let Shares { ipv4, ipv6 } = unicast_shares(&management.from);
            for (family, share) in [("IPv4", ipv4), ("IPv6", ipv6)] {
                let how_much = match share {
                    Share::All => "all",
                    Share::Much => "a quarter or more of all",
                    Share::Little => continue,
                };
                let what = format!("these prefixes together make up {how_much} {family} addresses");
                entry.error(&what, GUARD_HELP, report);
            }
        }
        management.tcp = port_list(section, "tcp", report);
        management.udp = port_list(section, "udp", report);
        let none = management.tcp.is_empty() && management.udp.is_empty();
        if none && report.errors.len() == before {
            report.error(
                &section.origin,
                format!("{}: no port is guarded", section.title),
                "add tcp = [22], or remove the table",
            );
        }
        self.management = Some(management);
    }

    /// One `[[source]]`, `[[rule]]` or `[[inbound]]`.
    fn listed<'a>(
        &mut self,
        kind: &str,
        file: &'a TomlFile<'a>,
        span: Range<usize>,
        table: &'a DeTable<'a>,
        report: &mut Report,
    ) {
        let mut section = Section::new(file, &format!("[[{kind}]]"), span, table);
        let name = label(&section, report);
        if let Some((label, entry)) = &name {
            let names = match kind {
                "source" => &mut self.source_names,
                "rule" => &mut self.rule_names,
                _ => &mut self.inbound_names,
            };
            if let Some(first) = names.get(label) {
                report.error(
                    &entry.origin(),
                    format!("{kind} \"{label}\" is defined a second time, first at {first}"),
                    "rename one of the two",
                );
            } else {
                names.insert(label.clone(), entry.origin());
            }
            section.title = format!("{kind} \"{label}\"");
        }
        let name = name.map(|(label, _)| label);
        match kind {
            "source" => self.source(name, &section, report),
            "rule" => self.rule(name, &section, report),
            _ => self.inbound(name, &section, report),
        }
    }

    fn source(&mut self, name: Option<Label>, section: &Section<'_>, report: &mut Report) {
        section.only(&["name", "cidr", "interface", "vlan"], report);
        let mut cidr = Vec::new();
        if let Some(entry) = section.get("cidr") {
            for member in filled(&entry, PREFIX_HELP, report) {
                cidr.extend(prefix_member(&member, report));
            }
        }
        let interface = match section.get("interface") {
            Some(entry) => self.nics(&entry, Side::Inside, report),
            None => Vec::new(),
        };
        let mut vlan = BTreeSet::new();
        let help = "write VLAN ids from 1 to 4094, such as vlan = [10, 20]";
        if let Some(entry) = section.get("vlan") {
            for member in filled(&entry, help, report) {
                match member.integer().and_then(|number| u16::try_from(number).ok()) {
                    Some(id) if (1..=4094).contains(&id) => {
                        vlan.insert(id);
                    }
                    _ => member.error("not a VLAN id", help, report),
                }
            }
        }
        if ["cidr", "interface", "vlan"].iter().all(|key| section.get(key).is_none()) {
            report.error(
                &section.origin,
                format!("{}: nothing says who belongs to it", section.title),
                "add at least one of cidr, interface and vlan",
            );
        }
        let Some(name) = name else { return };
        let origin = section.origin.clone();
        self.sources.push(SourceGroup { name, cidr, interface, vlan, origin });
    }

    fn rule(&mut self, name: Option<Label>, section: &Section<'_>, report: &mut Report) {
        let known = [
            "name", "from", "to", "tcp", "udp", "icmp", "proto", "note", "enabled", "private",
            "broad",
        ];
        section.only(&known, report);
        let state = match section.boolean("enabled", true, report) {
            true => RuleState::Enabled,
            false => RuleState::Disabled,
        };
        let private = match section.boolean("private", false, report) {
            true => SpecialPurpose::Allowed,
            false => SpecialPurpose::Refused,
        };
        let broad = section.boolean("broad", false, report);
        let from = match section.get("from") {
            Some(entry) => Clients::Groups(self.groups(&entry, report)),
            None => Clients::Any,
        };
        let to = rule_destinations(section, state, broad, report);
        let ports = ports(section, state, report);
        let note = note(section, report);
        let Some(name) = name else { return };
        let origin = section.origin.clone();
        self.rules.push(Rule { name, from, to, ports, state, note, private, origin });
    }

    fn inbound(&mut self, name: Option<Label>, section: &Section<'_>, report: &mut Report) {
        section
            .only(&["name", "from", "to", "host", "tcp", "udp", "icmp", "proto", "note"], report);
        let mut from = Vec::new();
        let help = "write from = [\"198.51.100.0/24\"], the addresses that may use the service";
        if let Some(entry) = section.need("from", help, report) {
            for member in nonempty(&entry, PREFIX_HELP, help, report) {
                from.extend(prefix_member(&member, report));
            }
        }
        let mut to = Vec::new();
        let help = "write to = [\"self\"], or the addresses as they are seen from outside";
        if let Some(entry) = section.need("to", help, report) {
            for member in nonempty(&entry, PREFIX_HELP, help, report) {
                match member.string(PREFIX_HELP, report) {
                    Some("self") => to.push(Destination::SelfAddresses),
                    Some(_) => to.extend(prefix_member(&member, report).map(Destination::Prefix)),
                    None => {}
                }
            }
        }
        let mut host = None;
        if let Some(entry) = section.get("host") {
            let help = "write the one address that stands behind the NAT, such as \"10.0.10.5\"";
            if let Some(text) = entry.string(help, report) {
                match text.parse::<IpAddr>() {
                    Ok(address) => host = Some(address),
                    Err(_no_address) => entry.error("not an address", help, report),
                }
            }
        }
        let ports = ports(section, RuleState::Enabled, report);
        let note = note(section, report);
        let Some(name) = name else { return };
        let origin = section.origin.clone();
        self.inbound.push(Inbound { name, from, to, host, ports, note, origin });
    }

    fn groups(&mut self, entry: &Entry<'_>, report: &mut Report) -> BTreeSet<Label> {
        let help = "name source groups, or remove the key to let every client";
        let mut groups = BTreeSet::new();
        for member in nonempty(entry, "write names of source groups: [\"managed\"]", help, report) {
            let Some(text) = member.string("write names of source groups", report) else {
                continue;
            };
            match Label::try_from(text) {
                Ok(label) => {
                    let mention = Mention { origin: member.origin(), subject: member.subject() };
                    self.wanted_groups.push((label.clone(), mention));
                    groups.insert(label);
                }
                Err(_no_label) => member.error(
                    "not the name of a source group",
                    "define a [[source]] with this cidr, and write its name here",
                    report,
                ),
            }
        }
        groups
    }

    fn nics(&mut self, entry: &Entry<'_>, side: Side, report: &mut Report) -> Vec<NicName> {
        let mut nics = Vec::new();
        for member in filled(entry, NIC_HELP, report) {
            if let Some(nic) = nic(&member, report) {
                let mention = Mention { origin: member.origin(), subject: member.subject() };
                self.wanted_nics.push((nic.clone(), side, mention));
                nics.push(nic);
            }
        }
        nics
    }
}
