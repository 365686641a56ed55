// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sentences say about the tokens in them. Sentences grant nothing.

use std::ops::Range;

use super::{
    Note, Why,
    token::{Capital, Kind, Token},
    words,
};

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

/// Whether a sentence's ports are those of a list of endpoints.
pub(super) fn gives_ports(sentence: &str) -> bool {
    !words::is_proxy(sentence) && !words::is_peer_to_peer(sentence) && !words::is_closing(sentence)
}

/// A text without the `[!NOTE]` in front of it, its brackets gone already.
pub(super) fn without_alert(text: &str) -> &str {
    ["!NOTE", "!IMPORTANT", "!TIP", "!CAUTION", "!WARNING"]
        .iter()
        .find_map(|alert| text.strip_prefix(alert))
        .unwrap_or(text)
        .trim_start()
}

/// What the paragraph in front of a list says about it.
pub(super) fn lead(paragraph: &str) -> Lead {
    let paragraph = paragraph.trim_end();
    if !paragraph.ends_with([':', '：']) {
        return Lead::Endpoints;
    }
    let last = sentences(paragraph).pop().and_then(|range| paragraph.get(range));
    let Some(sentence) = last else { return Lead::Endpoints };
    if words::is_refusal(sentence) {
        Lead::Other(Why::Mention)
    } else if words::is_inspection(sentence) && !words::is_allowing(sentence) {
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

/// What the words around a token are about; settled once for all tokens among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Migration,
    Inspection,
    Anything,
}

/// What a sentence is about.
pub(super) fn topic(sentence: &str) -> Topic {
    if words::is_migration(sentence) {
        Topic::Migration
    } else if words::is_inspection(sentence) {
        Topic::Inspection
    } else {
        Topic::Anything
    }
}

/// Why a token in a sentence is in no set; `None` where it is only a word with dots.
pub(super) fn why(token: &Token, topic: Topic) -> Option<Why> {
    let mentioned = match (&token.kind, topic) {
        (Kind::Dotted, _) => return None,
        (Kind::FileName, _) => Why::FileName,
        (Kind::ServiceTag, _) => Why::ServiceTag,
        (Kind::Placeholder, _) => Why::Placeholder,
        (Kind::Broken, _) => Why::Broken,
        (Kind::Email, _) => Why::Mention,
        (Kind::Name | Kind::Url(_) | Kind::Net(_), Topic::Migration) => Why::MigrationNotice,
        (Kind::Name | Kind::Url(_) | Kind::Net(_), Topic::Inspection) => Why::Inspection,
        (Kind::Url(url), Topic::Anything) if url.path.is_some() => Why::Documentation,
        (Kind::Name, Topic::Anything)
            if token.capital == Capital::Yes && token.text.matches('.').count() == 1 =>
        {
            Why::ProductName
        }
        (Kind::Name | Kind::Url(_) | Kind::Net(_), Topic::Anything) => Why::Mention,
    };
    Some(mentioned)
}

/// How many words a text has; a few characters of a script without blanks are one.
pub(super) fn words_in(text: &str) -> usize {
    let wide = text.chars().filter(|c| *c >= '\u{2e80}' && c.is_alphanumeric()).count();
    let words = text
        .split_whitespace()
        .filter(|word| word.chars().any(|c| c.is_alphanumeric() && c < '\u{2e80}'));
    words.count() + wide.div_ceil(3)
}

/// A piece of Markdown as plain text: no markup, no targets of links, single blanks.
pub(super) fn plain(markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some(character) = rest.chars().next() {
        let skipped = match character {
            '<' => tag_length(rest),
            ']' => target_length(rest),
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
    let mut plain = String::with_capacity(text.len());
    for word in lines.flat_map(str::split_whitespace) {
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.push_str(word);
    }
    plain
}

/// The length of an HTML tag at the start of a text.
fn tag_length(text: &str) -> Option<usize> {
    let end = 1 + find_before(text.get(1..)?, '>', &['<', '\n'])?;
    let inside = text.get(1..end)?.trim_matches(['/', ' ']);
    let name = inside.split_ascii_whitespace().next()?;
    (["br", "p", "a", "b", "i", "em", "strong", "code", "sup", "sub", "span", "li", "ul"])
        .iter()
        .any(|tag| name.eq_ignore_ascii_case(tag))
        .then_some(end + 1)
}

/// The length of `](target)` at the start of a text.
fn target_length(text: &str) -> Option<usize> {
    text.strip_prefix("](")
        .and_then(|target| find_before(target, ')', &['[', ']', '\n']))
        .map(|end| end + 3)
}

/// Where a character stands before any of some others; those keep the search linear.
fn find_before(text: &str, wanted: char, others: &[char]) -> Option<usize> {
    let found = text.find(|character| character == wanted || others.contains(&character))?;
    text.get(found..)?.starts_with(wanted).then_some(found)
}
