// SPDX-License-Identifier: MIT OR Apache-2.0
//! How build scripts build a crate for the kernel. Those of `filter-user` and of the lab include this
//! file, as a crate for it would be one more to build before everything else.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// The name under which `cargo xtask setup` links the toolchain that has `core`'s source.
const TOOLCHAIN: &str = "sluice-ebpf";

/// Which instructions the programs have: with jumps on "less", which every kernel knows from 4.14 on, and without those on
/// 32 bits, of which the verifier of Linux 6.1 keeps too little in mind.
const INSTRUCTIONS: &str = "v2";

/// A crate to build.
pub(crate) struct Object<'a> {
    /// Its name, and that of its object.
    pub(crate) name: &'a str,
    /// Where it lies.
    pub(crate) directory: PathBuf,
    /// Features to switch on.
    pub(crate) features: &'a [&'a str],
}

/// Builds crates and leaves their objects in `OUT_DIR`, where `include_bytes!` finds them by the crates'
/// names.
///
/// `shared` is the directory below `target` where they are built. Build scripts may run at the same
/// time, and the inner cargo's lock covers only a part of what happens there, so that each script has its
/// own.
pub(crate) fn build(objects: &[Object<'_>], shared: &str) -> Result<()> {
    let linker = linker_directory()?;
    if !linker.join("bpf-linker").exists() {
        bail!(
            "bpf-linker is not in {}: run `cargo xtask setup` once, it installs what the eBPF build needs",
            linker.display()
        );
    }
    let sysroot = toolchain_sysroot()?;
    let mut path = OsString::from(&linker);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut libraries = OsString::from(llvm_directory(&sysroot)?);
    if let Some(existing) = env::var_os("LD_LIBRARY_PATH") {
        libraries.push(":");
        libraries.push(existing);
    }
    // Objects are the same for every profile and for checks, so they are built in one place.
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let mut target = out.ancestors().nth(4).context("OUT_DIR is not below a target directory")?;
    // With `--target`, a directory of that name comes in between.
    if target.ends_with(env::var("TARGET")?) {
        target = target.parent().context("OUT_DIR is not below a target directory")?;
    }
    let shared = target.join(shared);
    fs::create_dir_all(&shared)?;
    // SAFETY: the build script has a single thread, and nothing has read the environment
    // concurrently; aya-build offers no other way to hand variables to the inner cargo.
    unsafe {
        env::set_var("OUT_DIR", &shared);
        env::set_var("PATH", path);
        env::set_var("LD_LIBRARY_PATH", libraries);
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("CARGO_TERM_QUIET", "true");
        // aya-build sets the compiler's flags itself; those of a profile come on top, and not for build scripts.
        env::set_var("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true");
        env::set_var("CARGO_PROFILE_RELEASE_RUSTFLAGS", format!("-Ctarget-cpu={INSTRUCTIONS}"));
        env::set_var("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", "");
        for inherited in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            env::remove_var(inherited);
        }
    }
    for Object { name, directory, features } in objects {
        let directory = directory.to_str().context("the path of the repository is not UTF-8")?;
        aya_build::build_ebpf(
            [Package { name, root_dir: directory, features, ..Package::default() }],
            Toolchain::Custom(TOOLCHAIN),
        )?;
        fs::copy(shared.join(name), out.join(name))
            .with_context(|| format!("the object of {name} was not built"))?;
    }
    Ok(())
}

/// The per-user directory into which `cargo xtask setup` installs bpf-linker.
fn linker_directory() -> Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("sluice/bpf-linker/bin"))
}

fn toolchain_sysroot() -> Result<PathBuf> {
    let output = std::process::Command::new("rustup")
        .args(["run", TOOLCHAIN, "rustc", "--print", "sysroot"])
        .output()
        .context("rustup can't be started")?;
    if !output.status.success() {
        bail!("the toolchain {TOOLCHAIN} is missing: run `cargo xtask setup` once");
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// bpf-linker loads the LLVM of the compiler that made the bitcode, at run time.
fn llvm_directory(sysroot: &Path) -> Result<PathBuf> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    for directory in [sysroot.join("lib"), sysroot.join(multiarch)] {
        let Ok(entries) = directory.read_dir() else { continue };
        for entry in entries {
            if entry?.file_name().to_string_lossy().starts_with("libLLVM.so.22") {
                return Ok(directory);
            }
        }
    }
    bail!("libLLVM.so.22 is not below {}: run `cargo xtask setup` once", sysroot.display())
}
