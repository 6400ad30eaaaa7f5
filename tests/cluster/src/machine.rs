//! A node as its own first process must know it, and where its files are.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use monok8s_boot::{
    SlotName,
    host::{MachineFile, VirtualNode},
};
use serde::{Deserialize, Serialize};

/// A node's machine. Written to its folder for the program that becomes the node's first process.
///
/// ```text
/// FOLDER/machine.json       this
/// FOLDER/disk.img           the disk
/// FOLDER/firmware/          what the firmware sees: boot/ is where it mounts the boot partition
/// FOLDER/etc/               what lies over the slot's /etc
/// FOLDER/root/              where the slot is mounted before it becomes the root
/// FOLDER/booted.json        what came up
/// FOLDER/failing-trials     how many trial boots are still to hang
/// FOLDER/kubelet-held       whether the next boot is to leave the kubelet down
/// FOLDER/console.log        what a screen would show
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The node's name.
    pub name: String,
    /// Its number, from 1 on.
    pub number: u8,
    /// Its folder.
    pub folder: PathBuf,
    /// The disk's name in sysfs.
    pub disk: String,
    /// How slot A's partition is found.
    pub slot_a: String,
    /// How slot B's partition is found.
    pub slot_b: String,
    /// The device of the boot partition.
    pub boot: PathBuf,
    /// The device of the data partition.
    pub data: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// Where everything goes that no route says otherwise of.
    pub gateway: Ipv4Addr,
    /// The other nodes' pods, and the nodes that they are behind.
    pub routes: Vec<(String, Ipv4Addr)>,
    /// The folder with the container runtime's programs.
    pub runtime: PathBuf,
    /// The kubelet.
    pub kubelet: PathBuf,
    /// Archives of container images that are part of the system.
    pub images: Vec<PathBuf>,
    /// The control groups that it runs in.
    pub groups: Vec<PathBuf>,
}

/// What came up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// The slot.
    pub slot: SlotName,
    /// Whether for a trial.
    pub trial: bool,
    /// The kernel's identifier of this boot, which the kubelet reports.
    pub boot_id: String,
    /// The version that the slot says it is.
    pub version: String,
}

impl Machine {
    /// Reads the description in a node's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        read(&folder.join("machine.json"))
    }

    /// Writes it, and what the firmware knows of the slots.
    pub fn write(&self) -> Result<()> {
        let view = self.firmware();
        fs::create_dir_all(view.dir()).context("no folder for the firmware")?;
        let slots = MachineFile {
            slot_a: Some(self.slot_a.clone()),
            slot_b: Some(self.slot_b.clone()),
        };
        write(&view.machine_file(), &slots)?;
        write(&self.folder.join("machine.json"), self)
    }

    /// What the firmware sees.
    pub fn firmware(&self) -> VirtualNode {
        VirtualNode::new(self.folder.join("firmware"))
    }

    /// How a slot's partition is found: the kernel's `root=`.
    pub fn slot(&self, slot: SlotName) -> &str {
        match slot {
            SlotName::A => &self.slot_a,
            SlotName::B => &self.slot_b,
        }
    }

    /// What lies over the slot's `/etc`.
    pub fn etc(&self) -> PathBuf {
        self.folder.join("etc")
    }

    /// Where the slot is mounted first.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// What a screen would show.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// What came up; none before it has.
    pub fn booted(&self) -> Option<Booted> {
        read(&self.booted_file()).ok()
    }

    /// Says what came up.
    pub fn write_booted(&self, booted: &Booted) -> Result<()> {
        write(&self.booted_file(), booted)
    }

    /// Nothing came up yet.
    pub fn clear_booted(&self) {
        // There is none before the first boot.
        let _ = fs::remove_file(self.booted_file());
    }

    fn booted_file(&self) -> PathBuf {
        self.folder.join("booted.json")
    }

    /// Lets the next trial boots hang.
    pub fn set_failing_trials(&self, number: u32) -> Result<()> {
        write(&self.failing_trials_file(), &number)
    }

    /// Whether this trial boot is to hang; it is counted.
    pub fn trial_hangs(&self) -> bool {
        let left: u32 = read(&self.failing_trials_file()).unwrap_or_default();
        left > 0 && self.set_failing_trials(left - 1).is_ok()
    }

    /// Lets the next boot leave the kubelet down.
    pub fn hold_kubelet(&self) -> Result<()> {
        write(&self.kubelet_held_file(), &true)
    }

    /// Whether this boot is to leave the kubelet down; the next one is not.
    pub fn takes_kubelet_held(&self) -> bool {
        fs::remove_file(self.kubelet_held_file()).is_ok()
    }

    fn kubelet_held_file(&self) -> PathBuf {
        self.folder.join("kubelet-held")
    }

    fn failing_trials_file(&self) -> PathBuf {
        self.folder.join("failing-trials")
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not one", path.display()))
}

/// Whole or not at all: its reader may look at any time.
fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
