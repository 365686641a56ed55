// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab: network namespaces, real servers and real packets around Sluice.
//!
//! A lab is a client, a gateway and an internet, each a network namespace, joined by veth pairs
//! and by nothing else: what is sent here can't leave the machine, whatever addresses it uses.
//! Everything that a lab makes is held by a guard and listed in [`cleanup`], so that it also goes
//! away after a panic and after Ctrl-C. Names are unique for each run, so that runs don't collide.

#![forbid(unsafe_code)]

pub mod answers;
pub mod captures;
pub mod cases;
pub mod cleanup;
pub mod demo;
pub mod dns_bench;
pub mod dns_server;
pub mod first_packet;
pub mod frames;
pub mod gap;
pub mod gateway;
pub mod generator;
pub mod ground;
pub mod guest;
pub mod import_bench;
pub mod import_invariants;
pub mod invariants;
pub mod judge;
pub mod learn_bench;
pub mod listener;
pub mod model;
pub mod netns;
pub mod packet_bench;
pub mod peers;
pub mod probe;
mod probed;
pub mod process;
pub mod query;
pub mod raw;
pub mod report;
pub mod restart_bench;
pub mod rich_policy;
pub mod scale_bench;
pub mod seeds;
pub mod soak;
pub mod survival;
pub mod swap;
pub mod systemd;
pub mod throughput;
pub mod topology;
pub mod upstream;
pub mod workdir;
