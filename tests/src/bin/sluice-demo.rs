// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demonstration: `sluice-demo [CATALOG]`. It needs root, and a `sluice` built next to it.

#![forbid(unsafe_code)]

use std::{env, io, path::PathBuf, process::ExitCode};

use sluice_lab::demo::{self, Ending};

fn main() -> ExitCode {
    let catalog = env::args_os().nth(1).map_or_else(demo::default_catalog, PathBuf::from);
    match demo::run(&catalog, &mut io::stdout()) {
        Ok(Ending::AsExpected) => ExitCode::SUCCESS,
        Ok(Ending::Differences(_)) => ExitCode::from(1),
        Err(error) => {
            eprintln!("sluice-demo: {error:#}");
            ExitCode::from(1)
        }
    }
}
