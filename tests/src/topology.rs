// SPDX-License-Identifier: MIT OR Apache-2.0
//! Client, gateway and internet.
//!
//! ```text
//! client        eth0 ── lan0 ┐
//!                            ├ gateway  wan0 ── eth0  internet
//! second client eth0 ── lan1 ┘
//! ```
//!
//! The internet owns every address there is: whatever a client sends to, somebody is there, so
//! that silence can only come from the gateway.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{netns::Namespace, process::run};

/// The client's IPv4 address.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
/// The client's IPv6 address.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2);
/// The second client's IPv4 address.
pub const SECOND_CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 21, 0, 2);
/// The second client's IPv6 address.
pub const SECOND_CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x21, 0, 0, 0, 0, 0, 2);
/// The lab's DNS server, in the internet.
pub const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 10));
/// The gateway's NIC towards the client.
pub const INSIDE: &str = "lan0";
/// The gateway's NIC towards the second client.
pub const SECOND_INSIDE: &str = "lan1";
/// The gateway's NIC towards the internet.
pub const OUTSIDE: &str = "wan0";

/// Checksums are complete and frames are as long as on a wire only with these off; a VLAN tag
/// stands in the frame only where its sender may not carry it out of band.
const OFFLOADS_OFF: [&str; 16] = [
    "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off", "rxvlan", "off", "txvlan",
    "off", "sg", "off",
];

/// How many clients a lab has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// One, behind `lan0`.
    One,
    /// Another behind `lan1`.
    Two,
}

/// The namespaces of a lab, joined; they are removed when this is dropped.
#[derive(Debug)]
pub struct Topology {
    /// Where the clients' programs run.
    pub client: Namespace,
    /// Behind the gateway's second inside NIC.
    pub second_client: Option<Namespace>,
    /// Where `sluice` runs.
    pub gateway: Namespace,
    /// Where the servers run; every address is its own.
    pub internet: Namespace,
    /// The word in all names of this lab.
    pub unique: String,
}

/// A line of `ip -json -details link show`.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    flags: BTreeSet<String>,
    #[serde(default)]
    linkinfo: LinkInfo,
}

#[derive(Default, Deserialize)]
struct LinkInfo {
    #[serde(default)]
    info_kind: String,
}

// === impl Topology ===

impl Topology {
    /// Makes the namespaces, joins them and checks that nothing leads out of them.
    ///
    /// # Errors
    ///
    /// Without root's privileges, without `ip`, `ethtool` or `nsenter`, or if a check fails.
    pub fn new(clients: Clients) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the lab makes network namespaces, which needs root: run it as root");
        }
        let unique = crate::netns::unique();
        let second_client = match clients {
            Clients::One => None,
            Clients::Two => Some(Namespace::new(&unique, "client2")?),
        };
        let topology = Self {
            client: Namespace::new(&unique, "client")?,
            second_client,
            gateway: Namespace::new(&unique, "gateway")?,
            internet: Namespace::new(&unique, "internet")?,
            unique,
        };
        topology.configure()?;
        topology.check_closed()?;
        Ok(topology)
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client, &self.gateway, &self.internet].into_iter().chain(&self.second_client)
    }

    fn configure(&self) -> Result<()> {
        for namespace in self.namespaces() {
            // Addresses are usable at once, and none appears that wasn't given.
            namespace.set_sysctls(&[
                ("net/ipv6/conf/all/accept_dad", "0"),
                ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv6/conf/default/dad_transmits", "0"),
                ("net/ipv6/conf/default/accept_ra", "0"),
                ("net/ipv6/conf/default/router_solicitations", "0"),
                // Every user may open ICMP echo sockets, which is how the probe sends echoes.
                ("net/ipv4/ping_group_range", "0 2147483647"),
            ])?;
        }
        join(&self.gateway, INSIDE, &self.client)?;
        join(&self.gateway, OUTSIDE, &self.internet)?;
        address(&self.client, "eth0", "10.20.0.2/24", "fd00:20::2/64")?;
        address(&self.gateway, INSIDE, "10.20.0.1/24", "fd00:20::1/64")?;
        address(&self.gateway, OUTSIDE, "192.0.2.1/24", "2001:db8:2::1/64")?;
        address(&self.internet, "eth0", "192.0.2.2/24", "2001:db8:2::2/64")?;
        routes(&self.client, "10.20.0.1", "fd00:20::1", "default")?;
        routes(&self.gateway, "192.0.2.2", "2001:db8:2::2", "default")?;
        if let Some(client) = &self.second_client {
            join(&self.gateway, SECOND_INSIDE, client)?;
            address(client, "eth0", "10.21.0.2/24", "fd00:21::2/64")?;
            address(&self.gateway, SECOND_INSIDE, "10.21.0.1/24", "fd00:21::1/64")?;
            routes(client, "10.21.0.1", "fd00:21::1", "default")?;
        }
        self.gateway
            .set_sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        self.become_the_internet()
    }

    /// Makes every address one of the internet's own, but for the way back to the clients. The
    /// routes are put into the main table, where longer ones go before them.
    fn become_the_internet(&self) -> Result<()> {
        run(self.internet.command("ip").args("route add 10.20.0.0/15 via 192.0.2.1".split(' ')))?;
        run(self
            .internet
            .command("ip")
            .args("-6 route add fd00:20::/31 via 2001:db8:2::1".split(' ')))?;
        for family in ["-4", "-6"] {
            run(self
                .internet
                .command("ip")
                .arg(family)
                .args("route add local default dev lo table main".split(' ')))?;
        }
        // IPv6 checks an address that a socket is bound to against addresses, not routes.
        self.internet
            .set_sysctls(&[("net/ipv6/ip_nonlocal_bind", "1"), ("net/core/rmem_max", "16777216")])
            .or_else(|_| self.internet.set_sysctls(&[("net/ipv6/ip_nonlocal_bind", "1")]))
    }

    /// Checks that each namespace has its loopback and the lab's veth pairs, and no other NIC
    /// that is up.
    fn check_closed(&self) -> Result<()> {
        for namespace in self.namespaces() {
            let text =
                run(namespace.command("ip").args(["-json", "-details", "link", "show", "up"]))?;
            let links: Vec<Link> =
                serde_json::from_str(&text).context("what `ip -json` printed")?;
            for link in links {
                let expected = if namespace.name() == self.gateway.name() {
                    [INSIDE, SECOND_INSIDE, OUTSIDE].contains(&link.ifname.as_str())
                } else {
                    link.ifname == "eth0"
                };
                let closed = link.flags.contains("LOOPBACK")
                    || (expected && link.linkinfo.info_kind == "veth");
                if !closed {
                    bail!(
                        "the NIC {} in {} is not the lab's own: it might lead out, so nothing is sent",
                        link.ifname,
                        namespace.name()
                    );
                }
            }
        }
        Ok(())
    }
}

/// Joins a NIC of the gateway to `eth0` of another namespace.
fn join(gateway: &Namespace, nic: &str, other: &Namespace) -> Result<()> {
    run(Command::new("ip")
        .args(["-n", gateway.name(), "link", "add", nic, "mtu", "1500"])
        .args(["type", "veth", "peer", "name", "eth0", "netns", other.name()]))?;
    for (namespace, nic) in [(gateway, nic), (other, "eth0")] {
        run(namespace.command("ethtool").args(["-K", nic]).args(OFFLOADS_OFF))?;
        run(namespace.command("ip").args(["link", "set", nic, "up"]))?;
    }
    Ok(())
}

fn address(namespace: &Namespace, nic: &str, v4: &str, v6: &str) -> Result<()> {
    run(namespace.command("ip").args(["addr", "add", v4, "dev", nic]))?;
    run(namespace.command("ip").args(["addr", "add", v6, "dev", nic, "nodad"]))?;
    Ok(())
}

fn routes(namespace: &Namespace, v4: &str, v6: &str, to: &str) -> Result<()> {
    run(namespace.command("ip").args(["route", "add", to, "via", v4]))?;
    run(namespace.command("ip").args(["-6", "route", "add", to, "via", v6]))?;
    Ok(())
}
