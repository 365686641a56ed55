// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a TOML tree: every value knows where it stands and how to complain about itself.

use std::{collections::BTreeMap, fmt::Write as _, io, ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Diagnostic, GATEWAY_FILE, Kind};
use crate::policy::Origin;

/// What was found so far.
#[derive(Default)]
pub(super) struct Report {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
}

/// A file and where its lines begin.
pub(super) struct TomlFile<'a> {
    name: Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
}

/// A table that is being read.
pub(super) struct Section<'a> {
    file: &'a TomlFile<'a>,
    /// How messages call it: `[gateway]`, `rule "intune-163"`.
    pub(super) title: String,
    pub(super) origin: Origin,
    entries: BTreeMap<&'a str, (Origin, &'a Spanned<DeValue<'a>>)>,
}

/// A value, with the key it stands under.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    file: &'a TomlFile<'a>,
    title: Arc<str>,
    key: &'a str,
    place: Place,
    value: &'a Spanned<DeValue<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The value of the key itself.
    Whole,
    /// A member of the key's list.
    Member,
}

// === impl Report ===

impl Report {
    pub(super) fn error(
        &mut self,
        origin: &Origin,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors.push(Diagnostic {
            kind: Kind::Invalid,
            origin: Some(origin.clone()),
            message: message.into(),
            help: help.into(),
        });
    }

    pub(super) fn warning(
        &mut self,
        kind: Kind,
        origin: &Origin,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warnings.push(Diagnostic {
            kind,
            origin: Some(origin.clone()),
            message: message.into(),
            help: help.into(),
        });
    }

    pub(super) fn missing_gateway_file(&mut self) {
        self.errors.push(Diagnostic {
            kind: Kind::Invalid,
            origin: None,
            message: format!("{GATEWAY_FILE}: the file is missing"),
            help: "create it in the configuration directory, with a table [gateway] that sets \
                   inside and outside"
                .to_owned(),
        });
    }

    pub(super) fn unreadable(&mut self, name: &str, error: &io::Error) {
        self.errors.push(Diagnostic {
            kind: Kind::Invalid,
            origin: None,
            message: format!("{name}: can't be read: {error}"),
            help: "give the daemon's user a file there that it may read".to_owned(),
        });
    }

    pub(super) fn not_utf8(&mut self, name: &str, bytes: &[u8], error: std::str::Utf8Error) {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let origin = Origin { file: Arc::from(name), line: line_number(count_lines(good)) };
        self.error(
            &origin,
            format!("byte {} of the file is no UTF-8", error.valid_up_to() + 1),
            "this is a binary file or another encoding: save it as UTF-8 text",
        );
    }
}

// === impl TomlFile ===

impl<'a> TomlFile<'a> {
    pub(super) fn new(name: Arc<str>, text: &'a str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(newline, _)| newline + 1))
            .collect();
        Self { name, text, line_starts }
    }

    pub(super) fn is_gateway_file(&self) -> bool {
        &*self.name == GATEWAY_FILE
    }

    /// The tree, or `None` after complaints about its syntax.
    pub(super) fn table(&self, report: &mut Report) -> Option<DeTable<'a>> {
        if let Some(at) = self.text.find('\0') {
            report.error(
                &self.origin(at..at),
                "the file has a NUL byte",
                "this is a binary file or UTF-16: save it as UTF-8 text",
            );
            return None;
        }
        let (table, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return Some(table.into_inner());
        }
        let mut line = 0;
        for error in errors {
            let origin = self.origin(error.span().unwrap_or(0..0));
            // Behind the first fault of a line the parser is out of step.
            if origin.line != line {
                line = origin.line;
                report.error(&origin, format!("TOML syntax: {}", error.message()), SYNTAX_HELP);
            }
        }
        None
    }

    pub(super) fn origin(&self, span: Range<usize>) -> Origin {
        let line = self.line_starts.partition_point(|start| *start <= span.start);
        Origin { file: Arc::clone(&self.name), line: line_number(line.saturating_sub(1)) }
    }
}

const SYNTAX_HELP: &str = "correct the line; the rest of this file is not checked until then";

// === impl Section ===

impl<'a> Section<'a> {
    pub(super) fn new(
        file: &'a TomlFile<'a>,
        title: &str,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| (&**key.get_ref(), (file.origin(key.span()), value)))
            .collect();
        Self { file, title: title.to_owned(), origin: file.origin(span), entries }
    }

    /// Complains about every key that isn't known here.
    pub(super) fn only(&self, known: &[&str], report: &mut Report) {
        for (key, (origin, _)) in &self.entries {
            if !known.contains(key) {
                let message = format!("{}: unknown key {key:?}", self.title);
                report.error(origin, message, did_you_mean(key, known));
            }
        }
    }

    pub(super) fn get(&self, key: &'a str) -> Option<Entry<'a>> {
        let (_, value) = self.entries.get(key)?;
        Some(Entry {
            file: self.file,
            title: Arc::from(&*self.title),
            key,
            place: Place::Whole,
            value,
        })
    }

    /// The value of a key that has to be there.
    pub(super) fn need(&self, key: &'a str, help: &str, report: &mut Report) -> Option<Entry<'a>> {
        let entry = self.get(key);
        if entry.is_none() {
            report.error(&self.origin, format!("{}: {key} is missing", self.title), help);
        }
        entry
    }

    pub(super) fn boolean(&self, key: &'a str, default: bool, report: &mut Report) -> bool {
        let Some(entry) = self.get(key) else { return default };
        match entry.value.get_ref() {
            DeValue::Boolean(value) => *value,
            _ => {
                entry.wrong_type("true or false", "write true or false, without quotes", report);
                default
            }
        }
    }
}

// === impl Entry ===

impl<'a> Entry<'a> {
    pub(super) fn origin(&self) -> Origin {
        self.file.origin(self.value.span())
    }

    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    /// The start of a message: `rule "a": to has "x"` or `[dns]: grace = "x"`.
    pub(super) fn subject(&self) -> String {
        let joint = match self.place {
            Place::Whole => " =",
            Place::Member => " has",
        };
        format!("{}: {}{joint} {}", self.title, self.key, shown(self.value.get_ref()))
    }

    pub(super) fn error(&self, what: &str, help: impl Into<String>, report: &mut Report) {
        report.error(&self.origin(), format!("{}: {what}", self.subject()), help);
    }

    pub(super) fn warning(
        &self,
        kind: Kind,
        what: &str,
        help: impl Into<String>,
        report: &mut Report,
    ) {
        report.warning(kind, &self.origin(), format!("{}: {what}", self.subject()), help);
    }

    /// An error whose text says what is wrong and, after a semicolon, how to mend it.
    pub(super) fn invalid(&self, text: &str, report: &mut Report) {
        match text.split_once("; ") {
            Some((what, help)) => self.error(what, help, report),
            None => self.error("can't be used", text, report),
        }
    }

    pub(super) fn wrong_type(&self, wanted: &str, help: &str, report: &mut Report) {
        let found = type_name(self.value.get_ref());
        self.error(&format!("this is {found} where {wanted} belongs"), help, report);
    }

    pub(super) fn string(&self, help: &str, report: &mut Report) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            _ => {
                self.wrong_type("a string", help, report);
                None
            }
        }
    }

    /// The whole number, where it fits.
    pub(super) fn integer(&self) -> Option<i64> {
        match self.value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        }
    }

    /// The members of a list; an empty one is allowed.
    pub(super) fn members(&self, help: &str, report: &mut Report) -> Option<Vec<Self>> {
        match self.value.get_ref() {
            DeValue::Array(values) => Some(
                values
                    .iter()
                    .map(|value| Self { place: Place::Member, value, ..self.clone() })
                    .collect(),
            ),
            _ => {
                self.wrong_type("a list", help, report);
                None
            }
        }
    }

    /// The members of a list, or the one value that stands without brackets.
    pub(super) fn one_or_many(&self, help: &str, report: &mut Report) -> Option<Vec<Self>> {
        match self.value.get_ref() {
            DeValue::Array(_) => self.members(help, report),
            _ => Some(vec![self.clone()]),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], report: &mut Report) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let help = format!("write {}", quoted_list(&words, "or"));
        let text = self.string(&help, report)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            self.error("there is no such choice", help, report);
        }
        found.map(|(_, choice)| *choice)
    }
}

// === helpers ===

/// `did you mean "inside"?`, or the list of what is known.
pub(super) fn did_you_mean(written: &str, known: &[&str]) -> String {
    match nearest(written, known) {
        Some(word) => format!("did you mean {word:?}?"),
        None => format!("what can stand here: {}", known.join(", ")),
    }
}

/// The known word that a misspelt one was most likely meant to be.
pub(super) fn nearest<'k>(written: &str, known: &[&'k str]) -> Option<&'k str> {
    // Words of any length come in here, and the distance costs their product.
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return None;
    }
    known
        .iter()
        .map(|word| (distance(written, word), *word))
        .filter(|(distance, word)| *distance <= 2 && *distance < word.len())
        .min()
        .map(|(_, word)| word)
}

/// `"a", "b" or "c"`
pub(super) fn quoted_list(words: &[&str], joint: &str) -> String {
    let mut list = String::new();
    for (index, word) in words.iter().enumerate() {
        let before = match index {
            0 => "",
            _ if index + 1 == words.len() => &format!(" {joint} "),
            _ => ", ",
        };
        // Writing to a string can't fail.
        let _ = write!(list, "{before}{word:?}");
    }
    list
}

/// A value as it stands in a message: on one line, and not too long.
fn shown(value: &DeValue<'_>) -> String {
    const LONGEST: usize = 80;
    match value {
        DeValue::String(text) if text.chars().count() > LONGEST => {
            let head: String = text.chars().take(LONGEST).collect();
            format!("{head:?}...")
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(values) if values.is_empty() => "[]".to_owned(),
        DeValue::Array(_) => "[...]".to_owned(),
        DeValue::Table(_) => "{...}".to_owned(),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// How many single-character changes lie between two words (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut next = vec![line + 1];
        for ((above_left, above), to) in row.iter().zip(row.iter().skip(1)).zip(&right) {
            let before = next.last().copied().unwrap_or_default();
            let change = above_left + usize::from(from != *to);
            next.push(change.min(above + 1).min(before + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The number of a line, from 1, out of its index.
fn line_number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 1) + 1
}
