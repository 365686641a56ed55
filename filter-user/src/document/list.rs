// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bullet lists, fenced lists and paragraphs that are nothing but endpoints.

use std::ops::Range;

use super::{
    PortsFrom,
    assemble::{DraftKind, Reader},
    endpoints::{self, Listed, Place},
    ports::{self, Reading},
    prose,
    token::Kind,
};

/// What may stand around and between the endpoints of a list.
const SEPARATORS: &str = "`'\"‘’“”„‚‹›«»「」『』【】《》〈〉,;、，；،。()（）[]|- >–—";

/// A list item: endpoints first or behind a colon, then perhaps what they are for.
pub(super) fn item(reader: &mut Reader<'_>, range: &Range<usize>) {
    let remarks = endpoints::remarks(reader.slice(range), range.start);
    let listed: Vec<usize> = endpoints::walk(reader, range, &remarks, Place::Item)
        .into_iter()
        .take_while(|(_, listed)| *listed == Listed::Yes)
        .map(|(index, _)| index)
        .collect();
    let first = listed.first().and_then(|index| reader.tokens.get(*index));
    let last = listed.last().and_then(|index| reader.tokens.get(*index));
    let (Some(first), Some(last)) = (first, last) else {
        reader.prose(range);
        return;
    };
    let before = reader.slice(&(range.start..first.range.start));
    let words = prose::plain(before);
    // A label that speaks of inspection or of a move says what the endpoints are not for.
    if prose::words_in(&words) > 0 && prose::lead(&words) != prose::Lead::Endpoints {
        reader.prose(range);
        return;
    }
    let behind = reader.slice(&(last.range.end..range.end));
    let mut own_ports = ports::read(behind, Reading::Sentence).ports;
    own_ports.extend(&ports::read(before, Reading::Sentence).ports);
    let mut draft = reader.draft(DraftKind::List);
    if !own_ports.is_empty() {
        draft.ports = Some((own_ports, PortsFrom::Row));
    }
    let numbers = reader.numbers_in(range);
    for index in listed {
        if reader.is_endpoint_like(index) {
            endpoints::claim(reader, &mut draft, index, numbers.clone());
        }
    }
    reader.add(draft);
    reader.prose(range);
}

/// A fenced block: a list where most of its lines are endpoints, else code.
pub(super) fn fence(reader: &mut Reader<'_>, range: &Range<usize>) {
    let lines = reader.lines_of(range);
    let mut filled = 0;
    let mut members = Vec::new();
    let mut pure = 0;
    let mut others = Vec::new();
    for line in lines {
        let text = reader.slice(&line).trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        filled += 1;
        match endpoints_only(reader, &line) {
            Some(tokens) => {
                pure += 1;
                members.extend(tokens);
            }
            None => others.push(line),
        }
    }
    if pure * 2 > filled {
        for line in others {
            let text = reader.slice(&line).trim().to_owned();
            let number = reader.line(line.start);
            reader.warn(number, format!("\"{text}\" is no endpoint; the line is left out"));
        }
        claim(reader, DraftKind::Consolidated, members);
    }
    reader.prose(range);
}

/// A paragraph: a list where each of its lines is an endpoint.
pub(super) fn paragraph(reader: &mut Reader<'_>, range: &Range<usize>) -> Claimed {
    let mut members = Vec::new();
    let mut lines = 0;
    for line in reader.lines_of(range) {
        match endpoints_only(reader, &line) {
            Some(tokens) => members.extend(tokens),
            None => return Claimed::No,
        }
        lines += 1;
    }
    // A copy of a page has no fences around its long lists.
    let kind = if lines >= FENCED { DraftKind::Consolidated } else { DraftKind::List };
    claim(reader, kind, members);
    Claimed::Yes
}

/// The least lines of a list that a page would put a fence around.
const FENCED: usize = 10;

/// Whether a paragraph was a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    Yes,
    No,
}

/// The tokens of a line, where there is nothing else on it.
pub(super) fn endpoints_only(reader: &Reader<'_>, line: &Range<usize>) -> Option<Vec<usize>> {
    let tokens = reader.pending(line);
    let mut end = line.start;
    for index in &tokens {
        let token = reader.tokens.get(*index)?;
        if matches!(token.kind, Kind::FileName | Kind::Dotted | Kind::ServiceTag) {
            return None;
        }
        if !reader.is_separator(end..token.range.start) {
            return None;
        }
        end = token.range.end;
    }
    (!tokens.is_empty() && reader.is_separator(end..line.end)).then_some(tokens)
}

fn claim(reader: &mut Reader<'_>, kind: DraftKind, tokens: Vec<usize>) {
    let mut draft = reader.draft(kind);
    for index in tokens {
        if reader.is_endpoint_like(index) {
            endpoints::claim(reader, &mut draft, index, None);
        }
    }
    reader.add(draft);
}

impl Reader<'_> {
    /// Whether a piece of text says nothing.
    pub(super) fn is_separator(&self, range: Range<usize>) -> bool {
        prose::plain(self.slice(&range))
            .chars()
            .all(|c| c.is_whitespace() || c == '*' || c == '_' || SEPARATORS.contains(c))
    }

    /// Whether a token is more than a word of a sentence.
    fn is_endpoint_like(&self, index: usize) -> bool {
        self.tokens.get(index).is_some_and(|token| {
            !matches!(token.kind, Kind::FileName | Kind::Dotted | Kind::ServiceTag | Kind::Email)
        })
    }
}
