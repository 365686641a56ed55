// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a prober's packets go to: a learned address with one port open and the port beside it closed,
//! in policies that differ in everything else.

use std::net::{Ipv4Addr, SocketAddr};

use crate::{dns_server::Zone, gateway::Configuration};

/// Where the name is.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(20, 190, 140, 1);

/// One port of a name whose other ports stay closed.
const STREAM: &str = r#"[[rule]]
name = "stream"
to   = ["stream.example.com"]
udp  = [5000]
"#;

/// The zone that holds the name, with a short TTL, so that it is looked up again and again.
pub(crate) fn zone() -> Zone {
    Zone::new().address("stream.example.com", 2, HOST)
}

/// The port that is allowed, and the one that is denied.
pub(crate) fn ends() -> [SocketAddr; 2] {
    [5000, 5001].map(|port| SocketAddr::from((HOST, port)))
}

/// A configuration that grants the stream, and has so many other rules with 50 prefixes each.
pub(crate) fn configuration(gateway: &str, rules: u32) -> Configuration {
    let mut others = String::new();
    for rule in 0..rules {
        let prefixes: Vec<String> =
            (0..50).map(|part| format!("\"52.{rule}.{part}.0/24\"")).collect();
        others.push_str(&format!(
            "[[rule]]\nname = \"other-{rule}\"\ntcp = [{}]\nto = [{}]\n",
            1000 + rule,
            prefixes.join(", ")
        ));
    }
    Configuration::new(gateway).policy("stream", STREAM).policy("others", others)
}
