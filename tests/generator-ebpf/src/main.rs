// SPDX-License-Identifier: MIT OR GPL-2.0
//! Programs of the lab that run in the kernel: what packets are made and measured with. Nothing of
//! the filter is in here.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod feed;
mod generate;
mod receive;
mod trie;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes everything.
#[xdp]
fn pass(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// As [`pass`], for what takes packets in several buffers: the kernel keeps these two kinds of
/// programs apart.
#[xdp(frags)]
fn pass_frags(_context: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Drops everything, once it has read where an IPv4 packet goes: what no filter by destinations gets around. The
/// packet was written by another processor, and its first line has to be fetched from there.
#[xdp]
fn drop_reading(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + 34 > end {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: what is read lies before the end; volatile, as it makes no difference to the compiler.
    let nowhere = unsafe { core::ptr::read_volatile((start + 30) as *const u16) } == 0;
    if nowhere { xdp_action::XDP_ABORTED } else { xdp_action::XDP_DROP }
}

/// Drops everything.
#[xdp]
fn drop(_context: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
