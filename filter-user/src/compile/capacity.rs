// SPDX-License-Identifier: MIT OR Apache-2.0
//! A policy that doesn't fit is refused as a whole, with the numbers.

use std::fmt;

/// The policy doesn't fit into the tables. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.exceeded))]
pub struct CapacityError {
    /// Every table that is too small, never empty.
    pub exceeded: Vec<Exceeded>,
}

/// A table that is too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Which.
    pub what: Capacity,
    /// What the policy needs.
    pub needed: u64,
    /// What there is.
    pub capacity: u64,
}

/// What there is a bound on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capacity {
    /// Inside NICs: the highest index + 1.
    Nics,
    /// IPv4 destination prefixes.
    PrefixesV4,
    /// IPv6 destination prefixes.
    PrefixesV6,
    /// IPv4 source prefixes, over all zones.
    SourcesV4,
    /// IPv6 source prefixes, over all zones.
    SourcesV6,
    /// Classes of ports and protocols.
    PortClasses,
    /// Lists of ports that name a class, over all classes. The tables don't hold them; compiling
    /// does.
    PortOverlaps,
    /// Cells of the grant matrix.
    GrantCells {
        /// Its rows, the unused row 0 among them.
        grants: u64,
        /// Its columns.
        classes: u64,
    },
    /// Cells of the port matrix.
    PortCells {
        /// Its rows, the unused row 0 among them.
        port_sets: u64,
        /// Its columns.
        port_classes: u64,
    },
    /// Rows of the port matrix, the unused row 0 among them.
    PortSets,
    /// Counters of matches.
    Matches {
        /// How many of them earlier tables still hold.
        held: u64,
    },
}

/// Collects what is exceeded.
#[derive(Debug, Default)]
pub(super) struct Check {
    exceeded: Vec<Exceeded>,
}

// === impl CapacityError ===

impl CapacityError {
    /// Whether the policy fits but for counters that earlier tables hold. It does once
    /// [`CounterLedger::retire`](super::CounterLedger::retire) has given back enough of them.
    #[must_use]
    pub fn is_only_held_counters(&self) -> bool {
        self.exceeded.iter().all(Exceeded::is_only_held_counters)
    }
}

// === impl Capacity ===

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nics => f.write_str("inside NICs"),
            Self::PrefixesV4 => f.write_str("IPv4 destination prefixes"),
            Self::PrefixesV6 => f.write_str("IPv6 destination prefixes"),
            Self::SourcesV4 => f.write_str("IPv4 source prefixes"),
            Self::SourcesV6 => f.write_str("IPv6 source prefixes"),
            Self::PortClasses => f.write_str("classes of ports and protocols"),
            Self::PortOverlaps => f.write_str("overlaps of port ranges"),
            Self::GrantCells { grants, classes } => {
                write!(f, "grant cells ({grants} grants x {classes} client classes)")
            }
            Self::PortCells { port_sets, port_classes } => {
                write!(f, "port cells ({port_sets} port sets x {port_classes} port classes)")
            }
            Self::PortSets => f.write_str("port sets"),
            Self::Matches { held: 0 } => f.write_str("counters of rule combinations"),
            Self::Matches { held } => {
                write!(f, "counters of rule combinations ({held} held by earlier policies)")
            }
        }
    }
}

impl Capacity {
    /// How to mend it.
    #[must_use]
    pub fn mend(self) -> &'static str {
        match self {
            Self::Nics => "list fewer NICs in `inside`",
            Self::PrefixesV4 | Self::PrefixesV6 => {
                "merge neighbouring prefixes, or lower `max_addresses_per_name`"
            }
            Self::SourcesV4 | Self::SourcesV6 => {
                "merge the `cidr` entries of `[[source]]` groups, or name fewer VLANs"
            }
            Self::PortClasses | Self::PortOverlaps => {
                "give rules the same ports and ranges where they can share them"
            }
            Self::GrantCells { .. } => {
                "raise [gateway] max_grant_cells, or let fewer rules overlap on a destination, or fewer \
                 groups on a client"
            }
            Self::PortSets | Self::PortCells { .. } => {
                "let fewer rules overlap on a destination, or give them the same ports and ranges"
            }
            Self::Matches { .. } => {
                "let fewer rules overlap on the same destination and port, or merge rules"
            }
        }
    }
}

// === impl Exceeded ===

impl Exceeded {
    /// How to mend it.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        if self.is_only_held_counters() {
            "put it in force in two parts, so that the first replaces rules whose counters the \
             second needs"
        } else {
            self.what.mend()
        }
    }

    /// Whether there is room once no earlier tables hold counters.
    fn is_only_held_counters(&self) -> bool {
        match self.what {
            Capacity::Matches { held } => self.needed.saturating_sub(held) <= self.capacity,
            Capacity::Nics
            | Capacity::PrefixesV4
            | Capacity::PrefixesV6
            | Capacity::SourcesV4
            | Capacity::SourcesV6
            | Capacity::PortClasses
            | Capacity::PortOverlaps
            | Capacity::GrantCells { .. }
            | Capacity::PortCells { .. }
            | Capacity::PortSets => false,
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, needed, capacity } = self;
        write!(f, "the policy needs {needed} {what}, the tables hold {capacity}: {}", self.mend())
    }
}

fn lines(exceeded: &[Exceeded]) -> String {
    exceeded.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

// === impl Check ===

impl Check {
    pub(super) fn fits(&mut self, what: Capacity, needed: u64, capacity: u32) {
        let capacity = u64::from(capacity);
        if needed > capacity {
            self.exceeded.push(Exceeded { what, needed, capacity });
        }
    }

    /// What is exceeded, where something is.
    pub(super) fn exceeded(&mut self) -> CapacityError {
        CapacityError { exceeded: std::mem::take(&mut self.exceeded) }
    }

    pub(super) fn result(&mut self) -> Result<(), CapacityError> {
        let error = self.exceeded();
        if error.exceeded.is_empty() { Ok(()) } else { Err(error) }
    }
}
