//! A virtual node: a folder that stands for a machine.
//!
//! ```text
//! slot-a.img, slot-b.img   the slots, unless machine.json names others
//! boot/grub/grubenv        GRUB's environment block
//! data/                    storage that both slots share: the agent's state folder is in it
//! run/cmdline              the kernel command line its firmware passed
//! run/boot_id              this boot's identifier
//! run/active               the slot its firmware started: A or B
//! run/reboot-request       made by whoever wants a reboot
//! machine.json             optional: see MachineFile
//! ```

use std::path::{Path, PathBuf};

use super::Host;
use crate::inspect::{InspectError, OsRelease};
use crate::persist::NotPersistent;
use crate::slot::{Machine, SlotError, SlotName};
use crate::target::Target;

/// What `machine.json` may say. Keys it does not know belong to others and are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineFile {
    /// Slot A: a file's path (relative to the folder or absolute), a block device's path, `PARTLABEL=…` or
    /// `PARTUUID=…`. Default: `slot-a.img`.
    pub slot_a: Option<String>,
    /// Slot B. Default: `slot-b.img`.
    pub slot_b: Option<String>,
}

/// A virtual node's folder. The paths are public so that its firmware and its agent agree on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualNode {
    dir: PathBuf,
}

impl VirtualNode {
    /// The node in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// GRUB's environment block.
    pub fn grubenv(&self) -> PathBuf {
        self.dir.join("boot/grub/grubenv")
    }

    /// The folder that both slots share.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The kernel command line its firmware passed.
    pub fn cmdline(&self) -> PathBuf {
        self.dir.join("run/cmdline")
    }

    /// The file with this boot's identifier.
    pub fn boot_id_file(&self) -> PathBuf {
        self.dir.join("run/boot_id")
    }

    /// The file with the slot its firmware started.
    pub fn active_file(&self) -> PathBuf {
        self.dir.join("run/active")
    }

    /// The file that asks for a reboot.
    pub fn reboot_request(&self) -> PathBuf {
        self.dir.join("run/reboot-request")
    }

    /// Its optional description.
    pub fn machine_file(&self) -> PathBuf {
        self.dir.join("machine.json")
    }

    /// The path of a slot's file or block device, as this folder says.
    pub fn slot_device(&self, slot: SlotName) -> Result<PathBuf, SlotError> {
        Ok(self.dir.join(match slot {
            SlotName::A => "slot-a.img",
            SlotName::B => "slot-b.img",
        }))
    }
}

impl Host for VirtualNode {
    fn identify(&self) -> Result<Machine, SlotError> {
        Err(SlotError::Ambiguous(String::new()))
    }
    fn boot_id(&self) -> Result<String, SlotError> {
        Err(SlotError::Ambiguous(String::new()))
    }
    fn running_os(&self) -> Result<OsRelease, InspectError> {
        Err(InspectError::NoOsRelease)
    }
    fn open_target(&self, _slot: SlotName, _state_dir: &Path) -> Result<Target, SlotError> {
        Err(SlotError::Ambiguous(String::new()))
    }
    fn check_persistent(&self, _dir: &Path) -> Result<(), NotPersistent> {
        Ok(())
    }
}
