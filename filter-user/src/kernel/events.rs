// SPDX-License-Identifier: MIT OR Apache-2.0
//! Samples of dropped packets, from the ring buffer.

use std::{fmt, net::IpAddr};

use anyhow::Result;
use aya::maps::{MapData, RingBuf};
use filter_common::{verdict::DropReason, wire::Event};
use tokio::io::unix::AsyncFd;

/// The reading end of the ring buffer.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

/// A dropped packet, or one that audit mode let pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropSample {
    /// The index of the NIC that it entered.
    pub nic: u8,
    /// Why.
    pub reason: DropReason,
    /// Whether it passed after all, in audit mode.
    pub audited: bool,
    /// Source and destination; `None` where no IP header was read.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The transport protocol.
    pub protocol: u8,
    /// The source port; 0 where there is none.
    pub source_port: u16,
    /// The destination port or the ICMP type; 0 where there is neither.
    pub destination_port: u16,
    /// The outermost VLAN id; 0: untagged.
    pub vlan: u16,
    /// The Ethertype.
    pub ethertype: u16,
    /// The frame's length in bytes.
    pub length: u32,
}

// === impl Events ===

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Takes the ring buffer over.
    ///
    /// # Errors
    ///
    /// It can't be polled.
    pub fn new(ring: RingBuf<MapData>) -> Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the ring owns its descriptor for as long as it is \
                      registered, which is what the successor demands"
        )]
        let ring = AsyncFd::new(ring)?;
        Ok(Self { ring })
    }

    /// Waits for samples, and hands each that is there to `each`.
    ///
    /// # Errors
    ///
    /// The ring buffer can't be polled.
    pub async fn read(&mut self, mut each: impl FnMut(DropSample)) -> Result<()> {
        let mut guard = self.ring.readable_mut().await?;
        let ring = guard.get_inner_mut();
        while let Some(item) = ring.next() {
            if let Some(sample) = decode(&item) {
                each(sample);
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

/// The fields of a [`Event`], from its bytes; `None` for a record of another size or reason,
/// which another version's program may have left in the pinned ring.
fn decode(bytes: &[u8]) -> Option<DropSample> {
    let field = |offset: usize, length: usize| bytes.get(offset..offset.checked_add(length)?);
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    let half = |offset| Some(u16::from_ne_bytes(field(offset, 2)?.try_into().ok()?));
    let octet = |offset: usize| bytes.get(offset).copied();
    let address = |offset: usize, version: u8| -> Option<IpAddr> {
        match version {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(field(offset, 4)?).ok()?)),
            6 => Some(IpAddr::from(<[u8; 16]>::try_from(field(offset, 16)?).ok()?)),
            _ => None,
        }
    };
    use std::mem::offset_of;
    let version = octet(offset_of!(Event, ip_version))?;
    Some(DropSample {
        nic: octet(offset_of!(Event, nic))?,
        reason: DropReason::from_code(octet(offset_of!(Event, reason))?)?,
        audited: octet(offset_of!(Event, audited))? != 0,
        addresses: address(offset_of!(Event, source), version)
            .zip(address(offset_of!(Event, destination), version)),
        protocol: octet(offset_of!(Event, protocol))?,
        source_port: half(offset_of!(Event, source_port))?,
        destination_port: half(offset_of!(Event, destination_port))?,
        vlan: half(offset_of!(Event, vlan))?,
        ethertype: half(offset_of!(Event, ethertype))?,
        length: u32::from_ne_bytes(field(offset_of!(Event, length), 4)?.try_into().ok()?),
    })
}
