// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other people's DNS servers that ask the lab's own one: unbound, also over TLS, and dnsmasq.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    netns::Namespace,
    process::{Process, run, wait_until},
    query::Client,
    upstream::wire::{Labels, code, kind},
    workdir::Workdir,
};

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(5);

/// The name by which a server is asked whether it is there.
const READY: &str = "ready.lab.example";

/// A running server; it is ended when this is dropped.
#[derive(Debug)]
pub struct Peer {
    // Ended before its files go.
    process: Process,
    directory: Workdir,
}

/// Certificates of a lab: an authority, and a server's with its key, signed by it.
#[derive(Debug)]
pub struct Certificates {
    directory: Workdir,
}

/// What a server keeps of the answers that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Everything, by its TTL.
    Answers,
    /// Nothing.
    Nothing,
}

// === impl Peer ===

impl Peer {
    /// Starts unbound at an address over UDP and TCP, which asks `upstream`; with certificates,
    /// also over TLS at port 853.
    ///
    /// # Errors
    ///
    /// If `unbound` isn't there or doesn't answer in time.
    pub fn unbound(
        namespace: &Namespace,
        address: SocketAddr,
        upstream: SocketAddr,
        tls: Option<&Certificates>,
    ) -> Result<Self> {
        let directory = Workdir::new("unbound")?;
        let path = directory.path();
        let tls = tls.map_or_else(String::new, |certificates| {
            format!(
                "  interface: {}@853\n  tls-port: 853\n  tls-service-key: \"{}\"\n  \
                 tls-service-pem: \"{}\"\n",
                address.ip(),
                certificates.key().display(),
                certificates.certificate().display()
            )
        });
        let configuration = format!(
            "server:\n  interface: {}@{}\n{tls}  access-control: 0.0.0.0/0 allow\n  \
             access-control: ::/0 allow\n  chroot: \"\"\n  username: \"\"\n  directory: \"{}\"\n  \
             pidfile: \"\"\n  do-daemonize: no\n  use-syslog: no\n  module-config: \"iterator\"\n  \
             num-threads: 1\n  do-not-query-localhost: no\nforward-zone:\n  name: \".\"\n  \
             forward-addr: {}@{}\nremote-control:\n  control-enable: no\n",
            address.ip(),
            address.port(),
            path.display(),
            upstream.ip(),
            upstream.port()
        );
        let file = path.join("unbound.conf");
        write(&file, &configuration)?;
        let mut command = namespace.command("unbound");
        command.args(["-d", "-p", "-c"]).arg(&file);
        Self::start(namespace, address, command, directory)
    }

    /// Starts dnsmasq at an address over UDP and TCP, which asks `upstream`.
    ///
    /// # Errors
    ///
    /// If `dnsmasq` isn't there or doesn't answer in time.
    pub fn dnsmasq(
        namespace: &Namespace,
        address: SocketAddr,
        upstream: SocketAddr,
        keeps: Keeps,
    ) -> Result<Self> {
        let directory = Workdir::new("dnsmasq")?;
        let mut command = namespace.command("dnsmasq");
        let cache = match keeps {
            Keeps::Answers => 10_000,
            Keeps::Nothing => 0,
        };
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root"]);
        command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--no-poll"]);
        // Its defaults would refuse or forget more than the others do.
        command.args(["--dns-forward-max=10000", "--log-facility=-", "--pid-file="]);
        command.arg(format!("--cache-size={cache}"));
        command.arg(format!("--listen-address={}", address.ip()));
        command.arg(format!("--port={}", address.port()));
        command.arg(format!("--server={}#{}", upstream.ip(), upstream.port()));
        Self::start(namespace, address, command, directory)
    }

    fn start(
        namespace: &Namespace,
        address: SocketAddr,
        mut command: Command,
        directory: Workdir,
    ) -> Result<Self> {
        let log = directory.path().join("log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let program = command.get_args().nth(2).map(|name| name.to_string_lossy().into_owned());
        let program = program.unwrap_or_default();
        let process = Process::spawn(command.stdout(output.try_clone()?).stderr(output))?;
        let mut peer = Self { process, directory };
        let mut client = Client::new(namespace, address, Duration::from_millis(200))?;
        wait_until(&format!("{program} answers"), START, || {
            if let Some(status) = peer.process.try_wait()? {
                bail!("{program} ended with {status}: {}", peer.log().trim());
            }
            let reply = client.ask(&Labels::of(READY), kind::A)?;
            Ok(reply.code() == Some(code::NO_ERROR))
        })
        .with_context(|| format!("its log: {}", peer.log().trim()))?;
        Ok(peer)
    }

    /// Its PID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

// === impl Certificates ===

impl Certificates {
    /// Makes an authority, and by it a certificate of a server of this name.
    ///
    /// # Errors
    ///
    /// If `openssl` isn't there or fails.
    pub fn new(server: &str) -> Result<Self> {
        let certificates = Self { directory: Workdir::new("certificates")? };
        let file = |name: &str| certificates.file(name).display().to_string();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        run(Command::new("openssl")
            .args(["req", "-x509", "-days", "2", "-subj", "/CN=Lab authority", "-keyout"])
            .args([&file("ca.key"), "-out", &file("ca.pem")])
            .args(["-addext", "basicConstraints=critical,CA:TRUE"])
            .args(key))
        .context("the authority (Debian package openssl)")?;
        run(Command::new("openssl")
            .args(["req", "-subj", &format!("/CN={server}"), "-keyout", &file("server.key")])
            .args(["-out", &file("server.csr")])
            .args(key))?;
        write(
            &certificates.file("extensions"),
            &format!("subjectAltName=DNS:{server}\nbasicConstraints=CA:FALSE\n"),
        )?;
        run(Command::new("openssl")
            .args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &file("server.csr")])
            .args(["-CA", &file("ca.pem"), "-CAkey", &file("ca.key"), "-out"])
            .args([&file("server.pem"), "-extfile", &file("extensions")]))?;
        Ok(certificates)
    }

    /// The authority's certificate, which clients trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.file("ca.pem")
    }

    fn key(&self) -> PathBuf {
        self.file("server.key")
    }

    fn certificate(&self) -> PathBuf {
        self.file("server.pem")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}
