// SPDX-License-Identifier: MIT OR GPL-2.0
//! Changes of the index that user space asks for. What it writes into a map itself might be seen
//! half written; a program stores whole words.

use aya_ebpf::programs::XdpContext;
use filter_common::{
    frame::Frame as _,
    index::lower,
    wire::{INDEX_CHANGES, IndexChange},
};

use crate::{atomic, frame::PacketFrame, maps::INDEX};

/// Makes the changes that stand in a frame, in their order; how many they were.
#[inline(always)]
pub(crate) fn change(context: &XdpContext, cell: *mut u32) -> u32 {
    let frame = PacketFrame::of_xdp(context, cell);
    for number in 0..INDEX_CHANGES {
        let Some(bytes) = frame.read::<16>(14 + number * 16) else { return number };
        let [p0, p1, p2, p3, a0, a1, a2, a3, value @ ..] = bytes;
        let change = IndexChange {
            place: u32::from_ne_bytes([p0, p1, p2, p3]),
            action: u32::from_ne_bytes([a0, a1, a2, a3]),
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
    let IndexChange { place, action, value } = change;
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
            _ => return None,
        }
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
