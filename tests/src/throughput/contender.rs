// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who stands in the way of the traffic, each with the same 1,000 addresses and one port allowed.

use std::{
    fmt::{self, Write as _},
    fs,
    net::Ipv4Addr,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::{
    gateway::{Configuration, Gateway},
    generator::live::{Attached, Empty},
    netns::Namespace,
    process::{output, run},
    topology::{INSIDE, OUTSIDE, Topology},
    workdir::Workdir,
};

/// The port that is allowed.
pub(super) const PORT: u16 = 443;

/// A port that xdp-filter passes to any address, and that nothing is sent to: it can't tie a port
/// to an address, and shall look both up.
const OTHER_PORT: &str = "53";

/// Addresses in one rule of Sluice's policy.
const RULE: usize = 50;

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// A program that only drops: what is possible for denied traffic.
    Drop,
    /// The same, having read the destination: what is possible for a filter.
    DropReading,
    /// Nobody: the kernel forwards.
    Forwarding,
    /// A program that only passes.
    Pass,
    /// Sluice without an outside NIC: it follows no flows.
    Sluice,
    /// Sluice with an outside NIC.
    SluiceFlows,
    /// xdp-filter with all its features.
    XdpFilter,
    /// nftables at the ingress hook of the NIC.
    NftIngress,
    /// nftables where packets are forwarded.
    NftForward,
    /// As before, behind a rule for established connections.
    NftState,
    /// iptables with an ipset where packets are forwarded.
    Ipset,
}

/// A contender at work; it goes with its lab, and what doesn't, when this is dropped.
#[derive(Debug)]
pub(super) enum Work<'lab> {
    Sluice(Box<Gateway<'lab>>),
    Program {
        _attached: Attached,
    },
    /// Rules of the namespace.
    Rules,
}

impl Contender {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Drop,
        Self::DropReading,
        Self::Forwarding,
        Self::Pass,
        Self::Sluice,
        Self::SluiceFlows,
        Self::XdpFilter,
        Self::NftIngress,
        Self::NftForward,
        Self::NftState,
        Self::Ipset,
    ];

    /// Whether it lets pass what is allowed.
    #[must_use]
    pub fn passes(self) -> bool {
        !matches!(self, Self::Drop | Self::DropReading)
    }

    /// Whether it drops what is not allowed.
    #[must_use]
    pub fn drops(self) -> bool {
        !matches!(self, Self::Forwarding | Self::Pass)
    }

    /// Whether it remembers connections.
    #[must_use]
    pub fn follows_flows(self) -> bool {
        matches!(self, Self::SluiceFlows | Self::NftState)
    }

    pub(super) fn start<'lab>(
        self,
        topology: &'lab Topology,
        allowed: &[Ipv4Addr],
    ) -> Result<Work<'lab>> {
        let gateway = &topology.gateway;
        Ok(match self {
            Self::Forwarding => Work::Rules,
            Self::Drop => program(gateway, Empty::Drop)?,
            Self::DropReading => program(gateway, Empty::DropReading)?,
            Self::Pass => program(gateway, Empty::Pass)?,
            Self::Sluice => sluice(topology, &configuration("[]", allowed)?)?,
            Self::SluiceFlows => {
                sluice(topology, &configuration(&format!("[\"{OUTSIDE}\"]"), allowed)?)?
            }
            Self::XdpFilter => xdp_filter(topology, allowed)?,
            Self::NftIngress => {
                // Without ARP a gateway would be of no use.
                let rules = format!(
                    "table netdev bench {{\n{}  chain ingress {{\n    type filter hook ingress \
                     device \"{INSIDE}\" priority 0; policy drop;\n    ip daddr . th dport \
                     @allowed accept\n    meta protocol arp accept\n  }}\n}}\n",
                    nft_set(allowed)?
                );
                nft(topology, &rules)?
            }
            Self::NftForward => nft(topology, &forward("", allowed)?)?,
            Self::NftState => {
                nft(topology, &forward("    ct state established,related accept\n", allowed)?)?
            }
            Self::Ipset => ipset(topology, allowed)?,
        })
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "empty XDP_DROP",
            Self::DropReading => "XDP_DROP, destination read",
            Self::Forwarding => "forwarding alone",
            Self::Pass => "empty XDP_PASS",
            Self::Sluice => "Sluice, stateless",
            Self::SluiceFlows => "Sluice, stateful",
            Self::XdpFilter => "xdp-filter",
            Self::NftIngress => "nftables ingress, set",
            Self::NftForward => "nftables forward, set",
            Self::NftState => "nftables forward, ct state and set",
            Self::Ipset => "iptables forward, ipset",
        })
    }
}

/// Packages of Debian that the benchmark needs, and a program of each.
pub(super) const PACKAGES: [(&str, &str); 7] = [
    ("xdp-tools", "xdp-filter"),
    ("nftables", "nft"),
    ("iptables", "iptables"),
    ("ipset", "ipset"),
    ("tcpreplay", "tcpreplay"),
    ("netsniff-ng", "trafgen"),
    ("iperf3", "iperf3"),
];

/// Looks for all programs before anything is measured.
pub(super) fn find_peers() -> Result<()> {
    for (package, program) in PACKAGES {
        output(Command::new(program).arg("--version"))
            .with_context(|| format!("the benchmark needs Debian's package {package}"))?;
    }
    Ok(())
}

fn program<'lab>(gateway: &Namespace, which: Empty) -> Result<Work<'lab>> {
    Ok(Work::Program { _attached: Attached::new(gateway, INSIDE, which)? })
}

fn sluice<'lab>(topology: &'lab Topology, configuration: &Configuration) -> Result<Work<'lab>> {
    let mut gateway = Gateway::new(topology, configuration)?;
    gateway.start()?;
    Ok(Work::Sluice(Box::new(gateway)))
}

fn configuration(outside: &str, allowed: &[Ipv4Addr]) -> Result<Configuration> {
    let gateway = format!(
        "[gateway]\ninside = [\"{INSIDE}\"]\noutside = {outside}\nignore = [\"{OUTSIDE}\"]\n\
         xdp_mode = \"native\"\ndeny = \"drop\"\n"
    );
    let gateway =
        if outside == "[]" { gateway } else { gateway.replace("ignore = [\"wan0\"]\n", "") };
    let mut policy =
        "[[source]]\nname = \"clients\"\ncidr = [\"10.32.0.0/16\", \"10.20.0.0/24\"]\n".to_owned();
    for (number, addresses) in allowed.chunks(RULE).enumerate() {
        let addresses: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        write!(
            policy,
            "\n[[rule]]\nname = \"service-{number}\"\nfrom = [\"clients\"]\nto = [{}]\n\
             tcp = [{PORT}]\nudp = [{PORT}]\n",
            addresses.join(", ")
        )?;
    }
    Ok(Configuration::new(gateway).policy("bench", policy))
}

fn nft_set(allowed: &[Ipv4Addr]) -> Result<String> {
    let mut text =
        "  set allowed {\n    type ipv4_addr . inet_service\n    elements = {\n".to_owned();
    for address in allowed {
        writeln!(text, "      {address} . {PORT},")?;
    }
    text.push_str("    }\n  }\n");
    Ok(text)
}

/// Rules where packets are forwarded. What comes from outside passes: only egress is filtered.
fn forward(first: &str, allowed: &[Ipv4Addr]) -> Result<String> {
    Ok(format!(
        "table ip bench {{\n{}  chain forward {{\n    type filter hook forward priority 0; policy \
         drop;\n{first}    ip daddr . th dport @allowed accept\n    iifname \"{OUTSIDE}\" \
         accept\n  }}\n}}\n",
        nft_set(allowed)?
    ))
}

fn nft<'lab>(topology: &'lab Topology, rules: &str) -> Result<Work<'lab>> {
    let directory = Workdir::new("nft")?;
    let file = directory.path().join("rules");
    fs::write(&file, rules)?;
    run(topology.gateway.command("nft").arg("-f").arg(&file))?;
    Ok(Work::Rules)
}

fn ipset<'lab>(topology: &'lab Topology, allowed: &[Ipv4Addr]) -> Result<Work<'lab>> {
    let mut text = "create allowed hash:ip,port\n".to_owned();
    for address in allowed {
        for protocol in ["tcp", "udp"] {
            writeln!(text, "add allowed {address},{protocol}:{PORT}")?;
        }
    }
    let directory = Workdir::new("ipset")?;
    let file = directory.path().join("set");
    fs::write(&file, text)?;
    let gateway = &topology.gateway;
    run(gateway.command("ipset").arg("restore").arg("-file").arg(&file))?;
    for rule in [
        "-A FORWARD -m set --match-set allowed dst,dst -j ACCEPT".to_owned(),
        format!("-A FORWARD -i {OUTSIDE} -j ACCEPT"),
        "-P FORWARD DROP".to_owned(),
    ] {
        run(gateway.command("iptables").args(rule.split(' ')))?;
    }
    Ok(Work::Rules)
}

/// xdp-filter keeps its maps in the bpffs under one name for the whole machine, so it gets a bpffs
/// of its own, which goes with the shell; the program stays on the NIC and holds the maps.
/// libxdp's dispatcher is left out: it needs `freplace`, and costs more than a single program.
fn xdp_filter<'lab>(topology: &'lab Topology, allowed: &[Ipv4Addr]) -> Result<Work<'lab>> {
    let mut script = format!(
        "set -e\nmount -t bpf bpf /sys/fs/bpf\nexport LIBXDP_SKIP_DISPATCHER=1\n\
         xdp-filter load --mode native --features all --policy deny {INSIDE}\n\
         xdp-filter port {OTHER_PORT} --mode dst\n"
    );
    for address in allowed {
        writeln!(script, "xdp-filter ip {address} --mode dst")?;
    }
    script.push_str("xdp-filter status\n");
    let directory = Workdir::new("xdp-filter")?;
    let file = directory.path().join("script");
    fs::write(&file, script)?;
    let mut command = topology.gateway.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh"]).arg(&file);
    let status = run(&mut command).context("xdp-filter (Debian package xdp-tools)")?;
    let listed = allowed.iter().filter(|address| status.contains(&format!(" {address} "))).count();
    if listed != allowed.len() {
        bail!("xdp-filter lists {listed} of {} addresses:\n{status}", allowed.len());
    }
    Ok(Work::Rules)
}
