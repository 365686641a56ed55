// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers that are still good.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Record, RecordType},
};

use super::question::ExtendedError;
use crate::{names::Answer, policy::Fqdn};

/// The bound on answers that are kept. What ends soonest makes room.
const MOST_ANSWERS: usize = 20_000;

/// What is longer, in bytes, is asked for anew each time.
const LONG_ANSWER: usize = 4096;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) name: Fqdn,
    pub(super) kind: u16,
    pub(super) standing: Standing,
}

/// Whether what is answered has to be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Standing {
    /// A rule covers the name.
    Covered,
    /// None does, and it is answered all the same.
    Outside,
}

/// An answer as clients get it.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) error: Option<ExtendedError>,
    /// When the upstream gave it.
    pub(super) made: Instant,
    /// When the first of its TTLs ends.
    pub(super) ends: Instant,
    /// How often all answers had been forgotten when it was asked for.
    pub(super) since: u64,
    /// What of it was learned.
    pub(super) learned: Option<Learned>,
}

/// What was learned of an answer.
#[derive(Debug)]
pub(super) struct Learned {
    /// The addresses that clients get, with their TTLs at first.
    pub(super) answer: Answer,
    /// Until when all of them are in force.
    pub(super) until: Instant,
    /// The age of the tables in which they are.
    pub(super) epoch: u64,
    /// Clients that got them and have not been told of.
    pub(super) hits: Cell<u64>,
    /// When hits were told of last.
    pub(super) told: Cell<Instant>,
}

/// Answers by what was asked.
#[derive(Debug, Default)]
pub(super) struct AnswerCache {
    answers: HashMap<Key, Rc<Finished>>,
    ends: BTreeSet<(Instant, Key)>,
}

// === impl Key ===

impl Key {
    pub(super) fn new(name: Fqdn, kind: RecordType, standing: Standing) -> Self {
        Self { name, kind: kind.into(), standing }
    }
}

// === impl Finished ===

impl Finished {
    /// Nothing but a code.
    pub(super) fn failed(code: ResponseCode, error: ExtendedError) -> Self {
        let now = Instant::now();
        Self {
            code,
            answers: Vec::new(),
            authorities: Vec::new(),
            error: Some(error),
            made: now,
            ends: now,
            since: 0,
            learned: None,
        }
    }

    /// The records with what is left of their TTLs.
    pub(super) fn aged(&self, now: Instant) -> (Vec<Record>, Vec<Record>) {
        let age = self.age(now);
        let aged = |records: &[Record]| {
            let mut records = records.to_vec();
            for record in &mut records {
                record.ttl = record.ttl.saturating_sub(age);
            }
            records
        };
        (aged(&self.answers), aged(&self.authorities))
    }

    /// The addresses with what is left of their TTLs.
    pub(super) fn addresses(&self, now: Instant) -> Option<Answer> {
        let age = self.age(now);
        let mut answer = self.learned.as_ref()?.answer.clone();
        for (_, ttl) in &mut answer.records {
            *ttl = ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Whether it would take too much memory: usual answers have some hundred bytes.
    fn is_long(&self) -> bool {
        let mut message = Message::response(0, OpCode::Query);
        message.answers.clone_from(&self.answers);
        message.to_vec().map_or(true, |bytes| bytes.len() > LONG_ANSWER)
    }

    fn age(&self, now: Instant) -> u32 {
        let age: Duration = now.saturating_duration_since(self.made);
        u32::try_from(age.as_secs()).unwrap_or(u32::MAX)
    }
}

// === impl AnswerCache ===

impl AnswerCache {
    /// An answer whose TTL is not over, and which was asked for since all were `forgotten` that
    /// often.
    pub(super) fn get(&self, key: &Key, forgotten: u64, now: Instant) -> Option<&Rc<Finished>> {
        let good = |finished: &&Rc<Finished>| finished.ends > now && finished.since == forgotten;
        self.answers.get(key).filter(good)
    }

    /// Keeps an answer, if it holds beyond this moment.
    pub(super) fn put(&mut self, key: Key, finished: Rc<Finished>, now: Instant) {
        while let Some((end, oldest)) = self.ends.first()
            && (*end <= now || self.answers.len() >= MOST_ANSWERS)
        {
            self.answers.remove(oldest);
            self.ends.pop_first();
        }
        if finished.ends <= now || finished.is_long() {
            return;
        }
        let ends = finished.ends;
        if let Some(old) = self.answers.insert(key.clone(), finished) {
            self.ends.remove(&(old.ends, key.clone()));
        }
        self.ends.insert((ends, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key::new(
            Fqdn::try_from(&*format!("n{number}.example.com")).unwrap(),
            RecordType::A,
            Standing::Covered,
        )
    }

    fn finished(now: Instant, ttl: u64) -> Rc<Finished> {
        Rc::new(Finished {
            ends: now + Duration::from_secs(ttl),
            made: now,
            ..Finished::failed(ResponseCode::NoError, ExtendedError::Other)
        })
    }

    #[test]
    fn an_answer_is_good_for_its_ttl() {
        let now = Instant::now();
        let mut cache = AnswerCache::default();
        cache.put(key(0), finished(now, 60), now);
        cache.put(key(1), finished(now, 0), now);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(cache.get(&key(0), 0, at(59)).is_some());
        assert!(cache.get(&key(0), 0, at(60)).is_none());
        assert!(cache.get(&key(1), 0, now).is_none(), "a TTL of 0 is for one answer");
        assert!(cache.get(&Key { kind: 28, ..key(0) }, 0, now).is_none());
        // A newer one takes its place, and the older one's end takes nothing with it.
        cache.put(key(0), finished(at(30), 60), at(30));
        cache.put(key(2), finished(at(70), 60), at(70));
        assert!(cache.get(&key(0), 0, at(80)).is_some());
        assert_eq!(cache.ends.len(), cache.answers.len());
    }

    #[test]
    fn what_ends_soonest_makes_room() {
        let now = Instant::now();
        let mut cache = AnswerCache::default();
        for number in 0..MOST_ANSWERS + 10 {
            let ttl = u64::try_from(number).unwrap() + 60;
            cache.put(key(number), finished(now, ttl), now);
        }
        assert_eq!((cache.answers.len(), cache.ends.len()), (MOST_ANSWERS, MOST_ANSWERS));
        assert!(cache.get(&key(9), 0, now).is_none());
        assert!(cache.get(&key(10), 0, now).is_some());
    }
}
