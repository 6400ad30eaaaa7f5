//! Which partition a slot is: looked up in the partition tables as they are on the disks at that moment.

use std::io;
use std::path::Path;

use crate::blockdev::{BlockDevice, BlockDevices};
use crate::device_number::DevNum;
use crate::roots::Roots;
use crate::slot::{Slot, SlotAddress, SlotError, SlotName};
use crate::table::{self, Entry, Table};

/// A partition that the kernel offers and the disk's table describes alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) device: BlockDevice,
    pub(crate) entry: Entry,
}

impl Partition {
    pub(crate) fn slot(&self, name: SlotName) -> Slot {
        Slot {
            name,
            device: self.device.node.clone(),
            part_uuid: Some(self.entry.part_uuid),
            size: self.device.size,
        }
    }
}

/// Every partition of the machine, and what kept others from being looked at.
#[derive(Debug)]
pub(crate) struct Partitions {
    found: Vec<Partition>,
    /// Disks and entries that do not count, and why: for the message when a slot is not found.
    passed_over: Vec<String>,
    disks: usize,
}

impl Partitions {
    /// Reads the table of every disk.
    pub(crate) fn scan(roots: &Roots) -> Result<Self, SlotError> {
        let devices = BlockDevices::new(roots);
        let unreadable = |what: &str, path: &Path, source: io::Error| SlotError::Unreadable {
            what: what.to_owned(),
            path: path.to_path_buf(),
            source,
        };
        let disks = devices
            .disks()
            .map_err(|e| unreadable("the machine's disks", &roots.sys, e))?;
        let mut all = Self {
            found: Vec::new(),
            passed_over: Vec::new(),
            disks: disks.len(),
        };
        for disk in disks {
            let offered = devices.partitions(&disk).unwrap_or_default();
            // A file or volume that merely holds a table (a virtual machine's disk) is not this machine's disk.
            if offered.is_empty() {
                all.passed_over.push(format!(
                    "the kernel offers no partitions of {}",
                    disk.node.display()
                ));
                continue;
            }
            let block_size = disk.logical_block_size().unwrap_or(512);
            match table::read(&disk.node, block_size) {
                Ok(Table::Gpt(entries)) => all.add(&disk, &offered, entries),
                Ok(Table::None) => all.passed_over.push(format!(
                    "{} has no GUID partition table",
                    disk.node.display()
                )),
                Ok(Table::Damaged(why)) => {
                    all.passed_over.push(format!(
                        "the partition table of {} is damaged: {why}",
                        disk.node.display()
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(unreadable("a disk's partition table", &disk.node, e));
                }
                Err(e) => all
                    .passed_over
                    .push(format!("{} could not be read: {e}", disk.node.display())),
            }
        }
        Ok(all)
    }

    fn add(&mut self, disk: &BlockDevice, offered: &[BlockDevice], entries: Vec<Entry>) {
        for entry in entries {
            let Some(device) = offered.iter().find(|d| d.partition == Some(entry.number)) else {
                self.passed_over.push(format!(
                    "the kernel does not know partition {} ({}) of {}: run partx -u on it",
                    entry.number,
                    entry.label,
                    disk.node.display()
                ));
                continue;
            };
            if (device.start, device.size) == (entry.start, entry.size) {
                self.found.push(Partition {
                    device: device.clone(),
                    entry,
                });
            } else {
                self.passed_over.push(format!(
                    "{} is at byte {} with {} bytes for the kernel, but at byte {} with {} bytes ({}) in the table of {}: \
                     run partx -u on it",
                    device.node.display(),
                    device.start,
                    device.size,
                    entry.start,
                    entry.size,
                    entry.label,
                    disk.node.display()
                ));
            }
        }
    }

    /// The one partition at `address`.
    pub(crate) fn find(
        &self,
        roots: &Roots,
        slot: SlotName,
        address: &SlotAddress,
    ) -> Result<&Partition, SlotError> {
        let matching: Vec<&Partition> = match address {
            SlotAddress::PartLabel(label) => self
                .found
                .iter()
                .filter(|p| p.entry.label == *label)
                .collect(),
            SlotAddress::PartUuid(uuid) => self
                .found
                .iter()
                .filter(|p| p.entry.part_uuid == *uuid)
                .collect(),
            SlotAddress::Path(path) => return self.at_path(roots, slot, address, path),
        };
        match matching.as_slice() {
            [one] => Ok(one),
            [] => Err(self.not_found(slot, address)),
            several => Err(SlotError::Ambiguous(format!(
                "slot {slot}: {} partitions are {address}: {}; give each its own, or take the other disk out",
                several.len(),
                several
                    .iter()
                    .map(|p| p.device.node.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            ))),
        }
    }

    fn at_path(
        &self,
        roots: &Roots,
        slot: SlotName,
        address: &SlotAddress,
        path: &Path,
    ) -> Result<&Partition, SlotError> {
        let device = BlockDevices::new(roots)
            .by_node(path)
            .map_err(|_| self.not_found(slot, address))?;
        if device.partition.is_none() {
            return Err(SlotError::Protected {
                slot,
                device: device.node,
                what: "a whole disk".to_owned(),
            });
        }
        self.found
            .iter()
            .find(|p| p.device.dev == device.dev)
            .ok_or_else(|| {
                SlotError::Ambiguous(format!(
                    "slot {slot}: {address} cannot be identified by its disk's partition table: {}",
                    self.passed_over.join("; ")
                ))
            })
    }

    /// The partition with this device number.
    pub(crate) fn by_number(&self, dev: DevNum) -> Option<&Partition> {
        self.found.iter().find(|p| p.device.dev == dev)
    }

    /// The partition `offset` numbers after the one with `uuid`, on the same disk.
    pub(crate) fn by_uuid(&self, uuid: uuid::Uuid, offset: i64) -> Option<&Partition> {
        let first = self.found.iter().find(|p| p.entry.part_uuid == uuid)?;
        let number = i64::from(first.entry.number).checked_add(offset)?;
        let disk = first.device.folder.parent();
        self.found
            .iter()
            .find(|p| i64::from(p.entry.number) == number && p.device.folder.parent() == disk)
    }

    /// The partitions with this label.
    pub(crate) fn by_label(&self, label: &str) -> Vec<&Partition> {
        self.found
            .iter()
            .filter(|p| p.entry.label == label)
            .collect()
    }

    fn not_found(&self, slot: SlotName, address: &SlotAddress) -> SlotError {
        let mut searched = format!(
            "{} partitions of {} disks were looked at",
            self.found.len(),
            self.disks
        );
        // One line each, and not all of a large machine's.
        for why in self.passed_over.iter().take(4) {
            searched.push_str("; ");
            searched.push_str(why);
        }
        SlotError::NotFound {
            slot,
            address: address.clone(),
            searched,
        }
    }
}
