// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: HTTP with JSON over a unix socket. Every command that is about a running daemon
//! is its client, and can do nothing that other clients can't.
//!
//! Who may open the socket may read: root, and the members of the group `sluice`. Only root may
//! change anything. `GET /v1/openapi.json` describes it.

pub mod api;
pub mod client;
pub mod pattern;
pub mod protocol;
pub mod server;

/// Where the socket is unless the command line says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/control.sock";

/// The group whose members may read.
pub const GROUP: &str = "sluice";
