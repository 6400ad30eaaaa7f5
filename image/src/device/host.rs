//! Devices of this machine.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    num::NonZeroU64,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    },
};

use rustix::{
    fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate, fcntl_getfl, ioctl_blksszget},
    io::Errno,
};

use crate::{
    buffer::{ALIGNMENT, Buffer},
    device::{Access, Device},
    kernel,
};

/// A block device or a regular file of this machine, opened by the caller.
#[derive(Debug)]
pub struct HostDevice {
    name: String,
    /// As handed in. Through the page cache, unless the caller opened it with `O_DIRECT`.
    file: File,
    /// A second description of the same file with `O_DIRECT`.
    direct: Option<File>,
    access: Access,
    size: u64,
    block_device: bool,
    /// What direct I/O wants lengths and offsets to be a multiple of.
    sector: u64,
}

impl HostDevice {
    /// Takes an opened block device or regular file; it must be open for reading and writing.
    ///
    /// Opening decides which device is written, and with `O_EXCL` that nobody else holds it, so it stays with the
    /// caller. A second file description with `O_DIRECT` is made from it through `/proc/self/fd`; where that, or a
    /// first read through it, is refused, I/O is buffered and [`Device::access`] says why.
    pub fn new(file: File, name: impl Into<String>) -> io::Result<Self> {
        let mut device = Self::buffered(file, name, "not tried")?;
        match open_direct(&device.file) {
            Ok(direct) => {
                device.direct = Some(direct);
                device.access = Access::Direct;
            }
            Err(why) => device.access = Access::Buffered { why },
        }
        Ok(device)
    }

    /// As [`HostDevice::new`], but through the page cache; `why` is what [`Device::access`] says.
    pub fn buffered(
        file: File,
        name: impl Into<String>,
        why: impl Into<String>,
    ) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let block_device = metadata.file_type().is_block_device();
        if !block_device && !metadata.file_type().is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a block device nor a regular file",
            ));
        }
        if fcntl_getfl(&file)? & OFlags::RWMODE != OFlags::RDWR {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "not open for reading and writing",
            ));
        }
        let (size, sector) = if block_device {
            (end_of(&file)?, u64::from(ioctl_blksszget(&file)?))
        } else {
            // File systems that want more than a page for direct I/O refuse the first read, and are then buffered.
            (metadata.len(), ALIGNMENT as u64)
        };
        Ok(Self {
            name: name.into(),
            file,
            direct: None,
            access: Access::Buffered { why: why.into() },
            size,
            block_device,
            sector,
        })
    }

    /// The file as it was handed in.
    pub fn into_file(self) -> File {
        self.file
    }

    /// The description that takes this request past the page cache, if it may go there.
    fn direct_for(&self, bytes: &[u8], offset: u64) -> Option<&File> {
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
            && (bytes.len() as u64).is_multiple_of(self.sector)
            && offset.is_multiple_of(self.sector);
        self.direct.as_ref().filter(|_| aligned)
    }
}

impl Device for HostDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn access(&self) -> &Access {
        &self.access
    }

    /// An image's last piece may be no whole number of sectors; that much goes through the page cache, so that the
    /// kernel keeps the rest of the sector.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if let Some(direct) = self.direct_for(bytes, offset) {
            return direct.write_at(bytes, offset);
        }
        let whole_sectors = bytes.len() - bytes.len() % usize::try_from(self.sector).unwrap_or(1);
        match self.direct_for(&bytes[..whole_sectors], offset) {
            Some(direct) if whole_sectors > 0 => direct.write_at(&bytes[..whole_sectors], offset),
            _ => self.file.write_at(bytes, offset),
        }
    }

    /// `BLKZEROOUT` on a block device, a hole in a file.
    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        let cleared = if self.block_device {
            kernel::zero_out(&self.file, offset, length)
        } else {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.file, hole, offset, length)
        };
        cleared.map_err(|errno| match errno {
            // Sectors larger than a page; a file system or a driver without it.
            Errno::INVAL | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::PERM => {
                io::ErrorKind::Unsupported.into()
            }
            errno => errno.into(),
        })
    }

    fn flush(&self) -> io::Result<()> {
        // On a block device this also flushes the drive's own cache, whatever was written through O_DIRECT included.
        self.file.sync_data()
    }

    fn read_back_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(direct) = self.direct_for(buffer, offset) {
            return direct.read_at(buffer, offset);
        }
        // Pages that a flush has made clean are dropped by this; the read then goes to the medium.
        fadvise(
            &self.file,
            offset,
            NonZeroU64::new(buffer.len() as u64),
            Advice::DontNeed,
        )?;
        self.file.read_at(buffer, offset)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.flush()?;
        if self.block_device && kernel::drop_block_device_cache(&self.file).is_ok() {
            return Ok(());
        }
        // A regular file, or a process without CAP_SYS_ADMIN.
        Ok(fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }
}

/// Where a block device ends. Its metadata has no length; its end can be sought.
fn end_of(file: &File) -> io::Result<u64> {
    let mut file = file;
    let position = file.stream_position()?;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(position))?;
    Ok(end)
}

/// A second description of an open file with `O_DIRECT`, tried with one read; or who refused.
fn open_direct(file: &File) -> Result<File, String> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let direct_flag = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(direct_flag)
        .open(&path)
        .map_err(|e| format!("opening it with O_DIRECT: {e}"))?;
    same_file(file, &direct).map_err(|e| format!("reopening it through {path}: {e}"))?;
    direct
        .read_at(&mut Buffer::new(ALIGNMENT), 0)
        .map_err(|e| format!("reading it with O_DIRECT: {e}"))?;
    Ok(direct)
}

/// That two descriptions are of one file: a slot must not become another by way of a path.
fn same_file(a: &File, b: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let identity = |m: fs::Metadata| (m.dev(), m.ino(), m.rdev());
    if identity(a.metadata()?) == identity(b.metadata()?) {
        Ok(())
    } else {
        Err(io::Error::other("it is another file"))
    }
}
