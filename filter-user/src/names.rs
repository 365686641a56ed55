// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of the policy and the addresses that they have now.
//!
//! Answers go in; a [`Snapshot`] for the compiler, the look-ups that are due and the time of the
//! next wake-up come out. Nothing here asks a clock, a socket or a random number generator: `now`
//! is an argument and jitter comes from a seed, so every course of events can be replayed in a
//! test.
//!
//! What holds at any time:
//! * An address is allowed from the answer that brought it until its TTL (after floor and
//!   ceiling) and then the grace period are over, or for a grace period after it was last seen in
//!   use. Every address within that time counts, not only those of the last answer.
//! * A failed look-up takes nothing away. It is tried again, ever more slowly, and the addresses
//!   go when their time is over.
//! * What is over a bound is refused and counted. Nothing is evicted to make room.
//! * Special-purpose addresses are refused unless a rule asked for them, and the gateway's own
//!   prefixes always are.

mod answer;
mod cache;
mod few;
mod jitter;
#[cfg(test)]
mod properties;
mod report;
mod state;
#[cfg(test)]
mod tests;
mod wanted;

pub use self::{
    answer::{Answer, Changed, Learned, LookupFailure, Outcome, Refusal, Refusals, Standing},
    cache::{Left, NameCache, Provenance, Settings, Snapshot},
    report::{AddressReport, NameKind, NameReport, NameState, Report},
    state::{Note, Restored, STATE_VERSION, State, UnusableState},
    wanted::Wanted,
};
