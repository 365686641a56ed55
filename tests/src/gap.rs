// SPDX-License-Identifier: MIT OR Apache-2.0
//! A prober through everything that happens to a daemon in its life: no packet that is denied passes
//! meanwhile, none that is allowed is dropped, and nothing that the daemon knew is lost.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    dns_server::DnsServer,
    gateway::{Configuration, Gateway},
    generator::{Report, Stream},
    probe, probed,
    process::{Process, run, wait_until},
    topology::{Clients, INSIDE, RESOLVER, Topology},
    workdir::Workdir,
};

/// Packets a second to each of the two destinations.
pub const RATE: u32 = 5000;

const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"

[dns]
upstream = ["9.9.9.10"]
min_ttl  = "1s"
grace    = "60s"
"#;

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often the daemon is killed.
    pub kills: u32,
    /// How often the policy is loaded again.
    pub reloads: u32,
    /// A build with the next layout of the tables, if there is one.
    pub next: Option<PathBuf>,
    /// Where the random moments begin.
    pub seed: u64,
}

/// What became of the packets in each part.
#[derive(Debug, Default)]
pub struct Gaps {
    /// The parts, in order.
    pub parts: Vec<Part>,
}

/// What happened, and what became of packets meanwhile.
#[derive(Debug)]
pub struct Part {
    /// What happened.
    pub what: String,
    /// What became of packets.
    pub report: Report,
    /// Whether some had to be lost.
    pub losses: Losses,
}

/// Whether allowed packets may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// None may.
    None,
    /// The link was down meanwhile.
    OfTheLink,
}

/// What must not be lost.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    allows: Value,
    policies: Vec<Value>,
    names: bool,
}

/// A few random numbers (xorshift), the same for a seed.
struct Random(u64);

/// Lets all of it happen.
///
/// # Errors
///
/// The lab can't be made, the daemon doesn't come back, or something is lost. What became of packets
/// is for the caller to judge.
pub fn live_through(plan: &Plan) -> Result<Gaps> {
    let lab = Topology::new(Clients::One)?;
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &probed::zone())?;
    let mut gateway = Gateway::new(&lab, &configuration(0))?;
    let directory = Workdir::new("gap")?;
    let other = directory.path().join("other");
    let mut random = Random(plan.seed | 1);
    gateway.start()?;
    ask(&gateway, &["allow", "20.190.141.0/24", "--tcp", "443", "--note", "kept"])?;
    let [allowed, denied] = probed::ends();
    // The neighbours are known before the stream begins. Nobody listens yet.
    probe::udp(&lab.client, allowed, 4)?;
    let mut gaps = Gaps::default();
    let start = || Stream::start(&lab.client, &lab.internet, [allowed, denied], RATE);

    let known = Known::of(&gateway)?;
    let stream = start()?;
    thread::sleep(Duration::from_millis(200));
    for round in 1..=plan.kills {
        kill_somewhere(&mut gateway, round, &other, &mut random)?;
    }
    gateway.kill();
    gateway.start()?;
    gaps.add(format!("{} times SIGKILL", plan.kills), stream.finish()?);
    known.check(&gateway, "being killed")?;

    let known = Known::of(&gateway)?;
    let stream = start()?;
    gateway.stop()?;
    gateway.start()?;
    gaps.add("a stop and a start", stream.finish()?);
    known.check(&gateway, "a restart")?;

    let stream = start()?;
    for round in 0..plan.reloads {
        gateway.configure(&configuration(round))?;
        ask(&gateway, &["reload"])?;
    }
    gaps.add(format!("{} reloads", plan.reloads), stream.finish()?);
    Known { policies: Vec::new(), ..known }.check(&gateway, "reloads")?;

    if let Some(next) = &plan.next {
        let known = Known::of(&gateway)?;
        let rule = packets_of_rule(&gateway)?;
        let stream = start()?;
        gateway.kill();
        gateway.use_binary(next.clone());
        gateway.start()?;
        thread::sleep(Duration::from_millis(500));
        gaps.add("an upgrade to another layout", stream.finish()?);
        known.check(&gateway, "an upgrade")?;
        ensure!(
            packets_of_rule(&gateway)? > rule,
            "the rule's counter began anew with the upgrade"
        );
        ensure!(gateway.pins().layouts()?.len() == 1, "the older pins are still there");
    }

    // What is lost while the link is down is lost to the link; nothing may pass meanwhile that is denied.
    let stream = start()?;
    let begin = Instant::now();
    let link =
        |state: &str| run(lab.gateway.command("ip").args(["link", "set", INSIDE, state])).map(drop);
    for _ in 0..3 {
        link("down")?;
        thread::sleep(Duration::from_millis(100));
        link("up")?;
    }
    ensure!(begin.elapsed() < Duration::from_secs(10), "the link takes its time");
    // Routes go with the link, and with them the way back to the client.
    wait_until("the way to the client is back", Duration::from_secs(5), || {
        probe::send_udp(&lab.client, allowed, 4, 1)?;
        Ok(gateway.command(&["status"])?.code == Some(0))
    })?;
    thread::sleep(Duration::from_millis(1500));
    gaps.parts.push(Part {
        what: "a NIC that goes down and up".to_owned(),
        report: stream.finish()?,
        losses: Losses::OfTheLink,
    });
    let stream = start()?;
    thread::sleep(Duration::from_millis(1000));
    gaps.add("after that", stream.finish()?);
    Ok(gaps)
}

/// Kills the daemon at rest, in the middle of a start, of a reload or of an apply.
fn kill_somewhere(
    gateway: &mut Gateway<'_>,
    round: u32,
    other: &Path,
    random: &mut Random,
) -> Result<()> {
    let moment = Duration::from_millis(random.below(400));
    match round % 4 {
        0 => thread::sleep(moment),
        1 => {
            gateway.kill();
            gateway.launch()?;
            thread::sleep(moment);
        }
        2 => {
            gateway.configure(&configuration(round))?;
            let mut command = gateway.asking(&["reload"]);
            let _reload = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
            thread::sleep(moment);
        }
        _ => {
            configuration(round).write(other)?;
            let path = other.display().to_string();
            let apply = ["apply", &path, "--yes", "--confirm-within", "5s"];
            let apply = if random.below(2) == 0 { &apply[..] } else { &apply[..3] };
            let mut command = gateway.asking(apply);
            let _apply = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
            thread::sleep(moment);
        }
    }
    gateway.kill();
    gateway.start().with_context(|| format!("after kill {round}"))
}

/// The configuration of a round: the same grants for the stream, and more or fewer others.
fn configuration(round: u32) -> Configuration {
    probed::configuration(GATEWAY, round % 3 * 10)
}

fn ask(gateway: &Gateway<'_>, words: &[&str]) -> Result<Value> {
    let answer = gateway.command(words)?;
    ensure!(answer.code == Some(0), "{words:?}: {}", answer.stderr);
    answer.json()
}

fn packets_of_rule(gateway: &Gateway<'_>) -> Result<u64> {
    let rules = ask(gateway, &["rules"])?;
    let mut rules = rules.as_array().into_iter().flatten();
    let rule = rules
        .find(|rule| rule.get("name").is_some_and(|name| name == "stream"))
        .context("the rule is gone")?;
    rule.get("packets").and_then(Value::as_u64).context("the rule counts nothing")
}

// === impl Known ===

impl Known {
    fn of(gateway: &Gateway<'_>) -> Result<Self> {
        let policies = ask(gateway, &["rollback", "--list"])?;
        let numbers = policies.as_array().into_iter().flatten();
        let allows = ask(gateway, &["allow", "--list"])?;
        for allow in allows.as_array().into_iter().flatten() {
            let note = allow.pointer("/request/note").and_then(Value::as_str);
            ensure!(note == Some("kept"), "{allow}");
        }
        let names = ask(gateway, &["names", "stream.example.com"])?;
        Ok(Self {
            allows,
            policies: numbers.filter_map(|record| record.get("policy").cloned()).collect(),
            names: names.to_string().contains(&probed::HOST.to_string()),
        })
    }

    /// What was known is known; there may be more policies.
    fn check(&self, gateway: &Gateway<'_>, what: &str) -> Result<()> {
        let now = Self::of(gateway)?;
        ensure!(now.allows == self.allows, "{what} lost an allow: {:?}", now.allows);
        ensure!(now.names == self.names, "{what} lost a name");
        let lost: Vec<_> =
            self.policies.iter().filter(|policy| !now.policies.contains(policy)).collect();
        // The oldest of twenty make room for others.
        ensure!(lost.is_empty() || now.policies.len() >= 20, "{what} lost the policies {lost:?}");
        Ok(())
    }
}

// === impl Random ===

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

// === impl Gaps ===

impl Gaps {
    fn add(&mut self, what: impl Into<String>, report: Report) {
        self.parts.push(Part { what: what.into(), report, losses: Losses::None });
    }

    /// Checks that every packet became what it should.
    ///
    /// # Errors
    ///
    /// One didn't.
    pub fn check(&self) -> Result<()> {
        for Part { what, report, losses } in &self.parts {
            ensure!(report.denied.received == 0, "{what}: wrongly passed: {report}");
            match losses {
                Losses::None => {
                    ensure!(report.allowed.missing.is_empty(), "{what}: wrongly dropped: {report}");
                }
                Losses::OfTheLink => {
                    ensure!(report.allowed.received > 0, "{what}: nothing came through: {report}");
                }
            }
            ensure!(report.allowed.duplicates == 0, "{what}: {report}");
            ensure!(report.allowed.sent > 0, "{what}: nothing was sent");
        }
        Ok(())
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { what, report, .. } in &self.parts {
            writeln!(f, "{what}: {report}")?;
        }
        Ok(())
    }
}

/// The build with the next layout, where the test command made one.
#[must_use]
pub fn next_layout() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("SLUICE_NEXT_LAYOUT_BIN")?);
    fs::metadata(&path).is_ok_and(|found| found.is_file()).then_some(path)
}
