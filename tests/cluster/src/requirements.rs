//! Whether this machine lets this process have real nodes.
//!
//! Tests on real nodes are skipped where there can be none, and fail where something is missing that root
//! can install.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use monok8s_sandbox::loop_device::LoopDevice;

/// Programs that a node's first process or this one calls, and the Debian package each is in.
const PROGRAMS: [(&str, &str); 11] = [
    ("ip", "iproute2"),
    ("sgdisk", "gdisk"),
    ("partx", "util-linux"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("tar", "tar"),
    ("gcc", "gcc"),
    ("strip", "binutils"),
    ("busybox", "busybox-static"),
];

/// What this machine refuses, whatever is installed on it, in a line for people; none when real nodes
/// can be had.
pub fn forbidden() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("real nodes need root".into());
    }
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("\toverlay\n")) {
        return Some("real nodes need a kernel with overlayfs".into());
    }
    if !Path::new("/sys/fs/cgroup").is_dir() {
        return Some("real nodes need control groups at /sys/fs/cgroup".into());
    }
    if !LoopDevice::available() {
        return Some(
            "real nodes need loop devices, which this machine does not let us have".into(),
        );
    }
    let own = [
        "--mount", "--net", "--pid", "--fork", "--cgroup", "--", "true",
    ];
    match Command::new("unshare").args(own).output() {
        Ok(output) if output.status.success() => None,
        _ => Some("real nodes need namespaces, which this machine does not let us have".into()),
    }
}

/// What is not installed here, and the line that installs it; none when nothing is missing.
pub fn missing() -> Option<String> {
    lacks(|program| Command::new(program).arg("--version").output().is_ok())
}

fn lacks(is_there: impl Fn(&str) -> bool) -> Option<String> {
    let absent: Vec<_> = PROGRAMS
        .into_iter()
        .filter(|(program, _)| !is_there(program))
        .collect();
    let programs: Vec<_> = absent.iter().map(|(program, _)| *program).collect();
    let packages: BTreeSet<_> = absent.iter().map(|(_, package)| *package).collect();
    let packages: Vec<_> = packages.into_iter().collect();
    (!absent.is_empty()).then(|| {
        format!(
            "real nodes need {}: apt-get install {} (`make setup-test` does it)",
            programs.join(", "),
            packages.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_line_to_type() {
        assert_eq!(lacks(|_| true), None);
        let without = |program: &str| !["sgdisk", "unshare", "nsenter"].contains(&program);
        let line = lacks(without).unwrap();
        assert!(line.contains("sgdisk, unshare, nsenter"), "{line}");
        assert!(
            line.contains("apt-get install gdisk util-linux ("),
            "{line}"
        );
    }

    #[test]
    fn the_setup_installs_every_program() {
        let script = include_str!("../../sandbox/setup.sh");
        for (program, package) in PROGRAMS {
            // No Debian is without that one.
            let known = package == "tar" || script.contains(&format!(":{package}"));
            assert!(known, "{program} is in {package}");
        }
    }
}
