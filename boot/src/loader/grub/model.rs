//! What the shipped `grub.cfg` does with the environment block, as a function.

use std::path::Path;

use super::LoaderError;
use crate::slot::SlotName;

/// What GRUB starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The slot.
    pub slot: SlotName,
    /// Whether this boot is a trial.
    pub trial: bool,
}

/// Plays GRUB on the environment block in the file `grubenv`: chooses a slot and, for a trial, clears the trial on
/// disk first. `None`: no slot may be started, GRUB stops at its menu.
pub fn power_on(_grubenv: &Path) -> Result<Option<Start>, LoaderError> {
    Ok(None)
}

/// Writes a new environment block that starts `default`, as an installer does.
pub fn install(_grubenv: &Path, _default: SlotName) -> Result<(), LoaderError> {
    Ok(())
}
