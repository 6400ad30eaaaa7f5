//! What an image is written to.

mod guarded;
mod host;
pub(crate) mod whole;

use std::{fmt, io};

pub use guarded::Guarded;
pub use host::HostDevice;

/// A block device or something that behaves like one.
///
/// Offsets and sizes are bytes. Reads and writes may be short, as the kernel's are; a write of 0 bytes is an error
/// to the caller. The engine hands over buffers aligned to 4096 bytes, at offsets that are multiples of 4096; only
/// the last piece of an image may have another length.
pub trait Device: Send + Sync {
    /// What to call it in messages: `/dev/vda3`.
    fn name(&self) -> &str;

    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Whether the page cache stands between this process and the medium.
    fn access(&self) -> &Access;

    /// Writes some of `bytes` at `offset`; how many, is returned.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes `length` bytes at `offset` zeros without any being transferred: what is read there afterwards is zeros, and
    /// a flush makes that durable as it does a write. Whole pages; all or nothing where it returns.
    ///
    /// [`io::ErrorKind::Unsupported`], which is also what it says when not implemented, means that this device cannot:
    /// zeros are then written.
    fn clear_at(&self, offset: u64, length: u64) -> io::Result<()> {
        let _ = (offset, length);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes all that was written durable. Called beside writes on another thread; covers those that have returned.
    fn flush(&self) -> io::Result<()>;

    /// Reads from the medium, not from a cache of what was written; 0 is the device's end. What it returns is only
    /// defined for bytes that a flush has made durable.
    fn read_back_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Makes sure that whoever reads the device through the page cache next sees the medium.
    fn drop_cache(&self) -> io::Result<()>;
}

/// How a device is read and written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Past the page cache (`O_DIRECT`).
    Direct,
    /// Through the page cache, with fsync and a drop of the cache before each read-back, because direct I/O was refused.
    Buffered {
        /// Who refused what.
        why: String,
    },
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct I/O"),
            Self::Buffered { why } => write!(f, "buffered I/O ({why})"),
        }
    }
}
