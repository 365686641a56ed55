// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab with one contender on its gateway, through which traffic is sent again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::unistd::Pid;
use serde_json::Value;

use super::{
    Judgement, Kind,
    contender::{Contender, Work},
    counters::{Counters, NicCount, kernel_threads, processor_time},
};
use crate::{
    generator::live::{Arrived, Attached, Empty, Generator, Way, pin},
    netns::Namespace,
    process::{run, wait_until},
    raw,
    topology::{INSIDE, OUTSIDE, Topology},
};

/// The NIC of the client and of the internet.
pub(super) const END: &str = "eth0";

/// Traffic before anything is measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// How long the last packets may be under way.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// How long opening flows may take.
const OPENING: Duration = Duration::from_secs(20);

/// Packets for each flow, at random, so that none is left out.
const OPENERS: u64 = 20;

/// The priority of the gateway's thread, so that what else the machine does comes second.
const NICE: &str = "-10";

/// Processors of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processors {
    pub(super) generator: usize,
    pub(super) gateway: usize,
}

/// A contender in its lab.
#[derive(Debug)]
pub(super) struct Lane<'lab> {
    pub(super) contender: Contender,
    pub(super) topology: &'lab Topology,
    work: Work<'lab>,
    receivers: Option<Receivers>,
    generators: BTreeMap<Kind, Generator>,
    answers: Generator,
    counters: Counters,
    internet: Counters,
    processors: Processors,
    /// The thread that takes packets off the inside NIC's queue.
    polling: Pid,
    /// The thread that goes on with the processor's soft interrupts when they are many.
    soft_interrupts: Pid,
}

#[derive(Debug)]
struct Receivers {
    client: Attached,
    internet: Attached,
}

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Packets that were judged, a second.
    pub(super) judged: f64,
    /// Packets that arrived, a second.
    pub(super) arrived: f64,
    /// Processor time of the gateway for each judged packet, in nanoseconds.
    pub(super) cost: f64,
    /// The part of the time in which the gateway's processor worked for it.
    pub(super) busy: f64,
    /// The part of the judged packets that the kernel lost behind the filter.
    pub(super) lost: f64,
}

/// A look at the clock and the counters.
struct Moment {
    at: Instant,
    judged: u64,
    arrived: u64,
    worked: Duration,
}

/// Everything that is counted, while nothing is under way.
#[derive(Debug)]
struct Totals {
    inside: NicCount,
    outside: NicCount,
    end: NicCount,
    discarded: u64,
    arrived: Arrived,
    /// By Sluice at the inside NIC: passed and dropped.
    counted: Option<(u64, u64)>,
}

// === impl Lane ===

impl<'lab> Lane<'lab> {
    pub(super) fn new(
        contender: Contender,
        topology: &'lab Topology,
        allowed: &[Ipv4Addr],
        kinds: &[Kind],
        processors: Processors,
    ) -> Result<Self> {
        prepare(topology)?;
        let receivers = Receivers {
            client: Attached::new(&topology.client, END, Empty::Receive)?,
            internet: Attached::new(&topology.internet, END, Empty::Receive)?,
        };
        let work = contender.start(topology, allowed)?;
        let polling = poll_in_thread(&topology.gateway, INSIDE)?;
        pin(polling, processors.gateway)?;
        run(Command::new("renice").args(["-n", NICE, "-p", &polling.to_string()]))?;
        let soft_interrupts = format!("ksoftirqd/{}", processors.gateway);
        let soft_interrupts = *kernel_threads(&soft_interrupts)?
            .first()
            .with_context(|| format!("there is no {soft_interrupts}"))?;
        let (_, inside) = raw::identity(&topology.gateway, INSIDE)?;
        let (_, outside) = raw::identity(&topology.gateway, OUTSIDE)?;
        let mut generators = BTreeMap::new();
        for (seed, kind) in (1..).zip(kinds) {
            let traffic = kind.traffic(allowed, Way::There);
            let generator = Generator::new(&topology.client, END, inside, seed, &traffic)?;
            generators.insert(*kind, generator);
        }
        let answers = Kind::ANSWERED.traffic(allowed, Way::Back);
        let answers = Generator::new(&topology.internet, END, outside, 1, &answers)?;
        Ok(Self {
            contender,
            topology,
            work,
            receivers: Some(receivers),
            generators,
            answers,
            counters: Counters::open(&topology.gateway)?,
            internet: Counters::open(&topology.internet)?,
            processors,
            polling,
            soft_interrupts,
        })
    }

    /// Sends traffic of a kind for some time, and checks every verdict.
    pub(super) fn generate(&self, kind: Kind, time: Duration) -> Result<Sample> {
        let generator = self.generators.get(&kind).context("traffic that wasn't prepared")?;
        if kind.judgement == Judgement::Allowed && self.contender.follows_flows() {
            self.open_flows()?;
        }
        let before = self.settled()?;
        let (made, sample) = self.send(generator, &self.topology.client, || self.window(time))?;
        let after = self.settled()?;
        let sample = sample?;
        let lost = self
            .check(kind.judgement, &before, &after, Some(made))
            .with_context(|| format!("{}, {kind}: {before:?}, then {after:?}", self.contender))?;
        Ok(Sample { lost, ..sample })
    }

    /// Measures while somebody else sends allowed packets, and checks every verdict.
    pub(super) fn watch(
        &self,
        time: Duration,
        send: impl FnOnce() -> Result<()> + Send,
    ) -> Result<Sample> {
        let before = self.settled()?;
        let sample = thread::scope(|scope| {
            let sender = scope.spawn(send);
            let sample = self.window(time);
            sender.join().map_err(|_panic| anyhow!("the sender panicked"))??;
            sample
        })?;
        let after = self.settled()?;
        let lost = self
            .check(Judgement::Allowed, &before, &after, None)
            .with_context(|| format!("{}: {before:?}, then {after:?}", self.contender))?;
        Ok(Sample { lost, ..sample })
    }

    pub(super) fn processors(&self) -> Processors {
        self.processors
    }

    /// Lets the ends receive for themselves from now on.
    pub(super) fn take_receivers_off(&mut self) {
        self.receivers = None;
    }

    /// Processor time of the gateway so far.
    fn worked(&self) -> Result<Duration> {
        Ok(processor_time(self.polling)? + processor_time(self.soft_interrupts)?)
    }

    fn receivers(&self) -> Result<&Receivers> {
        self.receivers.as_ref().context("nobody counts what arrives any more")
    }

    /// Runs a generator while something else is done, and ends it in any case.
    fn send<T>(
        &self,
        generator: &Generator,
        from: &Namespace,
        meanwhile: impl FnOnce() -> T,
    ) -> Result<(u64, T)> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| generator.run(from, self.processors.generator, &stop));
            let done = meanwhile();
            stop.store(true, Ordering::Relaxed);
            let made = sender.join().map_err(|_panic| anyhow!("the generator panicked"))??;
            Ok((made, done))
        })
    }

    fn window(&self, time: Duration) -> Result<Sample> {
        thread::sleep(WARM_UP);
        let start = self.moment()?;
        thread::sleep(time);
        let end = self.moment()?;
        let seconds = (end.at - start.at).as_secs_f64();
        let judged = (end.judged - start.judged) as f64;
        ensure!(judged > 0.0, "nothing reached the gateway");
        let worked = (end.worked - start.worked).as_secs_f64();
        Ok(Sample {
            judged: judged / seconds,
            arrived: (end.arrived - start.arrived) as f64 / seconds,
            cost: worked * 1e9 / judged,
            busy: worked / seconds,
            lost: 0.0,
        })
    }

    fn moment(&self) -> Result<Moment> {
        Ok(Moment {
            judged: self.counters.nic(INSIDE)?.received,
            arrived: self.receivers()?.internet.arrived()?.traffic,
            worked: self.worked()?,
            at: Instant::now(),
        })
    }

    /// What is counted once nothing moves any more.
    fn settled(&self) -> Result<Totals> {
        let mut last = None;
        wait_until("the last packets are through", UNDER_WAY, || {
            let now = (self.counters.nic(INSIDE)?, self.receivers()?.internet.arrived()?);
            let same = last.replace(now) == Some(now);
            Ok(same)
        })?;
        let counted = match &self.work {
            Work::Sluice(gateway) => {
                let status = gateway.command(&["status"])?.json()?;
                Some(counted(&status).with_context(|| format!("`sluice status` said {status}"))?)
            }
            Work::Program { .. } | Work::Rules => None,
        };
        Ok(Totals {
            inside: self.counters.nic(INSIDE)?,
            outside: self.counters.nic(OUTSIDE)?,
            end: self.internet.nic(END)?,
            discarded: self.counters.discarded()?,
            arrived: self.receivers()?.internet.arrived()?,
            counted,
        })
    }

    /// Checks that each packet met its verdict, and returns the part that the kernel lost behind
    /// the filter.
    fn check(
        &self,
        judgement: Judgement,
        before: &Totals,
        after: &Totals,
        made: Option<u64>,
    ) -> Result<f64> {
        let judged = after.inside.received - before.inside.received;
        let refused = after.inside.receive_dropped - before.inside.receive_dropped;
        let arrived = after.arrived.traffic - before.arrived.traffic;
        let passes = match judgement {
            Judgement::Allowed => self.contender.passes(),
            Judgement::Denied => !self.contender.drops(),
        };
        if let Some(made) = made {
            ensure!(
                made == judged + refused,
                "{made} packets were made, {judged} judged, and {refused} found no room"
            );
        }
        if let (Some(before), Some(after)) = (before.counted, after.counted) {
            let counted = (after.0 - before.0, after.1 - before.1);
            let expected = if passes { (judged, 0) } else { (0, judged) };
            ensure!(
                counted == expected,
                "Sluice counts {} passed and {} dropped of {judged} packets, all of which {}",
                counted.0,
                counted.1,
                if passes { "are allowed" } else { "are denied" }
            );
        }
        if !passes {
            ensure!(arrived == 0, "{arrived} of {judged} packets arrived, and none should");
            return Ok(0.0);
        }
        let lost = (after.outside.send_dropped - before.outside.send_dropped)
            + (after.end.receive_dropped - before.end.receive_dropped)
            + (after.discarded - before.discarded);
        ensure!(
            arrived + lost == judged,
            "of {judged} packets {arrived} arrived and the kernel counts {lost} as lost"
        );
        Ok(lost as f64 / judged.max(1) as f64)
    }

    /// Makes every flow of allowed traffic an established one: both ends have sent.
    fn open_flows(&self) -> Result<()> {
        let kind = Kind::ANSWERED;
        let opening = self.generators.get(&kind).context("no such traffic")?;
        let enough = kind.flows() * OPENERS;
        let receivers = self.receivers()?;
        let (client, internet) = (&self.topology.client, &self.topology.internet);
        for (generator, from, end) in
            [(opening, client, &receivers.internet), (&self.answers, internet, &receivers.client)]
        {
            let before = end.arrived()?.traffic;
            let (_, opened) = self.send(generator, from, || {
                wait_until("flows are open", OPENING, || {
                    Ok(end.arrived()?.traffic - before >= enough)
                })
            })?;
            opened.with_context(|| {
                format!("{}: from {} nothing gets through", self.contender, from.name())
            })?;
        }
        Ok(())
    }
}

/// What Sluice counted at the inside NIC: passed and dropped.
fn counted(status: &Value) -> Option<(u64, u64)> {
    let nics = status.get("nics")?.as_array()?;
    let nic = nics.iter().find(|nic| nic.get("name").is_some_and(|name| name == INSIDE))?;
    if nic.get("attached")? != "native" {
        return None;
    }
    let count = |what: &str| nic.get(what)?.get("packets")?.as_u64();
    Some((count("passed")?, count("dropped")?))
}

/// Makes a lab fit for measuring: nothing is sent but traffic, and frames from XDP are received
/// also where there is no program.
fn prepare(topology: &Topology) -> Result<()> {
    let ends = [
        (&topology.gateway, INSIDE, &topology.client, "10.20.0.1", "10.20.0.2"),
        (&topology.gateway, OUTSIDE, &topology.internet, "192.0.2.1", "192.0.2.2"),
    ];
    for (gateway, nic, other, near, far) in ends {
        for (namespace, nic, neighbour, behind) in
            [(gateway, nic, other, far), (other, END, gateway, near)]
        {
            namespace.set_sysctls(&[("net/ipv6/conf/all/disable_ipv6", "1")])?;
            run(namespace.command("ethtool").args(["-K", nic, "gro", "on"]))?;
            let behind_nic = if nic == END { gateway_nic(near) } else { END };
            let (_, mac) = raw::identity(neighbour, behind_nic)?;
            let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
            run(namespace.command("ip").args([
                "neigh",
                "replace",
                behind,
                "lladdr",
                &mac,
                "dev",
                nic,
                "nud",
                "permanent",
            ]))?;
        }
    }
    // Clients behind a router, so that floods come from many addresses.
    for (namespace, via) in [(&topology.gateway, "10.20.0.2"), (&topology.internet, "192.0.2.1")] {
        run(namespace.command("ip").args(["route", "add", "10.32.0.0/16", "via", via]))?;
    }
    Ok(())
}

fn gateway_nic(address: &str) -> &'static str {
    if address.starts_with("10.") { INSIDE } else { OUTSIDE }
}

/// Has packets of a NIC taken off its queue by a thread of the kernel, and returns it: only a thread
/// has a processor of its own, and its time is counted.
fn poll_in_thread(namespace: &Namespace, nic: &str) -> Result<Pid> {
    let prefix = format!("napi/{nic}-");
    let before: BTreeSet<_> = kernel_threads(&prefix)?.into_iter().collect();
    // The mount of sysfs has to be the namespace's: `ip netns exec` makes one.
    let script = format!("echo 1 > /sys/class/net/{nic}/threaded");
    run(Command::new("ip").args(["netns", "exec", namespace.name(), "sh", "-c", &script]))
        .context("polling in a thread (Linux 5.12 or newer)")?;
    let after: Vec<_> =
        kernel_threads(&prefix)?.into_iter().filter(|thread| !before.contains(thread)).collect();
    match after.as_slice() {
        [thread] => Ok(*thread),
        threads => bail!(
            "{} threads poll {nic} of {}, and one should: does another run measure?",
            threads.len(),
            namespace.name()
        ),
    }
}
