// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice diff` as a user meets it: output, errors and exit status.
//!
//! Every folder of `tests/cases/diff` has two inputs, `old.*` and `new.*`, and an `expected.txt`.

use std::{fs, path::Path, process::Command};

use crate::cases::check;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/diff");

#[test]
fn every_case_prints_what_it_should() {
    check(CASES, 5, |case| diff(case, &[&input(case, "old"), &input(case, "new")]));
}

#[test]
fn json_has_stable_fields() {
    let case = Path::new(CASES).join("page-and-page");
    let text = diff(&case, &["--json", &input(&case, "old"), &input(&case, "new")]);
    let (json, status) = text.split_once("exit status ").unwrap();
    assert_eq!(status, "1\n");
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect();
    let top: Vec<String> = keys(&json);
    let expected =
        ["counts", "equal", "granted_only_by_new", "granted_only_by_old", "moved", "sets"];
    assert_eq!(top, expected);
    let set: Vec<String> = keys(&json["sets"][0]);
    let expected = [
        "category",
        "change",
        "covered",
        "enabled",
        "express_route",
        "from",
        "id",
        "names_added",
        "names_removed",
        "new",
        "old",
        "parts_added",
        "parts_removed",
        "prefixes_added",
        "prefixes_removed",
        "protocols_added",
        "protocols_removed",
        "required",
        "set",
        "tcp_added",
        "tcp_removed",
        "udp_added",
        "udp_removed",
    ];
    assert_eq!(set, expected);
}

#[test]
fn wrong_use_is_another_exit_status() {
    assert!(diff(Path::new(CASES), &["one"]).ends_with("exit status 2\n"));
    let text = diff(Path::new(CASES), &["no-such-file", "no-such-file.toml"]);
    assert!(text.starts_with("sluice: can't read no-such-file: "), "{text}");
    assert!(text.ends_with("exit status 1\n"), "{text}");
    let text = diff(Path::new(CASES), &["--socket", "/nonexistent/socket", "running", "running"]);
    assert!(text.starts_with("sluice: no daemon listens on /nonexistent/socket"), "{text}");
}

/// The file or folder of that name, whatever it ends in.
fn input(case: &Path, name: &str) -> String {
    let entries = fs::read_dir(case).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names = entries.map(|entry| entry.into_string().unwrap());
    names.find(|entry| entry.split('.').next() == Some(name)).unwrap()
}

fn diff(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    let output = command.arg("diff").args(args).current_dir(folder).output().unwrap();
    format!(
        "{}{}exit status {}\n",
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap()
    )
}
