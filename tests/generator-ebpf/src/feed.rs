// SPDX-License-Identifier: MIT OR GPL-2.0
//! Gives a program under measurement another packet at each run.
//!
//! `BPF_PROG_TEST_RUN` runs a program over and over on the same bytes. So that each run is about
//! another packet, a feeder writes the next of some prepared addresses and ports into the frame, and
//! goes on to the program that is measured by a tail call. That program is the very one that
//! would be attached to a NIC. What the feeder itself costs is measured in the same way, with a
//! program behind it that only passes.

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};

/// Addresses and ports as they stand in the frame: for IPv4, source and destination are the first
/// word; for IPv6, the first four. The ports are the first half of the last one.
type Tuple = [u64; 5];

/// Prepared tuples. User space says how many there shall be when it loads the object.
#[map]
static TUPLES: Array<Tuple> = Array::with_max_entries(1, 0);

/// Which of them are used: the first, their number less 1 (the number is a power of two), how many
/// packets have been made of them, and the IP version of the frame.
#[map]
static WALK: Array<[u32; 4]> = Array::with_max_entries(1, 0);

/// The program behind [`feed`].
#[map]
static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The program behind [`feed_frags`].
#[map]
static MEASURED_FRAGS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where things stand in a frame without VLAN tags, IPv4 options and IPv6 extension headers.
mod offset {
    pub(super) const ADDRESSES_V4: usize = 26;
    pub(super) const PORTS_V4: usize = 34;
    pub(super) const END_V4: usize = 38;
    pub(super) const ADDRESSES_V6: usize = 22;
    pub(super) const PORTS_V6: usize = 54;
    pub(super) const END_V6: usize = 58;
}

/// Feeds a program that takes packets in one buffer.
#[xdp]
fn feed(context: XdpContext) -> u32 {
    next(&context, &MEASURED)
}

/// Feeds a program that takes packets in several buffers.
#[xdp(frags)]
fn feed_frags(context: XdpContext) -> u32 {
    next(&context, &MEASURED_FRAGS)
}

/// Writes the next tuple and goes on. Whoever sees `XDP_ABORTED` knows that nothing was measured.
#[inline(always)]
fn next(context: &XdpContext, measured: &'static ProgramArray) -> u32 {
    if write_next(context).is_some() {
        // SAFETY: the context is the one that the kernel gave the program.
        unsafe { measured.tail_call(context, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn write_next(context: &XdpContext) -> Option<()> {
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: a live value, and one thread runs the program at a time.
    let [first, mask, made, version] = unsafe { *walk };
    let [source, destination, far, further, ports] = TUPLES.get(first + (made & mask))?;
    // SAFETY: as above.
    unsafe { *walk = [first, mask, made.wrapping_add(1), version] };
    let (start, end) = (context.data(), context.data_end());
    if version == 4 {
        if start + offset::END_V4 > end {
            return None;
        }
        // SAFETY: what is written lies before the end.
        unsafe {
            store8::<{ offset::ADDRESSES_V4 }>(start, *source);
            store4::<{ offset::PORTS_V4 }>(start, *ports);
        }
    } else {
        if start + offset::END_V6 > end {
            return None;
        }
        // SAFETY: as above.
        unsafe {
            store8::<{ offset::ADDRESSES_V6 }>(start, *source);
            store8::<{ offset::ADDRESSES_V6 + 8 }>(start, *destination);
            store8::<{ offset::ADDRESSES_V6 + 16 }>(start, *far);
            store8::<{ offset::ADDRESSES_V6 + 24 }>(start, *further);
            store4::<{ offset::PORTS_V6 }>(start, *ports);
        }
    }
    Some(())
}

/// Writes 8 bytes at an offset in one store, though nothing in a packet is aligned: a processor makes
/// whoever reads several small stores at once wait for them, and that wait would be measured.
///
/// # Safety
///
/// The bytes lie within the packet that begins at `start`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn store8<const OFFSET: usize>(start: usize, value: u64) {
    // SAFETY: the caller's; this kernel and its processors take stores without alignment.
    unsafe {
        core::arch::asm!(
            "*(u64 *)({0} + {2}) = {1}",
            in(reg) start,
            in(reg) value,
            const OFFSET,
            options(nostack)
        );
    }
}

/// As [`store8`], the first 4 bytes of the value.
///
/// # Safety
///
/// As [`store8`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn store4<const OFFSET: usize>(start: usize, value: u64) {
    // SAFETY: as in `store8`. The lower half of a register is what stands first in memory.
    unsafe {
        core::arch::asm!(
            "*(u32 *)({0} + {2}) = {1}",
            in(reg) start,
            in(reg) value,
            const OFFSET,
            options(nostack)
        );
    }
}

/// Lints look at the crate as one for the host, which has no such instructions.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
unsafe fn store8<const OFFSET: usize>(_start: usize, _value: u64) {}

/// As above.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
unsafe fn store4<const OFFSET: usize>(_start: usize, _value: u64) {}
