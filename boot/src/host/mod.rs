//! The machine as it is observed: a real one, or a virtual node's folder.

use std::path::Path;

use crate::inspect::{InspectError, OsRelease};
use crate::persist::NotPersistent;
use crate::slot::{Machine, SlotError, SlotName};
use crate::target::Target;

mod locate;
mod machine;
mod running;
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

/// Reads a kernel's random boot identifier.
fn read_boot_id(path: &Path) -> Result<String, SlotError> {
    let unreadable = |source| SlotError::Unreadable {
        what: "this boot's identifier".to_owned(),
        path: path.to_path_buf(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let text = text.trim();
    if text.is_empty() || text.len() > 64 {
        return Err(unreadable(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "it holds no identifier",
        )));
    }
    Ok(text.to_owned())
}
