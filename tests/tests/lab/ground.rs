// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab itself, without a filter: what the other tests stand on.

use std::{
    collections::BTreeSet,
    env, fs,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use sluice_lab::{
    dns_server::{DnsServer, Zone},
    generator::Stream,
    listener::{Listeners, Transport},
    probe::{self, Outcome},
    process::{Process, wait_until},
    topology::{Clients, RESOLVER, Topology},
    workdir::PinDir,
};

/// Set for the child of [`an_interrupted_lab_removes_everything`].
const CHILD: &str = "SLUICE_LAB_INTERRUPTED";

#[test]
fn clients_reach_every_address_there_is() {
    let lab = Topology::new(Clients::Two).unwrap();
    let udp = ["20.190.1.1:123", "[2603:1006::1]:123"].map(address);
    let listeners = Listeners::start(&lab.internet, [443, 8443], udp).unwrap();
    let second = lab.second_client.as_ref().unwrap();
    for client in [&lab.client, second] {
        for to in ["20.190.1.1:443", "203.0.113.9:8443", "[2620:1ec:40::7]:443"] {
            assert_eq!(probe::tcp(client, address(to)).unwrap(), Outcome::Answered, "{to}");
        }
        for to in udp {
            assert_eq!(probe::udp(client, to, 48).unwrap(), Outcome::Answered, "{to}");
            assert_eq!(
                probe::udp(client, to, 4000).unwrap(),
                Outcome::Answered,
                "{to}, in fragments"
            );
        }
        for to in ["198.51.100.200", "2620:1ec:40::7"] {
            let to: IpAddr = to.parse().unwrap();
            assert_eq!(probe::echo(client, to).unwrap(), Outcome::Answered, "{to}");
        }
        assert_eq!(probe::tcp(client, address("20.190.1.1:80")).unwrap(), Outcome::Refused);
    }
    assert_eq!(listeners.reached(Transport::Tcp, address("20.190.1.1:443")), 2);
    assert_eq!(listeners.reached(Transport::Udp, udp[1]), 4);
}

#[test]
fn the_dns_server_answers_what_it_was_given() {
    let lab = Topology::new(Clients::One).unwrap();
    let v4: IpAddr = "20.190.1.1".parse().unwrap();
    let v6: IpAddr = "2603:1006::1".parse().unwrap();
    let zone = Zone::new()
        .address("login.example.com", 7, v4)
        .address("login.example.com", 7, v6)
        .alias("www.example.com", 9, "login.example.com");
    let mut server = DnsServer::start(&lab.internet, RESOLVER, &zone).unwrap();
    let resolve = |name| probe::resolve(&lab.client, RESOLVER, name);
    assert_eq!(resolve("login.example.com").unwrap(), [(v4, 7), (v6, 7)]);
    assert_eq!(resolve("www.example.com").unwrap(), [(v4, 7), (v6, 7)]);
    assert_eq!(resolve("example.com").unwrap(), [], "it exists, and has no address");
    let error = resolve("other.example.com").unwrap_err().to_string();
    assert_eq!(error, "9.9.9.10 says NameError for other.example.com");

    let moved: IpAddr = "20.190.1.2".parse().unwrap();
    server.restart(&lab.internet, &Zone::new().address("login.example.com", 1, moved)).unwrap();
    assert_eq!(resolve("login.example.com").unwrap(), [(moved, 1)]);
    server.stop();
    let error = resolve("login.example.com").unwrap_err().to_string();
    assert_eq!(error, "no answer from 9.9.9.10 for login.example.com");
}

#[test]
fn the_generator_accounts_for_every_packet() {
    let lab = Topology::new(Clients::One).unwrap();
    let to = ["20.190.1.1:5000", "20.190.1.2:5000"].map(address);
    let stream = Stream::start(&lab.client, &lab.internet, to, 2000).unwrap();
    thread::sleep(Duration::from_millis(1000));
    let report = stream.finish().unwrap();
    for tally in [&report.allowed, &report.denied] {
        assert_eq!((tally.received, tally.duplicates), (tally.sent, 0), "{report}");
        assert!(tally.sent > 1500, "{report}");
    }
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut unique = String::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Topology::new(Clients::Two).unwrap();
        unique.clone_from(&lab.unique);
        let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
        let _server = DnsServer::start(&lab.internet, RESOLVER, &Zone::new()).unwrap();
        assert_eq!(namespaces(&unique).len(), 4);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(namespaces(&unique), BTreeSet::new());
}

/// The test starts its own program as a child that holds a whole lab, and sends it SIGINT, as
/// Ctrl-C does.
#[test]
fn an_interrupted_lab_removes_everything() {
    if let Some(report) = env::var_os(CHILD) {
        hold_a_lab(Path::new(&report));
    }
    let directory = sluice_lab::workdir::Workdir::new("interrupted").unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let report = directory.path().join(signal.as_str());
        let mut child = Process::spawn(
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "ground::an_interrupted_lab_removes_everything"])
                .env(CHILD, &report)
                .stdout(Stdio::null()),
        )
        .unwrap();
        wait_until("the child holds a lab", Duration::from_secs(10), || Ok(report.exists()))
            .unwrap();
        let report = fs::read_to_string(&report).unwrap();
        let mut lines = report.lines();
        let mut next = || lines.next().unwrap().to_owned();
        let (unique, sleeper, pins) = (next(), next(), next());
        assert_eq!(namespaces(&unique).len(), 3);
        assert!(Path::new(&pins).exists());
        assert!(is_alive(&sleeper));

        child.signal(signal).unwrap();
        let status = child.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(130), "{status}");
        assert_eq!(namespaces(&unique), BTreeSet::new());
        assert!(!Path::new(&pins).exists());
        assert!(!is_alive(&sleeper));
    }
}

fn hold_a_lab(report: &Path) -> ! {
    let lab = Topology::new(Clients::One).unwrap();
    let sleeper = Process::spawn(lab.gateway.command("sleep").arg("60")).unwrap();
    let pins = PinDir::new(&lab.unique).unwrap();
    fs::create_dir(pins.path()).unwrap();
    let draft = report.with_extension("draft");
    fs::write(&draft, format!("{}\n{}\n{}\n", lab.unique, sleeper.id(), pins.path().display()))
        .unwrap();
    fs::rename(draft, report).unwrap();
    thread::sleep(Duration::from_secs(60));
    panic!("nobody interrupted the lab");
}

/// The namespaces of a lab that are there.
fn namespaces(unique: &str) -> BTreeSet<String> {
    fs::read_dir("/run/netns")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&format!("sluice-{unique}-")))
        .collect()
}

fn is_alive(pid: &str) -> bool {
    nix::sys::signal::kill(Pid::from_raw(pid.parse().unwrap()), None).is_ok()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
