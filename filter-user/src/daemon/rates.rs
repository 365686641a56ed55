// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets a second on each NIC, over the last few seconds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Daemon,
    replies::{Counted, Kind},
};

/// Over which time packets are counted.
const SPAN: Duration = Duration::from_secs(10);

/// Rates, and the counts that the next ones begin with.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: Option<(Instant, BTreeMap<u8, Packets>)>,
    rates: BTreeMap<u8, Packets>,
}

/// Packets of a NIC: all of them, or those of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Packets {
    pub(super) passed: u64,
    pub(super) dropped: u64,
}

impl Rates {
    /// The packets of a second on a NIC; `None` before it was counted twice.
    pub(super) fn of(&self, nic: u8) -> Option<Packets> {
        self.rates.get(&nic).copied()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.last.as_ref().is_none_or(|(last, _)| now.duration_since(*last) >= SPAN)
    }

    fn note(&mut self, now: Instant, counts: BTreeMap<u8, Packets>) {
        if let Some((last, before)) = &self.last {
            let seconds = now.duration_since(*last).as_secs().max(1);
            // A counter that is less than before began anew.
            let rate = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now) / seconds;
            let rates = counts.iter().filter_map(|(nic, now)| {
                let before = before.get(nic)?;
                let passed = rate(now.passed, before.passed);
                Some((*nic, Packets { passed, dropped: rate(now.dropped, before.dropped) }))
            });
            self.rates = rates.collect();
        }
        self.last = Some((now, counts));
    }
}

impl Daemon {
    /// Counts packets, if it is time.
    pub(super) fn note_rates(&mut self) {
        let now = Instant::now();
        if !self.rates.is_due(now) {
            return;
        }
        match self.count_packets() {
            Ok(counts) => self.rates.note(now, counts),
            Err(error) => tracing::warn!("packets can't be counted: {error:#}"),
        }
    }

    fn count_packets(&self) -> Result<BTreeMap<u8, Packets>> {
        let mut counts: BTreeMap<u8, Packets> = BTreeMap::new();
        for nic in &self.nics {
            let packets = counts.entry(nic.index).or_default();
            for Counted { kind, count, .. } in self.counted(nic.index)? {
                match kind {
                    Kind::Passed | Kind::Audited => packets.passed += count.packets,
                    Kind::Dropped => packets.dropped += count.packets,
                    // They are among the dropped.
                    Kind::Rejected => {}
                }
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let begin = Instant::now();
        let mut rates = Rates::default();
        let counts = |passed, dropped| [(0, Packets { passed, dropped })].into();
        assert!(rates.is_due(begin));
        rates.note(begin, counts(1000, 50));
        assert_eq!(rates.of(0), None);
        assert!(!rates.is_due(begin + Duration::from_secs(9)));
        let later = begin + Duration::from_secs(10);
        assert!(rates.is_due(later));
        rates.note(later, counts(3000, 50));
        assert_eq!(rates.of(0), Some(Packets { passed: 200, dropped: 0 }));
        // The NIC was made anew.
        rates.note(later + SPAN, counts(100, 20));
        assert_eq!(rates.of(0), Some(Packets { passed: 10, dropped: 2 }));
        assert_eq!(rates.of(1), None);
    }
}
