// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measurements. These need root: `sluice-bench kill [TIMES]`, `gap [KILLS]`, `soak [MINUTES]`, `swap [TIMES]`, `restart [TIMES]`, `learn`,
//! `first-packet [NAMES]`, `scale [--quick | PREFIXES...]`, `dns [ROUNDS]` (which also needs dnsperf) and
//! `judge [POLICIES [PACKETS [SEED]]]`; `packet`, `throughput` and `generate` do, too; `import [ROUNDS]` doesn't. All but
//! `learn`, `packet` and `generate` need a `sluice` built next to it.

#![forbid(unsafe_code)]

use std::{
    env,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use sluice_lab::{
    dns_bench::{self, Names},
    first_packet::{Circumstances, Learning, Load, Nat, Reload, Stage},
    gap::{Plan, live_through, next_layout},
    import_bench,
    judge::{self, LISTED},
    learn_bench, packet_bench, report, restart_bench, scale_bench,
    soak::soak,
    survival, swap,
    throughput::{
        self, Effort,
        generate::{self, Order},
    },
};

/// How often the daemon is killed unless the command line says otherwise.
const KILLS: u32 = 20;

/// How often the daemon is killed under the prober unless the command line says otherwise, and how often
/// the policy is loaded again.
const GAP_KILLS: u32 = 50;
const GAP_RELOADS: u32 = 100;

/// How long the gateway is at work unless the command line says otherwise.
const SOAK_MINUTES: u64 = 30;

/// How often policies are swapped unless the command line says otherwise.
const SWAPS: u32 = 500;

/// How often the daemon is started again unless the command line says otherwise.
const RESTARTS: u32 = 10;

/// What a start over existing pins may take in the middle.
const RESTART_TIME: Duration = Duration::from_secs(1);

/// How often a file is imported unless the command line says otherwise.
const ROUNDS: u32 = 7;

/// How many names are resolved and reached in each run, unless the command line says otherwise,
/// and how many where each is lost.
const NAMES: u32 = 10_000;
const LOST_NAMES: u32 = 1_000;

/// How often each resolver has its turn, unless the command line says otherwise.
const DNS_ROUNDS: u32 = 9;

/// What the forwarder's median may be in terms of dnsmasq's.
const DNS_LATENCY: f64 = 1.3;

/// How many policies nftables judges, with how many packets each, from which seed on, unless the
/// command line says otherwise.
const JUDGED: (u32, u16, u64) = (200, 200, 1);

/// How many addresses are known before others are learned, and how many those are.
const KNOWN: [u32; 3] = [0, 10_000, 100_000];
const LEARNED: u32 = 10_000;

/// What a learned address may take in the middle.
const LEARN_TIME: Duration = Duration::from_micros(100);

/// How many prefixes the policies have whose cost is measured.
const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];
const QUICK_SIZES: [u32; 2] = [1_000, 100_000];

/// What the largest of them may take: its start, one learned address, and the daemon's memory.
const SCALE_START_MS: u128 = 10_000;
const SCALE_LEARN_US: u128 = 1_000;
const SCALE_KIB: u64 = 400 << 10;

/// What an import of a large file may take.
const IMPORT_TIME: Duration = Duration::from_secs(2);
const IMPORT_KIB: i64 = 200 << 10;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["kill"] => kill(KILLS),
        ["kill", times] => times.parse().context("TIMES is no number").and_then(kill),
        ["gap"] => gap(GAP_KILLS),
        ["gap", times] => times.parse().context("TIMES is no number").and_then(gap),
        ["soak"] => soak_for(SOAK_MINUTES),
        ["soak", minutes] => minutes.parse().context("MINUTES is no number").and_then(soak_for),
        ["swap"] => swap(SWAPS),
        ["swap", times] => times.parse().context("TIMES is no number").and_then(swap),
        ["first-packet"] => first_packet(NAMES),
        ["first-packet", names] => {
            names.parse().context("NAMES is no number").and_then(first_packet)
        }
        ["dns"] => dns(DNS_ROUNDS),
        ["dns", rounds] => rounds.parse().context("ROUNDS is no number").and_then(dns),
        ["restart"] => restart(RESTARTS),
        ["restart", times] => times.parse().context("TIMES is no number").and_then(restart),
        ["learn"] => learn(),
        ["packet", arguments @ ..] => packet(arguments),
        ["scale"] => scale(&SIZES),
        ["scale", "--quick"] => scale(&QUICK_SIZES),
        ["scale", sizes @ ..] => sizes
            .iter()
            .map(|size| size.parse().context("PREFIXES is no number"))
            .collect::<Result<Vec<u32>>>()
            .and_then(|sizes| scale(&sizes)),
        ["import"] => import(ROUNDS),
        ["import", rounds] => rounds.parse().context("ROUNDS is no number").and_then(import),
        ["throughput", words @ ..] => throughput(words),
        ["generate", words @ ..] => generate(words),
        ["judge", numbers @ ..] if numbers.len() <= 3 => judged(numbers),
        _ => {
            eprintln!(
                "usage: sluice-bench kill [TIMES] | gap [KILLS] | soak [MINUTES] | swap [TIMES] | restart [TIMES] | learn | first-packet [NAMES] | \
                 scale [--quick | PREFIXES...] | dns [ROUNDS] | import [ROUNDS] | judge [POLICIES [PACKETS [SEED]]] | \
                 packet [--quick] [--sizes N,N] [--rounds N] | throughput [--quick] [--rounds N] | generate ..."
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn kill(times: u32) -> Result<()> {
    let report = survival::kill_repeatedly(times)?;
    println!("sluice killed with SIGKILL {times} times in {report}");
    if report.denied.received != 0 || !report.allowed.missing.is_empty() {
        bail!("the daemon's death opened or closed something");
    }
    Ok(())
}

fn gap(kills: u32) -> Result<()> {
    let seed = u64::from(std::process::id());
    let plan = Plan { kills, reloads: GAP_RELOADS, next: next_layout(), seed };
    if plan.next.is_none() {
        println!("without an upgrade: no build with another layout in SLUICE_NEXT_LAYOUT_BIN");
    }
    let gaps = live_through(&plan)?;
    print!("seed {seed}\n{gaps}");
    gaps.check()
}

fn soak_for(minutes: u64) -> Result<()> {
    println!(
        "| minutes | resident, MiB | open files | addresses of names | names asked | unanswered | reloads | broken frames |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|"
    );
    let soaked = soak(Duration::from_secs(minutes * 60), |row| {
        println!(
            "| {:.1} | {:.1} | {} | {} | {} | {} | {} | {} |",
            row.after.as_secs_f64() / 60.0,
            row.resident as f64 / 1024.0,
            row.files,
            row.names,
            row.asked,
            row.unanswered,
            row.reloads,
            row.broken
        );
    })?;
    println!("\n{}", soaked.report);
    soaked.check()
}

fn swap(times: u32) -> Result<()> {
    let swaps = swap::swap_repeatedly(times)?;
    println!("{swaps}");
    swaps.check().context("a swap opened or closed something")
}

fn restart(times: u32) -> Result<()> {
    let restarts = restart_bench::restart_repeatedly(times)?;
    println!("{restarts}");
    if restarts.median()? > RESTART_TIME {
        bail!("the daemon takes more than {RESTART_TIME:?} to be ready again");
    }
    Ok(())
}

/// Each kind of run by one thread and by four, then one without learning, in which each name must
/// be lost. Every run ends in a line of the same form.
fn first_packet(names: u32) -> Result<()> {
    let calm = Circumstances::CALM;
    let late = Duration::from_millis(20);
    let (load, reload) = (Load::Busy(2), Reload::HalfWay);
    let nat = Nat::Masquerade;
    // Where each question is late, all of it takes as long as there are questions in a row.
    let (both, many): (&[u32], &[u32]) = (&[1, 4], &[4]);
    let runs = [
        (calm, both),
        (Circumstances { nat, ..calm }, both),
        (Circumstances { load, ..calm }, both),
        (Circumstances { reload, ..calm }, both),
        (Circumstances { delay: late, ..calm }, both),
        (Circumstances { nat, delay: late, load, reload }, many),
    ];
    let mut failed = 0;
    for (circumstances, threads) in runs {
        let stage = Stage::new(circumstances.nat)?;
        for &threads in threads {
            let report = stage.run(Learning::On, threads, names, &circumstances)?;
            let took = report.took.as_secs_f64();
            println!("{circumstances}; clients: {threads}; {took:.1} s");
            if let Err(error) = report.check() {
                println!("FAILED: {error:#}");
                failed += 1;
            }
            println!("{report}");
        }
    }
    let stage = Stage::new(Nat::Off)?;
    let lost = names.min(LOST_NAMES);
    println!("the control, without learning, in which each must be lost");
    let control = stage.run(Learning::Off, 1, lost, &calm)?;
    println!("{control}");
    control.check_control()?;
    if failed > 0 {
        bail!("first packets were lost in {failed} runs");
    }
    Ok(())
}

fn dns(rounds: u32) -> Result<()> {
    let measured = dns_bench::measure(rounds.max(1))?;
    print!("{measured}");
    for names in [Names::New, Names::Known] {
        let latency = measured.latency_ratio(names).context("no latency")?;
        let throughput = measured.throughput_ratio(names).context("no throughput")?;
        if latency > DNS_LATENCY || throughput < 1.0 {
            println!(
                "{names}: the goals are p50 at most {DNS_LATENCY} times dnsmasq's, and as many questions a second"
            );
        }
    }
    Ok(())
}

fn throughput(words: &[&str]) -> Result<()> {
    let (mut effort, mut rest) = match words {
        ["--quick", rest @ ..] => (Effort::QUICK, rest),
        rest => (Effort::FULL, rest),
    };
    if let ["--rounds", rounds] = rest {
        effort.rounds = rounds.parse().context("--rounds needs a number")?;
        rest = &[];
    }
    ensure!(rest.is_empty() && effort.rounds > 0, "usage: throughput [--quick] [--rounds N]");
    let measured = throughput::measure(effort)?;
    let report = throughput::report(&measured);
    print!("{report}");
    for file in report.write(&report::directory()?)? {
        eprintln!("{}", file.display());
    }
    // What the generator took long to measure is kept, and it fails all the same.
    measured.failure.map_or(Ok(()), |failure| bail!("{failure}"))
}

fn generate(words: &[&str]) -> Result<()> {
    let order = Order::parse(words)
        .map_err(|error| anyhow!("{error:#}\n{}", generate::USAGE.trim_end()))?;
    println!("{}", order.carry_out()?);
    Ok(())
}

fn learn() -> Result<()> {
    let mut slow = 0;
    for known in KNOWN {
        let measured = learn_bench::measure(known, LEARNED)?;
        println!("{measured}");
        slow += usize::from(measured.kernel.median > LEARN_TIME);
    }
    if slow > 0 {
        bail!("a learned address takes more than {LEARN_TIME:?}");
    }
    Ok(())
}

/// Prints what a packet costs, and leaves it in `target/bench`.
fn packet(arguments: &[&str]) -> Result<()> {
    let mut options = if arguments.contains(&"--quick") {
        packet_bench::Options::quick()
    } else {
        packet_bench::Options::full()
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--quick" => {}
            "--sizes" => {
                let sizes = rest.next().context("--sizes needs numbers of prefixes")?.split(',');
                options.sizes = sizes
                    .map(|size| size.parse().with_context(|| format!("{size} is no number")))
                    .collect::<Result<_>>()?;
            }
            "--rounds" => {
                let rounds = rest.next().context("--rounds needs a number")?;
                options.rounds = rounds.parse().context("the number of rounds is none")?;
            }
            other => bail!("packet takes --quick, --sizes N,N and --rounds N, not {other}"),
        }
    }
    let report = packet_bench::measure(&options)?;
    print!("{report}");
    for file in report.write(&report::directory()?)? {
        eprintln!("{}", file.display());
    }
    Ok(())
}

fn scale(sizes: &[u32]) -> Result<()> {
    let mut all = Vec::new();
    let mut missed = Vec::new();
    for size in sizes {
        let measured = scale_bench::measure(*size)?;
        println!("{measured}");
        let peak = measured.started.peak_kib.max(measured.reloaded.peak_kib);
        for (what, holds) in [
            ("the start", measured.start_ms <= SCALE_START_MS),
            ("a learned address", measured.stages.learn_median_us <= SCALE_LEARN_US),
            ("the daemon's memory", peak <= SCALE_KIB),
        ] {
            if !holds {
                missed.push(format!("{what} with {size} prefixes"));
            }
        }
        all.push(measured);
    }
    for file in scale_bench::report(&all)?.write(&report::directory()?)? {
        println!("{}", file.display());
    }
    if !missed.is_empty() {
        bail!(
            "more than {} s, {SCALE_LEARN_US} us or {} MiB: {}",
            SCALE_START_MS / 1000,
            SCALE_KIB / 1024,
            missed.join(", ")
        );
    }
    Ok(())
}

fn import(rounds: u32) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let measured = import_bench::measure(&root, rounds)?;
    for one in &measured {
        println!("{one}");
    }
    if measured.iter().any(|one| one.median > IMPORT_TIME || one.peak_kib > IMPORT_KIB) {
        bail!("an import takes more than {IMPORT_TIME:?} or {} MiB", IMPORT_KIB / 1024);
    }
    Ok(())
}

fn judged(numbers: &[&str]) -> Result<()> {
    let (mut policies, mut packets, mut seed) = JUDGED;
    if let Some(number) = numbers.first() {
        policies = number.parse().context("POLICIES is no number")?;
    }
    if let Some(number) = numbers.get(1) {
        packets = number.parse().context("PACKETS is no number")?;
    }
    if let Some(number) = numbers.get(2) {
        seed = number.parse().context("SEED is no number")?;
    }
    println!("seeds from {seed} on");
    let begin = Instant::now();
    let progress = |tally: &judge::Tally| println!("a share: {tally}");
    let tally = judge::compare_in_parallel(seed, policies, packets, progress)?;
    for difference in &tally.differ {
        println!("{difference}");
    }
    for (listed, count) in LISTED.iter().zip(tally.listed) {
        println!("{count} times {:?}, sluice {:?}: {}", listed.kind, listed.sluice, listed.reason);
    }
    println!("{:.0} s", begin.elapsed().as_secs_f64());
    println!("{tally}");
    if !tally.differ.is_empty() {
        bail!("sluice and nftables differ");
    }
    Ok(())
}
