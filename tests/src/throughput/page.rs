// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of what was measured.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Aim, Contender, Kind, Measured, Row, Spread, ToolRow};
use crate::report::{Bar, BarChart, Report, Table};

/// What a reader has to know about the numbers.
const HOW: &str = "\
Generator, gateway and receiver are network namespaces, joined by veth pairs. The generator has one processor, the gateway \
another: a single core does all of the gateway's work, and with more cores a gateway does more. What the receiver does \
(it counts and drops) happens on the gateway's processor too, and is part of every rate and every cost of packets that pass. \
The part of a machine that is shared with others is not known to the lab; ranges tell.\n\n\
A cost is the time that the gateway's processor worked for the packets (the thread that polls the NIC, and the \
processor's own for soft interrupts), per packet. It holds also where the generator was too slow to tell how many \
packets a contender could take. Those rates are marked with `>=`: they are within 1.2 times of what the generator sends into a \
program that only drops, or the gateway's processor was idle for a tenth of the time and more. On a machine that does other \
things beside, that can be all of them.\n\n\
Every packet of every run was accounted for: none that is denied arrived, each that is allowed arrived or was counted by the \
kernel as lost behind the filter, and Sluice's counters hold exactly the packets that were judged.";

/// The report.
#[must_use]
pub fn report(measured: &Measured) -> Report {
    let mut report = Report::new("throughput", "Throughput: packets per second by filter");
    report.machine = measured.machine.clone();
    report.text(HOW);
    let effort = measured.effort;
    report.text(format!(
        "{} rounds in turns, {:.1} s measured in each; medians, and the least and the most in brackets.",
        effort.rounds,
        effort.time.as_secs_f64()
    ));
    for kind in measured.rows.iter().map(|row| row.kind).collect::<BTreeSet<_>>() {
        let rows: Vec<_> = measured.rows.iter().filter(|row| row.kind == kind).collect();
        traffic(&mut report, kind, &rows);
    }
    match &measured.failure {
        None => tools(&mut report, &measured.tools),
        Some(failure) => report.text(format!("There is nothing by other tools: {failure}")),
    }
    goals(&mut report, &measured.aims);
    report.data = json!({
        "rounds": effort.rounds,
        "seconds": effort.time.as_secs_f64(),
        "traffic": measured.rows.iter().map(row_json).collect::<Vec<_>>(),
        "tools": measured.tools.iter().map(|row| json!({
            "tool": row.tool,
            "through": row.contender,
            "unit": row.tool.unit(),
            "rate": row.rate,
            "cost_ns": row.cost,
        })).collect::<Vec<_>>(),
        "goals": measured.aims.iter().map(|aim| json!({
            "traffic": aim.kind.to_string(),
            "ours": aim.ours,
            "theirs": aim.theirs,
            "target": aim.goal.target,
            "rate_ratio": aim.goal.measured,
            "at_least": aim.limited,
            "cost_ratio": aim.by_cost,
            "met": aim.goal.is_met(),
        })).collect::<Vec<_>>(),
    });
    report
}

fn row_json(row: &Row) -> serde_json::Value {
    json!({
        "traffic": row.kind.to_string(),
        "through": row.contender,
        "packets_per_second": row.rate,
        "cost_ns": row.cost,
        "busy": row.busy,
        "lost_behind": row.lost,
        "limited_by_generator": row.limited,
    })
}

fn traffic(report: &mut Report, kind: Kind, rows: &[&Row]) {
    let mut heading = kind.to_string();
    if let Some(first) = heading.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    report.heading(heading);
    let mut table = Table::new([
        "through",
        "million packets/s",
        "range",
        "ns of processor/packet",
        "range",
        "busy",
        "lost behind",
    ]);
    for row in rows {
        let million = |rate: f64| format!("{:.2}", rate / 1e6);
        let mark = if row.limited { ">= " } else { "" };
        table.row([
            row.contender.to_string(),
            format!("{mark}{}", million(row.rate.median)),
            format!("({}-{})", million(row.rate.least), million(row.rate.most)),
            format!("{:.0}", row.cost.median),
            format!("({:.0}-{:.0})", row.cost.least, row.cost.most),
            format!("{:.0} %", row.busy * 100.0),
            format!("{:.1} %", row.lost * 100.0),
        ]);
    }
    report.table(table);
    let chart = |title: &str, value: &str, of: fn(&Row) -> (Spread, f64)| BarChart {
        title: format!("{title}: {kind}"),
        value: value.to_owned(),
        bars: rows
            .iter()
            .map(|row| {
                let (spread, unit) = of(row);
                Bar {
                    name: row.contender.to_string(),
                    value: spread.median / unit,
                    range: Some((spread.least / unit, spread.most / unit)),
                    target: None,
                    kind: usize::from(matches!(
                        row.contender,
                        Contender::Sluice | Contender::SluiceFlows
                    )),
                }
            })
            .collect(),
    };
    let file = file(kind);
    report.bars(
        &format!("{file}-rate"),
        chart("Packets per second", "million packets/s", |row| (row.rate, 1e6)),
    );
    report.bars(
        &format!("{file}-cost"),
        chart("Processor time per packet", "ns", |row| (row.cost, 1.0)),
    );
}

/// A kind of traffic in the name of a file.
fn file(kind: Kind) -> String {
    kind.to_string().to_lowercase().replace([' ', ','], "-").replace("--", "-")
}

fn tools(report: &mut Report, rows: &[ToolRow]) {
    report.heading("Allowed traffic by other tools");
    report.text(
        "These send by sockets, each at a rate of its own. With iperf3 the ends take part with \
         their own work on both processors, so that no cost of the gateway alone is known.",
    );
    let mut table =
        Table::new(["tool", "through", "rate", "range", "ns of processor/packet", "range"]);
    for row in rows {
        let (unit, name) = match row.tool.unit() {
            "bit/s" => (1e9, "Gbit/s"),
            _ => (1e6, "million packets/s"),
        };
        let scaled = |rate: f64| format!("{:.2}", rate / unit);
        let cost = row.cost.map_or_else(
            || ["-".to_owned(), "-".to_owned()],
            |cost| [format!("{:.0}", cost.median), format!("({:.0}-{:.0})", cost.least, cost.most)],
        );
        let [cost, range] = cost;
        table.row([
            row.tool.to_string(),
            row.contender.to_string(),
            format!("{} {name}", scaled(row.rate.median)),
            format!("({}-{})", scaled(row.rate.least), scaled(row.rate.most)),
            cost,
            range,
        ]);
    }
    report.table(table);
}

fn goals(report: &mut Report, aims: &[Aim]) {
    report.heading("Goals");
    report.text(
        "Sluice's rate in terms of another's, and the other's processor time per packet in terms of Sluice's. Nothing fails \
         where a goal is missed.",
    );
    let mut table = Table::new([
        "traffic",
        "who",
        "against",
        "goal",
        "by rate",
        "by processor time",
        "met by rate",
    ]);
    for aim in aims {
        let mark = if aim.limited { ">= " } else { "" };
        table.row([
            aim.kind.to_string(),
            aim.ours.to_string(),
            aim.theirs.to_string(),
            format!("{:.2}", aim.goal.target),
            format!("{mark}{:.2}", aim.goal.measured),
            aim.by_cost.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            met(aim).to_owned(),
        ]);
    }
    report.table(table);
}

fn met(aim: &Aim) -> &'static str {
    match (aim.goal.is_met(), aim.limited) {
        (true, _) => "yes",
        // The generator's limit hides by how much.
        (false, true) => "can't be told",
        (false, false) => "no",
    }
}
