// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command, from its words to the files that it leaves.

use std::fmt::Write as _;

use clap::Parser;
use tempfile::TempDir;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ImportArgs,
}

struct Place(TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            fs::write(place.path(name), text).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The arguments; words that begin with `@` are files.
    fn args(&self, words: &str) -> ImportArgs {
        let words = words.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name).display().to_string(),
            None => word.to_owned(),
        });
        Line::try_parse_from(std::iter::once("import".to_owned()).chain(words))
            .unwrap_or_else(|error| panic!("{error}"))
            .args
    }

    /// What the command says, without the place of the files.
    fn error(&self, words: &str) -> String {
        let error = format!("{:#}", run(self.args(words)).unwrap_err());
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

const M365: &str = r#"[{"id": 1, "serviceArea": "Mail", "urls": ["a.example.com", "*.com"],
  "tcpPorts": "443", "category": "Allow", "required": true},
 {"id": 2, "serviceArea": "Mail", "urls": ["b.example.com"], "category": "Default", "required": false}]"#;

#[test]
fn several_inputs_become_one_file() {
    let place = Place::new(&[("m365.json", M365), ("own.txt", "https://c.example.com\n")]);
    run(place.args("@m365.json @own.txt --allow-broad --default-ports tcp/25 -o @out.toml"))
        .unwrap();
    let text = fs::read_to_string(place.path("out.toml")).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert_eq!(names, ["\"m365-1\"", "\"m365-1-broad\"", "\"m365-2\"", "\"own\""]);
    let command =
        "# Made by `sluice import m365.json own.txt --default-ports 'tcp 25' --allow-broad -o ";
    assert!(text.contains(command), "{text}");
    assert!(!text.contains("enabled = false"), "{text}");
    assert!(text.contains("# 3 endpoint sets, 4 rules (0 disabled), 4 names, 0 IPv4"), "{text}");
    let before = text;
    run(place.args("@m365.json @own.txt --allow-broad --default-ports tcp/25 -o @out.toml"))
        .unwrap();
    assert_eq!(fs::read_to_string(place.path("out.toml")).unwrap(), before);
}

#[test]
fn what_is_not_selected_is_not_counted() {
    let place = Place::new(&[("m365.json", M365)]);
    run(place.args("@m365.json --required-only -o @out.toml")).unwrap();
    let text = fs::read_to_string(place.path("out.toml")).unwrap();
    assert!(text.contains("# 1 endpoint sets, 2 rules (1 disabled), 2 names"), "{text}");
    assert!(text.contains("# left out: 1 not-selected"), "{text}");
    assert!(!text.contains("no ports"), "{text}");
    let document = document(&place.args("@m365.json --required-only")).unwrap();
    assert_eq!(
        output::report(&document),
        "m365.json:1     *.com          imported: 1 Mail\n\
         m365.json:1     a.example.com  imported: 1 Mail\n\
         m365.json:3     b.example.com  left out: not-selected\n\
         2 imported, 1 not-selected\n"
    );
}

#[test]
fn a_failure_changes_no_file() {
    let mut large = "[".to_owned();
    for id in 0..4000 {
        let comma = if id == 0 { "" } else { "," };
        let _ = write!(
            large,
            "{comma}{{\"id\": {id}, \"ips\": [\"20.{}.{}.0/24\"], \"tcpPorts\": \"443\"}}",
            id / 256,
            id % 256
        );
    }
    large.push(']');
    let cut = large.get(..large.len() / 2).unwrap_or_default().to_owned();
    let place = Place::new(&[
        ("m365.json", M365),
        ("large.json", &large),
        ("cut.json", &cut),
        ("page.html", "<!doctype html>\n"),
        ("empty.md", ""),
        ("binary", "\u{0}\u{1}"),
        ("old.toml", "old"),
    ]);
    for (words, expected) in [
        ("@cut.json", "cut.json: line 1, column "),
        ("@page.html", "page.html: line 1: this is HTML"),
        ("@empty.md", "empty.md: no endpoints found"),
        ("@binary", "binary: this is binary data, not a page (byte 0 is"),
        ("@none.md", "can't read none.md: No such file or directory"),
        ("@m365.json @none.md", "can't read none.md: No such file or directory"),
        ("@m365.json --format service-tags", "m365.json: line 1, column 1: expected an object"),
        ("@m365.json --ids 7", "m365.json: --ids 7: no endpoint set has this ID; there are 1, 2"),
        ("@m365.json --tags A", "--tags: no input is a file of service tags"),
        ("@m365.json --tenant a.b", "m365.json: the tenant is no label of a name"),
        ("https://a.example/b", "https://a.example/b: nothing is downloaded here; fetch it"),
        ("- -", "\"-\" stands there twice"),
        (
            "@large.json",
            "the policy would not fit: the policy needs 4000 counters of rule combinations, the \
             tables hold 3840",
        ),
    ] {
        let error = place.error(&format!("{words} -o @old.toml"));
        assert!(error.starts_with(expected), "{words}: {error}");
        assert_eq!(fs::read_to_string(place.path("old.toml")).unwrap(), "old", "{words}");
    }
    assert!(place.error("@m365.json -o @m365.json").starts_with("m365.json: this is an input"));
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 7);
}

#[test]
fn words_are_quoted_for_a_shell() {
    for (word, expected) in [
        ("a-b_c.json", "a-b_c.json"),
        ("own names.txt", "'own names.txt'"),
        ("*", "'*'"),
        ("it's", "'it'\\''s'"),
        ("", "''"),
    ] {
        assert_eq!(quoted(word), expected);
    }
}
