// SPDX-License-Identifier: MIT OR Apache-2.0
//! An authoritative DNS server (unbound) that serves the whole tree from one small zone.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    netns::Namespace,
    probe,
    process::{Process, wait_until},
    workdir::Workdir,
};

/// How long the server may take until it answers.
const START: Duration = Duration::from_secs(5);

/// The name by which the server is asked whether it is there.
const READY: &str = "ready.lab";

/// The names that a server knows; all others don't exist (NXDOMAIN).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone(BTreeMap<String, Vec<Record>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    ttl: u32,
    data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Data {
    Address(IpAddr),
    Alias(String),
}

/// A running server; it is ended when this is dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: IpAddr,
    directory: Workdir,
    service: Service,
    process: Option<Process>,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// At port 53.
    Plain,
    /// At port 53, and at port 853 over TLS.
    PlainAndTls,
}

// === impl Zone ===

impl Zone {
    /// A zone without names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address (A or AAAA) of a name.
    #[must_use]
    pub fn address(mut self, name: &str, ttl: u32, address: impl Into<IpAddr>) -> Self {
        self.add(name, ttl, Data::Address(address.into()));
        self
    }

    /// Makes a name an alias (CNAME).
    #[must_use]
    pub fn alias(mut self, name: &str, ttl: u32, target: &str) -> Self {
        self.add(name, ttl, Data::Alias(target.to_owned()));
        self
    }

    fn add(&mut self, name: &str, ttl: u32, data: Data) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.0.entry(name).or_default().push(Record { ttl, data });
    }

    /// The zone file of the root.
    fn file(&self) -> String {
        let mut text = String::from(
            "$ORIGIN .\n@ 5 SOA ns.lab. hostmaster.lab. 1 3600 600 86400 5\n@ 5 NS ns.lab.\n\
             ns.lab. 5 A 192.0.2.2\n",
        );
        for (name, records) in &self.0 {
            for Record { ttl, data } in records {
                let _ = match data {
                    Data::Address(IpAddr::V4(address)) => {
                        writeln!(text, "{name}. {ttl} A {address}")
                    }
                    Data::Address(IpAddr::V6(address)) => {
                        writeln!(text, "{name}. {ttl} AAAA {address}")
                    }
                    Data::Alias(target) => {
                        writeln!(text, "{name}. {ttl} CNAME {}.", target.trim_end_matches('.'))
                    }
                };
            }
        }
        text
    }
}

// === impl DnsServer ===

impl DnsServer {
    /// Starts a server at port 53 of an address and waits until it answers.
    ///
    /// # Errors
    ///
    /// If `unbound` isn't there or doesn't answer in time.
    pub fn start(namespace: &Namespace, address: IpAddr, zone: &Zone) -> Result<Self> {
        let directory = Workdir::new("dns")?;
        let mut server = Self { address, directory, service: Service::Plain, process: None };
        server.restart(namespace, zone)?;
        Ok(server)
    }

    /// As [`DnsServer::start`], and at port 853 over TLS, with a key and a certificate (PEM).
    ///
    /// # Errors
    ///
    /// As [`DnsServer::start`], and what unbound doesn't like about these.
    pub fn start_with_tls(
        namespace: &Namespace,
        address: IpAddr,
        zone: &Zone,
        (key, certificate): (&str, &str),
    ) -> Result<Self> {
        let directory = Workdir::new("dns")?;
        write(&directory.path().join("key.pem"), key)?;
        write(&directory.path().join("certificate.pem"), certificate)?;
        let service = Service::PlainAndTls;
        let mut server = Self { address, directory, service, process: None };
        server.restart(namespace, zone)?;
        Ok(server)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Ends it: questions get no answer, or "port unreachable".
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, with other names.
    ///
    /// # Errors
    ///
    /// As [`DnsServer::start`].
    pub fn restart(&mut self, namespace: &Namespace, zone: &Zone) -> Result<()> {
        self.stop();
        let directory = self.directory.path();
        let zone = zone.clone().address(READY, 0, Ipv4Addr::new(192, 0, 2, 2));
        write(&directory.join("root.zone"), &zone.file())?;
        let configuration = directory.join("unbound.conf");
        write(&configuration, &self.configuration())?;
        let log = directory.join("log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let mut process = Process::spawn(
            namespace
                .command("unbound")
                .args(["-d", "-p", "-c"])
                .arg(&configuration)
                .stderr(output),
        )
        .context("the DNS server (Debian package unbound)")?;
        wait_until("the DNS server answers", START, || {
            if let Some(status) = process.try_wait()? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!(
                    "the DNS server (Debian package unbound) ended with {status}: {}",
                    said.trim()
                );
            }
            Ok(probe::resolve(namespace, self.address, READY).is_ok_and(|found| !found.is_empty()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn configuration(&self) -> String {
        let directory = self.directory.path().display();
        let address = self.address;
        let tls = match self.service {
            Service::Plain => String::new(),
            Service::PlainAndTls => format!(
                "  interface: {address}@853
  tls-port: 853
  tls-service-key: \"{directory}/key.pem\"
  tls-service-pem: \"{directory}/certificate.pem\"
"
            ),
        };
        format!(
            "server:
  interface: {address}@53
{tls}  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  chroot: \"\"
  username: \"\"
  directory: \"{directory}\"
  pidfile: \"\"
  do-daemonize: no
  use-syslog: no
  module-config: \"iterator\"
  num-threads: 1
auth-zone:
  name: \".\"
  zonefile: \"{directory}/root.zone\"
  for-downstream: yes
  for-upstream: no
  fallback-enabled: no
remote-control:
  control-enable: no
"
        )
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_file_holds_each_record() {
        let zone = Zone::new()
            .address("B.example.", 7, Ipv4Addr::new(203, 0, 113, 1))
            .address("b.example", 7, "2001:db8::1".parse::<IpAddr>().unwrap())
            .alias("a.example", 9, "b.example.");
        let file = zone.file();
        let records: Vec<_> = file.lines().skip(4).collect();
        assert_eq!(
            records,
            [
                "a.example. 9 CNAME b.example.",
                "b.example. 7 A 203.0.113.1",
                "b.example. 7 AAAA 2001:db8::1"
            ]
        );
    }
}
