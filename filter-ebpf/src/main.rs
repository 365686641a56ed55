// SPDX-License-Identifier: MIT OR GPL-2.0
//! The programs: XDP on what enters inside and outside NICs, TC on what leaves them. All judgement
//! is in `filter-common`; what stands here is where the bytes and the tables come from, and the
//! counting.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod atomic;
#[cfg(feature = "bench")]
mod bench;
mod branchless;
mod events;
mod flow_table;
mod frame;
mod maps;
mod reject;
mod remembered;
mod store;
mod tables;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action},
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use filter_common::{
    decide::{Decision, decide},
    egress::{Ingress, Side, egress},
    fast_path::{fast_egress, fast_inside, fast_outside},
    frame::Frame as _,
    outside::decide_outside,
    parse::Headers,
    reject::{Answer, answer_to, tells},
    tables::{Mode, Role, Tables as _},
    verdict::Verdict,
    wire::{COUNTERS_PER_NIC, FlowKey, MAX_NICS, interface},
};

use crate::{
    frame::PacketFrame,
    maps::{COUNTERS, EGRESS_SCRATCH, INTERFACES, MOMENT, SCRATCH, Scratch},
    remembered::Memory,
    tables::{FastSlot, Slot},
};

/// The index of the NIC that this instance of the programs serves, below `MAX_NICS`. User space
/// sets it when it loads them; the default serves none, and drops everything.
#[unsafe(no_mangle)]
static NIC: u32 = MAX_NICS;

/// 1 in the instance that answers questions: it writes its decision down, and touches no counter,
/// no event and no other state.
#[unsafe(no_mangle)]
static OBSERVE: u32 = 0;

/// The side of the NIC (`wire::interface`).
#[unsafe(no_mangle)]
static SIDE: u32 = interface::INSIDE;

/// Ticks in a second (`CONFIG_HZ`).
#[unsafe(no_mangle)]
static HERTZ: u32 = 1000;

/// Lines of the index of one slot. 0 is for programs that have no short cuts: each packet's addresses
/// are looked up in the tries. Where packets are only observed, there must be none.
#[unsafe(no_mangle)]
static LINES: u32 = 0;

/// Sets of the table of flows.
#[unsafe(no_mangle)]
static SETS: u32 = 0;

/// `TCX_NEXT`: programs that were attached later decide. With a qdisc, the same value
/// (`TC_ACT_UNSPEC`) goes on to the next filter.
const TC_NEXT: i32 = -1;

/// Judges what enters an inside NIC.
#[xdp(frags)]
#[inline(always)]
fn sluice_inside(context: XdpContext) -> u32 {
    ingress(&context, Side::Inside)
}

/// Judges what enters an outside NIC.
#[xdp(frags)]
#[inline(always)]
fn sluice_outside(context: XdpContext) -> u32 {
    ingress(&context, Side::Outside)
}

#[inline(always)]
fn ingress(context: &XdpContext, side: Side) -> u32 {
    // What was found out on the way through the fast path is not taken along: the verifier would
    // follow each of its ends through all that comes now.
    if let Some(action) = fast(context, side) {
        return action;
    }
    let nic = global(&NIC);
    if nic >= MAX_NICS {
        return xdp_action::XDP_DROP;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return xdp_action::XDP_DROP;
    };
    // SAFETY: the pointer is to this CPU's copy of the value, and the packet has the CPU for
    // itself until its verdict.
    let scratch = unsafe { &mut *scratch };
    let frame = PacketFrame::of_xdp(context, &raw mut scratch.cell);
    let workspace = &mut scratch.workspace;
    let role = role();
    let Some(slot) = Slot::active(role) else {
        return xdp_action::XDP_DROP;
    };
    let decision = match side {
        Side::Inside => decide(&frame, &slot, workspace),
        Side::Outside => decide_outside(&frame, &slot, workspace),
    };
    let mode = slot.mode();
    let verdict = decision.verdict;
    match role {
        Role::Observing => {
            let answer = match side {
                Side::Inside => {
                    answer_to(&frame, &workspace.headers, verdict, mode, slot.settings())
                }
                Side::Outside => Answer::None,
            };
            observe(&slot, &decision, mode, answer);
        }
        Role::Enforcing => record(nic, &frame, &workspace.headers, verdict, mode),
    }
    if verdict.passes(mode) {
        return xdp_action::XDP_PASS;
    }
    match (side, role) {
        (Side::Inside, Role::Enforcing) if tells(mode, slot.settings()) => {
            // From here on the reason is all that is left of the judgement, also for the verifier.
            let reason = frame.forget(u32::from(verdict.code()));
            reject::reject(context, nic, reason, slot.clock())
        }
        (Side::Inside | Side::Outside, _) => xdp_action::XDP_DROP,
    }
}

/// The action on a packet that the fast path knows what to do with.
#[inline(always)]
fn fast(context: &XdpContext, side: Side) -> Option<u32> {
    let lines = global(&LINES);
    if lines == 0 {
        return None;
    }
    let remembered = Memory::of_this_cpu()?;
    let slot = FastSlot::active(lines, remembered)?;
    let frame = PacketFrame::first_buffer(context, Memory::cell_of(remembered));
    // What is dropped in audit mode is none of the fast path's.
    let end = |verdict: Verdict| {
        let action = match verdict {
            Verdict::Permit(_) | Verdict::Pass(_) => xdp_action::XDP_PASS,
            Verdict::Drop(_) => xdp_action::XDP_DROP,
        };
        (verdict.counter(Mode::Enforce), action)
    };
    let (counter, action) = match side {
        Side::Inside => fast_inside(&frame, &slot, flow_key, end)?,
        Side::Outside => end(fast_outside(&frame, &slot, flow_key()?)?),
    };
    count(global(&NIC), counter, frame.size());
    Some(action)
}

/// Where the fast path writes the key of a packet's flow.
#[inline(always)]
fn flow_key() -> Option<&'static mut FlowKey> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: as in `ingress`.
    Some(unsafe { &mut (*scratch).workspace.key })
}

/// Follows what leaves by a NIC.
#[classifier]
fn sluice_egress(context: TcContext) -> i32 {
    let nic = global(&NIC);
    if nic >= MAX_NICS {
        return TC_ACT_SHOT;
    }
    let Some(scratch) = EGRESS_SCRATCH.get_ptr_mut(0) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: as in `ingress`.
    let scratch = unsafe { &mut *scratch };
    // SAFETY: the context is the one that the kernel gave the program.
    let (from, segments) =
        unsafe { ((*context.skb.skb).ingress_ifindex, (*context.skb.skb).gso_segs) };
    let side = if global(&SIDE) == interface::OUTSIDE { Side::Outside } else { Side::Inside };
    let segments = if segments == 0 { 1 } else { segments };
    let from = ingress_of(from);
    if fast_leaving(&context, scratch, nic, side, from, segments).is_some() {
        return TC_NEXT;
    }
    let frame = PacketFrame::of_tc(&context, &raw mut scratch.cell);
    let Some(slot) = Slot::active(role()) else {
        return TC_ACT_SHOT;
    };
    let workspace = &mut scratch.workspace;
    let verdict = egress(&frame, &slot, workspace, side, from, segments);
    let mode = slot.mode();
    record(nic, &frame, &workspace.headers, verdict, mode);
    if verdict.passes(mode) { TC_NEXT } else { TC_ACT_SHOT }
}

/// Counts a packet that the fast path knows the flow of, and leaves nothing else to do.
#[inline(always)]
fn fast_leaving(
    context: &TcContext,
    scratch: &mut Scratch,
    nic: u32,
    side: Side,
    from: Ingress,
    segments: u32,
) -> Option<()> {
    if global(&LINES) == 0 {
        return None;
    }
    let frame = PacketFrame::first_buffer_of_tc(context, &raw mut scratch.cell);
    let slot = Slot::active(Role::Enforcing)?;
    let key = &mut scratch.workspace.key;
    let verdict = fast_egress(&frame, &slot, key, side, from, segments)?;
    // It passes in any mode.
    count(nic, verdict.counter(Mode::Enforce), frame.size());
    Some(())
}

/// Stores words of the index and of the state.
#[xdp]
fn sluice_store(context: XdpContext) -> u32 {
    match SCRATCH.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's copy of the value.
        Some(scratch) => store::change(&context, unsafe { &raw mut (*scratch).cell }),
        None => 0,
    }
}

/// Changes flows.
#[xdp]
fn sluice_flows(context: XdpContext) -> u32 {
    match SCRATCH.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's copy of the value.
        Some(scratch) => flow_table::change(&context, unsafe { &raw mut (*scratch).cell }),
        None => 0,
    }
}

/// Tells the time in two ways.
#[xdp]
fn sluice_clock(_context: XdpContext) -> u32 {
    if let Some(moment) = MOMENT.get_ptr_mut(0) {
        // SAFETY: the map belongs to this instance, which one thread runs at a time.
        unsafe { *moment = [bpf_jiffies64(), bpf_ktime_get_ns()] };
    }
    xdp_action::XDP_DROP
}

/// A global of the programs' read-only data.
#[inline(always)]
fn global(value: &u32) -> u32 {
    // SAFETY: a live value; volatile, as user space sets it after the compiler has seen it.
    unsafe { core::ptr::read_volatile(value) }
}

#[inline(always)]
fn role() -> Role {
    if global(&OBSERVE) == 0 { Role::Enforcing } else { Role::Observing }
}

/// Where a packet that leaves comes from, by the kernel's index of the interface.
#[inline(always)]
fn ingress_of(from: u32) -> Ingress {
    if from == 0 {
        return Ingress::Own;
    }
    // SAFETY: the value is one aligned word.
    match INTERFACES.get_ptr(from).map(|side| unsafe { core::ptr::read_volatile(side) }) {
        Some(interface::INSIDE) => Ingress::Inside,
        Some(interface::OUTSIDE) => Ingress::Outside,
        Some(_) | None => Ingress::Foreign,
    }
}

/// Counts a packet, and sends a sample of it if it is dropped.
#[inline(always)]
fn record(nic: u32, frame: &PacketFrame<'_>, headers: &Headers, verdict: Verdict, mode: Mode) {
    // Without what led to them, all verdicts are one to the verifier.
    let counter = frame.forget(verdict.counter(mode));
    let dropped = frame.forget(match verdict {
        Verdict::Drop(reason) => u32::from(reason.code()),
        Verdict::Permit(_) | Verdict::Pass(_) => 0,
    });
    count(nic, counter, frame.size());
    let [reason, ..] = dropped.to_le_bytes();
    if reason != 0 {
        events::sample(nic, frame, headers, reason, mode);
    }
}

/// Adds the packet to its one counter. Nothing else on this CPU runs in between, as XDP programs
/// aren't interrupted by one another.
#[inline(always)]
pub(crate) fn count(nic: u32, counter: u32, bytes: u64) {
    let index = nic * COUNTERS_PER_NIC + counter % COUNTERS_PER_NIC;
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's copy of the value, and it is used only here.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(bytes);
        }
    }
}

#[inline(always)]
fn observe(slot: &Slot, decision: &Decision, mode: Mode, answer: Answer) {
    if let Some(observation) = maps::OBSERVATION.get_ptr_mut(0) {
        // SAFETY: the map belongs to the instance that observes, and user space asks it one
        // question at a time.
        unsafe { *observation = decision.observation(slot.word(), mode, answer) };
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
