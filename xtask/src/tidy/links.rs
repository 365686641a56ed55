// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links between documents lead somewhere.

use super::{File, Tree, Violation};

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.files.iter().filter(|file| file.extension() == "md") {
        for (line, target) in targets(&file.text) {
            if let Some(path) = local(file, &target)
                && !tree.has_any(&path)
                && !path.is_empty()
            {
                violations
                    .push(file.violation(line, format!("the link to {target} leads nowhere")));
            }
        }
    }
    violations
}

/// The targets of links and images, inline and by reference, outside code.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let start = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), _) => {}
            (None, None) => {
                let line = without_code(line);
                found.extend(inline(&line).chain(reference(&line)).map(|target| (number, target)));
            }
        }
    }
    found
}

/// `[text](target "title")`
fn inline(line: &str) -> impl Iterator<Item = String> {
    line.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        first_word(target)
    })
}

/// `[label]: target "title"`
fn reference(line: &str) -> Option<String> {
    let (label, target) = line.trim_start().split_once("]: ")?;
    if !label.starts_with('[') || label.starts_with("[^") {
        return None;
    }
    first_word(target)
}

fn first_word(text: &str) -> Option<String> {
    let word = text.split_whitespace().next()?;
    Some(word.trim_start_matches('<').trim_end_matches('>').to_owned())
}

/// The line without what stands between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The path in the repository that a link means, if it means one.
fn local(file: &File, target: &str) -> Option<String> {
    let target = target.split(['#', '?']).next().filter(|target| !target.is_empty())?;
    if target.contains(':') || target.starts_with("//") {
        return None;
    }
    let mut parts: Vec<&str> = match file.path.rsplit_once('/') {
        Some((directory, _)) if !target.starts_with('/') => directory.split('/').collect(),
        _ => Vec::new(),
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            // Past the root there is nothing of ours: a name that no file has.
            ".." => match parts.pop() {
                Some(_) => {}
                None => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::{super::said, *};

    fn check_page(text: &str, expected: &[&str]) {
        let said = said(check, &[("docs/a.md", text), ("docs/b.md", ""), ("c/d.rs", "")]);
        let expected: Vec<_> =
            expected.iter().map(|target| format!("the link to {target} leads nowhere")).collect();
        let messages: Vec<_> =
            said.iter().map(|line| line.rsplit_once(": ").unwrap().1.to_owned()).collect();
        assert_eq!(messages, expected, "{text}");
    }

    #[test]
    fn good_links_are_quiet() {
        check_page(
            "[x](b.md) [y](./b.md#part) ![z](../c/d.rs \"t\") [u](/c/d.rs) [v](../c)\n",
            &[],
        );
        check_page(
            "[x](https://example.com/y) [m](mailto:a@example.com) [h](#here) [r](..)\n",
            &[],
        );
        check_page("[x]: b.md\n[^1]: nothing\n", &[]);
    }

    #[test]
    fn bad_links_are_told() {
        check_page("[x](e.md) and [y](../b.md#part)\n", &["e.md", "../b.md#part"]);
        check_page("[x]: e.md\n", &["e.md"]);
        check_page("[x](../../../etc)\n", &["../../../etc"]);
    }

    #[test]
    fn code_is_no_link() {
        check_page("`[x](e.md)`\n```\n[x](e.md)\n```\n~~~ md\n```\n[x](e.md)\n~~~\n", &[]);
        check_page("```\n```\n[x](e.md)\n", &["e.md"]);
    }

    #[test]
    fn the_line_is_named() {
        let said = said(check, &[("a.md", "one\n\n[x](y)\n")]);
        assert_eq!(said, ["a.md:3: the link to y leads nowhere"]);
    }
}
