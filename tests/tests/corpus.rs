// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every frame there is, through `decide()` on the host and through the loaded program: our own
//! seeds, what fuzzing found, and other people's captures. Both have to say the same.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use filter_common::{
    egress::Side,
    frame::{Frame, HostHead},
    reject::Answer,
    tables::Mode,
    verdict::{Answered, DropReason, PassReason},
    wire::{Active, COUNTERS_PER_NIC, Counter, SAMPLED},
};
use filter_user::{
    compile::{Memory, SlotTables, View, rebuild},
    kernel::{Instance, PinDirectory, Role, SharedMaps, maps::SlotIndex},
    policy::TableSizes,
};
use sluice_lab::{
    answers, captures,
    invariants::{self, Cuts, GATEWAY, Judged, judge},
    netns::unique,
    rich_policy::RichPolicy,
    seeds::seeds,
    workdir::PinDir,
};

/// XDP actions (include/uapi/linux/bpf.h).
const DROP: u32 = 1;
const PASS: u32 = 2;
const ANSWER: u32 = 3;

/// The longest frame that a program is run on.
const LONGEST: usize = 1 << 16;

/// The kernel runs no program on less than an Ethernet header.
const SHORTEST: usize = 14;

/// So much of a frame lies in its first buffer at least: a page without what the kernel keeps
/// before and behind it. The program reads no further.
const FIRST_BUFFER: usize = 3_500;

/// The generation of the policy, to see that the program reads it.
const GENERATION: u64 = 7;

/// The program for each NIC, over maps of its own.
struct Kernel {
    instances: Vec<Loaded>,
    maps: SharedMaps,
    // Last, so that it goes when nothing uses the pins any more.
    _pins: PinDir,
}

/// The program for one NIC, to enforce and to observe, and what it should have counted.
struct Loaded {
    nic: u8,
    enforcing: Instance,
    observing: Instance,
    counted: BTreeMap<u32, Counter>,
}

/// A frame of which only the beginning can be read.
struct Beginning<'a>(&'a [u8]);

/// How a comparison went that found no difference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Same,
    /// The kernel offers no frames of several buffers.
    Refused,
}

/// How many frames were judged, and why they passed or were dropped.
#[derive(Default)]
struct Tally {
    frames: usize,
    /// Too short or too long for the kernel, or with headers beyond the first buffer.
    host_only: usize,
    reasons: BTreeMap<u8, usize>,
}

#[test]
fn the_files_of_the_seeds_are_those_of_the_generator() -> Result<()> {
    let mut files = read_directory(&seed_directory())?;
    for seed in seeds() {
        let file = files.remove(seed.name);
        assert_eq!(
            file.as_ref(),
            Some(&seed.frame),
            "{}: run `cargo run -p sluice-lab --bin sluice-frames -- --seeds -o {}`",
            seed.name,
            seed_directory().display()
        );
    }
    assert!(files.is_empty(), "of no seed: {:?}", files.keys());
    Ok(())
}

#[test]
fn seeds_get_the_same_from_the_program() -> Result<()> {
    check("seeds", &read_directory(&seed_directory())?, Cuts::All)
}

/// Also the beginnings of each seed, as the program has no other way to see a short frame.
#[test]
fn beginnings_of_seeds_get_the_same_from_the_program() -> Result<()> {
    let mut frames = BTreeMap::new();
    for (name, frame) in read_directory(&seed_directory())? {
        for length in 14..frame.len() {
            frames.insert(format!("{name}-{length}"), frame[..length].to_owned());
        }
    }
    check("beginnings", &frames, Cuts::Some)
}

/// Frames in several buffers, of which the program reads the first only.
#[test]
fn long_frames_get_the_same_from_the_program() -> Result<()> {
    let mut frames = BTreeMap::new();
    for (name, mut frame) in read_directory(&seed_directory())? {
        for length in [FIRST_BUFFER, 4_100, 9_014] {
            frame.resize(length, 0);
            frames.insert(format!("{name}-{length}"), frame.clone());
        }
    }
    check("long", &frames, Cuts::Some)
}

#[test]
fn what_fuzzing_found_gets_the_same_from_the_program() -> Result<()> {
    let directory = root().join("tests/fuzz/corpus/decide");
    if directory.is_dir() {
        check("fuzzing", &read_directory(&directory)?, Cuts::Some)?;
    } else {
        println!("{} is not there yet; `cargo xtask fuzz` makes it", directory.display());
    }
    Ok(())
}

#[test]
fn captures_get_the_same_from_the_program() -> Result<()> {
    let directory = root().join("../shared/pcaps");
    if !directory.is_dir() {
        println!("skipped: pcaps: {} is not there", directory.display());
        return Ok(());
    }
    let mut frames = BTreeMap::new();
    for (name, file) in read_directory(&directory)? {
        if !name.ends_with(".pcap") && !name.ends_with(".pcapng") {
            continue;
        }
        let capture = captures::read(&file).with_context(|| name.clone())?;
        println!("{name}: {} frames, {} left out", capture.frames.len(), capture.left_out);
        for (number, frame) in (1..).zip(capture.frames) {
            frames.insert(format!("{name} frame {number}"), frame);
        }
    }
    assert!(!frames.is_empty(), "no frame in {}", directory.display());
    check("captures", &frames, Cuts::Some)
}

/// Compares host and kernel on frames, each on each NIC.
fn check(what: &str, frames: &BTreeMap<String, Vec<u8>>, cuts: Cuts) -> Result<()> {
    let rich = RichPolicy::new();
    let mut kernel = Kernel::load(&rich)?;
    let mut tally = Tally::default();
    // First fragments are remembered on either side.
    let memory = Memory::default();
    for (name, frame) in frames {
        invariants::check(&rich, frame, cuts).map_err(|what| anyhow!("{name}: {what}"))?;
        tally.frames += 1;
        let mut asked = 0;
        for loaded in &mut kernel.instances {
            let observing = View { memory: Some(&memory), ..rich.view(loaded.nic) };
            let judged = judge(frame.as_slice(), &observing);
            *tally.reasons.entry(judged.decision.verdict.code()).or_default() += 1;
            let beginning = judge(&Beginning(frame), &observing);
            if frame.len() < SHORTEST || beginning != judged {
                continue;
            }
            let compared = loaded
                .compare(&mut kernel.maps, frame, &judged)
                .with_context(|| format!("{name}, NIC {}", loaded.nic))?;
            if compared == Compared::Same {
                let enforcing = View { role: Role::Enforcing, ..observing };
                same("judgement", judge(frame.as_slice(), &enforcing), judged, &judged)?;
            }
            asked += usize::from(compared == Compared::Same);
        }
        if asked < kernel.instances.len() {
            tally.host_only += 1;
        }
    }
    for loaded in &kernel.instances {
        loaded.check_counters(&kernel.maps)?;
    }
    tally.print(what);
    Ok(())
}

// === impl Kernel ===

impl Kernel {
    fn load(rich: &RichPolicy) -> Result<Self> {
        let place = PinDir::new(&format!("corpus-{}", unique()))?;
        let pins = PinDirectory::create(place.path())?;
        let (mut maps, ..) = SharedMaps::open(&pins, TableSizes::default())?;
        for step in rebuild(&SlotTables::default(), &rich.compiled.tables) {
            maps.apply(SlotIndex::Second, &step)?;
        }
        maps.activate(SlotIndex::Second, GENERATION)?;
        maps.set_nic_addresses(&RichPolicy::NICS.map(|nic| (nic, GATEWAY)).into())?;
        let mut instances = Vec::new();
        for nic in RichPolicy::NICS {
            instances.push(Loaded {
                nic,
                enforcing: Instance::load(&pins, nic, Side::Inside, Role::Enforcing)?,
                observing: Instance::load(&pins, nic, Side::Inside, Role::Observing)?,
                counted: BTreeMap::new(),
            });
        }
        Ok(Self { instances, maps, _pins: place })
    }
}

// === impl Loaded ===

impl Loaded {
    fn compare(
        &mut self,
        maps: &mut SharedMaps,
        frame: &[u8],
        judged: &Judged,
    ) -> Result<Compared> {
        let decision = judged.decision;
        let found = match self.observing.observe(frame) {
            Ok(found) => found,
            Err(_) if frame.len() > FIRST_BUFFER => return Ok(Compared::Refused),
            Err(error) => return Err(error),
        };
        let active = Active::new(SlotIndex::Second.number(), GENERATION);
        let expected = decision.observation(active, Mode::Enforce, judged.answer);
        same("observation", found, expected, judged)?;
        let passes = decision.verdict.passes(Mode::Enforce);
        let index = decision.verdict.counter(Mode::Enforce);
        let length = u64::try_from(frame.len())?;
        // However many frames a client sends, each of them may be answered.
        let mut out = vec![0; LONGEST];
        let (action, out_length) = self.enforcing.run_into(frame, &mut out)?;
        out.truncate(out_length);
        let answered = match judged.answer {
            Answer::None => None,
            Answer::Reset => Some(Answered::Reset),
            Answer::Unreachable => Some(Answered::Unreachable),
        };
        if let Some(answered) = answered {
            maps.forget_rejected()?;
            let answer = answers::make(frame, &judged.headers, judged.answer, &GATEWAY)?;
            same("answer", out, answer.clone(), judged)?;
            let counter = self.counted.entry(u32::from(answered.code())).or_default();
            counter.packets += 1;
            counter.bytes += u64::try_from(answer.len())?;
        }
        let counter = self.counted.entry(index).or_default();
        counter.packets += 1;
        counter.bytes += length;
        let expected = match answered {
            Some(_) => ANSWER,
            None if passes => PASS,
            None => DROP,
        };
        same("action", action, expected, judged)?;
        let found = maps.counter(self.nic, index)?;
        same(&format!("counter {index}"), found, *counter, judged)?;

        Ok(Compared::Same)
    }

    /// No packet counted anywhere else, and the observing instance counted nothing.
    fn check_counters(&self, maps: &SharedMaps) -> Result<()> {
        // That of samples counts packets a second time.
        for index in SAMPLED + 1..COUNTERS_PER_NIC {
            let expected = self.counted.get(&index).copied().unwrap_or_default();
            let found = maps.counter(self.nic, index)?;
            let nic = self.nic;
            ensure!(found == expected, "NIC {nic}, counter {index}: {found:?} for {expected:?}");
        }
        Ok(())
    }
}

// === impl Beginning ===

impl Frame for Beginning<'_> {
    type Head<'b>
        = HostHead<'b>
    where
        Self: 'b;

    fn head<const N: usize>(&self) -> Option<HostHead<'_>> {
        self.0.get(..FIRST_BUFFER).unwrap_or(self.0).head::<N>()
    }

    type Anew<'b>
        = Beginning<'b>
    where
        Self: 'b;

    fn anew(&self) -> Beginning<'_> {
        Beginning(self.0)
    }

    fn len(&self) -> u32 {
        Frame::len(self.0)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(..FIRST_BUFFER).unwrap_or(self.0).read(offset)
    }
}

// === impl Tally ===

impl Tally {
    fn print(&self, what: &str) {
        let Self { frames, host_only, reasons } = self;
        println!(
            "{what}: {frames} frames on {} NICs; {host_only} of them on the host only",
            RichPolicy::NICS.len()
        );
        for (code, times) in reasons {
            println!("    {:<24}{times:>8}", reason_name(*code));
        }
    }
}

fn same<T: PartialEq + fmt::Debug>(what: &str, program: T, host: T, judged: &Judged) -> Result<()> {
    ensure!(program == host, "{what}: the program says {program:?}, the host {host:?}: {judged:?}");
    Ok(())
}

fn reason_name(code: u8) -> &'static str {
    PassReason::from_code(code)
        .map(PassReason::name)
        .or(DropReason::from_code(code).map(DropReason::name))
        .expect("a code with a reason")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned()
}

fn seed_directory() -> PathBuf {
    root().join("tests/fuzz/seeds")
}

/// The files of a directory by their names.
fn read_directory(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(files)
}
