// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demonstration: a real gateway with the Intune catalog, and what its clients can do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    dns_server::{DnsServer, Zone},
    gateway::{Configuration, Gateway},
    listener::Listeners,
    probe::{self, Outcome},
    topology::{CLIENT_V4, CLIENT_V6, Clients, INSIDE, RESOLVER, Topology},
};

/// The gateway's configuration.
const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"

[dns]
upstream = ["9.9.9.10"]
"#;

/// The rule that isn't in the catalog: the clients ask their DNS server themselves.
const CLIENTS_DNS: &str = r#"[[rule]]
name = "clients-dns"
to   = ["9.9.9.10"]
udp  = [53]
tcp  = [53]
note = "The clients' own DNS server"
"#;

/// The TTL of the catalog's names.
const TTL: u32 = 300;

/// A name that exists and that no rule names.
const UNLISTED: &str = "www.example.org";

/// TCP ports on which every address of the internet answers.
const TCP_PORTS: [u16; 6] = [22, 80, 123, 443, 853, 8443];

/// Bytes of a datagram, as many as an NTP request has.
const DATAGRAM: usize = 48;

/// How a run of the demonstration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything happened as expected.
    AsExpected,
    /// This many attempts did not.
    Differences(usize),
}

/// Something that the client tries.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    to: Target,
    how: How,
    expected: Expected,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    /// A name, resolved by the client, and its IPv4 address.
    Name(&'static str),
    /// A name, resolved by the client, and its IPv6 address.
    NameV6(&'static str),
    Address(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Tcp(u16),
    Udp(u16),
    Echo,
    /// A real question to a DNS server.
    Question,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    /// It passes, by this rule.
    Pass(&'static str),
    /// A drop, with the name of its reason.
    Drop(&'static str),
}

/// What came of an attempt.
struct Line {
    attempt: Attempt,
    address: Option<IpAddr>,
    happened: Outcome,
    /// The verdict of `sluice explain`.
    verdict: String,
    /// The rule and where it stands, or the reason of the drop.
    why: String,
    /// The name of that rule or reason alone.
    by: String,
}

/// What the catalog names.
#[derive(Debug, Default)]
struct Catalog {
    names: BTreeSet<String>,
    prefixes: Vec<IpNet>,
}

#[derive(Deserialize)]
struct CatalogFile {
    #[serde(default)]
    rule: Vec<CatalogRule>,
}

#[derive(Deserialize)]
struct CatalogRule {
    to: Vec<String>,
}

/// The catalog that the repository holds.
#[must_use]
pub fn default_catalog() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../catalog/intune.toml")
}

/// Runs the demonstration and writes what happens to `out`.
///
/// # Errors
///
/// If it can't be held: no privileges, a program that is missing, a daemon that doesn't start.
pub fn run(catalog: &Path, out: &mut dyn Write) -> Result<Ending> {
    let begin = Instant::now();
    let policy = fs::read_to_string(catalog)
        .with_context(|| format!("the catalog {} can't be read", catalog.display()))?;
    let names = Catalog::parse(&policy).with_context(|| catalog.display().to_string())?;
    let addresses = names.addresses()?;
    let attempts = attempts();

    let lab = Topology::new(Clients::One)?;
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone(&addresses))?;
    let _internet = Listeners::start(&lab.internet, TCP_PORTS, udp(&attempts, &addresses))?;
    let _gateway_service = Listeners::start(&lab.gateway, [22], [])?;
    writeln!(
        out,
        "client {CLIENT_V4}, {CLIENT_V6} -- {INSIDE} gateway -- internet; DNS server {RESOLVER}"
    )?;

    // Whatever is silent later is so because of the filter, and of nothing else.
    for (attempt, (_, happened)) in attempts.iter().zip(try_all(&lab, &attempts)?) {
        if happened != Outcome::Answered {
            bail!("without the filter: {} {}: {happened}", attempt.how, attempt.to);
        }
    }
    writeln!(
        out,
        "without a filter: {} of {} attempts are answered",
        attempts.len(),
        attempts.len()
    )?;

    let configuration =
        Configuration::new(GATEWAY).policy("intune", policy).policy("clients-dns", CLIENTS_DNS);
    let mut gateway = Gateway::new(&lab, &configuration)?;
    gateway.start()?;
    writeln!(out, "`sluice run` is ready, with {}\n", catalog.display())?;

    let lines: Vec<_> = attempts
        .iter()
        .zip(try_all(&lab, &attempts)?)
        .map(|(attempt, (address, happened))| Line::new(&gateway, *attempt, address, happened))
        .collect::<Result<_>>()?;
    write!(out, "{}", Table(&lines))?;
    let differences = lines.iter().filter(|line| !line.is_as_expected()).count();
    writeln!(
        out,
        "\n{} attempts, {differences} other than expected\n\n$ sluice status",
        lines.len()
    )?;
    write!(out, "{}", gateway.text(&["status"])?)?;
    gateway.stop()?;
    gateway.detach()?;
    writeln!(out, "\ndone and cleaned up in {:.1} s", begin.elapsed().as_secs_f64())?;
    Ok(match differences {
        0 => Ending::AsExpected,
        count => Ending::Differences(count),
    })
}

/// What the client tries. The comments say what each group shows.
fn attempts() -> Vec<Attempt> {
    use Expected::{Drop, Pass};
    use How::{Echo, Question, Tcp, Udp};
    use Target::{Address, Name, NameV6};

    let login = "login.microsoftonline.com";
    let time = "time.windows.com";
    [
        // Exact names, over both families; their other ports and protocols stay closed.
        (Name(login), Tcp(443), Pass("intune-56")),
        (Name(login), Tcp(80), Pass("intune-56")),
        (NameV6(login), Tcp(443), Pass("intune-56")),
        (Name(login), Tcp(22), Drop("port-not-allowed")),
        (NameV6(login), Tcp(8443), Drop("port-not-allowed")),
        (Name(login), Udp(443), Drop("port-not-allowed")),
        (Name(login), Echo, Drop("protocol-not-allowed")),
        (Name("graph.windows.net"), Tcp(443), Pass("intune-56")),
        (Name("manage.microsoft.com"), Tcp(443), Pass("intune-163")),
        (Name("enterpriseenrollment.manage.microsoft.com"), Tcp(443), Pass("intune-163")),
        // A UDP service.
        (Name(time), Udp(123), Pass("intune-165")),
        (NameV6(time), Udp(123), Pass("intune-165")),
        (Name(time), Tcp(123), Drop("port-not-allowed")),
        (Name(time), Udp(124), Drop("port-not-allowed")),
        // Prefixes, to their very edges.
        (Address("104.46.162.96"), Tcp(443), Pass("intune-163")),
        (Address("104.46.162.127"), Tcp(80), Pass("intune-163")),
        (Address("104.46.162.95"), Tcp(443), Drop("not-listed")),
        (Address("104.46.162.128"), Tcp(443), Drop("not-listed")),
        (Address("13.107.219.9"), Tcp(443), Pass("intune-163")),
        (Address("13.107.219.9"), Tcp(8443), Drop("port-not-allowed")),
        (Address("2620:1ec:40::7"), Tcp(443), Pass("intune-163")),
        (Address("2620:1ec:40::7"), Tcp(22), Drop("port-not-allowed")),
        (Address("2620:1ec:41::7"), Tcp(443), Drop("not-listed")),
        // What nobody listed: a name that resolves, an address, another DNS server, DNS over TLS.
        (Name(UNLISTED), Tcp(443), Drop("not-listed")),
        (Address("198.51.100.7"), Tcp(443), Drop("not-listed")),
        (Address("9.9.9.10"), Question, Pass("clients-dns")),
        (Address("8.8.8.8"), Udp(53), Drop("not-listed")),
        (Address("8.8.8.8"), Tcp(853), Drop("not-listed")),
        // The gateway itself offers a service, and not to the clients.
        (Address("10.20.0.1"), Tcp(22), Drop("not-listed")),
    ]
    .map(|(to, how, expected)| Attempt { to, how, expected })
    .into()
}

/// The names of the catalog, and one that isn't in it.
fn zone(addresses: &BTreeMap<String, (Ipv4Addr, Ipv6Addr)>) -> Zone {
    let zone = Zone::new().address(UNLISTED, TTL, Ipv4Addr::new(23, 215, 0, 136));
    addresses
        .iter()
        .fold(zone, |zone, (name, (v4, v6))| zone.address(name, TTL, *v4).address(name, TTL, *v6))
}

/// The UDP servers that the attempts need.
fn udp(
    attempts: &[Attempt],
    addresses: &BTreeMap<String, (Ipv4Addr, Ipv6Addr)>,
) -> BTreeSet<SocketAddr> {
    attempts
        .iter()
        .filter_map(|attempt| {
            let How::Udp(port) = attempt.how else { return None };
            let address = match attempt.to {
                Target::Name(name) => addresses.get(name)?.0.into(),
                Target::NameV6(name) => addresses.get(name)?.1.into(),
                Target::Address(address) => address.parse().ok()?,
            };
            Some(SocketAddr::new(address, port))
        })
        .collect()
}

/// Makes all attempts at the same time; most of it is waiting.
fn try_all(lab: &Topology, attempts: &[Attempt]) -> Result<Vec<(Option<IpAddr>, Outcome)>> {
    thread::scope(|scope| {
        let running: Vec<_> =
            attempts.iter().map(|attempt| scope.spawn(|| attempt.make(lab))).collect();
        running
            .into_iter()
            .map(|attempt| attempt.join().map_err(|_panic| anyhow!("an attempt panicked"))?)
            .collect()
    })
}

// === impl Attempt ===

impl Attempt {
    fn make(&self, lab: &Topology) -> Result<(Option<IpAddr>, Outcome)> {
        let address = match self.to {
            Target::Address(address) => address.parse()?,
            Target::Name(name) | Target::NameV6(name) => {
                let found = match probe::resolve(&lab.client, RESOLVER, name) {
                    Ok(found) => found,
                    Err(error) => return Ok((None, Outcome::Failed(error.to_string()))),
                };
                let wanted =
                    |address: &IpAddr| address.is_ipv6() == matches!(self.to, Target::NameV6(_));
                match found.into_iter().map(|(address, _)| address).find(wanted) {
                    Some(address) => address,
                    None => return Ok((None, Outcome::Failed(format!("no address for {name}")))),
                }
            }
        };
        let happened = match self.how {
            How::Tcp(port) => probe::tcp(&lab.client, SocketAddr::new(address, port))?,
            How::Udp(port) => probe::udp(&lab.client, SocketAddr::new(address, port), DATAGRAM)?,
            How::Echo => probe::echo(&lab.client, address)?,
            How::Question => match probe::resolve(&lab.client, address, UNLISTED) {
                Ok(_) => Outcome::Answered,
                Err(_) => Outcome::Silence,
            },
        };
        Ok((Some(address), happened))
    }
}

// === impl Line ===

impl Line {
    /// Asks the daemon why it happened.
    fn new(
        gateway: &Gateway<'_>,
        attempt: Attempt,
        address: Option<IpAddr>,
        happened: Outcome,
    ) -> Result<Self> {
        let Some(address) = address else {
            return Ok(Self {
                attempt,
                address,
                happened,
                verdict: String::new(),
                why: String::new(),
                by: String::new(),
            });
        };
        let from = if address.is_ipv4() { CLIENT_V4.to_string() } else { CLIENT_V6.to_string() };
        let to = address.to_string();
        let port;
        let mut arguments = vec!["explain", "--from", &from, "--to", &to, "--in", INSIDE];
        match attempt.how {
            How::Tcp(number) => {
                port = number.to_string();
                arguments.extend(["--tcp", &port]);
            }
            How::Udp(number) => {
                port = number.to_string();
                arguments.extend(["--udp", &port]);
            }
            How::Question => arguments.extend(["--udp", "53"]),
            How::Echo => arguments.push("--icmp"),
        }
        let answer = gateway.command(&arguments)?.json()?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        let (why, by) = match text("rule") {
            "" => (text("reason").to_owned(), text("reason")),
            rule => (format!("{rule} ({}){}", text("origin"), via(&answer)), rule),
        };
        let (verdict, by) = (text("verdict").to_owned(), by.to_owned());
        Ok(Self { attempt, address: Some(address), happened, verdict, why, by })
    }

    /// Whether the packets, and the explanation, are as expected.
    fn is_as_expected(&self) -> bool {
        match self.attempt.expected {
            Expected::Pass(rule) => {
                self.happened == Outcome::Answered && self.verdict == "pass" && self.by == rule
            }
            Expected::Drop(reason) => {
                self.happened == Outcome::Silence && self.verdict == "drop" && self.by == reason
            }
        }
    }
}

/// By what the address is allowed.
fn via(answer: &Value) -> String {
    let part = |key| answer.get("via").and_then(|via| via.get(key)).and_then(Value::as_str);
    match (part("prefix"), part("name")) {
        (Some(prefix), _) => format!(" via {prefix}"),
        (None, Some(name)) => format!(" via {name}"),
        (None, None) => String::new(),
    }
}

// === impl Catalog ===

impl Catalog {
    fn parse(text: &str) -> Result<Self> {
        let file: CatalogFile = toml::from_str(text)?;
        let mut catalog = Self::default();
        for to in file.rule.into_iter().flat_map(|rule| rule.to) {
            if let Ok(prefix) = to.parse() {
                catalog.prefixes.push(prefix);
            } else if let Ok(address) = to.parse::<IpAddr>() {
                catalog.prefixes.push(address.into());
            } else if to != "self" && !to.contains('*') {
                catalog.names.insert(to.to_ascii_lowercase());
            }
        }
        Ok(catalog)
    }

    /// An IPv4 and an IPv6 address for each name: public ones, all different, and in none of the
    /// catalog's prefixes, so that an attempt by name passes by the name alone.
    fn addresses(&self) -> Result<BTreeMap<String, (Ipv4Addr, Ipv6Addr)>> {
        let mut v4 = (1..=62 * 250).map(|n| Ipv4Addr::from_bits(0x14be_8000 + n));
        let mut v6 = (1..=0xffff).map(|n| Ipv6Addr::new(0x2603, 0x1006, 0x2000, 0, 0, 0, 0, n));
        let free = |address: IpAddr| !self.prefixes.iter().any(|prefix| prefix.contains(&address));
        self.names
            .iter()
            .map(|name| {
                let v4 = v4.find(|address| free((*address).into()));
                let v6 = v6.find(|address| free((*address).into()));
                let addresses =
                    v4.zip(v6).context("the catalog covers the demonstration's addresses")?;
                Ok((name.clone(), addresses))
            })
            .collect()
    }
}

// === what is printed ===

/// The lines, in columns as wide as they need to be.
struct Table<'a>(&'a [Line]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "tried", "expected", "happened", "rule or reason"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(self.0.iter().map(Line::columns)).collect();
        let mut widths = [0; 5];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let mut text = String::new();
            for (width, cell) in widths.iter().zip(row) {
                text.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

impl Line {
    fn columns(&self) -> [String; 5] {
        let mark = if self.is_as_expected() { "ok" } else { "DIFFERS" };
        let address = match (self.attempt.to, self.address) {
            (Target::Name(_) | Target::NameV6(_), Some(address)) => format!(" = {address}"),
            _ => String::new(),
        };
        let happened = match &self.happened {
            Outcome::Answered => "passed".to_owned(),
            Outcome::Silence => "dropped".to_owned(),
            other => other.to_string(),
        };
        let expected = match self.attempt.expected {
            Expected::Pass(rule) => format!("pass: {rule}"),
            Expected::Drop(reason) => format!("drop: {reason}"),
        };
        let tried = format!("{} {}{address}", self.attempt.how, self.attempt.to);
        [mark.to_owned(), tried, expected, happened, self.why.clone()]
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp {port}"),
            Self::Udp(port) => write!(f, "udp {port}"),
            Self::Echo => f.write_str("echo"),
            Self::Question => f.write_str("dns question"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::NameV6(text) | Self::Address(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_addresses_outside_the_prefixes() {
        let catalog = Catalog::parse(
            "[[rule]]\nname = \"a\"\nto = [\"20.190.128.0/31\", \"B.example\", \"*.example\", \
             \"a.example\", \"2603:1006:2000::1\"]\n",
        )
        .unwrap();
        let addresses: Vec<_> = catalog
            .addresses()
            .unwrap()
            .into_iter()
            .map(|(name, (v4, v6))| format!("{name} {v4} {v6}"))
            .collect();
        assert_eq!(
            addresses,
            [
                "a.example 20.190.128.2 2603:1006:2000::2",
                "b.example 20.190.128.3 2603:1006:2000::3"
            ]
        );
    }
}
