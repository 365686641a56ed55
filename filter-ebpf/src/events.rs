// SPDX-License-Identifier: MIT OR GPL-2.0
//! Samples of dropped packets for user space.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use filter_common::{
    flow::octets,
    frame::Frame,
    parse::Headers,
    tables::Mode,
    wire::{EVENT_WINDOW_SHIFT, EVENTS_PER_WINDOW, Event, SAMPLED},
};

use crate::{
    count,
    maps::{EVENT_WINDOW, EVENTS},
};

/// The window that it is now.
#[inline(always)]
pub(crate) fn window() -> u64 {
    // SAFETY: jiffies can always be read.
    unsafe { bpf_jiffies64() >> EVENT_WINDOW_SHIFT }
}

/// Whether this CPU has sent as many samples in the window that it is now as it may.
#[inline(always)]
pub(crate) fn has_sent_enough(now: u64) -> bool {
    let Some(window) = EVENT_WINDOW.get_ptr_mut(0) else { return false };
    // SAFETY: as in `sample`.
    let window = unsafe { &*window };
    window.window == now && window.sent >= u64::from(EVENTS_PER_WINDOW)
}

/// Sends a sample of a packet that is dropped for the reason with a code, unless this CPU has sent
/// enough of them lately.
#[inline(always)]
pub(crate) fn sample<F: Frame>(nic: u32, frame: &F, headers: &Headers, reason: u8, mode: Mode) {
    let Some(window) = EVENT_WINDOW.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's copy of the value, and no other is alive.
    let (window, now) = (unsafe { &mut *window }, self::window());
    if window.window != now {
        window.window = now;
        window.sent = 0;
    }
    if window.sent >= u64::from(EVENTS_PER_WINDOW) {
        return;
    }
    window.sent += 1;
    count(nic, SAMPLED, frame.size());
    // Indexes of NICs are far below 256.
    let [nic, ..] = nic.to_le_bytes();

    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        window.lost = window.lost.wrapping_add(1);
        return;
    };
    entry.write(Event {
        source: octets(&headers.source),
        destination: octets(&headers.destination),
        length: frame.len(),
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        vlan: headers.vlan,
        ethertype: headers.ethertype,
        ip_version: headers.ip_version,
        protocol: headers.protocol,
        reason,
        nic,
        audited: match mode {
            Mode::Enforce => 0,
            Mode::Audit => 1,
        },
        reserved: [0; 3],
    });
    entry.submit(0);
}
