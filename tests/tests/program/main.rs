// SPDX-License-Identifier: MIT OR Apache-2.0
//! The filter as the kernel runs it, against the filter as the host runs it. These tests load the
//! program and need root.

#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of this crate is tests; clippy.toml exempts only functions marked as such"
)]

mod answers;
mod cases;
mod flow_table;
mod random;
mod remembered;
mod steps;
mod used;
