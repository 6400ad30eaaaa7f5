//! The machine as it is observed: a real one, or a virtual node's folder.

use std::path::Path;

use crate::inspect::{InspectError, OsRelease};
use crate::persist::NotPersistent;
use crate::slot::{Machine, SlotError, SlotName};
use crate::target::Target;

mod machine;
mod sandbox;

pub use machine::RealMachine;
pub use sandbox::{MachineFile, VirtualNode};

/// One machine, observed. Nothing is cached: every call looks again.
///
/// Every method may block on a disk.
pub trait Host: Send + Sync + std::fmt::Debug {
    /// Both slots and which one runs.
    fn identify(&self) -> Result<Machine, SlotError>;

    /// The kernel's random identifier of this boot; known even when the slots are not.
    fn boot_id(&self) -> Result<String, SlotError>;

    /// The running system's os-release; known even when the slots are not.
    fn running_os(&self) -> Result<OsRelease, InspectError>;

    /// Opens `slot` for overwriting, exclusively, after every check that it is the right partition and that nothing
    /// uses it. `state_dir` is the folder whose file system must not be overwritten either.
    ///
    /// On every error nothing has been written.
    fn open_target(&self, slot: SlotName, state_dir: &Path) -> Result<Target, SlotError>;

    /// Whether `dir` is on storage that survives a reboot and that both slots share.
    fn check_persistent(&self, dir: &Path) -> Result<(), NotPersistent>;
}
