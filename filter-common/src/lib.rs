// SPDX-License-Identifier: MIT OR GPL-2.0
//! What Sluice's programs in the kernel and its user space share: the parser, the filter and the
//! layout of the maps.
//!
//! The crate is `no_std` and needs no allocator. [`decide::decide`] is generic over where bytes
//! come from ([`frame::Frame`]) and where tables are ([`tables::Tables`]), so that the code which
//! the kernel runs is the code that the host tests, fuzzes and measures.

#![no_std]

pub mod address;
pub mod decide;
pub mod egress;
pub mod fast_path;
pub mod flow;
pub mod flow_table;
pub mod frame;
pub mod index;
pub mod outside;
pub mod parse;
pub mod pod;
pub mod reject;
pub mod tables;
pub mod verdict;
pub mod wire;
