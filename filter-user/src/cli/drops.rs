// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice drops`.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    QueryArgs,
    output::{self, Table, grouped},
    values,
};
use crate::control::{
    client::{Follow, follow},
    protocol::{Drop, Request},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sluice drops                           each as it comes
  sluice drops --count 10 --json
  sluice drops --by name --for 30s       how many for each name, over half a minute
  sluice drops --by client,port")]
pub(super) struct DropsArgs {
    #[command(flatten)]
    query: QueryArgs,
    /// End after this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Sum up by these, and show the sums as they grow
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    by: Vec<By>,
    /// End after this time
    #[arg(long = "for", value_name = "TIME", value_parser = values::time)]
    time: Option<Duration>,
}

/// What drops are summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// The address that was to be reached
    Destination,
    /// Who sent it
    Client,
    /// Protocol and destination port
    Port,
    /// The name that led to the address, or the address
    Name,
    /// Why it was dropped
    Reason,
    /// The NIC that it entered
    Nic,
}

/// Rows of sums that are shown.
const ROWS: usize = 30;

pub(super) fn run(args: &DropsArgs) -> Result<ExitCode> {
    let mut left = args.count;
    if left == Some(0) {
        return Ok(ExitCode::SUCCESS);
    }
    let end = args.time.map(|time| Instant::now() + time);
    let mut sums = Sums { by: args.by.clone(), ..Sums::default() };
    let live = !args.by.is_empty() && !args.query.json && io::stdout().is_terminal();
    let mut shown = Instant::now();
    let each = |drop: Option<Drop>| {
        if let Some(drop) = drop {
            if !args.by.is_empty() {
                sums.add(&drop);
            } else if args.query.json {
                output::text(&format!("{}\n", serde_json::to_string(&drop)?))?;
            } else {
                output::text(&describe(&drop))?;
            }
            left = left.map(|left| left - 1);
        }
        if live && shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            // Home, and clear what is below.
            output::text(&format!("\x1b[H\x1b[J{}", sums.render()))?;
        }
        let over = end.is_some_and(|end| Instant::now() >= end);
        Ok(if left == Some(0) || over { Follow::Enough } else { Follow::On })
    };
    follow(&args.query.socket, &Request::Drops, each)?;
    if args.by.is_empty() || live {
        return Ok(ExitCode::SUCCESS);
    }
    if args.query.json {
        output::json(&sums.rows())?;
    } else {
        output::text(&sums.render())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Drops, summed up.
#[derive(Debug, Default)]
struct Sums {
    by: Vec<By>,
    counts: BTreeMap<Vec<String>, u64>,
}

/// A row of sums.
#[derive(Debug, Serialize)]
struct Row<'a> {
    by: BTreeMap<&'static str, &'a str>,
    drops: u64,
}

impl Sums {
    fn add(&mut self, drop: &Drop) {
        let key = self.by.iter().map(|by| by.of(drop)).collect();
        *self.counts.entry(key).or_insert(0) += 1;
    }

    /// The most frequent first.
    fn sorted(&self) -> Vec<(&Vec<String>, u64)> {
        let mut rows: Vec<_> = self.counts.iter().map(|(key, count)| (key, *count)).collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        rows
    }

    fn rows(&self) -> Vec<Row<'_>> {
        self.sorted()
            .into_iter()
            .map(|(key, drops)| Row {
                by: self
                    .by
                    .iter()
                    .map(|by| by.title())
                    .zip(key.iter().map(String::as_str))
                    .collect(),
                drops,
            })
            .collect()
    }

    fn render(&self) -> String {
        let titles: Vec<String> = self
            .by
            .iter()
            .map(|by| by.title().to_ascii_uppercase())
            .chain(["DROPS".to_owned()])
            .collect();
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        let rows = self.sorted();
        for (key, count) in rows.iter().take(ROWS) {
            table.row(key.iter().cloned().chain([grouped(*count)]).collect());
        }
        let mut text = table.render();
        if rows.len() > ROWS {
            text.push_str(&format!("and {} more\n", rows.len() - ROWS));
        }
        text
    }
}

impl By {
    fn title(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Client => "client",
            Self::Port => "port",
            Self::Name => "name",
            Self::Reason => "reason",
            Self::Nic => "nic",
        }
    }

    fn of(self, drop: &Drop) -> String {
        let address = |address: Option<IpAddr>| {
            address.map_or_else(|| "-".to_owned(), |address| address.to_string())
        };
        match self {
            Self::Destination => address(drop.destination),
            Self::Client => address(drop.source),
            Self::Port => match &drop.protocol {
                Some(protocol) => format!("{protocol} {}", drop.destination_port),
                None => format!("ethertype {}", drop.ethertype),
            },
            Self::Name => drop.name.clone().unwrap_or_else(|| address(drop.destination)),
            Self::Reason => drop.reason.clone(),
            Self::Nic => drop.nic.clone(),
        }
    }
}

fn describe(drop: &Drop) -> String {
    let time = drop.time_ms / 1000;
    let clock = format!(
        "{:02}:{:02}:{:02}.{:03}",
        time / 3600 % 24,
        time / 60 % 60,
        time % 60,
        drop.time_ms % 1000
    );
    let what = match (drop.source, drop.destination, &drop.protocol) {
        (Some(source), Some(destination), Some(protocol)) => format!(
            "{} -> {} {protocol}",
            endpoint(source, drop.source_port),
            endpoint(destination, drop.destination_port)
        ),
        _ => format!("ethertype {}", drop.ethertype),
    };
    let name = drop.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let vlan = if drop.vlan == 0 { String::new() } else { format!(" vlan {}", drop.vlan) };
    let audited = if drop.audited { " (audit: passed)" } else { "" };
    format!("{clock}Z {}{vlan} {what}{name}: {}{audited}\n", drop.nic, drop.reason)
}

fn endpoint(address: IpAddr, port: u16) -> String {
    match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}
