// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables whose cells have become lines: `163 Client Allow`, `Required`, `False *.example.com`,
//! further hosts, `TCP: 80, 443`.
//!
//! Rows are told apart by their IDs, or else by their ports, which stand last in most tables and
//! first in some.

use std::ops::Range;

use super::{
    assemble::Reader,
    endpoints,
    ports::{self, Reading},
    prose,
    table::{self, Cell, Found},
    token::Kind,
    words::{self, Column},
};

/// A line in its parts; each may be empty.
#[derive(Clone, Debug)]
struct Line {
    /// The row's number.
    id: Option<Range<usize>>,
    /// Ports in front of everything else.
    ports_first: Option<Range<usize>>,
    text: Range<usize>,
    endpoints: Option<Range<usize>>,
    ports: Option<Range<usize>>,
    /// What comes behind the ports.
    behind: Range<usize>,
}

/// What starts a new row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// A number at the start of a line.
    Ids,
    /// The first line behind one with ports.
    PortsLast,
    /// A line that begins with ports.
    PortsFirst,
    /// A line with endpoints behind one with ports; what follows the ports is the row's too.
    EndpointsFirst,
    /// A line with a group in front of its endpoints; no ports are given.
    Groups,
    /// Nothing tells one row from the next, and no ports are given.
    Together,
}

/// A row while it is put together.
#[derive(Clone, Debug, Default)]
struct Row {
    id: Option<Range<usize>>,
    /// What stands in front of the first endpoint, line by line.
    text: Vec<Range<usize>>,
    endpoints: Vec<Range<usize>>,
    ports: Vec<Range<usize>>,
    behind: Vec<Range<usize>>,
}

/// The most words in front of the endpoints of a row without a number.
const FRONT: usize = 6;

/// The most words of a header.
const LONGEST_HEADER: usize = 8;

/// The most words of a line that names what its endpoints are for.
const LABEL: usize = 24;

/// Reads a paragraph whose lines are the cells of a table.
pub(super) fn paragraph(reader: &mut Reader<'_>, range: &Range<usize>) -> Found {
    let mut lines: Vec<Line> =
        reader.lines_of(range).into_iter().map(|line| parts(reader, &line)).collect();
    let first_id = lines.iter().position(|line| line.id.is_some());
    let first_endpoint = lines.iter().position(|line| line.endpoints.is_some());
    if first_endpoint < first_id {
        // The rows have no numbers, so that a number alone is a port.
        for line in &mut lines {
            let alone = line.text.is_empty() && line.endpoints.is_none();
            line.ports_first = line.ports_first.take().or(line.id.take().filter(|_| alone));
        }
    }
    let Some(rows) = kind(reader, &lines) else { return Found::NoTable };
    let first = first_row(&lines, rows);
    let header = lines.get(..first).unwrap_or_default();
    let grouped = is_grouped(reader, header);
    let mut all = Vec::new();
    let mut row = Row::default();
    for line in lines.get(first..).unwrap_or_default() {
        if begins(&row, line, rows) {
            all.push(std::mem::take(&mut row));
        }
        row.add(line, rows);
    }
    all.push(row);
    for row in all {
        read(reader, &row, rows, grouped);
    }
    reader.prose(range);
    Found::Table
}

// === lines ===

fn parts(reader: &Reader<'_>, line: &Range<usize>) -> Line {
    let text = reader.slice(line);
    let mut start = line.start + (text.len() - text.trim_start().len());
    let mut parts = Line {
        id: None,
        ports_first: None,
        text: start..line.end,
        endpoints: None,
        ports: None,
        behind: line.end..line.end,
    };
    let rest = reader.slice(&(start..line.end));
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let behind = rest.get(digits..).unwrap_or_default();
    let word = behind.trim_start().chars().next();
    let numbered = behind.is_empty()
        || (behind.starts_with([' ', '\t'])
            && word.is_some_and(|c| !c.is_ascii_digit() && !",;-–/".contains(c)));
    if let Some(length) = ports::prefix(rest).or_else(|| ports::lone_part(rest)) {
        parts.ports_first = Some(start..start + length);
        start += length;
    } else if (1..=5).contains(&digits) && numbered {
        parts.id = Some(start..start + digits);
        start += digits;
    }
    parts.text = start..line.end;
    let remarks = endpoints::remarks(reader.slice(&(start..line.end)), start);
    if let Some(remark) = remarks.last()
        && endpoint_run(reader, &(start..line.end), &remarks).is_none()
    {
        // A remark on the endpoints above it, and their ports.
        let rest = reader.slice(&(remark.end..line.end));
        if let Some(length) = ports::prefix(rest).filter(|length| *length == rest.len()) {
            parts.text = start..remark.end;
            parts.ports = Some(line.end - length..line.end);
            return parts;
        }
    }
    // The ports of a name that can't be used are its row's all the same.
    let word = reader.slice(&(start..line.end)).find(' ').map(|blank| start + blank);
    if let Some(end) = word
        && reader.slice(&(start..end)).contains('.')
        && reader.slice(&(start..end)).contains(['[', '<', '{'])
        && endpoint_run(reader, &(start..line.end), &remarks).is_none()
        && let Some(length) = ports::prefix(reader.slice(&(end..line.end)))
    {
        parts.text = start..end;
        parts.ports = Some(end..end + length);
        parts.behind = end + length..line.end;
        return parts;
    }
    if let Some(run) = endpoint_run(reader, &(start..line.end), &remarks) {
        parts.text = start..run.start;
        let rest = reader.slice(&(run.end..line.end));
        let all = Some(rest.len()).filter(|_| ports::is_only_ports(rest));
        match all.or_else(|| ports::prefix(rest)) {
            Some(length) => {
                parts.ports = Some(run.end..run.end + length);
                parts.behind = run.end + length..line.end;
            }
            None => parts.behind = run.end..line.end,
        }
        parts.endpoints = Some(run);
    }
    parts
}

/// The endpoints of a line, with nothing but ports or a remark between them and its end; or those
/// at its beginning with ports behind them.
fn endpoint_run(
    reader: &Reader<'_>,
    line: &Range<usize>,
    remarks: &[Range<usize>],
) -> Option<Range<usize>> {
    let tokens = reader.pending(line);
    let mut remarks = remarks.iter().peekable();
    let mut run: Option<Range<usize>> = None;
    for index in tokens {
        let token = reader.tokens.get(index)?;
        if matches!(token.kind, Kind::FileName | Kind::Dotted | Kind::ServiceTag | Kind::Email) {
            continue;
        }
        while remarks.next_if(|remark| remark.end <= token.range.start).is_some() {}
        if remarks.peek().is_some_and(|remark| remark.start <= token.range.start) {
            continue;
        }
        let joined = run.as_ref().is_some_and(|run| {
            let between = reader.slice(&(run.end..token.range.start));
            reader.is_separator(run.end..token.range.start) || is_only_remark(between)
        });
        match &mut run {
            Some(run) if joined => run.end = token.range.end,
            // Ports between two names belong to the first; only the line's beginning is sure.
            Some(first)
                if ports::prefix(reader.slice(&(first.end..token.range.start))).is_some() =>
            {
                break;
            }
            _ => run = Some(token.range.clone()),
        }
    }
    let run = run?;
    let behind = reader.slice(&(run.end..line.end));
    let at_start = reader.is_separator(line.start..run.start);
    let ends = reader.is_separator(run.end..line.end)
        || is_only_remark(behind)
        || ports::is_only_ports(behind);
    (ends || (at_start && ports::prefix(behind).is_some())).then_some(run)
}

/// Whether a text is nothing but words in brackets.
fn is_only_remark(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(['(', '（']) && text.ends_with([')', '）'])
}

// === rows ===

fn kind(reader: &Reader<'_>, lines: &[Line]) -> Option<Rows> {
    let count = |test: &dyn Fn(&Line) -> bool| lines.iter().filter(|line| test(line)).count();
    let listing = count(&|line| line.endpoints.is_some());
    let ports = count(&|line| line.ports.is_some() || line.ports_first.is_some());
    if listing == 0 {
        return None;
    }
    let ids = count(&|line| line.id.is_some());
    let facts = lines.iter().any(|line| has_facts(reader, line));
    if ids > 0 && (ports > 0 || facts) {
        return Some(Rows::Ids);
    }
    if !(ports > 0 && names_columns(reader, lines))
        && lines.iter().any(|line| is_sentence(reader, line) || words_before(reader, line) > FRONT)
    {
        return None;
    }
    // "Do not use a.example.com (TCP 443)" is a sentence; no table has one line and no numbers.
    if let [line] = lines
        && words_before(reader, line) > 0
    {
        return None;
    }
    if ports > 0 {
        let with_ports = |line: &&Line| line.ports.is_some() || line.ports_first.is_some();
        let first = lines.iter().find(|line| with_ports(line) || line.endpoints.is_some());
        let last = lines.iter().rev().find(|line| with_ports(line) || line.endpoints.is_some());
        let opens = first.is_some_and(|line| line.ports_first.is_some());
        let closes = last.is_some_and(|line| line.ports_first.is_some() || line.ports.is_some());
        let alone = |line: &Line| line.ports_first.is_some() && line.endpoints.is_none();
        let closes =
            closes && !(opens && last.is_some_and(|line| !alone(line) && line.ports.is_none()));
        let trails = lines.last().is_some_and(|line| {
            line.endpoints.is_none() && !with_ports(&line) && line.id.is_none()
        });
        return Some(match (opens && !closes, trails) {
            (true, _) => Rows::PortsFirst,
            (false, true) => Rows::EndpointsFirst,
            (false, false) => Rows::PortsLast,
        });
    }
    let all = lines.len() > 1 && listing * 2 >= lines.len();
    // The names of regions may be several words.
    if all && is_grouped(reader, lines) {
        return Some(Rows::Groups);
    }
    let labelled = lines.iter().all(|line| words_before(reader, line) <= 2);
    (all && labelled).then_some(Rows::Together)
}

/// Whether the first line is the header of a table of endpoints and ports: a few words, most of
/// which name columns.
///
/// No text begins with one, so that sentences below it are remarks in cells.
fn names_columns(reader: &Reader<'_>, lines: &[Line]) -> bool {
    let Some(line) = lines.first().filter(|line| line.endpoints.is_none()) else { return false };
    let text = prose::plain(reader.slice(&line.text));
    if text.ends_with(['.', ':', ',', '。', '：']) || prose::words_in(&text) > LONGEST_HEADER {
        return false;
    }
    let columns: Vec<Column> = text.split(' ').map(words::column).collect();
    let known = columns.iter().filter(|column| **column != Column::Unknown).count();
    known * 2 > columns.len()
        && columns.contains(&Column::Addresses)
        && columns.contains(&Column::Ports)
}

/// How many words stand in front of the endpoints of a line.
fn words_before(reader: &Reader<'_>, line: &Line) -> usize {
    match line.endpoints {
        Some(_) => prose::words_in(reader.slice(&line.text)),
        None => 0,
    }
}

/// Whether a line has a word that only a table of endpoint sets has.
fn has_facts(reader: &Reader<'_>, line: &Line) -> bool {
    let text = prose::plain(reader.slice(&line.text));
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let end = (1..=3.min(words.len())).any(|length| {
        let phrase = words.get(words.len() - length..).unwrap_or_default().join(" ");
        words::category(&phrase).is_some() || words::required(&phrase).is_some()
    });
    end || (line.endpoints.is_some() && words::truth(&text).is_some())
}

/// Whether a line is one of a text that a table would not have.
fn is_sentence(reader: &Reader<'_>, line: &Line) -> bool {
    let text = reader.slice(&line.text).trim_end();
    line.endpoints.is_none()
        && prose::words_in(text) > 8
        && text.ends_with(['.', '。', ':', '：', ','])
}

fn first_row(lines: &[Line], rows: Rows) -> usize {
    let starts = |line: &Line| match rows {
        Rows::Ids => line.id.is_some(),
        Rows::PortsFirst => line.ports_first.is_some(),
        Rows::EndpointsFirst => line.endpoints.is_some(),
        Rows::PortsLast | Rows::Groups | Rows::Together => true,
    };
    let first = lines.iter().position(starts).unwrap_or(0);
    match (rows, lines.first(), lines.get(1)) {
        // The first line names the columns, unless it is a part of the first row.
        (Rows::PortsLast | Rows::Groups | Rows::Together, Some(line), Some(_))
            if line.endpoints.is_none() && line.ports_first.is_none() =>
        {
            1
        }
        _ => first,
    }
}

fn begins(row: &Row, line: &Line, rows: Rows) -> bool {
    let filled = !row.endpoints.is_empty() || !row.ports.is_empty() || row.id.is_some();
    match rows {
        Rows::Ids => {
            line.id.is_some() && filled && (!row.ports.is_empty() || !row.endpoints.is_empty())
        }
        Rows::PortsFirst => line.ports_first.is_some() && !row.endpoints.is_empty(),
        Rows::PortsLast => {
            let more_ports = line.ports_first.is_some() && line.endpoints.is_none();
            !row.ports.is_empty() && !row.endpoints.is_empty() && !more_ports
        }
        Rows::EndpointsFirst => {
            line.endpoints.is_some() && !row.ports.is_empty() && !row.endpoints.is_empty()
        }
        Rows::Groups => {
            line.endpoints.is_some() && !line.text.is_empty() && !row.endpoints.is_empty()
        }
        Rows::Together => false,
    }
}

/// Whether the first column is the region, the tenant unit or the cloud.
fn is_grouped(reader: &Reader<'_>, header: &[Line]) -> bool {
    let Some(line) = header.first().filter(|line| line.endpoints.is_none()) else { return false };
    let text = prose::plain(reader.slice(&line.text));
    let words: Vec<&str> = text.split(' ').take(4).collect();
    (1..=words.len()).any(|length| {
        let phrase = words.get(..length).unwrap_or_default().join(" ");
        words::column(&phrase) == Column::Group
    })
}

impl Row {
    fn add(&mut self, line: &Line, rows: Rows) {
        if let Some(id) = &line.id
            && self.id.is_none()
            && rows == Rows::Ids
        {
            self.id = Some(id.clone());
        }
        let closed = !self.ports.is_empty() && matches!(rows, Rows::Ids | Rows::EndpointsFirst);
        if let Some(ports) = &line.ports_first {
            self.ports.push(ports.clone());
        }
        match (&line.endpoints, closed) {
            // Notes stand behind the ports.
            (Some(_), true) | (None, true) => self.behind.push(line.text.start..line.behind.end),
            (Some(endpoints), false) => {
                // What stands between two names is a remark or a label of the second.
                if self.endpoints.is_empty() {
                    self.text.push(line.text.clone());
                } else {
                    self.endpoints.push(line.text.clone());
                }
                let end = if line.ports.is_some() { endpoints.end } else { line.behind.end };
                self.endpoints.push(endpoints.start..end);
                if line.ports.is_some() {
                    self.behind.push(line.behind.clone());
                }
            }
            (None, false) if self.endpoints.is_empty() => self.text.push(line.text.clone()),
            (None, false) if line.text.is_empty() => {}
            (None, false) => self.endpoints.push(line.text.clone()),
        }
        if let Some(ports) = &line.ports {
            self.ports.push(ports.clone());
        }
    }
}

// === a row ===

fn read(reader: &mut Reader<'_>, row: &Row, rows: Rows, grouped: bool) {
    let mut cells = Vec::new();
    if let Some(id) = &row.id {
        cells.push(Cell { column: Column::Id, range: id.clone() });
    }
    if grouped {
        group(reader, row, &mut cells);
    } else if rows == Rows::Ids {
        facts(reader, row, &mut cells);
    } else {
        cells.extend(
            row.text.iter().map(|range| Cell { column: Column::Description, range: range.clone() }),
        );
    }
    if let (Some(first), Some(last)) = (row.endpoints.first(), row.endpoints.last()) {
        cells.push(Cell { column: Column::Addresses, range: first.start..last.end });
    }
    let mut phrases: Vec<String> = Vec::new();
    for ports in &row.ports {
        let phrase = prose::plain(reader.slice(ports));
        match phrases.last_mut() {
            // Ports and their protocol may be cells of their own.
            Some(last) if ports::prefix(last).is_none() || ports::prefix(&phrase).is_none() => {
                last.push(' ');
                last.push_str(&phrase);
            }
            _ => phrases.push(phrase),
        }
        cells.push(Cell { column: Column::Ports, range: ports.clone() });
    }
    for behind in &row.behind {
        let column = if rows == Rows::Ids { Column::Notes } else { Column::Description };
        cells.push(Cell { column, range: behind.clone() });
    }
    table::row(reader, &cells, &phrases);
}

/// The lines in front of the endpoints: description, category, requirement, ExpressRoute.
fn facts(reader: &Reader<'_>, row: &Row, cells: &mut Vec<Cell>) {
    let filled = |range: &&Range<usize>| !reader.slice(range).trim().is_empty();
    let mut lines: Vec<Range<usize>> = row.text.iter().filter(filled).cloned().collect();
    // The word in front of the first endpoint says yes or no.
    if let Some(last) = lines.last_mut() {
        let words = word_ranges(reader, last);
        if let Some(word) = words.last()
            && words::truth(reader.slice(word)).is_some()
        {
            cells.push(Cell { column: Column::ExpressRoute, range: word.clone() });
            last.end = word.start;
        }
    }
    let mut described = Vec::new();
    let mut classified = false;
    // Where the category has a line of its own, a word of one in front of it is the description's.
    let own = lines.iter().position(|line| {
        let text = prose::plain(reader.slice(line));
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let (category, _, used) = words::classification(&words);
        category.is_some() && used == words.len()
    });
    for (index, line) in lines.into_iter().enumerate() {
        let words = word_ranges(reader, &line);
        let texts: Vec<&str> = words.iter().map(|word| reader.slice(word)).collect();
        let described_only = own.is_some_and(|own| index < own);
        // The category ends the line that begins with the description.
        let split = (0..texts.len()).filter(|_| !described_only).find(|start| {
            let rest = texts.get(*start..).unwrap_or_default();
            let (category, required, used) = words::classification(rest);
            used == rest.len() && (category.is_some() || required.is_some())
        });
        match split.and_then(|split| words.get(split).map(|word| (split, word.start))) {
            Some((split, start)) => {
                if split > 0 {
                    described.push(line.start..start);
                }
                cells.push(Cell { column: Column::Category, range: start..line.end });
                classified = true;
            }
            // Behind the category stands what is lost without the endpoints.
            None if classified => cells.push(Cell { column: Column::Notes, range: line }),
            None => described.push(line),
        }
    }
    cells.extend(described.into_iter().map(|range| Cell { column: Column::Description, range }));
}

/// The group of a row: its tenant units, or all of its words.
fn group(reader: &Reader<'_>, row: &Row, cells: &mut Vec<Cell>) {
    let words: Vec<Range<usize>> =
        row.text.iter().flat_map(|line| word_ranges(reader, line)).collect();
    let units = words.iter().take_while(|word| is_unit(reader.slice(word))).count();
    let end = match units {
        0 => words.last().map(|word| word.end),
        units => words.get(units - 1).map(|word| word.end),
    };
    if let (Some(first), Some(end)) = (words.first(), end) {
        cells.push(Cell { column: Column::Group, range: first.start..end });
    }
}

/// `AMSUA0601`: capitals and then digits.
fn is_unit(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let capitals = word.len() - digits.len();
    capitals > 1 && digits.len() > 1 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn word_ranges(reader: &Reader<'_>, range: &Range<usize>) -> Vec<Range<usize>> {
    let text = reader.slice(range);
    let mut words = Vec::new();
    let mut start = None;
    for (offset, character) in text.char_indices() {
        match (start, character.is_whitespace()) {
            (None, false) => start = Some(offset),
            (Some(first), true) => {
                words.push(range.start + first..range.start + offset);
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|first| range.start + first..range.end));
    words
}

/// Whether a line may be the first of a row that the next paragraphs go on with.
pub(super) fn is_lone_id(line: &str) -> bool {
    let line = line.trim();
    (1..=5).contains(&line.len()) && line.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a paragraph may be a cell of a row whose cells have become paragraphs.
pub(super) fn may_be_cell(text: &str) -> bool {
    prose::words_in(text.lines().next().unwrap_or_default()) <= LABEL && !is_lone_id(text)
}

/// Whether a paragraph ends a row whose cells have become paragraphs.
pub(super) fn ends_row(text: &str) -> bool {
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    ports::prefix(last).is_some_and(|length| length == last.len())
        && ports::read(last, Reading::Cell).protocol == ports::Protocol::Said
}
