// SPDX-License-Identifier: MIT OR Apache-2.0
//! NICs that go, come back or change their names: none of them may be left without the filter.

use std::time::{Duration, Instant};

use sluice_lab::{
    dns_server::DnsServer,
    gateway::{Configuration, Gateway},
    listener::Listeners,
    netns::Namespace,
    probe::Outcome,
    process::{run, wait_until},
    topology::{Clients, RESOLVER, Topology},
};

use crate::support::{
    GATEWAY, ask, check_off, check_tcp, configuration, explain, has_program, zone,
};

/// What the daemon is told of is read within half a second; the rest is the machine's.
const NOTICED: Duration = Duration::from_secs(10);
/// What clients notice: from a change of the gateway to its tables. On an idle machine it is a few
/// tenths of a second, which are printed.
const PROMPT: Duration = Duration::from_secs(4);

/// Everything is allowed, but what the gateway is itself.
const EVERYTHING: &str =
    "[[rule]]\nname = \"all\"\nto = [\"0.0.0.0/0\", \"::/0\"]\ntcp = \"any\"\nudp = \"any\"\n";

#[test]
fn a_nic_that_is_made_anew_is_filtered_again() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    assert!(has_program(&lab.gateway, "lan0"));

    ip(&lab.gateway, "link del lan0");
    wait_until("the loss is noticed", PROMPT, || {
        let status = ask(&gateway, &["status"]);
        let problems = status["problems"].to_string();
        Ok(status["ready"] == false && problems.contains("the inside NIC lan0 is gone since 20"))
    })
    .unwrap();
    let status = gateway.text(&["status"]).unwrap();
    assert!(status.contains("gone for "), "{status}");
    assert!(status.contains("problem: the inside NIC lan0 is gone since "), "{status}");

    ip(&lab.gateway, "link add lan0 type veth peer name far0");
    ip(&lab.gateway, "link set lan0 up");
    let start = Instant::now();
    wait_until("the filter is back", NOTICED, || Ok(has_program(&lab.gateway, "lan0"))).unwrap();
    let took = start.elapsed();
    println!("a NIC made anew was filtered after {} ms", took.as_millis());
    assert!(took < PROMPT, "{took:?}");
    check_well(&gateway);
    for told in
        ["the inside NIC lan0 is gone since", "the inside NIC lan0 is back", "attached again"]
    {
        assert!(gateway.log().contains(told), "{told}: {}", gateway.log());
    }
}

#[test]
fn a_nic_that_is_away_for_a_while_keeps_its_filter() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let gone = |text: &str| {
        wait_until("the loss is noticed", NOTICED, || {
            Ok(ask(&gateway, &["status"])["problems"].to_string().contains(text))
        })
        .unwrap();
    };

    ip(&lab.gateway, "link set lan0 down");
    ip(&lab.gateway, "link set lan0 name old0");
    gone("renamed to old0");
    assert!(has_program(&lab.gateway, "old0"));
    ip(&lab.gateway, "link set old0 name lan0");
    check_well(&gateway);
    assert!(has_program(&lab.gateway, "lan0"));

    let client = lab.client.name();
    ip(&lab.gateway, &format!("link set lan0 netns {client}"));
    gone("lan0 is gone since");
    let back = lab.gateway.name();
    ip(&lab.client, &format!("link set lan0 netns {back}"));
    ip(&lab.gateway, "link set lan0 up");
    check_well(&gateway);
    assert!(has_program(&lab.gateway, "lan0"));
    assert_eq!(gateway.log().matches("the inside NIC lan0 is back").count(), 2);
}

#[test]
fn a_missing_outside_nic_is_a_problem_and_no_end() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let two = GATEWAY.replace("[\"wan0\"]", "[\"wan0\", \"wan9\"]");
    let configuration = Configuration::new(two).policy("test", crate::support::POLICY);
    let mut gateway = Gateway::new(&lab, &configuration).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
    let problems = || ask(&gateway, &["status"])["problems"].to_string();
    assert!(problems().contains("the outside NIC wan9 is gone since"), "{}", problems());
    assert!(!problems().contains("wan0"), "{}", problems());

    ip(&lab.gateway, "link add wan9 type veth peer name far9");
    wait_until("it is there", NOTICED, || Ok(problems() == "[]")).unwrap();
    ip(&lab.gateway, "link del wan0");
    ip(&lab.gateway, "link del wan9");
    wait_until("both are missed", NOTICED, || {
        Ok(problems().contains("NIC wan0 is gone") && problems().contains("NIC wan9 is gone"))
    })
    .unwrap();
    assert!(has_program(&lab.gateway, "lan0"));
    gateway.text(&["reload"]).unwrap();
    gateway.stop().unwrap();
}

#[test]
fn the_name_counts_and_not_the_device_that_had_it() {
    let lab = Topology::new(Clients::Two).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    gateway.kill();

    for (old, new) in [("lan0", "old0"), ("lan1", "lan0")] {
        ip(&lab.gateway, &format!("link set {old} down"));
        ip(&lab.gateway, &format!("link set {old} name {new}"));
        ip(&lab.gateway, &format!("link set {new} up"));
    }
    assert!(has_program(&lab.gateway, "old0"), "the link stays with its device");
    assert!(!has_program(&lab.gateway, "lan0"));
    gateway.start().unwrap();
    assert!(has_program(&lab.gateway, "lan0"));
    check_off(&lab.gateway, "old0");

    // The same while the daemon runs.
    for (old, new) in [("lan0", "lan9"), ("old0", "lan0")] {
        ip(&lab.gateway, &format!("link set {old} down"));
        ip(&lab.gateway, &format!("link set {old} name {new}"));
        ip(&lab.gateway, &format!("link set {new} up"));
    }
    wait_until("the filter is there", NOTICED, || Ok(has_program(&lab.gateway, "lan0"))).unwrap();
    check_off(&lab.gateway, "lan9");
}

#[test]
fn a_wide_prefix_does_not_open_the_gateway() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _internet = Listeners::start(&lab.internet, [22], []).unwrap();
    let _service = Listeners::start(&lab.gateway, [22], []).unwrap();
    let wide = Configuration::new(GATEWAY).policy("wide", EVERYTHING);
    let mut gateway = Gateway::new(&lab, &wide).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "198.51.100.7:22", Outcome::Answered);
    for own in ["10.20.0.1:22", "192.0.2.1:22", "[fd00:20::1]:22"] {
        check_tcp(&lab.client, own, Outcome::Silence);
    }
    for closed in ["--to 10.20.0.255 --udp 137", "--to 192.0.2.255 --udp 137"] {
        let (code, answer) = explain(&gateway, closed);
        assert_eq!((code, &answer["reason"]), (Some(1), &"broadcast".into()), "{closed}");
    }
    // What is routed elsewhere can't come from here, and neither can the gateway's own address.
    for from in ["192.0.2.2", "192.0.2.1", "10.20.0.1"] {
        let question = format!("--from {from} --to 198.51.100.7 --tcp 22");
        assert_eq!(explain(&gateway, &question).1["reason"], "spoofed-source", "{from}");
    }

    let open = EVERYTHING.replace("[\"0.0.0.0/0\"", "[\"self\", \"0.0.0.0/0\"");
    gateway.configure(&Configuration::new(GATEWAY).policy("wide", open)).unwrap();
    gateway.text(&["reload"]).unwrap();
    check_tcp(&lab.client, "10.20.0.1:22", Outcome::Answered);
}

#[test]
fn a_restart_without_a_resolver_keeps_what_was_known() {
    let lab = Topology::new(Clients::One).unwrap();
    let mut dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let patient = GATEWAY.replace("grace    = \"1s\"", "grace    = \"10m\"");
    let policy = crate::support::POLICY;
    let mut gateway =
        Gateway::new(&lab, &Configuration::new(patient).policy("test", policy)).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
    // What is in force was written before, so nothing has to be waited for.
    dns.stop();
    gateway.kill();
    gateway.start().unwrap();
    check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
    check_tcp(&lab.client, "20.190.130.2:443", Outcome::Silence);
}

#[test]
fn changes_of_addresses_and_routes_are_in_the_tables_within_a_second() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let wide = Configuration::new(GATEWAY).policy("wide", EVERYTHING);
    let mut gateway = Gateway::new(&lab, &wide).unwrap();
    gateway.start().unwrap();

    let reason = |question: &str| explain(&gateway, question).1["reason"].clone();
    let own = "--to 10.20.0.77 --tcp 22";
    let own6 = "--from fd00:20::2 --to fd00:20::77 --tcp 22";
    let behind = "--from 172.16.5.5 --to 198.51.100.7 --tcp 443";
    for (change, question, expected) in [
        ("addr add 10.20.0.77/24 dev lan0", own, "not-listed"),
        ("addr del 10.20.0.77/24 dev lan0", own, "rule"),
        ("addr add fd00:20::77/64 dev lan0 nodad", own6, "not-listed"),
        ("addr del fd00:20::77/64 dev lan0", own6, "rule"),
        ("route add 172.16.0.0/16 via 10.20.0.2", behind, "rule"),
        ("route del 172.16.0.0/16 via 10.20.0.2", behind, "spoofed-source"),
    ] {
        assert_ne!(reason(question), expected, "before `ip {change}`");
        ip(&lab.gateway, change);
        let start = Instant::now();
        wait_until(change, NOTICED, || Ok(reason(question) == expected)).unwrap();
        let took = start.elapsed();
        println!("`ip {change}` was in the tables after {} ms", took.as_millis());
        assert!(took < PROMPT, "{took:?} after `ip {change}`");
    }

    // More at once than the socket's buffer holds: some of the messages are lost.
    let mut batch = String::new();
    for net in 0..16 {
        for host in 1..=250 {
            batch.push_str(&format!("addr add 10.30.{net}.{host}/32 dev lan0\n"));
        }
    }
    let file = gateway.state().join("batch");
    std::fs::write(&file, batch).unwrap();
    run(lab.gateway.command("ip").arg("-batch").arg(&file)).unwrap();
    let start = Instant::now();
    let last = "--to 10.30.15.250 --tcp 22";
    wait_until("the storm is over", NOTICED, || Ok(reason(last) == "not-listed")).unwrap();
    println!("the last of 4000 addresses was in the tables after {:?}", start.elapsed());
    assert_eq!(ask(&gateway, &["status"])["problems"], serde_json::json!([]));
}

#[test]
fn vlan_tags_stay_in_the_frames() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let tagged = format!("{GATEWAY}\n[[source]]\nname = \"tagged\"\nvlan = [10]\n");
    let tagged = Configuration::new(tagged).policy("test", crate::support::POLICY);
    let mut gateway = Gateway::new(&lab, &tagged).unwrap();
    let switch = |state: &str| {
        let features = format!("-K lan0 rxvlan {state} rx-vlan-stag-hw-parse {state}");
        run(lab.gateway.command("ethtool").args(features.split(' '))).unwrap();
    };
    let offloads = || {
        let text = run(lab.gateway.command("ethtool").args(["-k", "lan0"])).unwrap();
        let is_one =
            |line: &&str| line.contains("rx-vlan-offload") || line.contains("rx-vlan-stag-hw");
        text.lines().filter(is_one).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let off = ["rx-vlan-offload: off", "rx-vlan-stag-hw-parse: off"];

    switch("on");
    assert_eq!(offloads(), ["rx-vlan-offload: on", "rx-vlan-stag-hw-parse: on"]);
    gateway.start().unwrap();
    assert_eq!(offloads(), off);
    let told = "rx-vlan-hw-parse and rx-vlan-stag-hw-parse switched off";
    assert!(gateway.log().contains(told), "{}", gateway.log());

    // Somebody else switches it on while the daemon runs.
    switch("on");
    wait_until("it is off again", NOTICED, || Ok(offloads() == off)).unwrap();
    check_well(&gateway);

    gateway.stop().unwrap();
    let mut detach = lab.gateway.command(gateway.binary());
    detach.arg("detach").arg("--pin-dir").arg(gateway.pins().path());
    let text = run(&mut detach).unwrap();
    assert!(text.contains("`ethtool -K lan0 rxvlan on` brings that back"), "{text}");

    // A start that fails leaves the NIC as it was.
    switch("on");
    let native = GATEWAY.replace("[\"lan0\"]", "[\"lan0\", \"odd0\"]");
    let native = native.replace("[gateway]", "[gateway]\nxdp_mode = \"native\"");
    gateway.configure(&Configuration::new(native)).unwrap();
    ip(&lab.gateway, "link add odd0 type bridge");
    let before = gateway.log().matches(told).count();
    let error = format!("{:#}", gateway.start().unwrap_err());
    assert!(error.contains("the filter can't be attached to odd0 in native mode"), "{error}");
    assert_eq!(gateway.log().matches(told).count(), before + 1, "{error}");
    assert_eq!(offloads(), ["rx-vlan-offload: on", "rx-vlan-stag-hw-parse: on"]);
}

#[test]
fn nics_that_can_not_be_filtered_are_refused() {
    let lab = Topology::new(Clients::Two).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    for make in [
        "link add bridge0 type bridge",
        "link add port0 type veth peer name far0",
        "link set port0 master bridge0",
        "link add mac0 link lan0 type macvlan mode bridge",
        "tuntap add dev tun0 mode tun",
        "link property add dev lan0 altname wired0",
    ] {
        ip(&lab.gateway, make);
    }
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    let cases = [
        (r#"inside = ["lan7"]"#, "there is no NIC lan7; name one that is there (bridge0, "),
        (r#"inside = ["lo"]"#, "lo is the loopback device, "),
        (r#"inside = ["tun0"]"#, "tun0 has no Ethernet header "),
        (r#"inside = ["port0"]"#, "port0 is a port of the bridge bridge0, "),
        (r#"inside = ["wired0"]"#, "wired0 is another name of lan0; write lan0, "),
        (r#"inside = ["mac0", "lan0"]"#, "mac0 stands on lan0, which is inside too, "),
        (
            "inside = [\"lan0\"]\nignore = [\"wired0\"]",
            "ignore has wired0, which is another name of",
        ),
    ];
    let configured = |inside: &str| {
        let text = GATEWAY.replace("inside  = [\"lan0\"]", inside);
        assert_ne!(text, GATEWAY);
        Configuration::new(text).policy("test", crate::support::POLICY)
    };
    for (inside, expected) in cases {
        gateway.configure(&configured(inside)).unwrap();
        let before = gateway.log().len();
        assert!(gateway.start().is_err(), "{inside}");
        let log = gateway.log().split_off(before);
        assert!(log.contains(&format!("gateway.toml:2: {expected}")), "{inside}: {log}");
        assert!(!has_program(&lab.gateway, "lan0"), "{inside}");
    }

    // The same for a reload, after which what was in force is in force.
    gateway.configure(&configuration()).unwrap();
    gateway.start().unwrap();
    for (inside, expected) in cases {
        gateway
            .configure(&configured(&inside.replace("inside = [", "inside = [\"lan1\", ")))
            .unwrap();
        let answer = gateway.command(&["reload"]).unwrap();
        assert_ne!(answer.code, Some(0), "{inside}");
        let told = format!("{}{}", answer.stdout, answer.stderr);
        assert!(told.contains(expected), "{inside}: {told}");
        assert!(!has_program(&lab.gateway, "lan1"), "{inside}");
    }
    let status = ask(&gateway, &["status"]);
    assert_eq!(status["nics"].as_array().map(Vec::len), Some(2), "{status}");
    assert_eq!(status["ready"], true, "{status}");
}

/// Waits until every NIC is filtered and nothing is wrong.
#[track_caller]
fn check_well(gateway: &Gateway<'_>) {
    wait_until("all is well", NOTICED, || {
        let status = ask(gateway, &["status"]);
        let well = status["ready"] == true && status["problems"] == serde_json::json!([]);
        Ok(well && status["nics"][0]["attached"] == "native")
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", gateway.log()));
}

fn ip(namespace: &Namespace, arguments: &str) {
    run(namespace.command("ip").args(arguments.split(' '))).unwrap();
}
