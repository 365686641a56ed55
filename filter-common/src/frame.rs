// SPDX-License-Identifier: MIT OR GPL-2.0
//! Bounds-checked reads from a frame, and writes into one.

/// Bytes of a frame, from the Ethernet header on.
pub trait Frame {
    /// What [`Self::anew`] gives.
    type Anew<'a>: Frame
    where
        Self: 'a;

    /// The length of the frame in bytes.
    fn len(&self) -> u32;

    /// The same as a whole word: BPF has to cut what is shorter out of one, each time anew.
    #[inline(always)]
    fn size(&self) -> u64 {
        self.len().into()
    }

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What [`Self::head`] gives.
    type Head<'a>: Head
    where
        Self: 'a;

    /// The first `N` bytes; `None` where the frame is shorter.
    fn head<const N: usize>(&self) -> Option<Self::Head<'_>>;

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

/// The beginning of a frame, which was found to be long enough: reads need no further checks.
/// Places are constants, all of them within its length, and so a part of the instruction that reads.
pub trait Head {
    /// The byte at a place.
    fn byte<const PLACE: u32>(&self) -> u8;
    /// The big-endian 16 bits at a place.
    fn be16<const PLACE: u32>(&self) -> u16;
    /// The big-endian 32 bits at a place.
    fn be32<const PLACE: u32>(&self) -> u32;
    /// The big-endian 64 bits at a place.
    fn be64<const PLACE: u32>(&self) -> u64;
}

/// The beginning of a frame on the host.
#[derive(Clone, Copy, Debug)]
pub struct HostHead<'a>(&'a [u8]);

/// A frame that can be made into another one.
pub trait FrameMut: Frame {
    /// Copies bytes into the frame, from `offset` on; `None` where it has no room for all of them,
    /// and then none is written.
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()>;

    /// Puts `room` bytes in front, which may hold anything, and then cuts the end off, so that
    /// `length` bytes are left in all; `None` where that can't be done, and then the frame is of no
    /// use any more.
    fn reshape(&mut self, room: u32, length: u32) -> Option<()>;
}

/// A frame on the host that has room in front of it, as drivers leave it.
#[derive(Debug)]
pub struct Buffer<'a> {
    bytes: &'a mut [u8],
    start: usize,
}

// === impl Head ===

impl HostHead<'_> {
    fn bytes<const N: usize>(&self, place: u32) -> [u8; N] {
        let start = usize::try_from(place).ok();
        let bytes = start.and_then(|start| self.0.get(start..)?.first_chunk());
        debug_assert!(bytes.is_some(), "a read behind the end of what was checked");
        bytes.copied().unwrap_or([0; N])
    }
}

impl Head for HostHead<'_> {
    fn byte<const PLACE: u32>(&self) -> u8 {
        u8::from_be_bytes(self.bytes(PLACE))
    }

    fn be16<const PLACE: u32>(&self) -> u16 {
        u16::from_be_bytes(self.bytes(PLACE))
    }

    fn be32<const PLACE: u32>(&self) -> u32 {
        u32::from_be_bytes(self.bytes(PLACE))
    }

    fn be64<const PLACE: u32>(&self) -> u64 {
        u64::from_be_bytes(self.bytes(PLACE))
    }
}

// === impl Frame ===

impl Frame for &[u8] {
    type Head<'a>
        = HostHead<'a>
    where
        Self: 'a;

    fn head<const N: usize>(&self) -> Option<HostHead<'_>> {
        Frame::head::<N>(*self)
    }

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
    type Head<'a> = HostHead<'a>;

    fn head<const N: usize>(&self) -> Option<HostHead<'_>> {
        self.get(..N).map(HostHead)
    }

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

// === impl Buffer ===

impl<'a> Buffer<'a> {
    /// The frame that begins at `start` and ends where `bytes` do; `None` where it would begin
    /// behind that.
    #[must_use]
    pub fn new(bytes: &'a mut [u8], start: usize) -> Option<Self> {
        (start <= bytes.len()).then_some(Self { bytes, start })
    }

    /// The frame as it is now.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl Frame for Buffer<'_> {
    type Head<'a>
        = HostHead<'a>
    where
        Self: 'a;

    fn head<const N: usize>(&self) -> Option<HostHead<'_>> {
        self.frame().get(..N).map(HostHead)
    }

    type Anew<'a>
        = &'a [u8]
    where
        Self: 'a;

    fn anew(&self) -> &[u8] {
        self.frame()
    }

    fn len(&self) -> u32 {
        Frame::len(self.frame())
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.frame().read(offset)
    }
}

impl FrameMut for Buffer<'_> {
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let start = self.start.checked_add(usize::try_from(offset).ok()?)?;
        let end = start.checked_add(N)?;
        self.bytes.get_mut(start..end)?.copy_from_slice(&bytes);
        Some(())
    }

    fn reshape(&mut self, room: u32, length: u32) -> Option<()> {
        let start = self.start.checked_sub(usize::try_from(room).ok()?)?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let bytes = core::mem::take(&mut self.bytes);
        self.bytes = bytes.get_mut(..end)?;
        self.start = start;
        Some(())
    }
}
