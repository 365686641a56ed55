// SPDX-License-Identifier: MIT OR Apache-2.0
//! A gateway at work for a long time: names that come and go, policies that change, frames that are broken.
//! Its memory and its open files must stay what they are, and no packet may get a wrong verdict.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use serde_json::Value;

use crate::{
    gateway::{Configuration, Gateway},
    generator::{Report, Stream},
    probe,
    query::Client,
    raw::Wire,
    topology::{Clients, INSIDE, RESOLVER, Topology},
    upstream::{
        Upstream,
        wire::{Labels, kind},
    },
};

/// Packets a second to each of the prober's two destinations.
const RATE: u32 = 1000;
/// Names that clients ask for in a second, each a new one.
const NAMES: u32 = 200;
/// Broken frames a second: one of a hundred.
const BROKEN: u32 = RATE * 2 / 100;
/// Between two reloads.
const RELOAD: Duration = Duration::from_secs(30);
/// Between two rows of the table.
const ROW: Duration = Duration::from_secs(60);

const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"

[dns]
upstream = ["9.9.9.10"]
listen   = ["10.20.0.1"]
min_ttl  = "10s"
grace    = "20s"
client_rate = 1000
"#;

const POLICY: &str = r#"[[rule]]
name = "stream"
to   = ["20.190.140.1"]
udp  = [5000]

[[rule]]
name = "churn"
to   = ["*.churn.example.com"]
tcp  = [443]
"#;

const HOST: Ipv4Addr = Ipv4Addr::new(20, 190, 140, 1);

/// How the daemon was at some time.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Since the beginning.
    pub after: Duration,
    /// Resident memory in KiB.
    pub resident: u64,
    /// Open files.
    pub files: usize,
    /// Names that have addresses.
    pub names: u64,
    /// Names that were asked for so far.
    pub asked: u64,
    /// Of these, that had no answer.
    pub unanswered: u64,
    /// Reloads so far.
    pub reloads: u32,
    /// Broken frames so far.
    pub broken: u64,
}

/// What a soak came to.
#[derive(Debug)]
pub struct Soaked {
    /// Every minute.
    pub rows: Vec<Row>,
    /// What became of the prober's packets.
    pub report: Report,
}

/// Lets a gateway work for some time; `each` sees every row as it comes.
///
/// # Errors
///
/// The lab can't be made, the daemon ends, or a reload fails.
pub fn soak(time: Duration, mut each: impl FnMut(&Row)) -> Result<Soaked> {
    let lab = Topology::new(Clients::One)?;
    let _upstream = Upstream::start(&lab.internet, [SocketAddr::new(RESOLVER, 53)])?;
    let mut gateway = Gateway::new(&lab, &configuration(0))?;
    gateway.start()?;
    let [allowed, denied] = [5000, 5001].map(|port| SocketAddr::from((HOST, port)));
    probe::udp(&lab.client, allowed, 4)?;
    let stop = AtomicBool::new(false);
    let (asked, unanswered, broken) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stream = Stream::start(&lab.client, &lab.internet, [allowed, denied], RATE)?;
    let worked = thread::scope(|scope| -> Result<Vec<Row>> {
        let churning = scope.spawn(|| churn(&lab, &stop, (&asked, &unanswered)));
        let breaking = scope.spawn(|| break_frames(&lab, &stop, &broken));
        let begin = Instant::now();
        let mut rows = Vec::new();
        let mut reloads = 0;
        let mut work = || -> Result<Vec<Row>> {
            while begin.elapsed() < time {
                thread::sleep(Duration::from_millis(200));
                gateway.check_runs()?;
                if begin.elapsed() >= RELOAD * (reloads + 1) {
                    reloads += 1;
                    gateway.configure(&configuration(reloads))?;
                    let answer = gateway.command(&["reload"])?;
                    ensure!(answer.code == Some(0), "a reload failed: {}", answer.stderr);
                }
                let due = ROW * u32::try_from(rows.len() + 1)?;
                if begin.elapsed() >= due.min(time) {
                    let status = gateway.command(&["status"])?.json()?;
                    let names = status.pointer("/policy/addresses").and_then(Value::as_u64);
                    let row = Row {
                        after: begin.elapsed(),
                        resident: resident(&gateway)?,
                        files: files(&gateway)?,
                        names: names.context("the status has no addresses")?,
                        asked: asked.load(Ordering::Relaxed),
                        unanswered: unanswered.load(Ordering::Relaxed),
                        reloads,
                        broken: broken.load(Ordering::Relaxed),
                    };
                    each(&row);
                    rows.push(row);
                }
            }
            Ok(std::mem::take(&mut rows))
        };
        let work = work();
        stop.store(true, Ordering::Relaxed);
        churning.join().map_err(|_panic| anyhow!("the clients panicked"))??;
        breaking.join().map_err(|_panic| anyhow!("the sender of broken frames panicked"))??;
        work
    });
    let report = stream.finish()?;
    Ok(Soaked { rows: worked?, report })
}

/// Clients ask for one new name after the other.
fn churn(lab: &Topology, stop: &AtomicBool, counts: (&AtomicU64, &AtomicU64)) -> Result<()> {
    let (asked, unanswered) = counts;
    let server: SocketAddr = "10.20.0.1:53".parse()?;
    lab.client.enter(|| -> Result<()> {
        let mut client = Client::here(server, Duration::from_secs(2))?;
        let begin = Instant::now();
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let due = begin.elapsed().as_millis() * u128::from(NAMES) / 1000;
            if u128::from(number) >= due {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            number += 1;
            let name = format!("n{number}-x.ttl5.churn.example.com");
            let reply = client.ask(&Labels::of(&name), kind::A)?;
            asked.fetch_add(1, Ordering::Relaxed);
            if reply.addresses().is_empty() {
                unanswered.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    })?
}

/// Frames of which some bits are flipped, anywhere behind the addresses of the NICs.
fn break_frames(lab: &Topology, stop: &AtomicBool, broken: &AtomicU64) -> Result<()> {
    let wire = Wire::new((&lab.client, "eth0"), (&lab.gateway, INSIDE))?;
    let whole = wire.frame("ip 10.20.0.2 > 52.96.10.7 | udp 40000 > 4000 | data 20")?;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while !stop.load(Ordering::Relaxed) {
        let mut frame = whole.clone();
        for _ in 0..4 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let bit = usize::try_from(random % (frame.len() as u64 * 8 - 96))? + 96;
            if let Some(byte) = frame.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        wire.send_bytes(&frame)?;
        broken.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_secs(1) / BROKEN);
    }
    Ok(())
}

/// The same grants for the prober, and more or fewer others.
fn configuration(round: u32) -> Configuration {
    let mut others = String::new();
    for rule in 0..round % 5 * 10 {
        others.push_str(&format!(
            "[[rule]]\nname = \"other-{rule}\"\ntcp = [{}]\nto = [\"52.{rule}.0.0/16\", \"53.{rule}.1.0/24\"]\n",
            1000 + rule
        ));
    }
    Configuration::new(GATEWAY).policy("churn", POLICY).policy("others", others)
}

/// The daemon's resident memory in KiB (proc(5), `VmRSS`).
///
/// # Errors
///
/// No daemon runs.
pub fn resident(gateway: &Gateway<'_>) -> Result<u64> {
    let process = gateway.daemon_id().context("no daemon runs")?;
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_ascii_whitespace().nth(1).context("no VmRSS")?.parse()?)
}

fn files(gateway: &Gateway<'_>) -> Result<usize> {
    let process = gateway.daemon_id().context("no daemon runs")?;
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

// === impl Soaked ===

impl Soaked {
    /// Checks that nothing grew after the first third, and that every packet became what it should.
    ///
    /// # Errors
    ///
    /// Something grew, or a packet didn't.
    pub fn check(&self) -> Result<()> {
        let Self { rows, report } = self;
        ensure!(report.denied.received == 0, "wrongly passed: {report}");
        ensure!(report.allowed.missing.is_empty(), "wrongly dropped: {report}");
        let third = rows.len().div_ceil(3);
        let (early, late) = rows.split_at(third);
        let most = |rows: &[Row], what: fn(&Row) -> u64| rows.iter().map(what).max();
        if let (Some(early_most), Some(late_most)) =
            (most(early, |row| row.resident), most(late, |row| row.resident))
        {
            // An allocator takes and gives in steps.
            ensure!(
                late_most <= early_most + early_most / 10 + 4096,
                "memory grew from {early_most} to {late_most} KiB"
            );
        }
        if let (Some(early_most), Some(late_most)) =
            (most(early, |row| row.files as u64), most(late, |row| row.files as u64))
        {
            ensure!(late_most <= early_most + 16, "files grew from {early_most} to {late_most}");
        }
        let last = rows.last().context("it ended before the first row")?;
        ensure!(
            last.unanswered * 1000 <= last.asked,
            "{} of {} names had no answer",
            last.unanswered,
            last.asked
        );
        Ok(())
    }
}
