// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernels that guests boot: Debian's packages, unpacked into the cache and never installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self as std_process, Command},
};

use anyhow::{Context as _, Result, bail};

use super::{Item, Need, Outcome, Remedy, State, packages};
use crate::{paths, process};

/// A kernel that is tested.
struct Pin {
    series: &'static str,
    package: &'static str,
    version: &'static str,
    /// What packages of the same series are called, as a regular expression.
    series_packages: &'static str,
}

/// The oldest kernel that Sluice supports.
const OLDEST: Pin = Pin {
    series: "6.1",
    package: "linux-image-6.1.0-56-cloud-amd64",
    version: "6.1.192-2",
    series_packages: r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$",
};

/// A long-term one above 6.6, which brought TCX.
const NEWER: Pin = Pin {
    series: "6.12",
    package: "linux-image-6.12.117+deb12-cloud-amd64",
    version: "6.12.117-1~deb12u1",
    series_packages: r"^linux-image-6\.12\.[0-9]+\+deb[0-9]+-cloud-amd64$",
};

/// All of them. The archive keeps versions for some months only; when one is gone, the newest of
/// its series serves.
const PINS: [Pin; 2] = [OLDEST, NEWER];

/// The file beside an unpacked package that says which it is.
const NAME_FILE: &str = "package";

/// A kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// `6.1`.
    pub(crate) series: &'static str,
    /// Name and version of the package.
    pub(crate) package: String,
    /// What the package holds: `boot/vmlinuz-*`, `lib/modules`.
    pub(crate) tree: PathBuf,
    /// What is to be told if it isn't the version that is wanted.
    pub(crate) remark: Option<String>,
}

/// Whether guests can be booted here.
pub(crate) enum Guests {
    /// They can.
    Ready(Vec<Kernel>),
    /// Something is missing that the set-up should have installed.
    Missing(String),
    /// This machine can't have what is needed.
    Impossible(String),
}

pub(super) fn items() -> Vec<Item> {
    vec![
        Item {
            name: "Linux 6.1",
            need: Need::Guests,
            look: || look(&OLDEST),
            remedy: Remedy::Install(|| install(&OLDEST)),
        },
        Item {
            name: "Linux 6.12",
            need: Need::Guests,
            look: || look(&NEWER),
            remedy: Remedy::Install(|| install(&NEWER)),
        },
    ]
}

/// The kernels, or why there are none.
pub(crate) fn guests() -> Result<Guests> {
    let mut missing = Vec::new();
    for item in super::items() {
        if item.need == Need::Guests
            && let State::Missing(what) = (item.look)()?
        {
            missing.push(what);
        }
    }
    if missing.is_empty() {
        let mut kernels = Vec::new();
        for pin in &PINS {
            kernels.extend(find(pin)?);
        }
        return Ok(Guests::Ready(kernels));
    }
    Ok(match obstacle()? {
        Some(obstacle) => Guests::Impossible(obstacle),
        None => Guests::Missing(missing.join(", ")),
    })
}

/// What keeps the set-up from installing what is missing.
fn obstacle() -> Result<Option<String>> {
    if env::consts::ARCH != "x86_64" {
        return Ok(Some(format!("the guests are x86-64, this machine is {}", env::consts::ARCH)));
    }
    if !packages::can_install()? {
        return Ok(Some("QEMU and Debian's kernels need apt-get, and root to install".to_owned()));
    }
    for pin in &PINS {
        if newest(&offered(pin)?).is_none() {
            return Ok(Some(format!("the archive has no Linux {} of Debian's", pin.series)));
        }
    }
    Ok(None)
}

fn look(pin: &Pin) -> Result<State> {
    Ok(match find(pin)? {
        Some(kernel) => State::Found(kernel.remark.unwrap_or(kernel.package)),
        None => State::Missing(format!("Linux {}: is booted and tested in a guest", pin.series)),
    })
}

fn find(pin: &Pin) -> Result<Option<Kernel>> {
    let tree = directory(pin)?;
    let file = tree.join(NAME_FILE);
    if !file.exists() {
        return Ok(None);
    }
    let package = fs::read_to_string(&file)
        .with_context(|| format!("{} can't be read", file.display()))?
        .trim()
        .to_owned();
    let wanted = format!("{} {}", pin.package, pin.version);
    let remark =
        (package != wanted).then(|| format!("{package}, as {wanted} could not be downloaded"));
    Ok(Some(Kernel { series: pin.series, package, tree, remark }))
}

/// Named by what is wanted, so that another pin in the repository asks the archive again.
fn directory(pin: &Pin) -> Result<PathBuf> {
    Ok(paths::cache()?.join("kernels").join(format!("{}_{}", pin.package, pin.version)))
}

/// Downloads and unpacks a kernel. Neither takes root.
fn install(pin: &Pin) -> Result<Outcome> {
    let tree = directory(pin)?;
    let by_hand = Outcome::ByHand(vec![format!(
        "boot guests on Debian x86-64 with {} in its archive, or leave out the stage `kernels`",
        pin.package
    )]);
    if !packages::is_debian() || env::consts::ARCH != "x86_64" {
        return Ok(by_hand);
    }
    let all = tree.parent().context("the cache has no directory")?;
    let work = all.join(format!("unfinished-{}", std_process::id()));
    fs::create_dir_all(&work).with_context(|| format!("{} can't be made", work.display()))?;
    let done = download(pin, &work).and_then(|found| match found {
        Some(package) => unpack(&package, &work, &tree).map(|()| Outcome::Installed),
        None => Ok(by_hand),
    });
    fs::remove_dir_all(&work).with_context(|| format!("{} can't be removed", work.display()))?;
    done
}

/// Downloads the package that is wanted, else the newest of its series.
fn download(pin: &Pin, work: &Path) -> Result<Option<PathBuf>> {
    let exact = format!("{}={}", pin.package, pin.version);
    if apt_download(&exact, work)? {
        return downloaded(work);
    }
    if packages::is_root()? {
        // The lists may be old, or not there at all.
        process::run(packages::apt_get().arg("update"))?;
        if apt_download(&exact, work)? {
            return downloaded(work);
        }
    }
    let Some(package) = newest(&offered(pin)?) else { return Ok(None) };
    println!("{:<12}{exact} can't be downloaded: {package} instead", "note");
    if apt_download(&package, work)? { downloaded(work) } else { Ok(None) }
}

/// Takes off the sandbox's user, who may not write into a home directory.
fn apt_download(package: &str, work: &Path) -> Result<bool> {
    let mut command = packages::apt_get();
    command.args(["-o", "APT::Sandbox::User=", "download", package]).current_dir(work);
    Ok(process::run(&mut command)?.success())
}

fn downloaded(work: &Path) -> Result<Option<PathBuf>> {
    for entry in work.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(Some(path));
        }
    }
    bail!("apt-get left no package in {}", work.display())
}

/// Unpacks a package beside its place and renames, so that a tree is whole or not there.
fn unpack(package: &Path, work: &Path, tree: &Path) -> Result<()> {
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    let name = described(&name).with_context(|| format!("{name} is no name of a package"))?;
    let fresh = work.join("tree");
    let status = process::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&fresh))?;
    if !status.success() {
        bail!("{} can't be unpacked", package.display());
    }
    fs::write(fresh.join(NAME_FILE), format!("{name}\n"))?;
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("{} can't be removed", tree.display()))?;
    }
    fs::rename(&fresh, tree).with_context(|| format!("{} can't be made", tree.display()))
}

/// Name and version from `NAME_VERSION_ARCHITECTURE.deb`.
fn described(file: &str) -> Option<String> {
    let mut parts = file.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(format!("{name} {}", version.replace("%3a", ":")))
}

/// The packages of the same series that the archive offers.
fn offered(pin: &Pin) -> Result<Vec<String>> {
    let output = Command::new("apt-cache")
        .args(["search", "--names-only", pin.series_packages])
        .output()
        .context("apt-cache can't be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.split_once(" - "));
    Ok(names.map(|(name, _)| name.to_owned()).collect())
}

/// The one whose numbers are the highest.
fn newest(packages: &[String]) -> Option<String> {
    let numbers = |package: &String| -> Vec<u64> {
        package.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok()).collect()
    };
    packages.iter().max_by_key(|package| numbers(package)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_told_by_numbers() {
        let packages = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-47-cloud-amd64"]
            .map(String::from);
        assert_eq!(newest(&packages).as_deref(), Some("linux-image-6.1.0-47-cloud-amd64"));
        assert_eq!(newest(&[]), None);
    }

    #[test]
    fn a_package_is_described_by_its_file() {
        assert_eq!(
            described("linux-image_6.1.2-2_amd64.deb").as_deref(),
            Some("linux-image 6.1.2-2")
        );
        assert_eq!(described("x_1%3a7_amd64.deb").as_deref(), Some("x 1:7"));
        assert_eq!(described("x"), None);
    }
}
