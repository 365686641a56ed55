// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the filter's eBPF object and leaves it in `OUT_DIR`, where `kernel` embeds it.

#[path = "build/ebpf.rs"]
mod ebpf;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().context("filter-user has no parent directory")?;
    for source in ["filter-common/src", "filter-user/build", "filter-user/build.rs"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let directory = root.join("filter-ebpf");
    let (features, shared): (&[&str], &str) = match env::var_os("CARGO_FEATURE_NEXT_LAYOUT") {
        Some(_) => (&["next-layout"], "ebpf-next"),
        None => (&[], "ebpf"),
    };
    let filter = ebpf::Object { name: "filter-ebpf", directory, features };
    ebpf::build(&[filter], shared)
}
