//! A node's control groups. Its namespace shows them as the root of all groups.
//!
//! Both versions are served. Of version 2 the groups themselves are tested wherever root can mount it;
//! nodes as a whole ran on machines of version 1 so far.

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
    mount: PathBuf,
    folders: Vec<PathBuf>,
}

/// Whether this machine has the one hierarchy of version 2.
pub fn unified() -> bool {
    is_unified(Path::new(MOUNT))
}

fn is_unified(mount: &Path) -> bool {
    mount.join("cgroup.controllers").exists()
}

/// The folders of groups called `name`, in every hierarchy.
fn folders(mount: &Path, name: &str) -> Result<Vec<PathBuf>> {
    if is_unified(mount) {
        Ok(vec![mount.join(name)])
    } else {
        version_1(mount, name)
    }
}

impl ControlGroups {
    /// Removes the groups whose names begin with `prefix`: those of a process that was killed.
    pub fn remove_stale(prefix: &str) -> Result<()> {
        Self::remove_stale_in(Path::new(MOUNT), prefix)
    }

    fn remove_stale_in(mount: &Path, prefix: &str) -> Result<()> {
        let folders = folders(mount, prefix)?;
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
        Self::make_in(Path::new(MOUNT), name)
    }

    fn make_in(mount: &Path, name: &str) -> Result<Self> {
        let groups = Self {
            mount: mount.to_path_buf(),
            folders: folders(mount, name)?,
        };
        let unified = is_unified(mount);
        for folder in &groups.folders {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            if unified {
                delegate(mount)?;
            }
            // A new cpuset is empty, and nothing can run in it.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = folder.parent().unwrap_or(folder).join(file);
                if !unified && parent.exists() {
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
        let unified = is_unified(&self.mount);
        for folder in self.folders.iter().filter(|_| unified) {
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
fn version_1(mount: &Path, name: &str) -> Result<Vec<PathBuf>> {
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
            let hierarchy = mount.join(controller.trim_start_matches("name="));
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use monok8s_sandbox::{scratch, skip};
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;

    /// Version 2's hierarchy, which can be mounted on a machine of version 1 too, with the controllers
    /// that nobody else has.
    struct Unified(tempfile::TempDir);

    impl Unified {
        fn mount() -> Option<Self> {
            if !rustix::process::geteuid().is_root() {
                skip::say("mounting control groups needs root");
                return None;
            }
            let folder = scratch::folder("groups").unwrap();
            mount("none", folder.path(), "cgroup2", MountFlags::empty(), None).unwrap();
            Some(Self(folder))
        }

        fn path(&self) -> &Path {
            self.0.path()
        }
    }

    impl Drop for Unified {
        fn drop(&mut self) {
            let _ = unmount(self.path(), UnmountFlags::DETACH);
        }
    }

    /// A process in a group; killed when dropped.
    struct Member(Child);

    impl Member {
        fn of(group: &Path) -> Self {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
            Self(child)
        }
    }

    impl Drop for Member {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// What a node needs of version 2 is tried as far as this machine has it: a kubelet wants
    /// controllers that may be in use by version 1.
    #[tokio::test]
    async fn a_nodes_group_of_version_2_is_made_emptied_and_removed() {
        let Some(unified) = Unified::mount() else {
            return;
        };
        assert!(is_unified(unified.path()));
        let name = format!("monok8s-test-{}-node", std::process::id());
        let groups = ControlGroups::make_in(unified.path(), &name).unwrap();
        let [node] = groups.folders() else {
            panic!("{groups:?}")
        };
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let controllers = read(&unified.path().join("cgroup.controllers"));
        assert_eq!(read(&node.join("cgroup.controllers")), controllers);

        // As the node's first process does: it leaves the node's root before that lends its controllers.
        let first = node.join("first-process");
        fs::create_dir(&first).unwrap();
        let process = Member::of(&first);
        delegate(node).unwrap();
        let pod = node.join("kubepods/pod-1");
        fs::create_dir_all(&pod).unwrap();
        assert_eq!(read(&node.join("kubepods/cgroup.controllers")), controllers);
        assert!(!remove_below(node), "a process is there");
        drop(process);
        groups.clear().await.unwrap();
        assert!(node.exists() && !first.exists() && !pod.exists());
        // It can be joined again, by the next boot.
        drop(Member::of(node));
        fs::create_dir(node.join("left")).unwrap();
        let node = node.clone();
        drop(groups);
        assert!(!node.exists());

        fs::create_dir_all(node.join("left")).unwrap();
        let prefix = format!("monok8s-test-{}-", std::process::id());
        ControlGroups::remove_stale_in(unified.path(), &prefix).unwrap();
        assert!(!node.exists());
    }
}
