//! Whether this machine lets this process have real nodes.

use std::{fs, path::Path, process::Command};

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

/// What is not installed here, in a line for people; none when nothing is missing.
pub fn missing() -> Option<String> {
    let mut absent = PROGRAMS
        .into_iter()
        .filter(|(program, _)| Command::new(program).arg("--version").output().is_err());
    let (program, package) = absent.next()?;
    Some(format!(
        "real nodes need {program}, which is in the Debian package {package}"
    ))
}
