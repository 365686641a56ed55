// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask tidy`: the repository's own rules, as plain Rust.
//!
//! The rules read text, not types: a rule that can be read here in a minute is worth more than
//! one that nobody can get around. Each rule takes the whole [`Tree`], so that a test can make
//! one up.

mod layers;
mod lexer;
mod links;
mod names;
mod text;

use std::{fmt, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::paths;

/// The files of the repository, in order.
#[derive(Clone, Debug, Default)]
struct Tree {
    files: Vec<File>,
}

#[derive(Clone, Debug)]
struct File {
    /// Relative to the root, with `/`.
    path: String,
    /// The text, if it is of a kind that a rule reads; else empty.
    text: String,
}

/// A rule that is broken somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    message: String,
}

/// Kinds of files whose text is read.
const TEXTS: &[&str] = &["md", "rs", "service", "sh", "toml"];

/// Output and working files of tools, which git ignores too.
const SKIPPED: &[&str] =
    &["target", "tests/fuzz/artifacts", "tests/fuzz/corpus", "tests/fuzz/coverage"];

/// Checks the repository, and prints what is wrong.
pub(crate) fn run() -> Result<ExitCode> {
    let tree = Tree::load(&paths::root()?)?;
    let violations = check(&tree);
    for violation in &violations {
        println!("{violation}");
    }
    if violations.is_empty() {
        println!("tidy: {} files, nothing to say", tree.files.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} to mend", violations.len());
    Ok(ExitCode::FAILURE)
}

fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for rule in [text::check, layers::check, links::check] {
        violations.extend(rule(tree));
    }
    violations.sort();
    violations.dedup();
    violations
}

// === impl Tree ===

impl Tree {
    fn load(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.load_directory(root, "")?;
        tree.files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(tree)
    }

    fn load_directory(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        let entries = directory
            .read_dir()
            .with_context(|| format!("{} can't be read", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                // Cargo marks every target directory, whatever its name, by a CACHEDIR.TAG.
                let output = entry.path().join("CACHEDIR.TAG").exists();
                if name != ".git" && !output && !SKIPPED.contains(&path.as_str()) {
                    self.load_directory(&entry.path(), &format!("{path}/"))?;
                }
            } else if kind.is_file() {
                let mut file = File { path, text: String::new() };
                if TEXTS.contains(&file.extension()) {
                    let bytes = fs::read(entry.path())
                        .with_context(|| format!("{} can't be read", file.path))?;
                    file.text = String::from_utf8_lossy(&bytes).into_owned();
                }
                self.files.push(file);
            }
        }
        Ok(())
    }

    /// The Rust sources.
    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.extension() == "rs")
    }

    fn has(&self, path: &str) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Whether there is a file or a directory.
    fn has_any(&self, path: &str) -> bool {
        let directory = format!("{path}/");
        self.has(path) || self.files.iter().any(|file| file.path.starts_with(&directory))
    }
}

// === impl File ===

impl File {
    fn extension(&self) -> &str {
        match self.path.rsplit_once('.') {
            Some((_, extension)) => extension,
            None => "",
        }
    }

    /// Whether the file is one of these, or lies in one of these directories (which end in `/`).
    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            if place.ends_with('/') { self.path.starts_with(place) } else { self.path == *place }
        })
    }

    fn violation(&self, line: usize, message: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, message: message.into() }
    }
}

// === impl Violation ===

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// A made-up tree, for the tests of the rules.
#[cfg(test)]
fn tree(files: &[(&str, &str)]) -> Tree {
    let files = files
        .iter()
        .map(|(path, text)| File { path: (*path).to_owned(), text: (*text).to_owned() })
        .collect();
    Tree { files }
}

/// What a rule says about a made-up tree, as it would be printed.
#[cfg(test)]
fn said(rule: fn(&Tree) -> Vec<Violation>, files: &[(&str, &str)]) -> Vec<String> {
    rule(&tree(files)).iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_loaded_without_output_of_tools() {
        let root = std::env::temp_dir().join(format!("sluice-xtask-tidy-{}", std::process::id()));
        for directory in ["a/b", "target/debug", "elsewhere", ".git", ".ci"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (path, text) in [
            ("a/b/x.rs", "one"),
            ("a/y.bin", "two"),
            (".ci/run", "three"),
            ("target/debug/z.rs", ""),
            ("elsewhere/CACHEDIR.TAG", ""),
            ("elsewhere/z.rs", ""),
            (".git/z.rs", ""),
        ] {
            fs::write(root.join(path), text).unwrap();
        }
        let tree = Tree::load(&root);
        fs::remove_dir_all(&root).unwrap();
        let tree = tree.unwrap();
        let files: Vec<_> =
            tree.files.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect();
        assert_eq!(files, [(".ci/run", ""), ("a/b/x.rs", "one"), ("a/y.bin", "")]);
        assert!(tree.has_any("a/b") && !tree.has_any("a/x") && !tree.has("a/b"));
    }

    #[test]
    fn violations_are_sorted_and_name_their_place() {
        let tree = tree(&[
            ("b.rs", "// SPDX-License-Identifier: MIT OR Apache-2.0\n//! x\n\tlet x;\n"),
            ("a.md", "blank \n"),
        ]);
        let said: Vec<_> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["a.md:1: a blank at the end of the line", "b.rs:3: a tab"]);
    }
}
