// SPDX-License-Identifier: MIT OR GPL-2.0
//! The only place that promises aya that a type of ours is plain old data.

#[cfg(feature = "user")]
mod user {
    use aya::Pod;

    use crate::wire::{
        AddressPair, Counter, Event, EventWindow, FlowKey, FlowRecord, FragmentKey, IndexLayout,
        Observation, RejectBucket, SlotSettings,
    };

    // SAFETY: repr(C), integers only, no padding (the size asserts beside the types), and every
    // bit pattern is a value.
    unsafe impl Pod for Counter {}
    // SAFETY: as above.
    unsafe impl Pod for Event {}
    // SAFETY: as above.
    unsafe impl Pod for EventWindow {}
    // SAFETY: as above.
    unsafe impl Pod for Observation {}
    // SAFETY: as above.
    unsafe impl Pod for AddressPair {}
    // SAFETY: as above.
    unsafe impl Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl Pod for FlowRecord {}
    // SAFETY: as above.
    unsafe impl Pod for FragmentKey {}
    // SAFETY: as above.
    unsafe impl Pod for IndexLayout {}
    // SAFETY: as above.
    unsafe impl Pod for RejectBucket {}
    // SAFETY: as above.
    unsafe impl Pod for SlotSettings {}
}
