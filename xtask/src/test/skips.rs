// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tests/known-skips.toml`: what may be skipped, and why.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// Where the list is.
pub(super) const FILE: &str = "tests/known-skips.toml";

/// The names that may be skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownSkips(BTreeSet<String>);

/// The keys of each `[[skip]]`, all of them needed.
const KEYS: [&str; 3] = ["name", "reason", "when"];

/// Reads the list. It is so plain (`[[skip]]` and `key = "text"`) that it needs no TOML parser,
/// which this crate would have to build on every fresh clone; anything else is refused.
pub(super) fn parse(text: &str) -> Result<KnownSkips> {
    let mut names = BTreeSet::new();
    let mut entry: Option<Entry> = None;
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[skip]]" {
            finish(entry.take(), &mut names)?;
            entry = Some(Entry { line: number, values: Vec::new() });
            continue;
        }
        let Some((key, value)) = line.split_once('=').and_then(|(key, value)| {
            let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
            (!value.contains(['"', '\\'])).then_some((key.trim(), value))
        }) else {
            bail!("{FILE}:{number}: neither `[[skip]]` nor `key = \"text\"`");
        };
        let Some(entry) = &mut entry else {
            bail!("{FILE}:{number}: {key:?} stands before the first `[[skip]]`");
        };
        if !KEYS.contains(&key) || entry.get(key).is_some() {
            bail!("{FILE}:{number}: {key:?} is unknown or stands there twice");
        }
        entry.values.push((key.to_owned(), value.to_owned()));
    }
    finish(entry, &mut names)?;
    Ok(KnownSkips(names))
}

struct Entry {
    line: usize,
    values: Vec<(String, String)>,
}

fn finish(entry: Option<Entry>, names: &mut BTreeSet<String>) -> Result<()> {
    let Some(entry) = entry else { return Ok(()) };
    for key in KEYS {
        if entry.get(key).is_none_or(str::is_empty) {
            bail!("{FILE}:{}: this skip has no {key:?}", entry.line);
        }
    }
    let name = entry.get("name").unwrap_or_default();
    if !names.insert(name.to_owned()) {
        bail!("{FILE}:{}: {name:?} stands there twice", entry.line);
    }
    Ok(())
}

// === impl Entry ===

impl Entry {
    fn get(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

// === impl KnownSkips ===

impl KnownSkips {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "# why\n[[skip]]\nname = \"a\"\nreason = \"b # c\"\nwhen = \"d\"\n";

    fn check(text: &str, message: &str) {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn names_are_read() {
        let known = parse(ONE).unwrap();
        assert!(known.contains("a") && !known.contains("b"));
        assert_eq!(parse("").unwrap(), KnownSkips::default());
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        check("[[skip]]\nname = a\n", "known-skips.toml:2");
        check("name = \"a\"\n", "before the first");
        check("[[skip]]\nname = \"a\"\n", "no \"reason\"");
        check("[[skip]]\nnames = \"a\"\n", "unknown");
        check("[[skip]]\nname = \"a\"\nname = \"b\"\n", "twice");
        check(&ONE.repeat(2), "twice");
    }

    #[test]
    fn the_list_of_this_repository_is_good() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FILE);
        assert!(parse(&std::fs::read_to_string(path).unwrap()).is_ok());
    }
}
