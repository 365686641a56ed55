// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `sluice`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    filter_user::cli::main()
}
