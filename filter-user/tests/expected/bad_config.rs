// SPDX-License-Identifier: MIT OR Apache-2.0
//! Broken configurations, each with the exact text that a user gets.
//!
//! Every folder of `tests/cases/bad-config` is a configuration directory with an `expected.txt`.

use std::{fs, path::Path};

use filter_user::policy::load::{LoadErrors, load};

use crate::cases::check;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/bad-config");

#[test]
fn every_broken_configuration_says_what_is_wrong() {
    check(CASES, 25, |case| match load(case) {
        Ok(_) => "(no error)\n".to_owned(),
        Err(errors) => format!("{errors}\n"),
    });
}

#[test]
fn messages_follow_one_form() {
    for case in fs::read_dir(CASES).unwrap() {
        let path = case.unwrap().path().join("expected.txt");
        for line in fs::read_to_string(&path).unwrap().lines() {
            let path = path.display();
            assert!(line.contains("; "), "{path}: no way to mend it: {line}");
            assert!(!line.ends_with('.'), "{path}: {line}");
            let place = line.split(": ").next().unwrap_or_default();
            let (file, number) = place.rsplit_once(':').unwrap_or((place, "1"));
            assert!(file == "policy.d" || file.ends_with(".toml"), "{path}: {line}");
            assert!(number.parse::<u32>().is_ok_and(|number| number > 0), "{path}: {line}");
        }
    }
}

#[test]
fn binary_files_are_refused() {
    let cases: [(&[u8], &str); 4] = [
        (
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
            "policy.d/x.toml:1: the file has a NUL byte; this is a binary file or UTF-16: save it \
             as UTF-8 text",
        ),
        (
            b"# a\n# \xff\xfe\n",
            "policy.d/x.toml:2: byte 7 of the file is no UTF-8; this is a binary file or another \
             encoding: save it as UTF-8 text",
        ),
        (
            b"# caf\xe9\n",
            "policy.d/x.toml:1: byte 6 of the file is no UTF-8; this is a binary file or another \
             encoding: save it as UTF-8 text",
        ),
        (
            b"\xff\xfe[\0r\0u\0l\0e\0",
            "policy.d/x.toml:1: byte 1 of the file is no UTF-8; this is a binary file or another \
             encoding: save it as UTF-8 text",
        ),
    ];
    for (bytes, expected) in cases {
        let errors = load_with(|folder| fs::write(folder.join("x.toml"), bytes).unwrap());
        assert_eq!(errors.to_string(), expected);
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let errors = load_with(|folder| fs::create_dir(folder.join("x.toml")).unwrap());
    assert_eq!(
        errors.to_string(),
        "policy.d/x.toml: can't be read: it is not a regular file; give the \
         daemon's user a file there that it may read"
    );
    let errors = load_with(|folder| {
        std::os::unix::fs::symlink("/nonexistent", folder.join("x.toml")).unwrap();
    });
    assert_eq!(
        errors.to_string(),
        "policy.d/x.toml: can't be read: No such file or directory (os error 2); give the \
         daemon's user a file there that it may read"
    );
}

#[test]
fn files_too_large_are_refused() {
    let errors = load_with(|folder| {
        fs::File::create(folder.join("x.toml")).unwrap().set_len((16 << 20) + 1).unwrap();
    });
    assert_eq!(
        errors.to_string(),
        "policy.d/x.toml: can't be read: it is larger than 16 MiB; give the \
         daemon's user a file there that it may read"
    );
}

#[test]
fn a_directory_that_is_not_there() {
    let errors = load(Path::new("/nonexistent/sluice")).unwrap_err();
    assert_eq!(errors.diagnostics().len(), 1);
    assert!(errors.to_string().starts_with("gateway.toml: the file is missing; "), "{errors}");
}

/// The errors of a good configuration with something bad in `policy.d`. A good file names a
/// group that only the bad one could define: that it is unknown can't be said.
fn load_with(make: impl FnOnce(&Path)) -> LoadErrors {
    let directory = tempfile::tempdir().unwrap();
    let gateway = "[gateway]\ninside = [\"eth1\"]\noutside = []\n\
                   [[rule]]\nname = \"a\"\nfrom = [\"elsewhere\"]\nto = [\"self\"]\nicmp = true\n";
    fs::write(directory.path().join("gateway.toml"), gateway).unwrap();
    let folder = directory.path().join("policy.d");
    fs::create_dir(&folder).unwrap();
    // What isn't called *.toml, and what editors leave behind, doesn't count.
    fs::write(folder.join("README"), "\0").unwrap();
    fs::write(folder.join(".#y.toml"), "\0").unwrap();
    make(&folder);
    load(directory.path()).unwrap_err()
}
