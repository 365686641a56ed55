// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of endpoints.
//!
//! The cells are cut out of the raw lines: a Markdown reader drops the cells that a row has more
//! than its header, takes a table without a line of dashes for a paragraph, and reads the stars of
//! two wildcards as emphasis.

use std::ops::Range;

use super::{
    Note, PortSet, PortsFrom, Stated,
    assemble::{Draft, DraftKind, Reader},
    endpoints,
    ports::{self, Protocol, Reading},
    prose,
    token::Kind,
    words::{self, Column},
};

/// A column: what it holds, and the protocol that its header says for its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heading {
    column: Column,
    protocol: &'static str,
}

/// A cell and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) column: Column,
    pub(super) range: Range<usize>,
}

/// Whether a piece of the page was a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Table,
    NoTable,
}

/// Reads a paragraph whose lines are the rows of a table, with a line of dashes or without.
pub(super) fn paragraph(reader: &mut Reader<'_>, range: &Range<usize>) -> Found {
    if !reader.slice(range).contains('|') {
        return Found::NoTable;
    }
    let lines = reader.lines_of(range);
    let rows: Vec<Vec<Range<usize>>> = lines.iter().map(|line| cells(reader, line)).collect();
    let marked = lines
        .iter()
        .zip(&rows)
        .any(|(line, row)| reader.slice(line).contains('|') && is_dashes(reader, row));
    // A pipe between commands looks like one between cells.
    let code = reader.slice(range).contains(['$', '{', '}']);
    let is_row = |cells: &Vec<Range<usize>>| {
        cells.len() > 1 && cells.iter().any(|cell| is_endpoints(reader, cell))
    };
    if !marked && (code || !rows.iter().any(is_row)) {
        return Found::NoTable;
    }
    read_rows(reader, rows);
    Found::Table
}

/// Reads a table in HTML, its rows given as cells.
pub(super) fn html(reader: &mut Reader<'_>, rows: &[Vec<Range<usize>>]) {
    read_rows(reader, rows.to_vec());
}

fn read_rows(reader: &mut Reader<'_>, mut rows: Vec<Vec<Range<usize>>>) {
    let dashes = rows.iter().position(|row| is_dashes(reader, row));
    let header = match dashes {
        Some(0) => Vec::new(),
        Some(dashes) => rows.get(dashes - 1).cloned().unwrap_or_default(),
        None => rows.first().filter(|row| is_header(reader, row)).cloned().unwrap_or_default(),
    };
    let first = match dashes {
        Some(dashes) => dashes + 1,
        None => usize::from(!header.is_empty()),
    };
    let body = rows.split_off(first.min(rows.len()));
    let width = header.len().max(body.iter().map(Vec::len).max().unwrap_or(0));
    let body = joined(body, if header.is_empty() { width } else { header.len() });
    let headings = headings(reader, &header, &body);
    let listed = headings.iter().any(|heading| heading.column == Column::Addresses);
    for cells in &body {
        if listed || cells.iter().any(|cell| is_endpoints(reader, cell)) {
            fields(reader, &headings, cells);
        }
        for cell in cells {
            reader.prose(cell);
        }
    }
}

/// The cells of a line, between its pipes.
fn cells(reader: &Reader<'_>, line: &Range<usize>) -> Vec<Range<usize>> {
    let text = reader.slice(line);
    let quote = text.len() - text.trim_start_matches([' ', '>']).len();
    let start = line.start + quote;
    let text = reader.slice(&(start..line.end));
    let mut cells = Vec::new();
    let mut position = 0;
    let mut escaped = false;
    for (offset, character) in text.char_indices() {
        if character == '|' && !escaped {
            cells.push(start + position..start + offset);
            position = offset + 1;
        }
        escaped = character == '\\' && !escaped;
    }
    cells.push(start + position..line.end);
    let is_blank = |cell: &Range<usize>| reader.slice(cell).trim().is_empty();
    if cells.len() > 1 && cells.first().is_some_and(is_blank) {
        cells.remove(0);
    }
    if cells.len() > 1 && cells.last().is_some_and(is_blank) {
        cells.pop();
    }
    cells
}

/// Rows that a line break cut in two, made whole again.
fn joined(rows: Vec<Vec<Range<usize>>>, width: usize) -> Vec<Vec<Range<usize>>> {
    let mut whole: Vec<Vec<Range<usize>>> = Vec::new();
    for row in rows {
        match whole.last_mut() {
            Some(last) if last.len() < width && last.len() + row.len() == width + 1 => {
                let mut row = row.into_iter();
                if let (Some(end), Some(start)) = (last.last_mut(), row.next()) {
                    end.end = start.end;
                }
                last.extend(row);
            }
            _ => whole.push(row),
        }
    }
    whole
}

fn is_dashes(reader: &Reader<'_>, row: &[Range<usize>]) -> bool {
    row.iter().all(|cell| {
        let text = reader.slice(cell).trim();
        text.contains('-') && text.chars().all(|c| matches!(c, '-' | ':' | ' '))
    })
}

/// Whether a row without a line of dashes below it names columns.
fn is_header(reader: &Reader<'_>, row: &[Range<usize>]) -> bool {
    let known = row
        .iter()
        .filter(|cell| words::column(&prose::plain(reader.slice(cell))) != Column::Unknown);
    known.count() > 1 && row.iter().all(|cell| reader.pending(cell).is_empty())
}

// === what the columns hold ===

fn headings(
    reader: &Reader<'_>,
    header: &[Range<usize>],
    rows: &[Vec<Range<usize>>],
) -> Vec<Heading> {
    let width =
        if header.is_empty() { rows.iter().map(Vec::len).max().unwrap_or(0) } else { header.len() };
    let mut headings: Vec<Heading> = (0..width)
        .map(|index| {
            let text = header.get(index).map(|cell| prose::plain(reader.slice(cell)));
            heading(&text.unwrap_or_default())
        })
        .collect();
    let full: Vec<&Vec<Range<usize>>> = rows.iter().filter(|row| row.len() == width).collect();
    let mostly = |index: usize, test: &dyn Fn(&Range<usize>) -> bool| {
        let cells = full
            .iter()
            .filter_map(|row| row.get(index))
            .filter(|cell| !reader.slice(cell).trim().is_empty());
        let (all, yes) =
            cells.fold((0, 0), |(all, yes), cell| (all + 1, yes + usize::from(test(cell))));
        all > 0 && yes * 2 > all
    };
    // What a column holds weighs more than what its header says in a language nobody knows.
    let sure = headings.iter().enumerate().any(|(index, heading)| {
        heading.column == Column::Addresses && mostly(index, &|cell| is_endpoints(reader, cell))
    });
    for (index, heading) in headings.iter_mut().enumerate() {
        let open = match heading.column {
            Column::Unknown => true,
            // A product's name in a description is no endpoint.
            Column::Client | Column::Notes | Column::Category | Column::Id => false,
            _ => !sure,
        };
        if open && mostly(index, &|cell| is_endpoints(reader, cell)) {
            heading.column = Column::Addresses;
        }
    }
    type Test<'a> = &'a dyn Fn(&Range<usize>) -> bool;
    let tests: [(Column, Test<'_>); 5] = [
        (Column::Id, &|cell| is_id(reader, cell)),
        (Column::ExpressRoute, &|cell| words::truth(&prose::plain(reader.slice(cell))).is_some()),
        (Column::Category, &|cell| is_category(reader, cell)),
        (Column::Ports, &|cell| is_ports(reader, cell)),
        (Column::Description, &|cell| !reader.slice(cell).trim().is_empty()),
    ];
    for (column, test) in tests {
        if headings.iter().any(|heading| heading.column == column) {
            continue;
        }
        // The first column of numbers is the rows' own.
        let free = headings.iter_mut().enumerate();
        let free = free.filter(|(index, _)| column != Column::Id || *index == 0);
        let unknown = free.filter(|(_, heading)| heading.column == Column::Unknown);
        let found = unknown.into_iter().find(|(index, _)| mostly(*index, test));
        if let Some((_, heading)) = found {
            heading.column = column;
        }
    }
    headings
}

fn heading(text: &str) -> Heading {
    let lower = text.to_lowercase();
    let protocol = match (lower.contains("tcp"), lower.contains("udp")) {
        (true, false) => "TCP",
        (false, true) => "UDP",
        _ => "",
    };
    let column = match words::column(text) {
        Column::Unknown if !protocol.is_empty() => Column::Ports,
        column => column,
    };
    Heading { column, protocol }
}

/// What the cells of a row hold that doesn't fit its header.
fn by_content(reader: &Reader<'_>, cells: &[Range<usize>]) -> Vec<Heading> {
    let mut headings = Vec::with_capacity(cells.len());
    let mut described = false;
    for (index, cell) in cells.iter().enumerate() {
        let text = prose::plain(reader.slice(cell));
        let column = if is_endpoints(reader, cell) {
            Column::Addresses
        } else if index == 0 && is_id(reader, cell) {
            Column::Id
        } else if is_ports(reader, cell) {
            Column::Ports
        } else if words::truth(&text).is_some() {
            Column::ExpressRoute
        } else if is_category(reader, cell) {
            Column::Category
        } else if !described && !text.is_empty() {
            described = true;
            Column::Description
        } else {
            Column::Unknown
        };
        headings.push(Heading { column, protocol: "" });
    }
    headings
}

/// Whether a cell is mostly endpoints.
fn is_endpoints(reader: &Reader<'_>, cell: &Range<usize>) -> bool {
    let mut endpoints = 0;
    for index in reader.pending(cell) {
        let Some(token) = reader.tokens.get(index) else { continue };
        match token.kind {
            Kind::Name | Kind::Url(_) | Kind::Net(_) | Kind::Placeholder | Kind::Broken => {
                endpoints += letters(reader.slice(&token.range));
            }
            // A command.
            Kind::FileName => return false,
            Kind::ServiceTag | Kind::Email | Kind::Dotted => {}
        }
    }
    if endpoints == 0 {
        return false;
    }
    // Remarks in brackets may be longer than what they are about.
    let text = reader.slice(cell);
    let remarks: usize = endpoints::remarks(text, 0)
        .iter()
        .map(|remark| letters(text.get(remark.clone()).unwrap_or_default()))
        .sum();
    endpoints * 2 > letters(text).saturating_sub(remarks)
}

fn letters(markdown: &str) -> usize {
    prose::plain(markdown).chars().filter(|c| c.is_alphanumeric()).count()
}

fn is_id(reader: &Reader<'_>, cell: &Range<usize>) -> bool {
    let text = prose::plain(reader.slice(cell));
    (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_category(reader: &Reader<'_>, cell: &Range<usize>) -> bool {
    let text = prose::plain(reader.slice(cell));
    let words: Vec<&str> = text.split(' ').collect();
    words::classification(&words).0.is_some()
}

/// Whether a cell holds ports and nothing else; a link to documentation has numbers too.
fn is_ports(reader: &Reader<'_>, cell: &Range<usize>) -> bool {
    reader.pending(cell).is_empty() && ports::is_only_ports(&ports_text(reader.slice(cell)))
}

/// The text of a cell with ports: without targets of links, a line for each piece.
fn ports_text(cell: &str) -> String {
    let pieces = endpoints::pieces(cell, 0);
    let lines = pieces.into_iter().map(|piece| prose::plain(cell.get(piece).unwrap_or_default()));
    lines.collect::<Vec<_>>().join("\n")
}

// === a row ===

/// Gives the cells of a row their columns, and reads it.
fn fields(reader: &mut Reader<'_>, headings: &[Heading], cells: &[Range<usize>]) {
    let fits = cells.len() == headings.len()
        && (!cells.iter().any(|cell| is_endpoints(reader, cell))
            || headings.iter().zip(cells).any(|(heading, cell)| {
                heading.column == Column::Addresses && !reader.pending(cell).is_empty()
            })
            || headings.iter().any(|heading| heading.column == Column::Client));
    // Behind the last column may stand a remark.
    let (front, more) = cells.split_at(headings.len().min(cells.len()));
    let fits_and_more = !more.is_empty()
        && headings.iter().zip(front).all(|(heading, cell)| match heading.column {
            Column::Addresses => is_endpoints(reader, cell),
            Column::Ports => is_ports(reader, cell),
            _ => true,
        })
        && headings.iter().any(|heading| heading.column == Column::Addresses);
    let own: Vec<Heading>;
    let headings = if fits {
        headings
    } else if fits_and_more {
        let remark = Heading { column: Column::Notes, protocol: "" };
        own = headings.iter().copied().chain(more.iter().map(|_| remark)).collect();
        &own
    } else {
        own = by_content(reader, cells);
        &own
    };
    // What others reach at the reader's own servers is no endpoint of the clients.
    let inward = headings.iter().zip(cells).any(|(heading, cell)| {
        heading.column == Column::Direction && words::is_closing(&prose::plain(reader.slice(cell)))
    });
    if inward {
        return;
    }
    // A column of its own for the protocol says it for all ports of the row.
    let protocol: Vec<String> = headings
        .iter()
        .zip(cells)
        .filter(|(heading, _)| heading.column == Column::Protocol)
        .map(|(_, cell)| ports_text(reader.slice(cell)).replace('\n', " "))
        .collect();
    let mut said = Vec::new();
    for (heading, cell) in headings.iter().zip(cells) {
        if heading.column == Column::Ports {
            let text = ports_text(reader.slice(cell));
            let protocol = protocol.join(" ");
            said.push(format!("{} {protocol} {text}", heading.protocol));
        }
    }
    if said.is_empty() {
        said = protocol;
    }
    let cells: Vec<Cell> = headings
        .iter()
        .zip(cells)
        .map(|(heading, cell)| Cell { column: heading.column, range: cell.clone() })
        .collect();
    row(reader, &cells, &said);
}

/// Reads a row: its cells, and the phrases that give its ports.
pub(super) fn row(reader: &mut Reader<'_>, cells: &[Cell], port_phrases: &[String]) {
    let (Some(first), Some(last)) = (cells.first(), cells.last()) else { return };
    let lines = (reader.line(first.range.start), reader.line(last.range.end.saturating_sub(1)));
    let mut draft = reader.draft(DraftKind::Row);
    draft.lines = lines;
    let mut ports = PortSet::default();
    for phrase in port_phrases {
        let phrase = ports::read(phrase, Reading::Cell);
        ports.extend(&phrase.ports);
        if phrase.protocol == Protocol::Assumed && !phrase.ports.is_empty() {
            let text = "the page names no protocol; TCP is assumed".to_owned();
            draft.notes.push(Note::Finding(text));
        }
    }
    let has_ports = !ports.is_empty();
    if has_ports {
        draft.ports = Some((ports, PortsFrom::Row));
    }
    let numbers = cells
        .iter()
        .filter(|cell| matches!(cell.column, Column::Addresses | Column::Notes))
        .find_map(|cell| reader.numbers_in(&cell.range));
    for Cell { column, range } in cells {
        let raw = reader.slice(range);
        let text = || prose::plain(raw);
        match column {
            Column::Id => draft.id = text().parse().ok(),
            Column::Description => append(&mut draft.description, &text()),
            Column::Category => category(&mut draft, raw),
            Column::Required => draft.required = stated(words::truth(&text())),
            Column::ExpressRoute => draft.express_route = stated(words::truth(&text())),
            Column::Group if !text().is_empty() => draft.group = Some(text()),
            Column::Notes if !text().is_empty() => draft.notes.push(Note::Remark(text())),
            Column::Addresses => endpoints::cell(reader, &mut draft, range, numbers.clone()),
            Column::Group
            | Column::Notes
            | Column::Ports
            | Column::Protocol
            | Column::Client
            | Column::Direction
            | Column::Unknown => {}
        }
    }
    if draft.members.is_empty() && has_ports {
        let text = "the row has ports and no usable address; it grants nothing".to_owned();
        reader.warn(lines.0, text);
    }
    reader.add(draft);
}

fn append(description: &mut String, text: &str) {
    if !description.is_empty() && !text.is_empty() {
        description.push_str(", ");
    }
    description.push_str(text);
}

fn category(draft: &mut Draft, cell: &str) {
    for piece in endpoints::pieces(cell, 0) {
        let text = prose::plain(cell.get(piece).unwrap_or_default());
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let (category, required, used) = words::classification(&words);
        draft.category = draft.category.or(category);
        if draft.required == Stated::Unstated {
            draft.required = stated(required);
        }
        // A note says what is lost without the endpoints.
        let note = words.get(used..).unwrap_or_default().join(" ");
        if prose::words_in(&note) > 2 {
            draft.notes.push(Note::Remark(note));
        }
    }
}

pub(super) fn stated(truth: Option<bool>) -> Stated {
    match truth {
        Some(true) => Stated::Yes,
        Some(false) => Stated::No,
        None => Stated::Unstated,
    }
}
