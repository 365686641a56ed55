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

/// Adds to a counter after everything that was written before, on every processor: an addition that
/// fetches what was there has that order, one that doesn't has none.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn add_behind(word: *mut u64, value: u64) {
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "{1} = atomic_fetch_add((u64 *)({0} + 0), {1})",
            in(reg) word,
            inout(reg) value => _,
            options(nostack)
        );
    }
}

/// Lints look at the crate as one for the host.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) fn add_behind(word: *mut u64, value: u64) {
    add(word, value);
}

/// Sets bits and tells what was there, in the order of everything before and after.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn set_fetching(word: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "{1} = atomic_fetch_or((u64 *)({0} + 0), {1})",
            in(reg) word,
            inout(reg) value,
            options(nostack)
        );
    }
    value
}

/// Lints look at the crate as one for the host.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) fn set_fetching(word: *mut u64, bits: u64) -> u64 {
    // SAFETY: as above.
    let before = unsafe { *word };
    set(word, bits);
    before
}

/// The same number, behind a value that was read before: what is read at a place that depends on it is read
/// later than that value, on every processor.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn behind(number: u32, read: u64) -> u32 {
    let mut nothing = read;
    // SAFETY: a register becomes 0, which the compiler doesn't know.
    unsafe {
        core::arch::asm!("{0} &= 0", inout(reg) nothing, options(pure, nomem, nostack));
    }
    let [n0, n1, n2, n3, ..] = nothing.to_le_bytes();
    number | u32::from_le_bytes([n0, n1, n2, n3])
}

/// Lints look at the crate as one for the host.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) fn behind(number: u32, _read: u64) -> u32 {
    number
}
