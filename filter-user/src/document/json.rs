// SPDX-License-Identifier: MIT OR Apache-2.0
//! JSON with the place of each value.
//!
//! `serde_json` says where a text stops being JSON, but not where a value stood. The feeds'
//! readers need that: a report names the line of each token, and an error the field that is wrong.

use std::{borrow::Cow, collections::BTreeMap};

use super::{InvalidDocument, lines::Lines};

/// A value and the bytes that it is written in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node<'a> {
    /// The offset of its first byte.
    pub(super) start: usize,
    /// The offset behind its last byte.
    pub(super) end: usize,
    pub(super) value: Value<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(BTreeMap<Cow<'a, str>, Node<'a>>),
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) problem: String,
}

/// How deep arrays and objects may stand in each other; the feeds need five.
const MAX_DEPTH: usize = 64;

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// Parses a text that is one JSON value.
pub(super) fn parse(text: &str) -> Result<Node<'_>, Fault> {
    let mut parser = Parser { text, at: 0 };
    let node = parser.value(0)?;
    parser.skip_blanks();
    if parser.at < text.len() {
        return Err(parser.fault("expected the end of the file behind the JSON value"));
    }
    Ok(node)
}

// === impl Fault ===

impl Fault {
    pub(super) fn new(offset: usize, problem: impl Into<String>) -> Self {
        Self { offset, problem: problem.into() }
    }

    pub(super) fn at(self, lines: &Lines<'_>) -> InvalidDocument {
        InvalidDocument::Json {
            line: lines.line(self.offset),
            column: lines.column(self.offset),
            problem: self.problem,
        }
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    /// What kind of value it is, as a reader of an error knows it.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }

    /// A field that is there and isn't null.
    pub(super) fn field(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Object(fields) => {
                fields.get(key).filter(|node| !matches!(node.value, Value::Null))
            }
            _ => None,
        }
    }

    pub(super) fn expect_object(&self, what: &str) -> Result<(), Fault> {
        match &self.value {
            Value::Object(_) => Ok(()),
            _ => Err(self.unexpected(what, "an object")),
        }
    }

    pub(super) fn array(&self, what: &str) -> Result<&[Node<'a>], Fault> {
        match &self.value {
            Value::Array(items) => Ok(items),
            _ => Err(self.unexpected(what, "an array")),
        }
    }

    pub(super) fn text(&self, what: &str) -> Result<&str, Fault> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.unexpected(what, "a string")),
        }
    }

    pub(super) fn boolean(&self, what: &str) -> Result<bool, Fault> {
        match &self.value {
            Value::Bool(value) => Ok(*value),
            _ => Err(self.unexpected(what, "true or false")),
        }
    }

    /// A number from 0 that has no fraction.
    pub(super) fn whole(&self, what: &str) -> Result<u32, Fault> {
        let number = match &self.value {
            Value::Number(number) => number.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| self.unexpected(what, "a whole number"))
    }

    fn unexpected(&self, what: &str, expected: &str) -> Fault {
        let found = match &self.value {
            Value::Number(number) if number.len() <= 20 => format!("the number {number}"),
            _ => self.kind().to_owned(),
        };
        Fault::new(self.start, format!("expected {expected} for {what}, found {found}"))
    }
}

// === impl Parser ===

impl<'a> Parser<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Fault> {
        self.skip_blanks();
        let start = self.at;
        if depth > MAX_DEPTH {
            return Err(self.fault("arrays and objects stand too deep in each other"));
        }
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            _ => return Err(self.expected("a JSON value")),
        };
        Ok(Node { start, end: self.at, value })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, Fault> {
        self.at += 1;
        let mut fields = BTreeMap::new();
        self.skip_blanks();
        if self.take(b'}') {
            return Ok(Value::Object(fields));
        }
        loop {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a field's name in double quotes"));
            }
            let start = self.at;
            let key = self.string()?;
            self.skip_blanks();
            if !self.take(b':') {
                return Err(self.expected("':' behind a field's name"));
            }
            let node = self.value(depth + 1)?;
            // Readers differ on which of the two counts, so that neither can be trusted.
            if fields.contains_key(&key) {
                let shown: String = key.chars().filter(|c| !c.is_control()).take(40).collect();
                let problem = format!("the field `{shown}` stands twice in this object");
                return Err(Fault::new(start, problem));
            }
            fields.insert(key, node);
            self.skip_blanks();
            if self.take(b'}') {
                return Ok(Value::Object(fields));
            }
            if !self.take(b',') {
                return Err(self.expected("',' or '}' in an object"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, Fault> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_blanks();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.expected("',' or ']' in an array"));
            }
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        let start = self.at;
        let mut escapes = false;
        let mut end = start + 1;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes = true;
                    end += 2;
                }
                Some(b'\n') => {
                    return Err(Fault::new(end, "expected '\"' at the end of a string"));
                }
                Some(_) => end += 1,
                None => {
                    self.at = bytes.len();
                    return Err(self.expected("'\"' at the end of a string"));
                }
            }
        }
        self.at = end + 1;
        let raw = self.text.get(start..end + 1).unwrap_or_default();
        if !escapes {
            return Ok(Cow::Borrowed(raw.trim_matches('"')));
        }
        // A lone half of a surrogate pair and unknown letters behind the backslash are refused.
        serde_json::from_str::<String>(raw)
            .map(Cow::Owned)
            .map_err(|_position| Fault::new(start, "this string has an invalid escape"))
    }

    fn number(&mut self) -> Result<Value<'a>, Fault> {
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        let length = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))
            .unwrap_or(rest.len());
        let number = rest.get(..length).unwrap_or_default();
        if serde_json::from_str::<serde_json::Number>(number).is_err() {
            return Err(self.expected("a JSON value"));
        }
        self.at += length;
        Ok(Value::Number(number))
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Fault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.expected("a JSON value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn skip_blanks(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|byte| b" \n\t\r".contains(byte)).count();
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    fn expected(&self, what: &str) -> Fault {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => self.fault(&format!("expected {what}, found {found:?}")),
            None => self.fault(&format!(
                "expected {what}, found the end of the file: was the download cut short?"
            )),
        }
    }

    fn fault(&self, problem: &str) -> Fault {
        Fault::new(self.at, problem)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(node: &Node<'_>) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => serde_json::from_str(number).unwrap(),
            Value::Text(text) => (**text).into(),
            Value::Array(items) => items.iter().map(plain).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(key, node)| (key.to_string(), plain(node))).collect()
            }
        }
    }

    #[test]
    fn reads_what_serde_reads() {
        for text in [
            "[]",
            " {} ",
            r#"{"a":[1,-2.5e3,true,false,null,"x\"\u00e9\n"],"b":{"c":""}}"#,
            "\"\\\\\"",
            "[\n {\"id\": 1}\n]\n",
        ] {
            let expected: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(plain(&parse(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn faults_say_where_and_what() {
        let deep = "[".repeat(200_000);
        for (text, expected) in [
            (
                "",
                "0: expected a JSON value, found the end of the file: was the download cut short?",
            ),
            (
                "[1, 2",
                "5: expected ',' or ']' in an array, found the end of the file: was the download cut short?",
            ),
            ("[1 2]", "3: expected ',' or ']' in an array, found '2'"),
            ("[1,]", "3: expected a JSON value, found ']'"),
            ("{a: 1}", "1: expected a field's name in double quotes, found 'a'"),
            ("{\"a\" 1}", "5: expected ':' behind a field's name, found '1'"),
            ("{\"a\": 1, \"a\": 2}", "9: the field `a` stands twice in this object"),
            (
                "[\"a",
                "3: expected '\"' at the end of a string, found the end of the file: was the download cut short?",
            ),
            ("[\"a\n\"]", "3: expected '\"' at the end of a string"),
            ("[\"\\x\"]", "1: this string has an invalid escape"),
            ("[01]", "1: expected a JSON value, found '0'"),
            ("[tru]", "1: expected a JSON value, found 't'"),
            ("[] x", "3: expected the end of the file behind the JSON value"),
            (deep.as_str(), "65: arrays and objects stand too deep in each other"),
        ] {
            let fault = parse(text).unwrap_err();
            let shown = format!("{}: {}", fault.offset, fault.problem);
            assert_eq!(shown, expected, "{text:.40}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_on_any_text(text in r#"[\[\]{}",:0-9a-e\\ .\-ntrufls\u{e9}]{0,24}"#) {
            if let Ok(node) = parse(&text) {
                let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(plain(&node), expected);
            } else if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                // Only what stands twice is refused beyond what is no JSON.
                prop_assert!(value.to_string().len() < text.len());
            }
        }
    }
}
