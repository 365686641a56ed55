// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold of any input, and of any facts in any form.

use std::env;

use proptest::prelude::*;

use crate::{
    binary::{Grants, Workshop, policy_grants},
    facts::{Form, LANGUAGES, Language, facts, grants, page},
};

/// Each case starts the binary some times; `PROPTEST_CASES` asks for more than these.
pub(crate) fn config() -> ProptestConfig {
    let cases = env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(48),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What the page grants, and what the policy made of it grants.
fn granted(page: &str) -> Result<Grants, TestCaseError> {
    let workshop = Workshop::of(page.as_bytes());
    match workshop.json(&[]) {
        Ok(json) => Ok(json.grants()),
        Err(run) => Err(TestCaseError::fail(format!("{}\n{page}", run.describe()))),
    }
}

/// Grants that differ, in few words.
fn same(found: &Grants, expected: &Grants, page: &str) -> Result<(), TestCaseError> {
    let only = |a: &Grants, b: &Grants| -> Vec<String> {
        let differing = a.iter().filter(|(key, ports)| b.get(*key) != Some(ports));
        differing
            .map(|((endpoint, protocol), ports)| format!("{endpoint} {protocol} {ports:?}"))
            .collect()
    };
    let (missing, more) = (only(expected, found), only(found, expected));
    prop_assert!(missing.is_empty() && more.is_empty(), "- {missing:?}\n+ {more:?}\n{page}");
    Ok(())
}

fn language() -> impl Strategy<Value = &'static Language> {
    (0..LANGUAGES.len()).prop_map(|index| &LANGUAGES[index])
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_end_with_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        answered(&bytes)?;
    }

    #[test]
    fn any_pieces_of_pages_end_with_an_answer(
        text in "([|`*<>\\[\\](){}#:/. \n-]|<br>|<!--|-->|---\n|```\n|\\| ?[a-e0-9]{1,3}|a\\.com|\\*\\.b\\.net|20\\.1\\.2\\.0/24|https://|TCP: 443|UDP|True|False|Region|# \\[E\\]\\(#tab/e\\)\n|<tenant>|#-c\\.d\\.com|[{},\"]|id|urls|é|。|\u{200b}|\u{a0}|\r\n){0,120}"
    ) {
        answered(text.as_bytes())?;
    }

    #[test]
    fn the_three_forms_grant_the_same(facts in facts()) {
        let expected = grants(&facts);
        for form in [Form::Markdown, Form::Rendered, Form::Plain] {
            let page = page(&facts, form, &LANGUAGES[0]);
            same(&granted(&page)?, &expected, &page)?;
        }
    }

    #[test]
    fn the_language_of_labels_changes_no_grant_in_a_table(facts in facts(), language in language()) {
        let page = page(&facts, Form::Markdown, language);
        same(&granted(&page)?, &grants(&facts), &page)?;
    }

    #[test]
    fn the_language_of_labels_changes_no_grant_in_plain_text(
        facts in facts(),
        language in language(),
    ) {
        let page = page(&facts, Form::Plain, language);
        same(&granted(&page)?, &grants(&facts), &page)?;
    }

    #[test]
    fn the_order_of_rows_changes_no_grant(facts in facts().prop_flat_map(|facts| {
        (Just(facts.clone()), Just(facts).prop_shuffle())
    })) {
        let (facts, shuffled) = facts;
        for form in [Form::Markdown, Form::Plain] {
            let page = page(&shuffled, form, &LANGUAGES[0]);
            same(&granted(&page)?, &grants(&facts), &page)?;
        }
    }

    #[test]
    fn the_policy_grants_what_the_facts_do(facts in facts(), language in language()) {
        let page = page(&facts, Form::Markdown, language);
        let workshop = Workshop::of(page.as_bytes());
        let text = workshop.policy(&[]).map_err(|run| TestCaseError::fail(run.describe()))?;
        let check = workshop.check();
        prop_assert_eq!(check.code, Some(0), "{}\n{}", check.describe(), text);
        same(&policy_grants(&text).0, &grants(&facts), &page)?;
    }
}

/// Whatever the input is, there are sets and a policy that can be loaded, or an error.
fn answered(bytes: &[u8]) -> Result<(), TestCaseError> {
    let workshop = Workshop::of(bytes);
    let run = workshop.import(&[], &["--report"]);
    prop_assert!(matches!(run.code, Some(0 | 1)), "{}", run.describe());
    prop_assert!(!run.stderr.contains("panicked"), "{}", run.describe());
    match workshop.policy(&[]) {
        Ok(text) => {
            let check = workshop.check();
            prop_assert_eq!(check.code, Some(0), "{}\n{}", check.describe(), text);
        }
        Err(run) => {
            prop_assert_eq!(run.code, Some(1), "{}", run.describe());
            prop_assert!(!run.stderr.trim().is_empty(), "an error without a message");
        }
    }
    Ok(())
}
