// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every file looks like: headers, markers, blanks, length, and what isn't written at all.

use super::{
    File, Tree, Violation,
    lexer::{self, Source},
};

/// The longest Rust file; what is longer holds two things.
const MAX_LINES: usize = 1000;

/// Licences by place; the first that fits counts.
const LICENCES: &[(&str, &str)] = &[
    ("filter-common/", "MIT OR GPL-2.0"),
    ("filter-ebpf/", "MIT OR GPL-2.0"),
    // Programs of the tests that run in the kernel.
    ("tests/generator-ebpf/", "MIT OR GPL-2.0"),
    ("", "MIT OR Apache-2.0"),
];

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &[
    "filter-ebpf/",
    "filter-common/src/pod.rs",
    "filter-user/build/ebpf.rs",
    "tests/generator-ebpf/",
];

/// Configurations that are wrong on purpose.
const BROKEN: &[&str] = &["tests/cases/bad-config/"];

/// Marks of unfinished work, which need the number of an issue.
const MARKERS: &[&str] = &["FIXME", "TODO", "XXX"];

/// Macros that stand for unfinished or unpolished work.
const MACROS: &[&str] = &["dbg", "todo", "unimplemented"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in &tree.files {
        if ["md", "rs", "toml"].contains(&file.extension()) && !file.is_in(BROKEN) {
            violations.extend(blanks(file));
        }
        if ["service", "sh", "toml"].contains(&file.extension()) && !file.is_in(BROKEN) {
            let comments =
                (1..).zip(file.text.lines()).filter(|(_, line)| line.trim_start().starts_with('#'));
            violations.extend(markers(file, comments));
        }
    }
    for file in tree.rust() {
        let source = lexer::lex(&file.text);
        violations.extend(header(file));
        violations.extend(markers(file, source.comments.iter().copied()));
        violations.extend(unfinished(file, &source));
        violations.extend(misplaced_unsafe(file, &source));
        violations.extend(shape(file));
    }
    violations
}

fn blanks(file: &File) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (number, line) in (1..).zip(file.text.split('\n')) {
        if line.contains('\t') {
            violations.push(file.violation(number, "a tab"));
        }
        if line.ends_with([' ', '\t', '\r']) {
            violations.push(file.violation(number, "a blank at the end of the line"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        violations.push(file.violation(file.text.lines().count(), "no newline at the end"));
    }
    violations
}

fn header(file: &File) -> Vec<Violation> {
    let licence = LICENCES
        .iter()
        .find(|(place, _)| file.path.starts_with(place))
        .map_or("MIT OR Apache-2.0", |(_, licence)| licence);
    let expected = format!("// SPDX-License-Identifier: {licence}");
    let mut lines = file.text.lines();
    let mut violations = Vec::new();
    if lines.next() != Some(expected.as_str()) {
        violations.push(file.violation(1, format!("the first line has to be `{expected}`")));
    }
    if !lines.next().is_some_and(|line| line.starts_with("//!")) {
        violations.push(file.violation(2, "the second line has to begin the `//!` documentation"));
    }
    violations
}

fn markers<'a>(file: &File, comments: impl Iterator<Item = (usize, &'a str)>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (number, comment) in comments {
        let mut words = comment.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|word| MARKERS.contains(word))
            && !names_issue(comment)
        {
            let message = format!("{word} without the number of an issue (#123)");
            violations.push(file.violation(number, message));
        }
    }
    violations
}

fn names_issue(comment: &str) -> bool {
    // In a TOML file the comment itself begins with a `#`, but a digit never follows that.
    comment.split('#').skip(1).any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn unfinished(file: &File, source: &Source<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let text = |position: usize| source.tokens.get(position).map_or("", |token| token.text);
    for (position, token) in source.tokens.iter().enumerate() {
        if MACROS.contains(&token.text) && text(position + 1) == "!" {
            violations.push(file.violation(token.line, format!("{}!", token.text)));
        }
        let attribute = text(position) == "#" && text(position + 1) == "[";
        if attribute && text(position + 2) == "ignore"
            || text(position) == ","
                && text(position + 1) == "ignore"
                && is_conditional(source, position)
        {
            let message = "an ignored test: make it run, or skip with a reason and a known name";
            violations.push(file.violation(token.line, message));
        }
    }
    violations
}

/// Whether a position is in an attribute `cfg_attr(..., ...)`.
fn is_conditional(source: &Source<'_>, position: usize) -> bool {
    let before = source.tokens.iter().take(position).rev();
    before
        .take_while(|token| !matches!(token.text, "#" | ";" | "{" | "}"))
        .any(|token| token.text == "cfg_attr")
}

fn misplaced_unsafe(file: &File, source: &Source<'_>) -> Vec<Violation> {
    if file.is_in(UNSAFE) {
        return Vec::new();
    }
    let found = source.tokens.iter().filter(|token| token.text == "unsafe");
    found.map(|token| file.violation(token.line, "`unsafe` doesn't belong here")).collect()
}

fn shape(file: &File) -> Vec<Violation> {
    let mut violations = Vec::new();
    if file.path.ends_with("/mod.rs") {
        violations
            .push(file.violation(1, "a module `foo` is `foo.rs` and `foo/`, not `foo/mod.rs`"));
    }
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        let message = format!("{lines} lines; {MAX_LINES} are enough for one thing");
        violations.push(file.violation(MAX_LINES + 1, message));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::{super::said, *};

    const HEADER: &str = "// SPDX-License-Identifier: MIT OR Apache-2.0\n//! Text.\n";

    /// Checks a Rust file with a good header before the text.
    fn rust(text: &str, expected: &[&str]) {
        let text = format!("{HEADER}{text}");
        assert_eq!(said(check, &[("xtask/src/x.rs", &text)]), expected, "{text}");
    }

    fn file(path: &str, text: &str, expected: &[&str]) {
        assert_eq!(said(check, &[(path, text)]), expected, "{path}: {text}");
    }

    #[test]
    fn each_crate_has_its_licence() {
        let gpl = HEADER.replace("Apache-2.0", "GPL-2.0");
        file("filter-user/src/x.rs", HEADER, &[]);
        file("tests/src/x.rs", HEADER, &[]);
        file("filter-common/src/x.rs", &gpl, &[]);
        file("filter-ebpf/src/x.rs", &gpl, &[]);
        let wrong = "the first line has to be `// SPDX-License-Identifier: MIT OR";
        for (path, text, licence) in [
            ("filter-user/src/x.rs", gpl.as_str(), "Apache-2.0"),
            ("filter-common/src/x.rs", HEADER, "GPL-2.0"),
        ] {
            file(path, text, &[&format!("{path}:1: {wrong} {licence}`")]);
        }
    }

    #[test]
    fn documentation_comes_second() {
        let second = "xtask/src/x.rs:2: the second line has to begin the `//!` documentation";
        file("xtask/src/x.rs", &HEADER.replace("//! ", "\n//! "), &[second]);
        file("xtask/src/x.rs", &HEADER.replace("//! ", "// "), &[second]);
    }

    #[test]
    fn blanks_are_told() {
        rust(
            "a  \n\tb\n",
            &["xtask/src/x.rs:3: a blank at the end of the line", "xtask/src/x.rs:4: a tab"],
        );
        file("a.md", "a \n", &["a.md:1: a blank at the end of the line"]);
        file(
            "a.toml",
            "a\r\nb",
            &["a.toml:1: a blank at the end of the line", "a.toml:2: no newline at the end"],
        );
        file("a.txt", "a \n", &[]);
        file("tests/cases/bad-config/a.toml", "a \t", &[]);
    }

    #[test]
    fn marks_of_unfinished_work_need_an_issue() {
        rust("// TODO: x\n", &["xtask/src/x.rs:3: TODO without the number of an issue (#123)"]);
        rust(
            "/* a\nFIXME */\n",
            &["xtask/src/x.rs:4: FIXME without the number of an issue (#123)"],
        );
        rust("f(); // XXX\n", &["xtask/src/x.rs:3: XXX without the number of an issue (#123)"]);
        rust("// TODO(#12): x\n", &[]);
        rust("const A: &str = \"TODO\"; // TODOS, todo\n", &[]);
        file("a.toml", "# TODO\n", &["a.toml:1: TODO without the number of an issue (#123)"]);
        file("a.toml", "# TODO #1\na = \"TODO\"\n", &[]);
    }

    #[test]
    fn unfinished_code_is_told() {
        rust("todo!()\n", &["xtask/src/x.rs:3: todo!"]);
        rust("unimplemented!(\"x\")\n", &["xtask/src/x.rs:3: unimplemented!"]);
        rust("dbg!(x)\n", &["xtask/src/x.rs:3: dbg!"]);
        rust("// todo!()\nlet dbg = !x; \"dbg!()\"\n", &[]);
        let ignored = "an ignored test: make it run, or skip with a reason and a known name";
        for attribute in ["#[ignore]", "#[ignore = \"x\"]", "#[cfg_attr(x, ignore)]"] {
            rust(&format!("{attribute}\n"), &[&format!("xtask/src/x.rs:3: {ignored}")]);
        }
        rust("let ignore = f(a, ignore);\n", &[]);
    }

    #[test]
    fn unsafe_stays_in_its_places() {
        rust("unsafe { f() }\n", &["xtask/src/x.rs:3: `unsafe` doesn't belong here"]);
        rust("#![forbid(unsafe_code)] // unsafe\n", &[]);
        let gpl = HEADER.replace("Apache-2.0", "GPL-2.0") + "unsafe { f() }\n";
        file("filter-ebpf/src/x.rs", &gpl, &[]);
        file("filter-common/src/pod.rs", &gpl, &[]);
        file(
            "filter-common/src/x.rs",
            &gpl,
            &["filter-common/src/x.rs:3: `unsafe` doesn't belong here"],
        );
    }

    #[test]
    fn modules_are_named_after_themselves_and_not_too_long() {
        file(
            "xtask/src/a/mod.rs",
            HEADER,
            &["xtask/src/a/mod.rs:1: a module `foo` is `foo.rs` and `foo/`, not `foo/mod.rs`"],
        );
        rust(&"x\n".repeat(998), &[]);
        rust(
            &"x\n".repeat(999),
            &["xtask/src/x.rs:1001: 1001 lines; 1000 are enough for one thing"],
        );
    }
}
