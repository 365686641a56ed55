// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the eBPF object of the lab's own programs and leaves it in `OUT_DIR`.

#[path = "../filter-user/build/ebpf.rs"]
mod ebpf;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().context("tests has no parent directory")?;
    for source in ["filter-user/build/ebpf.rs", "tests/build.rs"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    ebpf::build(&[("generator-ebpf", manifest.join("generator-ebpf"))], "ebpf-lab")
}
