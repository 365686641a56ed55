// SPDX-License-Identifier: MIT OR GPL-2.0
//! The only place that relies on types of ours being plain old data, and promises it to aya.

use crate::wire::FlowKey;

impl FlowKey {
    /// The key with these words, in the order in which they lie in memory, each as the processor reads it.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 5]) -> Self {
        // SAFETY: both are 40 bytes of integers without padding, of which every pattern is a value.
        unsafe { core::mem::transmute(words) }
    }
}

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
