// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: every check and every test, in stages, with one count at the end.

mod kernels;
mod scan;
mod skips;

use std::{
    fs,
    ops::AddAssign,
    process::ExitCode,
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
    /// `cargo test` with each of these lists of arguments; the tests are counted.
    Tests(Vec<Vec<&'static str>>),
    /// Guests with other kernels: one test each.
    Guests,
}

/// Tests of the lab that measure times, or count what is lost at a high rate, or look at everything that is left
/// of a lab: they have the two cores for themselves. Others mostly wait.
const ALONE: [&str; 7] =
    ["atomicity::", "first_packet::", "gap::", "ground::", "kill::", "nics::", "transfers::"];

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
        Work::Tests(runs) => {
            // The lab starts the binary of another package, which its tests don't build.
            let mut next = None;
            if stage == Stage::Lab {
                next = Some(lab::next_layout(lab::Profile::Debug)?);
                let mut build = process::cargo()?;
                build.args(["build", "--locked", "--package", "filter-user", "--bin", "sluice"]);
                if !process::run(&mut build)?.success() {
                    let mut report = Report::default();
                    report.fault("the binary can't be built".to_owned());
                    return Ok(report);
                }
            }
            let (mut scan, mut good) = (Scan::default(), true);
            for arguments in with_filter(&runs, filter) {
                let mut command = process::cargo()?;
                command.args(["test", "--locked", "--no-fail-fast"]).args(arguments);
                command.envs(next.iter().map(|next| (lab::NEXT_LAYOUT, next)));
                good &= process::run_scanned(&mut command, |stream, line| {
                    scan.line(stream, line);
                })?
                .success();
            }
            Ok(judge(&scan, good, empty, known))
        }
        Work::Guests => kernels::run(known),
    }
}

/// The arguments of each run. With a filter there is one run, in which a test follows another.
///
/// `--show-output`, because libtest keeps to itself what a passing test prints, and a skip is
/// printed by a test that passes.
fn with_filter<'a>(runs: &[Vec<&'a str>], filter: Option<&'a str>) -> Vec<Vec<&'a str>> {
    let one = |run: &Vec<&'a str>| {
        let mut parts = run.splitn(2, |argument| *argument == "--");
        let targets = parts.next().unwrap_or_default();
        let options = match filter {
            Some(filter) => vec!["--test-threads=1", filter],
            None => parts.next().unwrap_or_default().to_vec(),
        };
        [targets, &["--", "--show-output"], &options].concat()
    };
    runs.iter().take(if filter.is_some() { 1 } else { runs.len() }).map(one).collect()
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
            Self::Unit => Work::Tests(vec![vec![
                "--package",
                "filter-common",
                "--package",
                "filter-user",
                "--package",
                "xtask",
            ]]),
            Self::Program => Work::Tests(vec![vec![
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
            ]]),
            Self::Lab => {
                let lab = ["--package", "sluice-lab", "--test", "lab", "--"];
                let mut together = [&lab[..], &["--test-threads=2"]].concat();
                together.extend(ALONE.iter().flat_map(|module| ["--skip", module]));
                let alone = [&lab[..], &["--test-threads=1"], &ALONE].concat();
                Work::Tests(vec![together, alone])
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
    fn each_test_of_the_lab_is_in_one_run_and_a_filter_makes_one_of_them() {
        let Work::Tests(runs) = Stage::Lab.work() else { panic!("the lab has tests") };
        let [together, alone] = &with_filter(&runs, None)[..] else { panic!("two runs") };
        for module in ALONE {
            assert!(together.windows(2).any(|pair| pair == ["--skip", module]), "{together:?}");
            assert!(alone.contains(&module), "{alone:?}");
        }
        assert_eq!(
            with_filter(&runs, Some("dns")).concat().join(" "),
            "--package sluice-lab --test lab -- --show-output --test-threads=1 dns"
        );
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
}
