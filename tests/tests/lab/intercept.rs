// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions to other resolvers are led to the forwarder, and none goes past it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use simple_dns::{CLASS, Name, Packet, Question, TYPE};
use sluice_lab::{
    dns_server::DnsServer,
    gateway::{Configuration, Gateway, answer},
    listener::{Listeners, Transport},
    netns::Namespace,
    probe::{self, Outcome},
    process::{run, wait_until},
    topology::{Clients, RESOLVER, Topology},
};

use crate::support::{LOGIN, address, ask, check_tcp, check_udp, explain, ip, zone};

/// A rule allows one of the resolvers, which is no way past the forwarder.
const RULES: &str = r#"
[[rule]]
name = "resolver"
to   = ["9.9.9.9", "2620:fe::9"]
tcp  = [53, 853]
udp  = [53]

[[rule]]
name = "login"
to   = ["login.example.com"]
tcp  = [443]
"#;

/// The forwarder's addresses, and resolvers in the internet: of the rule, and of none.
const FORWARDER: [&str; 2] = ["10.20.0.1:53", "[fd00:20::1]:53"];
const LISTED: [&str; 2] = ["9.9.9.9:53", "[2620:fe::9]:53"];
const UNLISTED: [&str; 2] = ["8.8.8.8:53", "[2001:4860:4860::8888]:53"];

/// The daemon looks every other second, and puts back what it then missed.
const PUT_BACK: Duration = Duration::from_secs(15);

fn configuration(intercept: bool) -> Configuration {
    let gateway = format!(
        "[gateway]\ninside  = [\"lan0\"]\noutside = [\"wan0\"]\ndeny    = \"drop\"\n\
         [dns]\nupstream  = [\"9.9.9.10\"]\nlisten    = [\"10.20.0.1\", \"fd00:20::1\"]\n\
         intercept = {intercept}\n"
    );
    Configuration::new(gateway).policy("test", RULES)
}

/// The resolvers, which send everything back. A connection to their port 53 would be refused.
fn resolvers_in(internet: &Namespace) -> Listeners {
    let udp = [LISTED, UNLISTED].into_iter().flatten().map(address);
    Listeners::start(internet, [853], udp).unwrap()
}

/// Questions to a resolver over both transports are answered in its name, by the forwarder: nobody
/// else knows the name. The sockets are connected, and hear of nobody but the resolver.
#[track_caller]
fn check_led(client: &Namespace, resolver: &str) {
    let resolver = address(resolver);
    let found = probe::resolve(client, resolver.ip(), "login.example.com").unwrap();
    assert!(found.iter().any(|(found, _)| *found == ip(LOGIN)), "{found:?}");
    let answer = client.enter(|| resolve_tcp(resolver)).unwrap().unwrap();
    let answer = Packet::parse(&answer).unwrap();
    assert_eq!((answer.id(), answer.answers.len()), (7, 1), "{answer:?}");
}

/// Asks for the name over TCP (RFC 1035, section 4.2.2).
fn resolve_tcp(resolver: SocketAddr) -> Result<Vec<u8>> {
    let mut question = Packet::new_query(7);
    let name = Name::new("login.example.com")?;
    question.questions.push(Question::new(name, TYPE::A.into(), CLASS::IN.into(), false));
    let question = question.build_bytes_vec()?;
    let mut stream = TcpStream::connect_timeout(&resolver, probe::PATIENCE)?;
    stream.set_read_timeout(Some(4 * probe::PATIENCE))?;
    stream.write_all(&u16::try_from(question.len())?.to_be_bytes())?;
    stream.write_all(&question)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).context("no answer over TCP")?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).context("an answer cut short")?;
    ensure!(stream.peer_addr()? == resolver, "another peer");
    Ok(answer)
}

fn resolvers() -> impl Iterator<Item = &'static str> {
    [LISTED, UNLISTED].into_iter().flatten()
}

fn nft(namespace: &Namespace, arguments: &str) -> String {
    run(namespace.command("nft").args(arguments.split(' '))).unwrap()
}

fn has_table(namespace: &Namespace) -> bool {
    nft(namespace, "list tables").lines().any(|line| line == "table inet sluice")
}

/// How many packets were kept from going past the forwarder.
fn kept(gateway: &Gateway<'_>) -> u64 {
    let status = ask(gateway, &["status"]);
    status["drops"]["dns-not-intercepted"]["packets"].as_u64().unwrap_or(0)
}

/// No resolver in the internet was asked anything.
#[track_caller]
fn check_unasked(internet: &Listeners) {
    for resolver in resolvers() {
        let resolver: SocketAddr = address(resolver);
        assert_eq!(internet.reached(Transport::Udp, resolver), 0, "{resolver}");
    }
}

#[test]
fn questions_to_other_resolvers_reach_the_forwarder_or_nobody() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let internet = resolvers_in(&lab.internet);
    let mut gateway = Gateway::new(&lab, &configuration(true)).unwrap();
    gateway.start().unwrap();
    for resolver in resolvers() {
        check_led(&lab.client, resolver);
    }
    // The forwarder itself and other ports are as ever.
    for own in FORWARDER {
        check_led(&lab.client, own);
    }
    check_tcp(&lab.client, "9.9.9.9:853", Outcome::Answered);
    let (code, told) = explain(&gateway, "--to 8.8.8.8 --udp 53");
    assert_eq!((code, &told["reason"]), (Some(0), &"dns-intercepted".into()), "{told}");
    assert_eq!(kept(&gateway), 0);
    check_unasked(&internet);

    // Without the daemon, and then without the redirection too.
    gateway.kill();
    for resolver in resolvers() {
        check_udp(&lab.client, resolver, Outcome::Refused);
    }
    let whole = || probe::udp(&lab.client, address(UNLISTED[0]), 4000).unwrap();
    assert_eq!(whole(), Outcome::Refused, "fragments are put together and led, too");
    nft(&lab.gateway, "flush ruleset");
    for resolver in resolvers() {
        check_udp(&lab.client, resolver, Outcome::Silence);
        check_tcp(&lab.client, resolver, Outcome::Silence);
    }
    assert_eq!(whole(), Outcome::Silence, "in fragments");
    check_tcp(&lab.client, "9.9.9.9:853", Outcome::Answered);
    check_unasked(&internet);
    gateway.start().unwrap();
    assert!(kept(&gateway) >= 9, "{}", ask(&gateway, &["status"])["drops"]);
    for resolver in resolvers() {
        check_led(&lab.client, resolver);
    }

    // The running daemon puts back what is taken away, and what is only emptied.
    let whole = || Ok(nft(&lab.gateway, "list ruleset").contains("dnat ip6 to fd00:20::1"));
    for (round, arguments) in
        ["flush ruleset", "flush chain inet sluice questions"].into_iter().enumerate()
    {
        nft(&lab.gateway, arguments);
        assert!(!whole().unwrap());
        wait_until(&format!("what `{arguments}` took is back"), PUT_BACK, whole).unwrap();
        assert_eq!(gateway.log().matches("it is put back").count(), round + 1);
        for resolver in resolvers() {
            check_led(&lab.client, resolver);
        }
    }
    check_unasked(&internet);
    assert_eq!(ask(&gateway, &["status"])["problems"], serde_json::json!([]));
}

#[test]
fn interception_goes_with_the_policy_and_with_the_filter() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let internet = resolvers_in(&lab.internet);
    // Somebody else's table is nobody's business.
    nft(&lab.gateway, "add table inet other");
    let mut gateway = Gateway::new(&lab, &configuration(false)).unwrap();
    gateway.start().unwrap();
    assert!(!has_table(&lab.gateway));
    check_udp(&lab.client, LISTED[0], Outcome::Answered);
    check_udp(&lab.client, UNLISTED[0], Outcome::Silence);
    let asked = internet.reached(Transport::Udp, address(LISTED[0]));
    assert_eq!(asked, 1);

    gateway.configure(&configuration(true)).unwrap();
    gateway.text(&["reload"]).unwrap();
    for resolver in resolvers() {
        check_led(&lab.client, resolver);
    }
    assert_eq!(internet.reached(Transport::Udp, address(LISTED[0])), asked);

    // A VLAN on the inside NIC brings questions in, too.
    run(lab.gateway.command("ip").args("link add mac0 link lan0 type macvlan".split(' '))).unwrap();
    wait_until("the device on the NIC is noticed", PUT_BACK, || {
        Ok(nft(&lab.gateway, "list table inet sluice").contains("\"mac0\""))
    })
    .unwrap();

    gateway.configure(&configuration(false)).unwrap();
    gateway.text(&["reload"]).unwrap();
    assert!(!has_table(&lab.gateway));
    check_udp(&lab.client, LISTED[0], Outcome::Answered);
    check_udp(&lab.client, UNLISTED[0], Outcome::Silence);
    assert_eq!(internet.reached(Transport::Udp, address(LISTED[0])), asked + 1);

    // It outlives the daemon, and the next one that doesn't want it takes it away.
    gateway.configure(&configuration(true)).unwrap();
    gateway.text(&["reload"]).unwrap();
    gateway.stop().unwrap();
    assert!(has_table(&lab.gateway));
    gateway.configure(&configuration(false)).unwrap();
    gateway.start().unwrap();
    assert!(!has_table(&lab.gateway));

    gateway.configure(&configuration(true)).unwrap();
    gateway.text(&["reload"]).unwrap();
    assert!(has_table(&lab.gateway));
    gateway.stop().unwrap();
    gateway.detach().unwrap();
    assert_eq!(nft(&lab.gateway, "list tables"), "table inet other\n");
}

#[test]
fn without_nft_interception_is_refused_and_says_why() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration(true)).unwrap();
    let mut command = lab.gateway.command("/usr/bin/env");
    command.arg("PATH=/nowhere").arg(gateway.binary()).args(gateway.daemon_arguments());
    let told = answer(&mut command).unwrap();
    assert_eq!(told.code, Some(1), "{}", told.stderr);
    for part in [
        "gateway.toml:5: [dns]: intercept = true",
        "install the package nftables, or set intercept = false",
    ] {
        assert!(told.stderr.contains(part), "{part}: {}", told.stderr);
    }
    assert!(gateway.pins().pins().is_empty());
    gateway.start().unwrap();
    assert!(has_table(&lab.gateway));
}
