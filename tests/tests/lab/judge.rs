// SPDX-License-Identifier: MIT OR Apache-2.0
//! nftables as a judge of verdicts; `cargo xtask bench judge` asks it for more.

use sluice_lab::{
    judge::{Judge, LISTED, Ruleset, Tally, Verdict, packets::Kind, policy::Case},
    model::Random,
};

/// Policies here, packets of each, and the first one's seed.
const POLICIES: u32 = 20;
const PACKETS: u16 = 100;
const SEED: u64 = 1000;

#[test]
fn nftables_judges_as_sluice_does() {
    let judge = Judge::new().unwrap();
    println!("seeds from {SEED} on");
    let tally = judge.compare(SEED, POLICIES, PACKETS).unwrap();
    println!("{tally}");
    assert!(tally.differ.is_empty(), "{}", tally.differ.join("\n"));
    assert_eq!((tally.policies, tally.packets), (POLICIES, POLICIES * u32::from(PACKETS)));
    // Neither side of the comparison is empty.
    assert!(tally.passed > tally.packets / 10 && tally.dropped > tally.packets / 10, "{tally}");
}

#[test]
fn a_ruleset_that_lacks_a_port_is_found_out() {
    let judge = Judge::new().unwrap();
    let case = Case::one_port("203.0.113.0/24".parse().unwrap());
    let mut found = [0, 0];
    for (ruleset, found) in [Ruleset::Faithful, Ruleset::WithoutHttps].into_iter().zip(&mut found) {
        let mut tally = Tally::default();
        judge.policy(&mut tally, (&case, ruleset), PACKETS, &mut Random::new(SEED)).unwrap();
        println!("{ruleset:?}: {tally}");
        *found = tally.differ.len();
        for difference in &tally.differ {
            assert!(difference.contains("> 443 flags=s"), "{difference}");
            assert!(difference.contains("sluice Pass, nftables Drop"), "{difference}");
        }
    }
    assert_eq!(found[0], 0);
    assert!(found[1] > 0, "nothing differs without the port");
}

#[test]
fn no_usual_packet_is_listed_as_different() {
    for listed in LISTED {
        let usual = [Kind::First, Kind::Answer, Kind::Onward, Kind::Back, Kind::Unasked];
        assert!(!usual.contains(&listed.kind), "{listed:?}");
        assert!(
            matches!(listed.sluice, Verdict::Pass | Verdict::Drop) && !listed.reason.is_empty()
        );
    }
}
