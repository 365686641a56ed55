// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes that clients ask for: other policies, for good or until they are confirmed, and what is
//! allowed beside them.
//!
//! A policy that waits to be confirmed is in force until a tick of the programs' own clock; the one before
//! stays in the other slot, and both follow changed addresses. So nothing that needs a slot of its own
//! can be done meanwhile.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::task::spawn_blocking;

use super::{
    Daemon,
    history::{Incoming, NextStart, Place},
    live::{LiveAllows, Now},
    reload::{Deadline, Replaced, Term, check_room},
    tables::Standing,
};
use crate::{
    control::{
        protocol::{
            AllowRequest, AllowStatus, Applied, ApplyRequest, Confirmed, Files, Pending,
            PolicyRecord, ReloadRequest, Reloaded, Revoked, RollbackRequest,
        },
        server::Caller,
    },
    policy::{
        NicName, Policy,
        load::{Diagnostic, Loaded},
    },
};

/// The shortest and the longest time in which a policy can be confirmed.
const CONFIRM_WITHIN: std::ops::RangeInclusive<u32> = 5..=3600;

/// A policy that waits to be confirmed.
#[derive(Debug)]
pub(super) struct Provisional {
    /// When the one before is in force again.
    end: Instant,
    /// The same on the programs' clock.
    tick: u64,
    before: Policy,
    warnings_before: Vec<Diagnostic>,
    incoming: Option<Incoming>,
    to_be_kept: ToBeKept,
}

/// What the history is told of a policy.
#[derive(Clone, Debug)]
pub(super) struct ToBeKept {
    pub(super) how: &'static str,
    pub(super) by: String,
    pub(super) next_start: NextStart,
    /// A policy that is in the history already.
    pub(super) number: Option<u64>,
}

impl Provisional {
    /// When the policy before is in force again.
    pub(super) fn end(&self) -> Instant {
        self.end
    }
}

impl Daemon {
    /// Puts another policy in force.
    pub(super) async fn apply(
        &mut self,
        request: ApplyRequest,
        caller: &Caller,
    ) -> Result<Applied> {
        self.refuse_while_provisional()?;
        let from = PathBuf::from(&request.policy.from);
        let (incoming, loaded) = self.read_files(request.policy, Place::Incoming).await?;
        let next_start =
            if from == self.options.config { NextStart::Configuration } else { NextStart::Copy };
        let to_be_kept =
            ToBeKept { how: "apply", by: caller.name.clone(), next_start, number: None };
        let within = request.confirm_within_s;
        self.put(loaded, (Some(incoming), to_be_kept), within, &request.reload).await
    }

    /// Reads a policy that a client sent. Other clients wait for answers meanwhile, and get them.
    pub(super) async fn read_files(
        &mut self,
        files: Files,
        place: Place,
    ) -> Result<(Incoming, Loaded)> {
        let history = self.history.clone();
        let reading = spawn_blocking(move || -> Result<_> {
            let Files { files, from } = files;
            let incoming = history.take(&files, &PathBuf::from(from), place)?;
            drop(files);
            check_room(&incoming)?;
            let loaded = incoming.load().map_err(|errors| {
                anyhow!("the policy is broken, and nothing was changed:\n{errors}")
            })?;
            Ok((incoming, loaded))
        });
        self.hearing(reading).await?
    }

    /// Goes back to the policy before, or to another one of the history.
    pub(super) async fn rollback(
        &mut self,
        request: &RollbackRequest,
        caller: &Caller,
    ) -> Result<Applied> {
        if self.provisional.is_some() && request.to.is_none() {
            tracing::warn!(by = %caller.name, "the policy that waited to be confirmed is taken back");
            let reloaded = self.revert(&request.reload).await?;
            let policy = self.history.current();
            return Ok(Applied { policy, confirm_within_s: None, reloaded });
        }
        self.refuse_while_provisional()?;
        let number = match request.to {
            Some(number) => number,
            None => self.history.previous()?,
        };
        let history = self.history.clone();
        let loaded = self.hearing(spawn_blocking(move || history.load(number))).await??;
        let to_be_kept = ToBeKept {
            how: "rollback",
            by: caller.name.clone(),
            next_start: NextStart::Copy,
            number: Some(number),
        };
        self.put(loaded, (None, to_be_kept), None, &request.reload).await
    }

    async fn put(
        &mut self,
        loaded: Loaded,
        (incoming, to_be_kept): (Option<Incoming>, ToBeKept),
        within: Option<u32>,
        request: &ReloadRequest,
    ) -> Result<Applied> {
        let Some(seconds) = within else {
            let reloaded = self.replace_policy(loaded, request, Term::ForGood).await?.reloaded;
            let policy = self.keep_in_history(incoming, to_be_kept);
            self.config_error = None;
            return Ok(Applied { policy, confirm_within_s: None, reloaded });
        };
        if !CONFIRM_WITHIN.contains(&seconds) {
            bail!(
                "the time to confirm a policy is from {} to {} seconds, not {seconds}",
                CONFIRM_WITHIN.start(),
                CONFIRM_WITHIN.end()
            );
        }
        // Without a daemon nobody could put the programs of the policy before back on its NICs.
        if sides(&loaded.policy) != sides(&self.policy) {
            bail!(
                "the policy has other NICs than the one in force, and what was taken off a NIC could not be \
                 put back without a daemon; apply it without --confirm-within"
            );
        }
        // It has to end on time, and can't while both slots are in use.
        let next_end = self.live.next_end(&Now::read()?);
        if let Some(left) = next_end.filter(|left| *left <= Duration::from_secs(seconds.into())) {
            bail!(
                "something that is allowed beside the policy ends in {} s, before the {seconds} s are \
                 over; revoke it, wait, or choose a shorter time",
                left.as_secs()
            );
        }
        let before = self.policy.clone();
        let warnings_before = self.config_warnings.clone();
        let term = Term::Until(Duration::from_secs(seconds.into()));
        let Replaced { reloaded, deadline } = self.replace_policy(loaded, request, term).await?;
        let Deadline { end, tick } = deadline.context("the policy has no deadline")?;
        self.provisional =
            Some(Provisional { end, tick, before, warnings_before, incoming, to_be_kept });
        tracing::warn!(seconds, "a policy is in force until it is confirmed");
        Ok(Applied { policy: None, confirm_within_s: Some(seconds), reloaded })
    }

    /// Keeps what waits to be confirmed.
    pub(super) async fn confirm(&mut self, caller: &Caller) -> Result<Confirmed> {
        let Some(provisional) = self.provisional.take() else {
            bail!("no policy waits to be confirmed; either it was, or its time is over");
        };
        let now = self.clock.now().map(|clock| clock.now);
        if now.is_ok_and(|now| now >= provisional.tick) {
            self.provisional = Some(provisional);
            self.revert(&ReloadRequest::default()).await?;
            bail!("the time to confirm the policy is over, and the one before is in force again");
        }
        if let Err(error) = self.slots.confirm() {
            self.provisional = Some(provisional);
            return Err(error);
        }
        tracing::info!(by = %caller.name, "the policy is confirmed");
        let Provisional { incoming, to_be_kept, .. } = provisional;
        let policy = self.keep_in_history(incoming, to_be_kept);
        // What was left alone so that one could go back is settled now.
        let loaded = self.loaded_again();
        let wish = own_wish();
        let cut_flows = match self.replace_policy(loaded, &wish, Term::ForGood).await {
            Ok(replaced) => replaced.reloaded.cut_flows,
            Err(error) => {
                tracing::error!("flows that the policy denies may go on: {error:#}");
                0
            }
        };
        Ok(Confirmed { generation: self.slots.generation(), policy, cut_flows })
    }

    /// Goes back to the policy before one that nobody confirmed in time.
    pub(super) async fn give_up_provisional(&mut self) {
        tracing::warn!("nobody confirmed the policy in time: the one before is in force again");
        // What went wrong is told already, and tried again.
        if let Err(error) = self.revert(&own_wish()).await {
            tracing::debug!("{error:#}");
        }
    }

    /// Puts the policy before back. Its tables are in force first, whatever comes of the rest.
    async fn revert(&mut self, request: &ReloadRequest) -> Result<Reloaded> {
        let Some(provisional) = self.provisional.take() else {
            bail!("nothing is to be taken back")
        };
        if let Err(error) = self.slots.revert() {
            self.provisional = Some(provisional);
            return Err(error);
        }
        let Provisional { before, warnings_before, .. } = provisional;
        let loaded = Loaded { policy: before.clone(), warnings: warnings_before };
        let result = self.replace_policy(loaded, request, Term::ForGood).await;
        if let Err(error) = &result {
            // The tables are its own already; what failed is tried again with what it says.
            self.policy = before;
            let message =
                format!("the policy before is in force again, but not all of it: {error:#}");
            tracing::error!("{message}; it is tried again");
            self.tables_error = Some(message);
        }
        result.map(|replaced| replaced.reloaded)
    }

    /// Notes a policy that is in force now. What can't be noted is told, and nothing else.
    pub(super) fn keep_in_history(
        &mut self,
        incoming: Option<Incoming>,
        kept: ToBeKept,
    ) -> Option<u64> {
        let ToBeKept { how, by, next_start, number } = kept;
        let rules = self.policy.enabled_rules().count();
        let since = Now::read().map_or(0, |now| now.since_epoch());
        let result = match (number, incoming) {
            (Some(number), _) => {
                self.history.set_current(&self.state, number, next_start).map(|()| number)
            }
            (None, Some(incoming)) => {
                let about = (by.as_str(), since, rules);
                self.history.keep(&self.state, incoming, how, about, next_start)
            }
            (None, None) => Err(anyhow!("there was no copy of it")),
        };
        match result {
            Ok(number) => {
                self.history_problem = None;
                Some(number)
            }
            Err(error) => {
                let message = format!(
                    "the policy in force is not in the history, and can't be gone back to: {error:#}"
                );
                tracing::error!("{message}");
                self.history_problem = Some(message);
                None
            }
        }
    }

    /// The policies that can be gone back to.
    pub(super) fn policies(&self) -> Result<Vec<PolicyRecord>> {
        let mut records = Vec::new();
        for (policy, record) in self.history.list()? {
            match record {
                Ok(record) => records.push(PolicyRecord {
                    policy,
                    in_force: self.provisional.is_none() && self.history.current() == Some(policy),
                    since: record.since,
                    how: record.how,
                    from: record.from.display().to_string(),
                    by: record.by,
                    rules: record.rules,
                }),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        Ok(records)
    }

    /// What is allowed beside the policy.
    pub(super) fn allows(&self) -> Result<Vec<AllowStatus>> {
        Ok(self.live.list(&Now::read()?))
    }

    /// Allows something beside the policy.
    pub(super) async fn allow(
        &mut self,
        request: AllowRequest,
        caller: &Caller,
    ) -> Result<AllowStatus> {
        self.refuse_while_provisional()?;
        let now = Now::read()?;
        let what = request.to.clone();
        let (allows, id) = self
            .live
            .with(request, caller.name.clone(), &now, &self.policy)
            .map_err(|why| anyhow!("{why}; nothing was changed"))?;
        self.change_allows(allows).await?;
        tracing::info!(by = %caller.name, id, to = %what, "allowed beside the policy");
        self.live.get(id, &now).context("it is not there any more")
    }

    /// Takes back what was allowed beside the policy.
    pub(super) async fn revoke(&mut self, id: u64, caller: &Caller) -> Result<Revoked> {
        let now = Now::read()?;
        let Some(revoked) = self.live.get(id, &now) else {
            bail!("nothing is allowed as {id}; `sluice rules` and `sluice allow --list` have all");
        };
        self.refuse_while_provisional()?;
        let fewer = self.live.without(id).context("it is not there any more")?;
        let reloaded = self.change_allows(fewer).await?;
        tracing::info!(by = %caller.name, id, to = %revoked.request.to, "revoked");
        Ok(Revoked { revoked, cut_flows: reloaded.cut_flows })
    }

    /// Takes back what has ended.
    pub(super) async fn end_allows(&mut self) {
        let unended = match Now::read() {
            Ok(now) => self.live.unended(&now),
            Err(error) => {
                tracing::error!("{error:#}");
                None
            }
        };
        let Some(rest) = unended else { return };
        match self.change_allows(rest).await {
            Ok(_) => tracing::info!("what was allowed beside the policy for a time has ended"),
            Err(error) => {
                let message = format!("what was allowed for a time has not ended: {error:#}");
                if self.live_problem.as_ref() != Some(&message) {
                    tracing::error!("{message}; it is tried again");
                }
                self.live_problem = Some(message);
            }
        }
    }

    /// When the next of them ends.
    pub(super) fn next_allow_end(&self) -> Option<Instant> {
        // It can't be taken back while both slots are in use; `apply` sees to it that it needn't.
        if self.provisional.is_some() {
            return None;
        }
        if !self.live.has_end() {
            return None;
        }
        let left = self.live.next_end(&Now::read().ok()?)?;
        // What could not be taken back is tried again a little later.
        let pause =
            if self.live_problem.is_some() { Duration::from_secs(1) } else { Duration::ZERO };
        Some(Instant::now() + left.max(pause))
    }

    /// Puts other rules beside the policy in force. They are written down before they hold, and what
    /// is taken back is gone from the file before it is gone from the tables.
    async fn change_allows(&mut self, allows: LiveAllows) -> Result<Reloaded> {
        let before = std::mem::replace(&mut self.live, allows);
        let result = match self.live.save(&self.state) {
            Ok(()) => {
                let loaded = self.loaded_again();
                let replaced = self.replace_policy(loaded, &own_wish(), Term::ForGood).await;
                replaced.map(|replaced| replaced.reloaded)
            }
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.live = before;
            if let Err(error) = self.live.save(&self.state) {
                tracing::error!("{error:#}; what is allowed may be others after a restart");
            }
        }
        result
    }

    /// The policy in force, to be put in force once more.
    fn loaded_again(&self) -> Loaded {
        Loaded { policy: self.policy.clone(), warnings: self.config_warnings.clone() }
    }

    /// How long a policy waits to be confirmed.
    pub(super) fn pending(&self) -> Option<Pending> {
        let end = self.provisional.as_ref()?.end;
        Some(Pending { left_s: end.saturating_duration_since(Instant::now()).as_secs() })
    }

    pub(super) fn refuse_while_provisional(&self) -> Result<()> {
        match (self.slots.standing(), self.pending()) {
            (Standing::Final, None) => Ok(()),
            (_, pending) => bail!(
                "a policy waits to be confirmed for another {} s; `sluice confirm` or `sluice \
                 rollback` comes first",
                pending.map_or(0, |pending| pending.left_s)
            ),
        }
    }
}

/// The NICs on each side.
fn sides(policy: &Policy) -> [BTreeSet<&NicName>; 2] {
    let gateway = &policy.gateway;
    [gateway.inside.iter().collect(), gateway.outside.iter().collect()]
}

/// The daemon's own wishes concern nobody's session.
fn own_wish() -> ReloadRequest {
    ReloadRequest::default()
}
