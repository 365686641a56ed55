// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[dns]`: resolvers, the forwarder, and the bounds of what is learned.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{
    Kind,
    reader::{Entry, Report, Section},
    sections::Mention,
    values::{bound, duration, short_duration},
};
use crate::policy::{
    Dns, Fqdn, Gateway, Interception, NamePattern, OutsidePolicy, TlsName, Transport, Upstream,
};

const KEYS: [&str; 14] = [
    "upstream",
    "tls_ca",
    "listen",
    "intercept",
    "outside_policy",
    "min_ttl",
    "max_ttl",
    "grace",
    "max_addresses_per_name",
    "max_names_per_rule",
    "max_addresses",
    "learn_within",
    "client_rate",
    "max_questions",
];

/// A client waits for its answer for this long at least, so that more of it is no use: stub
/// resolvers ask again after 5 s.
const LEARN_WITHIN: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(5);
const LEARN_WITHIN_HELP: &str = "write a number and a unit in quotes, from \"10ms\" to \"5s\"";
/// With a longest time of 0, every name would be asked for all the time.
const LEAST_MAX_TTL: Duration = Duration::from_secs(1);

const UPSTREAM_HELP: &str = "write addresses of resolvers in quotes, such as [\"192.0.2.53\"] or \
                             [\"tls://192.0.2.53#dns.example.net\"]";
const LISTEN_HELP: &str = "write addresses of the gateway in quotes, such as [\"10.0.10.1\"]";

/// `[dns]` as it stands, and what has to be seen together with other tables.
pub(super) struct Read {
    pub(super) dns: Dns,
    /// Where `intercept = true` stands.
    pub(super) interception: Option<Mention>,
}

/// Reads `[dns]`.
pub(super) fn read(section: &Section<'_>, report: &mut Report) -> Read {
    section.only(&KEYS, report);
    let mut dns = Dns { origin: Some(section.origin.clone()), ..Dns::default() };
    if let Some(entry) = section.get("upstream") {
        dns.upstream = upstreams(&entry, report);
    }
    if let Some(entry) = section.get("tls_ca") {
        dns.tls_ca = certificates(&entry, &dns, report);
    }
    if let Some(entry) = section.get("listen") {
        dns.listen = listen(&entry, section, &dns.upstream, report);
    }
    let interception = intercept(section, report);
    if interception.is_some() {
        dns.intercept = Interception::On;
    }
    let choices = [("refuse", OutsidePolicy::Refuse), ("answer", OutsidePolicy::Answer)];
    set(&mut dns.outside_policy, section, "outside_policy", |entry| entry.choice(&choices, report));
    set(&mut dns.min_ttl, section, "min_ttl", |entry| duration(entry, report));
    set(&mut dns.max_ttl, section, "max_ttl", |entry| duration(entry, report));
    if let Some(entry) = section.get("max_ttl") {
        if dns.max_ttl < LEAST_MAX_TTL {
            entry.error("too short", "write at least \"1s\"", report);
        } else if dns.max_ttl < dns.min_ttl {
            let least = dns.min_ttl.as_secs();
            entry.error(
                &format!("shorter than min_ttl, which is \"{least}s\""),
                format!("write at least \"{least}s\", or lower min_ttl"),
                report,
            );
        }
    }
    set(&mut dns.grace, section, "grace", |entry| duration(entry, report));
    set(&mut dns.max_addresses_per_name, section, "max_addresses_per_name", |entry| {
        bound(entry, &(1..=4096), report)
    });
    set(&mut dns.max_names_per_rule, section, "max_names_per_rule", |entry| {
        bound(entry, &(1..=1_000_000), report)
    });
    set(&mut dns.max_addresses, section, "max_addresses", |entry| {
        bound(entry, &(1..=1_000_000), report)
    });
    set(&mut dns.learn_within, section, "learn_within", |entry| {
        short_duration(entry, LEARN_WITHIN, LEARN_WITHIN_HELP, report)
    });
    set(&mut dns.client_rate, section, "client_rate", |entry| {
        bound(entry, &(1..=1_000_000), report)
    });
    set(&mut dns.max_questions, section, "max_questions", |entry| {
        bound(entry, &(1..=65_536), report)
    });
    Read { dns, interception }
}

/// What interception needs of `[gateway]`.
pub(super) fn check_interception(mention: &Mention, gateway: &Gateway, report: &mut Report) {
    if gateway.outside.is_empty() {
        report.error(
            &mention.origin,
            format!(
                "{}: there is no outside NIC, so nothing guards the way out when the redirection \
                 is gone",
                mention.subject
            ),
            "name the NICs towards the internet in [gateway] outside, or remove intercept",
        );
    } else if !gateway.ignore.is_empty() {
        let nics: Vec<&str> = gateway.ignore.iter().map(|nic| nic.as_str()).collect();
        report.warning(
            Kind::NotEnforced,
            &mention.origin,
            format!(
                "{}: questions that leave through an ignored NIC ({}) aren't held back when the \
                 redirection is gone",
                mention.subject,
                nics.join(", ")
            ),
            "filter these NICs, as outside ones, if clients' packets are forwarded to them",
        );
    }
}

/// Replaces a default by what is written, if it is written and can be read.
fn set<'a, T>(
    field: &mut T,
    section: &Section<'a>,
    key: &'static str,
    read: impl FnOnce(&Entry<'a>) -> Option<T>,
) {
    if let Some(value) = section.get(key).and_then(|entry| read(&entry)) {
        *field = value;
    }
}

fn upstreams(entry: &Entry<'_>, report: &mut Report) -> Vec<Upstream> {
    let mut upstreams: Vec<Upstream> = Vec::new();
    for member in entry.members(UPSTREAM_HELP, report).unwrap_or_default() {
        let Some(text) = member.string(UPSTREAM_HELP, report) else { continue };
        match parse_upstream(text) {
            Ok(upstream) if upstreams.contains(&upstream) => {
                twice(&member, report);
            }
            Ok(upstream) => upstreams.push(upstream),
            Err(why) => member.invalid(&why, report),
        }
    }
    let over_tls = upstreams.iter().filter(|upstream| is_over_tls(upstream)).count();
    if over_tls != 0 && over_tls != upstreams.len() {
        entry.error(
            "some resolvers are asked over TLS and others in plain text",
            "write \"tls://\" in front of all or of none: where TLS fails, questions would go out \
             in plain text unnoticed",
            report,
        );
    }
    upstreams
}

fn twice(member: &Entry<'_>, report: &mut Report) {
    member.warning(Kind::Duplicate, "the address stands here twice", "remove one", report);
}

fn is_over_tls(upstream: &Upstream) -> bool {
    match upstream.transport {
        Transport::Plain => false,
        Transport::Tls(_) => true,
    }
}

/// A resolver, or what is wrong and, after a semicolon, how to mend it.
fn parse_upstream(text: &str) -> Result<Upstream, String> {
    let (scheme, rest) = match text.split_once("://") {
        None => (None, text),
        Some(("tls", rest)) => (Some("tls"), rest),
        Some((other, _)) => {
            return Err(format!(
                "{other:?} is no way to ask a resolver; write \"tls://\" for DNS over TLS, or the \
                 address alone for plain DNS"
            ));
        }
    };
    let (host, name) = match rest.split_once('#') {
        Some((host, name)) => (host, Some(name)),
        None => (rest, None),
    };
    let usual = if scheme.is_some() { Upstream::TLS_PORT } else { Upstream::PORT };
    let server = parse_server(host, usual)?;
    one_host(server.ip(), "write the address under which the resolver answers")?;
    let transport = match (scheme, name) {
        (None, None) => Transport::Plain,
        (None, Some(_)) => {
            return Err("only a resolver over TLS has a name behind '#'; write \"tls://\" in \
                        front, or remove the name"
                .to_owned());
        }
        (Some(_), None) => Transport::Tls(TlsName::Address(server.ip())),
        (Some(_), Some(name)) if name.parse::<IpAddr>().is_ok() => {
            return Err("an address stands behind '#'; write the name that is in the \
                        certificate, or leave it out where the resolver's own address is in it"
                .to_owned());
        }
        (Some(_), Some(name)) => match Fqdn::try_from(name) {
            Ok(name) => Transport::Tls(TlsName::Name(name)),
            Err(error) => return Err(format!("behind '#': {error}")),
        },
    };
    Ok(Upstream { server, transport })
}

/// An address, and a port behind a colon where it isn't the usual one.
pub(super) fn parse_server(text: &str, usual: u16) -> Result<SocketAddr, String> {
    if text.contains('%') {
        return Err("the address has a zone; write an address that is reached by routes".to_owned());
    }
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match inner {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    if let Some(address) = address {
        return Ok(SocketAddr::new(address, usual));
    }
    match text.parse::<SocketAddr>() {
        Ok(server) if server.port() != 0 => return Ok(server),
        Ok(_) => return Err("port 0 is no port; write one from 1 to 65535".to_owned()),
        Err(_not_both) => {}
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let (Some(port), Ok(_)) = (port, bare.parse::<IpAddr>()) {
        return Err(format!("{port:?} is no port; write a number from 1 to 65535"));
    }
    if NamePattern::try_from(host).is_ok() {
        return Err(RESOLVER_NAME.to_owned());
    }
    Err(format!("not an address; {UPSTREAM_HELP}"))
}

const RESOLVER_NAME: &str = "a resolver name instead of an address; write its address: the name \
                             can't be looked up before there is a resolver";

/// Whether an address can be that of one host that is reached by routes.
fn one_host(address: IpAddr, help: &str) -> Result<(), String> {
    let (broadcast, mapped, link_local) = match address {
        IpAddr::V4(address) => (address.is_broadcast(), false, false),
        IpAddr::V6(address) => {
            (false, address.to_ipv4_mapped().is_some(), address.is_unicast_link_local())
        }
    };
    if address.is_unspecified() || address.is_multicast() || broadcast || mapped {
        return Err(format!("not the address of one host; {help}"));
    }
    if link_local {
        return Err("a link-local address is another host on each NIC; write one that is reached \
                    by routes"
            .to_owned());
    }
    Ok(())
}

/// The file with the authorities' certificates. Whether it is there is seen when it is read.
fn certificates(entry: &Entry<'_>, dns: &Dns, report: &mut Report) -> Option<PathBuf> {
    let help = "write the path of a file with certificates (PEM), such as \"dns-ca.pem\"";
    let text = entry.string(help, report)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        entry.error("this can't be a path", help, report);
        return None;
    }
    if !dns.upstream.iter().any(is_over_tls) {
        entry.warning(
            Kind::NotEnforced,
            "no resolver is asked over TLS",
            "write \"tls://\" in front of the addresses in upstream, or remove the key",
            report,
        );
    }
    Some(PathBuf::from(text))
}

fn listen(
    entry: &Entry<'_>,
    section: &Section<'_>,
    upstreams: &[Upstream],
    report: &mut Report,
) -> Vec<IpAddr> {
    let mut listen: Vec<IpAddr> = Vec::new();
    for member in entry.members(LISTEN_HELP, report).unwrap_or_default() {
        let Some(text) = member.string(LISTEN_HELP, report) else { continue };
        let address = match text.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_no_address) => {
                member.invalid(&no_listen_address(text), report);
                continue;
            }
        };
        if listen.contains(&address) {
            twice(&member, report);
            continue;
        }
        if let Err(why) = one_host(address, "write an address of the gateway") {
            member.invalid(&why, report);
            continue;
        }
        // Over TLS there would be nobody who understands, which is no better.
        let itself = SocketAddr::new(address, Upstream::PORT);
        if upstreams.iter().any(|upstream| upstream.server == itself) {
            let what = format!("{address} is in upstream too, so it would ask itself");
            member.error(&what, "remove it from one of the two lists", report);
            continue;
        }
        listen.push(address);
    }
    // What stands in upstream and can't be read has been complained about.
    let none = match section.get("upstream") {
        None => true,
        Some(upstream) => upstream
            .members(UPSTREAM_HELP, &mut Report::default())
            .is_some_and(|members| members.is_empty()),
    };
    if none && !listen.is_empty() {
        entry.error(
            "the forwarder has nobody to ask",
            "add upstream with the address of a resolver",
            report,
        );
    }
    listen
}

fn no_listen_address(text: &str) -> String {
    match text {
        _ if text.parse::<SocketAddr>().is_ok() => {
            "the address has a port; write the address alone: clients ask at port 53".to_owned()
        }
        _ if text.contains("://") => {
            "this is a URL; write the address alone: clients ask over UDP and TCP".to_owned()
        }
        _ if NamePattern::try_from(text).is_ok() => {
            "a name instead of an address; write the gateway's address that clients ask".to_owned()
        }
        _ => format!("not an address; {LISTEN_HELP}"),
    }
}

fn intercept(section: &Section<'_>, report: &mut Report) -> Option<Mention> {
    if !section.boolean("intercept", false, report) {
        return None;
    }
    let entry = section.get("intercept")?;
    let none = section.get("listen").is_none_or(|listen| {
        listen
            .members(LISTEN_HELP, &mut Report::default())
            .is_some_and(|members| members.is_empty())
    });
    if none {
        entry.error(
            "there is no forwarder to which questions could be led",
            "add listen with an address of the gateway, or remove intercept",
            report,
        );
    }
    Some(Mention { origin: entry.origin(), subject: entry.subject() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers() {
        let cases = [
            ("192.0.2.53", Ok("192.0.2.53")),
            ("192.0.2.53:53", Ok("192.0.2.53")),
            ("192.0.2.53:5353", Ok("192.0.2.53:5353")),
            ("2001:DB8::53", Ok("2001:db8::53")),
            ("[2001:db8::53]", Ok("2001:db8::53")),
            ("[2001:db8::53]:5353", Ok("[2001:db8::53]:5353")),
            ("tls://192.0.2.53", Ok("tls://192.0.2.53")),
            ("tls://192.0.2.53:853", Ok("tls://192.0.2.53")),
            ("tls://192.0.2.53:8853#DNS.example.net.", Ok("tls://192.0.2.53:8853#dns.example.net")),
            ("tls://[2001:db8::53]#dns.example.net", Ok("tls://[2001:db8::53]#dns.example.net")),
            ("tls://2001:db8::53", Ok("tls://[2001:db8::53]")),
            ("tls://[2001:db8::53]:53", Ok("tls://[2001:db8::53]:53")),
            ("tls://192.0.2.53#bücher.example", Ok("tls://192.0.2.53#xn--bcher-kva.example")),
            ("dns.example.net", Err("a resolver name")),
            ("dns.example.net:53", Err("a resolver name")),
            ("tls://dns.example.net", Err("a resolver name")),
            ("tls://dns.example.net:853#dns.example.net", Err("a resolver name")),
            ("https://192.0.2.53/dns-query", Err("\"https\" is no way to ask")),
            ("TLS://192.0.2.53", Err("\"TLS\" is no way to ask")),
            ("192.0.2.53:0", Err("port 0")),
            ("192.0.2.53:", Err("\"\" is no port")),
            ("192.0.2.53:65536", Err("\"65536\" is no port")),
            ("192.0.2.53:dns", Err("\"dns\" is no port")),
            ("tls://[2001:db8::53]:99999", Err("\"99999\" is no port")),
            ("192.0.2.53#dns.example.net", Err("only a resolver over TLS")),
            ("tls://192.0.2.53#", Err("behind '#': the name is empty")),
            ("tls://192.0.2.53#192.0.2.53", Err("an address stands behind '#'")),
            ("tls://192.0.2.53#*.example.net", Err("behind '#': the name has a star")),
            ("tls://192.0.2.53/", Err("not an address")),
            ("tls://", Err("not an address")),
            ("", Err("not an address")),
            ("[192.0.2.53]", Err("not an address")),
            ("0.0.0.0", Err("not the address of one host")),
            ("255.255.255.255", Err("not the address of one host")),
            ("::ffff:192.0.2.53", Err("not the address of one host")),
            ("ff02::1", Err("not the address of one host")),
            ("fe80::1", Err("a link-local address")),
            ("fe80::1%eth0", Err("the address has a zone")),
            ("[fe80::1%3]:53", Err("the address has a zone")),
        ];
        for (text, expected) in cases {
            match (parse_upstream(text), expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found.to_string(), expected, "{text}");
                    assert_eq!(parse_upstream(expected), Ok(found), "{text}");
                }
                (Err(found), Err(expected)) => {
                    assert!(found.starts_with(expected), "{text}: {found}");
                    assert!(found.contains("; "), "{text}: {found}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
