// SPDX-License-Identifier: MIT OR Apache-2.0
//! What survives a restart.
//!
//! Times are written as seconds of the wall clock and read back as what is left of them, so a
//! clock that was set in between can only shorten them: nothing restored outlives the bounds of
//! the settings in force.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    answer::Changed,
    cache::{Answered, Held, NameCache, after},
};
use crate::policy::Fqdn;

/// The version of [`State`] that is written, and the only one that is read.
pub const STATE_VERSION: u32 = 1;

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

/// One name of a [`State`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NameRecord {
    resolver: IpAddr,
    /// When the last answer came, in seconds since 1970.
    answered: u64,
    chain: Vec<String>,
    addresses: BTreeMap<IpAddr, Times>,
}

/// The times of an address, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Times {
    ttl_end: u64,
    end: u64,
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

// === impl NameCache ===

impl NameCache {
    /// Everything that is held now, for a file.
    #[must_use]
    pub fn to_state(&self, now: Instant, wall: SystemTime) -> State {
        let saved = seconds(wall);
        let ahead =
            |time: Instant| saved.saturating_add(time.saturating_duration_since(now).as_secs());
        let names = self
            .names
            .iter()
            .filter(|(_, entry)| !entry.held.is_empty())
            .filter_map(|(name, entry)| {
                let last = entry.last.as_ref()?;
                let age = now.saturating_duration_since(last.at).as_secs();
                let record = NameRecord {
                    resolver: last.resolver,
                    answered: saved.saturating_sub(age),
                    chain: last.chain.iter().map(ToString::to_string).collect(),
                    addresses: entry
                        .held
                        .iter()
                        .filter(|(_, held)| held.end > now)
                        .map(|(address, held)| {
                            let times =
                                Times { ttl_end: ahead(held.ttl_end), end: ahead(held.end) };
                            (*address, times)
                        })
                        .collect(),
                };
                Some((name.as_str().to_owned(), record))
            })
            .collect();
        State { version: STATE_VERSION, saved, names }
    }

    /// Takes back what was saved, as far as its time is not over and the names are wanted: so
    /// [`NameCache::set_names`] and [`NameCache::set_own`] come first. Every name stays due.
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
            let name = Fqdn::try_from(text.as_str()).ok();
            let Some(name) = name.filter(|name| self.names.contains_key(name)) else {
                restored.unwanted += record.addresses.len();
                continue;
            };
            self.restore_name(&name, record, now, clock, &mut restored);
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
        for (address, times) in &record.addresses {
            let left = |time: u64| Duration::from_secs(time.saturating_sub(clock));
            let ttl = left(times.ttl_end).min(max_ttl);
            let allowed = left(times.end).min(ttl.saturating_add(grace));
            if allowed.is_zero() {
                restored.over += 1;
                continue;
            }
            let known = self.names.get(name).is_some_and(|entry| entry.held.contains_key(address));
            let held = Held { ttl_end: after(now, ttl), end: after(now, allowed) };
            match self.hold(name, *address, held) {
                Ok(()) if known => {}
                Ok(()) => {
                    restored.changed.added.insert((name.clone(), *address));
                }
                Err(_refusal) => restored.refused += 1,
            }
        }
        let age = Duration::from_secs(clock.saturating_sub(record.answered));
        let Some(entry) = self.names.get_mut(name) else { return };
        // An answer that came since is newer than what was saved.
        if entry.last.is_none() && !entry.held.is_empty() {
            entry.last = Some(Answered {
                resolver: record.resolver,
                chain: record
                    .chain
                    .iter()
                    .filter_map(|text| Fqdn::try_from(text.as_str()).ok())
                    .collect(),
                at: now.checked_sub(age).unwrap_or(now),
            });
        }
    }
}

/// Seconds since 1970; a clock before that counts as 1970.
fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::{Answer, NameState, Settings},
        policy::SpecialPurpose,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn name() -> Fqdn {
        Fqdn::try_from("a.example.com").unwrap()
    }

    fn empty(now: Instant) -> NameCache {
        let settings = Settings {
            min_ttl: 60 * SECOND,
            max_ttl: Settings::MAX_TTL,
            grace: 600 * SECOND,
            max_addresses_per_name: 8,
            max_addresses: 8,
            max_lookups: 2,
        };
        let mut cache = NameCache::new(settings, 1);
        cache.set_names(&BTreeMap::from([(name(), SpecialPurpose::Refused)]), now);
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
        let other = State { version: 2, ..state };
        assert_eq!(cache.restore(&other, now, wall(1000)), Err(UnusableState::Version(2)));
    }

    #[test]
    fn a_tampered_state_stays_within_the_bounds() {
        let now = Instant::now();
        let text = r#"{"version": 1, "saved": 1800000000, "names": {
            "a.example.com": {"resolver": "192.0.2.53", "answered": 99999999999, "chain": ["-"],
                "addresses": {
                    "8.8.8.8": {"ttl_end": 18446744073709551615, "end": 18446744073709551615},
                    "127.0.0.1": {"ttl_end": 1900000000, "end": 1900000000}}},
            "b..": {"resolver": "::1", "answered": 0, "chain": [],
                "addresses": {"8.8.8.8": {"ttl_end": 1900000000, "end": 1900000000}}}}}"#;
        let state: State = serde_json::from_str(text).unwrap();
        let mut cache = empty(now);
        let restored = cache.restore(&state, now, wall(0)).unwrap();
        assert_eq!((restored.refused, restored.unwanted), (1, 1));
        let left = cache.expires_in(&name(), "8.8.8.8".parse().unwrap(), now).unwrap();
        assert_eq!(left.ttl, Settings::MAX_TTL);
        assert_eq!(left.allowed, Settings::MAX_TTL + 600 * SECOND);
    }
}
