// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[dns] intercept`: the redirection of clients' questions is kept as the policy wants it.
//!
//! The programs let such questions through to be redirected, and let none leave: while the
//! redirection is missing, questions to other resolvers go nowhere.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use filter_common::egress::Side;
use futures_util::FutureExt as _;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Daemon, nics};
use crate::{
    kernel::{netlink::HostState, redirect},
    policy::{Interception, NicName, Policy},
};

/// What is known of the redirection.
#[derive(Debug, Default)]
pub(super) struct Redirecting {
    state: State,
    /// Why it is not as it should be, if so. It is tried again.
    error: Option<String>,
    /// Looks whether it is still there, in a thread of its own.
    look: Option<JoinHandle<Result<bool>>>,
}

#[derive(Debug, Default)]
enum State {
    /// It is not there.
    #[default]
    Off,
    /// It was put so.
    On(Wanted, redirect::Redirection),
    /// An earlier daemon, or somebody else, may have left anything.
    Unknown,
}

/// What the redirection is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    nics: Vec<NicName>,
    listen: Vec<IpAddr>,
}

/// Whether what a policy wants can be had.
///
/// # Errors
///
/// It wants a redirection, and there is no nftables.
pub(super) fn check(policy: &Policy) -> Result<()> {
    match policy.dns.intercept {
        Interception::On => redirect::check().with_context(|| match &policy.dns.origin {
            Some(origin) => format!("{origin}: [dns]: intercept = true"),
            None => "[dns]: intercept = true".to_owned(),
        }),
        Interception::Off => Ok(()),
    }
}

/// The redirection that a policy wants, for its inside NICs and what stands on them: there packets
/// are redirected that came in by a VLAN, or by a port of a bridge.
fn wanted(policy: &Policy, host: &HostState) -> Option<Wanted> {
    match policy.dns.intercept {
        Interception::On => {}
        Interception::Off => return None,
    }
    let sides = nics::interfaces(&policy.gateway, host);
    let inside = host.nics.iter().filter(|(_, nic)| sides.get(&nic.index) == Some(&Side::Inside));
    let there = inside.map(|(name, _)| name);
    // A NIC that is away comes back under its name.
    let mut nics: Vec<NicName> = there.chain(&policy.gateway.inside).cloned().collect();
    nics.sort();
    nics.dedup();
    Some(Wanted { nics, listen: policy.dns.listen.clone() })
}

// === impl Redirecting ===

impl Redirecting {
    /// An earlier daemon may have left a redirection.
    pub(super) fn adopt(&mut self) {
        self.state = State::Unknown;
    }

    /// What is wrong and is tried again.
    pub(super) fn problem(&self) -> Option<String> {
        self.error.clone()
    }

    fn follow(&mut self, wanted: Option<Wanted>) {
        let result = match (wanted, &self.state) {
            (None, State::Off) => Ok(State::Off),
            (Some(wanted), State::On(known, _)) if wanted == *known => return,
            (Some(wanted), _) => redirect::put(&wanted.nics, &wanted.listen)
                .map(|redirection| State::On(wanted, redirection))
                .context(
                    "questions to other resolvers can't be led to the forwarder, and go nowhere",
                ),
            (None, _) => redirect::remove()
                .map(|()| State::Off)
                .context("questions to other resolvers are still led to where the forwarder was"),
        };
        // What a look finds that began before says nothing any more.
        self.look = None;
        match result {
            Ok(state) => {
                self.state = state;
                if self.error.take().is_some() {
                    tracing::info!("the redirection of questions is as it should be again");
                }
            }
            Err(error) => {
                self.state = State::Unknown;
                let message = format!("{error:#}");
                if self.error.as_ref() != Some(&message) {
                    tracing::error!("{message}; it is tried again");
                }
                self.error = Some(message);
            }
        }
    }

    /// Takes what the last look found, and looks again.
    fn look(&mut self) {
        if let Some(look) = self.look.take_if(|look| look.is_finished()) {
            let found =
                look.now_or_never().map(|found| found.map_err(anyhow::Error::from).flatten());
            match found {
                Some(Ok(false)) => {
                    tracing::warn!(
                        "somebody took the nftables table `inet sluice` away, or changed it; it is \
                         put back"
                    );
                    self.state = State::Unknown;
                }
                // Whether it can be put will be seen.
                Some(Err(error)) => {
                    tracing::warn!("the redirection of questions can't be looked at: {error:#}");
                    self.state = State::Unknown;
                }
                Some(Ok(true)) | None => {}
            }
        }
        if let (State::On(_, redirection), None) = (&self.state, &self.look) {
            let redirection = redirection.clone();
            self.look = Some(spawn_blocking(move || redirection.is_there()));
        }
    }
}

impl Daemon {
    /// Makes the redirection what the policy in force wants, for the NICs that there are.
    pub(super) fn follow_interception(&mut self) {
        let wanted = wanted(&self.policy, &self.host_state);
        self.redirecting.follow(wanted);
    }

    /// Looks, every few seconds, whether the redirection is still there, and puts it back.
    pub(super) fn watch_interception(&mut self) {
        self.redirecting.look();
        self.follow_interception();
    }
}
