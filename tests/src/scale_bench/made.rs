// SPDX-License-Identifier: MIT OR Apache-2.0
//! A policy of a size: rules as vendors' lists make them, groups of clients, and what must hold of
//! both.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::gateway::Configuration;

/// How large a policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Destination prefixes.
    pub prefixes: u32,
    /// Groups of clients, a prefix each.
    pub groups: u32,
    /// Rules with prefixes of their own.
    pub rules: u32,
    /// Rules for every client with a few wide prefixes, which many of the others lie in.
    pub wide: u32,
    /// Addresses of names that are known before the daemon starts.
    pub learned: u32,
}

/// What one question of `sluice explain` has to be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The client.
    pub from: IpAddr,
    /// The destination.
    pub to: IpAddr,
    /// The port.
    pub port: Port,
    /// Whether the packet passes.
    pub passes: bool,
}

/// A destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Of TCP.
    Tcp(u16),
    /// Of UDP.
    Udp(u16),
}

/// The TCP ports that rules have some of, each rule others, and a port that none has.
const TCP: [u16; 12] = [443, 80, 8080, 8443, 22, 25, 465, 587, 993, 3389, 5061, 8883];
const NO_TCP: u16 = 9;

/// The UDP ports of the wide rules.
const UDP: [u16; 7] = [443, 123, 3478, 500, 4500, 1701, 5060];

/// The lengths that one prefix after the other has. Of the real lists of service tags, half are
/// single addresses or a few of them.
const LENGTHS_V4: [u8; 10] = [32, 24, 32, 28, 31, 23, 32, 27, 29, 26];
const LENGTHS_V6: [u8; 6] = [48, 64, 56, 128, 52, 64];

/// Rules of one file.
const RULES_PER_FILE: u32 = 32;

/// So many rules list an address in the prefix of another rule, and that for one of so many of theirs.
const PARTNERS: u32 = 128;
const NESTED: u32 = 21;

/// Where the prefixes are put: every IPv4 prefix into a /23 of its own, every IPv6 prefix into a
/// /48. Those of a rule stand together, and half of them in a wide prefix.
const FIRST_V4: u32 = 0x1400_0000;
const FIRST_V6: u128 = 0x2a00 << 112;
const SHIFT_V4: u32 = 9;
const SHIFT_V6: u32 = 80;

/// The clients' networks: a /24 for each group.
pub const CLIENTS: &str = "10.64.0.0/14";
const FIRST_CLIENT: u32 = 0x0a40_0000;

/// The patterns of the rule for names.
pub const PATTERNS: u32 = 64;

// === impl Size ===

impl Size {
    /// A policy of so many prefixes.
    #[must_use]
    pub fn new(prefixes: u32) -> Self {
        let rules = (prefixes / 400).clamp(16, 2048);
        Self {
            prefixes,
            groups: (rules / 2).min(1024),
            rules,
            wide: (rules / 32).clamp(2, 64),
            learned: (prefixes / 10).min(100_000),
        }
    }

    /// The configuration. In another round, two of a hundred prefixes are others, where they can be.
    #[must_use]
    pub fn configuration(&self, round: u32) -> Configuration {
        let mut configuration = Configuration::new(self.gateway());
        for first in (0..self.rules).step_by(RULES_PER_FILE as usize) {
            let mut text = String::new();
            for rule in first..self.rules.min(first + RULES_PER_FILE) {
                self.rule(&mut text, rule, round);
            }
            configuration = configuration.policy(&format!("list-{first:05}"), text);
        }
        configuration.policy("wide", self.wide_rules())
    }

    fn gateway(&self) -> String {
        // Rules and pairs of rules, each by each group: as many as there are, and some more.
        let cells = ((self.rules * 3 + 640) * (self.groups + 2)).max(1 << 18);
        let mut text = format!(
            "[gateway]\ninside  = [\"lan0\"]\noutside = [\"wan0\"]\n\
             max_grant_cells = {cells}\n\n\
             [dns]\nlisten = [\"10.20.0.1\"]\nupstream = [\"192.0.2.2\"]\n\
             max_addresses = 1000000\nmax_names_per_rule = 1000000\n",
        );
        for group in 0..self.groups {
            let network = Ipv4Addr::from(FIRST_CLIENT + (group << 8));
            let _ =
                write!(text, "\n[[source]]\nname = \"group-{group}\"\ncidr = [\"{network}/24\"]\n");
        }
        text
    }

    fn rule(&self, text: &mut String, rule: u32, round: u32) {
        let _ = write!(
            text,
            "[[rule]]\nname = \"list-{rule}\"\nfrom = [\"group-{}\"]\ntcp  = {:?}\nto   = [\n",
            self.group(rule),
            ports(rule)
        );
        for number in (rule..self.prefixes).step_by(self.rules as usize) {
            let _ = writeln!(text, "  \"{}\",", self.prefix(number, round));
            if let Some(inner) = self.nested(number, round) {
                let _ = writeln!(text, "  \"{inner}\",");
            }
        }
        text.push_str("]\n\n");
    }

    fn wide_rules(&self) -> String {
        let mut text = String::new();
        for wide in 0..self.wide {
            let udp: Vec<u16> = chosen(&UDP, wide + 1).collect();
            let _ = write!(text, "[[rule]]\nname = \"wide-{wide}\"\nudp  = {udp:?}\nto   = [");
            for rule in (wide..self.rules).step_by(self.wide as usize) {
                let (first, bits) = (self.first_place(rule), self.place_bits() - 1);
                let v4 = FIRST_V4 + (first << SHIFT_V4);
                let v6 = FIRST_V6 + (u128::from(first) << SHIFT_V6);
                let _ = write!(text, "\"{}/{}\", ", Ipv4Addr::from(v4), 32 - SHIFT_V4 - bits);
                let _ = write!(text, "\"{}/{}\", ", Ipv6Addr::from(v6), 128 - SHIFT_V6 - bits);
            }
            let _ = writeln!(text, "\"198.18.{wide}.0/24\"]\n");
        }
        let _ = write!(text, "[[rule]]\nname = \"names\"\ntcp  = [443]\nto   = [");
        for pattern in 0..PATTERNS {
            let _ = write!(text, "\"*.p{pattern}.example.com\", ");
        }
        text.push_str("]\n");
        text
    }

    fn group(&self, rule: u32) -> u32 {
        rule % self.groups
    }

    /// How many bits tell the places of one rule in one family apart.
    fn place_bits(&self) -> u32 {
        let places = self.prefixes.div_ceil(self.rules).div_ceil(2);
        places.next_power_of_two().trailing_zeros().max(1)
    }

    fn first_place(&self, rule: u32) -> u32 {
        rule << self.place_bits()
    }

    /// The prefix of a number.
    fn prefix(&self, number: u32, round: u32) -> IpNet {
        let (rule, turn) = (number % self.rules, number / self.rules);
        let place = self.first_place(rule) + turn / 2;
        // The last place of a /23 and a /48 is another one in each round.
        let moved = if number % 100 < 2 { round } else { 0 };
        if turn % 2 == 0 {
            let length = pick(&LENGTHS_V4, turn / 2);
            let address = FIRST_V4 + (place << SHIFT_V4) + (moved << (32 - length.max(24)));
            net(Ipv4Net::new_assert(address.into(), length))
        } else {
            let length = pick(&LENGTHS_V6, turn / 2);
            let address = FIRST_V6
                + (u128::from(place) << SHIFT_V6)
                + (u128::from(moved) << (128 - length.max(52)));
            net(Ipv6Net::new_assert(address.into(), length))
        }
    }

    /// Another prefix that the rule of a number lists: an address in the prefix of its neighbour,
    /// which is another rule's.
    fn nested(&self, number: u32, round: u32) -> Option<IpNet> {
        let (rule, turn) = (number % self.rules, number / self.rules);
        if rule >= PARTNERS || turn % NESTED != 0 || (number ^ 1) >= self.prefixes {
            return None;
        }
        let around = self.prefix(number ^ 1, round);
        (around.prefix_len() < around.max_prefix_len()).then(|| around.network().into())
    }

    /// How many prefixes the rules list.
    #[must_use]
    pub fn listed(&self) -> usize {
        let nested = (0..self.prefixes).filter(|number| self.nested(*number, 0).is_some()).count();
        self.prefixes as usize + nested
    }

    /// Questions over all of the policy, and their answers.
    #[must_use]
    pub fn questions(&self, count: u32, round: u32) -> Vec<Expected> {
        let mut questions = Vec::new();
        for at in 0..count {
            let number = u32::try_from(u64::from(at) * u64::from(self.prefixes) / u64::from(count))
                .unwrap_or(0);
            let rule = number % self.rules;
            let to = self.prefix(number, round).addr();
            // Clients have IPv4 addresses; to IPv6 destinations nobody of a group may go.
            let (from, member) = match to {
                IpAddr::V4(_) => (self.client(self.group(rule)), true),
                IpAddr::V6(_) => (crate::topology::CLIENT_V6.into(), false),
            };
            let own = ports(rule).first().copied().unwrap_or(NO_TCP);
            questions.push(Expected { from, to, port: Port::Tcp(own), passes: member });
            questions.push(Expected { from, to, port: Port::Tcp(NO_TCP), passes: false });
            let covered = number / self.rules / 2 < 1 << (self.place_bits() - 1);
            let udp = chosen(&UDP, rule % self.wide + 1).next().unwrap_or(0);
            questions.push(Expected { from, to, port: Port::Udp(udp), passes: covered });
            if member {
                let other = self.client((self.group(rule) + self.groups / 2) % self.groups);
                let stranger = Expected { from: other, to, port: Port::Tcp(own), passes: false };
                questions.push(stranger);
            }
        }
        questions
    }

    fn client(&self, group: u32) -> IpAddr {
        Ipv4Addr::from(FIRST_CLIENT + (group << 8) + 7).into()
    }
}

/// The TCP ports of a rule.
fn ports(rule: u32) -> Vec<u16> {
    chosen(&TCP, rule + 1).collect()
}

/// The members of a list whose bits are set.
fn chosen(list: &[u16], bits: u32) -> impl Iterator<Item = u16> + '_ {
    list.iter().enumerate().filter(move |(at, _)| bits >> at & 1 != 0).map(|(_, port)| *port)
}

fn pick(lengths: &[u8], place: u32) -> u8 {
    lengths.get(place as usize % lengths.len()).copied().unwrap_or(24)
}

fn net(net: impl Into<IpNet>) -> IpNet {
    net.into().trunc()
}
