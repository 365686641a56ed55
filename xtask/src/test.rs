// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: every check and every test, in stages, with one count at the end.

mod kernels;
mod scan;
mod skips;

use std::{
    ffi::OsStr,
    fs,
    ops::AddAssign,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::{scan::Scan, skips::KnownSkips};
use crate::{lab, paths, process, setup, tidy};

/// A part of the test command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Stage {
    /// Every crate is formatted.
    Fmt,
    /// Clippy has nothing to say.
    Clippy,
    /// The repository's own rules hold.
    Tidy,
    /// The documentation builds without a warning.
    Docs,
    /// Tests of the crates, without privileges.
    Unit,
    /// Cases and properties through the loaded program.
    Program,
    /// Real packets between namespaces.
    Lab,
    /// The cases and the programs on other kernels, in guests.
    Kernels,
}

/// What a stage is made of.
enum Work {
    /// Commands that only succeed or fail: together one test.
    Commands(Vec<Vec<&'static str>>),
    /// The rules of `tidy`: one test.
    Tidy,
    /// `cargo test` with these arguments; the tests are counted.
    Tests(&'static [&'static str]),
    /// Guests with other kernels: one test each.
    Guests,
}

/// The numbers of the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// How a stage went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    tally: Tally,
    /// Tests that were run and whose outcome is known or missing.
    ran: u64,
    /// Skips that were known, for the summary.
    skips: Vec<String>,
    /// What else is wrong, for the summary.
    faults: Vec<String>,
}

/// A stage that runs no test usually means that a target was renamed; with a filter, most do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Empty {
    Fault,
    Expected,
}

/// The stages to run: those that were asked for, else all; with a filter, only those whose tests
/// have names.
pub(crate) fn stages(only: &[Stage], filter: Option<&str>) -> Vec<Stage> {
    let asked = |stage: &Stage| match filter {
        _ if !only.is_empty() => only.contains(stage),
        Some(_) => matches!(stage.work(), Work::Tests(_)),
        None => true,
    };
    Stage::value_variants().iter().copied().filter(asked).collect()
}

/// What has to be installed for these stages.
pub(crate) fn needs(stages: &[Stage]) -> setup::Need {
    stages.iter().map(|stage| stage.need()).max().unwrap_or(setup::Need::Nothing)
}

/// Runs stages in order, all of them also after a failure.
pub(crate) fn run(stages: &[Stage], filter: Option<&str>) -> Result<ExitCode> {
    let known = known_skips()?;
    let empty = if filter.is_some() { Empty::Expected } else { Empty::Fault };
    let mut reports = Vec::new();
    for &stage in stages {
        println!("\n=== {}: {}", stage.name(), stage.describe());
        let start = Instant::now();
        let report = run_stage(stage, filter, empty, &known)?;
        let time = start.elapsed();
        println!("=== {}: {}, {}", stage.name(), numbers(report.tally), seconds(time));
        reports.push((stage, report, time));
    }
    if empty == Empty::Expected && reports.iter().all(|(_, report, _)| report.ran == 0) {
        let text = filter.unwrap_or_default();
        if let Some((_, report, _)) = reports.last_mut() {
            report.fault(format!("no test has a name that contains {text:?}"));
        }
    }
    Ok(summary(&reports))
}

fn run_stage(
    stage: Stage,
    filter: Option<&str>,
    empty: Empty,
    known: &KnownSkips,
) -> Result<Report> {
    match stage.work() {
        Work::Commands(commands) => {
            let mut good = true;
            for arguments in commands {
                let mut command = process::cargo()?;
                if stage == Stage::Docs {
                    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
                }
                good &= process::run(command.args(arguments))?.success();
            }
            Ok(Report::of_one(good))
        }
        Work::Tidy => {
            let good = tidy::run()? == ExitCode::SUCCESS;
            Ok(Report::of_one(good))
        }
        Work::Tests(arguments) => {
            let mut command = process::cargo()?;
            // The lab starts the binary of another package, which its tests don't build.
            if stage == Stage::Lab {
                let next = lab::next_layout(lab::Profile::Debug)?;
                let mut build = process::cargo()?;
                build.args(["build", "--locked", "--package", "filter-user", "--bin", "sluice"]);
                if !process::run(&mut build)?.success() {
                    let mut report = Report::default();
                    report.fault("the binary can't be built".to_owned());
                    return Ok(report);
                }
                command.env(lab::NEXT_LAYOUT, next);
            }
            command.args(["test", "--locked", "--no-fail-fast"]);
            command.args(arguments);
            let mut scan = Scan::default();
            let status =
                process::run_scanned(with_filter(&mut command, filter), |stream, line| {
                    scan.line(stream, line);
                })?;
            Ok(judge(&scan, status.success(), empty, known))
        }
        Work::Guests => kernels::run(known),
    }
}

/// `--show-output`, because libtest keeps to itself what a passing test prints, and a skip is
/// printed by a test that passes.
fn with_filter<'a>(command: &'a mut Command, filter: Option<&str>) -> &'a mut Command {
    if !command.get_args().any(|argument| argument == OsStr::new("--")) {
        command.arg("--");
    }
    command.arg("--show-output").args(filter)
}

/// From what was printed to what it counts as.
fn judge(scan: &Scan, success: bool, empty: Empty, known: &KnownSkips) -> Report {
    let mut report = Report {
        tally: Tally { passed: scan.passed, failed: scan.failed, skipped: 0 },
        ran: scan.passed + scan.failed + scan.ignored,
        ..Report::default()
    };
    report.tally.passed = report.tally.passed.saturating_sub(scan.tests_that_skipped());
    for skip in &scan.skips {
        if known.contains(&skip.name) {
            report.tally.skipped += 1;
            report.skips.push(format!("{}: {}", skip.name, skip.reason));
        } else {
            report.fault(format!("skipped {:?}, which isn't in {}", skip.name, skips::FILE));
        }
    }
    if scan.ignored > 0 {
        report.faults.push(format!("{} ignored: a test runs or isn't there", scan.ignored));
        report.tally.failed += scan.ignored;
    }
    if scan.unfinished() > 0 {
        report.faults.push(format!("{} test programs ended without a result", scan.unfinished()));
        report.tally.failed += scan.unfinished();
    }
    if !success && report.tally.failed == 0 {
        report.fault("cargo test failed before any test did".to_owned());
    }
    if report.ran == 0 && report.faults.is_empty() && empty == Empty::Fault {
        report.fault("no test was run".to_owned());
    }
    report
}

fn known_skips() -> Result<KnownSkips> {
    let path = paths::root()?.join(skips::FILE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("{} can't be read", path.display()))?;
    skips::parse(&text)
}

/// Prints what went wrong, and the counts as the very last line.
fn summary(reports: &[(Stage, Report, Duration)]) -> ExitCode {
    println!("\n=== summary");
    let mut total = Tally::default();
    for (stage, report, time) in reports {
        total += report.tally;
        println!("{:<8} {:<36} {:>9}", stage.name(), numbers(report.tally), seconds(*time));
        for skip in &report.skips {
            println!("         skipped {skip}");
        }
        for fault in &report.faults {
            println!("         failed: {fault}");
        }
    }
    println!("{}", numbers(total));
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn numbers(tally: Tally) -> String {
    format!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

// === impl Stage ===

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Tidy => "tidy",
            Self::Docs => "docs",
            Self::Unit => "unit",
            Self::Program => "program",
            Self::Lab => "lab",
            Self::Kernels => "kernels",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Fmt => "every crate is formatted",
            Self::Clippy => "no warnings, the eBPF crate included",
            Self::Tidy => "dependencies, headers, links",
            Self::Docs => "the documentation builds without warnings",
            Self::Unit => "tests without privileges",
            Self::Program => "cases and properties through the loaded program",
            Self::Lab => "real packets between namespaces",
            Self::Kernels => "cases and programs on other kernels",
        }
    }

    fn need(self) -> setup::Need {
        match self {
            Self::Tidy => setup::Need::Nothing,
            // What else a guest needs is looked for by the stage, which may be skipped.
            Self::Fmt | Self::Clippy | Self::Docs | Self::Unit | Self::Kernels => {
                setup::Need::Build
            }
            Self::Program | Self::Lab => setup::Need::Lab,
        }
    }

    fn work(self) -> Work {
        match self {
            Self::Fmt => Work::Commands(vec![vec!["fmt", "--all", "--check"]]),
            Self::Clippy => Work::Commands(vec![
                vec!["clippy", "--locked", "--all-targets", "--", "-D", "warnings"],
                // The host can check the programs too, if it isn't asked to unwind: `--release`
                // aborts on a panic, as the programs do.
                vec![
                    "clippy",
                    "--locked",
                    "--release",
                    "--package",
                    "filter-ebpf",
                    "--package",
                    "generator-ebpf",
                    "--",
                    "-D",
                    "warnings",
                ],
            ]),
            Self::Tidy => Work::Tidy,
            Self::Docs => Work::Commands(vec![vec![
                "doc",
                "--locked",
                "--no-deps",
                "--document-private-items",
            ]]),
            Self::Unit => Work::Tests(&[
                "--package",
                "filter-common",
                "--package",
                "filter-user",
                "--package",
                "xtask",
            ]),
            Self::Program => Work::Tests(&[
                "--package",
                "sluice-lab",
                "--lib",
                "--test",
                "program",
                "--test",
                "corpus",
                "--test",
                "model",
                "--test",
                "flows",
            ]),
            // One after the other: the lab measures times, and two cores are soon full.
            Self::Lab => {
                Work::Tests(&["--package", "sluice-lab", "--test", "lab", "--", "--test-threads=1"])
            }
            Self::Kernels => Work::Guests,
        }
    }
}

// === impl Tally ===

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

// === impl Report ===

impl Report {
    fn of_one(good: bool) -> Self {
        let tally = Tally { passed: u64::from(good), failed: u64::from(!good), ..Tally::default() };
        Self { tally, ran: 1, ..Self::default() }
    }

    fn fault(&mut self, what: String) {
        self.tally.failed += 1;
        self.faults.push(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Stream;

    const GOOD: &str = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; \
                        0 measured; 0 filtered out; finished in 0.00s\n";

    fn report(output: &str, success: bool, empty: Empty) -> Report {
        let known = skips::parse(
            "[[skip]]\nname = \"pcaps\"\nreason = \"no captures\"\nwhen = \"elsewhere\"\n",
        )
        .unwrap();
        let mut scan = Scan::default();
        for line in output.lines() {
            scan.line(Stream::Out, line);
        }
        judge(&scan, success, empty, &known)
    }

    fn check(output: &str, success: bool, expected: (u64, u64, u64), fault: Option<&str>) {
        let report = report(output, success, Empty::Fault);
        let tally = report.tally;
        assert_eq!((tally.passed, tally.failed, tally.skipped), expected, "{output}");
        match fault {
            None => assert_eq!(report.faults, Vec::<String>::new(), "{output}"),
            Some(text) => {
                assert!(report.faults.iter().any(|fault| fault.contains(text)), "{report:?}");
            }
        }
    }

    #[test]
    fn good_tests_are_counted_over_programs() {
        check(GOOD, true, (2, 0, 0), None);
        check(&GOOD.repeat(3), true, (6, 0, 0), None);
    }

    #[test]
    fn a_known_skip_is_no_pass() {
        let output = format!("skipped: pcaps: not on this machine\n{GOOD}");
        check(&output, true, (1, 0, 1), None);
    }

    #[test]
    fn an_unknown_skip_fails() {
        let output = format!("skipped: moon: wrong phase\n{GOOD}");
        check(&output, true, (1, 1, 0), Some("moon"));
    }

    #[test]
    fn an_ignored_test_fails() {
        check(&GOOD.replace("0 ignored", "1 ignored"), true, (2, 1, 0), Some("ignored"));
    }

    #[test]
    fn no_test_at_all_fails() {
        check("", true, (0, 1, 0), Some("no test was run"));
        check(&GOOD.replace('2', "0"), true, (0, 1, 0), Some("no test was run"));
        assert_eq!(report("", true, Empty::Expected), Report::default());
    }

    #[test]
    fn a_failure_of_cargo_fails_once() {
        check("", false, (0, 1, 0), Some("before any test"));
        check(&GOOD.replace("0 failed", "1 failed"), false, (2, 1, 0), None);
    }

    #[test]
    fn a_program_that_dies_fails() {
        let output = format!("{GOOD}running 5 tests\n");
        check(&output, false, (2, 1, 0), Some("without a result"));
    }

    #[test]
    fn a_filter_leaves_out_what_has_no_names() {
        assert_eq!(stages(&[], None), Stage::value_variants());
        assert_eq!(stages(&[], Some("x")), [Stage::Unit, Stage::Program, Stage::Lab]);
        assert_eq!(stages(&[Stage::Lab, Stage::Fmt], None), [Stage::Fmt, Stage::Lab]);
    }

    #[test]
    fn the_filter_comes_after_the_separator_and_there_is_one() {
        for first in [&["test"][..], &["test", "--", "--test-threads=1"][..]] {
            let mut command = Command::new("cargo");
            with_filter(command.args(first), Some("text"));
            let arguments: Vec<_> = command.get_args().collect();
            assert_eq!(arguments.iter().filter(|argument| **argument == "--").count(), 1);
            assert_eq!(arguments.last().unwrap(), &OsStr::new("text"));
        }
    }
}
