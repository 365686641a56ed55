// SPDX-License-Identifier: MIT OR Apache-2.0
//! Good configurations that are worth a second look, each with every warning about it.
//!
//! Every folder of `tests/cases/warnings` is a configuration directory with an `expected.txt`.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use filter_user::policy::load::{load, summed_up};

use crate::cases::check;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases/warnings");

#[test]
fn every_configuration_has_its_warnings() {
    check(CASES, 10, |case| {
        let loaded = load(case).unwrap_or_else(|errors| panic!("{}: {errors}", case.display()));
        loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect()
    });
}

/// 100,000 prefixes and 10,000 names, most of them covered: nothing may compare each with each.
#[test]
fn long_lists() {
    let mut text = String::from("[[rule]]\nname = \"wide\"\ntcp = [443]\nto = [\n");
    for net in 0..100 {
        writeln!(text, "  \"{}.{}.0.0/16\",", 50 + net / 10, net % 10).unwrap();
        writeln!(text, "  \"*.{net}.example.com\",\n  \"*x{net}*.b.example.com\",").unwrap();
    }
    text.push_str("]\n");
    for rule in 0..100 {
        writeln!(text, "[[rule]]\nname = \"r{rule}\"\ntcp = [443]\nto = [").unwrap();
        for host in 0..1000 {
            let (high, low) = (host / 250, host % 250);
            writeln!(text, "  \"{}.{}.{high}.{low}\",", 50 + rule / 10, rule % 10).unwrap();
        }
        for name in 0..100 {
            writeln!(text, "  \"x{name}.{rule}.example.com\",").unwrap();
        }
        text.push_str("]\n");
    }
    let directory = tempfile::tempdir().unwrap();
    let gateway = "[gateway]\ninside = [\"eth1\"]\noutside = []\n\
                   [dns]\nupstream = [\"192.0.2.53\"]\n\
                   [management]\nfrom = [\"10.0.10.0/28\"]\ntcp = [22]\n";
    fs::write(directory.path().join("gateway.toml"), gateway).unwrap();
    fs::create_dir(directory.path().join("policy.d")).unwrap();
    fs::write(directory.path().join("policy.d/long.toml"), text).unwrap();
    let start = Instant::now();
    let warnings = load(directory.path()).unwrap().warnings;
    let took = start.elapsed();
    assert_eq!(warnings.len(), 110_000);
    let lines = summed_up(&warnings);
    assert_eq!(lines.len(), 6);
    assert_eq!(
        lines.last().unwrap(),
        "and 109995 more names and prefixes that others cover; `sluice check --json` lists them"
    );
    assert!(took < Duration::from_secs(20), "{took:?} without optimisation is too slow");
}
