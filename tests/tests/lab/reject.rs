// SPDX-License-Identifier: MIT OR Apache-2.0
//! Denied clients are told at once: what their sockets say, and what the answers are on the wire.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Deref,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use filter_common::{egress::Side, reject::Answer, wire::SlotSettings};
use filter_user::{
    compile::SlotTables,
    kernel::{Attachment, Duty, Following, pins::NicPins},
    policy::{NicName, XdpMode},
};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use serde_json::Value;
use sluice_lab::{
    answers, captures,
    frames::frame,
    gateway::{Configuration, Gateway},
    ground::Ground,
    listener::Listeners,
    netns::Namespace,
    probe::Outcome,
    process::{Process, run, wait_until},
    topology::{Clients, Topology},
    workdir::Workdir,
};

use crate::support::{address, ask, check_tcp, explain, ip};

const REJECTING: &str = "[gateway]\ninside = [\"lan0\"]\noutside = [\"wan0\"]\n";
const WEB: &str = "[[rule]]\nname = \"web\"\nto = [\"104.46.162.96/27\", \"2620:1ec:40::/48\"]\n\
                   tcp = [443]\n";
const OTHER: &str = "[[rule]]\nname = \"other\"\nto = [\"198.51.100.1\"]\ntcp = [443]\n";

/// How soon a client hears that it was denied.
const AT_ONCE: Duration = Duration::from_millis(50);
/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long tcpdump may take to begin and to end.
const TCPDUMP: Duration = Duration::from_secs(10);

/// Clients of each family, and the answers that each may get at once.
const CLIENTS: u8 = 5;
const ANSWERS: usize = 100;

/// A capture of what the client receives.
struct Capture {
    tcpdump: Process,
    file: PathBuf,
    _directory: Workdir,
}

/// Namespaces, and what lets the client hear answers.
struct Lab {
    _ears: Attachment,
    _ground: Ground,
    lab: Topology,
}

#[test]
fn clients_hear_at_once_that_they_are_denied() {
    let lab = Lab::new();
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration(WEB)).unwrap();
    gateway.start().unwrap();
    check_tcp(&lab.client, "104.46.162.100:443", Outcome::Answered);

    let mut slowest = Duration::ZERO;
    for to in [
        "198.51.100.7:443",
        "104.46.162.100:80",
        "10.20.0.1:22",
        "[2620:1ec:41::7]:443",
        "[2620:1ec:40::7]:80",
        "[fd00:20::1]:22",
    ] {
        let (error, took) = refused(&lab.client, to);
        assert_eq!(error, ErrorKind::ConnectionRefused, "{to}");
        slowest = slowest.max(took);
    }
    println!("a denied connection is refused after {} us at most", slowest.as_micros());
    assert!(slowest < AT_ONCE, "{slowest:?}");

    let mut slowest = Duration::ZERO;
    for (to, expected) in [
        ("198.51.100.7:53", ErrorKind::HostUnreachable),
        ("[2620:1ec:41::7]:53", ErrorKind::PermissionDenied),
    ] {
        let (error, took) = unreachable(&lab.client, to);
        assert_eq!(error, expected, "{to}");
        slowest = slowest.max(took);
    }
    println!("a denied datagram is answered after {} us at most", slowest.as_micros());
    assert!(slowest < AT_ONCE, "{slowest:?}");

    let status = ask(&gateway, &["status"]);
    assert_eq!(status["rejected"]["reset"]["packets"], 6);
    assert_eq!(status["rejected"]["unreachable"]["packets"], 2);
    let text = gateway.text(&["status"]).unwrap();
    assert!(text.contains("rejected: 6 reset, 2 unreachable\n"), "{text}");

    for (question, answer) in [
        ("--to 198.51.100.7 --tcp 443", Value::from("reset")),
        ("--to 198.51.100.7 --udp 53", Value::from("unreachable")),
        ("--to 198.51.100.7 --tcp 443 --fragment first", Value::Null),
        ("--to 104.46.162.100 --tcp 443", Value::Null),
    ] {
        assert_eq!(explain(&gateway, question).1["answer"], answer, "{question}");
    }
    // A question is no packet.
    assert_eq!(ask(&gateway, &["status"])["rejected"], status["rejected"]);
}

#[test]
fn connections_that_a_change_denies_are_reset_with_their_next_segment() {
    let lab = Lab::new();
    // The kernel takes connections in, and nobody ends them.
    let _listener = lab.internet.enter(|| TcpListener::bind("[::]:443")).unwrap().unwrap();
    let mut gateway = Gateway::new(&lab, &configuration(WEB)).unwrap();
    gateway.start().unwrap();
    let mut open: Vec<TcpStream> = ["104.46.162.100:443", "[2620:1ec:40::7]:443"]
        .map(|to| {
            lab.client
                .enter(|| TcpStream::connect_timeout(&address(to), PATIENCE))
                .unwrap()
                .unwrap()
        })
        .into();
    gateway.configure(&configuration(OTHER)).unwrap();
    let answer = gateway.command(&["reload"]).unwrap();
    assert_eq!(answer.code, Some(0), "{answer:?}");

    for stream in &mut open {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let start = Instant::now();
        stream.write_all(b"one more thing").unwrap();
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        let took = start.elapsed();
        println!("an open connection is reset {} us after data", took.as_micros());
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(took < AT_ONCE, "{took:?}");
    }
}

#[test]
fn tcpdump_finds_no_fault_in_a_thousand_answers() {
    let lab = Lab::new();
    let mut gateway = Gateway::new(&lab, &configuration(WEB)).unwrap();
    gateway.start().unwrap();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push((format!("10.20.0.{}", 10 + number), "198.51.100.7"));
        clients.push((format!("fd00:20::1{number}"), "2620:1ec:41::7"));
    }
    for (client, _) in &clients {
        let length = if client.contains(':') { "64" } else { "24" };
        run(lab
            .client
            .command("ip")
            .args(["addr", "add", &format!("{client}/{length}")])
            .args(["dev", "eth0", "nodad"]))
        .or_else(|_| {
            run(lab.client.command("ip").args([
                "addr",
                "add",
                &format!("{client}/{length}"),
                "dev",
                "eth0",
            ]))
        })
        .unwrap();
    }
    let mut capture = Capture::start(&lab.client);
    for (client, to) in &clients {
        let (client, to) = (ip(client), ip(to));
        // Lengths up to the MTU, odd and even.
        for number in 0..ANSWERS / 2 {
            lab.client.enter(|| send(client, to, number * 29)).unwrap();
            lab.client.enter(|| open(client, to)).unwrap();
        }
    }
    let all = clients.len() * ANSWERS;
    wait_until("all are counted", PATIENCE, || {
        let rejected = &ask(&gateway, &["status"])["rejected"];
        let count = |what: &str| rejected[what]["packets"].as_u64().unwrap_or(0);
        Ok(count("reset") + count("unreachable") == u64::try_from(all)?)
    })
    .unwrap();
    let file = capture.stop().clone();
    let text =
        run(std::process::Command::new("tcpdump").args(["-vv", "-n", "-r"]).arg(&file)).unwrap();
    for fault in ["[bad", "bad cksum", "bad udp", "incorrect", "wrong", "truncated", "invalid"] {
        let line = text.lines().find(|line| line.contains(fault));
        assert_eq!(line, None, "{fault}");
    }
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    let found = [
        count("Flags [R"),
        count("10.20.0.1 > 10.20.0.1"),
        count("admin prohibited"),
        count("prohibited"),
    ];
    println!("{all} answers, and tcpdump has nothing to say against them: {found:?}");
    let (half, quarter) = (all / 2, all / 4);
    assert_eq!(found, [half, quarter, quarter, half]);
}

#[test]
fn tagged_frames_get_tagged_answers() {
    let lab = Lab::new();
    let mut gateway = Gateway::new(&lab, &configuration(WEB)).unwrap();
    gateway.start().unwrap();
    let mut capture = Capture::start(&lab.client);
    let (client, nic) = (station(&lab.client, "eth0"), station(&lab.gateway, "lan0"));
    let mut sent = Vec::new();
    for (description, answer) in [
        ("vlan 30 | ip 10.20.0.2 > 198.51.100.7 | tcp 443", Answer::Reset),
        (
            "vlan 30 | ip fd00:20::2 > 2620:1ec:41::7 | tcp 443 flags=pa ack=9 | data 5",
            Answer::Reset,
        ),
        ("vlan 31 | ip 10.20.0.2 > 198.51.100.7 | udp 53 | data 900", Answer::Unreachable),
        (
            "svlan 5 | vlan 31 | ip fd00:20::2 > 2620:1ec:41::7 | udp 53 | data 1400",
            Answer::Unreachable,
        ),
    ] {
        let mut bytes = frame(&format!("eth {nic} | {description}")).unwrap();
        let own = client.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        bytes.splice(6..12, own);
        put_on_wire(&lab.client, &bytes);
        sent.push((bytes, answer));
    }
    wait_until("all are counted", PATIENCE, || {
        let rejected = &ask(&gateway, &["status"])["rejected"];
        Ok(rejected["reset"]["packets"] == 2 && rejected["unreachable"]["packets"] == 2)
    })
    .unwrap();
    let captured = captures::read(&fs::read(capture.stop()).unwrap()).unwrap().frames;
    for (bytes, answer) in &sent {
        let faults: Vec<String> = captured
            .iter()
            .filter_map(|found| answers::check(bytes, found, *answer).err())
            .map(|fault| format!("{fault:#}"))
            .collect();
        assert_eq!(faults.len() + 1, captured.len(), "{answer:?} to {bytes:02x?}: {faults:?}");
    }
}

#[test]
fn a_client_that_asks_too_often_is_told_less_often() {
    let lab = Lab::new();
    let mut gateway = Gateway::new(&lab, &configuration(WEB)).unwrap();
    gateway.start().unwrap();
    let start = Instant::now();
    for _ in 0..10 * ANSWERS {
        lab.client.enter(|| send(ip("10.20.0.2"), ip("198.51.100.7"), 8)).unwrap();
    }
    let took = start.elapsed();
    let all = u64::try_from(10 * ANSWERS).unwrap();
    let counts = || {
        let status = ask(&gateway, &["status"]);
        ["unreachable", "limited"]
            .map(|what| status["rejected"][what]["packets"].as_u64().unwrap_or(0))
    };
    wait_until("all are counted", PATIENCE, || Ok(counts().iter().sum::<u64>() == all)).unwrap();
    let [told, silent] = counts();
    let most = 100 + 100 * (took.as_millis() + 100) / 1000;
    println!("{all} datagrams in {} ms: {told} answers, {silent} without", took.as_millis());
    assert!(told >= 100 && u128::from(told) <= most, "{told} answers in {took:?}");
    // Another one is not made to wait for that.
    let (error, _) = unreachable(&lab.client, "[2620:1ec:41::7]:53");
    assert_eq!(error, ErrorKind::PermissionDenied);
}

impl Lab {
    /// A lab whose client hears what is sent back: a veth pair hands that over only where its other
    /// end has a program too. It is our own, in audit mode over empty tables: it passes everything.
    fn new() -> Self {
        let lab = Topology::new(Clients::One).unwrap();
        let mut ground = Ground::new([], &[]).unwrap();
        let settings = SlotSettings { mode: SlotSettings::AUDIT, ..SlotSettings::default() };
        ground.swap(&SlotTables { settings, ..SlotTables::default() }).unwrap();
        let link = link(&lab.client, "eth0");
        let index = u32::try_from(link["ifindex"].as_u64().unwrap()).unwrap();
        let nic = NicPins { index: 0, name: NicName::try_from("eth0").unwrap() };
        let mode = XdpMode::Native;
        let duty = Duty { side: Side::Inside, following: Following::Nothing, mode };
        let pins = ground.pins();
        let ears =
            lab.client.enter(|| Attachment::attach(pins, nic, index, duty)).unwrap().unwrap();
        Self { _ears: ears, _ground: ground, lab }
    }
}

impl Deref for Lab {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        &self.lab
    }
}

fn configuration(policy: &str) -> Configuration {
    Configuration::new(REJECTING).policy("test", policy)
}

/// What comes of a connection that is denied, and how soon.
fn refused(client: &Namespace, to: &str) -> (ErrorKind, Duration) {
    let to = address(to);
    client
        .enter(|| {
            let start = Instant::now();
            let error = TcpStream::connect_timeout(&to, PATIENCE).unwrap_err();
            (error.kind(), start.elapsed())
        })
        .unwrap()
}

/// What comes of a datagram that is denied, and how soon.
fn unreachable(client: &Namespace, to: &str) -> (ErrorKind, Duration) {
    let to = address(to);
    client
        .enter(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let start = Instant::now();
            socket.send(b"anybody there").unwrap();
            let error = socket.recv(&mut [0; 16]).unwrap_err();
            (error.kind(), start.elapsed())
        })
        .unwrap()
}

/// Sends a datagram, and listens for nothing.
fn send(from: IpAddr, to: IpAddr, length: usize) {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.send_to(&vec![0x5a; length], (to, 9)).unwrap();
}

/// Begins a connection, and waits until it is refused.
fn open(from: IpAddr, to: IpAddr) {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let stream: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&stream, sockopt::SendTimeout, &TimeVal::seconds(3)).unwrap();
    bind(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0))).unwrap();
    let to = SockaddrStorage::from(SocketAddr::new(to, 443));
    assert_eq!(connect(stream.as_raw_fd(), &to), Err(Errno::ECONNREFUSED));
}

/// The address of a NIC's station.
fn station(namespace: &Namespace, nic: &str) -> String {
    link(namespace, nic)["address"].as_str().unwrap().to_owned()
}

/// What `ip` says of a NIC.
fn link(namespace: &Namespace, nic: &str) -> Value {
    let text = run(namespace.command("ip").args(["-json", "link", "show", nic])).unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0].clone()
}

fn put_on_wire(namespace: &Namespace, frame: &[u8]) {
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let script = "import socket, sys\n\
                  wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
                  wire.bind(('eth0', 0))\n\
                  wire.send(bytes.fromhex(sys.argv[1]))\n";
    run(namespace.command("python3").args(["-c", script, &hex])).unwrap();
}

// === impl Capture ===

impl Capture {
    /// Captures what the client receives of the filter's answers.
    fn start(client: &Namespace) -> Self {
        let directory = Workdir::new("capture").unwrap();
        let file = directory.path().join("capture.pcap");
        let mut command = client.command("tcpdump");
        command.args(["-i", "eth0", "-Q", "in", "-n", "-U", "-Z", "root"]);
        // Without a block in the kernel whose end would be lost, and with room for all of them.
        command.args(["--immediate-mode", "-s", "2000", "-B", "16384", "-w"]).arg(&file);
        let tcpdump = Process::spawn(&mut command).unwrap();
        // The header of the file is written when the socket is open.
        wait_until("tcpdump captures", TCPDUMP, || {
            Ok(file.metadata().is_ok_and(|it| it.len() > 0))
        })
        .unwrap();
        Self { tcpdump, file, _directory: directory }
    }

    /// The file, complete.
    fn stop(&mut self) -> &PathBuf {
        // What was received last may still be in the ring.
        thread::sleep(Duration::from_millis(300));
        assert!(self.tcpdump.stop(TCPDUMP).unwrap().success());
        &self.file
    }
}
