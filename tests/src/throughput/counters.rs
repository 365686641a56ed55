// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel counts along the way: packets at NICs, what it discards, and time.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use crate::netns::Namespace;

/// More than the files of `/proc` that are read have in a namespace with a few NICs.
const ROOM: usize = 1 << 14;

/// What a NIC counted. For veth, what came in was taken off its queue, and was judged if
/// there is a program; what was dropped found that queue full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NicCount {
    pub(super) received: u64,
    pub(super) receive_dropped: u64,
    pub(super) sent: u64,
    pub(super) send_dropped: u64,
}

/// Counters of a namespace. The files are opened inside and can be read from anywhere.
#[derive(Debug)]
pub(super) struct Counters {
    nics: File,
    ip: File,
}

/// Why the kernel discards IPv4 packets that it would forward (`/proc/net/snmp`).
const DISCARDS: [&str; 6] =
    ["InHdrErrors", "InAddrErrors", "InUnknownProtos", "InDiscards", "OutDiscards", "OutNoRoutes"];

// === impl Counters ===

impl Counters {
    pub(super) fn open(namespace: &Namespace) -> Result<Self> {
        let open = |name: &str| {
            let path = Path::new("/proc/thread-self/net").join(name);
            File::open(&path).with_context(|| path.display().to_string())
        };
        namespace.enter(|| Ok(Self { nics: open("dev")?, ip: open("snmp")? }))?
    }

    pub(super) fn nic(&self, name: &str) -> Result<NicCount> {
        let text = read(&self.nics)?;
        parse_nic(&text, name).with_context(|| format!("/proc/net/dev has no {name}: {text}"))
    }

    /// How many IPv4 packets the kernel has discarded.
    pub(super) fn discarded(&self) -> Result<u64> {
        let text = read(&self.ip)?;
        parse_discarded(&text).with_context(|| format!("/proc/net/snmp without Ip: {text}"))
    }
}

/// The time that a thread has had of a processor.
pub(super) fn processor_time(thread: Pid) -> Result<Duration> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let first = text.split_whitespace().next().and_then(|first| first.parse().ok());
    Ok(Duration::from_nanos(first.with_context(|| format!("{path} without a time"))?))
}

/// Threads of the kernel by the beginning of their names.
pub(super) fn kernel_threads(prefix: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc can't be read")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended in between.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            found.push(Pid::from_raw(number));
        }
    }
    Ok(found)
}

fn read(file: &File) -> Result<String> {
    let mut bytes = vec![0; ROOM];
    let mut length = 0;
    loop {
        let rest = bytes.get_mut(length..).unwrap_or_default();
        let count = file.read_at(rest, length as u64).context("a file of /proc/net")?;
        if count == 0 {
            break;
        }
        length += count;
    }
    bytes.truncate(length);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse_nic(text: &str, name: &str) -> Option<NicCount> {
    let fields =
        text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let fields: Vec<u64> =
        fields.split_whitespace().map(|field| field.parse().ok()).collect::<Option<_>>()?;
    // Bytes, packets, errors, dropped and four more of what came in; then of what went out.
    Some(NicCount {
        received: *fields.get(1)?,
        receive_dropped: *fields.get(3)?,
        sent: *fields.get(9)?,
        send_dropped: *fields.get(11)?,
    })
}

fn parse_discarded(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let names = lines.next()?.split_whitespace();
    let values = lines.next()?.split_whitespace();
    let mut sum = 0;
    for (name, value) in names.zip(values) {
        if DISCARDS.contains(&name) {
            sum += value.parse::<u64>().ok()?;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive\n face |bytes\n  wan0: 9 8 7 6 5 4 3 2 1 2 3 4 5 6 7 8\n\
                    wan01: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n";
        let expected = NicCount { received: 8, receive_dropped: 6, sent: 2, send_dropped: 4 };
        assert_eq!(parse_nic(text, "wan0"), Some(expected));
        assert_eq!(parse_nic(text, "wan"), None);
    }

    #[test]
    fn discards_are_summed() {
        let text = "Ip: Forwarding InHdrErrors InReceives OutNoRoutes\nIp: 1 2 100 3\nUdp: x\n";
        assert_eq!(parse_discarded(text), Some(5));
    }
}
