// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading the configuration again: it is put in force as a whole, or nothing changes.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use filter_common::wire::FlowKey;
use tokio::task::spawn_blocking;

use super::{
    Daemon,
    changes::ToBeKept,
    compile_whole, flows,
    forwarding::Resolvers,
    history::{History, Incoming, NextStart},
    interception,
    judge::{Flows, Judge},
    nics, own_prefixes, permissions, service, suitable, tell_of_tags,
};
use crate::{
    compile::Host,
    control::{
        protocol::{ReloadRequest, Reloaded},
        server::Caller,
    },
    dns::Resolver,
    kernel::{memory, pins::NicPins},
    names::{NameCache, Settings, Wanted},
    policy::load::{LoadErrors, Loaded, load},
};

/// For how long a policy is put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Term {
    /// Until another one takes its place.
    ForGood,
    /// For some time, unless somebody confirms it.
    Until(Duration),
}

/// What came of putting a policy in force.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) reloaded: Reloaded,
    /// When it ends, if it does.
    pub(super) deadline: Option<Deadline>,
}

/// The end of a policy that waits to be confirmed, on the daemon's clock and on the programs'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) end: Instant,
    pub(super) tick: u64,
}

/// Bytes of memory that reading and compiling a policy takes for each byte of its text, at most (measured
/// with a million prefixes: 21).
const MEMORY_PER_BYTE: u64 = 22;

/// What happens with an error.
const KEPT: &str = "the policy that was in force stays in force";

impl Daemon {
    /// Reads the configuration again and puts it in force, or says why not and changes nothing.
    pub(super) async fn reload(
        &mut self,
        request: &ReloadRequest,
        caller: &Caller,
    ) -> Result<Reloaded> {
        self.refuse_while_provisional()?;
        let result = self.try_reload(request, caller).await;
        self.config_error = result.as_ref().err().map(|error| format!("{error:#}"));
        self.tell_status();
        if let Ok(reloaded) = &result {
            tracing::info!(generation = reloaded.generation, rules = reloaded.rules, "reloaded");
        }
        result
    }

    async fn try_reload(&mut self, request: &ReloadRequest, caller: &Caller) -> Result<Reloaded> {
        let directory = self.options.config.clone();
        permissions::check_configuration(&directory).context(KEPT)?;
        // Clients wait for answers meanwhile.
        let reading = {
            let (history, directory) = (self.history.clone(), directory.clone());
            spawn_blocking(move || read_configuration(&history, &directory))
        };
        let (incoming, loaded) = self.hearing(reading).await??;
        let loaded = loaded.map_err(|errors| {
            let directory = directory.display();
            anyhow!("the configuration in {directory} is broken, and {KEPT}:\n{errors}")
        })?;
        let replaced = self.replace_policy(loaded, request, Term::ForGood).await?;
        let to_be_kept = ToBeKept {
            how: "reload",
            by: caller.name.clone(),
            next_start: NextStart::Configuration,
            number: None,
        };
        self.keep_in_history(incoming, to_be_kept);
        Ok(replaced.reloaded)
    }

    /// Puts a policy in force, with what is allowed beside it, or says why not and changes nothing.
    pub(super) async fn replace_policy(
        &mut self,
        loaded: Loaded,
        request: &ReloadRequest,
        term: Term,
    ) -> Result<Replaced> {
        service::reloading();
        let result = self.try_to_replace_policy(loaded, request, term).await;
        service::reloaded();
        result
    }

    async fn try_to_replace_policy(
        &mut self,
        mut loaded: Loaded,
        request: &ReloadRequest,
        term: Term,
    ) -> Result<Replaced> {
        let kept = KEPT;
        let not_allowed = self.live.put_into(&mut loaded.policy);
        loaded.take_sizes(self.slots.maps.sizes());
        self.host_state = self.netlink.read().await?;
        suitable::check(&loaded.policy, &self.host_state).context(kept)?;
        interception::check(&loaded.policy).context(kept)?;
        let numbered = nics::number(&loaded.policy, &self.pins)?;
        let host = nics::host(&numbered, &loaded.policy.gateway, &self.host_state);
        // Authorities may have changed in a file that is still called the same.
        let (dns, old) = (&loaded.policy.dns, &self.policy.dns);
        let same = dns.upstream == old.upstream && dns.tls_ca.is_none() && old.tls_ca.is_none();
        let (resolver, resolvers) = if same {
            (Arc::clone(&self.resolver), Resolvers::AsBefore)
        } else {
            let counters = Arc::clone(&self.forwarding.counters);
            let made = Resolver::new(&dns.upstream, dns.tls_ca.as_deref(), counters);
            (Arc::new(made.context(kept)?), Resolvers::New)
        };

        let listeners = self.forwarding.open(&loaded.policy).context(kept)?;

        // New names are looked up before tables without their addresses take the place of others.
        let wanted = Arc::new(match term {
            Term::ForGood => Wanted::from(&loaded.policy),
            // What the policy wants that may come back is looked up and learned as before.
            Term::Until(_) => Wanted::of(&[&loaded.policy, &self.policy]),
        });
        // Of many addresses a copy takes as much as the rest of the policy, and most reloads change none
        // of the names.
        let settings = Settings::from(&loaded.policy.dns);
        let own = own_prefixes(&host);
        let same_names = *self.names.wanted() == *wanted
            && *self.names.settings() == settings
            && own == own_prefixes(&self.host)
            && !self.names.has_pending();
        let prepare = |names: &NameCache| {
            let mut names = names.clone();
            names.set_settings(settings.clone());
            names.set_own(own.clone());
            names.set_wanted(Arc::clone(&wanted), Instant::now());
            names
        };
        let answers = if same_names {
            Vec::new()
        } else {
            self.look_up_ahead(&mut prepare(&self.names), &resolver).await
        };
        service::alive();
        let flows = self.read_flows().await.context(kept)?;
        // What was learned meanwhile is in the cache in force.
        let names = (!same_names).then(|| {
            let mut names = prepare(&self.names);
            for (name, answer) in answers {
                names.answer(&name, answer, Instant::now());
            }
            names
        });
        let tags = nics::keep_tags(&loaded.policy, &numbered).context(kept)?;
        let names = names.map(|names| std::mem::replace(&mut self.names, names));
        let resolver = std::mem::replace(&mut self.resolver, resolver);

        let old_host = self.host.clone();
        self.forwarding.distrust();
        let result = self.put_policy_in_force(loaded, (numbered, host), request, &flows, term);
        let (kept_flows, deadline) = match result {
            Ok(done) => done,
            Err(error) => {
                if let Some(names) = names {
                    self.names = names;
                }
                self.resolver = resolver;
                nics::restore_tags(&tags);
                return Err(error.context(kept));
            }
        };
        drop(names);
        self.live_problem = (!not_allowed.is_empty()).then(|| not_allowed.join("; "));
        self.note_names();
        let dns = &self.policy.dns;
        let served = self.forwarding.serve(dns, wanted, resolvers, listeners);
        self.forwarding.closed.retain(|address, _| dns.listen.contains(address));
        self.follow_interception();
        self.metrics_listeners.follow(&self.policy.metrics.listen).await;
        tell_of_tags(&tags);
        self.tags = tags;
        let mut warnings = self.all_warnings();
        if let Err(error) = served {
            tracing::error!("{error:#}");
            warnings.push(format!("{error:#}"));
        }
        let settled = match (term, self.slots.before()) {
            (Term::ForGood, Some(old_tables)) => {
                self.settle_flows((&old_tables, &old_host), kept_flows).await
            }
            // A flow that was cut could not go on when the policy before comes back.
            (Term::Until(_), _) | (Term::ForGood, None) => Ok(flows::Outcome::default()),
        };
        let flows = match settled {
            Ok(flows) => flows,
            Err(error) => {
                let message = format!("flows that the new policy denies may go on: {error:#}");
                tracing::error!("{message}");
                warnings.push(message);
                flows::Outcome::default()
            }
        };
        if let Err(error) = self.remove_unused_nics() {
            tracing::error!("{error:#}");
        }
        match self.netlink.read().await {
            Ok(state) => {
                let before = std::mem::replace(&mut self.host_state, state);
                self.follow_absences(&before);
            }
            Err(error) => tracing::error!("{error:#}"),
        }
        let reloaded = Reloaded {
            generation: self.slots.generation(),
            rules: self.policy.enabled_rules().count(),
            warnings,
            not_enforced: self.not_enforced(),
            cut_flows: flows.cut,
            kept_flows: flows.kept,
        };
        Ok(Replaced { reloaded, deadline })
    }

    /// The part of a reload that either happens or doesn't. Gives the flows that it kept.
    fn put_policy_in_force(
        &mut self,
        loaded: Loaded,
        (numbered, host): (Vec<NicPins>, Host),
        request: &ReloadRequest,
        flows: &Flows,
        term: Term,
    ) -> Result<(BTreeMap<FlowKey, FlowKey>, Option<Deadline>)> {
        let Loaded { policy, warnings } = loaded;
        let mut ledger = self.ledger.clone();
        let compiled = compile_whole((&policy, &self.names, &host), &mut self.slots, &mut ledger)?;
        let new = Judge::new(&compiled.tables, &host);
        let old = Judge::new(&self.slots.in_force().tables, &self.host);
        match term {
            Term::ForGood => Self::check_session(request, &policy, &old, &new)?,
            // Who locks himself out gets in again.
            Term::Until(_) => {}
        }
        let kept = flows::kept(flows, &old, &new, &policy);
        let serves = |nic: &NicPins| {
            let wanted =
                policy.gateway.side(&nic.name).map(|side| nics::duty(&policy.gateway, side));
            self.attachments
                .iter()
                .any(|attachment| attachment.nic == *nic && Some(attachment.duty) == wanted)
        };
        let mut bare = self.there(&numbered);
        bare.retain(|nic| !self.has_program(nic) || !serves(nic));
        let before = std::mem::replace(&mut self.policy, policy);
        self.follow_interfaces();
        let attached = match self.attach(&bare) {
            Ok(attached) => attached,
            Err(error) => {
                self.policy = before;
                self.follow_interfaces();
                return Err(error);
            }
        };
        let result = self.keep(flows, kept.keys());
        let result = result.and_then(|()| self.put_in_force_for(compiled, ledger, term));
        let deadline = match result {
            Ok(deadline) => deadline,
            Err(error) => {
                self.policy = before;
                self.keep_no_longer(&kept);
                self.follow_interfaces();
                attached.take_back(&self.pins)?;
                return Err(error);
            }
        };
        for attachment in &attached.attachments {
            if let Some(announcement) = &attachment.announcement {
                tracing::warn!("{announcement}");
            }
        }
        self.attachments.retain(|old| !bare.contains(&old.nic));
        self.attachments.extend(attached.attachments);
        self.nics = numbered;
        self.follow_interfaces();
        self.host = host;
        self.usage.follow(&self.policy);
        self.config_warnings = warnings;
        self.tables_error = None;
        Ok((kept, deadline))
    }
}

/// Reads the configuration from a copy that can be kept, or as it stands where no copy can be made.
pub(super) fn read_configuration(
    history: &History,
    directory: &Path,
) -> Result<(Option<Incoming>, Result<Loaded, LoadErrors>)> {
    match history.copy(directory) {
        Ok(incoming) => {
            check_room(&incoming)?;
            let loaded = incoming.load();
            Ok((Some(incoming), loaded))
        }
        Err(error) => {
            tracing::debug!("there is no copy of the configuration: {error:#}");
            Ok((None, load(directory)))
        }
    }
}

/// Refuses files for which the service's memory limit has no room: the kernel would end the daemon in the
/// middle of reading them.
///
/// # Errors
///
/// There is too little left.
pub(super) fn check_room(incoming: &Incoming) -> Result<()> {
    let Some(left) = memory::left() else { return Ok(()) };
    let wanted = incoming.bytes().saturating_mul(MEMORY_PER_BYTE);
    ensure!(
        wanted <= left,
        "a policy of {} MiB of text takes some {} MiB to be read, and the memory limit of the service \
         leaves {} MiB; raise MemoryMax= of sluice.service, or take prefixes away",
        incoming.bytes().div_ceil(1 << 20),
        wanted.div_ceil(1 << 20),
        left >> 20
    );
    Ok(())
}
