// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache, case by case.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    cache::{LOOKUP_LIMIT, admissible},
    *,
};
use crate::policy::{Fqdn, SpecialPurpose};

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings {
        min_ttl: 60 * SECOND,
        max_ttl: 24 * 3600 * SECOND,
        grace: 600 * SECOND,
        max_addresses_per_name: 3,
        max_addresses: 5,
        max_names_per_rule: 2,
        max_lookups: 2,
    }
}

fn name(text: &str) -> Fqdn {
    Fqdn::try_from(text).unwrap()
}

fn exact(names: &BTreeMap<Fqdn, SpecialPurpose>) -> Arc<Wanted> {
    Arc::new(Wanted::only_exact(names))
}

fn cache(names: &[&str], now: Instant) -> NameCache {
    let mut cache = NameCache::new(settings(), 1);
    let names = names.iter().map(|text| (name(text), SpecialPurpose::Refused)).collect();
    cache.set_wanted(exact(&names), now);
    cache
}

fn answer(records: &[(&str, u32)]) -> Result<Answer, LookupFailure> {
    Ok(Answer {
        records: records.iter().map(|(text, ttl)| (text.parse().unwrap(), *ttl)).collect(),
        chain: Vec::new(),
        resolver: "192.0.2.53".parse().unwrap(),
        missing: None,
    })
}

fn held(cache: &NameCache, text: &str) -> Vec<String> {
    let snapshot = cache.snapshot();
    let addresses = snapshot.addresses.get(&name(text));
    addresses.into_iter().flatten().map(ToString::to_string).collect()
}

#[test]
fn ttl_has_floor_ceiling_and_no_sign() {
    let settings = settings();
    for (seconds, expected) in
        [(0, 60), (59, 60), (61, 61), (86_401, 86_400), (1 << 31, 60), (u32::MAX, 60)]
    {
        assert_eq!(settings.effective_ttl(seconds), expected * SECOND, "{seconds}");
    }
}

#[test]
fn an_address_lives_through_ttl_and_grace() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com"], start);
    let outcome = cache.answer(&name("a.example.com"), answer(&[("8.8.8.8", 100)]), start);
    assert_eq!(outcome.standing, Standing::Answered);
    assert_eq!(outcome.changed.added.len(), 1);
    let left = |cache: &NameCache, at: u32| {
        let address = "8.8.8.8".parse().unwrap();
        cache
            .provenance(&name("a.example.com"), address, start + at * SECOND)
            .map(|found| found.left)
    };
    assert_eq!(left(&cache, 0), Some(Left { ttl: 100 * SECOND, allowed: 700 * SECOND }));
    assert_eq!(left(&cache, 150), Some(Left { ttl: Duration::ZERO, allowed: 550 * SECOND }));
    assert_eq!(left(&cache, 700), None);
    assert!(cache.tick(start + 699 * SECOND).is_empty());
    let changed = cache.tick(start + 700 * SECOND);
    assert_eq!(changed.emptied, BTreeSet::from([name("a.example.com")]));
    assert!(held(&cache, "a.example.com").is_empty());
}

#[test]
fn addresses_of_earlier_answers_stay() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com"], start);
    cache.answer(&name("a.example.com"), answer(&[("8.8.8.8", 60)]), start);
    cache.answer(&name("a.example.com"), answer(&[("8.8.4.4", 60)]), start + 50 * SECOND);
    assert_eq!(held(&cache, "a.example.com"), ["8.8.4.4", "8.8.8.8"]);
    cache.tick(start + 660 * SECOND);
    assert_eq!(held(&cache, "a.example.com"), ["8.8.4.4"]);
}

#[test]
fn bounds_refuse_and_never_evict() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com", "b.example.com"], start);
    let four = answer(&[("8.8.8.1", 1), ("8.8.8.2", 1), ("8.8.8.3", 1), ("8.8.8.4", 1)]);
    let outcome = cache.answer(&name("a.example.com"), four.clone(), start);
    assert_eq!(outcome.refused.into_values().collect::<Vec<_>>(), [Refusal::NameFull]);
    let outcome = cache.answer(&name("b.example.com"), four, start);
    let refused: Vec<_> = outcome.refused.into_values().collect();
    assert_eq!(refused, [Refusal::CacheFull, Refusal::CacheFull]);
    assert_eq!(held(&cache, "a.example.com"), ["8.8.8.1", "8.8.8.2", "8.8.8.3"]);
    // What is over makes room.
    let later = start + 660 * SECOND;
    let changed = cache.tick(later);
    assert_eq!(changed.removed.len(), 5);
    let emptied = BTreeSet::from([name("a.example.com"), name("b.example.com")]);
    assert_eq!(changed.emptied, emptied);
    let outcome = cache.answer(&name("a.example.com"), answer(&[("8.8.8.9", 1)]), later);
    assert!(outcome.refused.is_empty());
}

#[test]
fn special_and_own_addresses_are_refused() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com"], start);
    cache.set_own(vec!["203.0.114.0/24".parse().unwrap()]);
    let records = answer(&[("10.0.0.1", 60), ("203.0.114.7", 60), ("8.8.8.8", 60)]);
    let outcome = cache.answer(&name("a.example.com"), records.clone(), start);
    assert_eq!(outcome.refused.len(), 2);
    assert_eq!(held(&cache, "a.example.com"), ["8.8.8.8"]);
    assert_eq!(
        cache.report(start).refused,
        Refusals { special_purpose: 1, own: 1, ..Refusals::default() }
    );

    let allowed = BTreeMap::from([(name("a.example.com"), SpecialPurpose::Allowed)]);
    cache.set_wanted(exact(&allowed), start);
    cache.answer(&name("a.example.com"), records, start);
    assert_eq!(held(&cache, "a.example.com"), ["8.8.8.8", "10.0.0.1"]);

    // Both permissions can be taken back.
    let refused = BTreeMap::from([(name("a.example.com"), SpecialPurpose::Refused)]);
    assert_eq!(cache.set_wanted(exact(&refused), start).removed.len(), 1);
    assert_eq!(cache.set_own(vec!["8.0.0.0/8".parse().unwrap()]).emptied.len(), 1);
    assert_eq!(cache.snapshot(), Snapshot::default());
    assert!(cache.ends.is_empty());
}

#[test]
fn what_rebinding_aims_at_is_refused() {
    for text in [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "64:ff9b::a00:1",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
    ] {
        let refusal = admissible(&[], SpecialPurpose::Refused, text.parse().unwrap());
        assert!(matches!(refusal, Err(Refusal::SpecialPurpose(_))), "{text}: {refusal:?}");
    }
    let own = ["203.0.114.0/24".parse().unwrap()];
    for text in ["203.0.114.1", "::ffff:203.0.114.1"] {
        let refusal = admissible(&own, SpecialPurpose::Allowed, text.parse().unwrap());
        assert_eq!(refusal, Err(Refusal::Own), "{text}");
    }
}

#[test]
fn a_failure_keeps_addresses_and_backs_off() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com"], start);
    let a = name("a.example.com");
    cache.answer(&a, answer(&[("8.8.8.8", 60)]), start);
    let first = cache.answer(&a, Err(LookupFailure::ServFail), start);
    assert_eq!(first.standing, Standing::NewlyFailing);
    let retry = cache.next_wakeup().unwrap().saturating_duration_since(start);
    assert!((1000..=1250).contains(&retry.as_millis()), "{retry:?}");
    for _ in 0..10 {
        let again = cache.answer(&a, Err(LookupFailure::Timeout), start);
        assert_eq!(again.standing, Standing::StillFailing);
    }
    let retry = cache.next_wakeup().unwrap().saturating_duration_since(start);
    assert!((60_000..=75_000).contains(&retry.as_millis()), "{retry:?}");
    assert_eq!(held(&cache, "a.example.com"), ["8.8.8.8"]);
    let recovered = cache.answer(&a, answer(&[("8.8.8.8", 60)]), start);
    assert_eq!(recovered.standing, Standing::Recovered);
    assert!(recovered.changed.is_empty());
}

#[test]
fn a_missing_family_is_asked_for_again_soon() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com"], start);
    let mut half = answer(&[("8.8.8.8", 3600)]).unwrap();
    half.missing = Some(LookupFailure::ServFail);
    let outcome = cache.answer(&name("a.example.com"), Ok(half), start);
    assert_eq!(outcome.standing, Standing::Answered);
    assert!(cache.next_wakeup().unwrap() < start + 2 * SECOND);
}

#[test]
fn lookups_are_bounded_and_lost_ones_given_up() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com", "b.example.com", "c.example.com"], start);
    assert_eq!(cache.due(start).len(), 2);
    assert!(cache.due(start).is_empty());
    // A slot that is free is used again, and the name that waited longest comes first.
    cache.answer(&name("a.example.com"), Err(LookupFailure::Timeout), start);
    assert_eq!(cache.due(start + 9 * SECOND), [name("c.example.com")]);
    let limit = cache.next_wakeup().unwrap();
    assert_eq!(limit, start + LOOKUP_LIMIT);
    cache.tick(limit);
    assert_eq!(cache.due(limit), [name("a.example.com")]);
}

#[test]
fn names_come_and_go() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com", "b.example.com"], start);
    cache.due(start);
    cache.answer(&name("a.example.com"), answer(&[("8.8.8.8", 60)]), start);
    let wanted = BTreeMap::from([(name("c.example.com"), SpecialPurpose::Refused)]);
    let changed = cache.set_wanted(exact(&wanted), start);
    assert_eq!(changed.removed.len(), 1);
    assert!(changed.emptied.is_empty(), "a name that is not wanted is not missed");
    // The look-up of b still runs and takes its place until it comes back.
    assert_eq!(cache.due(start), [name("c.example.com")]);
    let late = cache.answer(&name("b.example.com"), answer(&[("8.8.8.8", 60)]), start);
    assert_eq!(late.standing, Standing::Unwanted);
    assert_eq!(cache.snapshot(), Snapshot::default());
    assert!(cache.in_flight.contains_key(&name("c.example.com")));
}

#[test]
fn an_address_in_use_outlives_its_grace() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com"], start);
    let a = name("a.example.com");
    cache.answer(&a, answer(&[("8.8.8.8", 60), ("8.8.4.4", 60)]), start);
    let in_use = BTreeSet::from(["8.8.8.8".parse().unwrap()]);
    cache.keep_in_use(&in_use, start + 650 * SECOND);
    cache.tick(start + 700 * SECOND);
    assert_eq!(held(&cache, "a.example.com"), ["8.8.8.8"]);
    // The use before that was told then, and is none of the grace period after it.
    assert_eq!(cache.in_question(start + 1250 * SECOND), in_use);
    assert_eq!(cache.tick(start + 1250 * SECOND).removed.len(), 1);
}

#[test]
fn absurd_settings_do_not_panic() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com"], start);
    cache.set_settings(Settings {
        min_ttl: Duration::MAX,
        max_ttl: Duration::MAX,
        grace: Duration::MAX,
        max_addresses_per_name: 0,
        max_addresses: 0,
        max_names_per_rule: 0,
        max_lookups: 0,
    });
    assert_eq!(cache.due(start).len(), 1);
    let outcome = cache.answer(&name("a.example.com"), answer(&[("8.8.8.8", 60)]), start);
    assert_eq!(outcome.refused.len(), 1);
    cache.set_settings(Settings {
        max_addresses_per_name: 1,
        max_addresses: 1,
        ..cache.settings().clone()
    });
    cache.answer(&name("a.example.com"), answer(&[("8.8.8.8", 60)]), start);
    cache.keep_in_use(&BTreeSet::from(["8.8.8.8".parse().unwrap()]), start);
    assert_eq!(held(&cache, "a.example.com"), ["8.8.8.8"]);
}

fn wildcards(patterns: &[&str]) -> Arc<Wanted> {
    let patterns: Vec<_> = patterns.iter().map(|text| (*text, SpecialPurpose::Refused)).collect();
    Arc::new(Wanted::default().with_wildcards(&patterns))
}

fn learn(cache: &mut NameCache, text: &str, address: &str, now: Instant) -> Learned {
    cache.learn(&name(text), answer(&[(address, 60)]).unwrap(), now)
}

#[test]
fn names_are_learned_for_wildcards_and_forgotten_with_their_last_address() {
    let start = Instant::now();
    let mut cache = NameCache::new(settings(), 1);
    cache.set_wanted(wildcards(&["*.w.example.com"]), start);
    let refused = learn(&mut cache, "a.example.com", "8.8.8.8", start).refused;
    assert_eq!(refused.into_values().collect::<Vec<_>>(), [Refusal::NotWanted]);
    assert!(cache.report(start).names.is_empty());

    let learned = learn(&mut cache, "a.w.example.com", "8.8.8.8", start);
    let until = start + 660 * SECOND;
    assert_eq!(learned.held.into_values().collect::<Vec<_>>(), [until]);
    assert_eq!(learned.changed.added.len(), 1);
    let again = learn(&mut cache, "a.w.example.com", "8.8.8.8", start + 10 * SECOND);
    assert!(again.changed.is_empty());
    cache.count_hits(&name("a.w.example.com"), 5);
    let report = cache.report(start).names.remove(0);
    assert_eq!((report.kind, report.hits), (NameKind::Learned, 7));
    assert!(cache.due(start).is_empty(), "what is learned is not looked up");
    // An answer with nothing that may be learned leaves no name behind.
    learn(&mut cache, "b.w.example.com", "127.0.0.1", start);
    assert_eq!(cache.report(start).names.len(), 1);
    cache.tick(until);
    assert_eq!(held(&cache, "a.w.example.com"), ["8.8.8.8"]);
    let changed = cache.tick(until + 10 * SECOND);
    assert_eq!(changed.removed.len(), 1);
    assert!(changed.emptied.is_empty());
    assert!(cache.report(start).names.is_empty());
    assert_eq!(cache.next_wakeup(), None);
}

#[test]
fn a_rule_has_its_bound_of_names_and_others_have_theirs() {
    let start = Instant::now();
    let settings = Settings { max_addresses: 100, ..settings() };
    let mut cache = NameCache::new(settings, 1);
    cache.set_wanted(wildcards(&["*.w.example.com", "*.v.example.com", "x.*.example.com"]), start);
    for (text, expected) in [
        ("a.w.example.com", None),
        ("b.w.example.com", None),
        ("c.w.example.com", Some(Refusal::RuleFull)),
        ("a.w.example.com", None),
        ("a.v.example.com", None),
        // Another rule has room for it.
        ("x.w.example.com", None),
    ] {
        let refused = learn(&mut cache, text, "8.8.8.8", start).refused;
        assert_eq!(refused.into_values().next(), expected, "{text}");
    }
    assert_eq!(cache.report(start).refused.rule_full, 1);
    cache.tick(start + 700 * SECOND);
    let refused = learn(&mut cache, "c.w.example.com", "8.8.8.8", start + 700 * SECOND).refused;
    assert!(refused.is_empty(), "what is over makes room");
}

#[test]
fn names_change_between_exact_and_learned_with_their_addresses() {
    let start = Instant::now();
    let mut cache = NameCache::new(settings(), 1);
    let both = |exact: &[&str]| {
        let exact = exact.iter().map(|text| (name(text), SpecialPurpose::Refused)).collect();
        let wildcard = [("*.w.example.com", SpecialPurpose::Refused)];
        Arc::new(Wanted::only_exact(&exact).with_wildcards(&wildcard))
    };
    cache.set_wanted(both(&[]), start);
    learn(&mut cache, "a.w.example.com", "8.8.8.8", start);
    assert!(cache.set_wanted(both(&["a.w.example.com"]), start).is_empty());
    assert_eq!(cache.due(start), [name("a.w.example.com")]);
    cache.answer(&name("a.w.example.com"), answer(&[("8.8.4.4", 60)]), start);
    assert!(cache.set_wanted(both(&[]), start).is_empty());
    assert_eq!(held(&cache, "a.w.example.com"), ["8.8.4.4", "8.8.8.8"]);
    assert_eq!(cache.due(start + 3600 * SECOND), []);
    let changed = cache.set_wanted(Arc::default(), start);
    assert_eq!(changed.removed.len(), 2);
    assert!(cache.report(start).names.is_empty());
}

#[test]
fn failing_names_have_half_of_the_look_ups() {
    let start = Instant::now();
    let names = ["a.example.com", "b.example.com", "c.example.com", "d.example.com"];
    let mut cache = cache(&names, start);
    for text in &names[..3] {
        cache.answer(&name(text), Err(LookupFailure::Timeout), start);
    }
    let later = start + 100 * SECOND;
    let started = cache.due(later);
    assert_eq!(started, [name("d.example.com"), name("a.example.com")]);
    cache.answer(&name("d.example.com"), answer(&[("8.8.8.8", 60)]), later);
    assert_eq!(cache.due(later + SECOND), [], "one of them runs already");
    cache.answer(&name("a.example.com"), Err(LookupFailure::Timeout), later);
    assert_eq!(cache.due(later + SECOND).len(), 1);
}

#[test]
fn flushed_names_are_forgotten_or_looked_up_anew() {
    let start = Instant::now();
    let mut cache = cache(&["a.example.com", "b.example.com"], start);
    cache.due(start);
    for text in ["a.example.com", "b.example.com"] {
        cache.answer(&name(text), answer(&[("8.8.8.8", 60)]), start);
    }
    let changed = cache.flush(|name| name.as_str().starts_with('a'), start);
    assert_eq!(changed.removed.len(), 1);
    assert_eq!(cache.due(start), [name("a.example.com")]);
    assert_eq!(held(&cache, "b.example.com"), ["8.8.8.8"]);
}

/// 10,000 names, of which 9,900 never get an answer. They neither use up all look-ups, nor do they
/// keep the others from being refreshed once each had its turn.
#[test]
fn ten_thousand_names_that_fail_slowly_do_not_stall_the_others() {
    const SLOW: Duration = Duration::from_millis(4800);
    const FAST: Duration = Duration::from_millis(20);
    const TTL: u32 = 60;
    let start = Instant::now();
    let settings = Settings {
        max_lookups: Settings::MAX_LOOKUPS,
        max_addresses: 100_000,
        grace: 60 * SECOND,
        ..settings()
    };
    let names: BTreeMap<Fqdn, SpecialPurpose> = (0..10_000)
        .map(|number| {
            let kind = if number % 100 == 0 { "fast" } else { "slow" };
            (name(&format!("n{number}.{kind}.example.com")), SpecialPurpose::Refused)
        })
        .collect();
    let mut cache = NameCache::new(settings, 1);
    cache.set_wanted(exact(&names), start);
    let is_fast = |name: &Fqdn| name.as_str().contains(".fast.");

    let mut running: BTreeSet<(Instant, Fqdn)> = BTreeSet::new();
    let (mut now, mut most, mut asked) = (start, 0, 0_u64);
    let mut answered: BTreeMap<Fqdn, Instant> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    while now < start + 1800 * SECOND {
        for name in cache.due(now) {
            asked += 1;
            let takes = if is_fast(&name) { FAST } else { SLOW };
            running.insert((now + takes, name));
        }
        most = most.max(running.len());
        let next = [running.first().map(|(at, _)| *at), cache.next_wakeup()];
        now = next.into_iter().flatten().min().unwrap();
        cache.tick(now);
        while running.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, name)) = running.pop_first()
        {
            let result = if is_fast(&name) {
                if let Some(last) = answered.insert(name.clone(), now) {
                    longest = longest.max(now - last);
                }
                answer(&[("8.8.8.8", TTL)])
            } else {
                Err(LookupFailure::Timeout)
            };
            cache.answer(&name, result, now);
        }
    }
    assert_eq!(most, Settings::MAX_LOOKUPS);
    assert_eq!(answered.len(), 100, "each had its turn");
    // 9,900 names at a time of 4.8 s by 128 look-ups take 371 s, once.
    assert!(longest < 400 * SECOND, "{longest:?}");
    let late = answered.values().filter(|at| now - **at > Duration::from_secs(TTL.into()));
    assert_eq!(late.count(), 0, "after that they are refreshed in time");
    // No more than the look-ups at once allow in this time, which is far from a flood.
    let bound = 1800 * 128 / 4 + 100 * 1800 / 40;
    assert!(asked < bound, "{asked} questions in half an hour");
}
