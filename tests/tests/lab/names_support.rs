// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the forwarder share: its policy, the lab's own server as upstream, and what
//! they ask of both.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use sluice_lab::{
    first_packet::FORWARDER_V4,
    gateway::{Configuration, Gateway},
    listener::{Listeners, Transport},
    probe::{self, Outcome},
    process::wait_until,
    query::{self, Reply},
    topology::{RESOLVER, Topology},
    upstream::Upstream,
};

use crate::support::{ask, explain, ip};

/// A rule for every name below one domain, and one for a name.
pub(crate) const RULES: &str = r#"
[[rule]]
name = "names"
to   = ["*.w.lab.example"]
tcp  = [443]
"#;

/// The configuration, with further settings of `[dns]`. Machines that test are busy with other
/// things, too: how soon something is learned is for the tests of first packets.
pub(crate) fn configuration(settings: &str, rules: &str) -> Configuration {
    let gateway = format!(
        "[gateway]\ninside  = [\"lan0\"]\noutside = [\"wan0\"]\ndeny    = \"drop\"\n\n[dns]\n\
         listen = [\"10.20.0.1\", \"fd00:20::1\"]\nclient_rate = 1000000\n\
         learn_within = \"2s\"\n{settings}\n"
    );
    Configuration::new(gateway).policy("names", rules)
}

/// `[dns]` with the lab's own server alone.
pub(crate) const ONE_UPSTREAM: &str = "upstream = [\"9.9.9.10\"]";

/// The lab's own server where the configuration has it.
pub(crate) fn upstream(lab: &Topology) -> Upstream {
    Upstream::start(&lab.internet, [SocketAddr::new(RESOLVER, 53)]).unwrap()
}

/// Servers at the port that the rule allows.
pub(crate) fn listeners(lab: &Topology) -> Listeners {
    Listeners::start(&lab.internet, [443], []).unwrap()
}

/// A gateway that is ready.
pub(crate) fn started<'lab>(lab: &'lab Topology, configuration: &Configuration) -> Gateway<'lab> {
    let mut gateway = Gateway::new(lab, configuration).unwrap();
    gateway.start().unwrap();
    gateway
}

/// Asks the forwarder for IPv4 addresses, as the client.
#[track_caller]
pub(crate) fn resolve(lab: &Topology, name: &str) -> Reply {
    query::v4(&lab.client, FORWARDER_V4, name).unwrap()
}

/// A counter of the forwarder's.
#[track_caller]
pub(crate) fn counter(gateway: &Gateway<'_>, name: &str) -> u64 {
    let status = ask(gateway, &["status"]);
    let counters = &status["dns"]["counters"];
    counters[name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {counters}"))
}

/// How many packets the gateway dropped for a reason.
#[track_caller]
pub(crate) fn dropped(gateway: &Gateway<'_>, reason: &str) -> u64 {
    ask(gateway, &["status"])["drops"][reason]["packets"].as_u64().unwrap_or_default()
}

/// Checks that an address can be reached, and is allowed for this name.
#[track_caller]
pub(crate) fn check_reachable(lab: &Topology, to: std::net::IpAddr) {
    let to = SocketAddr::new(to, 443);
    assert_eq!(probe::tcp(&lab.client, to).unwrap(), Outcome::Answered, "tcp {to}");
}

/// Checks that an address was not learned: nothing says so, and no packet gets there.
#[track_caller]
pub(crate) fn check_unlearned(
    lab: &Topology,
    gateway: &Gateway<'_>,
    listeners: &Listeners,
    address: std::net::IpAddr,
) {
    check_unknown(gateway, address);
    let to = SocketAddr::new(address, 443);
    assert_eq!(probe::tcp(&lab.client, to).unwrap(), Outcome::Silence, "tcp {to}");
    assert_eq!(listeners.reached(Transport::Tcp, to), 0, "tcp {to}");
}

/// Checks that neither the program nor the list of names knows an address.
#[track_caller]
pub(crate) fn check_unknown(gateway: &Gateway<'_>, address: std::net::IpAddr) {
    let from = if address.is_ipv4() { "10.20.0.2" } else { "fd00:20::2" };
    let (code, why) = explain(gateway, &format!("--from {from} --to {address} --tcp 443"));
    assert_eq!(code, Some(1), "{why}");
    let names = ask(gateway, &["names"]);
    assert!(!addresses(&names).contains(&address), "{address} in {names}");
}

/// All addresses in what `sluice names` says.
pub(crate) fn addresses(names: &Value) -> Vec<std::net::IpAddr> {
    let names = names["names"].as_array().unwrap();
    let of = |name: &Value| name["addresses"].as_array().unwrap().clone();
    names.iter().flat_map(of).map(|held| ip(held["address"].as_str().unwrap())).collect()
}

/// What `sluice names` says of one name.
#[track_caller]
pub(crate) fn named(gateway: &Gateway<'_>, name: &str) -> Option<Value> {
    let names = ask(gateway, &["names"]);
    names["names"].as_array().unwrap().iter().find(|found| found["name"] == name).cloned()
}

/// Waits until a connection to an address is answered, or until it is not any more.
#[track_caller]
pub(crate) fn wait_for(lab: &Topology, to: std::net::IpAddr, expected: Outcome, limit: Duration) {
    let to = SocketAddr::new(to, 443);
    wait_until(&format!("tcp {to}: {expected}"), limit, || {
        Ok(probe::tcp(&lab.client, to)? == expected)
    })
    .unwrap();
}
