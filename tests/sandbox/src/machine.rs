//! A virtual node's disks: its folder, and what its slots are.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use monok8s_boot::{
    SlotName,
    host::{MachineFile, VirtualNode},
    loader::grub::model,
};
use uuid::Uuid;

use crate::{images::Image, loop_device::LoopDevice};

/// Room for the partition table at both ends of a disk, and for alignment.
const TABLE: u64 = 4 << 20;

/// What the slots are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// Files in the node's folder.
    #[default]
    Files,
    /// Loop devices over these files; needs root.
    LoopDevices,
    /// Partitions of one disk with a GPT, found by their PARTUUID; needs root and sgdisk.
    Partitions,
}

impl Storage {
    /// Whether this machine lets this process have it. A missing program is an error of
    /// [`Node::start`](crate::node::Node::start), which names its package.
    pub fn available(self) -> bool {
        match self {
            Self::Files => true,
            Self::LoopDevices | Self::Partitions => LoopDevice::available(),
        }
    }
}

/// Lays out a new machine's folder with `image` in slot A, slot B empty, and boot variables that
/// start slot A. The devices are the machine's for as long as they are held.
pub(crate) fn build(
    machine: &VirtualNode,
    image: &Image,
    storage: Storage,
    slot_size: u64,
) -> Result<Vec<LoopDevice>> {
    let boot = machine.grubenv();
    let boot = boot.parent().context("the boot variables have no folder")?;
    for folder in [boot, &machine.data(), &machine.dir().join("run")] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    model::install(&machine.grubenv(), SlotName::A, false)
        .context("cannot make GRUB's variables")?;
    let devices = match storage {
        Storage::Files | Storage::LoopDevices => {
            let files = ["slot-a.img", "slot-b.img"].map(|name| machine.dir().join(name));
            for file in &files {
                grow(file, slot_size)?;
            }
            if storage == Storage::Files {
                Vec::new()
            } else {
                let [a, b] = files;
                let (a, b) = (LoopDevice::attach(&a)?, LoopDevice::attach(&b)?);
                describe(
                    machine,
                    a.path().display().to_string(),
                    b.path().display().to_string(),
                )?;
                vec![a, b]
            }
        }
        Storage::Partitions => vec![partitioned_disk(machine, slot_size)?],
    };
    let slot = machine
        .slot_device(SlotName::A)
        .context("slot A is nowhere")?;
    fill(&slot, &image.expanded)?;
    Ok(devices)
}

/// A disk as an installer leaves it: the slots are its second and third partition, where
/// `grub.cfg` looks for them.
fn partitioned_disk(machine: &VirtualNode, slot_size: u64) -> Result<LoopDevice> {
    let disk = machine.dir().join("disk.img");
    grow(&disk, 2 * slot_size + 2 * TABLE)?;
    let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
    let kib = slot_size / 1024;
    let slots =
        [(2, "slot-a", a), (3, "slot-b", b)]
            .into_iter()
            .flat_map(|(number, label, uuid)| {
                [
                    format!("--new={number}:0:+{kib}K"),
                    format!("--change-name={number}:{label}"),
                    format!("--partition-guid={number}:{uuid}"),
                ]
            });
    let esp = [
        "--clear",
        "--new=1:0:+1M",
        "--typecode=1:ef00",
        "--change-name=1:esp",
    ]
    .map(str::to_owned);
    run(
        Command::new("sgdisk")
            .args(esp.into_iter().chain(slots))
            .arg(&disk),
        "gdisk",
    )?;
    let device = LoopDevice::attach(&disk)?;
    device.add_partitions()?;
    describe(machine, format!("PARTUUID={a}"), format!("PARTUUID={b}"))?;
    Ok(device)
}

fn describe(machine: &VirtualNode, slot_a: String, slot_b: String) -> Result<()> {
    let description = MachineFile {
        slot_a: Some(slot_a),
        slot_b: Some(slot_b),
    };
    let text =
        serde_json::to_string_pretty(&description).context("machine.json cannot be written")?;
    fs::write(machine.machine_file(), text).context("machine.json cannot be written")
}

fn grow(file: &Path, size: u64) -> Result<()> {
    File::create(file)
        .and_then(|file| file.set_len(size))
        .with_context(|| format!("cannot give {} {size} bytes", file.display()))
}

/// Copies an image to the beginning of a slot.
fn fill(slot: &Path, image: &Path) -> Result<()> {
    let mut from = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    let mut to = OpenOptions::new()
        .write(true)
        .open(slot)
        .with_context(|| format!("cannot open {}", slot.display()))?;
    std::io::copy(&mut from, &mut to)
        .and_then(|_| to.sync_all())
        .with_context(|| format!("cannot copy {} to {}", image.display(), slot.display()))
}

/// Whether an error of [`run`] says that there is no such program.
pub(crate) fn is_missing_program(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Runs a program of a Debian package.
pub(crate) fn run(command: &mut Command, package: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}, which is part of the package {package}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
