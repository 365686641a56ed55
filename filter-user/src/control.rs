// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: every command but `run`, `check`, `import` and `detach` is its client.
//!
//! A client sends one request as a line of JSON and gets one reply as a line of JSON; `drops`
//! gets a line for each sample until it closes the connection.

pub mod client;
pub mod pattern;
pub mod protocol;
pub mod server;

/// Where the socket is unless the command line says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/control.sock";
