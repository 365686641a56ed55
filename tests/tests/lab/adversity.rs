// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine that doesn't play along: the last good policy stays in force, and somebody says what is
//! wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sluice_lab::{
    dns_server::DnsServer,
    gateway::{Configuration, Gateway},
    generator::Stream,
    listener::Listeners,
    probe::{self, Outcome},
    process::{run, wait_until},
    topology::{Clients, RESOLVER, Topology},
};

use crate::support::{GATEWAY, OPEN_UDP, POLICY, address, ask, check_tcp, configuration, zone};

const OPEN: &str = "104.46.162.96:443";
const CLOSED: &str = "52.96.10.7:443";

/// Another policy, which opens what was closed.
fn wider() -> Configuration {
    let rule = "[[rule]]\nname = \"wider\"\nto = [\"52.96.10.0/24\"]\ntcp = [443]\n";
    configuration().policy("wider", rule)
}

#[track_caller]
fn check_unchanged(lab: &Topology) {
    check_tcp(&lab.client, OPEN, Outcome::Answered);
    check_tcp(&lab.client, CLOSED, Outcome::Silence);
}

#[test]
fn a_full_disk_keeps_the_policy_and_is_told() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    let state = gateway.state();
    let mount = format!("mount -t tmpfs -o size=256k none {}", state.display());
    gateway.launch_after(&mount).unwrap();
    gateway.wait_until_ready().unwrap();
    // The file system is the daemon's own: it is filled by way of its root.
    let root = PathBuf::from(format!("/proc/{}/root", gateway.daemon_id().unwrap()));
    let filler = root.join(state.strip_prefix("/").unwrap()).join("filler");
    let full = fs::write(&filler, vec![0; 1 << 20]);
    assert!(full.is_err(), "the file system is not full");

    let refused = gateway.command(&["allow", "52.96.10.7", "--tcp", "443"]).unwrap();
    assert!(refused.stderr.contains("allows.json can't be written"), "{}", refused.stderr);
    check_unchanged(&lab);
    gateway.configure(&wider()).unwrap();
    let refused = gateway.command(&["reload"]).unwrap();
    assert!(refused.stderr.contains("counters.json can't be written"), "{}", refused.stderr);
    assert!(refused.stderr.contains("No space left"), "{}", refused.stderr);
    check_unchanged(&lab);
    let status = ask(&gateway, &["status"]);
    assert!(status["config_error"].to_string().contains("No space left"), "{status}");

    fs::remove_file(&filler).unwrap();
    ask(&gateway, &["reload"]);
    check_tcp(&lab.client, CLOSED, Outcome::Answered);
}

#[test]
fn a_state_directory_that_can_only_be_read_is_told() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    gateway.stop().unwrap();
    gateway.configure(&wider()).unwrap();
    let state = gateway.state();
    let state = state.display();
    let before = gateway.log().len();
    gateway
        .launch_after(&format!("mount --bind {state} {state}; mount -o remount,ro,bind {state}"))
        .unwrap();
    assert_eq!(gateway.wait_for_end(Duration::from_secs(30)).unwrap(), Some(1));
    let log = gateway.log()[before..].to_owned();
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    check_unchanged(&lab);
    gateway.start().unwrap();
    check_tcp(&lab.client, CLOSED, Outcome::Answered);
}

#[test]
fn without_a_bpffs_nothing_is_begun() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    gateway.kill();
    let before = gateway.log().len();
    gateway.launch_after("umount /sys/fs/bpf").unwrap();
    assert_eq!(gateway.wait_for_end(Duration::from_secs(30)).unwrap(), Some(1));
    let log = gateway.log()[before..].to_owned();
    assert!(log.contains("is not in a bpffs") && log.contains("mount -t bpf"), "{log}");
    check_unchanged(&lab);
}

/// Times are kept by clocks that nobody sets.
#[test]
fn a_clock_that_jumps_by_a_day_changes_no_term() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    ask(&gateway, &["allow", "52.96.10.7", "--tcp", "443", "--for", "1h"]);
    for (jump, told) in [("+1d", None), ("-1d", Some("newer than the clock"))] {
        gateway.stop().unwrap();
        let before = gateway.log().len();
        // What libfaketime shifts is the wall clock of this process alone.
        let library = faketime();
        gateway
            .launch_after(&format!(
                "export LD_PRELOAD={} FAKETIME={jump} FAKETIME_DONT_FAKE_MONOTONIC=1",
                library.display()
            ))
            .unwrap();
        gateway.wait_until_ready().unwrap();
        let log = gateway.log()[before..].to_owned();
        check_tcp(&lab.client, CLOSED, Outcome::Answered);
        check_tcp(&lab.client, OPEN, Outcome::Answered);
        check_tcp(&lab.client, "20.190.130.1:443", Outcome::Answered);
        let left = ask(&gateway, &["allow", "--list"])[0]["left_s"].as_u64().unwrap();
        assert!((3300..=3600).contains(&left), "{jump}: {left} s are left");
        if let Some(told) = told {
            assert!(log.contains(told), "{jump}:\n{log}");
        }
    }
    gateway.stop().unwrap();
}

/// The library of Debian's package `libfaketime`, which `cargo xtask setup` installs.
fn faketime() -> PathBuf {
    let folder = PathBuf::from(format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH));
    let library = folder.join("libfaketime.so.1");
    assert!(library.is_file(), "{} is not there: run `cargo xtask setup`", library.display());
    library
}

#[test]
fn a_policy_beyond_the_memory_limit_is_refused_with_the_numbers() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [80, 443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    gateway.start().unwrap();
    let [allowed, denied] = OPEN_UDP.map(address);
    probe::udp(&lab.client, allowed, 4).unwrap();
    let group = Group::new(&lab.unique, gateway.daemon_id().unwrap(), 48 << 20);
    let mut prefixes = String::from("[[rule]]\nname = \"many\"\ntcp = [443]\nto = [\n");
    for number in 0..400_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        prefixes.push_str(&format!("\"5{}.{}.{b}.{c}\",\n", a % 10, a / 10));
    }
    prefixes.push_str("]\n");
    let stream = Stream::start(&lab.client, &lab.internet, [allowed, denied], 1000).unwrap();
    gateway.configure(&configuration().policy("many", prefixes)).unwrap();
    let refused = gateway.command(&["reload"]).unwrap();
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("MiB") && refused.stderr.contains("memory limit"),
        "{}",
        refused.stderr
    );
    gateway.check_runs().unwrap();
    let report = stream.finish().unwrap();
    assert_eq!(report.denied.received, 0, "{report}");
    assert_eq!(report.allowed.missing, Vec::<u32>::new(), "{report}");
    check_unchanged(&lab);
    drop(group);
    gateway.configure(&Configuration::new(GATEWAY).policy("test", POLICY)).unwrap();
    ask(&gateway, &["reload"]);
    wait_until("all is well", Duration::from_secs(5), || {
        Ok(ask(&gateway, &["status"])["config_error"].is_null())
    })
    .unwrap();
}

/// A control group with a limit of memory beside the test's own; whoever is in it goes back when this is
/// dropped.
struct Group {
    path: PathBuf,
    parent: PathBuf,
    process: u32,
}

impl Group {
    /// Puts a process into a group that may take so many bytes more.
    fn new(name: &str, process: u32, more: u64) -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let first = groups.lines().find_map(|line| {
            let path = line.split_once(":memory:")?.1;
            Some((Path::new("/sys/fs/cgroup/memory").join(&path[1..]), "memory.limit_in_bytes"))
        });
        let second = || {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
            Some((Path::new("/sys/fs/cgroup").join(path), "memory.max"))
        };
        let (parent, limit) = first.or_else(second).expect("no control groups with memory");
        let path = parent.join(format!("sluice-lab-{name}"));
        fs::create_dir(&path).unwrap();
        let group = Self { path, parent, process };
        let own = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let own = own.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        let own: u64 = own.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
        fs::write(group.path.join(limit), (own * 1024 + more).to_string()).unwrap();
        fs::write(group.path.join("cgroup.procs"), process.to_string()).unwrap();
        group
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A destructor has nobody to report to; a process that has gone needs no way back.
        let _ = fs::write(self.parent.join("cgroup.procs"), self.process.to_string());
        let _ = run(Command::new("rmdir").arg(&self.path));
    }
}
