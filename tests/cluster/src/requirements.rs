//! Whether this machine lets this process have real nodes.

use std::{fs, path::Path, process::Command};

use monok8s_sandbox::loop_device::LoopDevice;

/// Programs that a node's first process or this one calls, and the Debian package each is in.
const PROGRAMS: [(&str, &str); 10] = [
    ("ip", "iproute2"),
    ("sgdisk", "gdisk"),
    ("partx", "util-linux"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("tar", "tar"),
    ("gcc", "gcc"),
    ("busybox", "busybox-static"),
];

/// Why there cannot be real nodes here, in a line for people; none when there can.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("real nodes need root".into());
    }
    for (program, package) in PROGRAMS {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!(
                "real nodes need {program}, which is in the Debian package {package}"
            ));
        }
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
