// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice explain`.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{
    QueryArgs,
    output::{self, duration},
};
use crate::{
    control::{
        client::ask,
        protocol::{AnswerReply, Explanation, NamedRule, Question, Request, ViaReply},
    },
    kernel::question::{FragmentPart, Transport},
    policy::{IpProtocol, ports::InvalidPorts},
};

const EXAMPLES: &str = "Examples:
  sluice explain --from 10.0.10.7 --to 203.0.113.9 --tcp 443
  sluice explain --from 2001:db8:10::7 --to 2001:db8:113::9 --udp 443 --in eth1 --vlan 10
  sluice explain --from 10.0.10.7 --to 203.0.113.9 --icmp
  sluice explain --from 10.0.10.7 --to 203.0.113.9 --proto esp";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    from: IpAddr,
    /// The destination's address
    #[arg(long, value_name = "ADDRESS")]
    to: IpAddr,
    #[command(flatten)]
    transport: TransportArgs,
    /// The inside NIC that the packet enters
    #[arg(long = "in", value_name = "NIC")]
    nic: Option<String>,
    /// The VLAN id that it carries
    #[arg(long, value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..4095))]
    vlan: u16,
    /// Which fragment of a packet it is
    #[arg(long, value_name = "PART")]
    fragment: Option<FragmentArg>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct TransportArgs {
    /// A TCP connection to this port
    #[arg(long, value_name = "PORT")]
    tcp: Option<u16>,
    /// A UDP datagram to this port
    #[arg(long, value_name = "PORT")]
    udp: Option<u16>,
    /// An echo request
    #[arg(long)]
    icmp: bool,
    /// Another IP protocol, by number or name
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    proto: Option<IpProtocol>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FragmentArg {
    First,
    Later,
}

pub(super) fn run(args: &ExplainArgs) -> Result<ExitCode> {
    let transport = match &args.transport {
        TransportArgs { tcp: Some(port), .. } => Transport::Tcp(*port),
        TransportArgs { udp: Some(port), .. } => Transport::Udp(*port),
        TransportArgs { proto: Some(protocol), .. } => Transport::Protocol(protocol.number()),
        TransportArgs { tcp: None, udp: None, proto: None, icmp: _ } => Transport::Echo,
    };
    let question = Question {
        from: args.from,
        to: args.to,
        transport,
        nic: args.nic.clone(),
        vlan: args.vlan,
        fragment: match args.fragment {
            None => FragmentPart::Whole,
            Some(FragmentArg::First) => FragmentPart::First,
            Some(FragmentArg::Later) => FragmentPart::Later,
        },
    };
    let answer: Explanation = ask(&args.query.socket, &Request::Explain(question))?;
    if args.query.json {
        output::json(&answer)?;
    } else {
        output::text(&describe(&answer))?;
    }
    Ok(if answer.verdict == "pass" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(answer: &Explanation) -> String {
    let audited = if answer.audited { " (audit mode lets it pass)" } else { "" };
    let mut text = format!("{}: {}{audited}\n  {}\n", answer.verdict, answer.reason, answer.text);
    match answer.answer.as_deref() {
        None => {}
        Some("reset") => text.push_str("  the client is told by a TCP reset\n"),
        Some(_) => {
            text.push_str("  the client is told by an ICMP error (administratively prohibited)\n")
        }
    }
    for rule in &answer.rules {
        text.push_str(&format!("  allowed by {} ({})\n", rule.rule, rule.origin));
    }
    match &answer.via {
        None => {}
        Some(ViaReply::Prefix { prefix }) => {
            text.push_str(&format!("  the destination is in {prefix}\n"));
        }
        Some(ViaReply::Name { name, address, expires_in_s, answer }) => {
            text.push_str(&format!(
                "  {address} is an address of {name}, allowed for {} more\n",
                duration(*expires_in_s)
            ));
            if let Some(AnswerReply { resolver, chain, age_s }) = answer {
                let way = match chain.as_slice() {
                    [] => String::new(),
                    chain => format!(" by way of {}", chain.join(", ")),
                };
                let age = duration(*age_s);
                text.push_str(&format!("  {resolver} said so {age} ago{way}\n"));
            }
        }
        Some(ViaReply::Own { .. }) => {
            text.push_str("  the destination is the gateway itself\n");
        }
    }
    if answer.rules.is_empty() && !answer.listed_by.is_empty() {
        let listed: Vec<String> = answer
            .listed_by
            .iter()
            .map(|NamedRule { rule, origin }| format!("{rule} ({origin})"))
            .collect();
        text.push_str(&format!("  the destination is listed by {}\n", listed.join(", ")));
    }
    let groups = if answer.groups.is_empty() {
        "in no group".to_owned()
    } else {
        format!("in {}", answer.groups.join(", "))
    };
    text.push_str(&format!(
        "  client {groups}, entering {}; policy {}\n",
        answer.nic, answer.generation
    ));
    text
}

fn protocol(text: &str) -> Result<IpProtocol, InvalidPorts> {
    match text.parse::<u8>() {
        Ok(number) => IpProtocol::try_from(number),
        Err(_) => IpProtocol::try_from(text),
    }
}
