//! What real nodes must not leave on the machine that they were on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use monok8s_cluster::first_process::KERNEL;

/// The machine's own settings that kubelets would change, before there were any.
pub(crate) struct Before(Vec<(&'static str, String)>);

/// Where a cluster was.
pub(crate) struct Place {
    folder: PathBuf,
    part: u8,
}

impl Before {
    /// Looks.
    pub(crate) fn look() -> Self {
        let value =
            |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
        Self(
            KERNEL
                .iter()
                .map(|(name, _)| (*name, value(name)))
                .collect(),
        )
    }
}

impl Place {
    /// Of the cluster in `folder` whose part of the addresses this is.
    pub(crate) fn new(folder: PathBuf, part: u8) -> Self {
        Self { folder, part }
    }

    /// That it has left nothing behind, and the machine as it was.
    pub(crate) fn is_clean(&self, before: &Before) -> Result<()> {
        let now = Before::look();
        ensure!(
            now.0 == before.0,
            "the machine's settings are {:?}, and were {:?}",
            now.0,
            before.0
        );
        ensure!(
            !self.folder.exists(),
            "{} is still there",
            self.folder.display()
        );
        let interface = format!("/sys/class/net/monok8s-{}", self.part);
        ensure!(
            !Path::new(&interface).exists(),
            "{interface} is still there"
        );
        let folder = self.folder.to_string_lossy();
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("no mount table")?;
        ensure!(
            !mounts.contains(&*folder),
            "something of {folder} is mounted"
        );
        for entry in fs::read_dir("/sys/block").context("no list of disks")? {
            let backing = entry
                .context("no list of disks")?
                .path()
                .join("loop/backing_file");
            let file = fs::read_to_string(&backing).unwrap_or_default();
            ensure!(
                !file.starts_with(&*folder),
                "{} is {file}",
                backing.display()
            );
        }
        let groups = Command::new("find")
            .args([
                "/sys/fs/cgroup",
                "-name",
                &format!("monok8s-{}-*", self.part),
            ])
            .output()
            .context("cannot run find")?;
        let groups = String::from_utf8_lossy(&groups.stdout);
        ensure!(groups.is_empty(), "control groups are left: {groups}");
        Ok(())
    }
}
