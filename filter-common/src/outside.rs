// SPDX-License-Identifier: MIT OR GPL-2.0
//! The filter of the outside NICs: what enters one is part of a flow, or for a service that an
//! `[[inbound]]` rule offers, or needed on the link. Everything else is dropped.

use crate::{
    decide::{
        Decision, IcmpKind, advance, decide_on, icmp_kind, link_control, look_up, quoted_in,
        read_quoted, reply, selector,
    },
    egress::Side,
    flow::{self, Flow as _, FlowState, Load, Origin, Way, Workspace},
    frame::Frame,
    parse::{Headers, Payload, protocol},
    tables::{Class, Tables},
    verdict::{DropReason, PassReason, Verdict},
    wire::{FlowKey, FlowRecord, Grant, Permit, SlotSettings},
};

/// Judges a frame that entered an outside NIC; the counterpart of
/// [`decide`](crate::decide::decide).
#[inline(always)]
pub fn decide_outside<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
) -> Decision {
    decide_on(Side::Outside, frame, tables, workspace)
}

/// A packet that is no control of the link, from a source that can live behind the NIC.
#[inline(always)]
pub(crate) fn judge<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
    (grant, class): (Grant, Class),
) -> Result<Verdict, DropReason> {
    if payload == Payload::Icmp && icmp_kind(&workspace.headers) == IcmpKind::Error {
        return icmp_error(frame, tables, workspace);
    }
    exchange(frame, tables, workspace, payload, grant, class)
}

/// What passes without a flow: control of the link, and what DHCP servers tell the gateway.
#[inline(always)]
pub(crate) fn always_allowed(
    headers: &Headers,
    payload: Payload,
    own: bool,
) -> Result<Option<PassReason>, DropReason> {
    if payload == Payload::Udp {
        let ports = (headers.ip_version, headers.source_port, headers.destination_port);
        match ports {
            (4, 67, 68) if own || headers.destination.is_broadcast() => {
                return Ok(Some(PassReason::DhcpV4));
            }
            (6, 547, 546) if own => return Ok(Some(PassReason::DhcpV6)),
            _ => {}
        }
    }
    link_control(headers, payload, own)
}

/// An error passes if the packet that it quotes left by this NIC as one of a live flow.
#[inline(always)]
fn icmp_error<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
) -> Result<Verdict, DropReason> {
    let Workspace { headers, key, quoted, .. } = workspace;
    read_quoted(frame, headers, quoted)?;
    key.set_quoted(quoted, headers.ip_version, Way::Outgoing);
    match tables.flow(key) {
        Some(found)
            if found.origin() != Origin::InboundHost
                && found.is_live(tables.clock(), key.protocol) =>
        {
            quoted_in(&found)
        }
        Some(_) | None => Err(DropReason::IcmpErrorUnrelated),
    }
}

/// A packet of a flow, or the first of one that a rule offers.
#[inline(always)]
fn exchange<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
    grant: Grant,
    class: Class,
) -> Result<Verdict, DropReason> {
    let Workspace { headers, key, .. } = &mut *workspace;
    key.set(headers, Way::Incoming);
    if let Some(found) = tables.flow(key)
        && found.origin().is_local()
        && found.is_live(tables.clock(), headers.protocol)
    {
        match reply(frame, tables, headers, &found) {
            Ok(verdict) => return Ok(verdict),
            Err(reason) => {
                let over =
                    matches!(found.state(), FlowState::Closed | FlowState::Reset | FlowState::Cut);
                // The remote end may use its ports again once the flow is over.
                if !over || payload != Payload::Tcp || !flow::opens(headers.tcp_flags) {
                    return Err(reason);
                }
            }
        }
    }
    service(frame, tables, workspace, payload, (grant, class))
}

/// A packet to a service, of a flow that was opened from outside, or that opens one.
#[inline(always)]
fn service<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    workspace: &mut Workspace,
    payload: Payload,
    (grant, class): (Grant, Class),
) -> Result<Verdict, DropReason> {
    let Workspace { headers, key, record, .. } = &mut *workspace;
    let permit = match selector(headers, payload) {
        Some(selector) if grant.row() != 0 => match look_up(tables, grant, class, selector) {
            Ok(permit) => permit,
            Err(_) => Permit::DENIED,
        },
        _ => Permit::DENIED,
    };
    let (protocol, flags) = (headers.protocol, headers.tcp_flags);
    // Both are there whatever was found: what is left undefined, the verifier refuses to see copied.
    let (mut state, mut refused) = (FlowState::Established, Some(DropReason::TcpState));
    if let Some(found) = tables.flow(key)
        && !found.origin().is_local()
        && found.is_live(tables.clock(), protocol)
    {
        match flow::incoming(found.state(), found.origin(), protocol, flags) {
            Ok(next) => {
                if permit.is_granted() || keeps(tables, key) {
                    advance(frame, tables, &found, next);
                    if !permit.is_granted() {
                        return Ok(Verdict::Pass(PassReason::KeptFlow));
                    }
                }
                (state, refused) = (next, None);
            }
            Err(reason) => refused = Some(reason),
        }
    }
    if !permit.is_granted() {
        return Err(match refused {
            Some(DropReason::FlowCut) => DropReason::FlowCut,
            Some(_) | None => DropReason::Unsolicited,
        });
    }
    let state = match refused {
        None => state,
        Some(reason) => {
            let cut = matches!(reason, DropReason::FlowCut);
            if protocol == protocol::TCP && !flow::opens(flags) {
                // The gateway's own services know their connections themselves; what goes on to
                // others must have been opened in sight.
                if !grant.is_own() || cut {
                    return Err(reason);
                }
            }
            // Only TCP says that it begins anew; what was cut of others is forgotten in its time.
            if cut && protocol != protocol::TCP {
                return Err(DropReason::FlowCut);
            }
            let load = Load { packets: 1, bytes: frame.len() };
            let opening = protocol != protocol::TCP || flow::opens(flags);
            let opened = if opening { FlowState::Opening } else { FlowState::Established };
            *record = FlowRecord::open(tables.clock(), opened, Origin::Inbound);
            record.count(Way::Incoming, load);
            tables.expect_answers();
            tables.open_flow(key, record);
            FlowState::Established
        }
    };
    open_for_host(tables, workspace, permit, state);
    Ok(Verdict::Permit(permit))
}

/// Whether a flow is kept that no rule offers a service to.
#[inline(always)]
fn keeps<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    tables.settings().flags & SlotSettings::KEEP != 0 && tables.is_kept(key)
}

/// Behind destination NAT, the host's answers don't show the address that was asked: they are told
/// by the host and the remote end.
#[inline(always)]
fn open_for_host<T: Tables>(
    tables: &T,
    workspace: &mut Workspace,
    permit: Permit,
    state: FlowState,
) {
    let Workspace { key, record, .. } = workspace;
    let hosts = tables.service_host(permit);
    if key.ip_version == 4 {
        if u32::from_ne_bytes(hosts.v4) == 0 {
            return;
        }
        key.local = [0; 16];
        if let Some(first) = key.local.first_chunk_mut::<4>() {
            *first = hosts.v4;
        }
    } else {
        if u128::from_ne_bytes(hosts.v6) == 0 {
            return;
        }
        key.local = hosts.v6;
    }
    key.local_port = 0;
    *record = FlowRecord::open(tables.clock(), state, Origin::InboundHost);
    tables.expect_answers();
    tables.open_flow(key, record);
}
