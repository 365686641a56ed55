// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarder's other end: what clients are to get is put in force, and then it is said so.

use std::{collections::BTreeSet, future::Future, net::IpAddr, pin::pin, sync::Arc, time::Instant};

use anyhow::{Result, anyhow};
use tokio::sync::mpsc;

use super::Daemon;
use crate::{
    dns::{
        Counters, Resolver,
        forwarder::{BindError, Forwarder, Heard, InForce, Listener, NotInForce, Settings},
    },
    names::{Changed, Wanted},
    policy::{Dns, Policy},
};

/// What the forwarder may have told that was not heard yet.
const BACKLOG: usize = 4096;
/// What is heard in a row before the tables are changed for all of it.
const IN_A_ROW: usize = 256;

/// The forwarder, once there is one, and what it tells.
#[derive(Debug)]
pub(super) struct Forwarding {
    forwarder: Option<Forwarder>,
    pub(super) counters: Arc<Counters>,
    sender: mpsc::Sender<Heard>,
    pub(super) inbox: mpsc::Receiver<Heard>,
}

impl Default for Forwarding {
    fn default() -> Self {
        let (sender, inbox) = mpsc::channel(BACKLOG);
        Self { forwarder: None, counters: Arc::default(), sender, inbox }
    }
}

// === impl Forwarding ===

impl Forwarding {
    /// Opens the sockets of a policy that are not open yet.
    pub(super) fn open(&self, policy: &Policy) -> Result<Vec<Listener>> {
        let open = self.listening();
        let new = policy.dns.listen.iter().filter(|address| !open.contains(address));
        new.map(|address| Listener::bind(*address).map_err(|error| explain(&error, &policy.dns)))
            .collect()
    }

    /// Serves the clients of a policy, and nobody else.
    pub(super) fn serve(
        &mut self,
        dns: &Dns,
        resolver: &Arc<Resolver>,
        wanted: Arc<Wanted>,
        new: Vec<Listener>,
    ) -> Result<()> {
        let settings = Settings::new(dns, wanted, Arc::clone(resolver));
        let addresses: BTreeSet<IpAddr> = dns.listen.iter().copied().collect();
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
        let mut changed = self.age_names();
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
                    replies.push((reply, InForce { held, refused }));
                }
                Heard::Again { name, answer, hits } => {
                    let learned = self.names.learn(&name, answer, now);
                    self.names.count_hits(&name, hits.saturating_sub(1));
                    changed.merge(learned.changed);
                }
            }
        }
        let result = self.names_changed(&changed);
        for (reply, in_force) in replies {
            let said = match result {
                super::InForce::Now => Ok(in_force),
                super::InForce::NotYet => Err(NotInForce),
            };
            // The client may have given up; what is learned stays.
            drop(reply.send(said));
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
        let chosen = |name: &crate::policy::Fqdn| {
            pattern.is_none_or(|pattern| crate::control::pattern::fits_name(pattern, name.as_str()))
        };
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
