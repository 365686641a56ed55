// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames out of capture files: classic pcap and pcapng, no further than frames need it.
//!
//! Both formats are a few fields in front of each frame; a dependency would be longer to check
//! than this is to read.

use anyhow::{Context as _, Result, bail, ensure};

/// Ethernet, in both formats (the LINKTYPE list of tcpdump.org).
const ETHERNET: u32 = 1;

/// What a capture file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Ethernet frames, as much of each as was captured, in order.
    pub frames: Vec<Vec<u8>>,
    /// Packets of other link types, which are left out.
    pub left_out: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

/// Reads a capture file.
///
/// # Errors
///
/// It is of another format, or ends within a packet.
pub fn read(file: &[u8]) -> Result<Capture> {
    let magic = Order::Little.number(file, 0).context("a capture of less than four bytes")?;
    match magic {
        // Timestamps in microseconds, or in nanoseconds.
        0xa1b2_c3d4 | 0xa1b2_3c4d => classic(file, Order::Little),
        0xd4c3_b2a1 | 0x4d3c_b2a1 => classic(file, Order::Big),
        // It reads the same both ways.
        0x0a0d_0d0a => next_generation(file),
        _ => bail!("neither pcap nor pcapng: it begins with {magic:#010x}"),
    }
}

/// A header of 24 bytes, then each packet behind 16 of its own.
fn classic(file: &[u8], order: Order) -> Result<Capture> {
    let link = order.number(file, 20).context("the file ends within its header")? & 0x0fff_ffff;
    let mut capture = Capture::default();
    let mut at = 24;
    while at < file.len() {
        let length = order.size(file, at + 8).context("the file ends within a packet")?;
        let frame = file.get(at + 16..).and_then(|rest| rest.get(..length));
        capture.add(link, frame.context("the file ends within a packet")?);
        at += 16 + length;
    }
    Ok(capture)
}

/// Blocks, each with its type and its length in front and its length again behind.
fn next_generation(file: &[u8]) -> Result<Capture> {
    const SECTION: u32 = 0x0a0d_0d0a;
    const INTERFACE: u32 = 1;
    const SIMPLE_PACKET: u32 = 3;
    const ENHANCED_PACKET: u32 = 6;
    let mut capture = Capture::default();
    let mut order = Order::Little;
    // The link type and the limit on a packet's length of each interface of the section.
    let mut interfaces: Vec<(u32, usize)> = Vec::new();
    let mut rest = file;
    while !rest.is_empty() {
        let kind = order.number(rest, 0).context("the file ends within a block")?;
        if kind == SECTION {
            order = match Order::Little.number(rest, 8) {
                Some(0x1a2b_3c4d) => Order::Little,
                Some(0x4d3c_2b1a) => Order::Big,
                _ => bail!("a section that is of neither byte order"),
            };
            interfaces.clear();
        }
        let length = order.size(rest, 4).context("the file ends within a block")?;
        ensure!(length >= 12 && length % 4 == 0, "a block of {length} bytes");
        let (block, behind) = rest.split_at_checked(length).context("a block is cut short")?;
        let body = block.get(8..length - 4).unwrap_or_default();
        let frame = |interface: (u32, usize), start: usize, length: usize| {
            let frame = body.get(start..).and_then(|rest| rest.get(..length));
            Ok::<_, anyhow::Error>((interface.0, frame.context("a packet is cut short")?))
        };
        match kind {
            INTERFACE => {
                let link = order.number(body, 0).context("an interface is cut short")?;
                let link = match order {
                    Order::Little => link & 0xffff,
                    Order::Big => link >> 16,
                };
                let limit = order.size(body, 4).context("an interface is cut short")?;
                interfaces.push((link, if limit == 0 { usize::MAX } else { limit }));
            }
            ENHANCED_PACKET => {
                let interface = order.size(body, 0).and_then(|index| interfaces.get(index));
                let interface = *interface.context("a packet of no interface")?;
                let length = order.size(body, 12).context("a packet is cut short")?;
                let (link, frame) = frame(interface, 20, length)?;
                capture.add(link, frame);
            }
            SIMPLE_PACKET => {
                let interface = *interfaces.first().context("a packet of no interface")?;
                let length = order.size(body, 0).context("a packet is cut short")?;
                let (link, frame) = frame(interface, 4, length.min(interface.1))?;
                capture.add(link, frame);
            }
            // Names, statistics and whatever else; a reader may skip what it doesn't know.
            _ => {}
        }
        rest = behind;
    }
    Ok(capture)
}

// === impl Capture ===

impl Capture {
    fn add(&mut self, link: u32, frame: &[u8]) {
        if link == ETHERNET {
            self.frames.push(frame.to_owned());
        } else {
            self.left_out += 1;
        }
    }
}

// === impl Order ===

impl Order {
    fn number(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = bytes.get(at..)?.first_chunk::<4>()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(*bytes),
            Self::Big => u32::from_be_bytes(*bytes),
        })
    }

    fn size(self, bytes: &[u8], at: usize) -> Option<usize> {
        usize::try_from(self.number(bytes, at)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32], order: Order) -> Vec<u8> {
        let bytes = |word: &u32| match order {
            Order::Little => word.to_le_bytes(),
            Order::Big => word.to_be_bytes(),
        };
        words.iter().flat_map(bytes).collect()
    }

    fn block(kind: u32, body: &[u8], order: Order) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap() + 12;
        [words(&[kind, length], order), body.to_owned(), words(&[length], order)].concat()
    }

    #[test]
    fn frames_of_both_formats_and_both_byte_orders_are_read() {
        let expected = Capture { frames: vec![vec![1, 2, 3, 4], vec![5; 8]], left_out: 0 };
        for order in [Order::Little, Order::Big] {
            let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 0xffff, 1], order);
            file.extend(words(&[0, 0, 4, 60], order));
            file.extend([1, 2, 3, 4]);
            file.extend(words(&[0, 0, 8, 8], order));
            file.extend([5; 8]);
            assert_eq!(read(&file).unwrap(), expected, "{order:?}");
            assert!(read(&file[..file.len() - 1]).is_err());

            let link: u32 = if order == Order::Little { 1 } else { 1 << 16 };
            let mut file =
                block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX], order), order);
            file.extend(block(1, &words(&[link, 8], order), order));
            let mut packet = words(&[0, 0, 0, 4, 60], order);
            packet.extend([1, 2, 3, 4]);
            file.extend(block(6, &packet, order));
            file.extend(block(5, &[0; 12], order));
            let mut packet = words(&[9], order);
            packet.extend([5; 8]);
            file.extend(block(3, &packet, order));
            assert_eq!(read(&file).unwrap(), expected, "{order:?}");
            assert!(read(&file[..file.len() - 1]).is_err());
        }
    }

    #[test]
    fn other_links_are_counted_and_other_files_refused() {
        let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 0xffff, 101], Order::Little);
        file.extend(words(&[0, 0, 0, 0], Order::Little));
        assert_eq!(read(&file).unwrap(), Capture { frames: Vec::new(), left_out: 1 });
        assert!(read(b"GIF89a").is_err());
        assert!(read(b"").is_err());
    }
}
