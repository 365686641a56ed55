// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of the policy is used at all: when each rule last let a packet pass, and when a client last asked
//! for each name and by each wildcard. It is looked at once in a while, and written down, so that a rule
//! that nobody needed for months can be told from one that is new.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    Daemon,
    state::{Saved, StateDirectory},
};
use crate::{
    control::protocol::{NameUsage, RuleUsage, Usage},
    policy::{Destination, Fqdn, NamePattern, Policy, index::NameIndex},
};

const FILE: &str = "usage.json";

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// How often it is written down.
const WRITE: Duration = Duration::from_secs(600);

/// All that is known.
#[derive(Debug)]
pub(super) struct UsageBook {
    written: Written,
    /// The patterns of the policy, to be found by name.
    patterns: NameIndex<String>,
    next_look: Instant,
    next_write: Instant,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    rules: BTreeMap<String, Seen>,
    names: BTreeMap<String, Seen>,
}

/// Times in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Since when it is watched.
    since: u64,
    last: Option<u64>,
    /// The counter as it was last looked at: packets of a rule, hits of a name.
    count: u64,
}

impl UsageBook {
    /// What was written down; where that can't be used, watching begins anew.
    pub(super) fn load(state: &StateDirectory) -> Self {
        let written = match state.load::<Written>(FILE) {
            Saved::Found(written) => written,
            Saved::Missing => Written::default(),
            Saved::Unusable(why) => {
                tracing::warn!("{why}; when rules and names were last used is noted anew");
                Written::default()
            }
        };
        let now = Instant::now();
        Self { written, patterns: NameIndex::default(), next_look: now, next_write: now + WRITE }
    }

    /// Watches what a policy has, and forgets the rest.
    pub(super) fn follow(&mut self, policy: &Policy) {
        let now = seconds();
        let unseen = Seen { since: now, last: None, count: 0 };
        let rules: BTreeSet<&str> = policy.enabled_rules().map(|rule| rule.name.as_str()).collect();
        let mut patterns = NameIndex::default();
        let mut names = BTreeSet::new();
        for (destination, _) in policy.enabled_rules().flat_map(|rule| &rule.to) {
            if let Destination::Name(pattern) = destination
                && names.insert(pattern.to_string())
            {
                patterns.insert(pattern, pattern.to_string());
            }
        }
        self.patterns = patterns;
        self.written.rules.retain(|name, _| rules.contains(name.as_str()));
        self.written.names.retain(|name, _| names.contains(name));
        for name in rules {
            self.written.rules.entry(name.to_owned()).or_insert(unseen);
        }
        for name in names {
            self.written.names.entry(name).or_insert(unseen);
        }
    }

    fn rule_counted(&mut self, name: &str, packets: u64, now: u64) {
        if let Some(seen) = self.written.rules.get_mut(name) {
            seen.counted(packets, now);
        }
    }

    /// A name whose addresses clients got so often. A wildcard counts as seen with any name of its.
    fn name_counted(&mut self, name: &Fqdn, hits: u64, now: u64) {
        if hits == 0 {
            return;
        }
        for pattern in self.patterns.matching(name) {
            let Some(seen) = self.written.names.get_mut(pattern) else { continue };
            if pattern == name.as_str() {
                seen.counted(hits, now);
            } else {
                seen.last = Some(now);
            }
        }
    }

    fn report(&self, policy: &Policy) -> Usage {
        let now = seconds();
        let mut by_pattern: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for rule in policy.enabled_rules() {
            for (destination, _) in &rule.to {
                if let Destination::Name(pattern) = destination {
                    by_pattern.entry(pattern.to_string()).or_default().push(rule.name.to_string());
                }
            }
        }
        let rules = policy.enabled_rules().filter_map(|rule| {
            let seen = self.written.rules.get(rule.name.as_str())?;
            Some(RuleUsage {
                rule: rule.name.to_string(),
                origin: rule.origin.to_string(),
                watched_s: now.saturating_sub(seen.since),
                used_s_ago: seen.last.map(|last| now.saturating_sub(last)),
            })
        });
        let names = by_pattern.into_iter().filter_map(|(name, rules)| {
            let seen = self.written.names.get(&name)?;
            Some(NameUsage {
                wildcard: matches!(
                    NamePattern::try_from(name.as_str()),
                    Ok(NamePattern::Wildcard(_))
                ),
                name,
                rules,
                watched_s: now.saturating_sub(seen.since),
                seen_s_ago: seen.last.map(|last| now.saturating_sub(last)),
            })
        });
        Usage { rules: rules.collect(), names: names.collect() }
    }
}

impl Seen {
    /// A counter that went down began anew.
    fn counted(&mut self, count: u64, now: u64) {
        if count != self.count && count != 0 {
            self.last = Some(now);
        }
        self.count = count;
    }
}

impl Daemon {
    /// Looks at the counters, if it is time.
    pub(super) fn note_usage(&mut self) {
        let now = Instant::now();
        if now < self.usage.next_look {
            return;
        }
        self.usage.next_look = now + LOOK;
        if let Err(error) = self.look_at_usage() {
            tracing::warn!("when rules were last used is not known: {error:#}");
        }
        if now >= self.usage.next_write {
            self.usage.next_write = now + WRITE;
            self.save_usage();
        }
    }

    fn look_at_usage(&mut self) -> anyhow::Result<()> {
        let rules = self.rules()?;
        let at = seconds();
        for rule in rules {
            self.usage.rule_counted(&rule.name, rule.count.packets, at);
        }
        for (name, hits) in self.names.hits() {
            self.usage.name_counted(name, hits, at);
        }
        Ok(())
    }

    /// When what was last used.
    pub(super) fn usage(&mut self) -> anyhow::Result<Usage> {
        self.look_at_usage()?;
        Ok(self.usage.report(&self.policy))
    }

    pub(super) fn save_usage(&self) {
        if let Err(error) = self.state.save(FILE, &self.usage.written) {
            tracing::warn!("{error:#}; when rules were last used may be forgotten");
        }
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::load::{GATEWAY_FILE, parse};

    fn policy(rules: &str) -> Policy {
        let text = format!("[gateway]\ninside = [\"eth1\"]\noutside = []\n{rules}");
        parse(&[(Arc::from(GATEWAY_FILE), text)]).unwrap().policy
    }

    #[test]
    fn what_is_used_is_told_from_what_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::create(directory.path()).unwrap();
        let mut book = UsageBook::load(&state);
        let rules = "[[rule]]\nname = \"a\"\nto = [\"*.example.com\", \"www.example.com\"]\ntcp = [443]\n\
                     [[rule]]\nname = \"b\"\nto = [\"b.example.net\"]\ntcp = [443]\n";
        let first = policy(rules);
        book.follow(&first);
        let now = seconds();
        book.rule_counted("a", 3, now);
        book.rule_counted("b", 0, now);
        book.name_counted(&Fqdn::try_from("x.example.com").unwrap(), 1, now);
        book.name_counted(&Fqdn::try_from("b.example.net").unwrap(), 0, now);
        state.save(FILE, &book.written).unwrap();

        let mut book = UsageBook::load(&state);
        book.follow(&first);
        let usage = book.report(&first);
        let used: Vec<_> = usage
            .rules
            .iter()
            .map(|rule| (rule.rule.as_str(), rule.used_s_ago.is_some()))
            .collect();
        assert_eq!(used, [("a", true), ("b", false)]);
        let seen: Vec<_> = usage
            .names
            .iter()
            .map(|name| (name.name.as_str(), name.seen_s_ago.is_some()))
            .collect();
        assert_eq!(
            seen,
            [("*.example.com", true), ("b.example.net", false), ("www.example.com", false)]
        );
        // A counter that stands still is no use, and one that began anew is.
        book.rule_counted("a", 3, now + 100);
        assert_eq!(book.written.rules["a"].last, Some(now));
        book.rule_counted("a", 1, now + 200);
        assert_eq!(book.written.rules["a"].last, Some(now + 200));
        book.follow(&policy("[[rule]]\nname = \"a\"\nto = [\"8.8.8.8\"]\ntcp = [443]\n"));
        assert_eq!((book.written.rules.len(), book.written.names.len()), (1, 0));
    }
}
