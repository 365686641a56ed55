// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names: looking them up, learning them from clients' answers, ageing and saving them.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use super::{Daemon, state::Saved};
use crate::{
    names::{Answer, Changed, LookupFailure, NameState, Standing},
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

impl Daemon {
    pub(super) fn restore_names(&mut self) {
        let (saved, complaints) = self.state.names();
        for complaint in complaints {
            tracing::warn!("{complaint}; what is missing is looked up and learned again");
        }
        match saved {
            Saved::Found(state) => {
                match self.names.restore(&state, Instant::now(), SystemTime::now()) {
                    Ok(restored) => tracing::debug!(
                        addresses = restored.changed.added.len(),
                        over = restored.over,
                        unwanted = restored.unwanted,
                        refused = restored.refused,
                        "names were restored"
                    ),
                    Err(error) => tracing::warn!("{error}"),
                }
            }
            Saved::Missing => {}
            Saved::Unusable(why) => tracing::warn!("{why}; every name is looked up again"),
        }
    }

    /// Tables that take the place of others must not take addresses away only because their names
    /// have not been looked up yet.
    pub(super) async fn await_first_lookups(&mut self) {
        let deadline = Instant::now() + FIRST_LOOKUPS;
        loop {
            self.start_lookups();
            if !self.waits_for_names() {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.lookups.next()).await {
                Ok(Some((name, answer))) => {
                    self.take_answer(&name, answer);
                }
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!(
                        "some names had no answer within {} s; nothing is allowed for them until \
                         they have one",
                        FIRST_LOOKUPS.as_secs()
                    );
                    return;
                }
            }
        }
    }

    fn waits_for_names(&self) -> bool {
        let report = self.names.report(Instant::now());
        report
            .names
            .iter()
            .any(|name| name.addresses.is_empty() && name.state == NameState::Pending)
    }

    pub(super) fn start_lookups(&mut self) {
        for name in self.names.due(Instant::now()) {
            let resolver = Arc::clone(&self.resolver);
            self.lookups.push(Box::pin(async move {
                let answer = resolver.lookup(&name).await;
                (name, answer)
            }));
        }
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
        if let Err(error) = self.state.note_names(&notes) {
            self.names_not_written(&error);
        }
    }

    /// Writes all names anew once the log of changes is long, or has holes.
    pub(super) fn write_names_if_worth_it(&mut self) {
        if let Some(task) = self.names_writing.task.take_if(|task| task.is_finished()) {
            match task.now_or_never() {
                Some(Ok(Ok(()))) => self.names_writing.error = None,
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
