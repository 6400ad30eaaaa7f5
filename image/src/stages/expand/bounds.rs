//! What the image's length is held against: the slot, and the catalog's promise where there is one.

use crate::error::InstallError;

/// See the module.
pub(crate) struct Bounds<'a> {
    pub(crate) device: &'a str,
    pub(crate) capacity: u64,
    pub(crate) promised: Option<u64>,
}

impl Bounds<'_> {
    /// Not one byte more than this reaches the device.
    pub(super) fn most(&self) -> u64 {
        self.promised.unwrap_or(u64::MAX).min(self.capacity)
    }

    /// A header says that the image has at least so many bytes.
    pub(super) fn announced(&self, size: u64) -> Result<(), InstallError> {
        match self.promised {
            Some(promised) if size > promised => Err(InstallError::SizeMismatch {
                expected: promised,
                found: size,
                at_least: true,
            }),
            _ if size > self.capacity => Err(self.too_large(Some(size))),
            _ => Ok(()),
        }
    }

    /// There is one byte more than [`Bounds::most`].
    pub(super) fn exceeded(&self) -> InstallError {
        match self.promised {
            Some(promised) => InstallError::SizeMismatch {
                expected: promised,
                found: self.most() + 1,
                at_least: true,
            },
            None => self.too_large(None),
        }
    }

    /// The image has ended.
    pub(super) fn ended(&self, size: u64) -> Result<(), InstallError> {
        match self.promised {
            Some(promised) if promised != size => Err(InstallError::SizeMismatch {
                expected: promised,
                found: size,
                at_least: false,
            }),
            _ => Ok(()),
        }
    }

    fn too_large(&self, size: Option<u64>) -> InstallError {
        InstallError::ImageTooLarge {
            device: self.device.to_owned(),
            size,
            capacity: self.capacity,
        }
    }
}
