// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a frame, judged over the rich policy: see `sluice_lab::invariants`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluice_lab::{invariants, rich_policy::RichPolicy};

static POLICY: LazyLock<RichPolicy> = LazyLock::new(RichPolicy::new);

fuzz_target!(|frame: &[u8]| {
    if let Err(broken) = invariants::check(&POLICY, frame, invariants::Cuts::Some) {
        panic!("{broken}");
    }
});
