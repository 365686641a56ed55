// SPDX-License-Identifier: MIT OR GPL-2.0
//! What the target has no instruction for, and the compiler would make a branch of.

/// 1 where the first number is less than the second; neither is longer than 33 bits.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn is_less(first: u64, second: u64) -> u32 {
    let mut difference = first;
    // SAFETY: a register is subtracted from another.
    unsafe {
        core::arch::asm!(
            "{0} -= {1}",
            inout(reg) difference,
            in(reg) second,
            options(pure, nomem, nostack)
        );
    }
    (difference >> 63) as u32
}

/// Lints look at the crate as one for the host.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) fn is_less(first: u64, second: u64) -> u32 {
    u32::from(first < second)
}
