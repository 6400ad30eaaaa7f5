//! Where the machine's `/proc`, `/sys` and `/dev` are seen.

use std::path::{Path, PathBuf};

/// The folders through which the machine is observed.
///
/// A process on the machine sees it at the usual places. A pod sees the machine's root under another folder, with
/// everything mounted below it; only with `hostPID` does its `proc/1` belong to the machine's first process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The machine's procfs (`/proc`).
    pub proc: PathBuf,
    /// The machine's sysfs (`/sys`).
    pub sys: PathBuf,
    /// The machine's device nodes (`/dev`).
    pub dev: PathBuf,
    /// The machine's own root file system (`/`).
    pub root: PathBuf,
}

impl Roots {
    /// The folders below `root`, which is where the machine's `/` is mounted (`/` itself on the machine).
    pub fn under(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            sys: root.join("sys"),
            dev: root.join("dev"),
            root: root.to_path_buf(),
        }
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::under(Path::new("/"))
    }
}
