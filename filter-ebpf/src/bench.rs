// SPDX-License-Identifier: MIT OR GPL-2.0
//! The steps of the judgement, measured one by one: a program that stops after one of them. It is only
//! in the object that the lab builds for its benchmark (feature `bench`).

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use filter_common::{
    flow::Way,
    frame::Frame as _,
    parse::{Headers, Payload, parse},
    tables::Tables as _,
    wire::{MAX_NICS, Selector},
};

use crate::{NIC, count, frame::PacketFrame, global, maps::SCRATCH, role, tables::Slot};

/// The step after which the program stops; user space sets it when it loads the program, so that the
/// kernel takes out what comes after it.
#[unsafe(no_mangle)]
static STAGE: u32 = 0;

/// The steps, in the order of a client's packet, and then that of a reply.
mod stage {
    /// Which slot is in force, and its settings.
    pub(super) const SLOT: u32 = 0;
    pub(super) const PARSE: u32 = 1;
    pub(super) const GRANT: u32 = 2;
    pub(super) const CLASS: u32 = 3;
    pub(super) const PORT_SET: u32 = 4;
    pub(super) const PERMIT: u32 = 5;
    pub(super) const COUNT: u32 = 6;
    /// After the parser, nothing but the flow.
    pub(super) const FLOW: u32 = 7;
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
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: as in `ingress`.
    let scratch = unsafe { &mut *scratch };
    let frame = PacketFrame::of_xdp(context, &raw mut scratch.cell);
    let workspace = &mut scratch.workspace;
    let slot = Slot::active(nic, role(), 1000);
    if stage == stage::SLOT {
        return (slot.settings().classes != 0).then_some(());
    }
    workspace.headers = Headers::default();
    let payload = parse(&frame, &mut workspace.headers).ok()?.forget(&frame);
    if payload != Payload::Tcp {
        return None;
    }
    if stage == stage::PARSE {
        return Some(());
    }
    if stage == stage::FLOW {
        workspace.key.set(&workspace.headers, Way::Incoming);
        return slot.flow(&workspace.key).map(|_| ());
    }
    let headers = &workspace.headers;
    let grant = slot.grant(&headers.destination);
    if grant.row() == 0 {
        return None;
    }
    if stage == stage::GRANT {
        return Some(());
    }
    let class = slot.class(headers.vlan, &headers.source)?;
    if stage == stage::CLASS {
        return Some(());
    }
    let ports = slot.port_set(grant, class)?;
    if stage == stage::PORT_SET {
        return Some(());
    }
    let permit = slot.permit(ports, Selector::tcp(headers.destination_port));
    if !permit.is_granted() {
        return None;
    }
    if stage == stage::PERMIT {
        return Some(());
    }
    if stage == stage::COUNT {
        count(nic, permit.counter(), frame.len());
        return Some(());
    }
    None
}
