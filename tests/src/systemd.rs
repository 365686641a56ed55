// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real systemd as process 1 of its own namespaces, with Sluice installed as a package would.
//!
//! It runs the machine's own programs: `/usr` of the host is its `/usr`, read-only, with our files laid
//! over it. All else (`/etc`, `/var`, `/run`, `/dev`, the bpffs, cgroups) is its own, and gone with its
//! first process. Its network is a namespace of the lab. Of the host's units it starts only those that
//! are listed here.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::{
    cleanup::{self, Leftover, Ticket},
    gateway::{Answer, Configuration, answer, binary},
    netns::{Namespace, unique},
    process::{Process, wait_until},
    workdir::Workdir,
};

/// Where the first process of a Debian system is.
const SYSTEMD: &str = "/lib/systemd/systemd";

/// Where the host's hierarchy of cgroups is, version 2 alone or beside version 1.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// How long booting may take, without our own units.
const BOOT: Duration = Duration::from_secs(30);

/// How long a command in it may take, in seconds.
const COMMAND: &str = "60";

/// The units of the host that are started, by who wants them. All others stay out: they would set the
/// host's clock, write its sysctls, or trigger its devices.
const WANTED: &[(&str, &[&str])] = &[
    (
        "sysinit.target",
        &["systemd-journald.service", "systemd-sysusers.service", "systemd-tmpfiles-setup.service"],
    ),
    ("local-fs.target", &[]),
    ("multi-user.target", &[]),
    ("sockets.target", &[]),
    ("timers.target", &[]),
    ("graphical.target", &[]),
    ("rescue.target", &[]),
];

/// What is installed, by its place in the repository and in the system.
const INSTALLED: &[(&str, &str)] = &[
    ("dist/sluice.service", "usr/lib/systemd/system/sluice.service"),
    ("dist/sluice-lockdown.service", "usr/lib/systemd/system/sluice-lockdown.service"),
    ("dist/sluice.tmpfiles", "usr/lib/tmpfiles.d/sluice.conf"),
    ("dist/sluice.sysusers", "usr/lib/sysusers.d/sluice.conf"),
];

/// Makes the system's root and becomes its first process. `$W` is the working directory.
const BOOT_SCRIPT: &str = r#"
R=$W/root
mount -t tmpfs tmpfs $R -o mode=755
mkdir $R/usr $R/proc $R/sys $R/run $R/tmp $R/dev $R/etc $R/var $R/root $R/oldroot
for d in bin sbin lib lib32 lib64 libx32; do if [ -L /$d ]; then cp -a /$d $R/$d; fi; done
mount -t overlay overlay -o lowerdir=$W/usr:/usr $R/usr
for d in $W/wants/*; do
  t=$R/usr/lib/systemd/system/${d##*/}
  mount -t tmpfs tmpfs $t -o mode=755; cp -a $d/. $t/
done
cp -a $W/etc/. $R/etc/
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t bpf bpf $R/sys/fs/bpf -o mode=700
for d in run tmp dev; do mount -t tmpfs tmpfs $R/$d -o mode=755; done
for d in null zero full random urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
mkdir $R/dev/pts $R/dev/shm; mount -t devpts devpts $R/dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx $R/dev/ptmx; ln -s /proc/self/fd $R/dev/fd
mkdir -p $R/var/lib $R/var/log $R/var/tmp; ln -s /run $R/var/run
cd $R; pivot_root . oldroot; umount -l /oldroot; rmdir /oldroot
exec env -i container=sluice-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --log-target=journal systemd.unit=multi-user.target
"#;

/// Which of our units are started at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    /// `sluice.service` alone.
    Service,
    /// `sluice-lockdown.service`, too.
    LockdownToo,
}

/// How a system is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    configuration: Configuration,
    enabled: Enabled,
    /// Units of the test, by name, wanted by multi-user.target.
    units: Vec<(String, String)>,
    /// Drop-ins for `sluice.service`.
    settings: String,
}

/// A running system; it is ended when this is dropped.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    first: u32,
    // In the order in which they have to go.
    _cgroup: Ticket,
    cgroup: PathBuf,
    _directory: Workdir,
}

/// Why no systemd can be booted here, if so.
///
/// # Errors
///
/// The machine can't be looked at.
pub fn missing() -> Result<Option<String>> {
    if !Path::new(SYSTEMD).exists() {
        return Ok(Some(format!("{SYSTEMD} is not there (Debian package systemd)")));
    }
    let filesystems = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    let offered = |kind: &str| filesystems.lines().any(|line| line.ends_with(&format!("\t{kind}")));
    for kind in ["overlay", "cgroup2"] {
        if !offered(kind) {
            return Ok(Some(format!("the kernel has no {kind}")));
        }
    }
    Ok(match hierarchy()? {
        Some(_) => None,
        None => Some("no hierarchy of cgroups of version 2 is mounted".to_owned()),
    })
}

/// The mounted hierarchy of cgroups of version 2.
fn hierarchy() -> Result<Option<PathBuf>> {
    for path in CGROUPS.map(PathBuf::from) {
        if path.exists() && statfs(&path)?.filesystem_type() == CGROUP2_SUPER_MAGIC {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

// === impl Setup ===

impl Setup {
    /// A system with this configuration in `/etc/sluice`.
    #[must_use]
    pub fn new(configuration: &Configuration, enabled: Enabled) -> Self {
        Self {
            configuration: configuration.clone(),
            enabled,
            units: Vec::new(),
            settings: String::new(),
        }
    }

    /// Adds settings of `[Service]` for `sluice.service`.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        let _ = writeln!(self.settings, "{line}");
        self
    }

    /// Adds a unit that is started at boot.
    #[must_use]
    pub fn unit(mut self, name: &str, text: &str) -> Self {
        self.units.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Boots it in a network namespace, and waits until systemd answers.
    ///
    /// # Errors
    ///
    /// It doesn't boot.
    pub fn boot(&self, network: &Namespace) -> Result<Machine> {
        let directory = Workdir::new("systemd")?;
        self.install(directory.path())?;
        let hierarchy = hierarchy()?.context("no hierarchy of cgroups of version 2 is mounted")?;
        let (cgroup, ticket) = cleanup::track(|| {
            let path = hierarchy.join(format!("sluice-lab-{}", unique()));
            fs::create_dir(&path).with_context(|| path.display().to_string())?;
            Ok((path.clone(), Leftover::Cgroup(path)))
        })?;
        let script = format!(
            "set -e; echo $$ > {}/cgroup.procs; exec nsenter --net={} unshare --mount --pid --fork \
             --kill-child --cgroup --uts --ipc --propagation private sh -ec \"$BOOT_SCRIPT\"",
            cgroup.display(),
            network.path().display()
        );
        let log = fs::File::create(directory.path().join("console"))?;
        let process = Process::spawn(
            Command::new("sh")
                .args(["-c", &script])
                .env("BOOT_SCRIPT", BOOT_SCRIPT)
                .env("W", directory.path())
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        let mut machine =
            Machine { process, first: 0, _cgroup: ticket, cgroup, _directory: directory };
        machine.wait_for_boot()?;
        Ok(machine)
    }

    /// Lays out what goes over the host's `/usr`, `/etc`, and who wants which unit.
    fn install(&self, directory: &Path) -> Result<()> {
        let write = |path: PathBuf, text: &str| -> Result<()> {
            let parent = path.parent().context("a file without a folder")?;
            fs::create_dir_all(parent)?;
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (from, to) in INSTALLED {
            let text =
                fs::read_to_string(repository.join(from)).with_context(|| (*from).to_owned())?;
            write(directory.join(to), &text)?;
        }
        let program = directory.join("usr/sbin/sluice");
        fs::create_dir_all(directory.join("usr/sbin"))?;
        fs::copy(binary()?, &program).context("the binary can't be copied")?;

        let etc = directory.join("etc");
        self.configuration.write(&etc.join("sluice"))?;
        for file in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
            let from = Path::new("/etc").join(file);
            if from.exists() {
                fs::copy(&from, etc.join(file)).with_context(|| from.display().to_string())?;
            }
        }
        write(etc.join("machine-id"), "")?;
        for (name, text) in &self.units {
            write(etc.join("systemd/system").join(name), text)?;
        }
        if !self.settings.is_empty() {
            let text = format!("[Service]\n{}", self.settings);
            write(etc.join("systemd/system/sluice.service.d/test.conf"), &text)?;
        }

        for (target, units) in WANTED {
            let folder = directory.join("wants").join(format!("{target}.wants"));
            fs::create_dir_all(&folder)?;
            // Where the host's is missing, there has to be one to be covered.
            let place = format!("usr/lib/systemd/system/{target}.wants");
            fs::create_dir_all(directory.join(place))?;
            let mut wanted: Vec<&str> = units.to_vec();
            match (*target, self.enabled) {
                ("multi-user.target", _) => {
                    wanted.push("sluice.service");
                    wanted.extend(self.units.iter().map(|(name, _)| name.as_str()));
                }
                ("sysinit.target", Enabled::LockdownToo) => wanted.push("sluice-lockdown.service"),
                _ => {}
            }
            for unit in wanted {
                symlink(Path::new("..").join(unit), folder.join(unit))?;
            }
        }
        fs::create_dir(directory.join("root"))?;
        Ok(())
    }
}

// === impl Machine ===

impl Machine {
    fn wait_for_boot(&mut self) -> Result<()> {
        let parent = self.process.id();
        let mut first = None;
        let booted = wait_until("systemd answers", BOOT, || {
            if let Some(status) = self.process.try_wait()? {
                bail!("systemd ended with {status}");
            }
            if first.is_none() {
                first = child_named(parent, "systemd")?;
            }
            let Some(first) = first else { return Ok(false) };
            self.first = first;
            let answer = self.run("systemctl", &["is-system-running"])?;
            Ok(["starting", "running", "degraded"].contains(&answer.stdout.trim()))
        });
        booted.with_context(|| self.console())
    }

    /// A command in it.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=1", COMMAND, "nsenter", "-t", &self.first.to_string()])
            .args(["-m", "-p", "-n", "-C", "-i", "-u", "-r", "-w", program])
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("SYSTEMD_PAGER", "");
        command
    }

    /// Runs a command in it, whatever its exit status.
    ///
    /// # Errors
    ///
    /// If it can't be started.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Answer> {
        answer(&mut self.command(program, arguments))
    }

    /// A property of a unit.
    ///
    /// # Errors
    ///
    /// If systemd doesn't answer.
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        let answer = self.run("systemctl", &["show", "-P", property, unit])?;
        Ok(answer.success()?.trim().to_owned())
    }

    /// Waits until a property of a unit is this.
    ///
    /// # Errors
    ///
    /// If it isn't in time; the error holds the journal.
    pub fn wait_for(&self, unit: &str, property: &str, value: &str, limit: Duration) -> Result<()> {
        wait_until(&format!("{unit}: {property} is {value}"), limit, || {
            Ok(self.property(unit, property)? == value)
        })
        .with_context(|| format!("the journal:\n{}", self.journal()))
    }

    /// All of the journal, as text.
    #[must_use]
    pub fn journal(&self) -> String {
        self.run("journalctl", &["--no-pager", "-o", "short-monotonic"])
            .map_or_else(|error| format!("{error:#}"), |answer| answer.stdout)
    }

    /// A path in it, as this process sees it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/{}", self.first, path.trim_start_matches('/')))
    }

    /// Where its cgroups are.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn console(&self) -> String {
        let path = self._directory.path().join("console");
        format!("on the console: {}", fs::read_to_string(path).unwrap_or_default().trim())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process all others end, and all mounts and pins go.
        self.process.kill();
        // A destructor has nobody to report to; the tests look for what is left.
        let _ = Leftover::Cgroup(self.cgroup.clone()).remove();
    }
}

/// The child of a process that has become a program of this name.
fn child_named(parent: u32, name: &str) -> Result<Option<u32>> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // A process may end while it is looked at.
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        // PID (NAME) STATE PARENT ...
        let Some((start, rest)) = stat.rsplit_once(") ") else { continue };
        let Some((pid, found)) = start.split_once(" (") else { continue };
        let is_child = rest.split(' ').nth(1).and_then(|word| word.parse().ok()) == Some(parent);
        if is_child && found == name {
            return Ok(pid.parse().ok());
        }
    }
    Ok(None)
}
