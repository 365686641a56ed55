// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes while the gateway runs: what is allowed beside the policy, other policies, and the way back.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sluice_lab::{
    dns_server::{DnsServer, Zone},
    gateway::{Answer, Gateway},
    listener::Listeners,
    probe::Outcome,
    process::wait_until,
    topology::{Clients, RESOLVER, Topology},
    workdir::Workdir,
};

use crate::support::{GATEWAY, POLICY, ask, check_tcp, configuration, explain, ip, zone};

/// Nothing allows it.
const CLOSED: &str = "52.96.10.7:443";
/// The policy allows it.
const OPEN: &str = "104.46.162.96:443";

/// A policy in a directory of its own.
fn directory(parent: &Workdir, name: &str, configuration: &[(&str, &str)]) -> PathBuf {
    let path = parent.path().join(name);
    fs::create_dir_all(path.join("policy.d")).unwrap();
    for (file, text) in configuration {
        fs::write(path.join(file), text).unwrap();
    }
    path
}

fn words<'a>(line: &'a str, path: &'a Path) -> Vec<&'a str> {
    line.split(' ').map(|word| if word == "DIR" { path.to_str().unwrap() } else { word }).collect()
}

#[track_caller]
fn refused(answer: &Answer, expected: &str) {
    assert_ne!(answer.code, Some(0), "{}", answer.stdout);
    assert!(answer.stderr.contains(expected), "{:?} without {expected:?}", answer.stderr);
    assert!(!answer.stderr.contains("panicked"), "{}", answer.stderr);
}

#[test]
fn what_is_allowed_beside_the_policy_holds_and_ends() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [22, 443], []).unwrap();
    let group = "[[source]]\nname = \"managed\"\ncidr = [\"10.20.0.0/24\"]\n";
    let mut gateway = Gateway::new(&lab, &configuration().policy("group", group)).unwrap();
    gateway.start().unwrap();
    let client = &lab.client;
    check_tcp(client, CLOSED, Outcome::Silence);

    let line = "allow 52.96.10.0/24 --tcp 443 --from managed --note ticket-4711";
    let allowed = ask(&gateway, &line.split(' ').collect::<Vec<_>>());
    assert_eq!((&allowed["id"], &allowed["rule"]), (&json!(1), &json!("allow-1")), "{allowed}");
    check_tcp(client, CLOSED, Outcome::Answered);
    check_tcp(client, "52.96.10.7:22", Outcome::Silence);
    check_tcp(client, OPEN, Outcome::Answered);
    let (code, explained) = explain(&gateway, "--to 52.96.10.7 --tcp 443");
    assert_eq!((code, &explained["rule"]), (Some(0), &json!("allow-1")));
    let shown = gateway.text(&["rules"]).unwrap();
    assert!(shown.contains("allow-1") && shown.contains("ticket-4711"), "{shown}");
    assert!(shown.contains("root at 20"), "who and when: {shown}");

    // It outlives the daemon, a reload and another policy, and ends with a revocation.
    gateway.kill();
    check_tcp(client, CLOSED, Outcome::Answered);
    gateway.start().unwrap();
    check_tcp(client, CLOSED, Outcome::Answered);
    ask(&gateway, &["reload"]);
    check_tcp(client, CLOSED, Outcome::Answered);
    let revoked = ask(&gateway, &["revoke", "allow-1"]);
    assert_eq!(revoked["revoked"]["request"]["note"], "ticket-4711");
    check_tcp(client, CLOSED, Outcome::Silence);
    refused(&gateway.command(&["revoke", "1"]).unwrap(), "nothing is allowed as 1");
    gateway.kill();
    gateway.start().unwrap();
    check_tcp(client, CLOSED, Outcome::Silence);

    // One that ends by itself, and a name.
    let allowed = ask(&gateway, &["allow", "52.96.10.7", "--tcp", "443", "--for", "3s"]);
    assert_eq!(allowed["id"], 2, "no number is used again: {allowed}");
    check_tcp(client, CLOSED, Outcome::Answered);
    thread::sleep(Duration::from_millis(3500));
    check_tcp(client, CLOSED, Outcome::Silence);
    assert_eq!(ask(&gateway, &["allow", "--list"]), json!([]));
    check_tcp(client, "20.190.130.1:22", Outcome::Silence);
    ask(&gateway, &["allow", "login.example.com", "--tcp", "22"]);
    check_tcp(client, "20.190.130.1:22", Outcome::Answered);

    // What ends while no daemon runs has ended when the next one comes.
    ask(&gateway, &["allow", "52.96.10.7", "--tcp", "443", "--for", "2s"]);
    gateway.kill();
    thread::sleep(Duration::from_millis(2500));
    gateway.start().unwrap();
    check_tcp(client, CLOSED, Outcome::Silence);
}

#[test]
fn what_must_not_be_allowed_by_the_way_changes_nothing() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let before = ask(&gateway, &["status"])["generation"].clone();
    for (line, code, expected) in [
        ("allow 127.0.0.1 --tcp 443", 1, "loopback"),
        ("allow 169.254.169.254 --tcp 80", 1, "link-local"),
        ("allow 0.0.0.0/0 --tcp 443", 1, "--broad"),
        ("allow *.com --tcp 443", 1, "--broad"),
        ("allow 8.8.8.8", 1, "--tcp 443"),
        ("allow 8.8.8.8 --tcp 0", 1, "--tcp 0"),
        ("allow 8.8.8.8 --tcp 443 --from nobody", 1, "there is no group"),
        ("allow 8.8.8.8 --tcp 443 --for 1w", 2, "1h or 7d"),
        ("allow 8.8.8.8 --tcp 443 --for 0s", 1, "from one second"),
        ("allow --tcp 443", 2, "DESTINATION"),
        ("revoke x", 2, "allow-3"),
        ("confirm", 1, "no policy waits"),
        ("rollback 77", 1, "no policy 77"),
    ] {
        let answer = gateway.command(&line.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(answer.code, Some(code), "{line}: {}", answer.stderr);
        refused(&answer, expected);
    }
    assert_eq!(ask(&gateway, &["status"])["generation"], before);
    assert_eq!(ask(&gateway, &["allow", "--list"]), json!([]));
}

#[test]
fn policies_are_previewed_applied_and_taken_back() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let client = &lab.client;
    let parent = Workdir::new("policies").unwrap();
    let other = POLICY.replace("104.46.162.96/27", "52.96.10.0/24");
    let other = directory(&parent, "o", &[("gateway.toml", GATEWAY), ("policy.d/a.toml", &other)]);
    let broken =
        directory(&parent, "b", &[("gateway.toml", GATEWAY), ("policy.d/a.toml", "[[rul]]")]);

    let preview = ask(&gateway, &words("apply DIR --preview", &other));
    let shown = preview["difference"].to_string();
    assert!(shown.contains("52.96.10.0/24") && shown.contains("104.46.162.96/27"), "{shown}");
    assert_eq!(preview["settings"], json!([]));
    check_tcp(client, OPEN, Outcome::Answered);
    let text = gateway.text(&words("apply DIR --preview", &other)).unwrap();
    assert!(text.contains("+ 52.96.10.0/24") && text.contains("- 104.46.162.96/27"), "{text}");
    refused(&gateway.command(&words("apply DIR --yes", &broken)).unwrap(), "policy.d/a.toml:1");
    refused(&gateway.command(&words("apply DIR/x --yes", &broken)).unwrap(), "gateway.toml");

    // For good, also after a restart; a reload goes back to the configuration directory.
    let applied = ask(&gateway, &words("apply DIR --yes", &other));
    assert_eq!(applied["policy"], 2, "{applied}");
    check_tcp(client, CLOSED, Outcome::Answered);
    check_tcp(client, OPEN, Outcome::Silence);
    gateway.kill();
    gateway.start().unwrap();
    check_tcp(client, CLOSED, Outcome::Answered);
    check_tcp(client, OPEN, Outcome::Silence);
    let status = ask(&gateway, &["status"]);
    assert!(status["warnings"].to_string().contains("number 2 of the history"), "{status}");
    ask(&gateway, &["rollback"]);
    check_tcp(client, OPEN, Outcome::Answered);
    ask(&gateway, &["rollback", "2"]);
    check_tcp(client, CLOSED, Outcome::Answered);
    ask(&gateway, &["reload"]);
    check_tcp(client, OPEN, Outcome::Answered);
    check_tcp(client, CLOSED, Outcome::Silence);
    let history = ask(&gateway, &["rollback", "--list"]);
    let numbers: Vec<&Value> =
        history.as_array().unwrap().iter().map(|record| &record["policy"]).collect();
    assert_eq!(numbers, [3, 2, 1], "{history}");

    // Until it is confirmed, with a question open meanwhile.
    for (line, expected) in [
        ("apply DIR --yes --confirm-within 1s", "from 5 to 3600"),
        ("apply DIR --yes --confirm-within 2h", "from 5 to 3600"),
    ] {
        refused(&gateway.command(&words(line, &other)).unwrap(), expected);
    }
    let inside = GATEWAY.replace(r#"outside = ["wan0"]"#, "outside = []");
    let inside = directory(&parent, "i", &[("gateway.toml", &inside), ("policy.d/a.toml", POLICY)]);
    let line = words("apply DIR --yes --confirm-within 60s", &inside);
    refused(&gateway.command(&line).unwrap(), "other NICs");
    ask(&gateway, &words("apply DIR --yes --confirm-within 60s", &other));
    check_tcp(client, CLOSED, Outcome::Answered);
    check_tcp(client, OPEN, Outcome::Silence);
    let status = gateway.text(&["status"]).unwrap();
    assert!(status.contains("unless `sluice confirm` follows"), "{status}");
    for line in ["reload", "allow 8.8.8.8 --tcp 443", "rollback 1", "apply DIR --yes"] {
        refused(&gateway.command(&words(line, &other)).unwrap(), "waits to be confirmed");
    }
    ask(&gateway, &["rollback"]);
    check_tcp(client, OPEN, Outcome::Answered);
    check_tcp(client, CLOSED, Outcome::Silence);
    ask(&gateway, &words("apply DIR --yes --confirm-within 60s", &other));
    ask(&gateway, &["confirm"]);
    refused(&gateway.command(&["confirm"]).unwrap(), "no policy waits");
    check_tcp(client, CLOSED, Outcome::Answered);
    gateway.kill();
    gateway.start().unwrap();
    check_tcp(client, CLOSED, Outcome::Answered);
}

/// What changes while a policy waits to be confirmed is right on both sides of its end.
#[test]
fn a_policy_that_nobody_confirms_ends_by_itself() {
    let lab = Topology::new(Clients::One).unwrap();
    let zone = Zone::new().address("login.example.com", 1, ip("20.190.130.1")).address(
        "other.example.com",
        1,
        ip("20.190.131.1"),
    );
    let mut dns = DnsServer::start(&lab.internet, RESOLVER, &zone).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let client = &lab.client;
    let parent = Workdir::new("policies").unwrap();
    let text = POLICY.replace("login.example.com", "other.example.com");
    let other = directory(&parent, "o", &[("gateway.toml", GATEWAY), ("policy.d/a.toml", &text)]);

    ask(&gateway, &words("apply DIR --yes --confirm-within 12s", &other));
    let begin = Instant::now();
    check_tcp(client, "20.190.131.1:443", Outcome::Answered);
    check_tcp(client, "20.190.130.1:443", Outcome::Silence);
    // Both names move meanwhile, and both are followed.
    let moved = Zone::new().address("login.example.com", 1, ip("20.190.130.2")).address(
        "other.example.com",
        1,
        ip("20.190.131.2"),
    );
    dns.restart(&lab.internet, &moved).unwrap();
    wait_until("the new address is in force", Duration::from_secs(5), || {
        Ok(ask(&gateway, &["names", "other.example.com"]).to_string().contains("20.190.131.2"))
    })
    .unwrap();
    check_tcp(client, "20.190.131.2:443", Outcome::Answered);
    wait_until("the other name is followed, too", Duration::from_secs(5), || {
        let names = ask(&gateway, &["names", "login.example.com"]).to_string();
        Ok(names.contains("20.190.130.2") && !names.contains("20.190.130.1\""))
    })
    .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(12), "the machine is too slow for this test");
    let left = Duration::from_millis(12_200).saturating_sub(begin.elapsed());
    thread::sleep(left);
    check_tcp(client, "20.190.131.2:443", Outcome::Silence);
    // The policy before knows where its name is by now.
    check_tcp(client, "20.190.130.2:443", Outcome::Answered);
    check_tcp(client, "20.190.130.1:443", Outcome::Silence);
    refused(&gateway.command(&["confirm"]).unwrap(), "no policy waits");
    assert!(gateway.log().contains("nobody confirmed the policy in time"), "{}", gateway.log());
}

#[test]
fn a_lock_out_ends_without_a_daemon() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let _service = Listeners::start(&lab.gateway, [22], []).unwrap();
    let managed = "[[rule]]\nname = \"ssh\"\nto = [\"self\"]\ntcp = [22]\n";
    let mut gateway = Gateway::new(&lab, &configuration().policy("ssh", managed)).unwrap();
    gateway.start().unwrap();
    let client = &lab.client;
    let parent = Workdir::new("policies").unwrap();
    let without =
        directory(&parent, "o", &[("gateway.toml", GATEWAY), ("policy.d/a.toml", POLICY)]);
    let ssh = "10.20.0.1:22";
    check_tcp(client, ssh, Outcome::Answered);

    let session = [("SSH_CONNECTION", "10.20.0.2 50000 10.20.0.1 22")];
    let careful = words("apply DIR --yes", &without);
    refused(&gateway.command_with(&careful, &session).unwrap(), "would cut the session");
    check_tcp(client, ssh, Outcome::Answered);

    let apply = words("apply DIR --yes --confirm-within 10s", &without);
    let applied = gateway.command_with(&apply, &session).unwrap();
    let begin = Instant::now();
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    gateway.kill();
    let mut closed = 0;
    while begin.elapsed() < Duration::from_secs(9) {
        check_tcp(client, ssh, Outcome::Silence);
        check_tcp(client, OPEN, Outcome::Answered);
        closed += 1;
    }
    assert!(closed > 3, "looked only {closed} times");
    thread::sleep(Duration::from_millis(10_300).saturating_sub(begin.elapsed()));
    check_tcp(client, ssh, Outcome::Answered);
    check_tcp(client, OPEN, Outcome::Answered);
    check_tcp(client, CLOSED, Outcome::Silence);
    // The next daemon goes on with the policy that counts.
    gateway.start().unwrap();
    check_tcp(client, ssh, Outcome::Answered);
    refused(&gateway.command(&["confirm"]).unwrap(), "no policy waits");

    // A daemon that starts within the time takes the policy back, as nobody is there who could be asked.
    let applied = gateway.command_with(&apply, &session).unwrap();
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    gateway.kill();
    gateway.start().unwrap();
    check_tcp(client, ssh, Outcome::Answered);
    assert!(gateway.log().contains("waited to be confirmed"), "{}", gateway.log());
}

/// Whatever becomes of a state file, the daemon starts, says so, and allows nothing that it can't be sure
/// of; the rest is as before.
#[test]
fn broken_state_files_deny_and_are_told() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    ask(&gateway, &["allow", "52.96.10.7", "--tcp", "443"]);
    gateway.stop().unwrap();
    let state = gateway.state();
    let files = ["allows.json", "counters.json", "names.json", "usage.json", "current.json"];
    for file in files {
        let path = state.join(file);
        let whole = fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let flipped = {
            let mut bytes = whole.clone();
            let middle = bytes.len() * 2 / 3;
            bytes[middle] ^= 1;
            bytes
        };
        let newer =
            String::from_utf8(whole.clone()).unwrap().replacen(" 1 ", " 9 ", 1).into_bytes();
        for (how, bad) in
            [("cut", whole[..whole.len() / 2].to_vec()), ("flipped", flipped), ("newer", newer)]
        {
            fs::write(&path, &bad).unwrap();
            let before = gateway.log().len();
            gateway.start().unwrap();
            let log = gateway.log()[before..].to_owned();
            assert!(log.contains(file), "{file} {how}: nothing is said of it:\n{log}");
            check_tcp(&lab.client, OPEN, Outcome::Answered);
            let beside = if file == "allows.json" { Outcome::Silence } else { Outcome::Answered };
            check_tcp(&lab.client, CLOSED, beside);
            check_tcp(&lab.client, "52.96.10.8:443", Outcome::Silence);
            gateway.kill();
            fs::write(&path, &whole).unwrap();
        }
        gateway.start().unwrap();
        check_tcp(&lab.client, CLOSED, Outcome::Answered);
        gateway.stop().unwrap();
    }
}
