//! GNU GRUB: variables in its environment block, read at boot by the shipped `grub.cfg`.
//!
//! `grub.cfg` in this folder is what an integrator installs; `grubenv`, beside it on the disk, must be on a file
//! system to which GRUB can write: FAT, or ext4 on a plain partition (not on LVM, RAID, btrfs or ZFS).

use std::path::PathBuf;

use super::{BootLoader, BootState, LoaderError, LoaderKind, change};
use crate::host::RealMachine;
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
    /// The machine in whose slots it must not be.
    machine: Option<RealMachine>,
}

impl Grub {
    /// The environment block is in `grubenv` (a regular file of exactly 1024 bytes), and that is GRUB's, wherever it
    /// lies: a virtual node's, whose disk is a folder.
    pub fn new(grubenv: impl Into<PathBuf>) -> Self {
        Self {
            grubenv: grubenv.into(),
            machine: None,
        }
    }

    /// The environment block of `machine`, which is neither read nor written while `grubenv` lies in one of its slots
    /// or on its running root. There GRUB, which reads one block whatever slot it starts, has none: it is what an
    /// image brings along, seen because the boot partition is not mounted. A slot that is marked in it would still
    /// be started half-written, and one that is confirmed in it would be gone with the next boot.
    pub fn of(machine: &RealMachine, grubenv: impl Into<PathBuf>) -> Self {
        Self {
            grubenv: grubenv.into(),
            machine: Some(machine.clone()),
        }
    }

    /// That it lies where GRUB reads it whatever slot runs.
    fn locate(&self) -> Result<(), LoaderError> {
        let Some(machine) = &self.machine else {
            return Ok(());
        };
        machine
            .outside_slots(&self.grubenv)
            .map_err(|detail| LoaderError::Unknown {
                path: self.grubenv.clone(),
                detail,
            })
    }

    fn change(
        &self,
        to: impl FnOnce(BootState) -> Result<BootState, change::NothingLeft>,
    ) -> Result<(), LoaderError> {
        self.locate()?;
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
        self.locate()?;
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
