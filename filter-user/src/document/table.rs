// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of endpoints.

use std::ops::Range;

use super::{
    Category, Note, PortsFrom, Stated, Why,
    assemble::{Draft, DraftKind, Fate, Reader},
    ports::{self, Protocol, Reading},
    prose,
    token::Kind,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Id,
    Description,
    Category,
    ExpressRoute,
    Addresses,
    Ports,
    Group,
    Notes,
    Unknown,
}

/// Parts of header words, lower case; the first that fits decides.
const HEADERS: [(Column, &[&str]); 7] = [
    (Column::Ports, &["port", "puerto", "poort", "порт", "ポート", "端口", "포트"]),
    (Column::Category, &["categor", "kategori", "catégor", "カテゴリ", "类别"]),
    (
        Column::Description,
        &["desc", "beskriv", "beschreib", "service", "feature", "purpose", "説明"],
    ),
    (Column::Notes, &["note", "remark", "remarque", "anmerk", "comment", "kommentar", "hinweis"]),
    (
        Column::Group,
        &["region", "région", "location", "tenant", "cloud", "environment", "scale unit", "område"],
    ),
    (
        Column::Addresses,
        &[
            "address",
            "adress",
            "indirizz",
            "direcci",
            "endereço",
            "адрес",
            "cdn",
            "fqdn",
            "url",
            "host",
            "endpoint",
            "domain",
            "domän",
            "domäne",
            "domaine",
            "server",
            "destination",
            "アドレス",
            "地址",
            "주소",
        ],
    ),
    (Column::ExpressRoute, &["expressroute", "express route"]),
];

const CATEGORIES: [(Category, &[&str]); 3] = [
    (Category::Optimize, &["optimi", "optimer"]),
    (Category::Allow, &["allow", "tillåt", "autoris", "zulassen", "permit", "consenti"]),
    (Category::Default, &["default", "standard", "défaut", "predetermin", "padrão"]),
];

const OPTIONAL: [&str; 7] =
    ["optional", "not required", "valfri", "facultati", "opcional", "opzional", "可选"];

const REQUIRED: [&str; 10] = [
    "required",
    "krävs",
    "obligatoris",
    "obligatoire",
    "requis",
    "erforderlich",
    "requerid",
    "obligator",
    "必需",
    "必須",
];

const YES: [&str; 9] = ["true", "yes", "sant", "ja", "vrai", "oui", "wahr", "sí", "vero"];
const NO: [&str; 9] = ["false", "no", "falskt", "nej", "faux", "non", "nein", "falsch", "falso"];

/// Reads a table: each row with endpoints becomes a draft.
pub(super) fn read(reader: &mut Reader<'_>, header: &[Range<usize>], rows: &[Vec<Range<usize>>]) {
    let columns = columns(reader, header, rows);
    for cell in header {
        reader.prose(cell);
    }
    for cells in rows {
        if columns.contains(&Column::Addresses) {
            row(reader, &columns, cells);
        }
        for cell in cells {
            reader.prose(cell);
        }
    }
}

fn columns(
    reader: &Reader<'_>,
    header: &[Range<usize>],
    rows: &[Vec<Range<usize>>],
) -> Vec<Column> {
    let mut columns: Vec<Column> =
        header.iter().map(|cell| column(&prose::plain(reader.slice(cell)))).collect();
    let by_content = |index: usize, test: &dyn Fn(&Range<usize>) -> bool| {
        let filled = rows
            .iter()
            .filter_map(|row| row.get(index))
            .filter(|cell| !reader.slice(cell).trim().is_empty());
        let (all, yes) =
            filled.fold((0, 0), |(all, yes), cell| (all + 1, yes + usize::from(test(cell))));
        all > 0 && yes * 2 > all
    };
    let known = |columns: &[Column], column| columns.contains(&column);
    let has_addresses = known(&columns, Column::Addresses);
    let has_ports = known(&columns, Column::Ports);
    for (index, column) in columns.iter_mut().enumerate() {
        if *column != Column::Unknown {
            continue;
        }
        if !has_addresses && by_content(index, &|cell| is_endpoints(reader, cell)) {
            *column = Column::Addresses;
        } else if !has_ports && by_content(index, &|cell| is_ports(reader, cell)) {
            *column = Column::Ports;
        }
    }
    columns
}

fn column(header: &str) -> Column {
    let header = header.to_lowercase();
    match header.as_str() {
        "id" | "#" => return Column::Id,
        "er" => return Column::ExpressRoute,
        _ => {}
    }
    HEADERS
        .iter()
        .find(|(_, words)| words.iter().any(|word| header.contains(word)))
        .map_or(Column::Unknown, |(column, _)| *column)
}

/// Whether a cell is mostly endpoints.
fn is_endpoints(reader: &Reader<'_>, cell: &Range<usize>) -> bool {
    let tokens: usize = reader
        .pending(cell)
        .into_iter()
        .filter_map(|index| reader.tokens.get(index))
        .filter(|token| matches!(token.kind, Kind::Name | Kind::Url(_) | Kind::Net(_)))
        .map(|token| token.range.len())
        .sum();
    let letters = prose::plain(reader.slice(cell)).chars().filter(|c| c.is_alphanumeric()).count();
    tokens * 2 > letters
}

/// Whether a cell holds ports and nothing else; a link to documentation has numbers too.
fn is_ports(reader: &Reader<'_>, cell: &Range<usize>) -> bool {
    reader.pending(cell).is_empty() && ports::is_only_ports(&ports_text(reader.slice(cell)))
}

/// The text of a cell with ports: without targets of links, a line for each piece.
fn ports_text(cell: &str) -> String {
    let pieces = pieces(cell, 0);
    let lines = pieces.into_iter().map(|piece| prose::plain(cell.get(piece).unwrap_or_default()));
    lines.collect::<Vec<_>>().join("\n")
}

fn row(reader: &mut Reader<'_>, columns: &[Column], cells: &[Range<usize>]) {
    let (Some(first), Some(last)) = (cells.first(), cells.last()) else { return };
    let lines = (reader.line(first.start), reader.line(last.end.saturating_sub(1)));
    let mut draft = reader.draft(DraftKind::Row);
    draft.lines = lines;
    let mut has_ports = false;
    for (column, cell) in columns.iter().zip(cells) {
        let raw = reader.slice(cell).to_owned();
        let text = prose::plain(&raw);
        match column {
            Column::Id => draft.id = text.parse().ok(),
            Column::Description => draft.description = text,
            Column::Category => category(&mut draft, &raw),
            Column::ExpressRoute => draft.express_route = stated(&text),
            Column::Ports => {
                let phrase = ports::read(&ports_text(&raw), Reading::Cell);
                if !phrase.ports.is_empty() {
                    has_ports = true;
                    if phrase.protocol == Protocol::Assumed {
                        let text = "the page names no protocol; TCP is assumed".to_owned();
                        draft.notes.push(Note::Finding(text));
                    }
                    draft.ports = Some((phrase.ports, PortsFrom::Row));
                }
            }
            Column::Group if !text.is_empty() => draft.group = Some(text),
            Column::Notes if !text.is_empty() => draft.notes.push(Note::Remark(text)),
            Column::Addresses => addresses(reader, &mut draft, cell),
            Column::Group | Column::Notes | Column::Unknown => {}
        }
    }
    if draft.members.is_empty() && has_ports {
        let text = "the row has ports and no usable address; it grants nothing".to_owned();
        reader.warn(lines.0, text);
    }
    reader.add(draft);
}

/// The cell with the endpoints: its pieces between line breaks, with remarks in brackets.
fn addresses(reader: &mut Reader<'_>, draft: &mut Draft, cell: &Range<usize>) {
    for piece in pieces(reader.slice(cell), cell.start) {
        let text = reader.slice(&piece).to_owned();
        let remarks = remarks(&text, piece.start);
        let mut last: Option<(usize, String)> = None;
        for index in reader.pending(&piece) {
            let Some(token) = reader.tokens.get(index) else { continue };
            let remark = remarks.iter().find(|remark| remark.contains(&token.range.start));
            let remark = remark.map(|remark| reader.slice(remark));
            let fate = match &token.kind {
                Kind::Name | Kind::Url(_) | Kind::Net(_) => match remark {
                    Some(remark) if prose::is_migration(remark) => {
                        Fate::LeftOut(Why::MigrationNotice)
                    }
                    Some(remark) => {
                        Fate::LeftOut(prose::why(token, remark).unwrap_or(Why::Mention))
                    }
                    None if remarks.is_empty() && prose::is_migration(&text) => {
                        Fate::LeftOut(Why::MigrationNotice)
                    }
                    None if prose::is_documentation(token) => Fate::LeftOut(Why::Documentation),
                    None => Fate::Member,
                },
                Kind::FileName => Fate::LeftOut(Why::FileName),
                Kind::ServiceTag => Fate::LeftOut(Why::ServiceTag),
                Kind::Placeholder => Fate::LeftOut(Why::Placeholder),
                Kind::Email => Fate::LeftOut(Why::Mention),
                Kind::Broken | Kind::Dotted => Fate::LeftOut(Why::Broken),
            };
            let (line, name) = (token.line, token.text.clone());
            let (path, end) = (prose::path_note(token), token.range.end);
            if fate == Fate::LeftOut(Why::Broken) {
                reader.warn(line, format!("\"{name}\" is no valid endpoint; it is left out"));
            }
            if fate == Fate::Member {
                draft.notes.extend(path);
                last = Some((end, name));
                draft.members.push(index);
            }
            reader.settle(index, fate);
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
            let note = match glued {
                Some((_, name)) => Note::Remark(format!("{name}: {said}")),
                _ => Note::Remark(said),
            };
            if !draft.notes.contains(&note) {
                draft.notes.push(note);
            }
        }
        if remarks.is_empty() && prose::is_migration(&text) {
            draft.notes.push(Note::Remark(prose::plain(&text)));
        }
    }
}

/// The pieces of a cell between line breaks.
fn pieces(cell: &str, offset: usize) -> Vec<Range<usize>> {
    let lower = cell.to_ascii_lowercase();
    let mut pieces = Vec::new();
    let mut start = 0;
    while let Some(tag) = lower.get(start..).and_then(|rest| rest.find("<br")) {
        let end = start + tag;
        pieces.push(offset + start..offset + end);
        let close = lower.get(end..).and_then(|rest| rest.find('>'));
        start = close.map_or(lower.len(), |close| end + close + 1);
    }
    pieces.push(offset + start..offset + cell.len());
    pieces
}

/// Brackets with words in them; brackets with nothing but endpoints are no remarks.
fn remarks(text: &str, offset: usize) -> Vec<Range<usize>> {
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
                    if inside.split_whitespace().any(is_word) {
                        remarks.push(offset + start..offset + end);
                    }
                }
            }
            _ => {}
        }
    }
    remarks
}

fn category(draft: &mut Draft, cell: &str) {
    for piece in pieces(cell, 0) {
        let text = prose::plain(cell.get(piece).unwrap_or_default());
        let lower = text.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let found = CATEGORIES.iter().find(|(_, words)| has(words)).map(|(category, _)| *category);
        // A note says what is lost without the endpoints; it may hold any of the words.
        if lower.split_whitespace().count() > 3 {
            draft.notes.push(Note::Remark(text));
            continue;
        }
        if draft.category.is_none() {
            draft.category = found;
        }
        if has(&OPTIONAL) {
            draft.required = Stated::No;
        } else if has(&REQUIRED) {
            draft.required = Stated::Yes;
        }
    }
}

fn stated(text: &str) -> Stated {
    let lower = text.to_lowercase();
    if YES.contains(&lower.as_str()) {
        Stated::Yes
    } else if NO.contains(&lower.as_str()) {
        Stated::No
    } else {
        Stated::Unstated
    }
}
