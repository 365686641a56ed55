// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as a page or a feed: see `sluice_lab::import_invariants`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_lab::import_invariants::check;

fuzz_target!(|input: &[u8]| {
    if let Err(broken) = check(input) {
        panic!("{broken}");
    }
});
