// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plain text of a page: what is left of it when it is copied out of a browser.

use std::ops::Range;

use super::{
    flat,
    markdown::{Block, Page},
    ports::{self, Reading},
    prose, words,
};

/// What bullets are made of.
const BULLETS: [char; 9] = ['•', '‣', '◦', '▪', '●', '·', '*', '-', '–'];

/// What a line of code has and a heading has not.
const CODE: [char; 9] = ['[', ']', '{', '}', '$', '=', '<', '|', '`'];

/// The longest line that is a heading, in characters.
const LONGEST_HEADING: usize = 120;

/// Whether a text has any of the marks that Markdown has.
pub(super) fn is_plain(text: &str) -> bool {
    !text.lines().any(|line| {
        let line = line.trim_start_matches([' ', '>']);
        let heading = line.trim_start_matches('#');
        let level = line.len() - heading.len();
        ((1..=6).contains(&level) && heading.starts_with(' '))
            || line.starts_with("```")
            || line.starts_with("~~~")
            || line.starts_with("<!--")
            || (line.contains('[') && (line.contains("](") || line.contains("]: ")))
            || (line.contains('|') && line.contains("--"))
            || line.starts_with('|')
            || line.contains("**")
    })
}

/// Reads the structure of a copy.
pub(super) fn read(text: &str) -> Page {
    let mut page = Page::default();
    let paragraphs = paragraphs(text);
    let mut index = 0;
    while let Some(range) = paragraphs.get(index) {
        let paragraph = text.get(range.clone()).unwrap_or_default();
        let last = row_end(text, &paragraphs, index);
        if last > index {
            let end = paragraphs.get(last).map_or(range.end, |range| range.end);
            page.blocks.push(Block::Paragraph(range.start..end));
            index = last + 1;
            continue;
        }
        index += 1;
        if bullet(paragraph).is_some() || paragraph.lines().any(|line| bullet(line).is_some()) {
            items(text, range, &mut page);
        } else if words::is_alert(paragraph) {
            // The label of a note is no heading.
        } else if is_heading(paragraph) {
            let text = paragraph.trim().to_owned();
            page.blocks.push(Block::Heading { start: range.start, text });
        } else {
            page.blocks.push(Block::Paragraph(range.clone()));
        }
    }
    page
}

/// Runs of lines that are not blank.
fn paragraphs(text: &str) -> Vec<Range<usize>> {
    let mut paragraphs = Vec::new();
    let mut open: Option<Range<usize>> = None;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let end = offset + line.trim_end().len();
        if line.trim().is_empty() {
            paragraphs.extend(open.take());
        } else {
            match &mut open {
                Some(range) => range.end = end,
                None => open = Some(offset..end),
            }
        }
        offset += line.len();
    }
    paragraphs.extend(open);
    paragraphs
}

/// The last paragraph of a row whose cells are paragraphs of their own.
fn row_end(text: &str, paragraphs: &[Range<usize>], first: usize) -> usize {
    /// The most cells of a row.
    const CELLS: usize = 10;
    let slice = |index: usize| {
        paragraphs.get(index).and_then(|range| text.get(range.clone())).unwrap_or_default()
    };
    if !slice(first).lines().next().is_some_and(flat::is_lone_id) {
        return first;
    }
    for last in first + 1..first + CELLS {
        let cell = slice(last);
        if flat::ends_row(cell) {
            return last;
        }
        if cell.is_empty() || !flat::may_be_cell(cell) {
            break;
        }
    }
    first
}

/// The text behind a bullet.
fn bullet(line: &str) -> Option<&str> {
    let behind = line.trim_start().strip_prefix(BULLETS)?;
    behind.starts_with([' ', '\t']).then(|| behind.trim_start())
}

/// The items of a paragraph; a line without a bullet goes on with the item before.
fn items(text: &str, range: &Range<usize>, page: &mut Page) {
    let mut offset = range.start;
    let mut open: Option<Range<usize>> = None;
    let mut front: Option<Range<usize>> = None;
    for line in text.get(range.clone()).unwrap_or_default().split_inclusive('\n') {
        let end = offset + line.trim_end().len();
        match (bullet(line), &mut open) {
            (Some(behind), _) => {
                page.blocks.extend(front.take().map(Block::Paragraph));
                page.blocks.extend(open.take().map(Block::Item));
                open = Some(offset + (line.len() - behind.len())..end);
            }
            (None, Some(item)) => item.end = end,
            (None, None) => front = Some(range.start..end),
        }
        offset += line.len();
    }
    page.blocks.extend(front.map(Block::Paragraph));
    page.blocks.extend(open.map(Block::Item));
}

/// Whether a paragraph is one short line that is no sentence.
fn is_heading(paragraph: &str) -> bool {
    let line = paragraph.trim();
    !line.contains('\n')
        && line.chars().count() <= LONGEST_HEADING
        && !line.contains(CODE)
        && !paragraph.starts_with("   ")
        && !line.ends_with(['.', ':', '：', '。', '!', '?', '？', ',', ';'])
        && line
            .split_whitespace()
            .any(|word| word.contains(char::is_alphabetic) && !word.contains(['.', '/', ':', '*']))
        && prose::words_in(line) <= 20
        && ports::read(line, Reading::Sentence).ports.is_empty()
}
