// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one event loop: configuration, names, tables, NICs and the control socket meet here.
//!
//! Enforcement is the kernel's; the daemon keeps it current. It may be killed at any moment, and
//! the next one adopts what it finds.

mod absence;
mod answers;
mod changes;
mod complaints;
mod flows;
mod forwarding;
mod history;
mod interception;
mod judge;
mod kept;
mod live;
pub mod lockdown;
mod metrics;
mod naming;
pub mod nics;
mod pace;
mod permissions;
mod preview;
pub mod privileges;
mod rates;
mod reload;
mod replies;
mod seal;
mod service;
pub mod state;
mod stop;
mod suitable;
pub mod tables;
mod usage;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use filter_common::{
    egress::Side,
    wire::{AddressPair, LAYOUT_VERSION},
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{broadcast, mpsc, oneshot},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep_until},
};

use self::{
    absence::{Absences, News},
    changes::Provisional,
    flows::Sweeping,
    forwarding::{Forwarding, Resolvers},
    history::History,
    interception::Redirecting,
    kept::Kept,
    live::LiveAllows,
    metrics::MetricsListeners,
    naming::Restored,
    nics::Attached,
    pace::{Pace, Reading},
    rates::Rates,
    reload::{Deadline, Term},
    state::{Saved, StateDirectory},
    tables::{Found, Swept, TwoSlots},
    usage::UsageBook,
};
use crate::{
    compile::{CapacityError, Compiled, CounterLedger, Edit, Footprint, Host, MATCHES, compile},
    control::{
        protocol::{Drop, ReloadRequest},
        server::{Answer as Replied, Caller, Server},
    },
    dns::Resolver,
    kernel::{
        Attachment, Events, Instance, PinDirectory, SharedMaps,
        clock::TickClock,
        events::DropSample,
        maps::Provenance,
        memory,
        migration::{Inherited, Migration},
        netlink::{HostState, Netlink},
        object::check_privileges,
        offload::{self, Tags},
        pins::NicPins,
        watch,
    },
    names::{Answer, Changed, LookupFailure, NameCache, Settings, Wanted},
    policy::{
        Fqdn, NicName, Policy,
        load::{Diagnostic, Loaded},
    },
};

/// How often what failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Samples that a slow reader may be behind.
const DROP_BACKLOG: usize = 1024;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration directory.
    pub config: PathBuf,
    /// The pin directory.
    pub pins: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The state directory.
    pub state: PathBuf,
}

/// The answer to one look-up.
type Lookup = BoxFuture<'static, (Fqdn, Result<Answer, LookupFailure>)>;

/// A look-up that somebody asked for, and where its result is wanted.
type Resolving =
    BoxFuture<'static, (Fqdn, Result<Answer, LookupFailure>, oneshot::Sender<Replied>)>;

/// The daemon's state; one task owns it.
#[derive(Debug)]
struct Daemon {
    options: Options,
    started: Instant,
    policy: Policy,
    config_warnings: Vec<Diagnostic>,
    config_error: Option<String>,
    /// Why the tables in force are not what they should be, if so. It is tried again.
    tables_error: Option<String>,
    /// Why a NIC has no program, if so. It is tried again.
    nic_errors: BTreeMap<NicName, String>,
    /// Where the NICs' VLAN tags are.
    tags: BTreeMap<NicName, Tags>,
    /// The NICs that are not there.
    absences: Absences,
    nics: Vec<NicPins>,
    host_state: HostState,
    host: Host,
    netlink: Netlink,
    pace: Pace,
    attachments: Vec<Attachment>,
    /// What the programs know of interfaces; `None` while that isn't known.
    interfaces: Option<(BTreeMap<u32, Side>, BTreeMap<u8, AddressPair>)>,
    slots: TwoSlots,
    clock: TickClock,
    sweeping: Sweeping,
    redirecting: Redirecting,
    ledger: CounterLedger,
    saved_ledger: Option<CounterLedger>,
    names: NameCache,
    names_writing: naming::Writing,
    restored: Restored,
    resolver: Arc<Resolver>,
    forwarding: Forwarding,
    lookups: FuturesUnordered<Lookup>,
    resolving: FuturesUnordered<Resolving>,
    state: StateDirectory,
    history: History,
    /// Why the history isn't whole, if so.
    history_problem: Option<String>,
    live: LiveAllows,
    /// What of them is not in force, and why, if so.
    live_problem: Option<String>,
    provisional: Option<Provisional>,
    metrics_listeners: MetricsListeners,
    usage: UsageBook,
    rates: Rates,
    pins: PinDirectory,
    observers: BTreeMap<u8, Instance>,
    drops: broadcast::Sender<Drop>,
    drops_missed: u64,
}

/// Whether the tables in force are those of all that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InForce {
    Now,
    NotYet,
}

/// The signals that the daemon obeys.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// Runs until SIGTERM or SIGINT. Enforcement goes on afterwards.
///
/// # Errors
///
/// It can't start. Nothing is attached then that wasn't before.
pub async fn run(options: Options) -> Result<()> {
    match start_and_serve(options.clone()).await {
        Ok(()) => Ok(()),
        Err(error) => Err(lockdown::follow(&options, error).await),
    }
}

async fn start_and_serve(options: Options) -> Result<()> {
    // From here on a signal waits until the start is over.
    let signals = Signals {
        hangup: signal(SignalKind::hangup())?,
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    check_privileges()?;
    raise_file_limit();
    let state = StateDirectory::create(&options.state)?;
    let (kept, mut loaded, to_be_kept) = Kept::read(&state, &options)?;
    let mut netlink = Netlink::connect()?;
    // Before the first reading, so that nothing can change between the two unnoticed.
    let changes = watch::changes()?;
    let host_state = netlink.read().await?;
    suitable::check(&loaded.policy, &host_state)?;
    interception::check(&loaded.policy)?;

    let pins = PinDirectory::create(&options.pins)?;
    let migration = Migration::begin(&pins)?;
    if let Some(migration) = &migration {
        tracing::info!(from = migration.from(), to = LAYOUT_VERSION, "tables get another layout");
    }
    // What a failed start leaves behind is removed, and an adopted set of pins stays as it is.
    let fresh = pins.nics()?.is_empty();
    let abandon = |pins: PinDirectory, migration: Option<Migration>, error: anyhow::Error| {
        let undone = match migration {
            Some(migration) => migration.undo(&pins),
            None if fresh => pins.remove_all(),
            None => Ok(()),
        };
        match undone {
            Ok(()) => error,
            Err(other) => error.context(format!("and the pins can't be put back: {other:#}")),
        }
    };
    let server = match Server::bind(&options.socket).await {
        Ok(server) => server,
        Err(error) => return Err(abandon(pins, migration, error)),
    };
    tell_of_memory(Footprint::fixed(loaded.policy.gateway.sizes, SharedMaps::cpus()));
    let opened = SharedMaps::open(&pins, loaded.policy.gateway.sizes)
        .and_then(|(maps, ring, provenance)| Ok((maps, Events::new(ring)?, provenance)));
    let (maps, events, provenance) = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(abandon(pins, migration, error)),
    };
    loaded.take_sizes(maps.sizes());
    let maps = (maps, provenance);
    let inherited = match &migration {
        Some(migration) => migration.inherited(&pins),
        None => Inherited::Nothing,
    };
    let state = (state, kept, inherited);
    let prepared = Daemon::prepare(options, loaded, netlink, host_state, pins, maps, state);
    let mut daemon = match prepared {
        Ok(daemon) => daemon,
        Err((pins, error)) => return Err(abandon(pins, migration, error)),
    };
    if let Err(error) = daemon.start(migration.is_some()).await {
        nics::restore_tags(&daemon.tags);
        return Err(abandon(daemon.pins, migration, error));
    }
    if let Some(migration) = migration {
        migration.finish()?;
        tracing::info!("the older tables are gone");
    }
    if let Some((incoming, to_be_kept)) = to_be_kept {
        daemon.keep_in_history(incoming, to_be_kept);
    }
    lockdown::end(&daemon.pins)?;
    daemon.serve(server, events, changes, signals).await
}

/// Each question that is on its way has a socket, and systemd lets a service have 1024 at first.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

// === impl Daemon ===

impl Daemon {
    /// Everything up to the point where the kernel's tables change. Gives the pins back where it
    /// fails.
    fn prepare(
        options: Options,
        loaded: Loaded,
        netlink: Netlink,
        host_state: HostState,
        pins: PinDirectory,
        (maps, provenance): (SharedMaps, Provenance),
        (state, kept, inherited): (StateDirectory, Kept, Inherited),
    ) -> Result<Self, (PinDirectory, anyhow::Error)> {
        let assemble = || -> Result<_> {
            let (mut slots, found) = TwoSlots::open(maps, provenance)?;
            let counted = found == Found::Policy || inherited == Inherited::Counters;
            let ledger = match (counted, state.ledger()) {
                // Counters that nothing counts at yet belong to nobody.
                (false, _) => CounterLedger::default(),
                (true, Saved::Found(ledger)) => ledger,
                (true, lost) => {
                    let why = match lost {
                        Saved::Unusable(why) => why,
                        Saved::Found(_) | Saved::Missing => "counters.json is not there".to_owned(),
                    };
                    tracing::warn!("{why}; the rules' counters start again from zero");
                    slots.forget_counters()?;
                    CounterLedger::default()
                }
            };
            let nics = nics::number(&loaded.policy, &pins)?;
            let clock = TickClock::open(&pins)?;
            let dns = &loaded.policy.dns;
            let forwarding = Forwarding::default();
            let counters = Arc::clone(&forwarding.counters);
            let resolver = Resolver::new(&dns.upstream, dns.tls_ca.as_deref(), counters)?;
            Ok((slots, clock, ledger, nics, resolver, forwarding))
        };
        let (slots, clock, ledger, nics, resolver, forwarding) = match assemble() {
            Ok(assembled) => assembled,
            Err(error) => return Err((pins, error)),
        };
        let Loaded { policy, warnings } = loaded;
        let seed = u64::from(std::process::id());
        let (drops, _) = broadcast::channel(DROP_BACKLOG);
        let usage = UsageBook::load(&state);
        let mut daemon = Self {
            started: Instant::now(),
            config_warnings: warnings,
            config_error: None,
            tables_error: None,
            nic_errors: BTreeMap::new(),
            tags: BTreeMap::new(),
            absences: Absences::default(),
            host: nics::host(&nics, &policy.gateway, &host_state),
            nics,
            host_state,
            netlink,
            pace: Pace::new(Instant::now()),
            attachments: Vec::new(),
            interfaces: None,
            slots,
            clock,
            sweeping: Sweeping::default(),
            redirecting: Redirecting::default(),
            ledger,
            saved_ledger: None,
            names: NameCache::new(Settings::from(&policy.dns), seed),
            names_writing: naming::Writing::default(),
            restored: Restored::Nothing,
            resolver: Arc::new(resolver),
            forwarding,
            lookups: FuturesUnordered::new(),
            resolving: FuturesUnordered::new(),
            policy,
            state,
            history: kept.history,
            history_problem: kept.history_problem,
            live: kept.live,
            live_problem: kept.live_problem,
            provisional: None,
            metrics_listeners: MetricsListeners::default(),
            usage,
            rates: Rates::default(),
            pins,
            options,
            observers: BTreeMap::new(),
            drops,
            drops_missed: 0,
        };
        daemon.names.set_own(own_prefixes(&daemon.host));
        daemon.names.set_wanted(Arc::new(Wanted::from(&daemon.policy)), Instant::now());
        daemon.usage.follow(&daemon.policy);
        daemon.restored = daemon.restore_names();
        Ok(daemon)
    }

    /// Puts the policy in force and the programs on the NICs.
    async fn start(&mut self, migrating: bool) -> Result<()> {
        // What can't be opened yet must not keep the filter from being there.
        let mut listeners = self.forwarding.open_what_can_be(&self.policy);
        self.tags = nics::keep_tags(&self.policy, &self.nics)?;
        tell_of_tags(&self.tags);
        let adopting = self.slots.generation() > 0;
        self.follow_interfaces();
        // Tables in which names have no addresses yet must not take the place of others.
        if (adopting || migrating) && self.restored == Restored::Nothing {
            self.await_first_lookups().await;
        }
        if adopting {
            // What can fail comes before the tables change, so that a policy that can't be put on
            // all of its NICs leaves the old one as it is.
            let there = self.there(&self.nics);
            let pinned = self.pins.nics()?;
            let (compiled, ledger) = self.compile_whole()?;
            let lines = self.slots.wanted_lines(&compiled);
            // Where the index was made longer, a daemon may have ended before its programs looked at the
            // longer one: theirs have to be replaced before anything is written for it.
            let same_index = lines.is_none() && self.slots.has_first_index();
            if same_index && !migrating && there.iter().all(|nic| pinned.contains(nic)) {
                // Programs of this layout are on all of them and do for the moment, while clients
                // wait for answers: loading others takes the kernel's verifier a second and more.
                self.put_in_force(compiled, ledger)?;
                let dns = &self.policy.dns;
                let (wanted, first) = (self.names.wanted(), std::mem::take(&mut listeners));
                self.forwarding.serve(dns, wanted, Resolvers::New, first)?;
                let (pins, host) = (self.pins.another(), self.host_state.clone());
                let gateway = self.policy.gateway.clone();
                let task = spawn_blocking(move || nics::attach(&pins, &there, &host, &gateway));
                self.attachments = self.hearing(task).await??.attachments;
            } else {
                self.grow_index(lines);
                let attached = self.attach(&there)?;
                if let Err(error) = self.put_in_force(compiled, ledger) {
                    attached.take_back(&self.pins)?;
                    return Err(error);
                }
                self.attachments = attached.attachments;
            }
            self.redirecting.adopt();
        } else {
            // Nothing is in force yet: with tables first, no packet meets empty ones.
            let (compiled, ledger) = self.compile_whole()?;
            self.grow_index(self.slots.wanted_lines(&compiled));
            self.put_in_force(compiled, ledger)?;
            self.attachments = self.attach(&self.there(&self.nics))?.attachments;
        }
        let dns = &self.policy.dns;
        self.forwarding.serve(dns, self.names.wanted(), Resolvers::AsBefore, listeners)?;
        self.remove_unused_nics()?;
        self.host_state = self.netlink.read().await?;
        self.follow_interception();
        for attachment in &self.attachments {
            if let Some(announcement) = &attachment.announcement {
                tracing::warn!("{announcement}");
            }
            match nics::attached_mode(attachment, &self.host_state) {
                Some(mode) => tracing::info!(
                    nic = %attachment.nic.name,
                    program = attachment.instance.ingress.id,
                    mode = replies::mode_name(mode),
                    load_ms = attachment.instance.ingress.load_time.as_millis(),
                    "attached"
                ),
                None => tracing::error!(
                    nic = %attachment.nic.name,
                    "the program was taken off again by somebody else, or the NIC went away"
                ),
            }
        }
        Ok(())
    }

    /// Tells the programs which interfaces packets may be forwarded from, and which addresses the
    /// gateway has on each NIC.
    fn follow_interfaces(&mut self) {
        let sides = nics::interfaces(&self.policy.gateway, &self.host_state);
        let addresses = nics::addresses(&self.nics, &self.host_state);
        if self
            .interfaces
            .as_ref()
            .is_some_and(|known| (&known.0, &known.1) == (&sides, &addresses))
        {
            return;
        }
        let maps = &mut self.slots.maps;
        match maps.set_interfaces(&sides).and_then(|()| maps.set_nic_addresses(&addresses)) {
            Ok(()) => self.interfaces = Some((sides, addresses)),
            // It is tried again with the next look at the host.
            Err(error) => tracing::error!("{error:#}; packets from new interfaces are dropped"),
        }
    }

    /// Those of some NICs that are there. An outside one may be missing, and is filtered when it
    /// comes.
    fn there(&self, nics: &[NicPins]) -> Vec<NicPins> {
        let known = &self.host_state.nics;
        nics.iter().filter(|nic| known.contains_key(&nic.name)).cloned().collect()
    }

    /// Whether a NIC is an outside one that is not there: nothing enters by it.
    fn may_be_missing(&self, nic: &NicPins) -> bool {
        self.policy.gateway.side(&nic.name) == Some(Side::Outside)
            && !self.host_state.nics.contains_key(&nic.name)
    }

    /// Puts programs on NICs; an index that is used anew counts from zero.
    fn attach(&mut self, nics: &[NicPins]) -> Result<Attached> {
        let known = self.pins.nics()?;
        for nic in nics {
            if !known.contains(nic) {
                self.slots.forget_nic(nic.index)?;
            }
        }
        nics::attach(&self.pins, nics, &self.host_state, &self.policy.gateway)
    }

    /// Compiles the policy whole and swaps slots.
    fn replace_tables(&mut self) -> Result<()> {
        let (compiled, ledger) = self.compile_whole()?;
        self.put_in_force(compiled, ledger)
    }

    /// Makes the index longer, before programs are put on NICs that then look at the longer one. The
    /// filter does without: where there is no memory for it, the tries are asked.
    fn grow_index(&mut self, lines: Option<u32>) {
        let Some(lines) = lines else { return };
        match self.slots.grow_index(&self.pins, lines) {
            Ok(()) => tracing::info!(lines, "the index of destinations is longer now"),
            Err(error) => tracing::error!("{error:#}; packets take longer to judge without"),
        }
    }

    fn compile_whole(&mut self) -> Result<(Compiled, CounterLedger)> {
        let mut ledger = self.ledger.clone();
        let compiled =
            compile_whole((&self.policy, &self.names, &self.host), &mut self.slots, &mut ledger)?;
        Ok((compiled, ledger))
    }

    /// Saves what the counters mean, then swaps slots. On an error nothing has changed.
    fn put_in_force(&mut self, compiled: Compiled, ledger: CounterLedger) -> Result<()> {
        self.put_in_force_for(compiled, ledger, Term::ForGood).map(|_no_deadline| ())
    }

    /// As [`Self::put_in_force`], for good or for some time.
    fn put_in_force_for(
        &mut self,
        compiled: Compiled,
        ledger: CounterLedger,
        term: Term,
    ) -> Result<Option<Deadline>> {
        self.save_ledger(&ledger)?;
        let footprint = self.fixed_footprint().with_policy(&compiled);
        self.check_memory(footprint)?;
        tell_of_memory(footprint);
        let deadline = match term {
            Term::ForGood => {
                self.slots.swap(compiled)?;
                None
            }
            Term::Until(time) => {
                let now = self.clock.now()?;
                let ticks = time.as_secs().saturating_mul(now.hertz);
                let deadline =
                    Deadline { end: Instant::now() + time, tick: now.now.saturating_add(ticks) };
                self.slots.swap_until(compiled, deadline.tick)?;
                Some(deadline)
            }
        };
        self.ledger = ledger;
        self.retire_counters();
        Ok(deadline)
    }

    /// Refuses tables for which the service's memory limit has no room: the kernel would end the daemon in
    /// the middle of writing them.
    fn check_memory(&self, footprint: Footprint) -> Result<()> {
        let Some(left) = memory::left() else { return Ok(()) };
        // What the idle slot holds is given back on the way.
        let idle = self.slots.before();
        let lines = self.slots.maps.index_room();
        let held = idle.map_or(0, |tables| Footprint::default().with(&tables, lines).prefixes);
        let wanted = footprint.prefixes.saturating_sub(held);
        ensure!(
            wanted <= left,
            "the policy's prefixes take {} MiB of the kernel's memory, and the memory limit of the \
             service leaves {} MiB; raise MemoryMax= of sluice.service, or take prefixes away",
            wanted.div_ceil(1 << 20),
            left >> 20
        );
        Ok(())
    }

    /// The kernel's memory that the tables take without any policy.
    fn fixed_footprint(&self) -> Footprint {
        Footprint::fixed(self.slots.maps.sizes(), SharedMaps::cpus())
    }

    fn save_ledger(&mut self, ledger: &CounterLedger) -> Result<()> {
        if self.saved_ledger.as_ref() != Some(ledger) {
            self.state.save_ledger(ledger)?;
            self.saved_ledger = Some(ledger.clone());
        }
        Ok(())
    }

    /// Gives counters back once they are getting scarce.
    fn retire_counters(&mut self) {
        if self.ledger.len() * 2 < usize::try_from(MATCHES).unwrap_or(usize::MAX) {
            return;
        }
        let mut ledger = self.ledger.clone();
        let result = self.slots.retire_counters(&mut ledger).and_then(|()| {
            self.save_ledger(&ledger)?;
            self.ledger = ledger;
            Ok(())
        });
        if let Err(error) = result {
            tracing::warn!("counters of rules that are gone can't be given back: {error:#}");
        }
    }

    /// Takes the program off NICs that the policy no longer names.
    fn remove_unused_nics(&mut self) -> Result<()> {
        for nic in self.pins.nics()? {
            if !self.nics.contains(&nic) {
                self.pins.remove_nic(&nic)?;
                tracing::warn!(nic = %nic.name, "no longer inside; its packets are not filtered");
            }
        }
        let nics = &self.nics;
        self.attachments.retain(|attachment| nics.contains(&attachment.nic));
        let gateway = &self.policy.gateway;
        self.observers.retain(|index, observer| {
            let nic = nics.iter().find(|nic| nic.index == *index);
            nic.is_some_and(|nic| gateway.side(&nic.name) == Some(observer.side()))
        });
        Ok(())
    }

    async fn serve(
        mut self,
        server: Server,
        mut events: Events,
        mut changes: mpsc::Receiver<()>,
        mut signals: Signals,
    ) -> Result<()> {
        let (calls, mut inbox) = mpsc::channel(64);
        self.metrics_listeners.set_calls(calls.clone());
        self.metrics_listeners.follow(&self.policy.metrics.listen).await;
        let serving = tokio::spawn(server.serve(calls, self.drops.clone()));
        let mut retry = interval(RETRY_INTERVAL);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples: Vec<DropSample> = Vec::new();
        for warning in self.all_warnings() {
            tracing::warn!("{warning}");
        }
        for note in self.not_enforced() {
            tracing::warn!("not enforced: {note}");
        }
        let at_start = self.host_state.clone();
        self.follow_absences(&at_start);
        tracing::info!(generation = self.slots.generation(), "ready: the policy is in force");
        let mut heartbeat = service::Heartbeat::new();
        self.tell_ready();

        loop {
            self.start_lookups();
            let far = Instant::now() + Duration::from_secs(3600);
            let wakeup = self.names.next_wakeup().unwrap_or(far);
            let reading = self.pace.next();
            let allow_end = self.next_allow_end().unwrap_or(far);
            let provisional_end = self.provisional.as_ref().map_or(far, Provisional::end);
            tokio::select! {
                Some((name, answer)) = self.lookups.next(), if !self.lookups.is_empty() => {
                    let mut changed = self.take_answer(&name, answer);
                    // Answers that came together are compiled together.
                    while let Some(Some((name, answer))) = self.lookups.next().now_or_never() {
                        changed.merge(self.take_answer(&name, answer));
                    }
                    self.names_changed(&changed);
                }
                () = sleep_until(wakeup.into()) => {
                    let changed = self.age_names();
                    self.names_changed(&changed);
                }
                Some(heard) = self.forwarding.inbox.recv() => self.hear(heard),
                Some((name, answer, reply)) = self.resolving.next(), if !self.resolving.is_empty() => {
                    // A client that went away doesn't want its answer any more.
                    drop(reply.send(Replied::new(Ok(self.resolved(&name, answer)))));
                }
                Some(call) = inbox.recv() => self.answer_call(call).await,
                result = events.read(|sample| samples.push(sample)) => {
                    result?;
                    for sample in samples.drain(..) {
                        self.publish(&sample);
                    }
                }
                Some(()) = changes.recv() => self.pace.changed(Instant::now()),
                () = sleep_until(allow_end.into()) => self.end_allows().await,
                () = sleep_until(provisional_end.into()) => self.give_up_provisional().await,
                () = sleep_until(reading.into()) => self.read_host().await,
                _ = retry.tick() => {
                    self.try_again().await;
                    self.tell_status();
                }
                () = heartbeat.beat() => {}
                _ = signals.hangup.recv() => {
                    let caller = Caller::itself();
                    if let Err(error) = self.reload(&ReloadRequest::default(), &caller).await {
                        tracing::error!("{error:#}");
                    }
                }
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
            }
        }
        service::stopping();
        serving.abort();
        // The task owns the socket's file, which goes when the task is gone.
        if let Err(error) = serving.await
            && !error.is_cancelled()
        {
            tracing::error!(%error, "the control socket's task ended badly");
        }
        self.save_names().await;
        self.save_usage();
        self.leave()
    }

    /// Puts changed addresses in force.
    fn names_changed(&mut self, changed: &Changed) -> InForce {
        self.note_names();
        if !changed.is_empty() {
            let result = self.update_tables(changed);
            self.tables_updated(result);
        }
        if self.tables_error.is_none() { InForce::Now } else { InForce::NotYet }
    }

    /// Remembers whether the tables are as they should be, so that what failed is tried again.
    fn tables_updated(&mut self, result: Result<()>) {
        match result {
            Ok(()) => {
                if self.tables_error.take().is_some() {
                    tracing::info!("the tables in force are up to date again");
                }
            }
            Err(error) => {
                let message = format!("changed addresses are not in force: {error:#}");
                if self.tables_error.as_ref() != Some(&message) {
                    tracing::error!("{message}; it is tried again");
                }
                self.tables_error = Some(message);
            }
        }
    }

    /// Edits the slot in force, or builds the other one where that doesn't hold what was learned
    /// before, or has no room for the change.
    fn update_tables(&mut self, changed: &Changed) -> Result<()> {
        if self.tables_error.is_none() {
            match self.edit_names(changed) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!("a whole set of tables is built: {error:#}"),
            }
        }
        self.replace_tables()
    }

    /// Edits the slot in force, and what may come back in its place.
    fn edit_names(&mut self, changed: &Changed) -> Result<()> {
        let edit = self.slots.plan_names(changed, &self.ledger)?;
        self.edit_tables(edit)?;
        if let Some(edit) = self.slots.plan_fallback_names(changed, &self.ledger)? {
            self.count_for(&edit)?;
            self.slots.edit_fallback_names(edit)?;
        }
        Ok(())
    }

    /// Saves what the counters mean, then edits the slot in force.
    fn edit_tables(&mut self, edit: Edit) -> Result<()> {
        self.count_for(&edit)?;
        self.slots.edit_names(edit)
    }

    /// Saves what the counters of an edit mean.
    fn count_for(&mut self, edit: &Edit) -> Result<()> {
        if let Some(ledger) = edit.count(&self.ledger) {
            self.save_ledger(&ledger)?;
            self.ledger = ledger;
        }
        Ok(())
    }

    /// Clears rows that nothing leads to, and gives back the counters that were theirs.
    fn sweep_tables(&mut self) {
        match self.slots.sweep() {
            Ok(Swept::Nothing) => {}
            Ok(Swept::Rows) => self.retire_counters(),
            // Nothing leads there; the next change builds a whole set of tables.
            Err(error) => tracing::warn!("rows that nothing leads to stay: {error:#}"),
        }
    }

    /// Reads NICs, addresses and routes, and does what follows from them.
    async fn read_host(&mut self) {
        let began = Instant::now();
        let result = self.netlink.read().await;
        let reading = if result.is_ok() { Reading::Done } else { Reading::Failed };
        self.pace.read(began, Instant::now(), reading);
        match result {
            Ok(state) => self.follow_host(state).await,
            Err(error) => tracing::error!("{error:#}; it is tried again"),
        }
    }

    /// What is done every few seconds.
    async fn try_again(&mut self) {
        if !self.nic_errors.is_empty() {
            self.read_host().await;
        }
        self.open_listeners();
        self.metrics_listeners.follow(&self.policy.metrics.listen).await;
        self.sweep_flows();
        self.sweep_tables();
        self.note_usage();
        self.note_rates();
        self.watch_interception();
        let is_crowded = self.slots.is_crowded() && self.provisional.is_none();
        if self.tables_error.is_some() || is_crowded {
            let result = self.replace_tables();
            self.tables_updated(result);
        }
        self.write_names_if_worth_it();
    }

    /// Follows the gateway's NICs, addresses and routes.
    async fn follow_host(&mut self, state: HostState) {
        let before = std::mem::replace(&mut self.host_state, state);
        self.follow_absences(&before);
        self.follow_tags();
        self.attach_again().await;
        self.follow_interfaces();
        self.follow_interception();
        let host = nics::host(&self.nics, &self.policy.gateway, &self.host_state);
        if host == self.host {
            return;
        }
        tracing::info!("addresses or routes of the gateway changed");
        self.host = host;
        self.forwarding.distrust();
        self.names.set_own(own_prefixes(&self.host));
        let result = self.replace_tables();
        self.tables_updated(result);
    }

    fn follow_absences(&mut self, before: &HostState) {
        let gateway = &self.policy.gateway;
        let news = self.absences.follow(gateway, before, &self.host_state, SystemTime::now());
        for news in news {
            match news {
                News::Gone(text) => tracing::warn!("{text}"),
                News::Back(text) => tracing::info!("{text}"),
            }
        }
    }

    /// A NIC that was made anew takes tags off again, and anybody may switch that on.
    fn follow_tags(&mut self) {
        let is_there = |nic: &&NicPins| self.host_state.nics.contains_key(&nic.name);
        let nics = self.nics.iter().filter(is_there);
        self.tags = nics.map(|nic| (nic.name.clone(), offload::keep_tags(&nic.name))).collect();
        tell_of_tags(&self.tags);
    }

    /// A NIC that was made anew, or that somebody took the program off, would pass everything.
    async fn attach_again(&mut self) {
        let mut bare = self.there(&self.nics);
        bare.retain(|nic| !self.has_program(nic));
        // What went away, or has its program back under its old name, is no failure any more.
        self.nic_errors.retain(|name, _| bare.iter().any(|nic| nic.name == *name));
        for nic in &bare {
            match self.attach(std::slice::from_ref(nic)) {
                Ok(attached) => {
                    self.attachments.retain(|old| old.nic != *nic);
                    self.attachments.extend(attached.attachments);
                    self.nic_errors.remove(&nic.name);
                    tracing::warn!(nic = %nic.name, "the filter was gone, and is attached again");
                }
                Err(error) => {
                    let message = format!("{error:#}");
                    let before = self.nic_errors.insert(nic.name.clone(), message.clone());
                    if before.as_ref() != Some(&message) {
                        tracing::error!("{message}; it is tried again");
                    }
                }
            }
        }
        if !bare.is_empty() {
            match self.netlink.read().await {
                Ok(state) => self.host_state = state,
                Err(error) => tracing::error!("{error:#}"),
            }
        }
    }

    /// Whether the program that this daemon loaded for a NIC is on it.
    fn has_program(&self, nic: &NicPins) -> bool {
        self.attachments.iter().any(|attachment| {
            attachment.nic == *nic
                && nics::attached_mode(attachment, &self.host_state).is_some()
                // Where the kernel doesn't tell, attaching again does, or says why not.
                && attachment.follows(&self.pins).unwrap_or_else(|error| {
                    tracing::warn!(nic = %nic.name, "{error:#}");
                    false
                })
        })
    }

    fn publish(&mut self, sample: &DropSample) {
        if self.drops.receiver_count() == 0 {
            return;
        }
        let drop = self.describe(sample);
        if self.drops.send(drop).is_err() {
            self.drops_missed += 1;
        }
    }
}

/// What was changed on NICs is told; it stays so when the daemon ends, as the filter does.
fn tell_of_tags(tags: &BTreeMap<NicName, Tags>) {
    for (nic, tags) in tags {
        match tags {
            Tags::SwitchedOff(features) => tracing::warn!(
                %nic,
                "{} switched off, so that the filter sees VLAN tags",
                features.join(" and ")
            ),
            Tags::InFrame | Tags::TakenOff(_) => {}
        }
    }
}

/// Says what the tables take of the kernel's memory, before they take it.
fn tell_of_memory(footprint: Footprint) {
    let kib = |bytes: u64| bytes / 1024;
    match footprint {
        Footprint { fixed, prefixes: 0 } => {
            tracing::info!(kib = kib(fixed), "the kernel's memory that tables take at first");
        }
        Footprint { prefixes, .. } => {
            tracing::info!(kib = kib(prefixes), "the kernel's memory that these prefixes take");
        }
    }
}

/// Compiles a policy whole. Where only counters of rules that are gone are in the way, they are
/// given back first.
fn compile_whole(
    (policy, names, host): (&Policy, &NameCache, &Host),
    slots: &mut TwoSlots,
    ledger: &mut CounterLedger,
) -> Result<Compiled> {
    let snapshot = names.snapshot();
    let first: CapacityError = match compile(policy, &snapshot, host, ledger) {
        Ok(compiled) => return Ok(compiled),
        Err(error) => error,
    };
    if !first.is_only_held_counters() {
        return Err(first.into());
    }
    slots.clear_idle()?;
    slots.retire_counters(ledger)?;
    Ok(compile(policy, &snapshot, host, ledger)?)
}

/// Addresses that no name may bring: the gateway's own, and what lives behind its inside NICs. A
/// default route to the inside says nothing about what lives there.
fn own_prefixes(host: &Host) -> Vec<IpNet> {
    let inside = host.nics.iter().filter(|nic| nic.side == Side::Inside);
    let inside = inside.flat_map(|nic| &nic.plausible);
    let own = host.own.iter().map(|address| IpNet::from(*address));
    inside.filter(|prefix| prefix.prefix_len() > 0).copied().chain(own).collect()
}
