// SPDX-License-Identifier: MIT OR GPL-2.0
//! Bounds-checked reads from a frame.

/// Bytes of a frame, from the Ethernet header on.
pub trait Frame {
    /// What [`Self::anew`] gives.
    type Anew<'a>: Frame
    where
        Self: 'a;

    /// The length of the frame in bytes.
    fn len(&self) -> u32;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `N` bytes that start at `offset`; `None` where any of them is not there.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// The same offset. The kernel's verifier follows every value on every path, so that paths
    /// which differ in nothing but an offset are checked one by one and multiply; its
    /// implementation makes it forget how the offset came about.
    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        offset
    }

    /// The same frame, of which the verifier has not seen anything yet: paths that differ in how much
    /// of the frame they have checked come together.
    fn anew(&self) -> Self::Anew<'_>;

    /// The byte at `offset`.
    #[inline(always)]
    fn byte(&self, offset: u32) -> Option<u8> {
        let [byte] = self.read::<1>(offset)?;
        Some(byte)
    }

    /// The big-endian 16 bits at `offset`.
    #[inline(always)]
    fn be16(&self, offset: u32) -> Option<u16> {
        Some(u16::from_be_bytes(self.read::<2>(offset)?))
    }
}

impl Frame for &[u8] {
    type Anew<'a>
        = &'a [u8]
    where
        Self: 'a;

    fn anew(&self) -> &[u8] {
        self
    }

    fn len(&self) -> u32 {
        Frame::len(*self)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        Frame::read(*self, offset)
    }
}

impl Frame for [u8] {
    type Anew<'a> = &'a [u8];

    fn anew(&self) -> &[u8] {
        self
    }

    fn len(&self) -> u32 {
        u32::try_from(<[u8]>::len(self)).unwrap_or(u32::MAX)
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(N)?;
        self.get(start..end)?.try_into().ok()
    }
}
