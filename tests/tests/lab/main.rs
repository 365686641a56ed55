// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests in the lab: real packets between network namespaces. They need root, and say so.

#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of this crate is tests; clippy.toml exempts only functions marked as such"
)]

mod adversity;
mod atomicity;
mod attacks;
mod changes;
mod control;
mod daemon;
mod failure;
mod first_packet;
mod flows;
mod gap;
mod ground;
mod intercept;
mod judge;
mod kill;
mod metrics;
mod names_attacks;
mod names_cli;
mod names_faults;
mod names_peers;
mod names_support;
mod nics;
mod privileges;
mod reject;
mod support;
mod systemd;
mod transfers;
