// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other people's programs around the forwarder: `dig` as client, unbound and dnsmasq as
//! resolvers, and unbound over TLS.

use std::net::{IpAddr, SocketAddr};

use sluice_lab::{
    first_packet::{FORWARDER_V4, FORWARDER_V6},
    netns::Namespace,
    peers::{Certificates, Keeps, Peer},
    process::{run, wait_until},
    query::{Client, PATIENCE},
    topology::{Clients, RESOLVER, Topology},
    upstream::{
        Upstream,
        answers::{v4, v6},
        wire::{Labels, code, kind},
    },
};

use crate::{
    names_support::{
        ONE_UPSTREAM, RULES, check_reachable, check_unlearned, configuration, counter, listeners,
        resolve, started, upstream,
    },
    support::address,
};

/// The lab's own server, where another program stands between it and the gateway.
const BEHIND: &str = "9.9.9.99:53";

/// The name in the certificate of the resolver over TLS.
const TLS_NAME: &str = "dns.lab.example";

/// What `dig` prints.
fn dig(client: &Namespace, arguments: &str) -> String {
    let words = arguments.split(' ');
    run(client.command("dig").args(["+time=6", "+tries=1", "+nocookie"]).args(words)).unwrap()
}

/// The data of the answers' records of one type.
fn records(output: &str, kind: &str) -> Vec<String> {
    output
        .lines()
        .filter(|line| !line.starts_with(';'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&kind))
        .map(|fields| fields[4..].join(" "))
        .collect()
}

#[test]
fn dig_understands_every_answer() {
    let lab = Topology::new(Clients::One).unwrap();
    let _upstream = upstream(&lab);
    let _listeners = listeners(&lab);
    let _gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    let client = &lab.client;
    let name = "n1.chain2.mixed.w.lab.example";
    for how in
        ["@10.20.0.1", "@fd00:20::1", "@10.20.0.1 +tcp", "@fd00:20::1 +tcp", "@10.20.0.1 +noedns"]
    {
        let said = dig(client, &format!("{how} {name} A"));
        assert!(said.contains("status: NOERROR"), "{how}: {said}");
        assert!(!said.contains("WARNING"), "{how}: {said}");
        assert_eq!(records(&said, "A"), [v4(name, 0).to_string()], "{how}: {said}");
        assert_eq!(records(&said, "CNAME").len(), 2, "{how}: {said}");
        assert!(said.contains(" ra") || said.contains(" ra;"), "recursion is on offer: {said}");
    }
    let said = dig(client, &format!("@10.20.0.1 {name} AAAA"));
    assert_eq!(records(&said, "AAAA"), [v6(name, 0).to_string()], "{said}");
    // Cut over UDP; dig asks again over TCP by itself.
    let said = dig(client, "@10.20.0.1 +bufsize=512 n2.many25.w.lab.example AAAA");
    assert_eq!(records(&said, "AAAA").len(), 25, "{said}");
    let said = dig(client, "@10.20.0.1 n3.nxdomain.w.lab.example A");
    assert!(said.contains("status: NXDOMAIN"), "{said}");
    let said = dig(client, "@10.20.0.1 www.elsewhere.example A");
    assert!(said.contains("status: REFUSED"), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
    // Whatever stands in an answer about HTTPS can be reached.
    let name = "n4.w.lab.example";
    let said = dig(client, &format!("@10.20.0.1 {name} TYPE65"));
    assert!(!said.contains("status: REFUSED"), "{said}");
    let hinted = said.contains(&v4(name, 0).to_string());
    if hinted {
        check_reachable(&lab, v4(name, 0).into());
        check_reachable(&lab, v6(name, 0).into());
    }
    for word in ["ANY", "TXT", "MX", "SOA", "NS"] {
        let said = dig(client, &format!("@10.20.0.1 n5.w.lab.example {word}"));
        assert!(said.contains("status: "), "{word}: {said}");
    }
    let said = dig(client, "@10.20.0.1 -c CH version.bind TXT");
    assert!(said.contains("status: REFUSED") || said.contains("status: NOTIMP"), "{said}");
}

/// Names are resolved through a gateway's forwarder, and each is reached at once.
#[track_caller]
fn check_names(lab: &Topology, from: u32) {
    let mut clients = [FORWARDER_V4, FORWARDER_V6]
        .map(|server| Client::new(&lab.client, server, PATIENCE).unwrap());
    for number in from..from + 100 {
        let words = ["", "chain3.", "many5.", "many25.", "cut."];
        let word = words[number as usize % words.len()];
        let name = format!("n{number}.{word}w.lab.example");
        let client = &mut clients[number as usize / 2 % 2];
        let (kind, expected): (_, IpAddr) = if number % 2 == 0 {
            (kind::A, v4(&name, 0).into())
        } else {
            (kind::AAAA, v6(&name, 0).into())
        };
        let reply = client.ask(&Labels::of(&name), kind).unwrap();
        assert!(reply.addresses().contains(&expected), "{name}: {reply:?}");
        check_reachable(lab, expected);
    }
    let reply = resolve(lab, &format!("n{from}.nxdomain.w.lab.example"));
    assert_eq!(reply.code(), Some(code::NO_SUCH_NAME));
}

#[test]
fn unbound_as_resolver() {
    let lab = Topology::new(Clients::One).unwrap();
    let _own = Upstream::start(&lab.internet, [address(BEHIND)]).unwrap();
    let at = SocketAddr::new(RESOLVER, 53);
    let _peer = Peer::unbound(&lab.internet, at, address(BEHIND), None).unwrap();
    let _listeners = listeners(&lab);
    let _gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    check_names(&lab, 0);
}

#[test]
fn dnsmasq_as_resolver() {
    let lab = Topology::new(Clients::One).unwrap();
    let _own = Upstream::start(&lab.internet, [address(BEHIND)]).unwrap();
    let at = SocketAddr::new(RESOLVER, 53);
    let _peer = Peer::dnsmasq(&lab.internet, at, address(BEHIND), Keeps::Answers).unwrap();
    let _listeners = listeners(&lab);
    let _gateway = started(&lab, &configuration(ONE_UPSTREAM, RULES));
    check_names(&lab, 0);
}

#[test]
fn a_resolver_over_tls_and_false_ones() {
    let lab = Topology::new(Clients::One).unwrap();
    let _own = Upstream::start(&lab.internet, [address(BEHIND)]).unwrap();
    let [good, others] = [TLS_NAME, TLS_NAME].map(|name| Certificates::new(name).unwrap());
    let at = SocketAddr::new(RESOLVER, 53);
    let start = |certificates: &Certificates| {
        Peer::unbound(&lab.internet, at, address(BEHIND), Some(certificates)).unwrap()
    };
    let peer = start(&good);
    let listeners = listeners(&lab);
    let settings = |name: &str| {
        let authority = good.authority();
        format!("upstream = [\"tls://9.9.9.10#{name}\"]\ntls_ca = \"{}\"", authority.display())
    };
    let gateway = started(&lab, &configuration(&settings(TLS_NAME), RULES));
    check_names(&lab, 0);
    // A connection that the resolver has closed is opened again.
    drop(peer);
    let peer = start(&good);
    wait_until("the resolver is asked again", std::time::Duration::from_secs(20), || {
        Ok(resolve(&lab, "n200.w.lab.example").code() == Some(code::NO_ERROR))
    })
    .unwrap();
    check_names(&lab, 300);
    drop(peer);

    // Somebody else's authority has signed the same name.
    let before = counter(&gateway, "tls-failed");
    let peer = start(&others);
    let name = "n500.w.lab.example";
    assert_eq!(resolve(&lab, name).code(), Some(code::SERVER_FAILURE));
    assert!(counter(&gateway, "tls-failed") > before);
    check_unlearned(&lab, &gateway, &listeners, v4(name, 0).into());
    drop(peer);
    drop(gateway);

    // The right authority has signed another name.
    let _peer = start(&good);
    let gateway = started(&lab, &configuration(&settings("dns.elsewhere.example"), RULES));
    let name = "n501.w.lab.example";
    assert_eq!(resolve(&lab, name).code(), Some(code::SERVER_FAILURE));
    assert!(counter(&gateway, "tls-failed") > 0);
    check_unlearned(&lab, &gateway, &listeners, v4(name, 0).into());
}
