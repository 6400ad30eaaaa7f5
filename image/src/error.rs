//! Why an installation did not succeed.

use std::{fmt, io};

use crate::Digest;

/// Bytes done, and of how many where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Bytes done.
    pub bytes: u64,
    /// Of how many.
    pub total: Option<u64>,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            Some(total) => write!(f, "{} of {total} bytes", self.bytes),
            None => write!(f, "{} bytes", self.bytes),
        }
    }
}

/// Why an installation did not succeed.
///
/// Unless the variant says otherwise the slot has been written to in part and holds no system.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The reader failed. Its own error is inside, for the caller to downcast: this crate knows no networks.
    #[error("the source failed after {file_bytes} bytes of the file: {error}")]
    Source {
        /// Bytes of the file that had come.
        file_bytes: u64,
        /// The reader's error.
        #[source]
        error: io::Error,
    },

    /// The file is no image in a format that is read. Nothing was written.
    #[error(
        "the file is no image that can be installed (zstd, gzip, xz or uncompressed): it looks like {looks_like}"
    )]
    NotAnImage {
        /// What it looks like instead, as told by its first bytes.
        looks_like: &'static str,
    },

    /// A frame asks for a larger window, that is more memory, than the decoder may take.
    #[error(
        "the image needs a decoder window of {window} bytes, the limit is {limit}: compress it with a smaller window (zstd without --long or --ultra, xz with a dictionary of that size), or raise --window-limit"
    )]
    WindowTooLarge {
        /// What a header asks for, in bytes; of xz it is the dictionary.
        window: u64,
        /// The limit, in bytes.
        limit: u64,
    },

    /// The compressed stream is damaged or ends early.
    #[error(
        "the compressed stream is no good at byte {file_bytes} of the file, after {expanded} of the image: {detail}"
    )]
    DecodeFailed {
        /// Bytes of the file that had been decoded.
        file_bytes: u64,
        /// Expanded bytes by then.
        expanded: Done,
        /// The decoder's word.
        detail: String,
    },

    /// The expanded image does not fit. Where its size was known nothing was written.
    #[error("the expanded image ({}) does not fit into {device} ({capacity} bytes)", match .size { Some(size) => format!("{size} bytes"), None => "larger than that, its size is not known".to_owned() })]
    ImageTooLarge {
        /// The device.
        device: String,
        /// The image's expanded size; None when it was not known and the image went past the device's end.
        size: Option<u64>,
        /// The device's size.
        capacity: u64,
    },

    /// The expanded image has another size than promised by the catalog or by its own header.
    #[error("the expanded image has {} bytes, {expected} were promised", match .at_least { true => format!("at least {found}"), false => found.to_string() })]
    SizeMismatch {
        /// What was promised.
        expected: u64,
        /// What came.
        found: u64,
        /// The image was not read to its end: it is larger still, or as large as its header says.
        at_least: bool,
    },

    /// Neither the file nor the image has the promised SHA-256.
    #[error(
        "the checksum does not match: expected {expected}, the file's is {file}, the expanded image's is {image}"
    )]
    ChecksumMismatch {
        /// The promise.
        expected: Digest,
        /// Of the file.
        file: Digest,
        /// Of the expanded image, as read back from the device.
        image: Digest,
    },

    /// The device refused a write, to make zeros, or a flush.
    #[error("{device} failed to {operation} at byte {offset}, {proven} proven: {error}")]
    WriteFailed {
        /// The device.
        device: String,
        /// `write`, `clear` or `flush`.
        operation: &'static str,
        /// Where, in bytes from the device's start.
        offset: u64,
        /// Bytes proven by then.
        proven: Done,
        /// The device's error.
        #[source]
        error: io::Error,
    },

    /// The device could not be read, so that nothing is proven.
    #[error("{device} failed to read back at byte {offset}, {proven} proven: {error}")]
    ReadBackFailed {
        /// The device.
        device: String,
        /// Where, in bytes from the device's start.
        offset: u64,
        /// Bytes proven by then.
        proven: Done,
        /// The device's error.
        #[source]
        error: io::Error,
    },

    /// The medium does not hold what was written to it.
    #[error(
        "{device} does not hold what was written: the {length} bytes at byte {offset} read back differently, {proven} proven"
    )]
    ReadBackMismatch {
        /// The device.
        device: String,
        /// Where the differing piece begins, in bytes from the device's start.
        offset: u64,
        /// The piece's length in bytes.
        length: u64,
        /// Bytes proven by then.
        proven: Done,
    },

    /// The observer said stop.
    #[error("cancelled after {written} were written")]
    Cancelled {
        /// Bytes handed to the device.
        written: Done,
    },

    /// This process could not get what it needs (threads, memory). Nothing is known against file or device.
    #[error("the installation could not be run: {0}")]
    Resources(#[source] io::Error),
}
