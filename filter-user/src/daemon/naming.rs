// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names: looking them up, learning them from clients' answers, ageing and saving them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{sleep_until, timeout},
};

use super::{Daemon, Lookup, replies::named_rule, state::Saved};
use crate::{
    control::{
        protocol::{Resolved, ResolvedAddress},
        server::Answer as Replied,
    },
    dns::Resolver,
    names::{Answer, Changed, LookupFailure, NameCache, Standing},
    policy::Fqdn,
};

/// How long names of which no address is known yet are waited for, before tables without them
/// are put in force in the place of others.
const FIRST_LOOKUPS: Duration = Duration::from_secs(5);

/// How long after all names could not be written it is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(30);

/// The writing of all names, in a thread of its own.
#[derive(Debug, Default)]
pub(super) struct Writing {
    task: Option<JoinHandle<Result<()>>>,
    /// Why a restart would forget something, if so.
    pub(super) error: Option<String>,
    not_before: Option<Instant>,
}

/// Whether there were names to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restored {
    /// Those that have no address had none before.
    Names,
    /// Nothing is known of what was in force before.
    Nothing,
}

impl Daemon {
    pub(super) fn restore_names(&mut self) -> Restored {
        let (saved, complaints) = self.state.names();
        // Part of it may be lost: then it isn't known which names had addresses.
        let whole = if complaints.is_empty() { Restored::Names } else { Restored::Nothing };
        for complaint in complaints {
            tracing::warn!("{complaint}; what is missing is looked up and learned again");
        }
        match saved {
            Saved::Found(state) => {
                match self.names.restore(&state, Instant::now(), SystemTime::now()) {
                    Ok(restored) => {
                        tracing::debug!(
                            addresses = restored.changed.added.len(),
                            over = restored.over,
                            unwanted = restored.unwanted,
                            refused = restored.refused,
                            "names were restored"
                        );
                        return whole;
                    }
                    Err(error) => tracing::warn!("{error}"),
                }
            }
            Saved::Missing => {}
            Saved::Unusable(why) => tracing::warn!("{why}; every name is looked up again"),
        }
        Restored::Nothing
    }

    /// Tables that take the place of others must not take addresses away only because their names
    /// have not been looked up yet.
    pub(super) async fn await_first_lookups(&mut self) {
        let deadline = Instant::now() + FIRST_LOOKUPS;
        loop {
            self.start_lookups();
            if !self.names.has_pending() {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.lookups.next()).await {
                Ok(Some((name, answer))) => {
                    self.take_answer(&name, answer);
                }
                Ok(None) => return,
                Err(_) => {
                    say_that_some_are_missing();
                    return;
                }
            }
        }
    }

    pub(super) fn start_lookups(&mut self) {
        for name in self.names.due(Instant::now()) {
            self.lookups.push(look_up(&self.resolver, name));
        }
    }

    /// Looks up what a cache for another policy waits for, within some seconds, while clients are
    /// served by the one in force. What comes of it is put into both, and given back.
    pub(super) async fn look_up_ahead(
        &mut self,
        ahead: &mut NameCache,
        resolver: &Arc<Resolver>,
    ) -> Vec<(Fqdn, Result<Answer, LookupFailure>)> {
        let deadline = Instant::now() + FIRST_LOOKUPS;
        let mut answers = Vec::new();
        let mut lookups: FuturesUnordered<Lookup> = FuturesUnordered::new();
        loop {
            lookups
                .extend(ahead.due(Instant::now()).into_iter().map(|name| look_up(resolver, name)));
            if !ahead.has_pending() {
                return answers;
            }
            let (name, answer) = tokio::select! {
                Some(found) = lookups.next(), if !lookups.is_empty() => found,
                // Those that ran before go on.
                Some(found) = self.lookups.next(), if !self.lookups.is_empty() => {
                    let changed = self.take_answer(&found.0, found.1.clone());
                    self.names_changed(&changed);
                    found
                }
                Some(heard) = self.forwarding.inbox.recv() => {
                    self.hear(heard);
                    continue;
                }
                () = sleep_until(deadline.into()) => {
                    say_that_some_are_missing();
                    return answers;
                }
            };
            ahead.answer(&name, answer.clone(), Instant::now());
            answers.push((name, answer));
        }
    }

    /// Looks a name up because somebody asks what would come of it.
    pub(super) fn start_resolving(&mut self, name: Fqdn, reply: oneshot::Sender<Replied>) {
        let resolver = Arc::clone(&self.resolver);
        self.resolving.push(Box::pin(async move {
            let answer = resolver.lookup(&name).await;
            (name, answer, reply)
        }));
    }

    /// What would be learned of an answer, and what not.
    pub(super) fn resolved(&self, name: &Fqdn, answer: Result<Answer, LookupFailure>) -> Resolved {
        let rules = self.slots.in_force().meaning.rules_of(name);
        let mut resolved = Resolved {
            name: name.to_string(),
            rules: rules.into_iter().map(named_rule).collect(),
            failure: None,
            incomplete: None,
            resolver: None,
            chain: Vec::new(),
            addresses: Vec::new(),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                resolved.failure = Some(failure.to_string());
                return resolved;
            }
        };
        resolved.incomplete = answer.missing.as_ref().map(ToString::to_string);
        resolved.resolver = Some(answer.resolver);
        resolved.chain = answer.chain.iter().map(ToString::to_string).collect();
        let ttls: BTreeMap<IpAddr, u32> = answer.records.iter().copied().collect();
        let now = Instant::now();
        // What would happen is what happens to a copy.
        let learned = self.names.clone().learn(name, answer, now);
        resolved.addresses = ttls
            .into_iter()
            .map(|(address, ttl_s)| ResolvedAddress {
                address,
                ttl_s,
                allowed_s: learned
                    .held
                    .get(&address)
                    .map(|until| until.saturating_duration_since(now).as_secs()),
                refused: learned.refused.get(&address).map(ToString::to_string),
            })
            .collect();
        resolved
    }

    pub(super) fn take_answer(
        &mut self,
        name: &Fqdn,
        answer: Result<Answer, LookupFailure>,
    ) -> Changed {
        let failure = answer.as_ref().err().map(ToString::to_string);
        let outcome = self.names.answer(name, answer, Instant::now());
        match outcome.standing {
            Standing::NewlyFailing => tracing::warn!(
                %name,
                "can't be looked up: {}; its addresses stay for the grace period",
                failure.unwrap_or_default()
            ),
            Standing::Recovered => tracing::info!(%name, "can be looked up again"),
            Standing::Answered | Standing::StillFailing | Standing::Unwanted => {}
        }
        for (address, refusal) in &outcome.refused {
            tracing::debug!(%name, %address, "not learned: {refusal}");
        }
        outcome.changed
    }

    /// Drops addresses whose time is over and which nobody uses.
    pub(super) fn age_names(&mut self) -> Changed {
        let now = Instant::now();
        if self.names.next_wakeup().is_none_or(|wakeup| wakeup > now) {
            return Changed::default();
        }
        let asked = self.names.in_question(now);
        if !asked.is_empty() {
            let used = self.in_use(&asked);
            self.names.keep_in_use(&used, now);
        }
        self.names.tick(now)
    }

    /// Which of some addresses clients used since they were asked about last, or have connections
    /// to.
    fn in_use(&mut self, asked: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let mut used: BTreeSet<IpAddr> = asked.intersection(self.connected()).copied().collect();
        match self.slots.take_used(asked) {
            Ok(marked) => used.extend(marked),
            Err(error) => tracing::error!("{error:#}; addresses go though they may be in use"),
        }
        used
    }

    /// Writes down what changed of names, before it is in force.
    pub(super) fn note_names(&mut self) {
        if !self.names.has_notes() {
            return;
        }
        let notes = self.names.take_notes(Instant::now(), SystemTime::now());
        if self.names_writing.error.is_some() {
            // A log with a hole is worth nothing: all names are written once that can be done.
            return;
        }
        if let Err(error) = self.state.note_names(&notes) {
            self.names_not_written(&error);
        }
    }

    /// Writes all names anew once the log of changes is long, or has holes.
    pub(super) fn write_names_if_worth_it(&mut self) {
        if let Some(task) = self.names_writing.task.take_if(|task| task.is_finished()) {
            match task.now_or_never() {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => self.names_not_written(&error),
                Some(Err(error)) => self.names_not_written(&error.into()),
                None => {}
            }
        }
        let Writing { task, error, not_before } = &self.names_writing;
        let too_early = not_before.is_some_and(|at| Instant::now() < at);
        if task.is_some() || too_early || !(self.state.is_log_long() || error.is_some()) {
            return;
        }
        self.names_writing.error = None;
        let state = self.names.to_state(Instant::now(), SystemTime::now());
        let file = self.state.begin_names(state);
        self.names_writing.task = Some(spawn_blocking(move || file.write()));
    }

    fn names_not_written(&mut self, error: &anyhow::Error) {
        let message = format!("{error:#}; a restart would forget what was learned since");
        if self.names_writing.error.as_ref() != Some(&message) {
            tracing::error!("{message}; it is tried again");
        }
        self.names_writing.error = Some(message);
        self.names_writing.not_before = Some(Instant::now() + WRITE_AGAIN);
    }

    /// Writes all names, at the end.
    pub(super) async fn save_names(&mut self) {
        if let Some(task) = self.names_writing.task.take()
            && let Err(error) = task.await
        {
            tracing::error!("names can't be written: {error}");
        }
        let state = self.names.to_state(Instant::now(), SystemTime::now());
        if let Err(error) = self.state.begin_names(state).write() {
            tracing::error!("{error:#}");
        }
    }
}

fn look_up(resolver: &Arc<Resolver>, name: Fqdn) -> Lookup {
    let resolver = Arc::clone(resolver);
    Box::pin(async move {
        let answer = resolver.lookup(&name).await;
        (name, answer)
    })
}

fn say_that_some_are_missing() {
    tracing::warn!(
        "some names had no answer within {} s; nothing is allowed for them until they have one",
        FIRST_LOOKUPS.as_secs()
    );
}
