// SPDX-License-Identifier: MIT OR Apache-2.0
//! `sluice` itself, run in the gateway's namespace.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    netns::Namespace,
    process::{Process, output, wait_until},
    topology::Topology,
    workdir::{PinDir, Workdir},
};

/// How long the daemon may take until its tables are in force and its names looked up.
pub const START: Duration = Duration::from_secs(60);

/// How long the daemon may take to end.
const STOP: Duration = Duration::from_secs(5);

/// How long any other command may take, in seconds.
const COMMAND: &str = "20";

/// The variable that names the binary to test.
const BINARY: &str = "SLUICE_BIN";

/// The files of a configuration directory, by their path in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration(BTreeMap<String, String>);

/// A gateway: its directories, and the daemon while it runs. When this is dropped, the daemon is
/// ended and its program taken off.
#[derive(Debug)]
pub struct Gateway<'lab> {
    namespace: &'lab Namespace,
    binary: PathBuf,
    directory: Workdir,
    pins: PinDir,
    daemon: Option<Process>,
}

/// What a command printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status; nothing if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Finds the binary `sluice`: `SLUICE_BIN`, or the one that was built next to this program.
///
/// # Errors
///
/// If there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY) {
        return Ok(path.into());
    }
    let own = env::current_exe().context("the path of this program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("sluice"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `sluice` next to {}: build it (`cargo build -p filter-user`) or name it in {BINARY}",
                own.display()
            )
        })
}

// === impl Configuration ===

impl Configuration {
    /// A configuration whose `gateway.toml` is this text.
    #[must_use]
    pub fn new(gateway: impl Into<String>) -> Self {
        Self(BTreeMap::from([("gateway.toml".to_owned(), gateway.into())]))
    }

    /// Adds `policy.d/NAME.toml`.
    #[must_use]
    pub fn policy(mut self, name: &str, text: impl Into<String>) -> Self {
        self.0.insert(format!("policy.d/{name}.toml"), text.into());
        self
    }

    /// Writes it in the place of what is in a directory.
    ///
    /// # Errors
    ///
    /// If the files can't be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        fs::create_dir_all(directory.join("policy.d"))?;
        for (name, text) in &self.0 {
            fs::write(directory.join(name), text).with_context(|| name.clone())?;
        }
        Ok(())
    }

    /// How many bytes its files have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.values().map(String::len).sum()
    }
}

// === impl Gateway ===

impl<'lab> Gateway<'lab> {
    /// Prepares a gateway; the daemon isn't started yet.
    ///
    /// # Errors
    ///
    /// If there is no binary or no bpffs.
    pub fn new(topology: &'lab Topology, configuration: &Configuration) -> Result<Self> {
        let gateway = Self {
            namespace: &topology.gateway,
            binary: binary()?,
            directory: Workdir::new("gateway")?,
            pins: PinDir::new(&crate::netns::unique())?,
            daemon: None,
        };
        fs::create_dir(gateway.state())?;
        gateway.configure(configuration)?;
        Ok(gateway)
    }

    /// Writes another configuration; the daemon isn't told.
    ///
    /// # Errors
    ///
    /// If the files can't be written.
    pub fn configure(&self, configuration: &Configuration) -> Result<()> {
        let directory = self.configuration();
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        configuration.write(&directory)
    }

    /// The configuration directory.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The directory of its pins.
    #[must_use]
    pub fn pins(&self) -> &PinDir {
        &self.pins
    }

    /// What the daemon has logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A command that runs this gateway's daemon, without log.
    #[must_use]
    pub fn daemon_command(&self) -> Command {
        let mut command = self.namespace.command(&self.binary);
        command.args(self.daemon_arguments());
        command
    }

    /// The arguments by which this gateway's daemon is run.
    #[must_use]
    pub fn daemon_arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        vec![
            "run".to_owned(),
            "--config".to_owned(),
            text(&self.configuration()),
            "--pin-dir".to_owned(),
            text(self.pins.path()),
            "--socket".to_owned(),
            text(&self.socket()),
            "--state-dir".to_owned(),
            text(&self.state()),
        ]
    }

    /// The binary that is run.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Another binary is run from now on.
    pub fn use_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// A command that asks the daemon, with `--json`, not started yet.
    #[must_use]
    pub fn asking(&self, arguments: &[&str]) -> Command {
        let mut command = self.sluice();
        command.args(arguments).arg("--socket").arg(self.socket()).arg("--json");
        command
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it ends instead, or isn't ready in time; the error holds its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts the daemon and waits for nothing.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn launch(&mut self) -> Result<()> {
        let command = self.daemon_command();
        self.launch_command(command)
    }

    /// As [`Gateway::launch`], in a mount namespace of its own, in which a shell prepares something
    /// first.
    ///
    /// # Errors
    ///
    /// As [`Gateway::launch`].
    pub fn launch_after(&mut self, prelude: &str) -> Result<()> {
        let mut command = self.namespace.command("unshare");
        command
            .args(["--mount", "sh", "-ec"])
            .arg(format!("{prelude}\nexec \"$0\" \"$@\""))
            .arg(&self.binary)
            .args(self.daemon_arguments());
        self.launch_command(command)
    }

    fn launch_command(&mut self, mut command: Command) -> Result<()> {
        let log = self.log_file();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        let command = command.stdout(file.try_clone()?).stderr(file);
        self.daemon = Some(Process::spawn(command)?);
        Ok(())
    }

    /// Whether the daemon still runs.
    ///
    /// # Errors
    ///
    /// If it ended; the error holds its log.
    pub fn check_runs(&mut self) -> Result<()> {
        if let Some(daemon) = &mut self.daemon
            && let Some(status) = daemon.try_wait()?
        {
            bail!("`sluice run` ended with {status}; its log:\n{}", self.log().trim_end());
        }
        Ok(())
    }

    /// Waits until the daemon says that its tables are in force.
    ///
    /// # Errors
    ///
    /// As [`Gateway::start`].
    pub fn wait_until_ready(&mut self) -> Result<()> {
        wait_until("`sluice run` is ready", START, || {
            if let Some(daemon) = &mut self.daemon
                && let Some(status) = daemon.try_wait()?
            {
                bail!("`sluice run` ended with {status}");
            }
            let answer = self.command(&["status"])?;
            Ok(answer.json().is_ok_and(|status| status.get("ready") == Some(&Value::Bool(true))))
        })
        .with_context(|| format!("the daemon's log:\n{}", self.log().trim_end()))
    }

    /// Runs a command that asks the daemon, with `--json`, whatever its exit status.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn command(&self, arguments: &[&str]) -> Result<Answer> {
        self.command_with(arguments, &[])
    }

    /// As [`Gateway::command`], with variables of the environment.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn command_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Answer> {
        let mut command = self.sluice();
        command.envs(variables.iter().copied());
        command.args(arguments).arg("--socket").arg(self.socket()).arg("--json");
        answer(&mut command)
    }

    /// Runs a command that asks the daemon, and returns what it prints for people.
    ///
    /// # Errors
    ///
    /// If it can't be started, or fails.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.sluice();
        command.args(arguments).arg("--socket").arg(self.socket());
        answer(&mut command)?.success()
    }

    /// The daemon's PID, if it was started.
    #[must_use]
    pub fn daemon_id(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::id)
    }

    /// Waits for the daemon's end, and gives its exit status; nothing if a signal ended it.
    ///
    /// # Errors
    ///
    /// If it doesn't end in time.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<Option<i32>> {
        let mut daemon = self.daemon.take().context("no daemon was started")?;
        Ok(daemon.wait(limit)?.code())
    }

    /// Kills the daemon (SIGKILL) and waits for its end. Enforcement goes on.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Ends the daemon (SIGTERM). Enforcement goes on.
    ///
    /// # Errors
    ///
    /// If it doesn't end in time, or fails.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.stop(STOP)?;
            if !status.success() {
                bail!("`sluice run` ended with {status}; its log:\n{}", self.log().trim_end());
            }
        }
        Ok(())
    }

    /// Takes the program off (`sluice detach`).
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn detach(&self) -> Result<()> {
        let mut command = self.sluice();
        command.arg("detach").arg("--pin-dir").arg(self.pins.path());
        answer(&mut command)?.success().map(drop)
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The binary in the gateway's namespace, with a bound on its time.
    fn sluice(&self) -> Command {
        let mut command = self.namespace.command("timeout");
        command.args(["--kill-after=1", COMMAND]).arg(&self.binary);
        command
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        // What remains after these goes with the guards of the daemon and of the pins.
        let _ = self.stop();
        if !self.pins.pins().is_empty() {
            let _ = self.detach();
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The standard output as JSON.
    ///
    /// # Errors
    ///
    /// If it is none; the error holds what was printed.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| {
            format!(
                "no JSON but `{}`; standard error: `{}`",
                self.stdout.trim(),
                self.stderr.trim()
            )
        })
    }

    /// The standard output of a command that succeeded.
    ///
    /// # Errors
    ///
    /// If it failed; the error holds what it wrote.
    pub fn success(self) -> Result<String> {
        if self.code != Some(0) {
            bail!("exit status {:?}: {}{}", self.code, self.stdout, self.stderr.trim_end());
        }
        Ok(self.stdout)
    }
}

/// Runs a command and keeps what it says.
///
/// # Errors
///
/// If it can't be started.
pub fn answer(command: &mut Command) -> Result<Answer> {
    let done = output(command)?;
    Ok(Answer {
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    })
}
