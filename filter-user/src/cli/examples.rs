// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has to hold of every command: it has examples, and they are right.
//!
//! A command has its examples beside its arguments, as `#[command(after_help = EXAMPLES)]`: a first line
//! `Examples:`, then one line each that begins with two blanks and `sluice`. What follows after two blanks
//! or more says what it is for; `|` and `>` end what is checked.

use clap::{Command, CommandFactory as _};

use super::Cli;

/// Every command with the words that lead to it, but `help`.
fn commands() -> Vec<(Vec<String>, Command)> {
    fn add(command: &Command, path: &[String], found: &mut Vec<(Vec<String>, Command)>) {
        found.push((path.to_vec(), command.clone()));
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let mut path = path.to_vec();
            path.push(sub.get_name().to_owned());
            add(sub, &path, found);
        }
    }
    let mut root = Cli::command();
    root.build();
    let mut found = Vec::new();
    add(&root, &["sluice".to_owned()], &mut found);
    found
}

/// The examples of a command, as they are typed.
fn examples(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix("  "));
    let lines = lines.filter(|line| line.starts_with("sluice"));
    let typed = lines.map(|line| {
        let line = line.split("  ").next().unwrap_or_default();
        line.split(" | ").next().unwrap_or_default().split(" > ").next().unwrap_or_default()
    });
    typed.map(|line| line.trim().to_owned()).collect()
}

/// Words as a shell makes them of a line without variables.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut inside) = (None, false);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(end), _) if letter == end => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                if !inside {
                    words.push(String::new());
                    inside = true;
                }
            }
            (None, ' ') => inside = false,
            _ => {
                if !inside {
                    words.push(String::new());
                    inside = true;
                }
                words.last_mut().unwrap().push(letter);
            }
        }
    }
    words
}

#[test]
fn words_are_those_of_a_shell() {
    assert_eq!(words("a  'b c' d\"e f\"g ''"), ["a", "b c", "de fg", ""]);
}

#[test]
fn every_command_has_examples_of_itself() {
    let mut without = Vec::new();
    for (path, command) in commands() {
        let own = examples(&command).into_iter().any(|line| words(&line).starts_with(&path));
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        if !own || !text.starts_with("Examples:\n") {
            without.push(path.join(" "));
        }
    }
    assert_eq!(without, [""; 0], "these need #[command(after_help = EXAMPLES)]");
}

#[test]
fn every_example_is_understood() {
    for (path, command) in commands() {
        for line in examples(&command) {
            if let Err(error) = Cli::command().try_get_matches_from(words(&line)) {
                // Help that was asked for comes this way, too.
                assert_eq!(error.exit_code(), 0, "{}: `{line}`: {error}", path.join(" "));
            }
        }
    }
}

#[test]
fn a_slip_of_the_pen_is_answered_by_what_was_meant() {
    for (line, meant) in [
        ("sluice stauts", "'status'"),
        ("sluice explian --from 10.0.0.1", "'explain'"),
        ("sluice status --jsno", "'--json'"),
        ("sluice flows --cleint 10.0.0.1", "'--client'"),
        ("sluice completions fihs", "fish"),
    ] {
        let error = Cli::command().try_get_matches_from(words(line)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(meant), "{line}: {error}");
    }
}
