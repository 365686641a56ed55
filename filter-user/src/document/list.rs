// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bullet lists, fenced lists and paragraphs that are nothing but endpoints.

use std::ops::Range;

use super::{
    PortsFrom, Why,
    assemble::{Draft, DraftKind, Fate, Reader},
    ports::{self, Reading},
    prose::{self, Lead},
    token::Kind,
};

/// What may stand around and between the endpoints of a list.
const SEPARATORS: &str = "`'\"‘’“”„«»,;、，；()[]|- >";

/// A list item: endpoints first, then perhaps what they are for.
pub(super) fn item(reader: &mut Reader<'_>, range: &Range<usize>) {
    let tokens = reader.pending(range);
    let mut members = Vec::new();
    let mut end = range.start;
    for index in tokens {
        let Some(token) = reader.tokens.get(index) else { continue };
        if !reader.is_separator(end..token.range.start) {
            break;
        }
        end = token.range.end;
        members.push(index);
    }
    let rest = reader.slice(&(end..range.end)).to_owned();
    let own_ports = ports::read(&rest, Reading::Sentence).ports;
    let mut draft = reader.draft(DraftKind::List);
    if !own_ports.is_empty() {
        draft.ports = Some((own_ports, PortsFrom::Row));
    }
    claim(reader, draft, members);
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
        let draft = reader.draft(DraftKind::Consolidated);
        claim(reader, draft, members);
    }
    reader.prose(range);
}

/// A paragraph: a list where each of its lines is an endpoint.
pub(super) fn paragraph(reader: &mut Reader<'_>, range: &Range<usize>) -> Claimed {
    let mut members = Vec::new();
    for line in reader.lines_of(range) {
        match endpoints_only(reader, &line) {
            Some(tokens) => members.extend(tokens),
            None => return Claimed::No,
        }
    }
    let draft = reader.draft(DraftKind::List);
    claim(reader, draft, members);
    Claimed::Yes
}

/// Whether a paragraph was a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    Yes,
    No,
}

/// The tokens of a line, where there is nothing else on it.
fn endpoints_only(reader: &Reader<'_>, line: &Range<usize>) -> Option<Vec<usize>> {
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

fn claim(reader: &mut Reader<'_>, mut draft: Draft, tokens: Vec<usize>) {
    for index in tokens {
        let Some(token) = reader.tokens.get(index) else { continue };
        let (line, path) = (token.line, prose::path_note(token));
        let fate = match (&token.kind, reader.lead) {
            (Kind::Broken, _) => Fate::LeftOut(Why::Broken),
            (Kind::Placeholder, _) => Fate::LeftOut(Why::Placeholder),
            (Kind::Name | Kind::Url(_) | Kind::Net(_), Lead::Other(why)) => Fate::LeftOut(why),
            (Kind::Name | Kind::Url(_) | Kind::Net(_), Lead::Endpoints) => {
                if reader.documentation_section || prose::is_documentation(token) {
                    Fate::LeftOut(Why::Documentation)
                } else {
                    Fate::Member
                }
            }
            (Kind::FileName | Kind::Dotted | Kind::ServiceTag | Kind::Email, _) => continue,
        };
        if fate == Fate::LeftOut(Why::Broken) {
            let text = format!("\"{}\" is no valid endpoint; it is left out", token.text);
            reader.warn(line, text);
        }
        if fate == Fate::Member {
            draft.members.push(index);
            draft.notes.extend(path);
        }
        reader.settle(index, fate);
    }
    reader.add(draft);
}

impl Reader<'_> {
    /// Whether a piece of text says nothing.
    fn is_separator(&self, range: Range<usize>) -> bool {
        prose::plain(self.slice(&range))
            .chars()
            .all(|c| c.is_whitespace() || c == '*' || c == '_' || SEPARATORS.contains(c))
    }
}
