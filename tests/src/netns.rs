// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network namespaces with a guard.
//!
//! Commands enter a namespace by `nsenter --net`, not by `ip netns exec`: the latter makes a
//! private mount namespace, and pins in a bpffs mounted there would vanish with the command.

use std::{
    fs::{self, File},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    os::unix::fs::MetadataExt as _,
    panic,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::{
    cleanup::{self, Leftover, Ticket},
    process::run,
};

/// Two processes that add a namespace at the same time may both want to set up `/run/netns`, and
/// one of them is then told so; it tries again.
const ATTEMPTS: u32 = 5;

/// A named network namespace; one that was made here is removed when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    /// Nothing for somebody else's.
    ticket: Option<Ticket>,
}

/// A word that no other run has: the process's number and a random one.
#[must_use]
pub fn unique() -> String {
    // The standard library's hash keys are seeded by the system's random numbers.
    let random = RandomState::new().build_hasher().finish() & 0xffff_ffff;
    format!("{}-{random:08x}", process::id())
}

// === impl Namespace ===

impl Namespace {
    /// Makes a namespace `sluice-<unique>-<role>` with its loopback up.
    ///
    /// # Errors
    ///
    /// If that isn't possible: without privileges, above all.
    pub fn new(unique: &str, role: &str) -> Result<Self> {
        let name = format!("sluice-{unique}-{role}");
        let (file, ticket) = cleanup::track(|| {
            let mut attempt = 1;
            while let Err(error) = run(Command::new("ip").args(["netns", "add", &name])) {
                Leftover::Namespace(name.clone()).remove()?;
                if attempt == ATTEMPTS {
                    return Err(error);
                }
                attempt += 1;
                thread::sleep(Duration::from_millis(20));
            }
            let leftover = Leftover::Namespace(name.clone());
            match File::open(path(&name)) {
                Ok(file) => Ok((file, leftover)),
                Err(error) => {
                    leftover.remove()?;
                    Err(error).with_context(|| format!("the namespace {name} can't be opened"))
                }
            }
        })?;
        let namespace = Self { name, file, ticket: Some(ticket) };
        run(namespace.command("ip").args(["link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// One that somebody else made, by its name; it stays.
    ///
    /// # Errors
    ///
    /// If it isn't there, or is the one that this process is in.
    pub fn open(name: &str) -> Result<Self> {
        let file = File::open(path(name))
            .with_context(|| format!("there is no namespace {name} (see `ip netns list`)"))?;
        let own = fs::metadata("/proc/self/ns/net").context("the namespace of this process")?;
        let opened = file.metadata()?;
        ensure!(
            (own.dev(), own.ino()) != (opened.dev(), opened.ino()),
            "{name} is the namespace that this process is in"
        );
        Ok(Self { name: name.to_owned(), file, ticket: None })
    }

    /// Its name, as `ip netns list` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// A command that will run inside, in the mount namespace of this process. It *becomes* the
    /// program, so that signals to its PID reach the program itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program.as_ref());
        command
    }

    /// Runs a closure inside, on a thread of its own. Sockets that it makes stay inside for good,
    /// whichever thread uses them later. A panic in it is passed on.
    ///
    /// # Errors
    ///
    /// If the namespace can't be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let joined = thread::scope(|scope| {
            scope.spawn(|| setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| work())).join()
        });
        match joined {
            Ok(done) => {
                done.with_context(|| format!("the namespace {} can't be entered", self.name))
            }
            Err(panic) => panic::resume_unwind(panic),
        }
    }

    /// Writes sysctls, named by their path below `/proc/sys`.
    ///
    /// # Errors
    ///
    /// If one is not there or refuses the value.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("the sysctl {key} can't be set to `{value}`"))
            })
        })?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        // A destructor has nobody to report to; the tests look for what is left.
        let _ = Leftover::Namespace(self.name.clone()).remove();
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}
