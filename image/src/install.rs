//! The installation of one image.

use std::{io::Read, ops::ControlFlow};

use crate::{
    Access, Device, Digest, InstallError, Observer, Progress, StageTimes, Start, WindowLimit,
    checkpoint,
    stages::{
        control::Control,
        expand::Bounds,
        run::{self, Orders, Streamed, Watcher},
    },
};

/// What was promised of the image.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// SHA-256 of the file or of the expanded image; a catalog need not say which.
    pub checksum: Digest,
    /// The expanded image's size in bytes, where the catalog has it.
    pub size: Option<u64>,
    /// The largest decoder window that is accepted.
    pub window_limit: WindowLimit,
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
    /// The image's SHA-256, as read back from the device. Computed where the checksum is not the file's, and beside the
    /// read-back where the image comes in small frames: such a file was made by [`crate::pack()`], and its
    /// catalog entry names the image's.
    pub image_digest: Option<Digest>,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// The image's length in bytes.
    pub image_bytes: u64,
    /// So many bytes of the image were there from an earlier run, and were read again.
    pub resumed_at: u64,
    /// Whether the page cache stood between; then the read-back relied on the kernel dropping it.
    pub access: Access,
    /// Where the time went.
    pub times: StageTimes,
}

/// How an image is installed. The default is what [`install`] does.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Reads the device before it is written to, and writes only the pages that differ: for flash, which wears. Takes
    /// longer.
    pub compare_before_write: bool,
    /// What a checkpoint is bound to: whatever makes this installation another than any other one (the object, its
    /// attempt, the checksum, the partition). Without it there are no checkpoints.
    pub binding: Option<Vec<u8>>,
}

/// Streams an image from `source` to `device` and proves what the device then holds.
///
/// What follows the image on the device is left as it is: a file system knows its own size, and clearing the rest
/// would cost writes for nothing. Runs of zeros cost no writes where the device can clear ([`Device::clear_at`]).
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
    let mut observer = observer;
    install_from(
        Start::at_the_beginning(),
        source,
        device,
        expectation,
        &Options::default(),
        &mut observer,
    )
}

/// As [`install`], from where an earlier run was ([`Start::verify`]), with options. `source` begins at
/// [`Start::file_bytes`] of the file.
///
/// A failure of the file's own ([`InstallError::DecodeFailed`], [`InstallError::ChecksumMismatch`]) after a start that
/// was not at the beginning may come of a source that is another file than it was then.
pub fn install_from(
    start: Start,
    source: &mut (dyn Read + Send),
    device: &dyn Device,
    expectation: &Expectation,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Installed, InstallError> {
    let capacity = device.size();
    if let Some(size) = expectation.size.filter(|&size| size > capacity) {
        return Err(InstallError::ImageTooLarge {
            device: device.name().to_owned(),
            size: Some(size),
            capacity,
        });
    }
    let resumed_at = start.image_bytes();
    let bound = expectation.size.unwrap_or(capacity);
    if resumed_at > bound {
        return Err(InstallError::SizeMismatch {
            expected: bound,
            found: resumed_at,
            at_least: true,
        });
    }
    let control = Control::new(Progress {
        file_bytes: start.file_bytes(),
        written: resumed_at,
        proven: resumed_at,
        hashed: resumed_at,
        total: expectation.size,
        ..Progress::default()
    });
    if resumed_at > 0 {
        // The hash of what is there already was taken when it was verified.
        control.hash_the_image();
    }
    let mut watcher = Watcher::new(&control, observer)?;
    let orders = Orders {
        device,
        bounds: Bounds {
            device: device.name(),
            capacity,
            promised: expectation.size,
        },
        window_limit: expectation.window_limit,
        start,
        compare_before_write: options.compare_before_write,
        binding: options.binding.as_deref().map(checkpoint::bind),
    };
    let Streamed {
        expanded,
        mut image_digest,
        mut times,
    } = run::stream(source, orders, &mut watcher)?;

    let matched = if expanded.file_digest == expectation.checksum {
        ChecksumMatched::File
    } else {
        let digest = if let Some(digest) = image_digest {
            digest
        } else {
            let seen = run::read_again(device, expanded.image_bytes, &mut watcher)?;
            times.hash_image = seen.hash_image;
            Digest::of(seen.image_hash)
        };
        image_digest = Some(digest);
        if digest != expectation.checksum {
            return Err(InstallError::ChecksumMismatch {
                expected: expectation.checksum,
                file: expanded.file_digest,
                image: digest,
            });
        }
        ChecksumMatched::Image
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
        matched,
        file_digest: expanded.file_digest,
        image_digest,
        file_bytes: expanded.file_bytes,
        image_bytes: expanded.image_bytes,
        resumed_at,
        access: device.access().clone(),
        times,
    })
}
