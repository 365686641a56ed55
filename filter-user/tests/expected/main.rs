// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folders of inputs, each with the exact text that a user gets.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a failure here is a failed test")]

mod bad_config;
mod cases;
mod diff;
mod frames;
mod patterns;
mod troubleshooting;
mod warnings;
