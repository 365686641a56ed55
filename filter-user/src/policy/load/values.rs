// SPDX-License-Identifier: MIT OR Apache-2.0
//! The values of the configuration: names, addresses, durations, destinations and ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::IpNet;
use toml::de::DeValue;

use super::{
    Kind,
    reader::{Entry, Report, Section},
};
use crate::policy::{
    Destination, Echo, IpProtocol, Label, NamePattern, NicName, Origin, PortRange, PortRanges,
    Ports, RuleState, name::Breadth, ports::InvalidPorts,
};

/// Whether the bits behind the prefix length were all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HostBits {
    Clear,
    Set,
}

const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);
pub(super) const NIC_HELP: &str = "write names of NICs in quotes, such as [\"eth1\"]";
pub(super) const PREFIX_HELP: &str =
    "write addresses or prefixes in quotes, such as [\"192.0.2.0/24\"]";
/// Units of time, with their milliseconds.
const UNITS: [(&str, u64); 4] = [("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// The longer suffix comes first: "10ms" ends in "s", too.
const SHORT_UNITS: [(&str, u64); 2] = [("ms", 1), ("s", 1000)];
const DURATION_HELP: &str =
    "write a number and a unit in quotes: \"60s\", \"10m\", \"1h\" or \"1d\"";

// === names ===

pub(super) fn label<'a>(section: &Section<'a>, report: &mut Report) -> Option<(Label, Entry<'a>)> {
    let entry = section.need("name", "add name = \"...\"", report)?;
    let text = entry.string("write a name in quotes", report)?;
    match Label::try_from(text) {
        Ok(label) => Some((label, entry)),
        Err(error) => {
            entry.error("this can't be a name", error.to_string(), report);
            None
        }
    }
}

pub(super) fn nic(entry: &Entry<'_>, report: &mut Report) -> Option<NicName> {
    let text = entry.string(NIC_HELP, report)?;
    match NicName::try_from(text) {
        Ok(nic) => Some(nic),
        Err(error) => {
            entry.error("this can't be the name of a NIC", error.to_string(), report);
            None
        }
    }
}

pub(super) fn nic_list<'a>(entry: &Entry<'a>, report: &mut Report) -> Vec<(NicName, Entry<'a>)> {
    let members = entry.members(NIC_HELP, report).unwrap_or_default();
    members.into_iter().filter_map(|member| Some((nic(&member, report)?, member))).collect()
}

pub(super) fn note(section: &Section<'_>, report: &mut Report) -> Option<String> {
    let entry = section.get("note")?;
    let text = entry.string("write the note in quotes", report)?;
    // Notes are shown on terminals.
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        entry.error("the note has control characters", "remove them", report);
        return None;
    }
    Some(text.to_owned())
}

// === lists ===

/// The members of a list that has to have some, or the one value that stands without brackets.
pub(super) fn filled<'a>(entry: &Entry<'a>, help: &str, report: &mut Report) -> Vec<Entry<'a>> {
    let members = entry.one_or_many(help, report).unwrap_or_default();
    if members.is_empty() {
        entry.error("an empty list matches nothing", format!("{help}, or remove the key"), report);
    }
    members
}

/// The members of a list that has to have some.
pub(super) fn nonempty<'a>(
    entry: &Entry<'a>,
    type_help: &str,
    empty_help: &str,
    report: &mut Report,
) -> Vec<Entry<'a>> {
    let Some(members) = entry.members(type_help, report) else { return Vec::new() };
    if members.is_empty() {
        entry.error("the list is empty", empty_help, report);
    }
    members
}

// === addresses ===

pub(super) fn prefix_member(entry: &Entry<'_>, report: &mut Report) -> Option<IpNet> {
    let text = entry.string(PREFIX_HELP, report)?;
    match parse_prefix(text) {
        Ok(Some((prefix, host_bits))) => {
            warn_of_host_bits(entry, prefix, host_bits, report);
            Some(prefix)
        }
        Ok(None) => {
            entry.error("neither an address nor a prefix", PREFIX_HELP, report);
            None
        }
        Err(why) => {
            entry.invalid(why, report);
            None
        }
    }
}

fn warn_of_host_bits(entry: &Entry<'_>, prefix: IpNet, host_bits: HostBits, report: &mut Report) {
    if host_bits == HostBits::Set {
        let help = format!("write {prefix}, which is what it is taken for, or the single address");
        entry.warning(Kind::HostBits, "there are bits behind the prefix length", help, report);
    }
}

/// An address or a prefix, without host bits; `None` for what looks like neither, and a text for
/// what nearly is one.
fn parse_prefix(text: &str) -> Result<Option<(IpNet, HostBits)>, &'static str> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(match text {
            _ if text.parse::<SocketAddr>().is_ok() => {
                "the address has a port; write the address alone, and the port under tcp or udp"
            }
            _ if text.starts_with('[') => {
                "the address stands in brackets; write the address alone, and ports under tcp or \
                 udp"
            }
            _ if text.contains("::") && text.contains('%') => {
                "the address has a zone; write it without the part from % on"
            }
            _ if is_address_range(text) => {
                "this is a range of addresses; write the prefixes that make it up"
            }
            _ => return Ok(None),
        });
    };
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => widest,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().unwrap_or(u8::MAX)
        }
        Some(_) => return Err("the prefix length is no number; write how many bits count"),
    };
    let Ok(prefix) = IpNet::new(address, length) else {
        return Err(if widest == 32 {
            "the prefix length is too large; write 0 to 32"
        } else {
            "the prefix length is too large; write 0 to 128"
        });
    };
    if let IpAddr::V6(address) = prefix.network()
        && address.to_ipv4_mapped().is_some()
        && length >= 96
    {
        return Err("this is an IPv4-mapped address, which no packet has; write the IPv4 address");
    }
    let host_bits = if prefix.network() == address { HostBits::Clear } else { HostBits::Set };
    Ok(Some((prefix.trunc(), host_bits)))
}

fn is_address_range(text: &str) -> bool {
    text.split_once('-').is_some_and(|(first, last)| {
        first.trim().parse::<IpAddr>().is_ok() && last.trim().parse::<IpAddr>().is_ok()
    })
}

// === durations ===

/// A time in whole seconds, as TTLs have it, of at most a day.
pub(super) fn duration(entry: &Entry<'_>, report: &mut Report) -> Option<Duration> {
    let text = entry.string(DURATION_HELP, report)?;
    match parse_duration(text, &UNITS) {
        Some(duration) if duration <= LONGEST_TTL => Some(duration),
        Some(_) => {
            entry.error("longer than a day", "write at most \"24h\"", report);
            None
        }
        None => {
            entry.error("not a duration", DURATION_HELP, report);
            None
        }
    }
}

/// A time that may be less than a second; `help` says from which to which it may be.
pub(super) fn short_duration(
    entry: &Entry<'_>,
    range: RangeInclusive<Duration>,
    help: &str,
    report: &mut Report,
) -> Option<Duration> {
    let text = entry.string(help, report)?;
    match parse_duration(text, &SHORT_UNITS) {
        Some(duration) if range.contains(&duration) => Some(duration),
        Some(duration) if duration < *range.start() => {
            entry.error("too short", help, report);
            None
        }
        Some(_) => {
            entry.error("too long", help, report);
            None
        }
        None => {
            entry.error("not a duration", help, report);
            None
        }
    }
}

/// A time in whole seconds.
pub(super) fn any_duration(text: &str) -> Option<Duration> {
    parse_duration(text, &UNITS)
}

/// The number and its unit, of these with their milliseconds. Too many digits are a long time.
fn parse_duration(text: &str, units: &[(&str, u64)]) -> Option<Duration> {
    let (number, unit) =
        units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than fit are too long in any unit.
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    Some(Duration::from_millis(number.saturating_mul(unit)))
}

// === bounds ===

/// A whole number within a range.
pub(super) fn bound<T: TryFrom<i64> + PartialOrd + fmt::Display>(
    entry: &Entry<'_>,
    range: &RangeInclusive<T>,
    report: &mut Report,
) -> Option<T> {
    match entry.integer().and_then(|number| T::try_from(number).ok()) {
        Some(number) if range.contains(&number) => Some(number),
        _ => {
            let help = format!("write a whole number from {} to {}", range.start(), range.end());
            entry.error("not a possible bound", help, report);
            None
        }
    }
}

// === destinations ===

pub(super) fn rule_destinations(
    section: &Section<'_>,
    state: RuleState,
    broad: bool,
    report: &mut Report,
) -> Vec<(Destination, u32)> {
    let help =
        "write to = [\"www.example.com\"]: names, wildcards, addresses, prefixes or \"self\"";
    let Some(entry) = section.need("to", help, report) else { return Vec::new() };
    let mut destinations: Vec<(Destination, u32)> = Vec::new();
    let mut seen: BTreeMap<Destination, Origin> = BTreeMap::new();
    for member in nonempty(&entry, help, help, report) {
        let Some(text) = member.string(help, report) else { continue };
        let destination = match parse_destination(text) {
            Ok((destination, host_bits)) => {
                if let Destination::Prefix(prefix) = &destination {
                    warn_of_host_bits(&member, *prefix, host_bits, report);
                }
                destination
            }
            Err(why) => {
                member.invalid(&why, report);
                continue;
            }
        };
        if let Destination::Name(NamePattern::Wildcard(pattern)) = &destination {
            check_breadth(&member, pattern, state, broad, report);
        }
        if let Some(first) = seen.get(&destination) {
            let what = format!("a duplicate of {first}");
            member.warning(Kind::Duplicate, &what, "remove one of the two", report);
            continue;
        }
        seen.insert(destination.clone(), member.origin());
        destinations.push((destination, member.origin().line));
    }
    // A list that grows has room for twice as many, and these stay.
    destinations.shrink_to_fit();
    destinations
}

fn check_breadth(
    member: &Entry<'_>,
    pattern: &crate::policy::WildcardPattern,
    state: RuleState,
    broad: bool,
    report: &mut Report,
) {
    // A disabled rule may keep such a name, with the reason in its note.
    if broad || state == RuleState::Disabled {
        return;
    }
    if let Some(suffix) = pattern.covered_suffix() {
        member.error(
            &format!(
                "this covers the whole public suffix {suffix:?}, where anybody can get a name"
            ),
            "write the names that are meant, or add broad = true to the rule",
            report,
        );
    } else if pattern.breadth() == Breadth::OpenToRegistration {
        member.warning(
            Kind::Broad,
            &format!("anybody can get a name below {:?} that this covers", pattern.public_suffix()),
            "write the exact names if they are known, or add broad = true to the rule",
            report,
        );
    }
}

/// A destination, or what is wrong and, after a semicolon, how to mend it.
fn parse_destination(text: &str) -> Result<(Destination, HostBits), String> {
    if text == "self" {
        return Ok((Destination::SelfAddresses, HostBits::Clear));
    }
    if matches!(text, "*" | "any" | "all") {
        return Err(
            "no word stands for every address; write \"0.0.0.0/0\" and \"::/0\" if that is \
                    really meant"
                .to_owned(),
        );
    }
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':', '?', '#']).next().unwrap_or_default();
        return Err(format!("this is a URL; write the host alone: {host:?}"));
    }
    if let Some((prefix, host_bits)) = parse_prefix(text)? {
        return Ok((Destination::Prefix(prefix), host_bits));
    }
    if let Some((host, _)) = text.split_once('/')
        && NamePattern::try_from(host).is_ok()
    {
        return Err(format!(
            "this has a path, which can't be told apart at this layer; write the host alone: \
             {host:?}"
        ));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && NamePattern::try_from(host).is_ok()
    {
        return Err(format!(
            "this has a port; write {host:?} alone, and the port under tcp or udp"
        ));
    }
    match NamePattern::try_from(text) {
        Ok(pattern) => Ok((Destination::Name(pattern), HostBits::Clear)),
        Err(error) => Err(error.to_string()),
    }
}

// === ports ===

pub(super) fn ports(section: &Section<'_>, state: RuleState, report: &mut Report) -> Ports {
    let before = report.errors.len();
    let tcp = port_list(section, "tcp", report);
    let udp = port_list(section, "udp", report);
    let echo = match section.boolean("icmp", false, report) {
        true => Echo::Allowed,
        false => Echo::Denied,
    };
    let mut protocols = BTreeSet::new();
    let help = "write protocols by name or number, such as [\"esp\", 47]";
    if let Some(entry) = section.get("proto") {
        for member in entry.members(help, report).unwrap_or_default() {
            match protocol(&member) {
                Some(Ok(protocol)) => {
                    protocols.insert(protocol);
                }
                Some(Err(error)) => invalid_ports(&member, &error, report),
                None => member.wrong_type("a protocol", help, report),
            }
        }
    }
    let ports = Ports { tcp, udp, echo, protocols };
    let complained = report.errors.len() > before;
    if ports.is_empty() && state == RuleState::Enabled && !complained {
        report.error(
            &section.origin,
            format!("{}: no port and no protocol is named", section.title),
            "add tcp, udp, icmp or proto (tcp = \"any\" for all TCP ports): nothing is allowed by \
             leaving it out",
        );
    }
    ports
}

pub(super) fn port_list(
    section: &Section<'_>,
    key: &'static str,
    report: &mut Report,
) -> PortRanges {
    let help =
        format!("write a list of ports and ranges, {key} = [443, \"3478-3481\"], or \"any\"");
    let Some(entry) = section.get(key) else { return PortRanges::default() };
    if let DeValue::String(text) = entry.value() {
        if text == "any" {
            return PortRanges::from_iter([PortRange::ANY]);
        }
        entry.error("not a list of ports", help, report);
        return PortRanges::default();
    }
    let mut ranges = Vec::new();
    for member in entry.members(&help, report).unwrap_or_default() {
        let range = match member.value() {
            DeValue::String(text) => PortRange::try_from(&**text),
            DeValue::Integer(_) => member
                .integer()
                .and_then(|port| u16::try_from(port).ok())
                .and_then(|port| PortRange::new(port, port))
                .ok_or(InvalidPorts::NotAPort),
            _ => {
                member.wrong_type("a port", &help, report);
                continue;
            }
        };
        match range {
            Ok(range) => ranges.push(range),
            Err(error) => invalid_ports(&member, &error, report),
        }
    }
    ranges.into_iter().collect()
}

/// A protocol by name or number; `None` for a value of another type.
fn protocol(entry: &Entry<'_>) -> Option<Result<IpProtocol, InvalidPorts>> {
    let by_number = |number: Option<u8>| match number {
        Some(number) => IpProtocol::try_from(number),
        None => Err(InvalidPorts::UnknownProtocol),
    };
    match entry.value() {
        DeValue::Integer(_) => {
            Some(by_number(entry.integer().and_then(|number| u8::try_from(number).ok())))
        }
        DeValue::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(by_number(text.parse().ok()))
        }
        DeValue::String(text) => Some(IpProtocol::try_from(&**text)),
        _ => None,
    }
}

fn invalid_ports(entry: &Entry<'_>, error: &InvalidPorts, report: &mut Report) {
    let text = error.to_string();
    match error {
        InvalidPorts::NotAPort => entry.error("not a port", text, report),
        InvalidPorts::Reversed => entry.error(&text, "write the lower port first", report),
        InvalidPorts::HasItsOwnKey => {
            entry.error("this protocol has a key of its own", text, report);
        }
        InvalidPorts::ExtensionHeader => entry.error(&text, "remove it", report),
        InvalidPorts::UnknownProtocol => entry.error("not a known protocol", text, report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("0s", Some(0)),
            ("60s", Some(60)),
            ("10m", Some(600)),
            ("1h", Some(3600)),
            ("2d", Some(172_800)),
            ("60", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5h", None),
            ("1 h", None),
            ("1w", None),
            ("10ms", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text, &UNITS), expected.map(Duration::from_secs), "{text}");
        }
        let cases = [
            ("10ms", Some(10)),
            ("2s", Some(2000)),
            ("99999999999999999999s", Some(u64::MAX)),
            ("1m", None),
            ("ms", None),
            ("1.5s", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(parse_duration(text, &SHORT_UNITS), expected, "{text}");
        }
    }

    #[test]
    fn destinations() {
        let cases = [
            ("self", Ok("self")),
            ("13.107.219.9", Ok("13.107.219.9/32")),
            ("104.46.162.96/27", Ok("104.46.162.96/27")),
            ("104.46.162.97/27", Ok("104.46.162.96/27")),
            ("2620:1EC:40::/48", Ok("2620:1ec:40::/48")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("WWW.Example.com.", Ok("www.example.com")),
            ("*.example.com", Ok("*.example.com")),
            ("any", Err("no word stands")),
            (
                "https://www.example.com:8443/a",
                Err("this is a URL; write the host alone: \"www.example.com\""),
            ),
            ("www.example.com/a", Err("this has a path")),
            ("www.example.com:443", Err("this has a port")),
            ("10.0.0.1:443", Err("the address has a port")),
            ("[2001:db8::1]:443", Err("the address has a port")),
            ("[2001:db8::1]", Err("the address stands in brackets")),
            ("fe80::1%eth0", Err("the address has a zone")),
            ("10.0.0.1-10.0.0.9", Err("this is a range of addresses")),
            ("10.0.0.0/33", Err("the prefix length is too large; write 0 to 32")),
            ("::/129", Err("the prefix length is too large; write 0 to 128")),
            ("10.0.0.0/255.0.0.0", Err("the prefix length is no number")),
            ("10.0.0.0/", Err("the prefix length is no number")),
            ("::ffff:10.0.0.1", Err("this is an IPv4-mapped address")),
            ("::ffff:0:0/96", Err("this is an IPv4-mapped address")),
            ("10.0.0.256", Err("the last label is a number")),
            ("010.0.0.1", Err("the last label is a number")),
            ("", Err("the name is empty")),
            ("localhost", Err("the name has no dot")),
        ];
        for (text, expected) in cases {
            match (parse_destination(text), expected) {
                (Ok((found, _)), Ok(expected)) => assert_eq!(found.to_string(), expected, "{text}"),
                (Err(found), Err(expected)) => {
                    assert!(found.starts_with(expected), "{text}: {found}");
                    assert!(found.contains("; "), "{text}: {found}");
                }
                (found, _) => panic!("{text}: {found:?}", found = found.map(|(to, _)| to)),
            }
        }
    }

    #[test]
    fn host_bits() {
        let cases = [("10.0.0.1/8", HostBits::Set), ("10.0.0.0/8", HostBits::Clear)];
        for (text, expected) in cases {
            let found = parse_prefix(text).ok().flatten().map(|(_, host_bits)| host_bits);
            assert!(found == Some(expected), "{text}");
        }
    }
}
