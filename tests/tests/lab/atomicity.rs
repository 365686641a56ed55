// SPDX-License-Identifier: MIT OR Apache-2.0
//! A new policy comes at once and whole: what the old and the new one say alike holds throughout.

use sluice_lab::swap::{self, RATE};

/// How often policies are swapped here; `sluice-bench swap` does it more often.
const SWAPS: u32 = 100;

#[test]
fn a_swap_of_policies_neither_opens_nor_closes_what_both_agree_on() {
    let swaps = swap::swap_repeatedly(SWAPS).unwrap();
    println!("{swaps}");
    swaps.check().unwrap();
    for report in [&swaps.outgoing, &swaps.incoming] {
        let sent = report.allowed.sent + report.denied.sent;
        let rate = f64::from(sent) / report.duration.as_secs_f64();
        assert!(rate > f64::from(RATE) * 0.9, "only {rate:.0} packets a second: {swaps}");
    }
}
