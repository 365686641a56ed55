// SPDX-License-Identifier: MIT OR GPL-2.0
//! The only place that touches packet memory.

use aya_ebpf::{
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use filter_common::frame::{Frame, FrameMut, Head};

/// No header that the parser looks at begins beyond this; it keeps offsets in the range that the
/// verifier accepts for packet pointers.
const MAX_OFFSET: usize = 0x3fff;

/// How much of a packet that is scattered over buffers is brought together, so that its headers can
/// be read.
const HEADROOM: u32 = 256;

/// A frame in a program's context: its first buffer can be read, its length is that of all
/// buffers.
pub(crate) struct PacketFrame<'a> {
    packet: Packet<'a>,
    start: usize,
    end: usize,
    length: u64,
    cell: *mut u32,
}

/// A frame that entered, and is made into another one.
pub(crate) struct MutableFrame<'a> {
    frame: PacketFrame<'a>,
    context: &'a XdpContext,
}

/// The packet of a program's context.
#[derive(Clone, Copy)]
enum Packet<'a> {
    Entering(&'a XdpContext),
    Leaving(&'a TcContext),
}

impl<'a> PacketFrame<'a> {
    /// The frame of a context. `cell` lies in a map and belongs to the packet: what the verifier
    /// reads there is any value to it.
    #[inline(always)]
    pub(crate) fn of_xdp(context: &'a XdpContext, cell: *mut u32) -> Self {
        // SAFETY: the context is the one that the kernel gave the program.
        let length = unsafe { bpf_xdp_get_buff_len(context.ctx) };
        let packet = Packet::Entering(context);
        Self { packet, start: context.data(), end: context.data_end(), length, cell }
    }

    /// The same for the fast path: its length is that of the first buffer, which takes no call.
    #[inline(always)]
    pub(crate) fn first_buffer(context: &'a XdpContext, cell: *mut u32) -> Self {
        let (start, end) = (context.data(), context.data_end());
        let length = end.wrapping_sub(start) as u64;
        Self { packet: Packet::Entering(context), start, end, length, cell }
    }

    /// The frame of a packet that leaves, for the fast path: nothing is brought together.
    #[inline(always)]
    pub(crate) fn first_buffer_of_tc(context: &'a TcContext, cell: *mut u32) -> Self {
        let (start, end) = (context.data(), context.data_end());
        let length = context.len().into();
        Self { packet: Packet::Leaving(context), start, end, length, cell }
    }

    /// The frame of a packet that leaves.
    #[inline(always)]
    pub(crate) fn of_tc(context: &'a TcContext, cell: *mut u32) -> Self {
        let length = context.len();
        let wanted = if length < HEADROOM { length } else { HEADROOM };
        let linear = context.data_end().saturating_sub(context.data());
        if linear < wanted as usize {
            // What can't be brought together can't be read, which the parser knows how to deal with.
            let _scattered = context.pull_data(wanted);
        }
        let packet = Packet::Leaving(context);
        let length = length.into();
        Self { packet, start: context.data(), end: context.data_end(), length, cell }
    }
}

impl PacketFrame<'_> {
    /// The address of `offset`, from where on `N` bytes lie within the first buffer.
    #[inline(always)]
    fn position<const N: usize>(&self, offset: u32) -> Option<usize> {
        let offset = opaque(offset as usize);
        if offset > MAX_OFFSET {
            return None;
        }
        let position = opaque(self.start + offset);
        if position + N > self.end {
            return None;
        }
        Some(position)
    }
}

impl<'a> MutableFrame<'a> {
    /// As [`PacketFrame::of_xdp`].
    #[inline(always)]
    pub(crate) fn new(context: &'a XdpContext, cell: *mut u32) -> Self {
        Self { frame: PacketFrame::of_xdp(context, cell), context }
    }
}

/// The beginning of a packet, as much of it as was checked.
#[derive(Clone, Copy)]
pub(crate) struct PacketHead(usize);

impl Head for PacketHead {
    #[inline(always)]
    fn byte<const PLACE: u32>(&self) -> u8 {
        // SAFETY: the place lies within what was checked.
        unsafe { core::ptr::read((self.0 + PLACE as usize) as *const u8) }
    }

    #[inline(always)]
    fn be16<const PLACE: u32>(&self) -> u16 {
        u16::from_be(load16::<PLACE>(self.0))
    }

    #[inline(always)]
    fn be32<const PLACE: u32>(&self) -> u32 {
        u32::from_be(load32::<PLACE>(self.0))
    }

    #[inline(always)]
    fn be64<const PLACE: u32>(&self) -> u64 {
        u64::from_be(load64::<PLACE>(self.0))
    }
}

/// Declares a load of a number that need not be aligned. The compiler would make it of single bytes;
/// where the processor can't do better, the kernel refuses it.
macro_rules! load {
    ($name:ident, $number:ty, $instruction:literal) => {
        #[cfg(target_arch = "bpf")]
        #[inline(always)]
        fn $name<const PLACE: u32>(start: usize) -> $number {
            let loaded: u64;
            // SAFETY: the place lies within what was checked of the packet.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    out(reg) loaded,
                    in(reg) start,
                    const PLACE,
                    options(pure, readonly, nostack)
                );
            }
            loaded as $number
        }

        /// Lints look at the crate as one for the host.
        #[cfg(not(target_arch = "bpf"))]
        #[inline(always)]
        fn $name<const PLACE: u32>(start: usize) -> $number {
            // SAFETY: as above.
            unsafe { core::ptr::read_unaligned((start + PLACE as usize) as *const $number) }
        }
    };
}

load! { load16, u16, "{0} = *(u16 *)({1} + {2})" }
load! { load32, u32, "{0} = *(u32 *)({1} + {2})" }
load! { load64, u64, "{0} = *(u64 *)({1} + {2})" }

impl Frame for PacketFrame<'_> {
    type Head<'b>
        = PacketHead
    where
        Self: 'b;

    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<PacketHead> {
        let start = opaque(self.start);
        if start + N > self.end { None } else { Some(PacketHead(start)) }
    }

    type Anew<'b>
        = PacketFrame<'b>
    where
        Self: 'b;

    #[inline(always)]
    fn anew(&self) -> PacketFrame<'_> {
        let (start, end) = match self.packet {
            Packet::Entering(context) => (context.data(), context.data_end()),
            Packet::Leaving(context) => (context.data(), context.data_end()),
        };
        PacketFrame { packet: self.packet, start, end, length: self.length, cell: self.cell }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // No frame has a length of more than 32 bits, and a check would be one more way to follow.
        let [l0, l1, l2, l3, ..] = self.length.to_le_bytes();
        u32::from_le_bytes([l0, l1, l2, l3])
    }

    #[inline(always)]
    fn size(&self) -> u64 {
        self.length
    }

    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        forget(self.cell, offset)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let position = self.position::<N>(offset)?;
        // SAFETY: the position was checked; bytes have no alignment.
        Some(unsafe { core::ptr::read(position as *const [u8; N]) })
    }
}

impl Frame for MutableFrame<'_> {
    type Head<'b>
        = PacketHead
    where
        Self: 'b;

    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<PacketHead> {
        self.frame.head::<N>()
    }

    type Anew<'b>
        = PacketFrame<'b>
    where
        Self: 'b;

    #[inline(always)]
    fn anew(&self) -> PacketFrame<'_> {
        self.frame.anew()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.frame.len()
    }

    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        self.frame.forget(offset)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.frame.read(offset)
    }
}

impl FrameMut for MutableFrame<'_> {
    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let position = self.frame.position::<N>(offset)?;
        // SAFETY: the position was checked; bytes have no alignment. XDP programs may write to
        // packets.
        unsafe { core::ptr::write(position as *mut [u8; N], bytes) };
        Some(())
    }

    #[inline(always)]
    fn reshape(&mut self, room: u32, length: u32) -> Option<()> {
        let cut = (self.len() + room).wrapping_sub(length);
        // SAFETY: the context is the one that the kernel gave the program. No pointer into the
        // packet outlives the calls.
        unsafe {
            // Of a packet in several buffers, those that nothing is left in are given back.
            if cut != 0 && bpf_xdp_adjust_tail(self.context.ctx, cut.wrapping_neg() as i32) != 0 {
                return None;
            }
            if room != 0 && bpf_xdp_adjust_head(self.context.ctx, room.wrapping_neg() as i32) != 0 {
                return None;
            }
        }
        self.frame.start = self.context.data();
        self.frame.end = self.context.data_end();
        self.frame.length = length.into();
        Some(())
    }
}

/// The same value, of which the verifier knows nothing: it has been in a cell that lies in a map.
#[inline(always)]
pub(crate) fn forget(cell: *mut u32, value: u32) -> u32 {
    // SAFETY: the cell is a live value of a map that belongs to the packet; volatile, so that the
    // compiler doesn't keep the value in a register.
    unsafe {
        core::ptr::write_volatile(cell, value);
        core::ptr::read_volatile(cell)
    }
}

/// The same value, of which the compiler knows nothing. The verifier follows registers: without
/// this, the compiler checks one sum and reads through another that it computes anew, and what
/// was proved of the one is not known of the other.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn opaque(value: usize) -> usize {
    let mut value = value;
    // SAFETY: the register is copied to itself. An empty statement would do, but leaves two source
    // lines at one instruction, which the kernel refuses.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack));
    }
    value
}

/// Lints look at the crate as one for the host, which has no such instruction.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
pub(crate) fn opaque(value: usize) -> usize {
    value
}
