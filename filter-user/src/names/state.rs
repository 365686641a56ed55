// SPDX-License-Identifier: MIT OR Apache-2.0
//! What survives a restart.
//!
//! Times are written as seconds of the wall clock and read back as what is left of them, so a
//! clock that was set in between can only shorten them: nothing restored outlives the bounds of
//! the settings in force.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    answer::Changed,
    cache::{Answered, Entry, Held, NameCache, after},
};
use crate::policy::Fqdn;

/// The version of [`State`] and [`Note`] that is written, and the only one that is read.
pub const STATE_VERSION: u32 = 2;

/// By how much a state may be newer than the clock: time servers set clocks back by so much.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// The cache as it is written to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// When it was made, in seconds since 1970.
    saved: u64,
    names: BTreeMap<String, NameRecord>,
}

/// How one name stands since a [`State`] was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    version: u32,
    /// When it was made, in seconds since 1970.
    saved: u64,
    name: String,
    record: NameRecord,
}

/// All that one name has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NameRecord {
    /// The answers that brought the addresses.
    answers: Vec<AnswerRecord>,
    addresses: BTreeMap<IpAddr, Times>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AnswerRecord {
    resolver: IpAddr,
    /// When it came, in seconds since 1970.
    at: u64,
    chain: Vec<String>,
}

/// The times of an address, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Times {
    ttl_end: u64,
    end: u64,
    /// The place of its answer.
    answer: usize,
}

/// What became of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// What the snapshot gained.
    pub changed: Changed,
    /// Addresses whose time was over.
    pub over: usize,
    /// Addresses of names that are not wanted (any more), or that are no names.
    pub unwanted: usize,
    /// Addresses that the bounds and the present policy refuse.
    pub refused: usize,
}

/// Why a state is not used. It says what to do, so that it can stand after the file's path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableState {
    /// Another program version wrote it.
    #[error(
        "version {0} of the saved names is not the version {STATE_VERSION} that this program \
         reads; it is ignored, and every name is looked up again"
    )]
    Version(u32),
    /// The clock was set back, or the file is not ours.
    #[error(
        "the saved names are {0} s newer than the clock; they are ignored, and every name is \
         looked up again. Check the system time"
    )]
    Future(u64),
}

// === impl State ===

impl State {
    /// A state without names, made at the beginning of time: what notes are added to where no state
    /// was saved.
    #[must_use]
    pub fn empty() -> Self {
        Self { version: STATE_VERSION, saved: 0, names: BTreeMap::new() }
    }

    /// Puts a later note on top.
    ///
    /// # Errors
    ///
    /// The note or the state is of another version; nothing has changed.
    pub fn add(&mut self, note: Note) -> Result<(), UnusableState> {
        for version in [self.version, note.version] {
            if version != STATE_VERSION {
                return Err(UnusableState::Version(version));
            }
        }
        self.saved = self.saved.max(note.saved);
        self.names.insert(note.name, note.record);
        Ok(())
    }
}

// === impl NameCache ===

impl NameCache {
    /// Everything that is held now, for a file. Notes that were not taken yet are in it.
    #[must_use]
    pub fn to_state(&mut self, now: Instant, wall: SystemTime) -> State {
        self.unsaved.clear();
        let saved = seconds(wall);
        let names = self
            .names
            .iter()
            .filter(|(_, entry)| !entry.held.is_empty())
            .map(|(name, entry)| (name.as_str().to_owned(), record(entry, now, saved)))
            .collect();
        State { version: STATE_VERSION, saved, names }
    }

    /// What changed since it was asked for the last time, name by name.
    pub fn take_notes(&mut self, now: Instant, wall: SystemTime) -> Vec<Note> {
        let saved = seconds(wall);
        let unsaved = std::mem::take(&mut self.unsaved);
        let note = |name: Fqdn| {
            let entry = self.names.get(&name);
            let record = entry.map(|entry| record(entry, now, saved)).unwrap_or_default();
            Note { version: STATE_VERSION, saved, name: name.as_str().to_owned(), record }
        };
        unsaved.into_iter().map(note).collect()
    }

    /// Whether [`Self::take_notes`] has any.
    #[must_use]
    pub fn has_notes(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Takes back what was saved, as far as its time is not over and the names are wanted: so
    /// [`NameCache::set_wanted`] and [`NameCache::set_own`] come first. Every exact name stays due.
    ///
    /// # Errors
    ///
    /// The state is of another version, or from the future. The cache is as before.
    pub fn restore(
        &mut self,
        state: &State,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Restored, UnusableState> {
        if state.version != STATE_VERSION {
            return Err(UnusableState::Version(state.version));
        }
        let clock = seconds(wall);
        let newer = state.saved.saturating_sub(clock);
        if newer > CLOCK_SLACK.as_secs() {
            return Err(UnusableState::Future(newer));
        }
        let mut restored = Restored::default();
        for (text, record) in &state.names {
            match Fqdn::try_from(text.as_str()) {
                Ok(name) if self.wanted().covers(&name) => {
                    self.restore_name(&name, record, now, clock, &mut restored);
                }
                Ok(_) | Err(_) => restored.unwanted += record.addresses.len(),
            }
        }
        Ok(restored)
    }

    fn restore_name(
        &mut self,
        name: &Fqdn,
        record: &NameRecord,
        now: Instant,
        clock: u64,
        restored: &mut Restored,
    ) {
        let max_ttl = self.settings().max_ttl;
        let grace = self.settings().grace;
        let answers: Vec<Arc<Answered>> = record
            .answers
            .iter()
            .map(|answer| {
                let age = Duration::from_secs(clock.saturating_sub(answer.at));
                let chain = answer.chain.iter().filter_map(|text| Fqdn::try_from(&**text).ok());
                Arc::new(Answered {
                    resolver: answer.resolver,
                    chain: chain.collect(),
                    at: now.checked_sub(age).unwrap_or(now),
                })
            })
            .collect();
        for (address, times) in &record.addresses {
            let left = |time: u64| Duration::from_secs(time.saturating_sub(clock));
            let ttl = left(times.ttl_end).min(max_ttl);
            let allowed = left(times.end).min(ttl.saturating_add(grace));
            let source = match answers.get(times.answer) {
                Some(source) if !allowed.is_zero() => Arc::clone(source),
                Some(_) | None => {
                    restored.over += 1;
                    continue;
                }
            };
            let held = Held { ttl_end: after(now, ttl), end: after(now, allowed), source };
            match self.hold_restored(name, *address, held) {
                Ok(changed) => restored.changed.merge(changed),
                Err(_refusal) => restored.refused += 1,
            }
        }
    }
}

/// What a name has now.
fn record(entry: &Entry, now: Instant, saved: u64) -> NameRecord {
    let ahead = |time: Instant| saved.saturating_add(time.saturating_duration_since(now).as_secs());
    let mut sources: Vec<&Arc<Answered>> = Vec::new();
    let mut addresses = BTreeMap::new();
    for (address, held) in entry.held.iter().filter(|(_, held)| held.end > now) {
        let known = sources.iter().position(|source| **source == held.source);
        let answer = known.unwrap_or_else(|| {
            sources.push(&held.source);
            sources.len() - 1
        });
        let times = Times { ttl_end: ahead(held.ttl_end), end: ahead(held.end), answer };
        addresses.insert(*address, times);
    }
    let answers = sources
        .into_iter()
        .map(|source| AnswerRecord {
            resolver: source.resolver,
            at: saved.saturating_sub(now.saturating_duration_since(source.at).as_secs()),
            chain: source.chain.iter().map(ToString::to_string).collect(),
        })
        .collect();
    NameRecord { answers, addresses }
}

/// Seconds since 1970; a clock before that counts as 1970.
fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{Answer, NameState, Settings, Wanted},
        policy::SpecialPurpose,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn name() -> Fqdn {
        Fqdn::try_from("a.example.com").unwrap()
    }

    fn empty(now: Instant) -> NameCache {
        let settings = Settings {
            min_ttl: 60 * SECOND,
            max_ttl: 24 * 3600 * SECOND,
            grace: 600 * SECOND,
            max_addresses_per_name: 8,
            max_addresses: 8,
            max_names_per_rule: 2,
            max_lookups: 2,
        };
        let mut cache = NameCache::new(settings, 1);
        let names = BTreeMap::from([(name(), SpecialPurpose::Refused)]);
        cache.set_wanted(Arc::new(Wanted::only_exact(&names)), now);
        cache
    }

    fn filled(now: Instant) -> NameCache {
        let mut cache = empty(now);
        let answer = Answer {
            records: vec![("8.8.8.8".parse().unwrap(), 100), ("8.8.4.4".parse().unwrap(), 1000)],
            chain: vec![Fqdn::try_from("b.example.net").unwrap()],
            resolver: "192.0.2.53".parse().unwrap(),
            missing: None,
        };
        cache.answer(&name(), Ok(answer), now);
        cache
    }

    fn wall(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    #[test]
    fn what_is_written_is_read_with_the_time_that_passed_taken_off() {
        let now = Instant::now();
        let state = filled(now).to_state(now, wall(0));
        let text = serde_json::to_string(&state).unwrap();
        let state: State = serde_json::from_str(&text).unwrap();

        let mut cache = empty(now);
        let restored = cache.restore(&state, now, wall(200)).unwrap();
        assert_eq!(restored.changed.added.len(), 2);
        let report = cache.report(now).names.remove(0);
        assert_eq!(report.state, NameState::Resolved);
        assert_eq!(report.answered_s_ago, Some(200));
        assert_eq!(report.chain.len(), 1);
        let left: Vec<_> = report.addresses.iter().map(|a| (a.ttl_s, a.allowed_s)).collect();
        assert_eq!(left, [(800, 1400), (0, 500)]);
        assert_eq!(cache.due(now), [name()]);

        let mut cache = empty(now);
        let restored = cache.restore(&state, now, wall(800)).unwrap();
        assert_eq!((restored.over, restored.changed.added.len()), (1, 1));
    }

    #[test]
    fn other_versions_and_the_future_are_refused() {
        let now = Instant::now();
        let state = filled(now).to_state(now, wall(1000));
        let mut cache = empty(now);
        assert_eq!(cache.restore(&state, now, wall(0)), Err(UnusableState::Future(1000)));
        assert!(cache.restore(&state, now, wall(940)).is_ok());
        let other = State { version: 1, ..state };
        assert_eq!(cache.restore(&other, now, wall(1000)), Err(UnusableState::Version(1)));
    }

    #[test]
    fn a_tampered_state_stays_within_the_bounds() {
        let now = Instant::now();
        let text = r#"{"version": 2, "saved": 1800000000, "names": {
            "a.example.com": {
                "answers": [{"resolver": "192.0.2.53", "at": 99999999999, "chain": ["-"]}],
                "addresses": {
                    "8.8.8.8":
                        {"ttl_end": 18446744073709551615, "end": 18446744073709551615, "answer": 0},
                    "8.8.4.4": {"ttl_end": 1900000000, "end": 1900000000, "answer": 1},
                    "127.0.0.1": {"ttl_end": 1900000000, "end": 1900000000, "answer": 0}}},
            "b..": {"answers": [{"resolver": "::1", "at": 0, "chain": []}],
                "addresses": {"8.8.8.8": {"ttl_end": 1900000000, "end": 1900000000, "answer": 0}}}}}"#;
        let state: State = serde_json::from_str(text).unwrap();
        let mut cache = empty(now);
        let restored = cache.restore(&state, now, wall(0)).unwrap();
        assert_eq!((restored.refused, restored.unwanted, restored.over), (1, 1, 1));
        let left = cache.provenance(&name(), "8.8.8.8".parse().unwrap(), now).unwrap().left;
        assert_eq!(left.ttl, 24 * 3600 * SECOND);
        assert_eq!(left.allowed, 24 * 3600 * SECOND + 600 * SECOND);
    }
}
