// SPDX-License-Identifier: MIT OR Apache-2.0
//! What large policies take: time to load, compile and write, time for one learned address, and
//! memory of the daemon and of the kernel.

pub mod made;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::egress::Side;
use filter_user::{
    compile::{CounterLedger, Host, HostNic, compile},
    daemon::{state::StateDirectory, tables::TwoSlots},
    kernel::{PinDirectory, SharedMaps},
    names::{Answer, Changed, NameCache, Settings, Wanted},
    policy::{Fqdn, Policy, load},
};
use serde::Serialize;
use serde_json::Value;

use self::made::{CLIENTS, Expected, PATTERNS, Port, Size};
use crate::{
    gateway::{Gateway, answer},
    netns,
    process::run,
    report::{Report, Table},
    topology::{Clients, INSIDE, OUTSIDE, Topology},
    workdir::PinDir,
};

/// What the daemon says when the policy is in force.
const READY: &str = "ready: the policy is in force";

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How many destinations are asked about.
const QUESTIONS: u32 = 40;

/// How many addresses are learned, one after the other, in tables of the size.
const LEARNED: u32 = 2_000;

/// A long time to live, so that nothing ages while it is measured.
const TTL: u32 = 86_400;

/// What a policy of a size took. Times are in milliseconds, memory in KiB.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Prefixes that its rules list.
    pub prefixes: usize,
    /// Groups of clients.
    pub groups: u32,
    /// Rules.
    pub rules: u32,
    /// Port sets that it compiles to.
    pub port_sets: u64,
    /// Addresses of names, known before the daemon starts.
    pub learned: u32,
    /// Bytes of its files.
    pub bytes: usize,
    /// `sluice check`, from start to exit.
    pub check: Cost,
    /// The daemon's start until the policy is in force.
    pub start_ms: u128,
    /// What it holds then, and the most that it held before.
    pub started: Memory,
    /// A reload with some other prefixes.
    pub reload_ms: u128,
    /// What it holds after the reload, and the most that it held meanwhile.
    pub reloaded: Memory,
    /// Kernel memory that the daemon's maps take by their own account, by their types.
    pub maps_kib: BTreeMap<String, u64>,
    /// By how much the kernel's own memory has grown since before the start, whoever took it.
    pub kernel_growth_kib: u64,
    /// What `sluice check` says that the tables take, with the prefixes of one policy.
    pub foretold_kib: u64,
    /// Questions that were answered as they must be.
    pub questions: usize,
    /// The stages of a start, in this process.
    pub stages: Stages,
}

/// What a command took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// From start to exit.
    pub ms: u128,
    /// The most that was seen of its memory.
    pub peak_kib: u64,
}

/// The memory of a process.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// What it holds (`VmRSS`).
    pub resident_kib: u64,
    /// The most that it held (`VmHWM`).
    pub peak_kib: u64,
}

/// The stages of putting a policy in force, and of learning an address afterwards.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stages {
    /// Reading and checking the configuration.
    pub load_ms: u128,
    /// Making tables of it.
    pub compile_ms: u128,
    /// Writing the tables into the kernel.
    pub write_ms: u128,
    /// One learned address, in microseconds: half of them took no longer.
    pub learn_median_us: u128,
    /// 99 of 100 took no longer.
    pub learn_most_us: u128,
    /// The longest.
    pub learn_longest_us: u128,
}

/// Measures a policy of so many prefixes.
///
/// # Errors
///
/// If the lab can't be made, the daemon fails, or a question is answered wrongly.
pub fn measure(prefixes: u32) -> Result<Measured> {
    let size = Size::new(prefixes);
    let lab = Topology::new(Clients::One)?;
    run(lab.gateway.command("ip").args(["route", "add", CLIENTS, "via", "10.20.0.2"]))?;
    let configuration = size.configuration(0);
    let bytes = configuration.bytes();
    let mut gateway = Gateway::new(&lab, &configuration)?;
    let other = size.configuration(1);

    let mut check = Command::new(gateway.binary());
    check.arg("check").arg("--json").arg("--config").arg(gateway.configuration());
    let (check, checked) = watched(&mut check)?;
    let checked: Value = serde_json::from_str(&checked).context("what `sluice check` prints")?;
    ensure!(checked.get("ok") == Some(&Value::Bool(true)), "check refuses: {checked}");
    let port_sets = checked.pointer("/counts/port_sets").and_then(Value::as_u64).unwrap_or(0);
    let bytes_of = |what: &str| checked.pointer(what).and_then(Value::as_u64).unwrap_or(0);
    let foretold_kib =
        (bytes_of("/counts/kernel_fixed_bytes") + bytes_of("/counts/kernel_prefix_bytes")) / 1024;
    remember(&size, &gateway)?;

    let before = kernel_kib()?;
    let begin = Instant::now();
    gateway.launch()?;
    while !gateway.log().contains(READY) {
        gateway.check_runs()?;
        ensure!(begin.elapsed() < LIMIT, "it is not ready; its log:\n{}", gateway.log());
        thread::sleep(Duration::from_millis(5));
    }
    let start_ms = begin.elapsed().as_millis();
    let daemon = gateway.daemon_id().context("no daemon")?;
    let started = Memory::of(daemon)?;
    let maps_kib = maps(daemon)?;
    let kernel_growth_kib = kernel_kib()?.saturating_sub(before);
    let mut questions = ask(&size, &lab, &gateway, 0)?;

    gateway.configure(&other)?;
    drop(other);
    // Forgets the peak, so that the next one is the reload's.
    fs::write(format!("/proc/{daemon}/clear_refs"), "5").context("the peak stays")?;
    let begin = Instant::now();
    let mut reload = lab.gateway.command(gateway.binary());
    reload.arg("reload").arg("--socket").arg(gateway.socket());
    answer(&mut reload)?.success().with_context(|| gateway.log())?;
    let reload_ms = begin.elapsed().as_millis();
    let reloaded = Memory::of(daemon)?;
    questions += ask(&size, &lab, &gateway, 1)?;
    gateway.stop()?;
    gateway.detach()?;

    let stages = stages(&size, &gateway.configuration())?;
    Ok(Measured {
        prefixes: size.listed(),
        groups: size.groups,
        rules: size.rules + size.wide + 1,
        port_sets,
        learned: size.learned,
        bytes,
        check,
        start_ms,
        started,
        reload_ms,
        reloaded,
        maps_kib,
        kernel_growth_kib,
        foretold_kib,
        questions,
        stages,
    })
}

/// A row of the report: its head, and what stands there for a measurement.
type Row<'a> = (&'a str, &'a dyn Fn(&Measured) -> String);

/// What was measured, as a page.
///
/// # Errors
///
/// If it can't be written as JSON.
pub fn report(measured: &[Measured]) -> Result<Report> {
    let mut report = Report::new("scale", "Large policies");
    report.text(
        "Half of the prefixes are IPv6, half of them lie in wider ones of other rules, and each rule is \
         for one group of clients. Start and reload are `sluice run`'s, the programs' verification \
         among them; load, compile and write are the same steps one by one. The most that the daemon \
         held is that of a start, then that of a reload.",
    );
    let seconds = |ms: u128| format!("{:.2}", ms as f64 / 1e3);
    let mib = |kib: u64| (kib / 1024).to_string();
    let rows: [Row<'_>; 20] = [
        ("groups", &|one| one.groups.to_string()),
        ("rules", &|one| one.rules.to_string()),
        ("port sets", &|one| one.port_sets.to_string()),
        ("learned addresses", &|one| one.learned.to_string()),
        ("check, s", &|one| seconds(one.check.ms)),
        ("check, MiB at most", &|one| mib(one.check.peak_kib)),
        ("start, s", &|one| seconds(one.start_ms)),
        ("load, s", &|one| seconds(one.stages.load_ms)),
        ("compile, s", &|one| seconds(one.stages.compile_ms)),
        ("write, s", &|one| seconds(one.stages.write_ms)),
        ("reload, s", &|one| seconds(one.reload_ms)),
        ("a learned address, us", &|one| one.stages.learn_median_us.to_string()),
        ("99 of 100 within, us", &|one| one.stages.learn_most_us.to_string()),
        ("daemon, MiB", &|one| mib(one.started.resident_kib)),
        ("daemon at most, MiB", &|one| mib(one.started.peak_kib)),
        ("daemon after a reload, MiB", &|one| mib(one.reloaded.resident_kib)),
        ("daemon at most, MiB, reloading", &|one| mib(one.reloaded.peak_kib)),
        ("kernel, MiB, as foretold", &|one| mib(one.foretold_kib)),
        ("kernel, MiB, grown by", &|one| mib(one.kernel_growth_kib)),
        ("verdicts as they must be", &|one| one.questions.to_string()),
    ];
    let prefixes = measured.iter().map(|one| format!("{} prefixes", one.prefixes));
    let cells = |(what, cell): Row<'_>| {
        [what.to_owned()].into_iter().chain(measured.iter().map(cell)).collect()
    };
    report.table(Table {
        columns: [String::new()].into_iter().chain(prefixes).collect(),
        rows: rows.map(cells).into(),
    });
    report.data = serde_json::to_value(measured)?;
    Ok(report)
}

/// Puts the addresses of names where the daemon finds them.
fn remember(size: &Size, gateway: &Gateway<'_>) -> Result<()> {
    let policy = loaded(&gateway.configuration())?;
    let now = Instant::now();
    let mut names = NameCache::new(Settings::from(&policy.dns), 1);
    names.set_wanted(Arc::new(Wanted::from(&policy)), now);
    for number in 0..size.learned {
        let (name, address) = learned(size, number)?;
        names.learn(&name, told(address), now);
    }
    let state = names.to_state(now, SystemTime::now());
    let mut directory = StateDirectory::create(&gateway.state())?;
    directory.begin_names(state).write()
}

/// The stages one by one, over maps of this process's own.
fn stages(size: &Size, directory: &Path) -> Result<Stages> {
    let begin = Instant::now();
    let policy = loaded(directory)?;
    let load_ms = begin.elapsed().as_millis();

    let now = Instant::now();
    let mut names = NameCache::new(Settings::from(&policy.dns), 1);
    names.set_wanted(Arc::new(Wanted::from(&policy)), now);
    for number in 0..size.learned {
        let (name, address) = learned(size, number)?;
        names.learn(&name, told(address), now);
    }
    let snapshot = names.snapshot();
    let mut ledger = CounterLedger::default();
    let begin = Instant::now();
    let compiled = compile(&policy, &snapshot, &host(&policy), &mut ledger)?;
    let compile_ms = begin.elapsed().as_millis();

    let directory = PinDir::new(&format!("bench-{}", netns::unique()))?;
    let pins = PinDirectory::create(directory.path())?;
    let (maps, _events, provenance) = SharedMaps::open(&pins, policy.gateway.sizes)?;
    let (mut slots, _) = TwoSlots::open(maps, provenance)?;
    let begin = Instant::now();
    slots.swap(compiled)?;
    let write_ms = begin.elapsed().as_millis();

    let mut times = Vec::new();
    for number in size.learned..size.learned + LEARNED {
        let changed =
            Changed { added: BTreeSet::from([learned(size, number)?]), ..Changed::default() };
        let begin = Instant::now();
        let edit = slots.plan_names(&changed, &ledger)?;
        if let Some(counted) = edit.count(&ledger) {
            ledger = counted;
        }
        slots.edit_names(edit)?;
        times.push(begin.elapsed().as_micros());
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    Ok(Stages {
        load_ms,
        compile_ms,
        write_ms,
        learn_median_us: at(50),
        learn_most_us: at(99),
        learn_longest_us: times.last().copied().unwrap_or_default(),
    })
}

fn loaded(directory: &Path) -> Result<Policy> {
    match load::load(directory) {
        Ok(loaded) => Ok(loaded.policy),
        Err(errors) => bail!("{errors}"),
    }
}

/// The lab's gateway as far as it matters here.
fn host(policy: &Policy) -> Host {
    let nic = |(slot, name, side, plausible): (u8, &str, Side, &str)| {
        let name = policy.gateway.nics().map(|(nic, _)| nic).find(|nic| nic.as_str() == name);
        let plausible = plausible.split(' ').filter_map(|prefix| prefix.parse().ok()).collect();
        Some(HostNic { slot, name: name?.clone(), side, plausible, elsewhere: Vec::new() })
    };
    let nics = [
        (0, INSIDE, Side::Inside, "10.20.0.0/24 10.64.0.0/14 fd00:20::/64"),
        (1, OUTSIDE, Side::Outside, "0.0.0.0/0 ::/0"),
    ];
    Host { nics: nics.into_iter().filter_map(nic).collect(), ..Host::default() }
}

/// The name of a number, which the policy covers, and its address: every other one lies among the
/// prefixes of the first rules.
fn learned(size: &Size, number: u32) -> Result<(Fqdn, IpAddr)> {
    let name = format!("n{number}.p{}.example.com", number % PATTERNS);
    let name = Fqdn::try_from(name.as_str()).context("a name that is made")?;
    let place = number.wrapping_mul(2_654_435_761) % (size.prefixes / 8).max(1);
    let address = match number % 4 {
        0 => Ipv4Addr::from(0x1400_0000 + (place << 9) + 300).into(),
        1 => Ipv4Addr::from(0xb900_0000 + number / 4 * 7).into(),
        2 => Ipv6Addr::from((0x2a00_u128 << 112) + (u128::from(place) << 80) + 9).into(),
        _ => Ipv6Addr::from((0x2c00_u128 << 112) + (u128::from(number) << 40)).into(),
    };
    Ok((name, address))
}

fn told(address: IpAddr) -> Answer {
    Answer {
        records: vec![(address, TTL)],
        chain: Vec::new(),
        resolver: Ipv4Addr::new(192, 0, 2, 2).into(),
        missing: None,
    }
}

/// Asks the program in force, and fails on an answer that is another than it must be.
fn ask(size: &Size, lab: &Topology, gateway: &Gateway<'_>, round: u32) -> Result<usize> {
    let questions = size.questions(QUESTIONS, round);
    for Expected { from, to, port, passes } in &questions {
        let mut command = lab.gateway.command(gateway.binary());
        command.arg("explain").arg("--json").arg("--socket").arg(gateway.socket());
        command.arg("--in").arg(INSIDE).args(["--from", &from.to_string()]);
        command.args(["--to", &to.to_string()]);
        let port = match port {
            Port::Tcp(port) => ["--tcp".to_owned(), port.to_string()],
            Port::Udp(port) => ["--udp".to_owned(), port.to_string()],
        };
        command.args(&port);
        let found = answer(&mut command)?;
        let passed = found.json()?.get("verdict") == Some(&Value::from("pass"));
        ensure!(
            passed == *passes,
            "from {from} to {to} {} {}: {}",
            port.concat(),
            if *passes { "has to pass" } else { "must not pass" },
            found.stdout
        );
    }
    Ok(questions.len())
}

/// Runs a command to its end and looks at its memory meanwhile.
fn watched(command: &mut Command) -> Result<(Cost, String)> {
    let begin = Instant::now();
    let output = tempfile::tempfile()?;
    let mut child =
        command.stdin(Stdio::null()).stdout(output.try_clone()?).spawn().context("no start")?;
    let mut peak_kib = 0;
    loop {
        // It may end between the two looks.
        if let Ok(memory) = Memory::of(child.id()) {
            peak_kib = memory.peak_kib.max(peak_kib);
        }
        if child.try_wait()?.is_some() {
            break;
        }
        ensure!(begin.elapsed() < LIMIT, "it doesn't end");
        thread::sleep(Duration::from_millis(2));
    }
    let cost = Cost { ms: begin.elapsed().as_millis(), peak_kib };
    let mut output = output;
    std::io::Seek::rewind(&mut output)?;
    Ok((cost, std::io::read_to_string(output)?))
}

/// The kernel's own memory in which tables may be.
fn kernel_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    ["SUnreclaim", "VmallocUsed", "Percpu"].into_iter().map(|key| kib(&text, key)).sum()
}

/// A number of kB in a file of /proc.
fn kib(text: &str, key: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).with_context(|| format!("no {key}"))
}

/// The kernel's own account of the maps that a process has open, by their types.
fn maps(process: u32) -> Result<BTreeMap<String, u64>> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // What is closed meanwhile is no map.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |key: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.trim().parse().ok()
        };
        if let (Some(id), Some(kind), Some(memory)) =
            (field("map_id"), field("map_type"), field("memlock"))
        {
            maps.insert(id, (kind, memory));
        }
    }
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (kind, memory) in maps.into_values() {
        // Numbers from include/uapi/linux/bpf.h.
        let kind = match kind {
            1 => "hash".to_owned(),
            2 => "array".to_owned(),
            6 => "per-CPU array".to_owned(),
            9 => "LRU hash".to_owned(),
            11 => "LPM trie".to_owned(),
            27 => "ring buffer".to_owned(),
            other => format!("type {other}"),
        };
        *kinds.entry(kind).or_default() += memory / 1024;
    }
    Ok(kinds)
}

// === impl Memory ===

impl Memory {
    fn of(process: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/status"))?;
        Ok(Self { resident_kib: kib(&text, "VmRSS")?, peak_kib: kib(&text, "VmHWM")? })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB, at most {} MiB", self.resident_kib / 1024, self.peak_kib / 1024)
    }
}

// === impl Measured ===

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds =
            |ms: u128| Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)).as_secs_f64();
        let Stages { load_ms, compile_ms, write_ms, .. } = self.stages;
        writeln!(
            f,
            "{} prefixes, {} groups, {} rules, {} port sets, {} learned addresses, {:.1} MiB of files",
            self.prefixes,
            self.groups,
            self.rules,
            self.port_sets,
            self.learned,
            self.bytes as f64 / f64::from(1 << 20)
        )?;
        writeln!(
            f,
            "  check: {:.2} s, at most {} MiB",
            seconds(self.check.ms),
            self.check.peak_kib / 1024
        )?;
        writeln!(f, "  start: {:.2} s; the daemon holds {}", seconds(self.start_ms), self.started)?;
        writeln!(
            f,
            "  reload: {:.2} s; the daemon holds {}",
            seconds(self.reload_ms),
            self.reloaded
        )?;
        writeln!(
            f,
            "  stages: load {:.2} s, compile {:.2} s, write {:.2} s",
            seconds(load_ms),
            seconds(compile_ms),
            seconds(write_ms)
        )?;
        writeln!(
            f,
            "  a learned address: median {} us, 99 of 100 within {} us, the longest {} us",
            self.stages.learn_median_us, self.stages.learn_most_us, self.stages.learn_longest_us
        )?;
        let kinds: Vec<String> =
            self.maps_kib.iter().map(|(kind, kib)| format!("{kind} {} MiB", kib / 1024)).collect();
        writeln!(
            f,
            "  kernel: {}; foretold {} MiB, its memory grew by {} MiB",
            kinds.join(", "),
            self.foretold_kib / 1024,
            self.kernel_growth_kib / 1024
        )?;
        write!(f, "  {} verdicts as they must be", self.questions)
    }
}
