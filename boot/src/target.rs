//! The slot an upgrade writes to, opened.

use std::fs::File;

use crate::slot::Slot;

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
