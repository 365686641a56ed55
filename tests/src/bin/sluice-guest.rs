// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs in a guest that has booted another kernel: `sluice-guest CASES NIC CLIENT`, with the
//! directory of cases, the NIC that clients are behind, and the file of the client's network
//! namespace. `cargo xtask test --only kernels` reads what it prints.

#![forbid(unsafe_code)]

use std::{env, path::PathBuf, process::ExitCode};

use sluice_lab::guest;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [cases, nic, client] = arguments.as_slice() else {
        eprintln!("usage: sluice-guest CASES NIC CLIENT");
        return ExitCode::from(2);
    };
    let faults = guest::run(cases, &nic.to_string_lossy(), client);
    for fault in &faults {
        println!("guest: fault {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
