// SPDX-License-Identifier: MIT OR GPL-2.0
//! What [`decide`](crate::decide) does with the packets that nearly all traffic consists of, in a
//! fraction of its time: whole TCP and UDP packets without tags, options or extension headers, from
//! sources and to destinations that short cuts know.
//!
//! It has no rules of its own. Whatever is unusual about a packet is none of its business, and
//! `decide` is asked; where it does say something, it is what `decide` would have said.

use crate::{
    address::Number,
    decide::{DNS_PORT, advance, look_up},
    egress::{Ingress, Side},
    flow::{self, Flow as _, FlowState, Load, Way},
    frame::{Frame, Head},
    index::Found,
    parse::{ethertype, protocol},
    tables::{Class, Role, Shortcuts, Tables},
    verdict::{DropReason, PassReason, Verdict},
    wire::{FlowKey, Grant, Permit, Selector, SlotSettings},
};

/// What pads the shortest frame, at most: its payload (IEEE 802.3, clause 4A.4).
const PADDING: u32 = 46;

/// What is read of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The source address.
    pub source: Number,
    /// The destination address.
    pub destination: Number,
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// TCP's flags; 0 for UDP.
    pub tcp_flags: u8,
}

/// A family of addresses. Each has code of its own down to the verdict: where one code serves both, whatever is
/// read is one of two things, and there are too many of them for the registers.
trait Family {
    /// Reads a packet of the family, as [`read`] does.
    fn read<F: Frame + ?Sized>(frame: &F) -> Option<Packet>;
}

/// IPv4.
enum Ipv4 {}

/// IPv6.
enum Ipv6 {}

/// The verdict on a frame that entered an inside NIC; `None` where [`decide`](crate::decide::decide)
/// has to be asked. What is dropped without an answer is counted as left out by sampling. `key` is asked for where
/// flows are.
#[inline(always)]
pub fn fast_inside<'k, F: Frame + ?Sized, S: Shortcuts>(
    frame: &F,
    shortcuts: &S,
    key: impl FnOnce() -> Option<&'k mut FlowKey>,
) -> Option<Verdict> {
    match frame.head::<14>()?.be16(12) {
        ethertype::IPV4 => inside::<Ipv4, F, S>(frame, shortcuts, key),
        ethertype::IPV6 => inside::<Ipv6, F, S>(frame, shortcuts, key),
        _ => None,
    }
}

#[inline(always)]
fn inside<'k, V: Family, F: Frame + ?Sized, S: Shortcuts>(
    frame: &F,
    shortcuts: &S,
    key: impl FnOnce() -> Option<&'k mut FlowKey>,
) -> Option<Verdict> {
    let packet = V::read(frame)?;
    let destination = packet.destination;
    if is_special(destination) {
        return None;
    }
    let selector = match packet.protocol {
        protocol::TCP => Selector::tcp(packet.destination_port),
        _ => Selector::udp(packet.destination_port),
    };
    let class = shortcuts.known_class(packet.source)?;
    let (question, known, permit) = shortcuts.remembered(destination, (class, selector));
    if permit.is_granted() {
        return Some(Verdict::Permit(permit));
    }
    let grant = grant(frame, shortcuts, question, destination, known)?;
    // What the gateway takes in itself may be control traffic, and opens flows of its own.
    if grant.is_own() {
        return None;
    }
    let tables = &shortcuts.tables()?;
    let settings = tables.settings();
    match judge(tables, &packet, settings, (grant, class, selector))? {
        Verdict::Drop(reason) => {
            let answered = settings.flags & SlotSettings::REJECT != 0;
            if answered || settings.mode == SlotSettings::AUDIT {
                return None;
            }
            // No flow excuses a false source, and a connection that a client opens is the policy's affair alone.
            let opens = packet.protocol == protocol::TCP && flow::opens(packet.tcp_flags);
            if reason != DropReason::SpoofedSource
                && settings.flags & (SlotSettings::FOLLOW | SlotSettings::KEEP) != 0
                && !opens
                && may_go_on(tables, &packet, settings, key()?)
            {
                return None;
            }
            if shortcuts.skips_sample() { Some(Verdict::Drop(reason)) } else { None }
        }
        verdict => {
            // The next packet finds the mark, and what is remembered then has nothing left to be done.
            if !grant.is_used() {
                shortcuts.mark_indexed(destination);
            } else if known.is_unsure()
                && let Verdict::Permit(permit) = verdict
            {
                shortcuts.remember(question, destination, grant, ((class, selector), permit));
            }
            Some(verdict)
        }
    }
}

/// The verdict on a frame that entered an outside NIC as part of a flow; `None` where
/// [`decide_outside`](crate::outside::decide_outside) has to be asked.
#[inline(always)]
pub fn fast_outside<F: Frame + ?Sized, S: Shortcuts>(
    frame: &F,
    shortcuts: &S,
    key: &mut FlowKey,
) -> Option<Verdict> {
    match frame.head::<14>()?.be16(12) {
        ethertype::IPV4 => outside::<Ipv4, F, S>(frame, shortcuts, key),
        ethertype::IPV6 => outside::<Ipv6, F, S>(frame, shortcuts, key),
        _ => None,
    }
}

#[inline(always)]
fn outside<V: Family, F: Frame + ?Sized, S: Shortcuts>(
    frame: &F,
    shortcuts: &S,
    key: &mut FlowKey,
) -> Option<Verdict> {
    let packet = V::read(frame)?;
    let destination = packet.destination;
    if is_special(destination) {
        return None;
    }
    let nothing = (Class::NONE, Selector::ECHO);
    let (question, known, _) = shortcuts.remembered(destination, nothing);
    let grant = grant(frame, shortcuts, question, destination, known)?;
    if known.is_unsure() && grant.is_own() {
        shortcuts.remember(question, destination, grant, (nothing, Permit::DENIED));
    }
    if shortcuts.known_class(packet.source)? == Class::NONE {
        return None;
    }
    let tables = &shortcuts.tables()?;
    let Packet { protocol, tcp_flags, .. } = packet;
    packet.set_key(key, Way::Incoming);
    let found = tables.flow(key)?;
    let clock = tables.clock();
    if !found.origin().is_local() || !found.is_live(clock, protocol) {
        return None;
    }
    let state = flow::incoming(found.state(), found.origin(), protocol, tcp_flags).ok()?;
    advance(frame, tables, &found, state);
    Some(Verdict::Pass(PassReason::Reply))
}

/// The verdict on a frame that leaves by a NIC as part of a flow, which it is counted in; `None` where
/// [`egress`](crate::egress::egress) has to be asked.
#[inline(always)]
pub fn fast_egress<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    key: &mut FlowKey,
    side: Side,
    ingress: Ingress,
    segments: u32,
) -> Option<Verdict> {
    if segments != 1 {
        return None;
    }
    let reason = match (side, ingress) {
        (_, Ingress::Own) => PassReason::Own,
        (_, Ingress::Inside) | (Side::Inside, Ingress::Foreign) => PassReason::Forwarded,
        (Side::Inside | Side::Outside, Ingress::Outside) | (Side::Outside, Ingress::Foreign) => {
            return None;
        }
    };
    match frame.head::<14>()?.be16(12) {
        ethertype::IPV4 => leaving::<Ipv4, F, T>(frame, tables, key, reason),
        ethertype::IPV6 => leaving::<Ipv6, F, T>(frame, tables, key, reason),
        _ => None,
    }
}

#[inline(always)]
fn leaving<V: Family, F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    key: &mut FlowKey,
    reason: PassReason,
) -> Option<Verdict> {
    let packet = V::read(frame)?;
    let is_question = packet.destination_port == DNS_PORT
        && tables.settings().flags & SlotSettings::INTERCEPT != 0;
    if is_question || is_special(packet.destination) || is_special(packet.source) {
        return None;
    }
    packet.set_key(key, Way::Outgoing);
    let found = tables.flow(key)?;
    let clock = tables.clock();
    if !found.is_live(clock, packet.protocol) {
        return None;
    }
    let state = flow::outgoing(found.state(), found.origin(), packet.protocol, packet.tcp_flags)?;
    if state == FlowState::Cut {
        return None;
    }
    if tables.role() == Role::Enforcing {
        found.advance(clock.now, state, Way::Outgoing, Load { packets: 1, bytes: frame.len() });
    }
    Some(Verdict::Pass(reason))
}

impl Packet {
    /// The key becomes that of the packet's flow, as [`FlowKey::set`] would have made it.
    #[inline(always)]
    pub fn set_key(&self, key: &mut FlowKey, way: Way) {
        let (source, destination) = (words(self.source), words(self.destination));
        let (from, to) = (self.source_port.to_ne_bytes(), self.destination_port.to_ne_bytes());
        let ([l0, l1], [r0, r1], [local, local_low], [remote, remote_low]) = match way {
            Way::Outgoing => (from, to, source, destination),
            Way::Incoming => (to, from, destination, source),
        };
        let version = match self.source {
            Number::V4(_) => 4,
            Number::V6(..) => 6,
        };
        let last = u64::from_ne_bytes([l0, l1, r0, r1, self.protocol, version, 0, 0]);
        *key = FlowKey::from_words([local, local_low, remote, remote_low, last]);
    }
}

/// An address as the words of a flow's key.
#[inline(always)]
const fn words(address: Number) -> [u64; 2] {
    match address {
        Number::V4(address) => {
            let [a, b, c, d] = address.to_be_bytes();
            [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]
        }
        Number::V6(high, low) => [high.to_be(), low.to_be()],
    }
}

/// Reads a packet of the kind that this is for, with all the checks of
/// [`parse`](crate::parse::parse) that can fail for one. It has to be whole in what can be read of the frame,
/// with no more behind it than pads the shortest frame: a frame that goes on in further buffers, whose
/// length is not known here, is left to `decide`.
#[inline(always)]
pub fn read<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
    match frame.head::<14>()?.be16(12) {
        ethertype::IPV4 => Ipv4::read(frame),
        ethertype::IPV6 => Ipv6::read(frame),
        _ => None,
    }
}

impl Family for Ipv4 {
    #[inline(always)]
    fn read<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
        let head = frame.head::<42>()?;
        // Version 4, no options; no fragment, whatever the flag says that forbids to make some.
        if head.byte(14) != 0x45 || head.be16(20) & 0x3fff != 0 {
            return None;
        }
        let length = u32::from(head.be16(16));
        let addresses = (Number::V4(head.be32(26)), Number::V4(head.be32(30)));
        let end = 14 + length;
        if !is_end(end, frame.len()) {
            return None;
        }
        match head.byte(23) {
            protocol::UDP => udp(&head, 34, end, addresses),
            protocol::TCP => tcp(&frame.head::<54>()?, 34, end, addresses),
            _ => None,
        }
    }
}

impl Family for Ipv6 {
    #[inline(always)]
    fn read<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
        let head = frame.head::<62>()?;
        if head.byte(14) >> 4 != 6 {
            return None;
        }
        let end = 54 + u32::from(head.be16(18));
        if !is_end(end, frame.len()) {
            return None;
        }
        let source = Number::V6(head.be64(22), head.be64(30));
        let addresses = (source, Number::V6(head.be64(38), head.be64(46)));
        match head.byte(20) {
            protocol::UDP => udp(&head, 54, end, addresses),
            protocol::TCP => tcp(&frame.head::<74>()?, 54, end, addresses),
            _ => None,
        }
    }
}

/// Whether a packet that ends there fills a frame, but for what pads it.
#[inline(always)]
const fn is_end(end: u32, length: u32) -> bool {
    end <= length && length - end <= PADDING
}

#[inline(always)]
fn udp<H: Head>(
    head: &H,
    place: u32,
    end: u32,
    (source, destination): (Number, Number),
) -> Option<Packet> {
    let available = end.checked_sub(place)?;
    let (source_port, length) = (head.be16(place), u32::from(head.be16(place + 4)));
    // Clients and servers of DHCP.
    if length < 8 || length > available || matches!(source_port, 67 | 68 | 546 | 547) {
        return None;
    }
    let destination_port = head.be16(place + 2);
    let (protocol, tcp_flags) = (protocol::UDP, 0);
    Some(Packet { source, destination, source_port, destination_port, protocol, tcp_flags })
}

#[inline(always)]
fn tcp<H: Head>(
    head: &H,
    place: u32,
    end: u32,
    (source, destination): (Number, Number),
) -> Option<Packet> {
    let available = end.checked_sub(place)?;
    let length = u32::from(head.byte(place + 12) >> 4) * 4;
    if length < 20 || length > available {
        return None;
    }
    Some(Packet {
        source,
        destination,
        source_port: head.be16(place),
        destination_port: head.be16(place + 2),
        protocol: protocol::TCP,
        tcp_flags: head.byte(place + 13),
    })
}

/// Whether a destination means the host itself, groups, or all: those of IPv6 begin with zeros, or are
/// multicast.
#[inline(always)]
#[must_use]
pub const fn is_special(destination: Number) -> bool {
    match destination {
        Number::V4(address) => matches!(address >> 24, 0 | 127 | 224..),
        Number::V6(high, _) => high >> 56 == 0xff || high >> 48 == 0,
    }
}

/// The grant of a destination that is no special one, if it is remembered, or the index is sure of it.
#[inline(always)]
pub fn grant<F: Frame + ?Sized, S: Shortcuts>(
    frame: &F,
    shortcuts: &S,
    question: S::Question,
    destination: Number,
    known: Found,
) -> Option<Grant> {
    let found = if known.is_unsure() { shortcuts.indexed(question, destination) } else { known };
    if found.is_unsure() || found.value().is_closed() {
        return None;
    }
    // However it was found: for the verifier, all ways come together here.
    Some(Grant(frame.forget(found.value().0)))
}

/// What rules say of a client's packet; `None` where more has to be looked at.
#[inline(always)]
fn judge<T: Tables>(
    tables: &T,
    packet: &Packet,
    settings: SlotSettings,
    (grant, class, selector): (Grant, Class, Selector),
) -> Option<Verdict> {
    if class == Class::NONE {
        return Some(Verdict::Drop(DropReason::SpoofedSource));
    }
    if packet.destination_port == DNS_PORT && settings.flags & SlotSettings::INTERCEPT != 0 {
        return None;
    }
    let reason = if grant.row() == 0 {
        DropReason::NotListed
    } else {
        match look_up(tables, grant, class, selector) {
            Ok(permit) if permit.is_granted() => return Some(Verdict::Permit(permit)),
            Ok(_) => DropReason::PortNotAllowed,
            Err(reason) => reason,
        }
    };
    Some(Verdict::Drop(reason))
}

/// Whether there is any flow that a client's denied packet may belong to; whether it does is then for `decide` to
/// say.
#[inline(always)]
fn may_go_on<T: Tables>(
    tables: &T,
    packet: &Packet,
    settings: SlotSettings,
    key: &mut FlowKey,
) -> bool {
    let follows = settings.flags & SlotSettings::FOLLOW != 0 && tables.may_have_answers();
    let keeps = settings.flags & SlotSettings::KEEP != 0;
    if !follows && !keeps {
        return false;
    }
    packet.set_key(key, Way::Incoming);
    if follows && tables.flow(key).is_some() {
        return true;
    }
    packet.set_key(key, Way::Outgoing);
    if keeps && tables.is_kept(key) {
        return true;
    }
    if !follows {
        return false;
    }
    if tables.flow(key).is_some() {
        return true;
    }
    key.local_port = 0;
    tables.flow(key).is_some()
}
