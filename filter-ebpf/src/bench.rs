// SPDX-License-Identifier: MIT OR GPL-2.0
//! The steps of the fast path, measured one by one: a program that stops after one of them. It is only
//! in the object that the lab builds for its benchmark (feature `bench`).

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use filter_common::{
    fast_path::{grant, read},
    flow::Way,
    frame::Frame as _,
    tables::{Known, Shortcuts as _, Tables as _},
    verdict::DropReason,
    wire::{MAX_NICS, SlotSettings},
};

use crate::{
    LINES, NIC, count,
    frame::PacketFrame,
    global,
    maps::SCRATCH,
    remembered::Memory,
    tables::{FastSlot, Slot},
};

/// The step after which the program stops; user space sets it when it loads the program, so that the
/// kernel takes out what comes after it.
#[unsafe(no_mangle)]
static STAGE: u32 = 0;

/// The steps of the fast path, in the order of the first packet to a destination, and then that of a reply.
mod stage {
    /// Which slot is in force, and its settings.
    pub(super) const SLOT: u32 = 0;
    pub(super) const PARSE: u32 = 1;
    pub(super) const CLASS: u32 = 2;
    /// What is remembered of the destination, which is nothing here.
    pub(super) const MEMORY: u32 = 3;
    pub(super) const GRANT: u32 = 4;
    pub(super) const PORT_SET: u32 = 5;
    pub(super) const PERMIT: u32 = 6;
    pub(super) const COUNT: u32 = 7;
    /// After the parser, nothing but the flow.
    pub(super) const FLOW: u32 = 8;
    /// After the index, what denied packets take: settings, the decision not to send a sample, and a counter.
    pub(super) const SETTINGS: u32 = 9;
    pub(super) const SAMPLE: u32 = 10;
    pub(super) const COUNT_DENIED: u32 = 11;
}

/// Passes what gets as far as the step.
#[xdp(frags)]
fn bench_steps(context: XdpContext) -> u32 {
    match steps(&context) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn steps(context: &XdpContext) -> Option<()> {
    let (stage, nic) = (global(&STAGE), global(&NIC));
    if nic >= MAX_NICS {
        return None;
    }
    let remembered = Memory::of_this_cpu()?;
    let fast = FastSlot::active(global(&LINES), remembered)?;
    let frame = PacketFrame::first_buffer(context, Memory::cell_of(remembered));
    if stage == stage::SLOT {
        return Some(());
    }
    let packet = read(&frame)?;
    if stage == stage::PARSE {
        return Some(());
    }
    if stage == stage::FLOW {
        let slot = fast.tables()?;
        let scratch = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: as in `ingress`.
        let key = unsafe { &mut (*scratch).workspace.key };
        packet.set_key(key, Way::Incoming);
        return slot.flow(key).map(|_| ());
    }
    let destination = packet.destination;
    let class = fast.known_class(packet.source)?;
    if stage == stage::CLASS {
        return Some(());
    }
    let wanted = (class, packet.selector);
    let Known::Nothing(question) = fast.remembered(destination, wanted) else {
        return Some(());
    };
    if stage == stage::MEMORY {
        return Some(());
    }
    let grant = grant(&frame, fast.indexed(question, destination))?;
    if stage == stage::GRANT {
        return Some(());
    }
    let slot = fast.tables()?;
    if grant.row() == 0 {
        return denied(stage, nic, (&fast, &slot), frame.size());
    }
    let ports = slot.port_set(grant, class)?;
    if stage == stage::PORT_SET {
        return Some(());
    }
    let permit = slot.permit(ports, packet.selector);
    if !permit.is_granted() {
        return None;
    }
    if stage == stage::PERMIT {
        return Some(());
    }
    if stage == stage::COUNT {
        count(nic, permit.counter(), frame.size());
        return Some(());
    }
    None
}

/// What comes after the index for a destination that nothing is listed for.
#[inline(always)]
fn denied(stage: u32, nic: u32, (fast, slot): (&FastSlot, &Slot), bytes: u64) -> Option<()> {
    let settings = slot.settings();
    if settings.flags & SlotSettings::REJECT != 0 || settings.mode == SlotSettings::AUDIT {
        return None;
    }
    if stage == stage::SETTINGS {
        return Some(());
    }
    // The step sends none, and so mostly finds that one may be sent.
    let _skipped = fast.skips_sample();
    if stage == stage::SAMPLE {
        return Some(());
    }
    if stage == stage::COUNT_DENIED {
        count(nic, DropReason::NotListed.code().into(), bytes);
        return Some(());
    }
    None
}
