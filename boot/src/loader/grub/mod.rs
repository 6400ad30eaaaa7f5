//! GNU GRUB: variables in its environment block, read at boot by the shipped `grub.cfg`.
//!
//! `grub.cfg` in this folder is what an integrator installs; `grubenv`, beside it on the disk, must be on a file
//! system to which GRUB can write: FAT, or ext4 on a plain partition (not on LVM, RAID, btrfs or ZFS).

use std::path::PathBuf;

use super::{BootLoader, BootState, LoaderError, LoaderKind, change};
use crate::slot::SlotName;

mod block;
pub mod envblock;
pub mod model;
pub mod variables;

/// The shipped `grub.cfg`.
pub const CONFIG: &str = include_str!("grub.cfg");

/// GRUB with the shipped `grub.cfg`, and the file with its environment block.
#[derive(Clone, Debug)]
pub struct Grub {
    grubenv: PathBuf,
}

impl Grub {
    /// The environment block is in `grubenv` (a regular file of exactly 1024 bytes).
    pub fn new(grubenv: impl Into<PathBuf>) -> Self {
        Self {
            grubenv: grubenv.into(),
        }
    }

    fn change(
        &self,
        to: impl FnOnce(BootState) -> Result<BootState, change::NothingLeft>,
    ) -> Result<(), LoaderError> {
        block::update(&self.grubenv, |env| {
            let to = to(variables::state(env)).map_err(|e| e.to_string())?;
            variables::apply(env, to).map_err(|e| e.to_string())
        })
    }
}

impl BootLoader for Grub {
    fn kind(&self) -> LoaderKind {
        LoaderKind::Grub
    }

    fn state(&self) -> Result<BootState, LoaderError> {
        block::read(&self.grubenv).map(|env| variables::state(&env))
    }

    fn mark_unbootable(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| change::never(state, slot))
    }

    fn try_once(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| change::once(state, slot))
    }

    fn mark_good(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| Ok(change::always(state, slot)))
    }

    fn mark_bad(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| change::never(state, slot))
    }
}
