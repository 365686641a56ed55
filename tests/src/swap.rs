// SPDX-License-Identifier: MIT OR Apache-2.0
//! Swapping one policy for another again and again, under streams of packets from both sides.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    gateway::{Configuration, Gateway},
    generator::{Report, Stream, Tally},
    probe,
    topology::{Clients, Topology},
};

/// Packets a second from each side: half of them to what both policies allow, half to what both
/// deny.
pub const RATE: u32 = 5000;

/// How long the last packets may take until they are counted.
const SETTLE: Duration = Duration::from_millis(300);

const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"
"#;

/// Both policies allow a host's UDP port 5000 to clients, and the gateway's UDP port 8443 to a
/// neighbour outside; each says so by other prefixes, among other rules.
const POLICIES: [&str; 2] = [
    r#"[[rule]]
name = "stream"
to   = ["20.190.140.1"]
udp  = [5000]

[[inbound]]
name = "service"
from = ["192.0.2.2"]
to   = ["self"]
udp  = [8443]
"#,
    r#"[[source]]
name = "clients"
cidr = ["10.20.0.0/24"]

[[rule]]
name = "others"
from = ["clients"]
to   = ["20.128.0.0/9"]
tcp  = "any"

[[rule]]
name = "stream-and-more"
from = ["clients"]
to   = ["20.190.140.0/24"]
tcp  = [443]
udp  = ["4990-5000"]

[[inbound]]
name = "service"
from = ["192.0.2.0/24", "203.0.113.0/24"]
to   = ["self"]
tcp  = [22]
udp  = ["8440-8443"]
"#,
];

/// What became of the packets.
#[derive(Debug)]
pub struct Swaps {
    /// How many there were.
    pub count: u32,
    /// How long the slowest took, from the command to its answer.
    pub slowest: Duration,
    /// From the client to the internet.
    pub outgoing: Report,
    /// From the internet to the gateway.
    pub incoming: Report,
    /// By how much the gateway's counters rose: what passed and was dropped of either way.
    pub counted: [u64; 4],
}

/// The counters of [`Swaps::counted`], by kind and reason.
const COUNTERS: [(&str, &str); 4] = [
    ("passes", "rule"),
    ("drops", "port-not-allowed"),
    ("passes", "inbound"),
    ("drops", "unsolicited"),
];

/// Swaps two policies `count` times by `sluice reload`, under streams from both sides.
///
/// # Errors
///
/// If the daemon doesn't start or refuses a policy, or the lab can't be made.
pub fn swap_repeatedly(count: u32) -> Result<Swaps> {
    let lab = Topology::new(Clients::One)?;
    let mut gateway = Gateway::new(&lab, &configuration(0))?;
    gateway.start()?;
    let outgoing = [5000, 5001].map(|port| SocketAddr::from(([20, 190, 140, 1], port)));
    let incoming = [8443, 8444].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
    // The neighbours are known before the streams begin. Nobody listens yet.
    for (from, [allowed, _]) in [(&lab.client, outgoing), (&lab.internet, incoming)] {
        probe::udp(from, allowed, 4)?;
    }
    thread::sleep(SETTLE);
    let before = counters(&gateway)?;
    let generation = generation(&gateway)?;

    let rate = RATE / 2;
    let outgoing = Stream::start(&lab.client, &lab.internet, outgoing, rate)?;
    let incoming = Stream::start(&lab.internet, &lab.gateway, incoming, rate)?;
    let mut slowest = Duration::ZERO;
    for round in 1..=count {
        gateway.configure(&configuration(round))?;
        let begin = Instant::now();
        gateway.text(&["reload"])?;
        slowest = slowest.max(begin.elapsed());
    }
    thread::sleep(SETTLE);
    let (outgoing, incoming) = (outgoing.finish()?, incoming.finish()?);
    thread::sleep(SETTLE);
    let swapped = self::generation(&gateway)? - generation;
    ensure!(swapped >= u64::from(count), "{count} reloads made {swapped} generations");
    let after = counters(&gateway)?;
    let mut counted = [0; 4];
    for (place, (after, before)) in counted.iter_mut().zip(after.iter().zip(before)) {
        *place = after - before;
    }
    Ok(Swaps { count, slowest, outgoing, incoming, counted })
}

/// The configuration of a round: one policy or the other, with more or fewer rules around it.
fn configuration(round: u32) -> Configuration {
    let mut others = String::new();
    for rule in 0..round % 3 * 10 {
        let port = 1000 + rule;
        let _ = write!(others, "[[rule]]\nname = \"other-{rule}\"\ntcp = [{port}]\nto = [");
        for part in 0..20 {
            let _ = write!(others, "\"52.{rule}.{part}.0/24\", ");
        }
        others.push_str("]\n");
    }
    let [first, second] = POLICIES;
    let policy = if round.is_multiple_of(2) { first } else { second };
    Configuration::new(GATEWAY).policy("streams", policy).policy("others", others)
}

fn counters(gateway: &Gateway<'_>) -> Result<[u64; 4]> {
    let status = gateway.command(&["status"])?.json()?;
    Ok(COUNTERS.map(|(kind, reason)| {
        let count = status.get(kind).and_then(|kind| kind.get(reason)?.get("packets"));
        // A reason that nothing was counted under isn't there.
        count.and_then(Value::as_u64).unwrap_or_default()
    }))
}

fn generation(gateway: &Gateway<'_>) -> Result<u64> {
    let status = gateway.command(&["status"])?.json()?;
    let generation = status.get("generation").and_then(Value::as_u64);
    generation.context("`sluice status` tells no generation of the policy")
}

// === impl Swaps ===

impl Swaps {
    /// Checks that every packet went the way that both policies say, and was counted.
    ///
    /// # Errors
    ///
    /// If one was not.
    pub fn check(&self) -> Result<()> {
        let [passed_out, dropped_out, passed_in, dropped_in] = self.counted;
        for (way, report, passed, dropped) in [
            ("outgoing", &self.outgoing, passed_out, dropped_out),
            ("incoming", &self.incoming, passed_in, dropped_in),
        ] {
            let Report { allowed, denied, .. } = report;
            let Tally { sent, missing, duplicates, .. } = allowed;
            ensure!(missing.is_empty(), "{way} packets were wrongly dropped: {missing:?}; {self}");
            ensure!(*duplicates == 0, "{way} packets came twice; {self}");
            ensure!(denied.received == 0, "{way} packets wrongly passed; {self}");
            ensure!(
                (passed, dropped) == (u64::from(*sent), u64::from(denied.sent)),
                "{way}: {passed} were counted as passed and {dropped} as dropped; {self}"
            );
        }
        Ok(())
    }
}

impl fmt::Display for Swaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, slowest, outgoing, incoming, .. } = self;
        let slowest = slowest.as_millis();
        write!(
            f,
            "{count} swaps, the slowest in {slowest} ms; outgoing {outgoing}; incoming {incoming}"
        )
    }
}
