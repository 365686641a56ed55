// SPDX-License-Identifier: MIT OR Apache-2.0
//! The generator by itself, for a gateway of one's own in network namespaces.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ipnet::Ipv4Net;
use serde_json::Value;

use super::counters::Counters;
use crate::{
    generator::live::{Generator, Size, Traffic, Transport, Way},
    netns::Namespace,
    process::run,
};

/// How it is called.
pub const USAGE: &str = "\
usage: generate --namespace NAME --nic NIC --mac MAC --from PREFIX --to ADDRESSES [--udp PORT | --tcp PORT] \
[--size BYTES|imix] [--source-ports COUNT] [--seconds COUNT] [--processor NUMBER]
  sends UDP packets or TCP SYNs from a veth NIC in a network namespace, as fast as it goes
  --mac        the MAC address of the gateway's NIC
  --from       each packet comes from a random address of this prefix
  --to         and goes to a random one of these addresses or prefixes, with commas between them; `@FILE` has one \
in a line
  --udp/--tcp  to this port (UDP 443)
  --size       of frames: 60 to 1514 (60), or `imix`
";

/// The longest run in seconds.
const LONGEST: u64 = 3600;

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    namespace: String,
    nic: String,
    mac: [u8; 6],
    traffic: Traffic,
    time: Duration,
    processor: usize,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    made: u64,
    taken: u64,
    time: Duration,
}

// === impl Order ===

impl Order {
    /// Reads the words of a command line.
    ///
    /// # Errors
    ///
    /// If they are none of [`USAGE`].
    pub fn parse(words: &[&str]) -> Result<Self> {
        let (mut namespace, mut nic, mut mac, mut from, mut to) = (None, None, None, None, None);
        let mut order = Self {
            namespace: String::new(),
            nic: String::new(),
            mac: [0; 6],
            traffic: Traffic {
                transport: Transport::Udp,
                size: Size::Bytes(60),
                sources: Ipv4Net::default(),
                source_ports: 1,
                destinations: Vec::new(),
                port: 443,
                way: Way::There,
            },
            time: Duration::from_secs(10),
            processor: 0,
        };
        for pair in words.chunks(2) {
            let [option, value] = pair else { bail!("{} needs a value", pair.concat()) };
            let wrong = || format!("{option} {value}");
            match *option {
                "--namespace" => namespace = Some((*value).to_owned()),
                "--nic" => nic = Some((*value).to_owned()),
                "--mac" => mac = Some(parse_mac(value).with_context(wrong)?),
                "--from" => from = Some(value.parse().with_context(wrong)?),
                "--to" => to = Some(destinations(value).with_context(wrong)?),
                "--udp" | "--tcp" => {
                    order.traffic.port = value.parse().with_context(wrong)?;
                    let udp = *option == "--udp";
                    order.traffic.transport = if udp { Transport::Udp } else { Transport::Syn };
                }
                "--size" => order.traffic.size = value.parse().with_context(wrong)?,
                "--source-ports" => {
                    order.traffic.source_ports = value.parse().with_context(wrong)?;
                }
                "--seconds" => {
                    let seconds = value.parse().with_context(wrong)?;
                    ensure!((1..=LONGEST).contains(&seconds), "at most {LONGEST} seconds");
                    order.time = Duration::from_secs(seconds);
                }
                "--processor" => order.processor = value.parse().with_context(wrong)?,
                _ => bail!("there is no option {option}"),
            }
        }
        order.namespace = namespace.context("--namespace is missing")?;
        order.nic = nic.context("--nic is missing")?;
        order.mac = mac.context("--mac is missing")?;
        order.traffic.sources = from.context("--from is missing")?;
        order.traffic.destinations = to.context("--to is missing")?;
        Ok(order)
    }

    /// Sends.
    ///
    /// # Errors
    ///
    /// If the namespace or the NIC isn't there, or the NIC is no veth: such traffic should not leave
    /// the machine.
    pub fn carry_out(&self) -> Result<Sent> {
        let namespace = Namespace::open(&self.namespace)?;
        self.check_veth(&namespace)?;
        let generator = Generator::new(&namespace, &self.nic, self.mac, 1, &self.traffic)?;
        let counters = Counters::open(&namespace)?;
        let before = counters.nic(&self.nic)?.sent;
        let stop = AtomicBool::new(false);
        let begin = Instant::now();
        let made = thread::scope(|scope| {
            let sender = scope.spawn(|| generator.run(&namespace, self.processor, &stop));
            while begin.elapsed() < self.time && !sender.is_finished() {
                thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            sender.join().map_err(|_panic| anyhow!("the generator panicked"))?
        })?;
        let taken = counters.nic(&self.nic)?.sent - before;
        Ok(Sent { made, taken, time: begin.elapsed() })
    }

    fn check_veth(&self, namespace: &Namespace) -> Result<()> {
        let arguments = ["-json", "-details", "link", "show", "dev", &self.nic];
        let text = run(namespace.command("ip").args(arguments))?;
        let links: Value = serde_json::from_str(&text).context("what `ip -json` printed")?;
        let kind = links.pointer("/0/linkinfo/info_kind").and_then(Value::as_str);
        ensure!(
            kind == Some("veth"),
            "{} is no veth: what is sent might leave the machine",
            self.nic
        );
        Ok(())
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let octets: Vec<_> =
        text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>()?;
    octets.try_into().map_err(|_octets| anyhow!("a MAC address has six octets"))
}

fn destinations(text: &str) -> Result<Vec<Ipv4Addr>> {
    let listed = match text.strip_prefix('@') {
        Some(file) => fs::read_to_string(file).with_context(|| format!("{file} can't be read"))?,
        None => text.replace(',', "\n"),
    };
    let mut addresses = Vec::new();
    for word in listed.split_whitespace() {
        if let Ok(address) = word.parse() {
            addresses.push(address);
            continue;
        }
        let prefix: Ipv4Net =
            word.parse().with_context(|| format!("`{word}` is no IPv4 prefix"))?;
        ensure!(prefix.prefix_len() >= 16, "{prefix} has more addresses than can be listed");
        addresses.extend(prefix.hosts());
    }
    Ok(addresses)
}

// === impl Sent ===

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64();
        write!(
            f,
            "{} packets in {seconds:.1} s, {:.2} million a second; the other end took {}, {:.2} million a second",
            self.made,
            self.made as f64 / seconds / 1e6,
            self.taken,
            self.taken as f64 / seconds / 1e6,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_from_words() {
        let words = "--namespace client --nic eth0 --mac 02:00:00:00:00:0a --from 10.0.0.0/24 --to \
                     203.0.113.7,198.51.100.0/30 --tcp 80 --size imix --seconds 3";
        let words: Vec<_> = words.split(' ').collect();
        let order = Order::parse(&words).unwrap();
        assert_eq!(order.mac, [2, 0, 0, 0, 0, 10]);
        assert_eq!(order.traffic.transport, Transport::Syn);
        assert_eq!(order.traffic.size, Size::Mix);
        let destinations = ["203.0.113.7", "198.51.100.1", "198.51.100.2"];
        assert_eq!(
            order.traffic.destinations,
            destinations.map(|text| text.parse::<Ipv4Addr>().unwrap())
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        for (words, expected) in [
            ("--nic eth0", "--namespace is missing"),
            ("--nic", "--nic needs a value"),
            ("--size 59", "--size 59"),
            ("--speed 1", "there is no option --speed"),
            ("--to 10.0.0.0/8", "--to 10.0.0.0/8"),
        ] {
            let words: Vec<_> = words.split(' ').collect();
            assert_eq!(Order::parse(&words).unwrap_err().to_string(), expected);
        }
    }
}
