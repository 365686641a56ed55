// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is allowed beside the policy: `sluice allow` and `sluice revoke`. Each is a rule that is added to
//! whatever policy is in force, written down before it holds, and ends by itself.
//!
//! The end is a moment of the clock that counts from boot, so that setting the wall clock neither
//! lengthens nor shortens anything. Only where the machine was booted in between does the wall clock
//! count, and then no more than the whole time that was asked for is left.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::state::{Saved, StateDirectory};
use crate::{
    control::protocol::{AllowRequest, AllowStatus},
    policy::{
        Echo, Policy, Rule, SpecialPurpose,
        live::{Breadth, Words, is_live, rule},
    },
};

const FILE: &str = "allows.json";

/// The longest time that can be asked for: ten years.
const LONGEST: u64 = 10 * 366 * 86_400;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LiveAllows {
    /// The number of the next one; none is used again.
    next: u64,
    allows: BTreeMap<u64, Allow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Allow {
    request: AllowRequest,
    by: String,
    /// Seconds since the epoch.
    since: u64,
    end: Option<End>,
}

/// When one ends, on both clocks, in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    boot: String,
    since_boot: u64,
    since_epoch: u64,
}

/// A moment, on both clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Now {
    boot: String,
    since_boot: u64,
    since_epoch: u64,
}

// === impl Now ===

impl Now {
    /// This one.
    ///
    /// # Errors
    ///
    /// The kernel doesn't tell.
    pub(super) fn read() -> Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("the kernel doesn't tell which boot this is")?;
        let since_boot = Duration::from(
            clock_gettime(ClockId::CLOCK_BOOTTIME).context("the clock can't be read")?,
        );
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            boot: boot.trim().to_owned(),
            since_boot: since_boot.as_secs(),
            since_epoch: wall.as_secs(),
        })
    }

    /// Seconds since the epoch.
    pub(super) fn since_epoch(&self) -> u64 {
        self.since_epoch
    }
}

// === impl LiveAllows ===

impl LiveAllows {
    /// What was written down, and why that can't be used, if so: then nothing is allowed.
    pub(super) fn load(state: &StateDirectory) -> (Self, Option<String>) {
        match state.load(FILE) {
            Saved::Found(found) => (found, None),
            Saved::Missing => (Self::default(), None),
            Saved::Unusable(why) => (
                // Numbers that were given before may stand in somebody's notes.
                Self { next: 1_000_000, ..Self::default() },
                Some(format!("{why}; nothing is allowed beside the policy any more")),
            ),
        }
    }

    /// Writes them down.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub(super) fn save(&self, state: &StateDirectory) -> Result<()> {
        state.save(FILE, self)
    }

    /// These and one more, with its number.
    ///
    /// # Errors
    ///
    /// What is wrong with the wish.
    pub(super) fn with(
        &self,
        request: AllowRequest,
        by: String,
        now: &Now,
        policy: &Policy,
    ) -> Result<(Self, u64), String> {
        if let Some(seconds) = request.for_s
            && !(1..=LONGEST).contains(&seconds)
        {
            return Err("the time is from one second to ten years; leave --for out to allow it \
                        until it is revoked"
                .to_owned());
        }
        let id = self.next.max(1);
        rule(id, &words(&request), policy)?;
        let end = request.for_s.map(|seconds| End {
            boot: now.boot.clone(),
            since_boot: now.since_boot + seconds,
            since_epoch: now.since_epoch + seconds,
        });
        let mut more = self.clone();
        more.next = id + 1;
        more.allows.insert(id, Allow { request, by, since: now.since_epoch, end });
        Ok((more, id))
    }

    /// These without one.
    pub(super) fn without(&self, id: u64) -> Option<Self> {
        let mut fewer = self.clone();
        fewer.allows.remove(&id)?;
        Some(fewer)
    }

    /// Those that haven't ended; `None` if that is all of them.
    pub(super) fn unended(&self, now: &Now) -> Option<Self> {
        let mut rest = self.clone();
        rest.allows.retain(|_, allow| allow.left(now) != Some(0));
        (rest.allows.len() < self.allows.len()).then_some(rest)
    }

    /// Whether any of them ends by itself.
    pub(super) fn has_end(&self) -> bool {
        self.allows.values().any(|allow| allow.end.is_some())
    }

    /// How long until the next one ends.
    pub(super) fn next_end(&self, now: &Now) -> Option<Duration> {
        let left = self.allows.values().filter_map(|allow| allow.left(now));
        left.min().map(Duration::from_secs)
    }

    /// All of them, in order.
    pub(super) fn list(&self, now: &Now) -> Vec<AllowStatus> {
        self.allows.iter().map(|(id, allow)| allow.status(*id, now)).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.allows.len()
    }

    /// One of them.
    pub(super) fn get(&self, id: u64, now: &Now) -> Option<AllowStatus> {
        Some(self.allows.get(&id)?.status(id, now))
    }

    /// Takes the rules of those that were there out of a policy, and puts these in. What the policy
    /// has no room for, as its groups are others, is told.
    pub(super) fn put_into(&self, policy: &mut Policy) -> Vec<String> {
        policy.rules.retain(|rule| !is_live(rule));
        let mut complaints = Vec::new();
        for (id, allow) in &self.allows {
            match self.rule(*id, policy) {
                Ok(rule) => policy.rules.push(rule),
                Err(why) => complaints
                    .push(format!("what {} allowed as {id} is not allowed now: {why}", allow.by)),
            }
        }
        complaints
    }

    fn rule(&self, id: u64, policy: &Policy) -> Result<Rule, String> {
        let allow = self.allows.get(&id).ok_or("it is not there")?;
        rule(id, &words(&allow.request), policy)
    }
}

// === impl Allow ===

impl Allow {
    /// How many seconds are left; `None`: it doesn't end.
    fn left(&self, now: &Now) -> Option<u64> {
        let end = self.end.as_ref()?;
        if end.boot == now.boot {
            return Some(end.since_boot.saturating_sub(now.since_boot));
        }
        let whole = self.request.for_s.unwrap_or_default();
        Some(end.since_epoch.saturating_sub(now.since_epoch).min(whole))
    }

    fn status(&self, id: u64, now: &Now) -> AllowStatus {
        AllowStatus {
            id,
            rule: format!("allow-{id}"),
            request: self.request.clone(),
            by: self.by.clone(),
            since: self.since,
            left_s: self.left(now),
        }
    }
}

fn words(request: &AllowRequest) -> Words<'_> {
    Words {
        to: &request.to,
        from: &request.from,
        tcp: &request.tcp,
        udp: &request.udp,
        icmp: if request.icmp { Echo::Allowed } else { Echo::Denied },
        proto: &request.proto,
        note: request.note.as_deref(),
        private: if request.private { SpecialPurpose::Allowed } else { SpecialPurpose::Refused },
        breadth: if request.broad { Breadth::Any } else { Breadth::Narrow },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::load::{GATEWAY_FILE, parse};

    fn policy() -> Policy {
        let text = "[gateway]\ninside = [\"eth1\"]\noutside = []\n";
        parse(&[(Arc::from(GATEWAY_FILE), text.to_owned())]).unwrap().policy
    }

    fn now(since_boot: u64, since_epoch: u64) -> Now {
        Now { boot: "a".to_owned(), since_boot, since_epoch }
    }

    fn request(for_s: Option<u64>) -> AllowRequest {
        AllowRequest {
            to: "8.8.8.8".to_owned(),
            tcp: vec!["443".to_owned()],
            for_s,
            ..AllowRequest::default()
        }
    }

    fn with(allows: &LiveAllows, for_s: Option<u64>, now: &Now) -> (LiveAllows, u64) {
        allows.with(request(for_s), "alice".to_owned(), now, &policy()).unwrap()
    }

    #[test]
    fn they_end_by_themselves_whatever_the_wall_clock_says() {
        let (allows, first) = with(&LiveAllows::default(), Some(3600), &now(100, 5000));
        let (allows, second) = with(&allows, None, &now(100, 5000));
        assert_eq!((first, second), (1, 2));
        let left = |now: &Now| allows.get(first, now).unwrap().left_s.unwrap();
        // The wall clock jumps by a day, forth and back.
        assert_eq!(left(&now(200, 5000 + 86_400)), 3500);
        assert_eq!(left(&now(200, 0)), 3500);
        assert_eq!(allows.unended(&now(3699, 0)), None);
        let rest = allows.unended(&now(3700, 0)).unwrap();
        assert_eq!(rest.list(&now(3700, 0)).len(), 1);
        assert_eq!(rest.next_end(&now(3700, 0)), None);
        // After a boot there is nothing else than the wall clock.
        let booted = |since_epoch| Now { boot: "b".to_owned(), since_boot: 5, since_epoch };
        assert_eq!(left(&booted(5600)), 3000);
        assert_eq!(left(&booted(0)), 3600, "never more than was asked for");
        assert_eq!(left(&booted(9000)), 0);
    }

    #[test]
    fn numbers_are_not_used_again_and_rules_follow_the_policy() {
        let (allows, id) = with(&LiveAllows::default(), None, &now(0, 0));
        let allows = allows.without(id).unwrap();
        assert!(allows.without(id).is_none());
        let (allows, id) = with(&allows, None, &now(0, 0));
        assert_eq!(id, 2);
        let mut policy = policy();
        assert!(allows.put_into(&mut policy).is_empty());
        assert!(allows.put_into(&mut policy).is_empty());
        assert_eq!(policy.rules.len(), 1);
        let mut request = request(None);
        request.for_s = Some(0);
        assert!(allows.with(request, String::new(), &now(0, 0), &policy).is_err());
    }

    #[test]
    fn a_broken_file_allows_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::create(directory.path()).unwrap();
        let (allows, _) = with(&LiveAllows::default(), Some(60), &now(0, 0));
        allows.save(&state).unwrap();
        assert_eq!(LiveAllows::load(&state), (allows, None));
        let path = directory.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            for bad in [whole[..place].to_vec(), {
                let mut changed = whole.clone();
                changed[place] ^= 2;
                changed
            }] {
                fs::write(&path, bad).unwrap();
                let (allows, complaint) = LiveAllows::load(&state);
                assert!(complaint.is_some(), "at {place}");
                assert!(allows.list(&now(0, 0)).is_empty());
            }
        }
    }
}
