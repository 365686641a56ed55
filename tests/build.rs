// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the eBPF objects of the lab and leaves them in `OUT_DIR`: its own programs, and the filter with
//! what only a benchmark runs.

#[path = "../filter-user/build/ebpf.rs"]
mod ebpf;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().context("tests has no parent directory")?;
    for source in ["filter-common/src", "filter-user/build/ebpf.rs", "tests/build.rs"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let generator = ebpf::Object {
        name: "generator-ebpf",
        directory: manifest.join("generator-ebpf"),
        features: &[],
    };
    let filter = ebpf::Object {
        name: "filter-ebpf",
        directory: root.join("filter-ebpf"),
        features: &["bench"],
    };
    ebpf::build(&[generator, filter], "ebpf-lab")
}
