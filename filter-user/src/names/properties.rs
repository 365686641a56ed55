// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache against a model that only remembers which answers were taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{Answer, LookupFailure, NameCache, Refusal, Settings, Standing};
use crate::policy::{Fqdn, SpecialPurpose, special::special_purpose};

const GRACE: u64 = 100;
const FLOOR: u64 = 10;
const CEILING: u64 = 1000;
const PER_NAME: usize = 4;
const TOTAL: usize = 6;

/// One thing that happens, after some seconds in which nothing does.
#[derive(Clone, Debug)]
enum Step {
    Names(BTreeMap<Fqdn, SpecialPurpose>),
    Answer(Fqdn, Vec<(IpAddr, u32)>),
    Fail(Fqdn),
    InUse(BTreeSet<IpAddr>),
    Due,
    Tick,
    Restart,
}

/// Until when each pair is allowed, by the answers that were taken and the uses that were seen.
#[derive(Default)]
struct Model {
    wanted: BTreeMap<Fqdn, SpecialPurpose>,
    until: BTreeMap<(Fqdn, IpAddr), u64>,
}

impl Model {
    fn allowed(&self, now: u64) -> BTreeSet<(Fqdn, IpAddr)> {
        let live = self.until.iter().filter(|(_, until)| **until > now);
        live.map(|(pair, _)| pair.clone()).collect()
    }

    fn of(&self, name: &Fqdn, now: u64) -> usize {
        self.allowed(now).iter().filter(|(owner, _)| owner == name).count()
    }

    fn forget_inadmissible(&mut self) {
        let wanted = &self.wanted;
        self.until.retain(|(name, address), _| match wanted.get(name) {
            Some(SpecialPurpose::Allowed) => true,
            Some(SpecialPurpose::Refused) => special_purpose(*address).is_none(),
            None => false,
        });
    }
}

fn name() -> impl Strategy<Value = Fqdn> {
    select(vec!["a.example.com", "b.example.com", "c.example.com"])
        .prop_map(|text| Fqdn::try_from(text).unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    let texts = ["8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4", "8.8.8.5"];
    let more = ["2606:4700::1", "2606:4700::2", "10.0.0.1", "127.0.0.1", "::1"];
    select([texts, more].concat()).prop_map(|text| text.parse().unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let special =
        prop_oneof![3 => Just(SpecialPurpose::Refused), 1 => Just(SpecialPurpose::Allowed)];
    let ttl = prop_oneof![0_u32..2000, Just(1 << 31), Just(u32::MAX)];
    prop_oneof![
        1 => proptest::collection::btree_map(name(), special, 0..4).prop_map(Step::Names),
        6 => (name(), vec((address(), ttl), 0..5)).prop_map(|(name, all)| Step::Answer(name, all)),
        2 => name().prop_map(Step::Fail),
        1 => proptest::collection::btree_set(address(), 0..4).prop_map(Step::InUse),
        2 => Just(Step::Due),
        2 => Just(Step::Tick),
        1 => Just(Step::Restart),
    ]
}

fn effective(ttl: u32) -> u64 {
    let ttl = if ttl >= 1 << 31 { 0 } else { u64::from(ttl) };
    ttl.clamp(FLOOR, CEILING)
}

fn new_cache(seed: u64) -> NameCache {
    let settings = Settings {
        min_ttl: Duration::from_secs(FLOOR),
        max_ttl: Duration::from_secs(CEILING),
        grace: Duration::from_secs(GRACE),
        max_addresses_per_name: PER_NAME,
        max_addresses: TOTAL,
        max_lookups: 2,
    };
    NameCache::new(settings, seed)
}

fn allowed(cache: &NameCache) -> BTreeSet<(Fqdn, IpAddr)> {
    let snapshot = cache.snapshot();
    let pairs = snapshot.addresses.iter().flat_map(|(name, addresses)| {
        addresses.iter().map(move |address| (name.clone(), *address))
    });
    pairs.collect()
}

/// Takes a step in both, and checks what its own result says.
fn take(
    cache: &mut NameCache,
    model: &mut Model,
    step: Step,
    time: u64,
    now: Instant,
) -> Result<(), TestCaseError> {
    match step {
        Step::Names(wanted) => {
            cache.set_names(&wanted, now);
            model.wanted = wanted;
            model.forget_inadmissible();
        }
        Step::Answer(name, records) => {
            let answer = Answer {
                records: records.clone(),
                chain: Vec::new(),
                resolver: "192.0.2.53".parse().unwrap(),
                missing: None,
            };
            let outcome = cache.answer(&name, Ok(answer), now);
            if !model.wanted.contains_key(&name) {
                prop_assert_eq!(outcome.standing, Standing::Unwanted);
                return Ok(());
            }
            for (address, ttl) in records {
                let pair = (name.clone(), address);
                match outcome.refused.get(&address) {
                    None => {
                        let until = time + effective(ttl) + GRACE;
                        let old = model.until.entry(pair).or_default();
                        *old = until.max(*old);
                    }
                    Some(Refusal::SpecialPurpose(_)) => {
                        prop_assert!(special_purpose(address).is_some());
                        prop_assert_eq!(model.wanted[&name], SpecialPurpose::Refused);
                    }
                    Some(Refusal::Own) => prop_assert!(false, "no own prefix was set"),
                    Some(Refusal::NameFull | Refusal::CacheFull) => {
                        prop_assert!(!model.allowed(time).contains(&pair));
                    }
                }
            }
            // Only where a bound is reached is anything refused for it.
            if outcome.refused.values().any(|why| *why == Refusal::NameFull) {
                prop_assert_eq!(model.of(&name, time), PER_NAME);
            }
            if outcome.refused.values().any(|why| *why == Refusal::CacheFull) {
                prop_assert_eq!(model.allowed(time).len(), TOTAL);
            }
        }
        Step::Fail(name) => {
            cache.answer(&name, Err(LookupFailure::ServFail), now);
        }
        Step::InUse(addresses) => {
            cache.keep_in_use(&addresses, now);
            for ((_, address), until) in &mut model.until {
                if *until > time && addresses.contains(address) {
                    *until = (*until).max(time + GRACE);
                }
            }
        }
        Step::Due => {
            let started = cache.due(now);
            prop_assert!(started.len() <= 2);
            prop_assert!(started.iter().all(|name| model.wanted.contains_key(name)));
        }
        Step::Tick => {}
        Step::Restart => {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + time);
            let state = cache.to_state(now, wall);
            let mut next = new_cache(time);
            next.set_names(&model.wanted, now);
            prop_assert!(next.restore(&state, now, wall).is_ok());
            *cache = next;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn allowed_is_what_an_answer_or_a_use_allows(
        steps in vec((0_u64..120, step()), 1..60),
        seed: u64,
    ) {
        let start = Instant::now();
        let mut cache = new_cache(seed);
        let mut model = Model::default();
        let mut time = 0;
        for (pause, step) in steps {
            // Before the wake-up nothing changes and nothing becomes due.
            let later = start + Duration::from_secs(time + pause);
            let wakeup = cache.next_wakeup();
            if wakeup.is_none_or(|at| at > later) {
                let mut early = cache.clone();
                prop_assert!(early.tick(later).is_empty());
                prop_assert!(early.due(later).is_empty());
            }
            time += pause;
            let now = start + Duration::from_secs(time);
            let before = allowed(&cache);
            let mut said = cache.tick(now);
            let ticked = allowed(&cache);
            prop_assert_eq!(&model.allowed(time), &ticked);
            // What a change says is what happened.
            let mut applied: BTreeSet<_> = before.difference(&said.removed).cloned().collect();
            applied.append(&mut said.added);
            prop_assert_eq!(&applied, &ticked);

            take(&mut cache, &mut model, step, time, now)?;
            let held = allowed(&cache);
            prop_assert_eq!(&model.allowed(time), &held);
            prop_assert!(held.len() <= TOTAL);
            for (name, address) in &held {
                prop_assert!(
                    special_purpose(*address).is_none()
                        || model.wanted.get(name) == Some(&SpecialPurpose::Allowed)
                );
            }
            // Every wanted name is asked for at some time.
            prop_assert!(model.wanted.is_empty() || cache.next_wakeup().is_some());
        }
    }

    #[test]
    fn an_outcome_says_what_changed(
        answers in vec((name(), vec((address(), 0_u32..50), 0..5), 0_u64..200), 1..30),
    ) {
        // Answers come in without a tick in between.
        let start = Instant::now();
        let mut cache = new_cache(0);
        let names = ["a.example.com", "b.example.com", "c.example.com"];
        let wanted = names.map(|text| (Fqdn::try_from(text).unwrap(), SpecialPurpose::Refused));
        cache.set_names(&wanted.into(), start);
        let mut known = BTreeSet::new();
        let mut now = start;
        for (name, records, pause) in answers {
            now += Duration::from_secs(pause);
            let resolver = "192.0.2.53".parse().unwrap();
            let answer = Answer { records, chain: Vec::new(), resolver, missing: None };
            let mut outcome = cache.answer(&name, Ok(answer), now);
            for pair in &outcome.changed.removed {
                prop_assert!(known.remove(pair));
            }
            known.append(&mut outcome.changed.added);
            prop_assert_eq!(&known, &allowed(&cache));
            let mut ticked = cache.clone();
            ticked.tick(now);
            prop_assert_eq!(&known, &allowed(&ticked), "an answer drops what is over");
            for name in &outcome.changed.emptied {
                prop_assert!(!cache.snapshot().addresses.contains_key(name));
            }
        }
    }
}
