// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sluice's chores: `cargo xtask setup`, `test`, `tidy`, `demo`, `fuzz` and `bench`.
//!
//! This crate is what a fresh clone builds first, so it depends on nothing of ours and on as
//! little else as possible.

#![forbid(unsafe_code)]

mod lab;
mod paths;
mod process;
mod setup;
mod test;
mod tidy;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Sluice's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the build and the tests need; every other command runs this first.
    Setup {
        /// Only look: install nothing, and exit 1 when something is missing.
        #[arg(long)]
        check: bool,
    },
    /// Run every check and every test.
    Test {
        /// Run these stages only; can be given several times, or as a list with commas.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<test::Stage>,
        /// Run only tests whose name contains this text; leaves out what has no names.
        #[arg(long)]
        filter: Option<String>,
    },
    /// Check the repository's own rules: dependencies, headers, links, blanks.
    Tidy,
    /// Build Sluice, start the lab and show real connections under a real policy.
    Demo {
        /// Passed on to the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a fuzz target of `tests/fuzz`.
    Fuzz {
        /// The target.
        #[arg(default_value = "decide")]
        target: String,
        /// How long it runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// A directory with further inputs; can be given several times, and is only read.
        #[arg(long)]
        corpus: Vec<PathBuf>,
    },
    /// Run a benchmark of the lab.
    Bench {
        /// Its name.
        name: String,
        /// Passed on to the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup { check: true } => setup::check(),
        Command::Setup { check: false } => setup::install(),
        Command::Test { only, filter } => {
            let stages = test::stages(&only, filter.as_deref());
            setup::prepare(test::needs(&stages))?;
            test::run(&stages, filter.as_deref())
        }
        Command::Tidy => {
            setup::prepare(setup::Need::Nothing)?;
            tidy::run()
        }
        Command::Demo { arguments } => {
            setup::prepare(setup::Need::Lab)?;
            lab::demo(&arguments)
        }
        Command::Fuzz { target, seconds, corpus } => {
            setup::prepare(setup::Need::Build)?;
            lab::fuzz(&target, seconds, &corpus)
        }
        Command::Bench { name, arguments } => {
            setup::prepare(setup::Need::Lab)?;
            lab::bench(&name, &arguments)
        }
    }
}
