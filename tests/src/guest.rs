// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is checked of a kernel from within: the whole case table, and every program of the object,
//! loaded, attached as the daemon attaches it, met by real frames, replaced and taken off.
//!
//! It prints lines for `xtask`, each of which begins with `guest: `:
//!
//! * `cases HOST PROGRAM`: how many cases the host judged, and how many of them the program;
//! * `program NAME INSTRUCTIONS MILLISECONDS`: what the verifier processed, and how long loading
//!   took;
//! * `attached NAME HOW`;
//! * `memory KILOBYTES`: what all of the guest uses.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, File},
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use filter_common::egress::Side;
use filter_user::{
    compile::{CounterLedger, Host, HostNic, SlotTables, View, compile},
    kernel::{
        Attachment, Duty, Following, Instance, LoadedProgram, Role,
        attach::Adoption,
        netlink::{Netlink, Nic},
        object,
        pins::NicPins,
    },
    names::Snapshot,
    policy::{NicName, XdpMode, load},
};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::Runtime;

use crate::{
    cases::{Table, check::check},
    frames::frame,
    ground::{Ground, judge, mode},
};

/// The gateway's address, which `tests/guest/init` gives its NIC.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The UDP port that the policy allows.
const ALLOWED: u16 = 4000;
/// A UDP port that it doesn't.
const DENIED: u16 = 4001;
/// Datagrams that are sent to each.
const DATAGRAMS: u16 = 20;
/// How long a datagram may be under way, on a machine that is emulated.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// How long is listened for a datagram that must not come, after a later one has come.
const SILENCE: Duration = Duration::from_millis(200);

/// The gateway's configuration with its NIC on each side; the other side has one that isn't there.
const GATEWAY_FILE: &str = "[gateway]\ninside = [\"INSIDE\"]\noutside = [\"OUTSIDE\"]\n";
const RULES_FILE: &str = "[[rule]]\nname = \"gateway\"\nto = [\"self\"]\nudp = [4000]\n\
                          [[inbound]]\nname = \"service\"\nfrom = [\"10.9.0.0/24\"]\n\
                          to = [\"self\"]\nudp = [4000]\n";

/// Every program of the object; one that stands not here is a fault. `sluice_clock` runs whenever
/// others are loaded.
const PROGRAMS: [&str; 6] = [
    "sluice_clock",
    "sluice_egress",
    "sluice_flows",
    "sluice_inside",
    "sluice_outside",
    "sluice_store",
];

/// A gateway with one inside NIC, and the client behind it.
struct Gateway {
    ground: Ground,
    tables: SlotTables,
    side: Side,
    nic: NicPins,
    netlink: RefCell<Netlink>,
    runtime: Runtime,
    allowed: UdpSocket,
    denied: UdpSocket,
    client: UdpSocket,
}

/// What stands between the client and the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Attached,
    Absent,
}

/// Checks everything, and returns what is wrong.
#[must_use]
pub fn run(cases: &Path, nic: &str, client: &Path) -> Vec<String> {
    let checks = [("cases", check_cases(cases)), ("programs", check_programs(nic, client))];
    let faults = checks.into_iter().filter_map(|(name, result)| Some((name, result.err()?)));
    faults.map(|(name, error)| format!("{name}: {error:#}")).collect()
}

fn check_cases(directory: &Path) -> Result<()> {
    let report = check(&Table::read(directory)?)?;
    println!("guest: cases {} {}", report.host, report.program);
    let faults = report.faults;
    ensure!(faults.is_empty(), "{} faults: {}", faults.len(), faults.join("; "));
    Ok(())
}

fn check_programs(nic: &str, client: &Path) -> Result<()> {
    object::check_privileges()?;
    let mut gateway = Gateway::new(nic, client)?;
    let known = BTreeSet::from(PROGRAMS.map(str::to_owned));
    let programs = object::programs(gateway.ground.pins())?;
    ensure!(programs == known, "the object has {programs:?}, checked are {known:?}");
    for side in [Side::Inside, Side::Outside] {
        attached(&mut gateway, side).with_context(|| format!("{side:?}"))?;
    }
    // The tables of the gateway are still there.
    print_memory()
}

/// The programs of a NIC of a side: on what enters by a pinned link in native mode, on what leaves
/// as the kernel allows it.
fn attached(gateway: &mut Gateway, side: Side) -> Result<()> {
    gateway.take(side)?;
    let duty = Duty { side, following: Following::Flows, mode: XdpMode::Native };
    let pins = gateway.ground.pins();
    let observing = Instance::load(pins, gateway.nic.index, side, Role::Observing)?;
    print_program(&observing.ingress, ",observing");
    let nic = gateway.found()?;
    let attachment = Attachment::attach(pins, gateway.nic.clone(), nic.index, duty)?;
    print_program(&attachment.instance.ingress, "");
    if let Some(egress) = &attachment.instance.egress {
        print_program(egress, if side == Side::Inside { ",inside" } else { "" });
    }
    gateway.expect_native(&attachment)?;
    gateway.send(Filter::Attached)?;

    // What a daemon that ends leaves behind stays attached, and the next one takes it over.
    drop(attachment);
    gateway.send(Filter::Attached).context("after the end of the process that attached it")?;
    let pins = gateway.ground.pins();
    let attachment = match Attachment::adopt(pins, gateway.nic.clone(), &gateway.found()?, duty)? {
        Adoption::Adopted(attachment) => attachment,
        Adoption::Stale => bail!("its own pinned link is taken for another's"),
    };
    gateway.expect_native(&attachment)?;
    gateway.send(Filter::Attached).context("after the programs were replaced")?;
    println!("guest: attached {} native,link,replaced", attachment.instance.ingress.name);
    let how = if pins.egress_link(&gateway.nic).exists() { "tcx,link" } else { "clsact,filter" };
    println!("guest: attached sluice_egress {how},replaced");

    drop(attachment);
    gateway.ground.pins().remove_nic(&gateway.nic)?;
    // The kernel takes a program off when it gets round to freeing its link.
    let mut nic = gateway.found()?;
    let deadline = Instant::now() + UNDER_WAY;
    while nic.native_program.is_some() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
        nic = gateway.found()?;
    }
    ensure!(
        (nic.native_program, nic.generic_program) == (None, None),
        "a program is still attached without its pins: {nic:?}"
    );
    gateway.send(Filter::Absent).context("after the programs were taken off")
}

fn print_program(program: &LoadedProgram, what: &str) {
    let LoadedProgram { name, load_time, verified_instructions, .. } = program;
    let instructions = verified_instructions.map_or("?".to_owned(), |n| n.to_string());
    println!("guest: program {name}{what} {instructions} {}", load_time.as_millis());
}

fn print_memory() -> Result<()> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = |key: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.trim().split(' ').next());
        Ok(number.with_context(|| format!("/proc/meminfo has no {key}"))?.parse()?)
    };
    println!("guest: memory {}", kilobytes("MemTotal:")? - kilobytes("MemAvailable:")?);
    Ok(())
}

// === impl Gateway ===

impl Gateway {
    fn new(nic: &str, client: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let netlink = runtime.block_on(async { Netlink::connect() })?;
        let name = NicName::try_from(nic)?;
        let ground = Ground::new([], &[])?;
        let listen = |port| -> Result<UdpSocket> {
            UdpSocket::bind((GATEWAY, port)).with_context(|| format!("UDP {GATEWAY}:{port}"))
        };
        Ok(Self {
            ground,
            tables: SlotTables::default(),
            side: Side::Inside,
            nic: NicPins { index: 0, name },
            netlink: RefCell::new(netlink),
            runtime,
            allowed: listen(ALLOWED)?,
            denied: listen(DENIED)?,
            client: socket_in(client)?,
        })
    }

    /// Has its NIC on a side from now on.
    fn take(&mut self, side: Side) -> Result<()> {
        self.side = side;
        self.tables = tables(&self.nic.name, side)?;
        self.ground.swap(&self.tables)
    }

    /// The NIC, as netlink describes it now.
    fn found(&self) -> Result<Nic> {
        let mut host = self.runtime.block_on(self.netlink.borrow_mut().read())?;
        let nic = host.nics.remove(&self.nic.name);
        nic.with_context(|| format!("there is no NIC {}", self.nic.name))
    }

    /// The program is at work in the driver, by a pinned link.
    fn expect_native(&self, attachment: &Attachment) -> Result<()> {
        ensure!(attachment.announcement.is_none(), "{:?}", attachment.announcement);
        let nic = self.found()?;
        ensure!(
            nic.native_program == Some(attachment.instance.ingress.id)
                && nic.generic_program.is_none(),
            "program {} is not attached in native mode: {nic:?}",
            attachment.instance.ingress.id
        );
        ensure!(attachment.follows(self.ground.pins())?, "what leaves is not followed");
        let link = self.ground.pins().link(&self.nic);
        ensure!(link.exists(), "{} is not pinned", link.display());
        Ok(())
    }

    /// Sends datagrams to both ports and holds what arrives, and what is counted, against what
    /// has to be.
    fn send(&self, filter: Filter) -> Result<()> {
        let before = self.counted()?;
        for number in 0..DATAGRAMS {
            for port in [DENIED, ALLOWED] {
                self.client.send_to(&number.to_be_bytes(), (GATEWAY, port))?;
            }
        }
        // They come in the order in which they were sent.
        let allowed = arrived(&self.allowed, UNDER_WAY)?;
        let denied = arrived(&self.denied, SILENCE)?;
        let after = self.counted()?;
        let found = [allowed.into(), denied.into(), after.0 - before.0, after.1 - before.1];
        let all = u64::from(DATAGRAMS);
        let expected = match filter {
            Filter::Attached => [all, 0, all, all],
            Filter::Absent => [all, all, 0, 0],
        };
        ensure!(
            found == expected,
            "the filter is {filter:?}; of {all} datagrams to each of an allowed and a denied port \
             arrived, and were counted, {found:?}, not {expected:?}"
        );
        Ok(())
    }

    /// Packets to the allowed and to the denied port that were counted so far.
    fn counted(&self) -> Result<(u64, u64)> {
        Ok((self.counted_to(ALLOWED)?, self.counted_to(DENIED)?))
    }

    fn counted_to(&self, port: u16) -> Result<u64> {
        let frame = frame(&format!("ip 10.9.0.2 > {GATEWAY} | udp {port}"))?;
        let view = View::new(&self.tables, self.nic.index.into());
        let verdict = judge(view, self.side, &frame).decision.verdict;
        let counter = verdict.counter(mode(&self.tables));
        Ok(self.ground.maps.counter(self.nic.index, counter)?.packets)
    }
}

/// The tables of a policy that opens one UDP port of the gateway.
fn tables(nic: &NicName, side: Side) -> Result<SlotTables> {
    let (inside, outside) = match side {
        Side::Inside => (nic.as_str(), "other"),
        Side::Outside => ("other", nic.as_str()),
    };
    let gateway = GATEWAY_FILE.replace("INSIDE", inside).replace("OUTSIDE", outside);
    let files = [
        (Arc::from(load::GATEWAY_FILE), gateway),
        (Arc::from("policy.d/rules.toml"), RULES_FILE.to_owned()),
    ];
    let policy = load::parse(&files).map_err(|errors| anyhow!("{errors}"))?.policy;
    let nic = HostNic {
        slot: 0,
        name: nic.clone(),
        side,
        plausible: vec!["10.9.0.0/24".parse()?],
        elsewhere: Vec::new(),
    };
    let host = Host { nics: vec![nic], own: BTreeSet::from([GATEWAY.into()]), ..Host::default() };
    Ok(compile(&policy, &Snapshot::default(), &host, &mut CounterLedger::default())?.tables)
}

/// A socket in another network namespace, where it stays whichever thread uses it.
fn socket_in(namespace: &Path) -> Result<UdpSocket> {
    let file = File::open(namespace)
        .with_context(|| format!("{} can't be opened", namespace.display()))?;
    let make = move || -> Result<UdpSocket> {
        setns(&file, CloneFlags::CLONE_NEWNET).context("the client's namespace")?;
        Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?)
    };
    thread::spawn(make).join().map_err(|_panic| anyhow!("the thread in the namespace panicked"))?
}

/// Takes in datagrams, until all have come or none comes for some time.
fn arrived(socket: &UdpSocket, patience: Duration) -> Result<u16> {
    socket.set_read_timeout(Some(patience))?;
    let mut datagram = [0; 64];
    for number in 0..DATAGRAMS {
        match socket.recv(&mut datagram) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(number),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(DATAGRAMS)
}
