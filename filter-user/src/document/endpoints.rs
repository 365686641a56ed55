// SPDX-License-Identifier: MIT OR Apache-2.0
//! The endpoints of a cell or a list item, told from those that the words around them mention.

use std::ops::{Range, RangeInclusive};

use super::{
    Note, Why,
    assemble::{Draft, Fate, Reader},
    prose::{self, Lead, Topic},
    template,
    token::{self, Kind},
    words,
};

/// Where a piece stands, and so how much it takes for a token to be one of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A cell of a column with addresses: a label may stand in front of them.
    Cell,
    /// A list item: they come first, or behind a colon.
    Item,
}

/// The most words of a label without a colon.
const LABEL: usize = 2;

/// Reads a cell with endpoints: its pieces between line breaks, with remarks in brackets.
pub(super) fn cell(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    cell: &Range<usize>,
    numbers: Option<RangeInclusive<u32>>,
) {
    for piece in pieces(reader.slice(cell), cell.start) {
        let text = reader.slice(&piece);
        let remarks = remarks(text, piece.start);
        let mut last: Option<(usize, String)> = None;
        for (index, listed) in walk(reader, &piece, &remarks, Place::Cell) {
            match listed {
                Listed::Yes => {
                    if claim(reader, draft, index, numbers.clone())
                        && let Some(token) = reader.tokens.get(index)
                    {
                        last = Some((token.range.end, token.text.clone()));
                    }
                }
                Listed::No(topic) => {
                    let Some(token) = reader.tokens.get(index) else { continue };
                    let why = prose::why(token, topic);
                    if why == Some(Why::Mention) {
                        let text = format!(
                            "\"{}\" stands among other words in the cell; it is left out",
                            token.text
                        );
                        reader.warn(token.line, text);
                    }
                    let fate = why.map_or(Fate::Word, Fate::LeftOut);
                    reader.settle(index, fate);
                }
            }
        }
        for remark in &remarks {
            let said = prose::plain(reader.slice(remark).trim_matches(['(', ')', '（', '）']));
            let glued = last.as_ref().filter(|(end, _)| {
                *end <= remark.start
                    && reader
                        .slice(&(*end..remark.start))
                        .chars()
                        .all(|c| c.is_whitespace() || c == '`')
            });
            draft.notes.push(match glued {
                Some((_, name)) => Note::Remark(format!("{name}: {said}")),
                _ => Note::Remark(said),
            });
        }
    }
}

/// Whether a token is one of the endpoints that its piece lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Yes,
    /// It stands among words about something.
    No(Topic),
}

/// A token of a piece, with the words around it.
struct Placed {
    index: usize,
    /// The remark that it stands in.
    remark: Option<Range<usize>>,
    /// The words between it and the token before, those of remarks left out.
    before: String,
}

/// Tells the endpoints of a piece from the tokens that its words mention.
pub(super) fn walk(
    reader: &Reader<'_>,
    piece: &Range<usize>,
    remarks: &[Range<usize>],
    place: Place,
) -> Vec<(usize, Listed)> {
    let (tokens, rest) = placed(reader, piece, remarks);
    let mut listed = Vec::with_capacity(tokens.len());
    let mut open = true;
    let mut first = true;
    let mut remarked: Option<(Range<usize>, Topic)> = None;
    for (position, token) in tokens.iter().enumerate() {
        if let Some(remark) = &token.remark {
            let same = remarked.take().filter(|(range, _)| range == remark);
            let (_, topic) = remarked.insert(same.unwrap_or_else(|| {
                (remark.clone(), prose::topic(&prose::plain(reader.slice(remark))))
            }));
            listed.push((token.index, Listed::No(*topic)));
            continue;
        }
        let words = prose::words_in(&token.before);
        let labelled = words > 0 && token.before.trim_end().ends_with([':', '：']);
        open = match place {
            _ if words == 0 => open,
            _ if labelled => true,
            // A product's name in front of others is a word of a description.
            Place::Cell => open && words <= LABEL,
            Place::Item => open && !first && words <= 1,
        };
        first = false;
        let behind = tokens.get(position + 1).map_or(rest.as_str(), |next| &next.before);
        // In a notice of its own, a name moves to the next one.
        let moves = (!labelled && words::is_migration(&token.before))
            || (position + 1 < tokens.len() && words::is_migration(behind));
        if open && !(place == Place::Cell && moves) {
            listed.push((token.index, Listed::Yes));
        } else {
            let context = format!("{} {behind}", token.before);
            listed.push((token.index, Listed::No(prose::topic(&context))));
        }
    }
    listed
}

/// The tokens of a piece with the words before each, and the words behind the last.
fn placed(
    reader: &Reader<'_>,
    piece: &Range<usize>,
    remarks: &[Range<usize>],
) -> (Vec<Placed>, String) {
    let mut placed = Vec::new();
    let mut remarks = remarks.iter().peekable();
    let mut end = piece.start;
    let mut words = String::new();
    for index in reader.pending(piece) {
        let Some(token) = reader.tokens.get(index) else { continue };
        while let Some(remark) = remarks.next_if(|remark| remark.end <= token.range.start) {
            words.push_str(reader.slice(&(end..remark.start)));
            words.push(' ');
            end = end.max(remark.end);
        }
        let inside = remarks.peek().filter(|remark| remark.start <= token.range.start);
        if let Some(remark) = inside {
            placed.push(Placed { index, remark: Some((*remark).clone()), before: String::new() });
            continue;
        }
        words.push_str(reader.slice(&(end..token.range.start)));
        end = token.range.end;
        placed.push(Placed { index, remark: None, before: prose::plain(&words) });
        words.clear();
    }
    for remark in remarks {
        words.push_str(reader.slice(&(end..remark.start)));
        words.push(' ');
        end = end.max(remark.end);
    }
    words.push_str(reader.slice(&(end.min(piece.end)..piece.end)));
    (placed, prose::plain(&words))
}

/// Takes a token into a draft, unless it can't be used; whether it was taken.
pub(super) fn claim(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    index: usize,
    numbers: Option<RangeInclusive<u32>>,
) -> bool {
    let Some(token) = reader.tokens.get(index) else { return false };
    let (line, text) = (token.line, token.text.clone());
    let numbered = numbers.filter(|_| token.kind == Kind::Placeholder);
    let fate = match (&token.kind, reader.lead) {
        (Kind::Name | Kind::Url(_) | Kind::Net(_), Lead::Other(why)) => Fate::LeftOut(why),
        (Kind::Name | Kind::Url(_) | Kind::Net(_), Lead::Endpoints) => {
            if reader.documentation_section || prose::is_documentation(token) {
                Fate::LeftOut(Why::Documentation)
            } else {
                Fate::Member
            }
        }
        (Kind::Placeholder, _) => {
            match numbered.and_then(|numbers| template::expand(&text, numbers)) {
                Some(names) if names.iter().all(|name| token::is_name(name)) => {
                    reader.expansions.insert(index, names);
                    Fate::Member
                }
                Some(_) => Fate::LeftOut(Why::Broken),
                None => Fate::LeftOut(Why::Placeholder),
            }
        }
        (Kind::FileName, _) => Fate::LeftOut(Why::FileName),
        (Kind::ServiceTag, _) => Fate::LeftOut(Why::ServiceTag),
        (Kind::Email, _) => Fate::LeftOut(Why::Mention),
        (Kind::Broken | Kind::Dotted, _) => Fate::LeftOut(Why::Broken),
    };
    match fate {
        Fate::LeftOut(Why::Broken) => {
            reader.warn(line, format!("\"{text}\" is no whole, valid endpoint; it is left out"));
        }
        Fate::LeftOut(Why::Placeholder) => {
            let text = format!("\"{text}\" has a part to fill in (see --tenant); it is left out");
            reader.warn(line, text);
        }
        Fate::Member => {
            draft.members.push(index);
        }
        _ => {}
    }
    reader.settle(index, fate);
    fate == Fate::Member
}

/// The pieces of a cell between line breaks and the items of a list in it.
pub(super) fn pieces(cell: &str, offset: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut position = 0;
    while let Some(found) = cell.get(position..).and_then(|rest| rest.find(['<', '\n'])) {
        let mark = position + found;
        let rest = cell.get(mark..).unwrap_or_default();
        let length = if rest.starts_with('\n') { Some(1) } else { break_length(rest) };
        match length {
            Some(length) => {
                pieces.push(offset + start..offset + mark);
                start = mark + length;
                position = start;
            }
            None => position = mark + 1,
        }
    }
    pieces.push(offset + start..offset + cell.len());
    pieces
}

/// The length of a tag that ends a line.
fn break_length(text: &str) -> Option<usize> {
    let end = 1 + text.get(1..)?.find(['<', '>', '\n', '|'])?;
    let inside = text.get(1..end)?.trim_matches(['/', ' ']);
    let name = inside.split(' ').next()?;
    let breaks =
        ["br", "p", "li", "ul", "ol", "div"].iter().any(|tag| name.eq_ignore_ascii_case(tag));
    // A tag that is never closed ends where the next one begins.
    let closed = usize::from(text.get(end..)?.starts_with('>'));
    breaks.then_some(end + closed)
}

/// Brackets with words in them; brackets with nothing but endpoints are no remarks.
pub(super) fn remarks(text: &str, offset: usize) -> Vec<Range<usize>> {
    let mut remarks = Vec::new();
    let mut open = None;
    for (position, character) in text.char_indices() {
        match character {
            '(' | '（' if open.is_none() => open = Some(position),
            ')' | '）' => {
                if let Some(start) = open.take() {
                    let end = position + character.len_utf8();
                    let inside = text.get(start..end).unwrap_or_default();
                    let is_word = |word: &str| {
                        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
                        !word.is_empty() && !word.contains(['.', ':', '/'])
                    };
                    // The target of a link is no remark.
                    let target = text.get(..start).is_some_and(|before| before.ends_with(']'));
                    if !target && inside.split_whitespace().any(is_word) {
                        remarks.push(offset + start..offset + end);
                    }
                }
            }
            _ => {}
        }
    }
    remarks
}
