//! Whether a folder is on storage that survives a reboot and that both slots share.

use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::Reason;
use crate::device_number::DevNum;
use crate::roots::Roots;
use crate::running_root;
use crate::slot::SlotName;
use crate::target::devices_behind;

/// Why a folder cannot hold the agent's record.
#[derive(Debug, thiserror::Error)]
#[error("{dir} cannot hold the record of an upgrade: {why}; put it on a writable file system of its own that both slots mount", dir = dir.display())]
pub struct NotPersistent {
    /// The folder.
    pub dir: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl NotPersistent {
    /// Always [`Reason::StateNotPersistent`].
    pub fn reason(&self) -> Reason {
        Reason::StateNotPersistent
    }
}

// linux/magic.h
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const OVERLAYFS: u64 = 0x794c_7630;

/// That `dir` is a folder that can be written to, not in memory, not on an overlay, and neither on the running root
/// nor on any of `slots`.
pub(crate) fn check(
    roots: &Roots,
    dir: &Path,
    slots: &[(SlotName, DevNum)],
) -> Result<(), NotPersistent> {
    let no = |why: String| NotPersistent {
        dir: dir.to_path_buf(),
        why,
    };
    check_writable(dir)?;
    let fs =
        rustix::fs::statfs(dir).map_err(|e| no(format!("its file system cannot be told: {e}")))?;
    #[allow(
        clippy::cast_sign_loss,
        reason = "a magic number; its type differs from one architecture to the next"
    )]
    let kind = match fs.f_type as u64 & 0xffff_ffff {
        TMPFS => Some("it is in memory (tmpfs) and gone after the reboot"),
        RAMFS => Some("it is in memory (ramfs) and gone after the reboot"),
        OVERLAYFS => Some("it is on an overlay, of which nobody knows what a reboot leaves"),
        _ => None,
    };
    if let Some(why) = kind {
        return Err(no(why.to_owned()));
    }
    let devices = devices_behind(roots, dir).map_err(|e| no(e.to_string()))?;
    if devices.is_empty() {
        return Err(no("it is on no block device of this machine".to_owned()));
    }
    if let Some((slot, _)) = slots.iter().find(|(_, dev)| devices.contains(dev)) {
        return Err(no(format!(
            "it is inside slot {slot}, which the other slot does not see and an upgrade overwrites"
        )));
    }
    let root = running_root::leaves(roots).map_err(|e| no(e.to_string()))?;
    if root.iter().any(|dev| devices.contains(dev)) {
        return Err(no(
            "it is on the running root, which the other slot does not see".to_owned(),
        ));
    }
    Ok(())
}

/// That `dir` is a folder on a file system that can be written to.
pub(crate) fn check_writable(dir: &Path) -> Result<(), NotPersistent> {
    let no = |why: String| NotPersistent {
        dir: dir.to_path_buf(),
        why,
    };
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(no("it is no folder".to_owned())),
        Err(e) => return Err(no(format!("it cannot be looked at: {e}"))),
    }
    let vfs =
        rustix::fs::statvfs(dir).map_err(|e| no(format!("its file system cannot be told: {e}")))?;
    if vfs.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(no("its file system is mounted read-only".to_owned()));
    }
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK)
        .map_err(|e| no(format!("it cannot be written to: {e}")))
}
