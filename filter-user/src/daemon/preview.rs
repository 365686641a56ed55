// SPDX-License-Identifier: MIT OR Apache-2.0
//! What another policy would change, without changing anything.

use anyhow::{Context as _, Result};
use tokio::task::spawn_blocking;

use super::{
    Daemon,
    history::Place,
    judge::{Flows, Judge, local, remote},
    nics,
    replies::protocol_name,
    suitable,
};
use crate::{
    compile::compile,
    control::protocol::{Files, Preview},
    diff::{View, compare},
    policy::{Policy, live::is_live, load::summed_up},
};

/// How many flows that would be cut are told one by one.
const FEW: usize = 20;

impl Daemon {
    /// Says what a policy would change.
    pub(super) async fn preview(&mut self, files: Files) -> Result<Preview> {
        let (_, mut loaded) = self.read_files(files, Place::Preview).await?;
        loaded.take_sizes(self.slots.maps.sizes());
        // They stay beside whatever policy is in force; one that can't is told once it is applied.
        let live = self.policy.rules.iter().filter(|rule| is_live(rule)).cloned();
        loaded.policy.rules.extend(live);
        suitable::check(&loaded.policy, &self.host_state)?;
        let numbered = nics::number(&loaded.policy, &self.pins)?;
        let host = nics::host(&numbered, &loaded.policy.gateway, &self.host_state);
        let flows = self.read_flows().await?;
        // Names that are new have no address yet, and open flows to none.
        let (names, mut ledger) = (self.names.snapshot(), self.ledger.clone());
        let compiling = spawn_blocking(move || {
            let compiled = compile(&loaded.policy, &names, &host, &mut ledger);
            (compiled, loaded, host)
        });
        let (compiled, loaded, host) = self.hearing(compiling).await?;
        let compiled = compiled.context("the policy doesn't fit")?;
        let old = Judge::new(&self.slots.in_force().tables, &self.host);
        let new = Judge::new(&compiled.tables, &host);
        let cut = flows.denied(&old, &new);
        let told = cut.iter().take(FEW).map(|key| self.tell(&flows, key)).collect();
        let [before, after]: [View; 2] =
            [&self.policy, &loaded.policy].map(|policy| policy.rules.iter().collect());
        Ok(Preview {
            difference: compare(&before, &after),
            settings: differing_sections(&self.policy, &loaded.policy),
            cut_flows: cut.len(),
            flows: told,
            warnings: summed_up(&loaded.warnings),
        })
    }

    fn tell(&self, flows: &Flows, key: &filter_common::wire::FlowKey) -> String {
        let client = flows.clients(key, &self.host.own).first().copied();
        let (from, port) = match &client {
            Some(client) => (local(client), client.local_port),
            None => (local(key), key.local_port),
        };
        let to = remote(client.as_ref().unwrap_or(key));
        let name = self.name_of(to).map(|name| format!(" ({name})")).unwrap_or_default();
        let protocol = protocol_name(key.protocol);
        format!("{protocol} {from} port {port} -> {to}{name} port {}", key.remote_port)
    }
}

/// Sections beside the rules that differ, in the words of the files. Where they stand is no difference.
fn differing_sections(old: &Policy, new: &Policy) -> Vec<String> {
    let mut sections = Vec::new();
    let mut note = |section: &str, same: bool| {
        if !same {
            sections.push(section.to_owned());
        }
    };
    let gateway = {
        let mut gateway = old.gateway.clone();
        gateway.origin = new.gateway.origin.clone();
        gateway
    };
    note("[gateway]", gateway == new.gateway);
    let dns = {
        let mut dns = old.dns.clone();
        dns.origin.clone_from(&new.dns.origin);
        dns
    };
    note("[dns]", dns == new.dns);
    let management = {
        let mut management = old.management.clone();
        management.origin.clone_from(&new.management.origin);
        management
    };
    note("[management]", management == new.management);
    let same = old.sources.len() == new.sources.len()
        && old.sources.iter().zip(&new.sources).all(|(old, new)| {
            let mut old = old.clone();
            old.origin = new.origin.clone();
            old == *new
        });
    note("[[source]]", same);
    let same = old.inbound.len() == new.inbound.len()
        && old.inbound.iter().zip(&new.inbound).all(|(old, new)| {
            let mut old = old.clone();
            old.origin = new.origin.clone();
            old == *new
        });
    note("[[inbound]]", same);
    sections
}
