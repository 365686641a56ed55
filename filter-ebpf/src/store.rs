// SPDX-License-Identifier: MIT OR GPL-2.0
//! Changes of the index and of the state that user space asks for. What it writes into a map itself might be seen
//! half written; a program stores whole words.

use aya_ebpf::programs::XdpContext;
use filter_common::{
    frame::Frame as _,
    index::lower,
    wire::{INDEX_CHANGES, IndexChange, STRIPE_BITS, STRIPES, State},
};

use crate::{
    atomic,
    frame::{PacketFrame, opaque},
    maps::{INDEX, STATE},
};

/// Makes the changes that stand in a frame, in their order; how many they were.
#[inline(always)]
pub(crate) fn change(context: &XdpContext, cell: *mut u32) -> u32 {
    let frame = PacketFrame::of_xdp(context, cell);
    for number in 0..INDEX_CHANGES {
        let Some(bytes) = frame.read::<16>(14 + number * 16) else { return number };
        let [p0, p1, p2, p3, a0, a1, s0, s1, value @ ..] = bytes;
        let change = IndexChange {
            place: u32::from_ne_bytes([p0, p1, p2, p3]),
            action: u16::from_ne_bytes([a0, a1]),
            stripe: u16::from_ne_bytes([s0, s1]),
            value: u64::from_ne_bytes(value),
        };
        if make(change).is_none() {
            return number;
        }
    }
    INDEX_CHANGES
}

#[inline(always)]
fn make(change: IndexChange) -> Option<()> {
    let IndexChange { place, action, stripe, value } = change;
    let state = STATE.get_ptr_mut(0)?.cast::<u64>();
    if action == IndexChange::STATE {
        // The verifier sees that it lies in front of the counters in the register that is gone on with.
        let place = opaque(place as usize);
        if place >= State::WORDS as usize {
            return None;
        }
        // SAFETY: the word lies within the state; one store of it, volatile, so that it is one.
        unsafe { core::ptr::write_volatile(state.add(place), value) };
        return Some(());
    }
    let line = INDEX.get_ptr_mut(place / 8)?;
    // SAFETY: the word lies within the line.
    let word = unsafe { line.cast::<u64>().add((place % 8) as usize) };
    // SAFETY: each is one store of an aligned word or of one of its halves.
    unsafe {
        match action {
            IndexChange::STORE => core::ptr::write_volatile(word, value),
            IndexChange::STORE_LOW => core::ptr::write_volatile(half(word, 0), lower(value)),
            IndexChange::STORE_HIGH => core::ptr::write_volatile(half(word, 1), lower(value)),
            IndexChange::SET => atomic::set(word, value),
            IndexChange::CLEAR => atomic::keep(word, !value),
            IndexChange::NOTHING => {}
            _ => return None,
        }
    }
    move_on(state, stripe)
}

/// Counts a change, after everything that was written before.
#[inline(always)]
fn move_on(state: *mut u64, stripe: u16) -> Option<()> {
    // There is no other stripe, and the verifier sees it in the register that is gone on with.
    let stripe = opaque(stripe.into()) & (STRIPES - 1) as usize;
    // SAFETY: there is a counter for each stripe. User space makes one change at a time, so that the
    // counter is the same when it is counted on.
    unsafe {
        let counter = state.add(State::WORDS as usize + stripe);
        if core::ptr::read_volatile(counter) + 1 >= 1 << STRIPE_BITS {
            return None;
        }
        atomic::add_behind(counter, 1);
    }
    Some(())
}

/// The lower or the upper half of a word, which stand in the order of the processor.
#[inline(always)]
fn half(word: *mut u64, number: usize) -> *mut u32 {
    let place = if cfg!(target_endian = "big") { 1 - number } else { number };
    // SAFETY: both halves lie within the word.
    unsafe { word.cast::<u32>().add(place) }
}
