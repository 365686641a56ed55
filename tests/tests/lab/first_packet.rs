// SPDX-License-Identifier: MIT OR Apache-2.0
//! No first packet is lost: what a client resolves, it can reach at once. `cargo xtask bench
//! first-packet` does the same with more names, for release.

use std::time::Duration;

use sluice_lab::first_packet::{Circumstances, Learning, Load, Nat, Reload, Stage};

const NAMES: u32 = 1000;

#[track_caller]
fn check(threads: u32, circumstances: Circumstances) {
    let stage = Stage::new(circumstances.nat).unwrap();
    let report = stage.run(Learning::On, threads, NAMES, &circumstances).unwrap();
    println!("{circumstances}, {threads} threads: {report}");
    report.check().unwrap();
}

#[test]
fn one_thread() {
    check(1, Circumstances::CALM);
}

#[test]
fn four_threads() {
    check(4, Circumstances::CALM);
}

#[test]
fn behind_source_nat_with_a_late_resolver() {
    let nat = Nat::Masquerade;
    check(4, Circumstances { nat, delay: Duration::from_millis(20), ..Circumstances::CALM });
}

#[test]
fn with_busy_processors_and_a_reload_half_way() {
    let (load, reload) = (Load::Busy(2), Reload::HalfWay);
    check(4, Circumstances { load, reload, ..Circumstances::CALM });
}

/// The same without learning, and the same without filter: the run sees a loss, and the lab has
/// none of its own.
#[test]
fn without_learning_every_one_is_lost() {
    let stage = Stage::new(Nat::Off).unwrap();
    let control = stage.run(Learning::Off, 1, 200, &Circumstances::CALM).unwrap();
    control.check_control().unwrap();
    let free = stage.run(Learning::NoFilter, 4, NAMES, &Circumstances::CALM).unwrap();
    free.check().unwrap();
}
