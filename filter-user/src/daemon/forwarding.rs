// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarder's other end: what clients are to get is put in force, and then it is said so.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::sync::mpsc;

use super::Daemon;
use crate::{
    control::pattern::fits_name,
    dns::{
        Counters, Resolver,
        forwarder::{BindError, Forwarder, Heard, InForce, Listener, NotInForce, Settings},
    },
    names::{Changed, Wanted},
    policy::{Dns, Fqdn, Policy},
};

/// What the forwarder may have told that was not heard yet.
const BACKLOG: usize = 4096;
/// What is heard in a row before the tables are changed for all of it.
const IN_A_ROW: usize = 256;
/// After something could not be put in force, whole tables are not built for so long: that takes
/// much longer than an edit, and would most likely fail again.
const FULL_FOR: Duration = Duration::from_secs(5);

/// The forwarder, once there is one, and what it tells.
#[derive(Debug)]
pub(super) struct Forwarding {
    forwarder: Option<Forwarder>,
    pub(super) counters: Arc<Counters>,
    sender: mpsc::Sender<Heard>,
    pub(super) inbox: mpsc::Receiver<Heard>,
    /// Who the forwarder asks: the daemon's own look-ups have another, so that neither waits for the
    /// other's thread.
    resolver: Option<Arc<Resolver>>,
    /// Addresses at which nobody is served, and why.
    pub(super) closed: BTreeMap<IpAddr, String>,
    /// Why something was not learned, if it was the last thing.
    pub(super) full: Option<String>,
    full_until: Option<Instant>,
}

/// Whether the resolvers are others than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolvers {
    AsBefore,
    New,
}

impl Default for Forwarding {
    fn default() -> Self {
        let (sender, inbox) = mpsc::channel(BACKLOG);
        Self {
            forwarder: None,
            counters: Arc::default(),
            sender,
            inbox,
            resolver: None,
            closed: BTreeMap::new(),
            full: None,
            full_until: None,
        }
    }
}

// === impl Forwarding ===

impl Forwarding {
    /// Opens the sockets of a policy that are not open yet.
    pub(super) fn open(&self, policy: &Policy) -> Result<Vec<Listener>> {
        let open = self.listening();
        let is_new = |address: &&IpAddr| {
            // What could not be opened before is tried again anyway.
            !open.contains(*address) && !self.closed.contains_key(*address)
        };
        let new = policy.dns.listen.iter().filter(is_new);
        new.map(|address| Listener::bind(*address).map_err(|error| explain(&error, &policy.dns)))
            .collect()
    }

    /// Opens those sockets of a policy that can be opened, and notes what is wrong with the others.
    pub(super) fn open_what_can_be(&mut self, policy: &Policy) -> Vec<Listener> {
        let open = self.listening();
        let mut listeners = Vec::new();
        let mut closed = BTreeMap::new();
        for address in policy.dns.listen.iter().filter(|address| !open.contains(address)) {
            match Listener::bind(*address) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    let message = explain(&error, &policy.dns).to_string();
                    if self.closed.get(address) != Some(&message) {
                        tracing::error!("{message}; it is tried again");
                    }
                    closed.insert(*address, message);
                }
            }
        }
        self.closed = closed;
        listeners
    }

    /// Serves the clients of a policy, and nobody else.
    pub(super) fn serve(
        &mut self,
        dns: &Dns,
        wanted: Arc<Wanted>,
        resolvers: Resolvers,
        new: Vec<Listener>,
    ) -> Result<()> {
        let resolver = match (&self.resolver, resolvers) {
            (Some(resolver), Resolvers::AsBefore) => Arc::clone(resolver),
            (None, _) | (Some(_), Resolvers::New) => {
                let counters = Arc::clone(&self.counters);
                let made = Resolver::new(&dns.upstream, dns.tls_ca.as_deref(), counters)?;
                // What others said is not to be learned anew.
                self.forget();
                Arc::clone(self.resolver.insert(Arc::new(made)))
            }
        };
        let settings = Settings::new(dns, wanted, resolver);
        let addresses: BTreeSet<IpAddr> = new
            .iter()
            .map(Listener::address)
            .chain(self.listening())
            .filter(|address| dns.listen.contains(address))
            .collect();
        let forwarder = match &mut self.forwarder {
            Some(forwarder) => {
                forwarder.set_settings(settings);
                forwarder
            }
            None if addresses.is_empty() => return Ok(()),
            None => {
                let counters = Arc::clone(&self.counters);
                let started = Forwarder::start(settings, counters, self.sender.clone())?;
                self.forwarder.insert(started)
            }
        };
        if *forwarder.listening() != addresses {
            forwarder.listen(new, addresses);
        }
        Ok(())
    }

    /// Who the forwarder asks, once it runs.
    pub(super) fn resolver(&self) -> Option<&Arc<Resolver>> {
        self.resolver.as_ref().filter(|_| self.forwarder.is_some())
    }

    fn forgotten(&self) -> u64 {
        self.forwarder.as_ref().map_or(0, Forwarder::forgotten)
    }

    /// See [`Forwarder::distrust`].
    pub(super) fn distrust(&self) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.distrust();
        }
    }

    /// Has clients' questions go upstream again.
    pub(super) fn forget(&self) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.forget();
        }
    }

    /// Where clients are served.
    pub(super) fn listening(&self) -> BTreeSet<IpAddr> {
        self.forwarder.as_ref().map(|forwarder| forwarder.listening().clone()).unwrap_or_default()
    }
}

impl Daemon {
    /// Puts in force what the forwarder heard, and says so.
    pub(super) fn hear(&mut self, first: Heard) {
        let aged = self.age_names();
        self.names_changed(&aged);
        let mut changed = Changed::default();
        let mut replies = Vec::new();
        let mut next = Some(first);
        for _ in 0..IN_A_ROW {
            let Some(heard) = next.take().or_else(|| self.forwarding.inbox.try_recv().ok()) else {
                break;
            };
            let now = Instant::now();
            match heard {
                Heard::Answer { name, answer, reply } => {
                    let learned = self.names.learn(&name, answer, now);
                    changed.merge(learned.changed);
                    let (held, refused) = (learned.held, learned.refused);
                    replies.push((reply, name, InForce { held, refused }));
                }
                Heard::Again { name, answer, hits, since } => {
                    if since != self.forwarding.forgotten() {
                        continue;
                    }
                    let learned = self.names.learn(&name, answer, now);
                    self.names.count_hits(&name, hits.saturating_sub(1));
                    changed.merge(learned.changed);
                }
            }
        }
        let result = self.learned(&changed);
        for (reply, name, in_force) in replies {
            // Whoever of those heard here brought it: what was in force before still is, and nothing
            // else.
            let is_new = |address: &IpAddr| changed.added.contains(&(name.clone(), *address));
            let said = match result {
                super::InForce::Now => Ok(in_force),
                super::InForce::NotYet
                    if self.tables_error.is_none() && !in_force.held.keys().any(is_new) =>
                {
                    Ok(in_force)
                }
                super::InForce::NotYet => Err(NotInForce),
            };
            // The client may have given up; what is learned stays.
            drop(reply.send(said));
        }
    }

    /// Puts what was learned in force, or forgets it again: where there is no room for it, that is
    /// no reason to stop with the rest.
    fn learned(&mut self, changed: &Changed) -> super::InForce {
        self.note_names();
        let is_full = self.forwarding.full_until.is_some_and(|until| Instant::now() < until);
        if self.tables_error.is_some() && is_full {
            // It is tried again every few seconds.
            return super::InForce::NotYet;
        }
        if changed.is_empty() || self.tables_error.is_some() {
            let result = self.names_changed(changed);
            if result == super::InForce::NotYet {
                self.forwarding.full_until = Some(Instant::now() + FULL_FOR);
            }
            return result;
        }
        let result = if is_full { self.edit_names(changed) } else { self.update_tables(changed) };
        let Err(error) = result else {
            self.forwarding.full = None;
            return super::InForce::Now;
        };
        if !self.slots.is_explained() {
            self.tables_updated(Err(error));
            return super::InForce::NotYet;
        }
        self.names.unlearn(&changed.added);
        self.note_names();
        let message = format!("what clients ask for is not learned: {error:#}");
        if self.forwarding.full.as_ref() != Some(&message) {
            tracing::error!("{message}");
        }
        self.forwarding.full = Some(message);
        self.forwarding.full_until = Some(Instant::now() + FULL_FOR);
        super::InForce::NotYet
    }

    /// Serves clients at addresses that have come, or whose port has become free.
    pub(super) fn open_listeners(&mut self) {
        if self.forwarding.closed.is_empty() {
            return;
        }
        let new = self.forwarding.open_what_can_be(&self.policy);
        if new.is_empty() {
            return;
        }
        let (dns, wanted) = (&self.policy.dns, self.names.wanted());
        match self.forwarding.serve(dns, wanted, Resolvers::AsBefore, new) {
            Ok(()) => tracing::info!("clients are served at all addresses that could be opened"),
            Err(error) => tracing::error!("{error:#}"),
        }
    }

    /// Waits for something and hears the forwarder meanwhile.
    pub(super) async fn hearing<F: Future>(&mut self, awaited: F) -> F::Output {
        let mut awaited = pin!(awaited);
        loop {
            tokio::select! {
                output = &mut awaited => return output,
                Some(heard) = self.forwarding.inbox.recv() => self.hear(heard),
            }
        }
    }

    /// Forgets the addresses of names, and takes them out of force.
    pub(super) fn flush_names(&mut self, pattern: Option<&str>) -> Result<usize> {
        let chosen = |name: &Fqdn| pattern.is_none_or(|pattern| fits_name(pattern, name.as_str()));
        self.forwarding.distrust();
        self.forwarding.forget();
        let changed: Changed = self.names.flush(chosen, Instant::now());
        let flushed = changed.removed.len();
        match self.names_changed(&changed) {
            super::InForce::Now => {
                tracing::info!(addresses = flushed, "names were flushed on request");
                Ok(flushed)
            }
            super::InForce::NotYet => Err(anyhow!(
                "the names are forgotten, but their addresses are still in force: {}",
                self.tables_error.as_deref().unwrap_or("see the log")
            )),
        }
    }
}

fn explain(error: &BindError, dns: &Dns) -> anyhow::Error {
    let help = match error {
        BindError::NotOurs(_) => "add it to a NIC, or correct listen",
        BindError::Taken(_) => {
            "end that program, or name an address in listen where it doesn't listen \
             (`ss -lnp 'sport = 53'` shows which it is)"
        }
        BindError::NotAllowed => "run it as root, or add the capability to the unit",
        BindError::Io(..) => "see ip(7) for what that means",
    };
    match &dns.origin {
        Some(origin) => anyhow!("{origin}: [dns]: listen: {error}; {help}"),
        None => anyhow!("[dns]: listen: {error}; {help}"),
    }
}
