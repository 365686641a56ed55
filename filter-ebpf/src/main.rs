// SPDX-License-Identifier: MIT OR GPL-2.0
//! The XDP program of the inside NICs. All judgement is in `filter-common`; what stands here is
//! where the bytes and the tables come from, and the counting.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod events;
mod frame;
mod maps;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use filter_common::{
    decide::{Decision, decide},
    frame::Frame as _,
    tables::Mode,
    wire::{COUNTERS_PER_NIC, MAX_NICS},
};

use crate::{
    frame::XdpFrame,
    maps::{COUNTERS, SCRATCH},
    tables::Slot,
};

/// The index of the NIC that this instance of the program serves, below `MAX_NICS`. User space
/// sets it when it loads the program; the default serves none, and drops everything.
#[unsafe(no_mangle)]
static NIC: u32 = MAX_NICS;

/// 1 in the instance that answers questions: it writes its decision down, and touches no counter,
/// no event and no other state.
#[unsafe(no_mangle)]
static OBSERVE: u32 = 0;

/// Judges what enters an inside NIC.
#[xdp(frags)]
fn sluice_inside(context: XdpContext) -> u32 {
    // SAFETY: a global of the program's read-only data; volatile, as user space sets it after
    // the compiler has seen its value.
    let nic = unsafe { core::ptr::read_volatile(&raw const NIC) };
    if nic >= MAX_NICS {
        return xdp_action::XDP_DROP;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return xdp_action::XDP_DROP;
    };
    // SAFETY: the pointer is to this CPU's copy of the value, and the packet has the CPU for
    // itself until its verdict.
    let scratch = unsafe { &mut *scratch };
    let frame = XdpFrame::new(&context, &raw mut scratch.cell);
    let headers = &mut scratch.headers;
    let slot = Slot::active(nic);
    let decision = decide(&frame, &slot, headers);
    let mode = slot.mode();
    // SAFETY: as above.
    if unsafe { core::ptr::read_volatile(&raw const OBSERVE) } != 0 {
        observe(&slot, &decision, mode);
    } else {
        count(nic, decision.verdict.counter(mode), frame.len());
        events::sample(nic, &frame, headers, decision.verdict, mode);
    }
    if decision.verdict.passes(mode) { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

/// Adds the packet to its one counter. Nothing else on this CPU runs in between, as XDP programs
/// aren't interrupted by one another.
#[inline(always)]
fn count(nic: u32, counter: u32, bytes: u32) {
    let index = nic * COUNTERS_PER_NIC + counter % COUNTERS_PER_NIC;
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's copy of the value, and it is used only here.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(bytes));
        }
    }
}

#[inline(always)]
fn observe(slot: &Slot, decision: &Decision, mode: Mode) {
    if let Some(observation) = maps::OBSERVATION.get_ptr_mut(0) {
        // SAFETY: the map belongs to the instance that observes, and user space asks it one
        // question at a time.
        unsafe { *observation = decision.observation(slot.word(), mode) };
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
