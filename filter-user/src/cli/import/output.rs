// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `--json` and `--report` print.

use std::fmt::Write as _;

use serde::Serialize;

use crate::document::{
    Document, EndpointSet, Note, PolicyRule, PortRange, SetState, Source, Stated,
};

/// `FILE:LINE  TOKEN  where it went`, in the order of the inputs.
pub(super) fn report(document: &Document) -> String {
    let mut lines: Vec<(usize, u32, &str, String)> = Vec::with_capacity(document.imported.len());
    for token in &document.imported {
        let set = document.endpoint_sets.get(token.set);
        let set = set.map_or_else(String::new, |set| match (set.id, &set.group) {
            (Some(id), _) => format!("imported: {id} {}", set.description),
            (None, Some(group)) => format!("imported: {} ({group})", titled(set)),
            (None, None) => format!("imported: {}", titled(set)),
        });
        lines.push((token.source, token.line, &token.token, set));
    }
    for token in &document.left_out {
        let went = format!("left out: {}", token.why);
        lines.push((token.source, token.line, &token.token, went));
    }
    lines.sort();
    let width =
        lines.iter().map(|(_, _, token, _)| token.chars().count()).max().unwrap_or(0).min(60);
    let mut text = String::new();
    for (source, line, token, went) in &lines {
        let name = source_name(document, *source);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name}:{line:<5} {token:<width$}  {went}");
    }
    text.push_str(&format!("{} imported", document.imported.len()));
    for (why, count) in document.left_out_by_reason() {
        text.push_str(&format!(", {count} {why}"));
    }
    text.push('\n');
    text
}

/// What an input is called.
pub(super) fn source_name(document: &Document, index: usize) -> &str {
    document.sources.get(index).map_or("-", |source| source.name.as_str())
}

fn titled(set: &EndpointSet) -> &str {
    if set.section.is_empty() { &set.description } else { &set.section }
}

// The names and the order of these fields are stable.

#[derive(Serialize)]
pub(super) struct JsonDocument<'a> {
    format: &'a str,
    sources: Vec<JsonSource<'a>>,
    endpoint_sets: Vec<JsonSet<'a>>,
    left_out: Vec<JsonLeftOut<'a>>,
    warnings: Vec<JsonWarning<'a>>,
}

#[derive(Serialize)]
struct JsonSource<'a> {
    name: &'a str,
    format: &'a str,
    title: Option<&'a str>,
    date: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonSet<'a> {
    source: usize,
    id: Option<u32>,
    section: &'a str,
    description: &'a str,
    category: Option<&'a str>,
    required: Option<bool>,
    express_route: Option<bool>,
    group: Option<&'a str>,
    names: &'a [String],
    prefixes: &'a [ipnet::IpNet],
    tcp: Vec<String>,
    udp: Vec<String>,
    ports_from: &'a str,
    enabled: bool,
    lines: [u32; 2],
    notes: &'a [Note],
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<JsonRule<'a>>,
}

/// What the rule of a policy file says beyond the set.
#[derive(Serialize)]
struct JsonRule<'a> {
    name: &'a str,
    from: &'a [String],
    #[serde(rename = "self")]
    gateway: bool,
    icmp: bool,
    proto: &'a [String],
    private: bool,
    broad: bool,
}

#[derive(Serialize)]
struct JsonLeftOut<'a> {
    source: usize,
    line: u32,
    token: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct JsonWarning<'a> {
    source: usize,
    line: u32,
    text: &'a str,
}

pub(super) fn json(document: &Document) -> JsonDocument<'_> {
    let left_out = document.left_out.iter().map(|token| JsonLeftOut {
        source: token.source,
        line: token.line,
        token: &token.token,
        why: token.why.as_str(),
    });
    let warnings = document.warnings.iter().map(|warning| JsonWarning {
        source: warning.source,
        line: warning.line,
        text: &warning.text,
    });
    JsonDocument {
        format: format(document),
        sources: document.sources.iter().map(json_source).collect(),
        endpoint_sets: document.endpoint_sets.iter().map(json_set).collect(),
        left_out: left_out.collect(),
        warnings: warnings.collect(),
    }
}

/// The format of all inputs, if they have one in common.
fn format(document: &Document) -> &'static str {
    let mut formats = document.sources.iter().map(|source| source.format);
    let first = formats.next();
    match first {
        Some(first) if formats.all(|format| format == first) => first.as_str(),
        _ => "mixed",
    }
}

fn json_source(source: &Source) -> JsonSource<'_> {
    JsonSource {
        name: &source.name,
        format: source.format.as_str(),
        title: source.title.as_deref(),
        date: source.date.as_deref(),
    }
}

fn json_set(set: &EndpointSet) -> JsonSet<'_> {
    JsonSet {
        source: set.source,
        id: set.id,
        section: &set.section,
        description: &set.description,
        category: set.category.map(|category| category.as_str()),
        required: set.required.as_option(),
        express_route: set.express_route.as_option(),
        group: set.group.as_deref(),
        names: &set.names,
        prefixes: &set.prefixes,
        tcp: set.ports.tcp.iter().map(PortRange::to_string).collect(),
        udp: set.ports.udp.iter().map(PortRange::to_string).collect(),
        ports_from: set.ports_from.as_str(),
        enabled: set.state == SetState::Enabled,
        lines: [set.lines.0, set.lines.1],
        notes: &set.notes,
        rule: set.rule.as_deref().map(json_rule),
    }
}

fn json_rule(rule: &PolicyRule) -> JsonRule<'_> {
    JsonRule {
        name: &rule.name,
        from: &rule.from,
        gateway: rule.gateway == Stated::Yes,
        icmp: rule.icmp == Stated::Yes,
        proto: &rule.protocols,
        private: rule.private == Stated::Yes,
        broad: rule.broad == Stated::Yes,
    }
}
