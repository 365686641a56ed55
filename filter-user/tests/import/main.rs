// SPDX-License-Identifier: MIT OR Apache-2.0
//! The importer as its users see it: pages go into the binary, endpoint sets and policies come out.

#![expect(clippy::indexing_slicing, reason = "a failure here is a failed test")]
#![expect(clippy::panic, reason = "a failure here is a failed test")]
#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod again;
mod binary;
mod cases;
mod facts;
mod hard;
mod properties;
