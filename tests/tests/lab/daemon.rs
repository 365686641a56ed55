// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gateway in use: what passes, what is counted, and what changes while it runs.

use std::{fs, path::Path, thread, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use sluice_lab::{
    dns_server::{DnsServer, Zone},
    gateway::{Configuration, Gateway},
    listener::{Listeners, Transport},
    probe::{self, Outcome},
    process::wait_until,
    topology::{CLIENT_V6, Clients, RESOLVER, Topology},
};

use crate::support::{
    GATEWAY, LOGIN, LOGIN_MOVED, LOGIN_V6, POLICY, address, ask, check_off, check_tcp, check_udp,
    configuration, explain, has_program, ip, processes, zone,
};

/// How long a change of an answer (TTL 1 s, floor 1 s) may take to reach the tables.
const REFRESH: Duration = Duration::from_secs(10);

#[test]
fn what_is_listed_passes_and_nothing_else_does() {
    let lab = Topology::new(Clients::Two).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let udp = ["104.46.162.100:123", "104.46.162.101:123", "104.46.162.100:124", "8.8.8.8:53"];
    let listeners = Listeners::start(&lab.internet, [22, 80, 443], udp.map(address)).unwrap();
    let _service = Listeners::start(&lab.gateway, [22], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();

    let client = &lab.client;
    let login = probe::resolve(client, RESOLVER, "login.example.com").unwrap();
    assert_eq!(login, [(ip(LOGIN), 300), (ip(LOGIN_V6), 300)]);
    for to in [
        "20.190.130.1:443",
        "[2603:1006:2000::1]:443",
        "104.46.162.96:443",
        "104.46.162.127:80",
        "104.46.162.100:443",
        "[2620:1ec:40::7]:80",
    ] {
        check_tcp(client, to, Outcome::Answered);
    }
    check_udp(client, udp[0], Outcome::Answered);

    for to in [
        "20.190.130.1:80",
        "20.190.130.2:443",
        "[2603:1006:2000::1]:22",
        "[2603:1006:2000::2]:443",
        "104.46.162.95:443",
        "104.46.162.128:443",
        "104.46.162.96:22",
        "[2620:1ec:41::7]:443",
        "198.51.100.7:443",
        "10.20.0.1:22",
        "192.0.2.1:22",
        "[fd00:20::1]:22",
    ] {
        check_tcp(client, to, Outcome::Silence);
        assert_eq!(listeners.reached(Transport::Tcp, address(to)), 0, "{to}");
    }
    for to in &udp[1..] {
        check_udp(client, to, Outcome::Silence);
        assert_eq!(listeners.reached(Transport::Udp, address(to)), 0, "{to}");
    }
    for to in [LOGIN, LOGIN_V6, "104.46.162.96", "10.20.0.1"] {
        assert_eq!(probe::echo(client, ip(to)).unwrap(), Outcome::Silence, "echo {to}");
    }
    // The second client's NIC is not one of the inside NICs: nothing goes out from there.
    let before = counted(&gateway, "drops", "not-from-inside");
    check_tcp(lab.second_client.as_ref().unwrap(), "198.51.100.7:443", Outcome::Silence);
    assert!(counted(&gateway, "drops", "not-from-inside") > before);
}

#[test]
fn groups_by_nic_have_their_own_rules() {
    let lab = Topology::new(Clients::Two).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let groups = r#"
[[source]]
name      = "first"
interface = ["lan0"]

[[source]]
name = "second"
cidr = ["10.21.0.0/24", "fd00:21::/64"]

[[rule]]
name = "first-web"
from = ["first"]
to   = ["104.46.162.96/27", "2620:1ec:40::/48"]
tcp  = [443]

[[rule]]
name = "second-web"
from = ["second"]
to   = ["104.46.162.100", "2620:1ec:40::7"]
tcp  = [80]
"#;
    let two = GATEWAY.replace(r#"["lan0"]"#, r#"["lan0", "lan1"]"#);
    let mut gateway =
        Gateway::new(&lab, &Configuration::new(two).policy("groups", groups)).unwrap();
    gateway.start().unwrap();

    let (first, second) = (&lab.client, lab.second_client.as_ref().unwrap());
    for host in ["104.46.162.100", "[2620:1ec:40::7]"] {
        check_tcp(first, &format!("{host}:443"), Outcome::Answered);
        check_tcp(first, &format!("{host}:80"), Outcome::Silence);
        check_tcp(second, &format!("{host}:80"), Outcome::Answered);
        check_tcp(second, &format!("{host}:443"), Outcome::Silence);
    }
    check_tcp(second, "104.46.162.97:443", Outcome::Silence);
    // Traffic between two inside NICs is policy like the rest.
    check_tcp(first, "10.21.0.2:443", Outcome::Silence);
}

#[test]
fn every_packet_is_counted_once() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    // 14 bytes of Ethernet, 20 or 40 of IP, 8 of UDP.
    for (to, count, length, kind, reason) in [
        ("104.46.162.100:123", 70, 48, "passes", "rule"),
        ("104.46.162.100:124", 50, 1, "drops", "port-not-allowed"),
        ("198.51.100.7:443", 30, 1472, "drops", "not-listed"),
        ("[2620:1ec:41::7]:443", 20, 100, "drops", "not-listed"),
        ("239.1.2.3:5000", 10, 10, "drops", "multicast"),
    ] {
        let to = address(to);
        let before = counted(&gateway, kind, reason);
        let rule = counted_by_rule(&gateway, "time");
        probe::send_udp(&lab.client, to, length, count).unwrap();
        let frame = 14 + if to.is_ipv4() { 20 } else { 40 } + 8 + length as u64;
        let sent = [u64::from(count), u64::from(count) * frame];
        let after = [before[0] + sent[0], before[1] + sent[1]];
        settle(&format!("{to}: {reason}"), after, || counted(&gateway, kind, reason));
        if kind == "passes" {
            let by_rule = counted_by_rule(&gateway, "time");
            assert_eq!(by_rule, [rule[0] + sent[0], rule[1] + sent[1]], "{to}");
        }
    }
    // Counters belong to the pinned maps, so they outlive the daemon.
    let before = counted(&gateway, "drops", "port-not-allowed");
    gateway.kill();
    probe::send_udp(&lab.client, address("104.46.162.100:124"), 1, 5).unwrap();
    gateway.start().unwrap();
    let after = [before[0] + 5, before[1] + 5 * 43];
    settle("while no daemon ran", after, || counted(&gateway, "drops", "port-not-allowed"));
    assert_eq!(counted_by_rule(&gateway, "time")[0], 70);
}

#[test]
fn drops_can_be_followed() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let lines = thread::scope(|scope| {
        let follower = scope.spawn(|| gateway.command(&["drops", "--count", "2"]).unwrap());
        wait_until("two drops were seen", Duration::from_secs(10), || {
            probe::send_udp(&lab.client, address("20.190.130.1:444"), 10, 1)?;
            Ok(follower.is_finished())
        })
        .unwrap();
        follower.join().unwrap().success().unwrap()
    });
    let drops: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(drops.len(), 2, "{lines}");
    for drop in drops {
        for (field, expected) in [
            ("nic", json!("lan0")),
            ("reason", json!("port-not-allowed")),
            ("source", json!("10.20.0.2")),
            ("destination", json!(LOGIN)),
            ("protocol", json!("udp")),
            ("destination_port", json!(444)),
            ("length", json!(52)),
            ("name", json!("login.example.com")),
        ] {
            assert_eq!(drop[field], expected, "{field} of {drop}");
        }
    }
}

#[test]
fn an_explanation_names_rule_and_line_and_counts_nothing() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    // The neighbours are known from here on, so that nothing but the explanations happens below.
    check_tcp(&lab.client, "198.51.100.7:443", Outcome::Silence);
    let before = quiet(&gateway);

    let (code, name) = explain(&gateway, &format!("--to {LOGIN} --tcp 443"));
    assert_eq!(code, Some(0), "{name}");
    assert_eq!((&name["verdict"], &name["reason"]), (&json!("pass"), &json!("rule")), "{name}");
    assert_eq!((&name["rule"], &name["origin"]), (&json!("login"), &json!("policy.d/test.toml:8")));
    assert_eq!(name["via"]["name"], json!("login.example.com"), "{name}");
    assert_eq!(name["via"]["address"], json!(LOGIN), "{name}");
    let expires = name["via"]["expires_in_s"].as_u64().unwrap();
    assert!((200..=300).contains(&expires), "{name}");
    assert!(name["generation"].as_u64().is_some(), "{name}");

    let (code, v6) = explain(&gateway, &format!("--from {CLIENT_V6} --to {LOGIN_V6} --tcp 443"));
    assert_eq!((code, &v6["rule"]), (Some(0), &json!("login")), "{v6}");

    let (code, prefix) = explain(&gateway, "--to 104.46.162.99 --tcp 80");
    assert_eq!(code, Some(0), "{prefix}");
    assert_eq!(
        (&prefix["rule"], &prefix["origin"]),
        (&json!("web"), &json!("policy.d/test.toml:13"))
    );
    assert_eq!(prefix["via"]["prefix"], json!("104.46.162.96/27"), "{prefix}");

    for (arguments, reason) in [
        ("--to 104.46.162.99 --tcp 22", "port-not-allowed"),
        ("--to 104.46.162.99 --udp 443", "port-not-allowed"),
        ("--to 104.46.162.99 --icmp", "protocol-not-allowed"),
        ("--to 104.46.162.99 --proto 47", "protocol-not-allowed"),
        ("--to 198.51.100.7 --tcp 443", "not-listed"),
        ("--to 104.46.162.99 --tcp 443 --fragment later", "fragment-without-first"),
        ("--from 10.99.0.1 --to 104.46.162.99 --tcp 443", "spoofed-source"),
    ] {
        let (code, answer) = explain(&gateway, arguments);
        assert_eq!(code, Some(1), "{arguments}: {answer}");
        let got = (&answer["verdict"], &answer["reason"]);
        assert_eq!(got, (&json!("drop"), &json!(reason)), "{arguments}: {answer}");
        assert!(answer["rule"].is_null(), "{arguments}: {answer}");
    }
    let (code, first) = explain(&gateway, "--to 104.46.162.100 --udp 123 --fragment first");
    assert_eq!((code, &first["rule"]), (Some(0), &json!("time")), "{first}");

    assert_eq!(quiet(&gateway), before);
}

#[test]
fn a_broken_configuration_leaves_the_old_one_in_force() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443, 8443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let generation = ask(&gateway, &["status"])["generation"].clone();
    assert!(generation.is_u64(), "{generation}");

    gateway
        .configure(&Configuration::new(GATEWAY).policy("test", POLICY.replace("443", "\"htps\"")))
        .unwrap();
    let refused = gateway.command(&["reload"]).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("policy.d/test.toml:11") && said.contains("htps"), "{said}");
    assert_eq!(ask(&gateway, &["status"])["generation"], generation);
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
    check_tcp(&lab.client, "104.46.162.96:8443", Outcome::Silence);

    gateway
        .configure(&Configuration::new(GATEWAY).policy("test", POLICY.replace("443", "8443")))
        .unwrap();
    gateway.command(&["reload"]).unwrap().success().unwrap();
    check_tcp(&lab.client, "104.46.162.96:8443", Outcome::Answered);
    check_tcp(&lab.client, "20.190.130.1:8443", Outcome::Answered);
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Silence);
    assert!(ask(&gateway, &["status"])["generation"].as_u64() > generation.as_u64());
}

#[test]
fn a_name_that_moves_is_followed() {
    let lab = Topology::new(Clients::One).unwrap();
    let at = |address| Zone::new().address("login.example.com", 1, ip(address));
    let mut dns = DnsServer::start(&lab.internet, RESOLVER, &at(LOGIN)).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
    check_tcp(&lab.client, "20.190.130.2:443", Outcome::Silence);

    dns.restart(&lab.internet, &at(LOGIN_MOVED)).unwrap();
    let outcome = |to: &str| probe::tcp(&lab.client, address(to));
    wait_until("the new address is reachable", REFRESH, || {
        Ok(outcome("20.190.130.2:443")? == Outcome::Answered)
    })
    .unwrap();
    // To knock there would be to use it, which keeps it open.
    wait_until("the old address is closed after its grace period", REFRESH, || {
        Ok(explain(&gateway, &format!("--to {LOGIN} --tcp 443")).1["verdict"] == json!("drop"))
    })
    .unwrap();
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Silence);
    let (_, why) = explain(&gateway, &format!("--to {LOGIN_MOVED} --tcp 443"));
    assert_eq!(why["via"]["name"], json!("login.example.com"), "{why}");
}

#[test]
fn a_resolver_that_is_down_at_the_start_holds_up_only_its_names() {
    let lab = Topology::new(Clients::One).unwrap();
    let mut dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    dns.stop();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Silence);
    assert!(gateway.log().contains("login.example.com"), "{}", gateway.log());

    dns.restart(&lab.internet, &zone()).unwrap();
    wait_until("the name is looked up again", Duration::from_secs(20), || {
        Ok(probe::tcp(&lab.client, address("20.190.130.1:443"))? == Outcome::Answered)
    })
    .unwrap();
}

#[test]
fn names_come_over_tls_from_who_can_prove_it() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["dns.example.net".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.pem"), authority).unwrap();

    let lab = Topology::new(Clients::One).unwrap();
    let service = (&*key.serialize_pem(), &*certificate);
    let _dns = DnsServer::start_with_tls(&lab.internet, RESOLVER, &zone(), service).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let over_tls = |name: &str, file: &str| {
        let file = folder.path().join(file);
        let upstream = format!("upstream = [\"tls://{RESOLVER}#{name}\"]\ntls_ca = {file:?}");
        let gateway = GATEWAY.replace("upstream = [\"9.9.9.10\"]", &upstream);
        Configuration::new(gateway).policy("test", POLICY)
    };

    // The same server answers in plain text, too: it isn't asked that way.
    let mut gateway = Gateway::new(&lab, &over_tls("dns.example.org", "ca.pem")).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Silence);
    let log = gateway.log();
    assert!(log.contains("its certificate is for another name"), "{log}");

    gateway.configure(&over_tls("dns.example.net", "ca.pem")).unwrap();
    gateway.command(&["reload"]).unwrap().success().unwrap();
    wait_until("the name is looked up again", Duration::from_secs(20), || {
        Ok(probe::tcp(&lab.client, address("20.190.130.1:443"))? == Outcome::Answered)
    })
    .unwrap();

    gateway.configure(&over_tls("dns.example.net", "no.pem")).unwrap();
    let refused = gateway.command(&["reload"]).unwrap();
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert_eq!(refused.code, Some(1), "{said}");
    assert!(said.contains("no.pem; [dns] tls_ca has to name a file"), "{said}");
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
}

#[test]
fn enforcement_outlives_the_daemon_and_ends_with_detach() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443, 8443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    let check = |expected| {
        check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
        check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
        check_tcp(&lab.client, "104.46.162.96:8443", expected);
    };
    gateway.start().unwrap();
    check(Outcome::Silence);
    gateway.stop().unwrap();
    check(Outcome::Silence);
    assert!(has_program(&lab.gateway, "lan0"));
    gateway.start().unwrap();
    check(Outcome::Silence);
    gateway.kill();
    check(Outcome::Silence);
    gateway.start().unwrap();
    gateway.stop().unwrap();
    gateway.detach().unwrap();
    check_off(&lab.gateway, "lan0");
    assert_eq!(gateway.pins().pins(), Vec::<std::path::PathBuf>::new());
    assert!(!gateway.pins().path().exists());
    check(Outcome::Answered);
}

#[test]
fn stopping_is_detaching_where_that_is_asked_for() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [8443], []).unwrap();
    let settings = GATEWAY.replace("deny", "on_stop = \"detach\"\ndeny");
    let configuration = Configuration::new(settings).policy("test", POLICY);
    let mut gateway = Gateway::new(&lab, &configuration).unwrap();
    let check = |expected| check_tcp(&lab.client, "104.46.162.96:8443", expected);
    gateway.start().unwrap();
    check(Outcome::Silence);
    // Nobody told it to stop.
    gateway.kill();
    check(Outcome::Silence);
    assert!(has_program(&lab.gateway, "lan0"));
    gateway.start().unwrap();
    check(Outcome::Silence);
    gateway.stop().unwrap();
    check_off(&lab.gateway, "lan0");
    check_off(&lab.gateway, "wan0");
    assert!(!gateway.pins().path().exists());
    check(Outcome::Answered);
    assert!(gateway.log().contains("stopped, and the filter is taken off"), "{}", gateway.log());
}

#[test]
fn nothing_is_left_after_a_gateway() {
    let lab = Topology::new(Clients::One).unwrap();
    let dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let (pins, directory) = (gateway.pins().path().to_owned(), gateway.state());
    let name = lab.unique.clone();
    assert!(pins.exists() && directory.exists());
    assert_eq!(processes(&directory.display().to_string()).len(), 1);
    drop(gateway);
    assert!(!pins.exists(), "{} is left", pins.display());
    assert!(!directory.parent().unwrap().exists());
    check_off(&lab.gateway, "lan0");
    assert_eq!(processes(&directory.display().to_string()), [""; 0]);
    drop(dns);
    drop(lab);
    for entry in fs::read_dir("/run/netns").unwrap() {
        let left = entry.unwrap().path();
        assert!(!left.ends_with(Path::new(&name)) && !left.display().to_string().contains(&name));
    }
}

/// What is counted, and could be changed by an explanation, once nothing is under way. Neighbours
/// and groups are kept up all the time, so control frames are left out.
fn quiet(gateway: &Gateway<'_>) -> Value {
    thread::sleep(Duration::from_millis(100));
    let status = ask(gateway, &["status"]);
    let rules = ask(gateway, &["rules"]);
    json!([status["drops"], status["audited"], status["events"], status["passes"]["rule"], rules])
}

/// Checks counters that a packet on its way may still change.
#[track_caller]
fn settle(what: &str, expected: [u64; 2], counters: impl Fn() -> [u64; 2]) {
    // A late packet is waited for, and one too many would come as late.
    thread::sleep(Duration::from_millis(20));
    let _ = wait_until(what, Duration::from_secs(1), || Ok(counters() == expected));
    assert_eq!(counters(), expected, "{what}");
}

/// The packets and bytes counted under a reason, and what a rule let through.
fn counted(gateway: &Gateway<'_>, kind: &str, reason: &str) -> [u64; 2] {
    let status = ask(gateway, &["status"]);
    ["packets", "bytes"].map(|unit| status[kind][reason][unit].as_u64().unwrap_or_default())
}

fn counted_by_rule(gateway: &Gateway<'_>, name: &str) -> [u64; 2] {
    let rules = ask(gateway, &["rules"]);
    let rule = rules.as_array().unwrap().iter().find(|rule| rule["name"] == name).unwrap();
    ["packets", "bytes"].map(|unit| rule[unit].as_u64().unwrap())
}
