// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the readers of feeds and plain lists have in common: from members of a set, each of which
//! is meant to be one endpoint, to endpoint sets in which every member is accounted for.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Document, EndpointSet, Format, Imported, LeftOut, NO_PORTS, Note, PortSet, PortsFrom, SetState,
    Source, Warning, Why,
    lines::Lines,
    single::{self, Endpoint, Host, HostBits},
    words,
};

/// A document while a feed is read.
pub(super) struct Feed<'a> {
    pub(super) lines: Lines<'a>,
    tenant: Option<String>,
    document: Document,
    /// With their offsets, by which they are put in order in the end.
    imported: Vec<(usize, Imported)>,
    left_out: Vec<(usize, LeftOut)>,
}

/// A text that is meant to be an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) offset: usize,
    pub(super) text: &'a str,
    pub(super) takes: Takes,
}

/// What a member may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Anything,
    /// An address or a prefix.
    Nets,
}

/// Whether a set without ports is warned about by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissingPorts {
    Warn,
    /// The reader says it once for the whole file.
    SaidOnce,
}

/// How much of a broken text a warning shows.
const SHOWN: usize = 80;

/// The most names that one warning lists.
const LISTED: usize = 8;

// === impl Feed ===

impl<'a> Feed<'a> {
    pub(super) fn new(text: &'a str, format: Format, tenant: Option<&str>) -> Self {
        let source =
            Source { name: String::new(), format, title: None, date: None, head: Vec::new() };
        Self {
            lines: Lines::new(text),
            tenant: tenant.map(str::to_owned),
            document: Document {
                sources: vec![source],
                endpoint_sets: Vec::new(),
                imported: Vec::new(),
                left_out: Vec::new(),
                warnings: Vec::new(),
            },
            imported: Vec::new(),
            left_out: Vec::new(),
        }
    }

    pub(super) fn describe(&mut self, title: Option<String>, date: Option<String>) {
        for source in &mut self.document.sources {
            source.title.clone_from(&title);
            source.date.clone_from(&date);
        }
    }

    pub(super) fn warn(&mut self, offset: usize, text: String) {
        let line = self.lines.line(offset);
        self.document.warnings.push(Warning { source: 0, line, text });
    }

    pub(super) fn leave_out(&mut self, offset: usize, token: &str, why: Why) {
        let line = self.lines.line(offset);
        let left_out = LeftOut { source: 0, line, token: printable(token), why };
        self.left_out.push((offset, left_out));
    }

    /// Leaves out what is broken, and says so.
    pub(super) fn refuse(&mut self, offset: usize, token: &str, why: Why, problem: &str) {
        let shown: String = printable(token).chars().take(SHOWN).collect();
        self.warn(offset, format!("\"{shown}\" is left out: {problem}"));
        self.leave_out(offset, token, why);
    }

    /// Adds the sets that a template and its members make: one for each set of ports.
    pub(super) fn add(
        &mut self,
        template: &EndpointSet,
        members: &[Member<'_>],
        missing: MissingPorts,
    ) {
        let mut read = Vec::with_capacity(members.len());
        let mut with_own_ports = BTreeSet::new();
        for member in members {
            let Some(endpoint) = self.read(member) else { continue };
            if template.ports.is_empty() && endpoint.ports.is_some() {
                with_own_ports.insert(endpoint.text.clone());
            }
            read.push((*member, endpoint));
        }
        let mut parts: BTreeMap<(PortSet, PortsFrom), Vec<(Member<'_>, Endpoint)>> =
            BTreeMap::new();
        for (member, endpoint) in read {
            let key = match &endpoint.ports {
                _ if !template.ports.is_empty() => (template.ports.clone(), template.ports_from),
                Some(own) => (own.clone(), PortsFrom::Scheme),
                None if with_own_ports.contains(&endpoint.text) => {
                    // It stands here a second time with its ports, which say more.
                    self.leave_out(member.offset, &endpoint.text, Why::Duplicate);
                    continue;
                }
                None => (PortSet::default(), PortsFrom::Nowhere),
            };
            parts.entry(key).or_default().push((member, endpoint));
        }
        let mut parts: Vec<_> = parts.into_iter().collect();
        parts.sort_by_key(|(_, members)| members.first().map(|(member, _)| member.offset));
        for ((ports, ports_from), members) in parts {
            let state = if ports.is_empty() { SetState::WithoutPorts } else { SetState::Enabled };
            self.add_set(
                EndpointSet { ports, ports_from, state, ..template.clone() },
                members,
                missing,
            );
        }
    }

    pub(super) fn finish(mut self) -> Document {
        self.imported.sort_by_key(|(offset, _)| *offset);
        self.left_out.sort_by_key(|(offset, _)| *offset);
        self.document.imported = self.imported.into_iter().map(|(_, token)| token).collect();
        self.document.left_out = self.left_out.into_iter().map(|(_, token)| token).collect();
        self.document.warnings.sort();
        self.document.warnings.dedup();
        self.document
    }

    fn read(&mut self, member: &Member<'_>) -> Option<Endpoint> {
        let filled = fill(member.text, self.tenant.as_deref());
        match single::read(filled.as_deref().unwrap_or(member.text)) {
            Ok(Endpoint { host: Host::Name, .. }) if member.takes == Takes::Nets => {
                let problem = "an address or a prefix is expected here";
                self.refuse(member.offset, member.text, Why::Broken, problem);
                None
            }
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                self.refuse(member.offset, member.text, error.why, error.problem);
                None
            }
        }
    }

    fn add_set(
        &mut self,
        mut set: EndpointSet,
        members: Vec<(Member<'_>, Endpoint)>,
        missing: MissingPorts,
    ) {
        let number = self.document.endpoint_sets.len();
        let mut seen = BTreeSet::new();
        let mut lines: Option<(u32, u32)> = None;
        for (member, endpoint) in members {
            let line = self.lines.line(member.offset);
            lines =
                Some(lines.map_or((line, line), |(first, last)| (first.min(line), last.max(line))));
            if let Some(path) = &endpoint.path {
                let (path, host) = (printable(path), &endpoint.text);
                let text = format!("{host}: the path {path} can't be enforced at this layer");
                set.notes.push(Note::Finding(text));
            }
            if !seen.insert(endpoint.text.clone()) {
                self.leave_out(member.offset, &endpoint.text, Why::Duplicate);
                continue;
            }
            match endpoint.host {
                Host::Name => set.names.push(endpoint.text.clone()),
                Host::Net(net, host_bits) => {
                    if host_bits == HostBits::Dropped {
                        let text = format!(
                            "{} has host bits set; it is taken as {net}",
                            member.text.trim()
                        );
                        self.warn(member.offset, text);
                    }
                    set.prefixes.push(net);
                }
            }
            let imported = Imported { source: 0, line, token: endpoint.text, set: number };
            self.imported.push((member.offset, imported));
        }
        if set.lines == (0, 0) {
            set.lines = lines.unwrap_or((1, 1));
        }
        if set.state == SetState::WithoutPorts && missing == MissingPorts::Warn {
            let all: Vec<&str> = seen.iter().map(String::as_str).take(LISTED).collect();
            let more = match seen.len() - all.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let text = format!("{NO_PORTS}{}{more}; written disabled", all.join(", "));
            self.document.warnings.push(Warning { source: 0, line: set.lines.0, text });
        }
        self.document.endpoint_sets.push(set);
    }
}

/// A text without control characters, which a terminal would act on.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name with the tenant's label in place of `<tenant>` and its like; `None` where nothing is to
/// be filled in.
pub(super) fn fill(text: &str, tenant: Option<&str>) -> Option<String> {
    let tenant = tenant?;
    let mut filled = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some(open) = rest.find(['<', '{', '[']) {
        let (front, behind) = rest.split_at_checked(open)?;
        let close = behind.find(['>', '}', ']'])?;
        let word = behind.get(1..close)?;
        if !words::is_tenant(word) {
            return None;
        }
        found = true;
        filled.push_str(front.strip_suffix('$').unwrap_or(front));
        filled.push_str(tenant);
        rest = behind.get(close + 1..)?;
    }
    filled.push_str(rest);
    found.then_some(filled)
}

#[cfg(test)]
mod tests;
