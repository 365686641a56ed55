// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a vendor's page to a policy file: one rule per endpoint set.
//!
//! What is written always passes [`load`](super::load): what the page doesn't give enough for, or
//! what a policy must not grant without being told so, is written disabled, with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use ipnet::IpNet;

use super::{
    Echo, IpProtocol, NamePattern, PortRange, PortRanges, RuleState, SpecialPurpose,
    name::Breadth,
    render::{BroadNames, RuleText, render_rule},
};
use crate::document::{
    Document, EndpointSet, Format, Note, PolicyRule, PortSet, SetState, Source, Stated, Why,
};

/// How rules are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the rules' names begin with; from the input's title or kind where there is none.
    pub prefix: Option<String>,
    /// Whether patterns that cover a public suffix are granted.
    pub broad: BroadNames,
}

/// What the file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The command that makes the file.
    pub command: String,
}

/// The names of rules so far.
#[derive(Debug, Default)]
struct Taken {
    names: BTreeSet<String>,
    /// For each name that was wanted twice, the next number to try.
    next: BTreeMap<String, u32>,
}

/// The longest name of a rule.
const MAX_NAME: usize = 63;

/// Why patterns that cover a public suffix are not granted.
const REFUSED: &str = "disabled: anybody can get a name that these patterns cover";

/// What stands in front of the command that makes a file.
const MADE_BY: &str = "Made by `";

/// Phrases in front of what a section is about.
const FILLERS: [&str; 3] = ["network-requirements-for-", "requirements-for-", "endpoints-for-"];

/// A policy file with the rules of a page.
///
/// It has no time and no state in it: the same document gives the same text.
#[must_use]
pub fn policy_file(document: &Document, options: &Options, header: &Header) -> String {
    let mut taken = Taken::default();
    let names = rule_names(document, options.prefix.as_deref(), &mut taken);
    let mut rules: Vec<RuleText> = document
        .endpoint_sets
        .iter()
        .zip(names)
        .flat_map(|(set, name)| rules(document, set, name, options.broad, &mut taken))
        .collect();
    for note in rules.iter_mut().filter_map(|rule| rule.note.as_mut()) {
        // Such a note is refused when the file is loaded.
        let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
        *note = note.chars().map(|c| if bad(c) { ' ' } else { c }).collect();
    }
    let mut text = head(document, header, &rules);
    for rule in &rules {
        text.push('\n');
        text.push_str(&render_rule(rule));
    }
    text
}

/// The groups of clients that rules of policy files are for, which are defined elsewhere.
#[must_use]
pub fn groups(document: &Document) -> BTreeSet<&str> {
    let rules = document.endpoint_sets.iter().filter_map(|set| set.rule.as_deref());
    rules.flat_map(|rule| rule.from.iter().map(String::as_str)).collect()
}

fn head(document: &Document, header: &Header, rules: &[RuleText]) -> String {
    let mut names = BTreeSet::new();
    let mut prefixes: BTreeSet<IpNet> = BTreeSet::new();
    for set in &document.endpoint_sets {
        names.extend(set.names.iter());
        prefixes.extend(&set.prefixes);
    }
    let v4 = prefixes.iter().filter(|prefix| matches!(prefix, IpNet::V4(_))).count();
    let disabled = rules.iter().filter(|rule| rule.state == RuleState::Disabled).count();
    let left_out: Vec<String> = document
        .left_out_by_reason()
        .into_iter()
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    let mut lines: Vec<String> = document
        .sources
        .iter()
        .flat_map(|source| {
            if !source.head.is_empty() {
                return source.head.clone();
            }
            let page = source.title.as_deref().unwrap_or(&source.name);
            let date = source.date.as_ref().map(|date| format!(", {date}")).unwrap_or_default();
            vec![format!("{page}{date}")]
        })
        .collect();
    let counts = format!(
        "{} rules ({disabled} disabled), {} names, {v4} IPv4 and {} IPv6 prefixes",
        rules.len(),
        names.len(),
        prefixes.len() - v4
    );
    // What a file says of itself stays while it is true.
    let is_told = document.sources.len() == 1
        && lines.iter().any(|line| line.starts_with(MADE_BY))
        && lines.iter().any(|line| line.ends_with(&format!(", {counts}")));
    if !is_told {
        lines.push(format!("{MADE_BY}{}`", header.command));
        lines.push(format!("{} endpoint sets, {counts}", document.endpoint_sets.len()));
    }
    if !left_out.is_empty() {
        lines.push(format!("left out: {}", left_out.join(", ")));
    }
    lines.extend(document.warnings.iter().map(|warning| {
        let at = match document.sources.get(warning.source) {
            Some(source) if document.sources.len() > 1 => format!("{}:", source.name),
            _ => "line ".to_owned(),
        };
        format!("{at}{}: {}", warning.line, warning.text)
    }));
    let mut text = String::new();
    for line in lines {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Writing to a string can't fail.
        let _ = writeln!(text, "# {line}");
    }
    text
}

/// The rules of a set: one, and one more for names that a policy has to be told to grant.
fn rules(
    document: &Document,
    set: &EndpointSet,
    name: String,
    allowed: BroadNames,
    taken: &mut Taken,
) -> Vec<RuleText> {
    if let Some(rule) = &set.rule {
        return vec![former_rule(set, rule, name, allowed)];
    }
    let mut usable = Vec::new();
    let mut broad = Vec::new();
    let source = document.sources.get(set.source);
    let input = match source.map(|source| source.format) {
        Some(Format::Page) | None => "page",
        Some(Format::M365Json | Format::ServiceTags | Format::Policy) => "file",
        Some(Format::List) => "list",
    };
    let mut comments = vec![summary(set, source.filter(|_| document.sources.len() > 1))];
    for text in &set.names {
        match NamePattern::try_from(text.as_str()) {
            Ok(pattern) if pattern.breadth() == Breadth::CoversPublicSuffix => {
                broad.push(pattern.to_string());
            }
            Ok(pattern) => usable.push(pattern.to_string()),
            Err(error) => comments.push(format!("left out: {text} ({}): {error}", Why::Broken)),
        }
    }
    let mut prefixes = set.prefixes.clone();
    prefixes.sort();
    usable.extend(prefixes.iter().map(ToString::to_string));
    let mut remarks = 0;
    for note in &set.notes {
        match note {
            Note::Finding(text) => comments.push(text.clone()),
            Note::Remark(_) => remarks += 1,
        }
    }
    // The vendor's sentences stay on the vendor's page.
    match remarks {
        0 => {}
        1 => comments.push(format!("the {input} has a remark on it; see `sluice import --json`")),
        more => comments
            .push(format!("the {input} has {more} remarks on it; see `sluice import --json`")),
    }
    let rule = RuleText {
        comments,
        name: name.clone(),
        to: usable,
        tcp: ranges(&set.ports.tcp),
        udp: ranges(&set.ports.udp),
        note: Some(set.description.clone()),
        state: RuleState::Enabled,
        ..RuleText::default()
    };
    let without_ports = format!("{}; disabled: the {input} gives no ports", set.description);
    let mut rules = Vec::new();
    if !rule.to.is_empty() {
        rules.push(match set.state {
            SetState::Enabled => rule.clone(),
            SetState::WithoutPorts | SetState::Disabled => RuleText {
                note: Some(without_ports.clone()),
                state: RuleState::Disabled,
                ..rule.clone()
            },
        });
    }
    if !broad.is_empty() {
        let (note, state) = match (allowed, set.state) {
            (BroadNames::Allowed, SetState::Enabled) => {
                (set.description.clone(), RuleState::Enabled)
            }
            (BroadNames::Allowed, SetState::WithoutPorts | SetState::Disabled) => {
                (without_ports, RuleState::Disabled)
            }
            (BroadNames::Refused, _) => {
                (format!("{}; {REFUSED}", set.description), RuleState::Disabled)
            }
        };
        rules.push(RuleText {
            name: taken.unique(&format!("{name}-broad")),
            to: broad,
            note: Some(note),
            state,
            broad: allowed,
            ..rule
        });
    }
    rules
}

/// The rule that a set was in a policy file, with what has become of the set since.
fn former_rule(
    set: &EndpointSet,
    rule: &PolicyRule,
    name: String,
    allowed: BroadNames,
) -> RuleText {
    let mut comments = rule.comments.clone();
    if name != rule.name {
        comments.push(format!("called {} in its file", rule.name));
    }
    let mut to = Vec::new();
    let mut covers_suffix = false;
    for text in &set.names {
        match NamePattern::try_from(text.as_str()) {
            Ok(pattern) => {
                covers_suffix |= pattern.breadth() == Breadth::CoversPublicSuffix;
                to.push(pattern.to_string());
            }
            Err(error) => comments.push(format!("left out: {text} ({}): {error}", Why::Broken)),
        }
    }
    to.extend(set.prefixes.iter().map(ToString::to_string));
    if rule.gateway == Stated::Yes {
        to.push("self".to_owned());
    }
    for note in &set.notes {
        let (Note::Finding(text) | Note::Remark(text)) = note;
        comments.push(text.clone());
    }
    let stated = if rule.broad == Stated::Yes { BroadNames::Allowed } else { BroadNames::Refused };
    let (state, broad, note) = match set.state {
        SetState::WithoutPorts | SetState::Disabled => {
            (RuleState::Disabled, stated, rule.note.clone())
        }
        SetState::Enabled if covers_suffix && stated == BroadNames::Refused => match allowed {
            BroadNames::Allowed => (RuleState::Enabled, allowed, Some(set.description.clone())),
            BroadNames::Refused => {
                let note = format!("{}; {REFUSED}", set.description);
                (RuleState::Disabled, stated, Some(note))
            }
        },
        SetState::Enabled => {
            (RuleState::Enabled, stated, rule.note.as_ref().map(|_| set.description.clone()))
        }
    };
    RuleText {
        // Empty lines between others are kept in one text alone.
        comments: if comments.is_empty() { Vec::new() } else { vec![comments.join("\n")] },
        name,
        from: rule.from.clone(),
        to,
        tcp: ranges(&set.ports.tcp),
        udp: ranges(&set.ports.udp),
        echo: if rule.icmp == Stated::Yes { Echo::Allowed } else { Echo::Denied },
        protocols: rule.protocols.iter().filter_map(|text| protocol(text)).collect(),
        note,
        state,
        private: if rule.private == Stated::Yes {
            SpecialPurpose::Allowed
        } else {
            SpecialPurpose::Refused
        },
        broad,
    }
}

fn protocol(text: &str) -> Option<IpProtocol> {
    match text.parse::<u8>() {
        Ok(number) => IpProtocol::try_from(number).ok(),
        Err(_no_number) => IpProtocol::try_from(text).ok(),
    }
}

/// `lines 70-128 · Intune core service · allow, required · 4 names, 90 prefixes`
fn summary(set: &EndpointSet, source: Option<&Source>) -> String {
    let name = source.map(|source| format!("{}, ", source.name)).unwrap_or_default();
    let lines = match set.lines {
        (first, last) if first == last => format!("{name}line {first}"),
        (first, last) => format!("{name}lines {first}-{last}"),
    };
    let mut facts: Vec<String> = Vec::new();
    facts.extend(set.category.map(|category| category.as_str().to_owned()));
    facts.extend(
        set.required
            .as_option()
            .map(|required| if required { "required".to_owned() } else { "optional".to_owned() }),
    );
    if set.express_route.as_option() == Some(true) {
        facts.push("ExpressRoute".to_owned());
    }
    facts.extend(set.group.clone());
    let counts = format!("{} names, {} prefixes", set.names.len(), set.prefixes.len());
    let ports = format!("ports from: {}", set.ports_from.as_str());
    let parts = [lines, set.section.clone(), facts.join(", "), counts, ports];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

fn ranges(spans: &BTreeSet<PortRange>) -> PortRanges {
    spans.iter().copied().collect()
}

/// A unique name for each set, whatever the order of the sets.
fn rule_names(document: &Document, given: Option<&str>, taken: &mut Taken) -> Vec<String> {
    let given = given.map(slug).filter(|given| !given.is_empty());
    let prefixes: Vec<String> = document
        .sources
        .iter()
        .map(|source| given.clone().unwrap_or_else(|| prefix(source)))
        .collect();
    let bases: Vec<String> = document
        .endpoint_sets
        .iter()
        .map(|set| {
            if let Some(rule) = &set.rule {
                return rule.name.clone();
            }
            let prefix = prefixes.get(set.source).map_or("imported", String::as_str);
            let format = document.sources.get(set.source).map(|source| source.format);
            match (set.id, format) {
                (Some(id), _) => format!("{prefix}-{id}"),
                // A service tag has a name of its own.
                (None, Some(Format::ServiceTags)) if given.is_none() => slug(&set.description),
                (None, Some(Format::ServiceTags)) => {
                    joined(prefix, &slug(&set.description), MAX_NAME)
                }
                (None, _) => named_after_section(prefix, set),
            }
        })
        .map(|base| if base.is_empty() { "imported".to_owned() } else { base })
        .collect();
    // A rule keeps its name, and what is named here goes round it.
    let former: Vec<Option<String>> = document
        .endpoint_sets
        .iter()
        .map(|set| set.rule.as_ref().map(|rule| taken.unique(&rule.name)))
        .collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for base in &bases {
        *uses.entry(base).or_insert(0) += 1;
    }
    bases
        .iter()
        .zip(&document.endpoint_sets)
        .zip(former)
        .map(|((base, set), former)| {
            if let Some(name) = former {
                name
            } else if uses.get(base.as_str()).is_some_and(|uses| *uses > 1) {
                taken.unique(&joined(base, &ports_slug(&set.ports), 24))
            } else {
                taken.unique(base)
            }
        })
        .collect()
}

fn named_after_section(prefix: &str, set: &EndpointSet) -> String {
    let section = slug(&set.section);
    let section = FILLERS
        .iter()
        .find_map(|filler| section.strip_prefix(filler))
        .filter(|rest| !rest.is_empty())
        .unwrap_or(&section)
        .to_owned();
    let base = if section.is_empty() { prefix.to_owned() } else { format!("{prefix}-{section}") };
    match &set.group {
        Some(group) => joined(&base, &slug(group), 24),
        // The rows of a table without numbers have only their descriptions to tell them apart.
        None if !section.is_empty() && set.description != set.section => {
            joined(&base, &slug(&set.description), 24)
        }
        None => joined(&base, "", 24),
    }
}

/// Two slugs as one name, the first cut at a word so that the second fits.
fn joined(base: &str, end: &str, longest_end: usize) -> String {
    // What comes behind may still need room: "-tcp-80-443", "-broad", "-12".
    let room = MAX_NAME - 12;
    let longest_end = longest_end.min(room - 8);
    let end = match end.get(..longest_end).and_then(|cut| cut.rsplit_once('-')) {
        Some((front, _)) if end.len() > longest_end => front.to_owned(),
        _ => end.chars().take(longest_end).collect::<String>(),
    };
    let room = room - if end.is_empty() { 0 } else { end.len() + 1 };
    let mut cut = base;
    while cut.len() > room {
        cut = match cut.rsplit_once('-') {
            Some((front, _)) => front,
            None => cut.get(..room).unwrap_or_default(),
        };
    }
    let name = if end.is_empty() { cut.to_owned() } else { format!("{cut}-{end}") };
    name.trim_matches('-').to_owned()
}

fn ports_slug(ports: &PortSet) -> String {
    if ports.is_empty() { "no-ports".to_owned() } else { slug(&ports.to_string()) }
}

// === impl Taken ===

impl Taken {
    /// The name, or the name with the first number that makes it a new one.
    fn unique(&mut self, name: &str) -> String {
        let mut candidate: String = name.chars().take(MAX_NAME).collect();
        let next = self.next.entry(candidate.clone()).or_insert(2);
        while !self.names.insert(candidate.clone()) {
            let end = format!("-{next}");
            let front: String = name.chars().take(MAX_NAME - end.len()).collect();
            candidate = format!("{front}{end}");
            *next += 1;
        }
        candidate
    }
}

/// What the names of an input's rules begin with. For a page, the product that it is about: what
/// comes behind "Microsoft" in its title, or the first words of that.
fn prefix(source: &Source) -> String {
    match source.format {
        Format::Page | Format::Policy => {}
        Format::M365Json => return "m365".to_owned(),
        Format::ServiceTags => return "azure".to_owned(),
        Format::List => {
            let stem = source.name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
            return Some(slug(stem))
                .filter(|stem| !stem.is_empty())
                .unwrap_or("imported".to_owned());
        }
    }
    let title = slug(source.title.as_deref().unwrap_or_default());
    let mut words = title.split('-').skip_while(|word| *word != "microsoft").skip(1);
    match (words.next(), title.is_empty()) {
        (Some(word), _) => word.to_owned(),
        (None, false) => title.split('-').take(2).collect::<Vec<_>>().join("-"),
        (None, true) => "imported".to_owned(),
    }
}

/// Lower-case ASCII letters and digits with single dashes between.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for character in text.chars() {
        // A name has room for no more.
        if slug.len() > 48 {
            break;
        }
        if character.is_ascii_alphanumeric() {
            slug.push(character.to_ascii_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    slug.get(..48.min(slug.len())).unwrap_or(slug).to_owned()
}

#[cfg(test)]
mod tests;
