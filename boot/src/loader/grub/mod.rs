//! GNU GRUB: variables in its environment block, read at boot by the shipped `grub.cfg`.

use std::path::PathBuf;

use super::{BootLoader, BootState, LoaderError, LoaderKind};
use crate::slot::SlotName;

pub mod envblock;
pub mod model;

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
}

impl BootLoader for Grub {
    fn kind(&self) -> LoaderKind {
        LoaderKind::Grub
    }
    fn state(&self) -> Result<BootState, LoaderError> {
        Err(LoaderError::Unknown {
            path: self.grubenv.clone(),
            detail: String::new(),
        })
    }
    fn mark_unbootable(&self, _slot: SlotName) -> Result<(), LoaderError> {
        self.state().map(drop)
    }
    fn try_once(&self, _slot: SlotName) -> Result<(), LoaderError> {
        self.state().map(drop)
    }
    fn mark_good(&self, _slot: SlotName) -> Result<(), LoaderError> {
        self.state().map(drop)
    }
    fn mark_bad(&self, _slot: SlotName) -> Result<(), LoaderError> {
        self.state().map(drop)
    }
}
