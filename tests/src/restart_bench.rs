// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a daemon takes that is started over the pins of one that was killed, until it is ready.

use std::{
    fmt::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    gateway::{Configuration, Gateway},
    topology::{Clients, Topology},
};

const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
"#;

/// Rules, and the prefixes of each.
const RULES: u32 = 200;
const PREFIXES: u32 = 25;

/// What the daemon says when the policy is in force.
const READY: &str = "ready: the policy is in force";

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How long the starts took.
#[derive(Clone, Debug)]
pub struct Restarts {
    /// In order of their length.
    pub times: Vec<Duration>,
}

/// Kills the daemon (SIGKILL) and starts it again, so often.
///
/// # Errors
///
/// If the daemon doesn't start, or the lab can't be made.
pub fn restart_repeatedly(times: u32) -> Result<Restarts> {
    let lab = Topology::new(Clients::One)?;
    let mut gateway = Gateway::new(&lab, &configuration())?;
    gateway.start()?;
    let mut restarts = Restarts { times: Vec::new() };
    for _ in 0..times {
        gateway.kill();
        let known = ready(&gateway);
        let begin = Instant::now();
        gateway.launch()?;
        while ready(&gateway) == known {
            ensure!(begin.elapsed() < LIMIT, "it is not ready; its log:\n{}", gateway.log());
            thread::sleep(Duration::from_millis(1));
        }
        restarts.times.push(begin.elapsed());
    }
    restarts.times.sort_unstable();
    Ok(restarts)
}

/// How often the daemon was ready so far.
fn ready(gateway: &Gateway<'_>) -> usize {
    gateway.log().matches(READY).count()
}

fn configuration() -> Configuration {
    let mut rules = String::new();
    for rule in 0..RULES {
        let port = 1000 + rule;
        let _ = write!(rules, "[[rule]]\nname = \"rule-{rule}\"\ntcp = [443, {port}]\nto = [");
        for part in 0..PREFIXES {
            let _ = write!(rules, "\"52.{rule}.{part}.0/24\", ");
        }
        rules.push_str("]\n");
    }
    Configuration::new(GATEWAY).policy("rules", rules)
}

// === impl Restarts ===

impl Restarts {
    /// Half of them took no longer.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn median(&self) -> Result<Duration> {
        self.times.get(self.times.len() / 2).copied().context("nothing was started")
    }
}

impl fmt::Display for Restarts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis: Vec<u128> = self.times.iter().map(Duration::as_millis).collect();
        write!(f, "{} starts over existing pins, ready after ms: {millis:?}", self.times.len())
    }
}
