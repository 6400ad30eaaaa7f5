//! Whether a folder is on storage that survives a reboot and that both slots share.

use std::path::PathBuf;

use crate::Reason;

/// Why a folder cannot hold the agent's record.
#[derive(Debug, thiserror::Error)]
#[error("{dir} cannot hold the record of an upgrade: {why}; put it on a writable file system of its own that both slots mount", dir = dir.display())]
pub struct NotPersistent {
    /// The folder.
    pub dir: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl NotPersistent {
    /// Always [`Reason::StateNotPersistent`].
    pub fn reason(&self) -> Reason {
        Reason::StateNotPersistent
    }
}
