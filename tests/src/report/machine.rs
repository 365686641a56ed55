// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where something was measured: numbers say little without it.

use std::{collections::BTreeMap, fmt, fs, process::Command};

use serde::Serialize;

/// What stands in the place of what can't be found out.
const UNKNOWN: &str = "unknown";

/// A machine, at the time of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The day and time, in UTC.
    pub date: String,
    /// The kernel's release.
    pub kernel: String,
    /// The model of the processor.
    pub cpu: String,
    /// How many processors the kernel has.
    pub processors: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// How many processes wanted to run lately: what else the machine did.
    pub load: String,
    /// The compiler of this program.
    pub rustc: String,
    /// The commit of the repository, with a `+` where files had changed.
    pub commit: String,
    /// What was measured beside Sluice, and its version.
    pub peers: BTreeMap<String, String>,
}

// === impl Machine ===

impl Machine {
    /// The one at hand.
    #[must_use]
    pub fn at_hand() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let models = || cpuinfo.lines().filter_map(|line| value_of(line, "model name"));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            date: output("date", &["-u", "+%Y-%m-%d %H:%M"]),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| UNKNOWN.to_owned(), |text| text.trim().to_owned()),
            cpu: models().next().unwrap_or(UNKNOWN).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_mib().unwrap_or(0),
            load: load.split_whitespace().next().unwrap_or(UNKNOWN).to_owned(),
            rustc: output("rustc", &["--version"]),
            commit: commit(),
            peers: BTreeMap::new(),
        }
    }

    /// Notes the version of a Debian package that is measured, too.
    pub fn peer(&mut self, package: &str) {
        let version = output("dpkg-query", &["-W", "-f", "${Version}", package]);
        self.peers.insert(package.to_owned(), version);
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, kernel, cpu, processors, memory_mib, load, rustc, commit, peers } = self;
        write!(
            f,
            "{date} UTC, Linux {kernel}, {cpu}, {processors} processors, {memory_mib} MiB; load {load} at the \
             start; {rustc}; commit {commit}"
        )?;
        for (package, version) in peers {
            write!(f, "; {package} {version}")?;
        }
        writeln!(f, ".")
    }
}

fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = line.split_once(':')?;
    (key.trim() == name).then_some(value.trim())
}

fn memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| value_of(line, "MemTotal"))?;
    let kib: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn commit() -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let commit = output("git", &["-C", root, "rev-parse", "--short", "HEAD"]);
    let changed = output("git", &["-C", root, "status", "--porcelain", "--untracked-files=no"]);
    if changed == UNKNOWN { commit } else { commit + "+" }
}

/// What a program prints, or [`UNKNOWN`] where it fails or prints nothing.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().filter(|output| output.status.success());
    let text = text.and_then(|output| String::from_utf8(output.stdout).ok());
    match text.as_deref().map(str::trim) {
        None | Some("") => UNKNOWN.to_owned(),
        Some(text) => text.to_owned(),
    }
}
