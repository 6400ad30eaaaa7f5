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

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::locate::{Partition, Partitions};
use super::{Host, running};
use crate::blockdev::{BlockDevice, BlockDevices};
use crate::cmdline::CommandLine;
use crate::inspect::{self, InspectError, OsRelease};
use crate::persist::{self, NotPersistent};
use crate::roots::Roots;
use crate::running_root;
use crate::slot::{Machine, Slot, SlotAddress, SlotError, SlotName};
use crate::table;
use crate::target::{self, Protected, Target};

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
    /// The machine it lives on, for slots that are block devices.
    roots: Roots,
}

impl VirtualNode {
    /// The node in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            roots: Roots::default(),
        }
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
        Ok(self.resolve(slot)?.device().to_path_buf())
    }

    /// What `machine.json` says; defaults where there is none.
    fn machine(&self) -> Result<MachineFile, SlotError> {
        let path = self.machine_file();
        let unreadable = |source| SlotError::Unreadable {
            what: "the virtual node's description".to_owned(),
            path: path.clone(),
            source,
        };
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| unreadable(e.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(MachineFile::default()),
            Err(e) => Err(unreadable(e)),
        }
    }

    fn resolve(&self, slot: SlotName) -> Result<Place, SlotError> {
        let machine = self.machine()?;
        let (configured, default) = match slot {
            SlotName::A => (machine.slot_a, "slot-a.img"),
            SlotName::B => (machine.slot_b, "slot-b.img"),
        };
        let text = configured.unwrap_or_else(|| default.to_owned());
        // A name without a slash at its beginning is a file in the folder.
        let path = self.dir.join(&text);
        let address = match text.parse() {
            Ok(address @ (SlotAddress::PartLabel(_) | SlotAddress::PartUuid(_))) => address,
            _ => SlotAddress::Path(path.clone()),
        };
        if let SlotAddress::Path(_) = address {
            let not_found = |e: io::Error| SlotError::NotFound {
                slot,
                address: address.clone(),
                searched: format!("{}: {e}", path.display()),
            };
            let meta = std::fs::metadata(&path).map_err(not_found)?;
            if meta.is_file() {
                return Ok(Place::File {
                    path,
                    identity: (meta.dev(), meta.ino()),
                    size: meta.len(),
                });
            }
            if !meta.file_type().is_block_device() {
                return Err(not_found(io::Error::other(
                    "it is neither a file nor a block device",
                )));
            }
            let device = BlockDevices::new(&self.roots)
                .by_node(&path)
                .map_err(not_found)?;
            // A loop device is a node's slot as its file would be; any other disk is this machine's.
            if device.partition.is_none() && device.is_loop() {
                return Ok(Place::Loop(device));
            }
        }
        let partitions = Partitions::scan(&self.roots)?;
        Ok(Place::Partition(
            partitions.find(&self.roots, slot, &address)?.clone(),
        ))
    }

    fn slots(&self) -> Result<(Place, Place), SlotError> {
        let (a, b) = (self.resolve(SlotName::A)?, self.resolve(SlotName::B)?);
        if a.same_as(&b) {
            return Err(SlotError::Ambiguous(format!(
                "slot A ({}) and slot B ({}) are the same",
                a.device().display(),
                b.device().display()
            )));
        }
        Ok((a, b))
    }

    /// The slot that the firmware started, when both things that it passed say so.
    fn active(&self, line: &CommandLine) -> Result<SlotName, SlotError> {
        let path = self.active_file();
        let text = std::fs::read_to_string(&path).map_err(|source| SlotError::Unreadable {
            what: "the slot that the firmware started".to_owned(),
            path,
            source,
        })?;
        let started: SlotName = text
            .trim()
            .parse()
            .map_err(|e| SlotError::Ambiguous(format!("{}: {e}", self.active_file().display())))?;
        match line.slot().map_err(SlotError::Ambiguous)? {
            Some(told) if told == started => Ok(started),
            Some(told) => Err(SlotError::Ambiguous(format!(
                "the firmware started slot {started} ({}), but the kernel command line says monok8s.slot={told}",
                self.active_file().display()
            ))),
            None => Err(SlotError::Ambiguous(format!(
                "the firmware started slot {started}, but the kernel command line ({}) has no monok8s.slot=",
                self.cmdline().display()
            ))),
        }
    }
}

/// Where a virtual node's slot is.
#[derive(Clone, Debug)]
enum Place {
    File {
        path: PathBuf,
        identity: (u64, u64),
        size: u64,
    },
    Loop(BlockDevice),
    Partition(Partition),
}

impl Place {
    fn device(&self) -> &Path {
        match self {
            Self::File { path, .. } => path,
            Self::Loop(device) | Self::Partition(Partition { device, .. }) => &device.node,
        }
    }

    fn slot(&self, name: SlotName) -> Slot {
        let (size, part_uuid) = match self {
            Self::File { size, .. } => (*size, None),
            Self::Loop(device) => (device.size, None),
            Self::Partition(partition) => (partition.device.size, Some(partition.entry.part_uuid)),
        };
        Slot {
            name,
            device: self.device().to_path_buf(),
            part_uuid,
            size,
        }
    }

    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { identity: a, .. }, Self::File { identity: b, .. }) => a == b,
            (Self::Loop(a), Self::Loop(b)) => a.dev == b.dev,
            (Self::Partition(a), Self::Partition(b)) => a.device.dev == b.device.dev,
            _ => false,
        }
    }
}

impl Host for VirtualNode {
    fn identify(&self) -> Result<Machine, SlotError> {
        let boot_id = self.boot_id()?;
        let line = running::command_line(&self.cmdline())?;
        let active = self.active(&line)?;
        let (a, b) = self.slots()?;
        Ok(Machine {
            active,
            a: a.slot(SlotName::A),
            b: b.slot(SlotName::B),
            boot_id,
            trial: line.trial,
        })
    }

    fn boot_id(&self) -> Result<String, SlotError> {
        super::read_boot_id(&self.boot_id_file())
    }

    fn running_os(&self) -> Result<OsRelease, InspectError> {
        let line = running::command_line(&self.cmdline())?;
        let active = self.active(&line)?;
        Ok(inspect::inspect(&self.slot_device(active)?, &[])?.os_release)
    }

    fn open_target(&self, slot: SlotName, state_dir: &Path) -> Result<Target, SlotError> {
        let machine = self.identify()?;
        let (a, b) = self.slots()?;
        let (place, other) = if slot == SlotName::A { (a, b) } else { (b, a) };
        if slot == machine.active {
            let what = "the running root".to_owned();
            return Err(SlotError::Protected {
                slot,
                device: place.device().to_path_buf(),
                what,
            });
        }
        let device = match &place {
            Place::File { path, size, .. } => {
                return open_file(&self.roots, place.slot(slot), path, *size);
            }
            Place::Loop(device) => device.clone(),
            Place::Partition(partition) => partition.device.clone(),
        };
        // A virtual node's slot may be a real device: then the machine it lives on is protected like any other.
        let mut protected = Protected::default();
        if let Place::Loop(other) | Place::Partition(Partition { device: other, .. }) = other {
            protected.add(
                BTreeSet::from([other.dev]),
                format!("slot {}", slot.other()),
            );
        }
        protected.add(
            running_root::leaves(&self.roots)?,
            "the running root of the machine that the node lives on",
        );
        for dir in [state_dir, self.dir()] {
            let behind = target::devices_behind(&self.roots, dir)?;
            protected.add(
                behind,
                format!("the data partition, on which {} is", dir.display()),
            );
        }
        if let Place::Partition(partition) = &place
            && partition.entry.type_uuid == table::EFI_SYSTEM
        {
            protected.add(BTreeSet::from([device.dev]), "the EFI system partition");
        }
        target::claim(&self.roots, place.slot(slot), &device, &protected)
    }

    fn check_persistent(&self, dir: &Path) -> Result<(), NotPersistent> {
        persist::check_writable(dir)?;
        let no = |why: String| NotPersistent {
            dir: dir.to_path_buf(),
            why,
        };
        let real = |path: &Path| {
            std::fs::canonicalize(path).map_err(|e| no(format!("{}: {e}", path.display())))
        };
        let data = self.data();
        // The node's disk is a folder: only what is below data/ is on its data partition.
        if real(dir)?.starts_with(real(&data)?) {
            Ok(())
        } else {
            Err(no(format!(
                "it is outside {}, the storage that both slots of this node share",
                data.display()
            )))
        }
    }
}

/// Opens a slot's file. A lock stands for the exclusive opening of a block device.
fn open_file(roots: &Roots, slot: Slot, path: &Path, size: u64) -> Result<Target, SlotError> {
    let (name, device) = (slot.name, path.to_path_buf());
    let read_only = |why: String| SlotError::ReadOnly {
        slot: name,
        device: device.clone(),
        why,
    };
    let busy = |by: String| SlotError::Busy {
        slot: name,
        device: device.clone(),
        by,
    };
    let unreadable = |source: io::Error| SlotError::Unreadable {
        what: format!("slot {name}"),
        path: device.clone(),
        source,
    };
    if let Some(by) = loop_device_over(roots, path) {
        return Err(busy(format!("behind {by}")));
    }
    let mode = std::fs::metadata(path).map_err(unreadable)?.mode();
    // The superuser may write to a file whose mode says otherwise; a slot's mode is what the node's owner said.
    if mode & 0o222 == 0 {
        return Err(read_only(format!("its mode is {:o}", mode & 0o7777)));
    }
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| match e.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                read_only(e.to_string())
            }
            _ => unreadable(e),
        })?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| busy("another process has locked it".to_owned()))?;
    let now = file.metadata().map_err(unreadable)?.len();
    if now != size {
        return Err(SlotError::Ambiguous(format!(
            "slot {name}: {} had {size} bytes and has {now} now",
            path.display()
        )));
    }
    Ok(Target { slot, file })
}

/// The loop device, if any, that a file is behind.
fn loop_device_over(roots: &Roots, path: &Path) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    let devices = BlockDevices::new(roots).all().unwrap_or_default();
    devices
        .into_iter()
        .find(|d| d.backing_file().as_deref() == Some(&path))
        .map(|d| d.node.display().to_string())
}
