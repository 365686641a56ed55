// SPDX-License-Identifier: MIT OR Apache-2.0
//! Policy files as an input: what `sluice import` wrote, or what somebody wrote by hand.
//!
//! Each rule is an endpoint set that keeps its rule beside it, so that whatever a set has no words
//! for is written again as it was. What can't be kept so is an error with its line: a policy file
//! is no page, in which a word may be a slip.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    slice,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Document, EndpointSet, Format, Imported, InvalidDocument, LeftOut, Options, PolicyRule,
    PortRange, PortSet, PortsFrom, SetState, Source, Stated, Warning, Why,
    feed::printable,
    lines::Lines,
    single::{self, Host, HostBits},
};

/// A value with where it stands.
type Value<'a> = Spanned<DeValue<'a>>;

/// What is wrong, and where.
struct Fault {
    offset: usize,
    problem: String,
}

/// A policy file while it is read.
struct Reader<'a> {
    text: &'a str,
    lines: Lines<'a>,
    document: Document,
    /// The offsets of the comments that are kept.
    kept: BTreeSet<usize>,
}

/// A `[[rule]]` while it is read.
struct Rule<'a> {
    /// How messages call it.
    title: String,
    offset: usize,
    table: &'a DeTable<'a>,
}

const KEYS: [&str; 11] =
    ["name", "from", "to", "tcp", "udp", "icmp", "proto", "note", "enabled", "private", "broad"];

/// The protocols that a rule may call by name.
const PROTOCOLS: [&str; 11] =
    ["igmp", "ipip", "ipv6", "gre", "esp", "ospf", "pim", "vrrp", "l2tp", "sctp", "udplite"];

/// Protocols that have keys of their own, and IPv6 extension headers, which are none.
const NOT_PROTOCOLS: [u8; 12] = [0, 1, 6, 17, 43, 44, 51, 58, 60, 135, 139, 140];

/// The tables of a configuration, with which a file of it begins.
const TABLES: [&str; 6] = ["rule", "source", "inbound", "gateway", "dns", "management"];

/// What stands between a note and why its rule is disabled.
const DISABLED: &str = "; disabled: ";

/// The longest name of a rule or a group.
const MAX_LABEL: usize = 63;

/// How much of a value a message shows.
const SHOWN: usize = 80;

/// Whether a text is a policy file: nothing but comments stands before its first table.
pub(super) fn is_policy(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let header = first.and_then(|line| line.strip_prefix('['));
    let header = header.map(|rest| rest.strip_prefix('[').unwrap_or(rest));
    header
        .and_then(|rest| rest.split_once(']'))
        .is_some_and(|(name, _)| TABLES.contains(&name.trim()))
}

/// Reads a policy file.
pub(super) fn read(text: &str, options: &Options) -> Result<Document, InvalidDocument> {
    let mut reader = Reader::new(text);
    let read = reader.file(options);
    match read {
        Ok(()) => Ok(reader.finish()),
        Err(fault) => Err(InvalidDocument::Policy {
            line: reader.lines.line(fault.offset),
            problem: fault.problem,
        }),
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let (head, kept) = head(text);
        let source =
            Source { name: String::new(), format: Format::Policy, title: None, date: None, head };
        Self {
            text,
            lines: Lines::new(text),
            document: Document {
                sources: vec![source],
                endpoint_sets: Vec::new(),
                imported: Vec::new(),
                left_out: Vec::new(),
                warnings: Vec::new(),
            },
            kept,
        }
    }

    fn file(&mut self, options: &Options) -> Result<(), Fault> {
        let root = DeTable::parse(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Fault::new(offset, format!("TOML syntax: {}", printable(error.message())))
        })?;
        let root = root.into_inner();
        let mut rules: Vec<Rule<'_>> = Vec::new();
        for (key, value) in &root {
            let offset = key.span().start;
            let name = shown(key.get_ref());
            let tables = match value.get_ref() {
                DeValue::Array(tables) if key.get_ref() == "rule" => tables,
                _ => {
                    return Err(Fault::new(
                        offset,
                        format!(
                            "\"{name}\" is no [[rule]], and only rules are imported; leave it in a \
                             file of its own"
                        ),
                    ));
                }
            };
            for table in tables {
                rules.push(Rule::new(table)?);
            }
        }
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        for rule in &rules {
            let name = rule.name()?;
            let line = self.lines.line(rule.offset);
            if let Some(first) = names.insert(name, line) {
                return Err(
                    rule.fault(rule.offset, &format!("line {first} has a rule of this name"))
                );
            }
        }
        for rule in &rules {
            let set = self.set(rule, &names, options)?;
            self.document.endpoint_sets.push(set);
        }
        self.warn_of_lost_comments();
        Ok(())
    }

    fn set(
        &mut self,
        rule: &Rule<'_>,
        names: &BTreeMap<String, u32>,
        options: &Options,
    ) -> Result<EndpointSet, Fault> {
        for (key, _) in rule.table {
            if !KEYS.contains(&&**key.get_ref()) {
                let problem = format!("unknown key \"{}\"", shown(key.get_ref()));
                return Err(rule.fault(key.span().start, &problem));
            }
        }
        let name = rule.name()?;
        let ports = PortSet { tcp: rule.ports("tcp")?, udp: rule.ports("udp")? };
        let mut set = EndpointSet {
            source: 0,
            id: id(&name, names),
            section: String::new(),
            description: String::new(),
            category: None,
            required: Stated::Unstated,
            express_route: Stated::Unstated,
            group: None,
            names: Vec::new(),
            prefixes: Vec::new(),
            ports_from: if ports.is_empty() { PortsFrom::Nowhere } else { PortsFrom::Row },
            ports,
            state: SetState::Enabled,
            lines: (self.lines.line(rule.offset), self.lines.line(rule.end())),
            notes: Vec::new(),
            rule: None,
        };
        let mut kept = PolicyRule {
            name,
            comments: self.comments(rule.offset),
            from: rule.groups()?,
            gateway: Stated::Unstated,
            icmp: rule.boolean("icmp")?,
            protocols: rule.protocols()?,
            private: rule.boolean("private")?,
            broad: rule.boolean("broad")?,
            note: rule.text("note")?,
        };
        self.destinations(rule, options, &mut set, &mut kept)?;
        let nothing = set.ports.is_empty() && kept.icmp != Stated::Yes && kept.protocols.is_empty();
        set.state = match (rule.boolean("enabled")?, nothing) {
            (Stated::No, true) => SetState::WithoutPorts,
            (Stated::No, false) => SetState::Disabled,
            (Stated::Yes | Stated::Unstated, false) => SetState::Enabled,
            (Stated::Yes | Stated::Unstated, true) => {
                let problem = "no port and no protocol is named; add tcp, udp, icmp or proto";
                return Err(rule.fault(rule.offset, problem));
            }
        };
        let note = kept.note.as_deref().unwrap_or(&kept.name);
        set.description = match (note.split_once(DISABLED), set.state) {
            (Some((description, _)), SetState::WithoutPorts | SetState::Disabled) => description,
            _ => note,
        }
        .to_owned();
        let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
        if kept.note.as_deref().is_some_and(|note| note.contains(bad)) {
            return Err(rule.fault(rule.offset, "`note` has control characters; remove them"));
        }
        set.rule = Some(Box::new(kept));
        Ok(set)
    }

    fn destinations(
        &mut self,
        rule: &Rule<'_>,
        options: &Options,
        set: &mut EndpointSet,
        kept: &mut PolicyRule,
    ) -> Result<(), Fault> {
        let missing = || rule.fault(rule.offset, "`to` has no name, address or prefix");
        let number = self.document.endpoint_sets.len();
        let mut seen = BTreeSet::new();
        let members = rule.list("to")?.ok_or_else(missing)?;
        if members.is_empty() {
            return Err(missing());
        }
        for member in members {
            let offset = member.span().start;
            let text = rule.member("to", member)?;
            if text == "self" {
                kept.gateway = Stated::Yes;
                continue;
            }
            let filled = super::feed::fill(text, options.tenant.as_deref());
            let endpoint = single::read(filled.as_deref().unwrap_or(text)).map_err(|error| {
                rule.fault(offset, &format!("`to` has \"{}\": {}", shown(text), error.problem))
            })?;
            if endpoint.ports.is_some() || endpoint.path.is_some() || text.contains("://") {
                let problem = format!(
                    "`to` has \"{}\": write the host alone, and its port under tcp or udp",
                    shown(text)
                );
                return Err(rule.fault(offset, &problem));
            }
            let line = self.lines.line(offset);
            if !seen.insert(endpoint.text.clone()) {
                let token = LeftOut { source: 0, line, token: endpoint.text, why: Why::Duplicate };
                self.document.left_out.push(token);
                continue;
            }
            match endpoint.host {
                Host::Name => set.names.push(endpoint.text.clone()),
                Host::Net(net, host_bits) => {
                    if host_bits == HostBits::Dropped {
                        let text =
                            format!("{} has host bits set; it is taken as {net}", shown(text));
                        self.document.warnings.push(Warning { source: 0, line, text });
                    }
                    set.prefixes.push(net);
                }
            }
            let token = Imported { source: 0, line, token: endpoint.text, set: number };
            self.document.imported.push(token);
        }
        Ok(())
    }

    /// The comment lines right above a place.
    fn comments(&mut self, offset: usize) -> Vec<String> {
        let above = self.text.get(..offset).unwrap_or_default();
        let mut end = above.rfind('\n').map_or(0, |newline| newline + 1);
        let mut comments = Vec::new();
        while let Some(before) = above.get(..end.saturating_sub(1)).filter(|_| end > 0) {
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let Some(comment) = before.get(start..).and_then(comment) else { break };
            comments.push(comment);
            self.kept.insert(start);
            end = start;
        }
        comments.reverse();
        comments
    }

    fn warn_of_lost_comments(&mut self) {
        let mut offset = 0;
        let mut lost = Vec::new();
        for line in self.text.split_inclusive('\n') {
            // A long note may have such lines as well; then this says too much, not too little.
            if line.trim_start().starts_with('#') && !self.kept.contains(&offset) {
                lost.push(offset);
            }
            offset += line.len();
        }
        if let Some(first) = lost.first() {
            let text = format!(
                "only comments at the head of the file and right above a [[rule]] are kept; {} \
                 other lines are not",
                lost.len()
            );
            let line = self.lines.line(*first);
            self.document.warnings.push(Warning { source: 0, line, text });
        }
    }

    fn finish(mut self) -> Document {
        self.document.imported.sort_by_key(|token| token.line);
        self.document.left_out.sort_by_key(|token| token.line);
        self.document.warnings.sort();
        self.document
    }
}

// === impl Rule ===

impl<'a> Rule<'a> {
    fn new(value: &'a Value<'a>) -> Result<Self, Fault> {
        let offset = value.span().start;
        match value.get_ref() {
            DeValue::Table(table) => Ok(Self { title: String::new(), offset, table }.titled()),
            _ => Err(Fault::new(offset, "a rule is a table: write [[rule]] above it".to_owned())),
        }
    }

    fn titled(mut self) -> Self {
        let name = self.get("name").and_then(|value| value.get_ref().as_str());
        self.title = match name {
            Some(name) => format!("rule \"{}\"", shown(name)),
            None => "this rule".to_owned(),
        };
        self
    }

    fn get(&self, key: &str) -> Option<&'a Value<'a>> {
        self.table.get(key)
    }

    fn fault(&self, offset: usize, problem: &str) -> Fault {
        Fault::new(offset, format!("{}: {problem}", self.title))
    }

    /// Where its last value begins.
    fn end(&self) -> usize {
        let starts = self.table.iter().map(|(_, value)| match value.get_ref() {
            // The bracket of a list that is broken up stands on a line of its own.
            DeValue::Array(_) => end_of(&value.span()),
            _ => value.span().start,
        });
        starts.max().unwrap_or(self.offset)
    }

    fn name(&self) -> Result<String, Fault> {
        let Some(name) = self.text("name")? else {
            return Err(self.fault(self.offset, "`name` is missing"));
        };
        if is_label(&name) {
            return Ok(name);
        }
        let problem = "a name has 1 to 63 letters, digits, '-', '_' or '.'";
        Err(self.fault(self.offset, problem))
    }

    fn text(&self, key: &str) -> Result<Option<String>, Fault> {
        self.get(key).map(|value| self.member(key, value).map(str::to_owned)).transpose()
    }

    fn boolean(&self, key: &str) -> Result<Stated, Fault> {
        match self.get(key).map(|value| (value, value.get_ref())) {
            None => Ok(Stated::Unstated),
            Some((_, DeValue::Boolean(true))) => Ok(Stated::Yes),
            Some((_, DeValue::Boolean(false))) => Ok(Stated::No),
            Some((value, _)) => {
                let problem = format!("`{key}` is neither true nor false");
                Err(self.fault(value.span().start, &problem))
            }
        }
    }

    fn list(&self, key: &str) -> Result<Option<&'a [Value<'a>]>, Fault> {
        match self.get(key).map(|value| (value, value.get_ref())) {
            None => Ok(None),
            Some((_, DeValue::Array(values))) => Ok(Some(values)),
            // Here one may go without brackets.
            Some((value, DeValue::String(_))) if matches!(key, "to" | "from") => {
                Ok(Some(slice::from_ref(value)))
            }
            Some((value, _)) => {
                let problem = format!("`{key}` is no list; write it in brackets");
                Err(self.fault(value.span().start, &problem))
            }
        }
    }

    fn member<'v>(&self, key: &str, value: &'v Value<'a>) -> Result<&'v str, Fault> {
        value.get_ref().as_str().ok_or_else(|| {
            self.fault(value.span().start, &format!("`{key}` has something that is no text"))
        })
    }

    fn groups(&self) -> Result<Vec<String>, Fault> {
        let Some(members) = self.list("from")? else { return Ok(Vec::new()) };
        // To leave an empty list out would let every client.
        if members.is_empty() {
            return Err(self.fault(self.offset, "`from` names no group; remove it or name one"));
        }
        let mut groups = BTreeSet::new();
        for member in members {
            let group = self.member("from", member)?;
            if !is_label(group) {
                let problem = format!("`from` has \"{}\", which names no group", shown(group));
                return Err(self.fault(member.span().start, &problem));
            }
            groups.insert(group.to_owned());
        }
        Ok(groups.into_iter().collect())
    }

    fn protocols(&self) -> Result<Vec<String>, Fault> {
        let mut protocols = Vec::new();
        for member in self.list("proto")?.unwrap_or_default() {
            let protocol = match member.get_ref() {
                DeValue::Integer(_) => integer(member).map(|number| number.to_string()),
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            };
            let known = |text: &String| match text.parse::<u8>() {
                Ok(number) => !NOT_PROTOCOLS.contains(&number),
                Err(_no_number) => PROTOCOLS.contains(&text.as_str()),
            };
            let problem = format!(
                "`proto` has something that is no protocol; write a number from 0 to 255 or one \
                 of {}, and TCP, UDP and ICMP under tcp, udp and icmp",
                PROTOCOLS.join(", ")
            );
            let start = member.span().start;
            protocols.push(protocol.filter(known).ok_or_else(|| self.fault(start, &problem))?);
        }
        Ok(protocols)
    }

    fn ports(&self, key: &str) -> Result<BTreeSet<PortRange>, Fault> {
        let any = || BTreeSet::from([PortRange::ANY]);
        if self.get(key).is_some_and(|value| value.get_ref().as_str() == Some("any")) {
            return Ok(any());
        }
        let mut spans = BTreeSet::new();
        for member in self.list(key)?.unwrap_or_default() {
            let span = match member.get_ref() {
                DeValue::Integer(_) => integer(member)
                    .and_then(|port| u16::try_from(port).ok())
                    .and_then(|port| PortRange::new(port, port)),
                DeValue::String(text) if text == "any" => Some(PortRange::ANY),
                DeValue::String(text) => PortRange::parse(text),
                _ => None,
            };
            let problem = format!(
                "`{key}` has something that is no port; write 443, \"3478-3481\" or \"any\""
            );
            let start = member.span().start;
            spans.insert(span.ok_or_else(|| self.fault(start, &problem))?);
        }
        Ok(spans)
    }
}

// === impl Fault ===

impl Fault {
    fn new(offset: usize, problem: String) -> Self {
        Self { offset, problem }
    }
}

// === helpers ===

/// The vendor's number of a set in the name of its rule: `intune-163`, with what the importer may
/// put behind it: `-tcp-443`, a number that makes it unique, `-broad`.
fn id(name: &str, names: &BTreeMap<String, u32>) -> Option<u32> {
    let base = name.strip_suffix("-broad").unwrap_or(name);
    let number = |word: &str| -> Option<u32> {
        let digits = word.bytes().all(|byte| byte.is_ascii_digit());
        (digits && (word == "0" || !word.starts_with('0'))).then(|| word.parse().ok()).flatten()
    };
    // A number behind the name of another rule is one that makes the name unique.
    let base = match base.rsplit_once('-') {
        Some((front, end)) if number(end).is_some() && names.contains_key(front) => front,
        _ => base,
    };
    let behind = ["-tcp-", "-udp-", "-no-ports"].iter().filter_map(|ports| base.find(ports)).min();
    let base = behind.and_then(|behind| base.get(..behind)).unwrap_or(base);
    base.rsplit_once('-').and_then(|(_, end)| number(end))
}

/// The comment at the head of a file, and where its lines begin. One that goes on into a rule is
/// that rule's.
fn head(text: &str) -> (Vec<String>, BTreeSet<usize>) {
    let mut comments = Vec::new();
    let mut starts = BTreeSet::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        match comment(line) {
            Some(comment) => {
                comments.push(comment);
                starts.insert(offset);
            }
            None if line.trim().is_empty() => break,
            None => return (Vec::new(), BTreeSet::new()),
        }
        offset += line.len();
    }
    (comments, starts)
}

fn comment(line: &str) -> Option<String> {
    let text = line.trim_end().strip_prefix('#')?;
    Some(text.strip_prefix(' ').unwrap_or(text).to_owned())
}

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(allowed)
}

fn integer(value: &Value<'_>) -> Option<i64> {
    match value.get_ref() {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

fn end_of(span: &Range<usize>) -> usize {
    span.end.saturating_sub(1).max(span.start)
}

fn shown(text: &str) -> String {
    printable(text).chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
