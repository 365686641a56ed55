// SPDX-License-Identifier: MIT OR Apache-2.0
//! The policy that the tests with a daemon share, and what they ask of it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use sluice_lab::{
    dns_server::Zone,
    gateway::{Configuration, Gateway},
    netns::Namespace,
    probe::{self, Outcome},
    process::{run, wait_until},
    topology::CLIENT_V4,
};

pub(crate) const GATEWAY: &str = r#"
[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"

[dns]
upstream = ["9.9.9.10"]
min_ttl  = "1s"
grace    = "1s"
"#;

pub(crate) const POLICY: &str = r#"
[[rule]]
name = "clients-dns"
to   = ["9.9.9.10"]
udp  = [53]
tcp  = [53]

[[rule]]
name = "login"
to   = ["login.example.com"]
tcp  = [443]

[[rule]]
name = "web"
to   = ["104.46.162.96/27", "2620:1ec:40::/48"]
tcp  = [80, 443]

[[rule]]
name = "time"
to   = ["104.46.162.100"]
udp  = [123]
"#;

/// A UDP address that the policy allows, and one that it doesn't.
pub(crate) const OPEN_UDP: [&str; 2] = ["104.46.162.100:123", "104.46.162.100:124"];

/// Where `login.example.com` is, and where it moves to.
pub(crate) const LOGIN: &str = "20.190.130.1";
pub(crate) const LOGIN_V6: &str = "2603:1006:2000::1";
pub(crate) const LOGIN_MOVED: &str = "20.190.130.2";

pub(crate) fn configuration() -> Configuration {
    Configuration::new(GATEWAY).policy("test", POLICY)
}

pub(crate) fn zone() -> Zone {
    Zone::new().address("login.example.com", 300, ip(LOGIN)).address(
        "login.example.com",
        300,
        ip(LOGIN_V6),
    )
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[track_caller]
pub(crate) fn check_tcp(client: &Namespace, to: &str, expected: Outcome) {
    assert_eq!(probe::tcp(client, address(to)).unwrap(), expected, "tcp {to}");
}

#[track_caller]
pub(crate) fn check_udp(client: &Namespace, to: &str, expected: Outcome) {
    assert_eq!(probe::udp(client, address(to), 48).unwrap(), expected, "udp {to}");
}

/// Asks the daemon, and takes its JSON.
#[track_caller]
pub(crate) fn ask(gateway: &Gateway<'_>, arguments: &[&str]) -> Value {
    gateway.command(arguments).unwrap().json().unwrap()
}

/// `sluice explain` for a packet from the client: exit status and JSON.
#[track_caller]
pub(crate) fn explain(gateway: &Gateway<'_>, arguments: &str) -> (Option<i32>, Value) {
    let from = CLIENT_V4.to_string();
    let mut words = vec!["explain", "--in", "lan0"];
    if !arguments.contains("--from") {
        words.extend(["--from", &from]);
    }
    words.extend(arguments.split(' '));
    let answer = gateway.command(&words).unwrap();
    (answer.code, answer.json().unwrap())
}

/// Whether an XDP program is on a NIC.
pub(crate) fn has_program(namespace: &Namespace, nic: &str) -> bool {
    program(namespace, nic).is_some()
}

/// The XDP program that is on a NIC, as `ip` tells of it.
pub(crate) fn program(namespace: &Namespace, nic: &str) -> Option<Value> {
    let text = run(namespace.command("ip").args(["-json", "link", "show", nic])).unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0].get("xdp").cloned()
}

/// Waits until no XDP program is on a NIC: the kernel takes one off a moment after its link's last
/// pin is gone.
#[track_caller]
pub(crate) fn check_off(namespace: &Namespace, nic: &str) {
    wait_until("the program is off", Duration::from_secs(3), || Ok(!has_program(namespace, nic)))
        .unwrap();
}

/// The command lines that hold a text, of all processes.
pub(crate) fn processes(text: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}
