// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads what libtest prints, line by line.

use std::collections::BTreeSet;

use crate::process::Stream;

/// What the lines so far said.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
    pub(super) skips: Vec<Skip>,
    started: u64,
    finished: u64,
    /// The passing test whose output is being shown, if libtest said which.
    showing: Showing,
    /// Tests that passed without doing all they should: (number of their program, name).
    skipping: BTreeSet<(u64, String)>,
    /// Skips that were printed past libtest's capture, so that their test isn't known.
    loose: u64,
}

/// A line `skipped: NAME: reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skip {
    pub(super) name: String,
    pub(super) reason: String,
}

/// Whose output the next lines are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Showing {
    /// Nobody's in particular.
    #[default]
    Running,
    /// That of tests that passed, of this one in particular.
    Passed(Option<String>),
    /// That of tests that failed: they are counted as such already.
    Failed,
}

// === impl Scan ===

impl Scan {
    /// Takes the next line.
    pub(super) fn line(&mut self, stream: Stream, line: &str) {
        let line = plain(line);
        if let Some(skip) = parse_skip(&line) {
            self.skip(stream, skip);
        } else if stream == Stream::Out {
            self.frame(&line);
        }
    }

    /// How many passing tests printed that they skipped something.
    pub(super) fn tests_that_skipped(&self) -> u64 {
        self.skipping.iter().map(|_| 1).sum::<u64>() + self.loose
    }

    /// How many test programs began and never came to a result.
    pub(super) fn unfinished(&self) -> u64 {
        self.started.saturating_sub(self.finished)
    }

    fn skip(&mut self, stream: Stream, skip: Skip) {
        self.skips.push(skip);
        match &self.showing {
            Showing::Passed(Some(test)) if stream == Stream::Out => {
                self.skipping.insert((self.started, test.clone()));
            }
            Showing::Failed if stream == Stream::Out => {}
            Showing::Running | Showing::Passed(_) | Showing::Failed => self.loose += 1,
        }
    }

    /// What libtest prints around the output of tests.
    fn frame(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += number(rest, "passed");
            self.failed += number(rest, "failed");
            self.ignored += number(rest, "ignored");
            self.finished += 1;
            self.showing = Showing::Running;
        } else if is_start(line) {
            self.started += 1;
            self.showing = Showing::Running;
        } else if line == "successes:" {
            self.showing = Showing::Passed(None);
        } else if line == "failures:" {
            self.showing = Showing::Failed;
        } else if let Some(test) = shown_test(line)
            && let Showing::Passed(_) = self.showing
        {
            self.showing = Showing::Passed(Some(test.to_owned()));
        }
    }
}

/// `---- NAME stdout ----`
fn shown_test(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// `running 1 test`, `running 12 tests`
fn is_start(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("running ") else { return false };
    rest.split_once(' ').is_some_and(|(count, word)| {
        matches!(word, "test" | "tests") && count.parse::<u64>().is_ok()
    })
}

/// The number before a word in `ok. 5 passed; 0 failed; 0 ignored; ...`.
fn number(text: &str, word: &str) -> u64 {
    let mut before = "";
    for part in text.split([' ', ';']).filter(|part| !part.is_empty()) {
        if part == word {
            return before.parse().unwrap_or(0);
        }
        before = part;
    }
    0
}

fn parse_skip(line: &str) -> Option<Skip> {
    let rest = line.trim_start().strip_prefix("skipped: ")?;
    let (name, reason) = rest.split_once(": ").unwrap_or((rest, "no reason was given"));
    Some(Skip { name: name.trim().to_owned(), reason: reason.trim().to_owned() })
}

/// The line without colours (`ESC [ ... letter`).
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            for character in characters.by_ref() {
                if character.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(output: &str) -> Scan {
        let mut scan = Scan::default();
        for line in output.lines() {
            scan.line(Stream::Out, line);
        }
        scan
    }

    #[test]
    fn numbers_are_taken_from_results_of_either_kind_and_colour() {
        let scan = scan(
            "running 3 tests\n\
             test result: \u{1b}[32mok\u{1b}[m. 3 passed; 0 failed; 0 ignored; 0 measured; \
             7 filtered out; finished in 0.01s\n\
             running 1 test\n\
             test result: FAILED. 0 passed; 1 failed; 2 ignored; 0 measured\n",
        );
        assert_eq!((scan.passed, scan.failed, scan.ignored), (3, 1, 2));
        assert_eq!(scan.unfinished(), 0);
    }

    #[test]
    fn a_test_that_skips_twice_is_one_test() {
        let scan = scan(
            "running 2 tests\n\nsuccesses:\n\n---- a::b stdout ----\nskipped: x: why\n\
             skipped: y: why not\n\n---- c stdout ----\n  skipped: x: why\n\nsuccesses:\n    a::b\n\
             test result: ok. 2 passed; 0 failed; 0 ignored\n",
        );
        assert_eq!(scan.skips.len(), 3);
        assert_eq!(scan.tests_that_skipped(), 2);
    }

    #[test]
    fn a_failed_test_that_skips_takes_no_pass_away() {
        let scan = scan("running 1 test\nfailures:\n---- a stdout ----\nskipped: x: why\n");
        assert_eq!((scan.skips.len(), scan.tests_that_skipped()), (1, 0));
        assert_eq!(scan.unfinished(), 1);
    }

    #[test]
    fn a_skip_on_standard_error_is_seen() {
        let mut scan = Scan::default();
        scan.line(Stream::Err, "skipped: x");
        scan.line(Stream::Err, "test result: ok. 1 passed");
        assert_eq!(scan.passed, 0);
        assert_eq!(scan.tests_that_skipped(), 1);
        assert_eq!(
            scan.skips,
            [Skip { name: "x".to_owned(), reason: "no reason was given".to_owned() }]
        );
    }

    #[test]
    fn talk_about_running_is_no_start() {
        assert!(is_start("running 12 tests") && is_start("running 1 test"));
        assert!(!is_start("running late tests") && !is_start("running 3 servers"));
    }
}
