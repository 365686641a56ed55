// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stage `kernels`: boots other kernels in an emulated machine, and there runs the case table
//! and attaches every program (`tests/src/guest.rs`).

mod console;
mod initrd;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use self::console::Console;
use super::{Report, skips::KnownSkips};
use crate::{
    paths, process,
    setup::{self, Guests, Kernel},
};

/// The name under which it may be skipped.
const SKIP: &str = "kernels";

/// The guest's program is linked statically, as there are no libraries in a guest. A named target
/// keeps that flag from build scripts, and its files out of the way of those of other builds.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Optimising takes longer than it saves of the emulation. Debugging information would only be
/// carried into the guest; that of build scripts stays as it is, or they would be built again.
const PROFILE: [&str; 2] = ["--config", "profile.dev.debug=false"];

/// How long a guest may run, in seconds: several times of what it takes on two slow cores.
const LIMIT: &str = "600";

/// `timeout` ends with this status when the limit is reached.
const LIMIT_REACHED: i32 = 124;

/// A guest's memory in MiB. It uses 170 of them.
const MEMORY: &str = "768";

/// `quiet`, so that the console has our lines; a kernel that panics ends the machine.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off";

/// What came of one guest.
struct Guest {
    console: Console,
    faults: Vec<String>,
    time: Duration,
}

/// Boots each kernel, and judges what the guests print: one test for each.
pub(super) fn run(known: &KnownSkips) -> Result<Report> {
    let mut report = Report::default();
    let kernels = match setup::guests()? {
        Guests::Ready(kernels) => kernels,
        Guests::Impossible(reason) if known.contains(SKIP) => {
            println!("skipped: {SKIP}: {reason}");
            report.tally.skipped += 1;
            report.skips.push(format!("{SKIP}: {reason}"));
            return Ok(report);
        }
        Guests::Impossible(what) | Guests::Missing(what) => {
            report.fault(format!("no guest can be booted: {what}"));
            return Ok(report);
        }
    };
    let cases = paths::root()?.join("tests/cases");
    let expected = console::cases_in(&cases)?;
    let Some(program) = build()? else {
        report.fault("the guest's program can't be built".to_owned());
        return Ok(report);
    };
    // Each is emulated by a single thread, so two take little longer than one on two cores.
    let guests = thread::scope(|scope| {
        let boots: Vec<_> =
            kernels.iter().map(|kernel| scope.spawn(|| boot(kernel, &program, &cases))).collect();
        boots
            .into_iter()
            .map(|boot| boot.join().map_err(|_panic| anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<Guest>>>()
    })?;
    for (kernel, guest) in kernels.iter().zip(guests) {
        let Guest { console, mut faults, time } = guest;
        faults.extend(console.faults(kernel.series, expected));
        if let Some(remark) = &kernel.remark {
            println!("Linux {}: {remark}", kernel.series);
        }
        println!(
            "Linux {} ({}): {}, {:.1} s",
            kernel.series,
            kernel.package,
            console.summary(),
            time.as_secs_f64()
        );
        report.ran += 1;
        if faults.is_empty() {
            report.tally.passed += 1;
        } else {
            println!("--- the console of Linux {}\n{}\n---", kernel.series, console.text());
            report.fault(format!("Linux {}: {}", kernel.series, faults.join("; ")));
        }
        println!("{}", console.table(kernel.series));
    }
    Ok(report)
}

/// Builds the guest's program, without touching what is built for this machine; `None` if cargo
/// says why it can't.
fn build() -> Result<Option<PathBuf>> {
    let mut command = process::cargo()?;
    command
        .args(["build", "--locked", "--package", "sluice-lab", "--bin", "sluice-guest"])
        .args(["--target", TARGET])
        .args(PROFILE)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    if !process::run(&mut command)?.success() {
        return Ok(None);
    }
    Ok(Some(paths::target()?.join(TARGET).join("debug/sluice-guest")))
}

fn boot(kernel: &Kernel, program: &Path, cases: &Path) -> Result<Guest> {
    let start = Instant::now();
    let image = kernel_image(&kernel.tree)?;
    // A build product like others; renamed into place, as another run may be booting the last one.
    let file = program.with_file_name(format!("guest-{}.initrd", kernel.series));
    let fresh = file.with_extension(format!("initrd-{}", std::process::id()));
    fs::write(&fresh, initrd::build(&kernel.tree, program, cases)?)
        .and_then(|()| fs::rename(&fresh, &file))
        .with_context(|| format!("{} can't be written", file.display()))?;
    let mut console = Console::default();
    let status = process::run_silent(&mut machine(&image, &file)?, |_, line| console.line(line))?;
    let mut faults = Vec::new();
    // That a guest ended well is what its last line says: QEMU's status doesn't know.
    if status.code() == Some(LIMIT_REACHED) {
        faults.push(format!("it was ended after {LIMIT} seconds"));
    } else if !status.success() {
        faults.push(format!("QEMU ended with {status}"));
    }
    Ok(Guest { console, faults, time: start.elapsed() })
}

/// QEMU with one emulated core, a serial console, and nothing else: no network, no disk.
fn machine(image: &Path, initrd: &Path) -> Result<Command> {
    let qemu = paths::program("qemu-system-x86_64").context("qemu-system-x86_64 is gone")?;
    // In the foreground it stays in our process group, and QEMU with it.
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", "--kill-after=5", LIMIT])
        .arg(qemu)
        .args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"])
        .args(["-no-reboot", "-net", "none", "-append", COMMAND_LINE])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initrd);
    Ok(command)
}

fn kernel_image(tree: &Path) -> Result<PathBuf> {
    let boot = tree.join("boot");
    let entries = boot.read_dir().with_context(|| format!("{} can't be read", boot.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("{} has no kernel", boot.display())
}
