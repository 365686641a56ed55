// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that is counted, as OpenMetrics: on the control socket, and at the addresses of
//! `[metrics]`.

use std::{collections::BTreeMap, fmt::Debug, fs, net::SocketAddr};

use anyhow::{Context as _, Result};
use prometheus_client::{
    encoding::{EncodeMetric, text::encode},
    metrics::{TypedMetric, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::{
    Daemon,
    replies::{Counted, Kind},
};
use crate::control::{
    protocol::{Count, Status},
    server::{Call, serve_metrics},
};

/// Names and values of labels.
type Labels = Vec<(&'static str, String)>;

/// The listeners of `[metrics]`.
#[derive(Debug, Default)]
pub(super) struct MetricsListeners {
    running: BTreeMap<SocketAddr, JoinHandle<()>>,
    /// Why an address can't be listened on, if so.
    pub(super) closed: BTreeMap<SocketAddr, String>,
    calls: Option<mpsc::Sender<Call>>,
}

impl MetricsListeners {
    /// Where requests go.
    pub(super) fn set_calls(&mut self, calls: mpsc::Sender<Call>) {
        self.calls = Some(calls);
    }

    /// Listens at these addresses and no others. What fails is tried again with the next call.
    pub(super) async fn follow(&mut self, wanted: &[SocketAddr]) {
        let Some(calls) = &self.calls else { return };
        self.running.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                task.abort();
            }
            stays
        });
        self.closed.retain(|address, _| wanted.contains(address));
        for address in wanted {
            if self.running.contains_key(address) {
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let task = tokio::spawn(serve_metrics(listener, calls.clone()));
                    self.running.insert(*address, task);
                    if self.closed.remove(address).is_some() {
                        tracing::info!(%address, "metrics are given out there again");
                    }
                }
                Err(error) => {
                    let message = format!("metrics can't be given out at {address}: {error}");
                    if self.closed.insert(*address, message.clone()).as_ref() != Some(&message) {
                        tracing::error!("{message}; it is tried again");
                    }
                }
            }
        }
    }
}

impl Drop for MetricsListeners {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}

impl Daemon {
    /// Everything that is counted.
    pub(super) async fn metrics(&mut self) -> Result<String> {
        let status = self.status().await?;
        let mut registry = Registry::with_prefix("sluice");
        self.of_packets(&mut registry)?;
        of_tables(&mut registry, &status);
        of_state(&mut registry, &status);
        self.of_names(&mut registry, &status);
        of_process(&mut registry)?;
        let mut text = String::new();
        encode(&mut text, &registry).context("the metrics can't be written")?;
        Ok(text)
    }

    fn of_packets(&self, registry: &mut Registry) -> Result<()> {
        let mut sums: BTreeMap<(String, &str, &str), Count> = BTreeMap::new();
        let mut answers: BTreeMap<(String, &str), Count> = BTreeMap::new();
        for nic in &self.nics {
            let name = nic.name.to_string();
            for Counted { kind, reason, count } in self.counted(nic.index)? {
                let verdict = match kind {
                    Kind::Passed => "pass",
                    Kind::Dropped => "drop",
                    Kind::Audited => "audit",
                    Kind::Rejected => {
                        let sum = answers.entry((name.clone(), reason)).or_default();
                        *sum = *sum + count;
                        continue;
                    }
                };
                let sum = sums.entry((name.clone(), verdict, reason)).or_default();
                *sum = *sum + count;
            }
        }
        let labels = |(nic, verdict, reason): &(String, &str, &str)| -> Labels {
            let label = |text: &str| text.to_owned();
            vec![("nic", nic.clone()), ("verdict", label(verdict)), ("reason", label(reason))]
        };
        counters(
            registry,
            ("packets", "bytes"),
            "that entered or left a NIC, by verdict and reason; audit: passed, and would have been \
             dropped",
            sums.iter().map(|(key, count)| (labels(key), *count)),
        );
        let answers = answers.iter().map(|((nic, what), count)| {
            (vec![("nic", nic.clone()), ("answer", (*what).to_owned())], *count)
        });
        counters(
            registry,
            ("rejected_packets", "rejected_bytes"),
            "that were denied and whose client was to be told, by what came of that",
            answers,
        );
        let rules = self.rules()?;
        let rules = rules.iter().map(|rule| (vec![("rule", rule.name.clone())], rule.count));
        counters(
            registry,
            ("rule_packets", "rule_bytes"),
            "that a rule let pass; what two rules allow counts for both",
            rules,
        );
        Ok(())
    }

    fn of_names(&self, registry: &mut Registry, status: &Status) {
        let policy = status.policy;
        for (name, help, value) in [
            ("names", "Names that are looked up or have addresses", policy.names),
            ("names_with_addresses", "Names that have an address", policy.names_with_addresses),
            ("names_failing", "Names whose last look-up failed", policy.names_failing),
            ("name_addresses", "Addresses of all names", policy.addresses),
        ] {
            gauge(registry, name, help, wide(value));
        }
        let counted = status.dns.counters.iter().map(|(what, count)| {
            (vec![("event", what.clone())], Count { packets: *count, bytes: 0 })
        });
        counter(registry, "dns_events", "What became of questions and responses", counted);
        registry.register_with_unit(
            "dns_upstream_latency",
            "How long questions took that upstream resolvers answered",
            Unit::Seconds,
            self.forwarding.counters.latency().clone(),
        );
        let healthy = status.dns.upstream.iter().map(|upstream| {
            let answered = upstream.answered_s_ago.unwrap_or(u64::MAX);
            let failed = upstream.failed_s_ago.unwrap_or(u64::MAX);
            let up = upstream.failed_s_ago.is_none() || answered <= failed;
            (vec![("upstream", upstream.resolver.clone())], i64::from(up))
        });
        gauges(registry, "upstream_up", "Whether a resolver's last word was an answer", healthy);
    }
}

fn of_tables(registry: &mut Registry, status: &Status) {
    let label = |name: &str| -> Labels { vec![("table", name.to_owned())] };
    let used = status.tables.iter().map(|table| (label(&table.name), narrow(table.used)));
    gauges(registry, "table_entries", "Entries of the kernel's tables", used);
    let most = status.tables.iter().map(|table| (label(&table.name), narrow(table.capacity)));
    gauges(registry, "table_capacity", "Entries that fit into the kernel's tables", most);
    let memory = status.kernel_memory;
    let parts = [("fixed", memory.fixed_bytes), ("prefixes", memory.prefix_bytes)];
    let parts = parts.map(|(part, bytes)| (vec![("part", part.to_owned())], narrow(bytes)));
    gauges(registry, "kernel_memory_bytes", "The kernel's memory that tables take", parts);
}

fn of_state(registry: &mut Registry, status: &Status) {
    let problems = status.problems.len() + usize::from(status.config_error.is_some());
    for (name, help, value) in [
        ("ready", "Whether the policy is in force everywhere", i64::from(status.ready)),
        ("policy_generation", "The number of the policy in force", narrow(status.generation)),
        ("problems", "Things that are wrong and tried again", wide(problems)),
        ("warnings", "Things that one may wonder about", wide(status.warnings.len())),
        ("allows", "Things that are allowed beside the policy", wide(status.allows)),
        (
            "confirm_left_seconds",
            "Seconds until the policy is taken back unless it is confirmed; -1: it stays",
            status.pending.map_or(-1, |pending| narrow(pending.left_s)),
        ),
        ("uptime_seconds", "Seconds since the daemon started", narrow(status.uptime_s)),
    ] {
        gauge(registry, name, help, value);
    }
    let info = vec![("version", status.version.clone()), ("mode", status.mode.clone())];
    gauges(registry, "build_info", "Always 1; which Sluice it is", [(info, 1)]);
    let attached = status.nics.iter().map(|nic| {
        let labels = vec![("nic", nic.name.clone()), ("side", nic.side.clone())];
        (labels, i64::from(nic.attached != "gone"))
    });
    gauges(registry, "nic_filtered", "Whether the filter is on a NIC", attached);
    let samples = [("skipped", status.events.skipped), ("lost", status.events.lost)];
    let samples = samples
        .map(|(what, count)| (vec![("what", what.to_owned())], Count { packets: count, bytes: 0 }));
    counter(registry, "missed_samples", "Samples of drops that nobody got", samples);
}

/// What the daemon itself takes (proc(5), `statm` and `fd`).
fn of_process(registry: &mut Registry) -> Result<()> {
    let pages = fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
    let bytes = resident.unwrap_or_default() * u64::try_from(page)?;
    let files = fs::read_dir("/proc/self/fd").context("/proc/self/fd")?.count();
    gauge(registry, "resident_memory_bytes", "The daemon's memory", narrow(bytes));
    gauge(registry, "open_files", "The daemon's open files", wide(files));
    Ok(())
}

/// Two counters, of packets and of their bytes.
fn counters(
    registry: &mut Registry,
    (packets, bytes): (&str, &str),
    help: &str,
    counted: impl IntoIterator<Item = (Labels, Count)>,
) {
    let (of_packets, of_bytes) = (family::<Counter>(), family::<Counter>());
    for (labels, count) in counted {
        of_packets.get_or_create(&labels).inc_by(count.packets);
        of_bytes.get_or_create(&labels).inc_by(count.bytes);
    }
    register(registry, packets, &format!("Packets {help}"), of_packets);
    register(registry, bytes, &format!("Bytes of packets {help}"), of_bytes);
}

fn counter(
    registry: &mut Registry,
    name: &str,
    help: &str,
    counted: impl IntoIterator<Item = (Labels, Count)>,
) {
    let family = family::<Counter>();
    for (labels, count) in counted {
        family.get_or_create(&labels).inc_by(count.packets);
    }
    register(registry, name, help, family);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    register(registry, name, help, gauge);
}

fn gauges(
    registry: &mut Registry,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, i64)>,
) {
    let family = family::<Gauge>();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    register(registry, name, help, family);
}

fn family<M: Default + Clone>() -> Family<Labels, M> {
    Family::default()
}

fn register<M>(registry: &mut Registry, name: &str, help: &str, metric: M)
where
    M: EncodeMetric + TypedMetric + Debug + Send + Sync + 'static,
{
    registry.register(name, help, metric);
}

/// A number of things; there are never so many that it doesn't fit.
fn wide(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn narrow(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
