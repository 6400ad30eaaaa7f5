//! What the running system's root is made of.

use std::collections::BTreeSet;

use crate::blockdev::BlockDevices;
use crate::device_number::DevNum;
use crate::mounts::{self, Mount};
use crate::roots::Roots;
use crate::slot::SlotError;

/// The mount table of the machine's first process.
fn first_process_mounts(roots: &Roots) -> Result<Vec<Mount>, SlotError> {
    let path = roots.proc.join("1/mountinfo");
    let table = std::fs::read(&path).map_err(|source| SlotError::Unreadable {
        what: "the mounts of the machine's first process".to_owned(),
        path,
        source,
    })?;
    Ok(mounts::parse(&table))
}

/// The partitions (and disks without any) that the first process's root is made of.
pub(crate) fn leaves(roots: &Roots) -> Result<BTreeSet<DevNum>, SlotError> {
    let table = first_process_mounts(roots)?;
    let root = mounts::root(&table).ok_or_else(|| {
        SlotError::Ambiguous(format!(
            "{} shows no root, or several: the agent must see the machine's first process (hostPID)",
            roots.proc.join("1/mountinfo").display()
        ))
    })?;
    BlockDevices::new(roots)
        .leaves_of_mount(root, &table)
        .map_err(|source| SlotError::Unreadable {
            what: format!(
                "the device behind the root ({} on {})",
                root.fs_type,
                root.source.display()
            ),
            path: roots.sys.join("dev/block"),
            source,
        })
}
