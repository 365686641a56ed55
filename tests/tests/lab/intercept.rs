// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions to other resolvers are led to the forwarder, and none goes past it.

use std::{net::SocketAddr, time::Duration};

use sluice_lab::{
    gateway::{Configuration, Gateway, answer},
    listener::{Listeners, Transport},
    netns::Namespace,
    probe::{self, Outcome},
    process::{run, wait_until},
    topology::{Clients, Topology},
};

use crate::support::{address, ask, check_tcp, check_udp, explain};

/// A rule allows one of the resolvers, which is no way past the forwarder.
const RULES: &str = r#"
[[rule]]
name = "resolver"
to   = ["9.9.9.9", "2620:fe::9"]
tcp  = [53, 853]
udp  = [53]
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
         [dns]\nupstream  = [\"192.0.2.2\"]\nlisten    = [\"10.20.0.1\", \"fd00:20::1\"]\n\
         intercept = {intercept}\n"
    );
    Configuration::new(gateway).policy("test", RULES)
}

/// Servers at addresses, and on TCP port 53 and, in the internet, 853.
fn listen(namespace: &Namespace, tcp: &[u16], udp: &[[&str; 2]]) -> Listeners {
    let udp = udp.iter().flatten().map(|text| address(text));
    Listeners::start(namespace, tcp.iter().copied(), udp).unwrap()
}

/// Questions to a resolver over both transports are answered in its name, by the forwarder.
#[track_caller]
fn check_led(client: &Namespace, resolver: &str, forwarder: &str) {
    // The socket is connected, and hears of nobody but the resolver.
    check_udp(client, resolver, Outcome::Answered);
    // The server says at which address it was reached.
    let told = Outcome::Failed(format!("an unexpected answer `tcp {forwarder}`"));
    check_tcp(client, resolver, told);
}

fn resolvers() -> impl Iterator<Item = (&'static str, &'static str)> {
    [LISTED, UNLISTED].into_iter().flat_map(|resolvers| resolvers.into_iter().zip(FORWARDER))
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
    for resolver in [LISTED, UNLISTED].iter().flatten() {
        let resolver: SocketAddr = address(resolver);
        for transport in [Transport::Udp, Transport::Tcp] {
            assert_eq!(internet.reached(transport, resolver), 0, "{transport:?} {resolver}");
        }
    }
}

#[test]
fn questions_to_other_resolvers_reach_the_forwarder_or_nobody() {
    let lab = Topology::new(Clients::One).unwrap();
    let internet = listen(&lab.internet, &[53, 853], &[LISTED, UNLISTED]);
    let forwarder = listen(&lab.gateway, &[53], &[FORWARDER]);
    let mut gateway = Gateway::new(&lab, &configuration(true)).unwrap();
    gateway.start().unwrap();
    for (resolver, forwarder) in resolvers() {
        check_led(&lab.client, resolver, forwarder);
    }
    // The forwarder itself and other ports are as ever.
    for own in FORWARDER {
        check_udp(&lab.client, own, Outcome::Answered);
        check_tcp(&lab.client, own, Outcome::Answered);
    }
    check_tcp(&lab.client, "9.9.9.9:853", Outcome::Answered);
    // Put together before it is redirected.
    assert_eq!(probe::udp(&lab.client, address("8.8.8.8:53"), 4000).unwrap(), Outcome::Answered);
    let (code, told) = explain(&gateway, "--to 8.8.8.8 --udp 53");
    assert_eq!((code, &told["reason"]), (Some(0), &"dns-intercepted".into()), "{told}");
    assert_eq!(kept(&gateway), 0);
    check_unasked(&internet);

    // Without the daemon, and then without the redirection too.
    gateway.kill();
    check_led(&lab.client, UNLISTED[0], FORWARDER[0]);
    nft(&lab.gateway, "flush ruleset");
    for (resolver, _) in resolvers() {
        check_udp(&lab.client, resolver, Outcome::Silence);
        check_tcp(&lab.client, resolver, Outcome::Silence);
    }
    let whole = probe::udp(&lab.client, address("8.8.8.8:53"), 4000).unwrap();
    assert_eq!(whole, Outcome::Silence, "in fragments");
    check_tcp(&lab.client, "9.9.9.9:853", Outcome::Answered);
    check_unasked(&internet);
    gateway.start().unwrap();
    assert!(kept(&gateway) >= 9, "{}", ask(&gateway, &["status"])["drops"]);
    for (resolver, forwarder) in resolvers() {
        check_led(&lab.client, resolver, forwarder);
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
        for (resolver, forwarder) in resolvers() {
            check_led(&lab.client, resolver, forwarder);
        }
    }
    check_unasked(&internet);
    assert_eq!(ask(&gateway, &["status"])["problems"], serde_json::json!([]));
    assert!(forwarder.reached(Transport::Udp, address(FORWARDER[1])) > 0);
}

#[test]
fn interception_goes_with_the_policy_and_with_the_filter() {
    let lab = Topology::new(Clients::One).unwrap();
    let internet = listen(&lab.internet, &[53], &[LISTED, UNLISTED]);
    let _forwarder = listen(&lab.gateway, &[53], &[FORWARDER]);
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
    for (resolver, forwarder) in resolvers() {
        check_led(&lab.client, resolver, forwarder);
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
