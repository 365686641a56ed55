// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice man`: a page of the manual for each command, made of what `--help` says.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, Command};
use clap_mangen::Man;

use super::{command, output};

const EXAMPLES: &str = "Examples:
  sluice man | man -l -
  sluice man /usr/local/share/man/man1";

/// What the exit status of every command says.
const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Success."),
    (
        "1",
        "What was asked does not hold, as where a check failed, two policies differ or a packet would be \
         dropped; or it can't be done. The standard error output says which, and how to mend it.",
    ),
    ("2", "Wrong use of the command line."),
];

const FILES: &[(&str, &str)] = &[
    ("/etc/sluice/gateway.toml, /etc/sluice/policy.d/*.toml", "The configuration."),
    ("/run/sluice/control.sock", "The daemon's control socket."),
    ("/sys/fs/bpf/sluice", "Programs, maps and links, which outlive the daemon."),
    ("/var/lib/sluice", "What else outlives it: names with their addresses, meanings of counters."),
];

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ManArgs {
    /// Where to write a page for each command; without it, the first page is printed
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> Result<ExitCode> {
    let pages = pages()?;
    match &args.directory {
        Some(directory) => {
            fs::create_dir_all(directory)
                .with_context(|| format!("{} can't be made", directory.display()))?;
            for (name, page) in &pages {
                write(directory, name, page)?;
            }
            let (count, directory) = (pages.len(), directory.display());
            output::text(&format!("{count} pages are in {directory}\n"))?;
        }
        None => {
            let first = pages.first().context("there is no page")?;
            output::text(&first.1)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(directory: &Path, name: &str, page: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, page).with_context(|| format!("{} can't be written", path.display()))
}

/// All pages by their file names, the one of `sluice` itself first.
fn pages() -> Result<Vec<(String, String)>> {
    let mut root = command();
    root.build();
    let mut pages = Vec::new();
    add(&root, "sluice", &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, name: &str, pages: &mut Vec<(String, String)>) -> Result<()> {
    // A page of its own would say no more than `--help` does.
    if name.ends_with("help") {
        return Ok(());
    }
    pages.push((format!("{name}.1"), page(command, name)?));
    for sub in command.get_subcommands() {
        add(sub, &format!("{name}-{}", sub.get_name()), pages)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str) -> Result<String> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    // As of a program of its own, since `man` finds pages by such names; the synopsis has the blank.
    let shown = command
        .clone()
        .display_name(name.to_owned())
        .bin_name(name.replace('-', " "))
        .after_help("");
    let version = format!("sluice {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(shown).title(name.to_owned()).source(version).manual("Sluice");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8(page)?;
    if let Some((_, examples)) = examples.split_once('\n') {
        write!(page, ".SH EXAMPLES\n.nf\n{}\n.fi\n", literal(examples))?;
    }
    for (title, rows) in [("EXIT STATUS", EXIT_STATUS), ("FILES", FILES)] {
        writeln!(page, ".SH \"{title}\"")?;
        for (term, text) in rows {
            write!(page, ".TP\n\\fB{}\\fR\n{}\n", literal(term), literal(text))?;
        }
    }
    if name != "sluice" {
        page.push_str(".SH \"SEE ALSO\"\n\\fBsluice\\fR(1)\n");
    }
    Ok(page)
}

/// Text as it stands: roff takes a backslash, and a dot or an apostrophe that begins a line.
fn literal(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        match line.chars().next() {
            Some('.' | '\'') => format!("\\&{line}"),
            _ => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_with_examples_and_exit_status() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "sluice.1");
        for name in ["sluice-run.1", "sluice-names-flush.1", "sluice-flows-kill.1", "sluice-man.1"]
        {
            assert!(names.contains(&name), "no {name} in {names:?}");
        }
        for (name, page) in &pages {
            for part in [".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES", ".SH \"EXIT STATUS\""] {
                assert!(page.contains(part), "{name} has no {part}:\n{page}");
            }
            for (code, _) in EXIT_STATUS {
                assert!(page.contains(&format!("\\fB{code}\\fR")), "{name}: {code}");
            }
        }
    }

    #[test]
    fn text_stays_as_it_is() {
        assert_eq!(literal(".a\n'b\nc\\d --e"), "\\&.a\n\\&'b\nc\\ed \\-\\-e");
    }
}
