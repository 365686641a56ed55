// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a part of the policy was written.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// A line of a file, relative to the configuration directory: `policy.d/intune.toml:12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The file, relative to the configuration directory.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Serialize for Origin {
    /// As it displays: `"policy.d/intune.toml:12"`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
