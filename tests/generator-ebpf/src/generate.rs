// SPDX-License-Identifier: MIT OR GPL-2.0
//! Traffic made in the kernel: a program that is run on live frames, each of which it writes anew
//! and sends out of a NIC.
//!
//! The kernel uses frames again after whoever got them is done with them, and forwarding changes
//! addresses of the link, TTL and checksum in place. So every byte of the headers is written in
//! each frame, and nothing is counted up in one.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail},
    macros::{map, xdp},
    maps::Array,
    programs::XdpContext,
};
use core::cell::UnsafeCell;

/// The most destinations that traffic is spread over.
const MAX_DESTINATIONS: u32 = 1 << 16;

/// Bytes of headers.
const ETHERNET: u16 = 14;
const IPV4: u16 = 20;

/// Where the headers end.
const UDP_END: usize = 42;
const TCP_END: usize = 54;

const PROTOCOL_UDP: u8 = 17;

/// The TTL of packets, and TCP's window.
const TTL: u8 = 64;
const WINDOW: u16 = 0xffff;

/// Sizes of frames, and how many of each there are among 48 on average.
const SMALL: (u16, u64) = (60, 28);
const MIDDLE: (u16, u64) = (590, 16);
const LARGE: (u16, u64) = (1514, 4);

/// Where packets go, as addresses in network order.
#[map]
static DESTINATIONS: Array<[u8; 4]> = Array::with_max_entries(MAX_DESTINATIONS, 0);

/// How many destinations the map holds.
#[unsafe(no_mangle)]
static DESTINATION_COUNT: u32 = 0;

/// The NIC by which frames leave.
#[unsafe(no_mangle)]
static OUT_INTERFACE: u32 = 0;

/// The first eight bytes of frames: the destination's address of the link, and the beginning of
/// the sender's.
#[unsafe(no_mangle)]
static LINK_START: [u8; 8] = [0; 8];

/// The rest of the sender's address of the link.
#[unsafe(no_mangle)]
static LINK_END: [u8; 4] = [0; 4];

/// The first source; which of its bits are random.
#[unsafe(no_mangle)]
static SOURCE: u32 = 0;
#[unsafe(no_mangle)]
static SOURCE_RANDOM: u32 = 0;

/// The first source port; which of its bits are random.
#[unsafe(no_mangle)]
static SOURCE_PORT: u16 = 0;
#[unsafe(no_mangle)]
static SOURCE_PORT_RANDOM: u16 = 0;

/// The destination port.
#[unsafe(no_mangle)]
static DESTINATION_PORT: u16 = 0;

/// 1 where packets go the other way: from the destinations to the sources.
#[unsafe(no_mangle)]
static ANSWERS: u32 = 0;

/// TCP or UDP.
#[unsafe(no_mangle)]
static PROTOCOL: u8 = PROTOCOL_UDP;

/// TCP's header length and flags.
#[unsafe(no_mangle)]
static TCP_FLAGS: u16 = 0x5002;

/// How long each frame is; 0 for a mixture, of which the largest has to be handed in.
#[unsafe(no_mangle)]
static FRAME_BYTES: u16 = 0;

/// How long the frames are that are handed in.
#[unsafe(no_mangle)]
static HANDED_IN: u16 = 0;

/// What the random numbers come from.
#[repr(transparent)]
struct Random(UnsafeCell<u64>);

// SAFETY: every access is one volatile load or store of the aligned word. Two CPUs at a time may
// draw the same number, which does no harm.
unsafe impl Sync for Random {}

#[unsafe(no_mangle)]
static RANDOM: Random = Random(UnsafeCell::new(1));

/// `XDP_REDIRECT`, as the helper returns it.
const REDIRECTED: i64 = 4;

/// Writes a frame and sends it.
#[xdp]
fn generate(context: XdpContext) -> u32 {
    let which = RANDOM.draw();
    let bytes = match global(&FRAME_BYTES) {
        0 => mixed(which),
        fixed => fixed,
    };
    let handed_in = global(&HANDED_IN);
    if bytes != handed_in {
        let change = i32::from(bytes) - i32::from(handed_in);
        // SAFETY: the pointer is the program's context.
        if unsafe { bpf_xdp_adjust_tail(context.ctx, change) } != 0 {
            return xdp_action::XDP_ABORTED;
        }
    }
    let index = upper(upper(which) * u64::from(global(&DESTINATION_COUNT)));
    let Some(destination) = DESTINATIONS.get(word(index)) else {
        return xdp_action::XDP_ABORTED;
    };
    let other = RANDOM.draw();
    let source = global(&SOURCE) | (word(upper(other)) & global(&SOURCE_RANDOM));
    let port = global(&SOURCE_PORT) | (half(word(other) >> 16) & global(&SOURCE_PORT_RANDOM));
    let near = (source, port);
    let far = (u32::from_be_bytes(*destination), global(&DESTINATION_PORT));
    let (from, to) = if global(&ANSWERS) == 0 { (near, far) } else { (far, near) };
    if !(Packet { bytes, from, to }).write(&context) {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the helper takes numbers only.
    match unsafe { bpf_redirect(global(&OUT_INTERFACE), 0) } {
        REDIRECTED => xdp_action::XDP_REDIRECT,
        _ => xdp_action::XDP_ABORTED,
    }
}

/// The size of a frame of the mixture.
#[inline(always)]
fn mixed(random: u64) -> u16 {
    let all = SMALL.1 + MIDDLE.1 + LARGE.1;
    // The destination is drawn from the upper half.
    match (u64::from(half(word(random) >> 16)) * all) >> 16 {
        below if below < SMALL.1 => SMALL.0,
        below if below < SMALL.1 + MIDDLE.1 => MIDDLE.0,
        _ => LARGE.0,
    }
}

/// What differs from packet to packet.
struct Packet {
    bytes: u16,
    from: (u32, u16),
    to: (u32, u16),
}

impl Packet {
    /// Writes all headers; false if they don't fit, which also the verifier has to see.
    ///
    /// The fields are put together to aligned words: frames begin at a multiple of 8.
    #[inline(always)]
    fn write(&self, context: &XdpContext) -> bool {
        let start = context.data();
        let end = context.data_end();
        if start + UDP_END > end {
            return false;
        }
        let protocol = global(&PROTOCOL);
        let total = self.bytes - ETHERNET;
        let [from0, from1, from2, from3] = self.from.0.to_be_bytes();
        let [to0, to1, to2, to3] = self.to.0.to_be_bytes();
        let [from_port0, from_port1] = self.from.1.to_be_bytes();
        let [to_port0, to_port1] = self.to.1.to_be_bytes();
        let addresses = halves(self.from.0) + halves(self.to.0);
        let [total0, total1] = total.to_be_bytes();
        let fixed = 0x4500 + u32::from(u16::from_be_bytes([TTL, protocol]));
        let [sum0, sum1] = checksum(fixed + u32::from(total) + addresses).to_be_bytes();
        let [mac0, mac1, mac2, mac3] = global(&LINK_END);
        let [length0, length1] = (total - IPV4).to_be_bytes();
        // SAFETY: the end of UDP's header was compared with that of the frame.
        unsafe {
            store(start, u64::from_ne_bytes(global(&LINK_START)));
            store(start + 8, u64::from_ne_bytes([mac0, mac1, mac2, mac3, 8, 0, 0x45, 0]));
            store(start + 16, u64::from_ne_bytes([total0, total1, 0, 0, 0, 0, TTL, protocol]));
            store(
                start + 24,
                u64::from_ne_bytes([sum0, sum1, from0, from1, from2, from3, to0, to1]),
            );
            if protocol == PROTOCOL_UDP {
                let ports =
                    [to2, to3, from_port0, from_port1, to_port0, to_port1, length0, length1];
                store(start + 32, u64::from_ne_bytes(ports));
                // With IPv4, a checksum of zero is none.
                store(start + 40, 0_u16);
                return true;
            }
        }
        if start + TCP_END > end {
            return false;
        }
        // Payload and sequence numbers are zero.
        let [flags0, flags1] = global(&TCP_FLAGS).to_be_bytes();
        let [window0, window1] = WINDOW.to_be_bytes();
        let [sum0, sum1] = checksum(
            addresses
                + u32::from(protocol)
                + u32::from(total - IPV4)
                + u32::from(self.from.1)
                + u32::from(self.to.1)
                + u32::from(global(&TCP_FLAGS))
                + u32::from(WINDOW),
        )
        .to_be_bytes();
        let ports = [to2, to3, from_port0, from_port1, to_port0, to_port1, 0, 0];
        // SAFETY: the end of TCP's header was compared with that of the frame.
        unsafe {
            store(start + 32, u64::from_ne_bytes(ports));
            store(start + 40, u64::from_ne_bytes([0, 0, 0, 0, 0, 0, flags0, flags1]));
            store(start + 48, u32::from_ne_bytes([window0, window1, sum0, sum1]));
            store(start + 52, 0_u16);
        }
        true
    }
}

/// The sum of both halves of a word.
#[inline(always)]
fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// The Internet's checksum, from a sum of half words.
#[inline(always)]
fn checksum(sum: u32) -> u16 {
    !half(halves(halves(sum)))
}

/// The upper half.
#[inline(always)]
fn upper(number: u64) -> u64 {
    number >> 32
}

/// The lower half.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it is what is wanted")]
fn word(number: u64) -> u32 {
    number as u32
}

/// The lower half.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it is what is wanted")]
fn half(word: u32) -> u16 {
    word as u16
}

/// Writes into a frame.
///
/// # Safety
///
/// The value lies within the frame, which the verifier checks, at a multiple of its size: the
/// kernel lays live frames out at multiples of 8.
#[inline(always)]
unsafe fn store<T>(address: usize, value: T) {
    // SAFETY: the caller's.
    unsafe { core::ptr::write_volatile(address as *mut T, value) }
}

/// A constant that user space sets: the compiler must not know its value here.
#[inline(always)]
fn global<T: Copy>(constant: &'static T) -> T {
    // SAFETY: a reference to a static is valid for reads.
    unsafe { core::ptr::read_volatile(constant) }
}

impl Random {
    /// The next number of a linear congruential generator (Knuth's constants); the upper bits are
    /// the better ones.
    #[inline(always)]
    fn draw(&self) -> u64 {
        // SAFETY: as for `Sync`.
        unsafe {
            let next = core::ptr::read_volatile(self.0.get())
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            core::ptr::write_volatile(self.0.get(), next);
            next
        }
    }
}
