// SPDX-License-Identifier: MIT OR Apache-2.0
//! NICs of the policy that are not there: since when, and what is said of them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    kernel::netlink::HostState,
    policy::{Gateway, NicName},
};

/// The NICs that are away.
#[derive(Debug, Default)]
pub(super) struct Absences(BTreeMap<NicName, Absence>);

/// One that is away.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Absence {
    side: Side,
    since: SystemTime,
    /// What its device is called now, if that is still there.
    renamed: Option<NicName>,
}

/// Where a NIC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Inside,
    Outside,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A NIC went away, or wasn't there in the first place.
    Gone(String),
    /// It is there again.
    Back(String),
}

// === impl Absences ===

impl Absences {
    /// Compares what the policy names with what there is, and gives what has changed.
    pub(super) fn follow(
        &mut self,
        gateway: &Gateway,
        before: &HostState,
        host: &HostState,
        now: SystemTime,
    ) -> Vec<News> {
        let inside = gateway.inside.iter().map(|name| (name, Side::Inside));
        let outside = gateway.outside.iter().map(|name| (name, Side::Outside));
        let mut absent = BTreeMap::new();
        let mut news = Vec::new();
        for (name, side) in inside.chain(outside) {
            let known = self.0.remove(name);
            match (host.nics.contains_key(name), known) {
                (true, None) => {}
                (true, Some(absence)) => news.push(News::Back(format!(
                    "the {} NIC {name} is back; it was gone for {} s",
                    absence.side.name(),
                    now.duration_since(absence.since).unwrap_or_default().as_secs()
                ))),
                (false, known) => {
                    let first = known.is_none();
                    let absence = known.unwrap_or_else(|| Absence {
                        side,
                        since: now,
                        renamed: renamed(name, before, host),
                    });
                    if first {
                        news.push(News::Gone(absence.describe(name)));
                    }
                    absent.insert(name.clone(), absence);
                }
            }
        }
        // Those that the policy no longer names are of no interest any more.
        self.0 = absent;
        news
    }

    /// What is wrong, a line for each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, absence)| absence.describe(name))
    }

    /// How long a NIC has been away.
    pub(super) fn gone_for(&self, name: &NicName, now: SystemTime) -> Option<Duration> {
        // A clock that was set back is no reason to say nothing.
        self.0.get(name).map(|absence| now.duration_since(absence.since).unwrap_or_default())
    }
}

impl Absence {
    fn describe(&self, name: &NicName) -> String {
        let renamed = match &self.renamed {
            Some(renamed) => format!(" (its device was renamed to {renamed})"),
            None => String::new(),
        };
        let what_then = match self.side {
            Side::Inside => {
                "what clients send there can't pass, and it is filtered as soon as it is back"
            }
            Side::Outside => "if it has another name now, write that into [gateway] outside",
        };
        format!(
            "the {} NIC {name} is gone since {}{renamed}; {what_then}",
            self.side.name(),
            utc(self.since)
        )
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
        }
    }
}

fn renamed(name: &NicName, before: &HostState, host: &HostState) -> Option<NicName> {
    let index = before.nics.get(name)?.index;
    host.nics.iter().find(|(_, nic)| nic.index == index).map(|(name, _)| name.clone())
}

/// A time as `2026-11-22 19:50:03 UTC`.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years from March to February have their odd day last. Eras are of 400 years, the first of
    // them begins on 0000-03-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load::parse;

    fn gateway() -> Gateway {
        let text = "[gateway]\ninside = [\"lan0\"]\noutside = [\"wan0\"]\n";
        parse(&[("gateway.toml".into(), text.to_owned())]).unwrap().policy.gateway
    }

    fn host(nics: &[(&str, u32)]) -> HostState {
        let mut host = HostState::default();
        for (name, index) in nics {
            host.nics
                .insert(NicName::try_from(*name).unwrap(), crate::daemon::nics::tests::nic(*index));
        }
        host
    }

    #[test]
    fn times_of_day() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_795_377_003, "2026-11-22 19:50:03 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn what_goes_and_comes_is_told_once() {
        let time = |seconds: u64| UNIX_EPOCH + Duration::from_secs(1_795_377_003 + seconds);
        let gateway = gateway();
        let all = host(&[("lan0", 3), ("wan0", 4)]);
        let renamed = host(&[("old0", 3)]);
        let mut absences = Absences::default();
        assert_eq!(absences.follow(&gateway, &all, &all, time(0)), []);

        let gone = [
            "the inside NIC lan0 is gone since 2026-11-22 19:50:03 UTC (its device was renamed to \
             old0); what clients send there can't pass, and it is filtered as soon as it is back",
            "the outside NIC wan0 is gone since 2026-11-22 19:50:03 UTC; if it has another name \
             now, write that into [gateway] outside",
        ];
        let told = absences.follow(&gateway, &all, &renamed, time(0));
        assert_eq!(told, gone.map(|text| News::Gone(text.to_owned())));
        assert_eq!(absences.follow(&gateway, &renamed, &renamed, time(5)), []);
        assert_eq!(absences.problems().collect::<Vec<_>>(), gone);
        let name = NicName::try_from("lan0").unwrap();
        assert_eq!(absences.gone_for(&name, time(7)), Some(Duration::from_secs(7)));

        let told = absences.follow(&gateway, &renamed, &all, time(9));
        let back = ["inside NIC lan0", "outside NIC wan0"];
        let back = back.map(|nic| News::Back(format!("the {nic} is back; it was gone for 9 s")));
        assert_eq!(told, back);
        assert_eq!(absences.problems().count(), 0);
    }
}
