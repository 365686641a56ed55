// SPDX-License-Identifier: MIT OR Apache-2.0
//! One fixed policy with something of everything, compiled: what fuzzing and the corpus test
//! judge frames by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use filter_common::egress::Side;
use filter_user::{
    compile::{Compiled, CounterLedger, Host, HostNic, SlotTables, View, compile},
    names::Snapshot,
    policy::{Fqdn, NicName, Policy, load},
};
use ipnet::IpNet;

/// Three inside NICs: the office, a lab, and one behind which any address can live, for frames
/// that were captured elsewhere.
const GATEWAY: &str = r#"
[gateway]
inside  = ["office0", "lab0", "any0"]
outside = []
deny    = "reject"

[dns]
upstream = ["192.0.2.53"]
listen   = ["10.0.10.1", "2001:db8:10::1"]

[management]
interface = ["office0"]
from      = ["10.0.10.0/28", "2001:db8:10::/120"]
tcp       = [22]
udp       = [161]
"#;

/// Groups by prefix, VLAN and NIC, some of them overlapping; rules with nested prefixes, names,
/// ranges, protocols and echo.
const RULES: &str = r#"
[[source]]
name = "office"
cidr = ["10.0.10.0/24", "2001:db8:10::/64"]

[[source]]
name = "admins"
cidr = ["10.0.10.0/27"]

[[source]]
name = "phones"
vlan = [20]

[[source]]
name = "cameras"
cidr = ["192.168.7.0/24"]
vlan = [30]

[[source]]
name      = "lab"
interface = ["lab0"]

[[source]]
name      = "anywhere"
interface = ["any0"]

[[rule]]
name = "web"
to   = ["198.51.100.0/24", "2001:db8:a::/48"]
tcp  = [80, 443]
udp  = [443]

[[rule]]
name = "ssh"
from = ["admins"]
to   = ["198.51.100.128/25", "198.51.100.7"]
tcp  = [22, "8000-8999"]

[[rule]]
name = "updates"
from = ["office", "lab"]
to   = ["updates.example.com", "*.cdn.example.com"]
tcp  = [443]

[[rule]]
name = "everything-of-admins"
from = ["admins"]
to   = ["100.64.0.0/10", "cache.cdn.example.com"]
tcp  = "any"
udp  = "any"

[[rule]]
name = "voice"
from = ["phones"]
to   = ["203.0.113.64/26", "2001:db8:c::/64"]
udp  = ["3478-3481", "16384-32767"]

[[rule]]
name = "time"
from = ["cameras", "office"]
to   = ["203.0.113.123"]
udp  = [123]

[[rule]]
name = "ping"
to   = ["198.51.100.0/25", "2001:db8:a::/56", "self"]
icmp = true

[[rule]]
name  = "tunnels"
from  = ["lab"]
to    = ["203.0.113.0/24", "2001:db8:b::/56"]
proto = ["esp", "gre", 41]

[[rule]]
name = "gateway-page"
from = ["office"]
to   = ["self"]
tcp  = [8080]

[[rule]]
name = "captured"
from = ["anywhere"]
to   = ["128.0.0.0/1", "2000::/3"]
tcp  = [80, 443]
udp  = [53, 443, 4789]
icmp = true

[[rule]]
name    = "switched-off"
enabled = false
to      = ["192.0.2.0/24"]
tcp     = "any"
"#;

/// The policy and everything that came of it.
#[derive(Clone, Debug)]
pub struct RichPolicy {
    /// As it was read.
    pub policy: Policy,
    /// Addresses of the names in it.
    pub names: Snapshot,
    /// The gateway that it is compiled for.
    pub host: Host,
    /// The tables and their meaning.
    pub compiled: Compiled,
    /// Tables without an entry.
    pub empty: SlotTables,
}

// === impl RichPolicy ===

impl RichPolicy {
    /// The index of the NIC with which the office is connected, which most groups are behind.
    pub const OFFICE: u8 = 0;
    /// The index of the lab's NIC.
    pub const LAB: u8 = 3;
    /// The index of the NIC behind which any address can live.
    pub const ANY: u8 = 7;
    /// The indices of all of its NICs.
    pub const NICS: [u8; 3] = [Self::OFFICE, Self::LAB, Self::ANY];
    /// An index that no NIC has.
    pub const NO_NIC: u8 = 1;

    /// Reads and compiles it.
    ///
    /// # Panics
    ///
    /// If its text is no policy any more, which its test finds.
    #[must_use]
    pub fn new() -> Self {
        let files: [(Arc<str>, String); 2] = [
            (Arc::from(load::GATEWAY_FILE), GATEWAY.to_owned()),
            (Arc::from("policy.d/rich.toml"), RULES.to_owned()),
        ];
        let policy = load::parse(&files).expect("the text is a policy").policy;
        let names = Snapshot {
            addresses: BTreeMap::from([
                name("updates.example.com", &["198.51.100.200", "2001:db8:d::5"]),
                name("cache.cdn.example.com", &["192.0.2.80", "2001:db8:d::80"]),
                name("a.b.cdn.example.com", &["100.64.3.4", "192.0.2.81"]),
            ]),
        };
        let host = Host {
            nics: vec![
                nic(
                    Self::OFFICE,
                    "office0",
                    &["10.0.10.0/24", "10.0.20.0/24", "192.168.0.0/16", "2001:db8:10::/64"],
                ),
                nic(Self::LAB, "lab0", &["172.16.0.0/12", "192.168.7.0/24", "2001:db8:20::/48"]),
                nic(Self::ANY, "any0", &["0.0.0.0/0", "::/0"]),
            ],
            own: addresses(&["10.0.10.1", "10.0.20.1", "172.16.0.1", "2001:db8:10::1", "fe80::1"]),
            closed: BTreeSet::new(),
        };
        let mut ledger = CounterLedger::default();
        let compiled = compile(&policy, &names, &host, &mut ledger).expect("it is small");
        Self { policy, names, host, compiled, empty: SlotTables::default() }
    }

    /// The tables as a packet sees them that enters a NIC.
    #[must_use]
    pub fn view(&self, nic: u8) -> View<'_> {
        View::new(&self.compiled.tables, nic.into())
    }

    /// Empty tables, seen from that NIC.
    #[must_use]
    pub fn empty_view(&self, nic: u8) -> View<'_> {
        View::new(&self.empty, nic.into())
    }
}

impl Default for RichPolicy {
    fn default() -> Self {
        Self::new()
    }
}

fn name(name: &str, of_name: &[&str]) -> (Fqdn, BTreeSet<IpAddr>) {
    (Fqdn::try_from(name).expect("a valid name"), addresses(of_name))
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn nic(slot: u8, name: &str, plausible: &[&str]) -> HostNic {
    let prefix = |text: &&str| text.parse::<IpNet>().expect("a prefix");
    HostNic {
        side: Side::Inside,
        slot,
        name: NicName::try_from(name).expect("a valid name"),
        plausible: plausible.iter().map(prefix).collect(),
        elsewhere: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_rules_have_all_kinds_of_grants() {
        let rich = RichPolicy::new();
        let rules = rich.compiled.meaning.rules().count();
        assert_eq!(rules, rich.policy.enabled_rules().count() + 2, "and guard and forwarder");
        assert!(rich.compiled.tables.counters().len() > 10);
    }
}
