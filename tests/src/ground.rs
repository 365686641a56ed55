// SPDX-License-Identifier: MIT OR Apache-2.0
//! Maps of a test's own, and the program over them: what the kernel decides, beside what the host
//! decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    mem::offset_of,
    net::IpAddr,
};

use anyhow::{Context as _, Result, bail, ensure};
use filter_common::{
    decide::{Decision, decide},
    egress::{Ingress, Side, egress},
    fast_path::{fast_egress, fast_inside, fast_outside},
    flow::Workspace,
    outside::decide_outside,
    parse::Headers,
    reject::{Answer, answer_to},
    tables::Mode,
    verdict::Verdict,
    wire::{
        Active, AddressPair, COUNTERS_PER_NIC, Counter, Event, FlowKey, FlowRecord, Observation,
        SAMPLED, SlotSettings,
    },
};
use filter_user::{
    compile::{Memory, SlotTables, Step, View, apply, rebuild},
    kernel::{
        Instance, LoadedProgram, PinDirectory, Role, SharedMaps,
        maps::{Provenance, SlotIndex},
    },
    policy::TableSizes,
};

use ipnet::IpNet;

use crate::{answers, netns, workdir::PinDir};

/// The smallest frame that the kernel runs a program on: an Ethernet header.
pub const SHORTEST: usize = 14;

/// How many flows the maps are for: so few that many sets are full before the table is.
pub const FLOWS: u32 = 1 << 10;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The longest frame that a program is run on.
const LONGEST: usize = 1 << 16;

/// `TCX_NEXT`, and `TC_ACT_SHOT`.
const TC_PASS: i32 = -1;
const TC_DROP: i32 = 2;

/// Interfaces as the kernel may number them; those of no other number are foreign.
const INSIDE_INTERFACE: u32 = 1001;
const OUTSIDE_INTERFACE: u32 = 1002;
const FOREIGN_INTERFACE: u32 = 1003;

/// A NIC of a test: its index in maps and counters, and its side.
pub type TestNic = (u8, Side);

/// Pinned maps, and the programs for each of some NICs.
///
/// The fields are dropped in this order: handles first, then the pins.
pub struct Ground {
    /// The maps.
    pub maps: SharedMaps,
    samples: Samples,
    enforcing: BTreeMap<TestNic, Instance>,
    observing: BTreeMap<TestNic, Instance>,
    /// What was written into each slot.
    slots: [SlotTables; 2],
    /// Which slot is in force.
    pub active: Active,
    /// Holds the lock.
    pins: PinDirectory,
    directory: PinDir,
}

/// Takes all samples out of the ring buffer, whose type only aya has.
type Samples = Box<dyn FnMut() -> Vec<Vec<u8>>>;

/// What becomes of a frame that enters a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Passes,
    /// Nobody hears of it.
    Dropped,
    /// This frame goes back.
    Answered(Vec<u8>),
}

/// What the host decides on a frame that enters a NIC.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// The verdict.
    pub decision: Decision,
    /// What the client is told.
    pub answer: Answer,
    /// What was read of the frame.
    pub headers: Headers,
}

/// The counters of a NIC that aren't zero.
pub type Counters = BTreeMap<u32, Counter>;

/// What a packet did beside its verdict.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    /// Samples of it that were sent.
    pub samples: Vec<Vec<u8>>,
    /// Samples that were left out, or did not fit.
    pub left_out: u64,
}

// === impl Ground ===

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").field("active", &self.active).finish_non_exhaustive()
    }
}

impl Ground {
    /// Creates the maps, and loads the programs for these NICs in these roles.
    ///
    /// # Errors
    ///
    /// The kernel refuses maps or programs.
    pub fn new(nics: impl IntoIterator<Item = TestNic>, roles: &[Role]) -> Result<Self> {
        let directory = PinDir::new(&format!("test-{}", netns::unique()))?;
        let pins = PinDirectory::create(directory.path())?;
        let (mut maps, samples) = open(&pins, Provenance::Created)?;
        let sides = [(INSIDE_INTERFACE, Side::Inside), (OUTSIDE_INTERFACE, Side::Outside)];
        maps.set_interfaces(&sides.into())?;
        let nics: BTreeSet<TestNic> = nics.into_iter().collect();
        let load = |role| {
            let wanted = nics.iter().copied().filter(|_| roles.contains(&role));
            load(&pins, wanted, role)
        };
        Ok(Self {
            maps,
            samples,
            enforcing: load(Role::Enforcing)?,
            observing: load(Role::Observing)?,
            slots: [SlotTables::default(), SlotTables::default()],
            active: Active::default(),
            pins,
            directory,
        })
    }

    /// Lets go of every handle, as a process that ends, then opens the pins again and reads what
    /// the slots hold. The program then only observes.
    ///
    /// # Errors
    ///
    /// A pin is gone, or a slot holds something else than was written.
    pub fn reopen(self) -> Result<Self> {
        let nics: Vec<TestNic> =
            self.enforcing.keys().chain(self.observing.keys()).copied().collect();
        let Self { maps, samples, enforcing, observing, slots, active, pins, directory } = self;
        // The lock of the directory goes with its handle.
        drop((maps, samples, enforcing, observing, pins));
        let pins = PinDirectory::open(directory.path())?.context("the pins are gone")?;
        let (mut maps, samples) = open(&pins, Provenance::Pinned)?;
        ensure!(maps.active()? == active, "another slot is in force");
        let [first, second] = &slots;
        for (slot, written) in [(SlotIndex::First, first), (SlotIndex::Second, second)] {
            ensure!(maps.read_slot(slot)? == *written, "{slot:?} changed");
        }
        let observing = load(&pins, nics, Role::Observing)?;
        let enforcing = BTreeMap::new();
        Ok(Self { maps, samples, enforcing, observing, slots, active, pins, directory })
    }

    /// Where the maps are pinned, for attaching a program to a NIC.
    #[must_use]
    pub fn pins(&self) -> &PinDirectory {
        &self.pins
    }

    /// What stands in the slot in force.
    #[must_use]
    pub fn tables(&self) -> &SlotTables {
        self.slot(SlotIndex::of(self.active))
    }

    /// What stands in a slot.
    #[must_use]
    pub fn slot(&self, slot: SlotIndex) -> &SlotTables {
        let [first, second] = &self.slots;
        match slot {
            SlotIndex::First => first,
            SlotIndex::Second => second,
        }
    }

    /// Builds tables in the idle slot, step by step, and puts them in force.
    ///
    /// # Errors
    ///
    /// A map can't be written.
    pub fn swap(&mut self, tables: &SlotTables) -> Result<()> {
        let idle = SlotIndex::of(self.active).other();
        let steps: Vec<Step> = rebuild(self.slot(idle), tables).collect();
        for step in steps {
            self.step(idle, &step)?;
        }
        self.activate(idle, tables)
    }

    /// Carries out one step in a slot.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn step(&mut self, slot: SlotIndex, step: &Step) -> Result<()> {
        self.maps.apply(slot, step)?;
        let [first, second] = &mut self.slots;
        let tables = match slot {
            SlotIndex::First => first,
            SlotIndex::Second => second,
        };
        apply(tables, step);
        Ok(())
    }

    /// Puts a slot in force, which holds these tables, with an index of them.
    ///
    /// # Errors
    ///
    /// It holds others, or the map can't be written.
    pub fn activate(&mut self, slot: SlotIndex, tables: &SlotTables) -> Result<()> {
        ensure!(self.slot(slot) == tables, "{slot:?} does not hold what is to be put in force");
        self.maps.build_index(slot, tables)?;
        self.active = Active::new(slot.number(), self.active.generation() + 1);
        self.maps.activate(slot, self.active.generation())?;
        self.maps.wait_for_packets()
    }

    /// Runs the program that enforces on a frame that enters; whether it passes.
    ///
    /// # Errors
    ///
    /// No such program was loaded, or it can't be run on this frame.
    pub fn run(&mut self, nic: TestNic, frame: &[u8]) -> Result<bool> {
        match self.enforcing(nic)?.run(frame)? {
            XDP_PASS => Ok(true),
            XDP_DROP | XDP_TX => Ok(false),
            action => bail!("XDP action {action}"),
        }
    }

    /// As [`Ground::run`]; what becomes of the frame, to the last byte.
    ///
    /// # Errors
    ///
    /// As [`Ground::run`]; also where a frame that isn't answered is changed.
    pub fn fate(&mut self, nic: TestNic, frame: &[u8]) -> Result<Fate> {
        let mut out = vec![0; LONGEST];
        let (action, length) = self.enforcing(nic)?.run_into(frame, &mut out)?;
        out.truncate(length);
        match action {
            XDP_TX => Ok(Fate::Answered(out)),
            XDP_PASS if out == frame => Ok(Fate::Passes),
            XDP_DROP if out == frame => Ok(Fate::Dropped),
            action => bail!("XDP action {action}, and the frame is {out:02x?}"),
        }
    }

    /// Runs the program that follows what leaves; whether the frame passes.
    ///
    /// # Errors
    ///
    /// As [`Ground::run`].
    pub fn run_egress(
        &mut self,
        nic: TestNic,
        frame: &[u8],
        from: Ingress,
        segments: u32,
    ) -> Result<bool> {
        let from = match from {
            Ingress::Own => 0,
            Ingress::Inside => INSIDE_INTERFACE,
            Ingress::Outside => OUTSIDE_INTERFACE,
            Ingress::Foreign => FOREIGN_INTERFACE,
        };
        match self.enforcing(nic)?.run_egress(frame, from, segments)? {
            TC_PASS => Ok(true),
            TC_DROP => Ok(false),
            action => bail!("TC action {action}"),
        }
    }

    fn enforcing(&mut self, nic: TestNic) -> Result<&mut Instance> {
        self.enforcing.get_mut(&nic).context("no program enforces for this NIC")
    }

    /// The flows in the kernel, without their times, which depend on the machine.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, FlowRecord>> {
        Ok(timeless(self.maps.flows()?))
    }

    /// The addresses with an entry of their own in the slot in force that are in use; their marks are
    /// taken.
    ///
    /// # Errors
    ///
    /// The map can't be read or written.
    pub fn take_used(&mut self) -> Result<BTreeSet<IpAddr>> {
        let slot = SlotIndex::of(self.active);
        let [first, second] = &self.slots;
        let held = match slot {
            SlotIndex::First => first,
            SlotIndex::Second => second,
        };
        self.maps.take_used(slot, held, &addresses(held.grants.keys()))
    }

    /// Forgets all flows.
    ///
    /// # Errors
    ///
    /// The map can't be written.
    pub fn forget_flows(&mut self) -> Result<()> {
        let flows = self.maps.flows()?;
        self.maps.forget_flows(flows.into_iter().map(|(key, _)| key))?;
        for key in self.maps.kept_flows()? {
            self.maps.forget_kept_flow(&key)?;
        }
        Ok(())
    }

    /// Asks the program that observes.
    ///
    /// # Errors
    ///
    /// As [`Ground::run`].
    pub fn observe(&mut self, nic: TestNic, frame: &[u8]) -> Result<Observation> {
        let instance = self.observing.get_mut(&nic).context("no program observes for this NIC")?;
        instance.observe(frame)
    }

    /// What the program that observes has to say, by these tables.
    #[must_use]
    pub fn expected(&self, view: View<'_>, side: Side, frame: &[u8]) -> Observation {
        let view = View { role: Role::Observing, ..view };
        let Judgement { decision, answer, .. } = judge(view, side, frame);
        decision.observation(self.active, mode(view.tables), answer)
    }

    /// All counters of a NIC that aren't zero.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn counters(&self, nic: u8) -> Result<Counters> {
        self.counters_below(nic, COUNTERS_PER_NIC)
    }

    /// The counters of a NIC below `end` that aren't zero: to read all takes its time on a slow
    /// machine. That of samples is left out, which counts packets a second time.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn counters_below(&self, nic: u8, end: u32) -> Result<Counters> {
        let mut counters = Counters::new();
        for counter in SAMPLED + 1..end {
            let value = self.maps.counter(nic, counter)?;
            if value != Counter::default() {
                counters.insert(counter, value);
            }
        }
        Ok(counters)
    }

    /// What came since this was asked last. `before` is the number that it gave then.
    ///
    /// # Errors
    ///
    /// The map can't be read.
    pub fn traces(&mut self, before: &mut u64) -> Result<Traces> {
        let loss = self.maps.event_loss()?;
        let left_out = loss.skipped + loss.lost;
        let traces = Traces { samples: (self.samples)(), left_out: left_out - *before };
        *before = left_out;
        Ok(traces)
    }

    /// One of each program that enforces, by its name.
    #[must_use]
    pub fn programs(&self) -> BTreeMap<&'static str, LoadedProgram> {
        let of = |instance: &Instance| [Some(instance.ingress), instance.egress];
        let programs = self.enforcing.values().flat_map(of).flatten();
        programs.map(|program| (program.name, program)).collect()
    }
}

/// What the host decides on a frame that enters a NIC of a side.
#[must_use]
pub fn judge(view: View<'_>, side: Side, frame: &[u8]) -> Judgement {
    let mut workspace = Workspace::default();
    let fast = judge_fast(view, side, frame);
    let decision = match side {
        Side::Inside => decide(frame, &view, &mut workspace),
        Side::Outside => decide_outside(frame, &view, &mut workspace),
    };
    if let Some(fast) = fast {
        assert_eq!(fast, decision.verdict, "the fast path and the filter differ: {frame:02x?}");
    }
    let headers = workspace.headers;
    let answer = match side {
        Side::Inside => {
            let settings = view.tables.settings;
            answer_to(frame, &headers, decision.verdict, mode(view.tables), settings)
        }
        Side::Outside => Answer::None,
    };
    Judgement { decision, answer, headers }
}

/// What the fast path decides on a frame, without leaving traces; `None` where it leaves that to the
/// filter.
#[must_use]
pub fn judge_fast(view: View<'_>, side: Side, frame: &[u8]) -> Option<Verdict> {
    let view = View { role: Role::Observing, ..view };
    match side {
        Side::Inside => {
            let mut key = FlowKey::default();
            fast_inside(frame, &view, || Some(&mut key), |verdict| verdict)
        }
        Side::Outside => fast_outside(frame, &view, &mut FlowKey::default()),
    }
}

// === impl Judgement ===

impl Judgement {
    /// What becomes of the frame, with the gateway's own addresses on the NIC. Clients that have
    /// had too many answers, and buffers that are too short, are left out of account.
    ///
    /// # Errors
    ///
    /// There is an answer that can't be made.
    pub fn fate(&self, view: View<'_>, frame: &[u8], gateway: &AddressPair) -> Result<Fate> {
        if self.decision.verdict.passes(mode(view.tables)) {
            return Ok(Fate::Passes);
        }
        if self.answer == Answer::None {
            return Ok(Fate::Dropped);
        }
        Ok(Fate::Answered(answers::make(frame, &self.headers, self.answer, gateway)?))
    }
}

/// What the host decides on a frame that leaves by a NIC of a side.
#[must_use]
pub fn judge_egress(
    view: View<'_>,
    side: Side,
    frame: &[u8],
    from: Ingress,
    segments: u32,
) -> Verdict {
    let observing = View { role: Role::Observing, ..view };
    let fast = fast_egress(frame, &observing, &mut FlowKey::default(), side, from, segments);
    let verdict = egress(frame, &view, &mut Workspace::default(), side, from, segments);
    if let Some(fast) = fast {
        assert_eq!(fast, verdict, "the fast path and the filter differ: {frame:02x?}");
    }
    verdict
}

/// The prefixes that are addresses.
pub fn addresses<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> BTreeSet<IpAddr> {
    let single = |prefix: &&IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    prefixes.into_iter().filter(single).map(IpNet::addr).collect()
}

/// Flows without their times.
pub fn timeless(
    flows: impl IntoIterator<Item = (FlowKey, FlowRecord)>,
) -> BTreeMap<FlowKey, FlowRecord> {
    let timeless = |(key, record)| (key, FlowRecord { created: 0, seen: 0, ..record });
    flows.into_iter().map(timeless).collect()
}

/// The tables as a packet sees them that leaves traces in a memory.
#[must_use]
pub fn view<'a>(tables: &'a SlotTables, memory: &'a Memory, nic: u8) -> View<'a> {
    View { tables, nic: nic.into(), memory: Some(memory), role: Role::Enforcing }
}

/// What is done with denied packets.
#[must_use]
pub fn mode(tables: &SlotTables) -> Mode {
    if tables.settings.mode == SlotSettings::AUDIT { Mode::Audit } else { Mode::Enforce }
}

/// The reason in a sample; `None` if it has not the length of one.
#[must_use]
pub fn reason_of(sample: &[u8]) -> Option<u8> {
    let whole = sample.len() == size_of::<Event>();
    sample.get(offset_of!(Event, reason)).copied().filter(|_| whole)
}

fn load(
    pins: &PinDirectory,
    nics: impl IntoIterator<Item = TestNic>,
    role: Role,
) -> Result<BTreeMap<TestNic, Instance>> {
    nics.into_iter().map(|nic| Ok((nic, Instance::load(pins, nic.0, nic.1, role)?))).collect()
}

fn open(pins: &PinDirectory, expected: Provenance) -> Result<(SharedMaps, Samples)> {
    let sizes = TableSizes { flows: FLOWS, ..TableSizes::default() };
    let (maps, mut ring, provenance) = SharedMaps::open(pins, sizes)?;
    ensure!(provenance == expected, "the maps are {provenance:?}, not {expected:?}");
    let samples = move || {
        let mut samples = Vec::new();
        while let Some(sample) = ring.next() {
            samples.push(sample.to_vec());
        }
        samples
    };
    Ok((maps, Box::new(samples)))
}
