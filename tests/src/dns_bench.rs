// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forwarder against dnsmasq, and against asking the resolver directly: how long a client
//! waits, and how many questions a second are answered. All stand in one lab and take turns, so
//! that what else the machine does meets each of them.

use std::{
    fmt,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    first_packet::FORWARDER_V4,
    gateway::{Configuration, Gateway},
    peers::{Keeps, Peer},
    process::output,
    query::{Client, PATIENCE},
    topology::{Clients, RESOLVER, Topology},
    upstream::{
        Upstream,
        wire::{Labels, code, kind},
    },
    workdir::Workdir,
};

/// Where dnsmasq listens, beside the forwarder.
const DNSMASQ: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 20, 0, 1)), 5300);

/// Questions of each kind to each way in a round of the latency.
const ASKED: u32 = 200;

/// Names of a run of dnsperf in which each is new, and in which each is known.
const NEW: u32 = 6_000;
const KNOWN: u32 = 500;

/// How long a run of dnsperf with known names lasts, in seconds.
const SECONDS: u32 = 3;

/// Questions that dnsperf has under way, and its sockets.
const UNDER_WAY: &str = "100";
const SOCKETS: &str = "20";

/// By whom a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By the resolver itself, through the gateway.
    Direct,
    /// By dnsmasq on the gateway.
    Dnsmasq,
    /// By the forwarder.
    Sluice,
}

/// Whether names are known to whom is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Names {
    /// No name was asked for before.
    New,
    /// Each was.
    Known,
}

/// Times until answers came, of one way and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Who answered.
    pub way: Way,
    /// What was asked for.
    pub names: Names,
    /// The median.
    pub p50: Duration,
    /// What one in a hundred exceeds.
    pub p99: Duration,
    /// How many there were.
    pub count: usize,
}

/// Questions a second, of one way and kind: the median of several rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Throughput {
    /// Who answered.
    pub way: Way,
    /// What was asked for.
    pub names: Names,
    /// Answers a second.
    pub per_second: f64,
    /// What a question cost the answering process of a processor's time.
    pub cpu: Duration,
    /// How many got no answer, or an error, over all rounds.
    pub failed: u32,
}

/// All that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Waiting times.
    pub latency: Vec<Latency>,
    /// Questions a second.
    pub throughput: Vec<Throughput>,
}

/// What is measured.
struct Bench<'lab> {
    topology: &'lab Topology,
    gateway: &'lab Gateway<'lab>,
    dnsmasq: &'lab Peer,
    directory: Workdir,
    next: u32,
}

/// One run of dnsperf.
struct Run {
    per_second: f64,
    cpu: Duration,
    failed: u32,
}

/// Measures everything in so many rounds.
///
/// # Errors
///
/// If a program isn't there, an answer is missing, or the daemon doesn't start.
pub fn measure(rounds: u32) -> Result<Measured> {
    let topology = Topology::new(Clients::One)?;
    let resolver = SocketAddr::new(RESOLVER, 53);
    let _upstream = Upstream::start(&topology.internet, [resolver])?;
    let mut gateway = Gateway::new(&topology, &configuration())?;
    gateway.start()?;
    let dnsmasq = Peer::dnsmasq(&topology.gateway, DNSMASQ, resolver, Keeps::Answers)?;
    let mut bench = Bench {
        topology: &topology,
        gateway: &gateway,
        dnsmasq: &dnsmasq,
        directory: Workdir::new("dnsperf")?,
        next: 0,
    };
    let latency = bench.latency(rounds)?;
    let throughput = bench.throughput(rounds.div_ceil(2))?;
    Ok(Measured { latency, throughput })
}

// === impl Bench ===

impl Bench<'_> {
    fn latency(&mut self, rounds: u32) -> Result<Vec<Latency>> {
        let mut times = Vec::new();
        for round in 0..rounds {
            for way in turns(round) {
                let address = way.address();
                let mut client = Client::new(&self.topology.client, address, PATIENCE)?;
                let names = self.fresh(ASKED);
                for kind_of_names in [Names::New, Names::Known] {
                    for name in &names {
                        let name = Labels::of(name);
                        let begin = Instant::now();
                        let reply = client.ask(&name, kind::A)?;
                        times.push((way, kind_of_names, begin.elapsed()));
                        ensure!(
                            reply.code() == Some(code::NO_ERROR) && reply.addresses().len() == 1,
                            "{way} says {reply:?} for {}",
                            name.text()
                        );
                    }
                }
            }
        }
        let mut found = Vec::new();
        for names in [Names::New, Names::Known] {
            for way in Way::ALL {
                let mut times: Vec<_> = times
                    .iter()
                    .filter(|(of, kind, _)| (*of, *kind) == (way, names))
                    .map(|(_, _, time)| *time)
                    .collect();
                times.sort_unstable();
                let at = |part: usize| times.get(times.len() * part / 100).copied();
                let p50 = at(50).context("nothing was measured")?;
                let p99 = at(99).context("nothing was measured")?;
                found.push(Latency { way, names, p50, p99, count: times.len() });
            }
        }
        Ok(found)
    }

    fn throughput(&mut self, rounds: u32) -> Result<Vec<Throughput>> {
        let mut runs = Vec::new();
        let known = self.fresh(KNOWN);
        for round in 0..rounds {
            for way in turns(round).into_iter().filter(|way| *way != Way::Direct) {
                // The first pass makes them known.
                self.dnsperf(way, &known, &["-n", "1"])?;
                let seconds = SECONDS.to_string();
                runs.push((way, Names::Known, self.dnsperf(way, &known, &["-l", &seconds])?));
                let new = self.fresh(NEW);
                runs.push((way, Names::New, self.dnsperf(way, &new, &["-n", "1"])?));
            }
        }
        let mut found = Vec::new();
        for names in [Names::New, Names::Known] {
            for way in [Way::Dnsmasq, Way::Sluice] {
                let of: Vec<_> = runs
                    .iter()
                    .filter(|(found, kind, _)| (*found, *kind) == (way, names))
                    .collect();
                let mut rates: Vec<_> = of.iter().map(|(_, _, run)| run.per_second).collect();
                let mut costs: Vec<_> = of.iter().map(|(_, _, run)| run.cpu).collect();
                rates.sort_by(f64::total_cmp);
                costs.sort_unstable();
                let middle = of.len() / 2;
                found.push(Throughput {
                    way,
                    names,
                    per_second: *rates.get(middle).context("nothing was measured")?,
                    cpu: *costs.get(middle).context("nothing was measured")?,
                    failed: of.iter().map(|(_, _, run)| run.failed).sum(),
                });
            }
        }
        Ok(found)
    }

    /// Names that nobody has asked for.
    fn fresh(&mut self, count: u32) -> Vec<String> {
        let first = self.next;
        self.next += count;
        (first..self.next).map(|number| format!("n{number}.w.lab.example")).collect()
    }

    fn dnsperf(&self, way: Way, names: &[String], how: &[&str]) -> Result<Run> {
        let file = self.directory.path().join("names");
        let mut text = String::new();
        for name in names {
            writeln!(text, "{name} A")?;
        }
        fs::write(&file, text)?;
        let address = way.address();
        let pid = match way {
            Way::Sluice => self.gateway.daemon_id().context("the daemon has ended")?,
            Way::Dnsmasq | Way::Direct => self.dnsmasq.id(),
        };
        let before = processor_time(pid)?;
        let done = output(
            self.topology
                .client
                .command("dnsperf")
                .args(["-s", &address.ip().to_string(), "-p", &address.port().to_string()])
                .args(["-q", UNDER_WAY, "-c", SOCKETS, "-T", "1", "-t", "2", "-d"])
                .arg(&file)
                .args(how),
        )
        .context("the measurement needs dnsperf (Debian: apt-get install dnsperf)")?;
        let used = processor_time(pid)? - before;
        let said = String::from_utf8_lossy(&done.stdout);
        let word = |label: &str| -> Result<&str> {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
            let word = line.and_then(|rest| rest.split_whitespace().next());
            word.with_context(|| {
                format!("dnsperf says no `{label}`: {said}{}", stderr(&done.stderr))
            })
        };
        let count = |label| -> Result<u32> { Ok(word(label)?.parse()?) };
        let (sent, completed) = (count("Queries sent:")?, count("Queries completed:")?);
        // NOERROR is the first of the codes that came, if it came at all.
        let codes = said.lines().find_map(|line| line.trim().strip_prefix("Response codes:"));
        let good: u32 = codes
            .and_then(|codes| codes.trim().strip_prefix("NOERROR"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        Ok(Run {
            per_second: word("Queries per second:")?.parse()?,
            cpu: used / completed.max(1),
            failed: sent.saturating_sub(good),
        })
    }
}

// === impl Way ===

impl Way {
    /// All of them.
    const ALL: [Self; 3] = [Self::Direct, Self::Dnsmasq, Self::Sluice];

    fn address(self) -> SocketAddr {
        match self {
            Self::Direct => SocketAddr::new(RESOLVER, 53),
            Self::Dnsmasq => DNSMASQ,
            Self::Sluice => FORWARDER_V4,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Dnsmasq => "dnsmasq",
            Self::Sluice => "sluice",
        })
    }
}

// === impl Names ===

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::New => "new names",
            Self::Known => "known names",
        })
    }
}

// === impl Measured ===

impl Measured {
    /// What the forwarder's median is in terms of dnsmasq's.
    #[must_use]
    pub fn latency_ratio(&self, names: Names) -> Option<f64> {
        let of = |way| {
            let found = self.latency.iter().find(|one| (one.way, one.names) == (way, names))?;
            Some(found.p50.as_secs_f64())
        };
        Some(of(Way::Sluice)? / of(Way::Dnsmasq)?)
    }

    /// What the forwarder answers in a second, in terms of what dnsmasq does.
    #[must_use]
    pub fn throughput_ratio(&self, names: Names) -> Option<f64> {
        let of = |way| {
            let found = self.throughput.iter().find(|one| (one.way, one.names) == (way, names))?;
            Some(found.per_second)
        };
        Some(of(Way::Sluice)? / of(Way::Dnsmasq)?)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Latency { way, names, p50, p99, count } in &self.latency {
            let [p50, p99] = [p50, p99].map(|time| time.as_secs_f64() * 1e6);
            writeln!(f, "{names:11} {way:7} p50 {p50:6.0} us, p99 {p99:6.0} us, of {count}")?;
        }
        for Throughput { way, names, per_second, cpu, failed } in &self.throughput {
            let cpu = cpu.as_secs_f64() * 1e6;
            writeln!(
                f,
                "{names:11} {way:7} {per_second:6.0} questions/s, {cpu:.1} us of a processor \
                 each, {failed} failed"
            )?;
        }
        for names in [Names::New, Names::Known] {
            if let (Some(latency), Some(throughput)) =
                (self.latency_ratio(names), self.throughput_ratio(names))
            {
                writeln!(
                    f,
                    "{names:11} sluice/dnsmasq: p50 {latency:.2}, questions/s {throughput:.2}"
                )?;
            }
        }
        Ok(())
    }
}

// === helpers ===

/// All ways, each of them first in turn.
fn turns(round: u32) -> [Way; 3] {
    let mut ways = Way::ALL;
    ways.rotate_left(round as usize % 3);
    ways
}

fn configuration() -> Configuration {
    Configuration::new(
        "[gateway]\ninside  = [\"lan0\"]\noutside = [\"wan0\"]\ndeny    = \"drop\"\n\n[dns]\n\
         upstream = [\"9.9.9.10\"]\nlisten = [\"10.20.0.1\"]\nclient_rate = 1000000\n\
         max_names_per_rule = 100000\nmax_addresses = 100000\n",
    )
    .policy(
        "names",
        "[[rule]]\nname = \"names\"\nto = [\"*.w.lab.example\"]\ntcp = [443]\n\n\
         [[rule]]\nname = \"resolver\"\nto = [\"9.9.9.10\"]\nudp = [53]\n\n\
         [[rule]]\nname = \"dnsmasq\"\nto = [\"self\"]\nudp = [5300]\n",
    )
}

/// The processor time that a process has used, of all its threads.
fn processor_time(pid: u32) -> Result<Duration> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut nanoseconds = 0;
    for task in tasks.read_dir().with_context(|| tasks.display().to_string())? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let first = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        nanoseconds += first.context("no time in schedstat")?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

fn stderr(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
