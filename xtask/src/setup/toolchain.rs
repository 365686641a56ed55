// SPDX-License-Identifier: MIT OR Apache-2.0
//! The compiler with `core`'s source, its LLVM, bpf-linker, and rustup's components.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::{Item, Need, Outcome, Remedy, State, cargo_install, installed_version, packages};
use crate::{paths, process};

/// The name under which `filter-user/build.rs` calls the compiler.
const NAME: &str = "sluice-ebpf";

/// The LLVM that bpf-linker 0.10.3 can load.
const LLVM: &str = "libLLVM.so.22";

/// Debian's full toolchain with its source, kept current for browsers.
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// A nightly with that LLVM, for where Debian's packages aren't.
const NIGHTLY: &str = "nightly-2026-05-20";

const BPF_LINKER: &str = "0.10.3";
const CARGO_FUZZ: &str = "0.13.2";

pub(super) fn items() -> Vec<Item> {
    vec![
        Item {
            name: "eBPF toolchain",
            need: Need::Build,
            look: look_toolchain,
            remedy: Remedy::Install(install_toolchain),
        },
        Item {
            name: "LLVM",
            need: Need::Build,
            look: look_llvm,
            remedy: Remedy::Advice(
                "apt-get install --reinstall libllvm22, or another toolchain: see CONTRIBUTING.md",
            ),
        },
        Item {
            name: "bpf-linker",
            need: Need::Build,
            look: look_linker,
            remedy: Remedy::Install(|| cargo_install("bpf-linker", BPF_LINKER)),
        },
        Item {
            name: "rustfmt",
            need: Need::Build,
            look: || look_component("fmt", "format check"),
            remedy: Remedy::Install(|| install_component("rustfmt")),
        },
        Item {
            name: "clippy",
            need: Need::Build,
            look: || look_component("clippy", "lints"),
            remedy: Remedy::Install(|| install_component("clippy")),
        },
    ]
}

/// The path of cargo-fuzz, built first where it isn't there yet.
pub(super) fn cargo_fuzz() -> Result<PathBuf> {
    if installed_version("cargo-fuzz")?.as_deref() != Some(CARGO_FUZZ) {
        println!("{:<12}cargo-fuzz {CARGO_FUZZ}", "installing");
        if let Outcome::ByHand(commands) = cargo_install("cargo-fuzz", CARGO_FUZZ)? {
            bail!("cargo-fuzz can't be installed; by hand: {}", commands.join("; "));
        }
    }
    Ok(paths::cache()?.join("cargo-fuzz/bin/cargo-fuzz"))
}

fn look_toolchain() -> Result<State> {
    if paths::program("rustup").is_none() {
        return Ok(State::Missing("rustup, which knows the compilers by name".to_owned()));
    }
    Ok(match sysroot(NAME) {
        Some(root) if has_source(&root) => State::Found(format!("{NAME} -> {}", root.display())),
        Some(root) => State::Missing(format!("{} has no source of core", root.display())),
        None => State::Missing(format!("{NAME}, a compiler with the source of core")),
    })
}

/// A nightly of rustup's that has all it takes is taken first, then Debian's packages.
fn install_toolchain() -> Result<Outcome> {
    let by_hand = Outcome::ByHand(vec![
        "install rustup (https://rustup.rs), then:".to_owned(),
        format!("rustup toolchain install {NIGHTLY} --profile minimal --component rust-src"),
    ]);
    if paths::program("rustup").is_none() {
        return Ok(by_hand);
    }
    if let Some(root) = candidate() {
        return link(&root);
    }
    if packages::is_debian() && packages::is_offered("rustc-web") {
        let outcome = packages::install(PACKAGES)?;
        if outcome != Outcome::Installed {
            return Ok(outcome);
        }
    } else {
        let arguments =
            ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"];
        if !process::run(Command::new("rustup").args(arguments))?.success() {
            return Ok(by_hand);
        }
    }
    match candidate() {
        Some(root) => link(&root),
        None => Ok(by_hand),
    }
}

/// The system root of a toolchain that could be linked.
fn candidate() -> Option<PathBuf> {
    let list = Command::new("rustup").args(["toolchain", "list"]).output().ok()?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let nightlies = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .filter_map(sysroot);
    let debian = Path::new("/usr/bin/rustc").exists().then(|| PathBuf::from("/usr"));
    nightlies.chain(debian).find(|root| has_source(root) && llvm_directory(root).is_some())
}

fn link(root: &Path) -> Result<Outcome> {
    let status = process::run(Command::new("rustup").args(["toolchain", "link", NAME]).arg(root))?;
    if status.success() {
        return Ok(Outcome::Installed);
    }
    Ok(Outcome::ByHand(vec![format!("rustup toolchain link {NAME} {}", root.display())]))
}

fn sysroot(toolchain: &str) -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let root = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(root.trim()))
}

fn has_source(root: &Path) -> bool {
    root.join("lib/rustlib/src/rust/library/core").is_dir()
}

fn look_llvm() -> Result<State> {
    let Some(root) = sysroot(NAME) else {
        return Ok(State::Missing(format!("{LLVM}: no toolchain to look in yet")));
    };
    Ok(match llvm_directory(&root) {
        Some(directory) => State::Found(format!("{LLVM} in {}", directory.display())),
        None => State::Missing(format!("{LLVM} below {}, which bpf-linker loads", root.display())),
    })
}

/// Where a toolchain keeps its LLVM: the same places that `filter-user/build.rs` tries.
fn llvm_directory(root: &Path) -> Option<PathBuf> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    [root.join("lib"), root.join(multiarch)].into_iter().find(|directory| {
        directory.read_dir().is_ok_and(|entries| {
            entries
                .filter_map(Result::ok)
                .any(|entry| entry.file_name().to_string_lossy().starts_with(LLVM))
        })
    })
}

fn look_linker() -> Result<State> {
    Ok(match installed_version("bpf-linker")? {
        Some(version) if version == BPF_LINKER => State::Found(version),
        Some(version) => State::Missing(format!("{BPF_LINKER} (there is {version})")),
        None => State::Missing(format!("{BPF_LINKER}, which makes the eBPF object")),
    })
}

fn look_component(command: &str, purpose: &str) -> Result<State> {
    let output = process::cargo()?.args([command, "--version"]).output()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(if output.status.success() {
        State::Found(version)
    } else {
        State::Missing(format!("cargo {command}, for the {purpose}"))
    })
}

fn install_component(component: &str) -> Result<Outcome> {
    let command = format!("rustup component add {component}");
    if paths::program("rustup").is_none() {
        return Ok(Outcome::ByHand(vec![command]));
    }
    let status = process::run(Command::new("rustup").args(["component", "add", component]))?;
    Ok(if status.success() { Outcome::Installed } else { Outcome::ByHand(vec![command]) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn llvm_is_found_where_rustup_and_where_debian_keep_it() {
        let root = env::temp_dir().join(format!("sluice-xtask-llvm-{}", std::process::id()));
        assert_eq!(llvm_directory(&root), None);
        let debian = root.join(format!("lib/{}-linux-gnu", env::consts::ARCH));
        fs::create_dir_all(&debian).unwrap();
        fs::write(debian.join("libLLVM.so.21.1"), "").unwrap();
        assert_eq!(llvm_directory(&root), None);
        fs::write(debian.join("libLLVM.so.22.1"), "").unwrap();
        assert_eq!(llvm_directory(&root), Some(debian));
        fs::write(root.join("lib/libLLVM.so.22.1-rust-1.97.0-nightly"), "").unwrap();
        assert_eq!(llvm_directory(&root), Some(root.join("lib")));
        fs::remove_dir_all(&root).unwrap();
    }
}
