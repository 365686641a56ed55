// SPDX-License-Identifier: MIT OR Apache-2.0
//! Allowed traffic from tools of other people's making. They send by sockets and are slower than any
//! contender, so that what a packet costs the gateway says more than the rate.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{
    Effort, Spread, ToolRow,
    contender::{Contender, PORT},
    lane::{END, Lane},
};
use crate::{
    frames,
    process::{Process, output, run, wait_until},
    raw,
    topology::{CLIENT_V4, INSIDE},
    workdir::Workdir,
};

/// Through whom the tools send.
const THROUGH: [Contender; 6] = [
    Contender::Forwarding,
    Contender::Pass,
    Contender::Sluice,
    Contender::SluiceFlows,
    Contender::NftForward,
    Contender::NftState,
];

/// Frames of the capture, in the proportions of IMIX, and of trafgen's configuration.
const CAPTURED: usize = 480;
const CONFIGURED: usize = 64;

/// Payloads of UDP in frames of 60, 590 and 1514 bytes.
const PAYLOADS: [(usize, usize); 3] = [(28, 18), (16, 548), (4, 1472)];

/// What a sender may take longer than it was told to.
const GRACE: Duration = Duration::from_secs(10);

/// What a sender says.
const LOG: &str = "log";

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// A capture with IMIX.
    Tcpreplay,
    /// Small packets of UDP.
    Trafgen,
    /// A TCP connection.
    IperfTcp,
    /// UDP as fast as it goes, in large packets.
    IperfUdp,
}

// === impl Tool ===

impl Tool {
    /// What its rate is in.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Tcpreplay | Self::Trafgen => "packets/s",
            Self::IperfTcp | Self::IperfUdp => "bit/s",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcpreplay => "tcpreplay, IMIX",
            Self::Trafgen => "trafgen, 60 bytes",
            Self::IperfTcp => "iperf3 TCP",
            Self::IperfUdp => "iperf3 UDP, 1400 bytes",
        })
    }
}

/// Lets each tool send through some of the contenders; the lanes are of no other use afterwards.
pub(super) fn measure(
    lanes: &mut [Lane<'_>],
    allowed: &[Ipv4Addr],
    effort: Effort,
) -> Result<Vec<ToolRow>> {
    let mut lanes: Vec<_> =
        lanes.iter_mut().filter(|lane| THROUGH.contains(&lane.contender)).collect();
    let mut rates: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut costs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for tool in [Tool::Tcpreplay, Tool::Trafgen] {
            for lane in &lanes {
                let directory = Workdir::new("sender")?;
                let mut sender = match tool {
                    Tool::Tcpreplay => tcpreplay(lane, allowed, effort.time, directory.path())?,
                    _ => trafgen(lane, allowed, directory.path())?,
                };
                let limit = effort.time + GRACE;
                let sample =
                    lane.watch(effort.time, || send(&mut sender, limit)).with_context(|| {
                        let said = fs::read_to_string(directory.path().join(LOG));
                        format!("{tool} said: {}", said.unwrap_or_default().trim())
                    })?;
                rates.entry((tool, lane.contender)).or_default().push(sample.arrived);
                costs.entry((tool, lane.contender)).or_default().push(sample.cost);
            }
        }
        lanes.rotate_left(1);
    }
    lanes.iter_mut().for_each(|lane| lane.take_receivers_off());
    let to = *allowed.first().context("no address is allowed")?;
    for _ in 0..effort.rounds {
        for tool in [Tool::IperfTcp, Tool::IperfUdp] {
            for lane in &lanes {
                let rate = iperf(lane, to, tool, effort.time)
                    .with_context(|| format!("{tool} through {}", lane.contender))?;
                rates.entry((tool, lane.contender)).or_default().push(rate);
            }
        }
        lanes.rotate_left(1);
    }
    rates
        .into_iter()
        .map(|((tool, contender), rates)| {
            let costs = costs.remove(&(tool, contender));
            let cost = costs.map(Spread::of).transpose()?;
            Ok(ToolRow { tool, contender, rate: Spread::of(rates)?, cost })
        })
        .collect()
}

/// Runs a sender that ends by itself.
fn send(command: &mut Command, limit: Duration) -> Result<()> {
    let mut sender = Process::spawn(command)?;
    let status = sender.wait(limit)?;
    ensure!(status.success(), "the sender ended with {status}");
    Ok(())
}

fn tcpreplay(
    lane: &Lane<'_>,
    allowed: &[Ipv4Addr],
    time: Duration,
    directory: &Path,
) -> Result<Command> {
    let capture = directory.join("imix.pcap");
    let ends = ends(lane)?;
    // The header of a capture of Ethernet frames in microseconds, little-endian.
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    let sizes: Vec<_> = PAYLOADS
        .iter()
        .flat_map(|(count, payload)| std::iter::repeat_n(*payload, *count))
        .collect();
    // 48 and 19 have no common factor: sizes follow one another in no blocks.
    let sizes = (0..CAPTURED).filter_map(|number| sizes.get(number * 19 % sizes.len()));
    for (payload, to) in sizes.zip(allowed) {
        let mut frame = frames::frame(&format!(
            "ip {CLIENT_V4} > {to} ttl=64 | udp 40000 > {PORT} | data {payload}"
        ))?;
        frame.splice(..12, ends);
        raw::complete(&mut frame);
        let length = u32::try_from(frame.len())?;
        for word in [0, 0, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    fs::write(&capture, bytes)?;
    // Longer than what is measured, by what goes before.
    let seconds = (time + Duration::from_secs(1)).as_secs().to_string();
    let mut command = sender(lane, "tcpreplay")?;
    command.args(["-i", END, "--topspeed", "--preload-pcap", "--quiet", "--loop=0"]);
    command.arg(format!("--duration={seconds}")).arg(&capture);
    quiet(&mut command, directory)?;
    Ok(command)
}

fn trafgen(lane: &Lane<'_>, allowed: &[Ipv4Addr], directory: &Path) -> Result<Command> {
    let [to, from] = {
        let ends = ends(lane)?;
        let (to, from) = ends.split_at(6);
        [to, from]
            .map(|mac| mac.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":"))
    };
    let mut text = String::new();
    for address in allowed.iter().take(CONFIGURED) {
        writeln!(
            text,
            "{{ eth(da={to}, sa={from}), ipv4(sa={CLIENT_V4}, da={address}, ttl=64), \
             udp(sp=40000, dp={PORT}), fill(0x00, 18) }}"
        )?;
    }
    let file = directory.join("packets");
    fs::write(&file, text)?;
    let mut command = sender(lane, "trafgen")?;
    command.args(["-o", END, "-P", "1", "--no-sock-mem", "-n", "600000"]);
    // With a rate it waits where a queue is full, instead of giving up.
    command.args(["-b", "1000000pps", "-i"]).arg(&file);
    quiet(&mut command, directory)?;
    Ok(command)
}

/// A command in the client's namespace on the generator's processor, whatever happens not longer
/// than it may.
fn sender(lane: &Lane<'_>, program: &str) -> Result<Command> {
    let processor = lane.processors().generator.to_string();
    let mut command = lane.topology.client.command("taskset");
    command.args(["-c", &processor, "timeout", "--kill-after=1", "20", program]);
    Ok(command)
}

fn quiet(command: &mut Command, directory: &Path) -> Result<()> {
    let log = fs::File::create(directory.join(LOG))?;
    command.stdout(log.try_clone()?).stderr(log);
    Ok(())
}

/// Destination and source, as frames of the client begin with them.
fn ends(lane: &Lane<'_>) -> Result<[u8; 12]> {
    let (_, to) = raw::identity(&lane.topology.gateway, INSIDE)?;
    let (_, from) = raw::identity(&lane.topology.client, END)?;
    let mut ends = [0; 12];
    for (place, octet) in ends.iter_mut().zip(to.into_iter().chain(from)) {
        *place = octet;
    }
    Ok(ends)
}

/// Bits a second that were received.
fn iperf(lane: &Lane<'_>, to: Ipv4Addr, tool: Tool, time: Duration) -> Result<f64> {
    let port = PORT.to_string();
    let mut server = lane.topology.internet.command("iperf3");
    server.args(["-s", "-1", "-p", &port, "-B", &to.to_string()]);
    let directory = Workdir::new("iperf3")?;
    quiet(&mut server, directory.path())?;
    let mut server = Process::spawn(&mut server)?;
    let listens = format!("{to}:{port}");
    wait_until("iperf3 listens", GRACE, || {
        let mut sockets = lane.topology.internet.command("ss");
        Ok(run(sockets.args(["-Hltn"]))?.contains(&listens))
    })?;
    let mut client = sender(lane, "iperf3")?;
    let seconds = time.as_secs().max(1).to_string();
    client.args(["-c", &to.to_string(), "-p", &port, "-t", &seconds, "-J"]);
    if tool == Tool::IperfUdp {
        client.args(["-u", "-b", "0", "-l", "1400"]);
    }
    let said = output(&mut client)?;
    let said: Value = serde_json::from_slice(&said.stdout).context("what iperf3 said")?;
    let sum = if tool == Tool::IperfUdp { "sum" } else { "sum_received" };
    let end = said.get("end").and_then(|end| end.get(sum));
    let number = |name: &str| end.and_then(|end| end.get(name)).and_then(Value::as_f64);
    let rate = number("bits_per_second").with_context(|| format!("iperf3 said {said}"))?;
    // Of UDP, iperf3 3.12 gives the rate that was sent.
    let lost = if tool == Tool::IperfUdp { number("lost_percent").unwrap_or(0.0) } else { 0.0 };
    server.wait(GRACE)?;
    Ok(rate * (1.0 - lost / 100.0))
}
