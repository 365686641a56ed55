// SPDX-License-Identifier: MIT OR Apache-2.0
//! The capabilities that the daemon keeps are those that it can't do without.

use std::{collections::HashSet, fs, thread, time::Duration};

use caps::{CapSet, Capability};
use filter_common::egress::Side;
use filter_user::{
    daemon::privileges::KEPT,
    kernel::{Instance, PinDirectory, Role, SharedMaps},
    policy::TableSizes,
};
use sluice_lab::{
    gateway::{Configuration, Gateway},
    netns::unique,
    process::{run, wait_until},
    topology::{Clients, Topology},
    workdir::PinDir,
};

use crate::support::{GATEWAY, has_program};

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

#[test]
fn with_these_alone_the_daemon_sees_whether_its_programs_are_there_and_puts_them_back() {
    let lab = Topology::new(Clients::One).unwrap();
    let mut gateway = Gateway::new(&lab, &Configuration::new(GATEWAY)).unwrap();
    gateway.start().unwrap();
    let change = |address: &str| {
        run(lab.gateway.command("ip").args(["addr", "add", address, "dev", "wan0"])).unwrap();
    };
    let seen = |times: usize| {
        wait_until("the change is seen", Duration::from_secs(10), || {
            let log = gateway.log();
            Ok(log.matches("addresses or routes of the gateway changed").count() >= times)
        })
        .unwrap();
    };
    change("192.0.2.77/32");
    seen(1);
    change("192.0.2.78/32");
    seen(2);
    // All is where it was put.
    assert!(!gateway.log().contains("attached again"), "{}", gateway.log());

    // Taken off, the program on what leaves comes back. (Nobody else has its link open yet.)
    let mut pins = gateway.pins().pins().into_iter();
    let pin = pins.find(|path| path.ends_with("egress-1-wan0")).unwrap();
    fs::remove_file(&pin).unwrap();
    change("192.0.2.79/32");
    wait_until("it is attached again", Duration::from_secs(20), || {
        Ok(gateway.log().contains("attached again nic=wan0") && pin.exists())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", gateway.log()));
    assert!(has_program(&lab.gateway, "wan0"));
}
