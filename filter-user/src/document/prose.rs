// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sentences say about the tokens in them.
//!
//! The word tables are parts of words, lower case, in the languages that are known. An unknown
//! language costs the exact reason of a token that is left out, never a grant: sentences grant
//! nothing.

use std::ops::Range;

use super::{
    Note, Why,
    token::{Capital, Kind, Token},
};

const MIGRATION: [&str; 9] = [
    "migrat",
    "migrer",
    "migrier",
    "migrar",
    "will move to",
    "will be replaced by",
    "移行",
    "迁移",
    "마이그레이션",
];

const INSPECTION: [&str; 11] = [
    "inspect",
    "inspek",
    "inspecc",
    "inspeç",
    "ispezion",
    "proxy",
    "proxies",
    "decrypt",
    "mandataire",
    "検査",
    "检查",
];

const PROXY: [&str; 4] = ["proxy", "proxies", "mandataire", "プロキシ"];

const ALLOW: [&str; 9] = [
    "allow",
    "firewall",
    "tillåt",
    "brandvägg",
    "autoris",
    "pare-feu",
    "zulassen",
    "permit",
    "许可",
];

const REFUSAL: [&str; 7] = [
    "no longer",
    "not required",
    "isn't required",
    "aren't required",
    "deprecated",
    "are blocked",
    "must be blocked",
];

const PEER_TO_PEER: [&str; 5] = ["peer-to-peer", "peer to peer", "p2p", "teredo", "pair à pair"];

const DOCUMENTATION_HEADINGS: [&str; 9] = [
    "related content",
    "related articles",
    "next steps",
    "see also",
    "additional resources",
    "nästa steg",
    "étapes suivantes",
    "nächste schritte",
    "voir aussi",
];

const DOCUMENTATION_HOSTS: [&str; 8] = [
    "docs.microsoft.com",
    "learn.microsoft.com",
    "support.microsoft.com",
    "support.office.com",
    "support.apple.com",
    "support.google.com",
    "techcommunity.microsoft.com",
    "aka.ms",
];

/// What a paragraph in front of a list makes of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// It may be a list of endpoints.
    Endpoints,
    /// It is about something else.
    Other(Why),
}

/// The sentences of a text, as ranges of it.
pub(super) fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        let blank_next = characters.peek().is_none_or(|(_, next)| next.is_whitespace());
        let ends = matches!(character, '。' | '！' | '？')
            || (matches!(character, '.' | '!' | '?') && blank_next);
        if ends {
            let end = offset + character.len_utf8();
            sentences.push(start..end);
            start = end;
        }
    }
    if start < text.len() {
        sentences.push(start..text.len());
    }
    sentences
}

pub(super) fn is_migration(text: &str) -> bool {
    has(text, &MIGRATION)
}

pub(super) fn is_inspection(text: &str) -> bool {
    has(text, &INSPECTION)
}

/// Whether a sentence's ports are those of a list of endpoints.
pub(super) fn gives_ports(sentence: &str) -> bool {
    !has(sentence, &PROXY) && !is_peer_to_peer(sentence)
}

pub(super) fn is_peer_to_peer(sentence: &str) -> bool {
    has(sentence, &PEER_TO_PEER)
}

/// Whether a sentence only says where to read on.
pub(super) fn is_reference(sentence: &str) -> bool {
    has(sentence, &["for more information", "plus d'informations", "mer information"])
}

/// A text without the `[!NOTE]` in front of it, its brackets gone already.
pub(super) fn without_alert(text: &str) -> &str {
    ["!NOTE", "!IMPORTANT", "!TIP", "!CAUTION", "!WARNING"]
        .iter()
        .find_map(|alert| text.strip_prefix(alert))
        .unwrap_or(text)
        .trim_start()
}

pub(super) fn is_documentation_heading(heading: &str) -> bool {
    has(heading, &DOCUMENTATION_HEADINGS)
}

/// What the paragraph in front of a list says about it.
pub(super) fn lead(paragraph: &str) -> Lead {
    let paragraph = paragraph.trim_end();
    if !paragraph.ends_with([':', '：']) {
        return Lead::Endpoints;
    }
    let last = sentences(paragraph).pop().and_then(|range| paragraph.get(range));
    let Some(sentence) = last else { return Lead::Endpoints };
    if has(sentence, &REFUSAL) {
        Lead::Other(Why::Mention)
    } else if is_inspection(sentence) && !has(sentence, &ALLOW) {
        Lead::Other(Why::Inspection)
    } else {
        Lead::Endpoints
    }
}

/// Whether a token points to documentation or a download rather than to a service.
pub(super) fn is_documentation(token: &Token) -> bool {
    let Kind::Url(url) = &token.kind else { return false };
    let Some(path) = url.path.as_deref().map(str::to_lowercase) else { return false };
    DOCUMENTATION_HOSTS.contains(&token.text.as_str())
        || ["/fwlink", "/download/", "/docs/", "/documentation/", ".aspx", ".htm", ".pdf", ".md"]
            .iter()
            .any(|part| path.contains(part))
}

/// A note on the path of a URL, which is invisible at this layer.
pub(super) fn path_note(token: &Token) -> Option<Note> {
    let Kind::Url(url) = &token.kind else { return None };
    let path = url.path.as_deref()?;
    let text = format!("{}: the path {path} can't be enforced at this layer", token.text);
    Some(Note::Finding(text))
}

/// Why a token in a sentence is in no set; `None` where it is only a word with dots.
pub(super) fn why(token: &Token, sentence: &str) -> Option<Why> {
    Some(match &token.kind {
        Kind::Dotted => return None,
        Kind::FileName => Why::FileName,
        Kind::ServiceTag => Why::ServiceTag,
        Kind::Placeholder => Why::Placeholder,
        Kind::Broken => Why::Broken,
        Kind::Email => Why::Mention,
        Kind::Name | Kind::Url(_) | Kind::Net(_) if is_migration(sentence) => Why::MigrationNotice,
        Kind::Name | Kind::Url(_) | Kind::Net(_) if is_inspection(sentence) => Why::Inspection,
        Kind::Url(url) if url.path.is_some() => Why::Documentation,
        Kind::Name if token.capital == Capital::Yes && token.text.matches('.').count() == 1 => {
            Why::ProductName
        }
        Kind::Name | Kind::Url(_) | Kind::Net(_) => Why::Mention,
    })
}

/// A piece of Markdown as plain text: no markup, no targets of links, single blanks.
pub(super) fn plain(markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some(character) = rest.chars().next() {
        let skipped = match character {
            '<' => tag_length(rest),
            ']' => rest.strip_prefix("](").and_then(|target| target.find(')')).map(|end| end + 3),
            _ => None,
        };
        if let Some(length) = skipped {
            if character == '<' {
                text.push(' ');
            }
            rest = rest.get(length..).unwrap_or_default();
            continue;
        }
        let escaped = rest
            .strip_prefix('\\')
            .and_then(|rest| rest.chars().next())
            .filter(char::is_ascii_punctuation);
        if let Some(character) = escaped {
            text.push(character);
            rest = rest.get(2..).unwrap_or_default();
            continue;
        }
        // A single star may be a wildcard's.
        if rest.starts_with("**") {
            rest = rest.get(2..).unwrap_or_default();
            continue;
        }
        if !matches!(character, '`' | '[' | ']') {
            text.push(character);
        }
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
    }
    let lines = text.lines().map(|line| line.trim_start_matches([' ', '>']));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// The length of an HTML tag at the start of a text.
fn tag_length(text: &str) -> Option<usize> {
    let end = text.find('>')?;
    let inside = text.get(1..end)?.trim_matches(['/', ' ']);
    let name = inside.split_ascii_whitespace().next()?;
    (["br", "p", "a", "b", "i", "em", "strong", "code", "sup", "sub", "span", "li", "ul"])
        .iter()
        .any(|tag| name.eq_ignore_ascii_case(tag))
        .then_some(end + 1)
}

fn has(text: &str, parts: &[&str]) -> bool {
    let lower = text.to_lowercase();
    parts.iter().any(|part| lower.contains(part))
}
