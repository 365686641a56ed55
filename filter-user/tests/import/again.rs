// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the importer wrote, imported once more, is the same policy.

use std::{fs, path::Path};

use proptest::prelude::*;
use serde::Deserialize;

use crate::{
    binary::{Workshop, policy_grants},
    facts::{Form, LANGUAGES, facts, page},
};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/seeds");

#[derive(Debug, Deserialize)]
struct Names {
    rule: Vec<Name>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Name {
    name: String,
}

fn names(text: &str) -> Vec<Name> {
    toml::from_str::<Names>(text).unwrap().rule
}

/// Imports a page, then what came of it.
fn check(page: &[u8], args: &[&str]) -> Result<(), TestCaseError> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let fail = |run: crate::binary::Run| TestCaseError::fail(run.describe());
    let first = Workshop::of(page).policy(&args).map_err(fail)?;
    let mut workshop = Workshop::new();
    workshop.add("imported.toml", first.as_bytes());
    let second = workshop.policy(&[]).map_err(fail)?;
    prop_assert_eq!(names(&first), names(&second));
    prop_assert_eq!(policy_grants(&first), policy_grants(&second));
    prop_assert_eq!(first, second);
    Ok(())
}

#[test]
fn the_seeds_stay_what_they_are() {
    let Ok(entries) = fs::read_dir(Path::new(SEEDS)) else { return };
    let mut count = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let page = fs::read(&path).unwrap();
        for args in [&[][..], &["--default-ports", "tcp/443"], &["--allow-broad"]] {
            check(&page, args).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        count += 1;
    }
    println!("{count} seeds");
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn any_facts_stay_what_they_are(facts in facts(), form in 0_usize..3, language in 0..LANGUAGES.len()) {
        let form = [Form::Markdown, Form::Rendered, Form::Plain][form];
        check(page(&facts, form, &LANGUAGES[language]).as_bytes(), &[])?;
    }
}
