// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names with a part for the reader to fill in: `<tenant>.example.com`, `#-courier.example.com`.

use std::ops::{Range, RangeInclusive};

use super::{token::is_run_character, words};

/// A name with at least one part to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// Where it stands.
    pub(super) range: Range<usize>,
    /// The parts to fill in, as ranges of the page, in order.
    fillers: Vec<Range<usize>>,
}

/// The longest filler that is looked for; a bound keeps the scan linear.
const LONGEST_FILLER: usize = 48;

/// The most parts that one name is made of.
const MOST_PARTS: usize = 8;

/// The most names that a number in a name stands for.
const MOST_NAMES: u32 = 1000;

/// Words between brackets that are markup.
const TAGS: [&str; 24] = [
    "br", "p", "b", "i", "a", "u", "em", "td", "tr", "th", "li", "ul", "ol", "code", "span",
    "strong", "sup", "sub", "pre", "div", "kbd", "wbr", "table", "tt",
];

/// The template that a run of host characters is a part of.
pub(super) fn around(text: &str, run: &Range<usize>) -> Option<Template> {
    let mut template = Template { range: run.clone(), fillers: Vec::new() };
    for _ in 0..MOST_PARTS {
        let here = text.get(template.range.clone())?;
        if !here.starts_with(['.', '-']) {
            break;
        }
        let Some(filler) = filler_before(text, template.range.start) else { break };
        template.range.start = run_start(text, filler.start);
        template.fillers.insert(0, filler);
    }
    for _ in 0..MOST_PARTS {
        let Some(filler) = filler_behind(text, template.range.end) else { break };
        let here = text.get(template.range.clone())?;
        let behind = text.get(filler.end..)?;
        if !here.ends_with(['.', '-']) && !behind.starts_with(['.', '-']) {
            break;
        }
        template.range.end = run_end(text, filler.end);
        template.fillers.push(filler);
    }
    (!template.fillers.is_empty()).then_some(template)
}

/// The name with the tenant in it; `None` where another part is to be filled in.
pub(super) fn for_tenant(text: &str, template: &Template, tenant: &str) -> Option<String> {
    let mut name = String::new();
    let mut position = template.range.start;
    for filler in &template.fillers {
        let word = text.get(filler.clone())?;
        if !words::is_tenant(word) {
            return None;
        }
        name.push_str(text.get(position..filler.start)?);
        name.push_str(tenant);
        position = filler.end;
    }
    name.push_str(text.get(position..template.range.end)?);
    Some(name)
}

/// The numbers that a phrase such as "'#' is a number from 0 to 50" gives.
pub(super) fn numbers(phrase: &str) -> Option<RangeInclusive<u32>> {
    for (mark, _) in phrase.match_indices('#') {
        let before = phrase.get(..mark)?.chars().next_back();
        let behind = phrase.get(mark + 1..)?;
        // The mark of a name is no mention of it.
        let part_of_name = |c: char| is_run_character(c) && c != '*';
        if before.is_some_and(part_of_name) || behind.starts_with(part_of_name) {
            continue;
        }
        let sentence = behind.split(['.', '。', ';', '#']).next().unwrap_or_default();
        let mut found = sentence
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| !digits.is_empty())
            .map(str::parse::<u32>);
        if let (Some(Ok(first)), Some(Ok(last)), None) = (found.next(), found.next(), found.next())
            && first < last
            && last - first < MOST_NAMES
        {
            return Some(first..=last);
        }
    }
    None
}

/// The names that a template with one `#` stands for.
pub(super) fn expand(name: &str, numbers: RangeInclusive<u32>) -> Option<Vec<String>> {
    let (before, behind) = name.split_once('#')?;
    (!behind.contains(['#', '<', '{', '[']) && !before.contains(['<', '{', '[']))
        .then(|| numbers.map(|number| format!("{before}{number}{behind}")).collect())
}

fn filler_before(text: &str, end: usize) -> Option<Range<usize>> {
    let before = text.get(..end)?;
    let open = match before.chars().next_back()? {
        '#' => {
            let front = before.get(..end - 1)?.chars().next_back();
            return (front != Some('#')).then_some(end - 1..end);
        }
        '>' => '<',
        '}' => '{',
        ']' => '[',
        _ => return None,
    };
    let (start, _) = before
        .char_indices()
        .rev()
        .take(LONGEST_FILLER)
        .find(|(_, character)| *character == open)?;
    is_filler(before.get(start..)?).then_some(start..end)
}

fn filler_behind(text: &str, start: usize) -> Option<Range<usize>> {
    let behind = text.get(start..)?;
    let close = match behind.chars().next()? {
        '#' => {
            let next = behind.chars().nth(1);
            return matches!(next, Some('.' | '-')).then_some(start..start + 1);
        }
        '<' => '>',
        '{' => '}',
        '[' => ']',
        _ => return None,
    };
    let (end, _) =
        behind.char_indices().take(LONGEST_FILLER).find(|(_, character)| *character == close)?;
    let filler = behind.get(..=end)?;
    is_filler(filler).then_some(start..start + filler.len())
}

fn is_filler(filler: &str) -> bool {
    let word = filler.trim_matches(['<', '>', '{', '}', '[', ']', '\\', ' ']);
    !TAGS.iter().any(|tag| word.eq_ignore_ascii_case(tag))
        && word.chars().any(char::is_alphanumeric)
        && word.chars().all(|c| c.is_alphanumeric() || " -_'’*\\".contains(c))
}

fn run_start(text: &str, end: usize) -> usize {
    let before = text.get(..end).unwrap_or_default();
    let run = before.chars().rev().take(64).take_while(|c| is_run_character(*c));
    end - run.map(char::len_utf8).sum::<usize>()
}

fn run_end(text: &str, start: usize) -> usize {
    let behind = text.get(start..).unwrap_or_default();
    let run = behind.chars().take(253).take_while(|c| is_run_character(*c));
    start + run.map(char::len_utf8).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_behind_a_number_sign() {
        for (phrase, expected) in [
            ("'#' is a random number from 0 to 50.", Some(0..=50)),
            ("(# is 0 to 50)", Some(0..=50)),
            ("# : nombre entre 1 et 9", Some(1..=9)),
            ("#-courier.push.example.com", None),
            ("# is 3 of 1 to 5", None),
            ("# is 0 to 5000", None),
            ("# is random", None),
        ] {
            assert_eq!(numbers(phrase), expected, "{phrase}");
        }
        assert_eq!(expand("#-a.com", 0..=1).unwrap(), ["0-a.com", "1-a.com"]);
        assert_eq!(expand("#.<x>.com", 0..=1), None);
    }
}
