//! The closed set of reasons for which this crate refuses or fails.

/// Why something of this crate failed, coarse enough for a program to act on.
///
/// Each error type of this crate has a `reason()`; the error's message carries the facts. The names are those of
/// the published failure reasons where one exists, so that mapping them is a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No partition answers to a configured slot's address, or the kernel offers no device for it.
    SlotNotFound,
    /// It cannot be said with certainty which partition a slot is, or which slot runs.
    SlotAmbiguous,
    /// The device is one that must never be overwritten: the running root, the data partition, the EFI system
    /// partition, or a whole disk.
    SlotActive,
    /// The device is in use: mounted somewhere, swap, held by another device, or opened exclusively.
    SlotBusy,
    /// The device, or the medium behind it, refuses writes.
    SlotReadOnly,
    /// The slot could not be read back from its medium.
    SlotUnreadable,
    /// The state folder is not on storage that survives a reboot and that both slots share.
    StateNotPersistent,
    /// What the slot holds is no file system that could be a root.
    NotAnImage,
    /// The slot's file system carries another version than asked for, or none.
    WrongVersionInImage,
    /// A file without which the slot cannot start is missing in it.
    BootFilesMissing,
    /// No supported boot loader could be recognised, or its variables cannot be understood.
    BootLoaderUnknown,
    /// The boot loader's variables could not be changed, or did not read back as written.
    BootSwitchFailed,
    /// The machine could not be made to reboot.
    RebootFailed,
}

impl Reason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::SlotNotFound,
        Self::SlotAmbiguous,
        Self::SlotActive,
        Self::SlotBusy,
        Self::SlotReadOnly,
        Self::SlotUnreadable,
        Self::StateNotPersistent,
        Self::NotAnImage,
        Self::WrongVersionInImage,
        Self::BootFilesMissing,
        Self::BootLoaderUnknown,
        Self::BootSwitchFailed,
        Self::RebootFailed,
    ];
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}
