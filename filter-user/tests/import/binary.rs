// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs `sluice import` and `sluice check`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde::Deserialize;
use tempfile::TempDir;

/// A directory with a gateway, for the inputs and the outputs of one case.
pub(crate) struct Workshop {
    directory: TempDir,
    inputs: Vec<PathBuf>,
}

/// How a run ended.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) time: Duration,
}

/// What `sluice import --json` prints, as far as the tests look at it.
#[derive(Debug, Deserialize)]
pub(crate) struct Json {
    pub(crate) endpoint_sets: Vec<Set>,
    pub(crate) left_out: Vec<LeftOut>,
    #[serde(default)]
    pub(crate) warnings: Vec<Warning>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Set {
    pub(crate) id: Option<u32>,
    pub(crate) section: String,
    pub(crate) description: String,
    pub(crate) category: Option<String>,
    pub(crate) required: Option<bool>,
    pub(crate) express_route: Option<bool>,
    pub(crate) group: Option<String>,
    pub(crate) names: Vec<String>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) tcp: Vec<String>,
    pub(crate) udp: Vec<String>,
    pub(crate) ports_from: String,
    pub(crate) enabled: bool,
    pub(crate) lines: Vec<u32>,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) line: u32,
    pub(crate) token: String,
    pub(crate) why: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Warning {
    pub(crate) line: u32,
    pub(crate) text: String,
}

/// What may be reached: a name or prefix and a protocol, with all ports of it.
pub(crate) type Grants = BTreeMap<(String, &'static str), BTreeSet<u16>>;

/// A policy file, as far as the tests look at it.
#[derive(Debug, Deserialize)]
struct PolicyFile {
    #[serde(default)]
    rule: Vec<PolicyRule>,
}

#[derive(Debug, Deserialize)]
struct PolicyRule {
    to: Vec<String>,
    #[serde(default)]
    tcp: Vec<toml::Value>,
    #[serde(default)]
    udp: Vec<toml::Value>,
    enabled: Option<bool>,
}

const GATEWAY: &str = "[gateway]\ninside = [\"eth1\"]\noutside = []\n";

// === impl Workshop ===

impl Workshop {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("gateway.toml"), GATEWAY).unwrap();
        fs::create_dir(directory.path().join("policy.d")).unwrap();
        Self { directory, inputs: Vec::new() }
    }

    pub(crate) fn of(page: &[u8]) -> Self {
        let mut workshop = Self::new();
        workshop.add("page", page);
        workshop
    }

    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        self.inputs.push(path);
    }

    /// The inputs as endpoint sets.
    pub(crate) fn json(&self, args: &[String]) -> Result<Json, Run> {
        let run = self.import(args, &["--json"]);
        match serde_json::from_str(&run.stdout) {
            Ok(json) if run.code == Some(0) => Ok(json),
            _ => Err(run),
        }
    }

    pub(crate) fn import(&self, args: &[String], more: &[&str]) -> Run {
        let mut command = sluice();
        command.current_dir(self.directory.path());
        command.arg("import").args(&self.inputs).args(args).args(more);
        run(&mut command)
    }

    /// Like [`Self::import`], but ends a run that takes longer than this.
    pub(crate) fn import_within(&self, more: &[&str], limit: Duration) -> Run {
        let mut command = sluice();
        command.arg("import").args(&self.inputs).args(more);
        // To files: a pipe that nobody reads would stop the run.
        let stderr = self.directory.path().join("stderr");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(&stderr).unwrap());
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            if start.elapsed() > limit {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            thread::sleep(Duration::from_millis(2));
        };
        let time = start.elapsed();
        let stderr = String::from_utf8_lossy(&fs::read(stderr).unwrap()).into_owned();
        Run { code, stdout: String::new(), stderr, time }
    }

    /// The inputs as a policy file in `policy.d`.
    pub(crate) fn policy(&self, args: &[String]) -> Result<String, Run> {
        let path = self.policy_path();
        let run = self.import(args, &["-o", "policy.d/imported.toml"]);
        match run.code {
            Some(0) => Ok(fs::read_to_string(path).unwrap()),
            _ => Err(run),
        }
    }

    pub(crate) fn policy_path(&self) -> PathBuf {
        self.directory.path().join("policy.d/imported.toml")
    }

    /// Whether there is anything in `policy.d` but what the caller put there.
    pub(crate) fn policy_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("policy.d")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn check(&self) -> Run {
        run(sluice().arg("check").arg("--config").arg(self.directory.path()))
    }
}

fn sluice() -> Command {
    Command::new(Path::new(env!("CARGO_BIN_EXE_sluice")))
}

fn run(command: &mut Command) -> Run {
    let start = Instant::now();
    let output = command.output().unwrap();
    let time = start.elapsed();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        time,
    }
}

// === impl Json ===

impl Json {
    /// What the enabled sets grant.
    pub(crate) fn grants(&self) -> Grants {
        let mut grants = Grants::new();
        for set in self.endpoint_sets.iter().filter(|set| set.enabled) {
            let endpoints: Vec<String> =
                set.names.iter().chain(&set.prefixes).map(|text| canonical(text)).collect();
            grant(&mut grants, &endpoints, "tcp", &set.tcp);
            grant(&mut grants, &endpoints, "udp", &set.udp);
        }
        grants
    }
}

/// What the enabled rules of a policy file grant, and the endpoints of the disabled ones.
pub(crate) fn policy_grants(text: &str) -> (Grants, BTreeSet<String>) {
    let file: PolicyFile = toml::from_str(text).unwrap();
    let mut grants = Grants::new();
    let mut disabled = BTreeSet::new();
    for rule in &file.rule {
        let endpoints: Vec<String> = rule.to.iter().map(|text| canonical(text)).collect();
        if rule.enabled == Some(false) {
            disabled.extend(endpoints);
            continue;
        }
        for (protocol, ports) in [("tcp", &rule.tcp), ("udp", &rule.udp)] {
            let ports: Vec<String> =
                ports.iter().map(|port| port.to_string().trim_matches('"').to_owned()).collect();
            grant(&mut grants, &endpoints, protocol, &ports);
        }
    }
    (grants, disabled)
}

fn grant(grants: &mut Grants, endpoints: &[String], protocol: &'static str, ports: &[String]) {
    for port in ports {
        let (first, last) = port.split_once('-').unwrap_or((port, port));
        let ports = first.parse::<u16>().unwrap()..=last.parse::<u16>().unwrap();
        for endpoint in endpoints {
            grants.entry((endpoint.clone(), protocol)).or_default().extend(ports.clone());
        }
    }
}

/// A name as it is, a prefix or an address as a prefix.
fn canonical(text: &str) -> String {
    match (text.parse::<IpNet>(), text.parse::<std::net::IpAddr>()) {
        (Ok(net), _) => net.to_string(),
        (_, Ok(address)) => IpNet::from(address).to_string(),
        _ => text.to_owned(),
    }
}
