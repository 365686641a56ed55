// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a policy has to know of the machine it is compiled for.

use std::{collections::BTreeSet, net::IpAddr};

use filter_common::egress::Side;
use ipnet::IpNet;

use crate::policy::NicName;

/// The gateway: its NICs and its own addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The inside and outside NICs.
    pub nics: Vec<HostNic>,
    /// Every address of the gateway, on whatever NIC.
    pub own: BTreeSet<IpAddr>,
    /// Addresses that the gateway takes in without owning them: the broadcast addresses of its
    /// networks, and the anycast address of the routers in each (RFC 4291, section 2.6.1). No
    /// rule leads there, as it would lead to the gateway. What is in `own` as well is own.
    pub closed: BTreeSet<IpAddr>,
}

/// An inside or outside NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNic {
    /// Its index in the maps, below `MAX_NICS`; it stays with the NIC.
    pub slot: u8,
    /// Its name.
    pub name: NicName,
    /// What is behind it.
    pub side: Side,
    /// The prefixes that can live behind it, connected and routed. Link-local sources are always
    /// plausible and need not be listed.
    pub plausible: Vec<IpNet>,
    /// The prefixes that are routed to other interfaces. What lies in one of them can't live
    /// behind this NIC, unless it lies in a prefix of `plausible` that is as long or longer.
    pub elsewhere: Vec<IpNet>,
}

// === impl Host ===

impl Host {
    /// What the gateway does with packets to an address.
    pub(super) fn delivery(&self, address: IpAddr) -> Delivery {
        if self.own.contains(&address) {
            Delivery::Own
        } else if self.closed.contains(&address) {
            Delivery::Closed
        } else {
            Delivery::Forwarded
        }
    }

    /// The addresses that no prefix around them opens: the gateway takes in what goes there.
    pub(super) fn delivered(&self) -> BTreeSet<IpAddr> {
        self.own.union(&self.closed).copied().collect()
    }
}

/// What the gateway does with packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It takes them in as their owner.
    Own,
    /// It takes them in without owning the address.
    Closed,
    /// It forwards them.
    Forwarded,
}
