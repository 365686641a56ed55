// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest prints: lines that begin with `guest: ` (`tests/src/guest.rs`), and the rest.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

/// The lines of a guest's console.
#[derive(Debug, Default)]
pub(super) struct Console {
    lines: Vec<String>,
}

/// How many cases the files of a directory hold: each begins with a line `[[case]]`.
pub(super) fn cases_in(directory: &Path) -> Result<usize> {
    let mut cases = 0;
    for path in super::initrd::case_files(directory)? {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} can't be read", path.display()))?;
        cases += text.lines().filter(|line| line.trim() == "[[case]]").count();
    }
    Ok(cases)
}

// === impl Console ===

impl Console {
    /// Takes the next line.
    pub(super) fn line(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// What is wrong with a guest that should have booted a kernel of this series and run this
    /// many cases. A guest that stopped early, or did nothing, is wrong too.
    pub(super) fn faults(&self, series: &str, cases: usize) -> Vec<String> {
        let mut faults: Vec<String> = self.all("fault").map(str::to_owned).collect();
        match self.last("kernel") {
            None => faults.push("it didn't boot as far as its first program".to_owned()),
            Some(kernel) if !kernel.starts_with(&format!("{series}.")) => {
                faults.push(format!("it booted Linux {kernel}"));
            }
            Some(_) => {}
        }
        match self.counts() {
            None => faults.push("it counted no cases".to_owned()),
            // A tenth may be too short for the program.
            Some((host, program)) if host != cases || program < cases - cases / 10 => {
                faults.push(format!(
                    "{host} cases on the host and {program} through the program, of {cases}"
                ));
            }
            Some(_) => {}
        }
        // A name with a comma is that of another role of the same program, which isn't attached.
        let programs = self.programs();
        let loaded: BTreeSet<&str> =
            programs.iter().map(|[name, ..]| *name).filter(|name| !name.contains(',')).collect();
        let attached: BTreeSet<&str> =
            self.all("attached").filter_map(|text| text.split(' ').next()).collect();
        if loaded.is_empty() || loaded != attached {
            faults.push(format!("it loaded {loaded:?}, and attached {attached:?}"));
        }
        match self.last("status") {
            Some("0") => {}
            Some(status) => faults.push(format!("its program ended with {status}")),
            None => faults.push("it stopped before the end".to_owned()),
        }
        faults
    }

    /// What it did, in a line.
    pub(super) fn summary(&self) -> String {
        let memory = self.last("memory").and_then(|kilobytes| kilobytes.parse::<u64>().ok());
        let memory = memory.map_or("?".to_owned(), |kilobytes| (kilobytes / 1024).to_string());
        let (host, program) = self.counts().unwrap_or_default();
        format!(
            "{host} cases on the host, {program} of them through the program; {memory} MiB of memory"
        )
    }

    /// What loading the programs took, one a line.
    pub(super) fn table(&self, series: &str) -> String {
        let mut table =
            format!("{:<26} {:<8} {:>12} {:>8}", "program", "kernel", "instructions", "load_ms");
        for [name, instructions, time] in self.programs() {
            // Writing to a string can't fail.
            let _ = write!(table, "\n{name:<26} {series:<8} {instructions:>12} {time:>8}");
        }
        table
    }

    /// What follows `guest: KEY `.
    fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(move |line| {
            line.strip_prefix("guest: ")?.strip_prefix(key)?.strip_prefix(' ')
        })
    }

    fn last(&self, key: &str) -> Option<&str> {
        self.all(key).last()
    }

    fn counts(&self) -> Option<(usize, usize)> {
        let (host, program) = self.last("cases")?.split_once(' ')?;
        Some((host.parse().ok()?, program.parse().ok()?))
    }

    /// Name, instructions and milliseconds.
    fn programs(&self) -> Vec<[&str; 3]> {
        self.all("program")
            .filter_map(|text| <[&str; 3]>::try_from(text.split(' ').collect::<Vec<_>>()).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "noise\nguest: kernel 6.1.0-56\nguest: cases 100 98\n\
                        guest: program a,observing 5 1\nguest: program a 7 2\n\
                        guest: attached a native\nguest: memory 2048\nguest: status 0";

    fn console(text: &str) -> Console {
        let mut console = Console::default();
        text.lines().for_each(|line| console.line(line));
        console
    }

    fn check(text: &str, fault: &str) {
        let faults = console(text).faults("6.1", 100);
        assert!(faults.iter().any(|found| found.contains(fault)), "{faults:?}");
    }

    #[test]
    fn a_guest_that_did_all_is_good() {
        let console = console(GOOD);
        assert_eq!(console.faults("6.1", 100), Vec::<String>::new());
        assert!(console.summary().contains("100 cases on the host, 98 of them"));
        let table = console.table("6.1");
        assert_eq!(table.lines().count(), 3);
        let fields: Vec<_> = table.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(fields, ["a", "6.1", "7", "2"]);
    }

    #[test]
    fn what_is_missing_is_a_fault() {
        check("", "didn't boot");
        check("", "no cases");
        check("", "stopped");
        for line in GOOD.lines().filter(|line| !line.contains("noise") && !line.contains("memory"))
        {
            if !line.contains("observing") {
                assert_ne!(console(&GOOD.replace(line, "")).faults("6.1", 100), [""; 0], "{line}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_a_fault() {
        check(&GOOD.replace("cases 100 98", "cases 0 0"), "0 cases");
        check(&GOOD.replace("cases 100 98", "cases 100 80"), "80 through");
        check(&GOOD.replace("6.1.0", "6.12.0"), "6.12.0");
        check(&GOOD.replace("attached a", "attached b"), "attached");
        check(&GOOD.replace("status 0", "status 1"), "ended with 1");
        check(&format!("{GOOD}\nguest: fault cases: x"), "cases: x");
    }
}
