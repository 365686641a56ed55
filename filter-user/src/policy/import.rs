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
    NamePattern, PortRange, PortRanges, RuleState,
    name::Breadth,
    render::{RuleText, render_rule},
};
use crate::document::{Document, EndpointSet, Note, PortSet, PortSpan, SetState, Why};

/// How rules are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the rules' names begin with; from the page's title where there is none.
    pub prefix: Option<String>,
}

/// What the file says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The command that makes the file.
    pub command: String,
}

/// The longest name of a rule.
const MAX_NAME: usize = 63;

/// Phrases in front of what a section is about.
const FILLERS: [&str; 3] = ["network-requirements-for-", "requirements-for-", "endpoints-for-"];

/// A policy file with the rules of a page.
///
/// It has no time and no state in it: the same document gives the same text.
#[must_use]
pub fn policy_file(document: &Document, options: &Options, header: &Header) -> String {
    let prefix = match &options.prefix {
        Some(prefix) => slug(prefix),
        None => prefix(document),
    };
    let names = rule_names(document, &prefix);
    let mut taken: BTreeSet<String> = names.iter().cloned().collect();
    let rules: Vec<RuleText> = document
        .endpoint_sets
        .iter()
        .zip(names)
        .flat_map(|(set, name)| rules(set, name, &mut taken))
        .collect();
    let mut text = head(document, header, &rules);
    for rule in &rules {
        text.push('\n');
        text.push_str(&render_rule(rule));
    }
    text
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
        .map(|source| {
            let page = source.title.as_deref().unwrap_or(&source.name);
            let date = source.date.as_ref().map(|date| format!(", {date}")).unwrap_or_default();
            format!("{page}{date}")
        })
        .collect();
    lines.extend([
        format!("Made by `{}`", header.command),
        format!(
            "{} endpoint sets, {} rules ({disabled} disabled), {} names, {v4} IPv4 and {} IPv6 prefixes",
            document.endpoint_sets.len(),
            rules.len(),
            names.len(),
            prefixes.len() - v4
        ),
    ]);
    if !left_out.is_empty() {
        lines.push(format!("left out: {}", left_out.join(", ")));
    }
    lines.extend(
        document.warnings.iter().map(|warning| format!("line {}: {}", warning.line, warning.text)),
    );
    let mut text = String::new();
    for line in lines {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Writing to a string can't fail.
        let _ = writeln!(text, "# {line}");
    }
    text
}

/// The rules of a set: one, and one more for names that a policy has to be told to grant.
fn rules(set: &EndpointSet, name: String, taken: &mut BTreeSet<String>) -> Vec<RuleText> {
    let mut usable = Vec::new();
    let mut broad = Vec::new();
    let mut comments = vec![summary(set)];
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
        1 => comments.push("the page has a remark on it; see `sluice import --json`".to_owned()),
        more => {
            comments.push(format!("the page has {more} remarks on it; see `sluice import --json`"))
        }
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
    let mut rules = Vec::new();
    if !broad.is_empty() {
        let note = format!(
            "{}; disabled: anybody can get a name that these patterns cover",
            set.description
        );
        rules.push(RuleText {
            name: unique(&format!("{name}-broad"), taken),
            to: broad,
            note: Some(note),
            state: RuleState::Disabled,
            ..rule.clone()
        });
    }
    if !rule.to.is_empty() {
        rules.insert(
            0,
            match set.state {
                SetState::Enabled => rule,
                SetState::WithoutPorts => RuleText {
                    note: Some(format!("{}; disabled: the page gives no ports", set.description)),
                    state: RuleState::Disabled,
                    ..rule
                },
            },
        );
    }
    rules
}

/// `lines 70-128 · Intune core service · allow, required · 4 names, 90 prefixes`
fn summary(set: &EndpointSet) -> String {
    let lines = match set.lines {
        (first, last) if first == last => format!("line {first}"),
        (first, last) => format!("lines {first}-{last}"),
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

fn ranges(spans: &BTreeSet<PortSpan>) -> PortRanges {
    spans.iter().filter_map(|span| PortRange::new(span.first(), span.last())).collect()
}

/// A unique name for each set, whatever the order of the sets.
fn rule_names(document: &Document, prefix: &str) -> Vec<String> {
    let bases: Vec<String> = document
        .endpoint_sets
        .iter()
        .map(|set| match set.id {
            Some(id) => format!("{prefix}-{id}"),
            None => named_after_section(prefix, set),
        })
        .collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for base in &bases {
        *uses.entry(base).or_insert(0) += 1;
    }
    let mut taken = BTreeSet::new();
    bases
        .iter()
        .zip(&document.endpoint_sets)
        .map(|(base, set)| {
            if uses.get(base.as_str()).is_some_and(|uses| *uses > 1) {
                unique(&joined(base, &ports_slug(&set.ports)), &mut taken)
            } else {
                unique(base, &mut taken)
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
        Some(group) => joined(&base, &slug(group)),
        None => joined(&base, ""),
    }
}

/// Two slugs as one name, the first cut at a word so that the second fits.
fn joined(base: &str, end: &str) -> String {
    // What comes behind may still need room: "-tcp-80-443", "-broad", "-12".
    let end: String = end.chars().take(24).collect();
    let room = MAX_NAME - 12 - if end.is_empty() { 0 } else { end.len() + 1 };
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

fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut candidate: String = name.chars().take(MAX_NAME).collect();
    let mut number = 2_u32;
    while !taken.insert(candidate.clone()) {
        let end = format!("-{number}");
        let front: String = name.chars().take(MAX_NAME - end.len()).collect();
        candidate = format!("{front}{end}");
        number += 1;
    }
    candidate
}

/// The product that a page is about: what comes behind "Microsoft" in its title, or its first words.
fn prefix(document: &Document) -> String {
    let title = document.sources.first().and_then(|source| source.title.as_deref());
    let title = slug(title.unwrap_or_default());
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
