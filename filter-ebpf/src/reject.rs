// SPDX-License-Identifier: MIT OR GPL-2.0
//! Telling clients of denied packets, by the NIC through which these came.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use filter_common::{
    flow::Clock,
    frame::Frame as _,
    reject::{Answer, answer_to_drop, client_key, make},
    verdict::{Answered, DropReason},
    wire::RejectBucket,
};

use crate::{
    count,
    frame::MutableFrame,
    maps::{NIC_ADDRESSES, REJECTED, SCRATCH, Scratch},
};

/// Turns a packet that is dropped, for the reason with this code, into the answer to it, if there is
/// one, and counts what came of it. The XDP action.
#[inline(always)]
pub(crate) fn reject(context: &XdpContext, nic: u32, reason: u32, clock: Clock) -> u32 {
    let Some(reason) = u8::try_from(reason).ok().and_then(DropReason::from_code) else {
        return xdp_action::XDP_DROP;
    };
    // What was read of the packet is taken from memory once more, so that for the verifier all ways
    // here are one.
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return xdp_action::XDP_DROP };
    // SAFETY: the pointer is to this CPU's copy of the value, and the judgement has ended that used
    // it before.
    let scratch = unsafe { &mut *scratch };
    let mut frame = MutableFrame::new(context, &raw mut scratch.cell);
    let answer = answer_to_drop(&frame, &scratch.workspace.headers, reason);
    // Nor does it make a difference from here on which packets get which answer.
    let answer = match Answer::from_code(frame.forget(u32::from(answer.code()))) {
        None | Some(Answer::None) => return xdp_action::XDP_DROP,
        Some(answer) => answer,
    };
    let answered = if admits(scratch, clock) {
        let gateway = NIC_ADDRESSES.get(nic).copied().unwrap_or_default();
        match (make(&mut frame, &scratch.workspace.headers, answer, &gateway), answer) {
            (Some(()), Answer::Reset) => Answered::Reset,
            (Some(()), Answer::Unreachable) => Answered::Unreachable,
            (Some(()), Answer::None) | (None, _) => Answered::Impossible,
        }
    } else {
        Answered::Limited
    };
    count(nic, u32::from(answered.code()), frame.size());
    match answered {
        Answered::Reset | Answered::Unreachable => xdp_action::XDP_TX,
        Answered::Limited | Answered::Impossible => xdp_action::XDP_DROP,
    }
}

/// Whether the client gets one more answer.
#[inline(always)]
fn admits(scratch: &mut Scratch, clock: Clock) -> bool {
    scratch.client = client_key(&scratch.workspace.headers);
    match REJECTED.get_ptr_mut(scratch.client) {
        // SAFETY: the kernel doesn't use an entry's memory for another one before the program ends
        // that found it, but for clients that are evicted: then a stranger's credit is taken.
        Some(bucket) => unsafe { (*bucket).take(clock) },
        None => {
            scratch.bucket = RejectBucket::first(clock);
            // Where the kernel has no entry to spare, nobody counts the client's answers.
            REJECTED.insert(scratch.client, scratch.bucket, 0).is_ok()
        }
    }
}
