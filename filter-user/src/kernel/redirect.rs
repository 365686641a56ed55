// SPDX-License-Identifier: MIT OR Apache-2.0
//! The nftables table by which clients' questions to other resolvers are led to the forwarder.
//!
//! It translates destinations rather than using `redirect`: that would lead to the first address of
//! the NIC that a question came in by, where the forwarder need not listen.
//!
//! The table is ours alone and is replaced in one transaction. It is written by the program `nft`,
//! whose language is stable, while the messages that it makes of it are a library's affair.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
    net::IpAddr,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::policy::NicName;

const NFT: &str = "nft";
const TABLE: &str = "table inet sluice";

/// What stands in the table, as nft lists it after it was put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    listing: String,
}

/// Whether the table could be put.
///
/// # Errors
///
/// There is no `nft`, or the kernel doesn't let it list tables; the message says what to do.
pub fn check() -> Result<()> {
    list_tables()?.with_context(|| {
        format!(
            "the program {NFT}, which leads clients' questions to the forwarder, is not installed; \
             install the package nftables, or set intercept = false in [dns]"
        )
    })?;
    Ok(())
}

/// Leads what enters by these interfaces for port 53 of other hosts to the first of the forwarder's
/// addresses of its family, in the place of what was there before. Other families are left alone.
///
/// # Errors
///
/// As [`check`]; also where the name of an interface can't stand in a rule.
pub fn put(inside: &[NicName], listen: &[IpAddr]) -> Result<Redirection> {
    check()?;
    let transaction = transaction(inside, listen)?;
    succeed(&nft(&["-f", "-"], &transaction)?.context("nft is gone")?)?;
    // Between the two somebody else may have changed it, which must not pass for what was put.
    let rules = |text: &str| text.matches("dnat ip").count();
    let listing = list()?.filter(|listing| rules(listing) == rules(&transaction));
    Ok(Redirection { listing: listing.context("the table was put, and somebody took it away")? })
}

/// Takes the table away, if it is there.
///
/// # Errors
///
/// The kernel refuses.
pub fn remove() -> Result<()> {
    // Without nft nobody can have put the table there.
    let Some(tables) = list_tables()? else { return Ok(()) };
    if tables.lines().any(|table| table == TABLE) {
        succeed(&nft(&["-f", "-"], &format!("delete {TABLE}\n"))?.context("nft is gone")?)?;
    }
    Ok(())
}

// === impl Redirection ===

impl Redirection {
    /// Whether the table still is as it was put.
    ///
    /// # Errors
    ///
    /// The kernel can't be asked.
    pub fn is_there(&self) -> Result<bool> {
        Ok(list()?.as_ref() == Some(&self.listing))
    }
}

/// What nft is told. A table is made before it is deleted, as deleting one that is not there would
/// fail.
fn transaction(inside: &[NicName], listen: &[IpAddr]) -> Result<String> {
    ensure!(!inside.is_empty(), "no inside NIC is there, so that no question can be led anywhere");
    let mut names = String::new();
    for nic in inside {
        // nft knows no way to write others, and takes a star for any end of a name.
        let writable = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte);
        if !nic.as_str().bytes().all(writable) {
            bail!(
                "the name of the NIC {nic} can't stand in an nftables rule, by which questions that \
                 enter it would be led to the forwarder; rename it, or set intercept = false in \
                 [dns]"
            );
        }
        let comma = if names.is_empty() { "" } else { ", " };
        write!(names, "{comma}\"{nic}\"")?;
    }
    let mut rules = String::new();
    let families = [
        ("ipv4", "ip", listen.iter().find(|address| address.is_ipv4())),
        ("ipv6", "ip6", listen.iter().find(|address| address.is_ipv6())),
    ];
    for (protocol, family, address) in families {
        let Some(address) = address else { continue };
        writeln!(
            rules,
            "    meta nfproto {protocol} iifname {{ {names} }} meta l4proto {{ tcp, udp }} \
             th dport 53 fib daddr type != local dnat {family} to {address}"
        )?;
    }
    ensure!(!rules.is_empty(), "the forwarder has no address that questions could be led to");
    // Before the chains of others at `dstnat`: the first translation of a connection is its only.
    Ok(format!(
        "{TABLE} {{\n}}\ndelete {TABLE}\n{TABLE} {{\n  chain questions {{\n    \
         type nat hook prerouting priority dstnat - 1; policy accept;\n{rules}  }}\n}}\n"
    ))
}

/// The table as it stands in the kernel, if it does.
fn list() -> Result<Option<String>> {
    let output = nft(&["--stateless", "list", "table", "inet", "sluice"], "")?;
    let output = output.context("the program nft is gone")?;
    if output.status.success() {
        return Ok(Some(text(&output.stdout)));
    }
    // ENOENT in the words of the C locale is the only sign that nft gives.
    if text(&output.stderr).contains("No such file or directory") {
        return Ok(None);
    }
    succeed(&output)?;
    Ok(None)
}

/// The tables that there are, a line for each; `None` where there is no nft.
pub(super) fn list_tables() -> Result<Option<String>> {
    let Some(output) = nft(&["list", "tables"], "")? else { return Ok(None) };
    succeed(&output)?;
    Ok(Some(text(&output.stdout)))
}

/// Runs nft; `None` where there is none.
pub(super) fn nft(arguments: &[&str], input: &str) -> Result<Option<Output>> {
    let spawned = Command::new(NFT)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("the program nft can't be started"),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // It may end before it has read everything; then it says why.
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(error).context("the program nft can't be told anything");
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(Some(child.wait_with_output().context("the program nft can't be waited for")?))
}

/// What nft says of its failure, in one line.
pub(super) fn succeed(output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = text(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    bail!("nft fails ({}): {said}", output.status)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nics(names: &[&str]) -> Vec<NicName> {
        names.iter().map(|name| NicName::try_from(*name).unwrap()).collect()
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn each_family_goes_to_its_first_address() {
        let listen = addresses(&["10.0.10.1", "2001:db8:10::1", "10.0.20.1"]);
        let text = transaction(&nics(&["eth1", "eth1.10"]), &listen).unwrap();
        assert_eq!(
            text,
            "table inet sluice {\n}\ndelete table inet sluice\ntable inet sluice {\n  \
             chain questions {\n    \
             type nat hook prerouting priority dstnat - 1; policy accept;\n    \
             meta nfproto ipv4 iifname { \"eth1\", \"eth1.10\" } meta l4proto { tcp, udp } \
             th dport 53 fib daddr type != local dnat ip to 10.0.10.1\n    \
             meta nfproto ipv6 iifname { \"eth1\", \"eth1.10\" } meta l4proto { tcp, udp } \
             th dport 53 fib daddr type != local dnat ip6 to 2001:db8:10::1\n  }\n}\n"
        );
        let text = transaction(&nics(&["eth1"]), &addresses(&["10.0.10.1"])).unwrap();
        assert!(!text.contains("ip6"), "{text}");
    }

    #[test]
    fn what_can_not_be_written_is_refused() {
        let listen = addresses(&["10.0.10.1"]);
        for name in ["eth*", "e\"th1", "e}th", "e\\th", "e;h", "$eth1", "e#h"] {
            let error = transaction(&nics(&["eth0", name]), &listen).unwrap_err().to_string();
            assert!(error.contains("rename it, or set intercept = false"), "{error}");
        }
        assert!(transaction(&[], &listen).is_err());
        assert!(transaction(&nics(&["eth0"]), &[]).is_err());
    }
}
