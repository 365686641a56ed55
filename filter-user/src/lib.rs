// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sluice in user space: from a vendor's list to tables in the kernel.
//!
//! Dependencies point one way: `document` <- `policy` <- `compile` <- `kernel` <- `daemon` <-
//! `cli`. `document`, `policy`, `diff`, `names` and `compile` are pure.

#![forbid(unsafe_code)]

pub mod cli;
pub mod compile;
pub mod control;
pub mod daemon;
pub mod diff;
pub mod dns;
pub mod document;
pub mod kernel;
pub mod names;
pub mod policy;
