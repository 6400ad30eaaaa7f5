//! Device numbers, as stat(2), sysfs and mount tables give them.

use std::fmt;
use std::io;
use std::str::FromStr;

/// A block device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevNum {
    /// The driver's number. 0: no block device (tmpfs, overlay, btrfs, a network file system).
    pub major: u32,
    /// The device's number within it.
    pub minor: u32,
}

impl DevNum {
    /// From what stat(2) gives.
    pub fn from_raw(dev: u64) -> Self {
        Self {
            major: rustix::fs::major(dev),
            minor: rustix::fs::minor(dev),
        }
    }
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DevNum {
    type Err = io::Error;

    /// `254:2`
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{s:?} is no device number"),
            )
        };
        let (major, minor) = s.trim().split_once(':').ok_or_else(invalid)?;
        Ok(Self {
            major: major.parse().map_err(|_| invalid())?,
            minor: minor.parse().map_err(|_| invalid())?,
        })
    }
}
