// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory the process may still take, by the limits of its control groups. The kernel counts the
//! tables there, too, and ends the process that goes beyond.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where control groups are: of version 2, and of version 1 (Documentation/admin-guide/cgroup-v2.rst and
/// cgroup-v1/memory.rst of the kernel), each with the files of the limit and of what is in use.
const HIERARCHIES: [(Version, &str, &str, &str); 2] = [
    (Version::Two, "/sys/fs/cgroup", "memory.max", "memory.current"),
    (Version::One, "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Bytes that are left of the tightest limit; `None` where there is none, or nobody tells.
#[must_use]
pub fn left() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let each = HIERARCHIES.into_iter().filter_map(|(version, root, limit, used)| {
        let group = group(&groups, version)?;
        tightest(Path::new(root), group, limit, used)
    });
    each.min()
}

/// The path of the process's group (proc(5), `cgroup`): `0::/a/b`, or `4:memory:/a/b`.
fn group(groups: &str, version: Version) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match version {
            Version::Two => number == "0" && controllers.is_empty(),
            Version::One => controllers.split(',').any(|controller| controller == "memory"),
        };
        found.then_some(path)
    })
}

/// A limit of a group holds for those below it as well.
fn tightest(root: &Path, group: &str, limit: &str, used: &str) -> Option<u64> {
    let below: PathBuf = root.join(group.trim_start_matches('/'));
    let left = below.ancestors().take_while(|path| path.starts_with(root)).filter_map(|path| {
        let number =
            |name| -> Option<u64> { fs::read_to_string(path.join(name)).ok()?.trim().parse().ok() };
        Some(number(limit)?.saturating_sub(number(used)?))
    });
    left.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_of_all_groups_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("system.slice/sluice.service");
        fs::create_dir_all(&inner).unwrap();
        let left = || tightest(root.path(), "/system.slice/sluice.service", "max", "current");
        assert_eq!(left(), None);
        for (path, limit, used) in
            [(&inner, "max", "10"), (&inner.parent().unwrap().to_owned(), "1000", "400")]
        {
            fs::write(path.join("max"), format!("{limit}\n")).unwrap();
            fs::write(path.join("current"), format!("{used}\n")).unwrap();
        }
        assert_eq!(left(), Some(600));
        fs::write(inner.join("max"), "100\n").unwrap();
        assert_eq!(left(), Some(90));
    }

    #[test]
    fn groups_are_found_in_what_the_kernel_says() {
        let both = "9:name=systemd:/\n4:cpu,memory:/one\n0::/two\n";
        assert_eq!(group(both, Version::One), Some("/one"));
        assert_eq!(group(both, Version::Two), Some("/two"));
        assert_eq!(group("1:cpu:/\n", Version::Two), None);
    }
}
