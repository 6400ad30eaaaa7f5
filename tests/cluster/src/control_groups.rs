//! A node's control groups. Its namespace shows them as the root of all groups.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use monok8s_sandbox::wait;

/// Where the kernel's hierarchies are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// How long the last processes of a node may take to be gone.
const EMPTY: Duration = Duration::from_secs(30);

/// Version 1's hierarchies, one for each controller.
pub const CONTROLLERS: [&str; 8] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
];

/// A node's group in each hierarchy. Dropping it removes what is empty.
#[derive(Debug)]
pub struct ControlGroups {
    folders: Vec<PathBuf>,
}

/// Whether this machine has the one hierarchy of version 2.
pub fn unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

impl ControlGroups {
    /// Removes the groups whose names begin with `prefix`: those of a process that was killed.
    pub fn remove_stale(prefix: &str) -> Result<()> {
        let folders = if unified() {
            vec![Path::new(MOUNT).join(prefix)]
        } else {
            version_1(prefix)?
        };
        for parent in folders.iter().filter_map(|folder| folder.parent()) {
            let entries = fs::read_dir(parent)
                .with_context(|| format!("cannot read {}", parent.display()))?;
            for path in entries.flatten().map(|entry| entry.path()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with(prefix) {
                    remove_below(&path);
                    // One that is not empty is told of by whoever makes it again.
                    let _ = fs::remove_dir(&path);
                }
            }
        }
        Ok(())
    }

    /// Makes the groups called `name`.
    pub fn make(name: &str) -> Result<Self> {
        let groups = Self {
            folders: if unified() {
                vec![Path::new(MOUNT).join(name)]
            } else {
                version_1(name)?
            },
        };
        for folder in &groups.folders {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            if unified() {
                delegate(Path::new(MOUNT))?;
            }
            // A new cpuset is empty, and nothing can run in it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = folder.parent().unwrap_or(folder).join(file);
                if !unified() && parent.exists() {
                    fs::copy(&parent, folder.join(file))
                        .with_context(|| format!("cannot fill {file} of {}", folder.display()))?;
                }
            }
        }
        Ok(groups)
    }

    /// The folders, for [`join`].
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Waits until the node's processes are gone and removes its pods' groups: a kubelet that finds
    /// some takes seconds for each, and a machine's reboot leaves none.
    pub async fn clear(&self) -> Result<()> {
        wait::until("the end of a node's processes", EMPTY, || async {
            let emptied = self.folders.iter().all(|folder| remove_below(folder));
            Ok(emptied.then_some(()))
        })
        .await?;
        // In version 2 no process may join a group that has lent its controllers to others.
        for folder in self.folders.iter().filter(|_| unified()) {
            fs::remove_dir(folder)
                .and_then(|()| fs::create_dir(folder))
                .with_context(|| format!("cannot make {} anew", folder.display()))?;
        }
        Ok(())
    }
}

impl Drop for ControlGroups {
    fn drop(&mut self) {
        for folder in &self.folders {
            remove_below(folder);
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Moves this process into the groups.
pub fn join(folders: &[PathBuf]) -> Result<()> {
    for folder in folders {
        fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("cannot join {}", folder.display()))?;
    }
    Ok(())
}

/// In version 2, lets the groups below `folder` have every controller that it has.
pub fn delegate(folder: &Path) -> Result<()> {
    let path = folder.join("cgroup.controllers");
    let has =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let all: Vec<String> = has
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    let path = folder.join("cgroup.subtree_control");
    fs::write(&path, all.join(" ")).with_context(|| format!("cannot write {}", path.display()))
}

/// Below this process's own group, which another process may have been limited to.
fn version_1(name: &str) -> Result<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    CONTROLLERS
        .into_iter()
        .chain(["name=systemd"])
        .map(|controller| {
            let path = own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers
                    .split(',')
                    .any(|one| one == controller)
                    .then_some(path)
            });
            let path = path.with_context(|| format!("this machine has no {controller} groups"))?;
            let hierarchy = Path::new(MOUNT).join(controller.trim_start_matches("name="));
            Ok(hierarchy.join(path.trim_start_matches('/')).join(name))
        })
        .collect()
}

/// Removes the groups below `folder`, the deepest first; false while one has a process.
fn remove_below(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return true;
    };
    let below = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut emptied =
        fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty());
    for entry in below {
        emptied &= remove_below(&entry.path()) && fs::remove_dir(entry.path()).is_ok();
    }
    emptied
}
