// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nothing is forwarded by the kernel, whatever NIC it comes from, until the filter is on all of them.
//!
//! A NIC that is not there yet can't have a program. An nftables table needs none: its chain denies
//! all forwarding. Without `nft`, forwarding itself is switched off.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};

use super::redirect::{list_tables, nft, succeed};

/// The table, as nft lists it.
const TABLE: &str = "table inet sluice_lockdown";

/// What switches forwarding, below `/proc/sys`.
const SWITCHES: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// What keeps anything from being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The table, which [`lift`] takes away.
    Table,
    /// Forwarding is off, and stays so until somebody switches it on.
    Switches,
}

/// Denies all forwarding.
///
/// # Errors
///
/// It can't be denied: neither by nftables nor by switching it off.
pub fn put() -> Result<Barrier> {
    let error = match put_table() {
        Ok(()) => return Ok(Barrier::Table),
        Err(error) => error,
    };
    for switch in SWITCHES {
        let path = Path::new("/proc/sys").join(switch);
        match fs::write(&path, "0\n") {
            // A kernel without IPv6 forwards none.
            Err(other) if other.kind() == ErrorKind::NotFound => {}
            result => result.with_context(|| {
                format!(
                    "forwarding can be denied neither by nftables ({error:#}) nor in {}",
                    path.display()
                )
            })?,
        }
    }
    Ok(Barrier::Switches)
}

/// Takes the table away, if it is there. Returns whether it was.
///
/// # Errors
///
/// The kernel refuses.
pub fn lift() -> Result<bool> {
    // Without nft nobody can have put the table there.
    let Some(tables) = list_tables()? else { return Ok(false) };
    if !tables.lines().any(|table| table == TABLE) {
        return Ok(false);
    }
    succeed(&nft(&["-f", "-"], &format!("delete {TABLE}\n"))?.context("nft is gone")?)?;
    Ok(true)
}

/// A table is made before it is deleted, as deleting one that is not there would fail.
fn put_table() -> Result<()> {
    // What others accept earlier or later passes here, too, or is dropped: a drop is final.
    let text = format!(
        "{TABLE} {{\n}}\ndelete {TABLE}\n{TABLE} {{\n  chain forwarded {{\n    \
         type filter hook forward priority filter; policy drop;\n    counter\n  }}\n}}\n"
    );
    let output =
        nft(&["-f", "-"], &text)?.context("the program nft is not installed (package nftables)")?;
    succeed(&output)
}
