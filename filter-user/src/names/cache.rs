// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    answer::{Answer, Changed, LookupFailure, Outcome, Refusal, Refusals, Standing},
    jitter::Jitter,
};
use crate::policy::{self, Fqdn, SpecialPurpose, special::special_purpose};

/// A look-up that has not come back by then is taken for lost, so that a fault elsewhere can't
/// use up the look-ups that may run at once. It is longer than any look-up takes.
const LOOKUP_LIMIT: Duration = Duration::from_secs(30);
/// No time is reckoned further ahead than this, whatever the settings say.
const HORIZON: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The bounds of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least time that an answer holds, whatever its TTL.
    pub min_ttl: Duration,
    /// The longest time that an answer holds, whatever its TTL. It wins over the floor.
    pub max_ttl: Duration,
    /// The time by which an address outlives its TTL.
    pub grace: Duration,
    /// The bound on addresses of one name.
    pub max_addresses_per_name: usize,
    /// The bound on addresses of all names together; one that two names share counts twice.
    pub max_addresses: usize,
    /// The bound on look-ups at once, at least 1.
    pub max_lookups: usize,
}

/// The addresses of each name that has some, for the compiler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Names without an address are left out.
    pub addresses: BTreeMap<Fqdn, BTreeSet<IpAddr>>,
}

/// How long an address still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Until its TTL ends; zero in the grace period.
    pub ttl: Duration,
    /// Until it is no longer allowed.
    pub allowed: Duration,
}

/// Names, the addresses that they have, and when to ask again.
#[derive(Clone, Debug)]
pub struct NameCache {
    settings: Settings,
    own: Vec<IpNet>,
    pub(super) names: BTreeMap<Fqdn, Entry>,
    /// The names that are to be looked up, by time. Each wanted name is either in here or in
    /// `in_flight`.
    waiting: BTreeSet<(Instant, Fqdn)>,
    /// The names that are being looked up, each with the time when that is taken for lost. A name
    /// stays in here when no rule wants it any more: its look-up still runs.
    pub(super) in_flight: BTreeMap<Fqdn, Instant>,
    /// Every held address, by the time when it goes.
    pub(super) ends: BTreeSet<(Instant, Fqdn, IpAddr)>,
    pub(super) refused: Refusals,
    jitter: Jitter,
}

/// One wanted name.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    special: SpecialPurpose,
    /// Its place in `waiting`.
    next: Option<Instant>,
    pub(super) held: BTreeMap<IpAddr, Held>,
    pub(super) last: Option<Answered>,
    pub(super) failing: Option<Failing>,
    /// Failures of one address family while the other is answered.
    pub(super) half: Option<Failing>,
    pub(super) refused: Refusals,
}

/// One address of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The end of its TTL, the latest of all answers.
    pub(super) ttl_end: Instant,
    /// When it is no longer allowed.
    pub(super) end: Instant,
}

/// Where the last answer came from.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    pub(super) resolver: IpAddr,
    pub(super) chain: Vec<Fqdn>,
    pub(super) at: Instant,
}

/// Failures in a row.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    pub(super) why: LookupFailure,
    pub(super) since: Instant,
    pub(super) attempts: u32,
}

// === impl Settings ===

impl Settings {
    /// The ceiling of TTLs.
    pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
    /// The bound on addresses of all names together, unless said otherwise.
    pub const MAX_ADDRESSES: usize = 100_000;
    /// The bound on look-ups at once, unless said otherwise.
    pub const MAX_LOOKUPS: usize = 64;

    /// A TTL in seconds as it counts here: with the top bit set it is 0 (RFC 2181, section 8),
    /// then floor and ceiling apply.
    #[must_use]
    pub fn effective_ttl(&self, seconds: u32) -> Duration {
        let seconds = if seconds > u32::MAX >> 1 { 0 } else { seconds };
        Duration::from_secs(u64::from(seconds)).max(self.min_ttl).min(self.max_ttl)
    }
}

impl From<&policy::Dns> for Settings {
    fn from(dns: &policy::Dns) -> Self {
        Self {
            min_ttl: dns.min_ttl,
            max_ttl: Self::MAX_TTL,
            grace: dns.grace,
            max_addresses_per_name: usize::from(dns.max_addresses_per_name),
            max_addresses: Self::MAX_ADDRESSES,
            max_lookups: Self::MAX_LOOKUPS,
        }
    }
}

// === impl NameCache ===

impl NameCache {
    /// An empty cache. Jitter follows from the seed alone.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            own: Vec::new(),
            names: BTreeMap::new(),
            waiting: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            ends: BTreeSet::new(),
            refused: Refusals::default(),
            jitter: Jitter::new(seed),
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes new settings for what comes in from now on. What is held keeps its time.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Says which names are wanted, and which of them may have special-purpose addresses. Names
    /// that are not wanted any more go with their addresses, those that stay keep theirs, and new
    /// ones are due at once.
    pub fn set_names(&mut self, wanted: &BTreeMap<Fqdn, SpecialPurpose>, now: Instant) -> Changed {
        let gone: Vec<Fqdn> =
            self.names.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        let mut changed = Changed::default();
        for name in gone {
            let Some(entry) = self.names.remove(&name) else { continue };
            if let Some(next) = entry.next {
                self.waiting.remove(&(next, name.clone()));
            }
            for (address, held) in entry.held {
                self.ends.remove(&(held.end, name.clone(), address));
                changed.removed.insert((name.clone(), address));
            }
        }
        for (name, special) in wanted {
            if let Some(entry) = self.names.get_mut(name) {
                entry.special = *special;
                continue;
            }
            self.names.insert(name.clone(), Entry::new(*special));
            // The answer of a look-up that still runs is as good as that of a new one.
            if !self.in_flight.contains_key(name) {
                self.schedule(name, now);
            }
        }
        self.drop_inadmissible(&mut changed);
        changed
    }

    /// Says which prefixes are the gateway's own or of the network behind it. No name can have
    /// an address of these, and what some had is dropped.
    pub fn set_own(&mut self, prefixes: Vec<IpNet>) -> Changed {
        self.own = prefixes;
        let mut changed = Changed::default();
        self.drop_inadmissible(&mut changed);
        changed
    }

    /// The look-ups to start now, the longest overdue first. Each is to be followed by one
    /// [`Self::answer`].
    pub fn due(&mut self, now: Instant) -> Vec<Fqdn> {
        let mut start = Vec::new();
        while self.in_flight.len() < self.max_lookups()
            && self.waiting.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, name)) = self.waiting.pop_first()
        {
            if let Some(entry) = self.names.get_mut(&name) {
                entry.next = None;
            }
            self.in_flight.insert(name.clone(), after(now, LOOKUP_LIMIT));
            start.push(name);
        }
        start
    }

    /// Takes the result of a look-up. An answer that was not asked for is as good.
    pub fn answer(
        &mut self,
        name: &Fqdn,
        result: Result<Answer, LookupFailure>,
        now: Instant,
    ) -> Outcome {
        self.in_flight.remove(name);
        let mut outcome = Outcome {
            standing: Standing::Unwanted,
            changed: Changed::default(),
            refused: BTreeMap::new(),
        };
        if !self.names.contains_key(name) {
            outcome.changed = self.expire(now);
            return outcome;
        }
        match result {
            Ok(answer) if !answer.records.is_empty() => self.accept(name, answer, now, outcome),
            Ok(_) => self.reject(name, LookupFailure::NoData, now, outcome),
            Err(failure) => self.reject(name, failure, now, outcome),
        }
    }

    /// Keeps addresses that were seen in use for at least a grace period from now.
    pub fn keep_in_use(&mut self, in_use: &BTreeSet<IpAddr>, now: Instant) {
        let until = after(now, self.settings.grace);
        for (name, entry) in &mut self.names {
            for (address, held) in &mut entry.held {
                // What is over but not yet dropped is not brought back.
                if held.end > now && held.end < until && in_use.contains(address) {
                    self.ends.remove(&(held.end, name.clone(), *address));
                    held.end = until;
                    self.ends.insert((until, name.clone(), *address));
                }
            }
        }
    }

    /// Drops what is over and gives up look-ups that never came back.
    pub fn tick(&mut self, now: Instant) -> Changed {
        let lost: Vec<Fqdn> = self
            .in_flight
            .iter()
            .filter(|(_, limit)| **limit <= now)
            .map(|(name, _)| name.clone())
            .collect();
        let mut changed = Changed::default();
        for name in lost {
            changed.merge(self.answer(&name, Err(LookupFailure::Timeout), now).changed);
        }
        changed.merge(self.expire(now));
        changed
    }

    /// When [`Self::tick`] and [`Self::due`] have something to do next, unless an answer comes
    /// first.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let end = self.ends.first().map(|(end, _, _)| *end);
        let lost = self.in_flight.values().min().copied();
        let due = self
            .waiting
            .first()
            .filter(|_| self.in_flight.len() < self.max_lookups())
            .map(|(at, _)| *at);
        [end, lost, due].into_iter().flatten().min()
    }

    /// The addresses that are allowed as of the last call that took the time.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let addresses = self
            .names
            .iter()
            .filter(|(_, entry)| !entry.held.is_empty())
            .map(|(name, entry)| (name.clone(), entry.held.keys().copied().collect()))
            .collect();
        Snapshot { addresses }
    }

    /// How long an address of a name still holds; none if the name does not have it.
    #[must_use]
    pub fn expires_in(&self, name: &Fqdn, address: IpAddr, now: Instant) -> Option<Left> {
        let held = self.names.get(name)?.held.get(&address)?;
        (held.end > now).then(|| held.left(now))
    }

    /// Holds an address that comes from elsewhere than an answer, within all bounds.
    pub(super) fn hold(&mut self, name: &Fqdn, address: IpAddr, held: Held) -> Result<(), Refusal> {
        let Some(entry) = self.names.get_mut(name) else { return Ok(()) };
        let admitted = admissible(&self.own, entry.special, address).and_then(|()| {
            if entry.held.contains_key(&address) {
                Ok(())
            } else if entry.held.len() >= self.settings.max_addresses_per_name {
                Err(Refusal::NameFull)
            } else if self.ends.len() >= self.settings.max_addresses {
                Err(Refusal::CacheFull)
            } else {
                Ok(())
            }
        });
        if let Err(refusal) = admitted {
            entry.refused.count(refusal);
            self.refused.count(refusal);
            return Err(refusal);
        }
        let merged = match entry.held.get(&address) {
            Some(old) => {
                Held { ttl_end: old.ttl_end.max(held.ttl_end), end: old.end.max(held.end) }
            }
            None => held,
        };
        if let Some(old) = entry.held.insert(address, merged) {
            self.ends.remove(&(old.end, name.clone(), address));
        }
        self.ends.insert((merged.end, name.clone(), address));
        Ok(())
    }

    fn accept(
        &mut self,
        name: &Fqdn,
        answer: Answer,
        now: Instant,
        mut outcome: Outcome,
    ) -> Outcome {
        let mut records: BTreeMap<IpAddr, Duration> = BTreeMap::new();
        let mut shortest = self.settings.max_ttl;
        for (address, seconds) in answer.records {
            let ttl = self.settings.effective_ttl(seconds);
            shortest = shortest.min(ttl);
            let longest = records.entry(address).or_default();
            *longest = (*longest).max(ttl);
        }
        // What is held is renewed before what is over goes, and that makes room for what is new:
        // so an address that comes back in time is never taken away for a moment.
        let known = self.names.get(name).map(|entry| entry.held.clone()).unwrap_or_default();
        let (renewed, new): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|(address, _)| known.contains_key(address));
        let grace = self.settings.grace;
        let held = |ttl| {
            let ttl_end = after(now, ttl);
            Held { ttl_end, end: after(ttl_end, grace) }
        };
        for (address, ttl) in renewed {
            if let Err(refusal) = self.hold(name, address, held(ttl)) {
                outcome.refused.insert(address, refusal);
            }
        }
        outcome.changed = self.expire(now);
        let mut added = Changed::default();
        for (address, ttl) in new {
            match self.hold(name, address, held(ttl)) {
                Ok(()) => {
                    added.added.insert((name.clone(), address));
                }
                Err(refusal) => {
                    outcome.refused.insert(address, refusal);
                }
            }
        }
        outcome.changed.merge(added);

        let mut delay = self.jitter.refresh(shortest);
        let Some(entry) = self.names.get_mut(name) else { return outcome };
        outcome.standing = match entry.failing.take() {
            Some(_) => Standing::Recovered,
            None => Standing::Answered,
        };
        entry.last = Some(Answered { resolver: answer.resolver, chain: answer.chain, at: now });
        // The missing family may have held addresses that are now in their grace period.
        entry.half = answer.missing.map(|why| match &entry.half {
            Some(old) => {
                Failing { why, since: old.since, attempts: old.attempts.saturating_add(1) }
            }
            None => Failing { why, since: now, attempts: 1 },
        });
        if let Some(half) = &entry.half {
            delay = delay.min(self.jitter.back_off(half.attempts));
        }
        self.schedule(name, after(now, delay));
        outcome
    }

    fn reject(
        &mut self,
        name: &Fqdn,
        why: LookupFailure,
        now: Instant,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.changed = self.expire(now);
        let Some(entry) = self.names.get_mut(name) else { return outcome };
        let (standing, since, attempts) = match &entry.failing {
            Some(old) => (Standing::StillFailing, old.since, old.attempts.saturating_add(1)),
            None => (Standing::NewlyFailing, now, 1),
        };
        outcome.standing = standing;
        entry.failing = Some(Failing { why, since, attempts });
        let delay = self.jitter.back_off(attempts);
        self.schedule(name, after(now, delay));
        outcome
    }

    fn schedule(&mut self, name: &Fqdn, at: Instant) {
        let Some(entry) = self.names.get_mut(name) else { return };
        if let Some(old) = entry.next.replace(at) {
            self.waiting.remove(&(old, name.clone()));
        }
        self.waiting.insert((at, name.clone()));
    }

    fn expire(&mut self, now: Instant) -> Changed {
        let mut changed = Changed::default();
        while self.ends.first().is_some_and(|(end, _, _)| *end <= now)
            && let Some((_, name, address)) = self.ends.pop_first()
        {
            if let Some(entry) = self.names.get_mut(&name) {
                entry.held.remove(&address);
                if entry.held.is_empty() {
                    changed.emptied.insert(name.clone());
                }
            }
            changed.removed.insert((name, address));
        }
        changed
    }

    /// Drops what may no longer be held since permissions or own prefixes changed.
    fn drop_inadmissible(&mut self, changed: &mut Changed) {
        for (name, entry) in &mut self.names {
            let before = entry.held.len();
            let special = entry.special;
            entry.held.retain(|address, held| {
                let keep = admissible(&self.own, special, *address).is_ok();
                if !keep {
                    self.ends.remove(&(held.end, name.clone(), *address));
                    changed.removed.insert((name.clone(), *address));
                }
                keep
            });
            if before > 0 && entry.held.is_empty() {
                changed.emptied.insert(name.clone());
            }
        }
    }

    fn max_lookups(&self) -> usize {
        self.settings.max_lookups.max(1)
    }
}

// === impl Entry ===

impl Entry {
    fn new(special: SpecialPurpose) -> Self {
        Self {
            special,
            next: None,
            held: BTreeMap::new(),
            last: None,
            failing: None,
            half: None,
            refused: Refusals::default(),
        }
    }
}

// === impl Held ===

impl Held {
    pub(super) fn left(&self, now: Instant) -> Left {
        Left {
            ttl: self.ttl_end.saturating_duration_since(now),
            allowed: self.end.saturating_duration_since(now),
        }
    }
}

/// `start + delay`, bounded where an absurd delay would overflow the clock.
pub(super) fn after(start: Instant, delay: Duration) -> Instant {
    start.checked_add(delay.min(HORIZON)).unwrap_or(start)
}

fn admissible(own: &[IpNet], special: SpecialPurpose, address: IpAddr) -> Result<(), Refusal> {
    // An IPv4 address in the clothes of IPv6 is judged as both.
    let canonical = address.to_canonical();
    if own.iter().any(|prefix| prefix.contains(&address) || prefix.contains(&canonical)) {
        return Err(Refusal::Own);
    }
    let block = special_purpose(address).or_else(|| special_purpose(canonical));
    match (special, block) {
        (SpecialPurpose::Refused, Some(block)) => Err(Refusal::SpecialPurpose(block)),
        (SpecialPurpose::Refused, None) | (SpecialPurpose::Allowed, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> Settings {
        Settings {
            min_ttl: 60 * SECOND,
            max_ttl: Settings::MAX_TTL,
            grace: 600 * SECOND,
            max_addresses_per_name: 3,
            max_addresses: 5,
            max_lookups: 2,
        }
    }

    fn name(text: &str) -> Fqdn {
        Fqdn::try_from(text).unwrap()
    }

    fn cache(names: &[&str], now: Instant) -> NameCache {
        let mut cache = NameCache::new(settings(), 1);
        cache.set_names(
            &names.iter().map(|text| (name(text), SpecialPurpose::Refused)).collect(),
            now,
        );
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
            cache.expires_in(&name("a.example.com"), address, start + at * SECOND)
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
        // What is over makes room in the very answer that needs it.
        let later = start + 660 * SECOND;
        let outcome = cache.answer(&name("a.example.com"), answer(&[("8.8.8.9", 1)]), later);
        assert!(outcome.refused.is_empty());
        assert_eq!(outcome.changed.removed.len(), 5);
        assert_eq!(outcome.changed.emptied, BTreeSet::from([name("b.example.com")]));
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
        cache.set_names(&allowed, start);
        cache.answer(&name("a.example.com"), records, start);
        assert_eq!(held(&cache, "a.example.com"), ["8.8.8.8", "10.0.0.1"]);

        // Both permissions can be taken back.
        let refused = BTreeMap::from([(name("a.example.com"), SpecialPurpose::Refused)]);
        assert_eq!(cache.set_names(&refused, start).removed.len(), 1);
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
        let changed = cache.set_names(&wanted, start);
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
        // Too late is too late.
        cache.keep_in_use(&in_use, start + 1250 * SECOND);
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
}
