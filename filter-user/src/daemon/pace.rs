// SPDX-License-Identifier: MIT OR Apache-2.0
//! When NICs, addresses and routes are read again: soon after a change, and not all the time.

use std::time::{Duration, Instant};

/// Changes seldom come alone: so long after the first they are read together.
const GATHER: Duration = Duration::from_millis(50);
/// The least time from one reading to the next while changes go on.
const LEAST_GAP: Duration = Duration::from_millis(500);
/// So many readings in a row may follow each other without that gap: few changes are in force at
/// once, and only many have to wait.
const BURST: u32 = 3;
/// What reading may take of the time while changes go on, as a divisor: of a full routing table it
/// takes long, and such tables change all the time.
const SHARE: u32 = 10;
/// How long nothing has to have changed for everything to be read in spite of that.
const SAFETY: Duration = Duration::from_secs(60);
/// How long after a reading that failed the next one is tried.
const RETRY: Duration = Duration::from_secs(2);

/// The times of readings, one after the other. Time is an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// The end of the last reading.
    last: Instant,
    /// When the next one would begin if all of them kept their gaps.
    regular: Instant,
    /// When the next one is due, if there is a reason for it.
    due: Option<Instant>,
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Done,
    Failed,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, regular: now, due: None }
    }

    /// Something changed. A reading that is due already will see it.
    pub(super) fn changed(&mut self, now: Instant) {
        if self.due.is_none() {
            let earliest = self.regular.checked_sub(LEAST_GAP * BURST).unwrap_or(now);
            self.due = Some((now + GATHER).max(earliest));
        }
    }

    /// When everything is to be read.
    pub(super) fn next(&self) -> Instant {
        self.due.unwrap_or(self.last + SAFETY)
    }

    /// Everything was read, or wasn't.
    pub(super) fn read(&mut self, began: Instant, ended: Instant, reading: Reading) {
        let took = ended.saturating_duration_since(began);
        self.last = ended;
        self.regular = self.regular.max(began) + LEAST_GAP.max(took * SHARE);
        self.due = match reading {
            Reading::Done => None,
            Reading::Failed => Some(ended + RETRY),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_single_change_is_read_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.next(), start + SAFETY);
        pace.changed(start + ms(1000));
        pace.changed(start + ms(1040));
        assert_eq!(pace.next(), start + ms(1050), "the first one counts");
        pace.read(start + ms(1050), start + ms(1060), Reading::Done);
        assert_eq!(pace.next(), start + ms(1060) + SAFETY);
        // Three more soon after, and the next one has to wait.
        for (at, due) in [(1100, 1150), (1160, 1210), (1220, 1270), (1280, 1550)] {
            pace.changed(start + ms(at));
            assert_eq!(pace.next(), start + ms(due), "{at}");
            pace.read(start + ms(due), start + ms(due + 1), Reading::Done);
        }
    }

    #[test]
    fn a_storm_is_read_at_most_twice_a_second_and_in_a_tenth_of_the_time() {
        for (took, most) in [(ms(1), 20), (ms(100), 10), (ms(1000), 1)] {
            let burst = usize::try_from(BURST).unwrap();
            let start = Instant::now();
            let mut pace = Pace::new(start);
            let mut now = start;
            let mut readings = 0;
            while now < start + Duration::from_secs(10) {
                pace.changed(now);
                if now >= pace.next() {
                    pace.read(now, now + took, Reading::Done);
                    readings += 1;
                    now += took;
                }
                now += ms(1);
            }
            assert!((most..=most + burst + 1).contains(&readings), "{took:?}: {readings}");
        }
    }

    #[test]
    fn what_failed_is_tried_again() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.read(start, start, Reading::Failed);
        assert_eq!(pace.next(), start + RETRY);
    }
}
