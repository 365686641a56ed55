// SPDX-License-Identifier: MIT OR Apache-2.0
//! What kind of input a text is.

use super::{Format, InvalidDocument, lines::Lines, plain_list, policy_file};

/// What HTML begins with.
const HTML: [&str; 5] = ["<!doctype html", "<html", "<head>", "<head ", "<body"];

/// The kind of a text that nobody has named. Whether it is a good one of that kind is its
/// reader's business.
pub(super) fn format(text: &str) -> Format {
    if policy_file::is_policy(text) {
        return Format::Policy;
    }
    let mut characters = text.chars().filter(|c| !c.is_whitespace());
    // A page may begin with a link, an alert or a template's braces.
    match (characters.next(), characters.next()) {
        (Some('['), Some('{' | ']' | '"') | None) => Format::M365Json,
        (Some('{'), Some('"' | '}') | None) => Format::ServiceTags,
        _ if plain_list::is_list(text) => Format::List,
        _ => Format::Page,
    }
}

/// Refuses HTML: its tables are not those of Markdown, and most of its hosts are the web site's.
pub(super) fn refuse_html(text: &str) -> Result<(), InvalidDocument> {
    let mut rest = text.trim_start();
    loop {
        let (open, close) = if rest.starts_with("<!--") {
            ("<!--", "-->")
        } else if rest.starts_with("<?") {
            ("<?", "?>")
        } else {
            break;
        };
        let behind = rest.get(open.len()..).and_then(|rest| rest.split_once(close));
        let Some((_, behind)) = behind else { break };
        rest = behind.trim_start();
    }
    let is_html = HTML.iter().any(|start| {
        rest.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start))
    });
    if is_html {
        let offset = text.len() - rest.len();
        return Err(InvalidDocument::Html { line: Lines::new(text).line(offset) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (text, expected) in [
            ("[{\"id\": 1}]", Format::M365Json),
            (" \n[ ]", Format::M365Json),
            ("[", Format::M365Json),
            ("{\"changeNumber\": 1}", Format::ServiceTags),
            ("{", Format::ServiceTags),
            ("[A link](https://a.example) to a page", Format::Page),
            ("[!NOTE]\n", Format::Page),
            ("{% include x %}\n", Format::Page),
            ("# Title\n\n- a.example\n", Format::Page),
            ("# Head\n\n# rule\n[[rule]]\nname = \"a\"\n", Format::Policy),
            ("[gateway]\n", Format::Policy),
            ("[rules](https://a.example)\n", Format::Page),
            ("Text\n[[rule]]\n", Format::Page),
            ("a.example\nb.example\n", Format::List),
            ("", Format::Page),
        ] {
            assert_eq!(format(text), expected, "{text}");
        }
    }

    #[test]
    fn html_is_refused_with_its_line() {
        for (text, line) in [
            ("<!DOCTYPE html>\n<html>", Some(1)),
            ("\n\n  <html lang=\"en\">", Some(3)),
            ("<?xml version=\"1.0\"?>\n<!-- x -->\n<!doctype HTML>", Some(3)),
            ("<!-- a comment -->\n# Title", None),
            ("<a name=\"x\"></a>\n# Title", None),
            ("<!-- never closed", None),
            ("<htm", None),
        ] {
            let expected = line.map_or(Ok(()), |line| Err(InvalidDocument::Html { line }));
            assert_eq!(refuse_html(text), expected, "{text}");
        }
    }
}
