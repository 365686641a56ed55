// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names that look whole and are only a part of one, or more than one.
//!
//! None of them is repaired: a guess may be a wider grant than the page's.

use std::{collections::BTreeSet, ops::Range};

use super::token::{Host, Kind, Token, Url, is_run_character};

/// How far markup around a token is looked at; a bound keeps the scan linear.
const REACH: usize = 64;

/// Top-level domains that one name ends with before the next begins without a blank.
const GLUE: [&str; 9] = ["com", "net", "org", "us", "io", "ms", "gov", "edu", "info"];

/// What stands between a token and the text beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Between {
    Nothing,
    /// Code spans, emphasis, a tag within the line.
    Markup,
    Blank,
    /// A line break.
    Break,
}

/// Marks the tokens that are no whole names.
pub(super) fn mark(text: &str, tokens: &mut [Token]) {
    let registrable: BTreeSet<String> = tokens
        .iter()
        .filter(|token| is_name(token))
        .filter_map(|token| domain(&token.text))
        .collect();
    let mut broken = Vec::new();
    let mut previous: Option<&Token> = None;
    for (index, token) in tokens.iter().enumerate() {
        if matches!(token.kind, Kind::Name | Kind::Url(_) | Kind::Net(_)) {
            let cut = is_cut_before(text, token, previous) || is_cut_behind(text, &token.range);
            if cut || (is_name(token) && is_glued(&token.text, &registrable)) {
                broken.push(index);
            }
        }
        if let Some(previous) = previous
            && is_range(text, previous, token)
        {
            broken.extend([index - 1, index]);
        }
        previous = Some(token);
    }
    for index in broken {
        if let Some(token) = tokens.get_mut(index) {
            token.kind = Kind::Broken;
        }
    }
}

/// Whether two addresses are the first and the last of a range, none of them an endpoint by itself.
fn is_range(text: &str, first: &Token, last: &Token) -> bool {
    let single = |token: &Token| {
        let written = text.get(token.range.clone()).unwrap_or_default();
        matches!(token.kind, Kind::Net(_)) && !written.contains('/')
    };
    let between = text.get(first.range.end..last.range.start).unwrap_or_default();
    single(first)
        && single(last)
        && between.len() <= REACH
        && matches!(
            between.trim_matches([' ', '`']),
            "-" | "–" | "—" | "~" | "to" | "bis" | "à" | "till" | "a" | "through" | "…" | "..."
        )
}

fn is_name(token: &Token) -> bool {
    matches!(token.kind, Kind::Name | Kind::Url(Url { host: Host::Name, .. }))
}

/// The part of a name that somebody registered.
fn domain(name: &str) -> Option<String> {
    psl::domain_str(name.trim_start_matches("*.")).map(str::to_owned)
}

/// Whether one name goes on where another has ended already.
fn is_glued(name: &str, registrable: &BTreeSet<String>) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    let own = domain(name);
    for pair in labels.windows(2) {
        let [front, label] = pair else { continue };
        let Some((top, rest)) = GLUE
            .iter()
            .find_map(|top| label.strip_prefix(top).map(|rest| (*top, rest)))
            .filter(|(_, rest)| !rest.is_empty())
        else {
            continue;
        };
        // "com*" inside a name is the end of one host and the start of the next.
        if rest == "*" {
            return true;
        }
        // "a.example.comb.example.com", or a registered name that stands elsewhere on the page.
        let candidate = format!("{front}.{top}");
        if own.as_ref() == Some(&candidate) || registrable.contains(&candidate) {
            return true;
        }
    }
    false
}

/// Whether the beginning of a name was cut off it.
fn is_cut_before(text: &str, token: &Token, previous: Option<&Token>) -> bool {
    let (between, end) = skip_back(text, token.range.start);
    let before = text.get(..end).unwrap_or_default();
    let run = before.chars().rev().take(REACH).take_while(|c| is_run_character(*c));
    let fragment = before.get(end - run.map(char::len_utf8).sum::<usize>()..).unwrap_or_default();
    let whole = previous.is_some_and(|previous| previous.range.end >= end);
    match between {
        Between::Nothing => false,
        // "* .example.com" is broken by itself; "*. example.com" looks like a name.
        Between::Blank | Between::Break if fragment == "*." => true,
        _ if whole => false,
        Between::Markup => {
            fragment.ends_with(['.', '-']) && fragment.contains(|c: char| c.is_alphanumeric())
        }
        Between::Blank => false,
        Between::Break => {
            let front = before.get(..end - fragment.len()).unwrap_or_default();
            let front = front.trim_end_matches(' ');
            let alone = front.is_empty() || front.ends_with(['\n', '|', '`', '>', ',']);
            alone
                && fragment.ends_with(['.', '-'])
                && fragment.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        }
    }
}

/// Whether the end of a name was cut off it.
fn is_cut_behind(text: &str, range: &Range<usize>) -> bool {
    let run = text.get(range.clone()).unwrap_or_default();
    let (between, start) = skip_forward(text, range.end);
    let mut behind = text.get(start..).unwrap_or_default().chars();
    // A dash behind a blank or at the start of a line is one of a sentence or of a list.
    let goes_on = match behind.next() {
        Some('.') => between != Between::Nothing,
        Some('-') => between == Between::Markup,
        _ => false,
    };
    goes_on && !run.ends_with('.') && behind.next().is_some_and(|c| c.is_ascii_alphanumeric())
}

/// Over markup, blanks and one line break, back from an offset.
fn skip_back(text: &str, start: usize) -> (Between, usize) {
    let mut between = Between::Nothing;
    let mut end = start;
    while start - end < REACH {
        let before = text.get(..end).unwrap_or_default();
        let Some(character) = before.chars().next_back() else { break };
        let (kind, length) = match character {
            '`' | '\'' => (Between::Markup, 1),
            ' ' => (Between::Blank, 1),
            '\n' if between < Between::Break => (Between::Break, 1),
            '>' => match tag_before(before) {
                Some((kind, length)) => (kind, length),
                None => break,
            },
            _ => break,
        };
        between = between.max(kind);
        end -= length;
    }
    (between, end)
}

/// Over markup, blanks and one line break, on from an offset.
fn skip_forward(text: &str, from: usize) -> (Between, usize) {
    let mut between = Between::Nothing;
    let mut start = from;
    while start - from < REACH {
        let behind = text.get(start..).unwrap_or_default();
        let Some(character) = behind.chars().next() else { break };
        let (kind, length) = match character {
            '`' => (Between::Markup, 1),
            ' ' => (Between::Blank, 1),
            '\n' if between < Between::Break => (Between::Break, 1),
            '<' => match tag_behind(behind) {
                Some((kind, length)) => (kind, length),
                None => break,
            },
            _ => break,
        };
        between = between.max(kind);
        start += length;
    }
    (between, start)
}

fn tag_before(text: &str) -> Option<(Between, usize)> {
    let (start, _) = text.char_indices().rev().take(REACH).find(|(_, c)| *c == '<')?;
    tag(text.get(start..)?)
}

fn tag_behind(text: &str) -> Option<(Between, usize)> {
    let (end, _) = text.char_indices().take(REACH).find(|(_, c)| *c == '>')?;
    tag(text.get(..=end)?)
}

/// A tag that stands within a cell or a line.
fn tag(text: &str) -> Option<(Between, usize)> {
    let name = text.trim_matches(['<', '>', '/', ' ']).to_ascii_lowercase();
    match name.split_ascii_whitespace().next()? {
        "br" | "p" => Some((Between::Break, text.len())),
        "b" | "i" | "u" | "em" | "a" | "span" | "strong" | "code" | "wbr" | "sup" | "sub" => {
            Some((Between::Markup, text.len()))
        }
        _ => None,
    }
}
