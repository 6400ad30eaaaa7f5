//! The slot an upgrade writes to: every reason not to write to it, and then its exclusive opening.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::blockdev::{BlockDevice, BlockDevices};
use crate::device_number::DevNum;
use crate::kernel;
use crate::mounts;
use crate::roots::Roots;
use crate::slot::{Slot, SlotError, SlotName};

/// The inactive slot, opened for reading and writing and claimed for this process (`O_EXCL` on a block device).
///
/// While it lives nobody else can mount it or claim it. Its file is at offset 0.
#[derive(Debug)]
pub struct Target {
    /// What was opened.
    pub slot: Slot,
    /// The open device.
    pub file: File,
}

/// Devices that must not be written to, and what each is.
#[derive(Debug, Default)]
pub(crate) struct Protected(Vec<(BTreeSet<DevNum>, String)>);

impl Protected {
    pub(crate) fn add(&mut self, devices: BTreeSet<DevNum>, what: impl Into<String>) {
        self.0.push((devices, what.into()));
    }

    fn check(&self, slot: SlotName, device: &BlockDevice) -> Result<(), SlotError> {
        match self
            .0
            .iter()
            .find(|(devices, _)| devices.contains(&device.dev))
        {
            None => Ok(()),
            Some((_, what)) => Err(SlotError::Protected {
                slot,
                device: device.node.clone(),
                what: what.clone(),
            }),
        }
    }
}

/// What a file or folder is on, down to partitions; empty when it is on no block device.
pub(crate) fn devices_behind(roots: &Roots, stored: &Path) -> Result<BTreeSet<DevNum>, SlotError> {
    let unreadable = |source| SlotError::Unreadable {
        what: "what this is stored on".to_owned(),
        path: stored.to_path_buf(),
        source,
    };
    let dev = DevNum::from_raw(std::fs::metadata(stored).map_err(unreadable)?.dev());
    // This process's own table: the path is its own, whatever the machine calls the place.
    let table = mounts::parse(&std::fs::read("/proc/self/mountinfo").map_err(unreadable)?);
    let devices = BlockDevices::new(roots);
    if dev.major != 0 {
        return devices.leaves(dev, &table).map_err(unreadable);
    }
    if let Some(mount) = table.iter().find(|m| m.dev == dev) {
        return devices.leaves_of_mount(mount, &table).map_err(unreadable);
    }
    // btrfs gives its files another number than its mount.
    let path = std::fs::canonicalize(stored).map_err(unreadable)?;
    let mount = mounts::covering(&table, &path);
    mount
        .map_or(Ok(BTreeSet::new()), |m| devices.leaves_of_mount(m, &table))
        .map_err(unreadable)
}

/// Opens `device` for overwriting, unless there is any reason not to.
pub(crate) fn claim(
    roots: &Roots,
    slot: Slot,
    device: &BlockDevice,
    protected: &Protected,
) -> Result<Target, SlotError> {
    protected.check(slot.name, device)?;
    refuse_busy(roots, slot.name, device)?;
    refuse_read_only(roots, slot.name, device)?;
    let file = open_exclusively(slot.name, device)?;
    verify(&slot, device, &file)?;
    Ok(Target { slot, file })
}

/// Refuses a device that anything uses. What is not visible here (a mount namespace without a process) the exclusive
/// opening refuses.
fn refuse_busy(roots: &Roots, slot: SlotName, device: &BlockDevice) -> Result<(), SlotError> {
    let busy = |by: String| SlotError::Busy {
        slot,
        device: device.node.clone(),
        by,
    };
    let unreadable = |what: &str, path: PathBuf| {
        let what = what.to_owned();
        move |source| SlotError::Unreadable { what, path, source }
    };
    if let Some(by) = mounted_by(roots, device)? {
        return Err(busy(by));
    }
    let swaps = roots.proc.join("swaps");
    let table = std::fs::read(&swaps).map_err(unreadable("the machine's swap areas", swaps))?;
    let devices = BlockDevices::new(roots);
    if swap_areas(&table)
        .iter()
        .any(|path| is_node_of(devices, path, device))
    {
        return Err(busy("swap".to_owned()));
    }
    let holders = device.holders().map_err(unreadable(
        "what is built on the slot",
        device.folder.join("holders"),
    ))?;
    if !holders.is_empty() {
        return Err(busy(format!("held by {}", holders.join(", "))));
    }
    let all = devices
        .all()
        .map_err(unreadable("the machine's block devices", roots.sys.clone()))?;
    for other in all {
        if other
            .backing_file()
            .is_some_and(|file| is_node_of(devices, &file, device))
        {
            return Err(busy(format!("behind {}", other.node.display())));
        }
    }
    Ok(())
}

/// Where any process of the machine has `device` mounted.
fn mounted_by(roots: &Roots, device: &BlockDevice) -> Result<Option<String>, SlotError> {
    let unreadable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| SlotError::Unreadable {
            what: "the mounts of the machine's processes".to_owned(),
            path,
            source,
        }
    };
    let devices = BlockDevices::new(roots);
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(&roots.proc).map_err(unreadable(&roots.proc))? {
        let process = entry.map_err(unreadable(&roots.proc))?;
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        // Processes share namespaces, and see what is below their root: each such view is read once. Where the links
        // cannot be read the table still is.
        let link = |name| std::fs::read_link(process.path().join(name));
        if let (Ok(namespace), Ok(root)) = (link("ns/mnt"), link("root"))
            && !seen.insert((namespace, root))
        {
            continue;
        }
        let path = process.path().join("mountinfo");
        let table = match std::fs::read(&path) {
            Ok(table) => table,
            // Ended meanwhile (ENOENT, ESRCH), or a zombie (EINVAL): it has no mounts.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => continue,
            Err(e) => return Err(unreadable(&path)(e)),
        };
        for mount in mounts::parse(&table) {
            // A file system with a number of its own (btrfs) names its device instead.
            let by_source = || mount.dev.major == 0 && is_node_of(devices, &mount.source, device);
            if mount.dev == device.dev || by_source() {
                return Ok(Some(format!(
                    "mounted at {} (process {pid})",
                    mount.point.display()
                )));
            }
        }
    }
    Ok(None)
}

/// The paths in `/proc/swaps`.
fn swap_areas(table: &[u8]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let first = |line: &[u8]| {
        line.split(u8::is_ascii_whitespace)
            .next()
            .map(mounts::unescape)
    };
    let areas = table.split(|b| *b == b'\n').skip(1).filter_map(first);
    areas
        .filter(|a| !a.is_empty())
        .map(|a| PathBuf::from(std::ffi::OsString::from_vec(a)))
        .collect()
}

fn is_node_of(devices: BlockDevices<'_>, path: &Path, device: &BlockDevice) -> bool {
    path.is_absolute() && devices.by_node(path).is_ok_and(|d| d.dev == device.dev)
}

fn refuse_read_only(roots: &Roots, slot: SlotName, device: &BlockDevice) -> Result<(), SlotError> {
    let disk = BlockDevices::new(roots).disk_of(device);
    let parts = [
        Some(device.clone()),
        disk.ok().filter(|_| device.partition.is_some()),
    ];
    for part in parts.into_iter().flatten() {
        let read_only = part.read_only().map_err(|source| SlotError::Unreadable {
            what: "whether the slot can be written to".to_owned(),
            path: part.folder.join("ro"),
            source,
        })?;
        if read_only {
            return Err(SlotError::ReadOnly {
                slot,
                device: device.node.clone(),
                why: format!("the kernel has {} as read-only", part.node.display()),
            });
        }
    }
    Ok(())
}

fn open_exclusively(slot: SlotName, device: &BlockDevice) -> Result<File, SlotError> {
    let node = device.node.clone();
    let result = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL | libc::O_NOFOLLOW)
        .open(&node);
    result.map_err(|source| match source.raw_os_error() {
        Some(libc::EBUSY) => SlotError::Busy {
            slot,
            device: node,
            by: "another process or the kernel has claimed it".to_owned(),
        },
        Some(libc::EROFS | libc::EACCES | libc::EPERM) => SlotError::ReadOnly {
            slot,
            device: node,
            why: format!("opening it for writing: {source}"),
        },
        _ => SlotError::Unreadable {
            what: format!("slot {slot}"),
            path: node,
            source,
        },
    })
}

/// That what was opened is what was looked up: the node may have been made again for another device meanwhile.
fn verify(slot: &Slot, device: &BlockDevice, file: &File) -> Result<(), SlotError> {
    let unreadable = |source| SlotError::Unreadable {
        what: format!("slot {}", slot.name),
        path: device.node.clone(),
        source,
    };
    let meta = file.metadata().map_err(unreadable)?;
    let opened = DevNum::from_raw(meta.rdev());
    if !meta.file_type().is_block_device() || opened != device.dev {
        return Err(SlotError::Ambiguous(format!(
            "slot {}: {} is not the block device {} that sysfs describes, but {opened}",
            slot.name,
            device.node.display(),
            device.dev,
        )));
    }
    if kernel::block_device_read_only(file).map_err(unreadable)? {
        return Err(SlotError::ReadOnly {
            slot: slot.name,
            device: device.node.clone(),
            why: "the kernel has it as read-only".to_owned(),
        });
    }
    let size = kernel::block_device_size(file).map_err(unreadable)?;
    if size != slot.size {
        return Err(SlotError::Ambiguous(format!(
            "slot {}: {} has {size} bytes now and had {} a moment ago",
            slot.name,
            device.node.display(),
            slot.size,
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_swap_areas() {
        let table = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/vda4                               partition\t1048572\t\t0\t\t-2\n/with\\040space file 1 0 -3\n";
        assert_eq!(
            swap_areas(table),
            ["/dev/vda4", "/with space"].map(PathBuf::from).to_vec()
        );
        assert!(swap_areas(b"Filename Type\n").is_empty());
    }
}
