// SPDX-License-Identifier: MIT OR Apache-2.0
//! No gap, and nothing lost, whatever happens to the daemon.

use sluice_lab::gap::{Plan, live_through, next_layout};

/// `sluice-bench gap` does more.
const KILLS: u32 = 10;
const RELOADS: u32 = 100;

#[test]
fn nothing_that_happens_to_the_daemon_opens_or_closes_anything() {
    let next = next_layout();
    assert!(next.is_some(), "the test command builds it, and names it in SLUICE_NEXT_LAYOUT_BIN");
    let plan = Plan { kills: KILLS, reloads: RELOADS, next, seed: 7 };
    let gaps = live_through(&plan).unwrap();
    print!("{gaps}");
    gaps.check().unwrap();
}
