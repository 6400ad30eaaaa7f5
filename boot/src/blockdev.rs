//! Block devices as sysfs describes them (`Documentation/ABI/stable/sysfs-block` in the kernel's sources).
//!
//! Which disk a partition belongs to, its number and its name are read there. They are never derived from a name:
//! `nvme0n1p3` and `loop0p3` do not end the way `sda3` does.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::device_number::DevNum;
use crate::mounts::{self, Mount};
use crate::roots::Roots;

/// One block device, as sysfs described it when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its number.
    pub dev: DevNum,
    /// Its folder in sysfs.
    pub folder: PathBuf,
    /// Its node's path, as this process reaches it.
    pub node: PathBuf,
    /// Its partition number on its disk; `None` when it is no partition.
    pub partition: Option<u32>,
    /// Where it begins on its disk, in bytes. 0 when it is no partition.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
}

impl BlockDevice {
    /// Whether the kernel refuses writes to it.
    pub fn read_only(&self) -> io::Result<bool> {
        Ok(attribute(&self.folder, "ro")? == "1")
    }

    /// Names of the devices that are built on it (device mapper, RAID).
    pub fn holders(&self) -> io::Result<Vec<String>> {
        names_in(&self.folder.join("holders"))
    }

    /// For a loop device that is in use: the file behind it.
    pub fn backing_file(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt as _;
        let text = fs::read(self.folder.join("loop/backing_file")).ok()?;
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(text)))
    }

    /// Whether it is a loop device.
    pub fn is_loop(&self) -> bool {
        self.folder.join("loop").is_dir()
    }

    /// Size of its logical blocks in bytes, in which its partition table counts.
    pub fn logical_block_size(&self) -> io::Result<u64> {
        number(&self.folder.join("queue"), "logical_block_size")
    }
}

/// The machine's block devices.
#[derive(Clone, Copy, Debug)]
pub struct BlockDevices<'r> {
    roots: &'r Roots,
}

impl<'r> BlockDevices<'r> {
    /// Seen through these folders.
    pub fn new(roots: &'r Roots) -> Self {
        Self { roots }
    }

    /// The device with this number.
    pub fn by_number(self, dev: DevNum) -> io::Result<BlockDevice> {
        let link = self.roots.sys.join("dev/block").join(dev.to_string());
        self.describe(&fs::canonicalize(link)?)
    }

    /// The device whose node is at `path`, links followed.
    pub fn by_node(self, path: &Path) -> io::Result<BlockDevice> {
        let node = fs::canonicalize(self.here(path))?;
        let dev_root = fs::canonicalize(&self.roots.dev)?;
        let name = node.strip_prefix(&dev_root).map_err(|_| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is not in {}", node.display(), dev_root.display()),
            )
        })?;
        for entry in fs::read_dir(self.roots.sys.join("class/block"))? {
            let Ok(folder) = fs::canonicalize(entry?.path()) else {
                continue;
            };
            if device_name(&folder).is_ok_and(|n| Path::new(&n) == name) {
                return self.describe(&folder);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} is no block device", path.display()),
        ))
    }

    /// Every device that is no partition and has a medium.
    pub fn disks(self) -> io::Result<Vec<BlockDevice>> {
        Ok(self
            .all()?
            .into_iter()
            .filter(|d| d.partition.is_none() && d.size > 0)
            .collect())
    }

    /// Every device, by number.
    pub fn all(self) -> io::Result<Vec<BlockDevice>> {
        let mut devices = Vec::new();
        for entry in fs::read_dir(self.roots.sys.join("class/block"))? {
            // A device may go away while the folder is read; a hidden one (an NVMe path) has no number.
            let Ok(folder) = fs::canonicalize(entry?.path()) else {
                continue;
            };
            devices.extend(self.describe(&folder).ok());
        }
        devices.sort_by_key(|d| d.dev);
        Ok(devices)
    }

    /// The partitions of `disk` that the kernel offers.
    pub fn partitions(self, disk: &BlockDevice) -> io::Result<Vec<BlockDevice>> {
        let mut partitions = Vec::new();
        for entry in fs::read_dir(&disk.folder)? {
            let folder = entry?.path();
            if folder.join("partition").is_file() {
                partitions.push(self.describe(&folder)?);
            }
        }
        partitions.sort_by_key(|p| p.partition);
        Ok(partitions)
    }

    /// The disk of a partition.
    pub fn disk_of(self, partition: &BlockDevice) -> io::Result<BlockDevice> {
        // In sysfs a partition's folder is in its disk's.
        let folder = partition.folder.parent().unwrap_or(&partition.folder);
        self.describe(folder)
    }

    /// What `dev` is made of: followed through device mapper (dm-verity, dm-crypt, LVM), RAID and loop devices down to
    /// partitions and to disks without any. `mounts` is the table in which loop devices' files are looked up.
    pub fn leaves(self, dev: DevNum, mounts: &[Mount]) -> io::Result<BTreeSet<DevNum>> {
        let mut leaves = BTreeSet::new();
        self.follow(dev, mounts, 0, &mut leaves)?;
        Ok(leaves)
    }

    /// What the file system of `mount` is on, as [`leaves`](Self::leaves). Followed through overlays; a layer without
    /// a block device (tmpfs) adds nothing.
    pub fn leaves_of_mount(self, mount: &Mount, mounts: &[Mount]) -> io::Result<BTreeSet<DevNum>> {
        let mut leaves = BTreeSet::new();
        self.follow_mount(mount, mounts, 0, &mut leaves)?;
        Ok(leaves)
    }

    fn follow(
        self,
        dev: DevNum,
        mounts: &[Mount],
        depth: u32,
        leaves: &mut BTreeSet<DevNum>,
    ) -> io::Result<()> {
        check_depth(depth)?;
        let device = self.by_number(dev)?;
        if device.partition.is_some() {
            leaves.insert(dev);
            return Ok(());
        }
        let slaves = names_in(&device.folder.join("slaves")).unwrap_or_default();
        for slave in &slaves {
            let folder = fs::canonicalize(device.folder.join("slaves").join(slave))?;
            self.follow(self.describe(&folder)?.dev, mounts, depth + 1, leaves)?;
        }
        if !slaves.is_empty() {
            return Ok(());
        }
        let Some(file) = device.backing_file() else {
            leaves.insert(dev);
            return Ok(());
        };
        // A loop device over another device's node, or over a file.
        if let Ok(below) = self.by_node(&file) {
            return self.follow(below.dev, mounts, depth + 1, leaves);
        }
        if let Some(mount) = mounts::covering(mounts, &file) {
            return self.follow_mount(mount, mounts, depth + 1, leaves);
        }
        leaves.insert(dev);
        Ok(())
    }

    fn follow_mount(
        self,
        mount: &Mount,
        mounts: &[Mount],
        depth: u32,
        leaves: &mut BTreeSet<DevNum>,
    ) -> io::Result<()> {
        check_depth(depth)?;
        if mount.dev.major != 0 {
            return self.follow(mount.dev, mounts, depth + 1, leaves);
        }
        if mount.fs_type == "overlay" {
            for layer in mount.overlay_layers() {
                match mounts::covering(mounts, &layer) {
                    // The layer's own mount is hidden: nothing can be said of it.
                    Some(below) if below.id == mount.id => {}
                    Some(below) => self.follow_mount(below, mounts, depth + 1, leaves)?,
                    None => {}
                }
            }
            return Ok(());
        }
        // File systems with a number of their own on a block device that they name: btrfs, bcachefs.
        match self.by_node(&mount.source) {
            Ok(device) => self.follow(device.dev, mounts, depth + 1, leaves),
            Err(_) => Ok(()),
        }
    }

    /// A path of the machine's `/dev` as this process reaches it.
    fn here(self, path: &Path) -> PathBuf {
        match path.strip_prefix("/dev") {
            Ok(name) => self.roots.dev.join(name),
            Err(_) => path.to_path_buf(),
        }
    }

    fn describe(self, folder: &Path) -> io::Result<BlockDevice> {
        let is_partition = folder.join("partition").is_file();
        // sysfs counts in 512 bytes whatever the disk's blocks are.
        let bytes = |name| Ok::<_, io::Error>(number(folder, name)?.saturating_mul(512));
        Ok(BlockDevice {
            dev: attribute(folder, "dev")?.parse()?,
            folder: folder.to_path_buf(),
            node: self.roots.dev.join(device_name(folder)?),
            partition: if is_partition {
                Some(u32::try_from(number(folder, "partition")?).map_err(io::Error::other)?)
            } else {
                None
            },
            start: if is_partition { bytes("start")? } else { 0 },
            size: bytes("size")?,
        })
    }
}

fn check_depth(depth: u32) -> io::Result<()> {
    if depth > 32 {
        Err(io::Error::other(
            "block devices are stacked more than 32 deep",
        ))
    } else {
        Ok(())
    }
}

/// The node's name below `/dev`, as the kernel tells udev.
fn device_name(folder: &Path) -> io::Result<String> {
    let uevent = fs::read_to_string(folder.join("uevent"))?;
    let name = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(str::to_owned).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} has no node", folder.display()),
        )
    })
}

fn attribute(folder: &Path, name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(folder.join(name))?.trim().to_owned())
}

fn number(folder: &Path, name: &str) -> io::Result<u64> {
    let text = attribute(folder, name)?;
    text.parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}/{name} is no number: {text:?}", folder.display()),
        )
    })
}

fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
