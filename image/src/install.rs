//! The installation of one image.

use std::{io::Read, ops::ControlFlow};

use crate::{
    Access, Decoder, Device, Digest, InstallError, Progress, StageTimes,
    stages::{
        control::Control,
        expand::Bounds,
        run::{self, Watcher},
    },
};

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
    source: &mut (dyn Read + Send),
    device: &dyn Device,
    expectation: &Expectation,
    observer: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Installed, InstallError> {
    let capacity = device.size();
    if let Some(size) = expectation.size.filter(|&size| size > capacity) {
        return Err(InstallError::ImageTooLarge {
            device: device.name().to_owned(),
            size: Some(size),
            capacity,
        });
    }
    let decoder = Decoder::new(expectation.window_limit).map_err(InstallError::Resources)?;
    let control = Control::new(expectation.size);
    let mut watcher = Watcher::new(&control, observer)?;
    let bounds = Bounds {
        device: device.name(),
        capacity,
        promised: expectation.size,
    };
    let (expanded, mut times) = run::stream(source, device, &bounds, decoder, &mut watcher)?;

    let image_digest = if expanded.file_digest == expectation.checksum {
        None
    } else {
        let length = expanded.image_bytes;
        let (digest, hash_image) = run::hash_image(device, length, &mut watcher)?;
        if digest != expectation.checksum {
            return Err(InstallError::ChecksumMismatch {
                expected: expectation.checksum,
                file: expanded.file_digest,
                image: digest,
            });
        }
        times.hash_image = hash_image;
        Some(digest)
    };

    device
        .drop_cache()
        .map_err(|error| InstallError::WriteFailed {
            device: device.name().to_owned(),
            operation: "flush",
            offset: expanded.image_bytes,
            proven: control.proven(),
            error,
        })?;
    Ok(Installed {
        matched: match image_digest {
            None => ChecksumMatched::File,
            Some(_) => ChecksumMatched::Image,
        },
        file_digest: expanded.file_digest,
        image_digest,
        file_bytes: expanded.file_bytes,
        image_bytes: expanded.image_bytes,
        access: device.access().clone(),
        times,
    })
}
