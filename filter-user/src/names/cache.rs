// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache itself.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{
    answer::{Answer, Changed, Learned, LookupFailure, Outcome, Refusal, Refusals, Standing},
    few::Few,
    jitter::Jitter,
    report::NameKind,
    wanted::{RuleNumber, Wanted},
};
use crate::policy::{self, Fqdn, SpecialPurpose, special::special_purpose};

/// A look-up that has not come back by then is taken for lost, so that a fault elsewhere can't
/// use up the look-ups that may run at once. It is longer than any look-up takes.
pub(super) const LOOKUP_LIMIT: Duration = Duration::from_secs(30);
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
    /// The bound on names that are learned for the wildcards of one rule. A name that several
    /// rules match counts for each, and is refused where none has room.
    pub max_names_per_rule: usize,
    /// The bound on look-ups at once, at least 1. Names whose last look-up failed have half of it,
    /// so that those of a slow server don't keep the others waiting.
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

/// Where an address of a name comes from, and how long it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// How long it still holds.
    pub left: Left,
    /// Who gave the answer that brought it last.
    pub resolver: IpAddr,
    /// The aliases that led to it in that answer, in order.
    pub chain: Vec<Fqdn>,
    /// How long ago that was.
    pub age: Duration,
}

/// Names, the addresses that they have, and when to ask again.
#[derive(Clone, Debug)]
pub struct NameCache {
    settings: Settings,
    wanted: Arc<Wanted>,
    own: Vec<IpNet>,
    pub(super) names: BTreeMap<Fqdn, Entry>,
    /// The names that are to be looked up, by time. Each exact name is in here, in `retrying` or in
    /// `in_flight`.
    waiting: BTreeSet<(Instant, Fqdn)>,
    /// The same for names whose last look-up failed.
    retrying: BTreeSet<(Instant, Fqdn)>,
    /// The names that are being looked up. A name stays in here when no rule wants it any more: its
    /// look-up still runs.
    pub(super) in_flight: BTreeMap<Fqdn, InFlight>,
    /// Every held address, by the time when its TTL ends, until that is over.
    ttl_ends: BTreeSet<(Instant, Fqdn, IpAddr)>,
    /// Every held address, by the time when it goes.
    pub(super) ends: BTreeSet<(Instant, Fqdn, IpAddr)>,
    /// The names that hold an address.
    holders: BTreeMap<IpAddr, Few<Fqdn, ()>>,
    /// How many names were learned for the wildcards of a rule.
    learned: BTreeMap<RuleNumber, usize>,
    /// Names that changed since they were saved.
    pub(super) unsaved: BTreeSet<Fqdn>,
    pub(super) refused: Refusals,
    jitter: Jitter,
}

/// A look-up that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    /// When it is taken for lost.
    lost: Instant,
    queue: Queue,
}

/// Where a name waits for its look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Waiting,
    Retrying,
}

/// One name.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    special: SpecialPurpose,
    kind: Kind,
    pub(super) held: Few<IpAddr, Held>,
    pub(super) last: Option<Arc<Answered>>,
    pub(super) failing: Option<Failing>,
    /// Failures of one address family while the other is answered.
    pub(super) half: Option<Failing>,
    pub(super) refused: Refusals,
    /// How often clients got its addresses.
    pub(super) hits: u64,
}

/// How a name gets its addresses.
#[derive(Clone, Debug)]
enum Kind {
    /// A rule names it: it is looked up, and learned as well.
    LookedUp {
        /// Its place in a queue.
        next: Option<(Queue, Instant)>,
    },
    /// Wildcards match it: it is learned when a client asks, and forgotten with its last address.
    Learned {
        /// The rules that it counts for.
        rules: Vec<RuleNumber>,
    },
}

/// One address of a name.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The end of its TTL, the latest of all answers.
    pub(super) ttl_end: Instant,
    /// When it is no longer allowed.
    pub(super) end: Instant,
    /// The answer that brought it last.
    pub(super) source: Arc<Answered>,
}

/// Where an answer came from.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The bound on look-ups at once.
    pub const MAX_LOOKUPS: usize = 128;

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
            max_ttl: dns.max_ttl,
            grace: dns.grace,
            max_addresses_per_name: usize::from(dns.max_addresses_per_name),
            max_addresses: bound(dns.max_addresses),
            max_names_per_rule: bound(dns.max_names_per_rule),
            max_lookups: Self::MAX_LOOKUPS,
        }
    }
}

// === impl NameCache ===

impl NameCache {
    /// An empty cache that wants no name. Jitter follows from the seed alone.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            wanted: Arc::default(),
            own: Vec::new(),
            names: BTreeMap::new(),
            waiting: BTreeSet::new(),
            retrying: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            ttl_ends: BTreeSet::new(),
            ends: BTreeSet::new(),
            holders: BTreeMap::new(),
            learned: BTreeMap::new(),
            unsaved: BTreeSet::new(),
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

    /// Says which names are wanted. Names that are not wanted any more go with their addresses,
    /// those that stay keep theirs, and new exact ones are due at once.
    pub fn set_wanted(&mut self, wanted: Arc<Wanted>, now: Instant) -> Changed {
        self.wanted = wanted;
        self.learned.clear();
        let mut changed = Changed::default();
        let known: Vec<Fqdn> = self.names.keys().cloned().collect();
        for name in known {
            let terms = self.wanted.terms(&name);
            let is_exact = self.wanted.exact().contains_key(&name);
            let Some(entry) = self.names.get_mut(&name) else { continue };
            let Some(terms) = terms else {
                self.forget(&name, &mut changed);
                continue;
            };
            entry.special = terms.special;
            match (&mut entry.kind, is_exact) {
                (Kind::LookedUp { .. }, true) => {}
                (Kind::LookedUp { next }, false) => {
                    if let Some((queue, at)) = next.take() {
                        self.queue(queue).remove(&(at, name.clone()));
                    }
                    self.count_learned(&name, terms.matched);
                }
                // It becomes due below.
                (Kind::Learned { .. }, true) => {}
                (Kind::Learned { .. }, false) => self.count_learned(&name, terms.matched),
            }
        }
        let wanted = Arc::clone(&self.wanted);
        for (name, special) in wanted.exact() {
            let special = wanted.terms(name).map_or(*special, |terms| terms.special);
            match self.names.get_mut(name) {
                Some(Entry { kind: Kind::LookedUp { .. }, .. }) => continue,
                Some(entry) => entry.kind = Kind::LookedUp { next: None },
                None => {
                    let entry = Entry::new(special, Kind::LookedUp { next: None });
                    self.names.insert(name.clone(), entry);
                }
            }
            // The answer of a look-up that still runs is as good as that of a new one.
            if !self.in_flight.contains_key(name) {
                self.schedule(name, now);
            }
        }
        self.drop_inadmissible(&mut changed);
        self.forget_empty();
        changed
    }

    /// The names that are wanted.
    #[must_use]
    pub fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.wanted)
    }

    /// Says which prefixes are the gateway's own or of the network behind it. No name can have
    /// an address of these, and what some had is dropped.
    pub fn set_own(&mut self, prefixes: Vec<IpNet>) -> Changed {
        self.own = prefixes;
        let mut changed = Changed::default();
        self.drop_inadmissible(&mut changed);
        self.forget_empty();
        changed
    }

    /// Whether a name that is looked up has neither an address nor a result yet.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        let pending = |entry: &Entry| {
            entry.held.is_empty() && entry.last.is_none() && entry.failing.is_none()
        };
        self.names.values().any(pending)
    }

    /// The look-ups to start now, the longest overdue first. Each is to be followed by one
    /// [`Self::answer`].
    pub fn due(&mut self, now: Instant) -> Vec<Fqdn> {
        let mut start = Vec::new();
        while let Some((queue, at)) = self.next_lookup()
            && at <= now
            && let Some((_, name)) = self.queue(queue).pop_first()
        {
            if let Some(Entry { kind: Kind::LookedUp { next }, .. }) = self.names.get_mut(&name) {
                *next = None;
            }
            let lost = after(now, LOOKUP_LIMIT);
            self.in_flight.insert(name.clone(), InFlight { lost, queue });
            start.push(name);
        }
        start
    }

    /// Takes the result of a look-up. An answer that was not asked for is as good.
    ///
    /// Nothing is dropped here, so [`Self::tick`] comes first where what is over shall make room.
    pub fn answer(
        &mut self,
        name: &Fqdn,
        result: Result<Answer, LookupFailure>,
        now: Instant,
    ) -> Outcome {
        self.in_flight.remove(name);
        let unwanted =
            !matches!(self.names.get(name), Some(Entry { kind: Kind::LookedUp { .. }, .. }));
        if unwanted {
            return Outcome {
                standing: Standing::Unwanted,
                changed: Changed::default(),
                refused: BTreeMap::new(),
            };
        }
        match result {
            Ok(answer) if !answer.records.is_empty() => self.accept(name, answer, now),
            Ok(_) => self.reject(name, LookupFailure::NoData, now),
            Err(failure) => self.reject(name, failure, now),
        }
    }

    /// Takes what a client gets for its question. Only what is held then may be sent to it.
    ///
    /// An answer that is repeated renews what it brought. Nothing is dropped here, so
    /// [`Self::tick`] comes first where what is over shall make room.
    pub fn learn(&mut self, name: &Fqdn, answer: Answer, now: Instant) -> Learned {
        if answer.records.is_empty() {
            return Learned::default();
        }
        if let Err(refusal) = self.admit_name(name) {
            let refuse = |(address, _): (IpAddr, u32)| {
                self.refused.count(refusal);
                (address, refusal)
            };
            let refused = answer.records.into_iter().map(refuse).collect();
            return Learned { refused, ..Learned::default() };
        }
        let learned = self.hold_all(name, answer, now);
        if !learned.held.is_empty() {
            self.count_hits(name, 1);
        }
        self.forget_if_empty(name);
        learned
    }

    /// How often clients got the addresses of each name.
    pub fn hits(&self) -> impl Iterator<Item = (&Fqdn, u64)> {
        self.names.iter().map(|(name, entry)| (name, entry.hits))
    }

    /// Counts clients' questions that were answered from what was learned before.
    pub fn count_hits(&mut self, name: &Fqdn, hits: u64) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.hits = entry.hits.saturating_add(hits);
        }
    }

    /// The addresses of which the next [`Self::tick`] has to know whether they are in use: those
    /// whose TTL or grace period ends.
    #[must_use]
    pub fn in_question(&self, now: Instant) -> BTreeSet<IpAddr> {
        let crossed = |ends: &BTreeSet<(Instant, Fqdn, IpAddr)>| -> Vec<IpAddr> {
            let ends = ends.iter().take_while(|(end, _, _)| *end <= now);
            ends.map(|(_, _, address)| *address).collect()
        };
        let mut addresses: BTreeSet<IpAddr> = crossed(&self.ttl_ends).into_iter().collect();
        addresses.extend(crossed(&self.ends));
        addresses
    }

    /// Keeps addresses that were seen in use, since they were asked about for the last time, for at
    /// least a grace period from now.
    pub fn keep_in_use(&mut self, in_use: &BTreeSet<IpAddr>, now: Instant) {
        let until = after(now, self.settings.grace);
        for address in in_use {
            let holders = self.holders.get(address).cloned().unwrap_or_default();
            for (name, ()) in holders {
                let Some(entry) = self.names.get_mut(&name) else { continue };
                let Some(held) = entry.held.get_mut(address) else { continue };
                if held.end < until {
                    self.ends.remove(&(held.end, name.clone(), *address));
                    held.end = until;
                    self.ends.insert((until, name.clone(), *address));
                    self.unsaved.insert(name);
                }
            }
        }
    }

    /// Drops what is over and gives up look-ups that never came back.
    pub fn tick(&mut self, now: Instant) -> Changed {
        let lost: Vec<Fqdn> = self
            .in_flight
            .iter()
            .filter(|(_, lookup)| lookup.lost <= now)
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
        let ttl_end = self.ttl_ends.first().map(|(end, _, _)| *end);
        let end = self.ends.first().map(|(end, _, _)| *end);
        let lost = self.in_flight.values().map(|lookup| lookup.lost).min();
        let due = self.next_lookup().map(|(_, at)| at);
        [ttl_end, end, lost, due].into_iter().flatten().min()
    }

    /// Forgets the addresses of some names. Those that are looked up are due at once.
    pub fn flush(&mut self, chosen: impl Fn(&Fqdn) -> bool, now: Instant) -> Changed {
        let mut changed = Changed::default();
        let names: Vec<Fqdn> = self.names.keys().filter(|name| chosen(name)).cloned().collect();
        for name in names {
            let Some(entry) = self.names.get_mut(&name) else { continue };
            let held = std::mem::take(&mut entry.held);
            let looked_up = matches!(entry.kind, Kind::LookedUp { .. });
            if looked_up && !held.is_empty() {
                changed.emptied.insert(name.clone());
            }
            for (address, held) in held {
                self.unlist(&name, address, &held);
                changed.removed.insert((name.clone(), address));
            }
            if looked_up && !self.in_flight.contains_key(&name) {
                self.schedule(&name, now);
            }
            self.forget_if_empty(&name);
        }
        changed
    }

    /// Forgets addresses that could not be put in force.
    pub fn unlearn(&mut self, pairs: &BTreeSet<(Fqdn, IpAddr)>) {
        for (name, address) in pairs {
            let held = self.names.get_mut(name).and_then(|entry| entry.held.remove(address));
            if let Some(held) = held {
                self.unlist(name, *address, &held);
            }
            self.forget_if_empty(name);
        }
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

    /// How an address of a name stands; none if the name does not have it.
    #[must_use]
    pub fn provenance(&self, name: &Fqdn, address: IpAddr, now: Instant) -> Option<Provenance> {
        let held = self.names.get(name)?.held.get(&address).filter(|held| held.end > now)?;
        Some(Provenance {
            left: held.left(now),
            resolver: held.source.resolver,
            chain: held.source.chain.clone(),
            age: now.saturating_duration_since(held.source.at),
        })
    }

    /// Holds what was held before a restart, within all bounds.
    pub(super) fn hold_restored(
        &mut self,
        name: &Fqdn,
        address: IpAddr,
        held: Held,
    ) -> Result<Changed, Refusal> {
        self.admit_name(name)?;
        let mut changed = Changed::default();
        let source = Arc::clone(&held.source);
        let known = self.holds(name, address);
        let result = self.hold(name, address, held);
        if let Some(entry) = self.names.get_mut(name)
            && result.is_ok()
        {
            if !known {
                changed.added.insert((name.clone(), address));
            }
            // An answer that came since is newer than what was saved.
            if entry.last.as_ref().is_none_or(|last| last.at < source.at) {
                entry.last = Some(source);
            }
        }
        self.forget_if_empty(name);
        result.map(|_until| changed)
    }

    /// Makes room for a name that was not known.
    fn admit_name(&mut self, name: &Fqdn) -> Result<(), Refusal> {
        if self.names.contains_key(name) {
            return Ok(());
        }
        let terms = self.wanted.terms(name).ok_or(Refusal::NotWanted)?;
        let has_room = |rule: &RuleNumber| {
            self.learned.get(rule).is_none_or(|count| *count < self.settings.max_names_per_rule)
        };
        if !terms.matched.iter().any(has_room) {
            return Err(Refusal::RuleFull);
        }
        let kind = Kind::Learned { rules: Vec::new() };
        self.names.insert(name.clone(), Entry::new(terms.special, kind));
        self.count_learned(name, terms.matched);
        Ok(())
    }

    /// Holds an address of a name, within all bounds, and tells until when.
    fn hold(&mut self, name: &Fqdn, address: IpAddr, held: Held) -> Result<Instant, Refusal> {
        let Some(entry) = self.names.get_mut(name) else { return Err(Refusal::NotWanted) };
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
        let old = entry.held.remove(&address);
        let merged = match &old {
            Some(old) => Held {
                ttl_end: old.ttl_end.max(held.ttl_end),
                end: old.end.max(held.end),
                source: held.source,
            },
            None => held,
        };
        if let Some(old) = &old {
            self.ttl_ends.remove(&(old.ttl_end, name.clone(), address));
            self.ends.remove(&(old.end, name.clone(), address));
        } else {
            self.holders.entry(address).or_default().insert(name.clone(), ());
        }
        self.ttl_ends.insert((merged.ttl_end, name.clone(), address));
        self.ends.insert((merged.end, name.clone(), address));
        self.unsaved.insert(name.clone());
        let until = merged.end;
        entry.held.insert(address, merged);
        Ok(until)
    }

    fn holds(&self, name: &Fqdn, address: IpAddr) -> bool {
        self.names.get(name).is_some_and(|entry| entry.held.contains_key(&address))
    }

    /// Holds what an answer brings, as far as the bounds let it.
    fn hold_all(&mut self, name: &Fqdn, answer: Answer, now: Instant) -> Learned {
        let mut learned = Learned::default();
        let mut longest: BTreeMap<IpAddr, Duration> = BTreeMap::new();
        for (address, seconds) in answer.records {
            let ttl = self.settings.effective_ttl(seconds);
            let known = longest.entry(address).or_default();
            *known = (*known).max(ttl);
        }
        let Answer { resolver, chain, .. } = answer;
        let source = Arc::new(Answered { resolver, chain, at: now });
        for (address, ttl) in longest {
            let known = self.holds(name, address);
            let ttl_end = after(now, ttl);
            let end = after(ttl_end, self.settings.grace);
            match self.hold(name, address, Held { ttl_end, end, source: Arc::clone(&source) }) {
                Ok(until) => {
                    learned.held.insert(address, until);
                    if !known {
                        learned.changed.added.insert((name.clone(), address));
                    }
                }
                Err(refusal) => {
                    learned.refused.insert(address, refusal);
                }
            }
        }
        if let Some(entry) = self.names.get_mut(name) {
            entry.last = Some(source);
        }
        learned
    }

    fn accept(&mut self, name: &Fqdn, mut answer: Answer, now: Instant) -> Outcome {
        let ttls = answer.records.iter().map(|(_, ttl)| self.settings.effective_ttl(*ttl));
        let shortest = ttls.min().unwrap_or(self.settings.max_ttl);
        let mut delay = self.jitter.refresh(shortest);
        let missing = answer.missing.take();
        let Learned { changed, refused, .. } = self.hold_all(name, answer, now);
        let mut outcome = Outcome { standing: Standing::Answered, changed, refused };
        let Some(entry) = self.names.get_mut(name) else { return outcome };
        if entry.failing.take().is_some() {
            outcome.standing = Standing::Recovered;
        }
        // The missing family may have held addresses that are now in their grace period.
        entry.half = missing.map(|why| match &entry.half {
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

    fn reject(&mut self, name: &Fqdn, why: LookupFailure, now: Instant) -> Outcome {
        let mut outcome = Outcome {
            standing: Standing::NewlyFailing,
            changed: Changed::default(),
            refused: BTreeMap::new(),
        };
        let Some(entry) = self.names.get_mut(name) else { return outcome };
        let (since, attempts) = match &entry.failing {
            Some(old) => {
                outcome.standing = Standing::StillFailing;
                (old.since, old.attempts.saturating_add(1))
            }
            None => (now, 1),
        };
        entry.failing = Some(Failing { why, since, attempts });
        let delay = self.jitter.back_off(attempts);
        self.schedule(name, after(now, delay));
        outcome
    }

    fn queue(&mut self, queue: Queue) -> &mut BTreeSet<(Instant, Fqdn)> {
        match queue {
            Queue::Waiting => &mut self.waiting,
            Queue::Retrying => &mut self.retrying,
        }
    }

    /// Where the look-up is that comes next, if there is room for one.
    fn next_lookup(&self) -> Option<(Queue, Instant)> {
        let most = self.settings.max_lookups.max(1);
        if self.in_flight.len() >= most {
            return None;
        }
        let retries =
            self.in_flight.values().filter(|lookup| lookup.queue == Queue::Retrying).count();
        let first = |queue: &BTreeSet<(Instant, Fqdn)>| queue.first().map(|(at, _)| *at);
        let waiting = first(&self.waiting).map(|at| (Queue::Waiting, at));
        let retrying = first(&self.retrying)
            .filter(|_| retries < most.div_ceil(2))
            .map(|at| (Queue::Retrying, at));
        [waiting, retrying].into_iter().flatten().min_by_key(|(_, at)| *at)
    }

    fn schedule(&mut self, name: &Fqdn, at: Instant) {
        let Some(entry) = self.names.get_mut(name) else { return };
        let queue = if entry.failing.is_some() { Queue::Retrying } else { Queue::Waiting };
        let Kind::LookedUp { next } = &mut entry.kind else { return };
        if let Some((queue, old)) = next.replace((queue, at)) {
            self.queue(queue).remove(&(old, name.clone()));
        }
        self.queue(queue).insert((at, name.clone()));
    }

    /// Notes that a name was learned for rules.
    fn count_learned(&mut self, name: &Fqdn, rules: Vec<RuleNumber>) {
        for rule in &rules {
            *self.learned.entry(*rule).or_default() += 1;
        }
        if let Some(entry) = self.names.get_mut(name) {
            entry.kind = Kind::Learned { rules };
        }
    }

    /// Takes a name out with all that it holds.
    fn forget(&mut self, name: &Fqdn, changed: &mut Changed) {
        let Some(entry) = self.names.remove(name) else { return };
        match entry.kind {
            Kind::LookedUp { next: Some((queue, at)) } => {
                self.queue(queue).remove(&(at, name.clone()));
            }
            Kind::LookedUp { next: None } => {}
            Kind::Learned { rules } => {
                for rule in rules {
                    if let Some(count) = self.learned.get_mut(&rule) {
                        *count = count.saturating_sub(1);
                    }
                }
            }
        }
        for (address, held) in entry.held {
            self.unlist(name, address, &held);
            changed.removed.insert((name.clone(), address));
        }
    }

    /// A name that was learned goes with its last address.
    fn forget_if_empty(&mut self, name: &Fqdn) {
        let is_over = self.names.get(name).is_some_and(|entry| {
            entry.held.is_empty() && matches!(entry.kind, Kind::Learned { .. })
        });
        if is_over {
            self.forget(name, &mut Changed::default());
        }
    }

    fn forget_empty(&mut self) {
        let empty = self.names.iter().filter(|(_, entry)| entry.held.is_empty());
        for name in empty.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.forget_if_empty(&name);
        }
    }

    /// Takes an address out of the lists by time and address.
    fn unlist(&mut self, name: &Fqdn, address: IpAddr, held: &Held) {
        self.ttl_ends.remove(&(held.ttl_end, name.clone(), address));
        self.ends.remove(&(held.end, name.clone(), address));
        self.unsaved.insert(name.clone());
        if let btree_map::Entry::Occupied(mut holders) = self.holders.entry(address) {
            holders.get_mut().remove(name);
            if holders.get().is_empty() {
                holders.remove();
            }
        }
    }

    fn expire(&mut self, now: Instant) -> Changed {
        let mut changed = Changed::default();
        while self.ttl_ends.first().is_some_and(|(end, _, _)| *end <= now) {
            self.ttl_ends.pop_first();
        }
        while self.ends.first().is_some_and(|(end, _, _)| *end <= now)
            && let Some((_, name, address)) = self.ends.first().cloned()
        {
            let Some(entry) = self.names.get_mut(&name) else { break };
            let Some(held) = entry.held.remove(&address) else { break };
            if entry.held.is_empty() && matches!(entry.kind, Kind::LookedUp { .. }) {
                changed.emptied.insert(name.clone());
            }
            self.unlist(&name, address, &held);
            self.forget_if_empty(&name);
            changed.removed.insert((name, address));
        }
        changed
    }

    /// Drops what may no longer be held since permissions or own prefixes changed.
    fn drop_inadmissible(&mut self, changed: &mut Changed) {
        let mut dropped = Vec::new();
        for (name, entry) in &mut self.names {
            let before = entry.held.len();
            let special = entry.special;
            let refused = |address: &IpAddr| admissible(&self.own, special, *address).is_err();
            for (address, held) in entry.held.extract(refused) {
                changed.removed.insert((name.clone(), address));
                dropped.push((name.clone(), address, held));
            }
            let looked_up = matches!(entry.kind, Kind::LookedUp { .. });
            if before > 0 && entry.held.is_empty() && looked_up {
                changed.emptied.insert(name.clone());
            }
        }
        for (name, address, held) in dropped {
            self.unlist(&name, address, &held);
        }
    }
}

// === impl Entry ===

impl Entry {
    fn new(special: SpecialPurpose, kind: Kind) -> Self {
        Self {
            special,
            kind,
            held: Few::default(),
            last: None,
            failing: None,
            half: None,
            refused: Refusals::default(),
            hits: 0,
        }
    }

    pub(super) fn kind(&self) -> NameKind {
        match self.kind {
            Kind::LookedUp { .. } => NameKind::Exact,
            Kind::Learned { .. } => NameKind::Learned,
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

/// A bound that is no number on this machine is none.
fn bound(most: u32) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// `start + delay`, bounded where an absurd delay would overflow the clock.
pub(super) fn after(start: Instant, delay: Duration) -> Instant {
    start.checked_add(delay.min(HORIZON)).unwrap_or(start)
}

pub(super) fn admissible(
    own: &[IpNet],
    special: SpecialPurpose,
    address: IpAddr,
) -> Result<(), Refusal> {
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
