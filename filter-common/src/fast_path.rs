// SPDX-License-Identifier: MIT OR GPL-2.0
//! What [`decide`](crate::decide) does with the packets that nearly all traffic consists of, in a
//! fraction of its time: whole TCP and UDP packets without tags, options or extension headers, from
//! sources and to destinations that short cuts know.
//!
//! It has no rules of its own. Whatever is unusual about a packet is none of its business, and
//! `decide` is asked; where it does say something, it is what `decide` would have said.

use core::hint::cold_path;

use crate::{
    address::Number,
    decide::{DNS_PORT, advance, look_up},
    egress::{Ingress, Side},
    flow::{self, Clock, Flow as _, FlowState, Load, Way},
    frame::{Frame, Head},
    index::Found,
    parse::{ethertype, protocol},
    tables::{Class, Known, Role, Shortcuts, Tables},
    verdict::{DropReason, PassReason, Verdict},
    wire::{FlowKey, Grant, Permit, Selector, SlotSettings},
};

/// The shortest frame with UDP, over IPv4.
const SHORTEST: usize = 42;

/// What pads the shortest frame, at most: its payload (IEEE 802.3, clause 4A.4).
const PADDING: u64 = 46;

/// What is read of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// The source address.
    pub source: Number,
    /// The destination address.
    pub destination: Number,
    /// The destination port, of TCP or of UDP.
    pub selector: Selector,
    /// The source port in the highest 16 bits, below it the destination port, and TCP's flags in the lowest 8. What
    /// else is in it, of UDP also there, is of no meaning. Most packets need none of it taken apart.
    transport: u64,
}

/// A family of addresses. Each has code of its own down to the verdict: where one code serves both, whatever is
/// read is one of two things, and there are too many of them for the registers.
trait Family {
    /// Reads a packet of the family, as [`read`] does.
    fn read<F: Frame + ?Sized>(frame: &F, head: &F::Head<'_>) -> Option<Packet>;
}

/// IPv4.
enum Ipv4 {}

/// IPv6.
enum Ipv6 {}

/// What becomes of a frame that entered an inside NIC, which `end` makes of the verdict; `None` where
/// [`decide`](crate::decide::decide) has to be asked. What is dropped without an answer is left out by sampling.
/// `key` is asked for where flows are.
#[inline(always)]
pub fn fast_inside<'k, F: Frame + ?Sized, S: Shortcuts, R>(
    frame: &F,
    shortcuts: &S,
    key: impl FnOnce() -> Option<&'k mut FlowKey>,
    end: impl Fn(Verdict) -> R,
) -> Option<R> {
    let head = frame.head::<SHORTEST>()?;
    match head.be16::<12>() {
        ethertype::IPV4 => inside::<Ipv4, F, S, R>(frame, &head, shortcuts, key, end),
        ethertype::IPV6 => inside::<Ipv6, F, S, R>(frame, &head, shortcuts, key, end),
        _ => None,
    }
}

#[inline(always)]
fn inside<'k, V: Family, F: Frame + ?Sized, S: Shortcuts, R>(
    frame: &F,
    head: &F::Head<'_>,
    shortcuts: &S,
    key: impl FnOnce() -> Option<&'k mut FlowKey>,
    end: impl Fn(Verdict) -> R,
) -> Option<R> {
    let packet = V::read(frame, head)?;
    let Packet { destination, selector, .. } = packet;
    let class = shortcuts.known_class(packet.source)?;
    let (question, found, remembered) = match shortcuts.remembered(destination, (class, selector)) {
        Known::Permit(permit) => return Some(end(Verdict::Permit(permit))),
        Known::Grant(question, grant) => {
            // What was remembered is for another client, or another port.
            if class != Class::NONE && !grant.is_own() && selector.port() != DNS_PORT {
                let permit = shortcuts.permit(question, grant, (class, selector));
                if permit.is_granted() {
                    return Some(end(Verdict::Permit(permit)));
                }
            }
            cold_path();
            (question, Found::grant(grant), true)
        }
        Known::Nothing(question) => {
            cold_path();
            let found = shortcuts.indexed(question, destination);
            // What most of what is denied comes to.
            if found == Found::NOTHING
                && class != Class::NONE
                && is_denied_as_such(&shortcuts.tables()?, &packet)
                && shortcuts.skips_sample()
            {
                return Some(end(Verdict::Drop(DropReason::NotListed)));
            }
            (question, found, false)
        }
    };
    let grant = grant(frame, found)?;
    // What the gateway takes in itself may be control traffic, and opens flows of its own.
    if grant.is_own() {
        return None;
    }
    let tables = &shortcuts.tables()?;
    let settings = tables.settings();
    let reason = match judge(tables, &packet, settings, (grant, class))? {
        Ok(permit) => {
            // The next packet finds the mark, and what is remembered then has nothing left to be done.
            if !grant.is_used() {
                shortcuts.mark_indexed(destination);
            } else if !remembered {
                shortcuts.remember(question, destination, grant, ((class, selector), permit));
            }
            return Some(end(Verdict::Permit(permit)));
        }
        Err(reason) => reason,
    };
    let answered = settings.flags & SlotSettings::REJECT != 0;
    if answered || settings.mode == SlotSettings::AUDIT {
        return None;
    }
    // No flow excuses a false source, and a connection that a client opens is the policy's affair alone.
    if reason != DropReason::SpoofedSource
        && settings.flags & (SlotSettings::FOLLOW | SlotSettings::KEEP) != 0
        && !packet.opens()
        && may_go_on(tables, &packet, settings, key()?)
    {
        return None;
    }
    if shortcuts.skips_sample() { Some(end(Verdict::Drop(reason))) } else { None }
}

/// Whether what is denied to a client is simply dropped, with nothing else to be looked at.
#[inline(always)]
fn is_denied_as_such<T: Tables>(tables: &T, packet: &Packet) -> bool {
    let SlotSettings { mode, flags, .. } = tables.settings();
    mode == SlotSettings::ENFORCE
        && (flags == 0
            || flags == SlotSettings::FOLLOW && (packet.opens() || !tables.may_have_answers()))
}

/// The verdict on a frame that entered an outside NIC as part of a flow; `None` where
/// [`decide_outside`](crate::outside::decide_outside) has to be asked.
#[inline(always)]
pub fn fast_outside<F: Frame + ?Sized, S: Shortcuts>(
    frame: &F,
    shortcuts: &S,
    key: &mut FlowKey,
) -> Option<Verdict> {
    let head = frame.head::<SHORTEST>()?;
    match head.be16::<12>() {
        ethertype::IPV4 => outside::<Ipv4, F, S>(frame, &head, shortcuts, key),
        ethertype::IPV6 => outside::<Ipv6, F, S>(frame, &head, shortcuts, key),
        _ => None,
    }
}

#[inline(always)]
fn outside<V: Family, F: Frame + ?Sized, S: Shortcuts>(
    frame: &F,
    head: &F::Head<'_>,
    shortcuts: &S,
    key: &mut FlowKey,
) -> Option<Verdict> {
    let packet = V::read(frame, head)?;
    if packet.is_dhcp() {
        return None;
    }
    let destination = packet.destination;
    let nothing = (Class::NONE, Selector::ECHO);
    match shortcuts.remembered(destination, nothing) {
        // Only what is sure and not closed is remembered.
        Known::Permit(_) | Known::Grant(..) => {}
        Known::Nothing(question) => {
            let grant = grant(frame, shortcuts.indexed(question, destination))?;
            if grant.is_own() {
                shortcuts.remember(question, destination, grant, (nothing, Permit::DENIED));
            }
        }
    }
    let tables = &shortcuts.tables()?;
    packet.set_key(key, Way::Incoming);
    let found = tables.flow(key)?;
    let stamp = shortcuts.sources_stamp();
    if !found.is_checked(stamp) {
        if shortcuts.known_class(packet.source)? == Class::NONE {
            return None;
        }
        found.set_checked(stamp);
    }
    let clock = tables.clock();
    if !found.origin().is_local() {
        return None;
    }
    let state = state_after(&packet, &found, clock, |state, protocol, flags| {
        flow::incoming(state, found.origin(), protocol, flags).ok()
    })?;
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
    let head = frame.head::<SHORTEST>()?;
    match head.be16::<12>() {
        ethertype::IPV4 => leaving::<Ipv4, F, T>(frame, &head, tables, key, reason),
        ethertype::IPV6 => leaving::<Ipv6, F, T>(frame, &head, tables, key, reason),
        _ => None,
    }
}

#[inline(always)]
fn leaving<V: Family, F: Frame + ?Sized, T: Tables>(
    frame: &F,
    head: &F::Head<'_>,
    tables: &T,
    key: &mut FlowKey,
    reason: PassReason,
) -> Option<Verdict> {
    let packet = V::read(frame, head)?;
    if packet.is_dhcp()
        || is_question(&packet, tables.settings())
        || is_special(packet.destination)
        || is_special(packet.source)
    {
        return None;
    }
    packet.set_key(key, Way::Outgoing);
    let found = tables.flow(key)?;
    let clock = tables.clock();
    let state = state_after(&packet, &found, clock, |state, protocol, flags| {
        flow::outgoing(state, found.origin(), protocol, flags)
    })?;
    if state == FlowState::Cut {
        return None;
    }
    if tables.role() == Role::Enforcing {
        found.advance(clock.now, state, Way::Outgoing, Load { packets: 1, bytes: frame.len() });
    }
    Some(Verdict::Pass(reason))
}

/// The state of a live flow after a packet, which `next` tells where it isn't plain.
#[inline(always)]
fn state_after<T: flow::Flow>(
    packet: &Packet,
    flow: &T,
    clock: Clock,
    next: impl FnOnce(FlowState, u8, u8) -> Option<FlowState>,
) -> Option<FlowState> {
    if goes_on(packet, flow, clock) {
        return Some(FlowState::Established);
    }
    let (protocol, flags) = (packet.protocol(), packet.tcp_flags());
    if flow.is_live(clock, protocol) { next(flow.state(), protocol, flags) } else { None }
}

/// Whether the packet is one more of a flow in which both ends have spoken and none has closed: the flow stays as it is.
/// All others take longer.
#[inline(always)]
fn goes_on<T: flow::Flow>(packet: &Packet, flow: &T, clock: Clock) -> bool {
    let state = FlowState::Established;
    flow.state_code() == state.code()
        && (!packet.selector.is_tcp() || flow::carries_on(packet.tcp_flags()))
        && clock.is_within(flow.seen(), state.lifetime(packet.protocol()))
}

impl Packet {
    /// TCP or UDP.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        if self.selector.is_tcp() { protocol::TCP } else { protocol::UDP }
    }

    /// TCP's flags; 0 for UDP.
    #[inline(always)]
    #[must_use]
    pub const fn tcp_flags(&self) -> u8 {
        let [flags, ..] = self.transport.to_le_bytes();
        if self.selector.is_tcp() { flags } else { 0 }
    }

    /// Whether it opens a TCP connection.
    #[inline(always)]
    const fn opens(&self) -> bool {
        let [flags, ..] = self.transport.to_le_bytes();
        self.selector.is_tcp() && flow::opens(flags)
    }

    /// Whether it comes from a client or a server of DHCP. From clients, it is the destination that tells: an own address, or
    /// one that [means all](is_special).
    #[inline(always)]
    const fn is_dhcp(&self) -> bool {
        let (source, _) = self.ports();
        !self.selector.is_tcp() && matches!(source, 67 | 68 | 546 | 547)
    }

    /// The source port, and the destination port.
    #[inline(always)]
    const fn ports(&self) -> (u16, u16) {
        (part16(self.transport >> 48), part16(self.transport >> 32))
    }

    /// The key becomes that of the packet's flow, as [`FlowKey::set`] would have made it.
    #[inline(always)]
    pub fn set_key(&self, key: &mut FlowKey, way: Way) {
        let (source, destination) = (words(self.source), words(self.destination));
        let (from, to) = self.ports();
        let (from, to) = (from.to_ne_bytes(), to.to_ne_bytes());
        let ([l0, l1], [r0, r1], [local, local_low], [remote, remote_low]) = match way {
            Way::Outgoing => (from, to, source, destination),
            Way::Incoming => (to, from, destination, source),
        };
        let version = match self.source {
            Number::V4(_) => 4,
            Number::V6(..) => 6,
        };
        let last = u64::from_ne_bytes([l0, l1, r0, r1, self.protocol(), version, 0, 0]);
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
    let head = frame.head::<SHORTEST>()?;
    match head.be16::<12>() {
        ethertype::IPV4 => Ipv4::read(frame, &head),
        ethertype::IPV6 => Ipv6::read(frame, &head),
        _ => None,
    }
}

impl Family for Ipv4 {
    #[inline(always)]
    fn read<F: Frame + ?Sized>(frame: &F, head: &F::Head<'_>) -> Option<Packet> {
        // Version 4, no options; no fragment, whatever the flag says that forbids to make some.
        if head.byte::<14>() != 0x45 || head.be16::<20>() & 0x3fff != 0 {
            return None;
        }
        let length = u64::from(head.be16::<16>());
        if !fills(frame, 14 + length) {
            return None;
        }
        let addresses = (Number::V4(head.be32::<26>()), Number::V4(head.be32::<30>()));
        match head.byte::<23>() {
            protocol::UDP => udp(head.be64::<34>(), length, 20, addresses),
            protocol::TCP => {
                let head = frame.head::<54>()?;
                tcp(head.be32::<34>(), head.be16::<46>(), length, 20, addresses)
            }
            _ => None,
        }
    }
}

impl Family for Ipv6 {
    #[inline(always)]
    fn read<F: Frame + ?Sized>(frame: &F, _: &F::Head<'_>) -> Option<Packet> {
        let head = frame.head::<62>()?;
        if head.byte::<14>() >> 4 != 6 {
            return None;
        }
        let length = u64::from(head.be16::<18>());
        if !fills(frame, 54 + length) {
            return None;
        }
        let source = Number::V6(head.be64::<22>(), head.be64::<30>());
        let addresses = (source, Number::V6(head.be64::<38>(), head.be64::<46>()));
        match head.byte::<20>() {
            protocol::UDP => udp(head.be64::<54>(), length, 0, addresses),
            protocol::TCP => {
                let head = frame.head::<74>()?;
                tcp(head.be32::<54>(), head.be16::<66>(), length, 0, addresses)
            }
            _ => None,
        }
    }
}

/// Whether a packet that ends there fills a frame, but for what pads it.
#[inline(always)]
fn fills<F: Frame + ?Sized>(frame: &F, end: u64) -> bool {
    // One that ends behind the frame leaves more than any frame has.
    frame.size().wrapping_sub(end) <= PADDING
}

/// Reads a UDP header, which is one number. Of the packet's length `before` stands before the header.
#[inline(always)]
fn udp(
    header: u64,
    length: u64,
    before: u64,
    (source, destination): (Number, Number),
) -> Option<Packet> {
    let own_length = u64::from(part16(header >> 16));
    if own_length < 8 || before + own_length > length {
        return None;
    }
    let selector = Selector::udp(part16(header >> 32));
    Some(Packet { source, destination, selector, transport: header })
}

/// The same of TCP, whose header begins with the ports; where it ends, and the flags, stand in one word.
#[inline(always)]
fn tcp(
    ports: u32,
    end_and_flags: u16,
    length: u64,
    before: u64,
    (source, destination): (Number, Number),
) -> Option<Packet> {
    let own_length = u64::from(end_and_flags >> 12) * 4;
    if own_length < 20 || before + own_length > length {
        return None;
    }
    let selector = Selector::tcp(part16(ports.into()));
    let transport = u64::from(ports) << 32 | u64::from(end_and_flags);
    Some(Packet { source, destination, selector, transport })
}

/// The lowest 16 bits.
#[inline(always)]
const fn part16(number: u64) -> u16 {
    let [low, high, ..] = number.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Whether a destination means the host itself, groups, or all: those of IPv6 begin with zeros, or are
/// multicast.
#[inline(always)]
#[must_use]
pub const fn is_special(destination: Number) -> bool {
    match destination {
        Number::V4(address) => is_special4(address),
        Number::V6(high, _) => high >> 56 == 0xff || high >> 48 == 0,
    }
}

/// [`is_special`] of IPv4.
#[inline(always)]
#[must_use]
pub const fn is_special4(address: u32) -> bool {
    let before = (address as u64 >> 24).wrapping_sub(1);
    before == 126 || before >= 223
}

/// The grant that was found, if it is sure and no closed one.
#[inline(always)]
pub fn grant<F: Frame + ?Sized>(frame: &F, found: Found) -> Option<Grant> {
    if found.is_unsure() || found.value().is_closed() {
        return None;
    }
    // However it was found: for the verifier, all ways come together here.
    Some(Grant(frame.forget(found.value().0)))
}

/// Why a client's packet to a destination is dropped that nothing is listed for; `None` where more has to be looked at.
#[inline(always)]
fn unlisted(packet: &Packet, settings: SlotSettings, class: Class) -> Option<DropReason> {
    if class == Class::NONE {
        return Some(DropReason::SpoofedSource);
    }
    if is_question(packet, settings) { None } else { Some(DropReason::NotListed) }
}

/// What rules say of a client's packet; `None` where more has to be looked at.
#[inline(always)]
fn judge<T: Tables>(
    tables: &T,
    packet: &Packet,
    settings: SlotSettings,
    (grant, class): (Grant, Class),
) -> Option<Result<Permit, DropReason>> {
    let reason = unlisted(packet, settings, class)?;
    if class == Class::NONE || grant.row() == 0 {
        return Some(Err(reason));
    }
    Some(match look_up(tables, grant, class, packet.selector) {
        Ok(permit) if permit.is_granted() => Ok(permit),
        Ok(_) => Err(DropReason::PortNotAllowed),
        Err(reason) => Err(reason),
    })
}

/// Whether a packet asks another resolver than the forwarder, which is to answer in its place.
#[inline(always)]
fn is_question(packet: &Packet, settings: SlotSettings) -> bool {
    packet.selector.port() == DNS_PORT && settings.flags & SlotSettings::INTERCEPT != 0
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
