// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables in HTML within a page in Markdown.

use std::ops::Range;

/// A table in HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) range: Range<usize>,
    /// The cells of each row.
    pub(super) rows: Vec<Vec<Range<usize>>>,
}

/// A tag: `<td class="x">`.
struct Tag<'a> {
    range: Range<usize>,
    /// In lower case.
    name: String,
    closing: Closing<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing<'a> {
    Opens(&'a str),
    Closes,
}

/// Finds the tables of a page; one inside another belongs to the outer one.
pub(super) fn tables(text: &str) -> Vec<Table> {
    let mut tables = Vec::new();
    let mut open: Option<Table> = None;
    let mut cell: Option<usize> = None;
    for tag in tags(text) {
        let opens = matches!(tag.closing, Closing::Opens(_));
        if tag.name == "table" && opens && open.is_none() {
            open = Some(Table { range: tag.range.clone(), rows: Vec::new() });
            continue;
        }
        let Some(table) = &mut open else { continue };
        if matches!(tag.name.as_str(), "td" | "th" | "tr" | "table")
            && let Some(start) = cell.take()
            && let Some(row) = table.rows.last_mut()
        {
            row.push(start..tag.range.start);
        }
        match (tag.name.as_str(), opens) {
            ("tr", true) => table.rows.push(Vec::new()),
            ("td" | "th", true) => {
                if table.rows.is_empty() {
                    table.rows.push(Vec::new());
                }
                cell = Some(tag.range.end);
            }
            ("table", false) => {
                table.range.end = tag.range.end;
                table.rows.retain(|row| !row.is_empty());
                tables.extend(open.take());
            }
            _ => {}
        }
    }
    tables
}

fn tags(text: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut position = 0;
    std::iter::from_fn(move || {
        loop {
            let start = position + text.get(position..)?.find('<')?;
            position = start + 1;
            let inside = text.get(position..)?;
            let end = inside.find(['<', '>'])?;
            if !inside.get(end..)?.starts_with('>') {
                position += end;
                continue;
            }
            let inside = inside.get(..end)?;
            position += end + 1;
            let (name, closing) = match inside.strip_prefix('/') {
                Some(name) => (name, Closing::Closes),
                None => (inside, Closing::Opens(inside)),
            };
            let name = name.split([' ', '/', '\n']).next().unwrap_or_default();
            return Some(Tag { range: start..position, name: name.to_ascii_lowercase(), closing });
        }
    })
}
