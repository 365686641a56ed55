// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's side of things: loading and attaching programs, pinning, writing tables, reading
//! counters and events, and what netlink says of the host.
//!
//! It is the only module that knows aya and netlink.

pub mod attach;
pub mod barrier;
pub mod clock;
pub mod conntrack;
mod egress;
pub mod events;
mod flows;
mod index;
pub mod maps;
pub mod memory;
pub mod migration;
pub mod netlink;
pub mod object;
pub mod offload;
pub mod pins;
pub mod question;
pub mod redirect;
mod state;
pub mod watch;
mod written;

pub use self::{
    attach::{AttachedMode, Attachment, Duty, Following},
    events::Events,
    flows::{FlowTables, FlowWriter},
    maps::SharedMaps,
    object::{Instance, LoadedProgram, Role, Shortcuts},
    pins::PinDirectory,
};
