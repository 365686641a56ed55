// SPDX-License-Identifier: MIT OR Apache-2.0
//! Killing the daemon again and again, under a stream of packets.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    dns_server::DnsServer,
    gateway::{Configuration, Gateway},
    generator::{Report, Stream},
    probe, probed,
    topology::{Clients, RESOLVER, Topology},
};

/// Packets a second to each of the two destinations.
pub const RATE: u32 = 2000;

/// The TTL and the grace period are short, so that names are looked up while it happens.
const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"

[dns]
upstream = ["9.9.9.10"]
min_ttl  = "1s"
grace    = "10s"
"#;

/// Kills the daemon (SIGKILL) `kills` times, at different moments of its start, while it swaps in
/// a policy of another size, and at rest. Meanwhile packets go to an allowed and to a denied port
/// of the same learned address; what became of each is returned.
///
/// # Errors
///
/// If the daemon doesn't start, or the lab can't be made.
pub fn kill_repeatedly(kills: u32) -> Result<Report> {
    let lab = Topology::new(Clients::One)?;
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &probed::zone())?;
    let mut gateway = Gateway::new(&lab, &configuration(0))?;
    let begin = Instant::now();
    gateway.start()?;
    let start = begin.elapsed();
    let [allowed, denied] = probed::ends();
    // The neighbours are known before the stream begins. Nobody listens yet.
    probe::udp(&lab.client, allowed, 4)?;

    let stream = Stream::start(&lab.client, &lab.internet, [allowed, denied], RATE)?;
    thread::sleep(Duration::from_millis(200));
    for round in 1..=kills {
        gateway.kill();
        gateway.configure(&configuration(round))?;
        gateway.launch()?;
        if round % 2 == 0 {
            gateway.wait_until_ready()?;
            thread::sleep(Duration::from_millis(100));
        } else {
            // From a twentieth of a start up to a little more than a whole one.
            thread::sleep(start * (round * 7 % 23 + 1) / 20);
        }
    }
    gateway.kill();
    gateway.start()?;
    thread::sleep(Duration::from_millis(200));
    stream.finish()
}

/// The configuration of a round: the same grants for the stream, and more or fewer others around
/// them, so that each start has a difference to apply.
fn configuration(round: u32) -> Configuration {
    probed::configuration(GATEWAY, round % 3 * 20)
}
