// SPDX-License-Identifier: MIT OR GPL-2.0
//! The only place that relies on types of ours being plain old data, and promises it to aya.

use crate::wire::{FlowChange, FlowKey, IndexLayout, SlotSettings};

impl FlowKey {
    /// The key with these words, in the order in which they lie in memory, each as the processor reads it.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 5]) -> Self {
        // SAFETY: both are 40 bytes of integers without padding, of which every pattern is a value.
        unsafe { core::mem::transmute(words) }
    }

    /// The words of [`Self::from_words`].
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 5] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(*self) }
    }
}

impl FlowChange {
    /// The words in which it lies in memory, each as the processor reads it.
    #[must_use]
    pub const fn words(self) -> [u64; size_of::<Self>() / 8] {
        // SAFETY: integers without padding, as many bytes of them.
        unsafe { core::mem::transmute(self) }
    }
}

impl SlotSettings {
    /// The words in which they lie in memory, each as the processor reads it.
    #[must_use]
    pub const fn words(self) -> [u64; size_of::<Self>() / 8] {
        // SAFETY: both are integers without padding, as many bytes of them.
        unsafe { core::mem::transmute(self) }
    }
}

impl IndexLayout {
    /// As [`SlotSettings::words`].
    #[must_use]
    pub const fn words(self) -> [u64; size_of::<Self>() / 8] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(self) }
    }
}

#[cfg(feature = "user")]
mod user {
    use aya::Pod;

    use crate::wire::{
        AddressPair, Counter, Event, EventWindow, FlowEntry, FlowKey, FlowRecord, FlowTags,
        FragmentKey, Observation, RejectBucket, State,
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
    unsafe impl Pod for FlowEntry {}
    // SAFETY: as above.
    unsafe impl Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl Pod for FlowRecord {}
    // SAFETY: as above.
    unsafe impl Pod for FlowTags {}
    // SAFETY: as above.
    unsafe impl Pod for FragmentKey {}
    // SAFETY: as above.
    unsafe impl Pod for RejectBucket {}
    // SAFETY: as above.
    unsafe impl Pod for State {}
}
