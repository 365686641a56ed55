// SPDX-License-Identifier: MIT OR GPL-2.0
//! Everything that a verdict may look up. The kernel implements it over BPF maps, the host over
//! plain collections.

use crate::{
    parse::Address,
    wire::{Grant, Permit, Selector},
};

/// The client's class: an interned set of source groups, a column of the (grant, class) matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(pub u32);

impl Class {
    /// The source was not looked up, or can't live behind its NIC. Stored for a prefix, it takes
    /// those sources out of a plausible prefix around them.
    pub const NONE: Self = Self(u32::MAX);
}

/// A row of the (port set, port class) matrix, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet(pub u32);

/// What is done with denied packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are dropped.
    Enforce,
    /// They pass and are counted.
    Audit,
}

/// The tables of one slot, seen from one NIC. A missing entry always denies.
pub trait Tables {
    /// The class of a source address that came in with a VLAN id (0: untagged); `None` where the
    /// address can't live behind this NIC.
    fn class(&self, vlan: u16, source: &Address) -> Option<Class>;

    /// The grant of the longest prefix that holds the destination; [`Grant::NONE`] where no prefix
    /// does.
    fn grant(&self, destination: &Address) -> Grant;

    /// The port set of a grant for a class; `None` where the rules of the grant hold for none of
    /// the class's groups.
    fn port_set(&self, grant: Grant, class: Class) -> Option<PortSet>;

    /// What the port set says of a selector.
    fn permit(&self, ports: PortSet, selector: Selector) -> Permit;
}
