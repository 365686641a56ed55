// SPDX-License-Identifier: MIT OR Apache-2.0
//! The capabilities that the daemon keeps are those that it can't do without.

use std::{collections::HashSet, thread};

use caps::{CapSet, Capability};
use filter_common::egress::Side;
use filter_user::{
    daemon::privileges::KEPT,
    kernel::{Instance, PinDirectory, Role, SharedMaps},
    policy::TableSizes,
};
use sluice_lab::{netns::unique, workdir::PinDir};

/// Whether programs are loaded by a thread with these capabilities alone.
fn loads(pins: &PinDirectory, kept: &HashSet<Capability>) -> Result<(), String> {
    thread::scope(|scope| {
        let loading = scope.spawn(|| {
            caps::set(None, CapSet::Effective, kept).unwrap();
            Instance::load(pins, 0, Side::Inside, Role::Enforcing)
                .map(drop)
                .map_err(|error| format!("{error:#}"))
        });
        loading.join().unwrap()
    })
}

#[test]
fn the_kernel_refuses_the_programs_without_each_capability_that_is_kept_for_them() {
    let place = PinDir::new(&unique()).unwrap();
    let pins = PinDirectory::create(place.path()).unwrap();
    let _maps = SharedMaps::open(&pins, TableSizes::default()).unwrap();
    let all: HashSet<Capability> = KEPT.iter().map(|row| row.capability).collect();
    loads(&pins, &all).unwrap();
    for missing in [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON] {
        let mut rest = all.clone();
        assert!(rest.remove(&missing), "{missing} is not among those that are kept");
        let refused = loads(&pins, &rest);
        println!("without {missing}: {refused:?}");
        assert!(refused.is_err(), "{missing} is not needed, so that it should not be kept");
    }
}
