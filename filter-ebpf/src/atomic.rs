// SPDX-License-Identifier: MIT OR GPL-2.0
//! Changes of words in maps that several CPUs change. The target has instructions for them, which
//! `core` doesn't offer for it.

macro_rules! operation {
    ($(#[$documentation:meta])* $name:ident, $operator:literal, $on_the_host:expr) => {
        $(#[$documentation])*
        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        pub(crate) fn $name(word: *mut u64, value: u64) {
            // SAFETY: the pointer is to an aligned word of a map's value.
            unsafe {
                core::arch::asm!(
                    concat!("lock *(u64 *)({0} + 0) ", $operator, " {1}"),
                    in(reg) word,
                    in(reg) value,
                    options(nostack)
                );
            }
        }

        /// Lints look at the crate as one for the host, which has no such instruction.
        #[cfg(not(target_arch = "bpf"))]
        #[inline(always)]
        pub(crate) fn $name(word: *mut u64, value: u64) {
            let change: fn(u64, u64) -> u64 = $on_the_host;
            // SAFETY: as above, on a single CPU.
            unsafe { *word = change(*word, value) }
        }
    };
}

operation! {
    /// Adds to a counter.
    add, "+=", u64::wrapping_add
}
operation! {
    /// Sets bits.
    set, "|=", |word, bits| word | bits
}
operation! {
    /// Leaves only these bits.
    keep, "&=", |word, bits| word & bits
}
