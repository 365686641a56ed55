// SPDX-License-Identifier: MIT OR GPL-2.0
//! What leaves by a NIC: it opens flows, so that their replies are known. Policy has judged
//! forwarded packets where they came in; the gateway's own are not filtered. Only questions that the
//! kernel should have redirected to the forwarder are stopped here.

use crate::{
    decide::{is_question, later_fragment, remember},
    flow::{self, Flow as _, FlowState, Load, Origin, Way, Workspace, tcp},
    frame::Frame,
    parse::{Headers, Payload, parse, protocol},
    tables::{Role, Tables},
    verdict::{DropReason, PassReason, Verdict},
    wire::{FlowRecord, SlotSettings},
};

/// The side of a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Clients are behind it.
    Inside,
    /// The internet is behind it.
    Outside,
}

/// Where a packet that leaves comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// The gateway itself.
    Own,
    /// An inside NIC, or a device that stands on one.
    Inside,
    /// An outside NIC, or a device that stands on one.
    Outside,
    /// A device that is neither.
    Foreign,
}

/// Judges a frame that leaves by a NIC of a side, and follows its flow. `segments` is how many
/// packets the hardware will make of it, 1 for most.
#[inline(always)]
pub fn egress<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    side: Side,
    ingress: Ingress,
    segments: u32,
) -> Verdict {
    workspace.headers = Headers::default();
    let origin = match (side, ingress) {
        (_, Ingress::Own) => Origin::Gateway,
        (_, Ingress::Inside) | (Side::Inside, Ingress::Foreign) => Origin::Inside,
        // Its flow was opened where it came in; no client asked for it.
        (Side::Inside, Ingress::Outside) => return Verdict::Pass(PassReason::Forwarded),
        (Side::Outside, Ingress::Outside | Ingress::Foreign) => {
            return Verdict::Drop(DropReason::NotFromInside);
        }
    };
    // Parsing has paths enough without telling these two apart in each.
    let origin = if frame.forget(origin.code()) == Origin::Gateway.code() {
        Origin::Gateway
    } else {
        Origin::Inside
    };
    let parsed = parse(frame, &mut workspace.headers);
    // Asked only here, for the same reason.
    let intercepting =
        origin != Origin::Gateway && tables.settings().flags & SlotSettings::INTERCEPT != 0;
    match parsed {
        Ok(payload) => {
            let payload = payload.forget(frame);
            if intercepting && let Err(reason) = guard(tables, workspace, payload) {
                return Verdict::Drop(reason);
            }
            if tables.role() == Role::Enforcing {
                follow(frame, tables, workspace, payload, (side, origin), segments);
            }
        }
        // It was read where it came in; what can't be read here may be a question.
        Err(reason) if intercepting => return Verdict::Drop(reason),
        Err(_) => {}
    }
    Verdict::Pass(match origin {
        Origin::Gateway => PassReason::Own,
        Origin::Inside | Origin::Inbound | Origin::InboundHost | Origin::Client => {
            PassReason::Forwarded
        }
    })
}

/// Lets no question leave that the redirection should have caught, and nothing of one: the kernel
/// cuts packets that are too long for the NIC, so that later fragments need a first that left.
#[inline(always)]
fn guard<T: Tables>(
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
) -> Result<(), DropReason> {
    if payload == Payload::Later {
        return later_fragment(tables, workspace).map(|_passes| ());
    }
    if is_question(&workspace.headers, payload) {
        return Err(DropReason::DnsNotIntercepted);
    }
    remember(tables, workspace);
    Ok(())
}

#[inline(always)]
fn follow<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
    (side, origin): (Side, Origin),
    segments: u32,
) {
    let Workspace { headers, key, record, .. } = workspace;
    let payload = payload.forget(frame);
    let flags = headers.tcp_flags;
    // The state of a flow that is not known yet; `None` where this packet opens none.
    let opened = match payload {
        Payload::Control(_) | Payload::Later => return,
        Payload::Tcp if flow::opens(flags) => Some(FlowState::Opening),
        Payload::Tcp if flags & (tcp::SYN | tcp::RST) != 0 => None,
        // In the middle of a connection that is older than our memory of it.
        Payload::Tcp => Some(FlowState::Established),
        Payload::Icmp => match (headers.protocol, headers.destination_port) {
            (protocol::ICMP, 8) | (protocol::ICMPV6, 128) => Some(FlowState::Opening),
            (protocol::ICMP, 0) | (protocol::ICMPV6, 129) => None,
            _ => return,
        },
        Payload::Udp | Payload::Other => Some(FlowState::Opening),
    };
    // What comes back from a group comes from other addresses than the group's.
    let to = &headers.destination;
    if to.is_multicast() || to.is_broadcast() || headers.source.is_unspecified() {
        return;
    }
    key.set(headers, Way::Outgoing);
    let clock = tables.clock();
    let repeated = segments.saturating_sub(1).saturating_mul(headers.data);
    let load = Load { packets: segments, bytes: frame.len().saturating_add(repeated) };
    if let Some(found) = tables.flow(key)
        && found.is_live(clock, headers.protocol)
        && let Some(state) = flow::outgoing(found.state(), found.origin(), headers.protocol, flags)
    {
        // A flow that was cut is forgotten in its time, so that it can be opened again; TCP has
        // its SYN for that.
        if state != FlowState::Cut || headers.protocol == protocol::TCP {
            found.advance(clock.now, state, Way::Outgoing, load);
        }
        return;
    }
    if let Some(state) = opened {
        if payload != Payload::Tcp || !flow::opens(flags) {
            // What answers somebody behind another NIC is of the flow that was opened there.
            key.set(headers, Way::Incoming);
            if let Some(found) = tables.flow(key)
                && found.is_live(clock, headers.protocol)
            {
                return;
            }
            key.set(headers, Way::Outgoing);
        }
        let by_own = || origin == Origin::Gateway && tables.grant(&headers.source).is_own();
        if side == Side::Inside && !by_own() {
            tables.expect_answers();
        }
        *record = FlowRecord::open(clock, state, origin);
        record.count(Way::Outgoing, load);
        tables.open_flow(key, record);
    }
}
