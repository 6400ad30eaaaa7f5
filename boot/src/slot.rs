//! What a slot is: its name, where it is found, and what is known of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use uuid::Uuid;

use crate::Reason;

/// The name of one of a machine's two root partitions.
///
/// There are exactly two, and neither is special: which one runs is a fact observed at each boot, never a property
/// of the name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum SlotName {
    /// The first slot.
    A,
    /// The second slot.
    B,
}

impl SlotName {
    /// Both names, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other slot: what is installed to when this one runs, and fallen back to when this one is on trial.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `A` or `B`, as boot variables and the kernel command line spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not the name of a slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a slot: write A or B")]
pub struct NotASlotName(pub String);

impl FromStr for SlotName {
    type Err = NotASlotName;

    /// Exactly `A` or `B`: the boot loader compares these as text, so other spellings are refused, not repaired.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "A" => Ok(Self::A),
            "B" => Ok(Self::B),
            _ => Err(NotASlotName(s.to_owned())),
        }
    }
}

/// How a slot's partition is found on the machine.
///
/// Only what the partition table says: a file system's label or UUID is no address, because two slots written from
/// one image share both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SlotAddress {
    /// The GPT partition name, `PARTLABEL=…` (UEFI specification 2.10, 5.3.3, "Partition Name": at most 36 UTF-16
    /// code units).
    PartLabel(String),
    /// The GPT unique partition GUID, `PARTUUID=…`.
    PartUuid(Uuid),
    /// The device node's absolute path. Which disk a name such as `/dev/sda2` belongs to may change from boot to
    /// boot: for machines whose disks cannot change places, and for the files of a virtual node.
    Path(PathBuf),
}

/// A text is not a slot's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASlotAddress {
    /// `UUID=` or `LABEL=`.
    #[error(
        "{0}: a file system's label or UUID cannot name a slot, two slots written from one image share it; write PARTLABEL= or PARTUUID="
    )]
    FileSystem(String),
    /// A udev link.
    #[error(
        "{0}: links below /dev/disk come from a cache that may be stale; write PARTLABEL= or PARTUUID="
    )]
    UdevLink(String),
    /// Not a GUID.
    #[error("PARTUUID={0} is not a GPT partition GUID (8-4-4-4-12 hexadecimal digits)")]
    Uuid(String),
    /// Empty or too long.
    #[error("PARTLABEL={0} is not a GPT partition name: 1 to 36 UTF-16 code units")]
    Label(String),
    /// Nothing of the above.
    #[error("{0:?} is not a slot's address: write PARTLABEL=…, PARTUUID=… or an absolute path")]
    Unknown(String),
}

impl FromStr for SlotAddress {
    type Err = NotASlotAddress;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some(label) = s.strip_prefix("PARTLABEL=") {
            let units = label.encode_utf16().count();
            if units == 0 || units > 36 || label.contains('\0') {
                return Err(NotASlotAddress::Label(label.to_owned()));
            }
            return Ok(Self::PartLabel(label.to_owned()));
        }
        if let Some(text) = s.strip_prefix("PARTUUID=") {
            // The crate also takes braces and URNs; the kernel takes the plain form alone.
            return match Uuid::try_parse(text) {
                Ok(uuid) if text.len() == 36 && !uuid.is_nil() => Ok(Self::PartUuid(uuid)),
                _ => Err(NotASlotAddress::Uuid(text.to_owned())),
            };
        }
        if s.starts_with("UUID=") || s.starts_with("LABEL=") {
            return Err(NotASlotAddress::FileSystem(s.to_owned()));
        }
        let path = Path::new(s);
        if path.starts_with("/dev/disk") {
            return Err(NotASlotAddress::UdevLink(s.to_owned()));
        }
        if path.is_absolute() && !s.contains('\0') {
            return Ok(Self::Path(path.to_path_buf()));
        }
        Err(NotASlotAddress::Unknown(s.to_owned()))
    }
}

impl fmt::Display for SlotAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartLabel(label) => write!(f, "PARTLABEL={label}"),
            Self::PartUuid(uuid) => write!(f, "PARTUUID={uuid}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One root partition, as found when the machine was looked at.
///
/// Invariants of a value made by a [`Host`](crate::Host):
/// - `device` existed and was this partition at that moment; a later use looks again ([`open_target`]) instead of
///   trusting it, because device names move when disks come and go.
/// - `part_uuid` is what the disk's partition table said at that moment, read from the disk and not from a cache.
///   It is `None` only for a virtual node's slot that is a file.
/// - `size` is the whole partition in bytes and never zero.
///
/// [`open_target`]: crate::Host::open_target
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which of the two it is.
    pub name: SlotName,
    /// Path of its device node (or of the file that stands for it), as this process reaches it.
    pub device: PathBuf,
    /// The GPT unique partition GUID.
    pub part_uuid: Option<Uuid>,
    /// Size in bytes.
    pub size: u64,
}

/// A machine's slots and which of them runs, as observed at one moment.
///
/// Invariants: the two slots are different partitions; `active` is where the root of the machine's first process
/// comes from and agrees with what the boot loader passed to the kernel. A machine of which that cannot be said has
/// no `Machine`, but a [`SlotError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The slot that runs.
    pub active: SlotName,
    /// Slot `A`.
    pub a: Slot,
    /// Slot `B`.
    pub b: Slot,
    /// The kernel's random identifier of this boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Whether the boot loader said that this boot is a trial (`monok8s.trial=1` on the kernel command line) or that it is
    /// none (`monok8s.trial=0`): then the running slot was started as the default, as the fallback for a default that
    /// could not be started, or by a person. `None` when it said neither.
    pub trial: Option<bool>,
}

impl Machine {
    /// The slot called `name`.
    pub fn slot(&self, name: SlotName) -> &Slot {
        match name {
            SlotName::A => &self.a,
            SlotName::B => &self.b,
        }
    }

    /// The slot that runs.
    pub fn active(&self) -> &Slot {
        self.slot(self.active)
    }

    /// The slot that does not run: what an upgrade writes to.
    pub fn inactive(&self) -> &Slot {
        self.slot(self.active.other())
    }
}

/// Why a slot could not be told, or must not be written to. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// No partition answers to the address.
    #[error(
        "slot {slot}: no partition is {address} ({searched}); check the agent's slot addresses and the disk's partition table"
    )]
    NotFound {
        /// The slot.
        slot: SlotName,
        /// Its configured address.
        address: SlotAddress,
        /// Where it was looked for.
        searched: String,
    },
    /// It cannot be said for certain which partition is meant or which slot runs.
    #[error("{0}")]
    Ambiguous(String),
    /// The device must never be written to.
    #[error("slot {slot}: {device} is {what}; it is never written to: check the agent's slot addresses", device = device.display())]
    Protected {
        /// The slot.
        slot: SlotName,
        /// The device it resolved to.
        device: PathBuf,
        /// What the device is: `the running root`, `the EFI system partition`, …
        what: String,
    },
    /// The device is in use.
    #[error("slot {slot}: {device} is in use: {by}; free it and try again", device = device.display())]
    Busy {
        /// The slot.
        slot: SlotName,
        /// The device.
        device: PathBuf,
        /// By what: mount point and process, swap, holder.
        by: String,
    },
    /// The device refuses writes.
    #[error("slot {slot}: {device} cannot be written to: {why}", device = device.display())]
    ReadOnly {
        /// The slot.
        slot: SlotName,
        /// The device.
        device: PathBuf,
        /// What says so.
        why: String,
    },
    /// Something that must be read to be certain could not be read.
    #[error("{what} could not be read ({path}): {source}", path = path.display())]
    Unreadable {
        /// What was looked for.
        what: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl SlotError {
    /// The coarse reason. What could not be read leaves the machine unclear, hence [`Reason::SlotAmbiguous`].
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } => Reason::SlotNotFound,
            Self::Ambiguous(_) | Self::Unreadable { .. } => Reason::SlotAmbiguous,
            Self::Protected { .. } => Reason::SlotActive,
            Self::Busy { .. } => Reason::SlotBusy,
            Self::ReadOnly { .. } => Reason::SlotReadOnly,
        }
    }
}
