// SPDX-License-Identifier: MIT OR Apache-2.0
//! The naive model against the program: the first of the pairs that `tests/model.rs` holds against
//! the tables.

use std::collections::BTreeMap;

use filter_common::{egress::Side, wire::Counter};
use filter_user::{
    compile::{CounterLedger, View, compile},
    kernel::Role,
};
use sluice_lab::{
    ground::{Counters, Ground, TestNic, judge, mode},
    model::{model, random_packet, random_policy},
};

const POLICIES: u64 = 100;
const PACKETS: u64 = 20;
/// The NICs that random hosts have.
pub(crate) const NICS: [u8; 5] = [0, 1, 2, 3, 15];

/// An inside NIC.
pub(crate) fn inside(nic: u8) -> TestNic {
    (nic, Side::Inside)
}

#[test]
fn the_program_equals_the_model() {
    let mut ground = Ground::new(NICS.map(inside), &[Role::Enforcing, Role::Observing]).unwrap();
    let mut expected_counters: BTreeMap<u8, Counters> = BTreeMap::new();
    let (mut pairs, mut passed, mut entries) = (0, 0, 0);
    for seed in 0..POLICIES {
        let (policy, names, host) = random_policy(seed);
        let mut ledger = CounterLedger::default();
        let compiled = compile(&policy, &names, &host, &mut ledger).expect("it fits");
        let tables = &compiled.tables;
        // What two policies ago left in the slot is changed, never cleared first.
        ground.swap(tables).unwrap();
        entries += tables.grants.len() + tables.sources.len();
        for round in 0..PACKETS {
            let packet = random_packet(seed << 16 | round, &policy, &names, &host);
            let expected = model(&policy, &names, &host, &packet);
            let verdict = expected.verdict(packet.service);
            let frame = packet.frame();
            let context = || format!("seed {seed}, round {round}: {packet:#?}\n{expected:#?}");

            let observed = ground.observe(inside(packet.nic), &frame).unwrap();
            assert_eq!(
                observed,
                ground.expected(View::new(tables, packet.nic.into()), Side::Inside, &frame),
                "{}",
                context()
            );
            let reason = verdict.map_or_else(|drop| drop.code(), |pass| pass.code());
            assert_eq!(observed.reason, reason, "{}", context());
            assert_eq!(
                ground.run(inside(packet.nic), &frame).unwrap(),
                verdict.is_ok(),
                "{}",
                context()
            );

            let counter = match &verdict {
                Ok(_) => ledger.counter(&expected.allowing).expect("a match has a counter"),
                Err(reason) => reason.code().into(),
            };
            let decision = judge(View::new(tables, packet.nic.into()), Side::Inside, &frame);
            assert_eq!(decision.decision.verdict.counter(mode(tables)), counter, "{}", context());
            let counters = expected_counters.entry(packet.nic).or_default();
            let Counter { packets, bytes } = counters.entry(counter).or_default();
            *packets += 1;
            *bytes += u64::try_from(frame.len()).unwrap();
            pairs += 1;
            if expected.source.is_plausible() && verdict.is_ok() {
                passed += 1;
            }
        }
    }
    for nic in NICS {
        let expected = expected_counters.remove(&nic).unwrap_or_default();
        assert_eq!(ground.counters(nic).unwrap(), expected, "counters of NIC {nic}");
    }
    println!(
        "model: {pairs} pairs of policy and packet through the program, {passed} of them pass; \
         {entries} prefixes in {POLICIES} swaps"
    );
    // It would hold for empty policies too.
    assert!(passed > pairs / 10, "only {passed} of {pairs} packets pass");
}
