// SPDX-License-Identifier: MIT OR GPL-2.0
//! The kernel's own longest-prefix match and nothing else: what a filter that is built on it can't
//! be faster than.

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{LpmTrie, lpm_trie::Key},
    programs::XdpContext,
};

/// IPv4 destinations. User space says how many there shall be when it loads the object.
#[map]
static TRIE4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(1, 0);

/// IPv6 destinations.
#[map]
static TRIE6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(1, 0);

/// Where destinations stand.
const DESTINATION_V4: usize = 30;
const DESTINATION_V6: usize = 38;

/// Passes what has an IPv4 destination in [`TRIE4`].
#[xdp(frags)]
fn trie4(context: XdpContext) -> u32 {
    let Some(address) = read(&context, DESTINATION_V4) else { return xdp_action::XDP_ABORTED };
    verdict(TRIE4.get(Key::new(32, address)))
}

/// Passes what has an IPv6 destination in [`TRIE6`].
#[xdp(frags)]
fn trie6(context: XdpContext) -> u32 {
    let Some(address) = read(&context, DESTINATION_V6) else { return xdp_action::XDP_ABORTED };
    verdict(TRIE6.get(Key::new(128, address)))
}

#[inline(always)]
fn read<const N: usize>(context: &XdpContext, offset: usize) -> Option<[u8; N]> {
    let position = context.data() + offset;
    if position + N > context.data_end() {
        return None;
    }
    // SAFETY: the position was checked; bytes have no alignment.
    Some(unsafe { core::ptr::read(position as *const [u8; N]) })
}

#[inline(always)]
fn verdict(found: Option<&u32>) -> u32 {
    match found {
        Some(_) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_DROP,
    }
}
