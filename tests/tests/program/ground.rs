// SPDX-License-Identifier: MIT OR Apache-2.0
//! Maps of a test's own, and programs over them.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::offset_of,
    time::Duration,
};

use filter_common::{
    decide::{Decision, decide},
    parse::Headers,
    tables::Mode,
    wire::{Active, COUNTERS_PER_NIC, Counter, Event, Observation, SlotSettings},
};
use filter_user::{
    compile::{SlotTables, Step, View, apply, rebuild},
    kernel::{
        Instance, PinDirectory, Role, SharedMaps,
        maps::{Provenance, SlotIndex},
    },
};
use sluice_lab::{netns, workdir::PinDir};

/// The smallest frame that the kernel runs a program on: an Ethernet header.
pub(crate) const SHORTEST: usize = 14;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// Pinned maps, and the program for each of some NICs.
///
/// The fields are dropped in this order: handles first, then the pins.
pub(crate) struct Ground {
    pub(crate) maps: SharedMaps,
    samples: Samples,
    enforcing: BTreeMap<u8, Instance>,
    observing: BTreeMap<u8, Instance>,
    /// What was written into each slot.
    slots: [SlotTables; 2],
    pub(crate) active: Active,
    /// Holds the lock.
    pins: PinDirectory,
    directory: PinDir,
}

/// Takes all samples out of the ring buffer, whose type only aya has.
type Samples = Box<dyn FnMut() -> Vec<Vec<u8>>>;

/// The counters of a NIC that aren't zero.
pub(crate) type Counters = BTreeMap<u32, Counter>;

/// What a packet did beside its verdict.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    /// Samples of it that were sent.
    pub(crate) samples: Vec<Vec<u8>>,
    /// Samples that were left out, or did not fit.
    pub(crate) left_out: u64,
}

// === impl Ground ===

impl Ground {
    /// Creates the maps, and loads the program for these NICs in these roles.
    pub(crate) fn new(nics: impl IntoIterator<Item = u8>, roles: &[Role]) -> Self {
        let directory = PinDir::new(&format!("test-{}", netns::unique())).unwrap();
        let pins = PinDirectory::create(directory.path()).unwrap();
        let (maps, samples) = open(&pins, Provenance::Created);
        let nics: BTreeSet<u8> = nics.into_iter().collect();
        let load = |role| {
            let wanted = nics.iter().filter(|_| roles.contains(&role));
            let instance = |nic: &u8| (*nic, Instance::load(&pins, *nic, role).unwrap());
            wanted.map(instance).collect()
        };
        Self {
            maps,
            samples,
            enforcing: load(Role::Enforcing),
            observing: load(Role::Observing),
            slots: [SlotTables::default(), SlotTables::default()],
            active: Active::default(),
            pins,
            directory,
        }
    }

    /// Lets go of every handle, as a process that ends, then opens the pins again and reads what
    /// the slots hold.
    pub(crate) fn reopen(self) -> Self {
        let nics: Vec<u8> = self.enforcing.keys().chain(self.observing.keys()).copied().collect();
        let Self { maps, samples, enforcing, observing, slots, active, pins, directory } = self;
        // The lock of the directory goes with its handle.
        drop((maps, samples, enforcing, observing, pins));
        let pins = PinDirectory::open(directory.path()).unwrap().expect("it is there");
        let (maps, samples) = open(&pins, Provenance::Pinned);
        assert_eq!(maps.active().unwrap(), active);
        for slot in [SlotIndex::First, SlotIndex::Second] {
            let read = maps.read_slot(slot).unwrap();
            assert!(read == slots[usize::try_from(slot.number()).unwrap()], "{slot:?} changed");
        }
        let observe = |nic: u8| (nic, Instance::load(&pins, nic, Role::Observing).unwrap());
        let (enforcing, observing) = (BTreeMap::new(), nics.into_iter().map(observe).collect());
        Self { maps, samples, enforcing, observing, slots, active, pins, directory }
    }

    /// What stands in the slot in force.
    pub(crate) fn tables(&self) -> &SlotTables {
        self.slot(SlotIndex::of(self.active))
    }

    /// What stands in a slot.
    pub(crate) fn slot(&self, slot: SlotIndex) -> &SlotTables {
        let [first, second] = &self.slots;
        match slot {
            SlotIndex::First => first,
            SlotIndex::Second => second,
        }
    }

    /// Builds tables in the idle slot, step by step, and puts them in force.
    pub(crate) fn swap(&mut self, tables: &SlotTables) {
        let idle = SlotIndex::of(self.active).other();
        for step in rebuild(self.slot(idle), tables) {
            self.step(idle, &step);
        }
        self.activate(idle, tables);
    }

    /// Carries out one step in a slot.
    pub(crate) fn step(&mut self, slot: SlotIndex, step: &Step) {
        self.maps.apply(slot, step).unwrap();
        let [first, second] = &mut self.slots;
        let tables = match slot {
            SlotIndex::First => first,
            SlotIndex::Second => second,
        };
        apply(tables, step);
    }

    /// Puts a slot in force, which holds these tables.
    pub(crate) fn activate(&mut self, slot: SlotIndex, tables: &SlotTables) {
        assert_eq!(self.slot(slot), tables);
        self.active = Active::new(slot.number(), self.active.generation() + 1);
        self.maps.activate(slot, self.active.generation()).unwrap();
        self.maps.wait_for_packets().unwrap();
    }

    /// Runs the program that enforces; whether the frame passes.
    pub(crate) fn run(&mut self, nic: u8, frame: &[u8]) -> bool {
        match self.enforcing.get_mut(&nic).unwrap().run(frame).unwrap() {
            XDP_PASS => true,
            XDP_DROP => false,
            action => panic!("XDP action {action}"),
        }
    }

    /// Asks the program that observes.
    pub(crate) fn observe(&mut self, nic: u8, frame: &[u8]) -> Observation {
        self.observing.get_mut(&nic).unwrap().observe(frame).unwrap()
    }

    /// What the program that observes has to say, by these tables.
    pub(crate) fn expected(&self, tables: &SlotTables, nic: u8, frame: &[u8]) -> Observation {
        judge(tables, nic, frame).observation(self.active, mode(tables))
    }

    /// All counters of a NIC that aren't zero.
    pub(crate) fn counters(&self, nic: u8) -> Counters {
        (0..COUNTERS_PER_NIC)
            .map(|counter| (counter, self.maps.counter(nic, counter).unwrap()))
            .filter(|(_, value)| *value != Counter::default())
            .collect()
    }

    /// What came since this was asked last. `before` is the number that it gave then.
    pub(crate) fn traces(&mut self, before: &mut u64) -> Traces {
        let loss = self.maps.event_loss().unwrap();
        let left_out = loss.skipped + loss.lost;
        let traces = Traces { samples: (self.samples)(), left_out: left_out - *before };
        *before = left_out;
        traces
    }

    /// Instructions that the verifier processed for one program, and how long loading took on
    /// average.
    pub(crate) fn verified(&self) -> (Option<u32>, Duration) {
        let instances: Vec<&Instance> = self.enforcing.values().collect();
        let time: Duration = instances.iter().map(|instance| instance.load_time).sum();
        let number = u32::try_from(instances.len()).unwrap().max(1);
        (instances.first().and_then(|first| first.verified_instructions), time / number)
    }
}

/// What the host decides.
pub(crate) fn judge(tables: &SlotTables, nic: u8, frame: &[u8]) -> Decision {
    decide(frame, &View { tables, nic: nic.into() }, &mut Headers::default())
}

/// What is done with denied packets.
pub(crate) fn mode(tables: &SlotTables) -> Mode {
    if tables.settings.mode == SlotSettings::AUDIT { Mode::Audit } else { Mode::Enforce }
}

/// The reason in a sample.
pub(crate) fn reason_of(sample: &[u8]) -> u8 {
    assert_eq!(sample.len(), size_of::<Event>());
    sample[offset_of!(Event, reason)]
}

fn open(pins: &PinDirectory, expected: Provenance) -> (SharedMaps, Samples) {
    let (maps, mut ring, provenance) = SharedMaps::open(pins).unwrap();
    assert_eq!(provenance, expected);
    let samples = move || {
        let mut samples = Vec::new();
        while let Some(sample) = ring.next() {
            samples.push(sample.to_vec());
        }
        samples
    };
    (maps, Box::new(samples))
}
