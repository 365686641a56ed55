// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a daemon that can't do its work says, and that it leaves nothing half-done.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use sluice_lab::{
    dns_server::DnsServer,
    gap::next_layout,
    gateway::{Answer, Configuration, Gateway, answer},
    listener::Listeners,
    netns::Namespace,
    probe::Outcome,
    process::run,
    topology::{Clients, RESOLVER, Topology},
};

use crate::support::{
    GATEWAY, POLICY, check_off, check_tcp, configuration, has_program, program, zone,
};

/// The usual policy with no NICs but these inside ones, as TOML.
fn inside_only(nics: &str) -> Configuration {
    let gateway =
        GATEWAY.replace(r#"["lan0"]"#, nics).replace(r#"outside = ["wan0"]"#, "outside = []");
    Configuration::new(gateway).policy("test", POLICY)
}

/// Puts another program on a NIC. Any will do; this one comes from a gateway's that is on `by` for a moment.
fn occupy(lab: &Topology, nic: &str, by: &str) {
    let mut donor = Gateway::new(lab, &inside_only(&format!("[{by:?}]"))).unwrap();
    donor.start().unwrap();
    let attached = donor.pins().pins().into_iter().any(|pin| attach(&lab.gateway, nic, &pin));
    assert!(attached, "no program among {:?}", donor.pins().pins());
    donor.stop().unwrap();
    donor.detach().unwrap();
}

/// A refusal comes at once; this bounds a test in which none comes.
const REFUSAL: Duration = Duration::from_secs(10);

#[test]
fn a_second_daemon_on_the_same_nic_is_refused() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let mut first = Gateway::new(&lab, &configuration()).unwrap();
    first.start().unwrap();
    let pins = first.pins().pins();

    // The same directories.
    let refused = refuse(bounded(&lab.gateway, &first));
    assert!(refused.contains("runs already") || refused.contains("running"), "{refused}");
    // Its own directories, the same NIC.
    let second = Gateway::new(&lab, &configuration()).unwrap();
    let refused = refuse(bounded(&lab.gateway, &second));
    assert!(refused.contains("lan0"), "{refused}");
    assert!(second.pins().pins().is_empty());

    assert_eq!(first.pins().pins(), pins);
    assert!(first.command(&["status"]).unwrap().success().is_ok());
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    check_tcp(&lab.client, "198.51.100.7:443", Outcome::Silence);
}

#[test]
fn a_nic_with_another_program_is_refused_and_no_other_nic_is_touched() {
    let lab = Topology::new(Clients::Two).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    occupy(&lab, "wan0", "lan1");
    let gateway = Gateway::new(&lab, &inside_only(r#"["lan0", "wan0"]"#)).unwrap();
    let refused = refuse(bounded(&lab.gateway, &gateway));
    assert!(refused.contains("wan0") && refused.contains("XDP"), "{refused}");
    check_off(&lab.gateway, "lan0");
    assert!(has_program(&lab.gateway, "wan0"), "the other program is left alone");
    assert!(gateway.pins().pins().is_empty());
}

#[test]
fn an_upgrade_that_fails_half_way_leaves_the_older_filter_as_it_was() {
    let next = next_layout().expect("the test command builds it");
    let lab = Topology::new(Clients::Two).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    occupy(&lab, "lan1", "wan0");
    let mut gateway = Gateway::new(&lab, &inside_only(r#"["lan0"]"#)).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    gateway.kill();
    let (pins, older) = (gateway.pins().pins(), gateway.binary().to_owned());
    let before = program(&lab.gateway, "lan0");
    assert!(before.is_some());

    // On lan0 the next build's program has taken the older one's place when it is refused on lan1.
    gateway.configure(&inside_only(r#"["lan0", "lan1"]"#)).unwrap();
    gateway.use_binary(next);
    let refused = refuse(bounded(&lab.gateway, &gateway));
    assert!(refused.contains("lan1") && refused.contains("XDP"), "{refused}");
    assert_eq!(program(&lab.gateway, "lan0"), before, "the older program is back");
    assert_eq!(gateway.pins().pins(), pins);
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    check_tcp(&lab.client, "198.51.100.7:443", Outcome::Silence);

    gateway.use_binary(older);
    gateway.configure(&inside_only(r#"["lan0"]"#)).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
}

#[test]
fn a_missing_nic_is_named() {
    let lab = Topology::new(Clients::One).unwrap();
    let missing = GATEWAY.replace(r#"["lan0"]"#, r#"["lan0", "lan7"]"#);
    let gateway = Gateway::new(&lab, &Configuration::new(missing).policy("test", POLICY)).unwrap();
    let refused = refuse(bounded(&lab.gateway, &gateway));
    assert!(refused.contains("lan7"), "{refused}");
    check_off(&lab.gateway, "lan0");
    assert!(gateway.pins().pins().is_empty());
}

#[test]
fn a_bpffs_that_would_vanish_is_refused() {
    let lab = Topology::new(Clients::One).unwrap();
    let gateway = Gateway::new(&lab, &configuration()).unwrap();
    let mut command = lab.gateway.command("timeout");
    command
        .args([&REFUSAL.as_secs().to_string(), "unshare", "--mount", "sh", "-c"])
        .arg("mount -t bpf bpf /sys/fs/bpf && exec \"$0\" \"$@\"")
        .arg(gateway.binary())
        .args(gateway.daemon_arguments());
    let refused = refuse(answer(&mut command).unwrap());
    assert!(refused.contains("bpf") && refused.contains("mount"), "{refused}");
    check_off(&lab.gateway, "lan0");
}

#[test]
fn without_privileges_it_says_which_are_missing() {
    let lab = Topology::new(Clients::One).unwrap();
    let gateway = Gateway::new(&lab, &configuration()).unwrap();
    let mut command = lab.gateway.command("timeout");
    command
        .args([&REFUSAL.as_secs().to_string(), "setpriv", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(gateway.binary())
        .args(gateway.daemon_arguments());
    let refused = refuse(answer(&mut command).unwrap());
    assert!(refused.contains("CAP_") || refused.contains("root"), "{refused}");
    check_off(&lab.gateway, "lan0");
}

#[test]
fn an_unreadable_policy_is_named() {
    let lab = Topology::new(Clients::One).unwrap();
    let gateway = Gateway::new(&lab, &configuration()).unwrap();
    fs::write(gateway.configuration().join("policy.d/zz.toml"), [0xff, 0xfe, 0, 1]).unwrap();
    let refused = refuse(bounded(&lab.gateway, &gateway));
    assert!(refused.contains("policy.d/zz.toml"), "{refused}");
    check_off(&lab.gateway, "lan0");
    assert!(gateway.pins().pins().is_empty());
}

#[test]
fn a_configuration_that_others_may_write_is_refused() {
    let lab = Topology::new(Clients::One).unwrap();
    let _dns = DnsServer::start(&lab.internet, RESOLVER, &zone()).unwrap();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration()).unwrap();
    let file = gateway.configuration().join("policy.d/test.toml");
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o666);
    let refused = refuse(bounded(&lab.gateway, &gateway));
    assert!(refused.contains("test.toml may be written by everybody"), "{refused}");
    assert!(refused.contains("chmod o-w"), "{refused}");
    check_off(&lab.gateway, "lan0");
    assert!(gateway.pins().pins().is_empty());

    mode(0o644);
    gateway.start().unwrap();
    mode(0o666);
    let refused = gateway.command(&["reload"]).unwrap();
    assert!(refused.stderr.contains("may be written by everybody"), "{}", refused.stderr);
    assert!(refused.stderr.contains("stays in force"), "{}", refused.stderr);
    check_tcp(&lab.client, "104.46.162.96:443", Outcome::Answered);
    mode(0o644);
    chown(&file, Some(65_534), None).unwrap();
    let refused = gateway.command(&["reload"]).unwrap();
    assert!(refused.stderr.contains("belongs to user 65534"), "{}", refused.stderr);
}

#[test]
fn pins_of_a_newer_version_are_left_alone() {
    let lab = Topology::new(Clients::One).unwrap();
    let gateway = Gateway::new(&lab, &configuration()).unwrap();
    let newer = gateway.pins().path().join("v99/maps");
    fs::create_dir_all(&newer).unwrap();
    let refused = refuse(bounded(&lab.gateway, &gateway));
    assert!(refused.contains("a newer Sluice (layout 99"), "{refused}");
    check_off(&lab.gateway, "lan0");
    assert!(newer.is_dir());
    assert!(gateway.pins().pins().is_empty());
    fs::remove_dir(&newer).unwrap();
    fs::remove_dir(newer.parent().unwrap()).unwrap();
    // What is none of ours is none of ours.
    let other = gateway.pins().path().join("somebody");
    fs::create_dir_all(&other).unwrap();
    let refused = refuse(bounded(&lab.gateway, &gateway));
    assert!(refused.contains("none of Sluice's pins"), "{refused}");
    fs::remove_dir(&other).unwrap();
}

/// Runs a gateway's daemon, which should end by itself.
fn bounded(namespace: &Namespace, gateway: &Gateway<'_>) -> Answer {
    let mut command = namespace.command("timeout");
    command
        .arg(REFUSAL.as_secs().to_string())
        .arg(gateway.binary())
        .args(gateway.daemon_arguments());
    answer(&mut command).unwrap()
}

/// Checks that a daemon refused to start, politely, and returns what it said.
#[track_caller]
fn refuse(answer: Answer) -> String {
    assert!(matches!(answer.code, Some(1 | 2)), "{answer:?}");
    for rude in ["panicked", "RUST_BACKTRACE", "Os {", "Error {"] {
        assert!(!answer.stderr.contains(rude), "{}", answer.stderr);
    }
    assert_ne!(answer.stderr.trim(), "");
    answer.stderr
}

/// Attaches a pinned program by netlink, if it is one.
fn attach(namespace: &Namespace, nic: &str, pin: &Path) -> bool {
    let mut command: Command = namespace.command("ip");
    command.args(["link", "set", "dev", nic, "xdp", "pinned"]).arg(pin);
    run(&mut command).is_ok() && has_program(namespace, nic)
}
