// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice flows`.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::{
    QueryArgs,
    output::{self, Table, bytes, duration, grouped},
};
use crate::{
    control::{
        client::ask,
        protocol::{FlowDetail, FlowFilter, FlowList, FlowQuestion, FlowStatus, Killed, Request},
    },
    policy::{IpProtocol, ports::InvalidPorts},
};

const EXAMPLES: &str = "Examples:
  sluice flows --client 10.0.10.7               what one client does
  sluice flows --name '*.example.com' --port 443
  sluice flows --state established --count
  sluice flows kill --client 10.0.10.7 --port 22
  sluice flows kill --all";

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(super) struct FlowsArgs {
    #[command(subcommand)]
    command: Option<FlowsCommand>,
    #[command(flatten)]
    query: QueryArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only say how many flows there are
    #[arg(long)]
    count: bool,
}

#[derive(Debug, Subcommand)]
enum FlowsCommand {
    /// Cut flows: nothing of them passes any more, and TCP has to be opened anew
    Kill(KillArgs),
}

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
struct KillArgs {
    #[command(flatten)]
    query: QueryArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Cut every flow
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct FilterArgs {
    /// Only flows of clients in here, as they are before source NAT
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    client: Option<IpNet>,
    /// Only flows to or from remote ends in here
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    remote: Option<IpNet>,
    /// Only flows to this TCP or UDP port: of the remote end, or of a service that is offered
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only flows of this protocol: tcp, udp, icmp (also ICMPv6), another name or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = protocols)]
    protocol: Option<Protocols>,
    /// Only flows in this state
    #[arg(long, value_name = "STATE")]
    state: Option<StateArg>,
    /// Only flows to an address of a name that contains this text, or that is it, with * for any
    /// characters
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
}

/// Protocols by number.
#[derive(Clone, Debug)]
struct Protocols(Vec<u8>);

/// States by their stable names.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateArg {
    Opening,
    Established,
    LocalClosing,
    RemoteClosing,
    Closed,
    Reset,
    Cut,
}

// === impl FilterArgs ===

impl FilterArgs {
    fn filter(&self) -> FlowFilter {
        let state = self.state.as_ref().and_then(ValueEnum::to_possible_value);
        FlowFilter {
            client: self.client,
            remote: self.remote,
            port: self.port,
            protocol: self.protocol.as_ref().map_or_else(Vec::new, |found| found.0.clone()),
            state: state.map(|value| value.get_name().to_owned()),
            name: self.name.as_ref().map(|name| name.to_ascii_lowercase()),
        }
    }
}

pub(super) fn run(args: &FlowsArgs) -> Result<ExitCode> {
    match &args.command {
        Some(FlowsCommand::Kill(args)) => kill(args),
        None => list(args),
    }
}

fn list(args: &FlowsArgs) -> Result<ExitCode> {
    let detail = if args.count { FlowDetail::Count } else { FlowDetail::List };
    let question = FlowQuestion { filter: args.filter.filter(), detail };
    let list: FlowList = ask(&args.query.socket, &Request::Flows(question))?;
    if args.query.json {
        output::json(&list)?;
    } else if args.count {
        output::text(&format!("{}\n", list.count))?;
    } else {
        output::text(&render(&list.flows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn kill(args: &KillArgs) -> Result<ExitCode> {
    let filter = args.filter.filter();
    if filter == FlowFilter::default() && !args.all {
        eprintln!(
            "sluice: kill needs a filter, such as --client 10.0.10.7, or --all for every flow"
        );
        return Ok(ExitCode::from(2));
    }
    let killed: Killed = ask(&args.query.socket, &Request::Kill(filter))?;
    if args.query.json {
        output::json(&killed)?;
    } else {
        output::text(&format!("{} flows cut\n", killed.cut))?;
    }
    Ok(if killed.cut > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(flows: &[FlowStatus]) -> String {
    let mut table = Table::new(&[
        "CLIENT", "LOCAL", "REMOTE", "PROTOCOL", "STATE", "ORIGIN", "AGE", "IDLE", "OUT", "IN",
        "NAME", "RULES",
    ]);
    for flow in flows {
        let end = |address: IpAddr, port: u16| match (flow.protocol.as_str(), address) {
            ("tcp" | "udp", IpAddr::V4(address)) => format!("{address}:{port}"),
            ("tcp" | "udp", IpAddr::V6(address)) => format!("[{address}]:{port}"),
            (_, address) => address.to_string(),
        };
        let traffic =
            |packets: u64, of_bytes: u64| format!("{} ({})", grouped(packets), bytes(of_bytes));
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let rules: Vec<&str> = flow.rules.iter().map(|rule| rule.rule.as_str()).collect();
        let mut local = end(flow.local, flow.local_port);
        if let Some(host) = &flow.host {
            local.push_str(&format!(" ({host})"));
        }
        table.row(vec![
            flow.client.map_or_else(|| "-".to_owned(), |client| end(client, flow.client_port)),
            local,
            end(flow.remote, flow.remote_port),
            flow.protocol.clone(),
            flow.state.clone(),
            flow.origin.clone(),
            duration(flow.age_s),
            duration(flow.idle_s),
            traffic(flow.packets_out, flow.bytes_out),
            traffic(flow.packets_in, flow.bytes_in),
            or_dash(flow.name.clone().unwrap_or_default()),
            or_dash(rules.join(", ")),
        ]);
    }
    table.render()
}

/// An address, or a prefix.
fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse::<IpNet>().map(|prefix| prefix.trunc())).map_err(|_neither| {
        "neither an address nor a prefix, such as 10.0.10.7 or 10.0.10.0/24".to_owned()
    })
}

fn protocols(text: &str) -> Result<Protocols, InvalidPorts> {
    Ok(Protocols(match text.to_ascii_lowercase().as_str() {
        "tcp" => vec![6],
        "udp" => vec![17],
        "icmp" => vec![1, 58],
        other => match other.parse::<u8>() {
            Ok(number) => vec![number],
            Err(_) => vec![IpProtocol::try_from(other)?.number()],
        },
    }))
}
