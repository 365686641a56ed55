// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder with a folder for each case, and an `expected.txt` in each.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Compares what each case gives with its `expected.txt`.
///
/// With `UPDATE_EXPECTED=1` the files are written anew instead; read the difference before
/// committing it.
pub(crate) fn check(all: &str, at_least: usize, found: impl Fn(&Path) -> String) {
    let cases = folders(all);
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let found = found(case);
        let expected = case.join("expected.txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}\nexpected:\n{expected}found:\n{found}", case.display()));
        }
    }
    println!("{} cases of {all}", cases.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The folders in a folder, in order.
fn folders(all: &str) -> Vec<PathBuf> {
    let mut cases: Vec<_> = fs::read_dir(all)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}
