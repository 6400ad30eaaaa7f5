//! What the boot loader starts next.

use std::path::PathBuf;

use crate::Reason;
use crate::slot::SlotName;

mod change;
pub mod grub;
pub mod hook;

/// Which boot loader a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoaderKind {
    /// GNU GRUB, with the shipped `grub.cfg`.
    Grub,
    /// A program of the integrator's.
    Hook,
}

/// The boot loader's variables, as they are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootState {
    /// The slot that is started when there is no trial. `None` when the variables name none: the loader then takes
    /// the first slot that may be started.
    pub default: Option<SlotName>,
    /// The slot that is started once, at the next boot.
    pub trial: Option<SlotName>,
    /// Whether slot A may be started at all.
    pub a_ok: bool,
    /// Whether slot B may be started at all.
    pub b_ok: bool,
}

impl BootState {
    /// Whether `slot` may be started at all.
    pub fn ok(&self, slot: SlotName) -> bool {
        match slot {
            SlotName::A => self.a_ok,
            SlotName::B => self.b_ok,
        }
    }
}

/// A boot loader's variables: read them, and change them for one trial boot or for good.
///
/// Every change is written, flushed, read back from the disk and compared before it returns `Ok`; on an error the
/// change may or may not be on disk, and [`state`](Self::state) tells. Calls of one process must not overlap.
pub trait BootLoader: Send + Sync + std::fmt::Debug {
    /// Which loader it is.
    fn kind(&self) -> LoaderKind;

    /// The variables, as they are on disk now.
    fn state(&self) -> Result<BootState, LoaderError>;

    /// Before the first byte is written to `slot`: it is not started any more, neither as a trial nor as a fallback.
    /// Refused when the other slot is marked bad: something must be left that can be started.
    fn mark_unbootable(&self, slot: SlotName) -> Result<(), LoaderError>;

    /// The next boot, and only that one, starts `slot`; every one after it the other slot, which becomes the default
    /// if it is not. Refused when that one is marked bad: a trial needs something to fall back to.
    fn try_once(&self, slot: SlotName) -> Result<(), LoaderError>;

    /// `slot` works: it is the default from now on.
    fn mark_good(&self, slot: SlotName) -> Result<(), LoaderError>;

    /// `slot` does not work: it is not started any more. Refused like [`mark_unbootable`](Self::mark_unbootable).
    fn mark_bad(&self, slot: SlotName) -> Result<(), LoaderError>;
}

/// Why the boot loader's variables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// Its file is not there, or holds something else.
    #[error("{path} is not the boot loader's: {detail}", path = path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Reading failed.
    #[error("the boot loader's variables could not be read from {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Writing failed.
    #[error("the boot loader's variables could not be written to {path}: {detail}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// What was read back is not what was written.
    #[error("{path} does not read back as written: {detail}; the medium may be failing", path = path.display())]
    ReadBack {
        /// The file.
        path: PathBuf,
        /// The difference.
        detail: String,
    },
}

impl LoaderError {
    /// The coarse reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unknown { .. } | Self::Read { .. } => Reason::BootLoaderUnknown,
            Self::Write { .. } | Self::ReadBack { .. } => Reason::BootSwitchFailed,
        }
    }
}
