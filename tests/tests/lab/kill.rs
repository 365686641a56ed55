// SPDX-License-Identifier: MIT OR Apache-2.0
//! Killing the daemon at any moment neither opens nor closes anything.

use sluice_lab::survival::{self, RATE};

/// How often the daemon is killed here; `sluice-bench kill` does it more often.
const KILLS: u32 = 5;

#[test]
fn a_killed_daemon_neither_opens_nor_closes_anything() {
    let report = survival::kill_repeatedly(KILLS).unwrap();
    println!("{KILLS} times SIGKILL: {report}");
    assert_eq!(report.denied.received, 0, "wrongly passed: {report}");
    assert_eq!(report.allowed.missing, Vec::<u32>::new(), "wrongly dropped: {report}");
    assert_eq!(report.allowed.duplicates, 0, "{report}");
    let rate = f64::from(report.allowed.sent) / report.duration.as_secs_f64();
    assert!(rate > f64::from(RATE) * 0.9, "only {rate:.0} packets a second: {report}");
}
