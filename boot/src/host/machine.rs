//! The real machine.

use std::path::Path;

use super::Host;
use crate::inspect::{InspectError, OsRelease};
use crate::persist::NotPersistent;
use crate::roots::Roots;
use crate::slot::{Machine, SlotAddress, SlotError, SlotName};
use crate::target::Target;

/// The machine this process runs on (or in a pod of).
#[derive(Clone, Debug)]
pub struct RealMachine {
    roots: Roots,
    a: SlotAddress,
    b: SlotAddress,
}

impl RealMachine {
    /// A machine whose slots are at these addresses.
    pub fn new(roots: Roots, a: SlotAddress, b: SlotAddress) -> Self {
        Self { roots, a, b }
    }
}

impl Host for RealMachine {
    fn identify(&self) -> Result<Machine, SlotError> {
        Err(SlotError::Ambiguous(format!(
            "{} {} {:?}",
            self.a, self.b, self.roots
        )))
    }
    fn boot_id(&self) -> Result<String, SlotError> {
        Err(SlotError::Ambiguous(String::new()))
    }
    fn running_os(&self) -> Result<OsRelease, InspectError> {
        Err(InspectError::NoOsRelease)
    }
    fn open_target(&self, _slot: SlotName, _state_dir: &Path) -> Result<Target, SlotError> {
        Err(SlotError::Ambiguous(String::new()))
    }
    fn check_persistent(&self, _dir: &Path) -> Result<(), NotPersistent> {
        Ok(())
    }
}
