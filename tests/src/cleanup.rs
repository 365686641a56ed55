// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has to be removed whatever happens: the list behind all guards of the lab.
//!
//! Guards remove what is theirs when they are dropped, which also happens while a panic unwinds.
//! Ctrl-C and a termination signal unwind nothing, and neither does a panic in a program built
//! with `panic = "abort"`. For these, everything is on one list, and a thread of its own (or the
//! panic hook) works it off before the process ends.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Command, Stdio, exit},
    sync::{Mutex, MutexGuard, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

/// The exit status after Ctrl-C or a termination signal: what shells report for SIGINT.
const INTERRUPTED: i32 = 130;

/// How long the end of a killed process is waited for.
const DEATH: Duration = Duration::from_secs(2);

/// Something that outlives the process if nobody removes it.
///
/// The order of the variants is the order of removal: a process may hold a pin or a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A child process, the leader of its own process group.
    Process(Pid),
    /// A directory of pins in a bpffs.
    Pins(PathBuf),
    /// A cgroup, with those below it; whoever is in it has to end first.
    Cgroup(PathBuf),
    /// A named network namespace.
    Namespace(String),
    /// A directory of files.
    Directory(PathBuf),
}

/// The place of a [`Leftover`] on the list; it is struck off when this is dropped.
#[derive(Debug)]
pub struct Ticket(u64);

/// Makes something and puts it on the list, in one step: an interruption comes either before or
/// after both, never in between.
///
/// # Errors
///
/// Those of `make`; then nothing is listed.
pub fn track<T>(make: impl FnOnce() -> Result<(T, Leftover)>) -> Result<(T, Ticket)> {
    install();
    let mut list = lock();
    let (made, leftover) = make()?;
    let number = list.next;
    list.next += 1;
    list.leftovers.insert(number, leftover);
    Ok((made, Ticket(number)))
}

/// Removes everything on the list, as after Ctrl-C, and keeps anything new from being made: the
/// caller ends the process.
fn abandon() -> MutexGuard<'static, List> {
    let list = lock();
    let mut leftovers: Vec<_> = list.leftovers.values().collect();
    leftovers.sort();
    for leftover in leftovers {
        // There is nobody left to report to, and the rest still has to go.
        let _ = leftover.remove();
    }
    list
}

/// The list.
struct List {
    next: u64,
    leftovers: BTreeMap<u64, Leftover>,
}

static LIST: Mutex<List> = Mutex::new(List { next: 0, leftovers: BTreeMap::new() });

fn lock() -> MutexGuard<'static, List> {
    // A panic while the list was held leaves it whole: it only ever gains or loses an entry.
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that waits for signals, once.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        thread::spawn(wait_for_signals);
        // Without unwinding no guard is dropped, so the list has to be worked off by the hook.
        #[cfg(panic = "abort")]
        {
            let earlier = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                earlier(panic);
                drop(abandon());
            }));
        }
    });
}

fn wait_for_signals() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else {
        return;
    };
    runtime.block_on(async {
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
            signal(SignalKind::hangup()),
        ) else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        let _closed = abandon();
        exit(INTERRUPTED);
    });
}

// === impl Leftover ===

impl Leftover {
    /// Removes it. It is no error if it is gone already.
    ///
    /// # Errors
    ///
    /// If it is there and can't be removed.
    pub fn remove(&self) -> Result<()> {
        match self {
            Self::Process(leader) => kill_group(*leader),
            Self::Pins(directory) | Self::Directory(directory) => remove_directory(directory),
            Self::Cgroup(directory) => remove_cgroup(directory),
            Self::Namespace(name) => remove_namespace(name),
        }
    }
}

fn kill_group(leader: Pid) -> Result<()> {
    // ESRCH: it has ended and was waited for already.
    if killpg(leader, Signal::SIGKILL).is_err() {
        return Ok(());
    }
    let deadline = Instant::now() + DEATH;
    while Instant::now() < deadline {
        match waitpid(leader, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_millis(2)),
            // Ended, or waited for by another thread.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    anyhow::bail!("process {leader} is still there {} s after SIGKILL", DEATH.as_secs())
}

fn remove_directory(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} can't be removed", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Its files go with the directory, and can't be removed. Processes that were killed leave it a moment
/// after.
fn remove_cgroup(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + DEATH;
    loop {
        match remove_cgroups_below(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error)
                    .with_context(|| format!("{} can't be removed", directory.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
            Ok(()) => return Ok(()),
        }
    }
}

fn remove_cgroups_below(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups_below(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

fn remove_namespace(name: &str) -> Result<()> {
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    let status = Command::new("ip")
        .args(["netns", "del", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("`ip` can't be started (Debian package iproute2)")?;
    anyhow::ensure!(
        status.success() || !Path::new("/run/netns").join(name).exists(),
        "the namespace {name} can't be removed: `ip netns del` ended with {status}"
    );
    Ok(())
}

// === impl Ticket ===

impl Drop for Ticket {
    fn drop(&mut self) {
        lock().leftovers.remove(&self.0);
    }
}
