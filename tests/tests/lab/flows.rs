// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows through a gateway with address translation and without: who is behind them, cutting
//! them, and what becomes of them when the policy changes.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use serde_json::Value;
use sluice_lab::{
    gateway::{Configuration, Gateway},
    listener::Listeners,
    netns::Namespace,
    probe::{self, Outcome},
    process::run,
    topology::{CLIENT_V4, Clients, OUTSIDE, Topology},
    workdir::Workdir,
};

use crate::support::{address, ask, check_tcp, ip};

/// How long something may take that needs no more than a packet or two.
const SOON: Duration = Duration::from_secs(5);
/// How long silence lasts until it counts as such.
const SILENCE: Duration = Duration::from_millis(700);
/// A server in the internet.
const SERVER: &str = "104.46.162.96:443";

const GATEWAY: &str = "[gateway]\ninside = [\"lan0\"]\noutside = [\"wan0\"]\ndeny = \"drop\"\n";

const WEB: &str = "[[rule]]\nname = \"web\"\nto = [\"104.46.162.96/27\", \"2620:1ec:40::/48\"]\ntcp = [443]\n\
     udp = [53]\nicmp = true\n";

/// The same without the port of [`SERVER`].
const NO_WEB: &str = "[[rule]]\nname = \"time\"\nto = [\"104.46.162.96/27\"]\nudp = [123]\n";

const SERVICE: &str = "[[inbound]]\nname = \"shop\"\nfrom = [\"198.51.100.0/24\"]\n\
     to = [\"self\"]\nhost = \"10.20.0.2\"\ntcp = [8080]\n";

/// A connection with both of its ends at hand.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

// === impl Connection ===

impl Connection {
    /// Connects from one namespace to an address that a listener in the other has, bound to
    /// `from` if the client has several addresses.
    fn open(
        client: &Namespace,
        from: Option<&str>,
        to: &str,
        server: &Namespace,
        port: u16,
    ) -> Self {
        let listener = server.enter(|| TcpListener::bind(("0.0.0.0", port))).unwrap().unwrap();
        let client = match from {
            None => {
                client.enter(|| TcpStream::connect_timeout(&address(to), SOON)).unwrap().unwrap()
            }
            Some(from) => client.enter(|| bound(from, to)).unwrap(),
        };
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SILENCE)).unwrap();
        }
        Self { client, server }
    }

    /// Whether a byte of the server's reaches the client.
    fn delivers(&mut self) -> bool {
        self.server.write_all(b"x").unwrap();
        arrives(&mut self.client)
    }

    /// Whether a byte of the client's reaches the server.
    fn asks(&mut self) -> bool {
        self.client.write_all(b"x").unwrap();
        arrives(&mut self.server)
    }
}

fn arrives(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(length) => length > 0,
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A connection from an address of one's choice.
fn bound(from: &str, to: &str) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    use std::os::fd::AsRawFd as _;
    let sockaddr = |address: SocketAddr| match address {
        SocketAddr::V4(address) => SockaddrIn::from(address),
        SocketAddr::V6(_) => panic!("{address}"),
    };
    let socket =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &sockaddr(address(&format!("{from}:0")))).unwrap();
    connect(socket.as_raw_fd(), &sockaddr(address(to))).unwrap();
    TcpStream::from(socket)
}

/// Puts nftables rules into a namespace.
fn nft(namespace: &Namespace, rules: &str) {
    let directory = Workdir::new("nft").unwrap();
    let file = directory.path().join("rules");
    std::fs::write(&file, rules).unwrap();
    run(namespace.command("nft").arg("-f").arg(&file)).unwrap();
}

fn masquerade(lab: &Topology, how: &str) {
    nft(
        &lab.gateway,
        &format!(
            "table inet lab_nat {{\n chain post {{\n type nat hook postrouting priority srcnat;\n \
             oifname \"{OUTSIDE}\" {how}\n }}\n}}\n"
        ),
    );
}

fn destination_nat(lab: &Topology) {
    nft(
        &lab.gateway,
        &format!(
            "table ip lab_dnat {{\n chain pre {{\n type nat hook prerouting priority dstnat;\n \
             iifname \"{OUTSIDE}\" tcp dport 8080 dnat to {CLIENT_V4}:80\n }}\n}}\n"
        ),
    );
}

fn started<'lab>(lab: &'lab Topology, gateway: &str, policy: &str) -> Gateway<'lab> {
    let configuration = Configuration::new(gateway).policy("test", policy);
    let mut gateway = Gateway::new(lab, &configuration).unwrap();
    gateway.start().unwrap();
    gateway
}

/// Puts another policy in force, and says what the daemon answered.
fn reload(gateway: &Gateway<'_>, base: &str, policy: &str) -> Value {
    gateway.configure(&Configuration::new(base).policy("test", policy)).unwrap();
    let answer = gateway.command(&["reload"]).unwrap();
    assert_eq!(answer.code, Some(0), "{answer:?}");
    answer.json().unwrap()
}

fn flows(gateway: &Gateway<'_>, filter: &str) -> Vec<Value> {
    let words: Vec<&str> = ["flows"].into_iter().chain(filter.split_whitespace()).collect();
    ask(gateway, &words)["flows"].as_array().unwrap().clone()
}

fn drops(gateway: &Gateway<'_>, reason: &str) -> u64 {
    ask(gateway, &["status"])["drops"][reason]["packets"].as_u64().unwrap_or(0)
}

#[test]
fn the_client_behind_source_nat_is_told() {
    for how in ["masquerade", "masquerade random", ""] {
        let lab = Topology::new(Clients::One).unwrap();
        if !how.is_empty() {
            masquerade(&lab, how);
        }
        let gateway = started(&lab, GATEWAY, WEB);
        let mut connection = Connection::open(&lab.client, None, SERVER, &lab.internet, 443);
        assert!(connection.delivers() && connection.asks(), "{how}");
        let port = connection.client.local_addr().unwrap().port();

        let found = flows(&gateway, "--port 443");
        let [flow] = found.as_slice() else { panic!("{how}: {found:?}") };
        let local = if how.is_empty() { "10.20.0.2" } else { "192.0.2.1" };
        assert_eq!(flow["client"], "10.20.0.2", "{how}: {flow}");
        assert_eq!(flow["client_port"], port, "{how}: {flow}");
        assert_eq!(flow["local"], local, "{how}: {flow}");
        let translated = connection.server.peer_addr().unwrap();
        assert_eq!(flow["local_port"], translated.port(), "{how}: {flow}");
        assert_eq!((&flow["remote"], &flow["remote_port"]), (&"104.46.162.96".into(), &443.into()));
        assert_eq!((&flow["state"], &flow["origin"]), (&"established".into(), &"inside".into()));
        assert_eq!(flow["rules"][0]["rule"], "web", "{flow}");
        assert!(flow["packets_out"].as_u64().unwrap() >= 3, "{flow}");
        assert!(flow["packets_in"].as_u64().unwrap() >= 2, "{flow}");

        // An echo has an identifier in the place of ports.
        assert_eq!(probe::echo(&lab.client, ip("104.46.162.97")).unwrap(), Outcome::Answered);
        let echo = flows(&gateway, "--protocol icmp");
        assert_eq!(echo.len(), 1, "{how}: {echo:?}");
        assert_eq!(echo[0]["client"], "10.20.0.2", "{how}: {echo:?}");

        for (filter, count) in [
            ("--client 10.20.0.0/24 --protocol tcp", 1),
            ("--client 10.20.0.3", 0),
            ("--remote 104.46.162.96 --state established", 1),
            ("--remote 104.46.162.98", 0),
            ("--state cut", 0),
            ("--protocol 6", 1),
            ("--protocol udp", 0),
            ("--name example", 0),
        ] {
            assert_eq!(flows(&gateway, filter).len(), count, "{how}: {filter}");
        }
        let text = gateway.text(&["flows", "--port", "443"]).unwrap();
        assert!(text.contains(&format!("10.20.0.2:{port}")) && text.contains("web"), "{text}");
        assert_eq!(gateway.text(&["flows", "--count", "--port", "443"]).unwrap(), "1\n");
        let status = ask(&gateway, &["status"]);
        assert_eq!(status["nics"][0]["side"], "inside", "{status}");
        assert_eq!(status["nics"][1]["side"], "outside", "{status}");
        let tables = status["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["name"] == "flows").unwrap();
        assert!(table["used"].as_u64().unwrap() >= 2, "{table}");
        assert_eq!(table["capacity"], 262_144);
    }
}

#[test]
fn kill_ends_a_connection() {
    let lab = Topology::new(Clients::One).unwrap();
    masquerade(&lab, "masquerade");
    let gateway = started(&lab, GATEWAY, WEB);
    let mut connection = Connection::open(&lab.client, None, SERVER, &lab.internet, 443);
    assert!(connection.delivers());

    let none = gateway.command(&["flows", "kill", "--client", "10.20.0.9"]).unwrap();
    assert_eq!((none.code, &none.json().unwrap()["cut"]), (Some(1), &0.into()));
    let wrong = gateway.command(&["flows", "kill"]).unwrap();
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(connection.delivers(), "nothing was cut yet");

    let killed =
        gateway.command(&["flows", "kill", "--client", "10.20.0.2", "--port", "443"]).unwrap();
    assert_eq!((killed.code, &killed.json().unwrap()["cut"]), (Some(0), &1.into()));
    let before = drops(&gateway, "flow-cut");
    assert!(!connection.delivers());
    assert!(drops(&gateway, "flow-cut") > before);
    assert_eq!(flows(&gateway, "--state cut").len(), 1);
    // The client may begin anew.
    drop(connection);
    let mut again = Connection::open(&lab.client, None, SERVER, &lab.internet, 443);
    assert!(again.delivers() && again.asks());
}

#[test]
fn a_changed_policy_cuts_what_it_denies() {
    for how in ["masquerade random", ""] {
        let lab = Topology::new(Clients::One).unwrap();
        if !how.is_empty() {
            masquerade(&lab, how);
        }
        let gateway = started(&lab, GATEWAY, WEB);
        let mut connection = Connection::open(&lab.client, None, SERVER, &lab.internet, 443);
        assert!(connection.delivers());
        // A policy that still allows it cuts nothing.
        let reloaded = reload(&gateway, GATEWAY, &WEB.replace("[443]", "[80, 443]"));
        assert_eq!(reloaded["cut_flows"], 0, "{how}: {reloaded}");
        assert!(connection.delivers() && connection.asks(), "{how}");

        let reloaded = reload(&gateway, GATEWAY, NO_WEB);
        assert_eq!(reloaded["cut_flows"], 1, "{how}: {reloaded}");
        let before = drops(&gateway, "flow-cut");
        assert!(!connection.delivers(), "{how}");
        assert!(drops(&gateway, "flow-cut") > before, "{how}");
        assert!(gateway.log().contains("cut 1 flows"), "{}", gateway.log());
    }
}

#[test]
fn on_change_keep_lets_connections_end_by_themselves() {
    let lab = Topology::new(Clients::One).unwrap();
    masquerade(&lab, "masquerade random");
    let keep = GATEWAY.replace("deny", "on_change = \"keep\"\ndeny");
    let gateway = started(&lab, &keep, WEB);
    let mut connection = Connection::open(&lab.client, None, SERVER, &lab.internet, 443);
    assert!(connection.delivers() && connection.asks());

    let reloaded = reload(&gateway, &keep, NO_WEB);
    assert_eq!((&reloaded["cut_flows"], &reloaded["kept_flows"]), (&0.into(), &1.into()));
    assert!(connection.delivers() && connection.asks());
    let _listeners = Listeners::start(&lab.internet, [443], []).unwrap();
    check_tcp(&lab.client, SERVER, Outcome::Silence);
    // Neither does a second reload end it, until the policy says so.
    assert_eq!(reload(&gateway, &keep, NO_WEB)["cut_flows"], 0);
    assert!(connection.delivers() && connection.asks());
    assert_eq!(reload(&gateway, GATEWAY, NO_WEB)["cut_flows"], 1);
    assert!(!connection.delivers());
}

#[test]
fn a_service_behind_destination_nat_is_followed_and_cut() {
    let lab = Topology::new(Clients::One).unwrap();
    destination_nat(&lab);
    let gateway = started(&lab, GATEWAY, SERVICE);
    let from = "198.51.100.7";
    let open = || Connection::open(&lab.internet, Some(from), "192.0.2.1:8080", &lab.client, 80);
    let mut connection = open();
    assert!(connection.delivers() && connection.asks());

    let found = flows(&gateway, "--port 8080");
    let [flow] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((&flow["local"], &flow["remote"]), (&"192.0.2.1".into(), &from.into()), "{flow}");
    assert_eq!((&flow["origin"], &flow["host"]), (&"inbound".into(), &"10.20.0.2:80".into()));
    assert_eq!(flow["rules"][0]["rule"], "shop", "{flow}");

    let reloaded = reload(&gateway, GATEWAY, NO_WEB);
    assert_eq!(reloaded["cut_flows"], 1, "{reloaded}");
    assert!(!connection.delivers() && !connection.asks());
    drop(connection);

    reload(&gateway, GATEWAY, SERVICE);
    let mut connection = open();
    assert!(connection.delivers() && connection.asks());
    let killed = gateway.command(&["flows", "kill", "--remote", from]).unwrap();
    assert_eq!(killed.code, Some(0), "{killed:?}");
    assert!(!connection.delivers() && !connection.asks());
}

#[test]
fn a_reload_that_shuts_out_whoever_asks_for_it_is_refused() {
    let lab = Topology::new(Clients::One).unwrap();
    let guarded = format!("{GATEWAY}[management]\nfrom = [\"10.20.0.0/28\"]\ntcp = [22]\n");
    let elsewhere = guarded.replace("10.20.0.0/28", "10.20.0.16/28");
    let gateway = started(&lab, &guarded, WEB);
    let generation = ask(&gateway, &["status"])["generation"].clone();
    gateway.configure(&Configuration::new(elsewhere).policy("test", WEB)).unwrap();

    let session = ("SSH_CONNECTION", "10.20.0.2 50000 10.20.0.1 22");
    let refused = gateway.command_with(&["reload"], &[session]).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in ["gateway.toml:5", "10.20.0.2", "--force", "stays in force"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert_eq!(ask(&gateway, &["status"])["generation"], generation);
    // Of no concern: a session that never passed, and one with another machine.
    for other in ["10.20.0.2 50000 10.20.0.1 23", "10.20.0.2 50000 198.51.100.7 22"] {
        gateway.configure(&Configuration::new(guarded.as_str()).policy("test", WEB)).unwrap();
        let answer = gateway.command_with(&["reload"], &[("SSH_CONNECTION", other)]).unwrap();
        assert_eq!(answer.code, Some(0), "{answer:?}");
    }
    let elsewhere = guarded.replace("10.20.0.0/28", "10.20.0.16/28");
    gateway.configure(&Configuration::new(elsewhere).policy("test", WEB)).unwrap();
    let forced = gateway.command_with(&["reload", "--force"], &[session]).unwrap();
    assert_eq!(forced.code, Some(0), "{forced:?}");
}

#[test]
fn a_connection_with_the_gateway_itself_is_its_clients() {
    let lab = Topology::new(Clients::One).unwrap();
    masquerade(&lab, "masquerade");
    let own = "[[rule]]\nname = \"own\"\nto = [\"self\"]\ntcp = [2222]\n";
    let gateway = started(&lab, GATEWAY, own);
    let mut connection = Connection::open(&lab.client, None, "10.20.0.1:2222", &lab.gateway, 2222);
    assert!(connection.delivers() && connection.asks());
    assert_eq!(reload(&gateway, GATEWAY, own)["cut_flows"], 0);
    assert!(connection.delivers() && connection.asks());

    let reloaded = reload(&gateway, GATEWAY, NO_WEB);
    assert_eq!(reloaded["cut_flows"], 1, "{reloaded}");
    assert!(!connection.asks());
}
