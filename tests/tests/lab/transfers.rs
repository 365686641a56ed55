// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole transfers through the filter, and what its flows count of them: with offloads, with large
//! frames, in generic mode, and over a path that is narrower than its ends.

use std::{
    io::{self, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::Duration,
};

use filter_common::wire::{FlowKey, FlowRecord};
use filter_user::{
    kernel::{PinDirectory, SharedMaps},
    policy::TableSizes,
};
use serde_json::Value;
use sluice_lab::{
    gateway::{Configuration, Gateway},
    netns::Namespace,
    process::{Process, output, run, wait_until},
    topology::{Clients, INSIDE, OUTSIDE, Topology},
};

use crate::support::{ask, ip};

const SETTINGS: &str = r#"
[gateway]
inside  = ["lan0"]
outside = ["wan0"]
deny    = "drop"
"#;

/// iperf3's port, of a host in the internet and of one behind a narrow link.
const POLICY: &str = r#"
[[rule]]
name = "transfers"
to   = ["198.51.100.7", "2001:db8:51::7", "198.51.100.200", "2001:db8:52::200"]
tcp  = [5201]
"#;

const HOSTS: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];
/// Behind the narrow link.
const FAR: [&str; 2] = ["198.51.100.200", "2001:db8:52::200"];
const NARROW: &str = "1300";

/// TCP's data in a frame of 1500 bytes, and of 9000, at most (RFC 6691): with 20 bytes of IP, and 32
/// of TCP.
const SEGMENT: u64 = 1448;
const LARGE_SEGMENT: u64 = 8948;

/// How long a transfer may stand still: some of TCP's time-outs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Upload,
    Download,
}

/// What iperf3 says of a transfer.
#[derive(Debug)]
struct Transfer {
    sent: u64,
    received: u64,
    retransmits: u64,
}

/// One way of a flow, and the headers of its packets: Ethernet, IP, and TCP with time stamps.
#[derive(Debug)]
struct Carried {
    packets: u64,
    bytes: u64,
    header: u64,
}

#[test]
fn a_gibibyte_each_way_passes_and_is_counted() {
    let lab = Topology::new(Clients::One).unwrap();
    offloads(&lab, "on");
    for (way, to) in [(Way::Upload, HOSTS[0]), (Way::Download, HOSTS[0]), (Way::Upload, HOSTS[1])] {
        let mut gateway = Gateway::new(&lab, &configuration(SETTINGS)).unwrap();
        gateway.start().unwrap();
        let size = if to == HOSTS[0] { 1 << 30 } else { 256 << 20 };
        let transfer = transfer(&lab.client, &lab.internet, to, way, size);
        check_counted(&mut gateway, way, to, &transfer, SEGMENT);
    }
}

#[test]
fn frames_of_nine_thousand_bytes_pass_and_count() {
    let lab = Topology::new(Clients::One).unwrap();
    for (namespace, nic) in ends(&lab) {
        run(namespace.command("ip").args(["link", "set", nic, "mtu", "9000"])).unwrap();
    }
    for (way, to) in [(Way::Upload, HOSTS[0]), (Way::Download, HOSTS[1])] {
        let mut gateway = Gateway::new(&lab, &configuration(SETTINGS)).unwrap();
        gateway.start().unwrap();
        assert_eq!(ask(&gateway, &["status"])["nics"][0]["attached"], "native");
        let transfer = transfer(&lab.client, &lab.internet, to, way, 256 << 20);
        let carried = check_counted(&mut gateway, way, to, &transfer, LARGE_SEGMENT);
        let mean = carried.bytes / carried.packets;
        // More than a page: what a packet of several buffers is for.
        assert!(mean > 8000, "{carried:?}");
    }
}

#[test]
fn generic_mode_passes_what_the_stack_put_together() {
    let lab = Topology::new(Clients::One).unwrap();
    offloads(&lab, "on");
    let generic = SETTINGS.replace("[gateway]", "[gateway]\nxdp_mode = \"generic\"");
    for (way, to) in [(Way::Upload, HOSTS[0]), (Way::Download, HOSTS[1])] {
        let mut gateway = Gateway::new(&lab, &configuration(&generic)).unwrap();
        gateway.start().unwrap();
        assert_eq!(ask(&gateway, &["status"])["nics"][0]["attached"], "generic");
        let transfer = transfer(&lab.client, &lab.internet, to, way, 256 << 20);
        check_counted(&mut gateway, way, to, &transfer, SEGMENT);
    }
}

#[test]
fn a_narrow_link_behind_the_gateway_is_found_out() {
    let lab = Topology::new(Clients::One).unwrap();
    let far = narrow_link(&lab);
    let mut gateway = Gateway::new(&lab, &configuration(SETTINGS)).unwrap();
    gateway.start().unwrap();
    check_path(&lab, &far, &gateway);
}

#[test]
fn a_narrow_link_is_found_out_behind_masquerade() {
    let lab = Topology::new(Clients::One).unwrap();
    let far = narrow_link(&lab);
    let rules = "table inet nat { chain out { type nat hook postrouting priority srcnat; \
                 oifname wan0 masquerade; }; }";
    run(lab.gateway.command("nft").arg(rules)).unwrap();
    let mut gateway = Gateway::new(&lab, &configuration(SETTINGS)).unwrap();
    gateway.start().unwrap();
    check_path(&lab, &far, &gateway);
}

/// Sends over the narrow link: the client learns of it by an error that the filter lets in.
fn check_path(lab: &Topology, far: &Namespace, gateway: &Gateway<'_>) {
    for to in FAR {
        let route = || run(lab.client.command("ip").args(["route", "get", to])).unwrap();
        assert!(!route().contains("mtu"), "{}", route());
        let errors = || ask(gateway, &["status"])["passes"]["icmp-error"]["packets"].as_u64();
        let before = errors().unwrap_or_default();
        assert_eq!(send(&lab.client, far, ip(to), 8 << 20), 8 << 20, "to {to}");
        assert!(errors().unwrap_or_default() > before, "to {to}");
        assert!(route().contains(&format!("mtu {NARROW}")), "{}", route());
    }
    assert!(ask(gateway, &["status"])["drops"]["icmp-error-unrelated"].is_null());
}

/// Puts a host behind a link of the internet that takes less than the others. The host doesn't
/// know: its own NIC takes as much as all, so that it offers TCP's usual segments.
fn narrow_link(lab: &Topology) -> Namespace {
    let far = Namespace::new(&lab.unique, "far").unwrap();
    let internet = &lab.internet;
    let on = |namespace: &Namespace, text: &str| {
        run(namespace.command("ip").args(text.split(' '))).unwrap();
    };
    on(internet, &format!("link add far0 type veth peer name eth0 netns {}", far.name()));
    for (namespace, nic, v4, v6) in [
        (internet, "far0", "100.64.1.1/24", "fd64::1/64"),
        (&far, "eth0", "100.64.1.2/24", "fd64::2/64"),
    ] {
        let plain = "tx off tso off gso off gro off sg off";
        run(namespace.command("ethtool").args(["-K", nic]).args(plain.split(' '))).unwrap();
        on(namespace, &format!("link set {nic} up"));
        on(namespace, &format!("addr add {v4} dev {nic}"));
        on(namespace, &format!("addr add {v6} dev {nic} nodad"));
    }
    on(internet, &format!("link set far0 mtu {NARROW}"));
    on(internet, &format!("route add {} via 100.64.1.2", FAR[0]));
    on(internet, &format!("-6 route add {} via fd64::2", FAR[1]));
    on(&far, &format!("addr add {}/32 dev lo", FAR[0]));
    on(&far, &format!("addr add {}/128 dev lo nodad", FAR[1]));
    on(&far, "route add default via 100.64.1.1");
    on(&far, "-6 route add default via fd64::1");
    internet
        .set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])
        .unwrap();
    far
}

/// Sends `size` bytes, and returns how many arrived before the end of the connection. (iperf3 ends
/// when it has sent all, whatever is still under way.)
fn send(client: &Namespace, host: &Namespace, to: IpAddr, size: usize) -> u64 {
    let listener = host.enter(|| TcpListener::bind((to, 5201)).unwrap()).unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        io::copy(&mut stream, &mut io::sink()).unwrap()
    });
    let mut stream =
        client.enter(|| TcpStream::connect_timeout(&(to, 5201).into(), PATIENCE).unwrap()).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![0x5a; size]).unwrap();
    drop(stream);
    receiver.join().unwrap()
}

/// Transfers `size` bytes by iperf3.
fn transfer(client: &Namespace, host: &Namespace, to: &str, way: Way, size: u64) -> Transfer {
    let _server = Process::spawn(
        host.command("iperf3").args(["--server", "--one-off", "--bind", to]).stdout(Stdio::null()),
    )
    .unwrap();
    wait_until("iperf3 listens", Duration::from_secs(10), || {
        let sockets = run(host.command("ss").args(["-Hltn", "sport", "=", ":5201"]))?;
        Ok(sockets.contains("5201"))
    })
    .unwrap();
    let mut command = client.command("timeout");
    command.args(["--kill-after=1", "120", "iperf3", "--json", "--client", to]);
    command.args(["--bytes", &size.to_string()]);
    if way == Way::Download {
        command.arg("--reverse");
    }
    let done = output(&mut command).unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let of = |sum: &str, field: &str| {
        report["end"][sum][field].as_u64().unwrap_or_else(|| panic!("{sum}.{field}: {text}"))
    };
    let transfer = Transfer {
        sent: of("sum_sent", "bytes"),
        received: of("sum_received", "bytes"),
        retransmits: of("sum_sent", "retransmits"),
    };
    assert!(transfer.sent >= size, "{transfer:?}: {text}");
    // When the client has sent all, iperf3 ends with what is still under way.
    assert!(way == Way::Upload || transfer.received >= size, "{transfer:?}: {text}");
    transfer
}

/// Compares what iperf3 says with the flow of its data. Without the headers, the flow has the
/// bytes of the transfer and no more than
/// * what was sent again, which iperf3 tells in segments, and what was under way at the end, which
///   lies between what it calls sent and received;
/// * the 37 bytes by which iperf3 knows a connection, the 8 by which a SYN's options are longer
///   than those of other segments, and selective acknowledgements in a few of the packets.
#[track_caller]
fn check_counted(
    gateway: &mut Gateway<'_>,
    way: Way,
    to: &str,
    transfer: &Transfer,
    segment: u64,
) -> Carried {
    let carried = carried(gateway, way, ip(to));
    let payload = carried.bytes - carried.packets * carried.header;
    println!("{way:?} {to}: {transfer:?}, {carried:?}, {payload} bytes without headers");
    let again = transfer.retransmits * segment;
    let most = transfer.sent + again + 37 + 8 + 128;
    assert!(payload >= transfer.received, "{payload}: {transfer:?}, {carried:?}");
    assert!(payload <= most, "{payload} > {most}: {transfer:?}, {carried:?}");
    carried
}

/// One way of the largest flow to a host; the daemon is ended, as it alone may have the maps open.
fn carried(gateway: &mut Gateway<'_>, way: Way, to: IpAddr) -> Carried {
    gateway.stop().unwrap();
    let pins = PinDirectory::open(gateway.pins().path()).unwrap().unwrap();
    let (maps, _, _) = SharedMaps::open(&pins, TableSizes::default()).unwrap();
    let flows = maps.flows().unwrap();
    let of_host = |key: &FlowKey| match to {
        IpAddr::V4(to) => key.ip_version == 4 && key.remote[..4] == to.octets(),
        IpAddr::V6(to) => key.ip_version == 6 && key.remote == to.octets(),
    };
    let of_way = |flow: &FlowRecord| match way {
        Way::Upload => (flow.bytes_out, flow.packets_out),
        Way::Download => (flow.bytes_in, flow.packets_in),
    };
    let (bytes, packets) =
        flows.iter().filter(|(key, _)| of_host(key)).map(|(_, flow)| of_way(flow)).max().unwrap();
    let header = 14 + if to.is_ipv4() { 20 } else { 40 } + 32;
    Carried { packets, bytes, header }
}

fn configuration(settings: &str) -> Configuration {
    Configuration::new(settings).policy("transfers", POLICY)
}

/// Both ends of both wires.
fn ends(lab: &Topology) -> [(&Namespace, &'static str); 4] {
    [
        (&lab.client, "eth0"),
        (&lab.gateway, INSIDE),
        (&lab.gateway, OUTSIDE),
        (&lab.internet, "eth0"),
    ]
}

/// Switches on what the lab switches off: checksums and segments made by the NIC, and packets put
/// together.
fn offloads(lab: &Topology, state: &str) {
    for (namespace, nic) in ends(lab) {
        let mut command = namespace.command("ethtool");
        command.args(["-K", nic]);
        for feature in ["rx", "tx", "sg", "tso", "gso", "gro"] {
            command.args([feature, state]);
        }
        run(&mut command).unwrap();
    }
}
