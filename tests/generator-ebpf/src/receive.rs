// SPDX-License-Identifier: MIT OR GPL-2.0
//! The end of the way: counts what arrives, and drops it.

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::PerCpuArray,
    programs::XdpContext,
};

/// Packets that arrived: TCP and UDP over IPv4, and everything else.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

const TRAFFIC: u32 = 0;
const OTHER: u32 = 1;

/// Where the protocol stands, behind an Ethernet header.
const ETHERTYPE: usize = 12;
const PROTOCOL: usize = 23;

/// Counts and drops.
#[xdp]
fn receive(context: XdpContext) -> u32 {
    let kind = if is_traffic(&context) { TRAFFIC } else { OTHER };
    if let Some(count) = ARRIVED.get_ptr_mut(kind) {
        // SAFETY: a live value, this CPU's own.
        unsafe { *count += 1 };
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn is_traffic(context: &XdpContext) -> bool {
    let start = context.data();
    if start + PROTOCOL + 1 > context.data_end() {
        return false;
    }
    let byte = |offset: usize| {
        // SAFETY: within what was compared with the end.
        unsafe { core::ptr::read((start + offset) as *const u8) }
    };
    byte(ETHERTYPE) == 8 && byte(ETHERTYPE + 1) == 0 && matches!(byte(PROTOCOL), 6 | 17)
}
