// SPDX-License-Identifier: MIT OR Apache-2.0
//! The paths that a source file names, in `use` and elsewhere.

use super::lexer::{Part, Token};

/// A path of two components or more, or an imported crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) components: Vec<&'a str>,
    pub(super) line: usize,
    pub(super) part: Part,
}

/// All of them, in order.
pub(super) fn named<'a>(tokens: &[Token<'a>]) -> Vec<Named<'a>> {
    let mut found = Vec::new();
    let mut position = 0;
    while let Some(token) = tokens.get(position) {
        position = match token.text {
            // `impl Trait + use<'a>` is another `use`.
            "use" if text(tokens, position + 1) != Some("<") => {
                tree(tokens, position + 1, &[], &mut found)
            }
            "crate" if position > 0 && text(tokens, position - 1) == Some("extern") => {
                single(tokens, position + 1, &mut found)
            }
            _ if starts_path(tokens, position) => path(tokens, position, &mut found),
            _ => position + 1,
        };
    }
    found
}

fn text<'a>(tokens: &[Token<'a>], position: usize) -> Option<&'a str> {
    tokens.get(position).map(|token| token.text)
}

/// An identifier before `::` that doesn't itself come after one (`::aya` and `<T>::aya` aside).
fn starts_path(tokens: &[Token<'_>], position: usize) -> bool {
    let Some(token) = tokens.get(position) else { return false };
    if !token.is_identifier() || text(tokens, position + 1) != Some("::") {
        return false;
    }
    let before = |distance: usize| position.checked_sub(distance).and_then(|at| tokens.get(at));
    match before(1) {
        Some(token) if token.text == "::" => {
            before(2).is_none_or(|token| !token.is_identifier() && token.text != ">")
        }
        _ => true,
    }
}

fn path<'a>(tokens: &[Token<'a>], start: usize, found: &mut Vec<Named<'a>>) -> usize {
    let mut components = Vec::new();
    let mut position = start;
    let Some(first) = tokens.get(start) else { return start + 1 };
    while let Some(token) = tokens.get(position).filter(|token| token.is_identifier()) {
        components.push(token.text);
        position += 1;
        if text(tokens, position) != Some("::") {
            break;
        }
        position += 1;
    }
    found.push(Named { components, line: first.line, part: first.part });
    position
}

fn single<'a>(tokens: &[Token<'a>], start: usize, found: &mut Vec<Named<'a>>) -> usize {
    if let Some(token) = tokens.get(start) {
        found.push(Named { components: vec![token.text], line: token.line, part: token.part });
    }
    start + 1
}

/// Reads one branch of a `use` tree, and returns the position after it.
fn tree<'a>(
    tokens: &[Token<'a>],
    start: usize,
    prefix: &[&'a str],
    found: &mut Vec<Named<'a>>,
) -> usize {
    let mut components = prefix.to_vec();
    let mut position = start;
    let mut last = None;
    while let Some(token) = tokens.get(position) {
        match token.text {
            "::" => position += 1,
            "{" => {
                position += 1;
                while let Some(inner) = tokens.get(position) {
                    match inner.text {
                        "}" => return position + 1,
                        "," => position += 1,
                        _ => position = tree(tokens, position, &components, found),
                    }
                }
                return position;
            }
            "as" => position += 2,
            "," | ";" | "}" => break,
            name => {
                components.push(name);
                last = Some(token);
                position += 1;
            }
        }
    }
    if let Some(token) = last {
        found.push(Named { components, line: token.line, part: token.part });
    }
    // Always forward: a broken file must not stop the run.
    position.max(start + 1)
}

#[cfg(test)]
mod tests {
    use super::{super::lexer, *};

    fn check(text: &str, expected: &[&str]) {
        let source = lexer::lex(text);
        let found: Vec<_> =
            named(&source.tokens).iter().map(|named| named.components.join("::")).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn use_trees_are_flattened() {
        check("use a;", &["a"]);
        check("use a as b;", &["a"]);
        check("use a::b as c; use d::*;", &["a::b", "d::*"]);
        check(
            "use a::{self, b::{c, d as e}, f::*}; g",
            &["a::self", "a::b::c", "a::b::d", "a::f::*"],
        );
        check("use {a::b, ::c::d,};", &["a::b", "c::d"]);
        check("pub(crate) use super::x::Y;", &["super::x::Y"]);
        check("extern crate a as b;", &["a"]);
    }

    #[test]
    fn paths_in_code_are_found() {
        check("let x = a::b::<c::D>::e(f.g::<h>());", &["a::b", "c::D", "g"]);
        check("#[tokio::main] fn f(x: &::aya::Map)", &["tokio::main", "aya::Map"]);
        check("fn f() -> impl X + use<'a> { a::b }", &["a::b"]);
        check("<T as a::B>::c::d", &["a::B"]);
        check("use a::{b", &["a::b"]);
        check("use", &[]);
    }

    #[test]
    fn a_path_has_the_line_of_its_own_name_in_a_tree() {
        let source = lexer::lex("use a::{\n    b,\n    c::d,\n};\n#[cfg(test)]\nuse e::f;\n");
        let lines: Vec<_> =
            named(&source.tokens).iter().map(|named| (named.line, named.part)).collect();
        assert_eq!(lines, [(2, Part::Product), (3, Part::Product), (6, Part::Test)]);
    }
}
