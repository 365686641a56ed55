// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that come from Debian's packages.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{Item, Need, Outcome, Remedy, State};
use crate::{paths, process};

/// A program, the package it comes from, and what it is for.
struct Row {
    need: Need,
    package: &'static str,
    program: &'static str,
    reason: &'static str,
    look: fn() -> Result<State>,
}

macro_rules! rows {
    ($($need:ident, $look:ident, $package:literal, $program:literal, $reason:literal;)*) => {
        /// Everything that the tests run. What the compiler needs is in `toolchain`.
        const ROWS: &[Row] = &[$(Row {
            need: Need::$need,
            package: $package,
            program: $program,
            reason: $reason,
            look: || $look($program, $reason),
        },)*];
    };
}

rows! {
    Lab, look, "iproute2", "ip", "the lab's namespaces, veth pairs, addresses and routes";
    Lab, look, "ethtool", "ethtool", "switches offloads of the lab's NICs off, so that frames are whole";
    Lab, look, "unbound", "unbound", "a real resolver and authoritative server for the lab";
    Lab, look, "dnsmasq-base", "dnsmasq", "a second DNS server, so that none is tested by its habits alone";
    Lab, look, "bind9-dnsutils", "dig", "a client of other people's making for the forwarder";
    Lab, look, "openssl", "openssl", "the lab's own authority, for a resolver over TLS";
    Lab, look, "nftables", "nft", "the gateway's source NAT in the lab";
    Lab, look, "tcpdump", "tcpdump", "captures answers to denied packets, and checks them by rules of its own";
    Lab, look, "iperf3", "iperf3", "transfers at full speed through the lab's gateway";
    Lab, look, "python3-minimal", "python3", "small servers of other people's making in the lab";
    Lab, look, "systemd", "systemctl", "the service manager under which the units are tested, in namespaces of its own";
    Lab, look, "prometheus", "promtool", "collects the gateway's metrics in the lab, and checks the alerts";
    Lab, look, "faketime", "faketime", "shifts the daemon's wall clock, and no other";
    Guests, look, "qemu-system-x86", "qemu-system-x86_64", "the machine in which other kernels are booted";
    Guests, look_static, "busybox-static", "busybox", "all programs of a guest but ours";
    Guests, look, "xz-utils", "xz", "unpacks the modules of newer kernels";
}

/// Names under which maintainer scripts start and enable services. A developer's machine
/// shouldn't get a resolver on port 53 because tests run one in a namespace.
const SERVICE_TOOLS: &[&str] =
    &["deb-systemd-helper", "deb-systemd-invoke", "invoke-rc.d", "update-rc.d"];

/// One item for each program.
pub(super) fn items() -> Vec<Item> {
    ROWS.iter()
        .map(|row| Item {
            name: row.package,
            need: row.need,
            look: row.look,
            remedy: Remedy::Package(row.package),
        })
        .collect()
}

/// Whether apt-get can be run: Debian or a descendant, and root.
pub(super) fn can_install() -> Result<bool> {
    Ok(is_debian() && is_root()?)
}

/// Whether this is Debian, Ubuntu or another descendant.
pub(super) fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    describes_debian(&release) && paths::program("apt-get").is_some()
}

/// Whether we may install packages and mount.
pub(super) fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("/proc is not mounted")?;
    Ok(effective_user(&status) == Some(0))
}

/// Whether the archive offers a package.
pub(super) fn is_offered(package: &str) -> bool {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    output.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().any(|line| {
            line.trim_start().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)")
        })
    })
}

/// Installs packages by apt-get, or says how.
pub(super) fn install(packages: &[&str]) -> Result<Outcome> {
    if !is_debian() {
        let programs: Vec<_> = ROWS
            .iter()
            .filter(|row| packages.contains(&row.package))
            .map(|row| format!("{} ({})", row.program, row.reason))
            .collect();
        let what = if programs.is_empty() { packages.join(", ") } else { programs.join(", ") };
        return Ok(Outcome::ByHand(vec![format!("install with your package manager: {what}")]));
    }
    let list = packages.join(" ");
    let by_hand = Outcome::ByHand(vec![
        "sudo apt-get update".to_owned(),
        format!("sudo apt-get install --no-install-recommends {list}"),
    ]);
    if !is_root()? {
        return Ok(by_hand);
    }
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", quiet_services()?.display());
    if !process::run(apt_get().arg("update"))?.success() {
        return Ok(by_hand);
    }
    let status = process::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends", "-o"])
            .arg(format!("DPkg::Path={path}"))
            .args(packages),
    )?;
    Ok(if status.success() { Outcome::Installed } else { by_hand })
}

/// apt-get, set up to ask nothing and to say little.
pub(super) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-qq",
        "-o",
        "DPkg::Lock::Timeout=600",
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
}

/// A directory with stand-ins that do nothing for [`SERVICE_TOOLS`].
fn quiet_services() -> Result<PathBuf> {
    let directory = paths::cache()?.join("no-services");
    fs::create_dir_all(&directory)?;
    for tool in SERVICE_TOOLS {
        let file = directory.join(tool);
        fs::write(&file, "#!/bin/sh\nexit 0\n")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    Ok(directory)
}

fn look(program: &str, reason: &str) -> Result<State> {
    Ok(match paths::program(program) {
        Some(path) => State::Found(path.display().to_string()),
        None => State::Missing(format!("{program}: {reason}")),
    })
}

/// Looks for a program that needs no libraries; another package may have one of the same name.
fn look_static(program: &str, reason: &str) -> Result<State> {
    let found = look(program, reason)?;
    let State::Found(path) = &found else { return Ok(found) };
    let content = fs::read(path).with_context(|| format!("{path} can't be read"))?;
    let loader = b"/ld-linux";
    if content.windows(loader.len()).any(|bytes| bytes == loader) {
        return Ok(State::Missing(format!("{path} needs libraries, a static one: {reason}")));
    }
    Ok(found)
}

fn describes_debian(release: &str) -> bool {
    release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches('"').split(' '))
        .any(|id| matches!(id, "debian" | "ubuntu"))
}

/// The second number of `Uid:`, the effective one.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_descendants_are_recognised() {
        assert!(describes_debian("NAME=x\nID=debian\n"));
        assert!(describes_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!describes_debian("ID=fedora\nID_LIKE=\"rhel\"\nHOME_URL=https://debian.org\n"));
        assert!(!describes_debian(""));
    }

    #[test]
    fn the_effective_user_counts() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_user("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_user(""), None);
    }
}
