// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows: listing and cutting them, and what becomes of them when the policy changes. The programs
//! write them; here they are only read, cut and forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use filter_common::{
    flow::{Clock, FlowState, Origin},
    parse::protocol,
    wire::{FlowChange, FlowKey, FlowRecord, MAX_KEPT_FLOWS},
};

use super::{
    Daemon,
    judge::{Flows, Judge, Judgement, is_live, local, origin, remote, state, turned},
    replies::protocol_name,
};
use futures_util::FutureExt as _;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    compile::{Host, SlotTables},
    control::pattern::fits_name,
    control::protocol::{
        Care, FlowDetail, FlowFilter, FlowList, FlowQuestion, FlowStatus, Killed, NamedRule,
        ReloadRequest, TableStatus,
    },
    kernel::{
        FlowTables, FlowWriter,
        conntrack::{Connections, connections},
    },
    policy::{OnChange, Policy},
};

/// How often flows that have expired are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// A flow that was kept just now may not be in the table of flows yet as it is read.
const KEPT_AT_LEAST: u64 = 5;

/// The sweeping of the tables of flows.
#[derive(Debug)]
pub(super) struct Sweeping {
    next: Instant,
    task: Option<JoinHandle<Option<Swept>>>,
    /// The remote ends of connections that were open when the last sweep went by.
    connected: BTreeSet<IpAddr>,
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Swept {
    expired: usize,
    kept_no_longer: usize,
    connected: BTreeSet<IpAddr>,
}

/// What became of flows when the policy changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Flows that were cut.
    pub(super) cut: usize,
    /// Flows that are kept.
    pub(super) kept: usize,
}

impl Default for Sweeping {
    fn default() -> Self {
        Self { next: Instant::now() + SWEEP_INTERVAL, task: None, connected: BTreeSet::new() }
    }
}

impl Daemon {
    /// The flows of this moment.
    pub(super) async fn read_flows(&mut self) -> Result<Flows> {
        let connections = self.hearing(connections()).await?;
        let flows = self.read_flow_table().await?;
        Ok(Flows::new(self.clock.now()?, flows, connections))
    }

    /// The table of flows, read by another thread: a full one takes longer than clients can wait.
    async fn read_flow_table(&mut self) -> Result<Vec<(FlowKey, FlowRecord)>> {
        let tables = FlowTables::open(&self.pins)?;
        let reading = spawn_blocking(move || tables.flows());
        self.hearing(reading).await?.context("the flows can't be read")
    }

    /// How full the tables of flows are.
    pub(super) async fn flow_tables(&mut self) -> Result<Vec<TableStatus>> {
        let all = self.read_flow_table().await?;
        let flows = Flows::new(self.clock.now()?, all, Connections::default());
        let kept = self.slots.maps.kept_flows()?.len();
        let table = |(name, used, capacity): (&str, usize, u32)| TableStatus {
            name: name.to_owned(),
            used: u64::try_from(used).unwrap_or(u64::MAX),
            capacity: u64::from(capacity),
        };
        let most = self.slots.maps.sizes().flows;
        let tables = [("flows", flows.entries(), most), ("kept flows", kept, MAX_KEPT_FLOWS)];
        Ok(tables.map(table).into())
    }

    /// Forgets flows that have expired, once in a while, in a task and a thread of their own: a
    /// full table takes longer than the event loop may stand still.
    pub(super) fn sweep_flows(&mut self) {
        if let Some(task) = self.sweeping.task.take_if(|task| task.is_finished())
            && let Some(Ok(Some(swept))) = task.now_or_never()
        {
            self.sweeping.connected = swept.connected;
        }
        if self.sweeping.task.is_some() || Instant::now() < self.sweeping.next {
            return;
        }
        self.sweeping.next = Instant::now() + SWEEP_INTERVAL;
        let prepared = self.clock.now().and_then(|clock| {
            Ok((clock, FlowTables::open(&self.pins)?, FlowWriter::load(&self.pins)?))
        });
        let (clock, tables, writer) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::warn!("flows that have expired can't be forgotten: {error:#}");
                return;
            }
        };
        let own = self.host.own.clone();
        self.sweeping.task = Some(tokio::spawn(async move {
            let swept = match connections().await {
                Ok(found) => spawn_blocking(move || sweep((tables, writer), clock, found, &own))
                    .await
                    .map_err(anyhow::Error::from)
                    .and_then(|swept| swept),
                Err(error) => Err(error),
            };
            match swept {
                Ok(swept) => {
                    let Swept { expired, kept_no_longer, .. } = swept;
                    tracing::debug!(expired, kept_no_longer, "flows were swept");
                    Some(swept)
                }
                Err(error) => {
                    tracing::warn!("flows that have expired can't be forgotten: {error:#}");
                    None
                }
            }
        }));
    }

    /// Remote ends to which connections are open, however long nothing went through them: as they
    /// were some time ago, at most about a minute.
    pub(super) fn connected(&self) -> &BTreeSet<IpAddr> {
        &self.sweeping.connected
    }

    /// The flows that fit a filter, in the order of clients.
    pub(super) async fn list_flows(&mut self, question: &FlowQuestion) -> Result<FlowList> {
        let flows = self.read_flows().await?;
        let judge = self.judge_in_force();
        let fitting = self.fitting(&flows, &judge, &question.filter)?;
        let count = fitting.len();
        let mut list: Vec<FlowStatus> = match question.detail {
            FlowDetail::Count => Vec::new(),
            FlowDetail::List => fitting.into_iter().map(|(_, status)| status).collect(),
        };
        list.sort();
        Ok(FlowList { count, flows: list })
    }

    /// Cuts the flows that fit a filter.
    pub(super) async fn kill_flows(&mut self, filter: &FlowFilter) -> Result<Killed> {
        let flows = self.read_flows().await?;
        let judge = self.judge_in_force();
        let fitting = self.fitting(&flows, &judge, filter)?;
        let keys: Vec<FlowKey> = fitting
            .into_iter()
            .filter(|(_, status)| status.state != FlowState::Cut.name())
            .map(|(key, _)| key)
            .collect();
        self.cut(&flows, &keys)?;
        tracing::info!(flows = keys.len(), "flows were cut on request");
        Ok(Killed { cut: keys.len() })
    }

    /// The tables in force, ready to judge flows.
    fn judge_in_force(&self) -> Judge<'_> {
        Judge::new(&self.slots.in_force().tables, &self.host)
    }

    fn fitting(
        &self,
        flows: &Flows,
        judge: &Judge<'_>,
        filter: &FlowFilter,
    ) -> Result<Vec<(FlowKey, FlowStatus)>> {
        if let Some(name) = &filter.state
            && FlowState::ALL.iter().all(|state| state.name() != name)
        {
            let known = FlowState::ALL.map(FlowState::name).join(", ");
            bail!("there is no state {name}; the states of flows are {known}");
        }
        let mut fitting = Vec::new();
        for (key, record) in flows.listed() {
            if !fits_key(filter, key, record) {
                continue;
            }
            let status = self.flow_status(flows, judge, key, record);
            if fits_status(filter, &status) {
                fitting.push((*key, status));
            }
        }
        Ok(fitting)
    }

    fn flow_status(
        &self,
        flows: &Flows,
        judge: &Judge<'_>,
        key: &FlowKey,
        record: &FlowRecord,
    ) -> FlowStatus {
        let seconds = |tick: u64| {
            let Clock { now, hertz } = flows.clock;
            now.saturating_sub(tick).checked_div(hertz).unwrap_or(0)
        };
        let origin = origin(record);
        let client = match origin {
            Origin::Inside => flows.clients(key, &self.host.own).first().copied(),
            Origin::Client => Some(turned(key)),
            Origin::Gateway | Origin::Inbound | Origin::InboundHost => None,
        };
        let asked = client.as_ref().map(remote);
        let permit = match flows.judge(judge, key, record) {
            Judgement::Allowed(permit) => permit,
            Judgement::Denied | Judgement::Unjudged => None,
        };
        FlowStatus {
            client: client.as_ref().map(local),
            client_port: client.map_or(0, |client| client.local_port),
            local: local(key),
            local_port: key.local_port,
            remote: remote(key),
            remote_port: key.remote_port,
            protocol: protocol_name(key.protocol),
            state: state(record).name().to_owned(),
            origin: origin_name(origin).to_owned(),
            host: flows.hosts(key).first().map(|(host, port)| match host {
                IpAddr::V4(host) => format!("{host}:{port}"),
                IpAddr::V6(host) => format!("[{host}]:{port}"),
            }),
            age_s: seconds(record.created),
            idle_s: seconds(record.seen),
            packets_out: record.packets_out,
            bytes_out: record.bytes_out,
            packets_in: record.packets_in,
            bytes_in: record.bytes_in,
            name: asked.and_then(|asked| self.name_of(asked)).or_else(|| self.name_of(remote(key))),
            rules: permit.map_or_else(Vec::new, |permit| self.rules_of(permit.counter())),
        }
    }

    fn rules_of(&self, counter: u32) -> Vec<NamedRule> {
        let meaning = &self.slots.in_force().meaning;
        let rules = meaning.counter(counter).into_iter().flat_map(|found| found.rules.iter());
        rules
            .filter_map(|rule| meaning.rule(*rule))
            .map(|rule| NamedRule { rule: rule.name.to_string(), origin: rule.origin.to_string() })
            .collect()
    }

    fn cut(&mut self, flows: &Flows, keys: &[FlowKey]) -> Result<()> {
        let keys = keys.iter().flat_map(|key| flows.with_company(key));
        self.slots.maps.cut_flows(keys).context("a flow can't be cut")
    }

    /// Keeps flows by the tuples that their packets come in with.
    pub(super) fn keep<'k>(
        &mut self,
        flows: &Flows,
        keys: impl Iterator<Item = &'k FlowKey>,
    ) -> Result<()> {
        for key in keys {
            let kept = self.slots.maps.keep_flow(key, flows.clock.now);
            kept.context("a flow can't be kept")?;
        }
        Ok(())
    }

    /// After a swap that failed.
    pub(super) fn keep_no_longer(&mut self, kept: &BTreeMap<FlowKey, FlowKey>) {
        for key in kept.keys() {
            if let Err(error) = self.slots.maps.forget_kept_flow(key) {
                tracing::warn!("a flow stays kept until it ends: {error:#}");
            }
        }
    }

    /// After new tables were put in force: cuts what they deny, or keeps what was opened since
    /// [`kept`] looked.
    pub(super) async fn settle_flows(
        &mut self,
        (old, old_host): (&SlotTables, &Host),
        before: BTreeMap<FlowKey, FlowKey>,
    ) -> Result<Outcome> {
        let flows = self.read_flows().await?;
        let old = Judge::new(old, old_host);
        let new = Judge::new(&self.slots.in_force().tables, &self.host);
        match self.policy.gateway.on_change {
            OnChange::Cut => {
                let denied = flows.denied(&old, &new);
                self.cut(&flows, &denied)?;
                if !denied.is_empty() {
                    tracing::info!("cut {} flows that the policy allows no more", denied.len());
                }
                Ok(Outcome { cut: denied.len(), kept: 0 })
            }
            OnChange::Keep => {
                let mut kept = flows.kept(&old, &new);
                let late: Vec<FlowKey> =
                    kept.keys().filter(|key| !before.contains_key(key)).copied().collect();
                self.keep(&flows, late.iter())?;
                kept.extend(before);
                let kept = kept.into_values().collect::<BTreeSet<_>>().len();
                if kept > 0 {
                    tracing::info!("kept {kept} flows that the policy allows no more");
                }
                Ok(Outcome { cut: 0, kept })
            }
        }
    }

    /// Refuses tables that shut out the session which asks for them.
    pub(super) fn check_session(
        request: &ReloadRequest,
        policy: &Policy,
        old: &Judge<'_>,
        new: &Judge<'_>,
    ) -> Result<()> {
        let (Care::Careful, Some(session)) = (request.care, request.session) else {
            return Ok(());
        };
        let passes = |judge: &Judge<'_>| {
            let judgement = judge.session(session.client, session.server, session.server_port);
            matches!(judgement, Judgement::Allowed(_))
        };
        if !passes(old) || passes(new) {
            return Ok(());
        }
        let mend = match &policy.management.origin {
            Some(origin) => format!("{origin}: let [management] name {}", session.client),
            None => format!(
                "{}: add [management] with from = [\"{}\"] and tcp = [{}]",
                policy.gateway.origin, session.client, session.server_port
            ),
        };
        bail!(
            "the new policy would cut the session that asks for it, from {} to {} port {}; {mend}, \
             or reload with --force",
            session.client,
            session.server,
            session.server_port
        )
    }
}

fn sweep(
    (mut tables, mut writer): (FlowTables, FlowWriter),
    clock: Clock,
    connections: Connections,
    own: &BTreeSet<IpAddr>,
) -> Result<Swept> {
    let mut swept = Swept::default();
    // Those that the last sweep left: no packet takes as long.
    writer.change(&tables.places_left()?)?;
    let all = tables.flows()?;
    let expired: Vec<FlowChange> = all
        .iter()
        .filter(|(key, record)| !is_live(key, record, clock))
        .map(|(key, record)| FlowChange {
            key: *key,
            action: FlowChange::FORGET_UNSEEN,
            value: record.seen,
        })
        .collect();
    writer.change(&expired)?;
    swept.expired = expired.len();
    let open = |(key, record): &&(FlowKey, FlowRecord)| {
        key.protocol == protocol::TCP
            && origin(record) == Origin::Inside
            && matches!(state(record), FlowState::Established)
            && is_live(key, record, clock)
    };
    swept.connected = all.iter().filter(open).map(|(key, _)| remote(key)).collect();
    let going = Flows::new(clock, all, connections).keepable(own);
    for (key, since) in tables.kept()? {
        if !going.contains(&key) && !clock.is_within(since, KEPT_AT_LEAST) {
            tables.forget_kept(&key)?;
            swept.kept_no_longer += 1;
        }
    }
    Ok(swept)
}

/// The tuples to keep before new tables are put in force, so that no packet of theirs meets those
/// alone; each with its flow.
pub(super) fn kept(
    flows: &Flows,
    old: &Judge<'_>,
    new: &Judge<'_>,
    policy: &Policy,
) -> BTreeMap<FlowKey, FlowKey> {
    match policy.gateway.on_change {
        OnChange::Cut => BTreeMap::new(),
        OnChange::Keep => flows.kept(old, new),
    }
}

/// What can be told before anything is looked up for a flow.
fn fits_key(filter: &FlowFilter, key: &FlowKey, record: &FlowRecord) -> bool {
    let service = match origin(record) {
        Origin::Gateway | Origin::Inside => key.remote_port,
        Origin::Inbound | Origin::InboundHost | Origin::Client => key.local_port,
    };
    let with_ports = matches!(key.protocol, protocol::TCP | protocol::UDP);
    filter.port.is_none_or(|port| with_ports && port == service)
        && (filter.protocol.is_empty() || filter.protocol.contains(&key.protocol))
        && filter.remote.is_none_or(|prefix| prefix.contains(&remote(key)))
        && filter.state.as_deref().is_none_or(|name| name == state(record).name())
}

fn fits_status(filter: &FlowFilter, status: &FlowStatus) -> bool {
    let client = filter
        .client
        .is_none_or(|prefix| status.client.is_some_and(|client| prefix.contains(&client)));
    let name = filter
        .name
        .as_deref()
        .is_none_or(|pattern| status.name.as_deref().is_some_and(|name| fits_name(pattern, name)));
    client && name
}

fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Gateway => "gateway",
        Origin::Inside => "inside",
        Origin::Inbound | Origin::InboundHost => "inbound",
        Origin::Client => "client",
    }
}
