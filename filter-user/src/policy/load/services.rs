// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `[[inbound]]` services must not say of one another.

use ipnet::IpNet;

use super::reader::Report;
use crate::policy::{Destination, Echo, Inbound, PortRanges, Ports};

/// A packet that two services fit is followed to one host of a family behind destination NAT, so
/// both have to name the same one.
pub(super) fn check_hosts(services: &[Inbound], report: &mut Report) {
    for (place, service) in services.iter().enumerate() {
        for earlier in services.iter().take(place) {
            let (Some(host), Some(other)) = (service.host, earlier.host) else { continue };
            if host == other || host.is_ipv4() != other.is_ipv4() || !overlap(service, earlier) {
                continue;
            }
            report.error(
                &service.origin,
                format!(
                    "inbound \"{}\": host = \"{host}\", and inbound \"{}\" ({}) has host = \
                     \"{other}\" for some of the same sources, addresses and ports",
                    service.name, earlier.name, earlier.origin
                ),
                "name the same host in both, or make from, to or the ports differ",
            );
        }
    }
}

fn overlap(one: &Inbound, other: &Inbound) -> bool {
    let of_prefixes =
        |one: &IpNet, other: &IpNet| one.contains(&other.addr()) || other.contains(&one.addr());
    // Which addresses are the gateway's own isn't known here, so `self` is only like itself.
    let of_destinations = |one: &Destination, other: &Destination| match (one, other) {
        (Destination::Prefix(one), Destination::Prefix(other)) => of_prefixes(one, other),
        (one, other) => one == other,
    };
    any_pair(&one.from, &other.from, of_prefixes)
        && any_pair(&one.to, &other.to, of_destinations)
        && ports_overlap(&one.ports, &other.ports)
}

fn any_pair<T>(some: &[T], others: &[T], fit: impl Fn(&T, &T) -> bool) -> bool {
    some.iter().any(|one| others.iter().any(|other| fit(one, other)))
}

fn ports_overlap(one: &Ports, other: &Ports) -> bool {
    let ranges = |one: &PortRanges, other: &PortRanges| {
        any_pair(one.ranges(), other.ranges(), |one, other| {
            one.first() <= other.last() && other.first() <= one.last()
        })
    };
    ranges(&one.tcp, &other.tcp)
        || ranges(&one.udp, &other.udp)
        || (one.echo == Echo::Allowed && other.echo == Echo::Allowed)
        || !one.protocols.is_disjoint(&other.protocols)
}
