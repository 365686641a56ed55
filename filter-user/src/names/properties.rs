// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache against a model that only remembers which answers were taken and which uses were seen.
//!
//! An address of a name is allowed if an answer brought it within its TTL (after floor and ceiling)
//! and the grace period, or if it was used within a grace period; and it is not allowed if neither
//! happened within two grace periods, which is as late as a use can be noticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    Answer, Changed, LookupFailure, NameCache, Refusal, Settings, Standing, State, Wanted,
};
use crate::policy::{Fqdn, SpecialPurpose, special::special_purpose};

const GRACE: u64 = 100;
const FLOOR: u64 = 10;
const CEILING: u64 = 1000;
const PER_NAME: usize = 4;
const PER_RULE: usize = 2;
const TOTAL: usize = 6;

/// Names that wildcards match.
const LEARNED: [&str; 4] =
    ["x.w.example.com", "y.w.example.com", "z.w.example.com", "x.v.example.com"];
/// The wildcards, each a rule.
const WILDCARDS: [&str; 2] = ["*.w.example.com", "x.*.example.com"];

/// One thing that happens, after some seconds in which nothing does.
#[derive(Clone, Debug)]
enum Step {
    Wanted(BTreeMap<Fqdn, SpecialPurpose>, Vec<(usize, SpecialPurpose)>),
    Answer(Fqdn, Vec<(IpAddr, u32)>),
    Learn(Fqdn, Vec<(IpAddr, u32)>),
    Fail(Fqdn),
    Use(BTreeSet<IpAddr>),
    Due,
    Flush(Fqdn),
    Restart(Kept),
}

/// What the daemon had saved when it ended.
#[derive(Clone, Copy, Debug)]
enum Kept {
    State,
    Notes,
}

/// What is known of an address of a name.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// The latest end of a TTL.
    ttl_end: u64,
    /// When it was used last in its grace period.
    used_in_grace: Option<u64>,
    /// When it was used last.
    used: Option<u64>,
}

#[derive(Default)]
struct Model {
    exact: BTreeMap<Fqdn, SpecialPurpose>,
    wildcards: Vec<(usize, SpecialPurpose)>,
    facts: BTreeMap<(Fqdn, IpAddr), Facts>,
    /// Addresses that were used since somebody asked.
    marks: BTreeSet<IpAddr>,
}

impl Facts {
    fn must_be_allowed(&self, now: u64) -> bool {
        now < self.ttl_end + GRACE || self.used_in_grace.is_some_and(|used| now < used + GRACE)
    }

    fn may_be_allowed(&self, now: u64) -> bool {
        now < self.ttl_end + GRACE || self.used.is_some_and(|used| now < used + 2 * GRACE)
    }
}

impl Model {
    fn wanted(&self) -> Wanted {
        let wildcards: Vec<_> =
            self.wildcards.iter().map(|(place, special)| (WILDCARDS[*place], *special)).collect();
        Wanted::only_exact(&self.exact).with_wildcards(&wildcards)
    }

    /// What the policy says of a name, tried pattern by pattern.
    fn special(&self, name: &Fqdn) -> Option<SpecialPurpose> {
        let matched = self.wildcards.iter().filter(|(place, _)| match place {
            0 => name.as_str().ends_with(".w.example.com"),
            _ => {
                let labels: Vec<&str> = name.labels().collect();
                labels.len() == 4 && labels[0] == "x" && labels[2] == "example"
            }
        });
        let all: Vec<SpecialPurpose> =
            matched.map(|(_, special)| *special).chain(self.exact.get(name).copied()).collect();
        let allowed = all.contains(&SpecialPurpose::Allowed);
        let special = if allowed { SpecialPurpose::Allowed } else { SpecialPurpose::Refused };
        (!all.is_empty()).then_some(special)
    }

    fn forget_inadmissible(&mut self) {
        let mut facts = std::mem::take(&mut self.facts);
        facts.retain(|(name, address), _| match self.special(name) {
            Some(SpecialPurpose::Allowed) => true,
            Some(SpecialPurpose::Refused) => special_purpose(*address).is_none(),
            None => false,
        });
        self.facts = facts;
    }

    /// What is gone for good may come back only by an answer.
    fn forget_gone(&mut self, held: &BTreeSet<(Fqdn, IpAddr)>) {
        self.facts.retain(|pair, _| held.contains(pair));
    }
}

fn exact_name() -> impl Strategy<Value = Fqdn> {
    select(vec!["a.example.com", "b.example.com", "x.w.example.com"])
        .prop_map(|text| Fqdn::try_from(text).unwrap())
}

fn any_name() -> impl Strategy<Value = Fqdn> {
    let learned = select(LEARNED.to_vec()).prop_map(|text| Fqdn::try_from(text).unwrap());
    prop_oneof![1 => exact_name(), 3 => learned]
}

fn address() -> impl Strategy<Value = IpAddr> {
    let texts = ["8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4", "8.8.8.5"];
    let more = ["2606:4700::1", "2606:4700::2", "10.0.0.1", "127.0.0.1", "::1"];
    select([texts, more].concat()).prop_map(|text| text.parse().unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let special =
        || prop_oneof![3 => Just(SpecialPurpose::Refused), 1 => Just(SpecialPurpose::Allowed)];
    let records = || {
        let ttl = prop_oneof![3 => 0_u32..60, 1 => 0_u32..2000, 1 => Just(1 << 31)];
        vec((address(), ttl), 0..5)
    };
    let wildcards = vec((0_usize..2, special()), 0..3);
    let wanted = (proptest::collection::btree_map(exact_name(), special(), 0..4), wildcards);
    prop_oneof![
        1 => wanted.prop_map(|(exact, wildcards)| Step::Wanted(exact, wildcards)),
        3 => (exact_name(), records()).prop_map(|(name, all)| Step::Answer(name, all)),
        6 => (any_name(), records()).prop_map(|(name, all)| Step::Learn(name, all)),
        2 => exact_name().prop_map(Step::Fail),
        4 => proptest::collection::btree_set(address(), 0..4).prop_map(Step::Use),
        2 => Just(Step::Due),
        1 => any_name().prop_map(Step::Flush),
        1 => select(vec![Kept::State, Kept::Notes]).prop_map(Step::Restart),
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
        max_names_per_rule: PER_RULE,
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

/// What the daemon does at each wake-up.
fn age(cache: &mut NameCache, model: &mut Model, now: Instant) -> Changed {
    let asked = cache.in_question(now);
    let used: BTreeSet<IpAddr> = asked.intersection(&model.marks).copied().collect();
    model.marks.retain(|address| !asked.contains(address));
    cache.keep_in_use(&used, now);
    cache.tick(now)
}

fn answer(records: &[(IpAddr, u32)]) -> Answer {
    Answer {
        records: records.to_vec(),
        chain: Vec::new(),
        resolver: "192.0.2.53".parse().unwrap(),
        missing: None,
    }
}

/// Notes what was taken, and checks the reasons for what was not.
fn note(
    (cache, model): (&NameCache, &mut Model),
    name: &Fqdn,
    records: &[(IpAddr, u32)],
    refused: &BTreeMap<IpAddr, Refusal>,
    before: &BTreeSet<(Fqdn, IpAddr)>,
    time: u64,
) -> Result<(), TestCaseError> {
    for (address, ttl) in records {
        let pair = (name.clone(), *address);
        match refused.get(address) {
            None => {
                let facts = model.facts.entry(pair).or_default();
                facts.ttl_end = facts.ttl_end.max(time + effective(*ttl));
            }
            Some(Refusal::SpecialPurpose(_)) => {
                prop_assert!(special_purpose(*address).is_some());
                prop_assert_eq!(model.special(name), Some(SpecialPurpose::Refused));
            }
            Some(Refusal::Own) => prop_assert!(false, "no own prefix was set"),
            Some(Refusal::NotWanted) => prop_assert_eq!(model.special(name), None),
            Some(Refusal::NameFull) => {
                prop_assert!(!before.contains(&pair));
                let of_name = allowed(cache).iter().filter(|(owner, _)| owner == name).count();
                prop_assert_eq!(of_name, PER_NAME);
            }
            Some(Refusal::CacheFull) => {
                prop_assert!(!before.contains(&pair));
                prop_assert_eq!(allowed(cache).len(), TOTAL);
            }
            Some(Refusal::RuleFull) => {
                prop_assert!(!before.iter().any(|(owner, _)| owner == name));
                prop_assert!(!model.exact.contains_key(name));
            }
        }
    }
    Ok(())
}

/// Takes a step in both, and checks what its own result says.
fn take(
    cache: &mut NameCache,
    model: &mut Model,
    step: Step,
    time: u64,
    now: Instant,
) -> Result<(), TestCaseError> {
    let before = allowed(cache);
    match step {
        Step::Wanted(exact, wildcards) => {
            model.exact = exact;
            model.wildcards = wildcards;
            cache.set_wanted(Arc::new(model.wanted()), now);
            model.forget_inadmissible();
        }
        Step::Answer(name, records) => {
            let outcome = cache.answer(&name, Ok(answer(&records)), now);
            if !model.exact.contains_key(&name) {
                prop_assert_eq!(outcome.standing, Standing::Unwanted);
                return Ok(());
            }
            note((cache, model), &name, &records, &outcome.refused, &before, time)?;
        }
        Step::Learn(name, records) => {
            let learned = cache.learn(&name, answer(&records), now);
            note((cache, model), &name, &records, &learned.refused, &before, time)?;
            // What is held may be sent to the client: it is in force for as long as it is said.
            for (address, until) in learned.held {
                let facts = model.facts[&(name.clone(), address)];
                let until = until.saturating_duration_since(now).as_secs() + time;
                prop_assert!(until >= facts.ttl_end + GRACE);
                prop_assert!(allowed(cache).contains(&(name.clone(), address)));
            }
            let count = |place: usize| {
                let rule =
                    Model { wildcards: vec![(place, SpecialPurpose::Refused)], ..Model::default() };
                let names: BTreeSet<Fqdn> =
                    allowed(cache).into_iter().map(|(name, _)| name).collect();
                let learned =
                    |name: &&Fqdn| rule.special(name).is_some() && !model.exact.contains_key(*name);
                names.iter().filter(learned).count()
            };
            // Beyond the bound there are only names that another rule has room for.
            prop_assert!(count(0).min(count(1)) <= PER_RULE);
        }
        Step::Fail(name) => {
            cache.answer(&name, Err(LookupFailure::ServFail), now);
        }
        Step::Use(addresses) => {
            for ((_, address), facts) in &mut model.facts {
                if addresses.contains(address) {
                    model.marks.insert(*address);
                    facts.used = Some(time);
                    if time >= facts.ttl_end {
                        facts.used_in_grace = Some(time);
                    }
                }
            }
        }
        Step::Due => {
            let started = cache.due(now);
            prop_assert!(started.len() <= 2);
            prop_assert!(started.iter().all(|name| model.exact.contains_key(name)));
        }
        Step::Flush(name) => {
            let changed = cache.flush(|other| *other == name, now);
            let gone: BTreeSet<_> =
                before.iter().filter(|(other, _)| *other == name).cloned().collect();
            prop_assert_eq!(changed.removed, gone);
            model.facts.retain(|(other, _), _| *other != name);
        }
        Step::Restart(kept) => {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + time);
            let state = match kept {
                Kept::State => cache.to_state(now, wall),
                Kept::Notes => {
                    // An earlier state, and what changed since.
                    let mut state = State::empty();
                    let all: Vec<Fqdn> = cache.names.keys().cloned().collect();
                    cache.unsaved.extend(all);
                    for note in cache.take_notes(now, wall) {
                        let text = serde_json::to_string(&note).unwrap();
                        state.add(serde_json::from_str(&text).unwrap()).unwrap();
                    }
                    state
                }
            };
            let mut next = new_cache(time);
            next.set_wanted(Arc::new(model.wanted()), now);
            prop_assert!(next.restore(&state, now, wall).is_ok());
            *cache = next;
            // The order in which names come back decides which of them a full rule has.
            if PER_RULE < LEARNED.len() {
                let held = allowed(cache);
                prop_assert!(held.is_subset(&before));
                model.forget_gone(&held);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn allowed_is_what_an_answer_or_a_use_allows(
        steps in vec((0_u64..90, step()), 1..60),
        seed: u64,
    ) {
        let start = Instant::now();
        let mut cache = new_cache(seed);
        let mut model = Model::default();
        let mut time = 0;
        for (pause, step) in steps {
            let target = time + pause;
            let at = |time: u64| start + Duration::from_secs(time);
            // Before a wake-up nothing changes and nothing becomes due.
            while let Some(wakeup) = cache.next_wakeup()
                && wakeup <= at(target)
            {
                let mut early = cache.clone();
                prop_assert!(early.tick(wakeup - Duration::from_nanos(1)).is_empty());
                let before = allowed(&cache);
                let mut said = age(&mut cache, &mut model, wakeup);
                // What a change says is what happened.
                let mut applied: BTreeSet<_> = before.difference(&said.removed).cloned().collect();
                applied.append(&mut said.added);
                prop_assert_eq!(&applied, &allowed(&cache));
                cache.due(wakeup);
                if cache.next_wakeup() == Some(wakeup) {
                    break;
                }
            }
            time = target;
            let now = at(time);
            age(&mut cache, &mut model, now);
            let held = allowed(&cache);
            for (pair, facts) in &model.facts {
                prop_assert!(!facts.must_be_allowed(time) || held.contains(pair), "{pair:?} {facts:?}");
            }
            for pair in &held {
                let facts = model.facts.get(pair).copied().unwrap_or_default();
                prop_assert!(facts.may_be_allowed(time), "{pair:?} {facts:?} at {time}");
            }
            model.forget_gone(&held);

            take(&mut cache, &mut model, step, time, now)?;
            let held = allowed(&cache);
            let known: BTreeSet<_> = model.facts.keys().cloned().collect();
            prop_assert_eq!(&known, &held);
            prop_assert!(held.len() <= TOTAL);
            for (name, address) in &held {
                prop_assert!(
                    special_purpose(*address).is_none()
                        || model.special(name) == Some(SpecialPurpose::Allowed)
                );
            }
            // Every exact name is asked for at some time.
            prop_assert!(model.exact.is_empty() || cache.next_wakeup().is_some());
        }
    }

    #[test]
    fn an_outcome_says_what_changed(
        answers in vec((any_name(), vec((address(), 0_u32..50), 0..5), 0_u64..200), 1..30),
    ) {
        let start = Instant::now();
        let mut cache = new_cache(0);
        let model = Model {
            wildcards: vec![(0, SpecialPurpose::Refused), (1, SpecialPurpose::Refused)],
            ..Model::default()
        };
        cache.set_wanted(Arc::new(model.wanted()), start);
        let mut known = BTreeSet::new();
        let mut now = start;
        for (name, records, pause) in answers {
            now += Duration::from_secs(pause);
            for pair in cache.tick(now).removed {
                prop_assert!(known.remove(&pair));
            }
            let mut learned = cache.learn(&name, answer(&records), now);
            prop_assert!(learned.changed.removed.is_empty());
            known.append(&mut learned.changed.added);
            prop_assert_eq!(&known, &allowed(&cache));
        }
    }
}
