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
    first_packet::FORWARDER_V4,
    gateway::{Configuration, Gateway},
    listener::Listeners,
    probe::{self, Outcome},
    query::{self, Reply},
    topology::{CLIENT_V4, CLIENT_V6, Clients, INSIDE, RESOLVER, Topology},
    upstream::wire::code,
};

/// The gateway's configuration.
const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"

[dns]
upstream = ["9.9.9.10"]
listen   = ["10.20.0.1", "fd00:20::1"]
"#;

/// The TTL of all names.
const TTL: u32 = 300;

/// A name that exists and that no rule covers.
const UNLISTED: &str = "www.example.org";

/// Another, which ends as `*.manage.microsoft.com` does, but not at a dot.
const LOOKALIKE: &str = "supermanage.microsoft.com";

/// A name below a wildcard of the catalog, whose owner points it at the clients' own kind of network.
const REBOUND: &str = "rebound.manage.microsoft.com";

/// A name below a wildcard of the catalog for whose addresses no client asks.
const UNASKED: &str = "unasked.manage.microsoft.com";

/// Names below wildcards of the catalog for which clients ask.
const BELOW_WILDCARDS: [&str; 6] = [
    "fef.msuc03.manage.microsoft.com",
    "portal.manage.microsoft.com",
    "r.manage.microsoft.com",
    "client.wns.windows.com",
    "au.download.windowsupdate.com",
    "westus2.events.data.microsoft.com",
];

/// What one of these is an alias of: that is covered by no rule, and only the way to it counts.
const ALIAS: (&str, &str) = ("au.download.windowsupdate.com", "wu-b-net.trafficmanager.net");

/// The names that `sluice names` at the end is about.
const SHOWN: &str = "*.windows*.com";

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
    /// The IPv4 address of a name that the client has from elsewhere.
    Known(&'static str),
    Address(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Tcp(u16),
    Udp(u16),
    Echo,
    /// A real question to a DNS server.
    Question,
    /// A question for a name, and nothing more.
    Lookup,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    /// It passes, by this rule.
    Pass(&'static str),
    /// A drop, with the name of its reason.
    Drop(&'static str),
    /// No address, but this response of the forwarder's.
    Response(Denial),
}

/// A response of the forwarder's without an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denial {
    /// REFUSED: no rule covers the name.
    Refused,
    /// SERVFAIL: no address of the answer may be learned.
    Failed,
}

/// What a client noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Happened {
    Packet(Outcome),
    Denied(Denial),
}

/// What attempts are made with.
#[derive(Clone, Copy)]
struct Tries<'a> {
    lab: &'a Topology,
    /// Whom the clients ask for names.
    server: IpAddr,
    addresses: &'a BTreeMap<String, (Ipv4Addr, Ipv6Addr)>,
}

/// What came of an attempt.
struct Line {
    attempt: Attempt,
    address: Option<IpAddr>,
    happened: Happened,
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
    let tries = |server| Tries { lab: &lab, server, addresses: &addresses };

    // Whatever is silent later is so because of the filter, and of nothing else.
    for (attempt, (_, happened)) in attempts.iter().zip(tries(RESOLVER).make(&attempts)?) {
        if happened != Happened::Packet(Outcome::Answered) {
            bail!("without the filter: {} {}: {happened}", attempt.how, attempt.to);
        }
    }
    writeln!(
        out,
        "without a filter: {} of {} attempts are answered",
        attempts.len(),
        attempts.len()
    )?;

    let configuration = Configuration::new(GATEWAY).policy("intune", policy);
    let mut gateway = Gateway::new(&lab, &configuration)?;
    gateway.start()?;
    let forwarder = FORWARDER_V4.ip();
    writeln!(
        out,
        "`sluice run` is ready, with {}; clients ask the forwarder, {forwarder}\n",
        catalog.display()
    )?;

    let lines: Vec<_> = attempts
        .iter()
        .zip(tries(forwarder).make(&attempts)?)
        .map(|(attempt, (address, happened))| Line::new(&gateway, *attempt, address, happened))
        .collect::<Result<_>>()?;
    write!(out, "{}", Table(&lines))?;
    let differences = lines.iter().filter(|line| !line.is_as_expected()).count();
    writeln!(out, "\n$ sluice names '{SHOWN}'\n{}", gateway.text(&["names", SHOWN])?)?;
    let (alias, _) = ALIAS;
    writeln!(out, "$ sluice resolve {alias}\n{}", gateway.text(&["resolve", alias])?)?;
    writeln!(out, "$ sluice status\n{}", gateway.text(&["status"])?)?;
    gateway.stop()?;
    gateway.detach()?;
    writeln!(
        out,
        "done and cleaned up in {:.1} s\n{} attempts, {differences} other than expected",
        begin.elapsed().as_secs_f64(),
        lines.len()
    )?;
    Ok(match differences {
        0 => Ending::AsExpected,
        count => Ending::Differences(count),
    })
}

/// What the client tries. The comments say what each group shows.
fn attempts() -> Vec<Attempt> {
    use Expected::{Drop, Pass, Response};
    use How::{Echo, Lookup, Question, Tcp, Udp};
    use Target::{Address, Known, Name, NameV6};

    let login = "login.microsoftonline.com";
    let time = "time.windows.com";
    let [fef, portal, r, wns, update, events] = BELOW_WILDCARDS;
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
        // Wildcards: nobody has looked these names up before, and the first packet passes.
        (Name(fef), Tcp(443), Pass("intune-163")),
        (NameV6(portal), Tcp(443), Pass("intune-163")),
        (Name(r), Tcp(80), Pass("intune-163")),
        (Name(wns), Tcp(443), Pass("intune-171")),
        (Name(wns), Tcp(80), Drop("port-not-allowed")),
        (NameV6(update), Tcp(80), Pass("intune-164")),
        (Name(events), Tcp(443), Pass("intune-181")),
        (Name(events), Echo, Drop("protocol-not-allowed")),
        // An address behind a wildcard is closed until somebody asks for it; and one of a private
        // network isn't learned from whoever owns the name.
        (Known(UNASKED), Tcp(443), Drop("not-listed")),
        (Name(REBOUND), Lookup, Response(Denial::Failed)),
        (Known(REBOUND), Tcp(443), Drop("not-listed")),
        // Names that no rule covers: nothing is asked for them.
        (Name(UNLISTED), Lookup, Response(Denial::Refused)),
        (Known(UNLISTED), Tcp(443), Drop("not-listed")),
        (Name(LOOKALIKE), Lookup, Response(Denial::Refused)),
        (Known(LOOKALIKE), Tcp(443), Drop("not-listed")),
        // Other ways to resolve: the very server that the forwarder asks, another, DNS over TLS.
        (Address("9.9.9.10"), Question, Drop("not-listed")),
        (Address("8.8.8.8"), Udp(53), Drop("not-listed")),
        (Address("8.8.8.8"), Tcp(853), Drop("not-listed")),
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
        // What nobody listed.
        (Address("198.51.100.7"), Tcp(443), Drop("not-listed")),
        // The gateway itself offers another service than its forwarder, and not to the clients.
        (Address("10.20.0.1"), Tcp(22), Drop("port-not-allowed")),
    ]
    .map(|(to, how, expected)| Attempt { to, how, expected })
    .into()
}

/// All names with their addresses.
fn zone(addresses: &BTreeMap<String, (Ipv4Addr, Ipv6Addr)>) -> Zone {
    let (alias, target) = ALIAS;
    addresses.iter().fold(Zone::new().alias(alias, TTL, target), |zone, (name, (v4, v6))| {
        let name = if name == alias { target } else { name };
        zone.address(name, TTL, *v4).address(name, TTL, *v6)
    })
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
                Target::Name(name) | Target::Known(name) => addresses.get(name)?.0.into(),
                Target::NameV6(name) => addresses.get(name)?.1.into(),
                Target::Address(address) => address.parse().ok()?,
            };
            Some(SocketAddr::new(address, port))
        })
        .collect()
}

// === impl Tries ===

impl Tries<'_> {
    /// Makes all attempts, many at the same time; most of it is waiting. Names that are only asked for
    /// come first, so that what was refused then is refused when the others connect.
    fn make(self, attempts: &[Attempt]) -> Result<Vec<(Option<IpAddr>, Happened)>> {
        let (first, last): (Vec<_>, Vec<_>) = attempts
            .iter()
            .enumerate()
            .partition(|(_, attempt)| matches!(attempt.how, How::Lookup));
        let mut happened = BTreeMap::new();
        for round in [first, last] {
            thread::scope(|scope| {
                let running: Vec<_> = round
                    .into_iter()
                    .map(|(number, attempt)| (number, scope.spawn(|| attempt.make(self))))
                    .collect();
                for (number, attempt) in running {
                    let made =
                        attempt.join().map_err(|_panic| anyhow!("an attempt panicked"))??;
                    happened.insert(number, made);
                }
                Ok::<_, anyhow::Error>(())
            })?;
        }
        Ok(happened.into_values().collect())
    }

    /// An address of a name, by way of the server.
    fn resolve(self, name: &str, is_wanted: fn(&IpAddr) -> bool) -> Result<IpAddr, String> {
        let found = probe::resolve(&self.lab.client, self.server, name)
            .map_err(|error| error.to_string())?;
        let mut addresses = found.into_iter().map(|(address, _)| address);
        addresses.find(is_wanted).ok_or_else(|| format!("no address for {name}"))
    }

    fn known(self, name: &str) -> Result<IpAddr> {
        let (v4, _) = self.addresses.get(name).with_context(|| format!("{name} has no address"))?;
        Ok((*v4).into())
    }

    /// Asks for a name's addresses.
    fn look_up(self, name: &str) -> Result<Happened> {
        let reply = query::v4(&self.lab.client, SocketAddr::new(self.server, 53), name)?;
        Ok(match (&reply, reply.code()) {
            (_, Some(code::REFUSED)) => Happened::Denied(Denial::Refused),
            (_, Some(code::SERVER_FAILURE)) => Happened::Denied(Denial::Failed),
            (_, Some(code::NO_ERROR)) if !reply.addresses().is_empty() => {
                Happened::Packet(Outcome::Answered)
            }
            (_, Some(code)) => Happened::Packet(Outcome::Failed(format!("response code {code}"))),
            (Reply::Unreachable, None) => Happened::Packet(Outcome::Refused),
            (Reply::Said(_) | Reply::Silence, None) => Happened::Packet(Outcome::Silence),
        })
    }
}

// === impl Attempt ===

impl Attempt {
    fn make(&self, tries: Tries<'_>) -> Result<(Option<IpAddr>, Happened)> {
        if let (Target::Name(name), How::Lookup) = (self.to, self.how) {
            return Ok((None, tries.look_up(name)?));
        }
        let resolved = match self.to {
            Target::Address(address) => Ok(address.parse()?),
            Target::Known(name) => Ok(tries.known(name)?),
            Target::Name(name) => tries.resolve(name, IpAddr::is_ipv4),
            Target::NameV6(name) => tries.resolve(name, IpAddr::is_ipv6),
        };
        let address = match resolved {
            Ok(address) => address,
            Err(why) => return Ok((None, Happened::Packet(Outcome::Failed(why)))),
        };
        let client = &tries.lab.client;
        let happened = match self.how {
            How::Tcp(port) => probe::tcp(client, SocketAddr::new(address, port))?,
            How::Udp(port) => probe::udp(client, SocketAddr::new(address, port), DATAGRAM)?,
            How::Echo => probe::echo(client, address)?,
            How::Question | How::Lookup => match probe::resolve(client, address, UNLISTED) {
                Ok(_) => Outcome::Answered,
                Err(_) => Outcome::Silence,
            },
        };
        Ok((Some(address), Happened::Packet(happened)))
    }
}

// === impl Line ===

impl Line {
    /// Asks the daemon why it happened.
    fn new(
        gateway: &Gateway<'_>,
        attempt: Attempt,
        address: Option<IpAddr>,
        happened: Happened,
    ) -> Result<Self> {
        let Some(address) = address else {
            let why = match (attempt.how, attempt.to) {
                (How::Lookup, Target::Name(name)) => why_denied(gateway, name)?,
                _ => String::new(),
            };
            let (verdict, by) = (String::new(), String::new());
            return Ok(Self { attempt, address, happened, verdict, why, by });
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
            How::Question | How::Lookup => arguments.extend(["--udp", "53"]),
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
                self.happened == Happened::Packet(Outcome::Answered)
                    && self.verdict == "pass"
                    && self.by == rule
            }
            Expected::Drop(reason) => {
                self.happened == Happened::Packet(Outcome::Silence)
                    && self.verdict == "drop"
                    && self.by == reason
            }
            Expected::Response(denial) => self.happened == Happened::Denied(denial),
        }
    }
}

/// Why a name has no address for clients, by `sluice resolve`.
fn why_denied(gateway: &Gateway<'_>, name: &str) -> Result<String> {
    let answer = gateway.command(&["resolve", name])?.json()?;
    let list = |key| answer.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if list("rules").is_empty() {
        return Ok("no rule covers the name".to_owned());
    }
    let refused = list("addresses").iter().filter_map(|found| {
        let text = |key| found.get(key).and_then(Value::as_str);
        Some(format!("{}: {}", text("address")?, text("refused")?))
    });
    Ok(refused.take(1).collect())
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
    /// catalog's prefixes, so that an attempt by name passes by the name alone. One name has
    /// private ones.
    fn addresses(&self) -> Result<BTreeMap<String, (Ipv4Addr, Ipv6Addr)>> {
        let mut v4 = (1..=62 * 250).map(|n| Ipv4Addr::from_bits(0x14be_8000 + n));
        let mut v6 = (1..=0xffff).map(|n| Ipv6Addr::new(0x2603, 0x1006, 0x2000, 0, 0, 0, 0, n));
        let free = |address: IpAddr| !self.prefixes.iter().any(|prefix| prefix.contains(&address));
        let others = [UNLISTED, LOOKALIKE, UNASKED].into_iter().chain(BELOW_WILDCARDS);
        let names: BTreeSet<&str> = self.names.iter().map(String::as_str).chain(others).collect();
        let rebound = (Ipv4Addr::new(10, 66, 0, 9), Ipv6Addr::new(0xfd00, 0x66, 0, 0, 0, 0, 0, 9));
        names
            .into_iter()
            .map(|name| {
                let v4 = v4.find(|address| free((*address).into()));
                let v6 = v6.find(|address| free((*address).into()));
                let addresses =
                    v4.zip(v6).context("the catalog covers the demonstration's addresses")?;
                Ok((name.to_owned(), addresses))
            })
            .chain([Ok((REBOUND.to_owned(), rebound))])
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
            (Target::Name(_) | Target::NameV6(_) | Target::Known(_), Some(address)) => {
                format!(" = {address}")
            }
            _ => String::new(),
        };
        let happened = match &self.happened {
            Happened::Packet(Outcome::Answered) => "passed".to_owned(),
            Happened::Packet(Outcome::Silence) => "dropped".to_owned(),
            other => other.to_string(),
        };
        let expected = match self.attempt.expected {
            Expected::Pass(rule) => format!("pass: {rule}"),
            Expected::Drop(reason) => format!("drop: {reason}"),
            Expected::Response(denial) => denial.to_string(),
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
            Self::Lookup => f.write_str("ask for"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("REFUSED"),
            Self::Failed => f.write_str("SERVFAIL"),
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(outcome) => outcome.fmt(f),
            Self::Denied(denial) => denial.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::NameV6(text) | Self::Address(text) => f.write_str(text),
            Self::Known(text) => write!(f, "{text} (known anyway)"),
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
            .filter(|(name, _)| name.ends_with(".example"))
            .map(|(name, (v4, v6))| format!("{name} {v4} {v6}"))
            .collect();
        assert_eq!(
            addresses,
            [
                "a.example 20.190.128.2 2603:1006:2000::2",
                "b.example 20.190.128.4 2603:1006:2000::4"
            ]
        );
    }
}
