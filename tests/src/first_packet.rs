// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fresh names, each resolved by a client that connects at once: whether any first packet comes
//! before its address is in the tables.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use serde_json::Value;

use crate::{
    gateway::{Configuration, Gateway},
    netns::Namespace,
    process::{run, wait_until},
    query::{Client, Reply},
    topology::{Clients, OUTSIDE, RESOLVER, Topology},
    upstream::{
        Upstream,
        answers::NUMBERS,
        wire::{Labels, kind},
    },
    workdir::Workdir,
};

/// How connections wait at the server until they are taken; the kernel's own default would
/// overflow, and look like a loss of ours.
const BACKLOG: i32 = 4096;

/// The port that is allowed.
const PORT: u16 = 443;

/// How long a client waits for a connection: long enough for segments that are sent again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits where nothing is to be learned, and by how many threads it asks.
const CONTROL_PATIENCE: Duration = Duration::from_millis(150);
const CONTROL_THREADS: u32 = 16;

/// A connection that took so long had its first segment sent again (RFC 6298, section 2.1).
const AGAIN: Duration = Duration::from_secs(1);

/// How long the last packets may take until they are counted.
const SETTLE: Duration = Duration::from_millis(200);

/// Where the forwarder listens.
pub const FORWARDER_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 20, 0, 1)), 53);
/// Where the forwarder listens over IPv6.
pub const FORWARDER_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 1)), 53);

/// How names are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learning {
    /// By the forwarder.
    On,
    /// Past it, at the resolver, which a rule allows: nothing is learned.
    Off,
    /// At the resolver, and no daemon filters: what the lab itself loses.
    NoFilter,
}

/// What else goes on during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// Whether the gateway translates sources.
    pub nat: Nat,
    /// How late the lab's resolver answers.
    pub delay: Duration,
    /// What else the processors do.
    pub load: Load,
    /// Whether another policy comes in force when half of the names are done.
    pub reload: Reload,
}

/// Whether the gateway translates sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Clients keep their addresses.
    Off,
    /// All clients share the gateway's address.
    Masquerade,
}

/// What else the processors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Nothing of ours.
    None,
    /// So many threads never wait.
    Busy(u32),
}

/// Whether another policy comes in force in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// No.
    Never,
    /// Yes.
    HalfWay,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names that were asked for.
    pub names: u32,
    /// Those that got no address.
    pub unresolved: u32,
    /// Those to which a connection came about.
    pub connected: u32,
    /// First segments that the client's host sent again.
    pub retransmitted: u64,
    /// Packets that the gateway dropped, whatever the reason.
    pub dropped: u64,
    /// The reasons, and how often.
    pub reasons: Vec<(String, u64)>,
    /// Connections that took longer than a second.
    pub slow: u32,
    /// What the first names that failed met with.
    pub failures: Vec<String>,
    /// How long all of it took.
    pub took: Duration,
}

/// A lab with everything but the daemon's start.
#[derive(Debug)]
pub struct Stage {
    topology: Topology,
    upstream: Upstream,
    server: Server,
    next: AtomicU32,
}

/// A server that takes connections on every address of the internet.
#[derive(Debug)]
struct Server {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Threads that keep processors busy until this is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

// === impl Stage ===

impl Stage {
    /// Makes the lab.
    ///
    /// # Errors
    ///
    /// Without privileges, or if a server doesn't start.
    pub fn new(nat: Nat) -> Result<Self> {
        let topology = Topology::new(Clients::One)?;
        let upstream = Upstream::start(&topology.internet, [SocketAddr::new(RESOLVER, 53)])?;
        let server = Server::start(&topology.internet)?;
        if nat == Nat::Masquerade {
            masquerade(&topology)?;
        }
        Ok(Self { topology, upstream, server, next: AtomicU32::new(0) })
    }

    /// Resolves `names` fresh names by `threads` threads, and connects to each at once.
    ///
    /// # Errors
    ///
    /// If the daemon doesn't start or the policy isn't taken.
    pub fn run(
        &self,
        learning: Learning,
        threads: u32,
        names: u32,
        circumstances: &Circumstances,
    ) -> Result<Report> {
        let first = self.next.fetch_add(names, Ordering::Relaxed);
        ensure!(first + names <= NUMBERS, "the lab's server has no more addresses");
        self.upstream.set_delay(circumstances.delay);
        let mut gateway = Gateway::new(&self.topology, &configuration(learning, 0))?;
        if learning != Learning::NoFilter {
            gateway.start()?;
        }
        let busy = match circumstances.load {
            Load::None => None,
            Load::Busy(threads) => Some(Busy::start(threads)),
        };
        let before = self.counts(&gateway, learning)?;
        let taken = self.server.taken.load(Ordering::Relaxed);
        let begin = Instant::now();
        let done = AtomicU32::new(0);
        let threads = if learning == Learning::Off { CONTROL_THREADS } else { threads };
        let mut report = thread::scope(|scope| -> Result<Report> {
            let clients: Vec<_> = (0..threads)
                .map(|thread| {
                    let numbers = (first + thread..first + names).step_by(threads as usize);
                    let done = &done;
                    scope.spawn(move || {
                        self.topology.client.enter(|| attempts(learning, numbers, done))?
                    })
                })
                .collect();
            if circumstances.reload == Reload::HalfWay {
                wait_until("half of the names are done", Duration::from_secs(300), || {
                    Ok(done.load(Ordering::Relaxed) >= names / 2)
                })?;
                gateway.configure(&configuration(learning, 40))?;
                gateway.command(&["reload"])?.success().context("the reload")?;
            }
            let mut report = Report::default();
            for client in clients {
                let Ok(part) = client.join() else { bail!("a client panicked") };
                report.add(part?);
            }
            Ok(report)
        })?;
        report.took = begin.elapsed();
        drop(busy);
        thread::sleep(SETTLE);
        let after = self.counts(&gateway, learning)?;
        report.retransmitted = after.retransmitted - before.retransmitted;
        report.reasons = after
            .drops
            .iter()
            .filter_map(|(reason, count)| {
                let earlier = before.drops.iter().find(|(found, _)| found == reason);
                let more = count - earlier.map_or(0, |(_, count)| *count);
                (more > 0).then(|| (reason.clone(), more))
            })
            .collect();
        report.dropped = report.reasons.iter().map(|(_, count)| count).sum();
        ensure!(after.overflows == before.overflows, "the lab's own server was too slow");
        let taken = self.server.taken.load(Ordering::Relaxed) - taken;
        ensure!(
            taken >= u64::from(report.connected),
            "{} connections came about, and the server took {taken}",
            report.connected
        );
        Ok(report)
    }

    fn counts(&self, gateway: &Gateway<'_>, learning: Learning) -> Result<Counts> {
        let drops = match learning {
            Learning::NoFilter => Vec::new(),
            Learning::On | Learning::Off => drops(&gateway.command(&["status"])?.json()?)?,
        };
        Ok(Counts {
            drops,
            retransmitted: kernel_count(&self.topology.client, "TCPSynRetrans")?,
            overflows: kernel_count(&self.topology.internet, "ListenOverflows")?,
        })
    }
}

/// Counters at some moment.
struct Counts {
    drops: Vec<(String, u64)>,
    retransmitted: u64,
    overflows: u64,
}

// === impl Circumstances ===

impl Circumstances {
    /// Nothing goes on beside.
    pub const CALM: Self =
        Self { nat: Nat::Off, delay: Duration::ZERO, load: Load::None, reload: Reload::Never };
}

impl fmt::Display for Circumstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nat {
            Nat::Off => f.write_str("without NAT")?,
            Nat::Masquerade => f.write_str("with source NAT")?,
        }
        write!(f, ", resolver {} ms late", self.delay.as_millis())?;
        match self.load {
            Load::None => {}
            Load::Busy(threads) => write!(f, ", {threads} busy threads beside")?,
        }
        match self.reload {
            Reload::Never => Ok(()),
            Reload::HalfWay => f.write_str(", a reload half way"),
        }
    }
}

// === impl Report ===

impl Report {
    /// Whether no first packet was lost.
    ///
    /// # Errors
    ///
    /// What was.
    pub fn check(&self) -> Result<()> {
        let good = self.connected == self.names
            && self.retransmitted == 0
            && self.dropped == 0
            && self.slow == 0;
        ensure!(
            good,
            "{self}; {} unresolved, {} slower than a second, dropped for {:?}; {}",
            self.unresolved,
            self.slow,
            self.reasons,
            self.failures.join("; ")
        );
        Ok(())
    }

    /// Whether every first packet was lost, as it must where nothing is learned.
    ///
    /// # Errors
    ///
    /// What was not.
    pub fn check_control(&self) -> Result<()> {
        let lost = self.connected == 0
            && self.unresolved == 0
            && self.dropped >= u64::from(self.names)
            && self.names > 0;
        ensure!(
            lost,
            "the control lost not all: {self}; {} unresolved; {}",
            self.unresolved,
            self.failures.join("; ")
        );
        Ok(())
    }

    fn add(&mut self, part: Self) {
        self.names += part.names;
        self.unresolved += part.unresolved;
        self.connected += part.connected;
        self.slow += part.slow;
        self.failures.extend(part.failures);
        self.failures.truncate(SHOWN);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, connected, retransmitted, dropped, .. } = self;
        write!(
            f,
            "{names} names, {connected} connected, {retransmitted} retransmitted, {dropped} dropped"
        )
    }
}

/// How many failures are shown.
const SHOWN: usize = 5;

// === impl Server ===

impl Server {
    fn start(namespace: &Namespace) -> Result<Self> {
        let listener = namespace.enter(|| -> Result<_> {
            let socket =
                socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            // IPv4 as well.
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
            let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0);
            bind(socket.as_raw_fd(), &SockaddrIn6::from(any)).context("TCP port 443")?;
            listen(&socket, Backlog::new(BACKLOG)?)?;
            Ok(TcpListener::from(socket))
        })??;
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        listener.set_nonblocking(true)?;
        let thread = thread::spawn({
            let (stop, taken) = (Arc::clone(&stop), Arc::clone(&taken));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok(_closed_at_once) => {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_nobody_waits) => thread::sleep(Duration::from_millis(1)),
                    }
                }
            }
        });
        Ok(Self { stop, taken, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed already.
            let _ = thread.join();
        }
    }
}

// === impl Busy ===

impl Busy {
    fn start(threads: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        Self { threads: (0..threads).map(spin).collect(), stop }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It can't have panicked.
            let _ = thread.join();
        }
    }
}

// === helpers ===

/// What one thread of the client does: a name after the other, A and AAAA in turn, and the
/// forwarder's two addresses in turn.
fn attempts(
    learning: Learning,
    numbers: impl Iterator<Item = u32>,
    done: &AtomicU32,
) -> Result<Report> {
    let servers = match learning {
        Learning::On => [FORWARDER_V4, FORWARDER_V6],
        Learning::Off | Learning::NoFilter => [SocketAddr::new(RESOLVER, 53); 2],
    };
    let patience = if learning == Learning::Off { CONTROL_PATIENCE } else { PATIENCE };
    let [server, server_v6] = servers;
    let mut clients = [Client::here(server, PATIENCE)?, Client::here(server_v6, PATIENCE)?];
    let mut report = Report::default();
    for number in numbers {
        let kind = if number % 2 == 0 { kind::A } else { kind::AAAA };
        let [v4, v6] = &mut clients;
        let client = if number / 2 % 2 == 0 { v4 } else { v6 };
        let name = format!("n{number}.w.lab.example");
        report.names += 1;
        let reply = client.ask(&Labels::of(&name), kind)?;
        if let Some(address) = reply.addresses().first() {
            let begin = Instant::now();
            match TcpStream::connect_timeout(&SocketAddr::new(*address, PORT), patience) {
                Ok(_closed_at_once) => {
                    report.connected += 1;
                    report.slow += u32::from(begin.elapsed() >= AGAIN);
                }
                Err(error) if report.failures.len() < SHOWN => {
                    report.failures.push(format!("{name} at {address}: {error}"));
                }
                Err(_) => {}
            }
        } else {
            report.unresolved += 1;
            if report.failures.len() < SHOWN {
                let said = match reply {
                    Reply::Said(read) => format!("code {}", read.code()),
                    Reply::Silence => "silence".to_owned(),
                    Reply::Unreachable => "nobody is there".to_owned(),
                };
                report.failures.push(format!("{name}: {said}"));
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(report)
}

fn configuration(learning: Learning, others: u32) -> Configuration {
    let listen = match learning {
        Learning::On => r#"listen = ["10.20.0.1", "fd00:20::1"]"#,
        Learning::Off | Learning::NoFilter => "",
    };
    // A debug build takes a quarter of a second and more for a reload beside busy processors; what is
    // shown is that no answer comes before its addresses are in force, however long that takes.
    let gateway = format!(
        "[gateway]\ninside  = [\"lan0\"]\noutside = [\"wan0\"]\ndeny    = \"drop\"\n\n[dns]\n\
         upstream = [\"9.9.9.10\"]\nclient_rate = 1000000\nlearn_within = \"1s\"\n{listen}\n"
    );
    let mut rules = String::from(
        "[[rule]]\nname = \"names\"\nto = [\"*.w.lab.example\"]\ntcp = [443]\n\n\
         [[rule]]\nname = \"resolver\"\nto = [\"9.9.9.10\"]\nudp = [53]\n\n",
    );
    for other in 0..others {
        rules.push_str(&format!(
            "[[rule]]\nname = \"other-{other}\"\nto = [\"52.{other}.0.0/16\", \"*.o{other}.example\"]\n\
             tcp = [{}]\n\n",
            1000 + other
        ));
    }
    Configuration::new(gateway).policy("names", rules)
}

/// What the gateway dropped, by reason.
fn drops(status: &Value) -> Result<Vec<(String, u64)>> {
    let drops = status.get("drops").and_then(Value::as_object).context("no drops in the status")?;
    drops
        .iter()
        .map(|(reason, counter)| {
            let packets = counter.get("packets").and_then(Value::as_u64);
            Ok((reason.clone(), packets.with_context(|| format!("no count of {reason}"))?))
        })
        .collect()
}

/// A counter of `/proc/net/netstat`, which each namespace has for itself.
fn kernel_count(namespace: &Namespace, name: &str) -> Result<u64> {
    let text = run(namespace.command("cat").arg("/proc/net/netstat"))?;
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    lines
        .chunks_exact(2)
        .find_map(|pair| {
            let [names, values] = pair else { return None };
            let place = names.iter().position(|found| *found == name)?;
            values.get(place)?.parse().ok()
        })
        .with_context(|| format!("the kernel doesn't count {name}"))
}

fn masquerade(topology: &Topology) -> Result<()> {
    let directory = Workdir::new("nft")?;
    let file = directory.path().join("rules");
    std::fs::write(
        &file,
        format!(
            "table inet lab_nat {{\n chain post {{\n type nat hook postrouting priority srcnat;\n \
             oifname \"{OUTSIDE}\" masquerade\n }}\n}}\n"
        ),
    )?;
    run(topology.gateway.command("nft").arg("-f").arg(&file)).map(drop)
}
