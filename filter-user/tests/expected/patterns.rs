// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wildcards as vendors write them, each with names that it covers and names that it doesn't.
//!
//! `tests/cases/patterns` has every wildcard of the vendors' pages and lists, so that the tests
//! need neither.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use filter_user::policy::{Fqdn, NamePattern, index::NameIndex};
use serde::Deserialize;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A file of `tests/cases/patterns`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pattern: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    text: String,
    covers: Vec<String>,
    others: Vec<String>,
}

#[test]
fn a_wildcard_covers_its_names_and_no_others() {
    let mut failures = Vec::new();
    for case in cases() {
        let pattern = pattern(&case.text);
        assert!(!case.covers.is_empty() && !case.others.is_empty(), "{} has no names", case.text);
        for (names, expected) in [(&case.covers, true), (&case.others, false)] {
            for text in names {
                if pattern.matches(&name(text)) != expected {
                    let not = if expected { "doesn't cover" } else { "covers" };
                    failures.push(format!("{} {not} {text}", case.text));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What finds a name's patterns among all of them, against trying each.
#[test]
fn the_index_finds_what_trying_each_finds() {
    let cases = cases();
    let patterns: BTreeMap<_, _> =
        cases.iter().map(|case| (case.text.as_str(), pattern(&case.text))).collect();
    let mut index = NameIndex::default();
    for (text, pattern) in &patterns {
        index.insert(pattern, *text);
    }
    for text in cases.iter().flat_map(|case| case.covers.iter().chain(&case.others)) {
        let name = name(text);
        let found: BTreeSet<_> = index.matching(&name).copied().collect();
        let tried: BTreeSet<_> = patterns
            .iter()
            .filter(|(_, pattern)| pattern.matches(&name))
            .map(|(text, _)| *text)
            .collect();
        assert_eq!(found, tried, "{text}");
    }
}

#[test]
fn every_wildcard_of_the_catalog_is_a_case() {
    let cases = texts();
    let mut seen = 0;
    for (file, text) in files(&Path::new(ROOT).join("catalog"), "toml") {
        let policy: toml::Table = toml::from_str(&text).unwrap();
        for rule in policy["rule"].as_array().unwrap() {
            for to in rule["to"].as_array().unwrap() {
                let to = to.as_str().unwrap();
                if to.contains('*') {
                    seen += 1;
                    assert!(cases.contains(to), "{to} of {file} is in no file of patterns");
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} wildcards in the catalog");
}

/// Where the vendor's lists are at hand.
#[test]
fn every_wildcard_of_the_lists_is_a_case() {
    let directory = Path::new(ROOT).join("../shared/feeds");
    if !directory.is_dir() {
        println!("{} is not there: the lists are not compared", directory.display());
        return;
    }
    let cases = texts();
    let mut seen = 0;
    for (file, text) in files(&directory, "json") {
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        for set in list.as_array().into_iter().flatten() {
            for url in set["urls"].as_array().into_iter().flatten() {
                let url = url.as_str().unwrap();
                if url.contains('*') {
                    seen += 1;
                    let url = url.to_ascii_lowercase();
                    assert!(cases.contains(&url), "{url} of {file} is in no file of patterns");
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} wildcards in the lists");
}

fn texts() -> BTreeSet<String> {
    cases().into_iter().map(|case| case.text).collect()
}

fn cases() -> Vec<Case> {
    let cases: Vec<_> = files(&Path::new(ROOT).join("tests/cases/patterns"), "toml")
        .into_iter()
        .flat_map(|(file, text)| {
            toml::from_str::<File>(&text).unwrap_or_else(|error| panic!("{file}: {error}")).pattern
        })
        .collect();
    assert!(cases.len() > 150, "only {} patterns", cases.len());
    cases
}

/// The files of a directory that end so, by name.
fn files(directory: &Path, end: &str) -> BTreeMap<String, String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == end))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn pattern(text: &str) -> NamePattern {
    NamePattern::try_from(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn name(text: &str) -> Fqdn {
    Fqdn::try_from(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
