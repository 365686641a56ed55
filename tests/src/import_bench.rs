// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long `sluice import` takes for a large file of service tags, and how much memory.

use std::{
    collections::BTreeSet,
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::gateway::binary;

/// The least size of the file that is made.
pub const SIZE: usize = 4 << 20;

/// The real file that it is made from.
pub const REAL: &str = "../shared/feeds/ServiceTags_AzureGovernment_20260720.json";

/// What a measurement found.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was imported.
    pub what: &'static str,
    /// The file's size.
    pub bytes: usize,
    /// Its prefixes, and how many of them are distinct.
    pub prefixes: (usize, usize),
    /// How often it was imported.
    pub rounds: u32,
    /// The median of the times, from start to exit.
    pub median: Duration,
    /// The longest time.
    pub longest: Duration,
    /// The most memory that any process of this program's children held so far.
    pub peak_kib: i64,
}

/// A file of service tags, and what it holds.
struct Made {
    text: String,
    prefixes: usize,
    distinct: usize,
}

/// Imports a file made of copies of the real one, each at other addresses, as it is and with ports
/// for everything.
///
/// # Errors
///
/// If the real file or the binary is missing, or an import fails.
pub fn measure(root: &Path, rounds: u32) -> Result<Vec<Measured>> {
    let path = root.join(REAL);
    let real = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let real: Value = serde_json::from_str(&real)?;
    let copies = copies(&real)?;
    let directory = tempfile::tempdir()?;
    let mut measured = Vec::new();
    for (what, made, ports) in [
        ("service tags, all of them", enlarged(&real, &copies)?, None),
        // Rules that overlap in thousands of ways would be refused, so that one rule has it all.
        ("one tag with all prefixes, with ports", one_tag(&copies)?, Some("tcp/443")),
    ] {
        let file = directory.path().join("tags.json");
        fs::write(&file, &made.text)?;
        let mut times = Vec::new();
        for _ in 0..rounds.max(1) {
            times.push(import(&file, &directory.path().join("policy.toml"), ports)?);
        }
        times.sort_unstable();
        measured.push(Measured {
            what,
            bytes: made.text.len(),
            prefixes: (made.prefixes, made.distinct),
            rounds: rounds.max(1),
            median: times.get(times.len() / 2).copied().unwrap_or_default(),
            longest: times.last().copied().unwrap_or_default(),
            peak_kib: getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss(),
        });
    }
    Ok(measured)
}

/// As many copies of the tags as make a file of the size.
fn copies(real: &Value) -> Result<Vec<Value>> {
    let tags = real.get("values").and_then(Value::as_array).context("no tags in the real file")?;
    let mut copies = Vec::new();
    let mut size = 0;
    for round in 0_u32.. {
        if size >= SIZE {
            break;
        }
        let first = copies.len();
        for tag in tags {
            let mut tag = tag.clone();
            let name = tag.get("name").and_then(Value::as_str).unwrap_or_default();
            let name = format!("{name}.Copy{round}");
            for prefix in prefixes_mut(&mut tag) {
                let net: IpNet = prefix.as_str().context("a prefix is no string")?.parse()?;
                *prefix = moved(net, round)?.to_string().into();
            }
            if let Some(slot) = tag.get_mut("name") {
                *slot = name.into();
            }
            copies.push(tag);
        }
        let round = copies.get(first..).unwrap_or_default();
        if round.is_empty() {
            bail!("no tags in the real file");
        }
        size += serde_json::to_string_pretty(round)?.len();
    }
    Ok(copies)
}

/// The network at another place.
fn moved(net: IpNet, round: u32) -> Result<IpNet> {
    let address = match net.addr() {
        IpAddr::V4(address) => {
            IpAddr::V4(Ipv4Addr::from(u32::from(address).wrapping_add(round << 25)))
        }
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(address).wrapping_add(u128::from(round) << 96)))
        }
    };
    Ok(IpNet::new(address, net.prefix_len())?.trunc())
}

fn prefixes_mut(tag: &mut Value) -> impl Iterator<Item = &mut Value> {
    tag.pointer_mut("/properties/addressPrefixes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

fn prefixes(tags: &[Value]) -> Vec<&str> {
    let of_tag = |tag| Value::pointer(tag, "/properties/addressPrefixes").and_then(Value::as_array);
    tags.iter().filter_map(of_tag).flatten().filter_map(Value::as_str).collect()
}

fn enlarged(real: &Value, tags: &[Value]) -> Result<Made> {
    let mut file = real.clone();
    if let Some(values) = file.get_mut("values") {
        *values = tags.into();
    }
    made(&file, tags)
}

fn one_tag(tags: &[Value]) -> Result<Made> {
    let distinct: BTreeSet<&str> = prefixes(tags).into_iter().collect();
    let tag = json!({"name": "All", "properties": {"addressPrefixes": distinct}});
    made(&json!({"values": [tag]}), &[tag])
}

fn made(file: &Value, tags: &[Value]) -> Result<Made> {
    let prefixes = prefixes(tags);
    let distinct = prefixes.iter().collect::<BTreeSet<_>>().len();
    Ok(Made { text: serde_json::to_string_pretty(file)?, prefixes: prefixes.len(), distinct })
}

fn import(file: &Path, policy: &Path, ports: Option<&str>) -> Result<Duration> {
    let mut command = Command::new(binary()?);
    command.arg("import").arg(file).args(["--tags", "*", "-o"]).arg(policy);
    command.args(ports.iter().flat_map(|ports| ["--default-ports", *ports]));
    let begin = Instant::now();
    let status = command.stderr(Stdio::null()).status().context("the import doesn't start")?;
    let took = begin.elapsed();
    if !status.success() {
        bail!("the import failed: {status}");
    }
    Ok(took)
}

// === impl Measured ===

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, distinct) = self.prefixes;
        write!(
            f,
            "{}: {:.1} MiB, {all} prefixes ({distinct} distinct): median {:.2} s, longest {:.2} s of {}, at most {} MiB",
            self.what,
            self.bytes as f64 / f64::from(1 << 20),
            self.median.as_secs_f64(),
            self.longest.as_secs_f64(),
            self.rounds,
            self.peak_kib / 1024
        )
    }
}
