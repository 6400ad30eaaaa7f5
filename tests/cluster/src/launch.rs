//! From this machine into the node's namespaces.

use std::{
    convert::Infallible, env, os::unix::process::CommandExt as _, path::Path, process::Command,
};

use anyhow::{Context, Result};

use crate::{control_groups, machine::Machine};

/// What the node's first process has as its variable `container` (systemd's container interface): a
/// program that finds it knows that the kernel is another machine's.
pub const CONTAINER: &str = "monok8s";

/// Becomes `unshare`, whose child becomes the node's first process. It ends as that one does: by
/// SIGHUP after `reboot(2)`.
pub fn launch(folder: &Path) -> Result<Infallible> {
    let machine = Machine::read(folder)?;
    // Before the namespace of groups is made: its root is the group that this process is in then.
    control_groups::join(&machine.groups)?;
    let own = env::current_exe().context("cannot tell where this program stands")?;
    let error = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"])
        .args(["--fork", "--kill-child", "--"])
        .arg(own)
        .arg("first-process")
        .arg(folder)
        .env("container", CONTAINER)
        .exec();
    Err(error).context("cannot run unshare, which is in the Debian package util-linux")
}
