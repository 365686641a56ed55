// SPDX-License-Identifier: MIT OR Apache-2.0
//! As much of Rust's lexical structure as the rules need: code without comments and strings,
//! comments without code, and which code is only for tests.

/// A source file, taken apart.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// Identifiers, `::`, and other characters one by one.
    pub(super) tokens: Vec<Token<'a>>,
    /// Lines of comments, as (line, text).
    pub(super) comments: Vec<(usize, &'a str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
    pub(super) part: Part,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The product.
    Product,
    /// An item under `#[cfg(test)]`.
    Test,
}

/// Takes a source file apart.
pub(super) fn lex(text: &str) -> Source<'_> {
    let mut lexer = Lexer {
        text,
        position: 0,
        line: 1,
        source: Source { tokens: Vec::new(), comments: Vec::new() },
    };
    lexer.run();
    let mut source = lexer.source;
    mark_tests(&mut source.tokens);
    source
}

impl Token<'_> {
    pub(super) fn is_identifier(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

struct Lexer<'a> {
    text: &'a str,
    position: usize,
    line: usize,
    source: Source<'a>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) {
        while let Some(first) = self.rest().chars().next() {
            let rest = self.rest();
            if rest.starts_with("//") {
                let length = rest.find('\n').unwrap_or(rest.len());
                self.comment(length);
            } else if rest.starts_with("/*") {
                self.comment(block_comment(rest));
            } else if let Some(length) = string(rest) {
                self.advance(length);
            } else if first == '\'' {
                self.advance(quote(rest));
            } else if first.is_alphabetic() || first == '_' {
                let start = if rest.starts_with("r#") { 2 } else { 0 };
                self.advance(start);
                let length = word(self.rest());
                self.token(length);
            } else if first.is_ascii_digit() {
                self.advance(word(rest));
            } else if rest.starts_with("::") {
                self.token(2);
            } else if first.is_whitespace() {
                self.advance(first.len_utf8());
            } else {
                self.token(first.len_utf8());
            }
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn advance(&mut self, length: usize) -> &'a str {
        let rest = self.rest();
        let passed = rest.get(..length).unwrap_or(rest);
        self.line += passed.matches('\n').count();
        self.position += passed.len();
        passed
    }

    fn token(&mut self, length: usize) {
        let line = self.line;
        let text = self.advance(length);
        if !text.is_empty() {
            self.source.tokens.push(Token { text, line, part: Part::Product });
        }
    }

    fn comment(&mut self, length: usize) {
        let line = self.line;
        let text = self.advance(length);
        self.source.comments.extend((line..).zip(text.lines()));
    }
}

/// The length of the identifier, keyword or number at the start.
fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The length of the (nested) block comment at the start.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut position = 0;
    while let Some(rest) = text.get(position..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            position += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return position;
            }
        } else {
            position += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string at the start, of whichever kind, if there is one.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| {
            let raw = prefix.ends_with('r');
            rest.starts_with('"') || raw && rest.trim_start_matches('#').starts_with('"')
        })
    })?;
    let rest = text.get(prefix.len()..)?;
    if prefix.ends_with('r') {
        let hashes = rest.find('"')?;
        let close = format!("\"{}", rest.get(..hashes)?);
        let open = prefix.len() + hashes + 1;
        let end = text.get(open..)?.find(&close).map(|end| open + end + close.len());
        // `r#"` can't be anything else, and a string without an end doesn't compile.
        return Some(end.unwrap_or(text.len()));
    }
    let mut escaped = false;
    for (position, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix.len() + position + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of the character literal at the start, or of the quote alone before a lifetime.
fn quote(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            characters.next();
            text.char_indices().skip(3).find(|(_, c)| *c == '\'').map_or(1, |(end, _)| end + 1)
        }
        Some((_, character)) if character != '\'' => match characters.next() {
            Some((end, '\'')) => end + 1,
            _ => 1,
        },
        _ => 1,
    }
}

/// Marks the items under `#[cfg(test)]`, or everything after `#![cfg(test)]`.
fn mark_tests(tokens: &mut [Token<'_>]) {
    let mut position = 0;
    while position < tokens.len() {
        let Some(attribute) = attribute_at(tokens, position) else {
            position += 1;
            continue;
        };
        if !attribute.is_test {
            position = attribute.end;
            continue;
        }
        let end = if attribute.is_inner { tokens.len() } else { item_end(tokens, attribute.end) };
        for token in tokens.iter_mut().take(end).skip(position) {
            token.part = Part::Test;
        }
        position = end;
    }
}

struct Attribute {
    end: usize,
    is_test: bool,
    is_inner: bool,
}

fn attribute_at(tokens: &[Token<'_>], start: usize) -> Option<Attribute> {
    let text = |position: usize| tokens.get(position).map(|token| token.text);
    if text(start)? != "#" {
        return None;
    }
    let is_inner = text(start + 1)? == "!";
    let open = if is_inner { start + 2 } else { start + 1 };
    if text(open)? != "[" {
        return None;
    }
    let end = closing(tokens, open) + 1;
    let inside: Vec<_> = tokens.iter().take(end).skip(open + 1).map(|token| token.text).collect();
    // `cfg(test)` and `cfg(all(test, ...))`, but not `cfg(not(test))`.
    let is_test = inside.first() == Some(&"cfg")
        && inside.contains(&"test")
        && !inside.contains(&"not")
        && !inside.contains(&"any");
    Some(Attribute { end, is_test, is_inner })
}

/// The position after the item at the start: its `;`, or its closing brace.
fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let mut position = start;
    while let Some(attribute) = attribute_at(tokens, position) {
        position = attribute.end;
    }
    while let Some(token) = tokens.get(position) {
        match token.text {
            ";" => return position + 1,
            "{" => return closing(tokens, position) + 1,
            "(" | "[" => position = closing(tokens, position) + 1,
            _ => position += 1,
        }
    }
    tokens.len()
}

/// The position of the bracket that closes the one at the start.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (position, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return position;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let tokens: Vec<_> = lex(text).tokens.iter().map(|token| token.text).collect();
        assert_eq!(tokens.join(" "), expected, "{text}");
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        check("a // b\nc", "a c");
        check("a /* b /* c */ d */ e", "a e");
        check(r#"f("a::b \" c", 'x', '\'', '"', b'y')"#, "f ( , , , , b )");
        check("r#\"a \" b\"# c br\"d\" e c\"f\"", "c e");
        check("fn f<'a>(x: &'a str) -> r#type", "fn f < a > ( x : & a str ) - > type");
        check("0x1f + 1_000u32", "+");
        check("std::net::IpAddr", "std :: net :: IpAddr");
        check("'ä' x", "x");
        check("\"open", "");
        check("/* open", "");
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let source = lex("a\n/* b\n c */ d\n\"x\ny\" e // f\n");
        let lines: Vec<_> = source.tokens.iter().map(|token| (token.text, token.line)).collect();
        assert_eq!(lines, [("a", 1), ("d", 3), ("e", 5)]);
        assert_eq!(source.comments, [(2, "/* b"), (3, " c */"), (5, "// f")]);
    }

    #[test]
    fn code_for_tests_is_marked() {
        fn product(text: &str) -> String {
            let source = lex(text);
            let kept = source.tokens.iter().filter(|token| token.part == Part::Product);
            kept.map(|token| token.text).collect::<Vec<_>>().join(" ")
        }
        assert_eq!(product("a; #[cfg(test)] mod t { b { c } } d"), "a ; d");
        assert_eq!(product("#[cfg(test)] #[x] use y::{z}; d"), "; d");
        assert_eq!(product("#[cfg(test)] mod t; d"), "d");
        assert_eq!(product("#![cfg(test)] d"), "");
        assert_eq!(product("#[cfg(not(test))] d"), "# [ cfg ( not ( test ) ) ] d");
        assert_eq!(product("#[cfg(all(test, x))] fn f(a: [u8; 2]) { b } d"), "d");
    }
}
