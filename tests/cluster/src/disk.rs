//! A node's disk, as an installer leaves it.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use monok8s_boot::{SlotName, loader::grub::model};
use monok8s_sandbox::{images::Image, loop_device::LoopDevice};
use uuid::Uuid;

use crate::network::run;

/// Of the partition with GRUB's variables.
const BOOT: u64 = 16 << 20;
/// Room for the tables at both ends, and for alignment.
const TABLES: u64 = 8 << 20;

/// A disk with a partition table: boot, slot A, slot B, data. It goes with the value.
#[derive(Debug)]
pub struct Disk {
    device: LoopDevice,
    slots: [Uuid; 2],
}

impl Disk {
    /// Makes a disk in the file `path` with `image` in slot A, nothing in slot B, boot variables that
    /// start slot A, and an empty data partition. `slot` and `data` are sizes in bytes; the file takes
    /// no room that is not written to.
    pub fn make(path: &Path, image: &Image, slot: u64, data: u64) -> Result<Self> {
        let size = BOOT + 2 * slot + data + TABLES;
        File::create(path)
            .and_then(|file| file.set_len(size))
            .with_context(|| format!("cannot give {} {size} bytes", path.display()))?;
        let slots = [Uuid::new_v4(), Uuid::new_v4()];
        let kib = |bytes: u64| bytes / 1024;
        run(Command::new("sgdisk")
            .arg("--clear")
            .arg(format!("--new=1:0:+{}K", kib(BOOT)))
            .arg("--change-name=1:boot")
            // The labels that the shipped DaemonSet's agent looks for.
            .arg(format!("--new=2:0:+{}K", kib(slot)))
            .arg("--change-name=2:monok8s-a")
            .arg(format!("--partition-guid=2:{}", slots[0]))
            .arg(format!("--new=3:0:+{}K", kib(slot)))
            .arg("--change-name=3:monok8s-b")
            .arg(format!("--partition-guid=3:{}", slots[1]))
            .arg(format!("--new=4:0:+{}K", kib(data)))
            .arg("--change-name=4:data")
            .arg(path))?;
        let device = LoopDevice::attach(path)?;
        device.add_partitions()?;
        let disk = Self { device, slots };
        let tree = tempfile::tempdir().context("no folder for the boot partition's files")?;
        let grub = tree.path().join("grub");
        fs::create_dir(&grub).context("no folder for GRUB's variables")?;
        model::install(&grub.join("grubenv"), SlotName::A, false)
            .context("cannot make GRUB's variables")?;
        let file_system = || {
            let mut command = Command::new("mkfs.ext4");
            command.args(["-q", "-F", "-m", "0", "-E", "nodiscard"]);
            command
        };
        run(file_system().arg("-d").arg(tree.path()).arg(disk.boot()))?;
        run(file_system().arg(disk.data()))?;
        disk.fill_slot_a(&image.expanded)?;
        Ok(disk)
    }

    /// The partition with GRUB's variables.
    pub fn boot(&self) -> PathBuf {
        self.partition(1)
    }

    /// The partition that both slots mount.
    pub fn data(&self) -> PathBuf {
        self.partition(4)
    }

    /// How a slot's partition is found, whatever the disk is called.
    pub fn slot(&self, slot: SlotName) -> String {
        let [a, b] = self.slots;
        format!("PARTUUID={}", if slot == SlotName::A { a } else { b })
    }

    /// Its name in sysfs.
    pub fn name(&self) -> String {
        let name = self.device.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Loop devices' partitions are named this way whatever the kernel (`loop(4)`).
    fn partition(&self, number: u8) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.device.path().display()))
    }

    fn fill_slot_a(&self, image: &Path) -> Result<()> {
        let copy = || -> io::Result<()> {
            let mut from = File::open(image)?;
            let mut to = OpenOptions::new().write(true).open(self.partition(2))?;
            io::copy(&mut from, &mut to)?;
            to.sync_all()
        };
        copy().with_context(|| format!("cannot copy {} to slot A", image.display()))
    }
}
