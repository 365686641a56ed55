// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long one learned address takes until it is in the tables in force, by how many are there
//! already.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use filter_user::{
    compile::{Compiled, CounterLedger, Edit, Host, compile, plan_names},
    daemon::tables::TwoSlots,
    kernel::{PinDirectory, SharedMaps},
    names::{Changed, Snapshot},
    policy::{Fqdn, Policy, TableSizes, load},
};

use crate::{netns, workdir::PinDir};

/// Rules, and the wildcards of each.
const RULES: u32 = 1000;
const PATTERNS: u32 = 10;

const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = []

[[rule]]
name = "wide"
to   = ["198.18.0.0/16", "2001:db8::/48"]
udp  = [123]
"#;

/// What one learned address took.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Addresses that were learned before.
    pub known: u32,
    /// Addresses that were learned, one after the other.
    pub learned: u32,
    /// To find the steps and to follow them in the daemon's own tables.
    pub host: Times,
    /// The same, and to carry the steps out in the kernel.
    pub kernel: Times,
}

/// The middle and the end of many times.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Half of them took no longer.
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub most: Duration,
    /// The longest.
    pub longest: Duration,
}

/// Learns `learned` fresh names, one address each, in tables that hold `known` of them, of both
/// families, half of them within a prefix that a rule lists.
///
/// # Errors
///
/// The kernel refuses a map, or the policy doesn't fit.
pub fn measure(known: u32, learned: u32) -> Result<Measured> {
    let policy = policy()?;
    let mut names = Snapshot::default();
    for number in 0..known {
        let (name, address) = learn(number)?;
        names.addresses.insert(name, BTreeSet::from([address]));
    }
    let mut ledger = CounterLedger::default();
    let compiled = compile(&policy, &names, &Host::default(), &mut ledger)?;
    let fresh = (known..known + learned).map(|number| {
        Ok(Changed { added: BTreeSet::from([learn(number)?]), ..Changed::default() })
    });
    let fresh: Vec<Changed> = fresh.collect::<Result<_>>()?;
    let host = on_the_host(compiled.clone(), ledger.clone(), &fresh)?;
    let kernel = in_the_kernel(compiled, ledger, &fresh)?;
    Ok(Measured { known, learned, host, kernel })
}

fn on_the_host(
    mut compiled: Compiled,
    mut ledger: CounterLedger,
    fresh: &[Changed],
) -> Result<Times> {
    let mut times = Vec::with_capacity(fresh.len());
    for changed in fresh {
        let begin = Instant::now();
        let edit = plan_names(&compiled, changed, &ledger)?;
        count(&edit, &mut ledger);
        edit.record(&mut compiled);
        times.push(begin.elapsed());
    }
    Times::of(times)
}

fn in_the_kernel(
    compiled: Compiled,
    mut ledger: CounterLedger,
    fresh: &[Changed],
) -> Result<Times> {
    let directory = PinDir::new(&format!("bench-{}", netns::unique()))?;
    let pins = PinDirectory::create(directory.path())?;
    let (maps, _events, provenance) = SharedMaps::open(&pins, TableSizes::default())?;
    let (mut slots, _) = TwoSlots::open(maps, provenance)?;
    slots.swap(compiled)?;
    let mut times = Vec::with_capacity(fresh.len());
    for changed in fresh {
        let begin = Instant::now();
        let edit = slots.plan_names(changed, &ledger)?;
        count(&edit, &mut ledger);
        slots.edit_names(edit)?;
        times.push(begin.elapsed());
    }
    Times::of(times)
}

fn count(edit: &Edit, ledger: &mut CounterLedger) {
    if let Some(counted) = edit.count(ledger) {
        *ledger = counted;
    }
}

fn policy() -> Result<Policy> {
    let mut rules = String::new();
    for rule in 0..RULES {
        let _ = write!(rules, "[[rule]]\nname = \"rule-{rule}\"\nto = [");
        for pattern in (0..PATTERNS).map(|pattern| pattern * RULES + rule) {
            let _ = write!(rules, "\"*.p{pattern}.example.com\", ");
        }
        let _ = writeln!(rules, "]\ntcp = [443, {}]", 1000 + rule % 40);
    }
    let files: [(Arc<str>, String); 2] = [
        (Arc::from(load::GATEWAY_FILE), GATEWAY.to_owned()),
        (Arc::from("policy.d/rules.toml"), rules),
    ];
    let loaded = load::parse(&files).map_err(|errors| anyhow!("{errors}"))?;
    Ok(loaded.policy)
}

/// The name of a number, which a wildcard covers, and its address.
fn learn(number: u32) -> Result<(Fqdn, IpAddr)> {
    let name = format!("n{number}.p{}.example.com", number % (RULES * PATTERNS));
    let name = Fqdn::try_from(name.as_str()).context("a name that is made")?;
    // Neighbours stand together, as those of a network of servers.
    let address = match number % 4 {
        0 => Ipv4Addr::from(0xc612_0000 + number / 4).into(),
        1 => Ipv4Addr::from(0xc700_0000 + number / 4 * 7).into(),
        2 => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number)).into(),
        _ => Ipv6Addr::from(0x2001_0db9_u128 << 96 | u128::from(number) << 40).into(),
    };
    Ok((name, address))
}

// === impl Times ===

impl Times {
    fn of(mut times: Vec<Duration>) -> Result<Self> {
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied();
        let (median, most) = (at(50), at(99));
        let longest = times.last().copied();
        let times = median.zip(most).zip(longest);
        let ((median, most), longest) = times.context("nothing was learned")?;
        Ok(Self { median, most, longest })
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        write!(
            f,
            "{:.1} (99 of 100 within {:.1}, the longest {:.1})",
            micros(self.median),
            micros(self.most),
            micros(self.longest)
        )
    }
}

// === impl Measured ===

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { known, learned, host, kernel } = self;
        write!(
            f,
            "{known} addresses known, {learned} learned: median {host} microseconds on the host, \
             {kernel} with the kernel's maps"
        )
    }
}
