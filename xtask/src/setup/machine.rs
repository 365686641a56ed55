// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel offers.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{Item, Need, Outcome, Remedy, State, packages};
use crate::{paths, process};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const BPFFS: &str = "/sys/fs/bpf";

pub(super) fn items() -> Vec<Item> {
    vec![
        Item {
            name: "BTF",
            need: Need::Kernel,
            look: look_btf,
            remedy: Remedy::Advice("boot a kernel with CONFIG_DEBUG_INFO_BTF (6.1 or newer)"),
        },
        Item {
            name: "bpffs",
            need: Need::Kernel,
            look: look_bpffs,
            remedy: Remedy::Install(mount_bpffs),
        },
        Item {
            name: "namespaces",
            need: Need::Kernel,
            look: look_namespaces,
            remedy: Remedy::Advice("run as root, on a kernel with network namespaces"),
        },
    ]
}

fn look_btf() -> Result<State> {
    Ok(if Path::new(BTF).exists() {
        State::Found(BTF.to_owned())
    } else {
        State::Missing(format!("{BTF}: the kernel says nothing about its types"))
    })
}

fn look_bpffs() -> Result<State> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc is not mounted")?;
    Ok(if has_bpffs(&mounts) {
        State::Found(format!("mounted at {BPFFS}"))
    } else {
        State::Missing(format!("not mounted at {BPFFS}, where enforcement is pinned"))
    })
}

fn mount_bpffs() -> Result<Outcome> {
    let by_hand = Outcome::ByHand(vec![format!("sudo mount -t bpf bpf {BPFFS}")]);
    if !packages::is_root()? {
        return Ok(by_hand);
    }
    let status = process::run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
    Ok(if status.success() { Outcome::Installed } else { by_hand })
}

/// Enters a fresh network namespace for a moment, which leaves nothing behind.
fn look_namespaces() -> Result<State> {
    let Some(ip) = paths::program("ip") else {
        return Ok(State::Missing("`ip` is not there to try".to_owned()));
    };
    let output = Command::new("unshare").arg("--net").arg(ip).args(["link", "show"]).output();
    Ok(match output {
        Ok(output) if output.status.success() => {
            State::Found("network namespaces can be made".to_owned())
        }
        Ok(output) => State::Missing(format!(
            "no network namespace can be made: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => State::Missing(format!("unshare can't be started: {error}")),
    })
}

/// Whether a line `source target type options ...` has bpffs at the usual place.
fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpffs_at_the_usual_place_counts() {
        assert!(has_bpffs("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"));
        assert!(!has_bpffs("bpf /tmp/x bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!has_bpffs(""));
    }
}
