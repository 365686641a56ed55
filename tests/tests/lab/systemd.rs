// SPDX-License-Identifier: MIT OR Apache-2.0
//! The units under a real systemd: what is denied stays denied from the boot on, whatever becomes of
//! the daemon.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::net::UnixDatagram,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use sluice_lab::{
    gateway::{Configuration, Gateway},
    generator::Stream,
    listener::{Listeners, Transport},
    netns::Namespace,
    probe::{self, Outcome},
    process::{Process, run, wait_until},
    systemd::{Enabled, Machine, Setup, missing},
    topology::{Clients, Topology},
    workdir::Workdir,
};

use crate::support::{address, check_tcp};

const SERVICE: &str = "sluice.service";
const LOCKDOWN: &str = "sluice-lockdown.service";

/// How long a start may take: a debug build, on a machine that does other things, too.
const START: Duration = Duration::from_secs(60);

/// Packets a second to each of two destinations.
const RATE: u32 = 500;

const GATEWAY: &str = r#"[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"

[dns]
upstream = ["9.9.9.10"]
listen   = ["10.20.0.1"]
intercept = true

[management]
interface = ["lan0"]
from = ["10.20.0.0/28"]
tcp  = [22]
"#;

const POLICY: &str = r#"[[rule]]
name = "stream"
to   = ["20.190.140.0/24"]
udp  = [5000]
tcp  = [443]
"#;

/// A place that the policy opens at port 5000 alone.
const HOST: Ipv4Addr = Ipv4Addr::new(20, 190, 140, 1);

/// What configures the network in the middle of the boot.
const NETWORK: &str = "[Unit]
DefaultDependencies=no
After=network-pre.target sysinit.target
Wants=network-pre.target
Before=sluice.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/ip link set lan0 up
ExecStart=/bin/ip addr add 10.20.0.1/24 dev lan0
ExecStart=/bin/ip link set wan0 up
ExecStart=/bin/ip addr add 192.0.2.1/24 dev wan0
ExecStart=/bin/ip route add default via 192.0.2.2
";

fn configuration() -> Configuration {
    Configuration::new(GATEWAY).policy("stream", POLICY)
}

/// Whether a systemd can be booted; it says why not.
fn can_boot() -> bool {
    match missing().unwrap() {
        None => true,
        Some(why) => {
            println!("skipped: systemd: {why}");
            false
        }
    }
}

fn state(machine: &Machine) -> String {
    machine.property(SERVICE, "ActiveState").unwrap()
}

/// Waits until the daemon has been started anew so many times by systemd itself, and is ready.
fn wait_for_restart(machine: &Machine, times: u32) {
    machine.wait_for(SERVICE, "NRestarts", &times.to_string(), START).unwrap();
    machine.wait_for(SERVICE, "ActiveState", "active", START).unwrap();
}

fn signal(machine: &Machine, signal: &str) {
    let answer = machine.run("systemctl", &["kill", "--kill-who=main", "-s", signal, SERVICE]);
    answer.unwrap().success().unwrap();
}

/// The fields of the journal's entries of the service.
fn entries(machine: &Machine) -> Vec<Value> {
    let answer = machine.run("journalctl", &["--no-pager", "-o", "json", "-u", SERVICE]).unwrap();
    let text = answer.success().unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sends datagrams from the client until told to stop; nobody may get one.
fn knock(client: &Namespace, to: &[SocketAddr], stop: &AtomicBool, sent: &AtomicU64) {
    client
        .enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for to in to {
                    // The way there may be missing for a while.
                    if socket.send_to(b"knock", to).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::sleep(Duration::from_millis(2));
            }
        })
        .unwrap();
}

#[test]
fn the_service_is_ready_reloads_and_comes_back_whatever_happens() {
    if !can_boot() {
        return;
    }
    let lab = Topology::new(Clients::One).unwrap();
    let setup = Setup::new(&configuration(), Enabled::Service).setting("WatchdogSec=4s");
    let machine = setup.boot(&lab.gateway).unwrap();
    machine.wait_for(SERVICE, "ActiveState", "active", START).unwrap();
    let status = machine.property(SERVICE, "StatusText").unwrap();
    assert_eq!(status, "policy 1 is in force: 1 rules", "{}", machine.journal());

    // Its shape: no complaint of systemd's, little exposure, few privileges.
    for arguments in [
        &["verify", "--man=no", SERVICE, LOCKDOWN][..],
        &["security", "--no-pager", "--threshold=30", SERVICE],
        &[
            "security",
            "--no-pager",
            "--offline=yes",
            "--threshold=30",
            "/usr/lib/systemd/system/sluice-lockdown.service",
        ],
    ] {
        let answer = machine.run("systemd-analyze", arguments).unwrap();
        assert_eq!(answer.code, Some(0), "{arguments:?}: {answer:?}");
        assert!(arguments[0] != "verify" || answer.stderr.is_empty(), "{answer:?}");
    }
    let pid = machine.property(SERVICE, "MainPID").unwrap();
    let of_process = fs::read_to_string(machine.path(&format!("/proc/{pid}/status"))).unwrap();
    // CAP_NET_BIND_SERVICE 10, CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39.
    for (field, value) in [
        ("CapPrm", "000000c000001400"),
        ("CapEff", "000000c000001400"),
        ("CapBnd", "000000c000001400"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let line = format!("{field}:\t{value}");
        assert!(of_process.lines().any(|other| other == line), "no {line:?} in {of_process}");
    }

    // Nobody listens yet; the neighbours are known from here on.
    probe::udp(&lab.client, SocketAddr::from((HOST, 5000)), 4).unwrap();
    let [allowed, denied] = [5000, 5001].map(|port| SocketAddr::from((HOST, port)));
    let stream = Stream::start(&lab.client, &lab.internet, [allowed, denied], RATE).unwrap();

    // Reload: by the unit, which waits for it, and by a signal. A broken file changes nothing.
    machine.run("systemctl", &["reload", SERVICE]).unwrap().success().unwrap();
    let text = |generation: u32| format!("policy {generation} is in force: 1 rules");
    machine.wait_for(SERVICE, "StatusText", &text(2), START).unwrap();
    signal(&machine, "SIGHUP");
    machine.wait_for(SERVICE, "StatusText", &text(3), START).unwrap();
    machine.wait_for(SERVICE, "ActiveState", "active", START).unwrap();
    let rules = machine.path("/etc/sluice/policy.d/stream.toml");
    fs::write(&rules, format!("{POLICY}tcp = \"https\"\n")).unwrap();
    let refused = machine.run("systemctl", &["reload", SERVICE]).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let status = machine.property(SERVICE, "StatusText").unwrap();
    assert!(status.starts_with(&text(3)), "{status}");
    assert!(status.contains("problem: ") && status.contains("policy.d/stream.toml:6"), "{status}");
    assert_eq!(state(&machine), "active");
    fs::write(&rules, POLICY).unwrap();

    // Killed, it comes back; stuck, systemd kills it and it comes back; ended by somebody, too.
    signal(&machine, "SIGKILL");
    wait_for_restart(&machine, 1);
    signal(&machine, "SIGSTOP");
    wait_for_restart(&machine, 2);
    let journal = machine.journal();
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    signal(&machine, "SIGTERM");
    wait_for_restart(&machine, 3);
    // It lives longer than the watchdog waits: its signs of life arrive.
    thread::sleep(Duration::from_secs(6));
    assert_eq!(machine.property(SERVICE, "NRestarts").unwrap(), "3", "{}", machine.journal());
    assert_eq!(state(&machine), "active");

    machine.run("systemctl", &["stop", SERVICE]).unwrap().success().unwrap();
    assert_eq!(state(&machine), "inactive");
    assert_eq!(machine.property(SERVICE, "Result").unwrap(), "success");
    thread::sleep(Duration::from_millis(500));
    machine.run("systemctl", &["start", SERVICE]).unwrap().success().unwrap();
    let report = stream.finish().unwrap();
    println!("systemd: reload, SIGHUP, SIGKILL, watchdog, SIGTERM, stop, start: {report}");
    assert_eq!(report.denied.received, 0, "wrongly passed: {report}");
    assert_eq!(report.allowed.missing, Vec::<u32>::new(), "wrongly dropped: {report}");

    // What was put on a NIC was found there again, with the few capabilities that are left.
    let journal = machine.journal();
    assert!(!journal.contains("the filter was gone"), "{journal}");

    // The journal has the fields, and the text for people.
    let entries = entries(&machine);
    let attached = entries.iter().find(|entry| entry["SLUICE_NIC"] == "lan0");
    let attached = attached.unwrap_or_else(|| panic!("no entry about lan0: {entries:?}"));
    assert_eq!(attached["SYSLOG_IDENTIFIER"], "sluice", "{attached}");
    let text = attached["MESSAGE"].as_str().unwrap();
    assert!(text.contains("nic=lan0"), "{attached}");
    let ready = entries.iter().filter(|entry| !entry["SLUICE_GENERATION"].is_null());
    assert!(ready.count() >= 4, "{entries:?}");
}

/// What a service manager hears, also where none can be booted.
#[test]
fn the_service_manager_hears_what_happens_when_it_does() {
    let lab = Topology::new(Clients::One).unwrap();
    let configuration = Configuration::new(crate::support::GATEWAY).policy("stream", POLICY);
    let gateway = Gateway::new(&lab, &configuration).unwrap();
    let folder = Workdir::new("notify").unwrap();
    let path = folder.path().join("socket");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(START)).unwrap();
    let mut command = gateway.daemon_command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let mut daemon = Process::spawn(&mut command).unwrap();
    // The next message of which this is a line, and how many others came before it.
    let hear = |line: &str| {
        let mut datagram = [0; 4096];
        for others in 0.. {
            let length = manager.recv(&mut datagram).unwrap_or_else(|_| panic!("no {line}"));
            let text = std::str::from_utf8(&datagram[..length]).unwrap();
            if text.lines().any(|other| other == line) {
                return (text.to_owned(), others);
            }
        }
        unreachable!()
    };
    // The programs of two NICs take a while, and that is told before it is ready.
    let (_, before) = hear("EXTEND_TIMEOUT_USEC=60000000");
    assert_eq!(before, 0);
    hear("READY=1");
    hear("STATUS=policy 1 is in force: 1 rules");

    let began = Instant::now();
    for _ in 0..4 {
        hear("WATCHDOG=1");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1000), "four signs of life within {took:?}");
    assert!(took < Duration::from_secs(4), "four signs of life took {took:?}");

    daemon.signal(Signal::SIGHUP).unwrap();
    let (text, _) = hear("RELOADING=1");
    let clock = text.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(clock.parse::<u64>().unwrap() > 0, "{text}");
    hear("READY=1");
    hear("STATUS=policy 2 is in force: 1 rules");

    // A daemon that is stuck gives no sign.
    daemon.signal(Signal::SIGSTOP).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while manager.recv(&mut [0; 4096]).is_ok() {}
    manager.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(manager.recv(&mut [0; 4096]).is_err(), "a sign of life of a stopped process");
    daemon.signal(Signal::SIGCONT).unwrap();
    manager.set_read_timeout(Some(START)).unwrap();
    hear("WATCHDOG=1");

    let ended = daemon.stop(START).unwrap();
    assert!(ended.success(), "{ended}");
    hear("STOPPING=1");
}

#[test]
fn from_the_boot_on_nothing_passes_until_the_policy_is_in_force() {
    if !can_boot() {
        return;
    }
    let lab = Topology::new(Clients::One).unwrap();
    let targets = [5000, 5001].map(|port| SocketAddr::from((HOST, port)));
    let listeners = Listeners::start(&lab.internet, [443], targets).unwrap();
    let _service = Listeners::start(&lab.gateway, [22, 80], []).unwrap();
    without_network(&lab.gateway);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let reached = |port| listeners.reached(Transport::Udp, SocketAddr::from((HOST, port)));
    thread::scope(|scope| {
        let knocker = scope.spawn(|| knock(&lab.client, &targets, &stop, &sent));
        // A file of rules is broken at the boot, so that the lock-down is all there is.
        let broken = Configuration::new(GATEWAY).policy("stream", POLICY.replace("443", "x"));
        let setup = Setup::new(&broken, Enabled::LockdownToo).unit("network.service", NETWORK);
        let machine = setup.boot(&lab.gateway).unwrap();
        machine.wait_for(LOCKDOWN, "ActiveState", "active", START).unwrap();
        wait_until("the daemon has failed twice", START, || {
            Ok(machine.property(SERVICE, "NRestarts")?.parse().unwrap_or(0) >= 2)
        })
        .unwrap();
        machine.wait_for("network.service", "ActiveState", "active", START).unwrap();
        // Only port 22 of the gateway, from the administrators' prefix, at an address that it got
        // after the lock-down.
        wait_until("the guard follows the address", START, || {
            Ok(probe::tcp(&lab.client, address("10.20.0.1:22"))? == Outcome::Answered)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", machine.journal()));
        check_tcp(&lab.client, "10.20.0.1:80", Outcome::Silence);
        check_tcp(&lab.client, "20.190.140.1:443", Outcome::Silence);
        let before = sent.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(300));
        assert!(sent.load(Ordering::Relaxed) > before + 20, "nothing is sent");
        assert_eq!([reached(5000), reached(5001)], [0, 0], "{}", machine.journal());
        let journal = machine.journal();
        assert!(journal.contains("everything stays denied but the management guard"), "{journal}");
        assert!(journal.contains("policy.d/stream.toml:5"), "{journal}");

        fs::write(machine.path("/etc/sluice/policy.d/stream.toml"), POLICY).unwrap();
        machine.wait_for(SERVICE, "ActiveState", "active", START).unwrap();
        check_tcp(&lab.client, "20.190.140.1:443", Outcome::Answered);
        check_tcp(&lab.client, "10.20.0.1:22", Outcome::Answered);
        // With a policy in force, a lock-down changes nothing.
        let again = machine.run("sluice", &["lockdown", "--json"]).unwrap();
        let again: Value = serde_json::from_str(&again.success().unwrap()).unwrap();
        assert_eq!(again["state"], "in-force");
        check_tcp(&lab.client, "20.190.140.1:443", Outcome::Answered);
        stop.store(true, Ordering::Relaxed);
        knocker.join().unwrap();
    });
    assert!(reached(5000) > 0);
    assert_eq!(reached(5001), 0);
}

#[test]
fn a_nic_that_comes_late_forwards_nothing_before_it_is_filtered() {
    if !can_boot() {
        return;
    }
    let lab = Topology::new(Clients::One).unwrap();
    let targets = [5000, 5001].map(|port| SocketAddr::from((HOST, port)));
    let listeners = Listeners::start(&lab.internet, [443], targets).unwrap();
    let reached = |port| listeners.reached(Transport::Udp, SocketAddr::from((HOST, port)));
    // It is up, has its address and forwards, but nobody knows it by the name that is configured.
    rename(&lab.gateway, "lan0", "late0");
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let setup = Setup::new(&configuration(), Enabled::LockdownToo);
        let machine = setup.boot(&lab.gateway).unwrap();
        machine.wait_for(LOCKDOWN, "ActiveState", "active", START).unwrap();
        let knocker = scope.spawn(|| knock(&lab.client, &targets, &stop, &sent));
        wait_until("the daemon has failed", START, || {
            Ok(machine.property(SERVICE, "NRestarts")?.parse().unwrap_or(0) >= 1)
        })
        .unwrap();
        assert!(tables(&lab.gateway).contains("inet sluice_lockdown"));
        wait_until("packets are sent", START, || Ok(sent.load(Ordering::Relaxed) > 100)).unwrap();
        assert_eq!([reached(5000), reached(5001)], [0, 0], "{}", machine.journal());

        rename(&lab.gateway, "late0", "lan0");
        machine.wait_for(SERVICE, "ActiveState", "active", START).unwrap();
        assert!(!tables(&lab.gateway).contains("inet sluice_lockdown"));
        check_tcp(&lab.client, "20.190.140.1:443", Outcome::Answered);
        stop.store(true, Ordering::Relaxed);
        knocker.join().unwrap();
        assert!(reached(5000) > 0);
        assert_eq!(reached(5001), 0);

        // With a configuration that nobody can read, nothing is forwarded either, and the unit fails.
        let detached = machine.run("systemctl", &["stop", SERVICE]).unwrap();
        detached.success().unwrap();
        machine.run("sluice", &["detach"]).unwrap().success().unwrap();
        wait_until("without a filter everything passes", START, || {
            Ok(probe::udp(&lab.client, targets[1], 4)? == Outcome::Answered)
        })
        .unwrap();
        fs::write(machine.path("/etc/sluice/gateway.toml"), "[gateway\n").unwrap();
        let answer = machine.run("systemctl", &["restart", LOCKDOWN]).unwrap();
        assert_eq!(answer.code, Some(1), "{answer:?}");
        check_tcp(&lab.client, "20.190.140.1:443", Outcome::Silence);
        let journal = machine.journal();
        assert!(journal.contains("nothing is forwarded until a policy is in force"), "{journal}");
        assert!(journal.contains("gateway.toml:1"), "{journal}");
    });
}

#[test]
fn nothing_is_left_of_a_machine() {
    if !can_boot() {
        return;
    }
    let lab = Topology::new(Clients::One).unwrap();
    let machine = Setup::new(&configuration(), Enabled::Service).boot(&lab.gateway).unwrap();
    machine.wait_for(SERVICE, "ActiveState", "active", START).unwrap();
    let cgroup = machine.cgroup().to_owned();
    assert!(cgroup.exists());
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let before = mounts();
    drop(machine);
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
    assert_eq!(mounts(), before);
    crate::support::check_off(&lab.gateway, "lan0");
}

/// The gateway as it is before anything was configured, with NICs that are down.
fn without_network(gateway: &Namespace) {
    for nic in ["lan0", "wan0"] {
        run(gateway.command("ip").args(["addr", "flush", "dev", nic])).unwrap();
        run(gateway.command("ip").args(["link", "set", nic, "down"])).unwrap();
    }
}

/// Renames a NIC, which it has to be down for; its IPv4 addresses stay.
fn rename(gateway: &Namespace, from: &str, to: &str) {
    run(gateway.command("ip").args(["link", "set", from, "down"])).unwrap();
    run(gateway.command("ip").args(["link", "set", from, "name", to])).unwrap();
    run(gateway.command("ip").args(["link", "set", to, "up"])).unwrap();
}

fn tables(gateway: &Namespace) -> String {
    run(gateway.command("nft").args(["list", "tables"])).unwrap()
}
